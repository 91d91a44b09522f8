//! A time as the city lives it: local clock, kind of day, season, height of the sun.

use std::f64::consts::TAU;
use std::sync::LazyLock;

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

/// Palermo, for the sun.
const LATITUDE_DEG: f64 = 38.116;
const LONGITUDE_DEG: f64 = 13.362;

/// Holidays on a fixed date, month and day; the fifteenth of July is Santa Rosalia, the city's patron.
const HOLIDAYS: [(i8, i8); 11] = [(1, 1), (1, 6), (4, 25), (5, 1), (6, 2), (7, 15), (8, 15), (11, 1), (12, 8), (12, 25), (12, 26)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DayKind {
    Working,
    Saturday,
    /// Sundays and holidays.
    Sunday,
}

#[derive(Clone, Debug)]
pub struct Moment {
    /// Local time with its offset.
    pub local: ZonedDateTime,
    /// Seconds since the epoch.
    pub second: i64,
    /// Local clock, in `[0, 24)`.
    pub hour: f64,
    pub day_kind: DayKind,
    /// Part of the year that has gone, as an angle.
    pub season: f64,
    /// Sine of the sun's height above the horizon.
    pub sun: f64,
}

impl Moment {
    pub fn at(time: Timestamp) -> Self {
        static ZONE: LazyLock<TimeZone> = LazyLock::new(|| TimeZone::get("Europe/Rome").expect("the time zones are compiled in"));
        let local = time.to_zoned_datetime(ZONE.clone());
        let second = time.as_second();
        let clock = f64::from(local.hour()) * 3_600.0 + f64::from(local.minute()) * 60.0 + f64::from(local.second());
        let season = TAU * f64::from(local.day_of_year()) / 365.25;
        let day_kind = day_kind(local.date());
        Self { second, hour: clock / 3_600.0, day_kind, season, sun: sun(second, season), local }
    }

    /// Hours since midnight of the sun's own day, in `[0, 24)`.
    pub fn solar_hour(&self) -> f64 {
        solar_hour(self.second)
    }

    /// Near 1 on the given day of the year, near -1 half a year away.
    pub fn season_around(&self, day_of_year: f64) -> f64 {
        (self.season - TAU * day_of_year / 365.25).cos()
    }

    pub fn is_august(&self) -> bool {
        self.local.month() == 8
    }
}

fn day_kind(date: Date) -> DayKind {
    match date.weekday() {
        _ if HOLIDAYS.contains(&(date.month(), date.day())) => DayKind::Sunday,
        Weekday::Sunday => DayKind::Sunday,
        Weekday::Saturday => DayKind::Saturday,
        _ => DayKind::Working,
    }
}

fn solar_hour(second: i64) -> f64 {
    (second.rem_euclid(86_400) as f64 / 3_600.0 + LONGITUDE_DEG / 15.0).rem_euclid(24.0)
}

/// Without the equation of time: a quarter of an hour does not show.
fn sun(second: i64, season: f64) -> f64 {
    let declination = 23.44_f64.to_radians() * (season - TAU * 81.0 / 365.25).sin();
    let hour_angle = (solar_hour(second) - 12.0) * TAU / 24.0;
    let latitude = LATITUDE_DEG.to_radians();
    latitude.sin() * declination.sin() + latitude.cos() * declination.cos() * hour_angle.cos()
}

#[cfg(test)]
mod tests {
    use super::{DayKind, Moment};

    #[test]
    fn the_sun_of_palermo() {
        let check = |time: &str, height_deg: std::ops::Range<f64>| {
            let height = Moment::at(time.parse().unwrap()).sun.asin().to_degrees();
            assert!(height_deg.contains(&height), "{time}: {height}");
        };
        check("2025-06-21T11:06:00Z", 74.0..76.0);
        check("2025-12-21T11:06:00Z", 28.0..29.0);
        check("2025-06-21T23:06:00Z", -30.0..-27.0);
        // Sunrise at the equinox.
        check("2025-03-20T05:10:00Z", -2.0..2.0);
    }

    #[test]
    fn clock_and_calendar_are_local() {
        let check = |time: &str, hour: f64, day_kind| {
            let moment = Moment::at(time.parse().unwrap());
            assert!((moment.hour - hour).abs() < 1e-9, "{time}: {}", moment.hour);
            assert_eq!(moment.day_kind, day_kind, "{time}");
        };
        check("2025-07-11T22:30:00Z", 0.5, DayKind::Saturday);
        check("2025-07-15T10:00:00Z", 12.0, DayKind::Sunday);
        check("2025-01-14T10:15:00Z", 11.25, DayKind::Working);
        check("2025-01-12T10:00:00Z", 11.0, DayKind::Sunday);
    }
}
