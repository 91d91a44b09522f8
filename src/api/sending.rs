//! Observations over HTTP: what a device or a gateway posts goes the way of any message, and the answer comes once it is durable.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::auth::Sender;
use super::body::RawBody;
use super::formats;
use super::params::Params;
use super::problem::{BodyErrors, Details, Errors, Kind, Problem};
use crate::decode::Decoder;
use crate::model::{Fault, Message, Service, Settled, Verdict};

/// Which payload family stands under which topics of the source of HTTP.
pub const SENDERS: &[(&str, Decoder)] = &[("conca/v1/#", Decoder::V1)];

/// Faults of one message that are told; all are in the quarantine.
const FAULTS_MAX: usize = 20;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(send_message))
}

/// Whether an address takes observations: of whom, and of which media type, is judged there.
pub(super) fn is_sending(path: &str) -> bool {
    path == "/v1/messages"
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
    params(("topic" = String, Query, description = "The topic", example = "conca/v1/environment/air-station/air-1")),
    request_body(content = String, content_type = "application/json"),
    responses(
        (status = 200, description = "It is durable, all or some of it", body = Receipt),
        (status = 422, description = "Nothing of it is accepted: it is in the quarantine", content_type = "application/problem+json", body = Details),
        BodyErrors, Errors
    )
)]
async fn send_message(State(shared): State<Shared>, _sender: Sender, params: Params, RawBody(body): RawBody) -> Result<Response, Problem> {
    let topic = params.read(|query| {
        query.require("topic");
        query.text("topic").unwrap_or_default()
    })?;
    let verdict = take(&shared, &topic, body).await?;
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
    let context = &shared.context;
    let message = Message {
        source: context.config.ingest.http.name.clone(),
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
