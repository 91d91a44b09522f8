//! What operators do to keep a city's data, and to move it: backup, restore, examination, export, import.
//!
//! - [`backup`] copies state database, table and the city's files beside the running service, so that they belong together.
//! - [`restore`] makes a data folder of a backup; the log begins a new life there.
//! - [`doctor`] holds everything that is kept against everything else, and says what is wrong and what to do.
//!
//! - [`export`] and [`import`] are files of observations, from and to the running service through its own interface: nothing goes behind
//!   its back.
//!
//! None of them stops intake, and none trusts a file's name: what is copied is read, digested and synced.

mod backup;
mod doctor;
mod export;
mod import;
mod manifest;
mod restore;
mod rows;
mod server;

use std::path::{Path, PathBuf};

pub use backup::{Backup, backup};
pub use doctor::{Check, Outcome, Report, doctor};
pub use export::{ExportOptions, export};
pub use import::{ImportOptions, Imported, import};
pub use manifest::{Manifest, ManifestFile};
pub use restore::{Restored, restore};
pub use rows::{RowError, RowFormat};
pub use server::{ExchangeError, ServerOptions};

use crate::state::{Head, StateError};
use crate::store::{LakeError, TableFolder, TableVersion};

/// What was asked for cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// There is nothing to keep.
    #[error("there is no {what} in {}: the service has never run there", folder.display())]
    Nothing { what: &'static str, folder: PathBuf },
    /// State database and table do not belong together.
    #[error("no version of the table goes with the state database: `conca doctor` says more")]
    Apart,
    /// The state database is damaged: a backup of it would replace a good one.
    #[error("the state database is damaged, {0}: `conca doctor` says more")]
    Damaged(String),
    /// The folder holds no complete backup.
    #[error("{} holds no complete backup: {problem}", folder.display())]
    NoBackup { folder: PathBuf, problem: String },
    /// A file of the backup is not what was written.
    #[error("the backup is damaged: {path} {problem}")]
    BrokenBackup { path: String, problem: String },
    /// There is something already.
    #[error("{} is not empty: a backup is restored into a new folder", .0.display())]
    NotEmpty(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The state database.
    #[error("the state database cannot be used")]
    State(#[from] StateError),
    /// The table.
    #[error("the table cannot be used")]
    Lake(#[from] LakeError),
}

impl KeepError {
    fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

/// The newest version of a table that goes with a look at the state database. The table goes on while the database is looked at; `first` is
/// its newest version from before that.
///
/// There is one: the version that was the newest when the look was taken. The log forgets only what the table holds, so that it holds no less
/// than the database says; and it is written of durable commits, so that it holds none that came later.
async fn matching(table: &TableFolder, head: &Head, first: u64) -> Result<Option<TableVersion>, LakeError> {
    let newest = table.newest(head.incarnation).await?;
    let last = newest.number;
    if head.goes_with(newest.held) {
        return Ok(Some(newest));
    }
    for number in (first..last).rev() {
        let version = table.version(number, head.incarnation).await?;
        if head.goes_with(version.held) {
            return Ok(Some(version));
        }
    }
    Ok(None)
}
