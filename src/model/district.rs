//! The districts of the city, and which of them holds a position.

use geo::{BoundingRect, Contains, Coord, MultiPolygon, Point};
use hashbrown::HashMap;
use rstar::{AABB, RTree, RTreeObject};
use serde_json::Value;

use super::Position;

/// The districts that are built in: Palermo's eight circoscrizioni, as Voronoi cells. Approximate, not official.
const BUILT_IN: &str = include_str!("../../schemas/districts/palermo-approximate.geojson");

/// The place of a district in the running program's list. Not stable over restarts: stores keep the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DistrictIndex(pub u16);

/// A part of the city.
#[derive(Clone, Debug)]
pub struct District {
    /// Its name in tables and addresses.
    pub id: String,
    /// For people.
    pub name: String,
    /// Its area; ring orientation does not matter.
    pub area: MultiPolygon<f64>,
}

/// Districts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DistrictsError {
    /// Not GeoJSON.
    #[error("not a GeoJSON feature collection")]
    Malformed(#[source] geojson::Error),
    /// A feature without what a district needs.
    #[error("feature {index}: {problem}")]
    Feature { index: usize, problem: &'static str },
}

/// All districts, found by position through a spatial index.
#[derive(Clone, Debug)]
#[expect(clippy::struct_field_names, reason = "no other word is better for all of them")]
pub struct Districts {
    districts: Vec<District>,
    by_id: HashMap<String, DistrictIndex>,
    tree: RTree<Envelope>,
    /// The GeoJSON that they were read from.
    geojson: String,
    /// All of them with a margin: what lies outside is off the city.
    surroundings: Option<AABB<[f64; 2]>>,
}

#[derive(Clone, Debug)]
struct Envelope {
    bounds: AABB<[f64; 2]>,
    index: u16,
}

impl RTreeObject for Envelope {
    type Envelope = AABB<[f64; 2]>;

    fn envelope(&self) -> Self::Envelope {
        self.bounds
    }
}

/// How far outside every district a position may lie before it counts as off the city, in degrees (some 20 km).
const MARGIN_DEGREES: f64 = 0.2;

impl Districts {
    /// The districts of Palermo that are built in; approximate, not official.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("a test reads the built-in districts")
    }

    /// Reads a GeoJSON feature collection of (multi)polygons in WGS 84 with the properties `id` and `name`; features may have the
    /// id as their own instead.
    pub fn parse(text: &str) -> Result<Self, DistrictsError> {
        let collection: geojson::FeatureCollection =
            text.parse::<geojson::GeoJson>().and_then(geojson::FeatureCollection::try_from).map_err(DistrictsError::Malformed)?;
        let mut districts = Vec::new();
        let mut by_id = HashMap::new();
        let mut envelopes = Vec::new();
        for (index, feature) in collection.features.into_iter().enumerate() {
            let problem = |problem| DistrictsError::Feature { index, problem };
            let property = |key: &str| match feature.property(key) {
                Some(Value::String(text)) => Some(text.clone()),
                Some(Value::Number(number)) => Some(number.to_string()),
                _ => None,
            };
            let own = || match feature.id.clone()? {
                geojson::feature::Id::String(text) => Some(text),
                geojson::feature::Id::Number(number) => Some(number.to_string()),
            };
            let id = property("id").or_else(own).ok_or(problem("has no id"))?;
            let name = property("name").ok_or(problem("has no property `name`"))?;
            let geometry = feature.geometry.ok_or(problem("has no geometry"))?;
            let geometry = geo::Geometry::<f64>::try_from(geometry).map_err(|_error| problem("its geometry cannot be read"))?;
            let area = match geometry {
                geo::Geometry::Polygon(polygon) => MultiPolygon::from(polygon),
                geo::Geometry::MultiPolygon(polygons) => polygons,
                _ => return Err(problem("its geometry is not a polygon")),
            };
            let place = u16::try_from(index).map_err(|_index| problem("too many districts"))?;
            for polygon in &area {
                let bounds = polygon.bounding_rect().ok_or(problem("its area is empty"))?;
                let corner = |coord: Coord<f64>| [coord.x, coord.y];
                envelopes.push(Envelope { bounds: AABB::from_corners(corner(bounds.min()), corner(bounds.max())), index: place });
            }
            if by_id.insert(id.clone(), DistrictIndex(place)).is_some() {
                return Err(problem("its id appears twice"));
            }
            districts.push(District { id, name, area });
        }
        let tree = RTree::bulk_load(envelopes);
        let surroundings = (tree.size() > 0).then(|| {
            let bounds = tree.root().envelope();
            let ([west, south], [east, north]) = (bounds.lower(), bounds.upper());
            AABB::from_corners([west - MARGIN_DEGREES, south - MARGIN_DEGREES], [east + MARGIN_DEGREES, north + MARGIN_DEGREES])
        });
        Ok(Self { districts, by_id, tree, geojson: text.to_owned(), surroundings })
    }

    /// The district that holds `position`; on a common border, the first in the list.
    pub fn find(&self, position: Position) -> Option<DistrictIndex> {
        let point = Point::new(position.longitude(), position.latitude());
        self.tree
            .locate_in_envelope_intersecting(&AABB::from_point([point.x(), point.y()]))
            .filter(|envelope| self.districts.get(usize::from(envelope.index)).is_some_and(|district| district.area.contains(&point)))
            .map(|envelope| DistrictIndex(envelope.index))
            .min()
    }

    /// Whether `position` lies far outside every district. Never, where no districts are known.
    pub fn is_off_city(&self, position: Position) -> bool {
        use rstar::Envelope as _;
        self.surroundings.is_some_and(|bounds| !bounds.contains_point(&[position.longitude(), position.latitude()]))
    }

    /// The district at that place; an index comes from [`Districts::find`] of the same list.
    pub fn get(&self, index: DistrictIndex) -> &District {
        self.districts.get(usize::from(index.0)).expect("an index comes from this list")
    }

    /// The district with that id.
    pub fn by_id(&self, id: &str) -> Option<DistrictIndex> {
        self.by_id.get(id).copied()
    }

    /// All districts in the list's order.
    pub fn iter(&self) -> impl Iterator<Item = (DistrictIndex, &District)> {
        (0u16..).zip(&self.districts).map(|(index, district)| (DistrictIndex(index), district))
    }

    /// The GeoJSON that they were read from.
    pub fn geojson(&self) -> &str {
        &self.geojson
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A square of 0.2 degrees with a hole of 0.1 in its middle.
    const RINGS: [&str; 2] = [
        "[[13.2,38.0],[13.4,38.0],[13.4,38.2],[13.2,38.2],[13.2,38.0]]",
        "[[13.25,38.05],[13.25,38.15],[13.35,38.15],[13.35,38.05],[13.25,38.05]]",
    ];

    /// The same areas, every ring run through the other way.
    fn reversed(text: &str) -> String {
        let mut collection: Value = serde_json::from_str(text).unwrap();
        for feature in collection["features"].as_array_mut().unwrap() {
            let geometry = &mut feature["geometry"];
            let polygons = match geometry["type"].as_str() {
                Some("Polygon") => vec![&mut geometry["coordinates"]],
                _ => geometry["coordinates"].as_array_mut().unwrap().iter_mut().collect(),
            };
            for ring in polygons.into_iter().flat_map(|polygon| polygon.as_array_mut().unwrap()) {
                ring.as_array_mut().unwrap().reverse();
            }
        }
        collection.to_string()
    }

    /// Both ways of every ring give the same districts, at every point of a grid over the city and beyond it.
    #[track_caller]
    fn check(text: &str) -> usize {
        let (one, other) = (Districts::parse(text).unwrap(), Districts::parse(&reversed(text)).unwrap());
        let mut found = 0;
        for step in 0..2_500_i32 {
            let position = Position::new(13.15 + f64::from(step % 50) * 0.008, 37.95 + f64::from(step / 50) * 0.006).unwrap();
            assert_eq!(one.find(position), other.find(position), "{position:?}");
            assert_eq!(one.is_off_city(position), other.is_off_city(position));
            found += usize::from(one.find(position).is_some());
        }
        found
    }

    #[test]
    fn the_way_in_which_rings_run_does_not_matter() {
        assert!(check(BUILT_IN) > 100);
    }

    #[test]
    fn holes_belong_to_no_district() {
        let ring = RINGS.join(",");
        let text = format!(
            r#"{{"type":"FeatureCollection","features":[{{"type":"Feature","properties":{{"id":"d","name":"D"}},"geometry":{{"type":"Polygon","coordinates":[{ring}]}}}}]}}"#
        );
        assert!(check(&text) > 100);
        let districts = Districts::parse(&text).unwrap();
        let at = |longitude, latitude| districts.find(Position::new(longitude, latitude).unwrap()).is_some();
        assert_eq!((at(13.22, 38.1), at(13.3, 38.1), at(13.38, 38.1), at(13.41, 38.1)), (true, false, true, false));
    }
}
