//! One TOML file, checked as a whole: every problem is reported at once, with its key.
//!
//! The file is held against its JSON Schema (`schemas/config.json`, generated from the types here), then against what
//! a schema cannot say. What passes is trusted from then on. Secrets come from the environment or from files, never
//! from the configuration itself, and print as `***`.
//!
//! Not here: what the values do. Each stage takes the section that is its own.

mod check;
mod secret;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

pub use check::Problem;
pub use secret::{Secret, TokenHash};

use crate::decode::{Decoder, Form, Layout, TopicPattern};
use crate::model::{Domain, DurationText, SourceName};
use crate::quality::Check;

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// There is nothing in the file: somebody is writing it, and the city that it is to tell of is not that of the defaults.
    #[error("empty: is it being written?")]
    Empty,
    /// The file is no TOML.
    #[error("not TOML: {0}")]
    Malformed(String),
    /// Everything that is wrong with it.
    #[error("{}", listed(problems))]
    Invalid { problems: Vec<Problem> },
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |mut text, problem| {
        let separator = if text.is_empty() { "" } else { "\n" };
        write!(text, "{separator}{problem}").expect("a string takes any text");
        text
    })
}

/// The whole configuration. Every section and key may be left out.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The stores that follow the log. The lake is always one of them: it settles what comes late.
    pub stores: Vec<StoreName>,
    /// The store that answers questions.
    pub query_store: StoreName,
    /// This process and its folder.
    pub node: Node,
    /// What is particular to the city.
    pub city: City,
    /// Brokers, and what is taken from them.
    pub ingest: Ingest,
    /// Which values are suspect.
    pub quality: Quality,
    /// The durable commit.
    pub intake: Intake,
    /// The embedded store.
    pub lake: Lake,
    /// InfluxDB 2, where it is one of the stores.
    pub influxdb: InfluxDb,
    /// What questions may cost.
    pub query: Query,
    /// Statements in SQL.
    pub sql: Sql,
    /// Alert rules.
    pub alerts: Alerts,
    /// The HTTP interface.
    pub api: Api,
    /// What is written about the program's own doings.
    pub log: Log,
}

/// This process and its folder.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// The node's id: letters, digits, `-`, `_`, `.`, `:`. Part of what it writes into shared tables: unique among nodes, never changed.
    pub id: String,
    /// The folder of state database and lake; one process at a time works in it.
    pub data: PathBuf,
    /// How long a stage may take to finish when the program stops.
    pub stop_deadline: DurationText,
}

/// What is particular to the city.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct City {
    /// The time zone of windows, where a question names none: an IANA name. Empty means Europe/Rome.
    pub time_zone: String,
    /// A GeoJSON file of districts, features with the properties `id` and `name`. Left out: Palermo's, approximate.
    pub districts: Option<PathBuf>,
    /// A folder of mappings, `*.json` in the form of `schemas/mapping.schema.json`: what fields of which devices are. A
    /// changed file is taken up within seconds. Left out: the built-in dictionary alone.
    pub mappings: Option<PathBuf>,
    /// A catalogue of observed properties in the form of `schemas/properties.json`. Left out: the built-in one.
    pub properties: Option<PathBuf>,
    /// Time bands of energy, holidays and prices, in the form of `schemas/tariff.schema.json`. Left out: Italy's F1, F2 and F3, without prices.
    pub tariff: Option<PathBuf>,
}

impl City {
    /// Its time zone. The check of the configuration knows that there is one.
    pub fn zone(&self) -> jiff::tz::TimeZone {
        jiff::tz::TimeZone::get(&self.time_zone).unwrap_or(jiff::tz::TimeZone::UTC)
    }
}

/// Brokers, and what is taken from them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ingest {
    /// Messages that may wait for the commit. When it is full, reading from the brokers stops; QoS 0 is shed and counted.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub queue_messages: usize,
    /// Memory of all waiting messages together, in MiB. When it is used up, the same happens.
    #[schemars(range(min = 1, max = 4_000))]
    pub queue_mib: usize,
    /// Longest payload in bytes; longer ones are quarantined.
    #[schemars(range(min = 64, max = 16_777_216))]
    pub payload_bytes_max: usize,
    /// Most readings of one message.
    #[schemars(range(min = 1, max = 100_000))]
    pub readings_max: usize,
    /// One entry for each broker session.
    pub sources: Vec<Source>,
    /// What is sent over HTTP.
    pub http: HttpSource,
}

/// What is sent over HTTP.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSource {
    /// Its name in ledger and metrics.
    #[schemars(with = "String", regex(pattern = r"^[A-Za-z0-9_.:-]{1,128}$"))]
    pub name: SourceName,
    /// Readings older than this are refused.
    pub past_max: DurationText,
    /// Readings older than this are kept, but not believed. Left out: no age is suspect, since history may be replayed.
    pub past_trusted_max: Option<DurationText>,
    /// Readings whose time lies further ahead of our clock than this are refused.
    pub future_max: DurationText,
    /// Readings whose time lies further ahead than this are kept, but not believed.
    pub skew_max: DurationText,
}

/// One broker session.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its name in ledger, metrics and status; also in the names of environment variables.
    #[schemars(with = "String", regex(pattern = r"^[A-Za-z0-9_.:-]{1,128}$"))]
    pub name: SourceName,
    /// `mqtt://host:1883` or `mqtts://host:8883`.
    pub url: String,
    /// MQTT client identifier; the broker's session belongs to it. Left out: `conca-<node.id>-<name>`.
    pub client_id: Option<String>,
    /// User name. Left out: that of the environment variable `CONCA_SOURCE_<NAME>_USER`, else none. The password is that
    /// of `CONCA_SOURCE_<NAME>_PASSWORD` or the content of `password_file`. `<NAME>` is in capitals, with `_` for any other character.
    pub user: Option<String>,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// Certificates to trust, PEM. Left out: the machine's own.
    pub ca_file: Option<PathBuf>,
    /// Client certificate, PEM.
    pub certificate_file: Option<PathBuf>,
    /// The client certificate's key, PEM.
    pub key_file: Option<PathBuf>,
    /// How long the broker keeps what arrives while Conca is away.
    #[serde(default = "default::session_expiry")]
    pub session_expiry: DurationText,
    /// Unacknowledged messages that the broker may send ahead.
    #[serde(default = "default::receive_maximum")]
    #[schemars(range(min = 1, max = 65_535))]
    pub receive_maximum: u16,
    /// Keep-alive interval.
    #[serde(default = "default::keep_alive")]
    pub keep_alive: DurationText,
    /// To connect and be accepted.
    #[serde(default = "default::connect_timeout")]
    pub connect_timeout: DurationText,
    /// Longest pause between two tries to connect.
    #[serde(default = "default::backoff_max")]
    pub backoff_max: DurationText,
    /// Readings older than this are refused.
    #[serde(default = "default::past_max")]
    pub past_max: DurationText,
    /// Readings older than this are kept, but not believed. Left out: no age is suspect, since history may be replayed.
    pub past_trusted_max: Option<DurationText>,
    /// Readings whose time lies further ahead of our clock than this are refused.
    #[serde(default = "default::future_max")]
    pub future_max: DurationText,
    /// Readings whose time lies further ahead than this are kept, but not believed.
    #[serde(default = "default::skew_max")]
    pub skew_max: DurationText,
    /// The host ID under which this says that it is there (`spBv1.0/STATE/<host ID>`), for Sparkplug's edge nodes that wait for a
    /// primary host. Left out: it says nothing.
    #[schemars(regex(pattern = r"^[^/+#]{1,128}$"))]
    pub sparkplug_host: Option<String>,
    /// What to subscribe to.
    #[serde(default = "default::subscriptions")]
    #[schemars(length(min = 1, max = 100))]
    pub subscriptions: Vec<Subscription>,
    /// The password, once it is found; never in the file.
    #[serde(skip)]
    pub password: Option<Secret>,
}

/// One topic filter.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subscription {
    /// The topic filter, without `$share`.
    pub topic: String,
    /// Highest quality of service.
    #[serde(default = "default::qos")]
    #[schemars(range(min = 0, max = 1))]
    pub qos: u8,
    /// Group of a shared subscription, if several Conca nodes share the topic.
    pub share: Option<String>,
    /// The payload family.
    #[serde(default)]
    pub decoder: Decoder,
    /// Where the topic names its sender, for payloads that may not: `sensors/{kind}/{device}/+`, with the levels
    /// `{device}`, `{kind}`, `{domain}`, `+`, a last `#`, or literal ones. Left out: the last level is the device.
    pub names: Option<String>,
    /// How tables (`csv`) and free JSON (`json`) are to be read: which column or key is which.
    #[schemars(with = "Option<Layout>")]
    pub layout: Option<Arc<Layout>>,
}

impl Subscription {
    /// How its messages are decoded.
    pub fn form(&self) -> Form {
        let topic = self.names.as_deref().map_or_else(TopicPattern::default, |names| names.parse().expect("the configuration was checked"));
        Form { decoder: self.decoder, topic, layout: self.layout.clone(), ..Form::default() }
    }
}

/// Which values are suspect. The limits stand with each property in the catalogue.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quality {
    /// The checks that are made: `error-code`, `stuck`, `spike`, `rate`, `humid`, `neighbours`. Range, time and place are always checked.
    pub enabled: Vec<Check>,
    /// Numbers that stand for a fault in any property for which they are no plausible value, in its canonical or the sender's unit.
    pub error_codes: Vec<f64>,
}

/// The durable commit.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Intake {
    /// Messages of one commit at most.
    #[schemars(range(min = 1, max = 100_000))]
    pub batch_messages_max: usize,
    /// How long a commit waits for more messages: larger commits cost less.
    pub linger: DurationText,
    /// Devices that the city may have. Messages of further ones are quarantined.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub devices_max: usize,
    /// Digests of the last messages that are kept to tell what a broker delivers again; well above what can be in flight.
    #[schemars(range(min = 10_000, max = 10_000_000))]
    pub digests_kept: usize,
    /// Below so much free disk, in MiB, nothing more is accepted or acknowledged until there is room again.
    pub disk_reserve_mib: u64,
    /// Memory of the intake log, in MiB. When it is reached, nothing more is accepted until the store has caught up.
    #[schemars(range(min = 8, max = 65_536))]
    pub log_mib_max: usize,
    /// Bytes of quarantined messages that are kept, in MiB; the oldest go first.
    #[schemars(range(min = 1))]
    pub quarantine_mib_max: u64,
    /// How long quarantined messages are kept.
    pub quarantine_kept: DurationText,
}

/// The embedded store.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lake {
    /// Where the table is: a folder, or `s3://bucket/prefix` (keys, region and endpoint in the environment, as `AWS_ACCESS_KEY_ID`).
    /// Empty: `lake` in the data folder.
    pub url: String,
    /// Memory of all questions and maintenance together, in MiB.
    #[schemars(range(min = 64, max = 1_048_576))]
    pub memory_mib: usize,
    /// Rows in the log from which it is moved into the table.
    #[schemars(range(min = 1))]
    pub flush_rows: usize,
    /// How long rows stay in the log at most before they are moved into the table.
    pub flush_after: DurationText,
    /// How often late rows are compared with the table.
    pub merge_every: DurationText,
    /// How often files are looked over for compaction, rollups, retention and vacuum.
    pub maintain_every: DurationText,
    /// How long observations are kept, by the day of their phenomenon time. 0s means for ever.
    pub kept: DurationText,
    /// How long observations of the properties of a domain are kept, in place of `kept`: `{ security = "30d" }`.
    pub kept_of: BTreeMap<Domain, DurationText>,
    /// How long rollups of 15 minutes are kept. 0s means for ever: rollups outlive the observations they are made of.
    pub kept_15m: DurationText,
    /// How long rollups of hours are kept. 0s means for ever.
    pub kept_1h: DurationText,
    /// How long rollups of local days are kept, by whole months. 0s means for ever.
    pub kept_1d: DurationText,
    /// Files that no version of the table has used for so long are deleted. Longer than any question takes.
    pub vacuum_after: DurationText,
}

/// A store by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StoreName {
    /// The embedded one.
    #[default]
    Lake,
    /// InfluxDB 2.
    Influxdb,
}

/// InfluxDB 2.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InfluxDb {
    /// Its address, `http://…` or `https://…`.
    pub url: String,
    /// The organisation.
    pub org: String,
    /// The bucket of observations; made where it is not there.
    pub bucket: String,
    /// A file that holds the token. The environment variable `CONCA_INFLUXDB_TOKEN` goes before it.
    pub token_file: Option<PathBuf>,
    /// How long a bucket that is made keeps observations. 0s means for ever.
    pub kept: DurationText,
    /// Lines of one write.
    #[schemars(range(min = 1, max = 100_000))]
    pub batch_lines: usize,
    /// How long one request may take: to write, to begin an answer, or to go on with it.
    pub timeout: DurationText,
    /// Longest pause between two tries.
    pub backoff_max: DurationText,
    /// How much of the log is kept while InfluxDB is away, in MiB on the disk. Beyond, the log goes on without it, and the lake is
    /// copied once it is back.
    #[schemars(range(min = 1))]
    pub log_mib_max: u64,
    /// The token, once it is found; never in the file.
    #[serde(skip)]
    pub token: Option<Secret>,
}

/// What questions may cost.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Query {
    /// How long a question may take.
    pub timeout: DurationText,
    /// Questions at the same time; further ones wait, up to the timeout.
    #[schemars(range(min = 1, max = 1_000))]
    pub concurrent_max: usize,
    /// Buckets of one answer: windows times groups.
    #[schemars(range(min = 1))]
    pub buckets_max: usize,
    /// Rows that a percentile may keep.
    #[schemars(range(min = 1))]
    pub percentile_rows_max: usize,
    /// Observations of one page.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub page_rows_max: usize,
    /// A window is provisional for so long after its end.
    pub lateness: DurationText,
    /// A value holds for so many of its device's expected intervals.
    pub hold_intervals: f64,
    /// A device is late once its newest observation is older than so many of its expected intervals.
    pub late_intervals: f64,
    /// A device is silent once its newest observation is older than so many of its expected intervals.
    pub silent_intervals: f64,
}

/// Statements in SQL: what one may cost, and all together.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sql {
    /// How long a statement may take, up to its last row.
    pub timeout: DurationText,
    /// Statements at the same time; further ones wait, up to the timeout.
    #[schemars(range(min = 1, max = 1_000))]
    pub concurrent_max: usize,
    /// Of these, statements of one caller; further ones wait, up to the timeout.
    #[schemars(range(min = 1, max = 1_000))]
    pub concurrent_per_caller_max: usize,
    /// Rows of one answer; more are an error, never left out.
    #[schemars(range(min = 1))]
    pub rows_max: usize,
    /// Memory that all rows of one answer would take together, in MiB; more are an error.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub answer_mib_max: usize,
    /// Memory of all statements together, in MiB, beside that of other questions.
    #[schemars(range(min = 16, max = 1_048_576))]
    pub memory_mib: usize,
    /// Disk for sorting and grouping what is larger than the memory, in MiB, in the folder `spill` of the data folder. 0: none, and
    /// such statements fail.
    #[schemars(range(max = 1_048_576))]
    pub spill_mib_max: u64,
    /// The PostgreSQL protocol.
    pub postgres: Postgres,
}

/// The PostgreSQL protocol. A user is the name of a token, its password the token; TLS is that of the HTTP interface.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Postgres {
    /// Where it listens, `127.0.0.1:5432` for instance. Left out: nowhere. For addresses the same holds as for `api.listen`.
    #[schemars(with = "Option<String>")]
    pub listen: Option<SocketAddr>,
    /// Connections at the same time; further ones wait.
    #[schemars(range(min = 1, max = 10_000))]
    pub connections_max: usize,
}

/// Alert rules.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Alerts {
    /// The rules document, JSON. Rules put in place through the interface go before it.
    pub rules: Option<PathBuf>,
    /// How often silence is judged.
    pub tick: DurationText,
}

/// The HTTP interface.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Where it listens. An address that is not loopback is refused until there are tokens and TLS or `plaintext`.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// TLS: certificate chain, PEM.
    pub certificate_file: Option<PathBuf>,
    /// TLS: key, PEM.
    pub key_file: Option<PathBuf>,
    /// Whether tokens may travel unencrypted over a network, for instance behind a proxy that ends TLS.
    pub plaintext: bool,
    /// Who may come in. None at all: whoever is on this machine may do everything.
    pub tokens: Vec<Token>,
    /// Longest request body in bytes.
    #[schemars(range(min = 1_024, max = 1_073_741_824))]
    pub body_bytes_max: usize,
    /// Connections at the same time.
    #[schemars(range(min = 1, max = 100_000))]
    pub connections_max: usize,
    /// Live streams at the same time.
    #[schemars(range(min = 1, max = 100_000))]
    pub streams_max: usize,
    /// How long a request may take to arrive and a connection may be idle.
    pub request_timeout: DurationText,
}

/// Who may come in.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The name that stands beside what is done with it.
    #[schemars(length(min = 1, max = 64))]
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// SHA-256 of the token, 64 hexadecimal digits: `conca token` makes both.
    #[schemars(with = "String", regex(pattern = "^[0-9a-fA-F]{64}$"))]
    pub sha256: TokenHash,
}

/// What a token may do; each role may do what those before it may, but only write, operate and admin send observations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Send observations, and nothing else.
    Write,
    /// Ask.
    Read,
    /// Acknowledge and clear alerts, replay from the quarantine, send observations.
    Operate,
    /// Change rules and settings.
    Admin,
}

/// What is written about the program's own doings, to standard error.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// What is written: a `tracing` filter such as `warn,conca=info` or `debug`. The environment variable `CONCA_LOG` goes before it.
    pub filter: String,
    /// In which form.
    pub format: LogFormat,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

mod default {
    //! Values of keys that are left out.

    use std::time::Duration;

    use super::{
        Alerts, Api, City, Config, DurationText, HttpSource, InfluxDb, Ingest, Intake, Lake, Log, LogFormat, Node, Postgres, Quality,
        Query, Sql, StoreName, Subscription,
    };
    use crate::decode::Decoder;
    use crate::model::SourceName;
    use crate::quality::Check;

    const fn seconds(seconds: u64) -> DurationText {
        DurationText(Duration::from_secs(seconds))
    }

    const fn days(days: u64) -> DurationText {
        seconds(days * 86_400)
    }

    pub(super) fn session_expiry() -> DurationText {
        days(7)
    }

    pub(super) fn receive_maximum() -> u16 {
        4_000
    }

    pub(super) fn keep_alive() -> DurationText {
        seconds(30)
    }

    pub(super) fn connect_timeout() -> DurationText {
        seconds(10)
    }

    pub(super) fn backoff_max() -> DurationText {
        seconds(30)
    }

    pub(super) fn past_max() -> DurationText {
        days(36_525)
    }

    pub(super) fn future_max() -> DurationText {
        days(1)
    }

    pub(super) fn skew_max() -> DurationText {
        seconds(300)
    }

    pub(super) fn qos() -> u8 {
        1
    }

    pub(super) fn subscriptions() -> Vec<Subscription> {
        vec![Subscription { topic: "conca/v1/#".to_owned(), qos: 1, share: None, decoder: Decoder::V1, names: None, layout: None }]
    }

    impl Default for Config {
        fn default() -> Self {
            Self {
                stores: vec![StoreName::Lake],
                query_store: StoreName::Lake,
                node: Node::default(),
                city: City::default(),
                ingest: Ingest::default(),
                quality: Quality::default(),
                intake: Intake::default(),
                lake: Lake::default(),
                influxdb: InfluxDb::default(),
                query: Query::default(),
                sql: Sql::default(),
                alerts: Alerts::default(),
                api: Api::default(),
                log: Log::default(),
            }
        }
    }

    impl Default for Node {
        fn default() -> Self {
            Self { id: "conca-1".to_owned(), data: "conca-data".into(), stop_deadline: seconds(20) }
        }
    }

    impl Default for Ingest {
        fn default() -> Self {
            Self {
                queue_messages: 16_384,
                queue_mib: 64,
                payload_bytes_max: 262_144,
                readings_max: 1_000,
                sources: Vec::new(),
                http: HttpSource::default(),
            }
        }
    }

    impl Default for HttpSource {
        fn default() -> Self {
            let name = SourceName::try_from("http").expect("an allowed name");
            Self { name, past_max: past_max(), past_trusted_max: None, future_max: future_max(), skew_max: skew_max() }
        }
    }

    impl Default for Quality {
        fn default() -> Self {
            let error_codes = vec![-9_999.0, -999.0, -200.0, -127.0, 255.0, 999.0, 9_999.0, 32_767.0, -32_768.0, 65_535.0];
            Self { enabled: Check::ALL.to_vec(), error_codes }
        }
    }

    impl Default for Intake {
        fn default() -> Self {
            Self {
                batch_messages_max: 4_096,
                linger: DurationText(Duration::from_millis(4)),
                devices_max: 100_000,
                digests_kept: 200_000,
                disk_reserve_mib: 512,
                log_mib_max: 192,
                quarantine_mib_max: 256,
                quarantine_kept: days(30),
            }
        }
    }

    impl Default for Lake {
        fn default() -> Self {
            Self {
                url: String::new(),
                memory_mib: 256,
                flush_rows: 1_000_000,
                flush_after: seconds(60),
                merge_every: seconds(120),
                maintain_every: seconds(60),
                kept: seconds(0),
                kept_of: std::collections::BTreeMap::new(),
                kept_15m: seconds(0),
                kept_1h: seconds(0),
                kept_1d: seconds(0),
                vacuum_after: seconds(3_600),
            }
        }
    }

    impl Default for InfluxDb {
        fn default() -> Self {
            Self {
                url: "http://127.0.0.1:8086".to_owned(),
                org: "city".to_owned(),
                bucket: "conca".to_owned(),
                token_file: None,
                kept: seconds(0),
                batch_lines: 10_000,
                timeout: seconds(30),
                backoff_max: seconds(30),
                log_mib_max: 4_096,
                token: None,
            }
        }
    }

    impl Default for Query {
        fn default() -> Self {
            Self {
                timeout: seconds(30),
                concurrent_max: 8,
                buckets_max: 1_000_000,
                percentile_rows_max: 8_000_000,
                page_rows_max: 10_000,
                lateness: seconds(3_600),
                hold_intervals: 3.0,
                late_intervals: 2.0,
                silent_intervals: 5.0,
            }
        }
    }

    impl Default for Sql {
        fn default() -> Self {
            Self {
                timeout: seconds(60),
                concurrent_max: 4,
                concurrent_per_caller_max: 2,
                rows_max: 10_000_000,
                answer_mib_max: 1_024,
                memory_mib: 256,
                spill_mib_max: 1_024,
                postgres: Postgres::default(),
            }
        }
    }

    impl Default for Postgres {
        fn default() -> Self {
            Self { listen: None, connections_max: 64 }
        }
    }

    impl Default for Alerts {
        fn default() -> Self {
            Self { rules: None, tick: seconds(1) }
        }
    }

    impl Default for Api {
        fn default() -> Self {
            Self {
                listen: ([127, 0, 0, 1], 8_080).into(),
                certificate_file: None,
                key_file: None,
                plaintext: false,
                tokens: Vec::new(),
                body_bytes_max: 1_048_576,
                connections_max: 1_024,
                streams_max: 128,
                request_timeout: seconds(30),
            }
        }
    }

    impl Default for Log {
        fn default() -> Self {
            // Delta Lake tells of every step at the level of information.
            Self { filter: "warn,conca=info".to_owned(), format: LogFormat::Text }
        }
    }
}

/// Looks up an environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Config {
    /// Reads, completes from the environment and checks a file.
    pub fn load(path: &Path, environment: Environment<'_>) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        if text.trim().is_empty() {
            return Err(ConfigError::Empty);
        }
        Self::parse(&text, environment)
    }

    /// [`Config::load`] for a text.
    pub fn parse(text: &str, environment: Environment<'_>) -> Result<Self, ConfigError> {
        let value: serde_json::Value = toml::from_str(text).map_err(|error| ConfigError::Malformed(error.to_string()))?;
        let mut problems = check::against_schema(&Self::schema(), &value);
        if !problems.is_empty() {
            return Err(ConfigError::Invalid { problems });
        }
        // What the schema lets through can still fail to parse, a duration too long for instance.
        let mut config: Self = serde_json::from_value(value)
            .map_err(|error| ConfigError::Invalid { problems: vec![Problem { key: String::new(), problem: error.to_string() }] })?;
        config.complete(environment, &mut problems);
        check::values(&config, &mut problems);
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid { problems }) }
    }

    /// The JSON Schema of the file.
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }

    /// Takes secrets from environment and files.
    fn complete(&mut self, environment: Environment<'_>, problems: &mut Vec<Problem>) {
        if self.city.time_zone.is_empty() {
            "Europe/Rome".clone_into(&mut self.city.time_zone);
        }
        self.influxdb.token = match (environment("CONCA_INFLUXDB_TOKEN"), &self.influxdb.token_file) {
            (Some(token), _) => Some(Secret::new(token)),
            (None, Some(path)) => {
                let key = "influxdb.token_file".to_owned();
                secret_of(path).map_err(|problem| problems.push(Problem { key, problem })).ok()
            }
            (None, None) => None,
        };
        for (index, source) in self.ingest.sources.iter_mut().enumerate() {
            let variable = |what: &str| {
                let name: String = source
                    .name
                    .as_str()
                    .chars()
                    .map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' })
                    .collect();
                environment(&format!("CONCA_SOURCE_{name}_{what}"))
            };
            let password = variable("PASSWORD");
            source.user = source.user.take().or_else(|| variable("USER"));
            source.password = match (password, &source.password_file) {
                (Some(password), _) => Some(Secret::new(password)),
                (None, Some(path)) => {
                    let key = format!("ingest.sources[{index}].password_file");
                    secret_of(path).map_err(|problem| problems.push(Problem { key, problem })).ok()
                }
                (None, None) => None,
            };
            if source.client_id.is_none() {
                source.client_id = Some(format!("conca-{}-{}", self.node.id, source.name));
            }
        }
    }
}

/// The content of a file that holds a secret.
fn secret_of(path: &Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

#[cfg(test)]
mod tests;
