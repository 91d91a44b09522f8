//! From bytes to readings: one decoder per payload family, each pure and total.
//!
//! A decoder never panics, on any bytes, and its work is bounded by the payload's length. It checks form, not sense:
//! units, plausibility and places are the work of [`crate::normalise`].

mod v1;

use serde::{Deserialize, Serialize};

use crate::model::{Fault, Readings};

/// Which payload family a subscription carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Decoder {
    /// Conca's own payload, version 1: `schemas/payload-v1.json`.
    #[default]
    V1,
}

/// What a message may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest payload in bytes.
    pub payload_bytes_max: usize,
    /// Most readings of a message.
    pub readings_max: usize,
}

impl Decoder {
    /// Decodes one message, or says why nothing of it can be read.
    pub fn decode<'a>(self, topic: &str, payload: &'a [u8], limits: &Limits) -> Result<Readings<'a>, Fault> {
        match self {
            Self::V1 => v1::decode(topic, payload, limits),
        }
    }
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
