//! Loading: the loader in a task of its own, with a hard cap on its time.

mod failures;

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use tokio::sync::SemaphorePermit;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::batch::Failure;
use crate::cache::Inner;
use crate::codec::Encoding;
use crate::counters::{LoadOutcome, RepeatOutcome};
use crate::error::Error;
use crate::lease::Plan;
use crate::loader::{Cap, Consistency, Encoded, LoaderError};

pub(crate) use failures::Failures;

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
    meanwhile: Pin<&mut impl Future<Output = Infallible>>,
) -> Result<(Instant, Load), Error> {
    let after = inner.settings.load_timeout_of(&plan.space.settings);
    if !plan.repeats && (plan.options.fresh || consistency == Consistency::AsUsual) {
        plan.shard.budget.deposit();
    }
    let (began, begun) = (Instant::now(), inner.failures.begun());
    let (loader, encoding) = (plan.loader.clone(), Encoding::of(&plan.space.settings));
    let mut task =
        AbortOnDropHandle::new(tokio::spawn(async move { loader.call(consistency, encoding).await }.in_current_span()));
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
    let took = began.elapsed();
    counters.load_time.record(took);
    inner.watcher.loaded(&plan.space.settings.name, &plan.key, result.as_ref().err(), took);
    counters.loads.add(match &result {
        Ok(_) => LoadOutcome::Loaded,
        Err(Error::LoadPanicked { .. }) => LoadOutcome::Panicked,
        Err(Error::LoadTimedOut { .. }) => LoadOutcome::TimedOut,
        Err(_) => LoadOutcome::Failed,
    });
    match &result {
        Ok(_) => inner.failures.succeeded(&plan.key),
        Err(Error::Closed { .. }) => {}
        Err(error) => {
            tracing::debug!(key = %plan.key, %error, "load failed");
            inner.failures.failed(&plan.key, error, begun, Instant::now());
        }
    }
    result
}

/// Loads without a lease, under the cap on such loads.
pub(crate) async fn unleased(inner: &Inner, plan: &Plan, consistency: Consistency) -> Result<(Instant, Load), Error> {
    let after = inner.settings.load_timeout_of(&plan.space.settings);
    if let Some(place) = plan.loader.place() {
        // The cap counts the shared load as one, when it is made.
        place.under(&plan.shard, Cap::Unleased);
        return run(inner, plan, consistency, pin!(std::future::pending())).await;
    }
    let _permit = permit(plan, Cap::Unleased, after).await?;
    run(inner, plan, consistency, pin!(std::future::pending())).await
}

/// Waits for leave to load under a lease; what several loads share is counted where it is made, and waits here until it may be.
pub(crate) async fn leave(plan: &Plan, within: Duration) -> Result<Option<SemaphorePermit<'_>>, Error> {
    if let Some(place) = plan.loader.place() {
        place.under(&plan.shard, Cap::Leased);
        if plan.shard.cap(Cap::Leased, &plan.space).available_permits() == 0 {
            // No call waits for this key meanwhile. Those that waited with it pass at the same time, and share one call.
            place.stand_by();
            drop(permit(plan, Cap::Leased, within / 2).await?);
            place.come();
        }
        return Ok(None);
    }
    permit(plan, Cap::Leased, within).await.map(Some)
}

/// Waits for leave to load, for at most `within`.
async fn permit(plan: &Plan, cap: Cap, within: Duration) -> Result<SemaphorePermit<'_>, Error> {
    let loads = plan.shard.cap(cap, &plan.space);
    if let Ok(permit) = loads.try_acquire() {
        return Ok(permit);
    }
    plan.space.counters.put_off.increment(1);
    match tokio::time::timeout(within, loads.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(Error::Overloaded { key: plan.key.clone(), limit: cap.name() }),
    }
}

/// Asks for a load on behalf of a second attempt, and counts what the budget says.
pub(crate) fn may_repeat(plan: &Plan) -> bool {
    let allowed = plan.shard.budget.withdraw(Instant::now());
    plan.space.counters.repeated.add(if allowed { RepeatOutcome::Allowed } else { RepeatOutcome::Denied });
    if !allowed {
        tracing::debug!(key = %plan.key, ring_shard = %plan.shard.shard.name(), "no budget for another load");
    }
    allowed
}

fn returned(plan: &Plan, error: LoaderError) -> Error {
    let key = plan.key.clone();
    match error {
        LoaderError::Returned(source) => match source.downcast::<Failure>() {
            Ok(failure) => failure.of(key),
            Err(source) => Error::LoadFailed { key, source: source.into() },
        },
        LoaderError::Encode(source) => Error::Encode { key, source: source.into() },
    }
}

fn died(plan: &Plan, error: JoinError) -> Error {
    let key = plan.key.clone();
    match panic_message(error) {
        Some(message) => Error::LoadPanicked { key, message },
        None => Error::Closed { key },
    }
}

/// The message of the panic that ended a task; nothing where the task was aborted.
pub(crate) fn panic_message(error: JoinError) -> Option<String> {
    let panic = error.try_into_panic().ok()?;
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Some(message.unwrap_or_else(|| "no message".to_owned()))
}
