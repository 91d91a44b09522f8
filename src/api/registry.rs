//! What is said of devices, and how that is changed: one by one, or many at once.
//!
//! A change counts for what is received from then on, each reading at its own time; what is stored already stays as it is.

mod document;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Administrator;
use super::body::{JsonText, PathId, TableText};
use super::formats;
use super::params::{Params, shorten};
use super::problem::{BodyErrors, Details, Errors, Kind, Problem};
use super::{Context, Shared};
use crate::model::{DeviceId, Registration, RegistrationDocument};
use crate::state::{Commit, RegistryChange};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(put_registration))
        .routes(routes!(show_registration, delete_registration))
        .routes(routes!(import_registrations))
}

/// Many registrations.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Registrations {
    /// Each device once.
    devices: Vec<RegistrationDocument>,
}

/// What an import did, or would do.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Imported {
    /// Whether it was only tried.
    dry_run: bool,
    /// Devices that were not registered before.
    #[schema(example = 12)]
    created: usize,
    /// Devices of which something else is said now.
    #[schema(example = 3)]
    replaced: usize,
    /// Devices of which the same was said before.
    #[schema(example = 140)]
    unchanged: usize,
}

/// What the registry says of a device.
///
/// The form is that which `PUT` takes. With an `ETag`.
#[utoipa::path(
    get, path = "/v1/devices/{id}/registration", tag = "city",
    params(("id" = String, Path, description = "The device's name", example = "air-station-001")),
    responses(
        (status = 200, description = "The registration", body = RegistrationDocument),
        (status = 404, description = "It is not registered", content_type = "application/problem+json", body = Details),
        Errors,
    )
)]
async fn show_registration(
    State(context): State<Arc<Context>>,
    PathId(id): PathId<String>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, Problem> {
    params.none()?;
    let registry = context.database.live().registry();
    let registration = registry.find(&id).ok_or_else(|| Problem::not_found("registration of", shorten(&id)))?;
    Ok(formats::document(&headers, "application/json", text(registration)))
}

/// Registers a device, or replaces what was said of it.
///
/// Whether it was heard before or not. `id` may be left out of the body. Observations whose messages have no position are placed
/// where the device was installed at their own time, also late and replayed ones; what is stored already stays where it is. With
/// `If-Match` and the `ETag` of the registration nobody else's change is lost, with `If-None-Match: *` nothing is replaced.
/// Needs the role admin.
#[utoipa::path(
    put, path = "/v1/devices/{id}", tag = "city",
    params(
        ("id" = String, Path, description = "The device's name", example = "air-station-001"),
        ("If-Match" = Option<String>, Header, description = "Only if this is still the registration's `ETag`"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only if the device is not registered"),
    ),
    request_body(content = RegistrationDocument, example = json!({
        "kind": "air-station", "domain": "environment", "title": "Via Roma", "class": "indicative", "interval_s": 60, "installations": [
            { "to": "2026-03-01T00:00:00Z", "position": { "lon": 13.3612, "lat": 38.1157 }, "altitude_m": 14.0, "model": "AQ-1", "owner": "Comune" },
            { "from": "2026-03-01T00:00:00Z", "position": { "lon": 13.3401, "lat": 38.1302 }, "model": "AQ-2", "owner": "Comune" }
        ]
    })),
    responses(
        (status = 200, description = "It was replaced", body = RegistrationDocument),
        (status = 201, description = "It is registered", body = RegistrationDocument),
        (status = 409, description = "As many devices as are allowed are registered", content_type = "application/problem+json", body = Details),
        (status = 412, description = "The registration is another by now", content_type = "application/problem+json", body = Details),
        (status = 422, description = "`errors` lists every problem; nothing has changed", content_type = "application/problem+json", body = Details),
        BodyErrors,
        Errors,
    )
)]
async fn put_registration(
    State(shared): State<Shared>,
    Administrator(caller): Administrator,
    PathId(id): PathId<DeviceId>,
    headers: HeaderMap,
    params: Params,
    JsonText(body): JsonText,
) -> Result<Response, Problem> {
    params.none()?;
    let registration = Arc::new(document::one(&body, &id)?);
    let (by, answer) = (caller.name.clone(), text(&registration));
    let condition = headers.clone();
    let outcome = shared.blocking(move |context| put(context, caller.name, vec![registration], Some(&condition), false)).await?;
    tracing::info!(by, device = %id, "a device was registered");
    let mut response = formats::document(&HeaderMap::new(), "application/json", answer);
    if outcome.created > 0 {
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}

/// Takes what is said of a device out of the registry.
///
/// A device that was heard stays among the devices, with its history. Needs the role admin.
#[utoipa::path(
    delete, path = "/v1/devices/{id}/registration", tag = "city",
    params(
        ("id" = String, Path, description = "The device's name", example = "air-station-001"),
        ("If-Match" = Option<String>, Header, description = "Only if this is still the registration's `ETag`"),
    ),
    responses(
        (status = 204, description = "It is not registered any more"),
        (status = 404, description = "It is not registered", content_type = "application/problem+json", body = Details),
        (status = 412, description = "The registration is another by now", content_type = "application/problem+json", body = Details),
        Errors,
    )
)]
async fn delete_registration(
    State(shared): State<Shared>,
    Administrator(caller): Administrator,
    PathId(id): PathId<DeviceId>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, Problem> {
    params.none()?;
    let (by, device) = (caller.name.clone(), id.clone());
    shared.blocking(move |context| delete(context, caller.name, &id, &headers)).await?;
    tracing::info!(by, %device, "a device's registration was deleted");
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// Registers many devices at once.
///
/// From JSON, or from CSV (RFC 4180, UTF-8) as `GET /v1/devices?format=csv` writes it: a line for each installation, which
/// repeats what it says of the device; needed are the columns `id`, `kind` and `domain`. What only `GET` knows (`status`,
/// `last_observed` and so on) is not looked at, and lines with `registered` `false` are left out. Devices that are not named keep
/// what is said of them. All or nothing: where anything is wrong, every problem is told, with its line and column or its JSON
/// pointer, and nothing has changed. Needs the role admin.
#[utoipa::path(
    post, path = "/v1/devices/import", tag = "city",
    params(("dry_run" = Option<bool>, Query, description = "Only says what would be done. Default: false", example = true)),
    request_body(content(
        (Registrations = "application/json"),
        (String = "text/csv", example = "id,title,kind,domain,class,interval_s,from,to,longitude,latitude,altitude_m,model,owner\r\nair-station-001,Via Roma,air-station,environment,indicative,60,,2026-03-01T00:00:00Z,13.3612,38.1157,14,AQ-1,Comune\r\nair-station-001,Via Roma,air-station,environment,indicative,60,2026-03-01T00:00:00Z,,13.3401,38.1302,,AQ-2,Comune\r\n"),
    )),
    responses(
        (status = 200, description = "What was done", body = Imported),
        (status = 409, description = "There would be more devices than are allowed", content_type = "application/problem+json", body = Details),
        (status = 422, description = "`errors` lists every problem; nothing has changed", content_type = "application/problem+json", body = Details),
        BodyErrors,
        Errors,
    )
)]
async fn import_registrations(
    State(shared): State<Shared>,
    Administrator(caller): Administrator,
    params: Params,
    body: TableText,
) -> Result<Response, Problem> {
    let dry_run = params.read(|query| query.flag("dry_run"))?.unwrap_or(false);
    let by = caller.name.clone();
    let outcome = shared
        .blocking(move |context| {
            let registrations = match body {
                TableText::Json(text) => document::many(&text)?,
                TableText::Csv(text) => document::table(&text)?,
            };
            put(context, caller.name, registrations.into_iter().map(Arc::new).collect(), None, dry_run)
        })
        .await?;
    let Imported { created, replaced, unchanged, .. } = outcome;
    tracing::info!(by, dry_run, created, replaced, unchanged, "devices were imported");
    Ok(formats::json(&outcome))
}

fn text(registration: &Registration) -> String {
    serde_json::to_string(registration.document()).expect("plain data always serialises")
}

/// Puts registrations in place, all or none. Blocking.
fn put(
    context: &Context,
    author: String,
    registrations: Vec<Arc<Registration>>,
    condition: Option<&HeaderMap>,
    dry_run: bool,
) -> Result<Imported, Problem> {
    let mut outcome = Imported { dry_run, created: 0, replaced: 0, unchanged: 0 };
    let mut turn = context.database.turn();
    let mut entries = Vec::new();
    {
        let registry = context.database.live().registry();
        for registration in registrations {
            let id = &registration.document().id;
            let current = registry.find(id.as_str());
            if let Some(headers) = condition {
                check(headers, current.map(Arc::as_ref))?;
            }
            match current {
                Some(current) if *current == registration => outcome.unchanged += 1,
                current => {
                    *(if current.is_some() { &mut outcome.replaced } else { &mut outcome.created }) += 1;
                    entries.push((id.clone(), Some(registration)));
                }
            }
        }
        let (count, devices_max) = (registry.len() + outcome.created, context.config.intake.devices_max);
        if outcome.created > 0 && count > devices_max {
            return Err(Problem::new(Kind::Conflict, format!("{count} devices would be registered, intake.devices_max is {devices_max}")));
        }
    }
    if !dry_run && !entries.is_empty() {
        let change = RegistryChange { changed: context.clock.now(), author, entries };
        turn.commit(Commit { registry: Some(change), ..Commit::default() })?;
    }
    Ok(outcome)
}

/// Takes a registration away. Blocking.
fn delete(context: &Context, author: String, id: &DeviceId, condition: &HeaderMap) -> Result<(), Problem> {
    let mut turn = context.database.turn();
    {
        let registry = context.database.live().registry();
        let current = registry.find(id.as_str()).ok_or_else(|| Problem::not_found("registration of", id))?;
        check(condition, Some(current.as_ref()))?;
    }
    let change = RegistryChange { changed: context.clock.now(), author, entries: vec![(id.clone(), None)] };
    turn.commit(Commit { registry: Some(change), ..Commit::default() })?;
    Ok(())
}

/// Whether what is said of a device is still what the caller looked at (RFC 9110, 13.1). Tags are compared weakly, since the same
/// document also goes out compressed.
fn check(headers: &HeaderMap, current: Option<&Registration>) -> Result<(), Problem> {
    let tag = current.map(|current| formats::etag(text(current).as_bytes()));
    let names = |name| tag.as_ref().is_some_and(|tag| formats::names_tag(headers, name, tag));
    if headers.contains_key(header::IF_MATCH) && !names(header::IF_MATCH) {
        return Err(Problem::new(Kind::PreconditionFailed, "the registration is another by now, or there is none"));
    }
    if names(header::IF_NONE_MATCH) {
        return Err(Problem::new(Kind::PreconditionFailed, "the device is registered already"));
    }
    Ok(())
}
