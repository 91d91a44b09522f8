use std::borrow::Cow;

use proptest::prelude::*;

use super::*;
use crate::model::{DeviceId, DeviceKind, Domain, Vocabulary};

const BOUNDS: TimeBounds =
    TimeBounds { past_max: Duration::from_hours(24 * 365), future_max: Duration::from_hours(24), skew_max: Duration::from_mins(5) };

fn received() -> Timestamp {
    "2026-03-01T08:00:00Z".parse().unwrap()
}

fn normaliser() -> Normaliser {
    Normaliser::new(Arc::new(Catalogue::built_in()), Arc::new(Districts::built_in()))
}

fn reading(property: &str, value: Value<'static>) -> Reading<'static> {
    Reading { name: Cow::Owned(property.to_owned()), value, unit: None, time: received(), position: None }
}

fn normalise(reading: Reading<'static>, installed: Option<Position>) -> (Vec<Observation>, Vec<Fault>) {
    let readings = Readings {
        device: DeviceId::try_from("a").unwrap(),
        kind: DeviceKind::try_from("k").unwrap(),
        domain: Some(Domain::Environment),
        vocabulary: Vocabulary::Catalogue,
        readings: vec![reading],
    };
    let Normalised { devices, faults } = normaliser().normalise([readings], received(), &BOUNDS, |_device| installed);
    (devices.into_iter().flat_map(|device| device.observations).collect(), faults)
}

#[track_caller]
fn check(reading: Reading<'static>, expected: &str) {
    let (observations, faults) = normalise(reading, None);
    let shown = observations.iter().map(|observation| {
        let original =
            observation.original.as_ref().map_or(String::new(), |original| format!(" from {} {}", original.value, original.unit));
        format!("{}{original} {:?}", observation.value, observation.flags.names())
    });
    assert_eq!(shown.chain(faults.iter().map(ToString::to_string)).collect::<Vec<_>>().join("\n"), expected);
}

#[test]
fn values_become_canonical() {
    check(reading("pm10", Value::Number(31.234)), "31.2 []");
    check(reading("pm10", Value::Number(-0.01)), "0 []");
    check(Reading { unit: Some("[degF]".into()), ..reading("temperature", Value::Number(64.9)) }, "18.28 from 64.9 [degF] []");
    check(Reading { unit: Some("Cel".into()), ..reading("temperature", Value::Number(18.0)) }, "18 []");
    check(reading("wind_direction", Value::Number(359.9)), "0 []");
    check(reading("door", Value::Word("open".into())), "1 []");
    check(reading("door", Value::Word("false".into())), "0 []");
    check(reading("charger_state", Value::Number(6.0)), "6 []");
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    check(reading("pm99", Value::Number(1.0)), "unknown-property at /readings/pm99: no property of that id is in the catalogue");
    check(reading("pm10", Value::Number(f64::NAN)), "invalid-value at /readings/pm10: not a finite number");
    check(reading("pm10", Value::Word("high".into())), "invalid-value at /readings/pm10: \"high\" is not a number");
    check(reading("door", Value::Word("ajar".into())), "invalid-value at /readings/door: \"ajar\" is not one of 0 (closed), 1 (open)");
    check(reading("door", Value::Number(0.5)), "invalid-value at /readings/door: 0.5 is not one of 0 (closed), 1 (open)");
    check(
        Reading { unit: Some("kW.h".into()), ..reading("temperature", Value::Number(1.0)) },
        "wrong-dimension at /readings/temperature: \"kW.h\" cannot become Cel",
    );
    check(
        Reading { unit: Some("grad".into()), ..reading("temperature", Value::Number(1.0)) },
        "unknown-unit at /readings/temperature: \"grad\" is not a UCUM unit",
    );
}

#[test]
fn doubtful_values_are_kept_and_flagged() {
    check(reading("temperature", Value::Number(-147.0)), "-147 [\"out-of-range\"]");
    let ahead = |seconds| Reading { time: received().plus(Duration::from_secs(seconds)), ..reading("pm10", Value::Number(1.0)) };
    check(ahead(300), "1 []");
    check(ahead(301), "1 [\"future\"]");
    check(ahead(86_401), "absurd-time at /readings/pm10: 2026-03-02T08:00:01Z lies more than 86400s ahead");
    let old = |days: u64| Reading { time: received().minus(Duration::from_secs(86_400 * days)), ..reading("pm10", Value::Number(1.0)) };
    check(old(364), "1 []");
    check(old(366), "absurd-time at /readings/pm10: 2025-02-28T08:00:00Z lies more than 31536000s back");
}

#[test]
fn places_come_from_the_message_or_the_registry() {
    let districts = Districts::built_in();
    let centre = Position::new(13.3615, 38.1157).ok();
    let placed = |position, installed| normalise(Reading { position, ..reading("pm10", Value::Number(1.0)) }, installed).0.remove(0);
    assert_eq!(placed(centre, None).district, districts.by_id("pa-c1"));
    assert_eq!(placed(None, centre).district, districts.by_id("pa-c1"));
    let rome = Position::new(12.49, 41.89).ok();
    assert_eq!((placed(rome, centre).district, placed(rome, centre).flags), (None, Flags::OFF_CITY));
    assert_eq!(placed(Position::new(0.0, 0.0).ok(), None).flags, Flags::OFF_CITY);
    assert_eq!((placed(None, None).position, placed(None, None).flags), (None, Flags::empty()));
}

proptest! {
    #[test]
    fn any_reading_is_survived(property in "(pm10|door|temperature|[a-z]{0,9})", number in any::<f64>(), word in proptest::option::of(".{0,9}"), unit in proptest::option::of(".{0,50}"), time in any::<i64>(), longitude in -181.0..181.0_f64, latitude in -91.0..91.0_f64) {
        let value = word.map_or(Value::Number(number), |word| Value::Word(word.into()));
        let position = Position::new(longitude, latitude).ok();
        let (observations, faults) = normalise(Reading { unit: unit.map(Into::into), time: Timestamp::from_micros_clamped(time), position, ..reading(&property, value) }, None);
        prop_assert_eq!(observations.len() + faults.len(), 1);
        prop_assert!(observations.iter().all(|observation| observation.value.is_finite()));
    }
}
