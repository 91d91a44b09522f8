//! What the columns of a data set mean, as a small TOML file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, de};

use crate::catalogue::Catalogue;

/// A mapping file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// Between cells; a comma unless said otherwise.
    #[serde(default = "comma", deserialize_with = "ascii")]
    pub delimiter: u8,
    /// Between whole numbers and decimals; a point unless said otherwise.
    #[serde(default = "point", deserialize_with = "ascii")]
    pub decimal: u8,
    /// Codes for what is missing, compared as text and as numbers; an empty cell is always missing.
    #[serde(default)]
    pub missing: Vec<String>,
    pub time: TimeColumns,
    pub device: Device,
    pub values: Vec<Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeColumns {
    /// Joined with a space.
    pub columns: Vec<String>,
    /// `strptime`'s directives, for the joined text.
    pub format: String,
    /// IANA name, or a constant offset such as `+01:00`. Of a time that occurs twice the earlier is meant.
    #[serde(deserialize_with = "zone")]
    pub zone: TimeZone,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    pub domain: String,
    pub kind: String,
    /// One device for all rows…
    pub id: Option<String>,
    /// …or the column that names it…
    pub column: Option<String>,
    /// …after this.
    #[serde(default)]
    pub prefix: String,
    pub position: Option<Position>,
    /// Positions by what stands in the column.
    #[serde(default)]
    pub positions: BTreeMap<String, Position>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Position {
    pub lon: f64,
    pub lat: f64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Value {
    pub column: String,
    pub property: String,
    /// UCUM; the unit of what is sent.
    pub unit: String,
    /// Multiplies the cell, for units that UCUM cannot name.
    pub scale: Option<f64>,
}

impl Mapping {
    /// Reads and checks a mapping file.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("cannot use {}", path.display()))
    }

    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mapping: Self = toml::from_str(text)?;
        ensure!(!mapping.time.columns.is_empty(), "time.columns: must not be empty");
        ensure!(!mapping.values.is_empty(), "values: must not be empty");
        ensure!(mapping.device.id.is_some() != mapping.device.column.is_some(), "device: needs either an id or a column");
        for value in &mapping.values {
            ensure!(Catalogue::embedded().get(&value.property).is_some(), "values: the catalogue has no property {}", value.property);
        }
        Ok(mapping)
    }

    /// Whether a cell says that nothing was measured.
    pub(super) fn is_missing(&self, cell: &str) -> bool {
        let number = |text: &str| text.parse::<f64>().ok();
        let same = |code: &String| code == cell || number(code).is_some_and(|code| number(cell) == Some(code));
        cell.is_empty() || self.missing.iter().any(same)
    }
}

fn comma() -> u8 {
    b','
}

fn point() -> u8 {
    b'.'
}

fn ascii<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    match String::deserialize(deserializer)?.as_bytes() {
        [byte] if byte.is_ascii() => Ok(*byte),
        _ => Err(de::Error::custom("must be one ASCII character")),
    }
}

fn zone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TimeZone, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name.starts_with(['+', '-']) {
        let offset = jiff::fmt::strtime::parse("%:z", &name).map_err(de::Error::custom)?.offset();
        return offset.map(TimeZone::fixed).ok_or_else(|| de::Error::custom("not an offset"));
    }
    TimeZone::get(&name).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::Mapping;

    fn check_error(change: (&str, &str), expected: &str) {
        let text = include_str!("../../mappings/uci-airquality-italy-2004.toml");
        assert!(text.contains(change.0));
        let error = format!("{:#}", Mapping::parse(&text.replace(change.0, change.1)).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn mistakes_are_named() {
        check_error(("\"co\"", "\"carbon\""), "no property carbon");
        check_error(("\"+01:00\"", "\"Europe/Palermo\""), "Europe/Palermo");
        check_error(("delimiter = \",\"", "delimiter = \"ab\""), "one ASCII character");
        check_error(("id = ", "name = "), "name");
    }

    #[test]
    fn codes_for_missing_are_compared_as_numbers_too() {
        let mapping = Mapping::parse(include_str!("../../mappings/uci-airquality-italy-2004.toml")).unwrap();
        assert!(["-200", "-200.0", ""].iter().all(|cell| mapping.is_missing(cell)));
        assert!(!mapping.is_missing("-20"));
    }
}
