//! What every request passes on its way in, and every answer on its way out. From the outside:
//!
//! 1. counted and timed under its route's pattern;
//! 2. security headers, `no-store`, compression;
//! 3. an error goes out only after the rest of its request has come in;
//! 4. a panic becomes a problem, and so does what takes too long;
//! 5. the address is short, the host is ours, the caller is known.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use futures::{FutureExt as _, StreamExt as _, stream};
use parking_lot::Mutex;
use tower_http::compression::CompressionLayer;

use super::Shared;
use super::auth;
use super::problem::{Kind, Problem};
use crate::metrics::RouteLabels;

/// Longest address.
const ADDRESS_LEN_MAX: usize = 8_192;

/// How much longer than a question an answer may take to begin.
const MARGIN: Duration = Duration::from_secs(5);

/// So much of a refused body is still taken in.
const REST_BYTES_MAX: usize = 8 << 20;

/// And for so long.
const REST_TIME_MAX: Duration = Duration::from_secs(2);

/// Nothing may be loaded or framed, except where a page says otherwise.
const POLICY: &str = "default-src 'none'; frame-ancestors 'none'";

/// Puts all of it around the routes.
pub(super) fn around(router: Router<Shared>, shared: &Shared) -> Router<Shared> {
    router
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(shared.clone(), admit))
        .layer(middleware::from_fn_with_state(shared.clone(), contain))
        .layer(middleware::from_fn(take_in))
        .layer(CompressionLayer::new())
        .layer(middleware::from_fn(protect))
        .layer(middleware::from_fn_with_state(shared.clone(), account))
}

async fn no_route(uri: Uri) -> Problem {
    Problem::not_found("address", super::params::shorten(uri.path()))
}

/// The router adds `Allow`.
async fn no_method(method: Method) -> Problem {
    Problem::new(Kind::MethodNotAllowed, format!("there is no {} here", super::params::shorten(method.as_str())))
}

async fn admit(State(shared): State<Shared>, mut request: Request, next: Next) -> Response {
    let api = &shared.context.config.api;
    let uri = request.uri();
    let path_and_query = uri.path_and_query().map_or(0, |text| text.as_str().len());
    if path_and_query > ADDRESS_LEN_MAX {
        return Problem::new(Kind::AddressTooLong, format!("at most {ADDRESS_LEN_MAX} bytes are allowed")).into_response();
    }
    if let Err(problem) = auth::check_origin(api, request.method(), uri, request.headers()) {
        return problem.into_response();
    }
    match auth::identify(api, request.headers()) {
        Ok(caller) => {
            if let Err(problem) = auth::check_role(&caller, uri.path()) {
                return problem.into_response();
            }
            request.extensions_mut().insert(caller);
        }
        Err(_unknown) if auth::is_open(uri.path()) => {}
        Err(problem) => return problem.into_response(),
    }
    next.run(request).await
}

async fn contain(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let config = &shared.context.config;
    // The body arrives, then the question is asked.
    let longest = config.api.request_timeout.0 + config.query.timeout.0.max(config.sql.timeout.0) + MARGIN;
    match tokio::time::timeout(longest, AssertUnwindSafe(next.run(request)).catch_unwind()).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => Problem::unexpected(panic_text(panic.as_ref())).into_response(),
        Err(_elapsed) => Problem::new(Kind::Timeout, "").into_response(),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a text")
}

/// Takes in what is left of the body of a request that is refused. A body that is dropped before the answer is on its way
/// resets the stream (RFC 9113, 8.1) or the connection, and the client may never see why.
async fn take_in(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let body = Arc::new(Mutex::new(body.into_data_stream()));
    let lent = Arc::clone(&body);
    let lent = stream::poll_fn(move |context| lent.lock().poll_next_unpin(context));
    let response = next.run(Request::from_parts(parts, Body::from_stream(lent))).await;
    let status = response.status();
    if (status.is_client_error() || status.is_server_error()) && status != StatusCode::REQUEST_TIMEOUT {
        let mut rest = stream::poll_fn(move |context| body.lock().poll_next_unpin(context));
        let taken_in = tokio::time::timeout(REST_TIME_MAX, async {
            let mut bytes = 0;
            while let Some(Ok(piece)) = rest.next().await
                && bytes < REST_BYTES_MAX
            {
                bytes += piece.len();
            }
        });
        // Whether all of it came in or not: the answer goes out.
        drop(taken_in.await);
    }
    response
}

async fn protect(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut default = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    default(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    default(header::REFERRER_POLICY, "no-referrer");
    default(header::CONTENT_SECURITY_POLICY, POLICY);
    default(header::X_FRAME_OPTIONS, "DENY");
    default(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    default(header::CACHE_CONTROL, "no-store");
    response
}

async fn account(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let route = shared.patterns.of(request.uri().path()).to_owned();
    let method = request.method().clone();
    let started = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    let is_stream = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    let metrics = &shared.context.metrics;
    if !is_stream {
        metrics.request_seconds.observe(started.elapsed().as_secs_f64());
    }
    tracing::debug!(%method, route, status, elapsed = ?started.elapsed(), "answered");
    metrics.requests.get_or_create(&RouteLabels { route, status }).inc();
    response
}

/// The patterns of all routes, so that metrics have as many labels as there are routes.
#[derive(Debug)]
pub(super) struct Patterns(Vec<Pattern>);

#[derive(Debug)]
struct Pattern {
    text: String,
    /// Variable parts.
    variables: usize,
}

/// What no pattern fits.
const UNMATCHED: &str = "unmatched";

impl Patterns {
    pub(super) fn new<'a>(patterns: impl Iterator<Item = &'a String>) -> Self {
        let mut patterns: Vec<Pattern> =
            patterns.map(|text| Pattern { text: text.clone(), variables: text.matches('{').count() }).collect();
        // `/alerts/pending` goes before `/alerts/{id}`.
        patterns.sort_by_key(|pattern| pattern.variables);
        Self(patterns)
    }

    /// The pattern that a path fits.
    fn of(&self, path: &str) -> &str {
        if path.starts_with("/docs/") {
            return "/docs";
        }
        let fits = |pattern: &&Pattern| {
            let mut parts = path.split('/');
            pattern
                .text
                .split('/')
                .all(|wanted| parts.next().is_some_and(|part| wanted == part || (wanted.starts_with('{') && !part.is_empty())))
                && parts.next().is_none()
        };
        self.0.iter().find(fits).map_or(UNMATCHED, |pattern| &pattern.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_counted_under_its_pattern() {
        let patterns = ["/v1/alerts/{id}", "/v1/alerts", "/v1/alerts/pending", "/v1/alerts/{id}/clear"].map(str::to_owned);
        let patterns = Patterns::new(patterns.iter());
        for (path, pattern) in [
            ("/v1/alerts", "/v1/alerts"),
            ("/v1/alerts/pending", "/v1/alerts/pending"),
            ("/v1/alerts/a:b:1", "/v1/alerts/{id}"),
            ("/v1/alerts/a/clear", "/v1/alerts/{id}/clear"),
            ("/v1/alerts/", UNMATCHED),
            ("/v1/alerts/a/b", UNMATCHED),
            ("/", UNMATCHED),
            ("/docs/swagger-ui.css", "/docs"),
        ] {
            assert_eq!(patterns.of(path), pattern, "{path}");
        }
    }
}
