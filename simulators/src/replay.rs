//! Real data sets over MQTT: each row of a CSV file becomes a message with the row's own time, in the file's order.
//!
//! A [`Mapping`] says what the columns mean; three are shipped in `simulators/mappings/`. Rows are sent as they are, repeated and
//! absurd ones too: cleaning is the service's business. Only what the data set itself calls missing is left out.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use flate2::read::MultiGzDecoder;
use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::mapping::Mapping;
use self::row::Columns;
use crate::publisher::{Broker, Counts, Publisher};

mod mapping;
mod row;

/// Unacknowledged messages at most; the broker may ask for fewer.
const WINDOW: u16 = 1_000;
/// What outstanding acknowledgements get after `stop`.
const GRACE: Duration = Duration::from_secs(10);
/// Unreadable rows that are logged one by one.
const WARNINGS_MAX: u64 = 10;

#[derive(Clone, Debug)]
pub struct Settings {
    pub broker: Broker,
    /// CSV with a header; `.gz` is decompressed.
    pub data: PathBuf,
    pub mapping: Mapping,
    pub speed: Speed,
    /// Stops after so many rows.
    pub rows_max: Option<u64>,
}

/// How fast the data's time goes by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// As fast as the broker acknowledges.
    Max,
    /// Seconds of the data in a real one.
    Times(f64),
}

/// What was read and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    pub rows: u64,
    pub messages: Counts,
    /// Readings sent.
    pub values: u64,
    /// Cells with a code for missing.
    pub missing: u64,
    /// Cells that are neither a number nor missing.
    pub unreadable_values: u64,
    /// Rows without a readable time or device.
    pub unreadable_rows: u64,
    /// Rows without any value.
    pub empty_rows: u64,
    /// Times of the first and the last message.
    pub first: Option<Timestamp>,
    pub last: Option<Timestamp>,
    pub elapsed: Duration,
}

/// Sends the whole file, or as much of it as there is time for until `stop`.
pub async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<Report> {
    let mut reader = csv::ReaderBuilder::new().delimiter(settings.mapping.delimiter).flexible(true).from_reader(open(&settings.data)?);
    let columns = Columns::new(&settings.mapping, reader.headers()?)?;
    if let Speed::Times(speed) = settings.speed {
        ensure!(speed.is_finite() && 0.0 < speed, "the speed must be positive");
    }
    let client_id = format!("conca-replay-{}", std::process::id());
    let mut publisher = Publisher::connect(&settings.broker, &client_id, WINDOW).await?;
    info!(data = %settings.data.display(), "replay starts");
    let begun = Instant::now();
    let mut report = Report::default();
    // Waits only for time and for room in the window; dropped there it loses nothing that was counted.
    let sent = tokio::select! {
        sent = send(&mut publisher, &mut reader, &columns, &settings, begun, &mut report) => sent,
        () = stop.cancelled() => Ok(()),
    };
    report.messages = publisher.close(GRACE).await?;
    report.elapsed = begun.elapsed();
    sent?;
    Ok(report)
}

/// The messages that a replay sends, topic and payload, in the file's order.
pub fn messages(data: &Path, mapping: &Mapping) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut reader = csv::ReaderBuilder::new().delimiter(mapping.delimiter).flexible(true).from_reader(open(data)?);
    let columns = Columns::new(mapping, reader.headers()?)?;
    let mut messages = Vec::new();
    for row in reader.records() {
        let message = row.context("unreadable row").and_then(|row| columns.message(&row));
        messages.extend(message.ok().filter(|message| message.values > 0).map(|message| (message.topic, message.payload)));
    }
    Ok(messages)
}

async fn send<R: Read>(
    publisher: &mut Publisher,
    reader: &mut csv::Reader<R>,
    columns: &Columns<'_>,
    settings: &Settings,
    begun: Instant,
    report: &mut Report,
) -> anyhow::Result<()> {
    for row in reader.records() {
        if settings.rows_max == Some(report.rows) {
            break;
        }
        report.rows += 1;
        let message = match row.context("unreadable row").and_then(|row| columns.message(&row)) {
            Ok(message) => message,
            Err(error) => {
                report.unreadable_rows += 1;
                if report.unreadable_rows <= WARNINGS_MAX {
                    warn!(row = report.rows, error = format!("{error:#}"), "unreadable row is left out");
                }
                continue;
            }
        };
        report.missing += message.missing;
        report.unreadable_values += message.unreadable;
        if message.values == 0 {
            report.empty_rows += 1;
            continue;
        }
        let first = *report.first.get_or_insert(message.time);
        if let Speed::Times(speed) = settings.speed {
            let since = message.time.duration_since(first).as_secs_f64().max(0.0) / speed;
            sleep_until(begun + Duration::try_from_secs_f64(since).context("the speed is too low")?).await;
        }
        publisher.publish(&message.topic, message.payload).await?;
        report.values += message.values;
        report.last = Some(message.time);
    }
    publisher.settle().await
}

fn open(path: &Path) -> anyhow::Result<Box<dyn Read + Send>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let compressed = path.extension().is_some_and(|extension| extension == "gz");
    Ok(if compressed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}
