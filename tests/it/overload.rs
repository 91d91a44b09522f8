//! More than can be taken: the broker holds the backlog, memory stays bounded, the connection lives.

use std::time::{Duration, Instant};

use crate::support::{Broker, Load, Outgoing, Publisher, Setup, Shortage, Store, wait_until};

/// Queues as small as they may be, so that a test's load overwhelms them.
fn narrow(broker: &Broker) -> Setup {
    Setup::of(broker)
        .set("ingest.queue_messages", 50)
        .set("ingest.queue_mib", 1)
        .set("intake.batch_messages_max", 25)
        .source("keep_alive", "5s")
}

#[test]
fn a_publisher_that_is_much_faster_only_waits() {
    let broker = Broker::start();
    let setup = narrow(&broker);
    let conca = setup.start();
    let load = Load::new(100, 120, 0);
    // As fast as the broker takes them.
    Publisher::connect(broker.address()).send(&load.messages);
    let looks = setup.looks();
    assert!(looks.ledger().received < load.len(), "the load is no load");
    looks.ledger_of(load.len());
    assert_eq!(conca.count("not connected"), 0, "{}", conca.log());
    // All of it took less than this; the messages alone are not the question, a debug build and Delta Lake are in it.
    let peak = conca.memory_peak_kib() / 1_024;
    assert!(peak < 400, "{peak} MiB");
    conca.stop();
    assert!(Store::open(&setup.data()).rows() == load.expected);
}

#[test]
fn large_messages_are_bounded_by_memory() {
    let broker = Broker::start();
    let setup = Setup::of(&broker).set("ingest.queue_mib", 4).set("intake.disk_reserve_mib", 24).source("keep_alive", "5s");
    let shortage = Shortage::of(&setup.data(), 48);
    let conca = setup.start();
    shortage.begin_leaving_mib(16);
    let load = Load::new(10, 50, 0);
    // 30 MB, of which 4 MiB may wait here.
    let messages: Vec<Outgoing> = load
        .messages
        .iter()
        .map(|message| Outgoing::new(&message.topic, format!("{:<60000}", std::str::from_utf8(&message.payload).unwrap())))
        .collect();
    Publisher::connect(broker.address()).send(&messages);
    wait_until("it says that nothing is accepted", || conca.count("nothing is accepted") == 1);
    // Two turns of keep-alive with a full queue.
    std::thread::sleep(Duration::from_secs(12));
    let peak = conca.memory_peak_kib() / 1_024;
    assert!(peak < 300, "{peak} MiB");
    shortage.end();
    let looks = setup.looks();
    wait_until("everything is accepted", || looks.ledger().accepted >= load.len());
    conca.stop();
    assert!(Store::open(&setup.data()).rows() == load.expected);
}

#[test]
fn keep_alive_goes_on_while_a_full_queue_stops_the_reading() {
    let broker = Broker::start();
    let setup = narrow(&broker).set("intake.disk_reserve_mib", 24);
    let shortage = Shortage::of(&setup.data(), 48);
    let conca = setup.start();
    let looks = setup.looks();
    let load = Load::new(50, 100, 0);
    let mut publisher = Publisher::connect(broker.address());
    shortage.begin_leaving_mib(16);
    // More than one Receive Maximum: publishes fill the way in front of every answer to a ping.
    publisher.send(&load.messages);
    wait_until("it says that nothing is accepted", || conca.count("nothing is accepted") == 1);
    let began = Instant::now();
    // Four keep-alives: the broker would have closed the connection after one and a half.
    wait_until("four keep-alives pass", || {
        assert_eq!(conca.count("not connected"), 0, "after {:?}: {}", began.elapsed(), conca.log());
        began.elapsed() > Duration::from_secs(20)
    });
    shortage.end();
    let counts = looks.ledger_of(load.len());
    assert_eq!((counts.accepted, conca.count("not connected")), (load.len(), 0), "{}", conca.log());
    conca.stop();
    assert!(Store::open(&setup.data()).rows() == load.expected);
}

#[test]
fn qos_0_is_shed_and_counted_and_qos_1_is_not() {
    let broker = Broker::start();
    let setup = narrow(&broker);
    let conca = setup.start();
    let (unsure, sure) = (Load::new(100, 100, 0), Load::new(100, 20, 1));
    let fleeting: Vec<Outgoing> = unsure.messages.iter().cloned().map(Outgoing::at_most_once).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| Publisher::connect(broker.address()).send(&fleeting));
        scope.spawn(|| Publisher::connect(broker.address()).send(&sure.messages));
    });
    let counts = setup.looks().ledger_of(unsure.len() + sure.len());
    assert!(counts.shed > 0, "the load is no load: {counts:?}");
    assert_eq!((counts.accepted + counts.shed, counts.rejected, counts.repeated), (counts.received, 0, 0), "{counts:?}");
    conca.stop();
    let rows = Store::open(&setup.data()).rows();
    assert!(sure.expected.iter().all(|(identity, value)| rows.get(identity) == Some(value)));
    assert_eq!(i64::try_from(rows.len()).unwrap(), counts.stored + counts.pending, "{counts:?}");
}
