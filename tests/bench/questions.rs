//! What dashboards and analysts ask of the history, of Conca over HTTP and of InfluxDB in Flux as its users write it.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::influxdb::{BUCKET, Interface};
use crate::process::Conca;
use crate::{quantile, say};

/// A question is asked at most so often, ...
const TIMES_MAX: usize = 100;
/// ... at least so often, ...
const TIMES_MIN: usize = 5;
/// ... and no longer than this, ...
const LONG: Duration = Duration::from_secs(12);
/// ... or this, however seldom.
const VERY_LONG: Duration = Duration::from_mins(3);

/// A question to both.
pub(crate) struct Question {
    name: &'static str,
    path: String,
    /// None where InfluxDB is not asked.
    flux: Option<String>,
}

/// Which stretches of time are asked for.
pub(crate) struct Stretches {
    /// Where the earliest sample lies, ...
    pub(crate) first: Timestamp,
    /// ... where the raw month begins, ...
    pub(crate) month: Timestamp,
    /// ... and where all ends.
    pub(crate) end: Timestamp,
    /// A device in the middle.
    pub(crate) device: String,
}

/// All questions, the long ones first.
pub(crate) fn all(over: &Stretches) -> Vec<Question> {
    let Stretches { first, month, end, device } = over;
    let before = |days: u64| (*end - Duration::from_hours(24 * days)).max(*first);
    let middle = *month + Duration::from_secs((end.as_second() - month.as_second()).unsigned_abs() / 2 / 86_400 * 86_400);
    let (day, week) = (middle + Duration::from_hours(24), (middle + Duration::from_hours(24 * 7)).min(*end));
    let (quarter, year) = (before(90), before(365));
    let read = |from: Timestamp, to: Timestamp, filter: &str| {
        format!(
            "import \"timezone\"\noption location = timezone.location(name: \"Europe/Rome\")\nfrom(bucket: \"{BUCKET}\") |> range(start: {from}, stop: {to}) |> filter(fn: (r) => r._measurement == \"air\" and {filter})"
        )
    };
    let pm10 = "r._field == \"pm10\"";
    let one = format!("{pm10} and r.device == \"{device}\"");
    let question = |name, path: String, flux: Option<String>| Question { name, path, flux };
    vec![
        question(
            "hourly mean, each device, the month",
            format!("/v1/aggregates?property=pm10&window=1h&zone=UTC&group_by=device&from={month}&to={end}&format=csv"),
            Some(format!("{} |> aggregateWindow(every: 1h, fn: mean, createEmpty: false)", read(*month, *end, pm10))),
        ),
        question(
            "hourly mean, all together, the month",
            format!("/v1/aggregates?property=pm10&window=1h&from={month}&to={end}"),
            Some(format!("{} |> group() |> aggregateWindow(every: 1h, fn: mean, createEmpty: false)", read(*month, *end, pm10))),
        ),
        question(
            "daily mean by district, a year",
            format!("/v1/aggregates?property=pm10&window=1d&group_by=district&from={year}&to={end}"),
            Some(format!(
                "{} |> group(columns: [\"district\"]) |> aggregateWindow(every: 1d, fn: mean, createEmpty: false)",
                read(year, *end, pm10)
            )),
        ),
        question(
            "daily p95 by district, 90 days",
            format!("/v1/aggregates?property=pm10&window=1d&in_time=p95&across=max&group_by=district&from={quarter}&to={end}"),
            Some(format!(
                "{} |> aggregateWindow(every: 1d, fn: (column, tables=<-) => tables |> quantile(column: column, q: 0.95), createEmpty: false) |> group(columns: [\"district\"]) |> aggregateWindow(every: 1d, fn: max, createEmpty: false)",
                read(quarter, *end, pm10)
            )),
        ),
        question(
            "hourly mean, each device, one day",
            format!("/v1/aggregates?property=pm10&window=1h&zone=UTC&group_by=device&from={middle}&to={day}"),
            Some(format!("{} |> aggregateWindow(every: 1h, fn: mean, createEmpty: false)", read(middle, day, pm10))),
        ),
        question(
            "hourly mean, one device, the month",
            format!("/v1/aggregates?property=pm10&window=1h&group_by=device&device={device}&from={month}&to={end}"),
            Some(format!("{} |> aggregateWindow(every: 1h, fn: mean, createEmpty: false)", read(*month, *end, &one))),
        ),
        question(
            "one device, all properties, a week, raw",
            format!("/v1/observations?device={device}&from={middle}&to={week}&format=csv"),
            Some(read(middle, week, &format!("r.device == \"{device}\""))),
        ),
        question(
            "latest of all series",
            "/v1/latest?format=csv".to_owned(),
            Some(format!("{} |> last()", read(*end - Duration::from_hours(24), *end, "true"))),
        ),
        question(
            "map of current values of one property",
            "/v1/latest?property=pm10&format=geojson".to_owned(),
            Some(format!("{} |> last()", read(*end - Duration::from_hours(24), *end, pm10))),
        ),
    ]
}

/// Times of one question, in milliseconds, ascending, and the size of its answer.
struct Asked {
    times: Vec<f64>,
    bytes: usize,
}

impl Asked {
    async fn again(mut ask: impl AsyncFnMut() -> anyhow::Result<(String, Duration)>) -> anyhow::Result<Self> {
        let (started, mut asked) = (Instant::now(), Self { times: Vec::new(), bytes: 0 });
        let is_enough = |times: usize, elapsed: Duration| {
            times >= TIMES_MAX || (times >= TIMES_MIN && elapsed >= LONG) || (times > 0 && elapsed >= VERY_LONG)
        };
        while !is_enough(asked.times.len(), started.elapsed()) {
            let (body, elapsed) = ask().await?;
            asked.bytes = body.len();
            asked.times.push(elapsed.as_secs_f64() * 1e3);
        }
        asked.times.sort_by(f64::total_cmp);
        Ok(asked)
    }

    fn cells(&self) -> String {
        format!("{} | {:.1} | {:.1}", self.times.len(), quantile(&self.times, 0.5), quantile(&self.times, 0.99))
    }
}

/// Asks each of Conca and, where it runs, of InfluxDB: a table.
pub(crate) async fn ask(questions: &[Question], conca: &Conca, influxdb: Option<&Interface>) -> anyhow::Result<()> {
    let client = reqwest::Client::new();
    say("| question | answer KiB | times | p50 ms | p99 ms | InfluxDB times | p50 ms | p99 ms | InfluxDB ÷ Conca, p50 |")?;
    say("|---|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for Question { name, path, flux } in questions {
        let ours = Asked::again(async || conca.ask(&client, path).await).await?;
        let theirs = match (influxdb, flux) {
            (Some(influxdb), Some(flux)) => {
                let theirs = Asked::again(async || influxdb.ask(flux).await).await?;
                let ratio = quantile(&theirs.times, 0.5) / quantile(&ours.times, 0.5);
                format!("{} | {ratio:.1}", theirs.cells())
            }
            _ => "| | |".to_owned(),
        };
        say(&format!("| {name} | {} | {} | {theirs} |", ours.bytes >> 10, ours.cells()))?;
    }
    say("")
}
