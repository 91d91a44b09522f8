//! Holds rollups against the observations: what every unit that was not touched must be made of, made anew and compared.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use deltalake::arrow::array::{AsArray, RecordBatch};
use deltalake::arrow::datatypes::{Float64Type, Int16Type, TimestampMicrosecondType};
use deltalake::datafusion::execution::SendableRecordBatchStream;
use deltalake::datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use deltalake::datafusion::logical_expr::col;
use futures::StreamExt;
use hashbrown::HashMap;
use jiff::tz::TimeZone;

use super::make::DayOfProperty;
use super::read::month_of;
use super::table::{DEVICE, PROPERTY, Row, START, is_for, rows};
use super::touched::bounds;
use super::{LocalDays, Rollups};
use crate::model::{Catalogue, Timestamp};
use crate::rollup::{Kept, Seen, Tier};
use crate::state::RollupNotes;
use crate::store::lake::read::{DayFile, FileScan, by_day, day_files, instant};
use crate::store::lake::scan::{codes, strings, unknown};
use crate::store::lake::table::{FLAGS, TIME, VALUE};
use crate::store::lake::{LakeError, TableFault, TableVersion};
use crate::store::selection::{Chunk, NO_DISTRICT};

/// Two sums of the same terms are no further apart than this part of them.
const ERROR: f64 = 1e-9;

/// What was seen of rollups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RollupsSeen {
    /// Whether they are on another calendar than the city's: then they are made anew, and nothing else was looked at.
    pub on_other_calendar: bool,
    /// Units (local day, property) whose buckets were made anew and compared.
    pub units: u64,
    /// Their buckets.
    pub buckets: u64,
    /// Units that were not looked at, since they were touched after they were rolled up.
    pub touched: u64,
    /// Local days of which only rollups are left.
    pub outlived: u64,
    /// What is wrong.
    pub faults: Vec<RollupFault>,
}

/// What is wrong with rollups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RollupFault {
    /// A file cannot be used; why.
    File { path: String, fault: String },
    /// Buckets of a unit are not what its observations come to.
    Unit { day: String, property: String, tier: Tier, first: String, count: u64 },
}

impl TableVersion {
    /// Holds a version of the rollups, read of the table beside this one, against this version's rows. Both must be of the instant of
    /// which the notes are, and the files of this version whole.
    pub async fn examine_rollups(
        &self,
        rollups: &Self,
        notes: &RollupNotes,
        catalogue: &Catalogue,
        zone: &TimeZone,
    ) -> Result<RollupsSeen, LakeError> {
        let mut seen = RollupsSeen { touched: notes.touched.len() as u64, ..RollupsSeen::default() };
        if !is_for(&rollups.table, zone)? {
            return Ok(RollupsSeen { on_other_calendar: true, ..seen });
        }
        for fault in rollups.check_files().await? {
            if let TableFault::File { path, fault } = fault {
                seen.faults.push(RollupFault::File { path, fault });
            }
        }
        if !seen.faults.is_empty() {
            // What is damaged says nothing that could be compared.
            return Ok(seen);
        }
        let runtime = RuntimeEnvBuilder::new().build_arc()?;
        let rollups = Rollups::new(rollups.table.clone())?;
        rollups.register(&runtime);
        let store = self.table.log_store();
        runtime.register_object_store(store.object_store_url().as_ref(), store.object_store(None));
        let touched = notes.touched.iter().map(|unit| (unit.day, unit.property.as_str())).collect();
        let mut local = LocalDays::new(zone);
        let mut days: BTreeSet<i32> = rollups.files.iter().filter(|file| file.tier != Tier::Day).map(|file| file.date).collect();
        for file in day_files(&self.table)? {
            days.extend(local.days_of(&file));
        }
        let kept_from = notes.kept_from_of.iter().map(|(property, from)| (property.as_str(), *from)).collect();
        let examination = Examination { table: self, rollups, runtime, touched, kept_from, catalogue, zone };
        for day in days {
            let (start, end) = bounds(zone, day);
            if notes.kept_from.is_some_and(|kept_from| start.day() < kept_from) {
                seen.outlived += 1;
                continue;
            }
            examination.day(day, start, end, &mut seen).await?;
        }
        Ok(seen)
    }
}

struct Examination<'a> {
    table: &'a TableVersion,
    rollups: Rollups,
    runtime: Arc<RuntimeEnv>,
    touched: HashSet<(i32, &'a str)>,
    /// Of single properties.
    kept_from: HashMap<&'a str, i32>,
    catalogue: &'a Catalogue,
    zone: &'a TimeZone,
}

impl Examination<'_> {
    /// A local day, one property after the other.
    async fn day(&self, day: i32, start: Timestamp, end: Timestamp, seen: &mut RollupsSeen) -> Result<(), LakeError> {
        let times = (start.micros(), end.micros());
        let url = self.table.table.log_store().object_store_url();
        let scan = FileScan::new(&self.runtime, &url, None, times, &[PROPERTY, DEVICE, TIME, VALUE, FLAGS])?;
        let mut readings = Vec::new();
        for files in by_day(&day_files(&self.table.table)?) {
            if files.first().is_some_and(|file| file.start() < times.1 && times.0 < file.start() + DayFile::LENGTH) {
                readings.push(ByProperty::of(scan.execute(scan.sorted(files))?));
            }
        }
        let within = col(START).gt_eq(instant(times.0)).and(col(START).lt(instant(times.1)));
        let mut stored = Vec::new();
        for tier in Tier::COARSEST_FIRST {
            let date = if tier == Tier::Day { month_of(day) } else { day };
            stored.push((tier, ByProperty::of(self.rollups.partition(&self.runtime, tier, date, &within)?)));
        }
        loop {
            let mut next: Option<String> = None;
            for batches in readings.iter_mut().chain(stored.iter_mut().map(|(_tier, batches)| batches)) {
                if let Some(property) = batches.property().await?
                    && next.as_deref().is_none_or(|next| property < next)
                {
                    next = Some(property.to_owned());
                }
            }
            let Some(id) = next else { return Ok(()) };
            let kept = self.catalogue.find(&id).map(|index| Kept::of(self.catalogue.get(index)));
            let is_kept = self.kept_from.get(id.as_str()).is_none_or(|from| start.day() >= *from);
            let looked_at = kept.filter(|_kept| is_kept && !self.touched.contains(&(day, id.as_str())));
            let mut unit = looked_at.map(|kept| DayOfProperty::new(kept, self.zone, start, end)).transpose()?;
            let mut devices = Devices::default();
            for batches in &mut readings {
                while let Some(batch) = batches.take(&id).await? {
                    if let Some(unit) = &mut unit {
                        unit.add(&devices.chunk(&batch)?);
                    }
                }
            }
            let mut made: HashMap<Tier, Vec<Row>> = HashMap::new();
            if let Some(unit) = unit {
                made.extend(unit.finish(&id, |device| devices.name(device), |_district| None));
                seen.units += 1;
            }
            for (tier, batches) in &mut stored {
                let mut found = Vec::new();
                while let Some(batch) = batches.take(&id).await? {
                    found.extend(rows(&batch, |_id| looked_at)?);
                }
                let (made, found) = (together(made.remove(tier).unwrap_or_default()), together(found));
                seen.buckets += found.len() as u64;
                if let Some((first, count)) = compare(&made, &found) {
                    let date = self.zone.to_datetime(start.into()).date().to_string();
                    seen.faults.push(RollupFault::Unit { day: date, property: id.clone(), tier: *tier, first, count });
                }
            }
        }
    }
}

/// Batches of rows that are sorted by property, taken property by property.
struct ByProperty {
    batches: SendableRecordBatchStream,
    /// What is left of the last one.
    rest: Option<RecordBatch>,
}

impl ByProperty {
    fn of(batches: SendableRecordBatchStream) -> Self {
        Self { batches, rest: None }
    }

    /// The property of the next row.
    async fn property(&mut self) -> Result<Option<&str>, LakeError> {
        while self.rest.as_ref().is_none_or(|rest| rest.num_rows() == 0) {
            match self.batches.next().await {
                Some(batch) => self.rest = Some(batch?),
                None => return Ok(None),
            }
        }
        self.rest.as_ref().map(|rest| Ok(strings(rest, PROPERTY)?.value(0))).transpose()
    }

    /// Next rows of a property, if there are any.
    async fn take(&mut self, property: &str) -> Result<Option<RecordBatch>, LakeError> {
        if self.property().await? != Some(property) {
            return Ok(None);
        }
        let Some(rest) = self.rest.take() else { return Ok(None) };
        let properties = strings(&rest, PROPERTY)?;
        let rows = (0..rest.num_rows()).take_while(|row| properties.value(*row) == property).count();
        self.rest = Some(rest.slice(rows, rest.num_rows() - rows));
        Ok(Some(rest.slice(0, rows)))
    }
}

/// Numbers for the devices of a unit.
#[derive(Default)]
struct Devices {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

impl Devices {
    fn name(&self, number: u32) -> String {
        self.names.get(number as usize).cloned().unwrap_or_default()
    }

    fn chunk(&mut self, batch: &RecordBatch) -> Result<Chunk, LakeError> {
        let column = |name: &'static str| batch.column_by_name(name).ok_or_else(|| unknown("column", name));
        let device = codes(strings(batch, DEVICE)?, |name| {
            let next = u32::try_from(self.names.len()).map_err(|_many| unknown("device", name))?;
            Ok(*self.numbers.entry_ref(name).or_insert_with(|| {
                self.names.push(name.to_owned());
                next
            }))
        })?;
        Ok(Chunk {
            // Of places that a city renames it keeps no record: districts are not compared.
            district: vec![NO_DISTRICT; device.len()],
            device,
            time: column(TIME)?.as_primitive::<TimestampMicrosecondType>().values().to_vec(),
            value: column(VALUE)?.as_primitive::<Float64Type>().values().to_vec(),
            flags: column(FLAGS)?.as_primitive::<Int16Type>().values().iter().map(|flags| flags.cast_unsigned()).collect(),
            ..Chunk::default()
        })
    }
}

/// What of a bucket is compared: what is the same however it was put together.
#[derive(Clone, Copy, Debug)]
struct Compared {
    count: u64,
    sketched: usize,
    flags: u16,
    first: Seen,
    last: Seen,
    min: f64,
    max: f64,
    /// Sum, sines, cosines, energies.
    sums: [f64; 4],
}

impl Compared {
    fn of(row: &Row) -> Self {
        let statistics = &row.statistics;
        Self {
            count: statistics.count,
            sketched: statistics.sketch.as_ref().map_or(0, crate::rollup::Sketch::count),
            flags: statistics.flags,
            first: statistics.first,
            last: statistics.last,
            min: statistics.min,
            max: statistics.max,
            sums: [statistics.sum, statistics.sine, statistics.cosine, statistics.energy],
        }
    }

    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.sketched += other.sketched;
        self.flags |= other.flags;
        self.first = if other.first.time < self.first.time { other.first } else { self.first };
        self.last = if other.last.time > self.last.time { other.last } else { self.last };
        (self.min, self.max) = (self.min.min(other.min), self.max.max(other.max));
        for (sum, other) in self.sums.iter_mut().zip(other.sums) {
            *sum += other;
        }
    }

    /// How another differs, if it does.
    fn difference(&self, other: &Self) -> Option<String> {
        let exact = |name: &str, of: f64, other: f64| (of.to_bits() != other.to_bits()).then(|| format!("{name} {of}, not {other}"));
        if self.count != other.count {
            return Some(format!("{} readings, not {}", self.count, other.count));
        }
        if (self.sketched, self.flags) != (other.sketched, other.flags) {
            return Some(format!(
                "{} readings in sketches and flags {:#x}, not {} and {:#x}",
                self.sketched, self.flags, other.sketched, other.flags
            ));
        }
        if (self.first.time, self.last.time) != (other.first.time, other.last.time) {
            return Some("other first and last readings".to_owned());
        }
        let most = self.count as f64;
        let sums = ["sum", "sines", "cosines", "energies"].into_iter().zip(self.sums.into_iter().zip(other.sums));
        exact("first", self.first.value, other.first.value)
            .or_else(|| exact("last", self.last.value, other.last.value))
            .or_else(|| exact("min", self.min, other.min))
            .or_else(|| exact("max", self.max, other.max))
            .or_else(|| {
                // Terms that cancel out leave no more than their own rounding.
                let largest = |name: &str| if name == "sum" { self.min.abs().max(self.max.abs()) } else { 1.0 };
                let scale = |name: &str, sum: f64| (largest(name) * most).max(sum.abs());
                let mut sums = sums.filter(|(name, (of, other))| (of - other).abs() > ERROR * scale(name, *other));
                sums.next().map(|(name, (of, other))| format!("{name} {of}, not {other}"))
            })
    }
}

/// A bucket but for its district: device, start, whether of trusted readings.
type Bucket = (String, i64, bool);

/// Buckets of all districts put together.
fn together(rows: Vec<Row>) -> BTreeMap<Bucket, Compared> {
    let mut buckets: BTreeMap<Bucket, Compared> = BTreeMap::new();
    for row in rows {
        let compared = Compared::of(&row);
        let bucket = (row.device, row.start, row.trusted);
        buckets.entry(bucket).and_modify(|known| known.add(&compared)).or_insert(compared);
    }
    buckets
}

/// The first bucket that is not what it should be, and how many there are.
fn compare(made: &BTreeMap<Bucket, Compared>, found: &BTreeMap<Bucket, Compared>) -> Option<(String, u64)> {
    let (mut first, mut count) = (None, 0);
    let keys: BTreeSet<&Bucket> = made.keys().chain(found.keys()).collect();
    for bucket in keys {
        let difference = match (made.get(bucket), found.get(bucket)) {
            (Some(made), Some(found)) => found.difference(made),
            (Some(_made), None) => Some("missing".to_owned()),
            (None, _) => Some("of no readings".to_owned()),
        };
        if let Some(difference) = difference {
            let (device, start, trusted) = bucket;
            let what = if *trusted { "trusted" } else { "suspect" };
            first.get_or_insert_with(|| format!("{what} of {device} from {}: {difference}", Timestamp::from_micros_clamped(*start)));
            count += 1;
        }
    }
    first.map(|first| (first, count))
}
