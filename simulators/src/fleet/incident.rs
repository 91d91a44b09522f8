//! Things that go wrong on purpose, so that alerts have something to find; the list is the ground truth.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::device::Device;

/// Something that happens to devices in `[from, to)`, relative to the moment at which the fleet goes live.
#[derive(Clone, Copy, Debug)]
pub struct Incident {
    /// What a person would call it.
    pub title: &'static str,
    pub target: Target,
    pub from: SignedDuration,
    pub to: SignedDuration,
    pub effect: Effect,
}

/// Whom it happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Device(&'static str),
    /// Every device of a kind in a district.
    District {
        kind: &'static str,
        district: &'static str,
    },
}

/// What it does to what they send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Effect {
    /// Nothing is sent.
    Silence,
    /// A state is entered; the device tells at once, and again when it is left.
    Enter { property: &'static str, code: i64 },
    /// A value stands still.
    Hold { property: &'static str, value: f64 },
    /// Particles rise within ten minutes, by this much PM10 and half as much PM2.5.
    Particles { amount: f64 },
    /// Each `every`th sample of a property is this nonsense.
    Nonsense { property: &'static str, value: f64, every: i64 },
}

/// The script: alerts in the history of two days, others within minutes of going live.
pub const INCIDENTS: [Incident; 15] = [
    // History.
    incident("bin overflows", Target::Device("waste-bin-002"), -2_400, -2_100, Effect::Hold { property: "bin_fill", value: 100.0 }),
    incident("counter falls silent", Target::Device("traffic-counter-001"), -1_800, -1_680, Effect::Silence),
    incident(
        "particles from a fire",
        Target::District { kind: "air-station", district: "pa-c5" },
        -1_200,
        -1_080,
        Effect::Particles { amount: 135.0 },
    ),
    incident("cabinet tampered with", Target::Device("door-contact-002"), -840, -820, Effect::Enter { property: "tamper", code: 1 }),
    incident(
        "emergency button pressed",
        Target::Device("panic-button-002"),
        -540,
        -535,
        Effect::Enter { property: "panic_button", code: 1 },
    ),
    incident("lamp out of order", Target::Device("street-lamp-002"), -480, -300, Effect::Enter { property: "lamp_state", code: 2 }),
    incident(
        "charging point out of order",
        Target::Device("charger-001"),
        -300,
        -180,
        Effect::Enter { property: "charger_state", code: 6 },
    ),
    // From history into live operation.
    incident(
        "thermometer with a loose contact",
        Target::Device("weather-station-002"),
        -120,
        120,
        Effect::Nonsense { property: "temperature", value: -147.0, every: 7 },
    ),
    incident("bin overflows", Target::Device("waste-bin-001"), -90, 30, Effect::Hold { property: "bin_fill", value: 100.0 }),
    incident(
        "particles from a fire",
        Target::District { kind: "air-station", district: "pa-c1" },
        -25,
        35,
        Effect::Particles { amount: 120.0 },
    ),
    // Live.
    incident("emergency button pressed", Target::Device("panic-button-001"), 2, 7, Effect::Enter { property: "panic_button", code: 1 }),
    incident("noise meter falls silent", Target::Device("noise-meter-001"), 3, 48, Effect::Silence),
    incident("cabinet opened", Target::Device("door-contact-001"), 4, 14, Effect::Enter { property: "door", code: 1 }),
    incident("cabinet tampered with", Target::Device("door-contact-001"), 4, 14, Effect::Enter { property: "tamper", code: 1 }),
    incident("lamp out of order", Target::Device("street-lamp-001"), 6, 66, Effect::Enter { property: "lamp_state", code: 2 }),
];

impl Incident {
    pub fn starts(&self, live: Timestamp) -> Timestamp {
        live + self.from
    }

    pub fn ends(&self, live: Timestamp) -> Timestamp {
        live + self.to
    }

    pub fn concerns(&self, device: &Device) -> bool {
        match self.target {
            Target::Device(id) => device.id == id,
            Target::District { kind, district } => device.kind.name == kind && device.district == Some(district),
        }
    }
}

/// `+00:02 to +00:07  emergency button pressed: panic-button-001`
impl fmt::Display for Incident {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = |offset: SignedDuration| {
            let minutes = offset.as_mins().abs();
            format!("{}{:02}:{:02}", if offset.is_negative() { '-' } else { '+' }, minutes / 60, minutes % 60)
        };
        write!(formatter, "{} to {}  {}: ", clock(self.from), clock(self.to), self.title)?;
        match self.target {
            Target::Device(id) => formatter.write_str(id),
            Target::District { kind, district } => write!(formatter, "every {kind} of {district}"),
        }
    }
}

/// Times in minutes.
const fn incident(title: &'static str, target: Target, from: i64, to: i64, effect: Effect) -> Incident {
    Incident { title, target, from: SignedDuration::from_mins(from), to: SignedDuration::from_mins(to), effect }
}
