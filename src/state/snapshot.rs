//! The file as it was at one instant, looked at from outside: for copies of it and for its examination. Only copies are
//! changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use uuid::Uuid;

use super::block::{Lane, Rows};
use super::database::{self, FollowerPosition, LAKE, MergePlan, StateError, TouchedUnit};
use super::ledger::{Counts, LedgerKey, LedgerMoves};
use super::reader;
use crate::model::{Districts, Timestamp};

/// The file at one instant: what the writer commits meanwhile does not show. It may be open elsewhere.
#[derive(Debug)]
pub struct Snapshot(Connection);

/// Where the log is, and what the lake has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Version of the schema.
    pub schema: i64,
    /// The identity of this life of the log.
    pub incarnation: Uuid,
    /// Number of the last commit.
    pub sequence: u64,
    /// What the log no longer holds, since the lake does.
    pub position: FollowerPosition,
    /// The merge that was planned and of whose end nothing is known.
    pub plan: Option<MergePlan>,
}

impl Head {
    /// Whether a table that holds the log up to a position goes with this file: together they have every observation once, and a
    /// start settles the ledger. The file's own end of the log must be reached, nothing may be beyond its last commit, and of late rows
    /// only that merge may be further of which the file knows what it moves in the ledger.
    pub fn goes_with(&self, held: FollowerPosition) -> bool {
        (self.position.ordered..=self.sequence).contains(&held.ordered) && (held.late == self.position.late || self.moves(held).is_some())
    }

    /// What the ledger does not yet say of a merge that the table holds.
    pub fn moves(&self, held: FollowerPosition) -> Option<&LedgerMoves> {
        self.plan.as_ref().filter(|plan| plan.late == held.late && held.late > self.position.late).map(|plan| &plan.moves)
    }
}

/// What is known of rollups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RollupNotes {
    /// The local days and properties of which rollups may not be what the table's observations come to.
    pub touched: Vec<TouchedUnit>,
    /// The first UTC day whose observations have not been dropped for their age.
    pub kept_from: Option<i32>,
    /// Likewise of single properties.
    pub kept_from_of: Vec<(String, i32)>,
}

/// The blocks of the log.
#[derive(Clone, Debug, Default)]
pub struct LogBlocks {
    /// Number and rows of those in the ordered lane.
    pub ordered: Vec<(u64, usize)>,
    /// Number and rows of those in the late lane.
    pub late: Vec<(u64, usize)>,
    /// What the ledger must count as pending: late rows that the lake does not have, by line.
    pub pending: BTreeMap<LedgerKey, i64>,
    /// What is wrong with numbers and blocks.
    pub faults: Vec<String>,
}

impl Snapshot {
    /// Looks at the file as it is now.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        // The first look decides which instant it is.
        connection.execute_batch("BEGIN")?;
        let schema: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match usize::try_from(schema) {
            Ok(1..=database::SCHEMA_VERSION) => Ok(Self(connection)),
            Ok(0) | Err(_) => Err(StateError::Damaged("it is not a state database".to_owned())),
            Ok(_newer) => Err(StateError::NewerSchema { found: schema }),
        }
    }

    /// Copies the file as it is now to `target`, which must not exist; the copy is synced.
    pub fn copy(path: &Path, target: &Path) -> Result<(), StateError> {
        // A transaction of its own: a copy cannot be made inside of one.
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        let problem = |source| StateError::Folder { path: target.to_owned(), source };
        let text = target.to_str().ok_or_else(|| problem(std::io::Error::other("its name is not UTF-8")))?;
        connection.execute("VACUUM INTO ?1", params![text])?;
        std::fs::File::open(target).and_then(|file| file.sync_all()).map_err(problem)
    }

    /// Where the log is, and what the lake has of it.
    pub fn head(&self) -> Result<Head, StateError> {
        let position = self.0.query_row("SELECT ordered, late FROM follower WHERE store = ?1", params![LAKE], |row| {
            Ok(FollowerPosition { ordered: database::unsigned(row.get(0)?), late: database::unsigned(row.get(1)?) })
        });
        Ok(Head {
            schema: self.0.pragma_query_value(None, "user_version", |row| row.get(0))?,
            incarnation: database::incarnation(&self.0)?,
            sequence: database::last_sequence(&self.0)?,
            position: position.optional()?.unwrap_or_default(),
            plan: database::planned_merge(&self.0, LAKE)?,
        })
    }

    /// What is known of rollups; `None` in a file of a version that knows of none.
    pub fn rollup_notes(&self) -> Result<Option<RollupNotes>, StateError> {
        if !self.0.table_exists(None, "rollup_touched")? {
            return Ok(None);
        }
        let kept_from_of = if self.0.table_exists(None, "retention_of")? { database::kept_from_of(&self.0)? } else { Vec::new() };
        Ok(Some(RollupNotes { touched: database::touched(&self.0)?, kept_from: database::kept_from(&self.0)?, kept_from_of }))
    }

    /// What SQLite finds wrong with the file.
    pub fn faults(&self) -> Result<Vec<String>, StateError> {
        let mut check = self.0.prepare("PRAGMA integrity_check(20)")?;
        let mut faults: Vec<String> = check.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        faults.retain(|fault| fault != "ok");
        let mut check = self.0.prepare("SELECT \"table\", count(*) FROM pragma_foreign_key_check GROUP BY 1")?;
        let dangling =
            check.query_map([], |row| Ok(format!("{} rows of {} belong to nothing", row.get::<_, i64>(1)?, row.get::<_, String>(0)?)))?;
        for fault in dangling {
            faults.push(fault?);
        }
        Ok(faults)
    }

    /// Every line of the ledger.
    pub fn ledger(&self) -> Result<Vec<(LedgerKey, Counts)>, StateError> {
        let mut select = self.0.prepare(
            "SELECT source, hour, received, accepted, rejected, repeated, shed, readings, stored, duplicate, corrected, quarantined, pending
             FROM ledger ORDER BY hour, source",
        )?;
        let mut rows = select.query([])?;
        let mut lines = Vec::new();
        while let Some(row) = rows.next()? {
            let source: String = row.get(0)?;
            let key = LedgerKey { source: database::source_name(&source)?, hour: Timestamp::from_micros_clamped(row.get(1)?) };
            lines.push((key, reader::counts(row)?));
        }
        Ok(lines)
    }

    /// The blocks of the log, each read and held against the commits.
    pub fn log(&self) -> Result<LogBlocks, StateError> {
        let mut log = LogBlocks { faults: self.missing_commits()?, ..LogBlocks::default() };
        let (last, position) = (database::last_sequence(&self.0)?, self.head()?.position);
        let series: i64 = self.0.query_row("SELECT count(*) FROM series", [], |row| row.get(0))?;
        // Districts play no part here: any will do.
        let districts = Districts::built_in();
        for (table, lane) in [("log_ordered", Lane::Ordered), ("log_late", Lane::Late)] {
            let mut select = self.0.prepare(&format!("SELECT sequence, block FROM {table} ORDER BY sequence"))?;
            let mut blocks = select.query([])?;
            while let Some(row) = blocks.next()? {
                let sequence = database::unsigned(row.get(0)?);
                let mut refuse = |what: &str| log.faults.push(format!("block {sequence} of {table} {what}"));
                if sequence > last {
                    refuse("belongs to no commit");
                }
                let rows = match Rows::decode(&row.get::<_, Vec<u8>>(1)?, &districts) {
                    Ok(rows) => rows,
                    Err(error) => {
                        refuse(&format!("cannot be read: {error}"));
                        continue;
                    }
                };
                if [rows.time.len(), rows.value.len(), rows.flags.len(), rows.place.len()].iter().any(|length| *length != rows.len()) {
                    refuse("has columns of unequal length");
                }
                if rows.series.iter().any(|index| i64::from(index.0) >= series) {
                    refuse("has a series that is not there");
                }
                if lane == Lane::Ordered {
                    log.ordered.push((sequence, rows.len()));
                    continue;
                }
                log.late.push((sequence, rows.len()));
                if rows.origins.iter().map(|origin| origin.rows as usize).sum::<usize>() != rows.len() {
                    refuse("does not say of each row which line of the ledger it stands in");
                }
                for origin in rows.origins.iter().filter(|_origin| sequence > position.late) {
                    *log.pending.entry(origin.key.clone()).or_default() += i64::from(origin.rows);
                }
            }
        }
        Ok(log)
    }

    /// Commits are numbered without a gap, up to the last one; only the oldest are forgotten.
    fn missing_commits(&self) -> Result<Vec<String>, StateError> {
        let mut select = self.0.prepare(
            "SELECT before, sequence FROM (SELECT sequence, lag(sequence) OVER (ORDER BY sequence) AS before FROM batch)
             WHERE before IS NOT NULL AND sequence <> before + 1 LIMIT 20",
        )?;
        let gaps = select.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
        let mut faults = Vec::new();
        for gap in gaps {
            let (before, after) = gap?;
            faults.push(format!("commits {} to {} are missing", before + 1, after - 1));
        }
        let newest: Option<i64> = self.0.query_row("SELECT max(sequence) FROM batch", [], |row| row.get(0))?;
        let last = database::last_sequence(&self.0)?;
        if let Some(newest) = newest.map(database::unsigned).filter(|newest| *newest != last) {
            faults.push(format!("the last commit is {newest}, but {last} were made"));
        }
        Ok(faults)
    }
}

/// Begins the log of a copied file anew, under an identity of its own: whoever follows its commits must not take them for those of the
/// life that it was copied from. Stores beside the lake are forgotten, and copy the table.
pub fn begin_anew(path: &Path) -> Result<Uuid, StateError> {
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.pragma_update(None, "synchronous", "full")?;
    let incarnation = Uuid::new_v4();
    let transaction = connection.transaction()?;
    transaction.execute("UPDATE incarnation SET id = ?1", params![incarnation.to_string()])?;
    transaction.execute("DELETE FROM follower WHERE store <> ?1", params![LAKE])?;
    transaction.execute("DELETE FROM rollup_uncopied", params![])?;
    transaction.commit()?;
    Ok(incarnation)
}

/// Notes in a copied file that nothing is known of the rollups of some local days, such as `2026-03-29`: those of the copy may be older or
/// newer than it. They are made again where the copy comes to life.
pub fn touch(path: &Path, days: &BTreeSet<String>) -> Result<(), StateError> {
    if days.is_empty() {
        return Ok(());
    }
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.pragma_update(None, "synchronous", "full")?;
    let transaction = connection.transaction()?;
    for day in days {
        transaction.execute(
            "INSERT OR IGNORE INTO rollup_touched (day, property)
             SELECT DISTINCT unixepoch(?1) / 86400, property FROM series",
            params![day],
        )?;
    }
    Ok(transaction.commit()?)
}
