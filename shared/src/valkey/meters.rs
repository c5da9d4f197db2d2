//! Metrics of one ring shard, looked up once when its handle is made: they go to the recorder that is in place then.

use metrics::{Counter, Gauge, counter, gauge};

use super::ShardError;
use crate::metrics::{FOREIGN_VALUES, INBOX_UNREADABLE, REASON, RING_SHARD, SHARD_CONNECTS, SHARD_ERRORS, SHARD_UP};
use crate::ring::ShardName;

#[derive(Clone)]
pub(super) struct Meters {
    up: Gauge,
    pub(super) connects: Counter,
    pub(super) unreadable: Counter,
    pub(super) foreign: Counter,
    unavailable: Counter,
    timed_out: Counter,
    rejected: Counter,
}

impl Meters {
    pub(super) fn of(shard: &ShardName) -> Self {
        let shard = || shard.to_string();
        let error = |reason: &'static str| counter!(SHARD_ERRORS, RING_SHARD => shard(), REASON => reason);
        Self {
            up: gauge!(SHARD_UP, RING_SHARD => shard()),
            connects: counter!(SHARD_CONNECTS, RING_SHARD => shard()),
            unreadable: counter!(INBOX_UNREADABLE, RING_SHARD => shard()),
            foreign: counter!(FOREIGN_VALUES, REASON => "type"),
            unavailable: error("unavailable"),
            timed_out: error("timed_out"),
            rejected: error("rejected"),
        }
    }

    /// Counts a call that failed.
    pub(super) fn failed(&self, error: &ShardError) {
        let counter = match error {
            ShardError::Unavailable { .. } => &self.unavailable,
            ShardError::TimedOut { .. } => &self.timed_out,
            ShardError::Rejected { .. } => &self.rejected,
        };
        counter.increment(1);
    }

    /// Notes whether the ring shard can be reached.
    pub(super) fn up(&self, up: bool) {
        self.up.set(if up { 1.0 } else { 0.0 });
    }
}
