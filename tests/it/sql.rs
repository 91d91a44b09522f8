//! SQL through PostgreSQL's own client, and a driver of another language.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use toml::Table;

use crate::support::{Broker, Certificates, Conca, Outgoing, Publisher, Setup, conca_command, python, wait_until};

/// Two stations through the night in which clocks go forward, every minute for three hours.
fn load() -> Vec<Outgoing> {
    let message = |device: &str, minute: i64, pm10: f64| {
        let readings = json!({ "pm10": pm10, "temperature": 10 });
        let time = format!("2026-03-29T{:02}:{:02}:00Z", minute / 60, minute % 60);
        let text = json!({ "time": time, "position": { "lon": 13.36, "lat": 38.11 }, "readings": readings });
        Outgoing::new(&format!("conca/v1/environment/station/{device}"), text.to_string())
    };
    (0..180).flat_map(|minute| [message("station-1", minute, minute as f64), message("station-2", minute, 7.3)]).collect()
}

fn listening(setup: Setup) -> Setup {
    let postgres = Table::from_iter([("listen".to_owned(), "127.0.0.1:0".into())]);
    setup.set("sql.postgres", postgres)
}

/// The program, with the load stored.
fn loaded(setup: &Setup, broker: &Broker) -> Conca {
    let conca = setup.start();
    let messages = load();
    Publisher::connect(broker.address()).send(&messages);
    wait_until("all of it is stored", || {
        let (_code, ledger) = conca.get_json("/v1/ledger");
        ledger["total"]["stored"] == messages.len() * 2
    });
    conca
}

/// What `psql` gives for some statements, without alignment.
fn psql(address: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("psql");
    command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("HOME", "/nonexistent").env("PGCONNECT_TIMEOUT", "10");
    command.args(["--no-psqlrc", "--no-password", "-v", "VERBOSITY=verbose", "--csv", address]).args(arguments);
    command.output().expect("psql is installed (tests/run installs what is absent)")
}

fn ask(conca: &Conca, statement: &str) -> String {
    let output = psql(&format!("postgresql://analyst@{}/conca", conca.postgres()), &["-c", statement]);
    assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What is wrong with a statement, as `psql` says it: `ERROR:  42601: …`.
fn refused(conca: &Conca, statement: &str) -> String {
    let output = psql(&format!("postgresql://analyst@{}/conca", conca.postgres()), &["-c", statement]);
    assert!(!output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn psql_finds_its_way_and_gets_the_interfaces_numbers() {
    let broker = Broker::start();
    let setup = listening(Setup::of(&broker)).set("lake.flush_after", "1s");
    let conca = loaded(&setup, &broker);
    let tables = ask(&conca, "\\dt") + &ask(&conca, "\\dv");
    for table in ["observation", "latest", "rollup_15m", "rollup_1h", "rollup_1d", "device", "property", "district", "alert", "quarantine"]
    {
        assert!(tables.contains(&format!("public,{table},")), "{table}: {tables}");
        let described = ask(&conca, &format!("\\d {table}"));
        assert!(described.starts_with("Column,Type,Collation,Nullable,Default\n"), "{table}: {described}");
        let rows = ask(&conca, &format!("SELECT * FROM {table} LIMIT 1"));
        assert_eq!(rows.lines().next().unwrap().split(',').count(), described.lines().count() - 1, "{table}: {described}");
    }
    let by_hour = "SELECT device, time_bucket('1h', time) AS hour, avg(value) AS mean, count(*) AS n FROM observation \
                   WHERE property = 'pm10' AND trusted GROUP BY 1, 2 ORDER BY 1, 2";
    let (_code, answer) =
        conca.get_json("/v1/aggregates?property=pm10&window=1h&from=2026-03-29T00:00:00Z&to=2026-03-29T03:00:00Z&group_by=device");
    let mut expected = vec!["device,hour,mean,n".to_owned()];
    for series in answer["series"].as_array().unwrap() {
        for bucket in series["buckets"].as_array().unwrap() {
            let start: jiff::Timestamp = bucket["start"].as_str().unwrap().parse().unwrap();
            let hour = start.strftime("%Y-%m-%d %H:%M:%S.000000+00");
            expected.push(format!("{},{hour},{},{}", series["device"].as_str().unwrap(), bucket["value"], bucket["count"]));
        }
    }
    assert_eq!(numbers(&ask(&conca, by_hour)), numbers(&expected.join("\n")));
    assert_eq!(expected.len(), 7);
    // What a panel of Grafana asks once its macros are put in: $__timeGroup and $__timeFilter, and those of Unix time.
    for panel in [
        "SELECT floor(extract(epoch from time)/3600)*3600 AS \"time\", avg(value) AS pm10 FROM observation WHERE property = 'pm10' AND \
         time BETWEEN '2026-03-29T00:00:00Z' AND '2026-03-29T02:59:59Z' GROUP BY 1 ORDER BY 1",
        "SELECT date_trunc('hour', time) AS \"time\", avg(value) AS pm10 FROM observation WHERE property = 'pm10' AND \
         extract(epoch from time) >= 1774742400 AND extract(epoch from time) <= 1774753199 GROUP BY 1 ORDER BY 1",
        "SELECT time AS \"time\", mean AS pm10 FROM rollup_1h WHERE property = 'pm10' AND device = 'station-1' AND \
         time BETWEEN '2026-03-29T00:00:00Z' AND '2026-03-29T02:59:59Z' ORDER BY 1",
    ] {
        assert_eq!(ask(&conca, panel).lines().count(), 4, "{panel}");
    }
    let several =
        psql(&format!("postgresql://analyst@{}/conca", conca.postgres()), &["-c", "BEGIN; SELECT 1 AS one; SELECT 2 AS two; COMMIT"]);
    assert_eq!(String::from_utf8(several.stdout).unwrap(), "BEGIN\none\n1\ntwo\n2\nCOMMIT\n");
    let columns = "(SELECT device, value, NULL AS nothing FROM observation WHERE property = 'pm10' ORDER BY time, device LIMIT 2)";
    for (copy, expected) in [
        (format!("COPY {columns} TO STDOUT"), "station-1\t0\t\\N\nstation-2\t7.3\t\\N\n"),
        (format!("COPY {columns} TO STDOUT (FORMAT csv, HEADER, DELIMITER ';')"), "device;value;nothing\nstation-1;0;\nstation-2;7.3;\n"),
        (format!("\\copy {columns} to stdout csv header"), "device,value,nothing\nstation-1,0,\nstation-2,7.3,\n"),
        ("COPY property (property) TO STDOUT CSV".to_owned(), "pm10\n"),
    ] {
        let copied = ask(&conca, &copy);
        assert!(copied == expected || (expected == "pm10\n" && copied.contains(expected)), "{copy}: {copied}");
    }
    let fetched = "BEGIN; DECLARE two CURSOR FOR SELECT a.value FROM generate_series(1, 5) a ORDER BY 1; FETCH 2 FROM two; \
                   FETCH FORWARD ALL FROM two; CLOSE two; COMMIT";
    let fetched = psql(&format!("postgresql://analyst@{}/conca", conca.postgres()), &["-c", fetched]);
    assert_eq!(String::from_utf8(fetched.stdout).unwrap(), "BEGIN\nDECLARE CURSOR\nvalue\n1\n2\nvalue\n3\n4\n5\nCLOSE CURSOR\nCOMMIT\n");
    let rome = ask(&conca, "SET TIME ZONE 'Europe/Rome'; SELECT max(time) AS newest FROM observation");
    assert!(rome.contains("2026-03-29"), "{rome}");
    for (statement, code) in [
        ("SELECT value FROM", "42601"),
        ("SELECT * FROM nowhere", "42P01"),
        ("SELECT colour FROM observation", "42703"),
        ("DROP TABLE observation", "25006"),
        ("INSERT INTO observation VALUES ('a')", "25006"),
        ("COPY observation TO '/tmp/observation.csv'", "25006"),
        ("COPY observation FROM STDIN", "25006"),
        ("COPY observation TO STDOUT (FORMAT parquet)", "22023"),
        ("COPY observation TO STDOUT (FORCE_QUOTE (device))", "0A000"),
        ("DECLARE back SCROLL CURSOR FOR SELECT 1", "0A000"),
        ("FETCH 1 FROM nobody", "34000"),
        ("CREATE EXTENSION dblink", "25006"),
        ("SELECT * FROM '/etc/passwd'", "42P01"),
        ("SELECT repeat('x', 2000000000)", "42000"),
    ] {
        let said = refused(&conca, statement);
        assert!(said.contains(&format!("ERROR:  {code}: ")), "{statement}: {said}");
    }
    let faulty = refused(&conca, "SELECT value,\n colour FROM observation");
    assert!(faulty.contains("LINE 2:  colour FROM observation\n         ^"), "{faulty}");
    conca.stop();
}

/// Lines with their numbers to nine digits: sums may differ in their last ones.
fn numbers(csv: &str) -> Vec<Vec<String>> {
    let rounded = |field: &str| field.parse::<f64>().map_or_else(|_text| field.to_owned(), |number| format!("{number:.9e}"));
    csv.lines().map(|line| line.split(',').map(rounded).collect()).collect()
}

/// What a program in Python saw.
fn driven(program: &str, conca: &Conca) -> Value {
    let output = python(program).arg(format!("postgresql://analyst@{}/conca", conca.postgres())).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_driver_prepares_types_and_cancels() {
    let broker = Broker::start();
    let setup = listening(Setup::of(&broker));
    let conca = loaded(&setup, &broker);
    let seen = driven("postgres_client.py", &conca);
    assert_eq!(
        seen,
        json!({
            "types": ["timestamptz", "text", "float8"],
            "rows": [["2026-03-29T00:00:00+00:00", "station-1", 0.0], ["2026-03-29T00:00:00+00:00", "station-2", 7.3]],
            "counts": [360, 360, 0],
            "binary": ["2026-03-29T00:00:00+00:00", 0.0, true, "pa-c1", 13.36],
            "values": [1.75, "l'Aquila; --", null],
            "named": [["time", "value"], [50, 50, 80]],
            "named binary": 7.3,
            "closed": "34000",
            "too many cursors": [100, "53400"],
            "copied": [
                ["2026-03-29T00:00:00+00:00", "station-1", 0.0, "pa-c1"],
                ["2026-03-29T00:00:00+00:00", "station-1", 10.0, "pa-c1"],
                ["2026-03-29T00:00:00+00:00", "station-2", 7.3, "pa-c1"],
            ],
            "copied alike": true,
            "copied nothing": [],
            "copy broke off": "42000",
            "many": [[20_000, 19_999, 19_998], 20_000],
            "errors": { "syntax": "42601", "table": "42P01", "column": "42703", "change": "25006", "after an error": null },
            "cancelled": ["57014", true],
            "timeout": "57014",
            "after": 1,
        })
    );
    conca.stop();
}

#[test]
fn a_program_for_tables_gets_arrow() {
    let broker = Broker::start();
    let setup = listening(Setup::of(&broker));
    let conca = loaded(&setup, &broker);
    let mut seen = driven("adbc_client.py", &conca);
    let sum = seen.as_object_mut().unwrap().remove("sum").and_then(|sum| sum.as_f64()).unwrap();
    assert!((sum - (180.0 * 179.0 / 2.0 + 180.0 * 7.3)).abs() < 1e-6, "{sum}");
    assert_eq!(
        seen,
        json!({
            "types": ["timestamp[us, tz=UTC]", "string", "double", "bool", "string"],
            "rows": 360,
            "first": ["2026-03-29 00:00:00+00:00", "station-1", "0.0", "True", "pa-c1"],
            "grouped": [{ "device": "station-1", "n": 180, "mean": 10.0 }, { "device": "station-2", "n": 180, "mean": 10.0 }],
            "bound": [{ "value": 7.3 }, { "value": 7.3 }],
            "nothing": 0,
            "column": "42703",
        })
    );
    conca.stop();
}

#[test]
fn a_client_that_goes_takes_its_statement_along() {
    let setup = listening(Setup::new()).set("sql.concurrent_per_caller_max", 1).set("sql.timeout", "50s");
    let conca = setup.start_unready();
    let endless = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b WHERE a.value + b.value < 0";
    let address = format!("postgresql://analyst@{}/conca", conca.postgres());
    let mut client = Command::new("psql").args(["--no-psqlrc", &address, "-c", endless]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(client.try_wait().unwrap().is_none(), "it is under way");
    client.kill().unwrap();
    client.wait().unwrap();
    // The caller's only place is free again long before the statement's time is over.
    let began = Instant::now();
    assert_eq!(ask(&conca, "SELECT 1 AS one"), "one\n1\n");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    // One that does nothing does not hold up the end.
    let mut idle = Command::new("psql").args(["--no-psqlrc", &address, "-c", "\\! sleep 60"]).spawn().unwrap();
    conca.stop();
    idle.kill().unwrap();
    idle.wait().unwrap();
}

#[test]
fn only_who_may_read_comes_in_and_only_encrypted() {
    let certificates = Certificates::make();
    let mut tokens = Vec::new();
    let mut secrets = Vec::new();
    for (name, role) in [("analyst", "read"), ("gateway", "write")] {
        let output = conca_command().args(["token", name, "--role", role]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        secrets.push(text.split("Bearer ").nth(1).unwrap().lines().next().unwrap().to_owned());
        let table: Table = toml::from_str(&text).unwrap();
        tokens.extend(table["api"]["tokens"].as_array().unwrap().clone());
    }
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let setup = listening(Setup::new())
        .set("api.tokens", tokens)
        .set("api.certificate_file", path(&certificates.server))
        .set("api.key_file", path(&certificates.server_key));
    let conca = setup.spawn();
    wait_until("it listens", || conca.log().contains("the interface listens"));
    let port = conca.postgres().port();
    let connect = |user: &str, secret: &str, tls: &str| {
        let address =
            format!("postgresql://{user}:{secret}@127.0.0.1:{port}/conca?sslmode={tls}&sslrootcert={}", path(&certificates.authority));
        let output = psql(&address, &["-c", "SELECT 1 AS one"]);
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    assert_eq!(connect("analyst", &secrets[0], "verify-full"), (true, "one\n1\n".to_owned()));
    for (user, secret, tls, said) in [
        ("analyst", secrets[0].as_str(), "disable", "28000"),
        ("analyst", "wrong", "verify-full", "28P01"),
        ("nobody", secrets[0].as_str(), "verify-full", "28P01"),
        ("gateway", secrets[1].as_str(), "verify-full", "28P01"),
    ] {
        let (succeeded, text) = connect(user, secret, tls);
        assert!(!succeeded && text.contains("FATAL"), "{user} {tls}, {said}: {text}");
    }
    assert!(!conca.log().contains(&secrets[0]), "the log holds a secret");
    conca.stop();
}
