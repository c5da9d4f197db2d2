//! The cache under test: the product's protocol on a real server, or one with a planted defect.

use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue};
use ringtide_core::command::{Action, Command, Image};
use ringtide_core::config;
use ringtide_core::entry::{Codec, Entry, Header};
use ringtide_core::key::CacheKey;
use ringtide_core::ring::{ShardName, ShardSpec};
use ringtide_core::valkey::{Fill, FillReply, LeaseReply, LeaseRequest, Release, Shard, Token};
use ringtide_core::version::Version;
use ringtide_servers::ValkeyServer;

use super::content::Content;
use super::flaw::Flaw;
use super::wire::{self, INBOXES, Wire};

/// Connections to the server, cheap to clone.
#[derive(Clone)]
pub(crate) struct Cache {
    shard: Shard,
    raw: MultiplexedConnection,
    pub(crate) wire: Wire,
    flaw: Flaw,
}

/// What stands under some names at one moment, each with the milliseconds that it still lives.
pub(crate) type Copied = Vec<(String, Option<(Vec<u8>, i64)>)>;

impl Cache {
    pub(crate) async fn connect(server: &ValkeyServer, flaw: Flaw) -> Self {
        let patience = Duration::from_secs(60);
        let spec = ShardSpec { name: ShardName::new("fuzz"), address: server.address(), weight: 1 };
        let options = config::Valkey {
            connections: 2,
            command_timeout: patience,
            connect_timeout: patience,
            ..config::Valkey::default()
        };
        let shard = Shard::connect(&spec, &options).expect("a shard");
        shard.ready(patience).await.expect("a live connection");
        let client = redis::Client::open(format!("redis://{}", server.address())).expect("a client");
        let options = AsyncConnectionConfig::new().set_response_timeout(Some(patience));
        let raw = client.get_multiplexed_async_connection_with_config(&options).await.expect("a connection");
        let wire = Wire::connect(&server.address(), patience).await;
        Self { shard, raw, wire, flaw }
    }

    pub(crate) async fn get(&self, key: &CacheKey) -> Option<Bytes> {
        self.shard.get(key).await.expect("GET")
    }

    pub(crate) async fn get_many(&self, keys: &[CacheKey]) -> Vec<Option<Bytes>> {
        self.shard.get_many(keys).await.expect("MGET")
    }

    pub(crate) async fn lease(&self, key: &CacheKey, request: &LeaseRequest<'_>) -> LeaseReply {
        if self.flaw != Flaw::Textbook {
            return self.shard.lease(key, request).await.expect("lease");
        }
        let mut lock = redis::cmd("SET");
        lock.arg(key.lock()).arg("locked").arg("NX").arg("PX").arg(request.ttl.as_millis() as u64);
        match self.raw::<Option<String>>(&lock).await {
            Some(_) => LeaseReply::Granted { floor: Version::NONE, stale: None },
            None => LeaseReply::Wait { remaining: request.ttl, registered: false, holder: request.token, stale: None },
        }
    }

    pub(crate) async fn extend(&self, key: &CacheKey, token: &Token, ttl: Duration) -> bool {
        self.flaw != Flaw::Textbook && self.shard.extend(key, token, ttl).await.expect("extend")
    }

    pub(crate) async fn fill(&self, key: &CacheKey, fill: &Fill) -> FillReply {
        match self.flaw {
            Flaw::Textbook | Flaw::FillWithoutToken => {
                self.store(key, &fill.entry).await;
                self.delete(&[key.lock()]).await;
                FillReply::Stored
            }
            Flaw::AbsenceSkipsFloor if Content::served(&fill.entry) == Some(Content::Absent) => {
                let proven = Version::from_number(u128::MAX);
                self.shard.fill(key, &Fill { proven, ..fill.clone() }).await.expect("fill")
            }
            Flaw::FillTellsUnstored => {
                let reply = self.shard.fill(key, fill).await.expect("fill");
                if matches!(reply, FillReply::Below { .. } | FillReply::Void) {
                    let message = wire::filled(&fill.token, key, &fill.entry);
                    for inbox in INBOXES {
                        let _: usize = self.raw(redis::cmd("PUBLISH").arg(inbox).arg(&message)).await;
                    }
                }
                reply
            }
            _ => self.shard.fill(key, fill).await.expect("fill"),
        }
    }

    pub(crate) async fn holder(&self, key: &CacheKey) -> Option<Token> {
        self.shard.holder(key).await.expect("GET")
    }

    pub(crate) async fn release(&self, key: &CacheKey, token: &Token, notice: Release<'_>) -> bool {
        if self.flaw == Flaw::Textbook {
            self.delete(&[key.lock()]).await;
            return true;
        }
        self.shard.release(key, token, notice).await.expect("release")
    }

    pub(crate) async fn apply(&self, commands: &[Command], deadline_ms: u64) {
        match self.flaw {
            Flaw::Textbook | Flaw::DropWithoutVoiding => {
                let names: Vec<_> = commands.iter().map(|command| command.key.to_string()).collect();
                self.delete(&names).await;
            }
            Flaw::LeaseFloorForgotten => {
                for command in commands {
                    let lock = command.key.lock();
                    let before: Option<Vec<u8>> = self.raw(redis::cmd("GET").arg(&lock)).await;
                    self.carry_out(std::slice::from_ref(command), deadline_ms).await;
                    let after: Option<Vec<u8>> = self.raw(redis::cmd("GET").arg(&lock)).await;
                    if let (Some(before), Some(_)) = (before, after) {
                        let _: usize = self.raw(redis::cmd("SETRANGE").arg(&lock).arg(20).arg(&before[20..48])).await;
                    }
                }
            }
            Flaw::RefreshWithoutComparing => {
                for command in commands {
                    match &command.action {
                        Action::Refresh { version, image, .. } if self.get(&command.key).await.is_some() => {
                            self.store(&command.key, &entry(*version, image)).await;
                            self.delete(&[command.key.lock()]).await;
                        }
                        Action::Refresh { .. } | Action::Invalidate { .. } => {
                            self.delete(&[command.key.to_string(), command.key.lock()]).await;
                        }
                    }
                }
            }
            Flaw::RefreshWithoutDeadline => self.carry_out(commands, 0).await,
            Flaw::AbsenceSurvives | Flaw::MarkLosesFloor | Flaw::MarkExtends => {
                for command in commands {
                    let before = self.get(&command.key).await;
                    self.carry_out(std::slice::from_ref(command), deadline_ms).await;
                    self.spoil(command, before).await;
                }
            }
            _ => self.carry_out(commands, deadline_ms).await,
        }
    }

    /// Undoes a part of what an invalidation did to an entry.
    async fn spoil(&self, command: &Command, before: Option<Bytes>) {
        let (key, invalidates) = (&command.key, matches!(command.action, Action::Invalidate { .. }));
        let Some(before) = before.filter(|_| invalidates) else { return };
        let is_marked = |entry: Option<Bytes>| entry.is_some_and(|entry| Content::is_marked(&entry));
        match self.flaw {
            Flaw::AbsenceSurvives if Content::served(&before) == Some(Content::Absent) => {
                self.store(key, &before).await
            }
            Flaw::MarkLosesFloor if is_marked(self.get(key).await) => {
                let _: usize = self.raw(redis::cmd("SETRANGE").arg(key.as_str()).arg(36).arg(&before[36..64])).await;
            }
            Flaw::MarkExtends if is_marked(self.get(key).await) => {
                let keep = command.space.stale_if_error.as_millis() as u64;
                let _: usize = self.raw(redis::cmd("PEXPIRE").arg(key.as_str()).arg(keep)).await;
            }
            _ => {}
        }
    }

    /// The milliseconds that an entry is still kept for; nothing where none is there.
    pub(crate) async fn time_left(&self, key: &CacheKey) -> Option<i64> {
        let left: i64 = self.raw(redis::cmd("PTTL").arg(key.as_str())).await;
        (left >= 0).then_some(left)
    }

    /// Lets so much time pass for an entry that it is kept for these milliseconds only.
    pub(crate) async fn let_age(&self, key: &CacheKey, left: i64) {
        let _: usize = self.raw(redis::cmd("PEXPIRE").arg(key.as_str()).arg(left)).await;
    }

    /// Copies what stands under these names, as a replica has it.
    pub(crate) async fn copy(&self, names: &[String]) -> Copied {
        let mut pipe = redis::pipe();
        for name in names {
            pipe.get(name).pttl(name);
        }
        let copied: Vec<redis::Value> = pipe.query_async(&mut self.raw.clone()).await.expect("values");
        let value = |pair: &[redis::Value]| match pair {
            [redis::Value::BulkString(value), redis::Value::Int(left)] => Some((value.clone(), *left)),
            _ => None,
        };
        names.iter().cloned().zip(copied.chunks(2).map(value)).collect()
    }

    /// Brings back what was copied.
    pub(crate) async fn bring_back(&self, copied: &Copied) {
        let mut pipe = redis::pipe();
        for (name, value) in copied {
            match value {
                Some((value, left)) => pipe.cmd("SET").arg(name).arg(value).arg("PX").arg((*left).max(1)).ignore(),
                None => pipe.del(name).ignore(),
            };
        }
        let _: () = pipe.query_async(&mut self.raw.clone()).await.expect("a promotion");
    }

    /// Lets keys vanish, as expiry and eviction do.
    pub(crate) async fn delete(&self, names: &[String]) {
        let _: usize = self.raw(redis::cmd("DEL").arg(names)).await;
    }

    /// Lets the server forget its scripts, for every schedule that is under way.
    pub(crate) async fn forget_scripts(&self) {
        let _: String = self.raw(redis::cmd("SCRIPT").arg("FLUSH")).await;
    }

    /// Applies as an invalidator does: where the server has forgotten its scripts at the wrong moment, once more.
    async fn carry_out(&self, commands: &[Command], deadline_ms: u64) {
        for _ in 0..100 {
            match self.shard.apply(commands, deadline_ms).await {
                Ok(_) => return,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
        panic!("the commands are never carried out");
    }

    /// Stores an entry without asking anybody.
    pub(crate) async fn store(&self, key: &CacheKey, entry: &[u8]) {
        let _: String = self.raw(redis::cmd("SET").arg(key.as_str()).arg(entry)).await;
    }

    async fn raw<T: FromRedisValue>(&self, command: &Cmd) -> T {
        command.query_async(&mut self.raw.clone()).await.expect("an answer")
    }
}

fn entry(version: Version, image: &Image) -> Bytes {
    let (header, payload) = match image {
        Image::Json(json) => (Header::value(Codec::Json), json.clone()),
        Image::Deleted => (Header::negative(), Bytes::new()),
    };
    Entry { header: Header { version, floor: version, ..header }, payload }.to_bytes()
}
