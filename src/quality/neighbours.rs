//! A station alone with its opinion: values against the median of the nearest stations.
//!
//! Who is near and what they say is worked out every minute beside intake ([`Neighbourhood::refresh`]); an observation is then held
//! against two numbers. Only what is observed about now is judged: replayed history has no neighbours.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::RwLock;
use rstar::RTree;
use rstar::primitives::GeomWithData;

use super::micros;
use super::spike::{DEVIATION, median_and_deviation};
use crate::model::{Catalogue, Flags, NeighboursRule, Position, PropertyIndex, Timestamp};
use crate::state::{DeviceIndex, Latest, Live, SeriesIndex};

/// How often the neighbourhood is brought up to date.
pub const REFRESH: Duration = Duration::from_mins(1);

/// What is older says nothing about now.
const CURRENT: Duration = Duration::from_mins(30);

/// Fewer neighbours have no majority.
const NEIGHBOURS_MIN: usize = 3;

/// More neighbours change nothing.
const NEIGHBOURS_MAX: usize = 8;

/// Robust standard deviations of the neighbours that a value may differ by.
const DEVIATIONS: f64 = 5.0;

/// What the stations around each series say; shared between who brings it up to date and who asks.
#[derive(Debug, Default)]
pub struct Neighbourhood(RwLock<Arc<References>>);

/// What the stations around each series said at an instant.
#[derive(Debug, Default)]
pub struct References {
    /// In microseconds.
    made: i64,
    by_series: HashMap<SeriesIndex, Reference>,
}

/// What the stations around one series said.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Reference {
    median: f64,
    tolerance: f64,
}

/// A station that observes a property, at rest.
#[derive(Clone, Copy, Debug)]
struct Station {
    device: DeviceIndex,
    series: SeriesIndex,
    position: Position,
    /// Its newest value that is trusted and current.
    value: Option<f64>,
}

impl References {
    /// Whether a value of now lies too far from what the stations around say; not where there are too few.
    pub(super) fn disagree(&self, series: SeriesIndex, time: i64, value: f64) -> bool {
        let is_now = time.saturating_sub(self.made).saturating_abs() <= micros(CURRENT);
        let reference = self.by_series.get(&series).filter(|_reference| is_now);
        reference.is_some_and(|reference| (value - reference.median).abs() > reference.tolerance)
    }
}

impl Neighbourhood {
    /// The newest references.
    pub fn references(&self) -> Arc<References> {
        Arc::clone(&self.0.read())
    }

    /// Brings it up to date.
    pub fn refresh(&self, live: &Live, catalogue: &Catalogue, now: Timestamp) {
        let rules: HashMap<PropertyIndex, NeighboursRule> =
            catalogue.iter().filter_map(|(index, property)| Some((index, property.quality.neighbours?))).collect();
        let mut by_series = HashMap::new();
        for (property, stations) in stations(live, &rules, now) {
            if let Some(rule) = rules.get(&property) {
                by_series.extend(references(&stations, *rule));
            }
        }
        *self.0.write() = Arc::new(References { made: now.micros(), by_series });
    }
}

/// The stations of each property, as they are now.
fn stations(live: &Live, rules: &HashMap<PropertyIndex, NeighboursRule>, now: Timestamp) -> HashMap<PropertyIndex, Vec<Station>> {
    let is_current = |latest: &&Latest| now.micros().saturating_sub(latest.time).saturating_abs() <= micros(CURRENT);
    let mut stations: HashMap<PropertyIndex, Vec<Station>> = HashMap::new();
    let state = live.read();
    for (index, series) in (0..).zip(&state.series) {
        // One that its neighbours do not believe is still told so: its place is that of its newest value, trusted or not.
        let Some(latest) = series.mark.latest.as_ref().filter(is_current) else { continue };
        let is_placed = !Flags::from_bits_retain(latest.flags).intersects(Flags::MISPLACED);
        let position =
            latest.position.filter(|_position| is_placed).and_then(|(longitude, latitude)| Position::new(longitude, latitude).ok());
        let Some(position) = position.filter(|_position| rules.contains_key(&series.property)) else { continue };
        if state.device(series.device).moves.count == 0 {
            let value = series.mark.trusted.as_ref().filter(is_current).map(|trusted| trusted.value);
            let station = Station { device: series.device, series: SeriesIndex(index), position, value };
            stations.entry(series.property).or_default().push(station);
        }
    }
    stations
}

/// What the stations around each one say. Distances are those on a plane, which is exact enough within a city.
fn references(stations: &[Station], rule: NeighboursRule) -> Vec<(SeriesIndex, Reference)> {
    const METRES_PER_DEGREE: f64 = 111_195.0;
    let narrowing = stations.first().map_or(1.0, |station| station.position.latitude().to_radians().cos());
    let plane = |position: Position| [position.longitude() * METRES_PER_DEGREE * narrowing, position.latitude() * METRES_PER_DEGREE];
    let speaking = stations.iter().filter_map(|station| Some(GeomWithData::new(plane(station.position), (station.device, station.value?))));
    let tree = RTree::bulk_load(speaking.collect());
    let reference = |station: &Station| {
        let by_distance = tree.nearest_neighbor_iter_with_distance_2(&plane(station.position));
        let mut values = [0.0; NEIGHBOURS_MAX];
        let mut found = 0;
        let near = by_distance.take_while(|(_station, squared)| *squared <= rule.radius_m * rule.radius_m);
        let others = near.map(|(other, _squared)| other.data).filter(|(device, _value)| *device != station.device);
        for (slot, (_device, value)) in values.iter_mut().zip(others) {
            *slot = value;
            found += 1;
        }
        let values = values.get_mut(..found).filter(|values| values.len() >= NEIGHBOURS_MIN)?;
        let (median, deviation) = median_and_deviation(values);
        Some((station.series, Reference { median, tolerance: rule.floor.max(DEVIATIONS * DEVIATION * deviation) }))
    };
    stations.iter().filter_map(reference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stations in a row, one each 500 m: the numbers of those that disagree with the ones around.
    #[track_caller]
    fn check(values: &[Option<f64>], asked: &[f64], expected: &[usize]) {
        let station = |(index, value): (u32, &Option<f64>)| Station {
            device: DeviceIndex(index),
            series: SeriesIndex(index),
            position: Position::new(13.36, 38.1 + f64::from(index) * 500.0 / 111_195.0).unwrap(),
            value: *value,
        };
        let stations: Vec<Station> = (0..).zip(values).map(station).collect();
        let by_series = references(&stations, NeighboursRule { radius_m: 2_100.0, floor: 5.0 }).into_iter().collect();
        let references = References { made: 0, by_series };
        let disagree = (0..).zip(asked).filter(|(index, value)| references.disagree(SeriesIndex(*index), 0, **value));
        assert_eq!(disagree.map(|(index, _value)| index as usize).collect::<Vec<_>>(), expected);
        assert!(asked.iter().all(|value| !references.disagree(SeriesIndex(0), 31 * 60_000_000, *value)), "history is not judged");
    }

    #[test]
    fn the_odd_one_out_is_found_and_does_not_move_the_others() {
        let calm = [20.0, 20.5, 19.8, 20.2, 20.1, 19.9].map(Some);
        check(&calm, &[20.0, 20.5, 19.8, 20.2, 20.1, 19.9], &[]);
        check(&[20.0, 20.5, 45.0, 20.2, 20.1, 19.9].map(Some), &[20.0, 20.5, 45.0, 20.2, 20.1, 19.9], &[2]);
        // Within the floor.
        check(&calm, &[24.9, 20.5, 19.8, 20.2, 20.1, 15.3], &[]);
        // One that is not believed is judged all the same.
        check(&[Some(20.0), Some(20.5), None, Some(20.2), Some(20.1)], &[20.0, 20.5, 45.0, 20.2, 20.1], &[2]);
        // Where all differ, nobody is odd.
        check(&[5.0, 40.0, 20.0, 60.0, 10.0, 33.0].map(Some), &[5.0, 40.0, 20.0, 60.0, 10.0, 33.0], &[]);
    }

    #[test]
    fn two_neighbours_are_no_majority() {
        check(&[Some(20.0), Some(20.0), Some(45.0)], &[20.0, 20.0, 45.0], &[]);
        // The fourth lies beyond the radius of the first.
        check(&[Some(45.0), None, None, Some(20.0), Some(20.0), Some(20.0)], &[45.0], &[]);
    }
}
