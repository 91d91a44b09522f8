//! What was refused is mended, replayed once, and counted once.

use conca::state::Counts;
use serde_json::json;

use crate::support::{Broker, Outgoing, Publisher, Setup, now_millis};

/// Messages with one reading that everybody knows and one that nobody knows yet, and some of only the latter.
fn flood(count: i64) -> Vec<Outgoing> {
    let start = now_millis() - 3_000_000;
    let partly = (0..count).map(|round| Outgoing::readings("mixed", start + round, &[("pm10", 1.0), ("peak", round as f64)]));
    let whole = (0..count).map(|round| Outgoing::readings("poison", start + round, &[("peak", round as f64)]));
    let good = (0..count).map(|round| Outgoing::readings("good", start + round, &[("pm10", round as f64)]));
    let broken = (0..count).map(|_round| Outgoing::new("conca/v1/environment/air-station/broken", "{"));
    let mut columns: Vec<_> = [partly.collect::<Vec<_>>(), whole.collect(), good.collect(), broken.collect()].map(Vec::into_iter).into();
    (0..count).flat_map(|_round| columns.iter_mut().map(|column| column.next().unwrap()).collect::<Vec<_>>()).collect()
}

/// Accepted and rejected messages, quarantined values.
fn told(counts: &Counts) -> [i64; 3] {
    [counts.accepted, counts.rejected, counts.quarantined]
}

#[test]
fn a_flood_of_poison_is_replayed_after_the_repair_and_the_ledger_follows() {
    const COUNT: i64 = 500;
    let broker = Broker::start();
    let setup = Setup::of(&broker);
    let conca = setup.start();
    Publisher::connect(broker.address()).send(&flood(COUNT));
    let looks = setup.looks();
    let before = looks.ledger_of(4 * COUNT);
    assert_eq!((told(&before), before.readings), ([2 * COUNT, 2 * COUNT, 2 * COUNT], 4 * COUNT), "{before:?}");

    // Nothing is mended yet: everything stays as it was, under its number.
    let unknown = json!({ "reason": "unknown-property" });
    let (code, replayed) = conca.post_json("/v1/quarantine/replay", &unknown);
    assert_eq!((code, &replayed["partly"], &replayed["rejected"]), (200, &json!(COUNT), &json!(COUNT)), "{replayed}");
    assert_eq!(told(&looks.ledger_of(4 * COUNT)), [2 * COUNT, 2 * COUNT, 2 * COUNT]);
    conca.stop();

    let peak = json!([{ "id": "peak", "title": { "it": "Picco", "en": "Peak" }, "domain": "environment", "unit": "1", "kind": "gauge",
        "summary": "arithmetic", "min": 0, "max": 1e6, "resolution": 1, "interval_s": 60, "in_time": "mean", "across": "mean" }]);
    let setup = setup.properties(&peak);
    let conca = setup.start();
    let (code, replayed) = conca.post_json("/v1/quarantine/replay", &unknown);
    assert_eq!((code, &replayed["accepted"], &replayed["rejected"]), (200, &json!(2 * COUNT), &json!(0)), "{replayed}");
    assert_eq!(told(&looks.ledger_of(4 * COUNT)), [3 * COUNT, COUNT, 0]);
    // A second time there is nothing to do.
    let (_code, again) = conca.post_json("/v1/quarantine/replay", &unknown);
    assert_eq!(again["replayed"], 0, "{again}");

    for device in ["mixed", "poison"] {
        let (code, rows) = conca.get(&format!("/v1/observations?device={device}&property=peak&from=now-2h&limit=10000&format=csv"));
        assert_eq!((code, rows.lines().count()), (200, 1 + usize::try_from(COUNT).unwrap()), "{rows:.300}");
    }

    // What cannot be mended is given up, with a reason, and stays counted.
    let discard = json!({ "messages": { "reason": "not-json" }, "comment": "a test of the installer" });
    assert_eq!(conca.post_json("/v1/quarantine/discard", &discard), (200, json!({ "discarded": COUNT })));
    assert_eq!(conca.post_json("/v1/quarantine/discard", &discard), (200, json!({ "discarded": 0 })));
    let (_code, listed) = conca.get_json("/v1/quarantine?discarded=true&limit=1");
    assert_eq!(listed["items"][0]["discarded"]["comment"], "a test of the installer", "{listed}");
    let (_code, replayed) = conca.post_json("/v1/quarantine/replay", &json!({ "reason": "not-json" }));
    assert_eq!(replayed["replayed"], 0);
    let (code, problem) = conca.post_json("/v1/quarantine/replay", &json!({}));
    assert_eq!(code, 400, "{problem}");
    conca.stop();

    // Everything is stored once: the three properties of the flood, whichever way they came.
    assert_eq!(told(&looks.ledger_of(4 * COUNT)), [3 * COUNT, COUNT, 0]);
    let counts = looks.ledger_of(4 * COUNT);
    assert_eq!(counts.stored + counts.pending + counts.duplicate, counts.readings);
}
