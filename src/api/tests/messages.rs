//! Status, metrics, ledger, quarantine.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Town;

const TOPIC: &str = "conca/v1/environment/air-station/a-1";

async fn with_messages() -> Town {
    let town = Town::new("").await;
    town.measure("a-1", "pm10", 0, 20.0);
    town.hear(&[(TOPIC, "no json"), ("elsewhere/b", r#"{"time":1700000000000,"readings":{"pm10":1}}"#)]);
    town.hear(&[(TOPIC, r#"{"time":"2023-11-14T22:13:21Z","readings":{"pm10":21.5,"nonsense":1}}"#)]);
    town
}

fn ids(page: &Value) -> Vec<i64> {
    page["items"].as_array().unwrap().iter().map(|item| item["id"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn a_server_without_sources_is_ready() {
    let town = with_messages().await;
    assert_eq!(town.get_json("/health").await, json!({ "status": "alive" }));
    let status = town.get_json("/status").await;
    assert_eq!((&status["ready"], &status["ledger"]["balances"]), (&json!(true), &json!(true)));
    assert_eq!(status["ledger"]["total"]["received"], 4);
    assert_eq!((&status["log"]["rows_ordered"], &status["devices"]["count"]), (&json!(2), &json!(1)));
    assert_eq!(status["intake"]["sequence"], 3);
}

#[tokio::test]
async fn a_server_that_accepts_nothing_is_not_ready() {
    let town = Town::new("").await;
    town.context.gate.fail("the disk is gone".to_owned(), Town::at(5));
    let answer = town.get("/status").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let status = answer.json();
    assert_eq!(status["ready"], false);
    assert_eq!(status["intake"]["paused"]["reason"], "commit-failed");
    assert_eq!(status["intake"]["paused"]["since"], "2023-11-14T22:13:25Z");
    // The process itself is well.
    assert_eq!(town.get("/health").await.status, 200);
}

#[tokio::test]
async fn metrics_are_taken_when_they_are_asked_for() {
    let town = with_messages().await;
    town.get("/v1/quarantine/999").await;
    let page = town.get("/metrics").await;
    assert!(page.header("content-type").starts_with("application/openmetrics-text"));
    for line in [
        "conca_devices 1",
        "conca_log_rows{lane=\"ordered\"} 2",
        "conca_requests_total{route=\"/v1/quarantine/{id}\",status=\"404\"} 1",
        "conca_intake_paused 0",
        "# EOF",
    ] {
        assert!(page.text.contains(line), "{line}: {}", page.text);
    }
}

#[tokio::test]
async fn the_ledger_balances_in_every_format() {
    let town = with_messages().await;
    let ledger = town.get_json("/v1/ledger?from=now-1h&to=now%2B1h").await;
    assert_eq!(ledger["balances"], true);
    assert_eq!(ledger["lines"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&ledger["total"]["accepted"], &ledger["total"]["rejected"], &ledger["total"]["quarantined"]),
        (&json!(2), &json!(2), &json!(1))
    );
    assert_eq!(ledger["lines"][0]["hour"], "2023-11-14T22:00:00Z");
    let csv = town.get("/v1/ledger?to=now%2B1h&format=csv").await;
    assert!(csv.header("content-type").starts_with("text/csv"));
    assert_eq!(csv.text.lines().nth(1).unwrap(), "main,2023-11-14T22:00:00Z,4,2,2,0,0,3,2,0,0,1,0,true");
    let other = town.get_json("/v1/ledger?to=now%2B1h&source=other").await;
    assert_eq!((&other["lines"], &other["balances"]), (&json!([]), &json!(true)));
    assert_eq!(town.get("/v1/ledger?format=parquet").await.problem(), "not-acceptable");
    let wrong = town.get("/v1/ledger?from=now&to=now-1h&sauce=x").await;
    let errors = wrong.json()["errors"].clone();
    assert_eq!(
        (wrong.problem().as_str(), errors[0]["name"].as_str(), errors[1]["name"].as_str()),
        ("invalid-parameters", Some("from"), Some("sauce"))
    );
}

#[tokio::test]
async fn a_quarantined_message_tells_what_is_wrong_with_it() {
    let town = with_messages().await;
    let page = town.get_json("/v1/quarantine").await;
    let newest = &page["items"][0];
    assert_eq!((&newest["reason"], &newest["whole"]), (&json!("unknown-property"), &json!(false)));
    assert_eq!(newest["faults"][0]["at"], "/readings/nonsense");
    assert!(newest["payload_text"].as_str().unwrap().contains("nonsense"));
    let id = newest["id"].as_i64().unwrap();
    let whole = town.get_json(&format!("/v1/quarantine/{id}")).await;
    assert!(whole["payload_hex"].as_str().unwrap().starts_with("7b2274696d65"));
    let payload = town.get(&format!("/v1/quarantine/{id}/payload")).await;
    assert_eq!(payload.text, whole["payload_text"].as_str().unwrap());
    assert_eq!(payload.header("content-type"), "application/octet-stream");
    assert!(payload.header("content-disposition").starts_with("attachment"));
    assert_eq!(town.get("/v1/quarantine/999").await.problem(), "not-found");
    assert_eq!(town.get("/v1/quarantine/x").await.problem(), "invalid-parameters");
}

#[tokio::test]
async fn the_quarantine_is_filtered_and_paged() {
    let town = with_messages().await;
    let reasons = town.get_json("/v1/quarantine/reasons").await;
    assert_eq!(reasons["reasons"].as_array().unwrap().len(), 3);
    let first = town.get_json("/v1/quarantine?limit=2").await;
    assert_eq!(ids(&first), [3, 2]);
    let second = town.get_json(&format!("/v1/quarantine?limit=2&cursor={}", first["next"].as_str().unwrap())).await;
    assert_eq!((ids(&second), &second["next"]), (vec![1], &Value::Null));
    for (filter, expected) in [
        ("reason=not-json", vec![1]),
        ("source=other", vec![]),
        ("topic=conca/v1/", vec![3, 1]),
        ("topic=conca/v1%25", vec![]),
        ("from=now-1m", vec![3, 2, 1]),
        ("to=now", vec![]),
    ] {
        assert_eq!(ids(&town.get_json(&format!("/v1/quarantine?{filter}")).await), expected, "{filter}");
    }
    assert_eq!(town.get("/v1/quarantine?reason=whatever").await.problem(), "invalid-parameters");
    assert_eq!(town.get("/v1/quarantine?cursor=whatever").await.problem(), "invalid-parameters");
}

#[tokio::test]
async fn long_payloads_are_cut_in_lists_only() {
    let town = Town::new("").await;
    let long = format!("\"{}", "è".repeat(3_000));
    town.hear(&[(TOPIC, &long)]);
    let listed = town.get_json("/v1/quarantine").await["items"][0].clone();
    assert_eq!((&listed["payload_is_cut"], &listed["payload_bytes"]), (&json!(true), &json!(6_001)));
    assert_eq!(listed["payload_text"].as_str().unwrap().len(), 2_047);
    let whole = town.get_json(&format!("/v1/quarantine/{}", listed["id"])).await;
    assert_eq!((&whole["payload_is_cut"], whole["payload_text"].as_str().unwrap()), (&json!(false), long.as_str()));
}
