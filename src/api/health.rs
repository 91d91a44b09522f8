//! Whether the server lives, and how it is.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::formats;
use super::params::Params;
use super::problem::{Errors, Problem};
use super::{Context, Shared};
use crate::config::StoreName;
use crate::ingest::SourceStatus;
use crate::intake::Pause;
use crate::model::Timestamp;
use crate::state::{Counts, Reader, StateError, disk_free};
use crate::store::{InfluxStatus, LakeStatus, STORE_INFLUXDB};

/// What a broker that drops messages of its own means for whoever reads this.
const DROPS: &str = "the broker dropped messages before they reached this server, which cannot bring them back: \
     set its queue limits as the README's section on brokers says";

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(show_health)).routes(routes!(show_status))
}

/// The process lives.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Health {
    #[schema(value_type = String, example = "alive")]
    status: &'static str,
}

/// Whether the process lives.
///
/// Says nothing of sources and store: a program that restarts the server because a broker is away makes it worse. For
/// that there is `/status`.
#[utoipa::path(get, path = "/health", tag = "operations", security(()), responses((status = 200, description = "It lives", body = Health)))]
async fn show_health() -> Response {
    formats::json(&Health { status: "alive" })
}

/// How the server is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Status {
    /// The node's id.
    #[schema(example = "conca-1")]
    node: String,
    /// The program's version.
    #[schema(value_type = String, example = "0.1.0")]
    version: &'static str,
    /// When the program started.
    #[schema(value_type = String, format = DateTime)]
    started: Timestamp,
    /// Its clock.
    #[schema(value_type = String, format = DateTime)]
    now: Timestamp,
    /// Whether every source is connected, messages are accepted, and the lake does its work.
    ready: bool,
    /// By source.
    sources: Vec<SourceState>,
    intake: IntakeState,
    log: LogState,
    lake: LakeState,
    /// InfluxDB, where it is one of the stores.
    #[serde(skip_serializing_if = "Option::is_none")]
    influxdb: Option<InfluxState>,
    /// The store that answers questions.
    query_store: StoreName,
    devices: Bounded,
    /// Active alerts.
    alerts_active: usize,
    /// Free disk under the data folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_free_bytes: Option<u64>,
    /// Resident memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    ledger: LedgerTotal,
}

/// A source.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct SourceState {
    #[schema(example = "main")]
    name: String,
    /// Whether it is connected and subscribed.
    ready: bool,
    /// Since when it is ready or not.
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// What went wrong last, if it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// When the last message came.
    #[schema(value_type = Option<String>, format = DateTime)]
    heard: Option<Timestamp>,
    /// Messages since the program started.
    received: u64,
    /// Messages that nobody waits for (MQTT's service 0) that were dropped for lack of room and are not in the ledger yet.
    shed: u64,
    /// Messages that the broker says it dropped of its own.
    broker_dropped: u64,
    /// Connections since the program started.
    connections: u64,
    /// What an operator should do something about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    warning: Option<&'static str>,
}

/// Whether messages are accepted.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct IntakeState {
    /// Why nothing is accepted; left out where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<Paused>,
    /// Messages that wait for the commit.
    queue: Bounded,
    /// Since when messages of all sources come as they are sent; before, silence cannot be judged.
    #[schema(value_type = Option<String>, format = DateTime)]
    listening_since: Option<Timestamp>,
    /// Number of the last commit.
    sequence: u64,
}

/// Why nothing is accepted.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Paused {
    #[serde(flatten)]
    pause: Pause,
    /// In words.
    detail: String,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
}

/// How many there are, and how many there may be.
#[derive(Clone, Copy, Debug, Serialize, utoipa::ToSchema)]
struct Bounded {
    count: usize,
    max: usize,
}

/// What the store does not hold yet.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct LogState {
    /// Rows that are certainly new.
    rows_ordered: usize,
    /// Rows that are to be compared with what is stored.
    rows_late: usize,
    /// Memory.
    bytes: usize,
    /// Memory that it may take; then nothing more is accepted.
    bytes_max: usize,
}

/// The store.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct LakeState {
    /// The table; left out until it was reached.
    #[serde(flatten)]
    table: Option<TableState>,
    /// What fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<LakeFailure>,
}

/// The store's table.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct TableState {
    /// Delta version.
    version: u64,
    files: usize,
    bytes: u64,
    rows: u64,
    /// Last commit of the ordered lane that it holds.
    ordered: u64,
    /// Last commit of the late lane that it holds.
    late: u64,
    rollups: RollupState,
}

impl TableState {
    fn of(lake: &LakeStatus) -> Self {
        Self {
            version: lake.version,
            files: lake.files,
            bytes: lake.bytes,
            rows: lake.rows,
            ordered: lake.position.ordered,
            late: lake.position.late,
            rollups: RollupState {
                files: lake.rollup_files,
                bytes: lake.rollup_bytes,
                rows: lake.rollup_rows,
                touched: lake.touched_units,
            },
        }
    }
}

/// The rollups of the store.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct RollupState {
    files: usize,
    bytes: u64,
    rows: u64,
    /// Local days times properties that are answered from observations: today's, and what was touched since it was rolled up.
    touched: usize,
}

/// Work of the store that fails and is tried again.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct LakeFailure {
    #[schema(example = "flush")]
    work: String,
    /// Why.
    error: String,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
}

/// All that was ever received.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct LedgerTotal {
    total: Counts,
    /// Whether nothing is missing: received = accepted + rejected + repeated + shed, and readings = stored + duplicate +
    /// corrected + quarantined + pending.
    balances: bool,
}

/// How the server is.
///
/// 200 where it is ready, else 503 with the same body.
#[utoipa::path(
    get, path = "/status", tag = "operations",
    responses((status = 200, description = "Ready", body = Status), (status = 503, description = "Not ready", body = Status), Errors)
)]
async fn show_status(State(shared): State<Shared>, params: Params) -> Result<Response, Problem> {
    params.none()?;
    let (total, lake, influx) = shared
        .blocking(|context| {
            let influx = match &context.influx {
                Some(influx) => Some(InfluxState::of(influx.status(), &context.reader)?),
                None => None,
            };
            Ok::<_, Problem>((context.reader.ledger_total()?, context.lake.status()?, influx))
        })
        .await?;
    let status = Status::of(&shared.context, total, lake.as_ref(), influx);
    let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((code, formats::json(&status)).into_response())
}

impl Status {
    fn of(context: &Context, total: Counts, lake: Option<&LakeStatus>, influxdb: Option<InfluxState>) -> Self {
        let config = &context.config;
        let now = context.clock.now();
        let (log, devices, sequence) = {
            let live = context.database.live();
            let state = live.read();
            let bytes_max = config.intake.log_mib_max << 20;
            let log = LogState { rows_ordered: state.tail_rows.0, rows_late: state.tail_rows.1, bytes: state.tail_bytes, bytes_max };
            (log, state.devices.len(), live.sequence())
        };
        let sources: Vec<SourceState> = context.sources.iter().map(SourceState::of).collect();
        let paused = context.gate.pause().map(|(pause, since)| Paused { detail: pause.to_string(), pause, since });
        let failure = context.keeper.failure();
        let failure = failure.map(|failure| LakeFailure {
            work: format!("{:?}", failure.work).to_lowercase(),
            error: failure.error,
            since: failure.since,
        });
        let (waiting, waiting_max) = context.waiting.get();
        Self {
            node: config.node.id.clone(),
            version: env!("CARGO_PKG_VERSION"),
            started: context.started,
            now,
            ready: paused.is_none() && failure.is_none() && lake.is_some() && sources.iter().all(|source| source.ready),
            sources,
            intake: IntakeState {
                paused,
                queue: Bounded { count: waiting, max: waiting_max },
                listening_since: context.listening.since(now),
                sequence,
            },
            log,
            lake: LakeState { table: lake.map(TableState::of), failure },
            influxdb,
            query_store: config.query_store,
            devices: Bounded { count: devices, max: config.intake.devices_max },
            alerts_active: context.desk.active_count(),
            disk_free_bytes: disk_free(&config.node.data),
            memory_bytes: super::metrics::resident_bytes(),
            ledger: LedgerTotal { total, balances: total.balances() },
        }
    }
}

/// InfluxDB as a follower of the log.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct InfluxState {
    /// Bytes of the log that it does not have yet.
    behind_bytes: u64,
    /// Up to which phenomenon time it has what the lake had when it was attached; absent once it has all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    copied: Option<Timestamp>,
    /// Local days and properties whose rollups it lacks; absent while that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    rollups_behind: Option<usize>,
    /// Points written since the program started.
    written: u64,
    /// Points that it refused since then; they are in the quarantine.
    refused: u64,
    /// What fails, until it succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Since when it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
}

impl InfluxState {
    fn of(status: InfluxStatus, reader: &Reader) -> Result<Self, StateError> {
        let InfluxStatus { position, copied, written, refused, failure } = status;
        let (error, since) = failure.unzip();
        let rollups_behind = reader.uncopied(STORE_INFLUXDB, None)?.map(|units| units.len());
        Ok(Self { behind_bytes: reader.log_bytes_after(position)?, copied, rollups_behind, written, refused, error, since })
    }
}

impl SourceState {
    fn of(source: &Arc<SourceStatus>) -> Self {
        let broker_dropped = source.broker_dropped.load(Ordering::Relaxed);
        Self {
            name: source.name.to_string(),
            ready: source.is_ready(),
            since: source.since(),
            error: source.error(),
            heard: source.heard(),
            received: source.received.load(Ordering::Relaxed),
            shed: source.shed.load(Ordering::Relaxed),
            broker_dropped,
            connections: source.connections.load(Ordering::Relaxed),
            warning: (broker_dropped > 0).then_some(DROPS),
        }
    }
}
