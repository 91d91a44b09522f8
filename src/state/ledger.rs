//! The two equations that balance at any instant, per source and hour of receipt:
//!
//! - messages: `received = accepted + rejected + repeated + shed`
//! - values: `readings = stored + duplicate + corrected + quarantined + pending`

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::model::{SourceName, Timestamp};

/// One line of the ledger, or a change of it. Changes may be negative: a merge moves values out of `pending`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Counts {
    /// Messages that reached Conca.
    pub received: i64,
    /// Messages with at least one valid reading.
    pub accepted: i64,
    /// Messages without any.
    pub rejected: i64,
    /// Messages that the broker delivered again although their effects were already durable.
    pub repeated: i64,
    /// Messages of QoS 0 that were dropped for lack of room.
    pub shed: i64,
    /// Values that were read in accepted and rejected messages.
    pub readings: i64,
    /// Values that are rows of the stores, or will be.
    pub stored: i64,
    /// Values that were already stored.
    pub duplicate: i64,
    /// Values that replaced another one of the same identity.
    pub corrected: i64,
    /// Values in the quarantine.
    pub quarantined: i64,
    /// Values at or behind their series' watermark, not yet compared with what is stored.
    pub pending: i64,
}

impl Counts {
    /// Whether both equations hold.
    pub fn balances(&self) -> bool {
        self.received == self.accepted + self.rejected + self.repeated + self.shed
            && self.readings == self.stored + self.duplicate + self.corrected + self.quarantined + self.pending
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.accepted += other.accepted;
        self.rejected += other.rejected;
        self.repeated += other.repeated;
        self.shed += other.shed;
        self.readings += other.readings;
        self.stored += other.stored;
        self.duplicate += other.duplicate;
        self.corrected += other.corrected;
        self.quarantined += other.quarantined;
        self.pending += other.pending;
    }
}

/// Which line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LedgerKey {
    /// Who received it.
    pub source: SourceName,
    /// The start of the UTC hour of receipt.
    pub hour: Timestamp,
}

/// Changes of several lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerMoves(BTreeMap<LedgerKey, Counts>);

impl LedgerMoves {
    /// The change of one line, zero so far.
    pub fn line(&mut self, source: &SourceName, hour: Timestamp) -> &mut Counts {
        self.0.entry(LedgerKey { source: source.clone(), hour }).or_default()
    }

    /// All changes.
    pub fn iter(&self) -> impl Iterator<Item = (&LedgerKey, &Counts)> {
        self.0.iter()
    }

    /// The sum of all changes.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        for counts in self.0.values() {
            total += *counts;
        }
        total
    }
}

impl FromIterator<(LedgerKey, Counts)> for LedgerMoves {
    fn from_iter<I: IntoIterator<Item = (LedgerKey, Counts)>>(lines: I) -> Self {
        Self(lines.into_iter().collect())
    }
}
