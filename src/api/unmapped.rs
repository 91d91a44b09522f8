//! Fields that no mapping knows, so that an operator maps them.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::formats::{self, Format, Line, Row};
use super::params::Params;
use super::problem::{Errors, Problem};
use super::{Context, Shared};
use crate::mapping::Document;
use crate::model::{Timestamp, Why};
use crate::state::{StateError, UnmappedRow};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(list_unmapped))
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
    /// A mapping to begin with: a file of it in the folder `city.mappings` takes the field for the property that its name is closest to,
    /// in the catalogue's unit where the sender names none; or ignores it. Look at both.
    #[schema(value_type = Object, example = json!({"id": "acme/t1", "applies": {"source": "lorawan", "decoder": "ttn", "model": "acme/t1"},
        "fields": [{"path": "data.strain_gauge", "property": "strain", "assumed_unit": "um/m"}]}))]
    suggestion: Document,
}

/// Fields that no mapping knows.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct UnmappedFields {
    /// The most frequent first.
    items: Vec<UnmappedField>,
}

impl UnmappedField {
    fn of(row: UnmappedRow, context: &Context) -> Self {
        let UnmappedRow { source, decoder, model, field, why, count, first, last, device, example } = row;
        let suggestion = context.mappings.mapper().suggest(&source, &decoder, &model, &field, &context.catalogue);
        Self { source, decoder, model, field, why, count, first, last, device, example, suggestion }
    }
}

impl Row for UnmappedField {
    const COLUMNS: &'static [&'static str] =
        &["source", "decoder", "model", "field", "why", "count", "first", "last", "device", "example", "suggestion"];

    fn cells(&self, line: &mut Line<'_>) {
        line.text(&self.source).text(&self.decoder).text(&self.model).text(&self.field).text(&self.why);
        line.integer(self.count).time(self.first).time(self.last).text(&self.device).text(&self.example);
        line.text(&serde_json::to_string(&self.suggestion).expect("plain data always serialises"));
    }
}

/// Fields that no mapping knows.
///
/// The most frequent first, each with the reason and with a mapping to begin with. A message of which nothing else is known is in the
/// quarantine for the reason `unmapped`; a mapping applies to what comes after it, and to what is replayed. What it has a word on is no
/// longer listed, until it comes again.
#[utoipa::path(
    get, path = "/v1/unmapped", tag = "intake",
    params(
        ("source" = Option<String>, Query, description = "Only those of this source", example = "lorawan"),
        ("limit" = Option<usize>, Query, description = "Fields, at most 10000. Default: 100", example = 100),
        ("format" = Option<String>, Query, description = "`json`, `csv` or `ndjson`, instead of `Accept`", example = "csv"),
    ),
    responses(
        (status = 200, description = "Fields", content((UnmappedFields = "application/json"), (String = "text/csv"), (UnmappedField = "application/x-ndjson"))),
        Errors
    )
)]
async fn list_unmapped(State(shared): State<Shared>, params: Params) -> Result<Response, Problem> {
    let (source, limit, format) = params
        .read(|query| (query.text("source"), query.limit(100, 10_000), query.format(&[Format::Json, Format::Csv, Format::NdJson])))?;
    let read = move |context: &Context| {
        let rows = context.reader.unmapped(source.as_deref(), limit)?;
        Ok::<_, StateError>(rows.into_iter().map(|row| UnmappedField::of(row, context)).collect())
    };
    let items: Vec<UnmappedField> = shared.blocking(read).await?;
    Ok(if format == Format::Json { formats::json(&UnmappedFields { items }) } else { formats::rows(format, [items]) })
}
