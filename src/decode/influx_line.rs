//! InfluxDB line protocol, as Telegraf and InfluxDB's clients write it.
//!
//! A field is named by its key, or by the measurement where the key is `value`. The device is the first of the tags
//! `device`, `device_id`, `dev_eui`, `sensor`, `sensor_id`, `id` and `host` that is there, else all tags together, else the
//! topic's. A record that is wrong costs itself alone; records are lines that are neither empty nor comments.

use std::borrow::Cow;

use influxdb_line_protocol::{EscapedStr, FieldValue, ParsedLine, parse_lines};

use super::{Form, Limits, Precision, excerpt, text, whole};
use crate::model::{Decoded, DeviceId, DeviceKind, Fault, Message, Position, Reading, Readings, Reason, Timestamp, Value, Vocabulary};

const DEVICE: [&str; 7] = ["device", "device_id", "dev_eui", "sensor", "sensor_id", "id", "host"];
const LONGITUDE: [&str; 3] = ["lon", "longitude", "lng"];
const LATITUDE: [&str; 2] = ["lat", "latitude"];

/// Decodes one message.
pub(super) fn decode<'a>(form: &Form, message: &'a Message, limits: &Limits) -> Result<Decoded<'a>, Fault> {
    let mut decoded = Decoded::default();
    let mut readings = 0;
    for (index, line) in parse_lines(text(message)?).enumerate() {
        match line.map_err(|error| (Reason::Malformed, error.to_string())).and_then(|line| device(form, message, &line)) {
            Ok(device) => {
                readings += device.readings.len();
                decoded.devices.push(device);
            }
            Err((reason, detail)) => {
                readings += 1;
                decoded.faults.push(Fault { reason, at: format!("record {}", index + 1), detail: excerpt(&detail) });
            }
        }
        if readings > limits.readings_max {
            return Err(whole(Reason::TooManyReadings, format!("more than {} readings", limits.readings_max)));
        }
    }
    Ok(decoded)
}

fn device<'a>(form: &Form, message: &Message, line: &ParsedLine<'_>) -> Result<Readings<'a>, (Reason, String)> {
    let names = form.topic.find(&message.topic);
    let measurement = line.series.measurement.to_string();
    let tags = line.series.tag_set.iter().flatten();
    let tags: Vec<(String, String)> = tags.map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let tag = |keys: &[&str]| keys.iter().find_map(|key| tags.iter().find(|(tag, _value)| tag == key).map(|(_tag, value)| value.as_str()));
    let all = || tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    let told = tag(&DEVICE).map(str::to_owned).or_else(|| (!tags.is_empty()).then(all));
    let Some(device) = told.or_else(|| names.device.map(str::to_owned)) else {
        return Err((Reason::Name, "neither tags nor the topic name a device".to_owned()));
    };
    let time = match line.timestamp {
        None => message.received,
        Some(time) => form.precision.timestamp(time).ok_or_else(|| (Reason::InvalidTime, format!("{time} is beyond all times")))?,
    };
    let number = |keys: &[&str]| {
        let field = line.field_set.iter().find(|(key, _value)| keys.contains(&key.to_string().as_str()));
        field.and_then(|(_key, value)| as_number(value)).or_else(|| tag(keys).and_then(|tag| tag.parse().ok()))
    };
    let position = number(&LONGITUDE).zip(number(&LATITUDE)).and_then(|(longitude, latitude)| Position::new(longitude, latitude).ok());
    let fields = line.field_set.iter().map(|(key, value)| (key.to_string(), value));
    let fields =
        fields.filter(|(key, _value)| position.is_none() || !(LONGITUDE.contains(&key.as_str()) || LATITUDE.contains(&key.as_str())));
    let readings = fields.filter_map(|(key, value)| {
        let name = if key == "value" { measurement.clone() } else { key.replace('.', "_") };
        Some(Reading { name: Cow::Owned(name), value: reading(value)?, unit: None, time, position })
    });
    Ok(Readings {
        device: DeviceId::from_foreign(&device),
        kind: DeviceKind::from_foreign(names.kind.unwrap_or(&measurement)),
        domain: names.domain,
        vocabulary: Vocabulary::Sender { model: Some(Cow::Owned(measurement.clone())) },
        readings: readings.collect(),
    })
}

fn as_number(value: &FieldValue<'_>) -> Option<f64> {
    let number = match value {
        FieldValue::I64(number) => *number as f64,
        FieldValue::U64(number) => *number as f64,
        FieldValue::F64(number) => *number,
        FieldValue::String(_) | FieldValue::Boolean(_) => return None,
    };
    number.is_finite().then_some(number)
}

/// A number, a truth value or a short word; longer texts are for people.
fn reading(value: &FieldValue<'_>) -> Option<Value<'static>> {
    const WORD_LEN_MAX: usize = 32;
    let word = |text: &EscapedStr<'_>| {
        let text = text.to_string();
        (!text.is_empty() && text.len() <= WORD_LEN_MAX).then_some(Value::Word(Cow::Owned(text)))
    };
    match value {
        FieldValue::Boolean(truth) => Some(Value::Word(Cow::Borrowed(if *truth { "true" } else { "false" }))),
        FieldValue::String(text) => word(text),
        number => as_number(number).map(Value::Number),
    }
}

impl Precision {
    fn timestamp(self, time: i64) -> Option<Timestamp> {
        let micros = match self {
            Self::Nanoseconds => Some(time.div_euclid(1_000)),
            Self::Microseconds => Some(time),
            Self::Milliseconds => time.checked_mul(1_000),
            Self::Seconds => time.checked_mul(1_000_000),
        };
        micros.and_then(|micros| Timestamp::from_micros(micros).ok())
    }
}

#[cfg(test)]
mod tests {
    use crate::decode::tests::check;
    use crate::decode::{Decoder, Form};

    #[test]
    fn lines_give_their_fields_and_a_wrong_line_costs_itself() {
        let form = Form { decoder: Decoder::InfluxLine, ..Form::default() };
        check(
            &form,
            "t/dev",
            "air\\ quality,device=a\\ b,lat=38.11,lon=13.36 pm10=3.5,count=4i,ok=t,note=\"fine\" 1772352000000000000\n# comment\n\
             temperature value=21\nbroken\nm,city=x v=1u",
            "a_b.8044f8a624582c4c air_quality.efd4c51ecbc68459 air quality\npm10=3.5 @13.36,38.11\ncount=4 @13.36,38.11\nok=\"true\" @13.36,38.11\n\
             note=\"fine\" @13.36,38.11\ndev temperature temperature\ntemperature=21\ncity_x.e6946b126401721c m m\nv=1\nfault: malformed at record 3: A generic parsing error occurred: TakeWhile1",
        );
    }
}
