//! TLS of the listeners: one certificate for all of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config;

/// What is in a file of the TLS configuration.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct TlsError {
    path: PathBuf,
    problem: String,
}

/// How a listener that speaks some protocols (names of RFC 7301) encrypts; `None` where no certificate is configured.
pub fn server_config(api: &config::Api, protocols: &[&str]) -> Result<Option<Arc<ServerConfig>>, TlsError> {
    let (Some(certificates), Some(key)) = (&api.certificate_file, &api.key_file) else { return Ok(None) };
    let problem = |path: &Path, problem: String| TlsError { path: path.to_owned(), problem };
    let chain = CertificateDer::pem_file_iter(certificates).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| problem(certificates, error.to_string()))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| problem(key, error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| problem(certificates, error.to_string()))?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(Some(Arc::new(config)))
}
