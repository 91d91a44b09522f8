//! The file's sections, as they are written; every field with unit and default.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Role;
use super::text::{ByteText, SpanText};
use crate::decode::Decoder;

/// The JSON Schema of the file.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(FileConfig).to_value()
}

/// The whole file. Every section and key may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FileConfig {
    /// This node.
    pub node: NodeSection,
    /// Brokers.
    pub mqtt: MqttSection,
    /// What a message may cost.
    pub decode: DecodeSection,
    /// The intake: from messages to the durable log.
    pub intake: IntakeSection,
    /// The embedded store.
    pub lake: LakeSection,
    /// Questions.
    pub query: QuerySection,
    /// Alerts.
    pub alert: AlertSection,
    /// Districts and devices.
    pub places: PlacesSection,
    /// The HTTP API.
    pub http: HttpSection,
    /// Logs.
    pub log: LogSection,
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

section! {
    /// This node.
    NodeSection {
        /// Name of this node; part of client identifiers and of what stores remember of it.
        id: String = "conca-1".to_owned(),
        /// Folder for everything that is kept.
        data: String = "conca-data".to_owned(),
        /// IANA time zone of windows and days where a question names none.
        zone: String = "Europe/Rome".to_owned(),
    }
}

section! {
    /// Brokers.
    MqttSection {
        /// One entry a broker.
        sources: Vec<SourceSection> = vec![SourceSection::default()],
    }
}

section! {
    /// A broker. Its password comes from `CONCA_MQTT_<NAME>_PASSWORD` or a file.
    SourceSection {
        /// Name in ledger and status.
        name: String = "default".to_owned(),
        /// `mqtt://host:port` or `mqtts://host:port`.
        url: String = "mqtt://127.0.0.1:1883".to_owned(),
        /// MQTT client identifier, to which the session belongs; empty means `conca-<node>-<name>`.
        client_id: String = String::new(),
        /// User name; empty means none.
        username: String = String::new(),
        /// File that holds the password; empty means the environment.
        password_file: String = String::new(),
        /// Certificates to trust, PEM; empty means the machine's own.
        ca_file: String = String::new(),
        /// Client certificate, PEM.
        client_certificate_file: String = String::new(),
        /// Key of the client certificate, PEM.
        client_key_file: String = String::new(),
        /// How long the broker keeps the session, with its messages, while Conca is away.
        session_expiry: SpanText = SpanText::seconds(7 * 86_400),
        /// Messages that the broker may send ahead of acknowledgements.
        receive_maximum: u16 = 4_000,
        /// Keep-alive interval.
        keep_alive: SpanText = SpanText::seconds(30),
        /// Time to connect.
        connect_timeout: SpanText = SpanText::seconds(10),
        /// Longest pause between two tries to connect.
        backoff_max: SpanText = SpanText::seconds(60),
        /// Oldest phenomenon time that is taken; history may be replayed.
        past_max: SpanText = SpanText::seconds(100 * 31_536_000),
        /// Phenomenon times further ahead are refused.
        future_max: SpanText = SpanText::seconds(86_400),
        /// Phenomenon times further ahead are kept and flagged.
        skew_max: SpanText = SpanText::seconds(300),
        /// What to hear; at least one.
        subscriptions: Vec<SubscriptionSection> = vec![SubscriptionSection::default()],
    }
}

section! {
    /// A topic filter.
    SubscriptionSection {
        /// MQTT topic filter, without `$share`.
        filter: String = "conca/v1/#".to_owned(),
        /// Shared subscription group; empty means none.
        share: String = String::new(),
        /// Highest quality of service, 0 or 1.
        qos: u8 = 1,
        /// Payload family.
        decoder: Decoder = Decoder::V1,
    }
}

section! {
    /// What a message may cost.
    DecodeSection {
        /// Longest payload.
        payload_bytes_max: ByteText = ByteText(256 << 10),
        /// Most readings of a message.
        readings_max: u32 = 1_000,
    }
}

section! {
    /// The intake.
    IntakeSection {
        /// Messages that wait between ingest and intake; when full, the broker waits.
        queue_capacity: u32 = 8_192,
        /// Most messages of one commit.
        batch_messages_max: u32 = 2_048,
        /// How long a commit waits for more messages.
        batch_wait: SpanText = SpanText(std::time::Duration::from_millis(2)),
        /// Devices that the city may have.
        devices_max: u32 = 100_000,
        /// Messages that are remembered to know them when they are delivered again.
        digests: u32 = 32_768,
        /// Memory of the log's part that the store has not taken yet; when full, the broker waits.
        log_bytes_max: ByteText = ByteText(128 << 20),
        /// Free disk below which nothing is accepted any more, so that what is there can still be flushed.
        disk_reserve: ByteText = ByteText(512 << 20),
        /// How long refused messages are kept.
        quarantine_age_max: SpanText = SpanText::seconds(30 * 86_400),
        /// How much of them is kept; the oldest go first.
        quarantine_bytes_max: ByteText = ByteText(256 << 20),
    }
}

section! {
    /// The embedded store.
    LakeSection {
        /// Folder of the table; empty means `lake` in the data folder.
        url: String = String::new(),
        /// Longest time between two flushes of the log.
        flush_interval: SpanText = SpanText::seconds(30),
        /// Rows after which the log is flushed earlier.
        flush_rows: u32 = 500_000,
        /// Longest time until late rows are compared with the table.
        merge_interval: SpanText = SpanText::seconds(120),
        /// Late rows after which that is done earlier.
        merge_rows: u32 = 250_000,
        /// How often small files are looked for.
        compact_interval: SpanText = SpanText::seconds(60),
        /// Days older than this are dropped; left out means never.
        retention: Option<SpanText> = None,
        /// How long replaced files stay for whoever still reads them.
        vacuum_after: SpanText = SpanText::seconds(86_400),
    }
}

section! {
    /// Questions.
    QuerySection {
        /// Memory of all questions and maintenance together.
        memory_max: ByteText = ByteText(192 << 20),
        /// Longest time for a question.
        timeout: SpanText = SpanText::seconds(30),
        /// Questions to the store at a time; more wait.
        concurrent_max: u32 = 4,
        /// Rows of one answer.
        rows_max: u32 = 1_000_000,
        /// Windows of one question.
        windows_max: u32 = 100_000,
        /// How long after its end a window is provisional: late data is still expected.
        lateness: SpanText = SpanText::seconds(3_600),
    }
}

section! {
    /// Alerts.
    AlertSection {
        /// Rules, JSON; empty means those that come with Conca. Rules put through the API come first.
        rules_file: String = String::new(),
        /// How often silence is looked for.
        tick: SpanText = SpanText::seconds(1),
    }
}

section! {
    /// Districts and devices.
    PlacesSection {
        /// Districts, GeoJSON; empty means Palermo's, approximate.
        districts_file: String = String::new(),
        /// Registry of devices, JSON: name, place, interval; empty means none.
        devices_file: String = String::new(),
    }
}

section! {
    /// The HTTP API.
    HttpSection {
        /// Address. Other than loopback only with tokens.
        listen: String = "127.0.0.1:8080".to_owned(),
        /// Certificate, PEM; empty means no TLS.
        certificate_file: String = String::new(),
        /// Its key, PEM.
        key_file: String = String::new(),
        /// Largest request body.
        body_bytes_max: ByteText = ByteText(1 << 20),
        /// Connections at a time.
        connections_max: u32 = 1_024,
        /// Longest time for a request.
        request_timeout: SpanText = SpanText::seconds(35),
        /// API tokens.
        tokens: Vec<TokenSection> = Vec::new(),
    }
}

/// An API token. `conca token` makes one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenSection {
    /// Who uses it.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// SHA-256 of the token, 64 hexadecimal digits.
    pub sha256: String,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

section! {
    /// Logs, to standard error.
    LogSection {
        /// `text` or `json`.
        format: LogFormat = LogFormat::Text,
        /// Levels: `info`, or `conca=debug,info`.
        filter: String = "info".to_owned(),
    }
}
