//! The three forms of what a device says: message, reading, observation; and what can be wrong with it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::{DeviceId, DeviceKind, DistrictIndex, Domain, Position, PropertyIndex, SourceName, Timestamp};

/// MQTT quality of service of a received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// QoS 0: never delivered again, never acknowledged.
    AtMostOnce,
    /// QoS 1, under the packet identifier that a redelivery repeats (MQTT-4.4.0-1).
    AtLeastOnce(u16),
}

/// Bytes received on a topic.
#[derive(Clone, Debug)]
pub struct Message {
    /// Which configured source received it.
    pub source: SourceName,
    /// The topic; any UTF-8.
    pub topic: Arc<str>,
    /// The payload, as received.
    pub payload: Bytes,
    /// When it was received.
    pub received: Timestamp,
    /// How it was delivered.
    pub service: Service,
    /// Sent by the broker because it was retained: no sign of life of the device.
    pub retained: bool,
}

/// A decoded value in the sender's words and units, unchecked. Borrows from the payload where it can.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading<'a> {
    /// What the sender calls it, in the [`Vocabulary`] of its device: a property's id in Conca's catalogue, or the path of a
    /// field, levels joined by `.`.
    pub name: Cow<'a, str>,
    /// What was read.
    pub value: Value<'a>,
    /// The sender's unit as written; `None` where it names none.
    pub unit: Option<Cow<'a, str>>,
    /// Phenomenon time.
    pub time: Timestamp,
    /// Where, if the message says so.
    pub position: Option<Position>,
}

/// The value of a reading.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// A number, finite.
    Number(f64),
    /// The word for a state's code, or `true` and `false`.
    Word(Cow<'a, str>),
}

/// In whose words the readings of a device are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vocabulary<'a> {
    /// Ids of the catalogue; units are UCUM codes.
    Catalogue,
    /// The sender's own: a mapping says which field is which property.
    Sender {
        /// The device's model, profile or entity type, where the message tells it.
        model: Option<Cow<'a, str>>,
    },
}

/// What a decoder made of one message: by device, and what it could not read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded<'a> {
    /// In the order of the message. Without any reading, a message that is understood and says nothing: a join, a receipt.
    pub devices: Vec<Readings<'a>>,
    /// One for each reading that could not be decoded.
    pub faults: Vec<Fault>,
    /// What the sender is to be told.
    pub replies: Vec<Reply>,
}

/// A message to a sender, published at QoS 0: it may get lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Where to.
    pub topic: String,
    /// What.
    pub payload: Bytes,
}

/// The readings of one device in one message.
#[derive(Clone, Debug, PartialEq)]
pub struct Readings<'a> {
    /// Who speaks.
    pub device: DeviceId,
    /// What sort of device.
    pub kind: DeviceKind,
    /// Its part of city life, where the message tells it.
    pub domain: Option<Domain>,
    /// How the readings are named.
    pub vocabulary: Vocabulary<'a>,
    /// In the order of the message.
    pub readings: Vec<Reading<'a>>,
}

/// What is left of a message after normalisation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Normalised {
    /// Those devices that observed something, in the order of the message. A device may stand in it more than once.
    pub devices: Vec<DeviceObservations>,
    /// One for each reading that is refused.
    pub faults: Vec<Fault>,
    /// Fields that no rule knows: no readings, and nothing of the others is lost by them.
    pub unmapped: Vec<Unmapped>,
}

/// A field that no mapping turns into a reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmapped {
    /// The device that sent it.
    pub device: DeviceId,
    /// The payload family's word.
    pub decoder: &'static str,
    /// The device's model, or its kind where the message tells none; cut short.
    pub model: String,
    /// The field's path; cut short.
    pub field: String,
    /// What it held, cut short, with its unit.
    pub example: String,
    /// Why it is not mapped.
    pub why: Why,
}

/// Why a field is not mapped. The words are stored and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// In what it was measured is not known: a temperature beside the depth of water is not that of the air.
    AmbiguousMedium,
    /// No rule knows its name.
    Unknown,
    /// It is sent in several units, and this one does not say which.
    AmbiguousUnit,
    /// A further field of a property that another one is, and its name does not say of which channel.
    FurtherField,
}

impl Why {
    /// The word in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::AmbiguousUnit => "ambiguous-unit",
            Self::AmbiguousMedium => "ambiguous-medium",
            Self::FurtherField => "further-field",
        }
    }
}

impl Unmapped {
    /// The field of a reading.
    pub fn of(device: &DeviceId, decoder: &'static str, model: &str, reading: &Reading<'_>, why: Why) -> Self {
        const CHARACTERS_MAX: usize = 120;
        let cut = |text: &str| text.chars().take(CHARACTERS_MAX).collect::<String>();
        let value = match &reading.value {
            Value::Number(number) => number.to_string(),
            Value::Word(word) => word.to_string(),
        };
        let example = reading.unit.as_ref().map_or_else(|| cut(&value), |unit| cut(&format!("{value} {unit}")));
        // One field, at whatever place of a list.
        let is_place = |level: &str| !level.is_empty() && level.bytes().all(|byte| byte.is_ascii_digit());
        let levels = reading.name.split('.').map(|level| if is_place(level) { "*" } else { level });
        let field = cut(&levels.collect::<Vec<_>>().join("."));
        Self { device: device.clone(), decoder, model: cut(model), field, example, why }
    }
}

/// What one device observed, by one message.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceObservations {
    /// Who speaks.
    pub device: DeviceId,
    /// What sort of device.
    pub kind: DeviceKind,
    /// Its part of city life.
    pub domain: Domain,
    /// At least one, in the order of the message.
    pub observations: Vec<Observation>,
}

impl Normalised {
    /// Number of observations.
    pub fn observations(&self) -> usize {
        self.devices.iter().map(|device| device.observations.len()).sum()
    }
}

/// A reading in canonical unit and UTC, with place and quality. With the device of the [`DeviceObservations`] around it,
/// `property` and `time` are its identity.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// What is measured.
    pub property: PropertyIndex,
    /// Phenomenon time.
    pub time: Timestamp,
    /// Finite, in the property's canonical unit, rounded to its resolution.
    pub value: f64,
    /// What is suspect about it.
    pub flags: Flags,
    /// Where, if known.
    pub position: Option<Position>,
    /// The district that holds the position.
    pub district: Option<DistrictIndex>,
    /// What was sent, where that differs.
    pub original: Option<Box<Original>>,
}

/// A value as it was sent, where unit conversion changed it.
#[derive(Clone, Debug, PartialEq)]
pub struct Original {
    /// The number sent.
    pub value: f64,
    /// Its UCUM unit.
    pub unit: String,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// At least one reading was accepted, or the message is understood and has none.
    Accepted,
    /// Nothing was.
    Rejected,
    /// Its effects were already durable; or it was to be replayed from the quarantine, and is no longer there.
    Repeated,
}

/// What became of a message, for a sender that waits to hear it.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// In a word.
    pub settled: Settled,
    /// Observations that were taken.
    pub observations: usize,
    /// Why the rest was not.
    pub faults: Vec<Fault>,
}

/// A quarantined message that is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Its number in the quarantine.
    pub id: i64,
    /// Whether nothing of it was stored.
    pub whole: bool,
    /// Readings of it that the ledger counts as quarantined.
    pub readings: i64,
}

bitflags::bitflags! {
    /// Why an observation is suspect; none means trusted. The numbers are stored: never reuse one.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Flags: u16 {
        /// Outside the property's plausible range.
        const OUT_OF_RANGE = 1;
        /// Its time lies ahead of ours by more than clocks may differ.
        const FUTURE = 2;
        /// Its position lies outside every district's surroundings.
        const OFF_CITY = 4;
        /// A number that sensors send in place of a value.
        const ERROR_CODE = 8;
        /// The same value for longer than the property stays the same.
        const STUCK = 16;
        /// Far from the values before it, and no other reading confirms it.
        const SPIKE = 32;
        /// Changed faster than is plausible.
        const RATE = 64;
        /// Particles counted in air so humid that droplets are counted too.
        const HUMID = 128;
        /// Disagrees with the stations around.
        const NEIGHBOURS = 256;
        /// Older than its source is trusted to be.
        const PAST = 512;
        /// Its position is (0, 0), which receivers without a fix send.
        const NO_FIX = 1024;
        /// Its position lies off the city, and would not with longitude and latitude exchanged.
        const SWAPPED = 2048;
    }
}

impl Flags {
    /// Those that make a position incredible, not the value.
    pub const MISPLACED: Self = Self::OFF_CITY.union(Self::NO_FIX).union(Self::SWAPPED);

    /// Whether default answers count it.
    pub fn is_trusted(self) -> bool {
        self.is_empty()
    }

    /// Every flag with its name in answers.
    pub const NAMES: [(Self, &'static str); 12] = [
        (Self::OUT_OF_RANGE, "out-of-range"),
        (Self::FUTURE, "future"),
        (Self::OFF_CITY, "off-city"),
        (Self::ERROR_CODE, "error-code"),
        (Self::STUCK, "stuck"),
        (Self::SPIKE, "spike"),
        (Self::RATE, "rate"),
        (Self::HUMID, "humid"),
        (Self::NEIGHBOURS, "neighbours"),
        (Self::PAST, "past"),
        (Self::NO_FIX, "no-fix"),
        (Self::SWAPPED, "swapped"),
    ];

    /// The flags' names in answers.
    pub fn names(self) -> Vec<&'static str> {
        Self::NAMES.into_iter().filter_map(|(flag, name)| self.contains(flag).then_some(name)).collect()
    }
}

/// Why a message or a reading is refused. The words are stored and shown: never rename one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// No decoder is configured for the topic, or it is not of the decoder's form.
    Topic,
    /// The topic's device or kind is not an allowed name.
    Name,
    /// More bytes than a payload may have.
    TooLarge,
    /// More readings than a message may have.
    TooManyReadings,
    /// Nothing in it.
    Empty,
    /// Not UTF-8.
    NotUtf8,
    /// Not JSON.
    NotJson,
    /// Not of the family's form: a record of line protocol.
    Malformed,
    /// JSON, but not of the payload's shape.
    Shape,
    /// No time.
    MissingTime,
    /// Not a time.
    InvalidTime,
    /// A time further in the past or future than the source allows.
    AbsurdTime,
    /// Off the globe.
    InvalidPosition,
    /// Not in the catalogue.
    UnknownProperty,
    /// Not a finite number, or not a code of the state.
    InvalidValue,
    /// Not a UCUM unit.
    UnknownUnit,
    /// A unit of another dimension.
    WrongDimension,
    /// Of a form that is understood and not taken: an uplink whose bytes nobody decoded.
    Unsupported,
    /// Names what only a birth certificate explains, which is not known.
    BeforeBirth,
    /// No mapping knows any of its fields.
    Unmapped,
    /// The city already has as many devices as are allowed.
    TooManyDevices,
    /// A store that follows the log refuses it; the lake has it.
    RefusedByStore,
    /// Made the program panic: a fault of ours, reported as an error.
    Panic,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 23] = [
        Self::Topic,
        Self::Name,
        Self::TooLarge,
        Self::TooManyReadings,
        Self::Empty,
        Self::NotUtf8,
        Self::NotJson,
        Self::Malformed,
        Self::Shape,
        Self::MissingTime,
        Self::InvalidTime,
        Self::AbsurdTime,
        Self::InvalidPosition,
        Self::UnknownProperty,
        Self::InvalidValue,
        Self::UnknownUnit,
        Self::WrongDimension,
        Self::Unsupported,
        Self::BeforeBirth,
        Self::Unmapped,
        Self::TooManyDevices,
        Self::RefusedByStore,
        Self::Panic,
    ];

    /// The word in the quarantine, in metrics and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Name => "name",
            Self::TooLarge => "too-large",
            Self::TooManyReadings => "too-many-readings",
            Self::Empty => "empty",
            Self::NotUtf8 => "not-utf8",
            Self::NotJson => "not-json",
            Self::Malformed => "malformed",
            Self::Shape => "shape",
            Self::MissingTime => "missing-time",
            Self::InvalidTime => "invalid-time",
            Self::AbsurdTime => "absurd-time",
            Self::InvalidPosition => "invalid-position",
            Self::UnknownProperty => "unknown-property",
            Self::InvalidValue => "invalid-value",
            Self::UnknownUnit => "unknown-unit",
            Self::WrongDimension => "wrong-dimension",
            Self::Unsupported => "unsupported",
            Self::BeforeBirth => "before-birth",
            Self::Unmapped => "unmapped",
            Self::TooManyDevices => "too-many-devices",
            Self::RefusedByStore => "refused-by-store",
            Self::Panic => "panic",
        }
    }
}

/// What is wrong with a message or one of its readings, precise enough to mend the sender.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// The sort of fault.
    pub reason: Reason,
    /// Where: a JSON pointer into the payload (`/readings/pm10/value`), a byte (`byte 17`), or empty for the whole.
    pub at: String,
    /// What was found and what is expected; texts from outside are cut short.
    pub detail: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.reason.as_str())?;
        if !self.at.is_empty() {
            write!(formatter, " at {}", self.at)?;
        }
        write!(formatter, ": {}", self.detail)
    }
}
