//! What became of every message and every value, by source and hour.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use std::time::Duration;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::formats::{self, Format, Line, Row};
use super::params::Params;
use super::problem::{Errors, Kind, Problem};
use crate::model::Timestamp;
use crate::state::{Counts, LedgerRow};

/// Most lines of one answer: ten sources for a year.
const LINES_MAX: usize = 90_000;

/// The interval where none is asked for.
const DEFAULT: Duration = Duration::from_hours(24);

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(show_ledger))
}

/// A line of the ledger.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct LedgerLine {
    /// Who received it.
    #[schema(example = "main")]
    source: String,
    /// The start of the UTC hour of receipt.
    #[schema(value_type = String, format = DateTime)]
    hour: Timestamp,
    #[serde(flatten)]
    counts: Counts,
    /// Whether both equations hold.
    balances: bool,
}

/// Lines of the ledger.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Ledger {
    /// The beginning of the first hour.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    /// The end.
    #[schema(value_type = String, format = DateTime)]
    to: Timestamp,
    /// The sum of the lines.
    total: Counts,
    /// Whether both equations hold for the sum, and for each line.
    balances: bool,
    /// Oldest first.
    lines: Vec<LedgerLine>,
}

impl From<LedgerRow> for LedgerLine {
    fn from(row: LedgerRow) -> Self {
        Self { source: row.key.source.to_string(), hour: row.key.hour, balances: row.counts.balances(), counts: row.counts }
    }
}

impl Row for LedgerLine {
    const COLUMNS: &'static [&'static str] = &[
        "source",
        "hour",
        "received",
        "accepted",
        "rejected",
        "repeated",
        "shed",
        "readings",
        "stored",
        "duplicate",
        "corrected",
        "quarantined",
        "pending",
        "balances",
    ];

    fn cells(&self, line: &mut Line<'_>) {
        let Counts { received, accepted, rejected, repeated, shed, readings, stored, duplicate, corrected, quarantined, pending } =
            self.counts;
        line.text(&self.source).time(self.hour);
        for count in [received, accepted, rejected, repeated, shed, readings, stored, duplicate, corrected, quarantined, pending] {
            line.integer(count);
        }
        line.flag(self.balances);
    }
}

/// What became of every message and every value.
///
/// Two equations hold at any instant, for every source and hour of receipt:
/// `received = accepted + rejected + repeated + shed` for messages, and
/// `readings = stored + duplicate + corrected + quarantined + pending` for values.
#[utoipa::path(
    get, path = "/v1/ledger", tag = "intake",
    params(
        ("from" = Option<String>, Query, description = "Beginning; the UTC hour that holds it counts as a whole. Default: a day before `to`", example = "now-24h"),
        ("to" = Option<String>, Query, description = "End, exclusive. Default: now", example = "2026-03-01T00:00:00+01:00"),
        ("source" = Option<String>, Query, description = "Only of this source", example = "main"),
        ("format" = Option<String>, Query, description = "`json`, `csv` or `ndjson`, instead of `Accept`", example = "csv"),
    ),
    responses(
        (status = 200, description = "Lines; JSON with their sum", content((Ledger = "application/json"), (String = "text/csv"), (LedgerLine = "application/x-ndjson"))),
        Errors
    )
)]
async fn show_ledger(State(shared): State<Shared>, params: Params) -> Result<Response, Problem> {
    let (from, to, source, format) = params.read(|query| {
        let (from, to) = query.interval(DEFAULT);
        (from, to, query.text("source"), query.format(&[Format::Json, Format::Csv, Format::NdJson]))
    })?;
    let rows = shared.blocking(move |context| context.reader.ledger(from, to, source.as_deref(), LINES_MAX + 1)).await?;
    if rows.len() > LINES_MAX {
        return Err(Problem::new(Kind::QuestionTooLarge, format!("more than {LINES_MAX} lines: ask for less time or one source")));
    }
    let lines: Vec<LedgerLine> = rows.into_iter().map(LedgerLine::from).collect();
    if format != Format::Json {
        return Ok(formats::rows(format, [lines]));
    }
    let mut total = Counts::default();
    for line in &lines {
        total += line.counts;
    }
    let balances = total.balances() && lines.iter().all(|line| line.balances);
    Ok(formats::json(&Ledger { from: from.hour(), to, total, balances, lines }))
}
