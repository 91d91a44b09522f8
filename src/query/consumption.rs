//! What a meter's readings say was used, by stretch of time: exact, so that hours add up to days and days to months. Pure.
//!
//! A meter's register is a counter. Between two readings it grew by their difference; a fall is
//! - a **roll-over**, where the register stood above nine tenths of a power of ten and now stands below a tenth of it: it went through zero;
//! - else a **reset**: it counts from zero again, and what was used before the reset and after the reading before is not known.
//!
//! What was used between two readings is shared out by time where a border lies between them (linear, as meter operators estimate a reading
//! at a date), so that whatever the borders, nothing is lost or counted twice: the register's growth at each border is rounded once, to
//! [`PLACES`] places, and what lies between borders are differences of these. Before the first and after the last reading nothing is known to
//! have been used. What was shared out over a pause longer than a meter should make is told as estimated.

use std::str::FromStr;

use rust_decimal::{Decimal, RoundingStrategy};

/// Places after the point to which a register's growth is rounded at a border: a milliwatt-hour, for kilowatt-hours.
const PLACES: u32 = 6;

/// One meter while its readings come, by time.
#[derive(Clone, Debug)]
pub struct Meter {
    /// In microseconds, ascending.
    borders: std::sync::Arc<[i64]>,
    /// The growth since the first reading, at each border.
    at: Vec<Decimal>,
    between: Vec<Between>,
    total: Decimal,
    last: Option<(i64, Decimal)>,
    /// A longer pause is one that a meter should not make, in microseconds.
    pause_max: i64,
}

/// What happened between two borders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Between {
    /// Readings.
    pub count: u32,
    /// What of the growth is shared out over a long pause.
    pub estimated: Decimal,
    /// Falls that begin anew.
    pub resets: u32,
    /// Falls through zero.
    pub rollovers: u32,
}

/// What a meter used between two borders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// How much.
    pub amount: Decimal,
    /// How it is known.
    pub between: Between,
}

impl Meter {
    /// A meter without readings. At least two borders, ascending.
    pub fn new(borders: std::sync::Arc<[i64]>, pause_max: i64) -> Self {
        let stretches = borders.len().saturating_sub(1);
        Self { borders, at: Vec::new(), between: vec![Between::default(); stretches], total: Decimal::ZERO, last: None, pause_max }
    }

    /// Takes a reading, in order of time; those that come before the borders and after them count for what lies between.
    pub fn push(&mut self, time: i64, value: f64) {
        // The shortest decimal number that is this double: what the meter showed.
        let Some(value) = Decimal::from_str(&value.to_string()).or_else(|_exponent| Decimal::from_scientific(&value.to_string())).ok()
        else {
            return;
        };
        if self.last.is_some_and(|(last, _value)| time <= last) {
            return;
        }
        let (before, grown, fall) = match self.last {
            None => (time, Decimal::ZERO, None),
            Some((before, last)) => {
                let (grown, fall) = growth(last, value);
                (before, grown, fall)
            }
        };
        while let Some(border) = self.borders.get(self.at.len()).copied().filter(|border| *border <= time) {
            let share = if border <= before { Decimal::ZERO } else { share(grown, border - before, time - before) };
            self.at.push((self.total + share).round_dp_with_strategy(PLACES, RoundingStrategy::MidpointNearestEven));
        }
        if time - before > self.pause_max {
            self.estimate(before, time, grown);
        }
        if let Some(between) = self.stretch(time).and_then(|stretch| self.between.get_mut(stretch)) {
            between.count += 1;
            match fall {
                Some(Fall::Reset) => between.resets += 1,
                Some(Fall::RollOver) => between.rollovers += 1,
                None => {}
            }
        }
        self.total += grown;
        self.last = Some((time, value));
    }

    /// The stretch that holds a time.
    fn stretch(&self, time: i64) -> Option<usize> {
        self.borders.partition_point(|border| *border <= time).checked_sub(1).filter(|stretch| *stretch < self.between.len())
    }

    fn estimate(&mut self, before: i64, time: i64, grown: Decimal) {
        let first = self.borders.partition_point(|border| *border <= before).saturating_sub(1);
        for stretch in first..self.between.len() {
            let (Some(start), Some(end)) = (self.borders.get(stretch), self.borders.get(stretch + 1)) else { break };
            if *start >= time {
                break;
            }
            let inside = (*end).min(time) - (*start).max(before);
            if let Some(between) = self.between.get_mut(stretch)
                && inside > 0
            {
                let part = share(grown, inside, time - before).round_dp_with_strategy(PLACES, RoundingStrategy::MidpointNearestEven);
                between.estimated += part;
            }
        }
    }

    /// What was used between each two borders.
    pub fn finish(mut self) -> Vec<Used> {
        let total = self.total.round_dp_with_strategy(PLACES, RoundingStrategy::MidpointNearestEven);
        self.at.resize(self.borders.len(), total);
        let pairs = self.at.iter().zip(self.at.iter().skip(1));
        pairs.zip(self.between).map(|((start, end), between)| Used { amount: end - start, between }).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fall {
    Reset,
    RollOver,
}

/// How much a register grew from one reading to the next.
fn growth(before: Decimal, now: Decimal) -> (Decimal, Option<Fall>) {
    if now >= before {
        return (now - before, None);
    }
    let mut capacity = Decimal::TEN;
    while capacity <= before {
        match capacity.checked_mul(Decimal::TEN) {
            Some(next) => capacity = next,
            None => return (now.max(Decimal::ZERO), Some(Fall::Reset)),
        }
    }
    let tenth = capacity / Decimal::TEN;
    if before >= capacity - tenth && now <= tenth && now >= Decimal::ZERO {
        return (capacity - before + now, Some(Fall::RollOver));
    }
    (now.max(Decimal::ZERO), Some(Fall::Reset))
}

fn share(grown: Decimal, part: i64, whole: i64) -> Decimal {
    if part >= whole { grown } else { (grown * Decimal::from(part)).checked_div(Decimal::from(whole)).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000_000;

    fn used(borders: &[i64], readings: &[(i64, f64)]) -> Vec<Used> {
        let mut meter = Meter::new(Arc::from(borders), HOUR);
        for (time, value) in readings {
            meter.push(*time, *value);
        }
        meter.finish()
    }

    fn amounts(borders: &[i64], readings: &[(i64, f64)]) -> Vec<String> {
        used(borders, readings).iter().map(|used| used.amount.normalize().to_string()).collect()
    }

    #[test]
    fn a_register_s_growth_is_what_was_used() {
        let borders = [0, HOUR, 2 * HOUR, 3 * HOUR];
        assert_eq!(amounts(&borders, &[(0, 100.5), (HOUR, 101.75), (2 * HOUR, 101.75), (3 * HOUR, 104.0)]), ["1.25", "0", "2.25"]);
        // Borders between readings.
        assert_eq!(amounts(&borders, &[(-HOUR / 2, 10.0), (HOUR / 2, 12.0), (3 * HOUR / 2, 14.0), (5 * HOUR, 21.0)]), ["2", "2", "2"]);
        // Before the first and after the last reading nothing is known.
        assert_eq!(amounts(&borders, &[(HOUR / 2, 1.0), (3 * HOUR / 2, 2.0)]), ["0.5", "0.5", "0"]);
        assert_eq!(amounts(&borders, &[(HOUR, 5.0)]), ["0", "0", "0"]);
    }

    #[test]
    fn falls_are_resets_or_go_through_zero() {
        let borders = [0, HOUR];
        let all = used(&borders, &[(0, 99_990.0), (1, 15.0), (2, 2.0), (3, 5.0)]);
        assert_eq!(all[0].amount.normalize().to_string(), "30");
        assert_eq!((all[0].between.rollovers, all[0].between.resets, all[0].between.count), (1, 1, 4));
        // From the middle of the register it cannot have gone through zero.
        let reset = used(&borders, &[(0, 50_000.0), (1, 15.0)]);
        assert_eq!((reset[0].amount.normalize().to_string(), reset[0].between.resets), ("15".to_owned(), 1));
    }

    #[test]
    fn what_is_shared_out_over_a_long_pause_is_told() {
        let borders = [0, HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR];
        let all = used(&borders, &[(0, 0.0), (HOUR / 2, 1.0), (7 * HOUR / 2, 7.0), (4 * HOUR, 8.0)]);
        let shown: Vec<(String, String)> =
            all.iter().map(|used| (used.amount.normalize().to_string(), used.between.estimated.normalize().to_string())).collect();
        let expected =
            [("2", "1"), ("2", "2"), ("2", "2"), ("2", "1")].map(|(amount, estimated)| (amount.to_owned(), estimated.to_owned()));
        assert_eq!(shown, expected);
    }

    proptest! {
        #[test]
        fn whatever_the_borders_the_parts_add_up(
            steps in prop::collection::vec((1_i64..5 * HOUR, 0_u32..5_000_000), 2..40),
            cuts in prop::collection::btree_set(1_i64..100 * HOUR, 0..30),
            falls in prop::collection::vec(any::<bool>(), 40),
        ) {
            let (mut time, mut value, mut readings) = (0, 1_000_u64, Vec::new());
            for ((step, grown), fall) in steps.iter().zip(falls) {
                time += step;
                value = if fall && grown % 7 == 0 { u64::from(grown % 500) } else { value + u64::from(*grown) };
                readings.push((time, value as f64 / 1_000.0));
            }
            let (start, end) = (-HOUR, 300 * HOUR);
            let fine: Vec<i64> = [start].into_iter().chain(cuts).chain([end]).collect();
            let whole = used(&[start, end], &readings);
            let parts = used(&fine, &readings);
            prop_assert_eq!(parts.iter().map(|used| used.amount).sum::<Decimal>(), whole[0].amount);
            prop_assert_eq!(parts.iter().map(|used| used.between.count).sum::<u32>(), whole[0].between.count);
            prop_assert!(parts.iter().all(|used| used.amount >= Decimal::ZERO));
        }
    }
}
