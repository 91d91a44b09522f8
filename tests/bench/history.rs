//! A month of 200 devices: what it takes on disk, and how long questions over it take.

use std::time::{Duration, Instant};

use conca_simulators::fleet::{Fleet, payload};
use conca_simulators::publisher::{Broker, Publisher};

use crate::process::{Conca, Mosquitto};
use crate::{pipeline, quantile, say};

const DEVICES: usize = 200;
const PROPERTIES: [&str; 5] = ["pm10", "pm2_5", "no2", "temperature", "humidity"];
const DAYS: i64 = 30;
/// Samples of one message.
const SAMPLES: i64 = 60;
/// Each question is asked so often.
const TIMES: usize = 15;

/// Loads the month, then asks.
pub(crate) async fn questions() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let client = reqwest::Client::new();
    let mosquitto = Mosquitto::start(&folder.path().join("broker"), "max_queued_messages 0\nautosave_interval 0")?;
    let conca = Conca::start(folder.path(), mosquitto.port, "[lake]\nmaintain_every = \"5s\"\n[query]\nbuckets_max = 1000000\n")?;
    pipeline::ready(&conca, &client).await?;
    // Whole UTC days, the last of which is over.
    let end = jiff::Timestamp::from_second((jiff::Timestamp::now().as_second() / 86_400 - 1) * 86_400)?;
    let start = end - Duration::from_secs(86_400 * DAYS.unsigned_abs());
    let started = Instant::now();
    let values = load(mosquitto.port, start, end).await?;
    pipeline::until(Duration::from_mins(20), "not everything is durable", async || {
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
    say(&format!(
        "## A month: {values} values of {DEVICES} devices, {} a minute and device\n\nLoaded in {:.0} s ({:.0} values/s), {:.2} bytes a value in {:.0} files; peak memory {} MiB.\n",
        PROPERTIES.len(),
        loaded.as_secs_f64(),
        values as f64 / loaded.as_secs_f64(),
        bytes / values as f64,
        files.0,
        conca.process.memory_peak_mib(),
    ))?;
    say("| question | p50 ms | worst of 15 ms | answer KiB |")?;
    say("|---|--:|--:|--:|")?;
    let (from, to) = (start.to_string(), end.to_string());
    let noon = (start + Duration::from_hours(24 * 10)).to_string();
    let after_noon = (start + Duration::from_hours(24 * 11)).to_string();
    for (name, path) in [
        (
            "hourly mean of one property, each device, 30 days",
            format!("/v1/aggregates?property=pm10&window=1h&zone=UTC&group_by=device&from={from}&to={to}&format=csv"),
        ),
        (
            "hourly mean of one property, all together, 30 days",
            format!("/v1/aggregates?property=pm10&window=1h&zone=UTC&from={from}&to={to}"),
        ),
        ("daily mean of one property, all together, 30 days", format!("/v1/aggregates?property=pm10&window=1d&from={from}&to={to}")),
        (
            "daily mean of one property by district, 30 days",
            format!("/v1/aggregates?property=pm10&window=1d&group_by=district&from={from}&to={to}"),
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
async fn load(port: u16, start: jiff::Timestamp, end: jiff::Timestamp) -> anyhow::Result<u64> {
    // Sixteen stations at scale one.
    let fleet = Fleet::new(1, 13.0, end);
    let stations: Vec<_> = fleet.devices().iter().filter(|device| device.kind.name == "air-station").take(DEVICES).collect();
    anyhow::ensure!(stations.len() == DEVICES, "the fleet has only {} stations", stations.len());
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
