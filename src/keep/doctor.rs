//! Holds what is kept against itself: state database, log, ledger, table and its files. Nothing is changed, and the service may run.
//!
//! All of it is about one instant: the state database as one look shows it, and the version of the table that goes with that.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::matching;
use crate::config::Config;
use crate::error_chain;
use crate::model::Catalogue;
use crate::state::{Counts, FILE, Head, LedgerKey, LogBlocks, RollupNotes, Snapshot, StateError};
use crate::store::{LakeError, ROLLUP_ENDING, RollupFault, RollupsSeen, TableFault, TableFolder, TableVersion, Unused};

/// Findings of one check that are told; the rest is counted.
const FINDINGS_MAX: usize = 20;

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub outcome: Outcome,
    /// In a line.
    pub summary: String,
    /// What is wrong, one by one.
    pub findings: Vec<String>,
    /// What to do about it.
    pub advice: Option<&'static str>,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Worth knowing, and no harm.
    Note,
    /// Wrong.
    Wrong,
    /// Not looked at, since something before it is wrong.
    Skipped,
}

const RESTORE: &str = "restore the newest backup into a new folder (`conca restore`), and look for what damaged the disk";
/// How often it is looked anew where rollups were made meanwhile.
const TRIES: usize = 5;

const ROLL_UP_ANEW: &str = "stop the service and delete the folder of the rollups, which are then made anew of the observations; where they have outlived these (`lake.kept`), restore the newest backup instead";
const REPORT: &str = "keep a copy of the data folder and report it: this must never happen";

impl Report {
    /// Whether nothing is wrong.
    pub fn is_well(&self) -> bool {
        self.checks.iter().all(|check| matches!(check.outcome, Outcome::Ok | Outcome::Note))
    }

    fn push(&mut self, name: &'static str, outcome: Outcome, summary: String) {
        self.checks.push(Check { name, outcome, summary, findings: Vec::new(), advice: None });
    }

    fn skip(&mut self, names: &[&'static str]) {
        for name in names {
            self.push(name, Outcome::Skipped, "not looked at: see above".to_owned());
        }
    }

    /// Good where there are no findings.
    fn judge(&mut self, name: &'static str, good: String, bad: &str, mut findings: Vec<String>, advice: &'static str) {
        if findings.is_empty() {
            return self.push(name, Outcome::Ok, good);
        }
        let count = findings.len();
        findings.truncate(FINDINGS_MAX);
        if count > FINDINGS_MAX {
            findings.push(format!("and {} more", count - FINDINGS_MAX));
        }
        self.checks.push(Check { name, outcome: Outcome::Wrong, summary: format!("{count} {bad}"), findings, advice: Some(advice) });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Check { name, outcome, summary, findings, advice } in &self.checks {
            let word = match outcome {
                Outcome::Ok => "OK",
                Outcome::Note => "NOTE",
                Outcome::Wrong => "WRONG",
                Outcome::Skipped => "SKIPPED",
            };
            writeln!(formatter, "{word:<8}{name:<16}{summary}")?;
            for finding in findings {
                writeln!(formatter, "{:24}- {finding}", "")?;
            }
            if let Some(advice) = advice {
                writeln!(formatter, "{:24}What to do: {advice}", "")?;
            }
        }
        formatter.write_str(if self.is_well() { "Nothing is wrong." } else { "Something is wrong." })
    }
}

/// What one look at the state database shows.
struct Facts {
    head: Head,
    faults: Vec<String>,
    ledger: Vec<(LedgerKey, Counts)>,
    log: LogBlocks,
    /// None where the program that wrote the file knew of no rollups.
    rollup_notes: Option<RollupNotes>,
}

impl Facts {
    fn gather(config: &Config) -> Result<Self, StateError> {
        let snapshot = Snapshot::open(&config.node.data.join(FILE))?;
        Ok(Self {
            head: snapshot.head()?,
            faults: snapshot.faults()?,
            ledger: snapshot.ledger()?,
            log: snapshot.log()?,
            rollup_notes: snapshot.rollup_notes()?,
        })
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        for (_line, counts) in &self.ledger {
            total += *counts;
        }
        total
    }
}

/// Examines what `config` names.
pub async fn doctor(config: &Config) -> Report {
    let mut report = Report::default();
    let table = TableFolder::find(&config.lake.url, &config.node.data, &config.node.id);
    // The version that goes with the state database is not older than the one before the look.
    let first = match &table {
        Ok(Some(table)) => table.newest(uuid::Uuid::nil()).await.map_or(0, |version| version.number),
        _ => 0,
    };
    let looked = async {
        let mut tries = 1..=TRIES;
        loop {
            tries.next();
            let before = newest_rollups(&table).await;
            let facts = Facts::gather(config)?;
            let rollups = newest_rollups(&table).await;
            let number = |rollups: &Rollups| rollups.as_ref().ok().map(|version| version.as_ref().map(|version| version.number));
            // The state database says which of them may be out of date: of those at the same instant.
            let is_same = number(&before) == number(&rollups);
            if is_same || tries.is_empty() {
                return Ok::<_, StateError>((facts, is_same.then_some(rollups)));
            }
        }
    };
    let (facts, rollups) = match looked.await {
        Ok(looked) => looked,
        Err(error) => {
            let findings = vec![error_chain(&error)];
            report.judge("state database", String::new(), "fault", findings, RESTORE);
            report.skip(&["ledger", "log", "positions", "files", "duplicates", "values", "rollups", "unused files"]);
            return report;
        }
    };
    check_state(&mut report, &facts);
    check_ledger(&mut report, &facts);
    check_log(&mut report, &facts);
    let version = match table {
        Ok(Some(table)) => check_positions(&mut report, &table, &facts, first).await,
        Ok(None) => {
            let findings = vec![format!("there is none in {}", config.node.data.display())];
            report.judge("positions", String::new(), "table is missing", findings, RESTORE);
            None
        }
        Err(error) => {
            report.judge(
                "positions",
                String::new(),
                "table that cannot be looked at",
                vec![error_chain(&error)],
                "look at it where it is kept",
            );
            None
        }
    };
    let Some(version) = version else {
        report.skip(&["files", "duplicates", "values", "rollups", "unused files"]);
        return report;
    };
    let is_whole = check_files(&mut report, &version).await;
    check_values(&mut report, config, &facts, &version);
    match rollups {
        _ if !is_whole => report.skip(&["rollups"]),
        Some(rollups) => check_rollups(&mut report, config, &facts, &version, rollups).await,
        None => report.push("rollups", Outcome::Note, "not looked at: they are made without a pause; look again later".to_owned()),
    }
    check_unused(&mut report, config, &version).await;
    report
}

/// The newest version of the rollups, if they are there.
type Rollups = Result<Option<TableVersion>, LakeError>;

async fn newest_rollups(table: &Result<Option<TableFolder>, LakeError>) -> Rollups {
    match table.as_ref().ok().and_then(Option::as_ref).and_then(|table| table.beside(ROLLUP_ENDING)) {
        Some(table) => Ok(Some(table.newest(uuid::Uuid::nil()).await?)),
        None => Ok(None),
    }
}

fn check_state(report: &mut Report, facts: &Facts) {
    let good = format!("schema {}, {} commits, log {}", facts.head.schema, facts.head.sequence, facts.head.incarnation);
    report.judge("state database", good, "faults in its file", facts.faults.clone(), RESTORE);
}

/// Both equations of every line, and its pending values against the late rows that wait.
fn check_ledger(report: &mut Report, facts: &Facts) {
    let mut findings = Vec::new();
    let mut waiting: BTreeMap<&LedgerKey, i64> = facts.log.pending.iter().map(|(line, rows)| (line, *rows)).collect();
    for (line, counts) in &facts.ledger {
        let at = format!("{} at {}", line.source, line.hour);
        if !counts.balances() {
            findings.push(format!("{at} does not balance: {counts:?}"));
        }
        let rows = waiting.remove(line).unwrap_or(0);
        if rows != counts.pending {
            findings.push(format!("{at} has {} values pending, in the log {rows} wait", counts.pending));
        }
    }
    findings.extend(
        waiting.iter().map(|(line, rows)| format!("{} at {} is missing, in the log {rows} values wait for it", line.source, line.hour)),
    );
    let total = facts.total();
    let good = format!("{} lines balance: {} messages, {} values stored", facts.ledger.len(), total.received, total.stored);
    report.judge("ledger", good, "lines are wrong", findings, REPORT);
}

fn check_log(report: &mut Report, facts: &Facts) {
    let rows = |blocks: &[(u64, usize)]| blocks.iter().map(|(_sequence, rows)| rows).sum::<usize>();
    let LogBlocks { ordered, late, faults, .. } = &facts.log;
    let good = format!("{} blocks in order and {} late ones, {} and {} values", ordered.len(), late.len(), rows(ordered), rows(late));
    report.judge("log", good, "faults in its numbers and blocks", faults.clone(), RESTORE);
}

async fn check_positions(report: &mut Report, table: &TableFolder, facts: &Facts, first: u64) -> Option<TableVersion> {
    let head = &facts.head;
    let found = async {
        if let Some(version) = matching(table, head, first).await? {
            return Ok::<_, LakeError>((version, None));
        }
        let newest = table.newest(head.incarnation).await?;
        let fault = apart(head, &newest);
        Ok((newest, Some(fault)))
    };
    match found.await {
        Ok((version, None)) => {
            let good = format!(
                "version {} of the table holds the log up to {}, late rows up to {}; the log goes from {} to {}",
                version.number, version.held.ordered, version.held.late, head.position.ordered, head.sequence
            );
            report.judge("positions", good, "", Vec::new(), RESTORE);
            Some(version)
        }
        Ok((version, Some((findings, advice)))) => {
            report.judge("positions", String::new(), "faults between table and log", findings, advice);
            Some(version)
        }
        Err(error) => {
            report.judge("positions", String::new(), "table that cannot be read", vec![error_chain(&error)], RESTORE);
            None
        }
    }
}

/// Why no version goes with the state database, as far as the newest tells.
fn apart(head: &Head, version: &TableVersion) -> (Vec<String>, &'static str) {
    let (table, log, mut findings) = (version.held, head.position, Vec::new());
    for (lane, reached, forgotten) in [("ordered", table.ordered, log.ordered), ("late", table.late, log.late)] {
        if reached < forgotten {
            findings.push(format!(
                "the table holds the {lane} lane of the log up to {reached}, but the log has forgotten it up to {forgotten}"
            ));
        }
        if reached > head.sequence {
            findings.push(format!("the table holds the {lane} lane up to {reached}, but the last commit is {}", head.sequence));
        }
    }
    if findings.is_empty() {
        findings.push(format!("the table holds late rows up to {}, of which the ledger knows nothing", table.late));
    }
    let advice =
        "state database and table are not of the same time, or node.id was changed: restore both from one backup (`conca restore`)";
    (findings, advice)
}

/// Whether every file can be read.
async fn check_files(report: &mut Report, version: &TableVersion) -> bool {
    let faults = match version.examine().await {
        Ok(faults) => faults,
        Err(error) => {
            report.judge("files", String::new(), "fault", vec![error_chain(&error)], RESTORE);
            report.skip(&["duplicates"]);
            return false;
        }
    };
    let (mut files, mut duplicates) = (Vec::new(), Vec::new());
    for fault in faults {
        match fault {
            TableFault::File { path, fault } => files.push(format!("{path} {fault}")),
            TableFault::Duplicate { date, first, count } => duplicates.push(format!("{date}: {count}, first {first}")),
        }
    }
    let is_whole = files.is_empty();
    let bytes: u64 = version.files.iter().map(|file| file.bytes).sum();
    report.judge("files", format!("{}, {bytes} bytes, all read", version.files.len()), "are damaged", files, RESTORE);
    report.judge("duplicates", "no identity is there twice".to_owned(), "days have identities more than once", duplicates, REPORT);
    is_whole
}

/// Every bucket of what was not touched since it was rolled up is what the table's rows come to.
async fn check_rollups(report: &mut Report, config: &Config, facts: &Facts, version: &TableVersion, rollups: Rollups) {
    const NAME: &str = "rollups";
    const BAD: &str = "faults in the rollups";
    let (notes, rollups) = match (&facts.rollup_notes, rollups) {
        (Some(notes), Ok(Some(rollups))) => (notes, rollups),
        (_, Err(error)) => return report.judge(NAME, String::new(), BAD, vec![error_chain(&error)], ROLL_UP_ANEW),
        (Some(_), Ok(None)) if !version.files.is_empty() => {
            return report.judge(NAME, String::new(), BAD, vec!["their table is missing".to_owned()], ROLL_UP_ANEW);
        }
        _ => return report.push(NAME, Outcome::Note, "none yet: the service makes them".to_owned()),
    };
    let catalogue = match catalogue(config) {
        Ok(catalogue) => catalogue,
        Err(problem) => {
            return report.judge(NAME, String::new(), "catalogue that cannot be used", vec![problem], "see `conca check-config`");
        }
    };
    let seen = match version.examine_rollups(&rollups, notes, &catalogue, &config.city.zone()).await {
        Ok(seen) => seen,
        Err(error) => return report.judge(NAME, String::new(), BAD, vec![error_chain(&error)], ROLL_UP_ANEW),
    };
    if seen.on_other_calendar {
        return report.push(NAME, Outcome::Note, "on another calendar than city.time_zone: the service makes them anew".to_owned());
    }
    let findings = seen.faults.into_iter().map(|fault| match fault {
        RollupFault::File { path, fault } => format!("{path} {fault}"),
        RollupFault::Unit { day, property, tier, first, count } => {
            format!("{property} of {day}, {tier}: {count} buckets are not what the observations come to, first {first}")
        }
    });
    let findings = findings.collect();
    let RollupsSeen { units, buckets, touched, outlived, .. } = seen;
    let alone = if outlived > 0 { format!("; of {outlived} days only rollups are left") } else { String::new() };
    let good =
        format!("{buckets} buckets of {units} days of properties are what the observations come to, {touched} wait to be made anew{alone}");
    report.judge(NAME, good, BAD, findings, ROLL_UP_ANEW);
}

/// The properties of the city.
fn catalogue(config: &Config) -> Result<Catalogue, String> {
    let Some(path) = &config.city.properties else { return Ok(Catalogue::built_in()) };
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Catalogue::parse(&text).map_err(|error| format!("{}: {}", path.display(), error_chain(&error)))
}

/// Every value that the ledger counts as stored is in the table, or in the log behind what the table holds.
fn check_values(report: &mut Report, config: &Config, facts: &Facts, version: &TableVersion) {
    let settled = facts.head.moves(version.held).map_or(0, |moves| moves.total().stored);
    let stored = facts.total().stored + settled;
    let in_table: u64 = version.files.iter().map(|file| file.rows).sum();
    let in_log =
        facts.log.ordered.iter().filter(|(sequence, _rows)| *sequence > version.held.ordered).map(|(_sequence, rows)| *rows as u64);
    let in_log: u64 = in_log.sum();
    let there = i64::try_from(in_table + in_log).unwrap_or(i64::MAX);
    let is_kept_for_ever = config.lake.kept_of.values().chain([&config.lake.kept]).all(|kept| kept.0.is_zero());
    let mut findings = Vec::new();
    if there > stored {
        findings.push(format!(
            "{} values too many: {in_table} in the table, {in_log} in the log, {stored} stored by the ledger",
            there - stored
        ));
    } else if there < stored && is_kept_for_ever {
        findings.push(format!(
            "{} values too few: {in_table} in the table, {in_log} in the log, {stored} stored by the ledger",
            stored - there
        ));
    }
    let good = match stored - there {
        0 => format!("{in_table} in the table and {in_log} in the log, as the ledger says"),
        gone => format!("{in_table} in the table and {in_log} in the log; {gone} are older than what is kept"),
    };
    let advice = "if others write into the table or observations were dropped by an earlier `lake.kept`, nothing; else restore the newest backup into a new folder";
    report.judge("values", good, "difference between ledger and store", findings, advice);
}

/// Files that no version uses any more are deleted by the vacuum; those that no version ever used are left from a crash.
async fn check_unused(report: &mut Report, config: &Config, version: &TableVersion) {
    const NAME: &str = "unused files";
    match version.unused(config.lake.vacuum_after.0 * 2).await {
        Ok(Unused { files: 0, .. }) => report.push(NAME, Outcome::Ok, "none".to_owned()),
        Ok(Unused { files, bytes }) => report.push(
            NAME,
            Outcome::Note,
            format!("{files}, {bytes} bytes, that this version does not use: the running service deletes those of older versions"),
        ),
        Err(error) => report.judge(NAME, String::new(), "fault", vec![error_chain(&error)], RESTORE),
    }
}
