//! What people do, hour by hour, as a share of the busiest hour.
//!
//! Shapes follow real series: road traffic the benzene and CO of an Italian road (UCI Air Quality, 2004–2005: peaks at 8 and
//! 19 h, a Saturday at half, a Sunday that wakes in the evening) and the counts of Metro Interstate I-94; cycling the hours of
//! the UCI bike sharing data set (peaks at 8 and 17 h, one long hump on free days). The dip after lunch is Palermo's siesta.

use super::moment::{DayKind, Moment};

type Hours = [f64; 24];

const TRAFFIC_WORKING: Hours = [
    0.24, 0.14, 0.09, 0.07, 0.09, 0.20, 0.48, 0.85, 0.97, 0.88, 0.76, 0.74, 0.80, 0.84, 0.66, 0.58, 0.68, 0.86, 0.98, 1.00, 0.84, 0.58,
    0.44, 0.33,
];
const TRAFFIC_SATURDAY: Hours = [
    0.34, 0.25, 0.18, 0.13, 0.11, 0.12, 0.20, 0.34, 0.48, 0.58, 0.64, 0.68, 0.70, 0.66, 0.50, 0.45, 0.56, 0.66, 0.76, 0.82, 0.78, 0.68,
    0.62, 0.52,
];
const TRAFFIC_SUNDAY: Hours = [
    0.44, 0.34, 0.24, 0.16, 0.11, 0.08, 0.10, 0.16, 0.24, 0.34, 0.44, 0.50, 0.52, 0.46, 0.34, 0.34, 0.44, 0.54, 0.62, 0.66, 0.60, 0.50,
    0.40, 0.30,
];
const STREET_WORKING: Hours = [
    0.10, 0.05, 0.03, 0.02, 0.02, 0.05, 0.15, 0.38, 0.58, 0.66, 0.74, 0.80, 0.82, 0.68, 0.40, 0.36, 0.56, 0.80, 0.96, 1.00, 0.82, 0.56,
    0.36, 0.20,
];
const STREET_FREE: Hours = [
    0.24, 0.16, 0.09, 0.05, 0.03, 0.03, 0.06, 0.12, 0.24, 0.42, 0.60, 0.74, 0.74, 0.54, 0.34, 0.36, 0.56, 0.78, 0.94, 0.98, 0.88, 0.70,
    0.54, 0.38,
];
const CYCLING_WORKING: Hours = [
    0.07, 0.03, 0.02, 0.01, 0.01, 0.05, 0.19, 0.55, 0.90, 0.46, 0.26, 0.30, 0.38, 0.38, 0.35, 0.38, 0.56, 1.00, 0.94, 0.66, 0.47, 0.35,
    0.26, 0.17,
];
const CYCLING_FREE: Hours = [
    0.24, 0.18, 0.14, 0.07, 0.02, 0.02, 0.05, 0.12, 0.28, 0.46, 0.68, 0.84, 0.98, 1.00, 0.98, 0.96, 0.95, 0.87, 0.75, 0.62, 0.47, 0.38,
    0.31, 0.23,
];
const AT_WORK: Hours = [
    0.02, 0.02, 0.02, 0.02, 0.02, 0.03, 0.10, 0.35, 0.75, 0.95, 1.00, 1.00, 0.97, 0.85, 0.70, 0.68, 0.75, 0.80, 0.65, 0.40, 0.18, 0.08,
    0.04, 0.02,
];

/// Cars on the road.
pub(super) fn traffic(moment: &Moment) -> f64 {
    let share = match moment.day_kind {
        DayKind::Working => hourly(&TRAFFIC_WORKING, moment),
        DayKind::Saturday => hourly(&TRAFFIC_SATURDAY, moment),
        DayKind::Sunday => hourly(&TRAFFIC_SUNDAY, moment),
    };
    // In August the city is at the sea.
    if moment.is_august() { 0.75 * share } else { share }
}

/// People in shopping streets and squares.
pub(super) fn street(moment: &Moment) -> f64 {
    match moment.day_kind {
        DayKind::Working => hourly(&STREET_WORKING, moment),
        DayKind::Saturday | DayKind::Sunday => hourly(&STREET_FREE, moment),
    }
}

/// People on shared bikes.
pub(super) fn cycling(moment: &Moment) -> f64 {
    match moment.day_kind {
        DayKind::Working => hourly(&CYCLING_WORKING, moment),
        DayKind::Saturday | DayKind::Sunday => hourly(&CYCLING_FREE, moment),
    }
}

/// People in offices and schools, hence cars parked there.
pub(super) fn at_work(moment: &Moment) -> f64 {
    let share = hourly(&AT_WORK, moment);
    match moment.day_kind {
        DayKind::Working => share,
        DayKind::Saturday => 0.45 * share,
        DayKind::Sunday => 0.12 * share,
    }
}

/// Straight lines through the middles of the hours.
fn hourly(hours: &Hours, moment: &Moment) -> f64 {
    let position = (moment.hour - 0.5).rem_euclid(24.0);
    let part = position.fract();
    let mut from = hours.iter().cycle().skip(usize::try_from(crate::noise::whole(position.floor())).unwrap_or(0));
    let (before, after) = (from.next().unwrap_or(&0.0), from.next().unwrap_or(&0.0));
    before * (1.0 - part) + after * part
}

#[cfg(test)]
mod tests {
    use super::{at_work, street, traffic};
    use crate::fleet::moment::Moment;

    #[test]
    fn a_working_day_has_rush_hours_and_a_siesta() {
        let at = |clock: &str| Moment::at(format!("2025-05-14T{clock}:00+02:00").parse().unwrap());
        assert!(traffic(&at("08:30")) > 3.0 * traffic(&at("03:30")));
        assert!(traffic(&at("15:30")) < 0.7 * traffic(&at("19:00")));
        assert!(street(&at("15:00")) < 0.5 * street(&at("19:00")));
    }

    #[test]
    fn sundays_are_quieter() {
        let monday = Moment::at("2025-05-12T08:30:00+02:00".parse().unwrap());
        let sunday = Moment::at("2025-05-11T08:30:00+02:00".parse().unwrap());
        assert!(traffic(&sunday) < 0.4 * traffic(&monday));
        assert!(at_work(&sunday) < 0.2 * at_work(&monday));
    }
}
