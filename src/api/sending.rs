//! Observations over HTTP: what a device or a gateway posts goes the way of any message, and the answer comes once it is durable.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::auth::Sender;
use super::body::RawBody;
use super::formats;
use super::params::Params;
use super::problem::{BodyErrors, Details, Errors, Kind, Problem};
use crate::decode::{Decoder, Precision};
use crate::model::{DeviceKind, Fault, Message, Service, Settled, SourceName, Verdict};

/// Which payload family stands under which topics of the source of HTTP, and what its numbers of time are.
pub const SENDERS: &[(&str, Decoder, Precision)] = &[
    ("conca/v1/#", Decoder::V1, Precision::Nanoseconds),
    ("influx/ns/#", Decoder::InfluxLine, Precision::Nanoseconds),
    ("influx/us/#", Decoder::InfluxLine, Precision::Microseconds),
    ("influx/ms/#", Decoder::InfluxLine, Precision::Milliseconds),
    ("influx/s/#", Decoder::InfluxLine, Precision::Seconds),
    (NGSI, Decoder::Ngsi, Precision::Nanoseconds),
];

/// The topic of what context brokers notify of.
const NGSI: &str = "ngsi/notification";

/// Faults of one message that are told; all are in the quarantine.
const FAULTS_MAX: usize = 20;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(send_message)).routes(routes!(write_lines)).routes(routes!(notify))
}

/// Whether an address takes observations: of whom, and of which media type, is judged there.
pub(super) fn is_sending(path: &str) -> bool {
    ["/v1/messages", "/v1/ngsi/notifications", "/api/v2/write"].contains(&path)
}

/// What became of a message.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Receipt {
    /// Observations that were taken; those that were stored before are duplicates.
    #[schema(example = 2)]
    observations: usize,
    /// Why the rest was not, the first twenty; the message is in the quarantine then.
    faults: Vec<String>,
}

/// Sends a message of Conca's own form.
///
/// As over MQTT: `topic` is `conca/v1/<domain>/<kind>/<device>`, the body that of `payload-v1.json`. The answer comes once
/// the message is durable; without an answer, send it again: what was stored is a duplicate. Needs the role write,
/// operate or admin.
#[utoipa::path(
    post, path = "/v1/messages", tag = "intake",
    params(
        ("topic" = String, Query, description = "The topic", example = "conca/v1/environment/air-station/air-1"),
        ("source" = Option<String>, Query, description = "`import` counts it apart in the ledger: history from a file", example = "import"),
    ),
    request_body(content = String, content_type = "application/json"),
    responses(
        (status = 200, description = "It is durable, all or some of it", body = Receipt),
        (status = 422, description = "Nothing of it is accepted: it is in the quarantine", content_type = "application/problem+json", body = Details),
        BodyErrors, Errors
    )
)]
async fn send_message(State(shared): State<Shared>, _sender: Sender, params: Params, RawBody(body): RawBody) -> Result<Response, Problem> {
    let (topic, source) = params.read(|query| {
        query.require("topic");
        (query.text("topic").unwrap_or_default(), query.word("source", &[(SourceName::IMPORT, ())]))
    })?;
    let source = source.map_or_else(|| shared.context.config.ingest.http.name.clone(), |()| SourceName::import());
    let verdict = take_from(&shared, source, &topic, body).await?;
    if verdict.settled == Settled::Rejected {
        return Err(Problem::new(Kind::Refused, told(&verdict.faults).join("; ")));
    }
    Ok(formats::json(&Receipt { observations: verdict.observations, faults: told(&verdict.faults) }))
}

fn told(faults: &[Fault]) -> Vec<String> {
    faults.iter().take(FAULTS_MAX).map(ToString::to_string).collect()
}

/// Takes a message, and waits until it is durable.
pub(super) async fn take(shared: &Shared, topic: &str, payload: Vec<u8>) -> Result<Verdict, Problem> {
    take_from(shared, shared.context.config.ingest.http.name.clone(), topic, payload).await
}

async fn take_from(shared: &Shared, source: SourceName, topic: &str, payload: Vec<u8>) -> Result<Verdict, Problem> {
    let context = &shared.context;
    let message = Message {
        source,
        topic: topic.into(),
        payload: payload.into(),
        received: context.clock.now(),
        service: Service::AtMostOnce,
        retained: false,
    };
    let stopping = || Problem::new(Kind::Stopping, "the program is stopping");
    let settled = async {
        let verdict = context.door.hand_in(message, None).await.map_err(|_closed| stopping())?;
        verdict.await.map_err(|_gone| stopping())
    };
    let timeout: Duration = context.config.api.request_timeout.0;
    let busy = |_elapsed| Problem::new(Kind::Busy, "it could not be made durable in time; send it again");
    tokio::time::timeout(timeout, settled).await.map_err(busy)?
}

/// Takes a notification of a context broker.
///
/// Where a subscription of Orion or Orion-LD sends its entities, in any form of NGSI-v2 or NGSI-LD. 204 says that it is durable; what is
/// wrong with it is in the quarantine, and is no reason for the broker to give up the subscription. Needs the role write, operate or
/// admin.
#[utoipa::path(
    post, path = "/v1/ngsi/notifications", tag = "intake",
    request_body(content = String, content_type = "application/json"),
    responses((status = 204, description = "All of it is durable: stored, or in the quarantine"), BodyErrors, Errors)
)]
async fn notify(State(shared): State<Shared>, _sender: Sender, params: Params, RawBody(body): RawBody) -> Result<Response, Problem> {
    params.read(|_query| ())?;
    take(&shared, NGSI, body).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Why a write failed, as InfluxDB 2 says it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct WriteError {
    /// `invalid`: lines are wrong, the others are stored; sending it again does not help.
    #[schema(example = "invalid")]
    code: &'static str,
    /// Which lines, and why; all are in the quarantine.
    message: String,
}

/// Writes InfluxDB line protocol.
///
/// As InfluxDB 2 does, so that Telegraf and InfluxDB's clients write here unchanged: 204 once all of it is durable; 400 where
/// lines are wrong, with the others stored. Fields that no mapping knows are no fault: `/v1/unmapped` lists them. Needs
/// the role write, operate or admin; `Authorization: Token …` is understood.
#[utoipa::path(
    post, path = "/api/v2/write", tag = "intake",
    params(
        ("org" = Option<String>, Query, description = "Whatever clients send", example = "city"),
        ("bucket" = Option<String>, Query, description = "Part of the message's topic: letters, digits and _ - . :", example = "air"),
        ("precision" = Option<String>, Query, description = "What times are: ns, us, ms or s. Default: ns", example = "s"),
    ),
    request_body(content = String, content_type = "text/plain"),
    responses((status = 204, description = "All of it is durable"), (status = 400, description = "Some of it is wrong", body = WriteError), BodyErrors, Errors)
)]
async fn write_lines(State(shared): State<Shared>, _sender: Sender, params: Params, RawBody(body): RawBody) -> Result<Response, Problem> {
    let (precision, bucket) = params.read(|query| {
        query.text("org");
        query.text("orgID");
        let bucket = query.text("bucket").unwrap_or_else(|| "default".to_owned());
        let precision = query.word("precision", &[("ns", "ns"), ("us", "us"), ("ms", "ms"), ("s", "s")]).unwrap_or("ns");
        (precision, DeviceKind::from_foreign(&bucket))
    })?;
    let topic = format!("influx/{precision}/{bucket}");
    let ingest = &shared.context.config.ingest;
    let mut faults = Vec::new();
    for part in parts(body, ingest.payload_bytes_max, ingest.readings_max) {
        faults.extend(take(&shared, &topic, part).await?.faults);
    }
    if faults.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let message = format!("partial write: {}", told(&faults).join("; "));
    Ok((StatusCode::BAD_REQUEST, formats::json(&WriteError { code: "invalid", message })).into_response())
}

/// Lines in parts, each of which may be a message: of at most so many bytes and, since each reading has its `=`, readings. A
/// line that is longer stays whole, and is refused for it.
fn parts(body: Vec<u8>, bytes_max: usize, readings_max: usize) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut readings = 0;
    for line in lines(&body) {
        let of_line = line.split(|byte| *byte == b'=').skip(1).count().max(1);
        match parts.last_mut() {
            Some(part) if part.len() + line.len() <= bytes_max && readings + of_line <= readings_max => part.extend_from_slice(line),
            _ => {
                parts.push(line.to_vec());
                readings = 0;
            }
        }
        readings += of_line;
    }
    if parts.is_empty() { vec![body] } else { parts }
}

/// The lines of a body, each with its end. A line break inside a quoted text is none: texts stand in fields, behind the first blank
/// that is not escaped.
fn lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut is_escaped, mut is_in_fields, mut is_in_text) = (false, false, false);
    body.split_inclusive(move |byte| {
        let (was_escaped, was_in_text) = (std::mem::take(&mut is_escaped), is_in_text);
        match byte {
            b'\\' => is_escaped = !was_escaped,
            b' ' if !was_escaped => is_in_fields = true,
            b'"' if is_in_fields && !was_escaped => is_in_text = !is_in_text,
            b'\n' if !was_in_text => {
                is_in_fields = false;
                return true;
            }
            _ => {}
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn lines_are_parted_where_they_end() {
        let shown = |body: &str, bytes, readings| {
            let parts = parts(body.as_bytes().to_vec(), bytes, readings);
            parts.into_iter().map(|part| String::from_utf8(part).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(shown("a b=1\nc d=2\ne f=3", 12, 10), ["a b=1\nc d=2\n", "e f=3"]);
        assert_eq!(shown("a b=1,c=2\nd e=3\nf g=4\n", 100, 2), ["a b=1,c=2\n", "d e=3\nf g=4\n"]);
        assert_eq!(shown("a b=1\n", 3, 1), ["a b=1\n"]);
        assert_eq!(shown("", 3, 1), [""]);
        let text = "a,t=\"x b=\"one\ntwo \\\" three\"\n";
        assert_eq!(shown(&format!("{text}c d=1\n"), 10, 10), [text, "c d=1\n"]);
        assert_eq!(shown("a\\ \"b c=1\nd e=2\n", 10, 10), ["a\\ \"b c=1\n", "d e=2\n"]);
    }
}
