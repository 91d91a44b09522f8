//! InfluxDB 2, built from its Go module where it is not there yet.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use super::broker::free_address;
use super::process::Process;
use super::{Setup, built, wait_until};

/// What the tests' program writes with.
pub(crate) const TOKEN: &str = "a-token-of-the-tests";
/// The organisation.
pub(crate) const ORG: &str = "city";

/// A server, for one life or several.
pub(crate) struct InfluxDb {
    folder: TempDir,
    address: SocketAddr,
    process: Option<Process>,
}

impl InfluxDb {
    /// An empty server with an organisation and a token.
    pub(crate) fn start() -> Self {
        let mut server = Self { folder: tempfile::tempdir().unwrap(), address: free_address(), process: None };
        server.restart();
        let setup = json!({ "username": "tests", "password": "of-the-tests", "org": ORG, "bucket": "other", "token": TOKEN });
        let (code, answer) = server.post("/api/v2/setup", "application/json", &setup.to_string());
        assert_eq!(code, 201, "{answer}");
        server
    }

    /// Starts it, again if it ran before, and waits until it answers.
    pub(crate) fn restart(&mut self) {
        assert!(self.process.is_none(), "InfluxDB runs");
        let path = |name: &str| self.folder.path().join(name);
        let mut command = Command::new(built("CONCA_INFLUXD", "influxd"));
        command.arg("run").arg("--bolt-path").arg(path("bolt")).arg("--sqlite-path").arg(path("sqlite"));
        command.arg("--engine-path").arg(path("engine")).args(["--reporting-disabled", "--log-level", "warn"]);
        command.args(["--http-bind-address", &self.address.to_string()]);
        let mut process = Process::start(&mut command, &path("log"));
        wait_until("InfluxDB answers", || {
            assert!(process.ended().is_none(), "InfluxDB ended: {}", process.log());
            TcpStream::connect(self.address).is_ok() && self.ask("GET", "/health", "text/plain", "").0 == 200
        });
        self.process = Some(process);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("InfluxDB runs").kill();
    }

    /// Makes it a store of the program beside the lake.
    pub(crate) fn follows(&self, setup: Setup) -> Setup {
        setup
            .set("stores", vec!["lake", "influxdb"])
            .set("influxdb.url", format!("http://{}", self.address))
            .set("influxdb.org", ORG)
            .set("influxdb.backoff_max", "1s")
            .environment("CONCA_INFLUXDB_TOKEN", TOKEN)
    }

    /// Asks in Flux: the answer's CSV.
    pub(crate) fn flux(&self, question: &str) -> String {
        let (code, answer) = self.post(&format!("/api/v2/query?org={ORG}"), "application/vnd.flux", question);
        assert_eq!(code, 200, "{answer}");
        answer
    }

    /// Writes lines, times in milliseconds.
    pub(crate) fn write(&self, bucket: &str, lines: &str) {
        let (code, answer) = self.post(&format!("/api/v2/write?org={ORG}&bucket={bucket}&precision=ms"), "text/plain", lines);
        assert_eq!(code, 204, "{answer}");
    }

    fn post(&self, path: &str, content_type: &str, body: &str) -> (u16, String) {
        self.ask("POST", path, content_type, body)
    }

    fn ask(&self, method: &str, path: &str, content_type: &str, body: &str) -> (u16, String) {
        let request = reqwest::Client::new().request(method.parse().unwrap(), format!("http://{}{path}", self.address));
        let request = request.header("authorization", format!("Token {TOKEN}")).header("content-type", content_type).body(body.to_owned());
        let answer = async {
            let Ok(answer) = request.send().await else { return (0, String::new()) };
            (answer.status().as_u16(), answer.text().await.unwrap_or_default())
        };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(answer)
    }
}
