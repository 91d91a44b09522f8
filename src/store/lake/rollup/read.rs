//! Reads rollups for a question.

use std::sync::Arc;

use deltalake::arrow::array::{AsArray, RecordBatch};
use deltalake::arrow::datatypes::TimestampMicrosecondType;
use deltalake::datafusion::datasource::listing::PartitionedFile;
use deltalake::datafusion::datasource::physical_plan::FileGroup;
use deltalake::datafusion::execution::TaskContext;
use deltalake::datafusion::logical_expr::{Expr, col};
use deltalake::datafusion::physical_plan::execute_stream;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use hashbrown::HashMap;

use super::table::{DEVICE, DISTRICT, START, TRUSTED, columns_of, file_schema, statistics};
use super::touched::{LocalDays, bounds, epoch};
use super::{Rollups, TierFile};
use crate::model::{PropertyIndex, Timestamp};
use crate::rollup::{Statistic, Statistics, Tier};
use crate::state::DeviceIndex;
use crate::store::lake::read::{balance, filtered_plan, instant};
use crate::store::lake::scan::{Snapshot, codes, strings, unknown};
use crate::store::lake::{Lake, LakeError};
use crate::store::selection::{Detail, NO_DISTRICT, Order, Selection};

/// Buckets of a rollup as columns of equal length.
#[derive(Clone, Debug, Default)]
pub struct RollupChunk {
    /// [`DeviceIndex`].
    pub device: Vec<u32>,
    /// Where the bucket begins, in microseconds.
    pub start: Vec<i64>,
    /// [`crate::model::DistrictIndex`], or [`NO_DISTRICT`]; with [`Detail::Values`] it need not be known.
    pub district: Vec<u16>,
    /// Count, flags, and the statistic that was asked for.
    pub statistics: Vec<Statistics>,
}

/// Buckets as they come.
pub type RollupChunks = BoxStream<'static, Result<RollupChunk, LakeError>>;

impl RollupChunk {
    /// Keeps the buckets for which `keep` says so.
    pub(in crate::store) fn retain(&mut self, keep: &[bool]) {
        fn retain<T>(column: &mut Vec<T>, keep: &[bool]) {
            let mut flags = keep.iter();
            column.retain(|_value| flags.next().copied().unwrap_or(false));
        }
        retain(&mut self.device, keep);
        retain(&mut self.start, keep);
        retain(&mut self.district, keep);
        retain(&mut self.statistics, keep);
    }
}

impl Lake {
    /// The time zone on whose calendar rollups are.
    pub fn zone(&self) -> &jiff::tz::TimeZone {
        &self.settings.zone
    }

    /// Where the local days begin whose rollups may not be what the observations of a property come to.
    pub fn touched_days(&self, snapshot: &Snapshot, property: PropertyIndex) -> Vec<Timestamp> {
        let zone = &self.settings.zone;
        let mut days: std::collections::BTreeSet<i32> = snapshot.published.touched.days_of(property).collect();
        let state = self.database.live().read();
        let mut local = LocalDays::new(zone);
        for block in snapshot.tail.ordered.iter().chain(&snapshot.tail.late) {
            for (series, time) in block.rows.series.iter().zip(&block.rows.time) {
                if state.series_at(*series).property == property {
                    days.insert(local.day(*time));
                }
            }
        }
        drop(state);
        days.into_iter().map(|day| bounds(zone, day).0).collect()
    }

    /// The buckets of a tier of one property that begin in a stretch, of selected devices and districts: those of trusted readings, and
    /// beside them, if wanted, those of suspect ones. With [`Order::SeriesTime`] those of a device come by ascending time.
    pub fn rollup_at(
        &self,
        snapshot: &Snapshot,
        tier: Tier,
        statistic: Statistic,
        selection: &Selection,
        order: Order,
        detail: Detail,
    ) -> Result<RollupChunks, LakeError> {
        let files = snapshot.published.rollups.files_of(tier, selection, self);
        if files.is_empty() || selection.devices.as_ref().is_some_and(Vec::is_empty) {
            return Ok(stream::empty().boxed());
        }
        let (schema, url) = (file_schema(), snapshot.published.rollups.store_url());
        let with_district = detail != Detail::Values || !selection.districts.is_empty();
        let mut columns = vec![DEVICE, START, "count", "flags"];
        columns.extend(with_district.then_some(DISTRICT));
        columns.extend(columns_of(statistic));
        let groups = match order {
            Order::Any => balance(&files.iter().map(|file| (file.path.as_str(), file.bytes)).collect::<Vec<_>>(), self.cores),
            Order::SeriesTime => {
                vec![FileGroup::new(files.iter().map(|file| PartitionedFile::new(file.path.as_str(), file.bytes)).collect())]
            }
        };
        let plan = filtered_plan(&self.runtime, &url, &schema, &filter(self, selection), groups, &columns, order)?;
        let context = Arc::new(TaskContext::default().with_runtime(Arc::clone(&self.runtime)));
        let batches = execute_stream(plan, context)?.map_err(LakeError::from);
        let mut reader = Reader {
            live: Arc::clone(self.database.live()),
            districts: Arc::clone(&self.districts),
            selection: selection.clone(),
            devices: HashMap::new(),
        };
        Ok(batches.map(move |batch| batch.and_then(|batch| reader.chunk(&batch))).boxed())
    }
}

/// What is asked of a bucket's identity.
pub(super) fn filter(lake: &Lake, selection: &Selection) -> Expr {
    let times = col(START).gt_eq(instant(selection.from.micros())).and(col(START).lt(instant(selection.to.micros())));
    let filter = lake.identity_filter(selection).map_or(times.clone(), |identity| identity.and(times));
    if selection.trusted { filter.and(col(TRUSTED)) } else { filter }
}

impl Rollups {
    /// Files of a tier whose dates are asked for, by date.
    pub(super) fn files_of(&self, tier: Tier, selection: &Selection, lake: &Lake) -> Vec<&TierFile> {
        let mut local = LocalDays::new(&lake.settings.zone);
        let (from, to) = (local.day(selection.from.micros()), local.day(selection.to.micros() - 1));
        let from = if tier == Tier::Day { month_of(from) } else { from };
        self.files.iter().filter(|file| file.tier == tier && (from..=to).contains(&file.date)).collect()
    }
}

/// The first day of a day's month.
pub(super) fn month_of(day: i32) -> i32 {
    let date = epoch().saturating_add(jiff::Span::new().days(day));
    super::touched::day_number(date.first_of_month())
}

/// The first day of the month after a day's.
pub(super) fn next_month(day: i32) -> i32 {
    let date = epoch().saturating_add(jiff::Span::new().days(day));
    super::touched::day_number(date.last_of_month()) + 1
}

struct Reader {
    live: Arc<crate::state::Live>,
    districts: Arc<crate::model::Districts>,
    selection: Selection,
    devices: HashMap<String, u32>,
}

impl Reader {
    fn chunk(&mut self, batch: &RecordBatch) -> Result<RollupChunk, LakeError> {
        let start = batch.column_by_name(START).and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
        let mut chunk = RollupChunk {
            device: codes(strings(batch, DEVICE)?, |name| self.device(name))?,
            start: start.ok_or_else(|| unknown("column", START))?.values().to_vec(),
            district: match batch.column_by_name(DISTRICT) {
                None => vec![NO_DISTRICT; batch.num_rows()],
                // A district that the city has since dropped is none.
                Some(_column) => {
                    codes(strings(batch, DISTRICT)?, |name| Ok(self.districts.by_id(name).map_or(NO_DISTRICT, |index| index.0)))?
                }
            },
            statistics: statistics(batch)?,
        };
        let Selection { devices, districts, .. } = &self.selection;
        if devices.is_some() || !districts.is_empty() {
            let in_districts = |district: u16| districts.is_empty() || districts.iter().any(|wanted| wanted.0 == district);
            let is_wanted = |device| devices.as_ref().is_none_or(|devices| devices.binary_search(&DeviceIndex(device)).is_ok());
            let keep: Vec<bool> =
                chunk.device.iter().zip(&chunk.district).map(|(device, district)| is_wanted(*device) && in_districts(*district)).collect();
            if keep.contains(&false) {
                chunk.retain(&keep);
            }
        }
        Ok(chunk)
    }

    fn device(&mut self, name: &str) -> Result<u32, LakeError> {
        if let Some(index) = self.devices.get(name) {
            return Ok(*index);
        }
        let index = self.live.read().find_device(name).ok_or_else(|| unknown("device", name))?.0;
        self.devices.insert(name.to_owned(), index);
        Ok(index)
    }
}
