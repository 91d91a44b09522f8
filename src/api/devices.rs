//! `/v1/devices`: the devices that were ever heard.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::PathId;
use super::filters::{DeviceParams, Place, answers, district_id, filter, properties, with_next};
use super::formats::{self, Format, Line, Row};
use super::latest::LatestBody;
use super::params::{Params, shorten};
use super::problem::{Details, Errors, Problem};
use super::{Context, Shared};
use crate::model::{DeviceId, Domain, Position, Timestamp};
use crate::query::ask::{DeviceQuestion, DeviceSummary};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(devices)).routes(routes!(device))
}

/// A device.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Device)]
struct DeviceBody {
    /// Its name.
    #[schema(example = "air-station-001")]
    id: String,
    /// What sort of device.
    #[schema(example = "air-station")]
    kind: String,
    /// Its part of city life.
    domain: Domain,
    /// When its first message was received.
    #[schema(value_type = String, format = DateTime, example = "2026-01-01T00:00:02Z")]
    first_seen: Timestamp,
    /// Phenomenon time of its newest observation, trusted or not.
    #[schema(value_type = Option<String>, format = DateTime, example = "2026-06-01T08:00:00Z")]
    last_observed: Option<Timestamp>,
    /// Whether it moves about; then `district` is only where it is now.
    mobile: bool,
    /// The district that holds its newest position.
    #[schema(example = "pa-c1")]
    district: Option<String>,
    /// Its newest position.
    position: Option<Place>,
    /// What it ever observed.
    #[schema(example = json!(["humidity", "pm10", "temperature"]))]
    properties: Vec<String>,
    #[serde(skip)]
    at: Option<Position>,
}

/// Devices by name.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct DevicePage {
    /// By name.
    devices: Vec<DeviceBody>,
    /// The `cursor` of the next page; none where this is the last.
    next: Option<String>,
}

/// A device with its newest values.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct DeviceDetail {
    #[serde(flatten)]
    device: DeviceBody,
    /// The newest value of each property, trusted or not.
    latest: Vec<LatestBody>,
}

impl DeviceBody {
    fn new(context: &Context, summary: DeviceSummary) -> Self {
        Self {
            id: summary.id.to_string(),
            kind: summary.kind.to_string(),
            domain: summary.domain,
            first_seen: summary.first_seen,
            last_observed: summary.last_observed,
            mobile: summary.is_mobile,
            district: district_id(context, summary.district),
            position: summary.position.map(Place::from),
            properties: summary.properties.into_iter().map(|property| context.catalogue.get(property).id.clone()).collect(),
            at: summary.position,
        }
    }
}

impl Row for DeviceBody {
    const COLUMNS: &'static [&'static str] =
        &["id", "kind", "domain", "first_seen", "last_observed", "mobile", "district", "longitude", "latitude", "properties"];

    fn cells(&self, line: &mut Line<'_>) {
        line.text(&self.id).text(&self.kind).text(self.domain.as_str()).time(self.first_seen);
        match self.last_observed {
            Some(time) => line.time(time),
            None => line.text(""),
        };
        line.flag(self.mobile).text_or_empty(self.district.as_deref());
        line.number(self.at.map(Position::longitude)).number(self.at.map(Position::latitude)).text(&self.properties.join(" "));
    }

    fn position(&self) -> Option<Position> {
        self.at
    }
}

/// Rows of a page where none are asked for.
const LIMIT: usize = 1_000;

/// Devices.
///
/// Every device that was ever heard, by name. `district`, `bbox` and `near` ask where it is now. The next page of formats without
/// room for it stands in the header `Link`.
#[utoipa::path(
    get, path = "/v1/devices", tag = "city",
    params(
        ("property" = Option<String>, Query, description = "Devices that ever observed one of these properties, a list", example = "pm10"),
        DeviceParams,
        ("limit" = Option<u64>, Query, description = "Devices of a page, 1,000 where it is left out", example = 100),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("format" = Option<String>, Query, description = "`json`, `ndjson`, `csv` or `geojson`; goes before `Accept`", example = "geojson"),
    ),
    responses(
        (status = 200, description = "Devices", content(
            (DevicePage = "application/json"),
            (DeviceBody = "application/x-ndjson"),
            (String = "text/csv"),
            (serde_json::Value = "application/geo+json"),
        )),
        Errors,
    )
)]
async fn devices(State(context): State<Arc<Context>>, uri: Uri, params: Params) -> Result<Response, Problem> {
    let rows_max = context.config.query.page_rows_max;
    let (question, format) = params.read(|query| {
        let properties = properties(query, &context);
        let filter = filter(query, &context);
        let limit = query.limit(LIMIT.min(rows_max), rows_max);
        let after = query.cursor::<AfterDevice>().map(|after| after.0);
        let format = query.format(&[Format::Json, Format::GeoJson, Format::NdJson, Format::Csv]);
        (DeviceQuestion { properties, filter, after, limit }, format)
    })?;
    let list = answers(&context).devices(&question)?;
    let next = list.next.map(|next| next.to_string());
    let devices: Vec<_> = list.devices.into_iter().map(|summary| DeviceBody::new(&context, summary)).collect();
    let response = match format {
        Format::Json => formats::json(&DevicePage { devices, next: next.clone() }),
        _ => formats::rows(format, &devices),
    };
    with_next(response, &uri, next.as_deref())
}

struct AfterDevice(DeviceId);

impl std::str::FromStr for AfterDevice {
    type Err = crate::model::InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        DeviceId::try_from(text).map(Self)
    }
}

/// One device, with the newest value of each of its properties.
#[utoipa::path(
    get, path = "/v1/devices/{id}", tag = "city",
    params(("id" = String, Path, description = "The device's name", example = "air-station-001")),
    responses(
        (status = 200, description = "The device", body = DeviceDetail),
        (status = 404, description = "It was never heard", content_type = "application/problem+json", body = Details),
        Errors,
    )
)]
async fn device(State(context): State<Arc<Context>>, PathId(id): PathId<String>, params: Params) -> Result<Response, Problem> {
    params.none()?;
    let (summary, values) = answers(&context).device(&id).ok_or_else(|| Problem::not_found("device", shorten(&id)))?;
    let latest = values.iter().map(|value| LatestBody::new(&context, value)).collect();
    Ok(formats::json(&DeviceDetail { device: DeviceBody::new(&context, summary), latest }))
}
