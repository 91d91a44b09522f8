//! Conca's own payload, version 1.
//!
//! Topic `conca/v1/<domain>/<kind>/<device>`; a JSON object, or an array of objects:
//!
//! ```json
//! {"time": "2026-03-01T08:00:00Z", "position": {"lon": 13.36, "lat": 38.11, "alt": 14.0},
//!  "readings": {"pm10": 31.2, "temperature": {"value": 64.9, "unit": "[degF]"}, "door": "open"}}
//! ```
//!
//! `time` is RFC 3339 text or whole epoch milliseconds; `alt`, in metres, is checked and not kept. What is wrong with one reading costs that reading, what is wrong
//! with an object's time or position costs the object's readings, and only what makes the rest unreadable costs the
//! message. Unknown keys beside these three are ignored: a sender may add its own.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Limits, excerpt, not_json, whole};
use crate::model::{
    Decoded, DeviceId, DeviceKind, Domain, Fault, Message, Position, Reading, Readings, Reason, Timestamp, Value, Vocabulary,
};

/// Decodes one message.
pub(super) fn decode<'a>(message: &'a Message, limits: &Limits) -> Result<Decoded<'a>, Fault> {
    let (domain, kind, device) = parse_topic(&message.topic)?;
    let text = super::text(message)?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let top = Top { readings_max: limits.readings_max };
    let objects =
        top.deserialize(&mut deserializer).and_then(|objects| deserializer.end().map(|()| objects)).map_err(|error| not_json(&error))?;
    let (objects, is_array) = match objects {
        Objects::One(object) => (vec![object], false),
        Objects::Many(objects) => (objects, true),
        Objects::Other(found) => return Err(whole(Reason::Shape, format!("{found} where an object or an array of objects is expected"))),
    };
    let count: usize = objects.iter().map(Object::readings_count).sum();
    if count > limits.readings_max {
        return Err(whole(Reason::TooManyReadings, format!("more than {} readings", limits.readings_max)));
    }
    let (mut readings, mut faults) = (Vec::with_capacity(count), Vec::new());
    for (index, object) in objects.into_iter().enumerate() {
        object.settle(if is_array { Some(index) } else { None }, &mut readings, &mut faults);
    }
    if readings.is_empty() && faults.is_empty() {
        return Err(whole(Reason::Empty, "the message has no readings".to_owned()));
    }
    let device = Readings { device, kind, domain: Some(domain), vocabulary: Vocabulary::Catalogue, readings };
    Ok(Decoded { devices: vec![device], faults, replies: Vec::new() })
}

fn parse_topic(topic: &str) -> Result<(Domain, DeviceKind, DeviceId), Fault> {
    let mut levels = topic.split('/');
    let (Some("conca"), Some("v1"), Some(domain), Some(kind), Some(device), None) =
        (levels.next(), levels.next(), levels.next(), levels.next(), levels.next(), levels.next())
    else {
        return Err(whole(Reason::Topic, format!("{:?} is not conca/v1/<domain>/<kind>/<device>", excerpt(topic))));
    };
    let domain = Domain::parse(domain)
        .ok_or_else(|| whole(Reason::Topic, format!("{:?} is not mobility, environment, energy or security", excerpt(domain))))?;
    let name = |level: &str, what: &str, error| whole(Reason::Name, format!("{what} {:?}: {error}", excerpt(level)));
    let kind = DeviceKind::try_from(kind).map_err(|error| name(kind, "kind", error))?;
    let device = DeviceId::try_from(device).map_err(|error| name(device, "device", error))?;
    Ok((domain, kind, device))
}

/// What stands at the top of the payload.
enum Objects<'a> {
    One(Object<'a>),
    Many(Vec<Object<'a>>),
    Other(&'static str),
}

/// One object of the payload; its faults are kept until the time is known.
#[derive(Default)]
struct Object<'a> {
    /// Not an object at all.
    other: Option<&'static str>,
    time: Option<Result<Timestamp, (Reason, String)>>,
    position: Option<Result<Position, String>>,
    readings: Vec<(Cow<'a, str>, MeasuredResult<'a>)>,
    readings_other: Option<&'static str>,
}

/// A reading's value and unit.
struct Measured<'a> {
    value: Value<'a>,
    unit: Option<Cow<'a, str>>,
}

/// A reading, or what is wrong with it: reason, the key below the reading's own, detail.
type MeasuredResult<'a> = Result<Measured<'a>, (Reason, &'static str, String)>;

impl<'a> Object<'a> {
    fn readings_count(&self) -> usize {
        self.readings.len()
    }

    /// Hands over readings and faults: every reading that is lost has exactly one fault.
    fn settle(self, index: Option<usize>, readings: &mut Vec<Reading<'a>>, faults: &mut Vec<Fault>) {
        let at = |path: &str| index.map_or_else(|| path.to_owned(), |index| format!("/{index}{path}"));
        let fault = |reason, path: &str, detail: String| Fault { reason, at: at(path), detail };
        if let Some(found) = self.other {
            faults.push(fault(Reason::Shape, "", format!("{found} where an object is expected")));
            return;
        }
        if let Some(found) = self.readings_other {
            faults.push(fault(Reason::Shape, "/readings", format!("{found} where an object is expected")));
            return;
        }
        let lost = match (&self.time, &self.position) {
            (None, _) => Some(fault(Reason::MissingTime, "/time", "an RFC 3339 text or whole epoch milliseconds are expected".to_owned())),
            (Some(Err((reason, detail))), _) => Some(fault(*reason, "/time", detail.clone())),
            (_, Some(Err(detail))) => Some(fault(Reason::InvalidPosition, "/position", detail.clone())),
            _ => None,
        };
        if let Some(fault) = lost {
            let count = self.readings.len().max(1);
            faults.extend(std::iter::repeat_n(fault, count));
            return;
        }
        let (Some(Ok(time)), position) = (self.time, self.position.and_then(Result::ok)) else { return };
        for (property, measured) in self.readings {
            match measured {
                Ok(Measured { value, unit }) => readings.push(Reading { name: property, value, unit, time, position }),
                Err((reason, below, detail)) => {
                    let path = format!("/readings/{}{below}", excerpt(&property).replace('~', "~0").replace('/', "~1"));
                    faults.push(fault(reason, &path, detail));
                }
            }
        }
    }
}

/// Makes a visitor that takes any JSON value: what is not expected becomes a value too, never an error, so that only
/// broken JSON ends the reading of the rest.
macro_rules! refuse {
    ($($method:ident: $type:ty => $name:literal),* $(,)?) => {
        $(fn $method<E>(self, _value: $type) -> Result<Self::Value, E> {
            Ok(self.refuse($name))
        })*
    };
}

struct Top {
    readings_max: usize,
}

impl Top {
    #[expect(clippy::unused_self, reason = "the shape that the macro expects")]
    fn refuse<'de>(self, found: &'static str) -> Objects<'de> {
        Objects::Other(found)
    }
}

impl<'de> DeserializeSeed<'de> for Top {
    type Value = Objects<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Top {
    type Value = Objects<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object or an array of objects")
    }

    refuse!(visit_bool: bool => "a boolean", visit_i64: i64 => "a number", visit_u64: u64 => "a number", visit_f64: f64 => "a number", visit_str: &str => "a text");

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(self.refuse("null"))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        ObjectSeed { readings_left: self.readings_max + 1 }.visit_map(map).map(Objects::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut objects = Vec::new();
        let mut left = self.readings_max + 1;
        while let Some(object) = items.next_element_seed(ObjectSeed { readings_left: left })? {
            // An object without readings still becomes a fault, so it counts against the limit too.
            left = left.saturating_sub(object.readings_count().max(1));
            if left == 0 {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                objects.push(object);
                // Whatever the sum is, it is too much.
                objects.push(Object { readings: overflow(self.readings_max), ..Object::default() });
                break;
            }
            objects.push(object);
        }
        Ok(Objects::Many(objects))
    }
}

/// As many empty readings as show that there are too many.
fn overflow<'a>(readings_max: usize) -> Vec<(Cow<'a, str>, MeasuredResult<'a>)> {
    (0..=readings_max).map(|_index| (Cow::Borrowed(""), Err((Reason::TooManyReadings, "", String::new())))).collect()
}

/// Reads one object; no more readings than it is allowed to are kept.
struct ObjectSeed {
    readings_left: usize,
}

impl ObjectSeed {
    #[expect(clippy::unused_self, reason = "the shape that the macro expects")]
    fn refuse<'de>(self, found: &'static str) -> Object<'de> {
        Object { other: Some(found), ..Object::default() }
    }
}

impl<'de> DeserializeSeed<'de> for ObjectSeed {
    type Value = Object<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ObjectSeed {
    type Value = Object<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    refuse!(visit_bool: bool => "a boolean", visit_i64: i64 => "a number", visit_u64: u64 => "a number", visit_f64: f64 => "a number", visit_str: &str => "a text");

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(self.refuse("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self.refuse("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut object = Object::default();
        while let Some(Key(key)) = map.next_key()? {
            match key.as_ref() {
                "time" => object.time = map.next_value_seed(TimeSeed)?,
                "position" => object.position = map.next_value_seed(PositionSeed)?,
                "readings" => map.next_value_seed(ReadingsSeed { object: &mut object, left: self.readings_left })?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(object)
    }
}

/// A key or text, borrowed where it has no escapes.
struct Key<'de>(Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<'de>(PhantomData<&'de ()>);
        impl<'de> Visitor<'de> for Text<'de> {
            type Value = Key<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text(PhantomData))
    }
}

struct TimeSeed;

impl TimeSeed {
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the shape that the macro expects")]
    fn refuse(self, found: &'static str) -> Option<Result<Timestamp, (Reason, String)>> {
        Some(Err((Reason::InvalidTime, format!("{found} where an RFC 3339 text or whole epoch milliseconds are expected"))))
    }
}

impl<'de> DeserializeSeed<'de> for TimeSeed {
    type Value = Option<Result<Timestamp, (Reason, String)>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TimeSeed {
    type Value = Option<Result<Timestamp, (Reason, String)>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a time")
    }

    refuse!(visit_bool: bool => "a boolean", visit_f64: f64 => "a number with a fraction");

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E: serde::de::Error>(self, millis: i64) -> Result<Self::Value, E> {
        Ok(Some(Timestamp::from_millis(millis).map_err(|_error| (Reason::AbsurdTime, format!("{millis} ms lies outside 1900 to 2200")))))
    }

    fn visit_u64<E: serde::de::Error>(self, millis: u64) -> Result<Self::Value, E> {
        self.visit_i64(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.parse().map_err(|error| (Reason::InvalidTime, format!("{:?}: {error}", excerpt(text))))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self.refuse("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(self.refuse("an object"))
    }
}

/// Altitudes that a position may have, in metres above sea level.
const ALTITUDES_M: std::ops::RangeInclusive<f64> = -500.0..=20_000.0;

struct PositionSeed;

impl PositionSeed {
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the shape that the macro expects")]
    fn refuse(self, found: &'static str) -> Option<Result<Position, String>> {
        Some(Err(format!("{found} where {{\"lon\", \"lat\"}} in degrees is expected")))
    }
}

impl<'de> DeserializeSeed<'de> for PositionSeed {
    type Value = Option<Result<Position, String>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PositionSeed {
    type Value = Option<Result<Position, String>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a position")
    }

    refuse!(visit_bool: bool => "a boolean", visit_i64: i64 => "a number", visit_u64: u64 => "a number", visit_f64: f64 => "a number", visit_str: &str => "a text");

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self.refuse("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut longitude, mut latitude, mut altitude) = (None, None, Some(Scalar::Number(0.0)));
        while let Some(Key(key)) = map.next_key()? {
            match key.as_ref() {
                "lon" => longitude = map.next_value_seed(ScalarSeed)?,
                "lat" => latitude = map.next_value_seed(ScalarSeed)?,
                "alt" => altitude = map.next_value_seed(ScalarSeed)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let (Some(Scalar::Number(longitude)), Some(Scalar::Number(latitude))) = (longitude, latitude) else {
            return Ok(self.refuse("an object without both numbers"));
        };
        if !matches!(altitude, Some(Scalar::Number(altitude)) if ALTITUDES_M.contains(&altitude)) {
            return Ok(Some(Err("alt is a number of metres from -500 to 20000".to_owned())));
        }
        Ok(Some(Position::new(longitude, latitude).map_err(|error| format!("lon {longitude}, lat {latitude}: {error}"))))
    }
}

struct ReadingsSeed<'o, 'de> {
    object: &'o mut Object<'de>,
    left: usize,
}

impl ReadingsSeed<'_, '_> {
    fn refuse(self, found: &'static str) {
        self.object.readings_other = Some(found);
    }
}

impl<'de> DeserializeSeed<'de> for ReadingsSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ReadingsSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of readings")
    }

    refuse!(visit_bool: bool => "a boolean", visit_i64: i64 => "a number", visit_u64: u64 => "a number", visit_f64: f64 => "a number", visit_str: &str => "a text");

    fn visit_unit<E>(self) -> Result<(), E> {
        self.refuse("null");
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        self.refuse("an array");
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let readings = &mut self.object.readings;
        while let Some(Key(property)) = map.next_key()? {
            if readings.len() >= self.left {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let mut measured = map.next_value_seed(MeasuredSeed)?;
            // Few readings, so looking through them is quicker than hashing.
            if readings.iter().any(|(earlier, _measured)| *earlier == property) {
                measured = Err((Reason::Shape, "", "the key appears twice: only the first counts".to_owned()));
            }
            readings.push((property, measured));
        }
        Ok(())
    }
}

struct MeasuredSeed;

impl MeasuredSeed {
    #[expect(clippy::unused_self, reason = "the shape that the macro expects")]
    fn refuse<'de>(self, found: &'static str) -> MeasuredResult<'de> {
        Err((Reason::Shape, "", format!("{found} where a number, a word or {{\"value\", \"unit\"}} is expected")))
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what every method of the visitor gives")]
fn plain(value: Value<'_>) -> MeasuredResult<'_> {
    Ok(Measured { value, unit: None })
}

impl<'de> DeserializeSeed<'de> for MeasuredSeed {
    type Value = MeasuredResult<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MeasuredSeed {
    type Value = MeasuredResult<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a reading")
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(plain(Value::Number(number)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(plain(Value::Number(number as f64)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(plain(Value::Number(number as f64)))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(plain(Value::Word(Cow::Borrowed(if value { "true" } else { "false" }))))
    }

    fn visit_borrowed_str<E>(self, word: &'de str) -> Result<Self::Value, E> {
        Ok(plain(Value::Word(Cow::Borrowed(word))))
    }

    fn visit_str<E>(self, word: &str) -> Result<Self::Value, E> {
        Ok(plain(Value::Word(Cow::Owned(word.to_owned()))))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Err((Reason::InvalidValue, "", "null is not a value: leave the reading out".to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self.refuse("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut value, mut unit) = (None, None);
        while let Some(Key(key)) = map.next_key()? {
            match key.as_ref() {
                // Nested no deeper than one level: a value that is an object is refused by its own visitor.
                "value" => value = Some(map.next_value_seed(ScalarSeed)?),
                "unit" => unit = Some(map.next_value_seed(ScalarSeed)?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let unit = match unit {
            None => None,
            Some(Some(Scalar::Text(unit))) => Some(unit),
            Some(_other) => return Ok(Err((Reason::Shape, "/unit", "a unit is a text".to_owned()))),
        };
        Ok(match value {
            Some(Some(value)) => Ok(Measured { value: value.into(), unit }),
            Some(None) => Err((Reason::InvalidValue, "/value", "a value is a number or a word".to_owned())),
            None => Err((Reason::Shape, "", "an object without \"value\"".to_owned())),
        })
    }
}

/// A JSON scalar other than null.
enum Scalar<'a> {
    Number(f64),
    Text(Cow<'a, str>),
    Truth(bool),
}

impl<'a> From<Scalar<'a>> for Value<'a> {
    fn from(scalar: Scalar<'a>) -> Self {
        match scalar {
            Scalar::Number(number) => Self::Number(number),
            Scalar::Text(word) => Self::Word(word),
            Scalar::Truth(value) => Self::Word(Cow::Borrowed(if value { "true" } else { "false" })),
        }
    }
}

/// A scalar; `None` for anything else.
struct ScalarSeed;

impl<'de> DeserializeSeed<'de> for ScalarSeed {
    type Value = Option<Scalar<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ScalarSeed {
    type Value = Option<Scalar<'de>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number or a word")
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Some(Scalar::Number(number)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(Scalar::Number(number as f64)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(Scalar::Number(number as f64)))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(Scalar::Truth(value)))
    }

    fn visit_borrowed_str<E>(self, word: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Scalar::Text(Cow::Borrowed(word))))
    }

    fn visit_str<E>(self, word: &str) -> Result<Self::Value, E> {
        Ok(Some(Scalar::Text(Cow::Owned(word.to_owned()))))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
