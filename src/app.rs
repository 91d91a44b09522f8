//! The running program: which parts there are, how they are joined, in which order they start and stop.
//!
//! Start: state database (which locks the data folder), lake, rules, interface, then the sources: nothing is taken
//! before everything that it goes through is there. Stop in the order of the data: sources stop taking, what was taken
//! is committed and acknowledged, sources say goodbye, background work ends, the interface last. Each step has a
//! deadline; what is cut off is not acknowledged, and comes again.
//!
//! A part that ends before it is told to stops the program: half a service is worse than none.

mod convert;
mod mappings;
mod writer;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::alert::{Desk, DeskError};
use crate::api::{self, ApiError, Context};
use crate::config::{self, Config, StoreName};
use crate::decode;
use crate::ingest::{self, IngestError, Listening, SourceStatus};
use crate::intake::{self, Gate, GateLimits, Repeats};
use crate::mapping::{DocumentError, Mappings};
use crate::metrics::Metrics;
use crate::model::{Catalogue, CatalogueError, Clock, Districts, DistrictsError, DurationText, SourceName, Timestamp};
use crate::normalise::{Normaliser, TimeBounds, unit_problem};
use crate::quality::{self, Check, Checks, Neighbourhood};
use crate::query::tariff::{Tariff, TariffError};
use crate::rollup::Tier;
use crate::sql::{self, SqlError, postgres};
use crate::state::{Database, Live, Reader, StateError};
use crate::store::{
    Follower, History, Influx, InfluxError, InfluxSettings, Keeper, Lake, LakeError, LakeSettings, STORE_INFLUXDB, Schedule,
};
use crate::tls::{self, TlsError};

/// Batches between converter and writer.
const BATCHES: usize = 2;

/// Rows that one merge of late rows takes at most.
const MERGE_ROWS_MAX: usize = 500_000;

/// The longest of months: so much longer than asked for a rollup may be kept.
const MONTH: Duration = Duration::from_hours(31 * 24);

/// How long a part that was told to give up may still take.
const GRACE: Duration = Duration::from_secs(2);

/// The program cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A file of the city.
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The districts.
    #[error("the districts in {} cannot be used", path.display())]
    Districts {
        path: PathBuf,
        #[source]
        source: DistrictsError,
    },
    /// The catalogue.
    #[error("the catalogue in {} cannot be used", path.display())]
    Catalogue {
        path: PathBuf,
        #[source]
        source: CatalogueError,
    },
    /// The tariff.
    #[error("the tariff in {} cannot be used", path.display())]
    Tariff {
        path: PathBuf,
        #[source]
        source: TariffError,
    },
    /// The mappings.
    #[error("the mappings cannot be used")]
    Mappings(#[from] DocumentError),
    /// The state database.
    #[error("cannot open the state database")]
    State(#[from] StateError),
    /// The lake.
    #[error("cannot open the lake")]
    Lake(#[from] LakeError),
    /// InfluxDB.
    #[error("InfluxDB cannot be used")]
    Influx(#[from] InfluxError),
    /// The rules.
    #[error("cannot take up the alert rules")]
    Rules(#[from] DeskError),
    /// A source.
    #[error("the source {name} cannot be used")]
    Source {
        name: String,
        #[source]
        source: IngestError,
    },
    /// The interface.
    #[error("cannot serve the interface")]
    Api(#[from] ApiError),
    /// The address of the interface.
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    /// Statements in SQL.
    #[error("cannot answer statements in SQL")]
    Sql(#[from] SqlError),
    /// A certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A part ended by itself.
    #[error("{0} ended by itself")]
    Ended(&'static str),
}

/// What the city brings along.
#[derive(Debug)]
struct City {
    catalogue: Arc<Catalogue>,
    districts: Arc<Districts>,
    tariff: Arc<Tariff>,
}

impl City {
    fn load(config: &config::City) -> Result<Self, AppError> {
        let catalogue = match &config.properties {
            None => Catalogue::built_in(),
            Some(path) => Catalogue::parse(&read(path)?).map_err(|source| AppError::Catalogue { path: path.clone(), source })?,
        };
        let districts = match &config.districts {
            None => Districts::built_in(),
            Some(path) => Districts::parse(&read(path)?).map_err(|source| AppError::Districts { path: path.clone(), source })?,
        };
        let tariff = match &config.tariff {
            None => Tariff::built_in(),
            Some(path) => Tariff::parse(&read(path)?).map_err(|source| AppError::Tariff { path: path.clone(), source })?,
        };
        Ok(Self { catalogue: Arc::new(catalogue), districts: Arc::new(districts), tariff: Arc::new(tariff) })
    }
}

fn read(path: &Path) -> Result<String, AppError> {
    std::fs::read_to_string(path).map_err(|source| AppError::Unreadable { path: path.to_owned(), source })
}

/// Checks what the configuration's files hold, without starting anything.
pub fn check_files(config: &Config) -> Result<(), AppError> {
    let City { catalogue, districts, .. } = City::load(&config.city)?;
    Mappings::open(config.city.mappings.clone(), Arc::clone(&catalogue), unit_problem)?;
    if let Some(path) = &config.alerts.rules {
        crate::alert::Rules::parse(&read(path)?, &catalogue, &districts)
            .map_err(|problems| AppError::Rules(DeskError::Invalid { problems }))?;
    }
    Ok(())
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), AppError> {
    let failed = |source| AppError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

type Parts = JoinSet<(&'static str, Result<(), AppError>)>;

/// A program that has started.
#[derive(Debug)]
pub struct Service {
    address: SocketAddr,
    postgres: Option<SocketAddr>,
    live: Arc<Live>,
    deadline: Duration,
    /// Keeps the pipeline going, also where no source holds it.
    inlet: Option<ingest::Inlet>,
    /// By stop order.
    sources: Parts,
    pipeline: Parts,
    background: Parts,
    interface: Parts,
    stop_sources: CancellationToken,
    give_up: CancellationToken,
    settled: CancellationToken,
    stop_background: CancellationToken,
    stop_interface: CancellationToken,
}

impl Service {
    /// Starts everything. Returns once the interface listens; sources connect by themselves.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let City { catalogue, districts, tariff } = City::load(&config.city)?;
        let (database, work) = Database::open(&config.node.data, &catalogue, &districts)?;
        let database = Arc::new(database);
        let reader = Arc::new(Reader::open(database.path())?);
        let lake =
            Lake::open(&config.node.data, Arc::clone(&database), Arc::clone(&catalogue), Arc::clone(&districts), lake_settings(&config))
                .await?;
        let lake = Arc::new(lake);
        let settings = influx_settings(&config).filter(|_settings| config.stores.contains(&StoreName::Influxdb));
        let influx = if let Some(settings) = settings {
            let live = Arc::clone(database.live());
            let reader = Arc::new(Reader::open(database.path())?);
            Some(Arc::new(Influx::new(settings, live, Arc::clone(&catalogue), Arc::clone(&districts), reader)?))
        } else {
            // What it would still need must not hold back the log.
            database.turn().detach(STORE_INFLUXDB)?;
            None
        };
        let history = match (&influx, config.query_store) {
            (Some(influx), StoreName::Influxdb) => History::Influx(Arc::clone(influx), Arc::clone(&lake)),
            _ => History::Lake(Arc::clone(&lake)),
        };
        let rules = config.alerts.rules.as_deref();
        let desk = Desk::open(Arc::clone(&database), Arc::clone(&catalogue), Arc::clone(&districts), Arc::clone(&clock), &work, rules)?;
        let desk = Arc::new(desk);
        let metrics = Arc::new(Metrics::default());
        let gate = Arc::new(Gate::new(GateLimits {
            folder: config.node.data.clone(),
            disk_reserve_bytes: config.intake.disk_reserve_mib << 20,
            log_bytes_max: config.intake.log_mib_max << 20,
        }));
        let mappings = Arc::new(Mappings::open(config.city.mappings.clone(), Arc::clone(&catalogue), unit_problem)?);
        let (inlet, messages) = ingest::queue(config.ingest.queue_messages, config.ingest.queue_mib << 20);
        let statuses: Vec<Arc<SourceStatus>> = config.ingest.sources.iter().map(|source| SourceStatus::new(source.name.clone())).collect();
        let listening = Arc::new(Listening::new(statuses.clone(), inlet.depth()));
        let keeper =
            Arc::new(Keeper::new(Arc::clone(&lake), Arc::clone(&database), Arc::clone(&metrics), Arc::clone(&clock), schedule(&config)));
        let (listener, address) = listen(config.api.listen).await?;
        let sources = sql::Sources {
            lake: Arc::clone(&lake),
            live: Arc::clone(database.live()),
            reader: Arc::clone(&reader),
            catalogue: Arc::clone(&catalogue),
            districts: Arc::clone(&districts),
            clock: Arc::clone(&clock),
            zone: config.city.zone(),
            query: config.query.clone(),
        };
        let spill = sql::Spill { folder: config.node.data.join("spill"), disk_reserve_bytes: config.intake.disk_reserve_mib << 20 };
        let sql = Arc::new(sql::Engine::new(Arc::new(sources), config.sql.clone(), spill)?);
        let postgres = match config.sql.postgres.listen {
            None => None,
            Some(address) => {
                let access = postgres::Access {
                    tokens: config.api.tokens.clone(),
                    tls: tls::server_config(&config.api, &[postgres::ALPN])?,
                    connections_max: config.sql.postgres.connections_max,
                };
                Some((listen(address).await?, access))
            }
        };

        let mut service = Self {
            address,
            postgres: postgres.as_ref().map(|((_listener, address), _access)| *address),
            live: Arc::clone(database.live()),
            deadline: config.node.stop_deadline.0,
            inlet: None,
            sources: JoinSet::new(),
            pipeline: JoinSet::new(),
            background: JoinSet::new(),
            interface: JoinSet::new(),
            stop_sources: CancellationToken::new(),
            give_up: CancellationToken::new(),
            settled: CancellationToken::new(),
            stop_background: CancellationToken::new(),
            stop_interface: CancellationToken::new(),
        };
        let context = Arc::new(Context {
            clock: Arc::clone(&clock),
            catalogue: Arc::clone(&catalogue),
            districts: Arc::clone(&districts),
            database: Arc::clone(&database),
            reader,
            lake: Arc::clone(&lake),
            influx: influx.clone(),
            history,
            tariff,
            sql: Arc::clone(&sql),
            keeper: Arc::clone(&keeper),
            desk: Arc::clone(&desk),
            gate: Arc::clone(&gate),
            listening: Arc::clone(&listening),
            sources: statuses.clone(),
            waiting: inlet.depth(),
            door: inlet.door(),
            mappings: Arc::clone(&mappings),
            metrics: Arc::clone(&metrics),
            started: clock.now(),
            stop: service.stop_interface.clone(),
            config: config.clone(),
        });
        let interface = api::serve(listener, context)?;
        service.interface.spawn(async move { ("the interface", interface.await.map_err(AppError::Api)) });
        if let Some(((listener, _address), access)) = postgres {
            let stop = service.stop_interface.clone();
            service.interface.spawn(async move {
                postgres::serve(listener, sql, access, stop).await;
                ("the PostgreSQL protocol", Ok(()))
            });
        }

        let stop = service.stop_background.clone();
        service.background.spawn(async move {
            keeper.run(stop).await;
            ("the lake's keeper", Ok(()))
        });
        if let Some(influx) = influx {
            let follower = Follower::new(influx, lake, Arc::clone(&database), Arc::clone(&clock));
            let stop = service.stop_background.clone();
            service.background.spawn(async move {
                follower.run(stop).await;
                ("the follower for InfluxDB", Ok(()))
            });
        }
        let (ticking, heard, stop, every) =
            (Arc::clone(&desk), Arc::clone(&listening), service.stop_background.clone(), config.alerts.tick.0);
        let ticker_clock = Arc::clone(&clock);
        service.background.spawn(async move {
            judge_silence(&ticking, &heard, ticker_clock, every, stop).await;
            ("the judge of silence", Ok(()))
        });

        let mapper = Arc::clone(mappings.mapper());
        let (kept, stop) = (Arc::clone(&database), service.stop_background.clone());
        service.background.spawn(async move {
            mappings::watch(mappings, kept, stop).await;
            ("the watch over mappings", Ok(()))
        });
        let neighbourhood = Arc::new(Neighbourhood::default());
        if config.quality.enabled.contains(&Check::Neighbours) {
            let look = (Arc::clone(&neighbourhood), Arc::clone(database.live()), Arc::clone(&catalogue), Arc::clone(&clock));
            let stop = service.stop_background.clone();
            service.background.spawn(async move {
                look_around(look, stop).await;
                ("the look at neighbours", Ok(()))
            });
        }
        let checks = Checks::new(&catalogue, &quality_settings(&config.quality), neighbourhood);
        let converter = convert::Converter {
            routes: config
                .ingest
                .sources
                .iter()
                .map(|source| (source.name.clone(), route(source, &config.city.zone())))
                .chain([http_route(&config.ingest.http), import_route(&config.ingest.http)])
                .collect(),
            limits: decode::Limits { payload_bytes_max: config.ingest.payload_bytes_max, readings_max: config.ingest.readings_max },
            normaliser: Normaliser::new(Arc::clone(&catalogue), Arc::clone(&districts)),
            catalogue,
            live: Arc::clone(database.live()),
            mapper,
            memory: decode::Memory::default(),
            sources: statuses.iter().map(|status| (status.name.clone(), Arc::clone(status))).collect(),
        };
        let writer = writer::Writer {
            database,
            districts,
            desk,
            gate,
            listening,
            sources: statuses.clone(),
            senders: [config.ingest.http.name.clone(), SourceName::import()],
            waiting: inlet.depth(),
            metrics,
            clock: Arc::clone(&clock),
            limits: intake::Limits { devices_max: config.intake.devices_max },
            repeats: Repeats::new(config.intake.digests_kept, work.digests),
            checks,
            give_up: service.give_up.clone(),
        };
        let (to_writer, batches) = mpsc::channel(BATCHES);
        let (batch_len_max, linger) = (config.intake.batch_messages_max, config.intake.linger.0);
        service.pipeline.spawn_blocking(move || {
            converter.run(messages, &to_writer, batch_len_max, linger);
            ("the converter", Ok(()))
        });
        service.pipeline.spawn_blocking(move || {
            writer.run(batches);
            ("the writer", Ok(()))
        });

        for (source, status) in config.ingest.sources.iter().zip(statuses) {
            let name = source.name.to_string();
            let settings = source_settings(source, &config.ingest);
            let session =
                ingest::run(settings, inlet.clone(), status, Arc::clone(&clock), service.stop_sources.clone(), service.settled.clone());
            service.sources.spawn(async move { ("a source", session.await.map_err(|source| AppError::Source { name, source })) });
        }
        service.inlet = Some(inlet);
        Ok(service)
    }

    /// Where the interface listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where PostgreSQL's protocol is spoken, if anywhere.
    pub fn postgres(&self) -> Option<SocketAddr> {
        self.postgres
    }

    /// The newest phenomenon time that is stored and not ahead of the clock; none while nothing is.
    pub fn newest_observation(&self) -> Option<Timestamp> {
        let state = self.live.read();
        let newest = state.series.iter().filter_map(|series| series.mark.latest).map(|latest| latest.time).max();
        newest.map(Timestamp::from_micros_clamped)
    }

    /// Runs until `stop` is cancelled or a part fails, then stops everything in order.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), AppError> {
        let has_sources = !self.sources.is_empty();
        let early = tokio::select! {
            () = stop.cancelled() => None,
            Some(ended) = self.sources.join_next(), if has_sources => Some(ended),
            Some(ended) = self.pipeline.join_next() => Some(ended),
            Some(ended) = self.background.join_next() => Some(ended),
            Some(ended) = self.interface.join_next() => Some(ended),
        };
        let outcome = match early {
            None => Ok(()),
            Some(Ok((part, Ok(())))) => Err(AppError::Ended(part)),
            Some(Ok((_part, Err(error)))) => Err(error),
            Some(Err(_panicked)) => Err(AppError::Ended("a part that panicked")),
        };
        if let Err(error) = &outcome {
            tracing::error!(error = crate::error_chain(error), "stopping: a part of the program failed");
        }
        self.stop().await;
        outcome
    }

    async fn stop(&mut self) {
        tracing::info!("stopping: taking no more messages");
        self.stop_sources.cancel();
        self.inlet = None;
        if !ended(&mut self.pipeline, self.deadline).await {
            tracing::warn!("what was taken cannot be committed in time: it will be delivered again");
            self.give_up.cancel();
            ended(&mut self.pipeline, GRACE).await;
        }
        self.settled.cancel();
        if !ended(&mut self.sources, self.deadline).await {
            tracing::warn!("a broker did not take its acknowledgements in time");
            self.sources.shutdown().await;
        }
        self.stop_background.cancel();
        if !ended(&mut self.background, self.deadline).await {
            tracing::warn!("the lake did not finish its work in time: it will be done again");
            self.background.shutdown().await;
        }
        self.stop_interface.cancel();
        if !ended(&mut self.interface, self.deadline).await {
            self.interface.shutdown().await;
        }
        tracing::info!("stopped");
    }
}

/// Waits until all parts have ended; `false` where they do not in time.
async fn ended(parts: &mut Parts, deadline: Duration) -> bool {
    tokio::time::timeout(deadline, async { while parts.join_next().await.is_some() {} }).await.is_ok()
}

async fn judge_silence(desk: &Arc<Desk>, listening: &Arc<Listening>, clock: Arc<dyn Clock>, every: Duration, stop: CancellationToken) {
    /// Clocks that are adjusted slowly differ by less between two ticks.
    const STEP: Duration = Duration::from_secs(2);
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = (clock.now(), Instant::now());
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _now = ticks.tick() => {}
        }
        let now = (clock.now(), Instant::now());
        let expected = before.0.plus(now.1 - before.1);
        if now.0.since(expected).max(expected.since(now.0)) > STEP {
            // What was heard before says nothing about now: the devices spoke by another clock, or to nobody.
            tracing::warn!(%expected, now = %now.0, "the clock was set, or the machine slept: silence is judged anew");
            listening.interrupt(now.0);
        }
        before = now;
        let since = listening.since(now.0);
        let desk = Arc::clone(desk);
        match tokio::task::spawn_blocking(move || desk.tick(since)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = crate::error_chain(&error), "cannot judge silence: it is tried again"),
            Err(_stopped) => return,
        }
    }
}

type Look = (Arc<Neighbourhood>, Arc<Live>, Arc<Catalogue>, Arc<dyn Clock>);

/// Keeps it up to date what stations around each other say.
async fn look_around((neighbourhood, live, catalogue, clock): Look, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(quality::REFRESH);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _now = ticks.tick() => {}
        }
        let (neighbourhood, live, catalogue, now) = (Arc::clone(&neighbourhood), Arc::clone(&live), Arc::clone(&catalogue), clock.now());
        if tokio::task::spawn_blocking(move || neighbourhood.refresh(&live, &catalogue, now)).await.is_err() {
            return;
        }
    }
}

fn quality_settings(section: &config::Quality) -> quality::Settings {
    quality::Settings { enabled: section.enabled.clone(), error_codes: section.error_codes.clone() }
}

fn lake_settings(config: &Config) -> LakeSettings {
    LakeSettings {
        url: config.lake.url.clone(),
        node: config.node.id.clone(),
        memory_max: config.lake.memory_mib << 20,
        digests: config.intake.digests_kept,
        merge_rows_max: MERGE_ROWS_MAX,
        zone: config.city.zone(),
    }
}

/// None without a token, which the check of the configuration asks for.
fn influx_settings(Config { influxdb: config, intake, lake, .. }: &Config) -> Option<InfluxSettings> {
    let rollups_kept = [lake.kept_15m.0, lake.kept_1h.0, lake.kept_1d.0];
    Some(InfluxSettings {
        url: config.url.clone(),
        org: config.org.clone(),
        bucket: config.bucket.clone(),
        rollup_bucket: format!("{}_rollup", config.bucket),
        token: config.token.clone()?,
        kept: config.kept.0,
        // As long as any of them; days go by whole months.
        rollups_kept: match rollups_kept.into_iter().max() {
            Some(longest) if !rollups_kept.contains(&Duration::ZERO) => longest + MONTH,
            _ => Duration::ZERO,
        },
        batch_lines_max: config.batch_lines,
        timeout: config.timeout.0,
        backoff_max: config.backoff_max.0,
        log_bytes_max: config.log_mib_max << 20,
        disk_reserve_bytes: intake.disk_reserve_mib << 20,
    })
}

fn schedule(config: &Config) -> Schedule {
    let kept = |kept: DurationText| Some(kept.0).filter(|kept| !kept.is_zero());
    Schedule {
        flush_rows: config.lake.flush_rows,
        // Half of what may be there, so that intake need not wait for a flush.
        flush_bytes: config.intake.log_mib_max << 19,
        flush_after: config.lake.flush_after.0,
        merge_every: config.lake.merge_every.0,
        maintain_every: config.lake.maintain_every.0,
        kept: kept(config.lake.kept),
        kept_of: config.lake.kept_of.iter().map(|(domain, time)| (*domain, kept(*time))).collect(),
        kept_rollups: [
            (Tier::Quarter, kept(config.lake.kept_15m)),
            (Tier::Hour, kept(config.lake.kept_1h)),
            (Tier::Day, kept(config.lake.kept_1d)),
        ],
        vacuum_after: config.lake.vacuum_after.0,
        quarantine_bytes_max: config.intake.quarantine_mib_max << 20,
        quarantine_kept: config.intake.quarantine_kept.0,
    }
}

fn route(source: &config::Source, zone: &TimeZone) -> convert::Route {
    let forms = source.subscriptions.iter().map(|subscription| {
        let form = decode::Form { zone: Some(zone.clone()), ..subscription.form() };
        (subscription.topic.clone(), form)
    });
    convert::Route {
        forms: forms.collect(),
        bounds: TimeBounds {
            past_max: source.past_max.0,
            past_trusted_max: source.past_trusted_max.map(|trusted_max| trusted_max.0),
            future_max: source.future_max.0,
            skew_max: source.skew_max.0,
        },
    }
}

/// What is sent over HTTP, under the topics that [`api::SENDERS`] gives it.
fn http_route(source: &config::HttpSource) -> (SourceName, convert::Route) {
    let forms = api::SENDERS.iter().map(|(filter, decoder, precision)| {
        ((*filter).to_owned(), decode::Form { decoder: *decoder, precision: *precision, ..decode::Form::default() })
    });
    let bounds = TimeBounds {
        past_max: source.past_max.0,
        past_trusted_max: source.past_trusted_max.map(|trusted_max| trusted_max.0),
        future_max: source.future_max.0,
        skew_max: source.skew_max.0,
    };
    (source.name.clone(), convert::Route { forms: forms.collect(), bounds })
}

/// What `conca import` sends: messages like those of any sender over HTTP.
fn import_route(source: &config::HttpSource) -> (SourceName, convert::Route) {
    let (_http, route) = http_route(source);
    (SourceName::import(), route)
}

fn source_settings(source: &config::Source, section: &config::Ingest) -> ingest::Settings {
    /// What is longer than a payload may be is still quarantined with its reason, up to so many times its length.
    const PACKET_FACTOR: usize = 4;
    let url = url::Url::parse(&source.url).expect("the configuration was checked");
    let is_tls = url.scheme() == "mqtts";
    let credentials =
        source.user.clone().map(|user| (user, source.password.as_ref().map(|password| password.reveal().to_owned()).unwrap_or_default()));
    ingest::Settings {
        name: source.name.clone(),
        host: url.host_str().unwrap_or_default().to_owned(),
        port: url.port().unwrap_or(if is_tls { 8_883 } else { 1_883 }),
        tls: is_tls
            .then(|| ingest::Tls { ca_file: source.ca_file.clone(), client: source.certificate_file.clone().zip(source.key_file.clone()) }),
        client_id: source.client_id.clone().unwrap_or_default(),
        credentials,
        session_expiry: source.session_expiry.0,
        receive_maximum: source.receive_maximum,
        keep_alive: source.keep_alive.0,
        connect_timeout: source.connect_timeout.0,
        backoff_max: source.backoff_max.0,
        packet_bytes_max: u32::try_from(section.payload_bytes_max.saturating_mul(PACKET_FACTOR)).unwrap_or(u32::MAX),
        sparkplug_host: source.sparkplug_host.clone(),
        subscriptions: source
            .subscriptions
            .iter()
            .map(|subscription| ingest::Subscription {
                filter: subscription
                    .share
                    .as_ref()
                    .map_or_else(|| subscription.topic.clone(), |group| format!("$share/{group}/{}", subscription.topic)),
                qos: subscription.qos,
            })
            .collect(),
    }
}
