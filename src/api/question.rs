//! How many questions run at once, and for how long: further ones wait for their turn, up to the time a question may take.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Shared;
use super::problem::{Kind, Problem};

/// The right to ask the store. Keep it as long as the answer is being made: a streamed one until its end.
#[derive(Debug)]
pub(crate) struct QuestionPermit {
    /// When the answer must have begun.
    pub(crate) deadline: Instant,
    _place: OwnedSemaphorePermit,
}

impl QuestionPermit {
    /// Does what the question asks for, until the deadline.
    pub(crate) async fn run<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, Problem>
    where
        Problem: From<E>,
    {
        match tokio::time::timeout_at(self.deadline, work).await {
            Ok(result) => Ok(result?),
            Err(_elapsed) => Err(Problem::new(Kind::Timeout, "the question took too long")),
        }
    }
}

impl FromRequestParts<Shared> for QuestionPermit {
    type Rejection = Problem;

    async fn from_request_parts(_parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        let deadline = Instant::now() + shared.context.config.query.timeout.0;
        let place = tokio::time::timeout_at(deadline, Arc::clone(&shared.questions).acquire_owned()).await;
        let place = place.map_err(|_elapsed| {
            Problem::new(Kind::Busy, "as many questions as are allowed are under way").retry_after(Duration::from_secs(1))
        })?;
        Ok(Self { deadline, _place: place.expect("the semaphore is never closed") })
    }
}
