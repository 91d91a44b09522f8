use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::intake::{self, Entry, Limits as IntakeLimits, Repeats, Step};
use crate::model::{
    DeviceId, DeviceKind, DeviceObservations, Districts, Domain, Message, Normalised, Original, Position, Registration,
    RegistrationDocument, Service, SourceName, Timestamp,
};
use crate::state::{Commit, Database, RegistryChange};

const MINUTE: i64 = 60_000_000;

/// When the first reading is made.
const BEGIN: i64 = 1_772_352_000_000_000;

fn settings() -> Settings {
    Settings { enabled: Check::ALL.to_vec(), error_codes: vec![-200.0, -999.0, 65_535.0] }
}

/// A city in memory of its own, with the checks that the program makes.
struct Scene {
    catalogue: Arc<Catalogue>,
    database: Database,
    checks: Checks,
    neighbourhood: Arc<Neighbourhood>,
    _folder: tempfile::TempDir,
}

/// What one device tells by one message.
struct Told<'a> {
    device: &'a str,
    minute: i64,
    position: Option<(f64, f64)>,
    values: &'a [(&'a str, f64)],
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let catalogue = Arc::new(Catalogue::built_in());
        let (database, _work) = Database::open(folder.path(), &catalogue, &Arc::new(Districts::built_in())).unwrap();
        let neighbourhood = Arc::new(Neighbourhood::default());
        let checks = Checks::new(&catalogue, &settings(), Arc::clone(&neighbourhood));
        Self { catalogue, database, checks, neighbourhood, _folder: folder }
    }

    /// As the program does after a restart: what is durable is there, what was remembered is not.
    fn restart(&mut self) {
        self.checks = Checks::new(&self.catalogue, &settings(), Arc::clone(&self.neighbourhood));
    }

    fn entry(&self, told: &Told<'_>) -> Entry {
        let time = Timestamp::from_micros(BEGIN + told.minute * MINUTE).unwrap();
        let observation = |(id, value): &(&str, f64)| {
            let index = self.catalogue.find(id).unwrap();
            let property = self.catalogue.get(index);
            let mut flags = Flags::empty();
            flags.set(Flags::OUT_OF_RANGE, !(property.min..=property.max).contains(value));
            let position = told.position.map(|(longitude, latitude)| Position::new(longitude, latitude).unwrap());
            Observation { property: index, time, value: *value, flags, position, district: None, original: None }
        };
        let device = DeviceObservations {
            device: DeviceId::try_from(told.device).unwrap(),
            kind: DeviceKind::try_from("air-station").unwrap(),
            domain: Domain::Environment,
            observations: told.values.iter().map(observation).collect(),
        };
        let message = Message {
            source: SourceName::try_from("main").unwrap(),
            topic: "any".into(),
            payload: bytes::Bytes::new(),
            received: time,
            service: Service::AtMostOnce,
            retained: false,
        };
        Entry { message, outcome: Ok(Normalised { devices: vec![device], ..Normalised::default() }), replay: None }
    }

    fn step(&self, told: &[Told<'_>]) -> Step {
        let entries: Vec<Entry> = told.iter().map(|told| self.entry(told)).collect();
        let limits = IntakeLimits { devices_max: 1_000 };
        let step = intake::step(self.database.live(), &Repeats::new(10, []), &self.checks, limits, |_replay| false, &entries);
        // What is stored, told to alerts and shown as the latest is the same.
        let mut rows: Vec<u16> = step.commit.ordered.flags.iter().chain(&step.commit.late.flags).copied().collect();
        let mut taken: Vec<u16> = step.taken.iter().map(|taken| taken.flags.bits()).collect();
        rows.sort_unstable();
        taken.sort_unstable();
        assert_eq!(rows, taken);
        step
    }

    /// Takes messages in one commit; the names of the flags of each observation.
    fn take(&mut self, told: &[Told<'_>]) -> Vec<String> {
        let Step { commit, taken, histories, .. } = self.step(told);
        self.database.turn().commit(commit).unwrap();
        self.checks.learn(histories);
        taken.iter().map(|taken| taken.flags.names().join(" ")).collect()
    }

    /// Takes a series of one device, each reading in a commit of its own; those that have flags.
    fn take_series(&mut self, property: &str, readings: &[(i64, f64)]) -> Vec<(usize, String)> {
        let flagged = readings.iter().enumerate().flat_map(|(index, (minute, value))| {
            let told = Told { device: "a", minute: *minute, position: None, values: &[(property, *value)] };
            self.take(&[told]).into_iter().map(move |flags| (index, flags))
        });
        flagged.filter(|(_index, flags)| !flags.is_empty()).collect()
    }
}

#[track_caller]
fn check(property: &str, readings: &[(i64, f64)], expected: &[(usize, &str)]) {
    let expected: Vec<(usize, String)> = expected.iter().map(|(index, flags)| (*index, (*flags).to_owned())).collect();
    assert_eq!(Scene::new().take_series(property, readings), expected, "one by one");
    // All in one batch give the same: each is judged by those before it in the batch.
    let mut scene = Scene::new();
    let values: Vec<[(&str, f64); 1]> = readings.iter().map(|(_minute, value)| [(property, *value)]).collect();
    let told = readings.iter().zip(&values).map(|((minute, _value), values)| Told { device: "a", minute: *minute, position: None, values });
    let together = scene.take(&told.collect::<Vec<_>>()).into_iter().enumerate().filter(|(_index, flags)| !flags.is_empty());
    assert_eq!(together.collect::<Vec<_>>(), expected, "in one batch");
}

/// Every minute from the first on.
fn minutes(values: &[f64]) -> Vec<(i64, f64)> {
    (0..).zip(values.iter().copied()).collect()
}

#[test]
fn error_codes_are_flagged_and_forgotten() {
    check(
        "temperature",
        &minutes(&[20.0, 20.1, -200.0, 85.0, 20.2, -127.0, 20.3, -31.0]),
        &[(2, "out-of-range error-code"), (3, "out-of-range error-code"), (5, "out-of-range error-code"), (7, "out-of-range")],
    );
    // Plausible, and the code of this property; plausible, and that of others only.
    check("pm10", &minutes(&[30.0, 999.0, 31.0]), &[(1, "error-code")]);
    check("pressure", &[(0, 999.0), (60, 998.9)], &[]);
}

#[test]
fn an_error_code_in_the_senders_unit_is_found() {
    let scene = Scene::new();
    let mut entry = scene.entry(&Told { device: "a", minute: 0, position: None, values: &[("temperature", -128.89)] });
    let observation = &mut entry.outcome.as_mut().unwrap().devices[0].observations[0];
    observation.original = Some(Box::new(Original { value: -200.0, unit: "[degF]".to_owned() }));
    let flags = scene.checks.judge(observation, None, &mut History::default());
    assert_eq!(flags, Flags::OUT_OF_RANGE | Flags::ERROR_CODE);
}

#[test]
fn a_value_that_stays_for_too_long_is_stuck() {
    let hours = |value: f64, hours: i64| (0..hours).map(|hour| (hour * 60, value)).collect::<Vec<_>>();
    let after = |first: usize, last: usize, flags: &'static str| (first..last).map(|index| (index, flags)).collect::<Vec<_>>();
    check("temperature", &hours(17.3, 15), &after(12, 15, "stuck"));
    check("temperature", &hours(17.3, 12), &[]);
    // A natural bound.
    check("humidity", &hours(100.0, 30), &[]);
    check("wind_speed", &hours(0.0, 30), &[]);
    // Counts and states are not checked.
    check("rain", &hours(0.2, 30), &[]);
    check("door", &hours(1.0, 30), &[]);
    // Silence begins it anew.
    let mut interrupted = hours(17.3, 8);
    interrupted.extend(hours(17.3, 8).into_iter().map(|(minute, value)| (minute + 15 * 60, value)));
    check("temperature", &interrupted, &[]);
}

#[test]
fn a_lone_jump_is_a_spike_and_too_fast() {
    let calm = [20.0, 20.1, 20.0, 20.2, 20.1, 20.0, 20.1];
    let with = |more: &[f64]| minutes(&[&calm[..], more].concat());
    check("temperature", &with(&[35.0, 20.1, 20.0]), &[(7, "spike rate")]);
    check("pm10", &with(&[300.0, 20.1, 20.0]), &[(7, "spike")]);
    // A new level: the first reading of it could be a spike, the second confirms it.
    check("pm10", &with(&[300.0, 305.0, 310.0, 301.0]), &[(7, "spike")]);
    // A climb as fast as may be, and one faster; what is near enough after a while is believed again.
    check("temperature", &minutes(&[20.0, 23.0, 26.0, 29.0]), &[]);
    check("temperature", &minutes(&[20.0, 25.0, 30.0, 30.0, 30.0]), &[(1, "rate"), (2, "rate"), (3, "rate")]);
}

#[test]
fn what_comes_late_is_not_judged_by_what_is_newer() {
    let calm = [(10, 20.0), (11, 20.1), (12, 20.0), (13, 20.2), (14, 20.1), (15, 20.0), (16, 20.1)];
    check("temperature", &[&calm[..], &[(9, 40.0), (17, 20.0)]].concat(), &[]);
    // The newest one told again keeps what was said of it; told otherwise, it is a correction.
    check("temperature", &[&calm[..], &[(17, 40.0), (17, 40.0), (17, 20.2)]].concat(), &[(7, "spike rate"), (8, "spike rate")]);
}

#[test]
fn particles_in_humid_air_are_doubtful_but_for_reference_devices() {
    let mut scene = Scene::new();
    let told = |device, minute, values| Told { device, minute, position: None, values };
    // Whatever the order in the message.
    assert_eq!(scene.take(&[told("a", 0, &[("pm10", 40.0), ("humidity", 92.0)])]), ["humid", ""]);
    assert_eq!(scene.take(&[told("a", 1, &[("humidity", 85.0), ("pm10", 40.5)])]), ["", ""]);
    // By another message, a little before; and too long before; of another device.
    assert_eq!(scene.take(&[told("a", 2, &[("humidity", 90.0)]), told("a", 3, &[("pm2_5", 20.0)])]), ["", "humid"]);
    assert_eq!(scene.take(&[told("a", 13, &[("pm2_5", 20.5)]), told("b", 2, &[("pm2_5", 20.0)])]), ["", ""]);
    // A humidity that cannot be says nothing.
    assert_eq!(scene.take(&[told("a", 20, &[("pm10", 40.0), ("humidity", 120.0)])]), ["", "out-of-range"]);
    let text = r#"{"id": "c", "kind": "air-station", "domain": "environment", "class": "reference"}"#;
    let document: RegistrationDocument = serde_json::from_str(text).unwrap();
    let registration = Arc::new(Registration::try_from(document).unwrap());
    let entries = vec![(DeviceId::try_from("c").unwrap(), Some(registration))];
    let change = RegistryChange { changed: Timestamp::MIN, author: "test".to_owned(), entries };
    scene.database.turn().commit(Commit { registry: Some(change), ..Commit::default() }).unwrap();
    assert_eq!(scene.take(&[told("c", 0, &[("pm10", 40.0), ("humidity", 92.0)])]), ["", ""]);
}

#[test]
fn a_station_alone_with_its_opinion_is_doubtful_until_it_agrees() {
    let mut scene = Scene::new();
    let names = ["s0", "s1", "s2", "s3", "s4"];
    let mut minute = 0;
    let tell = |scene: &mut Scene, minute: i64, values: [f64; 5]| {
        let values = values.map(|value| [("temperature", value)]);
        let told = names.iter().zip(&values).zip(0..).map(|((device, values), index)| {
            let position = Some((13.36, 38.10 + f64::from(index) * 0.005));
            Told { device, minute, position, values }
        });
        let told: Vec<Told<'_>> = told.collect();
        scene.take(&told)
    };
    let look = |scene: &Scene, minute: i64| {
        let now = Timestamp::from_micros(BEGIN + minute * MINUTE).unwrap();
        scene.neighbourhood.refresh(scene.database.live(), &scene.catalogue, now);
    };
    // Nobody has looked around yet.
    assert_eq!(tell(&mut scene, minute, [20.0, 20.2, 29.0, 19.9, 20.1]), [""; 5]);
    for _round in 0..40 {
        look(&scene, minute);
        minute += 1;
        let drift = 0.01 * (minute % 7) as f64;
        assert_eq!(tell(&mut scene, minute, [20.0, 20.2, 29.0, 19.9, 20.1].map(|value| value + drift)), ["", "", "neighbours", "", ""]);
    }
    look(&scene, minute);
    // It agrees; its way back is a jump, which the next reading confirms.
    assert_eq!(tell(&mut scene, minute + 3, [20.0, 20.2, 20.8, 19.9, 20.1]), ["", "", "spike", "", ""]);
    assert_eq!(tell(&mut scene, minute + 4, [20.1, 20.3, 20.9, 20.0, 20.2]), [""; 5]);
    // History has no neighbours.
    assert_eq!(tell(&mut scene, minute - 60, [20.0, 20.2, 29.0, 19.9, 20.1]), [""; 5]);
}

#[test]
fn a_commit_that_fails_changes_nothing() {
    let mut scene = Scene::new();
    let calm: Vec<(i64, f64)> = minutes(&[20.0, 20.1, 20.0, 20.2, 20.1, 20.0, 20.1]);
    assert_eq!(scene.take_series("temperature", &calm), []);
    let told = || [Told { device: "a", minute: 7, position: None, values: &[("temperature", 35.0)] }];
    let series = SeriesIndex(0);
    let before = scene.checks.history(series);
    for _attempt in 0..3 {
        // Thrown away, as after a commit that failed.
        let step = scene.step(&told());
        assert_eq!(step.taken[0].flags, Flags::SPIKE | Flags::RATE);
        assert_eq!(scene.checks.history(series), before);
    }
    assert_eq!(scene.take(&told()), ["spike rate"]);
    assert_ne!(scene.checks.history(series), before);
}

#[test]
fn after_a_restart_the_history_builds_up_again() {
    let mut scene = Scene::new();
    let calm = [20.0, 20.1, 20.0, 20.2, 20.1, 20.0, 20.1];
    assert_eq!(scene.take_series("pm10", &minutes(&calm)), []);
    scene.restart();
    let later = |from: i64, values: &[f64]| (from..).zip(values.iter().copied()).collect::<Vec<_>>();
    // Nothing is known of what was before, so nothing is held against it.
    assert_eq!(scene.take_series("pm10", &later(7, &[300.0])), []);
    assert_eq!(scene.take_series("pm10", &later(8, &calm)), []);
    assert_eq!(scene.take_series("pm10", &later(15, &[300.0, 20.0])), [(0, "spike".to_owned())]);
}

#[test]
fn what_is_switched_off_is_not_checked() {
    let mut scene = Scene::new();
    let none = Settings { enabled: Vec::new(), error_codes: vec![-200.0] };
    scene.checks = Checks::new(&scene.catalogue, &none, Arc::clone(&scene.neighbourhood));
    let mut readings = minutes(&[20.0, 20.1, 20.0, 20.2, 20.1, 20.0, 20.1, 35.0, -200.0]);
    readings.extend((1..30).map(|hour| (hour * 60, 20.0)));
    assert_eq!(scene.take_series("temperature", &readings), [(8, "out-of-range".to_owned())]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// A series that wanders by less than half of what its property allows is never suspect, whatever its pace.
    #[test]
    fn steady_series_are_never_flagged(
        steps in proptest::collection::vec(-1.0..1.0_f64, 1..200),
        which in any::<prop::sample::Index>(),
        start in 0.3..0.7_f64,
        seconds in 1..1_800_i64,
    ) {
        let catalogue = Catalogue::built_in();
        let checks = Checks::new(&catalogue, &settings(), Arc::default());
        let ruled: Vec<_> = catalogue.iter().filter(|(_index, property)| !property.quality.is_empty()).collect();
        let (index, property) = ruled[which.index(ruled.len())];
        let rules = &property.quality;
        let middle = property.min + start * (property.max - property.min);
        let floors = [rules.spike.map(|rule| rule.floor), rules.rate_max_per_minute, Some((property.max - property.min) / 10.0)];
        let reach = floors.into_iter().flatten().fold(f64::INFINITY, f64::min) / 4.0;
        let mut history = History::default();
        let mut latest = None;
        for (count, step) in (0..).zip(&steps) {
            let time = BEGIN + count * seconds * 1_000_000;
            // Never the same twice in a row.
            let parity = property.resolution * (count % 2) as f64 / 2.0;
            let value = property.round(middle) + reach * step + parity;
            prop_assume!(!rules.error_codes.contains(&value));
            let observation = Observation {
                property: index,
                time: Timestamp::from_micros(time).unwrap(),
                value,
                flags: Flags::empty(),
                position: None,
                district: None,
                original: None,
            };
            let flags = checks.judge(&observation, latest.as_ref(), &mut history);
            prop_assert_eq!(flags, Flags::empty(), "{} {} at {}", property.id, value, count);
            latest = Some(Latest { time, value, flags: 0, position: None });
        }
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the figure is what one wants to read with --nocapture")]
fn an_observation_costs_well_below_a_microsecond() {
    const SERIES: usize = 5_000;
    const ROUNDS: u32 = 40;
    let catalogue = Catalogue::built_in();
    let mut checks = Checks::new(&catalogue, &settings(), Arc::default());
    let properties = ["pm10", "pm2_5", "temperature", "humidity", "noise"].map(|id| catalogue.find(id).unwrap());
    let mut observation = Observation {
        property: properties[0],
        time: Timestamp::from_micros(BEGIN).unwrap(),
        value: 20.0,
        flags: Flags::empty(),
        position: None,
        district: None,
        original: None,
    };
    let mut histories = vec![(SeriesIndex(0), History::default()); SERIES];
    let (mut flagged, mut fastest) = (0, f64::INFINITY);
    for round in 0..ROUNDS {
        let started = Instant::now();
        for (series, slot) in (0..).zip(&mut histories) {
            observation.property = properties[series as usize % properties.len()];
            observation.time = Timestamp::from_micros(BEGIN + i64::from(round) * MINUTE).unwrap();
            // Each tenth value of a series jumps, which costs most.
            let jump = if (round + series) % 10 == 9 { 15.0 } else { 0.0 };
            observation.value = 20.0 + f64::from(round % 3) * 0.1 + jump;
            let mut history = checks.history(SeriesIndex(series));
            flagged += u32::from(!checks.judge(&observation, None, &mut history).is_empty());
            *slot = (SeriesIndex(series), history);
        }
        checks.learn(histories.iter().copied());
        fastest = fastest.min(started.elapsed().as_secs_f64() * 1e9 / SERIES as f64);
    }
    println!("{fastest:.0} ns an observation, {} bytes a series", size_of::<History>());
    assert!(flagged > 0 && size_of::<History>() <= 96);
    // The writer has 5 µs for a value at 200,000 a second; this is far from it also in an unoptimised build.
    assert!(fastest < 2_000.0, "{fastest} ns");
}
