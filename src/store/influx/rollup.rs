//! Questions for rollups, page by page.
//!
//! InfluxDB gives one field after another, so that the buckets of a page are kept until all that is asked of them has come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::{StreamExt, TryStreamExt, stream};
use hashbrown::HashMap;

use super::csv::Record;
use super::scan::{Columns, one_of, parse};
use super::{Influx, InfluxError, ROLLUP, STORE};
use crate::model::{PropertyIndex, Timestamp};
use crate::rollup::{Sketch, Statistic, Statistics, Tier};
use crate::state::DeviceIndex;
use crate::store::lake::columns_of;
use crate::store::{LakeError, NO_DISTRICT, RollupChunk, RollupChunks, Selection};

/// Buckets that a page has, about: devices that stood in several districts have more.
const PAGE_BUCKETS: u32 = 65_536;

/// Pages that are asked for at once.
pub(super) const PAGES: usize = 2;

/// Which units were written again, and when: a number that only grows.
#[derive(Debug, Default)]
pub(super) struct Rewrites {
    count: u64,
    /// By property and start of the local day.
    units: BTreeMap<(u16, i64), u64>,
}

impl Influx {
    /// How many units were begun to be written since the start.
    pub fn rewrites(&self) -> u64 {
        self.rewrites.lock().count
    }

    /// Whether a unit of a stretch was begun to be written since there were so many.
    pub fn has_rewritten(&self, since: u64, property: PropertyIndex, from: Timestamp, to: Timestamp) -> bool {
        let rewrites = self.rewrites.lock();
        let mut units = rewrites.units.range((property.0, from.micros())..(property.0, to.micros()));
        units.any(|(_unit, rewrite)| *rewrite > since)
    }

    /// Notes that a unit is going to be written.
    pub(super) fn rewrite(&self, property: PropertyIndex, start: Timestamp) {
        let mut rewrites = self.rewrites.lock();
        rewrites.count += 1;
        let count = rewrites.count;
        rewrites.units.insert((property.0, start.micros()), count);
    }

    /// The local days, since 1970-01-01, of which it lacks the rollups of a property; `None` while it may lack any.
    pub async fn uncopied_days(&self, property: PropertyIndex) -> Result<Option<Vec<i32>>, LakeError> {
        let (reader, property) = (Arc::clone(&self.reader), self.catalogue.get(property).id.clone());
        let units = tokio::task::spawn_blocking(move || reader.uncopied(STORE, Some(&property)));
        let units = units.await.map_err(|_stopped| LakeError::Stopped)??;
        Ok(units.map(|units| units.into_iter().map(|unit| unit.unit.day).collect()))
    }

    /// The buckets of a tier of one property that begin in a stretch, of selected devices and districts: those of trusted readings, and
    /// beside them, if wanted, those of suspect ones. Those of a device come by ascending time.
    pub fn rollup(self: &Arc<Self>, tier: Tier, statistic: Statistic, selection: &Selection) -> RollupChunks {
        if selection.from >= selection.to || selection.devices.as_ref().is_some_and(Vec::is_empty) {
            return stream::empty().boxed();
        }
        let mut selection = selection.clone();
        if let Some(devices) = &mut selection.devices {
            devices.sort_unstable();
        }
        let bucket = match tier {
            Tier::Quarter => Duration::from_mins(15),
            Tier::Hour => Duration::from_hours(1),
            Tier::Day => Duration::from_hours(24),
        };
        let influx = Arc::clone(self);
        let pages = stream::iter(self.pages(bucket, selection)).map(move |selection| {
            let influx = Arc::clone(&influx);
            async move { influx.rollup_page(tier, statistic, &selection).await }
        });
        pages.buffered(PAGES).map_err(LakeError::Influx).boxed()
    }

    /// A selection in pages, for buckets so long.
    pub(super) fn pages(&self, bucket: Duration, selection: Selection) -> impl Iterator<Item = Selection> + use<> {
        let devices = selection.devices.as_ref().map_or_else(|| self.speakers(&selection.properties), Vec::len);
        let buckets = (PAGE_BUCKETS / u32::try_from(devices.max(1)).unwrap_or(u32::MAX)).max(1);
        let (length, end) = (bucket.saturating_mul(buckets), selection.to);
        let starts = std::iter::successors(Some(selection.from), move |from| Some(from.plus(length)).filter(|next| *next < end));
        starts.map(move |from| Selection { from, to: from.plus(length).min(end), ..selection.clone() })
    }

    async fn rollup_page(&self, tier: Tier, statistic: Statistic, selection: &Selection) -> Result<RollupChunk, InfluxError> {
        let mut flux = self.identity(&self.settings.rollup_bucket, ROLLUP, selection);
        one_of(&mut flux, "tier", std::iter::once(tier.word()));
        one_of(&mut flux, "district", selection.districts.iter().map(|district| self.districts.get(*district).id.as_str()));
        one_of(&mut flux, "trusted", selection.trusted.then_some("true").into_iter());
        one_of(&mut flux, "_field", ["count", "flags"].into_iter().chain(columns_of(statistic).iter().copied()));
        flux.push_str(") |> drop(columns: [\"_start\", \"_stop\", \"_measurement\", \"tier\", \"property\"])");
        let mut records = self.ask(&flux).await?;
        let (mut columns, mut page) = (Columns::default(), Page::default());
        while let Some(record) = records.next().await? {
            if let Some(header) = Columns::of(record) {
                columns = header;
                continue;
            }
            columns.refuse(record)?;
            page.take(record, &columns, record.cell(columns.field), self, selection)?;
        }
        Ok(page.finish())
    }
}

/// Whose readings a bucket is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Series {
    device: u32,
    district: u16,
    trusted: bool,
}

/// The buckets of a page.
#[derive(Default)]
pub(super) struct Page {
    /// The series whose records come, by the names that they have; none where it is not selected.
    names: [String; 3],
    series: Option<Series>,
    places: HashMap<(Series, i64), usize>,
    buckets: Vec<Statistics>,
}

impl Page {
    /// Takes what a record says of a bucket's statistic.
    pub(super) fn take(
        &mut self,
        record: Record<'_>,
        columns: &Columns,
        statistic: &str,
        influx: &Influx,
        selection: &Selection,
    ) -> Result<(), InfluxError> {
        let names = [columns.device, columns.district, columns.trusted].map(|column| record.cell(column));
        if self.names != names {
            let [device, district, trusted] = names;
            let device = influx.live.read().find_device(device);
            let is_wanted = |device: &DeviceIndex| selection.devices.as_ref().is_none_or(|devices| devices.binary_search(device).is_ok());
            // A district that the city has since dropped is none.
            let district = influx.districts.by_id(district).map_or(NO_DISTRICT, |district| district.0);
            let series = |device: DeviceIndex| Series { device: device.0, district, trusted: trusted == "true" };
            self.series = device.filter(is_wanted).map(series);
            self.names = names.map(ToOwned::to_owned);
        }
        let Some(series) = self.series else { return Ok(()) };
        let start = parse::<Timestamp>(record.cell(columns.time), "time")?.micros();
        let place = *self.places.entry((series, start)).or_insert_with(|| {
            self.buckets.push(Statistics::default());
            self.buckets.len() - 1
        });
        let Some(bucket) = self.buckets.get_mut(place) else { return Ok(()) };
        set(bucket, statistic, record.cell(columns.value))
    }

    /// The buckets, those of a device by ascending time.
    pub(super) fn finish(mut self) -> RollupChunk {
        let mut order: Vec<((Series, i64), usize)> = self.places.into_iter().collect();
        order.sort_unstable_by_key(|((series, start), _place)| (series.device, *start, *series));
        let mut chunk = RollupChunk::default();
        for ((series, start), place) in order {
            let Some(bucket) = self.buckets.get_mut(place).map(std::mem::take).filter(|bucket| bucket.count > 0) else { continue };
            chunk.device.push(series.device);
            chunk.district.push(series.district);
            chunk.start.push(start);
            chunk.statistics.push(bucket);
        }
        chunk
    }
}

fn set(bucket: &mut Statistics, field: &str, text: &str) -> Result<(), InfluxError> {
    let number = || parse::<f64>(text, field);
    match field {
        "count" => bucket.count = parse(text, field)?,
        "flags" => bucket.flags = parse(text, field)?,
        "first_time" => bucket.first.time = parse(text, field)?,
        "first" => bucket.first.value = number()?,
        "last_time" => bucket.last.time = parse(text, field)?,
        "last" => bucket.last.value = number()?,
        "last_flags" => bucket.last_flags = parse(text, field)?,
        "min" => bucket.min = number()?,
        "max" => bucket.max = number()?,
        "sum" => bucket.sum = number()?,
        "squares" => bucket.squares = number()?,
        "sine" => bucket.sine = number()?,
        "cosine" => bucket.cosine = number()?,
        "energy" => bucket.energy = number()?,
        "increase" => bucket.increase = Some(number()?),
        "sketch" => {
            let sketch = BASE64.decode(text).ok().and_then(|bytes| Sketch::from_bytes(&bytes));
            bucket.sketch = Some(sketch.ok_or_else(|| InfluxError::Answer("a sketch of another error".to_owned()))?);
        }
        _ => {}
    }
    Ok(())
}
