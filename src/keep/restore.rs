//! From a backup to a data folder.
//!
//! Every file is held against the manifest while it is copied, and state database and table against each other afterwards; what does not
//! match leaves nothing behind. The state database gets its name last: until then the folder is none that holds anything.
//!
//! The log begins a new life under an identity of its own, since commits of the old life beyond the backup have the numbers that new ones
//! will get. The table is told of it by a version that says, under the new identity, what of the log it holds: the first start finds
//! both as any start does.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::KeepError;
use super::manifest::{self, Manifest, ManifestFile, ROLLUP, TABLE};
use crate::state::{FILE, FolderLock, LOCK, Snapshot, begin_anew};
use crate::store::TableFolder;

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Of which backup.
    pub manifest: Manifest,
    /// The log's new life.
    pub incarnation: Uuid,
    /// Where the configuration's files are.
    pub config: PathBuf,
}

/// Makes the data folder `data`, which must be empty or not be there, of the backup in `backup`.
pub async fn restore(backup: &Path, data: &Path) -> Result<Restored, KeepError> {
    let manifest = Manifest::read(backup)?;
    match std::fs::read_dir(data).map(|mut entries| entries.next().is_none()) {
        Ok(true) => {}
        Ok(false) => return Err(KeepError::NotEmpty(data.to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(KeepError::at(data)(error)),
    }
    let lock = FolderLock::take(data)?;
    match fill(backup, data, &manifest).await {
        Ok(incarnation) => Ok(Restored { incarnation, config: backup.join(&manifest.folder).join("config"), manifest }),
        Err(error) => {
            drop(lock);
            for name in [TABLE.folder, ROLLUP.folder, UNFINISHED, LOCK] {
                let path = data.join(name);
                let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
                if let Err(error) = removed.or_else(|error| if path.exists() { Err(error) } else { Ok(()) }) {
                    tracing::warn!(path = %path.display(), %error, "cannot clear away what was restored");
                }
            }
            Err(error)
        }
    }
}

/// The state database before it has its name.
const UNFINISHED: &str = "state.sqlite.part";

async fn fill(backup: &Path, data: &Path, manifest: &Manifest) -> Result<Uuid, KeepError> {
    let state = data.join(UNFINISHED);
    for file in &manifest.files {
        // Tables first named by their log: nothing is a table before all of it is there.
        match place_of(manifest, file) {
            Some(place) => take(backup, file, &data.join(place))?,
            None => verify(file, manifest::digest(&backup.join(&file.path), |_bytes| Ok(())))?,
        }
    }
    let broken = |path: String, problem: &str| KeepError::BrokenBackup { path, problem: problem.to_owned() };
    if !state.is_file() {
        return Err(broken(format!("{}/{FILE}", manifest.folder), "is not in the manifest"));
    }
    let head = Snapshot::open(&state)?.head()?;
    if (head.schema, head.incarnation.to_string(), head.sequence) != (manifest.schema, manifest.incarnation.clone(), manifest.sequence) {
        return Err(broken(format!("{}/{FILE}", manifest.folder), "is not the state database that the manifest tells of"));
    }
    let table = TableFolder::find("", data, &manifest.node)?.ok_or_else(|| broken(format!("{}/log", manifest.folder), "is missing"))?;
    let version = table.newest(head.incarnation).await?;
    if version.number != manifest.table_version || !head.goes_with(version.held) {
        return Err(broken(format!("{}/log", manifest.folder), "is not the table that the manifest tells of"));
    }
    let kept: HashSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    let mut paths = version.files.iter().map(|file| format!("{}/{}", TABLE.files, file.path));
    if let Some(missing) = paths.find(|path| !kept.contains(path.as_str())) {
        return Err(broken(missing, "is not in the manifest"));
    }
    let incarnation = begin_anew(&state)?;
    version.follow_anew(&manifest.node, incarnation).await?;
    let name = data.join(FILE);
    let finish = || {
        File::open(&state)?.sync_all()?;
        std::fs::rename(&state, &name)?;
        File::open(data)?.sync_all()
    };
    finish().map_err(KeepError::at(&name))?;
    Ok(incarnation)
}

/// Where a file of a backup belongs in a data folder; none for the configuration's.
fn place_of(manifest: &Manifest, file: &ManifestFile) -> Option<PathBuf> {
    let path = Path::new(&file.path);
    let own = path.strip_prefix(&manifest.folder).ok();
    if own == Some(Path::new(FILE)) {
        return Some(UNFINISHED.into());
    }
    [TABLE, ROLLUP].into_iter().find_map(|table| {
        let folder = Path::new(table.folder);
        let log = own.and_then(|own| own.strip_prefix(table.log).ok());
        log.map(|name| folder.join("_delta_log").join(name)).or_else(|| path.strip_prefix(table.files).ok().map(|rest| folder.join(rest)))
    })
}

fn take(backup: &Path, file: &ManifestFile, to: &Path) -> Result<(), KeepError> {
    verify(file, manifest::copy(&backup.join(&file.path), to))
}

fn verify(file: &ManifestFile, digested: Result<(u64, String), KeepError>) -> Result<(), KeepError> {
    let broken = |problem: String| Err(KeepError::BrokenBackup { path: file.path.clone(), problem });
    match digested {
        Ok((bytes, _sha256)) if bytes != file.bytes => broken(format!("has {bytes} bytes where there were {}", file.bytes)),
        Ok((_bytes, sha256)) if sha256 != file.sha256 => broken("has changed since it was written".to_owned()),
        Ok(_same) => Ok(()),
        Err(KeepError::File { path, source }) if source.kind() == std::io::ErrorKind::NotFound && path.ends_with(&file.path) => {
            broken("is missing".to_owned())
        }
        Err(error) => Err(error),
    }
}
