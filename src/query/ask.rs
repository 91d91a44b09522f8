//! Questions put to the store and to the latest values, and their answers. No HTTP.
//!
//! | question | answered from |
//! |---|---|
//! | [`Answers::aggregates`] | a scan of one property, pushed through the [`super::aggregate`] core |
//! | [`Answers::consumption`] | a scan of one counter, pushed through the [`super::consumption`] core |
//! | [`Answers::observations`], [`Answers::export`] | a scan, by pages or as it comes |
//! | [`Answers::latest`] | the state in memory; never a scan |
//! | [`Answers::devices`], [`Answers::device`] | the state in memory |
//! | [`Answers::health`] | a scan of one device, and the state in memory |
//!
//! Guarantees:
//! - Each answer rests on one snapshot of table and log, in which no identity counts twice. (A counter's reading before the windows
//!   is looked for in a snapshot taken just before.)
//! - What a question costs is bounded in buckets, rows kept and rows of a page; too much is refused with the reason. How long it may
//!   take, and how many go on at once, is the asker's to say: dropping the future ends all work.
//! - Suspect observations count only where [`Quality::Any`] asks for them.
//!
//! A place filter is about observations: where they were made, not where their device is now. For silent devices see [`place`].

mod aggregates;
mod consumption;
mod export;
mod filter;
mod health;
mod latest;
mod observations;
pub mod place;
mod registry;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use aggregates::{AggregateQuestion, AggregateSeries, Aggregates, SeriesKey};
pub use consumption::{Consumption, ConsumptionBucket, ConsumptionQuestion, ConsumptionSeries};
pub use export::Export;
pub use filter::{Filter, Quality};
pub use health::DeviceHealth;
pub use latest::{LatestQuestion, LatestValue};
pub use observations::{Cursor, Direction, InvalidCursor, ObservationQuestion, ObservationRow, Page};
pub use registry::{Battery, DeviceList, DeviceQuestion, DeviceSummary, Interval, IntervalSource};

use super::aggregate::AggregateError;
use super::function::FunctionError;
use crate::config;
use crate::model::WindowsError;
use crate::model::{Catalogue, Clock, Districts};
use crate::state::Live;
use crate::store::{History, LakeError};

/// A question is not answered.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// A device that never spoke.
    #[error("no device {0:?} was ever heard")]
    UnknownDevice(String),
    /// A kind of which no device ever spoke.
    #[error("no device of kind {kind:?} was ever heard{known}")]
    UnknownKind { kind: String, known: String },
    /// A time range without anything in it.
    #[error("the time range is empty: `from` must lie before `to`")]
    EmptyRange,
    /// A function that is unknown or makes no sense.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// Windows that cannot be made.
    #[error(transparent)]
    Windows(#[from] WindowsError),
    /// More than may be kept, or rows that the store gave in disorder.
    #[error(transparent)]
    Aggregate(#[from] AggregateError),
    /// Not a meter's property.
    #[error("{0} is no counter: only counters say what was used")]
    NoCounter(String),
    /// More than may be kept.
    #[error(
        "{meters} meters at {borders} borders of windows and bands are more than the {buckets_max} allowed: ask for longer windows, less time or fewer meters"
    )]
    TooManyMeters { meters: usize, borders: usize, buckets_max: usize },
    /// More kinds than answers can be told apart by.
    #[error("there are more than {0} kinds of devices: group by something else")]
    TooManyKinds(u16),
    /// More times than may be kept.
    #[error("the device spoke at more than the {times_max} times that may be looked at: ask for less time")]
    TooManyTimes { times_max: usize },
    /// More rows than a page may have.
    #[error("a page has 1 to {rows_max} rows, not {asked}")]
    PageSize { asked: usize, rows_max: usize },
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] LakeError),
    /// The work was given up.
    #[error("the program is stopping")]
    Stopped,
}

/// Answers questions.
#[derive(Debug)]
pub struct Answers {
    history: History,
    live: Arc<Live>,
    catalogue: Arc<Catalogue>,
    districts: Arc<Districts>,
    clock: Arc<dyn Clock>,
    limits: config::Query,
}

impl Answers {
    /// Answers from a store.
    pub fn new(
        history: History,
        live: Arc<Live>,
        catalogue: Arc<Catalogue>,
        districts: Arc<Districts>,
        clock: Arc<dyn Clock>,
        limits: config::Query,
    ) -> Self {
        Self { history, live, catalogue, districts, clock, limits }
    }
}
