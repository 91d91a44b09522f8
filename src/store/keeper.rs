//! The lake's own work in the background: flush, merge, compaction, rollups, retention, vacuum.
//!
//! One loop follows the log, another looks after what is in the table: however long that takes, the log does not wait for it. Each does one
//! thing at a time. What fails is tried again with growing pauses, shows in the status and in metrics, and never stops intake by itself:
//! only a log that grows too long does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Lake, LakeError, Maintenance, Oldest};
use crate::metrics::{Metrics, Work, WorkLabels};
use crate::model::{Clock, Domain, Timestamp};
use crate::rollup::Tier;
use crate::state::Database;

/// When what is done.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Rows in the log's ordered lane from which it is flushed.
    pub flush_rows: usize,
    /// Memory of the log from which it is flushed, in bytes.
    pub flush_bytes: usize,
    /// How long rows wait in the log at most.
    pub flush_after: Duration,
    /// How often late rows are merged.
    pub merge_every: Duration,
    /// How often files are looked over.
    pub maintain_every: Duration,
    /// How long observations are kept; `None` means for ever.
    pub kept: Option<Duration>,
    /// How long observations of a domain's properties are kept, in place of `kept`.
    pub kept_of: BTreeMap<Domain, Option<Duration>>,
    /// How long rollups of a tier are kept; `None` means for ever.
    pub kept_rollups: [(Tier, Option<Duration>); 3],
    /// Files that no version has used for so long are deleted.
    pub vacuum_after: Duration,
    /// Bytes of quarantined messages that are kept.
    pub quarantine_bytes_max: u64,
    /// How long quarantined messages are kept.
    pub quarantine_kept: Duration,
}

/// What fails.
#[derive(Clone, Debug)]
pub struct KeeperFailure {
    /// Which work.
    pub work: Work,
    /// Why, with all causes.
    pub error: String,
    /// Since when it fails.
    pub since: Timestamp,
}

/// The lake's keeper.
#[derive(Debug)]
pub struct Keeper {
    lake: Arc<Lake>,
    database: Arc<Database>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    schedule: Schedule,
    maintenance: Maintenance,
    /// One of a work at most.
    failures: Mutex<Vec<KeeperFailure>>,
}

/// Rows of the late lane from which a merge does not wait for its turn.
const LATE_ROWS_MAX: usize = 250_000;

/// How often the log's length is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// First and longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

impl Keeper {
    /// A keeper that has not begun.
    pub fn new(lake: Arc<Lake>, database: Arc<Database>, metrics: Arc<Metrics>, clock: Arc<dyn Clock>, schedule: Schedule) -> Self {
        Self { lake, database, metrics, clock, schedule, maintenance: Maintenance::default(), failures: Mutex::default() }
    }

    /// What has failed for the longest time, until it succeeds.
    pub fn failure(&self) -> Option<KeeperFailure> {
        self.failures.lock().iter().min_by_key(|failure| failure.since).cloned()
    }

    /// Works until `stop`; what is going on then is finished.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (following, looking_over) = (Arc::clone(&self), stop.clone());
        let mut loops = JoinSet::new();
        loops.spawn(async move { following.follow(&stop).await });
        loops.spawn(async move { self.look_over(&looking_over).await });
        loops.join_all().await;
    }

    /// Takes the log into the table.
    async fn follow(&self, stop: &CancellationToken) {
        let (mut flushed, mut merged) = (Instant::now(), Instant::now());
        let mut pause = Duration::ZERO;
        while waited(stop, pause).await {
            let (ordered, late, bytes) = {
                let state = self.database.live().read();
                (state.tail_rows.0, state.tail_rows.1, state.tail_bytes)
            };
            let is_long = bytes >= self.schedule.flush_bytes;
            let mut is_well = self.lake.is_open() || self.work(Work::Open, stop).await;
            if !is_well {
                // Nothing can be done without a table.
            } else if late > 0 && (late >= LATE_ROWS_MAX || is_long || merged.elapsed() >= self.schedule.merge_every) {
                // A merge flushes first.
                is_well = self.work(Work::Merge, stop).await;
                (merged, flushed) = (Instant::now(), Instant::now());
            } else if ordered > 0 && (ordered >= self.schedule.flush_rows || is_long || flushed.elapsed() >= self.schedule.flush_after) {
                is_well = self.work(Work::Flush, stop).await;
                flushed = Instant::now();
            }
            pause = next(pause, is_well);
        }
    }

    /// Keeps what is there quick, small and rolled up.
    async fn look_over(&self, stop: &CancellationToken) {
        let (mut maintained, mut vacuumed) = (Instant::now(), Instant::now());
        let mut pause = Duration::ZERO;
        while waited(stop, pause).await {
            let mut is_well = true;
            if maintained.elapsed() >= self.schedule.maintain_every {
                is_well = self.maintain(stop).await;
                if is_well {
                    maintained = Instant::now();
                }
            }
            if vacuumed.elapsed() >= self.schedule.vacuum_after && self.lake.is_open() {
                if self.work(Work::Vacuum, stop).await {
                    vacuumed = Instant::now();
                } else {
                    is_well = false;
                }
            }
            pause = next(pause, is_well);
        }
    }

    async fn maintain(&self, stop: &CancellationToken) -> bool {
        let mut is_well = true;
        if self.lake.is_open() {
            is_well &= self.work(Work::Compact, stop).await;
            // What is dropped is never rolled up again.
            let is_rolled_up = self.work(Work::RollUp, stop).await;
            is_well &= is_rolled_up;
            if is_rolled_up && !stop.is_cancelled() {
                is_well &= self.work(Work::Retain, stop).await;
            }
        }
        let (database, bytes_max, oldest) =
            (Arc::clone(&self.database), self.schedule.quarantine_bytes_max, self.clock.now().minus(self.schedule.quarantine_kept));
        let trimmed = tokio::task::spawn_blocking(move || database.turn().trim_quarantine(bytes_max, oldest)).await;
        match trimmed {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(messages)) => tracing::info!(messages, "old quarantined messages are dropped"),
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot trim the quarantine");
                is_well = false;
            }
        }
        is_well
    }

    /// Does a piece of work. `false` where it fails.
    async fn work(&self, work: Work, stop: &CancellationToken) -> bool {
        tracing::debug!(?work, "the lake begins");
        let outcome = self.attempt(work, stop).await;
        tracing::debug!(?work, is_ok = outcome.is_ok(), "the lake is done");
        let result = if outcome.is_ok() { "ok" } else { "failed" };
        self.metrics.lake_work.get_or_create(&WorkLabels { work, result }).inc();
        let mut failures = self.failures.lock();
        let Err(error) = outcome else {
            // A merge flushes first.
            failures.retain(|failure| failure.work != work && (failure.work, work) != (Work::Flush, Work::Merge));
            return true;
        };
        let error = crate::error_chain(&error);
        tracing::error!(?work, error, "the lake cannot do its work: it is tried again");
        match failures.iter_mut().find(|failure| failure.work == work) {
            Some(failure) => failure.error = error,
            None => failures.push(KeeperFailure { work, error, since: self.clock.now() }),
        }
        false
    }

    /// What there is to do when it begins: what comes meanwhile waits for the next turn, else a stream of late rows kept everything else
    /// from one.
    async fn attempt(&self, work: Work, stop: &CancellationToken) -> Result<(), LakeError> {
        let now = self.clock.now();
        match work {
            Work::Open => self.lake.reach().await?,
            Work::Flush => drop(self.lake.flush().await?),
            Work::Merge => {
                let mut waiting = self.database.live().read().tail_rows.1;
                while waiting > 0 && !stop.is_cancelled() {
                    let rows = self.lake.merge().await?;
                    waiting = if rows == 0 { 0 } else { waiting.saturating_sub(rows) };
                }
            }
            Work::Compact => {
                let mut compacted = self.lake.compact(&self.maintenance, now, None).await?;
                while let Some(day) = compacted.filter(|_day| !stop.is_cancelled()) {
                    compacted = self.lake.compact(&self.maintenance, now, Some(&day)).await?;
                }
            }
            Work::RollUp => {
                let mut rolled_up = self.lake.roll_up(now, None).await?;
                while let Some(day) = rolled_up.filter(|_day| !stop.is_cancelled()) {
                    rolled_up = self.lake.roll_up(now, Some(day - 1)).await?;
                }
            }
            Work::Retain => {
                let oldest = |kept: Option<Duration>| kept.map(|kept| now.minus(kept));
                let of = self.schedule.kept_of.iter().map(|(domain, kept)| (*domain, oldest(*kept))).collect();
                self.lake.drop_past(&Oldest { general: oldest(self.schedule.kept), of }).await?;
                let oldest = self.schedule.kept_rollups.map(|(tier, kept)| (tier, kept.map(|kept| now.minus(kept))));
                self.lake.drop_rollups(&oldest).await?;
            }
            Work::Vacuum => drop(self.lake.vacuum(self.schedule.vacuum_after).await?),
        }
        Ok(())
    }
}

/// Waits until it is time to look again; `false` once there is no more to do.
async fn waited(stop: &CancellationToken, pause: Duration) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = tokio::time::sleep(LOOK_EVERY.max(pause)) => true,
    }
}

/// The pause before the next look.
fn next(pause: Duration, is_well: bool) -> Duration {
    if is_well { Duration::ZERO } else { (pause * 2).clamp(PAUSE.0, PAUSE.1) }
}
