//! Looking up: a hit is one plain `GET`; whatever is no usable entry is a miss that joins the key's flight.

use std::any::TypeId;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use ringtide_core::entry::{Codec, Compression, HEADER_LEN, Header, NotAnEntry, State};
use ringtide_core::key::CacheKey;
use ringtide_core::valkey::ShardError;
use serde::de::{DeserializeOwned, Error as _};

use crate::cache::Inner;
use crate::counters::MissReason;
use crate::error::Error;
use crate::fill::entry_of;
use crate::flight::Outcome;
use crate::lease::{self, Plan};
use crate::load;
use crate::loader::{Consistency, Loader};
use crate::space::SpaceState;

/// Why a look-up has no value.
pub(crate) enum Miss {
    Absent,
    NotAnEntry(NotAnEntry),
    /// A tombstone, or a value kept for serving stale.
    Invalidated,
    /// An entry that is not read as the type asked for.
    Undecodable {
        entry: Bytes,
        source: serde_json::Error,
    },
    Down(ShardError),
}

impl Miss {
    fn reason(&self) -> MissReason {
        match self {
            Miss::Absent => MissReason::Absent,
            Miss::NotAnEntry(NotAnEntry::Foreign) => MissReason::Foreign,
            Miss::NotAnEntry(NotAnEntry::UnknownFormat) => MissReason::UnknownFormat,
            Miss::NotAnEntry(NotAnEntry::Damaged) => MissReason::Damaged,
            Miss::Invalidated => MissReason::Invalidated,
            Miss::Undecodable { .. } => MissReason::Undecodable,
            Miss::Down(_) => MissReason::Unavailable,
        }
    }
}

impl Inner {
    /// Looks a key up; a hit does nothing besides the `GET`, reading the payload and one counter.
    #[inline]
    pub(crate) async fn look<T: DeserializeOwned>(
        &self,
        key: &CacheKey,
        space: &SpaceState,
    ) -> Result<Option<T>, Miss> {
        let entry = match self.shard(key).shard.get(key).await {
            Ok(Some(entry)) => entry,
            Ok(None) => return Err(Miss::Absent),
            Err(error) => return Err(Miss::Down(error)),
        };
        let value = decode(&entry)?;
        match value {
            Some(_) => space.counters.hits.increment(1),
            None => space.counters.negatives.increment(1),
        }
        Ok(value)
    }

    /// Answers a read that missed, from the key's flight.
    ///
    /// A flight's answer that may be older than this read is not taken; the read looks up again and joins the next
    /// flight, which began after it. So a key that is invalidated all the time cannot starve its readers.
    pub(crate) async fn answer_miss<T: DeserializeOwned + 'static>(
        self: &Arc<Self>,
        key: CacheKey,
        space: &Arc<SpaceState>,
        loader: Loader,
        mut miss: Miss,
    ) -> Result<Option<T>, Error> {
        let since = Instant::now();
        for attempt in 1..=self.settings.max_attempts {
            tracing::debug!(key = %key, reason = ?miss.reason(), attempt, "cache miss");
            space.counters.misses.add(miss.reason());
            let (seat, flight) = self.flights.join(&key, since);
            match flight {
                Some(flight) => {
                    let (down, rejected) = match miss {
                        Miss::Down(error) => (Some(error), None),
                        Miss::Undecodable { entry, .. } => (None, Some(entry)),
                        Miss::Absent | Miss::NotAnEntry(_) | Miss::Invalidated => (None, None),
                    };
                    let plan = Plan { key: key.clone(), space: space.clone(), loader: loader.clone(), rejected };
                    self.spawn(lease::fly(self.clone(), plan, flight, down));
                }
                None => space.counters.joined.increment(1),
            }
            match seat.outcome().await {
                Some(Outcome::Answer { entry, loaded }) => match decode(&entry) {
                    Ok(value) => return Ok(value),
                    Err(Miss::Undecodable { source, .. }) if loaded == Some(TypeId::of::<T>()) => {
                        return Err(undecodable(key, source));
                    }
                    Err(next) => {
                        miss = next;
                        continue;
                    }
                },
                Some(Outcome::Failed(error)) => return Err(error),
                Some(Outcome::Retry) => {}
                None => return Err(Error::Closed { key }),
            }
            miss = match self.look(&key, space).await {
                Ok(value) => return Ok(value),
                Err(next) => next,
            };
        }
        space.counters.uncached.increment(1);
        let plan = Plan { key, space: space.clone(), loader, rejected: None };
        let (_, loaded) = load::unleased(self, &plan, Consistency::Strong).await?;
        match decode(&entry_of(&loaded)) {
            Ok(value) => Ok(value),
            Err(Miss::Undecodable { source, .. }) => Err(undecodable(plan.key, source)),
            // An entry that was just written is read as one.
            Err(Miss::Absent | Miss::NotAnEntry(_) | Miss::Invalidated | Miss::Down(_)) => Ok(None),
        }
    }
}

fn undecodable(key: CacheKey, source: serde_json::Error) -> Error {
    Error::Decode { key, source: Arc::new(source) }
}

/// Reads an entry's value; `None` for a negative entry.
#[inline]
pub(crate) fn decode<T: DeserializeOwned>(entry: &Bytes) -> Result<Option<T>, Miss> {
    let header = Header::parse(entry).map_err(Miss::NotAnEntry)?;
    let value = match (header.state, header.codec, header.compression) {
        (State::Negative, _, _) => return Ok(None),
        (State::Stale | State::Tombstone, _, _) => return Err(Miss::Invalidated),
        (State::Value, Codec::Json, Compression::None) => serde_json::from_slice(&entry[HEADER_LEN..]),
        (State::Value, codec, compression) => {
            Err(serde_json::Error::custom(format_args!("codec {codec:?}, compression {compression:?}")))
        }
    };
    value.map(Some).map_err(|source| Miss::Undecodable { entry: entry.clone(), source })
}
