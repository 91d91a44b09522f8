//! Rules as data: a JSON document, checked as a whole on load.

use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::model::{Catalogue, DeviceId, DeviceKind, Districts, Domain, DurationText, PropertyIndex, Title};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// To know.
    Info,
    /// To look after.
    Warning,
    /// To act on now.
    Critical,
}

/// Which devices a rule watches; an empty list means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Applies {
    /// Parts of city life.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<Domain>,
    /// Kinds of device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// Devices by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Districts by id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub districts: Vec<String>,
}

/// What a rule looks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Condition {
    /// A value above a limit. The alert clears at or below `clear_below`, which must not exceed `above`.
    Above {
        /// The property's id.
        property: String,
        /// The limit, canonical unit.
        above: f64,
        /// The clear level, canonical unit; the limit itself where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clear_below: Option<f64>,
    },
    /// A value below a limit. The alert clears at or above `clear_above`, which must not be less than `below`.
    Below {
        /// The property's id.
        property: String,
        /// The limit, canonical unit.
        below: f64,
        /// The clear level, canonical unit; the limit itself where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clear_above: Option<f64>,
    },
    /// A state; the alert clears with any other.
    State {
        /// The property's id.
        property: String,
        /// The state's word.
        is: String,
    },
    /// No observation for longer than `after`.
    Silence {
        /// How long.
        #[schema(value_type = String, example = "15m")]
        after: DurationText,
    },
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleDocument {
    /// Its name: letters, digits, `-`, `_`, `.`.
    pub id: String,
    /// For people.
    pub title: Title,
    /// How bad it is.
    pub severity: Severity,
    /// Whether it is in force.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Which devices it watches.
    #[serde(default)]
    pub applies: Applies,
    /// What it looks for.
    pub condition: Condition,
    /// How long that must last, in phenomenon time, before the alert is active.
    #[serde(default, rename = "for")]
    #[schema(value_type = String, example = "10m")]
    pub lasting: DurationText,
}

fn yes() -> bool {
    true
}

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Problem {
    /// Where: `rules[3].condition.clear_below`.
    pub key: String,
    /// What.
    pub problem: String,
}

/// A rule ready to be evaluated.
#[derive(Clone, Debug)]
pub struct Rule {
    /// As written.
    pub document: RuleDocument,
    /// Changes with the rule's text.
    pub version: u64,
    pub(super) test: Test,
}

/// A condition with its property found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Test {
    /// Raised where `sign * value > sign * limit`, cleared where `sign * value <= sign * clear`.
    Limit {
        property: PropertyIndex,
        sign: f64,
        limit: f64,
        clear: f64,
    },
    State {
        property: PropertyIndex,
        code: f64,
    },
    Silence {
        after: Duration,
    },
}

/// Rules that passed every check.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_field_names, reason = "no other word is better for all of them")]
pub struct Rules {
    pub(super) rules: Vec<Rule>,
    /// Places in `rules`, by property.
    pub(super) by_property: HashMap<PropertyIndex, Vec<usize>>,
    /// Places of the rules of silence.
    pub(super) silences: Vec<usize>,
}

/// The JSON Schema of a rules document.
pub fn rules_schema() -> serde_json::Value {
    #[derive(schemars::JsonSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    #[schemars(deny_unknown_fields)]
    struct RulesDocument {
        /// All rules.
        rules: Vec<RuleDocument>,
    }
    schemars::schema_for!(RulesDocument).to_value()
}

impl Rules {
    /// Reads a document `{"rules": [...]}` and reports every problem at once.
    pub fn parse(text: &str, catalogue: &Catalogue, districts: &Districts) -> Result<Self, Vec<Problem>> {
        let problem = |key: &str, problem: String| Problem { key: key.to_owned(), problem };
        let document: serde_json::Value = serde_json::from_str(text).map_err(|error| vec![problem("", error.to_string())])?;
        let Some(list) = document.get("rules").and_then(serde_json::Value::as_array) else {
            return Err(vec![problem("rules", "must be a list".to_owned())]);
        };
        let mut problems: Vec<Problem> = document
            .as_object()
            .into_iter()
            .flat_map(serde_json::Map::keys)
            .filter(|key| *key != "rules")
            .map(|key| problem(key, "is not known".to_owned()))
            .collect();
        let mut rules = Vec::new();
        let mut ids = HashSet::new();
        for (index, value) in list.iter().enumerate() {
            let at = format!("rules[{index}]");
            match serde_json::from_value::<RuleDocument>(value.clone()) {
                Err(error) => problems.push(problem(&at, error.to_string())),
                Ok(document) => {
                    if !ids.insert(document.id.clone()) {
                        problems.push(problem(&format!("{at}.id"), format!("{:?} appears twice", document.id)));
                    }
                    let checked = check(&document, catalogue, districts);
                    problems.extend(checked.1.into_iter().map(|(key, text)| problem(&format!("{at}.{key}"), text)));
                    if let Some(test) = checked.0 {
                        let version = xxh3_64(value.to_string().as_bytes());
                        rules.push(Rule { document, version, test });
                    }
                }
            }
        }
        if problems.is_empty() { Ok(Self::new(rules)) } else { Err(problems) }
    }

    fn new(rules: Vec<Rule>) -> Self {
        let mut indexed = Self { rules, ..Self::default() };
        for (place, rule) in indexed.rules.iter().enumerate().filter(|(_place, rule)| rule.document.enabled) {
            match rule.test {
                Test::Limit { property, .. } | Test::State { property, .. } => indexed.by_property.entry(property).or_default().push(place),
                Test::Silence { .. } => indexed.silences.push(place),
            }
        }
        indexed
    }

    /// All rules, in the document's order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// The rule of that id.
    pub fn find(&self, id: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.document.id == id)
    }
}

fn check(document: &RuleDocument, catalogue: &Catalogue, districts: &Districts) -> (Option<Test>, Vec<(&'static str, String)>) {
    let mut problems = Vec::new();
    let id_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if document.id.is_empty() || document.id.len() > 64 || !document.id.bytes().all(id_allowed) {
        problems.push(("id", "must have 1 to 64 letters, digits or any of - _ .".to_owned()));
    }
    if document.applies.domains.iter().any(|domain| !Domain::CITY.contains(domain)) {
        problems.push(("applies.domains", "must be mobility, environment, energy or security: no device belongs to another".to_owned()));
    }
    for kind in document.applies.kinds.iter().filter(|kind| DeviceKind::try_from(kind.as_str()).is_err()) {
        problems.push(("applies.kinds", format!("{kind:?} is no kind of device")));
    }
    for device in document.applies.devices.iter().filter(|device| DeviceId::try_from(device.as_str()).is_err()) {
        problems.push(("applies.devices", format!("{device:?} is no device's name")));
    }
    for district in document.applies.districts.iter().filter(|district| districts.by_id(district).is_none()) {
        problems.push(("applies.districts", format!("there is no district {district:?}")));
    }
    let mut limit = |id: &str, sign: f64, limit: f64, clear: Option<f64>, clear_key: &'static str, limit_key: &'static str| {
        let property = catalogue.find(id);
        let clear = clear.unwrap_or(limit);
        match property.map(|property| catalogue.get(property)) {
            None => problems.push(("condition.property", format!("there is no property {id:?}"))),
            Some(property) if !property.states.is_empty() => {
                problems.push(("condition.property", format!("{id} has states: use a condition of type state")));
            }
            Some(_property) => {}
        }
        if !limit.is_finite() || !clear.is_finite() {
            problems.push((limit_key, "must be a finite number".to_owned()));
        }
        if sign * clear > sign * limit {
            let word = if sign > 0.0 { "exceed" } else { "be less than" };
            problems.push((clear_key, format!("must not {word} {}", limit_key.trim_start_matches("condition."))));
        }
        property.map(|property| Test::Limit { property, sign, limit, clear })
    };
    let test = match &document.condition {
        Condition::Above { property, above, clear_below } => {
            limit(property, 1.0, *above, *clear_below, "condition.clear_below", "condition.above")
        }
        Condition::Below { property, below, clear_above } => {
            limit(property, -1.0, *below, *clear_above, "condition.clear_above", "condition.below")
        }
        Condition::State { property, is } => {
            let found = catalogue.find(property);
            let known = found.map(|found| catalogue.get(found));
            let code = known
                .and_then(|known| known.states.iter().find(|(_code, state)| state.id == *is).and_then(|(code, _state)| code.parse().ok()));
            if known.is_none() {
                problems.push(("condition.property", format!("there is no property {property:?}")));
            } else if code.is_none() {
                problems.push(("condition.is", format!("{property} has no state {is:?}")));
            }
            found.zip(code).map(|(property, code)| Test::State { property, code })
        }
        Condition::Silence { after } => {
            if after.0.is_zero() {
                problems.push(("condition.after", "must be above zero".to_owned()));
            }
            if !document.lasting.0.is_zero() {
                problems.push(("for", "a silence already has its duration in condition.after".to_owned()));
            }
            Some(Test::Silence { after: after.0 })
        }
    };
    (test, problems)
}
