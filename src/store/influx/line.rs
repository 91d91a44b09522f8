//! From observations to line protocol.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use influxdb_line_protocol::LineProtocolBuilder;

use super::{NONE, ROLLUP};
use crate::model::{Catalogue, DistrictIndex, Districts, Flags, Original, PropertyIndex};
use crate::rollup::{Statistic, Statistics, Tier};
use crate::state::{DeviceIndex, Lane, Place, Rows, State};
use crate::store::lake::RollupRow;
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

    /// How long they are together.
    pub(super) fn bytes(&self) -> usize {
        self.text.len()
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

    /// Appends rows of a scan with all details; none of them overwrites a point.
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
                overwrites: false,
            };
            self.push(&point, districts);
        }
    }

    /// Appends a bucket of a rollup: what is not kept of its property, or says nothing, is left out.
    pub(super) fn push_rollup(&mut self, tier: Tier, row: &RollupRow) {
        let RollupRow { property, device, start, district, trusted, kept, statistics, .. } = row;
        let mut line = LineProtocolBuilder::new_with(std::mem::take(&mut self.text))
            .measurement(ROLLUP)
            .tag("tier", tier.word())
            .tag("property", property)
            .tag("device", device)
            .tag("trusted", if *trusted { "true" } else { "false" });
        if let Some(district) = district {
            line = line.tag("district", district);
        }
        let Statistics { first, last, flags, last_flags, .. } = statistics;
        let mut line = line
            .field("count", i64::try_from(statistics.count).unwrap_or(i64::MAX))
            .field("first_time", first.time)
            .field("first", first.value)
            .field("last_time", last.time)
            .field("last", last.value);
        for (name, bits) in [("flags", *flags), ("last_flags", *last_flags)] {
            if bits != 0 {
                line = line.field(name, i64::from(bits));
            }
        }
        for (name, statistic, value) in [
            ("min", Statistic::Extremes, statistics.min),
            ("max", Statistic::Extremes, statistics.max),
            ("sum", Statistic::Sum, statistics.sum),
            ("squares", Statistic::Squares, statistics.squares),
            ("sine", Statistic::Direction, statistics.sine),
            ("cosine", Statistic::Direction, statistics.cosine),
            ("energy", Statistic::Energy, statistics.energy),
        ] {
            if kept.has(statistic) {
                line = line.field(name, value);
            }
        }
        if let Some(increase) = statistics.increase {
            line = line.field("increase", increase);
        }
        if let Some(sketch) = &statistics.sketch {
            line = line.field("sketch", BASE64.encode(sketch.to_bytes()).as_str());
        }
        self.text = line.timestamp(*start).close_line().build();
        self.ends.push(self.text.len());
    }

    fn push(&mut self, point: &Point<'_>, districts: &Districts) {
        let Point { device, property, time, value, flags, place, original, overwrites } = *point;
        let is_trusted = Flags::from_bits_retain(flags).is_trusted();
        let mut line = LineProtocolBuilder::new_with(std::mem::take(&mut self.text))
            .measurement("observation")
            .tag("device", device)
            .tag("property", property)
            .field(if is_trusted { "value" } else { "suspect" }, value);
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
            line = line.field("located", place.position.is_some()).field("stale", i64::from(!is_trusted));
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
