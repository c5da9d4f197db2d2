//! Reads of values that all readers of this process share.

use std::sync::Arc;

use ringtide_core::key::CacheKey;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cache::Inner;
use crate::error::{BoxError, Error};
use crate::key::SpaceKey;
use crate::loader::{IntoLoaded, Loader};
use crate::lookup::Found;
use crate::observe::Watched;
use crate::options::ReadOptions;
use crate::space::{Space, SpaceState};

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Space<T> {
    /// As [`Space::get_or_load`], for key spaces that are asked first in this process's memory
    /// ([`LocalTier::Bounded`](crate::LocalTier::Bounded), [`LocalTier::Tracked`](crate::LocalTier::Tracked)): the value
    /// is decoded once and shared by all reads that find it there.
    ///
    /// A read that is answered from this process's memory allocates nothing, locks nothing that other keys wait for, and
    /// is ready at the first poll. Where the key is rendered once and reused, it does little more than one look-up:
    ///
    /// ```
    /// # async fn example(products: ringtide::Space<String>) -> Result<(), ringtide::Error> {
    /// let key = products.key(42)?;
    /// for _ in 0..1000 {
    ///     let tea = products.get_or_load_shared(&key, || async { Ok::<_, std::io::Error>(Some("tea".to_owned())) }).await?;
    ///     assert_eq!(tea.as_deref().map(String::as_str), Some("tea"));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error`], shared by everybody who waited for the same load.
    pub async fn get_or_load_shared<'a, L, E, F, Fut>(
        &self,
        key: impl SpaceKey<'a>,
        loader: F,
    ) -> Result<Option<Arc<T>>, Error>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: IntoLoaded<T> + 'static,
        E: Into<BoxError> + 'static,
    {
        let key = key.of_space(&self.state.settings.template)?;
        let inner = &self.cache.inner;
        let loader = || Loader::new(false, move |_| loader());
        if let Some(watched) = inner.watcher.begin(&self.state.settings.name, &key) {
            return Box::pin(inner.read_shared_watched::<T>(
                key.into_owned(),
                &self.state,
                &self.options,
                loader,
                watched,
            ))
            .await;
        }
        match inner.local_shared::<T>(&key, &self.state, &self.options) {
            Some(Found { value, refresh_before_ms: 0, .. }) => Ok(value),
            Some(Found { value, refresh_before_ms, .. }) => {
                let key = key.into_owned();
                inner.refresh_behind(key, &self.state, &self.options, loader(), refresh_before_ms);
                Ok(value)
            }
            // Boxed, so that the future of a hit stays small.
            None => {
                let read = Box::pin(inner.read_elsewhere::<T>(key.into_owned(), &self.state, &self.options, loader));
                Ok(read.await?.value.map(Arc::new))
            }
        }
    }
}

impl Inner {
    /// As a shared read, for somebody who watches it.
    async fn read_shared_watched<T: DeserializeOwned + Send + Sync + 'static>(
        self: &Arc<Self>,
        key: CacheKey,
        space: &Arc<SpaceState>,
        options: &ReadOptions,
        loader: impl FnOnce() -> Loader,
        watched: Watched<'_>,
    ) -> Result<Option<Arc<T>>, Error> {
        let read = async {
            let Some(found) = self.local_shared::<T>(&key, space, options) else {
                let Found { value, refresh_before_ms, soft_expiry_ms, status } =
                    self.read_elsewhere::<T>(key, space, options, loader).await?;
                return Ok(Found { value: value.map(Arc::new), refresh_before_ms, soft_expiry_ms, status });
            };
            if found.refresh_before_ms != 0 {
                self.refresh_behind(key, space, options, loader(), found.refresh_before_ms);
            }
            Ok(found)
        };
        watched.over(read).await
    }
}
