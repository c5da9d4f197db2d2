//! Loading: the loader in a task of its own, with a hard cap on its time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use crate::cache::Inner;
use crate::counters::LoadOutcome;
use crate::error::Error;
use crate::lease::Plan;
use crate::loader::{Consistency, Encoded, LoaderError};

/// What a load returned, and what it cost.
pub(crate) struct Load {
    pub(crate) encoded: Encoded,
    pub(crate) took: Duration,
}

/// Runs the loader beside `meanwhile`, for at most the load time-out; tells when it began.
pub(crate) async fn run(
    inner: &Inner,
    plan: &Plan,
    consistency: Consistency,
    meanwhile: impl Future<Output = Infallible>,
) -> Result<(Instant, Load), Error> {
    let after = inner.settings.load_timeout;
    let began = Instant::now();
    let loader = plan.loader.clone();
    let mut task = AbortOnDropHandle::new(tokio::spawn(async move { loader.call(consistency).await }));
    let result = tokio::select! {
        biased;
        result = &mut task => match result {
            Ok(Ok(encoded)) => Ok((began, Load { encoded, took: began.elapsed() })),
            Ok(Err(error)) => Err(returned(plan, error)),
            Err(error) => Err(died(plan, error)),
        },
        () = tokio::time::sleep(after) => Err(Error::LoadTimedOut { key: plan.key.clone(), after }),
        never = meanwhile => match never {},
    };
    let counters = &plan.space.counters;
    counters.load_time.record(began.elapsed());
    counters.loads.add(match &result {
        Ok(_) => LoadOutcome::Loaded,
        Err(Error::LoadPanicked { .. }) => LoadOutcome::Panicked,
        Err(Error::LoadTimedOut { .. }) => LoadOutcome::TimedOut,
        Err(_) => LoadOutcome::Failed,
    });
    if let Err(error) = &result {
        tracing::debug!(key = %plan.key, %error, "load failed");
    }
    result
}

/// Loads without a lease, under the ring shard's cap on such loads.
pub(crate) async fn unleased(inner: &Inner, plan: &Plan, consistency: Consistency) -> Result<(Instant, Load), Error> {
    let after = inner.settings.load_timeout;
    let permit = tokio::time::timeout(after, plan.shard.unleased.acquire()).await;
    let Ok(Ok(_permit)) = permit else { return Err(Error::LoadTimedOut { key: plan.key.clone(), after }) };
    run(inner, plan, consistency, std::future::pending()).await
}

fn returned(plan: &Plan, error: LoaderError) -> Error {
    let key = plan.key.clone();
    match error {
        LoaderError::Returned(source) => Error::LoadFailed { key, source: Arc::from(source) },
        LoaderError::Encode(source) => Error::Encode { key, source: Arc::new(source) },
    }
}

fn died(plan: &Plan, error: JoinError) -> Error {
    let key = plan.key.clone();
    let Ok(panic) = error.try_into_panic() else { return Error::Closed { key } };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Error::LoadPanicked { key, message: message.unwrap_or_else(|| "no message".to_owned()) }
}
