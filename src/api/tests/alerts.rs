//! Rules and alerts.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Town;
use super::frame::with_tokens;

fn rules() -> Value {
    let title = json!({ "it": "PM10 alto", "en": "PM10 is high" });
    json!({ "rules": [
        { "id": "pm10-high", "title": title, "severity": "warning", "condition": { "type": "above", "property": "pm10", "above": 100.0, "clear_below": 80.0 } },
        { "id": "no2-high", "title": title, "severity": "critical", "condition": { "type": "above", "property": "no2", "above": 200.0 }, "for": "10m" },
    ] })
}

async fn with_rules() -> Town {
    let town = Town::new("").await;
    let put = town.post(Method::PUT, "/v1/rules", &rules()).await;
    assert_eq!(put.status, StatusCode::OK, "{}", put.text);
    town
}

fn devices(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|alert| alert["device"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn rules_are_put_in_place_as_a_whole() {
    let town = with_rules().await;
    let in_force = town.get_json("/v1/rules").await;
    assert_eq!(in_force["rules"].as_array().unwrap().len(), 2);
    // What is given can be put back.
    let again = town.post(Method::PUT, "/v1/rules", &in_force).await;
    assert_eq!((again.status, again.json()), (StatusCode::OK, in_force.clone()));
    let versions = town.get_json("/v1/rules/versions?limit=1").await;
    assert_eq!((&versions["items"][0]["version"], &versions["items"][0]["author"]), (&json!(2), &json!("local")));
    let older = town.get_json(&format!("/v1/rules/versions?cursor={}", versions["next"].as_str().unwrap())).await;
    assert_eq!(older["items"][0]["version"], 1);
    assert_eq!(town.get_json("/v1/rules/versions/1").await, rules());
    assert_eq!(town.get("/v1/rules/versions/9").await.problem(), "not-found");
    assert!(town.get_json("/v1/rules/schema").await["$defs"]["RuleDocument"].is_object());

    let wrong = json!({ "rules": [
        { "id": "a", "title": { "it": "", "en": "" }, "severity": "warning", "condition": { "type": "above", "property": "nothing", "above": 1.0, "clear_below": 2.0 } },
        { "id": "a", "title": { "it": "", "en": "" }, "severity": "dire", "condition": { "type": "silence", "after": "0s" } },
    ], "more": 1 });
    let refused = town.post(Method::PUT, "/v1/rules", &wrong).await;
    let names: Vec<String> =
        refused.json()["errors"].as_array().unwrap().iter().map(|error| error["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!((refused.status, refused.problem().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "invalid-rules"));
    assert_eq!(names, ["more", "rules[0].condition.property", "rules[0].condition.clear_below", "rules[1]"]);
    assert_eq!(town.get_json("/v1/rules").await, in_force);
}

#[tokio::test]
async fn bodies_are_read_strictly() {
    let town = Town::new("[api]\nbody_bytes_max = 1024").await;
    let put = |content_type: &'static str, body: String| {
        let town = &town;
        async move { town.send(Method::PUT, "/v1/rules", &[("content-type", content_type)], &body).await }
    };
    assert_eq!(put("text/plain", rules().to_string()).await.problem(), "unsupported-media-type");
    assert_eq!(put("application/json", "x".repeat(2_000)).await.problem(), "body-too-large");
    assert_eq!(put("application/json; charset=utf-8", "{".to_owned()).await.problem(), "invalid-rules");
    let remark = town.post(Method::POST, "/v1/alerts/x/clear", &json!({ "commend": "" })).await;
    assert_eq!((remark.status, remark.problem().as_str()), (StatusCode::BAD_REQUEST, "invalid-body"));
    let long = town.post(Method::POST, "/v1/alerts/x/clear", &json!({ "comment": "è".repeat(400) })).await;
    assert_eq!(long.problem(), "not-found");
}

#[tokio::test]
async fn alerts_are_paged_without_gaps_although_they_began_at_once() {
    let town = with_rules().await;
    for device in ["a-1", "a-2", "a-3", "a-4", "a-5"] {
        town.measure(device, "pm10", 0, 150.0);
    }
    let (mut seen, mut address) = (Vec::new(), "/v1/alerts?limit=2".to_owned());
    loop {
        let page = town.get_json(&address).await;
        seen.extend(devices(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next"].as_str() else { break };
        address = format!("/v1/alerts?limit=2&cursor={next}");
    }
    assert_eq!(seen, ["a-5", "a-4", "a-3", "a-2", "a-1"]);
}

#[tokio::test]
async fn alerts_are_acknowledged_and_cleared() {
    let town = with_rules().await;
    town.measure("a-1", "pm10", 0, 150.0);
    town.measure("a-2", "pm10", 60, 150.0);
    town.clock.set(Town::at(100));
    let page = town.get_json("/v1/alerts").await;
    assert_eq!(devices(&page), ["a-2", "a-1"]);
    let id = page["items"][1]["id"].as_str().unwrap();

    let comment = json!({ "comment": " street works " });
    let marked = town.post(Method::POST, &format!("/v1/alerts/{id}/acknowledge"), &comment).await.json();
    assert_eq!(marked["acknowledged"], json!({ "at": "2023-11-14T22:15:00Z", "by": "local", "comment": "street works" }));
    town.clock.set(Town::at(200));
    let again = town.post(Method::POST, &format!("/v1/alerts/{id}/acknowledge"), &json!({})).await.json();
    assert_eq!(again["acknowledged"], marked["acknowledged"]);

    let cleared = town.post(Method::POST, &format!("/v1/alerts/{id}/clear"), &json!({})).await.json();
    assert_eq!((&cleared["status"], &cleared["cleared"]["by"]), (&json!("cleared"), &json!("local")));
    let twice = town.post(Method::POST, &format!("/v1/alerts/{id}/clear"), &json!({})).await;
    assert_eq!((twice.status, twice.problem().as_str()), (StatusCode::CONFLICT, "conflict"));
    for action in ["clear", "acknowledge"] {
        assert_eq!(town.post(Method::POST, &format!("/v1/alerts/nothing/{action}"), &json!({})).await.problem(), "not-found");
    }
    assert_eq!(town.get_json(&format!("/v1/alerts/{id}")).await["status"], "cleared");

    for (filter, expected) in [
        ("status=active", vec!["a-2"]),
        ("status=cleared", vec!["a-1"]),
        ("status=all", vec!["a-2", "a-1"]),
        ("status=all&severity=critical,info", vec![]),
        ("status=all&severity=warning", vec!["a-2", "a-1"]),
        ("status=all&device=a-1&device=a-9", vec!["a-1"]),
        ("status=all&rule=no2-high", vec![]),
        ("status=all&district=pa-c1,pa-c2,pa-c3,pa-c4,pa-c5,pa-c6,pa-c7,pa-c8", vec!["a-2", "a-1"]),
        ("status=all&acknowledged=true", vec!["a-1"]),
        ("status=all&acknowledged=false", vec!["a-2"]),
        ("status=all&from=2023-11-14T22:14:00Z", vec!["a-2"]),
        ("status=all&to=2023-11-14T22:14:00Z", vec!["a-1"]),
    ] {
        assert_eq!(devices(&town.get_json(&format!("/v1/alerts?{filter}")).await), expected, "{filter}");
    }
}

#[tokio::test]
async fn what_is_not_yet_an_alert_is_pending() {
    let town = with_rules().await;
    town.measure("a-1", "no2", 0, 250.0);
    town.measure("a-1", "no2", 120, 260.0);
    let pending = town.get_json("/v1/alerts/pending").await;
    let item = &pending["items"][0];
    assert_eq!((&item["rule"], &item["severity"], &item["first"]["value"]), (&json!("no2-high"), &json!("critical"), &json!(250.0)));
    assert_eq!(item["due"], "2023-11-14T22:23:20Z");
    assert_eq!(town.get_json("/v1/alerts").await["items"], json!([]));
}

#[tokio::test]
async fn roles_reach_as_far_as_they_say() {
    let town = Town::new(&with_tokens()).await;
    let send = |token: &'static str, method: Method, address: &'static str| {
        let town = &town;
        async move {
            let headers = [("authorization", token), ("content-type", "application/json")];
            let body = if method == Method::PUT { r#"{"rules":[]}"# } else { "{}" };
            town.send(method, address, &headers, body).await.status.as_u16()
        }
    };
    for (token, read, operate, admin) in
        [("Bearer reader", 200, 403, 403), ("Bearer operator", 200, 404, 403), ("Bearer boss", 200, 404, 200), ("Bearer x", 401, 401, 401)]
    {
        assert_eq!(send(token, Method::GET, "/v1/rules").await, read, "{token}");
        assert_eq!(send(token, Method::POST, "/v1/alerts/x/clear").await, operate, "{token}");
        assert_eq!(send(token, Method::POST, "/v1/alerts/x/acknowledge").await, operate, "{token}");
        assert_eq!(send(token, Method::PUT, "/v1/rules").await, admin, "{token}");
    }
    let versions = town.send(Method::GET, "/v1/rules/versions", &[("authorization", "Bearer reader")], "").await;
    assert_eq!(versions.json()["items"][0]["author"], "boss");
}
