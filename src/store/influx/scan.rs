//! Questions: Flux out, CSV in, rows as they come.
//!
//! InfluxDB gives one field after another, `suspect` and `value` as the last of them by name. So the other fields, which are sparse, are
//! kept until these come, and what is suspect until its turn among what is trusted. Where they are too many to be kept, less time is asked
//! for at once: before the values come nothing is given away yet.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use hashbrown::HashMap;
use serde_json::json;

use super::csv::{Record, Records};
use super::{Influx, InfluxError, NONE};
use crate::model::{DistrictIndex, Original, Position, PropertyIndex, Timestamp};
use crate::state::{DeviceIndex, Place};
use crate::store::{Chunk, Chunks, Detail, LakeError, NO_DISTRICT, Selection};

/// Rows of a chunk.
const CHUNK_ROWS: usize = 8_192;

/// Observations that may have more to say than their value, and are kept until the values come.
const DETAILS_MAX: usize = 200_000;

/// The shortest page.
const PAGE_MIN: Duration = Duration::from_micros(1);

/// Longest list of devices that InfluxDB is told; a longer one is left to this side.
const DEVICES_IN_QUESTION: usize = 200;

impl Influx {
    /// All observations of a selection that InfluxDB has, each identity once: those of a series by ascending time.
    pub fn scan(self: &Arc<Self>, selection: Selection, detail: Detail) -> Chunks {
        if selection.from >= selection.to || selection.devices.as_ref().is_some_and(Vec::is_empty) {
            return stream::empty().boxed();
        }
        let length = selection.to.since(selection.from);
        let pages = Pages { influx: Arc::clone(self), detail, length, details_max: DETAILS_MAX, page: None, selection };
        stream::try_unfold(pages, Pages::next).map_err(LakeError::Influx).boxed()
    }

    /// The time of the oldest observation; `None` where there is none.
    pub async fn oldest_time(self: &Arc<Self>) -> Result<Option<Timestamp>, InfluxError> {
        let flux = format!(
            "from(bucket: {}) |> range(start: 1900-01-01T00:00:00Z, stop: 2200-01-01T00:00:00Z) \
             |> filter(fn: (r) => r._measurement == \"observation\" and (r._field == \"value\" or r._field == \"suspect\")) |> first() \
             |> keep(columns: [\"_time\"]) |> group() |> min(column: \"_time\")",
            literal(&self.settings.bucket)
        );
        let mut records = self.ask(&flux).await?;
        while let Some(record) = records.next().await? {
            if let Ok(time) = record.cell(Some(3)).parse() {
                return Ok(Some(time));
            }
        }
        Ok(None)
    }

    fn flux(&self, selection: &Selection, detail: Detail) -> String {
        let mut flux = self.identity(&self.settings.bucket, "observation", selection);
        let mut fields = if selection.trusted { vec!["value", "stale"] } else { vec!["value", "flags", "suspect"] };
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

    /// The beginning of a question: a bucket's measurement, a selection's times, properties and devices.
    pub(super) fn identity(&self, bucket: &str, measurement: &str, selection: &Selection) -> String {
        let Selection { from, to, properties, devices, .. } = selection;
        let (bucket, measurement) = (literal(bucket), literal(measurement));
        let mut flux =
            format!("from(bucket: {bucket}) |> range(start: {from}, stop: {to}) |> filter(fn: (r) => r._measurement == {measurement}");
        one_of(&mut flux, "property", properties.iter().map(|property| self.catalogue.get(*property).id.as_str()));
        if let Some(devices) = devices.as_ref().filter(|devices| devices.len() <= DEVICES_IN_QUESTION) {
            let state = self.live.read();
            one_of(&mut flux, "device", devices.iter().map(|device| state.device(*device).id.as_str()));
        }
        flux
    }

    /// How many devices ever told one of these properties.
    pub(super) fn speakers(&self, properties: &[PropertyIndex]) -> usize {
        let state = self.live.read();
        let devices = (0u32..).map(DeviceIndex).take(state.devices.len());
        devices.filter(|device| properties.iter().any(|property| state.find_series(*device, *property).is_some())).count()
    }

    /// Asks, and gives the answer's body as it comes.
    pub(super) async fn ask(&self, flux: &str) -> Result<Records, InfluxError> {
        let url = format!("{}/api/v2/query", self.settings.url.trim_end_matches('/'));
        let question = json!({ "query": flux, "type": "flux", "dialect": { "header": true, "annotations": [] } });
        let answer = self
            .questions
            .post(url)
            .query(&[("org", &self.settings.org)])
            .header("Authorization", format!("Token {}", self.settings.token.reveal()))
            .header("Content-Type", "application/json")
            .body(question.to_string())
            .send();
        let timeout = self.settings.timeout;
        let answer = tokio::time::timeout(timeout, answer).await.map_err(|_elapsed| InfluxError::Timeout(timeout))??;
        let status = answer.status();
        if !status.is_success() {
            let text = answer.text().await.unwrap_or_default();
            return Err(InfluxError::Refused { status: status.as_u16(), text: text.chars().take(500).collect() });
        }
        Ok(Records::new(answer.bytes_stream().map_err(InfluxError::Question).boxed(), timeout))
    }
}

/// A text as Flux has it.
pub(super) fn literal(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace("${", "\\${").replace('\n', "\\n"))
}

/// Appends a condition; none where nothing is asked for.
pub(super) fn one_of<'a>(flux: &mut String, column: &str, values: impl Iterator<Item = &'a str>) {
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

/// What a cell says.
pub(super) fn parse<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, InfluxError> {
    text.parse().map_err(|_error| InfluxError::Answer(format!("{what} {text:?}")))
}

/// Where columns stand in the records of a table of the answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    pub(super) result: Option<usize>,
    pub(super) time: Option<usize>,
    pub(super) value: Option<usize>,
    pub(super) field: Option<usize>,
    pub(super) device: Option<usize>,
    pub(super) property: Option<usize>,
    pub(super) district: Option<usize>,
    pub(super) trusted: Option<usize>,
    error: Option<usize>,
}

impl Columns {
    /// The columns, where the record is a header: each table of another form has one.
    pub(super) fn of(record: Record<'_>) -> Option<Self> {
        let is_header = record.cell(Some(1)) == "result" && record.cell(Some(2)) == "table";
        let error = record.find("error").filter(|_column| record.find("reference").is_some());
        (is_header || error.is_some()).then(|| Self {
            result: record.find("result"),
            time: record.find("_time"),
            value: record.find("_value"),
            field: record.find("_field"),
            device: record.find("device"),
            property: record.find("property"),
            district: record.find("district"),
            trusted: record.find("trusted"),
            error,
        })
    }

    /// Refuses a record that says what failed.
    pub(super) fn refuse(&self, record: Record<'_>) -> Result<(), InfluxError> {
        if self.error.is_some() { Err(InfluxError::Answer(record.cell(self.error).to_owned())) } else { Ok(()) }
    }
}

/// What a point has besides its value.
#[derive(Clone, Debug, Default)]
struct Details {
    flags: u16,
    /// Whether a suspect value took the place of a trusted one that is still there.
    is_stale: bool,
    district: Option<DistrictIndex>,
    longitude: Option<f64>,
    latitude: Option<f64>,
    is_nowhere: bool,
    original_value: Option<f64>,
    original_unit: Option<String>,
}

/// An observation that is not to be trusted: it waits for its place among the others of its series.
#[derive(Debug)]
struct Suspect {
    time: i64,
    value: f64,
    details: Details,
}

/// The series whose records come, by the names that they have; none where it is not selected.
#[derive(Debug, Default)]
struct Current {
    device: String,
    property: String,
    series: Option<(DeviceIndex, PropertyIndex)>,
}

/// Asks for one page after another.
struct Pages {
    influx: Arc<Influx>,
    /// What is left: the page under way included.
    selection: Selection,
    detail: Detail,
    /// How much time the next page has.
    length: Duration,
    details_max: usize,
    /// The page under way, and where it ends.
    page: Option<(Rows, Timestamp)>,
}

impl Pages {
    /// The next rows, and what is left.
    async fn next(mut self) -> Result<Option<(Chunk, Self)>, InfluxError> {
        while self.selection.from < self.selection.to {
            let (mut rows, end) = match self.page.take() {
                Some(page) => page,
                None => self.ask().await?,
            };
            let chunk = rows.next().await?;
            if rows.sorter.is_full {
                self.length = (end.since(self.selection.from) / 2).max(PAGE_MIN);
            } else if chunk.is_empty() {
                if rows.sorter.details_seen < self.details_max / 4 {
                    self.length = self.length.saturating_mul(2);
                }
                self.selection.from = end;
            } else {
                self.page = Some((rows, end));
                return Ok(Some((chunk, self)));
            }
        }
        Ok(None)
    }

    async fn ask(&mut self) -> Result<(Rows, Timestamp), InfluxError> {
        let end = self.selection.from.plus(self.length).min(self.selection.to);
        let selection = Selection { to: end, ..self.selection.clone() };
        let records = self.influx.ask(&self.influx.flux(&selection, self.detail)).await?;
        // What cannot be cut any more is kept, whatever it is: a series has no more than one observation there.
        let details_max = if end.since(selection.from) <= PAGE_MIN { usize::MAX } else { self.details_max };
        Ok((Rows::new(Arc::clone(&self.influx), records, selection, self.detail, details_max), end))
    }
}

/// Reads an answer.
struct Rows {
    records: Records,
    columns: Columns,
    sorter: Sorter,
}

/// Puts together what belongs together.
struct Sorter {
    influx: Arc<Influx>,
    selection: Selection,
    detail: Detail,
    wanted: Option<Vec<DeviceIndex>>,
    current: Current,
    details: HashMap<(DeviceIndex, PropertyIndex, i64), Details>,
    /// By series and time.
    suspects: HashMap<(DeviceIndex, PropertyIndex), VecDeque<Suspect>>,
    /// How many there were of them.
    details_seen: usize,
    details_max: usize,
    /// Whether there are more of them than are kept.
    is_full: bool,
    /// Whether values have begun: then nothing else may come.
    has_values: bool,
}

impl Rows {
    fn new(influx: Arc<Influx>, records: Records, selection: Selection, detail: Detail, details_max: usize) -> Self {
        let wanted = selection.devices.clone().map(|mut devices| {
            devices.sort_unstable();
            devices
        });
        let sorter = Sorter {
            influx,
            selection,
            detail,
            wanted,
            current: Current::default(),
            details: HashMap::new(),
            suspects: HashMap::new(),
            details_seen: 0,
            details_max,
            is_full: false,
            has_values: false,
        };
        Self { records, columns: Columns::default(), sorter }
    }

    /// The next rows; none at the end, and where there is more to be kept than is allowed.
    async fn next(&mut self) -> Result<Chunk, InfluxError> {
        let mut chunk = Chunk::default();
        while let Some(record) = self.records.next().await? {
            if let Some(header) = Columns::of(record) {
                self.columns = header;
                continue;
            }
            self.columns.refuse(record)?;
            self.sorter.take(record, &self.columns, &mut chunk)?;
            if chunk.len() >= CHUNK_ROWS || self.sorter.is_full {
                return Ok(chunk);
            }
        }
        self.sorter.finish(&mut chunk);
        Ok(chunk)
    }
}

impl Sorter {
    /// Begins a series.
    fn begin(&mut self, device: &str, property: &str) {
        let found = self.influx.live.read().find_device(device);
        let found = found.filter(|device| self.wanted.as_ref().is_none_or(|wanted| wanted.binary_search(device).is_ok()));
        self.current =
            Current { device: device.to_owned(), property: property.to_owned(), series: found.zip(self.influx.catalogue.find(property)) };
    }

    fn take(&mut self, record: Record<'_>, columns: &Columns, chunk: &mut Chunk) -> Result<(), InfluxError> {
        let (device, property) = (record.cell(columns.device), record.cell(columns.property));
        if self.current.device != device || self.current.property != property {
            self.begin(device, property);
        }
        let Some((device, property)) = self.current.series else { return Ok(()) };
        let (field, value) = (record.cell(columns.field), record.cell(columns.value));
        let time = parse::<Timestamp>(record.cell(columns.time), "time")?.micros();
        let identity = (device, property, time);
        if field == "value" {
            self.has_values = true;
            let details = self.details.remove(&identity).unwrap_or_default();
            if !(self.push_suspects(chunk, (device, property), time) || details.is_stale) {
                self.push(chunk, identity, parse(value, "value")?, details);
            }
            return Ok(());
        }
        if self.has_values {
            return Err(InfluxError::Answer(format!("the field {field:?} comes after the values")));
        }
        if field == "suspect" {
            // One that was trusted since is told as such.
            if self.details.get(&identity).is_some_and(|details| details.flags != 0) {
                let (value, details) = (parse(value, "value")?, self.details.remove(&identity).unwrap_or_default());
                self.suspects.entry((device, property)).or_default().push_back(Suspect { time, value, details });
            }
            return Ok(());
        }
        let details = self.details.entry(identity).or_default();
        match field {
            "flags" => details.flags = parse(value, "flags")?,
            "stale" => details.is_stale = value != "0",
            "district" => details.district = self.influx.districts.by_id(value),
            "longitude" => details.longitude = Some(parse(value, "longitude")?),
            "latitude" => details.latitude = Some(parse(value, "latitude")?),
            "located" => details.is_nowhere = value == "false",
            "original_value" => details.original_value = Some(parse(value, "original value")?),
            "original_unit" => details.original_unit = Some(value.to_owned()).filter(|unit| unit != NONE),
            _ => {}
        }
        self.details_seen = self.details_seen.max(self.details.len());
        self.is_full = self.details.len() > self.details_max;
        Ok(())
    }

    /// Gives the suspect observations of a series up to a time; whether there is one of that very time.
    fn push_suspects(&mut self, chunk: &mut Chunk, (device, property): (DeviceIndex, PropertyIndex), to: i64) -> bool {
        let mut is_same = false;
        while let Some(suspects) = self.suspects.get_mut(&(device, property))
            && let Some(Suspect { time, value, details }) = suspects.pop_front_if(|suspect| suspect.time <= to)
        {
            is_same = time == to;
            self.push(chunk, (device, property, time), value, details);
        }
        is_same
    }

    /// Gives the suspect observations that are left once all values have come.
    fn finish(&mut self, chunk: &mut Chunk) {
        for (device, property) in self.suspects.keys().copied().collect::<Vec<_>>() {
            self.push_suspects(chunk, (device, property), i64::MAX);
        }
        self.suspects.clear();
    }

    fn push(&self, chunk: &mut Chunk, identity: (DeviceIndex, PropertyIndex, i64), value: f64, details: Details) {
        let (device, property, time) = identity;
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
