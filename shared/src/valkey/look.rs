//! Looking at what is kept under a key, for whoever asks why a reader sees what it sees.

use std::time::Duration;

use redis::Value;

use super::{Reach, Shard, ShardError};
use crate::entry::{Header, NotAnEntry};
use crate::key::CacheKey;

/// What a ring shard keeps under one key; never the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The entry, if there is one.
    pub entry: Option<LookedAt>,
    /// When the key's lock ends, where a lease is held.
    pub lock: Option<Expiry>,
}

/// An entry that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookedAt {
    /// Its header, or why it has none.
    pub header: Result<Header, NotAnEntry>,
    /// Its length in bytes, header included.
    pub bytes: usize,
    /// When it ends.
    pub expiry: Expiry,
}

/// When a name ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// After this time.
    After(Duration),
    /// Never.
    Never,
    /// This client may not ask (`PTTL`).
    Unknown,
}

impl Shard {
    /// Looks at a key's entry and lock, one command after another, so that either may have changed in between.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn look(&self, key: &CacheKey) -> Result<Look, ShardError> {
        let bytes = self.get(key).await?;
        let entry = match (bytes, self.expiry(key, key.as_str()).await?) {
            (Some(bytes), expiry) => {
                // It may have ended since it was read.
                let expiry = expiry.unwrap_or(Expiry::After(Duration::ZERO));
                Some(LookedAt { header: Header::parse(&bytes), bytes: bytes.len(), expiry })
            }
            (None, _) => None,
        };
        // Without the permission there is no telling a lock that is there from one that is not.
        let lock = self.expiry(key, &key.lock()).await?.filter(|expiry| *expiry != Expiry::Unknown);
        Ok(Look { entry, lock })
    }

    /// When a name ends that lies where `key` does; `None` where it is not there.
    #[cfg_attr(not(feature = "cluster"), allow(unused_variables))]
    async fn expiry(&self, key: &CacheKey, name: &str) -> Result<Option<Expiry>, ShardError> {
        let mut command = redis::cmd("PTTL");
        command.arg(name);
        let answer = match &*self.reach {
            Reach::One(links) => links.send(&command).await?,
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => {
                Box::pin(cluster.send(super::cluster::slot_of(key.as_bytes()), &command, None)).await?
            }
            #[cfg(feature = "memory")]
            Reach::Memory(server) => server.ask(&command)?,
        };
        match answer {
            Value::Int(-2) => Ok(None),
            Value::Int(-1) => Ok(Some(Expiry::Never)),
            Value::Int(ms) => Ok(Some(Expiry::After(Duration::from_millis(u64::try_from(ms).unwrap_or_default())))),
            Value::ServerError(error) if error.code() == "NOPERM" => Ok(Some(Expiry::Unknown)),
            Value::ServerError(error) => Err(self.rejected(&error)),
            _ => Err(ShardError::unexpected(self.name(), "PTTL")),
        }
    }
}
