//! History against the simplest model of it: a map in which the last received value of an identity wins.
//!
//! Whatever comes in whichever order, and whatever the store does in between, every scan shows the map, and the ledger
//! counts what the map counts.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use conca::intake::Entry;
use conca::model::{
    Catalogue, DeviceId, DeviceKind, DeviceObservations, Domain, Flags, Message, Normalised, Observation, Original, Service, SourceName,
    Timestamp,
};
use proptest::prelude::*;

use crate::support::{Identity, Store};

/// What can happen.
#[derive(Clone, Debug)]
enum Act {
    /// Readings arrive in one message each: device, property, minute, value.
    Receive(Vec<(u8, u8, u8, u8)>),
    Flush,
    Merge,
    Compact,
    Vacuum,
    /// The program ends and starts again.
    Restart,
}

const PROPERTIES: [&str; 2] = ["pm10", "temperature"];

/// Minutes that are not ahead of the clock; those after are.
const NOW: u8 = 40;

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let reading = (0..3_u8, 0..2_u8, 0..NOW + 10, 0..3_u8);
    // Half of the batches are in order, as most of real life is.
    let readings = (proptest::collection::vec(reading, 1..12), any::<bool>()).prop_map(|(mut readings, in_order)| {
        if in_order {
            readings.sort_by_key(|(_device, _property, minute, _value)| *minute);
        }
        Act::Receive(readings)
    });
    let act = prop_oneof![10 => readings, 3 => Just(Act::Flush), 3 => Just(Act::Merge), 2 => Just(Act::Compact), 1 => Just(Act::Vacuum), 2 => Just(Act::Restart)];
    proptest::collection::vec(act, 1..25)
}

/// Counted as the ledger counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    stored: i64,
    duplicate: i64,
    corrected: i64,
}

/// The time of a minute: ten of them lie before a midnight.
fn time(minute: u8) -> Timestamp {
    let start: Timestamp = "2026-02-28T23:50:00Z".parse().unwrap();
    start.plus(std::time::Duration::from_secs(60 * u64::from(minute)))
}

fn entry(catalogue: &Catalogue, (device, property, minute, value): (u8, u8, u8, u8)) -> Entry {
    let message = Message {
        source: SourceName::try_from("model").unwrap(),
        topic: "conca/v1/environment/air-station/x".into(),
        payload: bytes::Bytes::new(),
        received: time(NOW),
        service: Service::AtMostOnce,
        retained: false,
    };
    let observation = Observation {
        property: catalogue.find(PROPERTIES[usize::from(property)]).unwrap(),
        time: time(minute),
        value: f64::from(value),
        flags: if minute > NOW { Flags::FUTURE } else { Flags::empty() },
        position: None,
        district: None,
        original: (value == 2).then(|| Box::new(Original { value: 2_000.0, unit: "mg".to_owned() })),
    };
    let heard = DeviceObservations {
        device: DeviceId::try_from(format!("d{device}").as_str()).unwrap(),
        kind: DeviceKind::try_from("air-station").unwrap(),
        domain: Domain::Environment,
        observations: vec![observation],
    };
    Entry { message, outcome: Ok(Normalised { devices: vec![heard], ..Normalised::default() }), replay: None }
}

fn check(acts: &[Act]) {
    let folder = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::built_in();
    let mut store = Store::open(folder.path());
    let mut map: BTreeMap<Identity, f64> = BTreeMap::new();
    let mut tally = Tally::default();
    for act in acts {
        match act {
            Act::Receive(readings) => {
                store.receive(&readings.iter().map(|reading| entry(&catalogue, *reading)).collect::<Vec<_>>());
                for (device, property, minute, value) in readings {
                    let identity = (format!("d{device}"), PROPERTIES[usize::from(*property)].to_owned(), time(*minute).micros());
                    match map.entry(identity) {
                        Slot::Vacant(slot) => {
                            slot.insert(f64::from(*value));
                            tally.stored += 1;
                        }
                        Slot::Occupied(slot) if slot.get().to_bits() == f64::from(*value).to_bits() => tally.duplicate += 1,
                        Slot::Occupied(mut slot) => {
                            slot.insert(f64::from(*value));
                            tally.corrected += 1;
                        }
                    }
                }
            }
            Act::Flush => drop(store.flush().unwrap()),
            Act::Merge => drop(store.merge().unwrap()),
            Act::Compact => store.compact(time(NOW)),
            Act::Vacuum => store.vacuum(),
            Act::Restart => {
                drop(store);
                store = Store::open(folder.path());
            }
        }
        assert_eq!(store.rows(), map, "after {act:?}");
        // Each line balances at any time; that is checked by taking the sum.
        store.ledger();
    }
    store.settle();
    assert_eq!(store.rows(), map, "settled");
    let counts = store.ledger();
    assert_eq!((Tally { stored: counts.stored, duplicate: counts.duplicate, corrected: counts.corrected }, counts.pending), (tally, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn history_is_a_map_in_which_the_last_received_wins(acts in acts()) {
        check(&acts);
    }
}
