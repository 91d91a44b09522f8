//! Names of an answer's columns, as PostgreSQL gives them where a statement does not.
//!
//! `avg(value)` becomes `avg`, `value::int` becomes `value`, `1 + 1` becomes `?column?`: the rules of `FigureColname` in PostgreSQL's
//! `parse_target.c`. Unlike there a name that is taken gets a number, `avg_2`, so that an answer can be an object or a table. Only what
//! the client sees is named so: inside a statement (`ORDER BY`, subqueries) the engine's names hold.

use std::sync::Arc;

use deltalake::arrow::datatypes::{Schema, SchemaRef};
use deltalake::datafusion::sql::sqlparser::ast::{AccessExpr, DataType, Expr, Ident, Query, SelectItem, SetExpr, Statement as Tree};
use hashbrown::HashSet;

/// The schema of an answer with the names that its columns should have.
pub(super) fn named(schema: &Schema, tree: &Tree) -> SchemaRef {
    let fields = schema.fields().iter();
    let Tree::Query(query) = tree else { return Arc::new(schema.clone()) };
    let names = figured(query, schema.fields().len());
    // Names that were given stand, whatever comes before them.
    let mut taken: HashSet<String> =
        fields.clone().zip(&names).filter(|(_field, name)| name.is_none()).map(|(field, _name)| field.name().clone()).collect();
    let fields = fields.zip(names).map(|(field, name)| match name {
        None => field.as_ref().clone(),
        Some(name) => {
            let free = (2..).map(|number| format!("{name}_{number}"));
            let name = std::iter::once(name.clone()).chain(free).find(|name| taken.insert(name.clone())).unwrap_or(name);
            field.as_ref().clone().with_name(name)
        }
    });
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()))
}

/// For each of so many columns its name, where it is an expression that the statement does not name.
fn figured(query: &Query, columns: usize) -> Vec<Option<String>> {
    let mut names = vec![None; columns];
    let Some(items) = items(&query.body) else { return names };
    let is_wild = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    let name = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(expression) => figure(expression).map(|(name, _strength)| name),
        _ => None,
    };
    // A wildcard stands for any number of columns: what is before the first and behind the last is known.
    let before = items.iter().take_while(|item| !is_wild(item)).count();
    for (place, item) in names.iter_mut().zip(items.iter().take(before)) {
        *place = name(item);
    }
    if before < items.len() {
        for (place, item) in names.iter_mut().rev().zip(items.iter().rev().take_while(|item| !is_wild(item))) {
            *place = name(item);
        }
    }
    names
}

/// What a query selects; of several, the first names the columns.
fn items(body: &SetExpr) -> Option<&[SelectItem]> {
    match body {
        SetExpr::Select(select) => Some(&select.projection),
        SetExpr::Query(query) => items(&query.body),
        SetExpr::SetOperation { left, .. } => items(left),
        _ => None,
    }
}

/// How good a name is: that of a cast is taken only where what is cast has no better one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strength {
    Weak,
    Strong,
}

/// The name of an expression; none of a column, whose name the engine knows.
fn figure(expression: &Expr) -> Option<(String, Strength)> {
    use Strength::{Strong, Weak};
    let strong = |name: &str| Some((name.to_owned(), Strong));
    match expression {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => None,
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => figure(inner),
        Expr::Function(function) => {
            let name = function.name.0.last().and_then(|part| part.as_ident());
            strong(&name.map_or_else(|| "?column?".to_owned(), |name| name.value.to_lowercase()))
        }
        Expr::Cast { expr, data_type, .. } => match column_or(expr) {
            (name, Strong) => Some((name, Strong)),
            (_weak, Weak) => Some((type_name(data_type), Weak)),
        },
        Expr::TypedString(typed) => Some((type_name(&typed.data_type), Weak)),
        Expr::Interval(_) => Some(("interval".to_owned(), Weak)),
        Expr::Case { else_result, .. } => match else_result.as_ref().map(|result| column_or(result)) {
            Some((name, Strong)) => Some((name, Strong)),
            _ => Some(("case".to_owned(), Weak)),
        },
        Expr::Exists { negated: false, .. } => strong("exists"),
        Expr::Array(_) => strong("array"),
        Expr::Tuple(_) => strong("row"),
        Expr::Extract { .. } => strong("extract"),
        Expr::Ceil { .. } => strong("ceil"),
        Expr::Floor { .. } => strong("floor"),
        Expr::Position { .. } => strong("position"),
        Expr::Substring { .. } => strong("substring"),
        Expr::Overlay { .. } => strong("overlay"),
        Expr::Trim { .. } => strong("btrim"),
        Expr::AtTimeZone { .. } => strong("timezone"),
        Expr::CompoundFieldAccess { root, access_chain } => match access_chain.last() {
            Some(AccessExpr::Dot(field)) => Some(column_or(field)),
            _ => Some(column_or(root)),
        },
        Expr::Subquery(query) => match items(&query.body).and_then(<[SelectItem]>::first) {
            Some(SelectItem::UnnamedExpr(inner)) => Some(column_or(inner)),
            Some(SelectItem::ExprWithAlias { alias, .. }) => strong(&alias.value),
            _ => Some(("?column?".to_owned(), Weak)),
        },
        _ => Some(("?column?".to_owned(), Weak)),
    }
}

/// The name of an expression that may be a column.
fn column_or(expression: &Expr) -> (String, Strength) {
    let column = match expression {
        Expr::Identifier(name) => Some(name),
        Expr::CompoundIdentifier(names) => names.last(),
        Expr::Nested(inner) => return column_or(inner),
        _ => None,
    };
    let folded = |name: &Ident| match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_lowercase(),
    };
    column
        .map(|name| (folded(name), Strength::Strong))
        .or_else(|| figure(expression))
        .unwrap_or_else(|| ("?column?".to_owned(), Strength::Weak))
}

/// What PostgreSQL calls a type inside.
fn type_name(kind: &DataType) -> String {
    let written = kind.to_string().to_lowercase();
    let bare = written.split('(').next().unwrap_or_default().trim();
    match bare {
        "boolean" => "bool",
        "smallint" => "int2",
        "int" | "integer" => "int4",
        "bigint" => "int8",
        "real" => "float4",
        "float" | "double" | "double precision" => "float8",
        "decimal" | "dec" => "numeric",
        "character varying" => "varchar",
        "char" | "character" => "bpchar",
        "timestamp without time zone" => "timestamp",
        "timestamp with time zone" => "timestamptz",
        "time without time zone" => "time",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use deltalake::arrow::datatypes::{DataType as ArrowType, Field};

    use super::*;
    use crate::sql::statement::parse;

    fn names(sql: &str, engine: &[&str]) -> Vec<String> {
        let fields: Vec<Field> = engine.iter().map(|name| Field::new(*name, ArrowType::Float64, true)).collect();
        let named = named(&Schema::new(fields), &parse(sql).unwrap());
        named.fields().iter().map(|field| field.name().clone()).collect()
    }

    /// As `psql` of PostgreSQL 15 shows them.
    #[test]
    fn an_expression_without_a_name_is_named_as_postgresql_does() {
        for (expression, name) in [
            ("avg(value)", "avg"),
            ("COUNT(*)", "count"),
            ("value::int", "value"),
            ("CAST(t.value AS text)", "value"),
            ("'7'::int", "int4"),
            ("7::double precision", "float8"),
            ("'2026-03-01'::timestamptz", "timestamptz"),
            ("DATE '2026-03-01'", "date"),
            ("INTERVAL '1 day'", "interval"),
            ("1 + 1", "?column?"),
            ("-value", "?column?"),
            ("7", "?column?"),
            ("'x'", "?column?"),
            ("value IS NULL", "?column?"),
            ("avg(value)::numeric(10,2)", "avg"),
            ("(avg(value))", "avg"),
            ("coalesce(value, 0)", "coalesce"),
            ("CASE WHEN value > 1 THEN 1 END", "case"),
            ("CASE WHEN value > 1 THEN 1 ELSE value END", "value"),
            ("CASE WHEN value > 1 THEN 1 ELSE 0 END", "case"),
            ("extract(hour FROM time)", "extract"),
            ("time AT TIME ZONE 'Europe/Rome'", "timezone"),
            ("EXISTS (SELECT 1)", "exists"),
            ("(SELECT max(value) FROM observation)", "max"),
            ("rank() OVER (ORDER BY value)", "rank"),
            ("ARRAY[1, 2]", "array"),
        ] {
            assert_eq!(names(&format!("SELECT {expression} FROM t"), &["engine"]), [name], "{expression}");
        }
    }

    #[test]
    fn given_names_and_columns_stand() {
        let sql = "SELECT district, avg(value), avg(value) AS mean, avg(time), max(value), 1, 2 FROM t UNION SELECT 1, 2, 3, 4, 5, 6, 7";
        let engine = ["district", "avg(t.value)", "mean", "avg(t.time)", "max(t.value)", "Int64(1)", "Int64(2)"];
        assert_eq!(names(sql, &engine), ["district", "avg", "mean", "avg_2", "max", "?column?", "?column?_2"]);
        assert_eq!(names("SELECT max(a), max AS max FROM t", &["max(a)", "max"]), ["max_2", "max"]);
        let wild = ["max(b)", "a", "b", "min(a)"];
        assert_eq!(names("SELECT max(b), *, min(a) FROM t", &wild), ["max", "a", "b", "min"]);
        let between = ["a", "b", "max(b)", "a", "min(a)"];
        assert_eq!(names("SELECT t.*, max(b), t.a, u.*, min(a) FROM t, u", &between), ["a", "b", "max(b)", "a", "min"]);
        assert_eq!(names("SHOW TABLES", &["a b"]), ["a b"]);
    }
}
