//! What the registry says of devices: what they are, and where, of which model and whose they were at which time.
//!
//! A [`RegistrationDocument`] is as people write it, a [`Registration`] has passed every check. A device that moves house gets one
//! more [`Installation`]: what it observed before keeps its old place, also where that arrives late or is replayed.

use std::sync::Arc;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::{DeviceId, DeviceKind, Domain, Position, Timestamp};

/// What a device's values are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Made by a reference method: they stand in law.
    Reference,
    /// Made by a simpler sensor: they show tendencies.
    Indicative,
}

impl Class {
    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Indicative => "indicative",
        }
    }
}

/// A stretch of a device's life: where it is installed, of which model and whose it is meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Installation {
    /// Since when, inclusive. Left out: since ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    #[schema(value_type = Option<String>, format = DateTime, example = "2026-03-01T00:00:00+01:00")]
    pub from: Option<Timestamp>,
    /// Until when, exclusive. Left out: until the next installation begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<Timestamp>,
    /// Where observations were made whose messages do not say it themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Position")]
    pub position: Option<Position>,
    /// Above sea level, in metres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -500.0, max = 10_000.0))]
    #[schema(example = 14.0)]
    pub altitude_m: Option<f64>,
    /// Maker and model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Libelium Smart Environment PRO")]
    pub model: Option<String>,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Comune di Palermo")]
    pub owner: Option<String>,
}

impl Installation {
    fn is_silent(&self) -> bool {
        *self == Self::default()
    }
}

/// What the registry says of a device, as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Registration")]
#[schema(as = Registration)]
pub struct RegistrationDocument {
    /// The device's name.
    #[schemars(with = "String", regex(pattern = r"^[A-Za-z0-9_.:-]{1,128}$"))]
    #[schema(value_type = String, example = "air-station-001")]
    pub id: DeviceId,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Via Roma, school")]
    pub title: Option<String>,
    /// What sort of device.
    #[schemars(with = "String", regex(pattern = r"^[A-Za-z0-9_.:-]{1,128}$"))]
    #[schema(value_type = String, example = "air-station")]
    pub kind: DeviceKind,
    /// Its part of city life.
    #[schemars(with = "String", extend("enum" = ["mobility", "environment", "energy", "security"]))]
    pub domain: Domain,
    /// What its values are good for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("enum" = ["reference", "indicative", null]))]
    pub class: Option<Class>,
    /// Expected time between two of its messages, in seconds. Left out: it is learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    #[schema(minimum = 1, maximum = 31_536_000, example = 60)]
    pub interval_s: Option<u32>,
    /// Where, of which model and whose it was when; they never overlap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1_000))]
    pub installations: Vec<Installation>,
}

/// Something that is wrong with a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrationProblem {
    /// JSON pointer into the document.
    pub at: String,
    /// What.
    pub problem: String,
}

/// What the registry says of a device, checked: installations come by their beginning and do not overlap.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration(RegistrationDocument);

/// Longest title, model or owner, in characters.
const TEXT_LEN_MAX: usize = 200;

impl TryFrom<RegistrationDocument> for Registration {
    type Error = Vec<RegistrationProblem>;

    fn try_from(mut document: RegistrationDocument) -> Result<Self, Vec<RegistrationProblem>> {
        let mut problems = Vec::new();
        let mut refuse = |at: String, problem: &str| problems.push(RegistrationProblem { at, problem: problem.to_owned() });
        if !Domain::CITY.contains(&document.domain) {
            refuse("/domain".to_owned(), "must be mobility, environment, energy or security");
        }
        let texts = document.installations.iter().enumerate().flat_map(|(place, installation)| {
            let at = move |key| format!("/installations/{place}/{key}");
            [(at("model"), &installation.model), (at("owner"), &installation.owner)]
        });
        for (at, text) in std::iter::once(("/title".to_owned(), &document.title)).chain(texts) {
            if text.as_ref().is_some_and(|text| !is_text(text)) {
                refuse(at, "must have 1 to 200 characters, none of them a control character, no space around them");
            }
        }
        let mut places: Vec<usize> = (0..document.installations.len()).collect();
        let from = |place: &usize| document.installations.get(*place).and_then(|installation| installation.from);
        places.sort_by_key(from);
        for place in &places {
            if document.installations.get(*place).is_some_and(Installation::is_silent) {
                refuse(format!("/installations/{place}"), "says nothing");
            }
            let Some(Installation { from: Some(from), to: Some(to), .. }) = document.installations.get(*place) else { continue };
            if from >= to {
                refuse(format!("/installations/{place}/to"), "must be after `from`");
            }
        }
        for (before, place) in places.iter().zip(places.iter().skip(1)) {
            let ends = document.installations.get(*before).and_then(|installation| installation.to);
            if from(place) == from(before) || ends.is_some_and(|ends| from(place).is_none_or(|from| from < ends)) {
                let begins = from(before).map_or_else(|| "without a beginning".to_owned(), |from| format!("that begins at {from}"));
                refuse(format!("/installations/{place}/from"), &format!("overlaps the installation {begins}"));
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        document.installations.sort_by_key(|installation| installation.from);
        Ok(Self(document))
    }
}

fn is_text(text: &str) -> bool {
    !text.is_empty() && text.trim() == text && text.chars().count() <= TEXT_LEN_MAX && !text.chars().any(char::is_control)
}

impl Registration {
    /// As it is written.
    pub fn document(&self) -> &RegistrationDocument {
        &self.0
    }

    /// The installation that was valid at a time.
    pub fn at(&self, time: Timestamp) -> Option<&Installation> {
        let installations = &self.0.installations;
        let begun = installations.partition_point(|installation| installation.from.is_none_or(|from| from <= time));
        begun.checked_sub(1).and_then(|last| installations.get(last)).filter(|installation| installation.to.is_none_or(|to| time < to))
    }

    /// Where the device was installed at a time.
    pub fn position_at(&self, time: Timestamp) -> Option<Position> {
        self.at(time).and_then(|installation| installation.position)
    }
}

/// All registrations, by device. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Registry(HashMap<DeviceId, Arc<Registration>>);

impl Registry {
    /// What it says of a device.
    pub fn find(&self, device: &str) -> Option<&Arc<Registration>> {
        self.0.get(device)
    }

    /// What holds of a device's place: of a channel, `<device>:<channel>`, that is not registered itself, what is said of its device.
    pub fn find_with_channels(&self, device: &str) -> Option<&Arc<Registration>> {
        let mut device = device;
        loop {
            if let Some(registration) = self.0.get(device) {
                return Some(registration);
            }
            device = device.rsplit_once(':')?.0;
        }
    }

    /// Adds or replaces what it says of a device; `None` takes it away.
    pub fn set(&mut self, device: &DeviceId, registration: Option<Arc<Registration>>) {
        match registration {
            Some(registration) => self.0.insert(device.clone(), registration),
            None => self.0.remove(device),
        };
    }

    /// Every registration, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&DeviceId, &Arc<Registration>)> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(installations: &str) -> Result<Registration, Vec<RegistrationProblem>> {
        let text = format!(r#"{{"id": "m-1", "kind": "meter", "domain": "energy", "installations": {installations}}}"#);
        serde_json::from_str::<RegistrationDocument>(&text).unwrap().try_into()
    }

    const MARCH: &str = "2026-03-01T00:00:00Z";
    const JUNE: &str = "2026-06-01T00:00:00Z";

    #[test]
    fn a_device_that_moved_keeps_its_old_place_for_what_it_observed_there() {
        let moved = registration(&format!(
            r#"[{{"from": "{JUNE}", "position": {{"lon": 13.4, "lat": 38.1}}}},
                {{"to": "{MARCH}", "position": {{"lon": 13.3, "lat": 38.1}}}}]"#
        ))
        .unwrap();
        for (time, longitude) in [
            ("2020-01-01T00:00:00Z", Some(13.3)),
            ("2026-02-28T23:59:59.999999Z", Some(13.3)),
            // Taken away between March and June.
            (MARCH, None),
            ("2026-05-31T23:59:59.999999Z", None),
            (JUNE, Some(13.4)),
            ("2100-01-01T00:00:00Z", Some(13.4)),
        ] {
            assert_eq!(moved.position_at(time.parse().unwrap()).map(Position::longitude), longitude, "{time}");
        }
        // Without an end, an installation lasts until the next one begins.
        let open = registration(&format!(r#"[{{"model": "a"}}, {{"from": "{MARCH}", "model": "b"}}]"#)).unwrap();
        let model = |time: &str| open.at(time.parse().unwrap()).and_then(|installation| installation.model.as_deref());
        assert_eq!((model("2026-02-28T00:00:00Z"), model(MARCH)), (Some("a"), Some("b")));
    }

    #[test]
    fn a_channel_is_where_its_device_is_unless_it_is_registered_itself() {
        let place = |longitude: f64| format!(r#"[{{"position": {{"lon": {longitude}, "lat": 38.1}}}}]"#);
        let mut registry = Registry::default();
        for (device, longitude) in [("urn:ngsi-ld:Device:7", 13.3), ("urn:ngsi-ld:Device:7:2", 13.4)] {
            registry.set(&DeviceId::try_from(device).unwrap(), Some(Arc::new(registration(&place(longitude)).unwrap())));
        }
        for (device, expected) in [
            ("urn:ngsi-ld:Device:7", Some(13.3)),
            ("urn:ngsi-ld:Device:7:1", Some(13.3)),
            ("urn:ngsi-ld:Device:7:2", Some(13.4)),
            ("urn:ngsi-ld:Device:7:2:a", Some(13.4)),
            ("urn:ngsi-ld:Device:8", None),
            ("7", None),
        ] {
            let found = registry.find_with_channels(device).and_then(|found| found.position_at(Timestamp::MIN));
            assert_eq!(found.map(Position::longitude), expected, "{device}");
        }
    }

    #[test]
    fn every_problem_is_named() {
        for (installations, expected) in [
            (format!(r#"[{{"from": "{MARCH}", "to": "{MARCH}"}}]"#), "/installations/0/to must be after `from`"),
            (
                format!(r#"[{{"from": "{MARCH}"}}, {{"from": "{MARCH}"}}]"#),
                "/installations/1/from overlaps the installation that begins at 2026-03-01T00:00:00Z",
            ),
            (
                format!(r#"[{{"from": "{MARCH}"}}, {{"to": "{JUNE}"}}]"#),
                "/installations/0/from overlaps the installation without a beginning",
            ),
            (r#"[{"owner": "a"}, {"owner": "b"}]"#.to_owned(), "/installations/1/from overlaps the installation without a beginning"),
            ("[{}]".to_owned(), "/installations/0 says nothing"),
            (
                r#"[{"model": " x"}]"#.to_owned(),
                "/installations/0/model must have 1 to 200 characters, none of them a control character, no space around them",
            ),
        ] {
            let problems = registration(&installations).unwrap_err();
            let told: Vec<String> = problems.iter().map(|problem| format!("{} {}", problem.at, problem.problem)).collect();
            assert_eq!(told, [expected], "{installations}");
        }
        let touching = format!(r#"[{{"to": "{MARCH}"}}, {{"from": "{MARCH}", "to": "{JUNE}"}}, {{"from": "{JUNE}"}}]"#);
        assert!(registration(&touching).is_ok());
    }
}
