//! Names that arrive from outside and end up in topics, tables and addresses.

use std::fmt;
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
}
