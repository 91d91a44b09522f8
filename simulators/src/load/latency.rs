//! Quantiles in a fixed, small memory: buckets that are an eighth of a power of two wide.

use std::time::Duration;

const PARTS: u64 = 8;
const BUCKETS: usize = 40 * 8;

/// How long acknowledgements took; at most 12 % too long, because a bucket answers with its end.
#[derive(Clone, Debug)]
pub struct Latency {
    /// Microseconds.
    buckets: Vec<u64>,
    count: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0 }
    }
}

impl Latency {
    /// The time that this part of the messages did not exceed; zero when nothing was measured.
    pub fn quantile(&self, part: f64) -> Duration {
        let rank = (part * self.count as f64).ceil().max(1.0);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            rank <= seen as f64
        });
        bucket.map_or(Duration::ZERO, |bucket| Duration::from_micros(end(bucket as u64)))
    }

    pub(super) fn record(&mut self, micros: u64) {
        if let Some(count) = usize::try_from(bucket(micros)).ok().and_then(|bucket| self.buckets.get_mut(bucket.min(BUCKETS - 1))) {
            *count += 1;
            self.count += 1;
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
    }
}

/// Below `PARTS` each number is its own bucket.
fn bucket(micros: u64) -> u64 {
    let exponent = u64::from((micros | 1).ilog2()).saturating_sub(2);
    match exponent {
        0 => micros,
        _ => PARTS / 2 * exponent + (micros >> exponent),
    }
}

fn end(bucket: u64) -> u64 {
    let exponent = (bucket / (PARTS / 2)).saturating_sub(1);
    (bucket - PARTS / 2 * exponent + 1) << exponent
}

#[cfg(test)]
mod tests {
    use super::{Latency, bucket, end};

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        let mut last = 0;
        for micros in 0..100_000 {
            let bucket = bucket(micros);
            assert!(bucket == last || bucket == last + 1, "{micros}");
            assert!(micros < end(bucket) && end(bucket) <= micros + micros / 4 + 1, "{micros}: {}", end(bucket));
            last = bucket;
        }
    }

    #[test]
    fn quantiles() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile(0.5).as_micros(), 0);
        (1..=1_000).for_each(|micros| latency.record(micros));
        let check = |part, expected: u128| {
            let micros = latency.quantile(part).as_micros();
            assert!((expected..=expected * 5 / 4 + 1).contains(&micros), "{part}: {micros}");
        };
        check(0.5, 500);
        check(0.99, 990);
        check(1.0, 1_000);
    }
}
