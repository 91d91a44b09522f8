//! What the pipeline does on this machine: publisher → Mosquitto → Conca, durable, and questions over what it stored.
//!
//! Prints Markdown tables; asserts nothing but that no message is lost, since machines are noisy. Run it with `tests/bench/run`.

mod decode;
mod history;
mod influxdb;
mod machine;
mod opening;
mod pipeline;
mod process;
mod questions;

use std::io::Write as _;

fn main() -> anyhow::Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |part: &str| asked.is_empty() || asked.iter().any(|asked| asked == part);
    if cfg!(debug_assertions) {
        say("Without optimisation these figures mean nothing: run it with tests/bench/run.")?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        say(&machine::description())?;
        if wanted("decode") {
            decode::families()?;
        }
        if wanted("throughput") {
            pipeline::throughput().await?;
        }
        if wanted("latency") {
            pipeline::latency().await?;
        }
        if wanted("opening") {
            opening::after_a_month().await?;
        }
        if wanted("history") {
            history::compare().await?;
        }
        Ok(())
    })
}

/// Prints a line.
fn say(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// The value below which this part of the sorted values lies.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index among the values")]
    let index = (last as f64 * part).ceil() as usize;
    sorted.get(index.min(last)).copied().unwrap_or(f64::NAN)
}
