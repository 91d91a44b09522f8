//! What the program keeps: the ledger and the quarantine beside it, everything that is stored after it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use conca::intake::{self, Entry, Limits, Repeats};
use conca::model::{Catalogue, Districts, Flags, Timestamp};
use conca::quality::Checks;
use conca::state::{AlertFilter, Counts, Database, QuarantineFilter, QuarantineRow, Reader};
use conca::store::{Detail, Lake, LakeError, LakeSettings, Maintenance, Order, Selection};
use futures::StreamExt as _;
use tokio::runtime::Runtime;

/// Device, property, phenomenon time in microseconds.
pub(crate) type Identity = (String, String, i64);

/// The sum of the ledger's lines, each of which must balance.
#[track_caller]
fn balanced(reader: &Reader) -> Counts {
    let mut total = Counts::default();
    for row in reader.ledger(Timestamp::MIN, Timestamp::MAX, None, 100_000).unwrap() {
        assert!(row.counts.balances(), "{row:?}");
        total += row.counts;
    }
    total
}

/// Looks at the state database while the program runs.
pub(crate) struct Looks(Reader);

impl Looks {
    pub(crate) fn at(data: &Path) -> Self {
        Self(Reader::open(&data.join("state.sqlite")).unwrap())
    }

    /// The sum of the ledger's lines, each of which must balance.
    #[track_caller]
    pub(crate) fn ledger(&self) -> Counts {
        balanced(&self.0)
    }

    /// The sum of the ledger's lines once so many messages are in it, and none is on its way any more.
    #[track_caller]
    pub(crate) fn ledger_of(&self, received: i64) -> Counts {
        super::wait_until("the ledger has received everything", || self.ledger().received >= received);
        let counts = self.ledger();
        assert_eq!(counts.received, received, "{counts:?}");
        counts
    }

    /// Newest first.
    pub(crate) fn quarantine(&self) -> Vec<QuarantineRow> {
        self.0.quarantine(&QuarantineFilter { limit: 100_000, ..QuarantineFilter::default() }).unwrap()
    }

    /// Newest first.
    pub(crate) fn alerts(&self) -> Vec<serde_json::Value> {
        let alerts = self.0.alerts(&AlertFilter { limit: 100_000, ..AlertFilter::default() }).unwrap();
        alerts.iter().map(|alert| serde_json::from_str(alert).unwrap()).collect()
    }
}

/// State database and lake, opened while the program does not run.
pub(crate) struct Store {
    runtime: Runtime,
    database: Arc<Database>,
    lake: Lake,
    catalogue: Arc<Catalogue>,
}

impl Store {
    pub(crate) fn open(data: &Path) -> Self {
        Self::open_of("conca-1", data)
    }

    /// What the node of that id keeps.
    pub(crate) fn open_of(node: &str, data: &Path) -> Self {
        let (catalogue, districts) = (Arc::new(Catalogue::built_in()), Arc::new(Districts::built_in()));
        let (database, _work) = Database::open(data, &catalogue, &districts).unwrap();
        let database = Arc::new(database);
        let runtime = Runtime::new().unwrap();
        let settings = LakeSettings {
            url: String::new(),
            node: node.to_owned(),
            memory_max: 256 << 20,
            digests: 200_000,
            merge_rows_max: 100_000,
            zone: jiff::tz::TimeZone::get("Europe/Rome").unwrap(),
        };
        let lake = runtime.block_on(Lake::open(data, Arc::clone(&database), Arc::clone(&catalogue), districts, settings)).unwrap();
        Self { runtime, database, lake, catalogue }
    }

    /// Everything that is stored; each identity must be there once.
    #[track_caller]
    pub(crate) fn rows(&self) -> BTreeMap<Identity, f64> {
        self.observations(false).into_iter().map(|(identity, (value, _flags))| (identity, value)).collect()
    }

    /// Values with their flags; each identity must be there once.
    #[track_caller]
    pub(crate) fn observations(&self, trusted: bool) -> BTreeMap<Identity, (f64, Flags)> {
        let selection = Selection {
            properties: Vec::new(),
            from: Timestamp::MIN,
            to: Timestamp::MAX,
            devices: None,
            districts: Vec::new(),
            area: None,
            trusted,
        };
        let _inside = self.runtime.enter();
        let mut chunks = self.lake.scan(selection, Order::Any, Detail::Numbers).unwrap();
        let mut rows = BTreeMap::new();
        while let Some(chunk) = self.runtime.block_on(chunks.next()) {
            let chunk = chunk.unwrap();
            let live = self.database.live().read();
            for row in 0..chunk.len() {
                let device = live.device(conca::state::DeviceIndex(chunk.device[row])).id.to_string();
                let property = self.catalogue.get(conca::model::PropertyIndex(chunk.property[row])).id.clone();
                let identity = (device, property, chunk.time[row]);
                let observed = (chunk.value[row], Flags::from_bits_retain(chunk.flags[row]));
                assert!(rows.insert(identity.clone(), observed).is_none(), "stored twice: {identity:?}");
            }
        }
        rows
    }

    /// Moves everything from the log into the table, and compares late rows.
    pub(crate) fn settle(&self) {
        self.flush().unwrap();
        while self.merge().unwrap() > 0 {}
    }

    /// Moves ordered rows from the log into the table; how many.
    pub(crate) fn flush(&self) -> Result<usize, LakeError> {
        self.runtime.block_on(self.lake.flush())
    }

    /// Compares late rows with the table; how many.
    pub(crate) fn merge(&self) -> Result<usize, LakeError> {
        self.runtime.block_on(self.lake.merge())
    }

    /// Takes in a batch of messages, as the writer does, without any check.
    pub(crate) fn receive(&self, entries: &[Entry]) {
        self.receive_checked(&mut Checks::default(), entries);
    }

    /// Takes in a batch of messages, as the writer does.
    pub(crate) fn receive_checked(&self, checks: &mut Checks, entries: &[Entry]) {
        let mut turn = self.database.turn();
        let repeats = Repeats::new(1, []);
        let step = intake::step(self.database.live(), &repeats, checks, Limits { devices_max: 1_000 }, |_replay| false, entries);
        turn.commit(step.commit).unwrap();
        checks.learn(step.histories);
    }

    /// Puts files together wherever there are two.
    pub(crate) fn compact(&self, now: Timestamp) {
        let settings = Maintenance { open_files: 2, ..Maintenance::default() };
        while self.runtime.block_on(self.lake.compact(&settings, now, None)).unwrap().is_some() {}
    }

    /// Deletes every file that the newest version does not use.
    pub(crate) fn vacuum(&self) {
        self.runtime.block_on(self.lake.vacuum(Duration::ZERO)).unwrap();
    }

    /// The sum of the ledger's lines, each of which must balance.
    #[track_caller]
    pub(crate) fn ledger(&self) -> Counts {
        balanced(&Reader::open(self.database.path()).unwrap())
    }
}
