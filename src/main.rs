//! The command line: parses arguments and calls the library.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use conca::app::{self, Service};
use conca::config::{Config, Log, LogFormat, Role, TokenHash};
use conca::keep::{Backup, ExportOptions, ImportOptions, Imported, Restored};
use conca::mapping::Document;
use conca::model::{Catalogue, SystemClock};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Work is made of many small pieces on many threads: after a load of 44.6 million values the arenas of the C library's allocator kept
/// 1.0 GiB, this one 0.6 GiB.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The telemetry backend of a city: MQTT in, durable, queryable, alerting.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the service.
    Run {
        /// The configuration file.
        #[arg(long, short, env = "CONCA_CONFIG", default_value = "conca.toml")]
        config: PathBuf,
    },
    /// Runs everything at once: an embedded broker, a simulated city, the service.
    Demo(conca::demo::Options),
    /// Reports every problem of a configuration file, and of the files that it names.
    CheckConfig {
        /// The configuration file.
        #[arg(default_value = "conca.toml")]
        config: PathBuf,
    },
    /// Copies everything that is kept to a folder, which may hold an earlier backup; the service may run.
    Backup {
        /// The configuration file.
        config: PathBuf,
        /// The folder of the backup.
        target: PathBuf,
    },
    /// Makes a data folder of a backup.
    Restore {
        /// The folder of the backup.
        backup: PathBuf,
        /// The data folder: empty, or not there.
        data: PathBuf,
    },
    /// Examines everything that is kept; the service may run. Ends with 1 where something is wrong.
    Doctor {
        /// The configuration file.
        #[arg(default_value = "conca.toml")]
        config: PathBuf,
        /// Tells it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Writes observations of the running service to a file or to standard output.
    Export(ExportOptions),
    /// Brings a file of observations to the running service; what is stored already is not stored twice.
    Import(ImportOptions),
    /// Makes an API token, and the lines of the configuration that let it in.
    Token {
        /// The name that stands beside what is done with it.
        name: String,
        /// What it may do.
        #[arg(long, value_enum, default_value = "read")]
        role: RoleArgument,
    },
    /// Prints a JSON Schema or the OpenAPI description, generated from the code.
    Schema {
        /// Which.
        what: SchemaArgument,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleArgument {
    Write,
    Read,
    Operate,
    Admin,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SchemaArgument {
    Config,
    Rules,
    Properties,
    Mapping,
    Tariff,
    OpenApi,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // Standard error may be gone; there is nobody left to tell.
            drop(writeln!(std::io::stderr(), "conca: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Doctor { config, json } => {
            let report = runtime()?.block_on(conca::keep::doctor(&load(&config)?));
            print(&if json { pretty(&report) } else { report.to_string() })?;
            return Ok(if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Run { config } => {
            let config = load(&config)?;
            start_log(&config.log)?;
            runtime()?.block_on(async {
                let stop = stop_signal()?;
                let service = Service::start(config, Arc::new(SystemClock)).await?;
                if let Some(address) = service.postgres() {
                    tracing::info!(%address, "PostgreSQL's protocol listens");
                }
                tracing::info!(address = %service.address(), "the interface listens");
                Ok(service.run(stop).await?)
            })
        }
        Command::Demo(options) => {
            start_log(&Log { filter: "warn".to_owned(), ..Log::default() })?;
            runtime()?.block_on(async { conca::demo::run(options, stop_signal()?).await })
        }
        Command::CheckConfig { config } => {
            app::check_files(&load(&config)?)?;
            print(&format!("{}: valid", config.display()))
        }
        Command::Backup { config, target } => {
            let settings = load(&config)?;
            start_log(&settings.log)?;
            let backup = runtime()?.block_on(conca::keep::backup(&settings, &config, &target, &SystemClock))?;
            print(&backed_up(&backup, &target))
        }
        Command::Restore { backup, data } => {
            start_log(&Log::default())?;
            print(&restored(&runtime()?.block_on(conca::keep::restore(&backup, &data))?, &data))
        }
        Command::Export(options) => {
            let rows = runtime()?.block_on(conca::keep::export(&options))?;
            // Standard output may be the file.
            writeln!(std::io::stderr(), "{rows} observations").context("cannot write to standard error")
        }
        Command::Import(options) => {
            let Imported { rows, observations, faults } = runtime()?.block_on(conca::keep::import(&options))?;
            print(&format!("{rows} rows, {observations} observations taken"))?;
            anyhow::ensure!(faults.is_empty(), "not taken, kept in the quarantine:\n{}", faults.join("\n"));
            Ok(())
        }
        Command::Token { name, role } => token(&name, role),
        Command::Schema { what } => print(&match what {
            SchemaArgument::Config => pretty(&Config::schema()),
            SchemaArgument::Rules => pretty(&conca::alert::rules_schema()),
            SchemaArgument::Properties => pretty(&Catalogue::schema()),
            SchemaArgument::Mapping => pretty(&Document::schema()),
            SchemaArgument::Tariff => pretty(&conca::query::tariff::Tariff::schema()),
            SchemaArgument::OpenApi => pretty(&conca::api::description()),
        }),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn backed_up(backup: &Backup, target: &Path) -> String {
    let Backup { manifest, bytes_copied } = backup;
    format!(
        "{}: everything acknowledged before {}; {} values, {} commits, version {} of the table\n{} files, {} bytes, {bytes_copied} of them copied now",
        target.display(),
        manifest.created,
        manifest.stored,
        manifest.sequence,
        manifest.table_version,
        manifest.files.len(),
        manifest.bytes(),
    )
}

fn restored(restored: &Restored, data: &Path) -> String {
    let Restored { manifest, incarnation, config } = restored;
    format!(
        "{}: everything acknowledged before {}; {} values, {} commits\n\
         The log begins anew as {incarnation}. The configuration must say node.id = {:?} and node.data = {:?}; the files that it named are in {}.",
        data.display(),
        manifest.created,
        manifest.stored,
        manifest.sequence,
        manifest.node,
        data.display().to_string(),
        config.display(),
    )
}

fn load(path: &Path) -> anyhow::Result<Config> {
    Config::load(path, &|name| std::env::var(name).ok()).with_context(|| path.display().to_string())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

/// Cancelled at SIGINT or SIGTERM; a second one ends the program at once.
fn stop_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let cancelled = stop.clone();
    let wait = async move {
        for _signal in 0..2 {
            tokio::select! {
                _signal = interrupt.recv() => {}
                _signal = terminate.recv() => {}
            }
            if cancelled.is_cancelled() {
                std::process::exit(130);
            }
            cancelled.cancel();
        }
    };
    #[expect(clippy::disallowed_methods, reason = "it lives as long as the process")]
    drop(tokio::spawn(wait));
    Ok(stop)
}

fn start_log(log: &Log) -> anyhow::Result<()> {
    let filter = std::env::var("CONCA_LOG").unwrap_or_else(|_unset| log.filter.clone());
    let filter = EnvFilter::try_new(&filter).with_context(|| format!("log.filter: {filter:?}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))
}

fn token(name: &str, role: RoleArgument) -> anyhow::Result<()> {
    let mut random = [0_u8; 32];
    getrandom::fill(&mut random).context("the system has no randomness")?;
    let token = random.iter().fold("conca_".to_owned(), |token, byte| format!("{token}{byte:02x}"));
    let role = match role {
        RoleArgument::Write => Role::Write,
        RoleArgument::Read => Role::Read,
        RoleArgument::Operate => Role::Operate,
        RoleArgument::Admin => Role::Admin,
    };
    let role = serde_json::to_value(role).context("a role has a word")?;
    print(&format!(
        "# The token; it is not kept anywhere. Send it as: Authorization: Bearer {token}\n[[api.tokens]]\nname = {name:?}\nrole = {role}\nsha256 = \"{}\"",
        TokenHash::of(&token)
    ))
}

fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("plain data always serialises")
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")
}
