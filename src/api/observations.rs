//! `/v1/observations`: history as it was observed.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use futures::StreamExt as _;
use serde::{Serialize, Serializer};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::filters::{
    DeviceParams, Place, QualityParams, TimeParams, answers, district_id, filter, properties, quality, quality_word, state_word, with_next,
};
use super::formats::{self, Format, Line, Row};
use super::params::Params;
use super::problem::{Errors, Problem};
use super::question::QuestionPermit;
use super::{Context, Shared};
use crate::model::{DeviceId, Position, Property, Timestamp};
use crate::query::ask::{AskError, Direction, Filter, ObservationQuestion, ObservationRow};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(observations))
}

/// One observation.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Observation)]
pub(super) struct ObservationBody {
    /// Phenomenon time, UTC.
    #[schema(value_type = String, format = DateTime, example = "2026-06-01T08:00:00Z")]
    time: Timestamp,
    /// Whose.
    #[schema(value_type = String, example = "air-station-001")]
    device: DeviceId,
    /// What.
    #[schema(value_type = String, example = "pm10")]
    #[serde(serialize_with = "id")]
    property: Arc<Property>,
    /// In `unit`.
    #[schema(example = 31.2)]
    value: f64,
    /// The property's canonical unit, a UCUM code.
    #[schema(value_type = String, example = "ug/m3")]
    #[serde(serialize_with = "unit")]
    unit: Arc<Property>,
    /// Of a state property: the word for the code in `value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "charging")]
    state: Option<String>,
    /// What is suspect about it: `out-of-range`, `error-code`, `stuck`, `spike`, `rate`, `humid` or `neighbours` (the value), `future`
    /// or `past` (the time), `off-city`, `no-fix` or `swapped` (the place). Nothing means that it is trusted.
    #[schema(value_type = Vec<String>, example = json!([]))]
    flags: Vec<&'static str>,
    /// The district in which it was observed.
    #[schema(example = "pa-c1")]
    district: Option<String>,
    /// Where it was observed.
    position: Option<Place>,
    /// What was sent, where it differs: another unit, or more digits than the sensor resolves.
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<OriginalBody>,
    #[serde(skip)]
    at: Option<Position>,
}

/// A value as it was sent.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Original)]
struct OriginalBody {
    /// The number sent.
    #[schema(example = 88.2)]
    value: f64,
    /// Its unit, a UCUM code.
    #[schema(example = "[degF]")]
    unit: String,
}

/// A page of observations.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct ObservationPage {
    /// Which observations count: `trusted` or `any`.
    #[schema(value_type = String, example = "trusted")]
    quality: &'static str,
    /// From this time.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    /// To this time.
    #[schema(value_type = String, format = DateTime)]
    to: Timestamp,
    /// In the order asked for.
    observations: Vec<ObservationBody>,
    /// The `cursor` of the next page; none where this is the last. What comes in meanwhile shifts nothing.
    next: Option<String>,
}

fn id<S: Serializer>(property: &Arc<Property>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&property.id)
}

fn unit<S: Serializer>(property: &Arc<Property>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&property.unit)
}

impl ObservationBody {
    fn new(context: &Context, row: ObservationRow) -> Self {
        let property = context.catalogue.get(row.property);
        Self {
            time: row.time,
            device: row.device,
            property: Arc::clone(property),
            value: row.value,
            unit: Arc::clone(property),
            state: state_word(property, row.value),
            flags: row.flags.names(),
            district: district_id(context, row.district),
            position: row.position.map(Place::from),
            original: row.original.map(|original| OriginalBody { value: original.value, unit: original.unit }),
            at: row.position,
        }
    }
}

impl Row for ObservationBody {
    const COLUMNS: &'static [&'static str] = &[
        "time",
        "device",
        "property",
        "value",
        "unit",
        "state",
        "flags",
        "district",
        "longitude",
        "latitude",
        "original_value",
        "original_unit",
    ];

    fn cells(&self, line: &mut Line<'_>) {
        line.time(self.time).text(self.device.as_str()).text(&self.property.id).number(self.value).text(&self.unit.unit);
        line.text_or_empty(self.state.as_deref()).text(&self.flags.join(" ")).text_or_empty(self.district.as_deref());
        line.number(self.at.map(Position::longitude)).number(self.at.map(Position::latitude));
        line.number(self.original.as_ref().map(|original| original.value));
        line.text_or_empty(self.original.as_ref().map(|original| original.unit.as_str()));
    }

    fn position(&self) -> Option<Position> {
        self.at
    }
}

/// Rows of a page where none are asked for.
const LIMIT: usize = 1_000;

/// Observations.
///
/// As JSON: pages of at most `limit` observations, newest first unless `order` says otherwise. As CSV, NDJSON or GeoJSON without
/// `limit`, `order` and `cursor`: everything, streamed day by day and series by series, oldest first; with one of them a page, whose
/// next one stands in the header `Link`.
#[utoipa::path(
    get, path = "/v1/observations", tag = "observations",
    params(
        ("property" = Option<String>, Query, description = "Observed properties, a list. Left out: all", example = "pm10,temperature"),
        DeviceParams, QualityParams, TimeParams,
        ("order" = Option<String>, Query, description = "`desc`, the default: newest first. `asc`: oldest first", example = "desc"),
        ("limit" = Option<u64>, Query, description = "Observations of a page, 1,000 where it is left out", example = 100),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("format" = Option<String>, Query, description = "`json`, `ndjson`, `csv` or `geojson`; goes before `Accept`", example = "json"),
    ),
    responses(
        (status = 200, description = "Observations", content(
            (ObservationPage = "application/json"),
            (ObservationBody = "application/x-ndjson"),
            (String = "text/csv", example = "time,device,property,value,unit,state,flags,district,longitude,latitude,original_value,original_unit\r\n2026-06-01T08:00:00Z,air-station-001,pm10,31.2,ug/m3,,,pa-c1,13.3612,38.1157,,\r\n"),
            (serde_json::Value = "application/geo+json"),
        )),
        Errors,
    )
)]
async fn observations(State(context): State<Arc<Context>>, permit: QuestionPermit, uri: Uri, params: Params) -> Result<Response, Problem> {
    let rows_max = context.config.query.page_rows_max;
    let (question, format, is_page) = params.read(|query| {
        let properties = properties(query, &context);
        let filter = filter(query, &context);
        let filter = Filter { quality: quality(query), ..filter };
        let (from, to) = query.interval(super::filters::DAY);
        let direction = query.word("order", &[("desc", Direction::NewestFirst), ("asc", Direction::OldestFirst)]);
        let limit = query.number("limit", 1, rows_max as u64).and_then(|limit| usize::try_from(limit).ok());
        let after = query.cursor();
        let format = query.format(&[Format::Json, Format::NdJson, Format::Csv, Format::GeoJson]);
        let is_page = format == Format::Json || direction.is_some() || limit.is_some() || after.is_some();
        let limit = limit.unwrap_or(LIMIT.min(rows_max));
        (ObservationQuestion { properties, from, to, filter, direction: direction.unwrap_or_default(), limit, after }, format, is_page)
    })?;
    let (from, to, quality) = (question.from, question.to, question.filter.quality);
    if !is_page {
        let parts = answers(&context).export(question)?;
        let rows = parts.map(move |part| {
            // The right to ask is kept until the end.
            let _permit = &permit;
            Ok::<_, AskError>(part?.into_iter().map(|row| ObservationBody::new(&context, row)).collect())
        });
        return formats::streamed(format, rows.boxed()).await;
    }
    let answers = answers(&context);
    let page = permit.run(answers.observations(question)).await?;
    let next = page.next.map(|cursor| cursor.to_string());
    let observations: Vec<_> = page.rows.into_iter().map(|row| ObservationBody::new(&context, row)).collect();
    let response = match format {
        Format::Json => formats::json(&ObservationPage { quality: quality_word(quality), from, to, observations, next: next.clone() }),
        _ => formats::rows(format, [observations]),
    };
    with_next(response, &uri, next.as_deref())
}
