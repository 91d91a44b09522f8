//! How well a device is, from what is stored of it.

use futures::StreamExt;
use hashbrown::HashSet;

use super::{Answers, AskError, DeviceSummary};
use crate::model::{Flags, Timestamp};
use crate::query::health::{Evidence, Score};
use crate::store::{Detail, Order, Selection};

/// How well a device is, and why.
#[derive(Clone, Debug)]
pub struct DeviceHealth {
    /// The device as it is now.
    pub device: DeviceSummary,
    /// From when on it is judged: from when it was first heard, or first observed anything, if that is later than was asked.
    pub from: Timestamp,
    /// The score with its parts.
    pub score: Score,
    /// What it rests on.
    pub evidence: Evidence,
}

impl Answers {
    /// How well a device is, judged by a time; `None` if it was never heard and is not registered.
    pub async fn health(&self, id: &str, from: Timestamp, to: Timestamp) -> Result<Option<DeviceHealth>, AskError> {
        if from >= to {
            return Err(AskError::EmptyRange);
        }
        let Some((device, _latest)) = self.device(id) else { return Ok(None) };
        let mut evidence = Evidence { battery_level: device.battery.level, ..Evidence::default() };
        let mut oldest: Option<i64> = None;
        let index = self.live.read().find_device(id);
        if let Some(index) = index {
            let selection = Selection {
                properties: Vec::new(),
                from,
                to,
                devices: Some(vec![index]),
                districts: Vec::new(),
                area: None,
                trusted: false,
            };
            let times_max = self.limits.percentile_rows_max;
            let mut times: HashSet<i64> = HashSet::new();
            let mut chunks = self.history.scan(selection, Order::Any, Detail::Values)?;
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk?;
                for (time, flags) in chunk.time.iter().zip(&chunk.flags) {
                    *evidence.flags.entry(Flags::from_bits_retain(*flags)).or_default() += 1;
                    times.insert(*time);
                    oldest = Some(oldest.map_or(*time, |oldest| oldest.min(*time)));
                }
                if times.len() > times_max {
                    return Err(AskError::TooManyTimes { times_max });
                }
                tokio::task::coop::consume_budget().await;
            }
            evidence.times = times.len() as u64;
        }
        // Nobody expects a device to have spoken before it was there.
        let begun = [oldest.map(Timestamp::from_micros_clamped), device.first_seen].into_iter().flatten().min();
        let from = begun.map_or(from, |begun| from.max(begun).min(to));
        let seconds = device.interval.map(|interval| interval.length.as_secs_f64());
        let now = self.clock.now();
        evidence.times_expected = seconds.map(|seconds| to.min(now).since(from).as_secs_f64() / seconds);
        evidence.age_intervals = seconds.zip(device.last_observed).map(|(seconds, last)| now.since(last).as_secs_f64() / seconds);
        Ok(Some(DeviceHealth { score: Score::of(&evidence, self.patience()), device, from, evidence }))
    }
}
