//! What fails every key of a call, or one of them.

use std::time::Duration;

use ringtide_core::key::CacheKey;

use crate::error::{BoxError, Error, SharedError};

/// Why a batch loader has no answer for a key; cheap to clone, for all keys of a call.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Returned(SharedError),
    #[error("the batch loader panicked: {0}")]
    Panicked(String),
    #[error("the batch loader took longer than {0:?}")]
    TimedOut(Duration),
    #[error("`reader.{0}` loads run already")]
    Overloaded(&'static str),
    #[error("the cache was closed")]
    Closed,
}

impl Failure {
    pub(super) fn returned(source: BoxError) -> Self {
        Self::Returned(source.into())
    }

    /// The error of a read whose key this is.
    pub(crate) fn of(self, key: CacheKey) -> Error {
        match self {
            Failure::Returned(source) => Error::LoadFailed { key, source },
            Failure::Panicked(message) => Error::LoadPanicked { key, message },
            Failure::TimedOut(after) => Error::LoadTimedOut { key, after },
            Failure::Overloaded(limit) => Error::Overloaded { key, limit },
            Failure::Closed => Error::Closed { key },
        }
    }
}
