//! An MQTT 5 publisher that knows what the broker acknowledged: a plain socket, and rumqttc's packets.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::v5::{Connect, ConnectReturnCode, Filter, Login, Packet, PingReq, PubAckReason, Publish, Subscribe};
use rumqttc::v5::mqttbytes::{Error, QoS};

use super::{Identity, PATIENCE, now_millis};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quality {
    AtMostOnce,
    AtLeastOnce,
}

/// A message on its way to the broker.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) quality: Quality,
    pub(crate) retain: bool,
}

impl Outgoing {
    /// At least once, not retained.
    pub(crate) fn new(topic: &str, payload: impl Into<Bytes>) -> Self {
        Self { topic: topic.to_owned(), payload: payload.into(), quality: Quality::AtLeastOnce, retain: false }
    }

    /// Readings of an air station at a time in milliseconds.
    pub(crate) fn readings(device: &str, millis: i64, readings: &[(&str, f64)]) -> Self {
        let readings: BTreeMap<&str, f64> = readings.iter().copied().collect();
        Self::new(&air_station(device), serde_json::json!({ "time": millis, "readings": readings }).to_string())
    }

    pub(crate) fn at_most_once(self) -> Self {
        Self { quality: Quality::AtMostOnce, ..self }
    }

    pub(crate) fn retained(self) -> Self {
        Self { retain: true, ..self }
    }
}

/// The topic of an air station.
pub(crate) fn air_station(device: &str) -> String {
    format!("conca/v1/environment/air-station/{device}")
}

/// Messages of many devices in order of time, and what must be stored of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load {
    pub(crate) messages: Vec<Outgoing>,
    pub(crate) expected: BTreeMap<Identity, f64>,
}

impl Load {
    /// Two values a message. The times lie in the hour before now, later ones for a later `part`.
    pub(crate) fn new(devices: usize, rounds: usize, part: i64) -> Self {
        let mut load = Self::default();
        let start = now_millis() - 3_000_000 + part * 600_000;
        for round in 0..rounds {
            for device in 0..devices {
                let millis = start + i64::try_from(round * 100 + device % 100).unwrap();
                let name = format!("station-{device:03}");
                let values = [("pm10", (round * 7 + device) % 500), ("temperature", (round + device) % 40)]
                    .map(|(name, value)| (name, value as f64));
                load.messages.push(Outgoing::readings(&name, millis, &values));
                load.expected.extend(values.map(|(property, value)| ((name.clone(), property.to_owned(), millis * 1_000), value)));
            }
        }
        load
    }

    /// Number of messages, as the ledger counts.
    pub(crate) fn len(&self) -> i64 {
        i64::try_from(self.messages.len()).unwrap()
    }
}

/// What became of messages: which the broker acknowledged, and how the connection broke, if it did.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) acknowledged: Vec<usize>,
    pub(crate) broken: Option<io::Error>,
}

pub(crate) struct Publisher {
    stream: TcpStream,
    input: BytesMut,
    packet: u16,
}

/// Messages on their way at a time.
const WINDOW: usize = 400;

impl Publisher {
    pub(crate) fn connect(broker: SocketAddr) -> Self {
        Self::login(broker, None)
    }

    pub(crate) fn login(broker: SocketAddr, login: Option<(&str, &str)>) -> Self {
        let stream = TcpStream::connect(broker).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut publisher = Self { stream, input: BytesMut::new(), packet: 0 };
        let connect = Connect { keep_alive: 0, client_id: String::new(), clean_start: true, properties: None };
        let login = login.map(|(user, password)| Login::new(user, password));
        publisher.write([Packet::Connect(connect, None, login)]).unwrap();
        match publisher.read().unwrap() {
            Packet::ConnAck(answer) if answer.code == ConnectReturnCode::Success => publisher,
            other => panic!("the broker answers {other:?}"),
        }
    }

    /// Returns once the broker has acknowledged every message, and taken those that it does not acknowledge.
    #[track_caller]
    pub(crate) fn send(&mut self, messages: &[Outgoing]) {
        let sent = self.try_send(messages);
        assert!(sent.broken.is_none(), "{:?}", sent.broken);
        assert_eq!(sent.acknowledged.len(), messages.len());
    }

    /// [`Publisher::send`], so many messages a second.
    pub(crate) fn send_slowly(&mut self, messages: &[Outgoing], per_second: usize) {
        const TICK: Duration = Duration::from_millis(20);
        let started = Instant::now();
        for (tick, chunk) in (1_u32..).zip(messages.chunks((per_second / 50).max(1))) {
            self.send(chunk);
            std::thread::sleep((TICK * tick).saturating_sub(started.elapsed()));
        }
    }

    /// Sends messages until all are acknowledged, or the connection breaks.
    pub(crate) fn try_send(&mut self, messages: &[Outgoing]) -> Sent {
        let mut sent = Sent::default();
        sent.broken = self.exchange(messages, &mut sent.acknowledged).err();
        sent
    }

    fn exchange(&mut self, messages: &[Outgoing], acknowledged: &mut Vec<usize>) -> io::Result<()> {
        let mut flying: HashMap<u16, usize> = HashMap::new();
        let mut waiting = messages.iter().enumerate().peekable();
        let mut unconfirmed = Vec::new();
        while waiting.peek().is_some() || !flying.is_empty() {
            let mut packets = Vec::new();
            while flying.len() < WINDOW
                && packets.len() < WINDOW
                && let Some((index, message)) = waiting.next()
            {
                let mut publish = Publish::new(&message.topic, QoS::AtMostOnce, message.payload.clone(), None);
                publish.retain = message.retain;
                if message.quality == Quality::AtLeastOnce {
                    self.packet = self.packet % u16::MAX + 1;
                    (publish.qos, publish.pkid) = (QoS::AtLeastOnce, self.packet);
                    flying.insert(self.packet, index);
                } else {
                    unconfirmed.push(index);
                }
                packets.push(Packet::Publish(publish));
            }
            self.write(packets)?;
            if !flying.is_empty()
                && let Some(index) = self.acknowledgement(&mut flying)?
            {
                acknowledged.push(index);
            }
        }
        if !unconfirmed.is_empty() {
            // The broker takes packets in order: an answered ping says that it took the messages before.
            self.write([Packet::PingReq(PingReq)])?;
            while !matches!(self.read()?, Packet::PingResp(_)) {}
            acknowledged.extend(unconfirmed);
        }
        Ok(())
    }

    fn acknowledgement(&mut self, flying: &mut HashMap<u16, usize>) -> io::Result<Option<usize>> {
        match self.read()? {
            Packet::PubAck(answer) => {
                let accepted = matches!(answer.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
                assert!(accepted, "the broker refuses: {answer:?}");
                Ok(Some(flying.remove(&answer.pkid).expect("the broker acknowledges what was sent")))
            }
            Packet::PingResp(_) => Ok(None),
            other => Err(io::Error::other(format!("the broker says {other:?}"))),
        }
    }

    /// Subscribes at QoS 0 and waits until that is granted.
    pub(crate) fn subscribe(&mut self, filter: &str) {
        let filters = vec![Filter::new(filter, QoS::AtMostOnce)];
        self.write([Packet::Subscribe(Subscribe { pkid: 60_000, filters, properties: None })]).unwrap();
        match self.read().unwrap() {
            Packet::SubAck(_) => {}
            other => panic!("the broker answers {other:?}"),
        }
    }

    /// The next message of what is subscribed to: its topic and payload.
    pub(crate) fn receive(&mut self) -> (String, Bytes) {
        loop {
            if let Packet::Publish(publish) = self.read().unwrap() {
                return (String::from_utf8(publish.topic.to_vec()).unwrap(), publish.payload);
            }
        }
    }

    fn write(&mut self, packets: impl IntoIterator<Item = Packet>) -> io::Result<()> {
        let mut output = BytesMut::new();
        for packet in packets {
            packet.write(&mut output, None).expect("packets of ours are well formed");
        }
        self.stream.write_all(&output)
    }

    fn read(&mut self) -> io::Result<Packet> {
        loop {
            match Packet::read(&mut self.input, None) {
                Ok(packet) => return Ok(packet),
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
            let mut chunk = [0; 16_384];
            let count = self.stream.read(&mut chunk)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.extend_from_slice(&chunk[..count]);
        }
    }
}
