//! The observed properties of `schemas/properties.json`, as a sender reads them.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// One observed property; the fields that a sender has no use for are left out.
#[derive(Clone, Debug, Deserialize)]
pub struct Property {
    pub id: String,
    /// Canonical unit, UCUM.
    pub unit: String,
    /// Plausible values.
    pub min: f64,
    pub max: f64,
    /// Step between two values that a sensor can tell apart.
    pub resolution: f64,
    /// Seconds between two observations.
    pub interval_s: i64,
    /// Code → state, of state properties only.
    #[serde(default)]
    pub states: HashMap<String, State>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct State {
    pub id: String,
}

impl Property {
    /// The nearest value that a sensor in order would send: plausible, and a multiple of the resolution.
    pub fn settle(&self, value: f64) -> f64 {
        // Dividing by the inverse gives the double that the decimal text parses to; multiplying by 0.1 would not.
        let steps = (1.0 / self.resolution).round();
        (value.clamp(self.min, self.max) * steps).round() / steps
    }

    /// What a code stands for.
    pub fn state(&self, code: i64) -> Option<&str> {
        self.states.get(&code.to_string()).map(|state| state.id.as_str())
    }
}

/// Every property, by id.
#[derive(Debug)]
pub struct Catalogue(HashMap<String, Property>);

impl Catalogue {
    /// The catalogue that was compiled in.
    pub fn embedded() -> &'static Self {
        static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
            let properties: Vec<Property> =
                serde_json::from_str(include_str!("../../schemas/properties.json")).expect("a unit test parses the catalogue");
            Catalogue(properties.into_iter().map(|property| (property.id.clone(), property)).collect())
        });
        &CATALOGUE
    }

    pub fn get(&self, id: &str) -> Option<&Property> {
        self.0.get(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Property> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::Catalogue;

    #[test]
    fn settled_values_are_those_that_their_text_parses_to() {
        let check = |id: &str, value: f64, expected: &str| {
            let settled = Catalogue::embedded().get(id).unwrap().settle(value);
            assert_eq!(settled.to_string(), expected);
        };
        check("pm10", 31.249, "31.2");
        check("pm10", -3.0, "0");
        check("temperature", 18.304_999, "18.3");
        check("humidity", 100.4, "100");
        check("energy_active", 123_456.789_4, "123456.789");
    }

    #[test]
    fn inverse_of_every_resolution_is_whole() {
        for property in Catalogue::embedded().iter() {
            let steps = 1.0 / property.resolution;
            assert!((steps - steps.round()).abs() < 1e-9, "{}", property.id);
        }
    }
}
