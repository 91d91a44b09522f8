//! Which store answers questions.

use std::sync::Arc;

use super::{Chunks, Detail, Influx, Lake, LakeError, Order, Selection};
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

    /// No observation is older; `None` where there is none at all.
    pub async fn oldest_time(&self) -> Result<Option<Timestamp>, LakeError> {
        match self {
            Self::Lake(lake) => lake.oldest_time(),
            Self::Influx(influx) => Ok(influx.oldest_time().await?),
        }
    }
}
