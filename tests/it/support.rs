//! What the tests stand on: real servers on free ports, the real program, a publisher that knows what the broker
//! acknowledged, and looks at what the program keeps.
//!
//! Whatever is started here is stopped again by its process id, also when a test fails. Every folder is temporary, every
//! port free: tests run beside each other.

mod broker;
mod certificates;
mod conca;
mod influxdb;
mod process;
mod proxy;
mod publisher;
mod s3;
mod shortage;
mod state;

use std::time::{Duration, Instant};

pub(crate) use broker::{Access, Broker};
pub(crate) use certificates::Certificates;
pub(crate) use conca::{Conca, Setup, conca_command};
pub(crate) use influxdb::InfluxDb;
pub(crate) use proxy::Proxy;
pub(crate) use publisher::{Load, Outgoing, Publisher};
pub(crate) use s3::S3;
pub(crate) use shortage::Shortage;
pub(crate) use state::{Identity, Looks, Store};

/// Longer than anything here takes on two busy cores; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Asks again and again until there is an answer; fails where none comes in time.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || holds().then_some(()));
}

/// Milliseconds since the epoch.
pub(crate) fn now_millis() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
