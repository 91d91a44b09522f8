use proptest::prelude::*;

use super::*;
use crate::decode::{Form, Memory};
use crate::model::{Service, SourceName};

const TOPIC: &str = "conca/v1/environment/air-station/air-1";
const LIMITS: Limits = Limits { payload_bytes_max: 4_096, readings_max: 10 };

fn message(topic: &str, payload: &[u8]) -> Message {
    Message {
        source: SourceName::try_from("any").unwrap(),
        topic: topic.into(),
        payload: payload.to_vec().into(),
        received: Timestamp::MIN,
        service: Service::AtMostOnce,
        retained: false,
    }
}

/// What a payload decodes to, as text: readings one a line, then faults.
fn shown(topic: &str, payload: &[u8]) -> String {
    let message = message(topic, payload);
    match crate::decode::decode(&Form::default(), &message, &LIMITS, &mut Memory::default()) {
        Err(fault) => format!("rejected: {fault}"),
        Ok(decoded) => {
            let readings = decoded.devices[0].readings.iter().map(|reading| {
                let unit = reading.unit.as_deref().map_or(String::new(), |unit| format!(" {unit}"));
                let place = reading.position.map_or(String::new(), |place| format!(" @{},{}", place.longitude(), place.latitude()));
                let value = match &reading.value {
                    Value::Number(number) => number.to_string(),
                    Value::Word(word) => format!("{word:?}"),
                };
                format!("{}={value}{unit} {}{place}", reading.name, reading.time)
            });
            readings.chain(decoded.faults.iter().map(|fault| format!("fault: {fault}"))).collect::<Vec<_>>().join("\n")
        }
    }
}

#[track_caller]
fn check(payload: &str, expected: &str) {
    assert_eq!(shown(TOPIC, payload.as_bytes()), expected, "{payload}");
}

#[test]
fn every_form_of_reading_is_understood() {
    check(
        r#"{"readings":{"pm10":31.2,"temperature":{"value":64.9,"unit":"[degF]"},"door":"open","lamp":true},"time":"2026-03-01T09:00:00+01:00","position":{"lon":13.36,"lat":38.11}}"#,
        "pm10=31.2 2026-03-01T08:00:00Z @13.36,38.11\ntemperature=64.9 [degF] 2026-03-01T08:00:00Z @13.36,38.11\n\
         door=\"open\" 2026-03-01T08:00:00Z @13.36,38.11\nlamp=\"true\" 2026-03-01T08:00:00Z @13.36,38.11",
    );
    check(
        r#"[{"time":1000,"readings":{"a":1}},{"time":-1,"readings":{"a":-0.5e1}}]"#,
        "a=1 1970-01-01T00:00:01Z\na=-5 1969-12-31T23:59:59.999Z",
    );
    check(r#"{"time":0,"seq":{"x":[1,2]},"readings":{"p\u006d10":1}}"#, "pm10=1 1970-01-01T00:00:00Z");
}

#[test]
fn what_is_wrong_with_one_reading_costs_that_reading() {
    check(
        r#"{"time":0,"readings":{"a":1,"b":null,"c":[1],"d":{"unit":"m"},"e":{"value":1,"unit":true},"f":{"value":[]},"a":2,"x/y~":null}}"#,
        "a=1 1970-01-01T00:00:00Z\n\
         fault: invalid-value at /readings/b: null is not a value: leave the reading out\n\
         fault: shape at /readings/c: an array where a number, a word or {\"value\", \"unit\"} is expected\n\
         fault: shape at /readings/d: an object without \"value\"\n\
         fault: shape at /readings/e/unit: a unit is a text\n\
         fault: invalid-value at /readings/f/value: a value is a number or a word\n\
         fault: shape at /readings/a: the key appears twice: only the first counts\n\
         fault: invalid-value at /readings/x~1y~0: null is not a value: leave the reading out",
    );
}

#[test]
fn what_is_wrong_with_an_object_costs_each_of_its_readings() {
    check(
        r#"[{"readings":{"a":1,"b":2}},{"time":1,"readings":{"c":3}},{"time":1,"position":{"lon":181,"lat":0},"readings":{"d":1}},7]"#,
        "c=3 1970-01-01T00:00:00.001Z\n\
         fault: missing-time at /0/time: an RFC 3339 text or whole epoch milliseconds are expected\n\
         fault: missing-time at /0/time: an RFC 3339 text or whole epoch milliseconds are expected\n\
         fault: invalid-position at /2/position: lon 181, lat 0: a longitude lies in [-180, 180] and a latitude in [-90, 90] degrees\n\
         fault: shape at /3: a number where an object is expected",
    );
    check(
        r#"{"time":"yesterday","readings":{"a":1}}"#,
        "fault: invalid-time at /time: \"yesterday\": not an RFC 3339 date-time with offset between 1900 and 2200",
    );
    check(
        r#"{"time":1.5,"readings":{"a":1}}"#,
        "fault: invalid-time at /time: a number with a fraction where an RFC 3339 text or whole epoch milliseconds are expected",
    );
    check(
        r#"{"time":99999999999999999999,"readings":{"a":1}}"#,
        "fault: invalid-time at /time: a number with a fraction where an RFC 3339 text or whole epoch milliseconds are expected",
    );
    check(r#"{"time":9999999999999,"readings":{"a":1}}"#, "fault: absurd-time at /time: 9999999999999 ms lies outside 1900 to 2200");
    check(r#"{"time":0,"readings":[1]}"#, "fault: shape at /readings: an array where an object is expected");
}

#[test]
fn what_makes_the_rest_unreadable_rejects_the_message() {
    check("", "rejected: empty: the payload is empty");
    check(r#"{"time":0,"readings":{}}"#, "rejected: empty: the message has no readings");
    check("{}", "fault: missing-time at /time: an RFC 3339 text or whole epoch milliseconds are expected");
    check("[]", "rejected: empty: the message has no readings");
    check("7", "rejected: shape: a number where an object or an array of objects is expected");
    check(r#"{"time":0,"readings":{"a":1}} x"#, "rejected: not-json at line 1 column 31: trailing characters");
    check(r#"{"time":0,"readings":{"a":NaN}}"#, "rejected: not-json at line 1 column 27: expected value");
    check(r#"{"time":0,"readings":{"a":1e999}}"#, "rejected: invalid-value at line 1 column 31: number out of range");
    check(&"[".repeat(200), "rejected: not-json at line 1 column 200: EOF while parsing a list");
    check(&format!("{{\"x\":{}", "[".repeat(300)), "rejected: not-json at line 1 column 305: EOF while parsing a list");
    let many: Vec<String> = (0..11).map(|index| format!("\"p{index}\":1")).collect();
    check(&format!("{{\"time\":0,\"readings\":{{{}}}}}", many.join(",")), "rejected: too-many-readings: more than 10 readings");
    check(&format!("[{}]", vec!["{}"; 20].join(",")), "rejected: too-many-readings: more than 10 readings");
    check(&format!("\"{}\"", "x".repeat(5_000)), "rejected: too-large: 5002 bytes, at most 4096 are allowed");
    assert_eq!(shown(TOPIC, b"{\"time\":0\xff}"), "rejected: not-utf8 at byte 9: the payload is not UTF-8");
    assert_eq!(shown(TOPIC, b"\xef\xbb\xbf{}"), "rejected: not-json at line 1 column 1: expected value");
}

#[test]
fn topics_of_another_form_are_rejected() {
    for (topic, expected) in [
        (
            "conca/v1/environment/air-station",
            "rejected: topic: \"conca/v1/environment/air-station\" is not conca/v1/<domain>/<kind>/<device>",
        ),
        ("conca/v1/weather/x/y", "rejected: topic: \"weather\" is not mobility, environment, energy or security"),
        ("conca/v1/energy/meter/a b", "rejected: name: device \"a b\": a name has 1 to 128 letters, digits or any of - _ . :"),
        ("conca/v1/energy//m1", "rejected: name: kind \"\": a name has 1 to 128 letters, digits or any of - _ . :"),
    ] {
        assert_eq!(shown(topic, br#"{"time":0,"readings":{"a":1}}"#), expected);
    }
}

proptest! {
    #[test]
    fn any_bytes_on_any_topic_are_survived(topic in ".{0,60}", payload in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _outcome = decode(&message(&topic, &payload), &LIMITS);
    }

    #[test]
    fn almost_json_is_survived(payload in r#"[\[\]{}":,0-9a-z\\ .eE+-]{0,200}"#) {
        let _outcome = decode(&message(TOPIC, payload.as_bytes()), &LIMITS);
    }

    #[test]
    fn decoding_what_was_encoded_gives_it_back(millis in -2_208_988_800_000_i64..7_258_118_400_000, values in proptest::collection::btree_map("[a-z0-9_\"\\\\é]{1,12}", -1e15..1e15_f64, 1..10)) {
        let payload = serde_json::json!({ "time": millis, "readings": values }).to_string();
        let message = message(TOPIC, payload.as_bytes());
        let decoded = decode(&message, &LIMITS).unwrap();
        prop_assert!(decoded.faults.is_empty());
        let read: std::collections::BTreeMap<String, f64> = decoded.devices[0].readings.iter().map(|reading| {
            let Value::Number(number) = reading.value else { panic!("a number was sent") };
            assert_eq!(reading.time.micros(), millis * 1_000);
            (reading.name.to_string(), number)
        }).collect();
        prop_assert_eq!(read, values);
    }
}
