//! Which keys this process has asked to be forgotten, and since when.
//!
//! A hit of a ring shard is not to pay for a hash of its key, so that what is noted before a read is how often any key was
//! forgotten. Only where that has changed since is it looked whether the key may have been among them.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicU64, Ordering};

use ringtide_core::key::CacheKey;

/// Keys that fall to the same of these are taken for one another.
const STRIPES: usize = 1024;

/// How often keys were forgotten, and when for the last time.
pub(crate) struct Forgotten {
    times: AtomicU64,
    /// For each stripe, the number of the last time that a key of it was forgotten.
    last: Box<[AtomicU64]>,
    hasher: BuildHasherDefault<DefaultHasher>,
}

impl Forgotten {
    pub(crate) fn new() -> Self {
        let last = (0..STRIPES).map(|_| AtomicU64::new(0)).collect();
        Self { times: AtomicU64::new(0), last, hasher: BuildHasherDefault::default() }
    }

    /// How often any key was forgotten.
    #[inline]
    pub(crate) fn times(&self) -> u64 {
        self.times.load(Ordering::Acquire)
    }

    /// Notes that a key is forgotten; to be called before what is known of it is dropped.
    pub(crate) fn note(&self, key: &CacheKey) {
        let time = self.times.fetch_add(1, Ordering::AcqRel) + 1;
        self.last(key).fetch_max(time, Ordering::AcqRel);
    }

    /// Whether a key may have been forgotten since that was done `times` times.
    #[inline]
    pub(crate) fn since(&self, times: u64, key: &CacheKey) -> bool {
        self.times() != times && self.last(key).load(Ordering::Acquire) > times
    }

    fn last(&self, key: &CacheKey) -> &AtomicU64 {
        &self.last[self.hasher.hash_one(key) as usize % STRIPES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_forgotten_is_told_and_few_others_are() {
        let key = |n: usize| CacheKey::new(format!("item:{n}")).unwrap();
        let forgotten = Forgotten::new();
        let before = forgotten.times();
        for n in 0..10 {
            forgotten.note(&key(n));
        }
        assert!((0..10).all(|n| forgotten.since(before, &key(n))));
        let others = (10..1010).filter(|n| forgotten.since(before, &key(*n))).count();
        assert!(others < 50, "{others} of 1000 are taken for one of 10");
        let after = forgotten.times();
        assert!(!(0..10).any(|n| forgotten.since(after, &key(n))));
    }
}
