//! Which store answers questions.

use std::sync::Arc;

use super::{Chunks, Detail, Influx, Lake, LakeError, Order, Selection, Snapshot};
use crate::model::Timestamp;

/// The store that answers.
#[derive(Clone, Debug)]
pub enum History {
    /// Table and log together.
    Lake(Arc<Lake>),
    /// What InfluxDB has followed so far: a moment less.
    Influx(Arc<Influx>),
}

impl History {
    /// All observations of a selection, each identity once.
    pub fn scan(&self, selection: Selection, order: Order, detail: Detail) -> Result<Chunks, LakeError> {
        match self {
            Self::Lake(lake) => lake.scan(selection, order, detail),
            Self::Influx(influx) => Ok(influx.scan(selection, detail)),
        }
    }

    /// Its state now, for several reads: of the lake one snapshot, of InfluxDB what it has when it is asked.
    pub fn view(&self) -> Result<View<'_>, LakeError> {
        Ok(match self {
            Self::Lake(lake) => View::Lake(lake, lake.snapshot()?),
            Self::Influx(influx) => View::Influx(influx),
        })
    }

    /// No observation is older; `None` where there is none at all.
    pub async fn oldest_time(&self) -> Result<Option<Timestamp>, LakeError> {
        match self {
            Self::Lake(lake) => lake.oldest_time(),
            Self::Influx(influx) => Ok(influx.oldest_time().await?),
        }
    }
}

/// One state of the store that answers.
#[derive(Debug)]
pub enum View<'a> {
    /// Table, rollups and log.
    Lake(&'a Lake, Snapshot),
    /// Without rollups.
    Influx(&'a Arc<Influx>),
}

impl View<'_> {
    /// All observations of a selection, each identity once.
    pub fn scan(&self, selection: Selection, order: Order, detail: Detail) -> Result<Chunks, LakeError> {
        match self {
            Self::Lake(lake, snapshot) => lake.scan_at(snapshot, selection, order, detail),
            Self::Influx(influx) => Ok(influx.scan(selection, detail)),
        }
    }

    /// The store and its state, where it has rollups.
    pub fn rolled_up(&self) -> Option<(&Lake, &Snapshot)> {
        match self {
            Self::Lake(lake, snapshot) => Some((lake, snapshot)),
            Self::Influx(_) => None,
        }
    }
}
