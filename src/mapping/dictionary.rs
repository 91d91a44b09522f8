//! What vendors and data models usually call things: `schemas/mappings/dictionary.json`, data, never code.

use std::collections::BTreeMap;

use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};

/// The dictionary that is built into the program.
const BUILT_IN: &str = include_str!("../../schemas/mappings/dictionary.json");

/// Moles of a gas in a cubic metre at 20 °C and 101.325 kPa, the conditions of Directive 2008/50/EC, Annex VI.
const MOLES_PER_M3: f64 = 101_325.0 / (8.314_462_618 * 293.15);

/// How sure it is what a field without a unit is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// The name leaves no doubt.
    Certain,
    /// Practically everybody sends it so.
    Usual,
    /// It is sent in several units: a field that does not tell its own is not guessed.
    UnitNeeded,
}

/// Names of fields and spellings of units.
#[derive(Debug)]
pub struct Dictionary {
    /// By name without case and separators.
    properties: HashMap<String, usize>,
    entries: Vec<Entry>,
    ignored: HashSet<String>,
    /// UCUM codes by usual spelling.
    units: BTreeMap<String, String>,
    /// UCUM codes by the last word of a name.
    suffixes: BTreeMap<String, String>,
    molar_masses: BTreeMap<String, f64>,
}

/// The file.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// UCUM codes by usual spelling.
    units: BTreeMap<String, String>,
    /// UCUM codes by the word that ends a name: `temp_f`.
    suffixes: BTreeMap<String, String>,
    /// Grams per mole, by property.
    molar_masses: BTreeMap<String, f64>,
    properties: Vec<Entry>,
    /// Names of what is no measurement.
    ignored: Vec<String>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The id in the catalogue.
    property: String,
    /// How sure the unit is.
    confidence: Confidence,
    /// The unit of a field that does not tell its own, a UCUM code.
    unit: Option<String>,
    /// Names, words separated by `_`.
    names: Vec<String>,
}

/// What the dictionary says of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// It is this property, in this unit where the sender names none.
    Property { property: &'a str, unit: Option<&'a str> },
    /// It is no measurement.
    Ignored,
    /// A further channel of a property: which of them speaks for the device is not known.
    Channel,
    /// It is not in the dictionary.
    Nothing,
}

impl Dictionary {
    /// The one of `schemas/mappings/dictionary.json`.
    pub fn built_in() -> Self {
        let file: File = serde_json::from_str(BUILT_IN).expect("the dictionary that is built in is tested");
        let mut properties = HashMap::new();
        for (index, entry) in file.properties.iter().enumerate() {
            properties.extend(entry.names.iter().map(|name| (name.replace('_', ""), index)));
        }
        Self {
            properties,
            entries: file.properties,
            ignored: file.ignored.iter().map(|name| name.replace('_', "")).collect(),
            units: file.units,
            suffixes: file.suffixes,
            molar_masses: file.molar_masses,
        }
    }

    /// The UCUM code of a unit's usual spelling; the spelling itself where it is none, since it may be a code already.
    pub fn unit<'a>(&'a self, spelling: &'a str) -> &'a str {
        let spelling = spelling.trim();
        self.units.get(spelling).map_or(spelling, String::as_str)
    }

    /// The unit of a property's fields that do not tell their own, and how sure that is.
    pub(super) fn default_unit(&self, property: &str) -> (Option<&str>, Confidence) {
        let entry = self.entries.iter().find(|entry| entry.property == property);
        entry.map_or((None, Confidence::UnitNeeded), |entry| (entry.unit.as_deref(), entry.confidence))
    }

    /// What a gas's number in a unit of mixing ratio is multiplied by to be in ug/m3; none for other units and properties.
    pub(super) fn concentration(&self, property: &str, unit: &str) -> Option<f64> {
        let per_billion = match unit {
            "[ppb]" => 1.0,
            "[ppm]" => 1e3,
            _ => return None,
        };
        // g/mol × mol/m3 × 1e-9, in 1e-6 g.
        self.molar_masses.get(property).map(|mass| mass * MOLES_PER_M3 * 1e-3 * per_billion)
    }

    /// Looks a field up by the last level of its path that is a name.
    pub(super) fn find(&self, path: &str) -> Found<'_> {
        let mut levels = path.rsplit('.');
        let last = levels.next().unwrap_or_default();
        let name = if ["value", "val"].iter().any(|word| last.eq_ignore_ascii_case(word)) { levels.next().unwrap_or(last) } else { last };
        let words = words(name);
        if self.ignored.contains(&words.concat()) {
            return Found::Ignored;
        }
        if let Some(found) = self.named(&words) {
            return found;
        }
        // A channel: `temperature_1`. Which place the second one measures is not in its name.
        match words.split_last() {
            Some((channel, words)) if !words.is_empty() && channel.bytes().all(|byte| byte.is_ascii_digit()) => match self.named(words) {
                Some(found @ Found::Property { .. }) => {
                    if ["0", "1"].contains(&channel.as_str()) {
                        found
                    } else {
                        Found::Channel
                    }
                }
                _ => Found::Nothing,
            },
            _ => Found::Nothing,
        }
    }

    /// Looks a name up as it is, then without the unit that ends it.
    fn named(&self, words: &[String]) -> Option<Found<'_>> {
        if let Some(entry) = self.entry(words) {
            return Some(Found::Property { property: &entry.property, unit: entry.unit.as_deref() });
        }
        let (suffix, words) = words.split_last()?;
        let (unit, entry) = (self.suffixes.get(suffix)?, self.entry(words)?);
        Some(Found::Property { property: &entry.property, unit: Some(unit) })
    }

    fn entry(&self, words: &[String]) -> Option<&Entry> {
        self.properties.get(&words.concat()).and_then(|index| self.entries.get(*index))
    }
}

/// The words of a name, in lower case: at separators, and where a capital follows a small letter.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut is_inside = false;
    let mut was_small = false;
    for letter in name.chars() {
        if !letter.is_alphanumeric() {
            (is_inside, was_small) = (false, false);
            continue;
        }
        if !is_inside || (was_small && letter.is_uppercase()) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.extend(letter.to_lowercase());
        }
        (is_inside, was_small) = (true, letter.is_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Catalogue;

    #[test]
    fn every_entry_is_a_property_and_no_name_means_two() {
        let (dictionary, catalogue) = (Dictionary::built_in(), Catalogue::built_in());
        let mut names = HashSet::new();
        for entry in &dictionary.entries {
            assert!(catalogue.find(&entry.property).is_some(), "{}", entry.property);
            assert_eq!(entry.unit.is_none(), entry.confidence == Confidence::UnitNeeded, "{}", entry.property);
            for name in &entry.names {
                assert!(names.insert(name.replace('_', "")), "{name} is there twice");
            }
        }
        assert!(dictionary.molar_masses.keys().all(|property| catalogue.find(property).is_some()));
    }

    #[test]
    fn gases_follow_the_published_factors() {
        let dictionary = Dictionary::built_in();
        // Conversion factors at 20 °C and 1013 mbar as published for Directive 2008/50/EC.
        for (property, unit, factor) in [
            ("no2", "[ppb]", 1.9125),
            ("o3", "[ppb]", 1.9957),
            ("so2", "[ppb]", 2.6609),
            ("co", "[ppm]", 1164.2),
            ("benzene", "[ppb]", 3.2430),
        ] {
            let found = dictionary.concentration(property, unit).unwrap();
            assert!((found / factor - 1.0).abs() < 2e-3, "{property}: {found}");
        }
        assert_eq!(dictionary.concentration("co2", "[ppm]"), None);
        assert_eq!(dictionary.concentration("no2", "ug/m3"), None);
    }

    #[test]
    fn names_are_taken_apart() {
        for (name, expected) in [
            ("TempC_SHT", "temp c sht"),
            ("battery-voltage", "battery voltage"),
            ("PM2_5", "pm2 5"),
            ("batV", "bat v"),
            ("relativeHumidity", "relative humidity"),
            ("LAeq", "laeq"),
            ("", ""),
        ] {
            assert_eq!(words(name).join(" "), expected, "{name}");
        }
    }
}
