//! HTTP: the interface of dashboards, analysts and operators.
//!
//! | file | holds |
//! |---|---|
//! | `server` | connections: bounds, timeouts, TLS, the graceful end |
//! | `guard` | what every request passes: size, host, who calls, time, panics, headers, metrics |
//! | `auth` | `Caller`, roles |
//! | `problem` | every error, RFC 9457; the only place that turns errors into answers |
//! | `params`, `body` | what a caller sends, read strictly, all problems reported at once |
//! | `formats` | JSON, NDJSON, CSV, GeoJSON: negotiation, streaming, conditional requests |
//! | `question` | how many questions run at once, and for how long |
//! | `filters` | what addresses about observations have in common |
//! | the others | endpoints, one subject a file |
//!
//! # Adding an endpoint
//!
//! 1. A file of its own subject, `src/api/<subject>.rs`, with `pub(super) fn routes() -> OpenApiRouter<Shared>` that
//!    collects its handlers with `utoipa_axum::routes!`; one more line in `routes` below merges it.
//! 2. A handler is documented with `#[utoipa::path]`: its parameters with examples, what it answers, and
//!    `problem::Errors` for what goes wrong (`BodyErrors` too, where there is a body); what every request may meet stands there once. The names of handlers and of
//!    described types are those of the description: no two may be the same in all files.
//! 3. Its arguments say what it needs, in this order: `State(context): State<Arc<Context>>`
//!    (or `State(shared): State<Shared>` for what blocks);
//!    `auth::Operator` or `auth::Administrator` where reading is not enough (everything needs `auth::Caller`
//!    already, without saying so, except what `auth::is_open` lists); `question::QuestionPermit` where it asks the
//!    store; `params::Params` for the query; `body::JsonBody` for a body.
//! 4. `params.read(|query| …)` reads the query and refuses what it did not ask for; the format comes from
//!    `query.format(&[…])`.
//! 5. It returns `Result<_, Problem>`: `?` on [`StateError`](crate::state::StateError), `LakeError` and `DeskError` does
//!    the right thing. What blocks goes through `Shared::blocking`.
//!
//! Answers are `no-store` unless the handler says otherwise (`formats::document` does).

mod aggregates;
mod alerts;
mod auth;
mod body;
mod catalogue;
mod description;
mod devices;
mod energy;
mod filters;
mod formats;
mod guard;
mod health;
mod latest;
mod ledger;
mod mappings;
mod metrics;
mod observations;
mod params;
mod problem;
mod quarantine;
mod question;
mod registry;
mod repair;
mod rules;
mod sending;
mod server;
mod sql;
mod stream;
mod unmapped;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::FromRef;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

pub use description::description;
pub use sending::SENDERS;

use crate::alert::Desk;
use crate::config::Config;
use crate::ingest::{Depth, Door, Listening, SourceStatus};
use crate::intake::Gate;
use crate::mapping::Mappings;
use crate::metrics::Metrics;
use crate::model::{Catalogue, Clock, Districts, Timestamp};
use crate::query::tariff::Tariff;
use crate::sql::Engine;
use crate::state::{Database, Reader};
use crate::store::{History, Influx, Keeper, Lake};
use crate::tls::TlsError;
use problem::Problem;

/// The interface cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The connection of the listener.
    #[error("cannot accept connections")]
    Accept(#[source] std::io::Error),
    /// A certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
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
    /// The embedded store.
    pub lake: Arc<Lake>,
    /// The other store, where the city has it.
    pub influx: Option<Arc<Influx>>,
    /// The store that answers.
    pub history: History,
    /// Bands and prices of energy.
    pub tariff: Arc<Tariff>,
    /// Answers statements in SQL.
    pub sql: Arc<Engine>,
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
    /// The way in for messages that do not come from a broker.
    pub door: Door,
    /// Which field is which property.
    pub mappings: Arc<Mappings>,
    /// What Prometheus reads.
    pub metrics: Arc<Metrics>,
    /// When the program started.
    pub started: Timestamp,
    /// Ends streams and connections.
    pub stop: CancellationToken,
    /// The whole configuration.
    pub config: Config,
}

/// What handlers and guards share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    context: Arc<Context>,
    /// Questions at the same time.
    questions: Arc<Semaphore>,
    /// Live streams at the same time.
    streams: Arc<Semaphore>,
    /// Looks at the state database at the same time: they take threads that intake's own work needs too.
    looks: Arc<Semaphore>,
    /// `/openapi.json`.
    description: Bytes,
    patterns: Arc<guard::Patterns>,
}

impl FromRef<Shared> for Arc<Context> {
    fn from_ref(shared: &Shared) -> Self {
        Self::clone(&shared.context)
    }
}

/// Looks at the state database at the same time.
const LOOKS_MAX: usize = 4;

impl Shared {
    fn new(context: Arc<Context>, openapi: &utoipa::openapi::OpenApi) -> Self {
        Self {
            questions: Arc::new(Semaphore::new(context.config.query.concurrent_max)),
            streams: Arc::new(Semaphore::new(context.config.api.streams_max)),
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            description: openapi.to_json().expect("plain data always serialises").into(),
            patterns: Arc::new(guard::Patterns::new(openapi.paths.paths.keys())),
            context,
        }
    }

    /// Does what blocks, such as a look through [`Reader`] or a step of [`Desk`], where blocking is allowed.
    pub(crate) async fn blocking<T, E>(&self, work: impl FnOnce(&Context) -> Result<T, E> + Send + 'static) -> Result<T, Problem>
    where
        T: Send + 'static,
        E: Send + 'static,
        Problem: From<E>,
    {
        let place = Arc::clone(&self.looks).acquire_owned().await.expect("the semaphore is never closed");
        let context = Arc::clone(&self.context);
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&context);
            drop(place);
            result
        });
        Ok(done.await.map_err(|panicked| Problem::internal(&panicked))??)
    }
}

/// Every endpoint with its description. Add yours here.
fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(description::frame())
        .merge(observations::routes())
        .merge(latest::routes())
        .merge(aggregates::routes())
        .merge(energy::routes())
        .merge(sql::routes())
        .merge(devices::routes())
        .merge(registry::routes())
        .merge(catalogue::routes())
        .merge(stream::routes())
        .merge(alerts::routes())
        .merge(rules::routes())
        .merge(ledger::routes())
        .merge(sending::routes())
        .merge(quarantine::routes())
        .merge(repair::routes())
        .merge(unmapped::routes())
        .merge(mappings::routes())
        .merge(health::routes())
        .merge(metrics::routes())
        .merge(description::routes())
}

/// All of it: what the server serves, and what tests call.
pub(crate) fn router(context: Arc<Context>) -> Router {
    let (router, openapi) = routes().split_for_parts();
    let shared = Shared::new(context, &openapi);
    guard::around(router, &shared).with_state(shared)
}

/// Serves until the context's `stop`, then ends streams and connections.
pub fn serve(
    listener: TcpListener,
    context: Arc<Context>,
) -> Result<impl Future<Output = Result<(), ApiError>> + Send + 'static, ApiError> {
    server::serve(listener, context)
}

#[cfg(test)]
pub(crate) mod tests;
