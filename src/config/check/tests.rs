use super::*;

fn problems(text: &str) -> String {
    match parse(text, |_name| None) {
        Ok(_config) => "fine".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn nothing_at_all_is_a_configuration() {
    let config = parse("", |_name| None).unwrap();
    assert_eq!(config.sources.len(), 1);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
}

#[test]
fn the_example_has_every_key_with_its_default() {
    let text = include_str!("../../../schemas/conca.example.toml");
    let example: FileConfig = toml::from_str(text).unwrap();
    assert_eq!(example, FileConfig::default());
    for (section, keys) in serde_json::to_value(FileConfig::default()).unwrap().as_object().unwrap() {
        for key in keys.as_object().unwrap().keys() {
            assert!(text.contains(&format!("{key} = ")) || text.contains(&format!("{section}.{key}]")), "{section}.{key}");
        }
    }
    assert_eq!(problems(text), "fine");
}

#[test]
fn every_unknown_key_and_wrong_type_is_named_at_once() {
    assert_eq!(
        problems("surprise = 1\n[intake]\nqueue_capcity = 1\nbatch_wait = 5\n[[mqtt.sources]]\nurl = 7\n[lake]\nflush_interval = \"soon\""),
        "intake.batch_wait: 5 is not of type \"string\"\n\
         intake.queue_capcity: is not known; did you mean queue_capacity?\n\
         lake.flush_interval: \"soon\" does not match \"^[0-9]{1,12}(ms|s|m|h|d|y)$\"\n\
         mqtt.sources[0].url: 7 is not of type \"string\"\n\
         surprise: is not known"
    );
}

#[test]
fn every_senseless_value_is_named_at_once() {
    let text = r#"
        node = { id = "a b", zone = "Europe/Palermo" }
        intake = { queue_capacity = 0, digests = 10 }
        http = { listen = "0.0.0.0:80", key_file = "/nowhere" }
        [[mqtt.sources]]
        url = "http://x"
        ca_file = "/nowhere"
        session_expiry = "0s"
        subscriptions = [{ filter = "a/#/b", qos = 2 }, { filter = "a", share = "x/y" }]
        [[mqtt.sources]]
        url = "mqtt://u:p@host"
        subscriptions = []
    "#;
    assert_eq!(
        problems(text),
        "node.id: must have 1 to 128 letters, digits or any of - _ . :\n\
         node.zone: failed to find time zone `Europe/Palermo` in time zone database\n\
         intake.queue_capacity: must be at least 1\n\
         intake.digests: must be at least 16000: well above what can be in flight\n\
         http.key_file: there is no file /nowhere\n\
         mqtt.sources[0].url: must look like mqtt://host:1883 or mqtts://host:8883\n\
         mqtt.sources[0].ca_file: there is no file /nowhere\n\
         mqtt.sources[0].ca_file: needs an mqtts:// url\n\
         mqtt.sources[0].session_expiry: must be at least 1s\n\
         mqtt.sources[0].subscriptions[0].filter: is no MQTT topic filter\n\
         mqtt.sources[0].subscriptions[0].qos: must be 0 or 1\n\
         mqtt.sources[0].subscriptions[1].share: must not contain / + or #\n\
         mqtt.sources[1].name: \"default\" appears twice\n\
         mqtt.sources[1].url: must not hold a user or password\n\
         mqtt.sources[1].subscriptions: must have at least one\n\
         http.key_file: certificate and key belong together\n\
         http.listen: an address that others can reach needs http.tokens with the role admin: see conca token"
    );
}

#[test]
fn others_are_let_in_only_with_an_admin_token() {
    let token = |role: &str, digits: &str| format!("[http]\nlisten = \"0.0.0.0:80\"\n[[http.tokens]]\nname = \"t\"\nrole = \"{role}\"\nsha256 = \"{digits}\"");
    assert_eq!(problems(&token("admin", &"ab".repeat(32))), "fine");
    assert!(problems(&token("read", &"ab".repeat(32))).starts_with("http.listen"));
    assert_eq!(problems(&token("admin", "xyz")), "http.tokens[0].sha256: must have 64 hexadecimal digits: see conca token");
}

#[test]
fn secrets_and_overrides_come_from_the_environment_and_secrets_are_not_shown() {
    let environment = |name: &str| match name {
        "CONCA_MQTT_CITY_1_PASSWORD" => Some("sesame".to_owned()),
        "CONCA_HTTP_LISTEN" => Some("127.0.0.1:9999".to_owned()),
        "CONCA_INTAKE_QUEUE_CAPACITY" => Some("77".to_owned()),
        _ => None,
    };
    let config = parse("[[mqtt.sources]]\nname = \"city-1\"\nusername = \"conca\"", environment).unwrap();
    assert_eq!((config.http.listen.port(), config.intake.queue_capacity), (9_999, 77));
    let (_user, password) = config.sources[0].credentials.clone().unwrap();
    assert_eq!(password.reveal(), "sesame");
    assert!(!format!("{config:?}").contains("sesame"));
}
