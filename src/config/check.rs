//! Everything that can be wrong with a configuration.

use std::fmt;

use hashbrown::HashSet;
use serde_json::Value;
use url::Url;

use super::{Config, Source, StoreName};
use crate::decode::{Decoder, TopicPattern};
use crate::model::SourceName;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where: `ingest.sources[0].url`; empty for the whole.
    pub key: String,
    /// What.
    pub problem: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() { formatter.write_str(&self.problem) } else { write!(formatter, "{}: {}", self.key, self.problem) }
    }
}

/// Unknown keys, wrong types, numbers out of range: all of them.
pub(super) fn against_schema(schema: &Value, value: &Value) -> Vec<Problem> {
    let validator = jsonschema::validator_for(schema).expect("the schema is generated from types");
    let mut problems: Vec<Problem> = validator
        .iter_errors(value)
        .map(|error| Problem { key: key_of(error.instance_path().as_str()), problem: error.to_string() })
        .collect();
    // The validator's own order differs from run to run.
    problems.sort_unstable();
    problems
}

/// `/ingest/sources/0/url` as `ingest.sources[0].url`.
fn key_of(pointer: &str) -> String {
    let mut key = String::new();
    for part in pointer.split('/').skip(1) {
        let is_index = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        match (is_index, key.is_empty()) {
            (true, _) => key.extend(["[", part, "]"]),
            (false, true) => key.push_str(part),
            (false, false) => key.extend([".", part]),
        }
    }
    key
}

/// What a schema cannot say.
pub(super) fn values(config: &Config, problems: &mut Vec<Problem>) {
    let mut report = |key: &str, problem: &str| problems.push(Problem { key: key.to_owned(), problem: problem.to_owned() });
    if SourceName::try_from(config.node.id.as_str()).is_err() {
        report("node.id", "must have 1 to 128 letters, digits or any of - _ . :");
    }
    if jiff::tz::TimeZone::get(&config.city.time_zone).is_err() {
        report("city.time_zone", "is no time zone of the IANA database");
    }
    for (key, duration) in [
        ("node.stop_deadline", config.node.stop_deadline),
        ("lake.flush_after", config.lake.flush_after),
        ("lake.merge_every", config.lake.merge_every),
        ("lake.maintain_every", config.lake.maintain_every),
        ("query.timeout", config.query.timeout),
        ("sql.timeout", config.sql.timeout),
        ("alerts.tick", config.alerts.tick),
        ("api.request_timeout", config.api.request_timeout),
        ("intake.quarantine_kept", config.intake.quarantine_kept),
    ] {
        if duration.0.is_zero() {
            report(key, "must be above zero");
        }
    }
    if !is_table_location(&config.lake.url) {
        report("lake.url", "must be a folder or s3://bucket/prefix");
    }
    influxdb(config, &mut report);
    if config.intake.linger.0.as_millis() > 1_000 {
        report("intake.linger", "must not exceed 1s: acknowledgements wait for it");
    }
    if config.lake.vacuum_after.0 <= config.query.timeout.0 {
        report("lake.vacuum_after", "must be longer than query.timeout: questions read the files");
    }
    if config.lake.vacuum_after.0 <= config.sql.timeout.0 {
        report("lake.vacuum_after", "must be longer than sql.timeout: statements read the files");
    }
    if !(config.query.hold_intervals > 0.0 && config.query.hold_intervals.is_finite()) {
        report("query.hold_intervals", "must be above zero");
    }
    if !(config.query.late_intervals >= 1.0 && config.query.late_intervals.is_finite()) {
        report("query.late_intervals", "must be at least 1");
    }
    if !(config.query.silent_intervals > config.query.late_intervals && config.query.silent_intervals.is_finite()) {
        report("query.silent_intervals", "must be above query.late_intervals");
    }
    let sources = &config.ingest.sources;
    let in_flight = sources.iter().map(|source| usize::from(source.receive_maximum)).sum::<usize>() * 4;
    if config.intake.digests_kept < in_flight {
        report("intake.digests_kept", &format!("must be at least {in_flight}, four times what the sources may have in flight"));
    }
    if config.ingest.http.past_trusted_max.is_some_and(|trusted_max| trusted_max > config.ingest.http.past_max) {
        report("ingest.http.past_trusted_max", "must not exceed past_max");
    }
    if config.ingest.http.name.as_str() == SourceName::IMPORT {
        report("ingest.http.name", TAKEN);
    }
    let mut names: HashSet<&str> = HashSet::from_iter([config.ingest.http.name.as_str()]);
    for (index, source) in sources.iter().enumerate() {
        for (key, problem) in source_problems(source) {
            report(&format!("ingest.sources[{index}].{key}"), &problem);
        }
        if !names.insert(source.name.as_str()) {
            report(&format!("ingest.sources[{index}].name"), "appears twice");
        }
        if source.name.as_str() == SourceName::IMPORT {
            report(&format!("ingest.sources[{index}].name"), TAKEN);
        }
    }
    api(config, &mut report);
}

/// A folder, or a prefix in a bucket of S3: the rollups are beside it. User and password in an address would be shown with it.
fn is_table_location(text: &str) -> bool {
    let is_prefix = |url: Url| {
        let is_bare = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
        url.scheme() == "s3" && url.has_host() && is_bare && !url.path().trim_matches('/').is_empty()
    };
    !text.contains("://") || Url::parse(text).is_ok_and(is_prefix)
}

/// Of a name that is not the city's to give.
const TAKEN: &str = "is the name of what comes from files of observations";

fn influxdb(config: &Config, report: &mut impl FnMut(&str, &str)) {
    if !config.stores.contains(&StoreName::Lake) {
        report("stores", "must contain \"lake\": it settles what comes late");
    }
    if !config.stores.contains(&config.query_store) {
        report("query_store", "is none of the stores");
    }
    if !config.stores.contains(&StoreName::Influxdb) {
        return;
    }
    let settings = &config.influxdb;
    if !Url::parse(&settings.url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some()) {
        report("influxdb.url", "is no http or https address");
    }
    for (key, text) in [("influxdb.org", &settings.org), ("influxdb.bucket", &settings.bucket)] {
        if text.is_empty() {
            report(key, "must not be empty");
        }
    }
    if settings.token.is_none() {
        report("influxdb.token_file", "no token: set CONCA_INFLUXDB_TOKEN, or name a file that holds it");
    }
    for (key, duration) in [("influxdb.timeout", settings.timeout), ("influxdb.backoff_max", settings.backoff_max)] {
        if duration.0.is_zero() {
            report(key, "must be above zero");
        }
    }
}

fn source_problems(source: &Source) -> Vec<(&'static str, String)> {
    let mut problems = Vec::new();
    if source.sparkplug_host.as_ref().is_some_and(|host| !(1..=128).contains(&host.len()) || host.contains(['/', '+', '#'])) {
        problems.push(("sparkplug_host", "must be one level of a topic: 1 to 128 bytes without / + #".to_owned()));
    }
    let is_tls = match Url::parse(&source.url) {
        Err(error) => {
            problems.push(("url", format!("is no address: {error}")));
            false
        }
        Ok(url) => {
            if !matches!(url.scheme(), "mqtt" | "mqtts") || url.host_str().is_none() {
                problems.push(("url", "must be mqtt://host:port or mqtts://host:port".to_owned()));
            }
            if !url.username().is_empty() || url.password().is_some() {
                problems.push(("url", "must not hold a user or password: give them in the environment".to_owned()));
            }
            url.scheme() == "mqtts"
        }
    };
    let tls_files = [("ca_file", &source.ca_file), ("certificate_file", &source.certificate_file), ("key_file", &source.key_file)];
    for (key, path) in tls_files {
        match path {
            Some(_) if !is_tls => problems.push((key, "is of use with mqtts:// only".to_owned())),
            Some(path) if !path.is_file() => problems.push((key, format!("there is no file {}", path.display()))),
            _ => {}
        }
    }
    if source.certificate_file.is_some() != source.key_file.is_some() {
        problems.push(("certificate_file", "and key_file go together".to_owned()));
    }
    if source.password.is_some() && source.user.is_none() {
        problems.push(("user", "is missing, though there is a password".to_owned()));
    }
    if source.skew_max > source.future_max {
        problems.push(("skew_max", "must not exceed future_max".to_owned()));
    }
    if source.past_trusted_max.is_some_and(|trusted_max| trusted_max > source.past_max) {
        problems.push(("past_trusted_max", "must not exceed past_max".to_owned()));
    }
    if source.session_expiry.0.is_zero() {
        problems.push(("session_expiry", "must be above zero: without a session the broker forgets what it could not deliver".to_owned()));
    }
    if source.keep_alive.0.as_secs() < 5 {
        problems.push(("keep_alive", "must be at least 5s".to_owned()));
    }
    for subscription in &source.subscriptions {
        if !is_topic_filter(&subscription.topic) || subscription.topic.starts_with("$share/") {
            problems.push(("subscriptions", format!("{:?} is no topic filter", subscription.topic)));
        }
        if let Some(Err(error)) = subscription.names.as_ref().map(|names| names.parse::<TopicPattern>()) {
            problems.push(("subscriptions", format!("names: {error}")));
        }
        if let Some(layout) = &subscription.layout {
            if ![Decoder::Csv, Decoder::Json].contains(&subscription.decoder) {
                problems.push(("subscriptions", "layout: only csv and json have one".to_owned()));
            }
            problems.extend(layout.problems().into_iter().map(|problem| ("subscriptions", format!("layout: {problem}"))));
        }
        if let Some(group) = subscription.share.as_ref().filter(|group| group.is_empty() || group.contains(['/', '+', '#'])) {
            problems.push(("subscriptions", format!("{group:?} is no name of a group")));
        }
    }
    problems
}

/// MQTT 5, 4.7.1: `#` stands last and alone in its level, `+` alone in its level.
pub(super) fn is_topic_filter(text: &str) -> bool {
    let levels: Vec<&str> = text.split('/').collect();
    let last = levels.len() - 1;
    !text.is_empty()
        && text.len() <= 65_535
        && !text.contains('\0')
        && levels.iter().enumerate().all(|(index, level)| match *level {
            "#" => index == last,
            "+" => true,
            other => !other.contains(['+', '#']),
        })
}

fn api(config: &Config, report: &mut impl FnMut(&str, &str)) {
    let api = &config.api;
    if api.certificate_file.is_some() != api.key_file.is_some() {
        report("api.certificate_file", "and key_file go together");
    }
    for (key, path) in [("api.certificate_file", &api.certificate_file), ("api.key_file", &api.key_file)] {
        if let Some(path) = path.as_ref().filter(|path| !path.is_file()) {
            report(key, &format!("there is no file {}", path.display()));
        }
    }
    for (key, listen) in [("api.listen", Some(api.listen)), ("sql.postgres.listen", config.sql.postgres.listen)] {
        if listen.is_none_or(|listen| listen.ip().is_loopback()) {
            continue;
        }
        if api.tokens.is_empty() {
            report(key, "is not a loopback address: configure api.tokens first (`conca token` makes one)");
        }
        if api.certificate_file.is_none() && !api.plaintext {
            let problem =
                "is not a loopback address: give certificate_file and key_file, or say plaintext = true behind a proxy that ends TLS";
            report(key, problem);
        }
    }
    let mut names = HashSet::new();
    for (index, token) in api.tokens.iter().enumerate() {
        if !names.insert(token.name.as_str()) {
            report(&format!("api.tokens[{index}].name"), "appears twice");
        }
    }
}
