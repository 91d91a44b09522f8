use std::borrow::Cow;

use proptest::prelude::*;

use super::*;
use crate::model::{DeviceId, DeviceKind, Domain, RegistrationDocument, Vocabulary};

const BOUNDS: TimeBounds = TimeBounds {
    past_max: Duration::from_hours(24 * 365),
    past_trusted_max: None,
    future_max: Duration::from_hours(24),
    skew_max: Duration::from_mins(5),
};

fn received() -> Timestamp {
    "2026-03-01T08:00:00Z".parse().unwrap()
}

fn normaliser() -> Normaliser {
    Normaliser::new(Arc::new(Catalogue::built_in()), Arc::new(Districts::built_in()))
}

fn reading(property: &str, value: Value<'static>) -> Reading<'static> {
    Reading { name: Cow::Owned(property.to_owned()), value, unit: None, time: received(), position: None }
}

fn normalise(reading: Reading<'static>, registered: Option<&Registration>) -> (Vec<Observation>, Vec<Fault>) {
    let mut registry = Registry::default();
    registry.set(&DeviceId::try_from("a").unwrap(), registered.cloned().map(Arc::new));
    let readings = Readings {
        device: DeviceId::try_from("a").unwrap(),
        kind: DeviceKind::try_from("k").unwrap(),
        domain: Some(Domain::Environment),
        vocabulary: Vocabulary::Catalogue,
        readings: vec![reading],
    };
    let Normalised { devices, faults, .. } = normaliser().normalise([readings], received(), &BOUNDS, &registry);
    (devices.into_iter().flat_map(|device| device.observations).collect(), faults)
}

fn registered(installations: &str) -> Registration {
    let text = format!(r#"{{"id": "a", "kind": "k", "domain": "environment", "installations": {installations}}}"#);
    serde_json::from_str::<RegistrationDocument>(&text).unwrap().try_into().unwrap()
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
    let placed = |position, registered| normalise(Reading { position, ..reading("pm10", Value::Number(1.0)) }, registered).0.remove(0);
    let registered = registered(r#"[{"position": {"lon": 13.3615, "lat": 38.1157}}]"#);
    let registered = Some(&registered);
    assert_eq!(placed(centre, None).district, districts.by_id("pa-c1"));
    assert_eq!(placed(None, registered).district, districts.by_id("pa-c1"));
    let rome = Position::new(12.49, 41.89).ok();
    assert_eq!((placed(rome, registered).position, placed(rome, registered).district), (rome, None));
    assert_eq!((placed(None, None).position, placed(None, None).flags), (None, Flags::empty()));
}

#[test]
fn places_that_cannot_be_are_flagged_and_kept() {
    for (longitude, latitude, flags) in [
        (13.3615, 38.1157, Flags::empty()),
        (12.49, 41.89, Flags::OFF_CITY),
        (0.0, 0.0, Flags::NO_FIX),
        (38.1157, 13.3615, Flags::SWAPPED),
        // A latitude of 138 would be off the globe: nothing to exchange.
        (138.0, 13.0, Flags::OFF_CITY),
    ] {
        let position = Position::new(longitude, latitude).ok();
        let observation = normalise(Reading { position, ..reading("pm10", Value::Number(1.0)) }, None).0.remove(0);
        assert_eq!((observation.position, observation.flags), (position, flags));
        assert_eq!(observation.district.is_some(), flags.is_empty());
    }
}

#[test]
fn a_moved_device_is_where_it_was_at_the_reading_s_own_time() {
    let registered = registered(
        r#"[{"to": "2026-02-01T00:00:00Z", "position": {"lon": 13.3615, "lat": 38.1157}},
            {"from": "2026-02-01T00:00:00Z", "to": "2026-03-01T00:00:00Z", "model": "in the workshop"},
            {"from": "2026-03-01T00:00:00Z", "position": {"lon": 13.40, "lat": 38.09}}]"#,
    );
    let districts = Districts::built_in();
    for (time, district) in
        [("2026-01-31T23:59:59Z", Some("pa-c1")), ("2026-02-01T00:00:00Z", None), ("2026-03-01T00:00:00Z", Some("pa-c2"))]
    {
        let reading = Reading { time: time.parse().unwrap(), ..reading("pm10", Value::Number(1.0)) };
        let found = normalise(reading, Some(&registered)).0.remove(0).district;
        assert_eq!(found, district.and_then(|id| districts.by_id(id)), "{time}");
    }
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

#[test]
fn age_alone_is_suspect_only_where_a_source_says_so() {
    let day = Duration::from_hours(24);
    let flags = |age: Duration, past_trusted_max: Option<Duration>| {
        check_time(received().minus(age), received(), &TimeBounds { past_trusted_max, ..BOUNDS }).map(Flags::names)
    };
    assert_eq!(flags(day * 364, None), Ok(vec![]));
    assert_eq!(flags(day * 2, Some(day * 2)), Ok(vec![]));
    assert_eq!(flags(day * 2 + Duration::from_secs(1), Some(day * 2)), Ok(vec!["past"]));
    assert!(flags(day * 366, Some(day * 2)).is_err_and(|detail| detail.contains("back")));
}
