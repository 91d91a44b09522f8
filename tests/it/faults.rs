//! Whatever breaks, and whenever: what was acknowledged is there, once, and the ledger says what became of everything.

use std::time::Duration;

use conca::state::Counts;

use crate::support::{Access, Broker, Conca, Load, Outgoing, Proxy, Publisher, Setup, Shortage, Store, eventually, now_millis, wait_until};

/// Flushes, merges and compactions come often, so that faults meet them.
fn restless(broker: &Broker) -> Setup {
    Setup::of(broker).set("lake.flush_after", "300ms").set("lake.merge_every", "700ms").set("lake.maintain_every", "500ms")
}

/// Waits until everything of a load is durable, whatever came twice, and checks that it is there once.
#[track_caller]
fn check_whole(setup: &Setup, conca: Conca, load: &Load) {
    let looks = setup.looks();
    wait_until("everything is accepted", || looks.ledger().accepted >= load.len());
    conca.stop();
    check_stored(setup, load);
}

/// Checks, after the program's end, that a load is stored once and the ledger knows no more and no less.
#[track_caller]
fn check_stored(setup: &Setup, load: &Load) {
    let store = Store::open(&setup.data());
    let rows = store.rows();
    let missing = load.expected.iter().filter(|(identity, value)| rows.get(*identity) != Some(value)).count();
    let strange = rows.keys().filter(|identity| !load.expected.contains_key(*identity)).count();
    assert_eq!((missing, strange), (0, 0), "values missing, and values that nobody sent");
    store.settle();
    assert!(store.rows() == load.expected, "settling changes what is stored");
    let counts = store.ledger();
    let expected = Counts {
        received: load.len() + counts.repeated,
        accepted: load.len(),
        repeated: counts.repeated,
        readings: load.len() * 2,
        stored: load.len() * 2,
        ..Counts::default()
    };
    assert_eq!(counts, expected);
}

#[test]
fn ten_kills_under_load_lose_nothing_and_double_nothing() {
    let broker = Broker::start();
    let setup = restless(&broker);
    // The session must exist before the first message.
    setup.start().stop();
    let load = Load::new(40, 400, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| Publisher::connect(broker.address()).send_slowly(&load.messages, 1_200));
        for _life in 0..10 {
            let conca = setup.start();
            std::thread::sleep(Duration::from_millis(fastrand::u64(50..900)));
            conca.kill();
        }
    });
    check_whole(&setup, setup.start(), &load);
}

#[test]
fn what_was_committed_but_not_acknowledged_is_repeated_and_changes_nothing() {
    let broker = Broker::start();
    let proxy = Proxy::to(broker.address());
    let setup = restless(&broker).source("url", proxy.url());
    let conca = setup.start();
    let looks = setup.looks();
    proxy.swallow();
    // In order, corrected and corrected back, not valid at all, valid in part.
    let now = now_millis() - 60_000;
    let say = |millis: i64, value: f64| Outgoing::readings("a", now + millis, &[("pm10", value)]);
    let mut messages: Vec<Outgoing> = (0..500).map(|millis| say(millis, 1.0)).collect();
    messages.extend([say(7, 2.0), say(7, 3.0), say(8, 2.0), say(8, 1.0)]);
    messages.push(Outgoing::new("conca/v1/energy/meter/m", "{"));
    messages.push(Outgoing::readings("b", now, &[("pm10", 1.0), ("pm99", 1.0)]));
    Publisher::connect(broker.address()).send(&messages);
    let sent = i64::try_from(messages.len()).unwrap();
    looks.ledger_of(sent);
    let before = eventually("late rows are compared", || Some(looks.ledger()).filter(|counts| counts.pending == 0));
    assert_eq!((before.stored, before.corrected, before.quarantined, before.rejected), (501, 4, 1, 1));
    conca.kill();

    let setup = setup.source("url", broker.url());
    let conca = setup.start();
    let after = looks.ledger_of(2 * sent);
    assert_eq!(after, Counts { received: 2 * sent, repeated: sent, ..before });
    assert_eq!(looks.quarantine().len(), 2);
    conca.stop();
    let rows = Store::open(&setup.data()).rows();
    let value = |millis: i64| rows[&("a".to_owned(), "pm10".to_owned(), (now + millis) * 1_000)];
    assert_eq!((value(6), value(7), value(8)), (1.0, 3.0, 1.0));
}

#[test]
fn a_stop_under_load_is_quick_and_loses_nothing() {
    let broker = Broker::start();
    let setup = restless(&broker);
    setup.start().stop();
    let load = Load::new(40, 200, 0);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| Publisher::connect(broker.address()).send(&load.messages));
        for _life in 0..3 {
            let conca = setup.start();
            let looks = setup.looks();
            let before = looks.ledger().accepted;
            wait_until("it works", || looks.ledger().accepted > before || sending.is_finished());
            conca.terminate();
            let started = std::time::Instant::now();
            let (status, log) = conca.wait();
            assert!(status.success() && log.contains("stopped"), "{status}: {log}");
            assert!(!log.contains("in time"), "a deadline passed: {log}");
            assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
        }
    });
    check_whole(&setup, setup.start(), &load);
}

#[test]
fn a_killed_broker_costs_nothing_that_was_acknowledged() {
    let mut broker = Broker::start();
    let setup = restless(&broker).source("backoff_max", "500ms");
    let conca = setup.start();
    let looks = setup.looks();
    let load = Load::new(40, 100, 0);
    let (before, after) = load.messages.split_at(load.messages.len() / 2);

    let address = broker.address();
    let sent = std::thread::scope(|scope| {
        let sending = scope.spawn(move || {
            let mut publisher = Publisher::connect(address);
            let mut acknowledged = Vec::new();
            for (number, chunk) in before.chunks(50).enumerate() {
                let sent = publisher.try_send(chunk);
                acknowledged.extend(sent.acknowledged.iter().map(|index| number * 50 + index));
                if sent.broken.is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            acknowledged
        });
        wait_until("half of it is there", || looks.ledger().accepted >= 700);
        broker.kill();
        sending.join().unwrap()
    });
    wait_until("the break is noticed", || conca.count("not connected") >= 1);
    let accepted = looks.ledger().accepted;
    broker.restart();
    wait_until("the connection is made again", || conca.count("subscribed source=") >= 2);

    // A device that got no acknowledgement sends again.
    let mut again: Vec<Outgoing> = before.to_vec();
    let mut index = 0;
    again.retain(|_message| {
        index += 1;
        !sent.contains(&(index - 1))
    });
    let mut publisher = Publisher::connect(broker.address());
    publisher.send(&again);
    publisher.send(after);
    let last = load.expected.iter().max_by_key(|((_device, _property, time), _value)| *time).unwrap().0.clone();
    wait_until("everything that the restarted broker took is there", || {
        looks.ledger().accepted >= accepted + i64::try_from(again.len() + after.len()).unwrap()
    });
    conca.stop();

    let store = Store::open(&setup.data());
    store.settle();
    let (rows, counts) = (store.rows(), store.ledger());
    assert!(rows.contains_key(&last));
    assert!(rows.iter().all(|(identity, value)| load.expected.get(identity) == Some(value)));
    // What is missing the broker had acknowledged, but neither saved nor delivered: Conca never received it.
    let missing = i64::try_from(load.expected.len() - rows.len()).unwrap();
    let undelivered = i64::try_from(sent.len()).unwrap() - accepted;
    assert!(
        missing <= 2 * undelivered.max(0),
        "{missing} values are missing, at most {undelivered} messages were the broker's alone: {counts:?}"
    );
    assert_eq!(counts.stored, i64::try_from(rows.len()).unwrap(), "{counts:?}");
    assert_eq!((counts.rejected, counts.corrected, counts.pending), (0, 0, 0), "{counts:?}");
}

#[test]
fn a_broker_may_come_later() {
    let mut broker = Broker::prepare(&Access::Open);
    let setup = Setup::of(&broker).source("backoff_max", "500ms");
    let conca = setup.start_unready();
    wait_until("the connection is tried again and again", || conca.count("not connected") >= 3);
    broker.restart();
    wait_until("it connects", || conca.count("subscribed source=") == 1);
    let load = Load::new(5, 5, 0);
    Publisher::connect(broker.address()).send(&load.messages);
    check_whole(&setup, conca, &load);
}

#[test]
fn below_the_disk_reserve_nothing_is_acknowledged_and_afterwards_nothing_is_missing() {
    let broker = Broker::start();
    let setup = restless(&broker).set("intake.disk_reserve_mib", 24);
    let shortage = Shortage::of(&setup.data(), 48);
    let conca = setup.start();
    let looks = setup.looks();
    let (first, second) = (Load::new(20, 20, 0), Load::new(20, 100, 1));
    let mut publisher = Publisher::connect(broker.address());
    publisher.send(&first.messages);
    looks.ledger_of(first.len());

    shortage.begin_leaving_mib(16);
    publisher.send(&second.messages);
    wait_until("it says that nothing is accepted", || conca.count("nothing is accepted") == 1);
    assert!(conca.log().contains("are reserved"), "{}", conca.log());
    // Neither a kill nor a restart on a full disk loses what the broker still holds.
    let during = looks.ledger();
    assert!(during.received < first.len() + second.len(), "{during:?}");
    conca.kill();
    let conca = setup.start();
    wait_until("it says so again", || conca.count("nothing is accepted") == 1);
    assert_eq!(looks.ledger(), during);

    shortage.end();
    wait_until("it says that messages are accepted again", || conca.count("messages are accepted again") == 1);
    let whole = together(first, second);
    check_whole(&setup, conca, &whole);
}

#[test]
fn a_full_disk_loses_nothing() {
    let broker = Broker::start();
    let setup = restless(&broker).set("intake.disk_reserve_mib", 0);
    let shortage = Shortage::of(&setup.data(), 48);
    let conca = setup.start();
    let looks = setup.looks();
    let (first, second) = (Load::new(20, 20, 0), Load::new(40, 100, 1));
    let mut publisher = Publisher::connect(broker.address());
    publisher.send(&first.messages);
    looks.ledger_of(first.len());

    shortage.begin_leaving_mib(0);
    publisher.send(&second.messages);
    wait_until("it says that nothing is accepted", || conca.count("nothing is accepted") >= 1);
    assert!(conca.log().contains("no room on the disk"), "{}", conca.log());
    let during = looks.ledger();
    assert!(during.received < first.len() + second.len(), "{during:?}");

    shortage.end();
    wait_until("it says that messages are accepted again", || conca.count("messages are accepted again") >= 1);
    let whole = together(first, second);
    // The lake goes on too: what is in the log arrives in the table.
    wait_until("the lake flushes again", || eventually_flushed(&setup));
    check_whole(&setup, conca, &whole);
}

/// Whether the lake has a commit that is younger than a moment ago.
fn eventually_flushed(setup: &Setup) -> bool {
    let folder = setup.data().join("lake").join("_delta_log");
    let newest = std::fs::read_dir(folder).unwrap().filter_map(|entry| entry.unwrap().metadata().ok()?.modified().ok()).max();
    newest.and_then(|newest| newest.elapsed().ok()).is_some_and(|age| age < Duration::from_secs(1))
}

fn together(mut one: Load, other: Load) -> Load {
    one.messages.extend(other.messages);
    one.expected.extend(other.expected);
    one
}

#[test]
fn late_data_corrections_and_replays_are_told_apart() {
    let broker = Broker::start();
    let setup = restless(&broker);
    let conca = setup.start();
    let looks = setup.looks();
    let mut publisher = Publisher::connect(broker.address());
    let mut received = 0;
    let mut settled = |publisher: &mut Publisher, messages: &[Outgoing]| {
        publisher.send(messages);
        received += i64::try_from(messages.len()).unwrap();
        looks.ledger_of(received);
        eventually("late rows are compared", || Some(looks.ledger()).filter(|counts| counts.pending == 0))
    };
    // In order; then a part that is older than everything, with some readings of the first part between.
    let load = Load::new(10, 40, 1);
    let counts = settled(&mut publisher, &load.messages);
    assert_eq!((counts.stored, counts.duplicate, counts.corrected), (800, 0, 0));
    let late = Load::new(10, 10, 0);
    let mixed: Vec<Outgoing> = late.messages.iter().chain(&load.messages[..50]).cloned().collect();
    let counts = settled(&mut publisher, &mixed);
    assert_eq!((counts.stored, counts.duplicate, counts.corrected), (1_000, 100, 0));

    // Other values for the same identities: the last received wins.
    let mut whole = together(load, late);
    let corrections: Vec<(String, i64)> = whole
        .expected
        .keys()
        .filter(|(_device, property, _time)| property == "pm10")
        .map(|(device, _property, time)| (device.clone(), time / 1_000))
        .take(20)
        .collect();
    for value in [900.0, 901.0] {
        let messages: Vec<Outgoing> =
            corrections.iter().map(|(device, millis)| Outgoing::readings(device, *millis, &[("pm10", value)])).collect();
        settled(&mut publisher, &messages);
        for (device, millis) in &corrections {
            whole.expected.insert((device.clone(), "pm10".to_owned(), millis * 1_000), value);
        }
    }
    assert_eq!((looks.ledger().stored, looks.ledger().corrected), (1_000, 40));

    // The same again, also over a restart: nothing but duplicates. What had been corrected comes back, the last received.
    let settled_messages: Vec<Outgoing> = whole
        .expected
        .iter()
        .map(|((device, property, time), value)| Outgoing::readings(device, time / 1_000, &[(property, *value)]))
        .collect();
    let before = settled(&mut publisher, &settled_messages);
    let after = settled(&mut publisher, &settled_messages);
    let replayed = i64::try_from(settled_messages.len()).unwrap();
    let expected = Counts {
        received: before.received + replayed,
        accepted: before.accepted + replayed,
        readings: before.readings + replayed,
        duplicate: before.duplicate + replayed,
        ..before
    };
    assert_eq!(after, expected);
    conca.stop();
    let conca = setup.start();
    publisher.send(&settled_messages);
    looks.ledger_of(after.received + replayed);
    wait_until("late rows are compared", || looks.ledger().pending == 0);
    assert_eq!((looks.ledger().stored, looks.ledger().corrected), (1_000, 40));
    conca.stop();
    assert!(Store::open(&setup.data()).rows() == whole.expected);
}

#[test]
fn a_flood_of_poison_harms_nothing_beside_it() {
    let broker = Broker::start();
    let setup = restless(&broker).set("intake.quarantine_mib_max", 1);
    let conca = setup.start();
    let load = Load::new(10, 50, 0);
    let poison: Vec<Outgoing> = (0..4_000)
        .map(|number| Outgoing::new(&format!("conca/v1/energy/meter/{}", number % 7), format!("{{\"poison\": {number}")))
        .collect();
    std::thread::scope(|scope| {
        scope.spawn(|| Publisher::connect(broker.address()).send(&poison));
        scope.spawn(|| Publisher::connect(broker.address()).send(&load.messages));
    });
    let looks = setup.looks();
    let counts = looks.ledger_of(load.len() + 4_000);
    assert_eq!((counts.accepted, counts.rejected, counts.stored, counts.quarantined), (load.len(), 4_000, load.len() * 2, 0));
    // Devices that never sent anything valid are not devices; the quarantine's bound holds.
    wait_until("the quarantine is trimmed", || looks.quarantine().len() < 4_000);
    assert!(looks.quarantine().len() > 1_000);
    conca.stop();
    assert!(Store::open(&setup.data()).rows() == load.expected);
}

#[test]
fn a_message_in_the_queue_at_a_break_is_not_counted_twice() {
    // While the disk is short the queue is full of messages of a connection that breaks.
    let mut broker = Broker::start();
    let setup = restless(&broker).set("intake.disk_reserve_mib", 24).source("backoff_max", "500ms");
    let shortage = Shortage::of(&setup.data(), 48);
    let conca = setup.start();
    shortage.begin_leaving_mib(16);
    let load = Load::new(20, 50, 0);
    Publisher::connect(broker.address()).send(&load.messages);
    wait_until("it says that nothing is accepted", || conca.count("nothing is accepted") == 1);
    broker.wait_until_saved();
    broker.kill();
    broker.restart();
    wait_until("the connection is made again", || conca.count("subscribed source=") >= 2);
    shortage.end();
    let looks = setup.looks();
    wait_until("everything is accepted", || looks.ledger().accepted >= load.len());
    Publisher::connect(broker.address()).send(&[Outgoing::readings("last", now_millis(), &[("pm10", 1.0)])]);
    wait_until("what comes after is there", || looks.ledger().stored > load.len() * 2);
    conca.stop();
    let store = Store::open(&setup.data());
    store.settle();
    assert_eq!(i64::try_from(store.rows().len()).unwrap(), load.len() * 2 + 1);
    let counts = store.ledger();
    assert_eq!((counts.stored, counts.corrected), (load.len() * 2 + 1, 0), "{counts:?}");
}
