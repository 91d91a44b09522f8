//! Uplinks of LoRaWAN that network servers tell more than once.
//!
//! A copy of an uplink, by another gateway or sent again, gets the phenomenon time of the first: its observations are then
//! the same ones. Radio health is that of the gateway that heard it best.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashMap;
use serde_json::Value as Json;

use super::fields::{Fields, number};
use crate::model::{Fault, Timestamp, Value};

/// The uplinks heard last.
#[derive(Debug, Default)]
pub(super) struct Uplinks {
    heard: HashMap<u128, Heard>,
    order: VecDeque<u128>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    time: Timestamp,
    /// Of the best gateway so far.
    rssi: Option<f64>,
}

/// What copies of an uplink have in common.
#[derive(Clone, Copy)]
pub(super) struct Identity<'a> {
    pub(super) device: &'a str,
    /// The id of the session's key, or the device's address in it.
    pub(super) session: &'a str,
    /// The frame counter. Where it is not told, an uplink cannot be told from the next, and is never taken for a copy.
    pub(super) counter: Option<u64>,
    pub(super) payload: &'a str,
}

impl Identity<'_> {
    fn key(&self) -> Option<u128> {
        let Self { device, session, counter, payload } = self;
        let text = format!("{device}\n{session}\n{}\n{payload}", (*counter)?);
        Some(xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
    }
}

/// How well the best gateway heard.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Radio {
    rssi: Option<f64>,
    snr: Option<f64>,
}

impl Radio {
    /// Of the gateway that heard best.
    pub(super) fn best(gateways: Option<&Json>) -> Self {
        let gateways = gateways.and_then(Json::as_array).into_iter().flatten();
        let radios = gateways.map(|gateway| Self { rssi: gateway.get("rssi").and_then(number), snr: gateway.get("snr").and_then(number) });
        let strength = |radio: &Self| radio.rssi.unwrap_or(f64::NEG_INFINITY);
        radios.max_by(|one, other| strength(one).total_cmp(&strength(other))).unwrap_or_default()
    }

    /// Adds it to the fields.
    pub(super) fn push(self, fields: &mut Fields) -> Result<(), Fault> {
        for (name, value, unit) in [("rssi", self.rssi, "dBm"), ("snr", self.snr, "dB")] {
            if let Some(value) = value {
                fields.push(name, Value::Number(value), Some(unit))?;
            }
        }
        Ok(())
    }
}

impl Uplinks {
    const LEN_MAX: usize = 65_536;
    /// Frame counters start again where a device is reset without a new session.
    const COPIES_WITHIN: Duration = Duration::from_hours(1);

    /// The phenomenon time of an uplink, and its radio health where no earlier copy was heard better.
    pub(super) fn hear(&mut self, identity: Identity<'_>, time: Timestamp, radio: Radio) -> (Timestamp, Radio) {
        let Some(key) = identity.key() else { return (time, radio) };
        let new = Heard { time, rssi: radio.rssi };
        if let Some(heard) = self.heard.get_mut(&key) {
            if time.since(heard.time).max(heard.time.since(time)) > Self::COPIES_WITHIN {
                *heard = new;
                return (time, radio);
            }
            if heard.rssi > radio.rssi {
                return (heard.time, Radio::default());
            }
            heard.rssi = radio.rssi;
            return (heard.time, radio);
        }
        if self.order.len() >= Self::LEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.heard.remove(&oldest);
        }
        self.heard.insert(key, new);
        self.order.push_back(key);
        (time, radio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPLINK: Identity<'_> = Identity { device: "d", session: "s", counter: Some(7), payload: "p" };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000).unwrap()
    }

    fn radio(rssi: f64) -> Radio {
        Radio { rssi: Some(rssi), snr: None }
    }

    #[test]
    fn a_copy_has_the_time_of_the_first_and_yields_to_a_better_one() {
        let mut uplinks = Uplinks::default();
        assert_eq!(uplinks.hear(UPLINK, at(100), radio(-90.0)), (at(100), radio(-90.0)));
        assert_eq!(uplinks.hear(UPLINK, at(101), radio(-99.0)), (at(100), Radio::default()));
        assert_eq!(uplinks.hear(UPLINK, at(99), radio(-80.0)), (at(100), radio(-80.0)));
        assert_eq!(uplinks.hear(UPLINK, at(102), radio(-85.0)), (at(100), Radio::default()));
        assert_eq!(uplinks.hear(Identity { counter: Some(8), ..UPLINK }, at(102), radio(-85.0)), (at(102), radio(-85.0)));
        assert_eq!(uplinks.hear(UPLINK, at(9_000), radio(-99.0)), (at(9_000), radio(-99.0)), "the counter started again");
        let uncounted = Identity { counter: None, ..UPLINK };
        assert_eq!(uplinks.hear(uncounted, at(1), radio(-1.0)).0, at(1));
        assert_eq!(uplinks.hear(uncounted, at(2), radio(-1.0)).0, at(2));
    }

    #[test]
    fn the_oldest_uplinks_are_forgotten() {
        let mut uplinks = Uplinks::default();
        for counter in 0..=u64::try_from(Uplinks::LEN_MAX).unwrap() {
            uplinks.hear(Identity { counter: Some(counter), ..UPLINK }, at(0), Radio::default());
        }
        assert_eq!((uplinks.heard.len(), uplinks.order.len()), (Uplinks::LEN_MAX, Uplinks::LEN_MAX));
        assert_eq!(uplinks.hear(Identity { counter: Some(0), ..UPLINK }, at(1), Radio::default()).0, at(1));
    }

    #[test]
    fn the_strongest_gateway_tells_radio_health() {
        let gateways = serde_json::json!([{"rssi": -110, "snr": 9}, {"snr": 1}, {"rssi": -90, "snr": 2.5}, 7]);
        assert_eq!(Radio::best(Some(&gateways)), Radio { rssi: Some(-90.0), snr: Some(2.5) });
        assert_eq!(Radio::best(None), Radio::default());
    }
}
