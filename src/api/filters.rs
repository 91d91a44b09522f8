//! What the addresses about observations have in common: parameters that choose, and how places and codes are told.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::Serialize;

use super::Context;
use super::params::Query;
use super::problem::Problem;
use crate::model::{Domain, Kind, Position, Property, PropertyIndex, Timestamp};
use crate::query::ask::{Answers, Filter, Quality};

/// How far back answers go where nothing else is asked for.
pub(super) const DAY: Duration = Duration::from_hours(24);

/// Parameters that choose devices and places, for the description of addresses.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) struct DeviceParams {
    /// Devices by name, a list.
    #[param(value_type = Option<String>, example = "air-station-001,air-station-002")]
    device: Option<String>,
    /// Devices by kind, a list.
    #[param(value_type = Option<String>, example = "air-station")]
    kind: Option<String>,
    /// Devices by domain, a list of mobility, environment, energy and security.
    #[param(value_type = Option<String>, example = "environment")]
    domain: Option<String>,
    /// By district, a list.
    #[param(value_type = Option<String>, example = "pa-c1,pa-c2")]
    district: Option<String>,
    /// Between two corners: west,south,east,north in degrees.
    #[param(value_type = Option<String>, example = "13.33,38.09,13.39,38.13")]
    bbox: Option<String>,
    /// Around a point: longitude,latitude,radius in metres. Excludes `bbox`.
    #[param(value_type = Option<String>, example = "13.361,38.115,1500")]
    near: Option<String>,
}

/// Which observations count, for the description of addresses.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) struct QualityParams {
    /// `trusted`, the default: only observations about which nothing is suspect. `any`: all of them.
    #[param(value_type = Option<String>, example = "trusted")]
    quality: Option<String>,
}

/// Between which times, for the description of addresses.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) struct TimeParams {
    /// From this phenomenon time, which belongs to it. Left out: 24 hours before `to`.
    #[param(value_type = Option<String>, example = "now-24h")]
    from: Option<String>,
    /// To this phenomenon time, which does not belong to it. Left out: now.
    #[param(value_type = Option<String>, example = "now")]
    to: Option<String>,
}

/// Reads what chooses devices and places.
pub(super) fn filter(query: &mut Query, context: &Context) -> Filter {
    let domains = Domain::CITY.map(|domain| (domain.as_str(), domain));
    Filter {
        devices: query.list("device"),
        kinds: query.list("kind"),
        domains: query.words("domain", &domains),
        districts: query.found("district", "district", |id| context.districts.by_id(id)),
        area: query.area(),
        quality: Quality::Any,
    }
}

/// Reads which observations count.
pub(super) fn quality(query: &mut Query) -> Quality {
    query.word("quality", &[("trusted", Quality::Trusted), ("any", Quality::Any)]).unwrap_or_default()
}

/// The word of a quality.
pub(super) fn quality_word(quality: Quality) -> &'static str {
    match quality {
        Quality::Trusted => "trusted",
        Quality::Any => "any",
    }
}

/// Reads a list of properties.
pub(super) fn properties(query: &mut Query, context: &Context) -> Vec<PropertyIndex> {
    query.found("property", "property", |id| context.catalogue.find(id))
}

/// The property of that id; refused where there is none.
pub(super) fn one_property(query: &mut Query, context: &Context, id: &str) -> Option<PropertyIndex> {
    let found = context.catalogue.find(id);
    if found.is_none() {
        query.refuse("property", format!("there is no property {:?}; /v1/properties lists them", super::params::shorten(id)));
    }
    found
}

/// Reads the zone of windows.
pub(super) fn zone(query: &mut Query, context: &Context) -> TimeZone {
    query.time_zone("zone").unwrap_or_else(|| context.config.city.zone())
}

/// RFC 3339 with the zone's offset.
pub(super) fn local(zone: &TimeZone, time: Timestamp) -> String {
    let time = jiff::Timestamp::from(time);
    time.display_with_offset(zone.to_offset(time)).to_string()
}

/// Who answers.
pub(super) fn answers(context: &Context) -> Answers {
    Answers::new(
        context.history.clone(),
        Arc::clone(context.database.live()),
        Arc::clone(&context.catalogue),
        Arc::clone(&context.districts),
        Arc::clone(&context.clock),
        context.config.query.clone(),
    )
}

/// WGS 84 in degrees.
#[derive(Clone, Copy, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Place {
    /// Degrees east.
    #[schema(example = 13.3612)]
    lon: f64,
    /// Degrees north.
    #[schema(example = 38.1157)]
    lat: f64,
}

impl From<Position> for Place {
    fn from(position: Position) -> Self {
        Self { lon: position.longitude(), lat: position.latitude() }
    }
}

/// The word for a value that is a state's code.
pub(super) fn state_word(property: &Property, value: f64) -> Option<String> {
    if property.kind != Kind::State {
        return None;
    }
    property.states.iter().find(|(code, _state)| code.parse() == Ok(value)).map(|(_code, state)| state.id.clone())
}

/// The district's id.
pub(super) fn district_id(context: &Context, district: Option<crate::model::DistrictIndex>) -> Option<String> {
    district.map(|district| context.districts.get(district).id.clone())
}

/// Where the next page is (RFC 8288), for formats that have no room to say so.
pub(super) fn next_link(uri: &axum::http::Uri, cursor: &str) -> String {
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let mut next = url::form_urlencoded::Serializer::new(String::new());
    next.extend_pairs(pairs.filter(|(name, _value)| name != "cursor")).append_pair("cursor", cursor);
    format!("<{}?{}>; rel=\"next\"", uri.path(), next.finish())
}

/// Adds the link to the next page, if there is one.
pub(super) fn with_next(
    mut response: axum::response::Response,
    uri: &axum::http::Uri,
    cursor: Option<&str>,
) -> Result<axum::response::Response, Problem> {
    if let Some(cursor) = cursor {
        let link = axum::http::HeaderValue::try_from(next_link(uri, cursor)).map_err(|error| Problem::internal(&error))?;
        response.headers_mut().insert(axum::http::header::LINK, link);
    }
    Ok(response)
}
