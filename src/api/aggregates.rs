//! `/v1/aggregates`: what observations of a property amount to, over windows of time.

use std::ops::Range;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use jiff::tz::TimeZone;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::filters::{
    DAY, DeviceParams, QualityParams, TimeParams, answers, district_id, filter, local, one_property, quality, quality_word, state_word,
    zone,
};
use super::formats::{self, Encoder, Format, Line, Row};
use super::params::{Params, Query};
use super::problem::{Details, Errors, Problem};
use super::question::QuestionPermit;
use super::{Context, Shared};
use crate::model::WindowSize;
use crate::model::{Flags, PropertyIndex};
use crate::query::aggregate::{Bucket, GroupBy};
use crate::query::ask::{AggregateQuestion, AggregateSeries, Aggregates, Filter, SeriesKey};

/// Buckets that are written at a time.
const PIECE_BUCKETS: usize = 16_384;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(aggregates))
}

/// Aggregates of one property.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Aggregates)]
struct AggregatesBody {
    /// What they are of.
    #[schema(example = "pm10")]
    property: String,
    /// The unit of `value`, a UCUM code. Counts have `1`, times spent in a state have `s`.
    #[schema(example = "ug/m3")]
    unit: String,
    /// The function in time, for each device.
    #[schema(example = "mean")]
    in_time: String,
    /// The function across devices, after that; none where each device stands alone.
    #[schema(example = "mean")]
    across: Option<String>,
    /// The windows' size.
    #[schema(example = "1h")]
    window: String,
    /// On whose clock they begin and end.
    #[schema(example = "Europe/Rome")]
    zone: String,
    /// Where the first window begins: it holds `from`.
    #[schema(example = "2026-06-01T00:00:00+02:00")]
    start: String,
    /// Where the last one ends.
    #[schema(example = "2026-06-02T00:00:00+02:00")]
    end: String,
    /// What the series are told apart by.
    #[schema(example = json!(["district"]))]
    group_by: Vec<String>,
    /// Which observations count: `trusted` or `any`.
    #[schema(value_type = String, example = "trusted")]
    quality: &'static str,
    /// What became of windows without observations.
    #[schema(example = "none")]
    fill: String,
    /// How far percentiles may lie from the exact ones, as a part of these: they come from sketches of whole days. Absent where values
    /// are exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 0.01)]
    relative_error: Option<f64>,
    /// Where the numbers come from, with `explain=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    explanation: Option<ExplanationBody>,
    /// One for each group.
    series: Vec<SeriesBody>,
}

/// Where the numbers of an answer come from.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = AggregateExplanation)]
struct ExplanationBody {
    /// Of each stretch of time, ascending.
    stretches: Vec<StretchBody>,
    /// Why nothing coarser was read.
    #[schema(example = "the windows are no unions of longer buckets on the city's clock")]
    reason: &'static str,
    /// Observations that the answer rests on, those that are rolled up included.
    #[schema(example = 43_200)]
    observations: u64,
}

/// What was read of a stretch of time.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = AggregateStretch)]
struct StretchBody {
    /// Where it begins.
    #[schema(example = "2026-06-01T00:00:00+02:00")]
    from: String,
    /// Where it ends.
    #[schema(example = "2026-06-02T00:00:00+02:00")]
    to: String,
    /// `rows`, or a rollup: `rollup-15m`, `rollup-1h`, `rollup-1d`, or `pieces-900s` and the like: the store itself aggregates pieces of
    /// so many seconds.
    #[schema(example = "rollup-1h")]
    source: String,
    /// How many rows or buckets of it were read.
    #[schema(example = 720)]
    read: u64,
}

/// The buckets of one group.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = AggregateSeries)]
struct SeriesBody {
    #[serde(flatten)]
    group: GroupBody,
    /// By time.
    buckets: Vec<BucketBody>,
}

/// Which group; only what was asked for in `group_by`.
#[derive(Clone, Debug, Default, Serialize, utoipa::ToSchema)]
#[schema(as = AggregateGroup)]
struct GroupBody {
    /// The device.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "air-station-001")]
    device: Option<Arc<str>>,
    /// The kind of device.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "air-station")]
    kind: Option<Arc<str>>,
    /// The district; null for what was observed outside all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "pa-c1")]
    #[expect(clippy::option_option, reason = "it is not asked for, it is none, or it has a name")]
    district: Option<Option<Arc<str>>>,
}

/// One group in one window.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = AggregateBucket)]
struct BucketBody {
    /// Where the window begins, on the zone's clock.
    #[schema(value_type = String, example = "2026-06-01T08:00:00+02:00")]
    start: Arc<str>,
    /// Where it ends; this instant does not belong to it.
    #[schema(value_type = String, example = "2026-06-01T09:00:00+02:00")]
    end: Arc<str>,
    /// The answer; none where there are no observations, or none is defined, like the mean of opposite directions.
    #[schema(example = 31.25)]
    value: Option<f64>,
    /// Of a state property: the word for the code in `value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "charging")]
    state: Option<String>,
    /// How many observations it rests on.
    #[schema(example = 119)]
    count: u64,
    /// How many were expected up to now; a fraction where windows are no multiple of the interval, none where no device is expected.
    #[schema(example = 120.0)]
    expected: Option<f64>,
    /// Which part of what was expected came, from 0 to 1, as the mean of the devices.
    #[schema(example = 0.992)]
    coverage: Option<f64>,
    /// How many devices have a result.
    #[schema(example = 2)]
    devices: u32,
    /// What is suspect about any of the observations; nothing means that all are trusted.
    #[schema(value_type = Vec<String>, example = json!([]))]
    flags: Vec<&'static str>,
    /// Whether observations may still come that change it.
    provisional: bool,
    /// Whether the value was made up by `fill`.
    filled: bool,
}

/// A bucket by itself, for formats of one row after the other.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = AggregateRow)]
struct RowBody {
    /// What it is of.
    #[schema(value_type = String, example = "pm10")]
    property: Arc<str>,
    /// The unit of `value`, a UCUM code.
    #[schema(value_type = String, example = "ug/m3")]
    unit: Arc<str>,
    #[serde(flatten)]
    group: GroupBody,
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
        "kind",
        "district",
        "value",
        "state",
        "count",
        "expected",
        "coverage",
        "devices",
        "flags",
        "provisional",
        "filled",
    ];

    fn cells(&self, line: &mut Line<'_>) {
        let Self { group, bucket, .. } = self;
        line.text(&self.property).text(&self.unit).text(&bucket.start).text(&bucket.end);
        line.text_or_empty(group.device.as_deref()).text_or_empty(group.kind.as_deref());
        line.text_or_empty(group.district.as_ref().and_then(Option::as_deref));
        line.number(bucket.value)
            .text_or_empty(bucket.state.as_deref())
            .integer(bucket.count)
            .number(bucket.expected)
            .number(bucket.coverage);
        line.integer(bucket.devices).text(&bucket.flags.join(" ")).flag(bucket.provisional).flag(bucket.filled);
    }
}

/// Aggregates of a property over windows of time.
///
/// Two functions, one after the other: `in_time` makes one value of each device's observations in a window, `across` makes one of the
/// devices' values. What makes no sense for the property is refused with the reason; `/v1/properties` lists what does.
///
/// Windows follow the calendar of `zone`: a day in Europe/Rome has 23, 24 or 25 hours. Whole windows are answered, also where `from` and
/// `to` lie inside one. Grouped by district, observations count where they were made; silent devices that stand still lower
/// the coverage of their district.
#[utoipa::path(
    get, path = "/v1/aggregates", tag = "observations",
    params(
        ("property" = String, Query, description = "The observed property", example = "pm10"),
        ("window" = Option<String>, Query, description = "1m 2m 3m 4m 5m 6m 10m 12m 15m 20m 30m 1h 2h 3h 4h 6h 8h 12h 1d 1w (from Monday) 1mo. Left out: 1h", example = "1h"),
        ("zone" = Option<String>, Query, description = "Time zone of the windows, an IANA name. Left out: the city's", example = "Europe/Rome"),
        ("in_time" = Option<String>, Query, description = "count, sum, mean, min, max, first, last, stddev, median, a percentile such as p95, increase, time_weighted_mean, mode, changes, duration:<state>. Left out: the property's own", example = "mean"),
        ("across" = Option<String>, Query, description = "mean, sum, min, max, count, median, a percentile such as p95. Left out: the property's own", example = "mean"),
        ("group_by" = Option<String>, Query, description = "A list of device, kind, district. Left out: all devices together", example = "district"),
        ("fill" = Option<String>, Query, description = "What becomes of windows without observations: `none`, they are left out; `null`, they have no value; `previous`; `linear`", example = "none"),
        ("explain" = Option<bool>, Query, description = "Whether JSON says where the numbers come from: rollups or observations", example = true),
        DeviceParams, QualityParams, TimeParams,
        ("format" = Option<String>, Query, description = "`json`, `ndjson` or `csv`; goes before `Accept`", example = "json"),
    ),
    responses(
        (status = 200, description = "Aggregates", content(
            (AggregatesBody = "application/json"),
            (RowBody = "application/x-ndjson"),
            (String = "text/csv", example = "property,unit,start,end,device,kind,district,value,state,count,expected,coverage,devices,flags,provisional,filled\r\npm10,ug/m3,2026-06-01T08:00:00+02:00,2026-06-01T09:00:00+02:00,,,pa-c1,31.25,,119,120,0.992,2,,false,false\r\n"),
        )),
        (status = 422, description = "The functions make no sense for the property, or it would be too much: `detail` says why", content_type = "application/problem+json", body = Details),
        Errors,
    )
)]
async fn aggregates(State(context): State<Arc<Context>>, permit: QuestionPermit, params: Params) -> Result<Response, Problem> {
    let (question, explain, format) = params.read(|query| {
        let question = question(query, &context);
        let explain = query.flag("explain").unwrap_or(false);
        (question, explain, query.format(&[Format::Json, Format::NdJson, Format::Csv]))
    })?;
    let answers = answers(&context);
    let answer = permit.run(answers.aggregates(question.clone())).await?;
    // Up to a million buckets: nothing for a thread that others wait for.
    if format == Format::Json {
        let made = tokio::task::spawn_blocking(move || {
            let explanation = explain.then(|| explanation(&question.zone, &answer));
            formats::json(&AggregatesBody { explanation, ..body(&context, &question, &answer) })
        });
        return made.await.map_err(|panicked| Problem::internal(&panicked));
    }
    let (pieces, names) = (pieces(&answer.series), Encoder::new(format).begin::<RowBody>());
    Ok(formats::made(format, names, pieces, move |piece| {
        // The right to ask is kept until the end.
        let _permit = &permit;
        let (mut encoder, mut edges, mut bytes) = (Encoder::new(format), Edges::new(&question.zone), Vec::new());
        for series in answer.series.get(piece).unwrap_or_default() {
            bytes.extend(encoder.rows(&rows(&context, &mut edges, &answer, series)));
        }
        bytes
    }))
}

/// Stretches of series with some [`PIECE_BUCKETS`] each.
fn pieces(series: &[AggregateSeries]) -> Vec<Range<usize>> {
    let (mut pieces, mut buckets) = (Vec::new(), 0);
    for (index, series) in series.iter().enumerate() {
        match pieces.last_mut() {
            Some(Range { end, .. }) if buckets < PIECE_BUCKETS => *end = index + 1,
            _ => {
                pieces.push(index..index + 1);
                buckets = 0;
            }
        }
        buckets += series.buckets.len();
    }
    pieces
}

fn question(query: &mut Query, context: &Context) -> AggregateQuestion {
    query.require("property");
    let property = query.text("property").and_then(|id| one_property(query, context, &id));
    let (from, to) = query.interval(DAY);
    let zone = zone(query, context);
    let filter = filter(query, context);
    AggregateQuestion {
        property: property.unwrap_or(PropertyIndex(0)),
        from,
        to,
        window: query.parse("window").unwrap_or(WindowSize::Hours(1)),
        zone,
        in_time: query.text("in_time"),
        across: query.text("across"),
        group_by: query.words("group_by", &GroupBy::ALL.map(|group| (group.word(), group))),
        fill: query.parse("fill").unwrap_or_default(),
        filter: Filter { quality: quality(query), ..filter },
    }
}

/// The windows' edges on a zone's clock, which every series has again: each is written once.
struct Edges<'a> {
    zone: &'a TimeZone,
    /// By window.
    written: Vec<Option<(Arc<str>, Arc<str>)>>,
}

impl<'a> Edges<'a> {
    fn new(zone: &'a TimeZone) -> Self {
        Self { zone, written: Vec::new() }
    }

    fn of(&mut self, bucket: &Bucket) -> (Arc<str>, Arc<str>) {
        let zone = self.zone;
        let write = || (local(zone, bucket.start).into(), local(zone, bucket.end).into());
        if self.written.len() <= bucket.window {
            self.written.resize(bucket.window + 1, None);
        }
        self.written.get_mut(bucket.window).map_or_else(write, |edges| edges.get_or_insert_with(write).clone())
    }
}

fn body(context: &Context, question: &AggregateQuestion, answer: &Aggregates) -> AggregatesBody {
    let zone = &question.zone;
    let mut edges = Edges::new(zone);
    let series = answer.series.iter().map(|series| SeriesBody {
        group: group(context, &series.key),
        buckets: series.buckets.iter().map(|one| bucket(&mut edges, answer, one)).collect(),
    });
    AggregatesBody {
        property: answer.property.id.clone(),
        unit: answer.unit.clone(),
        in_time: answer.in_time.to_string(),
        across: answer.across.map(|across| across.to_string()),
        window: question.window.to_string(),
        zone: zone.iana_name().unwrap_or("UTC").to_owned(),
        start: local(zone, answer.start),
        end: local(zone, answer.end),
        group_by: question.group_by.iter().map(ToString::to_string).collect(),
        quality: quality_word(question.filter.quality),
        fill: question.fill.to_string(),
        relative_error: answer.relative_error,
        explanation: None,
        series: series.collect(),
    }
}

fn explanation(zone: &TimeZone, answer: &Aggregates) -> ExplanationBody {
    let stretches = answer.explanation.read.iter().map(|(stretch, read)| StretchBody {
        from: local(zone, stretch.from),
        to: local(zone, stretch.to),
        source: stretch.source.to_string(),
        read: *read,
    });
    ExplanationBody { stretches: stretches.collect(), reason: answer.explanation.reason, observations: answer.rows }
}

fn rows(context: &Context, edges: &mut Edges<'_>, answer: &Aggregates, series: &AggregateSeries) -> Vec<RowBody> {
    let (property, unit): (Arc<str>, Arc<str>) = (answer.property.id.as_str().into(), answer.unit.as_str().into());
    let group = group(context, &series.key);
    let row = |one| RowBody {
        property: Arc::clone(&property),
        unit: Arc::clone(&unit),
        group: group.clone(),
        bucket: bucket(edges, answer, one),
    };
    series.buckets.iter().map(row).collect()
}

fn group(context: &Context, key: &SeriesKey) -> GroupBody {
    GroupBody {
        device: key.device.as_ref().map(|device| device.as_str().into()),
        kind: key.kind.as_ref().map(|kind| kind.as_str().into()),
        district: key.district.map(|district| district_id(context, district).map(Arc::from)),
    }
}

fn bucket(edges: &mut Edges<'_>, answer: &Aggregates, bucket: &Bucket) -> BucketBody {
    let (start, end) = edges.of(bucket);
    BucketBody {
        start,
        end,
        value: bucket.value,
        state: bucket.value.filter(|_value| answer.is_state).and_then(|value| state_word(&answer.property, value)),
        count: bucket.count,
        expected: bucket.expected,
        coverage: bucket.coverage,
        devices: bucket.devices,
        flags: Flags::from_bits_retain(bucket.flags).names(),
        provisional: bucket.provisional,
        filled: bucket.filled,
    }
}
