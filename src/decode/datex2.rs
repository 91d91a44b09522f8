//! DATEX II: measured data of traffic centres, versions 2 and 3, in XML or JSON.
//!
//! Both forms are read as one tree: elements by their local names, without regard to namespaces, envelopes and extensions. Of each
//! `siteMeasurements` count the values whose quantity the standard names and whose unit it fixes ([`QUANTITIES`]). A device is
//! `<site>:<index>`, since one site tells the same quantity of several lanes and kinds of vehicles, and only a site table would say which.
//! Its time is the value's own, else the site's `measurementTimeDefault`, else the publication's.
//!
//! Left out: values that their supplier marks as errors, and means of no vehicle at all. Site tables are not read: places come from the
//! registry of devices. Publications without measurements are refused.

use std::borrow::Cow;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use serde_json::{Map, Value as Json};

use super::fields::number;
use super::{Form, Limits, not_json, text, too_many, whole};
use crate::model::{Decoded, DeviceId, DeviceKind, Fault, Message, Reading, Readings, Reason, Timestamp, Value, Vocabulary};

/// Deepest tree that is read.
const DEPTH_MAX: usize = 64;

/// Quantities: the element that holds the number, that around it which says of what (none: the first says it), the name of the
/// reading, its unit by the standard.
const QUANTITIES: [(&str, Option<&str>, &str, &str); 21] = [
    ("vehicleFlowRate", None, "vehicle_flow", "/h"),
    ("pcuFlowRate", None, "pcu_flow", "/h"),
    ("speed", Some("averageVehicleSpeed"), "average_vehicle_speed", "km/h"),
    ("percentage", Some("occupancy"), "occupancy", "%"),
    ("concentrationOfVehicles", None, "concentration", "/km"),
    ("timeHeadway", Some("averageTimeHeadway"), "time_headway", "s"),
    ("duration", Some("averageTimeHeadway"), "time_headway", "s"),
    ("distance", Some("averageDistanceHeadway"), "distance_headway", "m"),
    ("duration", Some("travelTime"), "travel_time", "s"),
    ("temperature", Some("airTemperature"), "air_temperature", "Cel"),
    ("temperature", Some("roadSurfaceTemperature"), "road_surface_temperature", "Cel"),
    ("temperature", Some("dewPointTemperature"), "dew_point_temperature", "Cel"),
    ("percentage", Some("relativeHumidity"), "relative_humidity", "%"),
    ("speed", Some("windSpeed"), "wind_speed", "km/h"),
    ("speed", Some("maximumWindSpeed"), "wind_gust", "km/h"),
    ("directionBearing", Some("windDirectionBearing"), "wind_direction", "deg"),
    ("millimetresPerHourIntensity", Some("precipitationIntensity"), "precipitation_intensity", "mm/h"),
    ("integerMetreDistance", Some("minimumVisibilityDistance"), "visibility", "m"),
    ("floatingPointMetreDistance", Some("depthOfSnow"), "snow_depth", "m"),
    ("floatingPointMetreDistance", Some("waterFilmThickness"), "water_film", "m"),
    ("microgramsConcentration", None, "concentration_of_pollutant", "ug/m3"),
];

/// Decodes one message.
pub(super) fn decode(form: &Form, message: &Message, limits: &Limits) -> Result<Decoded<'static>, Fault> {
    let text = text(message)?;
    let tree = if text.trim_ascii_start().starts_with(['{', '[']) {
        serde_json::from_str(text).map_err(|error| not_json(&error))?
    } else {
        tree(text)?
    };
    let mut sites = Vec::new();
    let mut published = None;
    find(&tree, &mut sites, &mut published);
    if sites.is_empty() {
        return Err(whole(Reason::Unsupported, "no siteMeasurements: only measured data are taken".to_owned()));
    }
    let published = published.and_then(|time| time.parse().ok()).unwrap_or(message.received);
    let mut taken = Taken { form, message, limits, decoded: Decoded::default(), count: 0 };
    for (index, site) in sites.into_iter().enumerate() {
        taken.site(site, published, &format!("siteMeasurements[{index}]"))?;
    }
    Ok(taken.decoded)
}

/// What `siteMeasurements` there are, however deep, and the time of publication.
fn find<'a>(tree: &'a Json, sites: &mut Vec<&'a Json>, published: &mut Option<&'a str>) {
    match tree {
        Json::Object(object) => {
            for (name, value) in object {
                match (name.as_str(), value) {
                    ("siteMeasurements", Json::Array(several)) => sites.extend(several),
                    ("siteMeasurements", one) => sites.push(one),
                    ("publicationTime", Json::String(time)) => *published = Some(time),
                    (_, below) => find(below, sites, published),
                }
            }
        }
        Json::Array(items) => items.iter().for_each(|item| find(item, sites, published)),
        _ => {}
    }
}

struct Taken<'a> {
    form: &'a Form,
    message: &'a Message,
    limits: &'a Limits,
    decoded: Decoded<'static>,
    count: usize,
}

impl Taken<'_> {
    fn refuse(&mut self, reason: Reason, at: &str, detail: &str) -> Result<(), Fault> {
        self.room()?;
        self.decoded.faults.push(Fault { reason, at: at.to_owned(), detail: detail.to_owned() });
        Ok(())
    }

    fn room(&mut self) -> Result<(), Fault> {
        self.count += 1;
        if self.count > self.limits.readings_max { Err(too_many(self.limits)) } else { Ok(()) }
    }

    fn site(&mut self, site: &Json, published: Timestamp, at: &str) -> Result<(), Fault> {
        let reference = site.get("measurementSiteReference").or_else(|| site.get("measurementSiteRecord"));
        let id = reference.and_then(|reference| ["id", "idG", "@id"].iter().find_map(|key| reference.get(*key))).or(reference);
        let Some(id) = id.and_then(Json::as_str).filter(|id| !id.is_empty()) else {
            return self.refuse(Reason::Name, at, "a measurementSiteReference with an id is expected");
        };
        let time = match site.get("measurementTimeDefault") {
            None => published,
            Some(told) => match instant(told) {
                Some(time) => time,
                None => return self.refuse(Reason::InvalidTime, at, "measurementTimeDefault is no RFC 3339 time"),
            },
        };
        let values = ["measuredValue", "physicalQuantity"].iter().find_map(|name| site.get(*name));
        for value in each(values) {
            let index = ["index", "@index"].iter().find_map(|key| value.get(*key)).map_or_else(String::new, |index| match index {
                Json::String(index) => index.clone(),
                other => other.to_string(),
            });
            let mut found = Vec::new();
            quantities(value, &[], &mut found);
            let mut readings = Vec::new();
            for (name, unit, number, own) in found {
                self.room()?;
                let (value, unit) = (Value::Number(number), Some(Cow::Borrowed(unit)));
                readings.push(Reading { name: Cow::Borrowed(name), value, unit, time: own.unwrap_or(time), position: None });
            }
            if readings.is_empty() {
                continue;
            }
            let device = if index.is_empty() { id.to_owned() } else { format!("{id}:{index}") };
            let names = self.form.topic.find(&self.message.topic);
            self.decoded.devices.push(Readings {
                device: DeviceId::from_foreign(&device),
                kind: DeviceKind::from_foreign(names.kind.unwrap_or("traffic-site")),
                domain: names.domain,
                vocabulary: Vocabulary::Sender { model: None },
                readings,
            });
        }
        Ok(())
    }
}

fn each(values: Option<&Json>) -> impl Iterator<Item = &Json> {
    match values {
        Some(Json::Array(several)) => several.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    }
    .iter()
}

/// A time, also as version 3 has it in JSON.
fn instant(told: &Json) -> Option<Timestamp> {
    ["timeValue", "#text"].iter().find_map(|key| told.get(*key)).unwrap_or(told).as_str()?.trim().parse().ok()
}

/// The quantities at or below an element whose ancestors are given, the nearest last.
fn quantities<'a>(tree: &'a Json, above: &[&'a str], found: &mut Vec<(&'static str, &'static str, f64, Option<Timestamp>)>) {
    if above.len() > DEPTH_MAX {
        return;
    }
    let Json::Object(object) = tree else { return };
    let is = |key: &str, wanted: &str| {
        [key, &format!("@{key}")]
            .iter()
            .filter_map(|key| object.get(*key))
            .any(|value| value.as_str().is_some_and(|text| text == wanted) || (wanted == "true" && value.as_bool() == Some(true)))
    };
    if is("dataError", "true") || is("numberOfInputValuesUsed", "0") {
        return;
    }
    let own = object.get("measurementOrCalculationTime").and_then(instant);
    for (name, value) in object {
        let local = name.as_str();
        let around: Vec<&str> = above.iter().copied().chain([local]).collect();
        for value in each(Some(value)) {
            let leaf = number(value.get("#text").unwrap_or(value));
            let quantity = QUANTITIES
                .iter()
                .find(|(leaf, of, ..)| *leaf == local && of.is_none_or(|of| above.iter().rev().take(2).any(|above| *above == of)));
            match (leaf, quantity) {
                (Some(number), Some((_leaf, _of, name, unit))) => {
                    let is_empty = value.get("@numberOfInputValuesUsed").is_some_and(|used| used == "0");
                    // Negative speeds stand for no vehicle.
                    let is_none = is_empty || (*unit == "km/h" && number < 0.0);
                    if !is_none {
                        found.push((*name, *unit, number, own));
                    }
                }
                _ => quantities(value, &around, found),
            }
        }
    }
}

/// XML as a tree: elements by local name, several of one name as a list, attributes with `@` before, text beside them as `#text`. No entity
/// of a document's own is expanded.
fn tree(text: &str) -> Result<Json, Fault> {
    let malformed = |detail: String, at: u64| Fault { reason: Reason::Malformed, at: format!("byte {at}"), detail };
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut stack: Vec<(String, Map<String, Json>, String)> = vec![(String::new(), Map::new(), String::new())];
    loop {
        let event = reader.read_event().map_err(|error| malformed(error.to_string(), reader.error_position()))?;
        match event {
            Event::Start(start) => {
                if stack.len() > DEPTH_MAX {
                    return Err(malformed(format!("deeper than {DEPTH_MAX} elements"), reader.buffer_position()));
                }
                let attributes = attributes(&start).map_err(|detail| malformed(detail, reader.buffer_position()))?;
                stack.push((local(start.local_name().as_ref()), attributes, String::new()));
            }
            Event::Text(told) => {
                let told = told.decode().map_err(|error| malformed(error.to_string(), reader.buffer_position()))?;
                if let Some((_name, _object, text)) = stack.last_mut() {
                    text.push_str(told.trim());
                }
            }
            Event::CData(told) => {
                let told = told.decode().map_err(|error| malformed(error.to_string(), reader.buffer_position()))?;
                if let Some((_name, _object, text)) = stack.last_mut() {
                    text.push_str(told.trim());
                }
            }
            Event::End(_) => {
                let (name, mut object, text) = stack.pop().unwrap_or_default();
                let value = if object.is_empty() {
                    Json::String(text)
                } else {
                    if !text.is_empty() {
                        object.insert("#text".to_owned(), Json::String(text));
                    }
                    Json::Object(object)
                };
                let Some((_name, outer, _text)) = stack.last_mut() else {
                    return Err(malformed("an element ends that never began".to_owned(), reader.buffer_position()));
                };
                match outer.get_mut(&name) {
                    None => drop(outer.insert(name, value)),
                    Some(Json::Array(several)) => several.push(value),
                    Some(first) => *first = Json::Array(vec![first.take(), value]),
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    match (stack.pop(), stack.is_empty()) {
        (Some((_name, object, _text)), true) if !object.is_empty() => Ok(Json::Object(object)),
        _ => Err(malformed("the document is not whole".to_owned(), reader.buffer_position())),
    }
}

fn local(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn attributes(start: &BytesStart<'_>) -> Result<Map<String, Json>, String> {
    let mut attributes = Map::new();
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| error.to_string())?;
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| error.to_string())?.into_owned();
        // A namespace says nothing here.
        if !attribute.key.as_ref().starts_with(b"xmlns") {
            attributes.insert(format!("@{}", local(attribute.key.local_name().as_ref())), Json::String(value));
        }
    }
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use crate::decode::material::material;
    use crate::decode::tests::{check, shown};
    use crate::decode::{Decoder, Form};

    fn form() -> Form {
        Form { decoder: Decoder::Datex2, ..Form::default() }
    }

    #[test]
    fn sites_are_measured_in_both_forms() {
        let said = "S1:1 traffic-site \nvehicle_flow=600 /h\nS1:2 traffic-site \naverage_vehicle_speed=48.5 km/h";
        check(
            &form(),
            "t",
            r#"<?xml version="1.0"?><s:Envelope xmlns:s="soap"><s:Body><d:d2LogicalModel xmlns:d="x"><d:payloadPublication><d:publicationTime>2026-03-01T08:00:00Z</d:publicationTime>
               <d:siteMeasurements><d:measurementSiteReference id="S1" version="1"/><d:measurementTimeDefault>2026-03-01T07:59:00+01:00</d:measurementTimeDefault>
               <d:measuredValue index="1"><d:measuredValue><d:basicData><d:vehicleFlow><d:vehicleFlowRate>600</d:vehicleFlowRate></d:vehicleFlow></d:basicData></d:measuredValue></d:measuredValue>
               <d:measuredValue index="2"><d:measuredValue><d:basicData><d:averageVehicleSpeed numberOfInputValuesUsed="3"><d:speed>48.5</d:speed></d:averageVehicleSpeed></d:basicData></d:measuredValue></d:measuredValue>
               <d:measuredValue index="3"><d:measuredValue><d:basicData><d:averageVehicleSpeed numberOfInputValuesUsed="0"><d:speed>-1</d:speed></d:averageVehicleSpeed></d:basicData></d:measuredValue></d:measuredValue>
               <d:measuredValue index="4"><d:measuredValue><d:basicData><d:vehicleFlow><d:dataError>true</d:dataError><d:vehicleFlowRate>9</d:vehicleFlowRate></d:vehicleFlow></d:basicData></d:measuredValue></d:measuredValue>
               </d:siteMeasurements></d:payloadPublication></d:d2LogicalModel></s:Body></s:Envelope>"#,
            said,
        );
        check(
            &form(),
            "t",
            r#"{"payload":{"roaMeasuredDataPublication":{"publicationTime":"2026-03-01T08:00:00Z","siteMeasurements":[{"measurementSiteReference":{"idG":"S1","versionG":"1"},
               "measurementTimeDefault":{"timeValue":"2026-03-01T07:59:00Z"},"physicalQuantity":[
               {"index":1,"singlePhysicalQuantity":{"basicData":{"trafficFlow":{"vehicleFlow":{"vehicleFlowRate":600}}}}},
               {"index":2,"singlePhysicalQuantity":{"basicData":{"trafficSpeed":{"averageVehicleSpeed":{"speed":48.5}}}}}]}]}}}"#,
            said,
        );
    }

    #[test]
    fn what_is_not_measured_data_is_refused() {
        check(&form(), "t", "<a><b/></a>", "rejected: unsupported: no siteMeasurements: only measured data are taken");
        check(&form(), "t", "<a><b></a>", "rejected: malformed at byte 6: ill-formed document: expected `</b>`, but `</a>` was found");
        check(&form(), "t", "<a><b>", "rejected: malformed at byte 6: the document is not whole");
        check(&form(), "t", &"<a>".repeat(100), "rejected: malformed at byte 195: deeper than 64 elements");
        check(
            &form(),
            "t",
            "<r><siteMeasurements/></r>",
            "fault: name at siteMeasurements[0]: a measurementSiteReference with an id is expected",
        );
        let bomb = r#"<!DOCTYPE r [<!ENTITY a "x"><!ENTITY b "&a;&a;">]><r><siteMeasurements><measurementSiteReference id="&b;"/></siteMeasurements></r>"#;
        check(&form(), "t", bomb, "rejected: malformed at byte 107: at 1..2: unrecognized entity `b`");
        let named = r#"<r><siteMeasurements><measurementSiteReference id="A &amp; B"/><measuredValue index="1"><vehicleFlowRate>5</vehicleFlowRate></measuredValue></siteMeasurements></r>"#;
        let same =
            r#"{"siteMeasurements":{"measurementSiteReference":{"idG":"A & B"},"physicalQuantity":{"index":1,"vehicleFlowRate":5}}}"#;
        assert_eq!(shown(&form(), "t", named.as_bytes()), shown(&form(), "t", same.as_bytes()));
        assert!(shown(&form(), "t", same.as_bytes()).contains("vehicle_flow=5 /h"));
    }

    #[test]
    fn examples_are_read() {
        let Some(folder) = material("datex2", "examples_are_read") else { return };
        let read = |path: &str| shown(&form(), "t", &std::fs::read(folder.join(path)).unwrap());
        assert_eq!(
            read("v2-measured-data-ch.xml"),
            "ZH.CH:TEST.01:11 traffic-site \nvehicle_flow=1200 /h\nZH.CH:TEST.01:12 traffic-site \naverage_vehicle_speed=76.5 km/h"
        );
        let situation = read("UF2024/Schema_Small_Accident/Situation Accident example.json");
        assert_eq!(situation, "rejected: unsupported: no siteMeasurements: only measured data are taken");
    }
}
