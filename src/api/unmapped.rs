//! Fields that no mapping knows, so that an operator maps them.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::formats;
use super::params::Params;
use super::problem::{Errors, Problem};
use crate::model::{Timestamp, Why};
use crate::state::UnmappedRow;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(list_unmapped)).routes(routes!(list_mappings))
}

/// A field that no mapping knows.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct UnmappedField {
    /// The source whose devices send it.
    #[schema(example = "lorawan")]
    source: String,
    /// The payload family.
    #[schema(example = "ttn")]
    decoder: String,
    /// The devices' model, or their kind where messages tell none.
    #[schema(example = "acme/t1")]
    model: String,
    /// Its path, levels joined by dots.
    #[schema(example = "data.strain_gauge")]
    field: String,
    /// Why it is not mapped.
    #[schema(value_type = Why)]
    why: String,
    /// How often it came.
    #[schema(example = 1_204)]
    count: i64,
    /// When it came first.
    #[schema(value_type = String, format = DateTime)]
    first: Timestamp,
    /// When it came last.
    #[schema(value_type = String, format = DateTime)]
    last: Timestamp,
    /// The last device that sent it.
    #[schema(example = "70b3d5499b4a1c2d")]
    device: String,
    /// What it held then.
    #[schema(example = "1713.0 mV")]
    example: String,
}

/// Fields that no mapping knows.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct UnmappedFields {
    /// The most frequent first.
    items: Vec<UnmappedField>,
}

impl From<UnmappedRow> for UnmappedField {
    fn from(row: UnmappedRow) -> Self {
        let UnmappedRow { source, decoder, model, field, why, count, first, last, device, example } = row;
        Self { source, decoder, model, field, why, count, first, last, device, example }
    }
}

/// Fields that no mapping knows.
///
/// The most frequent first. A message of which nothing else is known is in the quarantine for the reason `unmapped`; a mapping applies to
/// what comes after it, and to what is replayed.
#[utoipa::path(
    get, path = "/v1/unmapped", tag = "intake",
    params(
        ("source" = Option<String>, Query, description = "Only those of this source", example = "lorawan"),
        ("limit" = Option<usize>, Query, description = "Fields, at most 10000. Default: 100", example = 100),
    ),
    responses((status = 200, description = "Fields", body = UnmappedFields), Errors)
)]
async fn list_unmapped(State(shared): State<Shared>, params: Params) -> Result<Response, Problem> {
    let (source, limit) = params.read(|query| (query.text("source"), query.limit(100, 10_000)))?;
    let rows = shared.blocking(move |context| context.reader.unmapped(source.as_deref(), limit)).await?;
    Ok(formats::json(&UnmappedFields { items: rows.into_iter().map(UnmappedField::from).collect() }))
}

/// The city's mappings.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Mappings {
    /// In the order in which they are looked at, before the built-in dictionary.
    #[schema(value_type = Vec<Object>)]
    items: Vec<crate::mapping::Document>,
}

/// The city's mappings that are in force.
///
/// Documents of the folder `city.mappings`; a changed file is taken up within seconds, and refused as a whole where it cannot be used.
#[utoipa::path(get, path = "/v1/mappings", tag = "intake", responses((status = 200, description = "Documents", body = Mappings), Errors))]
async fn list_mappings(State(shared): State<Shared>, params: Params) -> Result<Response, Problem> {
    params.none()?;
    Ok(formats::json(&Mappings { items: shared.context.mapper.documents() }))
}
