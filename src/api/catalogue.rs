//! `/v1/properties` and `/v1/districts`: what is observed, and the parts of the city.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use geo::BoundingRect as _;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::PathId;
use super::formats::{self, Format};
use super::params::{Params, shorten};
use super::problem::{Details, Errors, Problem};
use super::{Context, Shared};
use crate::model::{District, Domain, Property};
use crate::query::function::{AcrossFunction, TimeFunction};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(properties)).routes(routes!(property)).routes(routes!(districts)).routes(routes!(district))
}

/// An observed property, and what may be asked of it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ObservedProperty)]
struct PropertyBody {
    #[serde(flatten)]
    property: Property,
    /// The functions in time that make sense, each with those across devices that do after it.
    functions: Vec<FunctionBody>,
}

/// A function in time.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Function)]
struct FunctionBody {
    /// For `in_time`. `p95` stands for every percentile from `p0` to `p100`.
    #[schema(example = "mean")]
    in_time: String,
    /// For `across`.
    #[schema(example = json!(["mean", "min", "max", "count", "p95"]))]
    across: Vec<String>,
}

/// The observed properties.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct PropertyList {
    /// In the catalogue's order.
    properties: Vec<PropertyBody>,
}

impl PropertyBody {
    fn new(property: &Property) -> Self {
        let states = property.states.values().map(|state| format!("duration:{}", state.id));
        let in_time = IN_TIME.map(str::to_owned).into_iter().chain(states);
        let functions = in_time.filter_map(|in_time| {
            let time = TimeFunction::choose(Some(&in_time), property).ok()?;
            let makes_sense = |across: &&str| AcrossFunction::choose(Some(across), property, time).is_ok();
            Some(FunctionBody { in_time, across: ACROSS.into_iter().filter(makes_sense).map(str::to_owned).collect() })
        });
        Self { functions: functions.collect(), property: property.clone() }
    }
}

const IN_TIME: [&str; 13] =
    ["mean", "min", "max", "sum", "count", "first", "last", "stddev", "p95", "increase", "time_weighted_mean", "mode", "changes"];

const ACROSS: [&str; 6] = ["mean", "sum", "min", "max", "count", "p95"];

/// Observed properties.
///
/// The catalogue: units, plausible ranges, states, and which functions make sense. With an `ETag`.
#[utoipa::path(
    get, path = "/v1/properties", tag = "city",
    params(("domain" = Option<String>, Query, description = "A list of mobility, environment, energy, security and device", example = "environment")),
    responses((status = 200, description = "The catalogue", body = PropertyList), Errors)
)]
async fn properties(State(context): State<Arc<Context>>, headers: HeaderMap, params: Params) -> Result<Response, Problem> {
    let domains = params.read(|query| query.words("domain", &Domain::ALL.map(|domain| (domain.as_str(), domain))))?;
    let wanted = context.catalogue.iter().filter(|(_index, property)| domains.is_empty() || domains.contains(&property.domain));
    let list = PropertyList { properties: wanted.map(|(_index, property)| PropertyBody::new(property)).collect() };
    Ok(document(&headers, Format::Json, &list))
}

/// One observed property.
#[utoipa::path(
    get, path = "/v1/properties/{id}", tag = "city",
    params(("id" = String, Path, description = "The property's id", example = "pm10")),
    responses(
        (status = 200, description = "The property", body = PropertyBody),
        (status = 404, description = "It is not in the catalogue", content_type = "application/problem+json", body = Details),
        Errors,
    )
)]
async fn property(
    State(context): State<Arc<Context>>,
    PathId(id): PathId<String>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, Problem> {
    params.none()?;
    let index = context.catalogue.find(&id).ok_or_else(|| Problem::not_found("property", shorten(&id)))?;
    Ok(document(&headers, Format::Json, &PropertyBody::new(context.catalogue.get(index))))
}

/// A district without its outline.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = District)]
struct DistrictBody {
    /// Its name in parameters and answers.
    #[schema(example = "pa-c1")]
    id: String,
    /// For people.
    #[schema(example = "Circoscrizione I")]
    name: String,
    /// West, south, east and north of it, in degrees.
    #[schema(example = json!([13.34, 38.10, 13.38, 38.13]))]
    bbox: Option<[f64; 4]>,
}

/// The districts without their outlines.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct DistrictList {
    /// Whether the outlines are only approximate: those that are built in are, and are not official.
    approximate: bool,
    /// Where they come from.
    note: Option<String>,
    /// In the file's order.
    districts: Vec<DistrictBody>,
}

impl DistrictBody {
    fn new(district: &District) -> Self {
        let bbox = district.area.bounding_rect().map(|area| [area.min().x, area.min().y, area.max().x, area.max().y]);
        Self { id: district.id.clone(), name: district.name.clone(), bbox }
    }
}

/// Districts.
///
/// As GeoJSON (the default), or as JSON without outlines. Where the city has configured none of its own, they are Palermo's,
/// **approximate and not official**: `approximate` says so, and `note` why. With an `ETag`.
#[utoipa::path(
    get, path = "/v1/districts", tag = "city",
    params(("format" = Option<String>, Query, description = "`geojson` or `json`; goes before `Accept`", example = "geojson")),
    responses(
        (status = 200, description = "Districts", content((Value = "application/geo+json"), (DistrictList = "application/json"))),
        Errors,
    )
)]
async fn districts(State(context): State<Arc<Context>>, headers: HeaderMap, params: Params) -> Result<Response, Problem> {
    let format = params.read(|query| query.format(&[Format::GeoJson, Format::Json]))?;
    let (approximate, note) = (is_approximate(&context), note(&context));
    let all = context.districts.iter().map(|(_index, district)| district);
    Ok(if format == Format::Json {
        document(&headers, format, &DistrictList { approximate, note, districts: all.map(DistrictBody::new).collect() })
    } else {
        let features: Vec<Value> = all.map(|district| feature(&context, district)).collect();
        document(&headers, format, &json!({ "type": "FeatureCollection", "approximate": approximate, "note": note, "features": features }))
    })
}

/// One district, as a GeoJSON feature.
#[utoipa::path(
    get, path = "/v1/districts/{id}", tag = "city",
    params(("id" = String, Path, description = "The district's id", example = "pa-c1")),
    responses(
        (status = 200, description = "A GeoJSON feature", content_type = "application/geo+json", body = Value),
        (status = 404, description = "There is none of that id", content_type = "application/problem+json", body = Details),
        Errors,
    )
)]
async fn district(
    State(context): State<Arc<Context>>,
    PathId(id): PathId<String>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, Problem> {
    params.none()?;
    let index = context.districts.by_id(&id).ok_or_else(|| Problem::not_found("district", shorten(&id)))?;
    Ok(document(&headers, Format::GeoJson, &feature(&context, context.districts.get(index))))
}

fn feature(context: &Context, district: &District) -> Value {
    let DistrictBody { id, name, bbox } = DistrictBody::new(district);
    let geometry = geojson::Geometry::new(geojson::GeometryValue::from(&district.area));
    json!({
        "type": "Feature",
        "id": id,
        "bbox": bbox,
        "geometry": geometry,
        "properties": { "id": id, "name": name, "approximate": is_approximate(context) },
    })
}

/// Only what is built in is known to be.
fn is_approximate(context: &Context) -> bool {
    context.config.city.districts.is_none()
}

/// What the file says of itself.
fn note(context: &Context) -> Option<String> {
    let file: Value = serde_json::from_str(context.districts.geojson()).ok()?;
    Some(file.get("note")?.as_str()?.to_owned())
}

fn document(headers: &HeaderMap, format: Format, value: &impl Serialize) -> Response {
    formats::document(headers, format.content_type(), serde_json::to_vec(value).expect("plain data always serialises"))
}
