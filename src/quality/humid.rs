//! Optical sensors count droplets as particles: their makers give a relative humidity up to which they hold (Nova SDS011: 70 %,
//! Alphasense OPC-N3: 95 %).

use std::time::Duration;

use super::micros;

/// What was told further away in time says nothing about the air at the moment.
const NEAR: Duration = Duration::from_mins(10);

/// A relative humidity that was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Humidity {
    /// Phenomenon time in microseconds.
    pub(super) time: i64,
    /// In per cent.
    pub(super) value: f64,
}

/// Whether the air was too humid at `time`, by the nearest of what was told about then.
pub(super) fn is_humid(time: i64, humidity_max: f64, told: impl Iterator<Item = Humidity>) -> bool {
    let distance = |humidity: &Humidity| humidity.time.saturating_sub(time).saturating_abs();
    let nearest = told.filter(|humidity| distance(humidity) <= micros(NEAR)).min_by_key(distance);
    nearest.is_some_and(|humidity| humidity.value > humidity_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_humidity_counts() {
        let minute = 60_000_000;
        for (told, expected) in [
            (vec![], false),
            (vec![(0, 85.0)], false),
            (vec![(0, 85.1)], true),
            (vec![(-10, 99.0)], true),
            (vec![(10, 99.0)], true),
            (vec![(-11, 99.0)], false),
            (vec![(-5, 99.0), (0, 60.0)], false),
        ] {
            let humidities = told.iter().map(|(time, value)| Humidity { time: time * minute, value: *value });
            assert_eq!(is_humid(0, 85.0, humidities), expected, "{told:?}");
        }
    }
}
