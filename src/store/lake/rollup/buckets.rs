//! All buckets of a tier as they stand: those rolled up, and of units that are touched, like today, those that would be.

use std::collections::BTreeSet;
use std::sync::Arc;

use deltalake::arrow::array::{AsArray, BooleanArray, RecordBatch};
use deltalake::arrow::compute::filter_record_batch;
use deltalake::arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::execution::TaskContext;
use deltalake::datafusion::physical_plan::execute_stream;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};

use super::read::filter;
use super::table::{PROPERTY, START, as_read, batch, file_schema};
use super::touched::{LocalDays, bounds};
use crate::model::{Catalogue, PropertyIndex};
use crate::rollup::Tier;
use crate::store::lake::read::{balance, filtered_plan};
use crate::store::lake::scan::{Snapshot, strings, unknown};
use crate::store::lake::{Lake, LakeError};
use crate::store::selection::{Order, Selection};

/// Rows of one batch of buckets that are made for a question.
const BATCH_ROWS: usize = 8_192;

/// Some buckets.
#[derive(Clone, Debug)]
pub struct Buckets {
    /// A row each, in the columns of [`Buckets::schema`].
    pub batch: RecordBatch,
    /// Whether they are not rolled up yet, or were touched since.
    pub provisional: bool,
}

impl Buckets {
    /// The columns of the table of rollups, without those of its partition.
    pub fn schema() -> SchemaRef {
        file_schema()
    }
}

impl Lake {
    /// The buckets of a tier that begin in a selection's stretch, of its properties and devices, and of trusted readings if it says so; its
    /// places are not looked at. One touched unit at a time is made in memory.
    pub fn buckets_at(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        tier: Tier,
        selection: &Selection,
    ) -> Result<BoxStream<'static, Result<Buckets, LakeError>>, LakeError> {
        let touched = Arc::new(self.touched_units(snapshot));
        let rolled_up = self.settled(snapshot, tier, selection, Arc::clone(&touched))?;
        let zone = &self.settings.zone;
        let is_asked = |(property, day): &(u16, i32)| {
            let (start, end) = bounds(zone, *day);
            let is_property = selection.properties.is_empty() || selection.properties.contains(&PropertyIndex(*property));
            is_property && start < selection.to && end > selection.from
        };
        let units: Vec<_> = touched.iter().copied().filter(is_asked).collect();
        let (lake, snapshot, selection) = (Arc::clone(self), snapshot.clone(), selection.clone());
        let made = stream::iter(units).then(move |(property, day)| {
            let (lake, snapshot, selection) = (Arc::clone(&lake), snapshot.clone(), selection.clone());
            async move { lake.made(&snapshot, tier, &selection, PropertyIndex(property), day).await }
        });
        let made = made.map_ok(|batches| stream::iter(batches.into_iter().map(Ok))).try_flatten();
        Ok(rolled_up.chain(made).boxed())
    }

    /// Units of which the rollups may not be what their observations come to.
    fn touched_units(&self, snapshot: &Snapshot) -> BTreeSet<(u16, i32)> {
        let blocks = snapshot.tail.ordered.iter().chain(&snapshot.tail.late).map(AsRef::as_ref);
        let mut units = LocalDays::new(&self.settings.zone).units(self.database.live(), blocks);
        units.extend(snapshot.published.touched.units());
        units
    }

    fn settled(
        &self,
        snapshot: &Snapshot,
        tier: Tier,
        selection: &Selection,
        touched: Arc<BTreeSet<(u16, i32)>>,
    ) -> Result<BoxStream<'static, Result<Buckets, LakeError>>, LakeError> {
        let rollups = &snapshot.published.rollups;
        let files = rollups.files_of(tier, selection, self);
        if files.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let (schema, url) = (file_schema(), rollups.store_url());
        let groups = balance(&files.iter().map(|file| (file.path.as_str(), file.bytes)).collect::<Vec<_>>(), self.cores);
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let plan = filtered_plan(&self.runtime, &url, &schema, &filter(self, selection), groups, &columns, Order::Any)?;
        let batches = execute_stream(plan, Arc::new(TaskContext::default().with_runtime(Arc::clone(&self.runtime))))?;
        let (catalogue, zone) = (Arc::clone(&self.catalogue), self.settings.zone.clone());
        let untouched = move |batch: RecordBatch| {
            let keep = untouched(&batch, &touched, &catalogue, &mut LocalDays::new(&zone))?;
            let batch = filter_record_batch(&batch, &keep).map_err(DataFusionError::from)?;
            Ok(Buckets { batch, provisional: false })
        };
        Ok(batches.map_err(LakeError::from).map(move |batch| batch.and_then(&untouched)).boxed())
    }

    /// The buckets of a unit from its observations.
    async fn made(
        &self,
        snapshot: &Snapshot,
        tier: Tier,
        selection: &Selection,
        property: PropertyIndex,
        day: i32,
    ) -> Result<Vec<Buckets>, LakeError> {
        let (from, to) = bounds(&self.settings.zone, day);
        let unit = Selection { properties: vec![property], from, to, districts: Vec::new(), area: None, ..selection.clone() };
        let tiers = self.day_of_property(snapshot, unit).await?;
        let mut rows = tiers.into_iter().find(|(of, _rows)| *of == tier).map(|(_tier, rows)| rows).unwrap_or_default();
        rows.retain(|row| (selection.from.micros()..selection.to.micros()).contains(&row.start));
        rows.sort_unstable_by(|one, other| one.key().cmp(&other.key()));
        let batches = rows.chunks(BATCH_ROWS).map(|rows| Ok(Buckets { batch: as_read(&batch(tier, day, rows))?, provisional: true }));
        batches.collect()
    }
}

/// Which rows are of no touched unit.
fn untouched(
    batch: &RecordBatch,
    touched: &BTreeSet<(u16, i32)>,
    catalogue: &Catalogue,
    local: &mut LocalDays<'_>,
) -> Result<BooleanArray, LakeError> {
    let properties = strings(batch, PROPERTY)?;
    let starts = batch.column_by_name(START).and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let starts = starts.ok_or_else(|| unknown("column", START))?;
    let mut last: Option<(&str, Option<PropertyIndex>)> = None;
    let keep = properties.iter().zip(starts.values()).map(|(property, start)| {
        let name = property.unwrap_or_default();
        let index = match last {
            Some((known, index)) if known == name => index,
            _ => catalogue.find(name),
        };
        last = Some((name, index));
        // What the catalogue has dropped cannot be asked for.
        Some(index.is_some_and(|index| !touched.contains(&(index.0, local.day(*start)))))
    });
    Ok(keep.collect())
}
