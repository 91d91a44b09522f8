//! From bytes to readings: one decoder per payload family.
//!
//! A decoder never panics, on any bytes, and its work and memory are bounded by the payload's length and [`Limits`]. It
//! checks form, not sense: which field is which property is the work of mappings, units, plausibility and places that of
//! [`crate::normalise`]. A decoder is a function of the message and of the [`Memory`] of those before it.

mod cayenne_lpp;
mod chirpstack;
mod csv;
mod datex2;
mod fields;
mod gtfs_realtime;
mod influx_line;
mod json;
mod layout;
#[cfg(test)]
pub(crate) mod material;
mod ngsi;
mod senml;
mod sensor_community;
mod sparkplug;
mod topic;
mod ttn;
mod uplinks;
mod v1;

use std::sync::Arc;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

pub use layout::Layout;
pub use topic::{InvalidPattern, TopicNames, TopicPattern};

use crate::model::{Decoded, Fault, Message, Reason};

/// Which payload family a subscription carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Decoder {
    /// Conca's own payload, version 1: `schemas/payload-v1.json`.
    #[default]
    V1,
    /// Uplinks of The Things Stack, version 3, as JSON.
    Ttn,
    /// Any JSON object or array of objects with numbers in it; a layout may say more.
    Json,
    /// Tables as CSV; a layout may say which column is which.
    Csv,
    /// InfluxDB line protocol, times in nanoseconds.
    InfluxLine,
    /// RFC 8428 Sensor Measurement Lists in JSON.
    SenmlJson,
    /// RFC 8428 Sensor Measurement Lists in CBOR.
    SenmlCbor,
    /// Cayenne Low Power Payload, as bytes.
    CayenneLpp,
    /// Events of ChirpStack, version 4, in JSON or protobuf.
    Chirpstack,
    /// Entities and notifications of NGSI-v2 and NGSI-LD.
    Ngsi,
    /// Pushes and API answers of sensor.community.
    SensorCommunity,
    /// Vehicle positions of GTFS Realtime, in protobuf.
    GtfsRealtime,
    /// Measured data of DATEX II, in XML or JSON.
    Datex2,
    /// Sparkplug B, under the topics of its specification.
    SparkplugB,
}

impl Decoder {
    /// The family of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(word)).ok()
    }

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::Ttn => "ttn",
            Self::Json => "json",
            Self::Csv => "csv",
            Self::InfluxLine => "influx-line",
            Self::SenmlJson => "senml-json",
            Self::SenmlCbor => "senml-cbor",
            Self::CayenneLpp => "cayenne-lpp",
            Self::Chirpstack => "chirpstack",
            Self::Ngsi => "ngsi",
            Self::SensorCommunity => "sensor-community",
            Self::GtfsRealtime => "gtfs-realtime",
            Self::Datex2 => "datex2",
            Self::SparkplugB => "sparkplug-b",
        }
    }
}

/// What the configuration says of a subscription's messages.
#[derive(Clone, Debug, Default)]
pub struct Form {
    /// The payload family.
    pub decoder: Decoder,
    /// Where the topic names device and kind, for families whose payloads may not.
    pub topic: TopicPattern,
    /// What a number of line protocol's times is.
    pub precision: Precision,
    /// How tables and free JSON are to be read.
    pub layout: Option<Arc<Layout>>,
    /// The city's clock.
    pub zone: Option<TimeZone>,
}

/// What a number of line protocol's times is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As over MQTT, and where nothing else is said.
    #[default]
    Nanoseconds,
    /// `us`.
    Microseconds,
    /// `ms`.
    Milliseconds,
    /// `s`.
    Seconds,
}

/// What a message may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest payload in bytes.
    pub payload_bytes_max: usize,
    /// Most readings of a message.
    pub readings_max: usize,
}

/// What decoders remember of earlier messages; bounded, and empty after a start. Losing it costs no acknowledged reading.
#[derive(Debug, Default)]
pub struct Memory {
    /// Whether what comes now came before: it changes nothing that is remembered, and nobody is told of it.
    pub replayed: bool,
    uplinks: uplinks::Uplinks,
    nodes: sparkplug::Nodes,
}

/// Decodes one message, or says why nothing of it can be read.
pub fn decode<'a>(form: &Form, message: &'a Message, limits: &Limits, memory: &mut Memory) -> Result<Decoded<'a>, Fault> {
    if message.payload.len() > limits.payload_bytes_max {
        let detail = format!("{} bytes, at most {} are allowed", message.payload.len(), limits.payload_bytes_max);
        return Err(whole(Reason::TooLarge, detail));
    }
    match form.decoder {
        Decoder::V1 => v1::decode(message, limits),
        Decoder::Ttn => ttn::decode(form, message, limits, &mut memory.uplinks),
        Decoder::Csv => csv::decode(form, message, limits),
        Decoder::Json => json::decode(form, message, limits),
        Decoder::InfluxLine => influx_line::decode(form, message, limits),
        Decoder::SenmlJson => senml::decode_json(form, message, limits),
        Decoder::SenmlCbor => senml::decode_cbor(form, message, limits),
        Decoder::CayenneLpp => cayenne_lpp::decode(form, message, limits),
        Decoder::Chirpstack => chirpstack::decode(form, message, limits, &mut memory.uplinks),
        Decoder::Ngsi => ngsi::decode(form, message, limits),
        Decoder::SensorCommunity => sensor_community::decode(form, message, limits),
        Decoder::GtfsRealtime => gtfs_realtime::decode(form, message, limits),
        Decoder::Datex2 => datex2::decode(form, message, limits),
        Decoder::SparkplugB => sparkplug::decode(form, message, limits, &mut memory.nodes, memory.replayed),
    }
}

/// A fault of the whole message.
fn whole(reason: Reason, detail: String) -> Fault {
    Fault { reason, at: String::new(), detail }
}

/// The fault of a message with more readings than are allowed.
fn too_many(limits: &Limits) -> Fault {
    whole(Reason::TooManyReadings, format!("more than {} readings", limits.readings_max))
}

/// The payload as text that is not empty.
fn text(message: &Message) -> Result<&str, Fault> {
    let text = std::str::from_utf8(&message.payload).map_err(|error| Fault {
        reason: Reason::NotUtf8,
        at: format!("byte {}", error.valid_up_to()),
        detail: "the payload is not UTF-8".to_owned(),
    })?;
    if text.trim_ascii().is_empty() { Err(whole(Reason::Empty, "the payload is empty".to_owned())) } else { Ok(text) }
}

/// The fault of a payload that is not JSON, with its place.
fn not_json(error: &serde_json::Error) -> Fault {
    let text = error.to_string();
    let detail = text.rsplit_once(" at line ").map_or(text.as_str(), |(detail, _place)| detail).to_owned();
    // The one error of valid JSON: a number that no double can hold.
    let reason = if detail == "number out of range" { Reason::InvalidValue } else { Reason::NotJson };
    Fault { reason, at: format!("line {} column {}", error.line(), error.column()), detail }
}

/// The beginning of a text from outside, for a fault's detail.
pub(crate) fn excerpt(text: &str) -> String {
    const CHARACTERS_MAX: usize = 60;
    let mut excerpt: String = text.chars().take(CHARACTERS_MAX).collect();
    if excerpt.len() < text.len() {
        excerpt.push('…');
    }
    excerpt
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Service, SourceName, Timestamp, Value, Vocabulary};

    pub(crate) const LIMITS: Limits = Limits { payload_bytes_max: 65_536, readings_max: 50 };

    const DECODERS: [Decoder; 14] = [
        Decoder::V1,
        Decoder::Ttn,
        Decoder::Json,
        Decoder::Csv,
        Decoder::InfluxLine,
        Decoder::SenmlJson,
        Decoder::SenmlCbor,
        Decoder::CayenneLpp,
        Decoder::Chirpstack,
        Decoder::Ngsi,
        Decoder::SensorCommunity,
        Decoder::GtfsRealtime,
        Decoder::Datex2,
        Decoder::SparkplugB,
    ];

    pub(crate) fn message(topic: &str, payload: &[u8]) -> Message {
        Message {
            source: SourceName::try_from("any").unwrap(),
            topic: topic.into(),
            payload: payload.to_vec().into(),
            received: Timestamp::MIN,
            service: Service::AtMostOnce,
            retained: false,
        }
    }

    /// Decodes a message by a sender's family: each device with its kind and model, its readings one a line; then faults.
    #[track_caller]
    pub(super) fn check(form: &Form, topic: &str, payload: &str, expected: &str) {
        check_bytes(form, topic, payload.as_bytes(), expected);
    }

    /// The same of bytes that need not be text.
    #[track_caller]
    pub(super) fn check_bytes(form: &Form, topic: &str, payload: &[u8], expected: &str) {
        assert_eq!(shown(form, topic, payload), expected, "{}", payload.escape_ascii());
    }

    pub(super) fn shown(form: &Form, topic: &str, payload: &[u8]) -> String {
        let message = message(topic, payload);
        written(decode(form, &message, &LIMITS, &mut Memory::default()))
    }

    /// What came of a message, as [`check`] expects it.
    pub(super) fn written(decoded: Result<Decoded<'_>, Fault>) -> String {
        match decoded {
            Err(fault) => format!("rejected: {fault}"),
            Ok(decoded) => {
                let mut lines = Vec::new();
                for device in &decoded.devices {
                    let Vocabulary::Sender { model } = &device.vocabulary else { panic!("a sender's own words") };
                    lines.push(format!("{} {} {}", device.device, device.kind, model.as_deref().unwrap_or_default()));
                    lines.extend(device.readings.iter().map(|reading| {
                        let value = match &reading.value {
                            Value::Number(number) => number.to_string(),
                            Value::Word(word) => format!("{word:?}"),
                        };
                        let unit = reading.unit.as_deref().map_or(String::new(), |unit| format!(" {unit}"));
                        let place = reading.position.map_or(String::new(), |place| format!(" @{},{}", place.longitude(), place.latitude()));
                        format!("{}={value}{unit}{place}", reading.name)
                    }));
                }
                lines.extend(decoded.faults.iter().map(|fault| format!("fault: {fault}")));
                lines.join("\n")
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived_by_every_family(topic in ".{0,40}", payload in proptest::collection::vec(any::<u8>(), 0..400), text in r#"[\[\]{}":,=0-9a-z\\ .\neE+-]{0,300}"#) {
            for decoder in DECODERS {
                for payload in [&payload[..], text.as_bytes()] {
                    let message = message(&topic, payload);
                    let form = Form { decoder, ..Form::default() };
                    if let Ok(decoded) = decode(&form, &message, &LIMITS, &mut Memory::default()) {
                        let readings: usize = decoded.devices.iter().map(|device| device.readings.len()).sum();
                        prop_assert!(readings + decoded.faults.len() <= LIMITS.readings_max);
                    }
                }
            }
        }
    }
}
