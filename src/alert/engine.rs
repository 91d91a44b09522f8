//! Where each rule stands with each device, and what a batch or the passing of time changes.

use std::time::Duration;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::rule::{Condition, Rule, Rules, Severity, Test};
use crate::model::{DeviceId, DeviceKind, Domain, DurationText, Flags, PropertyIndex, Timestamp};

/// An observation as evidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Evidence {
    /// Phenomenon time.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// Canonical unit.
    pub value: f64,
}

/// Whether an alert still is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Its condition holds.
    Active,
    /// It is over.
    Cleared,
}

impl Status {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Cleared => "cleared",
        }
    }
}

/// Who did something, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Mark {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// A person's or token's name; `rule` and `rule-changed` for the engine itself.
    pub by: String,
    /// What they said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// An alert, which explains itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Alert {
    /// Rule, device and beginning: the same commit made twice gives the same id.
    pub id: String,
    /// The rule's id.
    pub rule: String,
    /// The rule's version when the alert became active.
    pub rule_version: String,
    /// How bad it is.
    pub severity: Severity,
    /// The device.
    pub device: String,
    /// The device's district then.
    pub district: Option<String>,
    /// Whether it still is.
    pub status: Status,
    /// When the condition began to hold: phenomenon time.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// When the alert became active: phenomenon time, for silence our clock's.
    #[schema(value_type = String, format = DateTime)]
    pub activated: Timestamp,
    /// What was asked for: limit, clear level, state or silence, and how long.
    pub condition: Condition,
    /// How long the condition had to hold.
    #[schema(value_type = String, example = "10m")]
    pub lasting: DurationText,
    /// The observation with which the condition began; for silence, the last one before.
    pub first: Option<Evidence>,
    /// The observation that made the alert active.
    pub activating: Option<Evidence>,
    /// The end, if it is over.
    pub cleared: Option<Mark>,
    /// The observation that ended it, if one did.
    pub clearing: Option<Evidence>,
    /// Who has taken notice; independent of the status.
    pub acknowledged: Option<Mark>,
}

impl Alert {
    /// Marks the alert as taken notice of; the first mark stays.
    #[must_use]
    pub fn acknowledge(mut self, mark: Mark) -> Self {
        self.acknowledged.get_or_insert(mark);
        self
    }
}

/// What happened to an alert.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(tag = "transition", rename_all = "kebab-case")]
pub enum Transition {
    /// It became active.
    Activated { alert: Alert },
    /// It is over.
    Cleared { alert: Alert },
    /// Somebody took notice.
    Acknowledged { alert: Alert },
}

impl Transition {
    /// The alert after it.
    pub fn alert(&self) -> &Alert {
        match self {
            Self::Activated { alert } | Self::Cleared { alert } | Self::Acknowledged { alert } => alert,
        }
    }
}

/// Where a rule stands with a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Standing {
    /// The condition does not hold.
    Quiet,
    /// It holds since `first`, not long enough yet.
    Pending { first: Evidence },
    /// Its alert is active.
    Active { alert: Box<Alert> },
    /// Its alert was cleared by hand: the condition must end before it can raise another.
    Muted,
}

/// A rule's standing with a device, as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConditionRecord {
    /// The rule's id.
    pub rule: String,
    /// The rule's version: the standing of another version is void.
    pub version: u64,
    /// The device.
    pub device: DeviceId,
    /// Where it stands.
    pub standing: Standing,
    /// Phenomenon time of the newest observation that was considered.
    pub considered: Timestamp,
    /// The device's district, for the alert.
    pub district: Option<String>,
}

/// What a batch or the passing of time changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// Standings as they are now.
    pub conditions: Vec<ConditionRecord>,
    /// Standings to forget: rule and device.
    pub forgotten: Vec<(String, DeviceId)>,
    /// Signs of life that need not be durable: whoever starts anew listens for the full time anyway.
    pub(super) heard: HashMap<Key, Timestamp>,
    /// In order.
    pub transitions: Vec<Transition>,
}

impl Effects {
    /// Whether nothing changed that must be durable.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty() && self.forgotten.is_empty() && self.transitions.is_empty()
    }
}

/// What rules may ask about a device.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its name.
    pub device: &'a DeviceId,
    /// Its kind.
    pub kind: &'a DeviceKind,
    /// Its part of city life.
    pub domain: Domain,
    /// Its district.
    pub district: Option<&'a str>,
}

/// An observation ahead of all others of its series.
#[derive(Clone, Copy, Debug)]
pub struct Observed {
    /// What is measured.
    pub property: PropertyIndex,
    /// Phenomenon time.
    pub time: Timestamp,
    /// Canonical unit.
    pub value: f64,
    /// What is suspect.
    pub flags: Flags,
}

type Key = (usize, DeviceId);

/// All standings. Changes only by [`Engine::apply`].
#[derive(Debug, Default)]
pub struct Engine {
    rules: Rules,
    records: HashMap<Key, ConditionRecord>,
    /// The newest signs of life, which are not all written down.
    heard: HashMap<Key, Timestamp>,
}

impl Engine {
    /// Knows the rules, and where they stood. Standings of rules that are no more, or are not the same, are void; their
    /// active alerts are cleared by the effects, which the caller commits.
    pub fn new(rules: Rules, restored: impl IntoIterator<Item = ConditionRecord>, now: Timestamp) -> (Self, Effects) {
        let mut engine = Self { rules, ..Self::default() };
        let mut effects = Effects::default();
        for record in restored {
            let place = engine
                .rules
                .rules
                .iter()
                .position(|rule| rule.document.id == record.rule && rule.version == record.version && rule.document.enabled);
            if let Some(place) = place {
                engine.records.insert((place, record.device.clone()), record);
                continue;
            }
            effects.forgotten.push((record.rule.clone(), record.device.clone()));
            if let Standing::Active { alert } = record.standing {
                let mark = Mark { at: now, by: "rule-changed".to_owned(), comment: None };
                effects.transitions.push(Transition::Cleared { alert: cleared(*alert, mark, None) });
            }
        }
        (engine, effects)
    }

    /// The rules in force.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Where every rule stands.
    pub fn records(&self) -> impl Iterator<Item = &ConditionRecord> {
        self.records.values()
    }

    /// Begins a step; nothing changes before [`Engine::apply`].
    pub fn step(&self) -> Step<'_> {
        Step { engine: self, changed: HashMap::new(), heard: HashMap::new(), transitions: Vec::new() }
    }

    /// Takes over the effects of a step, once they are durable.
    pub fn apply(&mut self, effects: &Effects) {
        self.heard.extend(effects.heard.iter().map(|(key, time)| (key.clone(), *time)));
        for record in &effects.conditions {
            if let Some(place) = self.rules.rules.iter().position(|rule| rule.document.id == record.rule) {
                self.records.insert((place, record.device.clone()), record.clone());
            }
        }
        for (rule, device) in &effects.forgotten {
            if let Some(place) = self.rules.rules.iter().position(|known| known.document.id == *rule) {
                self.records.remove(&(place, device.clone()));
            }
        }
    }
}

/// A step in the making.
#[derive(Debug)]
pub struct Step<'a> {
    engine: &'a Engine,
    changed: HashMap<Key, ConditionRecord>,
    heard: HashMap<Key, Timestamp>,
    transitions: Vec<Transition>,
}

impl Step<'_> {
    /// Looks at an observation of a device, which must be ahead of its series' watermark: late data neither raises nor
    /// clears an alert.
    pub fn observe(&mut self, facts: Facts<'_>, observed: Observed) {
        let engine = self.engine;
        if let Some(places) = engine.rules.by_property.get(&observed.property)
            && observed.flags.is_trusted()
        {
            for place in places {
                self.look(*place, facts, observed);
            }
        }
    }

    /// Looks at the newest observation of a message, which must not be a retained one: those are no sign of life.
    pub fn hear(&mut self, facts: Facts<'_>, newest: Evidence, received: Timestamp) {
        for place in &self.engine.rules.silences {
            self.sign_of_life(*place, facts, newest, received);
        }
    }

    /// Looks at the clock. `listening_since` is when the backlog had drained and messages came as they were sent; `None`
    /// while they do not.
    pub fn tick(&mut self, now: Timestamp, listening_since: Option<Timestamp>) {
        let Some(listening_since) = listening_since else { return };
        let engine = self.engine;
        for place in &engine.rules.silences {
            let Some(rule) = engine.rules.rules.get(*place) else { continue };
            let Test::Silence { after } = rule.test else { continue };
            // Whoever was silent while nobody listened gets the full time again.
            if now.since(listening_since) <= after {
                continue;
            }
            for (key, record) in engine.records.iter().filter(|((of, _device), _record)| of == place) {
                let heard = self.heard(key, record);
                if record.standing == Standing::Quiet && now.since(heard) > after && !self.changed.contains_key(key) {
                    let alert = activate(rule, record, heard, now, None, None);
                    let record = ConditionRecord { standing: Standing::Active { alert: Box::new(alert.clone()) }, ..record.clone() };
                    self.changed.insert(key.clone(), record);
                    self.transitions.push(Transition::Activated { alert });
                }
            }
        }
    }

    /// Clears an alert by hand; `None` where it is not active.
    pub fn clear(&mut self, alert: &str, mark: Mark) -> Option<Alert> {
        let found = self.engine.records.iter().find_map(|(key, record)| match &record.standing {
            Standing::Active { alert: active } if active.id == alert => Some((key.clone(), record.clone(), active.as_ref().clone())),
            _ => None,
        });
        let (key, record, active) = found?;
        let alert = cleared(active, mark, None);
        self.changed.insert(key, ConditionRecord { standing: Standing::Muted, ..record });
        self.transitions.push(Transition::Cleared { alert: alert.clone() });
        Some(alert)
    }

    /// Marks an active alert as taken notice of; `None` where it is not active.
    pub fn acknowledge(&mut self, alert: &str, mark: Mark) -> Option<Alert> {
        let found = self.engine.records.iter().find_map(|(key, record)| match &record.standing {
            Standing::Active { alert: active } if active.id == alert => Some((key.clone(), record.clone(), active.as_ref().clone())),
            _ => None,
        });
        let (key, record, active) = found?;
        let alert = active.acknowledge(mark);
        self.changed.insert(key, ConditionRecord { standing: Standing::Active { alert: Box::new(alert.clone()) }, ..record });
        self.transitions.push(Transition::Acknowledged { alert: alert.clone() });
        Some(alert)
    }

    /// What all of it changes.
    pub fn finish(self) -> Effects {
        Effects {
            conditions: self.changed.into_values().collect(),
            forgotten: Vec::new(),
            heard: self.heard,
            transitions: self.transitions,
        }
    }

    fn record(&self, key: &Key) -> Option<&ConditionRecord> {
        self.changed.get(key).or_else(|| self.engine.records.get(key))
    }

    /// When a device was heard last, as far as a rule of silence knows.
    fn heard(&self, key: &Key, record: &ConditionRecord) -> Timestamp {
        let heard = self.heard.get(key).or_else(|| self.engine.heard.get(key)).copied();
        heard.map_or(record.considered, |heard| heard.max(record.considered))
    }

    fn look(&mut self, place: usize, facts: Facts<'_>, observed: Observed) {
        let Some(rule) = self.engine.rules.rules.get(place) else { return };
        if !applies(rule, facts) {
            return;
        }
        let key = (place, facts.device.clone());
        let known = self.record(&key);
        if known.is_some_and(|record| observed.time <= record.considered) {
            return;
        }
        let standing = known.map_or(Standing::Quiet, |record| record.standing.clone());
        let is_raised = match rule.test {
            Test::Limit { sign, limit, .. } => sign * observed.value > sign * limit,
            // Codes are whole numbers.
            Test::State { code, .. } => observed.value.to_bits() == code.to_bits(),
            Test::Silence { .. } => return,
        };
        let is_clear = match rule.test {
            Test::Limit { sign, clear, .. } => sign * observed.value <= sign * clear,
            _ => !is_raised,
        };
        // Most observations of most devices: nothing is wrong and nothing was.
        if standing == Standing::Quiet && !is_raised {
            return;
        }
        let evidence = Evidence { time: observed.time, value: observed.value };
        let record = ConditionRecord {
            rule: rule.document.id.clone(),
            version: rule.version,
            device: facts.device.clone(),
            standing: Standing::Quiet,
            considered: observed.time,
            district: facts.district.map(str::to_owned),
        };
        let standing = match standing {
            Standing::Quiet | Standing::Pending { .. } if !is_raised => Standing::Quiet,
            Standing::Quiet => self.pending_or_active(rule, &record, evidence, evidence),
            Standing::Pending { first } => self.pending_or_active(rule, &record, first, evidence),
            Standing::Active { alert } if is_clear => {
                let mark = Mark { at: observed.time, by: "rule".to_owned(), comment: None };
                self.transitions.push(Transition::Cleared { alert: cleared(*alert, mark, Some(evidence)) });
                Standing::Quiet
            }
            Standing::Muted if is_clear => Standing::Quiet,
            other => other,
        };
        self.changed.insert(key, ConditionRecord { standing, ..record });
    }

    fn pending_or_active(&mut self, rule: &Rule, record: &ConditionRecord, first: Evidence, evidence: Evidence) -> Standing {
        if evidence.time.since(first.time) < rule.document.lasting.0 {
            return Standing::Pending { first };
        }
        let alert = activate(rule, record, first.time, evidence.time, Some(first), Some(evidence));
        self.transitions.push(Transition::Activated { alert: alert.clone() });
        Standing::Active { alert: Box::new(alert) }
    }

    fn sign_of_life(&mut self, place: usize, facts: Facts<'_>, newest: Evidence, received: Timestamp) {
        /// A sign of life is written down at most so often.
        const WRITE_AFTER: Duration = Duration::from_secs(10);
        let Some(rule) = self.engine.rules.rules.get(place) else { return };
        if !applies(rule, facts) {
            return;
        }
        // A clock ahead of ours is no promise of life to come.
        let time = newest.time.min(received);
        let key = (place, facts.device.clone());
        let known = self.record(&key);
        let standing = known.map_or(Standing::Quiet, |record| record.standing.clone());
        if let Some(record) = known {
            if time <= self.heard(&key, record) {
                return;
            }
            if standing == Standing::Quiet && time.since(record.considered) < WRITE_AFTER {
                self.heard.insert(key, time);
                return;
            }
        }
        if let Standing::Active { alert } = standing {
            // Only an observation that is itself not too old ends a silence: a backlog does not.
            let Test::Silence { after } = rule.test else { return };
            if received.since(time) > after {
                return;
            }
            let mark = Mark { at: time, by: "rule".to_owned(), comment: None };
            self.transitions.push(Transition::Cleared { alert: cleared(*alert, mark, Some(newest)) });
        }
        let record = ConditionRecord {
            rule: rule.document.id.clone(),
            version: rule.version,
            device: facts.device.clone(),
            standing: Standing::Quiet,
            considered: time,
            district: facts.district.map(str::to_owned),
        };
        self.changed.insert(key, record);
    }
}

fn applies(rule: &Rule, facts: Facts<'_>) -> bool {
    let applies = &rule.document.applies;
    (applies.domains.is_empty() || applies.domains.contains(&facts.domain))
        && (applies.kinds.is_empty() || applies.kinds.iter().any(|kind| kind == facts.kind.as_str()))
        && (applies.devices.is_empty() || applies.devices.iter().any(|device| device == facts.device.as_str()))
        && (applies.districts.is_empty() || facts.district.is_some_and(|here| applies.districts.iter().any(|district| district == here)))
}

fn activate(
    rule: &Rule,
    record: &ConditionRecord,
    since: Timestamp,
    activated: Timestamp,
    first: Option<Evidence>,
    activating: Option<Evidence>,
) -> Alert {
    Alert {
        id: format!("{}:{}:{}", rule.document.id, record.device, since.micros()),
        rule: rule.document.id.clone(),
        rule_version: format!("{:016x}", rule.version),
        severity: rule.document.severity,
        device: record.device.to_string(),
        district: record.district.clone(),
        status: Status::Active,
        since,
        activated,
        condition: rule.document.condition.clone(),
        lasting: rule.document.lasting,
        first,
        activating,
        cleared: None,
        clearing: None,
        acknowledged: None,
    }
}

fn cleared(alert: Alert, mark: Mark, clearing: Option<Evidence>) -> Alert {
    Alert { status: Status::Cleared, cleared: Some(mark), clearing, ..alert }
}

#[cfg(test)]
mod tests;
