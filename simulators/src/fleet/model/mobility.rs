//! Roads, car parks, buses and bikes.

use super::super::activity;
use super::{Readings, Scene, arrivals};
use crate::noise::whole;

pub(super) fn traffic_counter(scene: &Scene<'_>, readings: &mut Readings) {
    // At its busiest a counter sees 12 to 40 vehicles a minute; the detector of Metro Interstate I-94 saw 121.
    let expected =
        scene.character(1, 12.0, 40.0) * activity::traffic(scene.moment) * (1.0 + 0.1 * scene.noise(1).drift(scene.moment.second, 3_000));
    let count = arrivals(expected.max(0.05), scene.jitter(2));
    let load = expected / 40.0;
    let free_flow = scene.character(2, 42.0, 58.0);
    let speed = (free_flow * (1.0 - 0.55 * load.powi(2)) + 2.0 * scene.jitter(3)).max(4.0);
    // 6.5 m of detector and car: occupancy follows from flow and speed.
    let occupancy = 100.0 * count * 6.5 / (speed / 3.6 * 60.0);
    readings.push("vehicle_count", count);
    readings.push("mean_speed", speed);
    readings.push("lane_occupancy", occupancy);
}

pub(super) fn parking(scene: &Scene<'_>, readings: &mut Readings) {
    let capacity = scene.character(1, 60.0, 600.0).round();
    let offices = scene.character(2, 0.1, 0.9);
    let share = 0.12 + 0.78 * (offices * activity::at_work(scene.moment) + (1.0 - offices) * activity::street(scene.moment));
    let occupied = (capacity * (share + 0.04 * scene.noise(1).drift(scene.moment.second, 5_400))).round().clamp(0.0, capacity);
    readings.push("parking_free", capacity - occupied);
    readings.push("parking_occupied", occupied);
}

pub(super) fn bus(scene: &Scene<'_>, readings: &mut Readings) {
    let Some(route) = scene.route() else { return };
    let ride = route.ride(scene.moment.hour, scene.character(1, 0.0, 1.0));
    let crowd = 0.6 * activity::traffic(scene.moment) + 0.4 * activity::street(scene.moment);
    let aboard = 85.0 * crowd * (0.75 + 0.3 * scene.noise(1).drift(scene.moment.second, 1_500));
    readings.place = Some(ride.place);
    readings.push("bus_speed", if 0.0 < ride.speed { (ride.speed + 0.4 * scene.jitter(2)).max(0.0) } else { 0.0 });
    readings.push("bus_passengers", if ride.in_service { aboard.round().max(0.0) } else { 0.0 });
}

pub(super) fn bike_dock(scene: &Scene<'_>, readings: &mut Readings) {
    let docks = whole(scene.character(1, 12.0, 30.0)) as f64;
    // Stations at work fill by day, those at home at night.
    let lean = scene.character(2, -0.5, 0.5);
    let away = 0.15 * activity::cycling(scene.moment);
    let share = 0.5 + lean * (activity::at_work(scene.moment) - 0.4) - away + 0.13 * scene.noise(1).drift(scene.moment.second, 5_000);
    readings.push("bikes_available", (docks * share).round().clamp(0.0, docks));
}
