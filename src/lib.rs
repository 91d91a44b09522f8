//! Conca, the telemetry backend of a city: MQTT in, durable, queryable, alerting.
//!
//! Read the modules in the order in which a reading travels:
//!
//! ```text
//! broker ─▶ ingest ─▶ decode ─▶ mapping ─▶ normalise ─▶ intake ─▶ store ─▶ query ─▶ api ─▶ dashboards, analysts
//!                                              └────▶ alert
//! ```
//!
//! | module | takes → gives |
//! |---|---|
//! | [`model`] | ids, properties, units, time, places, observations; pure |
//! | [`config`] | one file → checked sections |
//! | [`state`] | the embedded database: log, ledger, quarantine, alerts, registry of devices; its only writer, and its mirror in memory |
//! | [`metrics`] | what Prometheus reads |
//! | [`ingest`] | MQTT sessions → messages, each with the right to acknowledge it |
//! | [`decode`] | message → readings, or why not; pure |
//! | [`mapping`] | sender's words → the catalogue's: which field is which property; pure |
//! | [`normalise`] | reading → observation: unit, time, place, plausibility; pure |
//! | [`quality`] | observation, and what came before it → what is suspect about it; pure |
//! | [`intake`] | batch → effects of one transaction; pure. Also whether anything may be accepted |
//! | [`rollup`] | readings of a bucket → mergeable statistics; pure |
//! | [`store`] | the log's follower: Delta Lake table, its upkeep, scans over table and log together |
//! | [`query`] | question → aggregates, observations, latest values; the core is pure |
//! | [`alert`] | rules over observations and the clock → alerts; the core is pure |
//! | [`api`] | HTTP |
//! | [`app`] | wiring: queues, threads, start and stop order |
//! | [`keep`] | backup, restore and examination of what is kept; export and import |
//! | [`demo`] | all of it with an embedded broker and a simulated city |
//!
//! What holds everywhere: a message is acknowledged only after its effects are durable in one transaction
//! ([`intake`], [`state`]); no identity (device, observed property, phenomenon time) is ever counted twice
//! ([`store`]); every queue is bounded and a full one stops reading from the broker ([`ingest`]).
//!
//! Stages know [`model`], [`config`], [`state`] and [`metrics`], and each other only as `tests/it/layering.rs` lists.

pub mod alert;
pub mod api;
pub mod app;
pub mod config;
pub mod decode;
pub mod demo;
pub mod ingest;
pub mod intake;
pub mod keep;
pub mod mapping;
pub mod metrics;
pub mod model;
pub mod normalise;
pub mod quality;
pub mod query;
pub mod rollup;
pub mod state;
pub mod store;

/// An error with all its causes, for the one place where it is logged or shown to an operator.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
