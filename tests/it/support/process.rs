//! A child process with its output in a file; gone when dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::eventually;

pub(super) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command; what it writes to standard output and error is appended to `log`.
    pub(super) fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap_or_else(|error| {
            panic!("cannot start {}: {error} (tests/run installs what is absent)", command.get_program().display())
        });
        Self { child, log: log.to_owned() }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// The file of its output.
    pub(super) fn log_file(&self) -> PathBuf {
        self.log.clone()
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// SIGKILL.
    pub(super) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by its name.
    pub(super) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status().unwrap();
        assert!(status.success(), "cannot send {name}");
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self) -> ExitStatus {
        let end = eventually("the process ends", || self.child.try_wait().unwrap());
        assert!(self.child.try_wait().unwrap().is_some());
        end
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone is just as well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
