//! Statements of a connection: simple and prepared ones, copies, cursors, `SET`, `SHOW`, transactions.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion_postgres::arrow_pg::datatypes::df::deserialize_parameters_with_server_types;
use datafusion_postgres::arrow_pg::datatypes::{arrow_schema_to_pg_fields, encode_recordbatch, into_pg_type};
use datafusion_postgres::hooks::set_show::SetShowHook;
use datafusion_postgres::hooks::transactions::TransactionStatementHook;
use datafusion_postgres::hooks::{HookClient, QueryHook as _};
use datafusion_postgres::pgwire::api::portal::{Format, Portal};
use datafusion_postgres::pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler, send_describe_response};
use datafusion_postgres::pgwire::api::results::{DescribePortalResponse, FieldFormat, FieldInfo, QueryResponse, Response, Tag};
use datafusion_postgres::pgwire::api::stmt::QueryParser;
use datafusion_postgres::pgwire::api::store::PortalStore;
use datafusion_postgres::pgwire::api::{ClientInfo, ClientPortalStore, Type};
use datafusion_postgres::pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use datafusion_postgres::pgwire::messages::PgWireBackendMessage;
use datafusion_postgres::pgwire::messages::extendedquery::{Describe, Execute, TARGET_TYPE_BYTE_PORTAL};
use datafusion_postgres::pgwire::types::format::FormatOptions;
use deltalake::arrow::array::RecordBatch;
use deltalake::arrow::datatypes::DataType;
use deltalake::datafusion::common::ParamValues;
use deltalake::datafusion::prelude::SessionContext;
use deltalake::datafusion::scalar::ScalarValue;
use deltalake::datafusion::sql::sqlparser::ast::{Set, Statement as Tree};
use futures::stream::{self, BoxStream};
use futures::{Sink, Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::copy::Copy;
use super::cursor::{Cursors, Declaration};
use super::login::Session;
use crate::sql::{Engine, Sort, SqlError, Statement, statement};
use crate::store::LakeError;

/// Settings that are kept for the connection, and told when asked; others are taken and change nothing.
const SETTINGS: [&str; 7] =
    ["statement_timeout", "datestyle", "bytea_output", "intervalstyle", "application_name", "extra_float_digits", "search_path"];

/// Where `SET statement_timeout` puts its milliseconds.
const STATEMENT_TIMEOUT: &str = "statement_timeout_ms";

/// What a statement reads.
pub(super) type Batches = BoxStream<'static, Result<RecordBatch, SqlError>>;

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
    /// It reads, and its rows go out as they are.
    Copying(Arc<Statement>, Box<Copy>),
    /// It reads, and its rows are fetched later.
    Declaring(Arc<Statement>, Declaration),
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
            | Tree::Fetch { .. }
            | Tree::Close { .. }
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
        let (copy, declaration) = (Copy::of(&tree)?, Declaration::of(&tree)?);
        let (tree, copy) = copy.map_or((tree, None), |(reading, copy)| (reading, Some(copy)));
        let (tree, declaration) = declaration.map_or((tree, None), |(reading, declaration)| (reading, Some(declaration)));
        let statement = Arc::new(self.engine.prepare_tree(sql, tree).await.map_err(|problem| error(&problem, sql))?);
        Ok(match (copy, declaration) {
            (Some(copy), _) => Prepared::Copying(statement, Box::new(copy)),
            (None, Some(declaration)) => Prepared::Declaring(statement, declaration),
            (None, None) => Prepared::Reading(statement),
        })
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
        if matches!(tree, Tree::Commit { .. } | Tree::Rollback { .. }) {
            session(client)?.cursors.end_transaction();
        }
        match (answer, tree) {
            (Some(answer), _) => answer,
            (None, Tree::Close { cursor }) => session(client)?.cursors.close(cursor).and_then(|()| done("CLOSE CURSOR")),
            (None, Tree::Set(_)) => done("SET"),
            (None, Tree::Discard { .. }) => done("DISCARD ALL"),
            (None, Tree::Reset(_)) => done("RESET"),
            (None, Tree::Deallocate { .. }) => done("DEALLOCATE"),
            (None, _) => done("UNLISTEN"),
        }
    }

    /// What a statement reads; it runs when the first batch is asked for.
    fn batches<C: ClientInfo>(&self, client: &C, statement: Arc<Statement>, parameters: Vec<ScalarValue>) -> PgWireResult<Batches> {
        let user = session(client)?.user.clone();
        let timeout = client.metadata().get(STATEMENT_TIMEOUT).and_then(|millis| millis.parse().ok()).map(Duration::from_millis);
        let engine = Arc::clone(&self.engine);
        let answer = stream::once(async move { engine.run(&user, &statement, parameters, timeout).await });
        let batches = answer.map(|answer| match answer {
            Ok(answer) => answer.boxed(),
            Err(problem) => stream::iter([Err(problem)]).boxed(),
        });
        Ok(batches.flatten().boxed())
    }

    /// Answers a statement. `is_awaited` says that nothing before it is still to be answered: then it is begun at once, so that it is
    /// known whether there will be rows before it is said that there are.
    async fn answer<C>(&self, client: &mut C, prepared: &Prepared, parameters: Vec<ScalarValue>, asked: Asked<'_>) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let Asked { format, is_awaited } = asked;
        let own = session(client)?;
        let (statement, batches, tag) = match prepared {
            Prepared::Session(tree) => {
                let Some(cursor) = own.cursors.fetched(tree) else { return Box::pin(self.arrange(client, tree)).await };
                let cursor = cursor?;
                (Arc::clone(cursor.statement()), Cursors::fetch(cursor, tree)?, "FETCH")
            }
            Prepared::Reading(statement) | Prepared::Copying(statement, _) | Prepared::Declaring(statement, _) => {
                (Arc::clone(statement), self.batches(client, Arc::clone(statement), parameters)?, "SELECT")
            }
        };
        let tell = {
            let statement = Arc::clone(&statement);
            move |problem: &SqlError| error(problem, statement.sql())
        };
        let batches = until_cancelled(batches, own.begin()).boxed();
        let batches = if is_awaited { begun(batches).await.map_err(|problem| tell(&problem))? } else { batches };
        let format = if let Prepared::Copying(_, copy) = prepared { &copy.values() } else { format };
        let options = Arc::new(FormatOptions::from_client_metadata(client.metadata()));
        let fields = Arc::new(arrow_schema_to_pg_fields(statement.schema(), format, Some(options))?);
        match prepared {
            Prepared::Copying(_, copy) if is_awaited => copy.send(client, fields, batches, tell).await,
            Prepared::Copying(..) => Err(refusal("ERROR", "0A000", "COPY must be the only statement".to_owned())),
            Prepared::Declaring(_, declaration) => {
                own.cursors.declare(declaration, statement, batches)?;
                Ok(Response::Execution(Tag::new("DECLARE CURSOR")))
            }
            Prepared::Reading(_) | Prepared::Session(_) => {
                let columns = Arc::clone(&fields);
                let rows = batches.flat_map(move |batch| match batch {
                    Ok(batch) => stream::iter(encode_recordbatch(Arc::clone(&columns), batch).collect::<Vec<_>>()),
                    Err(problem) => stream::iter(vec![Err(tell(&problem))]),
                });
                let mut answer = QueryResponse::new(fields, rows);
                answer.set_command_tag(tag);
                Ok(Response::Query(answer))
            }
        }
    }
}

/// How an answer is wanted.
#[derive(Clone, Copy, Debug)]
struct Asked<'a> {
    format: &'a Format,
    is_awaited: bool,
}

fn session<C: ClientInfo + ?Sized>(client: &C) -> PgWireResult<Arc<Session>> {
    let session = client.session_extensions().get::<Arc<Session>>();
    session.map(|session| Arc::clone(session.as_ref())).ok_or_else(|| refusal("FATAL", "28000", "nobody is logged in".to_owned()))
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

/// Waits for the first batch: its error is the statement's.
async fn begun(batches: Batches) -> Result<Batches, SqlError> {
    let mut batches = Box::pin(batches.peekable());
    if batches.as_mut().peek().await.is_some_and(Result::is_err)
        && let Some(Err(error)) = batches.next().await
    {
        return Err(error);
    }
    Ok(batches.boxed())
}

#[async_trait]
impl SimpleQueryHandler for Statements {
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let trees = statement::split(query).map_err(|problem| error(&problem, query))?;
        // Of several, each begins when the one before it is over.
        let asked = Asked { format: &Format::UnifiedText, is_awaited: trees.len() == 1 };
        let mut responses = Vec::with_capacity(trees.len());
        for tree in trees {
            let prepared = Box::pin(self.prepare(query, tree)).await?;
            responses.push(self.answer(client, &prepared, Vec::new(), asked).await?);
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

    async fn on_execute<C>(&self, client: &mut C, mut message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        // The library makes room for all of them before it has one. No answer has more.
        message.max_rows = message.max_rows.min(i32::try_from(self.engine.limits.rows_max).unwrap_or(i32::MAX).saturating_add(1));
        self._on_execute(client, message).await
    }

    async fn on_describe<C>(&self, client: &mut C, message: Describe) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        // A declared cursor is a portal too.
        let cursor = match (message.target_type, &message.name) {
            (TARGET_TYPE_BYTE_PORTAL, Some(name)) => session(client)?.cursors.named(name),
            _ => None,
        };
        let Some(cursor) = cursor else { return self._on_describe(client, message).await };
        let fields = arrow_schema_to_pg_fields(cursor.statement().schema(), &Format::UnifiedText, None)?;
        send_describe_response(client, &DescribePortalResponse::new(fields)).await
    }

    async fn do_describe_portal<C>(&self, client: &mut C, target: &Portal<Prepared>) -> PgWireResult<DescribePortalResponse>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let (prepared, format) = (&target.statement.statement, &target.result_column_format);
        let fetched = match prepared {
            Prepared::Session(tree) => session(client)?.cursors.fetched(tree),
            _ => None,
        };
        Ok(DescribePortalResponse::new(match fetched {
            Some(cursor) => arrow_schema_to_pg_fields(cursor?.statement().schema(), format, None)?,
            None => self.get_result_schema(prepared, Some(format))?,
        }))
    }

    async fn do_query<C>(&self, client: &mut C, portal: &Portal<Prepared>, _rows_max: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let prepared = &portal.statement.statement;
        let wanted = prepared.parameter_types()?;
        let (types, wires) = (wanted.iter().map(Option::as_ref).collect::<Vec<_>>(), wire_types(&wanted)?);
        let wires: Vec<Option<&Type>> = wires.iter().map(Some).collect();
        let parameters = match deserialize_parameters_with_server_types(portal, &types, &wires)? {
            ParamValues::List(values) => values.into_iter().map(|value| value.value).collect(),
            ParamValues::Map(_) => return Err(refusal("ERROR", "08P01", "parameters have numbers, not names".to_owned())),
        };
        self.answer(client, prepared, parameters, Asked { format: &portal.result_column_format, is_awaited: true }).await
    }
}

impl Prepared {
    /// The types of `$1`, `$2` …, where the statement tells them.
    fn parameter_types(&self) -> PgWireResult<Vec<Option<DataType>>> {
        match self {
            Self::Session(_) => Ok(Vec::new()),
            Self::Reading(statement) | Self::Copying(statement, _) | Self::Declaring(statement, _) => {
                statement.parameter_types().map_err(|problem| error(&problem, statement.sql()))
            }
        }
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
        wire_types(&prepared.parameter_types()?)
    }

    fn get_result_schema(&self, prepared: &Prepared, format: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        match prepared {
            Prepared::Reading(statement) => arrow_schema_to_pg_fields(statement.schema(), format.unwrap_or(&Format::UnifiedText), None),
            Prepared::Copying(..) | Prepared::Declaring(..) => Ok(Vec::new()),
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
