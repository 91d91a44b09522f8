//! The end of work that nobody waits for any more.
//!
//! Work that is dropped ends where it pauses by itself, and a join that finds nothing may read hundreds of batches before it does. So each
//! leaf of a plan is asked for no further batch once its statement is over.

use std::fmt;
use std::sync::Arc;

use deltalake::datafusion::common::tree_node::{Transformed, TransformedResult as _, TreeNode as _, TreeNodeRecursion};
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::execution::{SendableRecordBatchStream, TaskContext};
use deltalake::datafusion::physical_expr::PhysicalExpr;
use deltalake::datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use deltalake::datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

/// A plan that ends with an error once a token is cancelled.
pub(super) fn stoppable(plan: Arc<dyn ExecutionPlan>, stop: &CancellationToken) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    let wrapped = plan.transform_up(|plan| {
        if !plan.children().is_empty() {
            return Ok(Transformed::no(plan));
        }
        let properties = Arc::clone(plan.properties());
        Ok(Transformed::yes(Arc::new(Leaf { plan, properties, stop: stop.clone() }) as Arc<dyn ExecutionPlan>))
    });
    wrapped.data()
}

/// A leaf that stops.
struct Leaf {
    plan: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    stop: CancellationToken,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plan.fmt(formatter)
    }
}

impl DisplayAs for Leaf {
    fn fmt_as(&self, kind: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plan.fmt_as(kind, formatter)
    }
}

impl ExecutionPlan for Leaf {
    fn name(&self) -> &str {
        self.plan.name()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion, DataFusionError>,
    ) -> Result<TreeNodeRecursion, DataFusionError> {
        self.plan.apply_expressions(visit)
    }

    fn with_new_children(self: Arc<Self>, _children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream, DataFusionError> {
        let batches = self.plan.execute(partition, context)?;
        let (schema, stop) = (batches.schema(), self.stop.clone());
        let batches =
            batches.map(
                move |batch| {
                    if stop.is_cancelled() { Err(DataFusionError::Execution("the statement is over".to_owned())) } else { batch }
                },
            );
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }
}
