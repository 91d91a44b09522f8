//! Air, weather, noise, water and waste.
//!
//! Levels are those of Italian cities of the 2020s; how pollutants follow traffic, wind and sun is read from UCI Air Quality
//! (Italian road, 2004–2005, whose absolute levels were several times higher) and from the Beijing stations (ozone by day,
//! PM2.5 to PM10, correlation from hour to hour).

use super::super::activity;
use super::super::moment::Moment;
use super::{Readings, Scene, battery};

pub(super) fn air_station(scene: &Scene<'_>, readings: &mut Readings) {
    let weather = scene.climate.at(scene.moment);
    let traffic =
        scene.character(1, 0.5, 1.2) * activity::traffic(scene.moment) * (1.0 + 0.15 * scene.noise(1).drift(scene.moment.second, 5_400));
    let heating = (scene.moment.season_around(20.0)).max(0.0);
    let dilution = weather.dilution();
    let washed = if 0.0 < weather.rain { 0.7 } else { 1.0 };

    let local = (9.0 + 17.0 * traffic + 6.0 * heating) / dilution;
    let pm10 = (washed * (scene.climate.dust(scene.moment) + local) * (1.0 + 0.03 * scene.jitter(2))).max(1.0);
    let fine = (0.58 + 0.06 * heating + 0.05 * scene.noise(3).drift(scene.moment.second, 20_000)).clamp(0.3, 0.85);
    let no2 = (5.0 + 40.0 * traffic / dilution + 5.0 * heating) * (1.0 + 0.04 * scene.jitter(4));
    let sun = weather.irradiance / 1_000.0;
    // Fresh exhaust eats ozone, the sun makes it.
    let o3 =
        46.0 + 55.0 * sun + 9.0 * scene.moment.season_around(190.0) - 0.45 * no2 + 3.0 * scene.noise(5).drift(scene.moment.second, 9_000);

    readings.push("pm10", pm10);
    readings.push("pm2_5", fine * pm10);
    readings.push("no2", no2);
    readings.push("o3", o3.max(2.0) * (1.0 + 0.02 * scene.jitter(6)));
    readings.push("so2", 2.5 + 2.5 * traffic / dilution + 0.6 * scene.noise(7).drift(scene.moment.second, 12_000) + 0.1 * scene.jitter(8));
    readings.push("co", (0.22 + 0.75 * traffic / dilution + 0.15 * heating) * (1.0 + 0.04 * scene.jitter(9)));
    readings.push("benzene", (0.3 + 2.4 * traffic / dilution) * (1.0 + 0.05 * scene.jitter(10)));
    readings.push("co2", 422.0 + 70.0 * traffic / dilution + 2.0 * scene.jitter(11));
    readings.push("temperature", temperature(scene, weather.temperature));
    readings.push("humidity", humidity(scene, weather.humidity));
}

pub(super) fn weather_station(scene: &Scene<'_>, readings: &mut Readings) {
    let weather = scene.climate.at(scene.moment);
    let second = scene.moment.second;
    let gust = |purpose| 0.5 * scene.noise(purpose).drift(second, 1_200) + 0.2 * scene.jitter(purpose + 1);
    let shelter = scene.character(1, 0.7, 1.15);
    let (east, north) = (shelter * weather.wind_east + gust(10), shelter * weather.wind_north + gust(12));
    // Where it comes from, clockwise from the north.
    let direction = (-east).atan2(-north).to_degrees().round().rem_euclid(360.0);
    // The bucket tips at every tenth of a millimetre: how often in a minute is left to chance, so that sums are right.
    let tips = (weather.rain * scene.character(2, 0.8, 1.2) / 0.1 + scene.noise(14).uniform(second)).floor();
    let uv = 11.5 * scene.moment.sun.max(0.0).powf(1.9) * (1.0 - 0.7 * weather.cloud.powi(2));

    readings.push("temperature", temperature(scene, weather.temperature));
    readings.push("humidity", humidity(scene, weather.humidity));
    readings.push("pressure", weather.pressure + scene.character(3, -4.0, 0.0) + 0.05 * scene.jitter(15));
    readings.push("wind_speed", east.hypot(north));
    readings.push("wind_direction", direction);
    readings.push("rain", 0.1 * tips);
    readings.push("uv_index", uv * (1.0 + 0.02 * scene.jitter(16)));
}

pub(super) fn noise_meter(scene: &Scene<'_>, readings: &mut Readings) {
    let sources = 0.7 * activity::traffic(scene.moment) + 0.3 * activity::street(scene.moment);
    // Ten times the sources are ten decibels more.
    let level = scene.character(1, 61.0, 71.0) + 10.0 * (sources + 0.02).log10();
    readings.push("noise", level + 0.9 * scene.noise(1).drift(scene.moment.second, 2_400) + 1.1 * scene.jitter(2));
}

pub(super) fn river_gauge(scene: &Scene<'_>, readings: &mut Readings) {
    // What fell in the last day and a half runs off: the Oreto rises within hours.
    let runoff: f64 = (0..36)
        .map(|hours| {
            let then = Moment::at(scene.moment.local.timestamp() - jiff::SignedDuration::from_hours(hours));
            scene.climate.rain(&then) * (-(hours as f64) / 8.0).exp()
        })
        .sum();
    let base = scene.character(1, 0.25, 0.5) + 0.12 * scene.moment.season_around(40.0);
    readings.push("water_level", base + 6.0 * runoff + 0.02 * scene.noise(1).drift(scene.moment.second, 14_400) + 0.002 * scene.jitter(2));
}

pub(super) fn waste_bin(scene: &Scene<'_>, readings: &mut Readings) {
    // Emptied every night or every second one, at its own hour between 1 and 5.
    let cycle_s = if scene.character(1, 0.0, 1.0) < 0.5 { 86_400 } else { 172_800 };
    let since = scene.moment.second - crate::noise::whole(scene.character(2, 0.0, 4.0 * 3_600.0));
    let filled = (since.rem_euclid(cycle_s) as f64 / cycle_s as f64).powf(0.9);
    let full = scene.noise(1).between(since.div_euclid(cycle_s), 45.0, 84.0);
    readings.push("bin_fill", 2.0 + full * filled);
    let battery = battery(scene);
    readings.push("battery_level", battery);
    // A lithium cell hardly falls until it is nearly empty.
    readings.push("battery_voltage", 3.2 + 0.4 * (battery / 100.0).powf(0.3));
    // How far the gateway is, and what stands between: leaves, rain, a parked van.
    let path = scene.character(3, -118.0, -82.0) + 4.0 * scene.noise(3).drift(scene.moment.second, 14_400);
    readings.push("rssi", path + 1.5 * scene.jitter(4));
    readings.push("snr", 8.0 + 0.35 * (path + 95.0) + scene.jitter(5));
}

fn temperature(scene: &Scene<'_>, city: f64) -> f64 {
    city + scene.character(20, -0.9, 0.9) + 0.25 * scene.noise(20).drift(scene.moment.second, 7_200) + 0.03 * scene.jitter(21)
}

fn humidity(scene: &Scene<'_>, city: f64) -> f64 {
    city + scene.character(22, -3.0, 3.0) + scene.noise(22).drift(scene.moment.second, 7_200) + 0.2 * scene.jitter(23)
}
