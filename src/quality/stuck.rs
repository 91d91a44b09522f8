//! A sensor that hangs repeats its last value: the persistence test of WMO's guidelines for automatic weather stations and of QARTOD.

use std::time::Duration;

use super::micros;
use crate::model::StuckRule;

/// Equal values at the end of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Run {
    value: f64,
    /// Phenomenon times of its first and its last, in microseconds.
    first: i64,
    last: i64,
    /// How many, up to what the type holds; none before the first value.
    readings: u16,
}

impl Run {
    /// With one more value, which may begin another run.
    pub(super) fn followed_by(self, time: i64, value: f64) -> Self {
        if self.readings > 0 && self.value.to_bits() == value.to_bits() {
            Self { last: time, readings: self.readings.saturating_add(1), ..self }
        } else {
            Self { value, first: time, last: time, readings: 1 }
        }
    }

    /// Whether nothing was heard for so long before `time`.
    pub(super) fn is_silent(self, time: i64, silence: Duration) -> bool {
        self.readings > 0 && time.saturating_sub(self.last) > micros(silence)
    }

    /// Whether it goes on for too long at `time`, that of its last value.
    pub(super) fn is_stuck(self, time: i64, rule: StuckRule) -> bool {
        self.readings > rule.readings && time.saturating_sub(self.first) > i64::from(rule.minutes) * 60_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At which of the readings (minute, value) it is stuck.
    #[track_caller]
    fn check(readings: &[(i64, f64)], expected: &[usize]) {
        let mut run = Run::default();
        let mut stuck = Vec::new();
        for (index, (minute, value)) in readings.iter().enumerate() {
            run = run.followed_by(minute * 60_000_000, *value);
            if run.is_stuck(minute * 60_000_000, StuckRule { readings: 3, minutes: 10 }) {
                stuck.push(index);
            }
        }
        assert_eq!(stuck, expected);
    }

    #[test]
    fn many_readings_and_a_long_time_are_needed() {
        check(&[(0, 1.0), (5, 1.0), (10, 1.0), (15, 1.0), (20, 1.0), (25, 1.1), (30, 1.1)], &[3, 4]);
        // A long time, but few readings; and the other way round.
        check(&[(0, 1.0), (60, 1.0), (120, 1.0)], &[]);
        check(&[(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (10, 1.0)], &[]);
        check(&[(0, 0.0), (5, 0.0), (10, 0.0), (12, 0.0)], &[3]);
    }
}
