//! The word of a Sparkplug host application that it is there: `spBv1.0/STATE/<host>`, kept by the broker (Sparkplug 3.0, chapter 5.7).
//! Edge nodes that are set up to wait for a primary host speak only while it holds.
//!
//! The will of every connection says `offline`, a message after its subscriptions `online`, both with the time of that connection; a
//! goodbye says `offline`. Unlike the specification has it, the session outlives the connection: what arrives meanwhile is not lost.

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{LastWill, Publish};
use serde::Deserialize;
use serde_json::json;

use crate::model::Timestamp;

/// What a host says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Online,
    Offline,
}

/// A host and when it connected.
#[derive(Debug)]
pub(super) struct Host {
    topic: String,
    connected: Timestamp,
}

/// A word about a host as it is sent.
#[derive(Debug, Deserialize)]
struct State {
    online: bool,
}

impl Host {
    /// The host of a name that is one level of a topic.
    pub(super) fn new(name: &str, now: Timestamp) -> Self {
        Self { topic: format!("spBv1.0/STATE/{name}"), connected: now }
    }

    /// Where its word is.
    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// A connection is about to be made: its will.
    pub(super) fn connecting(&mut self, now: Timestamp) -> LastWill {
        self.connected = now;
        LastWill::new(self.topic.as_str(), Self::payload(Word::Offline, now), QoS::AtLeastOnce, true, None)
    }

    /// What is to be said now.
    pub(super) fn says(&self, word: Word, now: Timestamp) -> Vec<u8> {
        Self::payload(word, if word == Word::Online { self.connected } else { now })
    }

    /// Whether a message is about it.
    pub(super) fn is_meant_by(&self, publish: &Publish) -> bool {
        publish.topic == self.topic.as_bytes()
    }

    /// Whether somebody says that it is away.
    pub(super) fn is_denied_by(&self, publish: &Publish) -> bool {
        self.is_meant_by(publish) && serde_json::from_slice::<State>(&publish.payload).is_ok_and(|state| !state.online)
    }

    fn payload(word: Word, time: Timestamp) -> Vec<u8> {
        json!({ "online": word == Word::Online, "timestamp": time.micros() / 1_000 }).to_string().into_bytes()
    }
}
