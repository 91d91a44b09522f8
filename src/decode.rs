//! From bytes to readings: one decoder per payload family.
//!
//! A decoder never panics, on any bytes, and its work and memory are bounded by the payload's length and [`Limits`]. It
//! checks form, not sense: which field is which property is the work of mappings, units, plausibility and places that of
//! [`crate::normalise`]. A decoder is a function of the message and of the [`Memory`] of those before it.

mod topic;
mod v1;

use serde::{Deserialize, Serialize};

pub use topic::{InvalidPattern, TopicNames, TopicPattern};

use crate::model::{Decoded, Fault, Message, Reason};

/// Which payload family a subscription carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Decoder {
    /// Conca's own payload, version 1: `schemas/payload-v1.json`.
    #[default]
    V1,
}

/// What the configuration says of a subscription's messages.
#[derive(Clone, Debug, Default)]
pub struct Form {
    /// The payload family.
    pub decoder: Decoder,
    /// Where the topic names device and kind, for families whose payloads may not.
    pub topic: TopicPattern,
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
pub struct Memory {}

/// Decodes one message, or says why nothing of it can be read.
pub fn decode<'a>(form: &Form, message: &'a Message, limits: &Limits, _memory: &mut Memory) -> Result<Decoded<'a>, Fault> {
    if message.payload.len() > limits.payload_bytes_max {
        let detail = format!("{} bytes, at most {} are allowed", message.payload.len(), limits.payload_bytes_max);
        return Err(whole(Reason::TooLarge, detail));
    }
    match form.decoder {
        Decoder::V1 => v1::decode(message, limits),
    }
}

/// A fault of the whole message.
fn whole(reason: Reason, detail: String) -> Fault {
    Fault { reason, at: String::new(), detail }
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
