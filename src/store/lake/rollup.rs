//! Rollups of the table: buckets of 15 minutes, hours and local days, in a table of their own beside it.
//!
//! - **Touched units.** What is written to the table touches units (local day, property). They are noted in the state database before the
//!   commit and published with it; of a touched unit the rows are asked, of every other the rollup, so that a question never sees
//!   one that is out of date. A unit is rolled up once its day is over, and again whenever it was touched.
//! - **Idempotent.** A unit is always made from all its rows. A crash at any point leaves it touched, and it is made again. A bucket whose
//!   numbers stay keeps its revision.
//! - **They outlive their rows.** What was dropped for its age is not rolled up again: late readings of such a day are in no rollup.
//! - One commit replaces the three tiers of a day; a partition is one sorted file.

mod buckets;
mod check;
mod make;
mod read;
mod table;
mod touched;

use std::sync::Arc;

use deltalake::DeltaTable;
use deltalake::datafusion::execution::object_store::ObjectStoreUrl;

pub use buckets::Buckets;
pub use check::{RollupFault, RollupsSeen};
pub use read::{RollupChunk, RollupChunks};
pub use table::ENDING as ROLLUP_ENDING;
pub(in crate::store) use table::{Row as RollupRow, columns_of};
pub(super) use touched::{LocalDays, Touched};

use super::LakeError;
use crate::rollup::Tier;

/// A version of the table of rollups.
#[derive(Clone, Debug)]
pub(super) struct Rollups {
    table: Arc<DeltaTable>,
    /// By tier and date.
    files: Arc<Vec<TierFile>>,
}

/// A partition's file.
#[derive(Clone, Debug)]
struct TierFile {
    tier: Tier,
    /// The partition's first local day, since 1970-01-01.
    date: i32,
    path: String,
    bytes: u64,
    rows: u64,
}

impl Rollups {
    fn new(table: DeltaTable) -> Result<Self, LakeError> {
        let files = Arc::new(table::tier_files(&table)?);
        Ok(Self { table: Arc::new(table), files })
    }

    /// Under which the runtime knows the table's folder.
    pub(super) fn store_url(&self) -> ObjectStoreUrl {
        self.table.log_store().object_store_url()
    }

    /// Files, bytes, rows.
    pub(super) fn size(&self) -> (usize, u64, u64) {
        self.files.iter().fold((0, 0, 0), |(files, bytes, rows), file| (files + 1, bytes + file.bytes, rows + file.rows))
    }
}
