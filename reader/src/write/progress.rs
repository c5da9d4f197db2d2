//! How far an invalidation has come: its task notes it, and its caller, who may leave first, asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringtide_core::command::Command;
use ringtide_core::key::CacheKey;
use ringtide_core::valkey::BATCH;

use super::Invalidated;
use crate::retry::Retries;
use crate::shard::ReadShard;

/// Commands for one ring shard, and in a cluster for one master.
pub(super) type Lot = (Arc<ReadShard>, Vec<Command>);

/// Commands that travel together.
#[derive(Clone)]
pub(super) struct Part {
    number: usize,
    pub(super) shard: Arc<ReadShard>,
    pub(super) commands: Arc<[Command]>,
}

pub(super) struct Progress {
    retries: Arc<Retries>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sum: Invalidated,
    parts: usize,
    /// What nobody has answered yet.
    left: BTreeMap<usize, Part>,
    /// The caller has left: what is not answered is owed from then on.
    late: bool,
    /// There is nobody more to be told.
    ended: bool,
}

impl Part {
    pub(super) fn keys(&self) -> impl Iterator<Item = &CacheKey> {
        self.commands.iter().map(|command| &command.key)
    }
}

impl Progress {
    pub(super) fn new(retries: Arc<Retries>) -> Self {
        Self { retries, state: Mutex::default() }
    }

    /// Notes what is to be delivered, in parts of one batch each.
    pub(super) fn begin(&self, lots: Vec<Lot>) -> Vec<Vec<Part>> {
        let mut state = self.state();
        let mut part = |shard: &Arc<ReadShard>, commands: &[Command]| {
            let part = Part { number: state.parts, shard: Arc::clone(shard), commands: commands.into() };
            state.parts += 1;
            if state.late {
                self.retries.expect(&part.shard.place, part.keys());
            }
            state.left.insert(part.number, part.clone());
            part
        };
        lots.iter().map(|(shard, lot)| lot.chunks(BATCH).map(|commands| part(shard, commands)).collect()).collect()
    }

    /// Notes what became of parts.
    pub(super) fn settle<'p>(&self, parts: impl IntoIterator<Item = &'p Part>, told: Invalidated) {
        let mut state = self.state();
        state.sum += told;
        for part in parts {
            if state.left.remove(&part.number).is_some() && state.late {
                self.retries.heard(&part.shard.place, part.keys());
            }
        }
    }

    /// What is not answered.
    pub(super) fn left(&self) -> Vec<Part> {
        self.state().left.values().cloned().collect()
    }

    /// Notes that everybody was told; returns what became of it.
    pub(super) fn end(&self) -> Invalidated {
        let mut state = self.state();
        state.ended = true;
        state.sum
    }

    /// Sees to it that what is not answered is owed until it is; returns it, with what became of the rest and whether
    /// everybody was told.
    pub(super) fn put_off(&self) -> (Invalidated, Vec<Part>, bool) {
        let mut state = self.state();
        state.late = true;
        state.left.values().for_each(|part| self.retries.expect(&part.shard.place, part.keys()));
        (state.sum, state.left.values().cloned().collect(), state.ended)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
