//! What families of free JSON have in common: every number, truth value and word below a value is a field, named by its path.

use std::borrow::Cow;

use jiff::civil;
use jiff::tz::TimeZone;
use serde_json::{Map, Value as Json};

use super::{Limits, whole};
use crate::model::{Fault, Position, Reading, Reason, Timestamp, Value};

/// Longest word that is a reading: what is longer is a text for people.
const WORD_LEN_MAX: usize = 32;

/// Readings of one message, bounded in number.
pub(super) struct Fields {
    readings: Vec<Reading<'static>>,
    readings_max: usize,
    pub(super) time: Timestamp,
    pub(super) position: Option<Position>,
}

impl Fields {
    pub(super) fn new(time: Timestamp, limits: &Limits) -> Self {
        Self { readings: Vec::new(), readings_max: limits.readings_max, time, position: None }
    }

    /// Adds one field.
    pub(super) fn push(&mut self, name: &str, value: Value<'static>, unit: Option<&str>) -> Result<(), Fault> {
        if self.readings.len() >= self.readings_max {
            return Err(whole(Reason::TooManyReadings, format!("more than {} readings", self.readings_max)));
        }
        let unit = unit.map(|unit| Cow::Owned(unit.to_owned()));
        self.readings.push(Reading { name: Cow::Owned(name.to_owned()), value, unit, time: self.time, position: self.position });
        Ok(())
    }

    /// Adds everything below a value. `{"value": …, "unit": …}` is one field with its unit, and `{"name": …, "value": …}` in a list one of
    /// that name; null is no value. The depth is bounded by the JSON reader's own.
    pub(super) fn collect(&mut self, path: &str, value: &Json) -> Result<(), Fault> {
        match value {
            Json::Null => Ok(()),
            Json::Object(object) => {
                let unit = object.get("unit").and_then(Json::as_str);
                if let Some(value) = object.get("value").filter(|_value| unit.is_some()).and_then(scalar) {
                    return self.push(path, value, unit);
                }
                self.collect_object(path, object, |_key| false)
            }
            Json::Array(items) => items.iter().enumerate().try_for_each(|(index, item)| match item.as_object().and_then(Item::of) {
                Some(item) => self.collect_item(path, &item),
                None => self.collect(&below(path, &index.to_string()), item),
            }),
            other => scalar(other).map_or(Ok(()), |value| self.push(path, value, None)),
        }
    }

    /// Adds everything below an object but the keys that are `left_out`.
    pub(super) fn collect_object(&mut self, path: &str, object: &Map<String, Json>, left_out: impl Fn(&str) -> bool) -> Result<(), Fault> {
        let fields = object.iter().filter(|(key, _value)| !left_out(key));
        fields.into_iter().try_for_each(|(key, value)| self.collect(&below(path, key), value))
    }

    fn collect_item(&mut self, path: &str, item: &Item<'_>) -> Result<(), Fault> {
        let path = below(path, item.name);
        if let Some(value) = scalar(item.value) {
            self.push(&path, value, item.unit)?;
        }
        self.collect_object(&path, item.object, |key| item.keys.contains(&Some(key)))
    }

    pub(super) fn into_readings(self) -> Vec<Reading<'static>> {
        self.readings
    }
}

/// An item of a list that tells its own name.
struct Item<'a> {
    object: &'a Map<String, Json>,
    name: &'a str,
    value: &'a Json,
    unit: Option<&'a str>,
    /// Where they stand.
    keys: [Option<&'static str>; 3],
}

impl<'a> Item<'a> {
    fn of(object: &'a Map<String, Json>) -> Option<Self> {
        const NAME: [&str; 16] = [
            "obis",
            "OBIS",
            "obis_code",
            "OBIS_ID",
            "parameter",
            "measurand",
            "property",
            "observedProperty",
            "quantity",
            "variable",
            "metric",
            "measurement",
            "field",
            "name",
            "key",
            "type",
        ];
        const VALUE: [&str; 3] = ["value", "val", "v"];
        const UNIT: [&str; 3] = ["unit", "units", "uom"];
        let text = |keys: &[&'static str]| keys.iter().find_map(|key| Some((*key, object.get(*key)?.as_str()?)));
        // The attributes of NGSI-LD say so what they are.
        let (name_key, name) = text(&NAME).filter(|(_key, name)| !name.is_empty() && name.len() <= WORD_LEN_MAX && *name != "Property")?;
        let (value_key, value) =
            VALUE.iter().find_map(|key| Some((*key, object.get(*key).filter(|value| !value.is_array() && !value.is_object())?)))?;
        let (unit_key, unit) = text(&UNIT).unzip();
        Some(Self { object, name, value, unit, keys: [Some(name_key), Some(value_key), unit_key] })
    }
}

/// A key below a path; a dot inside a key is no new level.
fn below(path: &str, key: &str) -> String {
    let key = key.replace('.', "_");
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// A number, also one that is written as a text; a truth value; a word.
pub(super) fn scalar(value: &Json) -> Option<Value<'static>> {
    match value {
        Json::Number(number) => number.as_f64().filter(|number| number.is_finite()).map(Value::Number),
        Json::Bool(truth) => Some(Value::Word(Cow::Borrowed(if *truth { "true" } else { "false" }))),
        Json::String(text) => {
            let text = text.trim();
            let is_number = text.starts_with(|first: char| first.is_ascii_digit() || first == '-' || first == '+' || first == '.');
            match text.parse::<f64>().ok().filter(|number| is_number && number.is_finite()) {
                Some(number) => Some(Value::Number(number)),
                None => (!text.is_empty() && text.len() <= WORD_LEN_MAX).then(|| Value::Word(Cow::Owned(text.to_owned()))),
            }
        }
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

/// The decimal number that a sender of single precision meant: 21.3, not 21.299999237060547.
pub(super) fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_not_finite| f64::from(value))
}

/// RFC 3339, or ISO 8601 without a zone, which is UTC then.
pub(super) fn utc(text: &str) -> Option<Timestamp> {
    let told = text.parse().ok();
    told.or_else(|| {
        let local: civil::DateTime = text.parse().ok()?;
        Timestamp::from_micros(TimeZone::UTC.to_timestamp(local).ok()?.as_microsecond()).ok()
    })
}

/// A number, also one that is written as a text.
pub(super) fn number(value: &Json) -> Option<f64> {
    match scalar(value)? {
        Value::Number(number) => Some(number),
        Value::Word(_) => None,
    }
}

/// Where a device's own receiver says that it is: the first object that has both coordinates, at any depth.
pub(super) fn receiver(value: &Json) -> Option<Position> {
    const LATITUDE: [&str; 5] = ["lat", "latitude", "gpslat", "gpslatitude", "latitudedeg"];
    const LONGITUDE: [&str; 8] = ["lon", "lng", "long", "longitude", "gpslon", "gpslong", "gpslongitude", "longitudedeg"];
    match value {
        Json::Object(object) => {
            let find = |names: &[&str]| {
                let plain = |key: &str| key.chars().filter(|letter| letter.is_alphanumeric()).collect::<String>().to_ascii_lowercase();
                object.iter().find(|(key, _value)| names.contains(&plain(key).as_str())).map(|(_key, value)| value)
            };
            position(find(&LONGITUDE), find(&LATITUDE)).or_else(|| object.values().find_map(receiver))
        }
        Json::Array(items) => items.iter().find_map(receiver),
        _ => None,
    }
}

/// A position, where both coordinates are there and on the globe.
pub(super) fn position(longitude: Option<&Json>, latitude: Option<&Json>) -> Option<Position> {
    Position::new(number(longitude?)?, number(latitude?)?).ok()
}
