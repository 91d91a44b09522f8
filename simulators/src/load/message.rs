//! What a message of the load says, and how it is written: a template with the digits put in.

use crate::noise::Noise;

use super::frame;

/// What can be wrong with a poison message; none of its readings may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Poison {
    /// Text that is not JSON.
    NotJson,
    /// JSON that ends too early.
    Truncated,
    /// Bytes that are not UTF-8.
    NotUtf8,
    /// No payload.
    Empty,
    /// A domain that does not exist.
    WrongTopic,
    /// A property that the catalogue does not have.
    UnknownProperty,
    /// The year 5138.
    AbsurdTime,
    /// No time.
    NoTime,
    /// Text that is no number and no state.
    NotANumber,
}

impl Poison {
    pub const ALL: [Self; 9] = [
        Self::NotJson,
        Self::Truncated,
        Self::NotUtf8,
        Self::Empty,
        Self::WrongTopic,
        Self::UnknownProperty,
        Self::AbsurdTime,
        Self::NoTime,
        Self::NotANumber,
    ];
}

/// The five readings of a device's message: property and value, in canonical units.
pub fn expected(seed: u64, device: u32, message: u64) -> Vec<(&'static str, f64)> {
    let steps = Source::new(seed).values(device, message);
    PROPERTIES.iter().zip(steps).map(|(property, steps)| (property.id, steps as f64 / property.steps)).collect()
}

/// What is wrong with a message, when this part of all messages is poison.
pub(super) fn poison(seed: u64, part: f64, device: u32, message: u64) -> Option<Poison> {
    if part == 0.0 {
        return None;
    }
    let noise = Noise::new(seed, "load poison").split(device.into());
    let index = message.cast_signed();
    let kinds = Poison::ALL.len() as f64;
    let kind = usize::try_from(crate::noise::whole((noise.split(1).uniform(index) * kinds).floor())).ok()?;
    (noise.uniform(index) < part).then(|| Poison::ALL.get(kind).copied()).flatten()
}

struct Property {
    id: &'static str,
    /// Steps in a unit.
    steps: f64,
    /// Every value lies in `[low, low + 900)` steps or below, so that all have as many digits.
    low: u64,
}

const PROPERTIES: [Property; 5] = [
    Property { id: "pm10", steps: 10.0, low: 100 },
    Property { id: "pm2_5", steps: 10.0, low: 100 },
    Property { id: "no2", steps: 10.0, low: 100 },
    Property { id: "temperature", steps: 100.0, low: 1_000 },
    Property { id: "humidity", steps: 10.0, low: 100 },
];

/// Values of one seed.
#[derive(Clone, Copy, Debug)]
struct Source {
    base: Noise,
    jitter: Noise,
}

impl Source {
    fn new(seed: u64) -> Self {
        Self { base: Noise::new(seed, "load base"), jitter: Noise::new(seed, "load jitter") }
    }

    /// In steps: the device's level, a slow wave, and jitter; like a real series and unlike a random one, it compresses.
    fn values(self, device: u32, message: u64) -> [u64; 5] {
        let level = self.base.bits(device.into());
        let jitter = self.jitter.bits((message.rotate_left(32) ^ u64::from(device)).cast_signed());
        let mut shift = 0;
        PROPERTIES.each_ref().map(|property| {
            let phase = (message / 8 + ((level >> shift) & 0xff)) % 400;
            let wave = phase.min(400 - phase);
            let value = property.low + ((level >> (shift + 3)) & 0x1ff) + wave + ((jitter >> shift) & 0xf);
            shift += 11;
            value
        })
    }
}

/// Writes PUBLISH packets of one connection.
#[derive(Debug)]
pub(super) struct Writer {
    seed: u64,
    poison: f64,
    source: Source,
    frame: Vec<u8>,
    slots: Slots,
}

/// Where in the frame what is put in.
#[derive(Clone, Copy, Debug, Default)]
struct Slots {
    device: usize,
    packet_id: usize,
    time: usize,
    values: [usize; 5],
}

const TOPIC_HEAD: &str = "conca/v1/environment/air-station/load-";

impl Writer {
    pub(super) fn new(seed: u64, poison: f64) -> Self {
        let mut slots = Slots::default();
        let mut payload = br#"{"time":"#.to_vec();
        slots.time = payload.len();
        payload.extend_from_slice(b"0000000000000,\"readings\":{");
        for (number, (slot, property)) in slots.values.iter_mut().zip(&PROPERTIES).enumerate() {
            payload.extend_from_slice(if number == 0 { b"\"" } else { b",\"" });
            payload.extend_from_slice(property.id.as_bytes());
            payload.extend_from_slice(b"\":");
            *slot = payload.len();
            payload.extend_from_slice(if 10.0 < property.steps { b"00.00" } else { b"00.0" });
        }
        payload.extend_from_slice(b"}}");
        let mut frame = Vec::new();
        let topic = format!("{TOPIC_HEAD}{:06}", 0);
        frame::publish(&mut frame, topic.as_bytes(), 1, &payload);
        let payload_start = frame.len() - payload.len();
        slots.time += payload_start;
        slots.values.iter_mut().for_each(|slot| *slot += payload_start);
        // Before the payload: the digits of the device, the packet id, the length of no properties.
        slots.packet_id = payload_start - 3;
        slots.device = slots.packet_id - 6;
        Self { seed, poison, source: Source::new(seed), frame, slots }
    }

    /// Appends a packet; what is wrong with it, if anything, is the answer.
    pub(super) fn write(&self, out: &mut Vec<u8>, device: u32, message: u64, time_ms: u64, packet_id: u16) -> Option<Poison> {
        if let Some(poison) = poison(self.seed, self.poison, device, message) {
            write_poison(out, poison, device, time_ms, packet_id);
            return Some(poison);
        }
        let start = out.len();
        out.extend_from_slice(&self.frame);
        let frame = out.get_mut(start..).unwrap_or_default();
        put_digits(frame, self.slots.device, 6, device.into());
        if let Some(slot) = frame.get_mut(self.slots.packet_id..).and_then(|rest| rest.first_chunk_mut()) {
            *slot = packet_id.to_be_bytes();
        }
        put_digits(frame, self.slots.time, 13, time_ms);
        let values = self.source.values(device, message);
        for ((property, slot), steps) in PROPERTIES.iter().zip(self.slots.values).zip(values) {
            let (unit, decimals) = if 10.0 < property.steps { (100, 2) } else { (10, 1) };
            put_digits(frame, slot, 2, steps / unit);
            put_digits(frame, slot + 3, decimals, steps % unit);
        }
        None
    }
}

/// Decimal digits, right-aligned.
fn put_digits(frame: &mut [u8], start: usize, count: usize, mut value: u64) {
    for digit in frame.iter_mut().skip(start).take(count).rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

/// Rare, so it may cost something.
fn write_poison(out: &mut Vec<u8>, poison: Poison, device: u32, time_ms: u64, packet_id: u16) {
    let payload = match poison {
        Poison::NotJson => b"PM10=31.2;T=18.4".to_vec(),
        Poison::Truncated => format!(r#"{{"time":{time_ms},"readings":{{"pm10":31."#).into_bytes(),
        Poison::NotUtf8 => b"\xff\xfe\x00\x31".to_vec(),
        Poison::Empty => Vec::new(),
        Poison::WrongTopic => format!(r#"{{"time":{time_ms},"readings":{{"pm10":31.2}}}}"#).into_bytes(),
        Poison::UnknownProperty => format!(r#"{{"time":{time_ms},"readings":{{"phlogiston":31.2}}}}"#).into_bytes(),
        Poison::AbsurdTime => br#"{"time":99999999999999,"readings":{"pm10":31.2}}"#.to_vec(),
        Poison::NoTime => br#"{"readings":{"pm10":31.2}}"#.to_vec(),
        Poison::NotANumber => format!(r#"{{"time":{time_ms},"readings":{{"pm10":"much"}}}}"#).into_bytes(),
    };
    let domain = if poison == Poison::WrongTopic { "nowhere" } else { "environment" };
    frame::publish(out, format!("conca/v1/{domain}/air-station/load-{device:06}").as_bytes(), packet_id, &payload);
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{Packet, Publish};

    use super::{Poison, Writer, expected};
    use crate::catalogue::Catalogue;

    fn written(writer: &Writer, device: u32, message: u64) -> (Option<Poison>, Publish) {
        let mut out = b"before".to_vec();
        let poison = writer.write(&mut out, device, message, 1_743_296_400_123, 54_321);
        let mut stream = BytesMut::from(&out[6..]);
        let Packet::Publish(publish) = Packet::read(&mut stream, None).unwrap() else { panic!("not a PUBLISH") };
        assert!(stream.is_empty());
        (poison, publish)
    }

    #[test]
    fn another_codec_reads_what_is_expected() {
        for (device, message) in [(0, 0), (1, 0), (7, 3), (123_456, 1 << 40), (999_999, u64::MAX)] {
            let (poison, publish) = written(&Writer::new(9, 0.0), device, message);
            assert_eq!(poison, None);
            assert_eq!((publish.pkid, publish.qos, publish.dup, publish.retain), (54_321, QoS::AtLeastOnce, false, false));
            assert_eq!(publish.topic, format!("conca/v1/environment/air-station/{}", crate::load::device_id(device)));
            let payload: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap();
            assert_eq!(payload["time"], 1_743_296_400_123_u64);
            let expected = expected(9, device, message);
            assert_eq!(payload["readings"].as_object().unwrap().len(), expected.len());
            for (property, value) in expected {
                assert_eq!(payload["readings"][property].as_f64().unwrap().to_bits(), value.to_bits(), "{property}");
            }
        }
    }

    #[test]
    fn values_are_plausible_and_differ() {
        let mut distinct = std::collections::BTreeSet::new();
        for message in 0..5_000 {
            for (id, value) in expected(1, 5, message) {
                let property = Catalogue::embedded().get(id).unwrap();
                assert!((10.0..99.9).contains(&value) && property.settle(value).to_bits() == value.to_bits(), "{id}: {value}");
                distinct.insert((id, value.to_bits()));
            }
        }
        assert!(500 < distinct.len());
        assert_ne!(expected(1, 5, 0), expected(1, 6, 0));
        assert_ne!(expected(1, 5, 0), expected(2, 5, 0));
    }

    #[test]
    fn a_part_of_the_messages_is_poison_of_every_kind() {
        let writer = Writer::new(9, 0.1);
        let kinds: Vec<Poison> = (0..10_000).filter_map(|message| written(&writer, 3, message).0).collect();
        assert!((900..1_100).contains(&kinds.len()), "{}", kinds.len());
        assert!(Poison::ALL.iter().all(|kind| kinds.contains(kind)));
    }
}
