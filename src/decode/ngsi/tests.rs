use std::path::{Path, PathBuf};

use crate::decode::material::material;
use crate::decode::tests::{check, message};
use crate::decode::{Decoder, Form, Limits, Memory, decode};
use crate::mapping::{Dictionary, Mapper};
use crate::model::Value;

const FORM: fn() -> Form = || Form { decoder: Decoder::Ngsi, ..Form::default() };

#[test]
fn the_forms_of_an_entity_say_the_same() {
    let said = "st-1 Weather Weather\ntemperature=21.5 CEL @13.36,38.11";
    for text in [
        // NGSI-LD: normalized, concise.
        r#"{"id":"urn:ngsi-ld:Weather:st-1","type":"Weather","temperature":{"type":"Property","value":21.5,"unitCode":"CEL","observedAt":"2026-03-01T08:00:00Z"},
            "location":{"type":"GeoProperty","value":{"type":"Point","coordinates":[13.36,38.11]}},"refRoad":{"type":"Relationship","object":"urn:x"}}"#,
        r#"{"id":"urn:ngsi-ld:Weather:st-1","type":"Weather","temperature":{"value":21.5,"unitCode":"CEL"},"location":{"type":"Point","coordinates":[13.36,38.11]}}"#,
        // NGSI-v2, normalized.
        r#"{"id":"st-1","type":"Weather","temperature":{"type":"Number","value":21.5,"metadata":{"unitCode":{"type":"Text","value":"CEL"}}},
            "location":{"type":"geo:point","value":"38.11, 13.36"},"dateObserved":{"type":"DateTime","value":"2026-03-01T08:00:00"}}"#,
        // A feature, and expanded names.
        r#"{"id":"urn:ngsi-ld:Weather:st-1","type":"Feature","geometry":{"type":"Point","coordinates":[13.36,38.11]},
            "properties":{"type":"Weather","temperature":{"value":21.5,"unitCode":"CEL"}}}"#,
        r#"{"id":"urn:ngsi-ld:Weather:st-1","type":"https://example.org/Weather","https://example.org/temperature":{"type":"Property","value":"21.5","unitCode":"CEL"},
            "location":{"type":"Point","coordinates":[13.36,38.11]}}"#,
    ] {
        check(&FORM(), "any", text, said);
        check(&FORM(), "any", &format!("[{text}]"), said);
        check(&FORM(), "any", &format!(r#"{{"subscriptionId":"5","data":[{text}]}}"#), said);
        check(
            &FORM(),
            "any",
            &format!(r#"{{"metadata":{{}},"body":{{"type":"Notification","notifiedAt":"2026-03-01T08:00:00Z","data":[{text}]}}}}"#),
            said,
        );
    }
    check(
        &FORM(),
        "any",
        r#"{"id":"st-1","type":"Weather","temperature":21.5,"status":"ok","dateObserved":"2026-03-01"}"#,
        "st-1 Weather Weather\nstatus=\"ok\"\ntemperature=21.5",
    );
}

#[test]
fn times_have_their_order() {
    let time = |text: &str| {
        let message = message("t", text.as_bytes());
        let decoded = decode(&FORM(), &message, &crate::decode::tests::LIMITS, &mut Memory::default()).unwrap();
        decoded.devices[0].readings[0].time.to_string()
    };
    let entity = |rest: &str| format!(r#"{{"id":"a","type":"T",{rest}}}"#);
    assert_eq!(
        time(&entity(r#""x":{"value":1,"observedAt":"2026-03-01T09:00:00Z"},"dateObserved":"2026-03-01T08:00:00Z""#)),
        "2026-03-01T09:00:00Z"
    );
    assert_eq!(
        time(&entity(r#""x":{"type":"Number","value":1,"metadata":{"TimeInstant":{"value":"2026-03-01T09:30:00+01:00"}}}"#)),
        "2026-03-01T08:30:00Z"
    );
    assert_eq!(time(&entity(r#""x":1,"dateObserved":"2026-03-01T08:00:00Z/2026-03-01T09:00:00Z""#)), "2026-03-01T08:00:00Z");
    assert_eq!(
        time(&entity(r#""x":1,"dateObserved":{"type":"Property","value":{"@type":"DateTime"}},"dateObservedFrom":"2026-03-01T07:00:00""#)),
        "2026-03-01T07:00:00Z"
    );
    assert_eq!(
        time(r#"{"notifiedAt":"2026-03-01T06:00:00Z","type":"Notification","data":[{"id":"a","type":"T","x":1}]}"#),
        "2026-03-01T06:00:00Z"
    );
    check(
        &FORM(),
        "t",
        &entity(r#""x":1,"dateObserved":"soon""#),
        "fault: invalid-time at /dateObserved: \"\\\"soon\\\"\" is no time of ISO 8601",
    );
    check(
        &FORM(),
        "t",
        &entity(r#""y":{"value":2},"x":{"value":1,"observedAt":"soon"}"#),
        "a T T\ny=2\nfault: invalid-time at /x: \"\\\"soon\\\"\" is no time of ISO 8601",
    );
}

#[test]
fn devices_are_stable() {
    let named = |entity: &str, device: &str| check(&FORM(), "t", entity, &format!("{device} T T\nx=1"));
    named(r#"{"id":"urn:ngsi-ld:T:Madrid-28079004-2016-03-15T11:00:00","type":"T","x":1}"#, "Madrid-28079004");
    named(r#"{"id":"T-7:2016-03-15T11:00:00.000+01:00","type":"T","x":1}"#, "7");
    named(r#"{"id":"2016-03-15T11:00:00","type":"T","x":1}"#, "2016-03-15T11:00:00");
    named(r#"{"id":"urn:ngsi-ld:T:obs-1","type":"T","x":1,"refDevice":{"type":"Relationship","object":"urn:ngsi-ld:Device:d-9"}}"#, "d-9");
    named(r#"{"id":"urn:ngsi-ld:T:obs-1","type":"T","x":1,"refDevice":["Device-9"]}"#, "Device-9");
    named(r#"{"id":"urn:ngsi-ld:T:obs-1","type":"T","x":1,"refDevice":["a","b"]}"#, "obs-1");
}

#[test]
fn structures_and_instances_are_taken_apart() {
    check(
        &FORM(),
        "t",
        r#"{"id":"m","type":"AC","current":{"type":"StructuredValue","value":{"L1":1,"L2":2}},"power":{"L1":3}}"#,
        "m AC AC\ncurrent.L1=1\ncurrent.L2=2\npower.L1=3",
    );
    check(
        &FORM(),
        "t",
        r#"{"id":"m","type":"T","t":[{"type":"Property","value":1},{"type":"Property","value":2,"datasetId":"urn:ngsi-ld:Dataset:roof"}]}"#,
        "m T T\nt=1\nt.urn:ngsi-ld:Dataset:roof=2",
    );
    check(&FORM(), "t", r#"{"id":"m","type":"T","measurand":["CO, 500, GP, Carbon Monoxide","broken"]}"#, "m T T\nCO=500 GP");
}

#[test]
fn what_is_no_entity_is_refused_alone() {
    check(
        &FORM(),
        "t",
        r#"[{"id":"a","type":"T","x":1},{"id":"b"},3,{"type":"T"}]"#,
        "a T T\nx=1\nfault: shape at /1/type: an entity has a type\nfault: shape at /2: an entity is an object\nfault: shape at /3/id: an entity has an id",
    );
    check(
        &FORM(),
        "t",
        r#"{"id":"a","type":"WeatherForecast","temperature":3}"#,
        "fault: unsupported at /type: WeatherForecast is a forecast, and no observation",
    );
    check(&FORM(), "t", "[]", "");
}

fn examples(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            examples(&path, found);
        } else if path.parent().is_some_and(|parent| parent.ends_with("examples")) {
            found.push(path);
        }
    }
}

/// What examples are in the catalogue's words.
#[test]
fn examples_are_mapped_rightly() {
    let Some(folder) = material("fiware", "examples_are_mapped_rightly") else { return };
    let mapper = Mapper::new(Dictionary::built_in(), Vec::new());
    let understood = |path: &str| {
        let message = message("any", &std::fs::read(folder.join(format!("dataModel.{path}"))).unwrap());
        let limits = Limits { payload_bytes_max: 1 << 20, readings_max: 1_000 };
        let decoded = decode(&FORM(), &message, &limits, &mut Memory::default()).unwrap();
        let devices = decoded.devices.into_iter().flat_map(|device| mapper.map(&message.source, Decoder::Ngsi, device, &mut Vec::new()));
        let readings = devices.flat_map(|device| device.readings).map(|reading| {
            let value = match &reading.value {
                Value::Number(number) => number.to_string(),
                Value::Word(word) => word.to_string(),
            };
            format!("{}={value} {}", reading.name, reading.unit.as_deref().unwrap_or_default()).trim_end().to_owned()
        });
        readings.collect::<Vec<_>>().join(", ")
    };
    for (path, expected) in [
        (
            "Environment/AirQualityObserved/examples/example.json",
            "co2=69 [ppm], pm4=37 ug/m3, rain=0 mm, pressure=1.1 hPa, humidity=54 %, temperature=12.2 Cel, wind_direction=176 deg",
        ),
        (
            "Environment/AirQualityObserved/examples/example-normalized.json",
            "co=500 mg/m3, no=45 ug/m3, no2=69 ug/m3, pm4=37 ug/m3, rain=false, pressure=1.1 hPa, humidity=54 %, so2=11 ug/m3, temperature=12.2 Cel, wind_direction=176 deg",
        ),
        (
            "Environment/AirQualityObserved/examples/example-normalized.jsonld",
            "co=500 mg/m3, no=45 ug/m3, no2=69 ug/m3, pm4=37 ug/m3, rain=0 mm, pressure=1.1 hPa, humidity=54 %, so2=11 ug/m3, temperature=12.2 Cel, wind_direction=186 deg",
        ),
        ("Environment/NoiseLevelObserved/examples/example.json", "noise=67.8 dB, noise_maximum=94.5 dB"),
        (
            "Weather/WeatherObserved/examples/example.json",
            "pressure=938.9 hPa, illuminance=1000 lx, rain=0 mm, humidity=100 %, temperature=3.3 Cel, wind_direction=135 deg",
        ),
        (
            "Weather/WeatherObserved/examples/example-normalized.jsonld",
            "pressure=938.9 hPa, illuminance=1000 lx, rain=0 mm, humidity=100 %, temperature=3.3 Cel, wind_direction=135 deg",
        ),
        ("Parking/OffStreetParking/examples/example.json", "parking_free=132 1, parking_occupied=282 1"),
        (
            "Energy/ThreePhaseAcMeasurement/examples/example.json",
            "frequency=50.020672 Hz, energy_active=150781.96448 kW.h, power_active=31700.269531 W",
        ),
        (
            "Environment/IndoorEnvironmentObserved/examples/example.json",
            "pressure=1013.52 hPa, illuminance=1000 lx, humidity=54 %, temperature=12.2 Cel",
        ),
        ("Environment/WaterObserved/examples/example.json", "water_level=2.4 m"),
        ("Environment/PhreaticObserved/examples/example.json", ""),
    ] {
        assert_eq!(understood(path), expected, "{path}");
    }
}

/// Every example entity of the Smart Data Models gives readings, or a reason.
#[test]
fn examples_of_the_data_models_are_read() {
    let Some(folder) = material("fiware", "examples_of_the_data_models_are_read") else { return };
    let mut paths = Vec::new();
    examples(&folder, &mut paths);
    paths.sort();
    let (mut entities, mut readings, mut silent, mut refused) = (0, 0, Vec::new(), Vec::new());
    let limits = Limits { payload_bytes_max: 1 << 20, readings_max: 1_000 };
    for path in &paths {
        let name = path.strip_prefix(&folder).unwrap().display().to_string();
        let message = message("any", &std::fs::read(path).unwrap());
        match decode(&FORM(), &message, &limits, &mut Memory::default()) {
            Ok(decoded) => {
                entities += decoded.devices.len() + decoded.faults.len();
                readings += decoded.devices.iter().map(|device| device.readings.len()).sum::<usize>();
                silent.extend(decoded.devices.iter().filter(|device| device.readings.is_empty()).map(|_device| name.clone()));
                refused.extend(decoded.faults.iter().map(|fault| format!("{name}: {fault}")));
            }
            Err(fault) => refused.push(format!("{name}: {fault}")),
        }
    }
    // Some examples have times that are none.
    let has_reason = |refused: &String| {
        ["is a forecast", "2020-03-17TT08:45:00Z", "ACMeasurement/examples/example-normalized.jsonld: invalid-time at /dateObserved"]
            .iter()
            .any(|reason| refused.contains(reason))
    };
    let unexpected: Vec<&String> = refused.iter().filter(|refused| !has_reason(refused)).collect();
    assert_eq!((paths.len(), unexpected.len()), (142, 0), "{unexpected:#?}");
    assert!(entities >= paths.len() && readings > 1_000, "{entities} entities, {readings} readings");
    // The one model whose examples hold nothing but a name and a place.
    assert!(silent.iter().all(|name| name.contains("EnvironmentObserved")), "{silent:#?}");
}
