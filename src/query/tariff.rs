//! Time bands of energy and their prices, as data: which band an hour belongs to, and what a unit costs in it.
//!
//! The built-in calendar is Italy's F1, F2 and F3 (ARERA, delibera 181/06); it has no prices, which are each contract's own. A city's file has the
//! form of `schemas/tariff.schema.json`.

use std::collections::BTreeMap;
use std::str::FromStr;

use jiff::civil::{self, Date, Weekday};
use jiff::tz::TimeZone;
use rust_decimal::Decimal;
use serde::Deserialize;

use crate::model::Timestamp;
use crate::model::{WindowSize, Windows, WindowsError};

const BUILT_IN: &str = include_str!("../../schemas/tariffs/italy.json");

/// Bands and prices.
#[derive(Clone, Debug, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tariff {
    /// Its name in answers.
    pub id: String,
    /// For people.
    #[serde(default)]
    pub title: String,
    /// Where it is from.
    #[serde(default)]
    pub source: String,
    /// On whose clock its hours are: an IANA name.
    pub zone: String,
    /// ISO 4217.
    pub currency: String,
    /// The first that holds an hour counts.
    pub hours: Vec<Hours>,
    /// The band of all other hours, and of holidays.
    pub otherwise: String,
    /// Days on which no hour of `hours` counts.
    #[serde(default)]
    pub holidays: Vec<Holiday>,
    /// By the day from which they hold; none: consumption has no cost.
    #[serde(default)]
    pub prices: Vec<Prices>,
}

/// Hours of a band.
#[derive(Clone, Debug, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hours {
    /// Days of the week.
    pub days: Vec<Day>,
    /// From this hour, local time.
    #[schemars(range(min = 0, max = 23))]
    pub from: u8,
    /// To this hour, which does not belong to it.
    #[schemars(range(min = 1, max = 24))]
    pub to: u8,
    /// The band.
    pub band: String,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "days")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// A holiday: a date of every year, or a day after Easter Sunday.
#[derive(Clone, Debug, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Holiday {
    /// For people.
    pub name: String,
    /// 1 to 12, with `day`.
    pub month: Option<i8>,
    /// 1 to 31, with `month`.
    pub day: Option<i8>,
    /// Days after Easter Sunday of the western calendar.
    pub after_easter: Option<i8>,
    /// The first year in which it is one.
    pub first_year: Option<i16>,
}

/// What a unit costs.
#[derive(Clone, Debug, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// From this local date on.
    #[schemars(with = "String", regex(pattern = r"^\d{4}-\d{2}-\d{2}$"))]
    pub from: Date,
    /// By band, as decimal numbers in quotes: money is exact.
    #[schemars(with = "BTreeMap<String, String>")]
    pub per_unit: BTreeMap<String, String>,
}

/// A tariff cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TariffError {
    /// Not of the file's form.
    #[error("not a tariff: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Everything that makes no sense.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
}

/// A stretch of time in one band, at one price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch<'a> {
    /// Where it begins, in microseconds.
    pub start: i64,
    /// Which band.
    pub band: &'a str,
    /// What a unit costs; none where no price is known.
    pub price: Option<Decimal>,
}

impl Tariff {
    /// Italy's bands, without prices.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("the tariff that is built in is tested")
    }

    /// Reads and checks a tariff.
    pub fn parse(text: &str) -> Result<Self, TariffError> {
        let mut tariff: Self = serde_json::from_str(text)?;
        tariff.prices.sort_by_key(|prices| prices.from);
        let problems = tariff.problems();
        if problems.is_empty() { Ok(tariff) } else { Err(TariffError::Invalid(problems)) }
    }

    /// The JSON Schema of a file.
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if TimeZone::get(&self.zone).is_err() {
            problems.push(format!("{:?} is no time zone of the IANA database", self.zone));
        }
        problems.extend(
            self.hours
                .iter()
                .filter(|hours| hours.from >= hours.to || hours.to > 24)
                .map(|hours| format!("the hours of {} are none", hours.band)),
        );
        for holiday in &self.holidays {
            let is_date = holiday.month.zip(holiday.day).is_some_and(|(month, day)| Date::new(2024, month, day).is_ok());
            if is_date == holiday.after_easter.is_some() {
                problems.push(format!("{}: either month and day, or after_easter", holiday.name));
            }
        }
        for prices in &self.prices {
            for band in self.bands() {
                if prices.per_unit.get(band).is_none_or(|price| Decimal::from_str(price).is_err()) {
                    problems.push(format!("from {}: the price of {band} is no decimal number", prices.from));
                }
            }
        }
        problems
    }

    /// Its bands.
    pub fn bands(&self) -> Vec<&str> {
        let mut bands: Vec<&str> = self.hours.iter().map(|hours| hours.band.as_str()).chain([self.otherwise.as_str()]).collect();
        bands.sort_unstable();
        bands.dedup();
        bands
    }

    /// The stretches that a time is made of, each as long as band and price are the same; at most `count_max` hours.
    pub fn stretches(&self, from: Timestamp, to: Timestamp, count_max: usize) -> Result<Vec<Stretch<'_>>, WindowsError> {
        let zone = TimeZone::get(&self.zone).unwrap_or(TimeZone::UTC);
        let hours = Windows::new(WindowSize::Hours(1), &zone, from, to, count_max)?;
        let mut stretches: Vec<Stretch<'_>> = Vec::new();
        for index in 0..hours.len() {
            let (start, _end) = hours.bounds(index);
            let local = zone.to_datetime(start.into());
            let (band, price) = (self.band(local), self.price(local));
            if stretches.last().is_none_or(|last| last.band != band || last.price != price) {
                stretches.push(Stretch { start: start.micros(), band, price });
            }
        }
        Ok(stretches)
    }

    fn band(&self, local: civil::DateTime) -> &str {
        let (date, hour) = (local.date(), local.hour());
        if self.holidays.iter().any(|holiday| holiday.is_on(date)) {
            return &self.otherwise;
        }
        let day = match date.weekday() {
            Weekday::Monday => Day::Mon,
            Weekday::Tuesday => Day::Tue,
            Weekday::Wednesday => Day::Wed,
            Weekday::Thursday => Day::Thu,
            Weekday::Friday => Day::Fri,
            Weekday::Saturday => Day::Sat,
            Weekday::Sunday => Day::Sun,
        };
        let holds = |hours: &&Hours| hours.days.contains(&day) && (i16::from(hours.from)..i16::from(hours.to)).contains(&i16::from(hour));
        self.hours.iter().find(holds).map_or(&self.otherwise, |hours| &hours.band)
    }

    fn price(&self, local: civil::DateTime) -> Option<Decimal> {
        let prices = self.prices.iter().rev().find(|prices| prices.from <= local.date())?;
        Decimal::from_str(prices.per_unit.get(self.band(local))?).ok()
    }
}

impl Holiday {
    fn is_on(&self, date: Date) -> bool {
        if self.first_year.is_some_and(|first| date.year() < first) {
            return false;
        }
        match self.after_easter {
            Some(days) => easter(date.year())
                .is_some_and(|easter| easter.saturating_add(jiff::SignedDuration::from_hours(24 * i64::from(days))) == date),
            None => self.month == Some(date.month()) && self.day == Some(date.day()),
        }
    }
}

/// Easter Sunday of the Gregorian calendar (Meeus, Jones and Butcher's rule).
fn easter(year: i16) -> Option<Date> {
    let year_number = i32::from(year);
    let (golden, century, of_century) = (year_number % 19, year_number / 100, year_number % 100);
    let (leap_centuries, rest) = (century / 4, century % 4);
    let correction = (century - (century + 8) / 25 + 1) / 3;
    let epact = (19 * golden + century - leap_centuries - correction + 15) % 30;
    let weekday = (32 + 2 * rest + 2 * (of_century / 4) - epact - of_century % 4) % 7;
    let shift = (golden + 11 * epact + 22 * weekday) / 451;
    let month = (epact + weekday - 7 * shift + 114) / 31;
    let day = (epact + weekday - 7 * shift + 114) % 31 + 1;
    Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn easter_is_where_the_church_has_it() {
        for (year, month, day) in [(2000, 4, 23), (2024, 3, 31), (2025, 4, 20), (2026, 4, 5), (2027, 3, 28), (2038, 4, 25)] {
            assert_eq!(easter(year), Date::new(year, month, day).ok());
        }
    }

    #[test]
    fn italian_bands_follow_week_and_holidays() {
        let tariff = Tariff::built_in();
        for (local, band) in [
            ("2026-03-02T07:59", "F2"),
            ("2026-03-02T08:00", "F1"),
            ("2026-03-02T18:59", "F1"),
            ("2026-03-02T19:00", "F2"),
            ("2026-03-02T23:00", "F3"),
            ("2026-03-02T06:59", "F3"),
            ("2026-03-07T06:59", "F3"),
            ("2026-03-07T07:00", "F2"),
            ("2026-03-07T23:00", "F3"),
            ("2026-03-08T12:00", "F3"),
            // Easter Monday, Liberation Day on a Saturday, and Saint Francis, who is a holiday since 2026 (a Sunday then; 2027 a Monday).
            ("2026-04-06T12:00", "F3"),
            ("2026-04-25T12:00", "F3"),
            ("2027-10-04T12:00", "F3"),
            ("2021-10-04T12:00", "F1"),
            ("2026-12-08T12:00", "F3"),
        ] {
            assert_eq!(tariff.band(local.parse().unwrap()), band, "{local}");
        }
    }

    #[test]
    fn stretches_are_as_long_as_a_band() {
        let tariff = Tariff { prices: vec![], ..Tariff::built_in() };
        // The day on which the clock is set forward, a Sunday, and the Monday after it.
        let stretches = tariff.stretches("2026-03-28T23:00:00Z".parse().unwrap(), "2026-03-30T22:00:00Z".parse().unwrap(), 100).unwrap();
        let shown: Vec<String> =
            stretches.iter().map(|stretch| format!("{} {}", Timestamp::from_micros(stretch.start).unwrap(), stretch.band)).collect();
        assert_eq!(
            shown,
            [
                "2026-03-28T23:00:00Z F3",
                "2026-03-30T05:00:00Z F2",
                "2026-03-30T06:00:00Z F1",
                "2026-03-30T17:00:00Z F2",
                "2026-03-30T21:00:00Z F3"
            ]
        );
    }

    #[test]
    fn a_tariff_without_sense_is_refused() {
        let text = r#"{"id":"x","zone":"Rome","currency":"EUR","otherwise":"A","hours":[{"days":["mon"],"from":9,"to":9,"band":"B"}],
            "holidays":[{"name":"h"},{"name":"i","month":2,"day":30}],"prices":[{"from":"2026-01-01","per_unit":{"A":"0,1"}}]}"#;
        match Tariff::parse(text) {
            Err(TariffError::Invalid(problems)) => assert_eq!(problems.len(), 6, "{problems:?}"),
            other => panic!("{other:?}"),
        }
    }
}
