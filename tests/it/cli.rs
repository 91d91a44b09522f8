//! The command line: what an operator meets before anything runs.

use std::process::Output;

use conca::config::{Config, Role};

use crate::support::{Setup, conca_command};

/// Runs the program in a folder that holds `conca.toml`.
fn run(config: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("conca.toml"), config).unwrap();
    std::fs::write(folder.path().join("rules.json"), r#"{"rules": [{"id": "a b"}], "more": 1}"#).unwrap();
    conca_command().args(arguments).current_dir(folder.path()).output().unwrap()
}

/// Exit code, standard output, standard error.
#[track_caller]
fn check(config: &str, arguments: &[&str], expected: (i32, &str, &str)) {
    let output = run(config, arguments);
    let (out, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!((output.status.code().unwrap(), out.trim_end(), error.trim_end()), expected);
}

#[test]
fn a_good_configuration_is_valid() {
    check("[[ingest.sources]]\nname = \"city\"\nurl = \"mqtt://127.0.0.1\"", &["check-config"], (0, "conca.toml: valid", ""));
    check("# all as it is\n", &["check-config", "conca.toml"], (0, "conca.toml: valid", ""));
}

#[test]
fn a_file_that_is_about_to_be_written_is_no_city_of_defaults() {
    for arguments in [["check-config", "conca.toml"].as_slice(), &["run", "--config", "conca.toml"]] {
        check("\n", arguments, (1, "", "conca: conca.toml: empty: is it being written?"));
    }
}

#[test]
fn every_problem_of_a_configuration_is_reported_at_once_with_its_key() {
    check(
        "[ingest]\nqueue_messages = 0\nqueue = 5\n[lake]\nflush_after = 60\n[[ingest.sources]]\nname = \"a b\"\nurl = \"x\"",
        &["check-config"],
        (
            1,
            "",
            "conca: conca.toml: ingest: Additional properties are not allowed ('queue' was unexpected)\n\
             ingest.queue_messages: 0 is less than the minimum of 1\n\
             ingest.sources[0].name: \"a b\" does not match \"^[A-Za-z0-9_.:-]{1,128}$\"\n\
             lake.flush_after: 60 is not of type \"string\"",
        ),
    );
    check(
        "[city]\ntime_zone = \"Mars\"\n[alerts]\ntick = \"0s\"\n[[ingest.sources]]\nname = \"a\"\nurl = \"http://x\"\npassword_file = \"nowhere\"",
        &["run"],
        (
            1,
            "",
            "conca: conca.toml: ingest.sources[0].password_file: cannot read nowhere: No such file or directory (os error 2)\n\
             city.time_zone: is no time zone of the IANA database\n\
             alerts.tick: must be above zero\n\
             ingest.sources[0].url: must be mqtt://host:port or mqtts://host:port",
        ),
    );
}

#[test]
fn what_the_named_files_hold_is_checked_too() {
    check(
        "[city]\ndistricts = \"nowhere.geojson\"",
        &["check-config"],
        (1, "", "conca: cannot read nowhere.geojson: No such file or directory (os error 2)"),
    );
    check(
        "[alerts]\nrules = \"rules.json\"",
        &["check-config"],
        (1, "", "conca: cannot take up the alert rules: the rules are not valid: more: is not known; rules[0]: missing field `title`"),
    );
}

#[test]
fn a_file_that_is_no_toml_or_not_there_is_named() {
    let output = run("[node", &["check-config"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.starts_with("conca: conca.toml: not TOML: TOML parse error at line 1"), "{error}");
    let output = run("", &["check-config", "nowhere.toml"]);
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "conca: nowhere.toml: cannot read nowhere.toml: No such file or directory (os error 2)\n"
    );
}

#[test]
fn other_addresses_than_loopback_need_tokens() {
    check(
        "[api]\nlisten = \"0.0.0.0:8080\"",
        &["run"],
        (
            1,
            "",
            "conca: conca.toml: api.listen: is not a loopback address: configure api.tokens first (`conca token` makes one)\n\
             api.listen: is not a loopback address: give certificate_file and key_file, or say plaintext = true behind a proxy that ends TLS",
        ),
    );
}

#[test]
fn a_token_and_its_lines_match() {
    let output = run("", &["token", "dashboards", "--role", "operate"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let token = text.lines().next().and_then(|line| line.split_once("Bearer ")).map(|(_before, token)| token.to_owned()).unwrap();
    assert!(token.len() > 64, "{token}");
    let config = Config::parse(&format!("[api]\nlisten = \"0.0.0.0:1\"\nplaintext = true\n{text}"), &|_name| None).unwrap();
    let configured = &config.api.tokens[0];
    assert_eq!((configured.name.as_str(), configured.role), ("dashboards", Role::Operate));
    assert!(configured.sha256.matches(&token) && !configured.sha256.matches("another"));
    assert_ne!(run("", &["token", "dashboards"]).stdout, run("", &["token", "dashboards"]).stdout);
}

#[test]
fn one_process_at_a_time_works_in_a_data_folder() {
    let setup = Setup::new();
    let first = setup.start_unready();
    let (status, log) = setup.spawn().wait();
    assert!(!status.success() && log.contains("is in use by another process"), "{log}");
    first.stop();
    setup.start_unready().stop();
}

#[test]
fn the_log_has_colours_only_for_a_terminal() {
    let setup = Setup::new();
    let conca = setup.start_unready();
    assert!(!conca.log().contains('\u{1b}'), "{}", conca.log());
    conca.stop();
    let setup = Setup::new().set("log.format", "json");
    let conca = setup.spawn();
    crate::support::wait_until("a line is logged", || conca.log().contains('\n'));
    let line: serde_json::Value = serde_json::from_str(conca.log().lines().next().unwrap()).unwrap();
    assert!(line["fields"]["message"].is_string(), "{line}");
}
