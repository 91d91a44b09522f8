//! InfluxDB 2 beside the lake: the same observations, for a city that already works with it, and the same answers.
//!
//! - **A follower of the log.** What a commit made durable is written in the order of commits, so that the last received value of
//!   an identity wins here too; the log keeps what is not yet written. A write that is tried again overwrites itself.
//! - **Never in the way.** While InfluxDB is away, intake and lake go on. A follower that falls further behind than
//!   [`InfluxSettings::log_bytes_max`] lets the log go, and copies the lake's table anew once InfluxDB is back.
//! - **What it refuses** is told apart from the rest by halving the batch, kept in the quarantine, and never blocks what comes behind.
//!
//! A point is `observation,device=…,property=… value=…`, times in microseconds; a value that is not to be trusted is in the field `suspect`
//! instead, so that InfluxDB can aggregate what is trusted without looking at flags. Further fields stand where they say something: `flags`, `district`, `longitude` and `latitude` in degrees, `original_value` and `original_unit`. Since fields of a point that is
//! written again stay unless they are overwritten, rows that may overwrite a point write all of them: `flags=0i`, the word `none` as
//! `district` or `original_unit`, `located=false`; and `stale=1i` where beside a suspect value a trusted one may be left. (Not an empty text: InfluxDB 2.7.12 gives a series' texts at wrong times once one of
//! them is empty.)
//!
//! Rollups lie in a second bucket, `<bucket>_rollup`: what the lake has rolled up is copied there. A bucket of time is
//! `rollup,tier=…,property=…,device=…,trusted=…[,district=…]` at its start, with the lake's columns as fields; sketches are in Base64.
//!
//! - **Units.** Copied is what is rolled up together: a local day of a property. The state database knows which units are not copied, in
//!   the same transaction that says that they are rolled up; of these the rows are asked. Of a unit that is copied again nothing is
//!   left of what was there.
//! - **No half units.** A question that read a unit while it was copied again is asked anew ([`Influx::rewrites`]).
//!
//! Not here: the ledger and duplicates. The lake settles these; InfluxDB overwrites.

mod csv;
mod follow;
mod line;
mod pieces;
mod rollup;
mod scan;

use std::sync::Arc;
use std::time::Duration;

use influxdb2::api::buckets::ListBucketsRequest;
use influxdb2::api::organization::ListOrganizationRequest;
use influxdb2::models::{PostBucketRequest, RetentionRule, retention_rule};
use influxdb2::{BuildError, RequestError};
use parking_lot::Mutex;

pub use follow::Follower;
pub use pieces::Pieces;
use rollup::Rewrites;

use crate::config::Secret;
use crate::model::{Catalogue, Districts, Timestamp};
use crate::state::{FollowerPosition, Live, Reader};

/// The store's name among the followers of the log.
pub const STORE: &str = "influxdb";

/// Stands where a text field has nothing to say and must overwrite.
const NONE: &str = "none";

/// The measurement of rollups.
const ROLLUP: &str = "rollup";

/// InfluxDB cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum InfluxError {
    /// The settings make no client.
    #[error("the client for InfluxDB cannot be made")]
    Client(#[from] BuildError),
    /// The settings make no client for questions.
    #[error("the client for questions to InfluxDB cannot be made")]
    Questions(#[source] reqwest11::Error),
    /// InfluxDB cannot be reached, or fails.
    #[error("InfluxDB failed")]
    Request(#[from] RequestError),
    /// A question failed.
    #[error("the question to InfluxDB failed")]
    Question(#[from] reqwest11::Error),
    /// InfluxDB refuses a question.
    #[error("InfluxDB answers a question with {status}: {text}")]
    Refused { status: u16, text: String },
    /// InfluxDB is too slow.
    #[error("InfluxDB did not answer within {0:?}")]
    Timeout(Duration),
    /// An answer that is not understood.
    #[error("InfluxDB's answer is not understood: {0}")]
    Answer(String),
    /// The organisation is not there, or the token may not see it.
    #[error("InfluxDB knows no organisation {0:?} that the token may see")]
    Organisation(String),
}

/// How InfluxDB is worked with.
#[derive(Clone, Debug)]
pub struct InfluxSettings {
    /// Its address.
    pub url: String,
    /// The organisation.
    pub org: String,
    /// The bucket of observations.
    pub bucket: String,
    /// The bucket of rollups.
    pub rollup_bucket: String,
    /// The token.
    pub token: Secret,
    /// How long the bucket keeps observations where it is made by this program; zero means for ever.
    pub kept: Duration,
    /// Likewise the bucket of rollups.
    pub rollups_kept: Duration,
    /// Lines of one write.
    pub batch_lines_max: usize,
    /// How long one request may take.
    pub timeout: Duration,
    /// Longest pause between two tries.
    pub backoff_max: Duration,
    /// How much of the log may be kept for it, in bytes.
    pub log_bytes_max: u64,
    /// Disk to keep free, in bytes: intake stops below it, so that nothing of the log may be kept for InfluxDB then.
    pub disk_reserve_bytes: u64,
}

/// What is said of InfluxDB.
#[derive(Clone, Debug, Default)]
pub struct InfluxStatus {
    /// What is written of the log.
    pub position: FollowerPosition,
    /// Up to which phenomenon time the lake was copied; `None` once it is all there.
    pub copied: Option<Timestamp>,
    /// Points written since the start.
    pub written: u64,
    /// Points refused since the start.
    pub refused: u64,
    /// What failed last and since when, until it succeeds.
    pub failure: Option<(String, Timestamp)>,
}

/// InfluxDB 2 as a store.
pub struct Influx {
    settings: InfluxSettings,
    /// For settings and writes; its bodies are compressed.
    writer: influxdb2::Client,
    /// For settings.
    client: influxdb2::Client,
    /// For questions, whose answers are read as they come.
    questions: reqwest11::Client,
    live: Arc<Live>,
    catalogue: Arc<Catalogue>,
    districts: Arc<Districts>,
    /// Knows which rollups are not copied.
    reader: Arc<Reader>,
    rewrites: Mutex<Rewrites>,
    status: Mutex<InfluxStatus>,
}

impl std::fmt::Debug for Influx {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Influx").field("settings", &self.settings).field("status", &*self.status.lock()).finish_non_exhaustive()
    }
}

impl Influx {
    /// A store that has not yet spoken with its server.
    pub fn new(
        settings: InfluxSettings,
        live: Arc<Live>,
        catalogue: Arc<Catalogue>,
        districts: Arc<Districts>,
        reader: Arc<Reader>,
    ) -> Result<Self, InfluxError> {
        use reqwest11::header::{CONTENT_ENCODING, HeaderMap, HeaderValue};
        let http = || reqwest11::Client::builder().connect_timeout(settings.timeout).timeout(settings.timeout);
        let client = |http| influxdb2::ClientBuilder::with_builder(http, &settings.url, &settings.org, settings.token.reveal()).build();
        let compressed = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static("gzip"))]);
        let writer = client(http().default_headers(compressed))?;
        let client = client(http())?;
        // An answer may take as long as its asker waits; each part of it no longer than one request.
        let questions = reqwest11::Client::builder().connect_timeout(settings.timeout).build().map_err(InfluxError::Questions)?;
        // Until the follower has looked, nothing is known to be there.
        let status = InfluxStatus { copied: Some(Timestamp::MIN), ..InfluxStatus::default() };
        let (status, rewrites) = (Mutex::new(status), Mutex::default());
        Ok(Self { settings, writer, client, questions, live, catalogue, districts, reader, rewrites, status })
    }

    /// What is said of it.
    pub fn status(&self) -> InfluxStatus {
        self.status.lock().clone()
    }

    /// Makes the buckets that are not there.
    async fn prepare(&self) -> Result<(), InfluxError> {
        let InfluxSettings { bucket, kept, rollup_bucket, rollups_kept, .. } = &self.settings;
        self.prepare_bucket(bucket, *kept).await?;
        self.prepare_bucket(rollup_bucket, *rollups_kept).await
    }

    async fn prepare_bucket(&self, bucket: &str, kept: Duration) -> Result<(), InfluxError> {
        let org = &self.settings.org;
        let request = ListBucketsRequest { name: Some(bucket.to_owned()), ..ListBucketsRequest::default() };
        let found = self.client.list_buckets(Some(request)).await;
        match found {
            Ok(found) if found.buckets.iter().any(|known| known.name == bucket) => return Ok(()),
            // InfluxDB says so of a bucket that is not there.
            Ok(_) | Err(RequestError::Http { status: reqwest11::StatusCode::NOT_FOUND, .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let organisations = self.client.list_organizations(ListOrganizationRequest::default()).await?;
        let organisation = organisations.orgs.into_iter().find(|known| known.name == *org).and_then(|known| known.id);
        let organisation = organisation.ok_or_else(|| InfluxError::Organisation(org.clone()))?;
        let rules = if kept.is_zero() {
            Vec::new()
        } else {
            let seconds = i32::try_from(kept.as_secs()).unwrap_or(i32::MAX);
            vec![RetentionRule::new(retention_rule::Type::Expire, seconds)]
        };
        let request = PostBucketRequest { retention_rules: rules, ..PostBucketRequest::new(organisation, bucket.to_owned()) };
        self.client.create_bucket(Some(request)).await?;
        tracing::info!(bucket, "made the bucket");
        Ok(())
    }
}
