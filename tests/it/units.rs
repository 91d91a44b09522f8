//! Units: the definitions of UCUM, and the spellings of vendors.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use conca::decode::Decoder;
use conca::mapping::{Dictionary, Mapper};
use conca::model::{
    Catalogue, DeviceId, DeviceKind, Districts, Kind, Normalised, Property, Reading, Readings, Registry, SourceName, Summary, Timestamp,
    Value, Vocabulary,
};
use conca::normalise::{Normaliser, TimeBounds};

use crate::material::material;

/// Powers of the base units: metre, second, gram, radian, kelvin, coulomb, candela.
type Dimension = BTreeMap<String, i32>;

/// A unit by its definition.
#[derive(Clone, Debug, Default)]
struct Defined {
    magnitude: f64,
    dimension: Dimension,
    /// Defined by a function, or by what only a procedure says: no factor makes another unit of it.
    has_no_factor: bool,
}

/// What the file of UCUM says: `(value, unit)` of each unit, with whether prefixes go before it.
#[derive(Default)]
struct Essence {
    bases: Vec<String>,
    prefixes: BTreeMap<String, f64>,
    units: BTreeMap<String, Unit>,
}

#[derive(Default)]
struct Unit {
    value: f64,
    of: String,
    is_metric: bool,
    has_no_factor: bool,
}

impl Essence {
    fn read(text: &str) -> Self {
        let mut essence = Self::default();
        let mut code = String::new();
        for element in text.split('<').filter(|element| !element.starts_with(['/', '?', '!'])) {
            let attribute = |name: &str| {
                let opening = format!("{name}=\"");
                let is_whole = |at: usize| element[..at].ends_with(char::is_whitespace);
                let at = element.match_indices(&opening).map(|(at, _opening)| at).find(|at| is_whole(*at))?;
                element[at + opening.len()..].split('"').next().map(str::to_owned)
            };
            let is = |name: &str| element.split([' ', '\n', '>']).next() == Some(name);
            if is("prefix") {
                code = attribute("Code").unwrap();
                essence.prefixes.insert(code.clone(), f64::NAN);
            } else if is("base-unit") {
                essence.bases.push(attribute("Code").unwrap());
            } else if is("unit") {
                code = attribute("Code").unwrap();
                let of = |name| element.contains(&format!("{name}=\"yes\""));
                let unit = Unit { is_metric: of("isMetric"), has_no_factor: of("isSpecial") || of("isArbitrary"), ..Unit::default() };
                essence.units.insert(code.clone(), unit);
            } else if is("value") {
                let value = attribute("value").map_or(f64::NAN, |value| value.parse().unwrap());
                match essence.units.get_mut(&code) {
                    Some(unit) if unit.of.is_empty() => (unit.value, unit.of) = (value, attribute("Unit").unwrap()),
                    Some(_known) => panic!("{code} has two values"),
                    None => drop(essence.prefixes.insert(code.clone(), value)),
                }
            }
        }
        essence
    }

    /// A term: symbols with exponents, joined by `.` and `/`. The file has no parentheses.
    fn term(&self, term: &str) -> Defined {
        let mut whole = Defined { magnitude: 1.0, ..Defined::default() };
        let (mut sign, mut from, mut is_inside) = (1, 0, false);
        for (at, letter) in term.char_indices().chain([(term.len(), '.')]) {
            is_inside = (is_inside || letter == '[') && letter != ']';
            if is_inside || !(letter == '.' || letter == '/') {
                continue;
            }
            if from < at {
                let part = self.component(&term[from..at]);
                whole.magnitude *= part.magnitude.powi(sign);
                for (base, power) in part.dimension {
                    *whole.dimension.entry(base).or_default() += power * sign;
                }
                whole.has_no_factor |= part.has_no_factor;
            }
            (sign, from) = (if letter == '/' { -1 } else { 1 }, at + 1);
        }
        whole.dimension.retain(|_base, power| *power != 0);
        whole
    }

    fn component(&self, text: &str) -> Defined {
        if let Ok(number) = text.parse() {
            return Defined { magnitude: number, ..Defined::default() };
        }
        // What stands in braces is a word for people, and one (UCUM, section 6).
        if text.starts_with('{') && text.ends_with('}') {
            return Defined { magnitude: 1.0, ..Defined::default() };
        }
        let symbol = text.trim_end_matches(|letter: char| letter.is_ascii_digit());
        let symbol = if symbol.len() < text.len() { symbol.trim_end_matches(['+', '-']) } else { symbol };
        let power: i32 = if symbol.len() < text.len() { text[symbol.len()..].parse().unwrap() } else { 1 };
        let mut unit = self.symbol(symbol).unwrap_or_else(|| panic!("{symbol} of {text}"));
        unit.magnitude = unit.magnitude.powi(power);
        unit.dimension.values_mut().for_each(|of| *of *= power);
        unit
    }

    fn symbol(&self, symbol: &str) -> Option<Defined> {
        if self.bases.iter().any(|base| base == symbol) {
            return Some(Defined { magnitude: 1.0, dimension: [(symbol.to_owned(), 1)].into(), has_no_factor: false });
        }
        if let Some(unit) = self.units.get(symbol) {
            if unit.has_no_factor {
                return Some(Defined { magnitude: f64::NAN, has_no_factor: true, ..Defined::default() });
            }
            let of = self.term(&unit.of);
            return Some(Defined { magnitude: unit.value * of.magnitude, ..of });
        }
        self.prefixes.iter().find_map(|(prefix, factor)| {
            let rest = symbol.strip_prefix(prefix.as_str())?;
            let takes = self.bases.iter().any(|base| base == rest) || self.units.get(rest).is_some_and(|unit| unit.is_metric);
            let unit = if takes { self.symbol(rest)? } else { return None };
            Some(Defined { magnitude: factor * unit.magnitude, ..unit })
        })
    }
}

/// Turns one reading into an observation, or says why not.
struct Converter {
    catalogue: Arc<Catalogue>,
    normaliser: Normaliser,
    mapper: Mapper,
}

impl Converter {
    fn new() -> Self {
        let catalogue = Arc::new(Catalogue::built_in());
        let normaliser = Normaliser::new(Arc::clone(&catalogue), Arc::new(Districts::built_in()));
        Self { catalogue, normaliser, mapper: Mapper::new(Dictionary::built_in(), Vec::new()) }
    }

    fn readings(name: &str, value: f64, unit: &str, vocabulary: Vocabulary<'static>) -> Readings<'static> {
        let (name, unit) = (Cow::Owned(name.to_owned()), Some(Cow::Owned(unit.to_owned())));
        let reading = Reading { name, value: Value::Number(value), unit, time: Timestamp::MIN, position: None };
        let (device, kind) = (DeviceId::try_from("d").unwrap(), DeviceKind::try_from("k").unwrap());
        Readings { device, kind, domain: None, vocabulary, readings: vec![reading] }
    }

    fn normalised(&self, readings: Vec<Readings<'static>>) -> Result<f64, String> {
        let ever = Duration::from_secs(u32::MAX.into());
        let bounds = TimeBounds { past_max: ever, past_trusted_max: None, future_max: ever, skew_max: ever };
        let Normalised { devices, faults, .. } = self.normaliser.normalise(readings, Timestamp::MIN, &bounds, &Registry::default());
        let value = devices.first().and_then(|device| device.observations.first()).map(|observation| observation.value);
        value.ok_or_else(|| faults.first().map_or_else(|| "no reading".to_owned(), ToString::to_string))
    }

    /// A property's number in a UCUM unit.
    fn converted(&self, property: &str, value: f64, unit: &str) -> Result<f64, String> {
        self.normalised(vec![Self::readings(property, value, unit, Vocabulary::Catalogue)])
    }

    /// A field's number in a unit as vendors spell it.
    fn mapped(&self, field: &str, value: f64, unit: &str) -> Result<f64, String> {
        let readings = Self::readings(field, value, unit, Vocabulary::Sender { model: None });
        let mut unmapped = Vec::new();
        let mapped = self.mapper.map(&SourceName::try_from("s").unwrap(), Decoder::Json, readings, &mut unmapped);
        self.normalised(mapped).map_err(|error| format!("{error} {unmapped:?}"))
    }
}

/// Every unit that the file of UCUM defines, held against every unit of the catalogue: the file's factor where both are of one dimension,
/// refused where they are not.
#[test]
fn units_convert_as_ucum_defines_them() {
    let Some(path) = material("units_convert_as_ucum_defines_them", "ucum/ucum-essence.xml") else { return };
    let essence = Essence::read(&std::fs::read_to_string(path).unwrap());
    assert!(essence.units.len() > 290 && essence.bases.len() == 7 && essence.prefixes.len() >= 20);
    let converter = Converter::new();
    let mut by_unit = BTreeMap::new();
    // Of logarithms only those of the same kind become each other.
    let is_linear = |property: &Property| property.summary != Summary::Energetic && property.unit != "[pH]";
    for (_index, property) in converter.catalogue.iter().filter(|(_index, property)| property.kind != Kind::State && is_linear(property)) {
        by_unit.entry(property.unit.clone()).or_insert_with(|| Arc::clone(property));
    }
    let (mut wrong, mut right, mut refused) = (Vec::new(), 0, 0);
    for unit in essence.units.keys().chain(&essence.bases) {
        for (canonical, property) in &by_unit {
            // Celsius is kelvin, moved.
            let (target, moved) = if canonical == "Cel" { (essence.term("K"), 273.15) } else { (essence.term(canonical), 0.0) };
            // Large against what values are rounded to.
            let large = 1.234_567_8e7 * property.resolution;
            let (value, dimension, wanted) = if let Some((of, linear)) = by_function(unit) {
                let of = essence.term(of);
                (1.0, Some(of.dimension), linear * of.magnitude / target.magnitude - moved)
            } else {
                let defined = essence.term(unit);
                let value = (large + moved) * target.magnitude / defined.magnitude;
                (value, (!defined.has_no_factor).then_some(defined.dimension), large)
            };
            let fits = dimension.as_ref() == Some(&target.dimension);
            let error_max = property.resolution * 0.500_001 + 1e-6 * f64::abs(wanted);
            match converter.converted(&property.id, if fits { value } else { 1.0 }, unit) {
                Ok(found) if fits && (found - wanted).abs() <= error_max => right += 1,
                // By a function, an angle of a slope; nobody sends it.
                Err(_refused) if !fits || ["%[slope]", "[p'diop]"].contains(&unit.as_str()) => refused += 1,
                outcome => wrong.push(format!("{unit} as {canonical}: {outcome:?}, not {wanted} (fits: {fits})")),
            }
        }
    }
    assert_eq!(wrong.join("\n"), "");
    assert!(right >= 300 && refused >= 8_000, "{right} {refused}");
}

/// What one of a unit that is defined by a function is: so many of another unit (UCUM, tables of special units).
fn by_function(unit: &str) -> Option<(&'static str, f64)> {
    let ten: f64 = 10.0;
    Some(match unit {
        "Cel" => ("K", 1.0 + 273.15),
        "[degF]" => ("K", (1.0 + 459.67) * 5.0 / 9.0),
        "[degRe]" => ("K", 1.25 + 273.15),
        "%[slope]" | "[p'diop]" => ("rad", f64::atan(0.01)),
        "[hp'_X]" => ("1", 0.1),
        "[hp'_C]" => ("1", 0.01),
        "[hp'_M]" => ("1", 0.001),
        "[hp'_Q]" => ("1", 1.0 / 50_000.0),
        "[pH]" => ("mol/l", 0.1),
        "Np" => ("1", std::f64::consts::E),
        "B" => ("1", ten),
        "B[SPL]" => ("10*-5.Pa", 2.0 * ten.sqrt()),
        "B[V]" => ("V", ten.sqrt()),
        "B[mV]" => ("mV", ten.sqrt()),
        "B[uV]" => ("uV", ten.sqrt()),
        "B[10.nV]" => ("nV", ten * ten.sqrt()),
        "B[W]" => ("W", ten),
        "B[kW]" => ("kW", ten),
        "bit_s" => ("1", 2.0),
        _ => return None,
    })
}

#[test]
fn units_are_understood_as_vendors_spell_them() {
    let converter = Converter::new();
    for (field, value, spellings, expected) in [
        ("temperature", 21.5, "°C|Celsius|℃|degC|Cel|C|deg C|ºC|˚C|celsius|degrees Celsius|CEL", 21.5),
        ("temperature", 70.7, "°F|F|degF|Fahrenheit|ºF|deg F|FAH", 21.5),
        ("temperature", 294.65, "K|Kelvin|kelvin|KEL", 21.5),
        ("pm10", 31.2, "ug/m3|µg/m³|μg/m³|µg/m3|μg/m3|ug/m^3|µg/m^3|ug/m³|µg m-3|µg⋅m⁻³|GQ", 31.2),
        ("pm10", 0.0312, "mg/m3|mg/m³|mg/m^3|GP", 31.2),
        ("humidity", 45.5, "%|%RH|% RH|%rH|%rh|percent|pct|P1", 45.5),
        ("total_active_energy", 1.5, "kWh|kW.h|kW·h|KWH|kwh", 1.5),
        ("total_active_energy", 1_500.0, "Wh|W.h|W·h|WHR|wh", 1.5),
        ("total_active_energy", 0.0015, "MWh|MW.h", 1.5),
        ("active_power", 2_500.0, "W|watt|Watt|WTT", 2.5),
        ("active_power", 2.5, "kW|KWT|kw", 2.5),
        ("noise", 64.9, "dBA|dB(A)|dB|dba|dB A|db|2N|DBA", 64.9),
        ("wind_speed", 36.0, "km/h|kph|kmh|kmph|Km/h|KMH|KM/H", 10.0),
        ("wind_speed", 22.369_363, "mph|mi/h|MPH|[mi_i]/h|HM", 10.0),
        ("wind_speed", 19.438_445, "knots|knot|kn|kt|[kn_i]|KNT|Knots", 10.0),
        ("wind_speed", 10.0, "m/s|mps|m s-1|m·s⁻¹|ms-1|MTS", 10.0),
        ("illuminance", 350.0, "lx|lux|Lux|LUX", 350.0),
        ("co2", 612.0, "ppm|[ppm]|PPM|59", 612.0),
        // Factors of European reporting, at 20 °C and 1013 hPa.
        ("no2", 20.0, "ppb|[ppb]|PPB|61", 38.3),
        ("o3", 50.0, "ppb", 99.8),
        ("so2", 10.0, "ppb", 26.6),
        ("no2", 0.02, "ppm", 38.3),
        ("co", 1.0, "ppm", 1.16),
        ("benzene", 2.0, "ppb", 6.5),
        ("atmospheric_pressure", 1_013.2, "hPa|mbar|mb|millibar|HPA|MBR|A97", 1_013.2),
        ("atmospheric_pressure", 101_320.0, "Pa|pascal|PAL", 1_013.2),
        ("atmospheric_pressure", 101.32, "kPa|KPA", 1_013.2),
        ("atmospheric_pressure", 29.92, "inHg|[in_i'Hg]|in Hg", 1_013.2),
        ("atmospheric_pressure", 760.0, "mmHg|mm[Hg]|HN|mm Hg", 1_013.2),
        ("battery_voltage", 3.61, "V|volt|volts|Volt|VLT", 3.61),
        ("battery_voltage", 3_610.0, "mV|millivolt|2Z", 3.61),
        ("solar_radiation", 812.4, "W/m2|W/m²|D54", 812.4),
        ("soil_ec", 350.0, "uS/cm|µS/cm|μS/cm", 350.0),
        ("soil_ec", 0.35, "mS/cm", 350.0),
        ("rainfall", 1.0, "in|inch|inches|[in_i]", 25.4),
        ("rainfall", 2.5, "mm|millimeter|MMT", 2.5),
        ("distance", 1_250.0, "mm", 1.25),
        ("wind_direction", 270.0, "deg|°|degree|degrees|DD", 270.0),
        ("rssi", -92.0, "dBm|DBM", -92.0),
    ] {
        for spelling in spellings.split('|') {
            let found = converter.mapped(field, value, spelling).unwrap_or_else(|error| panic!("{field} in {spelling:?}: {error}"));
            assert!((found - expected).abs() <= 0.003 * f64::abs(expected), "{field}: {value} {spelling} is {found}, not {expected}");
        }
    }
    // What no property of the catalogue is in is a UCUM code all the same.
    let dictionary = Dictionary::built_in();
    for (spelling, code) in [
        ("mm/h", "mm/h"),
        ("mm/hr", "mm/h"),
        ("in/h", "[in_i]/h"),
        ("in/hr", "[in_i]/h"),
        ("l/s", "l/s"),
        ("L/s", "L/s"),
        ("m3/h", "m3/h"),
        ("m³/h", "m3/h"),
        ("#/cm³", "/cm3"),
        ("1/cm3", "/cm3"),
        ("L/min", "L/min"),
        ("psi", "[psi]"),
        ("pH", "[pH]"),
    ] {
        assert_eq!(dictionary.unit(spelling), code, "{spelling}");
        assert!(conca::normalise::unit_problem(code, code).is_none(), "{code}");
    }
}
