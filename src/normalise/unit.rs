//! Unit conversion by the Unified Code for Units of Measure (UCUM), through `octofhir-ucum`.
//!
//! A conversion is worked out once and remembered as a factor and an offset; a flood of invented units is worked out
//! each time instead, since the memory is bounded.

use hashbrown::HashMap;
use octofhir_ucum::{AdvancedConversionContext, convert_with_context};
use parking_lot::RwLock;

use crate::model::PropertyIndex;

/// Longest unit that is looked at, in bytes: real ones are far shorter.
const UNIT_BYTES_MAX: usize = 40;

/// Conversions that are remembered.
const REMEMBERED_MAX: usize = 1_024;

/// A unit cannot be converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnitError {
    #[error("not a UCUM unit")]
    Unknown,
    #[error("a unit of another dimension")]
    Dimension,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Conversion {
    Linear {
        factor: f64,
        offset: f64,
    },
    /// Through a function, such as a level's.
    Special,
}

/// Conversions that were needed so far.
#[derive(Debug, Default)]
pub(super) struct Conversions(RwLock<HashMap<PropertyIndex, ByUnit>>);

type ByUnit = HashMap<String, Result<Conversion, UnitError>>;

impl Conversions {
    /// `value` in `unit`, expressed in `canonical`, the unit of `property`.
    pub(super) fn convert(&self, value: f64, unit: &str, property: PropertyIndex, canonical: &str) -> Result<f64, UnitError> {
        let known = self.0.read().get(&property).and_then(|units| units.get(unit)).copied();
        let conversion = known.unwrap_or_else(|| self.work_out(unit, property, canonical))?;
        match conversion {
            Conversion::Linear { factor, offset } => Ok(value.mul_add(factor, offset)),
            Conversion::Special => octofhir_ucum::convert(value, unit, canonical).map_err(|_error| UnitError::Dimension),
        }
    }

    fn work_out(&self, unit: &str, property: PropertyIndex, canonical: &str) -> Result<Conversion, UnitError> {
        let conversion = conversion(unit, canonical);
        if unit.len() > UNIT_BYTES_MAX {
            return conversion;
        }
        let mut known = self.0.write();
        if known.values().map(HashMap::len).sum::<usize>() < REMEMBERED_MAX {
            known.entry(property).or_default().insert(unit.to_owned(), conversion);
        }
        conversion
    }
}

/// Slopes, which the library takes for degrees.
const MISTAKEN: [&str; 2] = ["%[slope]", "[p'diop]"];

/// How a unit becomes another one, worked out.
pub(super) fn conversion(unit: &str, canonical: &str) -> Result<Conversion, UnitError> {
    if unit.len() > UNIT_BYTES_MAX || MISTAKEN.iter().any(|mistaken| unit.contains(mistaken)) {
        return Err(UnitError::Unknown);
    }
    if octofhir_ucum::validate(unit).is_err() {
        return Err(UnitError::Unknown);
    }
    let result =
        convert_with_context(1.0, unit, canonical, &AdvancedConversionContext::default()).map_err(|_error| UnitError::Dimension)?;
    Ok(match (result.factor, result.offset) {
        (Some(factor), offset) => Conversion::Linear { factor: factor.to_f64(), offset: offset.map_or(0.0, octofhir_ucum::Number::to_f64) },
        (None, _) => Conversion::Special,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: f64, unit: &str, canonical: &str, expected: Result<f64, UnitError>) {
        let conversions = Conversions::default();
        for _worked_out_then_remembered in 0..2 {
            let converted = conversions.convert(value, unit, PropertyIndex(0), canonical);
            match (converted, expected) {
                (Ok(converted), Ok(expected)) => {
                    assert!((converted - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{value} {unit} is {converted} {canonical}");
                }
                (converted, expected) => assert_eq!(converted, expected, "{value} {unit}"),
            }
        }
    }

    #[test]
    fn usual_units_convert() {
        check(64.9, "[degF]", "Cel", Ok((64.9 - 32.0) / 1.8));
        check(300.0, "K", "Cel", Ok(26.85));
        check(-40.0, "[degF]", "Cel", Ok(-40.0));
        check(1.5, "mg/m3", "ug/m3", Ok(1_500.0));
        check(10.0, "m/s", "km/h", Ok(36.0));
        check(60.0, "[mi_i]/h", "km/h", Ok(96.560_64));
        check(101_325.0, "Pa", "hPa", Ok(1_013.25));
        check(1.0, "bar", "hPa", Ok(1_000.0));
        check(760.0, "mm[Hg]", "hPa", Ok(1_013.247_2));
        check(1_234.0, "W.h", "kW.h", Ok(1.234));
        check(3.6e6, "J", "kW.h", Ok(1.0));
        check(0.42, "1", "%", Ok(42.0));
        check(90.0, "deg", "deg", Ok(90.0));
        check(6.5, "B", "dB", Ok(65.0));
    }

    #[test]
    fn another_dimension_is_never_converted_and_nonsense_is_no_unit() {
        check(1.0, "kW.h", "Cel", Err(UnitError::Dimension));
        check(1.0, "km", "km/h", Err(UnitError::Dimension));
        for nonsense in ["", "°C", "Celsius", "(((((", "m//s", "kilo", "%[slope]", &"m.".repeat(30)] {
            check(1.0, nonsense, "Cel", Err(UnitError::Unknown));
        }
    }

    #[test]
    fn a_flood_of_units_is_not_remembered() {
        let conversions = Conversions::default();
        for index in 0..3_000 {
            assert_eq!(conversions.convert(1.0, &format!("x{index}"), PropertyIndex(0), "Cel"), Err(UnitError::Unknown));
        }
        assert_eq!(conversions.0.read().values().map(HashMap::len).sum::<usize>(), REMEMBERED_MAX);
    }
}
