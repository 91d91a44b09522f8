//! Observations of the running service as a file: as `/v1/observations` tells them, with each device's kind and domain.
//!
//! What is suspect is in it, with its flags. A file gets its name once it is whole.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::rows::{self, Row, RowFormat, RowWriter};
use super::server::{ExchangeError, Server, ServerOptions, part};
use crate::model::{DeviceId, DeviceKind, Domain, Original, Position, Timestamp};

/// Rows that are written at a time.
const ROWS: usize = 16_384;

/// What to export, and where to.
#[derive(Clone, Debug, clap::Args)]
pub struct ExportOptions {
    #[command(flatten)]
    server: ServerOptions,
    /// From this phenomenon time, which belongs to it: RFC 3339. Left out: from the beginning.
    #[arg(long)]
    from: Option<Timestamp>,
    /// To this phenomenon time, which does not belong to it. Left out: to the end.
    #[arg(long)]
    to: Option<Timestamp>,
    /// Observed properties, separated by commas. Left out: all.
    #[arg(long, value_delimiter = ',')]
    property: Vec<String>,
    /// Devices, separated by commas. Left out: all.
    #[arg(long, value_delimiter = ',')]
    device: Vec<String>,
    /// The form. Left out: what the file's name says; CSV to standard output.
    #[arg(long, value_enum)]
    format: Option<RowFormat>,
    /// The file. Left out: standard output.
    #[arg(long, short)]
    output: Option<PathBuf>,
}

/// An observation as the interface tells it.
#[derive(Deserialize)]
struct Told {
    time: Timestamp,
    device: DeviceId,
    property: String,
    value: f64,
    unit: String,
    flags: Vec<String>,
    district: Option<String>,
    position: Option<Place>,
    original: Option<ToldOriginal>,
}

#[derive(Deserialize)]
struct Place {
    lon: f64,
    lat: f64,
}

#[derive(Deserialize)]
struct ToldOriginal {
    value: f64,
    unit: String,
}

#[derive(Deserialize)]
struct DevicePage {
    devices: Vec<ToldDevice>,
    next: Option<String>,
}

#[derive(Clone, Deserialize)]
struct ToldDevice {
    id: DeviceId,
    kind: DeviceKind,
    domain: Domain,
}

/// Writes observations; how many.
pub async fn export(options: &ExportOptions) -> Result<u64, ExchangeError> {
    let server = Server::new(&options.server)?;
    let Some(path) = &options.output else {
        let path = Path::new("standard output");
        let writer = rows::writer(options.format.unwrap_or(RowFormat::Csv), std::io::stdout()).map_err(ExchangeError::at(path))?;
        return copy(options, &server, writer, path).await;
    };
    let format = options.format.or_else(|| RowFormat::of(path)).ok_or_else(|| ExchangeError::Form(path.clone()))?;
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".part");
    let file = File::create(&unfinished).map_err(ExchangeError::at(path))?;
    let synced = file.try_clone().map_err(ExchangeError::at(path))?;
    let writer = rows::writer(format, file).map_err(ExchangeError::at(path))?;
    let written = copy(options, &server, writer, path).await;
    let finish = |rows| synced.sync_all().and_then(|()| std::fs::rename(&unfinished, path)).map(|()| rows).map_err(ExchangeError::at(path));
    let finished = written.and_then(finish);
    if finished.is_err() {
        // What failed is told; that a part of it stays is not worth more words.
        drop(std::fs::remove_file(&unfinished));
    }
    finished
}

async fn copy(options: &ExportOptions, server: &Server, mut writer: Box<dyn RowWriter>, path: &Path) -> Result<u64, ExchangeError> {
    let (from, to) = (options.from.unwrap_or(Timestamp::MIN).to_string(), options.to.unwrap_or(Timestamp::MAX).to_string());
    let (properties, devices) = (options.property.join(","), options.device.join(","));
    let mut query = vec![("format", "ndjson"), ("quality", "any"), ("from", &from), ("to", &to)];
    query.extend([("property", properties.as_str()), ("device", devices.as_str())].into_iter().filter(|(_key, list)| !list.is_empty()));
    let mut answer = server.get("/v1/observations", &query).await?;
    // Asked for behind the snapshot that answers: every device in it is known by now.
    let known = devices_of(server).await?;
    let (mut text, mut rows, mut count): (Vec<u8>, Vec<Row>, u64) = (Vec::new(), Vec::with_capacity(ROWS), 0);
    while let Some(part) = part(&mut answer).await? {
        text.extend_from_slice(&part);
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in text.get(..end).unwrap_or_default().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            rows.push(row(line, &known)?);
            count += 1;
            if rows.len() == ROWS {
                writer.write(&rows).map_err(ExchangeError::at(path))?;
                rows.clear();
            }
        }
        text.drain(..end);
    }
    if !text.is_empty() {
        return Err(ExchangeError::Answer("it ends in the middle of a line".to_owned()));
    }
    writer.write(&rows).and_then(|()| writer.finish()).map_err(ExchangeError::at(path))?;
    Ok(count)
}

async fn devices_of(server: &Server) -> Result<HashMap<DeviceId, ToldDevice>, ExchangeError> {
    let mut known = HashMap::new();
    let mut cursor: Option<String> = None;
    loop {
        let query: Vec<(&str, &str)> = [("format", "json")].into_iter().chain(cursor.as_deref().map(|cursor| ("cursor", cursor))).collect();
        let text = server.get("/v1/devices", &query).await?.text().await?;
        let page: DevicePage = serde_json::from_str(&text).map_err(|error| ExchangeError::Answer(error.to_string()))?;
        known.extend(page.devices.into_iter().map(|device| (device.id.clone(), device)));
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(known),
        }
    }
}

fn row(line: &[u8], known: &HashMap<DeviceId, ToldDevice>) -> Result<Row, ExchangeError> {
    let told: Told = serde_json::from_slice(line).map_err(|error| ExchangeError::Answer(error.to_string()))?;
    let device = known.get(&told.device).ok_or_else(|| ExchangeError::Answer(format!("it tells of no device {}", told.device)))?;
    Ok(Row {
        time: told.time,
        device: told.device,
        kind: device.kind.clone(),
        domain: device.domain,
        property: told.property,
        value: told.value,
        unit: told.unit,
        flags: told.flags.join(" "),
        district: told.district,
        position: told.position.and_then(|Place { lon, lat }| Position::new(lon, lat).ok()),
        original: told.original.map(|ToldOriginal { value, unit }| Original { value, unit }),
    })
}
