//! The service's modules that read bytes from outside, without the rest of it: their files here are links.

#![allow(missing_docs, dead_code, unreachable_pub, reason = "modules of the service, of which the targets use a part")]

pub mod decode;
pub mod mapping;
pub mod model;

use decode::{Decoder, Form, Limits, Memory};
use model::{Message, Service, SourceName, Timestamp};

/// Decodes two messages, each the topic's length, the topic, and the payload, by the same memory: nothing may panic, and
/// no more readings may come out than are allowed.
pub fn decode_all(decoder: Decoder, data: &[u8]) {
    let limits = Limits { payload_bytes_max: 65_536, readings_max: 100 };
    let form = Form { decoder, ..Form::default() };
    let mut memory = Memory::default();
    let middle = data.len() / 2;
    let (first, second) = data.split_at(middle);
    for part in [first, second, data] {
        let Some((length, rest)) = part.split_first() else { continue };
        let (topic, payload) = rest.split_at(rest.len().min(usize::from(*length)));
        let message = Message {
            source: SourceName::try_from("fuzz").expect("a name"),
            topic: String::from_utf8_lossy(topic).as_ref().into(),
            payload: payload.to_vec().into(),
            received: Timestamp::from_micros_clamped(1_772_352_000_000_000),
            service: Service::AtMostOnce,
            retained: false,
        };
        if let Ok(decoded) = decode::decode(&form, &message, &limits, &mut memory) {
            let readings: usize = decoded.devices.iter().map(|device| device.readings.len()).sum();
            assert!(readings + decoded.faults.len() <= limits.readings_max);
        }
    }
}
