//! The protobuf form of events, as the JSON that ChirpStack gives the same events.
//!
//! Of `integration.proto` here stand the fields that are used; protobuf skips the others.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde_json::{Value as Json, json};

use super::Event;
use crate::decode::whole;
use crate::model::{Fault, Reason, Timestamp};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Time {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Struct {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(super) fields: BTreeMap<String, Value>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Value {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    pub(super) kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Kind {
    #[prost(int32, tag = "1")]
    Null(i32),
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Truth(bool),
    #[prost(message, tag = "5")]
    Struct(Struct),
    #[prost(message, tag = "6")]
    List(List),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct List {
    #[prost(message, repeated, tag = "1")]
    pub(super) values: Vec<Value>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeviceInfo {
    #[prost(string, tag = "6")]
    pub(super) device_profile_name: String,
    #[prost(string, tag = "8")]
    pub(super) dev_eui: String,
    #[prost(btree_map = "string, string", tag = "9")]
    pub(super) tags: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RxInfo {
    #[prost(int32, tag = "6")]
    pub(super) rssi: i32,
    #[prost(float, tag = "7")]
    pub(super) snr: f32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Location {
    #[prost(double, tag = "1")]
    pub(super) latitude: f64,
    #[prost(double, tag = "2")]
    pub(super) longitude: f64,
    #[prost(double, tag = "3")]
    pub(super) altitude: f64,
}

/// What every event but logs and receipts begins with.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Head {
    #[prost(message, optional, tag = "2")]
    pub(super) time: Option<Time>,
    #[prost(message, optional, tag = "3")]
    pub(super) device_info: Option<DeviceInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Up {
    #[prost(string, tag = "4")]
    pub(super) dev_addr: String,
    #[prost(uint32, tag = "7")]
    pub(super) f_cnt: u32,
    #[prost(uint32, tag = "8")]
    pub(super) f_port: u32,
    #[prost(bytes = "vec", tag = "10")]
    pub(super) data: Vec<u8>,
    #[prost(message, optional, tag = "11")]
    pub(super) object: Option<Struct>,
    #[prost(message, repeated, tag = "12")]
    pub(super) rx_info: Vec<RxInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Status {
    #[prost(int32, tag = "5")]
    pub(super) margin: i32,
    #[prost(bool, tag = "6")]
    pub(super) external_power_source: bool,
    #[prost(bool, tag = "7")]
    pub(super) battery_level_unavailable: bool,
    #[prost(float, tag = "8")]
    pub(super) battery_level: f32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Located {
    #[prost(message, optional, tag = "4")]
    pub(super) location: Option<Location>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Integration {
    #[prost(message, optional, tag = "6")]
    pub(super) object: Option<Struct>,
}

/// An event as JSON.
pub(super) fn decode(event: Event, payload: &[u8]) -> Result<Json, Fault> {
    let head: Head = read(payload)?;
    let mut json = match event {
        Event::Up => up(read(payload)?),
        Event::Status => status(&read(payload)?),
        Event::Location => {
            let location = read::<Located>(payload)?.location.unwrap_or_default();
            let Location { latitude, longitude, altitude } = location;
            json!({ "location": { "latitude": latitude, "longitude": longitude, "altitude": altitude } })
        }
        Event::Integration => json!({ "object": read::<Integration>(payload)?.object.map(object) }),
        Event::Join | Event::Silent => json!({}),
    };
    if let Some(json) = json.as_object_mut() {
        let DeviceInfo { device_profile_name, dev_eui, tags } = head.device_info.unwrap_or_default();
        let mut info = json!({ "deviceProfileName": device_profile_name, "tags": tags });
        // Protobuf leaves out what is empty, and so does JSON: the topic then names the device.
        if let Some(info) = info.as_object_mut().filter(|_info| !dev_eui.is_empty()) {
            info.insert("devEui".to_owned(), json!(dev_eui));
        }
        json.insert("time".to_owned(), time(head.time.as_ref())?);
        json.insert("deviceInfo".to_owned(), info);
    }
    Ok(json)
}

fn read<M: prost::Message + Default>(payload: &[u8]) -> Result<M, Fault> {
    M::decode(payload).map_err(|error| whole(Reason::Malformed, format!("neither JSON nor protobuf of the event: {error}")))
}

fn time(time: Option<&Time>) -> Result<Json, Fault> {
    let Some(Time { seconds, nanos }) = time else { return Ok(Json::Null) };
    let micros = seconds.checked_mul(1_000_000).and_then(|micros| micros.checked_add(i64::from(nanos / 1_000)));
    let time = micros.and_then(|micros| Timestamp::from_micros(micros).ok()).ok_or_else(|| {
        let detail = format!("{seconds} s lies outside 1900 to 2200");
        Fault { reason: Reason::AbsurdTime, at: "/time".to_owned(), detail }
    })?;
    Ok(json!(time))
}

fn up(up: Up) -> Json {
    let radios: Vec<Json> = up.rx_info.into_iter().map(|RxInfo { rssi, snr }| json!({ "rssi": rssi, "snr": shortest(snr) })).collect();
    let mut json = json!({
        "devAddr": up.dev_addr,
        "fPort": up.f_port,
        "data": base64::engine::general_purpose::STANDARD.encode(up.data),
        "object": up.object.map(object),
        "rxInfo": radios,
    });
    // Zero and absent are one in protobuf, and absent in JSON.
    if let Some(json) = json.as_object_mut().filter(|_json| up.f_cnt > 0) {
        json.insert("fCnt".to_owned(), json!(up.f_cnt));
    }
    json
}

fn status(status: &Status) -> Json {
    json!({
        "margin": status.margin,
        "externalPowerSource": status.external_power_source,
        "batteryLevelUnavailable": status.battery_level_unavailable,
        "batteryLevel": shortest(status.battery_level),
    })
}

/// The decimal number that a single was meant to be: 88.3, not 88.30000305.
fn shortest(number: f32) -> Option<f64> {
    number.to_string().parse().ok().filter(|number: &f64| number.is_finite())
}

/// As deep as the protobuf reader lets it be.
fn object(object: Struct) -> Json {
    object.fields.into_iter().map(|(key, field)| (key, value(field))).collect::<serde_json::Map<_, _>>().into()
}

fn value(of: Value) -> Json {
    match of.kind {
        None | Some(Kind::Null(_)) => Json::Null,
        Some(Kind::Number(number)) => json!(number),
        Some(Kind::Text(text)) => Json::String(text),
        Some(Kind::Truth(truth)) => Json::Bool(truth),
        Some(Kind::Struct(inner)) => object(inner),
        Some(Kind::List(list)) => list.values.into_iter().map(value).collect(),
    }
}
