//! SQL for analysts: read-only statements over history and state, through DataFusion.
//!
//! | file | holds |
//! |---|---|
//! | `tables` | which tables there are; the one place where further ones are registered |
//! | `observation` | history and the log's tail as one table |
//! | `rollup` | buckets of 15 minutes, hours and days as tables |
//! | `conditions`, `scan` | what a statement asks of names and times goes down to the lake; the leaf of a plan that reads it |
//! | `stop` | ends work that nobody waits for any more |
//! | `views` | devices, latest values, properties, districts, alerts, quarantine |
//! | `functions` | `time_bucket`, `local_time`, `buckets`, `distance_m`, `district_at` |
//! | `names` | what columns of an answer are called |
//! | `encode` | answers as JSON, NDJSON, CSV, Arrow and Parquet |
//! | [`postgres`] | the PostgreSQL protocol |
//!
//! Guarantees:
//! - **Nothing changes, and no file is reached.** One statement that reads is planned; definitions, changes, `COPY` and `SET` are refused
//!   by what they are, and once more by what their plan holds. There is no object store, no table function that opens files, and no
//!   function that makes a long text or list out of a short one.
//! - **One snapshot.** However often a statement names `observation`, it sees one table version and exactly the log rows that it lacks.
//!   The other views are read when the statement comes to them.
//! - **In the background.** Statements run on threads of their own, and one on half of these: however one keeps them busy, intake, the
//!   interface and other statements go on.
//! - **Bounded.** Time, rows, bytes, memory, disk and statements at once have limits ([`config::Sql`](crate::config::Sql)); what goes
//!   beyond is an error, never a shorter answer. Dropping an [`Answer`] ends all its work.

mod conditions;
mod encode;
mod error;
mod functions;
mod names;
mod observation;
pub mod postgres;
mod rollup;
mod scan;
mod statement;
mod stop;
mod tables;
mod views;

use std::num::NonZero;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use datafusion_postgres::datafusion_pg_catalog::pg_catalog::context::EmptyContextProvider;
use datafusion_postgres::datafusion_pg_catalog::setup_pg_catalog;
use deltalake::arrow::array::{RecordBatch, RecordBatchOptions};
use deltalake::arrow::datatypes::SchemaRef;
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::execution::SendableRecordBatchStream;
use deltalake::datafusion::execution::context::SessionContext;
use deltalake::datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use deltalake::datafusion::execution::memory_pool::FairSpillPool;
use deltalake::datafusion::execution::runtime_env::RuntimeEnvBuilder;
use deltalake::datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use deltalake::datafusion::physical_plan::execute_stream;
use deltalake::datafusion::prelude::SessionConfig;
use deltalake::datafusion::scalar::ScalarValue;
use deltalake::datafusion::sql::sqlparser::ast::Statement as Tree;
use futures::{Stream, StreamExt as _};
use hashbrown::HashMap;
use jiff::tz::TimeZone;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;
use url::Url;

pub use encode::Encoding;
pub use error::{Place, Sort, SqlError};
pub use statement::Statement;

use crate::config;
use crate::model::{Catalogue, Clock, Districts};
use crate::query::ask::Answers;
use crate::state::{Live, Reader, disk_free};
use crate::store::{History, Lake};

/// Where what is asked for comes from.
#[derive(Debug)]
pub struct Sources {
    /// History. Statements read the lake, whichever store answers other questions.
    pub lake: Arc<Lake>,
    /// Devices, latest values and the log's tail.
    pub live: Arc<Live>,
    /// Alerts and quarantine.
    pub reader: Arc<Reader>,
    /// Observed properties.
    pub catalogue: Arc<Catalogue>,
    /// Districts.
    pub districts: Arc<Districts>,
    /// Where "now" of devices comes from.
    pub clock: Arc<dyn Clock>,
    /// The city's time zone.
    pub zone: TimeZone,
    /// What is known of devices is asked as the interface asks it.
    pub query: config::Query,
}

impl Sources {
    fn answers(&self) -> Answers {
        Answers::new(
            History::Lake(Arc::clone(&self.lake)),
            Arc::clone(&self.live),
            Arc::clone(&self.catalogue),
            Arc::clone(&self.districts),
            Arc::clone(&self.clock),
            self.query.clone(),
        )
    }
}

/// Where statements may sort and group what is larger than the memory.
#[derive(Clone, Debug)]
pub struct Spill {
    /// The folder; what is left in it from before is deleted.
    pub folder: PathBuf,
    /// So much of the disk is left alone: intake needs it.
    pub disk_reserve_bytes: u64,
}

/// Plans and runs statements.
pub struct Engine {
    /// What every statement's own session begins as.
    state: SessionState,
    sources: Arc<Sources>,
    limits: config::Sql,
    spill: Spill,
    /// The threads that statements run on.
    threads: Option<Runtime>,
    places: Arc<Semaphore>,
    /// Places of each caller with statements under way.
    callers: Mutex<HashMap<String, Weak<Semaphore>>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Engine").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// The database's name.
pub const DATABASE: &str = "conca";

/// The name of the schema that holds all tables.
const SCHEMA: &str = "public";

/// Batches that are made before the client takes them.
const BATCHES_AHEAD: usize = 2;

/// Functions of which a short statement can make a text or list of any length, outside of what the memory's limit sees.
const UNBOUNDED: [&str; 4] = ["array_repeat", "array_resize", "lpad", "repeat"];

impl Engine {
    /// Makes the tables and functions known.
    pub fn new(sources: Arc<Sources>, limits: config::Sql, spill: Spill) -> Result<Self, SqlError> {
        let disk = match limits.spill_mib_max {
            0 => DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled),
            mib_max => {
                match std::fs::remove_dir_all(&spill.folder) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(SqlError::Folder(error)),
                    _gone => {}
                }
                std::fs::create_dir_all(&spill.folder).map_err(SqlError::Folder)?;
                let mode = DiskManagerMode::Directories(vec![spill.folder.clone()]);
                DiskManagerBuilder::default().with_mode(mode).with_max_temp_directory_size(mib_max << 20)
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads_count = cores.max(2);
        let threads = Builder::new_multi_thread().worker_threads(threads_count).thread_name("sql").enable_all().build();
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(limits.memory_mib << 20)))
            .with_disk_manager_builder(disk)
            .build_arc()?;
        // Files of this machine are known to every new runtime.
        runtime.deregister_object_store(&Url::parse("file://").expect("an address"))?;
        let mut config = SessionConfig::new()
            .with_default_catalog_and_schema(DATABASE, SCHEMA)
            .with_information_schema(true)
            .with_target_partitions(threads_count / 2);
        config.options_mut().sql_parser.collect_spans = true;
        let state = SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features().build();
        let context = SessionContext::new_with_state(state);
        tables::register(&context, &sources)?;
        functions::register(&context, &sources);
        setup_pg_catalog(&context, DATABASE, EmptyContextProvider).map_err(|error| *error)?;
        for name in UNBOUNDED {
            context.deregister_udf(name);
        }
        Ok(Self {
            state: context.state(),
            sources,
            threads: Some(threads.map_err(SqlError::Threads)?),
            places: Arc::new(Semaphore::new(limits.concurrent_max)),
            callers: Mutex::default(),
            limits,
            spill,
        })
    }

    /// A session for one statement: whatever it looks at history for, it sees the same.
    fn session(&self) -> SessionState {
        let mut state = self.state.clone();
        // A lake that is away is no hindrance to a statement that does not look at it.
        if let Ok(snapshot) = self.sources.lake.snapshot() {
            state.config_mut().set_extension(Arc::new(snapshot));
        }
        state
    }

    /// Understands a statement, without running it.
    pub async fn prepare(&self, sql: &str) -> Result<Statement, SqlError> {
        self.prepare_tree(sql, statement::parse(sql)?).await
    }

    async fn prepare_tree(&self, sql: &str, tree: Tree) -> Result<Statement, SqlError> {
        let plan = statement::plan(&self.session(), sql, &tree).await?;
        Ok(Statement::new(sql, tree, plan))
    }

    /// Runs a statement on what there is now. The caller's name is for the limit of their statements at once; a shorter time than
    /// statements may take can be asked for.
    pub async fn run(
        &self,
        caller: &str,
        statement: &Statement,
        parameters: Vec<impl Into<ScalarValue>>,
        timeout: Option<Duration>,
    ) -> Result<Answer, SqlError> {
        let timeout = timeout.map_or(self.limits.timeout.0, |timeout| timeout.min(self.limits.timeout.0));
        let deadline = Instant::now() + timeout;
        let turn = self.turn(caller, deadline).await?;
        self.spare_disk();
        let (state, statement) = (self.session(), statement.clone());
        let parameters = parameters.into_iter().map(Into::into).collect();
        let (begun, schema) = oneshot::channel();
        let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
        let over = CancellationToken::new();
        let stop = over.clone();
        let work = async move {
            // Held until the work is over: one that computes for long without a pause outlives its answer for a moment.
            let _turn = turn;
            match begin(&state, &statement, parameters, &stop).await {
                Err(error) => drop(begun.send(Err(error))),
                Ok(mut stream) => {
                    let schema = statement.named(&stream.schema());
                    drop(begun.send(Ok(Arc::clone(&schema))));
                    while let Some(batch) = stream.next().await {
                        let batch = batch.and_then(|batch| {
                            let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                            Ok(RecordBatch::try_new_with_options(Arc::clone(&schema), batch.columns().to_vec(), &rows)?)
                        });
                        let batch = batch.map_err(|error| SqlError::of(error, statement.sql()));
                        // Whoever leaves an answer lying about does not keep its place either.
                        let taken = tokio::time::timeout_at(deadline, sender.send(batch)).await;
                        if !matches!(taken, Ok(Ok(()))) {
                            break;
                        }
                    }
                }
            }
        };
        let threads = self.threads.as_ref().ok_or(SqlError::Cancelled)?;
        let work = AbortOnDropHandle::new(threads.spawn(work));
        let over = over.drop_guard();
        let schema = tokio::time::timeout_at(deadline, schema).await.map_err(|_elapsed| SqlError::Timeout(timeout))?;
        let schema = schema.map_err(|_gone| panicked())??;
        let sleep = Box::pin(tokio::time::sleep_until(deadline));
        let (rows_max, bytes_max) = (self.limits.rows_max, self.limits.answer_mib_max << 20);
        Ok(Answer { schema, batches, work, _over: over, sleep, timeout, rows: 0, rows_max, bytes: 0, bytes_max, is_over: false })
    }

    /// What statements put on the disk must not take what intake needs.
    fn spare_disk(&self) {
        let disk = &self.state.runtime_env().disk_manager;
        if self.limits.spill_mib_max == 0 {
            return;
        }
        let Some(free) = disk_free(&self.spill.folder) else { return };
        let room = free.saturating_sub(self.spill.disk_reserve_bytes) + disk.used_disk_space();
        if let Err(error) = disk.set_max_temp_directory_size(room.min(self.limits.spill_mib_max << 20)) {
            tracing::warn!(%error, "cannot limit what statements put on the disk");
        }
    }

    async fn turn(&self, caller: &str, deadline: Instant) -> Result<Turn, SqlError> {
        let own = {
            let mut callers = self.callers.lock();
            callers.retain(|_caller, places| places.strong_count() > 0);
            let known = callers.get(caller).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let places = Arc::new(Semaphore::new(self.limits.concurrent_per_caller_max));
                callers.insert(caller.to_owned(), Arc::downgrade(&places));
                places
            })
        };
        let waited = tokio::time::timeout_at(deadline, async {
            let own = own.acquire_owned().await;
            (own, Arc::clone(&self.places).acquire_owned().await)
        });
        let (own, place) = waited.await.map_err(|_elapsed| SqlError::Busy)?;
        let open = "the semaphore is never closed";
        Ok(Turn { _place: place.expect(open), _own: own.expect(open) })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Tables of PostgreSQL's catalogue hold the catalogue that holds them, and with it the state database.
        if let Some(catalog) = self.state.catalog_list().catalog(DATABASE) {
            for schema in catalog.schema_names() {
                if let Err(error) = catalog.deregister_schema(&schema, true) {
                    tracing::warn!(%error, "a schema of statements stays");
                }
            }
        }
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

async fn begin(
    state: &SessionState,
    statement: &Statement,
    parameters: Vec<ScalarValue>,
    stop: &CancellationToken,
) -> Result<SendableRecordBatchStream, SqlError> {
    let plan = statement.plan(state).await?;
    let plan = statement::with_parameters(plan, parameters, statement.sql())?;
    let begun = async {
        let physical = state.create_physical_plan(&plan).await?;
        execute_stream(stop::stoppable(physical, stop)?, state.task_ctx())
    };
    begun.await.map_err(|error| SqlError::of(error, statement.sql()))
}

/// A value of a statement's `$1`, `$2` …
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Parameter {
    /// None.
    Null(()),
    /// True or false.
    Truth(bool),
    /// A whole number.
    Whole(i64),
    /// Any number.
    Number(f64),
    /// A text; times too.
    Text(String),
}

impl From<Parameter> for ScalarValue {
    fn from(parameter: Parameter) -> Self {
        match parameter {
            Parameter::Null(()) => Self::Null,
            Parameter::Truth(truth) => Self::Boolean(Some(truth)),
            Parameter::Whole(number) => Self::Int64(Some(number)),
            Parameter::Number(number) => Self::Float64(Some(number)),
            Parameter::Text(text) => Self::Utf8(Some(text)),
        }
    }
}

/// The right to run a statement.
#[derive(Debug)]
struct Turn {
    _place: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

/// The rows of an answer as they come; they end with an error where a limit is reached.
pub struct Answer {
    schema: SchemaRef,
    batches: mpsc::Receiver<Result<RecordBatch, SqlError>>,
    /// Ends with the answer.
    work: AbortOnDropHandle<()>,
    _over: DropGuard,
    sleep: Pin<Box<Sleep>>,
    timeout: Duration,
    rows: usize,
    rows_max: usize,
    bytes: usize,
    bytes_max: usize,
    is_over: bool,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Answer").field("schema", &self.schema).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Stream for Answer {
    type Item = Result<RecordBatch, SqlError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let batch = ready!(self.poll_batch(context));
        self.is_over = !matches!(batch, Some(Ok(_)));
        Poll::Ready(batch)
    }
}

impl Answer {
    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<RecordBatch, SqlError>>> {
        if self.sleep.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(SqlError::Timeout(self.timeout))));
        }
        let Some(batch) = ready!(self.batches.poll_recv(context)) else {
            // Rows that end because the work panicked are not all.
            return Pin::new(&mut self.work).poll(context).map(|ended| ended.err().map(|_panicked| Err(panicked())));
        };
        let batch = batch?;
        self.rows += batch.num_rows();
        self.bytes += batch.get_array_memory_size();
        if self.rows > self.rows_max {
            return Poll::Ready(Some(Err(SqlError::TooManyRows { rows_max: self.rows_max })));
        }
        if self.bytes > self.bytes_max {
            return Poll::Ready(Some(Err(SqlError::TooManyBytes { mib_max: self.bytes_max >> 20 })));
        }
        Poll::Ready(Some(Ok(batch)))
    }
}

fn panicked() -> SqlError {
    DataFusionError::Internal("the work on the statement panicked".to_owned()).into()
}
