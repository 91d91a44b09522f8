//! One device: who it is, where it stands, when it samples, and how it writes.

use jiff::Timestamp;

use super::city::{self, Place, Route};
use super::model::Kind;
use crate::catalogue::Catalogue;
use crate::noise::Noise;

/// A device of the fleet.
#[derive(Debug)]
pub struct Device {
    /// As in topics: `air-station-001`.
    pub id: String,
    pub kind: &'static Kind,
    /// Counts the devices of a kind from 1.
    pub number: usize,
    /// District of a device that stays where it is.
    pub district: Option<&'static str>,
    pub place: Place,
    pub topic: String,
    pub dialect: Dialect,
    pub(super) noise: Noise,
    pub(super) route: Option<Route>,
    clock: Clock,
}

/// How a device writes what the payload leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    pub time: TimeStyle,
    pub states: StateStyle,
    pub units: UnitStyle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeStyle {
    /// `2025-03-30T01:00:00Z`
    Utc,
    /// `2025-03-30T03:00:00+02:00`
    Local,
    /// `1743296400000`
    Milliseconds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateStyle {
    /// `"open"`
    Names,
    /// `1`
    Codes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitStyle {
    /// Numbers alone, in the catalogue's unit.
    Bare,
    /// The catalogue's unit, stated.
    Stated,
    /// Temperatures in degrees Fahrenheit.
    Fahrenheit,
    /// Energy in watt-hours.
    WattHours,
}

/// Sampling times: aligned to the epoch, so that they do not depend on when the fleet was started.
#[derive(Clone, Copy, Debug)]
struct Clock {
    interval_s: i64,
    phase_s: i64,
}

impl Device {
    pub(super) fn new(seed: u64, kind: &'static Kind, number: usize) -> Self {
        let id = format!("{}-{number:03}", kind.name);
        let noise = Noise::new(seed, &id);
        let route = kind.properties.contains(&"bus_speed").then(|| Route::new(number - 1));
        let (district, place) = city::place(number - 1, noise.split(u64::MAX));
        let interval_s = kind.properties.iter().map(|property| interval_s(property)).min().expect("a kind has properties");
        let phase_s = noise.split(u64::MAX - 1).bits(0).cast_signed().rem_euclid(interval_s);
        Self {
            topic: format!("conca/v1/{}/{}/{id}", kind.domain, kind.name),
            dialect: Dialect::of(kind, number),
            district: route.is_none().then_some(district),
            clock: Clock { interval_s, phase_s },
            id,
            kind,
            number,
            place,
            noise,
            route,
        }
    }

    /// Seconds between two samples.
    pub fn interval_s(&self) -> i64 {
        self.clock.interval_s
    }

    /// The first regular sample at this time or after it.
    pub fn sample_from(&self, time: Timestamp) -> Timestamp {
        let Clock { interval_s, phase_s } = self.clock;
        let second = if time.subsec_nanosecond() == 0 { time.as_second() } else { time.as_second() + 1 };
        let wait = (phase_s - second).rem_euclid(interval_s);
        Timestamp::from_second(second + wait).unwrap_or(Timestamp::MAX)
    }

    /// How many intervals after the epoch a regular sample is.
    pub(super) fn tick(&self, time: Timestamp) -> i64 {
        time.as_second().div_euclid(self.clock.interval_s)
    }

    /// Whether a sample carries this property: a battery is told once an hour by a door that reports every five minutes, and
    /// not when the door tells at once that it was opened.
    pub(super) fn tells(&self, property: &str, time: Timestamp) -> bool {
        let every = (interval_s(property) / self.clock.interval_s).max(1);
        every == 1 || (self.tick(time) % every == 0 && self.sample_from(time) == time)
    }
}

impl Dialect {
    fn of(kind: &Kind, number: usize) -> Self {
        let time = match number % 3 {
            0 => TimeStyle::Local,
            1 => TimeStyle::Utc,
            _ => TimeStyle::Milliseconds,
        };
        let states = if number.is_multiple_of(2) { StateStyle::Codes } else { StateStyle::Names };
        let units = match (kind.name, number) {
            ("weather-station", 3) => UnitStyle::Fahrenheit,
            ("energy-meter", number) if number.is_multiple_of(3) => UnitStyle::WattHours,
            (_, number) if number.is_multiple_of(5) => UnitStyle::Stated,
            _ => UnitStyle::Bare,
        };
        Self { time, states, units }
    }
}

fn interval_s(property: &str) -> i64 {
    Catalogue::embedded().get(property).map_or(60, |property| property.interval_s)
}
