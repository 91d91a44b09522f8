//! What devices of common families send, as their vendors document it, through a gateway's topic that names the device.

use crate::decode::{Decoder, Form, Limits, Memory, decode};
use crate::mapping::{Dictionary, Mapper};
use crate::model::Value;

/// A JSON message of the device `d`: its observations, a line for each device; then what is left.
#[track_caller]
fn check(payload: &str, expected: &str) {
    let mapper = Mapper::new(Dictionary::built_in(), Vec::new());
    let limits = Limits { payload_bytes_max: 1 << 20, readings_max: 1_000 };
    let form = Form { decoder: Decoder::Json, topic: "s/{device}".parse().unwrap(), ..Form::default() };
    let message = crate::decode::tests::message("s/d", payload.as_bytes());
    let decoded = decode(&form, &message, &limits, &mut Memory::default()).unwrap();
    let (mut lines, mut unmapped) = (Vec::new(), Vec::new());
    for device in decoded.devices {
        for device in mapper.map(&message.source, Decoder::Json, device, &mut unmapped) {
            let readings = device.readings.iter().map(|reading| {
                let value = match &reading.value {
                    Value::Number(number) => format!("{}", (number * 1e6).round() / 1e6),
                    Value::Word(word) => word.to_string(),
                };
                format!("{}={value}{}", reading.name, reading.unit.as_deref().filter(|unit| *unit != "1").unwrap_or_default())
            });
            let mut readings: Vec<String> = readings.collect();
            readings.sort_unstable();
            if !readings.is_empty() {
                lines.push(format!("{}: {}", device.device, readings.join(" ")));
            }
        }
    }
    let mut left: Vec<String> = unmapped.iter().map(|unmapped| unmapped.field.clone()).collect();
    left.sort_unstable();
    lines.extend((!left.is_empty()).then(|| format!("left: {}", left.join(" "))));
    assert_eq!(lines.join("\n"), expected, "{payload}");
}

#[test]
fn zigbee2mqtt() {
    check(
        r#"{"battery":100,"humidity":45.2,"linkquality":120,"pressure":1013.2,"temperature":21.4,"voltage":3015}"#,
        "d: battery_level=100% battery_voltage=3015mV humidity=45.2% pressure=1013.2hPa temperature=21.4Cel",
    );
    check(
        r#"{"current":0.12,"energy":12.45,"linkquality":90,"power":25.3,"state":"ON","voltage":231}"#,
        "d: current=0.12A energy_active=12.45kW.h power_active=25.3W voltage=231V\nleft: state",
    );
    check(r#"{"battery":88,"contact":false,"linkquality":60}"#, "d: battery_level=88% door=open");
}

#[test]
fn tasmota() {
    check(
        r#"{"Time":"2026-03-01T08:00:00","ENERGY":{"TotalStartTime":"2025-01-01T00:00:00","Total":123.456,"Today":0.5,"Power":45,"Factor":0.75,"Voltage":229}}"#,
        "d: energy_active=123.456kW.h power_active=45W power_factor=0.75 voltage=229V",
    );
    check(
        r#"{"Time":"2026-03-01T08:00:00","BME280":{"Temperature":71.3,"Humidity":45.6,"Pressure":29.9},"PressureUnit":"inHg","TempUnit":"F"}"#,
        "d: humidity=45.6% pressure=29.9[in_i'Hg] temperature=71.3[degF]",
    );
    check(
        r#"{"SDS0X1":{"PM2.5":7.3,"PM10":12.1},"DS18B20-1":{"Temperature":18.4},"DS18B20-2":{"Temperature":19.5},"TempUnit":"C"}"#,
        "d: pm10=12.1ug/m3 pm2_5=7.3ug/m3\nd:1: temperature=18.4Cel\nd:2: temperature=19.5Cel",
    );
    // A switch is no power.
    check(r#"{"POWER":"ON","Wifi":{"RSSI":72,"Signal":-64}}"#, "d: rssi=-64dB\nleft: POWER");
}

#[test]
fn shelly() {
    check(
        r#"{"id":0,"output":true,"apower":8.9,"voltage":237.5,"current":0.091,"aenergy":{"total":6.532,"by_minute":[45.1,47.1]},"temperature":{"tC":53.5,"tF":128.3}}"#,
        "d: current=0.091A energy_active=6.532W.h power_active=8.9W voltage=237.5V\nleft: output",
    );
}

#[test]
fn weather_stations() {
    check(
        r#"{"time":"2026-03-01T08:00:00Z","model":"Fineoffset-WS90","battery_ok":1,"temperature_F":71.2,"pressure_hPa":1009.1,"wind_avg_m_s":2.3,"wind_max_km_h":7.2,"rain_mm":14.2}"#,
        "d: pressure=1009.1hPa rain_total=14.2mm temperature=71.2[degF] wind_gust=7.2km/h wind_speed=2.3m/s",
    );
    check(
        r#"{"stationtype":"GW1100A","dateutc":"2026-03-01 08:00:00","tempinf":"72.3","tempf":"65.1","baromrelin":"29.921","baromabsin":"29.8","dailyrainin":"0.012","soilmoisture1":"42"}"#,
        "d: pressure=29.8[in_i'Hg] temperature=65.1[degF]\nd:1: soil_moisture=42%\nd:indoor: temperature=72.3[degF]",
    );
}

#[test]
fn envelopes_of_servers_and_clouds() {
    check(
        r#"{"DevEUI_uplink":{"Time":"2026-03-01T08:00:00Z","DevEUI":"20635F01","FCntUp":7,"LrrRSSI":-60,"BatteryLevel":"98","payload":{"co2":455}}}"#,
        "20635F01: battery_level=98% co2=455[ppm] rssi=-60dB",
    );
    check(
        r#"{"state":{"reported":{"temperature":21.5},"desired":{"temperature":19}},"metadata":{"reported":{"temperature":{"timestamp":1700000000}}}}"#,
        "d: temperature=21.5Cel\nleft: state.desired.temperature",
    );
    check(
        r#"{"fields":{"humidity":44.1},"name":"environment","tags":{"host":"gw1","device":"env-7"},"timestamp":1772352000}"#,
        "env-7: humidity=44.1%",
    );
    // Only Telegraf's tags are about the sender.
    check(r#"{"tags":{"temperature":21.5},"co2":455}"#, "d: co2=455[ppm]\nleft: tags.temperature");
    check(
        r#"{"cmd":"rx","seqno":2,"EUI":"0004A30B","ts":1772352000000,"fcnt":12,"port":2,"freq":868100000,"rssi":-97,"snr":7.2,"toa":61,"dr":"SF7","ack":false,"bat":255,"data":"0167","decoded":{"data":{"temperature":27.2}}}"#,
        "0004A30B: rssi=-97dB snr=7.2dB temperature=27.2Cel",
    );
}

/// The size of a pressure tells its unit only where nothing but air can have it.
#[test]
fn pressures_of_the_air_tell_their_unit() {
    check(r#"{"barometric_pressure":1013.2}"#, "d: pressure=1013.2hPa");
    check(r#"{"pressure":100.12,"humidity":50}"#, "d: humidity=50% pressure=100.12kPa");
    check(r#"{"pressure":900}"#, "left: pressure");
    check(r#"{"barometric_pressure":29.9}"#, "left: barometric_pressure");
}
