//! InfluxDB 2 beside Conca, holding the same values as its users would write them.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use crate::process::{Process, free_port};

const TOKEN: &str = "a-token-of-the-benchmark";
const ORG: &str = "city";
/// The bucket.
pub(crate) const BUCKET: &str = "city";

/// A running server.
pub(crate) struct InfluxDb {
    pub(crate) process: Process,
    pub(crate) interface: Interface,
    engine: PathBuf,
}

/// Its HTTP interface.
#[derive(Clone)]
pub(crate) struct Interface {
    address: String,
    client: reqwest::Client,
}

impl InfluxDb {
    /// An empty server in a folder; `None` where `CONCA_INFLUXD` does not say which program to run.
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Option<Self>> {
        let Ok(program) = std::env::var("CONCA_INFLUXD") else { return Ok(None) };
        std::fs::create_dir_all(folder)?;
        let port = free_port()?;
        let engine = folder.join("engine");
        let mut command = Command::new(program);
        command.arg("run").arg("--bolt-path").arg(folder.join("bolt")).arg("--sqlite-path").arg(folder.join("sqlite"));
        command.arg("--engine-path").arg(&engine).args(["--reporting-disabled", "--log-level", "error"]);
        // Written out and compacted soon: else what was just loaded would lie in its log for minutes, in parts for hours.
        command.args(["--storage-cache-snapshot-write-cold-duration", "5s", "--storage-compact-full-write-cold-duration", "10s"]);
        command.args(["--http-bind-address", &format!("127.0.0.1:{port}"), "--http-read-timeout", "0"]);
        let process = Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot start influxd")?);
        let interface = Interface { address: format!("127.0.0.1:{port}"), client: reqwest::Client::new() };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(&interface.address).is_err() {
            anyhow::ensure!(Instant::now() < deadline, "InfluxDB does not listen on port {port}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let setup = json!({ "username": "bench", "password": "of-the-benchmark", "org": ORG, "bucket": BUCKET, "token": TOKEN });
        interface.post("/api/v2/setup", "application/json", setup.to_string()).await?;
        Ok(Some(Self { process, interface, engine }))
    }

    /// What its engine takes on disk, the write-ahead log included.
    pub(crate) fn bytes(&self) -> anyhow::Result<u64> {
        let mut folders = vec![self.engine.clone()];
        let mut bytes = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder)? {
                // Its own compaction removes files meanwhile.
                let Ok(entry) = entry else { continue };
                match entry.metadata() {
                    Ok(about) if about.is_dir() => folders.push(entry.path()),
                    Ok(about) => bytes += about.len(),
                    Err(_gone) => {}
                }
            }
        }
        Ok(bytes)
    }
}

impl Interface {
    /// Writes lines, times in seconds.
    pub(crate) async fn write(&self, lines: String) -> anyhow::Result<()> {
        self.post(&format!("/api/v2/write?org={ORG}&bucket={BUCKET}&precision=s"), "text/plain", lines).await.map(drop)
    }

    /// Asks in Flux; the answer's CSV, and how long it took until its last byte.
    pub(crate) async fn ask(&self, question: &str) -> anyhow::Result<(String, Duration)> {
        let started = Instant::now();
        let body = self.post(&format!("/api/v2/query?org={ORG}"), "application/vnd.flux", question.to_owned()).await?;
        Ok((body, started.elapsed()))
    }

    async fn post(&self, path: &str, content_type: &str, body: String) -> anyhow::Result<String> {
        let request = self.client.post(format!("http://{}{path}", self.address)).header("authorization", format!("Token {TOKEN}"));
        let answer = request.header("content-type", content_type).body(body).send().await?;
        let status = answer.status();
        let body = answer.text().await?;
        anyhow::ensure!(status.is_success(), "{path}: {status}: {body}");
        // Flux's errors after the first row stand in the answer.
        anyhow::ensure!(!body.contains("#datatype,string,string\r\n#group,true,true\r\n#default,,\r\n,error,reference"), "{path}: {body}");
        Ok(body)
    }
}
