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
    for (index, (key, _value)) in tags.iter().enumerate() {
        if tags.iter().take(index).any(|(before, _value)| before == key) {
            return Err((Reason::Malformed, format!("the tag {key} is there twice")));
        }
    }
    let names_of_line = tags.iter().map(|(key, _value)| key.as_str()).chain([measurement.as_str()]);
    let keys: Vec<String> = line.field_set.iter().map(|(key, _value)| key.to_string()).collect();
    if names_of_line.chain(keys.iter().map(String::as_str)).any(|name| name.chars().any(|letter| letter.is_ascii_control())) {
        return Err((Reason::Malformed, "a name holds a control character".to_owned()));
    }
    if let Some((key, _value)) = line.field_set.iter().find(|(_key, value)| matches!(value, FieldValue::F64(number) if !number.is_finite()))
    {
        return Err((Reason::InvalidValue, format!("{key} is more than a number can hold")));
    }
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
    use serde_json::Value as Json;

    use crate::decode::material::material;
    use crate::decode::tests::{LIMITS, check, message};
    use crate::decode::{Decoder, Form, Limits, Memory, Precision, decode};
    use crate::model::{Timestamp, Value};

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

    /// What the library that reads lines refuses, and no client writes: numbers without a digit at either side of the point or of more
    /// digits than a number has, and a backslash that is itself escaped before what it would escape.
    fn is_refused_by_the_library(text: &str) -> bool {
        let number = |number: &str| number.starts_with('.') || number.ends_with('.') || number.len() > 300;
        let value = text.split_once("value=").map(|(_before, after)| after.split(' ').next().unwrap_or_default());
        value.is_some_and(number) || text.contains("\\\\")
    }

    /// The public corpus of line protocol: what its reference reads is read so, and what it refuses is refused.
    #[test]
    fn the_corpus_is_read_as_its_reference_reads_it() {
        use std::io::Read as _;
        let Some(path) = material("influx-line-protocol/corpus-open-nonfuzz.json.gz", "the_corpus_is_read_as_its_reference_reads_it")
        else {
            return;
        };
        let mut text = String::new();
        flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
        let corpus: Json = serde_json::from_str(&text).unwrap();
        let mut different = Vec::new();
        for case in corpus["decode"].as_object().unwrap().values() {
            let input = &case["input"];
            let Some(text) = input["text"].as_str() else { continue };
            let precision = match input["precision"].as_str() {
                Some("1s") => Precision::Seconds,
                Some("1ms") => Precision::Milliseconds,
                Some("1ns") => Precision::Nanoseconds,
                _ => Precision::Microseconds,
            };
            let form = Form { decoder: Decoder::InfluxLine, precision, ..Form::default() };
            let mut message = message("t/dev", text.as_bytes());
            // The reference cuts the time of a line that has none to the precision of the others; Conca does not.
            let unit = if precision == Precision::Seconds {
                1_000_000
            } else if precision == Precision::Milliseconds {
                1_000
            } else {
                1
            };
            message.received = Timestamp::from_micros_clamped(input["defaultTime"].as_i64().unwrap() / 1_000 / unit * unit);
            let decoded = decode(&form, &message, &Limits { readings_max: 1_000, ..LIMITS }, &mut Memory::default());
            let expected = expected(&case["output"]);
            let found = decoded.map_or(Err(()), |decoded| {
                let readings = decoded.devices.iter().flat_map(|device| device.readings.iter().map(shown)).collect::<Vec<_>>();
                if decoded.faults.is_empty() { Ok(readings) } else { Err(()) }
            });
            // The library takes a tab before a measurement for a blank.
            let is_known = (found.is_err() && is_refused_by_the_library(text)) || text.starts_with('\t');
            if found != expected && !is_known {
                different.push(format!("{text:?}: {found:?}, but {expected:?}"));
            }
        }
        assert_eq!((corpus["decode"].as_object().unwrap().len(), different.len()), (240, 0), "{different:#?}");
    }

    fn shown(reading: &crate::model::Reading<'_>) -> String {
        format!("{} {}={:?}", reading.time, reading.name, reading.value)
    }

    /// The readings of the corpus's output; an error where any of its lines is wrong.
    fn expected(output: &Json) -> Result<Vec<String>, ()> {
        let mut readings = Vec::new();
        if output.get("error").is_some() {
            return Err(());
        }
        for point in output["result"].as_array().into_iter().flatten() {
            if point.get("error").is_some() {
                return Err(());
            }
            let time = Timestamp::from_micros(point["time"].as_i64().ok_or(())?.div_euclid(1_000)).map_err(|_beyond| ())?;
            for field in point["fields"].as_array().into_iter().flatten() {
                let key = field["key"].as_str().unwrap();
                let name = if key == "value" { point["name"].as_str().unwrap().to_owned() } else { key.replace('.', "_") };
                let value = &field["value"];
                let number = ["float", "int", "uint"].iter().find_map(|kind| value.get(*kind)).and_then(Json::as_f64);
                let value = match (number, value["bool"].as_bool(), value["string"].as_str()) {
                    (Some(number), ..) => Value::Number(number),
                    (_, Some(truth), _) => Value::Word(truth.to_string().into()),
                    (_, _, Some(text)) if !text.is_empty() && text.len() <= 32 => Value::Word(text.to_owned().into()),
                    // A text for people.
                    _ => continue,
                };
                readings.push(format!("{time} {name}={value:?}"));
            }
        }
        Ok(readings)
    }
}
