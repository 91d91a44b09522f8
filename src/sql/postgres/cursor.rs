//! Cursors that are declared in SQL: `DECLARE`, `FETCH`, `CLOSE`, as psycopg's named cursors and pandas with `chunksize` use them.
//!
//! - A cursor sees what there was when it was declared, and is one of the statements that its user may have under way, with the time of
//!   one: afterwards `FETCH` tells that it took too long.
//! - It is read forwards. It ends with its transaction, unless it was declared `WITH HOLD`, and with the connection.
//! - Left out: `MOVE`, and going back.

use std::sync::Arc;

use datafusion_postgres::pgwire::error::PgWireResult;
use deltalake::arrow::array::RecordBatch;
use deltalake::datafusion::sql::sqlparser::ast::{CloseCursor, FetchDirection, Statement as Tree, Value};
use futures::StreamExt as _;
use futures::stream;
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::session::{Batches, refusal};
use crate::sql::Statement;

/// Cursors that a connection may have at the same time: each keeps some rows.
const CURSORS_MAX: usize = 100;

/// How a cursor is declared.
#[derive(Clone, Debug)]
pub(super) struct Declaration {
    name: String,
    /// It outlives its transaction.
    is_held: bool,
}

impl Declaration {
    /// What is read, as a statement of its own, and how; `None` for what is no `DECLARE`.
    pub(super) fn of(tree: &Tree) -> PgWireResult<Option<(Tree, Self)>> {
        let Tree::Declare { stmts } = tree else { return Ok(None) };
        let [declare] = stmts.as_slice() else { return Err(refusal("ERROR", "42601", "one cursor can be declared".to_owned())) };
        let (Some(name), Some(query)) = (declare.names.first(), &declare.for_query) else {
            return Err(refusal("ERROR", "42601", "only cursors can be declared".to_owned()));
        };
        if declare.scroll == Some(true) || declare.binary == Some(true) {
            return Err(refusal("ERROR", "0A000", "a cursor is read forwards, and as text".to_owned()));
        }
        let declaration = Self { name: folded(name), is_held: declare.hold == Some(true) };
        Ok(Some((Tree::Query(query.clone()), declaration)))
    }
}

/// An identifier as PostgreSQL compares it.
fn folded(name: &deltalake::datafusion::sql::sqlparser::ast::Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

/// The cursors of a connection by their names.
#[derive(Debug, Default)]
pub(super) struct Cursors(Mutex<HashMap<String, Arc<Cursor>>>);

/// A cursor.
pub(super) struct Cursor {
    statement: Arc<Statement>,
    is_held: bool,
    unread: tokio::sync::Mutex<Unread>,
}

/// What was not fetched yet: the rest of a batch that was begun, then the others.
struct Unread {
    begun: Option<RecordBatch>,
    batches: Batches,
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Cursor").field("statement", &self.statement).finish_non_exhaustive()
    }
}

impl Cursor {
    /// What it reads.
    pub(super) fn statement(&self) -> &Arc<Statement> {
        &self.statement
    }

    /// The next rows, at most so many.
    fn next(self: Arc<Self>, rows_max: usize) -> Batches {
        let next = stream::unfold((self, rows_max), |(cursor, rows_max)| async move {
            if rows_max == 0 {
                return None;
            }
            let mut unread = cursor.unread.lock().await;
            let batch = match unread.begun.take() {
                Some(batch) => batch,
                None => match unread.batches.next().await? {
                    Ok(batch) => batch,
                    Err(error) => {
                        drop(unread);
                        return Some((Err(error), (cursor, 0)));
                    }
                },
            };
            let rows = batch.num_rows().min(rows_max);
            if rows < batch.num_rows() {
                unread.begun = Some(batch.slice(rows, batch.num_rows() - rows));
            }
            drop(unread);
            Some((Ok(batch.slice(0, rows)), (cursor, rows_max - rows)))
        });
        next.boxed()
    }
}

impl Cursors {
    /// Keeps a cursor whose statement was begun.
    pub(super) fn declare(&self, declaration: &Declaration, statement: Arc<Statement>, batches: Batches) -> PgWireResult<()> {
        let Declaration { name, is_held } = declaration;
        let unread = tokio::sync::Mutex::new(Unread { begun: None, batches });
        let cursor = Arc::new(Cursor { statement, is_held: *is_held, unread });
        let mut cursors = self.0.lock();
        if cursors.len() >= CURSORS_MAX {
            return Err(refusal("ERROR", "53400", format!("a connection may have {CURSORS_MAX} cursors: CLOSE those that are read")));
        }
        match cursors.try_insert(name.clone(), cursor) {
            Ok(_kept) => Ok(()),
            Err(_taken) => Err(refusal("ERROR", "42P03", format!("cursor \"{name}\" already exists"))),
        }
    }

    /// The cursor of a name.
    pub(super) fn named(&self, name: &str) -> Option<Arc<Cursor>> {
        self.0.lock().get(name).cloned()
    }

    /// The cursor that a statement fetches from.
    pub(super) fn fetched(&self, tree: &Tree) -> Option<PgWireResult<Arc<Cursor>>> {
        let Tree::Fetch { name, .. } = tree else { return None };
        Some(self.named(&folded(name)).ok_or_else(|| unknown(&folded(name))))
    }

    /// The rows that a statement fetches.
    pub(super) fn fetch(cursor: Arc<Cursor>, tree: &Tree) -> PgWireResult<Batches> {
        let Tree::Fetch { direction, .. } = tree else { return Ok(stream::empty().boxed()) };
        let number = |limit: &Value| match limit {
            Value::Number(digits, _is_long) => digits.parse().ok(),
            _ => None,
        };
        let rows_max = match direction {
            FetchDirection::Next | FetchDirection::Forward { limit: None } => Some(1),
            FetchDirection::Forward { limit: Some(limit) } | FetchDirection::Count { limit } => number(limit),
            FetchDirection::All | FetchDirection::ForwardAll => Some(usize::MAX),
            _ => None,
        };
        let refused = || refusal("ERROR", "0A000", "a cursor is read forwards: FETCH FORWARD 1000 FROM …".to_owned());
        Ok(cursor.next(rows_max.ok_or_else(refused)?))
    }

    /// Forgets one, or all.
    pub(super) fn close(&self, cursor: &CloseCursor) -> PgWireResult<()> {
        match cursor {
            CloseCursor::All => self.0.lock().clear(),
            CloseCursor::Specific { name } => {
                let name = folded(name);
                self.0.lock().remove(&name).ok_or_else(|| unknown(&name))?;
            }
        }
        Ok(())
    }

    /// Forgets those that end with their transaction.
    pub(super) fn end_transaction(&self) {
        self.0.lock().retain(|_name, cursor| cursor.is_held);
    }
}

fn unknown(name: &str) -> datafusion_postgres::pgwire::error::PgWireError {
    refusal("ERROR", "34000", format!("cursor \"{name}\" does not exist"))
}
