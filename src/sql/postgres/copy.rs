//! `COPY … TO STDOUT`: whole answers without the frames of rows, for `psql`'s `\copy`, ADBC and what loads tables.
//!
//! In PostgreSQL's text, CSV and binary formats. Left out: `COPY … FROM`, files and programs of the server, `FORCE_QUOTE`, encodings
//! other than UTF-8. In CSV an empty text and no text are alike, where PostgreSQL quotes the former.

use std::fmt::Debug;
use std::sync::Arc;

use datafusion_postgres::arrow_pg::encoder::{Encoder as _, encode_value};
use datafusion_postgres::pgwire::api::portal::Format;
use datafusion_postgres::pgwire::api::results::{CopyCsvOptions, CopyEncoder, CopyTextOptions, FieldFormat, FieldInfo, Response, Tag};
use datafusion_postgres::pgwire::error::{PgWireError, PgWireResult};
use datafusion_postgres::pgwire::messages::PgWireBackendMessage;
use datafusion_postgres::pgwire::messages::copy::{CopyData, CopyDone, CopyOutResponse};
use deltalake::arrow::array::RecordBatch;
use deltalake::datafusion::sql::sqlparser::ast::{
    CopyLegacyCsvOption, CopyLegacyOption, CopyOption, CopySource, CopyTarget, Statement as Tree,
};
use futures::{Sink, SinkExt as _, StreamExt as _};

use super::session::{Batches, refusal};
use crate::sql::{SqlError, statement};

/// What stands before the rows in the binary format: a signature, no flags, no extension.
const BINARY_HEADER: &[u8] = b"PGCOPY\n\xFF\r\n\0\0\0\0\0\0\0\0\0";
/// What stands behind them: a number of columns that no row has.
const BINARY_TRAILER: &[u8] = b"\xFF\xFF";

/// How rows are written.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    form: Form,
    has_header: bool,
}

#[derive(Clone, Debug)]
enum Form {
    Text(CopyTextOptions),
    Csv(CopyCsvOptions),
    Binary,
}

impl Copy {
    /// What is copied, as a statement of its own, and how; `None` for what is no `COPY`.
    pub(super) fn of(tree: &Tree) -> PgWireResult<Option<(Tree, Self)>> {
        let Tree::Copy { source, to, target, options, legacy_options, .. } = tree else { return Ok(None) };
        if !*to || *target != CopyTarget::Stdout {
            return Err(refusal("ERROR", "25006", "only COPY … TO STDOUT is possible here".to_owned()));
        }
        let reading = match source {
            CopySource::Query(query) => Tree::Query(query.clone()),
            CopySource::Table { table_name, columns } => {
                let columns = columns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let columns = if columns.is_empty() { "*" } else { &columns };
                let sql = format!("SELECT {columns} FROM {table_name}");
                statement::parse(&sql).map_err(|error| refusal("ERROR", "42601", error.to_string()))?
            }
        };
        Ok(Some((reading, Self::with(Asked::of(options, legacy_options)?)?)))
    }

    fn with(asked: Asked) -> PgWireResult<Self> {
        let Asked { format, has_header, delimiter, null, quote } = asked;
        let form = match format.as_str() {
            "text" => {
                let mut options = CopyTextOptions::default();
                options.delimiter = delimiter.map_or(options.delimiter, |delimiter| delimiter.to_string().into());
                options.null_string = null.map_or(options.null_string, Into::into);
                Form::Text(options)
            }
            "csv" => {
                let mut options = CopyCsvOptions::default();
                options.delimiter = delimiter.map_or(options.delimiter, |delimiter| delimiter.to_string().into());
                options.null_string = null.map_or(options.null_string, Into::into);
                options.quote = quote.map_or(options.quote, |quote| quote.to_string().into());
                Form::Csv(options)
            }
            "binary" => Form::Binary,
            other => return Err(refusal("ERROR", "22023", format!("COPY format \"{other}\" not recognized: text, csv and binary are"))),
        };
        if [delimiter, quote].into_iter().flatten().any(|character| !character.is_ascii()) {
            return Err(refusal("ERROR", "0A000", "COPY delimiter and quote must be characters of one byte".to_owned()));
        }
        if has_header && matches!(form, Form::Binary) {
            return Err(refusal("ERROR", "0A000", "cannot specify HEADER in BINARY mode".to_owned()));
        }
        Ok(Self { form, has_header })
    }

    /// In which format the columns' values are.
    pub(super) fn values(&self) -> Format {
        match self.form {
            Form::Text(_) | Form::Csv(_) => Format::UnifiedText,
            Form::Binary => Format::UnifiedBinary,
        }
    }

    fn encoder(&self, fields: Arc<Vec<FieldInfo>>) -> CopyEncoder {
        match &self.form {
            Form::Text(options) => CopyEncoder::new_text(fields, options.clone()),
            Form::Csv(options) => CopyEncoder::new_csv(fields, options.clone()),
            Form::Binary => CopyEncoder::new_binary(fields),
        }
    }

    /// Sends all rows. Unlike the library's own way, no row is needed for a whole answer, and one that breaks off ends with its error.
    pub(super) async fn send<C>(
        &self,
        client: &mut C,
        fields: Arc<Vec<FieldInfo>>,
        mut batches: Batches,
        error: impl Fn(&SqlError) -> PgWireError,
    ) -> PgWireResult<Response>
    where
        C: Sink<PgWireBackendMessage> + Unpin + Send,
        C::Error: Debug,
        PgWireError: From<C::Error>,
    {
        let code = i16::from(matches!(self.form, Form::Binary));
        let columns = i16::try_from(fields.len()).map_err(|_too_many| refusal("ERROR", "54011", "too many columns".to_owned()))?;
        let begin = CopyOutResponse::new(i8::from(matches!(self.form, Form::Binary)), columns, vec![code; fields.len()]);
        client.send(PgWireBackendMessage::CopyOutResponse(begin)).await?;
        if self.has_header {
            let names: Vec<_> = fields.iter().map(|field| text(field.name())).collect();
            let mut encoder = self.encoder(Arc::new(names));
            for field in fields.iter() {
                encoder.encode_field(&field.name())?;
            }
            client.feed(PgWireBackendMessage::CopyData(encoder.take_copy())).await?;
        }
        let mut encoder = self.encoder(Arc::clone(&fields));
        let mut rows = 0;
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|problem| error(&problem))?;
            for row in 0..batch.num_rows() {
                client.feed(PgWireBackendMessage::CopyData(encoded(&mut encoder, &fields, &batch, row)?)).await?;
            }
            rows += batch.num_rows();
        }
        if matches!(self.form, Form::Binary) {
            let end = if rows == 0 { [BINARY_HEADER, BINARY_TRAILER].concat() } else { BINARY_TRAILER.to_vec() };
            client.feed(PgWireBackendMessage::CopyData(CopyData::new(end.into()))).await?;
        }
        client.send(PgWireBackendMessage::CopyDone(CopyDone::new())).await?;
        Ok(Response::Execution(Tag::new("COPY").with_rows(rows)))
    }
}

fn encoded(encoder: &mut CopyEncoder, fields: &[FieldInfo], batch: &RecordBatch, row: usize) -> PgWireResult<CopyData> {
    let schema = batch.schema();
    for ((array, column), field) in batch.columns().iter().zip(schema.fields()).zip(fields) {
        encode_value(encoder, array, row, column, field)?;
    }
    Ok(encoder.take_row())
}

fn text(name: &str) -> FieldInfo {
    FieldInfo::new(name.to_owned(), None, None, datafusion_postgres::pgwire::api::Type::TEXT, FieldFormat::Text)
}

/// Options, in the grammar of today and in that of `PostgreSQL` 8, which `psql` still speaks.
#[derive(Debug)]
struct Asked {
    format: String,
    has_header: bool,
    delimiter: Option<char>,
    null: Option<String>,
    quote: Option<char>,
}

impl Asked {
    fn of(options: &[CopyOption], legacy: &[CopyLegacyOption]) -> PgWireResult<Self> {
        let mut asked = Self { format: "text".to_owned(), has_header: false, delimiter: None, null: None, quote: None };
        let unknown = |option: &dyn std::fmt::Display| refusal("ERROR", "0A000", format!("COPY does not know {option} here"));
        for option in options {
            match option {
                CopyOption::Format(format) => asked.format = format.value.to_lowercase(),
                CopyOption::Header(has_header) => asked.has_header = *has_header,
                CopyOption::Delimiter(delimiter) => asked.delimiter = Some(*delimiter),
                CopyOption::Null(null) => asked.null = Some(null.clone()),
                CopyOption::Quote(quote) => asked.quote = Some(*quote),
                CopyOption::Escape(escape) if *escape == asked.quote.unwrap_or('"') => {}
                CopyOption::Encoding(encoding) if encoding.to_lowercase().replace('-', "") == "utf8" => {}
                other => return Err(unknown(other)),
            }
        }
        for option in legacy {
            match option {
                CopyLegacyOption::Binary => "binary".clone_into(&mut asked.format),
                CopyLegacyOption::Delimiter(delimiter) => asked.delimiter = Some(*delimiter),
                CopyLegacyOption::Null(null) => asked.null = Some(null.clone()),
                CopyLegacyOption::Header => asked.has_header = true,
                CopyLegacyOption::Csv(options) => {
                    "csv".clone_into(&mut asked.format);
                    for option in options {
                        match option {
                            CopyLegacyCsvOption::Header => asked.has_header = true,
                            CopyLegacyCsvOption::Quote(quote) => asked.quote = Some(*quote),
                            CopyLegacyCsvOption::Escape(escape) if *escape == asked.quote.unwrap_or('"') => {}
                            other => return Err(unknown(other)),
                        }
                    }
                }
                other => return Err(unknown(other)),
            }
        }
        Ok(asked)
    }
}
