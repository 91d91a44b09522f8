//! Which tables there are.

use std::collections::HashMap;
use std::sync::Arc;

use deltalake::arrow::datatypes::Field;
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::prelude::SessionContext;

use super::observation::Observations;
use super::rollup::{self, Rollup};
use super::{Sources, views};

/// Makes every table known.
pub(super) fn register(context: &SessionContext, sources: &Arc<Sources>) -> Result<(), DataFusionError> {
    context.register_table("observation", Arc::new(Observations::new(Arc::clone(sources))))?;
    for (name, comment, tier) in rollup::ALL {
        context.register_table(name, Arc::new(Rollup::new(Arc::clone(sources), tier, comment)))?;
    }
    for view in &views::ALL {
        context.register_table(view.name, views::provider(view, sources)?)?;
    }
    Ok(())
}

/// A column with what it means, which Arrow and Parquet answers bring along.
pub(super) fn commented(field: Field, comment: &str) -> Field {
    field.with_metadata(HashMap::from([("comment".to_owned(), comment.to_owned())]))
}
