//! A month of 200 devices: what it takes on disk, how long its rollups take to make, and how long questions over it take. Another size is in
//! `CONCA_BENCH_DEVICES` and `CONCA_BENCH_DAYS`.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use conca_simulators::fleet::{Fleet, payload};
use conca_simulators::publisher::{Broker, Publisher};

use crate::process::{Conca, Mosquitto};
use crate::{pipeline, quantile, say};

const PROPERTIES: [&str; 5] = ["pm10", "pm2_5", "no2", "temperature", "humidity"];
/// Samples of one message.
const SAMPLES: i64 = 60;
/// Each question is asked so often.
const TIMES: usize = 15;

/// How much history.
#[derive(Clone, Copy, Debug)]
struct Size {
    devices: usize,
    days: u64,
}

impl Size {
    fn asked() -> anyhow::Result<Self> {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse().with_context(|| format!("{name} must be a number")),
            Err(_unset) => Ok(default),
        };
        Ok(Self { devices: usize::try_from(number("CONCA_BENCH_DEVICES", 200)?)?, days: number("CONCA_BENCH_DAYS", 30)? })
    }
}

/// Loads the month, then asks.
pub(crate) async fn questions() -> anyhow::Result<()> {
    let size = Size::asked()?;
    let folder = tempfile::tempdir()?;
    let client = reqwest::Client::new();
    let mosquitto = Mosquitto::start(&folder.path().join("broker"), "max_queued_messages 0\nautosave_interval 0")?;
    let conca = Conca::start(folder.path(), mosquitto.port, "[lake]\nmaintain_every = \"5s\"\n[query]\nbuckets_max = 1000000\n")?;
    pipeline::ready(&conca, &client).await?;
    // Whole UTC days, the last of which is over.
    let end = jiff::Timestamp::from_second((jiff::Timestamp::now().as_second() / 86_400 - 1) * 86_400)?;
    let start = end - Duration::from_secs(86_400 * size.days);
    let started = Instant::now();
    let values = load(mosquitto.port, size, start, end).await?;
    pipeline::until(Duration::from_hours(2), "not everything is durable", async || {
        Ok(conca.metric(&client, "conca_observations_total", "").await? >= values as f64)
    })
    .await?;
    let loaded = started.elapsed();
    let stored = async || -> anyhow::Result<(f64, f64)> {
        Ok((conca.metric(&client, "conca_lake_rows", "").await?, conca.metric(&client, "conca_lake_files", "").await?))
    };
    pipeline::until(Duration::from_mins(20), "the log is not flushed", async || Ok(stored().await?.0 >= values as f64)).await?;
    // Compaction is over when the number of files stands still.
    let mut files = (stored().await?.1, Instant::now());
    while files.1.elapsed() < Duration::from_secs(25) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = stored().await?.1;
        if now.to_bits() != files.0.to_bits() {
            files = (now, Instant::now());
        }
    }
    let bytes = conca.metric(&client, "conca_lake_bytes", "").await?;
    let compacted = Instant::now();
    let rollups = async |figure: &str| -> anyhow::Result<f64> {
        let (status, _elapsed) = conca.ask(&client, "/status").await?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        status.pointer(&format!("/lake/rollups/{figure}")).and_then(serde_json::Value::as_f64).context("/status says nothing of rollups")
    };
    pipeline::until(Duration::from_hours(1), "not every day is rolled up", async || Ok(rollups("touched").await? < 1.0)).await?;
    let (rolled_up, rollup_bytes, rollup_rows) = (compacted.elapsed(), rollups("bytes").await?, rollups("rows").await?);
    say(&format!(
        "## {} days: {values} values of {} devices, {} a minute and device\n\nLoaded in {:.0} s ({:.0} values/s), {:.2} bytes a value in {:.0} files; rolled up {:.0} s later, {:.2} bytes a value more ({} rows); peak memory {} MiB.\n",
        size.days,
        size.devices,
        PROPERTIES.len(),
        loaded.as_secs_f64(),
        values as f64 / loaded.as_secs_f64(),
        bytes / values as f64,
        files.0,
        rolled_up.as_secs_f64(),
        rollup_bytes / values as f64,
        rollup_rows,
        conca.process.memory_peak_mib(),
    ))?;
    say("| question | p50 ms | worst of 15 ms | answer KiB |")?;
    say("|---|--:|--:|--:|")?;
    let (from, to) = (start.to_string(), end.to_string());
    let day = start + Duration::from_hours(24 * (size.days / 2));
    let (noon, after_noon) = (day.to_string(), (day + Duration::from_hours(24)).to_string());
    for (name, path) in [
        (
            "hourly mean of one property, each device",
            format!("/v1/aggregates?property=pm10&window=1h&zone=UTC&group_by=device&from={from}&to={to}&format=csv"),
        ),
        ("hourly mean of one property, all together", format!("/v1/aggregates?property=pm10&window=1h&zone=UTC&from={from}&to={to}")),
        ("daily mean of one property, all together", format!("/v1/aggregates?property=pm10&window=1d&from={from}&to={to}")),
        ("daily mean of one property by district", format!("/v1/aggregates?property=pm10&window=1d&group_by=district&from={from}&to={to}")),
        (
            "daily p95 of one property by district",
            format!("/v1/aggregates?property=pm10&window=1d&in_time=p95&across=max&group_by=district&from={from}&to={to}"),
        ),
        (
            "hourly mean of one property, each device, a day",
            format!("/v1/aggregates?property=pm10&window=1h&zone=UTC&group_by=device&from={noon}&to={after_noon}"),
        ),
        (
            "one device, one property, a day, raw",
            format!("/v1/observations?property=pm10&device=air-station-100&from={noon}&to={after_noon}&limit=5000&format=csv"),
        ),
        ("latest of all", "/v1/latest?format=csv".to_owned()),
        ("latest of one property", "/v1/latest?property=pm10".to_owned()),
    ] {
        let mut times = Vec::new();
        let mut length = 0;
        for _time in 0..TIMES {
            let (body, elapsed) = conca.ask(&client, &path).await?;
            length = body.len();
            times.push(elapsed.as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        say(&format!("| {name} | {:.1} | {:.1} | {} |", quantile(&times, 0.5), quantile(&times, 1.0), length >> 10))?;
    }
    say(&format!("\nPeak memory after all questions: {} MiB.\n", conca.process.memory_peak_mib()))?;
    conca.process.stop()?;
    mosquitto.process.stop()
}

/// Publishes the month as fast as it is acknowledged; the number of values.
async fn load(port: u16, size: Size, start: jiff::Timestamp, end: jiff::Timestamp) -> anyhow::Result<u64> {
    // Sixteen stations at scale one.
    let fleet = Fleet::new(1, size.devices as f64 / 15.0, end);
    let stations: Vec<_> = fleet.devices().iter().filter(|device| device.kind.name == "air-station").take(size.devices).collect();
    anyhow::ensure!(stations.len() == size.devices, "the fleet has only {} stations", stations.len());
    let broker = Broker { host: "127.0.0.1".to_owned(), port, credentials: None, connect_timeout: Duration::from_secs(10) };
    let mut publisher = Publisher::connect(&broker, "conca-bench-history", 256).await?;
    let mut values = 0;
    let mut time = start;
    while time < end {
        for station in &stations {
            let times = (0..SAMPLES).map(|minute| time + Duration::from_secs(60 * minute.unsigned_abs()));
            let mut samples: Vec<_> = times.filter_map(|time| fleet.sample(station, time)).collect();
            for sample in &mut samples {
                sample.values.retain(|(property, _value)| PROPERTIES.contains(&property.id.as_str()));
                values += sample.values.len() as u64;
            }
            publisher.publish(&station.topic, payload::array(station, &samples)).await?;
        }
        time += Duration::from_secs(60 * SAMPLES.unsigned_abs());
    }
    let counts = publisher.close(Duration::from_mins(10)).await?;
    anyhow::ensure!(counts.outstanding() == 0, "{} messages are not acknowledged", counts.outstanding());
    Ok(values)
}
