//! The ring in use and the memberships before it: who may still hold a key after a change.

use std::sync::Arc;

use super::{Membership, Ring, RingError, ShardName, ShardSpec};

/// Knows the current ring, and each earlier one for as long as entries written under it can live.
///
/// While a process still works by an earlier membership, or after keys have moved back, an old owner can hold an old
/// entry. So invalidations go to every owner within the window. The window is the longest TTL of any entry and lock,
/// plus the time in which every process learns of a change.
///
/// Values are immutable and cheap to clone; [`RingHistory::change`] makes a new one.
#[derive(Clone, Debug)]
pub struct RingHistory {
    current: Arc<Ring>,
    /// Newest first.
    earlier: Vec<Earlier>,
    window_ms: u64,
}

#[derive(Clone, Debug)]
struct Earlier {
    ring: Arc<Ring>,
    replaced_at_ms: u64,
}

/// Tells what a new membership brings.
#[derive(Clone, Debug)]
pub struct Change {
    /// The history from now on.
    pub history: RingHistory,
    /// Shards that must be flushed before they are used, ordered by name; see [`RingHistory::rejoining`].
    pub rejoining: Vec<ShardName>,
}

/// Tells why a membership does not follow the current one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The epoch is lower than the current one.
    #[error("membership of epoch {offered} is older than the current epoch {current}; give the change a higher epoch")]
    Older {
        /// Epoch in use.
        current: u64,
        /// Epoch that was refused.
        offered: u64,
    },
    /// The epoch is the current one and the content is not.
    #[error("two different memberships of epoch {epoch}; give the change a higher epoch")]
    Ambiguous {
        /// Epoch of both.
        epoch: u64,
    },
    /// The memberships handed in are not in the order of their epochs.
    #[error("membership of epoch {before} is listed before that of epoch {after}; list them by rising epoch")]
    Unordered {
        /// Epoch that stands first.
        before: u64,
        /// Epoch that follows it.
        after: u64,
    },
    /// The membership makes no ring.
    #[error("membership of epoch {epoch} is not valid: {}", list(.violations))]
    Invalid {
        /// Epoch of the membership.
        epoch: u64,
        /// All that is wrong with it.
        violations: Vec<RingError>,
    },
}

fn list(violations: &[RingError]) -> String {
    violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl RingHistory {
    /// Starts from one ring, with a window in milliseconds.
    #[must_use]
    pub fn new(current: Ring, window_ms: u64) -> Self {
        Self { current: Arc::new(current), earlier: Vec::new(), window_ms }
    }

    /// Restores a history from its memberships, oldest first, the last of them current.
    ///
    /// Each is taken as replaced when the next came into force, and at `now_ms` where that is not known (0).
    ///
    /// # Errors
    /// A membership is not valid, there is none, or epochs do not rise.
    pub fn restore(
        memberships: impl IntoIterator<Item = Membership>,
        window_ms: u64,
        now_ms: u64,
    ) -> Result<Self, ChangeError> {
        let mut memberships = memberships.into_iter();
        let no_membership = || ChangeError::Invalid { epoch: 0, violations: vec![RingError::NoShard] };
        let first = make_ring(memberships.next().ok_or_else(no_membership)?)?;
        let mut history = Self::new(first, window_ms);
        for membership in memberships {
            let (before, after) = (history.current.membership().epoch, membership.epoch);
            if after <= before {
                return Err(ChangeError::Unordered { before, after });
            }
            let replaced_at_ms = if membership.changed_at_ms == 0 { now_ms } else { membership.changed_at_ms };
            history = history.succeeded_by(make_ring(membership)?, replaced_at_ms, now_ms);
        }
        Ok(history)
    }

    /// The ring that keys are placed by now.
    #[must_use]
    pub fn current(&self) -> &Arc<Ring> {
        &self.current
    }

    /// For how many milliseconds after its replacement a membership still counts.
    #[must_use]
    pub fn window_ms(&self) -> u64 {
        self.window_ms
    }

    /// Iterates over the memberships that are remembered, oldest first, the current one last: what
    /// [`RingHistory::restore`] takes.
    pub fn memberships(&self) -> impl Iterator<Item = &Membership> {
        let earlier = self.earlier.iter().rev().map(|earlier| earlier.ring.membership());
        earlier.chain(std::iter::once(self.current.membership()))
    }

    /// Finds every shard that may hold `key` at `now_ms`: the current owner first, then other owners under the
    /// memberships that were replaced less than the window ago, newest first, each shard once.
    ///
    /// Does not allocate while all of them agree.
    #[must_use]
    pub fn owners(&self, key: &[u8], now_ms: u64) -> Owners<'_> {
        let mut owners = Owners { current: &self.current.owner(key).name, others: Vec::new() };
        for earlier in self.within_window(now_ms) {
            let name = &earlier.ring.owner(key).name;
            if owners.iter().all(|known| known != name) {
                owners.others.push(name);
            }
        }
        owners
    }

    /// Finds a shard of the current membership, or of the newest remembered one that has it.
    #[must_use]
    pub fn shard(&self, name: &ShardName) -> Option<&ShardSpec> {
        let rings = std::iter::once(&self.current).chain(self.earlier.iter().map(|earlier| &earlier.ring));
        rings.into_iter().find_map(|ring| ring.find(name).and_then(|index| ring.shard(index)))
    }

    /// For how many milliseconds from `now_ms` on, at which the current membership came to be used, the one before it
    /// counts. Others may follow a membership that comes into force later only then.
    #[must_use]
    pub fn kept_ms(&self, now_ms: u64) -> u64 {
        self.current.membership().changed_at_ms.saturating_sub(now_ms).saturating_add(self.window_ms)
    }

    /// Lists the shards that may hold any entry at `now_ms`: those of the current membership by name, then those that
    /// only earlier ones within the window have, newest first. One that has moved is listed at each of its addresses.
    #[must_use]
    pub fn shards(&self, now_ms: u64) -> Vec<&ShardSpec> {
        let mut shards: Vec<&ShardSpec> = self.current.shards().iter().collect();
        for earlier in self.within_window(now_ms) {
            for shard in earlier.ring.shards() {
                if shards.iter().all(|known| known.name != shard.name || known.address != shard.address) {
                    shards.push(shard);
                }
            }
        }
        shards
    }

    /// Lists, by name, the shards of `new` that the current membership does not have under the same name.
    ///
    /// They have missed invalidations and must be flushed before they are used. A shard that only changes its address
    /// is not among them, for it is the same shard; see [`RingHistory::readdressed`].
    #[must_use]
    pub fn rejoining(&self, new: &Membership) -> Vec<ShardName> {
        sorted_names(new, |shard| self.current.find(&shard.name).is_none())
    }

    /// Lists, by name, the shards that `new` and the current membership have at different addresses.
    ///
    /// The one who makes the change answers for the server there: empty, or with the same data.
    #[must_use]
    pub fn readdressed(&self, new: &Membership) -> Vec<ShardName> {
        sorted_names(new, |shard| {
            let known = self.current.find(&shard.name).and_then(|index| self.current.shard(index));
            known.is_some_and(|known| known.address != shard.address)
        })
    }

    /// Puts `new` in the place of the current membership at `now_ms`, and forgets what has left the window; nothing
    /// where `new` is the current membership.
    ///
    /// # Errors
    /// The epoch is not higher than the current one, or `new` is not valid. This history is as it was.
    pub fn change(&self, new: Membership, now_ms: u64) -> Result<Option<Change>, ChangeError> {
        let (current, offered) = (self.current.membership().epoch, new.epoch);
        if offered < current {
            return Err(ChangeError::Older { current, offered });
        }
        let ring = make_ring(new)?;
        if offered == current {
            let same = ring.membership() == self.current.membership();
            return if same { Ok(None) } else { Err(ChangeError::Ambiguous { epoch: current }) };
        }
        let rejoining = self.rejoining(ring.membership());
        // Others may have gone on with the old membership until this process learned of the new one.
        let replaced_at_ms = now_ms.max(ring.membership().changed_at_ms);
        Ok(Some(Change { history: self.succeeded_by(ring, replaced_at_ms, now_ms), rejoining }))
    }

    fn succeeded_by(&self, ring: Ring, replaced_at_ms: u64, now_ms: u64) -> Self {
        let replaced = Earlier { ring: Arc::clone(&self.current), replaced_at_ms };
        let all = std::iter::once(&replaced).chain(&self.earlier);
        let earlier = all.filter(|earlier| self.remembers(earlier, now_ms)).cloned().collect();
        Self { current: Arc::new(ring), earlier, window_ms: self.window_ms }
    }

    fn within_window(&self, now_ms: u64) -> impl Iterator<Item = &Earlier> {
        self.earlier.iter().filter(move |earlier| self.remembers(earlier, now_ms))
    }

    fn remembers(&self, earlier: &Earlier, now_ms: u64) -> bool {
        // A clock that is behind counts as no time passed, which keeps the membership.
        now_ms.saturating_sub(earlier.replaced_at_ms) < self.window_ms
    }
}

fn make_ring(membership: Membership) -> Result<Ring, ChangeError> {
    let epoch = membership.epoch;
    Ring::new(membership).map_err(|violations| ChangeError::Invalid { epoch, violations })
}

fn sorted_names(membership: &Membership, wanted: impl Fn(&ShardSpec) -> bool) -> Vec<ShardName> {
    let wanted = membership.shards.iter().filter(|shard| wanted(shard));
    let mut names: Vec<ShardName> = wanted.map(|shard| shard.name.clone()).collect();
    names.sort_unstable();
    names
}

/// Lists the shards that may hold one key, without repetition and never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owners<'a> {
    current: &'a ShardName,
    others: Vec<&'a ShardName>,
}

impl<'a> Owners<'a> {
    /// The shard that owns the key now.
    #[must_use]
    pub fn current(&self) -> &'a ShardName {
        self.current
    }

    /// The shards that only earlier memberships name as owner, newest first.
    #[must_use]
    pub fn others(&self) -> &[&'a ShardName] {
        &self.others
    }

    /// Iterates over all of them, the current owner first.
    pub fn iter(&self) -> impl Iterator<Item = &'a ShardName> {
        std::iter::once(self.current).chain(self.others.iter().copied())
    }
}

#[cfg(test)]
mod tests;
