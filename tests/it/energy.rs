//! What meters used, from their readings to the bill.

use serde_json::{Value, json};

use crate::support::{Broker, Outgoing, Publisher, Setup};

/// 2026-03-28T22:00:00Z, an hour before the Sunday on which Rome sets its clocks forward.
const START: i64 = 1_774_735_200;

/// A meter that uses one kilowatt-hour an hour and tells its register each hour: it goes through zero after ten hours, is silent from 08:00Z to
/// 12:00Z on Monday, and begins anew at a quarter before 15:00Z then.
fn readings() -> Vec<Outgoing> {
    let hour = |index: i64| {
        let register = match index {
            0..10 => 99_990 + index,
            10..41 => index - 10,
            _ => return (START + index * 3_600, (index - 41) as f64 + 0.25),
        };
        (START + index * 3_600, register as f64)
    };
    let is_silent = |index: &i64| (35..38).contains(index);
    (0..50)
        .filter(|index| !is_silent(index))
        .map(hour)
        .map(|(second, register)| {
            let payload = json!({ "time": second * 1_000, "readings": { "energy_active": register } });
            Outgoing::new("conca/v1/energy/energy-meter/meter-1", payload.to_string())
        })
        .collect()
}

#[test]
fn hours_add_up_to_days_over_a_clock_change_a_roll_over_a_pause_and_a_reset() {
    let broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let mut tariff: Value = serde_json::from_str(include_str!("../../schemas/tariffs/italy.json")).unwrap();
    tariff["prices"] = json!([{ "from": "2026-01-01", "per_unit": { "F1": "0.20", "F2": "0.18", "F3": "0.15" } }]);
    let path = folder.path().join("tariff.json");
    std::fs::write(&path, tariff.to_string()).unwrap();
    let setup = Setup::of(&broker).set("city.tariff", path.to_str().unwrap());
    let conca = setup.start();
    let device = "id,kind,domain,interval_s\r\nmeter-1,energy-meter,energy,3600\r\n";
    assert_eq!(conca.send("POST", "/v1/devices/import", "text/csv", device).0, 200);
    let mut readings = readings();
    // Out of order, as meters that were out of reach tell.
    readings.rotate_left(20);
    let count = i64::try_from(readings.len()).unwrap();
    Publisher::connect(broker.address()).send(&readings);
    assert_eq!(setup.looks().ledger_of(count).accepted, count);
    let ask = |window: &str| {
        let question = format!("/v1/energy/consumption?from=2026-03-28T23:00:00Z&to=2026-03-30T22:00:00Z&window={window}&quality=any");
        let (code, answer) = conca.get_json(&question);
        assert_eq!(code, 200, "{answer}");
        answer["series"][0].clone()
    };
    let days = ask("1d");
    let shown: Vec<Value> =
        days["buckets"].as_array().unwrap().iter().map(|day| json!([day["start"], day["amount"], day["bands"], day["cost"]])).collect();
    assert_eq!(
        shown,
        [
            // 23 hours, all of them a Sunday's.
            json!(["2026-03-29T00:00:00+01:00", "23.000000", { "F1": "0.000000", "F2": "0.000000", "F3": "23.000000" }, "3.45"]),
            // In the hour before 15:00Z the meter began anew: what it used before that is not known.
            json!(["2026-03-30T00:00:00+02:00", "23.250000", { "F1": "10.250000", "F2": "5.000000", "F3": "8.000000" }, "4.15"]),
        ]
    );
    assert_eq!((&days["buckets"][0]["rollovers"], &days["buckets"][1]["resets"]), (&json!(1), &json!(1)), "{days}");
    assert_eq!((&days["buckets"][0]["estimated"], &days["buckets"][1]["estimated"]), (&json!("0.000000"), &json!("4.000000")), "{days}");
    let total = json!({ "amount": "46.250000", "bands": { "F1": "10.250000", "F2": "5.000000", "F3": "31.000000" }, "cost": "7.60" });
    assert_eq!(days["total"], total);
    for window in ["1h", "15m"] {
        assert_eq!(ask(window)["total"]["amount"], "46.250000", "{window}");
    }
    assert_eq!(ask("1h")["total"], total);
    // The whole month has an hour more at either end.
    assert_eq!(ask("1mo")["total"]["amount"], "48.250000");
    let (code, csv) = conca.get("/v1/energy/consumption?from=2026-03-29T22:00:00Z&to=2026-03-30T22:00:00Z&group_by=device&format=csv");
    assert!(code == 200 && csv.contains(",meter-1,23.250000,F1=10.250000 F2=5.000000 F3=8.000000,4.15,"), "{csv}");
    let (code, refused) = conca.get_json("/v1/energy/consumption?property=temperature");
    assert!(code == 422 && refused["detail"].as_str().unwrap().contains("no counter"), "{refused}");
    conca.stop();
}
