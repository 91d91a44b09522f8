//! Uplinks of The Things Stack, version 3: topic `v3/<application>@<tenant>/devices/<device>/up`, or a webhook's body.
//!
//! What the device's payload formatter decoded becomes readings, of any depth; how well the best gateway heard it becomes the
//! device's `rssi` and `snr`, what the network server knows of its battery `battery_level`. The phenomenon time is that of the network server,
//! since devices of `LoRaWAN` have no clock. The device is its `DevEUI` in lower case, its model `<brand>/<model>`.
//!
//! A join says that the device is there (`connection`); receipts of downlinks and other events are understood and say
//! nothing. An uplink without a decoded payload is read as CayenneLPP, or refused: its bytes mean what only its maker knows.

use std::borrow::Cow;

use serde_json::Value as Json;

use super::fields::{Fields, number, position, receiver};
use super::uplinks::{Identity, Radio, Uplinks};
use super::{Form, Limits, cayenne_lpp, not_json, text, whole};
use crate::model::{Decoded, DeviceId, DeviceKind, Fault, Message, Readings, Reason, Timestamp, Value, Vocabulary};

/// Decodes one message.
pub(super) fn decode<'a>(form: &Form, message: &'a Message, limits: &Limits, uplinks: &mut Uplinks) -> Result<Decoded<'a>, Fault> {
    let event: Json = serde_json::from_str(text(message)?).map_err(|error| not_json(&error))?;
    let at = |path: &str| event.pointer(path);
    let names = form.topic.find(&message.topic);
    let eui = at("/end_device_ids/dev_eui").and_then(Json::as_str).map(str::to_ascii_lowercase);
    let device = eui.or_else(|| at("/end_device_ids/device_id").and_then(Json::as_str).map(str::to_owned));
    let Some(device) = device.filter(|device| !device.is_empty()) else {
        return Err(Fault { reason: Reason::Shape, at: "/end_device_ids".to_owned(), detail: "neither dev_eui nor device_id".to_owned() });
    };
    let time = |path: &str| at(path).and_then(Json::as_str).and_then(|text| text.parse::<Timestamp>().ok());
    let heard = time("/uplink_message/received_at").or_else(|| time("/received_at")).unwrap_or(message.received);
    let mut fields = Fields::new(heard, limits);
    if at("/join_accept").is_some() {
        fields.push("connection", Value::Word(Cow::Borrowed("online")), None)?;
    }
    if let Some(uplink) = at("/uplink_message") {
        let bytes = uplink.get("frm_payload").and_then(Json::as_str).filter(|bytes| !bytes.is_empty());
        let said = bytes.map(Cow::Borrowed).or_else(|| Some(Cow::Owned(uplink.get("decoded_payload")?.to_string())));
        let session = uplink.get("session_key_id").or_else(|| at("/end_device_ids/dev_addr")).and_then(Json::as_str);
        let identity = Identity {
            device: &device,
            session: session.unwrap_or_default(),
            counter: uplink.get("f_cnt").and_then(Json::as_u64),
            payload: said.as_deref().unwrap_or_default(),
        };
        let (time, radio) = uplinks.hear(identity, heard, Radio::best(uplink.get("rx_metadata")));
        fields.time = time;
        collect(uplink, radio, &mut fields)?;
    }
    let brand = at("/uplink_message/version_ids/brand_id").and_then(Json::as_str);
    let model = brand.zip(at("/uplink_message/version_ids/model_id").and_then(Json::as_str));
    let readings = Readings {
        device: DeviceId::from_foreign(&device),
        kind: DeviceKind::from_foreign(names.kind.unwrap_or("lorawan")),
        domain: names.domain,
        vocabulary: Vocabulary::Sender { model: model.map(|(brand, model)| Cow::Owned(format!("{brand}/{model}"))) },
        readings: fields.into_readings(),
    };
    Ok(Decoded { devices: vec![readings], ..Decoded::default() })
}

fn collect(uplink: &Json, radio: Radio, fields: &mut Fields) -> Result<(), Fault> {
    let at = |path: &str| uplink.pointer(path);
    // What the registry of the network server says; gateways say where they are, not where the device is.
    fields.position = ["user", "frm-payload"].iter().find_map(|source| {
        let location = at("/locations")?.get(source)?;
        position(location.get("longitude"), location.get("latitude"))
    });
    match at("/decoded_payload").filter(|decoded| decoded.as_object().is_some_and(|decoded| !decoded.is_empty())) {
        Some(decoded) => {
            fields.position = receiver(decoded).or(fields.position);
            fields.collect("", decoded)?;
        }
        // Without a port it is the network's own affair.
        None if at("/f_port").is_some_and(|port| port.as_u64() != Some(0)) => {
            if let Some(bytes) = at("/frm_payload").and_then(Json::as_str).filter(|bytes| !bytes.is_empty()) {
                let frame = cayenne_lpp::undecoded(bytes).ok_or_else(|| {
                    let detail = "the uplink has no decoded_payload, and its bytes are not CayenneLPP: give the device a payload formatter";
                    whole(Reason::Unsupported, detail.to_owned())
                })?;
                frame.collect(fields)?;
            }
        }
        None => {}
    }
    radio.push(fields)?;
    match at("/last_battery_percentage/value").and_then(number) {
        Some(battery) => fields.push("battery_level", Value::Number(battery), Some("%")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::decode::material::material;
    use crate::decode::tests::{LIMITS, check, message};
    use crate::decode::{Decoder, Form, Memory, decode};

    fn form() -> Form {
        Form { decoder: Decoder::Ttn, ..Form::default() }
    }

    #[test]
    fn an_uplink_gives_its_fields_and_how_it_was_heard() {
        check(
            &form(),
            "v3/app@ttn/devices/d/up",
            r#"{"end_device_ids":{"device_id":"d","dev_eui":"70B3D5"},"received_at":"2026-03-01T08:00:01Z",
                "uplink_message":{"f_port":2,"frm_payload":"AA==","received_at":"2026-03-01T08:00:00.123456789Z",
                "decoded_payload":{"temperature":{"value":21.5,"unit":"°C","displayName":"Air"},"door":true,"p":[1,null,"2"],"a.b":"-3"},
                "rx_metadata":[{"rssi":-110,"snr":1,"location":{"latitude":1,"longitude":2}},{"rssi":-90,"snr":7.5}],
                "locations":{"user":{"latitude":38.11,"longitude":13.36}},"last_battery_percentage":{"value":88.5},
                "version_ids":{"brand_id":"acme","model_id":"t1"}}}"#,
            "70b3d5 lorawan acme/t1\na_b=-3 @13.36,38.11\ndoor=\"true\" @13.36,38.11\np.0=1 @13.36,38.11\np.2=2 @13.36,38.11\n\
             temperature=21.5 °C @13.36,38.11\nrssi=-90 dBm @13.36,38.11\nsnr=7.5 dB @13.36,38.11\nbattery_level=88.5 % @13.36,38.11",
        );
    }

    #[test]
    fn items_of_a_list_are_called_as_they_say() {
        check(
            &form(),
            "t",
            r#"{"end_device_ids":{"device_id":"d"},"uplink_message":{"received_at":"2026-03-01T08:00:00Z","decoded_payload":{"sensors":[
                {"name":"air temperature","value":21.5,"units":"°C","quality":1},{"type":"humidity","val":"48"},{"value":3,"id":7},
                {"obis":"1-0:1.8.0*255","value":2,"unit":"kWh"},{"name":"door","value":null},{"name":"a","value":[1]}]}}}"#,
            "d lorawan \nsensors.air temperature=21.5 °C\nsensors.air temperature.quality=1\nsensors.humidity=48\nsensors.2.id=7\n\
             sensors.2.value=3\nsensors.1-0:1_8_0*255=2 kWh\nsensors.5.name=\"a\"\nsensors.5.value.0=1",
        );
    }

    #[test]
    fn other_events_are_understood_and_undecoded_bytes_refused() {
        let ids = r#""end_device_ids":{"device_id":"d"}"#;
        check(&form(), "t", &format!(r#"{{{ids},"join_accept":{{}}}}"#), "d lorawan \nconnection=\"online\"");
        check(&form(), "t", &format!(r#"{{{ids},"downlink_ack":{{"f_port":1}}}}"#), "d lorawan ");
        check(&form(), "t", &format!(r#"{{{ids},"uplink_message":{{"f_cnt":1}}}}"#), "d lorawan ");
        check(
            &form(),
            "t",
            &format!(r#"{{{ids},"uplink_message":{{"f_port":1,"frm_payload":"AA=="}}}}"#),
            "rejected: unsupported: the uplink has no decoded_payload, and its bytes are not CayenneLPP: give the device a payload formatter",
        );
        check(
            &form(),
            "t",
            &format!(r#"{{{ids},"uplink_message":{{"f_port":1,"frm_payload":"A2cBEA=="}}}}"#),
            "d lorawan \ntemperature_3=27.2 Cel",
        );
        check(&form(), "t", "{}", "rejected: shape at /end_device_ids: neither dev_eui nor device_id");
        check(&form(), "t", "[", "rejected: not-json at line 1 column 1: EOF while parsing a list");
    }

    #[test]
    fn a_second_copy_is_the_same_observation() {
        let mut memory = Memory::default();
        let mut times = |counter: u32, received: &str| {
            let payload = serde_json::json!({"end_device_ids": {"device_id": "d"}, "uplink_message": {"session_key_id": "s",
                "f_cnt": counter, "decoded_payload": {"a": 1}, "received_at": received}});
            let message = message("t", payload.to_string().as_bytes());
            let decoded = decode(&form(), &message, &LIMITS, &mut memory).unwrap();
            decoded.devices[0].readings[0].time.to_string()
        };
        assert_eq!(times(1, "2026-03-01T08:00:00Z"), "2026-03-01T08:00:00Z");
        assert_eq!(times(1, "2026-03-01T08:00:02Z"), "2026-03-01T08:00:00Z");
        assert_eq!(times(2, "2026-03-01T08:00:02Z"), "2026-03-01T08:00:02Z");
    }

    #[test]
    fn what_vendors_decoders_send_is_understood() {
        let Some(path) = material("lorawan/ttn-2021.vectors.jsonl", "fields of vendors' decoders") else { return };
        let lines = std::fs::read_to_string(path).unwrap();
        let (mut count, mut readings) = (0, 0);
        for line in lines.lines() {
            let vector: serde_json::Value = serde_json::from_str(line).unwrap();
            if !vector["expected"].is_object() {
                continue;
            }
            let payload =
                serde_json::json!({"end_device_ids": {"device_id": "d"}, "uplink_message": {"decoded_payload": vector["expected"]}});
            let message = message("t", payload.to_string().as_bytes());
            let decoded = decode(&form(), &message, &LIMITS, &mut Memory::default()).unwrap();
            assert!(decoded.faults.is_empty(), "{line}");
            count += 1;
            readings += decoded.devices[0].readings.len();
        }
        assert!(count > 80 && readings > 3 * count, "{readings} readings of {count} uplinks");
        let folder = material("lorawan/tts-v3", "messages of The Things Stack").unwrap();
        for (file, least) in
            [("uplink-docs", 4), ("uplink-field-rs261", 9), ("join-docs", 1), ("downlink-ack-docs", 0), ("downlink-failed-docs", 0)]
        {
            let payload = std::fs::read(folder.join(format!("{file}.json"))).unwrap();
            let message = message("t", &payload);
            let decoded = decode(&form(), &message, &LIMITS, &mut Memory::default()).unwrap();
            assert_eq!(decoded.devices[0].readings.len(), least, "{file}");
        }
    }
}
