//! Cayenne Low Power Payload: channel, type and big-endian value, repeated.
//!
//! The types of the original definition and those that its extensions agree on. Readings are named
//! `<type>_<channel>`, as network servers name them: `temperature_3`, `accelerometer_3.x`. The first GPS position is that
//! of all readings of a frame. What follows a type that is not known cannot be read: its length is not known either.

use base64::Engine as _;

use super::fields::Fields;
use super::{Form, Limits, too_many, whole};
use crate::model::{Decoded, DeviceId, DeviceKind, Fault, Message, Position, Readings, Reason, Value, Vocabulary};

/// A type of data.
struct DataType {
    code: u8,
    name: &'static str,
    /// The UCUM code of what the definition says.
    unit: Option<&'static str>,
    parts: &'static [Part],
}

/// One number of a value.
struct Part {
    /// Its level below the name, with the dot.
    suffix: &'static str,
    len: usize,
    is_signed: bool,
    divisor: f64,
}

const fn unsigned(suffix: &'static str, len: usize, divisor: f64) -> Part {
    Part { suffix, len, is_signed: false, divisor }
}

const fn signed(suffix: &'static str, len: usize, divisor: f64) -> Part {
    Part { suffix, len, is_signed: true, divisor }
}

const fn data_type(code: u8, name: &'static str, unit: Option<&'static str>, parts: &'static [Part]) -> DataType {
    DataType { code, name, unit, parts }
}

const GPS: u8 = 136;

const DATA_TYPES: [DataType; 26] = [
    data_type(0, "digital_in", None, &[unsigned("", 1, 1.0)]),
    data_type(1, "digital_out", None, &[unsigned("", 1, 1.0)]),
    data_type(2, "analog_in", None, &[signed("", 2, 100.0)]),
    data_type(3, "analog_out", None, &[signed("", 2, 100.0)]),
    data_type(100, "generic", None, &[unsigned("", 4, 1.0)]),
    data_type(101, "luminosity", Some("lx"), &[unsigned("", 2, 1.0)]),
    data_type(102, "presence", None, &[unsigned("", 1, 1.0)]),
    data_type(103, "temperature", Some("Cel"), &[signed("", 2, 10.0)]),
    data_type(104, "relative_humidity", Some("%"), &[unsigned("", 1, 2.0)]),
    data_type(113, "accelerometer", Some("[g]"), &[signed(".x", 2, 1e3), signed(".y", 2, 1e3), signed(".z", 2, 1e3)]),
    data_type(115, "barometric_pressure", Some("hPa"), &[unsigned("", 2, 10.0)]),
    data_type(116, "voltage", Some("V"), &[unsigned("", 2, 100.0)]),
    data_type(117, "current", Some("A"), &[unsigned("", 2, 1e3)]),
    data_type(118, "frequency", Some("Hz"), &[unsigned("", 4, 1.0)]),
    data_type(120, "percentage", Some("%"), &[unsigned("", 1, 1.0)]),
    data_type(121, "altitude", Some("m"), &[signed("", 2, 1.0)]),
    data_type(125, "concentration", Some("[ppm]"), &[unsigned("", 2, 1.0)]),
    data_type(128, "power", Some("W"), &[unsigned("", 2, 1.0)]),
    data_type(130, "distance", Some("m"), &[unsigned("", 4, 1e3)]),
    data_type(131, "energy", Some("kW.h"), &[unsigned("", 4, 1e3)]),
    data_type(132, "direction", Some("deg"), &[unsigned("", 2, 1.0)]),
    data_type(133, "unix_time", Some("s"), &[unsigned("", 4, 1.0)]),
    data_type(134, "gyrometer", Some("deg/s"), &[signed(".x", 2, 100.0), signed(".y", 2, 100.0), signed(".z", 2, 100.0)]),
    data_type(135, "colour", None, &[unsigned(".r", 1, 1.0), unsigned(".g", 1, 1.0), unsigned(".b", 1, 1.0)]),
    data_type(GPS, "gps", None, &[signed(".latitude", 3, 1e4), signed(".longitude", 3, 1e4), signed(".altitude", 3, 100.0)]),
    data_type(142, "switch", None, &[unsigned("", 1, 1.0)]),
];

/// What a frame says.
#[derive(Default)]
pub(super) struct Frame {
    /// Name, number and unit.
    values: Vec<(String, f64, Option<&'static str>)>,
    /// Where the device is.
    position: Option<Position>,
    /// What could not be read.
    faults: Vec<Fault>,
}

/// Decodes one message; the topic names the device.
pub(super) fn decode<'a>(form: &Form, message: &'a Message, limits: &Limits) -> Result<Decoded<'a>, Fault> {
    let names = form.topic.find(&message.topic);
    let device = names.device.ok_or_else(|| whole(Reason::Topic, "the topic names no device".to_owned()))?;
    if message.payload.is_empty() {
        return Err(whole(Reason::Empty, "the payload is empty".to_owned()));
    }
    let mut frame = parse(&message.payload);
    if frame.values.len() + frame.faults.len() > limits.readings_max {
        return Err(too_many(limits));
    }
    let faults = std::mem::take(&mut frame.faults);
    let mut fields = Fields::new(message.received, limits);
    frame.collect(&mut fields)?;
    let device = Readings {
        device: DeviceId::from_foreign(device),
        kind: DeviceKind::from_foreign(names.kind.unwrap_or("lorawan")),
        domain: names.domain,
        vocabulary: Vocabulary::Sender { model: None },
        readings: fields.into_readings(),
    };
    Ok(Decoded { devices: vec![device], faults, replies: Vec::new() })
}

/// Reads a frame up to what cannot be read.
fn parse(payload: &[u8]) -> Frame {
    let mut frame = Frame::default();
    let mut rest = payload;
    loop {
        let at = format!("byte {}", payload.len() - rest.len());
        let malformed = |detail: String| Fault { reason: Reason::Malformed, at: at.clone(), detail };
        let (channel, code, value) = match rest {
            [] => return frame,
            [channel, code, value @ ..] => (*channel, *code, value),
            [_channel] => {
                frame.faults.push(malformed("the frame ends inside a field".to_owned()));
                return frame;
            }
        };
        let Some(data_type) = DATA_TYPES.iter().find(|data_type| data_type.code == code) else {
            frame.faults.push(malformed(format!("type {code} is not known: what follows cannot be read")));
            return frame;
        };
        let Some((value, after)) = value.split_at_checked(data_type.parts.iter().map(|part| part.len).sum()) else {
            frame.faults.push(malformed(format!("the frame ends inside a field of type {}", data_type.name)));
            return frame;
        };
        rest = after;
        frame.push(channel, data_type, value, at);
    }
}

impl Frame {
    fn push(&mut self, channel: u8, data_type: &DataType, mut value: &[u8], at: String) {
        let mut numbers = Vec::with_capacity(data_type.parts.len());
        for part in data_type.parts {
            let (bytes, after) = value.split_at_checked(part.len).unwrap_or((value, &[]));
            value = after;
            let number = bytes.iter().fold(0_i64, |number, byte| (number << 8) | i64::from(*byte));
            let is_negative = part.is_signed && bytes.first().is_some_and(|byte| byte & 0x80 != 0);
            let number = if is_negative { number - (1_i64 << (8 * part.len)) } else { number };
            numbers.push((part.suffix, number as f64 / part.divisor));
        }
        if let (GPS, [(_, latitude), (_, longitude), (_, altitude)]) = (data_type.code, numbers.as_slice()) {
            // (0, 0) is what receivers without a fix send.
            if *latitude == 0.0 && *longitude == 0.0 {
                return;
            }
            match Position::new(*longitude, *latitude) {
                Ok(position) => {
                    self.position = self.position.or(Some(position));
                    self.values.push((format!("gps_{channel}.altitude"), *altitude, Some("m")));
                }
                Err(error) => {
                    let detail = format!("lon {longitude}, lat {latitude}: {error}");
                    self.faults.push(Fault { reason: Reason::InvalidPosition, at, detail });
                }
            }
            return;
        }
        let named = |(suffix, number)| (format!("{}_{channel}{suffix}", data_type.name), number, data_type.unit);
        self.values.extend(numbers.into_iter().map(named));
    }

    /// The values as fields; the position in the frame counts before any other.
    pub(super) fn collect(self, fields: &mut Fields) -> Result<(), Fault> {
        fields.position = self.position.or(fields.position);
        self.values.into_iter().try_for_each(|(name, number, unit)| fields.push(&name, Value::Number(number), unit))
    }
}

/// The bytes of an uplink that its network server has not decoded, in base64: only a frame that is right to its end is
/// believed to be one.
pub(super) fn undecoded(bytes: &str) -> Option<Frame> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(bytes).ok()?;
    Some(parse(&bytes)).filter(|frame| frame.faults.is_empty())
}

#[cfg(test)]
mod tests;
