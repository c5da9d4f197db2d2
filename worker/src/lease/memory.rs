//! Leases in memory, as strict about their conditions as the table: for tests and simulations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Checkpoint, HeldLease, Lease, LeaseError, LeaseKey, LeaseStore, OwnerId};
use crate::stream::ShardId;

/// Leases of one process. Not for production: they end with it.
#[derive(Debug, Default)]
pub struct MemoryLeases {
    leases: Mutex<BTreeMap<LeaseKey, Lease>>,
}

impl MemoryLeases {
    /// Holds no lease.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn leases(&self) -> MutexGuard<'_, BTreeMap<LeaseKey, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a lease on condition that it is held, and counts.
    fn write(&self, held: &mut HeldLease, change: impl FnOnce(&mut Lease)) -> Result<(), LeaseError> {
        let mut leases = self.leases();
        let lost = || LeaseError::Lost(held.key.clone());
        let lease = leases.get_mut(&held.key).ok_or_else(lost)?;
        if lease.holder() != Some(&held.owner) || lease.counter != held.counter {
            return Err(lost());
        }
        change(lease);
        lease.counter += 1;
        held.written(lease.leaving.as_ref());
        Ok(())
    }
}

#[async_trait]
impl LeaseStore for MemoryLeases {
    async fn prepare(&self) -> Result<(), LeaseError> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Lease>, LeaseError> {
        Ok(self.leases().values().cloned().collect())
    }

    async fn create(&self, lease: &Lease) -> Result<bool, LeaseError> {
        let mut leases = self.leases();
        let absent = !leases.contains_key(&lease.key);
        if absent {
            leases.insert(lease.key.clone(), lease.clone());
        }
        Ok(absent)
    }

    async fn ask(&self, lease: &Lease, owner: &OwnerId) -> Result<bool, LeaseError> {
        let mut leases = self.leases();
        let found = leases.get_mut(&lease.key).filter(|found| {
            found.owner.is_some()
                && found.owner == lease.owner
                && found.leaving.is_none()
                && found.checkpoint != Checkpoint::ShardEnd
        });
        let Some(found) = found else { return Ok(false) };
        found.leaving = found.owner.replace(owner.clone());
        Ok(true)
    }

    async fn withdraw(&self, lease: &Lease, owner: &OwnerId) -> Result<bool, LeaseError> {
        let mut leases = self.leases();
        let found = leases.get_mut(&lease.key).filter(|found| {
            found.leaving.is_some() && found.leaving == lease.leaving && found.owner.as_ref() == Some(owner)
        });
        let Some(found) = found else { return Ok(false) };
        found.owner = found.leaving.take();
        Ok(true)
    }

    async fn take(&self, lease: &Lease, owner: &OwnerId) -> Result<HeldLease, LeaseError> {
        let mut leases = self.leases();
        let found = leases.get_mut(&lease.key);
        let Some(found) = found.filter(|found| {
            found.counter == lease.counter && found.owner == lease.owner && found.leaving == lease.leaving
        }) else {
            return Err(LeaseError::Lost(lease.key.clone()));
        };
        if found.holder() != Some(owner) {
            found.switches += 1;
        }
        let held = HeldLease::taken(found, owner);
        found.owner = Some(owner.clone());
        found.leaving = None;
        found.counter += 1;
        Ok(held)
    }

    async fn renew(&self, held: &mut HeldLease) -> Result<(), LeaseError> {
        self.write(held, |_| {})
    }

    async fn checkpoint(
        &self,
        held: &mut HeldLease,
        checkpoint: &Checkpoint,
        children: &BTreeSet<ShardId>,
    ) -> Result<(), LeaseError> {
        self.write(held, |lease| {
            lease.checkpoint = *checkpoint;
            lease.switches = 0;
            lease.children.extend(children.iter().cloned());
        })
    }

    async fn release(&self, mut held: HeldLease) -> Result<(), LeaseError> {
        self.write(&mut held, |lease| {
            if lease.leaving.take().is_none() {
                lease.owner = None;
            }
        })
    }

    async fn delete(&self, lease: &Lease) -> Result<(), LeaseError> {
        let mut leases = self.leases();
        match leases.get(&lease.key) {
            Some(found) if found.counter != lease.counter => return Err(LeaseError::Lost(lease.key.clone())),
            Some(_) | None => leases.remove(&lease.key),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_keeps_the_conditions_of_the_seam() {
        super::super::contract::check(&MemoryLeases::new()).await;
    }
}
