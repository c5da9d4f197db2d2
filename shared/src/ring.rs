//! Where a key lives: key → slot → ring shard, and which shards may hold it after the membership has changed.
//!
//! A [`Ring`] is one [`Membership`] made ready for lookups; a [`RingHistory`] is the ring in use and those before it.
//! Everything here is a function of its arguments: no I/O, no clock, no randomness.
//!
//! # The default placement
//! Fixed for good; `docs/placement.md` says the same with a worked example, and golden vectors hold it.
//!
//! 1. **Hashed part.** If the key has a `{`, and the first `}` after the first `{` does not follow it at once, the
//!    hashed part is what stands between the two; otherwise it is the whole key.
//! 2. **Slot** = XXH64(hashed part, seed 0) mod 16,384.
//! 3. **Draw** of shard *i* for a slot = XXH64(the slot as 4 bytes little-endian, seed = XXH64(name of *i*, seed 0)).
//! 4. **Cost** of a draw *d* = 64 − log₂ max(*d*, 1), in fixed point with 40 fraction bits: from 1 to 64·2⁴⁰. The
//!    logarithm is taken bit by bit, by repeated squaring of integers, hence the same on every platform: with
//!    *x* = max(*d*, 1) and *n* = ⌊log₂ *x*⌋, start from *m* = *x*·2⁶³⁻ⁿ; for each fraction bit, highest first,
//!    *m* = ⌊*m*² ÷ 2⁶³⌋, and if *m* ≥ 2⁶⁴ the bit is 1 and *m* = ⌊*m* ÷ 2⌋, otherwise it is 0.
//! 5. The slot's **owner** is the shard with the lowest cost ÷ weight, compared exactly by cross-multiplication; equal
//!    ones go to the greater draw, then to the name that sorts first by its bytes.
//!
//! Names alone enter the hash. So an address may change without moving a key, a new shard takes slots from all others
//! and nothing else moves, and a new weight moves slots only to or from its own shard.
//!
//! # Compatible placements
//! [`Placement::Skipper`] and [`Placement::GoRedis`] place keys as those clients do, for applications that share their
//! caches. Neither knows weights.

mod history;
mod membership;
mod placement;
mod roster;
mod violation;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod property_tests;

pub use history::{Change, ChangeError, Owners, RingHistory};
pub use membership::{Membership, ParsePlacementError, Placement, ShardName, ShardSpec};
pub use placement::{SKIPPER_SLOTS, SLOTS, hashed_part};
pub use roster::{Former, Roster};
pub use violation::RingError;

use placement::Table;

/// Points at one shard of the [`Ring`] that returned it: the shard's place in the order of names.
///
/// Meaningless for a ring of any other membership; keep a [`ShardName`] where the membership may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardIndex(u16);

impl ShardIndex {
    /// The place in [`Ring::shards`], counted from 0.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Places keys on the shards of one membership.
///
/// A lookup is one hash and one table load, without allocation. Under [`Placement::GoRedis`] it is one hash and a few
/// instructions for each shard.
#[derive(Clone, Debug)]
pub struct Ring {
    membership: Membership,
    table: Table,
}

impl Ring {
    /// Most shards that a ring may have.
    pub const MAX_SHARDS: usize = 1_000;

    /// Greatest weight of a shard.
    pub const MAX_WEIGHT: u32 = 1_000;

    /// Makes the ring of `membership`, with its shards in the order of their names whatever order they came in.
    ///
    /// # Errors
    /// Every violation, with the places as they stand in `membership`.
    pub fn new(mut membership: Membership) -> Result<Self, Vec<RingError>> {
        let violations = membership.violations();
        if !violations.is_empty() {
            return Err(violations);
        }
        membership.shards.sort_by(|a, b| a.name.cmp(&b.name));
        let table = Table::new(membership.placement, &membership.shards);
        Ok(Self { membership, table })
    }

    /// Finds the shard that owns `key`.
    ///
    /// Pass the base key, never the name of its lock.
    #[inline]
    #[must_use]
    pub fn locate(&self, key: &[u8]) -> ShardIndex {
        self.table.locate(key)
    }

    /// Finds the shard that owns `key`, as its specification.
    #[must_use]
    pub fn owner(&self, key: &[u8]) -> &ShardSpec {
        // In range, for the table was made from these shards.
        &self.membership.shards[self.locate(key).index()]
    }

    /// Returns the slot of `key`: below [`SLOTS`] or [`SKIPPER_SLOTS`], and always 0 under [`Placement::GoRedis`],
    /// which has no slots.
    #[must_use]
    pub fn slot(&self, key: &[u8]) -> u32 {
        self.table.slot(key)
    }

    /// Returns a shard by its index; nothing where the index is of a larger ring.
    #[must_use]
    pub fn shard(&self, index: ShardIndex) -> Option<&ShardSpec> {
        self.membership.shards.get(index.index())
    }

    /// Returns the shards, ordered by name; [`ShardIndex::index`] points into them.
    #[must_use]
    pub fn shards(&self) -> &[ShardSpec] {
        &self.membership.shards
    }

    /// Iterates over the shards with their indices, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (ShardIndex, &ShardSpec)> {
        (0..).map(ShardIndex).zip(&self.membership.shards)
    }

    /// Finds a shard's index by its name.
    #[must_use]
    pub fn find(&self, name: &ShardName) -> Option<ShardIndex> {
        let at = self.membership.shards.binary_search_by(|shard| shard.name.cmp(name)).ok()?;
        u16::try_from(at).ok().map(ShardIndex)
    }

    /// Returns the membership, its shards ordered by name.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }
}
