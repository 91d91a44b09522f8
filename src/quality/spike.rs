//! A lone value far from those around it: Hampel's identifier (median and median absolute deviation) over the values before, which
//! one or two earlier spikes among them do not move.

use crate::model::{QualityRules, SpikeRule};

/// Standard deviations of a normal distribution in one median absolute deviation.
pub(super) const DEVIATION: f64 = 1.4826;

/// The last values of a series, spikes among them: so a new level is believed from its second value on. As `f32`, whose seven
/// digits are more than a distance needs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Window {
    values: [f32; QualityRules::WINDOW_MAX],
    /// How many there are, and where the next one goes.
    length: u8,
    next: u8,
}

impl Window {
    #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
    pub(super) fn push(&mut self, value: f64) {
        if let Some(oldest) = self.values.get_mut(usize::from(self.next)) {
            *oldest = value as f32;
        }
        let capacity = self.values.len();
        self.length = self.length.saturating_add(1).min(u8::try_from(capacity).unwrap_or(u8::MAX));
        self.next = u8::try_from((usize::from(self.next) + 1) % capacity).unwrap_or_default();
    }

    /// The value that was pushed so many pushes ago, 0 for the last; there must have been that many.
    fn back(&self, pushes: usize) -> f64 {
        let capacity = self.values.len();
        let at = (usize::from(self.next) + 2 * capacity - 1 - pushes) % capacity;
        self.values.get(at).copied().unwrap_or_default().into()
    }

    /// Whether the value that follows is a spike. Not before the rule's window is full.
    pub(super) fn is_spike(&self, value: f64, rule: SpikeRule) -> bool {
        let length = usize::from(rule.window).min(self.values.len());
        // What is lost of a value as `f32`, and more: a distance that is just the limit does not exceed it.
        let hair = 1e-6 * value.abs();
        let step = (value - self.back(0)).abs() - hair;
        // Most values are near the one before, which costs next to nothing.
        if usize::from(self.length) < length || step <= rule.floor {
            return false;
        }
        let mut sorted = [0.0; QualityRules::WINDOW_MAX];
        let Some(sorted) = sorted.get_mut(..length) else { return false };
        for (pushes, slot) in sorted.iter_mut().enumerate() {
            *slot = self.back(pushes);
        }
        let (median, deviation) = median_and_deviation(sorted);
        let limit = rule.floor.max(rule.deviations * DEVIATION * deviation);
        step > limit && (value - median).abs() - hair > limit
    }
}

/// Median and median absolute deviation of finite numbers, which it rearranges; 0 and 0 of none.
pub(super) fn median_and_deviation(values: &mut [f64]) -> (f64, f64) {
    let median = median(values);
    for value in values.iter_mut() {
        *value = (*value - median).abs();
    }
    (median, self::median(values))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    let half = values.len() / 2;
    if values.len() % 2 == 1 { at(half) } else { f64::midpoint(at(half.saturating_sub(1)), at(half)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: SpikeRule = SpikeRule { window: 5, deviations: 5.0, floor: 4.0 };

    /// Which of the values are spikes.
    #[track_caller]
    fn check(values: &[f64], expected: &[usize]) {
        let mut window = Window::default();
        let mut spikes = Vec::new();
        for (index, value) in values.iter().enumerate() {
            if window.is_spike(*value, RULE) {
                spikes.push(index);
            }
            window.push(*value);
        }
        assert_eq!(spikes, expected);
    }

    #[test]
    fn lone_jumps_are_told_from_new_levels() {
        check(&[20.0, 20.1, 20.0, 20.2, 20.1, 35.0, 20.1, 20.2], &[5]);
        check(&[20.0, 20.1, 20.0, 20.2, 20.1, 5.0, 20.1, 36.0, 20.2], &[5, 7]);
        // A second reading confirms the first.
        check(&[20.0, 20.1, 20.0, 20.2, 20.1, 35.0, 35.2, 35.1, 35.0], &[5]);
        // Within the floor, a series that is restless anyway, and one that has only begun.
        check(&[20.0, 20.1, 20.0, 20.2, 20.1, 24.0, 20.1], &[]);
        check(&[10.0, 24.0, 17.0, 30.0, 12.0, 27.0, 19.0, 9.0, 31.0], &[]);
        check(&[20.0, 20.1, 20.0, 20.2, 35.0, 20.1], &[]);
        // A steady climb.
        check(&[0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0], &[]);
    }

    #[test]
    fn the_median_is_that_of_the_last_ones() {
        let mut window = Window::default();
        (0..20).for_each(|value| window.push(f64::from(value)));
        assert_eq!([0, 1, 6].map(|pushes| window.back(pushes).to_bits()), [19.0, 18.0, 13.0].map(f64::to_bits));
        assert_eq!(median_and_deviation(&mut [5.0, 1.0, 3.0, 100.0, 4.0]), (4.0, 1.0));
        assert_eq!(median_and_deviation(&mut [4.0, 1.0]), (2.5, 1.5));
        assert_eq!(median_and_deviation(&mut []), (0.0, 0.0));
    }
}
