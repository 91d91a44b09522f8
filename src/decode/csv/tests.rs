use std::io::Read as _;
use std::sync::Arc;

use crate::decode::layout::Layout;
use crate::decode::material::material;
use crate::decode::tests::{LIMITS, check, message};
use crate::decode::{Decoder, Form, Limits, Memory, decode};

fn form(layout: &str) -> Form {
    let layout = (!layout.is_empty()).then(|| Arc::new(serde_json::from_str::<Layout>(layout).unwrap()));
    assert_eq!(layout.as_ref().map(|layout| layout.problems()).unwrap_or_default(), Vec::<String>::new());
    Form { decoder: Decoder::Csv, topic: "t/{device}".parse().unwrap(), layout, ..Form::default() }
}

#[test]
fn usual_tables_need_no_layout() {
    check(
        &form(""),
        "t/gateway",
        "\u{feff}Time,Station,Temp (°C),PM10 [µg/m3],state,lat,lon\r\n2026-03-01T08:00:00Z,s1,21.5,\"12\",on,38.11,13.36\r\n2026-03-01T08:00:00Z,s2,,3,,,\r\n",
        "s1 sensor \nTemp=21.5 °C @13.36,38.11\nPM10=12 µg/m3 @13.36,38.11\nstate=\"on\" @13.36,38.11\ns2 sensor \nPM10=3 µg/m3",
    );
    // Semicolons, and neither device nor time.
    check(&form(""), "t/gateway", "a;b\n1;2\n3;4;5\n;;\n", "gateway sensor \na=1\nb=2\nfault: shape at line 3: 3 cells, the header has 2");
    check(&form(""), "t/gateway", "date\ttime\tx\n2026-03-01\t08:00\t1", "gateway sensor \nx=1");
}

#[test]
fn what_is_wrong_costs_a_cell_or_a_row() {
    check(
        &form(""),
        "t/g",
        "time,x\nsoon,1\n2026-03-01,1e999\n2026-03-01\n\"2026-03-01\",7\n,,,\n",
        "g sensor \nx=7\nfault: invalid-time at line 2: \"soon\" is no time of the layout's form\nfault: invalid-value at line 3 column x: 1e999 is not finite\n\
         fault: shape at line 4: 1 cells, the header has 2",
    );
    check(
        &form(""),
        "t/g",
        "1,2\n3,4\n",
        "rejected: shape: the first line holds numbers: a header, or columns in the layout, are expected",
    );
    check(&form(r#"{"device":"station"}"#), "t/g", "a,b\n1,2\n", "rejected: shape: there is no column \"station\"");
}

#[test]
fn a_layout_says_which_column_is_which() {
    check(
        &form(
            r##"{"columns":["when","who","what","how_much","in"],"delimiter":"|","decimal_comma":true,"comment":"#","missing":["-200","NA"],"device":"who",
                  "time":["when"],"time_format":"%d.%m.%Y %H:%M","time_zone":"Europe/Rome","property":"what","value":"how_much","unit":"in"}"##,
        ),
        "t/g",
        "# made by hand\n01.03.2026 09:00|a|pm10|12,5|ug/m3\n01.03.2026 09:00|a|no2|-200|ug/m3\n01.03.2026 09:00|b|t|NA|\n01.03.2026 09:00|b||1|\n",
        "a sensor \npm10=12.5 ug/m3\nfault: shape at line 5: no property",
    );
    check(&form(r#"{"ignore":["x*"],"kind":"k"}"#), "t/g", "xa,y,k\n1,2,air\n", "g air \ny=2");
}

#[test]
fn an_hour_that_the_clock_has_twice_is_two_hours() {
    let times = |layout: &str, table: &str| -> Vec<String> {
        let message = message("t/g", table.as_bytes());
        let decoded = decode(&form(layout), &message, &LIMITS, &mut Memory::default()).unwrap();
        let readings = decoded.devices.into_iter().flat_map(|device| device.readings);
        readings.map(|reading| reading.time.to_string()).collect()
    };
    let rows = "time,station,x\n2026-10-25 02:00,a,1\n2026-10-25 02:30,a,2\n2026-10-25 02:00,b,2\n2026-10-25 02:00,a,3\n2026-10-25 02:30,a,4\n2026-10-25 03:00,a,5\n";
    let rome = r#"{"device":"station","time":["time"],"time_zone":"Europe/Rome"}"#;
    let first = ["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z"];
    let second = ["2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z"];
    assert_eq!(times(rome, rows), [first[0], first[1], first[0], second[0], second[1], "2026-10-25T02:00:00Z"]);
    // The same time again may be the same row again, or another property of it.
    let rows = "time,what,x\n2026-10-25 02:00,pm10,2\n2026-10-25 02:00,no2,2\n2026-10-25 02:30,pm10,2\n2026-10-25 02:00,pm10,3\n";
    let tidy = r#"{"time":["time"],"time_zone":"Europe/Rome","property":"what","value":"x"}"#;
    assert_eq!(times(tidy, rows), [first[0], first[0], first[1], second[0]]);
}

/// Rows, readings and faults of a data set by its layout.
#[track_caller]
fn read(file: &str, layout: &str, expected: (usize, usize, usize)) {
    let Some(path) = material(file, "data_sets_are_read") else { return };
    let mut text = String::new();
    let bytes = std::fs::read(&path).unwrap();
    if bytes.starts_with(&[0x1F, 0x8B]) {
        flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
    } else {
        text = String::from_utf8(bytes).unwrap();
    }
    let limits = Limits { payload_bytes_max: usize::MAX, readings_max: 10_000_000 };
    let message = message("t/g", text.as_bytes());
    let decoded = decode(&form(layout), &message, &limits, &mut Memory::default()).unwrap();
    let mut times: Vec<_> =
        decoded.devices.iter().flat_map(|device| device.readings.iter().map(|reading| (reading.time, &device.device))).collect();
    times.sort_unstable();
    times.dedup();
    let readings = decoded.devices.iter().map(|device| device.readings.len()).sum::<usize>();
    let faults: Vec<String> = decoded.faults.iter().take(3).map(ToString::to_string).collect();
    assert_eq!((times.len(), readings, decoded.faults.len()), expected, "{file}: {faults:?}");
}

#[test]
fn data_sets_are_read() {
    // One row, without any value.
    read(
        "sensor-community/archive-dht22-excerpt.csv",
        r#"{"device":"sensor_id","time":["timestamp"],"latitude":"lat","longitude":"lon","ignore":["sensor_type","location"]}"#,
        (0, 0, 0),
    );
    read(
        "sensor-community/archive-sds011-excerpt.csv",
        r#"{"device":"sensor_id","time":["timestamp"],"latitude":"lat","longitude":"lon","ignore":["sensor_type","location"]}"#,
        (7, 18, 0),
    );
    // Of 9,357 rows two are at local times that the clock skipped, and some say nothing.
    read(
        "datasets/uci-airquality-italy-2004.csv.gz",
        r#"{"delimiter":",","time":["Date","Time"],"time_format":"%d/%m/%Y %H:%M:%S","time_zone":"Europe/Rome","missing":["-200"]}"#,
        (9_324, 104_940, 0),
    );
    read(
        "datasets/metro-interstate-i94.csv.gz",
        r#"{"time":["date_time"],"time_zone":"America/Chicago","ignore":["weather*","holiday"]}"#,
        (40_575, 241_020, 0),
    );
    read(
        "datasets/nycflights13-weather-hourly-2013.csv.gz",
        r#"{"device":"origin","time":["time_hour"],"missing":["NA"],"ignore":["year","month","day","hour","rownames"]}"#,
        (26_115, 211_061, 0),
    );
    read(
        "datasets/beijing-prsa-Dongsi.csv.gz",
        r#"{"device":"station","missing":["NA"],"ignore":["No"],"time":["year","month","day","hour"],"time_format":"%Y %m %d %H","time_zone":"Asia/Shanghai"}"#,
        (35_064, 413_168, 0),
    );
    read("datasets/skforecast-bicimad_users.csv.gz", r#"{"time":["date"]}"#, (3_022, 3_022, 0));
}
