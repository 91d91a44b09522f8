//! Read-only looks at the file, beside the writer: WAL lets both go on. Blocking.

use std::path::Path;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::block::Lane;
use super::database::{Discard, FollowerPosition, StateError, TouchedUnit, UncopiedUnit, source_name};
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
    /// As received; its beginning, where a list cuts it.
    pub payload: Vec<u8>,
    /// Length of the whole payload.
    pub payload_bytes: u64,
    /// Whether nothing of it is stored.
    pub whole: bool,
    /// Word of the first fault.
    pub reason: String,
    /// JSON array of `{reason, at, detail}`.
    pub faults: String,
    /// Readings of it that the ledger counts as quarantined.
    pub readings: i64,
    /// Who decided that it is not worth a replay, and why.
    pub discarded: Option<Discard>,
}

/// A field that no mapping knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnmappedRow {
    /// The source whose devices send it.
    pub source: String,
    /// The payload family's word.
    pub decoder: String,
    /// The devices' model, or their kind.
    pub model: String,
    /// Its path.
    pub field: String,
    /// The word of [`crate::model::Why`].
    pub why: String,
    /// How often it came.
    pub count: i64,
    /// When it came first.
    pub first: Timestamp,
    /// When it came last.
    pub last: Timestamp,
    /// The last device that sent it.
    pub device: String,
    /// What it held then.
    pub example: String,
}

/// Which quarantined messages to list.
#[derive(Clone, Debug)]
pub struct QuarantineFilter {
    /// Only those whose first fault has this reason.
    pub reason: Option<String>,
    /// Only those of this source.
    pub source: Option<String>,
    /// Only those whose topic begins like this.
    pub topic_prefix: Option<String>,
    /// Only those received from then on.
    pub from: Option<Timestamp>,
    /// Only those received before then.
    pub to: Option<Timestamp>,
    /// In which order, and from where on.
    pub order: QuarantineOrder,
    /// Only those that were discarded, or only those that were not.
    pub discarded: bool,
    /// Only these.
    pub ids: Option<Vec<i64>>,
    /// At most so many.
    pub limit: usize,
    /// At most so many bytes of each payload.
    pub payload_bytes_max: usize,
}

/// In which order quarantined messages are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuarantineOrder {
    /// The newest first; only those with a smaller number, if one is given.
    NewestFirst { before: Option<i64> },
    /// In the order of receipt; only those with a larger number.
    OldestFirst { after: i64 },
}

/// Which alerts to list, newest first. An empty list means any.
#[derive(Clone, Debug, Default)]
pub struct AlertFilter {
    /// Only those with this word as status.
    pub status: Option<&'static str>,
    /// Only those of one of these severities, by word.
    pub severities: Vec<String>,
    /// Only those of one of these rules.
    pub rules: Vec<String>,
    /// Only those of one of these devices.
    pub devices: Vec<String>,
    /// Only those of one of these districts.
    pub districts: Vec<String>,
    /// Only those that somebody took notice of, or only those that nobody did.
    pub acknowledged: Option<bool>,
    /// Only those that became active from then on.
    pub from: Option<Timestamp>,
    /// Only those that became active before then.
    pub to: Option<Timestamp>,
    /// Only those after this one in the list: when it became active, and its id.
    pub after: Option<(Timestamp, String)>,
    /// At most so many.
    pub limit: usize,
}

impl Default for QuarantineFilter {
    /// The newest hundred, whole.
    fn default() -> Self {
        Self {
            reason: None,
            source: None,
            topic_prefix: None,
            from: None,
            to: None,
            order: QuarantineOrder::NewestFirst { before: None },
            discarded: false,
            ids: None,
            limit: 100,
            payload_bytes_max: usize::MAX,
        }
    }
}

impl Reader {
    /// Opens the database file, which the writer has made.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        Ok(Self(Mutex::new(connection)))
    }

    /// The ledger's lines of the hours of an interval, oldest first; only of one source, if one is given; at most `limit`.
    pub fn ledger(&self, from: Timestamp, to: Timestamp, source: Option<&str>, limit: usize) -> Result<Vec<LedgerRow>, StateError> {
        let connection = self.0.lock();
        let mut select = connection.prepare_cached(
            "SELECT source, hour, received, accepted, rejected, repeated, shed, readings, stored, duplicate, corrected, quarantined, pending
             FROM ledger WHERE hour >= ?1 AND hour < ?2 AND (?3 IS NULL OR source = ?3) ORDER BY hour, source LIMIT ?4",
        )?;
        let mut rows = select.query(params![from.hour().micros(), to.micros(), source, number(limit)])?;
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

    /// The sum of all lines of the ledger.
    pub fn ledger_total(&self) -> Result<Counts, StateError> {
        let connection = self.0.lock();
        let mut select = connection.prepare_cached(
            "SELECT '', 0, ifnull(sum(received), 0), ifnull(sum(accepted), 0), ifnull(sum(rejected), 0), ifnull(sum(repeated), 0),
                ifnull(sum(shed), 0), ifnull(sum(readings), 0), ifnull(sum(stored), 0), ifnull(sum(duplicate), 0),
                ifnull(sum(corrected), 0), ifnull(sum(quarantined), 0), ifnull(sum(pending), 0) FROM ledger",
        )?;
        Ok(select.query_row([], counts)?)
    }

    /// The log after a position, in the order of commits, the ordered lane first: as many blocks as have `bytes_max` together, at
    /// least one. Each with its lane, its commit's number and its encoded rows.
    pub fn log_after(&self, position: FollowerPosition, bytes_max: usize) -> Result<Vec<(Lane, u64, Vec<u8>)>, StateError> {
        let connection = self.0.lock();
        let mut select = connection.prepare_cached(
            "SELECT sequence, 0 AS lane, block FROM log_ordered WHERE sequence > ?1
             UNION ALL SELECT sequence, 1 AS lane, block FROM log_late WHERE sequence > ?2
             ORDER BY sequence, lane",
        )?;
        let signed = |sequence: u64| i64::try_from(sequence).unwrap_or(i64::MAX);
        let mut rows = select.query(params![signed(position.ordered), signed(position.late)])?;
        let (mut blocks, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let (sequence, lane, block): (i64, i64, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            bytes += block.len();
            if bytes > bytes_max && !blocks.is_empty() {
                break;
            }
            blocks.push((if lane == 0 { Lane::Ordered } else { Lane::Late }, u64::try_from(sequence).unwrap_or(0), block));
        }
        Ok(blocks)
    }

    /// Bytes of the log after a position.
    pub fn log_bytes_after(&self, position: FollowerPosition) -> Result<u64, StateError> {
        let signed = |sequence: u64| i64::try_from(sequence).unwrap_or(i64::MAX);
        let bytes: i64 = self
            .0
            .lock()
            .prepare_cached(
                "SELECT (SELECT coalesce(sum(length(block)), 0) FROM log_ordered WHERE sequence > ?1)
                      + (SELECT coalesce(sum(length(block)), 0) FROM log_late WHERE sequence > ?2)",
            )?
            .query_row(params![signed(position.ordered), signed(position.late)], |row| row.get(0))?;
        Ok(u64::try_from(bytes).unwrap_or(0))
    }

    /// The units whose rollups a store beside the lake lacks, the newest days first, of one property, if one is given; `None` while it
    /// may lack any.
    pub fn uncopied(&self, store: &'static str, property: Option<&str>) -> Result<Option<Vec<UncopiedUnit>>, StateError> {
        let mut connection = self.0.lock();
        // Both are of one instant.
        let transaction = connection.transaction()?;
        let is_known = "SELECT 1 FROM follower WHERE store = ?1 AND copied IS NULL AND rollups";
        if !transaction.prepare_cached(is_known)?.exists(params![store])? {
            return Ok(None);
        }
        let mut select = transaction.prepare_cached(
            "SELECT day, property, moment FROM rollup_uncopied WHERE store = ?1 AND (?2 IS NULL OR property = ?2) ORDER BY day DESC",
        )?;
        let units = select.query_map(params![store, property], |row| {
            Ok(UncopiedUnit { unit: TouchedUnit { day: row.get(0)?, property: row.get(1)? }, moment: row.get(2)? })
        })?;
        Ok(Some(units.collect::<Result<_, _>>()?))
    }

    /// Quarantined messages, newest first.
    pub fn quarantine(&self, filter: &QuarantineFilter) -> Result<Vec<QuarantineRow>, StateError> {
        let connection = self.0.lock();
        let (order, bound) = match filter.order {
            QuarantineOrder::NewestFirst { before } => ("id < ?6 ORDER BY id DESC", before.unwrap_or(i64::MAX)),
            QuarantineOrder::OldestFirst { after } => ("id > ?6 ORDER BY id", after),
        };
        let mut select = connection.prepare_cached(&format!(
            "SELECT id, received, source, topic, coalesce(substr(payload, 1, ?8), x''), length(payload), whole, reason, faults,
                readings, discarded, discarded_by, comment
             FROM quarantine
             WHERE (?1 IS NULL OR reason = ?1) AND (?2 IS NULL OR source = ?2) AND (?3 IS NULL OR substr(topic, 1, length(?3)) = ?3)
                AND (?4 IS NULL OR received >= ?4) AND (?5 IS NULL OR received < ?5) AND (discarded IS NOT NULL) = ?9
                AND (?10 IS NULL OR id IN (SELECT value FROM json_each(?10)))
                AND {order} LIMIT ?7"
        ))?;
        let ids = filter.ids.as_ref().map(|ids| serde_json::Value::from(ids.as_slice()).to_string());
        let (from, to) = (filter.from.map(Timestamp::micros), filter.to.map(Timestamp::micros));
        let rows = select.query_map(
            params![
                filter.reason,
                filter.source,
                filter.topic_prefix,
                from,
                to,
                bound,
                number(filter.limit),
                number(filter.payload_bytes_max),
                filter.discarded,
                ids
            ],
            quarantine_row,
        )?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One quarantined message.
    pub fn quarantined(&self, id: i64) -> Result<Option<QuarantineRow>, StateError> {
        let connection = self.0.lock();
        let mut select = connection.prepare_cached(
            "SELECT id, received, source, topic, payload, length(payload), whole, reason, faults, readings, discarded, discarded_by, comment
             FROM quarantine WHERE id = ?1",
        )?;
        Ok(select.query_row(params![id], quarantine_row).optional()?)
    }

    /// How many messages are quarantined, by reason.
    pub fn quarantine_reasons(&self) -> Result<Vec<(String, i64)>, StateError> {
        let connection = self.0.lock();
        let mut select = connection
            .prepare_cached("SELECT reason, count(*) FROM quarantine WHERE discarded IS NULL GROUP BY reason ORDER BY 2 DESC, 1")?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Fields that no mapping knows, the most frequent first; only of one source, if one is given.
    pub fn unmapped(&self, source: Option<&str>, limit: usize) -> Result<Vec<UnmappedRow>, StateError> {
        unmapped(&self.0.lock(), source, limit)
    }

    /// Alerts as JSON, newest first.
    pub fn alerts(&self, filter: &AlertFilter) -> Result<Vec<String>, StateError> {
        let connection = self.0.lock();
        let mut select = connection.prepare_cached(
            "SELECT alert FROM alert
             WHERE (?1 IS NULL OR status = ?1) AND (?2 IS NULL OR activated >= ?2) AND (?3 IS NULL OR activated < ?3)
                AND (?4 IS NULL OR (activated, id) < (?4, ?5))
                AND (?6 IS NULL OR alert ->> 'severity' IN (SELECT value FROM json_each(?6)))
                AND (?7 IS NULL OR alert ->> 'rule' IN (SELECT value FROM json_each(?7)))
                AND (?8 IS NULL OR alert ->> 'device' IN (SELECT value FROM json_each(?8)))
                AND (?9 IS NULL OR alert ->> 'district' IN (SELECT value FROM json_each(?9)))
                AND (?10 IS NULL OR (alert ->> 'acknowledged' IS NOT NULL) = ?10)
             ORDER BY activated DESC, id DESC LIMIT ?11",
        )?;
        let list = |values: &[String]| (!values.is_empty()).then(|| serde_json::Value::from(values).to_string());
        let (from, to) = (filter.from.map(Timestamp::micros), filter.to.map(Timestamp::micros));
        let (activated, id) = filter.after.as_ref().map(|(activated, id)| (activated.micros(), id.as_str())).unzip();
        let rows = select.query_map(
            params![
                filter.status,
                from,
                to,
                activated,
                id,
                list(&filter.severities),
                list(&filter.rules),
                list(&filter.devices),
                list(&filter.districts),
                filter.acknowledged,
                number(filter.limit)
            ],
            |row| row.get(0),
        )?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One alert, JSON.
    pub fn alert(&self, id: &str) -> Result<Option<String>, StateError> {
        let connection = self.0.lock();
        let mut select = connection.prepare_cached("SELECT alert FROM alert WHERE id = ?1")?;
        Ok(select.query_row(params![id], |row| row.get(0)).optional()?)
    }

    /// The rules documents that were put in place through the API: version, time, author; newest first. Only those before
    /// a version, if one is given.
    pub fn rules_versions(&self, before: Option<i64>, limit: usize) -> Result<Vec<(i64, Timestamp, String)>, StateError> {
        let connection = self.0.lock();
        let mut select = connection.prepare_cached(
            "SELECT version, created, author FROM rules WHERE (?1 IS NULL OR version < ?1) ORDER BY version DESC LIMIT ?2",
        )?;
        let rows = select
            .query_map(params![before, number(limit)], |row| Ok((row.get(0)?, Timestamp::from_micros_clamped(row.get(1)?), row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One of the rules documents that were put in place through the API.
    pub fn rules_version(&self, version: i64) -> Result<Option<String>, StateError> {
        let connection = self.0.lock();
        let mut select = connection.prepare_cached("SELECT document FROM rules WHERE version = ?1")?;
        Ok(select.query_row(params![version], |row| row.get(0)).optional()?)
    }
}

/// Fields that no mapping knows, the most frequent first.
pub(super) fn unmapped(connection: &Connection, source: Option<&str>, limit: usize) -> Result<Vec<UnmappedRow>, StateError> {
    let mut select = connection.prepare_cached(
        "SELECT source, decoder, model, field, why, count, first, last, device, example FROM unmapped
         WHERE ?1 IS NULL OR source = ?1 ORDER BY count DESC, source, model, field LIMIT ?2",
    )?;
    let rows = select.query_map(params![source, number(limit)], |row| {
        Ok(UnmappedRow {
            source: row.get(0)?,
            decoder: row.get(1)?,
            model: row.get(2)?,
            field: row.get(3)?,
            why: row.get(4)?,
            count: row.get(5)?,
            first: Timestamp::from_micros_clamped(row.get(6)?),
            last: Timestamp::from_micros_clamped(row.get(7)?),
            device: row.get(8)?,
            example: row.get(9)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A bound as SQLite takes it.
fn number(bound: usize) -> i64 {
    i64::try_from(bound).unwrap_or(i64::MAX)
}

fn quarantine_row(row: &Row<'_>) -> Result<QuarantineRow, rusqlite::Error> {
    Ok(QuarantineRow {
        id: row.get(0)?,
        received: Timestamp::from_micros_clamped(row.get(1)?),
        source: row.get(2)?,
        topic: row.get(3)?,
        payload: row.get(4)?,
        payload_bytes: row.get::<_, i64>(5)?.unsigned_abs(),
        whole: row.get(6)?,
        reason: row.get(7)?,
        faults: row.get(8)?,
        readings: row.get(9)?,
        discarded: match (row.get(10)?, row.get(11)?, row.get(12)?) {
            (Some(at), Some(by), Some(comment)) => Some(Discard { at: Timestamp::from_micros_clamped(at), by, comment }),
            _ => None,
        },
    })
}

pub(super) fn counts(row: &Row<'_>) -> Result<Counts, rusqlite::Error> {
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
