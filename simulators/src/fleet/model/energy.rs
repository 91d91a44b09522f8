//! Meters, solar plants, charging points and lamps.

use std::f64::consts::TAU;

use super::super::activity;
use super::{Readings, Scene};

const DAY_S: f64 = 86_400.0;
const YEAR_S: f64 = 365.25 * DAY_S;

/// When meters were installed: 2024-01-01T00:00:00Z.
const INSTALLED_S: i64 = 1_704_067_200;

/// Power over its mean, as waves of (amplitude, seconds, part of the period at the crest). The register is then the integral of
/// the power in closed form: monotone at any time, without adding up history. The amplitudes sum to less than 1, so power never
/// turns negative. Crests at noon and in the evening, a week with free days, summers and winters that cool and heat; the last
/// are no pattern but look like people. Clock is UTC+1 all year. Real buildings (Building Data Genome 2) swing by a third.
const LOAD: [(f64, f64, f64); 10] = [
    (0.26, DAY_S, 0.65),
    (0.13, DAY_S / 2.0, 0.34),
    (0.05, DAY_S / 3.0, 0.13),
    (0.08, 7.0 * DAY_S, 0.72),
    (0.04, 3.5 * DAY_S, 0.31),
    (0.12, YEAR_S / 2.0, 0.08),
    (0.07, 5.3 * 3_600.0, 0.0),
    (0.06, 1.37 * 3_600.0, 0.0),
    (0.05, 1_913.0, 0.0),
    (0.04, 611.0, 0.0),
];

pub(super) fn energy_meter(scene: &Scene<'_>, readings: &mut Readings) {
    let mean_kw = 2.0 * 40_f64.powf(scene.character(1, 0.0, 1.0));
    let (mut power, mut energy) = (1.0, (scene.moment.second - INSTALLED_S) as f64);
    for (number, (amplitude, period, crest)) in (0_i64..).zip(LOAD) {
        // Each meter's household is a little early or late; the irregular waves start anywhere.
        let shift = if crest == 0.0 { scene.character(10 + number, 0.0, 1.0) } else { crest + scene.character(10 + number, -0.03, 0.03) };
        let angle = |second: i64| TAU * ((second + 3_600) as f64 / period - shift);
        power += amplitude * angle(scene.moment.second).cos();
        energy += amplitude * period / TAU * (angle(scene.moment.second).sin() - angle(INSTALLED_S).sin());
    }
    readings.push("energy_active", mean_kw * energy / 3_600.0);
    readings.push("power_active", mean_kw * power);
    readings.push("voltage", 231.5 - 3.0 * power + 1.2 * scene.noise(1).drift(scene.moment.second, 2_400) + 0.15 * scene.jitter(2));
    readings.push("frequency", scene.climate.mains_frequency(scene.moment) + 0.001 * scene.jitter(3));
}

pub(super) fn pv_plant(scene: &Scene<'_>, readings: &mut Readings) {
    let peak_kw = scene.character(1, 6.0, 250.0);
    let weather = scene.climate.at(scene.moment);
    // Single clouds on top of the sky's cover.
    let shadow = 1.0 - weather.cloud * (1.0 - weather.cloud) * (0.5 + 0.5 * scene.noise(1).drift(scene.moment.second, 600)).clamp(0.0, 1.0);
    let cell = weather.temperature + 0.028 * weather.irradiance;
    let power = peak_kw * 0.86 * weather.irradiance / 1_000.0 * shadow * (1.0 - 0.004 * (cell - 25.0));
    readings.push("pv_power", power.max(0.0));
    readings
        .push("voltage", 232.0 + 4.0 * power / peak_kw + 0.8 * scene.noise(2).drift(scene.moment.second, 2_400) + 0.15 * scene.jitter(3));
}

/// A session at most in each slot.
const SLOT_S: i64 = 4 * 3_600;

pub(super) fn charger(scene: &Scene<'_>, readings: &mut Readings) {
    const AVAILABLE: f64 = 0.0;
    const PREPARING: f64 = 1.0;
    const CHARGING: f64 = 2.0;
    const SUSPENDED: f64 = 3.0;
    const FINISHING: f64 = 4.0;
    let rated_kw = match scene.character(1, 0.0, 4.0) {
        rank if rank < 1.0 => 7.4,
        rank if rank < 2.0 => 11.0,
        rank if rank < 3.0 => 22.0,
        _ => 50.0,
    };
    let slot = scene.moment.second.div_euclid(SLOT_S);
    let draw = |purpose: u64, low, high| scene.noise(purpose).between(slot, low, high);
    let busy = draw(1, 0.0, 1.0) < 0.25 + 0.55 * activity::street(scene.moment).max(0.2);
    let plugged_s = draw(2, 0.0, 4_500.0);
    // Fifty kilowatts fill a car in less than an hour, seven do not in an evening.
    let charging_s = draw(3, 2_400.0, 8_400.0) * if rated_kw < 30.0 { 1.0 } else { 0.4 };
    let power = rated_kw * draw(4, 0.72, 0.98);
    let clock = scene.moment.second.rem_euclid(SLOT_S) as f64 - plugged_s - 90.0;
    let (state, now_kw, charged_s) = match clock {
        _ if !busy => (AVAILABLE, 0.0, 0.0),
        clock if clock < -90.0 => (AVAILABLE, 0.0, 0.0),
        clock if clock < 0.0 => (PREPARING, 0.0, 0.0),
        clock if clock < charging_s => (CHARGING, power * (1.0 + 0.005 * scene.jitter(5)), clock),
        clock if clock < charging_s + 420.0 => (SUSPENDED, 0.0, charging_s),
        clock if clock < charging_s + 900.0 => (FINISHING, 0.0, charging_s),
        _ => (AVAILABLE, 0.0, 0.0),
    };
    readings.push("charger_state", state);
    readings.push("charger_power", now_kw);
    readings.push("charger_energy", power * charged_s / 3_600.0);
}

pub(super) fn street_lamp(scene: &Scene<'_>, readings: &mut Readings) {
    // On from a few degrees below the horizon, each lamp at its own dusk; dimmed when the streets are empty.
    let dark = scene.moment.sun < -0.04 + scene.character(1, -0.02, 0.02);
    let level = match scene.moment.hour {
        _ if !dark => 0.0,
        hour if (0.5..5.0).contains(&hour) => 60.0,
        _ => 100.0,
    };
    readings.push("lamp_state", if dark { 1.0 } else { 0.0 });
    readings.push("lamp_dimming", level);
}
