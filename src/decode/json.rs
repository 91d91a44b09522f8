//! Any JSON: an object, or an array of objects, each of one device at one time.
//!
//! The usual keys tell device, time and place; every other number, truth value and word is a field, of any depth. Where no
//! key tells the device the topic does, where none tells the time it is that of receipt. A [`Layout`] says where the records are and which
//! key, or pointer within a record, is which.

use serde_json::{Map, Value as Json};

use super::fields::{Fields, number, position, scalar};
use super::layout::{self, Layout, since_1970};
use super::{Form, Limits, excerpt, not_json, text, too_many, whole};
use crate::model::{Decoded, DeviceId, DeviceKind, Fault, Message, Readings, Reason, Timestamp, Vocabulary};

const DEVICE: [&str; 8] = ["device", "device_id", "deviceId", "dev_eui", "sensor_id", "sensorId", "serial", "id"];
const TIME: [&str; 8] = ["time", "timestamp", "ts", "datetime", "date_time", "observedAt", "dateObserved", "received_at"];
const LONGITUDE: [&str; 4] = ["lon", "lng", "longitude", "long"];
const LATITUDE: [&str; 2] = ["lat", "latitude"];

/// Decodes one message.
pub(super) fn decode<'a>(form: &Form, message: &'a Message, limits: &Limits) -> Result<Decoded<'a>, Fault> {
    let json: Json = serde_json::from_str(text(message)?).map_err(|error| not_json(&error))?;
    let pointer = form.layout.as_ref().and_then(|layout| layout.records.as_deref());
    let records = match (pointer, &json) {
        (Some(pointer), _) => layout::records(&json, pointer),
        (None, Json::Array(records)) => records.iter().enumerate().map(|(index, record)| (format!("/{index}"), record)).collect(),
        (None, record) => vec![(String::new(), record)],
    };
    if records.len() > limits.readings_max {
        return Err(whole(Reason::TooManyReadings, format!("more than {} records", limits.readings_max)));
    }
    let mut decoded = Decoded::default();
    let mut left = limits.readings_max;
    for (at, record) in records {
        let limits = Limits { readings_max: left, ..*limits };
        let readings = match &form.layout {
            Some(layout) => laid_out(layout, form, message, record, &limits),
            None => readings(form, message, record, &limits),
        };
        match readings {
            Ok(readings) => {
                left -= readings.readings.len();
                decoded.devices.push(readings);
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

fn word(value: &Json) -> Option<String> {
    match value {
        Json::String(word) => Some(word.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A record by its layout.
fn laid_out(layout: &Layout, form: &Form, message: &Message, record: &Json, limits: &Limits) -> Result<Readings<'static>, Fault> {
    let Json::Object(object) = record else {
        return Err(whole(Reason::Shape, "an object is expected".to_owned()));
    };
    let names = form.topic.find(&message.topic);
    let find = |name: &Option<String>| name.as_deref().and_then(|name| layout::find(record, name));
    let told_device = find(&layout.device).and_then(word).or_else(|| names.device.map(str::to_owned)).filter(|device| !device.is_empty());
    let device = told_device.ok_or_else(|| whole(Reason::Name, "neither the record nor the topic names a device".to_owned()))?;
    let told: Vec<String> = layout.time.iter().filter_map(|name| layout::find(record, name).and_then(word)).collect();
    let time = match layout.instant(&told.join(" ")) {
        Some(time) => time,
        None if told.is_empty() => message.received,
        None => {
            let detail = format!("{:?} is no time of the layout's form", excerpt(&told.join(" ")));
            return Err(Fault { reason: Reason::InvalidTime, at: String::new(), detail });
        }
    };
    let mut fields = Fields::new(time, limits);
    fields.position = position(find(&layout.longitude), find(&layout.latitude));
    let is_missing = |value: &Json| word(value).is_some_and(|word| layout.is_missing(&word));
    if let (Some(property), Some(value)) = (&layout.property, &layout.value) {
        let name = layout::find(record, property).and_then(word);
        let name = name.ok_or_else(|| whole(Reason::Shape, "no property".to_owned()))?;
        let unit = find(&layout.unit).and_then(Json::as_str);
        if let Some(value) = layout::find(record, value).filter(|value| !is_missing(value)).and_then(scalar) {
            fields.push(&name, value, unit)?;
        }
    } else {
        let is_left_out = |key: &str| layout.tells(key) || layout.ignores(key) || object.get(key).is_some_and(is_missing);
        fields.collect_object("", object, is_left_out)?;
    }
    let kind = find(&layout.kind).and_then(word);
    Ok(Readings {
        device: DeviceId::from_foreign(&device),
        kind: DeviceKind::from_foreign(kind.as_deref().or(names.kind).unwrap_or("sensor")),
        domain: names.domain,
        vocabulary: Vocabulary::Sender { model: None },
        readings: fields.into_readings(),
    })
}

fn readings(form: &Form, message: &Message, record: &Json, limits: &Limits) -> Result<Readings<'static>, Fault> {
    let Json::Object(record) = record else {
        return Err(whole(Reason::Shape, "an object is expected".to_owned()));
    };
    let names = form.topic.find(&message.topic);
    let told = first(record, &DEVICE).and_then(|(_key, device)| word(device));
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

/// RFC 3339, or a number since 1970.
fn instant(value: &Json) -> Option<Timestamp> {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| since_1970(number(value)?))
}

#[cfg(test)]
mod tests {
    use crate::decode::tests::check;
    use crate::decode::{Decoder, Form};

    #[test]
    fn a_layout_says_which_key_is_which() {
        let layout = |text: &str| {
            let layout = Some(std::sync::Arc::new(serde_json::from_str(text).unwrap()));
            Form { decoder: Decoder::Json, topic: "s/{device}".parse().unwrap(), layout, ..Form::default() }
        };
        check(
            &layout(
                r#"{"records":"/result/*/values/*","device":"/meta/sn","kind":"k","time":["d","t"],"time_format":"%d/%m/%Y %H:%M","time_zone":"Europe/Rome",
                       "longitude":"/at/0","latitude":"/at/1","missing":["-999"],"ignore":["fw*"]}"#,
            ),
            "s/g",
            r#"{"result":[{"values":[{"meta":{"sn":7},"k":"air","d":"01/03/2026","t":"09:00","at":[13.36,38.11],"pm10":12.5,"no2":-999,"fw_version":3},
                {"d":"x","t":"y"}]},{"values":[{"pm10":1,"d":null}, 5]}]}"#,
            "7 air \npm10=12.5 @13.36,38.11\ng sensor \npm10=1\n\
             fault: invalid-time at /result/0/values/1: \"x y\" is no time of the layout's form\nfault: shape at /result/1/values/1: an object is expected",
        );
        check(
            &layout(r#"{"records":"/*","property":"type","value":"v","unit":"u"}"#),
            "s/g",
            r#"{"a":{"type":"pm10","v":"3.5","u":"ug/m3"},"b":{"v":1}}"#,
            "g sensor \npm10=3.5 ug/m3\nfault: shape at /b: no property",
        );
    }

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
