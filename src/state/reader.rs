//! Read-only looks at the file, beside the writer: WAL lets both go on. Blocking.

use std::path::Path;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::database::{StateError, source_name};
use super::ledger::{Counts, LedgerKey};
use crate::model::Timestamp;

/// A read-only connection.
#[derive(Debug)]
pub struct Reader(Mutex<Connection>);

/// A line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    /// Which line.
    pub key: LedgerKey,
    /// What it says.
    pub counts: Counts,
}

/// A quarantined message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineRow {
    /// Its number, growing.
    pub id: i64,
    /// When it was received.
    pub received: Timestamp,
    /// By which source.
    pub source: String,
    /// On which topic.
    pub topic: String,
    /// As received.
    pub payload: Vec<u8>,
    /// Whether nothing of it is stored.
    pub whole: bool,
    /// Word of the first fault.
    pub reason: String,
    /// JSON array of `{reason, at, detail}`.
    pub faults: String,
}

/// Which quarantined messages to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct QuarantineFilter {
    /// Only those whose first fault has this reason.
    pub reason: Option<String>,
    /// Only those of this source.
    pub source: Option<String>,
    /// Only those with a smaller number.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: usize,
}

impl Reader {
    /// Opens the database file, which the writer has made.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        Ok(Self(Mutex::new(connection)))
    }

    /// The ledger's lines from an hour on, oldest first.
    pub fn ledger(&self, from: Timestamp, to: Timestamp) -> Result<Vec<LedgerRow>, StateError> {
        let connection = self.0.lock();
        let mut select = connection.prepare_cached(
            "SELECT source, hour, received, accepted, rejected, repeated, shed, readings, stored, duplicate, corrected, quarantined, pending
             FROM ledger WHERE hour >= ?1 AND hour < ?2 ORDER BY hour, source",
        )?;
        let mut rows = select.query(params![from.hour().micros(), to.micros()])?;
        let mut lines = Vec::new();
        while let Some(row) = rows.next()? {
            let source: String = row.get(0)?;
            lines.push(LedgerRow {
                key: LedgerKey { source: source_name(&source)?, hour: Timestamp::from_micros_clamped(row.get(1)?) },
                counts: counts(row)?,
            });
        }
        Ok(lines)
    }

    /// Quarantined messages, newest first.
    pub fn quarantine(&self, filter: &QuarantineFilter) -> Result<Vec<QuarantineRow>, StateError> {
        let connection = self.0.lock();
        let mut select = connection.prepare_cached(
            "SELECT id, received, source, topic, payload, whole, reason, faults FROM quarantine
             WHERE (?1 IS NULL OR reason = ?1) AND (?2 IS NULL OR source = ?2) AND (?3 IS NULL OR id < ?3) ORDER BY id DESC LIMIT ?4",
        )?;
        let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
        let rows = select.query_map(params![filter.reason, filter.source, filter.before, limit], quarantine_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One quarantined message.
    pub fn quarantined(&self, id: i64) -> Result<Option<QuarantineRow>, StateError> {
        let connection = self.0.lock();
        let mut select = connection
            .prepare_cached("SELECT id, received, source, topic, payload, whole, reason, faults FROM quarantine WHERE id = ?1")?;
        Ok(select.query_row(params![id], quarantine_row).optional()?)
    }

    /// How many messages are quarantined, by reason.
    pub fn quarantine_reasons(&self) -> Result<Vec<(String, i64)>, StateError> {
        let connection = self.0.lock();
        let mut select = connection.prepare_cached("SELECT reason, count(*) FROM quarantine GROUP BY reason ORDER BY 2 DESC, 1")?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Alerts as JSON, newest first; `status` filters by word, `before` pages.
    pub fn alerts(&self, status: Option<&str>, before: Option<Timestamp>, limit: usize) -> Result<Vec<String>, StateError> {
        let connection = self.0.lock();
        let mut select = connection.prepare_cached(
            "SELECT alert FROM alert WHERE (?1 IS NULL OR status = ?1) AND (?2 IS NULL OR activated < ?2)
             ORDER BY activated DESC, id LIMIT ?3",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = select.query_map(params![status, before.map(Timestamp::micros), limit], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One alert, JSON.
    pub fn alert(&self, id: &str) -> Result<Option<String>, StateError> {
        let connection = self.0.lock();
        let mut select = connection.prepare_cached("SELECT alert FROM alert WHERE id = ?1")?;
        Ok(select.query_row(params![id], |row| row.get(0)).optional()?)
    }

    /// The rules documents that were put in place through the API: version, time, author; newest first.
    pub fn rules_versions(&self, limit: usize) -> Result<Vec<(i64, Timestamp, String)>, StateError> {
        let connection = self.0.lock();
        let mut select = connection.prepare_cached("SELECT version, created, author FROM rules ORDER BY version DESC LIMIT ?1")?;
        let rows = select.query_map(params![i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
            Ok((row.get(0)?, Timestamp::from_micros_clamped(row.get(1)?), row.get(2)?))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn quarantine_row(row: &Row<'_>) -> Result<QuarantineRow, rusqlite::Error> {
    Ok(QuarantineRow {
        id: row.get(0)?,
        received: Timestamp::from_micros_clamped(row.get(1)?),
        source: row.get(2)?,
        topic: row.get(3)?,
        payload: row.get(4)?,
        whole: row.get(5)?,
        reason: row.get(6)?,
        faults: row.get(7)?,
    })
}

fn counts(row: &Row<'_>) -> Result<Counts, rusqlite::Error> {
    Ok(Counts {
        received: row.get(2)?,
        accepted: row.get(3)?,
        rejected: row.get(4)?,
        repeated: row.get(5)?,
        shed: row.get(6)?,
        readings: row.get(7)?,
        stored: row.get(8)?,
        duplicate: row.get(9)?,
        corrected: row.get(10)?,
        quarantined: row.get(11)?,
        pending: row.get(12)?,
    })
}
