//! Who should read how much: which of the free leases a worker takes, and which ones it asks others for. Pure.
//!
//! Every worker decides for itself and from the same table, so the rules keep workers that decide at once from undoing
//! each other's decisions:
//! - a share is between the floor and the ceiling of leases by workers, and nobody asks a worker that has at most one more;
//! - a lease counts for whoever asked for it from the request on, so that a request is seen by all;
//! - a worker is counted once it has a lease: who has none asks for one only, and whoever lacks more asks for half of it.

use std::collections::BTreeMap;

use super::{LeaseKey, OwnerId};

/// A lease that is to be read by somebody: it has not ended, is not paused, and waits for no parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InPlay {
    pub(crate) key: LeaseKey,
    pub(crate) stand: Stand,
}

/// Who has a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// Nobody, or somebody who has not written it for too long.
    Free,
    /// The owner reads it.
    Held(OwnerId),
    /// `by` has asked for it, and the holder is about to give it up.
    Asked { by: OwnerId, holder: OwnerId },
}

/// What every worker should have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// Leases in play.
    pub(crate) leases: usize,
    /// Workers that have one, and this one.
    pub(crate) workers: usize,
    /// What this worker has, or has asked for.
    pub(crate) mine: usize,
    /// Leases that nobody has.
    pub(crate) free: usize,
}

impl Share {
    /// Sums up what is in play.
    pub(crate) fn of(in_play: &[InPlay], me: &OwnerId) -> Self {
        let counts = counts(in_play, me);
        Self {
            leases: in_play.len(),
            workers: counts.len(),
            mine: counts.get(me).copied().unwrap_or_default(),
            free: in_play.iter().filter(|lease| lease.stand == Stand::Free).count(),
        }
    }

    /// Whether this worker should take one more that is free.
    pub(crate) const fn has_room(&self) -> bool {
        self.mine < self.leases.div_ceil(if self.workers == 0 { 1 } else { self.workers })
    }
}

/// Chooses the leases to ask other workers for.
pub(crate) fn to_ask_for(in_play: &[InPlay], me: &OwnerId, random: &mut fastrand::Rng) -> Vec<LeaseKey> {
    let share = Share::of(in_play, me);
    if share.free > 0 {
        return Vec::new();
    }
    let mut counts = counts(in_play, me);
    let floor = share.leases / share.workers.max(1);
    let mut mine = share.mine;
    let missing = match mine {
        0 => 1,
        _ if mine < floor => (floor - mine).div_ceil(2),
        _ => 1,
    };
    let mut held: BTreeMap<&OwnerId, Vec<&LeaseKey>> = BTreeMap::new();
    for lease in in_play {
        if let Stand::Held(owner) = &lease.stand {
            held.entry(owner).or_default().push(&lease.key);
        }
    }
    let mut chosen = Vec::new();
    while chosen.len() < missing {
        let most = held
            .iter()
            .filter(|(owner, keys)| **owner != me && !keys.is_empty())
            .filter_map(|(owner, _)| Some((*owner, *counts.get(*owner)?)))
            .filter(|(_, count)| *count >= mine + 2)
            .max_by_key(|(_, count)| *count);
        let Some((owner, _)) = most else { break };
        let Some(keys) = held.get_mut(owner) else { break };
        chosen.push(keys.swap_remove(random.usize(0..keys.len())).clone());
        if let Some(count) = counts.get_mut(owner) {
            *count -= 1;
        }
        mine += 1;
    }
    chosen
}

/// What each worker has, counting requests for who made them; this worker and those about to give up their last included.
fn counts(in_play: &[InPlay], me: &OwnerId) -> BTreeMap<OwnerId, usize> {
    let mut counts = BTreeMap::from([(me.clone(), 0)]);
    for lease in in_play {
        match &lease.stand {
            Stand::Free => {}
            Stand::Held(owner) => *counts.entry(owner.clone()).or_default() += 1,
            Stand::Asked { by, holder } => {
                counts.entry(holder.clone()).or_default();
                *counts.entry(by.clone()).or_default() += 1;
            }
        }
    }
    counts
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
