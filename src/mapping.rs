//! From the sender's words to those of the catalogue: which field is which property, in which unit. Pure.
//!
//! Fields are looked up in the city's own [`Document`]s first, then in the built-in [`Dictionary`] of names that vendors and
//! data models use. A field whose unit is ambiguous is not guessed; what no rule knows is [`Unmapped`], and costs nothing of
//! the fields beside it. What a lookup gave is remembered, so that a known field costs one look.
//!
//! Not here: whether a unit fits its property, and conversion; that is the work of [`crate::normalise`], except for gases,
//! whose mixing ratio becomes a concentration by their molar mass.

mod dictionary;
mod document;

use std::borrow::Cow;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use parking_lot::RwLock;

pub use dictionary::{Confidence, Dictionary};
pub use document::{Applies, Document, DocumentError, FieldRule};

use crate::decode::Decoder;
use crate::model::{Reading, Readings, SourceName, Unmapped, Value, Vocabulary, Why};

/// Lookups that are remembered, twice: more than a city's kinds of device have fields. A sender that invents names makes those be forgotten
/// that nobody uses.
const REMEMBERED_MAX: usize = 16_384;

/// Turns readings in their senders' words into readings in the catalogue's.
#[derive(Debug)]
pub struct Mapper {
    dictionary: Dictionary,
    built_in: Vec<Document>,
    rules: RwLock<Rules>,
}

#[derive(Debug, Default)]
struct Rules {
    documents: Arc<Vec<Document>>,
    remembered: HashMap<Key, Arc<Rule>>,
    /// Those of the time before, until they are used again or it was long ago.
    before: HashMap<Key, Arc<Rule>>,
}

/// What a rule depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    source: String,
    decoder: Decoder,
    /// The model, or the kind where the message tells none.
    model: String,
    field: String,
}

/// What is to be done with a field.
#[derive(Clone, Debug, PartialEq)]
enum Rule {
    Map(Target),
    Ignore,
    Unmapped(Why),
}

/// Which property a field is, and how its number becomes one in a unit that UCUM knows.
#[derive(Clone, Debug, PartialEq)]
struct Target {
    property: String,
    /// The unit, where the sender names none, or whatever it names.
    unit: UnitRule,
    scale: f64,
    offset: f64,
    /// What stands for "not measured".
    missing: Vec<f64>,
    /// Units by which it is known to be the property; none: any.
    only: Vec<String>,
    /// It is one of several channels by its name: one without a number goes before it.
    is_channel: bool,
    /// Where the device is in water, soil or a pipe, it is something else.
    is_of_air: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum UnitRule {
    /// Whatever the sender says.
    Always(String),
    /// Where the sender says nothing.
    Default(String),
    /// Where the sender says nothing; what it says is taken as it is.
    Assumed(String),
    /// The sender must say it.
    Needed,
}

impl Mapper {
    /// Knows the built-in dictionary and the city's documents, the first that fits a field counts.
    pub fn new(dictionary: Dictionary, documents: Vec<Document>) -> Self {
        Self {
            dictionary,
            built_in: Document::built_in(),
            rules: RwLock::new(Rules { documents: Arc::new(documents), ..Rules::default() }),
        }
    }

    /// The city's documents that are in force.
    pub fn documents(&self) -> Vec<Document> {
        self.rules.read().documents.to_vec()
    }

    /// Puts other documents in force, from the next message on.
    pub fn replace(&self, documents: Vec<Document>) {
        *self.rules.write() = Rules { documents: Arc::new(documents), ..Rules::default() };
    }

    /// Names what it knows by the catalogue; what it does not know is added to `unmapped`.
    pub fn map<'a>(&self, source: &SourceName, decoder: Decoder, readings: Readings<'a>, unmapped: &mut Vec<Unmapped>) -> Readings<'a> {
        let Vocabulary::Sender { model } = &readings.vocabulary else { return readings };
        let model = model.as_deref().unwrap_or(readings.kind.as_str()).to_owned();
        let mut mapped: Vec<Reading<'a>> = Vec::with_capacity(readings.readings.len());
        let mut spoken = HashSet::new();
        let mut settle = |outcome: Result<Reading<'a>, (Why, Reading<'a>)>| match outcome {
            // One field for one property at one time: which of two is meant cannot be known.
            Ok(reading) if !spoken.insert((reading.name.to_string(), reading.time)) => {
                unmapped.push(Unmapped::of(&readings.device, decoder.as_str(), &model, &reading, Why::FurtherField));
            }
            Ok(reading) => mapped.push(reading),
            Err((why, reading)) => unmapped.push(Unmapped::of(&readings.device, decoder.as_str(), &model, &reading, why)),
        };
        let mut channels = Vec::new();
        let is_immersed = readings.readings.iter().any(|reading| self.dictionary.is_immersed(&reading.name, reading.unit.as_deref()));
        for reading in readings.readings {
            let key = Key { source: source.to_string(), decoder, model: model.clone(), field: reading.name.to_string() };
            let rule = self.rule(key);
            match &*rule {
                Rule::Ignore => {}
                Rule::Unmapped(why) => settle(Err((*why, reading))),
                Rule::Map(target) if is_immersed && target.is_of_air => settle(Err((Why::AmbiguousMedium, reading))),
                Rule::Map(target) if target.is_missing(&reading.value) => {}
                Rule::Map(target) if target.is_channel => channels.push(self.apply(target, reading)),
                Rule::Map(target) => settle(self.apply(target, reading)),
            }
        }
        channels.into_iter().for_each(settle);
        Readings { vocabulary: Vocabulary::Catalogue, readings: mapped, ..readings }
    }

    fn rule(&self, key: Key) -> Arc<Rule> {
        let (documents, before) = {
            let rules = self.rules.read();
            if let Some(rule) = rules.remembered.get(&key) {
                return Arc::clone(rule);
            }
            (Arc::clone(&rules.documents), rules.before.get(&key).map(Arc::clone))
        };
        // Worked out while others go on.
        let rule = before.unwrap_or_else(|| Arc::new(self.work_out(&documents, &key)));
        let mut rules = self.rules.write();
        // Documents that were replaced meanwhile say something else.
        if Arc::ptr_eq(&rules.documents, &documents) {
            if rules.remembered.len() >= REMEMBERED_MAX {
                rules.before = std::mem::take(&mut rules.remembered);
            }
            rules.remembered.insert(key, Arc::clone(&rule));
        }
        rule
    }

    fn work_out(&self, documents: &[Document], key: &Key) -> Rule {
        let fitting = documents.iter().chain(&self.built_in).filter(|document| document.applies.fits(&key.source, key.decoder, &key.model));
        if let Some(field) = fitting.flat_map(|document| &document.fields).find(|field| field.fits(&key.field)) {
            let Some(property) = &field.property else { return Rule::Ignore };
            let (default, _confidence) = self.dictionary.default_unit(property);
            let unit = match (&field.unit, &field.assumed_unit, default) {
                (Some(unit), ..) => UnitRule::Always(self.dictionary.unit(unit).into_owned()),
                (None, Some(unit), _) => UnitRule::Assumed(self.dictionary.unit(unit).into_owned()),
                (None, None, Some(unit)) => UnitRule::Default(unit.to_owned()),
                (None, None, None) => UnitRule::Needed,
            };
            let (property, missing) = (property.clone(), field.missing.clone());
            let (scale, offset) = (field.scale, field.offset);
            return Rule::Map(Target { property, unit, scale, offset, missing, only: Vec::new(), is_channel: false, is_of_air: false });
        }
        match self.dictionary.find(&key.field) {
            dictionary::Found::Property { property, unit, only, is_channel } => {
                let unit = unit.map_or(UnitRule::Needed, |unit| UnitRule::Default(unit.to_owned()));
                let (property, only) = (property.to_owned(), only.to_vec());
                let is_of_air = property == "temperature" && !Dictionary::says_air(&key.field);
                Rule::Map(Target { property, unit, scale: 1.0, offset: 0.0, missing: Vec::new(), only, is_channel, is_of_air })
            }
            dictionary::Found::Ignored => Rule::Ignore,
            dictionary::Found::Channel => Rule::Unmapped(Why::FurtherField),
            dictionary::Found::Nothing => Rule::Unmapped(Why::Unknown),
        }
    }

    fn apply<'a>(&self, target: &Target, reading: Reading<'a>) -> Result<Reading<'a>, (Why, Reading<'a>)> {
        let Value::Number(number) = reading.value else {
            // A word is a state's; it has no unit.
            return Ok(Reading { name: Cow::Owned(target.property.clone()), unit: None, ..reading });
        };
        let said = reading.unit.as_deref().filter(|unit| !unit.trim().is_empty());
        let unit = match (&target.unit, said) {
            (UnitRule::Always(unit), _) | (UnitRule::Default(unit) | UnitRule::Assumed(unit), None) => Cow::Borrowed(unit.as_str()),
            (UnitRule::Default(_) | UnitRule::Assumed(_) | UnitRule::Needed, Some(said)) => self.dictionary.unit(said),
            (UnitRule::Needed, None) => return Err((Why::AmbiguousUnit, reading)),
        };
        if !target.only.is_empty() && !target.only.iter().any(|only| *only == unit) {
            return Err((Why::AmbiguousUnit, reading));
        }
        let is_as_it_is = matches!(target.unit, UnitRule::Assumed(_)) && said.is_some();
        let number = if is_as_it_is { number } else { number.mul_add(target.scale, target.offset) };
        let (number, unit) = match self.dictionary.concentration(&target.property, &unit) {
            Some(factor) => (number * factor, "ug/m3".to_owned()),
            None => (number, unit.into_owned()),
        };
        let (name, unit) = (Cow::Owned(target.property.clone()), Some(Cow::Owned(unit)));
        Ok(Reading { name, value: Value::Number(number), unit, ..reading })
    }
}

impl Target {
    fn is_missing(&self, value: &Value<'_>) -> bool {
        // What stands for it is written, not measured: it is equal to the last bit.
        matches!(value, Value::Number(number) if self.missing.iter().any(|missing| missing.to_bits() == number.to_bits()))
    }
}

#[cfg(test)]
mod tests;
