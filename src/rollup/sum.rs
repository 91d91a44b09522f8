//! Sums that do not show in which order their terms came.

/// Sums side by side.
const LANES: usize = 4;

/// A sum that remembers what rounding took from it (Neumaier 1974).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Compensated {
    sum: f64,
    lost: f64,
}

impl Compensated {
    /// Adds a value.
    #[inline]
    pub fn add(&mut self, value: f64) {
        let sum = self.sum + value;
        // Knuth's form of the exact error: no branch on which of the two is larger.
        let part = sum - self.sum;
        self.lost += (self.sum - (sum - part)) + (value - part);
        self.sum = sum;
    }

    /// Adds what is made of each value. Each addition waits for the one before it, so that several sums side by side are quicker.
    #[inline]
    pub fn add_each(&mut self, values: &[f64], make: impl Fn(f64) -> f64) {
        let (chunks, rest) = values.as_chunks::<LANES>();
        if !chunks.is_empty() {
            let (mut sums, mut losts) = ([0.0; LANES], [0.0; LANES]);
            for chunk in chunks {
                for ((sum, lost), value) in sums.iter_mut().zip(&mut losts).zip(chunk) {
                    let mut lane = Self { sum: *sum, lost: *lost };
                    lane.add(make(*value));
                    (*sum, *lost) = (lane.sum, lane.lost);
                }
            }
            for (sum, lost) in sums.into_iter().zip(losts) {
                self.add(sum);
                self.lost += lost;
            }
        }
        for value in rest {
            self.add(make(*value));
        }
    }

    /// The sum.
    pub fn total(self) -> f64 {
        self.sum + self.lost
    }
}

/// A sound level's energy relative to that of 0 dB.
#[inline]
pub fn energy(level: f64) -> f64 {
    (level * (std::f64::consts::LN_10 / 10.0)).exp()
}
