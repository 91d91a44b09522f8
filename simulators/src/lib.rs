//! Devices that Conca can be tried and measured with; they speak `schemas/` over MQTT.
//!
//! This crate never imports the service: payloads, topics and units are read from the same documents a second time, so
//! that one misreading cannot hide on both sides.
//!
//! |Module|Holds|
//! |---|---|
//! |[`fleet`]|a city: devices of every kind with believable values, history first and then live, with scripted incidents|
//! |[`load`]|a load generator that costs little, whose every value a test can compute again|
//! |[`replay`]|real data sets: a CSV file and a mapping file|
//! |[`catalogue`]|the observed properties of `schemas/properties.json`|
//! |[`noise`]|randomness as a pure function of (seed, name, index)|
//! |[`publisher`]|the MQTT session of `fleet` and `replay`|
//!
//! Everything is seeded: the same seed, device, property and time give the same value in every run, so that what is sent
//! a second time is a duplicate and not a correction.

pub mod catalogue;
#[cfg(test)]
mod fake_broker;
pub mod fleet;
pub mod load;
pub mod noise;
pub mod publisher;
pub mod replay;
