//! Pages, exports, newest values, and what the store's scan promises them.

use super::*;
use crate::store::Area;

fn question(direction: Direction, limit: usize) -> ObservationQuestion {
    ObservationQuestion {
        properties: Vec::new(),
        from: at("2026-06-01T00:00:00Z"),
        to: at("2026-07-01T00:00:00Z"),
        filter: Filter { quality: Quality::Any, ..Filter::default() },
        direction,
        limit,
        after: None,
    }
}

/// Place of a row in the order of pages.
fn place(city: &City, row: &ObservationRow) -> (i64, String, String) {
    (row.time.micros(), row.device.to_string(), city.answers.catalogue.get(row.property).id.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_tell_everything_once_while_more_comes_in() {
    for direction in [Direction::NewestFirst, Direction::OldestFirst] {
        let city = City::new("2026-06-30T00:00:00Z").await;
        let mut random = fastrand::Rng::with_seed(3);
        let start = at("2026-06-02T00:00:00Z");
        let batch = |random: &mut fastrand::Rng, count: usize| -> Vec<Told> {
            let tell = |random: &mut fastrand::Rng| Told {
                device: ["a", "b", "c"][random.usize(..3)],
                // Many fall on the same instant.
                time: start.plus(seconds(random.u64(..200) * 6_000)),
                ..told("a", ["pm10", "temperature"][random.usize(..2)], "2026-06-02T00:00:00Z", f64::from(random.u8(..40)))
            };
            (0..count).map(|_number| tell(random)).collect()
        };
        city.hear(&batch(&mut random, 200));
        city.flush().await;
        city.merge().await;
        city.hear(&batch(&mut random, 200));
        let there: Vec<(i64, String, String)> = {
            let known = city.known.lock();
            let id = |property| city.answers.catalogue.get(property).id.clone();
            let mut places: Vec<_> = known.keys().map(|(device, property, time)| (*time, device.clone(), id(*property))).collect();
            places.sort_unstable();
            places
        };
        let mut told: Vec<(i64, String, String)> = Vec::new();
        let mut question = question(direction, 17);
        loop {
            let page = city.answers.observations(question.clone()).await.unwrap();
            assert!(page.rows.len() == 17 || page.next.is_none());
            told.extend(page.rows.iter().map(|row| place(&city, row)));
            let Some(next) = page.next else { break };
            question.after = Some(next.to_string().parse().unwrap());
            city.hear(&batch(&mut random, 5));
            match random.u8(..8) {
                0 => city.flush().await,
                1 => city.merge().await,
                _ => {}
            }
        }
        if direction == Direction::NewestFirst {
            told.reverse();
        }
        assert!(told.windows(2).all(|pair| pair[0] < pair[1]), "in order and each once");
        let missing: Vec<_> = there.iter().filter(|place| told.binary_search(place).is_err()).collect();
        assert!(missing.is_empty(), "{direction:?}: {missing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_what_was_observed() {
    let city = City::new("2026-06-30T00:00:00Z").await;
    city.hear(&[
        told("a", "pm10", "2026-06-10T00:00:00Z", 31.0),
        told("b", "pm10", "2026-06-10T00:00:00Z", 4_000.0),
        Told { position: OUTSIDE, ..told("c", "temperature", "2026-06-10T01:00:00Z", 20.0) },
    ]);
    let page = city.answers.observations(question(Direction::NewestFirst, 2)).await.unwrap();
    let names: Vec<&str> = page.rows.iter().map(|row| row.device.as_str()).collect();
    assert_eq!(names, ["c", "b"]);
    let [outside, suspect] = page.rows.as_slice() else { panic!() };
    assert_eq!((outside.district, suspect.district, suspect.flags), (None, Some(city.district("pa-c1")), Flags::OUT_OF_RANGE));
    assert_eq!(outside.position, Position::new(OUTSIDE.0, OUTSIDE.1).ok());
    let asked = ObservationQuestion {
        filter: Filter { districts: vec![city.district("pa-c1")], ..Filter::default() },
        ..question(Direction::OldestFirst, 5)
    };
    let page = city.answers.observations(asked).await.unwrap();
    assert_eq!((page.rows.len(), page.rows[0].device.as_str(), page.next), (1, "a", None));
    for limit in [0, 10_001] {
        let error = city.answers.observations(question(Direction::OldestFirst, limit)).await.unwrap_err();
        assert!(matches!(error, AskError::PageSize { .. }));
    }
    assert_eq!("1~a".parse::<Cursor>(), Err(InvalidCursor));
    assert_eq!("x~a~pm10".parse::<Cursor>(), Err(InvalidCursor));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_tells_each_series_in_order_and_nothing_twice() {
    let city = City::new("2026-06-30T00:00:00Z").await;
    let mut random = fastrand::Rng::with_seed(5);
    // Names whose order is not that of their first sight.
    for round in 0..12_u64 {
        let mut batch = Vec::new();
        for device in ["z", "b", "m", "a10", "a2"] {
            for step in 0..20 {
                let time = at("2026-06-02T00:00:00Z").plus(seconds((round * 20 + step) * 1_700 + random.u64(..600)));
                batch.push(Told { time, ..told(device, "pm10", "2026-06-02T00:00:00Z", f64::from(random.u8(..))) });
                batch.push(Told { time, ..told(device, "noise", "2026-06-02T00:00:00Z", 60.0) });
            }
        }
        random.shuffle(&mut batch);
        city.hear(&batch);
        match round % 4 {
            0 | 1 => city.flush().await,
            2 => city.merge().await,
            _ => {}
        }
    }
    let expected: Vec<Identity> = city.known.lock().keys().cloned().collect();
    let City { answers, .. } = city;
    let mut parts = answers.export(question(Direction::NewestFirst, 1)).unwrap();
    let mut last: BTreeMap<(String, PropertyIndex), i64> = BTreeMap::new();
    let mut found = Vec::new();
    while let Some(rows) = parts.next().await {
        for row in rows.unwrap() {
            let series = (row.device.to_string(), row.property);
            let before = last.insert(series.clone(), row.time.micros());
            assert!(before.is_none_or(|before| before < row.time.micros()), "{series:?}");
            found.push((series.0, series.1, row.time.micros()));
        }
    }
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_correction_that_is_not_asked_for_hides_what_it_corrects() {
    let city = City::new("2026-06-30T00:00:00Z").await;
    let time = "2026-06-10T00:00:00Z";
    let in_first = Area::Circle { centre: Position::new(FIRST.0, FIRST.1).unwrap(), radius_m: 500.0 };
    let trusted = Selection { trusted: true, ..everything() };
    let near = Selection { area: Some(in_first), ..everything() };
    let inside = Selection { districts: vec![city.district("pa-c1")], ..everything() };
    city.hear(&[told("a", "pm10", time, 31.0), told("b", "pm10", time, 31.0)]);
    for stage in ["log", "table", "merged"] {
        // The first time the corrected row waits in the log as well, then it is in the table.
        if stage == "log" {
            city.hear(&[told("a", "pm10", time, 4_000.0), Told { position: SECOND, ..told("b", "pm10", time, 32.0) }]);
        }
        for order in [Order::Any, Order::SeriesTime] {
            let values = async |selection: &Selection| {
                let mut values: Vec<f64> = city.scan(selection.clone(), order).await.into_iter().map(|(_identity, value)| value).collect();
                values.sort_by(f64::total_cmp);
                values
            };
            assert_eq!(values(&everything()).await, [32.0, 4_000.0], "{stage}");
            assert_eq!(values(&trusted).await, [32.0], "{stage}");
            assert_eq!(values(&near).await, [4_000.0], "{stage}");
            assert_eq!(values(&inside).await, [4_000.0], "{stage}");
            let other = Selection { properties: vec![city.property("noise")], ..everything() };
            assert_eq!(values(&other).await, [0.0; 0], "{stage}");
        }
        match stage {
            "log" => city.flush().await,
            _ => city.merge().await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_devices_are_told_apart_however_long_their_list() {
    let city = City::new("2026-06-30T00:00:00Z").await;
    let names: Vec<&'static str> = (0..1_200).map(|number| &*format!("d{number:04}").leak()).collect();
    let all: Vec<Told> = names.iter().map(|name| told(name, "pm10", "2026-06-10T00:00:00Z", 1.0)).collect();
    // A thousand devices are as many as a town of tests has.
    city.hear(all.get(..1_000).unwrap());
    city.flush().await;
    for wanted in [1, 2, 999] {
        let devices: Vec<_> = (1..=wanted).map(crate::state::DeviceIndex).collect();
        let found = city.scan(Selection { devices: Some(devices), ..everything() }, Order::Any).await;
        assert_eq!(found.len(), wanted as usize);
        assert!(found.iter().all(|(identity, _value)| identity.0 != "d0000"));
    }
    assert_eq!(city.scan(Selection { devices: Some(Vec::new()), ..everything() }, Order::Any).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_value_is_neither_late_nor_from_the_future() {
    let city = City::new("2026-06-20T12:00:00Z").await;
    let latest = |quality| {
        let question = LatestQuestion { properties: Vec::new(), filter: Filter { quality, ..Filter::default() } };
        let values = city.answers.latest(&question).unwrap();
        values.into_iter().map(|value| (value.device.to_string(), value.value, value.age.as_secs())).collect::<Vec<_>>()
    };
    city.hear(&[told("a", "pm10", "2026-06-20T11:59:00Z", 20.0)]);
    assert_eq!(latest(Quality::Trusted), [("a".to_owned(), 20.0, 60)]);
    // Late, from a clock far ahead, out of range.
    city.hear(&[told("a", "pm10", "2026-06-19T11:59:00Z", 1.0), told("a", "pm10", "2026-06-20T23:00:00Z", 2.0)]);
    assert_eq!(latest(Quality::Any), [("a".to_owned(), 20.0, 60)]);
    city.hear(&[told("a", "pm10", "2026-06-20T11:59:30Z", 4_000.0)]);
    assert_eq!(latest(Quality::Trusted), [("a".to_owned(), 20.0, 60)]);
    assert_eq!(latest(Quality::Any), [("a".to_owned(), 4_000.0, 30)]);
    city.flush().await;
    city.merge().await;
    assert_eq!(latest(Quality::Trusted), [("a".to_owned(), 20.0, 60)]);
    // A correction of the newest.
    city.hear(&[told("a", "pm10", "2026-06-20T11:59:00Z", 21.0)]);
    assert_eq!(latest(Quality::Trusted), [("a".to_owned(), 21.0, 60)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn newest_values_are_chosen_by_device_and_place() {
    let city = City::new("2026-06-20T12:00:00Z").await;
    let time = "2026-06-20T11:59:00Z";
    city.hear(&[
        told("a", "pm10", time, 1.0),
        told("a", "noise", time, 50.0),
        Told { position: SECOND, kind: "bus", ..told("b", "pm10", time, 2.0) },
    ]);
    let found = |change: &dyn Fn(&mut LatestQuestion)| {
        let mut question = LatestQuestion::default();
        change(&mut question);
        let values = city.answers.latest(&question).unwrap();
        values.into_iter().map(|value| format!("{} {}", value.device, city.answers.catalogue.get(value.property).id)).collect::<Vec<_>>()
    };
    assert_eq!(found(&|_question| {}), ["a noise", "a pm10", "b pm10"]);
    assert_eq!(found(&|question| question.properties = vec![city.property("pm10")]), ["a pm10", "b pm10"]);
    assert_eq!(found(&|question| question.filter.devices = vec!["b".to_owned()]), ["b pm10"]);
    assert_eq!(found(&|question| question.filter.kinds = vec!["air-station".to_owned()]), ["a noise", "a pm10"]);
    assert_eq!(found(&|question| question.filter.domains = vec![Domain::Energy]), [""; 0]);
    assert_eq!(found(&|question| question.filter.districts = vec![city.district("pa-c2")]), ["b pm10"]);
    let corner = Area::Box { west: 13.35, south: 38.1, east: 13.37, north: 38.13 };
    assert_eq!(found(&|question| question.filter.area = Some(corner)), ["a noise", "a pm10"]);
}
