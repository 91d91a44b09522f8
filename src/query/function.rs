//! The two functions of an aggregate: in time for each device, then across devices. Both are explicit, and those that make no
//! sense for a property are refused with the reason.

use std::fmt;
use std::str::FromStr;

use crate::model::{Kind, Property, Summary};

/// What is made of one device's values in one window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TimeFunction {
    /// How many values.
    Count,
    /// Their sum.
    Sum,
    /// Their mean: arithmetic, circular or energetic, as the property is.
    Mean,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// The earliest.
    First,
    /// The newest.
    Last,
    /// Sample standard deviation.
    Stddev,
    /// A percentile, 0 to 100, interpolated between closest ranks (Hyndman and Fan's R-7).
    Percentile(f64),
    /// How much a counter grew; a fall is a reset, after which it counts from zero. The growth between two readings
    /// belongs to the window of the later one, so that hours add up to days.
    Increase,
    /// The mean of a value that holds until the next reading.
    TimeWeightedMean,
    /// The state that held longest.
    Mode,
    /// How often the state changed.
    Changes,
    /// Seconds spent in a state.
    Duration(i32),
}

/// What is made of the devices' results in one window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AcrossFunction {
    /// Their mean: arithmetic, circular or energetic, as the property is.
    Mean,
    /// Their sum; of sound levels, that of the energies.
    Sum,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// How many devices have one.
    Count,
    /// A percentile, as in time.
    Percentile(f64),
}

/// A function is unknown or makes no sense for the property.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FunctionError {
    /// No such function.
    #[error("{0:?} is no function {1}")]
    Unknown(String, &'static str),
    /// It makes no sense.
    #[error("{function} makes no sense for {property}: {reason}")]
    Senseless { function: String, property: String, reason: &'static str },
}

fn percentile(text: &str) -> Option<f64> {
    if text == "median" {
        return Some(50.0);
    }
    let digits = text.strip_prefix('p')?;
    // Rust also reads signs, exponents and words.
    let plain =
        digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && digits.starts_with(|first: char| first.is_ascii_digit());
    let rank: f64 = if plain { digits.parse().ok()? } else { return None };
    (0.0..=100.0).contains(&rank).then_some(rank)
}

fn unknown(text: &str, step: &'static str) -> FunctionError {
    FunctionError::Unknown(text.chars().take(40).collect(), step)
}

impl TimeFunction {
    /// The function asked for, or else the property's own; refused where it makes no sense.
    pub fn choose(asked: Option<&str>, property: &Property) -> Result<Self, FunctionError> {
        let function = Self::parse(asked.unwrap_or(&property.in_time), property)?;
        function.check(property).map(|()| function)
    }

    /// Reads a function's name; `duration:<state>` takes the state's word or code from the property.
    pub fn parse(text: &str, property: &Property) -> Result<Self, FunctionError> {
        Ok(match text {
            "count" => Self::Count,
            "sum" => Self::Sum,
            "mean" => Self::Mean,
            "min" => Self::Min,
            "max" => Self::Max,
            "first" => Self::First,
            "last" => Self::Last,
            "stddev" => Self::Stddev,
            "increase" => Self::Increase,
            "time_weighted_mean" => Self::TimeWeightedMean,
            "mode" => Self::Mode,
            "changes" => Self::Changes,
            _ => {
                if let Some(rank) = percentile(text) {
                    return Ok(Self::Percentile(rank));
                }
                let state = text.strip_prefix("duration:").ok_or_else(|| unknown(text, "in time"))?;
                let code = property.states.iter().find(|(code, known)| known.id == state || code.as_str() == state);
                let code = code.and_then(|(code, _known)| code.parse().ok()).ok_or_else(|| unknown(text, "in time"))?;
                Self::Duration(code)
            }
        })
    }

    /// Refuses what makes no sense for the property.
    #[expect(clippy::match_same_arms, reason = "what a kind allows stands before what it refuses")]
    pub fn check(self, property: &Property) -> Result<(), FunctionError> {
        let reason = match (property.kind, property.summary, self) {
            (_, _, Self::Count | Self::First | Self::Last) => return Ok(()),
            (Kind::State, _, Self::Mode | Self::Changes | Self::Duration(_)) => return Ok(()),
            (Kind::State, ..) => "states are counted and timed, not calculated with",
            (_, _, Self::Mode | Self::Changes | Self::Duration(_)) => "only states are timed",
            (Kind::Counter, _, Self::Increase | Self::Min | Self::Max) => return Ok(()),
            (Kind::Counter, ..) => "a counter's readings only say how far it has come: ask for its increase",
            (_, _, Self::Increase) => "only counters increase",
            (_, Summary::Circular, Self::Mean) => return Ok(()),
            (_, Summary::Circular, _) => "directions have no order and no sum",
            (_, Summary::Energetic, Self::Sum | Self::Stddev) => "levels are logarithms of energies",
            (Kind::Gauge, _, Self::Sum) => "its values are states of an instant, not amounts",
            (Kind::Count, _, Self::TimeWeightedMean) => "its values are amounts, which do not hold until the next",
            _ => return Ok(()),
        };
        Err(FunctionError::Senseless { function: self.to_string(), property: property.id.clone(), reason })
    }

    /// Whether its result is a value of the property, in its unit and with its arithmetic.
    pub fn keeps_meaning(self) -> bool {
        !matches!(self, Self::Count | Self::Stddev | Self::Increase | Self::Changes | Self::Duration(_))
    }

    /// Whether each device's rows must come by ascending time.
    pub fn needs_order(self) -> bool {
        matches!(self, Self::Increase | Self::TimeWeightedMean | Self::Mode | Self::Changes | Self::Duration(_))
    }
}

impl AcrossFunction {
    /// The function asked for, or else the property's own; refused where it makes no sense after the function in time.
    pub fn choose(asked: Option<&str>, property: &Property, time: TimeFunction) -> Result<Self, FunctionError> {
        let function: Self = asked.unwrap_or(&property.across).parse()?;
        function.check(property, time).map(|()| function)
    }

    /// Refuses what makes no sense for the property after the function in time.
    pub fn check(self, property: &Property, time: TimeFunction) -> Result<(), FunctionError> {
        let reason = match (property.kind, property.summary, self) {
            (_, _, Self::Count) => return Ok(()),
            (_, _, Self::Sum) if time == TimeFunction::Stddev => "spreads do not add up",
            _ if !time.keeps_meaning() => return Ok(()),
            (Kind::State, ..) => "states are counted and timed, not calculated with",
            (_, Summary::Circular, Self::Mean) => return Ok(()),
            (_, Summary::Circular, _) => "directions have no order and no sum",
            (Kind::Counter, _, Self::Mean | Self::Sum | Self::Percentile(_)) => "counters start at any number: ask for their increase",
            (_, Summary::Arithmetic, Self::Sum) if !is_extensive(property) => "its values do not add up over places",
            _ => return Ok(()),
        };
        Err(FunctionError::Senseless { function: self.to_string(), property: property.id.clone(), reason })
    }
}

/// Whether values at several places add up to a value: where the catalogue itself sums them, for power and energy, and for what is
/// counted in whole things. Concentrations, temperatures and the depth of rain do not.
fn is_extensive(property: &Property) -> bool {
    let counted = property.unit == "1" && property.resolution >= 1.0;
    property.across == "sum" || counted || matches!(property.unit.as_str(), "W" | "kW" | "MW" | "W.h" | "kW.h" | "MW.h")
}

impl FromStr for AcrossFunction {
    type Err = FunctionError;

    fn from_str(text: &str) -> Result<Self, FunctionError> {
        Ok(match text {
            "mean" => Self::Mean,
            "sum" => Self::Sum,
            "min" => Self::Min,
            "max" => Self::Max,
            "count" => Self::Count,
            _ => Self::Percentile(percentile(text).ok_or_else(|| unknown(text, "across devices"))?),
        })
    }
}

impl fmt::Display for TimeFunction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count => formatter.write_str("count"),
            Self::Sum => formatter.write_str("sum"),
            Self::Mean => formatter.write_str("mean"),
            Self::Min => formatter.write_str("min"),
            Self::Max => formatter.write_str("max"),
            Self::First => formatter.write_str("first"),
            Self::Last => formatter.write_str("last"),
            Self::Stddev => formatter.write_str("stddev"),
            Self::Percentile(rank) => write!(formatter, "p{rank}"),
            Self::Increase => formatter.write_str("increase"),
            Self::TimeWeightedMean => formatter.write_str("time_weighted_mean"),
            Self::Mode => formatter.write_str("mode"),
            Self::Changes => formatter.write_str("changes"),
            Self::Duration(code) => write!(formatter, "duration:{code}"),
        }
    }
}

impl fmt::Display for AcrossFunction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mean => formatter.write_str("mean"),
            Self::Sum => formatter.write_str("sum"),
            Self::Min => formatter.write_str("min"),
            Self::Max => formatter.write_str("max"),
            Self::Count => formatter.write_str("count"),
            Self::Percentile(rank) => write!(formatter, "p{rank}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Catalogue;

    #[track_caller]
    fn check(property: &str, time: &str, across: &str, expected: Result<(), &str>) {
        let catalogue = Catalogue::built_in();
        let property = catalogue.get(catalogue.find(property).unwrap());
        let asked = TimeFunction::parse(time, property).and_then(|time| {
            time.check(property)?;
            across.parse::<AcrossFunction>()?.check(property, time)
        });
        assert_eq!(asked.map_err(|error| error.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn functions_are_held_against_the_property() {
        check("temperature", "mean", "mean", Ok(()));
        check("temperature", "p99.9", "median", Ok(()));
        check("temperature", "sum", "mean", Err("sum makes no sense for temperature: its values are states of an instant, not amounts"));
        check("temperature", "mean", "sum", Err("sum makes no sense for temperature: its values do not add up over places"));
        check("temperature", "count", "sum", Ok(()));
        check("temperature", "stddev", "sum", Err("sum makes no sense for temperature: spreads do not add up"));
        check("temperature", "increase", "sum", Err("increase makes no sense for temperature: only counters increase"));
        check("temperature", "mode", "count", Err("mode makes no sense for temperature: only states are timed"));
        check("rain", "sum", "mean", Ok(()));
        check("rain", "sum", "sum", Err("sum makes no sense for rain: its values do not add up over places"));
        check("uv_index", "mean", "sum", Err("sum makes no sense for uv_index: its values do not add up over places"));
        check("bus_passengers", "mean", "sum", Ok(()));
        check("vehicle_count", "sum", "sum", Ok(()));
        check(
            "vehicle_count",
            "time_weighted_mean",
            "sum",
            Err("time_weighted_mean makes no sense for vehicle_count: its values are amounts, which do not hold until the next"),
        );
        check("parking_free", "mean", "sum", Ok(()));
        check("energy_active", "increase", "sum", Ok(()));
        check(
            "energy_active",
            "mean",
            "sum",
            Err("mean makes no sense for energy_active: a counter's readings only say how far it has come: ask for its increase"),
        );
        check(
            "energy_active",
            "last",
            "sum",
            Err("sum makes no sense for energy_active: counters start at any number: ask for their increase"),
        );
        check("wind_direction", "mean", "mean", Ok(()));
        check("wind_direction", "last", "count", Ok(()));
        check("wind_direction", "mean", "p50", Err("p50 makes no sense for wind_direction: directions have no order and no sum"));
        check("wind_direction", "count", "max", Ok(()));
        check("wind_direction", "max", "mean", Err("max makes no sense for wind_direction: directions have no order and no sum"));
        check("noise", "mean", "sum", Ok(()));
        check("noise", "p95", "mean", Ok(()));
        check("noise", "time_weighted_mean", "max", Ok(()));
        check("noise", "sum", "max", Err("sum makes no sense for noise: levels are logarithms of energies"));
        check("lamp_state", "duration:1", "max", Ok(()));
        check("lamp_state", "mode", "mean", Err("mean makes no sense for lamp_state: states are counted and timed, not calculated with"));
        check("lamp_state", "duration:on", "sum", Ok(()));
        check("lamp_state", "mean", "count", Err("mean makes no sense for lamp_state: states are counted and timed, not calculated with"));
        check("lamp_state", "duration:red", "sum", Err("\"duration:red\" is no function in time"));
        for text in ["p101", "p", "p-1", "p1e1", "pNaN", "p.5", "Mean", ""] {
            check("pm10", text, "mean", Err(&format!("{text:?} is no function in time")));
        }
        check("pm10", "mean", "first", Err("\"first\" is no function across devices"));
    }

    #[test]
    fn functions_are_read_as_they_are_written() {
        let catalogue = Catalogue::built_in();
        let lamp = catalogue.get(catalogue.find("lamp_state").unwrap());
        for text in [
            "count",
            "sum",
            "mean",
            "min",
            "max",
            "first",
            "last",
            "stddev",
            "p95",
            "p99.9",
            "increase",
            "time_weighted_mean",
            "mode",
            "changes",
            "duration:1",
        ] {
            assert_eq!(TimeFunction::parse(text, lamp).unwrap().to_string(), text);
        }
        for text in ["mean", "sum", "min", "max", "count", "p99.9"] {
            assert_eq!(text.parse::<AcrossFunction>().unwrap().to_string(), text);
        }
        assert_eq!("median".parse(), Ok(AcrossFunction::Percentile(50.0)));
        assert_eq!(TimeFunction::parse("duration:on", lamp), Ok(TimeFunction::Duration(1)));
    }

    #[test]
    fn every_property_has_sensible_defaults() {
        for (_index, property) in Catalogue::built_in().iter() {
            let time = TimeFunction::choose(None, property).unwrap();
            AcrossFunction::choose(None, property, time).unwrap();
        }
    }
}
