//! One copy: an entry's bytes, until when they serve, and the value they were read as.

use std::any::Any;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use ringtide_core::clock::unix_ms;
use ringtide_core::entry::{HEADER_LEN, Header, State};
use serde::de::DeserializeOwned;

use super::pulse::Beat;
use crate::freshness::Freshness;
use crate::lookup::{self, Miss};
use crate::options::ReadOptions;
use crate::space::SpaceState;

/// A moment, in ns since the store was made.
pub(super) type Moment = u64;

/// Which of a cache's key spaces, all of which live as long as the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpaceId(usize);

impl SpaceId {
    #[inline]
    pub(super) fn of(space: &SpaceState) -> Self {
        Self(std::ptr::from_ref(space).addr())
    }
}

pub(crate) struct Kept {
    pub(super) entry: Bytes,
    header: Header,
    space: SpaceId,
    /// From when on it does not serve.
    until: Moment,
    /// When it was read.
    at: Moment,
    /// From when on a reader that has the same entry keeps it anew.
    renew: Moment,
    /// What is known of the connections it was read over, where these tell of its changes.
    tracked: Option<Beat>,
    /// The value as the first type that it was asked for as.
    value: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Kept {
    /// Copies an entry at `now`, for at most `ttl`; nothing where it does not serve by itself.
    pub(super) fn new(
        now: Moment,
        space: &SpaceState,
        entry: &Bytes,
        ttl: Duration,
        tracked: Option<Beat>,
    ) -> Option<Self> {
        let header = Header::parse(entry).ok()?;
        let (State::Value | State::Negative) = header.state else { return None };
        let (mut left, half) = (ttl, ttl / 2);
        if header.soft_expiry_ms != 0 {
            // Up to a millisecond of this one is over.
            left = left.min(Duration::from_millis(header.soft_expiry_ms.checked_sub(unix_ms() + 1)?));
        }
        Some(Self {
            entry: entry.clone(),
            header,
            space: SpaceId::of(space),
            at: now,
            until: now.saturating_add(nanos(left)),
            renew: now.saturating_add(nanos(half)),
            tracked,
            value: OnceLock::new(),
        })
    }

    /// Whether it answers a read of a key space at `now`.
    #[inline]
    pub(super) fn serves(&self, space: SpaceId, now: Moment) -> bool {
        self.space == space && now < self.until && self.tracked.as_ref().is_none_or(|beat| beat.is_good(now))
    }

    /// The entry, where it may be served at `now` to a read of a key space whose load fails.
    ///
    /// Nothing may have told of a change since it was read. So it is served no longer than a value that was invalidated just
    /// then would be kept for that by its ring shard, and no longer after its time than that would be.
    pub(super) fn on_error(&self, space: &SpaceState, options: &ReadOptions, now: Moment) -> Option<&Bytes> {
        let tolerance = options.tolerance(&space.settings);
        let kept = nanos(Duration::from_millis(tolerance.error_ms));
        let serves = self.space == SpaceId::of(space)
            && self.header.state == State::Value
            && now < self.at.saturating_add(kept)
            && tolerance.judge(&self.header, unix_ms(), 1.0) != Freshness::Gone;
        serves.then_some(&self.entry)
    }

    /// When the entry stops being fresh, in unix ms; 0 where it does not say.
    #[inline]
    pub(super) fn soft_expiry_ms(&self) -> u64 {
        self.header.soft_expiry_ms
    }

    /// Whether it holds an entry that was just read again, and not for long.
    #[inline]
    pub(super) fn is_recent(&self, space: SpaceId, entry: &Bytes, now: Moment) -> bool {
        // Two fills differ in their headers' times, if in nothing else.
        let same = self.entry.len() == entry.len() && self.entry.get(..HEADER_LEN) == entry.get(..HEADER_LEN);
        self.space == space && now < self.renew && same
    }

    /// Whether it may be served, as [`lookup::judge`].
    #[inline]
    pub(super) fn judge(&self, space: &SpaceState, options: &ReadOptions) -> Result<u64, Miss> {
        lookup::judge(&self.header, &self.entry, space, options)
    }

    /// The value, read once for the first type that asks; `Some(None)` where the item does not exist, and nothing where
    /// it is not read as this type.
    #[inline]
    pub(super) fn value<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Option<Option<Arc<T>>> {
        if let Some(value) = self.value.get()
            && value.is::<T>()
        {
            return value.clone().downcast().ok().map(Some);
        }
        self.read()
    }

    #[cold]
    fn read<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Option<Option<Arc<T>>> {
        let Some(value) = lookup::decode::<T>(&self.entry).ok()? else { return Some(None) };
        let value = Arc::new(value);
        let _ = self.value.set(value.clone());
        Some(Some(value))
    }

    /// What it takes, in bytes, besides its name and values that were read.
    pub(super) fn weight(&self) -> usize {
        self.entry.len() + size_of::<Self>()
    }
}

/// A duration in ns, at most some 500 years.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
