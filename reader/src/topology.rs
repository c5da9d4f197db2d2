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
//! A shard that is reached at another address from some membership on goes on as the same shard, and is not flushed here:
//! the invalidators have flushed the server there before the first reader follows, and where there are none, whoever
//! makes the change answers for it ([`RingHistory::readdressed`]). The server at the former address is a former shard like
//! any other, and told of invalidations for as long.
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
use ringtide_core::ring::{Ring, RingHistory, Roster, ShardSpec};

use crate::shard::{Place, ReadShard};

pub(crate) use change::Changes;
pub use change::RingChange;
pub(crate) use connector::Connector;
pub(crate) use source::watch;

/// A ring and its shards; replaced as a whole when the membership changes.
pub(crate) struct Topology {
    roster: Roster<Arc<ReadShard>>,
    coming: Option<Coming>,
}

/// A change that is being prepared.
struct Coming {
    ring: Arc<Ring>,
    joining: Vec<Arc<ReadShard>>,
}

impl Topology {
    /// The ring that a cache begins with at `now_ms` (unix ms), and what is left of earlier ones; `shards` stand for the
    /// history's shards then, in their order.
    pub(crate) fn beginning(history: RingHistory, shards: Vec<Arc<ReadShard>>, now_ms: u64) -> Self {
        Self { roster: Roster::beginning(history, shards, now_ms), coming: None }
    }

    /// The ring that keys are placed by.
    #[inline]
    pub(crate) fn ring(&self) -> &Arc<Ring> {
        self.roster.ring()
    }

    /// Its shards, in its order.
    #[inline]
    pub(crate) fn shards(&self) -> &[Arc<ReadShard>] {
        self.roster.members()
    }

    /// The ring shard that owns a key.
    #[inline]
    pub(crate) fn owner(&self, key: &CacheKey) -> &Arc<ReadShard> {
        self.roster.owner(key.as_bytes())
    }

    /// Every ring shard that may hold a key at `now_ms` (unix ms), its owner first.
    pub(crate) fn owners(&self, key: &CacheKey, now_ms: u64) -> Vec<&Arc<ReadShard>> {
        let mut owners = vec![self.owner(key)];
        let known = self.roster.history().owners(key.as_bytes(), now_ms);
        let coming = self.coming.as_ref().map(|coming| &coming.ring.owner(key.as_bytes()).name);
        for name in known.others().iter().copied().chain(coming.filter(|name| known.iter().all(|known| known != *name)))
        {
            owners.extend(self.roster.member(name));
        }
        let former = self.roster.former().iter().filter(|former| now_ms < former.until_ms);
        let joining = self.coming.iter().flat_map(|coming| &coming.joining);
        let is_owner = |shard: &&Arc<ReadShard>| known.iter().chain(coming).any(|name| name == shard.shard.name());
        owners.extend(former.map(|former| &former.member).chain(joining).filter(is_owner));
        owners
    }

    /// Whether a ring shard is no member any more, or not at this address.
    pub(crate) fn has_left(&self, shard: &Arc<ReadShard>) -> bool {
        self.roster.former().iter().any(|former| Arc::ptr_eq(&former.member, shard))
    }

    /// Whether anything may be served from a server: it is a member, about to become one, or has left a short while ago.
    pub(crate) fn knows(&self, place: &Place) -> bool {
        let mut joining = self.coming.iter().flat_map(|coming| &coming.joining);
        self.roster.knows(&place.name, &place.address) || joining.any(|shard| shard.place == *place)
    }

    /// Gives the gauges of each name to the handle that is in use, or was the last to be.
    pub(crate) fn share_gauges(&self) {
        let (users, others) = self.roster.parted();
        others.iter().for_each(|shard| shard.show(false));
        users.iter().for_each(|shard| shard.show(true));
    }

    /// Whether a ring shard is a member or about to become one.
    fn wants(&self, shard: &Arc<ReadShard>) -> bool {
        let joining = self.coming.iter().flat_map(|coming| &coming.joining);
        self.shards().iter().chain(joining).any(|member| Arc::ptr_eq(member, shard))
    }

    /// The member that a specification describes, where it can go on as it is.
    fn member(&self, spec: &ShardSpec) -> Option<&Arc<ReadShard>> {
        self.roster.unmoved(spec)
    }

    fn history(&self) -> &RingHistory {
        self.roster.history()
    }

    /// This topology while a change is prepared.
    fn expecting(&self, ring: Arc<Ring>, joining: Vec<Arc<ReadShard>>) -> Self {
        Self { roster: self.roster.clone(), coming: Some(Coming { ring, joining }) }
    }

    /// The topology after this one; `shards` are those of the history's current ring, in its order.
    fn succeeded_by(&self, history: RingHistory, shards: Box<[Arc<ReadShard>]>, now_ms: u64) -> Self {
        Self { roster: self.roster.succeeded_by(history, shards, now_ms), coming: None }
    }

    /// This topology without the shards that nothing is served from any more at `now_ms`; `None` where there are none.
    fn pruned(&self, now_ms: u64) -> Option<Self> {
        let (roster, _gone) = self.roster.pruned(now_ms)?;
        Some(Self { roster, coming: None })
    }
}
