//! Tables as CSV (RFC 4180): a row is what one device observed at one time, a column what it observed.
//!
//! A [`Layout`] says which column is which; without one the usual names do, and the first line is the header. Where no column tells the
//! device the topic does, where none tells the time it is that of receipt. A unit may stand in a column's name (`Temp (°C)`). What is wrong
//! with a cell costs that reading, what is wrong with a row's time, device or length costs the row.

use std::borrow::Cow;

use csv::{ReaderBuilder, StringRecord};
use hashbrown::HashMap;

use super::layout::{Beside, Layout, name_and_unit};
use super::{Form, Limits, excerpt, text, too_many, whole};
use crate::model::{
    Decoded, DeviceId, DeviceKind, Domain, Fault, Message, Position, Reading, Readings, Reason, Timestamp, Value, Vocabulary,
};

const DEVICE: [&str; 8] = ["device", "device_id", "deviceid", "sensor", "sensor_id", "station", "station_id", "serial"];
const TIME: [&str; 7] = ["time", "timestamp", "datetime", "date_time", "date time", "ts", "date"];
const LONGITUDE: [&str; 4] = ["lon", "lng", "long", "longitude"];
const LATITUDE: [&str; 2] = ["lat", "latitude"];

/// Most columns of a table.
const COLUMNS_MAX: usize = 4_096;

/// Longest word that is a reading: what is longer is a text for people.
const WORD_LEN_MAX: usize = 32;

/// Decodes one message.
pub(super) fn decode(form: &Form, message: &Message, limits: &Limits) -> Result<Decoded<'static>, Fault> {
    let text = text(message)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let named = form.layout.as_deref();
    let usual = Layout::default();
    let layout = named.unwrap_or(&usual);
    let delimiter = layout.delimiter.and_then(|delimiter| u8::try_from(delimiter).ok()).unwrap_or_else(|| delimiter(text));
    let comment = layout.comment.and_then(|comment| u8::try_from(comment).ok());
    let mut reader =
        ReaderBuilder::new().delimiter(delimiter).comment(comment).has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut record = StringRecord::new();
    let malformed = |error: &csv::Error| whole(Reason::Malformed, error.to_string());
    let header: Vec<String> = if layout.columns.is_empty() {
        if !reader.read_record(&mut record).map_err(|error| malformed(&error))? {
            return Err(whole(Reason::Empty, "a header is expected".to_owned()));
        }
        record.iter().map(|name| name.trim().to_owned()).collect()
    } else {
        layout.columns.clone()
    };
    if header.len() > COLUMNS_MAX {
        return Err(whole(Reason::Shape, format!("more than {COLUMNS_MAX} columns")));
    }
    if header.iter().all(|name| name.is_empty() || number(name, layout.decimal_comma).is_some()) {
        return Err(whole(Reason::Shape, "the first line holds numbers: a header, or columns in the layout, are expected".to_owned()));
    }
    let columns = Columns::find(named, &header).map_err(|detail| whole(Reason::Shape, detail))?;
    let mut table =
        Table { form, message, limits, layout, header: &header, columns, before: HashMap::new(), decoded: Decoded::default(), count: 0 };
    loop {
        let line = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(false) => break,
            // A line of nothing but delimiters, as spreadsheets leave them.
            Ok(true) if record.iter().all(|cell| cell.trim().is_empty()) => {}
            Ok(true) => table.row(&record, line)?,
            Err(error) => table.refuse(Reason::Malformed, format!("line {line}"), error.to_string())?,
        }
    }
    Ok(table.decoded)
}

/// Of comma, semicolon and tab the one that the first line has most.
fn delimiter(text: &str) -> u8 {
    let line = text.lines().next().unwrap_or_default();
    [b',', b';', b'\t'].into_iter().rev().max_by_key(|delimiter| line.bytes().filter(|byte| byte == delimiter).count()).unwrap_or(b',')
}

/// Which column is which.
#[derive(Debug, Default)]
struct Columns {
    device: Option<usize>,
    kind: Option<usize>,
    time: Vec<usize>,
    longitude: Option<usize>,
    latitude: Option<usize>,
    tidy: Option<(usize, usize, Option<usize>)>,
}

impl Columns {
    fn find(layout: Option<&Layout>, header: &[String]) -> Result<Self, String> {
        let Some(layout) = layout else {
            let usual = |names: &[&str]| names.iter().find_map(|name| header.iter().position(|column| column.eq_ignore_ascii_case(name)));
            let date = usual(&["date"]).zip(usual(&["time"])).map(|(date, time)| vec![date, time]);
            return Ok(Self {
                device: usual(&DEVICE),
                kind: None,
                time: date.unwrap_or_else(|| usual(&TIME).into_iter().collect()),
                longitude: usual(&LONGITUDE),
                latitude: usual(&LATITUDE),
                tidy: None,
            });
        };
        let named = |name: &String| header.iter().position(|column| column == name).ok_or_else(|| format!("there is no column {name:?}"));
        let one = |name: &Option<String>| name.as_ref().map(named).transpose();
        let tidy = match (one(&layout.property)?, one(&layout.value)?) {
            (Some(property), Some(value)) => Some((property, value, one(&layout.unit)?)),
            _ => None,
        };
        Ok(Self {
            device: one(&layout.device)?,
            kind: one(&layout.kind)?,
            time: layout.time.iter().map(named).collect::<Result<_, _>>()?,
            longitude: one(&layout.longitude)?,
            latitude: one(&layout.latitude)?,
            tidy,
        })
    }

    fn tells(&self, column: usize) -> bool {
        let told = [self.device, self.kind, self.longitude, self.latitude].contains(&Some(column));
        told || self.time.contains(&column)
    }
}

struct Table<'a> {
    form: &'a Form,
    message: &'a Message,
    limits: &'a Limits,
    layout: &'a Layout,
    header: &'a [String],
    columns: Columns,
    /// The time of a device's last row.
    before: HashMap<String, Timestamp>,
    decoded: Decoded<'static>,
    count: usize,
}

impl Table<'_> {
    fn room(&mut self) -> Result<(), Fault> {
        self.count += 1;
        if self.count > self.limits.readings_max { Err(too_many(self.limits)) } else { Ok(()) }
    }

    fn refuse(&mut self, reason: Reason, at: String, detail: String) -> Result<(), Fault> {
        self.room()?;
        self.decoded.faults.push(Fault { reason, at, detail });
        Ok(())
    }

    fn row(&mut self, record: &StringRecord, line: u64) -> Result<(), Fault> {
        let at = format!("line {line}");
        if record.len() != self.header.len() {
            let detail = format!("{} cells, the header has {}", record.len(), self.header.len());
            return self.refuse(Reason::Shape, at, detail);
        }
        let cell = |column: Option<usize>| column.and_then(|column| record.get(column)).map(str::trim).filter(|cell| !cell.is_empty());
        let names = self.form.topic.find(&self.message.topic);
        let Some(device) = cell(self.columns.device).or(names.device).filter(|device| !device.is_empty()) else {
            return self.refuse(Reason::Name, at, "neither the row nor the topic names a device".to_owned());
        };
        let time = if self.columns.time.is_empty() {
            Some(self.message.received)
        } else {
            let parts: Vec<&str> = self.columns.time.iter().map(|column| record.get(*column).unwrap_or_default().trim()).collect();
            let beside = Beside { received: self.message.received, before: self.before.get(device).copied() };
            self.layout.instant(&parts.join(" "), beside)
        };
        let Some(time) = time else {
            let told: Vec<&str> = self.columns.time.iter().filter_map(|column| record.get(*column)).collect();
            return self.refuse(Reason::InvalidTime, at, format!("{:?} is no time of the layout's form", excerpt(&told.join(" "))));
        };
        self.before.insert(device.to_owned(), time);
        let coordinate = |column| cell(column).and_then(|cell| number(cell, self.layout.decimal_comma));
        let place = coordinate(self.columns.longitude).zip(coordinate(self.columns.latitude));
        let position = place.and_then(|(longitude, latitude)| Position::new(longitude, latitude).ok());
        let kind = DeviceKind::from_foreign(cell(self.columns.kind).or(names.kind).unwrap_or("sensor"));
        let row = Row { line, device: DeviceId::from_foreign(device), kind, domain: names.domain, time, position };
        if let Some((property, value, unit)) = self.columns.tidy {
            let told = record.get(value).unwrap_or_default();
            return match cell(Some(property)) {
                Some(property) => self.cell(told, property, cell(unit), &row),
                None => self.refuse(Reason::Shape, at, "no property".to_owned()),
            };
        }
        let header = self.header;
        for ((column, name), told) in header.iter().enumerate().zip(record) {
            if !name.is_empty() && !self.columns.tells(column) && !self.layout.ignores(name) {
                let (name, unit) = name_and_unit(name);
                self.cell(told, &name, unit, &row)?;
            }
        }
        Ok(())
    }

    fn cell(&mut self, told: &str, name: &str, unit: Option<&str>, row: &Row) -> Result<(), Fault> {
        let told = told.trim();
        if self.layout.is_missing(told) {
            return Ok(());
        }
        let value = match number(told, self.layout.decimal_comma) {
            Some(number) if number.is_finite() => Value::Number(number),
            Some(_) => {
                return self.refuse(Reason::InvalidValue, format!("line {} column {name}", row.line), format!("{told} is not finite"));
            }
            None if told.len() <= WORD_LEN_MAX => Value::Word(Cow::Owned(told.to_owned())),
            None => return Ok(()),
        };
        self.room()?;
        let (name, unit) = (Cow::Owned(name.to_owned()), unit.map(|unit| Cow::Owned(unit.to_owned())));
        let reading = Reading { name, value, unit, time: row.time, position: row.position };
        match self.decoded.devices.last_mut() {
            Some(last) if last.device == row.device && last.kind == row.kind => last.readings.push(reading),
            _ => self.decoded.devices.push(Readings {
                device: row.device.clone(),
                kind: row.kind.clone(),
                domain: row.domain,
                vocabulary: Vocabulary::Sender { model: None },
                readings: vec![reading],
            }),
        }
        Ok(())
    }
}

/// Who observed a row, when and where.
struct Row {
    line: u64,
    device: DeviceId,
    kind: DeviceKind,
    domain: Option<Domain>,
    time: Timestamp,
    position: Option<Position>,
}

/// A number, with a decimal point or comma.
fn number(text: &str, decimal_comma: bool) -> Option<f64> {
    let text = text.trim();
    let is_plain = text.starts_with(|first: char| first.is_ascii_digit() || "+-.,".contains(first));
    let text = if decimal_comma { Cow::Owned(text.replace(',', ".")) } else { Cow::Borrowed(text) };
    if is_plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
