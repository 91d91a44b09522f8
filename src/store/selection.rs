//! Which observations a question is about, and the columns in which a store hands them over.

use futures::stream::BoxStream;

use super::LakeError;
use crate::model::{DistrictIndex, Flags, Original, Position, PropertyIndex, Timestamp};
use crate::state::{DeviceIndex, Place};

/// The district of a row that has none.
pub const NO_DISTRICT: u16 = u16::MAX;

/// Which observations.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Of these properties; none means all.
    pub properties: Vec<PropertyIndex>,
    /// From this phenomenon time, inclusive.
    pub from: Timestamp,
    /// To this phenomenon time, exclusive.
    pub to: Timestamp,
    /// Of these devices; `None` means all.
    pub devices: Option<Vec<DeviceIndex>>,
    /// Made in one of these districts; none means anywhere.
    pub districts: Vec<DistrictIndex>,
    /// Made in this area.
    pub area: Option<Area>,
    /// Only trusted ones.
    pub trusted: bool,
}

/// A part of the globe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Area {
    /// Between two corners, borders included, in degrees.
    Box { west: f64, south: f64, east: f64, north: f64 },
    /// Around a point, to a distance in metres.
    Circle { centre: Position, radius_m: f64 },
}

impl Area {
    /// Whether the area holds the position.
    pub fn contains(&self, position: Position) -> bool {
        match *self {
            Self::Box { west, south, east, north } => {
                (west..=east).contains(&position.longitude()) && (south..=north).contains(&position.latitude())
            }
            Self::Circle { centre, radius_m } => centre.distance_m(position) <= radius_m,
        }
    }

    /// Corners of a box around it, in degrees: west, south, east, north.
    pub fn bounds(&self) -> (f64, f64, f64, f64) {
        match *self {
            Self::Box { west, south, east, north } => (west, south, east, north),
            Self::Circle { centre, radius_m } => {
                // A degree of latitude is never shorter than 110,574 m; near the poles any longitude may be inside.
                let latitude = radius_m / 110_574.0;
                let narrowest = (centre.latitude().abs() + latitude).min(90.0).to_radians().cos();
                let longitude = if narrowest > 1e-6 { (radius_m / (111_320.0 * narrowest)).min(360.0) } else { 360.0 };
                (centre.longitude() - longitude, centre.latitude() - latitude, centre.longitude() + longitude, centre.latitude() + latitude)
            }
        }
    }
}

impl Selection {
    /// Whether the parts that are not identity let a row through.
    pub fn matches_place(&self, flags: u16, place: Place) -> bool {
        (!self.trusted || Flags::from_bits_retain(flags).is_trusted())
            && (self.districts.is_empty() || place.district.is_some_and(|district| self.districts.contains(&district)))
            && self.area.is_none_or(|area| place.position.is_some_and(|position| area.contains(position)))
    }
}

/// In which order rows come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// In any.
    Any,
    /// Each series' rows by ascending time; of the table, day by day (UTC), and in each day series by series.
    SeriesTime,
}

/// How much of each observation is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Identity, value, flags.
    Values,
    /// District too.
    Numbers,
    /// Position and original value too.
    All,
}

/// Rows as columns of equal length.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    /// [`DeviceIndex`].
    pub device: Vec<u32>,
    /// [`PropertyIndex`].
    pub property: Vec<u16>,
    /// Phenomenon time in microseconds.
    pub time: Vec<i64>,
    /// Canonical unit.
    pub value: Vec<f64>,
    /// Bits of [`Flags`].
    pub flags: Vec<u16>,
    /// [`DistrictIndex`], or [`NO_DISTRICT`]; with [`Detail::Values`] it need not be known.
    pub district: Vec<u16>,
    /// With [`Detail::All`], or where an area was asked for; else empty.
    pub position: Vec<Option<Position>>,
    /// With [`Detail::All`]; else empty.
    pub original: Vec<Option<Original>>,
}

impl Chunk {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.time.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.time.is_empty()
    }

    /// Its first rows.
    pub(super) fn first(&self, rows: usize) -> Self {
        self.part(0, rows)
    }

    /// Its rows in chunks of at most so many.
    pub(super) fn split(self, rows_max: usize) -> Vec<Self> {
        if self.len() <= rows_max {
            return if self.is_empty() { Vec::new() } else { vec![self] };
        }
        (0..self.len()).step_by(rows_max).map(|start| self.part(start, start + rows_max)).collect()
    }

    fn part(&self, start: usize, end: usize) -> Self {
        fn part<T: Clone>(column: &[T], start: usize, end: usize) -> Vec<T> {
            column.get(start..end.min(column.len())).unwrap_or_default().to_vec()
        }
        Self {
            device: part(&self.device, start, end),
            property: part(&self.property, start, end),
            time: part(&self.time, start, end),
            value: part(&self.value, start, end),
            flags: part(&self.flags, start, end),
            district: part(&self.district, start, end),
            position: part(&self.position, start, end),
            original: part(&self.original, start, end),
        }
    }

    /// Appends one row of another chunk of the same detail.
    pub(super) fn append_row(&mut self, from: &Self, row: usize) {
        fn append<T: Clone>(to: &mut Vec<T>, from: &[T], row: usize) {
            to.extend(from.get(row).cloned());
        }
        append(&mut self.device, &from.device, row);
        append(&mut self.property, &from.property, row);
        append(&mut self.time, &from.time, row);
        append(&mut self.value, &from.value, row);
        append(&mut self.flags, &from.flags, row);
        append(&mut self.district, &from.district, row);
        append(&mut self.position, &from.position, row);
        append(&mut self.original, &from.original, row);
    }

    /// Keeps the rows for which `keep` says so.
    pub(super) fn retain(&mut self, keep: &[bool]) {
        fn retain<T>(column: &mut Vec<T>, keep: &[bool]) {
            let mut flags = keep.iter();
            column.retain(|_value| flags.next().copied().unwrap_or(false));
        }
        retain(&mut self.device, keep);
        retain(&mut self.property, keep);
        retain(&mut self.time, keep);
        retain(&mut self.value, keep);
        retain(&mut self.flags, keep);
        retain(&mut self.district, keep);
        retain(&mut self.position, keep);
        retain(&mut self.original, keep);
    }
}

/// An answer as it comes.
pub type Chunks = BoxStream<'static, Result<Chunk, LakeError>>;
