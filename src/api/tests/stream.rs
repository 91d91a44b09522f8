//! The live stream.

use std::time::Duration;

use axum::body::BodyDataStream;
use axum::http::{Method, StatusCode};
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::Town;

/// An event as a browser sees it.
#[derive(Clone, Debug, PartialEq)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

/// The next piece of a stream; empty at its end.
async fn piece(stream: &mut BodyDataStream) -> String {
    let piece = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("a piece in time");
    piece.map_or_else(String::new, |piece| String::from_utf8(piece.unwrap().to_vec()).unwrap())
}

/// So many events, at least.
async fn events(stream: &mut BodyDataStream, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let text = piece(stream).await;
        assert_ne!(text, "", "the stream ended after {events:?}");
        for block in text.split_terminator("\n\n").filter(|block| block.contains("event: ")) {
            let field =
                |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {block}")).to_owned();
            events.push(Event { name: field("event: "), id: field("id: "), data: serde_json::from_str(&field("data: ")).unwrap() });
        }
    }
    events
}

fn message(device: &str, property: &str, at: i64, value: f64) -> (String, String) {
    let payload = json!({ "time": Town::at(at), "position": { "lon": 13.36, "lat": 38.11 }, "readings": { property: value } });
    (format!("conca/v1/environment/air-station/{device}"), payload.to_string())
}

fn hear(town: &Town, messages: &[(String, String)]) {
    let messages: Vec<(&str, &str)> = messages.iter().map(|(topic, payload)| (topic.as_str(), payload.as_str())).collect();
    town.hear(&messages);
}

fn devices(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.data["device"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_commit_is_told_and_a_stream_goes_on_inside_it() {
    let town = Town::new("").await;
    let mut stream = town.open("/v1/stream", &[]).await;
    assert_eq!(piece(&mut stream).await, "retry: 2000\nid: 0\n\n");
    hear(&town, &[message("a-1", "pm10", 0, 20.0), message("a-2", "pm10", 0, 21.5), message("a-3", "no2", 0, 5.0)]);
    let told = events(&mut stream, 3).await;
    assert_eq!(told.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["1.1", "1.2", "1"]);
    assert_eq!(
        told[1],
        Event {
            name: "observation".to_owned(),
            id: "1.2".to_owned(),
            data: json!({
                "device": "a-2", "kind": "air-station", "property": "pm10", "time": "2023-11-14T22:13:20Z", "value": 21.5, "unit": "ug/m3",
                "flags": [], "district": told[1].data["district"], "position": { "lon": 13.36, "lat": 38.11 }
            }),
        }
    );
    assert!(told[1].data["district"].as_str().unwrap().starts_with("pa-c"));

    for (id, expected) in [("0", &told[..]), ("1.1", &told[1..]), ("1.2", &told[2..])] {
        let mut stream = town.open("/v1/stream?last_event_id=77", &[("last-event-id", id)]).await;
        assert_eq!(piece(&mut stream).await, format!("retry: 2000\nid: {id}\n\n"));
        assert_eq!(events(&mut stream, 1).await, expected, "{id}");
        let mut stream = town.open(&format!("/v1/stream?last_event_id={id}"), &[]).await;
        assert_eq!(events(&mut stream, 1).await, expected, "{id}");
    }
    // Nothing was missed: only what comes now is told.
    let mut stream = town.open("/v1/stream", &[("last-event-id", "1")]).await;
    town.measure("a-9", "pm10", 1, 1.0);
    let told = events(&mut stream, 1).await;
    assert_eq!((devices(&told), told[0].id.as_str()), (vec!["a-9"], "2"));
}

#[tokio::test]
async fn what_is_not_known_any_more_is_a_gap() {
    let town = Town::new("").await;
    town.measure("a-1", "pm10", 0, 20.0);
    for id in ["77", "2.1", "nonsense"] {
        let mut stream = town.open("/v1/stream", &[("last-event-id", id)]).await;
        let told = events(&mut stream, 1).await;
        assert_eq!((told[0].name.as_str(), told[0].id.as_str(), &told[0].data["reason"]), ("gap", "1", &json!("unknown-position")), "{id}");
        town.clock.set(Town::at(1));
        assert_eq!(told.len(), 1);
    }
    assert_eq!(town.get("/v1/stream?last_event_id=nonsense").await.problem(), "invalid-parameters");
}

#[tokio::test]
async fn a_large_commit_comes_in_pieces() {
    let town = Town::new("").await;
    let mut stream = town.open("/v1/stream", &[]).await;
    let messages: Vec<_> = (0..900).map(|number| message(&format!("a-{number}"), "pm10", 0, 20.0)).collect();
    hear(&town, &messages);
    let told = events(&mut stream, 900).await;
    assert_eq!(devices(&told), messages.iter().map(|(topic, _payload)| topic.rsplit('/').next().unwrap()).collect::<Vec<_>>());
    let mut stream = town.open("/v1/stream", &[("last-event-id", &told[600].id)]).await;
    assert_eq!(events(&mut stream, 299).await, told[601..]);
}

#[tokio::test]
async fn a_stream_tells_what_it_was_asked_for() {
    let town = Town::new("").await;
    let title = json!({ "it": "", "en": "" });
    let rule = json!({ "id": "high", "title": title, "severity": "warning", "condition": { "type": "above", "property": "pm10", "above": 100.0 } });
    town.post(Method::PUT, "/v1/rules", &json!({ "rules": [rule] })).await;
    for (filter, expected) in [
        ("", vec!["a-1", "a-2", "a-1 high"]),
        ("?property=no2", vec!["a-2"]),
        ("?property=pm10", vec!["a-1", "a-1 high"]),
        ("?device=a-1,a-7", vec!["a-1", "a-1 high"]),
        ("?kind=bus", vec![]),
        ("?kind=air-station&device=a-2", vec!["a-2"]),
    ] {
        let mut stream = town.open(&format!("/v1/stream{filter}"), &[("last-event-id", "1")]).await;
        if filter.is_empty() {
            hear(&town, &[message("a-1", "pm10", 0, 120.0), message("a-2", "no2", 0, 5.0)]);
        }
        let told = if expected.is_empty() { Vec::new() } else { events(&mut stream, expected.len()).await };
        let names: Vec<String> = told
            .iter()
            .map(|event| match event.name.as_str() {
                "alert" => format!("{} {}", event.data["alert"]["device"].as_str().unwrap(), event.data["alert"]["rule"].as_str().unwrap()),
                _ => event.data["device"].as_str().unwrap().to_owned(),
            })
            .collect();
        assert_eq!(names, expected, "{filter}");
    }
    for wrong in ["property=nothing", "district=nowhere", "colour=red"] {
        assert_eq!(town.get(&format!("/v1/stream?{wrong}")).await.problem(), "invalid-parameters");
    }
}

#[tokio::test]
async fn streams_are_counted_bounded_and_end_with_the_program() {
    let town = Town::new("[api]\nstreams_max = 1").await;
    let mut stream = town.open("/v1/stream", &[]).await;
    let refused = town.get("/v1/stream").await;
    assert_eq!((refused.status, refused.problem().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "busy"));
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(town.context.metrics.streams.get(), 1);
    assert_ne!(piece(&mut stream).await, "");
    town.context.stop.cancel();
    assert_eq!(piece(&mut stream).await, "");
    drop(stream);
    assert_eq!(town.context.metrics.streams.get(), 0);
}
