//! People, doors and emergency buttons.

use super::super::activity;
use super::super::moment::DayKind;
use super::{Readings, Scene, arrivals, battery};

pub(super) fn people_counter(scene: &Scene<'_>, readings: &mut Readings) {
    let weather = scene.climate.at(scene.moment);
    let wet = if 0.0 < weather.rain { 0.45 } else { 1.0 };
    let expected = scene.character(1, 15.0, 130.0)
        * activity::street(scene.moment)
        * wet
        * (1.0 + 0.15 * scene.noise(1).drift(scene.moment.second, 3_600));
    readings.push("people_count", arrivals(expected.max(0.05), scene.jitter(2)));
}

pub(super) fn door_contact(scene: &Scene<'_>, readings: &mut Readings) {
    // A cabinet in the street: opened for some minutes, at working hours, about once in two days.
    let visit = scene.moment.second.div_euclid(600);
    let working = scene.moment.day_kind == DayKind::Working && (8.0..17.0).contains(&scene.moment.hour);
    let open = working && scene.noise(1).uniform(visit) < 0.01;
    readings.push("door", if open { 1.0 } else { 0.0 });
    readings.push("tamper", 0.0);
    readings.push("battery_level", battery(scene));
}

pub(super) fn panic_button(scene: &Scene<'_>, readings: &mut Readings) {
    readings.push("panic_button", 0.0);
    readings.push("battery_level", battery(scene));
    readings.push("connection", 1.0);
}
