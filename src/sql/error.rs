//! What can go wrong with a statement, told apart by who can mend it.

use std::fmt;
use std::time::Duration;

use deltalake::datafusion::error::DataFusionError;

use crate::state::StateError;
use crate::store::LakeError;

/// A place in a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}, column {}", self.line, self.column)
    }
}

impl Place {
    /// How many characters stand before it, if it lies in the statement.
    pub(super) fn offset(self, sql: &str) -> Option<usize> {
        let (line, column) = (usize::try_from(self.line).ok()?.checked_sub(1)?, usize::try_from(self.column).ok()?.checked_sub(1)?);
        let before: usize = sql.split('\n').take(line).map(|line| line.chars().count() + 1).sum();
        (before + column <= sql.chars().count()).then_some(before + column)
    }
}

/// A statement is not answered.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// It is not understood, or what it computes is not possible.
    #[error("{problem}")]
    Invalid { problem: String, place: Option<Place>, sort: Sort },
    /// It does what statements may not.
    #[error("{0} is not possible here: only SELECT, WITH, VALUES, TABLE, EXPLAIN, SHOW and DESCRIBE are")]
    Refused(String),
    /// More or fewer than one.
    #[error("there must be one statement, not {0}")]
    NotOne(usize),
    /// More rows than an answer may have.
    #[error("the answer has more than {rows_max} rows")]
    TooManyRows { rows_max: usize },
    /// More bytes than an answer may have.
    #[error("the answer has more than {mib_max} MiB")]
    TooManyBytes { mib_max: usize },
    /// More memory, or disk, than statements may have together.
    #[error("it needs more memory or disk than statements may have; others under way may have their part in it")]
    TooLarge(#[source] DataFusionError),
    /// It took too long.
    #[error("it took longer than {0:?}")]
    Timeout(Duration),
    /// As many as are allowed were under way for as long as a statement may take.
    #[error("as many statements as are allowed are under way")]
    Busy,
    /// The client asked for the end.
    #[error("the statement was cancelled")]
    Cancelled,
    /// The lake failed.
    #[error("the lake failed")]
    Lake(#[source] LakeError),
    /// The state database failed.
    #[error("the state database failed")]
    State(#[source] StateError),
    /// The query engine failed.
    #[error("the query engine failed")]
    Engine(#[source] DataFusionError),
    /// The threads that statements run on.
    #[error("cannot start the threads that statements run on")]
    Threads(#[source] std::io::Error),
    /// The folder for what is larger than the memory.
    #[error("cannot make the folder for what is larger than the memory")]
    Folder(#[source] std::io::Error),
}

/// What is wrong with a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Its grammar.
    Syntax,
    /// A table that there is not.
    Table,
    /// A column that there is not, or more than one of that name.
    Column,
    /// Something else: types, functions, values.
    Other,
}

impl From<DataFusionError> for SqlError {
    fn from(error: DataFusionError) -> Self {
        Self::of(error, "")
    }
}

impl SqlError {
    /// What an error of the engine means; places are looked for in the statement's text.
    pub(super) fn of(error: DataFusionError, sql: &str) -> Self {
        let error = match failure(error) {
            Ok(failure) => return failure,
            Err(error) => error,
        };
        let sort = match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => return Self::TooLarge(error),
            DataFusionError::SQL(..) => Sort::Syntax,
            DataFusionError::SchemaError(..) => Sort::Column,
            DataFusionError::Plan(text) if text.contains("table '") && text.contains("not found") => Sort::Table,
            DataFusionError::Plan(_)
            | DataFusionError::NotImplemented(_)
            | DataFusionError::Configuration(_)
            | DataFusionError::Execution(_)
            | DataFusionError::ArrowError(..)
            | DataFusionError::Collection(_) => Sort::Other,
            _ => return Self::Engine(error),
        };
        let text = error.find_root().strip_backtrace();
        let told = error.diagnostic().and_then(|diagnostic| diagnostic.span).map(|span| (span.start.line, span.start.column));
        let place = told.or_else(|| written(&text)).map(|(line, column)| Place { line, column });
        Self::Invalid { problem: plain(&text), place: place.filter(|place| place.offset(sql).is_some()), sort }
    }
}

/// A failure of what the tables are made of, which travels through the engine.
fn failure(error: DataFusionError) -> Result<SqlError, DataFusionError> {
    match error {
        DataFusionError::External(source) => match source.downcast::<LakeError>() {
            Ok(lake) => Ok(SqlError::Lake(*lake)),
            Err(source) => match source.downcast::<StateError>() {
                Ok(state) => Ok(SqlError::State(*state)),
                Err(source) => Err(DataFusionError::External(source)),
            },
        },
        DataFusionError::Context(context, source) => failure(*source).map_err(|source| DataFusionError::Context(context, Box::new(source))),
        other => Err(other),
    }
}

/// ` at Line: 1, Column: 15`, which the parser writes at the end of its texts.
fn written(text: &str) -> Option<(u64, u64)> {
    let (_before, place) = text.rsplit_once(" at Line: ")?;
    let (line, column) = place.split_once(", Column: ")?;
    let digits = |text: &str| text.split(|letter: char| !letter.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
    Some((digits(line)?, digits(column)?))
}

/// Without what the engine says of itself.
fn plain(text: &str) -> String {
    const PREFIXES: [&str; 6] = [
        "Error during planning: ",
        "Execution error: ",
        "Schema error: ",
        "Arrow error: ",
        "SQL error: ",
        "This feature is not implemented: ",
    ];
    let text = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text);
    match text.strip_prefix("ParserError(\"").and_then(|text| text.strip_suffix("\")")) {
        Some(text) => text.replace("\\\"", "\""),
        None => text.split(" at Line: ").next().unwrap_or(text).to_owned(),
    }
}
