//! One statement: what it may be, and its plan.

use std::ops::ControlFlow;
use std::sync::LazyLock;

use datafusion_postgres::datafusion_pg_catalog::sql::PostgresCompatibilityParser;
use deltalake::arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use deltalake::datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::execution::context::SQLOptions;
use deltalake::datafusion::execution::session_state::SessionState;
use deltalake::datafusion::logical_expr::{Expr, LogicalPlan};
use deltalake::datafusion::scalar::ScalarValue;
use deltalake::datafusion::sql::parser::Statement as Parsed;
use deltalake::datafusion::sql::sqlparser::ast::{Expr as Term, Statement as Tree, Value, visit_expressions_mut};
use deltalake::datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use deltalake::datafusion::sql::sqlparser::parser::Parser;

use super::SqlError;
use super::names::named;

/// A statement that reads, and how it was understood. It is planned again for every run, since each sees what there is then.
#[derive(Clone, Debug)]
pub struct Statement {
    sql: String,
    tree: Tree,
    plan: LogicalPlan,
    schema: SchemaRef,
}

impl Statement {
    pub(super) fn new(sql: &str, tree: Tree, plan: LogicalPlan) -> Self {
        Self { sql: sql.to_owned(), schema: named(plan.schema().as_arrow(), &tree), tree, plan }
    }

    /// Its text.
    pub(super) fn sql(&self) -> &str {
        &self.sql
    }

    /// A column of its answer whose name another one has too.
    pub fn ambiguous_column(&self) -> Option<&str> {
        let mut names: Vec<&str> = self.schema().fields().iter().map(|field| field.name().as_str()).collect();
        names.sort_unstable();
        names.windows(2).find_map(|pair| match pair {
            [one, other] if one == other => Some(*one),
            _ => None,
        })
    }

    /// The columns of its answer.
    pub(super) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The schema of its answer as a plan makes it, with its columns' names.
    pub(super) fn named(&self, schema: &Schema) -> SchemaRef {
        named(schema, &self.tree)
    }

    /// The types of `$1`, `$2` …, where the statement tells them.
    pub(super) fn parameter_types(&self) -> Result<Vec<Option<DataType>>, SqlError> {
        let typed = || -> Result<_, DataFusionError> {
            let mut types = self.plan.get_parameter_types()?;
            // What is only cast has no other type.
            self.plan.apply(|node| {
                node.apply_expressions(|expression| {
                    expression.apply(|part| {
                        if let Expr::Cast(cast) = part
                            && let Expr::Placeholder(placeholder) = cast.expr.as_ref()
                        {
                            types.entry(placeholder.id.clone()).or_default().get_or_insert_with(|| cast.field.data_type().clone());
                        }
                        Ok(TreeNodeRecursion::Continue)
                    })
                })
            })?;
            Ok(types)
        };
        let number = |name: &str| name.trim_start_matches('$').parse().unwrap_or(usize::MAX);
        let mut numbered: Vec<(usize, Option<DataType>)> =
            typed().map_err(|error| SqlError::of(error, &self.sql))?.into_iter().map(|(name, kind)| (number(&name), kind)).collect();
        numbered.sort_unstable_by_key(|(number, _kind)| *number);
        Ok(numbered.into_iter().map(|(_number, kind)| kind).collect())
    }

    pub(super) async fn plan(&self, state: &SessionState) -> Result<LogicalPlan, SqlError> {
        plan(state, &self.sql, &self.tree).await
    }
}

static PARSER: LazyLock<PostgresCompatibilityParser> = LazyLock::new(PostgresCompatibilityParser::new);

/// All statements of a text, in PostgreSQL's grammar, whatever they are.
pub(super) fn split(sql: &str) -> Result<Vec<Tree>, SqlError> {
    // Clients that look about in PostgreSQL's catalogue ask what cannot be planned, and get what can; but the places of faults are lost.
    let trees = if sql.to_ascii_lowercase().contains("pg_") {
        PARSER.parse(sql).map(|trees| trees.into_iter().map(with_named_functions).collect())
    } else {
        Parser::parse_sql(&PostgreSqlDialect {}, sql).map(|trees| trees.into_iter().map(|tree| PARSER.rewrite(tree)).collect())
    };
    trees.map_err(|error| SqlError::of(DataFusionError::SQL(Box::new(error), None), sql))
}

/// Functions of types are numbers in PostgreSQL's catalogue, and names in the engine's: `typreceive != 0`, as ADBC asks, is `!= '-'` there.
fn with_named_functions(mut tree: Tree) -> Tree {
    const FUNCTIONS: [&str; 5] = ["typinput", "typoutput", "typreceive", "typsend", "typanalyze"];
    let is_function = |term: &Term| match term {
        Term::Identifier(name) => FUNCTIONS.contains(&name.value.as_str()),
        Term::CompoundIdentifier(names) => names.last().is_some_and(|name| FUNCTIONS.contains(&name.value.as_str())),
        _ => false,
    };
    let _whole: ControlFlow<()> = visit_expressions_mut(&mut tree, |term| {
        if let Term::BinaryOp { left, right, .. } = term
            && is_function(left)
            && let Term::Value(value) = right.as_mut()
            && matches!(&value.value, Value::Number(digits, _is_long) if digits == "0")
        {
            value.value = Value::SingleQuotedString("-".to_owned());
        }
        ControlFlow::Continue(())
    });
    tree
}

/// The one statement of a text.
pub(super) fn parse(sql: &str) -> Result<Tree, SqlError> {
    let mut trees = split(sql)?;
    match trees.pop() {
        Some(tree) if trees.is_empty() => Ok(tree),
        popped => Err(SqlError::NotOne(trees.len() + usize::from(popped.is_some()))),
    }
}

/// Plans a statement that reads; refuses any other.
pub(super) async fn plan(state: &SessionState, sql: &str, tree: &Tree) -> Result<LogicalPlan, SqlError> {
    if !reads(tree) {
        let words: String = tree.to_string().split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        return Err(SqlError::Refused(words.chars().take(40).collect()));
    }
    let planned = state.statement_to_plan(Parsed::Statement(Box::new(tree.clone()))).await;
    let plan = planned.map_err(|error| SqlError::of(error, sql))?;
    // What a statement holds inside, such as an `INSERT` in a `WITH`, counts too.
    let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    options.verify_plan(&plan).map_err(|error| SqlError::of(error, sql))?;
    Ok(plan)
}

fn reads(tree: &Tree) -> bool {
    match tree {
        Tree::Query(_) | Tree::ExplainTable { .. } | Tree::ShowTables { .. } | Tree::ShowColumns { .. } | Tree::ShowVariable { .. } => true,
        Tree::Explain { statement, .. } => reads(statement),
        _ => false,
    }
}

/// Puts values where `$1`, `$2` … stand.
pub(super) fn with_parameters(plan: LogicalPlan, parameters: Vec<ScalarValue>, sql: &str) -> Result<LogicalPlan, SqlError> {
    let expected = plan.get_parameter_names().map_err(|error| SqlError::of(error, sql))?.len();
    if expected == 0 && parameters.is_empty() {
        return Ok(plan);
    }
    if parameters.len() != expected {
        let problem = format!("the statement has {expected} parameters, but {} values were given", parameters.len());
        return Err(SqlError::Invalid { problem, place: None, sort: super::error::Sort::Other });
    }
    // Else a text would stand beside a time where the plan expects a time.
    let fields = plan.get_parameter_fields().map_err(|error| SqlError::of(error, sql))?;
    let mut values = Vec::with_capacity(parameters.len());
    for (number, value) in (1..).zip(parameters) {
        let wanted = fields.get(&format!("${number}")).and_then(|field: &Option<FieldRef>| field.as_ref()).map(|field| field.data_type());
        values.push(match wanted {
            Some(wanted) if value.data_type() != *wanted && value.data_type() != DataType::Null => {
                value.cast_to(wanted).map_err(|error| SqlError::of(error, sql))?
            }
            _ => value,
        });
    }
    plan.with_param_values(values).map_err(|error| SqlError::of(error, sql))
}
