//! Where the numbers of an answer come from: of each stretch of time the coarsest rollup that answers exactly (percentiles: within the
//! sketch's stated error), or the rows. Pure.
//!
//! A tier answers a question if every window is a union of its buckets, whatever time zone the windows are in, and if it keeps what the
//! function needs. Local days that were touched since they were rolled up, like today, are answered from rows.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::function::TimeFunction;
use crate::model::{Property, Summary, Timestamp, WindowSize, Windows};
use crate::rollup::{Kept, Statistic, Tier};

/// Most buckets of a tier in one question: 15 minutes for 28 years.
const BUCKETS_MAX: usize = 1_000_000;

/// The shortest pieces that a store is asked to aggregate.
const PIECE_MIN: Duration = Duration::from_mins(1);

/// Pieces with fewer rows are no less to read than these.
const ROWS_OF_PIECE_MIN: f64 = 4.0;

/// What is read of a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The observations.
    Rows,
    /// The buckets of a tier.
    Rollup(Tier),
    /// What the store itself makes of pieces so long, from multiples of that since 1970 on.
    Pieces(Duration),
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows => formatter.write_str("rows"),
            Self::Rollup(tier) => write!(formatter, "rollup-{tier}"),
            Self::Pieces(every) => write!(formatter, "pieces-{}s", every.as_secs()),
        }
    }
}

/// Half-open, of whole local days where it is not at the end of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where it begins.
    pub from: Timestamp,
    /// Where it ends.
    pub to: Timestamp,
    /// What is read of it.
    pub source: Source,
}

/// The stretches of a question, ascending and without hole.
#[derive(Clone, Debug, PartialEq)]
pub struct Sources {
    /// At least one.
    pub stretches: Vec<Stretch>,
    /// What is read of buckets.
    pub statistic: Statistic,
    /// Why no coarser source is read.
    pub reason: &'static str,
}

/// What the planner looks at.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Of this property.
    pub property: &'a Property,
    /// The function in time.
    pub time: TimeFunction,
    /// The windows.
    pub windows: &'a Windows,
    /// Whether only readings made in some area count: buckets have no positions.
    pub by_area: bool,
    /// Of how many devices the store may aggregate pieces by itself; `None` where it cannot, or districts matter, which pieces do not have.
    pub pieces_of: Option<usize>,
    /// Whether only trusted readings count.
    pub trusted: bool,
    /// How many rows are expected, at most.
    pub rows_expected: f64,
    /// Up to so many rows percentiles are exact.
    pub rows_exact_max: f64,
}

/// What a store has rolled up.
#[derive(Clone, Copy, Debug)]
pub struct RolledUp<'a> {
    /// On this zone's calendar.
    pub zone: &'a TimeZone,
    /// But for the local days that begin here.
    pub touched: &'a [Timestamp],
    /// From when on there are rollups of a tier; of one that is not here there are none.
    pub from: &'a [(Tier, Timestamp)],
}

impl Sources {
    /// All from rows.
    pub fn rows(windows: &Windows, reason: &'static str) -> Self {
        let stretch = Stretch { from: windows.start(), to: windows.end(), source: Source::Rows };
        Self { stretches: vec![stretch], statistic: Statistic::Count, reason }
    }

    /// The coarsest that answer a question.
    pub fn plan(question: &Question<'_>, rolled_up: Option<RolledUp<'_>>) -> Self {
        let mut sources = Self::of_rollups(question, rolled_up);
        if let Some((every, statistic)) = pieces(question) {
            for stretch in sources.stretches.iter_mut().filter(|stretch| stretch.source == Source::Rows) {
                (stretch.source, sources.statistic) = (Source::Pieces(every), statistic);
            }
        }
        sources
    }

    fn of_rollups(question: &Question<'_>, rolled_up: Option<RolledUp<'_>>) -> Self {
        let windows = question.windows;
        let Some(rolled_up) = rolled_up else { return Self::rows(windows, "the store has no rollups yet") };
        if question.by_area {
            return Self::rows(windows, "rollups have no positions, which the area asks for");
        }
        let Some(statistic) = statistic(question.time, question.property) else {
            return Self::rows(windows, "how long a value held is not rolled up");
        };
        if statistic == Statistic::Increase && !question.trusted {
            return Self::rows(windows, "growth is rolled up of trusted readings only");
        }
        if statistic == Statistic::Sketch && question.rows_expected <= question.rows_exact_max {
            return Self::rows(windows, "few enough rows for an exact percentile");
        }
        let Some(days) = bounds(WindowSize::Day, rolled_up.zone, windows) else {
            return Self::rows(windows, "more days than a plan looks at");
        };
        let asked: Vec<i64> = (0..windows.len()).filter_map(|window| windows.edges(window)).map(|(start, _end)| start).collect();
        let end = windows.end().micros();
        let fits = |tier: Tier| {
            let buckets = if tier == Tier::Day { Some(days.clone()) } else { bounds(tier.size(), rolled_up.zone, windows) };
            buckets.is_some_and(|buckets| asked.iter().chain([&end]).all(|edge| buckets.binary_search(edge).is_ok()))
        };
        let sketched_only = statistic == Statistic::Sketch;
        let tier = Tier::COARSEST_FIRST.into_iter().filter(|tier| !sketched_only || *tier == Tier::Day).find(|tier| fits(*tier));
        let Some(tier) = tier else {
            let reason = if sketched_only {
                "percentiles are rolled up by local day, and the windows are none"
            } else {
                "the windows are no unions of quarters of an hour on the city's clock"
            };
            return Self::rows(windows, reason);
        };
        let touched: BTreeSet<i64> = rolled_up.touched.iter().map(|day| day.micros()).collect();
        // What is older was dropped for its age, perhaps before its rows.
        let tier_from = rolled_up.from.iter().find(|(of, _from)| *of == tier).map_or(i64::MAX, |(_tier, from)| from.micros());
        let is_rolled_up = |day: i64| day >= tier_from && !touched.contains(&day);
        let stretches = stretches(&days, is_rolled_up, windows, tier);
        let is_all_rolled = stretches.iter().all(|stretch| stretch.source != Source::Rows);
        let reason = match (tier, is_all_rolled) {
            (_, false) => {
                "local days that go on, were touched since they were rolled up, or whose rollups were dropped, are answered from rows"
            }
            (Tier::Day, true) => "there is none coarser",
            (_, true) => "the windows are no unions of longer buckets on the city's clock",
        };
        Self { stretches, statistic, reason }
    }

    /// Whether any of it comes from rollups.
    pub fn use_rollups(&self) -> bool {
        self.stretches.iter().any(|stretch| matches!(stretch.source, Source::Rollup(_)))
    }
}

/// What a function needs of buckets; `None` where they do not have it.
fn statistic(time: TimeFunction, property: &Property) -> Option<Statistic> {
    let statistic = match (time, property.summary) {
        (TimeFunction::Count, _) => Statistic::Count,
        (TimeFunction::Sum | TimeFunction::Mean, Summary::Energetic) => Statistic::Energy,
        (TimeFunction::Mean, Summary::Circular) => Statistic::Direction,
        (TimeFunction::Sum | TimeFunction::Mean, _) => Statistic::Sum,
        (TimeFunction::Min | TimeFunction::Max, _) => Statistic::Extremes,
        (TimeFunction::First | TimeFunction::Last, _) => Statistic::Ends,
        (TimeFunction::Stddev, _) => Statistic::Squares,
        (TimeFunction::Percentile(_), _) => Statistic::Sketch,
        (TimeFunction::Increase, _) => Statistic::Increase,
        (TimeFunction::TimeWeightedMean | TimeFunction::Mode | TimeFunction::Changes | TimeFunction::Duration(_), _) => return None,
    };
    Kept::of(property).has(statistic).then_some(statistic)
}

/// The longest pieces of which all windows are made, and what is needed of them; `None` where the rows do as well, or only they do.
fn pieces(question: &Question<'_>) -> Option<(Duration, Statistic)> {
    let Question { property, time, windows, by_area, trusted, pieces_of, .. } = *question;
    let devices = pieces_of.filter(|_devices| trusted && !by_area)?;
    let known = [Statistic::Count, Statistic::Sum, Statistic::Extremes, Statistic::Ends];
    let statistic = statistic(time, property).filter(|statistic| known.contains(statistic))?;
    let edges = (0..windows.len()).filter_map(|window| windows.edges(window)).flat_map(|(start, end)| [start, end]);
    let every = Duration::from_micros(edges.fold(0, |one, other| common_divisor(one, other.unsigned_abs())));
    if every < PIECE_MIN || every.subsec_nanos() != 0 {
        return None;
    }
    let pieces = windows.end().since(windows.start()).as_secs_f64() / every.as_secs_f64() * devices as f64;
    (question.rows_expected >= pieces * ROWS_OF_PIECE_MIN).then_some((every, statistic))
}

fn common_divisor(mut one: u64, mut other: u64) -> u64 {
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one
}

/// Where buckets begin and end around a question's windows.
fn bounds(size: WindowSize, zone: &TimeZone, windows: &Windows) -> Option<Vec<i64>> {
    let buckets = Windows::new(size, zone, windows.start(), windows.end(), BUCKETS_MAX).ok()?;
    let starts = (0..buckets.len()).filter_map(|bucket| buckets.edges(bucket)).map(|(start, _end)| start);
    Some(starts.chain([buckets.end().micros()]).collect())
}

fn stretches(days: &[i64], is_rolled_up: impl Fn(i64) -> bool, windows: &Windows, tier: Tier) -> Vec<Stretch> {
    let (start, end) = (windows.start(), windows.end());
    let mut stretches: Vec<Stretch> = Vec::new();
    for (from, to) in days.iter().zip(days.iter().skip(1)) {
        let source = if is_rolled_up(*from) { Source::Rollup(tier) } else { Source::Rows };
        let from = Timestamp::from_micros_clamped(*from).max(start);
        let to = Timestamp::from_micros_clamped(*to).min(end);
        match stretches.last_mut() {
            Some(last) if last.source == source => last.to = to,
            _ => stretches.push(Stretch { from, to, source }),
        }
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Catalogue;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    struct Asked<'a> {
        property: &'a str,
        function: &'a str,
        size: &'a str,
        zone: &'a str,
        touched: &'a [&'a str],
        from: &'a str,
        has_pieces: bool,
    }

    /// From the 29th of March to the 2nd of April 2026, local time: summer time begins in Rome on the first of these days.
    fn plan(asked: &Asked<'_>) -> Vec<String> {
        let catalogue = Catalogue::built_in();
        let property = catalogue.get(catalogue.find(asked.property).unwrap());
        let rome = TimeZone::get("Europe/Rome").unwrap();
        let (from, to) = (at("2026-03-28T23:00:00Z"), at("2026-04-01T22:00:00Z"));
        let windows = Windows::new(asked.size.parse().unwrap(), &TimeZone::get(asked.zone).unwrap(), from, to, 10_000).unwrap();
        let question = Question {
            property,
            time: TimeFunction::parse(asked.function, property).unwrap(),
            windows: &windows,
            by_area: false,
            pieces_of: asked.has_pieces.then_some(1),
            trusted: true,
            rows_expected: 5_000.0,
            rows_exact_max: 1.0,
        };
        let touched: Vec<Timestamp> = asked.touched.iter().map(|day| at(day)).collect();
        let from = Tier::COARSEST_FIRST.map(|tier| (tier, at(asked.from)));
        let sources = Sources::plan(&question, Some(RolledUp { zone: &rome, touched: &touched, from: &from }));
        assert_eq!(sources.stretches.first().map(|stretch| stretch.from), Some(windows.start()));
        assert_eq!(sources.stretches.last().map(|stretch| stretch.to), Some(windows.end()));
        sources.stretches.iter().map(|stretch| format!("{} {}", stretch.from, stretch.source)).collect()
    }

    const BASE: Asked<'static> = Asked {
        property: "temperature",
        function: "mean",
        size: "1d",
        zone: "Europe/Rome",
        touched: &[],
        from: "1970-01-01T00:00:00Z",
        has_pieces: false,
    };

    #[test]
    fn the_coarsest_tier_that_fits_the_windows_answers() {
        assert_eq!(plan(&BASE), ["2026-03-28T23:00:00Z rollup-1d"]);
        assert_eq!(plan(&Asked { size: "1w", ..BASE }), ["2026-03-22T23:00:00Z rollup-1d"]);
        assert_eq!(plan(&Asked { size: "6h", ..BASE }), ["2026-03-28T23:00:00Z rollup-1h"]);
        assert_eq!(plan(&Asked { size: "15m", ..BASE }), ["2026-03-28T23:00:00Z rollup-15m"]);
        assert_eq!(plan(&Asked { size: "5m", ..BASE }), ["2026-03-28T23:00:00Z rows"]);
        // Days elsewhere are hours, or quarters of an hour, here.
        assert_eq!(plan(&Asked { zone: "UTC", ..BASE }), ["2026-03-28T00:00:00Z rollup-1h"]);
        assert_eq!(plan(&Asked { zone: "Asia/Kathmandu", ..BASE }), ["2026-03-28T18:15:00Z rollup-15m"]);
    }

    #[test]
    fn touched_days_are_answered_from_rows() {
        let touched = ["2026-03-29T22:00:00Z", "2026-03-30T22:00:00Z"];
        assert_eq!(
            plan(&Asked { touched: &touched, ..BASE }),
            ["2026-03-28T23:00:00Z rollup-1d", "2026-03-29T22:00:00Z rows", "2026-03-31T22:00:00Z rollup-1d"]
        );
        let touched = ["2026-03-28T23:00:00Z"];
        assert_eq!(plan(&Asked { touched: &touched, size: "1h", ..BASE }), ["2026-03-28T23:00:00Z rows", "2026-03-29T22:00:00Z rollup-1h"]);
    }

    #[test]
    fn what_was_dropped_for_its_age_is_answered_from_rows() {
        let expected = ["2026-03-28T23:00:00Z rows", "2026-03-29T22:00:00Z rollup-15m"];
        assert_eq!(plan(&Asked { size: "15m", from: "2026-03-29T22:00:00Z", ..BASE }), expected);
        assert_eq!(plan(&Asked { size: "15m", from: "2027-01-01T00:00:00Z", ..BASE }), ["2026-03-28T23:00:00Z rows"]);
    }

    #[test]
    fn stores_aggregate_pieces_of_what_is_not_rolled_up() {
        let touched = ["2026-03-29T22:00:00Z"];
        let base = Asked { touched: &touched, has_pieces: true, ..BASE };
        // The first of the days has 23 hours.
        let expected = ["2026-03-28T23:00:00Z rollup-1d", "2026-03-29T22:00:00Z pieces-3600s", "2026-03-30T22:00:00Z rollup-1d"];
        assert_eq!(plan(&base), expected);
        assert_eq!(plan(&Asked { size: "5m", ..base }), ["2026-03-28T23:00:00Z pieces-300s"]);
        assert_eq!(plan(&Asked { size: "2m", ..base }), ["2026-03-28T23:00:00Z rows"], "hardly fewer pieces than rows");
        assert_eq!(
            plan(&Asked { size: "1d", zone: "Asia/Kathmandu", touched: &["2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"], ..base })[1],
            "2026-03-28T23:00:00Z pieces-900s"
        );
        assert_eq!(plan(&Asked { property: "noise", size: "5m", ..base }), ["2026-03-28T23:00:00Z rows"]);
        assert_eq!(plan(&Asked { property: "noise", function: "max", size: "5m", ..base }), ["2026-03-28T23:00:00Z pieces-300s"]);
        assert_eq!(plan(&Asked { function: "p95", size: "5m", ..base }), ["2026-03-28T23:00:00Z rows"]);
    }

    #[test]
    fn functions_ask_for_what_buckets_keep() {
        assert_eq!(plan(&Asked { function: "p95", ..BASE }), ["2026-03-28T23:00:00Z rollup-1d"]);
        assert_eq!(plan(&Asked { function: "p95", size: "1h", ..BASE }), ["2026-03-28T23:00:00Z rows"]);
        assert_eq!(plan(&Asked { function: "time_weighted_mean", ..BASE }), ["2026-03-28T23:00:00Z rows"]);
        assert_eq!(plan(&Asked { property: "wind_direction", ..BASE }), ["2026-03-28T23:00:00Z rollup-1d"]);
        assert_eq!(plan(&Asked { property: "noise", ..BASE }), ["2026-03-28T23:00:00Z rollup-1d"]);
        assert_eq!(plan(&Asked { property: "energy_active", function: "increase", ..BASE }), ["2026-03-28T23:00:00Z rollup-1d"]);
        assert_eq!(plan(&Asked { property: "lamp_state", function: "mode", ..BASE }), ["2026-03-28T23:00:00Z rows"]);
        assert_eq!(plan(&Asked { property: "lamp_state", function: "count", ..BASE }), ["2026-03-28T23:00:00Z rollup-1d"]);
    }
}
