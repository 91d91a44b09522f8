//! One broker's session: connect, subscribe, read, acknowledge; again and again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rumqttc::Transport;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, Filter, Packet, Publish, RetainForwardRule, SubAck, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::host::{Host, Word};
use super::tls;
use super::{Acknowledgement, Addressee, Delivery, IngestError, Inlet, Receipt, Refused, Settings, SourceStatus};
use crate::model::{Clock, Message, Service};

/// Where brokers such as Mosquitto count what they dropped of their own.
const BROKER_DROPPED: &str = "$SYS/broker/publish/messages/dropped";

/// Requests that wait for the polling task: acknowledgements and subscriptions.
const REQUESTS: usize = 1_024;

/// Messages and bytes that are held back at most while a full queue stops the reading: only what keep-alive drags along.
const HELD_MAX: usize = 4_096;
const HELD_BYTES_MAX: usize = 16_777_216;

/// Runs a source until `stop` is cancelled and every acknowledgement has left.
///
/// `inlet` takes the messages; its bounds hold for what is on its way, and `settled` tells that whoever empties the queue
/// has finished. Fails only where the configuration cannot work.
pub async fn run(
    settings: Settings,
    inlet: Inlet,
    status: Arc<SourceStatus>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    settled: CancellationToken,
) -> Result<(), IngestError> {
    let options = options(&settings)?;
    let (client, eventloop) = AsyncClient::new(options, REQUESTS);
    // A source runs once.
    drop(status.client.set(client.clone()));
    // Longer than everything that can be unacknowledged here, so that settling never waits for the network.
    let unacknowledged_max = inlet.depth().get().1 + HELD_MAX + 65_536;
    let (acknowledgements, to_send) = mpsc::channel(unacknowledged_max);
    let generation = Arc::new(Mutex::new(0));
    let host = settings.sparkplug_host.as_ref().map(|name| Host::new(name, clock.now()));
    let session = Session {
        host,
        backoff: Duration::ZERO,
        read_at: Instant::now(),
        clock,
        client: client.clone(),
        eventloop,
        generation: Arc::clone(&generation),
        held: VecDeque::new(),
        held_bytes: 0,
        acknowledgements,
        inlet: Some(inlet),
        settings,
        status,
    };
    let sender = send_acknowledgements(client, generation, to_send);
    tokio::join!(session.run(stop, settled), sender);
    Ok(())
}

fn options(settings: &Settings) -> Result<MqttOptions, IngestError> {
    let mut options = MqttOptions::new(&settings.client_id, &settings.host, settings.port);
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval = Some(u32::try_from(settings.session_expiry.as_secs()).unwrap_or(u32::MAX));
    properties.receive_maximum = Some(settings.receive_maximum);
    properties.max_packet_size = Some(settings.packet_bytes_max);
    options
        .set_connect_properties(properties)
        .set_keep_alive(settings.keep_alive)
        .set_connection_timeout(settings.connect_timeout.as_secs().max(1))
        .set_clean_start(false)
        .set_manual_acks(true);
    if let Some((user, password)) = &settings.credentials {
        options.set_credentials(user, password);
    }
    if let Some(tls) = &settings.tls {
        options.set_transport(Transport::Tls(tls::configuration(tls)?));
    }
    Ok(options)
}

/// Sends acknowledgements in the order in which they come, as long as their connection lives.
async fn send_acknowledgements(client: AsyncClient, generation: Arc<Mutex<u64>>, mut queue: mpsc::Receiver<(u64, u16)>) {
    while let Some((of, packet)) = queue.recv().await {
        let publish = Publish { qos: QoS::AtLeastOnce, pkid: packet, ..Publish::default() };
        loop {
            // The lock keeps a reconnect from happening between the look and the send: an acknowledgement that crosses
            // into another session could name another message.
            let sent = {
                let current = generation.lock();
                if *current == of { client.try_ack(&publish) } else { Ok(()) }
            };
            match sent {
                Ok(()) => break,
                // The polling task is behind; a connection that ends meanwhile voids the acknowledgement.
                Err(_full) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }
}

struct Session {
    settings: Settings,
    /// Under which edge nodes wait for it.
    host: Option<Host>,
    status: Arc<SourceStatus>,
    clock: Arc<dyn Clock>,
    client: AsyncClient,
    eventloop: EventLoop,
    /// Number of the connection; acknowledgements of an earlier one are void.
    generation: Arc<Mutex<u64>>,
    /// Messages that came while the queue was full.
    held: VecDeque<Delivery>,
    /// Their payloads together.
    held_bytes: usize,
    acknowledgements: mpsc::Sender<(u64, u16)>,
    /// Gone once the source is to stop.
    inlet: Option<Inlet>,
    backoff: Duration,
    /// When the socket is read again at the latest, though the queue is full.
    read_at: Instant,
}

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("connection failed: {0}")]
    Connection(#[from] Box<ConnectionError>),
    #[error("the broker refused the subscription to {filter:?}: {reason}")]
    Refused { filter: String, reason: String },
    #[error("cannot send a request: {0}")]
    Request(String),
}

impl Session {
    async fn run(mut self, stop: CancellationToken, settled: CancellationToken) {
        loop {
            // Dropping the poll in the middle loses only what is not acknowledged.
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                outcome = self.connection() => outcome,
            };
            let Err(broken) = outcome else { break };
            self.disconnected(&broken);
            let pause = self.next_backoff();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.drain(settled).await;
    }

    /// One connection's life. Ends well only when nobody takes messages any more.
    async fn connection(&mut self) -> Result<(), Broken> {
        if let Some(host) = &mut self.host {
            self.eventloop.options.set_last_will(host.connecting(self.clock.now()));
        }
        loop {
            if !self.held.is_empty() && !self.make_room().await? {
                return Ok(());
            }
            let event = self.poll().await?;
            if !self.handle(event)? {
                return Ok(());
            }
        }
    }

    async fn poll(&mut self) -> Result<Event, Broken> {
        self.eventloop.poll().await.map_err(|error| Broken::Connection(Box::new(error)))
    }

    /// Takes an event in; `false` when nobody takes messages any more.
    fn handle(&mut self, event: Event) -> Result<bool, Broken> {
        match event {
            Event::Incoming(Packet::ConnAck(connack)) => {
                tracing::info!(source = %self.status.name, session_present = connack.session_present, "connected");
                self.status.connections.fetch_add(1, Ordering::Relaxed);
                self.subscribe()?;
            }
            Event::Incoming(Packet::SubAck(suback)) => self.subscribed(&suback)?,
            Event::Incoming(Packet::Publish(publish)) if !self.own(&publish)? => return Ok(self.publish(publish)),
            Event::Incoming(Packet::Disconnect(disconnect)) => {
                tracing::warn!(source = %self.status.name, reason = ?disconnect.reason_code, "the broker ends the connection");
            }
            Event::Incoming(_) | Event::Outgoing(_) => {}
        }
        Ok(true)
    }

    fn subscribe(&self) -> Result<(), Broken> {
        let filters = self
            .settings
            .subscriptions
            .iter()
            .map(|subscription| (subscription.filter.as_str(), if subscription.qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce }))
            .chain([(BROKER_DROPPED, QoS::AtMostOnce)])
            // Only what the broker kept may be marked as retained, not what a device sends with that mark (MQTT 5, 3.8.3.1);
            // and it need not come again with every connection.
            .map(|(filter, qos)| Filter {
                retain_forward_rule: RetainForwardRule::OnNewSubscribe,
                // Replies are not for ourselves; of a shared subscription it cannot be asked (MQTT 5, 3.8.3.1).
                nolocal: !filter.starts_with("$share/"),
                ..Filter::new(filter, qos)
            });
        // At QoS 0, which tells it from what a subscription to all topics brings.
        let own = self.host.iter().map(|host| Filter { nolocal: true, ..Filter::new(host.topic(), QoS::AtMostOnce) });
        let filters = filters.chain(own);
        self.client.try_subscribe_many(filters).map_err(|error| Broken::Request(error.to_string()))
    }

    /// The broker's statistics may be refused, subscriptions may not.
    fn subscribed(&mut self, suback: &SubAck) -> Result<(), Broken> {
        for (subscription, code) in self.settings.subscriptions.iter().zip(&suback.return_codes) {
            match code {
                SubscribeReasonCode::Success(QoS::AtMostOnce) if subscription.qos > 0 => {
                    tracing::warn!(source = %self.status.name, filter = subscription.filter, "the broker grants only QoS 0: messages may be lost");
                }
                SubscribeReasonCode::Success(_) => {}
                refused => return Err(Broken::Refused { filter: subscription.filter.clone(), reason: format!("{refused:?}") }),
            }
        }
        self.backoff = Duration::ZERO;
        self.status.set_ready(self.clock.now());
        tracing::info!(source = %self.status.name, "subscribed");
        self.say(Word::Online)
    }

    /// Tells edge nodes whether their host is there.
    fn say(&self, word: Word) -> Result<(), Broken> {
        let Some(host) = &self.host else { return Ok(()) };
        let said = self.client.try_publish(host.topic(), QoS::AtLeastOnce, true, host.says(word, self.clock.now()));
        said.map_err(|error| Broken::Request(error.to_string()))
    }

    /// Takes what is about this session itself: the broker's statistics, and its own state as a host.
    fn own(&self, publish: &Publish) -> Result<bool, Broken> {
        if publish.topic.starts_with(b"$SYS/") {
            self.broker_statistics(publish);
            return Ok(true);
        }
        let Some(host) = &self.host else { return Ok(false) };
        if host.is_denied_by(publish) && self.status.is_ready() {
            self.say(Word::Online)?;
        }
        Ok(host.is_meant_by(publish) && publish.qos == QoS::AtMostOnce)
    }

    fn publish(&mut self, publish: Publish) -> bool {
        self.status.received.fetch_add(1, Ordering::Relaxed);
        let delivery = self.delivery(publish);
        self.status.heard.store(delivery.message.received.micros(), Ordering::Relaxed);
        let Some(inlet) = &self.inlet else { return true };
        if !self.held.is_empty() {
            self.hold(delivery);
            return true;
        }
        match inlet.try_send(delivery) {
            Ok(()) => true,
            Err(Refused::Full(delivery)) => {
                self.hold(*delivery);
                true
            }
            Err(Refused::Closed) => false,
        }
    }

    /// QoS 0 is shed, QoS 1 waits.
    fn hold(&mut self, delivery: Delivery) {
        if delivery.message.service == Service::AtMostOnce {
            self.status.shed.fetch_add(1, Ordering::Relaxed);
        } else {
            self.held_bytes += delivery.message.payload.len();
            self.held.push_back(delivery);
        }
    }

    fn delivery(&self, publish: Publish) -> Delivery {
        let (service, addressee) = match publish.qos {
            QoS::AtMostOnce => (Service::AtMostOnce, Addressee::Nobody),
            // Subscriptions ask for QoS 1 at most, so 2 never comes; if it did, the session would say so by a protocol error.
            QoS::AtLeastOnce | QoS::ExactlyOnce => (
                Service::AtLeastOnce(publish.pkid),
                Addressee::Broker(Acknowledgement {
                    generation: *self.generation.lock(),
                    packet: publish.pkid,
                    queue: self.acknowledgements.clone(),
                }),
            ),
        };
        let topic = match std::str::from_utf8(&publish.topic) {
            Ok(topic) => topic.into(),
            // A broker must not forward it (MQTT-1.5.4-1); what is readable of it goes to the quarantine.
            Err(_not_text) => String::from_utf8_lossy(&publish.topic).into(),
        };
        let message = Message {
            source: self.status.name.clone(),
            topic,
            payload: publish.payload,
            received: self.clock.now(),
            service,
            retained: publish.retain,
        };
        Delivery { message, replay: None, receipt: Receipt { addressee, room: None } }
    }

    fn broker_statistics(&self, publish: &Publish) {
        let Some(dropped) = parse_number(&publish.payload) else { return };
        let before = self.status.broker_dropped.swap(dropped, Ordering::Relaxed);
        if dropped > before {
            tracing::warn!(source = %self.status.name, dropped, "the broker drops messages of its own: see the README on configuring it");
        }
    }

    /// Waits until the queue has taken what is held, without reading the socket; keep-alive goes on.
    async fn make_room(&mut self) -> Result<bool, Broken> {
        while let Some(next) = self.held.front() {
            let Some(inlet) = self.inlet.clone() else { return Ok(false) };
            match tokio::time::timeout_at(self.read_at, inlet.wait_for_room(next)).await {
                Ok(true) => {
                    let Some(next) = self.held.pop_front() else { break };
                    let bytes = next.message.payload.len();
                    match inlet.try_send(next) {
                        Ok(()) => self.held_bytes -= bytes,
                        // Another source was quicker.
                        Err(Refused::Full(next)) => self.held.push_front(*next),
                        Err(Refused::Closed) => return Ok(false),
                    }
                }
                Ok(false) => return Ok(false),
                Err(_elapsed) => {
                    self.keep_alive().await?;
                    self.read_at = Instant::now() + self.settings.keep_alive / 3;
                }
            }
        }
        Ok(true)
    }

    fn may_hold_more(&self) -> bool {
        self.held.len() < HELD_MAX && self.held_bytes < HELD_BYTES_MAX
    }

    /// Polls until nothing more happens for a moment, so that pings leave and their answers are read, which come behind
    /// everything that the broker had sent before; what arrives meanwhile is held. Where no more can be held, the
    /// connection will break, and the broker keeps what is unacknowledged.
    async fn keep_alive(&mut self) -> Result<(), Broken> {
        const QUIET: Duration = Duration::from_millis(10);
        let end = Instant::now() + self.settings.keep_alive / 6;
        while self.may_hold_more() && Instant::now() < end {
            let Ok(event) = tokio::time::timeout(QUIET, self.poll()).await else { break };
            self.handle(event?)?;
        }
        Ok(())
    }

    fn disconnected(&mut self, broken: &Broken) {
        self.status.set_failed(self.clock.now(), broken.to_string());
        tracing::warn!(source = %self.status.name, error = %broken, "not connected");
        *self.generation.lock() += 1;
        // rumqttc drops queued acknowledgements when the connection breaks; those that came in since must go too, and
        // publishes that it had already read would come up after the next CONNACK (rumqtt#849).
        self.eventloop.clean();
        self.eventloop.state.events.clear();
        // What is held was not acknowledged: it will be delivered again.
        self.held.clear();
        self.held_bytes = 0;
    }

    fn next_backoff(&mut self) -> Duration {
        const FIRST: Duration = Duration::from_millis(200);
        self.backoff = (self.backoff * 2).clamp(FIRST, self.settings.backoff_max.max(FIRST));
        self.backoff.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Takes no more messages, but sends acknowledgements until everything that was taken is settled; then says goodbye.
    async fn drain(mut self, settled: CancellationToken) {
        const GOODBYE: Duration = Duration::from_secs(2);
        self.inlet = None;
        self.held.clear();
        if self.status.is_ready() && self.poll_until(settled.cancelled()).await.is_ok() {
            if let Err(error) = self.say(Word::Offline) {
                tracing::warn!(source = %self.status.name, %error, "edge nodes are not told that their host goes");
            }
            let (client, acknowledgements) = (self.client.clone(), self.acknowledgements.clone());
            let last = async {
                // All that was settled is in the queue by now: let it out before the goodbye.
                while acknowledgements.capacity() < acknowledgements.max_capacity() || client.try_disconnect().is_err() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                std::future::pending::<()>().await;
            };
            match tokio::time::timeout(GOODBYE, self.poll_until(last)).await {
                Ok(_closed) => {}
                Err(_elapsed) => tracing::debug!(source = %self.status.name, "the broker did not close the connection"),
            }
        }
        self.status.set_failed(self.clock.now(), "stopped".to_owned());
        *self.generation.lock() += 1;
    }

    /// Polls, ignoring what comes, until `end`. Once the connection is lost it must not be polled again: that would make
    /// another one, on which acknowledgements of this one would go out.
    async fn poll_until(&mut self, end: impl Future<Output = ()>) -> Result<(), Broken> {
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                () = &mut end => return Ok(()),
                outcome = self.poll() => drop(outcome?),
            }
        }
    }
}

fn parse_number(payload: &Bytes) -> Option<u64> {
    std::str::from_utf8(payload).ok()?.trim().parse().ok()
}
