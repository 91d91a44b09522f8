//! The table as it lies on the disk, looked at from outside: for copies of it and for its examination. The service may run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use deltalake::arrow::array::{AsArray, StringViewArray};
use deltalake::arrow::buffer::ScalarBuffer;
use deltalake::arrow::datatypes::TimestampMicrosecondType;
use deltalake::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use deltalake::{DeltaTable, DeltaTableBuilder};
use url::Url;
use uuid::Uuid;

use super::maintain::{files, texts};
use super::table::{self, Change, DEVICE, DIGEST, PROPERTY, TIME, blocking, date_of, digest_of};
use super::{LakeError, transaction_id};
use crate::model::Timestamp;
use crate::state::FollowerPosition;

/// Rows that are read of a file at a time: the files of a day are read side by side.
const BATCH_ROWS: usize = 8_192;

/// A table in a local folder.
#[derive(Clone, Debug)]
pub struct TableFolder {
    folder: PathBuf,
    url: Url,
    node: String,
}

/// A version of a table.
#[derive(Clone, Debug)]
pub struct TableVersion {
    pub(super) table: DeltaTable,
    folder: PathBuf,
    /// Its number.
    pub number: u64,
    /// What it holds of the log.
    pub held: FollowerPosition,
    /// Its files, by day.
    pub files: Vec<TableFile>,
}

/// A file of a version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableFile {
    /// The day that it belongs to, as the table writes it.
    pub date: String,
    /// Below the table's folder.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Rows.
    pub rows: u64,
    /// What the table's log says of its bytes; nothing of files written before that was noted.
    digest: Option<String>,
}

/// What is wrong with a file or a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableFault {
    /// A file cannot be used; why.
    File { path: String, fault: String },
    /// An identity is there more than once.
    Duplicate { date: String, first: String, count: u64 },
}

/// Files that a version does not use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unused {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl TableFolder {
    /// The table that the settings name, if it is there; `Err` for one that is not in a folder of this machine.
    pub fn find(url: &str, data: &Path, node: &str) -> Result<Option<Self>, LakeError> {
        if url.contains("://") {
            return Err(LakeError::Remote(url.to_owned()));
        }
        let folder = if url.is_empty() { data.join("lake") } else { PathBuf::from(url) };
        if !folder.join(LOG).is_dir() {
            return Ok(None);
        }
        let folder = folder.canonicalize().map_err(LakeError::Sync)?;
        let url = Url::from_directory_path(&folder).map_err(|()| LakeError::Location(url.to_owned()))?;
        Ok(Some(Self { folder, url, node: node.to_owned() }))
    }

    /// The table beside it whose folder has the same name and an ending more, if it is there.
    pub fn beside(&self, ending: &str) -> Option<Self> {
        let mut folder = self.folder.clone().into_os_string();
        folder.push(ending);
        let folder = PathBuf::from(folder);
        let url = Url::from_directory_path(&folder).ok()?;
        folder.join(LOG).is_dir().then(|| Self { folder, url, node: self.node.clone() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// The newest version, as the life of the log of that identity sees it.
    pub async fn newest(&self, incarnation: Uuid) -> Result<TableVersion, LakeError> {
        self.read(DeltaTableBuilder::from_url(self.url.clone())?.load().await?, incarnation).await
    }

    /// A version.
    pub async fn version(&self, number: u64, incarnation: Uuid) -> Result<TableVersion, LakeError> {
        self.read(DeltaTableBuilder::from_url(self.url.clone())?.with_version(number).load().await?, incarnation).await
    }

    async fn read(&self, table: DeltaTable, incarnation: Uuid) -> Result<TableVersion, LakeError> {
        let held = FollowerPosition {
            ordered: super::transaction(&table, &transaction_id(&self.node, incarnation, "ordered")).await?,
            late: super::transaction(&table, &transaction_id(&self.node, incarnation, "late")).await?,
        };
        let mut list = Vec::new();
        for file in files(&table)? {
            let digest = file.add.tags.as_ref().and_then(|tags| tags.get(DIGEST).cloned().flatten());
            let bytes = u64::try_from(file.add.size).unwrap_or(0);
            list.push(TableFile { date: file.date, path: file.add.path, bytes, rows: file.rows, digest });
        }
        list.sort_unstable();
        Ok(TableVersion { number: table.version().unwrap_or(0), folder: self.folder.clone(), held, files: list, table })
    }
}

/// The folder of Delta's log below the table's.
const LOG: &str = "_delta_log";

impl TableVersion {
    /// The files of Delta's log that make it up, below the table's folder: the last checkpoint and the commits from there on. Without
    /// those of later versions they are a table that ends with this one.
    pub async fn log_files(&self) -> Result<Vec<String>, LakeError> {
        let folder = self.folder.join(LOG);
        let names = blocking(move || {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(folder)? {
                names.extend(entry?.file_name().into_string().ok());
            }
            Ok(names)
        })
        .await?;
        let version = |name: &str| name.get(..20).and_then(|digits| digits.parse::<u64>().ok()).filter(|version| *version <= self.number);
        let is_checkpoint = |name: &str| name.contains(".checkpoint.");
        let start = names.iter().filter(|name| is_checkpoint(name)).filter_map(|name| version(name)).max().unwrap_or(0);
        let mut wanted: Vec<String> = names
            .iter()
            .filter(|name| {
                version(name).is_some_and(|version| version >= start) && (is_checkpoint(name) || name.strip_suffix(".json").is_some())
            })
            .map(|name| format!("{LOG}/{name}"))
            .collect();
        wanted.sort_unstable();
        Ok(wanted)
    }

    /// Notes, durably, that the log's new life begins with what the table holds of the old one.
    pub async fn follow_anew(&self, node: &str, incarnation: Uuid) -> Result<(), LakeError> {
        let FollowerPosition { ordered, late } = self.held;
        let transactions = [("ordered", ordered), ("late", late)].map(|(lane, held)| (transaction_id(node, incarnation, lane), held));
        table::commit(&self.table, Change { transactions: transactions.into(), ..Change::default() }).await?;
        Ok(())
    }

    /// Holds every file's bytes against what the table's log says of them.
    pub(super) async fn check_files(&self) -> Result<Vec<TableFault>, LakeError> {
        let (folder, files) = (self.folder.clone(), self.files.clone());
        blocking(move || {
            let checked = files.into_iter().map(|file| (check_bytes(&folder, &file), file.path));
            Ok(checked.filter_map(|(checked, path)| Some(TableFault::File { path, fault: checked.err()? })).collect())
        })
        .await
    }

    /// Reads every row of every file. What is told of as wrong: files that are missing, changed or cannot be read, and identities that
    /// are there more than once.
    pub async fn examine(&self) -> Result<Vec<TableFault>, LakeError> {
        let mut days: BTreeMap<String, Vec<TableFile>> = BTreeMap::new();
        for file in &self.files {
            days.entry(file.date.clone()).or_default().push(file.clone());
        }
        let mut faults = Vec::new();
        for (date, files) in days {
            let folder = self.folder.clone();
            faults.extend(blocking(move || Ok(examine_day(&folder, &date, &files))).await?);
        }
        Ok(faults)
    }

    /// Files in the table's folder that this version does not use and that have not changed for so long.
    pub async fn unused(&self, quiet: Duration) -> Result<Unused, LakeError> {
        let (folder, mut used) = (self.folder.clone(), self.files.iter().map(|file| file.path.clone()).collect::<Vec<_>>());
        used.sort_unstable();
        blocking(move || {
            let mut unused = Unused::default();
            for day in std::fs::read_dir(&folder)? {
                let day = day?;
                // The table's own partitions: whatever else lies there is none of its business.
                let Some(date) = day.file_name().into_string().ok().filter(|name| name.starts_with("date=")) else { continue };
                for file in std::fs::read_dir(day.path())? {
                    let file = file?;
                    let Ok(name) = file.file_name().into_string() else { continue };
                    // Gone meanwhile: not unused any more.
                    let Ok(metadata) = file.metadata() else { continue };
                    let is_old = metadata.modified()?.elapsed().is_ok_and(|age| age >= quiet);
                    if is_old && used.binary_search(&format!("{date}/{name}")).is_err() {
                        unused.files += 1;
                        unused.bytes += metadata.len();
                    }
                }
            }
            Ok(unused)
        })
        .await
    }
}

fn examine_day(folder: &Path, date: &str, files: &[TableFile]) -> Vec<TableFault> {
    let mut faults = Vec::new();
    let mut rows = Vec::new();
    for file in files {
        match check_bytes(folder, file).and_then(|()| FileRows::open(folder, file)) {
            Ok(opened) => rows.push(opened),
            Err(fault) => faults.push(TableFault::File { path: file.path.clone(), fault }),
        }
    }
    let mut duplicates: Option<(String, u64)> = None;
    let mut previous: Option<Identity> = None;
    let mut next: BinaryHeap<Reverse<(Identity, usize)>> = BinaryHeap::new();
    let mut advance = |rows: &mut [FileRows], index: usize, next: &mut BinaryHeap<Reverse<(Identity, usize)>>| {
        let Some(file) = rows.get_mut(index) else { return };
        match file.next() {
            Ok(Some(identity)) => next.push(Reverse((identity, index))),
            Ok(None) => {}
            Err(fault) => faults.push(TableFault::File { path: file.path.clone(), fault }),
        }
    };
    for index in 0..rows.len() {
        advance(&mut rows, index, &mut next);
    }
    while let Some(Reverse((identity, index))) = next.pop() {
        if previous.as_ref() == Some(&identity) {
            let (property, device, time) = &identity;
            let first = || format!("{property} of {device} at {}", Timestamp::from_micros_clamped(*time));
            duplicates.get_or_insert_with(|| (first(), 0)).1 += 1;
        }
        previous = Some(identity);
        advance(&mut rows, index, &mut next);
    }
    if let Some((first, count)) = duplicates {
        faults.push(TableFault::Duplicate { date: date.to_owned(), first, count });
    }
    faults
}

/// Holds a file's bytes against what the table's log says of them.
fn check_bytes(folder: &Path, file: &TableFile) -> Result<(), String> {
    let path = folder.join(&file.path);
    let length = match std::fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err("is missing".to_owned()),
        Err(error) => return Err(error.to_string()),
    };
    if length != file.bytes {
        return Err(format!("has {length} bytes where there were {}", file.bytes));
    }
    match &file.digest {
        Some(digest) if *digest != digest_of(&path).map_err(|error| error.to_string())? => {
            Err("has changed since it was written".to_owned())
        }
        _ => Ok(()),
    }
}

/// Property, device, time.
type Identity = (Arc<str>, Arc<str>, i64);

/// The identities of a file, row by row; everything else is read too.
struct FileRows {
    path: String,
    day: i64,
    batches: ParquetRecordBatchReader,
    batch: Option<(StringViewArray, StringViewArray, ScalarBuffer<i64>)>,
    row: usize,
    left: u64,
    last: Option<Identity>,
}

impl FileRows {
    fn open(folder: &Path, file: &TableFile) -> Result<Self, String> {
        let opened = File::open(folder.join(&file.path)).map_err(|error| error.to_string())?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(opened).map_err(|error| format!("cannot be read: {error}"))?;
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        if rows != file.rows {
            return Err(format!("has {rows} rows where there were {}", file.rows));
        }
        let batches = builder.with_batch_size(BATCH_ROWS).build().map_err(|error| format!("cannot be read: {error}"))?;
        let day = date_of_text(&file.date).ok_or_else(|| format!("belongs to no day: {:?}", file.date))?;
        Ok(Self { path: file.path.clone(), day, batches, batch: None, row: 0, left: rows, last: None })
    }

    fn next(&mut self) -> Result<Option<Identity>, String> {
        loop {
            let Some((properties, devices, times)) = &self.batch else {
                let Some(batch) = self.batches.next() else {
                    return if self.left == 0 { Ok(None) } else { Err(format!("ends {} rows too early", self.left)) };
                };
                let batch = batch.map_err(|error| format!("cannot be read: {error}"))?;
                let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("lacks the column {name}"));
                let text = |name: &str| {
                    let column = texts(column(name)?).map_err(|error| format!("cannot be read: {error}"))?;
                    Ok::<_, String>(column.as_string_view().clone())
                };
                let times = column(TIME)?.as_primitive_opt::<TimestampMicrosecondType>().ok_or("has no times")?.values().clone();
                self.batch = Some((text(PROPERTY)?, text(DEVICE)?, times));
                self.row = 0;
                continue;
            };
            let Some(time) = times.get(self.row).copied() else {
                self.batch = None;
                continue;
            };
            let (property, device) = (properties.value(self.row), devices.value(self.row));
            let shared = |text: &str, last: Option<&Arc<str>>| last.filter(|last| &***last == text).map_or_else(|| text.into(), Arc::clone);
            let (last_property, last_device) = self.last.as_ref().map(|(property, device, _time)| (property, device)).unzip();
            let identity = (shared(property, last_property), shared(device, last_device), time);
            if self.last.as_ref().is_some_and(|last| *last > identity) {
                return Err("is not sorted".to_owned());
            }
            if i64::from(date_of(time)) != self.day {
                return Err(format!("holds {} of another day", Timestamp::from_micros_clamped(time)));
            }
            self.row += 1;
            self.left = self.left.saturating_sub(1);
            self.last = Some(identity.clone());
            return Ok(Some(identity));
        }
    }
}

fn date_of_text(text: &str) -> Option<i64> {
    let date: jiff::civil::Date = text.parse().ok()?;
    date.since(jiff::civil::date(1970, 1, 1)).ok().map(|span| i64::from(span.get_days()))
}
