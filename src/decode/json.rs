//! Any JSON: an object, or an array of objects, each of one device at one time.
//!
//! The usual keys tell device, time and place, in the record or in an envelope that a gateway or cloud put around it; every other number,
//! truth value and word is a field, of any depth. Where no key tells the device the topic does, where none tells the time it is that of
//! receipt. A [`Layout`] says where the records are and which key, or pointer within a record, is which.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Map, Value as Json};

use super::fields::{Fields, number, position, scalar, utc};
use super::layout::{self, Beside, Layout, since_1970};
use super::{Form, Limits, excerpt, not_json, text, too_many, whole};
use crate::model::{Decoded, DeviceId, DeviceKind, Fault, Message, Position, Readings, Reason, Timestamp, Vocabulary};

/// Keys, without case and separators, that tell the device; the first that is there counts.
const DEVICE: [&str; 13] = [
    "device",
    "deviceid",
    "deveui",
    "deviceeui",
    "devid",
    "sensorid",
    "nodeid",
    "stationid",
    "eui",
    "thingname",
    "serialnumber",
    "serial",
    "imei",
];
/// Tells a device among several, or where the topic does not: within one device's messages it often numbers a part of it.
const ID: &str = "id";
const TIME: [&str; 16] = [
    "time",
    "timestamp",
    "ts",
    "datetime",
    "observedat",
    "dateobserved",
    "measuredat",
    "recordedat",
    "sampledat",
    "receivedat",
    "dateutc",
    "timestamputc",
    "enqueuedtime",
    "eventtime",
    "tst",
    "unixtime",
];
const LONGITUDE: [&str; 6] = ["lon", "lng", "longitude", "long", "gpslongitude", "devlon"];
const LATITUDE: [&str; 4] = ["lat", "latitude", "gpslatitude", "devlat"];
/// Objects around what a device says.
const ENVELOPES: [&str; 17] = [
    "data",
    "payload",
    "body",
    "message",
    "params",
    "state",
    "reported",
    "telemetry",
    "decoded",
    "object",
    "uplink",
    "event",
    "device",
    "tags",
    "header",
    "meta",
    "properties",
];
/// Objects that are a place.
const PLACES: [&str; 6] = ["location", "position", "gps", "geo", "geolocation", "coordinates"];
/// Objects that are looked into for these.
const LEVELS_MAX: usize = 8;
/// A time without a zone is one on the city's clock, and not UTC, where that is so close to the time of receipt, and UTC is not.
const LIVE: Duration = Duration::from_mins(10);

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
    let is_alone = !json.is_array();
    let mut decoded = Decoded::default();
    let mut left = limits.readings_max;
    for (at, record) in records {
        let limits = Limits { readings_max: left, ..*limits };
        let readings = match &form.layout {
            Some(layout) => laid_out(layout, form, message, record, &limits),
            None => readings(form, message, record, is_alone, &limits),
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
    let time = match layout.instant(&told.join(" "), Beside { received: message.received, before: None }) {
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

fn readings(form: &Form, message: &Message, record: &Json, is_alone: bool, limits: &Limits) -> Result<Readings<'static>, Fault> {
    let Json::Object(record) = record else {
        return Err(whole(Reason::Shape, "an object is expected".to_owned()));
    };
    let names = form.topic.find(&message.topic);
    let levels = levels(record);
    let told = find(&levels, &DEVICE).and_then(|(_at, device)| device_of(device));
    let id = || find(&levels, &[ID]).and_then(|(_at, device)| word(device));
    let told = told.or_else(|| if is_alone { names.device.map(str::to_owned).or_else(id) } else { id() });
    let Some(device) = told.or_else(|| names.device.map(str::to_owned)).filter(|device| !device.is_empty()) else {
        return Err(whole(Reason::Name, "neither the payload nor the topic names a device".to_owned()));
    };
    let time = match find(&levels, &TIME) {
        None => message.received,
        Some((at, time)) => instant(time, form.zone.as_ref(), message.received).ok_or_else(|| Fault {
            reason: Reason::InvalidTime,
            at,
            detail: "neither RFC 3339 nor seconds, milliseconds or microseconds since 1970".to_owned(),
        })?,
    };
    let mut fields = Fields::new(time, limits);
    fields.position = place(&levels);
    let is_known = |key: &str| {
        let key = plain(key);
        key == ID || [&DEVICE[..], &TIME, &LONGITUDE, &LATITUDE].iter().any(|keys| keys.contains(&key.as_str()))
    };
    // What tells the device may be an object with more.
    fields.collect_object("", record, |key| is_known(key) && record.get(key).is_some_and(|value| !value.is_object()))?;
    Ok(Readings {
        device: DeviceId::from_foreign(&device),
        kind: DeviceKind::from_foreign(names.kind.unwrap_or("sensor")),
        domain: names.domain,
        vocabulary: Vocabulary::Sender { model: None },
        readings: fields.into_readings(),
    })
}

/// A key without case and separators.
fn plain(key: &str) -> String {
    key.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// An object, and where it is.
struct Level<'a> {
    at: String,
    /// By plain key.
    keys: Vec<(String, &'a str, &'a Json)>,
}

impl<'a> Level<'a> {
    fn new(at: String, object: &'a Map<String, Json>) -> Self {
        let keys = object.iter().filter(|(_key, value)| !value.is_null()).map(|(key, value)| (plain(key), key.as_str(), value));
        Self { at, keys: keys.collect() }
    }

    fn get(&self, key: &str) -> Option<(String, &'a Json)> {
        self.keys.iter().find(|(plain, ..)| plain == key).map(|(_plain, key, value)| (format!("{}/{key}", self.at), *value))
    }
}

/// A record, then the envelopes in it, the outer ones first. What is alone in an object is in an envelope, whatever its name.
fn levels(record: &Map<String, Json>) -> Vec<Level<'_>> {
    let mut levels = vec![Level::new(String::new(), record)];
    let mut next = 0;
    while let Some(level) = levels.get(next) {
        let is_sole = level.keys.len() == 1;
        let inner: Vec<Level<'_>> = level
            .keys
            .iter()
            .filter(|(plain, ..)| is_sole || ENVELOPES.contains(&plain.as_str()))
            .filter_map(|(_plain, key, value)| Some(Level::new(format!("{}/{key}", level.at), value.as_object()?)))
            .collect();
        levels.extend(inner);
        levels.truncate(LEVELS_MAX);
        next += 1;
    }
    levels
}

/// The value of the first of some keys that is there, in the outermost object that has one.
fn find<'a>(levels: &[Level<'a>], keys: &[&str]) -> Option<(String, &'a Json)> {
    levels.iter().find_map(|level| keys.iter().find_map(|key| level.get(key)))
}

/// The name of a device, which may be in an object about it.
fn device_of(device: &Json) -> Option<String> {
    let Json::Object(object) = device else { return word(device) };
    let about = Level::new(String::new(), object);
    DEVICE.iter().chain(&[ID, "name"]).find_map(|key| about.get(key).and_then(|(_at, name)| word(name)))
}

/// Where a record says that its device is: beside what it says, or in an object that is a place, also one of `GeoJSON`.
fn place(levels: &[Level<'_>]) -> Option<Position> {
    let at = |level: &Level<'_>| {
        let find = |keys: &[&str]| keys.iter().find_map(|key| level.get(key)).map(|(_at, value)| value);
        position(find(&LONGITUDE), find(&LATITUDE))
    };
    let within = |value: &Json| match value {
        Json::Object(object) => {
            let inner = Level::new(String::new(), object);
            let point = inner.get("coordinates").and_then(|(_at, point)| point.as_array());
            at(&inner).or_else(|| point.filter(|point| point.len() < 4).and_then(|point| position(point.first(), point.get(1))))
        }
        _ => None,
    };
    levels
        .iter()
        .find_map(|level| at(level).or_else(|| PLACES.iter().filter_map(|key| level.get(key)).find_map(|(_at, value)| within(value))))
}

/// RFC 3339, or a number since 1970. A time without a zone is UTC, unless only as one of the city's clock it is the present.
fn instant(value: &Json, zone: Option<&TimeZone>, received: Timestamp) -> Option<Timestamp> {
    let Some(text) = value.as_str() else { return since_1970(number(value)?) };
    if let Some(time) = utc(text) {
        let is_live = |time: Timestamp| received.micros().abs_diff(time.micros()) <= u64::try_from(LIVE.as_micros()).unwrap_or(u64::MAX);
        let local: Option<DateTime> = if text.parse::<Timestamp>().is_ok() { None } else { text.parse().ok() };
        let on_clock = local.zip(zone).and_then(|(local, zone)| zone.to_timestamp(local).ok());
        let on_clock = on_clock.and_then(|time| Timestamp::from_micros(time.as_microsecond()).ok());
        return on_clock.filter(|on_clock| !is_live(time) && is_live(*on_clock)).or(Some(time));
    }
    since_1970(number(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Decoder;
    use crate::decode::tests::check;

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
    fn envelopes_tell_device_time_and_place() {
        let form = Form { decoder: Decoder::Json, topic: "s/{kind}/{device}".parse().unwrap(), ..Form::default() };
        check(
            &form,
            "t",
            r#"{"DevEUI_uplink":{"Time":"2026-03-01T08:00:00+01:00","DevEUI":"20635F01","DevLAT":"38.12","DevLON":"13.36","payload":{"co2":455}}}"#,
            "20635F01 sensor \nDevEUI_uplink.DevEUI=\"20635F01\" @13.36,38.12\nDevEUI_uplink.DevLAT=38.12 @13.36,38.12\n\
             DevEUI_uplink.DevLON=13.36 @13.36,38.12\nDevEUI_uplink.Time=\"2026-03-01T08:00:00+01:00\" @13.36,38.12\n\
             DevEUI_uplink.payload.co2=455 @13.36,38.12",
        );
        check(
            &form,
            "t",
            r#"{"device":{"id":"d","location":{"type":"Point","coordinates":[13.36,38.11]}},"data":{"pm10":3}}"#,
            "d sensor \ndata.pm10=3 @13.36,38.11\ndevice.id=\"d\" @13.36,38.11\ndevice.location.coordinates.0=13.36 @13.36,38.11\n\
             device.location.coordinates.1=38.11 @13.36,38.11\ndevice.location.type=\"Point\" @13.36,38.11",
        );
    }

    #[test]
    fn a_time_without_a_zone_is_of_the_clock_on_which_it_is_the_present() {
        let rome = TimeZone::get("Europe/Rome").unwrap();
        let received: Timestamp = "2026-03-01T08:00:30Z".parse().unwrap();
        for (text, expected) in [
            ("2026-03-01T08:00:00", "2026-03-01T08:00:00Z"),
            ("2026-03-01T09:00:00", "2026-03-01T08:00:00Z"),
            ("2026-03-01 09:00:00", "2026-03-01T08:00:00Z"),
            // Neither is the present: it is UTC, as in tables.
            ("2026-03-01T05:00:00", "2026-03-01T05:00:00Z"),
            ("2026-03-01T09:00:00+02:00", "2026-03-01T07:00:00Z"),
        ] {
            let told = instant(&Json::String(text.to_owned()), Some(&rome), received);
            assert_eq!(told, Some(expected.parse().unwrap()), "{text}");
        }
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
        // Within the messages of one device `id` numbers a part of it.
        check(&form, "s/plug/7", r#"{"id":0,"apower":8.9}"#, "7 plug \napower=8.9");
        check(&form, "t", r#"{"id":5,"temp":1}"#, "5 sensor \ntemp=1");
        check(&form, "t", r#"{"temp":1}"#, "fault: name: neither the payload nor the topic names a device");
        check(
            &form,
            "t",
            &format!("{}1{}", "[".repeat(1_000), "]".repeat(1_000)),
            "rejected: not-json at line 1 column 128: recursion limit exceeded",
        );
    }
}
