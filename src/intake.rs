//! What a batch of messages changes: a pure step from the state that is, to the effects of the batch.
//!
//! The step decides which messages are delivered again, which observations are certainly new and which must be compared
//! with what is stored, which values are suspect beside what came before them, which devices and series are new, and what the
//! ledger says. It changes nothing itself: the
//! caller commits the effects in one transaction, and only then acknowledges the messages. After a failed commit the
//! step's result is thrown away and nothing has happened.
//!
//! Left out: alerts (the caller adds their effects to the same commit) and everything about transport.

mod gate;
mod repeats;

use std::sync::Arc;

use hashbrown::hash_map::Entry as Slot;
use hashbrown::{HashMap, HashSet};

pub use gate::{Gate, GateLimits, Pause};
pub use repeats::Repeats;

use crate::model::{
    Class, DeviceObservations, Fault, Flags, Message, Normalised, Observation, PropertyIndex, Reason, Replay, Settled, Timestamp,
};
use crate::quality::{Checks, History, References};
use crate::state::{
    Commit, DeviceIndex, Lane, Latest, LedgerKey, Live, Mark, NewDevice, NewSeries, Origin, Place, Quarantined, SeriesIndex,
};

/// A message with what decoding and normalisation made of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As received.
    pub message: Message,
    /// Its observations and faults, or why the whole of it is refused.
    pub outcome: Result<Normalised, Fault>,
    /// Where it comes from the quarantine, not from a source.
    pub replay: Option<Replay>,
}

/// The outcome of a step.
#[derive(Debug, Default)]
pub struct Step {
    /// To commit.
    pub commit: Commit,
    /// By message, in order.
    pub settled: Vec<Settled>,
    /// By observation of the accepted messages, in order.
    pub taken: Vec<Taken>,
    /// For [`Checks::learn`], once the commit is durable.
    pub histories: Vec<(SeriesIndex, History)>,
}

/// What the step made of an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whether its series has come further with it. What comes late has not, nor what lies ahead of our clock; what follows
    /// such a one has, though it must be compared.
    pub advances: bool,
    /// All that is suspect about it.
    pub flags: Flags,
}

/// Bounds of the step.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Devices that the city may have: a flood of invented names must not fill the disk.
    pub devices_max: usize,
}

/// Computes the effects of a batch on the state in `live`; `is_quarantined` tells whether a message that is replayed still
/// is as the replay says. Call it holding the writer's turn.
pub fn step(
    live: &Live,
    repeats: &Repeats,
    checks: &Checks,
    limits: Limits,
    is_quarantined: impl Fn(&Replay) -> bool,
    batch: &[Entry],
) -> Step {
    let state = live.read();
    let mut work = Work {
        checks,
        references: checks.references(),
        devices: state.devices.len(),
        series: state.series.len(),
        new_devices: HashMap::new(),
        new_series: HashMap::new(),
        progress: HashMap::with_capacity(batch.len() * 4),
        fresh: repeats.overlay(),
        step: Step { settled: Vec::with_capacity(batch.len()), ..Step::default() },
    };
    for entry in batch {
        let settled = match entry.replay {
            Some(replay) if work.step.commit.replayed.contains(&replay.id) || !is_quarantined(&replay) => Settled::Repeated,
            Some(replay) => {
                work.take_back(&entry.message, replay);
                work.entry(&state, limits, entry)
            }
            None => work.entry(&state, limits, entry),
        };
        work.step.settled.push(settled);
    }
    let mut step = work.step;
    step.commit.marks.reserve(work.progress.len());
    step.histories.reserve(work.progress.len());
    for (series, Progress { mark, history }) in work.progress {
        step.commit.marks.push((series, mark));
        step.histories.push((series, history));
    }
    step
}

/// How far a series comes with the batch.
struct Progress {
    mark: Mark,
    history: History,
}

/// A device in a message.
struct Heard<'a> {
    device: DeviceIndex,
    name: &'a str,
    /// What it says of the humidity, by time: time and value.
    humidities: Vec<(i64, f64)>,
}

struct Work<'a> {
    checks: &'a Checks,
    references: Arc<References>,
    /// Number of devices and series, new ones included.
    devices: usize,
    series: usize,
    new_devices: HashMap<&'a str, DeviceIndex>,
    new_series: HashMap<(DeviceIndex, PropertyIndex), SeriesIndex>,
    progress: HashMap<SeriesIndex, Progress>,
    fresh: repeats::Overlay<'a>,
    step: Step,
}

impl<'a> Work<'a> {
    /// Undoes what the ledger says of a quarantined message, in the line of its receipt: it is then counted anew.
    fn take_back(&mut self, message: &Message, replay: Replay) {
        let counts = self.step.commit.ledger.line(&message.source, message.received.hour());
        counts.received -= 1;
        *(if replay.whole { &mut counts.rejected } else { &mut counts.accepted }) -= 1;
        counts.readings -= replay.readings;
        counts.quarantined -= replay.readings;
        self.step.commit.replayed.push(replay.id);
    }

    fn entry(&mut self, state: &crate::state::State, limits: Limits, entry: &'a Entry) -> Settled {
        let message = &entry.message;
        let hour = message.received.hour();
        self.step.commit.ledger.line(&message.source, hour).received += 1;
        if let Some(digest) = repeats::digest(message) {
            if self.fresh.is_repeated(digest) {
                self.step.commit.ledger.line(&message.source, hour).repeated += 1;
                return Settled::Repeated;
            }
            self.fresh.add(digest);
            self.step.commit.digests.push(digest);
        }
        match &entry.outcome {
            Ok(normalised) => self.normalised(state, limits, entry, normalised),
            Err(fault) => {
                self.reject(entry, vec![fault.clone()], 0);
                Settled::Rejected
            }
        }
    }

    fn reject(&mut self, entry: &Entry, faults: Vec<Fault>, readings: usize) {
        let message = &entry.message;
        let counts = self.step.commit.ledger.line(&message.source, message.received.hour());
        counts.rejected += 1;
        counts.readings += count(readings);
        counts.quarantined += count(readings);
        self.quarantine(entry, true, faults, readings);
    }

    fn quarantine(&mut self, entry: &Entry, whole: bool, faults: Vec<Fault>, readings: usize) {
        let (id, message) = (entry.replay.map(|replay| replay.id), entry.message.clone());
        self.step.commit.quarantined.push(Quarantined { id, message, whole, faults, readings: count(readings) });
    }

    fn normalised(&mut self, state: &crate::state::State, limits: Limits, entry: &'a Entry, normalised: &'a Normalised) -> Settled {
        let message = &entry.message;
        let Normalised { devices, faults, unmapped } = normalised;
        let told = unmapped.iter().map(|field| (message.source.clone(), message.received, field.clone()));
        self.step.commit.unmapped.extend(told);
        if devices.is_empty() && !faults.is_empty() {
            self.reject(entry, faults.clone(), faults.len());
            return Settled::Rejected;
        }
        if let Some(fault) = self.too_many(state, limits, devices) {
            let faults = std::iter::once(fault).chain(faults.iter().cloned()).collect();
            self.reject(entry, faults, normalised.observations() + normalised.faults.len());
            return Settled::Rejected;
        }
        let before = (self.step.commit.ordered.len(), self.step.commit.late.len());
        for device in devices {
            let index = self.device(state, message, device);
            let heard = Heard { device: index, name: device.device.as_str(), humidities: self.humidities(device) };
            for observation in &device.observations {
                self.observation(state, &heard, observation);
            }
        }
        let ordered = self.step.commit.ordered.len() - before.0;
        let late = self.step.commit.late.len() - before.1;
        let key = LedgerKey { source: message.source.clone(), hour: message.received.hour() };
        let counts = self.step.commit.ledger.line(&key.source, key.hour);
        counts.accepted += 1;
        counts.readings += count(normalised.observations() + faults.len());
        counts.stored += count(ordered);
        counts.pending += count(late);
        counts.quarantined += count(faults.len());
        if late > 0 {
            add_origin(&mut self.step.commit.late.origins, key, late);
        }
        if !faults.is_empty() {
            self.quarantine(entry, false, faults.clone(), faults.len());
        }
        Settled::Accepted
    }

    /// What is wrong with a message whose devices the city has no room for: it is refused as a whole.
    fn too_many(&self, state: &crate::state::State, limits: Limits, devices: &[DeviceObservations]) -> Option<Fault> {
        let room = limits.devices_max.saturating_sub(self.devices);
        // The message's devices at most; one of them may be named twice.
        if devices.len() <= room {
            return None;
        }
        let names = devices.iter().map(|device| device.device.as_str());
        let new: HashSet<&str> = names.filter(|name| state.find_device(name).is_none() && !self.new_devices.contains_key(name)).collect();
        (new.len() > room).then(|| {
            let detail = format!("the city has {} devices, {} are allowed", self.devices, limits.devices_max);
            Fault { reason: Reason::TooManyDevices, at: String::new(), detail }
        })
    }

    fn device(&mut self, state: &crate::state::State, message: &Message, heard: &'a DeviceObservations) -> DeviceIndex {
        let known = state.find_device(heard.device.as_str()).or_else(|| self.new_devices.get(heard.device.as_str()).copied());
        known.unwrap_or_else(|| {
            let index = DeviceIndex(u32::try_from(self.devices).expect("the number of devices is capped"));
            self.devices += 1;
            self.new_devices.insert(heard.device.as_str(), index);
            self.step.commit.new_devices.push(NewDevice {
                id: heard.device.clone(),
                kind: heard.kind.clone(),
                domain: heard.domain,
                first_seen: message.received,
            });
            index
        })
    }

    fn observation(&mut self, state: &crate::state::State, heard: &Heard<'_>, observation: &Observation) {
        let device = heard.device;
        let known = find_series(state, device, observation.property);
        let series = known.unwrap_or_else(|| match self.new_series.entry((device, observation.property)) {
            Slot::Occupied(slot) => *slot.get(),
            Slot::Vacant(slot) => {
                let index = SeriesIndex(u32::try_from(self.series).expect("devices times properties fit 32 bits"));
                self.series += 1;
                self.step.commit.new_series.push(NewSeries { device, property: observation.property });
                *slot.insert(index)
            }
        });
        let humid = self.humid(state, heard, observation);
        let Progress { mark, history } = self.progress.entry(series).or_insert_with(|| Progress {
            mark: known.map_or_else(Mark::default, |series| state.series_at(series).mark),
            history: self.checks.history(series),
        });
        let time = observation.time.micros();
        let flags = self.checks.judge(observation, mark.latest.as_ref(), history)
            | self.checks.judge_neighbours(&self.references, series, observation)
            | humid;
        let future = flags.contains(Flags::FUTURE);
        let lane = if !future && mark.is_ahead_of_all(time) { Lane::Ordered } else { Lane::Late };
        self.step.taken.push(Taken { advances: !future && mark.latest.is_none_or(|latest| latest.time < time), flags });
        let position = observation.position.map(|position| (position.longitude(), position.latitude()));
        mark.observe(Latest { time, value: observation.value, flags: flags.bits(), position });
        let rows = match lane {
            Lane::Ordered => &mut self.step.commit.ordered,
            Lane::Late => &mut self.step.commit.late,
        };
        let place = Place { position: observation.position, district: observation.district };
        rows.push(series, time, observation.value, flags.bits(), place, observation.original.as_deref());
    }

    /// What a message says of the humidity, by time: time and value.
    fn humidities(&self, heard: &DeviceObservations) -> Vec<(i64, f64)> {
        let told = heard.observations.iter().filter(|told| Some(told.property) == self.checks.humidity() && is_credible(told.flags));
        let mut told: Vec<(i64, f64)> = told.map(|told| (told.time.micros(), told.value)).collect();
        told.sort_by_key(|(time, _value)| *time);
        told
    }

    /// The flag of an observation that humid air spoils: by what its message says of the humidity, or its device said last.
    fn humid(&self, state: &crate::state::State, heard: &Heard<'_>, observation: &Observation) -> Flags {
        let limit = self.checks.humidity_max(observation.property).zip(self.checks.humidity());
        let Some((humidity_max, humidity)) = limit else { return Flags::empty() };
        let time = observation.time.micros();
        let (earlier, later) = heard.humidities.split_at(heard.humidities.partition_point(|(told, _value)| *told < time));
        let series = find_series(state, heard.device, humidity).or_else(|| self.new_series.get(&(heard.device, humidity)).copied());
        let before = series.and_then(|series| match self.progress.get(&series) {
            Some(progress) => progress.mark.latest,
            None => state.series_at(series).mark.latest,
        });
        let before = before.filter(|latest| is_credible(Flags::from_bits_retain(latest.flags)));
        let told = earlier.last().into_iter().chain(later.first()).copied().chain(before.map(|latest| (latest.time, latest.value)));
        let flags = self.checks.judge_humidity(time, humidity_max, told);
        // Looked up last: it is seldom so humid.
        let is_reference = || {
            let registered = state.registry.find(heard.name);
            registered.is_some_and(|registered| registered.document().class == Some(Class::Reference))
        };
        if flags.is_empty() || is_reference() { Flags::empty() } else { flags }
    }
}

/// Whether a value may be judged by: where it was observed does not matter.
fn is_credible(flags: Flags) -> bool {
    flags.difference(Flags::MISPLACED).is_empty()
}

/// A series that was there before the batch; the device may be one of the batch's own.
fn find_series(state: &crate::state::State, device: DeviceIndex, property: PropertyIndex) -> Option<SeriesIndex> {
    ((device.0 as usize) < state.devices.len()).then(|| state.find_series(device, property)).flatten()
}

fn add_origin(origins: &mut Vec<Origin>, key: LedgerKey, rows: usize) {
    let rows = u32::try_from(rows).expect("a message has few readings");
    match origins.last_mut() {
        Some(last) if last.key == key => last.rows += rows,
        _ => origins.push(Origin { key, rows }),
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).expect("batches are small")
}

/// QoS 0 messages that were dropped before they reached the step, for the ledger.
pub fn shed(commit: &mut Commit, source: &crate::model::SourceName, hour: Timestamp, messages: u64) {
    let messages = i64::try_from(messages).expect("far fewer messages are shed in an hour");
    let counts = commit.ledger.line(source, hour.hour());
    counts.received += messages;
    counts.shed += messages;
}
