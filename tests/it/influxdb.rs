//! InfluxDB 2 as a second store: the same answers, and never in the way.

use serde_json::{Value, json};

use crate::support::{Broker, Conca, InfluxDb, Load, Outgoing, Publisher, Setup, now_millis, wait_until};

/// Until InfluxDB has everything, and the lake has settled what was late.
fn wait_until_followed(conca: &Conca) {
    wait_until("InfluxDB has followed", || {
        let (_code, status) = conca.get_json("/status");
        let influxdb = &status["influxdb"];
        let is_there =
            (&influxdb["behind_bytes"], &influxdb["copied"], &influxdb["rollups_behind"]) == (&json!(0), &json!(null), &json!(0));
        is_there && influxdb["error"].is_null() && status["ledger"]["total"]["pending"] == 0
    });
}

/// Until the lake has rolled up everything, and InfluxDB has that too.
fn wait_until_rolled_up(conca: &Conca) {
    wait_until("everything is rolled up", || is_rolled_up(conca));
    wait_until_followed(conca);
}

/// Whether the lake has rolled up everything.
fn is_rolled_up(conca: &Conca) -> bool {
    let (_code, status) = conca.get_json("/status");
    let total = &status["ledger"]["total"];
    status["lake"]["rows"] == total["stored"] && total["pending"] == 0 && status["lake"]["rollups"]["touched"] == 0
}

/// Settings with which days are rolled up at once.
fn quick(setup: Setup) -> Setup {
    setup.set("lake.flush_after", "200ms").set("lake.merge_every", "400ms").set("lake.maintain_every", "300ms")
}

/// Questions over days, of what is rolled up and what is not.
fn long_questions() -> Vec<String> {
    let range = "from=2026-03-27T23:00:00Z&to=2026-04-01T22:00:00Z";
    let mut questions = Vec::new();
    let all = [
        ("15m", "UTC"),
        ("1h", "Europe/Rome"),
        ("1d", "Europe/Rome"),
        ("1d", "Asia/Kathmandu"),
        ("1w", "Europe/Rome"),
        // No union of what is rolled up.
        ("10m", "UTC"),
    ];
    for (quality, windows) in [("trusted", &all[..]), ("any", &all[1..3])] {
        for (property, functions) in [
            ("temperature", &["mean", "count", "min", "max", "first", "last", "stddev", "p90", "time_weighted_mean"][..]),
            ("vehicle_count", &["sum"]),
            ("wind_direction", &["mean"]),
            ("noise", &["mean", "max"]),
            ("energy_active", &["increase", "last"]),
            ("lamp_state", &["last", "mode", "count"]),
        ] {
            for function in functions {
                for (window, zone) in windows {
                    let question = format!("/v1/aggregates?{range}&property={property}&in_time={function}&window={window}&zone={zone}");
                    let groups = ["", "&group_by=district", "&group_by=device", "&device=station-1", "&district=pa-c1&fill=null"];
                    // A function differs from another in what it needs of each device only.
                    for group in groups.into_iter().take(if *function == "mean" { 5 } else { 2 }) {
                        questions.push(format!("{question}&quality={quality}&explain=true{group}"));
                    }
                }
            }
        }
    }
    questions
}

/// Readings of two stations for every quarter of an hour of four local days, among them the one on which summer time begins; every
/// fifth value of one station is not to be trusted.
fn days() -> Vec<Outgoing> {
    let mut messages = Vec::new();
    for quarter in 0..4 * 95_i64 {
        let time = format!("2026-03-{:02}T{:02}:{:02}:10Z", 28 + quarter / 96, quarter / 4 % 24, quarter % 4 * 15);
        for station in [1, 2] {
            let celsius = if station == 2 && quarter % 5 == 0 { -200.0 } else { 10.0 + (quarter * 7 % 31) as f64 / 3.0 };
            let readings = json!({
                "temperature": celsius, "wind_direction": quarter * 11 % 360, "noise": 40 + quarter % 37, "vehicle_count": quarter % 23,
                "energy_active": quarter * 3 % 400, "lamp_state": quarter / 9 % 2,
            });
            // One of them moves about.
            let place = json!({ "lon": 13.34 + (if station == 2 { quarter / 50 % 3 } else { 0 }) as f64 / 100.0, "lat": 38.11 });
            let message = json!({ "time": time, "position": place, "readings": readings });
            messages.push(Outgoing::new(&format!("conca/v1/environment/station/station-{station}"), message.to_string()));
        }
    }
    messages
}

/// One reading more.
fn reading(station: u32, time: &str, readings: &serde_json::Value) -> Outgoing {
    let message = json!({ "time": time, "position": { "lon": 13.34, "lat": 38.11 }, "readings": readings });
    Outgoing::new(&format!("conca/v1/environment/station/station-{station}"), message.to_string())
}

/// Asks both stores, one after the other; returns what they say.
fn ask_both(setup: Setup, questions: &[String], settle: impl Fn(&Conca)) -> (Setup, Vec<String>) {
    let ask = |setup: &Setup, store: &str| -> Vec<(u16, String)> {
        let conca = setup.start();
        settle(&conca);
        assert_eq!(conca.get_json("/status").1["query_store"], store);
        let answers = questions.iter().map(|question| conca.get(question)).collect();
        conca.stop();
        answers
    };
    let setup = setup.set("query_store", "lake");
    let lake = ask(&setup, "lake");
    let setup = setup.set("query_store", "influxdb");
    let influxdb = ask(&setup, "influxdb");
    for ((question, lake), influxdb) in questions.iter().zip(&lake).zip(&influxdb) {
        assert!([200, 400, 422].contains(&lake.0), "{question}: {lake:?}");
        assert!(are_same(influxdb, lake), "{question}\n{}", difference(&influxdb.1, &lake.1));
    }
    assert!(lake.iter().filter(|(code, _answer)| *code == 200).count() * 5 > lake.len() * 4, "few are refused");
    (setup, influxdb.into_iter().map(|(_code, text)| text).collect())
}

/// Questions of every kind; some of them are refused, and must be so by both stores.
fn questions(from: &str, to: &str) -> Vec<String> {
    let mut questions = Vec::new();
    let range = format!("from={from}&to={to}");
    for quality in ["trusted", "any"] {
        for property in ["temperature", "pm10", "wind_direction", "noise", "energy_active", "lamp_state"] {
            questions.push(format!("/v1/observations?{range}&property={property}&quality={quality}&limit=10000"));
            for window in ["5m", "1h", "1d"] {
                for zone in ["Europe/Rome", "Asia/Kathmandu"] {
                    let question = format!("/v1/aggregates?{range}&property={property}&window={window}&zone={zone}&quality={quality}");
                    questions.push(question.clone());
                    questions.push(format!("{question}&group_by=device"));
                    questions.push(format!("{question}&group_by=district"));
                    questions.push(format!("{question}&in_time=count&fill=null"));
                }
            }
        }
        questions.push(format!("/v1/aggregates?{range}&property=temperature&window=1h&in_time=p95&quality={quality}"));
        questions.push(format!("/v1/aggregates?{range}&property=temperature&window=1h&in_time=time_weighted_mean&quality={quality}"));
        questions.push(format!("/v1/aggregates?{range}&property=lamp_state&window=1h&in_time=duration:on&quality={quality}"));
        questions.push(format!("/v1/observations?{range}&bbox=13.3,38.1,13.4,38.2&quality={quality}"));
        questions.push(format!("/v1/observations?{range}&device=station-1&quality={quality}&format=csv"));
        questions.push(format!("/v1/observations?{range}&district=pa-c1&quality={quality}"));
    }
    questions.push("/v1/observations?from=1950-01-01T00:00:00Z&to=1951-01-01T00:00:00Z".to_owned());
    questions
}

/// A mixed load: several kinds of property, places, units of the sender, values out of range, late ones, corrections.
fn load() -> Vec<Outgoing> {
    let mut messages = Vec::new();
    let mut add = |device: &str, text: String| messages.push(Outgoing::new(&format!("conca/v1/environment/station/{device}"), text));
    for minute in 0..180_i64 {
        // Every seventh minute comes an hour late.
        let late = if minute % 7 == 0 && minute > 60 { minute - 60 } else { minute };
        let time = format!("2026-03-29T{:02}:{:02}:30Z", late / 60, late % 60);
        let (celsius, degrees) = (10.0 + (minute % 13) as f64 / 4.0, (350 + minute * 3) % 360);
        let fahrenheit = celsius.mul_add(1.8, 32.0);
        let readings = json!({
            "temperature": { "value": fahrenheit, "unit": "[degF]" }, "wind_direction": degrees, "noise": 50 + minute % 20,
            "energy_active": 1_000 + minute - if minute > 100 { 600 } else { 0 }, "lamp_state": minute / 17 % 2, "pm10": if minute == 50 { -200 } else { minute },
        });
        let place = if minute % 3 == 0 { json!(null) } else { json!({ "lon": 13.35 + (minute % 5) as f64 / 100.0, "lat": 38.11 }) };
        let mut message = json!({ "time": time, "readings": readings });
        if !place.is_null() {
            message["position"] = place;
        }
        add("station-1", message.to_string());
        if minute % 10 == 0 {
            add("station-2", json!({ "time": time, "readings": { "temperature": celsius, "pm10": 3 } }).to_string());
        }
    }
    messages
}

/// Whether two answers are equal, what was computed but for rounding. InfluxDB may make of pieces what the lake makes of rows.
fn are_same(one: &(u16, String), other: &(u16, String)) -> bool {
    fn is_same(one: &Value, other: &Value) -> bool {
        match (one, other) {
            (Value::Array(one), Value::Array(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
            }
            (Value::Object(one), Value::Object(other))
                if one.get("source").is_some_and(|source| source != "rows") && other.get("source") == Some(&json!("rows")) =>
            {
                ["from", "to"].iter().all(|key| one[*key] == other[*key])
                    && one["source"].as_str().is_some_and(|source| source.starts_with("pieces-"))
            }
            (Value::Object(one), Value::Object(other)) => {
                one.len() == other.len() && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| is_same(value, other)))
            }
            (Value::Number(one), Value::Number(other)) if one.is_f64() && other.is_f64() => {
                let (one, other) = (one.as_f64().unwrap(), other.as_f64().unwrap());
                (one - other).abs() <= 1e-9 * one.abs().max(other.abs())
            }
            _ => one == other,
        }
    }
    one == other
        || (one.0 == other.0
            && serde_json::from_str(&one.1).is_ok_and(|one| serde_json::from_str(&other.1).is_ok_and(|other| is_same(&one, &other))))
}

/// Where two answers part, with what stands around it.
fn difference(influxdb: &str, lake: &str) -> String {
    let same = influxdb.bytes().zip(lake.bytes()).take_while(|(one, other)| one == other).count();
    let part = |text: &str| String::from_utf8_lossy(&text.as_bytes()[same.saturating_sub(200)..text.len().min(same + 200)]).into_owned();
    format!("InfluxDB: …{}…\nlake: …{}…", part(influxdb), part(lake))
}

#[test]
fn both_stores_give_the_same_answers() {
    let influxdb = InfluxDb::start();
    let broker = Broker::start();
    let setup = influxdb.follows(Setup::of(&broker)).set("lake.merge_every", "1s").set("lake.flush_after", "1s");
    let conca = setup.start();
    Publisher::connect(broker.address()).send(&load());
    // The same once more, and another value for an hour.
    let mut again = load();
    again.truncate(40);
    again.push(Outgoing::new(
        "conca/v1/environment/station/station-1",
        r#"{"time":"2026-03-29T01:00:30Z","readings":{"temperature":17.5,"pm10":44}}"#,
    ));
    Publisher::connect(broker.address()).send(&again);
    let expected = i64::try_from(load().len() + again.len()).unwrap();
    assert_eq!(setup.looks().ledger_of(expected).rejected, 0);
    wait_until_followed(&conca);
    conca.stop();
    ask_both(setup, &questions("2026-03-28T23:00:00Z", "2026-03-29T05:00:00Z"), wait_until_followed);
}

#[test]
fn both_stores_give_the_same_answers_of_rollups() {
    let mut influxdb = InfluxDb::start();
    let broker = Broker::start();
    let setup = quick(influxdb.follows(Setup::of(&broker)));
    let conca = setup.start();
    let mut sent = i64::try_from(days().len()).unwrap();
    Publisher::connect(broker.address()).send(&days());
    assert_eq!(setup.looks().ledger_of(sent).rejected, 0);
    wait_until_rolled_up(&conca);
    conca.stop();
    let questions = long_questions();
    let (setup, answers) = ask_both(setup, &questions, wait_until_rolled_up);
    let sources = |needle: &str| answers.iter().filter(|answer| answer.contains(&format!("\"source\":\"{needle}\""))).count();
    for source in ["rollup-1d", "rollup-1h", "rollup-15m", "rows", "pieces-600s"] {
        assert!(sources(source) > 5, "{source}: {}", sources(source));
    }

    // While InfluxDB is away: late values, buckets that vanish since nothing in them is trusted any more or it was elsewhere, corrections.
    influxdb.kill();
    let setup = setup.set("query_store", "lake");
    let conca = setup.start();
    let mut late = vec![
        reading(1, "2026-03-29T01:07:00Z", &json!({ "temperature": 3.25, "energy_active": 77 })),
        reading(3, "2026-03-30T12:00:00Z", &json!({ "temperature": 21.5, "noise": 71 })),
        reading(2, "2026-03-29T01:00:10Z", &json!({ "temperature": 13.5, "noise": 44 })),
    ];
    for minute in [0, 15, 30, 45] {
        late.push(reading(1, &format!("2026-03-30T05:{minute:02}:10Z"), &json!({ "temperature": -200 })));
    }
    sent += i64::try_from(late.len()).unwrap();
    Publisher::connect(broker.address()).send(&late);
    setup.looks().ledger_of(sent);
    wait_until("the lake has rolled it up", || {
        is_rolled_up(&conca) && conca.get_json("/status").1["influxdb"]["rollups_behind"].as_u64() > Some(0)
    });
    conca.kill();
    influxdb.restart();
    let (setup, revised) = ask_both(setup, &questions, wait_until_rolled_up);
    assert!(revised.iter().zip(&answers).filter(|(new, old)| new != old).count() > 100, "the answers are others than before");

    // Let go and taken up again: everything is copied once more, over what is there.
    let setup = setup.set("stores", vec!["lake"]).set("query_store", "lake");
    let conca = setup.start();
    let late = [
        reading(2, "2026-03-31T05:07:00Z", &json!({ "temperature": 5.5 })),
        reading(1, "2026-03-31T06:00:10Z", &json!({ "temperature": 99 })),
    ];
    sent += i64::try_from(late.len()).unwrap();
    Publisher::connect(broker.address()).send(&late);
    setup.looks().ledger_of(sent);
    conca.stop();
    let setup = setup.set("stores", vec!["lake", "influxdb"]);
    ask_both(setup, &questions, wait_until_rolled_up);
}

#[test]
fn influxdb_that_is_away_holds_up_nothing_and_gets_everything_once_it_is_back() {
    let mut influxdb = InfluxDb::start();
    let broker = Broker::start();
    let setup = influxdb.follows(Setup::of(&broker));
    let conca = setup.start();
    let mut publisher = Publisher::connect(broker.address());
    let loads: Vec<Load> = (0..3).map(|part| Load::new(50, 4, part)).collect();
    publisher.send(&loads[0].messages);
    wait_until_followed(&conca);
    influxdb.kill();
    publisher.send(&loads[1].messages);
    assert_eq!(setup.looks().ledger_of(loads[0].len() + loads[1].len()).stored, 800, "intake goes on");
    wait_until("it is said that InfluxDB is away", || conca.get_json("/status").1["influxdb"]["error"].is_string());
    // What waits for it survives the program, too.
    conca.kill();
    let conca = setup.start();
    publisher = Publisher::connect(broker.address());
    publisher.send(&loads[2].messages);
    setup.looks().ledger_of(loads[0].len() + loads[1].len() + loads[2].len());
    influxdb.restart();
    wait_until_followed(&conca);
    let count = |influxdb: &InfluxDb| {
        let answer = influxdb.flux(
            "from(bucket: \"conca\") |> range(start: 2000-01-01T00:00:00Z, stop: 2199-01-01T00:00:00Z) \
             |> filter(fn: (r) => r._field == \"value\" or r._field == \"suspect\") |> group() |> count()",
        );
        answer.trim().rsplit(',').next().unwrap().to_owned()
    };
    assert_eq!(count(&influxdb), "1200");
    conca.stop();
}

#[test]
fn what_influxdb_refuses_is_quarantined_and_holds_up_nothing() {
    let influxdb = InfluxDb::start();
    let broker = Broker::start();
    let setup = influxdb.follows(Setup::of(&broker));
    let conca = setup.start();
    wait_until_followed(&conca);
    // Another program wrote text where numbers come.
    let spoiled = r#"observation,device=station-001,property=pm10 value="much" "#.to_owned() + &now_millis().to_string();
    influxdb.write("conca", &spoiled);
    let load = Load::new(5, 3, 4);
    Publisher::connect(broker.address()).send(&load.messages);
    assert_eq!(setup.looks().ledger_of(load.len()).stored, 30);
    wait_until_followed(&conca);
    let (_code, quarantine) = conca.get_json("/v1/quarantine?reason=refused-by-store");
    let items = quarantine["items"].as_array().unwrap();
    // Which points of the same field are refused beside it is InfluxDB's own affair.
    assert!((3..=30).contains(&items.len()), "{quarantine}");
    assert!(items.iter().all(|item| item["source"] == "influxdb" && item["faults"].to_string().contains("conflict")), "{quarantine}");
    let (_code, status) = conca.get_json("/status");
    assert_eq!(status["influxdb"]["refused"], items.len());
    assert_eq!(status["influxdb"]["written"].as_u64().unwrap() + status["influxdb"]["refused"].as_u64().unwrap(), 30);
    // It was no sender's message: there is nothing to replay, by reason or by number.
    let (code, refused) = conca.post_json("/v1/quarantine/replay", &json!({ "reason": "refused-by-store" }));
    assert!(code == 400 && refused.to_string().contains("mend that store"), "{code} {refused}");
    let (_code, replayed) = conca.post_json("/v1/quarantine/replay", &json!({ "source": "influxdb" }));
    assert_eq!((&replayed["replayed"], &replayed["gone"]), (&json!(0), &json!(items.len())), "{replayed}");
    let (_code, ledger) = conca.get_json("/v1/ledger?source=influxdb");
    assert_eq!(ledger["items"].as_array().map(Vec::len).unwrap_or_default(), 0, "{ledger}");
    // For the ledger nothing was refused: the lake has it.
    assert_eq!((&status["ledger"]["balances"], &status["ledger"]["total"]["quarantined"]), (&json!(true), &json!(0)));
    conca.stop();
}

#[test]
fn a_log_that_grows_too_long_goes_on_without_influxdb_and_the_lake_is_copied() {
    let mut influxdb = InfluxDb::start();
    let broker = Broker::start();
    let setup = influxdb.follows(Setup::of(&broker)).set("influxdb.log_mib_max", 1).set("lake.merge_every", "1s");
    let conca = setup.start();
    wait_until_followed(&conca);
    influxdb.kill();
    let mut publisher = Publisher::connect(broker.address());
    let mut sent = 0;
    for part in 0..40 {
        let load = Load::new(250, 30, part);
        publisher.send(&load.messages);
        sent += load.len();
        setup.looks().ledger_of(sent);
        if conca.log().contains("the log goes on without it") {
            break;
        }
    }
    wait_until("InfluxDB is let go", || conca.log().contains("the log goes on without it"));
    influxdb.restart();
    wait_until_followed(&conca);
    let total = conca.get_json("/status").1["ledger"]["total"]["stored"].as_i64().unwrap();
    let answer = influxdb.flux(
        "from(bucket: \"conca\") |> range(start: 2000-01-01T00:00:00Z, stop: 2199-01-01T00:00:00Z) \
         |> filter(fn: (r) => r._field == \"value\" or r._field == \"suspect\") |> group() |> count()",
    );
    assert_eq!(answer.trim().rsplit(',').next().unwrap(), total.to_string());
    conca.stop();
}
