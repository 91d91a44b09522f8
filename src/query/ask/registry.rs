//! The devices that were ever heard.

use super::latest::latest;
use super::place::Whereabouts;
use super::{Answers, AskError, Filter, LatestValue, Quality};
use crate::model::{DeviceId, DeviceKind, DistrictIndex, Domain, Position, PropertyIndex, Timestamp};
use crate::state::{DeviceIndex, State};

/// What devices are asked for.
#[derive(Clone, Debug)]
pub struct DeviceQuestion {
    /// That ever told one of these properties; none asks nothing.
    pub properties: Vec<PropertyIndex>,
    /// Of these names, kinds, domains and, where they are now, places. Its quality says nothing here.
    pub filter: Filter,
    /// Only those whose names come after this one.
    pub after: Option<DeviceId>,
    /// At most so many.
    pub limit: usize,
}

/// Some devices by name, and where to go on.
#[derive(Clone, Debug, Default)]
pub struct DeviceList {
    /// By name.
    pub devices: Vec<DeviceSummary>,
    /// The name after which to go on, if there are more.
    pub next: Option<DeviceId>,
}

/// What is known of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceSummary {
    /// Its name.
    pub id: DeviceId,
    /// What sort of device.
    pub kind: DeviceKind,
    /// Its part of city life.
    pub domain: Domain,
    /// When its first message was received.
    pub first_seen: Timestamp,
    /// Phenomenon time of its newest observation, trusted or not.
    pub last_observed: Option<Timestamp>,
    /// Where it is.
    pub position: Option<Position>,
    /// The district that holds the position.
    pub district: Option<DistrictIndex>,
    /// Whether it moves about: see [`super::place`].
    pub is_mobile: bool,
    /// What it ever told, by property name.
    pub properties: Vec<PropertyIndex>,
}

impl Answers {
    /// Devices by name.
    pub fn devices(&self, question: &DeviceQuestion) -> Result<DeviceList, AskError> {
        let rows_max = self.limits.page_rows_max;
        if question.limit == 0 || question.limit > rows_max {
            return Err(AskError::PageSize { asked: question.limit, rows_max });
        }
        let mut found: Vec<(DeviceId, DeviceIndex)> = Vec::new();
        {
            let state = self.live.read();
            let asked = question.filter.devices(&state)?;
            let all = (0u32..).map(DeviceIndex).take(if asked.is_none() { state.devices.len() } else { 0 });
            for index in asked.unwrap_or_default().into_iter().chain(all) {
                let device = state.device(index);
                let tells = |property: &PropertyIndex| device.series.iter().any(|(of, _series)| of == property);
                let is_asked = (question.properties.is_empty() || question.properties.iter().any(tells))
                    && question.after.as_ref().is_none_or(|after| *after < device.id);
                if is_asked {
                    found.push((device.id.clone(), index));
                }
            }
        }
        found.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        let Filter { districts, area, .. } = &question.filter;
        let mut list = DeviceList::default();
        for (_id, index) in found {
            // Districts are looked up while the state is let go.
            let summary = summary(&self.live.read(), index);
            let summary = self.locate(summary);
            let in_districts = districts.is_empty() || summary.district.is_some_and(|district| districts.contains(&district));
            let in_area = area.is_none_or(|area| summary.position.is_some_and(|position| area.contains(position)));
            if !(in_districts && in_area) {
                continue;
            }
            if list.devices.len() == question.limit {
                list.next = list.devices.last().map(|last| last.id.clone());
                break;
            }
            list.devices.push(summary);
        }
        Ok(list)
    }

    /// One device and the newest value of each of its series, trusted or not; `None` if it was never heard.
    pub fn device(&self, id: &str) -> Option<(DeviceSummary, Vec<LatestValue>)> {
        let now = self.clock.now();
        let (summary, mut values) = {
            let state = self.live.read();
            let index = state.find_device(id)?;
            let device = state.device(index);
            let values = device.series.iter().filter_map(|(_property, series)| latest(&state, device, *series, Quality::Any, now));
            (summary(&state, index), values.collect::<Vec<_>>())
        };
        for value in &mut values {
            value.district = value.position.and_then(|position| self.districts.find(position));
        }
        values.sort_by(|one, other| self.catalogue.get(one.property).id.cmp(&self.catalogue.get(other.property).id));
        Some((self.locate(summary), values))
    }

    /// What takes longer than the state may be held.
    fn locate(&self, mut summary: DeviceSummary) -> DeviceSummary {
        summary.properties.sort_by(|one, other| self.catalogue.get(*one).id.cmp(&self.catalogue.get(*other).id));
        summary.district = summary.position.and_then(|position| self.districts.find(position));
        summary
    }
}

fn summary(state: &State, index: DeviceIndex) -> DeviceSummary {
    let device = state.device(index);
    let whereabouts = Whereabouts::of(device, state);
    let newest =
        device.series.iter().filter_map(|(_property, series)| state.series_at(*series).mark.latest).map(|latest| latest.time).max();
    DeviceSummary {
        id: device.id.clone(),
        kind: device.kind.clone(),
        domain: device.domain,
        first_seen: device.first_seen,
        last_observed: newest.map(Timestamp::from_micros_clamped),
        position: whereabouts.position,
        district: None,
        is_mobile: whereabouts.is_mobile,
        properties: device.series.iter().map(|(property, _series)| *property).collect(),
    }
}
