//! What meters say was used.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hashbrown::HashMap;
use jiff::tz::TimeZone;
use rust_decimal::Decimal;

use super::aggregates::{Beside, rows};
use super::{Answers, AskError, Filter};
use crate::model::{DeviceId, Kind, Property, PropertyIndex, Timestamp};
use crate::model::{WindowSize, Windows};
use crate::query::aggregate::Row;
use crate::query::consumption::{Meter, Used};
use crate::query::tariff::Tariff;
use crate::state::DeviceIndex;
use crate::store::{Detail, Order};

/// How far behind the windows the reading is looked for that shares out the last of them.
const AFTER_MAX: Duration = Duration::from_hours(24 * 31);

/// What consumption is asked for.
#[derive(Clone, Debug)]
pub struct ConsumptionQuestion {
    /// Of this counter.
    pub property: PropertyIndex,
    /// From the window that holds this time.
    pub from: Timestamp,
    /// To the window that ends here or later.
    pub to: Timestamp,
    /// By windows of this size.
    pub window: WindowSize,
    /// On this zone's clock.
    pub zone: TimeZone,
    /// Each meter alone, or all together.
    pub by_device: bool,
    /// Of these devices and observations.
    pub filter: Filter,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Consumption {
    /// The counter.
    pub property: Arc<Property>,
    /// Where the first window begins.
    pub start: Timestamp,
    /// Where the last one ends.
    pub end: Timestamp,
    /// By meter, or one of all.
    pub series: Vec<ConsumptionSeries>,
}

/// What one meter, or all of them, used.
#[derive(Clone, Debug)]
pub struct ConsumptionSeries {
    /// The meter; none of all.
    pub device: Option<DeviceId>,
    /// By window.
    pub buckets: Vec<ConsumptionBucket>,
}

/// What was used in one window.
#[derive(Clone, Debug)]
pub struct ConsumptionBucket {
    /// Where it begins.
    pub start: Timestamp,
    /// Where it ends; this instant does not belong to it.
    pub end: Timestamp,
    /// What was used, and how that is known.
    pub used: Used,
    /// The same by band, in the order of their names.
    pub bands: Vec<(String, Decimal)>,
    /// What it cost, exactly; none where a price is not known.
    pub cost: Option<Decimal>,
    /// Whether readings that come late may still change it.
    pub provisional: bool,
}

impl Answers {
    /// What meters used over windows of time, by band of a tariff.
    pub async fn consumption(&self, question: ConsumptionQuestion, tariff: &Tariff) -> Result<Consumption, AskError> {
        let property = Arc::clone(self.catalogue.get(question.property));
        if property.kind != Kind::Counter {
            return Err(AskError::NoCounter(property.id.clone()));
        }
        let windows = Windows::new(question.window, &question.zone, question.from, question.to, self.limits.buckets_max)?;
        let (start, end) = (windows.start(), windows.end());
        let stretches = tariff.stretches(start, end, self.limits.buckets_max)?;
        let window_borders = (0..windows.len()).map(|index| windows.bounds(index).0.micros()).chain([end.micros()]);
        let mut borders: Vec<i64> = window_borders.chain(stretches.iter().map(|stretch| stretch.start)).collect();
        borders.retain(|border| (start.micros()..=end.micros()).contains(border));
        borders.sort_unstable();
        borders.dedup();
        let borders: Arc<[i64]> = borders.into();
        // Each meter with the longest pause that it should make.
        let meters: Vec<(DeviceIndex, DeviceId, i64)> = {
            let state = self.live.read();
            let asked = question.filter.devices(&state)?;
            let all = (0u32..).map(DeviceIndex).take(if asked.is_none() { state.devices.len() } else { 0 });
            let meters = asked.into_iter().flatten().chain(all).filter(|index| state.find_series(*index, question.property).is_some());
            let meter = |index| {
                let id = &state.device(index).id;
                let declared = state.registry.find(id.as_str()).and_then(|registration| registration.document().interval_s);
                let interval = Duration::from_secs(u64::from(declared.unwrap_or(property.interval_s)));
                let pause = interval.mul_f64(self.limits.hold_intervals);
                (index, id.clone(), i64::try_from(pause.as_micros()).unwrap_or(i64::MAX))
            };
            meters.map(meter).collect()
        };
        if meters.len().saturating_mul(borders.len()) > self.limits.buckets_max {
            return Err(AskError::TooManyMeters { meters: meters.len(), borders: borders.len(), buckets_max: self.limits.buckets_max });
        }
        let devices: Vec<DeviceIndex> = meters.iter().map(|(device, ..)| *device).collect();
        let names: HashMap<u32, DeviceId> = meters.iter().map(|(device, id, _pause)| (device.0, id.clone())).collect();
        let mut meters: HashMap<u32, Meter> =
            meters.iter().map(|(device, _id, pause_max)| (device.0, Meter::new(Arc::clone(&borders), *pause_max))).collect();
        let selection = question.filter.selection(vec![question.property], start, end, Some(devices.clone()));
        let mut push = |row: Row| {
            if let Some(meter) = meters.get_mut(&row.device) {
                meter.push(row.time, row.value);
            }
        };
        self.nearest(Beside::Before, &selection, Detail::Values, &devices).await?.into_iter().for_each(&mut push);
        let mut chunks = self.history.scan(selection.clone(), Order::SeriesTime, Detail::Values)?;
        while let Some(chunk) = chunks.next().await {
            rows(&chunk?).for_each(&mut push);
            tokio::task::coop::consume_budget().await;
        }
        drop(chunks);
        self.nearest(Beside::After(end.plus(AFTER_MAX).min(self.clock.now())), &selection, Detail::Values, &devices)
            .await?
            .into_iter()
            .for_each(&mut push);
        let now = self.clock.now();
        let lateness = self.limits.lateness.0;
        let mut series: Vec<(Option<DeviceId>, Vec<Used>)> =
            meters.into_iter().map(|(device, meter)| (names.get(&device).cloned(), meter.finish())).collect();
        series.sort_unstable_by(|(one, _used), (other, _other_used)| one.cmp(other));
        if !question.by_device {
            let mut all = vec![Used::default(); borders.len().saturating_sub(1)];
            for (one, used) in series.iter().flat_map(|(_device, used)| used.iter().enumerate()) {
                if let Some(sum) = all.get_mut(one) {
                    add(sum, used);
                }
            }
            series = vec![(None, all)];
        }
        let bands = tariff.bands();
        let series = series.into_iter().map(|(device, used)| {
            let bucket = |index| {
                let (from, to) = windows.bounds(index);
                let mut bucket = ConsumptionBucket {
                    start: from,
                    end: to,
                    used: Used::default(),
                    bands: bands.iter().map(|band| ((*band).to_owned(), Decimal::ZERO)).collect(),
                    cost: Some(Decimal::ZERO),
                    provisional: to.plus(lateness) > now,
                };
                let first = borders.partition_point(|border| *border < from.micros());
                for (border, used) in borders.iter().zip(&used).skip(first).take_while(|(border, _used)| **border < to.micros()) {
                    add(&mut bucket.used, used);
                    let at = stretches.partition_point(|stretch| stretch.start <= *border).saturating_sub(1);
                    let Some(stretch) = stretches.get(at) else { continue };
                    if let Some((_band, amount)) = bucket.bands.iter_mut().find(|(band, _amount)| band == stretch.band) {
                        *amount += used.amount;
                    }
                    let cost = stretch.price.and_then(|price| price.checked_mul(used.amount));
                    bucket.cost = bucket.cost.zip(cost).map(|(sum, cost)| sum + cost);
                }
                bucket
            };
            ConsumptionSeries { device, buckets: (0..windows.len()).map(bucket).collect() }
        });
        Ok(Consumption { series: series.collect(), property, start, end })
    }
}

fn add(sum: &mut Used, used: &Used) {
    sum.amount += used.amount;
    sum.between.count += used.between.count;
    sum.between.estimated += used.between.estimated;
    sum.between.resets += used.between.resets;
    sum.between.rollovers += used.between.rollovers;
}
