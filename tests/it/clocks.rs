//! Clocks that are wrong, or are set: ours, inside this process, and the devices'.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use conca::app::Service;
use conca::config::Config;
use conca::model::{Clock, Timestamp};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{Broker, Looks, Outgoing, Publisher, Setup, Store, now_millis, wait_until};

/// The machine's clock, and so much more.
#[derive(Debug, Default)]
struct Shifted(AtomicI64);

impl Shifted {
    fn set(&self, seconds: i64) {
        self.0.store(seconds * 1_000_000, Ordering::SeqCst);
    }
}

impl Clock for Shifted {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros_clamped(jiff::Timestamp::now().as_microsecond() + self.0.load(Ordering::SeqCst))
    }
}

/// Runs the service in this process while `work` goes on.
fn with_service(setup: &Setup, clock: &Arc<Shifted>, work: impl FnOnce()) {
    // The session must be there before the first message.
    setup.start().stop();
    let config = Config::parse(&setup.text(), &|_name| None).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    let service = runtime.block_on(Service::start(config, clock)).unwrap();
    let stop = CancellationToken::new();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| runtime.block_on(service.run(stop.clone())));
        // Stops the service also where the work fails.
        let guard = stop.clone().drop_guard();
        work();
        drop(guard);
        running.join().unwrap().unwrap();
    });
}

fn rules() -> serde_json::Value {
    let title = json!({ "it": "x", "en": "x" });
    json!([
        { "id": "dust", "title": title, "severity": "warning", "condition": { "type": "above", "property": "pm10", "above": 100 } },
        { "id": "silent", "title": title, "severity": "warning", "condition": { "type": "silence", "after": "3s" } },
    ])
}

/// Rule, device and status of every alert, oldest first.
fn told(looks: &Looks) -> Vec<String> {
    let mut alerts: Vec<String> =
        looks.alerts().iter().map(|alert| format!("{} {} {}", alert["rule"], alert["device"], alert["status"]).replace('"', "")).collect();
    alerts.reverse();
    alerts
}

/// Messages go out until something holds.
fn say_until(publisher: &mut Publisher, devices: &[&str], what: &str, mut holds: impl FnMut() -> bool) {
    wait_until(what, || {
        let messages: Vec<Outgoing> = devices.iter().map(|device| Outgoing::readings(device, now_millis(), &[("pm10", 20.0)])).collect();
        publisher.send(&messages);
        std::thread::sleep(Duration::from_millis(100));
        holds()
    });
}

#[test]
fn one_reading_from_the_future_neither_blinds_a_rule_nor_becomes_the_latest() {
    let broker = Broker::start();
    let setup = Setup::of(&broker).rules(&rules());
    let clock = Arc::new(Shifted::default());
    with_service(&setup, &clock, || {
        let looks = setup.looks();
        let mut publisher = Publisher::connect(broker.address());
        let now = now_millis() - 60_000;
        let say = |millis: i64, value: f64| Outgoing::readings("a", millis, &[("pm10", value)]);
        // Twenty hours ahead, and above the limit: kept, not believed.
        publisher.send(&[say(now, 20.0), say(now + 72_000_000, 500.0)]);
        looks.ledger_of(2);
        assert_eq!(told(&looks), [""; 0]);
        publisher.send(&[say(now + 1_000, 150.0)]);
        looks.ledger_of(3);
        assert_eq!(told(&looks), ["dust a active"]);
        // What is late stays late, also now.
        publisher.send(&[say(now + 500, 10.0)]);
        looks.ledger_of(4);
        assert_eq!(told(&looks), ["dust a active"]);
        publisher.send(&[say(now + 2_000, 30.0)]);
        looks.ledger_of(5);
        assert_eq!(told(&looks), ["dust a cleared"]);
    });
    assert_eq!(Store::open(&setup.data()).rows().len(), 5);
}

#[test]
fn a_clock_that_is_set_forward_or_back_is_nobodys_silence() {
    let broker = Broker::start();
    let setup = Setup::of(&broker).rules(&rules()).set("alerts.tick", "200ms");
    let clock = Arc::new(Shifted::default());
    with_service(&setup, &clock, || {
        let looks = setup.looks();
        let mut publisher = Publisher::connect(broker.address());
        let both = ["a", "b"];
        let hear = |publisher: &mut Publisher, count: i64| {
            let before = looks.ledger().accepted;
            say_until(publisher, &both, "both are heard", || looks.ledger().accepted >= before + count);
        };
        hear(&mut publisher, 20);
        // Asleep for an hour, or set: the devices' words seem an hour old.
        for seconds in [3_600, 0, -3_600, 0] {
            clock.set(seconds);
            // For longer than they may be silent.
            hear(&mut publisher, 100);
            assert_eq!(told(&looks), [""; 0], "the clock is set to {seconds}");
        }
        say_until(&mut publisher, &["a"], "the silence of one is noticed as ever", || !looks.alerts().is_empty());
        assert_eq!(told(&looks), ["silent b active"]);
        say_until(&mut publisher, &both, "and its end", || told(&looks) == ["silent b cleared"]);
    });
    let store = Store::open(&setup.data());
    store.settle();
    let counts = store.ledger();
    assert_eq!(i64::try_from(store.rows().len()).unwrap(), counts.stored, "{counts:?}");
    assert_eq!((counts.corrected, counts.rejected, counts.received), (0, 0, counts.accepted), "{counts:?}");
}
