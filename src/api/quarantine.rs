//! Messages of which something was refused: what they were, what was wrong with them, and where.

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::body::PathId;
use super::formats::{self, Page};
use super::params::Params;
use super::problem::{Details, Errors, Problem};
use crate::model::{Reason, Timestamp};
use crate::state::{Discard, QuarantineFilter, QuarantineOrder, QuarantineRow};

/// So much of each payload is in lists.
const EXCERPT_BYTES: usize = 2_048;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(list_quarantined))
        .routes(routes!(count_quarantined))
        .routes(routes!(show_quarantined))
        .routes(routes!(download_quarantined))
}

/// What is wrong with a message or one of its readings.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
struct Fault {
    /// The sort of fault.
    #[schema(value_type = Reason, example = "invalid-value")]
    reason: String,
    /// Where: a JSON pointer into the payload, a byte, or empty for the whole.
    #[schema(example = "/readings/pm10/value")]
    at: String,
    /// What was found and what is expected.
    detail: String,
}

/// A quarantined message.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Quarantined {
    /// Its number; newer ones are higher.
    #[schema(example = 17)]
    id: i64,
    /// When it was received.
    #[schema(value_type = String, format = DateTime)]
    received: Timestamp,
    /// By which source.
    #[schema(example = "main")]
    source: String,
    /// On which topic.
    #[schema(example = "conca/v1/environment/air-station/a-1")]
    topic: String,
    /// Whether nothing of it is stored; else its other readings are.
    whole: bool,
    /// The first fault's reason.
    #[schema(value_type = Reason)]
    reason: String,
    /// Every fault.
    faults: Vec<Fault>,
    /// Readings of it that the ledger counts as quarantined.
    readings: i64,
    /// Who decided that it is not worth a replay, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    discarded: Option<Discarded>,
    /// The payload, where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_text: Option<String>,
    /// The payload in Base64, where it is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    /// Length of the whole payload.
    payload_bytes: u64,
    /// Whether the payload here is only its beginning.
    payload_is_cut: bool,
}

/// Who decided that a message is not worth a replay, and why.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Discarded {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Who.
    by: String,
    /// Why.
    comment: String,
}

/// A quarantined message with all of its payload.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct QuarantinedWhole {
    #[serde(flatten)]
    message: Quarantined,
    /// The payload, two hexadecimal digits a byte: what positions such as `byte 17` count in.
    payload_hex: String,
}

/// How many messages are quarantined for a reason.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct ReasonCount {
    #[schema(value_type = Reason)]
    reason: String,
    count: i64,
}

/// By reason.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct ReasonCounts {
    /// The most frequent first.
    reasons: Vec<ReasonCount>,
}

impl TryFrom<QuarantineRow> for Quarantined {
    type Error = Problem;

    fn try_from(row: QuarantineRow) -> Result<Self, Problem> {
        let faults = serde_json::from_str(&row.faults).map_err(|error| Problem::internal(&error))?;
        let payload_is_cut = (row.payload.len() as u64) < row.payload_bytes;
        let (payload_text, payload_base64) = match text(row.payload, payload_is_cut) {
            Ok(text) => (Some(text), None),
            Err(bytes) => (None, Some(STANDARD.encode(bytes))),
        };
        Ok(Self {
            id: row.id,
            received: row.received,
            source: row.source,
            topic: row.topic,
            whole: row.whole,
            reason: row.reason,
            faults,
            readings: row.readings,
            discarded: row.discarded.map(|Discard { at, by, comment }| Discarded { at, by, comment }),
            payload_text,
            payload_base64,
            payload_bytes: row.payload_bytes,
            payload_is_cut,
        })
    }
}

/// The bytes as text, if they are; a cut may have gone through a character, which is left out then.
fn text(bytes: Vec<u8>, is_cut: bool) -> Result<String, Vec<u8>> {
    String::from_utf8(bytes).or_else(|error| {
        let valid = error.utf8_error();
        let mut bytes = error.into_bytes();
        if !(is_cut && valid.error_len().is_none()) {
            return Err(bytes);
        }
        bytes.truncate(valid.valid_up_to());
        String::from_utf8(bytes).map_err(std::string::FromUtf8Error::into_bytes)
    })
}

/// Quarantined messages.
///
/// Newest first. A message is here when all or some of its readings were refused; the others are stored. Payloads are cut
/// to 2 KiB. Once the cause is mended, `/v1/quarantine/replay` tries it again.
#[utoipa::path(
    get, path = "/v1/quarantine", tag = "intake",
    params(
        ("reason" = Option<Reason>, Query, description = "Only those whose first fault has this reason", example = "invalid-value"),
        ("source" = Option<String>, Query, description = "Only those of this source", example = "main"),
        ("topic" = Option<String>, Query, description = "Only those whose topic begins like this", example = "conca/v1/environment/"),
        ("from" = Option<String>, Query, description = "Only those received from then on", example = "now-1h"),
        ("to" = Option<String>, Query, description = "Only those received before then", example = "now"),
        ("discarded" = Option<bool>, Query, description = "Those that were discarded instead of those that were not", example = false),
        ("limit" = Option<usize>, Query, description = "Messages of a page, at most 500. Default: 50", example = 50),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, description = "A page of messages", body = Page<Quarantined>), Errors)
)]
async fn list_quarantined(State(shared): State<Shared>, params: Params) -> Result<Response, Problem> {
    let filter = params.read(|query| {
        let reasons = Reason::ALL.map(|reason| (reason.as_str(), reason));
        QuarantineFilter {
            reason: query.word("reason", &reasons).map(|reason| reason.as_str().to_owned()),
            source: query.text("source"),
            topic_prefix: query.text("topic"),
            from: query.time("from"),
            to: query.time("to"),
            order: QuarantineOrder::NewestFirst { before: query.cursor() },
            discarded: query.flag("discarded").unwrap_or(false),
            ids: None,
            limit: query.limit(50, 500),
            payload_bytes_max: EXCERPT_BYTES,
        }
    })?;
    let limit = filter.limit;
    let rows = shared.blocking(move |context| context.reader.quarantine(&QuarantineFilter { limit: limit + 1, ..filter })).await?;
    let items = rows.into_iter().map(Quarantined::try_from).collect::<Result<_, _>>()?;
    Ok(formats::json(&Page::of(items, limit, |message: &Quarantined| message.id.to_string())))
}

/// How many messages are quarantined, by reason.
#[utoipa::path(get, path = "/v1/quarantine/reasons", tag = "intake", responses((status = 200, description = "All reasons there are", body = ReasonCounts), Errors))]
async fn count_quarantined(State(shared): State<Shared>, params: Params) -> Result<Response, Problem> {
    params.none()?;
    let counts = shared.blocking(|context| context.reader.quarantine_reasons()).await?;
    let reasons = counts.into_iter().map(|(reason, count)| ReasonCount { reason, count }).collect();
    Ok(formats::json(&ReasonCounts { reasons }))
}

async fn find(shared: &Shared, id: i64) -> Result<QuarantineRow, Problem> {
    let row = shared.blocking(move |context| context.reader.quarantined(id)).await?;
    row.ok_or_else(|| Problem::not_found("quarantined message", id))
}

/// One quarantined message, whole.
#[utoipa::path(
    get, path = "/v1/quarantine/{id}", tag = "intake",
    params(("id" = i64, Path, description = "The message's number", example = 17)),
    responses((status = 200, description = "The message", body = QuarantinedWhole), (status = 404, description = "There is none, or not any more", content_type = "application/problem+json", body = Details), Errors)
)]
async fn show_quarantined(State(shared): State<Shared>, PathId(id): PathId<i64>, params: Params) -> Result<Response, Problem> {
    params.none()?;
    let row = find(&shared, id).await?;
    let payload_hex = row.payload.iter().fold(String::with_capacity(row.payload.len() * 2), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes any text");
        hex
    });
    Ok(formats::json(&QuarantinedWhole { message: row.try_into()?, payload_hex }))
}

/// The payload of a quarantined message, as it was received.
#[utoipa::path(
    get, path = "/v1/quarantine/{id}/payload", tag = "intake",
    params(("id" = i64, Path, description = "The message's number", example = 17)),
    responses(
        (status = 200, description = "The bytes, to be saved", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 404, description = "There is none, or not any more", content_type = "application/problem+json", body = Details),
        Errors
    )
)]
async fn download_quarantined(State(shared): State<Shared>, PathId(id): PathId<i64>, params: Params) -> Result<Response, Problem> {
    params.none()?;
    let row = find(&shared, id).await?;
    // Whatever it is, a browser must not open it.
    let name =
        HeaderValue::from_str(&format!("attachment; filename=\"quarantine-{id}.bin\"")).map_err(|error| Problem::internal(&error))?;
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")), (header::CONTENT_DISPOSITION, name)];
    Ok((headers, row.payload).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_text_is_still_a_text() {
        assert_eq!(text(b"per\xc3".to_vec(), true), Ok("per".to_owned()));
        assert_eq!(text(b"per\xc3".to_vec(), false), Err(b"per\xc3".to_vec()));
        assert_eq!(text(b"\xff\xfe".to_vec(), true), Err(b"\xff\xfe".to_vec()));
        assert_eq!(text("però".into(), false), Ok("però".to_owned()));
    }
}
