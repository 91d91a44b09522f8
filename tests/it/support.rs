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
mod reader;
mod s3;
mod shortage;
mod state;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use broker::{Access, Broker};
pub(crate) use certificates::Certificates;
pub(crate) use conca::{Conca, Setup, conca_command};
pub(crate) use influxdb::InfluxDb;
pub(crate) use proxy::Proxy;
pub(crate) use publisher::{Load, Outgoing, Publisher};
pub(crate) use reader::{Look, TableReader};
pub(crate) use s3::{S3, TABLE};
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

/// What the script `build` of a folder beside the tests makes: `tests/run` says where that lies, else it is looked for or made.
pub(crate) fn built(variable: &str, folder: &'static str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    // One at a time: none is made twice.
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let made = || {
        if let Some(path) = std::env::var_os(variable) {
            return path.into();
        }
        let script = format!("{}/tests/{folder}/build", env!("CARGO_MANIFEST_DIR"));
        let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "tests/{folder}/build failed: {}", output.status);
        String::from_utf8(output.stdout).unwrap().trim().into()
    };
    built.entry(folder).or_insert_with(made).clone()
}

/// A program of `tests/python`, with the modules that it needs.
pub(crate) fn python(program: &str) -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", built("CONCA_PYTHON", "python")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(format!("{}/tests/python/{program}", env!("CARGO_MANIFEST_DIR")));
    command
}

/// Milliseconds since the epoch.
pub(crate) fn now_millis() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
