//! Queryable history: followers of the intake log that answer questions over what they hold and the log's tail together.
//!
//! [`Lake`] is the embedded store, and always there: it settles what is late. [`Influx`] may follow beside it. Whichever of them answers,
//! no identity (device, property, time) is counted twice, and the same question has the same answer once it has followed.

mod history;
mod influx;
mod keeper;
mod lake;
mod selection;

pub use history::{History, View};
pub use influx::{Follower, Influx, InfluxError, InfluxSettings, InfluxStatus, Pieces, STORE as STORE_INFLUXDB};
pub use keeper::{Keeper, KeeperFailure, Schedule};
pub use lake::{
    Buckets, Lake, LakeError, LakeSettings, LakeStatus, Maintenance, Oldest, ROLLUP_ENDING, RollupChunk, RollupChunks, RollupFault,
    RollupsSeen, STORE, Snapshot, TableFault, TableFile, TableFolder, TableVersion, Unused,
};
pub use selection::{Area, Chunk, Chunks, Detail, NO_DISTRICT, Order, Selection};
