//! The catalogue of observed properties: data in `schemas/properties.json`, never code.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

/// The catalogue that is built into the program.
const BUILT_IN: &str = include_str!("../../schemas/properties.json");

/// A part of city life, or what lies under all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Domain {
    /// Traffic, parking, public transport.
    Mobility,
    /// Air, weather, noise, water.
    Environment,
    /// Meters, production, charging, lighting.
    Energy,
    /// Doors, panic buttons, crowding; never persons.
    Security,
    /// The device itself: its battery, its radio. A property's domain only, never a device's.
    Device,
}

impl Domain {
    /// Those of the city, which devices belong to.
    pub const CITY: [Self; 4] = [Self::Mobility, Self::Environment, Self::Energy, Self::Security];

    /// Every domain.
    pub const ALL: [Self; 5] = [Self::Mobility, Self::Environment, Self::Energy, Self::Security, Self::Device];

    /// The word used in topics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mobility => "mobility",
            Self::Environment => "environment",
            Self::Energy => "energy",
            Self::Security => "security",
            Self::Device => "device",
        }
    }

    /// The domain of the city with that word in a topic.
    pub fn parse(word: &str) -> Option<Self> {
        Self::CITY.into_iter().find(|domain| domain.as_str() == word)
    }
}

/// What a value says about the time around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The state of a thing at an instant: a temperature.
    Gauge,
    /// A total that only grows, until it is reset or rolls over: an energy meter.
    Counter,
    /// How much happened since the reading before: vehicles counted, rain fallen.
    Count,
    /// A coded condition that holds until the next reading: a lamp that is on.
    State,
}

/// How values are put together, in time and across devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Summary {
    /// Ordinary numbers.
    Arithmetic,
    /// Angles in degrees: the mean is that of unit vectors.
    Circular,
    /// Levels in decibel: the mean is that of energies, `10 log10(mean(10^(L/10)))` (ISO 1996-1).
    Energetic,
    /// Codes: counted and timed, never averaged.
    Coded,
}

/// A title in the two languages of the console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Title {
    /// Italian.
    pub it: String,
    /// English.
    pub en: String,
}

/// The meaning of one code of a state property.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StateCode {
    /// The word that payloads may use in place of the number.
    pub id: String,
    /// For people.
    pub title: Title,
}

/// One observed property.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Property {
    /// Its name in payloads, tables and addresses.
    pub id: String,
    /// For people.
    pub title: Title,
    /// The part of city life that it belongs to.
    pub domain: Domain,
    /// Canonical unit, a UCUM code.
    pub unit: String,
    /// What a value says about the time around it.
    pub kind: Kind,
    /// How values are put together.
    pub summary: Summary,
    /// Smallest plausible value, in the canonical unit.
    pub min: f64,
    /// Largest plausible value, in the canonical unit.
    pub max: f64,
    /// Values are rounded to a multiple of this: what real sensors resolve. Canonical unit.
    pub resolution: f64,
    /// Expected time between two readings of one device, in seconds, unless the registry says otherwise.
    pub interval_s: u32,
    /// The function of time that answers use when none is asked for.
    pub in_time: String,
    /// The function across devices that answers use when none is asked for.
    pub across: String,
    /// The codes of a state property, by their number in text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub states: BTreeMap<String, StateCode>,
    /// When its values are suspect, beside being out of range.
    #[serde(default, skip_serializing_if = "QualityRules::is_empty")]
    pub quality: QualityRules,
}

/// When values of a property are suspect. What is left out is not checked.
///
/// The built-in catalogue's rates are the suspect limits of WMO's step test for weather stations (I. Zahumenský, Guidelines on Quality
/// Control Procedures for Data from Automatic Weather Stations, WMO CBS 2004: 3 °C, 10 %, 0.5 hPa and 20 m/s within a minute); stuck
/// values and spikes are tests of the same guidelines and of QARTOD, with limits wide enough for hourly values and for sensors of coarse
/// resolution; the limit of humidity lies between what makers of optical particle sensors give (Nova SDS011 70 %, Alphasense OPC-N3 95 %).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QualityRules {
    /// Numbers that sensors send in place of a value, in the canonical unit. Where a value is not plausible anyway, they count in the
    /// sender's unit too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub error_codes: Vec<f64>,
    /// The same value for too long. Not for states and counts; `min` and `max` may last for ever: no wind, humidity of 100 %.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck: Option<StuckRule>,
    /// A lone jump away and back. Only for gauges that are no angles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spike: Option<SpikeRule>,
    /// Fastest plausible change within a minute, in the canonical unit; readings closer together may differ by as much. Only for
    /// gauges that are no angles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_max_per_minute: Option<f64>,
    /// Relative humidity in per cent above which optical sensors count droplets. Devices registered as `reference` dry the air first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub humidity_max: Option<f64>,
    /// Disagreement with the stations around. Only for gauges that are no angles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neighbours: Option<NeighboursRule>,
}

/// The same value is suspect once it was read more often **and** for longer than this.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StuckRule {
    /// Readings.
    #[schemars(range(min = 1))]
    pub readings: u16,
    /// Minutes of phenomenon time.
    #[schemars(range(min = 1))]
    pub minutes: u32,
}

/// A value is a spike where it lies further from the median of the last ones than both limits, and as far from the last one: a
/// second reading that confirms the first is believed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SpikeRule {
    /// How many values before it are looked at.
    #[schemars(range(min = 3, max = 7))]
    pub window: u8,
    /// Distance in robust standard deviations of the window (1.4826 times the median absolute deviation).
    pub deviations: f64,
    /// Distance in the canonical unit.
    pub floor: f64,
}

/// A value disagrees with the nearest stations where it lies further from their median than `floor` and than five robust standard
/// deviations of theirs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NeighboursRule {
    /// Stations further away, in metres, say nothing.
    pub radius_m: f64,
    /// Distance in the canonical unit.
    pub floor: f64,
}

impl QualityRules {
    /// Values that a spike's window may have.
    pub const WINDOW_MAX: usize = 7;

    /// Whether nothing is checked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What contradicts itself, or the sort of property.
    fn problem(&self, kind: Kind, summary: Summary) -> Option<&'static str> {
        let positive = |number: f64| number > 0.0 && number.is_finite();
        if self.error_codes.iter().any(|code| !code.is_finite()) {
            return Some("an error code is a finite number");
        }
        if self.stuck.is_some() && matches!(kind, Kind::State | Kind::Count) {
            return Some("states and counts may stay as they are: they cannot be stuck");
        }
        let is_line = kind == Kind::Gauge && matches!(summary, Summary::Arithmetic | Summary::Energetic);
        if !is_line && (self.spike.is_some() || self.rate_max_per_minute.is_some() || self.neighbours.is_some()) {
            return Some("spike, rate and neighbours are for gauges that are no angles");
        }
        if self.stuck.is_some_and(|stuck| stuck.readings == 0 || stuck.minutes == 0) {
            return Some("stuck needs readings and minutes above zero");
        }
        if self.spike.is_some_and(|spike| {
            !(3..=Self::WINDOW_MAX).contains(&usize::from(spike.window)) || !positive(spike.deviations) || !positive(spike.floor)
        }) {
            return Some("spike needs a window of 3 to 7, deviations and floor above zero");
        }
        if self.rate_max_per_minute.is_some_and(|rate| !positive(rate)) {
            return Some("the rate must be above zero");
        }
        if self.humidity_max.is_some_and(|humidity| !(0.0..=100.0).contains(&humidity)) {
            return Some("a relative humidity lies in 0 to 100 %");
        }
        if self.neighbours.is_some_and(|neighbours| !positive(neighbours.radius_m) || !positive(neighbours.floor)) {
            return Some("neighbours need radius and floor above zero");
        }
        None
    }
}

impl Property {
    /// `value` rounded to the resolution. Dividing by a whole inverse gives the nearest double to the decimal number.
    pub fn round(&self, value: f64) -> f64 {
        let inverse = (1.0 / self.resolution).round();
        if inverse >= 1.0 { (value * inverse).round() / inverse } else { (value / self.resolution).round() * self.resolution }
    }
}

/// The place of a property in the running program's catalogue. Not stable over restarts: stores keep the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PropertyIndex(pub u16);

/// A catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// Not JSON of the catalogue's shape.
    #[error("the catalogue is not valid")]
    Malformed(#[source] serde_json::Error),
    /// One entry contradicts itself or another.
    #[error("{id}: {problem}")]
    Entry { id: String, problem: &'static str },
}

/// All observed properties.
#[derive(Clone, Debug)]
pub struct Catalogue {
    properties: Vec<Arc<Property>>,
    by_id: HashMap<String, PropertyIndex>,
}

impl Catalogue {
    /// The catalogue that is built into the program.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("a test reads the built-in catalogue")
    }

    /// Reads a catalogue: a JSON array of [`Property`].
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let properties: Vec<Arc<Property>> = serde_json::from_str(text).map_err(CatalogueError::Malformed)?;
        let mut by_id = HashMap::with_capacity(properties.len());
        for (index, property) in properties.iter().enumerate() {
            let problem = |problem| CatalogueError::Entry { id: property.id.clone(), problem };
            let index = u16::try_from(index).map_err(|_index| problem("a catalogue has at most 65,536 properties"))?;
            let lowercase = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            if property.id.is_empty() || !property.id.bytes().all(lowercase) {
                return Err(problem("an id has lowercase letters, digits and _"));
            }
            if !(property.min <= property.max && property.min.is_finite() && property.max.is_finite()) {
                return Err(problem("min must not exceed max"));
            }
            if !(property.resolution > 0.0 && property.resolution.is_finite()) || property.interval_s == 0 {
                return Err(problem("resolution and interval must be above zero"));
            }
            if (property.kind == Kind::State) != (property.summary == Summary::Coded)
                || (property.kind == Kind::State) == property.states.is_empty()
            {
                return Err(problem("states, and only states, are coded and list their codes"));
            }
            if property.states.keys().any(|code| code.parse::<i32>().is_err()) {
                return Err(problem("a state's code is a whole number"));
            }
            if let Some(contradiction) = property.quality.problem(property.kind, property.summary) {
                return Err(problem(contradiction));
            }
            if by_id.insert(property.id.clone(), PropertyIndex(index)).is_some() {
                return Err(problem("the id appears twice"));
            }
        }
        Ok(Self { properties, by_id })
    }

    /// The JSON Schema of a catalogue.
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Vec<Property>).to_value()
    }

    /// The property with that id.
    pub fn find(&self, id: &str) -> Option<PropertyIndex> {
        self.by_id.get(id).copied()
    }

    /// The property at that place; an index comes from [`Catalogue::find`] of the same catalogue.
    pub fn get(&self, index: PropertyIndex) -> &Arc<Property> {
        self.properties.get(usize::from(index.0)).expect("an index comes from this catalogue")
    }

    /// All properties in the catalogue's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (PropertyIndex, &Arc<Property>)> {
        (0u16..).zip(&self.properties).map(|(index, property)| (PropertyIndex(index), property)).collect::<Vec<_>>().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalogue_is_valid() {
        let catalogue = Catalogue::parse(BUILT_IN).unwrap();
        let pm10 = catalogue.get(catalogue.find("pm10").unwrap());
        assert_eq!((pm10.unit.as_str(), pm10.domain), ("ug/m3", Domain::Environment));
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        let catalogue = |kind: &str, summary: &str, quality: &str| {
            let states = if kind == "state" { r#", "states": {"0": {"id": "off", "title": {"it": "a", "en": "a"}}}"# } else { "" };
            Catalogue::parse(&format!(
                r#"[{{"id": "x", "title": {{"it": "x", "en": "x"}}, "domain": "environment", "unit": "1", "kind": "{kind}", "summary": "{summary}",
                "min": 0, "max": 1, "resolution": 1, "interval_s": 60, "in_time": "mean", "across": "mean", "quality": {quality}{states}}}]"#
            ))
        };
        for (kind, summary, quality, expected) in [
            ("gauge", "arithmetic", r#"{"stuck": {"readings": 3, "minutes": 9}, "rate_max_per_minute": 1}"#, ""),
            ("count", "arithmetic", r#"{"error_codes": [-1]}"#, ""),
            (
                "count",
                "arithmetic",
                r#"{"stuck": {"readings": 3, "minutes": 9}}"#,
                "x: states and counts may stay as they are: they cannot be stuck",
            ),
            (
                "state",
                "coded",
                r#"{"stuck": {"readings": 3, "minutes": 9}}"#,
                "x: states and counts may stay as they are: they cannot be stuck",
            ),
            ("gauge", "circular", r#"{"rate_max_per_minute": 1}"#, "x: spike, rate and neighbours are for gauges that are no angles"),
            (
                "counter",
                "arithmetic",
                r#"{"spike": {"window": 5, "deviations": 4, "floor": 1}}"#,
                "x: spike, rate and neighbours are for gauges that are no angles",
            ),
            ("gauge", "arithmetic", r#"{"stuck": {"readings": 0, "minutes": 9}}"#, "x: stuck needs readings and minutes above zero"),
            (
                "gauge",
                "arithmetic",
                r#"{"spike": {"window": 8, "deviations": 4, "floor": 1}}"#,
                "x: spike needs a window of 3 to 7, deviations and floor above zero",
            ),
            ("gauge", "arithmetic", r#"{"rate_max_per_minute": 0}"#, "x: the rate must be above zero"),
            ("gauge", "arithmetic", r#"{"humidity_max": 101}"#, "x: a relative humidity lies in 0 to 100 %"),
            ("gauge", "arithmetic", r#"{"neighbours": {"radius_m": 0, "floor": 1}}"#, "x: neighbours need radius and floor above zero"),
        ] {
            let problem = catalogue(kind, summary, quality).err().map_or(String::new(), |error| error.to_string());
            assert_eq!(problem, expected, "{kind} {quality}");
        }
    }

    #[test]
    fn rounding_gives_the_nearest_double_of_the_decimal_number() {
        let catalogue = Catalogue::built_in();
        let mut property = Property::clone(catalogue.get(catalogue.find("pm10").unwrap()));
        for (resolution, value, expected) in [(0.1, 0.1 + 0.2, 0.3), (0.01, 18.055_555, 18.06), (1.0, 2.5, 3.0), (5.0, 12.6, 15.0)] {
            property.resolution = resolution;
            assert_eq!(property.round(value).to_bits(), f64::to_bits(expected), "{value} at {resolution}");
        }
    }
}
