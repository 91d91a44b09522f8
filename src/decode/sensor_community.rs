//! sensor.community (formerly luftdaten.info): what its firmware pushes, also to others than itself, and what its API gives.
//!
//! A value is `{"value_type", "value"}`. The firmware names the board before it (`SDS_P1`, `BME280_temperature`): each board is a device
//! of its own, `<station>:<board>`, with the board as its model, so that two thermometers of a station stay two. The station is
//! `esp8266id`, `raspiid` or the sensor of the API, else what the topic names. Times are UTC, as the API writes them; a push has none, and
//! is of the moment of its receipt.

use std::borrow::Cow;

use serde_json::{Map, Value as Json};

use super::fields::{number, position, utc};
use super::{Form, Limits, excerpt, not_json, text, too_many, whole};
use crate::model::{Decoded, DeviceId, DeviceKind, Fault, Message, Position, Reading, Readings, Reason, Timestamp, Value, Vocabulary};

/// Keys under which a push names its station.
const STATIONS: [&str; 5] = ["esp8266id", "raspiid", "esp32id", "chipid", "sensor_id"];

/// Decodes one message.
pub(super) fn decode(form: &Form, message: &Message, limits: &Limits) -> Result<Decoded<'static>, Fault> {
    let json: Json = serde_json::from_str(text(message)?).map_err(|error| not_json(&error))?;
    let (records, is_array) = match &json {
        Json::Array(records) => (records.as_slice(), true),
        record => (std::slice::from_ref(record), false),
    };
    let mut decoded = Decoded::default();
    for (index, record) in records.iter().enumerate() {
        let at = if is_array { format!("/{index}") } else { String::new() };
        if let Err(fault) = take(form, message, record, &at, &mut decoded) {
            decoded.faults.push(fault);
        }
        let count = decoded.devices.iter().map(|device| device.readings.len()).sum::<usize>() + decoded.faults.len();
        if count > limits.readings_max {
            return Err(too_many(limits));
        }
    }
    Ok(decoded)
}

fn take(form: &Form, message: &Message, record: &Json, at: &str, decoded: &mut Decoded<'static>) -> Result<(), Fault> {
    let shape = |at: String, detail: &str| Fault { reason: Reason::Shape, at, detail: detail.to_owned() };
    let values = record.get("sensordatavalues").and_then(Json::as_array);
    let values = values.ok_or_else(|| shape(format!("{at}/sensordatavalues"), "an array of values is expected"))?;
    let names = form.topic.find(&message.topic);
    let told = STATIONS.iter().find_map(|key| record.get(*key)).or_else(|| record.pointer("/sensor/id"));
    let station = told.and_then(word).or_else(|| names.device.map(str::to_owned)).filter(|station| !station.is_empty());
    let station = station.ok_or_else(|| whole(Reason::Name, "neither the payload nor the topic names a station".to_owned()))?;
    let time = match record.get("timestamp").filter(|time| !time.is_null()) {
        None => message.received,
        Some(time) => time.as_str().and_then(utc).ok_or_else(|| Fault {
            reason: Reason::InvalidTime,
            at: format!("{at}/timestamp"),
            detail: format!("{:?} is no date and time", excerpt(&time.to_string())),
        })?,
    };
    let kind = DeviceKind::from_foreign(names.kind.unwrap_or("sensor-community"));
    let place = record.pointer("/location/longitude").or_else(|| gps(values, "lon"));
    let place = position(place, record.pointer("/location/latitude").or_else(|| gps(values, "lat")));
    let model = record.pointer("/sensor/sensor_type/name").and_then(Json::as_str);
    let first = decoded.devices.len();
    for (index, entry) in values.iter().enumerate() {
        let at = format!("{at}/sensordatavalues/{index}");
        let Json::Object(entry) = entry else {
            decoded.faults.push(shape(at, "an object is expected"));
            continue;
        };
        match reading(entry, time, place) {
            Ok(None) => {}
            Ok(Some((board, reading))) => {
                let device = board.map_or_else(|| station.clone(), |board| format!("{station}:{board}"));
                let device = DeviceId::from_foreign(&device);
                let known = decoded.devices.iter_mut().skip(first).find(|known| known.device == device);
                match known {
                    Some(known) => known.readings.push(reading),
                    None => decoded.devices.push(Readings {
                        device,
                        kind: kind.clone(),
                        domain: names.domain,
                        vocabulary: Vocabulary::Sender { model: board.or(model).map(|model| Cow::Owned(model.to_owned())) },
                        readings: vec![reading],
                    }),
                }
            }
            Err((reason, detail)) => decoded.faults.push(Fault { reason, at, detail }),
        }
    }
    Ok(())
}

fn word(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.trim().to_owned()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A coordinate that the station's own receiver tells.
fn gps<'a>(values: &'a [Json], what: &str) -> Option<&'a Json> {
    let is_it = |entry: &&Json| {
        let name = entry.get("value_type").and_then(Json::as_str).unwrap_or_default();
        name.rsplit('_').next() == Some(what) && (name == what || name.starts_with("GPS_"))
    };
    values.iter().find(is_it)?.get("value")
}

/// A reading with its board, if it names one.
type Spoken<'a> = (Option<&'a str>, Reading<'static>);

/// A value; nothing for coordinates.
fn reading(entry: &Map<String, Json>, time: Timestamp, position: Option<Position>) -> Result<Option<Spoken<'_>>, (Reason, String)> {
    let name = entry.get("value_type").and_then(Json::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| (Reason::Shape, "a value has a value_type".to_owned()))?;
    let is_board = |board: &str| board.starts_with(|first: char| first.is_ascii_uppercase()) && board.len() > 2;
    let is_board = |board: &str| is_board(board) && board.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    let (board, name) = match name.split_once('_') {
        Some((board, rest)) if is_board(board) && !rest.is_empty() => (Some(board), rest),
        _ => (None, name),
    };
    if ["lat", "lon", "height", "timestamp", "date", "time"].contains(&name) {
        return Ok(None);
    }
    let told = entry.get("value").unwrap_or(&Json::Null);
    let value = number(told).ok_or_else(|| (Reason::InvalidValue, format!("{} is no number", excerpt(&told.to_string()))))?;
    // A dot would be a level of a path.
    let name = Cow::Owned(name.replace('.', "_"));
    Ok(Some((board, Reading { name, value: Value::Number(value), unit: None, time, position })))
}

#[cfg(test)]
mod tests {
    use crate::decode::material::material;
    use crate::decode::tests::{check, shown};
    use crate::decode::{Decoder, Form};

    fn form() -> Form {
        Form { decoder: Decoder::SensorCommunity, topic: "air/{device}".parse().unwrap(), ..Form::default() }
    }

    #[test]
    fn boards_are_devices_of_their_own() {
        check(
            &form(),
            "air/esp8266-1",
            r#"{"esp8266id":"123","software_version":"NRZ","sensordatavalues":[{"value_type":"SDS_P1","value":"15.2"},{"value_type":"SDS_P2","value":"7.9"},
                {"value_type":"BME280_temperature","value":"21.5"},{"value_type":"DHT_temperature","value":22},{"value_type":"signal","value":"-61"},
                {"value_type":"GPS_lat","value":"38.11"},{"value_type":"GPS_lon","value":"13.36"}]}"#,
            "123:SDS sensor-community SDS\nP1=15.2 @13.36,38.11\nP2=7.9 @13.36,38.11\n123:BME280 sensor-community BME280\ntemperature=21.5 @13.36,38.11\n\
             123:DHT sensor-community DHT\ntemperature=22 @13.36,38.11\n123 sensor-community \nsignal=-61 @13.36,38.11",
        );
        check(&form(), "air/s", r#"{"sensordatavalues":[{"value_type":"P1","value":"1"}]}"#, "s sensor-community \nP1=1");
    }

    #[test]
    fn what_is_wrong_costs_itself_alone() {
        check(
            &form(),
            "air/s",
            r#"{"sensordatavalues":[{"value_type":"P1","value":"nan"},{"value_type":"P2","value":"2"},3,{"value":"1"},{"value_type":"x"}]}"#,
            "s sensor-community \nP2=2\nfault: invalid-value at /sensordatavalues/0: \"nan\" is no number\n\
             fault: shape at /sensordatavalues/2: an object is expected\nfault: shape at /sensordatavalues/3: a value has a value_type\n\
             fault: invalid-value at /sensordatavalues/4: null is no number",
        );
        check(
            &form(),
            "x",
            r#"[{"sensordatavalues":[],"timestamp":"soon"},{}]"#,
            "fault: name: neither the payload nor the topic names a station\nfault: shape at /1/sensordatavalues: an array of values is expected",
        );
    }

    #[test]
    fn examples_are_read() {
        let Some(folder) = material("sensor-community", "examples_are_read") else { return };
        let read = |name: &str| shown(&form(), "air/raspi-1", &std::fs::read(folder.join(name)).unwrap());
        assert_eq!(read("push-v1.json"), "raspi-1 sensor-community \nP1=15.2\nP2=7.9");
        assert_eq!(
            read("api-v1-excerpt.json"),
            "97344 sensor-community DHT22\ntemperature=27.72 @20.47,44.796\n5 sensor-community SDS011\nP1=12.5 @20.4,44.8\n\
             fault: invalid-value at /0/sensordatavalues/1: \"nan\" is no number"
        );
    }
}
