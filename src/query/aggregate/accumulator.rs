//! What is kept of the rows of one slot (a series in a window) to answer one function: one small type for each, so that the loop over
//! the rows is compiled for it. The functions [`across`] devices are made of the same types.
//!
//! Sums are compensated (Neumaier), so that neither the order of rows nor how they come in chunks shows in the answer.

use crate::model::Summary;
use crate::query::function::AcrossFunction;
use crate::rollup::{Compensated, Sketch, Statistics, energy, growth, squares_together};

/// Which rows a function looks at together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Each row alone, in any order.
    Alone,
    /// Each row with the one before it; what results belongs to the window of the later one.
    Pairs,
    /// Each row with the time for which its value held.
    Holds,
}

/// What is kept of one slot. A type implements the method of its [`Role`].
pub(super) trait Accumulator: Clone + Default {
    const ROLE: Role;
    /// Whether every row is kept, so that their number needs a limit.
    const KEEPS_ROWS: bool = false;

    /// Takes rows of columns of equal length.
    fn add(&mut self, _times: &[i64], _values: &[f64]) {}

    /// Takes a row's value, and that of the row before it.
    fn pair(&mut self, _before: f64, _value: f64) {}

    /// Takes a value and how long it held, in microseconds; zero when it was only seen.
    fn hold(&mut self, _value: f64, _micros: i64, _parameter: f64) {}

    /// Takes the rows of a rollup's bucket: for functions that have a [`crate::rollup::Statistic`].
    fn merge(&mut self, _rows: &Statistics) {}

    /// The function's value; `None` where it has none. `parameter` is the percentile's rank or the state's code.
    fn result(&mut self, count: u64, parameter: f64) -> Option<f64>;
}

/// The devices' results in one window put together; none where no device has one.
pub(super) fn across(function: AcrossFunction, summary: Summary, results: &[f64]) -> Option<f64> {
    fn of<A: Accumulator>(results: &[f64], parameter: f64) -> Option<f64> {
        let mut accumulator = A::default();
        accumulator.add(&[], results);
        accumulator.result(results.len() as u64, parameter)
    }
    if results.is_empty() {
        return None;
    }
    match (function, summary) {
        (AcrossFunction::Mean, Summary::Circular) => of::<CircularMean>(results, 0.0),
        (AcrossFunction::Mean, Summary::Energetic) => of::<EnergeticMean>(results, 0.0),
        (AcrossFunction::Mean, _) => of::<Mean>(results, 0.0),
        (AcrossFunction::Sum, Summary::Energetic) => of::<EnergeticSum>(results, 0.0),
        (AcrossFunction::Sum, _) => of::<Sum>(results, 0.0),
        (AcrossFunction::Min, _) => of::<Min>(results, 0.0),
        (AcrossFunction::Max, _) => of::<Max>(results, 0.0),
        (AcrossFunction::Count, _) => of::<Count>(results, 0.0),
        (AcrossFunction::Percentile(rank), _) => of::<Percentile>(results, rank),
    }
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// The level of an energy; none for no energy.
fn level(energy: f64) -> Option<f64> {
    finite(10.0 * energy.log10())
}

#[derive(Clone, Default)]
pub(super) struct Count;

impl Accumulator for Count {
    const ROLE: Role = Role::Alone;

    fn result(&mut self, count: u64, _parameter: f64) -> Option<f64> {
        Some(count as f64)
    }
}

#[derive(Clone, Default)]
pub(super) struct Sum(Compensated);

impl Accumulator for Sum {
    const ROLE: Role = Role::Alone;

    #[inline]
    fn add(&mut self, _times: &[i64], values: &[f64]) {
        self.0.add_each(values, |value| value);
    }

    #[inline]
    fn merge(&mut self, rows: &Statistics) {
        self.0.add(rows.sum);
    }

    fn result(&mut self, _count: u64, _parameter: f64) -> Option<f64> {
        finite(self.0.total())
    }
}

#[derive(Clone, Default)]
pub(super) struct Mean(Compensated);

impl Accumulator for Mean {
    const ROLE: Role = Role::Alone;

    #[inline]
    fn add(&mut self, _times: &[i64], values: &[f64]) {
        self.0.add_each(values, |value| value);
    }

    #[inline]
    fn merge(&mut self, rows: &Statistics) {
        self.0.add(rows.sum);
    }

    fn result(&mut self, count: u64, _parameter: f64) -> Option<f64> {
        finite(self.0.total() / count as f64)
    }
}

/// The direction of the sum of unit vectors, in degrees from 0 to below 360.
#[derive(Clone, Default)]
pub(super) struct CircularMean {
    sine: Compensated,
    cosine: Compensated,
}

impl CircularMean {
    /// A mean vector shorter than this has no direction: it is what rounding leaves of directions that cancel out.
    const LENGTH_MIN: f64 = 1e-9;
}

impl Accumulator for CircularMean {
    const ROLE: Role = Role::Alone;

    #[inline]
    fn add(&mut self, _times: &[i64], values: &[f64]) {
        for degrees in values {
            let (sine, cosine) = degrees.to_radians().sin_cos();
            self.sine.add(sine);
            self.cosine.add(cosine);
        }
    }

    #[inline]
    fn merge(&mut self, rows: &Statistics) {
        self.sine.add(rows.sine);
        self.cosine.add(rows.cosine);
    }

    fn result(&mut self, count: u64, _parameter: f64) -> Option<f64> {
        let (sine, cosine) = (self.sine.total(), self.cosine.total());
        if sine.hypot(cosine) < Self::LENGTH_MIN * count as f64 {
            return None;
        }
        finite(normal_degrees(sine.atan2(cosine).to_degrees()))
    }
}

/// The same direction from 0 to below 360 degrees.
pub(super) fn normal_degrees(degrees: f64) -> f64 {
    let turned = degrees.rem_euclid(360.0);
    // The remainder of a tiny negative angle rounds to the full turn.
    if turned < 360.0 { turned } else { 0.0 }
}

/// The level whose energy is the mean of energies (ISO 1996-1).
#[derive(Clone, Default)]
pub(super) struct EnergeticMean(Compensated);

impl Accumulator for EnergeticMean {
    const ROLE: Role = Role::Alone;

    #[inline]
    fn add(&mut self, _times: &[i64], values: &[f64]) {
        self.0.add_each(values, energy);
    }

    #[inline]
    fn merge(&mut self, rows: &Statistics) {
        self.0.add(rows.energy);
    }

    fn result(&mut self, count: u64, _parameter: f64) -> Option<f64> {
        level(self.0.total() / count as f64)
    }
}

/// The level of the energies together.
#[derive(Clone, Default)]
pub(super) struct EnergeticSum(Compensated);

impl Accumulator for EnergeticSum {
    const ROLE: Role = Role::Alone;

    #[inline]
    fn add(&mut self, _times: &[i64], values: &[f64]) {
        self.0.add_each(values, energy);
    }

    #[inline]
    fn merge(&mut self, rows: &Statistics) {
        self.0.add(rows.energy);
    }

    fn result(&mut self, _count: u64, _parameter: f64) -> Option<f64> {
        level(self.0.total())
    }
}

#[derive(Clone)]
pub(super) struct Min(f64);

impl Default for Min {
    fn default() -> Self {
        Self(f64::INFINITY)
    }
}

impl Accumulator for Min {
    const ROLE: Role = Role::Alone;

    #[inline]
    fn add(&mut self, _times: &[i64], values: &[f64]) {
        self.0 = values.iter().fold(self.0, |least, value| if *value < least { *value } else { least });
    }

    #[inline]
    fn merge(&mut self, rows: &Statistics) {
        self.0 = self.0.min(rows.min);
    }

    fn result(&mut self, _count: u64, _parameter: f64) -> Option<f64> {
        finite(self.0)
    }
}

#[derive(Clone)]
pub(super) struct Max(f64);

impl Default for Max {
    fn default() -> Self {
        Self(f64::NEG_INFINITY)
    }
}

impl Accumulator for Max {
    const ROLE: Role = Role::Alone;

    #[inline]
    fn add(&mut self, _times: &[i64], values: &[f64]) {
        self.0 = values.iter().fold(self.0, |most, value| if *value > most { *value } else { most });
    }

    #[inline]
    fn merge(&mut self, rows: &Statistics) {
        self.0 = self.0.max(rows.max);
    }

    fn result(&mut self, _count: u64, _parameter: f64) -> Option<f64> {
        finite(self.0)
    }
}

#[derive(Clone)]
pub(super) struct First {
    time: i64,
    value: f64,
}

impl Default for First {
    fn default() -> Self {
        Self { time: i64::MAX, value: f64::NAN }
    }
}

impl Accumulator for First {
    const ROLE: Role = Role::Alone;

    #[inline]
    fn add(&mut self, times: &[i64], values: &[f64]) {
        for (time, value) in times.iter().zip(values) {
            if *time < self.time {
                *self = Self { time: *time, value: *value };
            }
        }
    }

    #[inline]
    fn merge(&mut self, rows: &Statistics) {
        self.add(&[rows.first.time], &[rows.first.value]);
    }

    fn result(&mut self, _count: u64, _parameter: f64) -> Option<f64> {
        finite(self.value)
    }
}

#[derive(Clone)]
pub(super) struct Last {
    time: i64,
    value: f64,
}

impl Default for Last {
    fn default() -> Self {
        Self { time: i64::MIN, value: f64::NAN }
    }
}

impl Accumulator for Last {
    const ROLE: Role = Role::Alone;

    #[inline]
    fn add(&mut self, times: &[i64], values: &[f64]) {
        for (time, value) in times.iter().zip(values) {
            if *time > self.time {
                *self = Self { time: *time, value: *value };
            }
        }
    }

    #[inline]
    fn merge(&mut self, rows: &Statistics) {
        self.add(&[rows.last.time], &[rows.last.value]);
    }

    fn result(&mut self, _count: u64, _parameter: f64) -> Option<f64> {
        finite(self.value)
    }
}

/// Sample standard deviation. Each run of rows has its own mean and squares, which are then put together (Chan and others 1979): as
/// exact as Welford's recurrence, without a division for each row.
#[derive(Clone, Default)]
pub(super) struct Stddev {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Stddev {
    /// Adds rows by their mean and their squared distances from it.
    fn put(&mut self, count: f64, mean: f64, squares: f64) {
        self.squares = squares_together((self.count, self.mean, self.squares), (count, mean, squares));
        self.mean += (mean - self.mean) * (count / (self.count + count));
        self.count += count;
    }
}

impl Accumulator for Stddev {
    const ROLE: Role = Role::Alone;

    #[inline]
    fn add(&mut self, _times: &[i64], values: &[f64]) {
        if values.is_empty() {
            return;
        }
        let count = values.len() as f64;
        let mut sum = Compensated::default();
        sum.add_each(values, |value| value);
        let mean = sum.total() / count;
        let mut squares = Compensated::default();
        squares.add_each(values, |value| (value - mean) * (value - mean));
        self.put(count, mean, squares.total());
    }

    #[inline]
    fn merge(&mut self, rows: &Statistics) {
        let count = rows.count as f64;
        self.put(count, rows.sum / count, rows.squares);
    }

    fn result(&mut self, count: u64, _parameter: f64) -> Option<f64> {
        if count < 2 { None } else { finite((self.squares / (count - 1) as f64).sqrt()) }
    }
}

/// Linear interpolation between the closest ranks (Hyndman and Fan's R-7).
#[derive(Clone, Default)]
pub(super) struct Percentile(Vec<f64>);

impl Accumulator for Percentile {
    const ROLE: Role = Role::Alone;
    const KEEPS_ROWS: bool = true;

    #[inline]
    fn add(&mut self, _times: &[i64], values: &[f64]) {
        self.0.extend_from_slice(values);
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank lies between 0 and the length")]
    fn result(&mut self, _count: u64, parameter: f64) -> Option<f64> {
        let rank = self.0.len().checked_sub(1)? as f64 * (parameter.clamp(0.0, 100.0) / 100.0);
        let (_below, low, above) = self.0.select_nth_unstable_by(rank as usize, f64::total_cmp);
        let low = *low;
        let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
        finite(low + (high - low) * rank.fract())
    }
}

/// Percentiles within [`crate::rollup::RELATIVE_ERROR`], from sketches of days and from rows.
#[derive(Clone, Default)]
pub(super) struct SketchedPercentile(Option<Box<Sketch>>);

impl Accumulator for SketchedPercentile {
    const ROLE: Role = Role::Alone;

    #[inline]
    fn add(&mut self, _times: &[i64], values: &[f64]) {
        let sketch = self.0.get_or_insert_default();
        for value in values {
            sketch.add(*value);
        }
    }

    #[inline]
    fn merge(&mut self, rows: &Statistics) {
        if let Some(part) = &rows.sketch {
            self.0.get_or_insert_default().merge(part);
        }
    }

    fn result(&mut self, _count: u64, parameter: f64) -> Option<f64> {
        self.0.as_ref()?.percentile(parameter).and_then(finite)
    }
}

/// The growth of a counter. A fall is a reset, after which it counts from zero.
#[derive(Clone, Default)]
pub(super) struct Increase {
    sum: Compensated,
    is_known: bool,
}

impl Accumulator for Increase {
    const ROLE: Role = Role::Pairs;

    #[inline]
    fn pair(&mut self, before: f64, value: f64) {
        self.sum.add(growth(before, value));
        self.is_known = true;
    }

    #[inline]
    fn merge(&mut self, rows: &Statistics) {
        if rows.count > 1 {
            self.sum.add(rows.increase.unwrap_or(0.0));
            self.is_known = true;
        }
    }

    fn result(&mut self, _count: u64, _parameter: f64) -> Option<f64> {
        self.is_known.then(|| self.sum.total()).and_then(finite)
    }
}

/// How often the value changed.
#[derive(Clone, Default)]
pub(super) struct Changes {
    count: u32,
    is_known: bool,
}

impl Accumulator for Changes {
    const ROLE: Role = Role::Pairs;

    #[inline]
    #[expect(clippy::float_cmp, reason = "codes are whole numbers")]
    fn pair(&mut self, before: f64, value: f64) {
        self.count = self.count.saturating_add(u32::from(before != value));
        self.is_known = true;
    }

    fn result(&mut self, _count: u64, _parameter: f64) -> Option<f64> {
        self.is_known.then(|| f64::from(self.count))
    }
}

/// The mean over the time for which values held.
#[derive(Clone, Default)]
pub(super) struct TimeWeightedMean {
    sum: Compensated,
    micros: i64,
}

impl Accumulator for TimeWeightedMean {
    const ROLE: Role = Role::Holds;

    #[inline]
    fn hold(&mut self, value: f64, micros: i64, _parameter: f64) {
        self.sum.add(value * micros as f64);
        self.micros += micros;
    }

    fn result(&mut self, _count: u64, _parameter: f64) -> Option<f64> {
        if self.micros == 0 { None } else { finite(self.sum.total() / self.micros as f64) }
    }
}

/// The level whose energy is the mean over the time for which levels held.
#[derive(Clone, Default)]
pub(super) struct EnergeticTimeWeightedMean(TimeWeightedMean);

impl Accumulator for EnergeticTimeWeightedMean {
    const ROLE: Role = Role::Holds;

    #[inline]
    fn hold(&mut self, value: f64, micros: i64, parameter: f64) {
        self.0.hold(energy(value), micros, parameter);
    }

    fn result(&mut self, count: u64, parameter: f64) -> Option<f64> {
        self.0.result(count, parameter).and_then(level)
    }
}

/// Seconds in one state; none where no state at all is known.
#[derive(Clone, Default)]
pub(super) struct TimeInState {
    inside: i64,
    known: i64,
}

impl Accumulator for TimeInState {
    const ROLE: Role = Role::Holds;

    #[inline]
    #[expect(clippy::float_cmp, reason = "codes are whole numbers")]
    fn hold(&mut self, value: f64, micros: i64, parameter: f64) {
        self.known += micros;
        self.inside += if value == parameter { micros } else { 0 };
    }

    fn result(&mut self, _count: u64, _parameter: f64) -> Option<f64> {
        (self.known > 0).then(|| self.inside as f64 / 1e6)
    }
}

/// The state that held longest, of equals the one with the smallest code.
#[derive(Clone, Default)]
pub(super) struct Mode(Vec<(f64, i64)>);

impl Accumulator for Mode {
    const ROLE: Role = Role::Holds;

    #[inline]
    #[expect(clippy::float_cmp, reason = "codes are whole numbers")]
    fn hold(&mut self, value: f64, micros: i64, _parameter: f64) {
        // The catalogue lists a handful of states.
        match self.0.iter_mut().find(|(code, _held)| *code == value) {
            Some((_code, held)) => *held += micros,
            None => self.0.push((value, micros)),
        }
    }

    fn result(&mut self, _count: u64, _parameter: f64) -> Option<f64> {
        let longest = self.0.iter().max_by(|(code, held), (other, than)| held.cmp(than).then(other.total_cmp(code)));
        longest.map(|(code, _held)| *code)
    }
}
