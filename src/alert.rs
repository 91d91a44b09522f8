//! Alerts that can be trusted: rules over observations, in event time. Pure.
//!
//! A condition is *pending* inside its for-duration; then its alert is *active* until it is *cleared*, by the rule or by
//! hand; *acknowledged* is a second, independent mark. A step computes effects, the caller makes them durable together
//! with the batch that caused them, and only then applies them: a restart neither forgets nor repeats an alert.
//!
//! Only trusted observations move a condition, and only forwards in phenomenon time: late data never raises or clears an
//! alert. Silence is judged against our clock, only after a backlog has drained, so that Conca's own outage is not the
//! devices'; a retained message is no sign of life.

mod desk;
mod engine;
mod rule;

pub use desk::{Desk, DeskError};
pub use engine::{Alert, ConditionRecord, Effects, Engine, Evidence, Facts, Mark, Observed, Standing, Status, Step, Transition};
pub use rule::{Applies, Condition, Problem, Rule, RuleDocument, Rules, Severity, rules_schema};
