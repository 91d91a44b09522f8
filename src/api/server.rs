//! Connections: as many as are allowed, none that stands still, TLS where it is configured, a graceful end.
//!
//! - When as many connections as are allowed are open, no more are accepted: they wait in the system's own queue.
//! - A connection on which nothing moves for longer than any answer takes is closed; so is one whose request head does not
//!   arrive in time.
//! - Once the program stops, no more are accepted, live streams end by themselves, and what is under way gets a moment.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll, ready};
use std::time::Duration;

use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{AddrListener, Address, Handle, Server};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::{ApiError, Context};

/// What is under way when the program stops gets so long.
const GRACE: Duration = Duration::from_secs(5);

/// Longest request head.
const HEAD_BYTES_MAX: usize = 65_536;

/// Headers of an HTTP/2 request, uncompressed.
const HEADERS_BYTES_MAX: u32 = 65_536;

/// Requests at once on one HTTP/2 connection.
const REQUESTS_MAX: u32 = 100;

/// Serves until the context's `stop`.
pub(super) fn serve(
    listener: TcpListener,
    context: Arc<Context>,
) -> Result<impl Future<Output = Result<(), ApiError>> + Send + 'static, ApiError> {
    let tls = crate::tls::server_config(&context.config.api, &["h2", "http/1.1"])?;
    Ok(async move {
        let (handle, stop) = (Handle::new(), context.stop.clone());
        let server = bounded(listener, &context).handle(handle.clone());
        let service = super::router(context).into_make_service();
        match tls {
            None => until(server.serve(service), handle, stop).await,
            Some(tls) => until(server.acceptor(RustlsAcceptor::new(RustlsConfig::from_config(tls))).serve(service), handle, stop).await,
        }
    })
}

fn bounded(listener: TcpListener, context: &Context) -> Server<Peer> {
    let api = &context.config.api;
    let answer_max = context.config.query.timeout.0.max(context.config.sql.timeout.0);
    let request_timeout = api.request_timeout.0;
    let bounded = Bounded {
        listener,
        places: Arc::new(Semaphore::new(api.connections_max)),
        // Nothing moves while a question is answered.
        idle_max: request_timeout + answer_max + GRACE,
    };
    let mut server = Server::from_listener(bounded).first_request_timeout(request_timeout).accept_error_handler(|peer, error| {
        if let Some(peer) = peer {
            tracing::debug!(?peer, %error, "a connection failed");
        } else {
            tracing::warn!(%error, "cannot accept a connection");
        }
    });
    let builder = server.http_builder();
    builder.http1().header_read_timeout(request_timeout).max_buf_size(HEAD_BYTES_MAX);
    builder.http2().max_concurrent_streams(REQUESTS_MAX).max_header_list_size(HEADERS_BYTES_MAX);
    server
}

/// Serving ends by itself once it is told to stop.
async fn until(serving: impl Future<Output = io::Result<()>>, handle: Handle<Peer>, stop: CancellationToken) -> Result<(), ApiError> {
    let tell = async {
        stop.cancelled().await;
        handle.graceful_shutdown(Some(GRACE));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = serving => ended.map_err(ApiError::Accept),
        () = tell => Ok(()),
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
struct Peer(#[expect(dead_code, reason = "shown by Debug")] SocketAddr);

/// Accepts a connection only when there is a place for it.
#[derive(Debug)]
struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    idle_max: Duration,
}

impl Address for Peer {
    type Stream = Connection;
    type Listener = Bounded;
}

impl AddrListener<Connection, Peer> for Bounded {
    async fn bind_to(_address: Peer) -> io::Result<Self> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    async fn accept_stream(&self) -> io::Result<(Connection, Peer)> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, address) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        let (moved, sleep) = (Instant::now(), Box::pin(tokio::time::sleep(self.idle_max)));
        Ok((Connection { stream, moved, sleep, idle_max: self.idle_max, _place: place }, Peer(address)))
    }

    fn get_local_addr(&self) -> io::Result<Peer> {
        self.listener.local_addr().map(Peer)
    }
}

/// A connection that must not stand still.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// When something was read or written last.
    moved: Instant,
    /// Not set anew for every byte: when it ends, `moved` tells whether that is too long ago.
    sleep: Pin<Box<Sleep>>,
    idle_max: Duration,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn watch<T>(&mut self, context: &mut Poller<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.moved = Instant::now();
            return polled;
        }
        loop {
            ready!(self.sleep.as_mut().poll(context));
            let end = self.moved + self.idle_max;
            if end <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.sleep.as_mut().reset(end);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Poller<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.watch(context, polled)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Poller<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, polled)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Poller<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Poller<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Poller<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
