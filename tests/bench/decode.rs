//! How many messages a second one core decodes, by payload family; decoding alone, and with the mapping of names.

use std::time::{Duration, Instant};

use conca::decode::{Decoder, Form, Limits, Memory, decode};
use conca::mapping::{Dictionary, Mapper};
use conca::model::{Message, Service, SourceName, Timestamp};

use crate::say;

/// How long each family is measured.
const LONG: Duration = Duration::from_secs(2);

/// A family, a topic and a message as a device sends it.
fn messages() -> Vec<(Decoder, &'static str, Vec<u8>)> {
    let text = |decoder, topic, text: &str| (decoder, topic, text.as_bytes().to_vec());
    // [{0: "station-1:temperature", 1: "Cel", 2: 21.5, 6: 1772352000}], by hand.
    let cbor = [
        &[0x81, 0xA4, 0x00, 0x75][..],
        b"station-1:temperature",
        &[0x01, 0x63],
        b"Cel",
        &[0x02, 0xF9, 0x4D, 0x60, 0x06, 0x1A],
        &1_772_352_000_u32.to_be_bytes(),
    ];
    let cbor = cbor.concat();
    vec![
        text(
            Decoder::V1,
            "conca/v1/environment/air-station/a-1",
            r#"{"time":1772352000000,"position":{"lon":13.3612,"lat":38.1157},"readings":{"pm10":31.2,"pm2_5":18.4,"no2":40.1,"temperature":21.5,"humidity":50.5}}"#,
        ),
        text(
            Decoder::Ttn,
            "v3/app/devices/d/up",
            r#"{"end_device_ids":{"device_id":"d","dev_eui":"70B3D57ED0000001"},"uplink_message":{"f_port":2,"f_cnt":7,"received_at":"2026-03-01T08:00:00Z","decoded_payload":{"TempC_SHT":21.5,"Hum_SHT":50.5,"BatV":3.6},"rx_metadata":[{"rssi":-90,"snr":7.5}]}}"#,
        ),
        text(
            Decoder::Chirpstack,
            "application/a/device/70b3d57ed0000001/event/up",
            r#"{"deviceInfo":{"devEui":"70b3d57ed0000001","deviceProfileName":"air"},"devAddr":"01020304","fCnt":7,"fPort":2,"time":"2026-03-01T08:00:00Z","data":"AQI=","object":{"temperature":21.5,"humidity":50.5},"rxInfo":[{"rssi":-90,"snr":7.5}]}"#,
        ),
        text(
            Decoder::SenmlJson,
            "senml/s",
            r#"[{"bn":"station-1:","bt":1772352000,"n":"temperature","u":"Cel","v":21.5},{"n":"humidity","u":"%RH","v":50.5}]"#,
        ),
        (Decoder::SenmlCbor, "senml/s", cbor),
        (Decoder::CayenneLpp, "lpp/d-1", vec![1, 0x67, 0x00, 0xD7, 2, 0x68, 0x65, 3, 0x73, 0x27, 0x4B]),
        // One metric of type double by its name: field numbers by hand.
        (
            Decoder::SparkplugB,
            "spBv1.0/city/NDATA/n",
            [&[0x12, 24, 0x0A, 11][..], b"temperature", &[0x20, 10, 0x69], &21.5_f64.to_le_bytes(), &[0x18, 1]].concat(),
        ),
        text(
            Decoder::Ngsi,
            "ngsi",
            r#"{"id":"urn:ngsi-ld:WeatherObserved:pa-1","type":"WeatherObserved","dateObserved":{"type":"Property","value":{"@type":"DateTime","@value":"2026-03-01T08:00:00Z"}},"temperature":{"type":"Property","value":21.5,"unitCode":"CEL"},"relativeHumidity":{"type":"Property","value":0.54},"location":{"type":"GeoProperty","value":{"type":"Point","coordinates":[13.36,38.11]}}}"#,
        ),
        text(Decoder::InfluxLine, "influx/x", "air,device=a-1 temperature=21.5,humidity=50.5,pm10=31.2 1772352000000000000\n"),
        text(Decoder::Json, "s/d-1", r#"{"device_id":"d-1","ts":1772352000,"lat":38.11,"lon":13.36,"temp":21.5,"rh":50.5}"#),
        text(
            Decoder::Csv,
            "t/d-1",
            "time,station,Temp (°C),PM10 [µg/m3]\n2026-03-01T08:00:00Z,s1,21.5,12\n2026-03-01T08:00:00Z,s2,22.5,13\n",
        ),
        text(
            Decoder::SensorCommunity,
            "air/s",
            r#"{"esp8266id":"123","sensordatavalues":[{"value_type":"SDS_P1","value":"15.2"},{"value_type":"SDS_P2","value":"7.9"},{"value_type":"BME280_temperature","value":"21.5"}]}"#,
        ),
        text(
            Decoder::Datex2,
            "t",
            r#"<d2LogicalModel xmlns="http://datex2.eu/schema/2/2_0"><payloadPublication><publicationTime>2026-03-01T08:00:00Z</publicationTime><siteMeasurements><measurementSiteReference id="S1"/><measurementTimeDefault>2026-03-01T07:59:00Z</measurementTimeDefault><measuredValue index="1"><measuredValue><basicData><averageVehicleSpeed><speed>48.5</speed></averageVehicleSpeed></basicData></measuredValue></measuredValue></siteMeasurements></payloadPublication></d2LogicalModel>"#,
        ),
        // One vehicle: header with version, entity with position and id.
        (
            Decoder::GtfsRealtime,
            "gtfs",
            [
                &[0x0A, 5, 0x0A, 3][..],
                b"2.0",
                &[0x12, 27, 0x0A, 1, b'e', 0x22, 22, 0x12, 15, 0x0D],
                &38.11_f32.to_le_bytes(),
                &[0x15],
                &13.36_f32.to_le_bytes(),
                &[0x2D],
                &6.4_f32.to_le_bytes(),
                &[0x42, 3, 0x0A, 1, b'b'],
            ]
            .concat(),
        ),
    ]
}

/// Measures every family.
pub(crate) fn families() -> anyhow::Result<()> {
    say("Decoding, one core:\n\n| payload family | bytes | readings | messages/s | with mapping, messages/s |\n|---|---|---|---|---|")?;
    let mapper = Mapper::new(Dictionary::built_in(), Vec::new());
    let limits = Limits { payload_bytes_max: 262_144, readings_max: 1_000 };
    for (decoder, topic, payload) in messages() {
        let message = Message {
            source: SourceName::try_from("bench")?,
            topic: topic.into(),
            payload: payload.into(),
            received: Timestamp::from_micros_clamped(1_772_352_000_000_000),
            service: Service::AtLeastOnce(1),
            retained: false,
        };
        let form = Form { decoder, ..Form::default() };
        let mut memory = Memory::default();
        let mut readings = 0;
        let mut rates = Vec::new();
        for with_mapping in [false, true] {
            let started = Instant::now();
            let mut count = 0_u32;
            while started.elapsed() < LONG {
                for _time in 0..100 {
                    let decoded =
                        decode(&form, &message, &limits, &mut memory).map_err(|fault| anyhow::anyhow!("{}: {fault}", decoder.as_str()))?;
                    readings = decoded.devices.iter().map(|device| device.readings.len()).sum();
                    anyhow::ensure!(readings > 0, "{}: no reading of {decoded:?}", decoder.as_str());
                    if with_mapping {
                        let mut unmapped = Vec::new();
                        for device in decoded.devices {
                            std::hint::black_box(mapper.map(&message.source, decoder, device, &mut unmapped));
                        }
                    }
                }
                count += 100;
            }
            rates.push(f64::from(count) / started.elapsed().as_secs_f64());
        }
        let rates: Vec<String> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
        say(&format!("| `{}` | {} | {readings} | {} |", decoder.as_str(), message.payload.len(), rates.join(" | ")))?;
    }
    say("")
}
