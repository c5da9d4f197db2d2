//! Changing the ring's membership while the cache is read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use metrics::{Counter, Gauge, counter, gauge};
use ringtide_core::clock::unix_ms;
use ringtide_core::metrics as names;
use ringtide_core::ring::{Membership, ShardName};
use ringtide_core::valkey::ShardError;
use ringtide_core::watch::RingChangeError;
use tokio::sync::Semaphore;
use tracing::Instrument;

use super::{Connector, Topology};
use crate::cache::{Cache, Inner};
use crate::shard::ReadShard;

/// The pause between two batches of names that a flush removes.
const FLUSH_PAUSE: Duration = Duration::from_millis(2);

/// The pause before a flush that failed is tried again.
const FLUSH_RETRY: Duration = Duration::from_millis(500);

/// What became of a membership that was handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum RingChange {
    /// It is the one in use.
    Unchanged,
    /// Keys are placed by it from now on.
    Changed {
        /// Ring shards that joined and are not flushed yet: until they are, their keys are loaded past the cache.
        unflushed: Vec<ShardName>,
    },
}

/// What a cache needs to change its ring.
pub(crate) struct Changes {
    pub(crate) connector: Connector,
    /// Changes happen one after another: one permit.
    turn: Semaphore,
    counters: Counters,
}

struct Counters {
    changed: Counter,
    refused: Counter,
    unread: Counter,
    flush_failed: Counter,
    epoch: Gauge,
}

impl Changes {
    pub(crate) fn new(connector: Connector) -> Self {
        let change = |outcome: &'static str| counter!(names::READER_RING_CHANGES, names::OUTCOME => outcome);
        let counters = Counters {
            changed: change("changed"),
            refused: change("refused"),
            unread: change("unread"),
            flush_failed: change("flush_failed"),
            epoch: gauge!(names::READER_RING_EPOCH),
        };
        Self { connector, turn: Semaphore::new(1), counters }
    }

    /// Counts that the place where the membership comes from could not be read.
    pub(super) fn unread(&self) {
        self.counters.unread.increment(1);
    }

    /// Notes the topology in use.
    pub(crate) fn at(&self, topology: &Topology) {
        topology.share_gauges();
        self.counters.epoch.set(topology.ring().membership().epoch as f64);
    }
}

impl Cache {
    /// Places keys by a new membership of the ring from now on; reads go on meanwhile, and none fails of it.
    ///
    /// New ring shards are connected first, for at most the connect time-out. Ring shards that the membership in use does
    /// not have may hold what is out of date: their entries are dropped before they are read from, which is waited for
    /// as long again, and then goes on in the background while their keys are loaded past the cache. This process's own
    /// invalidations reach the shards of earlier memberships for as long as these can hold an entry.
    ///
    /// The invalidators have to know the membership first. One that is handed in again changes nothing. A change that has
    /// begun goes on where this future is dropped.
    ///
    /// # Errors
    /// [`RingChangeError`]: among others an epoch that is not higher than the one in use. The ring is as it was.
    pub async fn change_ring(&self, membership: Membership) -> Result<RingChange, RingChangeError> {
        self.inner.change_ring(membership).await
    }

    /// The membership that keys are placed by now.
    #[must_use]
    pub fn ring(&self) -> Membership {
        self.inner.topology.load().ring().membership().clone()
    }
}

impl Inner {
    /// Goes on where its caller leaves, so that the ring is never left half changed.
    pub(crate) async fn change_ring(self: &Arc<Self>, membership: Membership) -> Result<RingChange, RingChangeError> {
        let inner = Arc::clone(self);
        let changing = Box::pin(async move { inner.change_and_tell(membership).await }.in_current_span());
        let changed = self.tasks.spawn(self.ended.clone().run_until_cancelled_owned(changing)).await;
        changed.ok().flatten().unwrap_or(Err(RingChangeError::Closed))
    }

    async fn change_and_tell(self: &Arc<Self>, membership: Membership) -> Result<RingChange, RingChangeError> {
        let epoch = membership.epoch;
        let result = self.try_to_change(membership).await;
        let counters = &self.changes.counters;
        match &result {
            Ok(RingChange::Unchanged) => {}
            Ok(RingChange::Changed { unflushed }) => {
                counters.changed.increment(1);
                tracing::info!(epoch, ?unflushed, "the ring's membership has changed");
            }
            Err(error) => {
                counters.refused.increment(1);
                tracing::error!(epoch, %error, "a membership of the ring is refused, the one in use goes on");
            }
        }
        result
    }

    async fn try_to_change(self: &Arc<Self>, membership: Membership) -> Result<RingChange, RingChangeError> {
        let Changes { connector, turn, .. } = &self.changes;
        if let Some(violation) = connector.valkey.violation_of(&membership) {
            return Err(RingChangeError::Cluster(violation));
        }
        let Ok(_turn) = turn.acquire().await else { return Err(RingChangeError::Closed) };
        if self.ended.is_cancelled() {
            return Err(RingChangeError::Closed);
        }
        let before = self.topology.load_full();
        let Some(change) = before.history().change(membership.clone(), unix_ms())? else {
            return Ok(RingChange::Unchanged);
        };
        let ring = Arc::clone(change.history.current());
        let (mut shards, mut joining) = (Vec::with_capacity(ring.shards().len()), Vec::new());
        for spec in ring.shards() {
            let shard = match before.member(spec) {
                Some(member) => Arc::clone(member),
                None => {
                    let shard = connector.open(spec)?;
                    // The handle in use goes on to show its own.
                    shard.show(before.ring().find(&spec.name).is_none());
                    if change.rejoining.contains(&spec.name) {
                        shard.hold_back();
                    }
                    joining.push(Arc::clone(&shard));
                    shard
                }
            };
            shards.push(shard);
        }
        join_all(joining.iter().map(|shard| connector.ready(shard))).await;
        self.topology.store(Arc::new(before.expecting(ring, joining.clone())));
        let unflushed = joining.iter().filter(|shard| shard.usable().is_err());
        let flushing = unflushed.map(|shard| self.attend(admit(Arc::clone(self), Arc::clone(shard))));
        // What takes longer goes on in the background.
        let _in_time = tokio::time::timeout(connector.patience(), join_all(flushing)).await;

        // From the moment of the swap on, the window of what was before is counted.
        let now_ms = unix_ms();
        let Some(change) = before.history().change(membership, now_ms)? else { return Ok(RingChange::Unchanged) };
        let window_ms = change.history.kept_ms(now_ms);
        let after = Arc::new(before.succeeded_by(change.history, shards.into(), now_ms));
        self.topology.store(Arc::clone(&after));
        before.shards().iter().filter_map(|shard| shard.part.as_ref()).for_each(|part| part.ring_changed());
        self.changes.at(&after);
        self.forget_strangers();
        self.prune_after(window_ms);
        let unflushed = joining.iter().filter(|shard| shard.usable().is_err());
        Ok(RingChange::Changed { unflushed: unflushed.map(|shard| shard.shard.name().clone()).collect() })
    }

    /// Lets go of the ring shards that have left, as soon as the time is over for which they may hold an entry.
    pub(crate) fn prune_after(self: &Arc<Self>, window_ms: u64) {
        self.attend(prune(Arc::clone(self), unix_ms().saturating_add(window_ms)));
    }

    /// The prefixes of all key spaces, without those that another one covers and that of whole keys.
    fn prefixes(&self) -> BTreeSet<&str> {
        let all = || self.spaces.values().map(|space| space.settings.template.prefix()).filter(|one| !one.is_empty());
        all().filter(|one| !all().any(|other| other.len() < one.len() && one.starts_with(other))).collect()
    }
}

/// Flushes a ring shard that joins and reads from it then; for as long as it takes, or until it has left.
async fn admit(inner: Arc<Inner>, shard: Arc<ReadShard>) {
    while shard.usable().is_err() && inner.topology.load().wants(&shard) {
        match flush(&inner, &shard).await {
            Ok(names) => {
                shard.admit_reads();
                tracing::info!(ring_shard = %shard.shard.name(), names, "a ring shard that joined is flushed and used");
            }
            Err(error) => {
                inner.changes.counters.flush_failed.increment(1);
                tracing::warn!(ring_shard = %shard.shard.name(), %error, "a ring shard that joined is not flushed yet");
                inner.changes.connector.ready(&shard).await;
                tokio::time::sleep(FLUSH_RETRY).await;
            }
        }
    }
}

/// Drops every entry and every lease of a ring shard; what others keep on the server stays.
async fn flush(inner: &Inner, shard: &ReadShard) -> Result<u64, ShardError> {
    let mut removed = 0;
    for prefix in inner.prefixes() {
        removed += shard.shard.flush(prefix, FLUSH_PAUSE).await?;
    }
    // Keys that are given as they are begin with anything.
    removed += shard.shard.purge(FLUSH_PAUSE).await?;
    Ok(removed)
}

/// Lets go of the ring shards that nobody can have an entry on any more.
async fn prune(inner: Arc<Inner>, until_ms: u64) {
    reached(until_ms, unix_ms).await;
    let Ok(_turn) = inner.changes.turn.acquire().await else { return };
    let pruned = inner.topology.load().pruned(unix_ms().max(until_ms));
    if let Some(topology) = pruned {
        inner.topology.store(Arc::new(topology));
        // Only now: who adds to what is dropped here sees that it has left.
        inner.forget_strangers();
    }
}

/// Waits until a clock has reached a time, even where it is set back meanwhile.
async fn reached(until_ms: u64, clock: impl Fn() -> u64) {
    loop {
        match until_ms.saturating_sub(clock()) {
            0 => return,
            left_ms => tokio::time::sleep(Duration::from_millis(left_ms)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_clock_that_is_set_back_is_waited_for_until_it_has_caught_up() {
        let times = Mutex::new([100, 80, 120].into_iter());
        let began = Instant::now();
        reached(110, || times.lock().unwrap().next().unwrap()).await;
        assert!(times.lock().unwrap().next().is_none());
        assert!(began.elapsed() >= Duration::from_millis(40), "{:?}", began.elapsed());
    }
}
