//! Which devices and observations a question is about.

use super::AskError;
use crate::model::{DistrictIndex, Domain, PropertyIndex, Timestamp};
use crate::state::{Device, DeviceIndex, State};
use crate::store::{Area, Selection};

/// Which observations count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quality {
    /// Those about which nothing is suspect.
    #[default]
    Trusted,
    /// All.
    Any,
}

/// What is asked of devices and places. An empty list asks nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Devices of these names.
    pub devices: Vec<String>,
    /// Devices of these kinds.
    pub kinds: Vec<String>,
    /// Devices of these domains.
    pub domains: Vec<Domain>,
    /// Observations made in these districts.
    pub districts: Vec<DistrictIndex>,
    /// Observations made in this area.
    pub area: Option<Area>,
    /// Observations of this quality.
    pub quality: Quality,
}

impl Filter {
    /// Whether it asks for places.
    pub fn has_place(&self) -> bool {
        !self.districts.is_empty() || self.area.is_some()
    }

    fn admits(&self, device: &Device) -> bool {
        (self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == device.kind.as_str()))
            && (self.domains.is_empty() || self.domains.contains(&device.domain))
    }

    /// The devices that are asked for, ascending; `None` where all are. A name or kind that was never heard is refused: it is a slip
    /// of the pen more often than a device that is still to come.
    pub(super) fn devices(&self, state: &State) -> Result<Option<Vec<DeviceIndex>>, AskError> {
        if self.devices.is_empty() && self.kinds.is_empty() && self.domains.is_empty() {
            return Ok(None);
        }
        for kind in &self.kinds {
            if !state.devices.iter().any(|device| device.kind.as_str() == kind) {
                return Err(unknown_kind(kind, state));
            }
        }
        let mut found = Vec::new();
        for name in &self.devices {
            let index = state.find_device(name).ok_or_else(|| AskError::UnknownDevice(excerpt(name)))?;
            if self.admits(state.device(index)) {
                found.push(index);
            }
        }
        if self.devices.is_empty() {
            found.extend(
                (0u32..).map(DeviceIndex).zip(&state.devices).filter(|(_index, device)| self.admits(device)).map(|(index, _device)| index),
            );
        }
        found.sort_unstable();
        found.dedup();
        Ok(Some(found))
    }

    /// What the store is asked for.
    pub(super) fn selection(
        &self,
        properties: Vec<PropertyIndex>,
        from: Timestamp,
        to: Timestamp,
        devices: Option<Vec<DeviceIndex>>,
    ) -> Selection {
        let (districts, trusted) = (self.districts.clone(), self.quality == Quality::Trusted);
        Selection { properties, from, to, devices, districts, area: self.area, trusted }
    }
}

/// No device is of that kind.
pub(super) fn unknown_kind(kind: &str, state: &State) -> AskError {
    AskError::UnknownKind { kind: excerpt(kind), known: kinds(state) }
}

fn kinds(state: &State) -> String {
    const LISTED_MAX: usize = 40;
    let mut kinds: Vec<&str> = Vec::new();
    for device in &state.devices {
        if kinds.len() < LISTED_MAX && !kinds.contains(&device.kind.as_str()) {
            kinds.push(device.kind.as_str());
        }
    }
    kinds.sort_unstable();
    if kinds.is_empty() { "; there is none yet".to_owned() } else { format!("; there are {}", kinds.join(", ")) }
}

fn excerpt(text: &str) -> String {
    text.chars().take(128).collect()
}
