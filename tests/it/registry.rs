//! What is said of devices holds for what they tell: from an import to the places of observations, and over a restart.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Broker, Conca, Outgoing, Publisher, Setup, wait_until};

/// The phenomenon time, in milliseconds, at which the meter moved from pa-c1 to pa-c2, and that of a reading without a position.
const MOVED: i64 = 1_772_323_200_000;

const CSV: &str = "id,kind,domain,interval_s,from,to,longitude,latitude,model\r\n\
    meter-1,energy-meter,energy,900,,2026-03-01T00:00:00Z,13.361,38.116,M-1\r\n\
    meter-1,energy-meter,energy,900,2026-03-01T00:00:00Z,,13.40,38.09,M-2\r\n\
    meter-2,energy-meter,energy,900,2026-03-02T00:00:00Z,,13.361,38.116,M-2\r\n";

fn tell(device: &str, millis: i64, value: f64) -> Outgoing {
    let payload = json!({ "time": millis, "readings": { "power_active": value } });
    Outgoing::new(&format!("conca/v1/energy/energy-meter/{device}"), payload.to_string())
}

/// The districts of a device's observations, by value.
fn districts(conca: &Conca, device: &str) -> BTreeMap<i64, Value> {
    let (code, page) = conca.get_json(&format!("/v1/observations?device={device}&from=2026-01-01T00:00:00Z"));
    assert_eq!(code, 200, "{page}");
    #[expect(clippy::cast_possible_truncation, reason = "small whole numbers")]
    let value = |row: &Value| row["value"].as_f64().unwrap() as i64;
    page["observations"].as_array().unwrap().iter().map(|row| (value(row), row["district"].clone())).collect()
}

#[test]
fn imported_devices_are_placed_where_they_were_at_each_reading_s_time() {
    let broker = Broker::start();
    let setup = Setup::of(&broker).set("lake.flush_after", "1s").set("lake.merge_every", "1s");
    let conca = setup.start();
    let mut publisher = Publisher::connect(broker.address());
    publisher.send(&[tell("meter-1", MOVED + 1_000, 1.0)]);
    setup.looks().ledger_of(1);

    let wrong = CSV.replace("13.40", "east");
    let (code, problem) = conca.send("POST", "/v1/devices/import", "text/csv", &wrong);
    assert_eq!(code, 422, "{problem}");
    assert!(problem.contains("line 3, longitude"), "{problem}");
    let (code, imported) = conca.send("POST", "/v1/devices/import", "text/csv", CSV);
    assert_eq!((code, imported.as_str()), (200, r#"{"dry_run":false,"created":2,"replaced":0,"unchanged":0}"#));

    // In order, late, and before the device was installed anywhere.
    publisher.send(&[
        tell("meter-1", MOVED + 2_000, 2.0),
        tell("meter-1", MOVED - 1, 3.0),
        tell("meter-1", MOVED, 4.0),
        tell("meter-2", MOVED, 5.0),
    ]);
    setup.looks().ledger_of(5);
    conca.stop();

    let conca = setup.start();
    publisher.send(&[tell("meter-1", MOVED - 2, 6.0), tell("meter-1", MOVED + 3_000, 7.0), tell("meter-2", MOVED + 100_000_000, 8.0)]);
    setup.looks().ledger_of(8);
    wait_until("late rows are compared", || setup.looks().ledger().pending == 0);
    let (first, second) = (json!("pa-c1"), json!("pa-c2"));
    // What was stored before the import keeps no place.
    let expected = [(1, Value::Null), (2, second.clone()), (3, first.clone()), (4, second.clone()), (6, first.clone()), (7, second)];
    assert_eq!(districts(&conca, "meter-1"), BTreeMap::from(expected));
    assert_eq!(districts(&conca, "meter-2"), BTreeMap::from([(5, Value::Null), (8, first)]));

    let (_code, device) = conca.get_json("/v1/devices/meter-1");
    assert_eq!((&device["status"], &device["interval"]["source"]), (&json!("silent"), &json!("declared")), "{device}");
    let (code, health) = conca.get_json("/v1/devices/meter-1/health?from=2026-01-01T00:00:00Z");
    assert_eq!((code, &health["quality"]["observations"], &health["quality"]["score"]), (200, &json!(6), &json!(100.0)), "{health}");
    conca.stop();
}
