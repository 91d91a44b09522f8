//! What each kind of device measures: its properties and a pure function from device and moment to values.

use super::city::{Place, Route};
use super::device::Device;
use super::moment::Moment;
use super::weather::Climate;
use crate::noise::Noise;

mod energy;
mod environment;
mod mobility;
mod security;

/// A kind of device.
#[derive(Debug)]
pub struct Kind {
    /// As in topics.
    pub name: &'static str,
    pub domain: &'static str,
    /// Devices at scale 1.
    pub count: usize,
    pub properties: &'static [&'static str],
    pub model: fn(&Scene<'_>, &mut Readings),
}

/// What a model may look at.
#[derive(Debug)]
pub struct Scene<'a> {
    pub device: &'a Device,
    pub moment: &'a Moment,
    pub climate: &'a Climate,
}

impl Scene<'_> {
    /// A trait of the device that never changes, in `[low, high)`.
    fn character(&self, number: i64, low: f64, high: f64) -> f64 {
        self.device.noise.split(0).between(number, low, high)
    }

    /// The device's randomness for one purpose; 0 is taken by its character.
    fn noise(&self, purpose: u64) -> Noise {
        self.device.noise.split(purpose)
    }

    /// A measurement error, fresh for each sample.
    fn jitter(&self, purpose: u64) -> f64 {
        self.noise(purpose).normal(self.moment.second)
    }

    fn route(&self) -> Option<&Route> {
        self.device.route.as_ref()
    }
}

/// What a model says: canonical units, not yet rounded.
#[derive(Debug, Default)]
pub struct Readings {
    pub values: Vec<(&'static str, f64)>,
    /// Where a device that moves is.
    pub place: Option<Place>,
}

impl Readings {
    fn push(&mut self, property: &'static str, value: f64) {
        self.values.push((property, value));
    }
}

/// Every kind; together they observe every property of the catalogue.
pub const KINDS: [Kind; 16] = [
    Kind {
        name: "air-station",
        domain: "environment",
        count: 16,
        properties: &["pm10", "pm2_5", "no2", "o3", "so2", "co", "benzene", "co2", "temperature", "humidity"],
        model: environment::air_station,
    },
    Kind {
        name: "weather-station",
        domain: "environment",
        count: 8,
        properties: &["temperature", "humidity", "pressure", "wind_speed", "wind_direction", "rain", "uv_index"],
        model: environment::weather_station,
    },
    Kind { name: "noise-meter", domain: "environment", count: 8, properties: &["noise"], model: environment::noise_meter },
    Kind { name: "river-gauge", domain: "environment", count: 2, properties: &["water_level"], model: environment::river_gauge },
    Kind {
        name: "waste-bin",
        domain: "environment",
        count: 12,
        properties: &["bin_fill", "battery_level", "battery_voltage", "rssi", "snr"],
        model: environment::waste_bin,
    },
    Kind {
        name: "traffic-counter",
        domain: "mobility",
        count: 16,
        properties: &["vehicle_count", "mean_speed", "lane_occupancy"],
        model: mobility::traffic_counter,
    },
    Kind { name: "parking", domain: "mobility", count: 8, properties: &["parking_free", "parking_occupied"], model: mobility::parking },
    Kind { name: "bus", domain: "mobility", count: 12, properties: &["bus_speed", "bus_passengers"], model: mobility::bus },
    Kind { name: "bike-dock", domain: "mobility", count: 10, properties: &["bikes_available"], model: mobility::bike_dock },
    Kind {
        name: "energy-meter",
        domain: "energy",
        count: 12,
        properties: &["energy_active", "power_active", "voltage", "frequency"],
        model: energy::energy_meter,
    },
    Kind { name: "pv-plant", domain: "energy", count: 6, properties: &["pv_power", "voltage"], model: energy::pv_plant },
    Kind {
        name: "charger",
        domain: "energy",
        count: 8,
        properties: &["charger_state", "charger_power", "charger_energy"],
        model: energy::charger,
    },
    Kind { name: "street-lamp", domain: "energy", count: 16, properties: &["lamp_state", "lamp_dimming"], model: energy::street_lamp },
    Kind { name: "people-counter", domain: "security", count: 8, properties: &["people_count"], model: security::people_counter },
    Kind {
        name: "door-contact",
        domain: "security",
        count: 6,
        properties: &["door", "tamper", "battery_level"],
        model: security::door_contact,
    },
    Kind {
        name: "panic-button",
        domain: "security",
        count: 4,
        properties: &["panic_button", "battery_level", "connection"],
        model: security::panic_button,
    },
];

/// Percent left of a battery that is changed every 8 to 14 months, at 10 to 25 %.
fn battery(scene: &Scene<'_>) -> f64 {
    let life_s = scene.character(90, 240.0, 420.0) * 86_400.0;
    let used = (scene.moment.second as f64 / life_s + scene.character(91, 0.0, 1.0)).fract();
    100.0 - scene.character(92, 75.0, 90.0) * used
}

/// Events that come one by one, counted over an interval in which `mean` are expected.
fn arrivals(mean: f64, draw: f64) -> f64 {
    (mean + mean.sqrt() * draw).round().max(0.0)
}
