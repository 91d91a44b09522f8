use proptest::prelude::*;

use super::*;
use crate::model::{Catalogue, Districts};

const RULES: &str = r#"{"rules":[
    {"id":"pm10-high","title":{"it":"a","en":"a"},"severity":"warning","condition":{"type":"above","property":"pm10","above":100,"clear_below":80},"for":"10m"},
    {"id":"cold","title":{"it":"a","en":"a"},"severity":"info","condition":{"type":"below","property":"temperature","below":0}},
    {"id":"fault","title":{"it":"a","en":"a"},"severity":"critical","condition":{"type":"state","property":"charger_state","is":"faulted"}},
    {"id":"silent","title":{"it":"a","en":"a"},"severity":"warning","condition":{"type":"silence","after":"15m"}}
]}"#;

struct Scene {
    engine: Engine,
    catalogue: Catalogue,
    log: Vec<String>,
}

fn minute(minute: u64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000).unwrap().plus(Duration::from_secs(minute * 60))
}

impl Scene {
    fn new() -> Self {
        let catalogue = Catalogue::built_in();
        let rules = Rules::parse(RULES, &catalogue, &Districts::built_in()).unwrap();
        Self { engine: Engine::new(rules, [], minute(0)).0, catalogue, log: Vec::new() }
    }

    fn commit(&mut self, effects: &Effects) {
        for transition in &effects.transitions {
            let alert = transition.alert();
            self.log.push(format!("{} {} {:?}", alert.rule, alert.device, alert.status));
        }
        self.engine.apply(effects);
    }

    fn observe(&mut self, property: &str, at: u64, value: f64) {
        self.observe_of("a", property, at, value, Flags::empty(), true);
    }

    fn observe_of(&mut self, device: &str, property: &str, at: u64, value: f64, flags: Flags, is_live: bool) {
        let (device, kind) = (DeviceId::try_from(device).unwrap(), DeviceKind::try_from("k").unwrap());
        let facts = Facts { device: &device, kind: &kind, domain: Domain::Environment, district: None };
        let property = self.catalogue.find(property).unwrap();
        let mut step = self.engine.step();
        step.observe(facts, Observed { property, time: minute(at), value, flags });
        if is_live {
            step.hear(facts, Evidence { time: minute(at), value }, minute(at));
        }
        let effects = step.finish();
        self.commit(&effects);
    }

    fn tick(&mut self, now: u64, listening_since: Option<u64>) {
        let mut step = self.engine.step();
        step.tick(minute(now), listening_since.map(minute));
        let effects = step.finish();
        self.commit(&effects);
    }

    fn restart(&mut self, rules: &str) {
        let records: Vec<String> = self.engine.records().map(|record| serde_json::to_string(record).unwrap()).collect();
        let records = records.iter().map(|record| serde_json::from_str(record).unwrap());
        let rules = Rules::parse(rules, &self.catalogue, &Districts::built_in()).unwrap();
        let (engine, effects) = Engine::new(rules, records, minute(0));
        self.engine = engine;
        self.commit(&effects);
    }

    #[track_caller]
    fn check(&self, expected: &[&str]) {
        assert_eq!(self.log, expected);
    }
}

#[test]
fn a_value_that_dances_around_the_threshold_gives_one_alert() {
    let mut scene = Scene::new();
    for (at, value) in [(0, 101.0), (5, 120.0), (10, 101.0), (11, 99.0), (12, 101.0), (13, 81.0), (14, 120.0), (15, 80.0), (16, 101.0)] {
        scene.observe("pm10", at, value);
    }
    scene.check(&["pm10-high a Active", "pm10-high a Cleared"]);
}

#[test]
fn a_pending_condition_needs_its_whole_duration() {
    let mut scene = Scene::new();
    for (at, value) in [(0, 101.0), (9, 200.0), (10, 100.0), (11, 101.0), (20, 101.0)] {
        scene.observe("pm10", at, value);
    }
    scene.check(&[]);
    scene.observe("pm10", 21, 101.0);
    scene.check(&["pm10-high a Active"]);
}

#[test]
fn a_restart_inside_the_duration_neither_forgets_nor_repeats() {
    let mut scene = Scene::new();
    scene.observe("pm10", 0, 150.0);
    scene.restart(RULES);
    scene.observe("pm10", 10, 150.0);
    scene.restart(RULES);
    scene.observe("pm10", 11, 150.0);
    scene.check(&["pm10-high a Active"]);
    let alert = scene
        .engine
        .records()
        .find_map(|record| if let Standing::Active { alert } = &record.standing { Some(alert.clone()) } else { None })
        .unwrap();
    assert_eq!((alert.since, alert.activated, alert.first.unwrap().value), (minute(0), minute(10), 150.0));
}

#[test]
fn late_and_suspect_observations_move_nothing() {
    let mut scene = Scene::new();
    scene.observe("temperature", 10, -1.0);
    scene.observe("temperature", 5, 20.0);
    scene.observe_of("a", "temperature", 11, 20.0, Flags::OUT_OF_RANGE, true);
    scene.check(&["cold a Active"]);
    scene.observe("temperature", 12, 0.0);
    scene.observe("charger_state", 1, 6.0);
    scene.observe("charger_state", 2, 0.0);
    scene.check(&["cold a Active", "cold a Cleared", "fault a Active", "fault a Cleared"]);
}

#[test]
fn one_silent_device_among_many_is_noticed_once() {
    let mut scene = Scene::new();
    for device in 0..1_000 {
        scene.observe_of(&format!("d{device}"), "rain", 0, 0.0, Flags::empty(), true);
    }
    for device in (0..1_000).filter(|device| *device != 7) {
        scene.observe_of(&format!("d{device}"), "rain", 14, 0.0, Flags::empty(), true);
    }
    scene.tick(15, Some(0));
    scene.check(&[]);
    scene.tick(16, Some(0));
    scene.tick(17, Some(0));
    scene.check(&["silent d7 Active"]);
    scene.observe_of("d7", "rain", 18, 0.0, Flags::empty(), false);
    scene.check(&["silent d7 Active"]);
    scene.observe_of("d7", "rain", 19, 0.0, Flags::empty(), true);
    scene.check(&["silent d7 Active", "silent d7 Cleared"]);
}

#[test]
fn every_sign_of_life_counts_though_few_are_written_down() {
    let mut scene = Scene::new();
    scene.restart(&RULES.replace(r#""after":"15m""#, r#""after":"8s""#));
    let (device, kind) = (DeviceId::try_from("a").unwrap(), DeviceKind::try_from("k").unwrap());
    let facts = Facts { device: &device, kind: &kind, domain: Domain::Environment, district: None };
    let mut written = 0;
    for second in 0..=39 {
        let now = minute(60).plus(Duration::from_secs(second));
        let mut step = scene.engine.step();
        // It falls silent after half a minute.
        if second <= 30 {
            step.hear(facts, Evidence { time: now, value: 1.0 }, now);
        }
        let effects = step.finish();
        written += effects.conditions.len();
        scene.commit(&effects);
        let mut step = scene.engine.step();
        step.tick(now, Some(minute(0)));
        let effects = step.finish();
        scene.commit(&effects);
        scene.check(if second <= 38 { &[] } else { &["silent a Active"] });
    }
    assert_eq!(written, 4);
}

#[test]
fn our_own_outage_is_nobodys_silence() {
    let mut scene = Scene::new();
    scene.observe("rain", 0, 0.0);
    scene.restart(RULES);
    scene.tick(100, None);
    scene.tick(101, Some(100));
    scene.tick(115, Some(100));
    scene.check(&[]);
    scene.tick(116, Some(100));
    scene.check(&["silent a Active"]);
    // A clock that goes back does nothing.
    scene.tick(50, Some(100));
    scene.check(&["silent a Active"]);
}

#[test]
fn an_alert_cleared_by_hand_waits_for_the_condition_to_end() {
    let mut scene = Scene::new();
    scene.observe("temperature", 0, -1.0);
    let mark = Mark { at: minute(1), by: "rosa".to_owned(), comment: None };
    let id = format!("cold:a:{}", minute(0).micros());
    let mut step = scene.engine.step();
    assert_eq!(step.acknowledge(&id, mark.clone()).unwrap().status, Status::Active);
    let effects = step.finish();
    scene.engine.apply(&effects);
    let mut step = scene.engine.step();
    assert!(step.clear("cold:b:0", mark.clone()).is_none());
    assert_eq!(step.clear(&id, mark.clone()).unwrap().acknowledged, Some(mark));
    let effects = step.finish();
    scene.commit(&effects);
    scene.observe("temperature", 2, -2.0);
    scene.observe("temperature", 3, 1.0);
    scene.observe("temperature", 4, -1.0);
    scene.check(&["cold a Active", "cold a Cleared", "cold a Active"]);
}

#[test]
fn a_changed_rule_clears_its_alerts_and_keeps_the_others() {
    let mut scene = Scene::new();
    scene.observe("temperature", 0, -1.0);
    scene.observe("charger_state", 0, 6.0);
    scene.restart(&RULES.replace("\"below\":0", "\"below\":1"));
    scene.observe("charger_state", 1, 0.0);
    scene.check(&["cold a Active", "fault a Active", "cold a Cleared", "fault a Cleared"]);
}

#[test]
fn every_problem_of_a_rules_document_is_named() {
    let text = r#"{"extra":1,"rules":[
        {"id":"a b","title":{"it":"a","en":"a"},"severity":"warning","condition":{"type":"above","property":"pm99","above":1,"clear_below":2}},
        {"id":"x","title":{"it":"a"},"severity":"warning","condition":{"type":"silence","after":"1m"}},
        {"id":"y","title":{"it":"a","en":"a"},"severity":"warning","applies":{"districts":["rome"]},"condition":{"type":"silence","after":"0s"},"for":"1m"},
        {"id":"y","title":{"it":"a","en":"a"},"severity":"warning","condition":{"type":"state","property":"door","is":"ajar"}}
    ]}"#;
    let problems = Rules::parse(text, &Catalogue::built_in(), &Districts::built_in()).unwrap_err();
    let shown: Vec<String> = problems.iter().map(|problem| format!("{}: {}", problem.key, problem.problem)).collect();
    assert_eq!(
        shown,
        [
            "extra: is not known",
            "rules[0].id: must have 1 to 64 letters, digits or any of - _ .",
            "rules[0].condition.property: there is no property \"pm99\"",
            "rules[0].condition.clear_below: must not exceed above",
            "rules[1]: missing field `en`",
            "rules[2].applies.districts: there is no district \"rome\"",
            "rules[2].condition.after: must be above zero",
            "rules[2].for: a silence already has its duration in condition.after",
            "rules[3].id: \"y\" appears twice",
            "rules[3].condition.is: door has no state \"ajar\"",
        ]
    );
}

proptest! {
    #[test]
    fn batches_and_restarts_do_not_show(values in prop::collection::vec((0_u64..60, 60.0..140.0_f64), 1..60), cuts in prop::collection::vec(any::<bool>(), 60)) {
        let mut whole = Scene::new();
        let mut cut = Scene::new();
        for ((at, value), restart) in values.iter().zip(&cuts) {
            whole.observe("pm10", *at, *value);
            cut.observe("pm10", *at, *value);
            if *restart {
                cut.restart(RULES);
            }
        }
        prop_assert_eq!(whole.log, cut.log);
    }
}
