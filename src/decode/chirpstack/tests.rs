use prost::Message as _;

use super::protobuf::{DeviceInfo, Head, Kind, Located, Location, RxInfo, Status, Struct, Time, Up, Value as Field};
use super::*;
use crate::decode::material::material;
use crate::decode::tests::{check_bytes, shown};
use crate::decode::{Decoder, Memory};

fn form() -> Form {
    Form { decoder: Decoder::Chirpstack, ..Form::default() }
}

fn topic(event: &str) -> String {
    format!("application/a/device/0101/event/{event}")
}

#[track_caller]
fn check(event: &str, payload: &str, expected: &str) {
    check_bytes(&form(), &topic(event), payload.as_bytes(), expected);
}

const UP: &str = r#"{"time":"2022-07-18T09:34:15.775023242+00:00","deviceInfo":{"deviceProfileName":"p","devEui":"0A01",
    "tags":{"latitude":"38.1","longitude":"13.3"}},"devAddr":"00189440","fCnt":7,"fPort":1,"data":"A2cBEA==",
    "rxInfo":[{"rssi":-110,"snr":1,"location":{"latitude":1,"longitude":2}},{"rssi":-36,"snr":10.5}]}"#;

#[test]
fn an_uplink_gives_its_object_or_its_bytes() {
    let radio = "rssi=-36 dBm @38\nsnr=10.5 dB @38".replace("@38", "@13.3,38.1");
    check("up", UP, &format!("0a01 lorawan p\ntemperature_3=27.2 Cel @13.3,38.1\n{radio}"));
    let with_object = UP.replace(r#""fPort""#, r#""object":{"a":{"b":[1,true]},"c":null},"fPort""#);
    check("up", &with_object, &format!("0a01 lorawan p\na.b.0=1 @13.3,38.1\na.b.1=\"true\" @13.3,38.1\n{radio}"));
    check_bytes(&form(), "elsewhere", UP.as_bytes(), &format!("0a01 lorawan p\ntemperature_3=27.2 Cel @13.3,38.1\n{radio}"));
    check(
        "up",
        &UP.replace("A2cBEA==", "qg=="),
        &format!(
            "0a01 lorawan p\n{radio}\nfault: unsupported at /data: the uplink has no object, and its data is not CayenneLPP: \
             give the device profile a codec"
        ),
    );
    check("up", &UP.replace(r#""fPort":1"#, r#""fPort":0"#), &format!("0a01 lorawan p\n{radio}"));
}

#[test]
fn a_second_copy_is_the_same_observation() {
    let mut memory = Memory::default();
    let mut hear = |payload: &str| {
        let message = crate::decode::tests::message(&topic("up"), payload.as_bytes());
        let limits = Limits { payload_bytes_max: 65_536, readings_max: 50 };
        let decoded = crate::decode::decode(&form(), &message, &limits, &mut memory).unwrap();
        decoded.devices[0].readings.iter().map(|reading| format!("{} {}", reading.name, reading.time)).collect::<Vec<_>>()
    };
    let first = "2022-07-18T09:34:15.775023Z";
    assert_eq!(hear(UP), ["temperature_3", "rssi", "snr"].map(|name| format!("{name} {first}")));
    let worse = UP.replace("09:34:15", "09:34:17").replace("-36", "-90");
    assert_eq!(hear(&worse), [format!("temperature_3 {first}")]);
    let next = UP.replace("09:34:15", "09:34:17").replace(r#""fCnt":7"#, r#""fCnt":8"#);
    assert_eq!(hear(&next)[0], "temperature_3 2022-07-18T09:34:17.775023Z");
}

#[test]
fn other_events_tell_of_the_device_or_nothing() {
    let info = r#""deviceInfo":{"devEui":"0a01"}"#;
    check("join", &format!(r#"{{{info},"devAddr":"00"}}"#), "0a01 lorawan \nconnection=\"online\"");
    check("status", &format!(r#"{{{info},"margin":10,"batteryLevel":88.3}}"#), "0a01 lorawan \nmargin=10 dB\nbattery_level=88.3 %");
    check("status", &format!(r#"{{{info},"batteryLevel":0,"batteryLevelUnavailable":true}}"#), "0a01 lorawan ");
    check("status", &format!(r#"{{{info},"externalPowerSource":true,"batteryLevel":0}}"#), "0a01 lorawan \nexternal_power=\"true\"");
    check(
        "location",
        &format!(r#"{{{info},"location":{{"latitude":38.1,"longitude":13.3,"altitude":2}}}}"#),
        "0a01 lorawan \nconnection=\"online\" @13.3,38.1\naltitude=2 m @13.3,38.1",
    );
    check(
        "location",
        &format!(r#"{{{info},"location":{{"latitude":91,"longitude":13.3}}}}"#),
        "0a01 lorawan \nfault: invalid-position at /location: longitude and latitude on the globe are expected",
    );
    for silent in ["ack", "txack", "log"] {
        check(silent, "anything", "");
    }
    check_bytes(&form(), "elsewhere", format!(r#"{{{info},"acknowledged":true}}"#).as_bytes(), "");
}

#[test]
fn what_is_no_event_is_rejected() {
    check("up", "", "rejected: empty: the payload is empty");
    check("up", "{", "rejected: not-json at line 1 column 1: EOF while parsing an object");
    check(
        "up",
        r#"{"time":"noon"}"#,
        "rejected: invalid-time at /time: \"noon\": not an RFC 3339 date-time with offset between 1900 and 2200",
    );
    check("up", r#"{"time":7}"#, "rejected: invalid-time at /time: an RFC 3339 text is expected");
    check_bytes(&form(), "elsewhere", b"{}", "rejected: shape: no event of ChirpStack");
    check_bytes(&form(), "elsewhere", b"\x0a", "rejected: topic: \"elsewhere\" is not application/…/event/<event>, which protobuf needs");
    assert!(shown(&form(), &topic("up"), b"\xff\xff").starts_with("rejected: malformed: neither JSON nor protobuf"));
    let deep = [b"\x5a\x7f".as_slice(), &[0x0a; 500]].concat();
    assert!(shown(&form(), &topic("up"), &deep).starts_with("rejected: malformed"));
}

/// Messages one after the other are one message in protobuf.
fn event(body: &impl prost::Message) -> Vec<u8> {
    let head = Head {
        time: Some(Time { seconds: 1_658_136_855, nanos: 775_023_242 }),
        device_info: Some(DeviceInfo { device_profile_name: "p".into(), dev_eui: "0A01".into(), tags: [].into() }),
    };
    [head.encode_to_vec(), body.encode_to_vec()].concat()
}

#[test]
fn protobuf_says_the_same_as_json() {
    let number = |number| Field { kind: Some(Kind::Number(number)) };
    let inner = Struct { fields: [("b".into(), number(1.5))].into() };
    let up = Up {
        dev_addr: "00".into(),
        f_cnt: 7,
        f_port: 1,
        data: vec![1],
        object: Some(Struct {
            fields: [("a".into(), Field { kind: Some(Kind::Struct(inner)) }), ("on".into(), Field { kind: Some(Kind::Truth(true)) })]
                .into(),
        }),
        rx_info: vec![RxInfo { rssi: -99, snr: 1.0 }, RxInfo { rssi: -36, snr: -7.2 }],
    };
    check_bytes(&form(), &topic("up"), &event(&up), "0a01 lorawan p\na.b=1.5\non=\"true\"\nrssi=-36 dBm\nsnr=-7.2 dB");
    let bytes = Up { object: None, data: vec![3, 103, 1, 16], rx_info: vec![], ..up };
    check_bytes(&form(), &topic("up"), &event(&bytes), "0a01 lorawan p\ntemperature_3=27.2 Cel");
    let status = Status { margin: 10, battery_level: 88.3, ..Status::default() };
    check_bytes(&form(), &topic("status"), &event(&status), "0a01 lorawan p\nmargin=10 dB\nbattery_level=88.3 %");
    let located = Located { location: Some(Location { latitude: 38.1, longitude: 13.3, altitude: 2.0 }) };
    check_bytes(&form(), &topic("location"), &event(&located), "0a01 lorawan p\nconnection=\"online\" @13.3,38.1\naltitude=2 m @13.3,38.1");
    check_bytes(&form(), &topic("join"), &event(&Status::default()), "0a01 lorawan p\nconnection=\"online\"");
}

#[test]
fn the_documented_events_are_understood() {
    let Some(folder) = material("lorawan/chirpstack-v4-events", "events of ChirpStack") else { return };
    for (event, readings) in [("up", 2), ("join", 1), ("status", 2), ("location", 2), ("ack", 0), ("txack", 0), ("log", 0)] {
        let payload = std::fs::read(folder.join(format!("{event}.json"))).unwrap();
        for topic in [topic(event), "elsewhere".to_owned()] {
            let shown = shown(&form(), &topic, &payload);
            let found = shown.lines().skip(1).filter(|line| !line.starts_with("fault:")).count();
            assert_eq!(found, readings, "{event}: {shown}");
        }
    }
    let payload = std::fs::read(folder.join("integration.json")).unwrap();
    assert!(shown(&form(), "elsewhere", &payload).contains("\ninfo_fields.temp.value=25"));
}
