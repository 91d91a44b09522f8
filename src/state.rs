//! What Conca knows between two batches: one embedded SQLite database, and its mirror in memory.
//!
//! [`Database`] is the only writer of the file. Whoever changes state takes a [`Turn`], computes on what [`Live`]
//! shows, commits one transaction, and only then publishes the change to [`Live`]; a failed commit changes nothing.
//! Readers look at [`Live`], or at the file through a [`Reader`] of their own; a [`Snapshot`] shows it at one instant.
//!
//! The database holds the intake log (what the stores have not yet made durable), the series' marks, the quarantine,
//! the ledger, the alerts and the registry of devices. History is not here: that is the stores' work.

mod block;
mod database;
mod disk;
mod ledger;
mod live;
mod reader;
mod registry;
mod rhythm;
mod snapshot;

pub use block::{Block, Lane, Origin, Place, Rows};
pub use database::{
    AlertChange, Attachment, Commit, ConditionRow, Database, Discard, FILE, FolderLock, FollowerPosition, LAKE, LOCK, MergePlan, NewDevice,
    NewRules, NewSeries, Quarantined, Restored, RestoredWork, StateError, TouchedUnit, Trim, Turn, UncopiedUnit,
};
pub use disk::disk_free;
pub use ledger::{Counts, LedgerKey, LedgerMoves};
pub use live::{Device, DeviceIndex, Event, Latest, Live, MOVE_M, Mark, Moves, Series, SeriesIndex, State, Tail};
pub use reader::{AlertFilter, LedgerRow, QuarantineFilter, QuarantineOrder, QuarantineRow, Reader, UnmappedRow};
pub use registry::RegistryChange;
pub use rhythm::Rhythm;
pub use snapshot::{Head, LogBlocks, RollupNotes, Snapshot, begin_anew, touch};
