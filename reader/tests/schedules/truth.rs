//! The origin, and what has been delivered of its changes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringtide::Applied;

pub(crate) const KEYS: u64 = 3;

/// A key's value, which only rises, and what became of its changes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Key {
    pub(crate) now: u64,
    /// What every read that begins now has to know.
    pub(crate) delivered: u64,
    /// What the process has to know besides that invalidates by itself.
    pub(crate) own: u64,
    pub(crate) loads: u64,
    /// How often its entry or lease was taken away, or passed by.
    pub(crate) taken: u64,
}

impl Key {
    /// Takes in what an invalidation did, which was counted once: it may have taken an entry away and the lease of a fresh read.
    pub(crate) fn took(&mut self, applied: &Applied) {
        self.taken += (applied.dropped + applied.voided).saturating_sub(1);
    }
}

#[derive(Clone, Default)]
pub(crate) struct Truth(Arc<Mutex<[Key; KEYS as usize]>>);

impl Truth {
    pub(crate) fn of(&self, key: u64) -> Key {
        self.0.lock().unwrap()[key as usize]
    }

    pub(crate) fn change(&self, key: u64, change: impl FnOnce(&mut Key)) {
        change(&mut self.0.lock().unwrap()[key as usize]);
    }

    /// Writes a key; its new value.
    pub(crate) fn write(&self, key: u64) -> u64 {
        self.change(key, |key| key.now += 1);
        self.of(key).now
    }

    /// Loads what is true at some moment of the load.
    pub(crate) async fn load(&self, key: u64) -> u64 {
        self.change(key, |key| key.loads += 1);
        a_while(4).await;
        let value = self.of(key).now;
        a_while(if fastrand::bool() { 2 } else { 40 }).await;
        value
    }
}

/// Sleeps for up to so many milliseconds.
pub(crate) async fn a_while(ms: u64) {
    tokio::time::sleep(Duration::from_micros(fastrand::u64(..=ms * 1000))).await;
}
