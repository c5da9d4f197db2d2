//! One event through the pipeline.

use std::time::{Duration, Instant, SystemTime};

use ringtide_core::config::{Config, Violation};
use ringtide_core::pipeline::{Connected, Pipeline};

use crate::event::{Answer, Event, Unnameable};

/// What is kept of an invocation's time for answering.
const RESERVE: Duration = Duration::from_millis(500);

/// Handles events; its connections live as long as the sandbox.
#[derive(Clone)]
pub struct Handler {
    pipeline: Pipeline,
}

impl Handler {
    /// Connects to every ring shard in the background; must be called in a Tokio runtime.
    ///
    /// # Errors
    /// Every address and TLS setting that cannot be used.
    pub fn connect(config: &Config) -> Result<Self, Vec<Violation>> {
        let Connected { pipeline, shards: _ } = Pipeline::connect(config)?;
        Ok(Self { pipeline })
    }

    /// Delivers an event's records until shortly before `deadline`, and names the first one that is not delivered.
    ///
    /// # Errors
    /// [`Unnameable`]: the whole batch has to be sent again.
    pub async fn handle(&self, event: &Event, deadline: SystemTime) -> Result<Answer, Unnameable> {
        let started = Instant::now();
        let page = event.read();
        let left = deadline.duration_since(SystemTime::now()).unwrap_or_default();
        let until = tokio::time::Instant::now() + left.saturating_sub(RESERVE);
        let delivered = self.pipeline.deliver(&page, until).await;
        tracing::info!(
            records = page.len(),
            parked = delivered.parked,
            first_undelivered = delivered.first_undelivered,
            elapsed_us = started.elapsed().as_micros() as u64,
            "handled an event"
        );
        match delivered.first_undelivered {
            None => Ok(Answer::default()),
            Some(first) => Answer::from(first, &page),
        }
    }
}
