//! What the leases of a stream show about all workers together: who reads what, and what nobody reads.
//!
//! Judged by counters that move, on this worker's own monotonic clock, as leases themselves are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::ShardState;
use crate::lease::{Checkpoint, Lease, OwnerId};
use crate::lineage::Plan;
use crate::stream::ShardId;

/// How long a stream shard may be without a moving lease beyond the time after which leases expire: a hand-over takes its time.
const GRACE: Duration = Duration::from_secs(10);

/// After this time a stream that nobody looks at any more is forgotten; a follower looks every minute at least.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// The leases of one stream, just read.
pub(crate) struct LeasesSeen<'a> {
    /// Tells streams of the table apart.
    pub(crate) stream: &'a str,
    /// This worker.
    pub(crate) owner: &'a OwnerId,
    /// After which time a lease that does not move has expired.
    pub(crate) timeout: Duration,
    /// Whether an operator has paused the table, so that none of its stream shards is started.
    pub(crate) paused: bool,
    pub(crate) plan: &'a Plan,
    pub(crate) leases: &'a BTreeMap<ShardId, Lease>,
}

/// What is known of a table's stream shards by their leases.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    pub(super) shards: BTreeMap<ShardId, Seen>,
}

/// A stream shard by its lease.
#[derive(Debug)]
pub(super) struct Seen {
    stream: String,
    pub(super) owner: Option<OwnerId>,
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) parent: Option<ShardId>,
    pub(super) state: ShardState,
    counter: Option<u64>,
    /// When its lease was first seen as it is now.
    pub(super) since: Instant,
    /// When it was last looked at.
    pub(super) at: Instant,
}

impl Fleet {
    /// Takes in the leases of one stream; those of the table's other streams stay as they are.
    pub(super) fn see(&mut self, seen: &LeasesSeen<'_>, read_here: &BTreeSet<ShardId>, now: Instant) {
        let LeasesSeen { stream, owner, timeout, paused, plan, leases } = *seen;
        let known: BTreeSet<&ShardId> = leases.keys().chain(plan.start.keys()).chain(plan.waiting.keys()).collect();
        self.shards.retain(|shard, was| {
            // A stream that was replaced is not looked at any more once it is read to its end.
            if was.stream == stream { known.contains(shard) } else { now.duration_since(was.at) < FORGOTTEN }
        });
        for shard in known {
            let lease = leases.get(shard);
            let (holder, counter) = (lease.and_then(|lease| lease.owner.clone()), lease.map(|lease| lease.counter));
            let unchanged = self
                .shards
                .get(shard)
                .filter(|was| (&was.owner, was.counter) == (&holder, counter))
                .map(|was| was.since);
            let since = unchanged.unwrap_or(now);
            let checkpoint = lease.map(|lease| lease.checkpoint);
            let lasts = now.duration_since(since) > timeout + GRACE;
            let state = if checkpoint == Some(Checkpoint::ShardEnd) {
                ShardState::Ended
            } else if read_here.contains(shard) {
                ShardState::Here
            } else if paused {
                ShardState::Paused
            } else if plan.waiting.contains_key(shard) {
                ShardState::Waiting
            } else if lasts {
                ShardState::Unheld
            } else if holder.as_ref().is_some_and(|holder| holder != owner) {
                ShardState::Elsewhere
            } else {
                ShardState::Free
            };
            let parent = plan.start.get(shard).cloned().flatten().or_else(|| plan.waiting.get(shard).cloned());
            let seen =
                Seen { stream: stream.to_owned(), owner: holder, checkpoint, parent, state, counter, since, at: now };
            self.shards.insert(shard.clone(), seen);
        }
    }

    /// How many stream shards are in each state.
    pub(super) fn counts(&self) -> [(ShardState, usize); 7] {
        ShardState::ALL.map(|state| (state, self.shards.values().filter(|seen| seen.state == state).count()))
    }

    /// The stream shards that nobody reads, with the time for which that is known, when they were last looked at.
    pub(super) fn unheld(&self) -> impl Iterator<Item = (&ShardId, &Seen)> {
        self.shards.iter().filter(|(_, seen)| seen.state == ShardState::Unheld)
    }
}
