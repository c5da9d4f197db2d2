//! The gauges of a queue's ring shard.

use std::sync::{Mutex, MutexGuard, PoisonError};

use metrics::gauge;

use crate::metrics as names;
use crate::ring::ShardName;

/// What the gauges of a ring shard's name say, as far as they are this queue's to set: a ring shard that has moved has
/// another queue for the address in use.
pub(super) struct Gauges {
    name: ShardName,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    shown: bool,
    pending: f64,
    dirty: f64,
    blind: f64,
}

impl Gauges {
    /// They are not this queue's before it is told so.
    pub(super) fn new(name: ShardName) -> Self {
        Self { name, said: Mutex::default() }
    }

    /// Commands that wait.
    pub(super) fn pending(&self, commands: usize) {
        let mut said = self.said();
        said.pending = commands as f64;
        self.set(&said, names::DELIVERY_PENDING, said.pending);
    }

    /// Whether the ring shard has to be flushed before it is delivered to again.
    pub(super) fn dirty(&self, dirty: bool) {
        let mut said = self.said();
        said.dirty = f64::from(u8::from(dirty));
        self.set(&said, names::DELIVERY_DIRTY, said.dirty);
    }

    /// Whether the ring shard does not say which server it is.
    pub(super) fn blind(&self, blind: bool) {
        let mut said = self.said();
        said.blind = f64::from(u8::from(blind));
        self.set(&said, names::DELIVERY_BLIND, said.blind);
    }

    /// Takes the gauges, or leaves them to another queue of the name.
    pub(super) fn show(&self, shown: bool) {
        let mut said = self.said();
        said.shown = shown;
        self.set_all(&said);
    }

    /// Leaves the gauges with nothing to tell, where they are this queue's: its name stands for nothing any more.
    pub(super) fn leave(&self) {
        let mut said = self.said();
        *said = Said { shown: said.shown, ..Said::default() };
        self.set_all(&said);
        said.shown = false;
    }

    fn set_all(&self, said: &Said) {
        self.set(said, names::DELIVERY_PENDING, said.pending);
        self.set(said, names::DELIVERY_DIRTY, said.dirty);
        self.set(said, names::DELIVERY_BLIND, said.blind);
    }

    fn set(&self, said: &Said, gauge: &'static str, value: f64) {
        if said.shown {
            gauge!(gauge, names::RING_SHARD => self.name.to_string()).set(value);
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
