//! One ring shard's part of the tier: what its servers tell of changes.

use std::sync::Arc;
use std::time::Instant;

use metrics::{Counter, counter};
use ringtide_core::key::CacheKey;
use ringtide_core::metrics as names;
use ringtide_core::ring::ShardName;
use ringtide_core::valkey::{Flushed, Tracker};

use super::pulse::Pulse;
use super::store::Store;

/// The label of a flush because keys have other owners now.
const RING: &str = "ring";

pub(crate) struct Part {
    store: Arc<Store>,
    pulse: Arc<Pulse>,
    shard: ShardName,
    pushes: Counter,
    flushes: [(&'static str, Counter); 5],
}

impl Part {
    pub(super) fn new(store: Arc<Store>, shard: &ShardName) -> Self {
        let name = shard.to_string();
        let reasons = [Flushed::Server, Flushed::Disconnected, Flushed::Moved, Flushed::Unreadable].map(Flushed::label);
        let [server, disconnected, moved, unreadable] = reasons;
        let flushes = [server, disconnected, moved, unreadable, RING].map(|reason| {
            let counter =
                counter!(names::READER_LOCAL_FLUSHES, names::RING_SHARD => name.clone(), names::REASON => reason);
            (reason, counter)
        });
        let pushes = counter!(names::READER_LOCAL_PUSHES, names::RING_SHARD => name);
        Self { store, pulse: Arc::default(), shard: shard.clone(), pushes, flushes }
    }

    pub(super) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// Drops all copies, because keys may have other owners now.
    pub(crate) fn ring_changed(&self) {
        self.flush(RING);
    }

    fn flush(&self, reason: &'static str) {
        self.pulse.flush();
        for (_, counter) in self.flushes.iter().filter(|(of, _)| *of == reason) {
            counter.increment(1);
        }
        tracing::debug!(ring_shard = %self.shard, reason, "copies of a ring shard's entries are dropped");
    }
}

impl Tracker for Part {
    fn invalidated(&self, key: &[u8]) {
        self.pushes.increment(1);
        // What is no key of this product was read by nobody here.
        if let Ok(key) = CacheKey::from_utf8(key) {
            self.store.invalidate(&key);
        }
    }

    fn flushed(&self, why: Flushed) {
        self.flush(why.label());
    }

    fn in_step(&self, as_of: Instant) {
        self.pulse.in_step(self.store.moment(as_of));
        self.store.gauge();
    }
}
