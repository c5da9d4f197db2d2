//! Metrics of one ring shard, looked up once when its handle is made: they go to the recorder that is in place then.

use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge, counter, gauge};

use super::ShardError;
use crate::metrics::{FOREIGN_VALUES, INBOX_UNREADABLE, REASON, RING_SHARD, SHARD_CONNECTS, SHARD_ERRORS, SHARD_UP};
use crate::ring::ShardName;

#[derive(Clone)]
pub(super) struct Meters {
    up: Gauge,
    /// Whether the gauge is this handle's to set.
    shown: Arc<Mutex<bool>>,
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
            shown: Arc::new(Mutex::new(true)),
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
    pub(super) fn up(&self, up: impl FnOnce() -> bool) {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        self.set(*shown, up);
    }

    /// Takes the gauge, or leaves it to another handle of the ring shard.
    pub(super) fn show(&self, shown: bool, up: impl FnOnce() -> bool) {
        let mut known = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        *known = shown;
        self.set(shown, up);
    }

    /// Leaves the gauge without a value, where it is this handle's.
    pub(super) fn leave(&self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *shown) {
            self.up.set(f64::NAN);
        }
    }

    fn set(&self, shown: bool, up: impl FnOnce() -> bool) {
        if shown {
            self.up.set(if up() { 1.0 } else { 0.0 });
        }
    }
}
