//! ChirpStack, version 4: the events of its MQTT integration, in JSON or protobuf.
//!
//! The topic `application/<application>/device/<dev_eui>/event/<event>` names the event; elsewhere what a JSON event holds
//! does. A device is its `devEui` in lower case, its model the name of its profile. Of an uplink count the fields of
//! `object`, and without it the bytes as CayenneLPP; tags `latitude` and `longitude` place the device. A join says that
//! the device is there (`connection`), as does a location; receipts of downlinks and logs say nothing.

mod protobuf;

use std::borrow::Cow;

use serde_json::Value as Json;

use super::fields::{Fields, number, position, receiver};
use super::uplinks::{Identity, Radio, Uplinks};
use super::{Form, Limits, cayenne_lpp, excerpt, not_json, text, too_many, whole};
use crate::model::{Decoded, DeviceId, DeviceKind, Fault, Message, Readings, Reason, Timestamp, Value, Vocabulary};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Up,
    Join,
    Status,
    Location,
    Integration,
    /// Receipts and logs.
    Silent,
}

impl Event {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "up" => Self::Up,
            "join" => Self::Join,
            "status" => Self::Status,
            "location" => Self::Location,
            "integration" => Self::Integration,
            "ack" | "txack" | "log" => Self::Silent,
            _ => return None,
        })
    }

    /// By the keys that only one event has; JSON leaves out what is zero, so that an uplink may be known by few.
    fn of(event: &Json) -> Option<Self> {
        let has = |keys: &[&str]| keys.iter().any(|key| event.get(*key).is_some());
        Some(if has(&["queueItemId", "acknowledged", "downlinkId", "level", "code"]) {
            Self::Silent
        } else if has(&["integrationName", "eventType"]) {
            Self::Integration
        } else if has(&["rxInfo", "txInfo", "fPort", "fCnt", "data", "object", "dr"]) {
            Self::Up
        } else if has(&["margin", "batteryLevel", "batteryLevelUnavailable", "externalPowerSource"]) {
            Self::Status
        } else if has(&["location"]) {
            Self::Location
        } else if has(&["devAddr"]) {
            Self::Join
        } else {
            return None;
        })
    }
}

/// Decodes one message.
pub(super) fn decode<'a>(form: &Form, message: &'a Message, limits: &Limits, uplinks: &mut Uplinks) -> Result<Decoded<'a>, Fault> {
    let in_topic = message.topic.rsplit_once("/event/").and_then(|(_before, word)| Event::parse(word));
    if in_topic == Some(Event::Silent) {
        return Ok(Decoded::default());
    }
    if message.payload.is_empty() {
        return Err(whole(Reason::Empty, "the payload is empty".to_owned()));
    }
    let json: Json = match in_topic {
        _ if message.payload.trim_ascii_start().starts_with(b"{") => {
            serde_json::from_str(text(message)?).map_err(|error| not_json(&error))?
        }
        Some(event) => protobuf::decode(event, &message.payload)?,
        None => {
            let detail = format!("{:?} is not application/…/event/<event>, which protobuf needs", excerpt(&message.topic));
            return Err(whole(Reason::Topic, detail));
        }
    };
    let event = in_topic.or_else(|| Event::of(&json)).ok_or_else(|| whole(Reason::Shape, "no event of ChirpStack".to_owned()))?;
    if event == Event::Silent {
        return Ok(Decoded::default());
    }
    let device = device(form, message, &json)?;
    let mut fields = Fields::new(time(&json, message.received)?, limits);
    let tags = json.pointer("/deviceInfo/tags");
    fields.position = tags.and_then(|tags| position(tags.get("longitude"), tags.get("latitude")));
    let mut faults = Vec::new();
    match event {
        Event::Up => {
            let object = json.get("object").filter(|object| !object.is_null());
            let bytes = json.get("data").and_then(Json::as_str).unwrap_or_default();
            let said = if bytes.is_empty() { Cow::Owned(object.map(Json::to_string).unwrap_or_default()) } else { Cow::Borrowed(bytes) };
            let identity = Identity {
                device: &device,
                session: json.get("devAddr").and_then(Json::as_str).unwrap_or_default(),
                counter: json.get("fCnt").and_then(Json::as_u64),
                payload: &said,
            };
            let (time, radio) = uplinks.hear(identity, fields.time, Radio::best(json.get("rxInfo")));
            fields.time = time;
            match object {
                Some(object) => {
                    fields.position = receiver(object).or(fields.position);
                    fields.collect("", object)?;
                }
                // Port 0 carries commands of the network.
                None if !bytes.is_empty() && json.get("fPort").and_then(Json::as_u64) != Some(0) => match cayenne_lpp::undecoded(bytes) {
                    Some(frame) => frame.collect(&mut fields)?,
                    None => faults.push(undecoded()),
                },
                None => {}
            }
            radio.push(&mut fields)?;
        }
        Event::Join => fields.push("connection", Value::Word(Cow::Borrowed("online")), None)?,
        Event::Status => collect_status(&json, &mut fields)?,
        Event::Location => collect_location(&json, &mut fields, &mut faults)?,
        Event::Integration => json.get("object").map_or(Ok(()), |object| fields.collect("", object))?,
        Event::Silent => {}
    }
    let readings = fields.into_readings();
    if readings.len() + faults.len() > limits.readings_max {
        return Err(too_many(limits));
    }
    let names = form.topic.find(&message.topic);
    let profile = json.pointer("/deviceInfo/deviceProfileName").and_then(Json::as_str).filter(|profile| !profile.is_empty());
    let device = Readings {
        device: DeviceId::from_foreign(&device),
        kind: DeviceKind::from_foreign(names.kind.unwrap_or("lorawan")),
        domain: names.domain,
        vocabulary: Vocabulary::Sender { model: profile.map(|profile| Cow::Owned(profile.to_owned())) },
        readings,
    };
    Ok(Decoded { devices: vec![device], faults, replies: Vec::new() })
}

fn device(form: &Form, message: &Message, event: &Json) -> Result<String, Fault> {
    let told = event.pointer("/deviceInfo/devEui").and_then(Json::as_str);
    let in_topic = || message.topic.split('/').skip_while(|level| *level != "device").nth(1);
    let named = told.or_else(in_topic).or_else(|| form.topic.find(&message.topic).device).filter(|device| !device.is_empty());
    named.map(str::to_ascii_lowercase).ok_or_else(|| Fault {
        reason: Reason::Shape,
        at: "/deviceInfo/devEui".to_owned(),
        detail: "neither the payload nor the topic names a device".to_owned(),
    })
}

/// When the network server heard it.
fn time(event: &Json, received: Timestamp) -> Result<Timestamp, Fault> {
    let Some(time) = event.get("time").filter(|time| !time.is_null()) else { return Ok(received) };
    let invalid = |detail| Fault { reason: Reason::InvalidTime, at: "/time".to_owned(), detail };
    let time = time.as_str().ok_or_else(|| invalid("an RFC 3339 text is expected".to_owned()))?;
    time.parse().map_err(|error| invalid(format!("{:?}: {error}", excerpt(time))))
}

fn undecoded() -> Fault {
    let detail = "the uplink has no object, and its data is not CayenneLPP: give the device profile a codec".to_owned();
    Fault { reason: Reason::Unsupported, at: "/data".to_owned(), detail }
}

fn collect_status(event: &Json, fields: &mut Fields) -> Result<(), Fault> {
    let is = |key: &str| event.get(key).and_then(Json::as_bool).unwrap_or_default();
    if let Some(margin) = event.get("margin").and_then(number) {
        fields.push("margin", Value::Number(margin), Some("dB"))?;
    }
    if is("externalPowerSource") {
        fields.push("external_power", Value::Word(Cow::Borrowed("true")), None)?;
    } else if let Some(battery) = event.get("batteryLevel").and_then(number).filter(|_battery| !is("batteryLevelUnavailable")) {
        fields.push("battery_level", Value::Number(battery), Some("%"))?;
    }
    Ok(())
}

/// What is observed at a place that was found is that the device is in reach.
fn collect_location(event: &Json, fields: &mut Fields, faults: &mut Vec<Fault>) -> Result<(), Fault> {
    let at = |key: &str| event.get("location").and_then(|location| location.get(key));
    let Some(found) = position(at("longitude"), at("latitude")) else {
        let detail = "longitude and latitude on the globe are expected".to_owned();
        faults.push(Fault { reason: Reason::InvalidPosition, at: "/location".to_owned(), detail });
        return Ok(());
    };
    fields.position = Some(found);
    fields.push("connection", Value::Word(Cow::Borrowed("online")), None)?;
    match at("altitude").and_then(number) {
        Some(altitude) => fields.push("altitude", Value::Number(altitude), Some("m")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
