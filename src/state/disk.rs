//! The disk that the data folder is on.

use std::path::Path;

/// What is free of a folder's disk for this process, in bytes; `None` where the system does not tell.
pub fn disk_free(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}
