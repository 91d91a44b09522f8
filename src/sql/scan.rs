//! The leaf of a plan that reads the lake.

use std::fmt;
use std::sync::Arc;

use deltalake::arrow::array::RecordBatch;
use deltalake::arrow::datatypes::SchemaRef;
use deltalake::datafusion::catalog::Session;
use deltalake::datafusion::common::tree_node::TreeNodeRecursion;
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::execution::{SendableRecordBatchStream, TaskContext};
use deltalake::datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use deltalake::datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use deltalake::datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput as _};
use deltalake::datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use deltalake::datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::Sources;
use crate::store::Snapshot;

/// Batches as the lake gives them.
pub(super) type Batches = BoxStream<'static, Result<RecordBatch, DataFusionError>>;

/// Begins to read.
pub(super) type Open = Box<dyn Fn() -> Result<Batches, DataFusionError> + Send + Sync>;

/// A scan of the lake.
pub(super) struct Scan {
    /// What is selected, in the words of a plan.
    selection: String,
    open: Open,
    limit: Option<usize>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl Scan {
    /// A scan that gives batches of a schema, and of their rows no more than the limit.
    pub(super) fn new(schema: SchemaRef, selection: String, limit: Option<usize>, open: Open) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { selection, open, limit, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }
}

impl fmt::Debug for Scan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Scan").field("selection", &self.selection).field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl DisplayAs for Scan {
    fn fmt_as(&self, _kind: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.properties.equivalence_properties().schema();
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(formatter, "LakeScan: columns=[{}], {}", columns.join(", "), self.selection)?;
        self.limit.map_or(Ok(()), |limit| write!(formatter, ", limit={limit}"))
    }
}

impl ExecutionPlan for Scan {
    fn name(&self) -> &'static str {
        "LakeScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion, DataFusionError>,
    ) -> Result<TreeNodeRecursion, DataFusionError> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        Ok(self)
    }

    fn fetch(&self) -> Option<usize> {
        self.limit
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(&self, partition: usize, _context: Arc<TaskContext>) -> Result<SendableRecordBatchStream, DataFusionError> {
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let left = self.limit.unwrap_or(usize::MAX);
        // Nothing more is read once there are enough.
        let batches = (self.open)()?.scan(left, move |left, batch| {
            let batch = batch.map(|batch| {
                let batch = batch.record_output(&metrics);
                batch.slice(0, batch.num_rows().min(*left))
            });
            let is_over = *left == 0;
            *left -= batch.as_ref().map_or(0, RecordBatch::num_rows);
            std::future::ready((!is_over).then_some(batch))
        });
        let schema = Arc::clone(self.properties.equivalence_properties().schema());
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }
}

/// What the statement sees of history.
pub(super) fn snapshot(state: &dyn Session, sources: &Sources) -> Result<Arc<Snapshot>, DataFusionError> {
    match state.config().get_extension::<Snapshot>() {
        Some(snapshot) => Ok(snapshot),
        None => sources.lake.snapshot().map(Arc::new).map_err(external),
    }
}

/// A failure of the lake, on its way through the engine.
pub(super) fn external(error: crate::store::LakeError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
