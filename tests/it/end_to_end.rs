//! From a publisher through Mosquitto to what is stored: nothing missing, nothing twice, nothing unexplained.

use std::collections::BTreeMap;

use conca::state::Counts;

use crate::support::{Access, Broker, Certificates, Load, Outgoing, Publisher, Setup, Store, now_millis, wait_until};

/// What should become of a message.
#[derive(Clone, Copy)]
struct Fate {
    accepted: bool,
    /// Values.
    stored: i64,
    /// Values.
    quarantined: i64,
    /// Of the first fault; empty where there is none.
    reason: &'static str,
}

const fn good(stored: i64) -> Fate {
    Fate { accepted: true, stored, quarantined: 0, reason: "" }
}

const fn partly(stored: i64, quarantined: i64, reason: &'static str) -> Fate {
    Fate { accepted: true, stored, quarantined, reason }
}

const fn bad(quarantined: i64, reason: &'static str) -> Fate {
    Fate { accepted: false, stored: 0, quarantined, reason }
}

const PAYLOAD_BYTES_MAX: usize = 2_000;

/// Every kind of message, and its fate where at most 10 readings, 2,000 bytes and 3 devices are allowed.
fn cases(now: i64) -> Vec<(&'static str, String, Fate)> {
    const A: &str = "environment/air-station/a";
    let one = |reading: &str| format!(r#"{{"time":{now},"readings":{{{reading}}}}}"#);
    let at = |offset: i64, rest: &str| format!(r#"{{"time":{}{rest},"readings":{{"pm10":1}}}}"#, now + offset);
    let many: Vec<String> = (0..11).map(|number| format!(r#""p{number}":1"#)).collect();
    vec![
        (A, at(1_000, ""), good(1)),
        (A, at(2_000, r#","position":{"lon":13.36,"lat":38.11}"#), good(1)),
        (A, format!("[{},{}]", at(3_000, ""), at(4_000, "")), good(2)),
        (
            A,
            format!(
                r#"{{"time":{},"readings":{{"temperature":{{"value":64.9,"unit":"[degF]"}},"humidity":50,"pressure":1013}}}}"#,
                now + 5_000
            ),
            good(3),
        ),
        ("security/door/b", one(r#""door":"open","tamper":false"#), good(2)),
        // Partly.
        (A, format!(r#"{{"time":{},"readings":{{"pm10":6,"pm99":1,"no2":null}}}}"#, now + 6_000), partly(1, 2, "invalid-value")),
        (A, format!(r#"[{},{{"readings":{{"pm10":1,"no2":2}}}},7]"#, at(7_000, "")), partly(1, 3, "missing-time")),
        // Not at all.
        ("environment/air-station", at(0, ""), bad(0, "topic")),
        ("weather/air-station/a", at(0, ""), bad(0, "topic")),
        ("environment/air-station/a b", at(0, ""), bad(0, "name")),
        (A, format!("{:>1$}", at(8_000, ""), PAYLOAD_BYTES_MAX + 1), bad(0, "too-large")),
        (A, one(&many.join(",")), bad(0, "too-many-readings")),
        (A, String::new(), bad(0, "empty")),
        (A, r#"{"time":0,"readings":{}}"#.to_owned(), bad(0, "empty")),
        (A, "{".to_owned(), bad(0, "not-json")),
        (A, "7".to_owned(), bad(0, "shape")),
        (A, one(r#""pm10":[1]"#), bad(1, "shape")),
        (A, r#"{"readings":{"pm10":1,"no2":1}}"#.to_owned(), bad(2, "missing-time")),
        (A, r#"{"time":"yesterday","readings":{"pm10":1}}"#.to_owned(), bad(1, "invalid-time")),
        (A, r#"{"time":9999999999999,"readings":{"pm10":1}}"#.to_owned(), bad(1, "absurd-time")),
        (A, at(2 * 86_400_000, ""), bad(1, "absurd-time")),
        (A, at(0, r#","position":{"lon":181,"lat":0}"#), bad(1, "invalid-position")),
        (A, one(r#""pm99":1"#), bad(1, "unknown-property")),
        (A, one(r#""pm10":"high","door":"ajar""#), bad(2, "invalid-value")),
        (A, one(r#""temperature":{"value":1,"unit":"°C"}"#), bad(1, "unknown-unit")),
        (A, one(r#""temperature":{"value":1,"unit":"kW.h"}"#), bad(1, "wrong-dimension")),
        // The third device is let in, the fourth is not.
        ("mobility/bus/c", one(r#""bus_speed":30"#), good(1)),
        ("mobility/bus/d", one(r#""bus_speed":30,"bus_passengers":40"#), bad(2, "too-many-devices")),
        // What went wrong before harms nothing after it.
        (A, at(9_000, ""), good(1)),
    ]
}

#[test]
fn every_message_is_stored_or_explained_and_the_ledger_says_so() {
    let broker = Broker::start();
    let setup = Setup::of(&broker)
        .set("ingest.payload_bytes_max", i64::try_from(PAYLOAD_BYTES_MAX).unwrap())
        .set("ingest.readings_max", 10)
        .set("intake.devices_max", 3);
    let conca = setup.start();
    let now = now_millis() - 60_000;
    let cases = cases(now);
    let mut messages: Vec<Outgoing> =
        cases.iter().map(|(topic, payload, _fate)| Outgoing::new(&format!("conca/v1/{topic}"), payload.clone())).collect();
    messages.push(Outgoing::new("conca/v1/environment/air-station/a", b"{\"time\":0\xff}".as_slice()));
    let fates: Vec<Fate> = cases.iter().map(|(_topic, _payload, fate)| *fate).chain([bad(0, "not-utf8")]).collect();
    Publisher::connect(broker.address()).send(&messages);

    let looks = setup.looks();
    let counts = looks.ledger_of(i64::try_from(messages.len()).unwrap());
    let sum = |of: fn(&Fate) -> i64| fates.iter().map(of).sum::<i64>();
    let expected = Counts {
        received: i64::try_from(messages.len()).unwrap(),
        accepted: sum(|fate| i64::from(fate.accepted)),
        rejected: sum(|fate| i64::from(!fate.accepted)),
        readings: sum(|fate| fate.stored + fate.quarantined),
        stored: sum(|fate| fate.stored),
        quarantined: sum(|fate| fate.quarantined),
        ..Counts::default()
    };
    assert_eq!(counts, expected);

    let mut kept = looks.quarantine();
    kept.reverse();
    let refused: Vec<(&Outgoing, &Fate)> = messages.iter().zip(&fates).filter(|(_message, fate)| !fate.reason.is_empty()).collect();
    assert_eq!(kept.len(), refused.len());
    for (kept, (message, fate)) in kept.iter().zip(&refused) {
        let found = (kept.reason.as_str(), kept.whole, kept.topic.as_str(), kept.payload.as_slice(), kept.source.as_str());
        assert_eq!(found, (fate.reason, !fate.accepted, message.topic.as_str(), message.payload.as_ref(), "city"), "{}", kept.faults);
    }
    // Every reason was met that does not need a fault of the program itself, another family of payloads, or another store.
    let elsewhere = ["panic", "malformed", "unsupported", "unmapped", "before-birth", "refused-by-store"];
    let met: std::collections::BTreeSet<&str> = fates.iter().map(|fate| fate.reason).filter(|reason| !reason.is_empty()).collect();
    let all = conca::model::Reason::ALL.iter().map(|reason| reason.as_str()).filter(|reason| !elsewhere.contains(reason)).collect();
    assert_eq!(met, all);

    conca.stop();
    let store = Store::open(&setup.data());
    let rows = store.rows();
    assert_eq!(i64::try_from(rows.len()).unwrap(), expected.stored);
    let value = |property: &str, offset: i64| rows.get(&("a".to_owned(), property.to_owned(), (now + offset) * 1_000)).copied();
    assert_eq!((value("temperature", 5_000), value("pm10", 6_000), value("no2", 6_000)), (Some(18.28), Some(6.0), None));
}

#[test]
fn a_load_is_stored_whole() {
    let broker = Broker::start();
    let setup = Setup::of(&broker).set("lake.flush_after", "1s").set("lake.merge_every", "1s");
    let conca = setup.start();
    let load = Load::new(50, 200, 0);
    Publisher::connect(broker.address()).send(&load.messages);
    let counts = setup.looks().ledger_of(load.len());
    assert_eq!(
        counts,
        Counts { received: load.len(), accepted: load.len(), readings: load.len() * 2, stored: load.len() * 2, ..Counts::default() }
    );
    conca.stop();
    assert!(Store::open(&setup.data()).rows() == load.expected, "what is stored is not what was sent");
}

#[test]
fn a_retained_message_is_taken_once_and_not_again_at_every_reconnect() {
    let broker = Broker::start();
    let message = Outgoing::readings("a", now_millis() - 1_000, &[("pm10", 7.0)]).retained();
    Publisher::connect(broker.address()).send(std::slice::from_ref(&message));
    let setup = Setup::of(&broker);
    let conca = setup.start();
    setup.looks().ledger_of(1);
    conca.stop();
    let conca = setup.start();
    Publisher::connect(broker.address()).send(&[Outgoing::readings("b", now_millis(), &[("pm10", 8.0)])]);
    let counts = setup.looks().ledger_of(2);
    assert_eq!((counts.stored, counts.duplicate + counts.pending), (2, 0));
    conca.stop();
}

#[test]
fn messages_of_qos_0_are_stored_too() {
    let broker = Broker::start();
    let setup = Setup::of(&broker);
    let conca = setup.start();
    let load = Load::new(10, 20, 0);
    let messages: Vec<Outgoing> = load.messages.iter().cloned().map(Outgoing::at_most_once).collect();
    Publisher::connect(broker.address()).send(&messages);
    setup.looks().ledger_of(load.len());
    conca.stop();
    assert!(Store::open(&setup.data()).rows() == load.expected);
}

#[test]
fn nodes_of_a_shared_subscription_store_every_message_once() {
    let broker = Broker::start();
    let subscription = || {
        let entries = [("topic", "conca/v1/#"), ("share", "nodes")];
        toml::Value::Array(vec![toml::Value::Table(entries.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect())])
    };
    let node = |id: &str| Setup::of(&broker).set("node.id", id).source("subscriptions", subscription());
    let (one, other) = (node("one"), node("other"));
    let (first, second) = (one.start(), other.start());
    let load = Load::new(50, 60, 0);
    Publisher::connect(broker.address()).send(&load.messages);
    let received = || one.looks().ledger().received + other.looks().ledger().received;
    wait_until("both nodes together have everything", || received() >= load.len());
    first.stop();
    second.stop();
    let (left, right) = (Store::open_of("one", &one.data()).rows(), Store::open_of("other", &other.data()).rows());
    assert!(!left.is_empty() && !right.is_empty(), "the broker shares nothing: {} and {}", left.len(), right.len());
    assert_eq!((received(), left.len() + right.len()), (load.len(), load.expected.len()));
    let together: BTreeMap<_, _> = left.into_iter().chain(right).collect();
    assert!(together == load.expected);
}

#[test]
fn tls_with_a_client_certificate() {
    let certificates = Certificates::make();
    let broker = Broker::start_for(&Access::Certificate(&certificates));
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let setup = |certificates: &Certificates| {
        Setup::new()
            .add_source("city", &broker.secure_url())
            .source("ca_file", path(&certificates.authority))
            .source("certificate_file", path(&certificates.client))
            .source("key_file", path(&certificates.client_key))
    };
    let trusted = setup(&certificates);
    let conca = trusted.start();
    Publisher::connect(broker.address()).send(&[Outgoing::readings("a", now_millis(), &[("pm10", 7.0)])]);
    assert_eq!(trusted.looks().ledger_of(1).stored, 1);
    conca.stop();

    // Somebody else's authority: neither side trusts the other.
    let strangers = Certificates::make();
    let strange = setup(&strangers);
    let conca = strange.start_unready();
    wait_until("the connection is tried again and again", || conca.count("not connected") >= 2);
    assert!(conca.log().contains("invalid peer certificate"), "{}", conca.log());
    conca.stop();
}

#[test]
fn user_and_password_come_from_the_environment_and_a_wrong_one_is_tried_again() {
    let broker = Broker::start_for(&Access::Password("another"));
    let setup = Setup::of(&broker).environment("CONCA_SOURCE_CITY_USER", "conca").environment("CONCA_SOURCE_CITY_PASSWORD", "sesame");
    let conca = setup.start_unready();
    wait_until("the connection is tried again and again", || conca.count("not connected") >= 2);
    let log = conca.log();
    assert!(log.contains("NotAuthorized") || log.contains("BadUserNamePassword"), "{log}");
    assert!(!log.contains("sesame"), "{log}");
    broker.configure(&Access::Password("sesame"));
    broker.reload();
    wait_until("it is let in", || conca.count("subscribed source=city") == 1);
    Publisher::login(broker.address(), Some(("publisher", "publisher"))).send(&[Outgoing::readings("a", now_millis(), &[("pm10", 7.0)])]);
    assert_eq!(setup.looks().ledger_of(1).stored, 1);
    conca.stop();
}

#[test]
fn no_length_of_a_payload_breaks_the_connection() {
    const MAX: usize = 1_000;
    let broker = Broker::start();
    let setup = Setup::of(&broker).set("ingest.payload_bytes_max", i64::try_from(MAX).unwrap());
    let conca = setup.start();
    let mut publisher = Publisher::connect(broker.address());
    let now = now_millis() - 3_600_000;
    let padded = |index: usize, length: usize| {
        let message = Outgoing::readings("a", now + i64::try_from(index).unwrap(), &[("pm10", 7.0)]);
        let text = std::str::from_utf8(&message.payload).unwrap();
        Outgoing::new(&message.topic, format!("{text:<length$}"))
    };
    // Around the limit, and around four times the limit, up to which a packet is taken at all.
    let lengths: Vec<usize> = (MAX - 2..=MAX + 2).chain(4 * MAX - 80..=4 * MAX + 5).collect();
    let messages: Vec<Outgoing> = lengths.iter().enumerate().map(|(index, length)| padded(index, *length)).collect();
    publisher.send(&messages);
    publisher.send(&[Outgoing::readings("b", now, &[("pm10", 8.0)])]);
    let looks = setup.looks();
    wait_until("what comes after is stored", || looks.ledger().stored == 4);
    let counts = looks.ledger();
    assert!(counts.rejected > 10 && counts.rejected < i64::try_from(lengths.len()).unwrap() - 3, "{counts:?}");
    assert!(looks.quarantine().iter().all(|message| message.reason == "too-large" && message.payload.len() > MAX));
    assert_eq!((conca.count(": connected source="), conca.count("not connected")), (1, 0));
    conca.stop();
}
