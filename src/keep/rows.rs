//! Observations as files: CSV, InfluxDB line protocol, Parquet; the same columns in each.

mod csv;
mod lines;
mod parquet;

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use clap::ValueEnum;

use crate::model::{DeviceId, DeviceKind, Domain, Original, Position, Timestamp};

/// The names of the columns. Those that an import does not look at are for people: it judges and places observations anew.
const TIME: &str = "time";
const DEVICE: &str = "device";
const KIND: &str = "kind";
const DOMAIN: &str = "domain";
const PROPERTY: &str = "property";
const VALUE: &str = "value";
const UNIT: &str = "unit";
const FLAGS: &str = "flags";
const DISTRICT: &str = "district";
const LONGITUDE: &str = "longitude";
const LATITUDE: &str = "latitude";
const ORIGINAL_VALUE: &str = "original_value";
const ORIGINAL_UNIT: &str = "original_unit";

/// A form of files of observations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RowFormat {
    /// RFC 4180, with a line of names.
    Csv,
    /// InfluxDB line protocol, times in nanoseconds.
    InfluxLine,
    /// Apache Parquet.
    Parquet,
}

impl RowFormat {
    /// What a file's name says of its form.
    pub(super) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "csv" => Some(Self::Csv),
            "lp" | "line" | "txt" => Some(Self::InfluxLine),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// An observation with all that is needed to send it again.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) time: Timestamp,
    pub(super) device: DeviceId,
    pub(super) kind: DeviceKind,
    pub(super) domain: Domain,
    pub(super) property: String,
    pub(super) value: f64,
    pub(super) unit: String,
    /// Words of what is suspect about it.
    pub(super) flags: String,
    pub(super) district: Option<String>,
    pub(super) position: Option<Position>,
    pub(super) original: Option<Original>,
}

/// A file of observations cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// What is in it; where.
    #[error("{at}: {problem}")]
    Row { at: String, problem: String },
    /// The file.
    #[error("cannot read or write")]
    Io(#[from] std::io::Error),
    /// CSV.
    #[error("not CSV")]
    Csv(#[from] ::csv::Error),
    /// Parquet.
    #[error("not Parquet")]
    Parquet(#[from] deltalake::parquet::errors::ParquetError),
    /// The columns of Parquet.
    #[error("not the columns of observations")]
    Arrow(#[from] deltalake::arrow::error::ArrowError),
}

impl RowError {
    fn row(at: impl Into<String>) -> impl FnOnce(String) -> Self {
        let at = at.into();
        move |problem| Self::Row { at, problem }
    }
}

/// A file of observations in the making.
pub(super) trait RowWriter {
    /// Appends observations.
    fn write(&mut self, rows: &[Row]) -> Result<(), RowError>;

    /// Writes what a form has at its end.
    fn finish(self: Box<Self>) -> Result<(), RowError>;
}

/// The observations of a file, one by one.
pub(super) type RowReader = Box<dyn Iterator<Item = Result<Row, RowError>>>;

/// Begins a file.
pub(super) fn writer(format: RowFormat, output: impl Write + Send + 'static) -> Result<Box<dyn RowWriter>, RowError> {
    Ok(match format {
        RowFormat::Csv => Box::new(csv::Writer::new(output)?),
        RowFormat::InfluxLine => Box::new(lines::Writer::new(output)),
        RowFormat::Parquet => Box::new(parquet::Writer::new(output)?),
    })
}

/// Reads a file.
pub(super) fn reader(format: RowFormat, path: &Path) -> Result<RowReader, RowError> {
    let file = File::open(path)?;
    match format {
        RowFormat::Parquet => parquet::read(file),
        text => text_reader(text, file),
    }
}

/// Reads what comes in one of the forms of text.
pub(super) fn text_reader(format: RowFormat, input: impl Read + 'static) -> Result<RowReader, RowError> {
    match format {
        RowFormat::Csv => csv::read(input),
        RowFormat::InfluxLine => Ok(lines::read(BufReader::new(input))),
        RowFormat::Parquet => Err(RowError::row("standard input")("Parquet is read from its end: give it as a file".to_owned())),
    }
}

impl Row {
    /// Reads an observation from texts by name; an empty one is none.
    fn of<'a>(text: impl Fn(&str) -> Option<&'a str>) -> Result<Self, String> {
        let text = |name: &str| text(name).filter(|text| !text.is_empty());
        let needed = |name: &str| text(name).ok_or_else(|| format!("{name} is missing"));
        let number = |name: &str| {
            let number = text(name).map(|text| text.parse::<f64>().ok().filter(|number| number.is_finite()).ok_or(text)).transpose();
            number.map_err(|text| format!("{name} is {text:?} where a number is expected"))
        };
        let time = needed(TIME)?;
        let names = (needed(DEVICE)?, needed(KIND)?, needed(DOMAIN)?);
        Self {
            time: time.parse().map_err(|error| format!("{TIME} is {time:?}: {error}"))?,
            device: DeviceId::try_from(names.0).map_err(|error| format!("{DEVICE} {:?}: {error}", names.0))?,
            kind: DeviceKind::try_from(names.1).map_err(|error| format!("{KIND} {:?}: {error}", names.1))?,
            domain: domain(names.2)?,
            property: needed(PROPERTY)?.to_owned(),
            value: number(VALUE)?.ok_or_else(|| format!("{VALUE} is missing"))?,
            unit: text(UNIT).unwrap_or_default().to_owned(),
            flags: text(FLAGS).unwrap_or_default().to_owned(),
            district: text(DISTRICT).map(str::to_owned),
            position: None,
            original: number(ORIGINAL_VALUE)?.zip(text(ORIGINAL_UNIT)).map(|(value, unit)| Original { value, unit: unit.to_owned() }),
        }
        .at(number(LONGITUDE)?, number(LATITUDE)?)
    }

    fn at(self, longitude: Option<f64>, latitude: Option<f64>) -> Result<Self, String> {
        let position = longitude.zip(latitude).map(|(longitude, latitude)| Position::new(longitude, latitude)).transpose();
        Ok(Self { position: position.map_err(|error| format!("the position: {error}"))?, ..self })
    }
}

/// The domain of that word; that of devices which have told of nothing but themselves is one too.
pub(super) fn domain(word: &str) -> Result<Domain, String> {
    Domain::ALL.into_iter().find(|domain| domain.as_str() == word).ok_or_else(|| format!("{DOMAIN} {word:?} is unknown"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    /// What was written, kept for who wrote it.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn rows() -> Vec<Row> {
        let row = Row {
            time: "2026-03-01T08:00:00.123456Z".parse().unwrap(),
            device: DeviceId::try_from("a-1").unwrap(),
            kind: DeviceKind::try_from("air-station").unwrap(),
            domain: Domain::Environment,
            property: "pm10".to_owned(),
            value: 0.1 + 0.2,
            unit: "ug/m3".to_owned(),
            flags: String::new(),
            district: None,
            position: None,
            original: None,
        };
        let original = Some(Original { value: 64.9, unit: "[degF]".to_owned() });
        let odd = Row { unit: "a \"b\\c, d".to_owned(), flags: "spike past".to_owned(), district: Some("pa-c1".to_owned()), ..row.clone() };
        let old = Row { time: "1900-01-01T00:00:00Z".parse().unwrap(), value: -1e-7, domain: Domain::Device, ..row.clone() };
        vec![row, Row { position: Position::new(13.36, -38.1).ok(), original, ..odd }, old]
    }

    #[test]
    fn what_is_written_is_read_back_in_every_form() {
        for format in RowFormat::value_variants() {
            let kept = Kept::default();
            let mut written = writer(*format, kept.clone()).unwrap();
            let (first, rest) = (&rows()[..1], &rows()[1..]);
            written.write(first).unwrap();
            written.write(rest).unwrap();
            written.finish().unwrap();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &*kept.0.lock()).unwrap();
            let read: Vec<Row> = reader(*format, file.path()).unwrap().collect::<Result<_, _>>().unwrap();
            assert_eq!(read, rows(), "{format:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let check = |format, text: &str, expected: &str| {
            let read =
                text_reader(format, std::io::Cursor::new(text.to_owned().into_bytes())).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            assert_eq!(crate::error_chain(&read.unwrap_err()), expected);
        };
        let header = "time,device,kind,domain,property,value";
        check(RowFormat::Csv, "time,device\n", "line 1: the columns kind, domain, property, value are missing");
        check(
            RowFormat::Csv,
            &format!("{header}\n2026-01-01T00:00:00Z,a,k,energy,power_active,x\n"),
            "line 2: value is \"x\" where a number is expected",
        );
        check(
            RowFormat::Csv,
            &format!("{header}\nyesterday,a,k,energy,p,1\n"),
            "line 2: time is \"yesterday\": not an RFC 3339 date-time with offset between 1900 and 2200",
        );
        check(RowFormat::Csv, &format!("{header}\n2026-01-01T00:00:00Z,a,k,war,p,1\n"), "line 2: domain \"war\" is unknown");
        check(RowFormat::InfluxLine, "# told\n\nobservation,device=a value=1 0\n", "line 3: kind is missing");
        check(RowFormat::InfluxLine, "observation,device=a,kind=k,domain=energy,property=p value=1\n", "line 1: time is missing");
        check(RowFormat::Parquet, "", "standard input: Parquet is read from its end: give it as a file");
    }
}
