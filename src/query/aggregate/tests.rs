use proptest::prelude::*;

use super::*;
use crate::model::Catalogue;
use crate::query::window::WindowSize;

const HOUR: i64 = 3_600_000_000;
const MINUTE: i64 = 60_000_000;

/// Device, minute, value, district.
type Row = (u32, i64, f64, u16);

fn chunk(rows: &[Row]) -> Chunk {
    Chunk {
        device: rows.iter().map(|row| row.0).collect(),
        property: vec![0; rows.len()],
        time: rows.iter().map(|row| row.1 * MINUTE).collect(),
        value: rows.iter().map(|row| row.2).collect(),
        flags: vec![0; rows.len()],
        district: rows.iter().map(|row| row.3).collect(),
        ..Chunk::default()
    }
}

struct Asked {
    property: &'static str,
    size: WindowSize,
    hours: i64,
    time: &'static str,
    across: &'static str,
    group: &'static str,
}

const MEAN: Asked = Asked { property: "temperature", size: WindowSize::Hours(1), hours: 1, time: "mean", across: "mean", group: "" };

fn ask(asked: &Asked, rows: &[Row], members: &[Member]) -> Vec<Bucket> {
    let catalogue = Catalogue::built_in();
    let property = catalogue.get(catalogue.find(asked.property).unwrap());
    let at = |micros| Timestamp::from_micros(micros).unwrap();
    let plan = Plan {
        windows: Windows::new(asked.size, &jiff::tz::TimeZone::UTC, at(0), at(asked.hours * HOUR), 10_000).unwrap(),
        time: TimeFunction::parse(asked.time, property).unwrap(),
        across: asked.across.parse().unwrap(),
        summary: property.summary,
        by_device: asked.group.contains("device"),
        by_kind: asked.group.contains("kind"),
        by_district: asked.group.contains("district"),
        limits: Limits { cells_max: 1_000_000, values_max: 1_000_000 },
        now: at(asked.hours * HOUR),
    };
    let mut aggregator = Aggregator::new(plan, members.to_vec());
    aggregator.push(&chunk(rows)).unwrap();
    aggregator.finish()
}

fn member(device: u32) -> Member {
    Member { device, kind: 0, district: NO_DISTRICT, interval_s: 600.0 }
}

#[track_caller]
fn check(asked: &Asked, rows: &[Row], expected: &[Option<f64>]) {
    let values: Vec<Option<f64>> = ask(asked, rows, &[member(0), member(1)]).into_iter().map(|bucket| bucket.value).collect();
    let close = |one: &Option<f64>, other: &Option<f64>| match (one, other) {
        (Some(one), Some(other)) => (one - other).abs() < 1e-9,
        (one, other) => one == other,
    };
    assert!(values.len() == expected.len() && values.iter().zip(expected).all(|(one, other)| close(one, other)), "{values:?}, not {expected:?}");
}

#[test]
fn in_time_first_then_across_devices() {
    let rows = [(0, 0, 1.0, 0), (0, 10, 3.0, 0), (0, 20, 5.0, 0), (1, 30, 13.0, 0)];
    check(&MEAN, &rows, &[Some(8.0)]);
    check(&Asked { across: "max", ..MEAN }, &rows, &[Some(13.0)]);
    check(&Asked { time: "max", across: "mean", ..MEAN }, &rows, &[Some(9.0)]);
    check(&Asked { time: "first", across: "sum", ..MEAN }, &rows, &[Some(14.0)]);
    check(&Asked { time: "p50", across: "min", ..MEAN }, &rows, &[Some(3.0)]);
    check(&Asked { time: "stddev", across: "mean", ..MEAN }, &rows, &[Some(2.0)]);
    check(&Asked { time: "count", across: "sum", ..MEAN }, &rows, &[Some(4.0)]);
    check(&Asked { group: "device", ..MEAN }, &rows, &[Some(3.0), Some(13.0)]);
    check(&Asked { hours: 2, ..MEAN }, &rows, &[Some(8.0), None]);
}

#[test]
fn directions_and_levels_have_means_of_their_own() {
    let wind = Asked { property: "wind_direction", ..MEAN };
    check(&wind, &[(0, 0, 350.0, 0), (0, 10, 10.0, 0)], &[Some(0.0)]);
    check(&wind, &[(0, 0, 0.0, 0), (0, 10, 180.0, 0)], &[None]);
    let noise = Asked { property: "noise", ..MEAN };
    check(&noise, &[(0, 0, 60.0, 0), (0, 10, 70.0, 0)], &[Some(10.0 * (5.5e6_f64).log10())]);
    check(&Asked { across: "sum", ..noise }, &[(0, 0, 60.0, 0), (1, 10, 60.0, 0)], &[Some(60.0 + 10.0 * 2.0_f64.log10())]);
}

#[test]
fn counters_add_up_over_windows_and_resets() {
    let energy = Asked { property: "energy_active", time: "increase", across: "sum", hours: 3, ..MEAN };
    // From before the first window, over two borders, with a reset to 2 in the third hour.
    let rows = [(0, -10, 100.0, 0), (0, 20, 103.0, 0), (0, 70, 110.0, 0), (0, 130, 2.0, 0), (0, 140, 5.0, 0)];
    check(&energy, &rows, &[Some(3.0), Some(7.0), Some(5.0)]);
}

#[test]
fn states_are_timed_for_as_long_as_they_may_hold() {
    let lamp = Asked { property: "lamp_state", time: "duration:on", across: "sum", hours: 2, ..MEAN };
    // On at -10 min for at most 3 × 10 min, off at 40 min, on at 50 min until 80 min.
    let rows = [(0, -10, 1.0, 0), (0, 40, 0.0, 0), (0, 50, 1.0, 0)];
    check(&lamp, &rows, &[Some(30.0 * 60.0), Some(20.0 * 60.0)]);
    check(&Asked { time: "mode", across: "count", group: "device", ..lamp }, &rows, &[Some(1.0), Some(1.0), None, None]);
    check(&Asked { time: "changes", ..lamp }, &rows, &[Some(2.0), None]);
    let power = Asked { property: "power_active", time: "time_weighted_mean", ..MEAN };
    check(&power, &[(0, 0, 10.0, 0), (0, 15, 2.0, 0), (0, 30, 2.0, 0)], &[Some((10.0 * 15.0 + 2.0 * 45.0) / 60.0)]);
}

#[test]
fn a_silent_device_lowers_coverage_and_a_chatty_one_does_not_hide_it() {
    let rows: Vec<Row> = (0..60).map(|minute| (0, minute, 1.0, 0)).collect();
    let bucket = ask(&MEAN, &rows, &[member(0), member(1)]).remove(0);
    assert_eq!((bucket.count, bucket.expected, bucket.coverage, bucket.devices), (60, Some(12.0), Some(0.5), 1));
    let gap = ask(&Asked { hours: 2, ..MEAN }, &rows, &[member(0)]).remove(1);
    assert_eq!((gap.count, gap.value, gap.coverage), (0, None, Some(0.0)));
}

#[test]
fn a_moving_device_counts_in_the_district_where_it_reports() {
    let standing = Member { district: 1, ..member(0) };
    let buckets = ask(&Asked { group: "district", ..MEAN }, &[(0, 0, 1.0, 1), (1, 0, 5.0, 1), (1, 10, 7.0, 2)], &[standing, member(1)]);
    let shown: Vec<_> = buckets.iter().map(|bucket| (bucket.group.district, bucket.value, bucket.count, bucket.coverage)).collect();
    assert_eq!(shown, [(Some(1), Some(3.0), 2, Some(1.0 / 6.0)), (Some(2), Some(7.0), 1, None), (Some(NO_DISTRICT), None, 0, None)]);
}

#[test]
fn too_large_questions_are_refused() {
    let at = |micros| Timestamp::from_micros(micros).unwrap();
    let plan = Plan {
        windows: Windows::new(WindowSize::Minutes(1), &jiff::tz::TimeZone::UTC, at(0), at(HOUR), 100).unwrap(),
        time: TimeFunction::Percentile(50.0),
        across: AcrossFunction::Mean,
        summary: Summary::Arithmetic,
        by_device: false,
        by_kind: false,
        by_district: false,
        limits: Limits { cells_max: 119, values_max: 2 },
        now: at(0),
    };
    let mut aggregator = Aggregator::new(plan, Vec::new());
    assert_eq!(aggregator.push(&chunk(&[(0, 0, 1.0, 0), (1, 0, 1.0, 0)])), Err(TooLarge::Cells { devices: 2, windows: 60, cells_max: 119 }));
    assert_eq!(aggregator.push(&chunk(&[(0, 0, 1.0, 0)])), Err(TooLarge::Values { values_max: 2 }));
}

proptest! {
    #[test]
    fn order_of_rows_does_not_show(mut rows in prop::collection::vec((0_u32..4, 0_i64..180, -1e6..1e6_f64, 0_u16..3), 1..80), seed in any::<u64>(), time in prop::sample::select(vec!["mean", "min", "max", "count", "stddev", "p95", "first", "last"]), group in prop::sample::select(vec!["", "device", "district", "kind"])) {
        rows.sort_by_key(|row| (row.0, row.1));
        rows.dedup_by_key(|row| (row.0, row.1));
        let asked = Asked { time, group, hours: 3, ..MEAN };
        let members: Vec<Member> = (0..4).map(member).collect();
        let straight = ask(&asked, &rows, &members);
        let mut random = fastrand::Rng::with_seed(seed);
        random.shuffle(&mut rows);
        for (one, other) in straight.iter().zip(ask(&asked, &rows, &members)) {
            prop_assert_eq!((one.group, one.window, one.count, one.coverage), (other.group, other.window, other.count, other.coverage));
            match (one.value, other.value) {
                (Some(one), Some(other)) => prop_assert!((one - other).abs() <= 1e-9 * one.abs().max(1.0), "{one} {other}"),
                (one, other) => prop_assert_eq!(one, other),
            }
        }
    }

    #[test]
    fn hours_add_up_to_days(mut rows in prop::collection::vec((0_u32..3, -60_i64..2_880, 0.0..1e6_f64, 0_u16..1), 1..200), property in prop::sample::select(vec![("energy_active", "increase"), ("rain", "sum"), ("rain", "count")])) {
        rows.sort_by_key(|row| (row.0, row.1));
        rows.dedup_by_key(|row| (row.0, row.1));
        let sum = |size| {
            let asked = Asked { property: property.0, time: property.1, across: "sum", size, hours: 48, group: "" };
            ask(&asked, &rows, &[member(0), member(1), member(2)]).iter().filter_map(|bucket| bucket.value).sum::<f64>()
        };
        let (hours, days) = (sum(WindowSize::Hours(1)), sum(WindowSize::Day));
        prop_assert!((hours - days).abs() <= 1e-9 * hours.abs().max(1.0), "{hours} {days}");
    }

    #[test]
    fn a_naive_reference_agrees(mut rows in prop::collection::vec((0_u32..3, 0_i64..120, -100.0..100.0_f64, 0_u16..1), 0..60)) {
        rows.sort_by_key(|row| (row.0, row.1));
        rows.dedup_by_key(|row| (row.0, row.1));
        for bucket in ask(&Asked { hours: 2, ..MEAN }, &rows, &[member(0), member(1), member(2)]) {
            let in_window = |device: u32| rows.iter().filter(|row| row.0 == device && usize::try_from(row.1 / 60).unwrap() == bucket.window).map(|row| row.2).collect::<Vec<_>>();
            let means: Vec<f64> = (0..3).map(in_window).filter(|values| !values.is_empty()).map(|values| values.iter().sum::<f64>() / values.len() as f64).collect();
            let expected = (!means.is_empty()).then(|| means.iter().sum::<f64>() / means.len() as f64);
            match (bucket.value, expected) {
                (Some(value), Some(expected)) => prop_assert!((value - expected).abs() < 1e-9),
                (value, expected) => prop_assert_eq!(value, expected),
            }
        }
    }
}
