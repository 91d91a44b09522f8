//! Questions that InfluxDB answers itself: what the trusted values of pieces of time come to.
//!
//! A piece begins at a multiple of its length since 1970, in UTC: InfluxDB's own calendar is not needed. `aggregateWindow` over one field
//! is done where the values lie. That field is `value`, which has what is trusted; where a value that was trusted is beside one that took
//! its place and is not (`stale`), the observations are asked.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use hashbrown::HashSet;

use super::rollup::{PAGES, Page};
use super::scan::{Columns, one_of, parse};
use super::{Influx, InfluxError};
use crate::model::{Flags, Timestamp};
use crate::rollup::{Seen, Statistic};
use crate::state::DeviceIndex;
use crate::store::{Chunk, Detail, LakeError, RollupChunk, Selection};

/// What the pieces of a page come to.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    /// Those that InfluxDB has aggregated.
    pub buckets: RollupChunk,
    /// The observations of the others.
    pub rows: Vec<Chunk>,
}

impl Influx {
    /// What trusted readings of one property come to in pieces of a stretch, by device.
    pub fn pieces(
        self: &Arc<Self>,
        every: Duration,
        statistic: Statistic,
        selection: &Selection,
    ) -> BoxStream<'static, Result<Pieces, LakeError>> {
        if selection.from >= selection.to || selection.devices.as_ref().is_some_and(Vec::is_empty) {
            return stream::empty().boxed();
        }
        let mut selection = Selection { trusted: true, ..selection.clone() };
        if let Some(devices) = &mut selection.devices {
            devices.sort_unstable();
        }
        let influx = Arc::clone(self);
        let pages = stream::iter(self.pages(every, selection)).map(move |selection| {
            let influx = Arc::clone(&influx);
            async move { influx.pieces_of_page(every, statistic, selection).await }
        });
        pages.buffered(PAGES).boxed()
    }

    async fn pieces_of_page(self: &Arc<Self>, every: Duration, statistic: Statistic, selection: Selection) -> Result<Pieces, LakeError> {
        let (page, stale) = self.aggregate(every, statistic, &selection).await?;
        let mut pieces = Pieces { buckets: page.finish(), rows: Vec::new() };
        if statistic == Statistic::Ends {
            // Pieces do not overlap: where one begins says enough of when.
            for (statistics, start) in pieces.buckets.statistics.iter_mut().zip(&pieces.buckets.start) {
                statistics.first = Seen { time: *start, ..statistics.first };
                statistics.last = Seen { time: *start, ..statistics.last };
            }
        }
        let (Some(first), Some(last)) = (stale.iter().map(|piece| piece.1).min(), stale.iter().map(|piece| piece.1).max()) else {
            return Ok(pieces);
        };
        let is_stale = |device: u32, start: i64| stale.contains(&(device, start));
        let buckets = pieces.buckets.device.iter().zip(&pieces.buckets.start);
        let keep: Vec<bool> = buckets.map(|(device, start)| !is_stale(*device, *start)).collect();
        pieces.buckets.retain(&keep);
        let mut devices: Vec<DeviceIndex> = stale.iter().map(|piece| DeviceIndex(piece.0)).collect();
        devices.sort_unstable();
        devices.dedup();
        let to = Timestamp::from_micros_clamped(last).plus(every).min(selection.to);
        let start_of = |time: i64| time.div_euclid(micros(every)).saturating_mul(micros(every)).max(selection.from.micros());
        let wanted = Selection { from: Timestamp::from_micros_clamped(first), to, devices: Some(devices), ..selection.clone() };
        let mut rows = self.scan(wanted, Detail::Values);
        while let Some(mut chunk) = rows.try_next().await? {
            let keep: Vec<bool> = chunk.device.iter().zip(&chunk.time).map(|(device, time)| is_stale(*device, start_of(*time))).collect();
            chunk.retain(&keep);
            if !chunk.is_empty() {
                debug_assert!(
                    chunk.flags.iter().all(|flags| Flags::from_bits_retain(*flags).is_trusted()),
                    "only trusted ones are asked for"
                );
                pieces.rows.push(chunk);
            }
        }
        Ok(pieces)
    }

    /// The pieces of a page, and which of them have values that are none any more: device and start.
    async fn aggregate(
        &self,
        every: Duration,
        statistic: Statistic,
        selection: &Selection,
    ) -> Result<(Page, HashSet<(u32, i64)>), InfluxError> {
        let functions = match statistic {
            Statistic::Sum => &["count", "sum"][..],
            Statistic::Extremes => &["count", "min", "max"],
            Statistic::Ends => &["count", "first", "last"],
            _ => &["count"],
        };
        let mut flux = String::new();
        // One question each: what two of them share would be read before it is aggregated.
        for (name, field, function) in functions.iter().map(|function| (*function, "value", *function)).chain([(STALE, STALE, "max")]) {
            let mut one = self.identity(&self.settings.bucket, "observation", selection);
            one_of(&mut one, "_field", std::iter::once(field));
            writeln!(
                flux,
                "{one}) |> aggregateWindow(every: {}s, fn: {function}, createEmpty: false, timeSrc: \"_start\") \
                 |> drop(columns: [\"_start\", \"_stop\", \"_measurement\", \"_field\", \"property\"]) |> yield(name: \"{name}\")",
                every.as_secs()
            )
            .expect("a string takes any text");
        }
        let mut records = self.ask(&flux).await?;
        let (mut columns, mut page, mut stale) = (Columns::default(), Page::default(), HashSet::new());
        while let Some(record) = records.next().await? {
            if let Some(header) = Columns::of(record) {
                columns = header;
                continue;
            }
            columns.refuse(record)?;
            let name = record.cell(columns.result);
            if name != STALE {
                page.take(record, &columns, name, self, selection)?;
            } else if record.cell(columns.value) != "0"
                && let Some(device) = self.live.read().find_device(record.cell(columns.device))
            {
                stale.insert((device.0, parse::<Timestamp>(record.cell(columns.time), "time")?.micros()));
            }
        }
        Ok((page, stale))
    }
}

/// The field that says whether a trusted value is there beside a suspect one that took its place.
const STALE: &str = "stale";

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
