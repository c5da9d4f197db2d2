//! Making good what another server in a ring shard's place may have lost.

use metrics::counter;
use tokio::time::Instant;

use super::Queue;
use super::state::Stage;
use crate::metrics as names;
use crate::valkey::Loss;

impl Queue {
    /// Another process delivered what comes before: of that nothing is remembered here.
    ///
    /// Where servers have changed just before, what they lost of it is unknown.
    pub(in crate::pipeline) fn took_over(&self, now: Instant) {
        let mut state = self.lock();
        state.recent.begin_again(now);
        let just = |at: Instant| now.duration_since(at) < self.limits.redelivery.window;
        if state.stage == Stage::Open && state.failed_over.is_some_and(just) {
            state.recovering = true;
            self.flush_all(&mut state, "failover");
        }
        drop(state);
        self.filled.notify_one();
        // Nobody waits for room for the length of a flush.
        self.moved.notify_waiters();
    }

    /// Queues what may be lost once more, ahead of everything else.
    pub(super) fn recover(&self, loss: Loss, now: Instant) {
        let since = match loss {
            Loss::Nothing => return,
            Loss::Since(since) => Some(since),
            Loss::Unknown => None,
        };
        let mut state = self.lock();
        state.failed_over = Some(now);
        if let Some(flush) = &mut state.flush {
            flush.removed = None;
        }
        let lost = since.and_then(|since| state.recent.take(since, now));
        let outcome = if lost.is_some() { "redelivered" } else { "flushed" };
        let name = || self.name.to_string();
        counter!(names::FAILOVERS, names::RING_SHARD => name(), names::OUTCOME => outcome).increment(1);
        match lost {
            Some(lost) => {
                tracing::warn!(
                    ring_shard = %self.name, commands = lost.len(),
                    "another server has taken a ring shard over, what it may lack is delivered again"
                );
                counter!(names::REDELIVERED, names::RING_SHARD => name()).increment(lost.len() as u64);
                state.redeliver(&lost, now);
                self.bound(&mut state);
                self.note_pending(&state);
            }
            None => {
                tracing::warn!(
                    ring_shard = %self.name,
                    "another server has taken a ring shard over, and what it may lack is not known, it is flushed"
                );
                state.recovering = true;
                self.flush_all(&mut state, "failover");
            }
        }
        drop(state);
        self.filled.notify_one();
        self.moved.notify_waiters();
    }
}
