//! How tables and free JSON are to be read, as data: which column or key is which. Part of a subscription's configuration.

use std::borrow::Cow;

use jiff::civil;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::model::Timestamp;

/// Which column, key or JSON pointer (`/meta/id`, within a record) is which. What is not named here is a reading by its name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Layout {
    /// CSV: what stands between cells. Left out: comma, semicolon or tab, whichever the first line has most.
    pub delimiter: Option<char>,
    /// CSV: the names of the columns, where no header tells them.
    pub columns: Vec<String>,
    /// CSV: whether numbers have a decimal comma.
    pub decimal_comma: bool,
    /// CSV: a line that begins so is none.
    pub comment: Option<char>,
    /// JSON: where the records are: a pointer in which `*` stands for each element, `/data/*`. Left out: the whole, or each of its elements.
    pub records: Option<String>,
    /// Words that stand for "not measured", beside the empty cell and null.
    pub missing: Vec<String>,
    /// The device.
    pub device: Option<String>,
    /// What sort of device.
    pub kind: Option<String>,
    /// The time; several, such as a date and a time of day, are read one after the other with a blank between.
    pub time: Vec<String>,
    /// Its form: `rfc3339`, `unix-s`, `unix-ms`, `unix-us`, `unix-ns`, or one of strftime, such as `%d/%m/%Y %H.%M.%S`. Left out: RFC 3339 or ISO
    /// 8601, or a number since 1970 whose unit its size tells.
    pub time_format: Option<String>,
    /// The zone of times that have none: an IANA name. Left out: UTC. An hour that the clock has twice is taken for the first, a skipped time
    /// moves on by what was skipped.
    pub time_zone: Option<String>,
    /// Degrees east.
    pub longitude: Option<String>,
    /// Degrees north.
    pub latitude: Option<String>,
    /// Tables with one reading a row: what is observed.
    pub property: Option<String>,
    /// Then its value.
    pub value: Option<String>,
    /// Then its unit.
    pub unit: Option<String>,
    /// What is no reading; `*` at the end stands for anything.
    pub ignore: Vec<String>,
}

/// The forms of time that are numbers.
const UNIX: [(&str, f64); 4] = [("unix-s", 1e6), ("unix-ms", 1e3), ("unix-us", 1.0), ("unix-ns", 1e-3)];

impl Layout {
    /// What is wrong with it.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.time.len() > 6 {
            problems.push("time: at most six".to_owned());
        }
        if self.time_zone.as_deref().is_some_and(|zone| TimeZone::get(zone).is_err()) {
            problems.push("time_zone: is no time zone of the IANA database".to_owned());
        }
        let form = self.time_format.as_deref().filter(|form| *form != "rfc3339" && UNIX.iter().all(|(known, _factor)| known != form));
        let moment = jiff::ZonedDateTime::new(jiff::Timestamp::UNIX_EPOCH, TimeZone::UTC);
        if let Some(form) = form
            && (!form.contains('%') || jiff::fmt::strtime::format(form, &moment).is_err())
        {
            problems.push(format!("time_format: {form:?} is neither rfc3339, unix-s, unix-ms, unix-us, unix-ns nor of strftime"));
        }
        for (key, letter) in [("delimiter", self.delimiter), ("comment", self.comment)] {
            if letter.is_some_and(|letter| !letter.is_ascii() || ['"', '\n', '\r'].contains(&letter)) {
                problems.push(format!("{key}: an ASCII character other than a quote or line break is expected"));
            }
        }
        if self.property.is_some() != self.value.is_some() {
            problems.push("property and value: both or neither".to_owned());
        }
        if self.longitude.is_some() != self.latitude.is_some() {
            problems.push("longitude and latitude: both or neither".to_owned());
        }
        problems
    }

    /// Whether a word stands for nothing.
    pub(super) fn is_missing(&self, text: &str) -> bool {
        let text = text.trim();
        text.is_empty() || self.missing.iter().any(|missing| missing == text)
    }

    /// Whether a name is no reading.
    pub(super) fn ignores(&self, name: &str) -> bool {
        self.ignore.iter().any(|pattern| pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start)))
    }

    /// Whether a key is no reading because it tells something else.
    pub(super) fn tells(&self, key: &str) -> bool {
        let told = [&self.device, &self.kind, &self.longitude, &self.latitude, &self.property, &self.value, &self.unit];
        let is_it =
            |name: &String| name.strip_prefix('/').map_or(name.as_str(), |pointer| pointer.split('/').next().unwrap_or(pointer)) == key;
        told.into_iter().flatten().chain(&self.time).any(is_it)
    }

    /// Reads a time.
    pub(super) fn instant(&self, text: &str, beside: Beside) -> Option<Timestamp> {
        let text = text.trim();
        let zone = || self.time_zone.as_deref().map_or(Some(TimeZone::UTC), |zone| TimeZone::get(zone).ok());
        let local = |time: civil::DateTime| {
            let told = zone()?.to_ambiguous_timestamp(time);
            let [first, second] = [told.compatible(), told.later()].map(|time| Timestamp::from_micros(time.ok()?.as_microsecond()).ok());
            Some(beside.which(first?, second?))
        };
        let Some(form) = self.time_format.as_deref() else {
            let told = text.parse().ok().or_else(|| text.parse::<civil::DateTime>().ok().and_then(local));
            return told
                .or_else(|| text.parse::<civil::Date>().ok().and_then(|date| local(date.at(0, 0, 0, 0))))
                .or_else(|| since_1970(text.parse().ok()?));
        };
        if form == "rfc3339" {
            return text.parse().ok();
        }
        if let Some((_form, factor)) = UNIX.iter().find(|(known, _factor)| *known == form) {
            return micros(text.parse::<f64>().ok()? * factor);
        }
        let parsed = jiff::fmt::strtime::parse(form, text).ok()?;
        match parsed.to_timestamp() {
            Ok(time) => Timestamp::from_micros(time.as_microsecond()).ok(),
            Err(_no_offset) => local(parsed.to_datetime().or_else(|_no_time| parsed.to_date().map(|date| date.at(0, 0, 0, 0))).ok()?),
        }
    }
}

/// What helps with an hour that a local clock has twice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beside {
    /// When the message came.
    pub(super) received: Timestamp,
    /// The time of the row before.
    pub(super) before: Option<Timestamp>,
}

impl Beside {
    /// Which of the two instants of a local time it is, which are the same for most: the second where the row before lies
    /// between them or just behind them, or where it has only just been; else the first. The same time again may be the same row again.
    fn which(self, first: Timestamp, second: Timestamp) -> Timestamp {
        let apart = second.since(first);
        let goes_on = self.before.is_some_and(|before| first < before && before.since(first) < 2 * apart);
        let is_now = second <= self.received && self.received.since(second) < apart;
        if goes_on || is_now { second } else { first }
    }
}

/// A number since 1970: in which unit its size tells, since each names another century.
pub(super) fn since_1970(number: f64) -> Option<Timestamp> {
    match number {
        number if number < 0.0 => None,
        seconds if seconds < 1e11 => micros(seconds * 1e6),
        millis if millis < 1e14 => micros(millis * 1e3),
        told if told < 1e17 => micros(told),
        nanos => micros(nanos / 1e3),
    }
}

fn micros(number: f64) -> Option<Timestamp> {
    #[expect(clippy::cast_possible_truncation, reason = "far below 2^63, or clamped by the cast and refused")]
    Timestamp::from_micros(number.round() as i64).ok()
}

/// What a name or a pointer finds in a JSON record.
pub(super) fn find<'a>(record: &'a Json, name: &str) -> Option<&'a Json> {
    let found = if name.starts_with('/') { record.pointer(name) } else { record.get(name) };
    found.filter(|value| !value.is_null())
}

/// The records of a document, by a pointer in which `*` stands for each element, with where each is.
pub(super) fn records<'a>(document: &'a Json, pointer: &str) -> Vec<(String, &'a Json)> {
    let mut found = vec![(String::new(), document)];
    for level in pointer.split('/').skip(1) {
        let key = level.replace("~1", "/").replace("~0", "~");
        found = found
            .into_iter()
            .flat_map(|(at, value)| -> Vec<(String, &Json)> {
                match value {
                    Json::Array(items) if level == "*" => {
                        items.iter().enumerate().map(|(index, item)| (format!("{at}/{index}"), item)).collect()
                    }
                    Json::Object(object) if level == "*" => object.iter().map(|(key, item)| (format!("{at}/{key}"), item)).collect(),
                    Json::Array(items) => level
                        .parse::<usize>()
                        .ok()
                        .and_then(|index| items.get(index))
                        .map(|item| (format!("{at}/{level}"), item))
                        .into_iter()
                        .collect(),
                    other => other.get(&key).map(|item| (format!("{at}/{level}"), item)).into_iter().collect(),
                }
            })
            .collect();
    }
    found
}

/// A column's name and its unit, where it has one in brackets behind a blank: `Temp (°C)`, `PM10 [µg/m3]`.
pub(super) fn name_and_unit(header: &str) -> (Cow<'_, str>, Option<&str>) {
    const UNIT_LEN_MAX: usize = 20;
    let header = header.trim();
    let split = [('(', ')'), ('[', ']')].into_iter().find_map(|(open, close)| {
        let (name, unit) = header.strip_suffix(close)?.rsplit_once(open)?;
        let unit = unit.trim();
        (name.ends_with(' ') && !unit.is_empty() && unit.len() <= UNIT_LEN_MAX).then(|| (name.trim(), unit))
    });
    let (name, unit) = split.map_or((header, None), |(name, unit)| (name, Some(unit)));
    // A dot would be a level of a path.
    (if name.contains('.') { Cow::Owned(name.replace('.', "_")) } else { Cow::Borrowed(name) }, unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_every_form_are_read() {
        let read = |form: Option<&str>, zone: Option<&str>, text: &str| {
            let layout = Layout { time_format: form.map(str::to_owned), time_zone: zone.map(str::to_owned), ..Layout::default() };
            assert_eq!(layout.problems(), Vec::<String>::new());
            layout.instant(text, Beside { received: Timestamp::from_micros(0).unwrap(), before: None }).map(|time| time.to_string())
        };
        let time = |text: &str| Some(text.to_owned());
        assert_eq!(read(None, None, "2026-03-01T08:00:00+01:00"), time("2026-03-01T07:00:00Z"));
        assert_eq!(read(None, Some("Europe/Rome"), "2026-03-01 08:00"), time("2026-03-01T07:00:00Z"));
        assert_eq!(read(None, None, "1772352000"), time("2026-03-01T08:00:00Z"));
        assert_eq!(read(None, Some("Europe/Rome"), "2026-03-01"), time("2026-02-28T23:00:00Z"));
        assert_eq!(read(Some("unix-ms"), None, "1772352000500"), time("2026-03-01T08:00:00.5Z"));
        assert_eq!(read(Some("%d/%m/%Y %H.%M.%S"), Some("Europe/Rome"), "10/03/2004 18.00.00"), time("2004-03-10T17:00:00Z"));
        assert_eq!(read(Some("%Y-%m-%dT%H:%M:%S%z"), Some("Europe/Rome"), "2026-03-01T08:00:00+0000"), time("2026-03-01T08:00:00Z"));
        // The first of two, and on by what is skipped.
        assert_eq!(read(None, Some("Europe/Rome"), "2026-10-25T02:30"), time("2026-10-25T00:30:00Z"));
        assert_eq!(read(None, Some("Europe/Rome"), "2026-03-29T02:30"), time("2026-03-29T01:30:00Z"));
        assert_eq!(read(Some("rfc3339"), None, "2026-03-01 08:00"), None);
        assert_eq!(read(Some("%d/%m/%Y"), None, "32/01/2026"), None);
    }

    #[test]
    fn the_hour_that_comes_twice_is_told_by_what_is_beside_it() {
        let layout = Layout { time_zone: Some("Europe/Rome".to_owned()), ..Layout::default() };
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        for (received, before, expected) in [
            ("2026-11-20T08:00:00Z", None, "2026-10-25T00:30:00Z"),
            ("2026-11-20T08:00:00Z", Some("2026-10-25T00:30:00Z"), "2026-10-25T00:30:00Z"),
            ("2026-11-20T08:00:00Z", Some("2026-10-25T00:45:00Z"), "2026-10-25T01:30:00Z"),
            ("2026-11-20T08:00:00Z", Some("2026-10-25T01:15:00Z"), "2026-10-25T01:30:00Z"),
            // Rows in no order.
            ("2026-11-20T08:00:00Z", Some("2026-10-26T08:00:00Z"), "2026-10-25T00:30:00Z"),
            ("2026-10-25T00:31:00Z", None, "2026-10-25T00:30:00Z"),
            ("2026-10-25T01:29:00Z", None, "2026-10-25T00:30:00Z"),
            ("2026-10-25T01:31:00Z", None, "2026-10-25T01:30:00Z"),
        ] {
            let beside = Beside { received: time(received), before: before.map(time) };
            assert_eq!(layout.instant("2026-10-25T02:30", beside), Some(time(expected)), "{received} {before:?}");
            assert_eq!(layout.instant("2026-10-25T03:30", beside), Some(time("2026-10-25T02:30:00Z")));
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let layout: Layout = serde_json::from_str(
            r#"{"time":["a","b","c","d","e","f","g"],"time_format":"dd/mm","time_zone":"Rome","delimiter":"è","property":"p","longitude":"x"}"#,
        )
        .unwrap();
        assert_eq!(layout.problems().len(), 6, "{:?}", layout.problems());
    }

    #[test]
    fn units_stand_in_headers() {
        for (header, name, unit) in [
            ("Temp (°C)", "Temp", Some("°C")),
            ("PM10 [µg/m3]", "PM10", Some("µg/m3")),
            ("CO(GT)", "CO(GT)", None),
            ("PT08.S1(CO)", "PT08_S1(CO)", None),
            (" a () ", "a ()", None),
        ] {
            let (found, found_unit) = name_and_unit(header);
            assert_eq!((found.as_ref(), found_unit), (name, unit));
        }
    }
}
