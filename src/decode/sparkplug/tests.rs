use prost::Message as _;

use super::protobuf::{DataType, Metric, Payload, PropertySet, PropertyValue, Skipped, Value as Told};
use super::{Nodes, REMEMBERED_MAX};
use crate::decode::material::material;
use crate::decode::tests::{LIMITS, message, written};
use crate::decode::{Decoder, Form, Memory, decode};

const FORM: fn() -> Form = || Form { decoder: Decoder::SparkplugB, ..Form::default() };

/// 2026-03-01T08:00:00Z.
const NOON: u64 = 1_772_352_000_000;

fn metric(name: &str, alias: u64, kind: DataType, value: Told) -> Metric {
    Metric { name: Some(name.to_owned()), alias: Some(alias), datatype: Some(kind as u32), value: Some(value), ..Metric::default() }
}

fn by_alias(alias: u64, value: Told) -> Metric {
    Metric { alias: Some(alias), value: Some(value), ..Metric::default() }
}

fn with_unit(metric: Metric, unit: &str) -> Metric {
    let value = PropertyValue { string_value: Some(unit.to_owned()) };
    Metric { properties: Some(PropertySet { keys: vec!["engUnit".to_owned()], values: vec![value] }), ..metric }
}

fn payload(seq: u64, metrics: Vec<Metric>) -> Vec<u8> {
    Payload { timestamp: Some(NOON), metrics, seq: Some(seq), ..Payload::default() }.encode_to_vec()
}

/// A will, or the first metric of a birth.
fn session(number: u64) -> Metric {
    Metric { name: Some("bdSeq".to_owned()), datatype: Some(DataType::Int64 as u32), value: Some(Told::Long(number)), ..Metric::default() }
}

/// Messages by one memory, what came of each as text; `!` stands for a request for a birth.
struct Host {
    memory: Memory,
    seconds: i64,
}

impl Host {
    fn new() -> Self {
        Self { memory: Memory::default(), seconds: 0 }
    }

    #[track_caller]
    fn hear(&mut self, topic: &str, payload: &[u8], expected: &str) {
        let mut message = message(&format!("spBv1.0/city/{topic}"), payload);
        message.received = crate::model::Timestamp::from_micros((NOON.cast_signed() / 1_000 + self.seconds) * 1_000_000).unwrap();
        let decoded = decode(&FORM(), &message, &LIMITS, &mut self.memory);
        let asked = decoded.as_ref().is_ok_and(|decoded| !decoded.replies.is_empty());
        if let Ok(decoded) = &decoded {
            for reply in &decoded.replies {
                let node = topic.split('/').nth(1).unwrap();
                assert_eq!(reply.topic, format!("spBv1.0/city/NCMD/{node}"));
                let command = Payload::decode(reply.payload.clone()).unwrap();
                let metric = &command.metrics[0];
                assert_eq!((metric.name.as_deref(), &metric.value), (Some("Node Control/Rebirth"), &Some(Told::Boolean(true))));
                assert_eq!(metric.datatype, Some(11));
            }
        }
        let text = written(decoded);
        assert_eq!(text + if asked { "!" } else { "" }, expected, "{topic}");
    }

    fn born() -> Self {
        let mut host = Self::new();
        let metrics = vec![
            session(3),
            metric("Node Control/Rebirth", 0, DataType::Boolean, Told::Boolean(false)),
            with_unit(metric("Sensors/Temperature", 1, DataType::Float, Told::Float(21.3)), "°C"),
        ];
        host.hear(
            "NBIRTH/lamp-post",
            &payload(0, metrics),
            "city:lamp-post sparkplug \nSensors.Temperature=21.3 °C\nconnection=\"online\"",
        );
        let metrics = vec![metric("count", 2, DataType::Int8, Told::Int(0xFFFF_FFFF))];
        host.hear("DBIRTH/lamp-post/radar", &payload(1, metrics), "city:lamp-post:radar sparkplug \ncount=-1\nconnection=\"online\"");
        host
    }
}

#[test]
fn aliases_are_names_after_a_birth() {
    let mut host = Host::born();
    host.hear(
        "NDATA/lamp-post",
        &payload(2, vec![by_alias(1, Told::Float(-0.5))]),
        "city:lamp-post sparkplug \nSensors.Temperature=-0.5 °C",
    );
    host.hear("DDATA/lamp-post/radar", &payload(3, vec![by_alias(2, Told::Int(0x7F))]), "city:lamp-post:radar sparkplug \ncount=127");
    // The number begins anew after 255.
    for number in 4..256 {
        host.hear("NDATA/lamp-post", &payload(number, vec![]), "city:lamp-post sparkplug ");
    }
    host.hear("NDATA/lamp-post", &payload(0, vec![]), "city:lamp-post sparkplug ");
}

#[test]
fn data_before_a_birth_are_kept_and_the_birth_is_asked_for_now_and_then() {
    let mut host = Host::new();
    let named = metric("t", 9, DataType::Double, Told::Double(1.5));
    let data = payload(7, vec![by_alias(1, Told::Int(1)), named.clone()]);
    let kept =
        "city:n sparkplug \nt=1.5\nfault: before-birth at alias 1: alias 1: no birth of city:n that is known names it; it was asked for";
    host.hear("NDATA/n", &data, &format!("{kept}!"));
    host.hear("NDATA/n", &payload(8, vec![named.clone()]), "city:n sparkplug \nt=1.5");
    host.seconds = 10;
    host.hear("NDATA/n", &payload(9, vec![named.clone()]), "city:n sparkplug \nt=1.5!");
    // A device that the node has not announced.
    let mut host = Host::born();
    host.hear("DDATA/lamp-post/other", &payload(2, vec![named]), "city:lamp-post:other sparkplug \nt=1.5!");
}

#[test]
fn a_missing_message_makes_a_birth_be_asked_for_and_loses_nothing_else() {
    let mut host = Host::born();
    host.hear("NDATA/lamp-post", &payload(4, vec![by_alias(1, Told::Float(5.0))]), "city:lamp-post sparkplug \nSensors.Temperature=5 °C");
    // What a replay tells neither asks nor counts.
    host.memory.replayed = true;
    host.seconds = 60;
    host.hear("NDATA/lamp-post", &payload(2, vec![by_alias(1, Told::Float(6.0))]), "city:lamp-post sparkplug \nSensors.Temperature=6 °C");
    host.memory.replayed = false;
    // Those that are missing may still come, for a while.
    host.hear("NDATA/lamp-post", &payload(5, vec![]), "city:lamp-post sparkplug !");
    host.hear("NDATA/lamp-post", &payload(6, vec![]), "city:lamp-post sparkplug ");
}

#[test]
fn messages_that_overtake_each_other_are_no_gap() {
    let mut host = Host::born();
    for number in [4, 3, 5, 2, 7, 6] {
        host.hear("NDATA/lamp-post", &payload(number, vec![]), "city:lamp-post sparkplug ");
    }
    host.seconds = 60;
    host.hear("NDATA/lamp-post", &payload(8, vec![]), "city:lamp-post sparkplug ");
    // The same message again is none either.
    host.hear("NDATA/lamp-post", &payload(8, vec![]), "city:lamp-post sparkplug ");
    host.hear("NDATA/lamp-post", &payload(9, vec![]), "city:lamp-post sparkplug ");
    host.seconds = 120;
    host.hear("NDATA/lamp-post", &payload(10, vec![]), "city:lamp-post sparkplug ");
    host.hear("NDATA/lamp-post", &payload(12, vec![]), "city:lamp-post sparkplug ");
    host.seconds = 124;
    host.hear("NDATA/lamp-post", &payload(13, vec![]), "city:lamp-post sparkplug ");
    host.seconds = 125;
    host.hear("NDATA/lamp-post", &payload(14, vec![]), "city:lamp-post sparkplug !");
}

#[test]
fn a_birth_of_more_than_a_message_may_hold_is_refused_and_not_asked_for_again_and_again() {
    let mut host = Host::new();
    let metrics: Vec<Metric> = (0..60).map(|alias| metric(&format!("m{alias}"), alias, DataType::Int8, Told::Int(1))).collect();
    host.hear("NBIRTH/n", &payload(0, metrics), "rejected: too-many-readings: more than 50 readings");
    // What it said is known all the same, and nothing is missing after it.
    host.hear("NDATA/n", &payload(1, vec![by_alias(7, Told::Int(2))]), "city:n sparkplug \nm7=2");
}

#[test]
fn a_death_is_that_of_all_devices_and_an_old_will_is_none() {
    let mut host = Host::born();
    host.hear("NDEATH/lamp-post", &Payload { metrics: vec![session(2)], ..Payload::default() }.encode_to_vec(), "");
    host.hear("DDEATH/lamp-post/radar", &payload(2, vec![]), "city:lamp-post:radar sparkplug \nconnection=\"offline\"");
    host.hear(
        "NDEATH/lamp-post",
        &Payload { metrics: vec![session(3)], ..Payload::default() }.encode_to_vec(),
        "city:lamp-post sparkplug \nconnection=\"offline\"\ncity:lamp-post:radar sparkplug \nconnection=\"offline\"",
    );
    // Aliases are void with it.
    let text = "city:lamp-post sparkplug \nfault: before-birth at alias 1: alias 1: no birth of city:lamp-post that is known names it; it was asked for!";
    host.hear("NDATA/lamp-post", &payload(9, vec![by_alias(1, Told::Float(5.0))]), text);
}

#[test]
fn every_type_is_read_or_refused() {
    let metrics = vec![
        metric("i16", 1, DataType::Int16, Told::Int(0xFFFE)),
        metric("i32", 2, DataType::Int32, Told::Int(0xFFFF_FFFD)),
        metric("i64", 3, DataType::Int64, Told::Long(u64::MAX)),
        metric("u8", 4, DataType::UInt8, Told::Int(255)),
        metric("u32", 5, DataType::UInt32, Told::Long(4_294_967_295)),
        metric("u64", 6, DataType::UInt64, Told::Long(1 << 40)),
        metric("on", 7, DataType::Boolean, Told::Boolean(true)),
        metric("mode", 8, DataType::String, Told::Text("auto".to_owned())),
        metric("since", 9, DataType::DateTime, Told::Long(NOON)),
        metric("nan", 10, DataType::Double, Told::Double(f64::NAN)),
        metric("set", 11, DataType::DataSet, Told::DataSet(Skipped {})),
        metric("template", 12, DataType::Template, Told::Template(Skipped {})),
        metric("file", 13, DataType::File, Told::Bytes(vec![1])),
        metric("array", 14, DataType::Int8Array, Told::Bytes(vec![1])),
        Metric { is_null: Some(true), value: None, ..metric("null", 15, DataType::Int8, Told::Int(0)) },
        Metric { value: None, ..metric("none", 16, DataType::Int8, Told::Int(0)) },
        Metric { is_transient: Some(true), ..metric("passing", 17, DataType::Int8, Told::Int(1)) },
        Metric { timestamp: Some(u64::MAX), ..metric("when", 18, DataType::Int8, Told::Int(1)) },
        Metric { timestamp: Some(NOON + 1), ..metric("a.b/c", 19, DataType::Int8, Told::Int(1)) },
    ];
    Host::new().hear(
        "NBIRTH/n",
        &payload(0, metrics),
        "city:n sparkplug \ni16=-2\ni32=-3\ni64=-1\nu8=255\nu32=4294967295\nu64=1099511627776\non=\"true\"\nmode=\"auto\"\na_b.c=1\nconnection=\"online\"\n\
         fault: invalid-value at nan: NaN is not finite\nfault: unsupported at set: data sets are not taken\n\
         fault: unsupported at template: templates are not taken\nfault: unsupported at file: files are not taken\n\
         fault: unsupported at array: bytes and arrays are not taken\nfault: invalid-value at none: neither a value nor is_null\n\
         fault: invalid-time at when: 18446744073709551615 ms since 1970 is no time that is taken",
    );
}

/// Bytes by hand, from the definition: metric `t`, alias 5, time, type Double, 20.5.
#[test]
fn fields_have_the_numbers_of_the_definition() {
    // 1: 1,000,000
    let mut bytes = vec![0x08, 0xC0, 0x84, 0x3D];
    // 2: metrics { 1: "t", 2: 5, 4: 10, 5: true, 9: { 1: "engUnit", 2: { 1: 12, 8: "m" } }, 13: 20.5 }, 3: 0
    let metric = [
        &[0x0A, 1, b't', 0x10, 5, 0x20, 10, 0x28, 1, 0x4A, 16, 0x0A, 7][..],
        b"engUnit",
        &[0x12, 5, 0x08, 12, 0x42, 1, b'm'],
        &[0x69],
        &20.5_f64.to_le_bytes(),
    ]
    .concat();
    bytes.extend([0x12, u8::try_from(metric.len()).unwrap()]);
    bytes.extend(&metric);
    bytes.extend([0x18, 0]);
    Host::new().hear("NBIRTH/n", &bytes, "city:n sparkplug \nt=20.5 m\nconnection=\"online\"");
}

#[test]
fn a_compressed_payload_is_unpacked_within_bounds() {
    use std::io::Write as _;
    let pack = |plain: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(plain).unwrap();
        let algorithm = metric("algorithm", 0, DataType::String, Told::Text("GZIP".to_owned()));
        let body = Some(encoder.finish().unwrap());
        Payload { uuid: Some("SPBV1.0_COMPRESSED".to_owned()), body, metrics: vec![algorithm], ..Payload::default() }.encode_to_vec()
    };
    let inner = payload(0, vec![metric("t", 1, DataType::Double, Told::Double(1.0))]);
    Host::new().hear("NBIRTH/n", &pack(&inner), "city:n sparkplug \nt=1\nconnection=\"online\"");
    let bomb = vec![0; 10_000_000];
    Host::new().hear("NBIRTH/n", &pack(&bomb), "rejected: too-large: more than 65536 bytes unpacked");
}

#[test]
fn topics_of_others_are_told_apart() {
    let mut host = Host::new();
    host.hear("NCMD/n", b"any", "");
    for topic in ["NDATA", "NDATA/n/d", "DDATA/n", "DDATA/n/d/e", "XDATA/n", "NDATA/"] {
        let text = format!("rejected: topic: {:?} is not spBv1.0/<group>/<type>/<node>[/<device>]", format!("spBv1.0/city/{topic}"));
        host.hear(topic, b"", &text);
    }
    let state = message("spBv1.0/STATE/scada", br#"{"online":true,"timestamp":1}"#);
    assert_eq!(written(decode(&FORM(), &state, &LIMITS, &mut Memory::default())), "");
}

#[test]
fn what_births_say_is_bounded() {
    let mut nodes = Nodes { remembered: REMEMBERED_MAX - 1, ..Nodes::default() };
    let metrics = (0..10).map(|alias| metric(&format!("m{alias}"), alias, DataType::Int8, Told::Int(1))).collect();
    let birth = message("spBv1.0/city/NBIRTH/n", &payload(0, metrics));
    super::decode(&FORM(), &birth, &LIMITS, &mut nodes, false).unwrap();
    assert_eq!(nodes.by_name["city:n"].aliases.len(), 1);
}

/// Which requirements to whoever receives hold by which test; the others are those of edge nodes or of servers.
#[test]
fn requirements_of_the_specification_are_held() {
    // Series carry no mark of staleness beside `connection`, how long messages may overtake each other is no parameter, and a session
    // outlives its connection, so that what arrives meanwhile is not lost.
    const NOT_MET: &[&str] = &[
        "operational-behavior-edge-node-termination-host-action-ndeath-node-tags-stale",
        "operational-behavior-edge-node-termination-host-action-ndeath-devices-tags-stale",
        "operational-behavior-edge-node-termination-host-action-ddeath-devices-tags-stale",
        "operational-behavior-host-reordering-param",
        "message-flow-phid-sparkplug-clean-session-50",
        "message-flow-phid-sparkplug-clean-session-311",
    ];
    const HELD: &[&str] = &[
        // data_before_a_birth…, a_missing_message…: the request for a birth.
        "operational-behavior-data-commands-ncmd-rebirth-verb",
        "operational-behavior-data-commands-ncmd-rebirth-name",
        "operational-behavior-data-commands-ncmd-rebirth-value",
        "operational-behavior-data-commands-ncmd-verb",
        "operational-behavior-data-commands-ncmd-metric-name",
        "operational-behavior-data-commands-ncmd-metric-value",
        "topics-ncmd-topic",
        "topics-ncmd-mqtt",
        "topics-ncmd-timestamp",
        "topics-ncmd-payload",
        "payloads-ncmd-timestamp",
        "payloads-ncmd-qos",
        "payloads-ncmd-retain",
        // a_death_is_that_of_all_devices…
        "operational-behavior-edge-node-termination-host-action-ndeath-node-offline",
        "operational-behavior-edge-node-termination-host-action-ndeath-devices-offline",
        "operational-behavior-edge-node-termination-host-action-ddeath-devices-offline",
        // messages_that_overtake_each_other…, a_missing_message…
        "operational-behavior-host-reordering-start",
        "operational-behavior-host-reordering-rebirth",
        "operational-behavior-host-reordering-success",
        // edge_nodes_are_told_that_their_host_is_there, among the integration tests
        "host-topic-phid-",
        "message-flow-phid-sparkplug-state-",
        "message-flow-phid-sparkplug-subscription",
        "message-flow-hid-sparkplug-state-message-delivered",
        "operational-behavior-host-application-",
        "payloads-state-",
        // aliases_are_names…, every_type…, topics_of_others…
        "topic-structure",
        "topic-structure-namespace-a",
        "payloads-timestamp-in-UTC",
        "payloads-metric-timestamp-in-UTC",
        "case-sensitivity-metric-names",
    ];
    let Some(path) = material("sparkplug/tck-requirements.tsv", "requirements_of_the_specification_are_held") else { return };
    let text = std::fs::read_to_string(path).unwrap();
    let known: Vec<&str> = text.lines().skip(1).filter_map(|line| line.split('\t').next()?.strip_prefix("tck-id-")).collect();
    let is_of = |ids: &[&str], id: &str| ids.iter().any(|of| id == *of || (of.ends_with('-') && id.starts_with(of)));
    for id in HELD.iter().chain(NOT_MET) {
        assert!(known.iter().any(|known| is_of(&[id], known)), "{id} is no requirement");
    }
    let of_hosts =
        ["host-action", "host-reordering", "host-application", "phid-sparkplug", "host-topic", "payloads-state", "hid-sparkplug"];
    let is_left = |id: &&&str| of_hosts.iter().any(|part| id.contains(part)) && !is_of(HELD, id) && !is_of(NOT_MET, id);
    let left: Vec<&&str> = known.iter().filter(is_left).collect();
    assert_eq!(left, Vec::<&&str>::new());
}
