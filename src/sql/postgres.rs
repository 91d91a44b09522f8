//! The protocol of PostgreSQL, version 3, for `psql`, Grafana, `DBeaver`, Metabase, pandas and every other of its clients.
//!
//! | file | holds |
//! |---|---|
//! | `login` | who connects, and how their statements are cancelled |
//! | `session` | statements: simple and prepared, `SET`, `SHOW`, transactions |
//! | `copy` | `COPY … TO STDOUT` |
//! | `cursor` | cursors that are declared in SQL |
//!
//! - A user is the name of a token of the interface with the role read or more, and the token the password, in clear text: where a
//!   certificate is configured, only over TLS. Without tokens, which the configuration allows on loopback only, everybody is let in.
//! - Every statement sees what there is when it begins, also inside a transaction: there is nothing to write, so `BEGIN` and `COMMIT` are
//!   acknowledged and change nothing.
//! - A statement ends with its time, a cancel request, or its client's connection.
//! - Left out: `COPY … FROM`, `LISTEN`.

mod copy;
mod cursor;
mod login;
mod session;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use datafusion_postgres::pgwire::api::PgWireServerHandlers;
use datafusion_postgres::pgwire::api::auth::StartupHandler;
use datafusion_postgres::pgwire::api::cancel::CancelHandler;
use datafusion_postgres::pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use datafusion_postgres::pgwire::tokio::{TlsAcceptor, process_socket};
use rustls::ServerConfig;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::login::{Login, Sessions};
use self::session::Statements;
use super::Engine;
use crate::config;

/// The protocol's name in TLS (RFC 7301).
pub const ALPN: &str = "postgresql";

/// How often it is looked whether a client is still there.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// After an accept that failed, for want of file descriptors for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who may come in, and how.
#[derive(Debug)]
pub struct Access {
    /// Users with their passwords; none lets everybody in.
    pub tokens: Vec<config::Token>,
    /// How connections are encrypted.
    pub tls: Option<Arc<ServerConfig>>,
    /// Connections at the same time; further ones wait.
    pub connections_max: usize,
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, engine: Arc<Engine>, access: Access, stop: CancellationToken) {
    let sessions = Arc::new(Sessions::default());
    let places = Arc::new(Semaphore::new(access.connections_max));
    let tls = access.tls.map(TlsAcceptor::from);
    let handlers = Arc::new(Handlers {
        statements: Arc::new(Statements::new(engine)),
        login: Arc::new(Login::new(access.tokens, tls.is_some(), Arc::clone(&sessions))),
        sessions,
    });
    let connections = TaskTracker::new();
    let accepting = async {
        loop {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (tls, handlers) = (tls.clone(), Arc::clone(&handlers));
                    let stop = stop.clone();
                    connections.spawn(async move {
                        let ended = stop.run_until_cancelled(connection(stream, tls, handlers)).await;
                        if let Some(Err(error)) = ended {
                            tracing::debug!(%peer, %error, "a connection of PostgreSQL's protocol failed");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of PostgreSQL's protocol");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accepting).await;
    connections.close();
    connections.wait().await;
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, handlers: Arc<Handlers>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // While a statement is under way nobody reads from the connection.
    let stream = stream.into_std()?;
    let watched = TcpStream::from_std(stream.try_clone()?)?;
    tokio::select! {
        ended = process_socket(TcpStream::from_std(stream)?, tls, handlers) => ended,
        gone = gone(&watched) => gone,
    }
}

/// Waits until the other end has closed the connection, whether what it sent before is read or not.
async fn gone(stream: &TcpStream) -> io::Result<()> {
    while !stream.ready(Interest::READABLE).await?.is_read_closed() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    // What it sent last, that it is about to close for instance, is still taken.
    tokio::time::sleep(LOOK_EVERY).await;
    Ok(())
}

/// What the protocol calls.
#[derive(Debug)]
struct Handlers {
    statements: Arc<Statements>,
    login: Arc<Login>,
    sessions: Arc<Sessions>,
}

impl PgWireServerHandlers for Handlers {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        Arc::clone(&self.statements)
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        Arc::clone(&self.statements)
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        Arc::clone(&self.login)
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        Arc::clone(&self.sessions)
    }
}
