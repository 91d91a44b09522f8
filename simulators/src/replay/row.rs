//! From a row to a message.

use anyhow::{Context, bail};
use csv::StringRecord;
use jiff::Timestamp;
use jiff::civil::DateTime;
use serde_json::json;

use super::mapping::{Mapping, Value};

/// A row as a message.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) time: Timestamp,
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    /// Readings in it.
    pub(super) values: u64,
    pub(super) missing: u64,
    pub(super) unreadable: u64,
}

/// A mapping, tied to the columns of a file.
#[derive(Debug)]
pub(super) struct Columns<'a> {
    mapping: &'a Mapping,
    time: Vec<usize>,
    device: Option<usize>,
    values: Vec<(usize, &'a Value)>,
}

impl<'a> Columns<'a> {
    /// Fails where the file lacks a column.
    pub(super) fn new(mapping: &'a Mapping, header: &StringRecord) -> anyhow::Result<Self> {
        let find = |name: &str| {
            let position = header.iter().position(|column| column.trim_start_matches('\u{feff}') == name);
            position.with_context(|| format!("the file has no column {name}"))
        };
        Ok(Self {
            mapping,
            time: mapping.time.columns.iter().map(|name| find(name)).collect::<Result<_, _>>()?,
            device: mapping.device.column.as_deref().map(find).transpose()?,
            values: mapping.values.iter().map(|value| Ok((find(&value.column)?, value))).collect::<anyhow::Result<_>>()?,
        })
    }

    pub(super) fn message(&self, row: &StringRecord) -> anyhow::Result<Message> {
        let time = self.time(row)?;
        let device = &self.mapping.device;
        let name = self.device.and_then(|column| row.get(column)).map(str::trim);
        let id = match (name, &device.id) {
            (None, Some(id)) => id.clone(),
            (Some(name), _) if !name.is_empty() => format!("{}{name}", device.prefix),
            _ => bail!("no device"),
        };
        let (mut missing, mut unreadable) = (0, 0);
        let mut readings = serde_json::Map::new();
        for (column, value) in &self.values {
            let cell = row.get(*column).unwrap_or_default().trim();
            if self.mapping.is_missing(cell) {
                missing += 1;
            } else if let Some(number) = self.number(cell, value) {
                readings.insert(value.property.clone(), json!({"value": number, "unit": value.unit}));
            } else {
                unreadable += 1;
            }
        }
        let values = readings.len() as u64;
        let mut payload = json!({"time": time.to_string(), "readings": readings});
        let position = name.and_then(|name| device.positions.get(name)).or(device.position.as_ref());
        if let (Some(position), Some(fields)) = (position, payload.as_object_mut()) {
            fields.insert("position".into(), json!({"lon": position.lon, "lat": position.lat}));
        }
        let topic = format!("conca/v1/{}/{}/{id}", device.domain, device.kind);
        Ok(Message { time, topic, payload: serde_json::to_vec(&payload)?, values, missing, unreadable })
    }

    fn time(&self, row: &StringRecord) -> anyhow::Result<Timestamp> {
        let cells: Vec<&str> = self.time.iter().map(|column| row.get(*column).unwrap_or_default().trim()).collect();
        let text = cells.join(" ");
        let clock = DateTime::strptime(&self.mapping.time.format, &text).with_context(|| format!("cannot read the time {text:?}"))?;
        Ok(self.mapping.time.zone.to_timestamp(clock)?)
    }

    fn number(&self, cell: &str, value: &Value) -> Option<f64> {
        let cell = match self.mapping.decimal {
            b'.' => cell.parse(),
            decimal => cell.replace(char::from(decimal), ".").parse(),
        };
        let number: f64 = cell.ok()?;
        // A factor must not invent digits: 0.1 × 3 is 0.3 to fifteen of them.
        let number = value.scale.map_or(Some(number), |scale| format!("{:.14e}", number * scale).parse().ok())?;
        number.is_finite().then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::{Columns, Message};
    use crate::replay::Mapping;

    fn messages(mapping: &str, csv: &str) -> Vec<Message> {
        let mapping = Mapping::parse(mapping).unwrap();
        let mut reader = csv::ReaderBuilder::new().delimiter(mapping.delimiter).flexible(true).from_reader(csv.as_bytes());
        let header = reader.headers().unwrap().clone();
        let columns = Columns::new(&mapping, &header).unwrap();
        reader.records().map(|row| columns.message(&row.unwrap()).unwrap()).collect()
    }

    fn check(message: &Message, topic: &str, payload: &str) {
        assert_eq!(message.topic, topic);
        let sent: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(sent, serde_json::from_str::<serde_json::Value>(payload).unwrap());
    }

    #[test]
    fn air_quality_in_italy() {
        let messages = messages(
            include_str!("../../mappings/uci-airquality-italy-2004.toml"),
            "Date,Time,CO_GT,PT08_S1_CO,NMHC_GT,C6H6_GT,PT08_S2_NMHC,NOx_GT,PT08_S3_NOx,NO2_GT,PT08_S4_NO2,PT08_S5_O3,T,RH,AH\n\
             01/05/2004,00:00:00,1.5,1000,100,8.25,900,150,1000,95,1500,1200,14.5,50.5,0.75\n\
             1/05/2004,01:00:00,-200,1000,-200,8.5,900,-200,1000,-200,1500,1200,14.25,51,0.75\n",
        );
        check(
            &messages[0],
            "conca/v1/environment/air-station/uci-airquality-italy",
            r#"{"time": "2004-04-30T23:00:00Z", "readings": {
                "co": {"value": 1.5, "unit": "mg/m3"}, "benzene": {"value": 8.25, "unit": "ug/m3"}, "no2": {"value": 95.0, "unit": "ug/m3"},
                "temperature": {"value": 14.5, "unit": "Cel"}, "humidity": {"value": 50.5, "unit": "%"}}}"#,
        );
        assert_eq!((messages[1].values, messages[1].missing, messages[1].unreadable), (3, 2, 0));
        assert_eq!(messages[1].time.to_string(), "2004-05-01T00:00:00Z");
    }

    #[test]
    fn traffic_in_minnesota() {
        let messages = messages(
            include_str!("../../mappings/metro-interstate-i94.toml"),
            "\"holiday\",\"temp\",\"rain_1h\",\"snow_1h\",\"clouds_all\",\"weather_main\",\"weather_description\",\"date_time\",\"traffic_volume\"\n\
             \"None\",290.25,0.5,0,40,\"Clouds\",\"scattered clouds\",\"2012-11-04 00:00:00\",5000\n\
             \"None\",290.25,0.5,0,40,\"Mist\",\"mist\",\"2012-11-04 12:00:00\",5000\n",
        );
        check(
            &messages[0],
            "conca/v1/mobility/traffic-counter/mndot-atr-301",
            r#"{"time": "2012-11-04T05:00:00Z", "position": {"lon": -93.17, "lat": 44.96}, "readings": {
                "vehicle_count": {"value": 5000.0, "unit": "1"}, "temperature": {"value": 290.25, "unit": "K"}, "rain": {"value": 0.5, "unit": "mm"}}}"#,
        );
        assert_eq!(messages[1].time.to_string(), "2012-11-04T18:00:00Z");
    }

    #[test]
    fn weather_in_new_york() {
        let messages = messages(
            include_str!("../../mappings/nycflights13-weather-hourly-2013.toml"),
            "origin,year,month,day,hour,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,pressure,visib,time_hour\n\
             JFK,2013,1,1,1,39.02,26.06,59.5,NA,10.357,NA,0.02,1012,10,2013-01-01T06:00:00Z\n",
        );
        check(
            &messages[0],
            "conca/v1/environment/weather-station/asos-JFK",
            r#"{"time": "2013-01-01T06:00:00Z", "position": {"lon": -73.7781, "lat": 40.6413}, "readings": {
                "temperature": {"value": 39.02, "unit": "[degF]"}, "humidity": {"value": 59.5, "unit": "%"},
                "wind_speed": {"value": 10.357, "unit": "[mi_i]/h"}, "rain": {"value": 0.02, "unit": "[in_i]"},
                "pressure": {"value": 1012.0, "unit": "mbar"}}}"#,
        );
        assert_eq!(messages[0].missing, 1);
    }

    #[test]
    fn decimal_commas_scales_and_unreadable_cells() {
        let mapping = r#"
            delimiter = ";"
            decimal = ","
            time = { columns = ["when"], format = "%Y-%m-%d %H:%M", zone = "Europe/Rome" }
            device = { domain = "environment", kind = "air-station", id = "x" }
            values = [
                { column = "co", property = "co", unit = "mg/m3", scale = 0.1 },
                { column = "t", property = "temperature", unit = "Cel" },
            ]"#;
        let messages = messages(mapping, "when;co;t\n2025-07-01 12:00;3;broken\n");
        check(
            &messages[0],
            "conca/v1/environment/air-station/x",
            r#"{"time": "2025-07-01T10:00:00Z", "readings": {"co": {"value": 0.3, "unit": "mg/m3"}}}"#,
        );
        assert_eq!(messages[0].unreadable, 1);
    }
}
