//! What a backup says of itself.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::KeepError;
use crate::model::Timestamp;

/// The manifest's name. It is written last: a folder without it holds no complete backup.
const NAME: &str = "backup.json";

/// A table of a backup.
pub(super) struct KeptTable {
    /// Below it are the table's files: written once, shared by the backups of a folder.
    pub(super) files: &'static str,
    /// Below the backup's own folder: Delta's log of it.
    pub(super) log: &'static str,
    /// Its folder in a data folder.
    pub(super) folder: &'static str,
}

/// The observations.
pub(super) const TABLE: KeptTable = KeptTable { files: "table", log: "log", folder: "lake" };

/// Their rollups, which know what is older than the observations that are kept.
pub(super) const ROLLUP: KeptTable = KeptTable { files: "rollup", log: "rollup-log", folder: "lake-rollup" };

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Everything that was acknowledged before this instant is in it.
    pub created: Timestamp,
    /// Version of the program that made it.
    pub conca: String,
    /// Version of the state database's schema.
    pub schema: i64,
    /// The node whose data it is.
    pub node: String,
    /// The life of the log that it was taken from.
    pub incarnation: String,
    /// Number of the last commit.
    pub sequence: u64,
    /// Version of the table.
    pub table_version: u64,
    /// Values that the ledger counts as stored.
    pub stored: i64,
    /// The folder of state database, Delta log and the city's files.
    pub folder: String,
    /// Every file of it.
    pub files: Vec<ManifestFile>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Below the backup's folder.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of its content, 64 hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    /// Reads the manifest of a folder.
    pub fn read(folder: &Path) -> Result<Self, KeepError> {
        let unusable = |problem: String| KeepError::NoBackup { folder: folder.to_owned(), problem };
        let text = std::fs::read_to_string(folder.join(NAME)).map_err(|error| unusable(format!("{NAME}: {error}")))?;
        let manifest: Self = serde_json::from_str(&text).map_err(|error| unusable(format!("{NAME}: {error}")))?;
        let is_inside = |path: &str| Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        match manifest.files.iter().find(|file| !is_inside(&file.path)) {
            Some(file) => Err(unusable(format!("{NAME} names {:?}", file.path))),
            None if !is_inside(&manifest.folder) => Err(unusable(format!("{NAME} names {:?}", manifest.folder))),
            None => Ok(manifest),
        }
    }

    /// Puts the manifest in place, durably: from then on the folder holds this backup.
    pub(super) fn write(&self, folder: &Path) -> Result<(), KeepError> {
        let (path, unfinished) = (folder.join(NAME), folder.join("backup.json.part"));
        let text = serde_json::to_string_pretty(self).expect("plain data always serialises");
        let write = || {
            let mut file = File::create(&unfinished)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&unfinished, &path)?;
            File::open(folder)?.sync_all()
        };
        write().map_err(KeepError::at(&path))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Copies a file, durably; its length and SHA-256.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(u64, String), KeepError> {
    let parent = to.parent().unwrap_or(to);
    std::fs::create_dir_all(parent).map_err(KeepError::at(parent))?;
    let mut unfinished = to.as_os_str().to_owned();
    unfinished.push(".part");
    let mut target = File::create(&unfinished).map_err(KeepError::at(to))?;
    let digested = digest(from, |bytes| target.write_all(bytes).map_err(KeepError::at(to)))?;
    let finish = || {
        target.sync_all()?;
        std::fs::rename(&unfinished, to)?;
        File::open(parent)?.sync_all()
    };
    finish().map_err(KeepError::at(to))?;
    Ok(digested)
}

/// Length and SHA-256 of a file, whose content is shown part by part.
pub(super) fn digest(path: &Path, mut show: impl FnMut(&[u8]) -> Result<(), KeepError>) -> Result<(u64, String), KeepError> {
    let mut file = File::open(path).map_err(KeepError::at(path))?;
    let (mut digest, mut length, mut part) = (Sha256::new(), 0, vec![0; 262_144]);
    loop {
        let read = file.read(&mut part).map_err(KeepError::at(path))?;
        let bytes = part.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            let hex = digest.finalize().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
            return Ok((length, hex));
        }
        digest.update(bytes);
        length += bytes.len() as u64;
        show(bytes)?;
    }
}
