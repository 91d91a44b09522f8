//! What one cell (device and window) gathers, one small type for each function.

use super::Plan;
use crate::model::Summary;
use crate::query::function::{AcrossFunction, TimeFunction};

/// A cell that takes rows in any order.
pub(super) trait Accumulate: Default {
    fn add(&mut self, time: i64, value: f64, flags: u16);
    /// Rows, their flags together, and the result.
    fn result(&self, function: TimeFunction) -> (u64, u16, Option<f64>);
}

/// A sum that does not lose small parts: Neumaier's variant of Kahan's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    sum: f64,
    lost: f64,
}

impl Sum {
    #[inline]
    pub(super) fn add(&mut self, value: f64) {
        let sum = self.sum + value;
        self.lost += if self.sum.abs() >= value.abs() { (self.sum - sum) + value } else { (value - sum) + self.sum };
        self.sum = sum;
    }

    pub(super) fn total(self) -> f64 {
        self.sum + self.lost
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    rows: u32,
    flags: u16,
}

impl Seen {
    #[inline]
    fn add(&mut self, flags: u16) {
        self.rows += 1;
        self.flags |= flags;
    }

    fn with(self, result: f64) -> (u64, u16, Option<f64>) {
        (u64::from(self.rows), self.flags, (self.rows > 0).then_some(result))
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CountCell(Seen);

impl Accumulate for CountCell {
    #[inline]
    fn add(&mut self, _time: i64, _value: f64, flags: u16) {
        self.0.add(flags);
    }

    fn result(&self, _function: TimeFunction) -> (u64, u16, Option<f64>) {
        self.0.with(f64::from(self.0.rows))
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SumCell(Seen, Sum);

impl Accumulate for SumCell {
    #[inline]
    fn add(&mut self, _time: i64, value: f64, flags: u16) {
        self.0.add(flags);
        self.1.add(value);
    }

    fn result(&self, _function: TimeFunction) -> (u64, u16, Option<f64>) {
        self.0.with(self.1.total())
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MeanCell(Seen, Sum);

impl Accumulate for MeanCell {
    #[inline]
    fn add(&mut self, _time: i64, value: f64, flags: u16) {
        self.0.add(flags);
        self.1.add(value);
    }

    fn result(&self, _function: TimeFunction) -> (u64, u16, Option<f64>) {
        self.0.with(self.1.total() / f64::from(self.0.rows))
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct MinCell(Seen, f64);

impl Default for MinCell {
    fn default() -> Self {
        Self(Seen::default(), f64::INFINITY)
    }
}

impl Accumulate for MinCell {
    #[inline]
    fn add(&mut self, _time: i64, value: f64, flags: u16) {
        self.0.add(flags);
        self.1 = self.1.min(value);
    }

    fn result(&self, _function: TimeFunction) -> (u64, u16, Option<f64>) {
        self.0.with(self.1)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct MaxCell(Seen, f64);

impl Default for MaxCell {
    fn default() -> Self {
        Self(Seen::default(), f64::NEG_INFINITY)
    }
}

impl Accumulate for MaxCell {
    #[inline]
    fn add(&mut self, _time: i64, value: f64, flags: u16) {
        self.0.add(flags);
        self.1 = self.1.max(value);
    }

    fn result(&self, _function: TimeFunction) -> (u64, u16, Option<f64>) {
        self.0.with(self.1)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct FirstCell(Seen, i64, f64);

impl Default for FirstCell {
    fn default() -> Self {
        Self(Seen::default(), i64::MAX, 0.0)
    }
}

impl Accumulate for FirstCell {
    #[inline]
    fn add(&mut self, time: i64, value: f64, flags: u16) {
        self.0.add(flags);
        if time < self.1 {
            (self.1, self.2) = (time, value);
        }
    }

    fn result(&self, _function: TimeFunction) -> (u64, u16, Option<f64>) {
        self.0.with(self.2)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct LastCell(Seen, i64, f64);

impl Default for LastCell {
    fn default() -> Self {
        Self(Seen::default(), i64::MIN, 0.0)
    }
}

impl Accumulate for LastCell {
    #[inline]
    fn add(&mut self, time: i64, value: f64, flags: u16) {
        self.0.add(flags);
        if time > self.1 {
            (self.1, self.2) = (time, value);
        }
    }

    fn result(&self, _function: TimeFunction) -> (u64, u16, Option<f64>) {
        self.0.with(self.2)
    }
}

/// Welford's running variance.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct VarianceCell(Seen, f64, f64);

impl Accumulate for VarianceCell {
    #[inline]
    fn add(&mut self, _time: i64, value: f64, flags: u16) {
        self.0.add(flags);
        let delta = value - self.1;
        self.1 += delta / f64::from(self.0.rows);
        self.2 += delta * (value - self.1);
    }

    fn result(&self, _function: TimeFunction) -> (u64, u16, Option<f64>) {
        let rows = self.0.rows;
        (u64::from(rows), self.0.flags, (rows > 1).then(|| (self.2 / f64::from(rows - 1)).sqrt()))
    }
}

/// Mean of directions in degrees: that of unit vectors (Mardia and Jupp, Directional Statistics, 2.2).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CircularCell(Seen, Sum, Sum);

impl Accumulate for CircularCell {
    #[inline]
    fn add(&mut self, _time: i64, value: f64, flags: u16) {
        self.0.add(flags);
        let (sine, cosine) = value.to_radians().sin_cos();
        self.1.add(sine);
        self.2.add(cosine);
    }

    fn result(&self, _function: TimeFunction) -> (u64, u16, Option<f64>) {
        let direction = direction(self.1.total(), self.2.total(), f64::from(self.0.rows));
        (u64::from(self.0.rows), self.0.flags, direction)
    }
}

/// The direction of a resultant vector in [0, 360) degrees; none where opposite directions cancel out.
fn direction(sine: f64, cosine: f64, count: f64) -> Option<f64> {
    const LENGTH_MIN: f64 = 1e-9;
    if count <= 0.0 || sine.hypot(cosine) / count < LENGTH_MIN {
        return None;
    }
    let degrees = sine.atan2(cosine).to_degrees().rem_euclid(360.0);
    Some(if degrees >= 360.0 { 0.0 } else { degrees })
}

/// Equivalent continuous level of levels in decibel (ISO 1996-1, 3.1.6).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EnergeticCell(Seen, Sum);

impl Accumulate for EnergeticCell {
    #[inline]
    fn add(&mut self, _time: i64, value: f64, flags: u16) {
        self.0.add(flags);
        self.1.add(10.0_f64.powf(value / 10.0));
    }

    fn result(&self, _function: TimeFunction) -> (u64, u16, Option<f64>) {
        self.0.with(10.0 * (self.1.total() / f64::from(self.0.rows)).log10())
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct ValuesCell(u16, Vec<f64>);

impl Accumulate for ValuesCell {
    fn add(&mut self, _time: i64, value: f64, flags: u16) {
        self.0 |= flags;
        self.1.push(value);
    }

    fn result(&self, function: TimeFunction) -> (u64, u16, Option<f64>) {
        let TimeFunction::Percentile(rank) = function else { return (0, 0, None) };
        (self.1.len() as u64, self.0, percentile(&mut self.1.clone(), rank))
    }
}

/// A percentile by linear interpolation between closest ranks (R-7, numpy's default).
pub(super) fn percentile(values: &mut [f64], rank: f64) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let position = rank / 100.0 * last as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a position among the values")]
    let below = (position.floor() as usize).min(last);
    let (low, high) = (values.get(below)?, values.get((below + 1).min(last))?);
    Some((high - low).mul_add(position - position.floor(), *low))
}

/// A reading that holds until the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) time: i64,
    pub(super) value: f64,
}

/// What grows or holds in a cell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AmountCell {
    seen: Seen,
    amount: Sum,
    seconds: f64,
    touched: bool,
}

/// Seconds by state.
#[derive(Clone, Debug, Default)]
pub(super) struct StatesCell {
    seen: Seen,
    seconds: Vec<(i64, f64)>,
}

/// All cells of one question: by slot, then window.
#[derive(Debug, Default)]
pub(super) enum Accumulators {
    #[default]
    None,
    Count(Vec<Vec<CountCell>>),
    Sum(Vec<Vec<SumCell>>),
    Mean(Vec<Vec<MeanCell>>),
    Min(Vec<Vec<MinCell>>),
    Max(Vec<Vec<MaxCell>>),
    First(Vec<Vec<FirstCell>>),
    Last(Vec<Vec<LastCell>>),
    Variance(Vec<Vec<VarianceCell>>),
    Circular(Vec<Vec<CircularCell>>),
    Energetic(Vec<Vec<EnergeticCell>>),
    Values(Vec<Vec<ValuesCell>>),
    Amount(Vec<Vec<AmountCell>>),
    States(Vec<Vec<StatesCell>>),
}

impl Accumulators {
    pub(super) fn new(function: TimeFunction, summary: Summary) -> Self {
        match (function, summary) {
            (TimeFunction::Count, _) => Self::Count(Vec::new()),
            (TimeFunction::Sum, _) => Self::Sum(Vec::new()),
            (TimeFunction::Mean, Summary::Circular) => Self::Circular(Vec::new()),
            (TimeFunction::Mean, Summary::Energetic) => Self::Energetic(Vec::new()),
            (TimeFunction::Mean, _) => Self::Mean(Vec::new()),
            (TimeFunction::Min, _) => Self::Min(Vec::new()),
            (TimeFunction::Max, _) => Self::Max(Vec::new()),
            (TimeFunction::First, _) => Self::First(Vec::new()),
            (TimeFunction::Last, _) => Self::Last(Vec::new()),
            (TimeFunction::Stddev, _) => Self::Variance(Vec::new()),
            (TimeFunction::Percentile(_), _) => Self::Values(Vec::new()),
            (TimeFunction::Increase | TimeFunction::TimeWeightedMean | TimeFunction::Changes | TimeFunction::Duration(_), _) => {
                Self::Amount(Vec::new())
            }
            (TimeFunction::Mode, _) => Self::States(Vec::new()),
        }
    }

    /// Takes a row of a device after the one `before` it; for functions that need order.
    pub(super) fn advance(&mut self, plan: &Plan, slot: usize, before: Option<Held>, row: Held, flags: u16, hold_s: f64) {
        if let Some(before) = before {
            self.hold(plan, slot, before, row.time, hold_s);
        }
        let Some(window) = plan.windows.find(row.time, 0) else { return };
        let windows = plan.windows.len();
        match self {
            Self::Amount(cells) => {
                let Some(cell) = cell(cells, slot, window, windows) else { return };
                cell.seen.add(flags);
                match (plan.time, before) {
                    (TimeFunction::Increase, Some(before)) => {
                        let grown = if row.value >= before.value { row.value - before.value } else { row.value };
                        cell.amount.add(grown);
                        cell.touched = true;
                    }
                    (TimeFunction::Changes, Some(before)) => {
                        cell.amount.add(if before.value.to_bits() == row.value.to_bits() { 0.0 } else { 1.0 });
                        cell.touched = true;
                    }
                    (TimeFunction::Changes, None) => cell.touched = true,
                    _ => {}
                }
            }
            Self::States(cells) => {
                if let Some(cell) = cell(cells, slot, window, windows) {
                    cell.seen.add(flags);
                }
            }
            _ => {}
        }
    }

    /// A value held from its time to `until`, or as long as it may: every window gets its share.
    pub(super) fn hold(&mut self, plan: &Plan, slot: usize, held: Held, until: i64, hold_s: f64) {
        if !matches!(plan.time, TimeFunction::TimeWeightedMean | TimeFunction::Duration(_) | TimeFunction::Mode) {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "some intervals in microseconds")]
        let longest = held.time.saturating_add((hold_s * 1e6) as i64);
        let (windows_start, windows_end) = (plan.windows.start().micros(), plan.windows.end().micros());
        let end = until.min(longest).min(windows_end);
        let mut from = held.time.max(windows_start);
        while from < end {
            let Some(window) = plan.windows.find(from, 0) else { break };
            let to = plan.windows.bounds(window).1.micros().min(end);
            self.add_seconds(plan, slot, window, held.value, (to - from) as f64 / 1e6);
            from = to;
        }
    }

    fn add_seconds(&mut self, plan: &Plan, slot: usize, window: usize, value: f64, seconds: f64) {
        let windows = plan.windows.len();
        match self {
            Self::Amount(cells) => {
                let Some(cell) = cell(cells, slot, window, windows) else { return };
                match plan.time {
                    TimeFunction::TimeWeightedMean => cell.amount.add(value * seconds),
                    TimeFunction::Duration(code) if value == f64::from(code) => cell.amount.add(seconds),
                    _ => {}
                }
                cell.seconds += seconds;
                cell.touched = true;
            }
            Self::States(cells) => {
                let Some(cell) = cell(cells, slot, window, windows) else { return };
                #[expect(clippy::cast_possible_truncation, reason = "states are small whole numbers")]
                let code = value as i64;
                match cell.seconds.iter_mut().find(|(known, _seconds)| *known == code) {
                    Some((_code, sum)) => *sum += seconds,
                    None => cell.seconds.push((code, seconds)),
                }
            }
            _ => {}
        }
    }

    /// Rows, flags and result of a cell; none where nothing was ever put.
    pub(super) fn result(&self, function: TimeFunction, slot: usize, window: usize) -> Option<(u64, u16, Option<f64>)> {
        fn at<A>(cells: &[Vec<A>], slot: usize, window: usize) -> Option<&A> {
            cells.get(slot)?.get(window)
        }
        Some(match self {
            Self::None => return None,
            Self::Count(cells) => at(cells, slot, window)?.result(function),
            Self::Sum(cells) => at(cells, slot, window)?.result(function),
            Self::Mean(cells) => at(cells, slot, window)?.result(function),
            Self::Min(cells) => at(cells, slot, window)?.result(function),
            Self::Max(cells) => at(cells, slot, window)?.result(function),
            Self::First(cells) => at(cells, slot, window)?.result(function),
            Self::Last(cells) => at(cells, slot, window)?.result(function),
            Self::Variance(cells) => at(cells, slot, window)?.result(function),
            Self::Circular(cells) => at(cells, slot, window)?.result(function),
            Self::Energetic(cells) => at(cells, slot, window)?.result(function),
            Self::Values(cells) => at(cells, slot, window)?.result(function),
            Self::Amount(cells) => {
                let cell = at(cells, slot, window)?;
                let result = match function {
                    TimeFunction::TimeWeightedMean => (cell.seconds > 0.0).then(|| cell.amount.total() / cell.seconds),
                    _ => cell.touched.then(|| cell.amount.total()),
                };
                (u64::from(cell.seen.rows), cell.seen.flags, result)
            }
            Self::States(cells) => {
                let cell = at(cells, slot, window)?;
                // Of two that held equally long, the smaller code, so that the answer does not depend on order.
                let longest = cell.seconds.iter().copied().min_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
                (u64::from(cell.seen.rows), cell.seen.flags, longest.map(|(code, _seconds)| code as f64))
            }
        })
    }
}

fn cell<A: Default + Clone>(cells: &mut Vec<Vec<A>>, slot: usize, window: usize, windows: usize) -> Option<&mut A> {
    if cells.len() <= slot {
        cells.resize_with(slot + 1, Vec::new);
    }
    let row = cells.get_mut(slot)?;
    if row.is_empty() {
        row.resize(windows, A::default());
    }
    row.get_mut(window)
}

/// Puts the devices' results together.
pub(super) fn across(function: AcrossFunction, summary: Summary, results: &mut [f64]) -> Option<f64> {
    if function == AcrossFunction::Count {
        return Some(results.len() as f64).filter(|count| *count > 0.0);
    }
    if results.is_empty() {
        return None;
    }
    let count = results.len() as f64;
    let sum = |results: &[f64]| {
        let mut sum = Sum::default();
        results.iter().for_each(|value| sum.add(*value));
        sum.total()
    };
    let energies = |results: &[f64]| results.iter().map(|level| 10.0_f64.powf(level / 10.0)).collect::<Vec<_>>();
    match (function, summary) {
        (AcrossFunction::Mean, Summary::Circular) => {
            let sines: Vec<f64> = results.iter().map(|degrees| degrees.to_radians().sin()).collect();
            let cosines: Vec<f64> = results.iter().map(|degrees| degrees.to_radians().cos()).collect();
            direction(sum(&sines), sum(&cosines), count)
        }
        (AcrossFunction::Mean, Summary::Energetic) => Some(10.0 * (sum(&energies(results)) / count).log10()),
        (AcrossFunction::Sum, Summary::Energetic) => Some(10.0 * sum(&energies(results)).log10()),
        (AcrossFunction::Mean, _) => Some(sum(results) / count),
        (AcrossFunction::Sum, _) => Some(sum(results)),
        (AcrossFunction::Min, _) => results.iter().copied().reduce(f64::min),
        (AcrossFunction::Max, _) => results.iter().copied().reduce(f64::max),
        (AcrossFunction::Percentile(rank), _) => percentile(results, rank),
        (AcrossFunction::Count, _) => None,
    }
}
