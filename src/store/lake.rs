//! The embedded store: a Delta Lake table that follows the intake log.
//!
//! - **Exactly once.** A flush moves the log's ordered rows into the table and records the log's number as a Delta
//!   application transaction in the same commit; what the table already says it holds is never written again. Late
//!   rows wait in the log until a merge has compared them: new ones are appended, equal ones dropped, corrections
//!   rewrite the files that hold them. Every version of the table is free of duplicates.
//! - **Durable before trim.** Files, commit and folders are synced before the log forgets anything; after a crash in
//!   between, the table is verified first. On S3 what is acknowledged is durable.
//! - **One snapshot.** A question sees one table version and exactly the log rows that it lacks. Vacuum deletes only what
//!   has been unused for longer than any question may take.
//!
//! One task flushes, merges and maintains; questions run beside it. A table on S3 may be away, also when the program starts: intake
//! goes on, questions are refused, and the task tries again.

mod flush;
mod look;
mod maintain;
mod merge;
mod read;
mod retain;
mod rollup;
mod s3;
mod scan;
mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::execution::memory_pool::FairSpillPool;
use deltalake::datafusion::execution::object_store::ObjectStoreUrl;
use deltalake::datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use deltalake::datafusion::prelude::SessionContext;
use deltalake::delta_datafusion::DeltaSessionContext;
use deltalake::logstore::LogStoreRef;
use deltalake::{DeltaTable, DeltaTableError};
use parking_lot::RwLock;
use tokio::sync::MutexGuard;
use uuid::Uuid;

use jiff::tz::TimeZone;
pub use look::{TableFault, TableFile, TableFolder, TableVersion, Unused};
pub use maintain::Maintenance;
pub use retain::Oldest;
pub use rollup::{Buckets, ROLLUP_ENDING, RollupChunk, RollupChunks, RollupFault, RollupsSeen};
use rollup::{LocalDays, Rollups, Touched};
pub(super) use rollup::{RollupRow, columns_of};
pub use scan::Snapshot;
use table::Change;

use crate::model::{Catalogue, Districts, Timestamp};
use crate::state::{Block, Database, FollowerPosition, LAKE, LedgerMoves, StateError, Trim};

/// The store's name among the followers of the log.
pub const STORE: &str = LAKE;

/// The lake cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    /// Neither a folder nor an address.
    #[error("{0:?} is neither a folder nor s3://bucket/prefix")]
    Location(String),
    /// The table could not be reached since the program started. Nothing has changed: retry.
    #[error("the table could not be reached yet")]
    Unopened,
    /// What is said of the object store in the environment cannot be used.
    #[error("the object store cannot be used")]
    Storage(#[source] object_store::Error),
    /// Files of the table cannot be read now. Nothing has changed: retry.
    #[error("the table's files cannot be read")]
    Unreadable(#[source] DataFusionError),
    /// Not in a folder of this machine, whose files alone can be copied and examined.
    #[error(
        "the table at {0} is not in a folder of this machine: let the bucket keep versions or a replica of it, and copy the data folder while \
         the service is stopped"
    )]
    Remote(String),
    /// Files that the table's newest version names are missing or cut short.
    #[error("{} files of the table in {} are missing or cut short, first {:?}", files.len(), folder.display(), files.first())]
    Broken { folder: PathBuf, files: Vec<String> },
    /// The disk refuses.
    #[error("cannot write or sync the table's files")]
    Sync(#[source] std::io::Error),
    /// Delta Lake failed. Nothing has changed: retry.
    #[error("the table failed")]
    Delta(#[from] DeltaTableError),
    /// The query engine failed.
    #[error("the query engine failed")]
    Query(#[source] DataFusionError),
    /// The question needs more memory than questions may have.
    #[error("the question needs more memory than is allowed")]
    TooLarge(#[source] DataFusionError),
    /// The state database failed.
    #[error("the state database failed")]
    State(#[from] StateError),
    /// The table holds what the program did not write.
    #[error("the table holds an unknown {what}: {text:?}")]
    Unknown { what: &'static str, text: String },
    /// The other store failed.
    #[error("InfluxDB failed")]
    Influx(#[from] super::InfluxError),
    /// The program is stopping.
    #[error("the program is stopping")]
    Stopped,
}

impl From<DataFusionError> for LakeError {
    fn from(error: DataFusionError) -> Self {
        match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => Self::TooLarge(error),
            _ if is_storage(&error) => Self::Unreadable(error),
            _ => Self::Query(error),
        }
    }
}

/// Whether the object store is the cause, and not for lack of the object.
fn is_storage(error: &DataFusionError) -> bool {
    let causes = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source());
    let mut causes = causes.filter_map(|cause| cause.downcast_ref::<object_store::Error>());
    causes.next().is_some_and(|cause| !matches!(cause, object_store::Error::NotFound { .. }))
}

/// How long the program's start waits for a table on S3.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the lake works.
#[derive(Clone, Debug)]
pub struct LakeSettings {
    /// Folder or `s3://bucket/prefix`; empty means `lake` in the data folder.
    pub url: String,
    /// This node's id: part of the application transactions' ids.
    pub node: String,
    /// Memory of all questions and maintenance together, in bytes.
    pub memory_max: usize,
    /// Digests of messages that the state keeps.
    pub digests: usize,
    /// Rows that one merge of late rows takes at most.
    pub merge_rows_max: usize,
    /// The city's time zone: on its calendar observations are rolled up.
    pub zone: TimeZone,
}

/// What the lake says of itself.
#[derive(Clone, Debug)]
pub struct LakeStatus {
    /// Delta version.
    pub version: u64,
    /// Files of that version.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Their rows.
    pub rows: u64,
    /// How far it follows the log.
    pub position: FollowerPosition,
    /// Files of the rollups.
    pub rollup_files: usize,
    /// Their bytes.
    pub rollup_bytes: u64,
    /// Their rows.
    pub rollup_rows: u64,
    /// Local days and properties that are not rolled up, or anew: those of today among them.
    pub touched_units: usize,
}

/// The id of the application transactions that say what of a lane of the log the table holds.
fn transaction_id(node: &str, incarnation: Uuid, lane: &str) -> String {
    format!("conca/{node}/{incarnation}/{lane}")
}

/// What the table says it holds; zero where it says nothing.
async fn transaction(table: &DeltaTable, id: &str) -> Result<u64, LakeError> {
    let version = table.snapshot()?.transaction_version(&table.log_store(), id).await?;
    Ok(version.and_then(|version| u64::try_from(version).ok()).unwrap_or(0))
}

/// The table that questions see, and the log's part that it holds.
#[derive(Clone, Debug)]
struct Published {
    table: Arc<DeltaTable>,
    position: FollowerPosition,
    /// The table's files, by day.
    files: Arc<Vec<read::DayFile>>,
    rollups: Rollups,
    /// What the rollups may not be right about.
    touched: Arc<Touched>,
}

impl Published {
    fn new(table: DeltaTable, rollups: Rollups) -> Result<Self, LakeError> {
        let files = Arc::new(read::day_files(&table)?);
        Ok(Self { table: Arc::new(table), position: FollowerPosition::default(), files, rollups, touched: Arc::default() })
    }

    /// With another version of the table.
    fn with(&self, table: DeltaTable) -> Result<Self, LakeError> {
        let files = Arc::new(read::day_files(&table)?);
        Ok(Self { table: Arc::new(table), files, ..self.clone() })
    }
}

/// The embedded store.
pub struct Lake {
    database: Arc<Database>,
    catalogue: Arc<Catalogue>,
    districts: Arc<Districts>,
    settings: LakeSettings,
    runtime: Arc<RuntimeEnv>,
    log_store: LogStoreRef,
    /// Under which the runtime knows the table's folder.
    store_url: ObjectStoreUrl,
    /// Files that a question reads at once.
    cores: usize,
    /// None until the table was reached.
    published: RwLock<Option<Published>>,
    /// Held by whoever changes the table: one at a time.
    writer: tokio::sync::Mutex<LastChange>,
    /// Files that were looked at for rows past their time.
    examined: parking_lot::Mutex<retain::Examined>,
}

/// What is known of the last change of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastChange {
    /// Table and log agree.
    Settled,
    /// It failed, or is being made: its commit may stand all the same, and the log may not know of it.
    Unknown,
}

impl std::fmt::Debug for Lake {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Lake").field("published", &*self.published.read()).finish_non_exhaustive()
    }
}

impl Lake {
    /// Opens or makes the table, and settles what a crash may have left between table and log. A table on S3 that is away is
    /// opened later, by [`Lake::reach`].
    pub async fn open(
        data: &Path,
        database: Arc<Database>,
        catalogue: Arc<Catalogue>,
        districts: Arc<Districts>,
        settings: LakeSettings,
    ) -> Result<Self, LakeError> {
        let log_store = table::log_store(&table::location(&settings.url, &data.join("lake"))?)?;
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(settings.memory_max))).build_arc()?;
        let store_url = log_store.object_store_url();
        runtime.register_object_store(store_url.as_ref(), log_store.object_store(None));
        let lake = Self {
            log_store,
            store_url,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            published: RwLock::new(None),
            database,
            catalogue,
            districts,
            settings,
            runtime,
            writer: tokio::sync::Mutex::new(LastChange::Unknown),
            examined: parking_lot::Mutex::default(),
        };
        if lake.log_store.root_url().scheme() != table::S3 {
            lake.reach().await?;
            return Ok(lake);
        }
        // What is given up here is begun anew, like after a crash.
        let reached = tokio::time::timeout(PATIENCE, lake.reach()).await.unwrap_or(Err(LakeError::Unopened));
        match reached {
            Err(error @ (LakeError::Delta(_) | LakeError::Unopened)) => {
                tracing::error!(error = crate::error_chain(&error), "the table cannot be reached: it is tried again");
            }
            reached => reached?,
        }
        Ok(lake)
    }

    /// Opens the table, unless it is open, and settles what a crash may have left between table and log.
    pub async fn reach(&self) -> Result<(), LakeError> {
        drop(self.writer().await?);
        Ok(())
    }

    /// Whether the table was reached.
    pub fn is_open(&self) -> bool {
        self.published.read().is_some()
    }

    fn published(&self) -> Result<Published, LakeError> {
        self.published.read().clone().ok_or(LakeError::Unopened)
    }

    /// The right to change the table. First settles what a crash or a failure may have left between table and log: what
    /// failed can have come after the commit.
    async fn writer(&self) -> Result<MutexGuard<'_, LastChange>, LakeError> {
        let mut writer = self.writer.lock().await;
        if *writer == LastChange::Unknown {
            let known = self.published.read().clone();
            let newest = match known {
                Some(known) => {
                    let mut table = DeltaTable::clone(&known.table);
                    table.update_state().await?;
                    known.with(table)?
                }
                None => self.open_tables().await?,
            };
            self.settle(newest).await?;
            *writer = LastChange::Settled;
        }
        Ok(writer)
    }

    /// Opens or makes the table and its rollups.
    async fn open_tables(&self) -> Result<Published, LakeError> {
        let table = table::open_or_create(Arc::clone(&self.log_store)).await?;
        let rollups = Rollups::open(&table, &self.database, &self.catalogue, &self.settings.zone).await?;
        rollups.register(&self.runtime);
        Published::new(table, rollups)
    }

    /// Brings the log's positions up to what the table says it holds, and publishes it.
    async fn settle(&self, published: Published) -> Result<(), LakeError> {
        let table = Arc::clone(&published.table);
        let held =
            FollowerPosition { ordered: transaction(&table, &self.ordered_id()).await?, late: transaction(&table, &self.late_id()).await? };
        let (known, planned, units, last) = {
            let turn = self.database.turn();
            (turn.follower(STORE)?, turn.planned_merge(STORE)?, turn.touched()?, turn.last_sequence()?)
        };
        let furthest = held.ordered.max(held.late);
        if furthest > last {
            // Else what is received next would have numbers of which the table says that it holds them, and never come into it.
            tracing::error!(
                held = furthest,
                last,
                "the state database is older than the table: what it knew since is lost, what the table holds is not"
            );
            self.in_turn(move |turn| turn.number_behind(furthest)).await?;
        }
        // Questions must not see the old version with the trimmed log: the new pair comes first.
        let touched = Arc::new(Touched::of(&units, &self.catalogue, published.touched.moment()));
        *self.published.write() = Some(Published { position: held, touched, ..published });
        if held.ordered < known.ordered || held.late < known.late {
            tracing::error!(
                held = held.ordered,
                known = known.ordered,
                "the table lacks what the log no longer holds: is it another one, or an older copy?"
            );
        }
        if held.ordered > known.ordered || held.late > known.late {
            tracing::info!(held = held.ordered, known = known.ordered, "the table is ahead of the log's end: verifying it");
            table::verify(&table).await?;
            table::sync_commit(&table, table.version().unwrap_or(0)).await?;
            let moves = planned.filter(|plan| plan.late == held.late && held.late > known.late).map(|plan| plan.moves).unwrap_or_default();
            self.trim(Trim { store: STORE, position: held, moves, digests: self.settings.digests }).await?;
        }
        Ok(())
    }

    fn ordered_id(&self) -> String {
        transaction_id(&self.settings.node, self.database.incarnation(), "ordered")
    }

    fn late_id(&self) -> String {
        transaction_id(&self.settings.node, self.database.incarnation(), "late")
    }

    /// Commits a change that follows the log up to a new position and holds these blocks' rows: the new version and the log's new
    /// end become visible together, then the log is trimmed.
    async fn follow(
        &self,
        writer: &mut LastChange,
        change: Change,
        position: FollowerPosition,
        moves: LedgerMoves,
        blocks: &[Arc<Block>],
    ) -> Result<(), LakeError> {
        let published = self.published()?;
        let units = LocalDays::new(&self.settings.zone).units(self.database.live(), blocks.iter().map(Arc::as_ref));
        // Noted before anything is touched: a crash in between costs a needless rollup.
        self.note_touched(&published.touched, &units).await?;
        *writer = LastChange::Unknown;
        let table = table::commit(&published.table, change).await?;
        let mut touched = Touched::clone(&published.touched);
        touched.touch(units);
        *self.published.write() = Some(Published { position, touched: Arc::new(touched), ..published.with(table)? });
        self.trim(Trim { store: STORE, position, moves, digests: self.settings.digests }).await?;
        *writer = LastChange::Settled;
        Ok(())
    }

    /// Makes a change that has nothing to do with the log.
    async fn change(&self, writer: &mut LastChange, work: impl Future<Output = Result<DeltaTable, LakeError>>) -> Result<(), LakeError> {
        *writer = LastChange::Unknown;
        let table = work.await?;
        let next = self.published()?.with(table)?;
        *self.published.write() = Some(next);
        *writer = LastChange::Settled;
        Ok(())
    }

    async fn trim(&self, trim: Trim) -> Result<(), LakeError> {
        let database = Arc::clone(&self.database);
        tokio::task::spawn_blocking(move || database.turn().trim(&trim)).await.map_err(|_stopped| LakeError::Stopped)??;
        Ok(())
    }

    /// A session for one question or one piece of maintenance; all share one bounded pool of memory.
    fn session(&self) -> SessionContext {
        DeltaSessionContext::with_runtime_env(Arc::clone(&self.runtime)).into_inner()
    }

    /// What it holds; `None` until it was reached.
    pub fn status(&self) -> Result<Option<LakeStatus>, LakeError> {
        let Some(published) = self.published.read().clone() else { return Ok(None) };
        let snapshot = published.table.snapshot()?;
        let (mut files, mut bytes, mut rows) = (0, 0, 0);
        for file in snapshot.log_data().iter() {
            files += 1;
            bytes += u64::try_from(file.size()).unwrap_or(0);
            rows += file.num_records().unwrap_or(0) as u64;
        }
        let (rollup_files, rollup_bytes, rollup_rows) = published.rollups.size();
        Ok(Some(LakeStatus {
            version: published.table.version().unwrap_or(0),
            files,
            bytes,
            rows,
            position: published.position,
            rollup_files,
            rollup_bytes,
            rollup_rows,
            touched_units: published.touched.len(),
        }))
    }

    /// No observation in table and log is older; `None` where there is none at all.
    pub fn oldest_time(&self) -> Result<Option<Timestamp>, LakeError> {
        let (table, tail) = {
            let published = self.published.read();
            let published = published.as_ref().ok_or(LakeError::Unopened)?;
            let tail = self.database.live().tail_after(published.position.ordered, published.position.late);
            (published.files.first().map(read::DayFile::start), tail)
        };
        let times = tail.ordered.iter().chain(&tail.late).flat_map(|block| block.rows.time.iter().copied());
        Ok(times.chain(table).min().map(Timestamp::from_micros_clamped))
    }

    /// The first UTC day from an instant's day on of which the table has rows: where it begins.
    pub fn first_day_from(&self, time: Timestamp) -> Result<Option<Timestamp>, LakeError> {
        let files = self.published()?.files;
        let start = files.partition_point(|file| file.start() < time.micros());
        Ok(files.get(start).map(|file| Timestamp::from_micros_clamped(file.start())))
    }

    /// Deletes files that no version has used for `unused`.
    pub async fn vacuum(&self, unused: Duration) -> Result<usize, LakeError> {
        Ok(self.vacuum_files(unused).await? + self.vacuum_rollups(unused).await?)
    }
}
