//! From the series' answers to buckets: groups, the function across devices, coverage, and what becomes of empty windows.
//!
//! Coverage is the mean, over the group's devices, of the share min(count / expected, 1): a chatty device does not hide a silent one,
//! and each weighs as much as it does in the answer. A window that is not over expects only the readings that are due by now: one for
//! each whole interval that has passed.
//!
//! Grouped by district, rows count where they were made. A stationary device is expected at home, also when it is silent; in a window
//! where its rows say that it stood elsewhere (it was moved, or its district was drawn anew), what is expected of it is shared out
//! over its districts as its rows are. A mobile device is expected in no district, as nobody knows where it should have been.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::accumulator::{across, normal_degrees};
use super::{Answer, GroupBy, Member, NO_DISTRICT, Plan, Series};
use crate::model::Windows;
use crate::model::{Kind, Property, Summary, Timestamp};
use crate::query::function::{FunctionError, TimeFunction};

/// What becomes of windows without rows. A made-up value is marked by [`Bucket::filled`]. There is no filling with zero: a silent
/// counter of vehicles does not mean that none came by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fill {
    /// They are left out.
    #[default]
    None,
    /// They come without a value.
    Null,
    /// They take the value of the window before, if any has one; windows that have not begun do not.
    Previous,
    /// They lie on the line between the windows before and after that have a value, by the windows' middles; directions turn the
    /// shorter way. They come without a value where one of the two is missing, where the gap is longer than three windows and also
    /// longer than values hold ([`Plan::hold_intervals`]), between opposite directions, and between states.
    Linear,
}

/// Whose answer a bucket is; parts by which answers are not grouped are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group {
    /// The device.
    pub device: Option<u32>,
    /// The kind.
    pub kind: Option<u16>,
    /// The district, or [`NO_DISTRICT`] for what was observed outside all of them, and for mobile devices that are silent.
    pub district: Option<u16>,
}

/// One group in one window.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    /// Whose answer it is.
    pub group: Group,
    /// The window's place in [`Plan::windows`].
    pub window: usize,
    /// Where the window begins.
    pub start: Timestamp,
    /// Where it ends; it does not hold this instant.
    pub end: Timestamp,
    /// The answer. None where there are no rows, or none is defined: the mean of opposite directions, the growth of a counter that
    /// was read once.
    pub value: Option<f64>,
    /// How many rows of the window were used.
    pub count: u64,
    /// How many devices have a result in the window.
    pub devices: u32,
    /// How many rows were expected of the group's devices, up to now; a fraction where windows are no multiple of the interval. None
    /// where no device is expected at all.
    pub expected: Option<f64>,
    /// Which part of what was expected came, from 0 to 1. None where nothing was, or nothing is due yet.
    pub coverage: Option<f64>,
    /// The worst quality: bits of [`crate::model::Flags`] of all rows that the value rests on.
    pub flags: u16,
    /// Whether rows may still come that change it.
    pub provisional: bool,
    /// Whether the value was made up by [`Fill`].
    pub filled: bool,
}

impl Fill {
    /// Refuses what makes no sense for the property after the function in time.
    pub fn check(self, property: &Property, time: TimeFunction) -> Result<(), FunctionError> {
        if self == Self::Linear && property.kind == Kind::State && time.keeps_meaning() {
            let reason = "there is nothing between two states";
            return Err(FunctionError::Senseless { function: self.to_string(), property: property.id.clone(), reason });
        }
        Ok(())
    }
}

impl FromStr for Fill {
    type Err = FunctionError;

    fn from_str(text: &str) -> Result<Self, FunctionError> {
        let known = [Self::None, Self::Null, Self::Previous, Self::Linear].into_iter().find(|fill| fill.to_string() == text);
        known.ok_or_else(|| FunctionError::Unknown(text.chars().take(40).collect(), "to fill windows"))
    }
}

impl fmt::Display for Fill {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::None => "none",
            Self::Null => "null",
            Self::Previous => "previous",
            Self::Linear => "linear",
        })
    }
}

/// A member's part in a group.
struct Part<'a> {
    member: &'a Member,
    /// What it reported; none for a silent member.
    answers: Option<&'a [Answer]>,
    expectation: Expectation<'a>,
}

/// Which part of a member's rows is expected in a group.
enum Expectation<'a> {
    Whole,
    None,
    /// As much as its rows there are of all its rows, given by window; while it is silent, all at home.
    Shared {
        totals: &'a [u64],
        is_home: bool,
    },
}

/// The buckets, by group and then by window.
pub(super) fn buckets(plan: &Plan, members: &[Member], series: &[Series<Answer>], now: Timestamp, lateness: Duration) -> Vec<Bucket> {
    let totals = totals_of_moved(plan, members, series);
    let mut values = Vec::new();
    let mut all = Vec::new();
    for (group, parts) in groups(plan, members, series, &totals) {
        // Nothing of a silent group would be left.
        if plan.fill == Fill::None && parts.iter().all(|part| part.answers.is_none()) {
            continue;
        }
        let windows = 0..plan.windows.len();
        let mut buckets: Vec<_> = windows.map(|window| bucket(plan, group, &parts, window, now, lateness, &mut values)).collect();
        fill(plan, &parts, now, &mut buckets);
        all.append(&mut buckets);
    }
    all
}

/// How many groups there are even without any row.
pub(super) fn count_groups(plan: &Plan, members: &[Member]) -> usize {
    let mut groups: Vec<Group> = members.iter().map(|member| group(plan, member, home(plan, member))).collect();
    groups.sort_unstable();
    groups.dedup();
    groups.len()
}

fn group(plan: &Plan, member: &Member, district: u16) -> Group {
    Group {
        device: plan.groups_by(GroupBy::Device).then_some(member.device),
        kind: plan.groups_by(GroupBy::Kind).then_some(member.kind),
        district: plan.groups_by(GroupBy::District).then_some(district),
    }
}

/// The district of a member's series while it does not move.
fn home(plan: &Plan, member: &Member) -> u16 {
    member.district.filter(|_district| plan.groups_by(GroupBy::District)).unwrap_or(NO_DISTRICT)
}

/// By member, its rows in all districts by window; empty for all but stationary ones with rows from elsewhere.
fn totals_of_moved(plan: &Plan, members: &[Member], series: &[Series<Answer>]) -> Vec<Vec<u64>> {
    let mut totals = vec![Vec::new(); members.len()];
    for one in series {
        let is_moved = members.get(one.member).is_some_and(|member| member.district.is_some() && one.district != home(plan, member));
        if let (true, Some(total)) = (is_moved, totals.get_mut(one.member)) {
            total.resize(plan.windows.len(), 0);
        }
    }
    for one in series {
        for (total, answer) in totals.get_mut(one.member).into_iter().flatten().zip(&one.slots) {
            *total += u64::from(answer.count);
        }
    }
    totals
}

fn groups<'a>(plan: &Plan, members: &'a [Member], series: &'a [Series<Answer>], totals: &'a [Vec<u64>]) -> BTreeMap<Group, Vec<Part<'a>>> {
    let mut groups: BTreeMap<Group, Vec<Part<'_>>> = BTreeMap::new();
    let mut add = |member: &'a Member, district: u16, answers: Option<&'a [Answer]>, totals: &'a [u64]| {
        let expectation = if (plan.by_place || plan.groups_by(GroupBy::District)) && member.district.is_none() {
            Expectation::None
        } else if totals.is_empty() {
            Expectation::Whole
        } else {
            Expectation::Shared { totals, is_home: district == home(plan, member) }
        };
        groups.entry(group(plan, member, district)).or_default().push(Part { member, answers, expectation });
    };
    let mut is_listed = vec![false; members.len()];
    for one in series {
        let (Some(member), Some(totals), Some(is_listed)) =
            (members.get(one.member), totals.get(one.member), is_listed.get_mut(one.member))
        else {
            continue;
        };
        // A mobile device belongs wherever its rows say, a stationary one also where it is at home.
        *is_listed |= member.district.is_none() || one.district == home(plan, member);
        add(member, one.district, Some(&one.slots), totals);
    }
    for ((member, totals), _listed) in members.iter().zip(totals).zip(is_listed).filter(|(_member, is_listed)| !is_listed) {
        add(member, home(plan, member), None, totals);
    }
    // Series come in the order of their first rows, which must not show in the last digit of an answer.
    for parts in groups.values_mut() {
        parts.sort_by_key(|part| part.member.device);
    }
    groups
}

fn bucket(
    plan: &Plan,
    group: Group,
    parts: &[Part<'_>],
    window: usize,
    now: Timestamp,
    lateness: Duration,
    values: &mut Vec<f64>,
) -> Bucket {
    let (start, end) = plan.windows.bounds(window);
    values.clear();
    let (mut count, mut flags, mut expected) = (0, 0, None);
    // Devices, or parts of them, and the sum of their shares.
    let (mut weights, mut shares) = (0.0, 0.0);
    for part in parts {
        let answer = part.answers.and_then(|answers| answers.get(window));
        let rows = answer.map_or(0, |answer| u64::from(answer.count));
        if let Some(answer) = answer {
            count += rows;
            flags |= answer.flags;
            values.extend(answer.value);
        }
        let weight = part.expectation.weight(window, rows);
        if let (true, Some(due)) = (weight > 0.0, due(part.member, start, end, now)) {
            *expected.get_or_insert(0.0) += weight * due;
            if due > 0.0 {
                weights += weight;
                shares += (rows as f64 / due).min(weight);
            }
        }
    }
    // A device alone has nothing to be put together with.
    let value = if group.device.is_some() { values.first().copied() } else { across(plan.across, plan.summary_after_time(), values) };
    Bucket {
        group,
        window,
        start,
        end,
        value,
        count,
        devices: u32::try_from(values.len()).unwrap_or(u32::MAX),
        expected,
        coverage: (weights > 0.0).then(|| (shares / weights).min(1.0)),
        flags,
        provisional: now < end.plus(lateness),
        filled: false,
    }
}

impl Expectation<'_> {
    /// From 0 to 1, for a member with so many rows in the group.
    fn weight(&self, window: usize, rows: u64) -> f64 {
        match self {
            Self::Whole => 1.0,
            Self::None => 0.0,
            Self::Shared { totals, is_home } => match totals.get(window) {
                Some(total) if *total > 0 => rows as f64 / *total as f64,
                _ => f64::from(u8::from(*is_home)),
            },
        }
    }
}

/// How many rows of a member are due in a window by now; none where nothing is known about its interval.
fn due(member: &Member, start: Timestamp, end: Timestamp, now: Timestamp) -> Option<f64> {
    if member.interval_s > 0.0 {
        let rows = now.min(end).since(start).as_secs_f64() / member.interval_s;
        Some(if now < end { rows.floor() } else { rows })
    } else {
        None
    }
}

/// The longest gap, in windows, over which a line is drawn in any case.
const LINE_WINDOWS_MAX: usize = 3;

/// Deals with the empty windows of one group. A window with rows but without a value is not empty: what it lacks is not data.
fn fill(plan: &Plan, parts: &[Part<'_>], now: Timestamp, buckets: &mut Vec<Bucket>) {
    match plan.fill {
        Fill::None => buckets.retain(|bucket| !bucket.is_empty()),
        Fill::Null => {}
        Fill::Previous => {
            let mut previous = None;
            for bucket in buckets {
                if let (true, true, Some((value, flags))) = (bucket.is_empty(), bucket.start < now, previous) {
                    bucket.make_up(value, flags);
                }
                previous = bucket.value.map(|value| (value, bucket.flags)).or(previous);
            }
        }
        Fill::Linear if plan.summary_after_time() == Summary::Coded => {}
        Fill::Linear => {
            let heard = parts.iter().filter(|part| part.answers.is_some());
            let hold_micros = heard.map(|part| plan.hold_micros(part.member)).max().unwrap_or(0);
            let known: Vec<Known> = buckets.iter().filter_map(Known::of).collect();
            for (from, to) in known.iter().zip(known.iter().skip(1)) {
                // Buckets are still one for each window.
                let gap = buckets.get_mut(from.window + 1..to.window).unwrap_or_default();
                if gap.len() > LINE_WINDOWS_MAX && to.start.micros() - from.end.micros() > hold_micros {
                    continue;
                }
                for bucket in gap.iter_mut().filter(|bucket| bucket.is_empty()) {
                    if let Some(value) = interpolate(plan, from, to, bucket.window) {
                        bucket.make_up(value, from.flags | to.flags);
                        bucket.provisional |= to.provisional;
                    }
                }
            }
        }
    }
}

impl Bucket {
    /// Whether it has neither rows nor what values from before amount to.
    fn is_empty(&self) -> bool {
        self.count == 0 && self.value.is_none()
    }

    fn make_up(&mut self, value: f64, flags: u16) {
        self.value = Some(value);
        self.flags |= flags;
        self.filled = true;
    }
}

/// A bucket with a value, at one end of a gap.
struct Known {
    window: usize,
    start: Timestamp,
    end: Timestamp,
    value: f64,
    flags: u16,
    provisional: bool,
}

impl Known {
    fn of(bucket: &Bucket) -> Option<Self> {
        let Bucket { window, start, end, value: Some(value), flags, provisional, .. } = *bucket else { return None };
        Some(Self { window, start, end, value, flags, provisional })
    }
}

fn interpolate(plan: &Plan, from: &Known, to: &Known, window: usize) -> Option<f64> {
    let (start, end) = (middle(&plan.windows, from.window), middle(&plan.windows, to.window));
    let part = (middle(&plan.windows, window) - start) / (end - start);
    if plan.summary_after_time() == Summary::Circular {
        let turn = (to.value - from.value + 180.0).rem_euclid(360.0) - 180.0;
        // Neither way is the shorter one.
        (turn > -180.0).then(|| normal_degrees(from.value + turn * part))
    } else {
        Some(from.value + (to.value - from.value) * part)
    }
}

fn middle(windows: &Windows, window: usize) -> f64 {
    let (start, end) = windows.bounds(window);
    f64::midpoint(start.micros() as f64, end.micros() as f64)
}
