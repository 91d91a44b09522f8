//! Context entities of FIWARE brokers: NGSI-v2 (Orion) and NGSI-LD (Orion-LD, Scorpio, Stellio), as they notify of them.
//!
//! All forms are taken, and may be mixed: normalized, concise and simplified; one entity, an array of them, the notification of
//! either, GeoJSON features, and the envelope that Orion-LD has over MQTT (`{"metadata": …, "body": …}`).
//!
//! - **The device** is `refDevice` where the entity has one, else the entity's own id without its type; a time at the id's end is left out,
//!   since models that make an entity of each observation must not make a device of each. The entity's type is the model.
//! - **Time** is the attribute's own (`observedAt`, metadata `TimeInstant`, `dateObserved` or `timestamp`), else the entity's
//!   (`dateObservedFrom`, `dateObserved`, `TimeInstant`, `dateLastValueReported`, `observedAt`, `dateModified`), else the
//!   notification's, else that of receipt. Of an interval it is the beginning, so that an hour's value belongs to its hour. A time
//!   without zone is UTC, as NGSI-v2 says.
//! - **What is left out**: relationships, and the attributes by which models describe an entity rather than observe it. A forecast
//!   is no observation and is refused.

use std::borrow::Cow;

use serde_json::{Map, Value as Json};

use super::fields::{Fields, number, position, scalar, utc};
use super::{Form, Limits, excerpt, not_json, text, too_many};
use crate::model::{Decoded, DeviceId, DeviceKind, Fault, Message, Position, Readings, Reason, Timestamp, Vocabulary};

/// Attributes that describe an entity; as are all that begin with `ref`, `has` or `date`.
const DESCRIPTIVE: [&str; 34] = [
    "id",
    "type",
    "@context",
    "address",
    "alternateName",
    "areaServed",
    "annotations",
    "category",
    "contactPoint",
    "controlledAsset",
    "createdAt",
    "color",
    "dataProvider",
    "description",
    "image",
    "location",
    "measurand",
    "modifiedAt",
    "name",
    "notes",
    "observedAt",
    "openingHours",
    "owner",
    "position",
    "seeAlso",
    "serialNumber",
    "source",
    "stationCode",
    "stationName",
    "TimeInstant",
    "timestamp",
    "typeOfLocation",
    "validity",
    "version",
];

const TIMES: [&str; 8] = [
    "dateObservedFrom",
    "dateObserved",
    "TimeInstant",
    "dateLastValueReported",
    "observedAt",
    "observationDateTime",
    "dateModified",
    "modifiedAt",
];

/// An attribute in any of its forms.
#[derive(Clone, Copy, Debug, Default)]
struct Attribute<'a> {
    value: Option<&'a Json>,
    unit: Option<&'a str>,
    time: Option<&'a Json>,
    /// Tells instances of one attribute apart.
    dataset: Option<&'a str>,
    is_relation: bool,
}

impl<'a> Attribute<'a> {
    fn of(attribute: &'a Json) -> Self {
        let Json::Object(object) = attribute else { return Self { value: Some(attribute), ..Self::default() } };
        let kind = object.get("type").and_then(Json::as_str);
        let metadata =
            |name: &str| object.get("metadata").and_then(|metadata| metadata.get(name)).map(|entry| entry.get("value").unwrap_or(entry));
        let own = |name: &str| object.get(name).map(|entry| entry.get("value").unwrap_or(entry));
        let is_relation = kind == Some("Relationship") || object.contains_key("object");
        // A value with nothing beside it but what NGSI puts there; else the object is the value itself, such as a place in GeoJSON.
        let is_wrapped = object.contains_key("value")
            && (kind.is_some()
                || object.keys().all(|key| ["value", "metadata", "unitCode", "observedAt", "datasetId"].contains(&key.as_str())));
        if !is_wrapped {
            return Self { value: Some(attribute), is_relation, ..Self::default() };
        }
        let units = ["unitCode", "unit", "unitText", "measurementUnit"];
        let unit = units.iter().find_map(|name| own(name).or_else(|| metadata(name)).and_then(Json::as_str));
        let times = ["observedAt", "TimeInstant", "dateObserved", "timestamp"];
        Self {
            value: object.get("value"),
            unit: unit.filter(|unit| !unit.is_empty()),
            time: times.iter().find_map(|name| own(name).or_else(|| metadata(name))),
            dataset: object.get("datasetId").and_then(Json::as_str),
            is_relation,
        }
    }
}

/// Decodes one message.
pub(super) fn decode(form: &Form, message: &Message, limits: &Limits) -> Result<Decoded<'static>, Fault> {
    let json: Json = serde_json::from_str(text(message)?).map_err(|error| not_json(&error))?;
    let (entities, at, notified) = entities(&json);
    let received = notified.and_then(instant).unwrap_or(message.received);
    if entities.len() > limits.readings_max {
        return Err(too_many(limits));
    }
    let mut decoded = Decoded::default();
    let mut left = limits.readings_max;
    for (index, entity) in entities.iter().enumerate() {
        let at = at.map_or_else(String::new, |at| format!("{at}/{index}"));
        let limits = Limits { readings_max: left, ..*limits };
        match readings(form, message, entity, received, &limits) {
            Ok((readings, faults)) => {
                let count = readings.readings.len() + faults.len();
                if count > left {
                    return Err(too_many(&limits));
                }
                left -= count;
                decoded.devices.push(readings);
                decoded.faults.extend(faults.into_iter().map(|fault| Fault { at: format!("{at}{}", fault.at), ..fault }));
            }
            Err(fault) if fault.reason == Reason::TooManyReadings || left == 0 => return Err(too_many(&limits)),
            Err(fault) => {
                left -= 1;
                decoded.faults.push(Fault { at: at + &fault.at, ..fault });
            }
        }
    }
    Ok(decoded)
}

/// The entities of a message, where they stand if there may be several, and when the broker told.
fn entities(json: &Json) -> (Vec<&Json>, Option<&'static str>, Option<&Json>) {
    match json {
        Json::Array(entities) => (entities.iter().collect(), Some(""), None),
        Json::Object(object) => {
            let notified = object.get("notifiedAt");
            if let Some(body) = object.get("body").filter(|_body| object.contains_key("metadata") && !object.contains_key("id")) {
                return entities(body);
            }
            match (object.get("data"), object.get("features")) {
                (Some(Json::Array(entities)), _) => (entities.iter().collect(), Some("/data"), notified),
                (Some(data @ Json::Object(_)), _) if object.contains_key("subscriptionId") => {
                    let (found, _at, _notified) = entities(data);
                    (found, Some("/data"), notified)
                }
                (_, Some(Json::Array(features))) if object.get("type").and_then(Json::as_str) == Some("FeatureCollection") => {
                    (features.iter().collect(), Some("/features"), notified)
                }
                _ => (vec![json], None, notified),
            }
        }
        other => (vec![other], None, None),
    }
}

fn readings(
    form: &Form,
    message: &Message,
    entity: &Json,
    received: Timestamp,
    limits: &Limits,
) -> Result<(Readings<'static>, Vec<Fault>), Fault> {
    let shape = |at: &str, detail: &str| Fault { reason: Reason::Shape, at: at.to_owned(), detail: detail.to_owned() };
    let Json::Object(outer) = entity else { return Err(shape("", "an entity is an object")) };
    // A GeoJSON feature has the attributes in its properties.
    let feature =
        (outer.get("type").and_then(Json::as_str) == Some("Feature")).then(|| outer.get("properties").and_then(Json::as_object)).flatten();
    let attributes = feature.unwrap_or(outer);
    let id = outer.get("id").or_else(|| attributes.get("id")).and_then(Json::as_str).filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| shape("/id", "an entity has an id"))?;
    let kind = match attributes.get("type") {
        Some(Json::String(kind)) => Some(kind.as_str()),
        // Of several types, the first.
        Some(Json::Array(kinds)) => kinds.first().and_then(Json::as_str),
        _ => None,
    };
    let kind = last_part(kind.filter(|kind| !kind.is_empty()).ok_or_else(|| shape("/type", "an entity has a type"))?);
    if kind.ends_with("Forecast") {
        let detail = format!("{} is a forecast, and no observation", excerpt(kind));
        return Err(Fault { reason: Reason::Unsupported, at: "/type".to_owned(), detail });
    }
    let mut faults = Vec::new();
    let told = TIMES.iter().find_map(|name| attributes.get(*name).map(|time| (*name, time)));
    let time = match told {
        None => received,
        Some((name, time)) => {
            Attribute::of(time).value.or_else(|| time.get("object")).and_then(instant).ok_or_else(|| invalid_time(name, time))?
        }
    };
    let geometry = feature.and_then(|_properties| outer.get("geometry"));
    let place = ["location", "position"].iter().find_map(|name| attributes.get(*name)).and_then(|place| Attribute::of(place).value);
    let place = geometry.or(place).and_then(point);
    let mut fields = Fields::new(time, limits);
    fields.position = place;
    for (name, attribute) in attributes {
        let short = last_part(name);
        if short == "measurand" {
            Attribute::of(attribute).value.map_or(Ok(()), |value| collect_measurands(value, &mut fields))?;
        }
        let is_named =
            |prefix: &str| short.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_uppercase()));
        if DESCRIPTIVE.contains(&short) || ["ref", "has", "date"].iter().any(|prefix| is_named(prefix)) {
            continue;
        }
        let instances = match attribute {
            Json::Array(instances) if instances.iter().all(|instance| instance.get("value").is_some()) => instances.iter().collect(),
            one => vec![one],
        };
        for instance in instances {
            let attribute = Attribute::of(instance);
            let Some(value) = attribute.value.filter(|_value| !attribute.is_relation) else { continue };
            if value.get("coordinates").is_some() {
                continue;
            }
            let own = attribute.time.map(|own| instant(own).ok_or_else(|| invalid_time(name, own)));
            match own.transpose() {
                Ok(own) => fields.time = own.unwrap_or(time),
                Err(fault) => {
                    faults.push(fault);
                    continue;
                }
            }
            let path = attribute.dataset.map_or_else(|| short.to_owned(), |dataset| format!("{short}.{}", last_part(dataset)));
            match scalar(value) {
                Some(told) if !is_date(value) => fields.push(&path, told, attribute.unit)?,
                Some(_date) => {}
                None => fields.collect(&path, value)?,
            }
        }
    }
    let names = form.topic.find(&message.topic);
    let readings = Readings {
        device: DeviceId::from_foreign(&device(attributes, id, kind)),
        kind: DeviceKind::from_foreign(names.kind.unwrap_or(kind)),
        domain: names.domain,
        vocabulary: Vocabulary::Sender { model: Some(Cow::Owned(kind.to_owned())) },
        readings: fields.into_readings(),
    };
    Ok((readings, faults))
}

/// `measurand` of older models: `"CO, 500, GP, Carbon Monoxide"`.
fn collect_measurands(value: &Json, fields: &mut Fields) -> Result<(), Fault> {
    let texts = value.as_array().map_or_else(|| vec![value], |texts| texts.iter().collect());
    for text in texts.into_iter().filter_map(Json::as_str) {
        let mut parts = text.split(',').map(str::trim);
        let (Some(name), Some(value)) = (parts.next(), parts.next().and_then(|value| number(&Json::from(value)))) else { continue };
        fields.push(name, crate::model::Value::Number(value), parts.next().filter(|unit| !unit.is_empty()))?;
    }
    Ok(())
}

fn invalid_time(name: &str, told: &Json) -> Fault {
    let detail = format!("{:?} is no time of ISO 8601", excerpt(&told.to_string()));
    Fault { reason: Reason::InvalidTime, at: format!("/{name}"), detail }
}

/// The part of an IRI or of a prefixed name that names.
fn last_part(name: &str) -> &str {
    name.rsplit(['/', '#']).next().filter(|part| !part.is_empty()).unwrap_or(name)
}

/// Who observes.
fn device(attributes: &Map<String, Json>, id: &str, kind: &str) -> String {
    let told = attributes.get("refDevice").and_then(|device| {
        let named = device.get("object").or_else(|| device.get("value")).unwrap_or(device);
        let named = named.as_array().map_or(Some(named), |devices| devices.first().filter(|_device| devices.len() == 1));
        named.and_then(Json::as_str).filter(|device| !device.is_empty())
    });
    let name = told.map_or(id, |device| device.strip_prefix("urn:ngsi-ld:Device:").unwrap_or(device));
    let name = name.strip_prefix("urn:ngsi-ld:").unwrap_or(name);
    let name = name.strip_prefix(kind).and_then(|name| name.strip_prefix([':', '-'])).unwrap_or(name);
    without_time(name).to_owned()
}

/// A name without the time at its end.
fn without_time(name: &str) -> &str {
    // The shortest is `2016-03-15T11:00`.
    const DATE: &str = "dddd-dd-ddTdd:dd";
    let is_time = |part: &str| {
        part.len() >= DATE.len()
            && part.bytes().zip(DATE.bytes()).all(|(found, wanted)| if wanted == b'd' { found.is_ascii_digit() } else { found == wanted })
            && part.bytes().skip(DATE.len()).all(|byte| byte.is_ascii_digit() || b":.+-Z".contains(&byte))
    };
    let starts = name.char_indices().filter(|(at, letter)| *at > 0 && letter.is_ascii_digit());
    let found = starts.filter_map(|(at, _letter)| name.split_at_checked(at)).find(|(_before, part)| is_time(part));
    let before = found.map_or(name, |(before, _time)| before.trim_end_matches(['-', ':', '_', '.']));
    if before.is_empty() { name } else { before }
}

/// ISO 8601: of an interval the beginning, without zone in UTC.
fn instant(told: &Json) -> Option<Timestamp> {
    // JSON-LD's typed value, also as some models write it.
    let told = told.get("@value").or_else(|| told.get("value")).or_else(|| told.get("object")).unwrap_or(told);
    let text = told.as_str()?.trim();
    let text = text.split('/').next().unwrap_or(text);
    utc(text)
}

/// Whether a text is a date and no reading.
fn is_date(value: &Json) -> bool {
    value.as_str().is_some_and(|text| text.len() >= 10 && text.contains('-') && instant(value).is_some())
}

/// A point, in GeoJSON or as `latitude, longitude`.
fn point(place: &Json) -> Option<Position> {
    if let Some(text) = place.as_str() {
        let (latitude, longitude) = text.split_once(',')?;
        return Position::new(longitude.trim().parse().ok()?, latitude.trim().parse().ok()?).ok();
    }
    let place = place.get("geometry").unwrap_or(place);
    (place.get("type").and_then(Json::as_str) == Some("Point"))
        .then(|| position(place.pointer("/coordinates/0"), place.pointer("/coordinates/1")))?
}

#[cfg(test)]
mod tests;
