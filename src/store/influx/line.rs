//! From observations to line protocol.

use std::ops::Range;

use influxdb_line_protocol::LineProtocolBuilder;

use super::NONE;
use crate::model::{Catalogue, Districts, Original};
use crate::model::{DistrictIndex, PropertyIndex};
use crate::state::{DeviceIndex, Lane, Place, Rows, State};
use crate::store::{Chunk, NO_DISTRICT};

/// Lines, one an observation.
#[derive(Debug, Default)]
pub(super) struct Lines {
    text: Vec<u8>,
    /// Where each line ends.
    ends: Vec<usize>,
}

/// An observation by the names under which it is written.
struct Point<'a> {
    device: &'a str,
    property: &'a str,
    time: i64,
    value: f64,
    flags: u16,
    place: Place,
    original: Option<&'a Original>,
    /// Whether a point may already be there: then what this one lacks must be overwritten too.
    overwrites: bool,
}

impl Lines {
    /// How many.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Some of them, as text.
    pub(super) fn text(&self, range: Range<usize>) -> &[u8] {
        let start = range.start.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = range.end.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or(0);
        self.text.get(start..end).unwrap_or_default()
    }

    /// Appends the rows of a block of the log.
    pub(super) fn push_block(&mut self, rows: &Rows, lane: Lane, state: &State, catalogue: &Catalogue, districts: &Districts) {
        for (row, (((series, time), value), flags)) in rows.series.iter().zip(&rows.time).zip(&rows.value).zip(&rows.flags).enumerate() {
            let series = state.series_at(*series);
            let point = Point {
                device: state.device(series.device).id.as_str(),
                property: &catalogue.get(series.property).id,
                time: *time,
                value: *value,
                flags: *flags,
                place: rows.place_of(row),
                original: rows.original_of(row),
                overwrites: lane == Lane::Late,
            };
            self.push(&point, districts);
        }
    }

    /// Appends rows of a scan with all details, which may overwrite points.
    pub(super) fn push_chunk(&mut self, chunk: &Chunk, state: &State, catalogue: &Catalogue, districts: &Districts) {
        let columns = chunk.device.iter().zip(&chunk.property).zip(&chunk.time).zip(&chunk.value).zip(&chunk.flags).zip(&chunk.district);
        let places = chunk.position.iter().zip(&chunk.original);
        for ((((((device, property), time), value), flags), district), (position, original)) in columns.zip(places) {
            let district = (*district != NO_DISTRICT).then_some(DistrictIndex(*district));
            let point = Point {
                device: state.device(DeviceIndex(*device)).id.as_str(),
                property: &catalogue.get(PropertyIndex(*property)).id,
                time: *time,
                value: *value,
                flags: *flags,
                place: Place { position: *position, district },
                original: original.as_ref(),
                overwrites: true,
            };
            self.push(&point, districts);
        }
    }

    fn push(&mut self, point: &Point<'_>, districts: &Districts) {
        let Point { device, property, time, value, flags, place, original, overwrites } = *point;
        let mut line = LineProtocolBuilder::new_with(std::mem::take(&mut self.text))
            .measurement("observation")
            .tag("device", device)
            .tag("property", property)
            .field("value", value);
        if overwrites || flags != 0 {
            line = line.field("flags", i64::from(flags));
        }
        match place.district {
            Some(district) => line = line.field("district", districts.get(district).id.as_str()),
            None if overwrites => line = line.field("district", NONE),
            None => {}
        }
        if let Some(position) = place.position {
            line = line.field("longitude", position.longitude()).field("latitude", position.latitude());
        }
        if overwrites {
            line = line.field("located", place.position.is_some());
        }
        match original {
            Some(original) => line = line.field("original_value", original.value).field("original_unit", original.unit.as_str()),
            None if overwrites => line = line.field("original_unit", NONE),
            None => {}
        }
        self.text = line.timestamp(time).close_line().build();
        self.ends.push(self.text.len());
    }
}
