//! Leases: taking, extending, filling and releasing them.

use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value};

use super::reply::Fields;
use super::script::{self, Script};
use super::{Shard, ShardError, Token};
use crate::clock::CENTURY;
use crate::key::CacheKey;
use crate::version::Version;

/// What asks for the right to fill an entry.
#[derive(Clone, Copy, Debug)]
pub struct LeaseRequest<'a> {
    /// The attempt's token; never one that was sent before, not even after a time-out.
    pub token: Token,
    /// How long the lease lives without being extended.
    pub ttl: Duration,
    /// The inbox to tell when the lease ends, where another one holds it; at most 255 bytes.
    pub inbox: Option<&'a str>,
    /// Entries whose soft expiry is not after this time (unix ms) are taken as stale; 0 for none.
    pub refresh_before_ms: u64,
}

/// The answer to a [`LeaseRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseReply {
    /// The entry is there and fresh: the whole entry.
    Hit(Bytes),
    /// The lease is taken.
    Granted {
        /// The lowest version that its fill may store.
        floor: Version,
        /// The entry that is there and not fresh, for serving stale.
        stale: Option<Bytes>,
    },
    /// Another attempt holds the lease.
    Wait {
        /// How long that lease still lives unless it is extended.
        remaining: Duration,
        /// Whether the inbox will be told; never where none was given.
        registered: bool,
        /// The token under which it is held, which its notice names; zeros for a lock that is foreign.
        holder: Token,
        /// The entry that is there and not fresh, for serving stale.
        stale: Option<Bytes>,
    },
}

/// What a lease's holder loaded.
#[derive(Clone, Debug)]
pub struct Fill {
    /// The token of the lease.
    pub token: Token,
    /// The version of what was loaded; [`Version::NONE`] where it is not known.
    pub version: Version,
    /// The floor that the load is known to satisfy, though it has no version: a strong load that began after it.
    pub proven: Version,
    /// How long the entry lives.
    pub ttl: Duration,
    /// The whole entry; its floor is set by the server.
    pub entry: Bytes,
    /// The longest entry, in bytes, that travels in the notices.
    pub inline_max: usize,
}

/// The answer to a [`Fill`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillReply {
    /// Stored, the lease ended and its waiters told.
    Stored,
    /// The lease was voided, expired or another's: nothing stored.
    Void,
    /// Older than the floor: nothing stored, the lease kept for a stronger load.
    Below {
        /// The floor.
        floor: Version,
    },
    /// A newer entry is there: nothing stored, the lease ended and its waiters given that entry.
    Older,
}

/// Why a lease is given back without a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release<'a> {
    /// The holder gives up: its waiters try for themselves.
    Retry,
    /// The load failed: its waiters are told why; cut to 200 bytes.
    Failed(&'a str),
}

impl Shard {
    /// Takes the lease of `key`, or tells who has been faster.
    ///
    /// # Errors
    /// [`ShardError`]; after a time-out the lease may be taken all the same, or later: give it back, and ask again with
    /// a new token only.
    pub async fn lease(&self, key: &CacheKey, request: &LeaseRequest<'_>) -> Result<LeaseReply, ShardError> {
        let lock = key.lock();
        let inbox = request.inbox.filter(|inbox| inbox.len() <= usize::from(u8::MAX)).unwrap_or_default();
        let answer = self.run(key, &script::LEASE, |command| {
            names(command, key, &lock);
            command.arg(request.token.as_bytes()).arg(millis(request.ttl)).arg(inbox).arg(request.refresh_before_ms);
        });
        let reply = Fields::of(answer.await?).and_then(|mut fields| {
            Some(match fields.tag()? {
                b'H' => LeaseReply::Hit(fields.bytes()?),
                b'G' => LeaseReply::Granted { floor: fields.version()?, stale: fields.bytes() },
                b'W' => LeaseReply::Wait {
                    remaining: Duration::from_millis(fields.number()?),
                    registered: fields.number()? == 1,
                    holder: Token::from_bytes(fields.bytes()?.as_ref().try_into().ok()?),
                    stale: fields.bytes(),
                },
                _ => return None,
            })
        });
        reply.ok_or_else(|| self.unexpected(&script::LEASE))
    }

    /// Lets the lease live for `ttl` from now; `false` where it is gone or another's.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn extend(&self, key: &CacheKey, token: &Token, ttl: Duration) -> Result<bool, ShardError> {
        let lock = key.lock();
        let answer = self.run(key, &script::EXTEND, |command| {
            names(command, key, &lock);
            command.arg(token.as_bytes()).arg(millis(ttl));
        });
        self.yes_or_no(answer.await?, &script::EXTEND)
    }

    /// The token under which the lease of `key` is held; nothing where it is free.
    ///
    /// A lease is filled once at most: while it is held under a token, nothing was stored under that token yet.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn holder(&self, key: &CacheKey) -> Result<Option<Token>, ShardError> {
        // The longest keys' locks have longer names than a key may have.
        let Ok(lock) = CacheKey::new(key.lock()) else { return Ok(None) };
        Ok(self.get(&lock).await?.and_then(|lock| Token::of_lock(&lock)))
    }

    /// Stores what was loaded and ends the lease.
    ///
    /// # Errors
    /// [`ShardError`]; after a time-out it may have been stored, and then asking again finds the lease gone.
    pub async fn fill(&self, key: &CacheKey, fill: &Fill) -> Result<FillReply, ShardError> {
        let lock = key.lock();
        let answer = self.run(key, &script::FILL, |command| {
            names(command, key, &lock);
            command.arg(fill.token.as_bytes()).arg(fill.version.as_bytes()).arg(fill.proven.as_bytes());
            command.arg(millis(fill.ttl)).arg(&fill.entry[..]).arg(fill.inline_max);
        });
        let reply = Fields::of(answer.await?).and_then(|mut fields| {
            Some(match fields.tag()? {
                b'S' => FillReply::Stored,
                b'V' => FillReply::Void,
                b'B' => FillReply::Below { floor: fields.version()? },
                b'O' => FillReply::Older,
                _ => return None,
            })
        });
        reply.ok_or_else(|| self.unexpected(&script::FILL))
    }

    /// Ends the lease without a fill; `false` where it is gone or another's.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn release(&self, key: &CacheKey, token: &Token, notice: Release<'_>) -> Result<bool, ShardError> {
        let lock = key.lock();
        let (kind, reason) = match notice {
            Release::Retry => ("V", ""),
            Release::Failed(reason) => ("R", &reason[..reason.floor_char_boundary(REASON_MAX)]),
        };
        let answer = self.run(key, &script::RELEASE, |command| {
            names(command, key, &lock);
            command.arg(token.as_bytes()).arg(kind).arg(reason);
        });
        self.yes_or_no(answer.await?, &script::RELEASE)
    }

    fn yes_or_no(&self, answer: Value, script: &Script) -> Result<bool, ShardError> {
        match answer {
            Value::Int(answer) => Ok(answer == 1),
            _ => Err(self.unexpected(script)),
        }
    }

    pub(super) fn unexpected(&self, script: &Script) -> ShardError {
        ShardError::unexpected(self.name(), script.name())
    }
}

/// The longest reason that a notice carries, in bytes.
const REASON_MAX: usize = 200;

fn names(command: &mut Cmd, key: &CacheKey, lock: &str) {
    command.arg(2).arg(key.as_bytes()).arg(lock);
}

/// A time to live as servers take it: whole milliseconds, at least one, and at most what a server's clock can hold.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.min(CENTURY).as_millis()).unwrap_or(u64::MAX).max(1)
}
