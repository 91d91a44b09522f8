//! What devices measured, and what that amounts to, over HTTP.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Town;

/// Two stations in the same district, one of them for an hour; the other once, and once absurdly.
async fn town() -> Town {
    let town = Town::new("").await;
    for minute in 0..60 {
        // From 21:00 to 22:00.
        town.measure("air-1", "pm10", minute * 60 - 4_400, if minute < 30 { 10.0 } else { 20.0 });
    }
    town.measure("air-2", "pm10", -4_400, 40.0);
    town.measure("air-2", "pm10", -800, 4_000.0);
    let door = json!({ "time": Town::at(-60), "readings": { "door": "open" } });
    town.hear(&[("conca/v1/security/door-contact/door-1", &door.to_string())]);
    town
}

#[tokio::test]
async fn observations_come_by_pages() {
    let town = town().await;
    let page = town.get_json("/v1/observations?quality=any&limit=2").await;
    assert_eq!(
        page["observations"],
        json!([
            {
                "time": "2023-11-14T22:12:20Z", "device": "door-1", "property": "door", "value": 1.0, "unit": "1", "state": "open", "flags": [],
                "district": null, "position": null
            },
            {
                "time": "2023-11-14T22:00:00Z", "device": "air-2", "property": "pm10", "value": 4000.0, "unit": "ug/m3", "flags": ["out-of-range"],
                "district": "pa-c1", "position": { "lon": 13.36, "lat": 38.11 }
            },
        ])
    );
    assert_eq!((&page["quality"], &page["to"]), (&json!("any"), &json!("2023-11-14T22:13:20Z")));
    let mut address = format!("/v1/observations?quality=any&limit=2&cursor={}", page["next"].as_str().unwrap());
    let mut rows = 2;
    loop {
        let page = town.get_json(&address).await;
        rows += page["observations"].as_array().unwrap().len();
        let Some(next) = page["next"].as_str() else { break };
        address = format!("/v1/observations?quality=any&limit=2&cursor={next}");
    }
    assert_eq!(rows, 63);
    let oldest = town.get_json("/v1/observations?property=pm10&order=asc&limit=1&device=air-2").await;
    assert_eq!((&oldest["observations"][0]["value"], &oldest["next"]), (&json!(40.0), &Value::Null));
    let none = town.get_json("/v1/observations?bbox=13.0,37.0,13.1,37.1").await;
    assert_eq!(none["observations"], json!([]));
}

#[tokio::test]
async fn observations_are_exported_whole_or_by_pages() {
    let town = town().await;
    let csv = town.get("/v1/observations?format=csv&property=pm10,door&near=13.36,38.11,50").await;
    assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8; header=present");
    let lines: Vec<&str> = csv.text.split_terminator("\r\n").collect();
    assert_eq!(lines[0], "time,device,property,value,unit,state,flags,district,longitude,latitude,original_value,original_unit");
    assert_eq!((lines.len(), lines[1]), (62, "2023-11-14T21:00:00Z,air-1,pm10,10,ug/m3,,,pa-c1,13.36,38.11,,"));
    let accept = [("accept", "application/x-ndjson")];
    let doors = town.send(Method::GET, "/v1/observations?kind=door-contact", &accept, "").await;
    let line: Value = serde_json::from_str(doors.text.trim_end()).unwrap();
    assert_eq!((line["device"].as_str(), line["state"].as_str()), (Some("door-1"), Some("open")));
    let page = town.get("/v1/observations?format=geojson&limit=1&property=pm10").await;
    assert_eq!(page.json()["features"][0]["geometry"], json!({ "type": "Point", "coordinates": [13.36, 38.11] }));
    let header = page.header("link").to_owned();
    let next = header.strip_prefix('<').and_then(|text| text.strip_suffix(">; rel=\"next\"")).unwrap();
    let second = town.get_json(next).await;
    assert_eq!(second["features"][0]["properties"]["time"], "2023-11-14T21:58:00Z");
}

#[tokio::test]
async fn newest_values_come_in_every_format() {
    let town = town().await;
    let latest = town.get_json("/v1/latest?property=pm10").await;
    assert_eq!(
        latest,
        json!({
            "quality": "trusted",
            "time": "2023-11-14T22:13:20Z",
            "latest": [
                {
                    "device": "air-1", "kind": "air-station", "domain": "environment", "property": "pm10", "time": "2023-11-14T21:59:00Z",
                    "age_s": 860.0, "interval_s": 60, "value": 20.0, "unit": "ug/m3", "flags": [], "district": "pa-c1",
                    "position": { "lon": 13.36, "lat": 38.11 }
                },
                {
                    "device": "air-2", "kind": "air-station", "domain": "environment", "property": "pm10", "time": "2023-11-14T21:00:00Z",
                    "age_s": 4400.0, "interval_s": 60, "value": 40.0, "unit": "ug/m3", "flags": [], "district": "pa-c1",
                    "position": { "lon": 13.36, "lat": 38.11 }
                },
            ]
        })
    );
    let any = town.get_json("/v1/latest?device=air-2&quality=any").await;
    assert_eq!((&any["latest"][0]["value"], &any["latest"][0]["flags"]), (&json!(4000.0), &json!(["out-of-range"])));
    let map = town.get("/v1/latest?format=geojson").await;
    assert_eq!(map.header("content-type"), "application/geo+json");
    assert_eq!(map.json()["features"].as_array().map(Vec::len), Some(3));
    let csv = town.get("/v1/latest?format=csv&domain=security").await;
    let lines: Vec<&str> = csv.text.split_terminator("\r\n").collect();
    assert_eq!(lines[1], "door-1,door-contact,security,door,2023-11-14T22:12:20Z,60,1,1,open,,,,");
}

#[tokio::test]
async fn aggregates_tell_the_truth_about_themselves() {
    let town = town().await;
    let address = "/v1/aggregates?property=pm10&from=2023-11-14T21:00:00Z&to=2023-11-14T22:00:00Z&window=1h&group_by=district";
    let expected = json!({
        "property": "pm10", "unit": "ug/m3", "in_time": "mean", "across": "mean", "window": "1h", "zone": "Europe/Rome",
        "start": "2023-11-14T22:00:00+01:00", "end": "2023-11-14T23:00:00+01:00", "group_by": ["district"], "quality": "trusted", "fill": "none",
        "series": [{
            "district": "pa-c1",
            "buckets": [{
                "start": "2023-11-14T22:00:00+01:00", "end": "2023-11-14T23:00:00+01:00", "value": 27.5, "count": 61, "expected": 120.0,
                "coverage": 0.508_333_333_333_333_3, "devices": 2, "flags": [], "provisional": true, "filled": false
            }]
        }]
    });
    assert_eq!(town.get_json(address).await, expected);
    town.context.lake.flush().await.unwrap();
    assert_eq!(town.get_json(address).await, expected);
    let csv = town.get(&address.replace("1h", "30m&format=csv&zone=UTC&across=count")).await;
    let lines: Vec<&str> = csv.text.split_terminator("\r\n").collect();
    assert_eq!(lines[1], "pm10,1,2023-11-14T21:00:00+00:00,2023-11-14T21:30:00+00:00,,,pa-c1,2,,31,60,0.5166666666666667,2,,true,false");
    let doors = town.get_json("/v1/aggregates?property=door&group_by=device,kind&from=now-1h&fill=null").await;
    let buckets = &doors["series"][0]["buckets"];
    assert_eq!(
        (&doors["series"][0]["device"], &doors["series"][0]["kind"], &doors["across"]),
        (&json!("door-1"), &json!("door-contact"), &Value::Null)
    );
    assert_eq!((&buckets[0]["value"], &buckets[1]["state"]), (&Value::Null, &json!("open")));
}

#[tokio::test]
async fn refusals_tell_the_reason() {
    let town = town().await;
    for (address, status, problem, text) in [
        ("/v1/aggregates", 400, "invalid-parameters", "property"),
        ("/v1/aggregates?property=pm11", 400, "invalid-parameters", "there is no property \"pm11\""),
        ("/v1/aggregates?property=pm10&window=7m", 400, "invalid-parameters", "\"7m\" is none of 1m 2m"),
        ("/v1/aggregates?property=pm10&zone=Mars", 400, "invalid-parameters", "no time zone"),
        ("/v1/aggregates?property=pm10&group_by=moon", 400, "invalid-parameters", "device, kind, district"),
        (
            "/v1/aggregates?property=pm10&in_time=increase",
            422,
            "invalid-question",
            "increase makes no sense for pm10: only counters increase",
        ),
        ("/v1/aggregates?property=pm10&in_time=average", 422, "invalid-question", "\"average\" is no function in time"),
        ("/v1/aggregates?property=door&group_by=device&fill=linear", 422, "invalid-question", "there is nothing between two states"),
        ("/v1/aggregates?property=pm10&window=1m&from=1950-01-01T00:00:00Z", 422, "question-too-large", "more than 1000000 windows of 1m"),
        ("/v1/aggregates?property=pm10&kind=bus", 400, "invalid-parameters", "there are air-station, door-contact"),
        ("/v1/observations?device=air-3", 400, "invalid-parameters", "no device \\\"air-3\\\" was ever heard"),
        ("/v1/observations?limit=10001", 400, "invalid-parameters", "from 1 to 10000"),
        ("/v1/observations?cursor=x", 400, "invalid-parameters", "cursor"),
        ("/v1/observations?format=xml", 406, "not-acceptable", "geojson"),
        ("/v1/latest?district=pa-c9", 400, "invalid-parameters", "there is no district \\\"pa-c9\\\""),
        ("/v1/latest?from=now-1h", 400, "invalid-parameters", "is not known; known are property, device"),
        ("/v1/devices?quality=any", 400, "invalid-parameters", "is not known"),
        ("/v1/devices/nobody", 404, "not-found", "there is no device nobody"),
        ("/v1/properties/pm11", 404, "not-found", "there is no property pm11"),
        ("/v1/districts/pa-c9", 404, "not-found", "there is no district pa-c9"),
    ] {
        let answer = town.get(address).await;
        assert_eq!((answer.status.as_u16(), answer.problem().as_str()), (status, problem), "{address}: {}", answer.text);
        let text = if answer.text.contains(text) { text.to_owned() } else { text.replace('"', "\\\"") };
        assert!(answer.text.contains(&text), "{address}: {}", answer.text);
    }
}

#[tokio::test]
async fn devices_are_listed_and_shown() {
    let town = town().await;
    let first = town.get_json("/v1/devices?limit=1").await;
    assert_eq!(
        first,
        json!({
            "devices": [{
                "id": "air-1", "kind": "air-station", "domain": "environment", "status": "silent",
                "interval": { "seconds": 60.0, "source": "learned" }, "first_seen": "2023-11-14T22:13:20Z",
                "last_observed": "2023-11-14T21:59:00Z", "battery": null, "mobile": false, "district": "pa-c1",
                "position": { "lon": 13.36, "lat": 38.11 }, "properties": ["pm10"], "registration": null
            }],
            "next": "air-1"
        })
    );
    let rest = town.get_json("/v1/devices?cursor=air-1&format=geojson").await;
    let names: Vec<&str> =
        rest["features"].as_array().unwrap().iter().map(|feature| feature["properties"]["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["air-2", "door-1"]);
    assert_eq!(rest["features"][1]["geometry"], Value::Null);
    let one = town.get_json("/v1/devices/air-2").await;
    assert_eq!(
        (&one["id"], &one["latest"][0]["value"], &one["latest"][0]["flags"]),
        (&json!("air-2"), &json!(4000.0), &json!(["out-of-range"]))
    );
    let csv = town.get("/v1/devices?format=csv&property=door").await;
    assert!(
        csv.text.ends_with(
            "\r\ndoor-1,,door-contact,security,,,,,,,,,,false,online,2023-11-14T22:13:20Z,2023-11-14T22:12:20Z,false,,,,,,door\r\n"
        ),
        "{}",
        csv.text
    );
}

#[tokio::test]
async fn the_catalogue_says_what_makes_sense() {
    let town = Town::new("").await;
    let energy = town.get_json("/v1/properties?domain=energy").await;
    assert!(energy["properties"].as_array().unwrap().iter().all(|property| property["domain"] == "energy"));
    let meter = town.get("/v1/properties/energy_active").await;
    let functions = meter.json()["functions"].clone();
    let across = |in_time: &str| {
        functions.as_array().unwrap().iter().find(|function| function["in_time"] == in_time).map(|function| function["across"].clone())
    };
    assert_eq!(across("increase"), Some(json!(["mean", "sum", "min", "max", "count", "p95"])));
    assert_eq!(across("last"), Some(json!(["min", "max", "count"])));
    assert_eq!(across("mean"), None);
    let again = town.send(Method::GET, "/v1/properties/energy_active", &[("if-none-match", meter.header("etag"))], "").await;
    assert_eq!(again.status, StatusCode::NOT_MODIFIED);
    let lamp = town.get_json("/v1/properties/lamp_state").await;
    assert!(lamp["functions"].as_array().unwrap().iter().any(|function| function["in_time"] == "duration:on"));
    assert_eq!(lamp["states"]["1"]["id"], "on");
}

#[tokio::test]
async fn districts_say_that_they_are_approximate() {
    let town = Town::new("").await;
    let all = town.get("/v1/districts").await;
    assert_eq!(all.header("content-type"), "application/geo+json");
    let all = all.json();
    assert_eq!(
        (&all["type"], &all["approximate"], all["features"].as_array().map(Vec::len)),
        (&json!("FeatureCollection"), &json!(true), Some(8))
    );
    assert!(all["note"].as_str().unwrap().contains("Not official"));
    let list = town.get_json("/v1/districts?format=json").await;
    assert_eq!((&list["districts"][0]["id"], &list["approximate"]), (&json!("pa-c1"), &json!(true)));
    let one = town.get_json("/v1/districts/pa-c1").await;
    assert_eq!(
        (&one["id"], &one["geometry"]["type"], &one["properties"]["approximate"]),
        (&json!("pa-c1"), &json!("MultiPolygon"), &json!(true))
    );
}

#[tokio::test]
async fn a_thousand_newest_values_take_milliseconds() {
    let town = Town::new("").await;
    let readings = json!({ "pm10": 20.0, "no2": 30.0, "noise": 60.0, "temperature": 20.0, "humidity": 50.0 });
    let messages: Vec<(String, String)> = (0..200)
        .map(|number| {
            let position = json!({ "lon": 13.3 + f64::from(number) * 0.0005, "lat": 38.11 });
            let payload = json!({ "time": Town::at(0), "position": position, "readings": readings });
            (format!("conca/v1/environment/air-station/air-{number}"), payload.to_string())
        })
        .collect();
    town.hear(&messages.iter().map(|(topic, payload)| (topic.as_str(), payload.as_str())).collect::<Vec<_>>());
    let mut fastest = std::time::Duration::MAX;
    for _ in 0..10 {
        let started = std::time::Instant::now();
        let answer = town.get("/v1/latest").await;
        fastest = fastest.min(started.elapsed());
        assert_eq!(answer.json()["latest"].as_array().map(Vec::len), Some(1_000));
    }
    // Unoptimised, on a machine that does other things too.
    assert!(fastest < std::time::Duration::from_millis(50), "{fastest:?}");
    eprintln!("a thousand newest values: {fastest:?}");
}
