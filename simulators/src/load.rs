//! A load generator that costs little, because it shares the machine with what it measures.
//!
//! Every device sends message 0, 1, 2, … with the same five readings; what a message says is a pure function of seed, device
//! and message number ([`expected`], [`Settings::time`], [`Settings::poison`]), so nothing is kept but numbers, a message that
//! must be sent again is written again, and a test can compute what has to be stored. Raw sockets, at least once,
//! many messages to a write. What is reported as acknowledged was acknowledged by the broker; it may have been delivered more than once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::connection::{Connection, Outcome};
pub use self::latency::Latency;
pub use self::message::{Poison, expected};
use crate::publisher::Broker;

mod connection;
mod frame;
mod latency;
mod message;

#[derive(Clone, Debug)]
pub struct Settings {
    pub broker: Broker,
    pub seed: u64,
    /// At most 1,000,000; their ids are those of [`device_id`].
    pub devices: u32,
    /// Messages in a second over all devices; 0 is as fast as they are acknowledged.
    pub rate: f64,
    /// Messages over all devices; without, until stopped.
    pub messages: Option<u64>,
    pub connections: u32,
    /// Unacknowledged messages of a connection; the broker may ask for fewer.
    pub window: u16,
    /// Phenomenon time of every device's message 0.
    pub start: Timestamp,
    /// Phenomenon time between two messages of a device.
    pub step: Duration,
    /// Part of the messages that must be rejected.
    pub poison: f64,
    /// How long acknowledgements are waited for after `stop`; a run with an end waits for all of them.
    pub grace: Duration,
}

/// What was sent, and what the broker said.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Distinct messages.
    pub published: u64,
    pub acknowledged: u64,
    /// Acknowledged with a reason code that says no.
    pub refused: u64,
    /// Messages sent again after a lost connection.
    pub retries: u64,
    pub reconnects: u64,
    pub bytes: u64,
    /// Poison messages by kind, among the published.
    pub poison: BTreeMap<Poison, u64>,
    /// From the first connection to the last acknowledgement.
    pub elapsed: Duration,
    /// From writing a message, for the last time, to reading its acknowledgement; up to two milliseconds of it are the
    /// generator's own, which looks seldom to cost little.
    pub latency: Latency,
    /// Messages sent, by device.
    sent: Vec<u64>,
    /// (device, message) of what was sent and not acknowledged.
    missing: BTreeSet<(u32, u64)>,
}

impl Report {
    /// Messages 0 up to this number of a device were all acknowledged, this one was not.
    pub fn acknowledged_of(&self, device: u32) -> u64 {
        let sent = self.sent_of(device);
        self.missing.range((device, 0)..(device, sent)).next().map_or(sent, |(_, message)| *message)
    }

    pub fn is_acknowledged(&self, device: u32, message: u64) -> bool {
        message < self.sent_of(device) && !self.missing.contains(&(device, message))
    }

    /// Messages sent at least once.
    pub fn sent_of(&self, device: u32) -> u64 {
        usize::try_from(device).ok().and_then(|device| self.sent.get(device)).copied().unwrap_or(0)
    }

    /// Messages in a second.
    pub fn rate(&self) -> f64 {
        self.acknowledged as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

impl Settings {
    /// Phenomenon time of a message.
    pub fn time(&self, message: u64) -> Timestamp {
        Timestamp::from_millisecond(self.time_ms(message).cast_signed()).unwrap_or(Timestamp::MAX)
    }

    /// What is wrong with a message, if anything.
    pub fn poison(&self, device: u32, message: u64) -> Option<Poison> {
        message::poison(self.seed, self.poison, device, message)
    }

    fn time_ms(&self, message: u64) -> u64 {
        let step = u64::try_from(self.step.as_millis()).unwrap_or(u64::MAX);
        self.start.as_millisecond().cast_unsigned().saturating_add(message.saturating_mul(step))
    }

    fn validate(&self) -> anyhow::Result<()> {
        ensure!((1..=1_000_000).contains(&self.devices), "devices: must be 1 to 1,000,000");
        ensure!((1..=self.devices).contains(&self.connections), "connections: must be at least 1 and not more than devices");
        ensure!(self.rate.is_finite() && 0.0 <= self.rate, "rate: must not be negative");
        ensure!((0.0..=1.0).contains(&self.poison), "poison: must be 0 to 1");
        ensure!(1 <= self.window, "window: must be at least 1");
        // Frames have one length only because epoch milliseconds have 13 digits from 2001 to 2286.
        let years = Timestamp::from_second(1_000_000_000)?..Timestamp::from_second(9_999_999_999)?;
        let rounds = self.messages.unwrap_or(0) / u64::from(self.devices);
        ensure!(years.contains(&self.start) && years.contains(&self.time(rounds)), "start: times must lie in the years 2001 to 2286");
        Ok(())
    }

    /// Messages of the connection that serves every `connections`th device, from this one on.
    fn share(&self, connection: u32) -> Option<u64> {
        let devices = u64::from(self.devices);
        let own = |among: u64| (among + u64::from(self.connections - 1 - connection)) / u64::from(self.connections);
        self.messages.map(|messages| own(devices) * (messages / devices) + own(messages % devices))
    }
}

/// The identifier of a device, as in topics.
pub fn device_id(device: u32) -> String {
    format!("load-{device:06}")
}

/// Sends until everything is acknowledged, or until `stop`; then waits for outstanding acknowledgements.
pub async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<Report> {
    settings.validate()?;
    let begun = std::time::Instant::now();
    let settings = Arc::new(settings);
    // Threads cannot be aborted: they end with this future, one way or another.
    let stop = stop.child_token();
    let _stop_threads = stop.clone().drop_guard();
    let mut connections = JoinSet::new();
    for number in 0..settings.connections {
        let connection = Connection::new(Arc::clone(&settings), number, begun);
        let stop = stop.clone();
        connections.spawn_blocking(move || connection.run(&stop));
    }
    let mut report = Report { sent: vec![0; usize::try_from(settings.devices)?], ..Report::default() };
    while let Some(outcome) = connections.join_next().await {
        let outcome = outcome.context("a connection's task failed")?;
        report.add(outcome.inspect_err(|_| stop.cancel())?);
    }
    report.elapsed = begun.elapsed();
    Ok(report)
}

impl Report {
    fn add(&mut self, outcome: Outcome) {
        self.published += outcome.published;
        self.refused += outcome.refused;
        self.acknowledged += outcome.published - outcome.missing.len() as u64;
        self.retries += outcome.retries;
        self.reconnects += outcome.reconnects;
        self.bytes += outcome.bytes;
        for (poison, count) in outcome.poison {
            *self.poison.entry(poison).or_default() += count;
        }
        self.latency.merge(&outcome.latency);
        for (device, sent) in outcome.sent {
            if let Some(total) = usize::try_from(device).ok().and_then(|device| self.sent.get_mut(device)) {
                *total += sent;
            }
        }
        self.missing.extend(outcome.missing);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::{Report, Settings, expected};
    use crate::fake_broker::FakeBroker;
    use crate::publisher::Broker;

    fn settings(devices: u32, connections: u32, messages: u64) -> Settings {
        Settings {
            broker: Broker { host: String::new(), port: 0, credentials: None, connect_timeout: Duration::ZERO },
            seed: 1,
            devices,
            rate: 0.0,
            messages: Some(messages),
            connections,
            window: 100,
            start: "2025-01-01T00:00:00Z".parse().unwrap(),
            step: Duration::from_secs(1),
            poison: 0.0,
            grace: Duration::from_secs(1),
        }
    }

    #[test]
    fn connections_share_all_messages() {
        for (devices, connections, messages) in [(10, 3, 25), (10, 10, 7), (7, 1, 1_000), (1, 1, 5), (8, 3, 0)] {
            let settings = settings(devices, connections, messages);
            let shares: u64 = (0..connections).filter_map(|connection| settings.share(connection)).sum();
            assert_eq!(shares, messages, "{devices} devices, {connections} connections");
        }
    }

    #[tokio::test]
    async fn what_a_lost_connection_left_unacknowledged_is_sent_again() {
        let fake = FakeBroker::start(&[17, 0, 3, 40]).await;
        let mut settings = settings(7, 1, 200);
        (settings.broker, settings.window) = (fake.broker(), 10);
        let report = super::run(settings.clone(), CancellationToken::new()).await.unwrap();
        assert_eq!((report.published, report.acknowledged, report.refused, report.reconnects), (200, 200, 0, 4));
        assert!((1..200).contains(&report.retries), "{}", report.retries);
        assert_eq!((report.acknowledged_of(0), report.acknowledged_of(6)), (29, 28));
        let payloads = fake.check_nothing_is_missing_or_reordered(200);
        let last: serde_json::Value = serde_json::from_slice(&payloads[199]).unwrap();
        let (device, message) = (199 % 7, 199 / 7);
        assert_eq!(last["time"], settings.time(message).as_millisecond());
        assert_eq!(last["readings"]["no2"], expected(1, device, message)[2].1);
    }

    #[tokio::test]
    async fn a_stopped_run_says_what_is_not_acknowledged() {
        let fake = FakeBroker::start(&[50, 0, 0, 0, 0, 0, 0, 0]).await;
        let mut settings = settings(10, 1, 1_000);
        (settings.broker, settings.grace) = (fake.broker(), Duration::from_millis(50));
        let stop = CancellationToken::new();
        let (report, ()) = tokio::join!(super::run(settings, stop.clone()), async {
            fake.reached_connection(2).await;
            stop.cancel();
        });
        let report = report.unwrap();
        assert_eq!(report.acknowledged, 50);
        assert_eq!((0..10).map(|device| report.acknowledged_of(device)).sum::<u64>(), 50);
        assert!(report.is_acknowledged(3, 4) && !report.is_acknowledged(3, 5));
    }

    #[test]
    fn acknowledged_messages_are_counted_up_to_the_first_gap() {
        let report = Report { sent: vec![10, 4], missing: [(0, 7), (0, 9)].into(), ..Report::default() };
        assert_eq!((report.acknowledged_of(0), report.acknowledged_of(1), report.acknowledged_of(2)), (7, 4, 0));
        assert!(report.is_acknowledged(0, 8) && !report.is_acknowledged(0, 9) && !report.is_acknowledged(1, 4));
    }

    #[test]
    fn impossible_settings_are_refused() {
        let check = |change: fn(&mut Settings), expected: &str| {
            let mut settings = settings(10, 1, 10);
            change(&mut settings);
            assert!(settings.validate().unwrap_err().to_string().starts_with(expected));
        };
        check(|settings| settings.devices = 0, "devices");
        check(|settings| settings.connections = 11, "connections");
        check(|settings| settings.poison = 1.5, "poison");
        check(|settings| settings.start = jiff::Timestamp::UNIX_EPOCH, "start");
    }
}
