//! `/v1/energy/consumption`: what meters used, by time band, and what it cost.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use jiff::tz::TimeZone;
use rust_decimal::{Decimal, RoundingStrategy};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::filters::{DAY, DeviceParams, QualityParams, TimeParams, answers, filter, local, one_property, quality, quality_word, zone};
use super::formats::{self, Format, Line, Row};
use super::params::{Params, Query};
use super::problem::{Details, Errors, Problem};
use super::question::QuestionPermit;
use super::{Context, Shared};
use crate::model::PropertyIndex;
use crate::model::WindowSize;
use crate::query::ask::{Consumption, ConsumptionBucket, ConsumptionQuestion, Filter};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(consumption))
}

/// What meters used. Amounts and money are decimal numbers in quotes: exact, so that they add up.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Consumption)]
struct ConsumptionBody {
    /// The counter.
    #[schema(example = "energy_active")]
    property: String,
    /// The unit of amounts, a UCUM code.
    #[schema(example = "kW.h")]
    unit: String,
    /// The windows' size.
    #[schema(example = "1d")]
    window: String,
    /// On whose clock they begin and end.
    #[schema(example = "Europe/Rome")]
    zone: String,
    /// The tariff whose bands these are.
    #[schema(example = "it-f1-f2-f3")]
    tariff: String,
    /// ISO 4217, of costs.
    #[schema(example = "EUR")]
    currency: String,
    /// Where the first window begins.
    #[schema(example = "2026-06-01T00:00:00+02:00")]
    start: String,
    /// Where the last one ends.
    #[schema(example = "2026-07-01T00:00:00+02:00")]
    end: String,
    /// Which observations count.
    #[schema(value_type = String, example = "trusted")]
    quality: &'static str,
    /// One for each meter, or one of all.
    series: Vec<SeriesBody>,
}

/// What one meter used.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ConsumptionSeries)]
struct SeriesBody {
    /// The meter; left out of all together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "meter-001")]
    device: Option<String>,
    /// By time.
    buckets: Vec<BucketBody>,
    total: TotalBody,
}

/// All windows together.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ConsumptionTotal)]
struct TotalBody {
    /// What was used.
    #[schema(example = "312.480000")]
    amount: String,
    /// By band.
    #[schema(value_type = Object, example = json!({"F1": "120.000000", "F2": "92.480000", "F3": "100.000000"}))]
    bands: BTreeMap<String, String>,
    /// What it cost, to the cent (half to even); left out where a price is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "87.49")]
    cost: Option<String>,
}

/// One window.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ConsumptionBucket)]
struct BucketBody {
    /// Where it begins, on the zone's clock.
    #[schema(example = "2026-06-01T00:00:00+02:00")]
    start: String,
    /// Where it ends; this instant does not belong to it.
    #[schema(example = "2026-06-02T00:00:00+02:00")]
    end: String,
    /// What was used.
    #[schema(example = "10.416000")]
    amount: String,
    /// By band.
    #[schema(value_type = Object, example = json!({"F1": "4.000000", "F2": "3.416000", "F3": "3.000000"}))]
    bands: BTreeMap<String, String>,
    /// What it cost, not rounded, so that windows add up; left out where a price is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2.91648")]
    cost: Option<String>,
    /// What of the amount is shared out over a pause of the meter.
    #[schema(example = "0.000000")]
    estimated: String,
    /// Readings.
    #[schema(example = 1440)]
    count: u32,
    /// How often the meter began anew.
    resets: u32,
    /// How often its register went through zero.
    rollovers: u32,
    /// Whether readings that come late may still change it.
    provisional: bool,
}

/// A window as a line of CSV or NDJSON.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ConsumptionRow)]
struct RowBody {
    property: String,
    unit: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(flatten)]
    bucket: BucketBody,
}

impl Row for RowBody {
    const COLUMNS: &'static [&'static str] = &[
        "property",
        "unit",
        "start",
        "end",
        "device",
        "amount",
        "bands",
        "cost",
        "estimated",
        "count",
        "resets",
        "rollovers",
        "provisional",
    ];

    fn cells(&self, line: &mut Line<'_>) {
        let Self { property, unit, device, bucket } = self;
        let bands: Vec<String> = bucket.bands.iter().map(|(band, amount)| format!("{band}={amount}")).collect();
        line.text(property).text(unit).text(&bucket.start).text(&bucket.end).text_or_empty(device.as_deref()).text(&bucket.amount);
        line.text(&bands.join(" ")).text_or_empty(bucket.cost.as_deref()).text(&bucket.estimated);
        line.integer(u64::from(bucket.count))
            .integer(u64::from(bucket.resets))
            .integer(u64::from(bucket.rollovers))
            .flag(bucket.provisional);
    }
}

/// What meters used, by time band, and what it cost.
///
/// A meter's register is a counter: what it grew by is what was used. A register that went through zero goes on, one that began anew counts from
/// zero. Between two readings what was used is shared out by time, so that hours add up to days and days to months exactly; what is shared
/// out over a pause is told as `estimated`. Bands are those of the configured tariff, by default Italy's F1, F2 and F3 with its holidays;
/// costs need a tariff with prices.
#[utoipa::path(
    get, path = "/v1/energy/consumption", tag = "observations",
    params(
        ("property" = Option<String>, Query, description = "The counter. Left out: energy_active", example = "energy_active"),
        ("window" = Option<String>, Query, description = "As of `/v1/aggregates`. Left out: 1d", example = "1d"),
        ("zone" = Option<String>, Query, description = "Time zone of the windows, an IANA name. Left out: the city's", example = "Europe/Rome"),
        ("group_by" = Option<String>, Query, description = "`device`. Left out: all meters together", example = "device"),
        DeviceParams, QualityParams, TimeParams,
        ("format" = Option<String>, Query, description = "`json`, `ndjson` or `csv`; goes before `Accept`", example = "json"),
    ),
    responses(
        (status = 200, description = "Consumption", content(
            (ConsumptionBody = "application/json"),
            (RowBody = "application/x-ndjson"),
            (String = "text/csv"),
        )),
        (status = 422, description = "The property is no counter, or it would be too much: `detail` says why", content_type = "application/problem+json", body = Details),
        Errors,
    )
)]
async fn consumption(State(context): State<Arc<Context>>, permit: QuestionPermit, params: Params) -> Result<Response, Problem> {
    let (question, format) = params.read(|query| {
        let question = question(query, &context);
        (question, query.format(&[Format::Json, Format::NdJson, Format::Csv]))
    })?;
    let answers = answers(&context);
    let answer = permit.run(answers.consumption(question.clone(), &context.tariff)).await?;
    if format == Format::Json {
        return Ok(formats::json(&body(&context, &question, &answer)));
    }
    let rows: Vec<RowBody> = answer
        .series
        .iter()
        .flat_map(|series| series.buckets.iter().map(|one| (series.device.as_ref(), one)))
        .map(|(device, one)| RowBody {
            property: answer.property.id.clone(),
            unit: answer.property.unit.clone(),
            device: device.map(ToString::to_string),
            bucket: bucket(&question.zone, one),
        })
        .collect();
    Ok(formats::rows(format, [rows]))
}

fn question(query: &mut Query, context: &Context) -> ConsumptionQuestion {
    let id = query.text("property").unwrap_or_else(|| "energy_active".to_owned());
    let property = one_property(query, context, &id);
    let (from, to) = query.interval(DAY);
    let zone = zone(query, context);
    let filter = filter(query, context);
    ConsumptionQuestion {
        property: property.unwrap_or(PropertyIndex(0)),
        from,
        to,
        window: query.parse("window").unwrap_or(WindowSize::Day),
        zone,
        by_device: query.word("group_by", &[("device", true)]).unwrap_or_default(),
        filter: Filter { quality: quality(query), ..filter },
    }
}

fn body(context: &Context, question: &ConsumptionQuestion, answer: &Consumption) -> ConsumptionBody {
    let zone = &question.zone;
    let series = answer.series.iter().map(|series| SeriesBody {
        device: series.device.as_ref().map(ToString::to_string),
        buckets: series.buckets.iter().map(|one| bucket(zone, one)).collect(),
        total: total(&series.buckets),
    });
    ConsumptionBody {
        property: answer.property.id.clone(),
        unit: answer.property.unit.clone(),
        window: question.window.to_string(),
        zone: zone.iana_name().unwrap_or("UTC").to_owned(),
        tariff: context.tariff.id.clone(),
        currency: context.tariff.currency.clone(),
        start: local(zone, answer.start),
        end: local(zone, answer.end),
        quality: quality_word(question.filter.quality),
        series: series.collect(),
    }
}

fn bucket(zone: &TimeZone, bucket: &ConsumptionBucket) -> BucketBody {
    BucketBody {
        start: local(zone, bucket.start),
        end: local(zone, bucket.end),
        amount: amount(bucket.used.amount),
        bands: bucket.bands.iter().map(|(band, used)| (band.clone(), amount(*used))).collect(),
        cost: bucket.cost.map(|cost| cost.normalize().to_string()),
        estimated: amount(bucket.used.between.estimated),
        count: bucket.used.between.count,
        resets: bucket.used.between.resets,
        rollovers: bucket.used.between.rollovers,
        provisional: bucket.provisional,
    }
}

fn total(buckets: &[ConsumptionBucket]) -> TotalBody {
    let mut bands: BTreeMap<String, Decimal> = BTreeMap::new();
    for (band, used) in buckets.iter().flat_map(|bucket| &bucket.bands) {
        *bands.entry(band.clone()).or_default() += *used;
    }
    let cost: Option<Decimal> = buckets.iter().map(|bucket| bucket.cost).sum();
    TotalBody {
        amount: amount(buckets.iter().map(|bucket| bucket.used.amount).sum()),
        bands: bands.into_iter().map(|(band, used)| (band, amount(used))).collect(),
        cost: cost.map(|cost| format!("{:.2}", cost.round_dp_with_strategy(2, RoundingStrategy::MidpointNearestEven))),
    }
}

/// Always to the same place.
fn amount(amount: Decimal) -> String {
    format!("{amount:.6}")
}
