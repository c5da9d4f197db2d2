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

/// What is wrong with the cache under test, or with how it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Nothing: the product.
    None,
    /// `SET … NX` for the lock, plain `SET` and `DEL`.
    Textbook,
    FillWithoutToken,
    DropWithoutVoiding,
    LeaseFloorForgotten,
    RefreshWithoutComparing,
    RefreshWithoutDeadline,
    SettleOnce,
    NoTombstones,
    VersionsAcrossItems,
    /// An eventual load claims to satisfy the floor.
    ProofClaimed,
    /// A lease is asked for twice with one token, and the first request is carried out last.
    TokenSentTwice,
}

/// Connections to the server, cheap to clone.
#[derive(Clone)]
pub(crate) struct Cache {
    shard: Shard,
    raw: MultiplexedConnection,
    flaw: Flaw,
}

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
        Self { shard, raw, flaw }
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
        if !matches!(self.flaw, Flaw::Textbook | Flaw::FillWithoutToken) {
            return self.shard.fill(key, fill).await.expect("fill");
        }
        self.set(key, &fill.entry).await;
        self.delete(&[key.lock()]).await;
        FillReply::Stored
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
                            self.set(&command.key, &entry(*version, image)).await;
                            self.delete(&[command.key.lock()]).await;
                        }
                        Action::Refresh { .. } | Action::Invalidate { .. } => {
                            self.delete(&[command.key.to_string(), command.key.lock()]).await;
                        }
                    }
                }
            }
            Flaw::RefreshWithoutDeadline => self.carry_out(commands, 0).await,
            _ => self.carry_out(commands, deadline_ms).await,
        }
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

    async fn set(&self, key: &CacheKey, entry: &[u8]) {
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
