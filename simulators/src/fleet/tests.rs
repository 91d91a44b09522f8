use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::incident::{Effect, INCIDENTS};
use super::model::KINDS;
use super::{Fleet, payload};
use crate::catalogue::Catalogue;

fn live() -> Timestamp {
    "2025-05-14T09:17:23Z".parse().unwrap()
}

/// Times at which nothing is scripted, in all seasons.
fn quiet_times() -> impl Iterator<Item = Timestamp> {
    (0..400).map(|step| live() + SignedDuration::from_hours(24 + step * 23) + SignedDuration::from_mins(step * 7 % 60))
}

fn value(fleet: &Fleet, device: &str, property: &str, time: Timestamp) -> Option<f64> {
    let device = fleet.devices().iter().find(|candidate| candidate.id == device).unwrap();
    let sample = fleet.sample(device, time)?;
    sample.values.iter().find(|(candidate, _)| candidate.id == property).map(|(_, value)| *value)
}

/// What this city has no sensors of: the catalogue knows more, for those that other cities have.
const UNOBSERVED: [&str; 60] = [
    "activity",
    "conductivity",
    "current",
    "dew_point",
    "displacement",
    "dissolved_oxygen",
    "distance",
    "distance_maximum",
    "distance_median",
    "distance_minimum",
    "distance_p10",
    "distance_p25",
    "distance_p75",
    "distance_p90",
    "energy_exported",
    "flow",
    "gas_volume",
    "h2s",
    "illuminance",
    "leak",
    "lightning_strikes",
    "line_pressure",
    "nh3",
    "no",
    "noise_l10",
    "noise_l90",
    "noise_maximum",
    "noise_minimum",
    "oxygen_saturation",
    "permittivity",
    "ph",
    "photosynthetic_radiation",
    "pm1",
    "pm4",
    "pn0_5",
    "pn1",
    "pn10",
    "pn2_5",
    "pn4",
    "power_apparent",
    "power_factor",
    "power_reactive",
    "pulse_total",
    "pulses",
    "rain_total",
    "redox",
    "soil_moisture",
    "soil_temperature",
    "soil_water_potential",
    "solar_radiation",
    "strain",
    "surface_temperature",
    "turbidity",
    "tvoc",
    "vapour_pressure",
    "water_depth",
    "water_temperature",
    "water_volume",
    "weight",
    "wind_gust",
];

#[test]
fn every_other_property_of_the_catalogue_is_observed() {
    let observed: BTreeSet<&str> = KINDS.iter().flat_map(|kind| kind.properties).copied().collect();
    let catalogue: BTreeSet<&str> = Catalogue::embedded().iter().map(|property| property.id.as_str()).collect();
    let expected: BTreeSet<&str> = catalogue.into_iter().filter(|property| !UNOBSERVED.contains(property)).collect();
    assert_eq!(observed, expected);
}

#[test]
fn the_default_fleet_has_about_150_devices() {
    let count = Fleet::new(1, 1.0, live()).devices().len();
    assert!((140..=160).contains(&count), "{count}");
}

#[test]
fn devices_tell_the_properties_of_their_kind_at_their_intervals() {
    let fleet = Fleet::new(1, 1.0, live());
    let from = live() + SignedDuration::from_hours(48);
    for device in fleet.devices() {
        for id in device.kind.properties {
            let mut time = fleet.next_time(device, from);
            let mut count = 0;
            while time < from + SignedDuration::from_hours(2) {
                count += i64::from(value(&fleet, &device.id, id, time).is_some());
                time = fleet.next_time(device, time + SignedDuration::from_secs(1));
            }
            assert_eq!(count, 7_200 / Catalogue::embedded().get(id).unwrap().interval_s, "{} {id}", device.id);
        }
    }
}

#[test]
fn values_depend_on_seed_device_and_time_only() {
    let (small, large) = (Fleet::new(5, 0.3, live()), Fleet::new(5, 2.0, live() + SignedDuration::from_hours(400)));
    let other = Fleet::new(6, 0.3, live());
    let mut differing = 0;
    for device in small.devices() {
        let twin = large.devices().iter().find(|twin| twin.id == device.id).unwrap();
        let stranger = other.devices().iter().find(|stranger| stranger.id == device.id).unwrap();
        for hours in 100..110 {
            let time = device.sample_from(live() + SignedDuration::from_hours(hours));
            let text = |fleet: &Fleet, device| payload::single(device, &fleet.sample(device, time).unwrap());
            assert_eq!(text(&small, device), text(&large, twin));
            differing += i32::from(text(&small, device) != text(&other, stranger));
        }
    }
    assert!(10 * small.devices().len() < usize::try_from(2 * differing).unwrap());
}

#[test]
fn values_are_plausible_and_settled() {
    let fleet = Fleet::new(2, 1.0, live());
    for device in fleet.devices() {
        for time in quiet_times() {
            for (property, value) in fleet.sample(device, device.sample_from(time)).unwrap().values {
                assert!((property.min..=property.max).contains(&value), "{} {}: {value}", device.id, property.id);
                assert_eq!(value.to_bits(), property.settle(value).to_bits(), "{} {}: {value}", device.id, property.id);
            }
        }
    }
}

/// Clamping would hide a model that has gone wrong.
#[test]
fn gauges_vary_and_do_not_stick_to_their_limits() {
    let fleet = Fleet::new(2, 1.0, live());
    for device in fleet.devices().iter().filter(|device| device.number == 1) {
        for id in ["pm10", "no2", "o3", "so2", "co", "benzene", "temperature", "pressure", "noise", "voltage", "mean_speed", "water_level"]
        {
            let values: Vec<f64> = quiet_times().filter_map(|time| value(&fleet, &device.id, id, device.sample_from(time))).collect();
            let property = Catalogue::embedded().get(id).unwrap();
            assert!(values.iter().all(|value| property.min < *value && *value < property.max), "{} {id}", device.id);
            let distinct: BTreeSet<String> = values.iter().map(ToString::to_string).collect();
            assert!(values.is_empty() || 10 < distinct.len(), "{} {id}", device.id);
        }
    }
}

#[test]
fn registers_of_meters_only_grow_and_agree_with_power() {
    let fleet = Fleet::new(3, 1.0, live());
    for device in fleet.devices().iter().filter(|device| device.kind.name == "energy-meter") {
        let start = device.sample_from(live());
        let (mut last, mut powers) = (None, Vec::new());
        for minute in 0..3_000 {
            let time = start + SignedDuration::from_mins(minute);
            let energy = value(&fleet, &device.id, "energy_active", time).unwrap();
            assert!(last.is_none_or(|last| last <= energy), "{} at {time}", device.id);
            last = Some(energy);
            powers.push(value(&fleet, &device.id, "power_active", time).unwrap());
        }
        assert!(powers.iter().all(|power| 0.0 < *power), "{}", device.id);
        let used = last.unwrap() - value(&fleet, &device.id, "energy_active", start).unwrap();
        let integral = powers.windows(2).map(|pair| f64::midpoint(pair[0], pair[1]) / 60.0).sum::<f64>();
        assert!((used / integral - 1.0).abs() < 1e-3, "{}: {used} kWh, {integral} kWh", device.id);
    }
}

#[test]
fn days_look_like_days() {
    let fleet = Fleet::new(4, 1.0, live());
    let mean = |property: &str, clock: &str| {
        let days = (16..=30).filter(|day| ![17, 18, 24, 25].contains(day)); // Working days of May 2025.
        let values: Vec<f64> = days
            .flat_map(|day| {
                let time: Timestamp = format!("2025-05-{day}T{clock}:00+02:00").parse().unwrap();
                fleet
                    .devices()
                    .iter()
                    .filter_map(|device| value(&fleet, &device.id, property, device.sample_from(time)))
                    .collect::<Vec<_>>()
            })
            .collect();
        values.iter().sum::<f64>() / values.len() as f64
    };
    assert!(4.0 * mean("vehicle_count", "03:30") < mean("vehicle_count", "08:30"));
    assert!(mean("no2", "03:30") < mean("no2", "08:30"));
    assert!(mean("noise", "03:30") + 6.0 < mean("noise", "08:30"));
    assert!(mean("temperature", "05:00") + 3.0 < mean("temperature", "15:00"));
    assert!(mean("o3", "05:00") < mean("o3", "15:00"));
    assert_eq!(mean("pv_power", "01:00").to_bits(), 0.0_f64.to_bits());
    assert!(1.0 < mean("pv_power", "13:00"));
    assert_eq!(mean("lamp_dimming", "13:00").to_bits(), 0.0_f64.to_bits());
    assert!(50.0 < mean("lamp_dimming", "02:00"));
}

#[test]
fn incidents_happen_to_devices_of_the_default_fleet() {
    let fleet = Fleet::new(1, 1.0, live());
    for incident in &INCIDENTS {
        let concerned = fleet.devices().iter().filter(|device| incident.concerns(device));
        assert_ne!(concerned.count(), 0, "{incident}");
    }
}

#[test]
fn incidents_do_what_they_say() {
    let fleet = Fleet::new(1, 1.0, live());
    let at = |device: &str, property: &str, minutes: i64| value(&fleet, device, property, live() + SignedDuration::from_mins(minutes));
    assert_eq!(at("panic-button-001", "panic_button", 1), Some(0.0));
    assert_eq!(at("panic-button-001", "panic_button", 2), Some(1.0));
    assert_eq!(at("panic-button-001", "panic_button", 7), Some(0.0));
    assert_eq!(at("door-contact-001", "tamper", 5), Some(1.0));
    assert_eq!(at("noise-meter-001", "noise", 10), None);
    assert_eq!(at("waste-bin-001", "bin_fill", -10), Some(100.0));
    for incident in INCIDENTS.iter().filter(|incident| matches!(incident.effect, Effect::Particles { .. })) {
        for device in fleet.devices().iter().filter(|device| incident.concerns(device)) {
            for minute in incident.from.as_mins() + 10..incident.to.as_mins() {
                assert!(100.0 < at(&device.id, "pm10", minute).unwrap());
            }
        }
    }
    let nonsense = (-100..100).filter(|minute| at("weather-station-002", "temperature", *minute) == Some(-147.0)).count();
    assert!((20..40).contains(&nonsense), "{nonsense}");
}

#[test]
fn a_pressed_button_is_told_at_once() {
    let fleet = Fleet::new(1, 1.0, live());
    let button = fleet.devices().iter().find(|device| device.id == "panic-button-001").unwrap();
    let pressed = live() + SignedDuration::from_mins(2);
    assert_eq!(fleet.next_time(button, pressed), pressed);
}
