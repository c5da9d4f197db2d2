//! Changing the ring's membership while records are delivered.
//!
//! # Why nothing is lost
//! A change replaces the roster as a whole, between two pages. From then on every command goes to the owners under the
//! new membership and to those under every membership of the window ([`RingHistory::owners`]), so that readers may follow
//! either. A ring shard that was no member, or is reached at another address, may hold what is out of date: a flush is
//! queued for it before anything else is, so that whatever depends on it stands behind the flush. A page that was planned
//! before the change is not sent to ring shards that join; what they hold of it is gone with the flush, and what is
//! stored there later was loaded later.
//!
//! Ring shards that leave are told of changes until the window is over. What waits for them then counts as delivered,
//! because nobody is served from them; should they come back, they are flushed.
//!
//! All of it holds where the invalidators know a membership before the first reader does: [`Pipeline::ring_taken`] and the
//! gauge of the epoch tell when this one does.

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};

use super::connect::Connector;
use super::delivery::{Inner, Pipeline};
use super::queue::Queue;
use super::shard::RingShard;
use super::ticket::Ticket;
use crate::clock::unix_ms;
use crate::metrics as names;
use crate::ring::{Membership, Ring, Roster, ShardName};
use crate::watch::{RingChangeError, Source, Watch};

/// What became of a membership that was handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum RingChange {
    /// It is the one in use.
    Unchanged,
    /// Keys are placed by it from now on.
    Changed {
        /// Ring shards that joined, in the order of their names; they are being flushed.
        joined: Vec<ShardName>,
    },
}

impl Pipeline {
    /// Places keys by a new membership of the ring from now on, and goes on telling the owners under earlier ones for as
    /// long as they may hold an entry.
    ///
    /// Ring shards that join are connected in the background and flushed before anything else is delivered to them. One
    /// that is down is no error. A membership that is handed in again changes nothing.
    ///
    /// # Errors
    /// [`RingChangeError`]: among others an epoch that is not higher than the one in use, or an address that cannot be
    /// used. The ring is as it was.
    pub async fn change_ring(&self, membership: Membership) -> Result<RingChange, RingChangeError> {
        change(&self.inner, membership).await
    }

    /// The membership that keys are placed by now.
    #[must_use]
    pub fn ring(&self) -> Membership {
        self.inner.roster.load().ring().membership().clone()
    }

    /// The ring that keys are placed by now, to place other keys by it.
    #[must_use]
    pub fn current_ring(&self) -> Arc<Ring> {
        Arc::clone(self.inner.roster.load().ring())
    }

    /// Waits until a membership of this epoch, or a later one, is in use and every ring shard that joined with it is
    /// flushed: readers may use it from then on.
    pub async fn ring_taken(&self, epoch: u64) {
        let mut taken = self.inner.taken.subscribe();
        // The sender lives as long as this does.
        let _known = taken.wait_for(|taken| *taken >= epoch).await;
    }

    /// Looks at a source every so often, and takes the memberships that it offers.
    ///
    /// What cannot be read or does not follow the membership in use is logged and counted, and changes nothing.
    pub fn follow(&self, source: Source, every: Duration) {
        // Held weakly, so that the pipeline ends with its last handle.
        let inner = Arc::downgrade(&self.inner);
        let mut looks = self.inner.looks.subscribe();
        let mut watch = Watch::new(source);
        let followed = async move {
            loop {
                let asked = tokio::time::timeout(every, looks.changed()).await;
                let Some(inner) = inner.upgrade() else { return };
                let asked = asked.is_ok();
                if asked {
                    // Whoever asks wants to hear of it, be it new or not.
                    watch.forget();
                }
                let ring = Arc::clone(inner.roster.load().ring());
                match watch.look(ring.membership()).await {
                    Ok(None) => {}
                    // Other outcomes are told by the call itself.
                    Ok(Some(membership)) => {
                        let epoch = membership.epoch;
                        match change(&inner, membership).await {
                            Ok(RingChange::Unchanged) if asked => tracing::info!(
                                epoch,
                                "the ring's membership was looked at as asked for, and is the one in use"
                            ),
                            Ok(RingChange::Unchanged | RingChange::Changed { .. }) => {}
                            Err(error) => watch.refused(&error),
                        }
                    }
                    Err(_) => counted("unread"),
                }
            }
        };
        self.inner.tasks.spawn(followed, || {});
    }

    /// Has the sources that are followed looked at now instead of when it is their time, and tells what is found there, be
    /// it new or not; `false` where none is followed.
    pub fn look_now(&self) -> bool {
        self.inner.looks.send_modify(|looks| *looks += 1);
        self.inner.looks.receiver_count() > 0
    }
}

impl Inner {
    /// Starts the delivery task of a ring shard.
    pub(super) fn attend(&self, queue: &Arc<Queue>, shard: Arc<dyn RingShard>) {
        queue.stands_for(&shard);
        let (delivering, broken) = (Arc::clone(queue), Arc::clone(queue));
        self.tasks.spawn(async move { delivering.deliver(shard).await }, move || broken.break_off());
    }

    /// Gives the gauges of each name to the queue of the address in use, or that was the last to be.
    pub(super) fn share_gauges(&self) {
        let roster = self.roster.load();
        let (users, others) = roster.parted();
        others.iter().for_each(|queue| queue.show(false));
        users.iter().for_each(|queue| queue.show(true));
    }

    /// Lets go of ring shards when nothing is served from them any more.
    ///
    /// That is told by the wall clock, which may have stepped back by the time: it is looked at until all are gone.
    pub(super) fn prune_after(self: &Arc<Self>, after_ms: u64) {
        let inner = Arc::downgrade(self);
        let pruned = async move {
            let mut left_ms = Some(after_ms);
            while let Some(after_ms) = left_ms {
                tokio::time::sleep(Duration::from_millis(after_ms.saturating_add(1))).await;
                let Some(inner) = inner.upgrade() else { return };
                left_ms = inner.prune().await;
            }
        };
        self.tasks.spawn(pruned, || {});
    }

    /// Lets go of ring shards from which nothing is served any more, and tells in how many milliseconds that is so of the
    /// next one; `None` where none is left.
    async fn prune(&self) -> Option<u64> {
        let _turn = self.turn.lock().await;
        let now_ms = unix_ms();
        let pruned = self.roster.load().pruned(now_ms);
        if let Some((roster, gone)) = pruned {
            self.roster.store(Arc::new(roster));
            gone.iter().for_each(|former| former.member.retire());
            self.share_gauges();
        }
        let roster = self.roster.load();
        roster.former().iter().map(|former| former.until_ms.saturating_sub(now_ms)).min()
    }

    fn taken(&self, epoch: u64) {
        gauge!(names::DELIVERY_RING_EPOCH).set(epoch as f64);
        self.taken.send_modify(|taken| *taken = (*taken).max(epoch));
    }
}

async fn change(inner: &Arc<Inner>, membership: Membership) -> Result<RingChange, RingChangeError> {
    let epoch = membership.epoch;
    let result = try_to_change(inner, membership).await;
    match &result {
        Ok(RingChange::Unchanged) => {}
        Ok(RingChange::Changed { joined }) => {
            counted("changed");
            tracing::info!(epoch, ?joined, "the ring's membership has changed");
        }
        Err(error) => {
            counted("refused");
            tracing::error!(epoch, %error, "a membership of the ring is refused, the one in use goes on");
        }
    }
    result
}

async fn try_to_change(inner: &Arc<Inner>, membership: Membership) -> Result<RingChange, RingChangeError> {
    let connector = inner.connector.as_ref().ok_or(RingChangeError::Fixed)?;
    connector.fits(&membership)?;
    let _turn = inner.turn.lock().await;
    if inner.tasks.is_stopping() {
        return Err(RingChangeError::Closed);
    }
    let before = inner.roster.load_full();
    let now_ms = unix_ms();
    let Some(change) = before.history().change(membership, now_ms)? else { return Ok(RingChange::Unchanged) };
    let history = change.history;
    let (members, joining) = members(inner, connector, &before, history.current().shards())?;
    let epoch = history.current().membership().epoch;
    let (ticket, parts) = Ticket::new(joining.iter().map(|_| 0));
    for (joining, part) in joining.iter().zip(parts) {
        joining.queue.push_flush((*inner.all_prefixes).clone(), part, "joined");
        if let Some(shard) = &joining.shard {
            inner.attend(&joining.queue, Arc::clone(shard));
        }
    }
    let kept_ms = history.kept_ms(now_ms);
    inner.roster.store(Arc::new(before.succeeded_by(history, members.into(), now_ms)));
    inner.share_gauges();
    inner.prune_after(kept_ms);
    let taking = Arc::downgrade(inner);
    let taken = async move {
        if ticket.await.is_ok()
            && let Some(inner) = taking.upgrade()
        {
            tracing::info!(epoch, "every ring shard that joined is flushed, readers may follow");
            inner.taken(epoch);
        }
    };
    inner.tasks.spawn(taken, || {});
    Ok(RingChange::Changed { joined: joining.into_iter().map(|joining| joining.name).collect() })
}

/// A ring shard that was no member, or is reached at another address.
struct Joining {
    name: ShardName,
    queue: Arc<Queue>,
    /// What it is reached by, where it has no task yet.
    shard: Option<Arc<dyn RingShard>>,
}

/// Finds or makes a queue for each shard of a ring, in its order; nothing is started.
fn members(
    inner: &Inner,
    connector: &Connector,
    before: &Roster<Arc<Queue>>,
    specs: &[crate::ring::ShardSpec],
) -> Result<(Vec<Arc<Queue>>, Vec<Joining>), RingChangeError> {
    let (mut members, mut joining) = (Vec::with_capacity(specs.len()), Vec::new());
    for spec in specs {
        if let Some(member) = before.unmoved(spec) {
            members.push(Arc::clone(member));
            continue;
        }
        let (queue, shard) = match before.returning(spec) {
            Some(former) => (Arc::clone(former), None),
            None => {
                let shard = connector.open(spec)?;
                // Its name stands for another one until the roster is replaced.
                shard.show(false);
                (inner.queue(spec.name.clone()), Some(shard))
            }
        };
        members.push(Arc::clone(&queue));
        joining.push(Joining { name: spec.name.clone(), queue, shard });
    }
    Ok((members, joining))
}

fn counted(outcome: &'static str) {
    counter!(names::DELIVERY_RING_CHANGES, names::OUTCOME => outcome).increment(1);
}

#[cfg(test)]
#[path = "ring_change_tests.rs"]
mod tests;
