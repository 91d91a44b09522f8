//! The table of rollups: its columns, how statistics become rows, and rows statistics.

use std::sync::Arc;

use deltalake::DeltaTable;
use deltalake::arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, Float64Builder, Int16Builder, Int32Builder, Int64Builder, RecordBatch,
    StringBuilder, TimestampMicrosecondBuilder,
};
use deltalake::arrow::compute::cast;
use deltalake::arrow::datatypes::{
    DataType as ArrowType, Date32Type, Field, Float64Type, Int16Type, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit,
    TimestampMicrosecondType,
};
use deltalake::datafusion::error::DataFusionError;
use deltalake::kernel::{DataType, PrimitiveType, StructField};
use deltalake::operations::update_table_metadata::TableMetadataUpdate;
use deltalake::parquet::basic::{Compression, Encoding, ZstdLevel};
use deltalake::parquet::file::properties::{EnabledStatistics, WriterProperties};
use deltalake::parquet::schema::types::ColumnPath;
use jiff::tz::TimeZone;

use super::TierFile;
use super::touched::day_number;
use crate::rollup::{Kept, Seen, Sketch, Statistic, Statistics, Tier};
use crate::store::lake::LakeError;
use crate::store::lake::scan::unknown;
use crate::store::lake::table::{Change, commit, local_folder, log_store};

/// What the name of its folder has more than that of the table of observations.
pub const ENDING: &str = "-rollup";

/// The partition: the tier's word, and the local day or, of days, the first of the month.
pub(super) const TIER: &str = "tier";
pub(super) const DATE: &str = "date";
pub(super) const PROPERTY: &str = "property";
pub(super) const DEVICE: &str = "device";
pub(super) const START: &str = "start";
pub(super) const DISTRICT: &str = "district";
pub(super) const TRUSTED: &str = "trusted";
pub(super) const REVISION: &str = "revision";

/// What rows of a file are sorted by.
pub(super) const ORDER: [&str; 5] = [PROPERTY, DEVICE, START, DISTRICT, TRUSTED];

/// Rows of a Parquet row group: few enough that one property of a day is found by itself.
const ROW_GROUP_ROWS: usize = 32_768;

/// zstd level: written a few times, read for years.
const LEVEL: i32 = 6;

/// Every column, those of the partition first: name, type, whether it may be null.
fn columns() -> Vec<(&'static str, PrimitiveType, bool)> {
    use PrimitiveType as Of;
    vec![
        (TIER, Of::String, false),
        (DATE, Of::Date, false),
        (PROPERTY, Of::String, false),
        (DEVICE, Of::String, false),
        (START, Of::Timestamp, false),
        ("end", Of::Timestamp, false),
        (DISTRICT, Of::String, true),
        (TRUSTED, Of::Boolean, false),
        ("count", Of::Long, false),
        ("flags", Of::Short, false),
        ("first_time", Of::Timestamp, false),
        ("first", Of::Double, false),
        ("last_time", Of::Timestamp, false),
        ("last", Of::Double, false),
        ("last_flags", Of::Short, false),
        ("min", Of::Double, true),
        ("max", Of::Double, true),
        ("sum", Of::Double, true),
        ("squares", Of::Double, true),
        ("sine", Of::Double, true),
        ("cosine", Of::Double, true),
        ("energy", Of::Double, true),
        ("increase", Of::Double, true),
        ("sketch", Of::Binary, true),
        (REVISION, Of::Integer, false),
    ]
}

fn arrow_type(kind: &PrimitiveType) -> ArrowType {
    match kind {
        PrimitiveType::String => ArrowType::Utf8,
        PrimitiveType::Date => ArrowType::Date32,
        PrimitiveType::Timestamp => ArrowType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        PrimitiveType::Boolean => ArrowType::Boolean,
        PrimitiveType::Long => ArrowType::Int64,
        PrimitiveType::Integer => ArrowType::Int32,
        PrimitiveType::Short => ArrowType::Int16,
        PrimitiveType::Binary => ArrowType::Binary,
        _ => ArrowType::Float64,
    }
}

/// The Arrow schema of the batches that are written.
pub(super) fn arrow_schema() -> SchemaRef {
    let fields = columns().into_iter().map(|(name, kind, nullable)| Field::new(name, arrow_type(&kind), nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The columns that files have, as they are read: texts as views.
pub(super) fn file_schema() -> SchemaRef {
    let written = arrow_schema();
    let fields = written.fields().iter().filter(|field| ![TIER, DATE].contains(&field.name().as_str()));
    let fields = fields.map(|field| match field.data_type() {
        ArrowType::Utf8 => Arc::new(Field::new(field.name(), ArrowType::Utf8View, field.is_nullable())),
        _ => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A batch that would be written, in the columns of [`file_schema`].
pub(super) fn as_read(batch: &RecordBatch) -> Result<RecordBatch, LakeError> {
    let schema = file_schema();
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let column = batch.column_by_name(field.name()).ok_or_else(|| unknown("column", field.name()))?;
        columns.push(cast(column, field.data_type()).map_err(DataFusionError::from)?);
    }
    Ok(RecordBatch::try_new(schema, columns).map_err(DataFusionError::from)?)
}

/// What the table says of itself: another calendar or layout is another table.
fn description(zone: &TimeZone) -> String {
    let zone = zone.iana_name().unwrap_or("a fixed offset");
    format!("Rollups of Conca's observations on the calendar of {zone}; layout 1")
}

/// The table of the rollups of the observations in `table`: beside it, and not loaded.
pub(super) fn beside(table: &DeltaTable) -> Result<DeltaTable, LakeError> {
    let mut url = table.table_url().clone();
    url.set_path(&format!("{}{ENDING}/", url.path().trim_end_matches('/')));
    if local_folder(table).is_some()
        && let Ok(folder) = url.to_file_path()
    {
        std::fs::create_dir_all(folder).map_err(LakeError::Sync)?;
    }
    Ok(DeltaTable::new(log_store(&url)?))
}

/// The table, if it is there and for this zone's calendar.
pub(super) async fn open(mut table: DeltaTable, zone: &TimeZone) -> Result<Option<DeltaTable>, LakeError> {
    if !table.verify_deltatable_existence().await? {
        return Ok(None);
    }
    table.load().await?;
    Ok(is_for(&table, zone)?.then_some(table))
}

/// Whether a table is for this zone's calendar.
pub(super) fn is_for(table: &DeltaTable, zone: &TimeZone) -> Result<bool, LakeError> {
    Ok(table.snapshot()?.metadata().description() == Some(description(zone).as_str()))
}

/// Makes it an empty table for this zone's calendar, whatever is there.
pub(super) async fn create(mut table: DeltaTable, zone: &TimeZone) -> Result<DeltaTable, LakeError> {
    if table.verify_deltatable_existence().await? {
        table.load().await?;
        let removes = table.snapshot()?.log_data().into_iter().map(|view| view.remove_action(true)).collect();
        let table = commit(&table, Change { removes, ..Change::default() }).await?;
        let update = TableMetadataUpdate { name: None, description: Some(description(zone)) };
        return Ok(table.update_table_metadata().with_update(update).await?);
    }
    let fields = columns().into_iter().map(|(name, kind, nullable)| StructField::new(name, DataType::Primitive(kind), nullable));
    Ok(table
        .create()
        .with_table_name("rollup")
        .with_comment(description(zone))
        .with_columns(fields.collect::<Vec<_>>())
        .with_partition_columns([TIER, DATE])
        .with_configuration([
            ("delta.dataSkippingStatsColumns", Some(format!("{PROPERTY},{DEVICE},{START}"))),
            ("delta.checkpointInterval", Some("50".to_owned())),
            ("delta.logRetentionDuration", Some("interval 1 days".to_owned())),
        ])
        .await?)
}

/// The files of a version, by tier and date.
pub(super) fn tier_files(table: &DeltaTable) -> Result<Vec<TierFile>, LakeError> {
    let mut files = Vec::new();
    for view in table.snapshot()?.log_data() {
        let path = view.object_store_path().to_string();
        let mut values = view.partition_values_map();
        let mut value = |name| values.remove(name).flatten().ok_or_else(|| unknown("partition of a file", &path));
        let tier = value(TIER)?.parse().map_err(|_invalid| unknown("tier of a file", &path))?;
        let date: jiff::civil::Date = value(DATE)?.parse().map_err(|_invalid| unknown("date of a file", &path))?;
        let (bytes, rows) = (u64::try_from(view.size()).unwrap_or(0), view.num_records().unwrap_or(0) as u64);
        files.push(TierFile { tier, date: day_number(date), path, bytes, rows });
    }
    files.sort_unstable_by(|one, other| (one.tier, one.date, &one.path).cmp(&(other.tier, other.date, &other.path)));
    Ok(files)
}

pub(super) fn writer_properties() -> WriterProperties {
    let column = |name: &str| ColumnPath::from(name);
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(LEVEL).expect("levels 1 to 22 exist")))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(2_048)
        .set_statistics_enabled(EnabledStatistics::Chunk);
    // What dictionary and run lengths leave next to nothing of: to set up zstd for it takes longer than to read it.
    for name in [PROPERTY, DEVICE, DISTRICT, TRUSTED, "count", "flags", "last_flags", REVISION] {
        properties = properties.set_column_compression(column(name), Compression::UNCOMPRESSED);
    }
    for name in [PROPERTY, DEVICE, START] {
        properties = properties.set_column_statistics_enabled(column(name), EnabledStatistics::Page);
    }
    for name in [START, "end", "first_time", "last_time"] {
        properties =
            properties.set_column_dictionary_enabled(column(name), false).set_column_encoding(column(name), Encoding::DELTA_BINARY_PACKED);
    }
    properties.build()
}

/// One bucket of one device, of its trusted or its suspect readings, in one district.
#[derive(Clone, Debug)]
pub(in crate::store) struct Row {
    pub(in crate::store) property: String,
    pub(in crate::store) device: String,
    pub(in crate::store) start: i64,
    pub(in crate::store) end: i64,
    pub(in crate::store) district: Option<String>,
    pub(in crate::store) trusted: bool,
    pub(in crate::store) kept: Kept,
    pub(in crate::store) statistics: Statistics,
    pub(in crate::store) revision: i32,
}

impl Row {
    /// What rows are sorted by, and told apart.
    pub(super) fn key(&self) -> (&str, &str, i64, Option<&str>, bool) {
        (&self.property, &self.device, self.start, self.district.as_deref(), self.trusted)
    }
}

/// Rows of one partition as a batch.
pub(super) fn batch(tier: Tier, date: i32, rows: &[Row]) -> RecordBatch {
    let time = || TimestampMicrosecondBuilder::with_capacity(rows.len()).with_timezone("UTC");
    let number = || Float64Builder::with_capacity(rows.len());
    let (mut property, mut device, mut district) = (StringBuilder::new(), StringBuilder::new(), StringBuilder::new());
    let (mut start, mut end, mut first_time, mut last_time) = (time(), time(), time(), time());
    let (mut trusted, mut count) = (BooleanBuilder::new(), Int64Builder::new());
    let (mut flags, mut last_flags, mut revision) = (Int16Builder::new(), Int16Builder::new(), Int32Builder::new());
    let (mut first, mut last, mut min, mut max) = (number(), number(), number(), number());
    let (mut sum, mut squares, mut sine, mut cosine) = (number(), number(), number(), number());
    let (mut energy, mut increase, mut sketch) = (number(), number(), BinaryBuilder::new());
    for row in rows {
        let Statistics { count: rows, flags: worst, first: from, last: to, .. } = row.statistics;
        let statistics = &row.statistics;
        property.append_value(&row.property);
        device.append_value(&row.device);
        district.append_option(row.district.as_deref());
        start.append_value(row.start);
        end.append_value(row.end);
        trusted.append_value(row.trusted);
        count.append_value(i64::try_from(rows).unwrap_or(i64::MAX));
        flags.append_value(worst.cast_signed());
        first_time.append_value(from.time);
        first.append_value(from.value);
        last_time.append_value(to.time);
        last.append_value(to.value);
        last_flags.append_value(statistics.last_flags.cast_signed());
        let kept = |statistic, value: f64| row.kept.has(statistic).then_some(value);
        min.append_option(kept(Statistic::Extremes, statistics.min));
        max.append_option(kept(Statistic::Extremes, statistics.max));
        sum.append_option(kept(Statistic::Sum, statistics.sum));
        squares.append_option(kept(Statistic::Squares, statistics.squares));
        sine.append_option(kept(Statistic::Direction, statistics.sine));
        cosine.append_option(kept(Statistic::Direction, statistics.cosine));
        energy.append_option(kept(Statistic::Energy, statistics.energy));
        increase.append_option(statistics.increase);
        sketch.append_option(statistics.sketch.as_ref().map(Sketch::to_bytes));
        revision.append_value(row.revision);
    }
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(property.finish()),
        Arc::new(device.finish()),
        Arc::new(start.finish()),
        Arc::new(end.finish()),
        Arc::new(district.finish()),
        Arc::new(trusted.finish()),
        Arc::new(count.finish()),
        Arc::new(flags.finish()),
        Arc::new(first_time.finish()),
        Arc::new(first.finish()),
        Arc::new(last_time.finish()),
        Arc::new(last.finish()),
        Arc::new(last_flags.finish()),
        Arc::new(min.finish()),
        Arc::new(max.finish()),
        Arc::new(sum.finish()),
        Arc::new(squares.finish()),
        Arc::new(sine.finish()),
        Arc::new(cosine.finish()),
        Arc::new(energy.finish()),
        Arc::new(increase.finish()),
        Arc::new(sketch.finish()),
        Arc::new(revision.finish()),
    ];
    in_partition(tier, date, arrays)
}

/// Columns of a file with those of their partition before them.
fn in_partition(tier: Tier, date: i32, columns: Vec<ArrayRef>) -> RecordBatch {
    let rows = columns.first().map_or(0, Array::len);
    let tiers = deltalake::arrow::array::StringArray::from_iter_values(std::iter::repeat_n(tier.word(), rows));
    let dates = deltalake::arrow::array::PrimitiveArray::<Date32Type>::from_value(date, rows);
    let mut all: Vec<ArrayRef> = vec![Arc::new(tiers), Arc::new(dates)];
    all.extend(columns);
    RecordBatch::try_new(arrow_schema(), all).expect("the columns follow the schema and have equal length")
}

/// A batch as files are read, as one that is written.
pub(super) fn rewritten(tier: Tier, date: i32, batch: &RecordBatch) -> Result<RecordBatch, LakeError> {
    let schema = arrow_schema();
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields().iter().filter(|field| ![TIER, DATE].contains(&field.name().as_str())) {
        let column = batch.column_by_name(field.name()).ok_or_else(|| unknown("column", field.name()))?;
        columns.push(cast(column, field.data_type()).map_err(DataFusionError::from)?);
    }
    Ok(in_partition(tier, date, columns))
}

/// The names of a statistic's columns besides identity, `count`, `flags`.
pub(in crate::store) fn columns_of(statistic: Statistic) -> &'static [&'static str] {
    match statistic {
        Statistic::Count => &[],
        Statistic::Sum => &["sum"],
        Statistic::Squares => &["sum", "squares"],
        Statistic::Extremes => &["min", "max"],
        Statistic::Ends => &["first_time", "first", "last_time", "last"],
        Statistic::Direction => &["sine", "cosine"],
        Statistic::Energy => &["energy"],
        Statistic::Increase => &["first_time", "first", "last_time", "last", "last_flags", "increase"],
        Statistic::Sketch => &["sketch"],
    }
}

/// The statistics of a batch's rows; of columns that it lacks, the neutral values.
pub(super) fn statistics(batch: &RecordBatch) -> Result<Vec<Statistics>, LakeError> {
    let number = |name: &str| batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Float64Type>());
    let time = |name: &str| batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let short = |name: &str| batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int16Type>());
    let count = batch.column_by_name("count").and_then(|column| column.as_primitive_opt::<Int64Type>());
    let (Some(count), Some(flags)) = (count, short("flags")) else { return Err(unknown("column", "count or flags")) };
    let mut rows: Vec<Statistics> = count
        .values()
        .iter()
        .zip(flags.values())
        .map(|(count, flags)| Statistics {
            count: u64::try_from(*count).unwrap_or(0),
            flags: flags.cast_unsigned(),
            ..Statistics::default()
        })
        .collect();
    let set = |rows: &mut Vec<Statistics>, name: &str, put: fn(&mut Statistics, f64)| {
        let Some(column) = number(name) else { return };
        for (row, (statistics, value)) in rows.iter_mut().zip(column.values()).enumerate() {
            if column.is_valid(row) {
                put(statistics, *value);
            }
        }
    };
    set(&mut rows, "min", |row, value| row.min = value);
    set(&mut rows, "max", |row, value| row.max = value);
    set(&mut rows, "sum", |row, value| row.sum = value);
    set(&mut rows, "squares", |row, value| row.squares = value);
    set(&mut rows, "sine", |row, value| row.sine = value);
    set(&mut rows, "cosine", |row, value| row.cosine = value);
    set(&mut rows, "energy", |row, value| row.energy = value);
    set(&mut rows, "increase", |row, value| row.increase = Some(value));
    if let (Some(times), Some(values)) = (time("first_time"), number("first")) {
        for (row, (time, value)) in rows.iter_mut().zip(times.values().iter().zip(values.values())) {
            row.first = Seen { time: *time, value: *value };
        }
    }
    if let (Some(times), Some(values)) = (time("last_time"), number("last")) {
        for (row, (time, value)) in rows.iter_mut().zip(times.values().iter().zip(values.values())) {
            row.last = Seen { time: *time, value: *value };
        }
    }
    if let Some(flags) = short("last_flags") {
        for (row, flags) in rows.iter_mut().zip(flags.values()) {
            row.last_flags = flags.cast_unsigned();
        }
    }
    if let Some(column) = batch.column_by_name("sketch") {
        let column = column.as_binary_opt::<i32>().ok_or_else(|| unknown("column type", "sketch"))?;
        for (row, bytes) in rows.iter_mut().zip(column.iter()) {
            row.sketch = match bytes {
                Some(bytes) => Some(Sketch::from_bytes(bytes).ok_or_else(|| unknown("sketch", "of another error"))?),
                None => None,
            };
        }
    }
    Ok(rows)
}

/// The whole rows of a batch as files are read.
pub(super) fn rows(batch: &RecordBatch, kept: impl Fn(&str) -> Option<Kept>) -> Result<Vec<Row>, LakeError> {
    let text = |name: &'static str| {
        let column = batch.column_by_name(name).ok_or_else(|| unknown("column", name))?;
        column.as_string_view_opt().ok_or_else(|| unknown("column type", name))
    };
    let time = |name: &'static str| {
        let column = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
        column.ok_or_else(|| unknown("column", name))
    };
    let (properties, devices, districts) = (text(PROPERTY)?, text(DEVICE)?, text(DISTRICT)?);
    let (starts, ends) = (time(START)?, time("end")?);
    let trusted = batch.column_by_name(TRUSTED).and_then(|column| column.as_boolean_opt());
    let revisions = batch.column_by_name(REVISION).and_then(|column| column.as_primitive_opt::<Int32Type>());
    let (Some(trusted), Some(revisions)) = (trusted, revisions) else { return Err(unknown("column", "trusted or revision")) };
    let mut rows = Vec::with_capacity(batch.num_rows());
    for (row, statistics) in statistics(batch)?.into_iter().enumerate() {
        let Some(kept) = kept(properties.value(row)) else { continue };
        rows.push(Row {
            property: properties.value(row).to_owned(),
            device: devices.value(row).to_owned(),
            start: starts.value(row),
            end: ends.value(row),
            district: districts.is_valid(row).then(|| districts.value(row).to_owned()),
            trusted: trusted.value(row),
            kept,
            statistics,
            revision: revisions.value(row),
        });
    }
    Ok(rows)
}
