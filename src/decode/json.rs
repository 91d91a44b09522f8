//! Any JSON: an object, or an array of objects, each of one device at one time.
//!
//! The usual keys tell device, time and place; every other number, truth value and word is a field, of any depth. Where no
//! key tells the device the topic does, where none tells the time it is that of receipt.

use serde_json::{Map, Value as Json};

use super::fields::{Fields, number, position};
use super::{Form, Limits, not_json, text, whole};
use crate::model::{Decoded, DeviceId, DeviceKind, Fault, Message, Readings, Reason, Timestamp, Vocabulary};

const DEVICE: [&str; 8] = ["device", "device_id", "deviceId", "dev_eui", "sensor_id", "sensorId", "serial", "id"];
const TIME: [&str; 8] = ["time", "timestamp", "ts", "datetime", "date_time", "observedAt", "dateObserved", "received_at"];
const LONGITUDE: [&str; 4] = ["lon", "lng", "longitude", "long"];
const LATITUDE: [&str; 2] = ["lat", "latitude"];

/// Decodes one message.
pub(super) fn decode<'a>(form: &Form, message: &'a Message, limits: &Limits) -> Result<Decoded<'a>, Fault> {
    let json: Json = serde_json::from_str(text(message)?).map_err(|error| not_json(&error))?;
    let (records, is_array) = match json {
        Json::Array(records) => (records, true),
        record => (vec![record], false),
    };
    if records.len() > limits.readings_max {
        return Err(whole(Reason::TooManyReadings, format!("more than {} records", limits.readings_max)));
    }
    let mut decoded = Decoded::default();
    let mut left = limits.readings_max;
    for (index, record) in records.iter().enumerate() {
        let at = if is_array { format!("/{index}") } else { String::new() };
        let limits = Limits { readings_max: left, ..*limits };
        match readings(form, message, record, &limits) {
            Ok(readings) => {
                left -= readings.readings.len();
                decoded.devices.push(readings);
            }
            Err(fault) if fault.reason == Reason::TooManyReadings => return Err(fault),
            Err(fault) => {
                left = left.saturating_sub(1);
                decoded.faults.push(Fault { at: at + &fault.at, ..fault });
            }
        }
    }
    Ok(decoded)
}

fn readings(form: &Form, message: &Message, record: &Json, limits: &Limits) -> Result<Readings<'static>, Fault> {
    let Json::Object(record) = record else {
        return Err(whole(Reason::Shape, "an object is expected".to_owned()));
    };
    let names = form.topic.find(&message.topic);
    let told = first(record, &DEVICE).and_then(|(_key, device)| match device {
        Json::String(device) => Some(device.clone()),
        Json::Number(device) => Some(device.to_string()),
        _ => None,
    });
    let Some(device) = told.or_else(|| names.device.map(str::to_owned)).filter(|device| !device.is_empty()) else {
        return Err(whole(Reason::Name, "neither the payload nor the topic names a device".to_owned()));
    };
    let time = match first(record, &TIME) {
        None => message.received,
        Some((key, time)) => instant(time).ok_or_else(|| Fault {
            reason: Reason::InvalidTime,
            at: format!("/{key}"),
            detail: "neither RFC 3339 nor seconds, milliseconds or microseconds since 1970".to_owned(),
        })?,
    };
    let mut fields = Fields::new(time, limits);
    fields.position = position(first(record, &LONGITUDE).map(|found| found.1), first(record, &LATITUDE).map(|found| found.1));
    let is_known = |key: &str| [&DEVICE[..], &TIME, &LONGITUDE, &LATITUDE].iter().any(|keys| keys.contains(&key));
    fields.collect_object("", record, is_known)?;
    Ok(Readings {
        device: DeviceId::from_foreign(&device),
        kind: DeviceKind::from_foreign(names.kind.unwrap_or("sensor")),
        domain: names.domain,
        vocabulary: Vocabulary::Sender { model: None },
        readings: fields.into_readings(),
    })
}

fn first<'a>(record: &'a Map<String, Json>, keys: &[&'static str]) -> Option<(&'static str, &'a Json)> {
    keys.iter().find_map(|key| record.get(*key).filter(|value| !value.is_null()).map(|value| (*key, value)))
}

/// RFC 3339, or a number since 1970: in which unit its size tells, since each names another century.
fn instant(value: &Json) -> Option<Timestamp> {
    if let Some(time) = value.as_str().and_then(|text| text.parse().ok()) {
        return Some(time);
    }
    let number = number(value).filter(|number| *number >= 0.0)?;
    let micros = match number {
        seconds if seconds < 1e11 => seconds * 1e6,
        millis if millis < 1e14 => millis * 1e3,
        micros if micros < 1e17 => micros,
        nanos => nanos / 1e3,
    };
    #[expect(clippy::cast_possible_truncation, reason = "far below 2^63, or clamped by the cast and refused")]
    Timestamp::from_micros(micros.round() as i64).ok()
}

#[cfg(test)]
mod tests {
    use crate::decode::tests::check;
    use crate::decode::{Decoder, Form};

    #[test]
    fn records_give_their_fields() {
        let form = Form { decoder: Decoder::Json, topic: "s/{kind}/{device}".parse().unwrap(), ..Form::default() };
        check(&form, "s/air/7", r#"{"temp":21.5,"data":{"pm10":"3.5"}}"#, "7 air \ndata.pm10=3.5\ntemp=21.5");
        check(
            &form,
            "s/air/7",
            r#"[{"device_id":9,"ts":1772352000,"lat":38.11,"lon":13.36,"rh":50},{"id":"x","ts":"2026-03-01T08:00:00Z","rh":51},3,{"ts":"soon"}]"#,
            "9 air \nrh=50 @13.36,38.11\nx air \nrh=51\nfault: shape at /2: an object is expected\n\
             fault: invalid-time at /3/ts: neither RFC 3339 nor seconds, milliseconds or microseconds since 1970",
        );
        check(&form, "t", r#"{"temp":1}"#, "fault: name: neither the payload nor the topic names a device");
        check(
            &form,
            "t",
            &format!("{}1{}", "[".repeat(1_000), "]".repeat(1_000)),
            "rejected: not-json at line 1 column 128: recursion limit exceeded",
        );
    }
}
