//! SQL over HTTP: what it answers, what it refuses, and where it ends.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Answer, Town};

const SQL: [(&str, &str); 1] = [("content-type", "application/sql")];

async fn ask(town: &Town, sql: &str) -> Answer {
    town.send(Method::POST, "/v1/sql", &SQL, sql).await
}

async fn rows(town: &Town, sql: &str) -> Value {
    let answer = ask(town, sql).await;
    assert_eq!(answer.status, StatusCode::OK, "{sql}: {}", answer.text);
    answer.json()["rows"].clone()
}

/// Two stations, one of them for an hour; the other once, and once absurdly.
async fn town(config: &str) -> Town {
    let town = Town::new(config).await;
    for minute in 0..60 {
        // From 21:00 to 22:00.
        town.measure("air-1", "pm10", minute * 60 - 4_400, if minute < 30 { 10.0 } else { 20.0 });
    }
    town.measure("air-2", "pm10", -4_400, 40.0);
    town.measure("air-2", "pm10", -800, 4_000.0);
    town
}

async fn flush(town: &Town) {
    town.context.lake.flush().await.unwrap();
}

#[tokio::test]
async fn history_is_one_table_wherever_its_rows_are() {
    let town = town("").await;
    let sql = "SELECT device, count(*) AS n, avg(value) AS mean FROM observation WHERE property = 'pm10' AND trusted GROUP BY device ORDER BY device";
    let expected = json!([{ "device": "air-1", "n": 60, "mean": 15.0 }, { "device": "air-2", "n": 1, "mean": 40.0 }]);
    assert_eq!(rows(&town, sql).await, expected);
    flush(&town).await;
    assert_eq!(rows(&town, sql).await, expected);
    // A correction and a new reading, in the log only.
    town.measure("air-2", "pm10", -4_400, 50.0);
    town.measure("air-2", "pm10", -4_300, 70.0);
    let after = json!([{ "device": "air-1", "n": 60, "mean": 15.0 }, { "device": "air-2", "n": 2, "mean": 60.0 }]);
    assert_eq!(rows(&town, sql).await, after);
    let suspect = "SELECT value, flags, trusted, district FROM observation WHERE NOT trusted";
    assert_eq!(rows(&town, suspect).await, json!([{ "value": 4000.0, "flags": "out-of-range", "trusted": false, "district": "pa-c1" }]));
}

#[tokio::test]
async fn rollups_hold_every_bucket_as_it_stands() {
    let town = town("").await;
    let sql = "SELECT device, time, count, mean, max, provisional FROM rollup_1h WHERE property = 'pm10' AND trusted ORDER BY device, time";
    let now = rows(&town, sql).await;
    assert_eq!(
        now[0],
        json!({ "device": "air-1", "time": "2023-11-14T21:00:00Z", "count": 60, "mean": 15.0, "max": 20.0, "provisional": true })
    );
    flush(&town).await;
    // Two days later the day is over.
    let later = Town::at(2 * 86_400);
    while town.context.lake.roll_up(later, None).await.unwrap().is_some() {}
    let mut settled = now.clone();
    for row in settled.as_array_mut().unwrap() {
        row["provisional"] = json!(false);
    }
    assert_eq!(rows(&town, sql).await, settled);
    // What comes late is counted at once, and once.
    town.measure("air-1", "pm10", -800, 100.0);
    let late = rows(&town, sql).await;
    assert_eq!(late.as_array().unwrap().len(), 3);
    assert_eq!(late[1]["provisional"], json!(true));
    for (tier, buckets) in [("rollup_15m", 7), ("rollup_1h", 4), ("rollup_1d", 3)] {
        let counts = rows(&town, &format!("SELECT count(*) AS buckets, sum(count) AS n, sum(sum) AS total FROM {tier}")).await;
        assert_eq!(counts, json!([{ "buckets": buckets, "n": 63, "total": 5_040.0 }]), "{tier}");
    }
    let narrow = "SELECT max(max) AS max FROM rollup_15m WHERE device = 'air-1' AND time >= '2023-11-14T21:30:00Z' AND time < '2023-11-14T21:45:00Z'";
    assert_eq!(rows(&town, narrow).await, json!([{ "max": 20.0 }]));
}

#[tokio::test]
async fn every_condition_lets_through_what_it_says() {
    let town = town("").await;
    flush(&town).await;
    town.measure("air-3", "temperature", -60, 21.5);
    for (condition, expected) in [
        ("property = 'pm10'", 62),
        ("property <> 'pm10'", 1),
        ("property IN ('pm10', 'temperature')", 63),
        ("property LIKE 'temp%'", 1),
        ("upper(property) = 'PM10' AND device LIKE '%-2'", 2),
        ("device = 'nobody'", 0),
        ("time >= '2023-11-14T22:00:00Z'", 2),
        ("time > '2023-11-14T22:00:00Z'", 1),
        ("time <= '2023-11-14T21:00:00Z'", 2),
        ("time = '2023-11-14T21:00:00Z'", 2),
        ("time BETWEEN '2023-11-14T21:00:00Z' AND '2023-11-14T21:01:00Z'", 3),
        ("'2023-11-14T21:01:00Z' > time", 2),
        ("time::date = '2023-11-14'", 63),
        ("extract(minute FROM time) = 0", 3),
        ("trusted", 62),
        ("NOT trusted", 1),
        ("trusted AND value > 15", 32),
        ("district = 'pa-c1'", 63),
        ("district IS NULL", 0),
        ("district IS NULL OR value = 40", 1),
        ("property = 'pm10' OR value = 21.5", 63),
        ("flags = 'out-of-range'", 1),
        ("true", 63),
        ("false", 0),
    ] {
        let counted = rows(&town, &format!("SELECT count(*) AS n FROM observation WHERE {condition}")).await;
        assert_eq!(counted, json!([{ "n": expected }]), "{condition}");
    }
    let limited = rows(&town, "SELECT value FROM observation WHERE property = 'pm10' LIMIT 5").await;
    assert_eq!(limited.as_array().unwrap().len(), 5);
    let newest = rows(&town, "SELECT device FROM observation ORDER BY time DESC LIMIT 1").await;
    assert_eq!(newest, json!([{ "device": "air-3" }]));
}

#[tokio::test]
async fn windows_follow_the_citys_calendar() {
    let town = town("").await;
    let buckets = "SELECT time_bucket('1d', time) AS day, count(*) AS n FROM observation GROUP BY 1";
    assert_eq!(rows(&town, buckets).await, json!([{ "day": "2023-11-13T23:00:00Z", "n": 62 }]));
    let utc = "SELECT DISTINCT time_bucket(interval '1 day', time, 'UTC') AS day FROM observation";
    assert_eq!(rows(&town, utc).await, json!([{ "day": "2023-11-14T00:00:00Z" }]));
    // The day on which clocks go forward has 23 hours.
    let gaps = "SELECT count(*) AS hours FROM buckets('1h', '2026-03-28T23:00:00Z', '2026-03-29T22:00:00Z')";
    assert_eq!(rows(&town, gaps).await, json!([{ "hours": 23 }]));
    let days = "SELECT b.time, count(o.value) AS n FROM buckets('1d', '2023-11-12T23:00:00Z', '2023-11-15T23:00:00Z') b \
                LEFT JOIN observation o ON o.time >= b.time AND o.time < b.until GROUP BY 1 ORDER BY 1";
    let counts: Vec<Value> = rows(&town, days).await.as_array().unwrap().iter().map(|row| row["n"].clone()).collect();
    assert_eq!(counts, [json!(0), json!(62), json!(0)]);
    let local = "SELECT local_time(timestamp '2026-07-01T10:00:00Z') AS rome, local_time(timestamp '2026-07-01T10:00:00Z', 'America/New_York') AS york, \
                 district_at(13.36, 38.11) AS district, round(distance_m(13.36, 38.11, 13.37, 38.11)) AS m";
    assert_eq!(
        rows(&town, local).await,
        json!([{ "rome": "2026-07-01T12:00:00", "york": "2026-07-01T06:00:00", "district": "pa-c1", "m": 875.0 }])
    );
    for sql in [
        "SELECT time_bucket('7 parsecs', time) FROM observation",
        "SELECT local_time(time, 'Europe/Atlantis') FROM observation",
        "SELECT * FROM buckets('1h', '2026-01-01', now(), device)",
        "SELECT * FROM buckets('1m', '1990-01-01T00:00:00Z', '2026-01-01T00:00:00Z')",
    ] {
        assert_eq!(ask(&town, sql).await.problem(), "invalid-statement", "{sql}");
    }
}

#[tokio::test]
async fn what_is_known_now_is_in_tables() {
    let town = town("").await;
    town.hear(&[("conca/v1/environment/air-station/air-9", "not json")]);
    let device = "SELECT device, status, district, battery_level FROM device ORDER BY device LIMIT 1";
    assert_eq!(rows(&town, device).await, json!([{ "device": "air-1", "status": "silent", "district": "pa-c1", "battery_level": null }]));
    let latest = "SELECT l.device, l.value, p.unit FROM latest l JOIN property p USING (property) WHERE l.device = 'air-1'";
    assert_eq!(rows(&town, latest).await, json!([{ "device": "air-1", "value": 20.0, "unit": "ug/m3" }]));
    let counts = "SELECT (SELECT count(*) FROM district) AS districts, (SELECT count(*) FROM alert) AS alerts, \
                  (SELECT count(*) FROM quarantine) AS quarantined";
    assert_eq!(rows(&town, counts).await, json!([{ "districts": 8, "alerts": 0, "quarantined": 1 }]));
    let raw = "SELECT reason, encode(payload, 'hex') AS payload FROM quarantine";
    assert_eq!(rows(&town, raw).await[0]["payload"], json!("6e6f74206a736f6e"));
    let undocumented = "SELECT table_name, column_name FROM information_schema.columns c WHERE table_schema = 'public' AND NOT EXISTS \
        (SELECT 1 FROM column_comment k WHERE k.table_name = c.table_name AND k.column_name = c.column_name) AND table_name <> 'column_comment'";
    assert_eq!(rows(&town, undocumented).await, json!([]));
}

#[tokio::test]
async fn answers_come_in_every_form() {
    let town = town("").await;
    let sql = "SELECT device, value, time FROM observation WHERE device = 'air-2' AND trusted";
    let of = async |format: &str| town.send(Method::POST, &format!("/v1/sql?format={format}"), &SQL, sql).await;
    assert_eq!(
        of("json").await.json(),
        json!({
            "columns": [{ "name": "device", "type": "Utf8" }, { "name": "value", "type": "Float64" },
                { "name": "time", "type": "Timestamp(µs, \"UTC\")" }],
            "rows": [{ "device": "air-2", "value": 40.0, "time": "2023-11-14T21:00:00Z" }],
        })
    );
    assert_eq!(of("csv").await.text, "device,value,time\nair-2,40.0,2023-11-14T21:00:00Z\n");
    assert_eq!(of("ndjson").await.text, "{\"device\":\"air-2\",\"value\":40.0,\"time\":\"2023-11-14T21:00:00Z\"}\n");
    let accept = [SQL[0], ("accept", "application/vnd.apache.parquet")];
    let parquet = town.send(Method::POST, "/v1/sql", &accept, sql).await;
    assert_eq!((parquet.status, parquet.header("content-type")), (StatusCode::OK, "application/vnd.apache.parquet"));
    assert_eq!(of("xml").await.problem(), "not-acceptable");
    let body = json!({ "sql": "SELECT $1 + value AS sum, $2 AS word, $3 AS gone FROM observation WHERE device = $4 AND time < $5 AND trusted",
        "parameters": [2.5, "=1+1", null, "air-2", "2023-11-14T21:30:00Z"] });
    let answer = town.post(Method::POST, "/v1/sql?format=csv", &body).await;
    assert_eq!(answer.text, "sum,word,gone\n42.5,'=1+1,\n");
    let few = json!({ "sql": "SELECT $1", "parameters": [] });
    assert_eq!(town.post(Method::POST, "/v1/sql", &few).await.problem(), "invalid-statement");
}

#[tokio::test]
async fn only_one_statement_that_reads_is_answered() {
    let town = town("").await;
    for sql in [
        "DROP TABLE observation",
        "DELETE FROM observation",
        "INSERT INTO observation SELECT * FROM observation",
        "UPDATE device SET title = 'x'",
        "CREATE TABLE t AS SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "COPY observation TO '/tmp/out.csv'",
        "COPY (SELECT 1) TO '/tmp/out.parquet'",
        "SET datafusion.execution.batch_size = 1",
        "WITH gone AS (DELETE FROM observation RETURNING *) SELECT * FROM gone",
        "EXPLAIN ANALYZE INSERT INTO observation SELECT * FROM observation",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM \"file:///etc/passwd\"",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM parquet_metadata('/etc/passwd')",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT repeat('x', 2000000000)",
        "SELECT 1; SELECT 2",
        "",
        ";",
        "SELECT value, value FROM observation",
        "GRANT ALL ON observation TO public",
        "PREPARE p AS SELECT 1",
        "SELECT * FROM observation INTO OUTFILE '/tmp/x'",
    ] {
        let answer = ask(&town, sql).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::BAD_REQUEST, "invalid-statement"), "{sql}: {}", answer.text);
    }
    for (sql, place) in [
        ("SELECT value,\n  FROM observation WHERE", "line 2, column 8"),
        ("SELECT value FROM\nobservations", "line 2, column 1"),
        ("SELECT colour FROM observation", "line 1, column 8"),
    ] {
        let faulty = ask(&town, sql).await.json();
        assert_eq!(faulty["errors"][0]["name"], json!(place), "{sql}: {faulty}");
    }
    let text = town.send(Method::POST, "/v1/sql", &[("content-type", "text/plain")], "SELECT 1").await;
    assert_eq!(text.problem(), "unsupported-media-type");
    assert_eq!(rows(&town, "SELECT count(*) AS n FROM observation").await, json!([{ "n": 62 }]));
}

#[tokio::test]
async fn limits_are_errors_and_leave_nothing_behind() {
    let town = town("[sql]\ntimeout = \"2s\"\nrows_max = 61\nconcurrent_per_caller_max = 1\nmemory_mib = 16\nspill_mib_max = 0").await;
    assert_eq!(ask(&town, "SELECT count(*) FROM observation").await.status, StatusCode::OK);
    // What fails before the first row has its own status; later the answer is not whole.
    assert_eq!(ask(&town, "SELECT * FROM observation ORDER BY time").await.problem(), "question-too-large");
    let endless = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b WHERE a.value + b.value < 0";
    let large = "SELECT count(*) FROM (SELECT DISTINCT a.value * 1000 + b.value AS x FROM generate_series(1, 3000) a, generate_series(1, 1000) b) s";
    assert_eq!(ask(&town, large).await.problem(), "question-too-large");
    let (slow, second) = tokio::join!(ask(&town, endless), async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        // Whatever a statement does, the interface goes on; another statement of the same caller waits for its turn.
        assert_eq!(town.get("/v1/latest?device=air-1").await.status, StatusCode::OK);
        ask(&town, "SELECT 1 AS one").await
    });
    assert_eq!(slow.problem(), "timeout");
    assert!(second.status == StatusCode::OK || second.problem() == "busy", "{}", second.text);
    // A caller who gives up makes room at the next pause of the work.
    let given_up = tokio::time::timeout(std::time::Duration::from_millis(100), ask(&town, endless)).await;
    assert!(given_up.is_err());
    let freed = async {
        while ask(&town, "SELECT 1 AS one").await.status != StatusCode::OK {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), freed).await.unwrap();
}
