//! What is known now, as tables: read when a statement comes to them, a page at a time, so that memory stays bounded.

use std::fmt;
use std::sync::Arc;

use deltalake::arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use deltalake::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use deltalake::datafusion::catalog::TableProvider;
use deltalake::datafusion::catalog::streaming::StreamingTable;
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::execution::{SendableRecordBatchStream, TaskContext};
use deltalake::datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use deltalake::datafusion::physical_plan::streaming::PartitionStream;
use futures::stream;
use serde::Deserialize;

use super::Sources;
use super::observation::{COMMENT, instant};
use super::tables::commented;
use crate::model::{DeviceId, DistrictIndex, Position, Timestamp};
use crate::query::ask::{DeviceQuestion, Filter, LatestQuestion, Quality};
use crate::state::{AlertFilter, QuarantineFilter, QuarantineOrder, StateError};

/// Rows of a page; fewer where a row may be large.
const PAGE_ROWS: usize = 5_000;

/// Messages of a page of the quarantine, which hold their payload.
const PAGE_MESSAGES: usize = 64;

/// A table of what is known.
pub(super) struct View {
    pub(super) name: &'static str,
    pub(super) comment: &'static str,
    columns: &'static [(&'static str, Kind, &'static str)],
    open: fn(Arc<Sources>) -> Pages,
}

impl fmt::Debug for View {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("View").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a column holds.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
    Whole,
    Truth,
    Time,
    Bytes,
}

/// Gives pages, blocking, until there are no more.
type Pages = Box<dyn FnMut() -> Result<Option<Vec<ArrayRef>>, DataFusionError> + Send>;

/// All views.
pub(super) static ALL: [View; 7] = [
    View {
        name: "latest",
        comment: "The newest observation of each device and property",
        columns: &[
            ("property", Kind::Text, "Observed property"),
            ("device", Kind::Text, "The device's name"),
            ("kind", Kind::Text, "What sort of device"),
            ("domain", Kind::Text, "The device's part of city life"),
            ("time", Kind::Time, "Phenomenon time"),
            ("value", Kind::Number, "In the property's canonical unit"),
            ("trusted", Kind::Truth, "Whether nothing about it is suspect"),
            ("flags", Kind::Text, "What is suspect about it, in words with spaces between"),
            ("district", Kind::Text, "The district in which it was observed"),
            ("longitude", Kind::Number, "Degrees east"),
            ("latitude", Kind::Number, "Degrees north"),
        ],
        open: |sources| once(move || Ok(latest(&sources))),
    },
    View {
        name: "device",
        comment: "Devices that were heard or are registered",
        columns: &[
            ("device", Kind::Text, "Its name"),
            ("title", Kind::Text, "For people, as registered"),
            ("kind", Kind::Text, "What sort of device"),
            ("domain", Kind::Text, "Its part of city life"),
            ("status", Kind::Text, "online, late, silent or never"),
            ("first_seen", Kind::Time, "When its first message was received"),
            ("last_observed", Kind::Time, "Phenomenon time of its newest observation"),
            ("interval_s", Kind::Number, "Expected time between its messages, in seconds"),
            ("battery_level", Kind::Number, "Per cent"),
            ("battery_voltage", Kind::Number, "Volt"),
            ("district", Kind::Text, "Where it is"),
            ("longitude", Kind::Number, "Degrees east"),
            ("latitude", Kind::Number, "Degrees north"),
            ("mobile", Kind::Truth, "Whether it moves about"),
            ("registered", Kind::Truth, "Whether the registry knows it"),
        ],
        open: devices,
    },
    View {
        name: "property",
        comment: "The catalogue of observed properties",
        columns: &[
            ("property", Kind::Text, "Its name"),
            ("title", Kind::Text, "In English"),
            ("title_it", Kind::Text, "In Italian"),
            ("domain", Kind::Text, "Its part of city life"),
            ("unit", Kind::Text, "Canonical unit, a UCUM code"),
            ("kind", Kind::Text, "gauge, counter, count or state"),
            ("summary", Kind::Text, "How values are put together: arithmetic, circular, energetic or coded"),
            ("min", Kind::Number, "Smallest plausible value"),
            ("max", Kind::Number, "Largest plausible value"),
            ("resolution", Kind::Number, "What real sensors resolve"),
            ("interval_s", Kind::Number, "Expected time between two readings, in seconds"),
        ],
        open: |sources| once(move || Ok(properties(&sources))),
    },
    View {
        name: "district",
        comment: "The city's districts",
        columns: &[
            ("district", Kind::Text, "Its name in other tables"),
            ("name", Kind::Text, "For people"),
            ("longitude", Kind::Number, "Of its centroid, degrees east"),
            ("latitude", Kind::Number, "Of its centroid, degrees north"),
        ],
        open: |sources| once(move || Ok(districts(&sources))),
    },
    View {
        name: "alert",
        comment: "Alerts, the newest first",
        columns: &[
            ("alert", Kind::Text, "Its id"),
            ("rule", Kind::Text, "The rule's id"),
            ("severity", Kind::Text, "How bad it is"),
            ("status", Kind::Text, "active or cleared"),
            ("device", Kind::Text, "The device"),
            ("district", Kind::Text, "The device's district then"),
            ("since", Kind::Time, "When the condition began to hold"),
            ("activated", Kind::Time, "When it became active"),
            ("cleared", Kind::Time, "When it was over"),
            ("cleared_by", Kind::Text, "Who or what ended it"),
            ("acknowledged", Kind::Time, "When somebody took notice"),
            ("acknowledged_by", Kind::Text, "Who took notice"),
            ("document", Kind::Text, "All of it, JSON"),
        ],
        open: alerts,
    },
    View {
        name: "quarantine",
        comment: "Messages of which something was refused, as they were received",
        columns: &[
            ("message", Kind::Whole, "Its number"),
            ("received", Kind::Time, "When"),
            ("source", Kind::Text, "By which source"),
            ("topic", Kind::Text, "On which topic"),
            ("whole", Kind::Truth, "Whether nothing of it is stored"),
            ("reason", Kind::Text, "The first fault's reason"),
            ("faults", Kind::Text, "Every fault, JSON"),
            ("readings", Kind::Whole, "Readings of it that count as quarantined"),
            ("discarded", Kind::Time, "When somebody decided that it is not worth a replay"),
            ("discarded_by", Kind::Text, "Who did"),
            ("comment", Kind::Text, "What they said of it"),
            ("payload", Kind::Bytes, "The bytes received"),
        ],
        open: quarantine,
    },
    View {
        name: "column_comment",
        comment: "What tables and columns mean",
        columns: &[
            ("table_name", Kind::Text, "The table"),
            ("column_name", Kind::Text, "The column; none for the table itself"),
            ("comment", Kind::Text, "What it means"),
        ],
        open: |sources| once(move || Ok(comments(&sources))),
    },
];

impl View {
    fn schema(&self) -> SchemaRef {
        let field = |(name, kind, comment): &(&str, Kind, &str)| {
            let kind = match kind {
                Kind::Text => DataType::Utf8,
                Kind::Number => DataType::Float64,
                Kind::Whole => DataType::Int64,
                Kind::Truth => DataType::Boolean,
                Kind::Time => instant(),
                Kind::Bytes => DataType::Binary,
            };
            commented(Field::new(*name, kind, true), comment)
        };
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }
}

/// A view as the engine takes it.
pub(super) fn provider(view: &'static View, sources: &Arc<Sources>) -> Result<Arc<dyn TableProvider>, DataFusionError> {
    let schema = view.schema();
    let stream = ViewStream { view, schema: Arc::clone(&schema), sources: Arc::clone(sources) };
    Ok(Arc::new(StreamingTable::try_new(schema, vec![Arc::new(stream)])?))
}

#[derive(Debug)]
struct ViewStream {
    view: &'static View,
    schema: SchemaRef,
    sources: Arc<Sources>,
}

impl PartitionStream for ViewStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let pages = (self.view.open)(Arc::clone(&self.sources));
        let schema = Arc::clone(&self.schema);
        let batches = stream::unfold(Some((pages, schema)), |state| async move {
            let (mut pages, schema) = state?;
            let turned = tokio::task::spawn_blocking(move || {
                let page = pages();
                (pages, page)
            });
            let (pages, page) = match turned.await {
                Ok(turned) => turned,
                Err(stopped) => return Some((Err(DataFusionError::ExecutionJoin(Box::new(stopped))), None)),
            };
            let batch = match page.transpose()? {
                Ok(columns) => RecordBatch::try_new(Arc::clone(&schema), columns).map_err(DataFusionError::from),
                Err(error) => return Some((Err(error), None)),
            };
            Some((batch, Some((pages, schema))))
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches))
    }
}

/// One page.
fn once(page: impl FnOnce() -> Result<Vec<ArrayRef>, DataFusionError> + Send + 'static) -> Pages {
    let mut page = Some(page);
    Box::new(move || page.take().map(|page| page()).transpose())
}

fn texts<'a, T: 'a, S: AsRef<str>>(rows: &'a [T], text: impl Fn(&'a T) -> Option<S>) -> ArrayRef {
    Arc::new(rows.iter().map(text).collect::<StringArray>())
}

fn numbers<T>(rows: &[T], number: impl Fn(&T) -> Option<f64>) -> ArrayRef {
    Arc::new(rows.iter().map(number).collect::<Float64Array>())
}

fn truths<T>(rows: &[T], truth: impl Fn(&T) -> bool) -> ArrayRef {
    Arc::new(rows.iter().map(|row| Some(truth(row))).collect::<BooleanArray>())
}

fn times<T>(rows: &[T], time: impl Fn(&T) -> Option<Timestamp>) -> ArrayRef {
    Arc::new(rows.iter().map(|row| time(row).map(Timestamp::micros)).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn latest(sources: &Sources) -> Vec<ArrayRef> {
    let question = LatestQuestion { properties: Vec::new(), filter: Filter { quality: Quality::Any, ..Filter::default() } };
    // Without a name in the question, none can be unknown.
    let rows = sources.answers().latest(&question).unwrap_or_default();
    let district = |index: Option<DistrictIndex>| index.map(|index| sources.districts.get(index).id.as_str());
    vec![
        texts(&rows, |row| Some(sources.catalogue.get(row.property).id.as_str())),
        texts(&rows, |row| Some(row.device.as_str())),
        texts(&rows, |row| Some(row.kind.as_str())),
        texts(&rows, |row| Some(row.domain.as_str())),
        times(&rows, |row| Some(row.time)),
        numbers(&rows, |row| Some(row.value)),
        truths(&rows, |row| row.flags.is_trusted()),
        texts(&rows, |row| Some(row.flags.names().join(" "))),
        texts(&rows, |row| district(row.district)),
        numbers(&rows, |row| row.position.map(Position::longitude)),
        numbers(&rows, |row| row.position.map(Position::latitude)),
    ]
}

fn devices(sources: Arc<Sources>) -> Pages {
    let mut next: Option<Option<DeviceId>> = Some(None);
    Box::new(move || {
        let Some(after) = next.take() else { return Ok(None) };
        let limit = PAGE_ROWS.min(sources.query.page_rows_max);
        let question =
            DeviceQuestion { properties: Vec::new(), filter: Filter::default(), presences: Vec::new(), registered: None, after, limit };
        let list = sources.answers().devices(&question).map_err(|error| DataFusionError::External(Box::new(error)))?;
        next = list.next.map(Some);
        let rows = list.devices;
        Ok(Some(vec![
            texts(&rows, |row| Some(row.id.as_str())),
            texts(&rows, |row| row.registration.as_ref()?.document().title.as_deref()),
            texts(&rows, |row| Some(row.kind.as_str())),
            texts(&rows, |row| Some(row.domain.as_str())),
            texts(&rows, |row| Some(row.presence.word())),
            times(&rows, |row| row.first_seen),
            times(&rows, |row| row.last_observed),
            numbers(&rows, |row| row.interval.map(|interval| interval.length.as_secs_f64())),
            numbers(&rows, |row| row.battery.level),
            numbers(&rows, |row| row.battery.voltage),
            texts(&rows, |row| row.district.map(|index| sources.districts.get(index).id.as_str())),
            numbers(&rows, |row| row.position.map(Position::longitude)),
            numbers(&rows, |row| row.position.map(Position::latitude)),
            truths(&rows, |row| row.is_mobile),
            truths(&rows, |row| row.registration.is_some()),
        ]))
    })
}

/// The word that a value without fields is written as.
fn word(value: &impl serde::Serialize) -> Option<String> {
    serde_json::to_value(value).ok()?.as_str().map(ToOwned::to_owned)
}

fn properties(sources: &Sources) -> Vec<ArrayRef> {
    let rows: Vec<_> = sources.catalogue.iter().map(|(_index, property)| Arc::clone(property)).collect();
    vec![
        texts(&rows, |row| Some(row.id.as_str())),
        texts(&rows, |row| Some(row.title.en.as_str())),
        texts(&rows, |row| Some(row.title.it.as_str())),
        texts(&rows, |row| Some(row.domain.as_str())),
        texts(&rows, |row| Some(row.unit.as_str())),
        texts(&rows, |row| word(&row.kind)),
        texts(&rows, |row| word(&row.summary)),
        numbers(&rows, |row| Some(row.min)),
        numbers(&rows, |row| Some(row.max)),
        numbers(&rows, |row| Some(row.resolution)),
        numbers(&rows, |row| Some(f64::from(row.interval_s))),
    ]
}

fn districts(sources: &Sources) -> Vec<ArrayRef> {
    use geo::Centroid as _;
    let rows: Vec<_> = sources.districts.iter().map(|(_index, district)| district.clone()).collect();
    vec![
        texts(&rows, |row| Some(row.id.as_str())),
        texts(&rows, |row| Some(row.name.as_str())),
        numbers(&rows, |row| row.area.centroid().map(geo::Point::x)),
        numbers(&rows, |row| row.area.centroid().map(geo::Point::y)),
    ]
}

/// What a column is told of an alert; the document has all of it.
#[derive(Deserialize)]
struct AlertRow {
    id: String,
    rule: String,
    severity: String,
    status: String,
    device: String,
    district: Option<String>,
    since: Timestamp,
    activated: Timestamp,
    cleared: Option<MarkRow>,
    acknowledged: Option<MarkRow>,
}

#[derive(Deserialize)]
struct MarkRow {
    at: Timestamp,
    by: String,
}

fn alerts(sources: Arc<Sources>) -> Pages {
    let mut next = Some(None);
    Box::new(move || {
        let Some(after) = next.take() else { return Ok(None) };
        let filter = AlertFilter { after, limit: PAGE_ROWS, ..AlertFilter::default() };
        let documents = sources.reader.alerts(&filter).map_err(external)?;
        let rows: Vec<AlertRow> = documents
            .iter()
            .map(|document| serde_json::from_str(document).map_err(|error| external(StateError::Damaged(error.to_string()))))
            .collect::<Result<_, _>>()?;
        next = rows.last().filter(|_last| rows.len() == PAGE_ROWS).map(|last| Some((last.activated, last.id.clone())));
        Ok(Some(vec![
            texts(&rows, |row| Some(row.id.as_str())),
            texts(&rows, |row| Some(row.rule.as_str())),
            texts(&rows, |row| Some(row.severity.as_str())),
            texts(&rows, |row| Some(row.status.as_str())),
            texts(&rows, |row| Some(row.device.as_str())),
            texts(&rows, |row| row.district.as_deref()),
            times(&rows, |row| Some(row.since)),
            times(&rows, |row| Some(row.activated)),
            times(&rows, |row| row.cleared.as_ref().map(|mark| mark.at)),
            texts(&rows, |row| row.cleared.as_ref().map(|mark| mark.by.as_str())),
            times(&rows, |row| row.acknowledged.as_ref().map(|mark| mark.at)),
            texts(&rows, |row| row.acknowledged.as_ref().map(|mark| mark.by.as_str())),
            texts(&documents, Some),
        ]))
    })
}

fn quarantine(sources: Arc<Sources>) -> Pages {
    // Those that were not discarded, then those that were.
    let mut next = Some((false, 0));
    Box::new(move || {
        let Some((discarded, after)) = next.take() else { return Ok(None) };
        let order = QuarantineOrder::OldestFirst { after };
        let filter = QuarantineFilter { order, discarded, limit: PAGE_MESSAGES, ..QuarantineFilter::default() };
        let rows = sources.reader.quarantine(&filter).map_err(external)?;
        next = match rows.last() {
            Some(last) => Some((discarded, last.id)),
            None => (!discarded).then_some((true, 0)),
        };
        let whole = |number: i64| Some(number);
        Ok(Some(vec![
            Arc::new(rows.iter().map(|row| whole(row.id)).collect::<Int64Array>()),
            times(&rows, |row| Some(row.received)),
            texts(&rows, |row| Some(row.source.as_str())),
            texts(&rows, |row| Some(row.topic.as_str())),
            truths(&rows, |row| row.whole),
            texts(&rows, |row| Some(row.reason.as_str())),
            texts(&rows, |row| Some(row.faults.as_str())),
            Arc::new(rows.iter().map(|row| whole(row.readings)).collect::<Int64Array>()),
            times(&rows, |row| row.discarded.as_ref().map(|discard| discard.at)),
            texts(&rows, |row| row.discarded.as_ref().map(|discard| discard.by.as_str())),
            texts(&rows, |row| row.discarded.as_ref().map(|discard| discard.comment.as_str())),
            Arc::new(rows.iter().map(|row| Some(row.payload.as_slice())).collect::<BinaryArray>()),
        ]))
    })
}

fn comments(sources: &Arc<Sources>) -> Vec<ArrayRef> {
    let observation = super::observation::Observations::new(Arc::clone(sources)).schema();
    let rollups = super::rollup::ALL.map(|(name, comment, _tier)| (name, comment, super::rollup::schema()));
    let tables = [("observation", COMMENT, observation)].into_iter().chain(rollups);
    let tables = tables.chain(ALL.iter().map(|view| (view.name, view.comment, view.schema())));
    let mut rows: Vec<(&str, Option<String>, String)> = Vec::new();
    for (table, comment, schema) in tables {
        rows.push((table, None, comment.to_owned()));
        for field in schema.fields() {
            rows.push((table, Some(field.name().clone()), field.metadata().get("comment").cloned().unwrap_or_default()));
        }
    }
    vec![texts(&rows, |row| Some(row.0)), texts(&rows, |row| row.1.as_deref()), texts(&rows, |row| Some(row.2.as_str()))]
}

fn external(error: StateError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
