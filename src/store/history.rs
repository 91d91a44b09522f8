//! Which store answers questions.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::tz::TimeZone;

use super::{Chunks, Detail, Influx, Lake, LakeError, Order, Pieces, RollupChunks, Selection, Snapshot};
use crate::model::{PropertyIndex, Timestamp};
use crate::rollup::{Statistic, Tier};

/// The store that answers.
#[derive(Clone, Debug)]
pub enum History {
    /// Table and log together.
    Lake(Arc<Lake>),
    /// What InfluxDB has followed so far: a moment less. The lake knows which rollups are right.
    Influx(Arc<Influx>, Arc<Lake>),
}

impl History {
    /// All observations of a selection, each identity once.
    pub fn scan(&self, selection: Selection, order: Order, detail: Detail) -> Result<Chunks, LakeError> {
        match self {
            Self::Lake(lake) => lake.scan(selection, order, detail),
            Self::Influx(influx, _lake) => Ok(influx.scan(selection, detail)),
        }
    }

    /// Its state now, for several reads: of the lake one snapshot, of InfluxDB what it has when it is asked.
    pub fn view(&self) -> Result<View<'_>, LakeError> {
        Ok(match self {
            Self::Lake(lake) => View::Lake(lake, lake.snapshot()?),
            Self::Influx(influx, lake) => {
                // Before anything else is looked at.
                let rewrites = influx.rewrites();
                let snapshot = match lake.snapshot() {
                    Err(LakeError::Unopened) => None,
                    snapshot => Some(snapshot?),
                };
                View::Influx { influx, lake, snapshot, rewrites }
            }
        })
    }

    /// No observation is older; `None` where there is none at all.
    pub async fn oldest_time(&self) -> Result<Option<Timestamp>, LakeError> {
        match self {
            Self::Lake(lake) => lake.oldest_time(),
            Self::Influx(influx, _lake) => Ok(influx.oldest_time().await?),
        }
    }
}

/// One state of the store that answers.
#[derive(Debug)]
pub enum View<'a> {
    /// Table, rollups and log.
    Lake(&'a Lake, Snapshot),
    /// InfluxDB, and what the lake says of rollups unless it is away.
    Influx {
        /// Who answers.
        influx: &'a Arc<Influx>,
        /// Who knows what is rolled up.
        lake: &'a Lake,
        /// Its state.
        snapshot: Option<Snapshot>,
        /// How many units of rollups had been written when all this began.
        rewrites: u64,
    },
}

impl View<'_> {
    /// All observations of a selection, each identity once.
    pub fn scan(&self, selection: Selection, order: Order, detail: Detail) -> Result<Chunks, LakeError> {
        match self {
            Self::Lake(lake, snapshot) => lake.scan_at(snapshot, selection, order, detail),
            Self::Influx { influx, .. } => Ok(influx.scan(selection, detail)),
        }
    }

    /// The time zone on whose calendar rollups are.
    pub fn zone(&self) -> &TimeZone {
        match self {
            Self::Lake(lake, _) | Self::Influx { lake, .. } => lake.zone(),
        }
    }

    /// Where the local days begin whose rollups may not be what the observations of a property come to, or are not here; `None`
    /// where none can be told to be right.
    pub async fn touched_days(&self, property: PropertyIndex) -> Result<Option<Vec<Timestamp>>, LakeError> {
        match self {
            Self::Lake(lake, snapshot) => Ok(Some(lake.touched_days(snapshot, property))),
            Self::Influx { snapshot: None, .. } => Ok(None),
            Self::Influx { influx, lake, snapshot: Some(snapshot), .. } => {
                let Some(uncopied) = influx.uncopied_days(property).await? else { return Ok(None) };
                let mut days = lake.touched_days(snapshot, property);
                days.extend(uncopied.into_iter().map(|day| lake.day(day).0));
                Ok(Some(days))
            }
        }
    }

    /// From which local day on there are rollups of each tier that has any: where it begins.
    pub fn rolled_up_from(&self) -> Vec<(Tier, Timestamp)> {
        match self {
            Self::Lake(lake, snapshot) | Self::Influx { lake, snapshot: Some(snapshot), .. } => lake.rolled_up_from_at(snapshot),
            Self::Influx { snapshot: None, .. } => Vec::new(),
        }
    }

    /// The buckets of a tier of one property that begin in a stretch, of selected devices and districts: those of trusted readings, and
    /// beside them, if wanted, those of suspect ones. With [`Order::SeriesTime`] those of a device come by ascending time.
    pub fn rollup(
        &self,
        tier: Tier,
        statistic: Statistic,
        selection: &Selection,
        order: Order,
        detail: Detail,
    ) -> Result<RollupChunks, LakeError> {
        match self {
            Self::Lake(lake, snapshot) => lake.rollup_at(snapshot, tier, statistic, selection, order, detail),
            Self::Influx { influx, .. } => Ok(influx.rollup(tier, statistic, selection)),
        }
    }

    /// Whether the store aggregates pieces of time by itself.
    pub fn has_pieces(&self) -> bool {
        matches!(self, Self::Influx { .. })
    }

    /// What trusted readings of one property come to in pieces of a stretch, by device, where the store has them.
    pub fn pieces(&self, every: Duration, statistic: Statistic, selection: &Selection) -> BoxStream<'static, Result<Pieces, LakeError>> {
        match self {
            Self::Lake(..) => stream::empty().boxed(),
            Self::Influx { influx, .. } => influx.pieces(every, statistic, selection),
        }
    }

    /// Whether what was read of the rollups of a property in a stretch is of one state.
    pub fn is_whole(&self, property: PropertyIndex, from: Timestamp, to: Timestamp) -> bool {
        match self {
            Self::Lake(..) => true,
            Self::Influx { influx, rewrites, .. } => !influx.has_rewritten(*rewrites, property, from, to),
        }
    }
}
