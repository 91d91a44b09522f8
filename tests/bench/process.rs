//! Real processes under measurement: the broker and Conca, stopped by their pids.

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// A child that is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Process {
    /// Processor seconds of user and system so far.
    pub(crate) fn processor_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
        // After the name, which may hold anything, in parentheses; a tick is 10 ms.
        let fields: Vec<u64> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        fields.get(11).zip(fields.get(12)).map_or(0.0, |(user, system)| (user + system) as f64 / 100.0)
    }

    /// Most resident memory so far, in MiB.
    pub(crate) fn memory_peak_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) >> 10
    }

    /// From now on [`Self::memory_peak_mib`] is about what comes.
    pub(crate) fn forget_memory_peak(&self) -> anyhow::Result<()> {
        // proc(5): 5 resets the peak resident set size.
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.0.id()), "5")?)
    }

    /// Asks it to stop and waits.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let killed = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status()?;
        anyhow::ensure!(killed.success(), "cannot signal process {}", self.0.id());
        self.0.wait()?;
        Ok(())
    }
}

/// A port that is free now.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A running Mosquitto.
pub(crate) struct Mosquitto {
    pub(crate) process: Process,
    pub(crate) port: u16,
}

impl Mosquitto {
    /// Starts it in a folder, with these lines of configuration besides its listener.
    pub(crate) fn start(folder: &Path, lines: &str) -> anyhow::Result<Self> {
        let port = free_port()?;
        std::fs::create_dir_all(folder)?;
        let file = folder.join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\npersistence_location {}/\n{lines}\n",
            folder.display()
        );
        std::fs::write(&file, text)?;
        let child = Command::new("mosquitto").arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = Process(child.context("cannot start mosquitto")?);
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > deadline {
                bail!("mosquitto does not listen on port {port}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { process, port })
    }
}

/// A running Conca.
pub(crate) struct Conca {
    pub(crate) process: Process,
    pub(crate) address: String,
}

impl Conca {
    /// Starts it on a folder and a broker's port, with further configuration.
    pub(crate) fn start(folder: &Path, broker_port: u16, further: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let file = folder.join("conca.toml");
        let text = format!(
            "[node]\ndata = \"{}\"\n[api]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n\
             [[ingest.sources]]\nname = \"bench\"\nurl = \"mqtt://127.0.0.1:{broker_port}\"\n{further}",
            folder.join("data").display()
        );
        std::fs::write(&file, text)?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_conca")).arg("run").arg("--config").arg(&file).stderr(Stdio::piped()).spawn()?;
        let log = child.stderr.take().context("the log is piped")?;
        let process = Process(child);
        let mut lines = BufReader::new(log).lines();
        let address = loop {
            let line = lines.next().context("Conca ended before it listened")??;
            let entry: serde_json::Value = serde_json::from_str(&line).with_context(|| line.clone())?;
            let fields = entry.get("fields").cloned().unwrap_or_default();
            if fields.get("message").and_then(serde_json::Value::as_str) == Some("the interface listens") {
                break fields.get("address").and_then(serde_json::Value::as_str).context("an address is logged")?.to_owned();
            }
        };
        // Its log must not block it.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok).filter(|line| line.contains("\"WARN\"") || line.contains("\"ERROR\"")) {
                drop(crate::say(&format!("  conca: {line}")));
            }
        });
        Ok(Self { process, address })
    }

    /// Asks a question; the body, and how long it took until its last byte.
    pub(crate) async fn ask(&self, client: &reqwest::Client, path: &str) -> anyhow::Result<(String, Duration)> {
        let started = Instant::now();
        let answer = client.get(format!("http://{}{path}", self.address)).send().await?;
        let status = answer.status();
        let body = answer.text().await?;
        anyhow::ensure!(status.is_success(), "{path}: {status}: {body}");
        Ok((body, started.elapsed()))
    }

    /// The sum of a metric's samples, as `/metrics` has it, whose labels hold `labels`.
    pub(crate) async fn metric(&self, client: &reqwest::Client, name: &str, labels: &str) -> anyhow::Result<f64> {
        let (page, _elapsed) = self.ask(client, "/metrics").await?;
        let samples = page.lines().filter(|line| line.starts_with(name) && line.contains(labels)).filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            (rest.starts_with(' ') || rest.starts_with('{')).then(|| line.rsplit(' ').next()?.parse::<f64>().ok()).flatten()
        });
        Ok(samples.sum())
    }
}
