//! Windows of time, half-open, on the local calendar of a named time zone.
//!
//! Windows up to an hour tile elapsed time on the grid of local time: a day of 25 hours has 25 windows of an hour, and hours in
//! Asia/Kathmandu begin at a quarter past the UTC hour. Where a clock change moves that grid (Lord Howe changes by 30 minutes), one
//! shorter window ends at the change, so that days are still whole numbers of windows. Longer windows begin at local clock times and
//! dates: a day in Europe/Rome has 23, 24 or 25 hours, and the six hours in which the clock changes are five or seven.
//!
//! Either way windows are whole, ascending, without hole or overlap: each instant falls in exactly one.

use std::fmt;
use std::str::FromStr;

use jiff::ToSpan;
use jiff::civil;
use jiff::tz::{AmbiguousOffset, TimeZone};

use super::Timestamp;

/// How long windows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WindowSize {
    /// Minutes that divide an hour.
    Minutes(u8),
    /// Hours that divide a day.
    Hours(u8),
    /// Local days.
    Day,
    /// Weeks from Monday (ISO 8601).
    Week,
    /// Local months.
    Month,
}

/// The text names no window size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of 1m 2m 3m 4m 5m 6m 10m 12m 15m 20m 30m 1h 2h 3h 4h 6h 8h 12h 1d 1w 1mo")]
pub struct InvalidWindowSize(String);

impl FromStr for WindowSize {
    type Err = InvalidWindowSize;

    fn from_str(text: &str) -> Result<Self, InvalidWindowSize> {
        let minutes = [1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30].map(Self::Minutes);
        let hours = [1, 2, 3, 4, 6, 8, 12].map(Self::Hours);
        let mut sizes = minutes.into_iter().chain(hours).chain([Self::Day, Self::Week, Self::Month]);
        sizes.find(|size| size.to_string() == text).ok_or_else(|| InvalidWindowSize(text.chars().take(20).collect()))
    }
}

impl fmt::Display for WindowSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minutes(minutes) => write!(formatter, "{minutes}m"),
            Self::Hours(hours) => write!(formatter, "{hours}h"),
            Self::Day => formatter.write_str("1d"),
            Self::Week => formatter.write_str("1w"),
            Self::Month => formatter.write_str("1mo"),
        }
    }
}

/// Windows cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowsError {
    /// Nothing between the two times.
    #[error("the time range from {from} to {to} is empty")]
    Empty { from: Timestamp, to: Timestamp },
    /// More windows than are allowed.
    #[error("the time range has more than {count_max} windows of {size}")]
    TooMany { size: WindowSize, count_max: usize },
}

/// Consecutive windows, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    size: WindowSize,
    /// Starts of the windows and, last, the end of the last one; microseconds, ascending.
    bounds: Vec<i64>,
    /// Their common length, where they have one: a window is then found by division.
    length: Option<i64>,
}

impl Windows {
    /// The whole windows that cover `[from, to)`. The first holds `from` and may begin before it, the last may end after `to`: who
    /// wants whole windows reads from [`Self::start`] to [`Self::end`].
    pub fn new(size: WindowSize, zone: &TimeZone, from: Timestamp, to: Timestamp, count_max: usize) -> Result<Self, WindowsError> {
        if from >= to {
            return Err(WindowsError::Empty { from, to });
        }
        let bounds = match size {
            WindowSize::Minutes(minutes) => grid(i64::from(minutes) * MINUTE, zone, from, to, count_max),
            WindowSize::Hours(1) => grid(60 * MINUTE, zone, from, to, count_max),
            _ => calendar(size, zone, from, to, count_max),
        };
        let bounds = bounds.ok_or(WindowsError::TooMany { size, count_max })?;
        let length = match bounds.as_slice() {
            [first, second, ..] => Some(second - first),
            _ => None,
        };
        let length = length.filter(|length| bounds.iter().zip(bounds.iter().skip(1)).all(|(start, end)| end - start == *length));
        Ok(Self { size, bounds, length })
    }

    /// Their size.
    pub fn size(&self) -> WindowSize {
        self.size
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Never: there is at least one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the first begins.
    pub fn start(&self) -> Timestamp {
        self.bounds(0).0
    }

    /// Where the last ends.
    pub fn end(&self) -> Timestamp {
        self.bounds(self.len() - 1).1
    }

    /// Start and end of a window; those of an index past the last lie at the end of time.
    pub fn bounds(&self, index: usize) -> (Timestamp, Timestamp) {
        let (start, end) = self.edges(index).unwrap_or((i64::MAX, i64::MAX));
        (Timestamp::from_micros_clamped(start), Timestamp::from_micros_clamped(end))
    }

    /// Start and end of a window in microseconds.
    pub fn edges(&self, index: usize) -> Option<(i64, i64)> {
        Some((*self.bounds.get(index)?, *self.bounds.get(index.checked_add(1)?)?))
    }

    /// The window that holds an instant, given in microseconds.
    pub fn find(&self, micros: i64) -> Option<usize> {
        let (first, last) = (*self.bounds.first()?, *self.bounds.last()?);
        if micros < first || last <= micros {
            return None;
        }
        match self.length {
            Some(length) => usize::try_from((micros - first) / length).ok(),
            None => self.bounds.partition_point(|bound| *bound <= micros).checked_sub(1),
        }
    }

    /// The window that holds an instant, given in microseconds, looked for first at `hint` and behind it: rows come mostly in order.
    pub fn find_near(&self, micros: i64, hint: usize) -> Option<usize> {
        let holds = |index: usize| self.edges(index).is_some_and(|(start, end)| (start..end).contains(&micros));
        [hint, hint.saturating_add(1)].into_iter().find(|index| holds(*index)).or_else(|| self.find(micros))
    }
}

const MINUTE: i64 = 60_000_000;

fn instant(micros: i64) -> jiff::Timestamp {
    Timestamp::from_micros_clamped(micros).into()
}

fn offset_micros(offset: jiff::tz::Offset) -> i64 {
    i64::from(offset.seconds()) * 1_000_000
}

/// Bounds at multiples of `length` of local time. A change of the offset by a multiple of it leaves the grid as it is; another one is
/// a bound itself, and the grid begins anew. `None` where there are more than `count_max` windows.
fn grid(length: i64, zone: &TimeZone, from: Timestamp, to: Timestamp, count_max: usize) -> Option<Vec<i64>> {
    let offset_before = |change: i64| offset_micros(zone.to_offset(instant(change - 1)));
    let (from, to) = (from.micros(), to.micros());
    let mut offset = offset_micros(zone.to_offset(instant(from)));
    let mut bound = from - (from + offset).rem_euclid(length);
    let past = zone.preceding(instant(from + 1)).map(|change| change.timestamp().as_microsecond());
    if let Some(change) = past.take_while(|change| *change > bound).find(|change| (offset_before(*change) - offset) % length != 0) {
        bound = change;
    }
    let mut changes = zone.following(instant(from)).peekable();
    let mut bounds = vec![bound];
    while bound < to {
        if bounds.len() > count_max {
            return None;
        }
        let mut next = bound + length - (bound + offset).rem_euclid(length);
        while let Some(change) = changes.next_if(|change| change.timestamp().as_microsecond() <= next) {
            let before = std::mem::replace(&mut offset, offset_micros(change.offset()));
            if (offset - before) % length != 0 {
                next = change.timestamp().as_microsecond();
                break;
            }
        }
        bounds.push(next);
        bound = next;
    }
    Some(bounds)
}

/// Bounds at local clock times and dates. `None` where there are more than `count_max` windows.
fn calendar(size: WindowSize, zone: &TimeZone, from: Timestamp, to: Timestamp, count_max: usize) -> Option<Vec<i64>> {
    let mut local = floor(size, zone.to_datetime(from.into()));
    let mut bounds = vec![first_instant(zone, local)];
    loop {
        local = next(size, local);
        let bound = first_instant(zone, local);
        match bounds.last_mut() {
            // A clock set back over the bound: `from` has the local time of the window before for the second time.
            Some(last) if bound <= from.micros() => *last = bound,
            // A window that the clock skipped as a whole, like 2011-12-30 in Samoa.
            Some(last) if bound <= *last => {}
            _ => bounds.push(bound),
        }
        if bound >= to.micros() {
            return Some(bounds);
        }
        if bounds.len() > count_max {
            return None;
        }
    }
}

/// The last bound not after a local time.
fn floor(size: WindowSize, local: civil::DateTime) -> civil::DateTime {
    let date = local.date();
    match size {
        WindowSize::Minutes(_) | WindowSize::Day => date.at(0, 0, 0, 0),
        WindowSize::Hours(hours) => date.at(local.hour() - local.hour() % hours.cast_signed(), 0, 0, 0),
        WindowSize::Week => date.saturating_sub(i32::from(date.weekday().to_monday_zero_offset()).days()).at(0, 0, 0, 0),
        WindowSize::Month => date.first_of_month().at(0, 0, 0, 0),
    }
}

/// The bound after a bound.
fn next(size: WindowSize, local: civil::DateTime) -> civil::DateTime {
    local.saturating_add(match size {
        WindowSize::Minutes(minutes) => i64::from(minutes).minutes(),
        WindowSize::Hours(hours) => i64::from(hours).hours(),
        WindowSize::Day => 1.days(),
        WindowSize::Week => 7.days(),
        WindowSize::Month => 1.months(),
    })
}

/// The first instant at which the local clock has reached a time: of two, the first; where the clock skips it, that of the change.
fn first_instant(zone: &TimeZone, local: civil::DateTime) -> i64 {
    let ambiguous = zone.to_ambiguous_timestamp(local);
    let is_gap = matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. });
    let found = ambiguous.compatible().map_or(i64::MAX, jiff::Timestamp::as_microsecond);
    if is_gap {
        // Read with the offset before the change, a skipped time lies at the change or after it.
        let change = zone.preceding(instant(found.saturating_add(1))).next();
        change.map_or(found, |change| change.timestamp().as_microsecond())
    } else {
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(size: &str, zone_name: &str, from: &str, to: &str, expected: &[&str]) {
        let windows = Windows::new(size.parse().unwrap(), &zone(zone_name), time(from), time(to), 1_000).unwrap();
        let bounds: Vec<String> = windows.bounds.iter().map(|bound| Timestamp::from_micros_clamped(*bound).to_string()).collect();
        assert_eq!(bounds, expected);
    }

    #[test]
    fn days_in_rome_have_23_24_or_25_hours() {
        check(
            "1d",
            "Europe/Rome",
            "2024-03-30T12:00:00Z",
            "2024-04-01T00:00:00Z",
            &["2024-03-29T23:00:00Z", "2024-03-30T23:00:00Z", "2024-03-31T22:00:00Z", "2024-04-01T22:00:00Z"],
        );
        for (day, hours) in [("2024-03-31", 23), ("2024-10-27", 25), ("2024-06-01", 24)] {
            let rome = zone("Europe/Rome");
            let date: civil::Date = day.parse().unwrap();
            let from = Timestamp::from_micros(first_instant(&rome, date.at(0, 0, 0, 0))).unwrap();
            let to = Timestamp::from_micros(first_instant(&rome, date.tomorrow().unwrap().at(0, 0, 0, 0))).unwrap();
            assert_eq!(Windows::new(WindowSize::Hours(1), &rome, from, to, 100).unwrap().len(), hours, "{day}");
            assert_eq!(Windows::new(WindowSize::Hours(6), &rome, from, to, 100).unwrap().len(), 4, "{day}");
        }
    }

    #[test]
    fn windows_follow_the_calendar() {
        check(
            "1mo",
            "Europe/Rome",
            "2024-02-10T00:00:00Z",
            "2024-03-01T00:00:00Z",
            &["2024-01-31T23:00:00Z", "2024-02-29T23:00:00Z", "2024-03-31T22:00:00Z"],
        );
        check("1w", "UTC", "2024-02-29T00:00:00Z", "2024-02-29T00:00:01Z", &["2024-02-26T00:00:00Z", "2024-03-04T00:00:00Z"]);
        check(
            "12h",
            "Asia/Kathmandu",
            "2024-01-01T00:00:00Z",
            "2024-01-01T07:00:00Z",
            &["2023-12-31T18:15:00Z", "2024-01-01T06:15:00Z", "2024-01-01T18:15:00Z"],
        );
        check(
            "1h",
            "Asia/Kathmandu",
            "2024-01-01T00:00:00Z",
            "2024-01-01T00:30:00Z",
            &["2023-12-31T23:15:00Z", "2024-01-01T00:15:00Z", "2024-01-01T01:15:00Z"],
        );
        // Midnight is skipped: the day begins at 01:00.
        check("1d", "America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T13:00:00Z", &["2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"]);
        check("1d", "Asia/Beirut", "2024-03-30T22:00:00Z", "2024-03-31T12:00:00Z", &["2024-03-30T22:00:00Z", "2024-03-31T21:00:00Z"]);
        // From 23:30 to 00:30: the day begins at 00:30.
        check("1d", "America/Toronto", "1919-03-31T05:00:00Z", "1919-03-31T06:00:00Z", &["1919-03-31T04:30:00Z", "1919-04-01T04:00:00Z"]);
        // Set back from 00:01 to 23:01: what comes then belongs to the day that has begun.
        check("1d", "America/St_Johns", "2006-10-29T03:00:00Z", "2006-10-29T03:20:00Z", &["2006-10-29T02:30:00Z", "2006-10-30T03:30:00Z"]);
        // A day that never was.
        check(
            "1d",
            "Pacific/Apia",
            "2011-12-30T09:00:00Z",
            "2011-12-30T11:00:00Z",
            &["2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"],
        );
    }

    #[test]
    fn absurd_questions_are_refused() {
        let utc = TimeZone::UTC;
        let (from, to) = (time("2024-01-01T00:00:00Z"), time("2024-01-02T00:00:00Z"));
        assert_eq!(Windows::new(WindowSize::Day, &utc, to, from, 10), Err(WindowsError::Empty { from: to, to: from }));
        for (size, enough) in [(WindowSize::Minutes(1), 1_440), (WindowSize::Hours(6), 4)] {
            let count_max = enough - 1;
            assert_eq!(Windows::new(size, &utc, from, to, count_max), Err(WindowsError::TooMany { size, count_max }));
            assert_eq!(Windows::new(size, &utc, from, to, enough).map(|windows| windows.len()), Ok(enough));
            let always = Windows::new(size, &utc, Timestamp::MIN, Timestamp::MAX, count_max);
            assert_eq!(always, Err(WindowsError::TooMany { size, count_max }));
        }
        for text in ["", "0m", "7m", "60m", "5h", "24h", "2d", "1", "m", "1M", "-1h", "+5m", "05m", "1mo "] {
            assert!(text.parse::<WindowSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for text in ["1m", "5m", "15m", "1h", "6h", "1d", "1w", "1mo"] {
            assert_eq!(text.parse::<WindowSize>().map(|size| size.to_string()), Ok(text.to_owned()));
        }
        let error = "7m".parse::<WindowSize>().unwrap_err().to_string();
        assert!(error.starts_with("\"7m\" is none of 1m 2m"), "{error}");
    }

    #[test]
    fn clock_changes_of_half_an_hour_leave_neither_hole_nor_overlap() {
        // 02:00 becomes 02:30: half an hour is left of the hour from 02:00.
        check(
            "1h",
            "Australia/Lord_Howe",
            "2024-10-05T14:30:00Z",
            "2024-10-05T17:00:00Z",
            &["2024-10-05T14:30:00Z", "2024-10-05T15:30:00Z", "2024-10-05T16:00:00Z", "2024-10-05T17:00:00Z"],
        );
        // 02:00 becomes 01:30: the second half of the hour from 01:00 comes twice.
        check(
            "1h",
            "Australia/Lord_Howe",
            "2024-04-06T14:59:00Z",
            "2024-04-06T15:45:00Z",
            &["2024-04-06T14:00:00Z", "2024-04-06T15:00:00Z", "2024-04-06T15:30:00Z", "2024-04-06T16:30:00Z"],
        );
        check(
            "1h",
            "Australia/Lord_Howe",
            "2024-04-06T15:10:00Z",
            "2024-04-06T15:20:00Z",
            &["2024-04-06T15:00:00Z", "2024-04-06T15:30:00Z"],
        );
        check(
            "30m",
            "Australia/Lord_Howe",
            "2024-04-06T14:59:00Z",
            "2024-04-06T15:45:00Z",
            &["2024-04-06T14:30:00Z", "2024-04-06T15:00:00Z", "2024-04-06T15:30:00Z", "2024-04-06T16:00:00Z"],
        );
    }

    #[test]
    fn hours_around_a_clock_change_are_longer_or_shorter() {
        check(
            "6h",
            "Europe/Rome",
            "2024-03-30T23:00:00Z",
            "2024-03-31T05:00:00Z",
            &["2024-03-30T23:00:00Z", "2024-03-31T04:00:00Z", "2024-03-31T10:00:00Z"],
        );
        check("2h", "Europe/Rome", "2024-10-27T00:30:00Z", "2024-10-27T01:30:00Z", &["2024-10-27T00:00:00Z", "2024-10-27T03:00:00Z"]);
    }

    proptest! {
        #[test]
        fn each_instant_falls_in_exactly_one_window(
            size in prop::sample::select(vec!["1m", "12m", "15m", "30m", "1h", "2h", "3h", "6h", "8h", "12h", "1d", "1w", "1mo"]),
            name in prop::sample::select(vec![
                "Europe/Rome", "UTC", "America/Sao_Paulo", "America/St_Johns", "Asia/Kathmandu", "Asia/Beirut", "Asia/Pyongyang",
                "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia", "Pacific/Chatham",
            ]),
            start in 473_385_600_i64..1_893_456_000,
            length in 1_i64..200_000,
            offset in 0.0..1.0_f64,
        ) {
            check_tiling(size, name, start, length, offset)?;
        }

        #[test]
        fn each_instant_around_a_clock_change_falls_in_exactly_one_window(
            size in prop::sample::select(vec!["5m", "20m", "30m", "1h", "2h", "4h", "1d", "1w"]),
            name in prop::sample::select(vec![
                "Europe/Rome", "America/Sao_Paulo", "America/St_Johns", "Asia/Beirut", "Australia/Lord_Howe", "Pacific/Apia",
            ]),
            year in 473_385_600_i64..1_293_840_000,
            before in 0_i64..100_000,
            length in 1_i64..200_000,
            offset in 0.0..1.0_f64,
        ) {
            let year = jiff::Timestamp::from_second(year).unwrap();
            let change = zone(name).following(year).next().unwrap().timestamp().as_second();
            check_tiling(size, name, change - before, length, offset)?;
        }
    }

    fn check_tiling(size: &str, name: &str, start: i64, length: i64, offset: f64) -> Result<(), TestCaseError> {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000).unwrap();
        let size: WindowSize = size.parse().unwrap();
        let windows = Windows::new(size, &zone(name), at(start), at(start + length), 100_000).unwrap();
        prop_assert!(windows.bounds.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(windows.start() <= at(start) && windows.end() >= at(start + length));
        prop_assert!(windows.bounds(0).1 > at(start) && windows.bounds(windows.len() - 1).0 < at(start + length));
        #[expect(clippy::cast_possible_truncation, reason = "a fraction of a length")]
        let instant = at(start).micros() + ((length * 1_000_000) as f64 * offset) as i64;
        let holds = |index: &usize| windows.edges(*index).is_some_and(|(start, end)| (start..end).contains(&instant));
        let holding: Vec<usize> = (0..windows.len()).filter(holds).collect();
        prop_assert_eq!(holding.len(), 1);
        prop_assert_eq!(windows.find(instant), holding.first().copied());
        for hint in [0, holding[0].saturating_sub(1), holding[0], windows.len(), usize::MAX] {
            prop_assert_eq!(windows.find_near(instant, hint), holding.first().copied());
        }
        prop_assert_eq!(windows.find(windows.start().micros() - 1), None);
        prop_assert_eq!(windows.find(windows.end().micros()), None);
        // Whatever part of time is asked for, a window is the same.
        let (from, to) = windows.bounds(holding[0]);
        let again = Windows::new(size, &zone(name), Timestamp::from_micros(instant).unwrap(), to, 1).unwrap();
        prop_assert_eq!(again.bounds(0), (from, to));
        Ok(())
    }
}
