//! The city's mappings: read at the start, and again whenever a file in their folder changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::mapping::{Dictionary, Document, DocumentError, Mapper};
use crate::model::Catalogue;

/// How often the folder is looked at.
const EVERY: Duration = Duration::from_secs(2);

/// What a change of the folder shows in: name, length and time of change of each file.
type Look = Vec<(PathBuf, u64, Option<SystemTime>)>;

/// Reads the folder, if there is one.
pub(super) fn load(folder: Option<&Path>, catalogue: &Catalogue) -> Result<Vec<Document>, DocumentError> {
    folder.map_or(Ok(Vec::new()), |folder| Document::load(folder, catalogue, &Dictionary::built_in()))
}

/// Puts the folder's documents in force whenever it changes, until `stop`. Documents that cannot be used are refused as a
/// whole, and those before stay.
pub(super) async fn watch(folder: PathBuf, catalogue: Arc<Catalogue>, mapper: Arc<Mapper>, stop: CancellationToken) {
    let mut before = look(&folder);
    while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        let now = look(&folder);
        if now == before {
            continue;
        }
        before = now;
        match load(Some(&folder), &catalogue) {
            Ok(documents) => {
                tracing::info!(documents = documents.len(), "mappings are taken up");
                mapper.replace(documents);
            }
            Err(error) => tracing::error!(error = crate::error_chain(&error), "mappings cannot be used, those before stay"),
        }
    }
}

/// A folder that cannot be looked at is empty: reading it will say why.
fn look(folder: &Path) -> Look {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut look: Look = entries
        .filter_map(|entry| {
            let facts = entry.metadata().ok()?;
            Some((entry.path(), facts.len(), facts.modified().ok()))
        })
        .collect();
    look.sort();
    look
}
