//! What meters say was used.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hashbrown::HashMap;
use jiff::tz::TimeZone;
use rust_decimal::Decimal;

use super::aggregates::rows;
use super::{Answers, AskError, Filter};
use crate::model::{DeviceId, Kind, Property, PropertyIndex, Timestamp};
use crate::query::consumption::{Meter, Used};
use crate::query::tariff::Tariff;
use crate::query::window::{WindowSize, Windows};
use crate::state::DeviceIndex;
use crate::store::{Detail, Order, Selection};

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
        let (devices, names, pause_max) = {
            let state = self.live.read();
            let asked = question.filter.devices(&state)?;
            let all = (0u32..).map(DeviceIndex).take(if asked.is_none() { state.devices.len() } else { 0 });
            let devices: Vec<DeviceIndex> =
                asked.into_iter().flatten().chain(all).filter(|index| state.find_series(*index, question.property).is_some()).collect();
            let names: HashMap<u32, DeviceId> = devices.iter().map(|index| (index.0, state.device(*index).id.clone())).collect();
            let interval = |index: &DeviceIndex| {
                let registered = state.registry.find(state.device(*index).id.as_str());
                let interval_s = registered.and_then(|registration| registration.document().interval_s).unwrap_or(property.interval_s);
                // A pause of so many intervals is one that a meter should not make.
                let pause = Duration::from_secs(u64::from(interval_s)).mul_f64(self.limits.hold_intervals);
                (index.0, i64::try_from(pause.as_micros()).unwrap_or(i64::MAX))
            };
            let pauses: HashMap<u32, i64> = devices.iter().map(interval).collect();
            (devices, names, pauses)
        };
        if devices.len().saturating_mul(borders.len()) > self.limits.buckets_max {
            return Err(AskError::TooManyMeters { meters: devices.len(), borders: borders.len(), buckets_max: self.limits.buckets_max });
        }
        let mut meters: HashMap<u32, Meter> = devices
            .iter()
            .map(|device| (device.0, Meter::new(Arc::clone(&borders), pause_max.get(&device.0).copied().unwrap_or(i64::MAX))))
            .collect();
        let selection = question.filter.selection(vec![question.property], start, end, Some(devices.clone()));
        let mut push = |row: crate::query::aggregate::Row| {
            if let Some(meter) = meters.get_mut(&row.device) {
                meter.push(row.time, row.value);
            }
        };
        self.last_before(&selection, Detail::Values, &devices).await?.into_iter().for_each(&mut push);
        let mut chunks = self.history.scan(selection.clone(), Order::SeriesTime, Detail::Values)?;
        while let Some(chunk) = chunks.next().await {
            rows(&chunk?).for_each(&mut push);
            tokio::task::coop::consume_budget().await;
        }
        drop(chunks);
        self.first_after(&selection, &devices).await?.into_iter().for_each(&mut push);
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

    /// Each meter's first row behind a selection, looked for in ever longer stretches, up to [`AFTER_MAX`].
    async fn first_after(&self, selection: &Selection, devices: &[DeviceIndex]) -> Result<Vec<crate::query::aggregate::Row>, AskError> {
        const STRETCH: Duration = Duration::from_hours(1);
        const GROWTH: u32 = 8;
        let last = selection.to.plus(AFTER_MAX).min(self.clock.now());
        let mut missing = devices.to_vec();
        let mut found: HashMap<u32, crate::query::aggregate::Row> = HashMap::new();
        let (mut start, mut stretch) = (selection.to, STRETCH);
        while !missing.is_empty() && start < last {
            let end = start.plus(stretch).min(last);
            let after = Selection { from: start, to: end, devices: Some(missing.clone()), ..selection.clone() };
            let mut chunks = self.history.scan(after, Order::Any, Detail::Values)?;
            while let Some(chunk) = chunks.next().await {
                for row in rows(&chunk?) {
                    let first = found.entry(row.device).or_insert(row);
                    if row.time < first.time {
                        *first = row;
                    }
                }
                tokio::task::coop::consume_budget().await;
            }
            missing.retain(|device| !found.contains_key(&device.0));
            (start, stretch) = (end, stretch.saturating_mul(GROWTH));
        }
        Ok(found.into_values().collect())
    }
}

fn add(sum: &mut Used, used: &Used) {
    sum.amount += used.amount;
    sum.between.count += used.between.count;
    sum.between.estimated += used.between.estimated;
    sum.between.resets += used.between.resets;
    sum.between.rollovers += used.between.rollovers;
}
