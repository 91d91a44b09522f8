//! A table on S3: the same as in a folder, and never in the way while it is away.

use serde_json::json;

use crate::support::{Broker, Conca, Outgoing, Publisher, S3, Setup, TABLE, TableReader, wait_until};

/// Everything that is done to a table is done all the time.
fn restless(setup: Setup) -> Setup {
    let setup = setup.set("lake.flush_after", "200ms").set("lake.merge_every", "500ms").set("lake.maintain_every", "500ms");
    setup.set("query.timeout", "2s").set("sql.timeout", "2s").set("lake.vacuum_after", "3s")
}

/// Readings of minutes of a day that is long over: two values each.
fn readings(minutes: std::ops::Range<i64>, add: f64) -> Vec<Outgoing> {
    let midnight = "2026-03-20T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond();
    let stations = ["a", "b", "c"];
    let of = |minute: i64, station| {
        let value = (minute % 90) as f64 + add;
        Outgoing::readings(station, midnight + minute * 60_000, &[("pm10", value), ("temperature", value / 4.0)])
    };
    minutes.flat_map(|minute| stations.map(|station| of(minute, station))).collect()
}

/// What the values of `pm10` in these minutes come to.
fn sum(minutes: std::ops::Range<i64>, add: f64) -> f64 {
    minutes.map(|minute| 3.0 * ((minute % 90) as f64 + add)).sum()
}

const DAY: &str = "from=2026-03-19T23:00:00Z&to=2026-03-20T23:00:00Z&quality=any";

/// Count and sum of the day's values of `pm10`, all of them whole numbers.
fn told(conca: &Conca) -> (f64, f64) {
    let ask = |function: &str, across: &str| {
        let (code, answer) =
            conca.get_json(&format!("/v1/aggregates?property=pm10&window=1d&in_time={function}&across={across}&zone=Europe/Rome&{DAY}"));
        assert_eq!(code, 200, "{answer}");
        answer["series"][0]["buckets"][0]["value"].as_f64().unwrap_or_else(|| panic!("{answer:#}"))
    };
    let (count, mean) = (ask("count", "sum"), ask("mean", "mean"));
    (count, (count * mean).round())
}

/// Everything that a question can see of the day.
fn everything(conca: &Conca) -> String {
    let (code, answer) = conca.get(&format!("/v1/observations?{DAY}&limit=10000&format=csv"));
    assert_eq!(code, 200, "{answer}");
    answer
}

/// Until everything is in the table, compared, rolled up and put together.
fn wait_until_settled(conca: &Conca, rows: u64) {
    wait_until("the table holds everything", || {
        let (code, status) = conca.get_json("/status");
        let lake = &status["lake"];
        code == 200
            && status["ledger"]["total"]["pending"] == 0
            && (&lake["rows"], &lake["files"], &lake["rollups"]["touched"]) == (&json!(rows), &json!(1), &json!(0))
    });
}

#[test]
fn a_table_in_a_bucket_is_kept_like_one_in_a_folder() {
    let s3 = S3::start();
    let broker = Broker::start();
    let setup = s3.holds(restless(Setup::of(&broker)));
    let conca = setup.start();
    let mut publisher = Publisher::connect(broker.address());
    // Several files, what comes again, and other values for some of it.
    for part in 0..6 {
        publisher.send(&readings(part * 100..(part + 1) * 100, 0.0));
        wait_until("it is flushed", || conca.get_json("/status").1["log"]["rows_ordered"] == 0);
    }
    publisher.send(&readings(50..150, 0.0));
    publisher.send(&readings(200..260, 7.0));
    wait_until_settled(&conca, 3_600);
    let counts = setup.looks().ledger();
    assert_eq!((counts.stored, counts.duplicate, counts.corrected), (3_600, 600, 360), "{counts:?}");
    let expected = (1_800.0, sum(0..200, 0.0) + sum(200..260, 7.0) + sum(260..600, 0.0));
    assert_eq!(told(&conca), expected);
    wait_until("what no version uses is deleted", || {
        s3.objects("lake/observations", ".parquet").iter().filter(|path| !path.to_string_lossy().contains("_delta_log")).count() == 1
    });
    assert!(!s3.objects("lake/observations-rollup", ".parquet").is_empty(), "rollups are beside the table");
    assert!(!setup.data().join("lake").exists(), "nothing of it is on this machine's disk");
    // A program that shares no code with this one sees the same.
    let seen = TableReader::DuckDb.look(TABLE, &s3.environment());
    assert_eq!((seen.rows, seen.identities, seen.sums["pm10"]), (3_600, 3_600, expected.1));
    let before = everything(&conca);
    assert_eq!(before.lines().count(), 3_601);
    conca.kill();

    let conca = setup.start();
    assert_eq!((told(&conca), everything(&conca)), (expected, before));
    conca.stop();
}

#[test]
fn a_bucket_that_is_away_holds_up_no_intake_and_is_told_of() {
    let mut s3 = S3::start_encrypted();
    let broker = Broker::start();
    let setup = s3.holds(restless(Setup::of(&broker)));
    let conca = setup.start();
    let mut publisher = Publisher::connect(broker.address());
    publisher.send(&readings(0..100, 0.0));
    wait_until_settled(&conca, 600);
    s3.kill();
    publisher.send(&readings(100..200, 0.0));
    assert_eq!(setup.looks().ledger_of(600).accepted, 600, "intake goes on");
    wait_until("it is said that the table is away", || {
        let (code, status) = conca.get_json("/status");
        code == 503 && status["lake"]["failure"]["error"].is_string() && status["lake"]["rows"] == 600
    });
    check_refused(&conca);
    // Away when the program starts, too.
    conca.kill();
    let conca = setup.start();
    publisher = Publisher::connect(broker.address());
    publisher.send(&readings(200..300, 0.0));
    assert_eq!(setup.looks().ledger_of(900).accepted, 900, "intake goes on");
    wait_until("it is said that there is no table", || {
        let (code, status) = conca.get_json("/status");
        code == 503 && status["lake"]["failure"]["work"] == "open" && status["lake"].get("rows").is_none()
    });
    check_refused(&conca);
    s3.restart();
    wait_until_settled(&conca, 1_800);
    assert_eq!(told(&conca), (900.0, sum(0..300, 0.0)));
    assert_eq!(setup.looks().ledger().stored, 1_800);
    conca.stop();
}

#[test]
fn a_bucket_that_does_not_answer_is_not_waited_for() {
    let s3 = S3::start();
    let broker = Broker::start();
    let setup = s3.holds(restless(Setup::of(&broker))).environment("AWS_TIMEOUT", "1s");
    let conca = setup.start();
    let mut publisher = Publisher::connect(broker.address());
    publisher.send(&readings(0..100, 0.0));
    wait_until_settled(&conca, 600);
    s3.signal("STOP");
    publisher.send(&readings(100..200, 0.0));
    assert_eq!(setup.looks().ledger_of(600).accepted, 600, "intake goes on");
    wait_until("it is said that the table is away", || {
        let (code, status) = conca.get_json("/status");
        code == 503 && status["lake"]["failure"]["error"].is_string()
    });
    let (code, answer) = conca.get_json(&format!("/v1/observations?{DAY}"));
    assert!(code == 503 && answer["title"].is_string(), "{answer:#}");
    conca.kill();
    // When the program starts, too.
    let conca = setup.start();
    publisher = Publisher::connect(broker.address());
    publisher.send(&readings(200..300, 0.0));
    assert_eq!(setup.looks().ledger_of(900).accepted, 900, "intake goes on");
    check_refused(&conca);
    s3.signal("CONT");
    wait_until_settled(&conca, 1_800);
    assert_eq!(told(&conca), (900.0, sum(0..300, 0.0)));
    conca.stop();
}

/// Questions are refused for now, and say so.
#[track_caller]
fn check_refused(conca: &Conca) {
    for question in ["/v1/observations?", "/v1/aggregates?property=pm10&window=1d&in_time=p95&"] {
        let (code, answer) = conca.get_json(&format!("{question}{DAY}"));
        assert_eq!((code, &answer["title"]), (503, &json!("The store does not answer")), "{answer:#}");
    }
    // What is in memory is answered all the same.
    assert_eq!(conca.get("/v1/latest?property=pm10").0, 200);
}

#[test]
fn a_table_in_a_bucket_is_not_backed_up_as_if_it_were_here() {
    let s3 = S3::start();
    let broker = Broker::start();
    let setup = s3.holds(Setup::of(&broker));
    setup.start().stop();
    let target = tempfile::tempdir().unwrap();
    let output = crate::support::conca_command().arg("backup").arg(setup.file()).arg(target.path().join("backup")).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("let the bucket keep versions or a replica of it"), "{told}");
}
