//! Reads that are under way, and which of them may be kept.
//!
//! A mark is made for a key before its read is sent. When the reply has come, it may be kept only if the key has not been
//! told to have changed since the mark was made. Telling, checking and keeping happen under the key's lock, so that
//! whichever comes last sees the other.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringtide_core::key::CacheKey;

use super::pulse::Beat;

const STRIPES: usize = 64;

/// The marks of all keys that are being read.
pub(super) struct Pending {
    stripes: Box<[Mutex<HashMap<CacheKey, Marked>>]>,
    hasher: RandomState,
}

/// A key that is being read.
#[derive(Default)]
struct Marked {
    reads: usize,
    /// How often it was told to have changed.
    told: u64,
    /// How often a read of it was kept.
    kept: u64,
}

/// A read that is under way; its mark ends when it is dropped.
pub(crate) struct Mark {
    pending: Arc<Pending>,
    key: CacheKey,
    told: u64,
    kept: u64,
    beat: Option<Beat>,
}

/// What became of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Kept,
    /// The key, or everything, has changed since the mark was made.
    Refused,
    /// Another read of the time was kept: which of the two is newer is not known, and that one's changes are told.
    Overtaken,
}

impl Pending {
    pub(super) fn new() -> Arc<Self> {
        let stripes = (0..STRIPES).map(|_| Mutex::default()).collect();
        Arc::new(Self { stripes, hasher: RandomState::new() })
    }

    /// Marks a key that is about to be read.
    pub(super) fn mark(self: &Arc<Self>, key: &CacheKey, beat: Option<Beat>) -> Mark {
        let mut stripe = self.stripe(key);
        let marked = stripe.entry(key.clone()).or_default();
        marked.reads += 1;
        let (told, kept) = (marked.told, marked.kept);
        drop(stripe);
        Mark { pending: self.clone(), key: key.clone(), told, kept, beat }
    }

    /// Refuses the reads of a key that are under way, and does `remove` to what was kept.
    pub(super) fn tell(&self, key: &CacheKey, remove: impl FnOnce()) {
        let mut stripe = self.stripe(key);
        if let Some(marked) = stripe.get_mut(key) {
            marked.told += 1;
        }
        remove();
    }

    fn stripe(&self, key: &CacheKey) -> MutexGuard<'_, HashMap<CacheKey, Marked>> {
        let at = self.hasher.hash_one(key) as usize % STRIPES;
        self.stripes[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.stripes.iter().all(|stripe| stripe.lock().unwrap().is_empty())
    }
}

impl Mark {
    pub(super) fn key(&self) -> &CacheKey {
        &self.key
    }

    /// What was known of the ring shard's connections when the mark was made, where these tell of changes.
    pub(super) fn tracked(&self) -> Option<Beat> {
        self.beat.clone()
    }

    /// Does `keep` where the read may be kept.
    pub(super) fn settle(self, keep: impl FnOnce()) -> Verdict {
        let mut stripe = self.pending.stripe(&self.key);
        let Some(marked) = stripe.get_mut(&self.key) else { return Verdict::Refused };
        if marked.told != self.told || self.beat.as_ref().is_some_and(|beat| !beat.is_current()) {
            return Verdict::Refused;
        }
        if marked.kept != self.kept {
            return Verdict::Overtaken;
        }
        marked.kept += 1;
        keep();
        Verdict::Kept
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let mut stripe = self.pending.stripe(&self.key);
        if let Some(marked) = stripe.get_mut(&self.key) {
            marked.reads -= 1;
            if marked.reads == 0 {
                stripe.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pulse::Pulse;
    use super::*;

    fn key(text: &str) -> CacheKey {
        CacheKey::new(text).unwrap()
    }

    #[test]
    fn a_read_is_kept_unless_its_key_was_told_to_change_since_its_mark() {
        let pending = Pending::new();
        let (early, other) = (pending.mark(&key("a"), None), pending.mark(&key("b"), None));
        let mut removed = false;
        pending.tell(&key("a"), || removed = true);
        let late = pending.mark(&key("a"), None);
        assert!(removed);
        assert_eq!(early.settle(|| panic!("kept")), Verdict::Refused);
        assert_eq!((late.settle(|| ()), other.settle(|| ())), (Verdict::Kept, Verdict::Kept));
        assert!(pending.is_empty());
    }

    #[test]
    fn of_reads_at_the_same_time_the_first_is_kept() {
        let pending = Pending::new();
        let (first, second) = (pending.mark(&key("a"), None), pending.mark(&key("a"), None));
        assert_eq!(second.settle(|| ()), Verdict::Kept);
        let third = pending.mark(&key("a"), None);
        assert_eq!(first.settle(|| panic!("kept")), Verdict::Overtaken);
        assert_eq!(third.settle(|| ()), Verdict::Kept);
    }

    #[test]
    fn a_flush_refuses_the_reads_under_way_and_a_dropped_read_leaves_nothing_behind() {
        let (pending, pulse) = (Pending::new(), Arc::new(Pulse::default()));
        let mark = pending.mark(&key("a"), Some(pulse.beat()));
        let dropped = pending.mark(&key("b"), Some(pulse.beat()));
        pulse.flush();
        assert_eq!(mark.settle(|| panic!("kept")), Verdict::Refused);
        assert_eq!(pending.mark(&key("a"), Some(pulse.beat())).settle(|| ()), Verdict::Kept);
        drop(dropped);
        assert!(pending.is_empty());
    }
}
