//! MQTT sessions: from a broker to a bounded queue of messages, and acknowledgements back.
//!
//! - **At least once.** MQTT 5 with a session that outlives the connection; a message of QoS 1 is acknowledged when
//!   [`Receipt::acknowledge`] is called, in the order of receipt (MQTT-4.6.0-2), and only on the connection that it
//!   came on: after a break the broker delivers it again.
//! - **The broker holds the backlog.** A full queue stops reading the socket. The Receive Maximum helps, but brokers
//!   exceed it (Mosquitto 2.0.11 under backlog does), so it bounds nothing by itself. Messages of QoS 0 are shed and
//!   counted instead: their sender does not want to wait.
//! - **For ever.** A lost connection is made again, with back-off and jitter; every connection subscribes anew and
//!   checks the answer.
//!
//! The task that polls the client does nothing else: in rumqttc only polling empties the queue that `publish`,
//! `subscribe` and `ack` await (bytebeamio/rumqtt#263, #1025). It never waits to publish and never allows topic aliases
//! (#1056).

mod host;
mod listening;
mod session;
mod tls;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

pub use listening::Listening;
pub use session::run;

use crate::model::{Message, Replay, Reply, SourceName, Timestamp, Verdict};

/// A source cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// A file of the TLS configuration.
    #[error("cannot read {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// What is in a file of the TLS configuration.
    #[error("{}: {problem}", path.display())]
    Tls { path: PathBuf, problem: String },
}

/// How to reach one broker.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The source's name in messages, ledger and status.
    pub name: SourceName,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// TLS, if wanted.
    pub tls: Option<Tls>,
    /// MQTT client identifier: the session belongs to it.
    pub client_id: String,
    /// User name and password.
    pub credentials: Option<(String, String)>,
    /// How long the broker keeps the session without a connection.
    pub session_expiry: Duration,
    /// Unacknowledged messages that the broker may send ahead.
    pub receive_maximum: u16,
    /// Keep-alive interval.
    pub keep_alive: Duration,
    /// To connect and be accepted.
    pub connect_timeout: Duration,
    /// Longest pause between two tries to connect.
    pub backoff_max: Duration,
    /// Largest MQTT packet that the broker may send, in bytes.
    pub packet_bytes_max: u32,
    /// The name under which edge nodes of Sparkplug wait for it, if they are to be told that it is there.
    pub sparkplug_host: Option<String>,
    /// What to subscribe to: filter, with its `$share` prefix if any, and whether at QoS 1.
    pub subscriptions: Vec<Subscription>,
}

/// One topic filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The filter, with its `$share/<group>/` prefix if it is shared.
    pub filter: String,
    /// Highest quality of service.
    pub qos: u8,
}

/// TLS towards a broker.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Certificates to trust, PEM; the machine's own where none is given.
    pub ca_file: Option<PathBuf>,
    /// Client certificate and key, PEM.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// A message on its way, with the right to acknowledge it.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// Where it comes from the quarantine, not from a source.
    pub replay: Option<Replay>,
    /// What is left to do with it.
    pub receipt: Receipt,
}

/// The right to acknowledge a message, and its share of the queue's memory. Dropped unused, the broker delivers the message again.
#[derive(Debug)]
pub struct Receipt {
    addressee: Addressee,
    room: Option<OwnedSemaphorePermit>,
}

/// Who is to be told that a message is safe.
#[derive(Debug)]
enum Addressee {
    /// The broker, which keeps the message until then.
    Broker(Acknowledgement),
    /// Somebody who waits for the answer.
    Caller(oneshot::Sender<Verdict>),
    /// Nobody: QoS 0.
    Nobody,
}

#[derive(Debug)]
struct Acknowledgement {
    /// Which connection the message came on.
    generation: u64,
    packet: u16,
    queue: mpsc::Sender<(u64, u16)>,
}

impl Receipt {
    /// Tells the sender that the message is settled. Call it only once its effects are durable, and in order of receipt.
    pub fn acknowledge(self, verdict: impl FnOnce() -> Verdict) {
        match self.addressee {
            Addressee::Broker(Acknowledgement { generation, packet, queue }) => {
                if let Err(mpsc::error::TrySendError::Full(_)) = queue.try_send((generation, packet)) {
                    // Cannot happen: the queue is longer than what can be on its way. The broker would deliver it again.
                    tracing::error!(packet, "the queue of acknowledgements is full");
                }
            }
            // Whoever no longer waits does not want to know.
            Addressee::Caller(caller) => drop(caller.send(verdict())),
            Addressee::Nobody => {}
        }
    }
}

/// The way into the queue of messages that wait for the commit, bounded in number and in memory. When it is full, sources
/// stop reading; QoS 0 is shed and counted.
#[derive(Clone, Debug)]
pub struct Inlet {
    queue: mpsc::Sender<Delivery>,
    room: Arc<Semaphore>,
    bytes_max: usize,
}

/// The way into the queue for those who must not keep it open.
#[derive(Clone, Debug)]
pub struct Door {
    queue: mpsc::WeakSender<Delivery>,
    room: Arc<Semaphore>,
    bytes_max: usize,
}

/// Nobody takes messages any more: the program is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the program is stopping")]
pub struct Closed;

impl Door {
    /// Hands in a message, as soon as there is room; what becomes of it comes through the receiver, once that is durable.
    /// A receiver that ends without an answer means that nothing was done. Cancelling it hands in nothing.
    pub async fn hand_in(&self, message: Message, replay: Option<Replay>) -> Result<oneshot::Receiver<Verdict>, Closed> {
        let Self { queue, room, bytes_max } = self.clone();
        let inlet = Inlet { queue: queue.upgrade().ok_or(Closed)?, room, bytes_max };
        let (caller, verdict) = oneshot::channel();
        let mut delivery = Delivery { message, replay, receipt: Receipt { addressee: Addressee::Caller(caller), room: None } };
        let bytes = inlet.bytes_of(&delivery);
        let (room, place) = tokio::join!(Arc::clone(&inlet.room).acquire_many_owned(bytes), inlet.queue.reserve());
        delivery.receipt.room = Some(room.map_err(|_closed| Closed)?);
        place.map_err(|_closed| Closed)?.send(delivery);
        Ok(verdict)
    }
}

/// How full the queue is.
#[derive(Clone, Debug)]
pub struct Depth(mpsc::WeakSender<Delivery>);

impl Depth {
    /// Messages that wait, and that may wait.
    pub fn get(&self) -> (usize, usize) {
        self.0.upgrade().map_or((0, 0), |queue| (queue.max_capacity() - queue.capacity(), queue.max_capacity()))
    }
}

/// Why a message does not fit in.
#[derive(Debug)]
enum Refused {
    Full(Box<Delivery>),
    Closed,
}

/// A queue of at most so many messages, which together take at most so many bytes.
pub fn queue(messages_max: usize, bytes_max: usize) -> (Inlet, mpsc::Receiver<Delivery>) {
    let (queue, messages) = mpsc::channel(messages_max);
    (Inlet { queue, room: Arc::new(Semaphore::new(bytes_max)), bytes_max }, messages)
}

impl Inlet {
    /// A look at how full it is, which does not keep it open.
    pub fn depth(&self) -> Depth {
        Depth(self.queue.downgrade())
    }

    /// A way in that does not keep it open.
    pub fn door(&self) -> Door {
        Door { queue: self.queue.downgrade(), room: Arc::clone(&self.room), bytes_max: self.bytes_max }
    }

    fn try_send(&self, mut delivery: Delivery) -> Result<(), Refused> {
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(self.bytes_of(&delivery)) else {
            return Err(Refused::Full(Box::new(delivery)));
        };
        delivery.receipt.room = Some(room);
        self.queue.try_send(delivery).map_err(|error| match error {
            mpsc::error::TrySendError::Full(mut delivery) => {
                delivery.receipt.room = None;
                Refused::Full(Box::new(delivery))
            }
            mpsc::error::TrySendError::Closed(_) => Refused::Closed,
        })
    }

    /// Waits until there is room for a message; cancelling it loses nothing. `false` once nobody takes messages any more.
    async fn wait_for_room(&self, delivery: &Delivery) -> bool {
        let (room, place) = tokio::join!(self.room.acquire_many(self.bytes_of(delivery)), self.queue.reserve());
        room.is_ok() && place.is_ok()
    }

    /// What a message takes; one that is larger than everything there is takes all of it.
    fn bytes_of(&self, delivery: &Delivery) -> u32 {
        /// What is kept with each message.
        const OVERHEAD: usize = 256;
        let Message { payload, topic, .. } = &delivery.message;
        u32::try_from((payload.len() + topic.len() + OVERHEAD).min(self.bytes_max)).unwrap_or(u32::MAX)
    }
}

/// Whether a topic filter, without `$share`, holds a topic.
pub fn matches(filter: &str, topic: &str) -> bool {
    rumqttc::matches(topic, filter)
}

/// What a source says of itself.
#[derive(Debug)]
pub struct SourceStatus {
    /// Its name.
    pub name: SourceName,
    /// Connected, and every subscription granted.
    ready: AtomicBool,
    /// Messages that came.
    pub received: AtomicU64,
    /// Messages of QoS 0 dropped for lack of room since the ledger last heard of it.
    pub shed: AtomicU64,
    /// What the broker says that it dropped of its own, where it says so.
    pub broker_dropped: AtomicU64,
    /// Connections so far.
    pub connections: AtomicU64,
    /// When the last message came; microseconds, zero before the first.
    heard: AtomicI64,
    last: Mutex<LastChange>,
    /// Replies to senders that could not be sent.
    pub replies_dropped: AtomicU64,
    /// Of the session, once it runs.
    client: OnceLock<AsyncClient>,
}

#[derive(Clone, Debug, Default)]
struct LastChange {
    since: Option<Timestamp>,
    error: Option<String>,
}

impl SourceStatus {
    /// A source that has not connected yet.
    pub fn new(name: SourceName) -> Arc<Self> {
        Arc::new(Self {
            name,
            ready: AtomicBool::new(false),
            received: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            broker_dropped: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            heard: AtomicI64::new(0),
            last: Mutex::default(),
            replies_dropped: AtomicU64::new(0),
            client: OnceLock::new(),
        })
    }

    /// Tells a sender something, at QoS 0: it is dropped and counted where the broker is away or takes no more.
    pub fn reply(&self, Reply { topic, payload }: Reply) {
        let client = self.client.get().filter(|_client| self.is_ready());
        if client.is_none_or(|client| client.try_publish(topic, QoS::AtMostOnce, false, payload).is_err()) {
            self.replies_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether messages can come.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Since when it is ready or not, if it ever changed.
    pub fn since(&self) -> Option<Timestamp> {
        self.last.lock().since
    }

    /// When the last message came, if any did.
    pub fn heard(&self) -> Option<Timestamp> {
        let micros = self.heard.load(Ordering::Relaxed);
        (micros != 0).then(|| Timestamp::from_micros_clamped(micros))
    }

    /// What went wrong last, if it is not ready.
    pub fn error(&self) -> Option<String> {
        self.last.lock().error.clone()
    }

    fn set_ready(&self, now: Timestamp) {
        *self.last.lock() = LastChange { since: Some(now), error: None };
        self.ready.store(true, Ordering::Release);
    }

    fn set_failed(&self, now: Timestamp, error: String) {
        let mut last = self.last.lock();
        if self.ready.swap(false, Ordering::AcqRel) || last.since.is_none() {
            last.since = Some(now);
        }
        last.error = Some(error);
    }
}
