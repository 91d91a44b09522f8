//! The weather over the whole city, and the mains: what devices share, so that neighbours agree.
//!
//! The climate is that of Palermo's coast: 12 °C in January, 27 °C in August, rain from October to March, a sea breeze on
//! summer days.

use std::f64::consts::TAU;

use super::moment::Moment;
use crate::noise::Noise;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// The weather's own randomness.
#[derive(Clone, Copy, Debug)]
pub struct Climate {
    warmth: Noise,
    cloud: Noise,
    pressure: Noise,
    wind_east: Noise,
    wind_north: Noise,
    rain: Noise,
    dust: Noise,
    mains: Noise,
}

/// The weather at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub temperature: f64,
    pub humidity: f64,
    pub pressure: f64,
    /// Where the wind blows to, m/s.
    pub wind_east: f64,
    pub wind_north: f64,
    /// 0 is a clear sky.
    pub cloud: f64,
    /// mm in a minute.
    pub rain: f64,
    /// W/m² on the ground.
    pub irradiance: f64,
}

impl Weather {
    pub fn wind_speed(&self) -> f64 {
        self.wind_east.hypot(self.wind_north)
    }

    /// How much the air of calm days is thinned.
    pub fn dilution(&self) -> f64 {
        0.55 + 0.16 * self.wind_speed()
    }
}

impl Climate {
    pub fn new(seed: u64) -> Self {
        let noise = |name| Noise::new(seed, name);
        Self {
            warmth: noise("climate warmth"),
            cloud: noise("climate cloud"),
            pressure: noise("climate pressure"),
            wind_east: noise("climate wind east"),
            wind_north: noise("climate wind north"),
            rain: noise("climate rain"),
            dust: noise("climate dust"),
            mains: noise("mains"),
        }
    }

    pub fn at(&self, moment: &Moment) -> Weather {
        let second = moment.second;
        let summer = moment.season_around(205.0);
        let cloud = (0.45 - 0.22 * summer + 0.35 * self.cloud.drift(second, 14 * HOUR)).clamp(0.0, 1.0);
        let sun = moment.sun.max(0.0);
        let irradiance = 1_060.0 * sun.powf(1.15) * (1.0 - 0.75 * cloud.powi(3));

        // The air follows the sun by about two and a half hours.
        let day = (TAU * (moment.solar_hour() - 14.5) / 24.0).cos();
        let swing = (3.0 + 1.0 * summer) * (1.0 - 0.5 * cloud);
        let warmth = self.warmth.drift(second, 3 * DAY);
        let temperature = 19.2 + 7.2 * moment.season_around(222.0) + swing * day + 2.0 * warmth;

        let breeze = 2.6 * sun * (0.6 + 0.4 * summer);
        // By day the breeze comes from the sea in the north-east, at night a little from the hills.
        let land = if moment.sun < 0.0 { 0.5 } else { 0.0 };
        let wind_east = 2.1 * self.wind_east.drift(second, 9 * HOUR) - 0.7 * breeze + land;
        let wind_north = 2.1 * self.wind_north.drift(second, 9 * HOUR) - 0.7 * breeze + land;

        let rain = self.rain(moment);
        let wet = (rain * 500.0).min(12.0);
        let humidity = 66.0 - 7.0 * day - 4.0 * summer - 3.0 * warmth + 14.0 * (cloud - 0.4) + wet;
        let pressure = 1_015.5 - 1.5 * summer + 5.5 * self.pressure.drift(second, 4 * DAY) - 2.0 * (cloud - 0.4);
        Weather { temperature, humidity: humidity.clamp(12.0, 100.0), pressure, wind_east, wind_north, cloud, rain, irradiance }
    }

    /// mm in a minute; alone because rivers look back on many hours of it.
    pub fn rain(&self, moment: &Moment) -> f64 {
        let threshold = 1.25 + 0.55 * moment.season_around(205.0);
        let excess = self.rain.drift(moment.second, 8 * HOUR) - threshold;
        if excess <= 0.0 { 0.0 } else { 0.045 * excess * (0.4 + self.rain.split(9).uniform(moment.second.div_euclid(120))) }
    }

    /// Regional particles, with now and then a day of Saharan dust, µg/m³.
    pub fn dust(&self, moment: &Moment) -> f64 {
        let drift = self.dust.drift(moment.second, 2 * DAY);
        8.0 + 3.0 * drift + 18.0 * (drift - 1.5).max(0.0)
    }

    /// Hz; the same everywhere at the same second.
    pub fn mains_frequency(&self, moment: &Moment) -> f64 {
        50.0 + 0.015 * self.mains.drift(moment.second, 900)
    }
}

#[cfg(test)]
mod tests {
    use super::Climate;
    use crate::fleet::moment::Moment;

    #[test]
    fn the_climate_is_palermos() {
        let climate = Climate::new(1);
        let mean = |month: i8, of: fn(&super::Weather) -> f64| {
            let from: jiff::Timestamp = format!("2025-{month:02}-01T00:00:00Z").parse().unwrap();
            let hours = 0..28 * 24;
            let sum: f64 = hours.clone().map(|hour| of(&climate.at(&Moment::at(from + jiff::SignedDuration::from_hours(hour))))).sum();
            sum / hours.count() as f64
        };
        let check = |month, expected: std::ops::Range<f64>, of| {
            let mean = mean(month, of);
            assert!(expected.contains(&mean), "month {month}: {mean}");
        };
        check(1, 10.0..15.0, |weather| weather.temperature);
        check(8, 24.0..29.0, |weather| weather.temperature);
        check(1, 60.0..85.0, |weather| weather.humidity);
        check(7, 1_008.0..1_020.0, |weather| weather.pressure);
        check(4, 1.0..5.0, super::Weather::wind_speed);
        let yearly: f64 = (1..=12).map(|month| mean(month, |weather| weather.rain)).sum::<f64>() / 12.0 * 365.0 * 1_440.0;
        assert!((250.0..1_200.0).contains(&yearly), "{yearly} mm in a year");
    }
}
