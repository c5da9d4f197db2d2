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
//! readers' inboxes, and `ping`; `wait` where invalidators wait for replicas; `client|tracking` where a reader keeps a key space `tracked`; `info` for
//! invalidators, which look for fail-overs by it; `scan` for flushes, of readers too where a ring shard joins, and with `dbsize` for audits. In a cluster `cluster|slots` and `asking` besides, and `cluster|nodes` for flushes.
//!
//! # Time-outs
//! A command that timed out may be carried out later. Invalidations, refreshes, fills and releases may be carried out
//! twice, or late, without harm. A lease must not be asked for again with the same token: the first call, carried out
//! after an invalidation, would let the fill of a load from before it pass. Take a new token for every call.

mod address;
mod apply;
mod batch;
#[cfg(feature = "cluster")]
mod cluster;
mod connect;
mod credentials;
mod dial;
mod dialer;
mod error;
mod flush;
mod identity;
mod inbox;
mod lease;
mod link;
mod look;
mod master;
#[cfg(feature = "memory")]
mod memory;
mod meters;
mod notice;
mod purge;
mod reply;
mod script;
mod token;
mod tracking;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value};

pub use apply::{Applied, BATCH};
pub use batch::image_entry;
pub use connect::ConnectError;
pub use credentials::{Credentials, Login, NoLogin};
pub use error::ShardError;
pub use flush::{Found, Sweep};
pub use identity::{Loss, Servers};
pub use inbox::{Inbox, InboxEvent};
pub use lease::{Fill, FillReply, LeaseReply, LeaseRequest, Release};
pub use look::{Expiry, Look, LookedAt};
pub use master::Master;
#[cfg(feature = "memory")]
pub use memory::MemoryServer;
pub use notice::Notice;
pub use token::Token;
pub use tracking::{Flushed, Tracker};

use crate::config;
use crate::key::CacheKey;
use crate::ring::{ShardName, ShardSpec};
use connect::Endpoint;
use dialer::Dialer;
use link::Links;
use script::Script;
use tracking::Tracking;

/// The first bytes of every lock: three letters and the format's version.
pub const LOCK_MAGIC: &[u8] = b"RTL\x01";

/// The slot that a cluster's servers put a name into: of its hash tag where it has one.
#[cfg(feature = "cluster")]
#[must_use]
pub fn cluster_slot(name: &[u8]) -> u16 {
    cluster::slot_of(name)
}

/// A handle for one ring shard, cheap to clone; its connections end with the last handle.
#[derive(Clone)]
pub struct Shard {
    reach: Arc<Reach>,
}

/// What stands behind a ring shard's name.
enum Reach {
    /// One server.
    One(Links),
    /// All masters of a cluster.
    #[cfg(feature = "cluster")]
    Cluster(cluster::Cluster),
    /// This process's memory.
    #[cfg(feature = "memory")]
    Memory(MemoryServer),
}

impl Shard {
    /// Checks the address and the TLS files, and begins to connect in the background; must be called in a Tokio
    /// runtime.
    ///
    /// Connections log in with the user and password of `options`; where these come from elsewhere, use
    /// [`Shard::connect_as`].
    ///
    /// # Errors
    /// [`ConnectError`] for what no retry can mend. A server that is down or refuses the password is told by
    /// [`Shard::ready`].
    pub fn connect(spec: &ShardSpec, options: &config::Valkey) -> Result<Self, ConnectError> {
        Self::open(spec, options, None, None)
    }

    /// Does what [`Shard::connect`] does, and asks `credentials` for the login of every connection.
    ///
    /// A connection is authenticated again before its login's time is over; where that is refused, it is made anew.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect_as(
        spec: &ShardSpec,
        options: &config::Valkey,
        credentials: Arc<dyn Credentials>,
    ) -> Result<Self, ConnectError> {
        Self::open(spec, options, Some(credentials), None)
    }

    /// Does what [`Shard::connect_as`] does, or [`Shard::connect`] without credentials, and has the servers tell
    /// `tracker` of every change of what is read through the handle.
    ///
    /// No connection is used before its server has agreed to that, so one that refuses cannot be reached at all.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect_tracked(
        spec: &ShardSpec,
        options: &config::Valkey,
        credentials: Option<Arc<dyn Credentials>>,
        tracker: Arc<dyn Tracker>,
    ) -> Result<Self, ConnectError> {
        Self::open(spec, options, credentials, Some(Tracking::new(tracker)))
    }

    fn open(
        spec: &ShardSpec,
        options: &config::Valkey,
        credentials: Option<Arc<dyn Credentials>>,
        tracking: Option<Arc<Tracking>>,
    ) -> Result<Self, ConnectError> {
        let access = connect::access(spec, options, credentials)?;
        let endpoint = Endpoint::new(spec, options)?;
        let reach = if options.cluster {
            #[cfg(not(feature = "cluster"))]
            return Err(ConnectError::ClusterFeature { shard: spec.name.clone() });
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster::Cluster::new(spec.name.clone(), endpoint, access, options, tracking))
        } else {
            let dialer = Dialer::new(spec.name.clone(), endpoint, access, options, None);
            Reach::One(Links::new(dialer.tracked(tracking), options.connections))
        };
        Ok(Self { reach: Arc::new(reach) })
    }

    /// The shard's name.
    #[must_use]
    pub fn name(&self) -> &ShardName {
        match &*self.reach {
            Reach::One(links) => links.name(),
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => cluster.name(),
            #[cfg(feature = "memory")]
            Reach::Memory(server) => server.name(),
        }
    }

    /// Takes the gauge `ringtide_ring_shard_up` of its name, or leaves it to another handle of the name, which leads to
    /// another address; a new handle has taken it.
    pub fn show(&self, shown: bool) {
        match &*self.reach {
            Reach::One(links) => links.dialer().show(shown),
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => cluster.show(shown),
            // It has no connection.
            #[cfg(feature = "memory")]
            Reach::Memory(_) => {}
        }
    }

    /// Leaves the gauge `ringtide_ring_shard_up` of its name without a value (`NaN`), where it is this handle's to set: the name
    /// stands for nothing any more.
    pub fn leave(&self) {
        match &*self.reach {
            Reach::One(links) => links.dialer().leave(),
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => cluster.leave(),
            #[cfg(feature = "memory")]
            Reach::Memory(_) => {}
        }
    }

    /// Waits for a live connection, to every master of a cluster, for at most `within`, and less where the server
    /// refuses this client for good.
    ///
    /// # Errors
    /// [`ShardError::Unavailable`] with the last reason: refused, a wrong password, TLS.
    pub async fn ready(&self, within: Duration) -> Result<(), ShardError> {
        match &*self.reach {
            Reach::One(links) => links.ready(within).await,
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => cluster.ready(within).await,
            #[cfg(feature = "memory")]
            Reach::Memory(server) => server.ready(),
        }
    }

    /// Looks an entry up with one plain `GET`; `None` also for a value that is no string.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn get(&self, key: &CacheKey) -> Result<Option<Bytes>, ShardError> {
        let command = get_command(key);
        let answer = match &*self.reach {
            Reach::One(links) => links.send(&command).await?,
            // Boxed, so that the future for one server stays as small as it is.
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => Box::pin(cluster.send(cluster::slot_of(key.as_bytes()), &command, None)).await?,
            #[cfg(feature = "memory")]
            Reach::Memory(server) => {
                let key = key.clone();
                return Box::pin(server.travel(move |server| server.get(&key))).await;
            }
        };
        self.value(answer)
    }

    fn value(&self, answer: Value) -> Result<Option<Bytes>, ShardError> {
        match answer {
            Value::BulkString(bytes) => Ok(Some(bytes.into())),
            Value::Nil => Ok(None),
            Value::ServerError(error) if error.code() == "WRONGTYPE" => {
                match &*self.reach {
                    Reach::One(links) => links.dialer().meters.foreign.increment(1),
                    #[cfg(feature = "cluster")]
                    Reach::Cluster(cluster) => cluster.meters().foreign.increment(1),
                    // Nothing but strings is there.
                    #[cfg(feature = "memory")]
                    Reach::Memory(_) => {}
                }
                Ok(None)
            }
            Value::ServerError(error) => Err(self.rejected(&error)),
            _ => Err(ShardError::unexpected(self.name(), "GET")),
        }
    }

    /// Looks entries up with one `MGET`, in the order of `keys`; `None` also for values that are no strings.
    ///
    /// In a cluster each key is looked up by a `GET` in one pipeline per master. Keys of masters that cannot be reached
    /// are then `None`, as long as any master answers: the lease that is asked for next tells the error.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<Bytes>>, ShardError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let links = match &*self.reach {
            Reach::One(links) => links,
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => return self.get_spread(cluster, keys).await,
            #[cfg(feature = "memory")]
            Reach::Memory(server) => {
                let keys = keys.to_vec();
                return Box::pin(server.travel(move |server| server.get_many(&keys))).await;
            }
        };
        let bytes = keys.iter().map(|key| key.as_bytes().len()).sum::<usize>();
        let mut command = Cmd::with_capacity(1 + keys.len(), 4 + bytes);
        command.arg("MGET");
        for key in keys {
            command.arg(key.as_bytes());
        }
        let unexpected = || ShardError::unexpected(self.name(), "MGET");
        let Value::Array(values) = links.ask(&command).await? else { return Err(unexpected()) };
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

    #[cfg(feature = "cluster")]
    async fn get_spread(
        &self,
        cluster: &cluster::Cluster,
        keys: &[CacheKey],
    ) -> Result<Vec<Option<Bytes>>, ShardError> {
        let calls = keys.iter().map(|key| (cluster::slot_of(key.as_bytes()), get_command(key))).collect();
        let mut found = Vec::with_capacity(keys.len());
        let (mut answered, mut failed) = (false, None);
        for answer in Box::pin(cluster.send_all(calls, None)).await {
            match answer.and_then(|answer| self.value(answer)) {
                Ok(value) => {
                    answered = true;
                    found.push(value);
                }
                Err(error) => {
                    failed = Some(error);
                    found.push(None);
                }
            }
        }
        match failed {
            Some(error) if !answered => Err(error),
            _ => Ok(found),
        }
    }

    /// Calls a script that is about `key`, and brings it along where the server does not know it.
    #[cfg_attr(not(feature = "cluster"), allow(unused_variables))]
    async fn run(&self, key: &CacheKey, script: &'static Script, rest: impl Fn(&mut Cmd)) -> Result<Value, ShardError> {
        match &*self.reach {
            Reach::One(links) => links.run(script, rest).await,
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => {
                let call = script.call(rest);
                match Box::pin(cluster.send(cluster::slot_of(key.as_bytes()), &call, Some(script))).await? {
                    Value::ServerError(error) => Err(self.rejected(&error)),
                    answer => Ok(answer),
                }
            }
            #[cfg(feature = "memory")]
            Reach::Memory(server) => {
                let call = script.call(rest);
                Box::pin(server.travel(move |server| server.run(script, &call))).await
            }
        }
    }

    /// Makes an error of a server's answer, and counts it.
    fn rejected(&self, error: &redis::ServerError) -> ShardError {
        match &*self.reach {
            Reach::One(links) => links.rejected(error),
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => cluster.rejected(error),
            #[cfg(feature = "memory")]
            Reach::Memory(server) => ShardError::answered(server.name(), error),
        }
    }
}

fn get_command(key: &CacheKey) -> Cmd {
    let mut command = Cmd::with_capacity(2, 3 + key.as_bytes().len());
    command.arg("GET").arg(key.as_bytes());
    command
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shard").field(self.name()).finish()
    }
}
