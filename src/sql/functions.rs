//! Functions of our own. Windows of time are those of [`crate::model::Windows`], so that statements and other answers agree.
//!
//! | function | gives |
//! |---|---|
//! | `time_bucket(size, time[, zone])` | where the window that holds the time begins, on the zone's calendar |
//! | `local_time(time[, zone])` | what the zone's clock shows, without a zone |
//! | `buckets(size, from, to[, zone])` | a table of all windows: `time` and `until`; join it to fill gaps |
//! | `distance_m(longitude, latitude, longitude, latitude)` | great-circle distance in metres |
//! | `district_at(longitude, latitude)` | the district that holds a place |
//!
//! A size is a text such as `15m`, `1h`, `1d`, `1w`, `1mo`, `15 minutes`, or an interval of such a length. The zone is the city's where
//! none is given. Percentiles are the engine's: `percentile_cont`, `approx_percentile_cont`.

use std::sync::Arc;

use deltalake::arrow::array::{ArrayRef, AsArray as _, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use deltalake::arrow::datatypes::{DataType, Field, Float64Type, IntervalUnit, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use deltalake::datafusion::catalog::{MemTable, TableFunctionArgs, TableFunctionImpl, TableProvider};
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use deltalake::datafusion::prelude::SessionContext;
use deltalake::datafusion::scalar::ScalarValue;
use jiff::tz::TimeZone;

use super::Sources;
use super::observation::instant;
use crate::model::{Districts, Position, Timestamp};
use crate::model::{WindowSize, Windows};

/// Windows that a batch of times may lie in before each time's own is looked for.
const WINDOWS_MAX: usize = 100_000;

/// Rows of `buckets`.
const BUCKETS_MAX: usize = 1_000_000;

pub(super) fn register(context: &SessionContext, sources: &Arc<Sources>) {
    for function in [
        Function::TimeBucket(Zone(sources.zone.clone())),
        Function::LocalTime(Zone(sources.zone.clone())),
        Function::Distance,
        Function::DistrictAt(Known(Arc::clone(&sources.districts))),
    ] {
        context.register_udf(ScalarUDF::new_from_impl(Scalar { signature: Signature::user_defined(Volatility::Immutable), function }));
    }
    context.register_udtf("buckets", Arc::new(Buckets(sources.zone.clone())));
}

/// A time zone, compared by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Zone(TimeZone);

impl std::hash::Hash for Zone {
    fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
        self.0.iana_name().hash(hasher);
    }
}

/// The city's districts: there is one list.
#[derive(Clone, Debug)]
struct Known(Arc<Districts>);

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Known {}

impl std::hash::Hash for Known {
    fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
        Arc::as_ptr(&self.0).hash(hasher);
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Function {
    TimeBucket(Zone),
    LocalTime(Zone),
    Distance,
    DistrictAt(Known),
}

/// A function of values.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Scalar {
    signature: Signature,
    function: Function,
}

fn refuse<T>(problem: impl Into<String>) -> Result<T, DataFusionError> {
    Err(DataFusionError::Execution(problem.into()))
}

impl ScalarUDFImpl for Scalar {
    fn name(&self) -> &str {
        match self.function {
            Function::TimeBucket(_) => "time_bucket",
            Function::LocalTime(_) => "local_time",
            Function::Distance => "distance_m",
            Function::DistrictAt(_) => "district_at",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>, DataFusionError> {
        let size = match given.first() {
            Some(DataType::Interval(_) | DataType::Duration(_)) => DataType::Interval(IntervalUnit::MonthDayNano),
            _ => DataType::Utf8,
        };
        let wanted = match (&self.function, given.len()) {
            (Function::TimeBucket(_), 2) => vec![size, instant()],
            (Function::TimeBucket(_), 3) => vec![size, instant(), DataType::Utf8],
            (Function::LocalTime(_), 1) => vec![instant()],
            (Function::LocalTime(_), 2) => vec![instant(), DataType::Utf8],
            (Function::Distance, 4) => vec![DataType::Float64; 4],
            (Function::DistrictAt(_), 2) => vec![DataType::Float64; 2],
            (Function::TimeBucket(_), _) => return plan_error("time_bucket takes a size, a time and perhaps a zone"),
            (Function::LocalTime(_), _) => return plan_error("local_time takes a time and perhaps a zone"),
            (Function::Distance, _) => return plan_error("distance_m takes longitude and latitude of two places"),
            (Function::DistrictAt(_), _) => return plan_error("district_at takes a longitude and a latitude"),
        };
        Ok(wanted)
    }

    fn return_type(&self, _given: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(match self.function {
            Function::TimeBucket(_) => instant(),
            Function::LocalTime(_) => DataType::Timestamp(TimeUnit::Microsecond, None),
            Function::Distance => DataType::Float64,
            Function::DistrictAt(_) => DataType::Utf8,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let ScalarFunctionArgs { args, number_rows, .. } = args;
        let is_scalar = args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_scalar { 1 } else { number_rows };
        let array = |index: usize| match args.get(index) {
            Some(value) => value.to_array(rows),
            None => refuse("an argument is missing"),
        };
        let result: ArrayRef = match &self.function {
            Function::TimeBucket(own) => {
                let size = size(args.first())?;
                let zone = zone(args.get(2), &own.0)?;
                let times = array(1)?;
                Arc::new(bucket(size, &zone, times.as_primitive::<TimestampMicrosecondType>())?)
            }
            Function::LocalTime(own) => {
                let zone = zone(args.get(1), &own.0)?;
                let times = array(0)?;
                let local = |micros: i64| {
                    let offset = zone.to_offset(Timestamp::from_micros_clamped(micros).into());
                    micros.saturating_add(i64::from(offset.seconds()) * 1_000_000)
                };
                Arc::new(times.as_primitive::<TimestampMicrosecondType>().unary::<_, TimestampMicrosecondType>(local))
            }
            Function::Distance => {
                let (from, to) = (places(&array(0)?, &array(1)?), places(&array(2)?, &array(3)?));
                let distances = from.into_iter().zip(to).map(|(from, to)| Some(from?.distance_m(to?)));
                Arc::new(distances.collect::<Float64Array>())
            }
            Function::DistrictAt(districts) => {
                let district = |position: Option<Position>| Some(districts.0.get(districts.0.find(position?)?).id.as_str());
                Arc::new(places(&array(0)?, &array(1)?).into_iter().map(district).collect::<StringArray>())
            }
        };
        if is_scalar { Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)) } else { Ok(ColumnarValue::Array(result)) }
    }
}

fn plan_error<T>(problem: &str) -> Result<T, DataFusionError> {
    Err(DataFusionError::Plan(problem.to_owned()))
}

/// Places by longitude and latitude; none where one is missing or lies off the globe.
fn places(longitudes: &ArrayRef, latitudes: &ArrayRef) -> Vec<Option<Position>> {
    let pairs = longitudes.as_primitive::<Float64Type>().iter().zip(latitudes.as_primitive::<Float64Type>());
    pairs.map(|(longitude, latitude)| Position::new(longitude?, latitude?).ok()).collect()
}

fn zone(given: Option<&ColumnarValue>, own: &TimeZone) -> Result<TimeZone, DataFusionError> {
    match given {
        None => Ok(own.clone()),
        Some(ColumnarValue::Scalar(value)) => zone_of(value),
        Some(ColumnarValue::Array(_)) => refuse("the zone must be the same for all rows"),
    }
}

fn zone_of(value: &ScalarValue) -> Result<TimeZone, DataFusionError> {
    let Some(Some(name)) = value.try_as_str() else { return refuse("a zone is a text") };
    match TimeZone::get(name) {
        Ok(zone) => Ok(zone),
        Err(_unknown) => refuse(format!("{name:?} is no time zone of the IANA database")),
    }
}

fn size(given: Option<&ColumnarValue>) -> Result<WindowSize, DataFusionError> {
    match given {
        Some(ColumnarValue::Scalar(value)) => size_of(value),
        _ => refuse("the size must be the same for all rows"),
    }
}

fn size_of(value: &ScalarValue) -> Result<WindowSize, DataFusionError> {
    const MINUTE: i64 = 60_000_000_000;
    let word = match value {
        ScalarValue::IntervalMonthDayNano(Some(interval)) => match (interval.months, interval.days, interval.nanoseconds) {
            (1, 0, 0) => "1mo".to_owned(),
            (0, 1, 0) => "1d".to_owned(),
            (0, 7, 0) => "1w".to_owned(),
            (0, 0, nanos) if nanos == 24 * 60 * MINUTE => "1d".to_owned(),
            (0, 0, nanos) if nanos > 0 && nanos % (60 * MINUTE) == 0 => format!("{}h", nanos / (60 * MINUTE)),
            (0, 0, nanos) if nanos > 0 && nanos % MINUTE == 0 => format!("{}m", nanos / MINUTE),
            _ => value.to_string(),
        },
        _ => match value.try_as_str() {
            Some(Some(text)) => short(text),
            _ => return refuse("a size is a text such as '15m' or an interval"),
        },
    };
    word.parse().or_else(|error: crate::model::InvalidWindowSize| refuse(error.to_string()))
}

/// `15 minutes` as `15m`.
fn short(text: &str) -> String {
    let text = text.trim();
    let Some((count, unit)) = text.split_once(' ') else { return text.to_owned() };
    let unit = match unit.trim().trim_end_matches('s') {
        "minute" | "min" => "m",
        "hour" => "h",
        "day" => "d",
        "week" => "w",
        "month" | "mon" => "mo",
        other => other,
    };
    format!("{count}{unit}")
}

/// Where the windows begin that hold some times.
fn bucket(size: WindowSize, zone: &TimeZone, times: &TimestampMicrosecondArray) -> Result<TimestampMicrosecondArray, DataFusionError> {
    let instant = Timestamp::from_micros_clamped;
    let windows =
        |first: i64, last: i64, count_max: usize| Windows::new(size, zone, instant(first), instant(last.saturating_add(1)), count_max);
    let known = times.iter().flatten();
    let range = known
        .fold(None, |range: Option<(i64, i64)>, time| Some(range.map_or((time, time), |(first, last)| (first.min(time), last.max(time)))));
    let shared = range.and_then(|(first, last)| windows(first, last, WINDOWS_MAX).ok());
    let mut hint = 0;
    let mut start_of = |time: i64| -> Result<i64, DataFusionError> {
        if let Some((windows, index)) = shared.as_ref().and_then(|windows| Some((windows, windows.find_near(time, hint)?))) {
            hint = index;
            return Ok(windows.bounds(index).0.micros());
        }
        match windows(time, time, 2) {
            Ok(windows) => Ok(windows.start().micros()),
            Err(error) => refuse(error.to_string()),
        }
    };
    let starts = times.iter().map(|time| time.map(&mut start_of).transpose()).collect::<Result<TimestampMicrosecondArray, _>>()?;
    Ok(starts.with_timezone("UTC"))
}

/// All windows between two times.
#[derive(Debug)]
struct Buckets(TimeZone);

impl TableFunctionImpl for Buckets {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>, DataFusionError> {
        const USAGE: &str = "buckets takes a size, a time from, a time to and perhaps a zone, none of them from a column";
        let mut values = Vec::new();
        for argument in args.exprs() {
            let Expr::Literal(value, _metadata) = argument else { return plan_error(USAGE) };
            values.push(value.clone());
        }
        let (size, from, to, zone) = match values.as_slice() {
            [size, from, to] => (size, from, to, self.0.clone()),
            [size, from, to, zone] => (size, from, to, zone_of(zone)?),
            _ => return plan_error(USAGE),
        };
        let time = |value: &ScalarValue| match value.cast_to(&instant())? {
            ScalarValue::TimestampMicrosecond(Some(micros), _zone) => Ok(Timestamp::from_micros_clamped(micros)),
            _ => plan_error(USAGE),
        };
        let windows = match Windows::new(size_of(size)?, &zone, time(from)?, time(to)?, BUCKETS_MAX) {
            Ok(windows) => windows,
            Err(error) => return plan_error(&error.to_string()),
        };
        let column = |of: fn((Timestamp, Timestamp)) -> Timestamp| -> ArrayRef {
            let times = (0..windows.len()).map(|index| Some(of(windows.bounds(index)).micros()));
            Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        };
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("time", instant(), false), Field::new("until", instant(), false)]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![column(|bounds| bounds.0), column(|bounds| bounds.1)])?;
        Ok(Arc::new(MemTable::try_new(schema, vec![vec![batch]])?))
    }
}
