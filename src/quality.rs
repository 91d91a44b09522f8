//! Whether a value can be believed: checks that set a flag, and never drop anything. Pure.
//!
//! | check | is suspect | looks at |
//! |---|---|---|
//! | [`Check::ErrorCode`] | a number that sensors send in place of a value | the value |
//! | [`Check::Stuck`] | the same value for too long | the series before it |
//! | [`Check::Spike`] | a lone jump away and back | the series before it |
//! | [`Check::Rate`] | a change faster than is plausible | the last value believed |
//! | [`Check::Humid`] | particles that may be droplets | the same device's humidity |
//! | [`Check::Neighbours`] | disagreement with the stations around | a summary of theirs, made every minute |
//!
//! The limits stand with each property in the catalogue ([`crate::model::QualityRules`]). Range, time and place are judged by
//! [`crate::normalise`], for which no other value is needed.
//!
//! What is remembered of a series ([`History`]) is some 70 bytes, in memory only: after a restart it builds up again as values
//! come, and until then spikes, rates and values that are stuck are not seen. It belongs to the writer of intake, which computes
//! with copies and hands them to [`Checks::learn`] once their commit is durable; after a failed one nothing has happened.
//!
//! The checks that look at the series before a value judge only what comes in order, since of what comes late they do not know the
//! series around it. The newest value of a series told again keeps what was said of it; an older one told again counts as not judged
//! until the store has found it to be a duplicate, which then keeps what was stored first. A value that is implausible in itself is not judged further, and does not enter the history. What is suspect
//! for its place only does: the value may well be good.

mod error_code;
mod humid;
mod neighbours;
mod rate;
mod spike;
mod stuck;

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use humid::Humidity;
pub use neighbours::{Neighbourhood, REFRESH, References};
use rate::Believed;
use spike::Window;
use stuck::Run;

use crate::model::{Catalogue, Flags, Observation, PropertyIndex, QualityRules};
use crate::state::{Latest, SeriesIndex};

/// A check that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// See [`Flags::ERROR_CODE`].
    ErrorCode,
    /// See [`Flags::STUCK`].
    Stuck,
    /// See [`Flags::SPIKE`].
    Spike,
    /// See [`Flags::RATE`].
    Rate,
    /// See [`Flags::HUMID`].
    Humid,
    /// See [`Flags::NEIGHBOURS`].
    Neighbours,
}

impl Check {
    /// Every check.
    pub const ALL: [Self; 6] = [Self::ErrorCode, Self::Stuck, Self::Spike, Self::Rate, Self::Humid, Self::Neighbours];
}

/// What is checked in the whole city.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The checks that are made.
    pub enabled: Vec<Check>,
    /// Error codes of any property, where they are no plausible value of it.
    pub error_codes: Vec<f64>,
}

/// After a longer silence than this a series begins anew: what was before it says nothing about what is.
const SILENCE: Duration = Duration::from_hours(6);

/// The flags of checks that look at the series before a value.
const OF_HISTORY: Flags = Flags::STUCK.union(Flags::SPIKE).union(Flags::RATE);

/// The checks, with what they remember. The default checks nothing.
#[derive(Debug, Default)]
pub struct Checks {
    /// By property.
    limits: Vec<Limits>,
    error_codes: Vec<f64>,
    humidity: Option<PropertyIndex>,
    /// By series.
    histories: Vec<History>,
    neighbourhood: Arc<Neighbourhood>,
}

/// What is checked of one property.
#[derive(Debug)]
struct Limits {
    min: f64,
    max: f64,
    checks_codes: bool,
    rules: QualityRules,
}

/// What is remembered of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct History {
    run: Run,
    window: Window,
    believed: Option<Believed>,
}

impl Checks {
    /// Makes the enabled checks; `neighbourhood` is brought up to date by somebody else.
    pub fn new(catalogue: &Catalogue, settings: &Settings, neighbourhood: Arc<Neighbourhood>) -> Self {
        let is_on = |check| settings.enabled.contains(&check);
        let limits = catalogue.iter().map(|(_index, property)| {
            let rules = property.quality.clone();
            Limits {
                min: property.min,
                max: property.max,
                checks_codes: is_on(Check::ErrorCode),
                rules: QualityRules {
                    error_codes: rules.error_codes,
                    stuck: rules.stuck.filter(|_rule| is_on(Check::Stuck)),
                    spike: rules.spike.filter(|_rule| is_on(Check::Spike)),
                    rate_max_per_minute: rules.rate_max_per_minute.filter(|_rule| is_on(Check::Rate)),
                    humidity_max: rules.humidity_max.filter(|_rule| is_on(Check::Humid)),
                    neighbours: rules.neighbours.filter(|_rule| is_on(Check::Neighbours)),
                },
            }
        });
        let (limits, error_codes) = (limits.collect(), settings.error_codes.clone());
        Self { limits, error_codes, humidity: catalogue.find("humidity"), histories: Vec::new(), neighbourhood }
    }

    /// What the stations around say at this moment; take it once a batch.
    pub fn references(&self) -> Arc<References> {
        self.neighbourhood.references()
    }

    /// What is remembered of a series.
    pub fn history(&self, series: SeriesIndex) -> History {
        self.histories.get(series.0 as usize).copied().unwrap_or_default()
    }

    /// Takes over what is remembered of series from now on, once it is durable what it follows from.
    pub fn learn(&mut self, histories: impl IntoIterator<Item = (SeriesIndex, History)>) {
        for (series, history) in histories {
            let index = series.0 as usize;
            if self.histories.len() <= index {
                self.histories.resize(index + 1, History::default());
            }
            if let Some(known) = self.histories.get_mut(index) {
                *known = history;
            }
        }
    }

    /// The flags of an observation that has some already, but for those that need other devices or properties. `latest` is the
    /// newest one before it in its series, `history` what is remembered of that, and moves on.
    pub fn judge(&self, observation: &Observation, latest: Option<&Latest>, history: &mut History) -> Flags {
        let mut flags = observation.flags;
        let Some(Limits { min, max, checks_codes, rules }) = self.limits.get(usize::from(observation.property.0)) else { return flags };
        let (time, value) = (observation.time.micros(), observation.value);
        if *checks_codes {
            let sent = observation.original.as_ref().map_or(value, |original| original.value);
            let is_plausible = !flags.contains(Flags::OUT_OF_RANGE);
            flags.set(Flags::ERROR_CODE, error_code::is_error_code(value, sent, is_plausible, &rules.error_codes, &self.error_codes));
        }
        if !flags.difference(Flags::MISPLACED).is_empty() {
            return flags;
        }
        match latest {
            // The same reading told again, which changes nothing.
            Some(latest) if latest.time == time && latest.value.to_bits() == value.to_bits() => {
                return flags | Flags::from_bits_retain(latest.flags).intersection(OF_HISTORY);
            }
            Some(latest) if latest.time >= time => return flags,
            _ => {}
        }
        if history.run.is_silent(time, SILENCE) {
            *history = History::default();
        }
        history.run = history.run.followed_by(time, value);
        let is_bound = [min, max].iter().any(|bound| bound.to_bits() == value.to_bits());
        if rules.stuck.is_some_and(|rule| !is_bound && history.run.is_stuck(time, rule)) {
            flags |= Flags::STUCK;
        }
        if let Some(rule) = rules.spike {
            flags.set(Flags::SPIKE, history.window.is_spike(value, rule));
            history.window.push(value);
        }
        if let Some(rate_max) = rules.rate_max_per_minute {
            flags.set(Flags::RATE, history.believed.is_some_and(|believed| believed.is_too_far(time, value, rate_max)));
            if !flags.intersects(Flags::SPIKE | Flags::RATE) {
                history.believed = Some(Believed { time, value });
            }
        }
        flags
    }

    /// Whether an observation's worth hangs on the humidity of the air, and above which one it has none.
    pub fn humidity_max(&self, property: PropertyIndex) -> Option<f64> {
        self.limits.get(usize::from(property.0))?.rules.humidity_max
    }

    /// The property that tells the humidity of the air.
    pub fn humidity(&self) -> Option<PropertyIndex> {
        self.humidity
    }

    /// The flags for an observation at `time` (microseconds) whose device told these humidities: time and value.
    pub fn judge_humidity(&self, time: i64, humidity_max: f64, told: impl IntoIterator<Item = (i64, f64)>) -> Flags {
        let told = told.into_iter().map(|(time, value)| Humidity { time, value });
        if humid::is_humid(time, humidity_max, told) { Flags::HUMID } else { Flags::empty() }
    }

    /// The flags for an observation beside those of the stations around.
    pub fn judge_neighbours(&self, references: &References, series: SeriesIndex, observation: &Observation) -> Flags {
        let has_rule = self.limits.get(usize::from(observation.property.0)).is_some_and(|limits| limits.rules.neighbours.is_some());
        let disagrees = has_rule && references.disagree(series, observation.time.micros(), observation.value);
        if disagrees { Flags::NEIGHBOURS } else { Flags::empty() }
    }
}

/// Microseconds of a duration.
fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
