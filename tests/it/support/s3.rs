//! A server that speaks S3's protocol, built from its Go module where it is not there yet.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::broker::free_address;
use super::process::Process;
use super::{Certificates, Setup, built, wait_until};

/// The user that the server knows.
const KEY: &str = "a-key-of-the-tests";
/// Its secret.
const SECRET: &str = "a-secret-of-the-tests";
/// The table's address.
pub(crate) const TABLE: &str = "s3://city/lake/observations";

/// A server with an empty bucket, for one life or several.
pub(crate) struct S3 {
    folder: TempDir,
    certificates: Option<Certificates>,
    address: SocketAddr,
    process: Option<Process>,
}

impl S3 {
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// Speaks TLS.
    pub(crate) fn start_encrypted() -> Self {
        Self::start_with(Some(Certificates::make()))
    }

    fn start_with(certificates: Option<Certificates>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("buckets/city")).unwrap();
        let mut server = Self { folder, certificates, address: free_address(), process: None };
        server.restart();
        server
    }

    /// Starts it, again if it ran before, and waits until it listens.
    pub(crate) fn restart(&mut self) {
        assert!(self.process.is_none(), "the server runs");
        let mut command = Command::new(built("CONCA_VERSITYGW", "versitygw"));
        // Attributes of files that not every file system has are in a folder of their own.
        let attributes = self.folder.path().join("attributes");
        std::fs::create_dir_all(&attributes).unwrap();
        command.args(["--access", KEY, "--secret", SECRET, "--quiet", "--keep-alive", "--port", &self.address.to_string()]);
        if let Some(certificates) = &self.certificates {
            command.arg("--cert").arg(&certificates.server).arg("--key").arg(&certificates.server_key);
        }
        command.args(["posix", "--sidecar"]).arg(attributes).arg(self.folder.path().join("buckets"));
        let mut process = Process::start(&mut command, &self.folder.path().join("log"));
        wait_until("the S3 server listens", || {
            assert!(process.ended().is_none(), "the S3 server ended: {}", process.log());
            TcpStream::connect(self.address).is_ok()
        });
        self.process = Some(process);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("the server runs").kill();
    }

    /// Sends a signal by its name: after `STOP` it takes connections and does not answer, until `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        self.process.as_ref().expect("the server runs").signal(name);
    }

    /// What programs that speak S3's protocol read from the environment.
    pub(crate) fn environment(&self) -> [(&'static str, String); 5] {
        let (scheme, trust) = match &self.certificates {
            Some(certificates) => ("https", ("SSL_CERT_FILE", certificates.authority.to_str().unwrap().to_owned())),
            None => ("http", ("AWS_ALLOW_HTTP", "true".to_owned())),
        };
        [
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL", format!("{scheme}://{}", self.address)),
            trust,
        ]
    }

    /// Makes its bucket the place of the program's table.
    pub(crate) fn holds(&self, setup: Setup) -> Setup {
        let setup = setup.set("lake.url", TABLE);
        self.environment().into_iter().fold(setup, |setup, (name, value)| setup.environment(name, &value))
    }

    /// The objects below a prefix whose names end so, as the server keeps them.
    pub(crate) fn objects(&self, prefix: &str, ending: &str) -> Vec<PathBuf> {
        fn walk(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
            // An empty folder is gone with its last object.
            let Ok(entries) = std::fs::read_dir(folder) else { return };
            for path in entries.flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    walk(&path, ending, found);
                } else if path.to_string_lossy().ends_with(ending) {
                    found.push(path);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.folder.path().join("buckets/city").join(prefix), ending, &mut found);
        found
    }
}
