//! Backup, restore and examination: what is kept is whole, also beside live intake, and what is not is found and named.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use conca::model::Timestamp;
use conca::state::Reader;
use serde_json::{Value, json};

use crate::support::{Broker, Conca, Identity, Load, Outgoing, Publisher, Setup, Store, conca_command, wait_until};

/// Runs the program: whether it succeeded, and all that it said.
fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> (bool, String) {
    let output = conca_command().args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.success(), text)
}

#[track_caller]
fn backup(setup: &Setup, target: &Path) -> String {
    let (is_ok, text) = run(["backup".as_ref(), setup.file().as_os_str(), target.as_os_str()]);
    assert!(is_ok, "{text}");
    text
}

pub(crate) fn restore(backup: &Path, data: &Path) -> (bool, String) {
    run(["restore".as_ref(), backup.as_os_str(), data.as_os_str()])
}

/// What the doctor finds wrong: name of the check, and its findings in one text. None where everything is well.
pub(crate) fn doctor(setup: &Setup) -> Vec<(String, String)> {
    let output = conca_command().args(["doctor".as_ref(), setup.file().as_os_str(), "--json".as_ref()]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let checks = report["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 9, "{report:#}");
    let wrong: Vec<(String, String)> = checks
        .iter()
        .filter(|check| check["outcome"] == "wrong")
        .map(|check| {
            assert!(check["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{check:#}");
            (check["name"].as_str().unwrap().to_owned(), check["findings"].to_string())
        })
        .collect();
    assert_eq!(output.status.code(), Some(i32::from(!wrong.is_empty())), "{report:#}");
    wrong
}

/// The identities that messages tell of.
fn identities(messages: &[Outgoing]) -> BTreeSet<Identity> {
    let mut identities = BTreeSet::new();
    for message in messages {
        let payload: Value = serde_json::from_slice(&message.payload).unwrap();
        let device = message.topic.rsplit('/').next().unwrap();
        for property in payload["readings"].as_object().unwrap().keys() {
            identities.insert((device.to_owned(), property.clone(), payload["time"].as_i64().unwrap() * 1_000));
        }
    }
    identities
}

/// Everything moves on quickly.
fn busy(broker: &Broker) -> Setup {
    Setup::of(broker).set("lake.flush_after", "300ms").set("lake.merge_every", "700ms").set("lake.maintain_every", "1s")
}

#[test]
fn a_backup_beside_live_intake_is_whole_and_goes_on_elsewhere() {
    let broker = Broker::start();
    let setup = busy(&broker);
    let conca = setup.start();
    let looks = setup.looks();
    let target = tempfile::tempdir().unwrap();
    // In order, then late ones, then corrections and repetitions among them.
    let (early, late, last) = (Load::new(20, 60, 1), Load::new(20, 60, 0), Load::new(20, 60, 2));
    let mut messages = early.messages.clone();
    messages.extend(late.messages.iter().cloned());
    messages.extend(early.messages.iter().step_by(7).cloned());
    messages.extend(last.messages.iter().cloned());
    let sender = {
        let (address, messages) = (broker.address(), messages.clone());
        std::thread::spawn(move || Publisher::connect(address).send_slowly(&messages, 400))
    };
    let mut backups = 0;
    let mut received = 0;
    while !sender.is_finished() || backups < 3 {
        received = looks.ledger().received;
        backup(&setup, target.path());
        assert_eq!(doctor(&setup), [], "beside the running service");
        backups += 1;
    }
    sender.join().unwrap();
    assert!(backups >= 3, "{backups}");
    conca.kill();

    let elsewhere = Broker::start();
    let restored = busy(&elsewhere);
    let (is_ok, text) = restore(target.path(), &restored.data());
    assert!(is_ok && text.contains("everything acknowledged before"), "{text}");
    assert_eq!(doctor(&restored), []);
    let acknowledged = identities(&messages[..usize::try_from(received).unwrap()]);
    assert!(acknowledged.len() > 2_000, "{}", acknowledged.len());
    {
        let store = Store::open(&restored.data());
        let rows: BTreeSet<Identity> = store.rows().into_keys().collect();
        assert!(acknowledged.is_subset(&rows), "{} of {} are there", acknowledged.intersection(&rows).count(), acknowledged.len());
        store.settle();
        assert_eq!(store.ledger().pending, 0);
        assert_eq!(usize::try_from(store.ledger().stored).unwrap(), store.rows().len());
    }
    assert_eq!(doctor(&restored), []);

    // It goes on: everything once more, most of it repeated.
    let conca = restored.start();
    let before = restored.looks().ledger().received;
    Publisher::connect(elsewhere.address()).send(&messages);
    restored.looks().ledger_of(before + i64::try_from(messages.len()).unwrap());
    conca.stop();
    assert_eq!(doctor(&restored), []);
    let store = Store::open(&restored.data());
    store.settle();
    assert!(store.rows().into_keys().collect::<BTreeSet<_>>() == identities(&messages));
    assert_eq!(usize::try_from(store.ledger().stored).unwrap(), store.rows().len());
    assert_eq!(store.ledger().pending, 0);
}

/// A stopped service's data: files of the table, and both lanes of the log.
fn stopped() -> Setup {
    let broker = Broker::start();
    let setup = Setup::of(&broker).set("lake.flush_after", "1h").set("lake.merge_every", "1h").set("lake.maintain_every", "1h");
    let conca = setup.start();
    let mut publisher = Publisher::connect(broker.address());
    publisher.send(&Load::new(10, 200, 1).messages);
    setup.looks().ledger_of(2_000);
    conca.stop();
    {
        let store = Store::open(&setup.data());
        store.flush().unwrap();
    }
    let conca = setup.start();
    publisher.send(&Load::new(5, 3, 0).messages);
    publisher.send(&Load::new(5, 3, 2).messages);
    setup.looks().ledger_of(2_030);
    conca.stop();
    setup
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

fn copy_folder(from: &Path, to: &Path) {
    for file in files_below(from) {
        let copy = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(file, copy).unwrap();
    }
}

/// A file of the observations.
fn parquet_below(folder: &Path) -> PathBuf {
    let files = files_below(folder);
    files
        .into_iter()
        .filter(|file| !file.to_string_lossy().contains("rollup"))
        .find(|file| file.extension() == Some("parquet".as_ref()) && !file.to_string_lossy().contains("checkpoint"))
        .unwrap()
}

fn truncate(file: &Path) {
    let content = std::fs::read(file).unwrap();
    std::fs::write(file, &content[..content.len() - 1]).unwrap();
}

fn flip(file: &Path, at: usize) {
    let mut content = std::fs::read(file).unwrap();
    content[at] ^= 1;
    std::fs::write(file, content).unwrap();
}

fn in_state(data: &Path, script: &str) {
    rusqlite::Connection::open(data.join("state.sqlite")).unwrap().execute_batch(script).unwrap();
}

/// What the doctor finds in a copy of what is whole, once it is damaged: names of checks, and what their findings say.
#[track_caller]
fn check_damage(whole: &Setup, damage: &dyn Fn(&Path), expected: &[(&str, &str)]) {
    let setup = Setup::new();
    copy_folder(&whole.data(), &setup.data());
    damage(&setup.data());
    let wrong = doctor(&setup);
    let names: Vec<&str> = wrong.iter().map(|(name, _findings)| name.as_str()).collect();
    assert_eq!(names, expected.iter().map(|(name, _text)| *name).collect::<Vec<_>>(), "{wrong:#?}");
    for ((name, findings), (_name, text)) in wrong.iter().zip(expected) {
        assert!(findings.contains(text), "{name}: {findings} lacks {text}");
    }
}

#[test]
fn the_doctor_finds_and_names_what_is_wrong() {
    let whole = stopped();
    assert_eq!(doctor(&whole), []);
    let check = |damage: &dyn Fn(&Path), expected: &[(&str, &str)]| check_damage(&whole, damage, expected);
    let file = parquet_below(&whole.data().join("lake"));
    let name = file.file_name().unwrap().to_str().unwrap();
    let damaged = |data: &Path| parquet_below(&data.join("lake"));
    check(&|data| truncate(&damaged(data)), &[("files", &format!("{name} has "))]);
    check(&|data| std::fs::remove_file(damaged(data)).unwrap(), &[("files", &format!("{name} is missing"))]);
    let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
    for at in [0, 100, length / 2, length - 20] {
        check(&|data| flip(&damaged(data), at), &[("files", &format!("{name} has changed"))]);
    }
    // Five devices, three rounds, two values: in one or more commits.
    let newest_rows = "DELETE FROM log_ordered WHERE sequence = (SELECT max(sequence) FROM log_ordered)";
    check(&|data| in_state(data, newest_rows), &[("values", " values too few: 4000 in the table")]);
    check(&|data| in_state(data, "DELETE FROM log_late"), &[("ledger", "has 30 values pending, in the log 0 wait")]);
    let block = "UPDATE log_late SET block = x'ff'";
    check(&|data| in_state(data, block), &[("ledger", "has 30 values pending, in the log 0 wait"), ("log", "of log_late cannot be read")]);
    let commit = "DELETE FROM batch WHERE sequence = (SELECT min(sequence) + 1 FROM batch)";
    check(&|data| in_state(data, commit), &[("log", "commits 2 to 2 are missing")]);
    check(
        &|data| in_state(data, "UPDATE ledger SET stored = stored + 1"),
        &[("ledger", "does not balance"), ("values", "1 values too few")],
    );
    check(&|data| flip(&data.join("state.sqlite"), 0), &[("state database", "not a database")]);
    // An older table: of its last commit nothing is left.
    let last_commit = |data: &Path| {
        let log = files_below(&data.join("lake").join("_delta_log"));
        log.into_iter().rfind(|file| file.extension() == Some("json".as_ref())).unwrap()
    };
    check(
        &|data| std::fs::remove_file(last_commit(data)).unwrap(),
        &[("positions", "but the log has forgotten it up to"), ("values", "4000 values too few")],
    );
    // A file that the table has twice.
    check(
        &|data| {
            let commit = last_commit(data);
            let text = std::fs::read_to_string(&commit).unwrap();
            let mut add: Value = serde_json::from_str(text.lines().find(|line| line.starts_with("{\"add\"")).unwrap()).unwrap();
            let path = add["add"]["path"].as_str().unwrap().to_owned();
            let twin = path.replace(".parquet", "-twin.parquet");
            std::fs::copy(data.join("lake").join(&path), data.join("lake").join(&twin)).unwrap();
            add["add"]["path"] = twin.into();
            let next =
                commit.with_file_name(format!("{:020}.json", commit.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap() + 1));
            std::fs::write(next, add.to_string()).unwrap();
        },
        &[("duplicates", "first pm10 of station-000 at "), ("values", " values too many")],
    );
}

/// Readings of some minutes of two days that are long over, also of a property that is added up as a direction, of a counter and of a state.
fn readings(minutes: std::ops::Range<i64>, add: f64) -> Vec<Outgoing> {
    let midnight = "2026-03-20T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond();
    let of = |minute: i64, station| {
        let value = (minute % 90) as f64 + add;
        let readings = [
            ("pm10", value + 0.1),
            ("noise", value),
            ("wind_direction", value * 3.0),
            ("energy_active", minute as f64),
            ("lamp_state", 1.0),
        ];
        Outgoing::readings(station, midnight + minute * 60_000, &readings)
    };
    minutes.step_by(7).flat_map(|minute| ["a", "b", "c"].map(|station| of(minute, station))).collect()
}

/// Local days and properties that are not rolled up, or anew.
fn touched(conca: &Conca) -> Value {
    let (_code, status) = conca.get_json("/status");
    let is_settled = status["ledger"]["total"]["pending"] == 0 && status["log"]["rows_ordered"] == 0;
    if is_settled { status["lake"]["rollups"]["touched"].clone() } else { Value::Null }
}

/// A stopped service's data: two days that are rolled up.
fn rolled_up(broker: &Broker) -> Setup {
    let setup = busy(broker);
    let conca = setup.start();
    let messages = readings(0..2_000, 0.0);
    Publisher::connect(broker.address()).send(&messages);
    // Five values each.
    let rows = 5 * messages.len();
    wait_until("it is rolled up", || touched(&conca) == 0 && conca.get_json("/status").1["lake"]["rows"] == rows);
    conca.stop();
    setup
}

#[test]
fn the_doctor_finds_and_names_rollups_that_are_not_what_the_observations_come_to() {
    let broker = Broker::start();
    let whole = rolled_up(&broker);
    assert_eq!(doctor(&whole), []);
    let of_hours = |data: &Path| {
        let files = files_below(&data.join("lake-rollup").join("tier=1h"));
        files.into_iter().find(|file| file.extension() == Some("parquet".as_ref())).unwrap()
    };
    let name = of_hours(&whole.data()).file_name().unwrap().to_str().unwrap().to_owned();
    let check = |damage: &dyn Fn(&Path), text: &str| check_damage(&whole, damage, &[("rollups", text)]);
    check(&|data| flip(&of_hours(data), 500), &format!("{name} has changed"));
    check(&|data| truncate(&of_hours(data)), &format!("{name} has "));
    check(&|data| std::fs::remove_file(of_hours(data)).unwrap(), &format!("{name} is missing"));
    check(&|data| std::fs::remove_dir_all(data.join("lake-rollup")).unwrap(), "their table is missing");
    // The table of rollups is older than it should be: of its last commit nothing is left.
    let last_commit = |data: &Path| {
        let log = files_below(&data.join("lake-rollup").join("_delta_log"));
        log.into_iter().rfind(|file| std::fs::read_to_string(file).is_ok_and(|text| text.contains("{\"add\""))).unwrap()
    };
    check(
        &|data| std::fs::remove_file(last_commit(data)).unwrap(),
        "1d: 3 buckets are not what the observations come to, first trusted of a from 2026-03-",
    );
    // Where the observations are damaged, they say nothing of rollups.
    let observations = |data: &Path| truncate(&parquet_below(&data.join("lake")));
    check_damage(&whole, &observations, &[("files", " has ")]);

    // Another value, of which the rollups know nothing: told only where nobody says that they are out of date.
    let later = whole.set("lake.maintain_every", "1h");
    let conca = later.start();
    Publisher::connect(broker.address()).send(&readings(0..8, 5.0));
    wait_until("it is in the table", || touched(&conca) == 5);
    conca.stop();
    assert_eq!(doctor(&later), []);
    let forget = |data: &Path| in_state(data, "DELETE FROM rollup_touched WHERE property = 'pm10'");
    check_damage(
        &later,
        &forget,
        &[("rollups", "pm10 of 2026-03-20, 1h: 3 buckets are not what the observations come to, first trusted of a from ")],
    );
    let wrong = doctor(&later);
    assert_eq!(wrong, []);
}

#[test]
fn a_restored_city_answers_from_its_rollups_as_before() {
    let broker = Broker::start();
    let setup = rolled_up(&broker);
    let questions = [("mean", "1d"), ("max", "1h"), ("count", "15m"), ("last", "6h")].map(|(function, window)| {
        let asked = format!("/v1/aggregates?property=pm10&in_time={function}&window={window}&group_by=device&explain=true");
        format!("{asked}&zone=Europe/Rome&from=2026-03-20T00:00:00%2B01:00&to=2026-03-22T00:00:00%2B01:00")
    });
    let answers = |conca: &Conca| {
        let answers = questions.each_ref().map(|question| conca.get_json(question).1);
        for answer in &answers {
            let stretches = answer["explanation"]["stretches"].as_array().unwrap_or_else(|| panic!("{answer:#}"));
            assert!(stretches.iter().all(|stretch| stretch["source"].as_str().unwrap().starts_with("rollup-")), "{answer:#}");
            assert_eq!(answer["series"].as_array().unwrap().len(), 3, "{answer:#}");
        }
        answers
    };
    let conca = setup.start();
    let before = answers(&conca);
    let target = tempfile::tempdir().unwrap();
    backup(&setup, target.path());
    conca.kill();
    let restored = busy(&broker);
    let (is_ok, text) = restore(target.path(), &restored.data());
    assert!(is_ok, "{text}");
    assert_eq!(doctor(&restored), []);
    let conca = restored.start();
    assert_eq!(answers(&conca), before);
    conca.stop();
    // Nothing was made anew for it.
    assert_eq!(
        files_below(&restored.data().join("lake-rollup").join("tier=1h")),
        files_below(&setup.data().join("lake-rollup").join("tier=1h"))
            .iter()
            .map(|file| restored.data().join(file.strip_prefix(setup.data()).unwrap()))
            .collect::<Vec<_>>()
    );
}

#[test]
fn what_the_doctor_says_can_be_read() {
    let setup = stopped();
    let (is_ok, text) = run(["doctor".as_ref(), setup.file().as_os_str()]);
    assert!(is_ok && text.ends_with("Nothing is wrong.\n"), "{text}");
    in_state(&setup.data(), "DELETE FROM log_late");
    let (is_ok, text) = run(["doctor".as_ref(), setup.file().as_os_str()]);
    assert!(!is_ok && text.contains("WRONG") && text.contains("What to do: ") && text.ends_with("Something is wrong.\n"), "{text}");
    let nothing = Setup::new();
    let (is_ok, text) = run(["doctor".as_ref(), nothing.file().as_os_str()]);
    assert!(!is_ok && text.contains("WRONG   state database"), "{text}");
}

#[test]
fn a_damaged_backup_is_refused_and_leaves_nothing_behind() {
    let setup = stopped();
    let whole = tempfile::tempdir().unwrap();
    // A table beside it comes along, whatever it holds.
    copy_folder(&setup.data().join("lake"), &setup.data().join("lake-rollup"));
    backup(&setup, whole.path());
    // Nothing has changed: nothing of the table is copied again.
    let table = parquet_below(&whole.path().join("table")).metadata().unwrap();
    backup(&setup, whole.path());
    assert_eq!(parquet_below(&whole.path().join("table")).metadata().unwrap().modified().unwrap(), table.modified().unwrap());
    let folders = std::fs::read_dir(whole.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(folders, 3, "the tables, and the newest backup");

    let check = |damage: &dyn Fn(&Path), expected: &str| {
        let (damaged, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        copy_folder(whole.path(), damaged.path());
        damage(damaged.path());
        let (is_ok, text) = restore(damaged.path(), data.path());
        assert!(!is_ok && text.contains(expected), "{text} lacks {expected}");
        assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0, "{text}");
    };
    let state = |folder: &Path| files_below(folder).into_iter().find(|file| file.ends_with("state.sqlite")).unwrap();
    let commit = |folder: &Path| files_below(folder).into_iter().find(|file| file.ends_with("00000000000000000001.json")).unwrap();
    let manifest = |folder: &Path| folder.join("backup.json");
    check(&|folder| truncate(&parquet_below(folder)), " bytes where there were ");
    check(&|folder| flip(&parquet_below(folder), 1_000), ".parquet has changed since it was written");
    check(&|folder| std::fs::remove_file(parquet_below(folder)).unwrap(), ".parquet is missing");
    check(&|folder| flip(&state(folder), 10_000), "state.sqlite has changed since it was written");
    check(&|folder| flip(&commit(folder), 5), "1.json has changed since it was written");
    check(&|folder| std::fs::remove_file(manifest(folder)).unwrap(), "holds no complete backup: backup.json");
    check(&|folder| truncate(&manifest(folder)), "holds no complete backup: backup.json");
    let edit = |folder: &Path, edit: &dyn Fn(&mut Value)| {
        let mut content: Value = serde_json::from_slice(&std::fs::read(manifest(folder)).unwrap()).unwrap();
        edit(&mut content);
        std::fs::write(manifest(folder), content.to_string()).unwrap();
    };
    check(&|folder| edit(folder, &|content| content["files"][0]["path"] = "../x".into()), "backup.json names \"../x\"");
    check(&|folder| edit(folder, &|content| content["sequence"] = 1.into()), "is not the state database that the manifest tells of");
    check(&|folder| edit(folder, &|content| content["table_version"] = 0.into()), "is not the table that the manifest tells of");
    check(
        &|folder| edit(folder, &|content| drop(content["files"].as_array_mut().unwrap().remove(0))),
        "state.sqlite is not in the manifest",
    );
    let without_table = |content: &mut Value| {
        content["files"].as_array_mut().unwrap().retain(|file| !file["path"].as_str().unwrap().starts_with("table/"));
    };
    check(&|folder| edit(folder, &without_table), ".parquet is not in the manifest");

    let (is_ok, text) = restore(whole.path(), &setup.data());
    assert!(!is_ok && text.contains("is not empty"), "{text}");
    let restored = Setup::new();
    let (is_ok, text) = restore(whole.path(), &restored.data());
    assert!(is_ok && text.contains("node.id = \"conca-1\""), "{text}");
    assert_eq!(doctor(&restored), []);
    let beside = |setup: &Setup| {
        let folder = setup.data().join("lake-rollup");
        files_below(&folder).iter().map(|file| file.strip_prefix(&folder).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(beside(&restored), beside(&setup));
    assert!(Store::open(&restored.data()).rows() == Store::open(&setup.data()).rows());
}

#[test]
fn there_is_no_backup_of_nothing() {
    let (setup, target) = (Setup::new(), tempfile::tempdir().unwrap());
    let (is_ok, text) = run(["backup".as_ref(), setup.file().as_os_str(), target.path().as_os_str()]);
    assert!(!is_ok && text.contains("there is no state database"), "{text}");
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0);
}

#[test]
fn what_is_exported_comes_back_equal_in_every_form() {
    // Whatever is late is settled at once.
    let setup = || Setup::new().set("lake.merge_every", "300ms").set("lake.flush_after", "300ms");
    let city = setup();
    let conca = city.start_unready();
    let send = |topic: &str, body: &Value| {
        let (code, answer) = conca.post_json(&format!("/v1/messages?topic=conca/v1/{topic}"), body);
        assert_eq!((code, &answer["faults"]), (200, &json!([])), "{answer}");
    };
    let place = json!({ "lon": 13.3612, "lat": 38.1157 });
    for day in 1..4 {
        let times: Vec<String> = (0..24).map(|hour| format!("2026-03-0{day}T{hour:02}:00:00.000001Z")).collect();
        let air: Vec<Value> = times
            .iter()
            .zip(1..)
            .map(|(time, step)| {
                json!({ "time": time, "position": place, "readings":
                    { "pm10": f64::from(step * day) / 3.0, "temperature": { "value": 60.0 + f64::from(step), "unit": "[degF]" } } })
            })
            .collect();
        send("environment/air-station/air-1", &Value::Array(air));
        let doors: Vec<Value> = times.iter().map(|time| json!({ "time": time, "readings": { "door": "open" } })).collect();
        send("security/door/d:1", &Value::Array(doors));
    }
    // Absurd, of the future, corrected, at another place than the city's.
    send("environment/air-station/air-2", &json!({ "time": "2026-03-01T08:00:00Z", "readings": { "pm10": 99_999.0 } }));
    send(
        "environment/air-station/air-2",
        &json!({ "time": "2026-03-01T09:00:00Z", "position": { "lon": 0.0, "lat": 0.0 }, "readings": { "pm10": 2.0 } }),
    );
    send(
        "environment/air-station/air-1",
        &json!({ "time": "2026-03-01T00:00:00.000001Z", "position": place, "readings": { "pm10": 0.9 } }),
    );

    let folder = tempfile::tempdir().unwrap();
    let export = |origin: &str, arguments: &[&str]| {
        let (is_ok, text) = run(["export", "--server", origin].iter().chain(arguments));
        assert!(is_ok, "{text}");
        text
    };
    let lines = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let whole = lines(&export(&conca.origin(), &[]));
    assert_eq!(whole.len(), 3 * 24 * 3 + 2 + 2, "the observations, a header, and how many they are");
    assert!(whole.contains(&"218 observations".to_owned()) && whole.iter().any(|line| line.contains("pm10,0.9,ug/m3,")), "{whole:#?}");
    assert!(whole.iter().any(|line| line.ends_with(",60,[degF]") || line.ends_with(",61,[degF]")), "{whole:#?}");
    assert!(whole.iter().any(|line| line.contains("out-of-range")) && whole.iter().any(|line| line.contains("no-fix")));
    let part = export(
        &conca.origin(),
        &["--device", "air-1", "--property", "pm10", "--from", "2026-03-02T00:00:00Z", "--to", "2026-03-03T00:00:00Z"],
    );
    assert!(part.contains("24 observations") && !part.contains("temperature"), "{part}");

    for ending in ["csv", "lp", "parquet"] {
        let file = folder.path().join(format!("city.{ending}"));
        export(&conca.origin(), &["--output", file.to_str().unwrap()]);
        let other = setup();
        let elsewhere = other.start_unready();
        let import = || run(["import", "--server", &elsewhere.origin(), file.to_str().unwrap()]);
        for round in 1..=2 {
            let (is_ok, text) = import();
            assert!(is_ok && text.contains("218 rows, 218 observations taken"), "{ending}: {text}");
            wait_until("late rows are settled", || other.looks().ledger().pending == 0);
            assert_eq!(lines(&export(&elsewhere.origin(), &[])), whole, "{ending}");
            let counts = other.looks().ledger();
            assert_eq!((counts.stored, counts.corrected, counts.duplicate), (218, 0, (round - 1) * 218), "{ending}: {counts:?}");
        }
        let sources = Reader::open(&other.data().join("state.sqlite")).unwrap().ledger(Timestamp::MIN, Timestamp::MAX, None, 100).unwrap();
        assert!(sources.iter().all(|line| line.key.source.as_str() == "import"), "{sources:?}");
        elsewhere.stop();
        assert_eq!(doctor(&other), []);
    }

    let wrong = folder.path().join("wrong.csv");
    std::fs::write(&wrong, "time,device,kind,domain,property,value\n2026-03-01T08:00:00Z,a,k,energy,nonsense,1\n").unwrap();
    let (is_ok, text) = run(["import", "--server", &conca.origin(), wrong.to_str().unwrap()]);
    assert!(!is_ok && text.contains("0 observations taken") && text.contains("nonsense"), "{text}");
    let (is_ok, text) = run(["import", "--server", &conca.origin(), "nowhere.csv"]);
    assert!(!is_ok && text.contains("nowhere.csv"), "{text}");
    let (is_ok, text) = run(["import", "--server", &conca.origin(), "nowhere.xls"]);
    assert!(!is_ok && text.contains("does not tell its form"), "{text}");
    let broken = folder.path().join("broken.csv");
    conca.stop();
    let (is_ok, text) = run(["export", "--server", "http://127.0.0.1:1", "--output", broken.to_str().unwrap()]);
    assert!(!is_ok && text.contains("the service failed"), "{text}");
    assert!(!broken.exists() && std::fs::read_dir(folder.path()).unwrap().count() == 4);
}
