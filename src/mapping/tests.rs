use super::*;
use crate::model::{DeviceId, DeviceKind, Timestamp};

/// Maps fields of one device, each `name=value unit`: what they become, with the channel behind the name, then what is not mapped.
fn mapped(documents: Vec<Document>, fields: &[(&str, Value<'static>, Option<&'static str>)]) -> Vec<String> {
    let mapper = Mapper::new(Dictionary::built_in(), documents);
    let reading = |(name, value, unit): &(&str, Value<'static>, Option<&'static str>)| Reading {
        name: Cow::Owned((*name).to_owned()),
        value: value.clone(),
        unit: unit.map(Cow::Borrowed),
        time: Timestamp::MIN,
        position: None,
    };
    // Worked out, then remembered.
    let [worked_out, remembered] = [(); 2].map(|()| {
        let readings = Readings {
            device: DeviceId::try_from("d").unwrap(),
            kind: DeviceKind::try_from("k").unwrap(),
            domain: None,
            vocabulary: Vocabulary::Sender { model: Some("Acme/T1".into()) },
            readings: fields.iter().map(reading).collect(),
        };
        let mut unmapped = Vec::new();
        let understood = mapper.map(&SourceName::try_from("s").unwrap(), Decoder::Ttn, readings, &mut unmapped);
        let with_channel = understood.iter().flat_map(|device| {
            let channel = device.device.as_str().strip_prefix('d').unwrap();
            device.readings.iter().map(move |reading| (channel, reading))
        });
        let shown = with_channel.map(|(channel, reading)| {
            let value = match &reading.value {
                Value::Number(number) => number.to_string(),
                Value::Word(word) => format!("{word:?}"),
            };
            format!("{}{channel}={value} {}", reading.name, reading.unit.as_deref().unwrap_or_default())
        });
        let left = unmapped.iter().map(|unmapped| format!("{} ({}): {}", unmapped.field, unmapped.example, unmapped.why.as_str()));
        shown.chain(left).collect::<Vec<_>>()
    });
    assert_eq!(worked_out, remembered);
    remembered
}

#[track_caller]
fn check(documents: Vec<Document>, fields: &[(&str, Value<'static>, Option<&'static str>)], expected: &str) {
    assert_eq!(mapped(documents, fields).join("\n"), expected);
}

fn number(number: f64) -> Value<'static> {
    Value::Number(number)
}

/// A word where a number with a unit would be is no fault of its sender's; that of a state is one.
#[test]
fn words_are_states_only() {
    let document = r#"{"id":"a","fields":[{"path":"status","property":"charger_state"}]}"#;
    let word = |word: &'static str| Value::Word(Cow::Borrowed(word));
    check(
        vec![serde_json::from_str(document).unwrap()],
        &[("status", word("charging"), None), ("power", word("ON"), None)],
        "charger_state=\"charging\" \npower (ON): ambiguous-unit",
    );
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
         no2=19.125420910033764 ug/m3\ndoor=\"open\" \npressure (1004.7): further-field\nstrain_gauge (1): ambiguous-unit",
    );
}

#[test]
fn one_field_speaks_for_a_property_and_channels_for_their_own() {
    let numbered =
        |names: &[&'static str]| names.iter().zip(1..).map(|(name, value)| (*name, number(f64::from(value)), None)).collect::<Vec<_>>();
    let check = |names: &[&'static str], expected: &str| check(Vec::new(), &numbered(names), expected);
    check(
        &["temperature_1", "temperature_2", "air_temperature", "temp"],
        "temperature=3 Cel\ntemperature:1=1 Cel\ntemperature:2=2 Cel\ntemp (4): further-field",
    );
    // Some number what they have one of.
    check(&["temperature_1", "relative_humidity_0", "relative_humidity_2"], "temperature=1 Cel\nhumidity=2 %\nhumidity:2=3 %");
    check(&["temperature_0", "temperature_1"], "temperature:0=1 Cel\ntemperature:1=2 Cel");
    check(
        &["ch0_pulse_count.value", "ch1_pulse_count.value", "soil_temperature_at_depth_0", "battery_voltage"],
        "battery_voltage=4 V\npulses:0=1 1\nsoil_temperature:0=3 Cel\npulses:1=2 1",
    );
    check(&["temperature_17"], "temperature_17 (1): further-field");
}

#[test]
fn a_rule_names_a_channel() {
    let text = r#"{"id": "probes", "fields": [{"path": "probe_*_t", "property": "soil_temperature", "channel": "*"},
        {"path": "left", "property": "soil_temperature", "channel": "left"}, {"path": "own", "property": "soil_temperature"}]}"#;
    check(
        vec![serde_json::from_str(text).unwrap()],
        &[("probe_30cm_t", number(1.0), None), ("left", number(2.0), None), ("own", number(3.0), None), ("LEFT", number(4.0), None)],
        "soil_temperature=3 Cel\nsoil_temperature:30cm=1 Cel\nsoil_temperature:left=2 Cel\nLEFT (4): further-field",
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
fn conditions_devices_and_kinds_choose_among_rules() {
    let document = |text: &str| serde_json::from_str::<Document>(text).unwrap();
    let documents = || {
        vec![
            document(r#"{"id": "other device", "applies": {"device": "e*"}, "fields": [{"path": "temperature"}]}"#),
            document(r#"{"id": "other kind", "applies": {"kind": "lamp"}, "fields": [{"path": "temperature"}]}"#),
            document(
                r#"{"id": "ours", "applies": {"device": "D", "kind": "k*"}, "fields": [
                {"path": "temperature", "when": [{"field": "probe", "equals": "water"}, {"field": "depth", "above": 1}],
                 "property": "water_temperature"},
                {"path": "temperature", "when": [{"field": "probe", "equals": "soil"}], "property": "soil_temperature"},
                {"path": "probe"}, {"path": "depth", "property": "water_depth", "unit": "m"}]}"#,
            ),
        ]
    };
    let probe = |probe: &'static str| ("probe", Value::Word(probe.into()), None);
    let temperature = ("temperature", number(9.0), None);
    check(documents(), &[probe("Water"), temperature.clone(), ("depth", number(2.0), None)], "water_temperature=9 Cel\nwater_depth=2 m");
    check(documents(), &[temperature.clone(), probe("soil")], "soil_temperature=9 Cel");
    // The first rule's second condition fails, and no other fits: the dictionary's word.
    check(documents(), &[temperature, probe("water")], "temperature=9 Cel");
}

#[test]
fn lists_of_kinds_and_values_are_understood() {
    let text = r#"{"id": "lists", "fields": [
        {"path": "messages.*.measurementValue", "when": [{"field": ".measurementId", "equals": 4097}], "property": "temperature", "unit": "Cel"},
        {"path": "messages.*.measurementValue", "when": [{"field": ".measurementId", "equals": 4098}], "property": "humidity", "unit": "%"},
        {"path": "messages.*.measurementId"}]}"#;
    check(
        vec![serde_json::from_str(text).unwrap()],
        &[
            ("messages.0.measurementId", number(4_097.0), None),
            ("messages.0.measurementValue", number(21.5), None),
            ("messages.1.measurementId", number(4_098.0), None),
            ("messages.1.measurementValue", number(40.0), None),
            ("messages.2.measurementId", number(1.0), None),
            ("messages.2.measurementValue", number(7.0), None),
        ],
        "temperature=21.5 Cel\nhumidity=40 %\nmessages.*.measurementValue (7): unknown",
    );
}

#[test]
fn registers_of_meters_are_known_by_their_codes() {
    check(
        Vec::new(),
        &[
            ("registers.1-0:1_8_0*255", number(12.5), Some("kWh")),
            ("OBIS_IDs.1_0_1_7_0_255", number(300.0), Some("W")),
            ("1-0:32_7_0", number(231.0), Some("V")),
            // Tariffs beside their total would be summed up with it; of what tells no unit nothing is known.
            ("1-0:1_8_1*255", number(7.0), Some("kWh")),
            ("1-0:14_7_0", number(50.0), None),
            ("1-0:31_7_0", number(2.0), None),
        ],
        "energy_active=12.5 kW.h\npower_active=300 W\nfrequency=50 Hz\nvoltage:l1=231 V\n1-0:1_8_1*255 (7 kWh): unknown\n1-0:31_7_0 (2): ambiguous-unit",
    );
}

#[test]
fn words_are_translated() {
    let text = r#"{"id": "words", "fields": [
        {"path": "porta", "property": "door", "words": {"Aperta": "open", "chiusa": 0}},
        {"path": "contact", "property": "door", "words": {"0": 1, "1": 0}},
        {"path": "charge", "property": "battery_level", "unit": "%", "scale": 100, "words": {"low": 10, "OK": 90}},
        {"path": "level", "property": "water_level", "words": {"dry": 0}}]}"#;
    let check = |field: &'static str, value: Value<'static>, expected: &str| {
        check(vec![serde_json::from_str(text).unwrap()], &[(field, value, None)], expected);
    };
    check("porta", Value::Word(" APERTA ".into()), "door=\"open\" ");
    check("porta", Value::Word("chiusa".into()), "door=0 1");
    check("porta", Value::Word("open".into()), "door=\"open\" ");
    check("contact", number(0.0), "door=1 1");
    check("contact", number(2.0), "door=2 1");
    check("charge", Value::Word("ok".into()), "battery_level=90 %");
    check("charge", number(0.5), "battery_level=50 %");
    check("level", Value::Word("dry".into()), "water_level=0 ");
    check("level", number(0.3), "level (0.3): ambiguous-unit");
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
            // Beside the pressure of a pipe.
            ("temperature", number(12.2), Some("CEL")),
            ("air_temperature", number(12.3), None),
        ],
        "soil_temperature=9 Cel\npm1=3.7 ug/m3\npm10=3.9 ug/m3\ntemperature=12.3 Cel\npressure (0.25 bar): ambiguous-unit\n\
         wifi.*.rssi (-92): unknown\ntemperature (12.2 CEL): ambiguous-medium",
    );
    check(Vec::new(), &[("pressure", number(1_004.7), Some("mbar"))], "pressure=1004.7 hPa");
    let in_water = [("temperature", number(9.0), None), ("dissolved_oxygen", number(8.5), Some("mg/L")), ("humidity", number(50.0), None)];
    check(Vec::new(), &in_water[..2], "water_temperature=9 Cel\ndissolved_oxygen=8.5 mg/L");
    check(Vec::new(), &in_water, "dissolved_oxygen=8.5 mg/L\nhumidity=50 %\ntemperature (9): ambiguous-medium");
}

/// What became of the numbers that real devices send.
#[derive(Default)]
struct Understanding {
    understood: std::collections::BTreeSet<String>,
    left: std::collections::BTreeMap<String, usize>,
    known: usize,
    numbers: usize,
}

/// Whether messages tell their device's model.
#[derive(PartialEq)]
enum Models {
    Told,
    Untold,
}

fn understand(vectors: &str, models: &Models) -> Understanding {
    let mapper = Mapper::new(Dictionary::built_in(), Vec::new());
    let limits = crate::decode::Limits { payload_bytes_max: 1 << 20, readings_max: 1_000 };
    let form = crate::decode::Form { decoder: Decoder::Ttn, ..crate::decode::Form::default() };
    let mut found = Understanding::default();
    for line in vectors.lines() {
        let vector: serde_json::Value = serde_json::from_str(line).unwrap();
        let mut uplink = serde_json::json!({
            "end_device_ids": { "dev_eui": "70B3D5" },
            "uplink_message": { "f_port": 2, "received_at": "2026-03-01T08:00:00Z", "decoded_payload": vector["expected"] },
        });
        if *models == Models::Told {
            let (brand, model) = vector["device"].as_str().unwrap().strip_prefix("vendor/").unwrap().split_once('/').unwrap();
            uplink["uplink_message"]["version_ids"] = serde_json::json!({ "brand_id": brand, "model_id": model });
        }
        let message = crate::decode::tests::message("v3/a/devices/d/up", uplink.to_string().as_bytes());
        let decoded = crate::decode::decode(&form, &message, &limits, &mut crate::decode::Memory::default()).unwrap();
        for device in decoded.devices {
            let mut unmapped = Vec::new();
            mapper.map(&message.source, Decoder::Ttn, device.clone(), &mut unmapped);
            // Again, each field at a time of its own, to see what it became.
            let instants = (1..).map(Timestamp::from_micros_clamped);
            let timed = device.readings.iter().zip(instants).map(|(reading, time)| Reading { time, ..reading.clone() }).collect::<Vec<_>>();
            let device = Readings { readings: timed.clone(), ..device };
            let became = mapper.map(&message.source, Decoder::Ttn, device, &mut Vec::new());
            let became = || became.iter().flat_map(|device| &device.readings);
            for reading in timed.iter().filter(|reading| matches!(reading.value, Value::Number(_))) {
                let field = starred(&reading.name);
                if unmapped.iter().any(|unmapped| unmapped.field == field) {
                    found.numbers += 1;
                    *found.left.entry(field).or_default() += 1;
                } else if let Some(became) = became().find(|became| became.time == reading.time) {
                    found.numbers += 1;
                    found.known += 1;
                    found.understood.insert(format!("{field}: {} {}", became.name, became.unit.as_deref().unwrap_or_default()));
                }
            }
        }
    }
    found
}

/// What the numbers that real devices send become: each field's property and unit by hand, and how many have none.
#[test]
fn real_devices_are_understood() {
    let Some(path) = crate::decode::material::material("lorawan/ttn-2021.vectors.jsonl", "real_devices_are_understood") else { return };
    let vectors = std::fs::read_to_string(path).unwrap();
    let found = understand(&vectors, &Models::Untold);
    assert_eq!(found.understood.into_iter().collect::<Vec<_>>(), UNDERSTOOD);
    assert_eq!((found.known, found.numbers), (219, 255), "{:#?}", found.left);
    let told = understand(&vectors, &Models::Told);
    let by_model = told.understood.iter().map(String::as_str).filter(|understood| !UNDERSTOOD.contains(understood));
    assert_eq!(by_model.collect::<Vec<_>>(), UNDERSTOOD_BY_MODEL);
    assert_eq!((told.known, told.numbers), (230, 249), "{:#?}", told.left);
}

/// What devices send whose model says what it is.
const UNDERSTOOD_BY_MODEL: &[&str] = &[
    "battery: battery_level %",
    "batteryLevel: battery_voltage V",
    "pressure: line_pressure bar",
    "pressure: pressure hPa",
    "temperature_pt1000: water_temperature Cel",
];

/// By hand: each of these is what the field says, in the unit that its device sends.
const UNDERSTOOD: &[&str] = &[
    "activity_counter.value: activity 1",
    "air_humidity: humidity %",
    "air_temperature: temperature Cel",
    "ambient_temperature: temperature Cel",
    "atmospheric_pressure: pressure kPa",
    "barometric_pressure: pressure Pa",
    "batV: battery_voltage V",
    "batVoltage: battery_voltage V",
    "battery_voltage: battery_voltage V",
    "ch0_cumulative_pulse_count.value: pulse_total 1",
    "ch0_pulse_count.value: pulses 1",
    "ch1_cumulative_pulse_count.value: pulse_total 1",
    "ch1_pulse_count.value: pulses 1",
    "co2: co2 [ppm]",
    "co2_concentration: co2 [ppm]",
    "cumulative_precipitation: rain_total mm",
    "cumulative_pulse_count.value: pulse_total 1",
    "current: current mA",
    "dendrometer_a_position: displacement um",
    "dendrometer_b_position: displacement um",
    "dendrometer_position: displacement um",
    "dielectric_permittivity.value: permittivity 1",
    "distance: distance mm",
    "distance_10th_percentile: distance_p10 mm",
    "distance_25th_percentile: distance_p25 mm",
    "distance_75th_percentile: distance_p75 mm",
    "distance_90th_percentile: distance_p90 mm",
    "distance_average: distance mm",
    "distance_maximum: distance_maximum mm",
    "distance_median: distance_median mm",
    "distance_minimum: distance_minimum mm",
    "electrical_conductivity: conductivity mS.cm-1",
    "electrical_conductivity: conductivity uS.cm-1",
    "elongation: displacement um",
    "humidity: humidity %",
    "illuminance: illuminance lx",
    "illumination: illuminance lx",
    "leak: leak 1",
    "lightning_strike_count.value: lightning_strikes 1",
    "maximum_wind_speed: wind_gust m.s-1",
    "messages.*.battery: battery_level %",
    "messages.*.measurementValue: humidity %",
    "messages.*.measurementValue: temperature Cel",
    "oxygen_concentration: dissolved_oxygen mg.L-1",
    "oxygen_saturation: oxygen_saturation %",
    "photosynthetically_active_radiation: photosynthetic_radiation umol.m-2.s-1",
    "pm0_5_number_concentration.value: pn0_5 /cm3",
    "pm10_mass_concentration: pm10 ug/m3",
    "pm10_number_concentration.value: pn10 /cm3",
    "pm1_0_mass_concentration: pm1 ug/m3",
    "pm1_0_number_concentration.value: pn1 /cm3",
    "pm2_5_mass_concentration: pm2_5 ug/m3",
    "pm2_5_number_concentration.value: pn2_5 /cm3",
    "pm4_mass_concentration: pm4 ug/m3",
    "pm4_number_concentration.value: pn4 /cm3",
    "precipitation: rain mm",
    "pulseCounter1: pulse_total 1",
    "pulseCounter2: pulse_total 1",
    "pulse_count.value: pulses 1",
    "relative_humidity: humidity %",
    "soil_moisture_at_depth_0.value: soil_moisture %",
    "soil_moisture_at_depth_1.value: soil_moisture %",
    "soil_moisture_at_depth_2.value: soil_moisture %",
    "soil_moisture_at_depth_3.value: soil_moisture %",
    "soil_moisture_at_depth_4.value: soil_moisture %",
    "soil_moisture_at_depth_5.value: soil_moisture %",
    "soil_temperature: soil_temperature Cel",
    "soil_temperature_at_depth_0: soil_temperature Cel",
    "soil_temperature_at_depth_1: soil_temperature Cel",
    "soil_temperature_at_depth_2: soil_temperature Cel",
    "soil_temperature_at_depth_3: soil_temperature Cel",
    "soil_temperature_at_depth_4: soil_temperature Cel",
    "soil_temperature_at_depth_5: soil_temperature Cel",
    "solar_radiation: solar_radiation W.m-2",
    "strain: strain um.m-1",
    "strain_gauge: strain um.m-1",
    "surface_temperature: surface_temperature Cel",
    "temp: temperature Cel",
    "temperature: temperature Cel",
    "temperature: water_temperature Cel",
    "temperature_target: surface_temperature Cel",
    "total_solar_radiation: solar_radiation W.m-2",
    "total_voc: tvoc [ppb]",
    "tvoc: tvoc [ppb]",
    "vapor_pressure: vapour_pressure kPa",
    "voltage: voltage V",
    "volumetric_water_content: soil_moisture m3.m-3",
    "water_depth: water_depth mm",
    "water_potential: soil_water_potential kPa",
    "weight: weight g",
    "wind_direction: wind_direction deg",
    "wind_speed: wind_speed m.s-1",
];

fn starred(field: &str) -> String {
    field.split('.').map(|level| if level.bytes().all(|byte| byte.is_ascii_digit()) { "*" } else { level }).collect::<Vec<_>>().join(".")
}

#[test]
fn names_of_many_vendors_are_understood_and_what_they_leave_open_is_not() {
    for (names, expected) in [
        ("TempC_SHT|Hum_SHT|BatV|temp_SOIL", "temperature=1 Cel, humidity=1 %, battery_voltage=1 V, soil_temperature=1 Cel"),
        ("DOOR_OPEN_STATUS|WATER_LEAK_STATUS|tamper_status", "door=1 1, leak=1 1, tamper=1 1"),
        ("SI7021.Temperature|BME280.Humidity|rainfall_mm", "temperature=1 Cel, humidity=1 %, rain=1 mm"),
        (
            "tempf|winddir|windspeedmph|windgustmph",
            "temperature=1 [degF], wind_direction=1 deg, wind_speed=1 [mi_i]/h, wind_gust=1 [mi_i]/h",
        ),
        ("pm_1_0|pm_2_5|pm_10|pm4_0", "pm1=1 ug/m3, pm2_5=1 ug/m3, pm10=1 ug/m3, pm4=1 ug/m3"),
        ("pm25_ch1|soilmoisture1|humidity2", "pm2_5:1=1 ug/m3, humidity:2=1 %, soilmoisture1?"),
        ("temp_out|hum_out|LAeq|vehicle_count", "temperature=1 Cel, humidity=1 %, noise=1 dB, vehicle_count=1 1"),
        // A minimum, what it feels like, at two metres, within an hour, of a processor: none of them is the property.
        (
            "temp_min|feels_like|temperature_2m|rain_1h|cpu.temperature",
            "temp_min?, feels_like?, temperature_2m?, rain_1h?, cpu.temperature?",
        ),
        ("battery|pressure|no2|voc|power|wind_speed|uv", "battery?, pressure?, no2?, voc?, power?, wind_speed?, uv?"),
        ("P1|V1|t1|light|count|speed|temperature_a", "P1?, V1?, t1?, light?, count?, speed?, temperature_a?"),
    ] {
        let fields: Vec<_> = names.split('|').map(|name| (name, number(1.0), None)).collect();
        let shown = expected.split(", ").map(|shown| match shown.strip_suffix('?') {
            None => shown.to_owned(),
            Some(name) => name.to_owned(),
        });
        let found = mapped(Vec::new(), &fields).into_iter().map(|line| match line.split_once(" (") {
            None => line,
            Some((field, _why)) => field.to_owned(),
        });
        assert_eq!(found.collect::<Vec<_>>(), shown.collect::<Vec<_>>(), "{names}");
    }
}

proptest::proptest! {
    /// Whatever a document says and whatever is sent, nothing panics, and no reading is made of nothing.
    #[test]
    fn any_document_maps_any_message(
        path in "[a-c*.]{0,6}", field in "[a-c.]{0,6}", channel in proptest::option::of("[a-z*]{1,3}"), beside in "[.a-c*]{0,4}",
        equals in -2..2_i8, names in proptest::collection::vec("[a-c._0-9]{0,8}", 0..6), words in "[a-c]{0,3}",
    ) {
        let text = serde_json::json!({ "id": "x", "fields": [
            { "path": path, "property": "temperature", "channel": channel, "when": [{ "field": beside, "equals": equals }], "words": { words: 1 } },
            { "path": field },
        ] });
        let document: Document = serde_json::from_value(text).unwrap();
        let again: Document = serde_json::from_str(&serde_json::to_string(&document).unwrap()).unwrap();
        proptest::prop_assert_eq!(&again, &document);
        let fields: Vec<_> = names.iter().map(|name| (name.as_str(), number(f64::from(equals)), None)).collect();
        proptest::prop_assert!(mapped(vec![document], &fields).len() <= fields.len());
    }
}

mod families;
