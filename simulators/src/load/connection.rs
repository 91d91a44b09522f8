//! One connection of the load: fills its window, writes in batches, counts acknowledgements, and comes back after a break.
//!
//! A thread and a non-blocking socket that is left alone between rounds. Brokers answer each message with a packet of its own;
//! waiting for readiness, as an event loop does, wakes up for each, which costs more than all the rest together (4.7 µs of
//! CPU a message against 1.7, optimised as for tests).

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Settings;
use super::frame::{self, Packet};
use super::latency::Latency;
use super::message::{Poison, Writer};
use crate::noise::Noise;

/// What is written at once, at most; also a limit on what waits to be written.
const BATCH_BYTES: usize = 64 * 1_024;
const READ_BYTES: usize = 64 * 1_024;
/// With a rate, messages go out in batches this far apart.
const TICK: Duration = Duration::from_millis(2);
const KEEP_ALIVE: Duration = Duration::from_mins(1);
/// Nothing from the broker for this long, in spite of a ping: the connection is dead.
const SILENCE_MAX: Duration = Duration::from_secs(45);
const TRY_TIMEOUT: Duration = Duration::from_secs(5);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Without a rate, answers gather this long between two rounds: 1,000 in 1 ms are more than any broker gives…
const GATHER: Duration = Duration::from_millis(1);
const WIDE_WINDOW: u64 = 1_000;
/// …and a narrow window must not wait that long.
const GATHER_SHORT: Duration = Duration::from_micros(100);
/// Longest pause of a slow rate; also how late `stop` is noticed.
const IDLE: Duration = Duration::from_millis(50);
/// Packet ids are 1 to 65,535.
const PACKET_IDS: u64 = 65_535;
/// In place of the time at which a message was sent.
const ANSWERED: u64 = u64::MAX;

/// What a connection did.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) published: u64,
    pub(super) refused: u64,
    pub(super) retries: u64,
    pub(super) reconnects: u64,
    pub(super) bytes: u64,
    pub(super) poison: BTreeMap<Poison, u64>,
    pub(super) latency: Latency,
    pub(super) sent: Vec<(u32, u64)>,
    pub(super) missing: Vec<(u32, u64)>,
}

/// Sends the messages of every `connections`th device, numbered from 0 in the order of sending.
#[derive(Debug)]
pub(super) struct Connection {
    settings: Arc<Settings>,
    number: u32,
    begun: Instant,
    writer: Writer,
    /// Messages to send.
    share: Option<u64>,
    /// The first unanswered message; its slot is the first of `slots`.
    oldest: u64,
    /// When each message from `oldest` on was sent, in microseconds, or that it is `ANSWERED`.
    slots: VecDeque<u64>,
    unanswered: u64,
    /// Messages to write again after a reconnect: from `oldest + again` on.
    again: Option<u64>,
    /// Written, but not yet taken by the socket.
    buffer: Vec<u8>,
    window: u64,
    keep_alive: Duration,
    /// When messages were written last.
    filled: Instant,
    refused: Vec<u64>,
    outcome: Outcome,
}

impl Connection {
    pub(super) fn new(settings: Arc<Settings>, number: u32, begun: Instant) -> Self {
        Self {
            writer: Writer::new(settings.seed, settings.poison),
            share: settings.share(number),
            settings,
            number,
            begun,
            oldest: 0,
            slots: VecDeque::new(),
            unanswered: 0,
            again: None,
            buffer: Vec::with_capacity(2 * BATCH_BYTES),
            window: 0,
            keep_alive: KEEP_ALIVE,
            filled: begun,
            refused: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    /// Fails only if the broker cannot be reached at the start.
    pub(super) fn run(mut self, stop: &CancellationToken) -> anyhow::Result<Outcome> {
        let broker = self.settings.broker.clone();
        let mut stream = self.first_connect(stop).with_context(|| format!("cannot reach the broker at {}:{}", broker.host, broker.port))?;
        let jitter = Noise::new(self.settings.seed, "load back-off").split(self.number.into());
        let (mut deadline, mut pause, mut tries) = (None, BACKOFF_MIN, 0);
        loop {
            let progress = self.oldest;
            match self.session(stream, stop, &mut deadline) {
                Ok(()) => return Ok(self.finish()),
                Err(error) => warn!(connection = self.number, error = format!("{error:#}"), "connection lost"),
            }
            self.outcome.reconnects += 1;
            if progress < self.oldest {
                pause = BACKOFF_MIN;
            }
            stream = loop {
                // A broker that is away for good must not keep a stopped run alive.
                if stop.is_cancelled() && *deadline.get_or_insert(Instant::now() + self.settings.grace) <= Instant::now() {
                    return Ok(self.finish());
                }
                tries += 1;
                sleep(pause.mul_f64(jitter.between(tries, 0.7, 1.3)));
                pause = (2 * pause).min(BACKOFF_MAX);
                match self.connect() {
                    Ok(stream) => break stream,
                    Err(error) => warn!(connection = self.number, error = format!("{error:#}"), ?pause, "cannot reconnect"),
                }
            };
            self.buffer.clear();
            self.again = (!self.slots.is_empty()).then_some(0);
            info!(connection = self.number, unanswered = self.unanswered, "reconnected");
        }
    }

    fn first_connect(&mut self, stop: &CancellationToken) -> anyhow::Result<TcpStream> {
        let deadline = Instant::now() + self.settings.broker.connect_timeout;
        loop {
            match self.connect() {
                Ok(stream) => return Ok(stream),
                Err(error) if stop.is_cancelled() || deadline <= Instant::now() + BACKOFF_MIN => return Err(error),
                Err(_) => sleep(BACKOFF_MIN),
            }
        }
    }

    fn connect(&mut self) -> anyhow::Result<TcpStream> {
        let broker = &self.settings.broker;
        let mut stream = connect_any((broker.host.as_str(), broker.port).to_socket_addrs()?)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TRY_TIMEOUT))?;
        let client_id = format!("conca-load-{}-{}-{}", self.settings.seed, std::process::id(), self.number);
        let keep_alive_s = u16::try_from(KEEP_ALIVE.as_secs())?;
        stream.write_all(&frame::connect(&client_id, keep_alive_s, broker.credentials.as_ref()))?;
        let mut incoming = Incoming::default();
        loop {
            ensure!(incoming.read(&mut stream)? != 0, "the broker closed the connection");
            match incoming.next()? {
                Some(Packet::ConnAck { reason: 0, receive_maximum, keep_alive_s, .. }) => {
                    self.keep_alive = keep_alive_s.map_or(KEEP_ALIVE, |seconds| Duration::from_secs(seconds.into()));
                    self.window = u64::from(receive_maximum.unwrap_or(u16::MAX).min(self.settings.window)).min(PACKET_IDS - 1);
                    stream.set_nonblocking(true)?;
                    return Ok(stream);
                }
                Some(Packet::ConnAck { reason, .. }) => bail!("the broker refuses the connection: reason code {reason:#x}"),
                Some(packet) => bail!("expected CONNACK, got {packet:?}"),
                None => {}
            }
        }
    }

    /// Until everything is answered, or the grace after `stop` is over; an error is a lost connection.
    fn session(&mut self, mut stream: TcpStream, stop: &CancellationToken, deadline: &mut Option<Instant>) -> anyhow::Result<()> {
        let mut incoming = Incoming::default();
        let (mut heard, mut spoke) = (Instant::now(), Instant::now());
        loop {
            let now = Instant::now();
            if stop.is_cancelled() {
                deadline.get_or_insert(now + self.settings.grace);
            }
            let stopping = deadline.is_some();
            self.fill(now, stopping);
            let written = flush(&mut stream, &mut self.buffer)?;
            self.outcome.bytes += written;
            if self.read(&mut stream, &mut incoming)? {
                heard = now;
            }
            let all_sent = stopping || self.share == Some(self.next());
            if (all_sent && self.unanswered == 0) || deadline.is_some_and(|deadline| deadline <= now) {
                // The run is complete without this farewell.
                if let Err(error) = stream.write_all(&frame::DISCONNECT) {
                    warn!(connection = self.number, %error, "cannot say goodbye");
                }
                return Ok(());
            }
            ensure!(now - heard < SILENCE_MAX, "the broker is silent");
            if 0 < written {
                spoke = now;
            } else if !self.keep_alive.is_zero() && self.keep_alive / 2 <= now - spoke && self.buffer.is_empty() {
                self.buffer.extend_from_slice(&frame::PING);
                continue;
            }
            sleep(self.pause(now, stopping));
        }
    }

    /// Writes what the window and the rate allow into the buffer.
    fn fill(&mut self, now: Instant, stopping: bool) {
        let micros = micros(self.begun, now);
        while let Some(place) = self.again.filter(|_| self.buffer.len() < BATCH_BYTES) {
            let slot = usize::try_from(place).ok().and_then(|place| self.slots.get_mut(place));
            self.again = slot.is_some().then_some(place + 1);
            if let Some(sent) = slot.filter(|sent| **sent != ANSWERED) {
                *sent = micros;
                let start = self.buffer.len();
                self.write(self.oldest + place);
                if let Some(first) = self.buffer.get_mut(start) {
                    *first |= frame::DUP;
                }
                self.outcome.retries += 1;
            }
        }
        if self.again.is_some() || stopping {
            return;
        }
        let mut room = self.window.saturating_sub(self.unanswered).min((PACKET_IDS - 1).saturating_sub(self.slots.len() as u64));
        // Few large batches cost less than many small ones.
        if self.settings.rate != 0.0 && now - self.filled < TICK {
            return;
        }
        if self.settings.rate == 0.0 && room < (self.window / 4).clamp(1, 256) && self.unanswered != 0 {
            return;
        }
        room = room.min(self.allowance(now).saturating_sub(self.next()));
        room = room.min(self.share.map_or(u64::MAX, |share| share - self.next()));
        self.filled = now;
        for _ in 0..room {
            if BATCH_BYTES <= self.buffer.len() {
                return;
            }
            let message = self.next();
            if let Some(poison) = self.write(message) {
                *self.outcome.poison.entry(poison).or_default() += 1;
            }
            self.slots.push_back(micros);
            self.unanswered += 1;
        }
    }

    fn write(&mut self, message: u64) -> Option<Poison> {
        let (device, index) = self.place(message);
        let time_ms = self.settings.time_ms(index);
        self.writer.write(&mut self.buffer, device, index, time_ms, packet_id(message))
    }

    /// Reads once; whether anything came.
    fn read(&mut self, stream: &mut TcpStream, incoming: &mut Incoming) -> anyhow::Result<bool> {
        match incoming.read(stream) {
            Ok(0) => bail!("the broker closed the connection"),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let micros = micros(self.begun, Instant::now());
        while let Some(packet) = incoming.next()? {
            match packet {
                Packet::PubAck { packet_id, reason } => self.answer(packet_id, reason, micros),
                Packet::PingResp => {}
                Packet::Disconnect { reason } => bail!("the broker disconnects: reason code {reason:#x}"),
                Packet::ConnAck { .. } => bail!("a second CONNACK"),
            }
        }
        Ok(true)
    }

    fn answer(&mut self, id: u16, reason: u8, micros: u64) {
        let offset = (u64::from(id) + PACKET_IDS - u64::from(packet_id(self.oldest))) % PACKET_IDS;
        let slot = usize::try_from(offset).ok().and_then(|offset| self.slots.get_mut(offset));
        // A second answer to a message that was sent twice says nothing new.
        let Some(sent) = slot.filter(|sent| **sent != ANSWERED) else { return };
        self.outcome.latency.record(micros.saturating_sub(*sent));
        *sent = ANSWERED;
        self.unanswered -= 1;
        if 0x80 <= reason {
            self.refused.push(self.oldest + offset);
        }
        while self.slots.front() == Some(&ANSWERED) {
            self.slots.pop_front();
            self.oldest += 1;
            self.again = self.again.map(|again| again.saturating_sub(1));
        }
    }

    /// Messages that the rate allows to have been sent by now.
    fn allowance(&self, now: Instant) -> u64 {
        if self.settings.rate == 0.0 {
            return u64::MAX;
        }
        let due = (now - self.begun).as_secs_f64() * self.settings.rate / f64::from(self.settings.connections);
        crate::noise::whole(due.floor()).cast_unsigned()
    }

    /// How long to leave the socket alone.
    fn pause(&self, now: Instant, stopping: bool) -> Duration {
        if self.settings.rate == 0.0 || stopping || self.share == Some(self.next()) {
            return if WIDE_WINDOW <= self.window { GATHER } else { GATHER_SHORT };
        }
        let due = (self.next() + 1) as f64 * f64::from(self.settings.connections) / self.settings.rate;
        let due = Duration::try_from_secs_f64(due).unwrap_or(TICK).saturating_sub(now - self.begun);
        due.clamp(TICK, if self.unanswered == 0 { IDLE } else { TICK })
    }

    /// The message that was not written yet.
    fn next(&self) -> u64 {
        self.oldest + self.slots.len() as u64
    }

    /// Device and message number of a message of this connection: its devices take turns.
    fn place(&self, message: u64) -> (u32, u64) {
        let own = u64::from((self.settings.devices - self.number).div_ceil(self.settings.connections));
        let device = u64::from(self.number) + u64::from(self.settings.connections) * (message % own);
        (u32::try_from(device).unwrap_or(u32::MAX), message / own)
    }

    fn finish(mut self) -> Outcome {
        let unanswered = (self.oldest..).zip(&self.slots).filter(|(_, sent)| **sent != ANSWERED).map(|(message, _)| message);
        let missing = unanswered.chain(self.refused.iter().copied()).map(|message| self.place(message)).collect();
        let mut sent = BTreeMap::new();
        let own = u64::from((self.settings.devices - self.number).div_ceil(self.settings.connections));
        // The number of messages of a device is that of the first one that is not its own yet.
        for turn in 0..own {
            let (device, _) = self.place(turn);
            sent.insert(device, self.next() / own + u64::from(turn < self.next() % own));
        }
        self.outcome.published = self.next();
        self.outcome.refused = self.refused.len() as u64;
        self.outcome.missing = missing;
        self.outcome.sent = sent.into_iter().collect();
        self.outcome
    }
}

/// Connects to the first address that answers: `localhost` has two, and a broker may listen on one.
fn connect_any(addresses: impl Iterator<Item = SocketAddr>) -> anyhow::Result<TcpStream> {
    let mut result = Err(anyhow!("the host has no address"));
    for address in addresses {
        result = TcpStream::connect_timeout(&address, TRY_TIMEOUT).context("cannot connect");
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Bytes from the broker that may end within a packet.
#[derive(Debug)]
struct Incoming {
    bytes: Vec<u8>,
    /// What of them is unread and read.
    unread: Range<usize>,
}

impl Default for Incoming {
    fn default() -> Self {
        Self { bytes: vec![0; READ_BYTES], unread: 0..0 }
    }
}

impl Incoming {
    fn read(&mut self, stream: &mut TcpStream) -> io::Result<usize> {
        self.bytes.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        let count = stream.read(self.bytes.get_mut(self.unread.end..).unwrap_or_default())?;
        self.unread.end += count;
        Ok(count)
    }

    fn next(&mut self) -> anyhow::Result<Option<Packet>> {
        let bytes = self.bytes.get(self.unread.clone()).unwrap_or_default();
        let Some((packet, rest)) = frame::read(bytes)? else { return Ok(None) };
        self.unread.start = self.unread.end - rest.len();
        Ok(Some(packet))
    }
}

/// Hands to the socket what it takes; how much that was.
fn flush(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<u64> {
    let mut written = 0;
    while let Some(rest) = buffer.get(written..).filter(|rest| !rest.is_empty()) {
        match stream.write(rest) {
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    buffer.drain(..written);
    Ok(written as u64)
}

fn packet_id(message: u64) -> u16 {
    u16::try_from(message % PACKET_IDS + 1).unwrap_or(u16::MAX)
}

fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from((to - from).as_micros()).unwrap_or(u64::MAX)
}
