//! History and the log's tail as the table `observation`.
//!
//! What a statement asks of property, device, district, time and trust goes down to the lake's scan: of the table, files of other days
//! are not opened, and row groups and pages of other series and times are not decoded. So does `LIMIT`; and columns that nobody looks at
//! are not read.

use std::sync::Arc;

use async_trait::async_trait;
use deltalake::arrow::array::builder::StringViewBuilder;
use deltalake::arrow::array::{
    ArrayRef, BooleanArray, Float64Array, RecordBatch, RecordBatchOptions, StringViewArray, TimestampMicrosecondArray,
};
use deltalake::arrow::buffer::Buffer;
use deltalake::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use deltalake::arrow::error::ArrowError;
use deltalake::datafusion::catalog::{Session, TableProvider};
use deltalake::datafusion::datasource::TableType;
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use deltalake::datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt as _;

use super::Sources;
use super::conditions::{Condition, DEVICE, DISTRICT, PROPERTY, TIME, TRUSTED, described, selection};
use super::scan::{Scan, external, snapshot};
use super::tables::commented;
use crate::model::{Flags, Position, PropertyIndex};
use crate::state::DeviceIndex;
use crate::store::{Chunk, Detail, NO_DISTRICT, Order};

/// What the table is.
pub(super) const COMMENT: &str = "Every observation, in the lake or still in the log; no property, device and time appears twice";

/// The type of instants.
pub(super) fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn schema() -> SchemaRef {
    let column = |name: &str, kind: DataType, nullable: bool, comment: &str| commented(Field::new(name, kind, nullable), comment);
    Arc::new(Schema::new(vec![
        column(PROPERTY, DataType::Utf8View, false, "Observed property; property.property tells its unit"),
        column(DEVICE, DataType::Utf8View, false, "The device's name"),
        column(TIME, instant(), false, "Phenomenon time"),
        column("value", DataType::Float64, false, "In the property's canonical unit"),
        column(TRUSTED, DataType::Boolean, false, "Whether nothing about it is suspect: what other answers count by default"),
        column("flags", DataType::Utf8View, false, "What is suspect about it, in words with spaces between; empty where it is trusted"),
        column(DISTRICT, DataType::Utf8View, true, "The district in which it was observed"),
        column("longitude", DataType::Float64, true, "Where it was observed, degrees east (WGS 84)"),
        column("latitude", DataType::Float64, true, "Where it was observed, degrees north (WGS 84)"),
        column("original_value", DataType::Float64, true, "The number that was sent, where it differs"),
        column("original_unit", DataType::Utf8View, true, "The unit that was sent, a UCUM code, where the value differs"),
    ]))
}

/// The table.
#[derive(Debug)]
pub(super) struct Observations {
    sources: Arc<Sources>,
    schema: SchemaRef,
}

impl Observations {
    pub(super) fn new(sources: Arc<Sources>) -> Self {
        Self { sources, schema: schema() }
    }
}

#[async_trait]
impl TableProvider for Observations {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_table_definition(&self) -> Option<&str> {
        Some(COMMENT)
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        let is_pushed = |filter: &&Expr| match Condition::of(filter) {
            Some(condition) if condition.is_exact(&self.sources.districts) => TableProviderFilterPushDown::Exact,
            _ => TableProviderFilterPushDown::Unsupported,
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
        let described = described(selection.as_ref(), &self.sources);
        let (sources, schema, detail) = (Arc::clone(&self.sources), Arc::clone(&projected), detail(&projected));
        let open = move || {
            let Some(selection) = &selection else { return Ok(futures::stream::empty().boxed()) };
            let chunks = sources.lake.scan_at(&snapshot, selection.clone(), Order::Any, detail).map_err(external)?;
            let columns = Columns { schema: Arc::clone(&schema), sources: Arc::clone(&sources) };
            Ok(chunks.map(move |chunk| Ok(columns.batch(&chunk.map_err(external)?)?)).boxed())
        };
        Ok(Arc::new(Scan::new(projected, described, limit, Box::new(open))))
    }
}

/// How much the lake must read for some columns.
fn detail(schema: &Schema) -> Detail {
    let any = |names: &[&str]| schema.fields().iter().any(|field| names.contains(&field.name().as_str()));
    if any(&["longitude", "latitude", "original_value", "original_unit"]) {
        Detail::All
    } else if any(&[DISTRICT]) {
        Detail::Numbers
    } else {
        Detail::Values
    }
}

/// Makes the columns that are wanted.
struct Columns {
    schema: SchemaRef,
    sources: Arc<Sources>,
}

impl Columns {
    fn batch(&self, chunk: &Chunk) -> Result<RecordBatch, ArrowError> {
        let columns = self.schema.fields().iter().map(|field| self.column(field.name(), chunk)).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(chunk.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }

    fn column(&self, name: &str, chunk: &Chunk) -> Result<ArrayRef, ArrowError> {
        let position = |of: fn(Position) -> f64| -> ArrayRef {
            Arc::new(chunk.position.iter().map(|position| position.map(of)).collect::<Float64Array>())
        };
        Ok(match name {
            PROPERTY => names(&chunk.property, |index| Some(self.sources.catalogue.get(PropertyIndex(index)).id.clone()))?,
            DEVICE => {
                let live = self.sources.live.read();
                names(&chunk.device, |index| Some(live.device(DeviceIndex(index)).id.to_string()))?
            }
            TIME => Arc::new(TimestampMicrosecondArray::from(chunk.time.clone()).with_timezone("UTC")),
            "value" => Arc::new(Float64Array::from(chunk.value.clone())),
            TRUSTED => {
                Arc::new(chunk.flags.iter().map(|flags| Some(Flags::from_bits_retain(*flags).is_trusted())).collect::<BooleanArray>())
            }
            "flags" => names(&chunk.flags, |flags| Some(Flags::from_bits_retain(flags).names().join(" ")))?,
            DISTRICT => names(&chunk.district, |index| {
                (index != NO_DISTRICT).then(|| self.sources.districts.get(crate::model::DistrictIndex(index)).id.clone())
            })?,
            "longitude" => position(Position::longitude),
            "latitude" => position(Position::latitude),
            "original_value" => {
                Arc::new(chunk.original.iter().map(|original| original.as_ref().map(|original| original.value)).collect::<Float64Array>())
            }
            "original_unit" => Arc::new(
                chunk.original.iter().map(|original| original.as_ref().map(|original| &original.unit)).collect::<StringViewArray>(),
            ),
            other => return Err(ArrowError::SchemaError(format!("there is no column {other}"))),
        })
    }
}

/// Numbers as the names that they stand for. Rows come sorted, so that the same number comes many times in a row: its name is kept once.
fn names<T: Copy + PartialEq>(codes: &[T], mut name: impl FnMut(T) -> Option<String>) -> Result<ArrayRef, ArrowError> {
    let (mut text, mut runs) = (String::new(), Vec::new());
    for run in codes.chunk_by(|one, other| one == other) {
        let name = run.first().and_then(|code| name(*code));
        runs.push((run.len(), name.as_ref().map(|name| (text.len(), name.len()))));
        text.push_str(&name.unwrap_or_default());
    }
    let number = |number: usize| u32::try_from(number).map_err(|error| ArrowError::InvalidArgumentError(error.to_string()));
    let mut builder = StringViewBuilder::with_capacity(codes.len());
    let block = builder.append_block(Buffer::from(text.into_bytes()));
    for (length, place) in runs {
        for _row in 0..length {
            match place {
                Some((offset, length)) => builder.try_append_view(block, number(offset)?, number(length)?)?,
                None => builder.append_null(),
            }
        }
    }
    Ok(Arc::new(builder.finish()))
}
