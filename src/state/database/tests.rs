//! Files of every released version of the schema are taken over with all they hold.

use std::collections::BTreeSet;

use xxhash_rust::xxh3::xxh3_64;

use super::*;

/// A file of a version, with rows in every table that the version has.
fn file_of(version: usize, folder: &Path) -> PathBuf {
    let path = folder.join(FILE);
    let file = Connection::open(&path).unwrap();
    for script in MIGRATIONS[..version].iter().copied().flatten() {
        file.execute_batch(script).unwrap();
    }
    file.pragma_update(None, "user_version", signed(version as u64)).unwrap();
    file.execute_batch(
        "INSERT INTO incarnation VALUES ('5f0c7f0e-7d1e-4b7a-9a55-0d7c7a4d9f11');
         INSERT INTO device (id, name, kind, domain, first_seen) VALUES (0, 'a-1', 'air-station', 'environment', 1700000000000000);
         INSERT INTO series (id, device, property) VALUES (0, 0, 'pm10');
         INSERT INTO batch (digests) VALUES (x'00112233445566778899aabbccddeeff'), (x'');
         INSERT INTO follower (store, ordered, late) VALUES ('lake', 1, 1);
         INSERT INTO merge_plan VALUES ('lake', 2, '[[{\"source\": \"city\", \"hour\": \"2026-01-01T00:00:00Z\"},
            {\"received\": 0, \"accepted\": 0, \"rejected\": 0, \"repeated\": 0, \"shed\": 0, \"readings\": 0, \"stored\": 1, \"duplicate\": 0,
             \"corrected\": 0, \"quarantined\": 0, \"pending\": -1}]]');
         INSERT INTO ledger VALUES ('city', 1767225600000000, 3, 2, 1, 0, 0, 4, 1, 0, 0, 2, 1);
         INSERT INTO quarantine (received, source, topic, payload, whole, reason, faults)
            VALUES (1767225600000000, 'city', 't', x'7b', 1, 'not-json', '[{}]'), (1767225600000001, 'city', 't', x'7d', 0, 'unknown-unit', '[{}, {}]');
         INSERT INTO condition VALUES ('r', 'a-1', '{}');
         INSERT INTO alert VALUES ('x', 1767225600000000, 'active', '{\"id\": \"x\"}'), ('y', 1767225600000000, 'cleared', '{}');
         INSERT INTO outbox (alert, transition) VALUES ('x', '{}');
         INSERT INTO rules (created, author, document) VALUES (1767225600000000, 'me', '{\"rules\": []}');",
    )
    .unwrap();
    let mut rows = Rows::default();
    rows.push(SeriesIndex(0), 1_767_225_600_000_000, 31.2, 0, crate::state::Place::default(), None);
    let key = LedgerKey { source: SourceName::try_from("city").unwrap(), hour: Timestamp::from_micros(1_767_225_600_000_000).unwrap() };
    rows.origins.push(crate::state::Origin { key, rows: 1 });
    file.execute("INSERT INTO log_late VALUES (2, ?1)", params![rows.encode(&Districts::built_in())]).unwrap();
    path
}

fn open(folder: &Path) -> (Database, RestoredWork) {
    Database::open(folder, &Arc::new(Catalogue::built_in()), &Arc::new(Districts::built_in())).unwrap()
}

/// Tables and indexes, as SQLite keeps them, without comments and blanks.
fn schema(path: &Path) -> Vec<String> {
    let file = Connection::open(path).unwrap();
    let mut select = file.prepare("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").unwrap();
    let scripts = select.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap);
    let bare = |line: &str| line.split("--").next().unwrap().split_whitespace().collect::<String>();
    scripts.map(|script| script.lines().map(bare).collect()).collect()
}

#[test]
fn every_released_version_is_taken_over_with_all_it_holds() {
    let fresh = tempfile::tempdir().unwrap();
    drop(open(fresh.path()));
    for version in 1..=SCHEMA_VERSION {
        let folder = tempfile::tempdir().unwrap();
        let path = file_of(version, folder.path());
        let (database, work) = open(folder.path());
        assert_eq!(database.incarnation().to_string(), "5f0c7f0e-7d1e-4b7a-9a55-0d7c7a4d9f11", "version {version}");
        assert_eq!(database.live().sequence(), 2);
        assert_eq!(work.digests.len(), 1);
        assert_eq!((work.conditions.len(), work.active_alerts.len()), (1, 1));
        assert_eq!(work.rules.as_deref(), Some("{\"rules\": []}"));
        {
            let state = database.live().read();
            assert_eq!(state.find_device("a-1"), Some(DeviceIndex(0)));
            assert_eq!(state.tail_rows, (0, 1));
            assert_eq!(state.series_at(SeriesIndex(0)).mark.latest.map(|latest| latest.value), Some(31.2));
        }
        let reader = super::super::Reader::open(&path).unwrap();
        let total = reader.ledger_total().unwrap();
        assert!(total.balances() && (total.stored, total.pending) == (1, 1), "{total:?}");
        let quarantined = reader.quarantine(&super::super::QuarantineFilter::default()).unwrap();
        let kept: Vec<_> = quarantined.iter().map(|row| (row.id, row.payload.as_slice(), row.whole)).collect();
        assert_eq!(kept, [(2, b"}".as_slice(), false), (1, b"{".as_slice(), true)]);
        if version == 1 {
            assert_eq!(quarantined.iter().map(|row| row.readings).collect::<Vec<_>>(), [2, 0]);
        }
        // What was going on goes on: the merge that was planned is finished.
        let plan = database.turn().planned_merge(LAKE).unwrap().unwrap();
        assert_eq!(database.turn().follower(LAKE).unwrap(), FollowerPosition { ordered: 1, late: 1 });
        assert_eq!(database.turn().attachment("influxdb").unwrap(), None);
        let position = FollowerPosition { ordered: 2, late: plan.late };
        database.turn().trim(&Trim { store: LAKE, position, moves: plan.moves, digests: 10 }).unwrap();
        assert_eq!(database.turn().commit(Commit::default()).unwrap(), 3);
        let total = reader.ledger_total().unwrap();
        assert!(total.balances() && (total.stored, total.pending) == (2, 0), "{total:?}");
        drop(database);
        assert_eq!(schema(&path), schema(&fresh.path().join(FILE)), "version {version}");
        // Once more: there is nothing left to do.
        assert_eq!(open(folder.path()).0.live().sequence(), 3);
    }
}

#[test]
fn a_released_version_never_changes() {
    /// Of tables and indexes of each version, in order.
    const RELEASED: [u64; 3] = [0xe49f_17f6_fba3_292a, 0x19f1_f93d_6d4a_b9c6, 0x8380_5c23_68c4_8c76];
    let digest = |version| {
        let folder = tempfile::tempdir().unwrap();
        let path = file_of(version, folder.path());
        xxh3_64(schema(&path).join("\n").as_bytes())
    };
    let found: Vec<u64> = (1..=RELEASED.len()).map(digest).collect();
    assert_eq!(found, RELEASED, "add a version instead");
    assert!(RELEASED.len() <= SCHEMA_VERSION);
}

#[test]
fn a_store_that_is_ahead_takes_nothing_of_the_log_from_the_lake() {
    let folder = tempfile::tempdir().unwrap();
    let path = file_of(SCHEMA_VERSION, folder.path());
    Connection::open(&path).unwrap().execute("DELETE FROM follower", []).unwrap();
    let ahead = Attachment { position: FollowerPosition { ordered: 9, late: 9 }, copied: None, rollups: false };
    {
        let (database, _work) = open(folder.path());
        database.turn().attach("influxdb", &ahead).unwrap();
    }
    assert_eq!(open(folder.path()).0.live().read().tail_rows, (0, 1), "the lake has not followed yet");
    let (database, _work) = open(folder.path());
    database.turn().trim(&Trim { store: LAKE, position: ahead.position, moves: LedgerMoves::default(), digests: 10 }).unwrap();
    drop(database);
    assert_eq!(open(folder.path()).0.live().read().tail_rows, (0, 0));
}

#[test]
fn a_device_that_tells_of_nothing_but_itself_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let device = NewDevice {
        id: DeviceId::try_from("a").unwrap(),
        kind: DeviceKind::try_from("k").unwrap(),
        domain: Domain::Device,
        first_seen: Timestamp::MIN,
    };
    open(folder.path()).0.turn().commit(Commit { new_devices: vec![device], ..Commit::default() }).unwrap();
    assert_eq!(open(folder.path()).0.live().read().device(DeviceIndex(0)).domain, Domain::Device);
}

#[test]
fn a_table_goes_with_a_file_that_knows_of_all_it_holds() {
    use super::super::Snapshot;
    let folder = tempfile::tempdir().unwrap();
    let path = file_of(SCHEMA_VERSION, folder.path());
    let head = Snapshot::open(&path).unwrap().head().unwrap();
    assert_eq!((head.sequence, head.position), (2, FollowerPosition { ordered: 1, late: 1 }));
    for (ordered, late, expected) in
        [(1, 1, true), (2, 1, true), (1, 2, true), (2, 2, true), (0, 1, false), (1, 0, false), (3, 1, false), (2, 3, false)]
    {
        assert_eq!(head.goes_with(FollowerPosition { ordered, late }), expected, "{ordered} {late}");
    }
    // Without the plan, nobody knows what the merge moved in the ledger.
    Connection::open(&path).unwrap().execute_batch("DELETE FROM merge_plan").unwrap();
    assert!(!Snapshot::open(&path).unwrap().head().unwrap().goes_with(FollowerPosition { ordered: 2, late: 2 }));
}

#[test]
fn a_copied_file_begins_a_new_life_without_other_stores() {
    use super::super::{Head, Snapshot, begin_anew};
    let folder = tempfile::tempdir().unwrap();
    let path = file_of(SCHEMA_VERSION, folder.path());
    Connection::open(&path).unwrap().execute_batch("INSERT INTO follower (store, ordered, late) VALUES ('influxdb', 1, 1)").unwrap();
    let copy = folder.path().join("copy.sqlite");
    Snapshot::copy(&path, &copy).unwrap();
    let before = Snapshot::open(&copy).unwrap().head().unwrap();
    assert_eq!(before, Snapshot::open(&path).unwrap().head().unwrap());
    let incarnation = begin_anew(&copy).unwrap();
    assert_eq!(Snapshot::open(&copy).unwrap().head().unwrap(), Head { incarnation, ..before.clone() });
    assert_ne!(incarnation, before.incarnation);
    let stores: i64 = Connection::open(&copy).unwrap().query_row("SELECT count(*) FROM follower", [], |row| row.get(0)).unwrap();
    assert_eq!(stores, 1);
}

#[test]
fn of_a_copied_file_rollups_of_days_can_be_told_to_be_unknown() {
    use super::super::{Snapshot, touch};
    let folder = tempfile::tempdir().unwrap();
    let path = file_of(SCHEMA_VERSION, folder.path());
    let touched = || Snapshot::open(&path).unwrap().rollup_notes().unwrap().unwrap().touched;
    Connection::open(&path).unwrap().execute_batch("DELETE FROM rollup_touched").unwrap();
    touch(&path, &BTreeSet::new()).unwrap();
    assert_eq!(touched(), []);
    touch(&path, &BTreeSet::from(["1970-01-01".to_owned(), "2026-03-29".to_owned()])).unwrap();
    let days: BTreeSet<i32> = touched().into_iter().map(|unit| unit.day).collect();
    assert_eq!(days, BTreeSet::from([0, 20_541]));
}
