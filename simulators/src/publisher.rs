//! An MQTT 5 publisher that loses nothing: at least once, a bounded window, and unacknowledged messages sent again after a break.
//!
//! The connection is polled by a task of its own (`rumqttc`'s request queue is emptied by polling only).
//! Two traits of `rumqttc` 0.25 are corrected here: when the broker has no session to resume, it would forget what was
//! unacknowledged, and it sends again in the order of packet ids, which is not that of publishing once the ids have wrapped.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, bail};
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, Packet, PubAckReason};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Request};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::noise::Noise;

/// Messages that wait between the caller and the window.
const QUEUE_LEN: usize = 16;
/// Longest time for one try to connect.
const TRY_TIMEOUT: Duration = Duration::from_secs(5);
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Where to publish, and as whom.
#[derive(Clone, Debug)]
pub struct Broker {
    /// Name or address; without brackets.
    pub host: String,
    pub port: u16,
    pub credentials: Option<Credentials>,
    /// How long the broker may be unreachable at the start; later, reconnecting is tried for ever.
    pub connect_timeout: Duration,
}

/// User name and password.
#[derive(Clone)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

/// What became of the messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed over by the caller.
    pub published: u64,
    pub acknowledged: u64,
    /// Acknowledged with a reason code that says no.
    pub refused: u64,
    pub reconnects: u64,
}

impl Counts {
    /// Messages of which nothing is known yet.
    pub fn outstanding(&self) -> u64 {
        self.published - self.acknowledged - self.refused
    }
}

/// A connection to publish on.
#[derive(Debug)]
pub struct Publisher {
    client: AsyncClient,
    published: u64,
    answers: watch::Receiver<Counts>,
    poller: JoinSet<()>,
}

impl Publisher {
    /// Connects; an error says why the broker could not be reached in time.
    pub async fn connect(broker: &Broker, client_id: &str, window: u16) -> anyhow::Result<Self> {
        let host = if broker.host.contains(':') { format!("[{}]", broker.host) } else { broker.host.clone() };
        let mut options = MqttOptions::new(client_id, host, broker.port);
        options.set_keep_alive(Duration::from_secs(30));
        options.set_clean_start(true);
        options.set_outgoing_inflight_upper_limit(window);
        options.set_connection_timeout(TRY_TIMEOUT.as_secs());
        let mut network = options.network_options();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        if let Some(Credentials { user, password }) = &broker.credentials {
            options.set_credentials(user, password);
        }
        let (client, mut connection) = AsyncClient::new(options, QUEUE_LEN);
        first_connect(&mut connection, broker.connect_timeout)
            .await
            .with_context(|| format!("cannot reach the broker at {}:{}", broker.host, broker.port))?;
        info!(host = broker.host, port = broker.port, client_id, "connected to the broker");
        let (sender, answers) = watch::channel(Counts::default());
        let mut poller = JoinSet::new();
        poller.spawn(Poller { connection, order: VecDeque::new(), answers: sender, jitter: Noise::new(0, client_id) }.run());
        Ok(Self { client, published: 0, answers, poller })
    }

    /// Queues a message; waits while the window is full. Dropping the future queues nothing.
    pub async fn publish(&mut self, topic: &str, payload: Vec<u8>) -> anyhow::Result<()> {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.context("the connection's task has ended")?;
        self.published += 1;
        Ok(())
    }

    /// Waits until the broker has answered every message.
    pub async fn settle(&mut self) -> anyhow::Result<()> {
        let published = self.published;
        self.answers
            .wait_for(|answers| published <= answers.acknowledged + answers.refused)
            .await
            .context("the connection's task has ended")?;
        Ok(())
    }

    pub fn counts(&self) -> Counts {
        Counts { published: self.published, ..*self.answers.borrow() }
    }

    /// Gives outstanding acknowledgements their last chance, then disconnects.
    pub async fn close(mut self, grace: Duration) -> anyhow::Result<Counts> {
        if let Ok(settled) = timeout(grace, self.settle()).await {
            settled?;
        } else {
            warn!(outstanding = self.counts().outstanding(), "some messages stay unacknowledged");
        }
        let counts = self.counts();
        // While the connection is broken the request may never be taken; the task is aborted then.
        if self.client.try_disconnect().is_ok() && timeout(Duration::from_secs(1), self.poller.join_next()).await.is_err() {
            self.poller.shutdown().await;
        }
        Ok(counts)
    }
}

async fn first_connect(connection: &mut EventLoop, patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match connection.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => return Ok(()),
            Ok(_) => {}
            Err(ConnectionError::ConnectionRefused(
                code @ (ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized | ConnectReturnCode::Banned),
            )) => bail!("the broker refuses the credentials: {code:?}"),
            Err(error) if deadline <= Instant::now() + BACKOFF_MIN => {
                return Err(error).with_context(|| format!("not within {} s", patience.as_secs_f64()));
            }
            Err(_) => sleep(BACKOFF_MIN).await,
        }
    }
}

/// The only one to poll the connection; does nothing else.
struct Poller {
    connection: EventLoop,
    /// Packet ids in the order of publishing.
    order: VecDeque<u16>,
    answers: watch::Sender<Counts>,
    jitter: Noise,
}

impl Poller {
    async fn run(mut self) {
        let mut resend = VecDeque::new();
        let mut failures = 0;
        loop {
            match self.connection.poll().await {
                Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(ConnectionError::RequestsDone) => return,
                Ok(event) => {
                    if matches!(event, Event::Incoming(Packet::ConnAck(_))) {
                        failures = 0;
                        info!(unacknowledged = resend.len(), "reconnected");
                        self.answers.send_modify(|answers| answers.reconnects += 1);
                        // From here on `rumqttc` sends them before anything new.
                        self.connection.pending.append(&mut resend);
                    }
                    self.note(&event);
                }
                Err(error) => {
                    // What was read before the break still counts: those publishes are no longer pending.
                    while let Some(event) = self.connection.state.events.pop_front() {
                        self.note(&event);
                    }
                    resend.append(&mut self.take_pending());
                    failures += 1;
                    let pause = (BACKOFF_MIN * 2_u32.saturating_pow(failures - 1)).min(BACKOFF_MAX);
                    let pause = pause.mul_f64(self.jitter.between(failures.into(), 0.7, 1.3));
                    warn!(%error, ?pause, "no connection to the broker");
                    sleep(pause).await;
                }
            }
        }
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Outgoing(Outgoing::Publish(packet_id)) if !self.order.contains(packet_id) => self.order.push_back(*packet_id),
            Event::Incoming(Packet::PubAck(answer)) => {
                let Some(position) = self.order.iter().position(|packet_id| *packet_id == answer.pkid) else {
                    return; // An answer to nothing; `rumqttc` ends the connection for it.
                };
                self.order.remove(position);
                let accepted = matches!(answer.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
                if !accepted {
                    warn!(reason = ?answer.reason, "the broker refused a message");
                }
                self.answers.send_modify(|answers| if accepted { answers.acknowledged += 1 } else { answers.refused += 1 });
            }
            _ => {}
        }
    }

    /// Unacknowledged publishes in the order of publishing, then those that were never sent.
    fn take_pending(&mut self) -> VecDeque<Request> {
        let collided = self.connection.state.collision.take().map(Request::Publish);
        let mut pending: Vec<Request> = self.connection.pending.drain(..).chain(collided).collect();
        let rank = |request: &Request| match request {
            Request::Publish(publish) => self.order.iter().position(|packet_id| *packet_id == publish.pkid).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        pending.sort_by_cached_key(rank); // Stable: what was never sent keeps its order.
        for request in &mut pending {
            if let Request::Publish(publish) = request {
                publish.dup = publish.pkid != 0;
            }
        }
        pending.into()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Credentials").field("user", &self.user).field("password", &"***").finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{Broker, Publisher};
    use crate::fake_broker::FakeBroker;

    #[tokio::test]
    async fn nothing_is_lost_or_reordered_when_the_broker_forgets_the_session() {
        let fake = FakeBroker::start(&[17, 0, 3, 40]).await;
        let mut publisher = Publisher::connect(&fake.broker(), "test", 10).await.unwrap();
        for number in 0..200 {
            publisher.publish("conca/v1/a/b/c", format!("{number:03}").into_bytes()).await.unwrap();
        }
        publisher.settle().await.unwrap();
        let counts = publisher.close(std::time::Duration::from_secs(1)).await.unwrap();
        assert_eq!((counts.published, counts.acknowledged, counts.refused, counts.reconnects), (200, 200, 0, 4));
        fake.check_nothing_is_missing_or_reordered(200);
    }

    #[tokio::test]
    async fn an_unreachable_broker_is_an_error_that_says_so() {
        let connect_timeout = std::time::Duration::from_millis(300);
        let broker = Broker { host: "127.0.0.1".into(), port: 1, credentials: None, connect_timeout };
        let error = format!("{:#}", Publisher::connect(&broker, "test", 10).await.unwrap_err());
        assert!(error.starts_with("cannot reach the broker at 127.0.0.1:1: not within 0.3 s: "), "{error}");
    }
}
