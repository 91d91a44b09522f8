//! The aggregator: rows in, buckets out, in two steps. Per device (and per district, where answers are grouped by it) and window
//! the function in time; then per group and window the function across devices.
//!
//! Guarantees:
//! - Memory is bounded: a slot for each series that has rows and each window, up to a limit, and as many buckets for empty windows where
//!   these are asked for; only percentiles keep rows, up to another limit.
//! - For functions that look at each row alone the order of rows does not show in the answer: sums are compensated.
//! - What pairs of readings and holding values contribute is cut so that short windows add up to long ones.
//!
//! Not here: which rows a question is about, and whether a function makes sense for a property ([`TimeFunction::check`]).

mod accumulator;
mod bucket;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use accumulator::{Accumulator, Role};
pub use bucket::{Bucket, Fill, Group};

use super::function::{AcrossFunction, FunctionError, TimeFunction};
use crate::model::{Summary, Timestamp, Windows};
use crate::rollup::Statistics;

/// The district of a row that has none.
pub const NO_DISTRICT: u16 = u16::MAX;

/// What answers are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Each device alone: there is nothing left to do across devices.
    Device,
    /// Devices of a kind.
    Kind,
    /// Observations made in a district.
    District,
}

/// A question about rows of one property.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The windows.
    pub windows: Windows,
    /// What is made of each device's rows in a window.
    pub time: TimeFunction,
    /// What is made of the devices' results.
    pub across: AcrossFunction,
    /// What answers are told apart by; none means all devices together.
    pub group: Vec<GroupBy>,
    /// The property's arithmetic.
    pub summary: Summary,
    /// What becomes of windows without rows.
    pub fill: Fill,
    /// Whether rows are only those made in some places: then a mobile device, which has no district, is expected nowhere.
    pub by_place: bool,
    /// How long a value holds while no other comes, in expected intervals of its device.
    pub hold_intervals: f64,
    /// Most slots: series times windows. A series is a device, or a device in a district.
    pub slots_max: usize,
    /// Most rows kept for percentiles.
    pub rows_max: usize,
    /// Whether percentiles come from sketches: they keep no rows, and are within [`crate::rollup::RELATIVE_ERROR`].
    pub sketched: bool,
}

/// A device that belongs to the question, also one that is silent: it lowers the coverage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Member {
    /// Its number in rows; numbers are dense and each appears once.
    pub device: u32,
    /// The number of its kind.
    pub kind: u16,
    /// The district of a stationary device. None means mobile: it belongs wherever its rows say.
    pub district: Option<u16>,
    /// Expected time between two of its readings, in seconds.
    pub interval_s: f64,
}

/// One observation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Its device's number.
    pub device: u32,
    /// Phenomenon time in microseconds.
    pub time: i64,
    /// Finite, in the canonical unit.
    pub value: f64,
    /// Bits of [`crate::model::Flags`].
    pub flags: u16,
    /// The number of its district, or [`NO_DISTRICT`].
    pub district: u16,
}

/// Which rows before the windows an answer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    /// None.
    None,
    /// Each device's last one, if it is not older than this: then it no longer holds.
    Within(Duration),
    /// Each device's last one, however old.
    Any,
}

/// The aggregate cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AggregateError {
    /// More slots than are allowed.
    #[error(
        "{series} series of {windows} windows are more than the {slots_max} buckets allowed: ask for longer windows, less time or fewer devices"
    )]
    TooManySlots { series: usize, windows: usize, slots_max: usize },
    /// More rows than may be kept.
    #[error("a percentile needs all values at once, and there are more than the {rows_max} allowed: ask for less time or fewer devices")]
    TooManyRows { rows_max: usize },
    /// A rollup cannot tell how much a counter grew, since its device moved that day: ask the rows.
    #[error("device {device} moved while it counted")]
    Moved { device: u32 },
    /// A device's rows do not come by ascending time, which the plan needs.
    #[error("rows of device {device} are not in order at {time}")]
    Unordered { device: u32, time: Timestamp },
}

impl GroupBy {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Device, Self::Kind, Self::District];

    /// Its word in questions and answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Kind => "kind",
            Self::District => "district",
        }
    }
}

impl FromStr for GroupBy {
    type Err = FunctionError;

    fn from_str(text: &str) -> Result<Self, FunctionError> {
        let known = Self::ALL.into_iter().find(|group| group.word() == text);
        known.ok_or_else(|| FunctionError::Unknown(text.chars().take(40).collect(), "to group by"))
    }
}

impl fmt::Display for GroupBy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

impl Plan {
    /// Whether each device's rows must come by ascending time.
    pub fn needs_order(&self) -> bool {
        self.time.needs_order()
    }

    /// Which rows before [`Windows::start`] the answer needs besides those of the windows.
    pub fn lead(&self, members: &[Member]) -> Lead {
        match self.time {
            TimeFunction::Increase | TimeFunction::Changes => Lead::Any,
            TimeFunction::TimeWeightedMean | TimeFunction::Mode | TimeFunction::Duration(_) => {
                let longest = members.iter().map(|member| self.hold_micros(member)).max().unwrap_or(0);
                Lead::Within(Duration::from_micros(longest.unsigned_abs()))
            }
            _ => Lead::None,
        }
    }

    fn groups_by(&self, group: GroupBy) -> bool {
        self.group.contains(&group)
    }

    /// The arithmetic of what the function in time gives.
    fn summary_after_time(&self) -> Summary {
        if self.time.keeps_meaning() { self.summary } else { Summary::Arithmetic }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a float becomes the nearest integer, and not a number becomes zero")]
    fn hold_micros(&self, member: &Member) -> i64 {
        // A century is as good as for ever, and leaves room to add it to any time.
        (self.hold_intervals * member.interval_s * 1e6).clamp(0.0, 3.2e15) as i64
    }
}

/// Takes the rows of one question and makes the buckets of its answer.
pub struct Aggregator(Box<dyn Engine>);

impl Aggregator {
    /// An aggregator over `members`, every device that belongs to the question. Rows of other devices are left out.
    pub fn new(plan: Plan, members: Vec<Member>) -> Result<Self, AggregateError> {
        use accumulator as of;
        // Who wants empty windows too gets them for each group, also for those without any row.
        let (windows, slots_max) = (plan.windows.len(), plan.slots_max);
        let series = if plan.fill == Fill::None { 0 } else { bucket::count_groups(&plan, &members) };
        if series.saturating_mul(windows) > slots_max {
            return Err(AggregateError::TooManySlots { series, windows, slots_max });
        }
        let (time, summary, sketched) = (plan.time, plan.summary, plan.sketched);
        let frame = Frame::new(plan, members);
        Ok(Self(match (time, summary) {
            (TimeFunction::Count, _) => Grid::<of::Count>::boxed(frame),
            (TimeFunction::Sum, Summary::Energetic) => Grid::<of::EnergeticSum>::boxed(frame),
            (TimeFunction::Sum, _) => Grid::<of::Sum>::boxed(frame),
            (TimeFunction::Mean, Summary::Circular) => Grid::<of::CircularMean>::boxed(frame),
            (TimeFunction::Mean, Summary::Energetic) => Grid::<of::EnergeticMean>::boxed(frame),
            (TimeFunction::Mean, _) => Grid::<of::Mean>::boxed(frame),
            (TimeFunction::Min, _) => Grid::<of::Min>::boxed(frame),
            (TimeFunction::Max, _) => Grid::<of::Max>::boxed(frame),
            (TimeFunction::First, _) => Grid::<of::First>::boxed(frame),
            (TimeFunction::Last, _) => Grid::<of::Last>::boxed(frame),
            (TimeFunction::Stddev, _) => Grid::<of::Stddev>::boxed(frame),
            (TimeFunction::Percentile(_), _) if sketched => Grid::<of::SketchedPercentile>::boxed(frame),
            (TimeFunction::Percentile(_), _) => Grid::<of::Percentile>::boxed(frame),
            (TimeFunction::Increase, _) => Grid::<of::Increase>::boxed(frame),
            (TimeFunction::TimeWeightedMean, Summary::Energetic) => Grid::<of::EnergeticTimeWeightedMean>::boxed(frame),
            (TimeFunction::TimeWeightedMean, _) => Grid::<of::TimeWeightedMean>::boxed(frame),
            (TimeFunction::Mode, _) => Grid::<of::Mode>::boxed(frame),
            (TimeFunction::Changes, _) => Grid::<of::Changes>::boxed(frame),
            (TimeFunction::Duration(_), _) => Grid::<of::TimeInState>::boxed(frame),
        }))
    }

    /// Takes one row.
    pub fn push(&mut self, row: Row) -> Result<(), AggregateError> {
        use std::slice::from_ref;
        self.push_chunk(from_ref(&row.device), from_ref(&row.time), from_ref(&row.value), from_ref(&row.flags), from_ref(&row.district))
    }

    /// Takes rows as columns of equal length. Rows before the windows only tell what was before; rows after them are left out.
    pub fn push_chunk(
        &mut self,
        device: &[u32],
        time: &[i64],
        value: &[f64],
        flags: &[u16],
        district: &[u16],
    ) -> Result<(), AggregateError> {
        debug_assert!([time.len(), value.len(), flags.len(), district.len()] == [device.len(); 4], "columns of equal length");
        self.0.push(Rows { device, time, value, flags, district })
    }

    /// Takes buckets of a rollup as columns of equal length: each lies in one window. Where rows must come by ascending time, so must
    /// buckets.
    pub fn push_rollup(
        &mut self,
        device: &[u32],
        start: &[i64],
        district: &[u16],
        statistics: &[Statistics],
    ) -> Result<(), AggregateError> {
        debug_assert!([start.len(), district.len(), statistics.len()] == [device.len(); 3], "columns of equal length");
        let columns = device.iter().zip(start).zip(district).zip(statistics);
        columns.into_iter().try_for_each(|(((device, start), district), statistics)| self.0.merge(*device, *start, *district, statistics))
    }

    /// The buckets, by group and then by window. `now` ends what is expected of a window that is not over; a window is provisional
    /// until rows that come `lateness` behind it cannot change it any more.
    pub fn finish(self, now: Timestamp, lateness: Duration) -> Result<Vec<Bucket>, AggregateError> {
        let (frame, series) = self.0.finish(now)?;
        Ok(bucket::buckets(&frame.plan, &frame.members, &series, now, lateness))
    }
}

/// Rows as columns of equal length.
#[derive(Clone, Copy)]
struct Rows<'a> {
    device: &'a [u32],
    time: &'a [i64],
    value: &'a [f64],
    flags: &'a [u16],
    district: &'a [u16],
}

/// A grid of any accumulator.
trait Engine: Send {
    fn push(&mut self, rows: Rows<'_>) -> Result<(), AggregateError>;
    fn merge(&mut self, device: u32, start: i64, district: u16, rows: &Statistics) -> Result<(), AggregateError>;
    fn finish(self: Box<Self>, now: Timestamp) -> Result<(Frame, Vec<Series<Answer>>), AggregateError>;
}

/// The plan, and what is looked up for each row.
struct Frame {
    plan: Plan,
    members: Vec<Member>,
    /// The place in `members` by device number.
    places: Vec<u32>,
    by_district: bool,
    /// The percentile's rank or the state's code.
    parameter: f64,
    start: i64,
    end: i64,
}

/// In [`Frame::places`]: not a member.
const NO_MEMBER: u32 = u32::MAX;

impl Frame {
    fn new(plan: Plan, members: Vec<Member>) -> Self {
        let mut places = Vec::new();
        for (place, member) in (0..NO_MEMBER).zip(&members) {
            let device = usize::try_from(member.device).unwrap_or(usize::MAX);
            if places.len() <= device {
                places.resize(device + 1, NO_MEMBER);
            }
            if let Some(known) = places.get_mut(device) {
                *known = place;
            }
        }
        let parameter = match plan.time {
            TimeFunction::Percentile(rank) => rank,
            TimeFunction::Duration(code) => f64::from(code),
            _ => 0.0,
        };
        let (start, end) = (plan.windows.start().micros(), plan.windows.end().micros());
        Self { by_district: plan.groups_by(GroupBy::District), plan, members, places, parameter, start, end }
    }

    fn place(&self, device: u32) -> Option<usize> {
        let place = *self.places.get(usize::try_from(device).ok()?)?;
        if place == NO_MEMBER { None } else { usize::try_from(place).ok() }
    }
}

/// One device, or one device in one district, over all windows.
struct Series<S> {
    /// Its place among the members.
    member: usize,
    /// [`NO_DISTRICT`] also where answers are not grouped by district.
    district: u16,
    slots: Vec<S>,
}

/// A series in a window while rows come.
#[derive(Clone, Default)]
struct Slot<A> {
    accumulator: A,
    count: u32,
    flags: u16,
}

/// A series in a window at the end.
#[derive(Clone, Copy)]
struct Answer {
    value: Option<f64>,
    count: u32,
    flags: u16,
}

/// What is known of a member while rows come.
#[derive(Clone, Default)]
struct Lane {
    /// District and place of each of its series: mostly one, a handful for a device that moves about.
    series: Vec<(u16, usize)>,
    before: Option<Before>,
}

/// A member's row before.
#[derive(Clone, Copy)]
struct Before {
    time: i64,
    value: f64,
    flags: u16,
    district: u16,
    /// Its window, or the first one.
    window: usize,
}

/// Slots of one accumulator.
struct Grid<A> {
    frame: Frame,
    lanes: Vec<Lane>,
    series: Vec<Series<Slot<A>>>,
    /// The window of the row before: rows come mostly in some order.
    hint: usize,
    rows_kept: usize,
}

impl<A: Accumulator + Send + 'static> Grid<A> {
    fn boxed(frame: Frame) -> Box<dyn Engine> {
        let lanes = vec![Lane::default(); frame.members.len()];
        Box::new(Self { frame, lanes, series: Vec::new(), hint: 0, rows_kept: 0 })
    }

    /// The loop for functions of each row alone: it takes runs of rows that go to one slot.
    fn push_alone(&mut self, rows: Rows<'_>) -> Result<(), AggregateError> {
        let mut at = 0;
        while let (Some(device), Some(time), Some(district)) = (rows.device.get(at), rows.time.get(at), rows.district.get(at)) {
            let place = self.frame.place(*device);
            let window = self.frame.plan.windows.find_near(*time, self.hint);
            let (Some(place), Some(window)) = (place, window) else {
                at += 1;
                continue;
            };
            self.hint = window;
            let (start, end) = self.frame.plan.windows.edges(window).unwrap_or_default();
            let devices = rows.device.get(at..).unwrap_or_default().iter();
            let times = rows.time.get(at..).unwrap_or_default().iter();
            let mut length = devices.zip(times).take_while(|(other, time)| *other == device && (start..end).contains(*time)).count();
            if self.frame.by_district {
                let districts = rows.district.get(at..at + length).unwrap_or_default().iter();
                length = districts.take_while(|other| *other == district).count();
            }
            let (Some(times), Some(values), Some(flags)) =
                (rows.time.get(at..at + length), rows.value.get(at..at + length), rows.flags.get(at..at + length))
            else {
                return Ok(());
            };
            if A::KEEPS_ROWS {
                self.rows_kept += length;
                if self.rows_kept > self.frame.plan.rows_max {
                    return Err(AggregateError::TooManyRows { rows_max: self.frame.plan.rows_max });
                }
            }
            if let Some(slot) = self.slot(place, *district, window)? {
                slot.accumulator.add(times, values);
                slot.count = slot.count.saturating_add(u32::try_from(length).unwrap_or(u32::MAX));
                slot.flags |= flags.iter().fold(0, |all, flags| all | flags);
            }
            at += length;
        }
        Ok(())
    }

    /// The loop for functions that look at a row and the one before it.
    fn push_in_order(&mut self, rows: Rows<'_>) -> Result<(), AggregateError> {
        let columns = rows.device.iter().zip(rows.time).zip(rows.value).zip(rows.flags).zip(rows.district);
        for ((((device, time), value), flags), district) in columns {
            // What comes after the windows cuts short nothing in them.
            let (Some(place), true) = (self.frame.place(*device), *time < self.frame.end) else { continue };
            let Some(lane) = self.lanes.get(place) else { continue };
            let before = lane.before;
            if before.is_some_and(|before| before.time >= *time) {
                return Err(AggregateError::Unordered { device: *device, time: Timestamp::from_micros_clamped(*time) });
            }
            if let (Role::Holds, Some(before)) = (A::ROLE, before) {
                self.hold(place, before, *time)?;
            }
            let window = self.frame.plan.windows.find_near(*time, before.map_or(0, |before| before.window));
            if let Some(window) = window {
                let parameter = self.frame.parameter;
                if let Some(slot) = self.slot(place, *district, window)? {
                    slot.count = slot.count.saturating_add(1);
                    slot.flags |= flags;
                    match (A::ROLE, before) {
                        (Role::Holds, _) => slot.accumulator.hold(*value, 0, parameter),
                        (_, Some(before)) => {
                            slot.accumulator.pair(before.value, *value);
                            slot.flags |= before.flags;
                        }
                        _ => {}
                    }
                }
            }
            if let Some(lane) = self.lanes.get_mut(place) {
                let window = window.unwrap_or(0);
                lane.before = Some(Before { time: *time, value: *value, flags: *flags, district: *district, window });
            }
        }
        Ok(())
    }

    /// Spreads the time for which a value held over the windows, where it was measured.
    fn hold(&mut self, place: usize, before: Before, until: i64) -> Result<(), AggregateError> {
        let Some(member) = self.frame.members.get(place) else { return Ok(()) };
        let until = until.min(before.time.saturating_add(self.frame.plan.hold_micros(member))).min(self.frame.end);
        let mut from = before.time.max(self.frame.start);
        let parameter = self.frame.parameter;
        let mut hint = before.window;
        while from < until {
            let Some(window) = self.frame.plan.windows.find_near(from, hint) else { break };
            let Some((_start, end)) = self.frame.plan.windows.edges(window) else { break };
            if let Some(slot) = self.slot(place, before.district, window)? {
                slot.accumulator.hold(before.value, until.min(end) - from, parameter);
                slot.flags |= before.flags;
            }
            (from, hint) = (end, window);
        }
        Ok(())
    }

    /// The slot of a member in a window; the slots of a series are made for all windows when its first row comes.
    #[inline]
    fn slot(&mut self, place: usize, district: u16, window: usize) -> Result<Option<&mut Slot<A>>, AggregateError> {
        let district = if !self.frame.by_district {
            NO_DISTRICT
        } else if district == NO_DISTRICT {
            self.frame.members.get(place).and_then(|member| member.district).unwrap_or(NO_DISTRICT)
        } else {
            district
        };
        let known = self.lanes.get(place).and_then(|lane| lane.series.iter().find(|(of, _series)| *of == district));
        let series = match known {
            Some((_district, series)) => *series,
            None => self.add_series(place, district)?,
        };
        Ok(self.series.get_mut(series).and_then(|series| series.slots.get_mut(window)))
    }

    #[cold]
    fn add_series(&mut self, place: usize, district: u16) -> Result<usize, AggregateError> {
        let (at, windows, slots_max) = (self.series.len(), self.frame.plan.windows.len(), self.frame.plan.slots_max);
        if (at + 1).saturating_mul(windows) > slots_max {
            return Err(AggregateError::TooManySlots { series: at + 1, windows, slots_max });
        }
        self.series.push(Series { member: place, district, slots: vec![Slot::default(); windows] });
        if let Some(lane) = self.lanes.get_mut(place) {
            lane.series.push((district, at));
        }
        Ok(at)
    }
}

impl<A: Accumulator + Send + 'static> Engine for Grid<A> {
    fn push(&mut self, rows: Rows<'_>) -> Result<(), AggregateError> {
        if A::ROLE == Role::Alone { self.push_alone(rows) } else { self.push_in_order(rows) }
    }

    fn merge(&mut self, device: u32, start: i64, district: u16, rows: &Statistics) -> Result<(), AggregateError> {
        let window = self.frame.plan.windows.find_near(start, self.hint);
        let (Some(place), Some(window)) = (self.frame.place(device), window) else { return Ok(()) };
        self.hint = window;
        let mut before = None;
        if A::ROLE == Role::Pairs {
            if rows.increase.is_none() {
                return Err(AggregateError::Moved { device });
            }
            let Some(lane) = self.lanes.get_mut(place) else { return Ok(()) };
            let last = Before { time: rows.last.time, value: rows.last.value, flags: rows.last_flags, district, window };
            before = lane.before.replace(last);
            if before.is_some_and(|before| before.time >= rows.first.time) {
                return Err(AggregateError::Unordered { device, time: Timestamp::from_micros_clamped(rows.first.time) });
            }
        }
        if let Some(slot) = self.slot(place, district, window)? {
            if let Some(before) = before {
                slot.accumulator.pair(before.value, rows.first.value);
                slot.flags |= before.flags;
            }
            slot.accumulator.merge(rows);
            slot.count = slot.count.saturating_add(u32::try_from(rows.count).unwrap_or(u32::MAX));
            slot.flags |= rows.flags;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, now: Timestamp) -> Result<(Frame, Vec<Series<Answer>>), AggregateError> {
        if A::ROLE == Role::Holds {
            for place in 0..self.lanes.len() {
                if let Some(before) = self.lanes.get(place).and_then(|lane| lane.before) {
                    // No value holds in the future.
                    self.hold(place, before, now.micros())?;
                }
            }
        }
        let parameter = self.frame.parameter;
        let answer = |mut slot: Slot<A>| {
            let has_rows = A::ROLE != Role::Alone || slot.count > 0;
            let value = has_rows.then(|| slot.accumulator.result(u64::from(slot.count), parameter)).flatten();
            Answer { value, count: slot.count, flags: slot.flags }
        };
        let series = self.series.into_iter().map(|Series { member, district, slots }| {
            let slots = slots.into_iter().map(answer).collect();
            Series { member, district, slots }
        });
        Ok((self.frame, series.collect()))
    }
}
