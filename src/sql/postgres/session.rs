//! Statements of a connection: simple and prepared ones, `SET`, `SHOW`, transactions.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion_postgres::arrow_pg::datatypes::df::deserialize_parameters_with_server_types;
use datafusion_postgres::arrow_pg::datatypes::{arrow_schema_to_pg_fields, encode_recordbatch, into_pg_type};
use datafusion_postgres::hooks::set_show::SetShowHook;
use datafusion_postgres::hooks::transactions::TransactionStatementHook;
use datafusion_postgres::hooks::{HookClient, QueryHook as _};
use datafusion_postgres::pgwire::api::portal::{Format, Portal};
use datafusion_postgres::pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use datafusion_postgres::pgwire::api::results::{FieldFormat, FieldInfo, QueryResponse, Response, Tag};
use datafusion_postgres::pgwire::api::stmt::QueryParser;
use datafusion_postgres::pgwire::api::store::PortalStore;
use datafusion_postgres::pgwire::api::{ClientInfo, ClientPortalStore, Type};
use datafusion_postgres::pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use datafusion_postgres::pgwire::messages::PgWireBackendMessage;
use datafusion_postgres::pgwire::messages::data::DataRow;
use datafusion_postgres::pgwire::types::format::FormatOptions;
use deltalake::arrow::datatypes::DataType;
use deltalake::datafusion::common::ParamValues;
use deltalake::datafusion::prelude::SessionContext;
use deltalake::datafusion::scalar::ScalarValue;
use deltalake::datafusion::sql::sqlparser::ast::{Set, Statement as Tree};
use futures::stream::{self, BoxStream};
use futures::{Sink, Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::login::Session;
use crate::sql::{Engine, Sort, SqlError, Statement, statement};
use crate::store::LakeError;

/// Settings that are kept for the connection, and told when asked; others are taken and change nothing.
const SETTINGS: [&str; 7] =
    ["statement_timeout", "datestyle", "bytea_output", "intervalstyle", "application_name", "extra_float_digits", "search_path"];

/// Where `SET statement_timeout` puts its milliseconds.
const STATEMENT_TIMEOUT: &str = "statement_timeout_ms";

/// Rows on their way to a client.
type Rows = BoxStream<'static, PgWireResult<DataRow>>;

/// Answers statements.
#[derive(Debug)]
pub(super) struct Statements {
    engine: Arc<Engine>,
}

/// A statement that was understood.
#[derive(Clone, Debug)]
pub(super) enum Prepared {
    /// It reads.
    Reading(Arc<Statement>),
    /// It is about the connection.
    Session(Box<Tree>),
}

/// An error as clients of PostgreSQL know them, with a code of its list of error codes.
pub(super) fn refusal(severity: &str, code: &str, message: String) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new(severity.to_owned(), code.to_owned(), message)))
}

fn error(error: &SqlError, sql: &str) -> PgWireError {
    let code = match error {
        SqlError::Invalid { sort: Sort::Syntax, .. } | SqlError::NotOne(_) => "42601",
        SqlError::Invalid { sort: Sort::Table, .. } => "42P01",
        SqlError::Invalid { sort: Sort::Column, .. } => "42703",
        SqlError::Invalid { sort: Sort::Other, .. } => "42000",
        SqlError::Refused(_) => "25006",
        SqlError::TooManyRows { .. } | SqlError::TooManyBytes { .. } => "54000",
        SqlError::TooLarge(_) | SqlError::Lake(LakeError::TooLarge(_)) => "53200",
        SqlError::Timeout(_) | SqlError::Cancelled => "57014",
        SqlError::Busy => "53300",
        SqlError::Lake(_) | SqlError::State(_) | SqlError::Engine(_) | SqlError::Threads(_) | SqlError::Folder(_) => {
            let id = uuid::Uuid::new_v4();
            tracing::error!(%id, error = crate::error_chain(error), "a statement failed");
            return refusal("ERROR", "XX000", format!("{error}; the log tells more under {id}"));
        }
    };
    let mut info = ErrorInfo::new("ERROR".to_owned(), code.to_owned(), error.to_string());
    if let SqlError::Invalid { place: Some(place), .. } = error {
        info.position = place.offset(sql).map(|offset| (offset + 1).to_string());
    }
    PgWireError::UserError(Box::new(info))
}

/// Whether a statement is about the connection.
fn is_of_session(tree: &Tree) -> bool {
    matches!(
        tree,
        Tree::Set(_)
            | Tree::ShowVariable { .. }
            | Tree::StartTransaction { .. }
            | Tree::Commit { .. }
            | Tree::Rollback { .. }
            | Tree::Discard { .. }
            | Tree::Reset(_)
            | Tree::Deallocate { .. }
            | Tree::UNLISTEN { .. }
    )
}

impl Statements {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    async fn prepare(&self, sql: &str, tree: Tree) -> PgWireResult<Prepared> {
        if is_of_session(&tree) {
            return Ok(Prepared::Session(Box::new(tree)));
        }
        let statement = self.engine.prepare_tree(sql, tree).await.map_err(|problem| error(&problem, sql))?;
        Ok(Prepared::Reading(Arc::new(statement)))
    }

    /// Answers what is about the connection.
    async fn arrange(&self, client: &mut dyn HookClient, tree: &Tree) -> PgWireResult<Response> {
        let done = |word: &str| Ok(Response::Execution(Tag::new(word)));
        // Settings of the engine's own, which the library would set too, are kept from it.
        let scratch = || SessionContext::new_with_state(self.engine.state.clone());
        let answer = match tree {
            Tree::Set(Set::SingleAssignment { variable, .. }) if !SETTINGS.contains(&variable.to_string().to_lowercase().as_str()) => None,
            Tree::Set(Set::SingleAssignment { .. } | Set::SetTimeZone { .. }) | Tree::ShowVariable { .. } => {
                SetShowHook.handle_simple_query(tree, &scratch(), client).await
            }
            Tree::StartTransaction { .. } | Tree::Commit { .. } | Tree::Rollback { .. } => {
                TransactionStatementHook.handle_simple_query(tree, &scratch(), client).await
            }
            _ => None,
        };
        match (answer, tree) {
            (Some(answer), _) => answer,
            (None, Tree::Set(_)) => done("SET"),
            (None, Tree::Discard { .. }) => done("DISCARD ALL"),
            (None, Tree::Reset(_)) => done("RESET"),
            (None, Tree::Deallocate { .. }) => done("DEALLOCATE"),
            (None, _) => done("UNLISTEN"),
        }
    }

    /// The rows of a statement, which runs when the first of them is asked for.
    fn rows<C: ClientInfo>(
        &self,
        client: &C,
        statement: Arc<Statement>,
        parameters: Vec<ScalarValue>,
        format: &Format,
    ) -> PgWireResult<(Arc<Vec<FieldInfo>>, Rows)> {
        let session = client.session_extensions().get::<Arc<Session>>();
        let session = session.ok_or_else(|| refusal("FATAL", "28000", "nobody is logged in".to_owned()))?;
        let timeout = client.metadata().get(STATEMENT_TIMEOUT).and_then(|millis| millis.parse().ok()).map(Duration::from_millis);
        let options = Arc::new(FormatOptions::from_client_metadata(client.metadata()));
        let fields = Arc::new(arrow_schema_to_pg_fields(statement.schema(), format, Some(options))?);
        let (engine, columns, cancelled) = (Arc::clone(&self.engine), Arc::clone(&fields), session.begin());
        let text = Arc::clone(&statement);
        let batches = stream::once(async move { engine.run(&session.user, &statement, parameters, timeout).await });
        let batches = batches.map(|answer| match answer {
            Ok(answer) => answer.boxed(),
            Err(problem) => stream::iter([Err(problem)]).boxed(),
        });
        let rows = until_cancelled(batches.flatten().boxed(), cancelled).flat_map(move |batch| match batch {
            Ok(batch) => stream::iter(encode_recordbatch(Arc::clone(&columns), batch).collect::<Vec<_>>()),
            Err(problem) => stream::iter(vec![Err(error(&problem, text.sql()))]),
        });
        Ok((fields, rows.boxed()))
    }
}

/// A stream that ends with an error once it is cancelled.
fn until_cancelled<T: Send + 'static>(
    items: BoxStream<'static, Result<T, SqlError>>,
    cancelled: CancellationToken,
) -> impl Stream<Item = Result<T, SqlError>> + Send + 'static {
    stream::unfold(Some((items, cancelled)), |state| async move {
        let (mut items, cancelled) = state?;
        match cancelled.run_until_cancelled(items.next()).await {
            Some(item) => Some((item?, Some((items, cancelled)))),
            None => Some((Err(SqlError::Cancelled), None)),
        }
    })
}

/// Whether the first row could be made is known before it is said that there are any.
async fn begun(rows: Rows) -> PgWireResult<Rows> {
    let mut rows = Box::pin(rows.peekable());
    if rows.as_mut().peek().await.is_some_and(Result::is_err)
        && let Some(Err(error)) = rows.next().await
    {
        return Err(error);
    }
    Ok(rows.boxed())
}

#[async_trait]
impl SimpleQueryHandler for Statements {
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: std::fmt::Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let trees = statement::split(query).map_err(|problem| error(&problem, query))?;
        let is_alone = trees.len() == 1;
        let mut responses = Vec::with_capacity(trees.len());
        for tree in trees {
            responses.push(match Box::pin(self.prepare(query, tree)).await? {
                Prepared::Session(tree) => Box::pin(self.arrange(client, &tree)).await?,
                Prepared::Reading(statement) => {
                    let (fields, rows) = self.rows(client, statement, Vec::new(), &Format::UnifiedText)?;
                    // Of several, each begins when the one before it is over.
                    let rows = if is_alone { begun(rows).await? } else { rows };
                    Response::Query(QueryResponse::new(fields, rows))
                }
            });
        }
        Ok(responses)
    }
}

#[async_trait]
impl ExtendedQueryHandler for Statements {
    type Statement = Prepared;
    type QueryParser = Self;

    fn query_parser(&self) -> Arc<Self> {
        Arc::new(Self { engine: Arc::clone(&self.engine) })
    }

    async fn do_query<C>(&self, client: &mut C, portal: &Portal<Prepared>, _rows_max: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: std::fmt::Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let statement = match &portal.statement.statement {
            Prepared::Session(tree) => return Box::pin(self.arrange(client, tree)).await,
            Prepared::Reading(statement) => Arc::clone(statement),
        };
        let wanted = statement.parameter_types().map_err(|problem| error(&problem, statement.sql()))?;
        let (types, wires) = (wanted.iter().map(Option::as_ref).collect::<Vec<_>>(), wire_types(&wanted)?);
        let wires: Vec<Option<&Type>> = wires.iter().map(Some).collect();
        let parameters = match deserialize_parameters_with_server_types(portal, &types, &wires)? {
            ParamValues::List(values) => values.into_iter().map(|value| value.value).collect(),
            ParamValues::Map(_) => return Err(refusal("ERROR", "08P01", "parameters have numbers, not names".to_owned())),
        };
        let (fields, rows) = self.rows(client, statement, parameters, &portal.result_column_format)?;
        Ok(Response::Query(QueryResponse::new(fields, begun(rows).await?)))
    }
}

#[async_trait]
impl QueryParser for Statements {
    type Statement = Prepared;

    async fn parse_sql<C>(&self, _client: &C, sql: &str, _types: &[Option<Type>]) -> PgWireResult<Option<Prepared>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let mut trees = statement::split(sql).map_err(|problem| error(&problem, sql))?;
        match (trees.pop(), trees.len()) {
            (None, _) => Ok(None),
            (Some(tree), 0) => Box::pin(self.prepare(sql, tree)).await.map(Some),
            (Some(_), others) => Err(error(&SqlError::NotOne(others + 1), sql)),
        }
    }

    fn get_parameter_types(&self, prepared: &Prepared) -> PgWireResult<Vec<Type>> {
        match prepared {
            Prepared::Session(_) => Ok(Vec::new()),
            Prepared::Reading(statement) => wire_types(&statement.parameter_types().map_err(|problem| error(&problem, statement.sql()))?),
        }
    }

    fn get_result_schema(&self, prepared: &Prepared, format: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        match prepared {
            Prepared::Reading(statement) => arrow_schema_to_pg_fields(statement.schema(), format.unwrap_or(&Format::UnifiedText), None),
            Prepared::Session(tree) => Ok(match tree.as_ref() {
                Tree::ShowVariable { variable } => {
                    let name = variable.iter().map(|word| word.value.to_lowercase()).collect::<Vec<_>>().join("_");
                    vec![FieldInfo::new(name, None, None, Type::VARCHAR, FieldFormat::Text)]
                }
                _ => Vec::new(),
            }),
        }
    }
}

/// The types in which clients send parameters; `unknown` where it does not matter.
fn wire_types(types: &[Option<DataType>]) -> PgWireResult<Vec<Type>> {
    types.iter().map(|kind| kind.as_ref().map_or(Ok(Type::UNKNOWN), into_pg_type)).collect()
}
