//! What others than Conca's own devices send: over HTTP, and in the words of their vendors.

use std::io::{Read as _, Write as _};

use serde_json::json;

use crate::support::{Broker, Outgoing, Publisher, Setup, eventually, now_millis, wait_until};

const UPLINK: &str = r#"{"end_device_ids":{"device_id":"d","dev_eui":"70B3D5"},"uplink_message":{"f_port":2,"f_cnt":1,
    "received_at":"2026-03-01T08:00:00Z","decoded_payload":{"TempC_SHT":21.5,"Hum_SHT":50,"BatV":3.6,"crack":7},
    "rx_metadata":[{"rssi":-90,"snr":7.5}]}}"#;

#[test]
fn vendors_words_are_understood_and_what_is_not_is_mapped_without_a_restart() {
    let broker = Broker::start();
    let mappings = tempfile::tempdir().unwrap();
    let subscription = json!({ "topic": "v3/#", "decoder": "ttn" });
    let setup = Setup::of(&broker)
        .source("subscriptions", toml::Value::try_from([subscription]).unwrap())
        .set("city.mappings", mappings.path().to_str().unwrap());
    let conca = setup.start();
    let mut publisher = Publisher::connect(broker.address());
    let only_unknown = r#"{"end_device_ids":{"dev_eui":"70B3D5"},"uplink_message":{"f_port":2,"received_at":"2026-03-01T08:01:00Z",
        "decoded_payload":{"crack":7}}}"#;
    publisher.send(&[Outgoing::new("v3/app@ttn/devices/d/up", UPLINK), Outgoing::new("v3/app@ttn/devices/d/up", only_unknown)]);
    let looks = setup.looks();
    let counts = looks.ledger_of(2);
    assert_eq!((counts.accepted, counts.rejected, counts.stored), (1, 1, 5), "{counts:?}");
    let (_code, unmapped) = conca.get_json("/v1/unmapped");
    let field = &unmapped["items"][0];
    assert_eq!(
        (&field["field"], &field["count"], &field["why"], &field["example"]),
        (&json!("crack"), &json!(2), &json!("unknown"), &json!("7"))
    );

    let mapping =
        json!({ "id": "strain", "applies": { "decoder": "ttn" }, "fields": [{ "path": "crack", "property": "water_level", "unit": "m" }] });
    std::fs::write(mappings.path().join("strain.json"), mapping.to_string()).unwrap();
    wait_until("the mapping is taken up", || conca.get_json("/v1/mappings").1["items"] != json!([]));
    let (code, replayed) = conca.post_json("/v1/quarantine/replay", &json!({ "reason": "unmapped" }));
    assert_eq!((code, &replayed["accepted"], &replayed["observations"]), (200, &json!(1), &json!(1)), "{replayed}");
    let (_code, rows) = conca.get(
        "/v1/observations?device=70b3d5&property=water_level,temperature&from=2026-03-01T00:00:00Z&to=2026-03-02T00:00:00Z&format=csv",
    );
    assert!(rows.contains("water_level") && rows.contains("21.5"), "{rows}");
    // A document that cannot be used changes nothing.
    std::fs::write(mappings.path().join("broken.json"), "{").unwrap();
    wait_until("the broken document is named", || conca.log().contains("a mapping cannot be used"));
    let (_code, documents) = conca.get_json("/v1/mappings");
    assert_eq!((&documents["items"][0]["id"], &documents["items"][1]["id"]), (&json!(null), &json!("strain")), "{documents}");
    assert!(documents["items"][0]["problems"][0].as_str().unwrap().starts_with("EOF while parsing"), "{documents}");
    // What a mapping has a word on is no longer missed.
    assert_eq!(conca.get_json("/v1/unmapped").1, json!({ "items": [] }));
    conca.stop();
}

#[test]
fn probes_of_a_device_are_where_it_is_and_a_mapping_counts_at_once() {
    let broker = Broker::start();
    let mappings = tempfile::tempdir().unwrap();
    let subscription = json!({ "topic": "v3/#", "decoder": "ttn" });
    let setup = Setup::of(&broker)
        .source("subscriptions", toml::Value::try_from([subscription]).unwrap())
        .set("city.mappings", mappings.path().to_str().unwrap());
    let conca = setup.start();
    let device = "id,kind,domain,longitude,latitude\r\n70b3d5,soil-profile,environment,13.361,38.116\r\n";
    assert_eq!(conca.send("POST", "/v1/devices/import", "text/csv", device).0, 200);
    let mapping = json!({ "id": "profile", "applies": { "device": "70B3D5" }, "fields": [
        { "path": "w_*", "when": [{ "field": "probe", "equals": "soil" }], "property": "soil_moisture", "unit": "%", "channel": "*" },
        { "path": "probe" },
        { "path": "lid", "property": "tamper", "words": { "aperto": "tampered", "chiuso": "ok" } }] });
    std::fs::write(mappings.path().join("profile.json"), mapping.to_string()).unwrap();
    let (code, documents) = conca.post_json("/v1/mappings/reload", &json!({}));
    assert_eq!((code, &documents["items"][0]["rules"]), (200, &json!(3)), "{documents}");
    let uplink = r#"{"end_device_ids":{"dev_eui":"70B3D5"},"uplink_message":{"f_port":2,"received_at":"2026-03-01T08:00:00Z",
        "decoded_payload":{"soil_temperature_at_depth_2":11.5,"w_30cm":21.25,"probe":"Soil","lid":"Aperto"}}}"#;
    Publisher::connect(broker.address()).send(&[Outgoing::new("v3/app@ttn/devices/d/up", uplink)]);
    assert_eq!(setup.looks().ledger_of(1).stored, 3);
    for (device, property, value) in
        [("70b3d5:2", "soil_temperature", 11.5), ("70b3d5:30cm", "soil_moisture", 21.25), ("70b3d5", "tamper", 1.0)]
    {
        let (_code, answer) =
            conca.get_json(&format!("/v1/observations?device={device}&from=2026-03-01T08:00:00Z&to=2026-03-01T08:01:00Z"));
        let row = &answer["observations"][0];
        assert_eq!((&row["property"], &row["value"], &row["district"]), (&json!(property), &json!(value), &json!("pa-c1")), "{answer}");
    }
    conca.stop();
}

#[test]
fn lines_are_written_as_to_influxdb_and_only_by_whom_may() {
    let token = |name: &str, role: &str| json!({ "name": name, "role": role, "sha256": conca::config::TokenHash::of(name).to_string() });
    let setup = Setup::new().set("api.tokens", toml::Value::try_from([token("writer", "write"), token("reader", "read")]).unwrap());
    let conca = setup.start_unready();
    let send = |token: &str, coding: Option<&str>, body: Vec<u8>| {
        let mut request = reqwest::Client::new()
            .post(format!("{}/api/v2/write?org=o&bucket=air&precision=s", conca.origin()))
            .header("authorization", format!("Token {token}"))
            .header("content-type", "text/plain; charset=utf-8");
        if let Some(coding) = coding {
            request = request.header("content-encoding", coding);
        }
        let answer = async {
            let answer = request.body(body).send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(answer)
    };
    let line = b"air,device=a temperature=21.5,humidity=50 1772352000\n";
    assert_eq!(send("writer", None, line.to_vec()), (204, String::new()));
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(b"air,device=a temperature=22.5 1772352060\n").unwrap();
    assert_eq!(send("writer", Some("gzip"), packed.finish().unwrap()).0, 204);
    let (code, answer) = send("writer", None, b"air,device=a temperature=23.5 1772352120\nbroken\n".to_vec());
    assert!(code == 400 && answer.contains("partial write"), "{answer}");
    assert_eq!(send("reader", None, line.to_vec()).0, 403);
    assert_eq!(send("nobody", None, line.to_vec()).0, 401);
    // 204 came after the commit: it is there at once.
    let counts = setup.looks().ledger();
    assert_eq!((counts.accepted, counts.stored, counts.quarantined), (3, 4, 1), "{counts:?}");
    eventually("it is refused to read with a token that may only write", || {
        let request = reqwest::Client::new().get(format!("{}/v1/latest", conca.origin())).header("authorization", "Bearer writer");
        let code = async { request.send().await.unwrap().status().as_u16() };
        let code = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(code);
        (code == 403).then_some(())
    });
    conca.stop();
}

/// The request of Telegraf's output `influxdb_v2`, byte by byte: gzip in chunks, as Go's client sends what it packs on the way.
#[test]
fn telegraf_writes_here_as_to_influxdb() {
    let token = json!({ "name": "gateway", "role": "write", "sha256": conca::config::TokenHash::of("s3cret").to_string() });
    let setup = Setup::new().set("api.tokens", toml::Value::try_from([token]).unwrap());
    let conca = setup.start_unready();
    let lines = "mqtt_consumer,device=air-7,host=gw-1,topic=city/air temperature=21.5,relative_humidity=48i,pm10=31.2 1772352000000000000\n\
                 cpu,cpu=cpu-total,host=gw-1 usage_idle=93.4,usage_user=4.1 1772352000000000000\n";
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(lines.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let address = conca.origin().strip_prefix("http://").unwrap().to_owned();
    let mut request = format!(
        "POST /api/v2/write?bucket=telegraf&org=city HTTP/1.1\r\nHost: {address}\r\nUser-Agent: Telegraf/1.30.0 Go/1.22.1\r\n\
         Transfer-Encoding: chunked\r\nAuthorization: Token s3cret\r\nContent-Encoding: gzip\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Accept-Encoding: gzip\r\n\r\n"
    )
    .into_bytes();
    for chunk in packed.chunks(50) {
        request.extend(format!("{:x}\r\n", chunk.len()).bytes());
        request.extend(chunk);
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\n\r\n");
    let mut connection = std::net::TcpStream::connect(&address).unwrap();
    // Twice by one connection, which Telegraf keeps; the second time it is all there already, which a merge finds out.
    for time in 1..=2 {
        connection.write_all(&request).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            connection.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 204 "), "time {time}: {answer}");
    }
    let counts = setup.looks().ledger();
    assert_eq!((counts.accepted, counts.stored, counts.duplicate + counts.pending), (2, 3, 3), "{counts:?}");
    conca.stop();
}

/// A payload of Sparkplug B with one metric of type double: field numbers by hand.
fn sparkplug(sequence: u8, name: Option<&str>, alias: u8, value: f64) -> Vec<u8> {
    let mut metric = Vec::new();
    if let Some(name) = name {
        metric.extend([0x0A, u8::try_from(name.len()).unwrap()]);
        metric.extend(name.as_bytes());
    }
    metric.extend([0x10, alias]);
    if name.is_some() {
        metric.extend([0x20, 10]);
    }
    metric.push(0x69);
    metric.extend(value.to_le_bytes());
    let mut payload = vec![0x08];
    let mut millis = now_millis().cast_unsigned();
    while millis > 0x7F {
        payload.push((millis & 0x7F) as u8 | 0x80);
        millis >>= 7;
    }
    payload.push(u8::try_from(millis).unwrap());
    payload.extend([0x12, u8::try_from(metric.len()).unwrap()]);
    payload.extend(metric);
    payload.extend([0x18, sequence]);
    payload
}

#[test]
fn an_edge_node_is_asked_for_its_birth_and_understood_after_it() {
    let broker = Broker::start();
    let subscription = json!({ "topic": "spBv1.0/#", "decoder": "sparkplug-b" });
    let setup = Setup::of(&broker).source("subscriptions", toml::Value::try_from([subscription]).unwrap());
    let conca = setup.start();
    let mut node = Publisher::connect(broker.address());
    node.subscribe("spBv1.0/city/NCMD/post-1");
    node.send(&[Outgoing::new("spBv1.0/city/NDATA/post-1", sparkplug(5, None, 1, 20.5))]);
    let (topic, command) = node.receive();
    assert_eq!(topic, "spBv1.0/city/NCMD/post-1");
    assert!(command.windows(20).any(|part| part == b"Node Control/Rebirth"), "{command:?}");
    std::thread::sleep(std::time::Duration::from_millis(20));
    node.send(&[
        Outgoing::new("spBv1.0/city/NBIRTH/post-1", sparkplug(0, Some("Sensors/Temperature"), 1, 21.5)),
        Outgoing::new("spBv1.0/city/NDATA/post-1", sparkplug(1, None, 1, 22.5)),
        Outgoing::new("spBv1.0/city/NDEATH/post-1", Vec::new()),
    ]);
    let looks = setup.looks();
    let counts = looks.ledger_of(4);
    assert_eq!((counts.accepted, counts.rejected), (3, 1), "{counts:?}");
    let latest =
        |property: &str| conca.get_json(&format!("/v1/latest?device=city:post-1&property={property}")).1["latest"][0]["value"].clone();
    assert_eq!(latest("temperature"), 22.5);
    assert_eq!(latest("connection"), 0.0, "offline");
    // What came before the birth is understood now.
    let (code, replayed) = conca.post_json("/v1/quarantine/replay", &json!({ "reason": "before-birth" }));
    assert_eq!((code, &replayed["accepted"]), (200, &json!(0)), "the node has died: {replayed}");
    node.send(&[Outgoing::new("spBv1.0/city/NBIRTH/post-1", sparkplug(0, Some("Sensors/Temperature"), 1, 23.5))]);
    looks.ledger_of(5);
    let (code, replayed) = conca.post_json("/v1/quarantine/replay", &json!({ "reason": "before-birth" }));
    assert_eq!((code, &replayed["accepted"], &replayed["observations"]), (200, &json!(1), &json!(1)), "{replayed}");
    conca.stop();
}

#[test]
fn edge_nodes_are_told_that_their_host_is_there() {
    let broker = Broker::start();
    let subscription = json!({ "topic": "spBv1.0/#", "decoder": "sparkplug-b" });
    let setup = Setup::of(&broker)
        .source("subscriptions", toml::Value::try_from([subscription]).unwrap())
        .source("sparkplug_host", "conca palermo");
    let topic = "spBv1.0/STATE/conca palermo";
    let mut node = Publisher::connect(broker.address());
    node.subscribe("spBv1.0/STATE/+");
    let heard = |node: &mut Publisher| {
        let (of, payload) = node.receive();
        let state: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!((of.as_str(), state.as_object().unwrap().len()), (topic, 2));
        (state["online"].as_bool().unwrap(), state["timestamp"].as_i64().unwrap())
    };
    let conca = setup.start();
    let (is_online, connected) = heard(&mut node);
    assert!(is_online && (now_millis() - connected).abs() < 60_000, "{connected}");
    // What a node hears that comes later is kept by the broker.
    let mut late = Publisher::connect(broker.address());
    late.subscribe(topic);
    assert_eq!(heard(&mut late), (true, connected));
    // Somebody says that it is away, as the will of a broken connection may.
    let denial = json!({ "online": false, "timestamp": now_millis() });
    Publisher::connect(broker.address()).send(&[Outgoing::new(topic, denial.to_string()).retained()]);
    assert!(!heard(&mut node).0);
    assert_eq!(heard(&mut node), (true, connected));
    // A goodbye, with its own time. Before it, each copy of the denial that the broker forwarded was answered.
    conca.stop();
    let left = loop {
        match heard(&mut node) {
            (true, time) => assert_eq!(time, connected),
            (false, time) => break time,
        }
    };
    assert!(left >= connected, "{left}");
    // The next connection has another time; without a goodbye it is the broker that says so.
    let conca = setup.start();
    let (is_online, again) = heard(&mut node);
    assert!(is_online && again > connected, "{again}");
    conca.kill();
    // A retained word of before the connection may have been answered too.
    while heard(&mut node) != (false, again) {}
    let counts = setup.looks().ledger();
    assert_eq!((counts.received - counts.accepted, counts.readings), (0, 0), "{counts:?}");
}

#[test]
fn a_context_broker_notifies_and_its_entities_are_observations() {
    let setup = Setup::new();
    let conca = setup.start_unready();
    let notification = r#"{"id":"urn:ngsi-ld:Notification:1","type":"Notification","subscriptionId":"s","notifiedAt":"2026-03-01T08:05:00Z","data":[
        {"id":"urn:ngsi-ld:WeatherObserved:pa-1","type":"WeatherObserved","dateObserved":{"type":"Property","value":{"@type":"DateTime","@value":"2026-03-01T08:00:00Z"}},
         "temperature":{"type":"Property","value":69.8,"unitCode":"FAH"},"relativeHumidity":{"type":"Property","value":0.54},
         "location":{"type":"GeoProperty","value":{"type":"Point","coordinates":[13.36,38.11]}}}, {"id":"x"}]}"#;
    assert_eq!(conca.send("POST", "/v1/ngsi/notifications", "application/ld+json", notification), (204, String::new()));
    let (_code, rows) = conca.get_json("/v1/observations?device=pa-1&from=2026-03-01T08:00:00Z&to=2026-03-01T08:01:00Z");
    let values: Vec<(&str, f64)> = rows["observations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["property"].as_str().unwrap(), row["value"].as_f64().unwrap()))
        .collect();
    assert_eq!(values, [("temperature", 21.0), ("humidity", 54.0)]);
    let (_code, quarantine) = conca.get_json("/v1/quarantine");
    assert!(quarantine["items"][0]["faults"].to_string().contains("/data/1/type"), "{quarantine}");
    // Whatever comes is kept.
    assert_eq!(conca.send("POST", "/v1/ngsi/notifications", "application/json", "no json").0, 204);
    assert_eq!(setup.looks().ledger().rejected, 1);
    conca.stop();
}
