//! Alerts over restarts and outages: none forgotten, none repeated, none of our own making.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Broker, Looks, Outgoing, Publisher, Setup, now_millis, wait_until};

fn rule(id: &str, condition: &Value, lasting: &str) -> Value {
    json!({ "id": id, "title": { "it": id, "en": id }, "severity": "warning", "condition": condition, "for": lasting })
}

fn dust() -> Value {
    rule("dust", &json!({ "type": "above", "property": "pm10", "above": 100, "clear_below": 80 }), "10m")
}

fn silent(after: &str) -> Value {
    rule("silent", &json!({ "type": "silence", "after": after }), "0s")
}

/// Rule, device and status of every alert, oldest first.
fn told(looks: &Looks) -> Vec<String> {
    let mut alerts: Vec<String> = looks
        .alerts()
        .iter()
        .map(|alert| {
            format!("{} {} {}", alert["rule"].as_str().unwrap(), alert["device"].as_str().unwrap(), alert["status"].as_str().unwrap())
        })
        .collect();
    alerts.reverse();
    alerts
}

#[test]
fn a_restart_inside_a_duration_neither_forgets_nor_repeats() {
    let broker = Broker::start();
    let setup = Setup::of(&broker).rules(&json!([dust()]));
    let looks_at = |received: i64| {
        let looks = setup.looks();
        looks.ledger_of(received);
        told(&looks)
    };
    let begin = now_millis() - 3_600_000;
    let mut publisher = Publisher::connect(broker.address());
    let mut say = |minute: i64, value: f64| publisher.send(&[Outgoing::readings("a", begin + minute * 60_000, &[("pm10", value)])]);

    let conca = setup.start();
    say(0, 150.0);
    say(5, 140.0);
    assert_eq!(looks_at(2), [""; 0]);
    conca.kill();
    let conca = setup.start();
    say(9, 120.0);
    assert_eq!(looks_at(3), [""; 0]);
    say(10, 120.0);
    assert_eq!(looks_at(4), ["dust a active"]);
    conca.kill();
    let conca = setup.start();
    // Between the two levels nothing happens, and a restart alone says nothing again.
    say(11, 90.0);
    say(12, 130.0);
    assert_eq!(looks_at(6), ["dust a active"]);
    conca.stop();
    let conca = setup.start();
    say(13, 79.0);
    assert_eq!(looks_at(7), ["dust a cleared"]);
    let alert = setup.looks().alerts().remove(0);
    let at = |minute: i64| Value::from(jiff::Timestamp::from_millisecond(begin + minute * 60_000).unwrap().to_string());
    assert_eq!(
        (&alert["since"], &alert["activated"], &alert["first"]["value"], &alert["activating"]["value"], &alert["clearing"]["time"]),
        (&at(0), &at(10), &json!(150.0), &json!(120.0), &at(13))
    );
    // A value that dances around the limit starts its duration anew.
    for minute in 20..40 {
        say(minute, if minute % 5 == 0 { 99.0 } else { 101.0 });
    }
    assert_eq!(looks_at(27), ["dust a cleared"]);
    conca.stop();
}

#[test]
fn late_data_neither_raises_nor_clears_an_alert() {
    let broker = Broker::start();
    let setup = Setup::of(&broker).rules(&json!([dust()]));
    let conca = setup.start();
    let begin = now_millis() - 3_600_000;
    let say = |minute: i64, value: f64| Outgoing::readings("a", begin + minute * 60_000, &[("pm10", value)]);
    Publisher::connect(broker.address()).send(&[
        say(30, 50.0),
        say(0, 150.0),
        say(10, 150.0),
        say(20, 150.0),
        say(31, 150.0),
        say(41, 150.0),
        say(32, 10.0),
    ]);
    let looks = setup.looks();
    looks.ledger_of(7);
    assert_eq!(told(&looks), ["dust a active"]);
    assert_eq!(looks.alerts()[0]["since"], jiff::Timestamp::from_millisecond(begin + 31 * 60_000).unwrap().to_string());
    conca.stop();
}

/// Devices that each send every two seconds, until they are told to stop; one of them can fall silent before.
struct Fleet {
    stop: AtomicBool,
    mute: AtomicBool,
}

const DEVICES: usize = 1_000;
const MUTE: &str = "station-0617";

impl Fleet {
    fn run(&self, mut publisher: Publisher) {
        let mut number = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let chunk: Vec<Outgoing> = (0..DEVICES / 20)
                .map(|offset| format!("station-{:04}", (number + offset) % DEVICES))
                .filter(|name| name != MUTE || !self.mute.load(Ordering::Relaxed))
                .map(|name| Outgoing::readings(&name, now_millis(), &[("pm10", 20.0)]))
                .collect();
            number += DEVICES / 20;
            publisher.send(&chunk);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn one_silent_device_among_a_thousand_is_noticed_and_our_own_outage_is_nobodys_silence() {
    let broker = Broker::start();
    let setup = Setup::of(&broker).rules(&json!([silent("6s")])).set("alerts.tick", "200ms");
    let conca = setup.start();
    let fleet = Fleet { stop: AtomicBool::new(false), mute: AtomicBool::new(false) };
    std::thread::scope(|scope| {
        scope.spawn(|| fleet.run(Publisher::connect(broker.address())));
        let rest = || {
            let looks = setup.looks();
            wait_until("every device has been heard", || looks.ledger().accepted > 2_000);

            // Away for longer than a device may be silent.
            conca.kill();
            std::thread::sleep(Duration::from_secs(8));
            let conca = setup.start();
            let before = looks.ledger().accepted;
            wait_until("the backlog is over, and more than the duration has passed", || looks.ledger().accepted > before + 4_000 + 5_000);
            assert_eq!(told(&looks), [""; 0]);

            fleet.mute.store(true, Ordering::Relaxed);
            wait_until("the silence is noticed", || !looks.alerts().is_empty());
            assert_eq!(told(&looks), [format!("silent {MUTE} active")]);
            // A restart inside the alert does not repeat it; a word ends it.
            conca.stop();
            let conca = setup.start();
            let before = looks.ledger().accepted;
            wait_until("it works again", || looks.ledger().accepted > before + 1_000);
            assert_eq!(told(&looks), [format!("silent {MUTE} active")]);
            fleet.mute.store(false, Ordering::Relaxed);
            wait_until("the silence ends", || told(&looks) == [format!("silent {MUTE} cleared")]);
            conca.stop();
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(rest));
        // The scope waits for the fleet, whatever happened.
        fleet.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn a_retained_message_is_no_sign_of_life_but_a_device_that_retains_what_it_says_lives() {
    let broker = Broker::start();
    let setup = Setup::of(&broker).rules(&json!([silent("3s")])).set("alerts.tick", "200ms");
    let mut publisher = Publisher::connect(broker.address());
    let say = |device: &str| Outgoing::readings(device, now_millis(), &[("pm10", 20.0)]).retained();
    publisher.send(&[say("gone")]);
    let conca = setup.start();
    let looks = setup.looks();
    looks.ledger_of(1);
    // Both are heard; one goes on, and retains every word.
    publisher.send(&[say("gone"), say("alive")]);
    let silent: BTreeSet<String> = ["silent gone active".to_owned()].into();
    wait_until("the silence is noticed", || {
        publisher.send(&[say("alive")]);
        std::thread::sleep(Duration::from_millis(100));
        !looks.alerts().is_empty()
    });
    assert_eq!(told(&looks).into_iter().collect::<BTreeSet<_>>(), silent);
    // What the broker keeps of the silent one comes again where the session is lost, and says nothing of it.
    conca.stop();
    let setup = setup.source("client_id", "another-session");
    let before = looks.ledger().received;
    let conca = setup.start();
    wait_until("the retained messages have come", || looks.ledger().received >= before + 2);
    publisher.send(&[say("alive")]);
    wait_until("more has come", || looks.ledger().received >= before + 3);
    assert_eq!(told(&looks).into_iter().collect::<BTreeSet<_>>(), silent);
    conca.stop();
}
