//! From readings to observations: canonical unit, place, district, plausibility. Pure.
//!
//! A reading that cannot become an observation costs itself alone and is named in a [`Fault`]. What is merely doubtful
//! is kept and flagged. Age alone lowers trust only where a source says so: history may be replayed.

mod unit;

use std::sync::Arc;
use std::time::Duration;

use unit::{Conversions, UnitError};

use crate::model::{
    Catalogue, DeviceObservations, DistrictIndex, Districts, Fault, Flags, Kind, Normalised, Observation, Original, Position, Property,
    PropertyIndex, Reading, Readings, Reason, Registration, Registry, Summary, Timestamp, Value,
};

/// Which times a source may send, against the time of receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeBounds {
    /// Older readings are refused.
    pub past_max: Duration,
    /// Older readings, up to `past_max`, are flagged. `None`: whatever is taken is trusted, since history may be replayed.
    pub past_trusted_max: Option<Duration>,
    /// Readings further ahead are refused.
    pub future_max: Duration,
    /// Readings further ahead, up to `future_max`, are flagged: the sender's clock is not believed.
    pub skew_max: Duration,
}

/// Turns readings into observations.
#[derive(Debug)]
pub struct Normaliser {
    catalogue: Arc<Catalogue>,
    districts: Arc<Districts>,
    conversions: Conversions,
}

/// A position with what follows from it; found once a message, since its readings mostly share one.
#[derive(Clone, Copy)]
struct Located {
    position: Position,
    district: Option<DistrictIndex>,
    flags: Flags,
}

/// A canonical value and what was sent where that differs; or what is wrong.
type ValueResult = Result<(f64, Option<Box<Original>>), (Reason, String)>;

/// Why a unit, a UCUM code, cannot become another one; none where it can.
pub fn unit_problem(unit: &str, canonical: &str) -> Option<String> {
    unit::conversion(unit, canonical).err().map(|error| error.to_string())
}

impl Normaliser {
    /// Knows these properties and districts.
    pub fn new(catalogue: Arc<Catalogue>, districts: Arc<Districts>) -> Self {
        Self { catalogue, districts, conversions: Conversions::default() }
    }

    /// Normalises what was decoded of a message received at `received`, named in the words of the catalogue. The registry
    /// says where a device was at a reading's own time, for messages that say nothing of it.
    pub fn normalise<'a>(
        &self,
        devices: impl IntoIterator<Item = Readings<'a>>,
        received: Timestamp,
        bounds: &TimeBounds,
        registry: &Registry,
    ) -> Normalised {
        let mut normalised = Normalised::default();
        for Readings { device, kind, domain, readings, .. } in devices {
            let registered = registry.find_with_channels(device.as_str()).map(Arc::as_ref);
            let observations = self.observations(readings, received, bounds, registered, &mut normalised.faults);
            if let Some(first) = observations.first() {
                let domain = domain.unwrap_or_else(|| self.catalogue.get(first.property).domain);
                normalised.devices.push(DeviceObservations { device, kind, domain, observations });
            }
        }
        normalised
    }

    fn observations(
        &self,
        readings: Vec<Reading<'_>>,
        received: Timestamp,
        bounds: &TimeBounds,
        registered: Option<&Registration>,
        faults: &mut Vec<Fault>,
    ) -> Vec<Observation> {
        let mut observations = Vec::with_capacity(readings.len());
        let mut located: Option<Located> = None;
        for reading in readings {
            let place = reading.position.or_else(|| registered?.position_at(reading.time)).map(|position| match located {
                Some(known) if known.position == position => known,
                _ => *located.insert(self.locate(position)),
            });
            match self.observation(&reading, received, bounds, place) {
                Ok(observation) => observations.push(observation),
                Err(fault) => faults.push(fault),
            }
        }
        observations
    }

    fn locate(&self, position: Position) -> Located {
        let (longitude, latitude) = (position.longitude(), position.latitude());
        let flags = if longitude == 0.0 && latitude == 0.0 {
            Flags::NO_FIX
        } else if !self.districts.is_off_city(position) {
            Flags::empty()
        } else if Position::new(latitude, longitude).is_ok_and(|swapped| !self.districts.is_off_city(swapped)) {
            Flags::SWAPPED
        } else {
            Flags::OFF_CITY
        };
        let district = if flags.is_empty() { self.districts.find(position) } else { None };
        Located { position, district, flags }
    }

    fn observation(
        &self,
        reading: &Reading<'_>,
        received: Timestamp,
        bounds: &TimeBounds,
        place: Option<Located>,
    ) -> Result<Observation, Fault> {
        let fault = |reason, detail| Fault { reason, at: format!("/readings/{}", excerpt(&reading.name)), detail };
        let index = self
            .catalogue
            .find(&reading.name)
            .ok_or_else(|| fault(Reason::UnknownProperty, "no property of that id is in the catalogue".to_owned()))?;
        let property = self.catalogue.get(index);
        let mut flags = check_time(reading.time, received, bounds).map_err(|detail| fault(Reason::AbsurdTime, detail))?;
        let (value, original) = self.value(index, property, reading).map_err(|(reason, detail)| fault(reason, detail))?;
        if !(property.min..=property.max).contains(&value) {
            flags |= Flags::OUT_OF_RANGE;
        }
        if let Some(place) = place {
            flags |= place.flags;
        }
        Ok(Observation {
            property: index,
            time: reading.time,
            value,
            flags,
            position: place.map(|place| place.position),
            district: place.and_then(|place| place.district),
            original,
        })
    }

    /// The value in the canonical unit, and what was sent where a unit was converted.
    fn value(&self, index: PropertyIndex, property: &Property, reading: &Reading<'_>) -> ValueResult {
        let number = match &reading.value {
            Value::Number(number) if number.is_finite() => *number,
            Value::Number(_other) => return Err((Reason::InvalidValue, "not a finite number".to_owned())),
            Value::Word(word) => return state_code(property, word).map(|code| (code, None)),
        };
        if property.kind == Kind::State {
            return listed(property, number).map(|code| (code, None));
        }
        let unit = reading.unit.as_deref().filter(|unit| *unit != property.unit);
        let (converted, original) = match unit {
            None => (number, None),
            Some(unit) => {
                let converted = self.conversions.convert(number, unit, index, &property.unit).map_err(|error| match error {
                    UnitError::Unknown => (Reason::UnknownUnit, format!("{:?} is not a UCUM unit", excerpt(unit))),
                    UnitError::Dimension => (Reason::WrongDimension, format!("{:?} cannot become {}", excerpt(unit), property.unit)),
                })?;
                (converted, Some(Box::new(Original { value: number, unit: unit.to_owned() })))
            }
        };
        let mut value = property.round(converted);
        if !value.is_finite() {
            return Err((Reason::InvalidValue, "too large a number".to_owned()));
        }
        if property.summary == Summary::Circular && value.to_bits() == 360.0_f64.to_bits() {
            value = 0.0;
        }
        // One zero: identical readings must have identical bits.
        Ok((value + 0.0, original))
    }
}

/// Refuses absurd times, flags doubtful ones.
fn check_time(time: Timestamp, received: Timestamp, bounds: &TimeBounds) -> Result<Flags, String> {
    let ahead = time.since(received);
    if ahead > bounds.future_max {
        return Err(format!("{time} lies more than {:?} ahead", bounds.future_max));
    }
    let age = received.since(time);
    if age > bounds.past_max {
        return Err(format!("{time} lies more than {:?} back", bounds.past_max));
    }
    let mut flags = Flags::empty();
    flags.set(Flags::FUTURE, ahead > bounds.skew_max);
    flags.set(Flags::PAST, bounds.past_trusted_max.is_some_and(|trusted_max| age > trusted_max));
    Ok(flags)
}

fn state_code(property: &Property, word: &str) -> Result<f64, (Reason, String)> {
    let unlisted = || (Reason::InvalidValue, format!("{:?} is not {}", excerpt(word), states(property)));
    let code = property.states.iter().find(|(_code, state)| state.id == word).map(|(code, _state)| code.as_str());
    let code = code.or(match word {
        "true" if property.states.contains_key("1") => Some("1"),
        "false" if property.states.contains_key("0") => Some("0"),
        _ => None,
    });
    code.and_then(|code| code.parse().ok()).ok_or_else(unlisted)
}

fn listed(property: &Property, number: f64) -> Result<f64, (Reason, String)> {
    let known = property.states.keys().any(|code| code.parse() == Ok(number));
    if known { Ok(number + 0.0) } else { Err((Reason::InvalidValue, format!("{number} is not {}", states(property)))) }
}

fn states(property: &Property) -> String {
    if property.states.is_empty() {
        return "a number".to_owned();
    }
    let words: Vec<String> = property.states.iter().map(|(code, state)| format!("{code} ({})", state.id)).collect();
    format!("one of {}", words.join(", "))
}

/// The beginning of a text from outside.
fn excerpt(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests;
