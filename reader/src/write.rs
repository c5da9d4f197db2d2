//! Invalidating after a write, for those who do not want to wait for the change's record.
//!
//! The same commands as those of the invalidators, by the same scripts: the record that follows finds nothing left to do.

mod delivery;
mod progress;

use std::ops::AddAssign;

use ringtide_core::valkey::Applied;
use ringtide_core::version::Version;

use crate::cache::Cache;
use crate::error::Error;
use crate::key::{IntoKey, SpaceKey};
use crate::options::ReadOptions;
use crate::space::Space;

/// What became of an invalidation, summed over its keys; while the ring changes, a key counts once for every ring shard
/// that may hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "an invalidation that a ring shard did not answer is only queued"]
pub struct Invalidated {
    /// What ring shards have acknowledged.
    pub applied: Applied,
    /// Not acknowledged, and sent again in the background until it is: until then other processes may be served the old
    /// value, and this one loads the keys past the ring shard. Where more wait than `reader.retry_queue` allows, the oldest
    /// are given up, which is counted and logged as an error.
    pub queued: u64,
    /// Meant for ring shards that have left the ring and cannot be reached: this process reads from them no more, and shares
    /// no load that it began there. Whoever still reads from them has to wait for the invalidators.
    pub gone: u64,
}

impl Invalidated {
    /// Whether every ring shard of the ring has acknowledged it: no read that begins from now on, anywhere, is answered
    /// from the ring by what was cached or loaded before. Shards that have left it and are [gone](Self::gone) do not count:
    /// they may still serve processes that do not know of the change of the ring. What other processes keep in their memory follows by one push
    /// ([`LocalTier::Tracked`](crate::LocalTier::Tracked)), or is over when its time is.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.queued == 0
    }
}

impl AddAssign for Invalidated {
    fn add_assign(&mut self, other: Self) {
        self.applied += other.applied;
        self.queued += other.queued;
        self.gone += other.gone;
    }
}

impl Cache {
    /// Drops the entry of a key that was given as it is, and takes the lease of a load under way; to be called after the
    /// write. For keys of a key space use [`Space::invalidate`], which knows its mode.
    ///
    /// A read of this process that begins after this has returned is never answered by a load that began before, and
    /// where the answer [is done](Invalidated::is_done) neither is a read of the ring anywhere else.
    ///
    /// # Errors
    /// [`Error::Key`]. A ring shard that does not answer is none: the answer says what is still queued.
    pub async fn invalidate(&self, key: impl IntoKey) -> Result<Invalidated, Error> {
        let keys = vec![key.into_key()?];
        Ok(self.inner.invalidate(&self.inner.raw, &ReadOptions::new(), keys, Version::NONE).await)
    }

    /// As [`Cache::invalidate`], for many keys at once, in batches for each ring shard.
    ///
    /// # Errors
    /// [`Error::Key`]; then nothing was invalidated.
    pub async fn invalidate_many<K: IntoKey>(&self, keys: impl IntoIterator<Item = K>) -> Result<Invalidated, Error> {
        let keys = keys.into_iter().map(K::into_key).collect::<Result<Vec<_>, _>>()?;
        Ok(self.inner.invalidate(&self.inner.raw, &ReadOptions::new(), keys, Version::NONE).await)
    }

    /// Waits until what this cache has begun in the background is done: fills, leases given back, values loaded again
    /// behind reads, invalidations to be repeated or sent again.
    ///
    /// For functions that are frozen after their answer, such as AWS Lambda's: a fill that is frozen holds up other
    /// readers of its key until the lease expires. To be called when the reads have ended: it waits for what others begin
    /// meanwhile, too. While a ring shard is down this takes as long as invalidations wait for
    /// it, so give it a time-out.
    pub async fn settled(&self) {
        self.inner.work.wait().await;
    }
}

impl<T> Space<T> {
    /// Invalidates the entry of `key`, as the change's record will: drops it, or marks it stale
    /// where the key space serves stale values on errors, and takes the lease of a load under way. To be called after the
    /// write.
    ///
    /// It goes on where this future is dropped. A read of this process that begins after this has returned is never answered
    /// by a load that began before, and where the answer [is done](Invalidated::is_done) neither is a read anywhere else; where loads may lag behind, what
    /// they return may be older still, so that the invalidation is repeated in the background after the settle time or
    /// the tombstone's.
    ///
    /// ```
    /// # async fn example(products: ringtide::Space<String>) -> Result<(), ringtide::Error> {
    /// // The item was written.
    /// let invalidated = products.invalidate(42).await?;
    /// if !invalidated.is_done() {
    ///     // A ring shard is down: it is told as soon as it is up.
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Key`]. A ring shard that does not answer is none: the answer says what is still queued.
    pub async fn invalidate<'a>(&self, key: impl SpaceKey<'a>) -> Result<Invalidated, Error> {
        let keys = vec![self.key(key)?];
        Ok(self.cache.inner.invalidate(&self.state, &self.options, keys, Version::NONE).await)
    }

    /// As [`Space::invalidate`], for many keys at once, in batches for each ring shard.
    ///
    /// # Errors
    /// [`Error::Key`]; then nothing was invalidated.
    pub async fn invalidate_many<'a, K: SpaceKey<'a>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Invalidated, Error> {
        let keys = keys.into_iter().map(|key| self.key(key)).collect::<Result<Vec<_>, _>>()?;
        Ok(self.cache.inner.invalidate(&self.state, &self.options, keys, Version::NONE).await)
    }

    /// As [`Space::invalidate`], for a write that gave the item's version attribute this number: an entry that is as new
    /// stays, and a load under way may store what is.
    ///
    /// Only key spaces in versioned mode compare versions; others invalidate in any case. A deletion has no number of its
    /// own, so use [`Space::invalidate`] for it.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub async fn invalidate_version<'a>(&self, key: impl SpaceKey<'a>, number: u128) -> Result<Invalidated, Error> {
        let keys = vec![self.key(key)?];
        Ok(self.cache.inner.invalidate(&self.state, &self.options, keys, Version::from_number(number)).await)
    }
}
