//! Repair of the quarantine: messages tried again once their cause is mended, or given up with a reason.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::auth::Operator;
use super::body::JsonBody;
use super::formats;
use super::params::Params;
use super::problem::{BodyErrors, Errors, Kind, Problem, Violation};
use crate::model::{Message, Reason, Replay, Service, Settled, SourceName, Timestamp};
use crate::state::{Discard, QuarantineFilter, QuarantineOrder, QuarantineRow};

/// Messages that are looked up and under way at once.
const PAGE: usize = 100;

/// Messages of one request at most.
const MESSAGES_MAX: usize = 100_000;

/// Longest comment in characters.
const COMMENT_LEN_MAX: usize = 1_000;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(replay_quarantined)).routes(routes!(discard_quarantined))
}

/// Which quarantined messages: all that fit every criterion; at least one must be given.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
struct Selection {
    /// These.
    #[schema(example = json!([17, 18]))]
    ids: Option<Vec<i64>>,
    /// Those whose first fault has this reason.
    reason: Option<Reason>,
    /// Those of this source.
    source: Option<String>,
    /// Those whose topic begins like this.
    topic: Option<String>,
    /// Those received from then on.
    #[schema(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Those received before then.
    #[schema(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// Those with a larger number: `next` of a request that could not do all.
    after: Option<i64>,
}

impl Selection {
    fn filter(self) -> Result<QuarantineFilter, Problem> {
        let Self { ids, reason, source, topic, from, to, after } = self;
        if ids.is_none() && reason.is_none() && source.is_none() && topic.is_none() && from.is_none() && to.is_none() {
            return Err(invalid("", "at least one of ids, reason, source, topic, from and to is needed".to_owned()));
        }
        if ids.as_ref().is_some_and(|ids| ids.len() > MESSAGES_MAX) {
            return Err(invalid("ids", format!("must be at most {MESSAGES_MAX}")));
        }
        Ok(QuarantineFilter {
            reason: reason.map(|reason| reason.as_str().to_owned()),
            source,
            topic_prefix: topic,
            from,
            to,
            order: QuarantineOrder::OldestFirst { after: after.unwrap_or(0) },
            discarded: false,
            ids,
            limit: PAGE,
            payload_bytes_max: usize::MAX,
        })
    }
}

/// What became of the messages.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
struct Replayed {
    /// Messages that were tried again.
    #[serde(rename = "replayed")]
    tried: usize,
    /// Those of which everything is accepted now: they are no longer quarantined.
    accepted: usize,
    /// Those of which some is accepted; they stay, with what is wrong now.
    partly: usize,
    /// Those of which nothing is; they stay, with what is wrong now.
    rejected: usize,
    /// Those that somebody else had replayed or discarded meanwhile.
    gone: usize,
    /// Observations that were taken, those included that were stored before: they are duplicates.
    observations: usize,
    /// Where a further request goes on (`after`), if not everything could be done by this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
}

/// Tries quarantined messages again.
///
/// In the order of receipt, through the same decoding, mapping and normalisation as when they came, as they are now; the time of receipt stays.
/// What is accepted leaves the quarantine; what is refused again stays, with what is wrong now. The ledger follows: a
/// message is taken back from its line and counted anew. Doing it twice changes nothing. A request that takes too long
/// says in `next` where to go on. Needs the role operate.
#[utoipa::path(
    post, path = "/v1/quarantine/replay", tag = "intake", request_body = Selection,
    responses((status = 200, description = "What became of them", body = Replayed), BodyErrors, Errors)
)]
async fn replay_quarantined(
    State(shared): State<Shared>,
    Operator(_caller): Operator,
    params: Params,
    JsonBody(selection): JsonBody<Selection>,
) -> Result<Response, Problem> {
    params.none()?;
    if selection.reason == Some(Reason::RefusedByStore) {
        return Err(invalid(
            "reason",
            "the lake has what another store refuses, and nobody sent it so: mend that store, or discard it".to_owned(),
        ));
    }
    let mut filter = selection.filter()?;
    // Well before the request is cut off.
    let deadline = Instant::now() + shared.context.config.api.request_timeout.0 / 2;
    let mut done = Replayed::default();
    // What was refused again keeps its number; only what is there now is tried.
    loop {
        let page = filter.clone();
        let rows = shared.blocking(move |context| context.reader.quarantine(&page)).await?;
        let Some(last) = rows.last().map(|row| row.id) else { break };
        replay(&shared, rows, deadline, &mut done).await?;
        filter.order = QuarantineOrder::OldestFirst { after: last };
        if done.tried >= MESSAGES_MAX || Instant::now() >= deadline {
            done.next = Some(last);
            break;
        }
    }
    Ok(formats::json(&done))
}

/// Replays one page.
async fn replay(shared: &Shared, rows: Vec<QuarantineRow>, deadline: Instant, done: &mut Replayed) -> Result<(), Problem> {
    let timeout = shared.context.config.api.request_timeout.0 / 4;
    let late = || Problem::new(Kind::Busy, "intake takes no messages at the moment: what was not told of may still be replayed");
    let mut verdicts = Vec::with_capacity(rows.len());
    for row in rows {
        let replay = Replay { id: row.id, whole: row.whole, readings: row.readings };
        let handed_in = shared.context.door.hand_in(message(row)?, Some(replay));
        let handed_in = tokio::time::timeout_at(deadline + timeout, handed_in).await.map_err(|_elapsed| late())?;
        verdicts.push(handed_in.map_err(|closed| Problem::new(Kind::Stopping, closed.to_string()))?);
    }
    for verdict in verdicts {
        let verdict = tokio::time::timeout_at(deadline + timeout, verdict).await.map_err(|_elapsed| late())?;
        let verdict = verdict.map_err(|_gone| Problem::new(Kind::Stopping, "the program is stopping"))?;
        done.tried += usize::from(verdict.settled != Settled::Repeated);
        match verdict.settled {
            Settled::Accepted if verdict.faults.is_empty() => done.accepted += 1,
            Settled::Accepted => done.partly += 1,
            Settled::Rejected => done.rejected += 1,
            Settled::Repeated => done.gone += 1,
        }
        if verdict.settled == Settled::Accepted {
            done.observations += verdict.observations;
        }
    }
    Ok(())
}

fn message(row: QuarantineRow) -> Result<Message, Problem> {
    let source = SourceName::try_from(row.source.as_str()).map_err(|error| Problem::internal(&error))?;
    let (topic, payload) = (row.topic.into(), row.payload.into());
    // No sign of life: the device spoke then, not now.
    Ok(Message { source, topic, payload, received: row.received, service: Service::AtMostOnce, retained: true })
}

/// Which messages to give up, and why.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Discarding {
    /// Which.
    messages: Selection,
    /// Why they are not worth a replay.
    #[schema(example = "a test of the installer")]
    comment: String,
}

/// What was given up.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct DiscardedCount {
    /// Messages.
    discarded: usize,
}

/// Gives quarantined messages up, with a reason.
///
/// They are listed with `discarded=true` until their time is over, and are not replayed any more; the ledger goes on counting them as
/// quarantined. Needs the role operate.
#[utoipa::path(
    post, path = "/v1/quarantine/discard", tag = "intake", request_body = Discarding,
    responses((status = 200, description = "How many", body = DiscardedCount), BodyErrors, Errors)
)]
async fn discard_quarantined(
    State(shared): State<Shared>,
    Operator(caller): Operator,
    params: Params,
    JsonBody(discarding): JsonBody<Discarding>,
) -> Result<Response, Problem> {
    params.none()?;
    let Discarding { messages, comment } = discarding;
    let comment = comment.trim().to_owned();
    if comment.is_empty() || comment.chars().count() > COMMENT_LEN_MAX {
        return Err(invalid("comment", format!("must have 1 to {COMMENT_LEN_MAX} characters")));
    }
    let filter = QuarantineFilter { limit: MESSAGES_MAX, payload_bytes_max: 0, ..messages.filter()? };
    let discard = Discard { at: shared.context.clock.now(), by: caller.name, comment };
    let discarded = shared
        .blocking(move |context| {
            let ids: Vec<i64> = context.reader.quarantine(&filter)?.iter().map(|row| row.id).collect();
            context.database.turn().discard(&ids, &discard)
        })
        .await?;
    Ok(formats::json(&DiscardedCount { discarded }))
}

fn invalid(name: &str, problem: String) -> Problem {
    Problem::invalid(Kind::InvalidBody, vec![Violation { r#in: "body", name: name.to_owned(), problem }])
}
