use super::*;
use crate::decode::Decoder;
use crate::decode::material::material;
use crate::decode::tests::{check_bytes, shown};

fn form(decoder: Decoder) -> Form {
    Form { decoder, ..Form::default() }
}

#[track_caller]
fn check(payload: &str, expected: &str) {
    check_bytes(&form(Decoder::SenmlJson), "things/d9", payload.as_bytes(), expected);
}

#[test]
fn base_fields_hold_for_the_records_after_them() {
    check(
        r#"[{"bn":"urn:dev:ow:10:","bt":1276020076.001,"bu":"A","bv":1,"bver":5,"n":"voltage","u":"V","v":120},
            {"n":"current","t":-5,"v":0.5,"ut":60,"other":[]},{"bn":"b2/","n":"a/b","vb":true},{"n":"c","vs":"open"}]"#,
        "urn:dev:ow:10 sensor \nvoltage=121 V\ncurrent=1.5 A\nb2 sensor \na.b=\"true\" A\nc=\"open\" A",
    );
    check(
        r#"[{"bn":"m:","bs":100,"u":"W","n":"p","s":5},{"n":"p","u":"W","v":3,"s":6,"t":10}]"#,
        "m sensor \np.sum=105 W.s\np.sum=106 W.s\np=3 W",
    );
}

#[test]
fn times_below_two_to_the_28_are_relative() {
    let received = Timestamp::from_millis(1_772_352_000_000).unwrap();
    for (seconds, expected) in [
        (0.0, "2026-03-01T08:00:00Z"),
        (-0.5, "2026-03-01T07:59:59.5Z"),
        (60.0, "2026-03-01T08:01:00Z"),
        (268_435_456.0, "1978-07-04T21:24:16Z"),
        (1_276_020_076.001, "2010-06-08T18:01:16.001Z"),
    ] {
        assert_eq!(resolve_time(seconds, received).unwrap().to_string(), expected);
    }
    for seconds in [1e300, -1e300, 1e12, -1e12, f64::INFINITY] {
        assert!(resolve_time(seconds, received).is_err(), "{seconds}");
    }
}

#[test]
fn devices_are_found_in_names() {
    for (record, expected) in [
        (r#"{"n":"urn:dev:ow:10","u":"Cel","v":1}"#, "urn:dev:ow:10 sensor \ntemperature=1 Cel"),
        (r#"{"n":"urn:dev:mac:10_door","v":1}"#, "urn:dev:mac:10 sensor \ndoor=1"),
        (r#"{"n":"2001:db8::3","u":"%RH","v":1}"#, "2001:db8::3 sensor \nhumidity=1 %RH"),
        (r#"{"n":"a:co2","v":1}"#, "a sensor \nco2=1"),
        (r#"{"n":"co2","v":1}"#, "d9 sensor \nco2=1"),
        (r#"{"bn":"a1_","n":"co2","v":1}"#, "a1 sensor \nco2=1"),
        (r#"{"bn":"a1","v":1}"#, "a1 sensor \nvalue=1"),
    ] {
        check(&format!("[{record}]"), expected);
    }
}

#[test]
fn records_of_a_place_place_the_others_from_then_on() {
    check(
        r#"[{"bn":"a","bt":1320067464,"v":1},{"u":"lon","v":24.3},{"u":"lat","v":60.1},{"t":60,"v":2},
            {"u":"lat","t":30,"v":61},{"u":"lon","t":30,"v":25}]"#,
        "a sensor \nvalue=1 @24.3,60.1\nvalue=2 @25,61",
    );
    check(r#"[{"bn":"a","bt":1320067464,"u":"lon","v":24.3}]"#, "a sensor \nlongitude=24.3 lon");
}

#[test]
fn what_is_wrong_with_a_record_costs_the_record() {
    check(
        r#"[{"bn":"a:","bt":1320067464,"n":"x","v":1},{"n":"é","v":1},{"n":"y"},{"n":"y","v":1,"vs":"b"},{"n":"y","v":"1"},
            {"n":"y","v":1,"z_":2},{"n":"y","vd":"aGk"},{"n":"y","v":1,"t":1e12},7]"#,
        "a sensor \nx=1\n\
         fault: name at /1/n: \"a:é\": a name begins with a letter or digit, and has 1 to 256 of these or any of - : . / _\n\
         fault: shape at /2: a record has a value or a sum\n\
         fault: shape at /3: a record has one value\n\
         fault: shape at /4/v: a number is expected\n\
         fault: unsupported at /5/z_: a field whose label ends with _ must be understood, and is not\n\
         fault: unsupported at /6/vd: data values are not taken\n\
         fault: absurd-time at /7/t: 1001320067464 s lies outside 1900 to 2200\n\
         fault: shape at /8: an object is expected",
    );
    check(r#"[{"v":1}]"#, "fault: name at /0/n: \"\": a name begins with a letter or digit, and has 1 to 256 of these or any of - : . / _");
}

#[test]
fn what_is_wrong_with_a_base_field_rejects_the_pack() {
    check(r#"[{"bn":1,"n":"x","v":1}]"#, "rejected: shape at /0/bn: a text is expected");
    check(r#"[{"bver":11,"n":"x","v":1}]"#, "rejected: unsupported at /0/bver: version 11: 10 is the latest that is understood");
    check(
        r#"[{"bver":5,"n":"x","v":1},{"bver":6,"n":"x","v":1}]"#,
        "rejected: shape at /1/bver: all records of a pack have the same version",
    );
    check(
        r#"[{"bx_":5,"n":"x","v":1}]"#,
        "rejected: unsupported at /0/bx_: a field whose label ends with _ must be understood, and is not",
    );
    check("{}", "rejected: shape: an array of records is expected");
    check(r#"[{"bn":"a"}]"#, "rejected: empty: the pack has no values");
    let many = vec![r#"{"n":"a","t":1772352000,"v":1}"#; 51].join(",");
    check(&format!("[{many}]"), "rejected: too-many-readings: more than 50 readings");
}

#[test]
fn cbor_has_numbers_for_labels_and_more_forms_of_numbers() {
    // [_ {_ -2: "a:", -3: 1772352000, 0: "x", 2: 4([-2, 273]), 6: -1}, {0: "y", 4: true, "z": h'00'}, {"n": "w", 2: 1.5 in 16 bits}]
    let pack = b"\x9f\xbf\x21\x62a:\x22\x1a\x69\xa3\xf2\x80\x00\x61x\x02\xc4\x82\x21\x19\x01\x11\x06\x20\xff\
                 \xa3\x00\x61y\x04\xf5\x61z\x41\x00\xa2\x61n\x61w\x02\xf9\x3e\x00\xff";
    let form = form(Decoder::SenmlCbor);
    check_bytes(&form, "things/d9", pack, "a sensor \nx=2.73\ny=\"true\"\nw=1.5");
    for (payload, expected) in [
        (b"".as_slice(), "rejected: empty: the payload is empty"),
        (b"\x9f\xbf", "rejected: malformed: the CBOR ends too early"),
        (b"\x80\x80", "rejected: malformed at byte 1: more than one item of CBOR"),
        (b"\xa0", "rejected: shape: an array of records is expected"),
        (b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff", "rejected: malformed: the CBOR ends too early"),
        (b"\x7b\x0f\xff\xff\xff\xff\xff\xff\xffabc", "rejected: malformed: the CBOR ends too early"),
        (&[0x81; 100], "rejected: malformed: nested deeper than 16 levels"),
        (b"\x81\xa2\x00\x61a\x02\xf9\x7e\x00", "fault: invalid-value at /0/v: not a finite number"),
    ] {
        check_bytes(&form, "things/d9", payload, expected);
    }
}

#[derive(Debug, PartialEq)]
struct Expected {
    name: String,
    unit: Option<String>,
    micros: i64,
    value: String,
}

#[expect(clippy::cast_possible_truncation, reason = "times of this century")]
fn micros(seconds: &Json) -> i64 {
    (seconds.as_f64().unwrap() * 1e6).round() as i64
}

fn expected(record: &Json) -> Expected {
    Expected {
        name: record["n"].as_str().unwrap().to_owned(),
        unit: record["u"].as_str().map(ToOwned::to_owned),
        micros: micros(&record["t"]),
        value: match (&record["v"], &record["vs"], &record["vb"]) {
            (Json::Number(number), _, _) => number.as_f64().unwrap().to_string(),
            (_, Json::String(word), _) => word.clone(),
            (_, _, truth) => truth.as_bool().unwrap().to_string(),
        },
    }
}

fn found(record: Resolved) -> Expected {
    Expected {
        name: record.name,
        unit: record.unit,
        micros: record.time.micros(),
        value: match record.value.unwrap() {
            RecordValue::Number(number) => number.to_string(),
            RecordValue::Word(word) => word,
            RecordValue::Data => panic!("data values are faults"),
        },
    }
}

/// Every pack of the RFC resolves to what the RFC says; its time of "now" is the first that it resolved.
#[test]
fn the_packs_of_the_rfc_resolve_as_it_says() {
    let Some(folder) = material("senml/core-wg-senml-spec", "packs of RFC 8428") else { return };
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let Some(stem) = path.file_name().unwrap().to_str().unwrap().strip_suffix(".gen.resolved.json") else { continue };
        let records: Vec<Json> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let now = Timestamp::from_micros(micros(&records[0]["t"])).unwrap();
        let expected: Vec<Expected> = records.iter().map(expected).collect();
        for source in ["json", "gen.json", "gen.wrap.json", "gen.cbor"].map(|ending| format!("{stem}.{ending}")) {
            let Ok(payload) = std::fs::read(folder.join(&source)) else { continue };
            let pack: Vec<Option<Fields>> = if source.ends_with("cbor") {
                let pack: Cbor = ciborium::from_reader(payload.as_slice()).unwrap();
                let fields =
                    |record: Cbor| record.into_map().unwrap().into_iter().map(|(label, value)| (label_of(&label), value.into())).collect();
                pack.into_array().unwrap().into_iter().map(|record| Some(fields(record))).collect()
            } else {
                let pack: Vec<serde_json::Map<String, Json>> = serde_json::from_slice(&payload).unwrap();
                pack.into_iter().map(|record| Some(record.into_iter().map(|(label, value)| (label, value.into())).collect())).collect()
            };
            let (resolved, faults) = resolve(pack.into_iter(), now, 1_000).unwrap();
            assert_eq!(resolved.into_iter().map(found).collect::<Vec<_>>(), expected, "{source}");
            assert!(faults.iter().all(|fault| fault.at.ends_with("/vd")), "{source}");
            count += 1;
        }
    }
    assert!(count >= 30, "{count} packs");
}

proptest::proptest! {
    #[test]
    fn almost_packs_are_survived(payload in r#"\[(\{("(bn|n|bt|t|v|bv|s|u|vs|bver|x_)":("[a-z:/é]{0,9}"|-?[0-9]{1,20}|true|null),?){0,5}\},?){0,9}\]"#) {
        shown(&form(Decoder::SenmlJson), "things/d9", payload.as_bytes());
    }
}
