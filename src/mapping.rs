//! From the sender's words to those of the catalogue: which field is which property, in which unit. Pure.
//!
//! Fields are looked up in the city's own [`Document`]s first, then in the built-in ones, then in the built-in [`Dictionary`] of names
//! that vendors and data models use. A field whose unit is ambiguous is not guessed; what no rule knows is [`Unmapped`], and costs nothing
//! of the fields beside it. What a lookup gave is remembered, so that a known field costs one look; conditions on other fields are held
//! against each message. Of several probes of one device each is a channel, a device of its own name: `<device>:<channel>`.
//!
//! Not here: whether a unit fits its property, and conversion; that is the work of [`crate::normalise`], which a document's units are held
//! against when it is read. Except for gases, whose mixing ratio becomes a concentration by their molar mass.

mod condition;
mod dictionary;
mod document;
mod folder;

use std::borrow::Cow;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use parking_lot::RwLock;

pub use condition::{Condition, Literal};
use dictionary::Channel;
pub use dictionary::{Confidence, Dictionary};
pub use document::{Applies, Document, FieldRule, Meaning};
pub use folder::{DocumentError, DocumentFile, InForce, Mappings};

use crate::decode::Decoder;
use crate::model::{Catalogue, DeviceId, DeviceKind, Kind, Reading, Readings, SourceName, Unmapped, Value, Vocabulary, Why};

/// Why a unit, a UCUM code, cannot become another one; none where it can.
pub type UnitCheck = fn(unit: &str, canonical: &str) -> Option<String>;

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
    remembered: HashMap<Key, Arc<Cases>>,
    /// Those of the time before, until they are used again or it was long ago.
    before: HashMap<Key, Arc<Cases>>,
}

/// What cases depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    source: String,
    decoder: Decoder,
    /// The model, or the kind where the message tells none.
    model: String,
    field: String,
}

/// What may be done with a field: the first that a message fulfils counts.
#[derive(Debug)]
struct Cases {
    conditional: Vec<Case>,
    /// Where none of them does.
    otherwise: Arc<Rule>,
}

/// What is done with a field in some messages.
#[derive(Debug)]
struct Case {
    /// Patterns.
    device: Option<String>,
    kind: Option<String>,
    when: Vec<Condition>,
    rule: Arc<Rule>,
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
    /// What words mean, and numbers that are codes: by their text in small letters.
    words: HashMap<String, Meaning>,
    /// Units by which it is known to be the property; none: any.
    only: Vec<String>,
    /// Which of several it is.
    channel: Option<Channel>,
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

    fn dictionary(&self) -> &Dictionary {
        &self.dictionary
    }

    /// Puts other documents in force, from the next message on.
    pub fn replace(&self, documents: Vec<Document>) {
        *self.rules.write() = Rules { documents: Arc::new(documents), ..Rules::default() };
    }

    /// Names what it knows by the catalogue: the device's own, then that of each of its channels, `<device>:<channel>`. What it does not
    /// know is added to `unmapped`.
    pub fn map<'a>(
        &self,
        source: &SourceName,
        decoder: Decoder,
        mut readings: Readings<'a>,
        unmapped: &mut Vec<Unmapped>,
    ) -> Vec<Readings<'a>> {
        let Vocabulary::Sender { model } = &readings.vocabulary else { return vec![readings] };
        let model = model.as_deref().unwrap_or(readings.kind.as_str()).to_owned();
        let fields = std::mem::take(&mut readings.readings);
        let mut rules: Vec<Arc<Rule>> = fields
            .iter()
            .map(|reading| {
                let key = Key { source: source.to_string(), decoder, model: model.clone(), field: reading.name.to_string() };
                Arc::clone(self.cases(key).choose(&readings.device, &readings.kind, reading, &fields))
            })
            .collect();
        self.mind_the_medium(&fields, &mut rules);
        let mut own = Readings { vocabulary: Vocabulary::Catalogue, ..readings };
        let mut channels: Vec<(&str, Readings<'a>)> = Vec::new();
        let mut spoken = HashSet::new();
        for (reading, rule) in fields.into_iter().zip(&rules) {
            let mut leave = |why, reading| unmapped.push(Unmapped::of(&own.device, decoder.as_str(), &model, &reading, why));
            let target = match &**rule {
                Rule::Map(target) if target.is_missing(&reading.value) => continue,
                Rule::Map(target) => target,
                Rule::Ignore => continue,
                Rule::Unmapped(why) => {
                    leave(*why, reading);
                    continue;
                }
            };
            let channel = target.channel_among(&rules);
            let said = (channel, target.property.as_str(), reading.time);
            // One field for one property at one time: which of two is meant cannot be known.
            if spoken.contains(&said) {
                let why = self.apply(target, reading.clone()).err().map_or(Why::FurtherField, |(why, _reading)| why);
                leave(why, reading);
                continue;
            }
            let reading = match self.apply(target, reading) {
                Ok(reading) => reading,
                Err((why, reading)) => {
                    leave(why, reading);
                    continue;
                }
            };
            spoken.insert(said);
            let Some(channel) = channel else {
                own.readings.push(reading);
                continue;
            };
            if let Some((_known, readings)) = channels.iter_mut().find(|(known, _readings)| *known == channel) {
                readings.readings.push(reading);
            } else {
                let device = DeviceId::from_foreign(&format!("{}:{channel}", own.device));
                let (kind, domain, vocabulary) = (own.kind.clone(), own.domain, Vocabulary::Catalogue);
                channels.push((channel, Readings { device, kind, domain, vocabulary, readings: vec![reading] }));
            }
        }
        std::iter::once(own).chain(channels.into_iter().map(|(_channel, readings)| readings)).collect()
    }

    /// A temperature beside what is measured in water, soil or a pipe is not that of the air; beside what is measured in water alone, it is
    /// the water's.
    fn mind_the_medium(&self, fields: &[Reading<'_>], rules: &mut [Arc<Rule>]) {
        if !fields.iter().any(|reading| self.dictionary.is_immersed(&reading.name, reading.unit.as_deref())) {
            return;
        }
        let is_about_air = rules.iter().any(|rule| matches!(&**rule, Rule::Map(target) if target.property == "humidity"));
        let is_in_water = !is_about_air && fields.iter().any(|reading| self.dictionary.is_in_water(&reading.name));
        for rule in rules {
            let Rule::Map(target) = &**rule else { continue };
            if target.is_of_air {
                let of_water = || Rule::Map(Target { property: "water_temperature".to_owned(), is_of_air: false, ..target.clone() });
                *rule = Arc::new(if is_in_water { of_water() } else { Rule::Unmapped(Why::AmbiguousMedium) });
            }
        }
    }

    /// Whether a field that was left for a reason, [`Why`]'s word, need no longer be missed: a document of the city has a word on it
    /// by now, or the built-in ones know what nobody knew.
    pub fn knows(&self, source: &str, decoder: &str, model: &str, field: &str, why: &str) -> bool {
        let Some(decoder) = Decoder::parse(decoder) else { return false };
        let documents = Arc::clone(&self.rules.read().documents);
        let speaks =
            |document: &Document| document.applies.fits(source, decoder, model) && document.fields.iter().any(|rule| rule.fits(field));
        let key = Key { source: source.to_owned(), decoder, model: model.to_owned(), field: field.to_owned() };
        let is_known = || !matches!(*self.work_out(&[], &key).otherwise, Rule::Unmapped(_));
        documents.iter().any(speaks) || (why == Why::Unknown.as_str() && is_known())
    }

    /// A document that an operator may begin with: it takes a field that was left for the property that its name is closest to, in the
    /// unit of the catalogue where the sender names none; where its name is close to none, it ignores the field.
    pub fn suggest(&self, source: &str, decoder: &str, model: &str, field: &str, catalogue: &Catalogue) -> Document {
        let found = self.dictionary.closest(field).and_then(|property| catalogue.find(property)).map(|index| catalogue.get(index));
        let assumed_unit = found.filter(|property| property.kind != Kind::State).map(|property| property.unit.clone());
        let rule = FieldRule { property: found.map(|property| property.id.clone()), assumed_unit, ..FieldRule::ignoring(field) };
        let (source, model_pattern) = (Some(source.to_owned()), Some(model.to_owned()));
        let applies = Applies { source, decoder: Decoder::parse(decoder), model: model_pattern, ..Applies::default() };
        Document { id: model.to_owned(), applies, fields: vec![rule] }
    }

    fn cases(&self, key: Key) -> Arc<Cases> {
        let (documents, before) = {
            let rules = self.rules.read();
            if let Some(cases) = rules.remembered.get(&key) {
                return Arc::clone(cases);
            }
            (Arc::clone(&rules.documents), rules.before.get(&key).map(Arc::clone))
        };
        // Worked out while others go on.
        let cases = before.unwrap_or_else(|| Arc::new(self.work_out(&documents, &key)));
        let mut rules = self.rules.write();
        // Documents that were replaced meanwhile say something else.
        if Arc::ptr_eq(&rules.documents, &documents) {
            if rules.remembered.len() >= REMEMBERED_MAX {
                rules.before = std::mem::take(&mut rules.remembered);
            }
            rules.remembered.insert(key, Arc::clone(&cases));
        }
        cases
    }

    fn work_out(&self, documents: &[Document], key: &Key) -> Cases {
        let mut conditional = Vec::new();
        for document in documents.iter().chain(&self.built_in) {
            let applies = &document.applies;
            if !applies.fits(&key.source, key.decoder, &key.model) {
                continue;
            }
            for field in document.fields.iter().filter(|field| field.fits(&key.field)) {
                let rule = Arc::new(self.stated(field, &key.field));
                if applies.device.is_none() && applies.kind.is_none() && field.when.is_empty() {
                    return Cases { conditional, otherwise: rule };
                }
                conditional.push(Case { device: applies.device.clone(), kind: applies.kind.clone(), when: field.when.clone(), rule });
            }
        }
        Cases { conditional, otherwise: Arc::new(self.usual(key)) }
    }

    /// What a document says of a field.
    fn stated(&self, field: &FieldRule, path: &str) -> Rule {
        let Some(property) = &field.property else { return Rule::Ignore };
        let (default, _confidence) = self.dictionary.default_unit(property);
        let unit = match (&field.unit, &field.assumed_unit, default) {
            (Some(unit), ..) => UnitRule::Always(self.dictionary.unit(unit).into_owned()),
            (None, Some(unit), _) => UnitRule::Assumed(self.dictionary.unit(unit).into_owned()),
            (None, None, Some(unit)) => UnitRule::Default(unit.to_owned()),
            (None, None, None) => UnitRule::Needed,
        };
        let words = field.words.iter().map(|(word, meaning)| (word.to_lowercase(), meaning.clone())).collect();
        let (property, missing, scale, offset) = (property.clone(), field.missing.clone(), field.scale, field.offset);
        let channel = field.channel_of(path).map(|name| Channel { name, may_be_only: false });
        Rule::Map(Target { property, unit, scale, offset, missing, words, channel, only: Vec::new(), is_of_air: false })
    }

    /// What the dictionary says of it.
    fn usual(&self, key: &Key) -> Rule {
        match self.dictionary.find(&key.field) {
            dictionary::Found::Property { property, unit, only, channel } => {
                let unit = unit.map_or(UnitRule::Needed, |unit| UnitRule::Default(unit.to_owned()));
                let (property, only) = (property.to_owned(), only.to_vec());
                let is_of_air = property == "temperature" && !Dictionary::says_air(&key.field);
                let (missing, words) = (Vec::new(), HashMap::new());
                Rule::Map(Target { property, unit, scale: 1.0, offset: 0.0, missing, words, channel, only, is_of_air })
            }
            dictionary::Found::Ignored => Rule::Ignore,
            dictionary::Found::Far => Rule::Unmapped(Why::FurtherField),
            dictionary::Found::Nothing => Rule::Unmapped(Why::Unknown),
        }
    }

    fn apply<'a>(&self, target: &Target, reading: Reading<'a>) -> Result<Reading<'a>, (Why, Reading<'a>)> {
        let name = || Cow::Owned(target.property.clone());
        let number = match (target.meaning(&reading.value), &reading.value) {
            (Some(Meaning::Number(number)), _) => {
                let unit = match &target.unit {
                    UnitRule::Always(unit) | UnitRule::Default(unit) | UnitRule::Assumed(unit) => Some(Cow::Owned(unit.clone())),
                    UnitRule::Needed => None,
                };
                return Ok(Reading { name: name(), value: Value::Number(*number), unit, ..reading });
            }
            (Some(Meaning::State(state)), _) => {
                return Ok(Reading { name: name(), value: Value::Word(Cow::Owned(state.clone())), unit: None, ..reading });
            }
            // Not even a number would be taken: `POWER: "ON"` is no power.
            (None, Value::Word(_)) if target.unit == UnitRule::Needed && self.dictionary.needs_unit(&target.property) => {
                return Err((Why::AmbiguousUnit, reading));
            }
            // A word is a state's; it has no unit.
            (None, Value::Word(_)) => return Ok(Reading { name: name(), unit: None, ..reading }),
            (None, Value::Number(number)) => *number,
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
        Ok(Reading { name: name(), value: Value::Number(number), unit: Some(Cow::Owned(unit)), ..reading })
    }
}

impl Cases {
    fn choose(&self, device: &DeviceId, kind: &DeviceKind, mapped: &Reading<'_>, readings: &[Reading<'_>]) -> &Arc<Rule> {
        let is_fulfilled = |case: &&Case| {
            case.device.as_deref().is_none_or(|pattern| document::matches(pattern, device.as_str()))
                && case.kind.as_deref().is_none_or(|pattern| document::matches(pattern, kind.as_str()))
                && case.when.iter().all(|condition| condition.holds(mapped, readings))
        };
        self.conditional.iter().find(is_fulfilled).map_or(&self.otherwise, |case| &case.rule)
    }
}

impl Target {
    /// Its channel, in a message whose fields have these rules.
    fn channel_among(&self, rules: &[Arc<Rule>]) -> Option<&str> {
        let channel = self.channel.as_ref()?;
        let is_rival = |rule: &Arc<Rule>| match &**rule {
            Rule::Map(other) => {
                let may_be_device = other.channel.as_ref().is_none_or(|channel| channel.may_be_only);
                other.property == self.property && other.channel != self.channel && may_be_device
            }
            Rule::Ignore | Rule::Unmapped(_) => false,
        };
        if channel.may_be_only && !rules.iter().any(is_rival) { None } else { Some(&channel.name) }
    }

    fn is_missing(&self, value: &Value<'_>) -> bool {
        // What stands for it is written, not measured: it is equal to the last bit.
        matches!(value, Value::Number(number) if self.missing.iter().any(|missing| missing.to_bits() == number.to_bits()))
    }

    /// What a value stands for, where it is no measurement.
    fn meaning(&self, value: &Value<'_>) -> Option<&Meaning> {
        if self.words.is_empty() {
            return None;
        }
        match value {
            Value::Word(word) => self.words.get(&word.trim().to_lowercase()),
            Value::Number(number) => self.words.get(&number.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
