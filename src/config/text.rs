//! Durations and sizes as people write them.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration as text: a whole number and `ms`, `s`, `m`, `h`, `d` or `y` (365 days).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanText(pub Duration);

/// A number of bytes as text: a whole number and nothing, `KiB`, `MiB` or `GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteText(pub u64);

const SPANS: [(&str, u64); 6] = [("y", 31_536_000_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end)?;
    let (_name, scale) = units.iter().find(|(name, _scale)| *name == unit.trim())?;
    digits.parse::<u64>().ok()?.checked_mul(*scale)
}

fn show(number: u64, units: &[(&str, u64)], formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (name, scale) = units.iter().find(|(_name, scale)| number.is_multiple_of(*scale) && number > 0).or(units.last()).copied().unwrap_or(("", 1));
    write!(formatter, "{}{}{name}", number / scale, if name.len() == 3 { " " } else { "" })
}

impl SpanText {
    /// From seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl fmt::Display for SpanText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX), &SPANS, formatter)
    }
}

impl fmt::Display for ByteText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.0, &SIZES, formatter)
    }
}

macro_rules! as_text {
    ($type:ident, $units:ident, $make:expr, $name:literal, $pattern:literal, $example:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let number = parse(&text, &$units).ok_or_else(|| serde::de::Error::custom(concat!("must look like ", $example)))?;
                Ok(Self($make(number)))
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern, "description": concat!("Such as ", $example, ".") })
            }
        }
    };
}

as_text!(SpanText, SPANS, Duration::from_millis, "Span", "^[0-9]{1,12}(ms|s|m|h|d|y)$", "500ms, 30s, 5m, 12h, 7d, 10y");
as_text!(ByteText, SIZES, std::convert::identity, "Bytes", "^[0-9]{1,12} ?(KiB|MiB|GiB)?$", "4096, 64 KiB, 256 MiB, 1 GiB");
