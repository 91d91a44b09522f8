//! From the log, and once from the lake, into InfluxDB.

mod rollups;

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt, TryStreamExt, stream};
use influxdb2::RequestError;
use influxdb2::api::write::TimestampPrecision;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::line::Lines;
use super::{Influx, InfluxError, STORE};
use crate::model::{Clock, Fault, Message, Reason, Service, SourceName, Timestamp};
use crate::rollup::Tier;
use crate::state::{Attachment, Commit, Database, LAKE, Lane, Quarantined, Reader, Rows, StateError, UncopiedUnit, disk_free};
use crate::store::{Detail, Lake, LakeError, Order, Selection};

/// Bytes of the log that are taken at once.
const BLOCK_BYTES: usize = 8 << 20;

/// Writes under way at the same time, where their order does not matter.
const WRITES: usize = 4;

/// How long the log's end is waited for at most: a change of the settings of InfluxDB must show by itself.
const IDLE: Duration = Duration::from_secs(5);

/// How often it is looked how long the log has grown.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// First pause after a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// Following failed; nothing is lost.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    /// InfluxDB failed.
    #[error(transparent)]
    Influx(#[from] InfluxError),
    /// The log failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The lake failed.
    #[error("what the lake holds cannot be copied")]
    Lake(#[from] LakeError),
    /// InfluxDB refuses rollups for what they are.
    #[error("InfluxDB refuses rollups: {0}")]
    Refused(String),
    /// The program is stopping.
    #[error("the program is stopping")]
    Stopped,
}

/// Whoever writes to InfluxDB what is durable.
#[derive(Debug)]
pub struct Follower {
    influx: Arc<Influx>,
    lake: Arc<Lake>,
    database: Arc<Database>,
    reader: Arc<Reader>,
    clock: Arc<dyn Clock>,
    /// The units that it refused since the start.
    refused: Mutex<Vec<UncopiedUnit>>,
    /// Of each tier, before when rollups were deleted since the start.
    deleted: Mutex<BTreeMap<Tier, Timestamp>>,
}

/// What a step has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There may be more to do at once.
    Worked,
    /// Everything is written.
    Idle,
}

impl Follower {
    /// A follower that has not begun.
    pub fn new(influx: Arc<Influx>, lake: Arc<Lake>, database: Arc<Database>, clock: Arc<dyn Clock>) -> Self {
        let reader = Arc::clone(&influx.reader);
        Self { influx, lake, database, reader, clock, refused: Mutex::default(), deleted: Mutex::default() }
    }

    /// Works until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut commits = self.database.live().subscribe();
        let mut is_prepared = false;
        let mut pause = PAUSE;
        let mut looked: Option<Instant> = None;
        loop {
            commits.mark_unchanged();
            if looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
                self.let_go().await;
                looked = Some(Instant::now());
            }
            let work = async {
                if !is_prepared {
                    self.bounded(self.influx.prepare()).await?;
                    is_prepared = true;
                }
                self.step().await
            };
            let wait = match stop.run_until_cancelled(work).await {
                None => return,
                Some(Ok(done)) => {
                    if let Some((error, since)) = self.influx.status.lock().failure.take() {
                        tracing::info!(error, %since, "InfluxDB is written to again");
                    }
                    pause = PAUSE;
                    if done == Step::Worked { Duration::ZERO } else { IDLE }
                }
                Some(Err(error)) => {
                    self.fail(&error);
                    pause = (pause * 2).min(self.influx.settings.backoff_max);
                    // Spread out, so that several nodes do not come back at the same moment.
                    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                // Until everything is there, and while all is well, a commit ends the wait.
                _ = commits.changed(), if wait == IDLE => {}
            }
        }
    }

    fn fail(&self, error: &FollowError) {
        let error = crate::error_chain(error);
        let mut status = self.influx.status.lock();
        let since = status.failure.as_ref().map_or_else(|| self.clock.now(), |(_error, since)| *since);
        if status.failure.is_none() {
            tracing::error!(error, "InfluxDB cannot be written to: it is tried again");
        }
        status.failure = Some((error, since));
    }

    async fn bounded<T>(&self, work: impl Future<Output = Result<T, InfluxError>>) -> Result<T, InfluxError> {
        let timeout = self.influx.settings.timeout;
        tokio::time::timeout(timeout, work).await.unwrap_or(Err(InfluxError::Timeout(timeout)))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database, &Reader) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, FollowError> {
        let (database, reader) = (Arc::clone(&self.database), Arc::clone(&self.reader));
        Ok(tokio::task::spawn_blocking(move || work(&database, &reader)).await.map_err(|_stopped| FollowError::Stopped)??)
    }

    /// Lets the log go where it has grown too long, or the disk is short of the room that intake needs: the lake is copied then.
    async fn let_go(&self) {
        let (bytes_max, reserve) = (self.influx.settings.log_bytes_max, self.influx.settings.disk_reserve_bytes);
        let looked = self.blocking(move |database, reader| {
            let Some(attachment) = database.turn().attachment(STORE)? else { return Ok(()) };
            let bytes = reader.log_bytes_after(attachment.position)?;
            let is_short = database.path().parent().and_then(disk_free).is_some_and(|free| free < reserve);
            // What little it still needs is not what fills the disk.
            if bytes > bytes_max || (is_short && bytes > BLOCK_BYTES as u64) {
                database.turn().detach(STORE)?;
                tracing::error!(
                    bytes,
                    bytes_max,
                    is_short,
                    "InfluxDB is too far behind: the log goes on without it, and the lake will be copied"
                );
            }
            Ok(())
        });
        if let Err(error) = looked.await {
            tracing::error!(error = crate::error_chain(&error), "cannot look how far behind InfluxDB is");
        }
    }

    async fn step(&self) -> Result<Step, FollowError> {
        let attachment = self
            .blocking(|database, _reader| {
                let mut turn = database.turn();
                if let Some(attachment) = turn.attachment(STORE)? {
                    return Ok(attachment);
                }
                // From here on the log keeps what the lake gets; what it has is copied.
                let attachment = Attachment { position: turn.follower(LAKE)?, copied: Some(Timestamp::MIN), rollups: false };
                turn.attach(STORE, &attachment)?;
                Ok(attachment)
            })
            .await?;
        {
            let mut status = self.influx.status.lock();
            (status.position, status.copied) = (attachment.position, attachment.copied);
        }
        if let Some(copied) = attachment.copied {
            return self.copy(attachment, copied).await;
        }
        let (rows, rollups) = (self.follow(attachment).await?, self.copy_rollups(attachment.rollups).await?);
        Ok(if rows == Step::Worked { rows } else { rollups })
    }

    /// Copies one day of the lake.
    async fn copy(&self, attachment: Attachment, copied: Timestamp) -> Result<Step, FollowError> {
        const DAY: Duration = Duration::from_hours(24);
        let next = match self.lake.first_day_from(copied)? {
            None => None,
            Some(day) => {
                let all = Selection {
                    properties: Vec::new(),
                    from: day,
                    to: day.plus(DAY),
                    devices: None,
                    districts: Vec::new(),
                    area: None,
                    trusted: false,
                };
                // What is there of it may be another state, or of another form.
                self.delete(&self.influx.settings.bucket, day, day.plus(DAY), "_measurement=\"observation\"").await?;
                let mut chunks = self.lake.scan(all, Order::Any, Detail::All)?;
                let mut lines = Lines::default();
                while let Some(chunk) = chunks.next().await {
                    let chunk = chunk?;
                    {
                        let state = self.influx.live.read();
                        lines.push_chunk(&chunk, &state, &self.influx.catalogue, &self.influx.districts);
                    }
                    if lines.len() >= self.influx.settings.batch_lines_max * WRITES {
                        self.write_in_any_order(&std::mem::take(&mut lines)).await?;
                    }
                }
                self.write_in_any_order(&lines).await?;
                Some(day.plus(DAY))
            }
        };
        self.blocking(move |database, _reader| database.turn().attach(STORE, &Attachment { copied: next, ..attachment })).await?;
        Ok(Step::Worked)
    }

    /// Writes the next blocks of the log.
    async fn follow(&self, attachment: Attachment) -> Result<Step, FollowError> {
        let mut position = attachment.position;
        let blocks = self.blocking(move |_database, reader| reader.log_after(position, BLOCK_BYTES)).await?;
        if blocks.is_empty() {
            return Ok(Step::Idle);
        }
        let mut lines = Lines::default();
        for (lane, sequence, bytes) in blocks {
            let rows = Rows::decode(&bytes, &self.influx.districts)
                .map_err(|error| StateError::Damaged(format!("block {sequence} of the log: {error}")))?;
            // What may overwrite waits for what came before it, and what comes after waits for it.
            if lane == Lane::Late {
                self.write_in_any_order(&std::mem::take(&mut lines)).await?;
            }
            {
                let state = self.influx.live.read();
                lines.push_block(&rows, lane, &state, &self.influx.catalogue, &self.influx.districts);
            }
            if lane == Lane::Late {
                self.write_in_order(&std::mem::take(&mut lines)).await?;
            }
            match lane {
                Lane::Ordered => position.ordered = sequence,
                Lane::Late => position.late = sequence,
            }
        }
        self.write_in_any_order(&lines).await?;
        self.blocking(move |database, _reader| database.turn().attach(STORE, &Attachment { position, ..attachment })).await?;
        self.influx.status.lock().position = position;
        Ok(Step::Worked)
    }

    fn batches(&self, lines: &Lines) -> impl Iterator<Item = Range<usize>> + use<> {
        let (len, step) = (lines.len(), self.influx.settings.batch_lines_max);
        (0..len).step_by(step).map(move |start| start..len.min(start + step))
    }

    async fn write_in_order(&self, lines: &Lines) -> Result<(), FollowError> {
        for range in self.batches(lines) {
            self.write(lines, range).await?;
        }
        Ok(())
    }

    async fn write_in_any_order(&self, lines: &Lines) -> Result<(), FollowError> {
        stream::iter(self.batches(lines).map(|range| self.write(lines, range))).buffer_unordered(WRITES).try_collect::<()>().await
    }

    /// Writes lines; those that InfluxDB refuses for what they are go to the quarantine.
    async fn write(&self, lines: &Lines, range: Range<usize>) -> Result<(), FollowError> {
        let mut waiting = vec![range];
        while let Some(range) = waiting.pop() {
            let error = match self.bounded(self.post(&self.influx.settings.bucket, lines.text(range.clone()))).await {
                Ok(()) => {
                    self.influx.status.lock().written += range.len() as u64;
                    continue;
                }
                Err(InfluxError::Request(RequestError::Http { status, text })) => match status.as_u16() {
                    // The rest of the batch is written: these are older than the bucket keeps.
                    400 | 422 if text.contains("retention policy") => continue,
                    400 | 413 | 422 => text,
                    _ => return Err(InfluxError::Request(RequestError::Http { status, text }).into()),
                },
                Err(error) => return Err(error.into()),
            };
            if range.len() > 1 {
                let middle = range.start + range.len() / 2;
                // The first half is written first.
                waiting.push(middle..range.end);
                waiting.push(range.start..middle);
            } else {
                tracing::warn!(error, "InfluxDB refuses an observation: it is quarantined");
                self.quarantine(lines.text(range).to_vec(), error).await?;
            }
        }
        Ok(())
    }

    async fn post(&self, bucket: &str, text: &[u8]) -> Result<(), InfluxError> {
        let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
        let body = encoder.write_all(text).and_then(|()| encoder.finish()).expect("a vector takes any bytes");
        let org = &self.influx.settings.org;
        let written = self.influx.writer.write_line_protocol_with_precision(org, bucket, body, TimestampPrecision::Microseconds);
        Ok(written.await?)
    }

    async fn quarantine(&self, line: Vec<u8>, error: String) -> Result<(), FollowError> {
        let message = Message {
            source: SourceName::try_from(STORE).expect("an allowed name"),
            topic: self.influx.settings.bucket.as_str().into(),
            payload: line.into(),
            received: self.clock.now(),
            service: Service::AtMostOnce,
            retained: false,
        };
        let fault = Fault { reason: Reason::RefusedByStore, at: String::new(), detail: error };
        // The lake has it: for the ledger nothing changes.
        let quarantined = Quarantined { id: None, message, whole: false, faults: vec![fault], readings: 0 };
        self.influx.status.lock().refused += 1;
        self.blocking(move |database, _reader| database.turn().commit(Commit { quarantined: vec![quarantined], ..Commit::default() }))
            .await?;
        Ok(())
    }
}
