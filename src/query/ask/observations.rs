//! Observations as they are stored, by pages.
//!
//! A page is a stretch of one total order: time, device name, property name. Its cursor is the last row's place in that order, so
//! that what comes in meanwhile shifts nothing: whatever is there throughout is told exactly once.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use futures::StreamExt;

use super::{Answers, AskError, Filter};
use crate::model::{DeviceId, DistrictIndex, Flags, Original, Position, PropertyIndex, Timestamp};
use crate::state::DeviceIndex;
use crate::store::{Chunk, Detail, NO_DISTRICT, Order, Selection};

/// What observations are asked for.
#[derive(Clone, Debug)]
pub struct ObservationQuestion {
    /// Of these properties; none means all.
    pub properties: Vec<PropertyIndex>,
    /// From this phenomenon time, inclusive.
    pub from: Timestamp,
    /// To this phenomenon time, exclusive.
    pub to: Timestamp,
    /// Of these devices and places.
    pub filter: Filter,
    /// Which come first.
    pub direction: Direction,
    /// Rows of the page at most.
    pub limit: usize,
    /// Only what comes after this.
    pub after: Option<Cursor>,
}

/// Which observations come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// The newest.
    #[default]
    NewestFirst,
    /// The oldest.
    OldestFirst,
}

/// A place in the order of observations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    time: Timestamp,
    device: DeviceId,
    property: String,
}

/// The text is no cursor of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor that an answer gave")]
pub struct InvalidCursor;

/// Some observations, and where to go on.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In order.
    pub rows: Vec<ObservationRow>,
    /// Where to go on, if there is more.
    pub next: Option<Cursor>,
}

/// One observation.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservationRow {
    /// Phenomenon time.
    pub time: Timestamp,
    /// Whose.
    pub device: DeviceId,
    /// What.
    pub property: PropertyIndex,
    /// Canonical unit.
    pub value: f64,
    /// What is suspect about it.
    pub flags: Flags,
    /// Where.
    pub position: Option<Position>,
    /// The district that holds the position.
    pub district: Option<DistrictIndex>,
    /// What was sent, where that differs.
    pub original: Option<Original>,
}

impl fmt::Display for Cursor {
    /// Safe in addresses: names have no `~`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}~{}~{}", self.time.micros(), self.device, self.property)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let mut parts = text.splitn(3, '~');
        let (Some(time), Some(device), Some(property)) = (parts.next(), parts.next(), parts.next()) else { return Err(InvalidCursor) };
        Ok(Self {
            time: time.parse().ok().and_then(|micros| Timestamp::from_micros(micros).ok()).ok_or(InvalidCursor)?,
            device: DeviceId::try_from(device).map_err(|_invalid| InvalidCursor)?,
            property: property.chars().take(128).collect(),
        })
    }
}

/// The place of a row in the order, ascending.
type Key<'a> = (Timestamp, &'a str, &'a str);

/// A stretch of time is guessed to hold a page and a half: one scan mostly does.
const ROOM: f64 = 1.5;

/// The next stretch is so many times longer, where one held too little.
const GROWTH: u32 = 8;

impl Answers {
    /// A page of observations.
    pub async fn observations(&self, question: ObservationQuestion) -> Result<Page, AskError> {
        let rows_max = self.limits.page_rows_max;
        if question.limit == 0 || question.limit > rows_max {
            return Err(AskError::PageSize { asked: question.limit, rows_max });
        }
        if question.from >= question.to {
            return Err(AskError::EmptyRange);
        }
        let (devices, per_second) = {
            let state = self.live.read();
            let devices = question.filter.devices(&state)?;
            let series = state.series.iter().filter(|series| {
                (question.properties.is_empty() || question.properties.contains(&series.property))
                    && devices.as_ref().is_none_or(|devices| devices.binary_search(&series.device).is_ok())
            });
            let per_second: f64 = series.map(|series| 1.0 / f64::from(self.catalogue.get(series.property).interval_s)).sum();
            (devices, per_second)
        };
        let mut page = Page::default();
        let Some(oldest) = self.history.oldest_time().await? else { return Ok(page) };
        let mut left = question.filter.selection(question.properties.clone(), question.from.max(oldest), question.to, devices);
        match (&question.after, question.direction) {
            (None, _) => {}
            // Rows of the cursor's own time may be left.
            (Some(after), Direction::NewestFirst) => left.to = left.to.min(after.time.plus(Duration::from_micros(1))),
            (Some(after), Direction::OldestFirst) => left.from = left.from.max(after.time),
        }
        let mut stretch = Duration::try_from_secs_f64((question.limit as f64 + 1.0) * ROOM / per_second).unwrap_or(Duration::MAX);
        while left.from < left.to && page.rows.len() <= question.limit {
            let mut part = left.clone();
            match question.direction {
                Direction::NewestFirst => part.from = left.to.minus(stretch).max(left.from),
                Direction::OldestFirst => part.to = left.from.plus(stretch).min(left.to),
            }
            match question.direction {
                Direction::NewestFirst => left.to = part.from,
                Direction::OldestFirst => left.from = part.to,
            }
            let wanted = question.limit + 1 - page.rows.len();
            page.rows.append(&mut self.first_rows(part, &question, wanted).await?);
            stretch = stretch.saturating_mul(GROWTH);
        }
        if page.rows.len() > question.limit {
            page.rows.truncate(question.limit);
            page.next = page.rows.last().map(|row| self.cursor(row));
        }
        Ok(page)
    }

    fn cursor(&self, row: &ObservationRow) -> Cursor {
        Cursor { time: row.time, device: row.device.clone(), property: self.catalogue.get(row.property).id.clone() }
    }

    /// The first rows of a stretch of time, in the question's order.
    async fn first_rows(
        &self,
        selection: Selection,
        question: &ObservationQuestion,
        wanted: usize,
    ) -> Result<Vec<ObservationRow>, AskError> {
        let mut rows: Vec<ObservationRow> = Vec::new();
        let mut chunks = self.history.scan(selection, Order::Any, Detail::All)?;
        while let Some(chunk) = chunks.next().await {
            let after = question.after.as_ref().map(|cursor| (cursor.time, cursor.device.as_str(), cursor.property.as_str()));
            let is_left =
                |row: &ObservationRow| after.is_none_or(|after| question.direction.compare(self.key(row), after) == Ordering::Greater);
            rows.extend(self.rows(&chunk?).filter(is_left));
            // However much the stretch holds, only the first are kept.
            if rows.len() > wanted * 2 {
                self.keep_first(&mut rows, question.direction, wanted);
            }
            tokio::task::coop::consume_budget().await;
        }
        self.keep_first(&mut rows, question.direction, wanted);
        rows.sort_unstable_by(|one, other| question.direction.compare(self.key(one), self.key(other)));
        Ok(rows)
    }

    fn keep_first(&self, rows: &mut Vec<ObservationRow>, direction: Direction, wanted: usize) {
        if rows.len() > wanted {
            rows.select_nth_unstable_by(wanted, |one, other| direction.compare(self.key(one), self.key(other)));
            rows.truncate(wanted);
        }
    }

    fn key<'a>(&'a self, row: &'a ObservationRow) -> Key<'a> {
        (row.time, row.device.as_str(), &self.catalogue.get(row.property).id)
    }

    /// Rows of a chunk in full detail.
    pub(super) fn rows(&self, chunk: &Chunk) -> std::vec::IntoIter<ObservationRow> {
        let state = self.live.read();
        let mut rows = Vec::with_capacity(chunk.len());
        for row in 0..chunk.len() {
            let columns = (chunk.device.get(row), chunk.property.get(row), chunk.time.get(row), chunk.value.get(row), chunk.flags.get(row));
            let (Some(device), Some(property), Some(time), Some(value), Some(flags)) = columns else { continue };
            rows.push(ObservationRow {
                time: Timestamp::from_micros_clamped(*time),
                device: state.device(DeviceIndex(*device)).id.clone(),
                property: PropertyIndex(*property),
                value: *value,
                flags: Flags::from_bits_retain(*flags),
                position: chunk.position.get(row).copied().flatten(),
                district: chunk.district.get(row).filter(|district| **district != NO_DISTRICT).map(|district| DistrictIndex(*district)),
                original: chunk.original.get(row).cloned().flatten(),
            });
        }
        rows.into_iter()
    }
}

impl Direction {
    fn compare(self, one: Key<'_>, other: Key<'_>) -> Ordering {
        match self {
            Self::NewestFirst => other.cmp(&one),
            Self::OldestFirst => one.cmp(&other),
        }
    }
}
