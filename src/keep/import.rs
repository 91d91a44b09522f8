//! A file of observations into the running service, as messages of Conca's own form: they go the way of any message.
//!
//! Identity makes it safe to do twice: what is stored already is a duplicate, another value a correction. The ledger counts it under a source
//! of its own. Flags and districts are judged anew, by what the service knows now; alert rules see what is imported as what they see else.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::rows::{self, Row, RowFormat};
use super::server::{ExchangeError, Server, ServerOptions};
use crate::model::Domain;

/// Observations of a message: as many as any sensible `ingest.readings_max` and `ingest.payload_bytes_max` let through.
const ROWS_MAX: usize = 500;

/// Faults that are told; all are in the quarantine.
const FAULTS_MAX: usize = 20;

/// What to import.
#[derive(Clone, Debug, clap::Args)]
pub struct ImportOptions {
    #[command(flatten)]
    server: ServerOptions,
    /// The file; `-` for standard input.
    file: PathBuf,
    /// The form. Left out: what the file's name says.
    #[arg(long, value_enum)]
    format: Option<RowFormat>,
}

/// What became of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Rows that were read.
    pub rows: u64,
    /// Observations that were taken, those that were there before among them.
    pub observations: u64,
    /// Why the rest was not, the first twenty.
    pub faults: Vec<String>,
}

#[derive(Deserialize)]
struct Receipt {
    observations: u64,
    faults: Vec<String>,
}

/// Sends a file. What was sent before an error is durable; sent again it is not stored twice.
pub async fn import(options: &ImportOptions) -> Result<Imported, ExchangeError> {
    let server = Server::new(&options.server)?;
    let (path, is_input) = (&options.file, options.file == Path::new("-"));
    let format = options.format.or_else(|| RowFormat::of(path)).ok_or_else(|| ExchangeError::Form(path.clone()))?;
    let opened = if is_input { rows::text_reader(format, std::io::stdin()) } else { rows::reader(format, path) };
    let mut imported = Imported::default();
    let mut message: Vec<Row> = Vec::with_capacity(ROWS_MAX);
    for row in opened.map_err(ExchangeError::at(path))? {
        let row = row.map_err(ExchangeError::at(path))?;
        let is_same = message.last().is_none_or(|last| (&last.device, &last.kind, last.domain) == (&row.device, &row.kind, row.domain));
        if !is_same || message.len() == ROWS_MAX {
            send(&server, &message, &mut imported).await?;
            message.clear();
        }
        message.push(row);
    }
    send(&server, &message, &mut imported).await?;
    Ok(imported)
}

/// Sends the rows of one device.
async fn send(server: &Server, rows: &[Row], imported: &mut Imported) -> Result<(), ExchangeError> {
    let Some(first) = rows.first() else { return Ok(()) };
    // A device that has told of nothing but itself belongs to no part of city life, but a topic names one.
    let domain = if first.domain == Domain::Device { Domain::Environment } else { first.domain };
    let topic = format!("conca/v1/{}/{}/{}", domain.as_str(), first.kind, first.device);
    let objects: Vec<Value> = rows.iter().map(object).collect();
    let body = Value::Array(objects).to_string();
    let answer = server.post("/v1/messages", &[("topic", &topic), ("source", "import")], &body).await;
    imported.rows += rows.len() as u64;
    let faults = match answer {
        Ok(answer) => {
            let text = answer.text().await?;
            let receipt: Receipt = serde_json::from_str(&text).map_err(|error| ExchangeError::Answer(error.to_string()))?;
            imported.observations += receipt.observations;
            receipt.faults
        }
        // Nothing of it is taken: it is in the quarantine, and the rest of the file may be better.
        Err(ExchangeError::Refused { status: reqwest11::StatusCode::UNPROCESSABLE_ENTITY, text }) => vec![text],
        Err(error) => return Err(error),
    };
    let room = FAULTS_MAX.saturating_sub(imported.faults.len());
    imported.faults.extend(faults.into_iter().map(|fault| format!("{topic}: {fault}")).take(room));
    Ok(())
}

/// A row as an object of the payload; what was sent once is sent again, where it differs from what is stored.
fn object(row: &Row) -> Value {
    let reading = match &row.original {
        Some(original) => json!({ "value": original.value, "unit": original.unit }),
        None if row.unit.is_empty() => json!(row.value),
        None => json!({ "value": row.value, "unit": row.unit }),
    };
    let mut object = Map::from_iter([("time".to_owned(), json!(row.time))]);
    object.insert("readings".to_owned(), Value::Object(Map::from_iter([(row.property.clone(), reading)])));
    if let Some(position) = row.position {
        object.insert("position".to_owned(), json!({ "lon": position.longitude(), "lat": position.latitude() }));
    }
    Value::Object(object)
}
