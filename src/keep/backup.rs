//! A consistent copy beside the running service.
//!
//! ```text
//! backup.json                      written last, by renaming: what belongs to the newest backup
//! <time>/state.sqlite              the state database at one instant
//! <time>/log/…                     Delta's log up to the version that goes with it
//! <time>/config/…                  the configuration and the files that it names; no secrets
//! <time>/rollup-log/…              likewise of the rollups, where there are any
//! table/date=…/….parquet           the table's files: copied once, since they never change
//! rollup/…                         likewise of the rollups
//! ```
//!
//! Until the manifest is in place, the backup before it stays whole; what only that one needed goes afterwards. Files of the table that are
//! already there are not copied again, so that a backup that was interrupted goes on where it was.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::manifest::{self, Manifest, ManifestFile, ROLLUP, TABLE};
use super::{KeepError, matching};
use crate::config::Config;
use crate::model::{Clock, Timestamp};
use crate::state::{FILE, FolderLock, Snapshot, touch};
use crate::store::{ROLLUP_ENDING, TableFile, TableFolder, TableVersion};

/// How often a backup begins anew where the table gave up files that were to be copied.
const TRIES: usize = 5;

/// A backup that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// What it holds.
    pub manifest: Manifest,
    /// Bytes that were copied for it; the others were there.
    pub bytes_copied: u64,
}

/// Copies everything that `config`, read from `config_file`, names to `target`, which may hold an earlier backup. The service may run.
pub async fn backup(config: &Config, config_file: &Path, target: &Path, clock: &dyn Clock) -> Result<Backup, KeepError> {
    let state = config.node.data.join(FILE);
    if !state.is_file() {
        return Err(KeepError::Nothing { what: "state database", folder: config.node.data.clone() });
    }
    let table = TableFolder::find(&config.lake.url, &config.node.data, &config.node.id)?
        .ok_or_else(|| KeepError::Nothing { what: "table", folder: config.node.data.clone() })?;
    let _lock = FolderLock::take(target)?;
    let mut tries = 1..=TRIES;
    loop {
        tries.next();
        match try_backup(config, config_file, &state, &table, target, clock).await {
            // What was copied so far stays and need not be copied again.
            Err(KeepError::File { path, source }) if source.kind() == std::io::ErrorKind::NotFound && !tries.is_empty() => {
                tracing::info!(path = %path.display(), "the table no longer needs a file that was to be copied: beginning anew");
            }
            result => return result,
        }
    }
}

async fn try_backup(
    config: &Config,
    config_file: &Path,
    state: &Path,
    table: &TableFolder,
    target: &Path,
    clock: &dyn Clock,
) -> Result<Backup, KeepError> {
    let created = clock.now();
    let folder = folder_name(created);
    let mut copies = Copies { target, before: known(target), files: Vec::new(), bytes_copied: 0 };
    std::fs::create_dir_all(target.join(&folder)).map_err(KeepError::at(target))?;

    // The table's newest version is at least this one once the state database is copied.
    let first = table.newest(Uuid::nil()).await?.number;
    let before = newest_of(table.beside(ROLLUP_ENDING).as_ref()).await?;
    let copied_state = target.join(&folder).join(FILE);
    Snapshot::copy(state, &copied_state)?;
    let rollups = table.beside(ROLLUP_ENDING);
    let rollups = rollups.clone().zip(newest_of(rollups.as_ref()).await?);
    touch(&copied_state, &days_that_differ(before.as_ref(), rollups.as_ref().map(|(_table, version)| version)))?;
    let snapshot = Snapshot::open(&copied_state)?;
    if let Some(fault) = snapshot.faults()?.into_iter().next() {
        return Err(KeepError::Damaged(fault));
    }
    let (head, stored) = (snapshot.head()?, snapshot.ledger()?.iter().map(|(_line, counts)| counts.stored).sum());
    drop(snapshot);
    let version = matching(table, &head, first).await?.ok_or(KeepError::Apart)?;
    copies.note(format!("{folder}/{FILE}"), manifest::digest(&copied_state, |_bytes| Ok(()))?);
    let table_version = version.number;
    for (kept, table, version) in
        [(TABLE, table.clone(), version)].into_iter().chain(rollups.map(|(table, version)| (ROLLUP, table, version)))
    {
        for path in version.log_files().await? {
            let name = path.rsplit('/').next().unwrap_or(&path);
            copies.copy(&table.path().join(&path), format!("{folder}/{}/{name}", kept.log))?;
        }
        for file in &version.files {
            copies.copy_once(&table.path().join(&file.path), format!("{}/{}", kept.files, file.path), file.bytes)?;
        }
    }
    for (key, path) in config_files(config, config_file)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        copies.copy(&path, format!("{folder}/config/{key}/{name}"))?;
    }
    let manifest = Manifest {
        created,
        conca: env!("CARGO_PKG_VERSION").to_owned(),
        schema: head.schema,
        node: config.node.id.clone(),
        incarnation: head.incarnation.to_string(),
        sequence: head.sequence,
        table_version,
        stored,
        folder,
        files: copies.files,
    };
    sync_folders(target, &manifest)?;
    manifest.write(target)?;
    prune(target, &manifest)?;
    Ok(Backup { manifest, bytes_copied: copies.bytes_copied })
}

/// The newest version of a table that does not follow the log.
async fn newest_of(table: Option<&TableFolder>) -> Result<Option<TableVersion>, KeepError> {
    Ok(match table {
        Some(table) => Some(table.newest(Uuid::nil()).await?),
        None => None,
    })
}

/// The dates of files that only one of two versions has.
fn days_that_differ(before: Option<&TableVersion>, after: Option<&TableVersion>) -> BTreeSet<String> {
    let files = |version: Option<&TableVersion>| -> BTreeSet<TableFile> {
        version.map(|version| version.files.iter().cloned().collect()).unwrap_or_default()
    };
    files(before).symmetric_difference(&files(after)).map(|file| file.date.clone()).collect()
}

/// The name of the folder of a backup made at an instant.
fn folder_name(created: Timestamp) -> String {
    created.to_string().replace(':', "-")
}

fn is_folder_name(name: &str) -> bool {
    let created = name.split_once('T').and_then(|(date, time)| format!("{date}T{}", time.replace('-', ":")).parse().ok());
    created.is_some_and(|created| folder_name(created) == name)
}

/// The files of the backup that is there, by path.
fn known(target: &Path) -> HashMap<String, ManifestFile> {
    let files = Manifest::read(target).map(|manifest| manifest.files).unwrap_or_default();
    files.into_iter().map(|file| (file.path.clone(), file)).collect()
}

/// Files on their way into a backup.
struct Copies<'a> {
    target: &'a Path,
    before: HashMap<String, ManifestFile>,
    files: Vec<ManifestFile>,
    bytes_copied: u64,
}

impl Copies<'_> {
    fn note(&mut self, path: String, (bytes, sha256): (u64, String)) {
        self.bytes_copied += bytes;
        self.files.push(ManifestFile { path, bytes, sha256 });
    }

    fn copy(&mut self, from: &Path, path: String) -> Result<(), KeepError> {
        let digested = manifest::copy(from, &self.target.join(&path))?;
        self.note(path, digested);
        Ok(())
    }

    /// Copies a file that never changes, where it is not there yet.
    fn copy_once(&mut self, from: &Path, path: String, bytes: u64) -> Result<(), KeepError> {
        let to = self.target.join(&path);
        if std::fs::metadata(&to).is_ok_and(|metadata| metadata.len() == bytes) {
            // A copy has its name only once it is whole. What an earlier backup says of it still holds, whatever its bytes are now.
            let file = match self.before.remove(&path) {
                Some(file) if file.bytes == bytes => file,
                _ => {
                    let (bytes, sha256) = manifest::digest(&to, |_bytes| Ok(()))?;
                    ManifestFile { path, bytes, sha256 }
                }
            };
            self.files.push(file);
            return Ok(());
        }
        self.copy(from, path)
    }
}

/// The configuration and the files that it names, with the keys that name them.
fn config_files(config: &Config, config_file: &Path) -> Result<Vec<(&'static str, PathBuf)>, KeepError> {
    let named = [
        ("city.districts", &config.city.districts),
        ("city.properties", &config.city.properties),
        ("city.tariff", &config.city.tariff),
        ("alerts.rules", &config.alerts.rules),
    ];
    let mut files = vec![("conca", config_file.to_owned())];
    files.extend(named.into_iter().filter_map(|(key, path)| Some((key, path.clone()?))));
    if let Some(folder) = &config.city.mappings {
        for entry in std::fs::read_dir(folder).map_err(KeepError::at(folder))? {
            let path = entry.map_err(KeepError::at(folder))?.path();
            if path.extension().is_some_and(|ending| ending == "json") {
                files.push(("city.mappings", path));
            }
        }
    }
    Ok(files)
}

/// Makes it durable where the files of a backup are: that of their content was made when they were copied.
fn sync_folders(target: &Path, manifest: &Manifest) -> Result<(), KeepError> {
    let parents = manifest.files.iter().flat_map(|file| Path::new(&file.path).ancestors().skip(1));
    let folders: BTreeSet<PathBuf> = parents.map(|folder| target.join(folder)).collect();
    folders.iter().try_for_each(|folder| File::open(folder).and_then(|folder| folder.sync_all()).map_err(KeepError::at(folder)))
}

/// Deletes what only earlier backups needed.
fn prune(target: &Path, manifest: &Manifest) -> Result<(), KeepError> {
    let used: HashSet<PathBuf> = manifest.files.iter().map(|file| target.join(&file.path)).collect();
    let list = |folder: &Path| -> Result<Vec<PathBuf>, KeepError> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(KeepError::at(folder)(error)),
        };
        entries.map(|entry| entry.map(|entry| entry.path()).map_err(KeepError::at(folder))).collect()
    };
    let mut folders = vec![target.join(TABLE.files), target.join(ROLLUP.files)];
    while let Some(folder) = folders.pop() {
        for path in list(&folder)?.into_iter().filter(|path| !used.contains(path)) {
            if path.is_dir() {
                folders.push(path);
            } else {
                std::fs::remove_file(&path).map_err(KeepError::at(&path))?;
            }
        }
    }
    for folder in list(target)? {
        // Only folders of backups, whatever else somebody may keep here.
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name != manifest.folder && is_folder_name(name) {
            std::fs::remove_dir_all(&folder).map_err(KeepError::at(&folder))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_folders_of_backups_are_taken_for_such() {
        for micros in [0, 1_700_000_000_000_001, 1_700_000_000_120_000] {
            assert!(is_folder_name(&folder_name(Timestamp::from_micros(micros).unwrap())));
        }
        for name in ["", "table", "data", "2026-01-01", "2026-01-01T00:00:00Z", "T", "2026-01-01T00-00-00Z.old"] {
            assert!(!is_folder_name(name), "{name}");
        }
    }
}
