//! Loaders of many keys, and what they may return for each.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::error::BoxError;
use crate::loader::{Consistency, Loaded};

/// A loader that is called with many keys at once, among them those of single reads; cheap to clone.
///
/// [`crate::Space::with_loader`] binds it to a key space. Loads that begin within the window share a call of at most
/// so many keys. Where no load has to wait, a call is made of whatever is there when the window closes; it waits a few
/// ms longer for other keys of a read of many whose leases are under way.
#[must_use]
pub struct BatchLoader<K, T> {
    call: Arc<Call<K, T>>,
    /// Whether the loader is told how new its load has to be.
    pub(super) told: bool,
    pub(super) max_batch: usize,
    pub(super) window: Duration,
}

/// Takes the answer for a key out of what a call returned.
pub(super) type Answers<K, T> = Box<dyn FnMut(&K) -> Result<Loaded<T>, BoxError> + Send>;

pub(super) type CallFuture<K, T> = Pin<Box<dyn Future<Output = Result<Answers<K, T>, BoxError>> + Send>>;

type Call<K, T> = dyn Fn(Vec<K>, Consistency) -> CallFuture<K, T> + Send + Sync;

impl<K, T> BatchLoader<K, T> {
    /// Most keys of a call where nothing else is said: as many as DynamoDB's `BatchGetItem` takes.
    pub const DEFAULT_MAX_BATCH: usize = 100;

    /// How long a call waits for other reads' keys where nothing else is said.
    pub const DEFAULT_WINDOW: Duration = Duration::from_millis(1);

    /// Takes a loader: a map of what it found, in which keys that do not exist are missing.
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use ringtide::BatchLoader;
    ///
    /// let names = BatchLoader::new(|pks: Vec<u64>| async move {
    ///     let found = pks.into_iter().map(|pk| (pk, format!("tea {pk}")));
    ///     Ok::<_, std::io::Error>(found.collect::<HashMap<u64, String>>())
    /// });
    /// # let _: BatchLoader<u64, String> = names;
    /// ```
    pub fn new<L, S, E, F, Fut>(loader: F) -> Self
    where
        K: Eq + Hash + Send + 'static,
        F: Fn(Vec<K>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<HashMap<K, L, S>, E>> + Send + 'static,
        S: BuildHasher + Send + 'static,
        L: LoadedPart<T> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        Self { told: false, ..Self::with_consistency(move |keys, _| loader(keys)) }
    }

    /// Takes a loader that is told how new its load has to be; see [`crate::Space::get_or_load_with`].
    pub fn with_consistency<L, S, E, F, Fut>(loader: F) -> Self
    where
        K: Eq + Hash + Send + 'static,
        F: Fn(Vec<K>, Consistency) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<HashMap<K, L, S>, E>> + Send + 'static,
        S: BuildHasher + Send + 'static,
        L: LoadedPart<T> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let call = move |keys: Vec<K>, consistency| {
            let load = loader(keys, consistency);
            let answers = async move {
                let mut found = load.await.map_err(Into::into)?;
                let take = move |key: &K| match found.remove(key) {
                    Some(part) => part.into_part(),
                    None => Ok(Loaded::new(None)),
                };
                Ok(Box::new(take) as Answers<K, T>)
            };
            Box::pin(answers) as CallFuture<K, T>
        };
        Self { call: Arc::new(call), told: true, max_batch: Self::DEFAULT_MAX_BATCH, window: Self::DEFAULT_WINDOW }
    }

    /// Takes a loader of one key, for origins that have no call for many: it is called for each key by itself, and
    /// keys wait for no others. It returns for its key what a map may hold for one ([`LoadedPart`]).
    ///
    /// ```
    /// use ringtide::BatchLoader;
    ///
    /// let names = BatchLoader::each(|pk: u64| async move { Ok::<_, std::io::Error>(Some(format!("tea {pk}"))) });
    /// # let _: BatchLoader<u64, String> = names;
    /// ```
    pub fn each<L, F, Fut>(loader: F) -> Self
    where
        K: Clone + Eq + Hash + Send + 'static,
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = L> + Send + 'static,
        L: LoadedPart<T> + Send + 'static,
    {
        let of_all = move |keys: Vec<K>| {
            let loads: Vec<_> = keys.iter().cloned().map(&loader).collect();
            async move { Ok::<_, Infallible>(keys.into_iter().zip(join_all(loads).await).collect::<HashMap<_, _>>()) }
        };
        Self { max_batch: 1, window: Duration::ZERO, ..Self::new(of_all) }
    }

    /// Chooses how many keys a call may have, at least 1.
    pub fn max_batch(mut self, keys: usize) -> Self {
        self.max_batch = keys.max(1);
        self
    }

    /// Chooses how long a call waits for other reads' keys; zero for not at all, at most half of `load_timeout`. Timers
    /// tick in ms.
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    pub(super) fn call(&self, keys: Vec<K>, consistency: Consistency) -> CallFuture<K, T> {
        (self.call)(keys, consistency)
    }
}

impl<K, T> Clone for BatchLoader<K, T> {
    fn clone(&self) -> Self {
        Self { call: self.call.clone(), ..*self }
    }
}

impl<K, T> fmt::Debug for BatchLoader<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchLoader").field("max_batch", &self.max_batch).field("window", &self.window).finish()
    }
}

/// What a batch loader may return for a key: the value, `Option` of it, [`Loaded`] of it for more than the value, or a
/// `Result` of one of these, whose error fails this key alone.
pub trait LoadedPart<T> {
    /// Makes it a [`Loaded`].
    ///
    /// # Errors
    /// What the loader returned for this key.
    fn into_part(self) -> Result<Loaded<T>, BoxError>;
}

impl<T> LoadedPart<T> for T {
    fn into_part(self) -> Result<Loaded<T>, BoxError> {
        Ok(Loaded::new(Some(self)))
    }
}

impl<T> LoadedPart<T> for Option<T> {
    fn into_part(self) -> Result<Loaded<T>, BoxError> {
        Ok(Loaded::new(self))
    }
}

impl<T> LoadedPart<T> for Loaded<T> {
    fn into_part(self) -> Result<Loaded<T>, BoxError> {
        Ok(self)
    }
}

impl<T, E: Into<BoxError>> LoadedPart<T> for Result<T, E> {
    fn into_part(self) -> Result<Loaded<T>, BoxError> {
        self.map(|value| Loaded::new(Some(value))).map_err(Into::into)
    }
}

impl<T, E: Into<BoxError>> LoadedPart<T> for Result<Option<T>, E> {
    fn into_part(self) -> Result<Loaded<T>, BoxError> {
        self.map(Loaded::new).map_err(Into::into)
    }
}

impl<T, E: Into<BoxError>> LoadedPart<T> for Result<Loaded<T>, E> {
    fn into_part(self) -> Result<Loaded<T>, BoxError> {
        self.map_err(Into::into)
    }
}
