//! InfluxDB line protocol: what names an observation are tags, the rest are fields.

use std::io::{BufRead, Write};

use influxdb_line_protocol::{FieldValue, parse_lines};

use super::{
    DEVICE, DISTRICT, DOMAIN, FLAGS, KIND, LATITUDE, LONGITUDE, ORIGINAL_UNIT, ORIGINAL_VALUE, PROPERTY, Row, RowError, RowReader,
    RowWriter, TIME, UNIT, VALUE,
};
use crate::model::{Position, Timestamp};

const MEASUREMENT: &str = "observation";

pub(super) struct Writer<W: Write>(std::io::BufWriter<W>);

impl<W: Write> Writer<W> {
    pub(super) fn new(output: W) -> Self {
        Self(std::io::BufWriter::new(output))
    }
}

impl<W: Write> RowWriter for Writer<W> {
    fn write(&mut self, rows: &[Row]) -> Result<(), RowError> {
        for row in rows {
            // Names have no character that would have to be escaped.
            write!(self.0, "{MEASUREMENT},{DEVICE}={},{DOMAIN}={},{KIND}={}", row.device, row.domain.as_str(), row.kind)?;
            write!(self.0, ",{PROPERTY}={} {VALUE}={}", row.property, row.value)?;
            let original = row.original.as_ref();
            let numbers = [
                (LONGITUDE, row.position.map(Position::longitude)),
                (LATITUDE, row.position.map(Position::latitude)),
                (ORIGINAL_VALUE, original.map(|original| original.value)),
            ];
            for (name, number) in numbers.into_iter().filter_map(|(name, number)| Some((name, number?))) {
                write!(self.0, ",{name}={number}")?;
            }
            let texts = [
                (UNIT, row.unit.as_str()),
                (FLAGS, row.flags.as_str()),
                (DISTRICT, row.district.as_deref().unwrap_or_default()),
                (ORIGINAL_UNIT, original.map(|original| original.unit.as_str()).unwrap_or_default()),
            ];
            for (name, text) in texts.into_iter().filter(|(_name, text)| !text.is_empty()) {
                write!(self.0, ",{name}=\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))?;
            }
            writeln!(self.0, " {}", row.time.micros() * 1_000)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), RowError> {
        Ok(self.0.flush()?)
    }
}

pub(super) fn read(input: impl BufRead + 'static) -> RowReader {
    let lines = (1_u64..).zip(input.lines());
    Box::new(lines.filter_map(|(number, line)| match line {
        Ok(line) => row(&line).map(|row| row.map_err(RowError::row(format!("line {number}")))),
        Err(error) => Some(Err(error.into())),
    }))
}

/// The observation of a line; none of an empty one or a comment.
fn row(line: &str) -> Option<Result<Row, String>> {
    Some(parse_lines(line).next()?.map_err(|error| error.to_string()).and_then(|line| {
        let mut texts: Vec<(String, String)> =
            line.series.tag_set.iter().flatten().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        texts.extend(line.field_set.iter().map(|(key, value)| (key.to_string(), text(value))));
        let time = line.timestamp.map(|nanos| Timestamp::from_micros(nanos.div_euclid(1_000)).map_err(|error| error.to_string()));
        texts.extend(time.transpose()?.map(|time| (TIME.to_owned(), time.to_string())));
        Row::of(|name| texts.iter().find(|(key, _text)| key == name).map(|(_key, text)| text.as_str()))
    }))
}

fn text(value: &FieldValue<'_>) -> String {
    match value {
        FieldValue::I64(number) => number.to_string(),
        FieldValue::U64(number) => number.to_string(),
        FieldValue::F64(number) => number.to_string(),
        FieldValue::String(text) => text.to_string(),
        FieldValue::Boolean(truth) => truth.to_string(),
    }
}
