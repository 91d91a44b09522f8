//! Who samples when: history in blocks, then live, so that together every sample comes exactly once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use jiff::{SignedDuration, Timestamp};

use super::Fleet;
use super::device::Device;
use super::payload::Sample;

/// A device's history is interleaved with the others' by this much.
pub const BLOCK: SignedDuration = SignedDuration::from_hours(1);
/// Most objects of a message of history.
pub const OBJECTS_MAX: usize = 60;
/// Most readings of a message, by the payload's definition.
pub const READINGS_MAX: usize = 1_000;

/// A piece of one device's history, in the order of time; small enough for one message.
#[derive(Debug)]
pub struct Batch<'a> {
    pub device: &'a Device,
    pub samples: Vec<Sample>,
    /// End of the block that the batch belongs to.
    pub block_end: Timestamp,
}

/// History in `[from, to)`: block by block, and in each block device by device.
pub fn history(fleet: &Fleet, from: Timestamp, to: Timestamp) -> impl Iterator<Item = Batch<'_>> {
    let blocks = std::iter::successors((from < to).then_some(from), move |start| Some(*start + BLOCK).filter(|next| *next < to));
    blocks.flat_map(move |start| {
        let block_end = (start + BLOCK).min(to);
        fleet.devices().iter().flat_map(move |device| {
            batches(fleet, device, start, block_end).into_iter().map(move |samples| Batch { device, samples, block_end })
        })
    })
}

fn batches(fleet: &Fleet, device: &Device, from: Timestamp, to: Timestamp) -> Vec<Vec<Sample>> {
    let times = std::iter::successors(Some(fleet.next_time(device, from)), |time| Some(fleet.next_time(device, after(*time))));
    let mut batches: Vec<Vec<Sample>> = Vec::new();
    let mut readings = 0;
    for sample in times.take_while(|time| *time < to).filter_map(|time| fleet.sample(device, time)) {
        readings += sample.values.len();
        match batches.last_mut() {
            Some(batch) if batch.len() < OBJECTS_MAX && readings <= READINGS_MAX => batch.push(sample),
            _ => {
                readings = sample.values.len();
                batches.push(vec![sample]);
            }
        }
    }
    batches
}

/// Endless: the next sampling time of all devices, one by one.
#[derive(Debug)]
pub struct Live<'a> {
    fleet: &'a Fleet,
    /// Next time of each device; the devices' order makes that of equal times reproducible.
    due: BinaryHeap<Reverse<(Timestamp, usize)>>,
}

impl<'a> Live<'a> {
    pub fn new(fleet: &'a Fleet, from: Timestamp) -> Self {
        let due = fleet.devices().iter().enumerate().map(|(index, device)| Reverse((fleet.next_time(device, from), index))).collect();
        Self { fleet, due }
    }
}

impl<'a> Iterator for Live<'a> {
    type Item = (Timestamp, &'a Device);

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((time, index)) = self.due.pop()?;
        let device = self.fleet.devices().get(index)?;
        self.due.push(Reverse((self.fleet.next_time(device, after(time)), index)));
        Some((time, device))
    }
}

/// Samples are a second apart at least.
fn after(time: Timestamp) -> Timestamp {
    time + SignedDuration::from_secs(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::{SignedDuration, Timestamp};

    use super::{Live, OBJECTS_MAX, READINGS_MAX, history};
    use crate::fleet::Fleet;

    fn live_start() -> Timestamp {
        "2025-05-14T09:17:23Z".parse().unwrap()
    }

    #[test]
    fn history_and_live_meet_without_gap_or_overlap() {
        let fleet = Fleet::new(1, 1.0, live_start());
        let (from, to) = (live_start() - SignedDuration::from_mins(100), live_start() + SignedDuration::from_mins(100));
        let sent = |time: Timestamp, id: &str| (id.to_owned(), time);
        let past: Vec<_> = history(&fleet, from, live_start())
            .flat_map(|batch| batch.samples.into_iter().map(move |sample| sent(sample.time, &batch.device.id)))
            .collect();
        let live: Vec<_> = Live::new(&fleet, live_start())
            .take_while(|(time, _)| *time < to)
            .filter(|(time, device)| fleet.sample(device, *time).is_some())
            .map(|(time, device)| sent(time, &device.id))
            .collect();
        let both: Vec<_> = past.into_iter().chain(live).collect();
        let distinct: BTreeSet<_> = both.iter().cloned().collect();
        assert_eq!(both.len(), distinct.len(), "something is sent twice");
        let other: BTreeSet<_> = history(&fleet, from, to)
            .flat_map(|batch| batch.samples.into_iter().map(move |sample| sent(sample.time, &batch.device.id)))
            .collect();
        assert_eq!(distinct, other);
    }

    #[test]
    fn each_device_is_chronological_and_messages_keep_to_their_limits() {
        let fleet = Fleet::new(1, 1.0, live_start());
        let mut last = std::collections::HashMap::new();
        for batch in history(&fleet, live_start() - SignedDuration::from_hours(5), live_start()) {
            assert!(batch.samples.len() <= OBJECTS_MAX);
            assert!(batch.samples.iter().map(|sample| sample.values.len()).sum::<usize>() <= READINGS_MAX);
            for sample in &batch.samples {
                assert!(last.insert(batch.device.id.clone(), sample.time).is_none_or(|before| before < sample.time));
            }
        }
        assert_eq!(last.len(), fleet.devices().len());
    }

    #[test]
    fn every_regular_sample_of_a_minute_device_is_there() {
        let fleet = Fleet::new(1, 1.0, live_start());
        let count = history(&fleet, live_start() - SignedDuration::from_hours(3), live_start())
            .filter(|batch| batch.device.id == "air-station-002")
            .map(|batch| batch.samples.len())
            .sum::<usize>();
        assert_eq!(count, 180);
    }
}
