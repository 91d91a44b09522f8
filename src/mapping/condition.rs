//! When a rule counts: what must be said by another field of the same message.

use serde::{Deserialize, Serialize};

use super::document::matches;
use crate::model::{Reading, Value};

/// What another field of the same device in the same message must say; all that is given must hold, for one and the same field.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// The other field's path, levels joined by `.`; `*` stands for anything, and a `.` in front for the level that the mapped
    /// field is on: `.type` is the `type` beside it. Case does not matter.
    pub field: String,
    /// It says this: a number, a truth, or a text in which `*` stands for anything and case does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<Literal>,
    /// Its number is larger than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
    /// Its number is smaller than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
    /// It is there, or it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
}

/// A value in a document.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(untagged)]
pub enum Literal {
    /// `true` and `false`.
    Truth(bool),
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
}

impl Condition {
    /// Whether a field that is mapped may be, going by those beside it.
    pub(super) fn holds(&self, mapped: &Reading<'_>, readings: &[Reading<'_>]) -> bool {
        let path = match self.field.strip_prefix('.') {
            Some(beside) => match mapped.name.rsplit_once('.') {
                Some((level, _name)) => format!("{level}.{beside}"),
                None => beside.to_owned(),
            },
            None => self.field.clone(),
        };
        let named = || readings.iter().filter(|reading| matches(&path, &reading.name));
        // A table's row is held against itself; what a message says once is true of all of it.
        let is_of_one_time = named().all(|reading| named().next().is_some_and(|first| first.time == reading.time));
        let mut relevant = named().filter(|reading| is_of_one_time || reading.time == mapped.time);
        if self.present == Some(false) {
            return relevant.next().is_none();
        }
        relevant.any(|reading| self.is_said(&reading.value))
    }

    fn is_said(&self, value: &Value<'_>) -> bool {
        let number = match value {
            Value::Number(number) => Some(*number),
            Value::Word(word) => word.trim().parse().ok(),
        };
        self.equals.as_ref().is_none_or(|literal| literal.is(value, number))
            && self.above.is_none_or(|limit| number.is_some_and(|number| number > limit))
            && self.below.is_none_or(|limit| number.is_some_and(|number| number < limit))
    }

    /// What is wrong with it.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let asks = self.equals.is_some() || self.above.is_some() || self.below.is_some();
        if self.field.trim_matches('.').is_empty() {
            return Some("names no field");
        }
        match self.present {
            None if !asks => Some("asks nothing: equals, above, below or present"),
            Some(false) if asks => Some("a field that is not there says nothing"),
            _ => None,
        }
    }
}

impl Literal {
    fn is(&self, value: &Value<'_>, number: Option<f64>) -> bool {
        match (self, value) {
            // What is written is compared with what was sent, to the last bit; one zero is the other.
            (Self::Number(wanted), _) => number.is_some_and(|number| (number + 0.0).to_bits() == (wanted + 0.0).to_bits()),
            (Self::Truth(wanted), Value::Word(word)) => word.eq_ignore_ascii_case(if *wanted { "true" } else { "false" }),
            (Self::Truth(wanted), Value::Number(_)) => number == Some(f64::from(u8::from(*wanted))),
            (Self::Text(pattern), Value::Word(word)) => matches(pattern, word),
            (Self::Text(pattern), Value::Number(number)) => matches(pattern, &number.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::model::Timestamp;

    fn reading(name: &'static str, value: Value<'static>, seconds: i64) -> Reading<'static> {
        let time = Timestamp::from_micros_clamped(seconds * 1_000_000);
        Reading { name: Cow::Borrowed(name), value, unit: None, time, position: None }
    }

    #[track_caller]
    fn check(condition: &str, mapped: &'static str, expected: bool) {
        let condition: Condition = serde_json::from_str(condition).unwrap();
        assert_eq!(condition.problem(), None);
        let readings = [
            reading("mode", Value::Word("Water".into()), 0),
            reading("flag", Value::Word("true".into()), 0),
            reading("switch", Value::Number(1.0), 0),
            reading("depth", Value::Number(2.5), 0),
            reading("text", Value::Word("12".into()), 0),
            reading("messages.0.id", Value::Number(4_097.0), 0),
            reading("messages.1.id", Value::Number(4_098.0), 0),
            reading("row", Value::Number(1.0), 0),
            reading("row", Value::Number(2.0), 60),
        ];
        assert_eq!(condition.holds(&reading(mapped, Value::Number(0.0), 0), &readings), expected, "{condition:?}");
    }

    #[test]
    fn another_field_decides() {
        for (condition, expected) in [
            (r#"{"field": "mode", "equals": "water"}"#, true),
            (r#"{"field": "MODE", "equals": "wat*"}"#, true),
            (r#"{"field": "mode", "equals": "soil"}"#, false),
            (r#"{"field": "flag", "equals": true}"#, true),
            (r#"{"field": "switch", "equals": true}"#, true),
            (r#"{"field": "switch", "equals": false}"#, false),
            (r#"{"field": "depth", "equals": 2.5}"#, true),
            (r#"{"field": "depth", "equals": "2.5"}"#, true),
            (r#"{"field": "text", "equals": 12, "above": 11, "below": 13}"#, true),
            (r#"{"field": "depth", "above": 2.5}"#, false),
            (r#"{"field": "depth", "above": 2, "below": 3}"#, true),
            (r#"{"field": "mode", "above": 0}"#, false),
            (r#"{"field": "mode", "present": true}"#, true),
            (r#"{"field": "mode", "present": false}"#, false),
            (r#"{"field": "none", "present": true}"#, false),
            (r#"{"field": "none", "present": false}"#, true),
            (r#"{"field": "none", "equals": 0}"#, false),
        ] {
            check(condition, "x", expected);
        }
    }

    #[test]
    fn a_field_beside_it_is_of_the_same_place_of_a_list() {
        check(r#"{"field": ".id", "equals": 4097}"#, "messages.0.value", true);
        check(r#"{"field": ".id", "equals": 4097}"#, "messages.1.value", false);
        check(r#"{"field": ".mode", "equals": "water"}"#, "value", true);
        check(r#"{"field": "messages.*.id", "equals": 4098}"#, "messages.0.value", true);
    }

    #[test]
    fn a_row_is_held_against_itself() {
        check(r#"{"field": "row", "equals": 1}"#, "x", true);
        check(r#"{"field": "row", "equals": 2}"#, "x", false);
    }

    #[test]
    fn a_condition_that_can_never_decide_is_a_problem() {
        for (condition, expected) in [
            (r#"{"field": "x"}"#, "asks nothing: equals, above, below or present"),
            (r#"{"field": ".", "equals": 1}"#, "names no field"),
            (r#"{"field": "x", "present": false, "above": 1}"#, "a field that is not there says nothing"),
        ] {
            assert_eq!(serde_json::from_str::<Condition>(condition).unwrap().problem(), Some(expected));
        }
    }
}
