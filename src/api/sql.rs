//! SQL over HTTP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Caller;
use super::body::{JsonBody, is_json, sql_text};
use super::formats::{self, Format, Offered};
use super::params::Params;
use super::problem::{BodyErrors, Errors, Kind, Problem, Violation};
use super::{Context, Shared};
use crate::sql::{Encoding, Parameter, SqlError};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(ask_sql))
}

impl Offered for Encoding {
    const DEFAULT: Self = Self::Json;

    fn word(self) -> &'static str {
        match self {
            Self::Json => Format::Json.word(),
            Self::NdJson => Format::NdJson.word(),
            Self::Csv => Format::Csv.word(),
            Self::Arrow => "arrow",
            Self::Parquet => "parquet",
        }
    }

    fn media_types(self) -> &'static [&'static str] {
        match self {
            Self::Json => Format::Json.media_types(),
            Self::NdJson => Format::NdJson.media_types(),
            Self::Csv => Format::Csv.media_types(),
            Self::Arrow => &["application/vnd.apache.arrow.stream"],
            Self::Parquet => &["application/vnd.apache.parquet"],
        }
    }
}

/// A statement with values.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct StatementBody {
    /// One statement that reads.
    #[schema(example = "SELECT device, avg(value) FROM observation WHERE property = $1 AND trusted GROUP BY device")]
    sql: String,
    /// What `$1`, `$2` … stand for.
    #[serde(default)]
    #[schema(value_type = Vec<Object>, example = json!(["pm10"]))]
    parameters: Vec<Parameter>,
}

impl FromRequest<Shared> for StatementBody {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Problem> {
        if is_json(request.headers()) {
            return JsonBody::from_request(request, shared).await.map(|JsonBody(body)| body);
        }
        sql_text(request, shared).await.map(|sql| Self { sql, parameters: Vec::new() })
    }
}

/// Answers a statement in SQL.
///
/// One statement that reads, in PostgreSQL's grammar, over the tables `observation`, `latest`, `rollup_15m`, `rollup_1h`, `rollup_1d`,
/// `device`, `property`, `district`, `alert` and `quarantine`; `SHOW TABLES` and `DESCRIBE` tell their columns, the table
/// `column_comment` what these mean. Its own functions are `time_bucket(size, time[, zone])`, `local_time(time[, zone])`,
/// `distance_m(longitude, latitude, longitude, latitude)`, `district_at(longitude, latitude)`, and the table of windows
/// `buckets(size, from, to[, zone])`. The answer is streamed; one that breaks off is not whole. Limits are in `sql` of the configuration.
#[utoipa::path(
    post, path = "/v1/sql", tag = "observations",
    params(("format" = Option<String>, Query, description = "json, ndjson, csv, arrow or parquet; else by `Accept`", example = "csv")),
    request_body(content((StatementBody = "application/json"), (String = "application/sql"))),
    responses(
        (status = 200, description = "Rows; JSON has `columns` with names and types, and `rows` as objects", content(
            (Object = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"),
            (Vec<u8> = "application/vnd.apache.arrow.stream"), (Vec<u8> = "application/vnd.apache.parquet"),
        )),
        (status = 422, description = "The answer would be too large", body = super::problem::Details, content_type = "application/problem+json"),
        BodyErrors, Errors,
    )
)]
async fn ask_sql(
    State(context): State<Arc<Context>>,
    caller: Caller,
    params: Params,
    statement: StatementBody,
) -> Result<Response, Problem> {
    let encoding =
        params.read(|query| query.format(&[Encoding::Json, Encoding::NdJson, Encoding::Csv, Encoding::Arrow, Encoding::Parquet]))?;
    let StatementBody { sql, parameters } = statement;
    let statement = context.sql.prepare(&sql).await?;
    if let (Encoding::Json | Encoding::NdJson, Some(column)) = (encoding, statement.ambiguous_column()) {
        let problem = format!("two columns have the name {column:?}, and an object can have only one: name them with AS");
        return Err(invalid(problem, None));
    }
    let answer = context.sql.run(&caller.name, &statement, parameters, None).await?;
    streamed(encoding, answer.encoded(encoding, formats::is_formula)).await
}

/// Begins once the first piece is there, so that what fails before has its own status; what fails later breaks the answer off.
async fn streamed(encoding: Encoding, mut pieces: BoxStream<'static, Result<Bytes, SqlError>>) -> Result<Response, Problem> {
    let first = pieces.next().await.transpose()?;
    let rest = pieces.map(|piece| {
        // Logged where it became a problem; the caller only sees that the answer is not whole.
        piece.map_err(|error| io::Error::other(format!("the answer broke off: {}", Problem::from(error).kind().word())))
    });
    let body = Body::from_stream(stream::iter(first.map(Ok)).chain(rest));
    let content_type = match encoding {
        Encoding::Csv => Format::Csv.content_type(),
        other => other.media_types().first().copied().unwrap_or("application/octet-stream"),
    };
    Ok(formats::with_type(content_type, body))
}

fn invalid(problem: String, place: Option<String>) -> Problem {
    let violation = Violation { r#in: "body", name: place.unwrap_or_default(), problem };
    Problem::invalid(Kind::InvalidStatement, vec![violation])
}

impl From<SqlError> for Problem {
    fn from(error: SqlError) -> Self {
        match error {
            SqlError::Invalid { problem, place, .. } => invalid(problem, place.map(|place| place.to_string())),
            SqlError::Refused(_) | SqlError::NotOne(_) => invalid(error.to_string(), None),
            SqlError::TooManyRows { .. } | SqlError::TooManyBytes { .. } | SqlError::TooLarge(_) => {
                Self::new(Kind::QuestionTooLarge, error.to_string())
            }
            SqlError::Timeout(_) | SqlError::Cancelled => Self::new(Kind::Timeout, error.to_string()),
            SqlError::Busy => Self::new(Kind::Busy, error.to_string()).retry_after(Duration::from_secs(1)),
            SqlError::Lake(error) => error.into(),
            SqlError::State(error) => error.into(),
            SqlError::Engine(_) | SqlError::Threads(_) | SqlError::Folder(_) => Self::internal(&error),
        }
    }
}
