//! Aggregates that tell the truth: a function in time for each device and window, then one across devices, with coverage.
//!
//! The core is pure: rows in, buckets out. Functions that need no order take rows in any; the others
//! ([`TimeFunction::needs_order`]) take each device's rows by ascending time, from before the first window, so that
//! growth and holding values cross the borders of windows rightly. Sums are compensated (Neumaier), so that the order
//! of rows does not show.

mod accumulate;

use accumulate::{Accumulate, Accumulators, Held, across};
use hashbrown::HashMap;

use super::function::{AcrossFunction, TimeFunction};
use super::window::Windows;
use crate::model::{Summary, Timestamp};
use crate::store::{Chunk, NO_DISTRICT};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The windows.
    pub windows: Windows,
    /// For each device.
    pub time: TimeFunction,
    /// Across devices.
    pub across: AcrossFunction,
    /// How values are put together.
    pub summary: Summary,
    /// One answer for each device.
    pub by_device: bool,
    /// One answer for each kind of device.
    pub by_kind: bool,
    /// One answer for each district.
    pub by_district: bool,
    /// Bounds of the work.
    pub limits: Limits,
    /// Now: windows after it have nothing to expect yet.
    pub now: Timestamp,
}

/// Bounds of the work.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Devices times windows.
    pub cells_max: usize,
    /// Values that percentiles may keep.
    pub values_max: usize,
}

/// The question needs more than it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// Devices times windows.
    #[error("{devices} devices in {windows} windows are more than {cells_max} results")]
    Cells { devices: usize, windows: usize, cells_max: usize },
    /// Values that percentiles keep.
    #[error("percentiles of more than {values_max} values")]
    Values { values_max: usize },
}

/// A device that the question is about, whether it spoke or not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Member {
    /// Its index.
    pub device: u32,
    /// Its kind, as a number of the caller's choice.
    pub kind: u16,
    /// The district where it stands, or [`NO_DISTRICT`]: such a device counts where it reports, without expectation.
    pub district: u16,
    /// Expected seconds between two readings.
    pub interval_s: f64,
}

/// Whose answer a bucket is; parts that were not asked for are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group {
    /// The device.
    pub device: Option<u32>,
    /// The kind's number.
    pub kind: Option<u16>,
    /// The district, or [`NO_DISTRICT`].
    pub district: Option<u16>,
}

/// The answer for one group and window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Whose.
    pub group: Group,
    /// Which window.
    pub window: usize,
    /// The result; none without data, and where a mean of directions is undefined.
    pub value: Option<f64>,
    /// Observations that it rests on.
    pub count: u64,
    /// Observations to be expected of the group's devices up to now; none where no device stands there.
    pub expected: Option<f64>,
    /// Devices that contributed.
    pub devices: u32,
    /// Share of what was expected that came, no device above its own: 0 to 1.
    pub coverage: Option<f64>,
    /// All flags of the observations together.
    pub flags: u16,
}

/// Takes rows, gives buckets.
pub struct Aggregator {
    plan: Plan,
    members: Vec<Member>,
    /// Position in `members`, by device.
    member_of: HashMap<u32, usize>,
    /// One a device, or a device and district.
    slots: Vec<Slot>,
    slot_of: HashMap<(u32, u16), usize>,
    /// Slot by device, where districts do not split devices.
    slot_of_device: Vec<u32>,
    cells: Accumulators,
    values: usize,
}

impl std::fmt::Debug for Aggregator {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Aggregator").field("plan", &self.plan).field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    device: u32,
    district: u16,
    /// The window of the row before: the next is nearly always the same.
    hint: usize,
    /// What the row before said, where functions hold values.
    held: Option<Held>,
}

const NO_SLOT: u32 = u32::MAX;

impl Aggregator {
    /// Prepares for rows of the given devices.
    pub fn new(plan: Plan, members: Vec<Member>) -> Self {
        let member_of = members.iter().enumerate().map(|(position, member)| (member.device, position)).collect();
        let cells = Accumulators::new(plan.time, plan.summary);
        Self { plan, members, member_of, slots: Vec::new(), slot_of: HashMap::new(), slot_of_device: Vec::new(), cells, values: 0 }
    }

    /// Takes rows.
    pub fn push(&mut self, chunk: &Chunk) -> Result<(), TooLarge> {
        if matches!(self.plan.time, TimeFunction::Percentile(_)) {
            self.values += chunk.len();
            if self.values > self.plan.limits.values_max {
                return Err(TooLarge::Values { values_max: self.plan.limits.values_max });
            }
        }
        if self.plan.time.needs_order() { self.push_ordered(chunk) } else { self.push_any(chunk) }
    }

    fn push_any(&mut self, chunk: &Chunk) -> Result<(), TooLarge> {
        // Taken out so that the hot loop is compiled once for each kind of cell.
        let mut cells = std::mem::take(&mut self.cells);
        let outcome = match &mut cells {
            Accumulators::Count(cells) => self.fill(chunk, cells),
            Accumulators::Sum(cells) => self.fill(chunk, cells),
            Accumulators::Mean(cells) => self.fill(chunk, cells),
            Accumulators::Min(cells) => self.fill(chunk, cells),
            Accumulators::Max(cells) => self.fill(chunk, cells),
            Accumulators::First(cells) => self.fill(chunk, cells),
            Accumulators::Last(cells) => self.fill(chunk, cells),
            Accumulators::Variance(cells) => self.fill(chunk, cells),
            Accumulators::Circular(cells) => self.fill(chunk, cells),
            Accumulators::Energetic(cells) => self.fill(chunk, cells),
            Accumulators::Values(cells) => self.fill(chunk, cells),
            Accumulators::Amount(_) | Accumulators::States(_) | Accumulators::None => Ok(()),
        };
        self.cells = cells;
        outcome
    }

    fn fill<A: Accumulate>(&mut self, chunk: &Chunk, cells: &mut Vec<Vec<A>>) -> Result<(), TooLarge> {
        let windows = self.plan.windows.len();
        let rows = chunk.device.iter().zip(&chunk.time).zip(&chunk.value).zip(&chunk.flags).zip(&chunk.district);
        for ((((device, time), value), flags), district) in rows {
            let index = self.slot(*device, *district)?;
            let Some(slot) = self.slots.get_mut(index) else { continue };
            let Some(window) = self.plan.windows.find(*time, slot.hint) else { continue };
            slot.hint = window;
            if cells.len() <= index {
                cells.resize_with(index + 1, Vec::new);
            }
            let Some(row) = cells.get_mut(index) else { continue };
            if row.is_empty() {
                row.resize_with(windows, A::default);
            }
            if let Some(cell) = row.get_mut(window) {
                cell.add(*time, *value, *flags);
            }
        }
        Ok(())
    }

    fn push_ordered(&mut self, chunk: &Chunk) -> Result<(), TooLarge> {
        let rows = chunk.device.iter().zip(&chunk.time).zip(&chunk.value).zip(&chunk.flags).zip(&chunk.district);
        for ((((device, time), value), flags), district) in rows {
            let index = self.slot(*device, *district)?;
            let Some(slot) = self.slots.get_mut(index) else { continue };
            let before = slot.held.replace(Held { time: *time, value: *value });
            let hold = self.member_of.get(device).and_then(|member| self.members.get(*member)).map_or(0.0, |member| member.interval_s * HOLD_INTERVALS);
            self.cells.advance(&self.plan, index, before, Held { time: *time, value: *value }, *flags, hold);
        }
        Ok(())
    }

    fn slot(&mut self, device: u32, district: u16) -> Result<usize, TooLarge> {
        let district = if self.plan.by_district { district } else { NO_DISTRICT };
        if !self.plan.by_district
            && let Some(slot) = self.slot_of_device.get(device as usize)
            && *slot != NO_SLOT
        {
            return Ok(*slot as usize);
        }
        if let Some(slot) = self.slot_of.get(&(device, district)) {
            return Ok(*slot);
        }
        let windows = self.plan.windows.len();
        if (self.slots.len() + 1).saturating_mul(windows) > self.plan.limits.cells_max {
            return Err(TooLarge::Cells { devices: self.slots.len() + 1, windows, cells_max: self.plan.limits.cells_max });
        }
        let index = self.slots.len();
        self.slots.push(Slot { device, district, hint: 0, held: None });
        self.slot_of.insert((device, district), index);
        if !self.plan.by_district {
            if self.slot_of_device.len() <= device as usize {
                self.slot_of_device.resize(device as usize + 1, NO_SLOT);
            }
            if let Some(slot) = self.slot_of_device.get_mut(device as usize) {
                *slot = u32::try_from(index).expect("slots are capped by the cells");
            }
        }
        Ok(index)
    }

    /// The answer: every group in every window, by group and window; also those without data.
    pub fn finish(mut self) -> Vec<Bucket> {
        self.hold_to_the_end();
        let mut groups: std::collections::BTreeMap<Group, GroupParts> = std::collections::BTreeMap::new();
        for (index, member) in self.members.iter().enumerate() {
            groups.entry(self.group(member.device, member.kind, member.district)).or_default().members.push(index);
        }
        for (index, slot) in self.slots.iter().enumerate() {
            let member = self.member_of.get(&slot.device).and_then(|member| self.members.get(*member));
            let district = if self.plan.by_district { slot.district } else { NO_DISTRICT };
            let kind = member.map_or(u16::MAX, |member| member.kind);
            groups.entry(self.group(slot.device, kind, district)).or_default().slots.push(index);
        }
        let mut buckets = Vec::with_capacity(groups.len() * self.plan.windows.len());
        for (group, parts) in groups {
            for window in 0..self.plan.windows.len() {
                buckets.push(self.bucket(group, &parts, window));
            }
        }
        buckets
    }

    fn group(&self, device: u32, kind: u16, district: u16) -> Group {
        Group {
            device: self.plan.by_device.then_some(device),
            kind: self.plan.by_kind.then_some(kind),
            district: self.plan.by_district.then_some(district),
        }
    }

    /// Values that still hold at the end hold as long as they may, but not into the future.
    fn hold_to_the_end(&mut self) {
        if !self.plan.time.needs_order() {
            return;
        }
        let end = self.plan.windows.end().min(self.plan.now).micros();
        for (index, slot) in self.slots.iter().enumerate() {
            let member = self.member_of.get(&slot.device).and_then(|member| self.members.get(*member));
            let hold = member.map_or(0.0, |member| member.interval_s * HOLD_INTERVALS);
            if let Some(held) = slot.held {
                self.cells.hold(&self.plan, index, held, end, hold);
            }
        }
    }

    fn bucket(&self, group: Group, parts: &GroupParts, window: usize) -> Bucket {
        let (start, end) = self.plan.windows.bounds(window);
        let elapsed_s = end.min(self.plan.now).since(start).as_secs_f64();
        let mut bucket = Bucket { group, window, value: None, count: 0, expected: None, devices: 0, coverage: None, flags: 0 };
        let mut results = Vec::with_capacity(parts.slots.len());
        let mut counted: HashMap<u32, u64> = HashMap::with_capacity(parts.slots.len());
        for index in &parts.slots {
            let Some((count, flags, result)) = self.cells.result(self.plan.time, *index, window) else { continue };
            if count == 0 && result.is_none() {
                continue;
            }
            bucket.count += count;
            bucket.flags |= flags;
            bucket.devices += u32::from(count > 0);
            if let Some(slot) = self.slots.get(*index) {
                *counted.entry(slot.device).or_default() += count;
            }
            results.extend(result);
        }
        let (mut expected, mut covered) = (0.0, 0.0);
        for member in parts.members.iter().filter_map(|member| self.members.get(*member)) {
            if self.plan.by_district && member.district == NO_DISTRICT {
                continue;
            }
            let of_device = elapsed_s / member.interval_s;
            expected += of_device;
            covered += (counted.get(&member.device).copied().unwrap_or(0) as f64).min(of_device);
        }
        if expected > 0.0 {
            bucket.expected = Some(expected);
            bucket.coverage = Some((covered / expected).min(1.0));
        }
        let summary = if self.plan.time.keeps_meaning() { self.plan.summary } else { Summary::Arithmetic };
        // One device's own answer is not changed by putting it together with nothing; its count stays a count.
        bucket.value = if self.plan.by_device && !self.plan.by_district { results.first().copied() } else { across(self.plan.across, summary, &mut results) };
        bucket
    }
}

#[derive(Default)]
struct GroupParts {
    slots: Vec<usize>,
    members: Vec<usize>,
}

/// A value holds for at most so many expected intervals: then the device is taken to be silent.
pub const HOLD_INTERVALS: f64 = 3.0;

#[cfg(test)]
mod tests;
