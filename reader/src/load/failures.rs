//! Errors of loads, shared for a short while, so that a key whose load fails is not loaded by every read of it.

use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use ringtide_core::backoff::Backoff;
use ringtide_core::key::CacheKey;

use crate::error::Error;
use crate::forgotten::Forgotten;

/// How long an error is shared: first, and when it has gone on for a while.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A failure this long after the last one is a new one.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// The most keys whose errors are known; those that nobody asks for go first.
const KEYS: usize = 4096;

/// The keys whose last load in this process failed.
pub(crate) struct Failures {
    by_key: Cache<CacheKey, Failure>,
    forgotten: Forgotten,
}

#[derive(Clone)]
struct Failure {
    error: Error,
    backoff: Backoff,
    until: Instant,
}

impl Failures {
    pub(crate) fn new() -> Self {
        Self { by_key: Cache::new(KEYS), forgotten: Forgotten::new() }
    }

    /// The error that reads of a key share now; afterwards one flight loads again.
    pub(crate) fn shared(&self, key: &CacheKey, now: Instant) -> Option<Error> {
        if self.by_key.is_empty() {
            return None;
        }
        self.by_key.get(key).filter(|failure| now < failure.until).map(|failure| failure.error)
    }

    /// What is to be known of the beginning of a load, for [`Failures::failed`].
    pub(crate) fn begun(&self) -> u64 {
        self.forgotten.times()
    }

    /// Notes that a load failed; the pause doubles while that goes on. Nothing is noted where what it was about may have changed
    /// since it had `begun`.
    pub(crate) fn failed(&self, key: &CacheKey, error: &Error, begun: u64, now: Instant) {
        if self.forgotten.since(begun, key) {
            return;
        }
        let last = self.by_key.get(key).filter(|last| now < last.until + FORGOTTEN_AFTER);
        let backoff = match last {
            // The same failure, told twice.
            Some(last) if now < last.until => last.backoff,
            Some(mut last) => {
                last.backoff.next_pause();
                last.backoff
            }
            None => Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
        };
        let until = now + backoff.upcoming();
        self.by_key.insert(key.clone(), Failure { error: error.clone(), backoff, until });
    }

    /// Forgets a key's errors, because what they were about has changed.
    pub(crate) fn forget(&self, key: &CacheKey) {
        self.forgotten.note(key);
        self.succeeded(key);
    }

    /// Notes that a load succeeded.
    pub(crate) fn succeeded(&self, key: &CacheKey) {
        if !self.by_key.is_empty() {
            self.by_key.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> CacheKey {
        CacheKey::new(text).unwrap()
    }

    fn pauses(failures: &Failures, key: &CacheKey, now: &mut Instant, times: usize) -> Vec<u128> {
        let error = Error::LoadPanicked { key: key.clone(), message: "no".into() };
        let one = |now: &mut Instant| {
            failures.failed(key, &error, failures.begun(), *now);
            let began = *now;
            while failures.shared(key, *now).is_some() {
                *now += Duration::from_millis(10);
            }
            (*now - began).as_millis()
        };
        (0..times).map(|_| one(now)).collect()
    }

    #[test]
    fn an_error_is_shared_for_longer_while_it_goes_on_and_for_its_key_alone() {
        let (failures, k, mut now) = (Failures::new(), key("k"), Instant::now());
        assert!(failures.shared(&k, now).is_none());
        assert_eq!(pauses(&failures, &k, &mut now, 6), [100, 200, 400, 800, 1000, 1000]);
        assert!(failures.shared(&key("other"), now - Duration::from_millis(500)).is_none());
    }

    #[test]
    fn a_success_or_a_long_time_begins_anew() {
        let (failures, k, mut now) = (Failures::new(), key("k"), Instant::now());
        assert_eq!(pauses(&failures, &k, &mut now, 2), [100, 200]);
        failures.succeeded(&k);
        assert_eq!(pauses(&failures, &k, &mut now, 2), [100, 200]);
        now += FORGOTTEN_AFTER;
        assert_eq!(pauses(&failures, &k, &mut now, 1), [100]);
    }

    #[test]
    fn the_error_of_a_load_from_before_a_change_is_not_shared() {
        let (failures, k, now) = (Failures::new(), key("k"), Instant::now());
        let error = Error::LoadPanicked { key: k.clone(), message: "no".into() };
        let begun = failures.begun();
        failures.forget(&k);
        failures.failed(&k, &error, begun, now);
        assert!(failures.shared(&k, now).is_none());
        failures.failed(&k, &error, failures.begun(), now);
        assert!(failures.shared(&k, now).is_some());
        failures.forget(&k);
        assert!(failures.shared(&k, now).is_none());
    }

    #[test]
    fn any_number_of_failing_keys_takes_bounded_memory() {
        let (failures, now) = (Failures::new(), Instant::now());
        for n in 0..3 * KEYS {
            let key = key(&format!("k{n}"));
            failures.failed(&key, &Error::Closed { key: key.clone() }, failures.begun(), now);
        }
        assert!(failures.by_key.len() <= KEYS);
    }
}
