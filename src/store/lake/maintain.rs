//! What keeps the table quick and small: compaction, vacuum.

use std::time::Duration;

use deltalake::DeltaTable;
use deltalake::arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int16Array, RecordBatch, StringViewArray, TimestampMicrosecondArray,
};
use deltalake::arrow::compute::cast;
use deltalake::arrow::datatypes::{DataType, Float64Type, Int16Type, TimestampMicrosecondType};
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::logical_expr::{Expr, col};
use deltalake::kernel::{Add, Remove};
use deltalake::operations::vacuum::VacuumMode;
use deltalake::writer::DeltaWriter;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use super::scan::unknown;
use super::table::{
    BatchBuilder, Change, DEVICE, DISTRICT, FLAGS, LATITUDE, LONGITUDE, ORIGINAL_UNIT, ORIGINAL_VALUE, PROPERTY, TIME, TableRow, VALUE,
    commit, date_of, file_writer, partition_of,
};
use super::{Lake, LakeError};
use crate::model::{Original, Position, Timestamp};
use crate::state::Place;

/// zstd level of compacted files: written once, read for years.
pub(super) const COMPACT_LEVEL: i32 = 6;

/// When files of one day are put together.
#[derive(Clone, Copy, Debug)]
pub struct Maintenance {
    /// While its day goes on: files with fewer rows than this are small.
    pub open_rows: u64,
    /// While its day goes on: so many small files are put together.
    pub open_files: usize,
    /// Once its day is over: files with fewer rows than this are put together, two are enough.
    pub closed_rows: u64,
    /// Rows that one compaction takes at most.
    pub rows_max: u64,
}

impl Default for Maintenance {
    fn default() -> Self {
        Self { open_rows: 250_000, open_files: 12, closed_rows: 2_000_000, rows_max: 4_000_000 }
    }
}

/// A file of the newest version.
#[derive(Clone, Debug)]
pub(super) struct FileInfo {
    pub(super) add: Add,
    remove: Remove,
    pub(super) date: String,
    pub(super) rows: u64,
}

impl FileInfo {
    /// Whether a scan's file column means this file: a name, a path or an address that ends with the path.
    pub(super) fn is_named(&self, name: &str) -> bool {
        let decoded = name.replace("%3D", "=");
        decoded == self.add.path || decoded.ends_with(&format!("/{}", self.add.path))
    }

    /// The action that takes it out of the table.
    pub(super) fn remove(&self, rows_change: RowsChange) -> Remove {
        Remove { data_change: rows_change, ..self.remove.clone() }
    }
}

/// Whether the rows differ afterwards, as Delta's `dataChange` says it.
pub(super) type RowsChange = bool;

impl Lake {
    /// Puts small files of one day together, sorted: of the first day after `after` that needs it. Returns that day: who goes on after it
    /// comes to every day once, whatever is flushed meanwhile.
    pub async fn compact(&self, settings: &Maintenance, now: Timestamp, after: Option<&str>) -> Result<Option<String>, LakeError> {
        let table = self.published()?.table;
        let Some((day, group)) = choose(files(&table)?, settings, now, after) else { return Ok(None) };
        // Written beside flushes; only the commit needs the table for itself.
        let chosen: Vec<&FileInfo> = group.iter().collect();
        let batches = self.read_files(&table, &chosen).await?;
        let adds = self.write_stream(&table, COMPACT_LEVEL, batches).await?;
        let mut writer = self.writer().await?;
        let newest = self.published()?.table;
        let current = files(&newest)?;
        if !group.iter().all(|file| current.iter().any(|other| other.add.path == file.add.path)) {
            // A correction rewrote one of them meanwhile: what was written is left for the vacuum.
            return Ok(Some(day));
        }
        let removes = group.iter().map(|file| file.remove(false)).collect();
        self.change(&mut writer, commit(&newest, Change { adds, removes, rearranged: true, ..Change::default() })).await?;
        Ok(Some(day))
    }

    pub(super) async fn vacuum_files(&self, unused: Duration) -> Result<usize, LakeError> {
        let mut writer = self.writer().await?;
        let table = DeltaTable::clone(&self.published()?.table);
        let retention = chrono::Duration::from_std(unused).unwrap_or(chrono::Duration::MAX);
        let mut deleted = 0;
        let vacuum = async {
            // What no version ever used too: a compaction that lost against a correction leaves such files, and a crash. Nobody is writing
            // one: flush and merge need the writer's right, which is held here, and compaction and retention take turns with vacuum.
            let vacuum = table.vacuum().with_mode(VacuumMode::Full).with_retention_period(retention);
            let (table, metrics) = vacuum.with_enforce_retention_duration(false).await?;
            deleted = metrics.files_deleted.len();
            Ok(table)
        };
        self.change(&mut writer, vacuum).await?;
        Ok(deleted)
    }

    /// The rows of some files of one day, sorted as files are.
    pub(super) async fn read_files(
        &self,
        table: &DeltaTable,
        files: &[&FileInfo],
    ) -> Result<BoxStream<'static, Result<RecordBatch, LakeError>>, LakeError> {
        self.read_files_where(table, files, None).await
    }

    /// [`Lake::read_files`], of which a filter lets a part through.
    pub(super) async fn read_files_where(
        &self,
        table: &DeltaTable,
        files: &[&FileInfo],
        filter: Option<Expr>,
    ) -> Result<BoxStream<'static, Result<RecordBatch, LakeError>>, LakeError> {
        let session = self.session();
        table.update_datafusion_session(&session.state())?;
        let provider = table.table_provider().with_adds(files.iter().map(|file| file.add.clone())).await?;
        let order = [PROPERTY, DEVICE, TIME].map(|column| col(column).sort(true, false)).to_vec();
        let mut frame = session.read_table(provider)?;
        if let Some(filter) = filter {
            frame = frame.filter(filter)?;
        }
        Ok(frame.sort(order)?.execute_stream().await?.map_err(LakeError::from).boxed())
    }

    /// Writes sorted batches as they come.
    pub(super) async fn write_stream(
        &self,
        table: &DeltaTable,
        level: i32,
        mut batches: BoxStream<'_, Result<RecordBatch, LakeError>>,
    ) -> Result<Vec<Add>, LakeError> {
        let mut writer = file_writer(table, level)?;
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            let rows = TableRows::of(&batch)?;
            let mut builder = BatchBuilder::with_capacity(batch.num_rows());
            for row in 0..batch.num_rows() {
                rows.copy(row, &mut builder);
            }
            writer.write(builder.finish()).await?;
        }
        Ok(writer.flush().await?)
    }
}

/// All files of a version.
pub(super) fn files(table: &DeltaTable) -> Result<Vec<FileInfo>, LakeError> {
    let snapshot = table.snapshot()?;
    let files = snapshot.log_data().into_iter().map(|view| {
        #[expect(deprecated, reason = "a table provider over some files takes nothing else")]
        let add = view.add_action();
        let date = partition_of(&add.partition_values).unwrap_or_default();
        FileInfo { remove: view.remove_action(true), rows: view.num_records().unwrap_or(0) as u64, add, date }
    });
    Ok(files.collect())
}

/// The files of one day to put together, if any are due.
fn choose(files: Vec<FileInfo>, settings: &Maintenance, now: Timestamp, after: Option<&str>) -> Option<(String, Vec<FileInfo>)> {
    let mut days: std::collections::BTreeMap<String, Vec<FileInfo>> = std::collections::BTreeMap::new();
    for file in files.into_iter().filter(|file| after.is_none_or(|after| *file.date > *after)) {
        days.entry(file.date.clone()).or_default().push(file);
    }
    // A day is over an hour after its end: stragglers need not be compacted twice.
    let today = date_text(date_of(now.minus(Duration::from_hours(1)).micros()));
    for (date, mut day) in days {
        let is_over = date < today;
        let (small, enough) = if is_over { (settings.closed_rows, 2) } else { (settings.open_rows, settings.open_files) };
        day.retain(|file| file.rows < small);
        day.sort_by_key(|file| file.rows);
        let mut rows = 0;
        let group: Vec<FileInfo> = day
            .into_iter()
            .take_while(|file| {
                rows += file.rows;
                rows <= settings.rows_max
            })
            .collect();
        if group.len() >= enough {
            return Some((date, group));
        }
    }
    None
}

/// The text of a partition's day, as Delta writes it.
pub(super) fn date_text(day: i32) -> String {
    let epoch = jiff::civil::date(1970, 1, 1);
    epoch.checked_add(jiff::Span::new().days(day)).expect("days between 1900 and 2200 exist").to_string()
}

/// The columns of a batch that was read from the table.
pub(super) struct TableRows {
    property: StringViewArray,
    device: StringViewArray,
    time: TimestampMicrosecondArray,
    value: Float64Array,
    flags: Int16Array,
    district: StringViewArray,
    longitude: Float64Array,
    latitude: Float64Array,
    original_value: Float64Array,
    original_unit: StringViewArray,
}

impl TableRows {
    pub(super) fn of(batch: &RecordBatch) -> Result<Self, LakeError> {
        let column = |name: &'static str| batch.column_by_name(name).ok_or_else(|| unknown("column", name));
        let text = |name: &'static str| Ok::<_, LakeError>(texts(column(name)?)?.as_string_view().clone());
        let number =
            |name: &'static str| column(name)?.as_primitive_opt::<Float64Type>().cloned().ok_or_else(|| unknown("column type", name));
        Ok(Self {
            property: text(PROPERTY)?,
            device: text(DEVICE)?,
            time: column(TIME)?.as_primitive_opt::<TimestampMicrosecondType>().cloned().ok_or_else(|| unknown("column type", TIME))?,
            value: number(VALUE)?,
            flags: column(FLAGS)?.as_primitive_opt::<Int16Type>().cloned().ok_or_else(|| unknown("column type", FLAGS))?,
            district: text(DISTRICT)?,
            longitude: number(LONGITUDE)?,
            latitude: number(LATITUDE)?,
            original_value: number(ORIGINAL_VALUE)?,
            original_unit: text(ORIGINAL_UNIT)?,
        })
    }

    /// Property, device and time of a row.
    pub(super) fn identity(&self, row: usize) -> (&str, &str, i64) {
        (self.property.value(row), self.device.value(row), self.time.value(row))
    }

    /// Copies a row.
    pub(super) fn copy(&self, row: usize, to: &mut BatchBuilder) {
        let position = (self.longitude.is_valid(row) && self.latitude.is_valid(row))
            .then(|| Position::new(self.longitude.value(row), self.latitude.value(row)).ok())
            .flatten();
        let original = (self.original_value.is_valid(row) && self.original_unit.is_valid(row))
            .then(|| Original { value: self.original_value.value(row), unit: self.original_unit.value(row).to_owned() });
        to.push(&TableRow {
            property: self.property.value(row),
            device: self.device.value(row),
            time: self.time.value(row),
            value: self.value.value(row),
            flags: u16::from_le_bytes(self.flags.value(row).to_le_bytes()),
            place: Place { position, district: None },
            district: self.district.is_valid(row).then(|| self.district.value(row)),
            original: original.as_ref(),
        });
    }
}

/// A column of texts as views. Where all rows of a scan have the same text, the planner puts it there as another type.
pub(super) fn texts(column: &ArrayRef) -> Result<ArrayRef, LakeError> {
    Ok(cast(column, &DataType::Utf8View).map_err(DataFusionError::from)?)
}
