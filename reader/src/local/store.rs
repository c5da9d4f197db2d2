//! The store of all copies, bounded by bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use metrics::{Gauge, gauge};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use ringtide_core::key::CacheKey;
use ringtide_core::metrics as names;

use super::kept::{Kept, Moment, SpaceId, nanos};
use super::pending::{Mark, Pending, Verdict};
use super::pulse::Pulse;
use super::seen::Seen;
use crate::forgotten::Forgotten;
use crate::space::SpaceState;

/// What a copy takes besides itself, its entry and its name: allocations' heads and the store's own tables.
const OVERHEAD: usize = 112;

/// How large a copy is thought to be before there is one, which only sizes tables.
const USUAL: u64 = 1024;

/// The pause between two looks at how full the store is.
const GAUGE_EVERY: Moment = 250_000_000;

pub(super) struct Store {
    copies: Cache<CacheKey, Arc<Kept>, Weigh>,
    pending: Arc<Pending>,
    /// Which entries need not be kept as a fallback again.
    pub(super) seen: Seen,
    forgotten: Forgotten,
    origin: Instant,
    bytes: Gauge,
    gauged: AtomicU64,
}

#[derive(Clone)]
struct Weigh;

impl Weighter<CacheKey, Arc<Kept>> for Weigh {
    fn weight(&self, key: &CacheKey, kept: &Arc<Kept>) -> u64 {
        (key.as_bytes().len() + kept.weight() + OVERHEAD) as u64
    }
}

impl Store {
    /// Makes a store for `capacity` bytes, where an entry that is kept as a fallback is so for `fallback` at least.
    pub(super) fn new(capacity: u64, fallback: Duration) -> Arc<Self> {
        let copies = usize::try_from(capacity / USUAL).unwrap_or(usize::MAX).clamp(1, 1 << 20);
        Arc::new(Self {
            copies: Cache::with_weighter(copies, capacity, Weigh),
            pending: Pending::new(),
            seen: Seen::new(fallback),
            forgotten: Forgotten::new(),
            origin: Instant::now(),
            bytes: gauge!(names::READER_LOCAL_BYTES),
            gauged: AtomicU64::new(0),
        })
    }

    #[inline]
    pub(super) fn now(&self) -> Moment {
        nanos(self.origin.elapsed())
    }

    /// When something was, in the store's time.
    pub(super) fn moment(&self, instant: Instant) -> Moment {
        nanos(instant.saturating_duration_since(self.origin))
    }

    #[inline]
    pub(super) fn get(&self, key: &CacheKey) -> Option<Arc<Kept>> {
        self.copies.get(key)
    }

    /// Whether an entry that was just read is kept already, and not for long.
    #[inline]
    pub(super) fn is_recent(&self, key: &CacheKey, space: &SpaceState, entry: &Bytes) -> bool {
        self.copies.get(key).is_some_and(|kept| kept.is_recent(SpaceId::of(space), entry, self.now()))
    }

    /// Marks a key that is about to be read.
    pub(super) fn mark(&self, key: &CacheKey, pulse: Option<&Arc<Pulse>>) -> Mark {
        self.pending.mark(key, pulse.map(Pulse::beat))
    }

    /// Keeps what was read under a mark, unless the key has changed since.
    pub(super) fn insert_marked(&self, mark: Mark, kept: Kept) -> Verdict {
        let (key, kept) = (mark.key().clone(), Arc::new(kept));
        let verdict = mark.settle(|| self.copies.insert(key, kept));
        self.gauge();
        verdict
    }

    /// How often this process has asked for a key to be forgotten.
    #[inline]
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten.times()
    }

    /// Keeps what was read or loaded, unless this process has asked for the key to be forgotten since `forgotten` times.
    ///
    /// One that does so at the same time may be overlooked for a moment; what is only asked while a ring shard fails need not be
    /// truer.
    pub(super) fn insert_unless_forgotten(&self, key: &CacheKey, kept: Kept, forgotten: u64) -> bool {
        if self.forgotten.since(forgotten, key) {
            return false;
        }
        self.copies.insert(key.clone(), Arc::new(kept));
        let stays = !self.forgotten.since(forgotten, key);
        if !stays {
            self.copies.remove(key);
        }
        self.gauge();
        stays
    }

    /// Drops a key's copy, and refuses those of reads under way.
    pub(super) fn invalidate(&self, key: &CacheKey) {
        self.pending.tell(key, || {
            self.copies.remove(key);
        });
    }

    /// As [`Store::invalidate`], and refuses the copies of loads and of reads for the fallback too.
    pub(super) fn forget(&self, key: &CacheKey) {
        self.forgotten.note(key);
        self.invalidate(key);
    }

    /// Shows how full the store is, now and then.
    pub(super) fn gauge(&self) {
        let (now, gauged) = (self.now(), self.gauged.load(Ordering::Relaxed));
        if now.saturating_sub(gauged) >= GAUGE_EVERY
            && self.gauged.compare_exchange(gauged, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.bytes.set(self.copies.weight() as f64);
        }
    }
}
