//! The newest value of each series, from memory.
//!
//! What arrives late or from a clock ahead of ours never becomes the newest: see [`crate::state::Mark`].

use std::time::Duration;

use super::place::position;
use super::{Answers, AskError, Filter, Quality};
use crate::model::{DeviceId, DeviceKind, DistrictIndex, Domain, Flags, Position, PropertyIndex, Timestamp};
use crate::state::{Device, DeviceIndex, SeriesIndex, State};

/// What newest values are asked for.
#[derive(Clone, Debug, Default)]
pub struct LatestQuestion {
    /// Of these properties; none means all.
    pub properties: Vec<PropertyIndex>,
    /// Of these devices and places.
    pub filter: Filter,
}

/// The newest value of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct LatestValue {
    /// Whose.
    pub device: DeviceId,
    /// What sort of device.
    pub kind: DeviceKind,
    /// Its part of city life.
    pub domain: Domain,
    /// What.
    pub property: PropertyIndex,
    /// Phenomenon time.
    pub time: Timestamp,
    /// How long ago that was.
    pub age: Duration,
    /// Canonical unit.
    pub value: f64,
    /// What is suspect about it.
    pub flags: Flags,
    /// Where it was observed.
    pub position: Option<Position>,
    /// The district that holds the position.
    pub district: Option<DistrictIndex>,
}

impl Answers {
    /// The newest value of each series, by device and property name.
    pub fn latest(&self, question: &LatestQuestion) -> Result<Vec<LatestValue>, AskError> {
        let now = self.clock.now();
        let mut values = {
            let state = self.live.read();
            let devices = question.filter.devices(&state)?;
            let mut values = Vec::new();
            let all = (0u32..).map(DeviceIndex).take(if devices.is_none() { state.devices.len() } else { 0 });
            for index in devices.unwrap_or_default().into_iter().chain(all) {
                let device = state.device(index);
                let series = device
                    .series
                    .iter()
                    .filter(|(property, _series)| question.properties.is_empty() || question.properties.contains(property));
                values.extend(series.filter_map(|(_property, series)| latest(&state, device, *series, question.filter.quality, now)));
            }
            values
        };
        // Districts are looked up once the state is let go.
        for value in &mut values {
            value.district = value.position.and_then(|position| self.districts.find(position));
        }
        let Filter { districts, area, .. } = &question.filter;
        values.retain(|value| {
            (districts.is_empty() || value.district.is_some_and(|district| districts.contains(&district)))
                && area.is_none_or(|area| value.position.is_some_and(|position| area.contains(position)))
        });
        values.sort_by(|one, other| {
            let id = |value: &LatestValue| self.catalogue.get(value.property);
            one.device.cmp(&other.device).then_with(|| id(one).id.cmp(&id(other).id))
        });
        Ok(values)
    }
}

/// The newest value of one series.
pub(super) fn latest(state: &State, device: &Device, series: SeriesIndex, quality: Quality, now: Timestamp) -> Option<LatestValue> {
    let series = state.series_at(series);
    let latest = match quality {
        Quality::Trusted => series.mark.trusted,
        Quality::Any => series.mark.latest,
    }?;
    let time = Timestamp::from_micros_clamped(latest.time);
    Some(LatestValue {
        device: device.id.clone(),
        kind: device.kind.clone(),
        domain: device.domain,
        property: series.property,
        time,
        age: now.since(time),
        value: latest.value,
        flags: Flags::from_bits_retain(latest.flags),
        position: position(&latest),
        district: None,
    })
}
