use super::*;

fn none(_name: &str) -> Option<String> {
    None
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let problems = match Config::parse(text, &none) {
        Ok(_config) => Vec::new(),
        Err(ConfigError::Invalid { problems }) => problems.iter().map(ToString::to_string).collect(),
        Err(other) => vec![other.to_string()],
    };
    assert_eq!(problems, expected);
}

#[test]
fn an_empty_file_is_a_working_configuration() {
    check("", &[]);
    let config = Config::parse("", &none).unwrap();
    assert!(config.api.listen.ip().is_loopback());
    assert_eq!(config.city.time_zone, "Europe/Rome");
}

#[test]
fn every_problem_is_reported_with_its_key() {
    check(
        "[ingest]\nqueue_messages = 0\nqueue = 5\n[lake]\nflush_after = 60\n[[ingest.sources]]\nname = \"a b\"\nurl = \"x\"",
        &[
            "ingest: Additional properties are not allowed ('queue' was unexpected)",
            "ingest.queue_messages: 0 is less than the minimum of 1",
            "ingest.sources[0].name: \"a b\" does not match \"^[A-Za-z0-9_.:-]{1,128}$\"",
            "lake.flush_after: 60 is not of type \"string\"",
        ],
    );
    check(
        "[quality]\nenabled = [\"spikes\"]",
        &["quality.enabled[0]: \"spikes\" is not valid under any of the schemas listed in the 'oneOf' keyword"],
    );
    check(
        "[ingest.http]\nname = \"import\"\n[[ingest.sources]]\nname = \"import\"\nurl = \"mqtt://x\"",
        &[
            "ingest.http.name: is the name of what comes from files of observations",
            "ingest.sources[0].name: appears twice",
            "ingest.sources[0].name: is the name of what comes from files of observations",
        ],
    );
    check("[ingest.http]\npast_max = \"1d\"\npast_trusted_max = \"2d\"", &["ingest.http.past_trusted_max: must not exceed past_max"]);
    check(
        "[node]\nid = \"\"\n[city]\ntime_zone = \"Mars\"\n[alerts]\ntick = \"0s\"\n[[ingest.sources]]\nname = \"a\"\nurl = \"http://x\"\nskew_max = \"2d\"\nca_file = \"/nowhere\"\nsubscriptions = [{ topic = \"a/#/b\" }]\n[[ingest.sources]]\nname = \"a\"\nurl = \"mqtt://u:p@x\"",
        &[
            "node.id: must have 1 to 128 letters, digits or any of - _ . :",
            "city.time_zone: is no time zone of the IANA database",
            "alerts.tick: must be above zero",
            "ingest.sources[0].url: must be mqtt://host:port or mqtts://host:port",
            "ingest.sources[0].ca_file: is of use with mqtts:// only",
            "ingest.sources[0].skew_max: must not exceed future_max",
            "ingest.sources[0].subscriptions: \"a/#/b\" is no topic filter",
            "ingest.sources[1].url: must not hold a user or password: give them in the environment",
            "ingest.sources[1].name: appears twice",
        ],
    );
}

#[test]
fn the_table_is_in_a_folder_or_a_bucket() {
    for good in ["", "lake", "/var/lib/conca/lake", "s3://bucket/prefix", "s3://bucket/a/prefix/"] {
        check(&format!("[lake]\nurl = \"{good}\""), &[]);
    }
    for bad in ["s3://", "s3://bucket", "s3://bucket/", "https://bucket.s3.amazonaws.com", "memory://", "s3://key:secret@bucket/prefix"] {
        check(&format!("[lake]\nurl = \"{bad}\""), &["lake.url: must be a folder or s3://bucket/prefix"]);
    }
}

#[test]
fn other_addresses_than_loopback_need_tokens_and_encryption() {
    check(
        "[api]\nlisten = \"0.0.0.0:8080\"",
        &[
            "api.listen: is not a loopback address: configure api.tokens first (`conca token` makes one)",
            "api.listen: is not a loopback address: give certificate_file and key_file, or say plaintext = true behind a proxy that ends TLS",
        ],
    );
    let token = format!("[[api.tokens]]\nname = \"t\"\nrole = \"read\"\nsha256 = \"{}\"", TokenHash::of("secret"));
    check(&format!("[api]\nlisten = \"[::]:8080\"\nplaintext = true\n{token}"), &[]);
}

#[test]
fn secrets_come_from_outside_and_never_print() {
    let environment = |name: &str| match name {
        "CONCA_SOURCE_MAIN_1_USER" => Some("conca".to_owned()),
        "CONCA_SOURCE_MAIN_1_PASSWORD" => Some("hunter2".to_owned()),
        _ => None,
    };
    let text = format!(
        "[[ingest.sources]]\nname = \"main-1\"\nurl = \"mqtt://x\"\n[[api.tokens]]\nname = \"t\"\nrole = \"admin\"\nsha256 = \"{}\"",
        TokenHash::of("secret")
    );
    let config = Config::parse(&text, &environment).unwrap();
    let source = config.ingest.sources.first().unwrap();
    assert_eq!((source.user.as_deref(), source.password.as_ref().map(Secret::reveal)), (Some("conca"), Some("hunter2")));
    assert!(config.api.tokens.first().unwrap().sha256.matches("secret"));
    assert!(!config.api.tokens.first().unwrap().sha256.matches("Secret"));
    let printed = format!("{config:?}");
    assert!(!printed.contains("hunter2") && !printed.contains(&TokenHash::of("secret").to_string()), "{printed}");
}

#[test]
fn topic_filters_follow_the_standard() {
    for good in ["#", "+", "a/+/b/#", "/a", "conca/v1/#"] {
        assert!(check::is_topic_filter(good), "{good}");
    }
    for bad in ["", "a/#/b", "a#", "a/b+", "a\0"] {
        assert!(!check::is_topic_filter(bad), "{bad}");
    }
}
