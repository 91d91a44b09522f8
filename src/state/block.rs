//! The observations of one commit, column by column.

use serde::{Deserialize, Serialize};

use super::{LedgerKey, SeriesIndex};
use crate::model::{DistrictIndex, Districts, Original, Position};

/// How a block's rows relate to what is already stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Ahead of every watermark: certainly new.
    Ordered,
    /// At or behind a watermark, or ahead of our clock: to be compared with what is stored.
    Late,
}

/// What one commit added to the intake log in one lane.
#[derive(Clone, Debug)]
pub struct Block {
    /// The commit's number; grows, is never used twice.
    pub sequence: u64,
    /// The observations, in order of receipt.
    pub rows: Rows,
}

/// Where an observation was made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    /// The position, if known.
    pub position: Option<Position>,
    /// The district that holds it.
    pub district: Option<DistrictIndex>,
}

/// How many of the following rows a line of the ledger counts as pending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The line.
    pub key: LedgerKey,
    /// Rows.
    pub rows: u32,
}

/// Observations as columns of equal length.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Device and property.
    pub series: Vec<SeriesIndex>,
    /// Phenomenon time in microseconds.
    pub time: Vec<i64>,
    /// Canonical unit.
    pub value: Vec<f64>,
    /// Bits of [`crate::model::Flags`].
    pub flags: Vec<u16>,
    /// Index into `places`.
    pub place: Vec<u32>,
    /// The distinct places, consecutive equal ones once.
    pub places: Vec<Place>,
    /// What was sent, by row, where it differs.
    pub originals: Vec<(u32, Original)>,
    /// Late rows only: which ledger lines hold them as pending, in row order.
    pub origins: Vec<Origin>,
}

impl Rows {
    /// Number of observations.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Appends one observation.
    pub fn push(&mut self, series: SeriesIndex, time: i64, value: f64, flags: u16, place: Place, original: Option<&Original>) {
        if self.places.last() != Some(&place) {
            self.places.push(place);
        }
        if let Some(original) = original {
            self.originals.push((row_number(self.series.len()), original.clone()));
        }
        self.series.push(series);
        self.time.push(time);
        self.value.push(value);
        self.flags.push(flags);
        self.place.push(row_number(self.places.len() - 1));
    }

    /// The place of a row.
    pub fn place_of(&self, row: usize) -> Place {
        self.place.get(row).and_then(|place| self.places.get(*place as usize)).copied().unwrap_or_default()
    }

    /// What was sent as a row's value, where it differs.
    pub fn original_of(&self, row: usize) -> Option<&Original> {
        let found = self.originals.binary_search_by_key(&row, |(at, _original)| *at as usize).ok()?;
        self.originals.get(found).map(|(_row, original)| original)
    }

    /// Roughly the memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.series.len() * 26 + self.places.len() * 40 + self.originals.len() * 48
    }

    /// The form that the database keeps; district ids as text, since their indexes are not stable.
    pub fn encode(&self, districts: &Districts) -> Vec<u8> {
        let mut previous = 0;
        let stored = StoredRows {
            series: self.series.iter().map(|series| series.0).collect(),
            time_deltas: self.time.iter().map(|time| time.wrapping_sub(std::mem::replace(&mut previous, *time))).collect(),
            value: self.value.clone(),
            flags: self.flags.clone(),
            place: self.place.clone(),
            places: self
                .places
                .iter()
                .map(|place| StoredPlace {
                    position: place.position.map(|position| (position.longitude(), position.latitude())),
                    district: place.district.map(|district| districts.get(district).id.clone()),
                })
                .collect(),
            originals: self.originals.iter().map(|(row, original)| (*row, original.value, original.unit.clone())).collect(),
            origins: self.origins.clone(),
        };
        postcard::to_stdvec(&stored).expect("plain data always serialises")
    }

    /// Reads what [`Rows::encode`] wrote. A district that is no longer known becomes none.
    pub fn decode(bytes: &[u8], districts: &Districts) -> Result<Self, postcard::Error> {
        let stored: StoredRows = postcard::from_bytes(bytes)?;
        let mut time = 0_i64;
        Ok(Self {
            series: stored.series.into_iter().map(SeriesIndex).collect(),
            time: stored
                .time_deltas
                .into_iter()
                .map(|delta| {
                    time = time.wrapping_add(delta);
                    time
                })
                .collect(),
            value: stored.value,
            flags: stored.flags,
            place: stored.place,
            places: stored
                .places
                .into_iter()
                .map(|place| Place {
                    position: place.position.and_then(|(longitude, latitude)| Position::new(longitude, latitude).ok()),
                    district: place.district.and_then(|id| districts.by_id(&id)),
                })
                .collect(),
            originals: stored.originals.into_iter().map(|(row, value, unit)| (row, Original { value, unit })).collect(),
            origins: stored.origins,
        })
    }
}

fn row_number(index: usize) -> u32 {
    u32::try_from(index).expect("a batch has far fewer than 2^32 rows")
}

/// The wire form; a change of it needs a migration of the log.
#[derive(Serialize, Deserialize)]
struct StoredRows {
    series: Vec<u32>,
    time_deltas: Vec<i64>,
    value: Vec<f64>,
    flags: Vec<u16>,
    place: Vec<u32>,
    places: Vec<StoredPlace>,
    originals: Vec<(u32, f64, String)>,
    origins: Vec<Origin>,
}

#[derive(Serialize, Deserialize)]
struct StoredPlace {
    position: Option<(f64, f64)>,
    district: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{SourceName, Timestamp};

    #[test]
    fn rows_survive_the_database() {
        let districts = Districts::built_in();
        let mut rows = Rows::default();
        let place = Place { position: Position::new(13.36, 38.11).ok(), district: districts.by_id("pa-c1") };
        rows.push(SeriesIndex(7), 1_700_000_000_000_000, 31.2, 0, place, None);
        rows.push(SeriesIndex(8), -5, -0.5, 3, place, Some(&Original { value: 64.9, unit: "[degF]".into() }));
        rows.push(SeriesIndex(7), i64::MAX, 1e300, 0, Place::default(), None);
        let key = LedgerKey { source: SourceName::try_from("main").unwrap(), hour: Timestamp::MIN };
        rows.origins.push(Origin { key, rows: 3 });
        let read = Rows::decode(&rows.encode(&districts), &districts).unwrap();
        assert_eq!(format!("{read:?}"), format!("{rows:?}"));
        assert_eq!(read.places.len(), 2);
        assert_eq!(read.original_of(1).map(|original| original.value), Some(64.9));
        assert_eq!(read.original_of(0), None);
    }
}
