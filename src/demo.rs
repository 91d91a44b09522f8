//! The whole system at once, for a first look: an embedded broker, a simulated city, the service.
//!
//! Nothing else is needed and nothing leaves the machine. What it stores stays in its folder: started again, the city's
//! history goes on from where it ended. The broker keeps nothing on disk; it stops after everything that it took is
//! acknowledged.

mod broker;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use conca_simulators::fleet;
use conca_simulators::publisher::Broker;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::app::Service;
use crate::config::Config;
use crate::model::{Clock as _, DurationText, SystemClock, Timestamp};

/// The alert rules of the demo.
const RULES: &str = include_str!("../schemas/rules.example.json");

/// How long the history of a first start may be away before more of it is made than was asked for.
const BACKFILL_MAX: Duration = Duration::from_hours(30 * 24);

/// How the demo runs.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The folder of everything that is stored.
    #[arg(long, default_value = "conca-data/demo")]
    data: PathBuf,
    /// Where the interface listens; another port is taken where this one is not free.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Port of the embedded broker on 127.0.0.1; another one is taken where this one is not free.
    #[arg(long, default_value_t = 1883)]
    mqtt_port: u16,
    /// How much history the city has at the first start.
    #[arg(long, default_value = "3d")]
    backfill: DurationText,
    /// Multiplies the number of devices, which is about 150.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// The same seed makes the same city.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs until `stop`.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let broker = broker::Embedded::start(options.mqtt_port).await?;
    let service = Service::start(config(&options, broker.address())?, Arc::new(SystemClock)).await?;
    let now = SystemClock.now();
    let backfill = service.newest_observation().map_or(options.backfill.0, |newest| now.since(newest)).min(BACKFILL_MAX);
    let settings = fleet::Settings {
        broker: Broker {
            host: broker.address().ip().to_string(),
            port: broker.address().port(),
            credentials: None,
            connect_timeout: Duration::from_secs(10),
        },
        seed: options.seed,
        scale: options.scale,
        speed: 1.0,
        start: now.into(),
        backfill,
        until: None,
    };
    print(&welcome(&options, [service.address(), broker.address()], service.postgres(), backfill, now))?;

    let (progress, told) = watch::channel(fleet::Progress::default());
    let (stop_fleet, stop_service) = (CancellationToken::new(), CancellationToken::new());
    let mut parts: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let stopping = stop_fleet.clone();
    parts.spawn(async move { fleet::run(settings, progress, stopping).await.map(|_report| ()) });
    parts.spawn(tell_progress(told, stop_fleet.clone()));
    let mut serving: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let stopping = stop_service.clone();
    serving.spawn(async move { Ok(service.run(stopping).await?) });

    // Whatever ends early takes the rest with it.
    let outcome = tokio::select! {
        () = stop.cancelled() => Ok(()),
        Some(ended) = parts.join_next() => ended.context("the simulated city panicked")?,
        Some(ended) = serving.join_next() => ended.context("the service panicked")?,
    };
    stop_fleet.cancel();
    while parts.join_next().await.is_some() {}
    stop_service.cancel();
    while let Some(ended) = serving.join_next().await {
        ended.context("the service panicked")??;
    }
    broker.stop().await?;
    print("Stopped. Start it again and the city goes on from here.")?;
    outcome
}

fn config(options: &Options, broker: SocketAddr) -> anyhow::Result<Config> {
    std::fs::create_dir_all(&options.data).with_context(|| format!("cannot make {}", options.data.display()))?;
    let rules = options.data.join("rules.json");
    std::fs::write(&rules, RULES).with_context(|| format!("cannot write {}", rules.display()))?;
    let text = format!(
        "[[ingest.sources]]\nname = \"demo\"\nurl = \"mqtt://{broker}\"\n\
         [lake]\nflush_after = \"20s\"\nmerge_every = \"30s\"\n\
         [intake]\ndisk_reserve_mib = 64\n"
    );
    let mut config = Config::parse(&text, &|_name| None)?;
    config.node.data.clone_from(&options.data);
    config.alerts.rules = Some(rules);
    config.api.listen = free(options.listen);
    config.sql.postgres.listen = Some(free(SocketAddr::new(options.listen.ip(), POSTGRES_PORT)));
    Ok(config)
}

/// The address, with a port that the system chooses where its own is taken.
fn free(address: SocketAddr) -> SocketAddr {
    match std::net::TcpListener::bind(address) {
        Ok(_closed_again) => address,
        Err(_taken) => SocketAddr::new(address.ip(), 0),
    }
}

fn welcome(
    options: &Options,
    [interface, broker]: [SocketAddr; 2],
    postgres: Option<SocketAddr>,
    backfill: Duration,
    now: Timestamp,
) -> String {
    let sql = postgres.map_or_else(String::new, |at| format!("postgresql://demo@{at}/conca"));
    let incidents = fleet::incident::INCIDENTS.iter().map(|incident| format!("  {} {}\n", zoned(now, incident.from), incident.title));
    let incidents = incidents.collect::<Vec<_>>().concat();
    format!(
        "Conca, demo: a simulated Palermo. Stop with Ctrl-C; what is stored stays in {data}.

  interface  http://{interface}/docs      (every question, to try out)
  status     http://{interface}/status
  broker     mqtt://{broker}              (publish to conca/v1/<domain>/<kind>/<device>)
  SQL        {sql}  (psql, Grafana, DBeaver, …; POST /v1/sql does the same)

Ask it:
  curl -s 'http://{interface}/v1/latest?property=pm10&format=csv' | head
  curl -s 'http://{interface}/v1/aggregates?property=temperature&window=1h&group_by=district&from=now-24h&format=csv' | head
  curl -s 'http://{interface}/v1/aggregates?property=energy_active&window=1d&from=now-3d'
  curl -s 'http://{interface}/v1/alerts?status=active'
  curl -s 'http://{interface}/v1/ledger?format=csv'
  curl -sN 'http://{interface}/v1/stream?property=noise' | head -20
  psql {sql} -c 'SELECT district, round(avg(mean)::numeric, 1) AS pm10 FROM rollup_1h WHERE property = '\\''pm10'\\'' AND trusted GROUP BY district ORDER BY pm10 DESC'

Send it something (from the package mosquitto-clients):
  mosquitto_pub -h {host} -p {port} -q 1 -t conca/v1/environment/air-station/mine -m '{{\"time\":\"{now}\",\"position\":{{\"lon\":13.36,\"lat\":38.11}},\"readings\":{{\"pm10\":31.2,\"temperature\":{{\"value\":64.9,\"unit\":\"[degF]\"}}}}}}'
  curl -s 'http://{interface}/v1/latest?device=mine'

What happens in the city (local time):
{incidents}
Making {backfill} of history …",
        data = options.data.display(),
        host = broker.ip(),
        port = broker.port(),
        backfill = DurationText(Duration::from_secs(backfill.as_secs())),
    )
}

/// A time so long after `now`, in Palermo.
fn zoned(now: Timestamp, after: jiff::SignedDuration) -> String {
    let time = jiff::Timestamp::from(now).saturating_add(after).unwrap_or(jiff::Timestamp::MAX);
    time.in_tz("Europe/Rome").map_or_else(|_unknown| time.to_string(), |time| time.strftime("%a %H:%M").to_string())
}

/// Says how far the history is, then that the city is live; waits for the end.
async fn tell_progress(mut progress: watch::Receiver<fleet::Progress>, stop: CancellationToken) -> anyhow::Result<()> {
    let started = tokio::time::Instant::now();
    let mut told = 0.0;
    loop {
        let backfilled = progress.borrow_and_update().backfilled;
        if backfilled >= 1.0 {
            break;
        }
        if backfilled >= told + 0.2 {
            told = backfilled;
            print(&format!("  {:.0} %", told * 100.0))?;
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = progress.changed() => if changed.is_err() { break },
        }
    }
    print(&format!("  100 % after {:.0} s: the city is live.", started.elapsed().as_secs_f64()))?;
    stop.cancelled().await;
    Ok(())
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")
}

/// Where clients of PostgreSQL look first.
const POSTGRES_PORT: u16 = 5_432;

/// Loopback, where the demo's broker listens.
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
