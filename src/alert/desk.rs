//! The engine beside the state database: whatever moves a condition or an alert is durable before it is seen.
//!
//! Every change is made holding the writer's [`Turn`]: effects are computed on what is, committed, and only then applied.
//! Batches of messages bring their effects through [`Desk::observe`] into their own commit; time, people and new rules
//! commit here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::engine::{Alert, ConditionRecord, Effects, Engine, Mark, Step, Transition};
use super::rule::{Problem, RuleDocument, Rules};
use crate::model::{Catalogue, Clock, Districts, Timestamp};
use crate::state::{AlertChange, Commit, ConditionRow, Database, NewRules, RestoredWork, StateError, Turn};

/// Rules or alerts cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The rules file cannot be read.
    #[error("cannot read the rules in {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Everything that is wrong with the rules.
    #[error("the rules are not valid: {}", problems.iter().map(|problem| format!("{}: {}", problem.key, problem.problem)).collect::<Vec<_>>().join("; "))]
    Invalid { problems: Vec<Problem> },
    /// What the database holds of an alert or condition cannot be read.
    #[error("the state database holds a damaged alert or condition")]
    Damaged(#[source] serde_json::Error),
    /// The state database failed; nothing has changed.
    #[error("the state database failed")]
    State(#[from] StateError),
}

/// All rules, where they stand, and the way to change that.
#[derive(Debug)]
pub struct Desk {
    database: Arc<Database>,
    catalogue: Arc<Catalogue>,
    districts: Arc<Districts>,
    clock: Arc<dyn Clock>,
    /// Locked under a turn only, or for a short look.
    engine: Mutex<Engine>,
}

impl Desk {
    /// Takes up the rules where they stood. Those put in place through the interface go before those of the file.
    pub fn open(
        database: Arc<Database>,
        catalogue: Arc<Catalogue>,
        districts: Arc<Districts>,
        clock: Arc<dyn Clock>,
        work: &RestoredWork,
        file: Option<&Path>,
    ) -> Result<Self, DeskError> {
        let text = match (&work.rules, file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => {
                std::fs::read_to_string(path).map_err(|source| DeskError::Unreadable { path: path.to_owned(), source })?
            }
            (None, None) => r#"{"rules": []}"#.to_owned(),
        };
        let rules = Rules::parse(&text, &catalogue, &districts).map_err(|problems| DeskError::Invalid { problems })?;
        let records = work.conditions.iter().filter_map(|row| row.state.as_deref());
        let records: Vec<ConditionRecord> = records.map(serde_json::from_str).collect::<Result<_, _>>().map_err(DeskError::Damaged)?;
        let (engine, effects) = Engine::new(rules, records, clock.now());
        let desk = Self { database, catalogue, districts, clock, engine: Mutex::new(engine) };
        commit(&mut desk.database.turn(), &effects)?;
        Ok(desk)
    }

    /// The rules in force.
    pub fn rules(&self) -> Vec<RuleDocument> {
        self.engine.lock().rules().iter().map(|rule| rule.document.clone()).collect()
    }

    /// Conditions that hold, not long enough yet for an alert.
    pub fn pending(&self) -> Vec<ConditionRecord> {
        let engine = self.engine.lock();
        engine.records().filter(|record| matches!(record.standing, super::Standing::Pending { .. })).cloned().collect()
    }

    /// How many alerts are active.
    pub fn active_count(&self) -> usize {
        self.engine.lock().records().filter(|record| matches!(record.standing, super::Standing::Active { .. })).count()
    }

    /// Puts a new rules document in place. Rules whose text is the same keep their standing; alerts of the others are cleared.
    pub fn put_rules(&self, text: &str, author: &str) -> Result<Vec<RuleDocument>, DeskError> {
        let rules = Rules::parse(text, &self.catalogue, &self.districts).map_err(|problems| DeskError::Invalid { problems })?;
        let mut turn = self.database.turn();
        let now = self.clock.now();
        let records: Vec<ConditionRecord> = self.engine.lock().records().cloned().collect();
        let (engine, effects) = Engine::new(rules, records, now);
        let rules = NewRules { created: now, author: author.to_owned(), document: text.to_owned() };
        let mut commit = Commit { rules: Some(rules), ..Commit::default() };
        add(&effects, &mut commit);
        turn.commit(commit)?;
        let mut current = self.engine.lock();
        *current = engine;
        Ok(current.rules().iter().map(|rule| rule.document.clone()).collect())
    }

    /// Marks an alert as taken notice of, active or not; `None` where there is no such alert.
    pub fn acknowledge(&self, alert: &str, mark: Mark) -> Result<Option<Alert>, DeskError> {
        let mut turn = self.database.turn();
        let (marked, effects) = self.step(|step| step.acknowledge(alert, mark.clone()));
        if marked.is_some() {
            commit(&mut turn, &effects)?;
            self.engine.lock().apply(&effects);
            return Ok(marked);
        }
        let Some(text) = turn.alert(alert)? else { return Ok(None) };
        let cleared: Alert = serde_json::from_str(&text).map_err(DeskError::Damaged)?;
        let marked = cleared.acknowledge(mark);
        let effects = Effects { transitions: vec![Transition::Acknowledged { alert: marked.clone() }], ..Effects::default() };
        commit(&mut turn, &effects)?;
        Ok(Some(marked))
    }

    /// Clears an active alert by hand; `None` where no such alert is active. It cannot come back before its condition has ended.
    pub fn clear(&self, alert: &str, mark: Mark) -> Result<Option<Alert>, DeskError> {
        let mut turn = self.database.turn();
        let (cleared, effects) = self.step(|step| step.clear(alert, mark));
        commit(&mut turn, &effects)?;
        self.engine.lock().apply(&effects);
        Ok(cleared)
    }

    /// Judges silence. `listening_since` as in [`Step::tick`].
    pub fn tick(&self, listening_since: Option<Timestamp>) -> Result<(), DeskError> {
        let mut turn = self.database.turn();
        let now = self.clock.now();
        let ((), effects) = self.step(|step| step.tick(now, listening_since));
        commit(&mut turn, &effects)?;
        self.engine.lock().apply(&effects);
        Ok(())
    }

    /// Puts what a batch changes into its commit. Hold the turn; call [`Desk::apply`] once the commit is durable.
    pub fn observe(&self, commit: &mut Commit, batch: impl FnOnce(&mut Step<'_>)) -> Effects {
        let ((), effects) = self.step(batch);
        add(&effects, commit);
        effects
    }

    /// Takes over effects that are durable.
    pub fn apply(&self, effects: &Effects) {
        self.engine.lock().apply(effects);
    }

    fn step<T>(&self, work: impl FnOnce(&mut Step<'_>) -> T) -> (T, Effects) {
        let engine = self.engine.lock();
        let mut step = engine.step();
        let result = work(&mut step);
        (result, step.finish())
    }
}

fn commit(turn: &mut Turn<'_>, effects: &Effects) -> Result<(), StateError> {
    if effects.is_empty() {
        return Ok(());
    }
    let mut commit = Commit::default();
    add(effects, &mut commit);
    turn.commit(commit).map(|_sequence| ())
}

fn add(effects: &Effects, commit: &mut Commit) {
    commit.conditions.extend(effects.forgotten.iter().map(|(rule, device)| ConditionRow {
        rule: rule.clone(),
        device: device.to_string(),
        state: None,
    }));
    commit.conditions.extend(effects.conditions.iter().map(|record| ConditionRow {
        rule: record.rule.clone(),
        device: record.device.to_string(),
        state: Some(json(record)),
    }));
    commit.alerts.extend(effects.transitions.iter().map(|transition| {
        let alert = transition.alert();
        AlertChange {
            id: alert.id.clone(),
            activated: alert.activated,
            status: alert.status.as_str(),
            alert: json(alert),
            transition: json(transition),
        }
    }));
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data always serialises")
}
