//! Typed key spaces: keys of one template that share their settings.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Once};
use std::time::Duration;

use ringtide_core::config::Violation;
use ringtide_core::entry::Codec;
use ringtide_core::key::{CacheKey, KeySpace, LocalTier, Mode, Template, TemplateError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cache::Cache;
use crate::counters::Counters;
use crate::error::{BoxError, Error};
use crate::key::SpaceKey;
use crate::loader::{Consistency, IntoLoaded, Loader};
use crate::lookup::Found;
use crate::observe::{Answered, Read};
use crate::options::ReadOptions;

/// What keys that are given as they are go by, where key spaces have names.
pub(crate) const RAW: &str = "raw";

/// A key space of a [`Cache`] whose values are `T`; cheap to clone.
///
/// Keys are rendered by the key space's template, exactly as the invalidators render them.
pub struct Space<T> {
    pub(crate) cache: Cache,
    pub(crate) state: Arc<SpaceState>,
    pub(crate) options: ReadOptions,
    value: PhantomData<fn() -> T>,
}

/// A key space's settings with its counters.
pub(crate) struct SpaceState {
    pub(crate) settings: Arc<KeySpace>,
    /// Its place among the cache's key spaces.
    pub(crate) place: usize,
    pub(crate) counters: Counters,
    unversioned: Once,
}

impl SpaceState {
    pub(crate) fn new(settings: Arc<KeySpace>, place: usize) -> Arc<Self> {
        let counters = Counters::new(&settings.name);
        Arc::new(Self { settings, place, counters, unversioned: Once::new() })
    }

    /// Notes that a value was loaded without a version; told once where versions are compared.
    pub(crate) fn note_unversioned(&self) {
        if let Mode::Versioned { attribute, .. } = &self.settings.mode {
            self.unversioned.call_once(|| {
                tracing::warn!(
                    space = %self.settings.name, attribute,
                    "a loader gives no version, so that versions served for its keys may go back; return `Loaded` with the \
                     attribute's number, or tell `ItemLoader` the attribute"
                );
            });
        }
    }
}

impl<T> Space<T> {
    pub(crate) fn new(cache: Cache, state: Arc<SpaceState>) -> Self {
        Self { cache, state, options: ReadOptions::new(), value: PhantomData }
    }

    /// The same key space, read with other settings, which stand in place of all that [`Space::options`] were before.
    ///
    /// ```
    /// # async fn example(products: ringtide::Space<String>) -> Result<(), ringtide::Error> {
    /// use std::time::Duration;
    /// use ringtide::ReadOptions;
    ///
    /// let patient = products.with(ReadOptions::new().timeout(Duration::from_millis(200)));
    /// let tea = patient.get_or_load(42, || async { Ok::<_, std::io::Error>(Some("tea".to_owned())) }).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with(&self, options: ReadOptions) -> Self {
        Self { options, ..self.clone() }
    }

    /// What its reads ask for beyond the key space's settings, to build on: `space.with(space.options().fresh())`.
    pub fn options(&self) -> ReadOptions {
        self.options
    }

    /// The key space's settings.
    #[must_use]
    pub fn settings(&self) -> &KeySpace {
        &self.state.settings
    }

    /// Renders a key from the values of the template's placeholders; kept, it saves rendering it for every read.
    ///
    /// # Errors
    /// [`Error::Key`] where the number of values differs or the key is too long.
    #[inline]
    pub fn key<'a>(&self, key: impl SpaceKey<'a>) -> Result<CacheKey, Error> {
        Ok(key.of_space(&self.state.settings.template)?.into_owned())
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Space<T> {
    /// Reads the entry of `key`, or loads and caches it; otherwise as [`Cache::get_or_load`].
    ///
    /// # Errors
    /// [`Error`], shared by everybody who waited for the same load.
    pub async fn get_or_load<'a, L, E, F, Fut>(&self, key: impl SpaceKey<'a>, loader: F) -> Result<Option<T>, Error>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: IntoLoaded<T> + 'static,
        E: Into<BoxError> + 'static,
    {
        let key = self.key(key)?;
        let loader = || Loader::new(false, move |_| loader());
        Ok(self.cache.inner.read(key, &self.state, &self.options, loader).await?.value)
    }

    /// As [`Space::get_or_load`], with a loader that is told how new its load has to be.
    ///
    /// For loads that may lag (settle mode, versioned mode without `consistent_loads`): a load that turns out to be
    /// older than a version already known is repeated with [`Consistency::Strong`], and so is asked for by
    /// [`ReadOptions::fresh`]. Where loads may lag and versions are compared, "does not exist" is stored for such a loader
    /// alone: it has no version to compare, and is known to be new by a strong load.
    ///
    /// # Errors
    /// [`Error`], shared by everybody who waited for the same load.
    pub async fn get_or_load_with<'a, L, E, F, Fut>(
        &self,
        key: impl SpaceKey<'a>,
        loader: F,
    ) -> Result<Option<T>, Error>
    where
        F: Fn(Consistency) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: IntoLoaded<T> + 'static,
        E: Into<BoxError> + 'static,
    {
        let key = self.key(key)?;
        Ok(self.cache.inner.read(key, &self.state, &self.options, || Loader::new(true, loader)).await?.value)
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Space<T> {
    /// As [`Space::get_or_load`], for those who want to know whether what answers is fresh, and for how long: to refuse
    /// a value that is served stale, or to tell an HTTP client its `Age`.
    ///
    /// ```
    /// # async fn example(prices: ringtide::Space<u64>) -> Result<(), ringtide::Error> {
    /// use ringtide::CacheStatus;
    ///
    /// let price = prices.read(42, || async { Ok::<_, std::io::Error>(Some(995)) }).await?;
    /// if price.status == CacheStatus::Stale {
    ///     // The table cannot be read now; this is what it said last.
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error`], shared by everybody who waited for the same load.
    pub async fn read<'a, L, E, F, Fut>(&self, key: impl SpaceKey<'a>, loader: F) -> Result<Read<T>, Error>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: IntoLoaded<T> + 'static,
        E: Into<BoxError> + 'static,
    {
        let key = self.key(key)?;
        let loader = || Loader::new(false, move |_| loader());
        Ok(self.cache.inner.read(key, &self.state, &self.options, loader).await?.into())
    }

    /// As [`Space::read`], with a loader that is told how new its load has to be, as that of [`Space::get_or_load_with`].
    ///
    /// # Errors
    /// [`Error`], shared by everybody who waited for the same load.
    pub async fn read_with<'a, L, E, F, Fut>(&self, key: impl SpaceKey<'a>, loader: F) -> Result<Read<T>, Error>
    where
        F: Fn(Consistency) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: IntoLoaded<T> + 'static,
        E: Into<BoxError> + 'static,
    {
        let key = self.key(key)?;
        Ok(self.cache.inner.read(key, &self.state, &self.options, || Loader::new(true, loader)).await?.into())
    }

    /// Tells what is cached of `key`, and never loads: `None` where nothing is that may be served.
    ///
    /// A value is served as [`Space::get_or_load`] serves it without waiting: from this process's memory where the key
    /// space asks there first, and past its time within `stale_while_revalidate`, though nothing is loaded behind it. With
    /// [`ReadOptions::fresh`] nothing is. The answer is [`Read::value`] `None` where it is cached that the item does not exist.
    ///
    /// ```
    /// # async fn example(products: ringtide::Space<String>) -> Result<(), ringtide::Error> {
    /// match products.peek(42).await? {
    ///     Some(read) => println!("cached: {:?}, fresh for {:?}", read.value, read.fresh_for),
    ///     None => println!("not cached"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unavailable`] where its ring shard does not answer and this process's memory has nothing either,
    /// [`Error::DeadlineExceeded`] and [`Error::Key`].
    pub async fn peek<'a>(&self, key: impl SpaceKey<'a>) -> Result<Option<Read<T>>, Error> {
        let key = self.key(key)?;
        let inner = &self.cache.inner;
        let peeked = match inner.watcher.begin(&self.state.settings.name, &key) {
            None => inner.peek(&key, &self.state, &self.options).await,
            Some(watched) => {
                let answered = |found: &Option<Found<T>>| found.as_ref().map_or(Answered::NOTHING, Found::answered);
                watched.over_any(inner.peek(&key, &self.state, &self.options), answered).await
            }
        };
        Ok(peeked?.map(Read::from))
    }
}

impl<T> Clone for Space<T> {
    fn clone(&self) -> Self {
        Self { options: self.options, ..Self::new(self.cache.clone(), self.state.clone()) }
    }
}

impl<T> fmt::Debug for Space<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Space").field(&self.state.settings.name).finish()
    }
}

/// A key space's settings as the builder takes them; checked by [`crate::CacheBuilder::build`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SpaceSettings {
    space: KeySpace,
    unreadable: Option<TemplateError>,
}

impl SpaceSettings {
    /// Begins with a name and a template such as `product:{pk}`: plain mode, an hour to live shortened by up to a
    /// tenth at random, a minute for items that do not exist; nothing is served stale.
    pub fn new(name: impl Into<String>, template: impl Into<String>) -> Self {
        let (template, unreadable) = match Template::parse(&template.into()) {
            Ok(template) => (template, None),
            Err(error) => (Template::whole(), Some(error)),
        };
        Self { space: KeySpace::new(name.into(), template), unreadable }
    }

    /// The settings of keys that are given as they are.
    pub(crate) fn raw() -> Self {
        Self { space: KeySpace::new(RAW, Template::whole()), unreadable: None }
    }

    pub(crate) fn name(&self) -> &str {
        &self.space.name
    }

    /// Chooses how the key space is kept true.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.space.mode = mode;
        self
    }

    /// Chooses how long an entry lives without an invalidation.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.space.ttl = ttl;
        self
    }

    /// Chooses the part of a time to live, 0 to 0.9, by which it is shortened at random.
    pub fn ttl_jitter(mut self, part: f64) -> Self {
        self.space.ttl_jitter = part;
        self
    }

    /// Chooses how long "the item does not exist" lives.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.space.negative_ttl = ttl;
        self
    }

    /// Chooses how long after its time to live a value is still served, while it is loaded again in the background.
    ///
    /// An invalidated value is not served that way: only time passes by, no change.
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.space.stale_while_revalidate = window;
        self
    }

    /// Chooses how long after its time to live, or its invalidation, a value is still served where its load fails.
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.space.stale_if_error = window;
        self
    }

    /// Chooses how eagerly values are loaded again in the background before their time to live is over: XFetch's β, 1
    /// for about as long before as a load takes, 0 for never.
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.space.early_refresh = beta;
        self
    }

    /// Chooses how values are encoded.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.space.codec = codec;
        self
    }

    /// Compresses payloads of more than `bytes` bytes (Zstandard).
    pub fn compress_above(mut self, bytes: usize) -> Self {
        self.space.compress_above = Some(bytes);
        self
    }

    /// Chooses how long a load may take, in place of [`CacheBuilder::load_timeout`](crate::CacheBuilder::load_timeout).
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        self.space.load_timeout = Some(timeout);
        self
    }

    /// Chooses what is kept in this process's memory.
    pub fn local(mut self, tier: LocalTier) -> Self {
        self.space.local = tier;
        self
    }

    /// Checks the settings and adds what is wrong with them to `found`.
    pub(crate) fn validate(&self, found: &mut Vec<Violation>) -> Option<Arc<KeySpace>> {
        let before = found.len();
        if let Some(error) = &self.unreadable {
            let place = format!("spaces.{}.key", self.space.name);
            found.push(Violation::new(place, error.to_string(), "write for example \"product:{pk}\""));
        }
        found.extend(self.space.violations());
        (found.len() == before).then(|| Arc::new(self.space.clone()))
    }
}
