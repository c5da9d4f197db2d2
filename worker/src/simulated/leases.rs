//! One worker's view of the lease table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::FutureExt;

use super::flaw::Flaw;
use super::ledger::Take;
use super::line::Line;
use super::world::{Service, World};
use crate::lease::{Checkpoint, HeldLease, Lease, LeaseError, LeaseKey, LeaseStore, MemoryLeases, OwnerId};
use crate::stream::ShardId;

pub(super) struct Leases {
    line: Line,
    table: Arc<MemoryLeases>,
    takes: Mutex<BTreeMap<LeaseKey, Take>>,
}

/// What the table in memory answers at once.
pub(super) fn now<T>(answer: impl Future<Output = T>) -> T {
    answer.now_or_never().expect("memory answers at once")
}

impl Leases {
    pub(super) fn new(line: Line, table: Arc<MemoryLeases>) -> Self {
        Self { line, table, takes: Mutex::default() }
    }

    /// Makes a call that may fail before it is carried out, and whose answer may be lost after it was.
    async fn call<T>(&self, carry_out: impl FnOnce(&mut World) -> Result<T, LeaseError>) -> Result<T, LeaseError> {
        let unavailable = |why: &str| Err(LeaseError::Unavailable(why.to_owned()));
        let call = |world: &mut World| {
            if self.line.is_cut() || world.is_disturbed(Service::Leases) {
                return unavailable("cannot be reached");
            }
            let flaky = world.flaky > 0;
            if flaky && self.line.chance(world.flaky) {
                return unavailable("throttled");
            }
            let answer = carry_out(world);
            if flaky && self.line.chance(world.flaky * 2) { unavailable("the answer was lost") } else { answer }
        };
        // No call is waited for longer than a lease lives.
        let answered = tokio::time::timeout(self.line.lease_time, self.line.call(call)).await;
        answered.unwrap_or_else(|_| unavailable("not answered in time"))
    }

    fn take_of(&self, key: &LeaseKey) -> Option<Take> {
        self.takes.lock().unwrap().get(key).copied()
    }

    /// Writes as its present owner does.
    fn force(&self, key: &LeaseKey, to: &Checkpoint, children: &BTreeSet<ShardId>) -> Result<(), LeaseError> {
        let found = now(self.table.list())?.into_iter().find(|lease| lease.key == *key);
        let Some((lease, owner)) = found.and_then(|lease| Some((lease.clone(), lease.owner?))) else {
            return Err(LeaseError::Lost(key.clone()));
        };
        let mut held = now(self.table.take(&lease, &owner))?;
        now(self.table.checkpoint(&mut held, to, children))
    }
}

#[async_trait]
impl LeaseStore for Leases {
    async fn prepare(&self) -> Result<(), LeaseError> {
        self.call(|_| now(self.table.prepare())).await
    }

    async fn list(&self) -> Result<Vec<Lease>, LeaseError> {
        let list = |world: &mut World| {
            let mut leases = now(self.table.list())?;
            if self.line.flaw == Flaw::LossUnnoticed {
                // It moves, and looks older than what the worker itself wrote last.
                let lost = |key: &LeaseKey| self.take_of(key).is_some_and(|take| world.has_lost(key, take));
                leases.iter_mut().filter(|lease| lost(&lease.key)).for_each(|lease| lease.counter %= 2);
            }
            Ok(leases)
        };
        self.call(list).await
    }

    async fn create(&self, lease: &Lease) -> Result<bool, LeaseError> {
        self.call(|_| now(self.table.create(lease))).await
    }

    async fn ask(&self, lease: &Lease, owner: &OwnerId) -> Result<bool, LeaseError> {
        self.call(|_| now(self.table.ask(lease, owner))).await
    }

    async fn withdraw(&self, lease: &Lease, owner: &OwnerId) -> Result<bool, LeaseError> {
        self.call(|_| now(self.table.withdraw(lease, owner))).await
    }

    async fn take(&self, lease: &Lease, owner: &OwnerId) -> Result<HeldLease, LeaseError> {
        let take = |world: &mut World| {
            let held = now(self.table.take(lease, owner))?;
            let take = world.taken(self.line.worker, &lease.key);
            self.takes.lock().unwrap().insert(lease.key.clone(), take);
            Ok(held)
        };
        self.call(take).await
    }

    async fn renew(&self, held: &mut HeldLease) -> Result<(), LeaseError> {
        let renew = |_: &mut World| match (self.line.flaw, now(self.table.renew(held))) {
            (Flaw::LossUnnoticed, Err(LeaseError::Lost(_))) => Ok(()),
            (_, renewed) => renewed,
        };
        self.call(renew).await
    }

    async fn checkpoint(
        &self,
        held: &mut HeldLease,
        checkpoint: &Checkpoint,
        children: &BTreeSet<ShardId>,
    ) -> Result<(), LeaseError> {
        let store = |world: &mut World| {
            let key = held.key().clone();
            let stored = match (self.line.flaw, now(self.table.checkpoint(held, checkpoint, children))) {
                (Flaw::ZombieCheckpoint, Err(LeaseError::Lost(key))) => self.force(&key, checkpoint, children),
                (_, stored) => stored,
            };
            match &stored {
                Ok(()) => world.checkpointed(self.line.worker, self.take_of(&key), &key, checkpoint),
                Err(_) => world.ledger.note("checkpoint refused", || key.shard.to_string()),
            }
            match (self.line.flaw, stored) {
                (Flaw::LossUnnoticed, Err(LeaseError::Lost(_))) => Ok(()),
                (_, stored) => stored,
            }
        };
        self.call(store).await
    }

    async fn release(&self, held: HeldLease) -> Result<(), LeaseError> {
        let key = held.key().clone();
        let release = |world: &mut World| {
            now(self.table.release(held))?;
            if let Some(take) = self.take_of(&key) {
                world.released(&key, take);
            }
            world.ledger.note("released", || format!("{} by {}", key.shard, self.line.worker));
            Ok(())
        };
        self.call(release).await
    }

    async fn delete(&self, lease: &Lease) -> Result<(), LeaseError> {
        let delete = |world: &mut World| {
            world.ledger.note("lease deleted", || lease.key.shard.to_string());
            now(self.table.delete(lease))
        };
        self.call(delete).await
    }
}
