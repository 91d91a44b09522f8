//! How long a table takes to open that was flushed once a minute for thirty days.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use conca::model::{Catalogue, DeviceId, DeviceKind, Districts, Domain, PropertyIndex, Timestamp};
use conca::state::{Commit, Database, DeviceIndex, NewDevice, NewSeries, Place, SeriesIndex};
use conca::store::{Lake, LakeSettings, Maintenance};

use crate::{quantile, say};

/// Days and series, unless `CONCA_BENCH_DAYS` says otherwise.
const DAYS: u64 = 30;
const SERIES: u32 = 100;
/// How often it is opened.
const TIMES: usize = 20;
/// Longer than Delta's log is kept.
const EXPIRED: Duration = Duration::from_hours(24 * 3);

/// The city's table and what it follows.
struct City {
    database: Arc<Database>,
    lake: Lake,
}

impl City {
    async fn open(folder: &Path) -> anyhow::Result<Self> {
        let (catalogue, districts) = (Arc::new(Catalogue::built_in()), Arc::new(Districts::built_in()));
        let (database, _work) = Database::open(folder, &catalogue, &districts)?;
        let database = Arc::new(database);
        let settings = LakeSettings {
            url: String::new(),
            node: "bench".to_owned(),
            memory_max: 256 << 20,
            digests: 1_000,
            merge_rows_max: 1_000_000,
            zone: jiff::tz::TimeZone::get("Europe/Rome")?,
        };
        let lake = Lake::open(folder, Arc::clone(&database), catalogue, districts, settings).await?;
        Ok(Self { database, lake })
    }

    /// A value of each series, durable and in the table.
    async fn minute(&self, time: Timestamp, number: u64) -> anyhow::Result<()> {
        let mut commit = Commit::default();
        for series in 0..SERIES {
            commit.ordered.push(SeriesIndex(series), time.micros(), (number % 97) as f64, 0, Place::default(), None);
        }
        let database = Arc::clone(&self.database);
        tokio::task::spawn_blocking(move || database.turn().commit(commit)).await??;
        self.lake.flush().await?;
        Ok(())
    }
}

/// Delta's log expires by the clock of the files, which here runs ahead.
fn age(folder: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            let file = std::fs::File::options().write(true).open(path)?;
            file.set_modified(file.metadata()?.modified()? - EXPIRED)?;
        }
    }
    Ok(())
}

/// Flushes, compacts and rolls up day after day, then opens it again and again.
pub(crate) async fn after_a_month() -> anyhow::Result<()> {
    let days = std::env::var("CONCA_BENCH_DAYS").map_or(Ok(DAYS), |days| days.parse()).context("CONCA_BENCH_DAYS must be a number")?;
    let folder = tempfile::tempdir()?;
    let city = City::open(folder.path()).await?;
    let mut commit = Commit::default();
    for device in 0..SERIES {
        commit.new_devices.push(NewDevice {
            id: DeviceId::try_from(format!("device-{device}").as_str())?,
            kind: DeviceKind::try_from("air-station")?,
            domain: Domain::Environment,
            first_seen: Timestamp::MIN,
        });
        commit.new_series.push(NewSeries { device: DeviceIndex(device), property: PropertyIndex(0) });
    }
    city.database.turn().commit(commit)?;
    let log = folder.path().join("lake").join("_delta_log");
    let (first, started) = ("2026-01-01T00:00:00Z".parse::<Timestamp>()?, Instant::now());
    for day in 0..days {
        for minute in 0..1_440 {
            let number = day * 1_440 + minute;
            let time = first.plus(Duration::from_mins(number));
            city.minute(time, number).await?;
            if minute % 10 == 9 {
                while city.lake.compact(&Maintenance::default(), time, None).await?.is_some() {}
            }
            if minute == 120 {
                while city.lake.roll_up(time, None).await?.is_some() {}
            }
        }
        age(&log)?;
    }
    let status = city.lake.status()?.context("a table")?;
    let flushes = days * 1_440;
    say(&format!("## A table that was flushed {flushes} times in {days} days\n"))?;
    say(&format!(
        "It has {} files of {} rows at version {} (made in {:.0} s); its log has {} files.",
        status.files,
        status.rows,
        status.version,
        started.elapsed().as_secs_f64(),
        std::fs::read_dir(&log)?.count(),
    ))?;
    drop(city);
    let mut times = Vec::new();
    for _time in 0..TIMES {
        let started = Instant::now();
        drop(City::open(folder.path()).await?);
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    say(&format!(
        "State database, table and rollups are open after {:.0} ms (p50), {:.0} ms at most.\n",
        quantile(&times, 0.5),
        quantile(&times, 1.0)
    ))
}
