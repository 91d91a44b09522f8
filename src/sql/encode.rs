//! Answers as bytes, piece by piece.

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use deltalake::arrow::array::{ArrayRef, AsArray as _, RecordBatch, StringArray};
use deltalake::arrow::compute::cast;
use deltalake::arrow::csv;
use deltalake::arrow::datatypes::{DataType, Schema, SchemaRef};
use deltalake::arrow::error::ArrowError;
use deltalake::arrow::ipc::writer::StreamWriter;
use deltalake::arrow::json;
use deltalake::arrow::json::writer::{JsonArray, LineDelimited};
use deltalake::datafusion::error::DataFusionError;
use deltalake::parquet::arrow::ArrowWriter;
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::file::properties::WriterProperties;
use futures::stream::{self, BoxStream, StreamExt as _};
use parking_lot::Mutex;

use super::{Answer, SqlError};

/// A form of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// One document: columns with their types, and rows as objects.
    Json,
    /// One JSON object a line.
    NdJson,
    /// RFC 4180, with a line of names.
    Csv,
    /// Arrow's stream format.
    Arrow,
    /// A Parquet file.
    Parquet,
}

/// Rows of a Parquet row group: what is in the making is kept in memory.
const ROW_GROUP_ROWS: usize = 65_536;

impl Answer {
    /// The answer in a form. A text of CSV for which `is_formula` says that a spreadsheet would take it for one gets an apostrophe in
    /// front.
    pub fn encoded(self, encoding: Encoding, is_formula: fn(&str) -> bool) -> BoxStream<'static, Result<Bytes, SqlError>> {
        let encoder = Encoder::new(encoding, &self.schema, is_formula);
        stream::unfold(Some((self, encoder)), |state| async move {
            let (mut answer, encoder) = state?;
            let mut encoder = match encoder {
                Ok(encoder) => encoder,
                Err(error) => return Some((Err(error), None)),
            };
            let piece = match answer.next().await {
                None => return Some((encoder.end(), None)),
                Some(batch) => batch.and_then(|batch| encoder.rows(&batch)),
            };
            let next = piece.is_ok().then_some((answer, Ok(encoder)));
            Some((piece, next))
        })
        .boxed()
    }
}

/// Where a writer that wants to own its target writes.
#[derive(Clone, Debug, Default)]
struct Pipe(Arc<Mutex<Vec<u8>>>);

impl Pipe {
    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock()).into()
    }
}

impl std::io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Encoder {
    schema: SchemaRef,
    pipe: Pipe,
    writer: Writer,
    is_formula: fn(&str) -> bool,
}

enum Writer {
    Json(json::Writer<Pipe, JsonArray>),
    NdJson(json::Writer<Pipe, LineDelimited>),
    Csv(Box<csv::Writer<Pipe>>),
    Arrow(Box<StreamWriter<Pipe>>),
    Parquet(Box<ArrowWriter<Pipe>>),
}

impl Encoder {
    fn new(encoding: Encoding, schema: &Schema, is_formula: fn(&str) -> bool) -> Result<Self, SqlError> {
        let mut pipe = Pipe::default();
        let schema = Arc::new(plain_schema(schema));
        let json = json::WriterBuilder::new().with_explicit_nulls(true);
        let writer = match encoding {
            Encoding::Json => {
                let columns: Vec<_> = schema.fields().iter().map(|field| (field.name(), field.data_type().to_string())).collect();
                let columns: Vec<_> = columns.iter().map(|(name, kind)| serde_json::json!({ "name": name, "type": kind })).collect();
                let head = format!("{{\"columns\":{},\"rows\":", serde_json::Value::from(columns));
                pipe.write_all(head.as_bytes()).expect("memory takes any bytes");
                Writer::Json(json.build(pipe.clone()))
            }
            Encoding::NdJson => Writer::NdJson(json.build(pipe.clone())),
            Encoding::Csv => {
                let mut writer = csv::WriterBuilder::new().with_header(true).build(pipe.clone());
                // The names stand there also where no row does.
                writer.write(&RecordBatch::new_empty(Arc::clone(&schema))).map_err(arrow)?;
                Writer::Csv(Box::new(writer))
            }
            Encoding::Arrow => Writer::Arrow(Box::new(StreamWriter::try_new(pipe.clone(), &schema).map_err(arrow)?)),
            Encoding::Parquet => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                    .build();
                let writer = ArrowWriter::try_new(pipe.clone(), Arc::clone(&schema), Some(properties)).map_err(parquet)?;
                Writer::Parquet(Box::new(writer))
            }
        };
        Ok(Self { schema, pipe, writer, is_formula })
    }

    fn rows(&mut self, batch: &RecordBatch) -> Result<Bytes, SqlError> {
        let columns = batch.columns().iter().zip(self.schema.fields()).map(|(column, field)| cast(column, field.data_type()));
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(arrow)?;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(arrow)?;
        match &mut self.writer {
            Writer::Json(writer) => writer.write(&batch).map_err(arrow)?,
            Writer::NdJson(writer) => writer.write(&batch).map_err(arrow)?,
            Writer::Csv(writer) => {
                let columns = batch.columns().iter().map(|column| guarded(column, self.is_formula)).collect();
                writer.write(&RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(arrow)?).map_err(arrow)?;
            }
            Writer::Arrow(writer) => writer.write(&batch).map_err(arrow)?,
            Writer::Parquet(writer) => writer.write(&batch).map_err(parquet)?,
        }
        Ok(self.pipe.take())
    }

    fn end(mut self) -> Result<Bytes, SqlError> {
        match self.writer {
            Writer::Json(mut writer) => {
                writer.finish().map_err(arrow)?;
                self.pipe.write_all(b"}").expect("memory takes any bytes");
            }
            Writer::NdJson(mut writer) => writer.finish().map_err(arrow)?,
            Writer::Csv(_) => {}
            Writer::Arrow(mut writer) => writer.finish().map_err(arrow)?,
            Writer::Parquet(writer) => {
                writer.close().map_err(parquet)?;
            }
        }
        Ok(self.pipe.take())
    }
}

/// Texts and bytes not as views, which older readers do not know.
fn plain_schema(schema: &Schema) -> Schema {
    let field = |field: &Arc<deltalake::arrow::datatypes::Field>| {
        let kind = match field.data_type() {
            DataType::Utf8View => DataType::Utf8,
            DataType::BinaryView => DataType::Binary,
            other => other.clone(),
        };
        field.as_ref().clone().with_data_type(kind)
    };
    Schema::new_with_metadata(schema.fields().iter().map(field).collect::<Vec<_>>(), schema.metadata().clone())
}

fn guarded(column: &ArrayRef, is_formula: fn(&str) -> bool) -> ArrayRef {
    match column.as_string_opt::<i32>() {
        Some(texts) if texts.iter().flatten().any(is_formula) => {
            let guarded = texts.iter().map(|text| text.map(|text| if is_formula(text) { format!("'{text}") } else { text.to_owned() }));
            Arc::new(guarded.collect::<StringArray>())
        }
        _ => Arc::clone(column),
    }
}

fn arrow(error: ArrowError) -> SqlError {
    DataFusionError::from(error).into()
}

fn parquet(error: deltalake::parquet::errors::ParquetError) -> SqlError {
    DataFusionError::from(error).into()
}
