//! The file and its only writer.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};
use uuid::Uuid;

use super::block::{Block, Lane, Rows};
use super::ledger::{Counts, LedgerKey, LedgerMoves};
use super::live::{Device, DeviceIndex, Latest, Live, Mark, Moves, Series, SeriesIndex};
use super::reader::{self, UnmappedRow};
use super::registry::{self, RegistryChange};
use super::rhythm::Rhythm;
use crate::model::{
    Catalogue, DeviceId, DeviceKind, Districts, Domain, Fault, Message, PropertyIndex, Reason, Registry, Replay, SourceName, Timestamp,
    Unmapped,
};

/// What each version of the schema adds to the one before. A released version never changes.
const MIGRATIONS: [&[&str]; 6] = [
    &[include_str!("schema.sql")],
    &[include_str!("registry.sql"), include_str!("quarantine.sql"), include_str!("unmapped.sql")],
    &[include_str!("follower.sql")],
    &[include_str!("rollup.sql")],
    &[include_str!("rollup_copies.sql")],
    &[include_str!("retention.sql")],
];
pub(super) const SCHEMA_VERSION: usize = MIGRATIONS.len();

/// The file's name in the data folder.
pub const FILE: &str = "state.sqlite";

/// The name of the file in the data folder that is locked.
pub const LOCK: &str = "lock";

/// The store whose tail of the log is held in memory.
pub const LAKE: &str = "lake";

/// The database cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process works in the data folder.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// The folder or its lock cannot be made.
    #[error("cannot use the data folder {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// No room on the disk. Nothing has changed: retry once there is room.
    #[error("no room on the disk for the state database")]
    NoSpace(#[source] rusqlite::Error),
    /// The file was written by a newer version of the program.
    #[error("the state database has schema version {found}, this program knows {SCHEMA_VERSION}")]
    NewerSchema { found: i64 },
    /// The file holds what this program does not understand.
    #[error("the state database is damaged: {0}")]
    Damaged(String),
    /// SQLite failed. Nothing has changed.
    #[error("the state database failed")]
    Sqlite(#[source] rusqlite::Error),
}

impl From<rusqlite::Error> for StateError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::NoSpace(error),
            Some(ErrorCode::SystemIoFailure) if error.to_string().contains("full") => Self::NoSpace(error),
            _ => Self::Sqlite(error),
        }
    }
}

/// A device seen for the first time; its index is the next free one.
#[derive(Clone, Debug)]
pub struct NewDevice {
    /// Its name.
    pub id: DeviceId,
    /// What sort of device.
    pub kind: DeviceKind,
    /// Its part of city life.
    pub domain: Domain,
    /// When its message was received.
    pub first_seen: Timestamp,
}

/// A series seen for the first time; its index is the next free one.
#[derive(Clone, Copy, Debug)]
pub struct NewSeries {
    /// Whose.
    pub device: DeviceIndex,
    /// What.
    pub property: PropertyIndex,
}

/// A message of which something is refused.
#[derive(Clone, Debug)]
pub struct Quarantined {
    /// Its number, where it was there before and comes back.
    pub id: Option<i64>,
    /// As received.
    pub message: Message,
    /// Whether nothing of it is stored.
    pub whole: bool,
    /// What is wrong, at least one.
    pub faults: Vec<Fault>,
    /// Readings of it that the ledger counts as quarantined.
    pub readings: i64,
}

/// Who decided that quarantined messages are not worth a replay, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discard {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// Why.
    pub comment: String,
}

/// Where a rule stands with a device, in the alert engine's own form; `None` forgets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionRow {
    /// The rule's id.
    pub rule: String,
    /// The device's name.
    pub device: String,
    /// JSON.
    pub state: Option<String>,
}

/// An alert as it is after a transition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertChange {
    /// The alert's id.
    pub id: String,
    /// When it became active.
    pub activated: Timestamp,
    /// The word of its status.
    pub status: &'static str,
    /// The alert, JSON.
    pub alert: String,
    /// The transition, JSON.
    pub transition: String,
}

/// A rules document put in place through the interface.
#[derive(Clone, Debug)]
pub struct NewRules {
    /// When.
    pub created: Timestamp,
    /// By whom.
    pub author: String,
    /// JSON.
    pub document: String,
}

/// All effects of one batch: durable together, or not at all.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// In index order.
    pub new_devices: Vec<NewDevice>,
    /// In index order.
    pub new_series: Vec<NewSeries>,
    /// Rows that are certainly new.
    pub ordered: Rows,
    /// Rows to be compared with what is stored.
    pub late: Rows,
    /// The marks of all series that the rows touch.
    pub marks: Vec<(SeriesIndex, Mark)>,
    /// Digests of the batch's messages of QoS 1.
    pub digests: Vec<u128>,
    /// Messages that leave the quarantine to be tried again; those that fail again are in `quarantined` too.
    pub replayed: Vec<i64>,
    /// Messages of which something is refused.
    pub quarantined: Vec<Quarantined>,
    /// Fields that no mapping knows, with source and time of receipt.
    pub unmapped: Vec<(SourceName, Timestamp, Unmapped)>,
    /// Changes of the ledger.
    pub ledger: LedgerMoves,
    /// Changed conditions.
    pub conditions: Vec<ConditionRow>,
    /// Changed alerts.
    pub alerts: Vec<AlertChange>,
    /// A new rules document.
    pub rules: Option<NewRules>,
    /// A change of the registry.
    pub registry: Option<RegistryChange>,
}

/// How far a store has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FollowerPosition {
    /// Last block of the ordered lane that it holds durably.
    pub ordered: u64,
    /// Last block of the late lane.
    pub late: u64,
}

/// What the ledger will say once late rows up to a block are merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergePlan {
    /// Last block of the late lane that is merged.
    pub late: u64,
    /// Moves out of pending.
    pub moves: LedgerMoves,
}

/// What the log need no longer hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trim {
    /// Which store has come so far.
    pub store: &'static str,
    /// How far.
    pub position: FollowerPosition,
    /// What its merge moves in the ledger.
    pub moves: LedgerMoves,
    /// Digests to keep.
    pub digests: usize,
}

/// What the file held at the start.
#[derive(Debug, Default)]
pub struct Restored {
    /// By index.
    pub devices: Vec<Device>,
    /// By index, their marks as of the last commit.
    pub series: Vec<Series>,
    /// The log, oldest first.
    pub blocks: Vec<(Lane, Block)>,
    /// Digests of the last messages, oldest first.
    pub digests: Vec<u128>,
    /// Number of the last commit.
    pub sequence: u64,
    /// Where the rules stand.
    pub conditions: Vec<ConditionRow>,
    /// Alerts that are not cleared, JSON.
    pub active_alerts: Vec<String>,
    /// The newest rules put in place through the API.
    pub rules: Option<String>,
    /// What is said of devices.
    pub registry: Registry,
}

/// The right to work in a data folder, of one process at a time.
#[derive(Debug)]
pub struct FolderLock(#[expect(dead_code, reason = "it is held, not looked at")] File);

impl FolderLock {
    /// Makes the folder where it is not there, and locks it.
    pub fn take(folder: &Path) -> Result<Self, StateError> {
        let problem = |source| StateError::Folder { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(problem)?;
        let lock = File::create(folder.join(LOCK)).map_err(problem)?;
        lock.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => StateError::InUse(folder.to_owned()),
            std::fs::TryLockError::Error(source) => problem(source),
        })?;
        Ok(Self(lock))
    }
}

/// The state database. One process at a time; one writer at a time.
#[derive(Debug)]
pub struct Database {
    connection: Mutex<Connection>,
    live: Arc<Live>,
    districts: Arc<Districts>,
    catalogue: Arc<Catalogue>,
    path: PathBuf,
    incarnation: Uuid,
    _lock: FolderLock,
}

impl Database {
    /// Opens or makes `state.sqlite` in `folder`, and locks the folder for this process.
    pub fn open(folder: &Path, catalogue: &Arc<Catalogue>, districts: &Arc<Districts>) -> Result<(Self, RestoredWork), StateError> {
        let lock = FolderLock::take(folder)?;
        let path = folder.join(FILE);
        let mut connection = Connection::open(&path)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", "on")?;
        // A checkpoint syncs twice: rarer than SQLite's 4 MB, still bounded.
        connection.pragma_update(None, "wal_autocheckpoint", 8_000)?;
        connection.pragma_update(None, "journal_size_limit", 67_108_864)?;
        connection.set_prepared_statement_cache_capacity(64);
        migrate(&mut connection)?;
        let incarnation = incarnation(&connection)?;
        let restored = restore(&connection, catalogue, districts)?;
        let work = RestoredWork {
            digests: restored.digests.clone(),
            conditions: restored.conditions.clone(),
            active_alerts: restored.active_alerts.clone(),
            rules: restored.rules.clone(),
        };
        let database = Self {
            connection: Mutex::new(connection),
            live: Arc::new(Live::new(restored)),
            districts: Arc::clone(districts),
            catalogue: Arc::clone(catalogue),
            path,
            incarnation,
            _lock: lock,
        };
        Ok((database, work))
    }

    /// The mirror in memory.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// The identity of this life of the log.
    pub fn incarnation(&self) -> Uuid {
        self.incarnation
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the writer's turn. Blocks: call it where blocking is allowed.
    pub fn turn(&self) -> Turn<'_> {
        Turn { connection: self.connection.lock(), database: self }
    }
}

/// How a store beside the lake follows the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// What it has of the log.
    pub position: FollowerPosition,
    /// Up to which phenomenon time it has what the lake had when it was attached; `None` once it has all of it.
    pub copied: Option<Timestamp>,
    /// Whether it is noted which rollups it lacks; until then it may lack any.
    pub rollups: bool,
}

/// A unit whose rollups a store beside the lake lacks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UncopiedUnit {
    /// Which.
    pub unit: TouchedUnit,
    /// When that was noted last: a number that only grows.
    pub moment: i64,
}

/// A local day of the city and a property: what is rolled up together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TouchedUnit {
    /// Days of the local calendar since 1970-01-01.
    pub day: i32,
    /// The property's id.
    pub property: String,
}

/// What the stages need of what the file held at the start.
#[derive(Debug, Default)]
pub struct RestoredWork {
    /// Digests of the last messages, oldest first.
    pub digests: Vec<u128>,
    /// Where the rules stand.
    pub conditions: Vec<ConditionRow>,
    /// Alerts that are not cleared, JSON.
    pub active_alerts: Vec<String>,
    /// The newest rules put in place through the API.
    pub rules: Option<String>,
}

/// The right to change state, one holder at a time: compute on [`Live`] what you want, then commit it.
#[derive(Debug)]
pub struct Turn<'a> {
    connection: MutexGuard<'a, Connection>,
    database: &'a Database,
}

impl Turn<'_> {
    /// Makes all effects of a batch durable, then visible. Returns the commit's number. On an error nothing has happened.
    pub fn commit(&mut self, commit: Commit) -> Result<u64, StateError> {
        let Database { live, districts, catalogue, .. } = self.database;
        let (devices, series) = {
            let state = live.read();
            (state.devices.len(), state.series.len())
        };
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let sequence = {
            let mut insert = transaction.prepare_cached("INSERT INTO batch (digests) VALUES (?1)")?;
            let digests: Vec<u8> = commit.digests.iter().flat_map(|digest| digest.to_le_bytes()).collect();
            insert.execute(params![digests])?;
            u64::try_from(transaction.last_insert_rowid()).expect("row ids grow from 1")
        };
        insert_devices(&transaction, &commit, devices)?;
        insert_series(&transaction, &commit, series, catalogue)?;
        for (table, rows) in [("log_ordered", &commit.ordered), ("log_late", &commit.late)] {
            if !rows.is_empty() {
                let mut insert = transaction.prepare_cached(&format!("INSERT INTO {table} (sequence, block) VALUES (?1, ?2)"))?;
                insert.execute(params![signed(sequence), rows.encode(districts)])?;
            }
        }
        for id in &commit.replayed {
            transaction.prepare_cached("DELETE FROM quarantine WHERE id = ?1")?.execute(params![id])?;
        }
        insert_quarantined(&transaction, &commit.quarantined)?;
        count_unmapped(&transaction, &commit.unmapped)?;
        add_to_ledger(&transaction, &commit.ledger)?;
        write_conditions(&transaction, &commit.conditions)?;
        write_alerts(&transaction, &commit.alerts)?;
        if let Some(NewRules { created, author, document }) = &commit.rules {
            transaction.prepare_cached("INSERT INTO rules (created, author, document) VALUES (?1, ?2, ?3)")?.execute(params![
                created.micros(),
                author,
                document
            ])?;
        }
        if let Some(change) = &commit.registry {
            registry::write(&transaction, change)?;
        }
        transaction.commit()?;
        live.publish(sequence, commit);
        Ok(sequence)
    }

    /// How far a store has come; the beginning, if it is new.
    pub fn follower(&self, store: &'static str) -> Result<FollowerPosition, StateError> {
        let position = self
            .connection
            .prepare_cached("SELECT ordered, late FROM follower WHERE store = ?1")?
            .query_row(params![store], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
            .optional()?;
        Ok(position.map_or_else(FollowerPosition::default, |(ordered, late)| FollowerPosition {
            ordered: unsigned(ordered),
            late: unsigned(late),
        }))
    }

    /// Number of the last commit; zero before the first.
    pub fn last_sequence(&self) -> Result<u64, StateError> {
        last_sequence(&self.connection)
    }

    /// From now on commits have numbers behind this one.
    pub fn number_behind(&mut self, sequence: u64) -> Result<(), StateError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute("DELETE FROM sqlite_sequence WHERE name = 'batch'", [])?;
        transaction.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('batch', ?1)", params![signed(sequence)])?;
        Ok(transaction.commit()?)
    }

    /// Notes what a merge is about to do, before it is done.
    pub fn plan_merge(&mut self, store: &'static str, plan: &MergePlan) -> Result<(), StateError> {
        let moves: Vec<(&LedgerKey, &Counts)> = plan.moves.iter().collect();
        let moves = serde_json::to_string(&moves).expect("plain data always serialises");
        self.connection.prepare_cached("INSERT OR REPLACE INTO merge_plan (store, late, moves) VALUES (?1, ?2, ?3)")?.execute(params![
            store,
            signed(plan.late),
            moves
        ])?;
        Ok(())
    }

    /// The merge that was planned and of whose end nothing is known.
    pub fn planned_merge(&self, store: &'static str) -> Result<Option<MergePlan>, StateError> {
        planned_merge(&self.connection, store)
    }

    /// Takes back what a store now holds durably: its position, its ledger moves, and the end of the log become one
    /// transaction, with the marks that can no longer be read from the log.
    pub fn trim(&mut self, trim: &Trim) -> Result<(), StateError> {
        let live = Arc::clone(&self.database.live);
        let (marks, rhythms) = {
            let state = live.read();
            let gone = |blocks: &[Arc<Block>], position: u64| {
                let end = blocks.partition_point(|block| block.sequence <= position);
                blocks.get(..end).unwrap_or_default().to_vec()
            };
            let mut touched = HashSet::new();
            for block in gone(&state.tail.ordered, trim.position.ordered).iter().chain(&gone(&state.tail.late, trim.position.late)) {
                touched.extend(block.rows.series.iter().copied());
            }
            let devices: HashSet<DeviceIndex> = touched.iter().map(|index| state.series_at(*index).device).collect();
            let rhythms: Vec<(DeviceIndex, Rhythm)> =
                devices.into_iter().map(|index| (index, state.device(index).rhythm.clone())).collect();
            let marks: Vec<(SeriesIndex, Mark)> = touched.into_iter().map(|index| (index, state.series_at(index).mark)).collect();
            (marks, rhythms)
        };
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut update = transaction.prepare_cached("UPDATE series SET mark = ?2 WHERE id = ?1")?;
            for (index, mark) in marks {
                let mark = postcard::to_stdvec(&mark).expect("plain data always serialises");
                update.execute(params![index.0, mark])?;
            }
            let mut update = transaction.prepare_cached("UPDATE device SET rhythm = ?2 WHERE id = ?1")?;
            for (index, rhythm) in rhythms {
                let rhythm = postcard::to_stdvec(&rhythm).expect("plain data always serialises");
                update.execute(params![index.0, rhythm])?;
            }
        }
        transaction.prepare_cached("INSERT OR REPLACE INTO follower (store, ordered, late) VALUES (?1, ?2, ?3)")?.execute(params![
            trim.store,
            signed(trim.position.ordered),
            signed(trim.position.late)
        ])?;
        forget_followed(&transaction)?;
        transaction
            .prepare_cached("DELETE FROM merge_plan WHERE store = ?1 AND late <= ?2")?
            .execute(params![trim.store, signed(trim.position.late)])?;
        add_to_ledger(&transaction, &trim.moves)?;
        trim_digests(&transaction, trim.digests)?;
        transaction.commit()?;
        live.trim(trim.position.ordered, trim.position.late);
        Ok(())
    }

    /// How a further store follows the log; `None` where it does not.
    pub fn attachment(&self, store: &'static str) -> Result<Option<Attachment>, StateError> {
        let found = self
            .connection
            .prepare_cached("SELECT ordered, late, copied, rollups FROM follower WHERE store = ?1")?
            .query_row(params![store], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, Option<i64>>(2)?, row.get(3)?)))
            .optional()?;
        Ok(found.map(|(ordered, late, copied, rollups)| Attachment {
            position: FollowerPosition { ordered: unsigned(ordered), late: unsigned(late) },
            copied: copied.map(Timestamp::from_micros_clamped),
            rollups,
        }))
    }

    /// Notes how far a further store has come: the log keeps what any store still needs.
    pub fn attach(&mut self, store: &'static str, attachment: &Attachment) -> Result<(), StateError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let Attachment { position, copied, rollups } = *attachment;
        let (ordered, late, copied) = (signed(position.ordered), signed(position.late), copied.map(Timestamp::micros));
        transaction
            .prepare_cached("INSERT OR REPLACE INTO follower (store, ordered, late, copied, rollups) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![store, ordered, late, copied, rollups])?;
        forget_followed(&transaction)?;
        Ok(transaction.commit()?)
    }

    /// Lets the log go on without a store that has fallen behind, or is no longer wanted.
    pub fn detach(&mut self, store: &'static str) -> Result<(), StateError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for script in ["DELETE FROM follower WHERE store = ?1", "DELETE FROM rollup_uncopied WHERE store = ?1"] {
            transaction.prepare_cached(script)?.execute(params![store])?;
        }
        forget_followed(&transaction)?;
        Ok(transaction.commit()?)
    }

    /// The local days and properties of which rollups may not be what the table's observations come to.
    pub fn touched(&self) -> Result<Vec<TouchedUnit>, StateError> {
        touched(&self.connection)
    }

    /// Notes units as touched, before anything touches them.
    pub fn touch(&mut self, units: &[TouchedUnit]) -> Result<(), StateError> {
        self.each_unit("INSERT OR IGNORE INTO rollup_touched (day, property) VALUES (?1, ?2)", units)
    }

    /// Notes that units are rolled up again: every store beside the lake lacks these rollups.
    pub fn settle_touched(&mut self, units: &[TouchedUnit]) -> Result<(), StateError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut settle = transaction.prepare_cached("DELETE FROM rollup_touched WHERE day = ?1 AND property = ?2")?;
            let mut note = transaction.prepare_cached(
                "INSERT OR REPLACE INTO rollup_uncopied (store, property, day, moment)
                 SELECT store, ?2, ?1, (SELECT coalesce(max(moment), 0) + 1 FROM rollup_uncopied) FROM follower WHERE store <> ?3",
            )?;
            for unit in units {
                settle.execute(params![unit.day, unit.property])?;
                note.execute(params![unit.day, unit.property, LAKE])?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Notes which rollups a store beside the lake lacks, all of them: from here on it is known.
    pub fn note_uncopied(&mut self, store: &'static str, units: &[TouchedUnit]) -> Result<(), StateError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut note = transaction.prepare_cached(
                "INSERT OR REPLACE INTO rollup_uncopied (store, property, day, moment)
                 VALUES (?1, ?2, ?3, (SELECT coalesce(max(moment), 0) + 1 FROM rollup_uncopied))",
            )?;
            for unit in units {
                note.execute(params![store, unit.property, unit.day])?;
            }
            transaction.prepare_cached("UPDATE follower SET rollups = 1 WHERE store = ?1")?.execute(params![store])?;
        }
        Ok(transaction.commit()?)
    }

    /// Notes that a store beside the lake has the rollups of units, but for those that were rolled up again since.
    pub fn settle_uncopied(&mut self, store: &'static str, units: &[UncopiedUnit]) -> Result<(), StateError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut settle = transaction
                .prepare_cached("DELETE FROM rollup_uncopied WHERE store = ?1 AND property = ?2 AND day = ?3 AND moment = ?4")?;
            for UncopiedUnit { unit, moment } in units {
                settle.execute(params![store, unit.property, unit.day, moment])?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn each_unit(&mut self, statement: &str, units: &[TouchedUnit]) -> Result<(), StateError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut statement = transaction.prepare_cached(statement)?;
            for unit in units {
                statement.execute(params![unit.day, unit.property])?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// The first UTC day whose observations have not been dropped for their age; of what is older, only rollups are left.
    pub fn kept_from(&self) -> Result<Option<i32>, StateError> {
        kept_from(&self.connection)
    }

    /// Notes from which UTC day on observations are kept, before older ones are dropped.
    pub fn keep_from(&mut self, day: i32) -> Result<(), StateError> {
        let set = "INSERT INTO retention (id, kept_from) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET kept_from = max(kept_from, ?1)";
        self.connection.execute(set, params![day])?;
        Ok(())
    }

    /// [`Turn::kept_from`] of single properties, beside that of all.
    pub fn kept_from_of(&self) -> Result<Vec<(String, i32)>, StateError> {
        kept_from_of(&self.connection)
    }

    /// Notes from which UTC day on observations of single properties are kept, before older ones are dropped.
    pub fn keep_from_of(&mut self, days: &[(String, i32)]) -> Result<(), StateError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut set = transaction.prepare_cached(
                "INSERT INTO retention_of (property, kept_from) VALUES (?1, ?2)
                 ON CONFLICT (property) DO UPDATE SET kept_from = max(kept_from, ?2)",
            )?;
            for (property, day) in days {
                set.execute(params![property, day])?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Drops the oldest quarantined messages beyond `bytes_max` or older than `oldest`; returns how many.
    pub fn trim_quarantine(&mut self, bytes_max: u64, oldest: Timestamp) -> Result<usize, StateError> {
        let old = self.connection.execute("DELETE FROM quarantine WHERE received < ?1", params![oldest.micros()])?;
        let beyond: Option<i64> = self
            .connection
            .query_row(
                "SELECT id FROM (SELECT id, sum(length(payload) + 256) OVER (ORDER BY id DESC) AS bytes FROM quarantine)
                 WHERE bytes > ?1 ORDER BY id DESC LIMIT 1",
                params![i64::try_from(bytes_max).unwrap_or(i64::MAX)],
                |row| row.get(0),
            )
            .optional()?;
        let large = match beyond {
            Some(id) => self.connection.execute("DELETE FROM quarantine WHERE id <= ?1", params![id])?,
            None => 0,
        };
        Ok(old + large)
    }

    /// Whether a quarantined message still is as a replay says. An error counts as no: the commit will tell it.
    pub fn is_quarantined(&self, replay: &Replay) -> bool {
        // What a store refused no sender sent: the ledger has no line of it that a replay could take back.
        let select = self.connection.prepare_cached(
            "SELECT 1 FROM quarantine WHERE id = ?1 AND whole = ?2 AND readings = ?3 AND discarded IS NULL AND reason <> ?4",
        );
        let refused = Reason::RefusedByStore.as_str();
        select.and_then(|mut select| select.exists(params![replay.id, replay.whole, replay.readings, refused])).unwrap_or(false)
    }

    /// Marks quarantined messages as not worth a replay; returns how many were not yet. They stay until their time is over.
    pub fn discard(&mut self, ids: &[i64], discard: &Discard) -> Result<usize, StateError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut discarded = 0;
        for id in ids {
            discarded += transaction
                .prepare_cached(
                    "UPDATE quarantine SET discarded = ?2, discarded_by = ?3, comment = ?4 WHERE id = ?1 AND discarded IS NULL",
                )?
                .execute(params![id, discard.at.micros(), discard.by, discard.comment])?;
        }
        transaction.commit()?;
        Ok(discarded)
    }

    /// Forgets those unmapped fields of which `is_known` holds; returns how many. One that comes again is listed again.
    pub fn forget_unmapped(&mut self, is_known: impl Fn(&UnmappedRow) -> bool) -> Result<usize, StateError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let known: Vec<UnmappedRow> = reader::unmapped(&transaction, None, usize::MAX)?.into_iter().filter(is_known).collect();
        for UnmappedRow { source, decoder, model, field, .. } in &known {
            transaction
                .prepare_cached("DELETE FROM unmapped WHERE source = ?1 AND decoder = ?2 AND model = ?3 AND field = ?4")?
                .execute(params![source, decoder, model, field])?;
        }
        transaction.commit()?;
        Ok(known.len())
    }

    /// The alert of that id, JSON.
    pub fn alert(&self, id: &str) -> Result<Option<String>, StateError> {
        let mut select = self.connection.prepare_cached("SELECT alert FROM alert WHERE id = ?1")?;
        Ok(select.query_row(params![id], |row| row.get(0)).optional()?)
    }
}

/// See [`Turn::touched`].
pub(super) fn touched(connection: &Connection) -> Result<Vec<TouchedUnit>, StateError> {
    let mut select = connection.prepare_cached("SELECT day, property FROM rollup_touched ORDER BY day, property")?;
    let units = select.query_map([], |row| Ok(TouchedUnit { day: row.get(0)?, property: row.get(1)? }))?;
    Ok(units.collect::<Result<_, _>>()?)
}

/// See [`Turn::kept_from_of`].
pub(super) fn kept_from_of(connection: &Connection) -> Result<Vec<(String, i32)>, StateError> {
    let mut select = connection.prepare_cached("SELECT property, kept_from FROM retention_of")?;
    let days = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(days.collect::<Result<_, _>>()?)
}

/// See [`Turn::kept_from`].
pub(super) fn kept_from(connection: &Connection) -> Result<Option<i32>, StateError> {
    Ok(connection.query_row("SELECT kept_from FROM retention", [], |row| row.get(0)).optional()?)
}

pub(super) fn planned_merge(connection: &Connection, store: &str) -> Result<Option<MergePlan>, StateError> {
    let row = connection
        .prepare_cached("SELECT late, moves FROM merge_plan WHERE store = ?1")?
        .query_row(params![store], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    row.map(|(late, moves)| {
        let moves: Vec<(LedgerKey, Counts)> =
            serde_json::from_str(&moves).map_err(|error| StateError::Damaged(format!("merge plan of {store}: {error}")))?;
        Ok(MergePlan { late: unsigned(late), moves: moves.into_iter().collect() })
    })
    .transpose()
}

/// Number of the last commit; zero before the first.
pub(super) fn last_sequence(connection: &Connection) -> Result<u64, StateError> {
    let last: Option<i64> =
        connection.query_row("SELECT seq FROM sqlite_sequence WHERE name = 'batch'", [], |row| row.get(0)).optional()?;
    Ok(last.map_or(0, unsigned))
}

/// Deletes what every store has of the log: nothing while the lake has not yet said what it has.
fn forget_followed(transaction: &Transaction<'_>) -> Result<(), StateError> {
    for script in [
        "DELETE FROM log_ordered WHERE sequence <= (SELECT min(ordered) FROM follower HAVING max(store = ?1))",
        "DELETE FROM log_late WHERE sequence <= (SELECT min(late) FROM follower HAVING max(store = ?1))",
    ] {
        transaction.prepare_cached(script)?.execute(params![LAKE])?;
    }
    Ok(())
}

fn insert_devices(transaction: &Transaction<'_>, commit: &Commit, first: usize) -> Result<(), StateError> {
    for (offset, device) in commit.new_devices.iter().enumerate() {
        transaction.prepare_cached("INSERT INTO device (id, name, kind, domain, first_seen) VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(
            params![
                signed((first + offset) as u64),
                device.id.as_str(),
                device.kind.as_str(),
                device.domain.as_str(),
                device.first_seen.micros()
            ],
        )?;
    }
    Ok(())
}

fn insert_series(transaction: &Transaction<'_>, commit: &Commit, first: usize, catalogue: &Catalogue) -> Result<(), StateError> {
    for (offset, series) in commit.new_series.iter().enumerate() {
        transaction.prepare_cached("INSERT INTO series (id, device, property) VALUES (?1, ?2, ?3)")?.execute(params![
            signed((first + offset) as u64),
            series.device.0,
            catalogue.get(series.property).id
        ])?;
    }
    Ok(())
}

fn insert_quarantined(transaction: &Transaction<'_>, quarantined: &[Quarantined]) -> Result<(), StateError> {
    for Quarantined { id, message, whole, faults, readings } in quarantined {
        let reason = faults.first().map_or("", |fault| fault.reason.as_str());
        let faults: Vec<_> = faults
            .iter()
            .map(|fault| serde_json::json!({ "reason": fault.reason.as_str(), "at": fault.at, "detail": fault.detail }))
            .collect();
        transaction
            .prepare_cached(
                "INSERT INTO quarantine (id, received, source, topic, payload, whole, reason, faults, readings)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                id,
                message.received.micros(),
                message.source.as_str(),
                message.topic.as_ref(),
                message.payload.as_ref(),
                whole,
                reason,
                serde_json::Value::from(faults).to_string(),
                readings
            ])?;
    }
    Ok(())
}

/// Different fields that are kept: a sender that invents names must not fill the disk.
const UNMAPPED_MAX: i64 = 10_000;

fn count_unmapped(transaction: &Transaction<'_>, unmapped: &[(SourceName, Timestamp, Unmapped)]) -> Result<(), StateError> {
    let mut counts: HashMap<_, (i64, &Timestamp, &Unmapped)> = HashMap::new();
    for (source, received, field) in unmapped {
        let count =
            counts.entry((source.as_str(), field.decoder, field.model.as_str(), field.field.as_str())).or_insert((0, received, field));
        *count = (count.0 + 1, received, field);
    }
    for ((source, decoder, model, name), (count, received, field)) in counts {
        transaction
            .prepare_cached(
                "INSERT INTO unmapped (source, decoder, model, field, why, count, first, last, device, example)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8, ?9)
                 ON CONFLICT (source, decoder, model, field) DO UPDATE SET
                    why = excluded.why, count = count + excluded.count, last = excluded.last, device = excluded.device, example = excluded.example",
            )?
            .execute(params![source, decoder, model, name, field.why.as_str(), count, received.micros(), field.device.as_str(), field.example])?;
    }
    if !unmapped.is_empty() {
        // The count is that of an index; only a flood of names makes anything be deleted.
        let beyond: i64 =
            transaction.prepare_cached("SELECT max(0, count(*) - ?1) FROM unmapped")?.query_row(params![UNMAPPED_MAX], |row| row.get(0))?;
        if beyond > 0 {
            transaction
                .prepare_cached("DELETE FROM unmapped WHERE rowid IN (SELECT rowid FROM unmapped ORDER BY last LIMIT ?1)")?
                .execute(params![beyond])?;
        }
    }
    Ok(())
}

fn add_to_ledger(transaction: &Transaction<'_>, moves: &LedgerMoves) -> Result<(), StateError> {
    for (key, counts) in moves.iter() {
        transaction
            .prepare_cached(
                "INSERT INTO ledger VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
                 ON CONFLICT (source, hour) DO UPDATE SET
                    received = received + excluded.received, accepted = accepted + excluded.accepted,
                    rejected = rejected + excluded.rejected, repeated = repeated + excluded.repeated, shed = shed + excluded.shed,
                    readings = readings + excluded.readings, stored = stored + excluded.stored,
                    duplicate = duplicate + excluded.duplicate, corrected = corrected + excluded.corrected,
                    quarantined = quarantined + excluded.quarantined, pending = pending + excluded.pending",
            )?
            .execute(params![
                key.source.as_str(),
                key.hour.micros(),
                counts.received,
                counts.accepted,
                counts.rejected,
                counts.repeated,
                counts.shed,
                counts.readings,
                counts.stored,
                counts.duplicate,
                counts.corrected,
                counts.quarantined,
                counts.pending
            ])?;
    }
    Ok(())
}

fn write_conditions(transaction: &Transaction<'_>, conditions: &[ConditionRow]) -> Result<(), StateError> {
    for ConditionRow { rule, device, state } in conditions {
        match state {
            Some(state) => transaction
                .prepare_cached("INSERT OR REPLACE INTO condition (rule, device, state) VALUES (?1, ?2, ?3)")?
                .execute(params![rule, device, state])?,
            None => transaction.prepare_cached("DELETE FROM condition WHERE rule = ?1 AND device = ?2")?.execute(params![rule, device])?,
        };
    }
    Ok(())
}

fn write_alerts(transaction: &Transaction<'_>, alerts: &[AlertChange]) -> Result<(), StateError> {
    for change in alerts {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO alert (id, activated, status, alert) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![change.id, change.activated.micros(), change.status, change.alert])?;
        transaction
            .prepare_cached("INSERT INTO outbox (alert, transition) VALUES (?1, ?2)")?
            .execute(params![change.id, change.transition])?;
    }
    Ok(())
}

fn trim_digests(transaction: &Transaction<'_>, keep: usize) -> Result<(), StateError> {
    let mut select = transaction.prepare_cached("SELECT sequence, length(digests) / 16 FROM batch ORDER BY sequence DESC")?;
    let mut rows = select.query([])?;
    let mut kept = 0_i64;
    let mut oldest = None;
    while let Some(row) = rows.next()? {
        if kept >= i64::try_from(keep).unwrap_or(i64::MAX) {
            oldest = Some(row.get::<_, i64>(0)?);
            break;
        }
        kept += row.get::<_, i64>(1)?;
    }
    if let Some(oldest) = oldest {
        transaction.prepare_cached("DELETE FROM batch WHERE sequence <= ?1")?.execute(params![oldest])?;
    }
    Ok(())
}

fn migrate(connection: &mut Connection) -> Result<(), StateError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = usize::try_from(version).ok().and_then(|version| MIGRATIONS.get(version..));
    for script in known.ok_or(StateError::NewerSchema { found: version })?.iter().copied().flatten() {
        transaction.execute_batch(script)?;
    }
    if version == 0 {
        transaction.execute("INSERT INTO incarnation (id) VALUES (?1)", params![Uuid::new_v4().to_string()])?;
    }
    transaction.pragma_update(None, "user_version", signed(SCHEMA_VERSION as u64))?;
    Ok(transaction.commit()?)
}

pub(super) fn incarnation(connection: &Connection) -> Result<Uuid, StateError> {
    let text: String = connection.query_row("SELECT id FROM incarnation", [], |row| row.get(0))?;
    Uuid::parse_str(&text).map_err(|error| StateError::Damaged(format!("incarnation: {error}")))
}

fn restore(connection: &Connection, catalogue: &Catalogue, districts: &Districts) -> Result<Restored, StateError> {
    let devices = restore_devices(connection)?;
    let mut restored = Restored { devices, ..Restored::default() };
    restore_series(connection, catalogue, &mut restored)?;
    restore_blocks(connection, districts, &mut restored)?;
    let mut select = connection.prepare("SELECT digests FROM batch ORDER BY sequence")?;
    for digests in select.query_map([], |row| row.get::<_, Vec<u8>>(0))? {
        restored.digests.extend(digests?.chunks_exact(16).filter_map(|bytes| bytes.try_into().ok()).map(u128::from_le_bytes));
    }
    restored.sequence = last_sequence(connection)?;
    let mut select = connection.prepare("SELECT rule, device, state FROM condition")?;
    restored.conditions = select
        .query_map([], |row| Ok(ConditionRow { rule: row.get(0)?, device: row.get(1)?, state: Some(row.get(2)?) }))?
        .collect::<Result<_, _>>()?;
    let mut select = connection.prepare("SELECT alert FROM alert WHERE status != 'cleared'")?;
    restored.active_alerts = select.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    restored.registry = registry::restore(connection)?;
    restored.rules = connection.query_row("SELECT document FROM rules ORDER BY version DESC LIMIT 1", [], |row| row.get(0)).optional()?;
    Ok(restored)
}

fn restore_devices(connection: &Connection) -> Result<Vec<Device>, StateError> {
    let damaged = |what: &str, text: &str| StateError::Damaged(format!("device {what} {text:?}"));
    let mut select = connection.prepare("SELECT id, name, kind, domain, first_seen, rhythm FROM device ORDER BY id")?;
    let mut rows = select.query([])?;
    let mut devices = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, name, kind, domain): (i64, String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        if unsigned(id) != devices.len() as u64 {
            return Err(damaged("index out of order", &name));
        }
        devices.push(Device {
            id: DeviceId::try_from(name.as_str()).map_err(|_invalid| damaged("name", &name))?,
            kind: DeviceKind::try_from(kind.as_str()).map_err(|_invalid| damaged("kind", &kind))?,
            // A device that has told of nothing but itself belongs to no part of city life yet.
            domain: Domain::ALL.into_iter().find(|known| known.as_str() == domain).ok_or_else(|| damaged("domain", &domain))?,
            first_seen: Timestamp::from_micros_clamped(row.get(4)?),
            series: Vec::new(),
            moves: Moves::default(),
            rhythm: match row.get::<_, Option<Vec<u8>>>(5)? {
                Some(bytes) => postcard::from_bytes(&bytes).map_err(|error| StateError::Damaged(format!("rhythm of {name}: {error}")))?,
                None => Rhythm::default(),
            },
        });
    }
    Ok(devices)
}

fn restore_series(connection: &Connection, catalogue: &Catalogue, restored: &mut Restored) -> Result<(), StateError> {
    let mut select = connection.prepare("SELECT device, property, mark FROM series ORDER BY id")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (device, property, mark): (u32, String, Option<Vec<u8>>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let property =
            catalogue.find(&property).ok_or_else(|| StateError::Damaged(format!("the catalogue lacks the property {property:?}")))?;
        let mark = match mark {
            Some(bytes) => postcard::from_bytes(&bytes).map_err(|error| StateError::Damaged(format!("mark of a series: {error}")))?,
            None => Mark::default(),
        };
        let index = SeriesIndex(u32::try_from(restored.series.len()).expect("devices times properties fit 32 bits"));
        let owner = restored.devices.get_mut(device as usize).ok_or_else(|| StateError::Damaged("a series without device".into()))?;
        owner.series.push((property, index));
        restored.series.push(Series { device: DeviceIndex(device), property, mark });
    }
    Ok(())
}

fn restore_blocks(connection: &Connection, districts: &Districts, restored: &mut Restored) -> Result<(), StateError> {
    for (table, position, lane) in [("log_ordered", "ordered", Lane::Ordered), ("log_late", "late", Lane::Late)] {
        // What the lake has is in its table; further stores read the log from the file.
        let mut select = connection.prepare(&format!(
            "SELECT sequence, block FROM {table}
             WHERE sequence > coalesce((SELECT {position} FROM follower WHERE store = ?1), 0) ORDER BY sequence"
        ))?;
        let mut rows = select.query(params![LAKE])?;
        while let Some(row) = rows.next()? {
            let sequence = unsigned(row.get(0)?);
            let rows = Rows::decode(&row.get::<_, Vec<u8>>(1)?, districts)
                .map_err(|error| StateError::Damaged(format!("block {sequence} of {table}: {error}")))?;
            restored.blocks.push((lane, Block { sequence, rows }));
        }
    }
    restored.blocks.sort_by_key(|(_lane, block)| block.sequence);
    for (_lane, block) in &restored.blocks {
        for row in 0..block.rows.len() {
            let (Some(series), Some(time), Some(value), Some(flags)) =
                (block.rows.series.get(row), block.rows.time.get(row), block.rows.value.get(row), block.rows.flags.get(row))
            else {
                return Err(StateError::Damaged(format!("block {} has columns of unequal length", block.sequence)));
            };
            let series = restored
                .series
                .get_mut(series.0 as usize)
                .ok_or_else(|| StateError::Damaged(format!("block {} has an unknown series", block.sequence)))?;
            let position = block.rows.place_of(row).position.map(|position| (position.longitude(), position.latitude()));
            series.mark.observe(Latest { time: *time, value: *value, flags: *flags, position });
        }
    }
    Ok(())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).expect("commits are numbered from 1 and never reach 2^63")
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Names a source of the ledger as it stands in the file.
pub(super) fn source_name(text: &str) -> Result<SourceName, StateError> {
    SourceName::try_from(text).map_err(|_invalid| StateError::Damaged(format!("source name {text:?}")))
}

#[cfg(test)]
mod tests;
