//! Whether a device speaks as it should, and how well it is. Pure.
//!
//! A device's [`Presence`] is the age of its newest observation, by phenomenon time, in expected intervals.
//!
//! Its score is the mean of its parts, weighted; parts of which nothing is known are left out. Each is a share from 0 to 1:
//!
//! | part | weight | share |
//! |---|--:|---|
//! | quality | 0.4 | mean over the observations of `1 - p`, where `p` is the highest [`penalty`] of an observation's flags |
//! | completeness | 0.3 | distinct phenomenon times / expected ones, at most 1 |
//! | freshness | 0.2 | 1 until the device is late, 0 from when it is silent, linear between |
//! | battery | 0.1 | 0 at 10 % and below, 1 at 40 % and above, linear between |

use hashbrown::HashMap;

use crate::model::Flags;

/// Whether a device speaks as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// Its newest observation is as new as expected.
    Online,
    /// It should have spoken by now.
    Late,
    /// It has not spoken for long.
    Silent,
    /// It has never told anything with a credible time.
    Never,
}

/// From how many expected intervals on a device counts as late or silent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Patience {
    /// Late from then on.
    pub late_intervals: f64,
    /// Silent from then on: more.
    pub silent_intervals: f64,
}

impl Presence {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Online, Self::Late, Self::Silent, Self::Never];

    /// Its word in questions and answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Late => "late",
            Self::Silent => "silent",
            Self::Never => "never",
        }
    }

    /// By the age of the newest observation, if there is one, in expected intervals.
    pub fn judge(age_intervals: Option<f64>, patience: Patience) -> Self {
        match age_intervals {
            None => Self::Never,
            Some(age) if age > patience.silent_intervals => Self::Silent,
            Some(age) if age > patience.late_intervals => Self::Late,
            Some(_age) => Self::Online,
        }
    }
}

/// What is known of a device over some time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// How many observations have which flags.
    pub flags: HashMap<Flags, u64>,
    /// At how many times it spoke.
    pub times: u64,
    /// At how many it should have, where that is known.
    pub times_expected: Option<f64>,
    /// Age of its newest observation, in expected intervals.
    pub age_intervals: Option<f64>,
    /// Its battery, in per cent.
    pub battery_level: Option<f64>,
}

/// One part of a score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// From 0 to 1.
    pub share: f64,
    /// Among the parts that are known.
    pub weight: f64,
}

/// How well a device is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// From 0 to 100.
    pub score: f64,
    /// Of its observations; none where there are none.
    pub quality: Option<Part>,
    /// None where nothing was expected.
    pub completeness: Option<Part>,
    /// Of its newest observation; 0 where there is none.
    pub freshness: Part,
    /// None where it does not tell.
    pub battery: Option<Part>,
}

/// How much a flag takes from an observation's worth: a wrong place leaves the value good, what is wrong with value or time does not.
pub fn penalty(flag: Flags) -> f64 {
    if Flags::MISPLACED.contains(flag) { 0.5 } else { 1.0 }
}

impl Score {
    /// See the module for the formula.
    pub fn of(evidence: &Evidence, patience: Patience) -> Self {
        let part = |share: f64, weight| Part { share: share.clamp(0.0, 1.0), weight };
        let total: u64 = evidence.flags.values().sum();
        let worth: f64 = evidence.flags.iter().map(|(flags, count)| (1.0 - worst(*flags)) * *count as f64).sum();
        let expected = evidence.times_expected.filter(|expected| *expected >= 1.0);
        let Patience { late_intervals, silent_intervals } = patience;
        let fresh = evidence.age_intervals.map_or(0.0, |age| (silent_intervals - age) / (silent_intervals - late_intervals));
        let quality = (total > 0).then(|| part(worth / total as f64, 0.4));
        let completeness = expected.map(|expected| part(evidence.times as f64 / expected, 0.3));
        let freshness = part(fresh, 0.2);
        let battery = evidence.battery_level.map(|level| part((level - 10.0) / 30.0, 0.1));
        let known = [quality, completeness, Some(freshness), battery];
        let (sum, weights) =
            known.iter().flatten().fold((0.0, 0.0), |(sum, weights), part| (part.share.mul_add(part.weight, sum), weights + part.weight));
        Self { score: 100.0 * sum / weights, quality, completeness, freshness, battery }
    }
}

/// The highest penalty of an observation's flags; bits without a name count like any other.
fn worst(flags: Flags) -> f64 {
    let unnamed = !flags.difference(Flags::MISPLACED).is_empty();
    if unnamed {
        1.0
    } else if flags.is_empty() {
        0.0
    } else {
        penalty(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { late_intervals: 2.0, silent_intervals: 5.0 };

    fn well() -> Evidence {
        Evidence {
            flags: [(Flags::empty(), 100)].into_iter().collect(),
            times: 100,
            times_expected: Some(100.0),
            age_intervals: Some(0.5),
            battery_level: Some(80.0),
        }
    }

    #[track_caller]
    fn check(evidence: &Evidence, expected: f64) {
        let score = Score::of(evidence, PATIENCE).score;
        assert!((score - expected).abs() < 1e-9, "{evidence:?} scores {score}, not {expected}");
    }

    #[test]
    fn each_part_takes_its_weight() {
        check(&well(), 100.0);
        let flagged = |flags: Flags| Evidence { flags: [(Flags::empty(), 50), (flags, 50)].into_iter().collect(), ..well() };
        check(&flagged(Flags::OUT_OF_RANGE), 80.0);
        check(&flagged(Flags::SWAPPED), 90.0);
        check(&flagged(Flags::SWAPPED | Flags::FUTURE), 80.0);
        check(&flagged(Flags::from_bits_retain(1 << 15)), 80.0);
        check(&Evidence { times: 50, ..well() }, 85.0);
        check(&Evidence { times: 150, ..well() }, 100.0);
        check(&Evidence { age_intervals: Some(3.5), ..well() }, 90.0);
        check(&Evidence { age_intervals: Some(1e9), ..well() }, 80.0);
        check(&Evidence { battery_level: Some(25.0), ..well() }, 95.0);
        check(&Evidence { battery_level: Some(3.0), ..well() }, 90.0);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        check(&Evidence { battery_level: None, ..well() }, 100.0);
        // 0.4 + 0.3 * 0.5 + 0.2 of 0.9.
        check(&Evidence { battery_level: None, times: 50, ..well() }, 100.0 * 0.75 / 0.9);
        check(&Evidence::default(), 0.0);
        check(&Evidence { times_expected: Some(10.0), ..Evidence::default() }, 0.0);
    }

    #[test]
    fn presence_is_an_age_in_intervals() {
        for (age, expected) in [
            (None, Presence::Never),
            (Some(0.0), Presence::Online),
            (Some(2.0), Presence::Online),
            (Some(2.1), Presence::Late),
            (Some(5.0), Presence::Late),
            (Some(5.1), Presence::Silent),
        ] {
            assert_eq!(Presence::judge(age, PATIENCE), expected, "{age:?}");
        }
    }
}
