//! The OpenAPI description, generated from the code, the page that shows it, and what problems mean.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use std::sync::Arc;
use utoipa::Modify;
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::formats;
use super::params::shorten;
use super::problem::{Details, Explanation, Kind, Problem};

/// Swagger UI has no scripts of its own in the page, but styles.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
     font-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Conca",
        description = "The telemetry backend of a city.\n\nTimes are RFC 3339 with offset, dates or times of day on the clock of `zone` (the city's where there is none), \
            milliseconds since 1970, or relative such as `now-24h`. \
            Intervals are half-open: `from` belongs to them, `to` does not. Lists repeat their parameter or have commas. \
            Unknown parameters are refused. Errors are problem details (RFC 9457); `errors` lists everything that is wrong at once."
    ),
    servers((url = "/")),
    components(schemas(Details)),
    security((), ("token" = [])),
    modifiers(&Token),
    tags(
        (name = "observations", description = "What devices measured, and what that amounts to"),
        (name = "city", description = "Devices, observed properties, districts"),
        (name = "alerts", description = "Rules, and the alerts that they raise"),
        (name = "intake", description = "What became of every message: ledger and quarantine"),
        (name = "operations", description = "How the server is"),
    )
)]
struct Frame;

#[derive(Debug)]
struct Token;

impl Modify for Token {
    fn modify(&self, openapi: &mut OpenApi) {
        let mut token = Http::new(HttpAuthScheme::Bearer);
        token.description = Some("A token made by `conca token`; not needed where the server has none configured.".to_owned());
        openapi.components.get_or_insert_default().add_security_scheme("token", SecurityScheme::Http(token));
    }
}

/// The description's frame, without any endpoint.
pub(super) fn frame() -> OpenApi {
    Frame::openapi()
}

/// The OpenAPI description.
pub fn description() -> serde_json::Value {
    serde_json::to_value(super::routes().into_openapi()).expect("plain data always serialises")
}

/// `/`, `/openapi.json`, `/docs`, `/problems/{type}`.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(show_description))
        .routes(routes!(explain_problem))
        .route("/", get(|| async { Redirect::to("/docs/") }))
        .route("/docs", get(|| async { Redirect::to("/docs/") }))
        .route("/docs/", get(|headers: HeaderMap| async move { page(&headers, "index.html") }))
        .route("/docs/{*file}", get(|headers: HeaderMap, Path(file): Path<String>| async move { page(&headers, &file) }))
}

/// This description.
///
/// OpenAPI 3.1; asked for again with its `ETag`, it is not sent again.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", security(()), responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = serde_json::Value)))]
async fn show_description(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    formats::document(&headers, "application/json", shared.description)
}

/// What a type of problem means.
///
/// The `type` of problem details is an address of this path.
#[utoipa::path(
    get, path = "/problems/{type}", tag = "operations", security(()),
    params(("type" = String, Path, description = "The last part of a problem's `type`", example = "invalid-parameters")),
    responses((status = 200, description = "What it means", body = Explanation), (status = 404, description = "There is no such type", content_type = "application/problem+json", body = Details))
)]
async fn explain_problem(Path(word): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word).ok_or_else(|| Problem::not_found("problem", shorten(&word)))?;
    let text = serde_json::to_string(&kind.explanation()).expect("plain data always serialises");
    Ok(formats::document(&headers, "application/json", text))
}

/// A file of Swagger UI, which is built in.
fn page(headers: &HeaderMap, file: &str) -> Result<Response, Problem> {
    let config = utoipa_swagger_ui::Config::from("/openapi.json").use_base_layout().try_it_out_enabled(true);
    let not_found = || Problem::not_found("page", shorten(file));
    let found = utoipa_swagger_ui::serve(file, Arc::new(config))
        .map_err(|_unreadable| Problem::unexpected("a page of Swagger UI cannot be made"))?;
    let found = found.ok_or_else(not_found)?;
    let content_type = HeaderValue::from_str(&found.content_type).map_err(|error| Problem::internal(&error))?;
    let mut response = formats::document(headers, "text/plain", found.bytes.into_owned()).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    Ok(response)
}
