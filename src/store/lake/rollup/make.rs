//! Makes rollups: opens their table, rolls touched days up, drops what is too old.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use deltalake::DeltaTable;
use deltalake::arrow::array::RecordBatch;
use deltalake::datafusion::datasource::listing::PartitionedFile;
use deltalake::datafusion::datasource::physical_plan::FileGroup;
use deltalake::datafusion::execution::runtime_env::RuntimeEnv;
use deltalake::datafusion::execution::{SendableRecordBatchStream, TaskContext};
use deltalake::datafusion::logical_expr::{Expr, col};
use deltalake::datafusion::physical_plan::{EmptyRecordBatchStream, execute_stream};
use deltalake::kernel::{Add, Remove};
use deltalake::writer::{DeltaWriter, RecordBatchWriter};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use hashbrown::HashMap;
use jiff::tz::TimeZone;

use super::read::{month_of, next_month};
use super::table::{DISTRICT, ORDER, PROPERTY, Row, START, batch, beside, create, file_schema, open, rewritten, rows, writer_properties};
use super::touched::{bounds, date_at};
use super::{LocalDays, Rollups, Touched};
use crate::model::{Catalogue, Flags, PropertyIndex, Timestamp, Windows};
use crate::rollup::{Kept, Seen, Sketch, Statistic, Statistics, Tally, Tier};
use crate::state::{Database, StateError, Tail, TouchedUnit};
use crate::store::lake::read::{day_files, filtered_plan, instant, one_of};
use crate::store::lake::scan::{Snapshot, unknown};
use crate::store::lake::table::{Change, commit};
use crate::store::lake::{Lake, LakeError, Published};
use crate::store::selection::{Chunk, Detail, NO_DISTRICT, Order, Selection};

/// A day is rolled up so long after its end: stragglers need not be rolled up twice.
const GRACE: Duration = Duration::from_mins(10);

/// Rows of rollups as they come, each with its tier.
pub(in crate::store) type DayRollups = BoxStream<'static, Result<(Tier, Vec<Row>), LakeError>>;

/// Rows of one record batch on its way to a file.
const BATCH_ROWS: usize = 8_192;

/// No day has more windows.
const BUCKETS_MAX: usize = 1_000;

impl Rollups {
    /// Opens the rollups of a table, or begins them: then every day that the table has is touched.
    pub(in crate::store::lake) async fn open(
        table: &DeltaTable,
        database: &Arc<Database>,
        catalogue: &Catalogue,
        zone: &TimeZone,
    ) -> Result<Self, LakeError> {
        let beside = beside(table)?;
        if let Some(rollups) = open(beside.clone(), zone).await? {
            return Self::new(rollups);
        }
        let mut days = BTreeSet::new();
        let mut local = LocalDays::new(zone);
        for file in day_files(table)? {
            days.extend(local.days_of(&file));
        }
        let units: Vec<TouchedUnit> = days
            .into_iter()
            .flat_map(|day| catalogue.iter().map(move |(_index, property)| TouchedUnit { day, property: property.id.clone() }))
            .collect();
        let database = Arc::clone(database);
        tokio::task::spawn_blocking(move || database.turn().touch(&units)).await.map_err(|_stopped| LakeError::Stopped)??;
        Self::new(create(beside, zone).await?)
    }

    pub(in crate::store::lake) fn register(&self, runtime: &RuntimeEnv) {
        runtime.register_object_store(self.store_url().as_ref(), self.table.log_store().object_store(None));
    }
}

impl Lake {
    /// Notes units in the state database, those that are not there yet.
    pub(in crate::store::lake) async fn note_touched(&self, touched: &Touched, units: &BTreeSet<(u16, i32)>) -> Result<(), LakeError> {
        let new: Vec<TouchedUnit> =
            units.iter().filter(|unit| !touched.holds(**unit)).map(|(property, day)| self.unit(*property, *day)).collect();
        if new.is_empty() {
            return Ok(());
        }
        self.in_turn(move |turn| turn.touch(&new)).await
    }

    fn unit(&self, property: u16, day: i32) -> TouchedUnit {
        TouchedUnit { day, property: self.catalogue.get(PropertyIndex(property)).id.clone() }
    }

    /// Rolls up what was touched of the newest local day that is over, was touched, and is not after `up_to`. Returns that day: who goes on
    /// with the day before comes to every day once, whatever is touched meanwhile.
    pub async fn roll_up(&self, now: Timestamp, up_to: Option<i32>) -> Result<Option<i32>, LakeError> {
        let zone = &self.settings.zone;
        let mut published = self.published()?;
        let today = LocalDays::new(zone).day(now.minus(GRACE).micros());
        let newest = up_to.map_or(today - 1, |day| day.min(today - 1));
        let Some((day, units)) = published.touched.newest(newest) else { return Ok(None) };
        // A commit that failed may stand all the same.
        let mut newest = DeltaTable::clone(&published.rollups.table);
        newest.update_state().await?;
        if newest.version() != published.rollups.table.version() {
            published.rollups = Rollups::new(newest)?;
        }
        let (start, end) = bounds(zone, day);
        let database = Arc::clone(&self.database);
        let kept_from = tokio::task::spawn_blocking(move || {
            let turn = database.turn();
            Ok::<_, StateError>((turn.kept_from()?, turn.kept_from_of()?))
        });
        let (kept_from, kept_from_of) = kept_from.await.map_err(|_stopped| LakeError::Stopped)??;
        // Of a day whose readings were dropped, in part or all, only its rollups know.
        let is_kept = |property: u16| {
            let id = &self.unit(property, day).property;
            let of = kept_from_of.iter().find(|(property, _from)| property == id).map(|(_property, from)| *from);
            kept_from.into_iter().chain(of).all(|from| start.day() >= from)
        };
        let kept: Vec<u16> = units.iter().map(|(property, _moment)| *property).filter(|property| is_kept(*property)).collect();
        let mut change = Change::default();
        if !kept.is_empty() {
            // What the table lacks touches its units once more.
            let table = Snapshot { published: published.clone(), tail: Tail::default() };
            let mut properties: Vec<(String, u16)> = kept.iter().map(|property| (self.unit(*property, day).property, *property)).collect();
            properties.sort_unstable();
            let replaced = |properties| Replaced { start, end, properties };
            let mut partitions = Vec::new();
            for tier in Tier::COARSEST_FIRST {
                partitions.push(Partition::begin(&published.rollups, tier, day)?);
            }
            // One property at a time: of a large city all of them at once are much.
            for (id, property) in &properties {
                let selection = Selection {
                    properties: vec![PropertyIndex(*property)],
                    from: start,
                    to: end,
                    devices: None,
                    districts: Vec::new(),
                    area: None,
                    trusted: false,
                };
                for (tier, rows) in self.day_of_property(&table, selection).await? {
                    if let Some(partition) = partitions.iter_mut().find(|partition| partition.tier == tier) {
                        self.put(&published, partition, &replaced(vec![id.clone()]), rows).await?;
                    }
                }
            }
            let replaced = replaced(properties.into_iter().map(|(id, _property)| id).collect());
            for partition in partitions {
                self.finish(&published, partition, &replaced, &mut change).await?;
            }
        }
        let writer = self.writer().await?;
        let rollups = if change.adds.is_empty() && change.removes.is_empty() {
            published.rollups
        } else {
            Rollups::new(commit(&published.rollups.table, change).await?)?
        };
        // The writer's right is held: nobody else publishes.
        let current = self.published()?;
        let mut touched = Touched::clone(&current.touched);
        let settled: Vec<TouchedUnit> = touched.settle(day, &units).into_iter().map(|property| self.unit(property, day)).collect();
        // Whoever sees them rolled up must also see which store lacks that.
        self.in_turn(move |turn| turn.settle_touched(&settled)).await?;
        *self.published.write() = Some(Published { rollups, touched: Arc::new(touched), ..current });
        drop(writer);
        Ok(Some(day))
    }

    /// The buckets of a selection of one property in one local day, by tier.
    pub(super) async fn day_of_property(&self, snapshot: &Snapshot, selection: Selection) -> Result<Vec<(Tier, Vec<Row>)>, LakeError> {
        let [property] = selection.properties.as_slice() else { return Err(unknown("unit", "of other than one property")) };
        let property = self.catalogue.get(*property);
        let mut day = DayOfProperty::new(Kept::of(property), &self.settings.zone, selection.from, selection.to)?;
        let mut chunks = self.scan_at(snapshot, selection, Order::SeriesTime, Detail::Numbers)?;
        while let Some(chunk) = chunks.next().await {
            day.add(&chunk?);
            tokio::task::coop::consume_budget().await;
        }
        let live = self.database.live().read();
        let device = |index: u32| live.device(crate::state::DeviceIndex(index)).id.to_string();
        let district = |code: u16| (code != NO_DISTRICT).then(|| self.districts.get(crate::model::DistrictIndex(code)).id.clone());
        Ok(day.finish(&property.id, device, district))
    }

    /// Puts rows in place of others in their partition; properties come in the order of their ids.
    async fn put(
        &self,
        published: &Published,
        partition: &mut Partition,
        replaced: &Replaced,
        mut rows: Vec<Row>,
    ) -> Result<(), LakeError> {
        let (tier, date) = (partition.tier, partition.date);
        rows.sort_unstable_by(|one, other| one.key().cmp(&other.key()));
        if partition.old.is_empty() {
            for rows in rows.chunks(BATCH_ROWS) {
                partition.writer.write(batch(tier, date, rows)).await?;
            }
        } else {
            let before = self.rows_of(published, tier, date, &replaced.filter()).await?;
            carry_revisions(&before, &mut rows);
            partition.new.extend(rows.chunks(BATCH_ROWS).map(|rows| batch(tier, date, rows)));
        }
        Ok(())
    }

    /// Every unit that may have rollups.
    pub(in crate::store) fn rolled_up(&self) -> Result<Vec<TouchedUnit>, LakeError> {
        let files = self.published()?.rollups.files;
        let days =
            files.iter().flat_map(|file| if file.tier == Tier::Day { file.date..next_month(file.date) } else { file.date..file.date + 1 });
        let days: BTreeSet<i32> = days.collect();
        let told: BTreeSet<u16> = self.database.live().read().series.iter().map(|series| series.property.0).collect();
        Ok(days.into_iter().flat_map(|day| told.iter().map(move |property| self.unit(*property, day))).collect())
    }

    /// From which local day on there are rollups of each tier that has any: where it begins.
    pub(in crate::store) fn rolled_up_from(&self) -> Result<Vec<(Tier, Timestamp)>, LakeError> {
        Ok(self.rolled_up_from_at(&self.snapshot()?))
    }

    /// [`Lake::rolled_up_from`] of what there was.
    pub(in crate::store) fn rolled_up_from_at(&self, snapshot: &Snapshot) -> Vec<(Tier, Timestamp)> {
        let files = &snapshot.published.rollups.files;
        let oldest = |tier| files.iter().filter(|file| file.tier == tier).map(|file| file.date).min();
        let tiers = Tier::COARSEST_FIRST.into_iter().filter_map(|tier| Some((tier, oldest(tier)?)));
        tiers.map(|(tier, day)| (tier, self.day(day).0)).collect()
    }

    /// Start and end of a local day, since 1970-01-01.
    pub(in crate::store) fn day(&self, day: i32) -> (Timestamp, Timestamp) {
        bounds(&self.settings.zone, day)
    }

    /// The rollups of some properties of a local day, as they are now, the coarsest first.
    pub(in crate::store) fn rollups_of(&self, day: i32, properties: Vec<String>) -> Result<DayRollups, LakeError> {
        let published = self.published()?;
        let (start, end) = self.day(day);
        let filter = Replaced { start, end, properties }.filter();
        let mut tiers = Vec::new();
        for tier in Tier::COARSEST_FIRST {
            let date = if tier == Tier::Day { month_of(day) } else { day };
            let rows = self.stream_of(&published, tier, date, &filter)?;
            tiers.push(rows.map_ok(move |rows| (tier, rows)));
        }
        Ok(stream::iter(tiers).flatten().boxed())
    }

    /// Rows of a partition.
    async fn rows_of(&self, published: &Published, tier: Tier, date: i32, filter: &Expr) -> Result<Vec<Row>, LakeError> {
        self.stream_of(published, tier, date, filter)?.try_concat().await
    }

    fn stream_of(
        &self,
        published: &Published,
        tier: Tier,
        date: i32,
        filter: &Expr,
    ) -> Result<BoxStream<'static, Result<Vec<Row>, LakeError>>, LakeError> {
        let batches = published.rollups.partition(&self.runtime, tier, date, filter)?;
        let catalogue = Arc::clone(&self.catalogue);
        let kept = move |id: &str| catalogue.find(id).map(|index| Kept::of(catalogue.get(index)));
        Ok(batches.map(move |batch| rows(&batch?, &kept)).boxed())
    }

    /// Writes what stays of a partition's files beside the new rows.
    async fn finish(&self, published: &Published, partition: Partition, replaced: &Replaced, change: &mut Change) -> Result<(), LakeError> {
        let Partition { tier, date, old, removes, new, mut writer } = partition;
        if !old.is_empty() {
            let table = &published.rollups.table;
            let session = self.session();
            table.update_datafusion_session(&session.state())?;
            let columns: Vec<Expr> = file_schema().fields().iter().map(|field| col(field.name())).collect();
            let provider = table.table_provider().with_adds(old).await?;
            let mut frame = session.read_table(provider)?.filter(!replaced.filter())?.select(columns.clone())?;
            if !new.is_empty() {
                frame = frame.union(session.read_batches(new)?.select(columns)?)?;
            }
            let order = ORDER.map(|column| col(column).sort(true, column == DISTRICT)).to_vec();
            let mut batches = frame.sort(order)?.execute_stream().await?;
            while let Some(batch) = batches.next().await {
                writer.write(rewritten(tier, date, &batch?)?).await?;
            }
        }
        change.adds.extend(writer.flush().await?);
        change.removes.extend(removes);
        Ok(())
    }

    /// The buckets of a property: tier, start and revision of each, by tier and start.
    #[cfg(test)]
    pub(crate) async fn revisions(&self, property: PropertyIndex) -> Result<Vec<(Tier, Timestamp, i32)>, LakeError> {
        let published = self.published()?;
        let mut found = Vec::new();
        for file in published.rollups.files.iter() {
            let id = self.catalogue.get(property).id.clone();
            for row in self.rows_of(&published, file.tier, file.date, &one_of(PROPERTY, &[id])).await? {
                found.push((file.tier, Timestamp::from_micros_clamped(row.start), row.revision));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Drops a tier's rollups of local days before an instant, by whole partitions. Returns how many files that were.
    pub async fn drop_rollups(&self, oldest: &[(Tier, Option<Timestamp>)]) -> Result<usize, LakeError> {
        let zone = &self.settings.zone;
        let limit = |tier| {
            let oldest = oldest.iter().find(|(of, _time)| *of == tier).and_then(|(_tier, oldest)| *oldest);
            oldest.map(|time| date_at(zone, time)).map(|day| if tier == Tier::Day { month_of(day) } else { day })
        };
        if Tier::COARSEST_FIRST.into_iter().all(|tier| limit(tier).is_none()) {
            return Ok(0);
        }
        let writer = self.writer().await?;
        let published = self.published()?;
        let rollups = &published.rollups;
        let mut removes = Vec::new();
        for view in rollups.table.snapshot()?.log_data() {
            let path = view.object_store_path().to_string();
            let file = rollups.files.iter().find(|file| file.path == path);
            if file.is_some_and(|file| limit(file.tier).is_some_and(|limit| file.date < limit)) {
                removes.push(view.remove_action(true));
            }
        }
        let dropped = removes.len();
        if dropped > 0 {
            let rollups = Rollups::new(commit(&rollups.table, Change { removes, ..Change::default() }).await?)?;
            *self.published.write() = Some(Published { rollups, ..published });
        }
        drop(writer);
        Ok(dropped)
    }

    /// Deletes files that no version of the rollups has used for `unused`.
    pub(in crate::store::lake) async fn vacuum_rollups(&self, unused: Duration) -> Result<usize, LakeError> {
        let writer = self.writer().await?;
        let published = self.published()?;
        let table = DeltaTable::clone(&published.rollups.table);
        let retention = chrono::Duration::from_std(unused).unwrap_or(chrono::Duration::MAX);
        let (table, metrics) = table.vacuum().with_retention_period(retention).with_enforce_retention_duration(false).await?;
        let rollups = Rollups::new(table)?;
        *self.published.write() = Some(Published { rollups, ..published });
        drop(writer);
        Ok(metrics.files_deleted.len())
    }
}

impl Rollups {
    /// Rows of a partition, as files are read and sorted.
    pub(super) fn partition(
        &self,
        runtime: &Arc<RuntimeEnv>,
        tier: Tier,
        date: i32,
        filter: &Expr,
    ) -> Result<SendableRecordBatchStream, LakeError> {
        let (schema, url) = (file_schema(), self.store_url());
        let files = self.files.iter().filter(|file| file.tier == tier && file.date == date);
        let files: Vec<PartitionedFile> = files.map(|file| PartitionedFile::new(file.path.as_str(), file.bytes)).collect();
        if files.is_empty() {
            return Ok(Box::pin(EmptyRecordBatchStream::new(schema)));
        }
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let plan = filtered_plan(runtime, &url, &schema, filter, vec![FileGroup::new(files)], &columns, Order::SeriesTime)?;
        Ok(execute_stream(plan, Arc::new(TaskContext::default().with_runtime(Arc::clone(runtime))))?)
    }

    /// A partition's files, as actions that put them in and take them out.
    fn actions(&self, tier: Tier, date: i32) -> Result<(Vec<Add>, Vec<Remove>), LakeError> {
        let (mut adds, mut removes) = (Vec::new(), Vec::new());
        for view in self.table.snapshot()?.log_data() {
            let path = view.object_store_path().to_string();
            let file = self.files.iter().find(|file| file.path == path).ok_or_else(|| unknown("file of a rollup", &path))?;
            if file.tier == tier && file.date == date {
                #[expect(deprecated, reason = "a table provider over some files takes nothing else")]
                adds.push(view.add_action());
                removes.push(view.remove_action(true));
            }
        }
        Ok((adds, removes))
    }
}

/// What is rolled up anew: some properties of a local day.
struct Replaced {
    start: Timestamp,
    end: Timestamp,
    /// Their ids.
    properties: Vec<String>,
}

impl Replaced {
    /// Rows of it.
    fn filter(&self) -> Expr {
        let within = col(START).gt_eq(instant(self.start.micros())).and(col(START).lt(instant(self.end.micros())));
        one_of(PROPERTY, &self.properties).and(within)
    }
}

/// A partition on its way into new files.
struct Partition {
    tier: Tier,
    /// The local day or, of days, the first of the month.
    date: i32,
    /// The files that it has, as actions that put them in and take them out.
    old: Vec<Add>,
    removes: Vec<Remove>,
    /// New rows that go among those of the old files; without such they are written at once.
    new: Vec<RecordBatch>,
    writer: RecordBatchWriter,
}

impl Partition {
    fn begin(rollups: &Rollups, tier: Tier, day: i32) -> Result<Self, LakeError> {
        let date = if tier == Tier::Day { month_of(day) } else { day };
        let (old, removes) = rollups.actions(tier, date)?;
        let writer = RecordBatchWriter::for_table(&rollups.table)?.with_writer_properties(writer_properties());
        Ok(Self { tier, date, old, removes, new: Vec::new(), writer })
    }
}

/// A bucket whose numbers stay keeps its revision; one whose numbers change gets the next.
fn carry_revisions(before: &[Row], rows: &mut [Row]) {
    let before: HashMap<_, &Row> = before.iter().map(|row| (row.key(), row)).collect();
    for row in rows {
        if let Some(known) = before.get(&row.key()) {
            row.revision = known.revision + i32::from(known.statistics != row.statistics);
        }
    }
}

/// The readings of one property in one local day, on their way into buckets.
pub(super) struct DayOfProperty {
    kept: Kept,
    quarters: Windows,
    hours: Windows,
    start: i64,
    end: i64,
    devices: HashMap<u32, Vec<Lane>>,
}

/// Trusted or suspect readings of one device in one district.
struct Lane {
    district: u16,
    trusted: bool,
    bucket: usize,
    tally: Tally,
    done: Vec<(usize, Statistics)>,
    sketch: Option<Sketch>,
}

impl DayOfProperty {
    pub(super) fn new(kept: Kept, zone: &TimeZone, start: Timestamp, end: Timestamp) -> Result<Self, LakeError> {
        let windows =
            |tier: Tier| Windows::new(tier.size(), zone, start, end, BUCKETS_MAX).map_err(|error| unknown("day", &error.to_string()));
        Ok(Self {
            kept,
            quarters: windows(Tier::Quarter)?,
            hours: windows(Tier::Hour)?,
            start: start.micros(),
            end: end.micros(),
            devices: HashMap::new(),
        })
    }

    /// Takes rows: those of a device by ascending time.
    pub(super) fn add(&mut self, chunk: &Chunk) {
        let rows = chunk.device.iter().zip(&chunk.time).zip(&chunk.value).zip(&chunk.flags).zip(&chunk.district);
        let mut hint = 0;
        for ((((device, time), value), flags), district) in rows {
            let Some(bucket) = self.quarters.find_near(*time, hint) else { continue };
            hint = bucket;
            let trusted = Flags::from_bits_retain(*flags).is_trusted();
            let lanes = self.devices.entry(*device).or_default();
            let known = lanes.iter().position(|lane| lane.district == *district && lane.trusted == trusted);
            let at = known.unwrap_or_else(|| {
                let (tally, sketch) = (Tally::new(self.kept), self.kept.has(Statistic::Sketch).then(Sketch::default));
                lanes.push(Lane { district: *district, trusted, bucket, tally, done: Vec::new(), sketch });
                lanes.len() - 1
            });
            let Some(lane) = lanes.get_mut(at) else { continue };
            if lane.bucket != bucket {
                let tally = std::mem::replace(&mut lane.tally, Tally::new(self.kept));
                lane.done.push((lane.bucket, tally.finish()));
                lane.bucket = bucket;
            }
            lane.tally.add(Seen { time: *time, value: *value }, *flags);
            if let Some(sketch) = &mut lane.sketch {
                sketch.add(*value);
            }
        }
    }

    /// The buckets, by tier.
    pub(super) fn finish(
        self,
        property: &str,
        device: impl Fn(u32) -> String,
        district: impl Fn(u16) -> Option<String>,
    ) -> Vec<(Tier, Vec<Row>)> {
        let (mut quarters, mut hours, mut days) = (Vec::new(), Vec::new(), Vec::new());
        for (index, lanes) in self.devices {
            let name = device(index);
            let has_moved = lanes.iter().filter(|lane| lane.trusted).count() > 1;
            for mut lane in lanes {
                lane.done.push((lane.bucket, lane.tally.finish()));
                // Between its readings lie those of the other lanes.
                let is_alone = lane.trusted && !has_moved;
                let district = district(lane.district);
                let row = |(start, end): (i64, i64), mut statistics: Statistics| {
                    statistics.increase = statistics.increase.filter(|_increase| is_alone);
                    Row {
                        property: property.to_owned(),
                        device: name.clone(),
                        start,
                        end,
                        district: district.clone(),
                        trusted: lane.trusted,
                        kept: self.kept,
                        statistics,
                        revision: 1,
                    }
                };
                let (mut day, mut hour, mut of_hour) = (Tally::new(self.kept), Tally::new(self.kept), None);
                for (bucket, statistics) in lane.done {
                    let Some((start, end)) = self.quarters.edges(bucket) else { continue };
                    let at = self.hours.find(start);
                    if of_hour != at {
                        let full = std::mem::replace(&mut hour, Tally::new(self.kept));
                        let edges = of_hour.and_then(|of_hour: usize| self.hours.edges(of_hour));
                        hours.extend(edges.map(|edges| row(edges, full.finish())));
                        of_hour = at;
                    }
                    hour.append(&statistics);
                    day.append(&statistics);
                    quarters.push(row((start, end), statistics));
                }
                let edges = of_hour.and_then(|of_hour| self.hours.edges(of_hour));
                hours.extend(edges.map(|edges| row(edges, hour.finish())));
                days.push(row((self.start, self.end), Statistics { sketch: lane.sketch, ..day.finish() }));
            }
        }
        vec![(Tier::Quarter, quarters), (Tier::Hour, hours), (Tier::Day, days)]
    }
}
