//! CSV, RFC 4180.

use std::io::{Read, Write};

use super::{
    DEVICE, DISTRICT, DOMAIN, FLAGS, KIND, LATITUDE, LONGITUDE, ORIGINAL_UNIT, ORIGINAL_VALUE, PROPERTY, Row, RowError, RowReader,
    RowWriter, TIME, UNIT, VALUE,
};
use crate::model::Position;

const COLUMNS: [&str; 13] =
    [TIME, DEVICE, KIND, DOMAIN, PROPERTY, VALUE, UNIT, FLAGS, DISTRICT, LONGITUDE, LATITUDE, ORIGINAL_VALUE, ORIGINAL_UNIT];

/// Those that an import cannot do without.
const NEEDED: [&str; 6] = [TIME, DEVICE, KIND, DOMAIN, PROPERTY, VALUE];

pub(super) struct Writer<W: Write>(csv::Writer<W>);

impl<W: Write> Writer<W> {
    pub(super) fn new(output: W) -> Result<Self, RowError> {
        let mut writer = csv::Writer::from_writer(output);
        writer.write_record(COLUMNS)?;
        Ok(Self(writer))
    }
}

impl<W: Write> RowWriter for Writer<W> {
    fn write(&mut self, rows: &[Row]) -> Result<(), RowError> {
        let number = |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
        for row in rows {
            self.0.write_record([
                &row.time.to_string(),
                row.device.as_str(),
                row.kind.as_str(),
                row.domain.as_str(),
                &row.property,
                &row.value.to_string(),
                &row.unit,
                &row.flags,
                row.district.as_deref().unwrap_or_default(),
                &number(row.position.map(Position::longitude)),
                &number(row.position.map(Position::latitude)),
                &number(row.original.as_ref().map(|original| original.value)),
                row.original.as_ref().map(|original| original.unit.as_str()).unwrap_or_default(),
            ])?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), RowError> {
        Ok(self.0.flush()?)
    }
}

pub(super) fn read(input: impl Read + 'static) -> Result<RowReader, RowError> {
    let mut reader = csv::Reader::from_reader(input);
    let header = reader.headers()?.clone();
    let missing: Vec<&str> = NEEDED.into_iter().filter(|name| !header.iter().any(|column| column == *name)).collect();
    if !missing.is_empty() {
        return Err(RowError::row("line 1")(format!("the columns {} are missing", missing.join(", "))));
    }
    Ok(Box::new(reader.into_records().map(move |record| {
        let record = record?;
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |name: &str| header.iter().position(|column| column == name).and_then(|column| record.get(column));
        Row::of(cell).map_err(RowError::row(format!("line {line}")))
    })))
}
