//! Query parameters, read strictly: an unknown one is refused, since a misspelt filter would answer another question; and
//! all that is wrong is told at once.
//!
//! ```ignore
//! let question = params.read(|query| {
//!     let from = query.time("from").unwrap_or(query.now().minus(HOUR));
//!     let devices = query.list("device");
//!     let limit = query.limit(100, 1_000);
//!     Question { from, devices, limit }
//! })?;
//! ```

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use url::form_urlencoded;

use super::Shared;
use super::formats::{self, Offered};
use super::problem::{Kind, Problem, Violation};
use crate::model::{DurationText, Position, Timestamp};
use crate::store::Area;

/// Most values of a list.
const LIST_MAX: usize = 1_000;

/// The query of a request, not looked into yet. Take it with [`Params::read`].
#[derive(Debug)]
pub(crate) struct Params(Query);

/// The query while it is read. What cannot be read is noted, and reported by [`Params::read`]; the value given meanwhile
/// is never used.
#[derive(Debug)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
    /// What was asked for.
    known: Vec<&'static str>,
    violations: Vec<Violation>,
    not_acceptable: Option<Problem>,
    accept: Vec<HeaderValue>,
    now: Timestamp,
    /// On whose clock times without an offset are: that of `zone`, else the city's.
    zone: TimeZone,
}

impl FromRequestParts<Shared> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        let context = &shared.context;
        Ok(Self::new(parts.uri.query().unwrap_or_default(), &parts.headers, context.clock.now(), context.config.city.zone()))
    }
}

impl Params {
    pub(super) fn new(query: &str, headers: &HeaderMap, now: Timestamp, city: TimeZone) -> Self {
        let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let accept = headers.get_all(header::ACCEPT).into_iter().cloned().collect();
        // Whether the zone exists, and may be asked for, is for `time_zone` to say.
        let asked = pairs.iter().find(|(name, _value)| name == "zone").and_then(|(_name, zone)| TimeZone::get(zone).ok());
        let zone = asked.unwrap_or(city);
        Self(Query { pairs, known: Vec::new(), violations: Vec::new(), not_acceptable: None, accept, now, zone })
    }

    /// Reads the query; fails with everything that is wrong with it, parameters that `read` does not ask for included.
    pub(crate) fn read<T>(mut self, read: impl FnOnce(&mut Query) -> T) -> Result<T, Problem> {
        let query = &mut self.0;
        let value = read(query);
        let mut unknown: Vec<&String> =
            query.pairs.iter().map(|(name, _value)| name).filter(|name| !query.known.contains(&name.as_str())).collect();
        unknown.sort_unstable();
        unknown.dedup();
        let known = query.known.join(", ");
        query.violations.extend(unknown.into_iter().map(|name| Violation {
            r#in: "query",
            name: shorten(name),
            problem: if known.is_empty() {
                "is not known: there are no parameters here".to_owned()
            } else {
                format!("is not known; known are {known}")
            },
        }));
        match (self.0.violations, self.0.not_acceptable) {
            (violations, _) if !violations.is_empty() => Err(Problem::invalid(Kind::InvalidParameters, violations)),
            (_, Some(problem)) => Err(problem),
            _ => Ok(value),
        }
    }

    /// Refuses every parameter.
    pub(crate) fn none(self) -> Result<(), Problem> {
        self.read(|_query| ())
    }
}

impl Query {
    /// The time that relative times are relative to.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// Notes what is wrong with a parameter, for checks of the caller's own.
    pub(crate) fn refuse(&mut self, name: &str, problem: impl Into<String>) {
        self.violations.push(Violation { r#in: "query", name: name.to_owned(), problem: problem.into() });
    }

    /// Notes that a parameter is missing, where it is.
    pub(crate) fn require(&mut self, name: &'static str) {
        if !self.pairs.iter().any(|(given, value)| given == name && !value.is_empty()) {
            self.refuse(name, "is missing");
        }
    }

    /// A text; an empty one is none.
    pub(crate) fn text(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let mut values = self.pairs.iter().filter(|(given, _value)| given == name).map(|(_name, value)| value);
        let (first, second) = (values.next().cloned(), values.next().is_some());
        if second {
            self.refuse(name, "is given more than once");
        }
        first.filter(|text| !text.is_empty())
    }

    /// Anything that is read from a text. The error's text must make sense to the caller.
    pub(crate) fn parse<T: FromStr<Err: Display>>(&mut self, name: &'static str) -> Option<T> {
        let text = self.text(name)?;
        self.parsed(name, text.parse())
    }

    fn parsed<T, E: Display>(&mut self, name: &'static str, parsed: Result<T, E>) -> Option<T> {
        parsed.map_err(|error| self.refuse(name, error.to_string())).ok()
    }

    /// A whole number from a range.
    pub(crate) fn number(&mut self, name: &'static str, min: u64, max: u64) -> Option<u64> {
        let text = self.text(name)?;
        let number = text.parse().ok().filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.refuse(name, format!("must be a whole number from {min} to {max}"));
        }
        number
    }

    /// The number of rows of a page.
    pub(crate) fn limit(&mut self, default: usize, max: usize) -> usize {
        self.number("limit", 1, max as u64).and_then(|limit| usize::try_from(limit).ok()).unwrap_or(default)
    }

    /// `true` or `false`.
    pub(crate) fn flag(&mut self, name: &'static str) -> Option<bool> {
        self.word(name, &[("true", true), ("false", false)])
    }

    /// One of some words.
    pub(crate) fn word<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(name)?;
        self.one_of(name, &text, words)
    }

    /// Some of some words.
    pub(crate) fn words<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Vec<T> {
        let given = self.list(name);
        given.iter().filter_map(|text| self.one_of(name, text, words)).collect()
    }

    fn one_of<T: Copy>(&mut self, name: &'static str, text: &str, words: &[(&str, T)]) -> Option<T> {
        let found = words.iter().find(|(word, _value)| *word == text).map(|(_word, value)| *value);
        if found.is_none() {
            let words: Vec<&str> = words.iter().map(|(word, _value)| *word).collect();
            self.refuse(name, format!("{:?} is none of {}", shorten(text), words.join(", ")));
        }
        found
    }

    /// A list: the parameter repeated, or values with commas between them, or both. Empty where there is none.
    pub(crate) fn list(&mut self, name: &'static str) -> Vec<String> {
        self.known.push(name);
        let values = self.pairs.iter().filter(|(given, _value)| given == name).flat_map(|(_name, value)| value.split(','));
        let list: Vec<String> = values.map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned).collect();
        if list.len() > LIST_MAX {
            self.refuse(name, format!("has more than {LIST_MAX} values"));
        }
        list
    }

    /// A list of what is found by its text; what is not found is reported.
    pub(crate) fn found<T>(&mut self, name: &'static str, what: &str, find: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let mut values = Vec::new();
        for text in self.list(name) {
            match find(&text) {
                Some(value) => values.push(value),
                None => self.refuse(name, format!("there is no {what} {:?}", shorten(&text))),
            }
        }
        values
    }

    /// An instant: RFC 3339 with offset, a date or a time of day on the clock of `zone` or the city, milliseconds since 1970, `now`,
    /// `now-24h`, `now+1h`.
    pub(crate) fn time(&mut self, name: &'static str) -> Option<Timestamp> {
        let text = self.text(name)?;
        let time = time(&text, self.now, &self.zone);
        self.parsed(name, time)
    }

    /// A half-open interval, where both ends are given or have defaults; the end must be after the beginning.
    pub(crate) fn interval(&mut self, default: Duration) -> (Timestamp, Timestamp) {
        let to = self.time("to").unwrap_or(self.now);
        let from = self.time("from").unwrap_or_else(|| to.minus(default));
        if from >= to {
            self.refuse("from", "must be before `to`");
        }
        (from, to)
    }

    /// A time zone of the IANA database.
    pub(crate) fn time_zone(&mut self, name: &'static str) -> Option<TimeZone> {
        let text = self.text(name)?;
        let zone = TimeZone::get(&text)
            .map_err(|_unknown| format!("{:?} is no time zone of the IANA database, such as Europe/Rome", shorten(&text)));
        self.parsed(name, zone)
    }

    /// An area: `bbox=west,south,east,north` or `near=longitude,latitude,radius in metres`, not both.
    pub(crate) fn area(&mut self) -> Option<Area> {
        let (corners, circle) = (self.text("bbox"), self.text("near"));
        match (corners, circle) {
            (Some(_), Some(_)) => {
                self.refuse("near", "and bbox exclude each other");
                None
            }
            (Some(text), None) => self.parsed("bbox", bbox(&text)),
            (None, Some(text)) => self.parsed("near", near(&text)),
            (None, None) => None,
        }
    }

    /// Where the last page ended: an opaque text that the parameter's type writes and reads.
    pub(crate) fn cursor<T: FromStr>(&mut self) -> Option<T> {
        let text = self.text("cursor")?;
        self.parsed("cursor", text.parse().map_err(|_invalid| "is no cursor of this address: take `next` of the page before"))
    }

    /// In which format to answer: by `?format=`, else by `Accept`, else the first one offered.
    pub(crate) fn format<F: Offered>(&mut self, offered: &[F]) -> F {
        let asked = self.text("format");
        match formats::negotiate(asked.as_deref(), &self.accept, offered) {
            Ok(format) => format,
            Err(problem) => {
                self.not_acceptable = Some(problem);
                F::DEFAULT
            }
        }
    }
}

fn time(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, String> {
    let invalid = || {
        let like = "2026-01-31T08:00:00+01:00, 2026-01-31T08:00, 2026-01-31, 1767254400000, now or now-24h";
        format!("{:?} is not a time such as {like}", shorten(text))
    };
    if let Some(delta) = text.strip_prefix("now") {
        // In a query, + means a space.
        let (sign, duration) = match delta.chars().next() {
            None => return Ok(now),
            Some(sign) => (sign, delta.strip_prefix(sign).unwrap_or_default()),
        };
        let duration = duration.parse::<DurationText>().map_err(|_invalid| invalid())?.0;
        return match sign {
            '-' => Ok(now.minus(duration)),
            '+' | ' ' => Ok(now.plus(duration)),
            _ => Err(invalid()),
        };
    }
    if let Ok(millis) = text.parse::<i64>() {
        return Timestamp::from_millis(millis).map_err(|error| error.to_string());
    }
    // In a query, the + of an offset that was not encoded means a space.
    let mended = match text.rsplit_once(' ') {
        Some((before, offset)) if before.len() > 10 && offset.contains(':') => format!("{before}+{offset}"),
        _ => text.to_owned(),
    };
    if let Ok(time) = mended.parse() {
        return Ok(time);
    }
    // A bare date is its first instant; a local time that the clock skips is read as if it did not, one that it has twice is the first.
    let has_zone = mended.get(10..).is_some_and(|time| time.contains(['+', '-', 'Z', 'z', '[']));
    let local = mended.parse::<DateTime>().ok().filter(|_local| !has_zone).ok_or_else(invalid)?;
    let time = zone.to_timestamp(local).map_err(|_invalid| invalid())?;
    Timestamp::from_micros(time.as_microsecond()).map_err(|error| error.to_string())
}

fn numbers<const N: usize>(text: &str) -> Option<[f64; N]> {
    let numbers: Vec<f64> =
        text.split(',').map(|number| number.trim().parse().ok().filter(|number: &f64| number.is_finite())).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

fn bbox(text: &str) -> Result<Area, String> {
    let [west, south, east, north] = numbers(text).ok_or("must be west,south,east,north in degrees, such as 13.2,38.0,13.5,38.2")?;
    let corner = |longitude, latitude| Position::new(longitude, latitude).map_err(|error| error.to_string());
    corner(west, south)?;
    corner(east, north)?;
    if west > east || south > north {
        return Err("must be west,south,east,north, west not beyond east and south not beyond north".to_owned());
    }
    Ok(Area::Box { west, south, east, north })
}

fn near(text: &str) -> Result<Area, String> {
    let [longitude, latitude, radius_m] = numbers(text).ok_or("must be longitude,latitude,radius in metres, such as 13.36,38.11,500")?;
    let centre = Position::new(longitude, latitude).map_err(|error| error.to_string())?;
    if radius_m <= 0.0 {
        return Err("the radius must be above zero metres".to_owned());
    }
    Ok(Area::Circle { centre, radius_m })
}

/// What comes from outside is not repeated at any length.
pub(super) fn shorten(text: &str) -> String {
    const LEN_MAX: usize = 60;
    let mut short: String = text.chars().take(LEN_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T>(query: &str, read: impl FnOnce(&mut Query) -> T) -> Result<T, Problem> {
        let now = Timestamp::from_micros(1_700_000_000_000_000).unwrap();
        Params::new(query, &HeaderMap::new(), now, TimeZone::get("Europe/Rome").unwrap()).read(read)
    }

    #[test]
    fn times_are_absolute_or_relative() {
        for (text, millis) in [
            ("2023-11-14T22:13:20Z", 1_700_000_000_000),
            ("2023-11-14T23:13:20%2B01:00", 1_700_000_000_000),
            ("2023-11-14T23:13:20+01:00", 1_700_000_000_000),
            ("1700000000000", 1_700_000_000_000),
            ("now", 1_700_000_000_000),
            ("now-24h", 1_699_913_600_000),
            ("now%2B1s", 1_700_000_001_000),
            ("now+1s", 1_700_000_001_000),
            ("2023-11-14", 1_699_916_400_000),
            ("2023-11-14T23:13", 1_699_999_980_000),
            ("2023-11-14T23:13:20", 1_700_000_000_000),
            ("2023-03-26T02:30", 1_679_794_200_000),
            ("2023-10-29T02:30", 1_698_539_400_000),
        ] {
            let time = read(&format!("t={text}"), |query| query.time("t")).unwrap();
            assert_eq!(time.unwrap().micros(), millis * 1_000, "{text}");
        }
        let elsewhere = |query: &mut Query| (query.time_zone("zone"), query.time("t")).1;
        assert_eq!(read("t=2023-11-14&zone=Asia/Tokyo", elsewhere).unwrap().unwrap().micros(), 1_699_887_600_000_000);
        for text in ["yesterday", "now-", "now-1w", "nower", "2023-11-31", "2023-11-14T25:00", "2023-11-14T22+0a:00", "99999999999999999"] {
            assert!(read(&format!("t={text}"), |query| query.time("t")).is_err(), "{text}");
        }
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let problem = read("from=x&limit=0&devise=a&order=up&order=down", |query| {
            let _from = query.interval(Duration::from_mins(1));
            let _limit = query.limit(10, 20);
            query.require("property");
            let _property = query.list("property");
            let _order = query.text("order");
        });
        let text = format!("{:?}", problem.unwrap_err());
        for name in ["from", "limit", "devise", "property", "order"] {
            assert!(text.contains(&format!("name: {name:?}")), "{name}: {text}");
        }
    }

    #[test]
    fn lists_repeat_or_have_commas() {
        let list = read("a=1,2&a=3&a=", |query| query.list("a")).unwrap();
        assert_eq!(list, ["1", "2", "3"]);
        let found = read("a=1,x", |query| query.found("a", "number", |text| text.parse::<u8>().ok()));
        assert!(found.is_err());
    }

    #[test]
    fn areas_lie_on_the_globe() {
        assert!(matches!(read("bbox=13.2,38.0,13.5,38.2", Query::area).unwrap(), Some(Area::Box { .. })));
        assert!(matches!(read("near=13.36,38.11,500", Query::area).unwrap(), Some(Area::Circle { .. })));
        for wrong in ["bbox=13.5,38,13.2,38.2", "bbox=1,2,3", "near=13,99,5", "near=13,38,0", "near=13,38,nan", "near=13,38,5&bbox=1,2,3,4"]
        {
            assert!(read(wrong, Query::area).is_err(), "{wrong}");
        }
    }
}
