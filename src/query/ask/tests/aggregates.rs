//! Aggregates against a naive reference, over table and log together.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;

use super::*;
use crate::model::{WindowSize, Windows};
use crate::query::aggregate::{AggregateError, Fill, GroupBy, NO_DISTRICT};
use crate::query::function::{AcrossFunction, TimeFunction};
use crate::query::plan::Source;
use crate::store::Oldest;

fn question(city: &City, property: &str, from: &str, to: &str, window: &str) -> AggregateQuestion {
    AggregateQuestion {
        property: city.property(property),
        from: at(from),
        to: at(to),
        window: window.parse().unwrap(),
        zone: TimeZone::get("Europe/Rome").unwrap(),
        in_time: None,
        across: None,
        group_by: Vec::new(),
        fill: Fill::None,
        filter: Filter::default(),
    }
}

/// What a device's rows in a window come to; `before` is its last row before them.
fn in_time(function: &str, before: Option<f64>, values: &[f64]) -> Option<f64> {
    let count = values.len() as f64;
    Some(match function {
        "count" => count,
        "sum" => values.iter().sum(),
        "mean" => values.iter().sum::<f64>() / count,
        "min" => values.iter().copied().fold(f64::INFINITY, f64::min),
        "max" => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        "first" => *values.first()?,
        "last" => *values.last()?,
        "increase" => {
            let all: Vec<f64> = before.into_iter().chain(values.iter().copied()).collect();
            if all.len() < 2 {
                return None;
            }
            all.windows(2).map(|pair| if pair[1] < pair[0] { pair[1] } else { pair[1] - pair[0] }).sum()
        }
        "p50" => {
            let mut sorted = values.to_vec();
            sorted.sort_by(f64::total_cmp);
            f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2])
        }
        other => panic!("{other}"),
    })
}

/// By window's start and group: value and count.
type Reference = BTreeMap<(i64, Option<String>), (Option<f64>, u64)>;

fn reference(city: &City, question: &AggregateQuestion, function: &str, across: &str) -> Reference {
    let windows = Windows::new(question.window, &question.zone, question.from, question.to, 100_000).unwrap();
    let known = city.known.lock();
    let is_asked = |identity: &Identity, known: &Known| {
        identity.1 == question.property && (question.filter.quality == Quality::Any || known.flags.is_trusted())
    };
    let mut results: BTreeMap<(i64, Option<String>), (Vec<f64>, u64)> = BTreeMap::new();
    for window in 0..windows.len() {
        let (start, end) = windows.bounds(window);
        let devices: BTreeSet<&String> = known.keys().map(|identity| &identity.0).collect();
        for device in devices {
            let rows: Vec<(i64, Known)> = known
                .iter()
                .filter(|(identity, known)| identity.0 == *device && is_asked(identity, known))
                .map(|(identity, known)| (identity.2, *known))
                .collect();
            let before = rows.iter().rev().find(|(time, _known)| *time < start.micros()).map(|(_time, known)| known.value);
            let mut groups: BTreeMap<Option<String>, Vec<f64>> = BTreeMap::new();
            for (_time, known) in rows.iter().filter(|(time, _known)| (start.micros()..end.micros()).contains(time)) {
                let group = match question.group_by.first() {
                    None => None,
                    Some(GroupBy::Device) => Some(device.clone()),
                    Some(GroupBy::Kind) => panic!("not here"),
                    Some(GroupBy::District) => Some(known.district.map_or(NO_DISTRICT, |district| district.0).to_string()),
                };
                groups.entry(group).or_default().push(known.value);
            }
            for (group, values) in groups {
                let result = results.entry((start.micros(), group)).or_default();
                result.0.extend(in_time(function, before, &values));
                result.1 += values.len() as u64;
            }
        }
    }
    let joined = results.into_iter().map(|(key, (values, count))| {
        let value = match (values.as_slice(), question.group_by.first()) {
            ([], _) => None,
            ([only], Some(GroupBy::Device)) => Some(*only),
            (values, _) => in_time(across, None, values),
        };
        (key, (value, count))
    });
    joined.collect()
}

async fn answered(city: &City, question: &AggregateQuestion) -> Reference {
    let answer = city.answers.aggregates(question.clone()).await.unwrap();
    let mut found = Reference::new();
    for series in answer.series {
        let group = match question.group_by.first() {
            None => None,
            Some(GroupBy::District) => Some(series.key.district.unwrap().map_or(NO_DISTRICT, |district| district.0).to_string()),
            Some(_) => Some(series.key.device.unwrap().to_string()),
        };
        for bucket in series.buckets {
            found.insert((bucket.start.micros(), group.clone()), (bucket.value, bucket.count));
        }
    }
    found
}

#[track_caller]
fn assert_alike(found: &Reference, expected: &Reference, what: &str) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (key, (value, count)) in expected {
        let (found, found_count) = found[key];
        assert_eq!(found_count, *count, "{what} {key:?}");
        let alike = match (found, value) {
            (Some(found), Some(value)) => (found - value).abs() <= 1e-9 * value.abs().max(1.0),
            (found, value) => found == *value,
        };
        assert!(alike, "{what} {key:?}: {found:?}, not {value:?}");
    }
}

/// Compares many questions with the reference.
async fn check(city: &City, stage: &str) {
    for (property, functions) in [
        ("pm10", ["mean", "max", "p50", "count", "last"].as_slice()),
        ("vehicle_count", ["sum", "first", "min"].as_slice()),
        ("energy_active", ["increase"].as_slice()),
    ] {
        for function in functions {
            let across = if *function == "last" || property == "pm10" { "mean" } else { "sum" };
            for group in [None, Some(GroupBy::Device), Some(GroupBy::District)] {
                // Growth over the border of a district is told elsewhere.
                if *function == "increase" && group == Some(GroupBy::District) {
                    continue;
                }
                for (window, quality) in [("1h", Quality::Trusted), ("1d", Quality::Any)] {
                    let mut question = question(city, property, "2026-10-24T00:00:00Z", "2026-10-27T00:00:00Z", window);
                    question.in_time = Some((*function).to_owned());
                    question.across = Some(across.to_owned()).filter(|_across| group.is_none_or(|group| group != GroupBy::Device));
                    question.group_by = group.into_iter().collect();
                    question.filter.quality = quality;
                    let what = format!("{stage}: {function} of {property} by {window}, {group:?}, {quality:?}");
                    assert_alike(&answered(city, &question).await, &reference(city, &question, function, across), &what);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn table_and_log_together_answer_as_a_naive_reference() {
    const DEVICES: [&str; 4] = ["a", "b", "m", "z"];
    let city = City::new("2026-10-27T00:00:00Z").await;
    let mut random = fastrand::Rng::with_seed(7);
    let start = at("2026-10-23T12:00:00Z");
    let mut heard = Vec::new();
    for round in 0..16_u64 {
        let mut batch = Vec::new();
        for step in 0..30 {
            for (number, device) in DEVICES.into_iter().enumerate() {
                if random.u8(..) < 60 {
                    continue;
                }
                let minute = (round * 30 + step) * 10;
                let time = start.plus(seconds(minute * 60));
                let position = if device == "m" && random.bool() { SECOND } else { [FIRST, SECOND, FIRST, OUTSIDE][number] };
                let (draw, is_suspect) = (random.f64(), random.u8(..) < 25);
                let mut tell = |property, value| batch.push(Told { device, kind: "any", property, time, value, position });
                // A tenth is out of range: suspect.
                tell("pm10", if is_suspect { 4_000.0 } else { (draw * 100.0).round() });
                tell("vehicle_count", (draw * 50.0).round());
                // Meters grow, and are sometimes reset.
                tell("energy_active", (minute % 1_990) as f64 + number as f64);
            }
        }
        city.hear(&batch);
        heard.extend(batch);
        // What comes again: the same (a duplicate), another value (a correction), another time (late).
        let mut again = Vec::new();
        for _ in 0..20 {
            let mut told = heard[random.usize(..heard.len())];
            match random.u8(..3) {
                0 => {}
                1 => told.value = (told.value * 0.5).round() + 1.0,
                _ => told.time = told.time.plus(seconds(7)),
            }
            again.push(told);
        }
        city.hear(&again);
        match random.u8(..6) {
            0 | 1 => city.flush().await,
            2 => city.merge().await,
            3 => {
                city.flush().await;
                city.compact().await;
            }
            4 => city.roll_up().await,
            _ => {}
        }
        if round % 8 == 7 {
            check(&city, &format!("round {round}")).await;
        }
    }
    let expected: Vec<Identity> = city.known.lock().keys().cloned().collect();
    for order in [Order::Any, Order::SeriesTime] {
        let mut found: Vec<Identity> = city.scan(everything(), order).await.into_iter().map(|(identity, _value)| identity).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{order:?}");
    }
    city.flush().await;
    city.merge().await;
    check(&city, "merged").await;
    city.compact().await;
    check(&city, "compacted").await;
    city.roll_up().await;
    assert_eq!(city.lake.status().unwrap().unwrap().touched_units, 0);
    check(&city, "rolled up").await;
}

/// A day's question about one property.
fn days(city: &City, property: &str, function: &str) -> AggregateQuestion {
    let mut question = question(city, property, "2026-10-22T22:00:00Z", "2026-10-26T23:00:00Z", "1d");
    (question.in_time, question.group_by) = (Some(function.to_owned()), vec![GroupBy::Device]);
    question
}

/// Where an answer comes from: the hour of each stretch, its source, what was read.
fn sources(answer: &Aggregates) -> Vec<(String, String, u64)> {
    answer.explanation.read.iter().map(|(stretch, read)| (stretch.from.to_string(), stretch.source.to_string(), *read)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_touched_again_is_asked_of_rows_until_it_is_rolled_up_again() {
    let city = City::new("2026-10-27T00:00:00Z").await;
    // Four local days, of which the third has 25 hours; one reading an hour, the last of them suspect.
    let hours = |value: fn(u64) -> f64| -> Vec<Told> {
        let from = at("2026-10-22T22:00:00Z");
        (0..97)
            .map(|hour| Told { time: from.plus(seconds(hour * 3_600)), ..told("a", "pm10", "2026-10-22T22:00:00Z", value(hour)) })
            .collect()
    };
    let mut readings = hours(|hour| hour as f64);
    readings.last_mut().unwrap().value = 4_000.0;
    city.hear(&readings);
    let ask = async |question: AggregateQuestion| city.answers.aggregates(question).await.unwrap();
    let values = |answer: &Aggregates| -> Vec<f64> { answer.series[0].buckets.iter().filter_map(|bucket| bucket.value).collect() };
    let expected = [11.5, 35.5, 60.0, 83.5];
    let answer = ask(days(&city, "pm10", "mean")).await;
    assert_eq!(sources(&answer), [("2026-10-22T22:00:00Z".to_owned(), "rows".to_owned(), 96)]);
    assert_eq!(values(&answer)[..3], expected[..3]);
    city.flush().await;
    city.roll_up().await;
    let answer = ask(days(&city, "pm10", "mean")).await;
    assert_eq!(sources(&answer), [("2026-10-22T22:00:00Z".to_owned(), "rollup-1d".to_owned(), 4)]);
    assert_eq!((values(&answer)[..3].to_vec(), answer.rows), (expected[..3].to_vec(), 96));
    // A correction of the second day, first in the log's late lane, then in the table.
    let corrected = [told("a", "pm10", "2026-10-24T00:00:00Z", 26.0 + 240.0)];
    city.hear(&corrected);
    let mixed = [
        ("2026-10-22T22:00:00Z".to_owned(), "rollup-1d".to_owned(), 1),
        ("2026-10-23T22:00:00Z".to_owned(), "rows".to_owned(), 24),
        ("2026-10-24T22:00:00Z".to_owned(), "rollup-1d".to_owned(), 2),
    ];
    for stage in ["log", "table"] {
        let answer = ask(days(&city, "pm10", "mean")).await;
        assert_eq!((sources(&answer).as_slice(), values(&answer)[1]), (mixed.as_slice(), 45.5), "{stage}");
        city.merge().await;
    }
    city.roll_up().await;
    let answer = ask(days(&city, "pm10", "mean")).await;
    assert_eq!((sources(&answer).len(), values(&answer)[1]), (1, 45.5));
    // With suspect readings; by hours; a percentile that is exact as long as rows are few.
    let mut any = days(&city, "pm10", "max");
    any.filter.quality = Quality::Any;
    assert_eq!(values(&ask(any).await)[3..], [4_000.0]);
    let mut by_hour = days(&city, "pm10", "count");
    by_hour.window = WindowSize::Hours(1);
    let answer = ask(by_hour).await;
    assert_eq!((sources(&answer)[0].1.as_str(), answer.series[0].buckets.len()), ("rollup-1h", 96));
    let exact = ask(days(&city, "pm10", "p95")).await;
    assert_eq!((sources(&exact)[0].1.as_str(), exact.relative_error), ("rows", None));
    let Answers { history, live, catalogue, districts, clock, limits } = &city.answers;
    let few = config::Query { percentile_rows_max: 10, ..limits.clone() };
    let sketching = Answers::new(history.clone(), Arc::clone(live), Arc::clone(catalogue), Arc::clone(districts), Arc::clone(clock), few);
    let sketched = sketching.aggregates(days(&city, "pm10", "p95")).await.unwrap();
    assert_eq!((sources(&sketched)[0].1.as_str(), sketched.relative_error), ("rollup-1d", Some(0.01)));
    for (found, exact) in values(&sketched).iter().zip(values(&exact)) {
        assert!((found - exact).abs() <= 0.01 * exact, "{found} for {exact}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_its_revision_while_its_numbers_stay_and_rollups_outlive_their_rows() {
    let city = City::new("2026-10-27T00:00:00Z").await;
    let reading = |time, value| told("a", "pm10", time, value);
    city.hear(&[reading("2026-10-24T10:01:00Z", 1.0), reading("2026-10-24T10:31:00Z", 2.0), reading("2026-10-25T10:00:00Z", 3.0)]);
    city.flush().await;
    city.roll_up().await;
    let property = city.property("pm10");
    let revisions = async || city.lake.revisions(property).await.unwrap();
    let hour = |time, revision| (crate::rollup::Tier::Hour, at(time), revision);
    let of_hours = |all: Vec<(crate::rollup::Tier, Timestamp, i32)>| -> Vec<_> {
        all.into_iter().filter(|(tier, ..)| *tier == crate::rollup::Tier::Hour).collect()
    };
    assert_eq!(of_hours(revisions().await), [hour("2026-10-24T10:00:00Z", 1), hour("2026-10-25T10:00:00Z", 1)]);
    // Another hour of the first day, then a correction in the first hour.
    city.hear(&[reading("2026-10-24T12:00:00Z", 7.0)]);
    city.merge().await;
    city.roll_up().await;
    let three = [hour("2026-10-24T10:00:00Z", 1), hour("2026-10-24T12:00:00Z", 1), hour("2026-10-25T10:00:00Z", 1)];
    assert_eq!(of_hours(revisions().await), three);
    city.hear(&[reading("2026-10-24T10:31:00Z", 5.0)]);
    city.merge().await;
    city.roll_up().await;
    assert_eq!(of_hours(revisions().await)[0], hour("2026-10-24T10:00:00Z", 2));
    let quarters: Vec<i32> =
        revisions().await.into_iter().filter(|(tier, ..)| *tier == crate::rollup::Tier::Quarter).map(|(_, _, revision)| revision).collect();
    assert_eq!(quarters, [1, 2, 1, 1]);
    // The rows of the first day go; what comes late for it is in no rollup, and takes nothing away.
    let oldest = Oldest { general: Some(at("2026-10-25T00:00:00Z")), ..Oldest::default() };
    assert!(city.lake.drop_past(&oldest).await.unwrap() > 0);
    city.hear(&[reading("2026-10-24T20:00:00Z", 100.0)]);
    city.merge().await;
    city.roll_up().await;
    let answer = city.answers.aggregates(days(&city, "pm10", "sum")).await;
    assert!(answer.is_err(), "pm10 has no sum");
    let answer = city.answers.aggregates(days(&city, "pm10", "max")).await.unwrap();
    let values: Vec<Option<f64>> = answer.series[0].buckets.iter().map(|bucket| bucket.value).collect();
    assert_eq!(values, [Some(7.0), Some(3.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_that_is_kept_for_less_goes_by_itself_and_its_rollups_stay() {
    let city = City::new("2026-10-27T00:00:00Z").await;
    let hours = |property, value: f64| -> Vec<Told> {
        let from = at("2026-10-22T22:00:00Z");
        (0..90).map(|hour| Told { time: from.plus(seconds(hour * 3_600)), ..told("a", property, "2026-10-22T22:00:00Z", value) }).collect()
    };
    for (property, value) in [("pm10", 3.0), ("energy_active", 5.0), ("vehicle_count", 7.0)] {
        city.hear(&hours(property, value));
        city.flush().await;
    }
    city.compact().await;
    city.roll_up().await;
    let counts = async || {
        let mut counts = Vec::new();
        for property in ["pm10", "energy_active", "vehicle_count"] {
            let mut question = days(&city, property, "count");
            question.filter.area = Some(crate::store::Area::Box { west: -180.0, south: -90.0, east: 180.0, north: 90.0 });
            let rows = city.answers.aggregates(question).await.unwrap().rows;
            let rolled_up = city.answers.aggregates(days(&city, property, "count")).await.unwrap();
            let all: u64 = rolled_up.series.iter().flat_map(|series| &series.buckets).map(|bucket| bucket.count).sum();
            counts.push((rows, all));
        }
        counts
    };
    assert_eq!(counts().await, [(90, 90); 3]);
    // Environment for ever, mobility up to the 25th (UTC), everything else up to the 24th.
    let of = [(Domain::Environment, None), (Domain::Mobility, Some(at("2026-10-25T05:00:00Z")))];
    let oldest = Oldest { general: Some(at("2026-10-24T00:00:00Z")), of: of.into() };
    assert_eq!(city.lake.drop_past(&oldest).await.unwrap(), 3);
    let expected = [(90, 90), (64, 90), (40, 90)];
    assert_eq!(counts().await, expected);
    let version = city.lake.status().unwrap().unwrap().version;
    assert_eq!(city.lake.drop_past(&oldest).await.unwrap(), 0, "there is nothing left to do");
    assert_eq!(city.lake.status().unwrap().unwrap().version, version);
    // What is late for what is gone goes too; it is in no rollup, and takes nothing away.
    city.hear(&[told("a", "vehicle_count", "2026-10-23T10:30:00Z", 1.0), told("a", "pm10", "2026-10-23T10:30:00Z", 1.0)]);
    city.merge().await;
    city.roll_up().await;
    assert_eq!(city.lake.drop_past(&oldest).await.unwrap(), 1);
    city.roll_up().await;
    assert_eq!(counts().await, [(91, 91), (64, 90), (40, 90)]);
    // Once nothing is kept for ever, whole days go.
    let oldest = Oldest { general: Some(at("2026-10-24T00:00:00Z")), ..Oldest::default() };
    assert!(city.lake.drop_past(&oldest).await.unwrap() >= 2);
    assert_eq!(counts().await, [(64, 91), (64, 90), (40, 90)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn local_days_have_23_24_or_25_hours() {
    let city = City::new("2026-11-01T00:00:00Z").await;
    for (from, to, hours) in [("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", 23), ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", 25)] {
        let minutes = hours * 60;
        let told: Vec<Told> =
            (0..minutes).map(|minute| Told { time: at(from).plus(seconds(minute * 60)), ..told("a", "pm10", from, 1.0) }).collect();
        city.hear(&told);
        if hours == 23 {
            city.flush().await;
        }
        let mut question = question(&city, "pm10", from, to, "1d");
        let answer = city.answers.aggregates(question.clone()).await.unwrap();
        assert_eq!((answer.start, answer.end), (at(from), at(to)));
        let [series] = answer.series.as_slice() else { panic!("{answer:?}") };
        let [bucket] = series.buckets.as_slice() else { panic!("{series:?}") };
        assert_eq!((bucket.count, bucket.expected, bucket.coverage), (minutes, Some(minutes as f64), Some(1.0)));
        question.window = WindowSize::Hours(1);
        let answer = city.answers.aggregates(question).await.unwrap();
        assert_eq!(answer.series[0].buckets.len() as u64, hours);
        assert!(answer.series[0].buckets.iter().all(|bucket| bucket.count == 60));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn growth_counts_from_the_last_reading_however_old() {
    let city = City::new("2026-06-30T00:00:00Z").await;
    let meter = |time, value| told("meter", "energy_active", time, value);
    city.hear(&[meter("2026-01-05T00:00:00Z", 100.0), told("other", "energy_active", "2026-06-19T23:59:00Z", 5.0)]);
    city.flush().await;
    city.hear(&[meter("2026-06-20T10:30:00Z", 130.0), meter("2026-06-20T11:30:00Z", 7.0), meter("2026-06-20T11:40:00Z", 9.0)]);
    city.hear(&[told("other", "energy_active", "2026-06-20T12:10:00Z", 8.0)]);
    for stage in ["log", "table"] {
        let mut question = question(&city, "energy_active", "2026-06-20T00:00:00Z", "2026-06-21T00:00:00Z", "1h");
        question.zone = TimeZone::UTC;
        let by_hour = city.answers.aggregates(question.clone()).await.unwrap();
        assert_eq!((by_hour.unit.as_str(), by_hour.in_time.to_string().as_str()), ("kW.h", "increase"));
        let values: Vec<Option<f64>> = by_hour.series[0].buckets.iter().map(|bucket| bucket.value).collect();
        assert_eq!(values, [Some(30.0), Some(9.0), Some(3.0)], "{stage}");
        question.window = WindowSize::Day;
        let by_day = city.answers.aggregates(question).await.unwrap();
        assert_eq!(by_day.series[0].buckets[0].value, Some(42.0), "{stage}");
        city.flush().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_holds_into_the_windows_as_long_as_it_may() {
    let city = City::new("2026-06-20T12:00:00Z").await;
    let lamp = |time, value| told("lamp", "lamp_state", time, value);
    // An interval of 300 s, held for three of them.
    city.hear(&[lamp("2026-06-20T09:50:00Z", 1.0), lamp("2026-06-20T10:03:00Z", 0.0)]);
    let mut question = question(&city, "lamp_state", "2026-06-20T10:00:00Z", "2026-06-20T11:00:00Z", "1h");
    question.in_time = Some("duration:on".to_owned());
    question.across = Some("sum".to_owned());
    let answer = city.answers.aggregates(question.clone()).await.unwrap();
    assert_eq!((answer.unit.as_str(), answer.series[0].buckets[0].value), ("s", Some(180.0)));
    question.in_time = None;
    question.across = None;
    question.group_by = vec![GroupBy::Device];
    let answer = city.answers.aggregates(question).await.unwrap();
    assert!(answer.is_state && answer.across.is_none());
    // 15 minutes off, 3 minutes on.
    assert_eq!(answer.series[0].buckets[0].value, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn units_follow_the_functions() {
    let city = City::new("2026-06-20T12:00:00Z").await;
    city.hear(&[told("a", "pm10", "2026-06-20T11:30:00Z", 20.0), told("a", "door", "2026-06-20T11:30:00Z", 1.0)]);
    for (property, in_time, across, unit) in [
        ("pm10", "mean", "mean", "ug/m3"),
        ("pm10", "stddev", "max", "ug/m3"),
        ("pm10", "count", "sum", "1"),
        ("pm10", "mean", "count", "1"),
        ("door", "changes", "sum", "1"),
        ("door", "duration:open", "mean", "s"),
        ("door", "mode", "count", "1"),
    ] {
        let mut question = question(&city, property, "2026-06-20T11:00:00Z", "2026-06-20T12:00:00Z", "1h");
        question.in_time = Some(in_time.to_owned());
        question.across = Some(across.to_owned());
        assert_eq!(city.answers.aggregates(question).await.unwrap().unit, unit, "{property} {in_time} {across}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn senseless_and_boundless_questions_are_refused() {
    let city = City::new("2026-06-20T12:00:00Z").await;
    city.hear(&[told("a", "temperature", "2026-06-20T11:30:00Z", 20.0)]);
    let refused = async |change: &dyn Fn(&mut AggregateQuestion)| {
        let mut question = question(&city, "temperature", "2026-06-20T11:00:00Z", "2026-06-20T12:00:00Z", "1h");
        change(&mut question);
        city.answers.aggregates(question).await.unwrap_err().to_string()
    };
    let sum = refused(&|question| question.in_time = Some("sum".to_owned())).await;
    assert_eq!(sum, "sum makes no sense for temperature: its values are states of an instant, not amounts");
    let across = refused(&|question| question.across = Some("sum".to_owned())).await;
    assert_eq!(across, "sum makes no sense for temperature: its values do not add up over places");
    let device = refused(&|question| question.filter.devices = vec!["b".to_owned()]).await;
    assert_eq!(device, "no device \"b\" was ever heard");
    let kind = refused(&|question| question.filter.kinds = vec!["bus".to_owned()]).await;
    assert_eq!(kind, "no device of kind \"bus\" was ever heard; there are air-station");
    let empty = refused(&|question| question.from = question.to).await;
    assert!(empty.ends_with("is empty"), "{empty}");
    let windows = refused(&|question| (question.window, question.from) = (WindowSize::Minutes(1), at("1950-01-01T00:00:00Z"))).await;
    assert_eq!(windows, "the time range has more than 1000000 windows of 1m");
}

/// All functions in time, of which each property has its own.
const FUNCTIONS: [&str; 16] = [
    "count",
    "sum",
    "mean",
    "min",
    "max",
    "first",
    "last",
    "stddev",
    "p0",
    "p50",
    "p95",
    "increase",
    "time_weighted_mean",
    "mode",
    "changes",
    "duration:on",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollups_answer_as_rows_do_whatever_function_zone_window_and_quality() {
    // Clocks go back in Rome on the 25th of October, in St. John's on the 1st of November.
    let city = City::new("2026-11-03T12:00:00Z").await;
    let mut random = fastrand::Rng::with_seed(11);
    let mut readings = Vec::new();
    for (number, device) in ["a", "b", "m"].into_iter().enumerate() {
        let mut time = at("2026-10-23T22:00:00Z");
        while time < at("2026-11-02T05:00:00Z") {
            // Silent for a day or so, now and then; at borders of buckets, now and then.
            let pause = if random.u8(..) < 2 { 100_000 } else { random.u64(60..5_000) };
            time = time.plus(seconds(pause));
            if random.u8(..) < 50 {
                time = Timestamp::from_micros(time.micros() / 900_000_000 * 900_000_000).unwrap();
            }
            let position = if device == "m" && random.bool() { SECOND } else { [FIRST, OUTSIDE, FIRST][number] };
            let is_suspect = random.u8(..) < 25;
            let mut tell = |property, value| readings.push(Told { device, kind: "any", property, time, value, position });
            tell("temperature", if is_suspect { 900.0 } else { random.f64() * 20.0 - 10.0 });
            tell("noise", if is_suspect { 300.0 } else { random.f64() * 60.0 + 30.0 });
            tell("wind_direction", if is_suspect { 720.0 } else { random.f64() * 360.0 });
            tell("vehicle_count", if is_suspect { -3.0 } else { f64::from(random.u8(..90)) });
            // A meter that moves is asked of rows.
            if device != "m" {
                tell("energy_active", if is_suspect { -5.0 } else { (time.micros() / 1_000_000 % 400_000) as f64 });
            }
            tell("lamp_state", f64::from(random.u8(..2)));
        }
    }
    city.hear(&readings);
    city.flush().await;
    city.merge().await;
    city.roll_up().await;
    assert_eq!(city.lake.status().unwrap().unwrap().touched_units, 0);
    let Answers { history, live, catalogue, districts, clock, limits } = &city.answers;
    let few = config::Query { percentile_rows_max: 10, ..limits.clone() };
    // Only where rows would be too many, percentiles are asked of sketches.
    let sketching = Answers::new(history.clone(), Arc::clone(live), Arc::clone(catalogue), Arc::clone(districts), Arc::clone(clock), few);
    let everywhere = crate::store::Area::Box { west: -180.0, south: -90.0, east: 180.0, north: 90.0 };
    let (mut asked, mut rolled_up) = (BTreeSet::new(), BTreeSet::new());
    let mut turn = 0;
    for property in ["temperature", "noise", "wind_direction", "vehicle_count", "energy_active", "lamp_state"] {
        for function in FUNCTIONS {
            let known = city.answers.catalogue.get(city.property(property));
            let Ok(time) = TimeFunction::choose(Some(function), known) else { continue };
            for zone in ["Europe/Rome", "UTC", "Asia/Kathmandu", "America/St_Johns"] {
                // Quality and group take turns.
                for window in ["15m", "1h", "1d", "1mo", "6h"] {
                    let (from, to) = match zone {
                        "America/St_Johns" => ("2026-10-31T12:00:00Z", "2026-11-02T12:00:00Z"),
                        _ => ("2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z"),
                    };
                    turn += 1;
                    let quality = if turn % 2 == 0 { Quality::Any } else { Quality::Trusted };
                    let group = if turn % 3 == 0 { GroupBy::District } else { GroupBy::Device };
                    let across = ["mean", "count"].into_iter().find(|across| AcrossFunction::choose(Some(across), known, time).is_ok());
                    let mut question = question(&city, property, from, to, window);
                    question.zone = TimeZone::get(zone).unwrap();
                    question.in_time = Some(function.to_owned());
                    question.group_by = vec![group];
                    question.across = across.filter(|_across| group == GroupBy::District).map(str::to_owned);
                    question.filter.quality = quality;
                    let what = format!("{function} of {property} by {window} in {zone}, {group:?}, {quality:?}");
                    let is_sketched = function.starts_with('p') && group == GroupBy::Device;
                    let answers = if is_sketched { &sketching } else { &city.answers };
                    let mut of_rows = question.clone();
                    of_rows.filter.area = Some(everywhere);
                    let rows = city.answers.aggregates(of_rows).await.unwrap();
                    let answer = match answers.aggregates(question).await {
                        Err(AskError::Aggregate(AggregateError::TooManyRows { .. })) if is_sketched => continue,
                        answer => answer.unwrap_or_else(|error| panic!("{what}: {error}")),
                    };
                    asked.insert((property, function));
                    if answer.explanation.read.iter().any(|(stretch, _read)| stretch.source != Source::Rows) {
                        rolled_up.insert((property, function));
                    }
                    assert!(rows.explanation.read.iter().all(|(stretch, _read)| stretch.source == Source::Rows), "{what}");
                    assert_eq!(answer.rows, rows.rows, "{what}");
                    // Of values, suspect ones included or not.
                    let largest = if quality == Quality::Any { 900.0 } else { 90.0 };
                    assert_same(&answer, &rows, largest, &what);
                }
            }
        }
    }
    // What depends on how long a value holds is not rolled up.
    let of_rows = ["time_weighted_mean", "mode", "changes", "duration:on"];
    let expected: BTreeSet<_> = asked.iter().copied().filter(|(_property, function)| !of_rows.contains(function)).collect();
    assert_eq!(rolled_up, expected);
    let functions: BTreeSet<&str> = asked.iter().map(|(_property, function)| *function).collect();
    assert_eq!(functions, FUNCTIONS.into(), "each function makes sense for some property");
}

/// Two answers to one question, the first of them perhaps from sketches.
#[track_caller]
fn assert_same(answer: &Aggregates, rows: &Aggregates, largest: f64, what: &str) {
    assert_eq!(answer.series.len(), rows.series.len(), "{what}");
    for (series, of_rows) in answer.series.iter().zip(&rows.series) {
        assert_eq!(series.key.device, of_rows.key.device, "{what}");
        assert_eq!(series.buckets.len(), of_rows.buckets.len(), "{what}");
        for (bucket, of_rows) in series.buckets.iter().zip(&of_rows.buckets) {
            assert_eq!((bucket.start, bucket.count, bucket.flags), (of_rows.start, of_rows.count, of_rows.flags), "{what}");
            let alike = match (bucket.value, of_rows.value) {
                (Some(found), Some(value)) => {
                    // A percentile lies between two values, of which each may be off.
                    let most = answer.relative_error.map_or(1e-9 * value.abs().max(1.0), |relative| relative * largest);
                    (found - value).abs() <= most
                }
                (found, value) => found == value,
            };
            assert!(alike, "{what} from {}: {:?}, not {:?}", bucket.start, bucket.value, of_rows.value);
        }
    }
}
