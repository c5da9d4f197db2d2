//! The ring as it is now, the ring shards that stand behind its names, and what is left of the rings before it.
//!
//! # Why a change brings no old value back
//! A change replaces the [`Topology`] as a whole, between two look-ups. What began before goes on with the ring shard
//! that it began with, so old owners are still read from and filled for a while, by this process and by those that
//! learn of the change later. Take an entry of a key on a shard that is not the key's owner now. It can be served only
//! - to a read that began by an earlier membership. Invalidations go to the owners under every membership of the window
//!   ([`RingHistory::owners`]), so they drop it there and take the leases of loads under way there, whoever owns the key
//!   now: that fill is refused, exactly as without a change.
//! - after the key has come back. Either the shard was a member all the time: then it was told of every change since,
//!   as long as the window lasts, and the window is longer than the entry can live, counted from the last fill by the
//!   earlier membership: the longest time to live, a load, a lease, and the time in which a process learns of a change.
//!   Or it was not, and may have missed invalidations: then it is flushed before it is read from, locks first, and until
//!   then its keys are loaded past it. Several processes that flush the same shard cost each other entries, never more.
//!
//! All of this needs invalidators that know a membership before the first reader does. A process that has never heard
//! of a membership tells its owners nothing.
//!
//! While a change is prepared, its ring is already told of this process's own invalidations ([`Topology::expecting`]):
//! other readers may use it already, and after the swap this process reads what they stored.

mod change;
mod connector;
mod source;

use std::sync::Arc;

use ringtide_core::key::CacheKey;
use ringtide_core::ring::{Ring, RingHistory, ShardName, ShardSpec};

use crate::shard::ReadShard;

pub(crate) use change::Changes;
pub use change::{RingChange, RingChangeError};
pub(crate) use connector::Connector;
pub(crate) use source::{Source, addresses_of, shards_of, watch};

/// A ring and its shards; replaced as a whole when the membership changes.
pub(crate) struct Topology {
    pub(crate) ring: Arc<Ring>,
    /// In the ring's order.
    pub(crate) shards: Box<[Arc<ReadShard>]>,
    history: RingHistory,
    former: Vec<Former>,
    coming: Option<Coming>,
}

/// A ring shard that has left, or was reached at another address; still told of invalidations.
#[derive(Clone)]
struct Former {
    shard: Arc<ReadShard>,
    address: String,
    /// When no entry that it holds can be served any more, in unix ms.
    until_ms: u64,
}

/// A change that is being prepared.
struct Coming {
    ring: Arc<Ring>,
    joining: Vec<Arc<ReadShard>>,
}

impl Topology {
    /// The ring that a cache begins with; `shards` are in its order.
    pub(crate) fn new(history: RingHistory, shards: Box<[Arc<ReadShard>]>) -> Self {
        Self { ring: Arc::clone(history.current()), shards, history, former: Vec::new(), coming: None }
    }

    /// The ring shard that owns a key.
    #[inline]
    pub(crate) fn owner(&self, key: &CacheKey) -> &Arc<ReadShard> {
        &self.shards[self.ring.locate(key.as_bytes()).index()]
    }

    /// Every ring shard that may hold a key at `now_ms` (unix ms), its owner first.
    pub(crate) fn owners(&self, key: &CacheKey, now_ms: u64) -> Vec<&Arc<ReadShard>> {
        let mut owners = vec![self.owner(key)];
        let known = self.history.owners(key.as_bytes(), now_ms);
        let coming = self.coming.as_ref().map(|coming| &coming.ring.owner(key.as_bytes()).name);
        for name in known.others().iter().copied().chain(coming.filter(|name| known.iter().all(|known| known != *name)))
        {
            owners.extend(self.ring.find(name).and_then(|index| self.shards.get(index.index())));
        }
        let former = self.former.iter().filter(|former| now_ms < former.until_ms).map(|former| &former.shard);
        let joining = self.coming.iter().flat_map(|coming| &coming.joining);
        let is_owner = |shard: &&Arc<ReadShard>| known.iter().chain(coming).any(|name| name == shard.shard.name());
        owners.extend(former.chain(joining).filter(is_owner));
        owners
    }

    /// Whether a ring shard is no member any more, or not at this address.
    pub(crate) fn has_left(&self, shard: &Arc<ReadShard>) -> bool {
        self.former.iter().any(|former| Arc::ptr_eq(&former.shard, shard))
    }

    /// Whether a ring shard is a member or about to become one.
    fn wants(&self, shard: &Arc<ReadShard>) -> bool {
        let joining = self.coming.iter().flat_map(|coming| &coming.joining);
        self.shards.iter().chain(joining).any(|member| Arc::ptr_eq(member, shard))
    }

    /// The member that a specification describes, where it can go on as it is.
    fn member(&self, spec: &ShardSpec) -> Option<&Arc<ReadShard>> {
        let index = self.ring.find(&spec.name)?;
        let unmoved = self.ring.shard(index).is_some_and(|known| known.address == spec.address);
        if unmoved { self.shards.get(index.index()) } else { None }
    }

    /// This topology while a change is prepared.
    fn expecting(&self, ring: Arc<Ring>, joining: Vec<Arc<ReadShard>>) -> Self {
        Self { coming: Some(Coming { ring, joining }), ..self.with_former(self.former.clone()) }
    }

    /// The topology after this one; `shards` are those of the history's current ring, in its order. Ring shards that
    /// leave are told of invalidations for `window_ms` after `now_ms`.
    fn succeeded_by(&self, history: RingHistory, shards: Box<[Arc<ReadShard>]>, now_ms: u64, window_ms: u64) -> Self {
        let until_ms = now_ms.saturating_add(window_ms);
        let members = self.ring.shards().iter().zip(&self.shards).map(|(spec, shard)| Former {
            shard: Arc::clone(shard),
            address: spec.address.clone(),
            until_ms,
        });
        let (ring, all) = (Arc::clone(history.current()), members.chain(self.former.iter().cloned()));
        let is_member = |former: &Former| {
            let spec = ring.find(former.shard.shard.name()).and_then(|index| ring.shard(index));
            spec.is_some_and(|spec| spec.address == former.address)
        };
        let former = all.filter(|former| now_ms < former.until_ms && !is_member(former)).collect();
        Self { ring, shards, history, former, coming: None }
    }

    /// This topology without the shards that nothing is served from any more at `now_ms`, and the names of these;
    /// `None` where there are none.
    fn pruned(&self, now_ms: u64) -> Option<(Self, Vec<ShardName>)> {
        let (kept, gone): (Vec<_>, Vec<_>) = self.former.iter().cloned().partition(|former| now_ms < former.until_ms);
        let unknown = |name: &ShardName| {
            self.ring.find(name).is_none() && kept.iter().all(|kept| kept.shard.shard.name() != name)
        };
        let names = gone.iter().map(|former| former.shard.shard.name().clone()).filter(unknown).collect();
        (!gone.is_empty()).then(|| (self.with_former(kept.clone()), names))
    }

    fn with_former(&self, former: Vec<Former>) -> Self {
        let (ring, shards, history) = (Arc::clone(&self.ring), self.shards.clone(), self.history.clone());
        Self { ring, shards, history, former, coming: None }
    }
}
