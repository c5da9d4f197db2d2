//! What a read can end with besides a value.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use ringtide_core::key::{CacheKey, KeyError};

/// An error of any loader.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An error that everybody shares who waited for one load; it can be downcast to the type that the loader returned, see
/// [`Error::loader_error`].
#[derive(Clone)]
pub struct SharedError(Arc<dyn std::error::Error + Send + Sync>);

impl From<BoxError> for SharedError {
    fn from(error: BoxError) -> Self {
        Self(Arc::from(error))
    }
}

impl Deref for SharedError {
    type Target = dyn std::error::Error + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Why a read has no answer. Cheap to clone: everybody who waited for one load gets the same error.
///
/// A ring shard that is down, a value that somebody else wrote and a lost lease are no errors: the loader answers.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No key space has this name.
    #[error("there is no key space {name:?}; define it on the builder or in the file, or use one of: {known}")]
    UnknownSpace {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The loader returned an error, shared by everybody who waited for it; nothing was cached.
    #[error("loading {key} failed: {source}")]
    LoadFailed {
        /// The key.
        key: CacheKey,
        /// What the loader returned.
        source: SharedError,
    },
    /// The loader panicked; nothing was cached.
    #[error("loading {key} panicked: {message}")]
    LoadPanicked {
        /// The key.
        key: CacheKey,
        /// The panic's message.
        message: String,
    },
    /// The loader did not return in time and was aborted.
    #[error(
        "loading {key} took longer than {after:?}; make the loader faster or raise `load_timeout` of its key space or under `[reader]`"
    )]
    LoadTimedOut {
        /// The key.
        key: CacheKey,
        /// How long it was given.
        after: Duration,
    },
    /// The load could not begin in time, because too many others were under way.
    #[error("too many loads are under way for {key} to be loaded; raise `reader.{limit}`, or make loads faster")]
    Overloaded {
        /// The key.
        key: CacheKey,
        /// The setting that limits them.
        limit: &'static str,
    },
    /// The loader of another process failed, and there was neither the time nor the budget (`reader.retry_budget`) to try
    /// once more, or that failed too.
    #[error("loading {key} failed in another process: {reason}; its log and metrics tell more")]
    LoadFailedElsewhere {
        /// The key.
        key: CacheKey,
        /// What that process told.
        reason: String,
    },
    /// The loaded value cannot be written by its key space's codec.
    #[error("the value loaded for {key} cannot be encoded: {source}; check its `Serialize` and the key space's codec")]
    Encode {
        /// The key.
        key: CacheKey,
        /// Why.
        source: SharedError,
    },
    /// What was just loaded is not read back as the type asked for.
    #[error("the value loaded for {key} is not read back: {source}; `Serialize` and `Deserialize` have to agree")]
    Decode {
        /// The key.
        key: CacheKey,
        /// Why.
        source: SharedError,
    },
    /// The read's own deadline passed; the load goes on, and is cached.
    #[error("reading {key} took longer than {after:?}; give the read more time, or let it serve stale values")]
    DeadlineExceeded {
        /// The key.
        key: CacheKey,
        /// How long the read was given.
        after: Duration,
    },
    /// The key's ring shard does not answer, and the read was not to load.
    #[error("the ring shard of {key} does not answer: {source}; load it, or try again")]
    Unavailable {
        /// The key.
        key: CacheKey,
        /// Why.
        source: SharedError,
    },
    /// The cache was closed while this read was waiting.
    #[error("the cache was closed while {key} was being read; call `Cache::close` after the last read")]
    Closed {
        /// The key.
        key: CacheKey,
    },
}

impl Error {
    /// What the loader returned, where it failed with an `E`, or with an error that an `E` is a source of: the application's own
    /// error, whoever's load it was. What an `anyhow::Error` was made of is hidden by it, unless it was given a context.
    ///
    /// ```
    /// # async fn example(products: ringtide::Space<String>) {
    /// let tea = products.get_or_load(42, || async { Err::<Option<String>, _>(std::io::Error::other("no")) }).await;
    /// if let Err(error) = tea
    ///     && let Some(io) = error.loader_error::<std::io::Error>()
    /// {
    ///     eprintln!("the origin failed: {:?}", io.kind());
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn loader_error<E: std::error::Error + 'static>(&self) -> Option<&E> {
        match self {
            Self::LoadFailed { source, .. } => {
                let first: &(dyn std::error::Error + 'static) = &**source;
                std::iter::successors(Some(first), |&error| error.source()).find_map(|error| error.downcast_ref())
            }
            _ => None,
        }
    }

    /// The key that was read; `None` where there was none.
    #[must_use]
    pub fn key(&self) -> Option<&CacheKey> {
        match self {
            Self::Key(_) | Self::UnknownSpace { .. } => None,
            Self::LoadFailed { key, .. }
            | Self::LoadPanicked { key, .. }
            | Self::LoadTimedOut { key, .. }
            | Self::Overloaded { key, .. }
            | Self::LoadFailedElsewhere { key, .. }
            | Self::Encode { key, .. }
            | Self::Decode { key, .. }
            | Self::DeadlineExceeded { key, .. }
            | Self::Unavailable { key, .. }
            | Self::Closed { key } => Some(key),
        }
    }
}
