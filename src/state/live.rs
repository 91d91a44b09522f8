//! The mirror in memory: devices, series with their marks, and the part of the log that stores still need.
//!
//! Only the holder of a [`super::Turn`] changes it, after its commit; everybody reads it. A lock is held for the copy
//! of a few numbers, never across an `.await` or a query.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::{RwLock, RwLockReadGuard};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::block::{Block, Lane};
use super::database::{AlertChange, Commit, Restored};
use super::rhythm::Rhythm;
use crate::model::{DeviceId, DeviceKind, Domain, Flags, Position, PropertyIndex, Registry, Timestamp};

/// A device's number: dense, given at first sight, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceIndex(pub u32);

/// A series' number: dense, given at first sight, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeriesIndex(pub u32);

/// A device that has been heard.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its name.
    pub id: DeviceId,
    /// What sort of device.
    pub kind: DeviceKind,
    /// Its part of city life.
    pub domain: Domain,
    /// When its first message was received.
    pub first_seen: Timestamp,
    /// Its series, by property.
    pub series: Vec<(PropertyIndex, SeriesIndex)>,
    /// Its moves since the program's start.
    pub moves: Moves,
    /// How often it speaks.
    pub rhythm: Rhythm,
}

/// How a device moves, as far as it was seen since the program's start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moves {
    /// How often it moved by more than [`MOVE_M`]; no more are counted than the type holds.
    pub count: u8,
    /// Time and place of its newest trusted observation.
    newest: Option<(i64, (f64, f64))>,
}

impl Moves {
    fn see(&mut self, latest: &Latest) {
        let Some(to) = latest.position else { return };
        match self.newest {
            Some((time, _from)) if latest.time <= time => return,
            Some((_time, from)) if from != to => {
                let position = |(longitude, latitude)| Position::new(longitude, latitude).ok();
                let has_moved = position(from).zip(position(to)).is_some_and(|(from, to)| from.distance_m(to) > MOVE_M);
                self.count = self.count.saturating_add(u8::from(has_moved));
            }
            _ => {}
        }
        self.newest = Some((latest.time, to));
    }
}

/// Two observations of a device that lie further apart than this, in metres, show that it has moved: receivers wander less.
pub const MOVE_M: f64 = 250.0;

/// One property of one device.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    /// Whose.
    pub device: DeviceIndex,
    /// What.
    pub property: PropertyIndex,
    /// How far it has come.
    pub mark: Mark,
}

/// How far a series has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// The newest observation that is not ahead of our clock. Its time is the series' watermark.
    pub latest: Option<Latest>,
    /// The newest of them that is trusted.
    pub trusted: Option<Latest>,
    /// The highest time ahead of our clock that was ever accepted: up to it, nothing is certainly new.
    pub ahead: Option<i64>,
}

impl Mark {
    /// Whether an observation at `time` is certainly new.
    pub fn is_ahead_of_all(&self, time: i64) -> bool {
        self.latest.is_none_or(|latest| latest.time < time) && self.ahead.is_none_or(|ahead| ahead < time)
    }

    /// Takes an accepted observation into account, in order of receipt. A time ahead of our clock is not believed: it
    /// never becomes the latest, it is only remembered as taken.
    pub fn observe(&mut self, observed: Latest) {
        let flags = Flags::from_bits_retain(observed.flags);
        if flags.contains(Flags::FUTURE) {
            self.ahead = Some(self.ahead.map_or(observed.time, |ahead| ahead.max(observed.time)));
            return;
        }
        // An equal time is a correction: the last received wins.
        if self.latest.is_none_or(|latest| latest.time <= observed.time) {
            self.latest = Some(observed);
        }
        if flags.is_trusted() && self.trusted.is_none_or(|trusted| trusted.time <= observed.time) {
            self.trusted = Some(observed);
        }
    }
}

/// An observation as the latest of its series.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latest {
    /// Phenomenon time in microseconds.
    pub time: i64,
    /// Canonical unit.
    pub value: f64,
    /// Bits of [`crate::model::Flags`].
    pub flags: u16,
    /// Longitude and latitude in degrees.
    pub position: Option<(f64, f64)>,
}

/// The part of the log that stores still need, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    /// Blocks of rows that are certainly new.
    pub ordered: Vec<Arc<Block>>,
    /// Blocks of rows that are to be compared.
    pub late: Vec<Arc<Block>>,
}

impl Tail {
    /// Rows in both lanes.
    pub fn rows(&self) -> usize {
        self.ordered.iter().chain(&self.late).map(|block| block.rows.len()).sum()
    }
}

/// The state in memory.
#[derive(Debug)]
pub struct Live {
    state: RwLock<State>,
    committed: watch::Sender<u64>,
}

/// What a reader sees under the lock.
#[derive(Debug, Default)]
pub struct State {
    /// All devices, by index.
    pub devices: Vec<Device>,
    /// All series, by index.
    pub series: Vec<Series>,
    /// What is said of devices, heard or not.
    pub registry: Arc<Registry>,
    /// Blocks that stores still need.
    pub tail: Tail,
    /// Rows in the tail's ordered and late lanes.
    pub tail_rows: (usize, usize),
    /// Bytes that the log's blocks take in memory, roughly.
    pub tail_bytes: usize,
    recent: Recent,
    device_by_id: HashMap<DeviceId, DeviceIndex>,
}

/// A commit as the live stream tells it.
#[derive(Debug)]
pub struct Event {
    /// The commit's number.
    pub sequence: u64,
    /// Observations, the ordered lane first.
    pub blocks: Vec<Arc<Block>>,
    /// Changed alerts.
    pub alerts: Vec<AlertChange>,
}

/// The last events, bounded by the number of their rows.
#[derive(Debug, Default)]
struct Recent {
    events: VecDeque<Arc<Event>>,
    rows: usize,
    /// The last commit of which nothing is known any more.
    forgotten: u64,
}

/// Rows of the last events that are kept for streams that were interrupted: some seconds at full load, minutes else.
const RECENT_ROWS: usize = 200_000;

impl Recent {
    fn push(&mut self, event: Event) {
        self.rows += event.rows();
        self.events.push_back(Arc::new(event));
        while self.rows > RECENT_ROWS
            && let Some(oldest) = self.events.pop_front()
        {
            self.rows -= oldest.rows();
            self.forgotten = oldest.sequence;
        }
    }
}

impl Event {
    /// What it counts against the bound; an event without rows is not free either.
    fn rows(&self) -> usize {
        1 + self.alerts.len() + self.blocks.iter().map(|block| block.rows.len()).sum::<usize>()
    }
}

impl State {
    /// The device of that name.
    pub fn find_device(&self, id: &str) -> Option<DeviceIndex> {
        self.device_by_id.get(id).copied()
    }

    /// The device at that index, which comes from this state.
    pub fn device(&self, index: DeviceIndex) -> &Device {
        self.devices.get(index.0 as usize).expect("device indexes are dense and never removed")
    }

    /// The series at that index, which comes from this state.
    pub fn series_at(&self, index: SeriesIndex) -> &Series {
        self.series.get(index.0 as usize).expect("series indexes are dense and never removed")
    }

    /// The series of one property of a device.
    pub fn find_series(&self, device: DeviceIndex, property: PropertyIndex) -> Option<SeriesIndex> {
        let series = &self.device(device).series;
        series.iter().find(|(of, _index)| *of == property).map(|(_of, index)| *index)
    }

    fn add(&mut self, lane: Lane, block: Arc<Block>) {
        let rows = block.rows.len();
        self.tail_bytes += block.rows.bytes();
        match lane {
            Lane::Ordered => {
                self.learn(&block);
                self.tail_rows.0 += rows;
                self.tail.ordered.push(block);
            }
            Lane::Late => {
                self.tail_rows.1 += rows;
                self.tail.late.push(block);
            }
        }
    }

    /// Learns devices' rhythms from rows that are new.
    fn learn(&mut self, block: &Block) {
        let mut before = None;
        for (series, time) in block.rows.series.iter().zip(&block.rows.time) {
            let device = self.series_at(*series).device;
            // The readings of one message.
            if before.replace((device, *time)) != Some((device, *time))
                && let Some(device) = self.devices.get_mut(device.0 as usize)
            {
                device.rhythm.see(*time);
            }
        }
    }

    fn apply(&mut self, commit: &Commit) {
        if let Some(change) = &commit.registry {
            let registry = Arc::make_mut(&mut self.registry);
            for (device, registration) in &change.entries {
                registry.set(device, registration.as_ref().map(Arc::clone));
            }
        }
        for device in &commit.new_devices {
            let index = DeviceIndex(u32::try_from(self.devices.len()).expect("the number of devices is capped"));
            self.device_by_id.insert(device.id.clone(), index);
            self.devices.push(Device {
                id: device.id.clone(),
                kind: device.kind.clone(),
                domain: device.domain,
                first_seen: device.first_seen,
                series: Vec::new(),
                moves: Moves::default(),
                rhythm: Rhythm::default(),
            });
        }
        for series in &commit.new_series {
            let index = SeriesIndex(u32::try_from(self.series.len()).expect("devices times properties fit 32 bits"));
            self.series.push(Series { device: series.device, property: series.property, mark: Mark::default() });
            if let Some(device) = self.devices.get_mut(series.device.0 as usize) {
                device.series.push((series.property, index));
            }
        }
        for (index, mark) in &commit.marks {
            if let Some(series) = self.series.get_mut(index.0 as usize) {
                series.mark = *mark;
                if let (Some(trusted), Some(device)) = (&mark.trusted, self.devices.get_mut(series.device.0 as usize)) {
                    device.moves.see(trusted);
                }
            }
        }
    }
}

impl Live {
    /// What the database held at the start.
    pub fn new(restored: Restored) -> Self {
        let registry = Arc::new(restored.registry);
        let mut state = State { devices: restored.devices, series: restored.series, registry, ..State::default() };
        state.device_by_id = (0u32..).zip(&state.devices).map(|(index, device)| (device.id.clone(), DeviceIndex(index))).collect();
        for (lane, block) in restored.blocks {
            state.add(lane, Arc::new(block));
        }
        state.recent.forgotten = restored.sequence;
        Self { state: RwLock::new(state), committed: watch::Sender::new(restored.sequence) }
    }

    /// A look at the state; keep it short.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// What is said of devices, at this instant.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.state.read().registry)
    }

    /// Blocks after the given positions of the two lanes.
    pub fn tail_after(&self, ordered: u64, late: u64) -> Tail {
        let state = self.state.read();
        let after = |blocks: &[Arc<Block>], position: u64| {
            let start = blocks.partition_point(|block| block.sequence <= position);
            blocks.get(start..).unwrap_or_default().to_vec()
        };
        Tail { ordered: after(&state.tail.ordered, ordered), late: after(&state.tail.late, late) }
    }

    /// Events after a commit, oldest first, at most `limit`; `None` where some of them are no longer known, or where there
    /// never was such a commit.
    pub fn events_after(&self, sequence: u64, limit: usize) -> Option<Vec<Arc<Event>>> {
        let state = self.state.read();
        // An event is among the recent ones a moment before its number is told; whoever took it then would be ahead.
        let committed = self.sequence();
        if sequence < state.recent.forgotten || sequence > committed {
            return None;
        }
        let start = state.recent.events.partition_point(|event| event.sequence <= sequence);
        let told = state.recent.events.range(start..).take_while(|event| event.sequence <= committed);
        Some(told.take(limit).map(Arc::clone).collect())
    }

    /// Number of the last published commit.
    pub fn sequence(&self) -> u64 {
        *self.committed.borrow()
    }

    /// Tells of every published commit's number.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.committed.subscribe()
    }

    /// Makes a durable commit visible.
    pub(super) fn publish(&self, sequence: u64, commit: Commit) {
        {
            let mut state = self.state.write();
            state.apply(&commit);
            let mut blocks = Vec::new();
            for (lane, rows) in [(Lane::Ordered, commit.ordered), (Lane::Late, commit.late)] {
                if !rows.is_empty() {
                    let block = Arc::new(Block { sequence, rows });
                    blocks.push(Arc::clone(&block));
                    state.add(lane, block);
                }
            }
            if !blocks.is_empty() || !commit.alerts.is_empty() {
                state.recent.push(Event { sequence, blocks, alerts: commit.alerts });
            }
        }
        self.committed.send_replace(sequence);
    }

    /// Forgets blocks up to the given positions, which a store holds durably.
    pub(super) fn trim(&self, ordered: u64, late: u64) {
        let mut state = self.state.write();
        let State { tail, tail_rows, tail_bytes, .. } = &mut *state;
        for (blocks, position, rows) in [(&mut tail.ordered, ordered, &mut tail_rows.0), (&mut tail.late, late, &mut tail_rows.1)] {
            let end = blocks.partition_point(|block| block.sequence <= position);
            for block in blocks.drain(..end) {
                *rows -= block.rows.len();
                *tail_bytes -= block.rows.bytes();
            }
        }
    }
}
