//! Who calls, and what they may do.
//!
//! - **Without tokens** whoever is on this machine may do everything: the configuration allows that on loopback only. A web
//!   page in this machine's browser must not be "whoever": the `Host` must be a loopback name or address, so that no page
//!   can point a name of its own at us (DNS rebinding), and what changes something must be a `PUT` or `DELETE`, or declare its
//!   body as JSON, CSV or SQL: a page of another origin cannot send these without asking first (CSRF).
//! - **With tokens** every request brings one: `Authorization: Bearer …` or `Token …`. Only hashes are compared.
//!
//! Roles grow: write, read, operate, admin. Every address needs read, except what [`is_open`] lists and what takes a
//! [`Sender`], which is write, operate or admin; an endpoint that needs more takes [`Operator`] or [`Administrator`].

use std::net::{IpAddr, SocketAddr};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri, header};

use super::Shared;
use super::problem::{Kind, Problem};
use crate::config::{self, Role};

/// Who calls. Set by the guard, for every address that is not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The name that stands beside what they do.
    pub(crate) name: String,
    /// What they may do.
    pub(crate) role: Role,
}

/// Somebody who may send observations.
#[derive(Clone, Debug)]
pub(crate) struct Sender;

/// Somebody who may look after alerts.
#[derive(Clone, Debug)]
pub(crate) struct Operator(pub(crate) Caller);

/// Somebody who may change rules and settings.
#[derive(Clone, Debug)]
pub(crate) struct Administrator(pub(crate) Caller);

/// The name of whoever is on this machine, where there are no tokens.
const LOCAL: &str = "local";

/// Refuses a reader's address to somebody who may only send.
pub(super) fn check_role(caller: &Caller, path: &str) -> Result<(), Problem> {
    if caller.role == Role::Write && !is_open(path) && !super::sending::is_sending(path) {
        return Err(Problem::new(Kind::Forbidden, format!("{:?} has not the role read", caller.name)));
    }
    Ok(())
}

/// What needs no token.
pub(super) fn is_open(path: &str) -> bool {
    const DOCUMENTS: [&str; 4] = ["/", "/health", "/openapi.json", "/docs"];
    DOCUMENTS.contains(&path) || path.starts_with("/docs/") || path.starts_with("/problems/")
}

/// Who sends a request. People who sign in will be found here, by their session, before tokens are looked at.
pub(super) fn identify(api: &config::Api, headers: &HeaderMap) -> Result<Caller, Problem> {
    if api.tokens.is_empty() {
        return Ok(Caller { name: LOCAL.to_owned(), role: Role::Admin });
    }
    let Some(sent) = headers.get(header::AUTHORIZATION) else {
        return Err(Problem::new(Kind::Unauthenticated, "no token was sent").challenge("Bearer realm=\"conca\""));
    };
    let sent = sent.to_str().ok().and_then(bearer);
    // All of them are compared, whichever fits.
    let matching = sent.map(|sent| api.tokens.iter().filter(|token| token.sha256.matches(sent)).collect::<Vec<_>>());
    match matching.as_deref() {
        Some([token, ..]) => Ok(Caller { name: token.name.clone(), role: token.role }),
        _ => {
            Err(Problem::new(Kind::Unauthenticated, "the token is not known").challenge("Bearer realm=\"conca\", error=\"invalid_token\""))
        }
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    // InfluxDB's clients say `Token`.
    ["bearer", "token"].iter().any(|known| scheme.eq_ignore_ascii_case(known)).then(|| token.trim())
}

/// Refuses what a web page of somebody else could make this machine's browser send, where there are no tokens to tell.
pub(super) fn check_origin(api: &config::Api, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    if !api.tokens.is_empty() {
        return Ok(());
    }
    // HTTP/2 has the host in the address (RFC 9113, 8.3.1).
    let host = uri.authority().map(axum::http::uri::Authority::as_str).or_else(|| headers.get(header::HOST)?.to_str().ok());
    if !host.is_some_and(|host| is_ours(host, api.listen)) {
        return Err(Problem::new(Kind::Misdirected, "the header Host names neither this machine nor the address that is listened on"));
    }
    // Devices send what they have. A browser says where its page comes from (Fetch, 3.2).
    let is_page = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
    let is_free = super::sending::is_sending(uri.path()) && !is_page;
    let is_declared = super::body::is_json(headers) || super::body::is_csv(headers) || super::body::is_sql(headers);
    let asks_first = matches!(*method, Method::PUT | Method::DELETE) || is_declared;
    if !method.is_safe() && !is_free && !asks_first {
        return Err(Problem::new(
            Kind::UnsupportedMediaType,
            "what changes something must be declared as application/json, application/sql or text/csv",
        ));
    }
    Ok(())
}

fn is_ours(host: &str, listen: SocketAddr) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback() || address == listen.ip())
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _shared: &Shared) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Problem::unexpected("an endpoint asks who calls, but is open to everybody"))
    }
}

impl Caller {
    fn with(self, role: Role, word: &str) -> Result<Self, Problem> {
        if self.role >= role { Ok(self) } else { Err(Problem::new(Kind::Forbidden, format!("{:?} has not the role {word}", self.name))) }
    }
}

impl FromRequestParts<Shared> for Sender {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, shared).await?;
        if caller.role == Role::Write { Ok(Self) } else { caller.with(Role::Operate, "write").map(|_caller| Self) }
    }
}

impl FromRequestParts<Shared> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, shared).await?;
        Ok(Self(caller.with(Role::Operate, "operate")?))
    }
}

impl FromRequestParts<Shared> for Administrator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, shared).await?;
        Ok(Self(caller.with(Role::Admin, "admin")?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_ours() {
        let listen: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        for ours in ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "127.1.2.3", "[::1]:8080", "localhost."] {
            assert!(is_ours(ours, listen), "{ours}");
        }
        for foreign in [
            "",
            "conca.example",
            "localhost.evil.example:8080",
            "127.0.0.1.evil.example",
            "192.168.1.2:8080",
            "127.0.0.1:80:80x",
            "[::ffff:1.2.3.4]",
        ] {
            assert!(!is_ours(foreign, listen), "{foreign}");
        }
    }

    #[test]
    fn a_bearer_is_read_as_the_standard_says() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc"), Some("abc"));
        assert_eq!(bearer("Token abc"), Some("abc"));
        for other in ["abc", "Basic abc", ""] {
            assert_eq!(bearer(other), None);
        }
    }
}
