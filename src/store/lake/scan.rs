//! One question over one snapshot: a table version, and the log rows that it lacks.

use std::sync::Arc;

use deltalake::arrow::array::{Array, AsArray, RecordBatch, StringViewArray};
use deltalake::arrow::buffer::ScalarBuffer;
use deltalake::arrow::datatypes::{Float64Type, Int16Type, TimestampMicrosecondType};
use futures::{StreamExt, TryStreamExt, stream};
use hashbrown::{HashMap, HashSet};

use super::read::DEVICES_IN_FILTER;
use super::table::{DEVICE, DISTRICT, FLAGS, LATITUDE, LONGITUDE, ORIGINAL_UNIT, ORIGINAL_VALUE, PROPERTY, TIME, VALUE};
use super::{Lake, LakeError, Published};
use crate::model::{Catalogue, Districts, Flags, Original, Position};
use crate::state::{Block, DeviceIndex, Live, SeriesIndex, Tail};
use crate::store::selection::{Chunk, Chunks, Detail, NO_DISTRICT, Order, Selection};

/// Rows of the log that come as one chunk.
const RECENT_ROWS: usize = 8_192;

/// A version of table and rollups, and exactly the log rows that it lacks: whoever looks at it again sees the same. The files outlive it
/// for as long as any question may take.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(super) published: Published,
    pub(super) tail: Tail,
}

/// Identities of late rows: the table's and the ordered lane's rows of the same identity do not count.
type Overlay = HashSet<(u32, u16, i64)>;

impl Lake {
    /// All observations of a selection, each identity once.
    pub fn scan(&self, selection: Selection, order: Order, detail: Detail) -> Result<Chunks, LakeError> {
        self.scan_at(&self.snapshot()?, selection, order, detail)
    }

    /// What there is now.
    pub fn snapshot(&self) -> Result<Snapshot, LakeError> {
        let published = self.published.read();
        let published = published.as_ref().ok_or(LakeError::Unopened)?;
        let tail = self.database.live().tail_after(published.position.ordered, published.position.late);
        Ok(Snapshot { published: published.clone(), tail })
    }

    /// [`Lake::scan`] of what there was.
    pub fn scan_at(&self, snapshot: &Snapshot, selection: Selection, order: Order, detail: Detail) -> Result<Chunks, LakeError> {
        let Snapshot { published, tail } = snapshot;
        if selection.from >= selection.to || selection.devices.as_ref().is_some_and(Vec::is_empty) {
            return Ok(stream::empty().boxed());
        }
        let selection = Arc::new(selection);
        let live = Arc::clone(self.database.live());
        let (overlay, recent) = tail_rows(&live, tail, &selection, detail);
        let batches = self.read_table(&published.files, &selection, order, detail)?;
        let mut reader = Reader { overlay, ..Reader::new(self, selection, detail) };
        let table = batches.map(move |batch| batch.and_then(|batch| reader.chunk(&batch)));
        let table = table.try_filter(|chunk| futures::future::ready(!chunk.is_empty()));
        Ok(match order {
            Order::Any => stream::iter(recent.split(RECENT_ROWS).into_iter().map(Ok)).chain(table).boxed(),
            Order::SeriesTime => merge_sorted(table.boxed(), recent),
        })
    }
}

/// The log's rows of a selection, each identity once, by series and time; and the identities of its late rows.
fn tail_rows(live: &Live, tail: &Tail, selection: &Selection, detail: Detail) -> (Overlay, Chunk) {
    let (mut overlay, mut chunk) = (Overlay::new(), Chunk::default());
    if tail.rows() == 0 {
        return (overlay, chunk);
    }
    let wanted = wanted_series(live, selection);
    let identity = |series: SeriesIndex, time: i64| {
        let (device, property) = wanted.get(series.0 as usize).copied().flatten()?;
        (selection.from.micros()..selection.to.micros()).contains(&time).then_some((device, property, time))
    };
    // The last received of each late identity wins; whether it passes the rest of the selection is asked of that one only.
    let mut late = HashMap::new();
    for block in &tail.late {
        for (row, (series, time)) in block.rows.series.iter().zip(&block.rows.time).enumerate() {
            if let Some(identity) = identity(*series, *time) {
                late.insert(identity, (block, row));
            }
        }
    }
    let passes = |block: &Block, row: usize| {
        let flags = block.rows.flags.get(row).copied().unwrap_or_default();
        selection.matches_place(flags, block.rows.place_of(row))
    };
    let mut found: Vec<((u32, u16, i64), &Block, usize)> = Vec::new();
    for block in &tail.ordered {
        for (row, (series, time)) in block.rows.series.iter().zip(&block.rows.time).enumerate() {
            if let Some(identity) = identity(*series, *time)
                && (late.is_empty() || !late.contains_key(&identity))
                && passes(block, row)
            {
                found.push((identity, block, row));
            }
        }
    }
    found.extend(
        late.iter().filter(|(_identity, (block, row))| passes(block, *row)).map(|(identity, (block, row))| (*identity, &***block, *row)),
    );
    found.sort_unstable_by_key(|(identity, _block, _row)| *identity);
    overlay.extend(late.into_keys());
    let with_place = detail == Detail::All || selection.area.is_some();
    for ((device, property, time), block, row) in found {
        let place = block.rows.place_of(row);
        chunk.device.push(device);
        chunk.property.push(property);
        chunk.time.push(time);
        chunk.value.push(block.rows.value.get(row).copied().unwrap_or(f64::NAN));
        chunk.flags.push(block.rows.flags.get(row).copied().unwrap_or_default());
        chunk.district.push(place.district.map_or(NO_DISTRICT, |district| district.0));
        if with_place {
            chunk.position.push(place.position);
        }
        if detail == Detail::All {
            chunk.original.push(block.rows.original_of(row).cloned());
        }
    }
    (overlay, chunk)
}

/// By series, its device and property where they are selected.
fn wanted_series(live: &Live, selection: &Selection) -> Vec<Option<(u32, u16)>> {
    let state = live.read();
    let wanted = state.series.iter().map(|series| {
        let is_wanted = (selection.properties.is_empty() || selection.properties.contains(&series.property))
            && selection.devices.as_ref().is_none_or(|devices| devices.binary_search(&series.device).is_ok());
        is_wanted.then_some((series.device.0, series.property.0))
    });
    wanted.collect()
}

/// Turns the table's batches into chunks.
pub(super) struct Reader {
    live: Arc<Live>,
    catalogue: Arc<Catalogue>,
    districts: Arc<Districts>,
    selection: Arc<Selection>,
    detail: Detail,
    overlay: Overlay,
    devices: HashMap<String, u32>,
}

/// The number of a property that the catalogue no longer has.
const NO_PROPERTY: u16 = u16::MAX;

impl Reader {
    pub(super) fn new(lake: &Lake, selection: Arc<Selection>, detail: Detail) -> Self {
        Self {
            live: Arc::clone(lake.database.live()),
            catalogue: Arc::clone(&lake.catalogue),
            districts: Arc::clone(&lake.districts),
            selection,
            detail,
            overlay: Overlay::new(),
            devices: HashMap::new(),
        }
    }

    pub(super) fn chunk(&mut self, batch: &RecordBatch) -> Result<Chunk, LakeError> {
        let rows = batch.num_rows();
        let column = |name: &'static str| batch.column_by_name(name).ok_or(unknown("column", name));
        let with_place = self.detail == Detail::All || self.selection.area.is_some();
        let mut chunk = Chunk {
            device: codes(strings(batch, DEVICE)?, |name| self.device(name))?,
            property: match self.selection.properties.as_slice() {
                [only] => vec![only.0; rows],
                // What the catalogue has dropped cannot be asked for, and is left out.
                _ => codes(strings(batch, PROPERTY)?, |name| Ok(self.catalogue.find(name).map_or(NO_PROPERTY, |index| index.0)))?,
            },
            time: column(TIME)?.as_primitive::<TimestampMicrosecondType>().values().to_vec(),
            value: column(VALUE)?.as_primitive::<Float64Type>().values().to_vec(),
            // The same bits as the table's signed numbers.
            flags: ScalarBuffer::<u16>::from(column(FLAGS)?.as_primitive::<Int16Type>().values().inner().clone()).to_vec(),
            district: match batch.column_by_name(DISTRICT) {
                None => vec![NO_DISTRICT; rows],
                // A district that the city has since dropped is none.
                Some(_column) => {
                    codes(strings(batch, DISTRICT)?, |name| Ok(self.districts.by_id(name).map_or(NO_DISTRICT, |index| index.0)))?
                }
            },
            ..Chunk::default()
        };
        if with_place {
            let longitude = column(LONGITUDE)?.as_primitive::<Float64Type>();
            let latitude = column(LATITUDE)?.as_primitive::<Float64Type>();
            chunk.position =
                longitude.iter().zip(latitude.iter()).map(|(longitude, latitude)| Position::new(longitude?, latitude?).ok()).collect();
        }
        if self.detail == Detail::All {
            let values = column(ORIGINAL_VALUE)?.as_primitive::<Float64Type>();
            let units = strings(batch, ORIGINAL_UNIT)?;
            chunk.original =
                values.iter().zip(units.iter()).map(|(value, unit)| Some(Original { value: value?, unit: unit?.to_owned() })).collect();
        }
        self.drop_foreign(&mut chunk);
        Ok(chunk)
    }

    /// Drops rows that late ones replace, and those that the reading could only narrow down.
    fn drop_foreign(&self, chunk: &mut Chunk) {
        let Selection { devices, districts, area, trusted, .. } = &*self.selection;
        let of = |codes: &[u16], row: usize| codes.get(row).copied().unwrap_or(u16::MAX);
        let mut checks: Vec<Box<dyn Fn(usize) -> bool + '_>> = Vec::new();
        // Nearly always no row is suspect.
        if *trusted && chunk.flags.iter().fold(0, |all, flags| all | flags) != 0 {
            checks.push(Box::new(|row| Flags::from_bits_retain(of(&chunk.flags, row)).is_trusted()));
        }
        if self.selection.properties.len() != 1 && chunk.property.contains(&NO_PROPERTY) {
            checks.push(Box::new(|row| of(&chunk.property, row) != NO_PROPERTY));
        }
        if let Some(devices) = devices.as_ref().filter(|devices| devices.len() > DEVICES_IN_FILTER) {
            checks.push(Box::new(|row| chunk.device.get(row).is_some_and(|device| devices.binary_search(&DeviceIndex(*device)).is_ok())));
        }
        if !districts.is_empty() {
            checks.push(Box::new(|row| districts.iter().any(|district| district.0 == of(&chunk.district, row))));
        }
        if let Some(area) = area {
            checks.push(Box::new(|row| chunk.position.get(row).copied().flatten().is_some_and(|position| area.contains(position))));
        }
        if !self.overlay.is_empty() {
            let identity = |row| Some((*chunk.device.get(row)?, *chunk.property.get(row)?, *chunk.time.get(row)?));
            checks.push(Box::new(move |row| identity(row).is_some_and(|identity| !self.overlay.contains(&identity))));
        }
        if !checks.is_empty() {
            let keep: Vec<bool> = (0..chunk.len()).map(|row| checks.iter().all(|check| check(row))).collect();
            drop(checks);
            if keep.contains(&false) {
                chunk.retain(&keep);
            }
        }
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

/// A column of names as their numbers; [`u16::MAX`] and the like for none.
pub(super) fn codes<T: Copy + Missing>(
    names: &StringViewArray,
    mut code: impl FnMut(&str) -> Result<T, LakeError>,
) -> Result<Vec<T>, LakeError> {
    let mut codes = Vec::with_capacity(names.len());
    let views = names.views();
    // Rows come sorted and names from a dictionary: they come in runs of the very same view.
    while let Some(view) = views.get(codes.len()) {
        let row = codes.len();
        let is_missing = names.is_null(row);
        let same = views.iter().skip(row).take_while(|other| *other == view);
        let length = if names.null_count() == 0 {
            same.count()
        } else {
            same.zip(row..).take_while(|(_view, row)| names.is_null(*row) == is_missing).count()
        };
        let code = if is_missing { T::MISSING } else { code(names.value(row))? };
        codes.resize(row + length, code);
    }
    Ok(codes)
}

/// A number that stands for no name.
pub(super) trait Missing {
    const MISSING: Self;
}

impl Missing for u16 {
    const MISSING: Self = Self::MAX;
}

impl Missing for u32 {
    const MISSING: Self = Self::MAX;
}

pub(super) fn strings<'a>(batch: &'a RecordBatch, name: &'static str) -> Result<&'a StringViewArray, LakeError> {
    let column = batch.column_by_name(name).ok_or(unknown("column", name))?;
    column.as_string_view_opt().ok_or_else(|| unknown("column type", &column.data_type().to_string()))
}

pub(super) fn unknown(what: &'static str, text: &str) -> LakeError {
    LakeError::Unknown { what, text: text.chars().take(100).collect() }
}

/// Merges the log's rows, sorted by series and time, into the table's, in which each series' rows ascend.
///
/// Series come in different orders from the two; only the rows of each must ascend. The log's rows of a series are put in while
/// the table's rows of it pass, and what is left at the end follows.
fn merge_sorted(table: Chunks, recent: Chunk) -> Chunks {
    if recent.is_empty() {
        return table;
    }
    let mut waiting: HashMap<(u32, u16), Vec<usize>> = HashMap::new();
    for (row, series) in recent.device.iter().zip(&recent.property).enumerate().rev() {
        waiting.entry((*series.0, *series.1)).or_default().push(row);
    }
    let mut merger = Merger { recent, waiting };
    let mut is_over = false;
    let chunks = table.map(Some).chain(stream::iter([None])).map(move |chunk| match chunk {
        Some(Ok(chunk)) => vec![Ok(merger.merge(chunk))],
        Some(Err(error)) => {
            is_over = true;
            vec![Err(error)]
        }
        None if is_over => Vec::new(),
        None => merger.rest().split(RECENT_ROWS).into_iter().map(Ok).collect(),
    });
    chunks.flat_map(stream::iter).boxed()
}

struct Merger {
    recent: Chunk,
    /// Rows of `recent` not yet given, by series, the next one last.
    waiting: HashMap<(u32, u16), Vec<usize>>,
}

impl Merger {
    fn merge(&mut self, table: Chunk) -> Chunk {
        let mut merged: Option<Chunk> = None;
        // What was not changed yet need not be copied row by row.
        for row in 0..table.len() {
            let (Some(device), Some(property), Some(time)) = (table.device.get(row), table.property.get(row), table.time.get(row)) else {
                continue;
            };
            if let Some(waiting) = self.waiting.get_mut(&(*device, *property)) {
                while let Some(next) = waiting.last().copied().filter(|next| self.recent.time.get(*next).is_some_and(|at| at < time)) {
                    waiting.pop();
                    merged.get_or_insert_with(|| table.first(row)).append_row(&self.recent, next);
                }
            }
            if let Some(merged) = &mut merged {
                merged.append_row(&table, row);
            }
        }
        merged.unwrap_or(table)
    }

    fn rest(&mut self) -> Chunk {
        let mut rest = Chunk::default();
        let mut left: Vec<usize> = self.waiting.drain().flat_map(|(_series, rows)| rows).collect();
        left.sort_unstable();
        for row in left {
            rest.append_row(&self.recent, row);
        }
        rest
    }
}
