//! Whether anything may be accepted, and if not, why: intake stands still rather than acknowledge what it may not be able to keep.

use std::fmt;
use std::path::PathBuf;

use parking_lot::Mutex;
use serde::Serialize;

use crate::model::Timestamp;
use crate::state::{Live, disk_free};

/// Why nothing is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Pause {
    /// What is free of the disk is kept for flushing and trimming.
    DiskReserve { free_bytes: u64, reserve_bytes: u64 },
    /// The intake log may not grow: the store is behind.
    LogFull { bytes: usize, bytes_max: usize },
    /// The last commit failed; it is tried again.
    CommitFailed { error: String },
}

impl fmt::Display for Pause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskReserve { free_bytes, reserve_bytes } => {
                write!(formatter, "the disk has {free_bytes} bytes left, of which {reserve_bytes} are reserved")
            }
            Self::LogFull { bytes, bytes_max } => write!(formatter, "the intake log holds {bytes} bytes, at most {bytes_max} are allowed"),
            Self::CommitFailed { error } => write!(formatter, "the last commit failed: {error}"),
        }
    }
}

/// Bounds of what may be accepted.
#[derive(Clone, Debug)]
pub struct GateLimits {
    /// The folder whose disk is looked at.
    pub folder: PathBuf,
    /// Disk to keep free, in bytes.
    pub disk_reserve_bytes: u64,
    /// Memory of the intake log, in bytes.
    pub log_bytes_max: usize,
}

/// Whether anything may be accepted.
#[derive(Debug)]
pub struct Gate {
    limits: GateLimits,
    pause: Mutex<Option<(Pause, Timestamp)>>,
}

impl Gate {
    /// Open.
    pub fn new(limits: GateLimits) -> Self {
        Self { limits, pause: Mutex::new(None) }
    }

    /// Why nothing is accepted, and since when.
    pub fn pause(&self) -> Option<(Pause, Timestamp)> {
        self.pause.lock().clone()
    }

    /// Looks whether a batch may be committed now.
    pub fn check(&self, live: &Live, now: Timestamp) -> Result<(), Pause> {
        let GateLimits { folder, disk_reserve_bytes, log_bytes_max } = &self.limits;
        let bytes = live.read().tail_bytes;
        let pause = if bytes > *log_bytes_max {
            Some(Pause::LogFull { bytes, bytes_max: *log_bytes_max })
        } else {
            // A disk that does not tell is left to the commit, which will fail if it is full.
            let free = disk_free(folder).unwrap_or(u64::MAX);
            (free < *disk_reserve_bytes).then_some(Pause::DiskReserve { free_bytes: free, reserve_bytes: *disk_reserve_bytes })
        };
        match pause {
            Some(pause) => {
                self.set(pause.clone(), now);
                Err(pause)
            }
            None => Ok(()),
        }
    }

    /// The commit did not succeed.
    pub fn fail(&self, error: String, now: Timestamp) {
        self.set(Pause::CommitFailed { error }, now);
    }

    /// A commit succeeded. Returns since when nothing did, if something was in the way.
    pub fn open(&self) -> Option<Timestamp> {
        self.pause.lock().take().map(|(_pause, since)| since)
    }

    fn set(&self, pause: Pause, now: Timestamp) {
        let mut current = self.pause.lock();
        let since = if let Some((_pause, since)) = &*current {
            *since
        } else {
            tracing::error!(%pause, "nothing is accepted");
            now
        };
        *current = Some((pause, since));
    }
}
