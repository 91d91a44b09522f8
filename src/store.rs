//! Queryable history: followers of the intake log that answer questions over what they hold and the log's tail together.
//!
//! [`Lake`] is the embedded store. Whatever it answers, no identity (device, property, time) is counted twice.

mod keeper;
mod lake;
mod selection;

pub use keeper::{Keeper, KeeperFailure, Schedule};
pub use lake::{Lake, LakeError, LakeSettings, LakeStatus, Maintenance, STORE};
pub use selection::{Area, Chunk, Chunks, Detail, NO_DISTRICT, Order, Selection};
