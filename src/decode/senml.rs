//! RFC 8428: Sensor Measurement Lists in JSON and CBOR.
//!
//! A device is the base name without the separators at its end, and the rest of the name is the field; without a base name
//! the name is split where its device ends, and what has no device has the topic's. A record without a field is named by
//! what its unit measures. Records of units `lat` and `lon` place the other records of their device from their time on.
//! Data values and update times are not taken.
//!
//! A record that is wrong costs itself; a base field that is wrong, the message: all further records build on it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use ciborium::Value as Cbor;
use serde_json::Value as Json;

use super::{Form, Limits, TopicNames, excerpt, not_json, too_many, whole};
use crate::model::{Decoded, DeviceId, DeviceKind, Fault, Message, Position, Reading, Readings, Reason, Timestamp, Value, Vocabulary};

/// Times below are seconds from now: section 4.5.3.
const ABSOLUTE_MIN: f64 = 268_435_456.0;
/// The version that RFC 8428 defines.
const VERSION: f64 = 10.0;
/// Every reading has its name, so that a long base name would be copied as often as there are records.
const NAME_LEN_MAX: usize = 256;

/// Labels and their numbers in CBOR.
const LABELS: [(&str, i8); 15] = [
    ("bver", -1),
    ("bn", -2),
    ("bt", -3),
    ("bu", -4),
    ("bv", -5),
    ("bs", -6),
    ("n", 0),
    ("u", 1),
    ("v", 2),
    ("vs", 3),
    ("vb", 4),
    ("s", 5),
    ("t", 6),
    ("ut", 7),
    ("vd", 8),
];

/// Decodes one message in JSON.
pub(super) fn decode_json<'a>(form: &Form, message: &'a Message, limits: &Limits) -> Result<Decoded<'a>, Fault> {
    let pack: Json = serde_json::from_str(super::text(message)?).map_err(|error| not_json(&error))?;
    let Json::Array(records) = pack else {
        return Err(whole(Reason::Shape, "an array of records is expected".to_owned()));
    };
    let records = records.into_iter().map(|record| match record {
        Json::Object(fields) => Some(fields.into_iter().map(|(label, value)| (label, Scalar::from(value))).collect()),
        _ => None,
    });
    settle(records, form, message, limits)
}

/// Decodes one message in CBOR.
pub(super) fn decode_cbor<'a>(form: &Form, message: &'a Message, limits: &Limits) -> Result<Decoded<'a>, Fault> {
    /// A pack is an array of maps of scalars; a decimal fraction is a tagged array.
    const DEPTH_MAX: usize = 16;
    if message.payload.is_empty() {
        return Err(whole(Reason::Empty, "the payload is empty".to_owned()));
    }
    let mut rest: &[u8] = &message.payload;
    let pack: Cbor = ciborium::de::from_reader_with_recursion_limit(&mut rest, DEPTH_MAX).map_err(|error| {
        let at = match error {
            ciborium::de::Error::Syntax(at) | ciborium::de::Error::Semantic(Some(at), _) => format!("byte {at}"),
            _ => String::new(),
        };
        let detail = match error {
            ciborium::de::Error::Io(_) => "the CBOR ends too early".to_owned(),
            ciborium::de::Error::RecursionLimitExceeded => format!("nested deeper than {DEPTH_MAX} levels"),
            ciborium::de::Error::Semantic(_, detail) => excerpt(&detail),
            ciborium::de::Error::Syntax(_) => "not CBOR".to_owned(),
        };
        Fault { reason: Reason::Malformed, at, detail }
    })?;
    if !rest.is_empty() {
        let at = format!("byte {}", message.payload.len() - rest.len());
        return Err(Fault { reason: Reason::Malformed, at, detail: "more than one item of CBOR".to_owned() });
    }
    let Cbor::Array(records) = untagged(pack) else {
        return Err(whole(Reason::Shape, "an array of records is expected".to_owned()));
    };
    let records = records.into_iter().map(|record| match untagged(record) {
        Cbor::Map(fields) => Some(fields.into_iter().map(|(label, value)| (label_of(&label), Scalar::from(value))).collect()),
        _ => None,
    });
    settle(records, form, message, limits)
}

/// What stands in the tag that marks a document as CBOR.
fn untagged(value: Cbor) -> Cbor {
    const SELF_DESCRIBED: u64 = 55_799;
    match value {
        Cbor::Tag(SELF_DESCRIBED, inner) => *inner,
        other => other,
    }
}

/// The text of a label; empty, and so ignored, where it is neither text nor a number that is known.
fn label_of(label: &Cbor) -> String {
    match label {
        Cbor::Text(text) => text.clone(),
        Cbor::Integer(number) => {
            let known = LABELS.iter().find(|(_label, code)| i128::from(*code) == i128::from(*number));
            known.map_or_else(String::new, |(label, _code)| (*label).to_owned())
        }
        _ => String::new(),
    }
}

/// A value of a field in JSON or CBOR.
#[derive(Clone, Debug, PartialEq)]
enum Scalar {
    Number(f64),
    Text(String),
    Truth(bool),
    Other,
}

impl From<Json> for Scalar {
    fn from(value: Json) -> Self {
        match value {
            Json::Number(number) => number.as_f64().map_or(Self::Other, Self::Number),
            Json::String(text) => Self::Text(text),
            Json::Bool(truth) => Self::Truth(truth),
            _ => Self::Other,
        }
    }
}

impl From<Cbor> for Scalar {
    fn from(value: Cbor) -> Self {
        match value {
            Cbor::Text(text) => Self::Text(text),
            Cbor::Bool(truth) => Self::Truth(truth),
            other => number_of(&other).map_or(Self::Other, Self::Number),
        }
    }
}

/// Section 6: an integer, a floating-point number or a decimal fraction.
fn number_of(value: &Cbor) -> Option<f64> {
    const DECIMAL_FRACTION: u64 = 4;
    match value {
        Cbor::Integer(number) => Some(i128::from(*number) as f64),
        Cbor::Float(number) => Some(*number),
        Cbor::Tag(DECIMAL_FRACTION, parts) => match parts.as_array().map(Vec::as_slice) {
            // By way of text: 273 at exponent -2 is 2.73, and not what a multiplication by 0.01 gives.
            Some([Cbor::Integer(exponent), Cbor::Integer(mantissa)]) => {
                format!("{}e{}", i128::from(*mantissa), i128::from(*exponent)).parse().ok()
            }
            _ => None,
        },
        _ => None,
    }
}

/// A record as it stands in the pack.
#[derive(Default)]
struct Record {
    name: Option<String>,
    unit: Option<String>,
    time: f64,
    values: Vec<RecordValue>,
    sum: Option<f64>,
    /// Has a field that is not a base field.
    is_entry: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum RecordValue {
    Number(f64),
    Word(String),
    Data,
}

/// The base fields so far.
#[derive(Default)]
struct Base {
    version: Option<f64>,
    name: String,
    unit: Option<String>,
    time: f64,
    value: f64,
    sum: f64,
}

/// A record on its own: section 4.6.
#[derive(Clone, Debug, PartialEq)]
struct Resolved {
    name: String,
    /// How much of the name is the base name.
    base_len: usize,
    unit: Option<String>,
    time: Timestamp,
    value: Option<RecordValue>,
    sum: Option<f64>,
}

/// What is wrong with a field: reason, detail.
type FieldResult<T> = Result<T, (Reason, String)>;

type Fields = Vec<(String, Scalar)>;

fn number(scalar: &Scalar) -> FieldResult<f64> {
    match scalar {
        Scalar::Number(number) if number.is_finite() => Ok(*number),
        Scalar::Number(_) => Err((Reason::InvalidValue, "not a finite number".to_owned())),
        _ => Err((Reason::Shape, "a number is expected".to_owned())),
    }
}

fn text(scalar: Scalar) -> FieldResult<String> {
    if let Scalar::Text(text) = scalar { Ok(text) } else { Err((Reason::Shape, "a text is expected".to_owned())) }
}

impl Base {
    /// Takes a base field; `false` where the field is none.
    fn take(&mut self, label: &str, scalar: &Scalar) -> FieldResult<bool> {
        match label {
            "bver" => {
                let version = number(scalar)?;
                if version > VERSION {
                    return Err((Reason::Unsupported, format!("version {version}: {VERSION} is the latest that is understood")));
                }
                if self.version.is_some_and(|other| other.to_bits() != version.to_bits()) {
                    return Err((Reason::Shape, "all records of a pack have the same version".to_owned()));
                }
                self.version = Some(version);
            }
            "bn" => {
                self.name = text(scalar.clone())?;
                if self.name.len() > NAME_LEN_MAX {
                    return Err((Reason::Name, format!("more than {NAME_LEN_MAX} bytes")));
                }
            }
            "bu" => self.unit = Some(text(scalar.clone())?),
            "bt" => self.time = number(scalar)?,
            "bv" => self.value = number(scalar)?,
            "bs" => self.sum = number(scalar)?,
            label if label.starts_with('b') && label.ends_with('_') => return Err(must_understand()),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Section 4.4.
fn must_understand() -> (Reason, String) {
    (Reason::Unsupported, "a field whose label ends with _ must be understood, and is not".to_owned())
}

impl Record {
    fn take(&mut self, label: &str, scalar: Scalar) -> FieldResult<()> {
        match label {
            "n" => self.name = Some(text(scalar)?),
            "u" => self.unit = Some(text(scalar)?),
            "t" => self.time = number(&scalar)?,
            "ut" => drop(number(&scalar)?),
            "v" => self.values.push(RecordValue::Number(number(&scalar)?)),
            "vs" => self.values.push(RecordValue::Word(text(scalar)?)),
            "vb" => match scalar {
                Scalar::Truth(truth) => self.values.push(RecordValue::Word(truth.to_string())),
                _ => return Err((Reason::Shape, "true or false is expected".to_owned())),
            },
            "vd" => self.values.push(RecordValue::Data),
            "s" => self.sum = Some(number(&scalar)?),
            label if label.ends_with('_') => return Err(must_understand()),
            _ => return Ok(()),
        }
        self.is_entry = true;
        Ok(())
    }

    /// The record with the base fields applied.
    fn resolve(self, base: &Base, received: Timestamp) -> Result<Resolved, (Reason, &'static str, String)> {
        let name = format!("{}{}", base.name, self.name.unwrap_or_default());
        if !is_name(&name) {
            let detail = format!(
                "{:?}: a name begins with a letter or digit, and has 1 to {NAME_LEN_MAX} of these or any of - : . / _",
                excerpt(&name)
            );
            return Err((Reason::Name, "/n", detail));
        }
        let mut values = self.values.into_iter();
        let (value, None) = (values.next(), values.next()) else {
            return Err((Reason::Shape, "", "a record has one value".to_owned()));
        };
        let value = match value {
            Some(RecordValue::Number(number)) => Some(RecordValue::Number(number + base.value)),
            Some(RecordValue::Data) => return Err((Reason::Unsupported, "/vd", "data values are not taken".to_owned())),
            None if self.sum.is_none() => return Err((Reason::Shape, "", "a record has a value or a sum".to_owned())),
            other => other,
        };
        let time = resolve_time(base.time + self.time, received).map_err(|detail| (Reason::AbsurdTime, "/t", detail))?;
        let unit = self.unit.or_else(|| base.unit.clone());
        Ok(Resolved { name, base_len: base.name.len(), unit, time, value, sum: self.sum.map(|sum| sum + base.sum) })
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-:./_".contains(&byte);
    name.len() <= NAME_LEN_MAX && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) && name.bytes().all(allowed)
}

fn resolve_time(seconds: f64, received: Timestamp) -> Result<Timestamp, String> {
    let micros = (seconds * 1e6).round();
    // What no timestamp can hold becomes the greatest or least number, which no timestamp can hold either.
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    let micros = micros as i64;
    let micros = if seconds < ABSOLUTE_MIN { received.micros().checked_add(micros) } else { Some(micros) };
    micros.and_then(|micros| Timestamp::from_micros(micros).ok()).ok_or_else(|| format!("{seconds} s lies outside 1900 to 2200"))
}

/// Resolves the records of a pack in their order; records of base fields alone give nothing. Ends one past `count_max`.
fn resolve(
    records: impl Iterator<Item = Option<Fields>>,
    received: Timestamp,
    count_max: usize,
) -> Result<(Vec<Resolved>, Vec<Fault>), Fault> {
    let (mut resolved, mut faults) = (Vec::new(), Vec::new());
    let mut base = Base::default();
    for (index, fields) in records.enumerate() {
        if resolved.len() + faults.len() > count_max {
            break;
        }
        let fault = |below: &str, reason, detail| Fault { reason, at: format!("/{index}{below}"), detail };
        let Some(fields) = fields else {
            faults.push(fault("", Reason::Shape, "an object is expected".to_owned()));
            continue;
        };
        let mut record = Record::default();
        let mut wrong = None;
        for (label, scalar) in fields {
            let at = || format!("/{}", excerpt(&label));
            if base.take(&label, &scalar).map_err(|(reason, detail)| fault(&at(), reason, detail))? {
                continue;
            }
            if let Err((reason, detail)) = record.take(&label, scalar) {
                wrong.get_or_insert_with(|| fault(&at(), reason, detail));
            }
        }
        if let Some(fault) = wrong {
            faults.push(fault);
        } else if record.is_entry {
            match record.resolve(&base, received) {
                Ok(record) => resolved.push(record),
                Err((reason, below, detail)) => faults.push(fault(below, reason, detail)),
            }
        }
    }
    Ok((resolved, faults))
}

/// The resolved records as readings of their devices.
fn settle<'a>(
    records: impl Iterator<Item = Option<Fields>>,
    form: &Form,
    message: &'a Message,
    limits: &Limits,
) -> Result<Decoded<'a>, Fault> {
    let (resolved, faults) = resolve(records, message.received, limits.readings_max)?;
    if resolved.is_empty() && faults.is_empty() {
        return Err(whole(Reason::Empty, "the pack has no values".to_owned()));
    }
    let names = form.topic.find(&message.topic);
    let places = places(&resolved, &names);
    let mut indices: BTreeMap<String, usize> = BTreeMap::new();
    let mut devices: Vec<Readings<'a>> = Vec::new();
    let mut count = faults.len();
    for record in &resolved {
        let (device, field) = record.split(&names);
        let field = field.into_owned();
        let known = places.get(device);
        if record.coordinate().is_some() && known.is_some() {
            continue;
        }
        let position = known.and_then(|places| {
            let before = places.range(..=record.time).next_back();
            before.or_else(|| places.iter().next()).map(|(_time, position)| *position)
        });
        let index = *indices.entry(device.to_owned()).or_insert_with(|| {
            devices.push(Readings {
                device: DeviceId::from_foreign(device),
                kind: DeviceKind::from_foreign(names.kind.unwrap_or("sensor")),
                domain: names.domain,
                vocabulary: Vocabulary::Sender { model: None },
                readings: Vec::new(),
            });
            devices.len() - 1
        });
        let Some(device) = devices.get_mut(index) else { continue };
        let time = record.time;
        if let Some(sum) = record.sum {
            // Section 4.2: in the unit times seconds.
            let unit = record.unit.as_ref().map(|unit| format!("{unit}.s").into());
            device.readings.push(Reading { name: format!("{field}.sum").into(), value: Value::Number(sum), unit, time, position });
            count += 1;
        }
        let value = match &record.value {
            Some(RecordValue::Number(number)) => Value::Number(*number),
            Some(RecordValue::Word(word)) => Value::Word(word.clone().into()),
            Some(RecordValue::Data) | None => continue,
        };
        device.readings.push(Reading { name: field.into(), value, unit: record.unit.clone().map(Into::into), time, position });
        count += 1;
    }
    if count > limits.readings_max {
        return Err(too_many(limits));
    }
    Ok(Decoded { devices, faults, replies: Vec::new() })
}

/// Where devices are and since when, by records of latitude and longitude of the same time.
fn places<'r>(resolved: &'r [Resolved], names: &TopicNames<'r>) -> BTreeMap<&'r str, BTreeMap<Timestamp, Position>> {
    let mut coordinates = BTreeMap::new();
    for record in resolved {
        let Some(coordinate) = record.coordinate() else { continue };
        let pair: &mut (Option<f64>, Option<f64>) = coordinates.entry((record.split(names).0, record.time)).or_default();
        match coordinate {
            Coordinate::Latitude(degrees) => pair.0 = Some(degrees),
            Coordinate::Longitude(degrees) => pair.1 = Some(degrees),
        }
    }
    let mut places: BTreeMap<&str, BTreeMap<Timestamp, Position>> = BTreeMap::new();
    for ((device, time), pair) in coordinates {
        if let (Some(latitude), Some(longitude)) = pair
            && let Ok(position) = Position::new(longitude, latitude)
        {
            places.entry(device).or_default().insert(time, position);
        }
    }
    places
}

enum Coordinate {
    Latitude(f64),
    Longitude(f64),
}

impl Resolved {
    fn coordinate(&self) -> Option<Coordinate> {
        let Some(RecordValue::Number(degrees)) = self.value else { return None };
        match self.unit.as_deref() {
            Some("lat") => Some(Coordinate::Latitude(degrees)),
            Some("lon") => Some(Coordinate::Longitude(degrees)),
            _ => None,
        }
    }

    /// Device and field.
    fn split<'s>(&'s self, names: &TopicNames<'s>) -> (&'s str, Cow<'s, str>) {
        let (base, rest) = self.name.split_at_checked(self.base_len).unwrap_or((&self.name, ""));
        let trimmed = base.trim_end_matches(SEPARATORS);
        let (device, field) = if trimmed.is_empty() { split_name(&self.name) } else { (Some(trimmed), rest) };
        let field = field.trim_matches(SEPARATORS);
        let field =
            if field.is_empty() { Cow::Borrowed(measured(self.unit.as_deref())) } else { Cow::Owned(field.replace([':', '/'], ".")) };
        (device.or(names.device).unwrap_or(&self.name), field)
    }
}

const SEPARATORS: [char; 4] = [':', '/', '.', '_'];

/// Device and field of a name that no base name divides.
fn split_name(name: &str) -> (Option<&str>, &str) {
    if name.parse::<std::net::Ipv6Addr>().is_ok() {
        return (Some(name), "");
    }
    // Device URNs, urn:dev:<type>:<id> (RFC 9039), and UUIDs.
    let levels = match name {
        urn if urn.starts_with("urn:dev:") => 4,
        urn if urn.starts_with("urn:uuid:") => 3,
        other => {
            return other
                .rsplit_once('/')
                .or_else(|| other.rsplit_once(':'))
                .map_or((None, other), |(device, field)| (Some(device), field));
        }
    };
    let end = name.match_indices([':', '/', '_']).nth(levels - 1).map_or(name.len(), |(at, _separator)| at);
    let (device, field) = name.split_at_checked(end).unwrap_or((name, ""));
    (Some(device), field)
}

/// What a unit of the SenML registry measures, for records that have no name but their device's.
fn measured(unit: Option<&str>) -> &'static str {
    match unit {
        Some("Cel" | "K") => "temperature",
        Some("%RH") => "humidity",
        Some("%EL") => "battery_level",
        Some("Pa" | "hPa") => "pressure",
        Some("lx") => "illuminance",
        Some("V") => "voltage",
        Some("A") => "current",
        Some("W" | "kW") => "power",
        Some("J" | "Wh" | "kWh") => "energy",
        Some("m/s") => "speed",
        Some("lat") => "latitude",
        Some("lon") => "longitude",
        _ => "value",
    }
}

#[cfg(test)]
mod tests;
