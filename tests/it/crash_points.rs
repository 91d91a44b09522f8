//! Between a commit of the table and the end of the log: whatever fails there, nothing is lost, doubled or left pending.

use std::path::Path;

use conca::state::Counts;

use crate::support::{Broker, Load, Outgoing, Publisher, Setup, Store};

/// What was received, in order and late, and waits in the log; nothing of it is in the table.
struct Scene {
    setup: Setup,
    load: Load,
}

/// Late rows of a scene: duplicates, corrections, new ones.
const LATE: (i64, i64, i64) = (20, 10, 30);

impl Scene {
    fn make() -> Self {
        let broker = Broker::start();
        let setup = Setup::of(&broker).set("lake.flush_after", "1h").set("lake.merge_every", "1h").set("lake.maintain_every", "1h");
        let conca = setup.start();
        let mut load = Load::new(10, 20, 1);
        let repeated: Vec<Outgoing> = load.messages[..10].to_vec();
        let late = Load::new(5, 3, 0);
        let corrections: Vec<(String, i64)> = load
            .expected
            .keys()
            .filter(|(_device, property, _time)| property == "pm10")
            .map(|(device, _property, time)| (device.clone(), time / 1_000))
            .take(10)
            .collect();
        let mut publisher = Publisher::connect(broker.address());
        publisher.send(&load.messages);
        publisher.send(&repeated);
        publisher.send(&late.messages);
        publisher
            .send(&corrections.iter().map(|(device, millis)| Outgoing::readings(device, *millis, &[("pm10", 900.0)])).collect::<Vec<_>>());
        for (device, millis) in corrections {
            load.expected.insert((device, "pm10".to_owned(), millis * 1_000), 900.0);
        }
        load.expected.extend(late.expected);
        setup.looks().ledger_of(200 + 10 + 15 + 10);
        conca.stop();
        Self { setup, load }
    }

    /// Everything is there once, and the ledger says so.
    #[track_caller]
    fn check(&self, store: &Store) {
        assert!(store.rows() == self.load.expected, "what is stored is not what was sent");
        store.settle();
        assert!(store.rows() == self.load.expected, "what is stored is not what was sent");
        let counts = store.ledger();
        let (duplicate, corrected, late) = LATE;
        let expected = Counts { stored: 400 + late, duplicate, corrected, pending: 0, ..counts };
        assert_eq!(counts, expected);
    }
}

/// Makes the log keep what the table already holds: the state database refuses to forget it.
struct StuckLog(rusqlite::Connection);

impl StuckLog {
    fn of(data: &Path, table: &str) -> Self {
        let connection = rusqlite::Connection::open(data.join("state.sqlite")).unwrap();
        connection
            .execute_batch(&format!("CREATE TRIGGER stuck BEFORE DELETE ON {table} BEGIN SELECT RAISE(ABORT, 'the disk is gone'); END"))
            .unwrap();
        Self(connection)
    }

    fn release(self) {
        self.0.execute_batch("DROP TRIGGER stuck").unwrap();
    }
}

#[test]
fn a_flush_that_could_not_trim_the_log_is_finished_by_the_next_start() {
    let scene = Scene::make();
    let store = Store::open(&scene.setup.data());
    let stuck = StuckLog::of(&scene.setup.data(), "log_ordered");
    assert!(store.flush().is_err());
    drop(store);
    stuck.release();
    scene.check(&Store::open(&scene.setup.data()));
}

#[test]
fn a_flush_that_could_not_trim_the_log_is_finished_by_the_next_one() {
    let scene = Scene::make();
    let store = Store::open(&scene.setup.data());
    let stuck = StuckLog::of(&scene.setup.data(), "log_ordered");
    assert!(store.flush().is_err());
    assert!(store.flush().is_err());
    stuck.release();
    scene.check(&store);
}

#[test]
fn a_merge_that_could_not_trim_the_log_is_finished_by_the_next_start() {
    let scene = Scene::make();
    let store = Store::open(&scene.setup.data());
    let stuck = StuckLog::of(&scene.setup.data(), "log_late");
    assert!(store.merge().is_err());
    drop(store);
    stuck.release();
    scene.check(&Store::open(&scene.setup.data()));
}

#[test]
fn a_merge_that_could_not_trim_the_log_is_finished_by_the_next_one() {
    let scene = Scene::make();
    let store = Store::open(&scene.setup.data());
    let stuck = StuckLog::of(&scene.setup.data(), "log_late");
    assert!(store.merge().is_err());
    assert!(store.merge().is_err());
    stuck.release();
    scene.check(&store);
}

#[test]
fn a_commit_whose_checkpoint_failed_stands_and_is_not_made_twice() {
    let broker = Broker::start();
    let setup = Setup::of(&broker).set("lake.flush_after", "100ms").set("lake.maintain_every", "1h");
    // The table's 50th commit writes a checkpoint: there is something in its way.
    let log = setup.data().join("lake").join("_delta_log");
    let obstacle = log.join("00000000000000000049.checkpoint.parquet");
    std::fs::create_dir_all(obstacle.join("x")).unwrap();
    let conca = setup.start();
    let looks = setup.looks();
    let load = Load::new(5, 70, 0);
    let mut publisher = Publisher::connect(broker.address());
    let mut rounds = load.messages.chunks(5);
    let mut sent = 0;
    let commits = || {
        std::fs::read_dir(&log)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|ending| ending == "json"))
            .count()
    };
    while commits() < 50 {
        let round = rounds.next().expect("each round is a commit at least, so that there are enough");
        publisher.send(round);
        sent += 5;
        looks.ledger_of(sent);
        let before = commits();
        crate::support::wait_until("the round is flushed", || commits() > before);
    }
    crate::support::wait_until("the checkpoint fails", || conca.count("the lake cannot do its work") >= 1);
    std::fs::remove_dir_all(&obstacle).unwrap();
    for round in rounds {
        publisher.send(round);
        sent += 5;
    }
    looks.ledger_of(sent);
    let before = commits();
    crate::support::wait_until("the lake goes on", || commits() > before);
    conca.stop();
    let store = Store::open(&setup.data());
    assert!(store.rows() == load.expected);
    store.settle();
    assert!(store.rows() == load.expected);
}

#[test]
fn files_without_a_commit_are_nothing() {
    let scene = Scene::make();
    let store = Store::open(&scene.setup.data());
    // A commit cannot be written: its number is taken by something that is no commit.
    let obstacle = scene.setup.data().join("lake").join("_delta_log").join("00000000000000000001.json");
    std::fs::create_dir(&obstacle).unwrap();
    assert!(store.flush().is_err());
    std::fs::remove_dir(&obstacle).unwrap();
    scene.check(&store);
}

#[test]
fn behind_a_state_database_that_is_older_than_the_table_nothing_new_is_lost() {
    let broker = Broker::start();
    let setup = Setup::of(&broker);
    let file = setup.data().join("state.sqlite");
    let tell = |part: i64, received: i64| {
        let conca = setup.start();
        let load = Load::new(5, 20, part);
        Publisher::connect(broker.address()).send(&load.messages);
        setup.looks().ledger_of(received);
        let warnings = conca.count("the state database is older than the table");
        conca.stop();
        Store::open(&setup.data()).settle();
        (load.expected, warnings)
    };
    let (mut expected, _warnings) = tell(0, 100);
    let old = std::fs::read(&file).unwrap();
    expected.extend(tell(1, 200).0);
    std::fs::write(&file, old).unwrap();
    let (last, warnings) = tell(2, 200);
    expected.extend(last);
    assert_eq!(warnings, 1);
    assert!(Store::open(&setup.data()).rows() == expected);
}
