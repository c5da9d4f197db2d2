//! The cache: what an application holds, and what its clones share.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::{self, Either};
use ringtide_core::config::{self, Config, ConfigError};
use ringtide_core::key::CacheKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::builder::CacheBuilder;
use crate::error::{BoxError, Error};
use crate::flight::Flights;
use crate::key::IntoKey;
use crate::load::Failures;
use crate::loader::{IntoLoaded, Lazy, Loader};
use crate::local::Local;
use crate::lookup::{Found, Miss, Missed, late, limit_of};
use crate::observe::Watcher;
use crate::options::ReadOptions;
use crate::retry::{CLOSING, Retries};
use crate::shard::{ReadShard, RingShard};
use crate::space::{Space, SpaceState};
use crate::topology::{Changes, Topology};

/// A read-through cache on a ring of Valkey servers; cheap to clone, and `Send + Sync`.
///
/// Its tasks end with the last clone, or with [`Cache::close`].
#[derive(Clone)]
pub struct Cache {
    pub(crate) inner: Arc<Inner>,
    _life: Arc<DropGuard>,
}

pub(crate) struct Inner {
    pub(crate) topology: ArcSwap<Topology>,
    pub(crate) changes: Changes,
    pub(crate) settings: config::Reader,
    pub(crate) watcher: Watcher,
    pub(crate) spaces: BTreeMap<String, Arc<SpaceState>>,
    /// The settings of keys that are given as they are.
    pub(crate) raw: Arc<SpaceState>,
    pub(crate) flights: Arc<Flights>,
    /// Flights of reads whose every attempt was in vain.
    pub(crate) last_flights: Arc<Flights>,
    /// What is kept in this process's memory.
    pub(crate) local: Arc<Local>,
    /// What is sent again until it is answered.
    pub(crate) retries: Arc<Retries>,
    /// Errors of loads that are shared for a short while.
    pub(crate) failures: Failures,
    /// Tasks that end with the cache.
    pub(crate) tasks: TaskTracker,
    /// Tasks that end by themselves; closed from the start.
    pub(crate) work: TaskTracker,
    pub(crate) ended: CancellationToken,
}

impl Cache {
    /// Begins to build a cache.
    pub fn builder() -> CacheBuilder {
        CacheBuilder::default()
    }

    /// Builds a cache from the file that the worker uses too, with the environment's overrides; must be called in a
    /// Tokio runtime. Changes of the ring's membership in the file are followed; see [`CacheBuilder::config_file`] to add
    /// metrics, a hook or credentials.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be read, or every violation in it at once. A ring shard that is down is none.
    pub async fn from_config_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::builder().config_file(path)?.build().await
    }

    /// Builds a cache from a configuration; must be called in a Tokio runtime. No file is followed.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every violation.
    pub async fn from_config(config: Config) -> Result<Self, ConfigError> {
        Self::builder().config(config).build().await
    }

    pub(crate) fn new(inner: Inner) -> Self {
        let life = Arc::new(inner.ended.clone().drop_guard());
        Self { inner: Arc::new(inner), _life: life }
    }

    /// Reads the entry of `key`, or loads and caches it. `None` is "the item does not exist", which is cached too.
    ///
    /// The key is used as it is, in plain mode and with [`CacheBuilder::raw_ttl`]; keys of a key space are read through
    /// [`Cache::space`], which knows its mode and settings.
    ///
    /// A hit is one plain `GET`. On a miss, one load at a time runs per key, fleet-wide while Valkey is reachable; it
    /// runs in a task of its own, so that dropping this future cancels nobody's load. Its value holds every change that
    /// had been delivered before this call, for loads that are strongly consistent; a read that needs more than that is
    /// [fresh](ReadOptions::fresh). Where the ring shard is down, the loader answers.
    ///
    /// ```
    /// # async fn example(cache: ringtide::Cache) -> Result<(), ringtide::Error> {
    /// let home: Option<String> = cache
    ///     .get_or_load("page:home", || async {
    ///         let from_the_origin = Some("tea".to_owned());
    ///         Ok::<_, std::io::Error>(from_the_origin)
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error`]: the loader's own error, panic or time-out, shared by everybody who waited for that load.
    pub async fn get_or_load<T, L, E, F, Fut>(&self, key: impl IntoKey, loader: F) -> Result<Option<T>, Error>
    where
        T: Serialize + DeserializeOwned + 'static,
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: IntoLoaded<T> + 'static,
        E: Into<BoxError> + 'static,
    {
        let key = key.into_key()?;
        let read = self
            .inner
            .read(key, &self.inner.raw, const { &ReadOptions::new() }, || Loader::new(false, move |_| loader()));
        Ok(read.await?.value)
    }

    /// The keys that are given as they are, as a key space: for what [`Cache::get_or_load`] cannot be told, such as
    /// [`ReadOptions`], and for many keys at once. It is in plain mode, with [`CacheBuilder::raw_ttl`].
    ///
    /// ```
    /// # async fn example(cache: ringtide::Cache) -> Result<(), Box<dyn std::error::Error>> {
    /// use ringtide::ReadOptions;
    ///
    /// let pages = cache.raw::<String>().with(ReadOptions::new().fresh());
    /// let home = pages.get_or_load("page:home", || async { Ok::<_, std::io::Error>(Some("tea".to_owned())) }).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn raw<T>(&self) -> Space<T> {
        Space::new(self.clone(), self.inner.raw.clone())
    }

    /// Finds a key space by its name, for values of type `T`.
    ///
    /// # Errors
    /// [`Error::UnknownSpace`].
    pub fn space<T>(&self, name: &str) -> Result<Space<T>, Error> {
        match self.inner.spaces.get(name) {
            Some(state) => Ok(Space::new(self.clone(), state.clone())),
            None => Err(Error::UnknownSpace {
                name: name.to_owned(),
                known: self.inner.spaces.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// The ring's shards now, and how they stand as this process sees it: for pages of status and readiness. One that is not in
    /// use fails no read.
    #[must_use]
    pub fn shards(&self) -> Vec<RingShard> {
        let topology = self.inner.topology.load();
        let told = |shard: &Arc<ReadShard>| RingShard {
            name: shard.place.name.clone(),
            address: shard.place.address.clone(),
            state: shard.state(),
        };
        topology.shards().iter().map(told).collect()
    }

    /// Waits until what is under way is done and stored, for at most a second; ends the loads that are left, gives their leases
    /// back and waits until that is done, too. Reads that wait for these end with [`Error::Closed`]. Fills and
    /// invalidations that wait to be sent again are tried once more, for at most another second.
    pub async fn close(self) {
        // What is not done in time is ended.
        let _in_time = tokio::time::timeout(CLOSING, self.inner.work.wait()).await;
        self.inner.ended.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.work.wait().await;
        self.inner.retries.finish().await;
    }
}

impl Inner {
    /// The ring shard that owns a key now.
    #[inline]
    pub(crate) fn shard(&self, key: &CacheKey) -> Arc<ReadShard> {
        Arc::clone(self.topology.load().owner(key))
    }

    /// Runs a task that ends by itself, or with the cache; [`Cache::settled`] waits for it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.work.spawn(self.until_ended(task));
    }

    /// Runs a task that goes on until the cache ends, or for as long as others take.
    pub(crate) fn attend(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<Option<()>> {
        self.tasks.spawn(self.until_ended(task))
    }

    fn until_ended<F: Future<Output = ()>>(&self, task: F) -> impl Future<Output = Option<()>> + use<F> {
        // Boxed: what wraps it would take its room three times, which is 12 KB for a load.
        self.ended.clone().run_until_cancelled_owned(Box::pin(task))
    }

    /// Looks a key up, or answers the miss; `loader` is only made where it is needed.
    ///
    /// No `async fn` up to where something is waited for: each is one more layer of the future, which takes room of its own and
    /// is gone through, cold, whenever one of a herd of readers is woken.
    #[inline]
    pub(crate) fn read<'a, T, F>(
        self: &'a Arc<Self>,
        key: CacheKey,
        space: &'a Arc<SpaceState>,
        options: &'a ReadOptions,
        loader: F,
    ) -> impl Future<Output = Result<Found<T>, Error>> + use<'a, T, F>
    where
        T: DeserializeOwned + 'static,
        F: FnOnce() -> Loader + Send,
    {
        match self.watcher.begin(&space.settings.name, &key) {
            None => Either::Left(self.read_unwatched(key, space, options, loader)),
            // Boxed, so that the future of a read that nobody watches stays small; begun within the span.
            Some(watched) => {
                let read = async move { self.read_unwatched(key, space, options, loader).await };
                Either::Right(watched.over(Box::pin(read)))
            }
        }
    }

    #[inline]
    fn read_unwatched<'a, T, F>(
        self: &'a Arc<Self>,
        key: CacheKey,
        space: &'a Arc<SpaceState>,
        options: &'a ReadOptions,
        loader: F,
    ) -> impl Future<Output = Result<Found<T>, Error>> + use<'a, T, F>
    where
        T: DeserializeOwned + 'static,
        F: FnOnce() -> Loader + Send,
    {
        match self.local_first(&key, space, options) {
            Some(found) => Either::Left(future::ready(Ok(self.serve(found, || key, space, options, loader)))),
            None => Either::Right(self.read_elsewhere(key, space, options, loader)),
        }
    }

    /// Reads a key that this process's memory has no answer for.
    #[inline]
    pub(crate) fn read_elsewhere<'a, T, F>(
        self: &'a Arc<Self>,
        key: CacheKey,
        space: &'a Arc<SpaceState>,
        options: &'a ReadOptions,
        loader: F,
    ) -> impl Future<Output = Result<Found<T>, Error>> + use<'a, T, F>
    where
        T: DeserializeOwned + 'static,
        F: FnOnce() -> Loader + Send,
    {
        match limit_of(options, &self.settings) {
            None => Either::Left(self.read_without_limit(key, space, options, loader)),
            Some(limit) => Either::Right(Box::pin(self.read_within(limit, key, space, options, loader))),
        }
    }

    async fn read_within<T: DeserializeOwned + 'static>(
        self: &Arc<Self>,
        (after, deadline): (Duration, Instant),
        key: CacheKey,
        space: &Arc<SpaceState>,
        options: &ReadOptions,
        loader: impl FnOnce() -> Loader + Send,
    ) -> Result<Found<T>, Error> {
        let miss: Miss = match tokio::time::timeout_at(deadline, self.look(&key, space, options)).await {
            Ok(Ok(found)) => return Ok(self.serve(found, || key, space, options, loader)),
            Ok(Err(miss)) => miss,
            Err(_) => {
                let found = self.local_at_deadline(&key, space, options);
                return found.ok_or_else(|| late(key, space, after));
            }
        };
        let mut loader = Lazy::new(loader);
        let mut missed = Missed::new(key.clone(), space, options, Some(deadline), &mut loader);
        // A value that may be served stale is known inside, so a read that has one ends by itself.
        let answer = tokio::time::timeout_at(deadline, self.answer_miss(&mut missed, miss)).await;
        answer.unwrap_or_else(|_| Err(late(key, space, after)))
    }

    #[inline]
    async fn read_without_limit<T: DeserializeOwned + 'static>(
        self: &Arc<Self>,
        key: CacheKey,
        space: &Arc<SpaceState>,
        options: &ReadOptions,
        loader: impl FnOnce() -> Loader + Send,
    ) -> Result<Found<T>, Error> {
        let miss: Miss = match self.look(&key, space, options).await {
            Ok(found) => return Ok(self.serve(found, || key, space, options, loader)),
            Err(miss) => miss,
        };
        // In the room that the look-up has left, which is larger.
        let mut loader = Lazy::new(loader);
        let mut missed = Missed::new(key, space, options, None, &mut loader);
        self.answer_miss(&mut missed, miss).await
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topology = self.inner.topology.load();
        let shards = topology.ring().shards().iter().map(|shard| &shard.name).collect::<Vec<_>>();
        let spaces = self.inner.spaces.keys().collect::<Vec<_>>();
        f.debug_struct("Cache").field("shards", &shards).field("spaces", &spaces).finish()
    }
}
