//! A table on S3, or on a server that speaks its protocol.
//!
//! - Keys, region and endpoint are in the environment, under the names that AWS's own tools know.
//! - A commit is a conditional put (`If-None-Match: *`) of its version's file: of two writers one succeeds, and a put whose
//!   answer got lost is found to be there when it is tried again.
//! - There is nothing to sync: a put is answered once the object is durable, and is seen by every reader from then on.
//! - A request ends after `AWS_TIMEOUT` (30 s), a connection that is not made after `AWS_CONNECT_TIMEOUT` (5 s). Both are tried again
//!   a few times; what fails then is the caller's, and the keeper tries its work again for ever.

use std::sync::Arc;
use std::time::Duration;

use deltalake::logstore::{LogStoreRef, ObjectStoreRef, StorageConfig, default_logstore};
use object_store::RetryConfig;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use url::Url;

use super::LakeError;

/// Tries of a request after the first one.
const RETRIES_MAX: usize = 3;

/// No try begins later after the first one.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// The log store of a table at `s3://bucket/prefix`. Reads the environment; connects nowhere.
pub(super) fn log_store(url: &Url) -> Result<LogStoreRef, LakeError> {
    let retry = RetryConfig { max_retries: RETRIES_MAX, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
    let bucket = AmazonS3Builder::from_env()
        .with_url(url.as_str())
        .with_retry(retry)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .build()
        .map_err(LakeError::Storage)?;
    let bucket: ObjectStoreRef = Arc::new(bucket);
    let config = StorageConfig::default();
    let table = Arc::from(config.decorate_store(Arc::clone(&bucket), url)?);
    Ok(default_logstore(table, bucket, url, &config))
}
