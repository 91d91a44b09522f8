//! Against a real lake and database in a temporary folder, filled through the intake's own step.

mod aggregates;
mod observations;
mod places;
mod scans;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;

use super::*;
use crate::intake::{self, Entry, Limits, Repeats};
use crate::model::{
    Clock, DeviceId, DeviceKind, DistrictIndex, Domain, Flags, ManualClock, Message, Position, PropertyIndex, Reading, Readings, Registry,
    Service, SourceName, Timestamp, Value, Vocabulary,
};
use crate::normalise::{Normaliser, TimeBounds};
use crate::quality::Checks;
use crate::state::Database;
use crate::store::{Chunk, Detail, Lake, LakeSettings, Maintenance, Order, Selection};

/// Inside pa-c1, pa-c2 and none of the districts.
const FIRST: (f64, f64) = (13.361, 38.116);
const SECOND: (f64, f64) = (13.40, 38.09);
const OUTSIDE: (f64, f64) = (13.36, 38.30);

/// What a device tells.
#[derive(Clone, Copy, Debug)]
struct Told {
    device: &'static str,
    kind: &'static str,
    property: &'static str,
    time: Timestamp,
    value: f64,
    position: (f64, f64),
}

/// What should be stored under an identity.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    value: f64,
    flags: Flags,
    district: Option<DistrictIndex>,
}

/// Device, property, time in microseconds.
type Identity = (String, PropertyIndex, i64);

struct City {
    clock: Arc<ManualClock>,
    database: Arc<Database>,
    lake: Arc<Lake>,
    answers: Answers,
    normaliser: Normaliser,
    /// What should be stored.
    known: Mutex<BTreeMap<Identity, Known>>,
    _folder: tempfile::TempDir,
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl City {
    async fn new(now: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (catalogue, districts) = (Arc::new(Catalogue::built_in()), Arc::new(Districts::built_in()));
        let (database, _work) = Database::open(folder.path(), &catalogue, &districts).unwrap();
        let database = Arc::new(database);
        let settings = LakeSettings {
            url: String::new(),
            node: "test".to_owned(),
            memory_max: 64 << 20,
            digests: 1_000,
            merge_rows_max: 100_000,
            zone: jiff::tz::TimeZone::get("Europe/Rome").unwrap(),
        };
        let path = PathBuf::from(folder.path());
        let lake = Lake::open(&path, Arc::clone(&database), Arc::clone(&catalogue), Arc::clone(&districts), settings).await.unwrap();
        let lake = Arc::new(lake);
        let clock = Arc::new(ManualClock::new(at(now)));
        let live = Arc::clone(database.live());
        let normaliser = Normaliser::new(Arc::clone(&catalogue), Arc::clone(&districts));
        let answers = Answers::new(
            History::Lake(Arc::clone(&lake)),
            live,
            catalogue,
            districts,
            Arc::<ManualClock>::clone(&clock),
            config::Query::default(),
        );
        Self { clock, database, lake, answers, normaliser, known: Mutex::default(), _folder: folder }
    }

    /// Takes readings in one commit, as if they had come now.
    fn hear(&self, told: &[Told]) {
        let received = self.clock.now();
        let bounds =
            TimeBounds { past_max: seconds(86_400 * 3_650), past_trusted_max: None, future_max: seconds(86_400), skew_max: seconds(300) };
        let entry = |told: &Told| {
            let message = Message {
                source: SourceName::try_from("main").unwrap(),
                topic: "any".into(),
                payload: bytes::Bytes::new(),
                received,
                service: Service::AtMostOnce,
                retained: false,
            };
            let position = Position::new(told.position.0, told.position.1).unwrap();
            let reading = Reading {
                name: told.property.into(),
                value: Value::Number(told.value),
                unit: None,
                time: told.time,
                position: Some(position),
            };
            let readings = Readings {
                device: DeviceId::try_from(told.device).unwrap(),
                kind: DeviceKind::try_from(told.kind).unwrap(),
                domain: Some(Domain::Environment),
                vocabulary: Vocabulary::Catalogue,
                readings: vec![reading],
            };
            Entry { message, outcome: Ok(self.normaliser.normalise([readings], received, &bounds, &Registry::default())), replay: None }
        };
        let entries: Vec<Entry> = told.iter().map(entry).collect();
        let mut known = self.known.lock();
        for normalised in entries.iter().filter_map(|entry| entry.outcome.as_ref().ok()) {
            assert_eq!(normalised.faults, []);
            let heard = &normalised.devices[0];
            for observation in &heard.observations {
                let identity = (heard.device.to_string(), observation.property, observation.time.micros());
                let new = Known { value: observation.value, flags: observation.flags, district: observation.district };
                // The same value again is a duplicate and changes nothing.
                let kept = known.get(&identity).filter(|known| known.value.to_bits() == new.value.to_bits()).copied();
                known.insert(identity, kept.unwrap_or(new));
            }
        }
        let mut turn = self.database.turn();
        let step = intake::step(
            self.database.live(),
            &Repeats::new(10, []),
            &Checks::default(),
            Limits { devices_max: 1_000 },
            |_replay| false,
            &entries,
        );
        turn.commit(step.commit).unwrap();
    }

    async fn flush(&self) {
        self.lake.flush().await.unwrap();
    }

    async fn merge(&self) {
        while self.lake.merge().await.unwrap() > 0 {}
    }

    async fn roll_up(&self) {
        while self.lake.roll_up(self.clock.now(), None).await.unwrap().is_some() {}
    }

    async fn compact(&self) {
        let settings = Maintenance { open_files: 2, ..Maintenance::default() };
        while self.lake.compact(&settings, self.clock.now(), None).await.unwrap().is_some() {}
    }

    fn property(&self, id: &str) -> PropertyIndex {
        self.answers.catalogue.find(id).unwrap()
    }

    fn district(&self, id: &str) -> DistrictIndex {
        self.answers.districts.by_id(id).unwrap()
    }

    /// What is stored, by a scan.
    async fn scan(&self, selection: Selection, order: Order) -> Vec<(Identity, f64)> {
        let mut chunks = self.lake.scan(selection, order, Detail::All).unwrap();
        let mut all = Chunk::default();
        let mut rows = Vec::new();
        while let Some(chunk) = chunks.next().await {
            all = chunk.unwrap();
            assert!(!all.is_empty());
            let found = self.answers.rows(&all).map(|row| ((row.device.to_string(), row.property, row.time.micros()), row.value));
            rows.extend(found);
        }
        drop(all);
        rows
    }
}

fn everything() -> Selection {
    Selection {
        properties: Vec::new(),
        from: Timestamp::MIN,
        to: Timestamp::MAX,
        devices: None,
        districts: Vec::new(),
        area: None,
        trusted: false,
    }
}

fn told(device: &'static str, property: &'static str, time: &str, value: f64) -> Told {
    Told { device, kind: "air-station", property, time: at(time), value, position: FIRST }
}
