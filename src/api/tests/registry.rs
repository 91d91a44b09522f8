//! What is said of devices, over HTTP: how it is changed, and what it changes.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Town;
use super::frame::with_tokens;

/// A meter that moved from pa-c1 to pa-c2 a thousand seconds before the beginning.
fn meter() -> Value {
    let moved = Town::at(-1_000);
    json!({ "kind": "energy-meter", "domain": "energy", "title": "Palestra, quadro", "class": "reference", "interval_s": 100, "installations": [
        { "to": moved, "position": { "lon": 13.361, "lat": 38.116 }, "altitude_m": 14.5, "model": "M-1", "owner": "Comune" },
        { "from": moved, "position": { "lon": 13.40, "lat": 38.09 }, "model": "M-2", "owner": "Comune" },
    ] })
}

/// What the meter tells, without a position.
fn tell(town: &Town, at: i64, value: f64) {
    let payload = json!({ "time": Town::at(at), "readings": { "power_active": value } });
    town.hear(&[("conca/v1/energy/energy-meter/meter-1", &payload.to_string())]);
}

async fn put(town: &Town, id: &str, document: &Value, headers: &[(&str, &str)]) -> super::Answer {
    let headers = [&[("content-type", "application/json")], headers].concat();
    town.send(Method::PUT, &format!("/v1/devices/{id}"), &headers, &document.to_string()).await
}

async fn import(town: &Town, query: &str, content_type: &str, body: &str) -> super::Answer {
    town.send(Method::POST, &format!("/v1/devices/import{query}"), &[("content-type", content_type)], body).await
}

fn ids(page: &Value) -> Vec<&str> {
    page["devices"].as_array().unwrap().iter().map(|device| device["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_registered_device_is_placed_where_it_was_at_each_reading_s_time() {
    let town = Town::new("").await;
    tell(&town, -3_000, 1.0);
    let put = put(&town, "meter-1", &meter(), &[]).await;
    assert_eq!(put.status, StatusCode::CREATED, "{}", put.text);
    for (at, value) in [(-100, 2.0), (-2_000, 3.0), (-50, 4.0)] {
        tell(&town, at, value);
    }
    let page = town.get_json("/v1/observations?order=asc").await;
    let districts: Vec<(f64, Option<&str>)> =
        page["observations"].as_array().unwrap().iter().map(|row| (row["value"].as_f64().unwrap(), row["district"].as_str())).collect();
    // What was stored before stays without a place; what comes late has the old one.
    assert_eq!(districts, [(1.0, None), (3.0, Some("pa-c1")), (2.0, Some("pa-c2")), (4.0, Some("pa-c2"))]);
    let device = town.get_json("/v1/devices/meter-1").await;
    assert_eq!((&device["district"], &device["status"]), (&json!("pa-c2"), &json!("online")));
    assert_eq!(device["registration"]["installations"][0]["altitude_m"], json!(14.5));
}

#[tokio::test]
async fn a_device_is_registered_before_it_is_heard() {
    let town = Town::new("").await;
    assert_eq!(put(&town, "meter-1", &meter(), &[]).await.status, StatusCode::CREATED);
    town.measure("air-1", "pm10", -10, 20.0);
    let page = town.get_json("/v1/devices").await;
    assert_eq!(ids(&page), ["air-1", "meter-1"]);
    let meter = &page["devices"][1];
    assert_eq!(
        (&meter["status"], &meter["first_seen"], &meter["kind"], &meter["district"]),
        (&json!("never"), &Value::Null, &json!("energy-meter"), &json!("pa-c2"))
    );
    assert_eq!(meter["interval"], json!({ "seconds": 100.0, "source": "declared" }));
    for (query, expected) in [
        ("status=never", vec!["meter-1"]),
        ("status=online,late", vec!["air-1"]),
        ("registered=true", vec!["meter-1"]),
        ("registered=false", vec!["air-1"]),
        ("kind=energy-meter", vec!["meter-1"]),
        ("domain=energy", vec!["meter-1"]),
        ("device=meter-1", vec!["meter-1"]),
        ("district=pa-c2", vec!["meter-1"]),
        ("property=pm10", vec!["air-1"]),
        ("cursor=air-1", vec!["meter-1"]),
    ] {
        assert_eq!(ids(&town.get_json(&format!("/v1/devices?{query}")).await), expected, "{query}");
    }
    for (query, name) in [("kind=lamp", "kind"), ("device=nobody", "device"), ("status=gone", "status")] {
        assert_eq!(town.get(&format!("/v1/devices?{query}")).await.json()["errors"][0]["name"], name);
    }
    let health = town.get_json("/v1/devices/meter-1/health").await;
    assert_eq!((&health["score"], &health["freshness"]["status"]), (&json!(0.0), &json!("never")));
}

#[tokio::test]
async fn presence_follows_phenomenon_time_and_the_expected_interval() {
    let town = Town::new("").await;
    put(&town, "meter-1", &meter(), &[]).await;
    tell(&town, -10, 1.0);
    let status = async |seconds: u64| {
        town.clock.set(Town::at(0).plus(std::time::Duration::from_secs(seconds)));
        town.get_json("/v1/devices/meter-1").await["status"].clone()
    };
    // Expected each 100 seconds.
    assert_eq!(
        (status(190).await, status(191).await, status(490).await, status(491).await),
        (json!("online"), json!("late"), json!("late"), json!("silent"))
    );
}

#[tokio::test]
async fn nobody_s_change_is_lost() {
    let town = Town::new("").await;
    let created = put(&town, "meter-1", &meter(), &[("if-none-match", "*")]).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let shown = town.get("/v1/devices/meter-1/registration").await;
    assert_eq!((shown.header("etag"), shown.json()["id"].as_str()), (created.header("etag"), Some("meter-1")));
    assert_eq!(put(&town, "meter-1", &meter(), &[("if-none-match", "*")]).await.problem(), "precondition-failed");

    let mut changed = shown.json();
    changed["title"] = json!("Palestra");
    let tag = shown.header("etag").to_owned();
    let first = put(&town, "meter-1", &changed, &[("if-match", &tag)]).await;
    assert_eq!((first.status, first.json()["title"].clone()), (StatusCode::OK, json!("Palestra")));
    assert_eq!(put(&town, "meter-1", &changed, &[("if-match", &tag)]).await.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(put(&town, "meter-2", &meter(), &[("if-match", "*")]).await.status, StatusCode::PRECONDITION_FAILED);

    let address = "/v1/devices/meter-1/registration";
    assert_eq!(town.send(Method::DELETE, address, &[("if-match", &tag)], "").await.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(town.send(Method::DELETE, address, &[("if-match", first.header("etag"))], "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(town.send(Method::DELETE, address, &[], "").await.problem(), "not-found");
    assert_eq!(town.get(address).await.problem(), "not-found");
    assert_eq!(town.get("/v1/devices/meter-1").await.problem(), "not-found");
}

#[tokio::test]
async fn what_is_wrong_with_a_registration_is_told_with_its_place() {
    let town = Town::new("").await;
    let wrong = json!({ "id": "meter-1", "kind": "energy meter", "domain": "water", "interval_s": 1.5, "installations": [{ "position": { "lon": 13.3 } }], "more": 1 });
    let refused = put(&town, "meter-1", &wrong, &[]).await;
    let names: Vec<String> =
        refused.json()["errors"].as_array().unwrap().iter().map(|error| error["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!((refused.status, refused.problem().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "invalid-registry"));
    assert_eq!(names, ["", "/domain", "/installations/0/position", "/interval_s", "/kind"]);
    assert_eq!(
        put(&town, "meter-2", &json!({ "id": "meter-1", "kind": "k", "domain": "energy" }), &[]).await.json()["errors"][0]["name"],
        "/id"
    );
    assert_eq!(put(&town, "a%20b", &meter(), &[]).await.problem(), "invalid-parameters");
    assert_eq!(ids(&town.get_json("/v1/devices").await), [""; 0]);
}

#[tokio::test]
async fn what_is_exported_can_be_imported() {
    let town = Town::new("").await;
    put(&town, "meter-1", &meter(), &[]).await;
    let odd = json!({ "kind": "lamp", "domain": "energy", "title": "=1+1, \"quoted\"", "installations": [{ "owner": "'-x" }, { "from": Town::at(0) }] });
    assert_eq!(put(&town, "-lamp", &odd, &[]).await.status, StatusCode::CREATED);
    put(&town, "plain", &json!({ "kind": "bus", "domain": "mobility" }), &[]).await;
    town.measure("air-1", "pm10", -10, 20.0);
    town.measure("plain", "pm10", -10, 20.0);
    let exported = town.get("/v1/devices?format=csv").await.text;
    assert!(exported.starts_with("id,title,kind,domain,class,interval_s,from,to,longitude,latitude,altitude_m,model,owner,registered,"));
    assert!(exported.contains(
        "\r\nmeter-1,\"Palestra, quadro\",energy-meter,energy,reference,100,,2023-11-14T21:56:40Z,13.361,38.116,14.5,M-1,Comune,true,never,"
    ), "{exported}");

    let other = Town::new("").await;
    other.measure("air-1", "pm10", -10, 20.0);
    other.measure("plain", "pm10", -10, 20.0);
    let tried = import(&other, "?dry_run=true", "text/csv", &exported).await;
    assert_eq!(tried.json(), json!({ "dry_run": true, "created": 3, "replaced": 0, "unchanged": 0 }), "{}", tried.text);
    assert_eq!(ids(&other.get_json("/v1/devices").await), ["air-1", "plain"]);
    let done = import(&other, "", "text/csv; charset=utf-8", &exported).await;
    assert_eq!(done.json(), json!({ "dry_run": false, "created": 3, "replaced": 0, "unchanged": 0 }));
    assert_eq!(other.get("/v1/devices?format=csv").await.text, exported);
    for id in ["meter-1", "-lamp", "plain"] {
        let address = format!("/v1/devices/{id}/registration");
        assert_eq!(other.get_json(&address).await, town.get_json(&address).await);
    }
    assert_eq!(import(&other, "", "text/csv", &exported).await.json()["unchanged"], 3);
    let registrations = [town.get_json("/v1/devices/meter-1/registration").await];
    let mut changed = json!({ "devices": registrations });
    changed["devices"][0]["class"] = json!("indicative");
    assert_eq!(import(&other, "", "application/json", &changed.to_string()).await.json()["replaced"], 1);
}

#[tokio::test]
async fn an_import_is_all_or_nothing() {
    let town = Town::new("[intake]\ndevices_max = 2").await;
    let csv = "id,kind,domain,longitude,latitude\na,meter,energy,13.3,38.1\nb,meter,energy,13.3,\n";
    let refused = import(&town, "", "text/csv", csv).await;
    assert_eq!(
        (refused.status, refused.json()["errors"][0]["name"].clone()),
        (StatusCode::UNPROCESSABLE_ENTITY, json!("line 3, longitude and latitude"))
    );
    let many = import(&town, "", "text/csv", "id,kind,domain\na,meter,energy\nb,meter,energy\nc,meter,energy\n").await;
    assert_eq!((many.status, many.problem().as_str()), (StatusCode::CONFLICT, "conflict"));
    assert_eq!(import(&town, "", "text/plain", csv).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(import(&town, "", "text/csv", "id,kind,domain\n\"a").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(import(&town, "?dry=true", "text/csv", csv).await.problem(), "invalid-parameters");
    assert_eq!(ids(&town.get_json("/v1/devices").await), [""; 0]);
    assert_eq!(import(&town, "", "text/csv", "id,kind,domain\n").await.json()["created"], 0);
}

#[tokio::test]
async fn only_administrators_change_the_registry() {
    let town = Town::new(&with_tokens()).await;
    for (token, status) in [("reader", 403), ("operator", 403), ("boss", 201)] {
        let token = format!("Bearer {token}");
        assert_eq!(put(&town, "meter-1", &meter(), &[("authorization", &token)]).await.status.as_u16(), status);
    }
    for method in [Method::DELETE, Method::GET] {
        let status = if method == Method::GET { 200 } else { 403 };
        let answer = town.send(method, "/v1/devices/meter-1/registration", &[("authorization", "Bearer operator")], "").await;
        assert_eq!(answer.status.as_u16(), status);
    }
    let headers = [("authorization", "Bearer operator"), ("content-type", "text/csv")];
    assert_eq!(town.send(Method::POST, "/v1/devices/import", &headers, "id,kind,domain\n").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn health_says_why() {
    let town = Town::new("").await;
    for minute in 0..50 {
        let value = if minute < 10 { 4_000.0 } else { 20.0 };
        town.measure("air-1", "pm10", -6_000 + minute * 60, value);
    }
    for minute in 60..100 {
        let position = if minute < 80 { json!({ "lon": 38.11, "lat": 13.36 }) } else { json!({ "lon": 13.36, "lat": 38.11 }) };
        let payload =
            json!({ "time": Town::at(-6_000 + minute * 60), "position": position, "readings": { "pm10": 20.0, "battery_level": 25.0 } });
        town.hear(&[("conca/v1/environment/air-station/air-1", &payload.to_string())]);
    }
    let health = town.get_json("/v1/devices/air-1/health").await;
    let quality = &health["quality"];
    assert_eq!((&quality["observations"], &quality["trusted"]), (&json!(130), &json!(80)));
    assert_eq!(
        quality["flags"],
        json!([{ "flag": "out-of-range", "observations": 10, "penalty": 1.0 }, { "flag": "swapped", "observations": 40, "penalty": 0.5 }])
    );
    // Ten of a hundred minutes are missing; the first one begins the period.
    let completeness = &health["completeness"];
    assert_eq!(
        (&completeness["times"], &completeness["times_expected"], &health["from"]),
        (&json!(90), &json!(100.0), &json!(Town::at(-6_000)))
    );
    assert_eq!(completeness["interval"], json!({ "seconds": 60.0, "source": "learned" }));
    assert_eq!((&health["freshness"]["score"], &health["battery"]["level"]), (&json!(100.0), &json!(25.0)));
    let score = 100.0 * (0.4 * (80.0 + 20.0) / 130.0 + 0.3 * 90.0 / 100.0 + 0.2 + 0.1 * 0.5);
    assert!((health["score"].as_f64().unwrap() - score).abs() < 1e-9, "{health}");
    let one = town.get_json("/v1/devices/air-1").await;
    assert_eq!(one["battery"], json!({ "level": 25.0, "voltage": null }));
    assert_eq!(town.get("/v1/devices/nobody/health").await.problem(), "not-found");
}
