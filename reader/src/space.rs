//! Typed key spaces: keys of one template that share their settings.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use ringtide_core::config::Violation;
use ringtide_core::key::{CacheKey, KeySpace, Mode, Template};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cache::Cache;
use crate::counters::Counters;
use crate::error::{BoxError, Error};
use crate::key::IntoKeyParts;
use crate::loader::{Consistency, IntoLoaded, Loader};

/// A key space of a [`Cache`] whose values are `T`; cheap to clone.
///
/// Keys are rendered by the key space's template, exactly as the invalidators render them.
pub struct Space<T> {
    cache: Cache,
    state: Arc<SpaceState>,
    value: PhantomData<fn() -> T>,
}

/// A key space's settings with its counters.
pub(crate) struct SpaceState {
    pub(crate) settings: Arc<KeySpace>,
    pub(crate) counters: Counters,
}

impl SpaceState {
    pub(crate) fn new(settings: Arc<KeySpace>) -> Arc<Self> {
        let counters = Counters::new(&settings.name);
        Arc::new(Self { settings, counters })
    }
}

impl<T> Space<T> {
    pub(crate) fn new(cache: Cache, state: Arc<SpaceState>) -> Self {
        Self { cache, state, value: PhantomData }
    }

    /// The key space's settings.
    #[must_use]
    pub fn settings(&self) -> &KeySpace {
        &self.state.settings
    }

    /// Renders a key from the values of the template's placeholders.
    ///
    /// # Errors
    /// [`Error::Key`] where the number of values differs or the key is too long.
    pub fn key<'a>(&self, parts: impl IntoKeyParts<'a>) -> Result<CacheKey, Error> {
        Ok(self.state.settings.template.render(parts.into_key_parts().as_ref())?)
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Space<T> {
    /// Reads the entry of the key that `parts` render, or loads and caches it; otherwise as [`Cache::get_or_load`].
    ///
    /// # Errors
    /// [`Error`], shared by everybody who waited for the same load.
    pub async fn get_or_load<'a, L, E, F, Fut>(
        &self,
        parts: impl IntoKeyParts<'a>,
        loader: F,
    ) -> Result<Option<T>, Error>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: IntoLoaded<T> + 'static,
        E: Into<BoxError> + 'static,
    {
        let key = self.key(parts)?;
        self.cache.inner.read(key, &self.state, || Loader::new(false, move |_| loader())).await
    }

    /// As [`Space::get_or_load`], with a loader that is told how new its load has to be.
    ///
    /// For loads that may lag (settle mode, versioned mode without `consistent_loads`): a load that turns out to be
    /// older than a change already known is repeated with [`Consistency::Strong`].
    ///
    /// # Errors
    /// [`Error`], shared by everybody who waited for the same load.
    pub async fn get_or_load_with<'a, L, E, F, Fut>(
        &self,
        parts: impl IntoKeyParts<'a>,
        loader: F,
    ) -> Result<Option<T>, Error>
    where
        F: Fn(Consistency) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: IntoLoaded<T> + 'static,
        E: Into<BoxError> + 'static,
    {
        let key = self.key(parts)?;
        self.cache.inner.read(key, &self.state, || Loader::new(true, loader)).await
    }
}

impl<T> Clone for Space<T> {
    fn clone(&self) -> Self {
        Self::new(self.cache.clone(), self.state.clone())
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
    pub(crate) name: String,
    template: String,
    mode: Mode,
    ttl: Duration,
    ttl_jitter: f64,
    negative_ttl: Duration,
}

impl SpaceSettings {
    /// Begins with a name and a template such as `product:{pk}`: plain mode, an hour to live shortened by up to a
    /// tenth at random, a minute for items that do not exist.
    pub fn new(name: impl Into<String>, template: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            template: template.into(),
            mode: Mode::Plain,
            ttl: KeySpace::DEFAULT_TTL,
            ttl_jitter: KeySpace::DEFAULT_TTL_JITTER,
            negative_ttl: KeySpace::DEFAULT_NEGATIVE_TTL,
        }
    }

    /// The settings of keys that are given as they are.
    pub(crate) fn raw() -> Self {
        Self::new("raw", "{key}")
    }

    /// Chooses how the key space is kept true.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Chooses how long an entry lives without an invalidation.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Chooses the part of a time to live, 0 to 0.9, by which it is shortened at random.
    pub fn ttl_jitter(mut self, part: f64) -> Self {
        self.ttl_jitter = part;
        self
    }

    /// Chooses how long "the item does not exist" lives.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.negative_ttl = ttl;
        self
    }

    /// Checks the settings and adds what is wrong with them to `found`.
    pub(crate) fn validate(&self, found: &mut Vec<Violation>) -> Option<Arc<KeySpace>> {
        let place = |field: &str| format!("spaces.{}.{field}", self.name);
        let before = found.len();
        let template = Template::parse(&self.template)
            .map_err(|e| found.push(Violation::new(place("key"), e.to_string(), "write for example \"product:{pk}\"")))
            .ok();
        if !(0.0..=0.9).contains(&self.ttl_jitter) {
            let problem = format!("{} is out of range", self.ttl_jitter);
            found.push(Violation::new(place("ttl_jitter"), problem, "use a part of the time to live, 0 to 0.9"));
        }
        for (field, ttl) in [("ttl", self.ttl), ("negative_ttl", self.negative_ttl)] {
            if ttl < Duration::from_millis(1) {
                found.push(Violation::new(place(field), format!("{ttl:?} is too short"), "use at least 1ms"));
            }
        }
        let space = KeySpace {
            mode: self.mode.clone(),
            ttl: self.ttl,
            ttl_jitter: self.ttl_jitter,
            negative_ttl: self.negative_ttl,
            ..KeySpace::new(self.name.as_str(), template?)
        };
        (found.len() == before).then(|| Arc::new(space))
    }
}
