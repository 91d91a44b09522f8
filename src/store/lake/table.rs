//! The Delta table: its columns, how rows become record batches, and how one commit is made durable.

use std::collections::HashMap as StdHashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deltalake::arrow::array::{
    ArrayRef, Date32Array, Float64Array, Float64Builder, Int16Array, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use deltalake::arrow::datatypes::{DataType as ArrowType, Field, Schema, SchemaRef, TimeUnit};
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, Add, DataType, PrimitiveType, Remove, StructField, Transaction};
use deltalake::logstore::LogStoreRef;
use deltalake::parquet::basic::{Compression, Encoding, ZstdLevel};
use deltalake::parquet::file::properties::{EnabledStatistics, WriterProperties};
use deltalake::parquet::schema::types::ColumnPath;
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::writer::{DeltaWriter, RecordBatchWriter};
use deltalake::{DeltaTable, DeltaTableBuilder};
use url::Url;

use super::{LakeError, s3};
use crate::model::Original;
use crate::state::Place;

/// The day of the phenomenon time in UTC: the partition.
pub(super) const DATE: &str = "date";
pub(super) const PROPERTY: &str = "property";
pub(super) const DEVICE: &str = "device";
pub(super) const TIME: &str = "time";
pub(super) const VALUE: &str = "value";
pub(super) const FLAGS: &str = "flags";
pub(super) const DISTRICT: &str = "district";
pub(super) const LONGITUDE: &str = "longitude";
pub(super) const LATITUDE: &str = "latitude";
pub(super) const ORIGINAL_VALUE: &str = "original_value";
pub(super) const ORIGINAL_UNIT: &str = "original_unit";

/// Rows of a Parquet row group: small enough that one property of a day is a few groups, large enough to compress.
const ROW_GROUP_ROWS: usize = 131_072;

fn columns() -> Vec<StructField> {
    let column = |name: &str, kind: PrimitiveType, nullable: bool| StructField::new(name, DataType::Primitive(kind), nullable);
    vec![
        column(DATE, PrimitiveType::Date, false),
        column(PROPERTY, PrimitiveType::String, false),
        column(DEVICE, PrimitiveType::String, false),
        column(TIME, PrimitiveType::Timestamp, false),
        column(VALUE, PrimitiveType::Double, false),
        column(FLAGS, PrimitiveType::Short, false),
        column(DISTRICT, PrimitiveType::String, true),
        column(LONGITUDE, PrimitiveType::Double, true),
        column(LATITUDE, PrimitiveType::Double, true),
        column(ORIGINAL_VALUE, PrimitiveType::Double, true),
        column(ORIGINAL_UNIT, PrimitiveType::String, true),
    ]
}

/// The Arrow schema of the batches that are written.
pub(super) fn arrow_schema() -> SchemaRef {
    let time = ArrowType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new(DATE, ArrowType::Date32, false),
        Field::new(PROPERTY, ArrowType::Utf8, false),
        Field::new(DEVICE, ArrowType::Utf8, false),
        Field::new(TIME, time, false),
        Field::new(VALUE, ArrowType::Float64, false),
        Field::new(FLAGS, ArrowType::Int16, false),
        Field::new(DISTRICT, ArrowType::Utf8, true),
        Field::new(LONGITUDE, ArrowType::Float64, true),
        Field::new(LATITUDE, ArrowType::Float64, true),
        Field::new(ORIGINAL_VALUE, ArrowType::Float64, true),
        Field::new(ORIGINAL_UNIT, ArrowType::Utf8, true),
    ]))
}

/// Opens the table of a log store, or makes it.
pub(super) async fn open_or_create(log_store: LogStoreRef) -> Result<DeltaTable, LakeError> {
    let mut table = DeltaTable::new(log_store);
    if table.verify_deltatable_existence().await? {
        table.load().await?;
        return Ok(table);
    }
    Ok(table
        .create()
        .with_table_name("observation")
        .with_comment("Conca's observations; no identity (device, property, time) appears twice in any version")
        .with_columns(columns())
        .with_partition_columns([DATE])
        // Statistics of the columns that questions filter by, and no others.
        .with_configuration([
            ("delta.dataSkippingStatsColumns", Some(format!("{PROPERTY},{DEVICE},{TIME}"))),
            ("delta.checkpointInterval", Some("50".to_owned())),
            ("delta.logRetentionDuration", Some("interval 1 days".to_owned())),
        ])
        .await?)
}

/// Builds the columns of a record batch, row by row.
pub(super) struct BatchBuilder {
    date: Vec<i32>,
    property: StringBuilder,
    device: StringBuilder,
    time: Vec<i64>,
    value: Vec<f64>,
    flags: Vec<i16>,
    district: StringBuilder,
    longitude: Float64Builder,
    latitude: Float64Builder,
    original_value: Float64Builder,
    original_unit: StringBuilder,
}

/// One row on its way into the table.
pub(super) struct TableRow<'a> {
    pub(super) property: &'a str,
    pub(super) device: &'a str,
    pub(super) time: i64,
    pub(super) value: f64,
    pub(super) flags: u16,
    pub(super) place: Place,
    pub(super) district: Option<&'a str>,
    pub(super) original: Option<&'a Original>,
}

/// Whole days since the epoch.
pub(super) fn date_of(time: i64) -> i32 {
    i32::try_from(time.div_euclid(86_400_000_000)).expect("times lie between 1900 and 2200")
}

impl BatchBuilder {
    pub(super) fn with_capacity(rows: usize) -> Self {
        Self {
            date: Vec::with_capacity(rows),
            property: StringBuilder::with_capacity(rows, rows * 8),
            device: StringBuilder::with_capacity(rows, rows * 16),
            time: Vec::with_capacity(rows),
            value: Vec::with_capacity(rows),
            flags: Vec::with_capacity(rows),
            district: StringBuilder::with_capacity(rows, rows * 8),
            longitude: Float64Builder::with_capacity(rows),
            latitude: Float64Builder::with_capacity(rows),
            original_value: Float64Builder::with_capacity(rows),
            original_unit: StringBuilder::with_capacity(rows, 0),
        }
    }

    pub(super) fn push(&mut self, row: &TableRow<'_>) {
        self.date.push(date_of(row.time));
        self.property.append_value(row.property);
        self.device.append_value(row.device);
        self.time.push(row.time);
        self.value.push(row.value);
        self.flags.push(i16::from_le_bytes(row.flags.to_le_bytes()));
        self.district.append_option(row.district);
        self.longitude.append_option(row.place.position.map(crate::model::Position::longitude));
        self.latitude.append_option(row.place.position.map(crate::model::Position::latitude));
        self.original_value.append_option(row.original.map(|original| original.value));
        self.original_unit.append_option(row.original.map(|original| original.unit.as_str()));
    }

    pub(super) fn finish(mut self) -> RecordBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Date32Array::from(self.date)),
            Arc::new(self.property.finish()),
            Arc::new(self.device.finish()),
            Arc::new(TimestampMicrosecondArray::from(self.time).with_timezone("UTC")),
            Arc::new(Float64Array::from(self.value)),
            Arc::new(Int16Array::from(self.flags)),
            Arc::new(self.district.finish()) as Arc<StringArray>,
            Arc::new(self.longitude.finish()),
            Arc::new(self.latitude.finish()),
            Arc::new(self.original_value.finish()),
            Arc::new(self.original_unit.finish()),
        ];
        RecordBatch::try_new(arrow_schema(), columns).expect("the columns follow the schema and have equal length")
    }
}

fn writer_properties(level: i32) -> WriterProperties {
    let column = |name: &str| ColumnPath::from(name);
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(level).expect("levels 1 to 22 exist")))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(16_384)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_column_statistics_enabled(column(TIME), EnabledStatistics::Page)
        .set_column_statistics_enabled(column(DEVICE), EnabledStatistics::Page)
        .set_column_statistics_enabled(column(PROPERTY), EnabledStatistics::Page)
        // Times of sorted series are nearly evenly spaced: their differences are almost nothing.
        .set_column_dictionary_enabled(column(TIME), false)
        .set_column_encoding(column(TIME), Encoding::DELTA_BINARY_PACKED);
    // What dictionary and run lengths leave next to nothing of: to set up zstd for it takes longer than to read it.
    for name in [PROPERTY, DEVICE, FLAGS, DISTRICT] {
        properties = properties.set_column_compression(column(name), Compression::UNCOMPRESSED);
    }
    properties.build()
}

/// A writer of the table's files. Rows must come sorted by date, property, device, time.
pub(super) fn file_writer(table: &DeltaTable, level: i32) -> Result<RecordBatchWriter, LakeError> {
    Ok(RecordBatchWriter::for_table(table)?.with_writer_properties(writer_properties(level)))
}

/// Writes sorted batches as files that no version knows yet.
pub(super) async fn write_files(
    table: &DeltaTable,
    level: i32,
    batches: impl IntoIterator<Item = RecordBatch>,
) -> Result<Vec<Add>, LakeError> {
    let mut writer = file_writer(table, level)?;
    for batch in batches {
        writer.write(batch).await?;
    }
    Ok(writer.flush().await?)
}

/// What one commit to the table does.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) adds: Vec<Add>,
    pub(super) removes: Vec<Remove>,
    /// Application transactions: id and version.
    pub(super) transactions: Vec<(String, u64)>,
    /// Whether the rows differ afterwards; a compaction changes none.
    pub(super) rearranged: bool,
}

/// Commits a change and makes it durable: in a local folder files, commit and their folders are synced, since the object store
/// does not. Returns the table at the new version.
pub(super) async fn commit(table: &DeltaTable, change: Change) -> Result<DeltaTable, LakeError> {
    let operation = if change.rearranged {
        DeltaOperation::Optimize { predicate: None, target_size: 0 }
    } else {
        let partition_by = table.snapshot()?.metadata().partition_columns().to_vec();
        DeltaOperation::Write { mode: SaveMode::Append, partition_by: Some(partition_by), predicate: None }
    };
    // Files must be durable before a commit names them.
    let adds = sync_files(table, change.adds).await?;
    let adds = adds.into_iter().map(|add| Action::Add(Add { data_change: !change.rearranged, ..add }));
    let actions = change.removes.into_iter().map(Action::Remove).chain(adds).collect();
    let transactions = change
        .transactions
        .into_iter()
        .map(|(id, version)| Transaction::new(id, i64::try_from(version).expect("commits never reach 2^63")))
        .collect();
    let properties = CommitProperties::default().with_application_transactions(transactions);
    let finalized =
        CommitBuilder::from(properties).with_actions(actions).build(Some(table.snapshot()?), table.log_store(), operation).await?;
    sync_commit(table, finalized.version()).await?;
    let mut next = table.clone();
    next.state = Some(finalized.snapshot());
    Ok(next)
}

/// The scheme of addresses on S3.
pub(super) const S3: &str = "s3";

/// The folder of a table on this machine's disk; none on S3, where what is acknowledged is durable.
pub(super) fn local_folder(table: &DeltaTable) -> Option<PathBuf> {
    let url = table.table_url();
    (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten()
}

/// Makes files durable, and notes the digest of each beside its name: what is read years later can be held against it.
async fn sync_files(table: &DeltaTable, mut adds: Vec<Add>) -> Result<Vec<Add>, LakeError> {
    let Some(folder) = local_folder(table) else { return Ok(adds) };
    blocking(move || {
        let mut folders: Vec<PathBuf> = Vec::new();
        for add in &mut adds {
            let file = folder.join(&add.path);
            File::open(&file)?.sync_all()?;
            add.tags.get_or_insert_default().insert(DIGEST.to_owned(), Some(digest_of(&file)?));
            if let Some(parent) = file.parent()
                && !folders.iter().any(|known| known == parent)
            {
                folders.push(parent.to_owned());
            }
        }
        for parent in &folders {
            File::open(parent)?.sync_all()?;
        }
        File::open(&folder)?.sync_all()?;
        Ok(adds)
    })
    .await
}

/// The tag of a file that holds its digest.
pub(super) const DIGEST: &str = "conca.xxh3";

/// XXH3 of a file's bytes, 128 bits, in hexadecimal digits.
pub(super) fn digest_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = xxhash_rust::xxh3::Xxh3::new();
    let mut part = vec![0; 65_536];
    loop {
        let length = std::io::Read::read(&mut file, &mut part)?;
        match part.get(..length) {
            Some([]) | None => return Ok(format!("{:032x}", digest.digest128())),
            Some(bytes) => digest.update(bytes),
        }
    }
}

/// Makes a version's commit file durable; also what an earlier run may have left unsynced.
pub(super) async fn sync_commit(table: &DeltaTable, version: u64) -> Result<(), LakeError> {
    let Some(folder) = local_folder(table) else { return Ok(()) };
    blocking(move || {
        let log = folder.join("_delta_log");
        match File::open(log.join(format!("{version:020}.json"))) {
            Ok(file) => file.sync_all()?,
            // Cleaned up already: a checkpoint stands for it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        File::open(&log)?.sync_all()
    })
    .await
}

/// Checks that every file of the table is there with its full length, and makes all of them durable: after a crash
/// between a commit and its sync, nothing may be trimmed from the log before this.
pub(super) async fn verify(table: &DeltaTable) -> Result<(), LakeError> {
    let Some(folder) = local_folder(table) else { return Ok(()) };
    let files: Vec<(String, i64)> = table.snapshot()?.log_data().iter().map(|file| (file.path().into_owned(), file.size())).collect();
    let checked = folder.clone();
    let broken = blocking(move || {
        let mut broken = Vec::new();
        for (path, size) in files {
            let length = std::fs::metadata(checked.join(&path)).map(|metadata| metadata.len());
            if length.ok() != u64::try_from(size).ok() {
                broken.push(path);
                continue;
            }
            File::open(checked.join(&path))?.sync_all()?;
        }
        Ok(broken)
    })
    .await?;
    if broken.is_empty() { Ok(()) } else { Err(LakeError::Broken { folder, files: broken }) }
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, LakeError> {
    tokio::task::spawn_blocking(work).await.map_err(|_stopped| LakeError::Stopped)?.map_err(LakeError::Sync)
}

/// The address of a table in a local folder, which is made where it is absent, or on S3.
pub(super) fn location(text: &str, default: &Path) -> Result<Url, LakeError> {
    let unusable = || LakeError::Location(text.to_owned());
    if text.contains("://") {
        return Url::parse(text).ok().filter(|url| url.scheme() == S3).ok_or_else(unusable);
    }
    let folder = if text.is_empty() { default.to_owned() } else { PathBuf::from(text) };
    std::fs::create_dir_all(&folder).map_err(LakeError::Sync)?;
    let folder = folder.canonicalize().map_err(LakeError::Sync)?;
    Url::from_directory_path(folder).map_err(|()| unusable())
}

/// The log store of the table at an address.
pub(super) fn log_store(url: &Url) -> Result<LogStoreRef, LakeError> {
    if url.scheme() == S3 { s3::log_store(url) } else { Ok(DeltaTableBuilder::from_url(url.clone())?.build_storage()?) }
}

/// The partition of a file.
pub(super) fn partition_of(values: &StdHashMap<String, Option<String>>) -> Option<String> {
    values.get(DATE).cloned().flatten()
}
