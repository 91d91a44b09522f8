//! GTFS Realtime: the vehicle positions of a public transport feed, in protobuf.
//!
//! A vehicle is a device that moves: its id, else its label, else the entity's id. What is observed is that it is there (`connection`),
//! at its place, and `speed`, `bearing`, `odometer`, `occupancy_percentage` where the feed has them. The time is the vehicle's, else the
//! feed's. Trip updates, alerts and what else a feed may hold are understood and say nothing of vehicles.

use std::borrow::Cow;

use prost::Message as _;

use super::fields::shortest;
use super::{Form, Limits, too_many, whole};
use crate::model::{Decoded, DeviceId, DeviceKind, Fault, Message, Position, Reading, Readings, Reason, Timestamp, Value, Vocabulary};

/// `gtfs-realtime.proto`, version 2: the fields that are used.
mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct FeedMessage {
        #[prost(message, optional, tag = "1")]
        pub(super) header: Option<FeedHeader>,
        #[prost(message, repeated, tag = "2")]
        pub(super) entity: Vec<FeedEntity>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct FeedHeader {
        #[prost(string, optional, tag = "1")]
        pub(super) gtfs_realtime_version: Option<String>,
        /// Seconds since 1970.
        #[prost(uint64, optional, tag = "3")]
        pub(super) timestamp: Option<u64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct FeedEntity {
        #[prost(string, optional, tag = "1")]
        pub(super) id: Option<String>,
        #[prost(bool, optional, tag = "2")]
        pub(super) is_deleted: Option<bool>,
        #[prost(message, optional, tag = "4")]
        pub(super) vehicle: Option<VehiclePosition>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct VehiclePosition {
        #[prost(message, optional, tag = "2")]
        pub(super) position: Option<Place>,
        #[prost(uint64, optional, tag = "5")]
        pub(super) timestamp: Option<u64>,
        #[prost(message, optional, tag = "8")]
        pub(super) vehicle: Option<VehicleDescriptor>,
        #[prost(uint32, optional, tag = "10")]
        pub(super) occupancy_percentage: Option<u32>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Place {
        #[prost(float, optional, tag = "1")]
        pub(super) latitude: Option<f32>,
        #[prost(float, optional, tag = "2")]
        pub(super) longitude: Option<f32>,
        /// Degrees, clockwise from true north.
        #[prost(float, optional, tag = "3")]
        pub(super) bearing: Option<f32>,
        /// Metres.
        #[prost(double, optional, tag = "4")]
        pub(super) odometer: Option<f64>,
        /// Metres per second.
        #[prost(float, optional, tag = "5")]
        pub(super) speed: Option<f32>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct VehicleDescriptor {
        #[prost(string, optional, tag = "1")]
        pub(super) id: Option<String>,
        #[prost(string, optional, tag = "2")]
        pub(super) label: Option<String>,
    }
}

/// Decodes one message.
pub(super) fn decode(form: &Form, message: &Message, limits: &Limits) -> Result<Decoded<'static>, Fault> {
    if message.payload.is_empty() {
        return Err(whole(Reason::Empty, "the payload is empty".to_owned()));
    }
    let feed = proto::FeedMessage::decode(message.payload.clone()).map_err(|error| whole(Reason::Malformed, error.to_string()))?;
    let header = feed.header.filter(|header| header.gtfs_realtime_version.is_some());
    let header = header.ok_or_else(|| whole(Reason::Malformed, "a feed has a header with its version".to_owned()))?;
    let mut decoded = Decoded::default();
    let mut count = 0;
    for (index, entity) in feed.entity.into_iter().enumerate() {
        let at = format!("entity[{index}]");
        let Some(vehicle) = entity.vehicle.filter(|_vehicle| entity.is_deleted != Some(true)) else { continue };
        match readings(form, message, entity.id, vehicle, header.timestamp) {
            Ok(readings) => {
                count += readings.readings.len();
                decoded.devices.push(readings);
            }
            Err((reason, detail)) => {
                count += 1;
                decoded.faults.push(Fault { reason, at, detail });
            }
        }
        if count > limits.readings_max {
            return Err(too_many(limits));
        }
    }
    Ok(decoded)
}

fn readings(
    form: &Form,
    message: &Message,
    entity: Option<String>,
    vehicle: proto::VehiclePosition,
    feed_time: Option<u64>,
) -> Result<Readings<'static>, (Reason, String)> {
    let (id, label) = vehicle.vehicle.map(|vehicle| (vehicle.id, vehicle.label)).unwrap_or_default();
    let name = [id, label, entity].into_iter().flatten().find(|name| !name.is_empty());
    let name = name.ok_or_else(|| (Reason::Name, "neither vehicle nor entity has an id".to_owned()))?;
    let place = vehicle.position.unwrap_or_default();
    let (Some(longitude), Some(latitude)) = (place.longitude, place.latitude) else {
        return Err((Reason::InvalidPosition, format!("the vehicle {name:?} has no position")));
    };
    let position = Position::new(shortest(longitude), shortest(latitude));
    let position = position.map_err(|error| (Reason::InvalidPosition, error.to_string()))?;
    let time = match vehicle.timestamp.or(feed_time) {
        None => message.received,
        Some(seconds) => {
            let micros = i64::try_from(seconds).ok().and_then(|seconds| seconds.checked_mul(1_000_000));
            let time = micros.and_then(|micros| Timestamp::from_micros(micros).ok());
            time.ok_or_else(|| (Reason::InvalidTime, format!("{seconds} s since 1970 is no time that is taken")))?
        }
    };
    let reading = |name: &'static str, value: Value<'static>, unit: Option<&'static str>| Reading {
        name: Cow::Borrowed(name),
        value,
        unit: unit.map(Cow::Borrowed),
        time,
        position: Some(position),
    };
    let mut readings = vec![reading("connection", Value::Word(Cow::Borrowed("online")), None)];
    let numbers = [
        ("speed", place.speed.map(shortest), "m/s"),
        ("bearing", place.bearing.map(shortest), "deg"),
        ("odometer", place.odometer, "m"),
        ("occupancy_percentage", vehicle.occupancy_percentage.map(f64::from), "%"),
    ];
    readings.extend(numbers.into_iter().filter_map(|(name, value, unit)| {
        let value = value.filter(|value| value.is_finite())?;
        Some(reading(name, Value::Number(value), Some(unit)))
    }));
    let names = form.topic.find(&message.topic);
    Ok(Readings {
        device: DeviceId::from_foreign(&name),
        kind: DeviceKind::from_foreign(names.kind.unwrap_or("vehicle")),
        domain: names.domain,
        vocabulary: Vocabulary::Sender { model: None },
        readings,
    })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::proto::{FeedEntity, FeedHeader, FeedMessage, Place, VehicleDescriptor, VehiclePosition};
    use crate::decode::material::material;
    use crate::decode::tests::{check_bytes, shown};
    use crate::decode::{Decoder, Form};

    fn form() -> Form {
        Form { decoder: Decoder::GtfsRealtime, ..Form::default() }
    }

    fn feed(entity: Vec<FeedEntity>) -> Vec<u8> {
        let header = FeedHeader { gtfs_realtime_version: Some("2.0".to_owned()), timestamp: Some(1_772_352_000) };
        FeedMessage { header: Some(header), entity }.encode_to_vec()
    }

    fn entity(id: &str, name: Option<&str>, place: Option<Place>) -> FeedEntity {
        let vehicle = name.map(|name| VehicleDescriptor { id: None, label: Some(name.to_owned()) });
        let vehicle = VehiclePosition { position: place, vehicle, occupancy_percentage: Some(40), ..VehiclePosition::default() };
        FeedEntity { id: Some(id.to_owned()), is_deleted: None, vehicle: Some(vehicle) }
    }

    #[test]
    fn vehicles_are_devices_that_move() {
        let place = Place { latitude: Some(38.1), longitude: Some(13.3), speed: Some(6.4), bearing: Some(f32::NAN), odometer: Some(9.5) };
        let off = Place { latitude: Some(138.1), ..place.clone() };
        let gone = FeedEntity { is_deleted: Some(true), ..entity("gone", None, None) };
        check_bytes(
            &form(),
            "feed",
            &feed(vec![
                entity("e1", Some("bus-7"), Some(place.clone())),
                entity("e2", None, None),
                entity("e3", None, Some(off)),
                gone,
                entity("", None, Some(place)),
            ]),
            "bus-7 vehicle \nconnection=\"online\" @13.3,38.1\nspeed=6.4 m/s @13.3,38.1\nodometer=9.5 m @13.3,38.1\noccupancy_percentage=40 % @13.3,38.1\n\
             fault: invalid-position at entity[1]: the vehicle \"e2\" has no position\nfault: invalid-position at entity[2]: a longitude lies in [-180, 180] and a latitude in [-90, 90] degrees\n\
             fault: name at entity[4]: neither vehicle nor entity has an id",
        );
        check_bytes(&form(), "feed", &feed(vec![]), "");
        check_bytes(&form(), "feed", &[0x12, 0x00], "rejected: malformed: a feed has a header with its version");
    }

    #[test]
    fn examples_are_read() {
        let Some(folder) = material("gtfs-rt", "examples_are_read") else { return };
        let read = |path: &str| shown(&form(), "feed", &std::fs::read(folder.join(path)).unwrap());
        let palermo = read("generated/vehicle-positions-palermo.pb");
        assert!(
            palermo.starts_with(
                "bus-4411 vehicle \nconnection=\"online\" @13.36132,38.11572\nspeed=6.4 m/s @13.36132,38.11572\nbearing=215.5 deg"
            ),
            "{palermo}"
        );
        assert!(palermo.contains("tram-2 vehicle \nconnection=\"online\" @13.3341,38.1062"), "{palermo}");
        assert!(palermo.contains("fault: invalid-position at entity[2]: the vehicle \"bus-9\" has no position"), "{palermo}");
        let java = "mobilitydata-bindings/java/src/test/resources/com/google/transit/realtime";
        for (path, devices) in [
            ("generated/vehicle-positions-deleted.pb".to_owned(), None),
            ("google-examples/alerts.pb".to_owned(), Some(0)),
            (format!("{java}/vehicle_position.pb"), None),
            (format!("{java}/vehicle-position-pre-occupancy-defaults-no-occupancy.pb"), Some(1)),
            (format!("{java}/vehicle-position-pre-occupancy-defaults-with-occupancy-status.pb"), Some(1)),
        ] {
            let text = read(&path);
            assert!(!text.contains("rejected"), "{path}: {text}");
            let found = text.matches("connection=").count();
            assert!(devices.is_none_or(|devices| devices == found), "{path}: {found}: {text}");
        }
    }
}
