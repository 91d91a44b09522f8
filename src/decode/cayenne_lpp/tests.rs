use std::collections::BTreeMap;

use super::*;
use crate::decode::Decoder;
use crate::decode::material::material;
use crate::decode::tests::check_bytes;

#[track_caller]
fn check(payload: &[u8], expected: &str) {
    let form = Form { decoder: Decoder::CayenneLpp, topic: "lpp/{kind}/{device}".parse().unwrap(), ..Form::default() };
    check_bytes(&form, "lpp/weather/a1", payload, expected);
}

#[test]
fn a_frame_is_read_with_the_position_in_it() {
    check(
        &[3, 103, 1, 16, 5, 103, 0xff, 0xd7, 1, 136, 6, 0x76, 0x5f, 0xf2, 0x96, 0x0a, 0, 3, 0xe8],
        "a1 weather \ntemperature_3=27.2 Cel @-87.9094,42.3519\ntemperature_5=-4.1 Cel @-87.9094,42.3519\n\
         gps_1.altitude=10 m @-87.9094,42.3519",
    );
    check(&[1, 136, 0, 0, 0, 0, 0, 0, 0, 0, 0], "a1 weather ");
}

#[test]
fn what_cannot_be_read_ends_the_frame_and_costs_nothing_before_it() {
    let before = "a1 weather \ntemperature_3=27.2 Cel\nfault:";
    check(&[3, 103, 1, 16, 1, 77, 1, 2], &format!("{before} malformed at byte 4: type 77 is not known: what follows cannot be read"));
    check(&[3, 103, 1, 16, 1, 103, 1], &format!("{before} malformed at byte 4: the frame ends inside a field of type temperature"));
    check(&[3, 103, 1, 16, 9], &format!("{before} malformed at byte 4: the frame ends inside a field"));
    check(
        &[1, 136, 0x7f, 0xff, 0xff, 0, 0, 1, 0, 0, 0, 3, 103, 1, 16],
        &format!(
            "{before} invalid-position at byte 0: lon 0.0001, lat 838.8607: \
             a longitude lies in [-180, 180] and a latitude in [-90, 90] degrees"
        ),
    );
    check(&[], "rejected: empty: the payload is empty");
    check(&[0; 153], "rejected: too-many-readings: more than 50 readings");
}

#[test]
fn every_type_of_the_vectors_has_the_value_expected() {
    let Some(path) = material("lorawan/cayenne-lpp/chirpstack-all-types.json", "vectors of CayenneLPP") else { return };
    let vectors: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let hex = vectors["frame_hex"].as_str().unwrap();
    let payload: Vec<u8> =
        hex.as_bytes().chunks(2).map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()).collect();
    // Where the vectors' author has another word.
    let ours = BTreeMap::from([
        ("digitalInput", "digital_in"),
        ("digitalOutput", "digital_out"),
        ("analogInput", "analog_in"),
        ("analogOutput", "analog_out"),
        ("genericSensor", "generic"),
        ("illuminanceSensor", "luminosity"),
        ("presenceSensor", "presence"),
        ("temperatureSensor", "temperature"),
        ("humiditySensor", "relative_humidity"),
        ("barometer", "barometric_pressure"),
        ("color", "colour"),
        ("gpsLocation", "gps"),
    ]);
    let mut expected = BTreeMap::new();
    for (name, channels) in vectors["expected"].as_object().unwrap() {
        for (channel, value) in channels.as_object().unwrap() {
            let name = format!("{}_{channel}", ours.get(name.as_str()).unwrap_or(&name.as_str()));
            match value.as_object() {
                None => drop(expected.insert(name, value.as_f64().unwrap())),
                Some(parts) => expected.extend(parts.iter().map(|(part, value)| (format!("{name}.{part}"), value.as_f64().unwrap()))),
            }
        }
    }
    let frame = parse(&payload);
    assert!(frame.faults.is_empty());
    let position = frame.position.unwrap();
    let mut found: BTreeMap<String, f64> = frame.values.into_iter().map(|(name, number, _unit)| (name, number)).collect();
    found.insert("gps_1.latitude".to_owned(), position.latitude());
    found.insert("gps_1.longitude".to_owned(), position.longitude());
    assert_eq!(found, expected);
}
