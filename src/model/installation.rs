//! Where devices are installed that do not say it themselves.

use hashbrown::HashMap;
use serde_json::Value;

use super::{DeviceId, Position};

/// The file of installations cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InstallationsError {
    /// Not GeoJSON.
    #[error("not a GeoJSON feature collection")]
    Malformed(#[source] geojson::Error),
    /// A feature without what an installation needs.
    #[error("feature {index}: {problem}")]
    Feature { index: usize, problem: &'static str },
}

/// Positions by device.
#[derive(Clone, Debug, Default)]
pub struct Installations(HashMap<DeviceId, Position>);

impl Installations {
    /// Reads a GeoJSON feature collection of points in WGS 84 with the property `device`.
    pub fn parse(text: &str) -> Result<Self, InstallationsError> {
        let collection: geojson::FeatureCollection =
            text.parse::<geojson::GeoJson>().and_then(geojson::FeatureCollection::try_from).map_err(InstallationsError::Malformed)?;
        let mut installations = HashMap::new();
        for (index, feature) in collection.features.iter().enumerate() {
            let problem = |problem| InstallationsError::Feature { index, problem };
            let device = feature.property("device").and_then(Value::as_str).and_then(|name| DeviceId::try_from(name).ok());
            let device = device.ok_or(problem("has no property `device` that is a device's name"))?;
            let geometry = feature.geometry.as_ref().and_then(|geometry| geo::Geometry::<f64>::try_from(geometry.clone()).ok());
            let Some(geo::Geometry::Point(point)) = geometry else { return Err(problem("is not a point")) };
            let position = Position::new(point.x(), point.y()).map_err(|_invalid| problem("lies off the globe"))?;
            if installations.insert(device, position).is_some() {
                return Err(problem("its device appears twice"));
            }
        }
        Ok(Self(installations))
    }

    /// Where a device is installed, if that is known.
    pub fn find(&self, device: &DeviceId) -> Option<Position> {
        self.0.get(device).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_and_anything_else_is_named() {
        let feature =
            |device: &str, geometry: &str| format!(r#"{{"type":"Feature","properties":{{"device":"{device}"}},"geometry":{geometry}}}"#);
        let point = r#"{"type":"Point","coordinates":[13.36,38.11]}"#;
        let parse =
            |features: &[String]| Installations::parse(&format!(r#"{{"type":"FeatureCollection","features":[{}]}}"#, features.join(",")));
        let read = parse(&[feature("a", point)]).unwrap();
        assert_eq!(read.find(&DeviceId::try_from("a").unwrap()), Position::new(13.36, 38.11).ok());
        for (features, expected) in [
            (vec![feature("a", point), feature("a", point)], "feature 1: its device appears twice"),
            (vec![feature("a b", point)], "feature 0: has no property `device` that is a device's name"),
            (vec![feature("a", r#"{"type":"LineString","coordinates":[[1,1],[2,2]]}"#)], "feature 0: is not a point"),
            (vec![feature("a", r#"{"type":"Point","coordinates":[13.36,138.11]}"#)], "feature 0: lies off the globe"),
        ] {
            assert_eq!(parse(&features).unwrap_err().to_string(), expected);
        }
    }
}
