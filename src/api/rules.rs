//! The rules in force, and how they are changed: always as a whole document.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Administrator;
use super::body::{JsonText, PathId};
use super::formats::{self, Page};
use super::params::Params;
use super::problem::{BodyErrors, Details, Errors, Problem};
use super::{Context, Shared};
use crate::alert::{self, RuleDocument};
use crate::model::Timestamp;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(show_rules, put_rules))
        .routes(routes!(list_rules_versions))
        .routes(routes!(show_rules_version))
        .routes(routes!(show_rules_schema))
}

/// All rules.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct RulesDocument {
    rules: Vec<RuleDocument>,
}

/// A document that was put in place.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct RulesVersion {
    /// Newer ones are higher.
    #[schema(example = 3)]
    version: i64,
    #[schema(value_type = String, format = DateTime)]
    created: Timestamp,
    /// Who put it in place.
    #[schema(example = "control-room")]
    author: String,
}

/// The rules in force.
///
/// The form is that which `PUT` takes.
#[utoipa::path(get, path = "/v1/rules", tag = "alerts", responses((status = 200, description = "The document", body = RulesDocument), Errors))]
async fn show_rules(State(context): State<Arc<Context>>, params: Params) -> Result<Response, Problem> {
    params.none()?;
    Ok(formats::json(&RulesDocument { rules: context.desk.rules() }))
}

/// Puts a rules document in place.
///
/// The whole document, checked as a whole: nothing changes where anything is wrong with it, and every problem is told. Rules
/// whose text stays the same keep their alerts; those of the others are cleared. Needs the role admin. From then on it goes
/// before the file that the configuration names.
#[utoipa::path(
    put, path = "/v1/rules", tag = "alerts",
    request_body(content = RulesDocument, example = json!({ "rules": [{
        "id": "pm10-high", "title": { "it": "PM10 alto", "en": "PM10 is high" }, "severity": "warning",
        "condition": { "type": "above", "property": "pm10", "above": 100.0, "clear_below": 80.0 }, "for": "10m"
    }] })),
    responses(
        (status = 200, description = "They are in force", body = RulesDocument),
        (status = 422, description = "`errors` lists every problem; nothing has changed", content_type = "application/problem+json", body = Details),
        BodyErrors,
        Errors
    )
)]
async fn put_rules(
    State(shared): State<Shared>,
    Administrator(caller): Administrator,
    params: Params,
    JsonText(text): JsonText,
) -> Result<Response, Problem> {
    params.none()?;
    let by = caller.name.clone();
    let rules = shared.blocking(move |context| context.desk.put_rules(&text, &caller.name)).await?;
    tracing::info!(by, rules = rules.len(), "other rules are in force");
    Ok(formats::json(&RulesDocument { rules }))
}

/// The documents that were put in place through this interface.
///
/// Newest first; the newest is in force.
#[utoipa::path(
    get, path = "/v1/rules/versions", tag = "alerts",
    params(
        ("limit" = Option<usize>, Query, description = "Versions of a page, at most 500. Default: 50", example = 50),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, description = "A page of versions", body = Page<RulesVersion>), Errors)
)]
async fn list_rules_versions(State(shared): State<Shared>, params: Params) -> Result<Response, Problem> {
    let (limit, before) = params.read(|query| (query.limit(50, 500), query.cursor()))?;
    let rows = shared.blocking(move |context| context.reader.rules_versions(before, limit + 1)).await?;
    let items = rows.into_iter().map(|(version, created, author)| RulesVersion { version, created, author }).collect();
    Ok(formats::json(&Page::of(items, limit, |version: &RulesVersion| version.version.to_string())))
}

/// One of the documents that were put in place through this interface.
///
/// As it was sent.
#[utoipa::path(
    get, path = "/v1/rules/versions/{id}", tag = "alerts",
    params(("id" = i64, Path, description = "The version", example = 3)),
    responses((status = 200, description = "The document", body = RulesDocument), (status = 404, description = "There is none", content_type = "application/problem+json", body = Details), Errors)
)]
async fn show_rules_version(
    State(shared): State<Shared>,
    PathId(id): PathId<i64>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params.none()?;
    let text = shared.blocking(move |context| context.reader.rules_version(id)).await?;
    Ok(formats::document(&headers, "application/json", text.ok_or_else(|| Problem::not_found("version of the rules", id))?))
}

/// The JSON Schema of a rules document.
#[utoipa::path(
    get, path = "/v1/rules/schema", tag = "alerts",
    responses((status = 200, description = "JSON Schema 2020-12", content_type = "application/schema+json", body = serde_json::Value), Errors)
)]
async fn show_rules_schema(params: Params, headers: HeaderMap) -> Result<Response, Problem> {
    params.none()?;
    Ok(formats::document(&headers, "application/schema+json", alert::rules_schema().to_string()))
}
