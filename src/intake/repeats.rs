//! Which messages were delivered before: by their digest, never by the DUP flag.
//!
//! After a break the broker delivers again what was not acknowledged, under the same packet identifier (MQTT-4.4.0-1).
//! A digest covers source, packet identifier, topic and payload, so a device that says the same thing twice in two
//! messages is not mistaken for it. As many digests are kept as a broker can have in flight, and several times more.

use std::collections::VecDeque;

use hashbrown::HashSet;
use xxhash_rust::xxh3::Xxh3;

use crate::model::{Message, Service};

/// The digests of the last durable messages.
#[derive(Clone, Debug)]
pub struct Repeats {
    order: VecDeque<u128>,
    known: HashSet<u128>,
    capacity: usize,
}

impl Repeats {
    /// Knows the given digests, oldest first, and keeps `capacity` of them.
    pub fn new(capacity: usize, digests: impl IntoIterator<Item = u128>) -> Self {
        let mut repeats = Self { order: VecDeque::new(), known: HashSet::new(), capacity };
        repeats.extend(digests);
        repeats
    }

    /// Takes in the digests of a commit that is durable.
    pub fn extend(&mut self, digests: impl IntoIterator<Item = u128>) {
        for digest in digests {
            if self.known.insert(digest) {
                self.order.push_back(digest);
            }
            if self.order.len() > self.capacity
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    /// What a batch adds, before it is durable.
    pub(super) fn overlay(&self) -> Overlay<'_> {
        Overlay { base: self, added: HashSet::new() }
    }
}

pub(super) struct Overlay<'a> {
    base: &'a Repeats,
    added: HashSet<u128>,
}

impl Overlay<'_> {
    pub(super) fn is_repeated(&self, digest: u128) -> bool {
        self.base.known.contains(&digest) || self.added.contains(&digest)
    }

    pub(super) fn add(&mut self, digest: u128) {
        self.added.insert(digest);
    }
}

/// The digest of a message that a broker may deliver again; none for QoS 0, which it never does.
pub(super) fn digest(message: &Message) -> Option<u128> {
    let Service::AtLeastOnce(packet) = message.service else { return None };
    let mut hash = Xxh3::new();
    for part in [message.source.as_str().as_bytes(), &packet.to_le_bytes(), message.topic.as_bytes(), message.payload.as_ref()] {
        // Lengths keep the parts apart.
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Some(hash.digest128())
}
