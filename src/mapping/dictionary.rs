//! What vendors and data models usually call things: `schemas/mappings/dictionary.json`, data, never code.

use std::borrow::Cow;
use std::collections::BTreeMap;

use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};

/// The dictionary that is built into the program.
const BUILT_IN: &str = include_str!("../../schemas/mappings/dictionary.json");

/// Moles of a gas in a cubic metre at 293 K and 101.3 kPa, the conditions of Directive 2008/50/EC, Annex VI. The published
/// factors of European reporting come from 22.41 L/mol at 273 K and whole molar masses: so do these, that values agree.
const MOLES_PER_M3: f64 = 1_000.0 / (22.41 * 293.0 / 273.0);

/// Channels with a larger number are hardly any: `rain_24`.
const CHANNEL_MAX: u32 = 16;

/// Words of a unit that ends a name: `wind_m_s`.
const SUFFIX_WORDS_MAX: usize = 2;

/// Words before the number of a channel.
const MARKS: [&str; 11] = ["at", "ch", "chan", "channel", "depth", "input", "port", "probe", "sensor", "slot", "zone"];

/// What is a channel by the phase, `l1` to `l3`. Not power and energy: phases and their total would be summed up over devices.
const PHASED: [&str; 2] = ["current", "voltage"];

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
    /// The words of each name, with its entry.
    names: Vec<(Vec<String>, usize)>,
    ignored: HashSet<String>,
    /// What is measured in water, soil or pipes: a temperature beside it is not that of the air.
    immersed: HashSet<String>,
    /// What is measured in water: a temperature beside it is the water's.
    in_water: HashSet<String>,
    /// Levels of paths that say nothing of what is measured.
    containers: HashSet<String>,
    /// UCUM codes by usual spelling.
    units: BTreeMap<String, String>,
    /// How names of sensors' chips begin, which say nothing of what is measured either.
    chips: Vec<String>,
    /// UCUM codes by the last words of a name.
    suffixes: BTreeMap<String, String>,
    molar_masses: BTreeMap<String, f64>,
}

/// The file.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// UCUM codes by usual spelling.
    units: BTreeMap<String, String>,
    /// UCUM codes by the words that end a name: `temp_f`, `wind_m_s`.
    suffixes: BTreeMap<String, String>,
    /// Grams per mole, by property.
    molar_masses: BTreeMap<String, f64>,
    properties: Vec<Entry>,
    /// Names of what is no measurement.
    ignored: Vec<String>,
    /// Names of what is measured in water, soil or pipes.
    immersed: Vec<String>,
    /// Names of what is measured in water.
    in_water: Vec<String>,
    /// Names of levels that say nothing of what is measured: `data.temperature`. Others do: `soil.temperature`.
    containers: Vec<String>,
    /// How names of sensors' chips begin: `BME280.Temperature`, `DS18B20-2.Temperature`, which is the second of several.
    chips: Vec<String>,
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
    /// Units by which it is known to be this property, UCUM codes; none: any. A `pressure` in bar is that of a pipe.
    #[serde(default)]
    only: Vec<String>,
    /// Names, words separated by `_`.
    names: Vec<String>,
}

/// What the dictionary says of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// It is this property, in this unit where the sender names none.
    Property {
        property: &'a str,
        unit: Option<&'a str>,
        /// Units by which it is known to be this property; none: any.
        only: &'a [String],
        /// It is one of several by its name.
        channel: Option<Channel>,
    },
    /// It is no measurement.
    Ignored,
    /// One of so many of a property that they are hardly channels.
    Far,
    /// It is not in the dictionary.
    Nothing,
}

/// Which of several fields of a property one is, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Channel {
    pub(super) name: String,
    /// It may be the device's only one: `temperature_1`, which some send who never send a second.
    pub(super) may_be_only: bool,
}

impl Dictionary {
    /// The one of `schemas/mappings/dictionary.json`.
    pub fn built_in() -> Self {
        let file: File = serde_json::from_str(BUILT_IN).expect("the dictionary that is built in is tested");
        let entries = file.properties.iter().enumerate();
        let names: Vec<_> = entries.flat_map(|(index, entry)| entry.names.iter().map(move |name| (words(name), index))).collect();
        Self {
            properties: names.iter().map(|(name, index)| (name.concat(), *index)).collect(),
            names,
            entries: file.properties,
            ignored: file.ignored.iter().map(|name| words(name).concat()).collect(),
            immersed: file.immersed.iter().map(|name| words(name).concat()).collect(),
            in_water: file.in_water.iter().map(|name| words(name).concat()).collect(),
            containers: file.containers.iter().map(|name| name.replace('_', "")).collect(),
            chips: file.chips,
            units: file.units,
            suffixes: file.suffixes,
            molar_masses: file.molar_masses,
        }
    }

    /// The UCUM code of a unit's usual spelling; the spelling itself, with UCUM's letters and digits for typographic ones,
    /// where it is none, since it may be a code already.
    pub fn unit<'a>(&'a self, spelling: &'a str) -> Cow<'a, str> {
        let spelling = spelling.trim();
        if let Some(code) = self.units.get(spelling) {
            return Cow::Borrowed(code);
        }
        if spelling.is_ascii() {
            return Cow::Borrowed(spelling);
        }
        let plain = plain(spelling);
        self.units.get(&plain).map_or(Cow::Owned(plain), |code| Cow::Borrowed(code))
    }

    /// The unit of a property's fields that do not tell their own, and how sure that is.
    pub(super) fn default_unit(&self, property: &str) -> (Option<&str>, Confidence) {
        let entry = self.entries.iter().find(|entry| entry.property == property);
        entry.map_or((None, Confidence::UnitNeeded), |entry| (entry.unit.as_deref(), entry.confidence))
    }

    /// Whether a property is known, and its fields must tell their unit: a number then, never a state.
    pub(super) fn needs_unit(&self, property: &str) -> bool {
        self.entries.iter().any(|entry| entry.property == property && entry.confidence == Confidence::UnitNeeded)
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

    /// Whether a field tells that its device is in water, soil or a pipe: by its name, or as a pressure that no air has.
    pub(super) fn is_immersed(&self, path: &str, unit: Option<&str>) -> bool {
        let name = last_name(path);
        let entry = self.properties.get(&name).and_then(|index| self.entries.get(*index));
        let only = entry.map_or(&[][..], |entry| &entry.only);
        let is_of_air = |unit| only.is_empty() || only.iter().any(|only| *only == self.unit(unit));
        self.immersed.contains(&name) || !unit.is_none_or(is_of_air)
    }

    /// Whether a field tells that its device is in water.
    pub(super) fn is_in_water(&self, path: &str) -> bool {
        self.in_water.contains(&last_name(path))
    }

    /// Whether a field's name says that it is about the air around the device.
    pub(super) fn says_air(path: &str) -> bool {
        path.split('.').flat_map(words).any(|word| ["air", "ambient", "outdoor", "outside"].contains(&word.as_str()))
    }

    /// Looks a field up by its path. Every level counts but places in lists and containers: what `soil.temperature` and
    /// `wifi.0.rssi` measure, their last level alone does not say.
    pub(super) fn find(&self, path: &str) -> Found<'_> {
        let mut levels: Vec<&str> = path.split('.').collect();
        if levels.len() > 1 && levels.last().is_some_and(|last| ["value", "val"].iter().any(|word| last.eq_ignore_ascii_case(word))) {
            levels.pop();
        }
        let Some((name, around)) = levels.split_last() else { return Found::Nothing };
        let name = words(name);
        // Of a list, what it is a list of.
        let called = levels.iter().rfind(|level| !is_number(level)).map(|level| words(level).concat());
        if called.is_some_and(|called| self.ignored.contains(&called)) {
            return Found::Ignored;
        }
        let is_telling =
            |level: &&&str| !level.bytes().all(|byte| byte.is_ascii_digit()) && !self.containers.contains(&words(level).concat());
        let mut words: Vec<String> = around.iter().filter(is_telling).flat_map(|level| self.without_chip(words(level))).collect();
        words.extend(name);
        mend_sizes(&mut words);
        // A place in a list is no part of a name: the third of `co` is not `co2`.
        let is_place = levels.last().is_some_and(|last| is_number(last)) && words.last().is_some_and(|last| is_number(last));
        if !is_place && let Some(found) = self.named(&words, None) {
            return found;
        }
        let mut is_far = false;
        for place in (0..words.len()).rev() {
            let Some((channel, rest)) = channel_at(&words, place) else { continue };
            let Some(found) = self.named(&rest, Some(channel)) else { continue };
            match &found {
                Found::Property { channel: Some(channel), property, .. } => {
                    if channel.name.parse::<u32>().is_ok_and(|number| number > CHANNEL_MAX) {
                        is_far = true;
                    } else if !channel.name.starts_with('l') || PHASED.contains(property) {
                        return found;
                    }
                }
                _ => return found,
            }
        }
        if is_far { Found::Far } else { Found::Nothing }
    }

    /// The words of a level but a chip that they begin with.
    fn without_chip(&self, mut words: Vec<String>) -> Vec<String> {
        if words.first().is_some_and(|first| self.chips.iter().any(|chip| first.starts_with(chip.as_str()))) {
            words.remove(0);
        }
        words
    }

    /// The property that a field is by its path, or else the one that has the name which shares most words with it, if it shares half
    /// of theirs.
    pub(super) fn closest(&self, path: &str) -> Option<&str> {
        if let Found::Property { property, .. } = self.find(path) {
            return Some(property);
        }
        let of_field: Vec<String> = path.split('.').filter(|level| !["value", "val"].contains(level)).flat_map(words).collect();
        let share = |name: &[String]| {
            let shared = name.iter().filter(|word| of_field.contains(word)).count();
            (shared, of_field.len() + name.len() - shared)
        };
        // The largest share; of equal ones the first.
        let shares = self.names.iter().map(|(name, index)| (share(name), *index));
        let best = shares.reduce(|best, next| if next.0.0 * best.0.1 > best.0.0 * next.0.1 { next } else { best });
        let (_share, index) = best.filter(|((shared, all), _index)| *shared > 0 && shared * 2 >= *all)?;
        self.entries.get(index).map(|entry| entry.property.as_str())
    }

    /// Looks a name up as it is, then without the unit that ends it.
    fn named(&self, words: &[String], channel: Option<Channel>) -> Option<Found<'_>> {
        if let Some(entry) = self.entry(words) {
            return Some(Found::Property { property: &entry.property, unit: entry.unit.as_deref(), only: &entry.only, channel });
        }
        (1..=SUFFIX_WORDS_MAX.min(words.len())).find_map(|length| {
            let (name, suffix) = words.split_at(words.len() - length);
            let (unit, entry) = (self.suffixes.get(&suffix.join("_"))?, self.entry(name)?);
            Some(Found::Property { property: &entry.property, unit: Some(unit), only: &entry.only, channel: channel.clone() })
        })
    }

    fn entry(&self, words: &[String]) -> Option<&Entry> {
        self.properties.get(&words.concat()).and_then(|index| self.entries.get(*index))
    }
}

/// The last level of a path that names something, without case and separators.
fn last_name(path: &str) -> String {
    words(path.split('.').rev().find(|level| !["value", "val"].contains(level)).unwrap_or(path)).concat()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The channel that a word of a name tells, and the name without it: `soil_temperature_at_depth_3`, `ch0_pulse_count`, `temperature_2`,
/// `temp2`, `voltage_l1`, `dendrometer_a_position`.
fn channel_at(words: &[String], place: usize) -> Option<(Channel, Vec<String>)> {
    let word = words.get(place)?;
    let letters = word.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let number = word.get(letters.len()..).filter(|number| !number.is_empty());
    let (before, after) = (words.get(..place)?, words.get(place + 1..)?);
    let without = |before: &[String], part: &[String]| [before, part, after].concat();
    let explicit = |name: &str| Channel { name: name.to_owned(), may_be_only: false };
    match (letters, number) {
        ("", Some(number)) => {
            let marks = before.iter().rev().take_while(|word| MARKS.contains(&word.as_str())).count();
            let channel = Channel { name: number.to_owned(), may_be_only: marks == 0 && after.is_empty() && ["0", "1"].contains(&number) };
            Some((channel, without(before.get(..before.len() - marks)?, &[])))
        }
        ("l", Some("1" | "2" | "3")) => Some((explicit(word), without(before, &[]))),
        (mark, Some(number)) if MARKS.contains(&mark) => Some((explicit(number), without(before, &[]))),
        // `pm4` and `no3` are no channels.
        (name, Some(number)) if name.len() >= 4 && number.len() <= 2 => Some((explicit(number), without(before, &[name.to_owned()]))),
        (letter @ ("a" | "b" | "c" | "d"), None) if !before.is_empty() && !after.is_empty() => {
            Some((explicit(letter), without(before, &[])))
        }
        _ => None,
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
    mend_sizes(&mut words);
    words
}

/// `pm1_0` and `pm_1_0` are PM1, and not PM10, which they would be without their separators; `pm2_5` is `pm25`.
fn mend_sizes(words: &mut Vec<String>) {
    let joined = |word: &String, next: &String| ["pm", "pn", "nc"].contains(&word.as_str()) && is_number(next);
    if let Some(at) = words.iter().zip(words.iter().skip(1)).position(|(word, next)| joined(word, next)) {
        let size = words.remove(at + 1);
        if let Some(word) = words.get_mut(at) {
            word.push_str(&size);
        }
    }
    let is_size = |word: &String| matches!(word.as_bytes(), [b'p', b'm' | b'n', digit] | [b'n', b'c', digit] if digit.is_ascii_digit());
    let Some(at) = words.iter().position(is_size) else { return };
    match words.get(at + 1).map(String::as_str) {
        Some("0") => {
            words.remove(at + 1);
        }
        Some("3" | "5") => {
            let fraction = words.remove(at + 1);
            if let Some(word) = words.get_mut(at) {
                word.push_str(&fraction);
            }
        }
        _ => {}
    }
}

/// A unit with UCUM's letters and digits for the typographic ones: `µg⋅m⁻³` is `ug.m-3`.
fn plain(unit: &str) -> String {
    let mut plain = String::with_capacity(unit.len());
    for letter in unit.chars() {
        match letter {
            'µ' | 'μ' => plain.push('u'),
            '⋅' | '·' | '×' => plain.push('.'),
            '⁻' | '−' => plain.push('-'),
            'º' | '˚' => plain.push('°'),
            '\u{3a9}' | '\u{2126}' => plain.push_str("Ohm"),
            '⁰' => plain.push('0'),
            '¹' => plain.push('1'),
            '²' => plain.push('2'),
            '³' => plain.push('3'),
            letter if letter.is_whitespace() => {}
            letter => plain.push(letter),
        }
    }
    plain
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
                assert!(names.insert(words(name).concat()), "{name} is there twice");
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
            assert!((found / factor - 1.0).abs() < 5e-5, "{property}: {found}");
        }
        assert_eq!(dictionary.concentration("co2", "[ppm]"), None);
        assert_eq!(dictionary.concentration("no2", "ug/m3"), None);
    }

    #[test]
    fn units_of_every_registry_are_ucum_codes() {
        let dictionary = Dictionary::built_in();
        for (spelling, code) in dictionary.units.iter().chain(&dictionary.suffixes) {
            assert!(octofhir_ucum::validate(code).is_ok(), "{spelling} is {code}");
        }
        for (spelling, expected) in [
            ("CEL", "Cel"),
            ("GQ", "ug/m3"),
            ("GP", "mg/m3"),
            ("2N", "dB"),
            ("kvarh", "kV.A.h"),
            ("beat/min", "/min"),
            (" µg⋅m⁻³", "ug/m3"),
            ("m⋅s⁻¹", "m.s-1"),
            ("μg / m³", "ug/m3"),
            ("˚C", "Cel"),
            ("Pa", "Pa"),
            ("furlong", "furlong"),
        ] {
            assert_eq!(dictionary.unit(spelling), expected, "{spelling}");
        }
    }

    #[test]
    fn what_surrounds_a_name_counts() {
        let dictionary = Dictionary::built_in();
        let of = |path: &str| match dictionary.find(path) {
            Found::Property { property, channel: None, .. } => property.to_owned(),
            Found::Property { property, channel: Some(Channel { name, may_be_only }), .. } => {
                format!("{property} {name}{}", if may_be_only { "?" } else { "" })
            }
            other => format!("{other:?}"),
        };
        for (path, expected) in [
            ("data.temperature", "temperature"),
            ("messages.0.temperature.value", "temperature"),
            ("sensors.Air Temperature", "temperature"),
            ("air.temperature", "temperature"),
            ("wind.speed", "wind_speed"),
            ("soil.temperature", "soil_temperature"),
            ("water.temperature", "water_temperature"),
            ("cpu.temperature", "Nothing"),
            ("wifi.0.rssi", "Nothing"),
            ("rssi", "rssi"),
            ("soil.device_id", "Ignored"),
            ("debugCodes.1", "Ignored"),
            ("pm1_0", "pm1"),
            ("pm1_0_mass_concentration", "pm1"),
            ("pm10_mass_concentration", "pm10"),
            ("PM2_5", "pm2_5"),
            ("PM1.0", "pm1"),
            ("PM2.5", "pm2_5"),
            ("pm_1_0", "pm1"),
            ("PM_10", "pm10"),
            ("PM_2_5", "pm2_5"),
            ("pm1_0_number_concentration.value", "pn1"),
            ("nc_0_5", "pn0_5"),
            ("co.2", "co 2"),
            ("temperature.1", "temperature 1?"),
            ("pm10_1", "pm10 1?"),
            ("pm10_2", "pm10 2"),
            ("pm10_17", "Far"),
            ("soil_temperature_at_depth_0.value", "soil_temperature 0"),
            ("soil_moisture_at_depth_7.value", "soil_moisture 7"),
            ("CH1_Soil_Temp", "soil_temperature 1"),
            ("channel_2.temperature", "temperature 2"),
            ("temperature_probe_3_c", "temperature 3"),
            ("Temp2", "temperature 2"),
            ("voltage_l2", "voltage l2"),
            ("noise_l1", "Nothing"),
            ("active_power_l1", "Nothing"),
            ("dendrometer_b_position", "displacement b"),
            ("co3", "Nothing"),
            ("temperature_2m", "Nothing"),
            ("temperature_pt1000", "Nothing"),
            ("rain_24", "Far"),
            ("value", "Nothing"),
            ("", "Nothing"),
            ("..", "Nothing"),
        ] {
            assert_eq!(of(path), expected, "{path}");
        }
    }

    #[test]
    fn names_are_taken_apart() {
        for (name, expected) in [
            ("TempC_SHT", "temp c sht"),
            ("battery-voltage", "battery voltage"),
            ("PM2_5", "pm25"),
            ("pm1_0_mass", "pm1 mass"),
            ("pm10_1", "pm10 1"),
            ("batV", "bat v"),
            ("relativeHumidity", "relative humidity"),
            ("LAeq", "laeq"),
            ("", ""),
        ] {
            assert_eq!(words(name).join(" "), expected, "{name}");
        }
    }
}
