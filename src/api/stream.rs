//! What happens, as it happens: Server-Sent Events of every commit.
//!
//! A stream pulls: it asks for more only when the connection has taken what it gave, and keeps nothing meanwhile but where
//! it stands. Whoever reads too slowly falls behind what is still known, is told so, and goes on from now.
//!
//! The id of an event says what has been sent by then: `1234` is every commit up to 1,234, `1234.18` every commit before
//! it and the first 18 things in it. So a stream that was interrupted goes on without repeating or skipping anything, as
//! long as the last commits are still known; else it begins with a `gap`.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::params::Params;
use super::problem::{Errors, Kind, Problem};
use super::{Context, Shared};
use crate::alert::{Alert, Condition};
use crate::metrics::Metrics;
use crate::model::{DeviceId, DeviceKind, DistrictIndex, Flags, Position, PropertyIndex, Timestamp};
use crate::state::{Event, Place, State};

/// Commits that are looked at at once.
const EVENTS_MAX: usize = 64;

/// Observations and alerts that are looked at at once.
const LOOKED_AT_MAX: usize = 2_048;

/// Observations and alerts of one piece.
const SENT_MAX: usize = 512;

/// When nothing else is sent, at least this is.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Commits of so long are sent together: there may be a thousand in a second.
const GATHER: Duration = Duration::from_millis(25);

/// After how many milliseconds a browser connects again.
const RETRY_MS: u32 = 2_000;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(follow_stream))
}

/// An observation, as it was just taken.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Observation<'a> {
    #[schema(example = "a-1")]
    device: &'a str,
    #[schema(example = "air-station")]
    kind: &'a str,
    #[schema(example = "pm10")]
    property: &'a str,
    /// Phenomenon time.
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    /// Canonical unit.
    value: f64,
    /// UCUM.
    #[schema(example = "ug/m3")]
    unit: &'a str,
    /// What is suspect about it.
    flags: Vec<&'static str>,
    district: Option<&'a str>,
    #[schema(value_type = Option<Object>, example = json!({ "lon": 13.36, "lat": 38.11 }))]
    position: Option<Position>,
}

/// Something was missed.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Gap {
    /// `unknown-position` where the stream cannot go on where it was interrupted, `fell-behind` where it was read too slowly.
    #[schema(value_type = String, example = "fell-behind")]
    reason: &'static str,
    #[schema(value_type = String)]
    detail: &'static str,
}

/// What has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    /// Every commit before this one.
    sequence: u64,
    /// And of this one so many things; `None` means all.
    things: Option<usize>,
}

impl Sent {
    fn whole(sequence: u64) -> Self {
        Self { sequence, things: None }
    }

    /// The last commit of which everything was sent.
    fn complete(self) -> u64 {
        if self.things.is_some() { self.sequence.saturating_sub(1) } else { self.sequence }
    }

    /// How many things of a commit were sent already.
    fn of(self, event: &Event) -> usize {
        self.things.filter(|_things| event.sequence == self.sequence).unwrap_or(0)
    }
}

impl fmt::Display for Sent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.things {
            None => write!(formatter, "{}", self.sequence),
            Some(things) => write!(formatter, "{}.{things}", self.sequence),
        }
    }
}

/// The text is no event's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be the id of an event, such as 1234 or 1234.18")]
struct InvalidId;

impl FromStr for Sent {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (sequence, things) = text.split_once('.').map_or((text, None), |(sequence, things)| (sequence, Some(things)));
        let sequence = sequence.parse().map_err(|_not_a_number| InvalidId)?;
        let things = things.map(str::parse).transpose().map_err(|_not_a_number| InvalidId)?;
        Ok(Self { sequence, things })
    }
}

/// What a stream is about; empty sets mean everything.
#[derive(Debug)]
struct Filter {
    properties: Vec<PropertyIndex>,
    devices: HashSet<String>,
    districts: Vec<DistrictIndex>,
    kinds: HashSet<String>,
}

impl Filter {
    fn observation(&self, device: &DeviceId, kind: &DeviceKind, property: PropertyIndex, place: Place) -> bool {
        (self.properties.is_empty() || self.properties.contains(&property))
            && (self.devices.is_empty() || self.devices.contains(device.as_str()))
            && (self.districts.is_empty() || place.district.is_some_and(|district| self.districts.contains(&district)))
            && (self.kinds.is_empty() || self.kinds.contains(kind.as_str()))
    }

    fn alert(&self, context: &Context, state: &State, alert: &Alert) -> bool {
        let property = match &alert.condition {
            Condition::Above { property, .. } | Condition::Below { property, .. } | Condition::State { property, .. } => {
                context.catalogue.find(property)
            }
            Condition::Silence { .. } => None,
        };
        let district = alert.district.as_deref().and_then(|district| context.districts.by_id(district));
        let has_kind = || state.find_device(&alert.device).is_some_and(|device| self.kinds.contains(state.device(device).kind.as_str()));
        (self.properties.is_empty() || property.is_some_and(|property| self.properties.contains(&property)))
            && (self.devices.is_empty() || self.devices.contains(&alert.device))
            && (self.districts.is_empty() || district.is_some_and(|district| self.districts.contains(&district)))
            && (self.kinds.is_empty() || has_kind())
    }
}

/// Counts a stream as long as it lives.
#[derive(Debug)]
struct Counted {
    metrics: Arc<Metrics>,
    _place: OwnedSemaphorePermit,
}

impl Counted {
    fn new(metrics: Arc<Metrics>, place: OwnedSemaphorePermit) -> Self {
        metrics.streams.inc();
        Self { metrics, _place: place }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.streams.dec();
    }
}

/// What happens, as it happens.
///
/// Server-Sent Events. `observation` is a value that was just taken, `alert` something that happened to an alert,
/// `gap` says that something was missed and that what is shown must be loaded anew. A stream that breaks off goes on where
/// it was with `Last-Event-ID`, which browsers send by themselves.
#[utoipa::path(
    get, path = "/v1/stream", tag = "observations",
    params(
        ("property" = Option<Vec<String>>, Query, description = "Only these properties", example = "pm10,no2"),
        ("device" = Option<Vec<String>>, Query, description = "Only these devices", example = "a-1"),
        ("district" = Option<Vec<String>>, Query, description = "Only what was observed in these districts", example = "pa-c1"),
        ("kind" = Option<Vec<String>>, Query, description = "Only these kinds of device", example = "air-station"),
        ("last_event_id" = Option<String>, Query, description = "The id of the last event that was received; the header goes before it", example = "1234.18"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was received", example = "1234.18"),
    ),
    responses(
        (status = 200, description = "`event: observation`, `event: alert` or `event: gap`; the data is JSON", content_type = "text/event-stream", body = inline(Observation<'_>)),
        Errors
    )
)]
async fn follow_stream(extract::State(shared): extract::State<Shared>, params: Params, headers: HeaderMap) -> Result<Response, Problem> {
    let context = Arc::clone(&shared.context);
    let (filter, asked) = params.read(|query| {
        let filter = Filter {
            properties: query.found("property", "property", |id| context.catalogue.find(id)),
            devices: query.list("device").into_iter().collect(),
            districts: query.found("district", "district", |id| context.districts.by_id(id)),
            kinds: query.list("kind").into_iter().collect(),
        };
        (filter, query.parse::<Sent>("last_event_id"))
    })?;
    let Ok(place) = Arc::clone(&shared.streams).try_acquire_owned() else {
        return Err(Problem::new(Kind::Busy, "as many live streams as are allowed are open"));
    };
    let committed = context.database.live().subscribe();
    let now = Sent::whole(*committed.borrow());
    // What is no id of ours is a position that is not known.
    let told = headers.get("last-event-id").map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    let (sent, is_lost) = match (told, asked) {
        (Some(Some(sent)), _) | (None, Some(sent)) => (sent, false),
        (Some(None), _) => (now, true),
        (None, None) => (now, false),
    };
    let start = if is_lost { gap("unknown-position", sent) } else { format!("id: {sent}\n\n") };
    let stream = Stream {
        counted: Counted::new(Arc::clone(&context.metrics), place),
        start: Some(format!("retry: {RETRY_MS}\n{start}")),
        is_fresh: true,
        context,
        filter,
        committed,
        sent,
    };
    let pieces =
        futures::stream::unfold(stream, |mut stream| async move { stream.next().await.map(|piece| (Ok::<_, Infallible>(piece), stream)) });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        // A proxy must hand on what comes.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

#[derive(Debug)]
struct Stream {
    context: Arc<Context>,
    filter: Filter,
    committed: watch::Receiver<u64>,
    sent: Sent,
    /// Whether it has not been found yet that `sent` is known.
    is_fresh: bool,
    start: Option<String>,
    #[expect(dead_code, reason = "counts until it is dropped")]
    counted: Counted,
}

/// Something to tell.
#[derive(Debug)]
enum Thing {
    Observation { device: DeviceId, kind: DeviceKind, property: PropertyIndex, time: i64, value: f64, flags: u16, place: Place },
    Alert { transition: String },
}

impl Stream {
    /// The next piece of text; `None` once the program stops.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(start) = self.start.take() {
            return Some(start.into());
        }
        let keep_alive = Instant::now() + KEEP_ALIVE;
        loop {
            if self.context.stop.is_cancelled() {
                return None;
            }
            let committed = *self.committed.borrow_and_update();
            let live = self.context.database.live();
            // Of a commit that is still to come nothing can have been sent.
            let is_possible = self.sent.sequence <= committed;
            match live.events_after(self.sent.complete(), EVENTS_MAX).filter(|_events| is_possible) {
                None => {
                    let reason = if self.is_fresh { "unknown-position" } else { "fell-behind" };
                    self.sent = Sent::whole(live.sequence());
                    self.is_fresh = false;
                    return Some(gap(reason, self.sent).into());
                }
                Some(events) if events.is_empty() => {
                    self.is_fresh = false;
                    self.sent = Sent::whole(committed.max(self.sent.complete()));
                    // All of them may be interrupted at any time: nothing is taken from anywhere.
                    tokio::select! {
                        () = self.context.stop.cancelled() => return None,
                        changed = self.committed.changed() => changed.ok()?,
                        // An id without data moves on where the client would go on.
                        () = tokio::time::sleep_until(keep_alive) => return Some(format!(": \nid: {}\n\n", self.sent).into()),
                    }
                    tokio::time::sleep(GATHER).await;
                }
                Some(events) => {
                    self.is_fresh = false;
                    let text = self.tell(&events);
                    if !text.is_empty() {
                        return Some(text.into());
                    }
                    // Much that nobody wants may lie ahead; others must have their turn.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// The text of some of the events, from where the stream stands; it stands after them then.
    fn tell(&mut self, events: &[Arc<Event>]) -> String {
        let mut text = String::new();
        for (sent, thing) in self.look(events) {
            let (name, data) = match thing {
                Thing::Alert { transition } => ("alert", transition),
                Thing::Observation { device, kind, property, time, value, flags, place } => {
                    let property = self.context.catalogue.get(property);
                    let observation = Observation {
                        device: device.as_str(),
                        kind: kind.as_str(),
                        property: &property.id,
                        time: Timestamp::from_micros_clamped(time),
                        value,
                        unit: &property.unit,
                        flags: Flags::from_bits_retain(flags).names(),
                        district: place.district.map(|district| self.context.districts.get(district).id.as_str()),
                        position: place.position,
                    };
                    ("observation", serde_json::to_string(&observation).expect("plain data always serialises"))
                }
            };
            write(&mut text, name, sent, &data);
        }
        text
    }

    /// What of the events is wanted, with where the stream stands after each.
    fn look(&mut self, events: &[Arc<Event>]) -> Vec<(Sent, Thing)> {
        let context = Arc::clone(&self.context);
        let mut wanted = Vec::new();
        let mut room = LOOKED_AT_MAX;
        for event in events {
            let rows: usize = event.blocks.iter().map(|block| block.rows.len()).sum();
            let things = rows + event.alerts.len();
            let state = context.database.live().read();
            for thing in self.sent.of(event)..things {
                if room == 0 || wanted.len() == SENT_MAX {
                    return wanted;
                }
                room -= 1;
                let done = thing + 1;
                self.sent =
                    if done == things { Sent::whole(event.sequence) } else { Sent { sequence: event.sequence, things: Some(done) } };
                let found = if thing < rows { self.observation(&state, event, thing) } else { self.alert(&state, event, thing - rows) };
                wanted.extend(found.map(|thing| (self.sent, thing)));
            }
            self.sent = Sent::whole(event.sequence);
        }
        wanted
    }

    fn observation(&self, state: &State, event: &Event, mut row: usize) -> Option<Thing> {
        let mut blocks = event.blocks.iter();
        let rows = loop {
            let rows = &blocks.next()?.rows;
            match row.checked_sub(rows.len()) {
                Some(rest) => row = rest,
                None => break rows,
            }
        };
        let series = state.series_at(*rows.series.get(row)?);
        let device = state.device(series.device);
        let place = rows.place_of(row);
        self.filter.observation(&device.id, &device.kind, series.property, place).then_some(())?;
        Some(Thing::Observation {
            device: device.id.clone(),
            kind: device.kind.clone(),
            property: series.property,
            time: *rows.time.get(row)?,
            value: *rows.value.get(row)?,
            flags: *rows.flags.get(row)?,
            place,
        })
    }

    fn alert(&self, state: &State, event: &Event, index: usize) -> Option<Thing> {
        let change = event.alerts.get(index)?;
        let alert: Alert = serde_json::from_str(&change.alert).ok()?;
        self.filter.alert(&self.context, state, &alert).then(|| Thing::Alert { transition: change.transition.clone() })
    }
}

fn gap(reason: &'static str, sent: Sent) -> String {
    let gap = Gap { reason, detail: "something was missed: load anew what is shown" };
    let mut text = String::new();
    write(&mut text, "gap", sent, &serde_json::to_string(&gap).expect("plain data always serialises"));
    text
}

/// Writes an event; its data is one line, as compact JSON is.
fn write(text: &mut String, name: &str, sent: Sent, data: &str) {
    use fmt::Write as _;
    write!(text, "event: {name}\nid: {sent}\ndata: {data}\n\n").expect("a string takes any text");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        for sent in [Sent::whole(0), Sent::whole(1_234), Sent { sequence: 7, things: Some(18) }] {
            assert_eq!(sent.to_string().parse(), Ok(sent));
        }
        for wrong in ["", "x", "1.", ".1", "1.2.3", "-1"] {
            assert_eq!(wrong.parse::<Sent>(), Err(InvalidId), "{wrong}");
        }
    }
}
