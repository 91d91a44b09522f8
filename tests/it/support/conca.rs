//! The program as it is shipped: a configuration file, a process, signals, a log.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;
use toml::{Table, Value};

use super::process::Process;
use super::{Broker, Looks, eventually, wait_until};

/// The program's binary, deaf to the environment of whoever runs the tests.
pub(crate) fn conca_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conca"));
    for (name, _value) in std::env::vars_os() {
        if ["CONCA_", "AWS_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// A configuration and a data folder, for one life of the program or several.
pub(crate) struct Setup {
    folder: TempDir,
    config: Table,
    environment: Vec<(String, String)>,
    starts: AtomicU32,
    files: AtomicU32,
}

impl Setup {
    /// Defaults, and no source.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let setup = Self { folder, config: Table::new(), environment: Vec::new(), starts: AtomicU32::new(0), files: AtomicU32::new(0) };
        setup.set("node.data", data.to_str().unwrap()).set("api.listen", "127.0.0.1:0")
    }

    /// Defaults, and one source `city`.
    pub(crate) fn of(broker: &Broker) -> Self {
        Self::new().add_source("city", &broker.url())
    }

    pub(crate) fn add_source(mut self, name: &str, url: &str) -> Self {
        let source = Table::from_iter([("name".to_owned(), Value::from(name)), ("url".to_owned(), Value::from(url))]);
        let sources = self.section("ingest").entry("sources").or_insert_with(|| Value::Array(Vec::new()));
        sources.as_array_mut().unwrap().push(Value::Table(source));
        self
    }

    /// Sets a key such as `lake.flush_after`, or one of no section.
    pub(crate) fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        match key.split_once('.') {
            Some((section, key)) => self.section(section).insert(key.to_owned(), value.into()),
            None => self.config.insert(key.to_owned(), value.into()),
        };
        self
    }

    /// Sets a key of the last source.
    pub(crate) fn source(mut self, key: &str, value: impl Into<Value>) -> Self {
        let sources = self.section("ingest").get_mut("sources").and_then(Value::as_array_mut).expect("there is a source");
        sources.last_mut().and_then(Value::as_table_mut).unwrap().insert(key.to_owned(), value.into());
        self
    }

    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Puts a rules document in force.
    pub(crate) fn rules(self, rules: &serde_json::Value) -> Self {
        let path = self.folder.path().join("rules.json");
        std::fs::write(&path, serde_json::json!({ "rules": rules }).to_string()).unwrap();
        self.set("alerts.rules", path.to_str().unwrap())
    }

    /// Puts a catalogue in force: the built-in one and further properties.
    pub(crate) fn properties(self, further: &serde_json::Value) -> Self {
        let mut catalogue: serde_json::Value = serde_json::from_str(include_str!("../../../schemas/properties.json")).unwrap();
        catalogue.as_array_mut().unwrap().extend(further.as_array().unwrap().iter().cloned());
        let path = self.folder.path().join("properties.json");
        std::fs::write(&path, catalogue.to_string()).unwrap();
        self.set("city.properties", path.to_str().unwrap())
    }

    fn section(&mut self, name: &str) -> &mut Table {
        self.config.entry(name).or_insert_with(|| Value::Table(Table::new())).as_table_mut().unwrap()
    }

    /// The configuration as text.
    pub(crate) fn text(&self) -> String {
        toml::to_string(&self.config).unwrap()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The configuration as a file.
    pub(crate) fn file(&self) -> PathBuf {
        let (config, number) = (self.folder.path().join("conca.toml"), self.files.fetch_add(1, Ordering::Relaxed));
        // Whole at any moment: another thread's program may be reading it.
        let unfinished = config.with_extension(format!("{number}.part"));
        std::fs::write(&unfinished, self.text()).unwrap();
        std::fs::rename(unfinished, &config).unwrap();
        config
    }

    /// Looks at what the program keeps, beside it.
    pub(crate) fn looks(&self) -> Looks {
        Looks::at(&self.data())
    }

    /// Starts the program and waits until every source is ready.
    pub(crate) fn start(&self) -> Conca {
        let conca = self.start_unready();
        let sources = self.config["ingest"]["sources"].as_array().unwrap().len();
        wait_until("every source is ready", || conca.count("subscribed source=") == sources);
        conca
    }

    /// Starts the program and waits until its interface listens.
    pub(crate) fn start_unready(&self) -> Conca {
        let mut conca = self.spawn();
        conca.address = Some(eventually("the interface listens", || {
            assert!(conca.process.ended().is_none(), "the program ended: {}", conca.log());
            let log = conca.log();
            let (_before, after) = log.split_once("the interface listens address=")?;
            after.split_once('\n').map(|(address, _rest)| address.parse().unwrap())
        }));
        conca
    }

    /// Starts the program and waits for nothing.
    pub(crate) fn spawn(&self) -> Conca {
        let config = self.file();
        let log = self.folder.path().join(format!("log-{}", self.starts.fetch_add(1, Ordering::Relaxed)));
        let mut command = conca_command();
        command.args(["run", "--config"]).arg(&config).envs(self.environment.iter().map(|(name, value)| (name, value)));
        Conca { process: Process::start(&mut command, &log), address: None }
    }
}

/// The running program.
pub(crate) struct Conca {
    process: Process,
    address: Option<SocketAddr>,
}

impl Conca {
    /// Where the interface is: `http://` and its address.
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address.expect("it listens"))
    }

    /// Where PostgreSQL's protocol is spoken.
    pub(crate) fn postgres(&self) -> SocketAddr {
        let log = self.log();
        let (_before, after) = log.split_once("PostgreSQL's protocol listens address=").expect("it listens");
        after.split('\n').next().unwrap().parse().unwrap()
    }

    /// Asks the interface: HTTP status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.send("GET", path, "text/plain", "")
    }

    /// Sends a body to the interface.
    pub(crate) fn send(&self, method: &str, path: &str, content_type: &str, body: &str) -> (u16, String) {
        let address = format!("http://{}{path}", self.address.expect("it listens"));
        let request = reqwest::Client::new().request(method.parse().unwrap(), address);
        let answer = async {
            let answer = request.header("content-type", content_type).body(body.to_owned()).send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(answer)
    }

    /// Posts JSON to the interface: HTTP status and the answer.
    pub(crate) fn post_json(&self, path: &str, body: &serde_json::Value) -> (u16, serde_json::Value) {
        let address = format!("http://{}{path}", self.address.expect("it listens"));
        let request = reqwest::Client::new().post(address).header("content-type", "application/json").body(body.to_string());
        let answer = async {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        let (code, body) = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(answer);
        (code, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}")))
    }

    /// [`Conca::get`], the body as JSON.
    pub(crate) fn get_json(&self, path: &str) -> (u16, serde_json::Value) {
        let (code, body) = self.get(path);
        (code, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}")))
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// How often a text stands in the log.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    /// SIGKILL.
    pub(crate) fn kill(self) {
        self.process.kill();
    }

    /// SIGKILL; its whole log.
    pub(crate) fn killed(self) -> String {
        let log = self.process.log_file();
        self.process.kill();
        String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned()
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.process.signal("TERM");
    }

    /// Waits for its end: how it ended, and its whole log.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let status = self.process.wait();
        (status, self.log())
    }

    /// SIGTERM, and a good end.
    pub(crate) fn stop(self) {
        self.terminate();
        let (status, log) = self.wait();
        assert!(status.success(), "{status}: {log}");
    }

    /// The most memory that it ever had resident, in KiB.
    pub(crate) fn memory_peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(Path::new("/proc").join(self.process.id().to_string()).join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}
