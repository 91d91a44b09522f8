//! Randomness without state: every draw is a pure function of a key and an index.
//!
//! Back-fill and live operation can so ask for any time in any order and agree, and a device's values do not depend on how
//! many devices there are beside it. The bits come from the finaliser of `SplitMix64` (Steele, Lea, Flood 2014), which is
//! good enough for weather and much too weak for secrets.

/// A stream of draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise(u64);

impl Noise {
    /// The stream that belongs to a name, under a seed.
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a, because its result is the same on every platform and in every release.
        let name = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self(mix(mix(seed) ^ name))
    }

    /// An independent stream for one purpose of this one's owner.
    #[must_use]
    pub fn split(self, purpose: u64) -> Self {
        Self(mix(self.0 ^ mix(purpose.wrapping_add(0x5851_f42d_4c95_7f2d))))
    }

    /// 64 random bits.
    pub fn bits(self, index: i64) -> u64 {
        mix(self.0 ^ mix(index.cast_unsigned()))
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(self, index: i64) -> f64 {
        (self.bits(index) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `[low, high)`.
    pub fn between(self, index: i64, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform(index)
    }

    /// Mean 0, standard deviation 1, never beyond ±3.5: a sum of four uniform draws, so that nothing has to be cut off.
    pub fn normal(self, index: i64) -> f64 {
        let bits = self.bits(index);
        let sum: u64 = (0..4).map(|part| (bits >> (16 * part)) & 0xffff).sum();
        (sum as f64 / 65_536.0 - 2.0) * 3_f64.sqrt()
    }

    /// A smooth curve through one normal draw every `period` seconds.
    pub fn smooth(self, second: i64, period: i64) -> f64 {
        let step = second.div_euclid(period);
        let part = second.rem_euclid(period) as f64 / period as f64;
        let weight = part * part * (3.0 - 2.0 * part);
        self.normal(step) * (1.0 - weight) + self.normal(step + 1) * weight
    }

    /// Weather-like: slow drift with faster and smaller drifts on top. Its hour-to-hour correlation resembles that of an
    /// AR(1) process (Beijing PM10: 0.95), which could not be computed for a single time. About ±2.5.
    pub fn drift(self, second: i64, period: i64) -> f64 {
        let octave = |number: u64, divisor: i64| self.split(number).smooth(second, (period / divisor).max(1));
        0.9 * octave(1, 1) + 0.4 * octave(2, 5) + 0.2 * octave(3, 23)
    }
}

/// The whole number nearest to a value of the simulation.
#[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and simulated counts are far from the limits of i64")]
pub fn whole(value: f64) -> i64 {
    value.round() as i64
}

fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::Noise;

    #[test]
    fn draws_depend_on_seed_name_and_index_only() {
        let draw = |seed, name, index| Noise::new(seed, name).bits(index);
        assert_eq!(draw(1, "a", 5), draw(1, "a", 5));
        assert_ne!(draw(1, "a", 5), draw(2, "a", 5));
        assert_ne!(draw(1, "a", 5), draw(1, "b", 5));
        assert_ne!(draw(1, "a", 5), draw(1, "a", 6));
    }

    #[test]
    fn normal_draws_have_mean_0_and_deviation_1() {
        let noise = Noise::new(7, "normal");
        let draws: Vec<f64> = (0..20_000).map(|index| noise.normal(index)).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn drift_is_correlated_from_hour_to_hour() {
        let noise = Noise::new(7, "drift");
        let values: Vec<f64> = (0..5_000).map(|hour| noise.drift(hour * 3_600, 24 * 3_600)).collect();
        let variance: f64 = values.iter().map(|value| value * value).sum();
        let covariance: f64 = values.windows(2).map(|pair| pair[0] * pair[1]).sum();
        assert!((0.85..0.995).contains(&(covariance / variance)), "{}", covariance / variance);
    }
}
