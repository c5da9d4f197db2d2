//! A ring shard as a reader has it: its connections, its inbox, and its share of loads while it is down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringtide_core::config::Reader;
use ringtide_core::valkey::{Shard, ShardError};
use tokio::sync::Semaphore;

use crate::inbox::Waiters;

pub(crate) struct ReadShard {
    pub(crate) shard: Shard,
    /// The channel of this process's inbox.
    pub(crate) channel: String,
    pub(crate) waiters: Arc<Waiters>,
    /// Loads without a lease that may run at once.
    pub(crate) unleased: Semaphore,
    failing: AtomicBool,
}

impl ReadShard {
    pub(crate) fn new(shard: Shard, channel: String, settings: &Reader) -> Self {
        let unleased = Semaphore::new(settings.max_fallback_loads);
        Self { shard, channel, waiters: Arc::default(), unleased, failing: AtomicBool::new(false) }
    }

    /// Notes a failed call, and logs the first of a row.
    pub(crate) fn failed(&self, error: &ShardError) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(ring_shard = %self.shard.name(), %error, "ring shard fails, its reads go to the loader");
        }
    }

    /// Notes an answered call.
    pub(crate) fn answered(&self) {
        if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!(ring_shard = %self.shard.name(), "ring shard answers again");
        }
    }
}
