//! Parses arguments and calls the library; reports go to standard output, logs to standard error.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, Parser, Subcommand};
use conca_simulators::fleet::{self, incident::INCIDENTS};
use conca_simulators::publisher::{Broker, Counts, Credentials};
use conca_simulators::replay::{Mapping, Speed};
use conca_simulators::{load, replay};
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Simulated devices for Conca.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A city's devices: history first, then live.
    Fleet(FleetArguments),
    /// As much load as wanted, at little cost.
    Load(LoadArguments),
    /// A real data set.
    Replay(ReplayArguments),
    /// Lists what goes wrong in the fleet, and when.
    Incidents,
}

#[derive(Debug, Args)]
struct BrokerArguments {
    /// The broker.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:1883")]
    broker: String,
    /// User name.
    #[arg(long, requires = "password_env")]
    user: Option<String>,
    /// Environment variable that holds the password.
    #[arg(long, value_name = "NAME", requires = "user")]
    password_env: Option<String>,
    /// How long the broker may be unreachable at the start.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    connect_timeout: Duration,
}

#[derive(Debug, Args)]
struct FleetArguments {
    #[command(flatten)]
    broker: BrokerArguments,
    /// Makes another city.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Multiplies the number of devices.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Simulated seconds in a real one.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// When the fleet goes live, RFC 3339 [default: now].
    #[arg(long, value_name = "TIME")]
    start: Option<Timestamp>,
    /// History to send first, such as `3d`.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    backfill: Duration,
    /// How much simulated time to stay live [default: until interrupted].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "until")]
    duration: Option<Duration>,
    /// Simulated time at which to stop, RFC 3339.
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
}

#[derive(Debug, Args)]
struct LoadArguments {
    #[command(flatten)]
    broker: BrokerArguments,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 1_000)]
    devices: u32,
    /// Messages in a second; 0 is as fast as acknowledged.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Messages in all [default: until interrupted].
    #[arg(long)]
    messages: Option<u64>,
    #[arg(long, default_value_t = 1)]
    connections: u32,
    /// Unacknowledged messages of a connection.
    #[arg(long, default_value_t = 2_000)]
    window: u16,
    /// Time of the first messages, RFC 3339 [default: such that the last ones are of now; a day ago without `--messages`].
    #[arg(long, value_name = "TIME")]
    start: Option<Timestamp>,
    /// Phenomenon time between two messages of a device.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    step: Duration,
    /// Part of the messages that must be rejected.
    #[arg(long, value_name = "PART", default_value_t = 0.0)]
    poison: f64,
    /// How long to run.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,
}

#[derive(Debug, Args)]
struct ReplayArguments {
    #[command(flatten)]
    broker: BrokerArguments,
    /// CSV file, also `.csv.gz`.
    data: PathBuf,
    /// What its columns mean.
    #[arg(long, value_name = "FILE")]
    mapping: PathBuf,
    /// Seconds of the data in a real one, or `max`.
    #[arg(long, default_value = "max", value_parser = parse_speed)]
    speed: Speed,
    /// Stop after so many rows.
    #[arg(long, value_name = "COUNT")]
    rows: Option<u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).init();
    let stop = CancellationToken::new();
    let arguments = Arguments::parse();
    let now = Timestamp::now();
    let interrupt = async {
        tokio::signal::ctrl_c().await.context("cannot listen for interrupts")?;
        stop.cancel();
        std::future::pending().await
    };
    tokio::select! {
        done = execute(arguments.command, now, stop.clone()) => done,
        failed = interrupt => failed,
    }
}

async fn execute(command: Command, now: Timestamp, stop: CancellationToken) -> anyhow::Result<()> {
    match command {
        Command::Fleet(arguments) => run_fleet(arguments, now, stop).await,
        Command::Load(arguments) => run_load(arguments, now, stop).await,
        Command::Replay(arguments) => run_replay(arguments, stop).await,
        Command::Incidents => INCIDENTS.iter().try_for_each(|incident| Ok(writeln!(io::stdout(), "{incident}")?)),
    }
}

async fn run_fleet(arguments: FleetArguments, now: Timestamp, stop: CancellationToken) -> anyhow::Result<()> {
    let start = arguments.start.unwrap_or(now);
    let live = arguments.duration.map(|duration| start.checked_add(SignedDuration::try_from(duration)?)).transpose()?;
    let settings = fleet::Settings {
        broker: arguments.broker.parse()?,
        seed: arguments.seed,
        scale: arguments.scale,
        speed: arguments.speed,
        start,
        backfill: arguments.backfill,
        until: arguments.until.or(live),
    };
    let fleet::Report { messages, samples, readings, backfill_elapsed, elapsed } =
        fleet::run(settings, watch::Sender::default(), stop).await?;
    print_counts(messages)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{samples} samples, {readings} readings")?;
    writeln!(out, "{:.1} s back-fill, {:.1} s in all", backfill_elapsed.as_secs_f64(), elapsed.as_secs_f64())?;
    Ok(())
}

async fn run_load(arguments: LoadArguments, now: Timestamp, stop: CancellationToken) -> anyhow::Result<()> {
    let rounds = arguments.messages.map(|messages| messages.div_ceil(arguments.devices.max(1).into()));
    let span = match rounds {
        Some(rounds) => arguments.step.saturating_mul(u32::try_from(rounds)?),
        None => Duration::from_hours(24),
    };
    let settings = load::Settings {
        broker: arguments.broker.parse()?,
        seed: arguments.seed,
        devices: arguments.devices,
        rate: arguments.rate,
        messages: arguments.messages,
        connections: arguments.connections,
        window: arguments.window,
        start: arguments.start.map_or_else(|| now.checked_sub(SignedDuration::try_from(span)?), Ok)?,
        step: arguments.step,
        poison: arguments.poison,
        grace: Duration::from_secs(10),
    };
    let timer = async {
        match arguments.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
        stop.cancel();
        std::future::pending().await
    };
    let report = tokio::select! {
        report = load::run(settings, stop.clone()) => report?,
        report = timer => report,
    };
    let mut out = io::stdout().lock();
    let load::Report { published, acknowledged, refused, retries, reconnects, bytes, elapsed, latency, .. } = &report;
    writeln!(out, "{published} published, {acknowledged} acknowledged, {refused} refused, {retries} sent again, {reconnects} reconnects")?;
    let seconds = elapsed.as_secs_f64();
    writeln!(out, "{seconds:.2} s, {:.0} msg/s, {:.1} MB/s", report.rate(), *bytes as f64 / 1e6 / seconds)?;
    let [median, p99, p999] = [0.5, 0.99, 0.999].map(|part| latency.quantile(part));
    writeln!(out, "acknowledged after {median:?} (median), {p99:?} (p99), {p999:?} (p99.9)")?;
    for (kind, count) in &report.poison {
        writeln!(out, "{count} poison: {kind:?}")?;
    }
    Ok(())
}

async fn run_replay(arguments: ReplayArguments, stop: CancellationToken) -> anyhow::Result<()> {
    let settings = replay::Settings {
        broker: arguments.broker.parse()?,
        data: arguments.data,
        mapping: Mapping::load(&arguments.mapping)?,
        speed: arguments.speed,
        rows_max: arguments.rows,
    };
    let report = replay::run(settings, stop).await?;
    print_counts(report.messages)?;
    let mut out = io::stdout().lock();
    let replay::Report { rows, values, missing, unreadable_values, unreadable_rows, empty_rows, first, last, elapsed, .. } = report;
    writeln!(out, "{rows} rows ({unreadable_rows} unreadable, {empty_rows} empty)")?;
    writeln!(out, "{values} values, {missing} missing, {unreadable_values} unreadable")?;
    if let (Some(first), Some(last)) = (first, last) {
        writeln!(out, "{first} to {last} in {:.1} s", elapsed.as_secs_f64())?;
    }
    Ok(())
}

fn print_counts(counts: Counts) -> anyhow::Result<()> {
    let Counts { published, acknowledged, refused, reconnects } = counts;
    writeln!(io::stdout(), "{published} messages published, {acknowledged} acknowledged, {refused} refused, {reconnects} reconnects")?;
    Ok(())
}

impl BrokerArguments {
    fn parse(self) -> anyhow::Result<Broker> {
        let (host, port) = self.broker.rsplit_once(':').context("--broker: expected host:port")?;
        let credentials = match (self.user, self.password_env) {
            (Some(user), Some(name)) => {
                let password = std::env::var(&name).with_context(|| format!("--password-env: {name} is not usable"))?;
                Some(Credentials { user, password })
            }
            _ => None,
        };
        let port = port.parse().context("--broker: not a port")?;
        Ok(Broker { host: host.trim_matches(['[', ']']).to_owned(), port, credentials, connect_timeout: self.connect_timeout })
    }
}

/// Days are of 24 hours.
fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    let span: Span = text.parse()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours())?;
    Duration::try_from(duration).map_err(|error| anyhow!(error).context("must not be negative"))
}

fn parse_speed(text: &str) -> anyhow::Result<Speed> {
    match text {
        "max" => Ok(Speed::Max),
        number => Ok(Speed::Times(number.parse()?)),
    }
}
