//! An authority, a server certificate for 127.0.0.1 and a client certificate, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

pub(crate) struct Certificates {
    _folder: TempDir,
    pub(crate) authority: PathBuf,
    pub(crate) server: PathBuf,
    pub(crate) server_key: PathBuf,
    pub(crate) client: PathBuf,
    pub(crate) client_key: PathBuf,
}

impl Certificates {
    pub(crate) fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (authority, authority_key) = (path("authority.pem"), path("authority.key"));
        issue(&authority, &authority_key, "/CN=test authority", &["basicConstraints=critical,CA:TRUE"], None);
        let signer = Some((authority.as_path(), authority_key.as_path()));
        let (server, server_key) = (path("server.pem"), path("server.key"));
        issue(&server, &server_key, "/CN=broker", &["subjectAltName=IP:127.0.0.1", "basicConstraints=CA:FALSE"], signer);
        let (client, client_key) = (path("client.pem"), path("client.key"));
        issue(&client, &client_key, "/CN=conca", &["basicConstraints=CA:FALSE"], signer);
        Self { _folder: folder, authority, server, server_key, client, client_key }
    }
}

fn issue(certificate: &Path, key: &Path, subject: &str, extensions: &[&str], signer: Option<(&Path, &Path)>) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", subject]);
    // The distribution's own configuration would add its extensions to ours.
    command.args(["-config", "/dev/null", "-keyout"]).arg(key).arg("-out").arg(certificate);
    for extension in extensions {
        command.args(["-addext", extension]);
    }
    if let Some((authority, authority_key)) = signer {
        command.arg("-CA").arg(authority).arg("-CAkey").arg(authority_key);
    }
    let output = command.output().expect("openssl is installed (tests/run installs what is absent)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
