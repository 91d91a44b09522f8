//! Apache Parquet, zstd.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use deltalake::arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, StringViewArray, TimestampMicrosecondArray,
};
use deltalake::arrow::compute::cast;
use deltalake::arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use deltalake::parquet::arrow::ArrowWriter;
use deltalake::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::file::properties::WriterProperties;

use super::{
    DEVICE, DISTRICT, DOMAIN, FLAGS, KIND, LATITUDE, LONGITUDE, ORIGINAL_UNIT, ORIGINAL_VALUE, PROPERTY, Row, RowError, RowReader,
    RowWriter, TIME, UNIT, VALUE, domain,
};
use crate::model::{DeviceId, DeviceKind, Original, Position, Timestamp};

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn schema() -> SchemaRef {
    let field = |name: &str, kind: DataType| Field::new(name, kind, false);
    let optional = |name: &str, kind: DataType| Field::new(name, kind, true);
    Arc::new(Schema::new(vec![
        field(TIME, time_type()),
        field(DEVICE, DataType::Utf8),
        field(KIND, DataType::Utf8),
        field(DOMAIN, DataType::Utf8),
        field(PROPERTY, DataType::Utf8),
        field(VALUE, DataType::Float64),
        field(UNIT, DataType::Utf8),
        field(FLAGS, DataType::Utf8),
        optional(DISTRICT, DataType::Utf8),
        optional(LONGITUDE, DataType::Float64),
        optional(LATITUDE, DataType::Float64),
        optional(ORIGINAL_VALUE, DataType::Float64),
        optional(ORIGINAL_UNIT, DataType::Utf8),
    ]))
}

pub(super) struct Writer<W: Write + Send>(ArrowWriter<W>);

impl<W: Write + Send> Writer<W> {
    pub(super) fn new(output: W) -> Result<Self, RowError> {
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        Ok(Self(ArrowWriter::try_new(output, schema(), Some(properties))?))
    }
}

impl<W: Write + Send> RowWriter for Writer<W> {
    fn write(&mut self, rows: &[Row]) -> Result<(), RowError> {
        let texts = |text: fn(&Row) -> &str| Arc::new(StringArray::from_iter_values(rows.iter().map(text))) as ArrayRef;
        let words = |text: fn(&Row) -> Option<&str>| Arc::new(rows.iter().map(text).collect::<StringArray>()) as ArrayRef;
        let numbers = |number: fn(&Row) -> Option<f64>| Arc::new(rows.iter().map(number).collect::<Float64Array>()) as ArrayRef;
        let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.time.micros()));
        let columns = vec![
            Arc::new(times.with_timezone("UTC")) as ArrayRef,
            texts(|row| row.device.as_str()),
            texts(|row| row.kind.as_str()),
            texts(|row| row.domain.as_str()),
            texts(|row| &row.property),
            numbers(|row| Some(row.value)),
            texts(|row| &row.unit),
            texts(|row| &row.flags),
            words(|row| row.district.as_deref()),
            numbers(|row| row.position.map(Position::longitude)),
            numbers(|row| row.position.map(Position::latitude)),
            numbers(|row| row.original.as_ref().map(|original| original.value)),
            words(|row| row.original.as_ref().map(|original| original.unit.as_str())),
        ];
        Ok(self.0.write(&RecordBatch::try_new(schema(), columns)?)?)
    }

    fn finish(self: Box<Self>) -> Result<(), RowError> {
        let mut output = self.0.into_inner()?;
        Ok(output.flush()?)
    }
}

pub(super) fn read(file: File) -> Result<RowReader, RowError> {
    let batches = ParquetRecordBatchReaderBuilder::try_new(file)?.build()?;
    let mut before = 0;
    Ok(Box::new(batches.flat_map(move |batch| {
        let rows = batch.map_err(RowError::from).and_then(|batch| rows(&batch, before));
        match rows {
            Ok(rows) => {
                before += rows.len();
                rows
            }
            Err(error) => vec![Err(error)],
        }
    })))
}

/// The observations of a batch, which has so many rows before it.
fn rows(batch: &RecordBatch, before: usize) -> Result<Vec<Result<Row, RowError>>, RowError> {
    let column = |name: &str, kind: &DataType| match batch.column_by_name(name) {
        Some(column) => Ok(cast(column, kind)?),
        None => Err(RowError::row("the file")(format!("the column {name} is missing"))),
    };
    let text = |name: &str| Ok::<_, RowError>(column(name, &DataType::Utf8View)?.as_string_view().clone());
    let number = |name: &str| Ok::<_, RowError>(column(name, &DataType::Float64)?.as_primitive::<Float64Type>().clone());
    let times = column(TIME, &time_type())?.as_primitive::<TimestampMicrosecondType>().clone();
    let (device, kind, domains, property) = (text(DEVICE)?, text(KIND)?, text(DOMAIN)?, text(PROPERTY)?);
    let (values, units, flags, district) = (number(VALUE)?, text(UNIT)?, text(FLAGS)?, text(DISTRICT)?);
    let (longitude, latitude) = (number(LONGITUDE)?, number(LATITUDE)?);
    let (original_value, original_unit) = (number(ORIGINAL_VALUE)?, text(ORIGINAL_UNIT)?);
    let row = |row: usize| {
        let word = |column: &StringViewArray| column.is_valid(row).then(|| column.value(row).to_owned());
        let digits = |column: &Float64Array| column.is_valid(row).then(|| column.value(row));
        let named = |name: &str, error: crate::model::InvalidName| format!("{name}: {error}");
        let value = digits(&values).filter(|value| value.is_finite());
        let original = digits(&original_value).zip(word(&original_unit));
        Row {
            time: Timestamp::from_micros(times.value(row)).map_err(|error| format!("{TIME}: {error}"))?,
            device: DeviceId::try_from(device.value(row)).map_err(|error| named(DEVICE, error))?,
            kind: DeviceKind::try_from(kind.value(row)).map_err(|error| named(KIND, error))?,
            domain: domain(domains.value(row))?,
            property: property.value(row).to_owned(),
            value: value.ok_or_else(|| format!("{VALUE} is no number"))?,
            unit: word(&units).unwrap_or_default(),
            flags: word(&flags).unwrap_or_default(),
            district: word(&district),
            position: None,
            original: original.map(|(value, unit)| Original { value, unit }),
        }
        .at(digits(&longitude), digits(&latitude))
    };
    Ok((0..batch.num_rows()).map(|index| row(index).map_err(RowError::row(format!("row {}", before + index + 1)))).collect())
}
