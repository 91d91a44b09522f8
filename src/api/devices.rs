//! `/v1/devices`: the devices that were ever heard or are registered, whether they speak, and how well they are.

use std::sync::Arc;
use std::time::Duration;

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
use super::question::QuestionPermit;
use super::{Context, Shared};
use crate::model::{Class, DeviceId, Domain, Flags, Installation, Position, RegistrationDocument, Timestamp};
use crate::query::ask::{Battery, DeviceHealth, DeviceQuestion, DeviceSummary, Interval, IntervalSource};
use crate::query::health::{Part, Presence, penalty};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(devices)).routes(routes!(device)).routes(routes!(device_health))
}

/// A device.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Device)]
struct DeviceBody {
    /// Its name.
    #[schema(example = "air-station-001")]
    id: String,
    /// What sort of device: as it says; before it was heard, as it is registered.
    #[schema(example = "air-station")]
    kind: String,
    /// Its part of city life, likewise.
    domain: Domain,
    /// Whether it speaks as it should: `late` once its newest observation is older, by phenomenon time, than
    /// `query.late_intervals` of its expected intervals (2 where nothing else is configured), `silent` once it is older than
    /// `query.silent_intervals` (5), `never` while there is none.
    status: Presence,
    /// Expected time between two of its messages.
    interval: Option<IntervalBody>,
    /// When its first message was received.
    #[schema(value_type = Option<String>, format = DateTime, example = "2026-01-01T00:00:02Z")]
    first_seen: Option<Timestamp>,
    /// Phenomenon time of its newest observation, trusted or not.
    #[schema(value_type = Option<String>, format = DateTime, example = "2026-06-01T08:00:00Z")]
    last_observed: Option<Timestamp>,
    /// Its battery, if it tells of it.
    battery: Option<BatteryBody>,
    /// Whether it moves about; then `district` is only where it is now.
    mobile: bool,
    /// The district that holds its newest position.
    #[schema(example = "pa-c1")]
    district: Option<String>,
    /// Its newest position; where it is registered now, if it has never told an observation with a position.
    position: Option<Place>,
    /// What it ever observed.
    #[schema(example = json!(["humidity", "pm10", "temperature"]))]
    properties: Vec<String>,
    /// What the registry says of it.
    registration: Option<RegistrationDocument>,
    #[serde(skip)]
    at: Option<Position>,
}

/// Expected time between two messages of a device.
#[derive(Clone, Copy, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Interval)]
struct IntervalBody {
    /// In seconds.
    #[schema(example = 60.0)]
    seconds: f64,
    /// Who says so.
    source: IntervalSource,
}

impl From<Interval> for IntervalBody {
    fn from(interval: Interval) -> Self {
        Self { seconds: interval.length.as_secs_f64(), source: interval.source }
    }
}

/// What a device tells of its battery.
#[derive(Clone, Copy, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Battery)]
struct BatteryBody {
    /// `battery_level`, in per cent.
    #[schema(example = 80.0)]
    level: Option<f64>,
    /// `battery_voltage`, in volt.
    #[schema(example = 3.6)]
    voltage: Option<f64>,
}

impl BatteryBody {
    fn new(battery: Battery) -> Option<Self> {
        let Battery { level, voltage } = battery;
        (level.is_some() || voltage.is_some()).then_some(Self { level, voltage })
    }
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
            status: summary.presence,
            interval: summary.interval.map(IntervalBody::from),
            first_seen: summary.first_seen,
            last_observed: summary.last_observed,
            battery: BatteryBody::new(summary.battery),
            mobile: summary.is_mobile,
            district: district_id(context, summary.district),
            position: summary.position.map(Place::from),
            properties: summary.properties.into_iter().map(|property| context.catalogue.get(property).id.clone()).collect(),
            registration: summary.registration.map(|registration| registration.document().clone()),
            at: summary.position,
        }
    }

    /// Its lines: of CSV, one for each installation.
    fn lines(&self, format: Format) -> Vec<DeviceLine<'_>> {
        let installations = self.registration.as_ref().map_or([].as_slice(), |registration| registration.installations.as_slice());
        let line = |installation| DeviceLine { device: self, installation };
        if format == Format::Csv && !installations.is_empty() {
            installations.iter().map(|installation| line(Some(installation))).collect()
        } else {
            vec![line(None)]
        }
    }
}

/// A device, and one of its installations.
#[derive(Debug, Serialize)]
pub(super) struct DeviceLine<'a> {
    #[serde(flatten)]
    device: &'a DeviceBody,
    #[serde(skip)]
    installation: Option<&'a Installation>,
}

impl Row for DeviceLine<'_> {
    /// The first ones are those that an import reads: see [`super::registry`].
    const COLUMNS: &'static [&'static str] = &[
        "id",
        "title",
        "kind",
        "domain",
        "class",
        "interval_s",
        "from",
        "to",
        "longitude",
        "latitude",
        "altitude_m",
        "model",
        "owner",
        "registered",
        "status",
        "first_seen",
        "last_observed",
        "mobile",
        "district",
        "newest_longitude",
        "newest_latitude",
        "battery_level",
        "battery_voltage",
        "properties",
    ];

    fn cells(&self, line: &mut Line<'_>) {
        let Self { device, installation } = self;
        let registration = device.registration.as_ref();
        line.text(&device.id).text_or_empty(registration.and_then(|registration| registration.title.as_deref()));
        // What is registered, where anything is: it may differ from what the device says.
        line.text(registration.map_or(&device.kind, |registration| registration.kind.as_str()));
        line.text(registration.map_or(device.domain, |registration| registration.domain).as_str());
        line.text_or_empty(registration.and_then(|registration| registration.class).map(Class::as_str));
        line.number(registration.and_then(|registration| registration.interval_s).map(f64::from));
        let position = installation.and_then(|installation| installation.position);
        line.time_or_empty(installation.and_then(|installation| installation.from));
        line.time_or_empty(installation.and_then(|installation| installation.to));
        line.number(position.map(Position::longitude)).number(position.map(Position::latitude));
        line.number(installation.and_then(|installation| installation.altitude_m));
        line.text_or_empty(installation.and_then(|installation| installation.model.as_deref()));
        line.text_or_empty(installation.and_then(|installation| installation.owner.as_deref()));
        line.flag(registration.is_some()).text(device.status.word());
        line.time_or_empty(device.first_seen).time_or_empty(device.last_observed);
        line.flag(device.mobile).text_or_empty(device.district.as_deref());
        line.number(device.at.map(Position::longitude)).number(device.at.map(Position::latitude));
        line.number(device.battery.and_then(|battery| battery.level)).number(device.battery.and_then(|battery| battery.voltage));
        line.text(&device.properties.join(" "));
    }

    fn position(&self) -> Option<Position> {
        self.device.at
    }
}

/// Rows of a page where none are asked for.
const LIMIT: usize = 1_000;

/// Devices.
///
/// Every device that was ever heard or is registered, by name. `district`, `bbox` and `near` ask where it is now. The next page of
/// formats without room for it stands in the header `Link`. CSV has a line for each installation, in the form that
/// `POST /v1/devices/import` takes.
#[utoipa::path(
    get, path = "/v1/devices", tag = "city",
    params(
        ("property" = Option<String>, Query, description = "Devices that ever observed one of these properties, a list", example = "pm10"),
        DeviceParams,
        ("status" = Option<String>, Query, description = "A list of `online`, `late`, `silent` and `never`", example = "late,silent"),
        ("registered" = Option<bool>, Query, description = "Only those that are registered, or only those that are not", example = false),
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
        let presences = query.words("status", &Presence::ALL.map(|presence| (presence.word(), presence)));
        let registered = query.flag("registered");
        let after = query.cursor::<DeviceId>();
        let format = query.format(&[Format::Json, Format::GeoJson, Format::NdJson, Format::Csv]);
        (DeviceQuestion { properties, filter, presences, registered, after, limit }, format)
    })?;
    let list = answers(&context).devices(&question)?;
    let next = list.next.map(|next| next.to_string());
    let devices: Vec<_> = list.devices.into_iter().map(|summary| DeviceBody::new(&context, summary)).collect();
    let response = match format {
        Format::Json => formats::json(&DevicePage { devices, next: next.clone() }),
        _ => formats::rows(format, devices.iter().map(|device| device.lines(format))),
    };
    with_next(response, &uri, next.as_deref())
}

/// One device, with the newest value of each of its properties.
#[utoipa::path(
    get, path = "/v1/devices/{id}", tag = "city",
    params(("id" = String, Path, description = "The device's name", example = "air-station-001")),
    responses(
        (status = 200, description = "The device", body = DeviceDetail),
        (status = 404, description = "It was never heard and is not registered", content_type = "application/problem+json", body = Details),
        Errors,
    )
)]
async fn device(State(context): State<Arc<Context>>, PathId(id): PathId<String>, params: Params) -> Result<Response, Problem> {
    params.none()?;
    let (summary, values) = answers(&context).device(&id).ok_or_else(|| Problem::not_found("device", shorten(&id)))?;
    let latest = values.iter().map(|value| LatestBody::new(&context, value)).collect();
    Ok(formats::json(&DeviceDetail { device: DeviceBody::new(&context, summary), latest }))
}

/// How far back health is judged where nothing else is asked for.
const WEEK: Duration = Duration::from_hours(7 * 24);

/// A part of a device's health.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct HealthPart {
    /// From 0 to 100.
    #[schema(example = 98.5)]
    score: f64,
    /// Its weight among the parts that are there.
    #[schema(example = 0.4)]
    weight: f64,
}

impl From<Part> for HealthPart {
    fn from(part: Part) -> Self {
        Self { score: 100.0 * part.share, weight: part.weight }
    }
}

/// How many observations have a flag.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct FlagCount {
    /// The flag.
    #[schema(value_type = String, example = "off-city")]
    flag: &'static str,
    /// Observations that have it; one may have several.
    #[schema(example = 12)]
    observations: u64,
    /// How much it takes from an observation's worth, of 1.
    #[schema(example = 0.5)]
    penalty: f64,
}

/// What can be relied on.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct QualityPart {
    #[serde(flatten)]
    part: Option<HealthPart>,
    /// Observations.
    #[schema(example = 10_080)]
    observations: u64,
    /// Those without any flag.
    #[schema(example = 10_068)]
    trusted: u64,
    /// The flags that there are.
    flags: Vec<FlagCount>,
}

/// What is there of what was expected.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct CompletenessPart {
    #[serde(flatten)]
    part: Option<HealthPart>,
    /// At how many different times it observed anything.
    #[schema(example = 10_011)]
    times: u64,
    /// At how many it should have.
    #[schema(example = 10_080.0)]
    times_expected: Option<f64>,
    /// Expected time between two of them.
    interval: Option<IntervalBody>,
}

/// How new its newest observation is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct FreshnessPart {
    #[serde(flatten)]
    part: HealthPart,
    /// Whether it speaks as it should.
    status: Presence,
    /// Phenomenon time of its newest observation.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_observed: Option<Timestamp>,
}

/// How full its battery is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct BatteryPart {
    #[serde(flatten)]
    part: Option<HealthPart>,
    #[serde(flatten)]
    battery: BatteryBody,
}

/// How well a device is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DeviceHealth)]
struct HealthBody {
    /// The device.
    #[schema(example = "air-station-001")]
    device: String,
    /// From when on it was judged: not before it was there.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    /// Until when.
    #[schema(value_type = String, format = DateTime)]
    to: Timestamp,
    /// From 0 to 100: the weighted mean of the parts that have a score.
    #[schema(example = 97.2)]
    score: f64,
    /// Of its observations.
    quality: QualityPart,
    /// Of its observations.
    completeness: CompletenessPart,
    /// Of its newest observation.
    freshness: FreshnessPart,
    /// None where it does not tell of it; without a score where it tells only a voltage.
    battery: Option<BatteryPart>,
}

impl HealthBody {
    fn new(health: DeviceHealth, to: Timestamp) -> Self {
        let DeviceHealth { device, from, score, evidence } = health;
        let count =
            |has: &dyn Fn(Flags) -> bool| evidence.flags.iter().filter(|(flags, _count)| has(**flags)).map(|(_flags, count)| count).sum();
        let flags = Flags::NAMES.into_iter().map(|(flag, name)| FlagCount {
            flag: name,
            observations: count(&|flags| flags.contains(flag)),
            penalty: penalty(flag),
        });
        Self {
            device: device.id.to_string(),
            from,
            to,
            score: score.score,
            quality: QualityPart {
                part: score.quality.map(HealthPart::from),
                observations: count(&|_flags| true),
                trusted: count(&Flags::is_trusted),
                flags: flags.filter(|flag| flag.observations > 0).collect(),
            },
            completeness: CompletenessPart {
                part: score.completeness.map(HealthPart::from),
                times: evidence.times,
                times_expected: evidence.times_expected,
                interval: device.interval.map(IntervalBody::from),
            },
            freshness: FreshnessPart { part: score.freshness.into(), status: device.presence, last_observed: device.last_observed },
            battery: BatteryBody::new(device.battery).map(|battery| BatteryPart { part: score.battery.map(HealthPart::from), battery }),
        }
    }
}

/// How well a device is.
///
/// A score from 0 to 100, and what it is made of. It is the mean of four parts, weighted; a part of which nothing is known is left out.
/// Each part is a share, times 100:
///
/// - **quality** (0.4): the mean over the observations of the period of `1 - p`, where `p` is the highest penalty of an observation's
///   flags: 0.5 for `off-city`, `no-fix` and `swapped`, which spoil a place, 1 for every other flag, 0 for none.
/// - **completeness** (0.3): the different phenomenon times of the period's observations / the period's length in expected intervals,
///   at most 1. The period begins when the device was first heard or first observed anything, if that is later.
/// - **freshness** (0.2): 1 while the newest observation is not `late`, 0 once it is `silent`, falling evenly between.
/// - **battery** (0.1): of `battery_level`: 0 up to 10 %, 1 from 40 % on, rising evenly between.
///
/// Freshness and battery are those of now, whatever the period.
#[utoipa::path(
    get, path = "/v1/devices/{id}/health", tag = "city",
    params(
        ("id" = String, Path, description = "The device's name", example = "air-station-001"),
        ("from" = Option<String>, Query, description = "From this phenomenon time, which belongs to the period. Left out: 7 days before `to`", example = "now-7d"),
        ("to" = Option<String>, Query, description = "To this phenomenon time, which does not belong to the period. Left out: now", example = "now"),
    ),
    responses(
        (status = 200, description = "The score and its parts", body = HealthBody),
        (status = 404, description = "It was never heard and is not registered", content_type = "application/problem+json", body = Details),
        Errors,
    )
)]
async fn device_health(
    State(context): State<Arc<Context>>,
    permit: QuestionPermit,
    PathId(id): PathId<String>,
    params: Params,
) -> Result<Response, Problem> {
    let (from, to) = params.read(|query| query.interval(WEEK))?;
    let answers = answers(&context);
    let health = permit.run(answers.health(&id, from, to)).await?;
    let health = health.ok_or_else(|| Problem::not_found("device", shorten(&id)))?;
    Ok(formats::json(&HealthBody::new(health, to)))
}
