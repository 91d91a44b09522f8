//! HTTP.

use std::future::Future;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::alert::Desk;
use crate::config::Config;
use crate::ingest::{Depth, Listening, SourceStatus};
use crate::intake::Gate;
use crate::metrics::Metrics;
use crate::model::{Catalogue, Clock, Districts, Timestamp};
use crate::state::{Database, Reader};
use crate::store::{Keeper, Lake};

/// The interface cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The connection of the listener.
    #[error("cannot accept connections")]
    Accept(#[source] std::io::Error),
}

/// What handlers need.
#[derive(Debug)]
pub struct Context {
    /// Where "now" comes from.
    pub clock: Arc<dyn Clock>,
    /// Observed properties.
    pub catalogue: Arc<Catalogue>,
    /// Districts.
    pub districts: Arc<Districts>,
    /// The state database and its mirror in memory.
    pub database: Arc<Database>,
    /// Looks at the state database's file. Blocking.
    pub reader: Arc<Reader>,
    /// The store that answers.
    pub lake: Arc<Lake>,
    /// What the lake's upkeep says of itself.
    pub keeper: Arc<Keeper>,
    /// Rules and alerts.
    pub desk: Arc<Desk>,
    /// Whether anything is accepted.
    pub gate: Arc<Gate>,
    /// Since when sources are heard as they speak.
    pub listening: Arc<Listening>,
    /// The sources.
    pub sources: Vec<Arc<SourceStatus>>,
    /// Messages that wait for the commit.
    pub waiting: Depth,
    /// What Prometheus reads.
    pub metrics: Arc<Metrics>,
    /// When the program started.
    pub started: Timestamp,
    /// Ends streams and connections.
    pub stop: CancellationToken,
    /// The whole configuration.
    pub config: Config,
}

/// Serves until the context's `stop`.
pub fn serve(listener: TcpListener, context: Arc<Context>) -> Result<impl Future<Output = Result<(), ApiError>> + Send + 'static, ApiError> {
    drop(listener);
    Ok(async move {
        context.stop.cancelled().await;
        Ok(())
    })
}

/// The OpenAPI description.
pub fn description() -> serde_json::Value {
    serde_json::Value::Null
}
