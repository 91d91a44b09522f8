//! What a statement asks of names, times and trust, as a selection of the lake. A condition on a name may be any expression of that name
//! alone: it is held against the names that there are, which are few, and not against rows.

use std::ops::Range;
use std::sync::Arc;

use deltalake::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StringViewArray};
use deltalake::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use deltalake::datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use deltalake::datafusion::common::{Column, DFSchema};
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::execution::context::ExecutionProps;
use deltalake::datafusion::logical_expr::expr_rewriter::unnormalize_col;
use deltalake::datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use deltalake::datafusion::logical_expr::{BinaryExpr, Expr, Operator, Volatility};
use deltalake::datafusion::physical_expr::create_physical_expr;
use deltalake::datafusion::scalar::ScalarValue;

use super::Sources;
use crate::model::{DistrictIndex, Districts, PropertyIndex, Timestamp};
use crate::state::DeviceIndex;
use crate::store::Selection;

pub(super) const PROPERTY: &str = "property";
pub(super) const DEVICE: &str = "device";
pub(super) const TIME: &str = "time";
pub(super) const TRUSTED: &str = "trusted";
pub(super) const DISTRICT: &str = "district";

/// A condition that the lake's scan can hold rows against.
pub(super) enum Condition {
    /// Any expression of one name alone.
    Name { column: &'static str, expression: Expr },
    /// Times from and to.
    Time(Range<i64>),
    /// Only trusted ones.
    Trusted,
}

impl Condition {
    /// What a filter asks, if it is such a condition.
    pub(super) fn of(filter: &Expr) -> Option<Self> {
        let expression = unnormalize_col(filter.clone());
        if matches!(&expression, Expr::Column(column) if column.name == TRUSTED) {
            return Some(Self::Trusted);
        }
        if let Some(times) = times(&expression) {
            return Some(Self::Time(times));
        }
        let is_plain = |node: &Expr| match node {
            Expr::ScalarFunction(function) => function.func.signature().volatility != Volatility::Volatile,
            Expr::Column(_)
            | Expr::Literal(..)
            | Expr::BinaryExpr(_)
            | Expr::InList(_)
            | Expr::Like(_)
            | Expr::SimilarTo(_)
            | Expr::Not(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::Between(_)
            | Expr::Cast(_)
            | Expr::TryCast(_)
            | Expr::Case(_) => true,
            _ => false,
        };
        let mut is_all_plain = true;
        let visited = expression.apply(|node| {
            is_all_plain &= is_plain(node);
            Ok(if is_all_plain { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
        });
        let columns = expression.column_refs();
        let only = match columns.iter().collect::<Vec<&&Column>>().as_slice() {
            [only] => only.name.clone(),
            _ => return None,
        };
        let column = [PROPERTY, DEVICE, DISTRICT].into_iter().find(|column| *column == only)?;
        (visited.is_ok() && is_all_plain).then_some(Self::Name { column, expression })
    }

    /// Whether the scan lets through exactly the rows for which it holds: it cannot look for rows without a district.
    pub(super) fn is_exact(&self, districts: &Districts) -> bool {
        match self {
            Self::Name { column: DISTRICT, expression } => {
                let names = districts.iter().map(|(_index, district)| Some(district.id.as_str())).chain([None]);
                held(DISTRICT, expression, names).is_ok_and(|held| held.last() == Some(&false))
            }
            Self::Name { .. } | Self::Time(_) | Self::Trusted => true,
        }
    }
}

/// For which of some names an expression holds.
fn held<'a>(column: &str, expression: &Expr, names: impl Iterator<Item = Option<&'a str>>) -> Result<Vec<bool>, DataFusionError> {
    let schema = Schema::new(vec![Field::new(column, DataType::Utf8View, true)]);
    let qualified = DFSchema::try_from(schema.clone())?;
    let expression = create_physical_expr(expression, &qualified, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
    let names: ArrayRef = Arc::new(names.collect::<StringViewArray>());
    let count = names.len();
    let held = expression.evaluate(&RecordBatch::try_new(Arc::new(schema), vec![names])?)?.into_array(count)?;
    let held = held.as_any().downcast_ref::<BooleanArray>().ok_or_else(|| DataFusionError::Plan("a condition is no truth".to_owned()))?;
    Ok(held.iter().map(|held| held == Some(true)).collect())
}

const MICROS_OF_DAY: i64 = 86_400_000_000;

/// The times for which an expression holds, where it says nothing else: from, and to without it.
fn times(expression: &Expr) -> Option<Range<i64>> {
    match expression {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            let (one, other) = (times(left)?, times(right)?);
            Some(one.start.max(other.start)..one.end.min(other.end))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (grain(left), right.as_ref(), grain(right), left.as_ref()) {
            (Some(grain), Expr::Literal(value, _), ..) => compare(grain, *op, value),
            (_, _, Some(grain), Expr::Literal(value, _)) => compare(grain, op.swap()?, value),
            _ => None,
        },
        Expr::Between(between) if !between.negated => match (grain(&between.expr)?, between.low.as_ref(), between.high.as_ref()) {
            (grain, Expr::Literal(low, _), Expr::Literal(high, _)) => {
                Some(compare(grain, Operator::GtEq, low)?.start..compare(grain, Operator::LtEq, high)?.end)
            }
            _ => None,
        },
        _ => None,
    }
}

/// What the column of times is compared as.
#[derive(Clone, Copy)]
enum Grain {
    /// An instant, or a finer one.
    Instant,
    /// The day of it, UTC.
    Day,
}

fn grain(expression: &Expr) -> Option<Grain> {
    let is_time = |expression: &Expr| matches!(expression, Expr::Column(column) if column.name == TIME);
    match expression {
        Expr::Cast(cast) if is_time(&cast.expr) => match cast.field.data_type() {
            DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, _) => Some(Grain::Instant),
            DataType::Date32 => Some(Grain::Day),
            _ => None,
        },
        _ => is_time(expression).then_some(Grain::Instant),
    }
}

fn compare(grain: Grain, operator: Operator, value: &ScalarValue) -> Option<Range<i64>> {
    // The first microsecond that is not before the value, and the first after it.
    let (first, after) = match (grain, value) {
        (Grain::Day, ScalarValue::Date32(Some(day))) => {
            let start = i64::from(*day).checked_mul(MICROS_OF_DAY)?;
            (start, start.checked_add(MICROS_OF_DAY)?)
        }
        (Grain::Instant, ScalarValue::TimestampSecond(Some(seconds), _)) => exactly(seconds.checked_mul(1_000_000)?),
        (Grain::Instant, ScalarValue::TimestampMillisecond(Some(millis), _)) => exactly(millis.checked_mul(1_000)?),
        (Grain::Instant, ScalarValue::TimestampMicrosecond(Some(micros), _)) => exactly(*micros),
        (Grain::Instant, ScalarValue::TimestampNanosecond(Some(nanos), _)) => {
            let below = nanos.div_euclid(1_000);
            (below + i64::from(nanos.rem_euclid(1_000) != 0), below + 1)
        }
        _ => return None,
    };
    match operator {
        Operator::GtEq => Some(first..i64::MAX),
        Operator::Gt => Some(after..i64::MAX),
        Operator::Lt => Some(i64::MIN..first),
        Operator::LtEq => Some(i64::MIN..after),
        Operator::Eq => Some(first..after),
        _ => None,
    }
}

fn exactly(micros: i64) -> (i64, i64) {
    (micros, micros.saturating_add(1))
}

/// What is asked of the lake; `None` where nothing can be found.
pub(super) fn selection(filters: &[Expr], sources: &Sources) -> Result<Option<Selection>, DataFusionError> {
    let (mut from, mut to) = (i64::MIN, i64::MAX);
    let mut trusted = false;
    let (mut properties, mut devices, mut districts) = (Names::default(), Names::default(), Names::default());
    for filter in filters {
        match Condition::of(filter) {
            Some(Condition::Time(times)) => (from, to) = (from.max(times.start), to.min(times.end)),
            Some(Condition::Trusted) => trusted = true,
            Some(Condition::Name { column: PROPERTY, expression }) => {
                let names = sources.catalogue.iter().map(|(_index, property)| Some(property.id.as_str()));
                properties.narrow(held(PROPERTY, &expression, names)?);
            }
            Some(Condition::Name { column: DISTRICT, expression }) => {
                let names = sources.districts.iter().map(|(_index, district)| Some(district.id.as_str()));
                districts.narrow(held(DISTRICT, &expression, names)?);
            }
            Some(Condition::Name { expression, .. }) => {
                let names: Vec<_> = sources.live.read().devices.iter().map(|device| device.id.clone()).collect();
                devices.narrow(held(DEVICE, &expression, names.iter().map(|name| Some(name.as_str())))?);
            }
            None => return Err(DataFusionError::Plan(format!("the condition {filter} was not to be pushed down"))),
        }
    }
    if from >= to || [&properties, &devices, &districts].into_iter().any(Names::is_none) {
        return Ok(None);
    }
    let short = |index: u32| u16::try_from(index).expect("as many as 16 bits number");
    Ok(Some(Selection {
        properties: properties.held().into_iter().flatten().map(|index| PropertyIndex(short(index))).collect(),
        from: Timestamp::from_micros_clamped(from),
        to: Timestamp::from_micros_clamped(to),
        devices: devices.held().map(|devices| devices.map(DeviceIndex).collect()),
        districts: districts.held().into_iter().flatten().map(|index| DistrictIndex(short(index))).collect(),
        area: None,
        trusted,
    }))
}

/// Which names of a list are wanted; all where nothing was asked.
#[derive(Default)]
struct Names(Option<Vec<bool>>);

impl Names {
    fn narrow(&mut self, held: Vec<bool>) {
        match &mut self.0 {
            None => self.0 = Some(held),
            // A device that was first heard in between is of no snapshot that is looked at.
            Some(names) => names.iter_mut().zip(held.into_iter().chain(std::iter::repeat(false))).for_each(|(name, held)| *name &= held),
        }
    }

    fn held(&self) -> Option<impl Iterator<Item = u32> + '_> {
        let numbered = |held| (0u32..).zip(held).filter_map(|(index, held): (u32, &bool)| held.then_some(index));
        self.0.as_ref().map(numbered)
    }

    fn is_none(&self) -> bool {
        self.0.as_ref().is_some_and(|names| !names.contains(&true))
    }
}

/// A selection in the words of a plan.
pub(super) fn described(selection: Option<&Selection>, sources: &Sources) -> String {
    let Some(selection) = selection else { return "nothing".to_owned() };
    let mut parts = Vec::new();
    if !selection.properties.is_empty() {
        let names: Vec<&str> = selection.properties.iter().take(8).map(|property| sources.catalogue.get(*property).id.as_str()).collect();
        parts.push(format!("{} properties=[{}]", selection.properties.len(), names.join(", ")));
    }
    parts.extend(selection.devices.as_ref().map(|devices| format!("{} devices", devices.len())));
    if !selection.districts.is_empty() {
        parts.push(format!("{} districts", selection.districts.len()));
    }
    if selection.from > Timestamp::MIN || selection.to < Timestamp::MAX {
        parts.push(format!("time=[{}, {})", selection.from, selection.to));
    }
    if selection.trusted {
        parts.push("trusted".to_owned());
    }
    if parts.is_empty() { "everything".to_owned() } else { parts.join(", ") }
}
