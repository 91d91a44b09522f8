//! The whole system at once, for a first look: an embedded broker, a simulated city, the service.

use tokio_util::sync::CancellationToken;

/// How the demo runs.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {}

/// Runs until `stop`.
pub async fn run(_options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    stop.cancelled().await;
    Ok(())
}
