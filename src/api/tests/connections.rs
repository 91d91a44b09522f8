//! Connections: bounds, timeouts, TLS, the end.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::Town;
use crate::api::{ApiError, serve};

/// For localhost, from 2020 to 2120; made for these tests, and of no use for anything else.
const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBdzCCAR2gAwIBAgIUWNv2rb0Nyo3iZJwfPHR9LETNjhcwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAx
MDAwMDAwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARDG6pPJa44U+SP+l9akoUg32uxq/tBm9ONmc7HsGUUfJrJDwTGz5bQ
PfbE0N/EoVOPLx+Y9p/ArLYy0KdYOhYZo0swSTAaBgNVHREEEzARgglsb2NhbGhv
c3SHBH8AAAEwDAYDVR0TAQH/BAIwADAdBgNVHQ4EFgQUhrpCOjEUeSBbCNMAXQtd
0NQbmEUwCgYIKoZIzj0EAwIDSAAwRQIhAIQJMGvtdc/vZ5nMGE7SFoozLbaU7uaz
Dmdh2gqXikrAAiBsFHc2SZQYXOFqmQwE0Db7a5B1r8RN50JB8MWXFIGi7A==
-----END CERTIFICATE-----
";

const KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgCBciwecIqXGMbLhQ
3cEuOb04sxOtiX1ZwC4JFZvx6dahRANCAARDG6pPJa44U+SP+l9akoUg32uxq/tB
m9ONmc7HsGUUfJrJDwTGz5bQPfbE0N/EoVOPLx+Y9p/ArLYy0KdYOhYZ
-----END PRIVATE KEY-----
";

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// So long is waited for what must come.
const LONG: Duration = Duration::from_secs(10);

async fn served(town: &Town) -> (SocketAddr, JoinHandle<Result<(), ApiError>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = serve(listener, Arc::clone(&town.context)).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the test ends it, or awaits it")]
    let serving = tokio::spawn(serving);
    (address, serving)
}

async fn connect(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// What comes within a while; empty where nothing does.
async fn receive(stream: &mut TcpStream, within: Duration) -> String {
    let mut bytes = [0; 4_096];
    let read = tokio::time::timeout(within, stream.read(&mut bytes)).await;
    read.map_or_else(|_elapsed| String::new(), |read| String::from_utf8_lossy(&bytes[..read.unwrap()]).into_owned())
}

#[tokio::test]
async fn a_connection_too_many_waits_for_its_place() {
    let town = Town::new("[api]\nconnections_max = 1").await;
    let (address, _serving) = served(&town).await;
    let mut first = connect(address, HEALTH).await;
    assert!(receive(&mut first, LONG).await.starts_with("HTTP/1.1 200"));
    let mut second = connect(address, HEALTH).await;
    assert_eq!(receive(&mut second, Duration::from_millis(300)).await, "");
    drop(first);
    assert!(receive(&mut second, LONG).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn whoever_does_not_speak_is_left() {
    let town = Town::new("[api]\nrequest_timeout = \"100ms\"").await;
    let (address, _serving) = served(&town).await;
    for begun in ["", "GET /health HTTP/1.1\r\nHost: local", HEALTH] {
        let mut stream = connect(address, begun).await;
        let mut text = String::new();
        let read = tokio::time::timeout(LONG, stream.read_to_string(&mut text)).await;
        assert!(read.is_ok(), "{begun:?}: still open after {text:?}");
        assert_eq!(text.starts_with("HTTP/1.1 200"), begun == HEALTH, "{begun:?}: {text:?}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let town = Town::new("[api]\nrequest_timeout = \"100ms\"").await;
    let (address, _serving) = served(&town).await;
    let head = "PUT /v1/rules HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{";
    let mut stream = connect(address, head).await;
    let answer = receive(&mut stream, LONG).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("/problems/request-timeout"), "{answer}");
}

#[tokio::test]
async fn whoever_sends_too_much_hears_why() {
    let town = Town::new("[api]\nbody_bytes_max = 1024").await;
    let (address, _serving) = served(&town).await;
    for head in ["Content-Length: 3000000", "Transfer-Encoding: chunked"] {
        let head = format!("PUT /v1/rules HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{head}\r\n\r\n");
        let mut stream = connect(address, &head).await;
        let body = if head.contains("chunked") {
            format!("{:x}\r\n{}\r\n0\r\n\r\n", 3_000_000, "x".repeat(3_000_000))
        } else {
            "x".repeat(3_000_000)
        };
        stream.write_all(body.as_bytes()).await.unwrap();
        let answer = receive(&mut stream, LONG).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        stream.write_all(HEALTH.as_bytes()).await.unwrap();
        let answer = receive(&mut stream, LONG).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn the_end_comes_with_what_is_under_way() {
    let town = Town::new("").await;
    let (address, serving) = served(&town).await;
    let mut idle = connect(address, HEALTH).await;
    assert!(receive(&mut idle, LONG).await.starts_with("HTTP/1.1 200"));
    let mut live = connect(address, "GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(receive(&mut live, LONG).await.contains("text/event-stream"));
    town.context.stop.cancel();
    let mut rest = String::new();
    live.read_to_string(&mut rest).await.unwrap();
    // The last chunk says that it is whole.
    assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
    tokio::time::timeout(Duration::from_secs(3), serving).await.expect("no connection is left").unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn tls_is_spoken_where_it_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, CERTIFICATE).unwrap();
    std::fs::write(&key, KEY).unwrap();
    let town = Town::new(&format!("[api]\ncertificate_file = {certificate:?}\nkey_file = {key:?}")).await;
    let (address, _serving) = served(&town).await;
    let answer = tokio::task::spawn_blocking(move || {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut session = rustls::ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        let mut stream = rustls::Stream::new(&mut session, &mut socket);
        stream.write_all(HEALTH.as_bytes()).unwrap();
        let mut bytes = [0; 1_024];
        let read = stream.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    });
    assert!(answer.await.unwrap().starts_with("HTTP/1.1 200"));

    std::fs::write(&key, "nothing").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = serve(listener, Arc::clone(&town.context)).err().unwrap();
    assert!(refused.to_string().contains("key.pem"), "{refused}");
}
