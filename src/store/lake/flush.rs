//! From the log's ordered lane into the table.

use std::sync::Arc;

use deltalake::arrow::array::RecordBatch;
use hashbrown::HashMap;

use super::table::{BatchBuilder, Change, TableRow, date_of, write_files};
use super::{Lake, LakeError, LastChange};
use crate::state::{Block, FollowerPosition, LedgerMoves, Rows, SeriesIndex};

/// Rows of one record batch on its way to a file.
const BATCH_ROWS: usize = 65_536;

/// zstd level of files that a compaction will rewrite: fast.
const FLUSH_LEVEL: i32 = 1;

/// Where a row goes and where it is: date, rank of its series, time; number of its block, row.
type RowKey = (i32, u32, i64, u32, u32);

impl Lake {
    /// Moves everything that is in the ordered lane now into the table, durably, and trims the log. Returns the rows moved.
    pub async fn flush(&self) -> Result<usize, LakeError> {
        self.flush_held(&mut *self.writer().await?).await
    }

    /// [`Lake::flush`] for whoever already holds the writer's lock.
    pub(super) async fn flush_held(&self, writer: &mut LastChange) -> Result<usize, LakeError> {
        let published = self.published()?;
        let blocks = self.database.live().tail_after(published.position.ordered, u64::MAX).ordered;
        let Some(last) = blocks.last().map(|block| block.sequence) else { return Ok(0) };
        // Delta records the transaction but does not enforce it: read it before every flush.
        let held = super::transaction(&published.table, &self.ordered_id()).await?;
        if held >= last {
            return Err(LakeError::Unknown { what: "log position", text: format!("{held} where the log ends with {last}") });
        }
        let rows = blocks.iter().map(|block| block.rows.len()).sum();
        let batches = self.sorted_batches(&blocks);
        let adds = write_files(&published.table, FLUSH_LEVEL, batches).await?;
        let change = Change { adds, transactions: vec![(self.ordered_id(), last)], ..Change::default() };
        let position = FollowerPosition { ordered: last, ..published.position };
        self.follow(writer, change, position, LedgerMoves::default(), &blocks).await?;
        Ok(rows)
    }

    /// Record batches of blocks, sorted as the table's files are: date, property, device, time.
    fn sorted_batches(&self, blocks: &[Arc<Block>]) -> impl Iterator<Item = RecordBatch> + Send + 'static {
        let names = self.series_names(blocks.iter().map(|block| &block.rows));
        let mut order: Vec<RowKey> = Vec::with_capacity(blocks.iter().map(|block| block.rows.len()).sum());
        for (number, block) in (0u32..).zip(blocks) {
            for ((row, series), time) in (0u32..).zip(&block.rows.series).zip(&block.rows.time) {
                order.push((date_of(*time), names.rank(*series), *time, number, row));
            }
        }
        order.sort_unstable();
        let blocks = blocks.to_vec();
        let districts = Arc::clone(&self.districts);
        let batches: Vec<Vec<RowKey>> = order.chunks(BATCH_ROWS).map(<[_]>::to_vec).collect();
        batches.into_iter().map(move |rows| {
            let mut builder = BatchBuilder::with_capacity(rows.len());
            for (_date, rank, time, number, row) in rows {
                let row = row as usize;
                let Some(block) = blocks.get(number as usize) else { continue };
                let (Some(value), Some(flags)) = (block.rows.value.get(row), block.rows.flags.get(row)) else { continue };
                let place = block.rows.place_of(row);
                let (property, device) = names.at(rank);
                builder.push(&TableRow {
                    property,
                    device,
                    time,
                    value: *value,
                    flags: *flags,
                    place,
                    district: place.district.map(|district| districts.get(district).id.as_str()),
                    original: block.rows.original_of(row),
                });
            }
            builder.finish()
        })
    }

    /// The names of all series of some rows, with their rank in the table's order.
    pub(super) fn series_names<'a>(&self, rows: impl Iterator<Item = &'a Rows>) -> SeriesNames {
        let live = self.database.live().read();
        let mut ranks: HashMap<SeriesIndex, u32> = HashMap::new();
        let mut names = Vec::new();
        for index in rows.flat_map(|rows| rows.series.iter().copied()) {
            if let hashbrown::hash_map::Entry::Vacant(slot) = ranks.entry(index) {
                slot.insert(0);
                let series = live.series_at(index);
                let property = self.catalogue.get(series.property).id.clone();
                names.push((property, live.device(series.device).id.to_string(), index));
            }
        }
        names.sort_unstable();
        for (rank, (_property, _device, index)) in (0u32..).zip(&names) {
            ranks.insert(*index, rank);
        }
        SeriesNames { ranks, names: names.into_iter().map(|(property, device, _index)| (property, device)).collect() }
    }
}

/// Property and device of series, by rank in the table's order.
pub(super) struct SeriesNames {
    ranks: HashMap<SeriesIndex, u32>,
    names: Vec<(String, String)>,
}

impl SeriesNames {
    /// The rank of a series that was among the rows.
    pub(super) fn rank(&self, series: SeriesIndex) -> u32 {
        *self.ranks.get(&series).expect("the names were made of the same rows")
    }

    /// Property and device at a rank.
    pub(super) fn at(&self, rank: u32) -> (&str, &str) {
        let (property, device) = self.names.get(rank as usize).expect("ranks come from the same names");
        (property, device)
    }
}
