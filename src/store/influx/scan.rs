//! Questions: Flux out, CSV in, rows as they come.
//!
//! InfluxDB gives one field after another, `value` as the last of them by name. So the other fields, which are sparse, are kept until
//! the values come.

use std::fmt::Write as _;
use std::io::Read;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use csv::{ReaderBuilder, StringRecord};
use futures::{StreamExt, stream};
use hashbrown::HashMap;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Influx, InfluxError, NONE};
use crate::model::{DistrictIndex, Original, Position, PropertyIndex, Timestamp};
use crate::state::{DeviceIndex, Place};
use crate::store::{Chunk, Chunks, Detail, LakeError, NO_DISTRICT, Selection};

/// Rows of a chunk.
const CHUNK_ROWS: usize = 8_192;

/// Chunks that may be ahead of whoever takes them.
const CHUNKS_AHEAD: usize = 4;

/// Parts of an answer's body that may be ahead of whoever reads it.
const PARTS_AHEAD: usize = 16;

/// Observations of one question that may have more to say than their value: they are kept until the values come.
const DETAILS_MAX: usize = 2_000_000;

/// Longest list of devices that InfluxDB is told; a longer one is left to this side.
const DEVICES_IN_QUESTION: usize = 200;

impl Influx {
    /// All observations of a selection that InfluxDB has, each identity once, series by series and in each by time.
    pub fn scan(self: &Arc<Self>, selection: Selection, detail: Detail) -> Chunks {
        if selection.from >= selection.to || selection.devices.as_ref().is_some_and(Vec::is_empty) {
            return stream::empty().boxed();
        }
        let influx = Arc::clone(self);
        let flux = self.flux(&selection, detail);
        let (chunks, found) = mpsc::channel(CHUNKS_AHEAD);
        tokio::spawn(async move {
            let told = chunks.clone();
            let asked = async move {
                let body = influx.ask(&flux).await?;
                let rows = Rows::new(&influx, selection, detail);
                let read = tokio::task::spawn_blocking(move || rows.read(body, &chunks));
                read.await.unwrap_or_else(|_panic| Err(InfluxError::Answer("it cannot be read".to_owned())))
            };
            // Whoever gives up the question ends the waiting for its answer.
            tokio::select! {
                () = told.closed() => {}
                asked = asked => if let Err(error) = asked {
                    // Nobody may be left to hear of it.
                    drop(told.send(Err(LakeError::Influx(error))).await);
                }
            }
        });
        ReceiverStream::new(found).boxed()
    }

    /// The time of the oldest observation; `None` where there is none.
    pub async fn oldest_time(self: &Arc<Self>) -> Result<Option<Timestamp>, InfluxError> {
        let flux = format!(
            "from(bucket: {}) |> range(start: 1900-01-01T00:00:00Z, stop: 2200-01-01T00:00:00Z) \
             |> filter(fn: (r) => r._measurement == \"observation\" and r._field == \"value\") |> first() \
             |> keep(columns: [\"_time\"]) |> group() |> min(column: \"_time\")",
            literal(&self.settings.bucket)
        );
        let mut body = self.ask(&flux).await?;
        let text = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            body.read_to_string(&mut text).map(|_bytes| text)
        });
        let text = text.await.map_err(|_stopped| InfluxError::Answer("it cannot be read".to_owned()))?;
        let text = text.map_err(|error| InfluxError::Answer(error.to_string()))?;
        let time = text.lines().filter_map(|line| line.rsplit(',').find_map(|cell| cell.trim().parse::<Timestamp>().ok())).next();
        Ok(time)
    }

    fn flux(&self, selection: &Selection, detail: Detail) -> String {
        let mut flux = format!(
            "from(bucket: {}) |> range(start: {}, stop: {}) |> filter(fn: (r) => r._measurement == \"observation\"",
            literal(&self.settings.bucket),
            selection.from,
            selection.to
        );
        let properties = selection.properties.iter().map(|property| self.catalogue.get(*property).id.as_str());
        one_of(&mut flux, "property", properties);
        if let Some(devices) = selection.devices.as_ref().filter(|devices| devices.len() <= DEVICES_IN_QUESTION) {
            let state = self.live.read();
            one_of(&mut flux, "device", devices.iter().map(|device| state.device(*device).id.as_str()));
        }
        let mut fields = vec!["value", "flags"];
        if detail != Detail::Values || !selection.districts.is_empty() {
            fields.push("district");
        }
        if detail == Detail::All || selection.area.is_some() {
            fields.extend(["longitude", "latitude", "located"]);
        }
        if detail == Detail::All {
            fields.extend(["original_value", "original_unit"]);
        }
        one_of(&mut flux, "_field", fields.into_iter());
        flux.push_str(") |> drop(columns: [\"_start\", \"_stop\", \"_measurement\"])");
        flux
    }

    /// Asks, and gives the answer's body as it comes.
    async fn ask(&self, flux: &str) -> Result<Body, InfluxError> {
        let url = format!("{}/api/v2/query", self.settings.url.trim_end_matches('/'));
        let question = json!({ "query": flux, "type": "flux", "dialect": { "header": true, "annotations": [] } });
        let answer = self
            .questions
            .post(url)
            .query(&[("org", &self.settings.org)])
            .header("Authorization", format!("Token {}", self.settings.token.reveal()))
            .header("Content-Type", "application/json")
            .body(question.to_string())
            .send()
            .await?;
        let status = answer.status();
        if !status.is_success() {
            let text = answer.text().await.unwrap_or_default();
            return Err(InfluxError::Refused { status: status.as_u16(), text: text.chars().take(500).collect() });
        }
        let (parts, body) = mpsc::channel(PARTS_AHEAD);
        let mut stream = answer.bytes_stream();
        tokio::spawn(async move {
            while let Some(part) = stream.next().await {
                if parts.send(part.map_err(std::io::Error::other)).await.is_err() {
                    break;
                }
            }
        });
        Ok(Body { parts: body, part: Bytes::new() })
    }
}

/// An answer's body, to be read on a thread that may wait for it.
struct Body {
    parts: mpsc::Receiver<std::io::Result<Bytes>>,
    part: Bytes,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.part.is_empty() {
            match self.parts.blocking_recv() {
                Some(part) => self.part = part?,
                None => return Ok(0),
            }
        }
        let mut part = self.part.split_to(buffer.len().min(self.part.len()));
        let length = part.len();
        if let Some(taken) = buffer.get_mut(..length) {
            part.copy_to_slice(taken);
        }
        Ok(length)
    }
}

/// A text as Flux has it.
fn literal(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace("${", "\\${").replace('\n', "\\n"))
}

/// Appends a condition; none where nothing is asked for.
fn one_of<'a>(flux: &mut String, column: &str, values: impl Iterator<Item = &'a str>) {
    let mut values = values.peekable();
    if values.peek().is_none() {
        return;
    }
    for (index, value) in values.enumerate() {
        let separator = if index == 0 { " and (" } else { " or " };
        write!(flux, "{separator}r.{column} == {}", literal(value)).expect("a string takes any text");
    }
    flux.push(')');
}

/// Where columns stand in the records of a table of the answer.
#[derive(Clone, Debug, Default)]
struct Columns {
    time: Option<usize>,
    value: Option<usize>,
    field: Option<usize>,
    device: Option<usize>,
    property: Option<usize>,
    error: Option<usize>,
}

impl Columns {
    /// The columns, where the record is a header: each table of another form has one.
    fn of(record: &StringRecord) -> Option<Self> {
        let find = |name: &str| record.iter().position(|cell| cell == name);
        let is_header = record.get(1) == Some("result") && record.get(2) == Some("table");
        let error = find("error").filter(|_column| find("reference").is_some());
        (is_header || error.is_some()).then(|| Self {
            time: find("_time"),
            value: find("_value"),
            field: find("_field"),
            device: find("device"),
            property: find("property"),
            error,
        })
    }
}

fn cell(record: &StringRecord, column: Option<usize>) -> &str {
    column.and_then(|column| record.get(column)).unwrap_or_default()
}

/// What a point has besides its value.
#[derive(Clone, Debug, Default)]
struct Details {
    flags: u16,
    district: Option<DistrictIndex>,
    longitude: Option<f64>,
    latitude: Option<f64>,
    is_nowhere: bool,
    original_value: Option<f64>,
    original_unit: Option<String>,
}

/// The series whose records come, by the names that they have; none where it is not selected.
#[derive(Debug, Default)]
struct Current {
    device: String,
    property: String,
    series: Option<(DeviceIndex, PropertyIndex)>,
}

/// Reads an answer.
struct Rows {
    influx: Arc<Influx>,
    selection: Selection,
    detail: Detail,
    wanted: Option<Vec<DeviceIndex>>,
    current: Current,
    details: HashMap<(DeviceIndex, PropertyIndex, i64), Details>,
    /// Whether values have begun: then nothing else may come.
    has_values: bool,
}

impl Rows {
    fn new(influx: &Arc<Influx>, selection: Selection, detail: Detail) -> Self {
        let wanted = selection.devices.clone().map(|mut devices| {
            devices.sort_unstable();
            devices
        });
        Self {
            influx: Arc::clone(influx),
            selection,
            detail,
            wanted,
            current: Current::default(),
            details: HashMap::new(),
            has_values: false,
        }
    }

    fn read(mut self, body: impl Read, chunks: &mpsc::Sender<Result<Chunk, LakeError>>) -> Result<(), InfluxError> {
        let broken = |error: csv::Error| InfluxError::Answer(error.to_string());
        let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(body);
        let (mut record, mut columns, mut chunk) = (StringRecord::new(), Columns::default(), Chunk::default());
        while reader.read_record(&mut record).map_err(broken)? {
            if let Some(header) = Columns::of(&record) {
                columns = header;
                continue;
            }
            if columns.error.is_some() {
                return Err(InfluxError::Answer(cell(&record, columns.error).to_owned()));
            }
            self.take(&record, &columns, &mut chunk)?;
            if chunk.len() >= CHUNK_ROWS && chunks.blocking_send(Ok(std::mem::take(&mut chunk))).is_err() {
                return Ok(());
            }
        }
        if !chunk.is_empty() {
            // Nobody may be left to take it.
            drop(chunks.blocking_send(Ok(chunk)));
        }
        Ok(())
    }

    /// Begins a series.
    fn begin(&mut self, device: &str, property: &str) {
        let found = self.influx.live.read().find_device(device);
        let found = found.filter(|device| self.wanted.as_ref().is_none_or(|wanted| wanted.binary_search(device).is_ok()));
        self.current =
            Current { device: device.to_owned(), property: property.to_owned(), series: found.zip(self.influx.catalogue.find(property)) };
    }

    fn take(&mut self, record: &StringRecord, columns: &Columns, chunk: &mut Chunk) -> Result<(), InfluxError> {
        fn parse<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, InfluxError> {
            text.parse().map_err(|_error| InfluxError::Answer(format!("{what} {text:?}")))
        }
        let (device, property) = (cell(record, columns.device), cell(record, columns.property));
        if self.current.device != device || self.current.property != property {
            self.begin(device, property);
        }
        let Some((device, property)) = self.current.series else { return Ok(()) };
        let (field, value) = (cell(record, columns.field), cell(record, columns.value));
        let time = parse::<Timestamp>(cell(record, columns.time), "time")?.micros();
        if field == "value" {
            self.has_values = true;
            let details = self.details.remove(&(device, property, time)).unwrap_or_default();
            self.push(chunk, device, property, time, parse(value, "value")?, details);
            return Ok(());
        }
        if self.has_values {
            return Err(InfluxError::Answer(format!("the field {field:?} comes after the values")));
        }
        if self.details.len() >= DETAILS_MAX {
            return Err(InfluxError::TooMuch(DETAILS_MAX));
        }
        let details = self.details.entry((device, property, time)).or_default();
        match field {
            "flags" => details.flags = parse(value, "flags")?,
            "district" => details.district = self.influx.districts.by_id(value),
            "longitude" => details.longitude = Some(parse(value, "longitude")?),
            "latitude" => details.latitude = Some(parse(value, "latitude")?),
            "located" => details.is_nowhere = value == "false",
            "original_value" => details.original_value = Some(parse(value, "original value")?),
            "original_unit" => details.original_unit = Some(value.to_owned()).filter(|unit| unit != NONE),
            _ => {}
        }
        Ok(())
    }

    fn push(&self, chunk: &mut Chunk, device: DeviceIndex, property: PropertyIndex, time: i64, value: f64, details: Details) {
        let position = details.longitude.zip(details.latitude).filter(|_position| !details.is_nowhere);
        let position = position.and_then(|(longitude, latitude)| Position::new(longitude, latitude).ok());
        if !self.selection.matches_place(details.flags, Place { position, district: details.district }) {
            return;
        }
        chunk.device.push(device.0);
        chunk.property.push(property.0);
        chunk.time.push(time);
        chunk.value.push(value);
        chunk.flags.push(details.flags);
        chunk.district.push(details.district.map_or(NO_DISTRICT, |district| district.0));
        if self.detail == Detail::All || self.selection.area.is_some() {
            chunk.position.push(position);
        }
        if self.detail == Detail::All {
            chunk.original.push(details.original_value.zip(details.original_unit).map(|(value, unit)| Original { value, unit }));
        }
    }
}
