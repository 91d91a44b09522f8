//! Request bodies and paths, read strictly: media type, length, time, form.

use std::fmt::Display;
use std::io::Read as _;
use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use futures::StreamExt as _;
use serde::de::DeserializeOwned;

use super::Shared;
use super::problem::{Kind, Problem, Violation};

/// A JSON body as a text, not looked into.
#[derive(Clone, Debug)]
pub(crate) struct JsonText(pub(crate) String);

/// A body of any sort, unpacked where it says that it is packed (`Content-Encoding: gzip`).
#[derive(Clone, Debug)]
pub(crate) struct RawBody(pub(crate) Vec<u8>);
/// A body of many things, JSON or CSV, as a text.
#[derive(Clone, Debug)]
pub(crate) enum TableText {
    Json(String),
    Csv(String),
}

/// A JSON body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

/// The one variable part of a path, `{id}` for instance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathId<T>(pub(crate) T);

/// Whether the body is declared as JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    is_declared(headers, "application/json")
}

/// Whether the body is declared as CSV.
pub(super) fn is_csv(headers: &HeaderMap) -> bool {
    is_declared(headers, "text/csv")
}

/// Whether the body is declared as SQL (RFC 6922).
pub(super) fn is_sql(headers: &HeaderMap) -> bool {
    is_declared(headers, "application/sql")
}

/// An SQL body as a text.
pub(super) async fn sql_text(request: Request, shared: &Shared) -> Result<String, Problem> {
    if !is_sql(request.headers()) {
        return Err(Problem::new(Kind::UnsupportedMediaType, "the content type must be application/sql or application/json"));
    }
    text(request, shared).await
}

fn is_declared(headers: &HeaderMap, media_type: &str) -> bool {
    let declared = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    declared.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(media_type)
}

impl FromRequest<Shared> for JsonText {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(Kind::UnsupportedMediaType, "the content type must be application/json"));
        }
        text(request, shared).await.map(Self)
    }
}

impl FromRequest<Shared> for RawBody {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Problem> {
        let api = &shared.context.config.api;
        let coding = request.headers().get(header::CONTENT_ENCODING).map(|value| value.as_bytes().to_ascii_lowercase());
        let bytes = tokio::time::timeout(api.request_timeout.0, read(request, api.body_bytes_max)).await;
        let bytes = bytes.map_err(|_elapsed| Problem::new(Kind::RequestTimeout, "the body did not arrive in time"))??;
        match coding.as_deref() {
            None | Some(b"identity") => Ok(Self(bytes)),
            Some(b"gzip" | b"x-gzip") => {
                // Unpacked, a small body can be a very large one.
                let bytes_max = api.body_bytes_max;
                let mut unpacked = Vec::new();
                let mut reader = flate2::read::MultiGzDecoder::new(bytes.as_slice()).take(bytes_max as u64 + 1);
                reader.read_to_end(&mut unpacked).map_err(|error| invalid(format!("not gzip: {error}")))?;
                if unpacked.len() > bytes_max {
                    return Err(Problem::new(Kind::BodyTooLarge, format!("at most {bytes_max} bytes are allowed, unpacked too")));
                }
                Ok(Self(unpacked))
            }
            Some(_other) => Err(Problem::new(Kind::UnsupportedMediaType, "the content encoding must be gzip or identity")),
        }
    }
}

impl FromRequest<Shared> for TableText {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Problem> {
        let kind = match (is_json(request.headers()), is_csv(request.headers())) {
            (true, _) => Self::Json,
            (_, true) => Self::Csv,
            _ => return Err(Problem::new(Kind::UnsupportedMediaType, "the content type must be application/json or text/csv")),
        };
        text(request, shared).await.map(kind)
    }
}

async fn text(request: Request, shared: &Shared) -> Result<String, Problem> {
    let api = &shared.context.config.api;
    let bytes = tokio::time::timeout(api.request_timeout.0, read(request, api.body_bytes_max)).await;
    let bytes = bytes.map_err(|_elapsed| Problem::new(Kind::RequestTimeout, "the body did not arrive in time"))??;
    String::from_utf8(bytes).map_err(|error| invalid(format!("not UTF-8: {error}")))
}

async fn read(request: Request, bytes_max: usize) -> Result<Vec<u8>, Problem> {
    let too_large = || Problem::new(Kind::BodyTooLarge, format!("at most {bytes_max} bytes are allowed"));
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large());
    }
    let mut body = request.into_body().into_data_stream();
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await {
        let piece: Bytes = piece.map_err(|error| invalid(format!("it broke off: {error}")))?;
        if bytes.len() + piece.len() > bytes_max {
            return Err(too_large());
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

impl<T: DeserializeOwned> FromRequest<Shared> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Problem> {
        let JsonText(text) = JsonText::from_request(request, shared).await?;
        serde_json::from_str(&text).map(Self).map_err(|error| invalid(error.to_string()))
    }
}

fn invalid(problem: String) -> Problem {
    Problem::invalid(Kind::InvalidBody, vec![Violation { r#in: "body", name: String::new(), problem }])
}

impl<T: FromStr<Err: Display> + Send> FromRequestParts<Shared> for PathId<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        let refuse =
            |problem: String| Problem::invalid(Kind::InvalidParameters, vec![Violation { r#in: "path", name: "id".to_owned(), problem }]);
        let Path(text) = Path::<String>::from_request_parts(parts, shared).await.map_err(|error| refuse(error.body_text()))?;
        text.parse().map(Self).map_err(|error: T::Err| refuse(format!("{:?}: {error}", super::params::shorten(&text))))
    }
}
