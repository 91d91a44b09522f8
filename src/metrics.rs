//! What Prometheus reads: counters that each stage adds to, and gauges that are taken when somebody asks.
//!
//! Labels come from enums and from the configuration, never from devices: their number is bounded. Names follow the
//! Prometheus conventions (base units, `_total` for counters).

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::model::Reason;

/// A source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabel {
    /// Its configured name.
    pub source: String,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// At least one reading is stored or pending.
    Accepted,
    /// Nothing of it is.
    Rejected,
    /// It was delivered before.
    Repeated,
    /// It was dropped for lack of room.
    Shed,
}

/// Source and outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// The source's configured name.
    pub source: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// [`Reason::as_str`].
    pub reason: &'static str,
}

/// A lane of the intake log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LaneLabel {
    /// `ordered` or `late`.
    pub lane: &'static str,
}

/// A piece of the lake's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Work {
    /// The table, which was away when the program started.
    Open,
    /// Log to table.
    Flush,
    /// Late rows into the table.
    Merge,
    /// Small files into large ones.
    Compact,
    /// Touched days into rollups.
    RollUp,
    /// Old days away.
    Retain,
    /// Unused files away.
    Vacuum,
}

/// A piece of the lake's work and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WorkLabels {
    /// What.
    pub work: Work,
    /// `ok` or `failed`.
    pub result: &'static str,
}

/// A route of the interface and how it answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabels {
    /// The route's pattern, never the path asked for.
    pub route: String,
    /// HTTP status.
    pub status: u16,
}

/// Every metric of the program.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Messages by source and outcome.
    pub messages: Family<OutcomeLabels, Counter>,
    /// Faults by reason.
    pub faults: Family<ReasonLabel, Counter>,
    /// Observations accepted, by lane.
    pub observations: Family<LaneLabel, Counter>,
    /// Time of a durable commit.
    pub commit_seconds: Histogram,
    /// Messages of a commit.
    pub commit_messages: Histogram,
    /// Commits that failed and are tried again.
    pub commit_failures: Counter,
    /// From receipt to acknowledgement.
    pub settle_seconds: Histogram,
    /// Messages that wait for the commit.
    pub queue_messages: Gauge,
    /// Whether each source is ready.
    pub source_ready: Family<SourceLabel, Gauge>,
    /// Connections of each source so far.
    pub source_connections: Family<SourceLabel, Gauge>,
    /// What each broker says that it dropped of its own.
    pub source_broker_dropped: Family<SourceLabel, Gauge>,
    /// Replies to senders that could not be sent.
    pub source_replies_dropped: Family<SourceLabel, Gauge>,
    /// Whether intake stands still.
    pub intake_paused: Gauge,
    /// Rows in the intake log, by lane.
    pub log_rows: Family<LaneLabel, Gauge>,
    /// Memory of the intake log.
    pub log_bytes: Gauge,
    /// Free disk under the data folder.
    pub disk_free_bytes: Gauge,
    /// The lake's work.
    pub lake_work: Family<WorkLabels, Counter>,
    /// Files of the table.
    pub lake_files: Gauge,
    /// Bytes of the table.
    pub lake_bytes: Gauge,
    /// Rows of the table.
    pub lake_rows: Gauge,
    /// Devices that have been heard.
    pub devices: Gauge,
    /// Most devices that are allowed.
    pub devices_max: Gauge,
    /// Active alerts.
    pub alerts_active: Gauge,
    /// Requests by route and status.
    pub requests: Family<RouteLabels, Counter>,
    /// Time of requests, streams left out.
    pub request_seconds: Histogram,
    /// Live streams.
    pub streams: Gauge,
    /// Resident memory of the process.
    pub memory_bytes: Gauge<i64, AtomicI64>,
    /// Processor time of the process so far.
    pub processor_seconds: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.000_25, 2.0, 17));
        let metrics = Self {
            registry: Registry::with_prefix("conca"),
            messages: Family::default(),
            faults: Family::default(),
            observations: Family::default(),
            commit_seconds: seconds(),
            commit_messages: Histogram::new(exponential_buckets(1.0, 4.0, 8)),
            commit_failures: Counter::default(),
            settle_seconds: seconds(),
            queue_messages: Gauge::default(),
            source_ready: Family::default(),
            source_connections: Family::default(),
            source_broker_dropped: Family::default(),
            source_replies_dropped: Family::default(),
            intake_paused: Gauge::default(),
            log_rows: Family::default(),
            log_bytes: Gauge::default(),
            disk_free_bytes: Gauge::default(),
            lake_work: Family::default(),
            lake_files: Gauge::default(),
            lake_bytes: Gauge::default(),
            lake_rows: Gauge::default(),
            devices: Gauge::default(),
            devices_max: Gauge::default(),
            alerts_active: Gauge::default(),
            requests: Family::default(),
            request_seconds: seconds(),
            streams: Gauge::default(),
            memory_bytes: Gauge::default(),
            processor_seconds: Gauge::default(),
        };
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let r = &mut self.registry;
        r.register("messages", "Messages by source and outcome", self.messages.clone());
        r.register("faults", "What was refused, by reason", self.faults.clone());
        r.register("observations", "Observations accepted, by lane", self.observations.clone());
        r.register_with_unit("commit", "Time of a durable commit", Unit::Seconds, self.commit_seconds.clone());
        r.register("commit_messages", "Messages of a commit", self.commit_messages.clone());
        r.register("commit_failures", "Commits that failed and are tried again", self.commit_failures.clone());
        r.register_with_unit("settle", "From receipt of a message to its acknowledgement", Unit::Seconds, self.settle_seconds.clone());
        r.register("queue_messages", "Messages that wait for the commit", self.queue_messages.clone());
        r.register("source_ready", "1 while a source is connected and subscribed", self.source_ready.clone());
        r.register("source_connections", "Connections of a source so far", self.source_connections.clone());
        r.register("source_replies_dropped", "Replies to senders that could not be sent", self.source_replies_dropped.clone());
        r.register("source_broker_dropped", "Messages that the broker says it dropped of its own", self.source_broker_dropped.clone());
        r.register("intake_paused", "1 while nothing is accepted", self.intake_paused.clone());
        r.register("log_rows", "Rows in the intake log, by lane", self.log_rows.clone());
        r.register_with_unit("log", "Memory of the intake log", Unit::Bytes, self.log_bytes.clone());
        r.register_with_unit("disk_free", "Free disk under the data folder", Unit::Bytes, self.disk_free_bytes.clone());
        r.register("lake_work", "Flushes, merges and maintenance of the lake", self.lake_work.clone());
        r.register("lake_files", "Files of the lake's table", self.lake_files.clone());
        r.register_with_unit("lake", "Bytes of the lake's table", Unit::Bytes, self.lake_bytes.clone());
        r.register("lake_rows", "Rows of the lake's table", self.lake_rows.clone());
        r.register("devices", "Devices that have been heard", self.devices.clone());
        r.register("devices_max", "Most devices that are allowed", self.devices_max.clone());
        r.register("alerts_active", "Active alerts", self.alerts_active.clone());
        r.register("requests", "HTTP requests by route and status", self.requests.clone());
        r.register_with_unit("request", "Time of HTTP requests, streams left out", Unit::Seconds, self.request_seconds.clone());
        r.register("streams", "Live streams", self.streams.clone());
        r.register_with_unit("process_memory", "Resident memory", Unit::Bytes, self.memory_bytes.clone());
        r.register_with_unit("process_processor", "Processor time so far", Unit::Seconds, self.processor_seconds.clone());
        self
    }

    /// Counts something refused.
    pub fn fault(&self, reason: Reason) {
        self.faults.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc();
    }

    /// The page, in the OpenMetrics text format.
    pub fn page(&self) -> String {
        let mut page = String::new();
        encode(&mut page, &self.registry).expect("a string takes any text");
        page
    }
}
