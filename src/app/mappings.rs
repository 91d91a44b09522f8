//! The city's mappings are read again whenever a file in their folder changes, and what they know is no longer missed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::mapping::Mappings;
use crate::state::Database;

/// How often the folder is looked at.
const EVERY: Duration = Duration::from_secs(2);

/// What a change of the folder shows in: name, length and time of change of each file.
type Look = Vec<(PathBuf, u64, Option<SystemTime>)>;

/// Puts the folder's documents in force whenever it changes, until `stop`. Of a file that cannot be used, what was in force stays.
pub(super) async fn watch(mappings: Arc<Mappings>, database: Arc<Database>, stop: CancellationToken) {
    // A newer dictionary may know what an older one did not.
    forget_known(&mappings, &database);
    let Some(folder) = mappings.folder() else { return stop.cancelled().await };
    let mut before = look(folder);
    while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        let now = look(folder);
        if now == before {
            continue;
        }
        before = now;
        match mappings.reload() {
            Ok(files) => {
                for (file, problem) in files.iter().flat_map(|file| file.problems.iter().map(move |problem| (&file.file, problem))) {
                    tracing::error!(file, problem, "a mapping cannot be used, what it was before stays");
                }
                let documents = files.iter().filter(|file| file.in_force.is_some()).count();
                tracing::info!(documents, "mappings are taken up");
                forget_known(&mappings, &database);
            }
            Err(error) => tracing::error!(error = crate::error_chain(&error), "mappings cannot be read, those before stay"),
        }
    }
}

fn forget_known(mappings: &Mappings, database: &Database) {
    let mapper = mappings.mapper();
    let forgotten = database.turn().forget_unmapped(|row| mapper.knows(&row.source, &row.decoder, &row.model, &row.field, &row.why));
    match forgotten {
        Ok(forgotten) => tracing::debug!(forgotten, "fields that are mapped now are no longer listed"),
        Err(error) => tracing::warn!(error = crate::error_chain(&error), "fields that are mapped now are still listed"),
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

#[cfg(test)]
mod tests {
    use crate::mapping::{Dictionary, Document};
    use crate::model::Catalogue;
    use crate::normalise::unit_problem;

    #[test]
    fn built_in_documents_fit_the_catalogue() {
        let (catalogue, dictionary) = (Catalogue::built_in(), Dictionary::built_in());
        for document in Document::built_in() {
            assert_eq!(document.problems(&catalogue, &dictionary, unit_problem), Vec::<String>::new(), "{}", document.id);
        }
    }

    #[test]
    fn a_unit_of_another_dimension_is_told_before_any_message_comes() {
        let (catalogue, dictionary) = (Catalogue::built_in(), Dictionary::built_in());
        let text = r#"{"id": "x", "fields": [
            {"path": "a", "property": "temperature", "unit": "°F"}, {"path": "b", "property": "temperature", "unit": "kWh"},
            {"path": "c", "property": "rain", "assumed_unit": "furlongs"}, {"path": "d", "property": "no2", "unit": "ppb"},
            {"path": "e", "property": "noise", "unit": "dB(A)"}, {"path": "f", "property": "co2", "unit": "ug/m3"}]}"#;
        let document: Document = serde_json::from_str(text).unwrap();
        assert_eq!(
            document.problems(&catalogue, &dictionary, unit_problem),
            [
                "/fields/1/unit: \"kWh\" cannot become \"Cel\", the unit of temperature: a unit of another dimension",
                "/fields/2/assumed_unit: \"furlongs\" cannot become \"mm\", the unit of rain: not a UCUM unit",
                "/fields/5/unit: \"ug/m3\" cannot become \"[ppm]\", the unit of co2: a unit of another dimension",
            ]
        );
    }
}
