//! What the quality checks make of real data, held against a second, naive reading of the rules: every series as a list, every rule
//! as it is written in the catalogue.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use conca::config::Config;
use conca::decode::{self, Form, Limits, Memory};
use conca::intake::Entry;
use conca::model::{Catalogue, Districts, Flags, Message, Normalised, Registry, Service, SourceName, Timestamp};
use conca::normalise::{Normaliser, TimeBounds};
use conca::quality::{Checks, Settings};
use conca_simulators::replay::{self, Mapping};
use serde_json::Value;

use crate::material::material;
use crate::support::{Identity, Store};

/// Messages of one commit.
const BATCH: usize = 1_000;

/// Messages and readings of a data set, and what is stored of them.
struct Stored {
    readings: usize,
    observations: BTreeMap<Identity, (f64, Flags)>,
    trusted: BTreeMap<Identity, (f64, Flags)>,
    duplicates: i64,
    corrections: i64,
}

/// The messages of a data set. Its places are left out, all of which lie off the city; so is the code for what is missing.
fn messages(data: &Path, mapping: &str) -> Vec<(String, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("simulators/mappings").join(mapping);
    let mut mapping = Mapping::load(&path).unwrap();
    mapping.device.position = None;
    mapping.device.positions.clear();
    mapping.missing.retain(|code| code != "-200");
    replay::messages(data, &mapping).unwrap()
}

/// Decodes, normalises, checks and stores messages, as the program does with its defaults.
fn store(messages: &[(String, Vec<u8>)]) -> Stored {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path());
    let catalogue = Arc::new(Catalogue::built_in());
    let section = Config::default().quality;
    let settings = Settings { enabled: section.enabled, error_codes: section.error_codes };
    let mut checks = Checks::new(&catalogue, &settings, Arc::default());
    let normaliser = Normaliser::new(catalogue, Arc::new(Districts::built_in()));
    let received: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let day = Duration::from_hours(24);
    let bounds = TimeBounds { past_max: day * 36_525, past_trusted_max: None, future_max: day, skew_max: Duration::from_mins(5) };
    let limits = Limits { payload_bytes_max: 100_000, readings_max: 100 };
    let mut readings = 0;
    for batch in messages.chunks(BATCH) {
        let entry = |(topic, payload): &(String, Vec<u8>)| {
            let message = Message {
                source: SourceName::try_from("main").unwrap(),
                topic: topic.as_str().into(),
                payload: payload.clone().into(),
                received,
                service: Service::AtMostOnce,
                retained: false,
            };
            let decoded = decode::decode(&Form::default(), &message, &limits, &mut Memory::default()).unwrap();
            assert_eq!(decoded.faults, []);
            let outcome = Ok(normaliser.normalise(decoded.devices, received, &bounds, &Registry::default()));
            Entry { message, outcome, replay: None }
        };
        let entries: Vec<Entry> = batch.iter().map(entry).collect();
        readings += entries.iter().filter_map(|entry| entry.outcome.as_ref().ok()).map(Normalised::observations).sum::<usize>();
        store.receive_checked(&mut checks, &entries);
    }
    store.settle();
    let counts = store.ledger();
    assert_eq!((counts.quarantined, counts.pending), (0, 0));
    let (observations, trusted) = (store.observations(false), store.observations(true));
    Stored { readings, observations, trusted, duplicates: counts.duplicate, corrections: counts.corrected }
}

/// One series, as the naive reader knows it.
#[derive(Default)]
struct Naive {
    /// Everything that was taken, by time.
    stored: BTreeMap<i64, (f64, Flags)>,
    /// The credible values that came in order, with whether they are free of spike and rate; since the last silence.
    before: Vec<(i64, f64, bool)>,
}

impl Naive {
    /// Judges a value, and takes it in.
    fn take(&mut self, property: &Value, codes: &[f64], time: i64, sent: f64, value: f64) {
        let rules = &property["quality"];
        let number = |value: &Value| value.as_f64();
        let (min, max) = (number(&property["min"]).unwrap(), number(&property["max"]).unwrap());
        let own: Vec<f64> = rules["error_codes"].as_array().map(|codes| codes.iter().filter_map(number).collect()).unwrap_or_default();
        let is_plausible = min <= value && value <= max;
        let has = |codes: &[f64], number: f64| codes.iter().any(|code| (code - number).abs() < 1e-9);
        let mut flags = Flags::empty();
        flags.set(Flags::OUT_OF_RANGE, !is_plausible);
        flags.set(
            Flags::ERROR_CODE,
            has(&own, value) || (!is_plausible && [sent, value].iter().any(|it| has(&own, *it) || has(codes, *it))),
        );
        if let Some((same, _flags)) = self.stored.get(&time)
            && (same - value).abs() < 1e-9
        {
            return;
        }
        let is_new = self.stored.last_key_value().is_none_or(|(newest, _value)| *newest < time);
        if flags.is_empty() && is_new {
            if self.before.last().is_some_and(|(last, _value, _good)| time - last > 6 * 3_600_000_000) {
                self.before.clear();
            }
            flags = self.judge(rules, time, value, [min, max]);
            self.before.push((time, value, !flags.intersects(Flags::SPIKE | Flags::RATE)));
        }
        self.stored.insert(time, (value, flags));
    }

    fn judge(&self, rules: &Value, time: i64, value: f64, bounds: [f64; 2]) -> Flags {
        let mut flags = Flags::empty();
        let equal: Vec<_> = self.before.iter().rev().take_while(|(_time, before, _good)| (before - value).abs() < 1e-9).collect();
        if let (Some(readings), Some(minutes)) = (rules["stuck"]["readings"].as_u64(), rules["stuck"]["minutes"].as_i64()) {
            let since = equal.last().map_or(time, |(first, ..)| *first);
            let is_bound = bounds.contains(&value);
            flags.set(Flags::STUCK, !is_bound && equal.len() as u64 + 1 > readings && time - since > minutes * 60_000_000);
        }
        if let Some(window) = rules["spike"]["window"].as_u64().filter(|window| self.before.len() as u64 >= *window) {
            let limit = |name: &str| rules["spike"][name].as_f64().unwrap();
            let last: Vec<f64> =
                self.before.iter().rev().take(usize::try_from(window).unwrap()).map(|(_time, value, _good)| *value).collect();
            let middle = median(&last);
            let deviation = median(&last.iter().map(|value| (value - middle).abs()).collect::<Vec<_>>());
            let far = limit("floor").max(limit("deviations") * 1.4826 * deviation) + 1e-6 * value.abs();
            flags.set(Flags::SPIKE, (value - middle).abs() > far && (value - last[0]).abs() > far);
        }
        if let Some(rate) = rules["rate_max_per_minute"].as_f64()
            && let Some((since, believed, _good)) = self.before.iter().rev().find(|(_time, _value, good)| *good)
        {
            flags.set(Flags::RATE, (value - believed).abs() > rate * ((time - since) as f64 / 60e6).max(1.0) + 1e-6);
        }
        flags
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2])
}

/// What the naive reader makes of the messages.
fn naive(messages: &[(String, Vec<u8>)]) -> BTreeMap<Identity, (f64, Flags)> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/properties.json")).unwrap();
    let catalogue: Vec<Value> = serde_json::from_str(&text).unwrap();
    let properties: HashMap<&str, &Value> = catalogue.iter().map(|property| (property["id"].as_str().unwrap(), property)).collect();
    let codes = Config::default().quality.error_codes;
    let mut series: BTreeMap<(String, String), Naive> = BTreeMap::new();
    for (topic, payload) in messages {
        let device = topic.rsplit('/').next().unwrap();
        let message: Value = serde_json::from_slice(payload).unwrap();
        let time: jiff::Timestamp = message["time"].as_str().unwrap().parse().unwrap();
        for (id, reading) in message["readings"].as_object().unwrap() {
            let sent = reading["value"].as_f64().unwrap();
            let canonical = match reading["unit"].as_str().unwrap() {
                "K" => sent - 273.15,
                "[degF]" => (sent - 32.0) / 1.8,
                "[mi_i]/h" => sent * 0.447_04,
                "[in_i]" => sent * 25.4,
                _ => sent,
            };
            let property = properties[id.as_str()];
            let resolution = property["resolution"].as_f64().unwrap();
            let value = (canonical * (1.0 / resolution).round()).round() / (1.0 / resolution).round();
            // A circle is closed.
            let value = if id == "wind_direction" && value >= 360.0 { 0.0 } else { value };
            series.entry((device.to_owned(), id.clone())).or_default().take(property, &codes, time.as_microsecond(), sent, value);
        }
    }
    let rows = series.into_iter().flat_map(|((device, property), naive)| {
        naive.stored.into_iter().map(move |(time, observed)| ((device.clone(), property.clone(), time), observed))
    });
    rows.collect()
}

/// Number, sum and mean of the values of each property.
fn sums<'a>(rows: impl Iterator<Item = (&'a Identity, &'a (f64, Flags))>) -> BTreeMap<String, (usize, f64, f64)> {
    let mut sums: BTreeMap<String, (usize, f64, f64)> = BTreeMap::new();
    for ((_device, property, _time), (value, _flags)) in rows {
        let sum = sums.entry(property.clone()).or_default();
        (sum.0, sum.1) = (sum.0 + 1, sum.1 + value);
    }
    for sum in sums.values_mut() {
        sum.2 = sum.1 / sum.0 as f64;
    }
    sums
}

/// Stores a data set and holds it against the naive reader, and the README's line against it.
#[track_caller]
fn check(title: &str, data: &Path, mapping: &str) -> Stored {
    let messages = messages(data, mapping);
    let stored = store(&messages);
    let expected = naive(&messages);
    assert_eq!(stored.observations.len(), expected.len());
    for ((identity, (value, flags)), (expected_identity, (expected_value, expected_flags))) in stored.observations.iter().zip(&expected) {
        assert_eq!(identity, expected_identity);
        assert!((value - expected_value).abs() < 1e-6, "{identity:?}: {value} instead of {expected_value}");
        assert_eq!(flags, expected_flags, "{identity:?}: {value}");
    }
    // What default questions count is what no check has flagged, and its sums and means are right.
    let trusted = expected.iter().filter(|(_identity, (_value, flags))| flags.is_empty());
    let (found, wanted) = (sums(stored.trusted.iter()), sums(trusted));
    assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (property, (count, sum, mean)) in &wanted {
        let (found_count, found_sum, found_mean) = found[property];
        assert_eq!(found_count, *count, "{property}");
        assert!(
            (found_sum - sum).abs() <= 1e-9 * sum.abs().max(1.0) && (found_mean - mean).abs() <= 1e-9 * mean.abs().max(1.0),
            "{property}"
        );
    }
    let flagged = |flag| stored.observations.values().filter(|(_value, flags)| flags.contains(flag)).count();
    let shown = [Flags::OUT_OF_RANGE, Flags::ERROR_CODE, Flags::STUCK, Flags::SPIKE, Flags::RATE].map(|flag| thousands(flagged(flag)));
    let numbers = [stored.readings, stored.trusted.len()].map(thousands);
    let again = [stored.duplicates, stored.corrections].map(|count| thousands(usize::try_from(count).unwrap()));
    let line = format!("| {title} | {} | {} | {} |", numbers.join(" | "), again.join(" | "), shown.join(" | "));
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    assert!(readme.contains(&line), "README.md lacks: {line}");
    stored
}

/// With commas.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Whether all values of a property that satisfy `is` have a flag, and there are some.
#[track_caller]
fn check_flagged(stored: &Stored, property: &str, is: impl Fn(f64) -> bool, flag: Flags, expected: usize) {
    let of = stored.observations.iter().filter(|((_device, of, _time), (value, _flags))| of == property && is(*value));
    let flags: Vec<Flags> = of.map(|(_identity, (_value, flags))| *flags).collect();
    assert_eq!(flags.len(), expected);
    assert!(flags.iter().all(|flags| flags.contains(flag)), "{flags:?}");
}

#[test]
fn the_air_of_an_italian_city_with_its_codes_for_missing() {
    const TEST: &str = "quality::the_air_of_an_italian_city_with_its_codes_for_missing";
    let Some(data) = material(TEST, "datasets/uci-airquality-italy-2004.csv.gz") else { return };
    let stored = check("Air, Italy 2004 (UCI 360)", &data, "uci-airquality-italy-2004.toml");
    for (property, count) in [("co", 1_683), ("benzene", 366), ("no2", 1_642), ("temperature", 366), ("humidity", 366)] {
        check_flagged(&stored, property, |value| value < -199.0, Flags::ERROR_CODE | Flags::OUT_OF_RANGE, count);
    }
}

#[test]
fn an_interstates_traffic_with_hours_told_twice() {
    const TEST: &str = "quality::an_interstates_traffic_with_hours_told_twice";
    let Some(data) = material(TEST, "datasets/metro-interstate-i94.csv.gz") else { return };
    let stored = check("Traffic and weather, Minnesota 2012–2018 (UCI 492)", &data, "metro-interstate-i94.toml");
    // 0 K, ten hours long; 9,831 mm of rain within one.
    check_flagged(&stored, "temperature", |value| value < -273.0, Flags::OUT_OF_RANGE | Flags::ERROR_CODE, 10);
    check_flagged(&stored, "rain", |value| value > 9_831.0, Flags::OUT_OF_RANGE, 1);
    let busiest = stored.trusted.iter().filter(|((_device, property, _time), _value)| property == "vehicle_count");
    assert_eq!(busiest.map(|(_identity, (value, _flags))| *value).fold(0.0, f64::max).to_bits(), 7_280_f64.to_bits());
}

#[test]
fn the_weather_of_new_york_with_its_hurricane_of_a_typing_error() {
    const TEST: &str = "quality::the_weather_of_new_york_with_its_hurricane_of_a_typing_error";
    let Some(data) = material(TEST, "datasets/nycflights13-weather-hourly-2013.csv.gz") else { return };
    let stored = check("Weather, New York 2013 (nycflights13)", &data, "nycflights13-weather-hourly-2013.toml");
    // 1,048 mph.
    check_flagged(&stored, "wind_speed", |value| value > 400.0, Flags::OUT_OF_RANGE, 1);
    // An hour of hard frost in May, between two mild ones.
    let frost: jiff::Timestamp = "2013-05-09T02:00:00Z".parse().unwrap();
    let (value, flags) = stored.observations[&("asos-JFK".to_owned(), "temperature".to_owned(), frost.as_microsecond())];
    assert!(value < -10.0 && flags == Flags::SPIKE, "{value} {flags:?}");
}
