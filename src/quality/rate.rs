//! What changes faster than nature does: the step test of WMO's guidelines for automatic weather stations.

/// The last value of a series that was neither too far from the one before nor a spike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Believed {
    /// Phenomenon time in microseconds.
    pub(super) time: i64,
    /// Canonical unit.
    pub(super) value: f64,
}

impl Believed {
    /// Whether a later value lies further away than the time between allows. Whatever is near enough after a while is believed
    /// again, so a real step costs a few readings. Less than a minute counts as one, or a sensor's last digit would be too fast.
    pub(super) fn is_too_far(self, time: i64, value: f64, rate_max_per_minute: f64) -> bool {
        let minutes = (time.saturating_sub(self.time) as f64 / 60e6).max(1.0);
        (value - self.value).abs() > rate_max_per_minute * minutes * (1.0 + 1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_means_far_for_the_time_between() {
        let believed = Believed { time: 0, value: 20.0 };
        for (seconds, value, expected) in [
            (60, 23.0, false),
            (60, 23.1, true),
            (60, 16.9, true),
            (1, 23.0, false),
            (1, 23.1, true),
            (600, 45.0, false),
            (600, 51.0, true),
            (3_600, -30.0, false),
        ] {
            assert_eq!(believed.is_too_far(seconds * 1_000_000, value, 3.0), expected, "{value} after {seconds} s");
        }
    }
}
