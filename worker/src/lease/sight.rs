//! What one worker has seen of all leases, and what follows from it: who lives, what may be taken. Pure: time is handed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::balance::{InPlay, Share, Stand};
use super::{Checkpoint, Lease, LeaseKey, OwnerId, StreamName};

/// All that one worker knows of its fleet.
#[derive(Debug)]
pub(crate) struct Sight {
    owner: OwnerId,
    timeout: Duration,
    seen: BTreeMap<LeaseKey, Seen>,
    /// Streams that are followed here: other leases of the table are nobody's share.
    streams: BTreeSet<StreamName>,
    /// Leases that this worker holds.
    held: BTreeSet<LeaseKey>,
    /// Leases that stood under this worker's name when it began, each with its counter: its own, from before a restart.
    inherited: Option<BTreeMap<LeaseKey, u64>>,
    /// Leases that this worker asked for.
    asked: BTreeSet<LeaseKey>,
    /// Leases that this worker held until now, each with the counter that it wrote last.
    left: BTreeMap<LeaseKey, u64>,
    in_play: Vec<InPlay>,
    share: Share,
}

#[derive(Debug)]
struct Seen {
    counter: u64,
    holder: Option<OwnerId>,
    /// Since when counter and holder are as they are.
    since: Instant,
    /// Since when somebody has been asking for it.
    asked_since: Option<Instant>,
    /// It was renewed under this worker's name, and not by this worker.
    twin: bool,
}

/// What a listing showed that has to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Leases that another process renews under this worker's name, told once each.
    pub(crate) twins: Vec<LeaseKey>,
}

impl Sight {
    pub(crate) fn new(owner: OwnerId, timeout: Duration) -> Self {
        Self {
            owner,
            timeout,
            seen: BTreeMap::new(),
            streams: BTreeSet::new(),
            held: BTreeSet::new(),
            inherited: None,
            asked: BTreeSet::new(),
            left: BTreeMap::new(),
            in_play: Vec::new(),
            share: Share::default(),
        }
    }

    /// The leases of this stream are for this worker, too.
    pub(crate) fn follow(&mut self, stream: StreamName) {
        self.streams.insert(stream);
    }

    /// The stream is followed no more.
    pub(crate) fn leave(&mut self, stream: &StreamName) {
        self.streams.remove(stream);
    }

    /// This worker has taken a lease.
    pub(crate) fn takes(&mut self, key: &LeaseKey) {
        self.held.insert(key.clone());
        self.asked.remove(key);
        self.left.remove(key);
        if let Some(inherited) = &mut self.inherited {
            inherited.remove(key);
        }
    }

    /// This worker does not hold a lease any more, which it wrote last with this counter.
    pub(crate) fn gives_up(&mut self, key: &LeaseKey, counter: u64) {
        self.held.remove(key);
        self.left.insert(key.clone(), counter);
    }

    /// Another worker was first to take a lease.
    pub(crate) fn loses(&mut self, key: &LeaseKey) {
        self.left.remove(key);
    }

    /// This worker asked for a lease.
    pub(crate) fn asks(&mut self, key: &LeaseKey) {
        self.asked.insert(key.clone());
    }

    /// This worker created a lease that nobody holds.
    pub(crate) fn created(&mut self) {
        self.share.leases += 1;
        self.share.free += 1;
    }

    /// What every worker should have, as of the newest listing.
    pub(crate) const fn share(&self) -> Share {
        self.share
    }

    /// What is in play, as of the newest listing.
    pub(crate) fn in_play(&self) -> &[InPlay] {
        &self.in_play
    }

    /// Takes in all leases as they were read at `now`.
    pub(crate) fn observe(&mut self, leases: &[Lease], now: Instant) -> News {
        let mut news = News::default();
        if self.inherited.is_none() {
            self.inherit(leases);
        }
        let present: BTreeSet<&LeaseKey> = leases.iter().map(|lease| &lease.key).collect();
        self.seen.retain(|key, _| present.contains(key));
        self.asked.retain(|key| present.contains(key));
        self.left.retain(|key, _| present.contains(key));
        for lease in leases {
            let fresh = || Seen {
                counter: lease.counter,
                holder: lease.holder().cloned(),
                since: now,
                asked_since: None,
                twin: false,
            };
            let seen = self.seen.entry(lease.key.clone()).or_insert_with(fresh);
            let ours = lease.holder() == Some(&self.owner);
            let before = match self.left.get(&lease.key) {
                // The last write may have been made although its answer got lost.
                Some(written) => Some(written.saturating_add(1)),
                None => (seen.holder.as_ref() == Some(&self.owner)).then_some(seen.counter),
            };
            let ours_to_move = self.held.contains(&lease.key) || self.asked.contains(&lease.key);
            if ours && !ours_to_move && !seen.twin && before.is_some_and(|before| lease.counter > before) {
                news.twins.push(lease.key.clone());
                if let Some(inherited) = &mut self.inherited {
                    inherited.remove(&lease.key);
                }
                seen.twin = true;
            }
            seen.twin &= ours;
            if (seen.counter, seen.holder.as_ref()) != (lease.counter, lease.holder()) {
                seen.counter = lease.counter;
                seen.holder = lease.holder().cloned();
                seen.since = now;
            }
            if !ours || seen.twin {
                self.left.remove(&lease.key);
            }
            seen.asked_since = lease.leaving.as_ref().map(|_| seen.asked_since.unwrap_or(now));
            // One that was handed over, and is asked for again, is still this worker's to hand over.
            let for_us = [&lease.owner, &lease.leaving].map(Option::as_ref).contains(&Some(&self.owner));
            if !for_us || lease.checkpoint == Checkpoint::ShardEnd {
                self.asked.remove(&lease.key);
            }
        }
        self.in_play = self.in_play_of(leases, now);
        self.share = Share::of(&self.in_play, &self.owner);
        news
    }

    /// Takes over what stands under this worker's name when it begins: leases, and requests.
    fn inherit(&mut self, leases: &[Lease]) {
        let own = leases.iter().filter(|lease| lease.holder() == Some(&self.owner));
        self.inherited = Some(own.map(|lease| (lease.key.clone(), lease.counter)).collect());
        let asked = leases.iter().filter(|lease| lease.leaving.is_some() && lease.owner.as_ref() == Some(&self.owner));
        self.asked.extend(asked.map(|lease| lease.key.clone()));
    }

    /// Whether this worker may take a lease that it read with the newest listing and does not hold; its room for
    /// more shrinks with every one that it may take.
    pub(crate) fn may_take(&mut self, lease: &Lease, now: Instant) -> bool {
        if lease.is_paused() {
            return false;
        }
        let still = self.still(lease, now);
        if lease.leaving.is_none() && lease.owner.as_ref() == Some(&self.owner) {
            let twin = self.seen.get(&lease.key).is_some_and(|seen| seen.twin);
            // Whoever renews it does so every third of the time-out.
            return self.is_ours(lease) || still >= if twin { self.timeout } else { self.timeout / 2 };
        }
        if lease.leaving.is_some() && lease.owner.as_ref() == Some(&self.owner) {
            let asked = self.seen.get(&lease.key).and_then(|seen| seen.asked_since);
            return still >= self.timeout || asked.is_some_and(|since| now.duration_since(since) >= 2 * self.timeout);
        }
        let free_for = match lease.holder() {
            None => still,
            Some(_) if still >= self.timeout => still - self.timeout,
            Some(_) => return false,
        };
        let takes = self.share.has_room() || free_for >= self.grace();
        if takes {
            self.share.mine += 1;
            self.share.free = self.share.free.saturating_sub(1);
        }
        takes
    }

    /// Whether a lease that stands under this worker's name is known to be no twin's: it was handed over or claimed, or held
    /// until now, or is left from before a restart.
    pub(crate) fn is_ours(&self, lease: &Lease) -> bool {
        let inherited = || self.inherited.as_ref().is_some_and(|inherited| inherited.contains_key(&lease.key));
        lease.leaving.is_none() && lease.owner.as_ref() == Some(&self.owner) && (inherited() || self.came_unread(lease))
    }

    /// Whether somebody has asked for a lease that stands under this worker's name from before a restart, untouched since, or
    /// that came to it and was not taken yet, or was held until now: nobody reads by it who could hand it over.
    pub(crate) fn is_left_behind(&self, lease: &Lease) -> bool {
        let inherited = self.inherited.as_ref().and_then(|inherited| inherited.get(&lease.key));
        lease.leaving.as_ref() == Some(&self.owner)
            && (inherited == Some(&lease.counter) || self.came_unread(lease))
            && !self.held.contains(&lease.key)
    }

    /// Whether a lease whose holder has this worker's name came to this very worker: it had asked for it, or held it until
    /// now, or claimed it as a child with its parent's end.
    fn came_unread(&self, lease: &Lease) -> bool {
        let key = &lease.key;
        self.asked.contains(key)
            || self.left.get(key).is_some_and(|written| lease.counter <= *written)
            || (lease.counter == 0 && self.seen.get(key).is_none_or(|seen| !seen.twin))
    }

    /// When the first of others' leases expires, if none is written until then.
    pub(crate) fn next_expiry(&self, now: Instant) -> Option<Instant> {
        let others = self.seen.values().filter(|seen| {
            seen.holder.as_ref().is_some_and(|holder| *holder != self.owner && holder.as_str() != super::PAUSED_OWNER)
        });
        others.map(|seen| seen.since + self.timeout).filter(|at| *at > now).min()
    }

    /// Whether anybody else has a lease in play, or has asked for one.
    pub(crate) fn is_alone(&self) -> bool {
        self.in_play.iter().all(|lease| matches!(&lease.stand, Stand::Held(owner) if *owner == self.owner))
    }

    /// Whether another process works under this worker's name.
    pub(crate) fn has_twin(&self) -> bool {
        self.seen.values().any(|seen| seen.twin)
    }

    /// Whether a lease that this worker asked for has not come yet.
    pub(crate) fn waits(&self) -> bool {
        !self.asked.is_empty()
    }

    /// For how long a lease has been as it is.
    fn still(&self, lease: &Lease, now: Instant) -> Duration {
        let seen = self.seen.get(&lease.key);
        let unchanged = seen.filter(|seen| (seen.counter, seen.holder.as_ref()) == (lease.counter, lease.holder()));
        unchanged.map_or(Duration::ZERO, |seen| now.duration_since(seen.since))
    }

    /// For how long the others may leave a free lease to each other.
    fn grace(&self) -> Duration {
        (self.timeout / 4).min(Duration::from_secs(2))
    }

    fn in_play_of(&self, leases: &[Lease], now: Instant) -> Vec<InPlay> {
        let open: BTreeSet<&LeaseKey> =
            leases.iter().filter(|lease| lease.checkpoint != Checkpoint::ShardEnd).map(|lease| &lease.key).collect();
        let waits = |lease: &Lease| lease.parents.iter().any(|parent| open.contains(&lease.key.stream.lease(parent)));
        let expired = |lease: &Lease| self.still(lease, now) >= self.timeout;
        leases
            .iter()
            .filter(|lease| self.streams.contains(&lease.key.stream) && open.contains(&lease.key))
            .filter(|lease| !lease.is_paused() && !waits(lease))
            .map(|lease| {
                let stand = match (&lease.owner, &lease.leaving) {
                    _ if expired(lease) && !self.held.contains(&lease.key) => Stand::Free,
                    (Some(by), Some(holder)) => Stand::Asked { by: by.clone(), holder: holder.clone() },
                    (Some(owner), None) => Stand::Held(owner.clone()),
                    (None, _) => Stand::Free,
                };
                InPlay { key: lease.key.clone(), stand }
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "sight_tests.rs"]
mod tests;
