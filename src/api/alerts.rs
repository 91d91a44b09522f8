//! Alerts: what is active, what was, what may become so; and what people do about them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{Caller, Operator};
use super::body::{JsonBody, PathId};
use super::formats::{self, Page};
use super::params::{Params, shorten};
use super::problem::{BodyErrors, Details, Errors, Kind, Problem, Violation};
use super::{Context, Shared};
use crate::alert::{Alert, ConditionRecord, DeskError, Evidence, Mark, RuleDocument, Severity, Standing, Status};
use crate::model::Timestamp;
use crate::state::AlertFilter;

/// Longest comment, in characters.
const COMMENT_LEN_MAX: usize = 2_000;

const SEVERITIES: [(&str, &str); 3] = [("info", "info"), ("warning", "warning"), ("critical", "critical")];

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(list_alerts))
        .routes(routes!(list_pending))
        .routes(routes!(show_alert))
        .routes(routes!(acknowledge_alert))
        .routes(routes!(clear_alert))
}

/// Where a page of alerts ends: when the last one became active, and its id.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cursor(Timestamp, String);

impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.0.micros(), self.1)
    }
}

impl FromStr for Cursor {
    type Err = fmt::Error;

    fn from_str(text: &str) -> Result<Self, fmt::Error> {
        let (micros, id) = text.split_once(':').ok_or(fmt::Error)?;
        let micros = micros.parse().map_err(|_not_a_number| fmt::Error)?;
        Ok(Self(Timestamp::from_micros(micros).map_err(|_outside| fmt::Error)?, id.to_owned()))
    }
}

/// What somebody says of what they do.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Remark {
    /// For whoever reads the alert later; at most 2,000 characters.
    #[serde(default)]
    #[schema(example = "street works until Friday")]
    comment: Option<String>,
}

/// A condition that holds, not long enough yet for an alert.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Pending {
    /// The rule's id.
    #[schema(example = "pm10-high")]
    rule: String,
    /// How bad its alert will be.
    severity: Severity,
    /// The device.
    #[schema(example = "a-1")]
    device: String,
    /// The device's district.
    district: Option<String>,
    /// The observation with which the condition began.
    first: Evidence,
    /// Phenomenon time of the newest observation that was considered.
    #[schema(value_type = String, format = DateTime)]
    considered: Timestamp,
    /// When it becomes an alert, if it goes on: phenomenon time.
    #[schema(value_type = String, format = DateTime)]
    due: Timestamp,
}

/// Conditions that hold, not long enough yet.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct PendingList {
    /// Those due first, first.
    items: Vec<Pending>,
}

/// Alerts.
///
/// Those that became active last come first.
#[utoipa::path(
    get, path = "/v1/alerts", tag = "alerts",
    params(
        ("status" = Option<String>, Query, description = "`active`, `cleared` or `all`. Default: `active`", example = "active"),
        ("severity" = Option<Vec<String>>, Query, description = "Only these: `info`, `warning`, `critical`", example = "warning,critical"),
        ("rule" = Option<Vec<String>>, Query, description = "Only of these rules", example = "pm10-high"),
        ("device" = Option<Vec<String>>, Query, description = "Only of these devices", example = "a-1"),
        ("district" = Option<Vec<String>>, Query, description = "Only of devices that were in these districts", example = "pa-c1"),
        ("acknowledged" = Option<bool>, Query, description = "Only those that somebody took notice of, or nobody", example = false),
        ("from" = Option<String>, Query, description = "Only those that became active from then on", example = "now-7d"),
        ("to" = Option<String>, Query, description = "Only those that became active before then", example = "now"),
        ("limit" = Option<usize>, Query, description = "Alerts of a page, at most 1,000. Default: 100", example = 100),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, description = "A page of alerts", body = Page<Alert>), Errors)
)]
async fn list_alerts(State(shared): State<Shared>, params: Params) -> Result<Response, Problem> {
    let (active, cleared) = (Status::Active.as_str(), Status::Cleared.as_str());
    let filter = params.read(|query| AlertFilter {
        status: query.word("status", &[(active, Some(active)), (cleared, Some(cleared)), ("all", None)]).unwrap_or(Some(active)),
        severities: query.words("severity", &SEVERITIES).into_iter().map(str::to_owned).collect(),
        rules: query.list("rule"),
        devices: query.list("device"),
        districts: query.list("district"),
        acknowledged: query.flag("acknowledged"),
        from: query.time("from"),
        to: query.time("to"),
        after: query.cursor().map(|Cursor(activated, id)| (activated, id)),
        limit: query.limit(100, 1_000),
    })?;
    let limit = filter.limit;
    let texts = shared.blocking(move |context| context.reader.alerts(&AlertFilter { limit: limit + 1, ..filter })).await?;
    let items = texts.iter().map(|text| parse(text)).collect::<Result<_, _>>()?;
    Ok(formats::json(&Page::of(items, limit, |alert: &Alert| Cursor(alert.activated, alert.id.clone()).to_string())))
}

fn parse(text: &str) -> Result<Alert, Problem> {
    serde_json::from_str(text).map_err(|error| DeskError::Damaged(error).into())
}

/// Conditions that hold, not long enough yet for an alert.
#[utoipa::path(get, path = "/v1/alerts/pending", tag = "alerts", responses((status = 200, description = "All of them", body = PendingList), Errors))]
async fn list_pending(State(context): State<Arc<Context>>, params: Params) -> Result<Response, Problem> {
    params.none()?;
    let rules = context.desk.rules();
    let mut items: Vec<Pending> = context.desk.pending().into_iter().filter_map(|record| Pending::of(record, &rules)).collect();
    items.sort_by(|one, other| (one.due, &one.rule, &one.device).cmp(&(other.due, &other.rule, &other.device)));
    Ok(formats::json(&PendingList { items }))
}

impl Pending {
    /// `None` where the condition is not pending, or its rule was taken away a moment ago.
    fn of(record: ConditionRecord, rules: &[RuleDocument]) -> Option<Self> {
        let Standing::Pending { first } = record.standing else { return None };
        let rule = rules.iter().find(|rule| rule.id == record.rule)?;
        Some(Self {
            severity: rule.severity,
            due: first.time.plus(rule.lasting.0),
            rule: record.rule,
            device: record.device.to_string(),
            district: record.district,
            first,
            considered: record.considered,
        })
    }
}

async fn find(shared: &Shared, id: String) -> Result<Alert, Problem> {
    let name = shorten(&id);
    let text = shared.blocking(move |context| context.reader.alert(&id)).await?;
    parse(&text.ok_or_else(|| Problem::not_found("alert", name))?)
}

/// One alert.
#[utoipa::path(
    get, path = "/v1/alerts/{id}", tag = "alerts",
    params(("id" = String, Path, description = "The alert's id", example = "pm10-high:a-1:1700000000000000")),
    responses((status = 200, description = "The alert", body = Alert), (status = 404, description = "There is none", content_type = "application/problem+json", body = Details), Errors)
)]
async fn show_alert(State(shared): State<Shared>, PathId(id): PathId<String>, params: Params) -> Result<Response, Problem> {
    params.none()?;
    Ok(formats::json(&find(&shared, id).await?))
}

/// Takes notice of an alert.
///
/// Whether it is active or not; the first notice stays. Needs the role operate.
#[utoipa::path(
    post, path = "/v1/alerts/{id}/acknowledge", tag = "alerts",
    params(("id" = String, Path, description = "The alert's id", example = "pm10-high:a-1:1700000000000000")),
    request_body = Remark,
    responses((status = 200, description = "The alert", body = Alert), (status = 404, description = "There is none", content_type = "application/problem+json", body = Details), BodyErrors,
        Errors)
)]
async fn acknowledge_alert(
    State(shared): State<Shared>,
    Operator(caller): Operator,
    PathId(id): PathId<String>,
    params: Params,
    JsonBody(remark): JsonBody<Remark>,
) -> Result<Response, Problem> {
    params.none()?;
    let mark = mark(&shared, caller, remark)?;
    let known = find(&shared, id.clone()).await?;
    if known.acknowledged.is_some() {
        return Ok(formats::json(&known));
    }
    let name = shorten(&id);
    let marked = shared.blocking(move |context| context.desk.acknowledge(&id, mark)).await?;
    Ok(formats::json(&marked.ok_or_else(|| Problem::not_found("alert", name))?))
}

/// Clears an active alert by hand.
///
/// It comes back only after its condition has ended. Needs the role operate.
#[utoipa::path(
    post, path = "/v1/alerts/{id}/clear", tag = "alerts",
    params(("id" = String, Path, description = "The alert's id", example = "pm10-high:a-1:1700000000000000")),
    request_body = Remark,
    responses(
        (status = 200, description = "The alert", body = Alert),
        (status = 404, description = "There is none", content_type = "application/problem+json", body = Details),
        (status = 409, description = "It is not active any more", content_type = "application/problem+json", body = Details),
        BodyErrors,
        Errors
    )
)]
async fn clear_alert(
    State(shared): State<Shared>,
    Operator(caller): Operator,
    PathId(id): PathId<String>,
    params: Params,
    JsonBody(remark): JsonBody<Remark>,
) -> Result<Response, Problem> {
    params.none()?;
    let mark = mark(&shared, caller, remark)?;
    let wanted = id.clone();
    let cleared = shared.blocking(move |context| context.desk.clear(&wanted, mark)).await?;
    if let Some(cleared) = cleared {
        return Ok(formats::json(&cleared));
    }
    find(&shared, id).await?;
    Err(Problem::new(Kind::Conflict, "the alert is not active any more"))
}

fn mark(shared: &Shared, caller: Caller, remark: Remark) -> Result<Mark, Problem> {
    let comment = remark.comment.map(|comment| comment.trim().to_owned()).filter(|comment| !comment.is_empty());
    if comment.as_ref().is_some_and(|comment| comment.chars().count() > COMMENT_LEN_MAX) {
        let problem = format!("must have at most {COMMENT_LEN_MAX} characters");
        return Err(Problem::invalid(Kind::InvalidBody, vec![Violation { r#in: "body", name: "comment".to_owned(), problem }]));
    }
    Ok(Mark { at: shared.context.clock.now(), by: caller.name, comment })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        let cursor = Cursor(Timestamp::from_micros(-5).unwrap(), "rule:urn:device:7:-5".to_owned());
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for wrong in ["", "5", "x:y", "9999999999999999999:a"] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
    }
}
