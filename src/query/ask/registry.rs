//! The devices that were ever heard, and those that are only registered.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashSet;

use super::latest::latest;
use super::place::Whereabouts;
use super::{Answers, AskError, Filter, LatestValue, Quality};
use crate::model::{DeviceId, DeviceKind, DistrictIndex, Domain, Position, PropertyIndex, Registration, Timestamp};
use crate::query::health::{Patience, Presence};
use crate::state::{Device, State};

/// What devices are asked for.
#[derive(Clone, Debug)]
pub struct DeviceQuestion {
    /// That ever told one of these properties; none asks nothing.
    pub properties: Vec<PropertyIndex>,
    /// Of these names, kinds, domains and, where they are now, places. Its quality says nothing here.
    pub filter: Filter,
    /// That are there like this; none asks nothing.
    pub presences: Vec<Presence>,
    /// Only those that are registered, or only those that are not.
    pub registered: Option<bool>,
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

/// Expected time between two messages of a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// How long.
    pub length: Duration,
    /// Who says so.
    pub source: IntervalSource,
}

/// Who says how long an interval is. What comes first goes before what comes after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IntervalSource {
    /// The registry.
    Declared,
    /// The median of the last 15 gaps between the device's phenomenon times, from 5 gaps on.
    Learned,
    /// The catalogue: the shortest of what the device observes.
    Catalogue,
}

/// What a device tells of its battery.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Battery {
    /// Per cent.
    pub level: Option<f64>,
    /// Volt.
    pub voltage: Option<f64>,
}

/// What is known of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceSummary {
    /// Its name.
    pub id: DeviceId,
    /// What sort of device: as it says; as the registry says, before it was heard.
    pub kind: DeviceKind,
    /// Its part of city life, likewise.
    pub domain: Domain,
    /// When its first message was received; none before that.
    pub first_seen: Option<Timestamp>,
    /// Phenomenon time of its newest observation, trusted or not.
    pub last_observed: Option<Timestamp>,
    /// Whether it speaks as it should.
    pub presence: Presence,
    /// How long its messages should be apart; none where nobody knows.
    pub interval: Option<Interval>,
    /// Its battery.
    pub battery: Battery,
    /// Where it is; where the registry puts it now, if it has never told an observation with a position.
    pub position: Option<Position>,
    /// The district that holds the position.
    pub district: Option<DistrictIndex>,
    /// Whether it moves about: see [`super::place`].
    pub is_mobile: bool,
    /// What it ever told, by property name.
    pub properties: Vec<PropertyIndex>,
    /// What the registry says of it.
    pub registration: Option<Arc<Registration>>,
}

/// A device that was heard, or is registered, or both.
struct Known<'a> {
    device: Option<&'a Device>,
    registration: Option<&'a Arc<Registration>>,
}

impl<'a> Known<'a> {
    fn of(state: &'a State, id: &str) -> Option<Self> {
        let known = Self { device: state.find_device(id).map(|index| state.device(index)), registration: state.registry.find(id) };
        (known.device.is_some() || known.registration.is_some()).then_some(known)
    }

    fn kind(&self) -> Option<&'a DeviceKind> {
        self.device.map(|device| &device.kind).or_else(|| self.registration.map(|registration| &registration.document().kind))
    }

    fn domain(&self) -> Option<Domain> {
        self.device.map(|device| device.domain).or_else(|| self.registration.map(|registration| registration.document().domain))
    }
}

impl Answers {
    /// Devices by name.
    pub fn devices(&self, question: &DeviceQuestion) -> Result<DeviceList, AskError> {
        let rows_max = self.limits.page_rows_max;
        if question.limit == 0 || question.limit > rows_max {
            return Err(AskError::PageSize { asked: question.limit, rows_max });
        }
        let mut found = self.named(question)?;
        found.sort_unstable();
        let Filter { districts, area, .. } = &question.filter;
        let mut list = DeviceList::default();
        for id in found {
            // Districts are looked up while the state is let go.
            let Some(summary) = self.summary(&self.live.read(), id.as_str()) else { continue };
            let summary = self.locate(summary);
            let in_districts = districts.is_empty() || summary.district.is_some_and(|district| districts.contains(&district));
            let in_area = area.is_none_or(|area| summary.position.is_some_and(|position| area.contains(position)));
            let is_present = question.presences.is_empty() || question.presences.contains(&summary.presence);
            if !(in_districts && in_area && is_present) {
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

    /// The names of the devices that a question is about, but for presence and place.
    fn named(&self, question: &DeviceQuestion) -> Result<Vec<DeviceId>, AskError> {
        let state = self.live.read();
        let Filter { devices, kinds, domains, .. } = &question.filter;
        for name in devices {
            if Known::of(&state, name).is_none() {
                return Err(AskError::UnknownDevice(name.chars().take(128).collect()));
            }
        }
        let heard = state.devices.iter().map(|device| &device.id);
        let unheard = state.registry.iter().map(|(id, _registration)| id).filter(|id| state.find_device(id.as_str()).is_none());
        let mut missing: HashSet<&str> = kinds.iter().map(String::as_str).collect();
        let mut found = Vec::new();
        for id in heard.chain(unheard) {
            let Some(known) = Known::of(&state, id.as_str()) else { continue };
            let kind = known.kind().map_or("", DeviceKind::as_str);
            missing.remove(kind);
            let tells =
                |property: &PropertyIndex| known.device.is_some_and(|device| device.series.iter().any(|(of, _series)| of == property));
            let is_asked = (devices.is_empty() || devices.iter().any(|name| name == id.as_str()))
                && (kinds.is_empty() || kinds.iter().any(|asked| asked == kind))
                && (domains.is_empty() || known.domain().is_some_and(|domain| domains.contains(&domain)))
                && (question.properties.is_empty() || question.properties.iter().any(tells))
                && question.registered.is_none_or(|registered| registered == known.registration.is_some())
                && question.after.as_ref().is_none_or(|after| after < id);
            if is_asked {
                found.push(id.clone());
            }
        }
        match missing.into_iter().min() {
            Some(kind) => Err(super::filter::unknown_kind(kind, &state)),
            None => Ok(found),
        }
    }

    /// One device and the newest value of each of its series, trusted or not; `None` if it was never heard and is not registered.
    pub fn device(&self, id: &str) -> Option<(DeviceSummary, Vec<LatestValue>)> {
        let now = self.clock.now();
        let (summary, mut values) = {
            let state = self.live.read();
            let device = state.find_device(id).map(|index| state.device(index));
            let series = device.into_iter().flat_map(|device| device.series.iter().map(move |(_property, series)| (device, *series)));
            let values: Vec<_> = series.filter_map(|(device, series)| latest(&state, device, series, Quality::Any, now)).collect();
            (self.summary(&state, id)?, values)
        };
        for value in &mut values {
            value.district = value.position.and_then(|position| self.districts.find(position));
        }
        values.sort_by(|one, other| self.catalogue.get(one.property).id.cmp(&self.catalogue.get(other.property).id));
        Some((self.locate(summary), values))
    }

    /// From when on devices count as late and silent.
    pub(super) fn patience(&self) -> Patience {
        Patience { late_intervals: self.limits.late_intervals, silent_intervals: self.limits.silent_intervals }
    }

    /// What takes longer than the state may be held.
    fn locate(&self, mut summary: DeviceSummary) -> DeviceSummary {
        summary.properties.sort_by(|one, other| self.catalogue.get(*one).id.cmp(&self.catalogue.get(*other).id));
        summary.district = summary.position.and_then(|position| self.districts.find(position));
        summary
    }

    fn summary(&self, state: &State, id: &str) -> Option<DeviceSummary> {
        let now = self.clock.now();
        let known = Known::of(state, id)?;
        let Known { device, registration } = known;
        let whereabouts = device.map(|device| Whereabouts::of(device, state)).unwrap_or_default();
        let series = device.map_or([].as_slice(), |device| device.series.as_slice());
        let newest = series.iter().filter_map(|(_property, series)| state.series_at(*series).mark.latest).map(|latest| latest.time).max();
        let last_observed = newest.map(Timestamp::from_micros_clamped);
        let interval = self.interval(device, registration.map(Arc::as_ref));
        let age = last_observed.zip(interval).map(|(last, interval)| now.since(last).as_secs_f64() / interval.length.as_secs_f64());
        let trusted = |id: &str| {
            let property = self.catalogue.find(id)?;
            let series = series.iter().find(|(of, _series)| *of == property).map(|(_of, series)| *series)?;
            state.series_at(series).mark.trusted.map(|latest| latest.value)
        };
        Some(DeviceSummary {
            id: device.map(|device| &device.id).or_else(|| registration.map(|registration| &registration.document().id))?.clone(),
            kind: known.kind()?.clone(),
            domain: known.domain()?,
            first_seen: device.map(|device| device.first_seen),
            last_observed,
            presence: Presence::judge(age, self.patience()),
            interval,
            battery: Battery { level: trusted("battery_level"), voltage: trusted("battery_voltage") },
            position: whereabouts.position.or_else(|| registration?.position_at(now)),
            district: None,
            is_mobile: whereabouts.is_mobile,
            properties: series.iter().map(|(property, _series)| *property).collect(),
            registration: registration.map(Arc::clone),
        })
    }

    fn interval(&self, device: Option<&Device>, registration: Option<&Registration>) -> Option<Interval> {
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
        let declared = || Some((seconds(registration?.document().interval_s?), IntervalSource::Declared));
        let learned = || Some((device?.rhythm.interval()?, IntervalSource::Learned));
        let catalogue = || {
            let intervals = device?.series.iter().map(|(property, _series)| self.catalogue.get(*property).interval_s);
            Some((seconds(intervals.min()?), IntervalSource::Catalogue))
        };
        let (length, source) = declared().or_else(learned).or_else(catalogue)?;
        Some(Interval { length, source })
    }
}
