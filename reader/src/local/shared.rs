//! Reads of values that all readers of this process share.

use std::borrow::Cow;
use std::sync::Arc;

use ringtide_core::key::CacheKey;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cache::Inner;
use crate::error::{BoxError, Error};
use crate::key::SpaceKey;
use crate::loader::{Consistency, IntoLoaded, Loader};
use crate::lookup::Found;
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
        self.read_shared(key, || Loader::new(false, move |_| loader())).await
    }

    /// As [`Space::get_or_load_shared`], with a loader that is told how new its load has to be; see
    /// [`Space::get_or_load_with`].
    ///
    /// # Errors
    /// [`Error`], shared by everybody who waited for the same load.
    pub async fn get_or_load_shared_with<'a, L, E, F, Fut>(
        &self,
        key: impl SpaceKey<'a>,
        loader: F,
    ) -> Result<Option<Arc<T>>, Error>
    where
        F: Fn(Consistency) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: IntoLoaded<T> + 'static,
        E: Into<BoxError> + 'static,
    {
        self.read_shared(key, || Loader::new(true, loader)).await
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> Space<T> {
    /// Reads a value that all readers share; `loader` is only made where it is needed.
    #[inline]
    pub(crate) async fn read_shared<'a>(
        &self,
        key: impl SpaceKey<'a>,
        loader: impl FnOnce() -> Loader + Send,
    ) -> Result<Option<Arc<T>>, Error> {
        let key = key.of_space(&self.state.settings.template)?;
        let inner = &self.cache.inner;
        match inner.watcher.begin(&self.state.settings.name, &key) {
            None => Ok(inner.read_shared(key, &self.state, &self.options, loader).await?.value),
            Some(watched) => {
                Ok(watched.over(Box::pin(inner.read_shared(key, &self.state, &self.options, loader))).await?.value)
            }
        }
    }
}

impl Inner {
    #[inline]
    async fn read_shared<T: DeserializeOwned + Send + Sync + 'static>(
        self: &Arc<Self>,
        key: Cow<'_, CacheKey>,
        space: &Arc<SpaceState>,
        options: &ReadOptions,
        loader: impl FnOnce() -> Loader + Send,
    ) -> Result<Found<Arc<T>>, Error> {
        if let Some(found) = self.local_shared(&key, space, options) {
            return Ok(self.serve(found, || key.into_owned(), space, options, loader));
        }
        // Boxed, so that the future of a hit stays small.
        let read = Box::pin(self.read_elsewhere(key.into_owned(), space, options, loader));
        Ok(read.await?.map(Arc::new))
    }
}
