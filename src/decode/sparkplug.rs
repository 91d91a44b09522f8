//! Sparkplug B (Eclipse Sparkplug 3.0): births, data, deaths, and the request for a rebirth.
//!
//! A birth certificate names every metric of an edge node or of a device behind it, with type, unit (property `engUnit` or the
//! like) and alias; data name metrics by alias alone. What births said is remembered for a bounded number of nodes. The device is
//! `<group>:<node>` or `<group>:<node>:<device>`; births and deaths say that it is there or not (`connection`).
//!
//! A rebirth (`Node Control/Rebirth`) is asked for, at most every [`ASK_EVERY`] and node, where a node's birth is not known, an
//! alias is not, or a sequence number is still missing [`REORDERED_WITHIN`] after a later one came, once the node speaks again. What
//! comes out of order is taken at once, since each metric has its own time and its alias does not depend on the order. What cannot
//! be named is kept with the reason, and can be replayed once the birth is known.
//!
//! Data sets, templates, files, bytes and arrays are refused, metric by metric. `bdSeq` and the metrics below `Node Control` and
//! `Device Control` are no observations. Not here: the STATE of a primary host, which is of the session ([`crate::ingest`]).

mod protobuf;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::Read as _;
use std::time::Duration;

use flate2::read::{GzDecoder, ZlibDecoder};
use hashbrown::{HashMap, HashSet};
use prost::Message as _;

use self::protobuf::{DataType, Metric, Payload, Value as Told};
use super::fields::shortest;
use super::{Form, Limits, excerpt, too_many, whole};
use crate::model::{Decoded, DeviceId, DeviceKind, Fault, Message, Reading, Readings, Reason, Reply, Timestamp, Value, Vocabulary};

/// How often a node is asked for its birth at most.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// How long a message that others overtook may be missing.
const REORDERED_WITHIN: Duration = Duration::from_secs(5);

/// Nodes whose births are remembered; the one that was born first is forgotten, and asked again when it speaks.
const NODES_MAX: usize = 10_000;

/// Metrics and devices of all births together that are remembered.
const REMEMBERED_MAX: usize = 1_000_000;

/// Longest name or unit that is remembered, in bytes: real ones are far shorter.
const NAME_LEN_MAX: usize = 256;

/// Longest text that is a reading.
const WORD_LEN_MAX: usize = 32;

/// The name of a payload that holds another, compressed.
const COMPRESSED: &str = "SPBV1.0_COMPRESSED";

/// Properties that hold a metric's unit.
const UNITS: [&str; 5] = ["engUnit", "engUnits", "Engineering Units", "unit", "units"];

/// What births said.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    by_name: HashMap<String, Node>,
    /// By the time of their first message.
    order: VecDeque<String>,
    /// Metrics and devices of all of them.
    remembered: usize,
}

#[derive(Debug, Default)]
struct Node {
    is_born: bool,
    death: Option<u64>,
    sequence: Option<u64>,
    /// Numbers that were left out, and since when.
    gap: Option<(Timestamp, HashSet<u64>)>,
    /// By alias: whose metric, and which.
    aliases: HashMap<u64, Known>,
    /// By owner and name.
    named: HashMap<(Option<String>, String), Known>,
    devices: HashSet<String>,
    asked: Option<Timestamp>,
}

/// A metric of a birth.
#[derive(Clone, Debug)]
struct Known {
    name: String,
    kind: Option<DataType>,
    unit: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Birth,
    Data,
    Death,
}

/// Who speaks, and what of.
#[derive(Clone, Copy, Debug)]
struct Address<'a> {
    group: &'a str,
    node: &'a str,
    device: Option<&'a str>,
    verb: Verb,
}

impl<'a> Address<'a> {
    /// `None` for what says nothing: commands and the states of hosts.
    fn parse(topic: &'a str) -> Result<Option<Self>, Fault> {
        let wrong = || whole(Reason::Topic, format!("{:?} is not spBv1.0/<group>/<type>/<node>[/<device>]", excerpt(topic)));
        let mut levels = topic.split('/');
        if levels.next() != Some("spBv1.0") {
            return Err(wrong());
        }
        let (group, kind, node) = (levels.next(), levels.next(), levels.next());
        if group == Some("STATE") {
            return Ok(None);
        }
        let (Some(group), Some(kind), Some(node)) = (group, kind, node) else { return Err(wrong()) };
        let device = levels.next();
        let (verb, is_device) = match kind {
            "NBIRTH" => (Verb::Birth, false),
            "NDATA" => (Verb::Data, false),
            "NDEATH" => (Verb::Death, false),
            "DBIRTH" => (Verb::Birth, true),
            "DDATA" => (Verb::Data, true),
            "DDEATH" => (Verb::Death, true),
            "NCMD" | "DCMD" => return Ok(None),
            _ => return Err(wrong()),
        };
        let mut named = [Some(group), Some(node), device].into_iter().flatten();
        let is_named = named.all(|level| (1..=NAME_LEN_MAX).contains(&level.len()));
        if device.is_some() != is_device || levels.next().is_some() || !is_named {
            return Err(wrong());
        }
        Ok(Some(Self { group, node, device, verb }))
    }
}

/// Decodes one message. A `replayed` one moves no sequence and asks for nothing.
pub(super) fn decode(
    form: &Form,
    message: &Message,
    limits: &Limits,
    nodes: &mut Nodes,
    replayed: bool,
) -> Result<Decoded<'static>, Fault> {
    let Some(address) = Address::parse(&message.topic)? else { return Ok(Decoded::default()) };
    let payload = payload(&message.payload, limits)?;
    let sent = payload.timestamp.map(instant).transpose()?;
    let mut collected = Collected { limits, sent: sent.unwrap_or(message.received), readings: Vec::new(), faults: Vec::new() };
    let id = format!("{}:{}", address.group, address.node);
    let Some(node) = nodes.take(&id, address, &payload, replayed) else {
        // A will of an earlier connection.
        return Ok(Decoded::default());
    };
    // Noted before anything can be wrong with the metrics: else the next message would seem to come after a gap.
    let is_broken = !replayed && address.verb != Verb::Death && !node.follows(address, &payload, message.received);
    let mut must_ask = is_broken;
    if address.verb != Verb::Death {
        must_ask |= !node.is_born || address.device.is_some_and(|device| address.verb == Verb::Data && !node.devices.contains(device));
        for metric in &payload.metrics {
            if let Some(known) = node.find(address.device, metric).or_else(|| Known::of(metric)) {
                collected.take(metric, &known)?;
            } else {
                must_ask = true;
                let alias = metric.alias.map_or_else(|| "without name and alias".to_owned(), |alias| format!("alias {alias}"));
                let detail = format!("{alias}: no birth of {id} that is known names it; it was asked for");
                collected.refuse(&alias, Reason::BeforeBirth, detail)?;
            }
        }
    }
    let mut decoded = Decoded { faults: collected.faults, ..Decoded::default() };
    let connection = match address.verb {
        Verb::Birth => Some(("online", collected.sent)),
        // A will is as old as its connection: the time of receipt is that of the death.
        Verb::Death if address.device.is_none() => Some(("offline", message.received)),
        Verb::Death => Some(("offline", collected.sent)),
        Verb::Data => None,
    };
    let mut readings = collected.readings;
    readings.extend(connection.map(|(word, time)| state(word, time)));
    let kind = DeviceKind::from_foreign(form.topic.find(&message.topic).kind.unwrap_or("sparkplug"));
    let speaker = |device: Option<&str>, readings| {
        let name = device.map_or_else(|| id.clone(), |device| format!("{id}:{device}"));
        Readings {
            device: DeviceId::from_foreign(&name),
            kind: kind.clone(),
            domain: None,
            vocabulary: Vocabulary::Sender { model: None },
            readings,
        }
    };
    decoded.devices.push(speaker(address.device, readings));
    if address.verb == Verb::Death && address.device.is_none() {
        // With the node, whatever speaks through it is away.
        let mut devices: Vec<&String> = node.devices.iter().collect();
        devices.sort_unstable();
        let dead = devices.into_iter().map(|device| speaker(Some(device), vec![state("offline", message.received)]));
        decoded.devices.extend(dead);
    }
    if must_ask && !replayed && node.asked.is_none_or(|asked| message.received.since(asked) >= ASK_EVERY) {
        node.asked = Some(message.received);
        decoded.replies.push(rebirth(address, message.received));
    }
    let told: usize = decoded.devices.iter().map(|device| device.readings.len()).sum();
    if told + decoded.faults.len() > limits.readings_max {
        return Err(too_many(limits));
    }
    Ok(decoded)
}

fn state(word: &'static str, time: Timestamp) -> Reading<'static> {
    Reading { name: Cow::Borrowed("connection"), value: Value::Word(Cow::Borrowed(word)), unit: None, time, position: None }
}

/// The payload, unpacked where it is compressed (Tahu's `SPBV1.0_COMPRESSED`).
fn payload(bytes: &[u8], limits: &Limits) -> Result<Payload, Fault> {
    let malformed = |detail: String| whole(Reason::Malformed, detail);
    let outer = Payload::decode(bytes).map_err(|error| malformed(error.to_string()))?;
    if outer.uuid.as_deref() != Some(COMPRESSED) {
        return Ok(outer);
    }
    let body = outer.body.unwrap_or_default();
    let algorithm = outer.metrics.iter().find(|metric| metric.name.as_deref() == Some("algorithm"));
    let is_gzip = matches!(algorithm.and_then(|metric| metric.value.as_ref()), Some(Told::Text(name)) if name.eq_ignore_ascii_case("gzip"));
    let room = u64::try_from(limits.payload_bytes_max).unwrap_or(u64::MAX);
    let mut plain = Vec::new();
    let unpacked = if is_gzip {
        GzDecoder::new(body.as_slice()).take(room.saturating_add(1)).read_to_end(&mut plain)
    } else {
        ZlibDecoder::new(body.as_slice()).take(room.saturating_add(1)).read_to_end(&mut plain)
    };
    unpacked.map_err(|error| malformed(format!("cannot be unpacked: {error}")))?;
    if plain.len() > limits.payload_bytes_max {
        return Err(whole(Reason::TooLarge, format!("more than {} bytes unpacked", limits.payload_bytes_max)));
    }
    let inner = Payload::decode(plain.as_slice()).map_err(|error| malformed(error.to_string()))?;
    Ok(Payload { timestamp: inner.timestamp.or(outer.timestamp), seq: inner.seq.or(outer.seq), ..inner })
}

fn instant(millis: u64) -> Result<Timestamp, Fault> {
    let micros = i64::try_from(millis).ok().and_then(|millis| millis.checked_mul(1_000));
    micros.and_then(|micros| Timestamp::from_micros(micros).ok()).ok_or_else(|| Fault {
        reason: Reason::InvalidTime,
        at: "timestamp".to_owned(),
        detail: format!("{millis} ms since 1970 is no time that is taken"),
    })
}

/// The request for a node's birth.
fn rebirth(address: Address<'_>, now: Timestamp) -> Reply {
    let millis = u64::try_from(now.micros() / 1_000).unwrap_or(0);
    let metric = Metric {
        name: Some("Node Control/Rebirth".to_owned()),
        timestamp: Some(millis),
        datatype: Some(DataType::Boolean as u32),
        value: Some(Told::Boolean(true)),
        ..Metric::default()
    };
    let payload = Payload { timestamp: Some(millis), metrics: vec![metric], ..Payload::default() };
    Reply { topic: format!("spBv1.0/{}/NCMD/{}", address.group, address.node), payload: payload.encode_to_vec().into() }
}

impl Nodes {
    /// The node that speaks, having learned what its message says of births and deaths. None for a death that is not that of the
    /// present life.
    fn take(&mut self, id: &str, address: Address<'_>, payload: &Payload, replayed: bool) -> Option<&mut Node> {
        if !self.by_name.contains_key(id) {
            if self.by_name.len() >= NODES_MAX
                && let Some(oldest) = self.order.pop_front()
                && let Some(forgotten) = self.by_name.remove(&oldest)
            {
                self.remembered -= forgotten.len();
            }
            self.order.push_back(id.to_owned());
        }
        let node = self.by_name.entry_ref(id).or_default();
        let is_of_the_node = address.device.is_none();
        if address.verb == Verb::Death && is_of_the_node && node.is_born && node.death.is_some() && node.death != death(payload) {
            return None;
        }
        if !replayed && address.verb != Verb::Data {
            let others = self.remembered - node.len();
            if is_of_the_node {
                // What an earlier life said is void, with its death too.
                let devices = if address.verb == Verb::Death { std::mem::take(&mut node.devices) } else { HashSet::new() };
                let (is_born, asked) = (address.verb == Verb::Birth, node.asked.filter(|_asked| address.verb == Verb::Death));
                *node = Node { is_born, asked, devices, death: death(payload), ..Node::default() };
            }
            if address.verb == Verb::Birth {
                node.learn(address.device, &payload.metrics, REMEMBERED_MAX.saturating_sub(others));
            }
            self.remembered = others + node.len();
        }
        Some(node)
    }
}

impl Node {
    /// What of it is remembered.
    fn len(&self) -> usize {
        self.aliases.len() + self.named.len() + self.devices.len()
    }

    /// Remembers a birth, as far as there is room.
    fn learn(&mut self, device: Option<&str>, metrics: &[Metric], len_max: usize) {
        if let Some(device) = device
            && self.len() < len_max
        {
            self.devices.insert(device.to_owned());
        }
        for known in metrics.iter().filter_map(|metric| Some((metric.alias, Known::of(metric)?))) {
            if self.len() >= len_max {
                break;
            }
            match known {
                (Some(alias), known) => drop(self.aliases.insert(alias, known)),
                (None, known) => drop(self.named.insert((device.map(str::to_owned), known.name.clone()), known)),
            }
        }
    }

    fn find(&self, device: Option<&str>, metric: &Metric) -> Option<Known> {
        let by_alias = metric.alias.and_then(|alias| self.aliases.get(&alias));
        let by_name = || {
            let name = metric.name.clone()?;
            self.named.get(&(device.map(str::to_owned), name))
        };
        by_alias.or_else(by_name).cloned()
    }

    /// Notes a message's number; whether none before it is missing for too long.
    fn follows(&mut self, address: Address<'_>, payload: &Payload, received: Timestamp) -> bool {
        let before = std::mem::replace(&mut self.sequence, payload.seq.map(|number| number % 256));
        let (Some(before), Some(number)) = (before, self.sequence) else { return before.is_none() };
        if address.verb == Verb::Birth && address.device.is_none() {
            return true;
        }
        if self.gap.as_mut().is_some_and(|(_since, missing)| missing.remove(&number)) {
            self.sequence = Some(before);
        } else if number != before {
            let left_out = (1..256).map(|ahead| (before + ahead) % 256).take_while(|between| *between != number);
            let (_since, missing) = self.gap.get_or_insert_with(|| (received, HashSet::new()));
            missing.extend(left_out);
        }
        self.gap.take_if(|(_since, missing)| missing.is_empty());
        self.gap.take_if(|(since, _missing)| received.since(*since) >= REORDERED_WITHIN).is_none()
    }
}

fn death(payload: &Payload) -> Option<u64> {
    let metric = payload.metrics.iter().find(|metric| metric.name.as_deref() == Some("bdSeq"))?;
    match metric.value {
        Some(Told::Long(number)) => Some(number),
        Some(Told::Int(number)) => Some(u64::from(number)),
        _ => None,
    }
}

impl Known {
    /// What a metric that has a name says of itself.
    fn of(metric: &Metric) -> Option<Self> {
        let name = metric.name.clone().filter(|name| (1..=NAME_LEN_MAX).contains(&name.len()))?;
        let unit = metric.properties.as_ref().and_then(|properties| {
            let mut pairs = properties.keys.iter().zip(&properties.values);
            let unit = pairs.find(|(key, _value)| UNITS.iter().any(|known| known.eq_ignore_ascii_case(key)));
            unit.and_then(|(_key, value)| value.string_value.clone()).filter(|unit| !unit.trim().is_empty() && unit.len() <= NAME_LEN_MAX)
        });
        Some(Self { name, kind: metric.datatype.and_then(kind), unit })
    }
}

fn kind(number: u32) -> Option<DataType> {
    i32::try_from(number).ok().and_then(|number| DataType::try_from(number).ok()).filter(|kind| *kind != DataType::Unknown)
}

/// What is read of a message, bounded in number.
struct Collected<'a> {
    limits: &'a Limits,
    sent: Timestamp,
    readings: Vec<Reading<'static>>,
    faults: Vec<Fault>,
}

impl Collected<'_> {
    fn make_room(&self) -> Result<(), Fault> {
        if self.readings.len() + self.faults.len() >= self.limits.readings_max { Err(too_many(self.limits)) } else { Ok(()) }
    }

    fn refuse(&mut self, at: &str, reason: Reason, detail: String) -> Result<(), Fault> {
        self.make_room()?;
        self.faults.push(Fault { reason, at: excerpt(at), detail });
        Ok(())
    }

    fn take(&mut self, metric: &Metric, known: &Known) -> Result<(), Fault> {
        let name = known.name.as_str();
        let is_control = name == "bdSeq" || name.starts_with("Node Control/") || name.starts_with("Device Control/");
        if is_control || metric.is_transient == Some(true) || metric.is_null == Some(true) {
            return Ok(());
        }
        let kind = metric.datatype.and_then(kind).or(known.kind);
        let value = match value(kind, metric.value.as_ref()) {
            Ok(Some(value)) => value,
            Ok(None) => return Ok(()),
            Err((reason, detail)) => return self.refuse(name, reason, detail),
        };
        let time = match metric.timestamp.map(instant).transpose() {
            Ok(time) => time.unwrap_or(self.sent),
            Err(fault) => return self.refuse(name, fault.reason, fault.detail),
        };
        self.make_room()?;
        let path: Vec<String> = name.split('/').map(|level| level.replace('.', "_")).collect();
        let unit = known.unit.clone().map(Cow::Owned);
        self.readings.push(Reading { name: Cow::Owned(path.join(".")), value, unit, time, position: None });
        Ok(())
    }
}

/// A metric's value; none where it has nothing that is observed. Whole numbers are in two's complement of their type's width.
fn value(kind: Option<DataType>, told: Option<&Told>) -> Result<Option<Value<'static>>, (Reason, String)> {
    use DataType as Type;
    let Some(told) = told else {
        return Err((Reason::InvalidValue, "neither a value nor is_null".to_owned()));
    };
    let number = |number: f64| {
        if number.is_finite() { Ok(Some(Value::Number(number))) } else { Err((Reason::InvalidValue, format!("{number} is not finite"))) }
    };
    let unsupported = |what: &str| Err((Reason::Unsupported, format!("{what} are not taken")));
    match (kind, told) {
        (Some(Type::DataSet), _) | (_, Told::DataSet(_)) => unsupported("data sets"),
        (Some(Type::Template), _) | (_, Told::Template(_)) => unsupported("templates"),
        (Some(Type::File), _) => unsupported("files"),
        (_, Told::Bytes(_)) => unsupported("bytes and arrays"),
        (Some(Type::DateTime), _) => Ok(None),
        (Some(Type::Int8), Told::Int(bits)) => number(f64::from(bits.to_le_bytes()[0].cast_signed())),
        (Some(Type::Int16), Told::Int(bits)) => number(f64::from(i16::from_le_bytes([bits.to_le_bytes()[0], bits.to_le_bytes()[1]]))),
        (Some(Type::Int32), Told::Int(bits)) => number(f64::from(bits.cast_signed())),
        (Some(Type::Int64), Told::Long(bits)) => number(bits.cast_signed() as f64),
        (Some(Type::Boolean), Told::Int(bit)) => Ok(Some(truth(*bit != 0))),
        (_, Told::Int(bits)) => number(f64::from(*bits)),
        (_, Told::Long(bits)) => number(*bits as f64),
        (_, Told::Float(value)) => number(shortest(*value)),
        (_, Told::Double(value)) => number(*value),
        (_, Told::Boolean(value)) => Ok(Some(truth(*value))),
        (_, Told::Text(text)) => {
            let text = text.trim();
            Ok((!text.is_empty() && text.len() <= WORD_LEN_MAX).then(|| Value::Word(Cow::Owned(text.to_owned()))))
        }
    }
}

fn truth(value: bool) -> Value<'static> {
    Value::Word(Cow::Borrowed(if value { "true" } else { "false" }))
}

#[cfg(test)]
mod tests;
