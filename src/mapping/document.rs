//! A city's own mappings: JSON documents in a folder, each about some sources, decoders or models.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Dictionary;
use crate::decode::Decoder;
use crate::model::Catalogue;

/// Files of documents about data models and feeds that state what their fields are. A city's own go before them.
const BUILT_IN: [&str; 2] =
    [include_str!("../../schemas/mappings/smart-data-models.json"), include_str!("../../schemas/mappings/feeds.json")];

/// How the fields of some devices are to be understood.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Its name, for people.
    pub id: String,
    /// Whose fields.
    #[serde(default)]
    pub applies: Applies,
    /// The first that fits a field counts.
    pub fields: Vec<FieldRule>,
}

/// Whose fields a document is about: whoever fits all that is given. Texts are patterns in which `*` stands for anything; case does not matter.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Applies {
    /// The source's name.
    pub source: Option<String>,
    /// The payload family.
    pub decoder: Option<Decoder>,
    /// The device's model, profile or entity type; its kind, where messages tell none.
    pub model: Option<String>,
}

/// What a field is.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldRule {
    /// The field's path, levels joined by `.`; `*` stands for anything. Case does not matter.
    pub path: String,
    /// The property's id in the catalogue. Left out: the field is ignored.
    pub property: Option<String>,
    /// Its unit, whatever the sender says: a UCUM code or a usual spelling. Left out: what the sender says, else the usual one, where there is one.
    pub unit: Option<String>,
    /// Its unit where the sender names none, a UCUM code or a usual spelling. Where the sender names one, its number is taken as it is.
    pub assumed_unit: Option<String>,
    /// The number is multiplied by this…
    #[serde(default = "one")]
    pub scale: f64,
    /// …then this is added.
    #[serde(default)]
    pub offset: f64,
    /// Numbers that stand for "not measured": -200, 65535.
    #[serde(default)]
    pub missing: Vec<f64>,
}

fn one() -> f64 {
    1.0
}

/// The documents cannot be used; none of them is.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The folder or a file in it.
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

impl Document {
    /// The built-in ones.
    pub fn built_in() -> Vec<Self> {
        let documents = BUILT_IN.iter().map(|text| serde_json::from_str::<Vec<Self>>(text).expect("they are tested"));
        documents.flatten().collect()
    }

    /// The JSON Schema of a file.
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }

    /// Reads every `.json` of a folder, in the order of their names, and holds them against the catalogue.
    pub fn load(folder: &Path, catalogue: &Catalogue, dictionary: &Dictionary) -> Result<Vec<Self>, DocumentError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |source| DocumentError::Unreadable { path, source }
        };
        let entries = std::fs::read_dir(folder).map_err(unreadable(folder))?;
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(unreadable(folder))?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        let (mut documents, mut problems) = (Vec::new(), Vec::new());
        for path in paths {
            let text = std::fs::read_to_string(&path).map_err(unreadable(&path))?;
            match serde_json::from_str::<Self>(&text) {
                Ok(document) => {
                    problems.extend(document.problems(catalogue, dictionary).map(|problem| format!("{}: {problem}", path.display())));
                    documents.push(document);
                }
                Err(error) => problems.push(format!("{}: {error}", path.display())),
            }
        }
        if problems.is_empty() { Ok(documents) } else { Err(DocumentError::Invalid { problems }) }
    }

    fn problems<'a>(&'a self, catalogue: &'a Catalogue, dictionary: &'a Dictionary) -> impl Iterator<Item = String> + 'a {
        self.fields.iter().enumerate().flat_map(move |(index, field)| {
            let property = field.property.as_ref().filter(|property| catalogue.find(property).is_none());
            let unknown = property.map(|property| format!("/fields/{index}/property: {property:?} is not in the catalogue"));
            let numbers = [field.scale, field.offset].iter().chain(&field.missing).all(|number| number.is_finite()) && field.scale != 0.0;
            let number = (!numbers).then(|| format!("/fields/{index}: numbers are finite, and no scale is zero"));
            let unit = [("unit", &field.unit), ("assumed_unit", &field.assumed_unit)].into_iter().find_map(|(key, unit)| {
                let unit = unit.as_deref().filter(|unit| !is_ucum(&dictionary.unit(unit)))?;
                Some(format!("/fields/{index}/{key}: {unit:?} is neither a UCUM code nor a usual spelling"))
            });
            [unknown, number, unit].into_iter().flatten()
        })
    }
}

/// Whether a text has the form of a UCUM code; whether it is one, its first use tells.
fn is_ucum(unit: &str) -> bool {
    !unit.is_empty() && unit.len() <= 40 && unit.bytes().all(|byte| byte.is_ascii_graphic())
}

impl Applies {
    pub(super) fn fits(&self, source: &str, decoder: Decoder, model: &str) -> bool {
        self.source.as_deref().is_none_or(|pattern| matches(pattern, source))
            && self.decoder.is_none_or(|wanted| wanted == decoder)
            && self.model.as_deref().is_none_or(|pattern| matches(pattern, model))
    }
}

impl FieldRule {
    pub(super) fn fits(&self, field: &str) -> bool {
        matches(&self.path, field)
    }
}

/// Whether a text fits a pattern in which `*` stands for anything, whatever the case of ASCII letters. Linear in the text
/// for each star: only the last one is ever tried again.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        match (pattern.get(at), text.get(from)) {
            (Some(b'*'), _) => {
                star = Some((at, from));
                at += 1;
            }
            (Some(wanted), Some(found)) if wanted.eq_ignore_ascii_case(found) => {
                at += 1;
                from += 1;
            }
            _ => match star {
                Some((star_at, star_from)) => {
                    star = Some((star_at, star_from + 1));
                    (at, from) = (star_at + 1, star_from + 1);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(at).all(|rest| *rest == b'*')
}

#[cfg(test)]
mod tests {
    use super::{Document, matches};
    use crate::mapping::Dictionary;
    use crate::model::Catalogue;

    #[test]
    fn built_in_documents_fit_the_catalogue() {
        let (catalogue, dictionary) = (Catalogue::built_in(), Dictionary::built_in());
        for document in Document::built_in() {
            assert_eq!(document.problems(&catalogue, &dictionary).collect::<Vec<_>>(), Vec::<String>::new(), "{}", document.id);
        }
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "AC", true),
            ("a*c", "abcd", false),
            ("*.temp*", "data.Temp_SHT", true),
            ("**", "x", true),
            ("", "x", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
