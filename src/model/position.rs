//! A place on the globe.

use serde::{Deserialize, Serialize};

/// WGS 84 longitude and latitude in degrees; `longitude` in [-180, 180], `latitude` in [-90, 90].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "Unchecked")]
pub struct Position {
    /// Degrees east.
    #[serde(rename = "lon")]
    #[schema(minimum = -180.0, maximum = 180.0, example = 13.3612)]
    longitude: f64,
    /// Degrees north.
    #[serde(rename = "lat")]
    #[schema(minimum = -90.0, maximum = 90.0, example = 38.1157)]
    latitude: f64,
}

/// The coordinates are not numbers or lie off the globe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a longitude lies in [-180, 180] and a latitude in [-90, 90] degrees")]
pub struct InvalidPosition;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    lon: f64,
    lat: f64,
}

impl schemars::JsonSchema for Position {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Position".into()
    }

    fn json_schema(_generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "object",
            "description": "WGS 84 in degrees.",
            "properties": {
                "lon": { "type": "number", "minimum": -180, "maximum": 180 },
                "lat": { "type": "number", "minimum": -90, "maximum": 90 }
            },
            "required": ["lon", "lat"],
            "additionalProperties": false
        })
    }
}

impl TryFrom<Unchecked> for Position {
    type Error = InvalidPosition;

    fn try_from(unchecked: Unchecked) -> Result<Self, InvalidPosition> {
        Self::new(unchecked.lon, unchecked.lat)
    }
}

impl Position {
    /// A position on the globe, rounded to 1e-7 degrees (about a centimetre).
    pub fn new(longitude: f64, latitude: f64) -> Result<Self, InvalidPosition> {
        if (-180.0..=180.0).contains(&longitude) && (-90.0..=90.0).contains(&latitude) {
            let round = |degrees: f64| (degrees * 1e7).round() / 1e7;
            Ok(Self { longitude: round(longitude), latitude: round(latitude) })
        } else {
            Err(InvalidPosition)
        }
    }

    /// Degrees east.
    pub fn longitude(self) -> f64 {
        self.longitude
    }

    /// Degrees north.
    pub fn latitude(self) -> f64 {
        self.latitude
    }

    /// Great-circle distance in metres (haversine, mean Earth radius of 6,371,008.8 m).
    pub fn distance_m(self, other: Self) -> f64 {
        let (from, to) = (self.latitude.to_radians(), other.latitude.to_radians());
        let half_latitude = (to - from) / 2.0;
        let half_longitude = (other.longitude - self.longitude).to_radians() / 2.0;
        let chord = half_latitude.sin().powi(2) + from.cos() * to.cos() * half_longitude.sin().powi(2);
        2.0 * 6_371_008.8 * chord.sqrt().min(1.0).asin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_off_the_globe_are_refused() {
        assert!(Position::new(13.36, 38.11).is_ok());
        for (longitude, latitude) in [(181.0, 0.0), (0.0, -90.1), (f64::NAN, 0.0), (0.0, f64::INFINITY)] {
            assert_eq!(Position::new(longitude, latitude), Err(InvalidPosition));
        }
    }

    #[test]
    fn one_degree_of_latitude_is_about_111_km() {
        let from = Position::new(13.0, 38.0).unwrap();
        let to = Position::new(13.0, 39.0).unwrap();
        assert!((from.distance_m(to) - 111_195.0).abs() < 1.0);
    }
}
