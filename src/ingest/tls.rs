//! TLS towards a broker: rustls with ring.

use std::path::Path;
use std::sync::Arc;

use rumqttc::TlsConfiguration;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::{IngestError, Tls};

/// The configuration of a source's TLS.
pub(super) fn configuration(tls: &Tls) -> Result<TlsConfiguration, IngestError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &tls.ca_file {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| problem(path, &error.to_string()))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots);
    let config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| problem(key, &error.to_string()))?;
            builder.with_client_auth_cert(certificates(certificate)?, private).map_err(|error| problem(certificate, &error.to_string()))?
        }
    };
    Ok(TlsConfiguration::Rustls(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IngestError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| problem(path, &error.to_string()))?;
    if found.is_empty() { Err(problem(path, "holds no certificate")) } else { Ok(found) }
}

fn problem(path: &Path, problem: &str) -> IngestError {
    IngestError::Tls { path: path.to_owned(), problem: problem.to_owned() }
}
