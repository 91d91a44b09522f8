//! Durations as people write them in rules and configuration.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration as text: a whole number and `ms`, `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationText(pub Duration);

/// The text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration such as 250ms, 90s, 10m, 6h or 7d")]
pub struct InvalidDuration(String);

/// Units with their milliseconds, the longest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for DurationText {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        let invalid = || InvalidDuration(text.chars().take(20).collect());
        let (digits, unit) = text.split_at_checked(text.bytes().take_while(u8::is_ascii_digit).count()).ok_or_else(invalid)?;
        let (_unit, millis) = UNITS.into_iter().find(|(name, _millis)| *name == unit).ok_or_else(invalid)?;
        let number: u32 = digits.parse().map_err(|_not_a_number| invalid())?;
        Ok(Self(Duration::from_millis(u64::from(number) * millis)))
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let fitting = UNITS.into_iter().find(|(_name, millis)| total > 0 && total.is_multiple_of(*millis));
        let (name, millis) = fitting.unwrap_or(("s", 1_000));
        write!(formatter, "{}{name}", total / millis)
    }
}

impl Serialize for DurationText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for DurationText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string", "pattern": "^[0-9]{1,9}(ms|s|m|h|d)$", "description": "A duration: 250ms, 90s, 10m, 6h, 7d."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_they_are_written() {
        for (text, millis) in [("250ms", 250), ("90s", 90_000), ("10m", 600_000), ("6h", 21_600_000), ("7d", 604_800_000), ("0s", 0)] {
            let duration: DurationText = text.parse().unwrap();
            assert_eq!((duration.0, duration.to_string().as_str()), (Duration::from_millis(millis), text));
        }
        for text in ["", "10", "s", "-1s", "1.5h", "1w", "99999999999s", " 1s", "1 s"] {
            assert!(text.parse::<DurationText>().is_err(), "{text:?}");
        }
    }
}
