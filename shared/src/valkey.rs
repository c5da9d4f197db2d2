//! Connections to ring shards and every script: all that is said to a Valkey server.
//!
//! A [`Shard`] is a handle for one ring shard. Readers look up, lease and fill through it; invalidators apply batches
//! of commands. Everything a script needs is in one place, `valkey/scripts`, and every script names all its keys.
//!
//! # Formats
//! An entry is what [`crate::entry`] says. Versions are 28 bytes, seven unsigned 32-bit big-endian numbers, and scripts
//! compare them number by number: comparing strings would follow the server's locale.
//!
//! A lock, under [`CacheKey::lock`], is a string that expires:
//!
//! | offset | bytes | content |
//! | --- | --- | --- |
//! | 0 | 4 | `RTL` and the format's version, 1 |
//! | 4 | 16 | the holder's token, new for every attempt |
//! | 20 | 28 | the floor: the lowest version that its fill may store; zeros for none |
//! | 48 | … | the waiters' inboxes, each one byte of length and the name; at most 64 KiB in all |
//!
//! What does not begin so is foreign: a lease waits for it to expire, an invalidation unlinks it.
//!
//! A notice, published to an inbox, is one byte of kind, the lease's token, the key's length in two bytes big-endian, the key, and the
//! rest: `F` (filled) carries the whole entry where that is not longer than the filler's limit, `V` (voided) nothing,
//! `R` (released) why, at most 200 bytes of UTF-8.
//!
//! # Permissions
//! An ACL user of readers and invalidators needs `get`, `mget`, `set`, `getrange`, `setrange`, `strlen`, `append`,
//! `exists`, `unlink`, `pexpire`, `pttl`, `time`, `evalsha`, `eval`, `script|load`, `publish` and `subscribe` for the
//! readers' inboxes, and `ping`; `scan`, `info` and `dbsize` for flushes and audits.
//!
//! # Time-outs
//! A command that timed out may be carried out later. Invalidations, refreshes, fills and releases may be carried out
//! twice, or late, without harm. A lease must not be asked for again with the same token: the first call, carried out
//! after an invalidation, would let the fill of a load from before it pass. Take a new token for every call.

mod apply;
mod connect;
mod credentials;
mod dial;
mod error;
mod flush;
mod inbox;
mod lease;
mod link;
mod notice;
mod reply;
mod script;
mod token;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value};

pub use apply::{Applied, BATCH};
pub use connect::ConnectError;
pub use credentials::{Credentials, Login, NoLogin};
pub use error::ShardError;
pub use inbox::{Inbox, InboxEvent};
pub use lease::{Fill, FillReply, LeaseReply, LeaseRequest, Release};
pub use notice::Notice;
pub use token::Token;

use crate::config;
use crate::key::CacheKey;
use crate::metrics::{FOREIGN_VALUES, REASON};
use crate::ring::{ShardName, ShardSpec};
use link::Links;

/// A handle for one ring shard, cheap to clone; its connections end with the last handle.
#[derive(Clone)]
pub struct Shard {
    links: Arc<Links>,
}

impl Shard {
    /// Checks the address and the TLS files, and begins to connect in the background; must be called in a Tokio
    /// runtime.
    ///
    /// # Errors
    /// [`ConnectError`] for what no retry can mend. A server that is down or refuses the password is told by
    /// [`Shard::ready`].
    pub fn connect(spec: &ShardSpec, options: &config::Valkey) -> Result<Self, ConnectError> {
        let client = connect::client(spec, options)?;
        Ok(Self { links: Arc::new(Links::new(spec.name.clone(), client, options)) })
    }

    /// The shard's name.
    #[must_use]
    pub fn name(&self) -> &ShardName {
        self.links.name()
    }

    /// Waits for a live connection, for at most `within`, and less where the server refuses this client for good.
    ///
    /// # Errors
    /// [`ShardError::Unavailable`] with the last reason: refused, a wrong password, TLS.
    pub async fn ready(&self, within: Duration) -> Result<(), ShardError> {
        self.links.ready(within).await
    }

    /// Looks an entry up with one plain `GET`; `None` also for a value that is no string.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn get(&self, key: &CacheKey) -> Result<Option<Bytes>, ShardError> {
        let mut command = Cmd::with_capacity(2, 3 + key.as_bytes().len());
        command.arg("GET").arg(key.as_bytes());
        match self.links.send(&command).await? {
            Value::BulkString(bytes) => Ok(Some(bytes.into())),
            Value::Nil => Ok(None),
            Value::ServerError(error) if error.code() == "WRONGTYPE" => {
                metrics::counter!(FOREIGN_VALUES, REASON => "type").increment(1);
                Ok(None)
            }
            Value::ServerError(error) => Err(self.links.rejected(&error)),
            _ => Err(ShardError::unexpected(self.name(), "GET")),
        }
    }

    /// Looks entries up with one `MGET`, in the order of `keys`; `None` also for values that are no strings.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<Bytes>>, ShardError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("MGET");
        for key in keys {
            command.arg(key.as_bytes());
        }
        let unexpected = || ShardError::unexpected(self.name(), "MGET");
        let Value::Array(values) = self.links.ask(&command).await? else { return Err(unexpected()) };
        if values.len() != keys.len() {
            return Err(unexpected());
        }
        let read = |value| match value {
            Value::BulkString(bytes) => Ok(Some(bytes.into())),
            Value::Nil => Ok(None),
            _ => Err(unexpected()),
        };
        values.into_iter().map(read).collect()
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shard").field(self.name()).finish()
    }
}
