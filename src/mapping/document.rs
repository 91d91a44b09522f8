//! A city's own mappings: JSON documents, each about some sources, decoders or models.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::{Dictionary, UnitCheck};
use crate::decode::Decoder;
use crate::model::{Catalogue, Kind, Property};

/// Files of documents about data models, feeds and devices that state what their fields are. A city's own go before them.
const BUILT_IN: [&str; 4] = [
    include_str!("../../schemas/mappings/smart-data-models.json"),
    include_str!("../../schemas/mappings/feeds.json"),
    include_str!("../../schemas/mappings/devices.json"),
    include_str!("../../schemas/mappings/families.json"),
];

/// Longest channel in bytes.
const CHANNEL_LEN_MAX: usize = 64;

/// How the fields of some devices are to be understood.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Its name, for people.
    pub id: String,
    /// Whose fields.
    #[serde(default)]
    pub applies: Applies,
    /// The first that fits a field counts.
    pub fields: Vec<FieldRule>,
}

/// Whose fields a document is about: whoever fits all that is given. Texts are patterns in which `*` stands for anything; case does not matter.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Applies {
    /// The source's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The payload family.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoder: Option<Decoder>,
    /// The device's model, profile or entity type; its kind, where messages tell none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The device's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What sort of device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// What a field is.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldRule {
    /// The field's path, levels joined by `.`; `*` stands for anything. Case does not matter.
    pub path: String,
    /// The rule counts where all of these hold; else the next one is looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<Condition>,
    /// The property's id in the catalogue. Left out: the field is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub property: Option<String>,
    /// Which of several it is: the observation is that of the device `<device>:<channel>`, which is where the device is unless it is
    /// registered itself. `*` stands for what the path's first `*` stands for. Left out: the device itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_.*-]{1,64}$"))]
    pub channel: Option<String>,
    /// Its unit, whatever the sender says: a UCUM code or a usual spelling. Left out: what the sender says, else the usual one, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Its unit where the sender names none, a UCUM code or a usual spelling. Where the sender names one, its number is taken as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assumed_unit: Option<String>,
    /// The number is multiplied by this…
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub scale: f64,
    /// …then this is added.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset: f64,
    /// Numbers that stand for "not measured": -200, 65535.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<f64>,
    /// What the sender's words mean, and numbers that are codes: `{"open": 1, "closed": 0}`. A number is in the unit of the rule, as it
    /// is; a state's word is one of the catalogue. Case does not matter. Other words stay as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub words: BTreeMap<String, Meaning>,
}

/// What a word means.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(untagged)]
pub enum Meaning {
    /// A number, or a state's code.
    Number(f64),
    /// A state's word.
    State(String),
}

fn one() -> f64 {
    1.0
}

#[expect(clippy::trivially_copy_pass_by_ref, clippy::float_cmp, reason = "as it is asked; what was left out is exactly this")]
fn is_one(number: &f64) -> bool {
    *number == 1.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as it is asked")]
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

impl Document {
    /// The built-in ones.
    pub fn built_in() -> Vec<Self> {
        let documents = BUILT_IN.iter().map(|text| serde_json::from_str::<Vec<Self>>(text).expect("they are tested"));
        documents.flatten().collect()
    }

    /// The JSON Schema of a file.
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }

    /// What is wrong with it, each with a JSON pointer to the rule.
    pub fn problems(&self, catalogue: &Catalogue, dictionary: &Dictionary, fits: UnitCheck) -> Vec<String> {
        let mut problems = Vec::new();
        for (index, field) in self.fields.iter().enumerate() {
            let found = field.property.as_deref().and_then(|property| catalogue.find(property));
            if let Some(property) = field.property.as_ref().filter(|_property| found.is_none()) {
                problems.push(format!("/fields/{index}/property: {property:?} is not in the catalogue"));
            }
            let property = found.map(|found| &**catalogue.get(found));
            let of_field = field.problems(property, dictionary, fits);
            problems.extend(of_field.into_iter().map(|(key, problem)| format!("/fields/{index}/{key}: {problem}")));
        }
        problems
    }
}

impl Applies {
    /// Whether it fits by what is the same for many messages.
    pub(super) fn fits(&self, source: &str, decoder: Decoder, model: &str) -> bool {
        self.source.as_deref().is_none_or(|pattern| matches(pattern, source))
            && self.decoder.is_none_or(|wanted| wanted == decoder)
            && self.model.as_deref().is_none_or(|pattern| matches(pattern, model))
    }
}

impl FieldRule {
    /// One that ignores the fields of a path.
    pub(super) fn ignoring(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            when: Vec::new(),
            property: None,
            channel: None,
            unit: None,
            assumed_unit: None,
            scale: one(),
            offset: 0.0,
            missing: Vec::new(),
            words: BTreeMap::new(),
        }
    }

    pub(super) fn fits(&self, field: &str) -> bool {
        matches(&self.path, field)
    }

    /// The name of the channel that a field of the path is.
    pub(super) fn channel_of(&self, field: &str) -> Option<String> {
        let channel = self.channel.as_deref()?;
        if !channel.contains('*') {
            return Some(channel.to_owned());
        }
        let (before, after) = self.path.split_once('*')?;
        let rest = field.get(before.len()..)?;
        let mut ends = (0..=rest.len()).filter(|end| rest.is_char_boundary(*end));
        let stands = ends.find_map(|end| rest.split_at_checked(end).filter(|(_stands, rest)| matches(after, rest)))?.0;
        Some(channel.replace('*', stands))
    }

    /// Each with the key that it is about.
    fn problems(&self, property: Option<&Property>, dictionary: &Dictionary, fits: UnitCheck) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if let Some(channel) = &self.channel {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte);
            if channel.is_empty() || channel.len() > CHANNEL_LEN_MAX || !channel.bytes().all(is_name) {
                problems.push(("channel", "a channel has 1 to 64 letters, digits or any of - _ . *".to_owned()));
            } else if channel.contains('*') && !self.path.contains('*') {
                problems.push(("channel", "the path has no * that it could stand for".to_owned()));
            }
        }
        if self.scale == 0.0 {
            problems.push(("scale", "no number is left by a scale of zero".to_owned()));
        }
        for (key, unit) in [("unit", &self.unit), ("assumed_unit", &self.assumed_unit)] {
            let (Some(unit), Some(property)) = (unit, property) else { continue };
            let code = dictionary.unit(unit);
            // A gas by volume becomes one by mass.
            let is_mended = property.kind == Kind::State || dictionary.concentration(&property.id, &code).is_some();
            if let Some(problem) = fits(&code, &property.unit).filter(|_problem| !is_mended) {
                problems.push((key, format!("{unit:?} cannot become {:?}, the unit of {}: {problem}", property.unit, property.id)));
            }
        }
        for problem in self.when.iter().filter_map(Condition::problem) {
            problems.push(("when", problem.to_owned()));
        }
        let states = property.map(|property| &property.states);
        for (word, meaning) in &self.words {
            let is_known = match (states, meaning) {
                (None, _) => true,
                (Some(states), Meaning::Number(_)) if states.is_empty() => true,
                (Some(states), Meaning::Number(code)) => states.keys().any(|key| key.parse() == Ok(*code)),
                (Some(states), Meaning::State(id)) => states.values().any(|state| state.id == *id),
            };
            if !is_known {
                problems.push(("words", format!("{word:?} would be what the property never is")));
            }
        }
        problems
    }
}

/// Whether a text fits a pattern in which `*` stands for anything, whatever the case of ASCII letters. Linear in the text
/// for each star: only the last one is ever tried again.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        match (pattern.get(at), text.get(from)) {
            (Some(b'*'), _) => {
                star = Some((at, from));
                at += 1;
            }
            (Some(wanted), Some(found)) if wanted.eq_ignore_ascii_case(found) => {
                at += 1;
                from += 1;
            }
            _ => match star {
                Some((star_at, star_from)) => {
                    star = Some((star_at, star_from + 1));
                    (at, from) = (star_at + 1, star_from + 1);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(at).all(|rest| *rest == b'*')
}

#[cfg(test)]
mod tests {
    use super::{FieldRule, matches};

    #[test]
    fn a_channel_is_what_a_star_stands_for() {
        for (path, channel, field, expected) in [
            ("soil_*_moisture", "*", "soil_30cm_moisture", Some("30cm")),
            ("*.probe_*", "p*", "data.probe_7", Some("pdata")),
            ("ch*_t*", "*", "CH1_temp", Some("1")),
            ("x", "left", "x", Some("left")),
        ] {
            let rule = FieldRule { channel: Some(channel.to_owned()), ..FieldRule::ignoring(path) };
            assert_eq!(rule.channel_of(field).as_deref(), expected, "{path} {field}");
        }
        assert_eq!(FieldRule::ignoring("x").channel_of("x"), None);
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "AC", true),
            ("a*c", "abcd", false),
            ("*.temp*", "data.Temp_SHT", true),
            ("**", "x", true),
            ("", "x", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
