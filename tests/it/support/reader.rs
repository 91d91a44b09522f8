//! Programs that read the open tables and share no code with this one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::process::Process;
use super::{built, python};

/// A program that reads Delta tables.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TableReader {
    /// Delta Kernel for Java.
    DeltaKernel,
    /// `DuckDB` with its extension for Delta tables.
    DuckDb,
}

/// What a program saw in one version of a table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Look {
    pub(crate) rows: u64,
    /// How many of them differ in property, device or time.
    pub(crate) identities: u64,
    /// Of the values, by property.
    pub(crate) sums: BTreeMap<String, f64>,
}

/// A reader that looks again and again.
pub(crate) struct Looking(Process);

impl TableReader {
    pub(crate) const ALL: [Self; 2] = [Self::DeltaKernel, Self::DuckDb];

    fn command(self, table: &str, looks: u64) -> Command {
        let tests = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"));
        let mut command = match self {
            Self::DeltaKernel => {
                let mut command = Command::new("java");
                command.arg("-cp").arg(built("CONCA_DELTA_KERNEL", "delta-kernel").join("*"));
                command.arg(tests.join("delta-kernel/TableReader.java"));
                command
            }
            Self::DuckDb => python("table_reader.py"),
        };
        command.arg(table).arg(looks.to_string());
        command
    }

    /// One look at a table now, with that in the environment.
    #[track_caller]
    pub(crate) fn look(self, table: &str, environment: &[(&str, String)]) -> Look {
        let mut command = self.command(table, 1);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{self:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        looks(&text).pop().unwrap_or_else(|| panic!("{self:?} saw nothing: {text}"))
    }

    /// Looks at a table until it is told to stop.
    pub(crate) fn start(self, table: &str, log: &Path) -> Looking {
        Looking(Process::start(&mut self.command(table, u64::from(u32::MAX)), log))
    }
}

impl Looking {
    /// What it has seen so far; it must not have failed.
    #[track_caller]
    pub(crate) fn seen(&mut self) -> Vec<Look> {
        assert!(self.0.ended().is_none(), "the reader ended: {}", self.0.log());
        looks(&self.0.log())
    }
}

/// The looks among the lines of a reader; the last one may not be whole.
fn looks(text: &str) -> Vec<Look> {
    let (whole, _begun) = text.rsplit_once('\n').unwrap_or_default();
    whole.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
}
