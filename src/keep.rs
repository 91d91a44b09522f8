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

/// The oldest version of a table that goes with a look at the state database. The table goes on while the database is looked at; `first` is
/// its newest version from before that.
///
/// There is one: the version that was the newest when the look was taken. The log forgets only what the table holds, so that it holds no less
/// than the database says; and it is written of durable commits, so that it holds none that came later. The oldest, since what is noted
/// before a version is made, such as what it touches of the rollups, must be in the database too.
async fn matching(table: &TableFolder, head: &Head, first: u64) -> Result<Option<TableVersion>, LakeError> {
    let last = table.newest(head.incarnation).await?.number;
    for number in first..=last {
        let version = table.version(number, head.incarnation).await?;
        if head.goes_with(version.held) {
            return Ok(Some(version));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Catalogue, DeviceId, DeviceKind, Districts, Domain, PropertyIndex, Timestamp};
    use crate::state::{Commit, Database, DeviceIndex, FILE, NewDevice, NewSeries, Place, SeriesIndex, Snapshot};
    use crate::store::{Lake, LakeSettings};

    #[tokio::test]
    async fn the_version_that_goes_with_a_copy_is_found_however_far_the_table_has_gone_on() {
        let folder = tempfile::tempdir().unwrap();
        let (catalogue, districts) = (Arc::new(Catalogue::built_in()), Arc::new(Districts::built_in()));
        let database = Arc::new(Database::open(folder.path(), &catalogue, &districts).unwrap().0);
        let settings = LakeSettings {
            url: String::new(),
            node: "n".to_owned(),
            memory_max: 64 << 20,
            digests: 10,
            merge_rows_max: 1_000,
            zone: jiff::tz::TimeZone::UTC,
        };
        let lake = Lake::open(folder.path(), Arc::clone(&database), catalogue, districts, settings).await.unwrap();
        let table = TableFolder::find("", folder.path(), "n").unwrap().unwrap();
        let device = NewDevice {
            id: DeviceId::try_from("a").unwrap(),
            kind: DeviceKind::try_from("k").unwrap(),
            domain: Domain::Energy,
            first_seen: Timestamp::MIN,
        };
        let series = NewSeries { device: DeviceIndex(0), property: PropertyIndex(0) };
        database.turn().commit(Commit { new_devices: vec![device], new_series: vec![series], ..Commit::default() }).unwrap();
        let receive = |minute: i64| {
            let mut commit = Commit::default();
            commit.ordered.push(SeriesIndex(0), minute * 60_000_000, 1.0, 0, Place::default(), None);
            database.turn().commit(commit).unwrap();
        };
        receive(1);
        lake.flush().await.unwrap();
        receive(2);
        let first = table.newest(database.incarnation()).await.unwrap().number;
        // A flush of what is in the copy, then others of what is not.
        lake.flush().await.unwrap();
        receive(3);
        let copy = folder.path().join("copy.sqlite");
        Snapshot::copy(&folder.path().join(FILE), &copy).unwrap();
        let head = Snapshot::open(&copy).unwrap().head().unwrap();
        for minute in 4..7 {
            lake.flush().await.unwrap();
            receive(minute);
        }
        let newest = table.newest(database.incarnation()).await.unwrap();
        assert!(!head.goes_with(newest.held));
        let found = matching(&table, &head, first).await.unwrap().unwrap();
        assert_eq!((found.number, found.held.ordered, head.sequence), (first + 1, 3, 4));
        // A table that was put back behind the log goes with nothing.
        let older = table.version(first, database.incarnation()).await.unwrap();
        assert!(!head.goes_with(older.held));
        assert!(matching(&table, &head, newest.number).await.unwrap().is_none());
    }
}
