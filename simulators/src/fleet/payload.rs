//! Samples as `conca/v1` payloads, each device in its own dialect.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::city::Place;
use super::device::{Device, Dialect, StateStyle, TimeStyle, UnitStyle};
use super::moment::Moment;
use crate::catalogue::Property;
use crate::noise::whole;

/// What a device observed at a time: settled values in canonical units.
#[derive(Clone, Debug)]
pub struct Sample {
    pub time: Timestamp,
    pub place: Place,
    pub values: Vec<(&'static Property, f64)>,
}

/// One object, as devices send when they are connected.
pub(super) fn single(device: &Device, sample: &Sample) -> Vec<u8> {
    serde_json::to_vec(&Object { dialect: device.dialect, sample }).expect("numbers are finite and keys are text")
}

/// An array, as gateways send when they catch up.
///
/// # Panics
///
/// Never: numbers are finite and keys are text.
pub fn array(device: &Device, samples: &[Sample]) -> Vec<u8> {
    let objects: Vec<Object<'_>> = samples.iter().map(|sample| Object { dialect: device.dialect, sample }).collect();
    serde_json::to_vec(&objects).expect("numbers are finite and keys are text")
}

struct Object<'a> {
    dialect: Dialect,
    sample: &'a Sample,
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields<'a> {
            time: Time,
            position: Position,
            readings: Readings<'a>,
        }
        #[derive(Serialize)]
        struct Position {
            lon: f64,
            lat: f64,
        }
        let Sample { time, place, values } = self.sample;
        let time = match self.dialect.time {
            TimeStyle::Utc => Time::Text(time.to_string()),
            TimeStyle::Local => Time::Text(Moment::at(*time).local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()),
            TimeStyle::Milliseconds => Time::Milliseconds(time.as_millisecond()),
        };
        let readings = Readings { dialect: self.dialect, values };
        Fields { time, position: Position { lon: place.lon, lat: place.lat }, readings }.serialize(serializer)
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Time {
    Text(String),
    Milliseconds(i64),
}

struct Readings<'a> {
    dialect: Dialect,
    values: &'a [(&'static Property, f64)],
}

impl Serialize for Readings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.values.iter().map(|(property, value)| (&property.id, reading(self.dialect, property, *value))))
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Reading {
    State(&'static str),
    Bare(Number),
    WithUnit { value: Number, unit: &'static str },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Number {
    Whole(i64),
    Fraction(f64),
}

fn reading(dialect: Dialect, property: &'static Property, value: f64) -> Reading {
    let state = property.state(whole(value));
    match (dialect.units, property.unit.as_str()) {
        _ if state.is_some() => match dialect.states {
            StateStyle::Names => Reading::State(state.unwrap_or_default()),
            StateStyle::Codes => Reading::Bare(number(value)),
        },
        (UnitStyle::Fahrenheit, "Cel") => Reading::WithUnit { value: number(((value * 1.8 + 32.0) * 10.0).round() / 10.0), unit: "[degF]" },
        (UnitStyle::WattHours, "kW.h") => Reading::WithUnit { value: number((value * 1_000.0).round()), unit: "W.h" },
        (UnitStyle::Stated, unit) => Reading::WithUnit { value: number(value), unit },
        _ => Reading::Bare(number(value)),
    }
}

/// Devices write `42`, not `42.0`.
fn number(value: f64) -> Number {
    if value.fract() == 0.0 { Number::Whole(whole(value)) } else { Number::Fraction(value) }
}

#[cfg(test)]
mod tests {
    use super::{Sample, single};
    use crate::catalogue::Catalogue;
    use crate::fleet::Fleet;

    fn check(device: &str, values: &[(&str, f64)], expected: &str) {
        let fleet = Fleet::new(1, 1.0, "2025-03-30T12:00:00Z".parse().unwrap());
        let device = fleet.devices().iter().find(|candidate| candidate.id == device).unwrap();
        let values = values.iter().map(|(id, value)| (Catalogue::embedded().get(id).unwrap(), *value)).collect();
        let place = super::Place { lon: 13.36, lat: 38.11 };
        let sample = Sample { time: "2025-03-30T01:00:00Z".parse().unwrap(), place, values };
        assert_eq!(String::from_utf8(single(device, &sample)).unwrap(), expected);
    }

    #[test]
    fn devices_speak_dialects() {
        check(
            "air-station-001",
            &[("pm10", 31.2), ("co2", 431.0)],
            r#"{"time":"2025-03-30T01:00:00Z","position":{"lon":13.36,"lat":38.11},"readings":{"pm10":31.2,"co2":431}}"#,
        );
        check(
            "weather-station-003",
            &[("temperature", 18.3), ("humidity", 60.5)],
            r#"{"time":"2025-03-30T03:00:00+02:00","position":{"lon":13.36,"lat":38.11},"readings":{"temperature":{"value":64.9,"unit":"[degF]"},"humidity":60.5}}"#,
        );
        check(
            "energy-meter-003",
            &[("energy_active", 123_456.789)],
            r#"{"time":"2025-03-30T03:00:00+02:00","position":{"lon":13.36,"lat":38.11},"readings":{"energy_active":{"value":123456789,"unit":"W.h"}}}"#,
        );
        check(
            "door-contact-001",
            &[("door", 1.0), ("battery_level", 80.0)],
            r#"{"time":"2025-03-30T01:00:00Z","position":{"lon":13.36,"lat":38.11},"readings":{"door":"open","battery_level":80}}"#,
        );
        check("door-contact-002", &[("door", 1.0)], r#"{"time":1743296400000,"position":{"lon":13.36,"lat":38.11},"readings":{"door":1}}"#);
        check(
            "air-station-010",
            &[("no2", 20.5)],
            r#"{"time":"2025-03-30T01:00:00Z","position":{"lon":13.36,"lat":38.11},"readings":{"no2":{"value":20.5,"unit":"ug/m3"}}}"#,
        );
    }
}
