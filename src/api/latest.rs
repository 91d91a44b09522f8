//! `/v1/latest`: the newest value of each series.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::filters::{DeviceParams, Place, QualityParams, answers, district_id, filter, properties, quality, quality_word, state_word};
use super::formats::{self, Format, Line, Row};
use super::params::Params;
use super::problem::{Errors, Problem};
use super::{Context, Shared};
use crate::model::{Domain, Position, Timestamp};
use crate::query::ask::{Filter, LatestQuestion, LatestValue};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(latest))
}

/// The newest value of a series.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = LatestValue)]
pub(super) struct LatestBody {
    /// Whose.
    #[schema(example = "air-station-001")]
    device: String,
    /// What sort of device.
    #[schema(example = "air-station")]
    kind: String,
    /// Its part of city life.
    domain: Domain,
    /// What.
    #[schema(example = "pm10")]
    property: String,
    /// Phenomenon time, UTC.
    #[schema(value_type = String, format = DateTime, example = "2026-06-01T08:00:00Z")]
    time: Timestamp,
    /// How long ago that was, in seconds.
    #[schema(example = 42.5)]
    age_s: f64,
    /// How long readings of this property are usually apart, in seconds: an age of several intervals is a silence.
    #[schema(example = 60)]
    interval_s: u32,
    /// In `unit`.
    #[schema(example = 31.2)]
    value: f64,
    /// The property's canonical unit, a UCUM code.
    #[schema(example = "ug/m3")]
    unit: String,
    /// Of a state property: the word for the code in `value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "charging")]
    state: Option<String>,
    /// What is suspect about it; nothing means that it is trusted.
    #[schema(value_type = Vec<String>, example = json!([]))]
    flags: Vec<&'static str>,
    /// The district in which it was observed.
    #[schema(example = "pa-c1")]
    district: Option<String>,
    /// Where it was observed.
    position: Option<Place>,
    #[serde(skip)]
    at: Option<Position>,
}

/// The newest values.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct LatestList {
    /// Which observations count: `trusted` or `any`.
    #[schema(value_type = String, example = "trusted")]
    quality: &'static str,
    /// When this was asked; ages are counted to here.
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    /// By device and property.
    latest: Vec<LatestBody>,
}

impl LatestBody {
    pub(super) fn new(context: &Context, value: &LatestValue) -> Self {
        let property = context.catalogue.get(value.property);
        Self {
            device: value.device.to_string(),
            kind: value.kind.to_string(),
            domain: value.domain,
            property: property.id.clone(),
            time: value.time,
            age_s: value.age.as_secs_f64(),
            interval_s: property.interval_s,
            value: value.value,
            unit: property.unit.clone(),
            state: state_word(property, value.value),
            flags: value.flags.names(),
            district: district_id(context, value.district),
            position: value.position.map(Place::from),
            at: value.position,
        }
    }
}

impl Row for LatestBody {
    const COLUMNS: &'static [&'static str] =
        &["device", "kind", "domain", "property", "time", "age_s", "value", "unit", "state", "flags", "district", "longitude", "latitude"];

    fn cells(&self, line: &mut Line<'_>) {
        line.text(&self.device).text(&self.kind).text(self.domain.as_str()).text(&self.property).time(self.time).number(self.age_s);
        line.number(self.value).text(&self.unit).text_or_empty(self.state.as_deref()).text(&self.flags.join(" "));
        line.text_or_empty(self.district.as_deref()).number(self.at.map(Position::longitude)).number(self.at.map(Position::latitude));
    }

    fn position(&self) -> Option<Position> {
        self.at
    }
}

/// Newest values.
///
/// Of each series that ever had one, however old: see `age_s`. What arrives late or from a clock ahead of the server's never
/// becomes the newest.
#[utoipa::path(
    get, path = "/v1/latest", tag = "observations",
    params(
        ("property" = Option<String>, Query, description = "Observed properties, a list. Left out: all", example = "pm10"),
        DeviceParams, QualityParams,
        ("format" = Option<String>, Query, description = "`json`, `ndjson`, `csv` or `geojson`; goes before `Accept`", example = "geojson"),
    ),
    responses(
        (status = 200, description = "Newest values", content(
            (LatestList = "application/json"),
            (LatestBody = "application/x-ndjson"),
            (String = "text/csv"),
            (serde_json::Value = "application/geo+json"),
        )),
        Errors,
    )
)]
async fn latest(State(context): State<Arc<Context>>, params: Params) -> Result<Response, Problem> {
    let (question, format, now) = params.read(|query| {
        let properties = properties(query, &context);
        let filter = filter(query, &context);
        let filter = Filter { quality: quality(query), ..filter };
        let format = query.format(&[Format::Json, Format::GeoJson, Format::NdJson, Format::Csv]);
        (LatestQuestion { properties, filter }, format, query.now())
    })?;
    let values = answers(&context).latest(&question)?;
    let latest: Vec<_> = values.iter().map(|value| LatestBody::new(&context, value)).collect();
    Ok(match format {
        Format::Json => formats::json(&LatestList { quality: quality_word(question.filter.quality), time: now, latest }),
        _ => formats::rows(format, [latest]),
    })
}
