//! `/metrics`: counters as they are, gauges taken at this moment.

use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::params::Params;
use super::problem::{Errors, Problem};
use super::{Context, Shared};
use crate::metrics::{LaneLabel, Metrics, SourceLabel};
use crate::state::disk_free;
use crate::store::LakeStatus;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(show_metrics))
}

/// Metrics for Prometheus.
///
/// As `OpenMetrics` text. Labels are sources, routes, reasons; never devices.
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses((status = 200, description = "OpenMetrics", content_type = "application/openmetrics-text", body = String), Errors)
)]
async fn show_metrics(State(shared): State<Shared>, params: Params) -> Result<Response, Problem> {
    params.none()?;
    let lake = shared.blocking(|context| context.lake.status()).await?;
    refresh(&shared.context, lake.as_ref());
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], shared.context.metrics.page()).into_response())
}

fn refresh(context: &Context, lake: Option<&LakeStatus>) {
    let metrics: &Metrics = &context.metrics;
    for source in &context.sources {
        let label = SourceLabel { source: source.name.to_string() };
        metrics.source_ready.get_or_create(&label).set(i64::from(source.is_ready()));
        metrics.source_connections.get_or_create(&label).set(gauge(source.connections.load(Ordering::Relaxed)));
        metrics.source_replies_dropped.get_or_create(&label).set(gauge(source.replies_dropped.load(Ordering::Relaxed)));
        metrics.source_broker_dropped.get_or_create(&label).set(gauge(source.broker_dropped.load(Ordering::Relaxed)));
    }
    metrics.queue_messages.set(gauge(context.waiting.get().0 as u64));
    metrics.intake_paused.set(i64::from(context.gate.pause().is_some()));
    let ((ordered, behind), bytes, devices) = {
        let state = context.database.live().read();
        (state.tail_rows, state.tail_bytes, state.devices.len())
    };
    for (lane, rows) in [("ordered", ordered), ("late", behind)] {
        metrics.log_rows.get_or_create(&LaneLabel { lane }).set(gauge(rows as u64));
    }
    metrics.log_bytes.set(gauge(bytes as u64));
    metrics.devices.set(gauge(devices as u64));
    metrics.devices_max.set(gauge(context.config.intake.devices_max as u64));
    metrics.alerts_active.set(gauge(context.desk.active_count() as u64));
    // What table and system do not tell stays as it was.
    if let Some(lake) = lake {
        metrics.lake_files.set(gauge(lake.files as u64));
        metrics.lake_bytes.set(gauge(lake.bytes));
        metrics.lake_rows.set(gauge(lake.rows));
    }
    if let Some(free) = disk_free(&context.config.node.data) {
        metrics.disk_free_bytes.set(gauge(free));
    }
    if let Some(bytes) = resident_bytes() {
        metrics.memory_bytes.set(gauge(bytes));
    }
    if let Some(seconds) = processor_seconds() {
        metrics.processor_seconds.set(seconds);
    }
}

fn gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Resident memory of the process; `None` where the system does not tell.
pub(super) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Processor time of the process so far, in user and system mode.
fn processor_seconds() -> Option<f64> {
    /// Linux tells it in hundredths of a second, whatever the kernel's own clock is (proc(5), `USER_HZ`).
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the program's name, may hold anything: fields count from its closing bracket on.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn linux_tells_what_the_process_takes() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(processor_seconds().is_some_and(|seconds| (0.0..10_000.0).contains(&seconds)));
    }
}
