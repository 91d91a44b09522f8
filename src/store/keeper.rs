//! The lake's own work in the background: flush, merge, compaction, rollups, retention, vacuum.
//!
//! One loop does one thing at a time. What fails is tried again with growing pauses, shows in the status and in metrics,
//! and never stops intake by itself: only a log that grows too long does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
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

/// What failed last.
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
    failure: Mutex<Option<KeeperFailure>>,
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
        Self { lake, database, metrics, clock, schedule, maintenance: Maintenance::default(), failure: Mutex::new(None) }
    }

    /// What failed last, until it succeeds.
    pub fn failure(&self) -> Option<KeeperFailure> {
        self.failure.lock().clone()
    }

    /// Works until `stop`; what is going on then is finished.
    pub async fn run(&self, stop: CancellationToken) {
        let mut flushed = Instant::now();
        let mut merged = Instant::now();
        let mut maintained = Instant::now();
        let mut vacuumed = Instant::now();
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY.max(pause)) => {}
            }
            let (ordered, late, bytes) = {
                let state = self.database.live().read();
                (state.tail_rows.0, state.tail_rows.1, state.tail_bytes)
            };
            let is_long = bytes >= self.schedule.flush_bytes;
            let mut is_well = self.lake.is_open() || self.work(Work::Open, &stop).await;
            if !is_well {
                // Nothing can be done without a table.
            } else if late > 0 && (late >= LATE_ROWS_MAX || is_long || merged.elapsed() >= self.schedule.merge_every) {
                // A merge flushes first.
                is_well = self.work(Work::Merge, &stop).await;
                (merged, flushed) = (Instant::now(), Instant::now());
            } else if ordered > 0 && (ordered >= self.schedule.flush_rows || is_long || flushed.elapsed() >= self.schedule.flush_after) {
                is_well = self.work(Work::Flush, &stop).await;
                flushed = Instant::now();
            }
            if maintained.elapsed() >= self.schedule.maintain_every {
                if self.maintain(&stop).await {
                    maintained = Instant::now();
                } else {
                    is_well = false;
                }
            }
            if vacuumed.elapsed() >= self.schedule.vacuum_after && self.lake.is_open() {
                if self.work(Work::Vacuum, &stop).await {
                    vacuumed = Instant::now();
                } else {
                    is_well = false;
                }
            }
            pause = if is_well { Duration::ZERO } else { (pause * 2).clamp(PAUSE.0, PAUSE.1) };
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

    /// Does a piece of work again and again while it says that there is more. `false` where it fails.
    async fn work(&self, work: Work, stop: &CancellationToken) -> bool {
        loop {
            tracing::debug!(?work, "the lake begins");
            let outcome = self.step(work, stop).await;
            tracing::debug!(?work, is_ok = outcome.is_ok(), "the lake is done");
            let result = if outcome.is_ok() { "ok" } else { "failed" };
            self.metrics.lake_work.get_or_create(&WorkLabels { work, result }).inc();
            match outcome {
                Ok(more) => {
                    // A merge flushes first.
                    self.failure.lock().take_if(|failure| failure.work == work || (failure.work, work) == (Work::Flush, Work::Merge));
                    if more == 0 || stop.is_cancelled() {
                        return true;
                    }
                }
                Err(error) => {
                    let error = crate::error_chain(&error);
                    tracing::error!(?work, error, "the lake cannot do its work: it is tried again");
                    let mut failure = self.failure.lock();
                    let since =
                        failure.as_ref().filter(|failure| failure.work == work).map_or_else(|| self.clock.now(), |failure| failure.since);
                    *failure = Some(KeeperFailure { work, error, since });
                    return false;
                }
            }
        }
    }

    /// One step of a piece of work; more than 0 says that there is more of it.
    async fn step(&self, work: Work, stop: &CancellationToken) -> Result<usize, LakeError> {
        let now = self.clock.now();
        match work {
            Work::Open => self.lake.reach().await.map(|()| 0),
            Work::Merge => {
                // What comes meanwhile waits for the next turn: else a stream of late rows kept everything else from one.
                let mut waiting = self.database.live().read().tail_rows.1;
                while waiting > 0 && !stop.is_cancelled() {
                    let rows = self.lake.merge().await?;
                    waiting = if rows == 0 { 0 } else { waiting.saturating_sub(rows) };
                }
                Ok(0)
            }
            Work::Compact => self.lake.compact(&self.maintenance, now).await,
            Work::Flush => self.lake.flush().await.map(|_rows| 0),
            Work::RollUp => self.lake.roll_up(now).await,
            Work::Retain => {
                let oldest = |kept: Option<Duration>| kept.map(|kept| now.minus(kept));
                let of = self.schedule.kept_of.iter().map(|(domain, kept)| (*domain, oldest(*kept))).collect();
                self.lake.drop_past(&Oldest { general: oldest(self.schedule.kept), of }).await?;
                let oldest = self.schedule.kept_rollups.map(|(tier, kept)| (tier, kept.map(|kept| now.minus(kept))));
                self.lake.drop_rollups(&oldest).await.map(|_files| 0)
            }
            Work::Vacuum => self.lake.vacuum(self.schedule.vacuum_after).await.map(|_files| 0),
        }
    }
}
