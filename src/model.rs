//! What Conca talks about: identifiers, observed properties, time, places and observations.
//!
//! Pure data. Whatever has an invariant is checked when it is made and trusted from then on; nothing here
//! reads a clock, a file or the network (the one [`SystemClock`] is handed in by whoever wires the program).

mod district;
mod duration;
mod id;
mod observation;
mod position;
mod property;
mod registration;
mod time;
mod window;

pub use district::{District, DistrictIndex, Districts, DistrictsError};
pub use duration::{DurationText, InvalidDuration};
pub use id::{DeviceId, DeviceKind, InvalidName, SourceName};
pub use observation::{
    Decoded, DeviceObservations, Fault, Flags, Message, Normalised, Observation, Original, Reading, Readings, Reason, Replay, Reply,
    Service, Settled, Unmapped, Value, Verdict, Vocabulary, Why,
};
pub use position::{InvalidPosition, Position};
pub use property::{
    Catalogue, CatalogueError, Domain, Kind, NeighboursRule, Property, PropertyIndex, QualityRules, SpikeRule, StateCode, StuckRule,
    Summary, Title,
};
pub use registration::{Class, Installation, Registration, RegistrationDocument, RegistrationProblem, Registry};
pub use time::{Clock, InvalidTime, ManualClock, SystemClock, Timestamp};
pub use window::{InvalidWindowSize, WindowSize, Windows, WindowsError};
