//! Reads the table's files for a question: DataFusion's Parquet source without its planner, since what there is to plan is known.
//!
//! - A file is read where its day is in question; of it, row groups and pages whose statistics may hold a wanted property, device
//!   and time. Rows are sorted by these, so that what is decoded is little more than what is wanted.
//! - A day that is wanted as a whole is read without looking at times.
//! - Only columns that somebody looks at are decoded. Footers stay in memory, as files never change.

use std::collections::BTreeSet;
use std::sync::Arc;

use deltalake::DeltaTable;
use deltalake::arrow::array::RecordBatch;
use deltalake::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use deltalake::datafusion::common::{Column, DFSchema, ScalarValue};
use deltalake::datafusion::datasource::listing::PartitionedFile;
use deltalake::datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use deltalake::datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use deltalake::datafusion::datasource::source::DataSourceExec;
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::execution::context::ExecutionProps;
use deltalake::datafusion::execution::object_store::ObjectStoreUrl;
use deltalake::datafusion::execution::runtime_env::RuntimeEnv;
use deltalake::datafusion::execution::{SendableRecordBatchStream, TaskContext};
use deltalake::datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use deltalake::datafusion::logical_expr::{Expr, col, lit};
use deltalake::datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr, create_physical_expr, expressions};
use deltalake::datafusion::physical_plan::common::spawn_buffered;
use deltalake::datafusion::physical_plan::filter::FilterExecBuilder;
use deltalake::datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use deltalake::datafusion::physical_plan::union::UnionExec;
use deltalake::datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::future::ready;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};

use super::table::{
    DATE, DEVICE, DISTRICT, FLAGS, LATITUDE, LONGITUDE, ORIGINAL_UNIT, ORIGINAL_VALUE, PROPERTY, TIME, VALUE, arrow_schema, date_of,
};
use super::{Lake, LakeError};
use crate::store::selection::{Detail, Order, Selection};

/// Longest list of devices that every row is held against while it is decoded; a longer one narrows down pages only.
pub(super) const DEVICES_IN_FILTER: usize = 1_000;

/// Batches that a day in the making may be ahead of whoever takes them.
const BATCHES_AHEAD: usize = 16;

/// Days that are read at once where their order matters.
const DAYS_AHEAD: usize = 2;

/// A file of a version.
#[derive(Clone, Debug)]
pub(super) struct DayFile {
    day: i32,
    path: String,
    bytes: u64,
}

impl DayFile {
    /// Of a day, in microseconds.
    pub(super) const LENGTH: i64 = DAY;

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Where its day begins, in microseconds.
    pub(super) fn start(&self) -> i64 {
        i64::from(self.day) * DAY
    }
}

/// The files of a version, by day.
pub(super) fn day_files(table: &DeltaTable) -> Result<Vec<DayFile>, LakeError> {
    let epoch = jiff::civil::date(1970, 1, 1);
    let unknown = |path: &str| super::scan::unknown("day of a file", path);
    let mut files = Vec::new();
    for view in table.snapshot()?.log_data() {
        let path = view.object_store_path().to_string();
        if view.deletion_vector_descriptor().is_some() {
            return Err(super::scan::unknown("deletion vector", &path));
        }
        let date = view.partition_values_map().remove(DATE).flatten().ok_or_else(|| unknown(&path))?;
        let date: jiff::civil::Date = date.parse().map_err(|_invalid| unknown(&path))?;
        let day = date.since(epoch).map_err(|_overflow| unknown(&path))?.get_days();
        files.push(DayFile { day, path, bytes: u64::try_from(view.size()).unwrap_or(0) });
    }
    files.sort_unstable_by(|one, other| (one.day, &one.path).cmp(&(other.day, &other.path)));
    Ok(files)
}

/// Whether questions look at a day as a whole, or at a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Partial,
}

impl Lake {
    /// The table's rows that a question may be about, as batches: none is missing, but some may be too many. With
    /// [`Order::SeriesTime`], day by day, and in each by property, device and time.
    pub(super) fn read_table(
        &self,
        files: &[DayFile],
        selection: &Selection,
        order: Order,
        detail: Detail,
    ) -> Result<BoxStream<'static, Result<RecordBatch, LakeError>>, LakeError> {
        let (from, to) = (selection.from.micros(), selection.to.micros());
        if from >= to {
            return Ok(stream::empty().boxed());
        }
        let start = files.partition_point(|file| file.day < date_of(from));
        let end = files.partition_point(|file| file.day <= date_of(to - 1));
        let days: Vec<&[DayFile]> = by_day(files.get(start..end).unwrap_or_default()).collect();
        let columns = columns(selection, detail);
        let scan = FileScan::new(&self.runtime, &self.store_url, self.identity_filter(selection), (from, to), &columns)?;
        match order {
            Order::Any => {
                let mut plans = Vec::new();
                for wanted in [Part::Whole, Part::Partial] {
                    let files = days.iter().filter(|day| scan.part(day) == wanted).copied().flatten();
                    let files: Vec<(&str, u64)> = files.map(|file| (file.path.as_str(), file.bytes)).collect();
                    if !files.is_empty() {
                        plans.push(scan.plan(wanted, balance(&files, self.cores), order));
                    }
                }
                if plans.is_empty() {
                    return Ok(stream::empty().boxed());
                }
                Ok(scan.execute(UnionExec::try_new(plans)?)?.map_err(LakeError::from).boxed())
            }
            Order::SeriesTime => {
                let mut plans = Vec::with_capacity(days.len());
                for day in days {
                    plans.push(scan.sorted(day));
                }
                let batches = stream::iter(plans)
                    .map(move |plan| ready(scan.execute(plan).map(|stream| spawn_buffered(stream, BATCHES_AHEAD))))
                    .buffered(DAYS_AHEAD)
                    .map_err(LakeError::from)
                    .map_ok(|batches| batches.map_err(LakeError::from))
                    .try_flatten();
                Ok(batches.boxed())
            }
        }
    }
}

const DAY: i64 = 86_400_000_000;

/// Files of one day after those of another.
pub(super) fn by_day(files: &[DayFile]) -> impl Iterator<Item = &[DayFile]> {
    files.chunk_by(|one, other| one.day == other.day)
}

/// Files in as many groups of about the same size as can be read at once.
pub(super) fn balance(files: &[(&str, u64)], groups: usize) -> Vec<FileGroup> {
    let mut by_size = files.to_vec();
    by_size.sort_by_key(|(_path, bytes)| std::cmp::Reverse(*bytes));
    let mut groups: Vec<(u64, Vec<PartitionedFile>)> = vec![(0, Vec::new()); groups.clamp(1, files.len())];
    for (path, size) in by_size {
        if let Some((bytes, group)) = groups.iter_mut().min_by_key(|(bytes, _group)| *bytes) {
            *bytes += size.max(1);
            group.push(PartitionedFile::new(path, size));
        }
    }
    groups.into_iter().map(|(_bytes, group)| FileGroup::new(group)).collect()
}

/// A source of Parquet files whose rows are held against a filter while they are decoded. Footers stay in memory.
pub(super) fn parquet_source(
    runtime: &RuntimeEnv,
    url: &ObjectStoreUrl,
    schema: &SchemaRef,
    filter: Option<&Expr>,
) -> Result<ParquetSource, LakeError> {
    let (store, cache) = (runtime.object_store(url)?, runtime.cache_manager.get_file_metadata_cache());
    let source = ParquetSource::new(Arc::clone(schema))
        .with_parquet_file_reader_factory(Arc::new(CachedParquetFileReaderFactory::new(store, cache)))
        .with_pushdown_filters(true)
        .with_enable_page_index(true);
    Ok(match filter {
        Some(filter) => source.with_predicate(physical(filter, schema)?),
        None => source,
    })
}

/// An expression over the columns of a schema.
fn physical(filter: &Expr, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>, LakeError> {
    let named = DFSchema::try_from(schema.clone())?;
    Ok(create_physical_expr(filter, &named, &ExecutionProps::new(), &PhysicalPlanningContext::default())?)
}

/// Reads some columns of groups of files, the groups beside each other.
pub(super) fn parquet_plan(
    url: &ObjectStoreUrl,
    source: ParquetSource,
    groups: Vec<FileGroup>,
    projection: Vec<usize>,
    order: Order,
) -> Arc<dyn ExecutionPlan> {
    let config = FileScanConfigBuilder::new(url.clone(), Arc::new(source))
        .with_file_groups(groups)
        // Else a group that is done helps with the files of others.
        .with_preserve_order(order == Order::SeriesTime)
        .with_projection_indices(Some(projection))
        .expect("a Parquet source takes any projection of columns")
        .build();
    DataSourceExec::from_data_source(config)
}

/// Reads some columns of the rows that pass a filter. Statistics say in which row groups and pages those may be; rows are held against the
/// filter once they are decoded, all columns in one go. While they are decoded, each part of the filter would read its file once more,
/// which costs more than it spares where nearly all rows of the pages pass, or the pages are few.
pub(super) fn filtered_plan(
    runtime: &RuntimeEnv,
    url: &ObjectStoreUrl,
    schema: &SchemaRef,
    filter: &Expr,
    groups: Vec<FileGroup>,
    columns: &[&str],
    order: Order,
) -> Result<Arc<dyn ExecutionPlan>, LakeError> {
    let source = parquet_source(runtime, url, schema, Some(filter))?.with_pushdown_filters(false);
    let looked_at: BTreeSet<&str> = filter.column_refs().into_iter().map(Column::name).collect();
    let read = columns.iter().copied().chain(looked_at.into_iter().filter(|column| !columns.contains(column)));
    let projection = read.map(|column| schema.index_of(column)).collect::<Result<_, _>>().map_err(DataFusionError::from)?;
    let scan = parquet_plan(url, source, groups, projection, order);
    let filter = FilterExecBuilder::new(physical(filter, &scan.schema())?, scan);
    Ok(Arc::new(filter.apply_projection(Some((0..columns.len()).collect()))?.build()?))
}

/// How the files of one question are read.
pub(super) struct FileScan {
    /// The times in question, half-open.
    times: (i64, i64),
    context: Arc<TaskContext>,
    url: ObjectStoreUrl,
    /// Without and with a look at times.
    whole: ParquetSource,
    partial: ParquetSource,
    projection: Vec<usize>,
    /// What rows of a file are sorted by, of the columns that are read.
    order: LexOrdering,
}

impl FileScan {
    /// Of what an identity filter lets through, columns in the order in which rows are sorted.
    pub(super) fn new(
        runtime: &Arc<RuntimeEnv>,
        url: &ObjectStoreUrl,
        identity: Option<Expr>,
        times: (i64, i64),
        columns: &[&str],
    ) -> Result<Self, LakeError> {
        let schema = file_schema();
        let with = |filter: Option<Expr>| parquet_source(runtime, url, &schema, filter.as_ref());
        let within = col(TIME).gt_eq(instant(times.0)).and(col(TIME).lt(instant(times.1)));
        let projection = columns.iter().map(|column| schema.index_of(column)).collect::<Result<_, _>>().map_err(DataFusionError::from)?;
        let mut order = Vec::new();
        for (index, column) in columns.iter().enumerate().filter(|(_index, column)| [PROPERTY, DEVICE, TIME].contains(column)) {
            order.push(PhysicalSortExpr::new_default(Arc::new(expressions::Column::new(column, index))).asc().nulls_last());
        }
        Ok(Self {
            times,
            context: Arc::new(TaskContext::default().with_runtime(Arc::clone(runtime))),
            url: url.clone(),
            whole: with(identity.clone())?,
            partial: with(Some(identity.map_or(within.clone(), |identity| identity.and(within))))?,
            projection,
            order: LexOrdering::new(order).expect("time is among the columns"),
        })
    }

    fn part(&self, day: &[DayFile]) -> Part {
        let (start, (from, to)) = (day.first().map_or(0, DayFile::start), self.times);
        if from <= start && start + DAY <= to { Part::Whole } else { Part::Partial }
    }

    fn plan(&self, part: Part, groups: Vec<FileGroup>, order: Order) -> Arc<dyn ExecutionPlan> {
        let source = match part {
            Part::Whole => self.whole.clone(),
            Part::Partial => self.partial.clone(),
        };
        parquet_plan(&self.url, source, groups, self.projection.clone(), order)
    }

    /// One day: its files are sorted, and there are few.
    pub(super) fn sorted(&self, day: &[DayFile]) -> Arc<dyn ExecutionPlan> {
        let groups = day.iter().map(|file| FileGroup::new(vec![PartitionedFile::new(file.path.as_str(), file.bytes)])).collect();
        Arc::new(SortPreservingMergeExec::new(self.order.clone(), self.plan(self.part(day), groups, Order::SeriesTime)))
    }

    pub(super) fn execute(&self, plan: Arc<dyn ExecutionPlan>) -> Result<SendableRecordBatchStream, DataFusionError> {
        execute_stream(plan, Arc::clone(&self.context))
    }
}

/// The columns that files have, as they are read: texts as views.
fn file_schema() -> SchemaRef {
    let written = arrow_schema();
    let fields = written.fields().iter().filter(|field| field.name() != DATE).map(|field| match field.data_type() {
        DataType::Utf8 => Arc::new(Field::new(field.name(), DataType::Utf8View, field.is_nullable())),
        _ => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The columns that a question looks at, those that rows are sorted by first.
fn columns(selection: &Selection, detail: Detail) -> Vec<&'static str> {
    let mut columns = Vec::new();
    if selection.properties.len() != 1 {
        columns.push(PROPERTY);
    }
    columns.extend([DEVICE, TIME, VALUE, FLAGS]);
    if detail != Detail::Values || !selection.districts.is_empty() {
        columns.push(DISTRICT);
    }
    if detail == Detail::All || selection.area.is_some() {
        columns.extend([LONGITUDE, LATITUDE]);
    }
    if detail == Detail::All {
        columns.extend([ORIGINAL_VALUE, ORIGINAL_UNIT]);
    }
    columns
}

impl Lake {
    /// What is asked of property and device; times aside.
    pub(super) fn identity_filter(&self, selection: &Selection) -> Option<Expr> {
        let mut filters = Vec::new();
        if !selection.properties.is_empty() {
            let ids: Vec<String> = selection.properties.iter().map(|property| self.catalogue.get(*property).id.clone()).collect();
            filters.push(one_of(PROPERTY, &ids));
        }
        if let Some(devices) = &selection.devices {
            let live = self.database.live().read();
            let mut names: Vec<String> = devices.iter().map(|device| live.device(*device).id.to_string()).collect();
            drop(live);
            names.sort_unstable();
            if let (Some(first), Some(last), true) = (names.first(), names.last(), names.len() > 1) {
                // Statistics of pages are not held against long lists.
                filters.push(col(DEVICE).gt_eq(text(first)).and(col(DEVICE).lt_eq(text(last))));
            }
            if names.len() <= DEVICES_IN_FILTER {
                filters.push(one_of(DEVICE, &names));
            }
        }
        filters.into_iter().reduce(Expr::and)
    }
}

pub(super) fn instant(micros: i64) -> Expr {
    lit(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())))
}

fn text(value: &str) -> Expr {
    lit(ScalarValue::Utf8View(Some(value.to_owned())))
}

pub(super) fn one_of(column: &str, values: &[String]) -> Expr {
    match values {
        [only] => col(column).eq(text(only)),
        _ => col(column).in_list(values.iter().map(|value| text(value)).collect(), false),
    }
}
