use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;
use crate::model::WindowSize;
use crate::model::{Catalogue, Flags};

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;

/// Device, minute, value, district.
type Line = (u32, i64, f64, u16);

#[derive(Clone, Copy)]
struct Asked {
    property: &'static str,
    size: WindowSize,
    hours: i64,
    time: &'static str,
    across: &'static str,
    group: &'static [GroupBy],
    fill: Fill,
}

const MEAN: Asked =
    Asked { property: "temperature", size: WindowSize::Hours(1), hours: 1, time: "mean", across: "mean", group: &[], fill: Fill::Null };

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros).unwrap()
}

fn member(device: u32) -> Member {
    Member { device, kind: 0, district: None, interval_s: 600.0 }
}

fn row(line: &Line) -> Row {
    Row { device: line.0, time: line.1 * MINUTE, value: line.2, flags: 0, district: line.3 }
}

fn plan(asked: &Asked) -> Plan {
    let windows = Windows::new(asked.size, &TimeZone::UTC, at(0), at(asked.hours * HOUR), 10_000).unwrap();
    let catalogue = Catalogue::built_in();
    let property = catalogue.get(catalogue.find(asked.property).unwrap());
    Plan {
        windows,
        time: TimeFunction::parse(asked.time, property).unwrap(),
        across: asked.across.parse().unwrap(),
        group: asked.group.to_vec(),
        summary: property.summary,
        fill: asked.fill,
        by_place: false,
        hold_intervals: 3.0,
        slots_max: 1_000_000,
        rows_max: 1_000_000,
        sketched: false,
    }
}

fn answer(plan: Plan, rows: &[Row], members: &[Member], now: Timestamp) -> Result<Vec<Bucket>, AggregateError> {
    let mut aggregator = Aggregator::new(plan, members.to_vec())?;
    push(&mut aggregator, rows)?;
    aggregator.finish(now, Duration::from_mins(10))
}

fn push(aggregator: &mut Aggregator, rows: &[Row]) -> Result<(), AggregateError> {
    let devices: Vec<u32> = rows.iter().map(|row| row.device).collect();
    let times: Vec<i64> = rows.iter().map(|row| row.time).collect();
    let values: Vec<f64> = rows.iter().map(|row| row.value).collect();
    let flags: Vec<u16> = rows.iter().map(|row| row.flags).collect();
    let districts: Vec<u16> = rows.iter().map(|row| row.district).collect();
    aggregator.push_chunk(&devices, &times, &values, &flags, &districts)
}

/// The answer at the end of the windows.
fn ask(asked: &Asked, lines: &[Line], members: &[Member]) -> Vec<Bucket> {
    answer(plan(asked), &lines.iter().map(row).collect::<Vec<_>>(), members, at(asked.hours * HOUR)).unwrap()
}

fn is_close(one: Option<f64>, other: Option<f64>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => (one - other).abs() <= 1e-9 * one.abs().max(1.0),
        (one, other) => one == other,
    }
}

#[track_caller]
fn check_of(members: &[Member], asked: &Asked, lines: &[Line], expected: &[Option<f64>]) {
    let values: Vec<Option<f64>> = ask(asked, lines, members).into_iter().map(|bucket| bucket.value).collect();
    let is_same = values.len() == expected.len() && values.iter().zip(expected).all(|(one, other)| is_close(*one, *other));
    assert!(is_same, "{values:?}, not {expected:?}");
}

#[track_caller]
fn check(asked: &Asked, lines: &[Line], expected: &[Option<f64>]) {
    check_of(&[member(0), member(1)], asked, lines, expected);
}

#[test]
fn in_time_first_then_across_devices() {
    let lines = [(0, 0, 1.0, 0), (0, 10, 3.0, 0), (0, 20, 5.0, 0), (1, 30, 13.0, 0)];
    check(&MEAN, &lines, &[Some(8.0)]);
    check(&Asked { across: "max", ..MEAN }, &lines, &[Some(13.0)]);
    check(&Asked { across: "min", ..MEAN }, &lines, &[Some(3.0)]);
    check(&Asked { across: "count", ..MEAN }, &lines, &[Some(2.0)]);
    check(&Asked { across: "p25", ..MEAN }, &lines, &[Some(5.5)]);
    check(&Asked { time: "max", across: "mean", ..MEAN }, &lines, &[Some(9.0)]);
    check(&Asked { time: "min", across: "sum", ..MEAN }, &lines, &[Some(14.0)]);
    check(&Asked { time: "first", across: "sum", ..MEAN }, &lines, &[Some(14.0)]);
    check(&Asked { time: "last", across: "sum", ..MEAN }, &lines, &[Some(18.0)]);
    check(&Asked { time: "p50", across: "min", ..MEAN }, &lines, &[Some(3.0)]);
    check(&Asked { time: "p75", across: "min", ..MEAN }, &lines, &[Some(4.0)]);
    check(&Asked { time: "stddev", across: "mean", ..MEAN }, &lines, &[Some(2.0)]);
    check(&Asked { time: "count", across: "sum", ..MEAN }, &lines, &[Some(4.0)]);
    check(&Asked { group: &[GroupBy::Device], ..MEAN }, &lines, &[Some(3.0), Some(13.0)]);
    check(&Asked { group: &[GroupBy::Kind], ..MEAN }, &lines, &[Some(8.0)]);
    check(&Asked { hours: 2, ..MEAN }, &lines, &[Some(8.0), None]);
}

#[test]
fn a_device_alone_is_not_put_together_with_anything() {
    let lines = [(0, 0, 1.0, 0), (0, 10, 3.0, 0), (1, 20, 7.0, 0)];
    check(&Asked { across: "count", group: &[GroupBy::Device], ..MEAN }, &lines, &[Some(2.0), Some(7.0)]);
}

#[test]
fn directions_and_levels_have_means_of_their_own() {
    let wind = Asked { property: "wind_direction", ..MEAN };
    check(&wind, &[(0, 0, 350.0, 0), (0, 10, 10.0, 0)], &[Some(0.0)]);
    check(&wind, &[(0, 0, 0.0, 0), (0, 10, 180.0, 0)], &[None]);
    check(&wind, &[(0, 0, 350.0, 0), (1, 10, 20.0, 0)], &[Some(5.0)]);
    // A count of directions is no direction.
    check(&Asked { time: "count", across: "sum", ..wind }, &[(0, 0, 350.0, 0), (1, 10, 20.0, 0)], &[Some(2.0)]);
    let noise = Asked { property: "noise", ..MEAN };
    check(&noise, &[(0, 0, 60.0, 0), (0, 10, 70.0, 0)], &[Some(10.0 * (5.5e6_f64).log10())]);
    check(&noise, &[(0, 0, 60.0, 0), (1, 10, 70.0, 0)], &[Some(10.0 * (5.5e6_f64).log10())]);
    check(&Asked { across: "sum", ..noise }, &[(0, 0, 60.0, 0), (1, 10, 60.0, 0)], &[Some(60.0 + 10.0 * 2.0_f64.log10())]);
    let weighted = Asked { time: "time_weighted_mean", ..noise };
    check(&weighted, &[(0, 0, 60.0, 0), (0, 30, 70.0, 0)], &[Some(10.0 * (5.5e6_f64).log10())]);
}

#[test]
fn small_parts_of_large_sums_are_kept() {
    let value = |minute| match minute {
        0 => 1e16,
        12 => -1e16,
        _ => 1.0,
    };
    let lines: Vec<Line> = (0..18).map(|minute| (0, minute, value(minute), 0)).collect();
    check(&Asked { property: "rain", time: "sum", ..MEAN }, &lines, &[Some(16.0)]);
    let far: Vec<Line> = (0..50).map(|minute| (0, minute, if minute % 2 == 0 { 1e9 } else { 1e9 + 2.0 }, 0)).collect();
    check(&Asked { time: "stddev", ..MEAN }, &far, &[Some((50.0_f64 / 49.0).sqrt())]);
}

#[test]
fn counters_add_up_over_windows_and_resets() {
    let energy = Asked { property: "energy_active", time: "increase", across: "sum", hours: 3, ..MEAN };
    // From before the first window, over two borders, with a reset to 2 in the third hour.
    let lines = [(0, -10, 100.0, 0), (0, 20, 103.0, 0), (0, 70, 110.0, 0), (0, 130, 2.0, 0), (0, 140, 5.0, 0)];
    check(&energy, &lines, &[Some(3.0), Some(7.0), Some(5.0)]);
    // Without a reading before, nothing is known of the growth up to the first one.
    check(&energy, &lines[1..3], &[None, Some(7.0), None]);
}

#[test]
fn states_are_timed_for_as_long_as_they_may_hold() {
    let lamp = Asked { property: "lamp_state", time: "duration:on", across: "sum", hours: 2, ..MEAN };
    // On at -10 min for at most 3 × 10 min, off at 40 min, on at 50 min until 80 min.
    let lines = [(0, -10, 1.0, 0), (0, 40, 0.0, 0), (0, 50, 1.0, 0)];
    check(&lamp, &lines, &[Some(30.0 * 60.0), Some(20.0 * 60.0)]);
    let by_device = Asked { group: &[GroupBy::Device], ..lamp };
    check(&Asked { time: "mode", across: "count", ..by_device }, &lines, &[Some(1.0), Some(1.0), None, None]);
    check(&Asked { time: "changes", ..lamp }, &lines, &[Some(2.0), None]);
    // Of equals, the smaller code.
    check(&Asked { time: "mode", hours: 1, ..by_device }, &[(0, 0, 1.0, 0), (0, 30, 0.0, 0)], &[Some(0.0), None]);
    let power = Asked { property: "power_active", time: "time_weighted_mean", ..MEAN };
    check(&power, &[(0, 0, 10.0, 0), (0, 15, 2.0, 0), (0, 30, 2.0, 0)], &[Some((10.0 * 15.0 + 2.0 * 45.0) / 60.0)]);
}

#[test]
fn no_value_holds_in_the_future() {
    let plan = plan(&Asked { property: "lamp_state", time: "duration:on", across: "sum", hours: 2, ..MEAN });
    let buckets = answer(plan, &[row(&(0, 50, 1.0, 0))], &[member(0)], at(65 * MINUTE)).unwrap();
    let values: Vec<_> = buckets.iter().map(|bucket| (bucket.value, bucket.count)).collect();
    assert_eq!(values, [(Some(600.0), 1), (Some(300.0), 0)]);
}

#[test]
fn a_silent_device_lowers_coverage_and_a_chatty_one_does_not_hide_it() {
    let lines: Vec<Line> = (0..60).map(|minute| (0, minute, 1.0, 0)).collect();
    let bucket = ask(&MEAN, &lines, &[member(0), member(1)]).remove(0);
    assert_eq!((bucket.count, bucket.expected, bucket.coverage, bucket.devices), (60, Some(12.0), Some(0.5), 1));
    let gap = ask(&Asked { hours: 2, ..MEAN }, &lines, &[member(0)]).remove(1);
    assert_eq!((gap.count, gap.value, gap.coverage), (0, None, Some(0.0)));
    // Also one of which much is expected hides no other.
    let quick = Member { interval_s: 60.0, ..member(0) };
    let bucket = ask(&MEAN, &lines, &[quick, member(1)]).remove(0);
    assert_eq!((bucket.expected, bucket.coverage), (Some(66.0), Some(0.5)));
    // Of one that speaks when something happens nothing is expected.
    let eventful = Member { interval_s: 0.0, ..member(0) };
    let bucket = ask(&MEAN, &lines, &[eventful]).remove(0);
    assert_eq!((bucket.count, bucket.expected, bucket.coverage), (60, None, None));
}

#[test]
fn a_window_that_is_not_over_expects_what_is_due() {
    let members = [member(0), Member { interval_s: 3_600.0, ..member(1) }];
    let expect = |minutes: i64, rows: &[Row], expected: [(Option<f64>, Option<f64>, bool); 2]| {
        let buckets = answer(plan(&Asked { hours: 2, ..MEAN }), rows, &members, at(minutes * MINUTE)).unwrap();
        let shown: Vec<_> = buckets.iter().map(|bucket| (bucket.expected, bucket.coverage, bucket.provisional)).collect();
        assert_eq!(shown, expected, "{minutes}");
    };
    let rows = [row(&(0, 5, 1.0, 0)), row(&(0, 15, 1.0, 0)), row(&(1, 58, 1.0, 0))];
    expect(-5, &rows, [(Some(0.0), None, true), (Some(0.0), None, true)]);
    expect(5, &rows, [(Some(0.0), None, true), (Some(0.0), None, true)]);
    expect(25, &rows, [(Some(2.0), Some(1.0), true), (Some(0.0), None, true)]);
    // Two of six rows, and the one of the other device.
    let share = f64::midpoint(2.0 / 6.0, 1.0);
    expect(69, &rows, [(Some(7.0), Some(share), true), (Some(0.0), None, true)]);
    // Ten minutes after their end rows cannot come any more.
    expect(70, &rows, [(Some(7.0), Some(share), false), (Some(1.0), Some(0.0), true)]);
    expect(130, &rows, [(Some(7.0), Some(share), false), (Some(7.0), Some(0.0), false)]);
}

#[test]
fn a_bucket_is_as_suspect_as_its_worst_rows() {
    let suspect = |line, flags: Flags| Row { flags: flags.bits(), ..row(&line) };
    let rows = [
        suspect((0, -20, 1.0, 0), Flags::FUTURE),
        suspect((0, 10, 1.0, 0), Flags::OUT_OF_RANGE),
        suspect((0, 20, 1.0, 0), Flags::empty()),
        suspect((1, 30, 1.0, 0), Flags::OFF_CITY),
        suspect((0, 130, 1.0, 0), Flags::empty()),
    ];
    let check = |asked: &Asked, expected: [Flags; 3]| {
        let buckets = answer(plan(asked), &rows, &[member(0), member(1)], at(3 * HOUR)).unwrap();
        assert_eq!(buckets.iter().map(|bucket| bucket.flags).collect::<Vec<_>>(), expected.map(|flags| flags.bits()));
    };
    let (rows, none) = (Flags::OUT_OF_RANGE | Flags::OFF_CITY, Flags::empty());
    check(&Asked { hours: 3, ..MEAN }, [rows, none, none]);
    // A made-up value rests on those it was made of.
    check(&Asked { hours: 3, fill: Fill::Previous, ..MEAN }, [rows, rows, none]);
    check(&Asked { hours: 3, fill: Fill::Linear, ..MEAN }, [rows, rows, none]);
    // And what grows or holds over a border, on the row before it.
    check(&Asked { property: "energy_active", time: "increase", hours: 3, ..MEAN }, [rows | Flags::FUTURE, none, none]);
    check(&Asked { time: "time_weighted_mean", hours: 3, ..MEAN }, [rows | Flags::FUTURE, none, none]);
}

/// District, value, count and coverage.
type Shown = (Option<u16>, Option<f64>, u64, Option<f64>);

fn shown_by_district(buckets: &[Bucket]) -> Vec<Shown> {
    buckets.iter().map(|bucket| (bucket.group.district, bucket.value, bucket.count, bucket.coverage)).collect()
}

#[test]
fn a_moving_device_counts_in_the_district_where_it_reports() {
    let by_district = Asked { group: &[GroupBy::District], ..MEAN };
    let standing = Member { district: Some(1), ..member(0) };
    let lines = [(0, 0, 1.0, 1), (1, 0, 5.0, 1), (1, 10, 7.0, 2)];
    let one = (Some(1), Some(3.0), 2, Some(1.0 / 6.0));
    let two = (Some(2), Some(7.0), 1, None);
    assert_eq!(shown_by_district(&ask(&by_district, &lines, &[standing, member(1)])), [one, two]);
    // One that is silent is nowhere.
    let outside = (Some(NO_DISTRICT), None, 0, None);
    assert_eq!(shown_by_district(&ask(&by_district, &lines, &[standing, member(1), member(2)])), [one, two, outside]);
    let present = Asked { fill: Fill::None, ..by_district };
    assert_eq!(shown_by_district(&ask(&present, &lines, &[standing, member(1), member(2)])), [one, two]);
    // Asked for by name, it is expected like any other.
    let by_device = ask(&Asked { group: &[GroupBy::Device], ..MEAN }, &lines, &[standing, member(1)]);
    let coverages: Vec<_> = by_device.iter().map(|bucket| bucket.coverage).collect();
    assert_eq!(coverages, [Some(1.0 / 6.0), Some(2.0 / 6.0)]);
    // Rows without a district are outside.
    let rows = ask(&by_district, &[(1, 0, 5.0, NO_DISTRICT)], &[member(1)]);
    assert_eq!(shown_by_district(&rows), [(Some(NO_DISTRICT), Some(5.0), 1, None)]);
}

#[test]
fn a_stationary_device_is_expected_at_home_unless_it_stood_elsewhere() {
    let by_district = Asked { group: &[GroupBy::District], hours: 3, ..MEAN };
    let moved = Member { district: Some(1), ..member(0) };
    // In the first hour in district 2, in the second half here and half there, then silent.
    let lines: Vec<Line> = (0..12).map(|tick| (0, tick * 10, 1.0, if tick < 9 { 2 } else { 1 })).collect();
    let buckets = ask(&by_district, &lines, &[moved]);
    let shown: Vec<_> = buckets.iter().map(|bucket| (bucket.group.district, bucket.count, bucket.expected, bucket.coverage)).collect();
    let home = [(Some(1), 0, None, None), (Some(1), 3, Some(3.0), Some(1.0)), (Some(1), 0, Some(6.0), Some(0.0))];
    let elsewhere = [(Some(2), 6, Some(6.0), Some(1.0)), (Some(2), 3, Some(3.0), Some(1.0)), (Some(2), 0, None, None)];
    assert_eq!(shown, [home, elsewhere].concat());
    // Rows that name no district were made at home.
    let at_home = ask(&Asked { hours: 1, ..by_district }, &[(0, 0, 1.0, NO_DISTRICT)], &[moved]);
    assert_eq!(shown_by_district(&at_home), [(Some(1), Some(1.0), 1, Some(1.0 / 6.0))]);
}

#[test]
fn buckets_come_by_group_and_then_by_window() {
    let members = [Member { kind: 2, ..member(0) }, Member { kind: 1, ..member(1) }, Member { kind: 1, ..member(2) }];
    let lines = [(0, 70, 1.0, 3), (1, 10, 2.0, 3), (1, 80, 3.0, 4), (2, 0, 4.0, 3)];
    let asked = Asked { group: &[GroupBy::District, GroupBy::Kind], hours: 2, fill: Fill::None, ..MEAN };
    let shown: Vec<_> = ask(&asked, &lines, &members)
        .iter()
        .map(|bucket| (bucket.group.kind, bucket.group.district, bucket.window, bucket.value))
        .collect();
    let group = |kind, district| Group { device: None, kind: Some(kind), district: Some(district) };
    assert!(group(1, 3) < group(1, 4) && group(1, 4) < group(2, 3));
    assert_eq!(shown, [(Some(1), Some(3), 0, Some(3.0)), (Some(1), Some(4), 1, Some(3.0)), (Some(2), Some(3), 1, Some(1.0))]);
    let bounds: Vec<_> = ask(&Asked { hours: 2, ..MEAN }, &lines, &members).iter().map(|bucket| (bucket.start, bucket.end)).collect();
    assert_eq!(bounds, [(at(0), at(HOUR)), (at(HOUR), at(2 * HOUR))]);
}

#[test]
fn only_rows_of_members_in_the_windows_count() {
    let lines = [(0, -1, 1.0, 0), (0, 30, 2.0, 0), (7, 30, 100.0, 0), (0, 60, 3.0, 0)];
    for time in ["mean", "time_weighted_mean"] {
        let bucket = ask(&Asked { time, group: &[GroupBy::Device], ..MEAN }, &lines, &[member(0)]).remove(0);
        assert_eq!(bucket.count, 1, "{time}");
    }
    check(&MEAN, &lines, &[Some(2.0)]);
}

#[test]
fn empty_windows_become_what_was_asked_for() {
    let lines = [(0, 70, 10.0, 0), (0, 250, 40.0, 0)];
    let asked = |fill| Asked { hours: 7, fill, ..MEAN };
    check(&asked(Fill::None), &lines, &[Some(10.0), Some(40.0)]);
    check(&asked(Fill::Null), &lines, &[None, Some(10.0), None, None, Some(40.0), None, None]);
    check(&asked(Fill::Previous), &lines, &[None, Some(10.0), Some(10.0), Some(10.0), Some(40.0), Some(40.0), Some(40.0)]);
    check(&asked(Fill::Linear), &lines, &[None, Some(10.0), Some(20.0), Some(30.0), Some(40.0), None, None]);
    let filled: Vec<_> = ask(&asked(Fill::Linear), &lines, &[member(0)]).iter().map(|bucket| (bucket.filled, bucket.coverage)).collect();
    let (made_up, empty, there) = ((true, Some(0.0)), (false, Some(0.0)), (false, Some(1.0 / 6.0)));
    assert_eq!(filled, [empty, there, made_up, made_up, there, empty, empty]);
    // Silent devices have their windows too, but only where empty ones are asked for.
    let by_device = |fill| Asked { hours: 2, group: &[GroupBy::Device], fill, ..MEAN };
    check(&by_device(Fill::None), &lines, &[Some(10.0)]);
    check(&by_device(Fill::Previous), &lines, &[None, Some(10.0), None, None]);
    for fill in [Fill::None, Fill::Null, Fill::Previous, Fill::Linear] {
        assert_eq!(fill.to_string().parse(), Ok(fill));
    }
    assert!("zero".parse::<Fill>().is_err());
}

#[test]
fn windows_that_have_not_begun_are_not_filled() {
    let asked = Asked { hours: 4, fill: Fill::Previous, ..MEAN };
    let buckets = answer(plan(&asked), &[row(&(0, 10, 5.0, 0))], &[member(0)], at(130 * MINUTE)).unwrap();
    let values: Vec<_> = buckets.iter().map(|bucket| bucket.value).collect();
    assert_eq!(values, [Some(5.0), Some(5.0), Some(5.0), None]);
}

#[test]
fn lines_are_not_drawn_over_long_gaps() {
    let asked = |hours| Asked { hours, fill: Fill::Linear, ..MEAN };
    check(&asked(5), &[(0, 0, 0.0, 0), (0, 240, 4.0, 0)], &[0.0, 1.0, 2.0, 3.0, 4.0].map(Some));
    check(&asked(6), &[(0, 0, 0.0, 0), (0, 300, 5.0, 0)], &[Some(0.0), None, None, None, None, Some(5.0)]);
    // A reading every 25 minutes, which holds for 30, still makes a line of minutes.
    let minutes = Asked { size: WindowSize::Minutes(5), fill: Fill::Linear, ..MEAN };
    let expected: Vec<Option<f64>> = (0..12).map(|window| (window <= 5).then_some(f64::from(window))).collect();
    check(&minutes, &[(0, 0, 0.0, 0), (0, 25, 5.0, 0)], &expected);
    let expected: Vec<Option<f64>> = (0..12).map(|window| [0, 10].contains(&window).then_some(f64::from(window))).collect();
    check(&minutes, &[(0, 0, 0.0, 0), (0, 50, 10.0, 0)], &expected);
}

#[test]
fn lines_follow_the_property() {
    let wind = Asked { property: "wind_direction", hours: 3, fill: Fill::Linear, ..MEAN };
    check(&wind, &[(0, 0, 350.0, 0), (0, 120, 20.0, 0)], &[Some(350.0), Some(5.0), Some(20.0)]);
    check(&wind, &[(0, 0, 20.0, 0), (0, 120, 310.0, 0)], &[Some(20.0), Some(345.0), Some(310.0)]);
    check(&wind, &[(0, 0, 90.0, 0), (0, 120, 270.0, 0)], &[Some(90.0), None, Some(270.0)]);
    // How many directions there were is no direction.
    check(&Asked { time: "count", ..wind }, &[(0, 0, 350.0, 0), (0, 120, 20.0, 0)], &[Some(1.0), Some(1.0), Some(1.0)]);
    let lamp = Asked { property: "lamp_state", time: "last", group: &[GroupBy::Device], ..wind };
    check_of(&[member(0)], &lamp, &[(0, 0, 0.0, 0), (0, 120, 2.0, 0)], &[Some(0.0), None, Some(2.0)]);
    let catalogue = Catalogue::built_in();
    let property = catalogue.get(catalogue.find("lamp_state").unwrap());
    assert!(Fill::Linear.check(property, TimeFunction::Last).is_err());
    assert_eq!(Fill::Linear.check(property, TimeFunction::Count), Ok(()));
    assert_eq!(Fill::Previous.check(property, TimeFunction::Last), Ok(()));
}

#[test]
fn a_line_to_a_provisional_value_is_provisional() {
    let asked = Asked { hours: 3, fill: Fill::Linear, ..MEAN };
    let rows = [row(&(0, 0, 0.0, 0)), row(&(0, 130, 2.0, 0))];
    let buckets = answer(plan(&asked), &rows, &[member(0)], at(150 * MINUTE)).unwrap();
    let shown: Vec<_> = buckets.iter().map(|bucket| (bucket.value, bucket.provisional)).collect();
    assert_eq!(shown, [(Some(0.0), false), (Some(1.0), true), (Some(2.0), true)]);
}

#[test]
fn too_large_questions_are_refused() {
    let asked = Asked { size: WindowSize::Minutes(1), time: "p50", fill: Fill::None, ..MEAN };
    let small = |asked: &Asked| Plan { slots_max: 119, rows_max: 2, ..plan(asked) };
    let members = [member(0), member(1)];
    let rows = |lines: &[Line]| lines.iter().map(row).collect::<Vec<_>>();
    let refuse = |asked: &Asked, lines: &[Line]| answer(small(asked), &rows(lines), &members, at(0)).unwrap_err();
    let slots = AggregateError::TooManySlots { series: 2, windows: 60, slots_max: 119 };
    assert_eq!(refuse(&asked, &[(0, 0, 1.0, 0), (1, 0, 1.0, 0)]), slots);
    assert_eq!(refuse(&asked, &[(0, 0, 1.0, 0), (0, 1, 1.0, 0), (0, 2, 1.0, 0)]), AggregateError::TooManyRows { rows_max: 2 });
    // A device that moves about takes as much as several.
    assert_eq!(refuse(&Asked { group: &[GroupBy::District], ..asked }, &[(0, 0, 1.0, 0), (0, 1, 1.0, 1)]), slots);
    // Empty windows take room even without rows.
    assert_eq!(refuse(&Asked { group: &[GroupBy::Device], fill: Fill::Null, ..asked }, &[]), slots);
    assert!(answer(small(&Asked { fill: Fill::Null, ..asked }), &[], &members, at(0)).is_ok());
    let unordered = AggregateError::Unordered { device: 0, time: at(MINUTE) };
    let lamp = Asked { property: "lamp_state", time: "mode", ..asked };
    assert_eq!(refuse(&lamp, &[(0, 2, 1.0, 0), (0, 1, 1.0, 0)]), unordered);
    assert_eq!(refuse(&lamp, &[(0, 1, 1.0, 0), (0, 1, 1.0, 0)]), unordered);
}

#[test]
fn rows_before_the_windows_are_asked_for_where_they_matter() {
    let members = [member(0), Member { interval_s: 900.0, ..member(1) }];
    let lead = |property, time| plan(&Asked { property, time, ..MEAN }).lead(&members);
    assert_eq!(lead("temperature", "mean"), Lead::None);
    assert_eq!(lead("temperature", "time_weighted_mean"), Lead::Within(Duration::from_mins(45)));
    assert_eq!(lead("energy_active", "increase"), Lead::Any);
}

/// Readings every 7 minutes over five days around a clock change in Rome: hours add up to days, however long these are.
#[test]
fn hours_in_rome_add_up_to_days_of_23_and_25_hours() {
    let rome = TimeZone::get("Europe/Rome").unwrap();
    for (first, hours) in [("2024-03-28T23:00:00Z", [24, 24, 23, 24, 24]), ("2024-10-24T22:00:00Z", [24, 24, 25, 24, 24])] {
        let first: Timestamp = first.parse().unwrap();
        let last = first.plus(Duration::from_secs(hours.iter().sum::<u64>() * 3_600));
        let cases = [
            ("rain", "sum"),
            ("rain", "count"),
            ("energy_active", "increase"),
            ("lamp_state", "duration:on"),
            ("lamp_state", "duration:off"),
            ("lamp_state", "changes"),
        ];
        for (property, time) in cases {
            let mut random = fastrand::Rng::with_seed(7);
            let rows: Vec<Row> = (0..1_060_i64)
                .map(|tick| {
                    let value = if property == "lamp_state" { f64::from(random.u8(0..2)) } else { random.f64() * 100.0 };
                    Row { device: 0, time: first.micros() + (tick * 7 - 10) * MINUTE, value, flags: 0, district: NO_DISTRICT }
                })
                .collect();
            let ask = |size| {
                let windows = Windows::new(size, &rome, first, last, 1_000).unwrap();
                let plan = Plan { windows, ..plan(&Asked { property, time, across: "sum", ..MEAN }) };
                answer(plan, &rows, &[member(0)], last).unwrap()
            };
            let (by_hour, by_day) = (ask(WindowSize::Hours(1)), ask(WindowSize::Day));
            assert_eq!(by_day.len(), hours.len());
            for (day, hours) in by_day.iter().zip(hours) {
                let inside: Vec<_> = by_hour.iter().filter(|hour| day.start <= hour.start && hour.start < day.end).collect();
                assert_eq!(u64::try_from(inside.len()).unwrap(), hours);
                let sum = inside.iter().filter_map(|hour| hour.value).sum();
                assert!(is_close(day.value, Some(sum)), "{time}: {:?} {sum}", day.value);
                assert_eq!(day.count, inside.iter().map(|hour| hour.count).sum::<u64>());
                let expected = inside.iter().filter_map(|hour| hour.expected).sum();
                assert!(is_close(day.expected, Some(expected)), "{:?} {expected}", day.expected);
            }
            if time.starts_with("duration") {
                let both: f64 = by_day.iter().filter_map(|day| day.value).sum();
                assert!(both < hours.iter().sum::<u64>() as f64 * 3_600.0);
            }
        }
    }
}

fn lines(
    devices: u32,
    minutes: std::ops::Range<i64>,
    values: std::ops::Range<f64>,
    districts: u16,
    count: usize,
) -> impl Strategy<Value = Vec<Line>> {
    prop::collection::vec((0..devices, minutes, values, 0..districts), 0..count).prop_map(|mut lines| {
        lines.sort_by_key(|line| (line.0, line.1));
        lines.dedup_by_key(|line| (line.0, line.1));
        lines
    })
}

fn groups() -> impl Strategy<Value = &'static [GroupBy]> {
    prop::sample::select(vec![&[][..], &[GroupBy::Device], &[GroupBy::Kind], &[GroupBy::District], &[GroupBy::Kind, GroupBy::District]])
}

/// Stationary ones of two kinds in two districts, and every third a mobile one.
fn members(devices: u32) -> Vec<Member> {
    let one = |(device, number): (u32, u16)| {
        let district = (device % 3 != 2).then_some(number % 2);
        Member { kind: number / 2 % 2, district, interval_s: 600.0 * f64::from(1 + device % 2), ..member(device) }
    };
    (0..devices).zip(0_u16..).map(one).collect()
}

proptest! {
    #[test]
    fn order_of_rows_does_not_show(
        mut lines in lines(4, 0..180, -1e6..1e6_f64, 3, 80),
        seed in any::<u64>(),
        time in prop::sample::select(vec!["mean", "min", "max", "count", "stddev", "p95", "first", "last"]),
        group in groups(),
    ) {
        let asked = Asked { time, group, hours: 3, ..MEAN };
        let straight = ask(&asked, &lines, &members(4));
        fastrand::Rng::with_seed(seed).shuffle(&mut lines);
        let shuffled = ask(&asked, &lines, &members(4));
        prop_assert_eq!(straight.len(), shuffled.len());
        for (one, other) in straight.into_iter().zip(shuffled) {
            prop_assert!(is_close(one.value, other.value), "{:?} {:?}", one, other);
            prop_assert_eq!(Bucket { value: None, ..one }, Bucket { value: None, ..other });
        }
    }

    #[test]
    fn chunks_do_not_show(
        lines in lines(3, -60..180, 0.0..100.0, 2, 80),
        cut in any::<prop::sample::Index>(),
        question in prop::sample::select(vec![
            ("temperature", "mean"), ("noise", "mean"), ("wind_direction", "mean"), ("temperature", "stddev"), ("temperature", "p50"),
            ("energy_active", "increase"), ("temperature", "time_weighted_mean"),
        ]),
        group in groups(),
    ) {
        let asked = Asked { property: question.0, time: question.1, group, hours: 3, ..MEAN };
        let rows: Vec<Row> = lines.iter().map(row).collect();
        let whole = answer(plan(&asked), &rows, &members(3), at(3 * HOUR)).unwrap();
        let mut aggregator = Aggregator::new(plan(&asked), members(3)).unwrap();
        let (head, tail) = rows.split_at(cut.index(rows.len() + 1));
        for row in head {
            aggregator.push(*row).unwrap();
        }
        push(&mut aggregator, tail).unwrap();
        for (one, other) in whole.into_iter().zip(aggregator.finish(at(3 * HOUR), Duration::from_mins(10)).unwrap()) {
            prop_assert!(is_close(one.value, other.value), "{:?} {:?}", one, other);
            prop_assert_eq!(Bucket { value: None, ..one }, Bucket { value: None, ..other });
        }
    }

    #[test]
    fn hours_add_up_to_days(
        mut lines in lines(3, -60..2_880, 0.0..1e6_f64, 1, 200),
        property in prop::sample::select(vec![
            ("energy_active", "increase"), ("rain", "sum"), ("rain", "count"), ("lamp_state", "duration:on"), ("lamp_state", "changes"),
        ]),
    ) {
        if property.0 == "lamp_state" {
            for line in &mut lines {
                line.2 = (line.2 % 2.0).floor();
            }
        }
        let sum = |size| {
            let asked = Asked { property: property.0, time: property.1, across: "sum", size, hours: 48, ..MEAN };
            ask(&asked, &lines, &[member(0), member(1), member(2)]).iter().filter_map(|bucket| bucket.value).sum::<f64>()
        };
        let (hours, days) = (sum(WindowSize::Hours(1)), sum(WindowSize::Day));
        prop_assert!(is_close(Some(hours), Some(days)), "{hours} {days}");
    }

    #[test]
    fn a_naive_reference_agrees(
        lines in lines(5, -60..180, -100.0..100.0, 3, 120),
        time in prop::sample::select(vec!["mean", "sum", "min", "max", "count", "first", "last", "stddev", "p50", "p90"]),
        across in prop::sample::select(vec!["mean", "sum", "min", "max", "count", "p50"]),
        group in groups(),
    ) {
        let asked = Asked { property: "rain", time, across, group, hours: 3, ..MEAN };
        check_against(&asked, &lines, &members(5), |values: &[(i64, f64)], _before| naive(time, &values.iter().map(|one| one.1).collect::<Vec<_>>()))?;
    }

    #[test]
    fn a_naive_counter_agrees(lines in lines(4, -60..180, 0.0..100.0, 2, 120)) {
        let asked = Asked { property: "energy_active", time: "increase", across: "sum", hours: 3, ..MEAN };
        check_against(&asked, &lines, &members(4), |values, before| {
            let all: Vec<f64> = before.into_iter().chain(values.iter().copied()).map(|one| one.1).collect();
            let growth = all.windows(2).map(|pair| if pair[1] < pair[0] { pair[1] } else { pair[1] - pair[0] });
            (all.len() > 1 && !values.is_empty()).then(|| growth.sum())
        })?;
    }

    #[test]
    fn a_minute_by_minute_reference_agrees(
        mut lines in lines(2, -60..180, 0.0..3.0, 1, 60),
        time in prop::sample::select(vec!["duration:on", "time_weighted_mean", "mode"]),
    ) {
        for line in &mut lines {
            line.2 = line.2.floor();
        }
        let property = if time == "time_weighted_mean" { "temperature" } else { "lamp_state" };
        let asked = Asked { property, time, group: &[GroupBy::Device], hours: 3, ..MEAN };
        for bucket in ask(&asked, &lines, &[member(0), member(1)]) {
            let device = bucket.group.device.unwrap();
            let held = |minute: i64| {
                let newest = lines.iter().rfind(|line| line.0 == device && line.1 <= minute)?;
                (minute < newest.1 + 30).then_some(newest.2)
            };
            let states: Vec<f64> = (bucket.start.micros() / MINUTE..bucket.end.micros() / MINUTE).filter_map(held).collect();
            let held_for = |state: f64| states.iter().filter(|held| (**held - state).abs() < 0.5).count();
            let expected = (!states.is_empty()).then(|| match time {
                "duration:on" => held_for(1.0) as f64 * 60.0,
                "mode" => [2.0, 1.0, 0.0].into_iter().max_by_key(|state| held_for(*state)).unwrap(),
                _ => states.iter().sum::<f64>() / states.len() as f64,
            });
            prop_assert!(is_close(bucket.value, expected), "{:?} {:?}", bucket, expected);
        }
    }

    #[test]
    fn filling_adds_windows_and_changes_none(
        lines in lines(2, 0..600, 0.0..100.0, 1, 12),
        property in prop::sample::select(vec!["temperature", "wind_direction"]),
    ) {
        let asked = |fill| Asked { property, hours: 10, group: &[GroupBy::Device], fill, ..MEAN };
        let two = [member(0), member(1)];
        let bare = ask(&asked(Fill::None), &lines, &two);
        let null = ask(&asked(Fill::Null), &lines, &two);
        prop_assert_eq!(null.len(), 20);
        prop_assert_eq!(null.iter().filter(|bucket| bucket.count > 0).cloned().collect::<Vec<_>>(), bare);
        for fill in [Fill::Previous, Fill::Linear] {
            let mut previous: Option<Bucket> = None;
            for (empty, filled) in null.iter().zip(ask(&asked(fill), &lines, &two)) {
                if previous.as_ref().is_some_and(|previous| previous.group != empty.group) {
                    previous = None;
                }
                if !filled.filled {
                    prop_assert_eq!(&filled, empty);
                    prop_assert!(fill != Fill::Previous || filled.value.is_some() || previous.is_none() || filled.count > 0);
                }
                if filled.filled {
                    prop_assert_eq!((empty.count, empty.value), (0, None));
                    let (value, before) = (filled.value.unwrap(), previous.as_ref().and_then(|previous| previous.value));
                    if fill == Fill::Previous {
                        prop_assert_eq!(Some(value), before);
                    }
                    if property == "wind_direction" {
                        prop_assert!((0.0..360.0).contains(&value));
                    }
                }
                if filled.value.is_some() {
                    previous = Some(filled);
                }
            }
        }
    }

    #[test]
    fn lines_are_straight(from in 0.0..360.0_f64, turn in -179.0..179.0_f64, gap in 1_i64..4) {
        let to = (from + turn + 360.0) % 360.0;
        let lines = [(0, 0, from, 0), (0, (gap + 1) * 60, to, 0)];
        let wind = Asked { property: "wind_direction", hours: gap + 2, fill: Fill::Linear, ..MEAN };
        for (step, bucket) in ask(&wind, &lines, &[member(0)]).iter().enumerate() {
            let expected = from + turn * step as f64 / (gap + 1) as f64;
            // Directions a whole turn apart are the same.
            let apart: f64 = (bucket.value.unwrap() - expected + 540.0).rem_euclid(360.0) - 180.0;
            prop_assert!(apart.abs() < 1e-9, "{apart}");
        }
        for (step, bucket) in ask(&Asked { property: "temperature", ..wind }, &lines, &[member(0)]).iter().enumerate() {
            let expected = from + (to - from) * step as f64 / (gap + 1) as f64;
            prop_assert!(is_close(bucket.value, Some(expected)));
        }
    }
}

fn naive(function: &str, values: &[f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let percentile = |rank: f64| {
        let position = rank / 100.0 * (count - 1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a position among the values")]
        let (low, high) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
        low * (1.0 - position.fract()) + high * position.fract()
    };
    match function {
        "mean" => Some(mean),
        "sum" => Some(mean * count),
        "min" => sorted.first().copied(),
        "max" => sorted.last().copied(),
        "count" => Some(count),
        "first" => values.first().copied(),
        "last" => values.last().copied(),
        "p50" => Some(percentile(50.0)),
        "p90" => Some(percentile(90.0)),
        _ => (values.len() > 1).then(|| (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt()),
    }
}

/// Holds every bucket against what is filtered from all rows. `in_time` gets a device's rows of the window, and its row before them.
fn check_against(
    asked: &Asked,
    lines: &[Line],
    members: &[Member],
    in_time: impl Fn(&[(i64, f64)], Option<(i64, f64)>) -> Option<f64>,
) -> Result<(), TestCaseError> {
    let buckets = ask(asked, lines, members);
    let by_district = asked.group.contains(&GroupBy::District);
    // Each row of the windows is in one bucket.
    let rows = lines.iter().filter(|line| line.1 >= 0).count();
    prop_assert_eq!(buckets.iter().map(|bucket| bucket.count).sum::<u64>(), u64::try_from(rows).unwrap());
    for bucket in buckets {
        let (start, end) = (bucket.start.micros() / MINUTE, bucket.end.micros() / MINUTE);
        let (mut count, mut expected, mut shares, mut weights, mut values) = (0, 0.0, 0.0, 0.0, Vec::new());
        for member in members {
            let is_asked = bucket.group.device.is_none_or(|device| device == member.device)
                && bucket.group.kind.is_none_or(|kind| kind == member.kind);
            if !is_asked {
                continue;
            }
            let everywhere: Vec<_> = lines.iter().filter(|line| line.0 == member.device && line.1 < end).collect();
            let before = everywhere.iter().rfind(|line| line.1 < start).map(|line| (line.1, line.2));
            let everywhere: Vec<_> = everywhere.into_iter().filter(|line| line.1 >= start).collect();
            let here: Vec<(i64, f64)> = everywhere
                .iter()
                .filter(|line| bucket.group.district.is_none_or(|district| district == line.3))
                .map(|line| (line.1, line.2))
                .collect();
            let weight = match (bucket.group.district, member.district) {
                (None, _) => 1.0,
                (Some(_), None) => 0.0,
                (Some(district), Some(home)) if everywhere.is_empty() => f64::from(u8::from(district == home)),
                _ => here.len() as f64 / everywhere.len() as f64,
            };
            let due = 3_600.0 / member.interval_s;
            count += here.len();
            expected += weight * due;
            weights += weight;
            shares += weight * if by_district { everywhere.len() } else { here.len() } as f64 / due.max(everywhere.len() as f64);
            values.extend(in_time(&here, before));
        }
        prop_assert_eq!((bucket.count, bucket.devices), (u64::try_from(count).unwrap(), u32::try_from(values.len()).unwrap()));
        prop_assert!(is_close(bucket.expected, (weights > 0.0).then_some(expected)), "{:?} {}", bucket, expected);
        prop_assert!(is_close(bucket.coverage, (weights > 0.0).then(|| shares / weights)), "{:?} {}", bucket, shares);
        let value = if bucket.group.device.is_some() { values.first().copied() } else { naive(asked.across, &values) };
        prop_assert!(is_close(bucket.value, value), "{:?} {:?}", bucket, value);
    }
    Ok(())
}
