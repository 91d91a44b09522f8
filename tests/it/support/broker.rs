//! Mosquitto, as `README.md` configures it, on a port of its own.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;

use super::certificates::Certificates;
use super::process::Process;
use super::{eventually, wait_until};

/// Who may come in.
pub(crate) enum Access<'a> {
    /// Anybody.
    Open,
    /// User `conca` with this password; and user `publisher` with the password `publisher`.
    Password(&'a str),
    /// Anybody on the plain port; a client certificate on a second port.
    Certificate(&'a Certificates),
}

pub(crate) struct Broker {
    folder: TempDir,
    address: SocketAddr,
    secure: Option<SocketAddr>,
    process: Option<Process>,
}

impl Broker {
    pub(crate) fn start() -> Self {
        Self::start_for(&Access::Open)
    }

    pub(crate) fn start_for(access: &Access<'_>) -> Self {
        let mut broker = Self::prepare(access);
        broker.restart();
        broker
    }

    /// A broker that has its address, but does not run yet.
    pub(crate) fn prepare(access: &Access<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let secure = matches!(access, Access::Certificate(_)).then(free_address);
        let broker = Self { folder, address, secure, process: None };
        broker.configure(access);
        broker
    }

    /// Writes the configuration, which the next start reads, and the next [`Broker::reload`] in part.
    pub(crate) fn configure(&self, access: &Access<'_>) {
        let folder = self.folder.path().display();
        // Started by root, Mosquitto becomes another user, who may not write here.
        let mut text = format!(
            "user root\npersistence true\npersistence_location {folder}/\nautosave_interval 1\nmax_queued_messages 0\n\
             max_inflight_messages 0\nset_tcp_nodelay true\nsys_interval 1\nlog_dest stderr\nlog_type error\nlog_type warning\nlog_type notice\n\
             listener {} 127.0.0.1\n",
            self.address.port()
        );
        match access {
            Access::Open => text.push_str("allow_anonymous true\n"),
            Access::Password(password) => {
                let file = self.folder.path().join("passwords");
                for (index, (user, password)) in [("publisher", "publisher"), ("conca", password)].into_iter().enumerate() {
                    let mut command = Command::new("mosquitto_passwd");
                    command.args(if index == 0 { ["-b", "-c"].as_slice() } else { ["-b"].as_slice() });
                    assert!(command.arg(&file).args([user, password]).status().unwrap().success());
                }
                writeln!(text, "allow_anonymous false\npassword_file {}", file.display()).unwrap();
            }
            Access::Certificate(certificates) => {
                let port = self.secure.expect("prepared with a second port").port();
                let Certificates { authority, server, server_key, .. } = certificates;
                let (authority, server, key) = (authority.display(), server.display(), server_key.display());
                writeln!(
                    text,
                    "allow_anonymous true\nlistener {port} 127.0.0.1\nrequire_certificate true\ncafile {authority}\ncertfile {server}\nkeyfile {key}"
                )
                .unwrap();
            }
        }
        std::fs::write(self.configuration(), text).unwrap();
    }

    fn configuration(&self) -> PathBuf {
        self.folder.path().join("mosquitto.conf")
    }

    /// Starts it, again if it ran before, and waits until it listens.
    pub(crate) fn restart(&mut self) {
        assert!(self.process.is_none(), "the broker runs");
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(self.configuration()).env("PATH", path_with_sbin());
        let mut process = Process::start(&mut command, &self.folder.path().join("log"));
        wait_until("the broker listens", || {
            assert!(process.ended().is_none(), "the broker ended: {}", process.log());
            TcpStream::connect(self.address).is_ok()
        });
        self.process = Some(process);
    }

    /// SIGKILL: what it had not saved is gone.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("the broker runs").kill();
    }

    /// Makes it read its passwords again.
    pub(crate) fn reload(&self) {
        self.process.as_ref().expect("the broker runs").signal("HUP");
    }

    /// The plain port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// As a source's configuration has it.
    pub(crate) fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }

    /// The port with TLS.
    pub(crate) fn secure_url(&self) -> String {
        format!("mqtts://{}", self.secure.expect("prepared with a second port"))
    }

    /// What it has saved.
    pub(crate) fn database(&self) -> PathBuf {
        self.folder.path().join("mosquitto.db")
    }

    /// Waits until it has saved what it holds now.
    pub(crate) fn wait_until_saved(&self) {
        let written = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let before = written(&self.database());
        eventually("the broker saves", || written(&self.database()).filter(|now| Some(now) != before.as_ref()));
    }
}

/// An address of this machine that nobody uses: outside the range that outgoing connections take theirs from.
pub(super) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    // Other runs on this machine begin elsewhere.
    let offset = u16::try_from(std::process::id() * 97 % u32::from(COUNT)).unwrap();
    eventually("a port is free", || {
        let port = FIRST + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        TcpListener::bind(address).is_ok().then_some(address)
    })
}

/// Debian keeps Mosquitto where only root's path looks.
fn path_with_sbin() -> String {
    format!("{}:/usr/local/sbin:/usr/sbin", std::env::var("PATH").unwrap_or_default())
}
