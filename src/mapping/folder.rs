//! The folder of the city's documents, file by file: one that cannot be used leaves what was in force of it, and the others alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::{Dictionary, Document, Mapper, UnitCheck};
use crate::model::Catalogue;

/// The documents cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The folder.
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Everything that is wrong with them: file and problem.
    #[error("{}", problems.join("\n"))]
    Invalid { problems: Vec<String> },
}

/// A file of the folder.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentFile {
    /// Its name in the folder.
    pub file: String,
    /// What counts; none where the file could never be used.
    pub in_force: Option<InForce>,
    /// What is wrong with the file as it is now. Where something is, what counts is what it held before.
    pub problems: Vec<String>,
}

/// A document that counts.
#[derive(Clone, Debug, PartialEq)]
pub struct InForce {
    /// SHA-256 of the file that it was read from, in hexadecimal digits.
    pub digest: String,
    /// The document.
    pub document: Document,
}

/// The city's mappings, and the [`Mapper`] that goes by them.
#[derive(Debug)]
pub struct Mappings {
    folder: Option<PathBuf>,
    catalogue: Arc<Catalogue>,
    fits: UnitCheck,
    mapper: Arc<Mapper>,
    files: Mutex<Vec<DocumentFile>>,
}

impl Mappings {
    /// Reads the folder, if there is one; everything in it must be sound.
    pub fn open(folder: Option<PathBuf>, catalogue: Arc<Catalogue>, fits: UnitCheck) -> Result<Self, DocumentError> {
        let mapper = Arc::new(Mapper::new(Dictionary::built_in(), Vec::new()));
        let mappings = Self { folder, catalogue, fits, mapper, files: Mutex::default() };
        let files = mappings.reload()?;
        let problems: Vec<String> =
            files.iter().flat_map(|file| file.problems.iter().map(|problem| format!("{}: {problem}", file.file))).collect();
        if problems.is_empty() { Ok(mappings) } else { Err(DocumentError::Invalid { problems }) }
    }

    /// What goes by them.
    pub fn mapper(&self) -> &Arc<Mapper> {
        &self.mapper
    }

    /// The folder, if there is one.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The files, in the order in which they are looked at.
    pub fn files(&self) -> Vec<DocumentFile> {
        self.files.lock().clone()
    }

    /// Reads every `.json` of the folder, in the order of their names, and puts in force what can be used, from the next message on.
    pub fn reload(&self) -> Result<Vec<DocumentFile>, DocumentError> {
        let Some(folder) = &self.folder else { return Ok(Vec::new()) };
        // Two that read at once put the older look in force last.
        let mut files = self.files.lock();
        let unreadable = |source| DocumentError::Unreadable { path: folder.clone(), source };
        let entries = std::fs::read_dir(folder).map_err(unreadable)?;
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        *files = paths.iter().map(|path| self.read(path, &files)).collect();
        self.mapper.replace(files.iter().filter_map(|file| Some(file.in_force.as_ref()?.document.clone())).collect());
        Ok(files.clone())
    }

    fn read(&self, path: &Path, before: &[DocumentFile]) -> DocumentFile {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let parsed = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot be read: {error}"))
            .and_then(|text| Ok((serde_json::from_str::<Document>(&text).map_err(|error| error.to_string())?, text)));
        let (document, problems) = match parsed {
            Ok((document, text)) => {
                let problems = document.problems(&self.catalogue, self.mapper.dictionary(), self.fits);
                (problems.is_empty().then(|| InForce { digest: hexadecimal(&Sha256::digest(text)), document }), problems)
            }
            Err(problem) => (None, vec![problem]),
        };
        let in_force = document.or_else(|| before.iter().find(|other| other.file == file)?.in_force.clone());
        DocumentFile { file, in_force, problems }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(unit: &str, _canonical: &str) -> Option<String> {
        unit.contains('°').then(|| "not a UCUM unit".to_owned())
    }

    fn open(folder: &Path) -> Result<Mappings, DocumentError> {
        Mappings::open(Some(folder.to_owned()), Arc::new(Catalogue::built_in()), fits)
    }

    fn told(files: &[DocumentFile]) -> Vec<String> {
        let one = |file: &DocumentFile| {
            let name = file.in_force.as_ref().map_or("-", |in_force| in_force.document.id.as_str());
            format!("{} {name} {}", file.file, file.problems.join("; "))
        };
        files.iter().map(one).collect()
    }

    #[test]
    fn all_must_be_sound_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
        write("a.json", r#"{"id": "a", "fields": [{"path": "t", "property": "temperature"}]}"#);
        write("notes.txt", "nothing of ours");
        assert_eq!(told(&open(folder.path()).unwrap().files()), ["a.json a "]);
        write(
            "b.json",
            r#"{"id": "b", "fields": [{"path": "t", "property": "temprature", "scale": 0},
                {"path": "u", "property": "temperature", "unit": "° x", "when": [{"field": "v"}]},
                {"path": "d", "property": "door", "words": {"half": 2, "ajar": "ajar", "open": 1, "shut": "closed"}},
                {"path": "g", "property": "no2", "unit": "ppb"}, {"path": "w", "property": "rain", "words": {"wet": "wet"}}]}"#,
        );
        write("c.json", "{");
        assert_eq!(
            open(folder.path()).unwrap_err().to_string().lines().collect::<Vec<_>>(),
            [
                "b.json: /fields/0/property: \"temprature\" is not in the catalogue",
                "b.json: /fields/0/scale: no number is left by a scale of zero",
                "b.json: /fields/1/unit: \"° x\" cannot become \"Cel\", the unit of temperature: not a UCUM unit",
                "b.json: /fields/1/when: asks nothing: equals, above, below or present",
                "b.json: /fields/2/words: \"ajar\" would be what the property never is",
                "b.json: /fields/2/words: \"half\" would be what the property never is",
                "b.json: /fields/4/words: \"wet\" would be what the property never is",
                "c.json: EOF while parsing an object at line 1 column 1",
            ]
        );
        assert!(matches!(open(&folder.path().join("none")), Err(DocumentError::Unreadable { .. })));
    }

    #[test]
    fn a_faulty_file_leaves_what_it_held_before_and_the_others_alone() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
        write("a.json", r#"{"id": "a1", "fields": []}"#);
        let mappings = open(folder.path()).unwrap();
        let digest = |files: &[DocumentFile]| files[0].in_force.clone().unwrap().digest;
        let first = digest(&mappings.files());
        assert_eq!(first, hexadecimal(&Sha256::digest(r#"{"id": "a1", "fields": []}"#)));
        write("a.json", r#"{"id": "a2", "fields": [], "x": 1}"#);
        write("b.json", r#"{"id": "b", "fields": []}"#);
        write("c.json", "");
        let files = mappings.reload().unwrap();
        assert_eq!(
            told(&files),
            [
                "a.json a1 unknown field `x`, expected one of `id`, `applies`, `fields` at line 1 column 30",
                "b.json b ",
                "c.json - EOF while parsing a value at line 1 column 0"
            ]
        );
        assert_eq!((digest(&files), files), (first.clone(), mappings.files()));
        write("a.json", r#"{"id": "a3", "fields": []}"#);
        std::fs::remove_file(folder.path().join("b.json")).unwrap();
        let files = mappings.reload().unwrap();
        assert_eq!(told(&files), ["a.json a3 ", "c.json - EOF while parsing a value at line 1 column 0"]);
        assert_ne!(digest(&files), first);
    }
}
