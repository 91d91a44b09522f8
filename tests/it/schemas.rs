//! What `schemas/` says to other people is what the program does.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use conca::alert::Rules;
use conca::config::Config;
use conca::decode::{self, Form, Limits, Memory};
use conca::model::{Catalogue, Districts, Message, Service, SourceName, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

const TOPIC: &str = "conca/v1/environment/air-station/air-1";

fn schema_file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn validator(name: &str) -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(&schema_file(name)).unwrap();
    assert!(jsonschema::meta::is_valid(&schema), "{name} is no JSON Schema");
    jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
}

#[test]
fn generated_schemas_are_not_stale() {
    for (what, name) in [
        ("config", "config.json"),
        ("rules", "rules.json"),
        ("properties", "properties.schema.json"),
        ("mapping", "mapping.schema.json"),
        ("tariff", "tariff.schema.json"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_conca")).args(["schema", what]).output().unwrap();
        assert!(output.status.success());
        let generated = String::from_utf8(output.stdout).unwrap();
        let path = Path::new("schemas").join(name);
        let kept = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&path)).unwrap_or_default();
        assert!(kept == generated, "{0} is stale: cargo run -- schema {what} > {0}", path.display());
    }
}

#[test]
fn the_catalogue_follows_its_schema() {
    let catalogue: Value = serde_json::from_str(&schema_file("properties.json")).unwrap();
    let validator = validator("properties.schema.json");
    assert_eq!(validator.iter_errors(&catalogue).map(|error| error.to_string()).collect::<Vec<_>>(), [""; 0]);
    assert!(!validator.is_valid(&json!([{ "id": "x" }])));
}

#[test]
fn the_example_of_rules_is_valid_and_covers_every_domain() {
    let text = schema_file("rules.example.json");
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(validator("rules.json").iter_errors(&document).map(|error| error.to_string()).collect::<Vec<_>>(), [""; 0]);
    let catalogue = Catalogue::built_in();
    let rules = Rules::parse(&text, &catalogue, &Districts::built_in()).unwrap();
    assert!(rules.iter().count() > 10);
    for domain in ["mobility", "environment", "energy", "security"] {
        assert!(text.contains(&format!("\"{domain}\"")), "no rule of the domain {domain}");
    }
}

#[test]
fn the_example_of_a_configuration_states_the_defaults() {
    let none = |_name: &str| None;
    let text = schema_file("conca.example.toml");
    let example = Config::parse(&text, &none).unwrap();
    let defaults = Config::parse("[[ingest.sources]]\nname = \"city\"\nurl = \"mqtt://127.0.0.1:1883\"", &none).unwrap();
    assert_eq!(format!("{example:#?}"), format!("{defaults:#?}"));
}

#[test]
fn the_example_of_a_configuration_documents_every_key() {
    let text = schema_file("conca.example.toml");
    let schema = Config::schema();
    // Commented keys count: they have no default to state.
    let lines: Vec<&str> = text.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).collect();
    let mut documented: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut section = String::new();
    for (index, line) in lines.iter().enumerate() {
        if let Some(header) = line.strip_prefix('[') {
            header.trim_matches(['[', ']']).clone_into(&mut section);
        } else if let Some((key, _value)) = line.split_once(" = ").filter(|(key, _value)| !key.contains(' ')) {
            assert!(index > 0 && text.lines().nth(index - 1).unwrap().starts_with("# "), "{section}.{key} is not explained");
            documented.entry(section.clone()).or_default().push(key.to_owned());
        }
    }
    let mut expected = BTreeMap::new();
    keys_of(&schema, &schema, "", &mut expected);
    for keys in documented.values_mut().chain(expected.values_mut()) {
        keys.sort_unstable();
    }
    assert_eq!(documented, expected);
}

/// The keys of every section of a configuration's schema, by the section's name.
fn keys_of(schema: &Value, at: &Value, section: &str, found: &mut BTreeMap<String, Vec<String>>) {
    let resolved = at["$ref"].as_str().or_else(|| at["allOf"][0]["$ref"].as_str()).map_or(at, |path| schema.pointer(&path[1..]).unwrap());
    let Some(properties) = resolved["properties"].as_object() else { return };
    for (key, property) in properties {
        let name = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
        let inner = [&property["$ref"], &property["items"]["$ref"], &property["anyOf"][0]["$ref"]].into_iter().find_map(Value::as_str);
        let inner = inner.map(|path| schema.pointer(&path[1..]).unwrap()).filter(|inner| inner["properties"].is_object());
        match inner {
            Some(inner) => keys_of(schema, inner, &name, found),
            None => found.entry(section.to_owned()).or_default().push(key.clone()),
        }
    }
}

/// Whether the decoder takes all of a message.
fn is_taken(message: &Value) -> bool {
    let limits = Limits { payload_bytes_max: 1_000_000, readings_max: 1_000 };
    let message = Message {
        source: SourceName::try_from("any").unwrap(),
        topic: TOPIC.into(),
        payload: message.to_string().into(),
        received: Timestamp::MIN,
        service: Service::AtMostOnce,
        retained: false,
    };
    decode::decode(&Form::default(), &message, &limits, &mut Memory::default()).is_ok_and(|decoded| decoded.faults.is_empty())
}

#[test]
fn payload_schema_and_decoder_agree_on_examples() {
    let validator = validator("payload-v1.json");
    let schema: Value = serde_json::from_str(&schema_file("payload-v1.json")).unwrap();
    let of = |time: Value| json!({ "time": time, "readings": { "pm10": 1 } });
    let reading = |reading: Value| json!({ "time": 0, "readings": { "pm10": reading } });
    let at = |position: Value| json!({ "time": 0, "position": position, "readings": { "pm10": 1 } });
    let mut good = schema["examples"].as_array().unwrap().clone();
    good.extend([
        of(json!("2026-03-01T09:00:00+01:00")),
        of(json!("2026-03-01t09:00:00.123456789z")),
        of(json!("2026-03-01 09:00:00-00:00")),
        of(json!("2016-12-31T23:59:60Z")),
        of(json!(-2_208_988_800_000_i64)),
        of(json!(7_258_118_400_000_i64)),
        reading(json!(-1e300)),
        reading(json!("")),
        reading(json!(true)),
        reading(json!({ "value": "open", "unit": "1", "more": [] })),
        at(json!(null)),
        at(json!({ "lon": -180, "lat": 90, "alt": -1.5, "fix": "3d" })),
        json!([{ "time": 0 }, { "time": 0, "readings": {} }, { "time": 0, "readings": { "a": 1 }, "seq": [1] }]),
        json!({ "time": 0, "readings": { "": 1 } }),
    ]);
    let bad = [
        json!(null),
        json!(7),
        json!("text"),
        json!([]),
        json!({}),
        json!({ "time": 0 }),
        json!({ "time": 0, "readings": {} }),
        json!({ "readings": { "a": 1 } }),
        json!([{ "time": 0, "readings": { "a": 1 } }, 7]),
        json!([{ "time": 0, "readings": { "a": 1 } }, {}]),
        json!([{ "time": 0, "readings": { "a": 1 } }, { "time": 0, "readings": [] }]),
        json!([[{ "time": 0, "readings": { "a": 1 } }]]),
        json!([{ "time": 0 }]),
        of(json!(null)),
        of(json!(1.5)),
        of(json!(true)),
        of(json!([])),
        of(json!({})),
        of(json!(-2_208_988_800_001_i64)),
        of(json!(7_258_118_400_001_i64)),
        of(json!(u64::MAX)),
        of(json!("")),
        of(json!("yesterday")),
        of(json!("2026-03-01")),
        of(json!("2026-03-01T09:00:00")),
        of(json!("2026-03-01T09:00Z")),
        of(json!("2026-03-01T09:00:00+01")),
        of(json!("2026-03-01T09:00:00+0100")),
        of(json!("2026-03-01T09:00:00+01:00:30")),
        of(json!("2026-03-01T09:00:00+24:00")),
        of(json!("2026-03-01T09:00:00,5Z")),
        of(json!("2026-03-01T09:00:00.Z")),
        of(json!("2026-03-01T09:00:00Z[Europe/Rome]")),
        of(json!("2026-13-01T09:00:00Z")),
        of(json!("2026-03-01T24:00:00Z")),
        of(json!("20260301T090000Z")),
        of(json!("1899-12-31T23:59:59Z")),
        of(json!(" 2026-03-01T09:00:00Z")),
        reading(json!(null)),
        reading(json!([1])),
        reading(json!({})),
        reading(json!({ "unit": "m" })),
        reading(json!({ "value": null })),
        reading(json!({ "value": { "value": 1 } })),
        reading(json!({ "value": 1, "unit": null })),
        reading(json!({ "value": 1, "unit": 2 })),
        json!({ "time": 0, "readings": null }),
        json!({ "time": 0, "readings": 1 }),
        at(json!({})),
        at(json!({ "lon": 1 })),
        at(json!({ "lon": 1, "lat": 1, "alt": "high" })),
        at(json!({ "lon": 1, "lat": 1, "alt": null })),
        at(json!({ "lon": 1, "lat": 1, "alt": 20_001 })),
        at(json!({ "lon": "1", "lat": 1 })),
        at(json!({ "lon": 180.1, "lat": 1 })),
        at(json!({ "lon": 1, "lat": -91 })),
        at(json!([13.36, 38.11])),
        at(json!("Palermo")),
    ];
    for (messages, expected) in [(good.as_slice(), true), (bad.as_slice(), false)] {
        for message in messages {
            assert_eq!((validator.is_valid(message), is_taken(message)), (expected, expected), "schema and decoder on {message}");
        }
    }
}

/// Values that are near the payload's shape: about as often right as wrong.
fn messages() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|value| json!(value)),
        (-200_i64..200).prop_map(|value| json!(value)),
        (-200.5..200.5_f64).prop_map(|value| json!(value)),
        "[a-z0-9]{0,4}".prop_map(|value| json!(value)),
        Just(json!([])),
        Just(json!({})),
    ];
    let time = prop_oneof![
        6 => (-2_300_000_000_000_i64..7_300_000_000_000).prop_map(|value| json!(value)),
        4 => "20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])[Tt ](0[0-9]|1[0-9]|2[0-4]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{0,9})?(Z|z|[+-](0[0-9]|1[0-2]):?[0-5][0-9])?".prop_map(|value| json!(value)),
        1 => scalar.clone(),
    ];
    let position = prop_oneof![
        4 => (-190.0..190.0_f64, -95.0..95.0_f64).prop_map(|(longitude, latitude)| json!({ "lon": longitude, "lat": latitude })),
        1 => proptest::collection::btree_map("lon|lat|alt|x", scalar.clone(), 0..3).prop_map(|value| json!(value)),
        1 => scalar.clone(),
    ];
    let measured = prop_oneof![
        4 => scalar.clone(),
        2 => proptest::collection::btree_map("value|unit|x", scalar.clone(), 0..3).prop_map(|value| json!(value)),
    ];
    let readings = prop_oneof![
        6 => proptest::collection::btree_map("[a-z_]{0,4}", measured, 0..4).prop_map(|value| json!(value)),
        1 => scalar.clone(),
    ];
    let field =
        |key: &'static str, value: BoxedStrategy<Value>| proptest::option::weighted(0.85, value).prop_map(move |value| (key, value));
    let object = (field("time", time.boxed()), field("position", position.boxed()), field("readings", readings.boxed())).prop_map(
        |(time, position, readings)| {
            let fields = [time, position, readings].into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
            Value::Object(fields.collect())
        },
    );
    prop_oneof![
        5 => object.clone(),
        4 => proptest::collection::vec(prop_oneof![9 => object, 1 => scalar.clone()], 0..4).prop_map(Value::Array),
        1 => scalar,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn payload_schema_and_decoder_agree_on_whatever_comes(message in messages()) {
        thread_local! {
            static VALIDATOR: jsonschema::Validator = validator("payload-v1.json");
        }
        prop_assert_eq!(VALIDATOR.with(|validator| validator.is_valid(&message)), is_taken(&message), "{}", message);
    }
}
