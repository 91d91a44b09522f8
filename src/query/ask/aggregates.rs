//! Aggregates of one property.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use hashbrown::HashMap;
use jiff::tz::TimeZone;

use super::place::Whereabouts;
use super::{Answers, AskError, Filter, Quality};
use crate::model::{DeviceId, DeviceKind, DistrictIndex, Kind, Property, PropertyIndex, Timestamp};
use crate::model::{WindowSize, Windows};
use crate::query::aggregate::{AggregateError, Aggregator, Bucket, Fill, GroupBy, Lead, Member, NO_DISTRICT, Plan, Row};
use crate::query::function::{AcrossFunction, TimeFunction};
use crate::query::plan::{self, RolledUp, Source, Sources, Stretch};
use crate::rollup::{RELATIVE_ERROR, Statistic};
use crate::state::{DeviceIndex, State};
use crate::store::{Chunk, Chunks, Detail, LakeError, Order, Pieces, RollupChunk, RollupChunks, Selection, View};

/// Up to so many expected rows, percentiles are exact even where sketches would answer.
const EXACT_ROWS_MAX: f64 = 1e6;

/// So often rollups are read that are written meanwhile; then the rows are.
const ATTEMPTS: usize = 3;

/// What aggregates are asked for.
#[derive(Clone, Debug)]
pub struct AggregateQuestion {
    /// Of this property.
    pub property: PropertyIndex,
    /// From the window that holds this time.
    pub from: Timestamp,
    /// To the window that ends here or later.
    pub to: Timestamp,
    /// By windows of this size.
    pub window: WindowSize,
    /// On this zone's clock.
    pub zone: TimeZone,
    /// The function in time; the property's own where none is asked for.
    pub in_time: Option<String>,
    /// The function across devices; the property's own where none is asked for. Grouped by device there is none.
    pub across: Option<String>,
    /// What answers are told apart by.
    pub group_by: Vec<GroupBy>,
    /// What becomes of empty windows.
    pub fill: Fill,
    /// Of these devices and observations.
    pub filter: Filter,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Aggregates {
    /// What was asked about.
    pub property: Arc<Property>,
    /// The function in time.
    pub in_time: TimeFunction,
    /// The function across devices; none where each device stands alone.
    pub across: Option<AcrossFunction>,
    /// The unit of all values, a UCUM code.
    pub unit: String,
    /// Whether values are codes of the property's states.
    pub is_state: bool,
    /// Where the first window begins.
    pub start: Timestamp,
    /// Where the last one ends.
    pub end: Timestamp,
    /// How many observations it rests on, those that are rolled up included.
    pub rows: u64,
    /// How far percentiles may lie from the exact ones, as a part of these; `None` where they are exact.
    pub relative_error: Option<f64>,
    /// Where the numbers come from.
    pub explanation: Explanation,
    /// By group.
    pub series: Vec<AggregateSeries>,
}

/// Where the numbers of an answer come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// Stretches of time, and how many rows or buckets were read of each.
    pub read: Vec<(Stretch, u64)>,
    /// Why nothing coarser was read.
    pub reason: &'static str,
}

/// The buckets of one group, by window.
#[derive(Clone, Debug)]
pub struct AggregateSeries {
    /// Which group.
    pub key: SeriesKey,
    /// At least one.
    pub buckets: Vec<Bucket>,
}

/// A group by its names; parts by which answers are not grouped are `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeriesKey {
    /// The device.
    pub device: Option<DeviceId>,
    /// The kind.
    pub kind: Option<DeviceKind>,
    /// The district, or `Some(None)` for what was observed outside all of them.
    pub district: Option<Option<DistrictIndex>>,
}

/// The devices of a question, and their names.
#[derive(Default)]
struct Cast {
    members: Vec<Member>,
    /// By member; empty where places do not matter.
    whereabouts: Vec<Whereabouts>,
    names: HashMap<u32, DeviceId>,
    kinds: Vec<DeviceKind>,
}

/// What an aggregate is made of.
#[derive(Clone)]
struct Reads {
    plan: Plan,
    members: Vec<Member>,
    selection: Selection,
}

/// All that an aggregate needs.
struct Gathered {
    aggregator: Aggregator,
    /// Observations, also those that buckets stand for.
    rows: u64,
    /// Rows or buckets, by stretch.
    read: Vec<u64>,
}

impl Gathered {
    async fn take_rows(&mut self, mut chunks: Chunks) -> Result<u64, AskError> {
        let mut read = 0;
        while let Some(chunk) = chunks.next().await {
            let Chunk { device, time, value, flags, district, .. } = &chunk?;
            read += time.len() as u64;
            self.aggregator.push_chunk(device, time, value, flags, district)?;
            // Batches that are ready must not keep others from the thread.
            tokio::task::coop::consume_budget().await;
        }
        self.rows += read;
        Ok(read)
    }

    async fn take_buckets(&mut self, mut chunks: RollupChunks) -> Result<u64, AskError> {
        let mut read = 0;
        while let Some(chunk) = chunks.next().await {
            read += self.take_bucket_chunk(&chunk?)?;
            tokio::task::coop::consume_budget().await;
        }
        Ok(read)
    }

    fn take_bucket_chunk(&mut self, chunk: &RollupChunk) -> Result<u64, AskError> {
        let RollupChunk { device, start, district, statistics } = chunk;
        self.rows += statistics.iter().map(|statistics| statistics.count).sum::<u64>();
        self.aggregator.push_rollup(device, start, district, statistics)?;
        Ok(start.len() as u64)
    }

    async fn take_pieces(&mut self, mut pages: BoxStream<'static, Result<Pieces, LakeError>>) -> Result<u64, AskError> {
        let mut read = 0;
        while let Some(page) = pages.next().await {
            let Pieces { buckets, rows } = page?;
            read += self.take_bucket_chunk(&buckets)?;
            read += self.take_rows(stream::iter(rows.into_iter().map(Ok)).boxed()).await?;
        }
        Ok(read)
    }
}

/// On which side of a selection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Beside {
    /// The last row before it, however old.
    Before,
    /// The first row behind it, up to this time.
    After(Timestamp),
}

impl Answers {
    /// Aggregates of a property over windows of time.
    pub async fn aggregates(&self, question: AggregateQuestion) -> Result<Aggregates, AskError> {
        let property = Arc::clone(self.catalogue.get(question.property));
        let by_device = question.group_by.contains(&GroupBy::Device);
        let time = TimeFunction::choose(question.in_time.as_deref(), &property)?;
        let across = match (&question.across, by_device) {
            // Checked where it is asked for, even though there is nothing left to do.
            (None, true) => AcrossFunction::Count,
            (asked, _) => AcrossFunction::choose(asked.as_deref(), &property, time)?,
        };
        question.fill.check(&property, time)?;
        let windows = Windows::new(question.window, &question.zone, question.from, question.to, self.limits.buckets_max)?;
        let (start, end) = (windows.start(), windows.end());
        let (devices, mut cast) = {
            let state = self.live.read();
            let devices = question.filter.devices(&state)?;
            let cast = cast(&state, &question, devices.as_deref(), &property)?;
            (devices, cast)
        };
        // Districts are looked up once the state is let go.
        for (member, whereabouts) in cast.members.iter_mut().zip(&cast.whereabouts) {
            member.district = self.home(whereabouts, &question.filter);
        }
        let rows_expected = cast.members.iter().map(|member| end.since(start).as_secs_f64() / member.interval_s.max(1.0)).sum();
        let by_district = question.group_by.contains(&GroupBy::District) || !question.filter.districts.is_empty();
        let asked = plan::Question {
            property: &property,
            time,
            windows: &windows,
            by_area: question.filter.area.is_some(),
            pieces_of: (!by_district).then_some(cast.members.len()),
            trusted: question.filter.quality == Quality::Trusted,
            rows_expected,
            rows_exact_max: EXACT_ROWS_MAX.min(self.limits.percentile_rows_max as f64),
        };
        let plan = Plan {
            windows: windows.clone(),
            time,
            across,
            group: question.group_by.clone(),
            summary: property.summary,
            fill: question.fill,
            by_place: question.filter.has_place(),
            hold_intervals: self.limits.hold_intervals,
            slots_max: self.limits.buckets_max,
            rows_max: self.limits.percentile_rows_max,
            sketched: false,
        };
        let selection = question.filter.selection(vec![question.property], start, end, devices);
        let (gathered, sources) = self.gather_whole(&asked, Reads { plan, members: cast.members, selection }).await?;
        let Gathered { aggregator, rows, read } = gathered;
        let (now, lateness) = (self.clock.now(), self.limits.lateness.0);
        let buckets =
            tokio::task::spawn_blocking(move || aggregator.finish(now, lateness)).await.map_err(|_stopped| AskError::Stopped)??;
        Ok(Aggregates {
            unit: unit(&property, time, (!by_device).then_some(across)),
            is_state: property.kind == Kind::State
                && time.keeps_meaning()
                && time != TimeFunction::Count
                && (by_device || across != AcrossFunction::Count),
            in_time: time,
            across: (!by_device).then_some(across),
            property,
            start,
            end,
            rows,
            relative_error: sources
                .use_rollups()
                .then_some(sources.statistic)
                .filter(|statistic| *statistic == Statistic::Sketch)
                .map(|_| RELATIVE_ERROR),
            explanation: Explanation { read: sources.stretches.into_iter().zip(read).collect(), reason: sources.reason },
            series: series(buckets, &cast.names, &cast.kinds, question.filter.has_place()),
        })
    }

    /// Plans, and reads rows and buckets of one state into an aggregator.
    async fn gather_whole(&self, asked: &plan::Question<'_>, mut reads: Reads) -> Result<(Gathered, Sources), AskError> {
        let property = reads.selection.properties.first().copied();
        for _attempt in 0..ATTEMPTS {
            let view = self.history.view()?;
            let touched = match property {
                Some(property) => view.touched_days(property).await?,
                None => None,
            };
            let from = view.rolled_up_from();
            let rolled_up = touched.as_ref().map(|touched| RolledUp { zone: view.zone(), touched, from: &from });
            let sources =
                Sources::plan(&plan::Question { pieces_of: asked.pieces_of.filter(|_devices| view.has_pieces()), ..*asked }, rolled_up);
            reads.plan.sketched = sources.statistic == Statistic::Sketch;
            let gathered = match self.gather(&view, reads.clone(), &sources).await {
                Err(AskError::Aggregate(AggregateError::Moved { .. })) => {
                    let rows = Sources::rows(asked.windows, "a device moved between districts while it counted");
                    return Ok((self.gather(&view, reads, &rows).await?, rows));
                }
                gathered => gathered?,
            };
            let mut rolled_up = sources.stretches.iter().filter(|stretch| matches!(stretch.source, Source::Rollup(_)));
            if rolled_up.all(|stretch| property.is_some_and(|property| view.is_whole(property, stretch.from, stretch.to))) {
                return Ok((gathered, sources));
            }
        }
        let rows = Sources::rows(asked.windows, "rollups were written again while they were read");
        reads.plan.sketched = false;
        Ok((self.gather(&self.history.view()?, reads, &rows).await?, rows))
    }

    /// Reads rows and buckets into an aggregator.
    async fn gather(&self, view: &View<'_>, reads: Reads, sources: &Sources) -> Result<Gathered, AskError> {
        let Reads { plan, members, selection } = reads;
        let order = if plan.needs_order() { Order::SeriesTime } else { Order::Any };
        let lead = plan.lead(&members);
        let detail = if plan.group.contains(&GroupBy::District) { Detail::Numbers } else { Detail::Values };
        let before = match lead {
            Lead::Any => {
                let devices: Vec<DeviceIndex> = members.iter().map(|member| DeviceIndex(member.device)).collect();
                self.nearest(Beside::Before, &selection, detail, &devices).await?
            }
            Lead::None | Lead::Within(_) => Vec::new(),
        };
        let start = plan.windows.start();
        let mut aggregator = Aggregator::new(plan, members)?;
        for row in before {
            aggregator.push(row)?;
        }
        let mut gathered = Gathered { aggregator, rows: 0, read: Vec::with_capacity(sources.stretches.len()) };
        for stretch in &sources.stretches {
            let mut selection = Selection { from: stretch.from, to: stretch.to, ..selection.clone() };
            if let (Lead::Within(hold), true) = (lead, stretch.from == start) {
                selection.from = start.minus(hold);
            }
            let read = match stretch.source {
                Source::Rollup(tier) => {
                    let chunks = view.rollup(tier, sources.statistic, &selection, order, detail)?;
                    gathered.take_buckets(chunks).await?
                }
                Source::Pieces(every) => gathered.take_pieces(view.pieces(every, sources.statistic, &selection)).await?,
                Source::Rows => gathered.take_rows(view.scan(selection, order, detail)?).await?,
            };
            gathered.read.push(read);
        }
        Ok(gathered)
    }

    /// Where a device is expected: nowhere if it moves about, or is at home where nobody asked.
    fn home(&self, whereabouts: &Whereabouts, filter: &Filter) -> Option<u16> {
        if whereabouts.is_mobile {
            return None;
        }
        let home = whereabouts.home(&self.districts);
        let in_districts = filter.districts.is_empty() || home.is_some_and(|home| filter.districts.contains(&home));
        let in_area = filter.area.is_none_or(|area| whereabouts.position.is_some_and(|position| area.contains(position)));
        (in_districts && in_area).then(|| home.map_or(NO_DISTRICT, |home| home.0))
    }

    /// Each device's nearest row beside a selection, looked for in ever longer stretches.
    pub(super) async fn nearest(
        &self,
        beside: Beside,
        selection: &Selection,
        detail: Detail,
        devices: &[DeviceIndex],
    ) -> Result<Vec<Row>, AskError> {
        const STRETCH: Duration = Duration::from_hours(1);
        const GROWTH: u32 = 8;
        let mut missing = devices.to_vec();
        missing.sort_unstable();
        let mut found: HashMap<u32, Row> = HashMap::new();
        let limit = match beside {
            Beside::Before => self.history.oldest_time().await?,
            Beside::After(limit) => Some(limit),
        };
        let Some(limit) = limit else { return Ok(Vec::new()) };
        let (mut from, mut to, mut stretch) = (selection.to, selection.from, STRETCH);
        while !missing.is_empty() {
            (from, to) = match beside {
                Beside::Before => (to.minus(stretch).max(limit), to),
                Beside::After(_) => (from, from.plus(stretch).min(limit)),
            };
            if from >= to {
                break;
            }
            let part = Selection { from, to, devices: Some(missing.clone()), ..selection.clone() };
            let mut chunks = self.history.scan(part, Order::Any, detail)?;
            while let Some(chunk) = chunks.next().await {
                for row in rows(&chunk?) {
                    let nearest = found.entry(row.device).or_insert(row);
                    let is_nearer = match beside {
                        Beside::Before => nearest.time < row.time,
                        Beside::After(_) => row.time < nearest.time,
                    };
                    if is_nearer {
                        *nearest = row;
                    }
                }
                tokio::task::coop::consume_budget().await;
            }
            missing.retain(|device| !found.contains_key(&device.0));
            // The next stretch lies further away.
            (from, to, stretch) = (to, from, stretch.saturating_mul(GROWTH));
        }
        Ok(found.into_values().collect())
    }
}

/// Every device that the question is about, also a silent one: those that ever told the property.
fn cast(state: &State, question: &AggregateQuestion, devices: Option<&[DeviceIndex]>, property: &Property) -> Result<Cast, AskError> {
    let by_kind = question.group_by.contains(&GroupBy::Kind);
    let with_place = question.group_by.contains(&GroupBy::District) || question.filter.has_place();
    let mut cast = Cast::default();
    let mut kinds: HashMap<DeviceKind, u16> = HashMap::new();
    let all = (0u32..).map(DeviceIndex).take(if devices.is_none() { state.devices.len() } else { 0 });
    for index in devices.unwrap_or_default().iter().copied().chain(all) {
        if state.find_series(index, question.property).is_none() {
            continue;
        }
        let device = state.device(index);
        let kind = match kinds.get(&device.kind) {
            _ if !by_kind => 0,
            Some(kind) => *kind,
            None => {
                let kind = u16::try_from(cast.kinds.len()).map_err(|_many| AskError::TooManyKinds(u16::MAX))?;
                cast.kinds.push(device.kind.clone());
                kinds.insert(device.kind.clone(), kind);
                kind
            }
        };
        if with_place {
            cast.whereabouts.push(Whereabouts::of(device, state));
        }
        cast.names.insert(index.0, device.id.clone());
        let declared = state.registry.find(device.id.as_str()).and_then(|registration| registration.document().interval_s);
        let interval_s = f64::from(declared.unwrap_or(property.interval_s));
        cast.members.push(Member { device: index.0, kind, district: None, interval_s });
    }
    Ok(cast)
}

pub(super) fn rows(chunk: &Chunk) -> impl Iterator<Item = Row> {
    let columns = chunk.device.iter().zip(&chunk.time).zip(&chunk.value).zip(&chunk.flags).zip(&chunk.district);
    columns.map(|((((device, time), value), flags), district)| Row {
        device: *device,
        time: *time,
        value: *value,
        flags: *flags,
        district: *district,
    })
}

/// The unit of what the functions give.
fn unit(property: &Property, time: TimeFunction, across: Option<AcrossFunction>) -> String {
    match (time, across) {
        (_, Some(AcrossFunction::Count)) | (TimeFunction::Count | TimeFunction::Changes, _) => "1".to_owned(),
        (TimeFunction::Duration(_), _) => "s".to_owned(),
        _ => property.unit.clone(),
    }
}

/// Buckets come by group and then by window.
fn series(buckets: Vec<Bucket>, names: &HashMap<u32, DeviceId>, kinds: &[DeviceKind], by_place: bool) -> Vec<AggregateSeries> {
    let mut all: Vec<AggregateSeries> = Vec::new();
    let mut group = None;
    for bucket in buckets {
        match all.last_mut() {
            Some(series) if group == Some(bucket.group) => series.buckets.push(bucket),
            _ => {
                group = Some(bucket.group);
                let key = SeriesKey {
                    device: bucket.group.device.and_then(|device| names.get(&device).cloned()),
                    kind: bucket.group.kind.and_then(|kind| kinds.get(usize::from(kind)).cloned()),
                    district: bucket.group.district.map(|district| (district != NO_DISTRICT).then_some(DistrictIndex(district))),
                };
                all.push(AggregateSeries { key, buckets: vec![bucket] });
            }
        }
    }
    if by_place {
        // Who neither was in the place nor is expected there is none of the answer's business.
        all.retain(|series| series.buckets.iter().any(|bucket| bucket.count > 0 || bucket.expected.is_some()));
    }
    all
}
