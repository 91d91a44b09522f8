//! The mergeable statistics of a bucket.

use sketches_ddsketch::{Config, DDSketch};

use super::sum::{Compensated, energy};
use crate::model::{Kind, Property, Summary};

/// How far a sketch's percentile may lie from the exact one, as a part of it.
pub const RELATIVE_ERROR: f64 = 0.01;

/// A reading at a time, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// When.
    pub time: i64,
    /// What.
    pub value: f64,
}

/// One statistic, as functions need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// The number alone, which is always known.
    Count,
    /// The sum.
    Sum,
    /// The sum of squared distances from the mean, with the sum.
    Squares,
    /// The smallest and the largest.
    Extremes,
    /// The first and the last with their times.
    Ends,
    /// The sums of sines and cosines of a direction.
    Direction,
    /// The sum of a level's energies.
    Energy,
    /// A counter's growth, with the first and the last.
    Increase,
    /// The sketch.
    Sketch,
}

/// Which statistics make sense for a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    kind: Kind,
    summary: Summary,
}

impl Kept {
    /// Those of a property.
    pub fn of(property: &Property) -> Self {
        Self { kind: property.kind, summary: property.summary }
    }

    /// Whether a statistic is kept.
    pub fn has(self, statistic: Statistic) -> bool {
        let is_number = matches!(self.kind, Kind::Gauge | Kind::Count);
        match statistic {
            Statistic::Count | Statistic::Ends => true,
            Statistic::Sum | Statistic::Squares => is_number && self.summary == Summary::Arithmetic,
            Statistic::Extremes => self.kind != Kind::State && self.summary != Summary::Circular,
            Statistic::Direction => self.summary == Summary::Circular,
            Statistic::Energy => self.summary == Summary::Energetic,
            Statistic::Increase => self.kind == Kind::Counter,
            Statistic::Sketch => is_number && self.summary != Summary::Circular,
        }
    }
}

/// What is known of readings of one device and property. What is not kept of the property has its neutral value.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// How many.
    pub count: u64,
    /// The worst quality: bits of [`crate::model::Flags`] of all.
    pub flags: u16,
    /// The first.
    pub first: Seen,
    /// The last.
    pub last: Seen,
    /// The quality of the last.
    pub last_flags: u16,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The sum.
    pub sum: f64,
    /// The sum of squared distances from the mean.
    pub squares: f64,
    /// The sum of sines.
    pub sine: f64,
    /// The sum of cosines.
    pub cosine: f64,
    /// The sum of energies.
    pub energy: f64,
    /// How much a counter grew between the first and the last; a fall is a reset. `None` where readings of other statistics lie
    /// between, so that it cannot be told from these alone.
    pub increase: Option<f64>,
    /// Of a day's values.
    pub sketch: Option<Sketch>,
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            count: 0,
            flags: 0,
            first: Seen { time: i64::MAX, value: f64::NAN },
            last: Seen { time: i64::MIN, value: f64::NAN },
            last_flags: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sum: 0.0,
            squares: 0.0,
            sine: 0.0,
            cosine: 0.0,
            energy: 0.0,
            increase: None,
            sketch: None,
        }
    }
}

/// How much a counter grew from one reading to the next: a fall is a reset, after which it counts from zero.
#[inline]
pub fn growth(before: f64, value: f64) -> f64 {
    if value < before { value.max(0.0) } else { value - before }
}

/// Squares of two parts put together (Chan, Golub and `LeVeque` 1979); counts and means of the parts.
#[inline]
pub fn squares_together(one: (f64, f64, f64), other: (f64, f64, f64)) -> f64 {
    let ((count, mean, squares), (other_count, other_mean, other_squares)) = (one, other);
    let apart = other_mean - mean;
    squares + other_squares + apart * apart * (count * other_count / (count + other_count))
}

/// Readings on their way into statistics: by ascending time.
#[derive(Clone, Debug)]
pub struct Tally {
    kept: Kept,
    statistics: Statistics,
    sum: Compensated,
    sine: Compensated,
    cosine: Compensated,
    energy: Compensated,
    increase: Compensated,
}

impl Tally {
    /// Of no reading yet.
    pub fn new(kept: Kept) -> Self {
        let zero = Compensated::default();
        Self { kept, statistics: Statistics::default(), sum: zero, sine: zero, cosine: zero, energy: zero, increase: zero }
    }

    /// Takes a reading that comes after all that it has.
    pub fn add(&mut self, seen: Seen, flags: u16) {
        let Seen { value, .. } = seen;
        let statistics = &mut self.statistics;
        if self.kept.has(Statistic::Sum) {
            let count = statistics.count as f64;
            if statistics.count > 0 {
                let mean = self.sum.total() / count;
                statistics.squares = squares_together((count, mean, statistics.squares), (1.0, value, 0.0));
            }
            self.sum.add(value);
        }
        if self.kept.has(Statistic::Extremes) {
            statistics.min = statistics.min.min(value);
            statistics.max = statistics.max.max(value);
        }
        if self.kept.has(Statistic::Direction) {
            let (sine, cosine) = value.to_radians().sin_cos();
            self.sine.add(sine);
            self.cosine.add(cosine);
        }
        if self.kept.has(Statistic::Energy) {
            self.energy.add(energy(value));
        }
        if self.kept.has(Statistic::Increase) && statistics.count > 0 {
            self.increase.add(growth(statistics.last.value, value));
        }
        if statistics.count == 0 {
            statistics.first = seen;
        }
        (statistics.last, statistics.last_flags) = (seen, flags);
        statistics.count += 1;
        statistics.flags |= flags;
    }

    /// Takes the statistics of readings that come after all that it has.
    pub fn append(&mut self, part: &Statistics) {
        if part.count == 0 {
            return;
        }
        let statistics = &mut self.statistics;
        if statistics.count == 0 {
            statistics.first = part.first;
            statistics.squares = part.squares;
        } else {
            if self.kept.has(Statistic::Sum) {
                let (count, other) = (statistics.count as f64, part.count as f64);
                let one = (count, self.sum.total() / count, statistics.squares);
                statistics.squares = squares_together(one, (other, part.sum / other, part.squares));
            }
            if self.kept.has(Statistic::Increase) {
                self.increase.add(growth(statistics.last.value, part.first.value));
            }
        }
        self.sum.add(part.sum);
        self.sine.add(part.sine);
        self.cosine.add(part.cosine);
        self.energy.add(part.energy);
        self.increase.add(part.increase.unwrap_or(0.0));
        statistics.min = statistics.min.min(part.min);
        statistics.max = statistics.max.max(part.max);
        (statistics.last, statistics.last_flags) = (part.last, part.last_flags);
        statistics.count += part.count;
        statistics.flags |= part.flags;
    }

    /// What it comes to.
    pub fn finish(self) -> Statistics {
        Statistics {
            sum: self.sum.total(),
            sine: self.sine.total(),
            cosine: self.cosine.total(),
            energy: self.energy.total(),
            increase: self.kept.has(Statistic::Increase).then(|| self.increase.total()),
            ..self.statistics
        }
    }
}

/// Values by their magnitude, in bins as wide as the relative error allows (`DDSketch`: Masson, Rim and Lee 2019).
#[derive(Clone)]
pub struct Sketch(DDSketch);

impl std::fmt::Debug for Sketch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sketch").field("count", &self.0.count()).finish_non_exhaustive()
    }
}

impl PartialEq for Sketch {
    fn eq(&self, other: &Self) -> bool {
        self.to_bytes() == other.to_bytes()
    }
}

impl Default for Sketch {
    fn default() -> Self {
        Self(DDSketch::new(Config::new(RELATIVE_ERROR, 2_048, 1e-9)))
    }
}

impl Sketch {
    /// Adds a value.
    pub fn add(&mut self, value: f64) {
        self.0.add(value);
    }

    /// Adds another sketch's values.
    pub fn merge(&mut self, other: &Self) {
        // Only sketches of one error are ever made or read.
        let merged = self.0.merge(&other.0);
        debug_assert!(merged.is_ok(), "sketches of one error merge");
    }

    /// How many values it has.
    pub fn count(&self) -> usize {
        self.0.count()
    }

    /// A percentile, 0 to 100, interpolated between closest ranks as the exact one is; `None` without values. Each of the two ranks'
    /// values is within [`RELATIVE_ERROR`] of the exact one.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let last = self.0.count().checked_sub(1)? as f64;
        let rank = last * (percent.clamp(0.0, 100.0) / 100.0);
        let low = self.at(rank.floor(), last)?;
        if rank.fract() == 0.0 {
            return Some(low);
        }
        let high = self.at(rank.ceil(), last)?;
        Some(low + (high - low) * rank.fract())
    }

    /// The value at a rank from 0 to `last`.
    fn at(&self, rank: f64, last: f64) -> Option<f64> {
        // The middle of a rank, so that rounding cannot make it the one below.
        let part = if rank == 0.0 {
            0.0
        } else if rank >= last {
            1.0
        } else {
            (rank + 0.5) / last
        };
        self.0.quantile(part).ok().flatten()
    }

    /// In the format that `sketches-java` of the paper's authors reads (`DDSketchWithExactSummaryStatistics`).
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_java_bytes()
    }

    /// Read back; `None` where the bytes are no sketch of this error.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let sketch = DDSketch::from_java_bytes(bytes).ok()?;
        // Its parameters are told by whether it merges.
        let mut probe = Self::default();
        probe.0.merge(&sketch).ok()?;
        Some(Self(sketch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Catalogue;

    fn kept(property: &str) -> Kept {
        let catalogue = Catalogue::built_in();
        Kept::of(catalogue.get(catalogue.find(property).unwrap()))
    }

    fn tally(kept: Kept, values: &[f64]) -> Statistics {
        let mut tally = Tally::new(kept);
        for (time, value) in (0..).zip(values) {
            tally.add(Seen { time, value: *value }, 0);
        }
        tally.finish()
    }

    #[test]
    fn parts_of_a_bucket_come_to_the_whole() {
        let values: Vec<f64> = (0..500).map(|index| f64::from(index * 7919 % 1000) / 10.0 - 20.0).collect();
        for property in ["temperature", "noise", "wind_direction", "energy_active", "vehicle_count", "lamp_state"] {
            let kept = kept(property);
            let whole = tally(kept, &values);
            for border in [1, 17, 250, 499] {
                let (one, other) = values.split_at(border);
                let mut parts = Tally::new(kept);
                parts.append(&tally(kept, one));
                let mut second = Tally::new(kept);
                for (time, value) in (i64::try_from(one.len()).unwrap()..).zip(other) {
                    second.add(Seen { time, value: *value }, 0);
                }
                parts.append(&second.finish());
                let parts = parts.finish();
                assert_eq!((parts.count, parts.first, parts.last), (whole.count, whole.first, whole.last));
                assert_eq!((parts.min, parts.max), (whole.min, whole.max));
                for (part, whole) in [
                    (parts.sum, whole.sum),
                    (parts.squares, whole.squares),
                    (parts.sine, whole.sine),
                    (parts.energy, whole.energy),
                    (parts.increase.unwrap_or(0.0), whole.increase.unwrap_or(0.0)),
                ] {
                    assert!((part - whole).abs() <= 1e-9 * whole.abs().max(1.0), "{property}: {part} {whole}");
                }
            }
        }
    }

    #[test]
    fn a_sketch_keeps_to_its_error_also_when_merged_and_read_back() {
        let mut exact: Vec<f64> = (1..4_000).map(|index| f64::from(index * 7919 % 4_001) / 13.0 - 40.0).collect();
        let mut parts = vec![Sketch::default(); 7];
        for (index, value) in exact.iter().enumerate() {
            parts[index % 7].add(*value);
        }
        let mut whole = Sketch::default();
        for part in &parts {
            whole.merge(&Sketch::from_bytes(&part.to_bytes()).unwrap());
        }
        exact.sort_by(f64::total_cmp);
        for permille in [0, 1, 50, 250, 500, 750, 950, 999, 1_000] {
            let (rank, part) = ((exact.len() - 1) * permille / 1_000, (exact.len() - 1) * permille % 1_000);
            let (low, high) = (exact[rank], exact[(rank + 1).min(exact.len() - 1)]);
            let value = low + (high - low) * part as f64 / 1_000.0;
            let found = whole.percentile(permille as f64 / 10.0).unwrap();
            let most = RELATIVE_ERROR * low.abs().max(high.abs()) + 1e-9;
            assert!((found - value).abs() <= most, "{permille} per mille: {found} is not within {most} of {value}");
        }
        assert_eq!(Sketch::default().percentile(50.0), None);
        assert!(Sketch::from_bytes(b"no sketch").is_none());
    }

    #[test]
    fn every_function_of_the_catalogue_finds_its_statistic() {
        assert!(kept("temperature").has(Statistic::Sum) && kept("temperature").has(Statistic::Sketch));
        assert!(kept("wind_direction").has(Statistic::Direction) && !kept("wind_direction").has(Statistic::Extremes));
        assert!(kept("noise").has(Statistic::Energy) && !kept("noise").has(Statistic::Sum));
        assert!(kept("energy_active").has(Statistic::Increase) && !kept("energy_active").has(Statistic::Sketch));
        assert!(!kept("lamp_state").has(Statistic::Extremes));
    }
}
