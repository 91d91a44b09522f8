//! Devices that move, devices that are silent, and the places where they count.

use jiff::tz::TimeZone;

use super::*;
use crate::query::aggregate::{Bucket, Fill, GroupBy};
use crate::store::Area;

async fn ask(city: &City, change: &dyn Fn(&mut AggregateQuestion)) -> Vec<(String, Bucket)> {
    let mut question = AggregateQuestion {
        property: city.property("pm10"),
        from: at("2026-06-20T10:00:00Z"),
        to: at("2026-06-20T11:00:00Z"),
        window: "1h".parse().unwrap(),
        zone: TimeZone::UTC,
        in_time: None,
        across: None,
        group_by: vec![GroupBy::District],
        fill: Fill::None,
        filter: Filter::default(),
    };
    change(&mut question);
    let answer = city.answers.aggregates(question).await.unwrap();
    let name = |key: &SeriesKey| {
        let district =
            key.district.map(|district| district.map_or("nowhere".to_owned(), |district| city.answers.districts.get(district).id.clone()));
        [district, key.device.as_ref().map(ToString::to_string), key.kind.as_ref().map(ToString::to_string)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" ")
    };
    answer.series.iter().flat_map(|series| series.buckets.iter().map(|bucket| (name(&series.key), bucket.clone()))).collect()
}

/// Group, count, expected, coverage.
fn counts(buckets: &[(String, Bucket)]) -> Vec<(&str, u64, Option<f64>, Option<f64>)> {
    buckets.iter().map(|(name, bucket)| (name.as_str(), bucket.count, bucket.expected, bucket.coverage)).collect()
}

/// A station that speaks, one that fell silent, both at home in pa-c1, and a bus that crosses into pa-c2.
async fn town() -> City {
    let city = City::new("2026-06-20T12:00:00Z").await;
    let minute = |minute: u64| at("2026-06-20T10:00:00Z").plus(seconds(minute * 60));
    city.hear(&[told("silent", "pm10", "2026-06-20T08:00:00Z", 9.0)]);
    let mut all = Vec::new();
    for number in 0..60 {
        let here = told("speaks", "pm10", "2026-06-20T10:00:00Z", 10.0);
        all.push(Told { time: minute(number), ..here });
        let position = if number < 20 { FIRST } else { SECOND };
        all.push(Told { time: minute(number), device: "line-101", kind: "bus", position, value: 30.0, ..here });
    }
    city.hear(&all);
    city
}

#[tokio::test(flavor = "multi_thread")]
async fn observations_count_where_they_were_made_and_devices_where_they_are_at_home() {
    let city = town().await;
    for stage in ["log", "table"] {
        let buckets = ask(&city, &|_question| {}).await;
        assert_eq!(counts(&buckets), [("pa-c1", 80, Some(120.0), Some(0.5)), ("pa-c2", 40, None, None)], "{stage}");
        assert_eq!(buckets.iter().map(|(_name, bucket)| bucket.value).collect::<Vec<_>>(), [Some(20.0), Some(30.0)]);
        let together = ask(&city, &|question| question.group_by.clear()).await;
        assert_eq!(counts(&together), [("", 120, Some(180.0), Some(2.0 / 3.0))], "{stage}");
        city.flush().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_filter_asks_of_observations_and_expects_who_is_at_home_there() {
    let city = town().await;
    let first = ask(&city, &|question| {
        question.group_by.clear();
        question.filter.districts = vec![city.district("pa-c1")];
    })
    .await;
    assert_eq!(counts(&first), [("", 80, Some(120.0), Some(0.5))]);
    let second = ask(&city, &|question| {
        question.group_by = vec![GroupBy::Device];
        question.fill = Fill::Null;
        question.filter.districts = vec![city.district("pa-c2")];
    })
    .await;
    assert_eq!(counts(&second), [("line-101", 40, None, None)]);
    let near = ask(&city, &|question| {
        question.group_by = vec![GroupBy::Kind];
        question.filter.area = Some(Area::Circle { centre: Position::new(FIRST.0, FIRST.1).unwrap(), radius_m: 100.0 });
    })
    .await;
    assert_eq!(counts(&near), [("air-station", 60, Some(120.0), Some(0.5)), ("bus", 20, None, None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_device_is_asked_after_also_where_nobody_speaks() {
    let city = town().await;
    let silent = ask(&city, &|question| {
        question.group_by = vec![GroupBy::Device];
        question.fill = Fill::Null;
        question.filter.devices = vec!["silent".to_owned()];
    })
    .await;
    assert_eq!(counts(&silent), [("silent", 0, Some(60.0), Some(0.0))]);
    assert_eq!(silent[0].1.value, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_keep_moving_are_mobile_whatever_their_kind() {
    let city = City::new("2026-06-20T12:00:00Z").await;
    let tell = |device, minute: u64, position| Told {
        position,
        time: at("2026-06-20T10:00:00Z").plus(seconds(minute * 60)),
        ..told(device, "pm10", "2026-06-20T10:00:00Z", 1.0)
    };
    for minute in 0..6 {
        city.hear(&[tell("roams", minute, if minute % 2 == 0 { FIRST } else { SECOND })]);
        city.hear(&[tell("moved", minute, if minute < 3 { FIRST } else { SECOND })]);
        city.hear(&[tell("lost", minute, if minute < 3 { FIRST } else { (0.0, 0.0) })]);
        // Receivers wander.
        city.hear(&[tell("stays", minute, (FIRST.0 + 0.0002 * minute as f64, FIRST.1))]);
    }
    city.hear(&[Told { kind: "bus", ..tell("bus-1", 0, FIRST) }]);
    let found: Vec<(String, bool, Option<DistrictIndex>)> = ["bus-1", "lost", "moved", "roams", "stays"]
        .into_iter()
        .map(|id| city.answers.device(id).unwrap().0)
        .map(|device| (device.id.to_string(), device.is_mobile, device.district))
        .collect();
    let (first, second) = (Some(city.district("pa-c1")), Some(city.district("pa-c2")));
    let expected =
        [("bus-1", true, first), ("lost", false, first), ("moved", false, second), ("roams", true, second), ("stays", false, first)];
    assert_eq!(found, expected.map(|(id, is_mobile, district)| (id.to_owned(), is_mobile, district)));
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_listed_by_pages() {
    let city = town().await;
    let mut question = DeviceQuestion {
        properties: Vec::new(),
        filter: Filter::default(),
        presences: Vec::new(),
        registered: None,
        after: None,
        limit: 2,
    };
    let first = city.answers.devices(&question).unwrap();
    let names = |list: &DeviceList| list.devices.iter().map(|device| device.id.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&first), ["line-101", "silent"]);
    question.after = first.next;
    let second = city.answers.devices(&question).unwrap();
    assert_eq!((names(&second), second.next), (vec!["speaks".to_owned()], None));
    question.after = None;
    question.filter.districts = vec![city.district("pa-c2")];
    assert_eq!(names(&city.answers.devices(&question).unwrap()), ["line-101"]);
    question.filter.districts.clear();
    question.properties = vec![city.property("noise")];
    assert_eq!(names(&city.answers.devices(&question).unwrap()), [""; 0]);
    assert!(city.answers.device("nobody").is_none());
}
