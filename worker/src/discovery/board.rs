//! The newest listing, for everybody who follows it.
//!
//! Those who wait are woken in the order in which they came, so that a simulation runs the same way twice; tokio's watch
//! channel draws their order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringtide_core::record::SequenceNumber;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::stream::{Listing, ShardId, StreamStatus};

#[derive(Debug, Default)]
pub(super) struct Board {
    newest: Mutex<Newest>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Newest {
    listing: Option<Arc<Listing>>,
    /// When its last full listing was begun.
    listed: Option<Instant>,
    /// Counts the changes.
    version: u64,
    /// Indexes of the listing: thousands of stream shards may look for their own part of it.
    children: BTreeMap<ShardId, BTreeSet<ShardId>>,
    beginnings: BTreeMap<ShardId, Option<SequenceNumber>>,
    /// Those of the listing before: what the filter has shown may be missing in the next full listing.
    earlier: BTreeMap<ShardId, Option<SequenceNumber>>,
}

impl Newest {
    fn index(&mut self) {
        self.version += 1;
        let shards = self.listing.iter().flat_map(|listing| &listing.shards);
        let beginnings = shards.clone().map(|shard| (shard.id.clone(), shard.starting)).collect();
        self.earlier = std::mem::replace(&mut self.beginnings, beginnings);
        self.children = BTreeMap::new();
        for shard in shards {
            if let Some(parent) = shard.parent.as_ref().filter(|parent| **parent != shard.id) {
                self.children.entry(parent.clone()).or_default().insert(shard.id.clone());
            }
        }
    }
}

impl Board {
    /// The newest listing, and when it was begun; `None` before the first.
    pub(super) fn newest(&self) -> Option<(Arc<Listing>, Instant)> {
        let newest = self.lock();
        Some((newest.listing.clone()?, newest.listed?))
    }

    /// A stream shard's children, the stream's status, and the version of the listing that shows them.
    pub(super) fn children(&self, parent: &ShardId) -> (BTreeSet<ShardId>, StreamStatus, u64) {
        let newest = self.lock();
        let status = newest.listing.as_ref().map(|listing| listing.status).unwrap_or_default();
        (newest.children.get(parent).cloned().unwrap_or_default(), status, newest.version)
    }

    /// Where a stream shard begins, as far as that is told; `None` where it is not listed.
    pub(super) fn beginning(&self, shard: &ShardId) -> Option<Option<SequenceNumber>> {
        let newest = self.lock();
        newest.beginnings.get(shard).or_else(|| newest.earlier.get(shard)).copied()
    }

    /// When the newest full listing was begun; `None` before the first.
    pub(super) fn listed(&self) -> Option<Instant> {
        self.lock().listed
    }

    /// Replaces everything by a full listing that was begun at `begun`.
    pub(super) fn publish(&self, listing: Listing, begun: Instant) {
        let mut newest = self.lock();
        newest.listed = Some(begun);
        newest.listing = Some(Arc::new(listing));
        newest.index();
        drop(newest);
        self.changed.notify_waiters();
    }

    /// Adds what a narrower listing has shown to a listing that is there.
    pub(super) fn add(&self, narrower: Listing) {
        let mut newest = self.lock();
        let changed = newest.listing.as_mut().is_some_and(|listing| Arc::make_mut(listing).merge(narrower));
        if changed {
            newest.index();
            drop(newest);
            self.changed.notify_waiters();
        }
    }

    /// Waits for a listing newer than this version, and returns its version.
    pub(super) async fn newer_than(&self, version: u64) -> u64 {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let newest = self.lock().version;
            if newest > version {
                return newest;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
