//! Names that arrive from outside and end up in topics, tables and addresses.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A name holds a character that is not allowed, or is empty or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to {LEN_MAX} letters, digits or any of - _ . :")]
pub struct InvalidName;

/// Longest name in bytes.
const LEN_MAX: usize = 128;

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    !text.is_empty() && text.len() <= LEN_MAX && text.bytes().all(allowed)
}

fn foreign_name(text: &str) -> String {
    /// A dot and 16 hexadecimal digits.
    const DIGEST_LEN: usize = 17;
    let allowed = |letter: char| if is_name(letter.encode_utf8(&mut [0; 4])) { letter } else { '_' };
    let mut name: String = text.chars().take(LEN_MAX - DIGEST_LEN).map(allowed).collect();
    write!(name, ".{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes())).expect("a string takes any text");
    name
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// A name for what others name by any text: the text itself where it is allowed; else with `_` for each
            /// character that is not, and a digest of the whole, so that two texts do not become one name.
            pub fn from_foreign(text: &str) -> Self {
                Self::try_from(text).unwrap_or_else(|_invalid| Self(foreign_name(text).into()))
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidName;

            fn try_from(text: &str) -> Result<Self, InvalidName> {
                if is_name(text) { Ok(Self(text.into())) } else { Err(InvalidName) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::try_from(text.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::try_from(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// A device identifier, safe in topics, tags and addresses; real ones look like `urn:ngsi-ld:Device:7` or `eui-70b3d5`.
    DeviceId
}
name! {
    /// What sort of device it is, as its topic says: `air-station`, `bus`, `energy-meter`.
    DeviceKind
}
name! {
    /// The configured name of a source: one broker connection.
    SourceName
}

impl SourceName {
    /// The source of what comes from files of observations.
    pub const IMPORT: &'static str = "import";

    /// [`SourceName::IMPORT`] as a name.
    pub fn import() -> Self {
        Self::try_from(Self::IMPORT).expect("an allowed name")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_real_devices_are_accepted_and_unsafe_ones_are_not() {
        for good in ["a", "urn:ngsi-ld:Device:7", "eui-70b3d5", &"x".repeat(128)] {
            assert!(DeviceId::try_from(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "a+b", "#", "però", "a\0", &"x".repeat(129)] {
            assert_eq!(DeviceId::try_from(bad), Err(InvalidName), "{bad}");
        }
    }

    #[test]
    fn foreign_names_become_allowed_ones_that_differ() {
        assert_eq!(DeviceId::from_foreign("eui-70b3d5").as_str(), "eui-70b3d5");
        let names = ["", "piazza però", "piazza pero", "piazza/pero", &"é".repeat(500), &"é".repeat(501)].map(DeviceId::from_foreign);
        for (index, name) in names.iter().enumerate() {
            assert_eq!(DeviceId::try_from(name.as_str()).as_ref(), Ok(name));
            assert!(names.iter().skip(index + 1).all(|other| other != name), "{name}");
        }
    }
}
