//! The one writer of intake: batches in, one durable transaction each, then the acknowledgements.
//!
//! On a thread of its own, since every commit waits for the disk. A batch that cannot be committed is tried again for
//! ever, acknowledging nothing: the queues fill, sources stop reading, and the brokers keep what comes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::convert::{Batch, panicked};
use crate::alert::{Desk, Evidence, Facts, Observed, Step};
use crate::ingest::{Depth, Listening, SourceStatus};
use crate::intake::{self, Entry, Gate, Limits, Repeats, Taken};
use crate::metrics::{LaneLabel, Metrics, Outcome, OutcomeLabels};
use crate::model::{Clock, DeviceObservations, Districts, Normalised, Settled, SourceName, Timestamp, Verdict};
use crate::quality::Checks;
use crate::state::{Database, StateError};

/// Batches of the converter that one commit takes at most.
const BATCHES_MAX: usize = 4;

/// How long a batch that cannot be committed waits before the next try.
const RETRY: Duration = Duration::from_millis(250);

/// Commits batches.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) database: Arc<Database>,
    pub(super) districts: Arc<Districts>,
    pub(super) desk: Arc<Desk>,
    pub(super) gate: Arc<Gate>,
    pub(super) listening: Arc<Listening>,
    pub(super) sources: Vec<Arc<SourceStatus>>,
    /// The names of what comes over HTTP.
    pub(super) senders: [SourceName; 2],
    pub(super) waiting: Depth,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: Limits,
    pub(super) repeats: Repeats,
    pub(super) checks: Checks,
    /// Ends the waiting for a commit that cannot be made; what is not acknowledged is delivered again.
    pub(super) give_up: CancellationToken,
}

impl Writer {
    /// Works until the converter is gone.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Batch>) {
        let mut batches = Vec::with_capacity(BATCHES_MAX);
        while queue.blocking_recv_many(&mut batches, BATCHES_MAX) > 0 {
            self.metrics.queue_messages.set(i64::try_from(self.waiting.get().0).unwrap_or(i64::MAX));
            let mut whole = Batch::default();
            for batch in batches.drain(..) {
                whole.entries.extend(batch.entries);
                whole.receipts.extend(batch.receipts);
            }
            let Some(settled) = self.settle(&mut whole.entries) else { break };
            let now = self.clock.now();
            // Acknowledge only now: a crash before this line must make the brokers deliver again.
            for ((entry, receipt), settled) in whole.entries.into_iter().zip(whole.receipts).zip(settled) {
                self.metrics.settle_seconds.observe(now.since(entry.message.received).as_secs_f64());
                receipt.acknowledge(|| verdict(entry, settled));
            }
        }
    }

    /// Commits the whole batch, however long it takes, and says what became of each message. `None` once nobody wants to
    /// wait any longer.
    fn settle(&mut self, entries: &mut [Entry]) -> Option<Vec<Settled>> {
        match catch_unwind(AssertUnwindSafe(|| self.commit(entries))) {
            Ok(settled) => settled,
            Err(_panic) if entries.len() > 1 => {
                let mut settled = Vec::with_capacity(entries.len());
                for entry in entries.iter_mut() {
                    settled.extend(self.settle(std::slice::from_mut(entry))?);
                }
                Some(settled)
            }
            Err(_panic) => {
                for entry in entries.iter_mut() {
                    entry.outcome = Err(panicked());
                }
                self.commit(entries)
            }
        }
    }

    fn commit(&mut self, entries: &[Entry]) -> Option<Vec<Settled>> {
        let settled = loop {
            let now = self.clock.now();
            let tried = self.gate.check(self.database.live(), now).is_ok().then(|| self.try_commit(entries));
            match tried {
                Some(Ok(settled)) => break settled,
                Some(Err(error)) => {
                    self.metrics.commit_failures.inc();
                    self.gate.fail(crate::error_chain(&error), now);
                }
                None => {}
            }
            self.metrics.intake_paused.set(1);
            self.listening.interrupt(now);
            if self.give_up.is_cancelled() {
                return None;
            }
            std::thread::sleep(RETRY);
        };
        if let Some(since) = self.gate.open() {
            tracing::warn!(%since, "messages are accepted again");
        }
        self.metrics.intake_paused.set(0);
        Some(settled)
    }

    fn try_commit(&mut self, entries: &[Entry]) -> Result<Vec<Settled>, StateError> {
        let database = Arc::clone(&self.database);
        let mut turn = database.turn();
        let is_quarantined = |replay: &_| turn.is_quarantined(replay);
        let intake::Step { mut commit, settled, taken, histories } =
            intake::step(database.live(), &self.repeats, &self.checks, self.limits, is_quarantined, entries);
        let shed: Vec<u64> = self.sources.iter().map(|source| source.shed.swap(0, Ordering::Relaxed)).collect();
        let now = self.clock.now();
        for (source, shed) in self.sources.iter().zip(&shed).filter(|(_source, shed)| **shed > 0) {
            intake::shed(&mut commit, &source.name, now, *shed);
        }
        let effects = self.desk.observe(&mut commit, |step| observe(step, &self.districts, entries, &settled, &taken));
        let digests = commit.digests.clone();
        let rows = [("ordered", commit.ordered.len()), ("late", commit.late.len())];
        let started = Instant::now();
        if let Err(error) = turn.commit(commit) {
            for (source, shed) in self.sources.iter().zip(&shed) {
                source.shed.fetch_add(*shed, Ordering::Relaxed);
            }
            return Err(error);
        }
        self.metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
        self.metrics.commit_messages.observe(entries.len() as f64);
        self.desk.apply(&effects);
        self.repeats.extend(digests);
        self.checks.learn(histories);
        drop(turn);
        for (lane, rows) in rows {
            self.metrics.observations.get_or_create(&LaneLabel { lane }).inc_by(rows as u64);
        }
        for (source, shed) in self.sources.iter().zip(shed) {
            self.count(source.name.as_str(), Outcome::Shed, shed);
        }
        self.account(entries, &settled);
        Ok(settled)
    }

    fn count(&self, source: &str, outcome: Outcome, messages: u64) {
        if messages > 0 {
            self.metrics.messages.get_or_create(&OutcomeLabels { source: source.to_owned(), outcome }).inc_by(messages);
        }
    }

    /// Counts what a durable batch was, and takes note of which sources are heard as they speak.
    fn account(&self, entries: &[Entry], settled: &[Settled]) {
        for source in self.sources.iter().map(|source| &source.name).chain(&self.senders) {
            let (mut accepted, mut rejected, mut repeated) = (0, 0, 0);
            let mut fresh = None;
            for (entry, settled) in
                entries.iter().zip(settled).filter(|(entry, _settled)| entry.replay.is_none() && entry.message.source == *source)
            {
                match settled {
                    Settled::Accepted => accepted += 1,
                    Settled::Rejected => rejected += 1,
                    Settled::Repeated => repeated += 1,
                }
                let faults = match (&entry.outcome, settled) {
                    (_, Settled::Repeated) => continue,
                    (Ok(normalised), _) => normalised.faults.as_slice(),
                    (Err(fault), _) => std::slice::from_ref(fault),
                };
                for fault in faults {
                    self.metrics.fault(fault.reason);
                }
                let newest = entry.outcome.as_ref().ok().and_then(newest);
                if let Some((newest, _value)) = newest.filter(|_newest| fresh.is_none() && !entry.message.retained) {
                    self.listening.hear(source.as_str(), entry.message.received, newest);
                    fresh = (entry.message.received.since(newest) < Duration::from_secs(1)).then_some(());
                }
            }
            self.count(source.as_str(), Outcome::Accepted, accepted);
            self.count(source.as_str(), Outcome::Rejected, rejected);
            self.count(source.as_str(), Outcome::Repeated, repeated);
        }
    }
}

/// What a sender that waits is told.
fn verdict(entry: Entry, settled: Settled) -> Verdict {
    match entry.outcome {
        Ok(normalised) => Verdict { settled, observations: normalised.observations(), faults: normalised.faults },
        Err(fault) => Verdict { settled, observations: 0, faults: vec![fault] },
    }
}

/// Time and value of a device's newest observation in a message.
fn newest_of(device: &DeviceObservations) -> Option<(Timestamp, f64)> {
    let observations = device.observations.iter().map(|observation| (observation.time, observation.value));
    observations.max_by_key(|(time, _value)| *time)
}

/// Time and value of a message's newest observation.
fn newest(normalised: &Normalised) -> Option<(Timestamp, f64)> {
    normalised.devices.iter().filter_map(newest_of).max_by_key(|(time, _value)| *time)
}

/// Shows a batch to the alert rules.
fn observe(step: &mut Step<'_>, districts: &Districts, entries: &[Entry], settled: &[Settled], taken: &[Taken]) {
    let mut taken = taken.iter();
    for (entry, _accepted) in entries.iter().zip(settled).filter(|(_entry, settled)| **settled == Settled::Accepted) {
        let Ok(normalised) = &entry.outcome else { continue };
        for heard in &normalised.devices {
            let DeviceObservations { device, kind, domain, observations } = heard;
            let mut facts = Facts { device, kind, domain: *domain, district: None };
            for (observation, Taken { advances, flags }) in observations.iter().zip(taken.by_ref()) {
                facts.district = observation.district.map(|district| districts.get(district).id.as_str());
                if *advances {
                    let (property, time, value) = (observation.property, observation.time, observation.value);
                    step.observe(facts, Observed { property, time, value, flags: *flags });
                }
            }
            if let Some((time, value)) = newest_of(heard)
                && !entry.message.retained
            {
                step.hear(facts, Evidence { time, value }, entry.message.received);
            }
        }
    }
}
