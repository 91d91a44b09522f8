//! Real data sets, as they are: with gaps, errors and units of other countries.
//!
//! They lie beside the repository, or in the folder that `CONCA_MATERIAL` names. Where they are not, the tests here are
//! left out and say so; in CI they must be there.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use conca::model::{Districts, Position};
use conca_simulators::publisher;
use conca_simulators::replay::{self, Mapping, Report, Settings, Speed};
use tokio_util::sync::CancellationToken;

use crate::support::{Broker, Conca, Identity, Setup, Store, wait_until};

/// A file of the material; none where there is no material and that is allowed.
pub(crate) fn material(test: &str, path: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/material");
    let folder = std::env::var_os("CONCA_MATERIAL").map_or(beside, PathBuf::from);
    if folder.is_dir() {
        return Some(folder.join(path));
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must have the material: there is no folder {}", folder.display());
    // Past the capture of tests that succeed: what is left out must be seen.
    drop(writeln!(std::io::stderr(), "left out: {test}, since there is no folder {}", folder.display()));
    None
}

fn replay(broker: &Broker, data: &Path, mapping: &str, rows_max: u64) -> Report {
    let mapping = Path::new(env!("CARGO_MANIFEST_DIR")).join("simulators/mappings").join(mapping);
    let settings = Settings {
        broker: publisher::Broker {
            host: broker.address().ip().to_string(),
            port: broker.address().port(),
            credentials: None,
            connect_timeout: Duration::from_secs(10),
        },
        data: data.to_owned(),
        mapping: Mapping::load(&mapping).unwrap(),
        speed: Speed::Max,
        rows_max: Some(rows_max),
    };
    tokio::runtime::Runtime::new().unwrap().block_on(replay::run(settings, CancellationToken::new())).unwrap()
}

/// Replays a data set twice, `ask`s after each time, and gets the same answer to the last byte; gives what is stored, and that answer.
fn check<T: PartialEq + std::fmt::Debug>(
    data: &Path,
    mapping: &str,
    rows_max: u64,
    ask: impl Fn(&Conca) -> T,
) -> (BTreeMap<Identity, f64>, T) {
    let broker = Broker::start();
    let setup = Setup::of(&broker).set("lake.flush_after", "1s").set("lake.merge_every", "1s");
    let conca = setup.start();
    let looks = setup.looks();
    let mut received = 0;
    let mut settled = || {
        let report = replay(&broker, data, mapping, rows_max);
        received += i64::try_from(report.messages.acknowledged).unwrap();
        assert_eq!(report.messages.published, report.messages.acknowledged);
        looks.ledger_of(received);
        wait_until("late rows are compared", || looks.ledger().pending == 0);
        (report, looks.ledger(), ask(&conca))
    };
    let (report, first, answer) = settled();
    assert_eq!(first.readings, i64::try_from(report.values).unwrap());
    assert!(first.stored > 10_000 && first.quarantined == 0, "{first:?}");
    let (_report, second, again) = settled();
    assert!(again == answer, "a second replay changes an answer");
    // The same again: known to the last value.
    assert_eq!((second.stored, second.corrected), (first.stored, first.corrected));
    assert_eq!(second.duplicate - first.duplicate, first.readings);
    conca.stop();
    let rows = Store::open(&setup.data()).rows();
    assert_eq!(i64::try_from(rows.len()).unwrap(), first.stored);
    (rows, answer)
}

/// Mean and number of the values of a column of the Italian air, by the local start of their hour, day or month: worked out
/// from the file alone.
fn means(data: &Path, column: usize, size: &str) -> BTreeMap<String, (f64, u64)> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(data).unwrap()).read_to_string(&mut text).unwrap();
    let rome = jiff::tz::TimeZone::get("Europe/Rome").unwrap();
    let mut sums: BTreeMap<String, (f64, u64)> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        // Empty lines of separators close the file; -200 stands for what was not measured.
        let Some(value) = fields[column].parse::<f64>().ok().filter(|value| *value > -200.0) else { continue };
        let clock = jiff::civil::DateTime::strptime("%d/%m/%Y %H:%M:%S", format!("{} {}", fields[0], fields[1])).unwrap();
        // Winter's time all year.
        let time = jiff::tz::offset(1).to_timestamp(clock).unwrap();
        // To the whole hour, or back to the midnight before; Rome's midnights are there once.
        let start = match size {
            "1h" => time,
            "1d" => rome.to_timestamp(rome.to_datetime(time).date().at(0, 0, 0, 0)).unwrap(),
            _ => rome.to_timestamp(rome.to_datetime(time).date().first_of_month().at(0, 0, 0, 0)).unwrap(),
        };
        let sum = sums.entry(start.display_with_offset(rome.to_offset(start)).to_string()).or_default();
        *sum = (sum.0 + value, sum.1 + 1);
    }
    sums.into_iter().map(|(start, (sum, count))| (start, (sum / count as f64, count))).collect()
}

/// Holds an answer against expected means: nothing is missing, nothing made up, and a gap says that it is one.
fn check_means(answer: &serde_json::Value, expected: &BTreeMap<String, (f64, u64)>) {
    let buckets = answer["series"][0]["buckets"].as_array().unwrap();
    let mut found = 0;
    for bucket in buckets {
        let (count, coverage) = (bucket["count"].as_u64().unwrap(), bucket["coverage"].as_f64());
        match (bucket["value"].as_f64(), expected.get(bucket["start"].as_str().unwrap())) {
            (None, None) => assert_eq!((count, coverage.unwrap_or(0.0)), (0, 0.0), "{bucket}"),
            (Some(value), Some((mean, expected_count))) => {
                assert!(
                    (value - mean).abs() <= 1e-9 * mean.abs().max(1.0) && count == *expected_count,
                    "{bucket}: {mean} of {expected_count}"
                );
                assert!(coverage.is_some_and(|coverage| coverage > 0.0), "{bucket}");
                found += 1;
            }
            (value, expected) => panic!("{bucket}: {value:?} instead of {expected:?}"),
        }
    }
    assert_eq!(found, expected.len());
}

#[test]
fn air_in_an_italian_city_2004() {
    let Some(data) = material("material::air_in_an_italian_city_2004", "datasets/uci-airquality-italy-2004.csv.gz") else { return };
    let sizes = ["1h", "1d", "1mo"];
    let properties = [("co", 2), ("no2", 9), ("temperature", 12), ("humidity", 13)];
    let questions = properties.iter().flat_map(|(property, _column)| sizes.map(|size| {
        format!("/v1/aggregates?property={property}&window={size}&in_time=mean&zone=Europe/Rome&from=2004-03-01T00:00:00%2B01:00&to=2005-05-01T00:00:00%2B02:00&group_by=device&quality=any")
    }));
    let questions: Vec<String> = questions.collect();
    let (rows, answers) = check(&data, "uci-airquality-italy-2004.toml", u64::MAX, |conca| {
        questions.iter().map(|question| conca.get(question)).collect::<Vec<_>>()
    });
    let mut answers = answers.into_iter();
    for (_property, column) in properties {
        for size in sizes {
            let (code, answer) = answers.next().unwrap();
            assert_eq!(code, 200, "{answer}");
            check_means(&serde_json::from_str(&answer).unwrap(), &means(&data, column, size));
        }
    }
    let at = |property: &str, time: &str| {
        let time: jiff::Timestamp = time.parse().unwrap();
        rows.get(&("uci-airquality-italy".to_owned(), property.to_owned(), time.as_microsecond())).copied()
    };
    assert_eq!((at("co", "2004-03-10T17:00:00Z"), at("temperature", "2004-03-10T18:00:00Z")), (Some(2.6), Some(13.3)));
}

#[test]
fn weather_in_customary_units_2013() {
    let Some(data) = material("material::weather_in_customary_units_2013", "datasets/nycflights13-weather-hourly-2013.csv.gz") else {
        return;
    };
    let (rows, ()) = check(&data, "nycflights13-weather-hourly-2013.toml", 4_000, |_conca| ());
    let time: jiff::Timestamp = "2013-01-01T06:00:00Z".parse().unwrap();
    let at = |property: &str| rows.get(&("asos-EWR".to_owned(), property.to_owned(), time.as_microsecond())).copied();
    // 39.02 °F.
    assert_eq!(at("temperature"), Some(3.9));
}

#[test]
fn districts_hold_the_same_places_whichever_way_their_rings_run() {
    const TEST: &str = "material::districts_hold_the_same_places_whichever_way_their_rings_run";
    let Some(path) = material(TEST, "geo/palermo_districts_approximate.geojson") else { return };
    let text = std::fs::read_to_string(path).unwrap();
    let mut reversed: serde_json::Value = serde_json::from_str(&text).unwrap();
    for feature in reversed["features"].as_array_mut().unwrap() {
        let depth = if feature["geometry"]["type"] == "Polygon" { 1 } else { 2 };
        reverse_rings(&mut feature["geometry"]["coordinates"], depth);
    }
    let (one, other) = (Districts::parse(&text).unwrap(), Districts::parse(&reversed.to_string()).unwrap());
    let mut found = 0;
    for step in 0..10_000_i32 {
        let position = Position::new(13.2 + f64::from(step % 100) * 0.003, 38.0 + f64::from(step / 100) * 0.003).unwrap();
        assert_eq!(one.find(position), other.find(position), "{position:?}");
        found += usize::from(one.find(position).is_some());
    }
    assert!(found > 1_000, "only {found} of 10,000 places lie in a district");
}

/// Lets every ring run the other way: rings lie so many levels down.
fn reverse_rings(coordinates: &mut serde_json::Value, depth: u8) {
    let parts = coordinates.as_array_mut().unwrap();
    match depth {
        0 => parts.reverse(),
        _ => parts.iter_mut().for_each(|part| reverse_rings(part, depth - 1)),
    }
}
