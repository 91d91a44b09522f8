//! The interface in front of a real database and lake in a temporary folder, without sources. For tests of every endpoint.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{Context, router};
use crate::alert::{Desk, Evidence, Facts, Observed};
use crate::config::Config;
use crate::decode::{self, Form, Limits, Memory};
use crate::ingest::{self, Inlet, Listening};
use crate::intake::{self, Entry, Gate, GateLimits, Repeats};
use crate::mapping::Mappings;
use crate::metrics::Metrics;
use crate::model::{Catalogue, Clock, Districts, ManualClock, Message, Service, SourceName, Timestamp};
use crate::normalise::{Normaliser, TimeBounds, unit_problem};
use crate::quality::Checks;
use crate::sql::{Engine, Sources, Spill};
use crate::state::{Database, Reader};
use crate::store::{History, Keeper, Lake, LakeSettings, Schedule};

mod alerts;
mod connections;
mod frame;
mod history;
mod mappings;
mod messages;
mod registry;
mod sql;
mod stream;

/// The instant at which a town begins: 2023-11-14T22:13:20Z.
pub(crate) const BEGIN_MICROS: i64 = 1_700_000_000_000_000;

/// Everything that the interface stands in front of.
#[derive(Debug)]
pub(crate) struct Town {
    pub(crate) context: Arc<Context>,
    pub(crate) clock: Arc<ManualClock>,
    router: Router,
    normaliser: Normaliser,
    repeats: Repeats,
    _inlet: Inlet,
    _folder: tempfile::TempDir,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// A header's text, empty where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The last word of a problem's type.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text);
        let body = self.json();
        assert_eq!(body["status"], self.status.as_u16());
        body["type"].as_str().unwrap().strip_prefix("/problems/").unwrap().to_owned()
    }
}

impl Town {
    /// A town with this configuration, TOML.
    pub(crate) async fn new(config: &str) -> Self {
        let config = Config::parse(config, &|_name| None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Self::at(0)));
        let any_clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let (catalogue, districts) = (Arc::new(Catalogue::built_in()), Arc::new(Districts::built_in()));
        let (database, work) = Database::open(folder.path(), &catalogue, &districts).unwrap();
        let database = Arc::new(database);
        let reader = Arc::new(Reader::open(database.path()).unwrap());
        let settings = LakeSettings {
            url: String::new(),
            node: "test".to_owned(),
            memory_max: 64 << 20,
            digests: 1_000,
            merge_rows_max: 1_000,
            zone: jiff::tz::TimeZone::get("Europe/Rome").unwrap(),
        };
        let lake =
            Lake::open(folder.path(), Arc::clone(&database), Arc::clone(&catalogue), Arc::clone(&districts), settings).await.unwrap();
        let lake = Arc::new(lake);
        let desk =
            Desk::open(Arc::clone(&database), Arc::clone(&catalogue), Arc::clone(&districts), Arc::clone(&any_clock), &work, None).unwrap();
        let sources = Sources {
            lake: Arc::clone(&lake),
            live: Arc::clone(database.live()),
            reader: Arc::clone(&reader),
            catalogue: Arc::clone(&catalogue),
            districts: Arc::clone(&districts),
            clock: Arc::clone(&any_clock),
            zone: config.city.zone(),
            query: config.query.clone(),
        };
        let spill = Spill { folder: folder.path().join("spill"), disk_reserve_bytes: 0 };
        let sql = Arc::new(Engine::new(Arc::new(sources), config.sql.clone(), spill).unwrap());
        let metrics = Arc::new(Metrics::default());
        let second = Duration::from_secs(1);
        let schedule = Schedule {
            flush_rows: 1,
            flush_bytes: 1,
            flush_after: second,
            merge_every: second,
            maintain_every: second,
            kept: None,
            kept_of: std::collections::BTreeMap::new(),
            kept_rollups: crate::rollup::Tier::COARSEST_FIRST.map(|tier| (tier, None)),
            vacuum_after: second,
            quarantine_bytes_max: 1 << 20,
            quarantine_kept: second,
        };
        let keeper = Keeper::new(Arc::clone(&lake), Arc::clone(&database), Arc::clone(&metrics), Arc::clone(&any_clock), schedule);
        let (inlet, _messages) = ingest::queue(100, 1 << 20);
        let limits = GateLimits { folder: folder.path().to_owned(), disk_reserve_bytes: 0, log_bytes_max: 1 << 24 };
        let context = Arc::new(Context {
            clock: Arc::clone(&any_clock),
            catalogue: Arc::clone(&catalogue),
            districts: Arc::clone(&districts),
            database,
            reader,
            history: History::Lake(Arc::clone(&lake)),
            lake,
            influx: None,
            tariff: Arc::new(crate::query::tariff::Tariff::built_in()),
            sql,
            keeper: Arc::new(keeper),
            desk: Arc::new(desk),
            gate: Arc::new(Gate::new(limits)),
            listening: Arc::new(Listening::new(Vec::new(), inlet.depth())),
            sources: Vec::new(),
            waiting: inlet.depth(),
            door: inlet.door(),
            mappings: Arc::new(Mappings::open(config.city.mappings.clone(), Arc::clone(&catalogue), unit_problem).unwrap()),
            metrics,
            started: Self::at(0),
            stop: CancellationToken::new(),
            config,
        });
        Self {
            router: router(Arc::clone(&context)),
            normaliser: Normaliser::new(catalogue, districts),
            repeats: Repeats::new(1_000, []),
            context,
            clock,
            _inlet: inlet,
            _folder: folder,
        }
    }

    /// The instant so many seconds after the beginning.
    pub(crate) fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(BEGIN_MICROS + seconds * 1_000_000).unwrap()
    }

    /// Takes messages (topic, payload) of the source `main`, now, in one commit.
    pub(crate) fn hear(&self, messages: &[(&str, &str)]) {
        let Context { database, desk, districts, clock, .. } = &*self.context;
        let received = clock.now();
        let day = Duration::from_hours(24);
        let bounds = TimeBounds { past_max: day * 36_500, past_trusted_max: None, future_max: day, skew_max: Duration::from_mins(5) };
        let limits = Limits { payload_bytes_max: 100_000, readings_max: 100 };
        let registry = database.live().registry();
        let entry = |(topic, payload): &(&str, &str)| {
            let message = Message {
                source: SourceName::try_from("main").unwrap(),
                topic: (*topic).into(),
                payload: payload.as_bytes().to_vec().into(),
                received,
                service: Service::AtMostOnce,
                retained: false,
            };
            let outcome = decode::decode(&Form::default(), &message, &limits, &mut Memory::default()).map(|decoded| {
                let mut normalised = self.normaliser.normalise(decoded.devices, received, &bounds, &registry);
                normalised.faults.splice(0..0, decoded.faults);
                normalised
            });
            Entry { message, outcome, replay: None }
        };
        let entries: Vec<Entry> = messages.iter().map(entry).collect();
        let mut turn = database.turn();
        let limits = intake::Limits { devices_max: 1_000 };
        let mut step = intake::step(database.live(), &self.repeats, &Checks::default(), limits, |_replay| false, &entries);
        let mut taken = step.taken.iter();
        let effects = desk.observe(&mut step.commit, |step| {
            for normalised in entries.iter().filter_map(|entry| entry.outcome.as_ref().ok()).flat_map(|normalised| &normalised.devices) {
                let (device, kind, domain) = (&normalised.device, &normalised.kind, normalised.domain);
                for (observation, taken) in normalised.observations.iter().zip(taken.by_ref()) {
                    let district = observation.district.map(|district| districts.get(district).id.as_str());
                    let facts = Facts { device, kind, domain, district };
                    let (property, time, value) = (observation.property, observation.time, observation.value);
                    if taken.advances {
                        step.observe(facts, Observed { property, time, value, flags: taken.flags });
                    }
                    step.hear(facts, Evidence { time, value }, received);
                }
            }
        });
        turn.commit(step.commit).unwrap();
        desk.apply(&effects);
    }

    /// Takes one reading of an air station.
    pub(crate) fn measure(&self, device: &str, property: &str, at: i64, value: f64) {
        let payload = json!({ "time": Self::at(at), "position": { "lon": 13.36, "lat": 38.11 }, "readings": { property: value } });
        self.hear(&[(&format!("conca/v1/environment/air-station/{device}"), &payload.to_string())]);
    }

    /// Sends a request to the interface.
    pub(crate) async fn send(&self, method: Method, address: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(address);
        if !headers.iter().any(|(name, _value)| *name == "host") {
            request = request.header("host", "localhost");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 100 << 20).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, text: String::from_utf8_lossy(&bytes).into_owned() }
    }

    /// Opens an address whose answer does not end.
    pub(crate) async fn open(&self, address: &str, headers: &[(&str, &str)]) -> BodyDataStream {
        let mut request = Request::builder().uri(address).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().into_data_stream()
    }

    /// Asks for an address.
    pub(crate) async fn get(&self, address: &str) -> Answer {
        self.send(Method::GET, address, &[], "").await
    }

    /// Asks for an address whose answer is JSON and well.
    pub(crate) async fn get_json(&self, address: &str) -> Value {
        let answer = self.get(address).await;
        assert_eq!(answer.status, StatusCode::OK, "{address}: {}", answer.text);
        answer.json()
    }

    /// Sends a JSON body.
    pub(crate) async fn post(&self, method: Method, address: &str, body: &Value) -> Answer {
        self.send(method, address, &[("content-type", "application/json")], &body.to_string()).await
    }
}
