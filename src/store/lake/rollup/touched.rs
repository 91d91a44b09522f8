//! Which units the rollups may not be right about.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;

use crate::model::{Catalogue, PropertyIndex, Timestamp, WindowSize, Windows};
use crate::state::{Block, Live, TouchedUnit};
use crate::store::lake::read::DayFile;

/// Units (property, local day), each with the moment at which it was last touched: a number that only grows.
#[derive(Clone, Debug, Default)]
pub(in crate::store::lake) struct Touched {
    units: BTreeMap<(u16, i32), u64>,
    moment: u64,
}

impl Touched {
    /// As the state database has them. Properties that the catalogue has dropped are left out.
    pub(in crate::store::lake) fn of(units: &[TouchedUnit], catalogue: &Catalogue, moment: u64) -> Self {
        let mut touched = Self { units: BTreeMap::new(), moment };
        touched.touch(units.iter().filter_map(|unit| Some((catalogue.find(&unit.property)?.0, unit.day))));
        touched
    }

    pub(in crate::store::lake) fn touch(&mut self, units: impl IntoIterator<Item = (u16, i32)>) {
        self.moment += 1;
        self.units.extend(units.into_iter().map(|unit| (unit, self.moment)));
    }

    pub(in crate::store::lake) fn holds(&self, unit: (u16, i32)) -> bool {
        self.units.contains_key(&unit)
    }

    /// A number above that of every touch so far.
    pub(in crate::store::lake) fn moment(&self) -> u64 {
        self.moment + 1
    }

    /// Every one.
    pub(super) fn units(&self) -> impl Iterator<Item = (u16, i32)> + '_ {
        self.units.keys().copied()
    }

    /// Days of a property.
    pub(in crate::store::lake) fn days_of(&self, property: PropertyIndex) -> impl Iterator<Item = i32> + '_ {
        self.units.range((property.0, i32::MIN)..=(property.0, i32::MAX)).map(|((_property, day), _moment)| *day)
    }

    /// The newest day with touched units up to `day`, and these.
    pub(super) fn newest(&self, day: i32) -> Option<(i32, Vec<(u16, u64)>)> {
        let newest = self.units.keys().map(|(_property, day)| *day).filter(|of| *of <= day).max()?;
        let units = self.units.iter().filter(|((_property, day), _moment)| *day == newest);
        Some((newest, units.map(|((property, _day), moment)| (*property, *moment)).collect()))
    }

    /// Takes out the units of a day that were not touched since; returns their properties.
    pub(super) fn settle(&mut self, day: i32, units: &[(u16, u64)]) -> Vec<u16> {
        let mut settled = Vec::new();
        for (property, moment) in units {
            if self.units.get(&(*property, day)) == Some(moment) {
                self.units.remove(&(*property, day));
                settled.push(*property);
            }
        }
        settled
    }

    pub(in crate::store::lake) fn len(&self) -> usize {
        self.units.len()
    }
}

/// Local days of instants, quick for instants of the same day.
#[derive(Debug)]
pub(in crate::store::lake) struct LocalDays<'a> {
    zone: &'a TimeZone,
    known: (i64, i64, i32),
}

impl<'a> LocalDays<'a> {
    pub(in crate::store::lake) fn new(zone: &'a TimeZone) -> Self {
        Self { zone, known: (0, 0, 0) }
    }

    /// The local day of an instant, since 1970-01-01.
    pub(in crate::store::lake) fn day(&mut self, micros: i64) -> i32 {
        let (start, end, day) = self.known;
        if (start..end).contains(&micros) {
            return day;
        }
        let (start, end) = day_around(self.zone, Timestamp::from_micros_clamped(micros));
        let day = date_at(self.zone, start);
        self.known = (start.micros(), end.micros(), day);
        day
    }

    /// The local days of which a file's UTC day has a part: two or three.
    pub(super) fn days_of(&mut self, file: &DayFile) -> [i32; 3] {
        let (start, noon) = (file.start(), file.start() + DayFile::LENGTH / 2);
        [start, noon, start + DayFile::LENGTH - 1].map(|time| self.day(time))
    }

    /// The units of some rows.
    pub(in crate::store::lake) fn units<'b>(&mut self, live: &Live, blocks: impl IntoIterator<Item = &'b Block>) -> BTreeSet<(u16, i32)> {
        let state = live.read();
        let mut units = BTreeSet::new();
        let mut last = None;
        for block in blocks {
            for (series, time) in block.rows.series.iter().zip(&block.rows.time) {
                let unit = (state.series_at(*series).property.0, self.day(*time));
                if last != Some(unit) {
                    units.insert(unit);
                    last = Some(unit);
                }
            }
        }
        units
    }
}

/// Start and end of the local day that holds an instant.
pub(super) fn day_around(zone: &TimeZone, time: Timestamp) -> (Timestamp, Timestamp) {
    let end = time.plus(std::time::Duration::from_micros(1));
    let windows = Windows::new(WindowSize::Day, zone, time, end, 4);
    windows.map_or((time, end), |windows| windows.bounds(0))
}

/// Start and end of a local day.
pub(super) fn bounds(zone: &TimeZone, day: i32) -> (Timestamp, Timestamp) {
    let date = epoch().saturating_add(jiff::Span::new().days(day));
    let noon = zone.to_ambiguous_timestamp(date.at(12, 0, 0, 0)).compatible().map_or(i64::MAX, jiff::Timestamp::as_microsecond);
    day_around(zone, Timestamp::from_micros_clamped(noon))
}

/// The local date at an instant.
pub(super) fn date_at(zone: &TimeZone, time: Timestamp) -> i32 {
    day_number(zone.to_datetime(time.into()).date())
}

pub(super) fn day_number(date: jiff::civil::Date) -> i32 {
    date.since(epoch()).map_or(0, |span| span.get_days())
}

pub(super) fn epoch() -> jiff::civil::Date {
    jiff::civil::date(1970, 1, 1)
}
