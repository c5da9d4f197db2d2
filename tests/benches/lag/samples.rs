//! Entries that wait for their invalidation, and how long it took.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ringtide_tests::spread::Spread;

/// The cached keys whose items are being written, and the lags by key space.
#[derive(Default)]
pub(crate) struct Samples(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    waiting: HashMap<String, Instant>,
    lags: HashMap<String, Vec<Duration>>,
}

impl Samples {
    /// The item behind a cached key is about to be written.
    pub(crate) fn written(&self, key: String) {
        self.0.lock().unwrap().waiting.insert(key, Instant::now());
    }

    /// A server tells that a key is gone.
    pub(crate) fn gone(&self, key: &str, seen: Instant) {
        let mut inner = self.0.lock().unwrap();
        let Some(written) = inner.waiting.remove(key) else { return };
        let space = key.split_once(':').map_or(key, |(space, _)| space).to_owned();
        inner.lags.entry(space).or_default().push(seen.duration_since(written));
    }

    /// How many keys are still cached.
    pub(crate) fn missing(&self) -> usize {
        self.0.lock().unwrap().waiting.len()
    }

    /// Whether a key is not waited for any more.
    pub(crate) fn is_gone(&self, key: &str) -> bool {
        !self.0.lock().unwrap().waiting.contains_key(key)
    }

    /// Begins anew.
    pub(crate) fn forget(&self) {
        *self.0.lock().unwrap() = Inner::default();
    }

    pub(crate) fn of(&self, space: &str) -> Spread {
        Spread::of(self.0.lock().unwrap().lags.get(space).cloned().unwrap_or_default())
    }
}
