use super::*;
use crate::model::{DeviceId, DeviceKind, Timestamp};

/// Maps fields of one device, each `name=value unit`: what they become, one a line, then what is not mapped.
#[track_caller]
fn check(documents: Vec<Document>, fields: &[(&str, Value<'static>, Option<&'static str>)], expected: &str) {
    let mapper = Mapper::new(Dictionary::built_in(), documents);
    let reading = |(name, value, unit): &(&str, Value<'static>, Option<&'static str>)| Reading {
        name: Cow::Owned((*name).to_owned()),
        value: value.clone(),
        unit: unit.map(Cow::Borrowed),
        time: Timestamp::MIN,
        position: None,
    };
    // Worked out, then remembered.
    for _time in 0..2 {
        let readings = Readings {
            device: DeviceId::try_from("d").unwrap(),
            kind: DeviceKind::try_from("k").unwrap(),
            domain: None,
            vocabulary: Vocabulary::Sender { model: Some("Acme/T1".into()) },
            readings: fields.iter().map(reading).collect(),
        };
        let mut unmapped = Vec::new();
        let understood = mapper.map(&SourceName::try_from("s").unwrap(), Decoder::Ttn, readings, &mut unmapped);
        let shown = understood.readings.iter().map(|reading| {
            let value = match &reading.value {
                Value::Number(number) => number.to_string(),
                Value::Word(word) => format!("{word:?}"),
            };
            format!("{}={value} {}", reading.name, reading.unit.as_deref().unwrap_or_default())
        });
        let left = unmapped.iter().map(|unmapped| format!("{} ({}): {}", unmapped.field, unmapped.example, unmapped.why.as_str()));
        assert_eq!(shown.chain(left).collect::<Vec<_>>().join("\n"), expected);
    }
}

fn number(number: f64) -> Value<'static> {
    Value::Number(number)
}

#[test]
fn usual_names_and_units_are_understood_and_ambiguous_ones_not_guessed() {
    check(
        Vec::new(),
        &[
            ("data.TempC_SHT", number(21.5), None),
            ("air_humidity.value", number(50.0), Some("%RH")),
            ("PM2_5", number(3.9), Some("µg/m³")),
            ("co2_ppm", number(455.0), None),
            ("batV", number(3.6), None),
            ("barometric_pressure.value", number(96_412.0), Some("Pa")),
            ("pressure", number(1_004.7), None),
            ("no2", number(10.0), Some("ppb")),
            ("door", Value::Word("open".into()), None),
            ("firmware_version", number(3.0), None),
            ("strain_gauge", number(1.0), None),
        ],
        "temperature=21.5 Cel\nhumidity=50 %\npm2_5=3.9 ug/m3\nco2=455 [ppm]\nbattery_voltage=3.6 V\npressure=96412 Pa\n\
         no2=19.125420910033764 ug/m3\ndoor=\"open\" \npressure (1004.7): ambiguous-unit\nstrain_gauge (1): unknown",
    );
}

#[test]
fn one_field_speaks_for_a_property_and_further_ones_are_told() {
    check(
        Vec::new(),
        &[("temperature_1", number(1.0), None), ("temperature_2", number(2.0), None), ("air_temperature", number(3.0), None)],
        "temperature=3 Cel\ntemperature_2 (2): further-field\ntemperature (1 Cel): further-field",
    );
}

#[test]
fn a_city_s_own_rules_go_first() {
    let document = |text: &str| serde_json::from_str::<Document>(text).unwrap();
    let documents = || {
        vec![
            document(r#"{"id": "other", "applies": {"model": "other*"}, "fields": [{"path": "*", "property": "rain"}]}"#),
            document(
                r#"{"id": "acme", "applies": {"model": "acme/*", "decoder": "ttn"}, "fields": [
                {"path": "*.adc", "property": "water_level", "unit": "mm", "scale": 2, "offset": 1, "missing": [65535]},
                {"path": "temperature"}, {"path": "p", "property": "pressure", "unit": "mbar"}]}"#,
            ),
        ]
    };
    check(
        documents(),
        &[("x.adc", number(10.0), None), ("temperature", number(1.0), None), ("P", number(1_000.0), Some("Pa"))],
        "water_level=21 mm\npressure=1000 hPa",
    );
    check(documents(), &[("x.adc", number(65_535.0), None)], "");
}

#[test]
fn documents_are_held_against_the_catalogue_and_refused_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (catalogue, dictionary) = (crate::model::Catalogue::built_in(), Dictionary::built_in());
    let load = || Document::load(folder.path(), &catalogue, &dictionary);
    std::fs::write(folder.path().join("a.json"), r#"{"id": "a", "fields": [{"path": "t", "property": "temperature"}]}"#).unwrap();
    assert_eq!(load().unwrap().len(), 1);
    std::fs::write(
        folder.path().join("b.json"),
        r#"{"id": "b", "fields": [{"path": "t", "property": "temprature", "scale": 0, "unit": "° x"}]}"#,
    )
    .unwrap();
    std::fs::write(folder.path().join("c.json"), "{").unwrap();
    let problems = load().unwrap_err().to_string().replace(&format!("{}/", folder.path().display()), "");
    assert_eq!(
        problems,
        "b.json: /fields/0/property: \"temprature\" is not in the catalogue\nb.json: /fields/0: numbers are finite, and no scale is zero\n\
         b.json: /fields/0/unit: \"° x\" is neither a UCUM code nor a usual spelling\nc.json: EOF while parsing an object at line 1 column 1"
    );
}

#[test]
fn what_a_name_does_not_say_is_not_guessed() {
    check(
        Vec::new(),
        &[
            ("pressure", number(0.25), Some("bar")),
            ("soil.temperature", number(9.0), None),
            ("wifi.0.rssi", number(-92.0), None),
            ("PM1_0", number(3.7), None),
            ("pm10", number(3.9), Some("µg⋅m⁻³")),
            ("temperature", number(12.2), Some("CEL")),
        ],
        "pm10=3.9 ug/m3\ntemperature=12.2 Cel\npressure (0.25 bar): ambiguous-unit\nsoil.temperature (9): unknown\n\
         wifi.0.rssi (-92): unknown\nPM1_0 (3.7): unknown",
    );
    check(Vec::new(), &[("pressure", number(1_004.7), Some("mbar"))], "pressure=1004.7 hPa");
}
