//! Where things are: districts, points in them, and bus routes.

use std::sync::LazyLock;

use geo::{BoundingRect, Contains, MultiPolygon, Point};

use crate::noise::Noise;

/// Degrees; WGS 84.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    pub lon: f64,
    pub lat: f64,
}

#[derive(Clone, Debug)]
pub struct District {
    pub id: String,
    shape: MultiPolygon,
}

impl District {
    pub fn contains(&self, place: Place) -> bool {
        self.shape.contains(&Point::new(place.lon, place.lat))
    }

    /// A point of the district that belongs to this noise.
    fn place(&self, noise: Noise) -> Place {
        let bounds = self.shape.bounding_rect().expect("a district has an area");
        // Even the boundary of a narrow district covers more than a hundredth of its rectangle.
        (0..10_000)
            .map(|index| Place {
                lon: round(noise.between(2 * index, bounds.min().x, bounds.max().x)),
                lat: round(noise.between(2 * index + 1, bounds.min().y, bounds.max().y)),
            })
            .find(|place| self.contains(*place))
            .expect("a district has an area")
    }
}

/// The districts of `schemas/districts/palermo-approximate.geojson`.
pub fn districts() -> &'static [District] {
    static DISTRICTS: LazyLock<Vec<District>> = LazyLock::new(|| {
        let text = include_str!("../../../schemas/districts/palermo-approximate.geojson");
        parse_districts(text).expect("a unit test parses the districts")
    });
    &DISTRICTS
}

/// A point in the `number`th district, counted round and round; with the district's id.
pub(super) fn place(number: usize, noise: Noise) -> (&'static str, Place) {
    let district = districts().iter().cycle().nth(number % districts().len()).expect("a city has districts");
    (&district.id, district.place(noise))
}

/// About a metre.
fn round(degrees: f64) -> f64 {
    (degrees * 1e5).round() / 1e5
}

fn parse_districts(text: &str) -> anyhow::Result<Vec<District>> {
    let collection: geojson::FeatureCollection = text.parse::<geojson::GeoJson>()?.try_into()?;
    let district = |feature: geojson::Feature| {
        let id = feature.property("id").and_then(|id| id.as_str()).unwrap_or_default().to_owned();
        let geometry = feature.geometry.ok_or_else(|| anyhow::anyhow!("district {id} has no geometry"))?;
        let shape = match geo::Geometry::try_from(geometry)? {
            geo::Geometry::Polygon(polygon) => MultiPolygon::from(polygon),
            geo::Geometry::MultiPolygon(shape) => shape,
            other => anyhow::bail!("district {id} is not an area: {other:?}"),
        };
        Ok(District { id, shape })
    };
    collection.features.into_iter().map(district).collect()
}

/// Seconds that a bus spends at a stop.
const DWELL_S: f64 = 25.0;
/// Mean speed between stops, m/s.
const PACE: f64 = 6.0;
/// Longest way between two stops, m.
const STOP_DISTANCE: f64 = 450.0;
/// Local seconds of the day when the first bus leaves, and how long service lasts: until midnight.
const SERVICE_START_S: f64 = 5.5 * 3_600.0;
const SERVICE_S: f64 = 18.5 * 3_600.0;

/// There and back along these points, roughly along streets: lines of AMAT's kind, not AMAT's timetable.
const WAYS: [&[(f64, f64)]; 6] = [
    // Stazione Centrale, via Roma, Politeama, viale della Libertà, stadium.
    &[(13.3672, 38.1100), (13.3625, 38.1160), (13.3570, 38.1245), (13.3510, 38.1315), (13.3455, 38.1386), (13.3420, 38.1525)],
    // Politeama, stadium, Favorita, Mondello.
    &[(13.3570, 38.1245), (13.3455, 38.1386), (13.3400, 38.1560), (13.3380, 38.1700), (13.3330, 38.1880), (13.3230, 38.2030)],
    // Stazione Centrale, corso Tukory, university, via Basile.
    &[(13.3672, 38.1100), (13.3590, 38.1070), (13.3500, 38.1040), (13.3470, 38.0980), (13.3440, 38.0920)],
    // Stazione Centrale, Brancaccio, Ciaculli.
    &[(13.3672, 38.1100), (13.3760, 38.1030), (13.3860, 38.0930), (13.3930, 38.0850), (13.4010, 38.0770)],
    // Piazza Indipendenza, corso Calatafimi, Mezzomonreale, Boccadifalco.
    &[(13.3520, 38.1110), (13.3430, 38.1060), (13.3330, 38.1010), (13.3220, 38.1030), (13.3110, 38.1080)],
    // Politeama, Uditore, Cruillas.
    &[(13.3570, 38.1245), (13.3420, 38.1250), (13.3290, 38.1290), (13.3180, 38.1350), (13.3060, 38.1380)],
];

/// A bus route: a loop of stops, with the time at which a bus that started at second 0 leaves each.
#[derive(Clone, Debug)]
pub(super) struct Route {
    legs: Vec<Leg>,
    loop_s: f64,
}

#[derive(Clone, Copy, Debug)]
struct Leg {
    from: Place,
    to: Place,
    distance: f64,
    start_s: f64,
    moving_s: f64,
}

/// Where a bus is, and its speed in km/h.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ride {
    pub(super) place: Place,
    pub(super) speed: f64,
    pub(super) in_service: bool,
}

impl Route {
    /// The `number`th route, counted round and round.
    pub(super) fn new(number: usize) -> Self {
        let way = WAYS.iter().cycle().nth(number % WAYS.len()).expect("there are routes");
        let corners: Vec<Place> = way.iter().map(|(lon, lat)| Place { lon: *lon, lat: *lat }).collect();
        let there = corners.windows(2).flat_map(stops).collect::<Vec<_>>();
        let back = there.iter().rev().map(|(from, to)| (*to, *from));
        let mut legs = Vec::new();
        let mut start_s = 0.0;
        for (from, to) in there.iter().copied().chain(back) {
            let distance = distance(from, to);
            legs.push(Leg { from, to, distance, start_s, moving_s: distance / PACE });
            start_s += distance / PACE + DWELL_S;
        }
        // A whole number of loops fills the day's service, so that the first bus stands where the last one stopped.
        let stretch = SERVICE_S / (SERVICE_S / start_s).round() / start_s;
        for leg in &mut legs {
            leg.start_s *= stretch;
            leg.moving_s *= stretch;
        }
        Self { legs, loop_s: start_s * stretch }
    }

    /// The ride of a bus that is `part` of a loop ahead of the first one.
    pub(super) fn ride(&self, local_hour: f64, part: f64) -> Ride {
        let served_s = local_hour * 3_600.0 - SERVICE_START_S;
        let in_service = 0.0 <= served_s;
        let position_s = (part * self.loop_s + served_s.max(0.0)).rem_euclid(self.loop_s);
        let leg = self.legs.iter().rev().find(|leg| leg.start_s <= position_s).expect("the first leg starts at 0");
        let done = ((position_s - leg.start_s) / leg.moving_s).min(1.0);
        // Speeds up and brakes: the way is a smooth step of the time, the speed its slope.
        let way = done * done * (3.0 - 2.0 * done);
        let speed = if in_service { 6.0 * done * (1.0 - done) * leg.distance / leg.moving_s * 3.6 } else { 0.0 };
        let between = |from: f64, to: f64| round(from + (to - from) * way);
        Ride { place: Place { lon: between(leg.from.lon, leg.to.lon), lat: between(leg.from.lat, leg.to.lat) }, speed, in_service }
    }
}

/// Stops at equal distances between two corners.
fn stops(corners: &[Place]) -> Vec<(Place, Place)> {
    let [from, to] = corners else { return Vec::new() };
    let count = (distance(*from, *to) / STOP_DISTANCE).ceil().max(1.0);
    let at = |number: i64| {
        let part = number as f64 / count;
        Place { lon: from.lon + (to.lon - from.lon) * part, lat: from.lat + (to.lat - from.lat) * part }
    };
    (0..crate::noise::whole(count)).map(|number| (at(number), at(number + 1))).collect()
}

/// Metres; a city is flat.
fn distance(from: Place, to: Place) -> f64 {
    let east = (to.lon - from.lon) * 111_320.0 * from.lat.to_radians().cos();
    let north = (to.lat - from.lat) * 110_950.0;
    east.hypot(north)
}

#[cfg(test)]
mod tests {
    use super::{Route, WAYS, distance, districts, place};
    use crate::noise::Noise;

    #[test]
    fn there_are_eight_districts() {
        let ids: Vec<&str> = districts().iter().map(|district| district.id.as_str()).collect();
        assert_eq!(ids, ["pa-c1", "pa-c2", "pa-c3", "pa-c4", "pa-c5", "pa-c6", "pa-c7", "pa-c8"]);
    }

    #[test]
    fn places_lie_in_their_district() {
        for number in 0..400 {
            let (id, place) = place(number, Noise::new(3, &number.to_string()));
            let inside: Vec<&str> = districts().iter().filter(|other| other.contains(place)).map(|other| other.id.as_str()).collect();
            assert_eq!(inside, [id]);
        }
    }

    #[test]
    fn buses_stay_in_the_city_and_do_not_jump() {
        for number in 0..WAYS.len() {
            let route = Route::new(number);
            let mut last = route.ride(0.0, 0.3);
            for second in (0..86_400).step_by(30) {
                let ride = route.ride(f64::from(second) / 3_600.0, 0.3);
                assert!(districts().iter().any(|district| district.contains(ride.place)), "route {number}: {:?}", ride.place);
                assert!(distance(last.place, ride.place) < 30.0 * 14.0, "route {number} at {second} s");
                assert!((0.0..60.0).contains(&ride.speed), "route {number}: {} km/h", ride.speed);
                last = ride;
            }
            assert!(distance(last.place, route.ride(0.0, 0.3).place) < 600.0, "route {number} at midnight");
        }
    }
}
