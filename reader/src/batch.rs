//! Reading many keys at once: one `MGET` a ring shard, and one call of the loader for all that is missing.
//!
//! ```text
//! partition -> read -> (a flight a key) -> gathering -> loader
//! ```
//! Every missing key has its own flight, lease and fill, as a single read has. Only the load is shared: flights that
//! come to load meet in a gathering, which calls the loader once nobody else is expected.

mod answers;
mod gathering;
mod loader;
mod loading;
mod partition;
mod read;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use answers::Batch;
pub(crate) use gathering::Failure;
pub use loader::{BatchLoader, LoadedPart};
pub use loading::LoadingSpace;

use crate::error::BoxError;
use crate::key::SpaceKey;
use crate::space::Space;
use gathering::Gathering;

impl<T: Serialize + DeserializeOwned + Send + 'static> Space<T> {
    /// Reads the entries of many keys, and loads and caches those that are missing with one call of the loader.
    ///
    /// One `MGET` goes to each ring shard that owns some of the keys. What is missing is leased together; the loader
    /// is then called once with the keys to load here, in a task of its own, and returns a map: keys that are not in
    /// it do not exist, which is cached too. What the map may hold for a key is told by [`LoadedPart`]. A loader that
    /// fails fails the keys it was called for and no others; the same holds for a ring shard, whose keys are loaded
    /// without it. Keys may repeat; they are loaded once.
    ///
    /// The loader is called more than once where some leases are more than a few ms late, and for keys that other
    /// reads are loading and whose answer is older than this read.
    ///
    /// ```
    /// # async fn example(products: ringtide::Space<String>) -> Result<(), ringtide::Error> {
    /// use std::collections::HashMap;
    ///
    /// let load = |pks: Vec<u64>| async move {
    ///     let found = pks.into_iter().map(|pk| (pk, format!("tea {pk}")));
    ///     Ok::<_, std::io::Error>(found.collect::<HashMap<u64, String>>())
    /// };
    /// for (pk, name) in products.get_many([42, 43], load).await {
    ///     println!("{pk}: {:?}", name?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_many<K, L, S, E, F, Fut>(&self, keys: impl IntoIterator<Item = K>, loader: F) -> Batch<K, T>
    where
        K: Clone + Eq + Hash + Send + Sync + 'static,
        for<'k> &'k K: SpaceKey<'k>,
        F: Fn(Vec<K>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<HashMap<K, L, S>, E>> + Send + 'static,
        S: BuildHasher + Send + 'static,
        L: LoadedPart<T> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let keys: Vec<K> = keys.into_iter().collect();
        let loader = BatchLoader::new(loader).max_batch(usize::MAX).window(Duration::ZERO);
        read::read_many(self, keys, &Gathering::new(loader)).await
    }

    /// Binds a batch loader to the key space, so that a read names nothing but its key.
    pub fn with_loader<K>(&self, loader: BatchLoader<K, T>) -> LoadingSpace<K, T>
    where
        K: Clone + Eq + Hash + Send + Sync + 'static,
        for<'k> &'k K: SpaceKey<'k>,
    {
        LoadingSpace::new(self.clone(), loader)
    }
}
