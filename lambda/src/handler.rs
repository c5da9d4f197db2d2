//! One event through the pipeline.
//!
//! # Time
//! Nothing is begun, and nothing is waited for, past the moment at which the answer has to be on its way: what is not
//! delivered by then is named as failed, because an invocation that Lambda ends by force fails as a whole.
//!
//! # Freezing
//! Between invocations a sandbox is frozen, and its connections may be gone when it is thawed. Whatever is to outlive
//! an invocation is therefore done before its answer; connections are made anew by their own tasks, and a batch that
//! was sent over a dead one is sent again.

mod given_up;
mod page;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use metrics::{counter, histogram};
use ringtide_core::aws;
use ringtide_core::config::{Config, Delivery, Violation};
use ringtide_core::metrics as names;
use ringtide_core::pipeline::{Connected, Pipeline, Services};
use tokio::time::Instant;

pub use given_up::{ObjectError, Objects};

use crate::event::{Answer, Event, Failure, UnknownEvent, Unnameable};
use crate::streams::Streams;

/// What is kept of an invocation's time for answering.
const RESERVE: Duration = Duration::from_millis(500);

/// The part of a short time that is kept instead.
const SHARE: u32 = 4;

/// Handles events; its connections live as long as the sandbox.
#[derive(Clone)]
pub struct Handler {
    pipeline: Pipeline,
    objects: Arc<dyn Objects>,
    streams: Arc<Mutex<Streams>>,
}

/// An event that cannot be answered with what is to be sent again; Lambda sends all of it again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no telling what the event is.
    #[error(transparent)]
    Unknown(#[from] UnknownEvent),
    /// What is not delivered cannot be named.
    #[error(transparent)]
    Unnameable(#[from] Unnameable),
}

impl Refused {
    /// A name for the kind of error.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "Ringtide.UnknownEvent",
            Self::Unnameable(_) => "Ringtide.Unnameable",
        }
    }
}

impl Handler {
    /// Connects to every ring shard in the background; must be called in a Tokio runtime.
    ///
    /// # Errors
    /// Every address and TLS setting that cannot be used. A ring shard that is down is no error.
    pub fn connect(config: &Config) -> Result<Self, Vec<Violation>> {
        Self::connect_with(config, aws::services(config), Arc::new(aws::Objects::new(&config.aws)))
    }

    /// As [`Handler::connect`], with services and objects that are given.
    ///
    /// # Errors
    /// As [`Handler::connect`].
    pub fn connect_with(
        config: &Config,
        services: Services,
        objects: Arc<dyn Objects>,
    ) -> Result<Self, Vec<Violation>> {
        let Connected { pipeline, shards: _ } = Pipeline::connect(&of_sandbox(config), services)?;
        Ok(Self::new(pipeline, objects))
    }

    /// Puts a handler on a pipeline that runs.
    #[must_use]
    pub fn new(pipeline: Pipeline, objects: Arc<dyn Objects>) -> Self {
        Self { pipeline, objects, streams: Arc::default() }
    }

    /// Delivers what is in an event until shortly before `deadline`, and names what is not delivered.
    ///
    /// # Errors
    /// [`Refused`]: all of the event has to be sent again.
    pub async fn handle(&self, event: &Event, deadline: SystemTime) -> Result<Answer, Refused> {
        let started = Instant::now();
        let answer = self.answer(event, started, until(started, deadline)).await;
        let outcome = match &answer {
            Ok(None) => "empty",
            Ok(Some(answer)) if answer.failures.is_empty() => "delivered",
            Ok(Some(_)) => "partial",
            Err(_) => "refused",
        };
        counter!(names::LAMBDA_EVENTS, names::OUTCOME => outcome).increment(1);
        let left = deadline.duration_since(SystemTime::now()).unwrap_or_default();
        histogram!(names::LAMBDA_REMAINING).record(left);
        answer.map(Option::unwrap_or_default)
    }

    /// Resolves when a task of the pipeline has broken off: the sandbox has to begin anew.
    pub async fn broken(&self) {
        self.pipeline.broken().await;
    }

    /// Ends the delivery tasks at once: what is not delivered was not answered for either, and is sent again.
    pub async fn shutdown(&self) {
        let left = self.pipeline.shutdown(Instant::now()).await;
        if left > 0 {
            tracing::info!(commands = left, "given up commands that were not delivered, they are sent again");
        }
    }

    async fn answer(&self, event: &Event, started: Instant, until: Instant) -> Result<Option<Answer>, Refused> {
        let contents = event.contents()?;
        let page = contents.read();
        if page.is_empty() && contents.messages.is_empty() {
            tracing::info!("the event holds no records");
            return Ok(None);
        }
        let mut answer = Answer::default();
        if !page.is_empty() {
            let delivered = self.page(&page, until).await;
            tracing::info!(
                records = page.len(),
                parked = delivered.parked,
                first_undelivered = delivered.first_undelivered,
                elapsed_us = started.elapsed().as_micros() as u64,
                "handled a batch"
            );
            if let Some(first) = delivered.first_undelivered {
                count_undelivered(page.get(first..).unwrap_or_default());
                answer = Answer::from(first, &page)?;
            }
        }
        if !contents.messages.is_empty() {
            let kept = self.messages(&contents.messages, until).await;
            tracing::info!(
                messages = contents.messages.len(),
                kept = kept.len(),
                elapsed_us = started.elapsed().as_micros() as u64,
                "handled messages of batches that were given up"
            );
            for message in kept {
                let identifier = message.id.clone().ok_or(Unnameable)?;
                answer.failures.push(Failure { identifier });
            }
        }
        Ok(Some(answer))
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What holds for one sandbox of many, each of which knows only what it delivered itself: after a fail-over a ring shard is
/// flushed. Its package never changes.
fn of_sandbox(config: &Config) -> Config {
    let delivery = Delivery { redeliver_keys: 0, ..config.delivery.clone() };
    Config { delivery, file: None, ..config.clone() }
}

/// The moment past which nothing is waited for.
fn until(now: Instant, deadline: SystemTime) -> Instant {
    let left = deadline.duration_since(SystemTime::now()).unwrap_or_default();
    now + left.saturating_sub(RESERVE.min(left / SHARE))
}

fn count_undelivered(records: &[page::Record]) {
    let mut by_table: BTreeMap<&str, u64> = BTreeMap::new();
    for record in records {
        let table = match record {
            Ok(record) => Some(record.stream.table.as_str()),
            Err(unreadable) => unreadable.table.as_deref(),
        };
        *by_table.entry(table.unwrap_or("unknown")).or_default() += 1;
    }
    for (table, count) in by_table {
        counter!(names::LAMBDA_UNDELIVERED, names::TABLE => table.to_owned()).increment(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_a_short_time_is_kept_and_half_a_second_of_a_long_one() {
        let budget = |left: u64| {
            let now = Instant::now();
            until(now, SystemTime::now() + Duration::from_millis(left)).duration_since(now).as_millis() as u64
        };
        for (left, expected) in [(60_000, 59_500), (1000, 750), (100, 75), (0, 0)] {
            let budget = budget(left);
            assert!((expected.max(5) - 5..=expected).contains(&budget), "{budget} of {left}");
        }
        let now = Instant::now();
        assert_eq!(until(now, SystemTime::UNIX_EPOCH), now);
    }
}
