//! One question over one snapshot: a table version, and the log rows that it lacks.

use std::sync::Arc;

use deltalake::arrow::array::{Array, AsArray, RecordBatch, StringViewArray};
use deltalake::arrow::datatypes::{Float64Type, Int16Type, TimestampMicrosecondType};
use deltalake::datafusion::common::ScalarValue;
use deltalake::datafusion::logical_expr::{Expr, col, lit};
use deltalake::datafusion::prelude::DataFrame;
use futures::{StreamExt, stream};
use hashbrown::{HashMap, HashSet};

use super::table::{
    DATE, DEVICE, DISTRICT, FLAGS, LATITUDE, LONGITUDE, ORIGINAL_UNIT, ORIGINAL_VALUE, PROPERTY, TIME, VALUE, date_of,
};
use super::{Lake, LakeError, Published};
use crate::model::{Catalogue, Districts, Original, Position};
use crate::state::{DeviceIndex, Live, SeriesIndex, Tail};
use crate::store::selection::{Chunk, Chunks, Detail, NO_DISTRICT, Order, Selection};

/// Longest list of devices that is handed to the table as a filter; a longer one is checked row by row.
const DEVICES_IN_FILTER: usize = 200;

/// Identities of late rows: the table's and the ordered lane's rows of the same identity do not count.
type Overlay = HashSet<(u32, u16, i64)>;

impl Lake {
    /// All observations of a selection, each identity once.
    pub async fn scan(&self, selection: Selection, order: Order, detail: Detail) -> Result<Chunks, LakeError> {
        let (published, tail) = {
            let published = self.published.read();
            (published.clone(), self.database.live().tail_after(published.position.ordered, published.position.late))
        };
        let selection = Arc::new(selection);
        let live = Arc::clone(self.database.live());
        let (overlay, recent) = tail_rows(&live, &tail, &selection, detail);
        let frame = self.table_frame(&published, &selection, order, detail).await?;
        let Some(frame) = frame else { return Ok(stream::iter([Ok(recent)]).boxed()) };
        let mut reader = Reader {
            live,
            catalogue: Arc::clone(&self.catalogue),
            districts: Arc::clone(&self.districts),
            selection,
            detail,
            overlay,
            devices: HashMap::new(),
        };
        let batches = frame.execute_stream().await?;
        let table = batches.map(move |batch| batch.map_err(LakeError::from).and_then(|batch| reader.chunk(&batch)));
        Ok(match order {
            Order::Any => stream::iter([Ok(recent)]).chain(table).boxed(),
            Order::DeviceTime => merge_sorted(table.boxed(), recent),
        })
    }

    /// The table's part of a question; `None` where no file can hold any of it.
    async fn table_frame(
        &self,
        published: &Published,
        selection: &Selection,
        order: Order,
        detail: Detail,
    ) -> Result<Option<DataFrame>, LakeError> {
        if published.table.snapshot()?.log_data().num_files() == 0 || selection.from >= selection.to {
            return Ok(None);
        }
        let session = self.session();
        let table = Arc::clone(&published.table);
        table.update_datafusion_session(&session.state())?;
        let provider = table.table_provider().await?;
        let mut frame = session.read_table(provider)?.filter(self.filter(selection))?;
        let mut columns = vec![DEVICE, PROPERTY, TIME, VALUE, FLAGS, DISTRICT];
        if detail == Detail::All || selection.area.is_some() {
            columns.extend([LONGITUDE, LATITUDE]);
        }
        if detail == Detail::All {
            columns.extend([ORIGINAL_VALUE, ORIGINAL_UNIT]);
        }
        frame = frame.select_columns(&columns)?;
        if order == Order::DeviceTime {
            frame = frame.sort(vec![col(DEVICE).sort(true, false), col(TIME).sort(true, false)])?;
        }
        Ok(Some(frame))
    }

    fn filter(&self, selection: &Selection) -> Expr {
        let time = |micros: i64| lit(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())));
        let (from, to) = (selection.from.micros(), selection.to.micros());
        let mut filter = col(DATE)
            .between(lit(ScalarValue::Date32(Some(date_of(from)))), lit(ScalarValue::Date32(Some(date_of(to - 1)))))
            .and(col(TIME).gt_eq(time(from)))
            .and(col(TIME).lt(time(to)));
        if !selection.properties.is_empty() {
            filter = filter.and(one_of(PROPERTY, selection.properties.iter().map(|property| self.catalogue.get(*property).id.clone())));
        }
        if let Some(devices) = selection.devices.as_ref().filter(|devices| devices.len() <= DEVICES_IN_FILTER) {
            let live = self.database.live().read();
            let names: Vec<String> = devices.iter().map(|device| live.device(*device).id.to_string()).collect();
            filter = filter.and(one_of(DEVICE, names.into_iter()));
        }
        if !selection.districts.is_empty() {
            filter = filter.and(one_of(DISTRICT, selection.districts.iter().map(|district| self.districts.get(*district).id.clone())));
        }
        if selection.trusted {
            filter = filter.and(col(FLAGS).eq(lit(0_i16)));
        }
        if let Some(area) = &selection.area {
            let (west, south, east, north) = area.bounds();
            filter = filter.and(col(LONGITUDE).between(lit(west), lit(east))).and(col(LATITUDE).between(lit(south), lit(north)));
        }
        filter
    }
}

fn one_of(column: &str, mut values: impl ExactSizeIterator<Item = String>) -> Expr {
    match (values.len(), values.next()) {
        (1, Some(only)) => col(column).eq(lit(only)),
        (_, first) => col(column).in_list(first.into_iter().chain(values).map(lit).collect(), false),
    }
}

/// The log's rows of a selection, each identity once, by device and time; and the identities of its late rows.
fn tail_rows(live: &Live, tail: &Tail, selection: &Selection, detail: Detail) -> (Overlay, Chunk) {
    let state = live.read();
    let identity = |series: SeriesIndex, time: i64| {
        let series = state.series_at(series);
        (series.device, series.property, time)
    };
    // The last received of each late identity wins; whether it passes the filter is asked of that one only.
    let mut late: HashMap<(DeviceIndex, crate::model::PropertyIndex, i64), (usize, usize)> = HashMap::new();
    for (number, block) in tail.late.iter().enumerate() {
        for (row, (series, time)) in block.rows.series.iter().zip(&block.rows.time).enumerate() {
            if (selection.from.micros()..selection.to.micros()).contains(time) {
                late.insert(identity(*series, *time), (number, row));
            }
        }
    }
    let mut found: Vec<(DeviceIndex, i64, crate::model::PropertyIndex, bool, usize, usize)> = Vec::new();
    let mut consider = |blocks: &[Arc<crate::state::Block>], is_late: bool, number: usize, row: usize, key: (DeviceIndex, crate::model::PropertyIndex, i64)| {
        let Some(block) = blocks.get(number) else { return };
        let flags = block.rows.flags.get(row).copied().unwrap_or_default();
        if selection.matches(key.1, key.0, key.2, flags, block.rows.place_of(row)) {
            found.push((key.0, key.2, key.1, is_late, number, row));
        }
    };
    for (number, block) in tail.ordered.iter().enumerate() {
        for (row, (series, time)) in block.rows.series.iter().zip(&block.rows.time).enumerate() {
            let key = identity(*series, *time);
            if !late.contains_key(&key) {
                consider(&tail.ordered, false, number, row, key);
            }
        }
    }
    for (key, (number, row)) in &late {
        consider(&tail.late, true, *number, *row, *key);
    }
    drop(state);
    found.sort_unstable();
    let mut chunk = Chunk::default();
    let with_place = detail == Detail::All || selection.area.is_some();
    for (device, time, property, is_late, number, row) in found {
        let blocks = if is_late { &tail.late } else { &tail.ordered };
        let Some(rows) = blocks.get(number).map(|block| &block.rows) else { continue };
        let place = rows.place_of(row);
        chunk.device.push(device.0);
        chunk.property.push(property.0);
        chunk.time.push(time);
        chunk.value.push(rows.value.get(row).copied().unwrap_or(f64::NAN));
        chunk.flags.push(rows.flags.get(row).copied().unwrap_or_default());
        chunk.district.push(place.district.map_or(NO_DISTRICT, |district| district.0));
        if with_place {
            chunk.position.push(place.position);
        }
        if detail == Detail::All {
            chunk.original.push(rows.original_of(row).cloned());
        }
    }
    let overlay = late.into_keys().map(|(device, property, time)| (device.0, property.0, time)).collect();
    (overlay, chunk)
}

/// Turns the table's batches into chunks.
struct Reader {
    live: Arc<Live>,
    catalogue: Arc<Catalogue>,
    districts: Arc<Districts>,
    selection: Arc<Selection>,
    detail: Detail,
    overlay: Overlay,
    devices: HashMap<String, u32>,
}

impl Reader {
    fn chunk(&mut self, batch: &RecordBatch) -> Result<Chunk, LakeError> {
        let devices = strings(batch, DEVICE)?;
        let properties = strings(batch, PROPERTY)?;
        let districts = strings(batch, DISTRICT)?;
        let rows = batch.num_rows();
        let column = |name: &'static str| batch.column_by_name(name).ok_or(unknown("column", name));
        let mut chunk = Chunk {
            device: Vec::with_capacity(rows),
            property: Vec::with_capacity(rows),
            time: column(TIME)?.as_primitive::<TimestampMicrosecondType>().values().to_vec(),
            value: column(VALUE)?.as_primitive::<Float64Type>().values().to_vec(),
            flags: column(FLAGS)?.as_primitive::<Int16Type>().values().iter().map(|flags| u16::from_le_bytes(flags.to_le_bytes())).collect(),
            district: Vec::with_capacity(rows),
            ..Chunk::default()
        };
        // Rows come sorted: a name is nearly always that of the row before.
        let mut device = ("", 0);
        let mut property = ("", 0);
        let mut district = ("", NO_DISTRICT);
        for row in 0..rows {
            let name = devices.value(row);
            if name != device.0 {
                device = (name, self.device(name)?);
            }
            chunk.device.push(device.1);
            let name = properties.value(row);
            if name != property.0 {
                property = (name, self.catalogue.find(name).ok_or_else(|| unknown("property", name))?.0);
            }
            chunk.property.push(property.1);
            if districts.is_null(row) {
                chunk.district.push(NO_DISTRICT);
            } else {
                let name = districts.value(row);
                if name != district.0 {
                    // A district that the city has since dropped is none.
                    district = (name, self.districts.by_id(name).map_or(NO_DISTRICT, |index| index.0));
                }
                chunk.district.push(district.1);
            }
        }
        if self.detail == Detail::All || self.selection.area.is_some() {
            let longitude = column(LONGITUDE)?.as_primitive::<Float64Type>();
            let latitude = column(LATITUDE)?.as_primitive::<Float64Type>();
            chunk.position = longitude
                .iter()
                .zip(latitude.iter())
                .map(|(longitude, latitude)| Position::new(longitude?, latitude?).ok())
                .collect();
        }
        if self.detail == Detail::All {
            let values = column(ORIGINAL_VALUE)?.as_primitive::<Float64Type>();
            let units = strings(batch, ORIGINAL_UNIT)?;
            chunk.original = values
                .iter()
                .zip(units.iter())
                .map(|(value, unit)| Some(Original { value: value?, unit: unit?.to_owned() }))
                .collect();
        }
        self.drop_foreign(&mut chunk);
        Ok(chunk)
    }

    /// Drops rows that late ones replace, and those that the table's filter could only narrow down.
    fn drop_foreign(&self, chunk: &mut Chunk) {
        let devices = self.selection.devices.as_ref().filter(|devices| devices.len() > DEVICES_IN_FILTER);
        let area = self.selection.area;
        if self.overlay.is_empty() && devices.is_none() && area.is_none() {
            return;
        }
        let keep: Vec<bool> = (0..chunk.len())
            .map(|row| {
                let (Some(device), Some(property), Some(time)) = (chunk.device.get(row), chunk.property.get(row), chunk.time.get(row)) else {
                    return false;
                };
                let place = chunk.position.get(row).copied().flatten();
                (self.overlay.is_empty() || !self.overlay.contains(&(*device, *property, *time)))
                    && devices.is_none_or(|devices| devices.binary_search(&DeviceIndex(*device)).is_ok())
                    && area.is_none_or(|area| place.is_some_and(|position| area.contains(position)))
            })
            .collect();
        chunk.retain(&keep);
    }

    fn device(&mut self, name: &str) -> Result<u32, LakeError> {
        if let Some(index) = self.devices.get(name) {
            return Ok(*index);
        }
        let index = self.live.read().find_device(name).ok_or_else(|| unknown("device", name))?.0;
        self.devices.insert(name.to_owned(), index);
        Ok(index)
    }
}

fn strings<'a>(batch: &'a RecordBatch, name: &'static str) -> Result<&'a StringViewArray, LakeError> {
    let column = batch.column_by_name(name).ok_or(unknown("column", name))?;
    column.as_string_view_opt().ok_or_else(|| unknown("column type", &column.data_type().to_string()))
}

pub(super) fn unknown(what: &'static str, text: &str) -> LakeError {
    LakeError::Unknown { what, text: text.chars().take(100).collect() }
}

/// Merges the log's rows, sorted by device and time, into the table's, which come sorted by device name and time.
///
/// Devices come in different orders from the two; only each device's rows must ascend. The log's rows of a device are
/// put in while the table's rows of that device pass, and what is left at the end follows.
fn merge_sorted(table: Chunks, recent: Chunk) -> Chunks {
    let mut waiting: HashMap<u32, Vec<usize>> = HashMap::new();
    for (row, device) in recent.device.iter().enumerate().rev() {
        waiting.entry(*device).or_default().push(row);
    }
    let merger = Merger { recent, waiting };
    stream::unfold((table, Some(merger)), |(mut table, merger)| async move {
        let mut merger = merger?;
        match table.next().await {
            Some(Ok(chunk)) => Some((Ok(merger.merge(&chunk)), (table, Some(merger)))),
            Some(Err(error)) => Some((Err(error), (table, None))),
            None => Some((Ok(merger.rest()), (table, None))),
        }
    })
    .boxed()
}

struct Merger {
    recent: Chunk,
    /// Rows of `recent` not yet given, by device, the next one last.
    waiting: HashMap<u32, Vec<usize>>,
}

impl Merger {
    fn merge(&mut self, table: &Chunk) -> Chunk {
        let mut merged = Chunk::default();
        for row in 0..table.len() {
            let (Some(device), Some(time)) = (table.device.get(row), table.time.get(row)) else { continue };
            if let Some(waiting) = self.waiting.get_mut(device) {
                while let Some(next) = waiting.last().copied().filter(|next| self.recent.time.get(*next).is_some_and(|at| at < time)) {
                    waiting.pop();
                    merged.append_row(&self.recent, next);
                }
            }
            merged.append_row(table, row);
        }
        merged
    }

    fn rest(&mut self) -> Chunk {
        let mut rest = Chunk::default();
        for rows in self.waiting.values() {
            for row in rows.iter().rev() {
                rest.append_row(&self.recent, *row);
            }
        }
        rest
    }
}
