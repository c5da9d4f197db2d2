//! A key space with its loader.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::answers::Batch;
use super::gathering::Gathering;
use super::loader::BatchLoader;
use super::read;
use crate::error::Error;
use crate::key::SpaceKey;
use crate::lookup::Found;
use crate::observe::Read;
use crate::options::ReadOptions;
use crate::space::Space;

/// A key space that knows how its items are loaded; cheap to clone, and clones share the loader's calls.
///
/// ```
/// # async fn example(products: ringtide::Space<String>) -> Result<(), ringtide::Error> {
/// use std::collections::HashMap;
/// use ringtide::BatchLoader;
///
/// let products = products.with_loader(BatchLoader::new(|pks: Vec<u64>| async move {
///     let found = pks.into_iter().map(|pk| (pk, format!("tea {pk}")));
///     Ok::<_, std::io::Error>(found.collect::<HashMap<u64, String>>())
/// }));
/// let tea = products.get(42).await?;
/// let teas = products.get_many(1..=9).await.into_values()?;
/// # Ok(())
/// # }
/// ```
pub struct LoadingSpace<K, T> {
    space: Space<T>,
    gathering: Arc<Gathering<K, T>>,
}

impl<K, T> LoadingSpace<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    for<'k> &'k K: SpaceKey<'k>,
    T: Serialize + DeserializeOwned + Send + 'static,
{
    pub(super) fn new(space: Space<T>, loader: BatchLoader<K, T>) -> Self {
        Self { space, gathering: Gathering::new(loader) }
    }

    /// Reads the entry of a key, or loads and caches it, together with what other reads load at this time; otherwise
    /// as [`Space::get_or_load`].
    ///
    /// # Errors
    /// [`Error`], shared by everybody who waited for the same load of this key.
    pub async fn get(&self, key: K) -> Result<Option<T>, Error> {
        Ok(self.find(key).await?.value)
    }

    async fn find(&self, key: K) -> Result<Found<T>, Error> {
        let Space { cache, state, options, .. } = &self.space;
        let rendered = self.space.key(&key)?;
        let loader = || self.gathering.loader(&cache.inner, state, key, None);
        cache.inner.read(rendered, state, options, loader).await
    }

    /// As [`LoadingSpace::get`], with a value that all readers of this process share; see [`Space::get_or_load_shared`].
    ///
    /// # Errors
    /// [`Error`], shared by everybody who waited for the same load of this key.
    pub async fn get_shared(&self, key: K) -> Result<Option<Arc<T>>, Error>
    where
        T: Sync,
    {
        let Space { cache, state, .. } = &self.space;
        let rendered = self.space.key(&key)?;
        self.space.read_shared(rendered, || self.gathering.loader(&cache.inner, state, key, None)).await
    }

    /// As [`LoadingSpace::get`], for those who want to know whether what answers is fresh; see [`Space::read`].
    ///
    /// # Errors
    /// [`Error`], shared by everybody who waited for the same load of this key.
    pub async fn read(&self, key: K) -> Result<Read<T>, Error> {
        Ok(self.find(key).await?.into())
    }

    /// Reads the entries of many keys, and loads and caches those that are missing; otherwise as [`Space::get_many`].
    pub async fn get_many(&self, keys: impl IntoIterator<Item = K>) -> Batch<K, T> {
        let keys: Vec<K> = keys.into_iter().collect();
        read::read_many(&self.space, keys, &self.gathering).await
    }

    /// The same key space and loader, read with other settings, which stand in place of those before; see
    /// [`Space::options`].
    #[must_use]
    pub fn with(&self, options: ReadOptions) -> Self {
        Self { space: self.space.with(options), gathering: self.gathering.clone() }
    }

    /// The key space: to invalidate its keys, and to peek at them.
    #[must_use]
    pub fn space(&self) -> &Space<T> {
        &self.space
    }
}

impl<K, T> Clone for LoadingSpace<K, T> {
    fn clone(&self) -> Self {
        Self { space: self.space.clone(), gathering: self.gathering.clone() }
    }
}

impl<K, T> fmt::Debug for LoadingSpace<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LoadingSpace").field(&self.space).finish()
    }
}
