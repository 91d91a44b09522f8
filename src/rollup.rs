//! Rollups: what is kept of the readings of a bucket so that long questions need not look at each of them. Pure.
//!
//! - Statistics are mergeable: those of a day are the same whether they come from its readings, its hours or its quarters of an hour
//!   (sums but for rounding), except for percentiles, which a sketch knows to a stated relative error.
//! - Trusted and suspect readings are kept apart; all of them together are the two merged.
//!
//! Not here: where rollups are stored and when they are made anew ([`crate::store`]), which of them answers a question
//! ([`crate::query`]). What depends on how long a value holds (time-weighted means, times in a state) is not rolled up: that is the
//! registry's word, which may change after the fact.

mod statistics;
mod sum;

pub use statistics::{Kept, RELATIVE_ERROR, Seen, Sketch, Statistic, Statistics, Tally, growth, squares_together};
pub use sum::{Compensated, energy};

use std::fmt;
use std::str::FromStr;

use crate::model::WindowSize;

/// How long the buckets are, on the local calendar of the city.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// 15 minutes.
    Quarter,
    /// An hour.
    Hour,
    /// A calendar day.
    Day,
}

impl Tier {
    /// Every one, the coarsest first.
    pub const COARSEST_FIRST: [Self; 3] = [Self::Day, Self::Hour, Self::Quarter];

    /// Its buckets are these windows.
    pub fn size(self) -> WindowSize {
        match self {
            Self::Quarter => WindowSize::Minutes(15),
            Self::Hour => WindowSize::Hours(1),
            Self::Day => WindowSize::Day,
        }
    }

    /// Its word in tables and answers, that of its windows.
    pub fn word(self) -> &'static str {
        match self {
            Self::Quarter => "15m",
            Self::Hour => "1h",
            Self::Day => "1d",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

/// The text names no tier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of 15m 1h 1d")]
pub struct InvalidTier(String);

impl FromStr for Tier {
    type Err = InvalidTier;

    fn from_str(text: &str) -> Result<Self, InvalidTier> {
        let known = Self::COARSEST_FIRST.into_iter().find(|tier| tier.word() == text);
        known.ok_or_else(|| InvalidTier(text.chars().take(20).collect()))
    }
}
