//! Messages: how many a second, at which cost, and how soon they are durable and to be asked for.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use conca_simulators::load;
use conca_simulators::publisher::{Broker, Publisher};
use tokio_util::sync::CancellationToken;

use crate::process::{Conca, Mosquitto};
use crate::{quantile, say};

/// As the README says that a broker should be configured.
pub(crate) const CONFIGURED: &str = "autosave_interval 30\nmax_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true";

/// Messages of one run.
const MESSAGES: u64 = 600_000;

/// Devices that send them.
const DEVICES: u32 = 1_000;

pub(crate) fn settings(port: u16, messages: u64, rate: f64) -> load::Settings {
    load::Settings {
        broker: Broker { host: "127.0.0.1".to_owned(), port, credentials: None, connect_timeout: Duration::from_secs(10) },
        seed: 1,
        devices: DEVICES,
        rate,
        messages: Some(messages),
        connections: 1,
        window: 4_000,
        start: jiff::Timestamp::now() - Duration::from_hours(24),
        step: Duration::from_mins(1),
        poison: 0.0,
        grace: Duration::from_mins(1),
    }
}

/// As fast as it goes: a table of rates and costs.
pub(crate) async fn throughput() -> anyhow::Result<()> {
    say("## Throughput: 5 readings a message, QoS 1, publisher → Mosquitto → Conca durable\n")?;
    say(
        "| Mosquitto | messages/s | values/s | Conca µs/message | Mosquitto µs/message | publisher µs/message | Conca peak MiB | commits of |",
    )?;
    say("|---|--:|--:|--:|--:|--:|--:|--:|")?;
    let rows = [
        ("as the README says", CONFIGURED, 0.0),
        ("window of 20, else unlimited", "max_queued_messages 0", 0.0),
        ("as the README says, half is poison", CONFIGURED, 0.5),
        ("as the README says, all is poison", CONFIGURED, 1.0),
    ];
    for (name, lines, poison) in rows {
        let folder = tempfile::tempdir()?;
        let client = reqwest::Client::new();
        let mosquitto = Mosquitto::start(&folder.path().join("broker"), lines)?;
        let conca = Conca::start(folder.path(), mosquitto.port, "")?;
        ready(&conca, &client).await?;
        let before = (conca.process.processor_s(), mosquitto.process.processor_s(), own_processor_s());
        let started = Instant::now();
        let report = load::run(load::Settings { poison, ..settings(mosquitto.port, MESSAGES, 0.0) }, CancellationToken::new()).await?;
        anyhow::ensure!(report.acknowledged == MESSAGES, "the broker acknowledged {} of {MESSAGES}", report.acknowledged);
        let publisher_s = own_processor_s() - before.2;
        durable(&conca, &client, MESSAGES as f64).await?;
        let elapsed = started.elapsed().as_secs_f64();
        let per_message = |seconds: f64| seconds * 1e6 / MESSAGES as f64;
        let commits = conca.metric(&client, "conca_commit_messages_count", "").await?;
        say(&format!(
            "| {name} | {:.0} | {:.0} | {:.1} | {:.1} | {:.1} | {} | {:.0} |",
            MESSAGES as f64 / elapsed,
            MESSAGES as f64 * 5.0 / elapsed,
            per_message(conca.process.processor_s() - before.0),
            per_message(mosquitto.process.processor_s() - before.1),
            per_message(publisher_s),
            conca.process.memory_peak_mib(),
            MESSAGES as f64 / commits,
        ))?;
        conca.process.stop()?;
        mosquitto.process.stop()?;
    }
    say("")
}

/// At half of what it can do: from publishing to durable, and to an answer that shows it.
pub(crate) async fn latency() -> anyhow::Result<()> {
    const GOOD: u32 = 15_000;
    latency_at(GOOD, 0.0, "").await?;
    latency_at(2 * GOOD, 0.5, ", half of which are poison").await
}

async fn latency_at(rate: u32, poison: f64, name: &str) -> anyhow::Result<()> {
    const SECONDS: u32 = 30;
    let folder = tempfile::tempdir()?;
    let client = reqwest::Client::new();
    let mosquitto = Mosquitto::start(&folder.path().join("broker"), CONFIGURED)?;
    let conca = Conca::start(folder.path(), mosquitto.port, "")?;
    ready(&conca, &client).await?;
    let stop = CancellationToken::new();
    let settings = load::Settings { poison, ..settings(mosquitto.port, u64::from(rate * SECONDS), f64::from(rate)) };
    let load = tokio::task::JoinSet::from_iter([load::run(settings, stop.clone())]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let broker = Broker { host: "127.0.0.1".to_owned(), port: mosquitto.port, credentials: None, connect_timeout: Duration::from_secs(10) };
    let mut probe = Publisher::connect(&broker, "conca-bench-probe", 16).await?;
    let mut queryable = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(u64::from(SECONDS - 6));
    while Instant::now() < deadline {
        let time = jiff::Timestamp::now();
        let payload = format!(r#"{{"time":"{time}","readings":{{"pm10":{}}}}}"#, queryable.len() % 100);
        let published = Instant::now();
        probe.publish("conca/v1/environment/air-station/probe", payload.into_bytes()).await?;
        let shown = format!("{time:.6}");
        loop {
            // A device that was never heard is refused: the first probe waits for that to end.
            let answer = conca.ask(&client, "/v1/latest?device=probe&format=ndjson").await;
            let body = answer.map_or_else(|problem| problem.to_string(), |(body, _elapsed)| body);
            if body.contains(shown.trim_end_matches('Z').trim_end_matches('0')) {
                break;
            }
            anyhow::ensure!(published.elapsed() < Duration::from_secs(10), "{shown} does not show: {body}");
        }
        queryable.push(published.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    queryable.sort_by(f64::total_cmp);
    let reports = load.join_all().await;
    let report = reports.into_iter().next().context("the load ran")??;
    durable(&conca, &client, report.acknowledged as f64).await?;
    let settled = settled_quantiles(&conca, &client).await?;
    say(&format!("## Latency at {rate} messages/s{name}\n"))?;
    say("| | p50 ms | p99 ms |")?;
    say("|---|--:|--:|")?;
    say(&format!("| received by Conca → acknowledged to the broker | ≤ {:.1} | ≤ {:.1} |", settled.0 * 1e3, settled.1 * 1e3))?;
    say(&format!(
        "| published → in the answer of `/v1/latest` ({} probes) | {:.1} | {:.1} |",
        queryable.len(),
        quantile(&queryable, 0.5),
        quantile(&queryable, 0.99)
    ))?;
    say("")?;
    conca.process.stop()?;
    mosquitto.process.stop()
}

/// Waits until Conca's source is connected.
pub(crate) async fn ready(conca: &Conca, client: &reqwest::Client) -> anyhow::Result<()> {
    until(Duration::from_secs(20), "Conca is not ready", async || Ok(conca.metric(client, "conca_source_ready", "").await? >= 1.0)).await
}

/// Waits until so many messages are durable, as observations or in quarantine.
pub(crate) async fn durable(conca: &Conca, client: &reqwest::Client, messages: f64) -> anyhow::Result<()> {
    let name = "conca_messages_total";
    until(Duration::from_mins(10), "not everything is durable", async || Ok(conca.metric(client, name, "").await? >= messages)).await
}

/// Asks again and again.
pub(crate) async fn until(
    patience: Duration,
    problem: &'static str,
    mut ask: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    while !ask().await? {
        anyhow::ensure!(Instant::now() < deadline, problem);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Upper bounds of p50 and p99 of Conca's own histogram, in seconds.
async fn settled_quantiles(conca: &Conca, client: &reqwest::Client) -> anyhow::Result<(f64, f64)> {
    let (page, _elapsed) = conca.ask(client, "/metrics").await?;
    let buckets: Vec<(f64, f64)> = page
        .lines()
        .filter_map(|line| {
            let (bound, count) = line.strip_prefix("conca_settle_seconds_bucket{le=\"")?.split_once("\"} ")?;
            Some((bound.parse().ok()?, count.parse().ok()?))
        })
        .collect();
    let total = buckets.last().context("the histogram has buckets")?.1;
    let bound = |part: f64| buckets.iter().find(|(_bound, count)| *count >= total * part).map_or(f64::INFINITY, |(bound, _count)| *bound);
    Ok((bound(0.5), bound(0.99)))
}

/// Processor seconds of this process, which is the publisher.
fn own_processor_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<u64> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    fields.get(11).zip(fields.get(12)).map_or(0.0, |(user, system)| (user + system) as f64 / 100.0)
}
