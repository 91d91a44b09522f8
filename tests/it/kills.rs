//! Kills at any moment of everything that is done to what is kept: flush, merge, compaction, rollups, retention, vacuum, backup. Nothing
//! that was acknowledged is lost, nothing is counted twice, rollups say what rows say, and only what is past its time goes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::keep::{doctor, restore};
use crate::support::{Conca, Identity, Setup, Store, conca_command, wait_until};

/// Kills of the service of one city, and of backups of it.
const KILLS: (usize, usize) = (80, 25);

/// What the lake does: a kill is aimed at what was hit least. The last only where something is past its time.
const WORK: [&str; 6] = ["Flush", "Merge", "Compact", "RollUp", "Vacuum", "Retain"];

const DEVICES: [(&str, (f64, f64)); 4] =
    [("a", (13.361, 38.116)), ("b", (13.40, 38.09)), ("c", (13.361, 38.116)), ("outside", (13.36, 38.30))];

/// A gauge, levels, a direction, a counter, a number.
const PROPERTIES: [&str; 5] = ["pm10", "noise", "wind_direction", "energy_active", "vehicle_count"];

/// Told too in the city that forgets: of its days that are over nothing stays.
const FORGOTTEN: &str = "people_count";

/// What was acknowledged.
type Known = BTreeMap<Identity, f64>;

/// A city that somebody tells of without a pause, whether it lives or not.
struct City {
    setup: Setup,
    /// Where it listens, while it lives.
    origin: Mutex<Option<String>>,
    known: Mutex<Known>,
    /// What a backup must hold that is whole, and how many were made.
    backed_up: Mutex<(BTreeSet<Identity>, usize)>,
    /// Whether nobody is killed any more, and nothing new is told.
    is_over: AtomicBool,
    is_silent: AtomicBool,
    target: tempfile::TempDir,
    /// Whether security is kept for a shorter time.
    forgets: bool,
    /// Readings of acknowledged messages.
    told: std::sync::atomic::AtomicI64,
}

fn forgetting(setup: Setup) -> Setup {
    setup.set("lake.kept_of", toml::Table::from_iter([("security".to_owned(), "30d".into())]))
}

/// How many kills fell into what.
type Kills = BTreeMap<String, usize>;

impl City {
    fn new(forgets: bool) -> Self {
        let setup = Setup::new().environment("CONCA_LOG", "warn,conca=info,conca::store::keeper=debug");
        let setup = setup.set("lake.flush_after", "100ms").set("lake.merge_every", "700ms").set("lake.maintain_every", "200ms");
        let setup = setup.set("query.timeout", "500ms").set("sql.timeout", "500ms").set("lake.vacuum_after", "1s");
        let setup = if forgets { forgetting(setup) } else { setup };
        Self {
            forgets,
            told: std::sync::atomic::AtomicI64::new(0),
            setup,
            origin: Mutex::default(),
            known: Mutex::default(),
            backed_up: Mutex::default(),
            is_over: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
            target: tempfile::tempdir().unwrap(),
        }
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    /// Sends messages, each until it is acknowledged.
    fn tell(&self, random: &mut fastrand::Rng) {
        let _silent = Raised(&self.is_silent);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = reqwest::Client::new();
        while self.goes_on() {
            let (device, new) = self.invent(random);
            let (_name, (lon, lat)) = DEVICES.into_iter().find(|(name, _position)| *name == device).unwrap();
            let mut readings: BTreeMap<i64, serde_json::Map<String, Value>> = BTreeMap::new();
            for ((_device, property, time), value) in &new {
                readings.entry(time / 1_000).or_default().insert(property.clone(), json!(value));
            }
            let body: Vec<Value> = readings
                .into_iter()
                .map(|(time, readings)| json!({ "time": time, "position": { "lon": lon, "lat": lat }, "readings": readings }))
                .collect();
            let body = Value::Array(body).to_string();
            loop {
                let Some(origin) = self.origin.lock().clone() else {
                    if !self.goes_on() {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                let address = format!("{origin}/v1/messages?topic=conca/v1/environment/air-station/{device}");
                let request = client.post(address).header("content-type", "application/json").body(body.clone());
                let answer = runtime.block_on(async { request.send().await.map(|answer| answer.status().as_u16()) });
                match answer {
                    Ok(200) => break,
                    // Without an answer it may be there or not: it is sent again.
                    Err(_broken) => {}
                    Ok(code) => panic!("{code} for {body}"),
                }
            }
            self.told.fetch_add(i64::try_from(new.len()).unwrap(), Ordering::Relaxed);
            self.known.lock().extend(new);
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Readings of a device: new ones of now and of days that are over, the same again, other values for what was told.
    fn invent(&self, random: &mut fastrand::Rng) -> (&'static str, Known) {
        let (device, _position) = DEVICES[random.usize(..DEVICES.len())];
        // Five local days, of which the third has 23 hours.
        let start = "2026-03-26T23:00:00Z".parse::<jiff::Timestamp>().unwrap().as_microsecond();
        let mut new = Known::new();
        for _reading in 0..random.usize(1..6) {
            let time = match random.u8(..8) {
                0 => jiff::Timestamp::now().as_millisecond() * 1_000,
                _ => start + random.i64(0..119 * 3_600) * 1_000_000,
            };
            for property in PROPERTIES.into_iter().chain(self.forgets.then_some(FORGOTTEN)) {
                new.insert((device.to_owned(), property.to_owned(), time), f64::from(random.u16(..360)));
            }
        }
        let known = self.known.lock();
        let of_device = known.range((device.to_owned(), String::new(), 0)..(format!("{device}~"), String::new(), 0));
        for (identity, value) in of_device.skip(random.usize(..=known.len() / DEVICES.len())).take(4) {
            let value = if random.bool() { *value } else { f64::from(random.u16(..360)) };
            new.insert(identity.clone(), value);
        }
        (device, new)
    }

    /// Lives and kills: how many fell into what.
    fn live_and_die(&self, random: &mut fastrand::Rng, kills: &Mutex<Kills>) {
        for kill in 0..KILLS.0 {
            let conca = self.setup.start_unready();
            *self.origin.lock() = Some(conca.origin());
            let work = if self.forgets { WORK.as_slice() } else { &WORK[..5] };
            let rarest = work.iter().min_by_key(|work| kills.lock().get(**work).copied()).copied();
            let deadline = Instant::now() + Duration::from_millis(2_500);
            while Instant::now() < deadline && !rarest.is_some_and(|rarest| going_on(&conca.log()).contains(&rarest)) {
                std::thread::sleep(Duration::from_millis(1));
            }
            // Most of it takes a few milliseconds, some of it many.
            std::thread::sleep(Duration::from_micros(random.u64(..100).pow(2)));
            *self.origin.lock() = None;
            let log = conca.killed();
            assert_eq!(log.matches("ERROR").count(), 0, "{log}");
            let work = going_on(&log);
            let phase = rarest.filter(|rarest| work.contains(rarest)).or_else(|| work.first().copied()).unwrap_or("between");
            *kills.lock().entry(phase.to_owned()).or_default() += 1;
            // As it lies there, before anything puts it right.
            if kill % 10 == 9 {
                assert_eq!(doctor(&self.setup), [], "after a kill in {phase}");
            }
        }
        // Once more: whatever was told without an answer is told again.
        let conca = self.setup.start_unready();
        *self.origin.lock() = Some(conca.origin());
        self.is_over.store(true, Ordering::Relaxed);
        wait_until("everything told is acknowledged", || self.is_silent.load(Ordering::Relaxed));
        conca.stop();
    }

    /// Backups, of which most are killed.
    fn back_up(&self, random: &mut fastrand::Rng, kills: &Mutex<Kills>) {
        let mut killed = 0;
        while self.goes_on() {
            let (is_to_end, known) = (killed % 3 == 2 || killed >= KILLS.1, self.known.lock().keys().cloned().collect());
            let mut command = conca_command();
            command.arg("backup").arg(self.setup.file()).arg(self.target.path()).stdout(Stdio::null()).stderr(Stdio::piped());
            if is_to_end {
                let output = command.output().unwrap();
                let text = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{text}");
                let mut backed_up = self.backed_up.lock();
                *backed_up = (known, backed_up.1 + 1);
                drop(backed_up);
                std::thread::sleep(Duration::from_millis(500));
            }
            if killed < KILLS.1 {
                let mut child = command.spawn().unwrap();
                std::thread::sleep(Duration::from_millis(random.u64(..250)));
                if child.try_wait().unwrap().is_none() {
                    child.kill().unwrap();
                    killed += 1;
                    *kills.lock().entry("backup".to_owned()).or_default() += 1;
                }
                child.wait().unwrap();
            }
        }
    }
}

/// What the lake is doing, by its log.
fn going_on(log: &str) -> Vec<&'static str> {
    let count = |text: &str, work: &str| log.matches(&format!("{text}{work}")).count();
    let is_going_on = |work: &&str| count("the lake begins work=", work) > count("the lake is done work=", work);
    WORK.into_iter().filter(is_going_on).collect()
}

/// What is asked of whole days of a property, each question once of rollups and once of rows.
#[track_caller]
fn check_answers(conca: &Conca) -> usize {
    let mut compared = 0;
    for (property, functions) in [
        ("pm10", ["count", "mean", "min", "max", "stddev", "last"].as_slice()),
        ("noise", ["mean", "first"].as_slice()),
        ("wind_direction", ["mean"].as_slice()),
        ("energy_active", ["increase"].as_slice()),
        ("vehicle_count", ["sum", "count"].as_slice()),
    ] {
        for function in functions {
            for (window, zone, quality) in [("1d", "Europe/Rome", "trusted"), ("1h", "UTC", "any"), ("15m", "Asia/Kathmandu", "trusted")] {
                if (*function, quality) == ("increase", "any") {
                    continue;
                }
                let asked = format!("/v1/aggregates?property={property}&in_time={function}&window={window}&zone={zone}&quality={quality}");
                let asked = format!("{asked}&group_by=device&explain=true&from=2026-03-26T23:00:00Z&to=2026-03-31T22:00:00Z");
                let (code, rolled_up) = conca.get_json(&asked);
                // Where something was observed only rows know.
                let (other_code, rows) = conca.get_json(&format!("{asked}&bbox=-180,-90,180,90"));
                assert_eq!((code, other_code), (200, 200), "{asked}: {rolled_up:#} {rows:#}");
                let sources = |answer: &Value| -> BTreeSet<String> {
                    let stretches = answer["explanation"]["stretches"].as_array().unwrap();
                    stretches.iter().map(|stretch| stretch["source"].as_str().unwrap().to_owned()).collect()
                };
                assert_eq!((sources(&rolled_up).len(), sources(&rows)), (1, BTreeSet::from(["rows".to_owned()])), "{asked}");
                assert!(sources(&rolled_up).iter().all(|source| source.starts_with("rollup-")), "{asked}: {rolled_up:#}");
                compared += compare(&rolled_up, &rows, &asked);
            }
        }
    }
    compared
}

/// Buckets with values, compared.
#[track_caller]
fn compare(one: &Value, other: &Value, what: &str) -> usize {
    let buckets = |answer: &Value| -> BTreeMap<(String, String), (Option<f64>, Option<u64>)> {
        let series = answer["series"].as_array().unwrap();
        let each = series.iter().flat_map(|series| {
            let device = series["device"].as_str().unwrap();
            let buckets = series["buckets"].as_array().unwrap().iter();
            buckets.filter(|bucket| bucket["count"] != 0).map(move |bucket| {
                let start = bucket["start"].as_str().unwrap().to_owned();
                ((device.to_owned(), start), (bucket["value"].as_f64(), bucket["count"].as_u64()))
            })
        });
        each.collect()
    };
    let (one, other) = (buckets(one), buckets(other));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>(), "{what}");
    for (bucket, (value, count)) in &one {
        let (other_value, other_count) = other[bucket];
        let is_same = match (*value, other_value) {
            (Some(value), Some(other)) => (value - other).abs() <= 1e-9 * other.abs().max(1.0),
            (value, other) => value == other,
        };
        assert!(is_same && *count == other_count, "{what}: {bucket:?} is {value:?} of {count:?}, not {other_value:?} of {other_count:?}");
    }
    one.len()
}

#[test]
fn two_hundred_kills_lose_nothing_and_double_nothing() {
    let kills = Mutex::new(Kills::new());
    let started = Instant::now();
    let cities = [City::new(false), City::new(true)];
    std::thread::scope(|scope| {
        for (city, seed) in cities.iter().zip(1..) {
            let kills = &kills;
            scope.spawn(move || city.tell(&mut fastrand::Rng::with_seed(seed)));
            scope.spawn(move || {
                wait_until("there is something to back up", || city.setup.data().join("lake").join("_delta_log").is_dir());
                city.back_up(&mut fastrand::Rng::with_seed(seed + 100), kills);
            });
            scope.spawn(move || {
                let _over = Raised(&city.is_over);
                city.live_and_die(&mut fastrand::Rng::with_seed(seed + 200), kills);
            });
        }
    });
    let kills = kills.into_inner();
    let count: usize = kills.values().sum();
    eprintln!("{count} kills in {:?}: {kills:?}", started.elapsed());
    assert!(count >= 200, "{kills:?}");
    for phase in WORK.into_iter().chain(["backup"]) {
        assert!(kills.get(phase).is_some_and(|kills| *kills >= 5), "{phase}: {kills:?}");
    }
    for city in &cities {
        check_city(city);
    }
}

/// Raised at the end, also where a test fails.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn check_city(city: &City) {
    let known = city.known.lock();
    let conca = city.setup.start_unready();
    wait_until("everything is compared and rolled up but for today", || {
        let (_code, status) = conca.get_json("/status");
        let touched = status["lake"]["rollups"]["touched"].as_u64().unwrap_or(u64::MAX);
        let log = &status["log"];
        status["ledger"]["total"]["pending"] == 0 && log["rows_ordered"] == 0 && touched <= PROPERTIES.len() as u64 + 1
    });
    let past = format!("/v1/observations?property={FORGOTTEN}&quality=any&from=2026-03-26T23:00:00Z&to=2026-03-31T22:00:00Z");
    wait_until("what is past its time is gone", || conca.get_json(&past).1["observations"] == json!([]));
    let compared = check_answers(&conca);
    conca.stop();
    assert_eq!(doctor(&city.setup), []);
    check_stored(city, &known);
    let (backed_up, backups) = &*city.backed_up.lock();
    eprintln!("{} values stored, {compared} buckets answered from rollups and from rows, {backups} backups", known.len());
    let restored = if city.forgets { forgetting(Setup::new()) } else { Setup::new() };
    let (is_ok, text) = restore(city.target.path(), &restored.data());
    assert!(is_ok, "{text}");
    assert_eq!(doctor(&restored), []);
    let rows: BTreeSet<Identity> = Store::open(&restored.data()).rows().into_keys().collect();
    let backed_up: BTreeSet<Identity> = backed_up.iter().filter(|identity| !is_past(identity)).cloned().collect();
    assert!(backed_up.is_subset(&rows), "{} of {} are in the backup", backed_up.intersection(&rows).count(), backed_up.len());
}

/// Whether what was observed is past its time, in the city that forgets.
fn is_past((_device, property, time): &Identity) -> bool {
    property == FORGOTTEN && *time < "2026-04-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

/// What was acknowledged is there once, with the last value that was told, and the ledger says so.
fn check_stored(city: &City, known: &Known) {
    let store = Store::open(&city.setup.data());
    let rows = store.rows();
    let kept = known.iter().filter(|(identity, _value)| !is_past(identity));
    let missing: Vec<_> = kept
        .filter(|(identity, value)| rows.get(*identity) != Some(value))
        .map(|(identity, value)| (identity, value, rows.get(identity)))
        .collect();
    let strange: Vec<_> = rows.keys().filter(|identity| !known.contains_key(*identity) || is_past(identity)).take(5).collect();
    assert!(
        missing.is_empty() && strange.is_empty(),
        "{} missing: {:?}, strange: {strange:?}",
        missing.len(),
        &missing[..missing.len().min(200)]
    );
    let counts = store.ledger();
    // What was told again for want of an answer counts twice.
    let told = city.told.load(Ordering::Relaxed);
    assert!(counts.readings >= told, "{told}: {counts:?}");
    let known = i64::try_from(known.len()).unwrap();
    // What is told again once it is forgotten is new.
    assert!(counts.pending == 0 && (counts.stored == known || (city.forgets && counts.stored > known)), "{known}: {counts:?}");
    assert!(counts.corrected > 0 && counts.duplicate > 0, "{counts:?}");
}
