//! What this process keeps in its own memory of what it has read.
//!
//! There is one store for all key spaces, bounded by bytes, and its key is the entry's name alone: what a server tells of a key
//! then reaches every copy by one look-up. A copy says which key space it was read for, and answers no other one.
//!
//! | tier | written | asked |
//! | --- | --- | --- |
//! | fallback | by reads, and by loads while the ring shard fails | while the ring shard fails |
//! | bounded | as fallback | first |
//! | tracked | by plain reads over connections that the server tells of changes | first |
//!
//! # What keeps a tracked copy true
//! - A mark is made for the key before its read is sent ([`pending`]). A push for the key since then refuses the copy:
//!   the reply may be from before the change, and be looked at after its push.
//! - A lost connection or a null push raises the ring shard's epoch ([`pulse`]), and with it every copy of another
//!   epoch is void. A lost connection is out of reach before the epoch rises, so that who reads over it has an old one.
//! - A connection may be dead without being lost. So copies serve only while every connection has given a sign of life
//!   to something that was asked within the last second. In a cluster more than half of the masters have agreed besides on
//!   who serves what: one that is cut off from the others answers, and does not tell what its successor takes.
//! - After all that a time to live, as for every copy, and never more than what the entry has left.

mod kept;
mod part;
mod pending;
mod pulse;
mod seen;
mod shared;
mod store;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ringtide_core::config;
use ringtide_core::key::{CacheKey, KeySpace, LocalTier};
use ringtide_core::ring::ShardSpec;
#[cfg(feature = "memory")]
use ringtide_core::valkey::MemoryServer;
use ringtide_core::valkey::{ConnectError, Credentials, Shard, ShardError};
use serde::de::DeserializeOwned;

pub(crate) use part::Part;

use crate::cache::Inner;
use crate::counters::StaleReason;
use crate::lookup::{Found, Miss, serve_stale};
use crate::observe::CacheStatus;
use crate::options::ReadOptions;
use crate::shard::ReadShard;
use crate::space::SpaceState;
use kept::{Kept, SpaceId};
use pending::{Mark, Verdict};
use store::Store;

/// The in-process tier of a cache; nothing where no key space has one, or its capacity is 0.
pub(crate) struct Local {
    store: Option<Arc<Store>>,
    /// Whether any key space is tracked.
    tracks: bool,
}

/// What was noted before an entry is read, and decides whether it may be kept.
pub(crate) enum Ticket {
    /// Nothing is kept.
    Nothing,
    /// Kept unless the process itself has asked for the key to be forgotten since it had done so as many times, for any key.
    Fallback { forgotten: u64 },
    /// Kept unless the key was invalidated since.
    Marked(Mark),
}

impl Local {
    pub(crate) fn new<'a>(settings: &config::Reader, spaces: impl Iterator<Item = &'a KeySpace>) -> Self {
        let capacity = settings.local_capacity;
        let (mut used, mut tracks, mut fallback) = (false, false, Duration::MAX);
        for space in spaces {
            match space.local {
                LocalTier::Off => continue,
                LocalTier::Fallback(ttl) => fallback = fallback.min(ttl),
                LocalTier::Bounded(_) => {}
                LocalTier::Tracked(_) => tracks = true,
            }
            used = true;
        }
        let store = (used && capacity > 0).then(|| Store::new(capacity, fallback));
        Self { tracks: tracks && store.is_some(), store }
    }

    /// Begins to connect to a ring shard, whose part of the tier is told of changes where any key space is tracked.
    pub(crate) fn connect(
        &self,
        spec: &ShardSpec,
        options: &config::Valkey,
        credentials: Option<Arc<dyn Credentials>>,
    ) -> Result<(Shard, Option<Arc<Part>>), ConnectError> {
        match (&self.store, credentials) {
            (Some(store), credentials) if self.tracks => {
                let part = Arc::new(Part::new(store.clone(), &spec.name));
                let shard = Shard::connect_tracked(spec, options, credentials, part.clone())?;
                Ok((shard, Some(part)))
            }
            (_, Some(credentials)) => Ok((Shard::connect_as(spec, options, credentials)?, None)),
            (_, None) => Ok((Shard::connect(spec, options)?, None)),
        }
    }

    /// As [`Local::connect`], for a ring shard in memory.
    #[cfg(feature = "memory")]
    pub(crate) fn connect_in_memory(&self, server: &MemoryServer) -> (Shard, Option<Arc<Part>>) {
        let tracked = self.store.as_ref().filter(|_| self.tracks);
        let Some(store) = tracked else { return (Shard::in_memory(server), None) };
        let part = Arc::new(Part::new(store.clone(), server.name()));
        (Shard::in_memory_tracked(server, part.clone()), Some(part))
    }

    /// Notes that an entry is about to be read; to be called before a connection is picked.
    #[inline]
    pub(crate) fn before_read(&self, key: &CacheKey, space: &SpaceState, shard: &ReadShard) -> Ticket {
        let Some(store) = &self.store else { return Ticket::Nothing };
        match space.settings.local {
            LocalTier::Off => Ticket::Nothing,
            LocalTier::Fallback(_) => Ticket::Fallback { forgotten: store.forgotten() },
            LocalTier::Bounded(_) => Ticket::Marked(store.mark(key, None)),
            LocalTier::Tracked(_) => match &shard.part {
                Some(part) => Ticket::Marked(store.mark(key, Some(part.pulse()))),
                None => Ticket::Nothing,
            },
        }
    }

    /// Keeps an entry that was read.
    #[inline]
    pub(crate) fn after_read(&self, ticket: Ticket, key: &CacheKey, space: &SpaceState, entry: &Bytes) {
        let Some(store) = &self.store else { return };
        match (ticket, space.settings.local) {
            (Ticket::Fallback { forgotten }, LocalTier::Fallback(ttl)) if !store.seen.note(seen::mark(key, entry)) => {
                keep_as_fallback(store, forgotten, key, space, entry, ttl);
            }
            (Ticket::Marked(mark), LocalTier::Bounded(ttl) | LocalTier::Tracked(ttl)) => {
                let Some(kept) = Kept::new(store.now(), space, entry, ttl, mark.tracked()) else { return };
                match store.insert_marked(mark, kept) {
                    Verdict::Kept | Verdict::Overtaken => {}
                    Verdict::Refused => space.counters.local_refused.increment(1),
                }
            }
            _ => {}
        }
    }

    /// Forgets little by little what was noted of entries kept as a fallback; nothing to do where there is no tier.
    pub(crate) fn ticking(&self) -> impl Future<Output = ()> + Send + 'static {
        let store = self.store.clone();
        async move {
            let Some(store) = store else { return };
            let mut ticks = tokio::time::interval(seen::TICK);
            loop {
                ticks.tick().await;
                store.seen.tick();
            }
        }
    }

    /// Looks entries up by one command, in the order of `keys`, and keeps what it finds, except where an invalidation has come
    /// to be `owed` since that was asked.
    pub(crate) async fn read_many(
        &self,
        shard: &Arc<ReadShard>,
        keys: &[CacheKey],
        space: &SpaceState,
        owed: impl Fn(&CacheKey) -> bool,
    ) -> Result<Vec<Option<Bytes>>, ShardError> {
        if let (Some(store), LocalTier::Fallback(ttl)) = (&self.store, space.settings.local) {
            let forgotten = store.forgotten();
            if keys.iter().any(owed) {
                return shard.get_many(keys).await;
            }
            let found = shard.get_many(keys).await?;
            // What has to be fetched from memory for each entry is fetched at once, and so is what is noted of each.
            let marks = |(key, entry): (_, &Option<Bytes>)| entry.as_ref().map(|entry| seen::mark(key, entry));
            let marks: Vec<_> = keys.iter().zip(&found).map(marks).collect();
            for ((key, entry), mark) in keys.iter().zip(&found).zip(marks) {
                if let (Some(entry), Some(mark)) = (entry, mark)
                    && !store.seen.note(mark)
                {
                    keep_as_fallback(store, forgotten, key, space, entry, ttl);
                }
            }
            return Ok(found);
        }
        let ticket = |key| Some(self.before_read(key, space, shard)).filter(|_| !owed(key)).unwrap_or(Ticket::Nothing);
        let tickets: Vec<Ticket> = keys.iter().map(ticket).collect();
        let found = shard.get_many(keys).await?;
        for ((key, ticket), entry) in keys.iter().zip(tickets).zip(&found) {
            if let Some(entry) = entry {
                self.after_read(ticket, key, space, entry);
            }
        }
        Ok(found)
    }

    /// Notes that an entry is about to be loaded while its ring shard fails.
    pub(crate) fn before_load(&self) -> Ticket {
        match &self.store {
            Some(store) => Ticket::Fallback { forgotten: store.forgotten() },
            None => Ticket::Nothing,
        }
    }

    /// Keeps what was loaded while its ring shard failed, as the entry that is made then. Nothing tells of its changes, so
    /// tracked key spaces do not.
    pub(crate) fn after_load(
        &self,
        ticket: &Ticket,
        key: &CacheKey,
        space: &SpaceState,
        entry: impl FnOnce() -> Bytes,
    ) {
        let (Some(store), Ticket::Fallback { forgotten }) = (&self.store, ticket) else { return };
        let (LocalTier::Fallback(ttl) | LocalTier::Bounded(ttl)) = space.settings.local else { return };
        let Some(kept) = Kept::new(store.now(), space, &entry(), ttl, None) else { return };
        if store.insert_unless_forgotten(key, kept, *forgotten) {
            space.counters.local_fallback_sets.increment(1);
        }
    }

    /// The copy that answers before the ring shard is asked.
    #[inline]
    fn first(&self, key: &CacheKey, space: &SpaceState, options: &ReadOptions) -> Option<Arc<Kept>> {
        let (LocalTier::Bounded(_) | LocalTier::Tracked(_)) = space.settings.local else { return None };
        if options.fresh || options.skips_memory {
            return None;
        }
        self.find(key, space)
    }

    #[inline]
    fn find(&self, key: &CacheKey, space: &SpaceState) -> Option<Arc<Kept>> {
        let store = self.store.as_ref()?;
        let kept = store.get(key)?;
        kept.serves(SpaceId::of(space), store.now()).then_some(kept)
    }

    /// The entry that may be served to a read whose ring shard and load fail.
    #[cold]
    pub(crate) fn on_error(&self, key: &CacheKey, space: &SpaceState, options: &ReadOptions) -> Option<Bytes> {
        if space.settings.local == LocalTier::Off {
            return None;
        }
        let store = self.store.as_ref()?;
        store.get(key)?.on_error(space, options, store.now()).cloned()
    }

    /// Drops the copy of a key that was loaded past it: it may be older.
    pub(crate) fn passed(&self, key: &CacheKey) {
        if let Some(store) = &self.store {
            store.invalidate(key);
        }
    }

    /// Drops the copy of a key that is loaded again, where nobody else tells of that.
    fn refreshed(&self, key: &CacheKey, space: &SpaceState) {
        if let (Some(store), LocalTier::Bounded(_)) = (&self.store, space.settings.local) {
            store.invalidate(key);
        }
    }
}

/// Keeps an entry that was read for the failures of its ring shard, unless it is kept and was of late.
#[cold]
fn keep_as_fallback(store: &Store, forgotten: u64, key: &CacheKey, space: &SpaceState, entry: &Bytes, ttl: Duration) {
    if store.is_recent(key, space, entry) {
        return;
    }
    let Some(kept) = Kept::new(store.now(), space, entry, ttl, None) else { return };
    store.insert_unless_forgotten(key, kept, forgotten);
}

impl Inner {
    /// Answers a read from this process's memory, where its key space asks there first.
    #[inline]
    pub(crate) fn local_first<T: DeserializeOwned>(
        &self,
        key: &CacheKey,
        space: &SpaceState,
        options: &ReadOptions,
    ) -> Option<Found<T>> {
        let found = self.local_peek(key, space, options)?;
        self.loaded_again(key, space, found.refresh_before_ms);
        Some(found)
    }

    /// As [`Inner::local_first`], for who will not load again what is due for that.
    #[inline]
    pub(crate) fn local_peek<T: DeserializeOwned>(
        &self,
        key: &CacheKey,
        space: &SpaceState,
        options: &ReadOptions,
    ) -> Option<Found<T>> {
        let kept = self.local.first(key, space, options)?;
        let mut found = self.accept(&kept.entry, space, options).ok()?;
        if found.status == CacheStatus::Hit {
            found.status = CacheStatus::LocalHit;
        }
        space.counters.local_hits.increment(1);
        Some(found)
    }

    /// As [`Inner::local_first`], with the value that all readers share.
    #[inline]
    pub(crate) fn local_shared<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
        key: &CacheKey,
        space: &SpaceState,
        options: &ReadOptions,
    ) -> Option<Found<Arc<T>>> {
        let kept = self.local.first(key, space, options)?;
        let refresh_before_ms = kept.judge(space, options).ok()?;
        let value = kept.value::<T>()?;
        match value {
            Some(_) => space.counters.hits.increment(1),
            None => space.counters.negatives.increment(1),
        }
        space.counters.local_hits.increment(1);
        self.loaded_again(key, space, refresh_before_ms);
        Some(Found { value, refresh_before_ms, soft_expiry_ms: kept.soft_expiry_ms(), status: CacheStatus::LocalHit })
    }

    /// Drops the copy that has just answered where the read that it answered loads it again.
    #[inline]
    fn loaded_again(&self, key: &CacheKey, space: &SpaceState, refresh_before_ms: u64) {
        if refresh_before_ms != 0 {
            self.local.refreshed(key, space);
        }
    }

    /// Answers a read whose ring shard fails from this process's memory.
    #[cold]
    pub(crate) fn local_fallback<T: DeserializeOwned>(
        &self,
        key: &CacheKey,
        space: &SpaceState,
        options: &ReadOptions,
        error: ShardError,
    ) -> Result<Found<T>, Miss> {
        self.local_instead(key, space, options).map_err(|stale| Miss::Down { error, stale })
    }

    /// Answers a read from this process's memory whose ring shard does not answer; else there may be an entry that is served where
    /// its load fails, too.
    #[cold]
    pub(crate) fn local_instead<T: DeserializeOwned>(
        &self,
        key: &CacheKey,
        space: &SpaceState,
        options: &ReadOptions,
    ) -> Result<Found<T>, Option<Bytes>> {
        let found = match space.settings.local {
            LocalTier::Fallback(_) => self.local.find(key, space),
            LocalTier::Off | LocalTier::Bounded(_) | LocalTier::Tracked(_) => None,
        };
        match found.and_then(|kept| self.accept(&kept.entry, space, options).ok()) {
            Some(found) => {
                space.counters.local_fallback_hits.increment(1);
                // Loading again is what the ring shard's failure has to wait for.
                Ok(Found { refresh_before_ms: 0, status: CacheStatus::LocalHit, ..found })
            }
            None => Err(self.local.on_error(key, space, options)),
        }
    }

    /// Answers a read from this process's memory whose look-up was not answered by its deadline; nothing where that has nothing
    /// to serve.
    #[cold]
    pub(crate) fn local_at_deadline<T: DeserializeOwned>(
        &self,
        key: &CacheKey,
        space: &SpaceState,
        options: &ReadOptions,
    ) -> Option<Found<T>> {
        if options.fresh {
            return None;
        }
        match self.local_instead(key, space, options) {
            Ok(found) => Some(found),
            Err(stale) => serve_stale(key, space, &stale?, StaleReason::Deadline),
        }
    }

    /// Drops this process's own copy of a key, and refuses those of reads and loads that are under way; nor do reads share
    /// the error of a load from before.
    pub(crate) fn forget(&self, key: &CacheKey) {
        self.failures.forget(key);
        if let Some(store) = &self.local.store {
            store.forget(key);
        }
    }
}
