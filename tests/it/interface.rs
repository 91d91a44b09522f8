//! What the interface says of a running program is what was sent and what goes on.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Access, Broker, Identity, Load, Outgoing, Publisher, Setup, Shortage, wait_until};

/// The rows of a CSV answer, by identity.
fn rows(csv: &str) -> BTreeMap<Identity, f64> {
    let mut lines = csv.lines();
    assert!(lines.next().is_some_and(|header| header.starts_with("time,device,property,value,")), "{csv}");
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let time: jiff::Timestamp = cells[0].parse().unwrap();
        ((cells[1].to_owned(), cells[2].to_owned(), time.as_microsecond()), cells[3].parse().unwrap())
    };
    lines.map(row).collect()
}

#[test]
fn answers_are_what_was_sent_wherever_it_lies() {
    let broker = Broker::start();
    // Part of it in the table, part of it in the log; late rows and corrections not settled yet.
    let setup = Setup::of(&broker).set("lake.flush_after", "500ms").set("lake.merge_every", "1h");
    let conca = setup.start();
    let mut publisher = Publisher::connect(broker.address());
    let mut load = Load::new(20, 50, 1);
    publisher.send(&load.messages);
    let looks = setup.looks();
    looks.ledger_of(load.len());
    wait_until("it is flushed", || conca.get_json("/status").1["lake"]["rows"] == json!(2_000));
    let late = Load::new(20, 5, 0);
    publisher.send(&late.messages);
    load.expected.extend(late.expected);
    let corrected = load.expected.keys().next().unwrap().clone();
    publisher.send(&[Outgoing::readings(&corrected.0, corrected.2 / 1_000, &[(&corrected.1, 321.0)])]);
    load.expected.insert(corrected, 321.0);
    looks.ledger_of(1_000 + 100 + 1);

    // Values that jump as these do are suspect.
    let (code, csv) = conca.get("/v1/observations?from=now-2h&quality=any&format=csv");
    assert_eq!(code, 200, "{csv}");
    assert!(rows(&csv) == load.expected, "the interface answers something else than was sent");
    let (code, lines) = conca.get("/v1/aggregates?property=pm10&from=now-2h&window=1d&in_time=count&across=sum&quality=any&format=ndjson");
    let counted: f64 = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["value"].as_f64().unwrap()).sum();
    assert_eq!((code, counted), (200, load.expected.keys().filter(|(_device, property, _time)| property == "pm10").count() as f64));

    let (code, ledger) = conca.get_json("/v1/ledger");
    let counts = looks.ledger();
    assert_eq!((code, &ledger["balances"], &ledger["total"]), (200, &json!(true), &serde_json::to_value(counts).unwrap()));
    let (code, metrics) = conca.get("/metrics");
    assert_eq!(code, 200);
    assert!(metrics.contains("conca_messages_total{source=\"city\",outcome=\"Accepted\"} 1101"), "{metrics}");
    conca.stop();
}

/// Why the program is not ready: its one source's error, and the pause of intake.
fn trouble(status: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&status["sources"][0]["error"]), text(&status["intake"]["paused"]["reason"]))
}

#[test]
fn the_status_says_what_is_wrong_and_when_it_is_over() {
    let mut broker = Broker::prepare(&Access::Open);
    let setup = Setup::of(&broker).set("intake.disk_reserve_mib", 24).source("backoff_max", "500ms");
    let shortage = Shortage::of(&setup.data(), 48);
    let conca = setup.start_unready();
    wait_until("the broker is missed", || !trouble(&conca.get_json("/status").1).0.is_empty());
    let (code, status) = conca.get_json("/status");
    assert_eq!((code, &status["ready"]), (503, &json!(false)));
    assert!(trouble(&status).0.contains("refused"), "{status}");

    broker.restart();
    wait_until("it is ready", || conca.get("/status").0 == 200);
    shortage.begin_leaving_mib(16);
    let message = Outgoing::readings("a", crate::support::now_millis(), &[("pm10", 7.0)]);
    Publisher::connect(broker.address()).send(std::slice::from_ref(&message));
    wait_until("it stands still", || conca.get("/status").0 == 503);
    let (_code, status) = conca.get_json("/status");
    assert_eq!(trouble(&status), (String::new(), "disk-reserve".to_owned()), "{status}");
    // Questions are answered all the same.
    assert_eq!(conca.get("/v1/latest").0, 200);

    shortage.end();
    wait_until("it is ready again", || conca.get("/status").0 == 200);
    assert_eq!(setup.looks().ledger_of(1).stored, 1);
    assert_eq!(conca.get("/health").0, 200);
    conca.stop();
}
