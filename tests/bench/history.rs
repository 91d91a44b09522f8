//! A year of 1,000 devices: what it takes on disk and in memory, how long its rollups take to make, and how long questions over it take,
//! beside InfluxDB 2 with the same values.
//!
//! The last days are a value a minute, the days before them one an hour: rollups have as many rows as with a value a minute. Another size
//! is in `CONCA_BENCH_DEVICES`, `CONCA_BENCH_DAYS` (a value a minute) and `CONCA_BENCH_EARLIER_DAYS` (one an hour).

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use conca_simulators::fleet::Fleet;
use conca_simulators::fleet::device::Device;
use conca_simulators::fleet::payload::{self, Sample};
use conca_simulators::load;
use conca_simulators::publisher::{Broker, Publisher};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::influxdb::InfluxDb;
use crate::process::{Conca, Mosquitto};
use crate::questions::{self, Stretches};
use crate::{pipeline, say};

const PROPERTIES: [&str; 5] = ["pm10", "pm2_5", "no2", "temperature", "humidity"];
/// Late values and days that are over do not wait long.
const LAKE: &str = "[lake]\nmaintain_every = \"5s\"\nmerge_every = \"5s\"\n";
/// InfluxDB advises 5,000 lines a request; larger ones are not quicker.
const LINES: usize = 5_000;
/// Half of the messages a second that `throughput` shows.
const HALF: u32 = 20_000;

/// How much history.
#[derive(Clone, Copy, Debug)]
struct Size {
    devices: usize,
    days: u64,
    earlier_days: u64,
}

impl Size {
    fn asked() -> anyhow::Result<Self> {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse().with_context(|| format!("{name} must be a number")),
            Err(_unset) => Ok(default),
        };
        Ok(Self {
            devices: usize::try_from(number("CONCA_BENCH_DEVICES", 1_000)?)?,
            days: number("CONCA_BENCH_DAYS", 30)?,
            earlier_days: number("CONCA_BENCH_EARLIER_DAYS", 335)?,
        })
    }
}

/// The devices and what they observe.
struct City {
    fleet: Fleet,
    size: Size,
    /// Whole UTC days, the last of which is over.
    end: Timestamp,
}

impl City {
    fn new(size: Size) -> anyhow::Result<Self> {
        let end = Timestamp::from_second((Timestamp::now().as_second() / 86_400 - 1) * 86_400)?;
        // Sixteen stations at scale one.
        Ok(Self { fleet: Fleet::new(1, size.devices as f64 / 15.0, end), size, end })
    }

    fn stations(&self) -> anyhow::Result<Vec<&Device>> {
        let stations: Vec<_> =
            self.fleet.devices().iter().filter(|device| device.kind.name == "air-station").take(self.size.devices).collect();
        anyhow::ensure!(stations.len() == self.size.devices, "the fleet has only {} stations", stations.len());
        Ok(stations)
    }

    fn month(&self) -> Timestamp {
        self.end - Duration::from_hours(24 * self.size.days)
    }

    fn first(&self) -> Timestamp {
        self.month() - Duration::from_hours(24 * self.size.earlier_days)
    }

    /// Hands out what each station observed, in the order of time; the number of values. Messages are of a day of hours, then of an hour
    /// of minutes.
    async fn tell(&self, mut take: impl AsyncFnMut(&Device, &[Sample]) -> anyhow::Result<()>) -> anyhow::Result<u64> {
        let stations = self.stations()?;
        let (mut values, mut time) = (0, self.first());
        while time < self.end {
            let (samples, step) = if time < self.month() { (24, 3_600) } else { (60, 60) };
            for station in &stations {
                let times = (0..samples).map(|number| time + Duration::from_secs(step * number));
                let mut samples: Vec<_> = times.filter_map(|time| self.fleet.sample(station, time)).collect();
                for sample in &mut samples {
                    sample.values.retain(|(property, _value)| PROPERTIES.contains(&property.id.as_str()));
                    values += sample.values.len() as u64;
                }
                take(station, &samples).await?;
            }
            time += Duration::from_secs(step * samples);
        }
        Ok(values)
    }
}

/// Loads the history into both, then asks.
pub(crate) async fn compare() -> anyhow::Result<()> {
    let city = City::new(Size::asked()?)?;
    let folder = tempfile::tempdir()?;
    let client = reqwest::Client::new();
    let mosquitto = Mosquitto::start(&folder.path().join("broker"), pipeline::CONFIGURED)?;
    let conca = Conca::start(folder.path(), mosquitto.port, LAKE)?;
    pipeline::ready(&conca, &client).await?;
    let Size { devices, days, earlier_days } = city.size;
    say(&format!("## History of {devices} devices: {days} days of a value a minute after {earlier_days} days of a value an hour\n"))?;
    let values = load_conca(&city, &mosquitto, &conca, &client).await?;
    conca.process.stop()?;
    let conca = start_again(folder.path(), &mosquitto, &client).await?;
    maintain(&city, &mosquitto, &conca, &client).await?;
    let influxdb = InfluxDb::start(&folder.path().join("influxdb")).await?;
    match &influxdb {
        Some(influxdb) => load_influxdb(&city, values, influxdb).await?,
        None => say("InfluxDB is not asked: CONCA_INFLUXD does not name it (`tests/influxd/build` prints it).\n")?,
    }
    let device = city.stations()?.get(devices / 2).context("a station")?.id.clone();
    let questions = questions::all(&Stretches { first: city.first(), month: city.month(), end: city.end, device });
    conca.process.forget_memory_peak()?;
    questions::ask(&questions, &conca, influxdb.as_ref().map(|influxdb| &influxdb.interface)).await?;
    say(&format!("Peak memory while asked: {} MiB.\n", conca.process.memory_peak_mib()))?;
    say(&format!("The same with {HALF} messages of 5 values a second arriving:\n"))?;
    let stop = CancellationToken::new();
    let settings = load::Settings {
        messages: None,
        rate: f64::from(HALF),
        start: Timestamp::now(),
        step: Duration::from_millis(50),
        ..pipeline::settings(mosquitto.port, 0, 0.0)
    };
    let beside = JoinSet::from_iter([load::run(settings, stop.clone())]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    conca.process.forget_memory_peak()?;
    questions::ask(&questions, &conca, None).await?;
    stop.cancel();
    for report in beside.join_all().await {
        let report = report?;
        say(&format!(
            "Peak memory: {} MiB; {:.0} messages/s arrived.\n",
            conca.process.memory_peak_mib(),
            report.acknowledged as f64 / report.elapsed.as_secs_f64()
        ))?;
    }
    conca.process.stop()?;
    influxdb.map_or(Ok(()), |influxdb| influxdb.process.stop())?;
    mosquitto.process.stop()
}

/// Starts with all that history: how long until it answers, and what it needs by then.
async fn start_again(folder: &Path, mosquitto: &Mosquitto, client: &reqwest::Client) -> anyhow::Result<Conca> {
    let started = Instant::now();
    let conca = Conca::start(folder, mosquitto.port, LAKE)?;
    conca.ask(client, "/v1/latest?property=pm10").await?;
    say(&format!(
        "Started again, the first answer came after {:.2} s; {} MiB.\n",
        started.elapsed().as_secs_f64(),
        conca.process.memory_peak_mib()
    ))?;
    Ok(conca)
}

/// Corrects a value of every property on every day of the month, so that each day's table and rollups are made anew: what that takes.
async fn maintain(city: &City, mosquitto: &Mosquitto, conca: &Conca, client: &reqwest::Client) -> anyhow::Result<()> {
    pipeline::ready(conca, client).await?;
    let started = Instant::now();
    let mut publisher = Publisher::connect(&broker(mosquitto), "conca-bench-corrections", 256).await?;
    let stations = city.stations()?;
    let station = stations.first().context("a station")?;
    for day in 0..city.size.days {
        let time = city.month() + Duration::from_hours(24 * day + 12);
        let mut sample = city.fleet.sample(station, time).context("it observes at noon")?;
        sample.values.retain(|(property, _value)| PROPERTIES.contains(&property.id.as_str()));
        for (_property, value) in &mut sample.values {
            *value += 1.0;
        }
        publisher.publish(&station.topic, payload::array(station, &[sample])).await?;
    }
    publisher.close(Duration::from_mins(1)).await?;
    let mut corrected = 0.0;
    pipeline::until(Duration::from_hours(1), "not everything is made anew", async || {
        let (status, _elapsed) = conca.ask(client, "/status").await?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        let figure = |path: &str| status.pointer(path).and_then(serde_json::Value::as_f64).with_context(|| format!("no {path}"));
        corrected = figure("/ledger/total/corrected")?;
        Ok(corrected > 0.0 && figure("/ledger/total/pending")? < 1.0 && figure("/lake/rollups/touched")? < 1.0)
    })
    .await?;
    say(&format!(
        "{corrected} corrections on {} days: merged, and all their rollups made anew, after {:.0} s; peak memory {} MiB.\n",
        city.size.days,
        started.elapsed().as_secs_f64(),
        conca.process.memory_peak_mib()
    ))
}

fn broker(mosquitto: &Mosquitto) -> Broker {
    Broker { host: "127.0.0.1".to_owned(), port: mosquitto.port, credentials: None, connect_timeout: Duration::from_secs(10) }
}

/// Publishes it all as fast as it is acknowledged, and waits until it is compacted and rolled up; the number of values.
async fn load_conca(city: &City, mosquitto: &Mosquitto, conca: &Conca, client: &reqwest::Client) -> anyhow::Result<u64> {
    let started = Instant::now();
    let mut publisher = Publisher::connect(&broker(mosquitto), "conca-bench-history", 256).await?;
    let values = city.tell(async |station, samples| publisher.publish(&station.topic, payload::array(station, samples)).await).await?;
    let counts = publisher.close(Duration::from_mins(10)).await?;
    anyhow::ensure!(counts.outstanding() == 0, "{} messages are not acknowledged", counts.outstanding());
    pipeline::until(Duration::from_hours(2), "not everything is durable", async || {
        Ok(conca.metric(client, "conca_observations_total", "").await? >= values as f64)
    })
    .await?;
    let loaded = started.elapsed();
    let stored = async || -> anyhow::Result<(f64, f64)> {
        Ok((conca.metric(client, "conca_lake_rows", "").await?, conca.metric(client, "conca_lake_files", "").await?))
    };
    pipeline::until(Duration::from_mins(20), "the log is not flushed", async || Ok(stored().await?.0 >= values as f64)).await?;
    let rollups = async |figure: &str| -> anyhow::Result<f64> {
        let (status, _elapsed) = conca.ask(client, "/status").await?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        status.pointer(&format!("/lake/rollups/{figure}")).and_then(serde_json::Value::as_f64).context("/status says nothing of rollups")
    };
    pipeline::until(Duration::from_hours(2), "not every day is rolled up", async || Ok(rollups("touched").await? < 1.0)).await?;
    let rolled_up = started.elapsed();
    // Compaction is over when the number of files stands still.
    let mut files = (stored().await?.1, Instant::now());
    while files.1.elapsed() < Duration::from_secs(25) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = stored().await?.1;
        if now.to_bits() != files.0.to_bits() {
            files = (now, Instant::now());
        }
    }
    let (bytes, loading_mib) = (conca.metric(client, "conca_lake_bytes", "").await?, conca.process.memory_peak_mib());
    let count = values as f64;
    say(&format!(
        "Conca: {values} values loaded in {:.0} s ({:.0} values/s), {:.2} bytes a value in {:.0} files; all rolled up {:.0} s later, {:.2} bytes a value more ({} rows); peak memory {loading_mib} MiB.\n",
        loaded.as_secs_f64(),
        count / loaded.as_secs_f64(),
        bytes / count,
        files.0,
        rolled_up.saturating_sub(loaded).as_secs_f64(),
        rollups("bytes").await? / count,
        rollups("rows").await?,
    ))?;
    Ok(values)
}

/// Writes the same to InfluxDB: a point a sample, its device and district as tags.
async fn load_influxdb(city: &City, values: u64, influxdb: &InfluxDb) -> anyhow::Result<()> {
    let started = Instant::now();
    let (mut lines, mut count) = (String::new(), 0);
    let mut writing = JoinSet::new();
    let told = city
        .tell(async |station, samples| {
            for Sample { time, values, .. } in samples.iter().filter(|sample| !sample.values.is_empty()) {
                write!(lines, "air,device={},district={}", station.id, station.district.unwrap_or("none"))?;
                for (number, (property, value)) in values.iter().enumerate() {
                    write!(lines, "{}{}={value}", if number == 0 { ' ' } else { ',' }, property.id)?;
                }
                writeln!(lines, " {}", time.as_second())?;
                count += 1;
            }
            if count >= LINES {
                count = 0;
                // Two requests at a time.
                if writing.len() >= 2 {
                    writing.join_next().await.context("a request is under way")???;
                }
                let (writer, lines) = (influxdb.interface.clone(), std::mem::take(&mut lines));
                writing.spawn(async move { writer.write(lines).await });
            }
            Ok(())
        })
        .await?;
    while let Some(written) = writing.join_next().await {
        written??;
    }
    influxdb.interface.write(lines).await?;
    anyhow::ensure!(told == values, "InfluxDB was told {told} values, Conca {values}");
    let loaded = started.elapsed();
    // Its compaction is over when its files stand still.
    let mut bytes = (influxdb.bytes()?, Instant::now());
    while bytes.1.elapsed() < Duration::from_secs(30) && started.elapsed() < Duration::from_hours(1) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = influxdb.bytes()?;
        if now != bytes.0 {
            bytes = (now, Instant::now());
        }
    }
    say(&format!(
        "InfluxDB: loaded in {:.0} s ({:.0} values/s), {:.2} bytes a value; peak memory {} MiB.\n",
        loaded.as_secs_f64(),
        values as f64 / loaded.as_secs_f64(),
        bytes.0 as f64 / values as f64,
        influxdb.process.memory_peak_mib(),
    ))
}
