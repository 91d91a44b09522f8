//! Conca from outside: the shipped program between real servers, and what must hold however they fail.
//!
//! One binary, a module per feature. Servers and the program run on free ports and in temporary folders, so that tests
//! run beside each other; [`support`] has what they share.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that cannot go on fails, wherever it notices"
)]

mod alerts;
mod browser;
mod cli;
mod clocks;
mod crash_points;
mod end_to_end;
mod energy;
mod faults;
mod influxdb;
mod interface;
mod keep;
mod kills;
mod layering;
mod material;
mod model;
mod open_table;
mod overload;
mod quality;
mod registry;
mod repair;
mod s3;
mod schemas;
mod sending;
mod sql;
mod support;
mod units;
