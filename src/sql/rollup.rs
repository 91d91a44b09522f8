//! Rollups as the tables `rollup_15m`, `rollup_1h` and `rollup_1d`.
//!
//! They hold every bucket as it stands now: those of days that go on, or were touched since they were rolled up, are made from their
//! observations for the statement, and say `provisional`. What a statement asks of property, device, time and trust goes down to the
//! lake, so that no more is made than is asked for. What else rollups keep (squares, directions, sketches) is in the open table beside
//! the lake.

use std::sync::Arc;

use async_trait::async_trait;
use deltalake::arrow::array::{ArrayRef, AsArray as _, BooleanArray, Float64Array, RecordBatch, RecordBatchOptions, StringViewArray};
use deltalake::arrow::datatypes::{DataType, Field, Float64Type, Int16Type, Int64Type, Schema, SchemaRef};
use deltalake::arrow::error::ArrowError;
use deltalake::datafusion::catalog::{Session, TableProvider};
use deltalake::datafusion::datasource::TableType;
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use deltalake::datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt as _;

use super::Sources;
use super::conditions::{Condition, DEVICE, DISTRICT, PROPERTY, TIME, TRUSTED, described, selection};
use super::observation::instant;
use super::scan::{Scan, external, snapshot};
use super::tables::commented;
use crate::model::Flags;
use crate::rollup::Tier;
use crate::store::Buckets;

/// Name, comment and tier of each table.
pub(super) const ALL: [(&str, &str, Tier); 3] = [
    ("rollup_15m", "Every series by quarters of an hour", Tier::Quarter),
    ("rollup_1h", "Every series by hours", Tier::Hour),
    ("rollup_1d", "Every series by days of the city's calendar", Tier::Day),
];

pub(super) fn schema() -> SchemaRef {
    let column = |name: &str, kind: DataType, nullable: bool, comment: &str| commented(Field::new(name, kind, nullable), comment);
    let number = DataType::Float64;
    Arc::new(Schema::new(vec![
        column(PROPERTY, DataType::Utf8View, false, "Observed property; property.property tells its unit"),
        column(DEVICE, DataType::Utf8View, false, "The device's name"),
        column(TIME, instant(), false, "When the bucket begins"),
        column("until", instant(), false, "When it ends"),
        column(DISTRICT, DataType::Utf8View, true, "The district in which the device observed; one that moves has a row for each"),
        column(
            TRUSTED,
            DataType::Boolean,
            false,
            "Whether it is of the trusted readings or of the suspect ones, which are rows of their own",
        ),
        column("count", DataType::Int64, false, "Readings"),
        column("mean", number.clone(), true, "Arithmetic mean of the readings, where it means something"),
        column("sum", number.clone(), true, "Sum of the readings, where it means something"),
        column("min", number.clone(), true, "Smallest reading"),
        column("max", number.clone(), true, "Largest reading"),
        column("first", number.clone(), false, "First reading"),
        column("first_time", instant(), false, "Phenomenon time of the first reading"),
        column("last", number.clone(), false, "Last reading"),
        column("last_time", instant(), false, "Phenomenon time of the last reading"),
        column("increase", number, true, "By how much a counter grew between first and last reading, resets and roll-overs counted"),
        column("flags", DataType::Utf8View, false, "What is suspect about any of the readings, in words with spaces between"),
        column("revision", DataType::Int32, false, "Grows when the numbers of a bucket change that was rolled up before"),
        column("provisional", DataType::Boolean, false, "Whether it is not rolled up yet, or was touched since"),
    ]))
}

/// A tier's table.
#[derive(Debug)]
pub(super) struct Rollup {
    sources: Arc<Sources>,
    tier: Tier,
    comment: &'static str,
    schema: SchemaRef,
}

impl Rollup {
    pub(super) fn new(sources: Arc<Sources>, tier: Tier, comment: &'static str) -> Self {
        Self { sources, tier, comment, schema: schema() }
    }
}

#[async_trait]
impl TableProvider for Rollup {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_table_definition(&self) -> Option<&str> {
        Some(self.comment)
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        let is_pushed = |filter: &&Expr| match Condition::of(filter) {
            None | Some(Condition::Name { column: DISTRICT, .. }) => TableProviderFilterPushDown::Unsupported,
            Some(_condition) => TableProviderFilterPushDown::Exact,
        };
        Ok(filters.iter().map(is_pushed).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let snapshot = snapshot(state, &self.sources)?;
        let projected = projection.map_or_else(|| Ok(Arc::clone(&self.schema)), |columns| self.schema.project(columns).map(Arc::new))?;
        let selection = selection(filters, &self.sources)?;
        let described = format!("{} of {}", self.tier, described(selection.as_ref(), &self.sources));
        let (sources, schema, tier) = (Arc::clone(&self.sources), Arc::clone(&projected), self.tier);
        let open = move || {
            let Some(selection) = &selection else { return Ok(futures::stream::empty().boxed()) };
            let buckets = sources.lake.buckets_at(&snapshot, tier, selection).map_err(external)?;
            let schema = Arc::clone(&schema);
            Ok(buckets.map(move |buckets| Ok(batch(&schema, &buckets.map_err(external)?)?)).boxed())
        };
        Ok(Arc::new(Scan::new(projected, described, limit, Box::new(open))))
    }
}

fn batch(schema: &SchemaRef, buckets: &Buckets) -> Result<RecordBatch, ArrowError> {
    let columns = schema.fields().iter().map(|field| column(field.name(), buckets)).collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(buckets.batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

fn column(name: &str, buckets: &Buckets) -> Result<ArrayRef, ArrowError> {
    let stored = |name: &str| {
        let column = buckets.batch.column_by_name(name);
        column.ok_or_else(|| ArrowError::SchemaError(format!("rollups have no column {name}")))
    };
    Ok(match name {
        TIME => Arc::clone(stored("start")?),
        "until" => Arc::clone(stored("end")?),
        "mean" => {
            let (sums, counts) = (stored("sum")?.as_primitive::<Float64Type>(), stored("count")?.as_primitive::<Int64Type>());
            #[expect(clippy::cast_precision_loss, reason = "no bucket has 2^53 readings")]
            let means = sums.iter().zip(counts.values()).map(|(sum, count)| sum.map(|sum| sum / *count as f64));
            Arc::new(means.collect::<Float64Array>())
        }
        "flags" => {
            let flags = stored("flags")?.as_primitive::<Int16Type>();
            let words = flags.values().iter().map(|flags| Flags::from_bits_retain(flags.cast_unsigned()).names().join(" "));
            Arc::new(StringViewArray::from_iter_values(words))
        }
        "provisional" => Arc::new(BooleanArray::from(vec![buckets.provisional; buckets.batch.num_rows()])),
        other => Arc::clone(stored(other)?),
    })
}
