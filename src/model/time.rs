//! Instants in UTC with microsecond resolution, and where "now" comes from.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant: microseconds since 1970-01-01T00:00:00Z, between the years 1900 and 2200.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

/// The text is not RFC 3339, or the instant lies outside 1900–2200.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 date-time with offset between 1900 and 2200")]
pub struct InvalidTime;

impl Timestamp {
    /// 1900-01-01T00:00:00Z.
    pub const MIN: Self = Self(-2_208_988_800_000_000);
    /// 2200-01-01T00:00:00Z.
    pub const MAX: Self = Self(7_258_118_400_000_000);

    /// From microseconds since the epoch.
    pub fn from_micros(micros: i64) -> Result<Self, InvalidTime> {
        if (Self::MIN.0..=Self::MAX.0).contains(&micros) { Ok(Self(micros)) } else { Err(InvalidTime) }
    }

    /// From microseconds since the epoch, the nearest representable instant.
    pub fn from_micros_clamped(micros: i64) -> Self {
        Self(micros.clamp(Self::MIN.0, Self::MAX.0))
    }

    /// From milliseconds since the epoch.
    pub fn from_millis(millis: i64) -> Result<Self, InvalidTime> {
        millis.checked_mul(1_000).ok_or(InvalidTime).and_then(Self::from_micros)
    }

    /// Microseconds since the epoch.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// This instant moved by `delta`, towards the past where `delta` is subtracted; clamped to the range.
    #[must_use]
    pub fn plus(self, delta: Duration) -> Self {
        Self::from_micros_clamped(self.0.saturating_add(micros_of(delta)))
    }

    /// This instant moved back by `delta`, clamped to the range.
    #[must_use]
    pub fn minus(self, delta: Duration) -> Self {
        Self::from_micros_clamped(self.0.saturating_sub(micros_of(delta)))
    }

    /// Time since `earlier`, zero where that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }

    /// The start of the UTC hour that holds this instant.
    #[must_use]
    pub fn hour(self) -> Self {
        Self(self.0 - self.0.rem_euclid(3_600_000_000))
    }

    /// Whole days since the epoch, UTC.
    pub fn day(self) -> i32 {
        i32::try_from(self.0.div_euclid(86_400_000_000)).expect("1900 to 2200 are some 110,000 days")
    }
}

fn micros_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl From<Timestamp> for jiff::Timestamp {
    fn from(time: Timestamp) -> Self {
        Self::from_microsecond(time.0).expect("1900 to 2200 lies inside jiff's range")
    }
}

impl TryFrom<jiff::Timestamp> for Timestamp {
    type Error = InvalidTime;

    fn try_from(time: jiff::Timestamp) -> Result<Self, InvalidTime> {
        Self::from_micros(time.as_microsecond())
    }
}

impl std::str::FromStr for Timestamp {
    type Err = InvalidTime;

    /// RFC 3339 with an offset; what is finer than a microsecond is cut off.
    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        // Jiff also reads ISO 8601's looser forms.
        if !has_form_of_rfc_3339(text.as_bytes()) {
            return Err(InvalidTime);
        }
        text.parse::<jiff::Timestamp>().ok().and_then(|time| Self::try_from(time).ok()).ok_or(InvalidTime)
    }
}

/// Whether a text has date, time and offset as RFC 3339 writes them; whether they exist is not asked.
fn has_form_of_rfc_3339(text: &[u8]) -> bool {
    fn fits(text: &[u8], form: &[u8]) -> bool {
        text.len() == form.len()
            && text.iter().zip(form).all(|(byte, form)| match form {
                b'0' => byte.is_ascii_digit(),
                b'T' => matches!(byte, b'T' | b't' | b' '),
                b'+' => matches!(byte, b'+' | b'-'),
                other => byte == other,
            })
    }
    let Some((date_time, rest)) = text.split_at_checked(19) else { return false };
    let decimals = rest.strip_prefix(b".").map_or(0, |decimals| decimals.iter().take_while(|byte| byte.is_ascii_digit()).count());
    let Some((_fraction, offset)) = rest.split_at_checked(if decimals > 0 { decimals + 1 } else { 0 }) else { return false };
    let is_offset = matches!(offset, b"Z" | b"z") || (fits(offset, b"+00:00") && offset.get(1..3) <= Some(b"23".as_slice()));
    fits(date_time, b"0000-00-00T00:00:00") && is_offset
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, as many decimals as are needed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        jiff::Timestamp::from(*self).fmt(formatter)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where "now" comes from, so that tests can set it.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The current instant.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros_clamped(jiff::Timestamp::now().as_microsecond())
    }
}

/// A clock that stands still until it is set.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.0))
    }

    /// Moves it to `now`, forwards or backwards.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_3339_is_read_and_other_texts_are_not() {
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T01:00:00.000001+01:00", 1),
            ("1969-12-31t23:59:59.5z", -500_000),
            ("2016-12-31T23:59:60Z", 1_483_228_799_000_000), // a leap second is clamped
        ] {
            assert_eq!(text.parse(), Timestamp::from_micros(micros), "{text}");
        }
        for text in [
            "",
            "2024-01-01",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00Z",
            "2024-13-01T00:00:00Z",
            "1e9",
            "2500-01-01T00:00:00Z",
            "2024-01-01T00:00:00+01:00[Europe/Rome]",
            "2024-01-01T00:00:00+01",
            "2024-01-01T00:00:00+0100",
            "2024-01-01T00:00:00+24:00",
            "2024-01-01T00:00:00,5Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00.5",
            "٢٠٢٤-01-01T00:00:00Z",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(InvalidTime), "{text}");
        }
    }
}
