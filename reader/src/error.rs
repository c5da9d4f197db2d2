//! What a read can end with besides a value.

use std::sync::Arc;
use std::time::Duration;

use ringtide_core::key::{CacheKey, KeyError};

/// An error of any loader.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

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
        source: Arc<dyn std::error::Error + Send + Sync>,
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
    #[error("loading {key} took longer than {after:?}; make the loader faster or raise `reader.load_timeout`")]
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
    /// The loader of another process failed, and so did the one that was tried after it.
    #[error("loading {key} failed in another process: {reason}")]
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
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// What was just loaded is not read back as the type asked for.
    #[error("the value loaded for {key} is not read back: {source}; `Serialize` and `Deserialize` have to agree")]
    Decode {
        /// The key.
        key: CacheKey,
        /// Why.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The read's own deadline passed; the load goes on, and is cached.
    #[error("reading {key} took longer than {after:?}; give the read more time, or let it serve stale values")]
    DeadlineExceeded {
        /// The key.
        key: CacheKey,
        /// How long the read was given.
        after: Duration,
    },
    /// The cache was closed while this read was waiting.
    #[error("the cache was closed while {key} was being read; keep a clone of it as long as there are reads")]
    Closed {
        /// The key.
        key: CacheKey,
    },
}
