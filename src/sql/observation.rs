//! History and the log's tail as the table `observation`.
//!
//! What a statement asks of property, device, district, time and trust goes down to the lake's scan: of the table, files of other days
//! are not opened, and row groups and pages of other series and times are not decoded. A condition on a name may be any expression of
//! that name alone: it is held against the names there are, which are few, and not against rows. So is `LIMIT`; and columns that nobody
//! looks at are not read.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use deltalake::arrow::array::{
    Array, ArrayRef, BooleanArray, Float64Array, RecordBatch, RecordBatchOptions, StringViewArray, TimestampMicrosecondArray,
};
use deltalake::arrow::buffer::Buffer;
use deltalake::arrow::array::builder::StringViewBuilder;
use deltalake::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use deltalake::arrow::error::ArrowError;
use deltalake::datafusion::catalog::{Session, TableProvider};
use deltalake::datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use deltalake::datafusion::common::{Column, DFSchema};
use deltalake::datafusion::datasource::TableType;
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::execution::context::ExecutionProps;
use deltalake::datafusion::execution::{SendableRecordBatchStream, TaskContext};
use deltalake::datafusion::logical_expr::expr_rewriter::unnormalize_col;
use deltalake::datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use deltalake::datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown};
use deltalake::datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, create_physical_expr};
use deltalake::datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use deltalake::datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput as _};
use deltalake::datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use deltalake::datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use deltalake::datafusion::scalar::ScalarValue;
use futures::StreamExt as _;

use super::Sources;
use super::tables::commented;
use crate::model::{Catalogue, Districts, Flags, Position, PropertyIndex, Timestamp};
use crate::state::{DeviceIndex, Live};
use crate::store::{Chunk, Detail, NO_DISTRICT, Order, Selection, Snapshot};

const PROPERTY: &str = "property";
const DEVICE: &str = "device";
const TIME: &str = "time";
const TRUSTED: &str = "trusted";
const DISTRICT: &str = "district";

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
        let snapshot = state.config().get_extension::<Snapshot>().unwrap_or_else(|| Arc::new(self.sources.lake.snapshot()));
        let columns: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let projected = Arc::new(self.schema.project(&columns)?);
        Ok(Arc::new(Scan {
            sources: Arc::clone(&self.sources),
            snapshot,
            selection: selection(filters, &self.sources)?,
            detail: detail(&projected),
            limit,
            properties: Arc::new(PlanProperties::new(
                EquivalenceProperties::new(projected),
                Partitioning::UnknownPartitioning(1),
                EmissionType::Incremental,
                Boundedness::Bounded,
            )),
            metrics: ExecutionPlanMetricsSet::new(),
        }))
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

/// A condition that the lake's scan can hold rows against.
enum Condition {
    /// Any expression of one name alone.
    Name { column: &'static str, expression: Expr },
    /// Times from and to.
    Time(Range<i64>),
    /// Only trusted ones.
    Trusted,
}

impl Condition {
    fn of(filter: &Expr) -> Option<Self> {
        let expression = unnormalize_col(filter.clone());
        if matches!(&expression, Expr::Column(column) if column.name == TRUSTED) {
            return Some(Self::Trusted);
        }
        if let Some(times) = times(&expression) {
            return Some(Self::Time(times));
        }
        let is_plain = |node: &Expr| match node {
            Expr::ScalarFunction(function) => function.func.signature().volatility != deltalake::datafusion::logical_expr::Volatility::Volatile,
            Expr::Column(_)
            | Expr::Literal(..)
            | Expr::BinaryExpr(_)
            | Expr::InList(_)
            | Expr::Like(_)
            | Expr::SimilarTo(_)
            | Expr::Not(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::Between(_)
            | Expr::Cast(_)
            | Expr::TryCast(_)
            | Expr::Case(_) => true,
            _ => false,
        };
        let mut is_all_plain = true;
        let visited = expression.apply(|node| {
            is_all_plain &= is_plain(node);
            Ok(if is_all_plain { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
        });
        let columns = expression.column_refs();
        let only = match columns.iter().collect::<Vec<&&Column>>().as_slice() {
            [only] => only.name.clone(),
            _ => return None,
        };
        let column = [PROPERTY, DEVICE, DISTRICT].into_iter().find(|column| *column == only)?;
        (visited.is_ok() && is_all_plain).then_some(Self::Name { column, expression })
    }

    /// Whether the scan lets through exactly the rows for which it holds: it cannot look for rows without a district.
    fn is_exact(&self, districts: &Districts) -> bool {
        match self {
            Self::Name { column: DISTRICT, expression } => {
                let names = districts.iter().map(|(_index, district)| Some(district.id.as_str())).chain([None]);
                held(DISTRICT, expression, names).is_ok_and(|held| held.last() == Some(&false))
            }
            Self::Name { .. } | Self::Time(_) | Self::Trusted => true,
        }
    }
}

/// For which of some names an expression holds.
fn held<'a>(column: &str, expression: &Expr, names: impl Iterator<Item = Option<&'a str>>) -> Result<Vec<bool>, DataFusionError> {
    let schema = Schema::new(vec![Field::new(column, DataType::Utf8View, true)]);
    let named = DFSchema::try_from(schema.clone())?;
    let expression = create_physical_expr(expression, &named, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
    let names: ArrayRef = Arc::new(names.collect::<StringViewArray>());
    let count = names.len();
    let held = expression.evaluate(&RecordBatch::try_new(Arc::new(schema), vec![names])?)?.into_array(count)?;
    let held = held.as_any().downcast_ref::<BooleanArray>().ok_or_else(|| DataFusionError::Plan("a condition is no truth".to_owned()))?;
    Ok(held.iter().map(|held| held == Some(true)).collect())
}

const MICROS_OF_DAY: i64 = 86_400_000_000;

/// The times for which an expression holds, where it says nothing else: from, and to without it.
fn times(expression: &Expr) -> Option<Range<i64>> {
    match expression {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            let (one, other) = (times(left)?, times(right)?);
            Some(one.start.max(other.start)..one.end.min(other.end))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (grain(left), right.as_ref(), grain(right), left.as_ref()) {
            (Some(grain), Expr::Literal(value, _), ..) => compare(grain, *op, value),
            (_, _, Some(grain), Expr::Literal(value, _)) => compare(grain, op.swap()?, value),
            _ => None,
        },
        Expr::Between(between) if !between.negated => match (grain(&between.expr)?, between.low.as_ref(), between.high.as_ref()) {
            (grain, Expr::Literal(low, _), Expr::Literal(high, _)) => {
                Some(compare(grain, Operator::GtEq, low)?.start..compare(grain, Operator::LtEq, high)?.end)
            }
            _ => None,
        },
        _ => None,
    }
}

/// What the column of times is compared as.
#[derive(Clone, Copy)]
enum Grain {
    /// An instant, or a finer one.
    Instant,
    /// The day of it, UTC.
    Day,
}

fn grain(expression: &Expr) -> Option<Grain> {
    let is_time = |expression: &Expr| matches!(expression, Expr::Column(column) if column.name == TIME);
    match expression {
        Expr::Cast(cast) if is_time(&cast.expr) => match cast.field.data_type() {
            DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, _) => Some(Grain::Instant),
            DataType::Date32 => Some(Grain::Day),
            _ => None,
        },
        _ => is_time(expression).then_some(Grain::Instant),
    }
}

fn compare(grain: Grain, operator: Operator, value: &ScalarValue) -> Option<Range<i64>> {
    // The first microsecond that is not before the value, and the first after it.
    let (first, after) = match (grain, value) {
        (Grain::Day, ScalarValue::Date32(Some(day))) => {
            let start = i64::from(*day).checked_mul(MICROS_OF_DAY)?;
            (start, start.checked_add(MICROS_OF_DAY)?)
        }
        (Grain::Instant, ScalarValue::TimestampSecond(Some(seconds), _)) => exactly(seconds.checked_mul(1_000_000)?),
        (Grain::Instant, ScalarValue::TimestampMillisecond(Some(millis), _)) => exactly(millis.checked_mul(1_000)?),
        (Grain::Instant, ScalarValue::TimestampMicrosecond(Some(micros), _)) => exactly(*micros),
        (Grain::Instant, ScalarValue::TimestampNanosecond(Some(nanos), _)) => {
            let below = nanos.div_euclid(1_000);
            (below + i64::from(nanos.rem_euclid(1_000) != 0), below + 1)
        }
        _ => return None,
    };
    match operator {
        Operator::GtEq => Some(first..i64::MAX),
        Operator::Gt => Some(after..i64::MAX),
        Operator::Lt => Some(i64::MIN..first),
        Operator::LtEq => Some(i64::MIN..after),
        Operator::Eq => Some(first..after),
        _ => None,
    }
}

fn exactly(micros: i64) -> (i64, i64) {
    (micros, micros.saturating_add(1))
}

/// What is asked of the lake; `None` where nothing can be found.
fn selection(filters: &[Expr], sources: &Sources) -> Result<Option<Selection>, DataFusionError> {
    let (mut from, mut to) = (i64::MIN, i64::MAX);
    let mut trusted = false;
    let (mut properties, mut devices, mut districts) = (Names::default(), Names::default(), Names::default());
    for filter in filters {
        match Condition::of(filter) {
            Some(Condition::Time(times)) => (from, to) = (from.max(times.start), to.min(times.end)),
            Some(Condition::Trusted) => trusted = true,
            Some(Condition::Name { column: PROPERTY, expression }) => {
                let names = sources.catalogue.iter().map(|(_index, property)| Some(property.id.as_str()));
                properties.narrow(held(PROPERTY, &expression, names)?);
            }
            Some(Condition::Name { column: DISTRICT, expression }) => {
                let names = sources.districts.iter().map(|(_index, district)| Some(district.id.as_str()));
                districts.narrow(held(DISTRICT, &expression, names)?);
            }
            Some(Condition::Name { expression, .. }) => {
                let names: Vec<_> = sources.live.read().devices.iter().map(|device| device.id.clone()).collect();
                devices.narrow(held(DEVICE, &expression, names.iter().map(|name| Some(name.as_str())))?);
            }
            None => return Err(DataFusionError::Plan(format!("the condition {filter} was not to be pushed down"))),
        }
    }
    if from >= to || [&properties, &devices, &districts].into_iter().any(Names::is_none) {
        return Ok(None);
    }
    let of = |names: &Names| names.0.as_ref().map(|held| (0u32..).zip(held).filter_map(|(index, held)| held.then_some(index)));
    let short = |index: u32| u16::try_from(index).expect("as many as 16 bits number");
    Ok(Some(Selection {
        properties: of(&properties).into_iter().flatten().map(|index| PropertyIndex(short(index))).collect(),
        from: Timestamp::from_micros_clamped(from),
        to: Timestamp::from_micros_clamped(to),
        devices: of(&devices).map(|devices| devices.map(DeviceIndex).collect()),
        districts: of(&districts).into_iter().flatten().map(|index| crate::model::DistrictIndex(short(index))).collect(),
        area: None,
        trusted,
    }))
}

/// Which names of a list are wanted; all where nothing was asked.
#[derive(Default)]
struct Names(Option<Vec<bool>>);

impl Names {
    fn narrow(&mut self, held: Vec<bool>) {
        match &mut self.0 {
            None => self.0 = Some(held),
            // A device that was first heard in between is of no snapshot that is looked at.
            Some(names) => names.iter_mut().zip(held.into_iter().chain(std::iter::repeat(false))).for_each(|(name, held)| *name &= held),
        }
    }

    fn is_none(&self) -> bool {
        self.0.as_ref().is_some_and(|names| !names.contains(&true))
    }
}

/// A scan of the lake.
struct Scan {
    sources: Arc<Sources>,
    snapshot: Arc<Snapshot>,
    selection: Option<Selection>,
    detail: Detail,
    limit: Option<usize>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl fmt::Debug for Scan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Scan").field("selection", &self.selection).field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl DisplayAs for Scan {
    fn fmt_as(&self, _kind: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "LakeScan: ")?;
        let Some(selection) = &self.selection else { return write!(formatter, "nothing") };
        let columns: Vec<&str> = self.properties.equivalence_properties().schema().fields().iter().map(|field| field.name().as_str()).collect();
        write!(formatter, "columns=[{}]", columns.join(", "))?;
        if !selection.properties.is_empty() {
            let names: Vec<&str> =
                selection.properties.iter().take(8).map(|property| self.sources.catalogue.get(*property).id.as_str()).collect();
            write!(formatter, ", {} properties=[{}]", selection.properties.len(), names.join(", "))?;
        }
        if let Some(devices) = &selection.devices {
            write!(formatter, ", {} devices", devices.len())?;
        }
        if !selection.districts.is_empty() {
            write!(formatter, ", {} districts", selection.districts.len())?;
        }
        if selection.from > Timestamp::MIN || selection.to < Timestamp::MAX {
            write!(formatter, ", time=[{}, {})", selection.from, selection.to)?;
        }
        if selection.trusted {
            write!(formatter, ", trusted")?;
        }
        self.limit.map_or(Ok(()), |limit| write!(formatter, ", limit={limit}"))
    }
}

impl ExecutionPlan for Scan {
    fn name(&self) -> &'static str {
        "LakeScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion, DataFusionError>,
    ) -> Result<TreeNodeRecursion, DataFusionError> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        Ok(self)
    }

    fn fetch(&self) -> Option<usize> {
        self.limit
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(&self, partition: usize, _context: Arc<TaskContext>) -> Result<SendableRecordBatchStream, DataFusionError> {
        let schema = Arc::clone(self.properties.equivalence_properties().schema());
        let chunks = match &self.selection {
            None => futures::stream::empty().boxed(),
            Some(selection) => {
                let snapshot = Snapshot::clone(&self.snapshot);
                self.sources.lake.scan_at(snapshot, selection.clone(), Order::Any, self.detail).map_err(external)?
            }
        };
        let columns = Columns {
            schema: Arc::clone(&schema),
            live: Arc::clone(&self.sources.live),
            catalogue: Arc::clone(&self.sources.catalogue),
            districts: Arc::clone(&self.sources.districts),
        };
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let mut left = self.limit.unwrap_or(usize::MAX);
        let batches = chunks.map(move |chunk| {
            let batch = columns.batch(&chunk.map_err(external)?)?.record_output(&metrics);
            let batch = batch.slice(0, batch.num_rows().min(left));
            left -= batch.num_rows();
            Ok((batch, left))
        });
        // Nothing more is read once there are enough.
        let batches = batches.scan(false, |is_over, batch| {
            let was_over = std::mem::replace(is_over, batch.as_ref().is_ok_and(|(_batch, left)| *left == 0));
            std::future::ready((!was_over).then(|| batch.map(|(batch, _left)| batch)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }
}

fn external(error: crate::store::LakeError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Makes the columns that are wanted.
struct Columns {
    schema: SchemaRef,
    live: Arc<Live>,
    catalogue: Arc<Catalogue>,
    districts: Arc<Districts>,
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
            PROPERTY => names(&chunk.property, |index| Some(self.catalogue.get(PropertyIndex(index)).id.clone()))?,
            DEVICE => {
                let live = self.live.read();
                names(&chunk.device, |index| Some(live.device(DeviceIndex(index)).id.to_string()))?
            }
            TIME => Arc::new(TimestampMicrosecondArray::from(chunk.time.clone()).with_timezone("UTC")),
            "value" => Arc::new(Float64Array::from(chunk.value.clone())),
            TRUSTED => Arc::new(chunk.flags.iter().map(|flags| Some(Flags::from_bits_retain(*flags).is_trusted())).collect::<BooleanArray>()),
            "flags" => names(&chunk.flags, |flags| Some(Flags::from_bits_retain(flags).names().join(" ")))?,
            DISTRICT => names(&chunk.district, |index| {
                (index != NO_DISTRICT).then(|| self.districts.get(crate::model::DistrictIndex(index)).id.clone())
            })?,
            "longitude" => position(Position::longitude),
            "latitude" => position(Position::latitude),
            "original_value" => {
                Arc::new(chunk.original.iter().map(|original| original.as_ref().map(|original| original.value)).collect::<Float64Array>())
            }
            "original_unit" => {
                Arc::new(chunk.original.iter().map(|original| original.as_ref().map(|original| &original.unit)).collect::<StringViewArray>())
            }
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
