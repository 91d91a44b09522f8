//! From the queue of messages to batches of entries: decoding and normalisation, on a thread of its own, while the batch
//! before is being committed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use tokio::sync::mpsc;

use crate::decode::{self, Form, Limits, Memory};
use crate::ingest::{self, Delivery, Receipt, SourceStatus};
use crate::intake::Entry;
use crate::mapping::Mapper;
use crate::model::{
    Catalogue, Decoded, Domain, Fault, Message, Normalised, Observation, Readings, Reason, Registry, Replay, SourceName, Unmapped,
};
use crate::normalise::{Normaliser, TimeBounds};
use crate::state::Live;

/// Entries with the right to acknowledge each.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) entries: Vec<Entry>,
    pub(super) receipts: Vec<Receipt>,
}

/// What is known of a source's messages.
#[derive(Debug)]
pub(super) struct Route {
    /// Topic filters in the order of the configuration; the first that holds a topic counts.
    pub(super) forms: Vec<(String, Form)>,
    pub(super) bounds: TimeBounds,
}

/// Decodes and normalises. Pure, but for its memory and the panics that it turns into faults.
#[derive(Debug)]
pub(super) struct Converter {
    pub(super) routes: HashMap<SourceName, Route>,
    pub(super) limits: Limits,
    pub(super) normaliser: Normaliser,
    /// Has the registry.
    pub(super) live: Arc<Live>,
    pub(super) mapper: Arc<Mapper>,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) memory: Memory,
    /// Who answers senders, by source.
    pub(super) sources: HashMap<SourceName, Arc<SourceStatus>>,
}

impl Converter {
    /// Works until every sender of `queue` is gone. Waits `linger` for a batch to fill, since larger ones cost less.
    pub(super) fn run(
        mut self,
        mut queue: mpsc::Receiver<Delivery>,
        batches: &mpsc::Sender<Batch>,
        batch_len_max: usize,
        linger: Duration,
    ) {
        let mut deliveries = Vec::with_capacity(batch_len_max);
        while queue.blocking_recv_many(&mut deliveries, batch_len_max) > 0 {
            if deliveries.len() < batch_len_max && !linger.is_zero() {
                std::thread::sleep(linger);
                while deliveries.len() < batch_len_max
                    && let Ok(delivery) = queue.try_recv()
                {
                    deliveries.push(delivery);
                }
            }
            // Looked at after the last message was taken: whoever changed it before a message was sent finds it changed.
            let registry = self.live.registry();
            let mut batch = Batch { entries: Vec::with_capacity(deliveries.len()), receipts: Vec::with_capacity(deliveries.len()) };
            for Delivery { message, replay, receipt } in deliveries.drain(..) {
                batch.entries.push(self.entry(message, replay, &registry));
                batch.receipts.push(receipt);
            }
            if batches.blocking_send(batch).is_err() {
                break;
            }
        }
    }

    fn entry(&mut self, message: Message, replay: Option<Replay>, registry: &Registry) -> Entry {
        // Whatever a message makes of the program, it does it alone.
        self.memory.replayed = replay.is_some();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.convert(&message, registry))).unwrap_or_else(|_panic| Err(panicked()));
        Entry { message, outcome, replay }
    }

    fn convert(&mut self, message: &Message, registry: &Registry) -> Result<Normalised, Fault> {
        let route = self.routes.get(&message.source);
        let found = route.and_then(|route| {
            let form = route.forms.iter().find(|(filter, _form)| ingest::matches(filter, &message.topic));
            form.map(|(_filter, form)| (form, &route.bounds))
        });
        let Some((form, bounds)) = found else {
            let detail = "no subscription's topic filter holds it".to_owned();
            return Err(Fault { reason: Reason::Topic, at: String::new(), detail });
        };
        let Decoded { devices, mut faults, replies } = decode::decode(form, message, &self.limits, &mut self.memory)?;
        if let Some(source) = self.sources.get(&message.source) {
            for reply in replies {
                source.reply(reply);
            }
        }
        let mut unmapped = Vec::new();
        let devices = devices.into_iter().flat_map(|readings| self.mapper.map(&message.source, form.decoder, readings, &mut unmapped));
        let devices: Vec<Readings<'_>> = devices.collect();
        let mut normalised = self.normaliser.normalise(devices, message.received, bounds, registry);
        faults.append(&mut normalised.faults);
        let is_health = |observation: &Observation| self.catalogue.get(observation.property).domain == Domain::Device;
        let says_nothing = normalised.devices.iter().flat_map(|device| &device.observations).all(is_health);
        if says_nothing && faults.is_empty() && !unmapped.is_empty() {
            // Kept, so that it can be replayed once a mapping knows it: a device's own health is not what it is there for.
            faults.push(nothing_mapped(&unmapped));
        }
        Ok(Normalised { faults, unmapped, ..normalised })
    }
}

/// The fault of a message of which no field is mapped: its first fields.
fn nothing_mapped(unmapped: &[Unmapped]) -> Fault {
    const SHOWN: usize = 5;
    let fields: Vec<&str> = unmapped.iter().take(SHOWN).map(|unmapped| unmapped.field.as_str()).collect();
    let more = if unmapped.len() > SHOWN { format!(" and {} more", unmapped.len() - SHOWN) } else { String::new() };
    Fault { reason: Reason::Unmapped, at: String::new(), detail: format!("no mapping knows {}{more}", fields.join(", ")) }
}

/// What is written of a message that made the program panic.
pub(super) fn panicked() -> Fault {
    tracing::error!("a message made the program panic: it is quarantined");
    Fault { reason: Reason::Panic, at: String::new(), detail: "a fault of the program; the message is kept".to_owned() }
}
