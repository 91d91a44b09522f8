//! Registrations as they are sent: one as JSON, many as JSON or CSV. Every problem is told at once, with its place.
//!
//! CSV becomes the same JSON first, so that there is one set of checks.

use std::sync::LazyLock;

use hashbrown::HashMap;
use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind;
use serde_json::{Map, Value, json};

use super::super::devices::DeviceLine;
use super::super::formats::{Row as _, unguarded};
use super::super::problem::{Kind, Problem, Violation};
use crate::model::{DeviceId, Registration, RegistrationDocument, RegistrationProblem, Timestamp};

/// Problems that are told one by one.
const TOLD_MAX: usize = 200;

/// Longest text of a problem, in characters: it may repeat what was sent.
const PROBLEM_LEN_MAX: usize = 300;

/// The columns of CSV that are about the device, and those that are about its installation; CSV from elsewhere may leave out any but
/// `id`, `kind` and `domain`.
pub(in super::super) const DEVICE_COLUMNS: [&str; 6] = ["id", "title", "kind", "domain", "class", "interval_s"];
pub(in super::super) const INSTALLATION_COLUMNS: [&str; 7] = ["from", "to", "longitude", "latitude", "altitude_m", "model", "owner"];

static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let schema = schemars::schema_for!(RegistrationDocument).to_value();
    let options = jsonschema::options().should_validate_formats(true);
    let options = options.with_format("date-time", |text: &str| text.parse::<Timestamp>().is_ok());
    options.build(&schema).expect("the schema is generated from types")
});

/// The registration of a device.
pub(super) fn one(text: &str, id: &DeviceId) -> Result<Registration, Problem> {
    let mut document: Value = serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
    if let Some(document) = document.as_object_mut() {
        let given = document.entry("id").or_insert_with(|| json!(id));
        if given.as_str() != Some(id.as_str()) {
            let problem = format!("must be {id}, as the address says, or be left out");
            return Err(invalid(vec![Violation { r#in: "body", name: "/id".to_owned(), problem }]));
        }
    }
    registration(document).map_err(|problems| invalid(problems.into_iter().map(|problem| violation(problem.at, problem.problem)).collect()))
}

/// Registrations as JSON: `{"devices": [...]}`.
pub(super) fn many(text: &str) -> Result<Vec<Registration>, Problem> {
    let mut document: Value = serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
    let only = document.as_object().is_some_and(|document| document.len() == 1);
    let Some(Value::Array(list)) = document.get_mut("devices").map(Value::take).filter(|_list| only) else {
        return Err(invalid(vec![violation(String::new(), "must be an object with the one key `devices`, a list".to_owned())]));
    };
    all(list, |device, at| format!("/devices/{device}{at}"))
}

/// Registrations as CSV.
pub(super) fn table(text: &str) -> Result<Vec<Registration>, Problem> {
    let Table { devices, problems } = Table::read(text)?;
    if !problems.is_empty() {
        return Err(invalid(problems));
    }
    let (documents, lines): (Vec<Value>, Vec<Lines>) = devices.into_iter().map(Gathered::split).unzip();
    all(documents, |device, at| lines.get(device).map_or_else(|| at.to_owned(), |lines| lines.name(at)))
}

/// Checks documents; `name` says where in what was sent a place of one of them is.
fn all(documents: Vec<Value>, name: impl Fn(usize, &str) -> String) -> Result<Vec<Registration>, Problem> {
    let mut violations = Vec::new();
    let mut registrations = Vec::with_capacity(documents.len());
    let mut known: HashMap<DeviceId, usize> = HashMap::new();
    for (index, document) in documents.into_iter().enumerate() {
        match registration(document) {
            Ok(registration) => {
                let earlier = *known.entry(registration.document().id.clone()).or_insert(index);
                if earlier != index {
                    violations.push(violation(name(index, "/id"), format!("is that of {} too", name(earlier, ""))));
                }
                registrations.push(registration);
            }
            Err(problems) => {
                violations.extend(problems.into_iter().map(|problem| violation(name(index, &problem.at), problem.problem)));
            }
        }
    }
    if violations.is_empty() { Ok(registrations) } else { Err(invalid(violations)) }
}

fn registration(document: Value) -> Result<Registration, Vec<RegistrationProblem>> {
    let problem = |at: &str, problem: String| RegistrationProblem { at: at.to_owned(), problem };
    let mut problems: Vec<RegistrationProblem> =
        SCHEMA.iter_errors(&document).map(|error| problem(error.instance_path().as_str(), told(&error))).collect();
    if !problems.is_empty() {
        // The validator's own order differs from run to run.
        problems.sort_unstable_by(|one, other| (&one.at, &one.problem).cmp(&(&other.at, &other.problem)));
        return Err(problems);
    }
    let document: RegistrationDocument = serde_json::from_value(document).map_err(|error| vec![problem("", error.to_string())])?;
    Registration::try_from(document)
}

fn told(error: &ValidationError<'_>) -> String {
    match error.kind() {
        // The validator itself names the first ones only.
        ValidationErrorKind::Enum { options } => format!("{} is none of {options}", error.instance()),
        _ => error.to_string(),
    }
}

fn violation(name: String, problem: String) -> Violation {
    let problem =
        if problem.chars().count() > PROBLEM_LEN_MAX { problem.chars().take(PROBLEM_LEN_MAX).chain(['…']).collect() } else { problem };
    Violation { r#in: "body", name, problem }
}

fn invalid(mut violations: Vec<Violation>) -> Problem {
    let more = violations.len().saturating_sub(TOLD_MAX);
    violations.truncate(TOLD_MAX);
    if more > 0 {
        violations.push(violation(String::new(), format!("and {more} more problems")));
    }
    Problem::invalid(Kind::InvalidRegistry, violations)
}

fn unreadable(problem: String) -> Problem {
    Problem::invalid(Kind::InvalidBody, vec![violation(String::new(), problem)])
}

/// Where a device's parts stand in CSV.
struct Lines {
    /// Of each installation; at least one.
    installations: Vec<u64>,
}

impl Lines {
    /// The line and column of a JSON pointer into the device.
    fn name(&self, at: &str) -> String {
        let mut parts = at.split('/').skip(1);
        let (line, column) = match (parts.next(), parts.next()) {
            (Some("installations"), Some(index)) => {
                let line = index.parse().ok().and_then(|index: usize| self.installations.get(index));
                let column = match (parts.next(), parts.next()) {
                    (Some("position"), Some("lon")) => "longitude",
                    (Some("position"), Some("lat")) => "latitude",
                    (Some("position"), _) => "longitude and latitude",
                    (column, _) => column.unwrap_or_default(),
                };
                (line, column)
            }
            (column, _) => (None, column.unwrap_or_default()),
        };
        let line = line.or_else(|| self.installations.first()).copied().unwrap_or_default();
        if column.is_empty() { format!("line {line}") } else { format!("line {line}, {column}") }
    }
}

/// What several lines of CSV say of a device.
struct Gathered {
    document: Map<String, Value>,
    installations: Vec<Value>,
    lines: Lines,
}

impl Gathered {
    fn split(self) -> (Value, Lines) {
        let Self { mut document, installations, lines } = self;
        if !installations.is_empty() {
            document.insert("installations".to_owned(), installations.into());
        }
        (document.into(), lines)
    }
}

/// CSV with its devices gathered.
struct Table {
    devices: Vec<Gathered>,
    problems: Vec<Violation>,
}

impl Table {
    fn read(text: &str) -> Result<Self, Problem> {
        // The reader counts a line too few where they end with CRLF.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
        let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
        let header = reader.headers().map_err(|error| unreadable(error.to_string()))?.clone();
        let mut problems = Vec::new();
        let columns: Vec<&str> = header.iter().collect();
        for (index, column) in columns.iter().enumerate() {
            if !DeviceLine::COLUMNS.contains(column) {
                let known = [DEVICE_COLUMNS.as_slice(), INSTALLATION_COLUMNS.as_slice()].concat().join(", ");
                problems.push(violation("line 1".to_owned(), format!("there is no column {column:?}; there are {known}")));
            } else if columns.iter().take(index).any(|earlier| earlier == column) {
                problems.push(violation("line 1".to_owned(), format!("the column {column} appears twice")));
            }
        }
        for needed in ["id", "kind", "domain"] {
            if !columns.contains(&needed) {
                problems.push(violation("line 1".to_owned(), format!("the column {needed} is missing")));
            }
        }
        let mut table = Self { devices: Vec::new(), problems };
        if !table.problems.is_empty() {
            return Ok(table);
        }
        let mut places: HashMap<String, usize> = HashMap::new();
        for record in reader.records() {
            let record = record.map_err(|error| unreadable(error.to_string()))?;
            let line = record.position().map_or(0, csv::Position::line);
            if record.len() != columns.len() {
                let problem = format!("has {} fields, the first line has {}", record.len(), columns.len());
                table.problems.push(violation(format!("line {line}"), problem));
                continue;
            }
            let cells: HashMap<&str, String> = columns
                .iter()
                .copied()
                .zip(&record)
                .filter(|(_column, cell)| !cell.is_empty())
                .map(|(column, cell)| (column, unguarded(cell)))
                .collect();
            if cells.get("registered").is_some_and(|registered| registered == "false") {
                continue;
            }
            table.gather(&cells, line, &mut places);
        }
        Ok(table)
    }

    fn gather(&mut self, cells: &HashMap<&str, String>, line: u64, places: &mut HashMap<String, usize>) {
        let document: Map<String, Value> = DEVICE_COLUMNS
            .iter()
            .filter_map(|column| {
                cells.get(column).map(|cell| ((*column).to_owned(), if *column == "interval_s" { number(cell) } else { json!(cell) }))
            })
            .collect();
        let installation = installation(cells);
        let place = cells.get("id").and_then(|id| places.get(id).copied());
        let Some(known) = place.and_then(|place| self.devices.get_mut(place)) else {
            if let Some(id) = cells.get("id") {
                places.insert(id.clone(), self.devices.len());
            }
            let installations = installation.into_iter().collect();
            self.devices.push(Gathered { document, installations, lines: Lines { installations: vec![line] } });
            return;
        };
        let first = known.lines.installations.first().copied().unwrap_or_default();
        for column in DEVICE_COLUMNS {
            if known.document.get(column) != document.get(column) {
                let problem = format!("differs from line {first}, which is about the same device");
                self.problems.push(violation(format!("line {line}, {column}"), problem));
            }
        }
        match installation {
            Some(installation) if !known.installations.is_empty() => {
                known.installations.push(installation);
                known.lines.installations.push(line);
            }
            _ => {
                let problem = format!("only one of several lines about a device, as line {first} is, may say nothing of an installation");
                self.problems.push(violation(format!("line {line}"), problem));
            }
        }
    }
}

fn installation(cells: &HashMap<&str, String>) -> Option<Value> {
    let mut installation = Map::new();
    let mut put = |key: &str, value: Value| installation.insert(key.to_owned(), value);
    for column in INSTALLATION_COLUMNS {
        let Some(cell) = cells.get(column) else { continue };
        match column {
            "longitude" | "latitude" => {}
            "altitude_m" => drop(put(column, number(cell))),
            _ => drop(put(column, json!(cell))),
        }
    }
    let position: Map<String, Value> = [("lon", "longitude"), ("lat", "latitude")]
        .into_iter()
        .filter_map(|(key, column)| cells.get(column).map(|cell| (key.to_owned(), number(cell))))
        .collect();
    if !position.is_empty() {
        put("position", position.into());
    }
    (!installation.is_empty()).then(|| installation.into())
}

/// A number, or the text that is none: the checks tell.
fn number(cell: &str) -> Value {
    let whole = cell.parse::<i64>().map(Value::from);
    let number = || cell.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::Number);
    whole.ok().or_else(number).unwrap_or_else(|| json!(cell))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        for text in [text.to_owned(), text.replace('\n', "\r\n")] {
            let problem = table(&text).map(|registrations| registrations.len()).unwrap_err();
            let told: Vec<String> =
                problem.violations().iter().map(|violation| format!("{}: {}", violation.name, violation.problem)).collect();
            assert_eq!(told, expected, "{text}");
        }
    }

    #[test]
    fn lines_of_a_device_are_put_together() {
        let text = "\u{feff}owner,id,kind,domain,from,longitude,latitude,status\r\n\
                    Comune,m-1,meter,energy,,13.3,38.1,online\r\n\
                    AMG,m-2,meter,energy,,,,never\r\n\
                    \"AMG, \"\"gas\"\"\",m-1,meter,energy,2026-03-01T00:00:00+01:00,13.4,38.1,online\r\n";
        let registrations = table(text).unwrap();
        let documents: Vec<Value> = registrations.iter().map(|registration| json!(registration.document())).collect();
        assert_eq!(
            documents,
            [
                json!({ "id": "m-1", "kind": "meter", "domain": "energy", "installations": [
                    { "position": { "lon": 13.3, "lat": 38.1 }, "owner": "Comune" },
                    { "from": "2026-02-28T23:00:00Z", "position": { "lon": 13.4, "lat": 38.1 }, "owner": "AMG, \"gas\"" },
                ] }),
                json!({ "id": "m-2", "kind": "meter", "domain": "energy", "installations": [{ "owner": "AMG" }] }),
            ]
        );
    }

    #[test]
    fn every_problem_has_its_line_and_column() {
        check(
            "id,kind,colour,kind\n",
            &[
                "line 1: there is no column \"colour\"; there are id, title, kind, domain, class, interval_s, from, to, longitude, latitude, altitude_m, model, owner",
                "line 1: the column kind appears twice",
                "line 1: the column domain is missing",
            ],
        );
        check(
            "id,kind,domain,class,interval_s,from,longitude,latitude,altitude_m\n\
             a b,meter,energy,best,0,,13.3,38.1,\n\
             m-1,meter,energy,,,,13.3,38.1,\n\
             m-1,meter,energy,,,yesterday,13.3,95,high\n\
             m-2,,energy,,1.5,,13.3,,\n",
            &[
                "line 2, class: \"best\" is none of [\"reference\",\"indicative\",null]",
                "line 2, id: \"a b\" does not match \"^[A-Za-z0-9_.:-]{1,128}$\"",
                "line 2, interval_s: 0 is less than the minimum of 1",
                "line 4, altitude_m: \"high\" is not of types \"null\", \"number\"",
                "line 4, from: \"yesterday\" is not a \"date-time\"",
                "line 4, latitude: 95 is greater than the maximum of 90",
                "line 5: \"kind\" is a required property",
                "line 5, longitude and latitude: \"lat\" is a required property",
                "line 5, interval_s: 1.5 is not of types \"null\", \"integer\"",
            ],
        );
        check(
            "id,kind,domain,model\nm-1,meter,energy,a\nm-1,lamp,energy,b\nm-1,meter,energy,\nm-2,meter\n",
            &[
                "line 3, kind: differs from line 2, which is about the same device",
                "line 4: only one of several lines about a device, as line 2 is, may say nothing of an installation",
                "line 5: has 2 fields, the first line has 4",
            ],
        );
        check(
            "id,kind,domain,from,model\nm-1,meter,energy,2026-03-01T00:00:00Z,a\nm-1,meter,energy,2026-03-01T00:00:00Z,b\nm-2,meter,device,,\n",
            &[
                "line 3, from: overlaps the installation that begins at 2026-03-01T00:00:00Z",
                "line 4, domain: \"device\" is none of [\"mobility\",\"environment\",\"energy\",\"security\"]",
            ],
        );
    }

    #[test]
    fn json_has_pointers() {
        let text = r#"{"devices": [
            {"id": "a", "kind": "meter", "domain": "energy"}, {"id": "a", "kind": "meter", "domain": "energy"},
            {"id": "b", "kind": "meter", "domain": "energy", "installations": [{"position": [1, 2], "more": 1}]}, 7
        ]}"#;
        let problem = many(text).unwrap_err();
        let names: Vec<&str> = problem.violations().iter().map(|violation| violation.name.as_str()).collect();
        assert_eq!(names, ["/devices/1/id", "/devices/2/installations/0", "/devices/2/installations/0/position", "/devices/3"]);
        for text in ["[]", "{}", r#"{"devices": {}}"#, r#"{"devices": [], "more": 1}"#] {
            assert_eq!(many(text).unwrap_err().kind(), Kind::InvalidRegistry, "{text}");
        }
        assert_eq!(many("{").unwrap_err().kind(), Kind::InvalidBody);
    }
}
