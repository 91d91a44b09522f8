//! Where devices are, and which of them move about.
//!
//! Nothing tells Conca that a device is mobile, so it is judged by what it says. It counts as mobile where
//! - its kind is one that drives, rides or walks ([`MOBILE_KINDS`]), or
//! - since the program's start it was seen to move at least [`MOVES_MIN`] times: being installed elsewhere is one
//!   move, or
//! - the newest observations of its series lie more than [`MOVE_M`] apart.
//!
//! Any other device that has told a position is stationary, and is at home where its newest one lies. A device that has never told a
//! position is at home nowhere, like one that moves.
//!
//! A stationary device is expected at home, so that a silent one lowers the coverage of its district. A mobile device is expected in
//! no district. For both of them an observation counts where it was made.

use crate::model::{DistrictIndex, Districts, Flags, Position};
use crate::state::{Device, Latest, MOVE_M, State};

/// Kinds of devices that move about.
pub const MOBILE_KINDS: [&str; 12] =
    ["bus", "tram", "train", "taxi", "ferry", "truck", "vehicle", "car", "bike", "scooter", "wearable", "drone"];

/// A device that was seen to move so often moves about.
pub const MOVES_MIN: u8 = 3;

/// Where a device is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Whereabouts {
    /// Its newest position.
    pub position: Option<Position>,
    /// Whether it moves about.
    pub is_mobile: bool,
}

impl Whereabouts {
    /// Of a device with its series.
    pub fn of(device: &Device, state: &State) -> Self {
        let marks = device.series.iter().map(|(_property, series)| state.series_at(*series).mark);
        let known = || {
            marks
                .clone()
                .flat_map(|mark| [mark.trusted, mark.latest])
                .flatten()
                .filter_map(|latest| Some((latest.time, position(&latest)?)))
        };
        let newest = known().max_by_key(|(time, _position)| *time).map(|(_time, position)| position);
        let is_mobile = MOBILE_KINDS.contains(&device.kind.as_str())
            || device.moves.count >= MOVES_MIN
            || newest.is_some_and(|newest| known().any(|(_time, position)| newest.distance_m(position) > MOVE_M));
        Self { position: newest, is_mobile }
    }

    /// The district in which a stationary device is at home.
    pub fn home(&self, districts: &Districts) -> Option<DistrictIndex> {
        self.position.filter(|_position| !self.is_mobile).and_then(|position| districts.find(position))
    }
}

/// Where an observation was made. A receiver that is off the city, or has no fix, is not believed.
pub(super) fn position(latest: &Latest) -> Option<Position> {
    let (longitude, latitude) = latest.position.filter(|_position| !Flags::from_bits_retain(latest.flags).intersects(Flags::MISPLACED))?;
    Position::new(longitude, latitude).ok()
}
