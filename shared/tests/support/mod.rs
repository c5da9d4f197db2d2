//! A Valkey server of a test's own, and short names for what tests make all the time.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "cluster")]
pub mod cluster;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use ringtide_core::command::{Action, Command, Image};
use ringtide_core::config::{self, Secret};
use ringtide_core::entry::{Codec, Entry, Header, State};
use ringtide_core::key::{CacheKey, KeySpace, Mode, Template};
use ringtide_core::record::{ChangeRecord, RawRecord, UnreadableRecord, record_from_json};
use ringtide_core::ring::{ShardName, ShardSpec};
use ringtide_core::valkey::{Fill, Inbox, InboxEvent, LeaseRequest, Notice, Shard, Token};
use ringtide_core::version::Version;
use ringtide_servers::ValkeyServer;

/// A server that ends with the test.
pub struct Server(ValkeyServer);

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(arguments: &[&str]) -> Self {
        Self(ValkeyServer::start_with(arguments).unwrap())
    }

    pub fn port(&self) -> u16 {
        self.0.port()
    }

    pub fn address(&self) -> String {
        self.0.address()
    }

    /// Kills the server; nothing is saved.
    pub fn kill(&mut self) {
        self.0.kill();
    }

    /// Kills the server and starts an empty one on the same port.
    pub fn restart(&mut self) {
        self.0.restart().unwrap();
    }

    /// Stops the server's clock, so to speak: it keeps its connections and answers nothing.
    pub fn freeze(&self) {
        self.0.freeze().unwrap();
    }

    pub fn thaw(&self) {
        self.0.thaw().unwrap();
    }

    /// A connection past the product, for looking and meddling.
    pub async fn raw(&self) -> MultiplexedConnection {
        let url = format!("redis://127.0.0.1:{}/?protocol=resp3", self.port());
        redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    pub fn spec(&self) -> ShardSpec {
        ShardSpec { name: ShardName::new("a"), address: self.address(), weight: 1 }
    }

    /// A shard that is connected.
    pub async fn shard(&self) -> Shard {
        let shard = Shard::connect(&self.spec(), &options()).unwrap();
        shard.ready(Duration::from_secs(10)).await.unwrap();
        shard
    }
}

/// A key space and its route, for [`change`].
pub const PRODUCTS: &str =
    "[spaces.product]\nkey = \"product:{pk}\"\n[[routes]]\ntable = \"products\"\nspace = \"product\"\n";

/// The record of a change of a product that is called by a number.
pub fn change(pk: u64) -> Result<ChangeRecord, UnreadableRecord> {
    let image = format!(r#"{{"pk":{{"N":"{pk}"}}}}"#);
    let text = format!(
        r#"{{"eventName":"MODIFY","eventSourceARN":"arn:aws:dynamodb:eu-west-1:123456789012:table/products/stream/2026-01-02T03:04:05.678",
        "dynamodb":{{"Keys":{image},"OldImage":{image},"NewImage":{image},"SequenceNumber":"{}"}}}}"#,
        1000 + pk
    );
    record_from_json(RawRecord::parse(text).unwrap().as_raw())
}

pub fn options() -> config::Valkey {
    let patience = Duration::from_secs(5);
    config::Valkey { command_timeout: patience, connect_timeout: patience, ..config::Valkey::default() }
}

pub fn options_as(username: Option<&str>, password: &str) -> config::Valkey {
    config::Valkey {
        username: username.map(str::to_owned),
        password: Some(Secret::new(password.to_owned())),
        ..options()
    }
}

pub fn key(text: &str) -> CacheKey {
    CacheKey::new(text).unwrap()
}

pub fn version(number: u128) -> Version {
    Version::from_number(number)
}

/// An entry of a state, with version and floor.
pub fn entry(state: State, version: Version, floor: Version, payload: &str) -> Bytes {
    let header = Header { state, version, floor, ..Header::value(Codec::Json) };
    Entry { header, payload: Bytes::copy_from_slice(payload.as_bytes()) }.to_bytes()
}

pub fn value(payload: &str) -> Bytes {
    entry(State::Value, Version::NONE, Version::NONE, payload)
}

pub fn value_at(number: u128, payload: &str) -> Bytes {
    entry(State::Value, version(number), version(number), payload)
}

pub fn parsed(bytes: &Bytes) -> Entry {
    Entry::parse(bytes).unwrap()
}

pub fn request(token: Token) -> LeaseRequest<'static> {
    LeaseRequest { token, ttl: Duration::from_secs(5), inbox: None, refresh_before_ms: 0 }
}

pub fn fill_of(token: Token, entry: Bytes) -> Fill {
    let version = Version::NONE;
    Fill { token, version, proven: version, ttl: Duration::from_secs(60), entry, inline_max: 1024 }
}

pub fn space(mode: Mode, keep_stale: bool) -> Arc<KeySpace> {
    Arc::new(KeySpace {
        mode,
        ttl: Duration::from_secs(100),
        ttl_jitter: 0.0,
        negative_ttl: Duration::from_secs(10),
        stale_if_error: if keep_stale { Duration::from_secs(60) } else { Duration::ZERO },
        ..KeySpace::new("product", Template::parse("product:{pk}").unwrap())
    })
}

pub fn plain() -> Arc<KeySpace> {
    space(Mode::Plain, false)
}

pub fn versioned(tombstone: Option<Duration>, keep_stale: bool) -> Arc<KeySpace> {
    space(Mode::Versioned { attribute: "v".to_owned(), tombstone }, keep_stale)
}

pub fn invalidate(text: &str, space: &Arc<KeySpace>, version: Version) -> Command {
    Command { key: key(text), space: space.clone(), action: Action::Invalidate { version } }
}

pub fn refresh(text: &str, space: &Arc<KeySpace>, version: Version, image: Image, populate: bool) -> Command {
    Command { key: key(text), space: space.clone(), action: Action::Refresh { version, image, populate } }
}

pub async fn set(raw: &mut MultiplexedConnection, name: &str, value: &[u8]) {
    redis::cmd("SET").arg(name).arg(value).arg("PX").arg(60_000).exec_async(raw).await.unwrap();
}

pub async fn get(raw: &mut MultiplexedConnection, name: &str) -> Option<Bytes> {
    let found: Option<Vec<u8>> = redis::cmd("GET").arg(name).query_async(raw).await.unwrap();
    found.map(Bytes::from)
}

pub async fn pttl(raw: &mut MultiplexedConnection, name: &str) -> i64 {
    redis::cmd("PTTL").arg(name).query_async(raw).await.unwrap()
}

/// An inbox whose subscription is confirmed.
pub async fn inbox(shard: &Shard, channel: &str) -> Inbox {
    let mut inbox = shard.inbox(channel);
    assert_eq!(next(&mut inbox).await, InboxEvent::Up);
    inbox
}

pub async fn next(inbox: &mut Inbox) -> InboxEvent {
    tokio::time::timeout(Duration::from_secs(10), inbox.next()).await.expect("an event in time").unwrap()
}

pub async fn notice(inbox: &mut Inbox) -> Notice {
    match next(inbox).await {
        InboxEvent::Notice(notice) => notice,
        event => panic!("{event:?} instead of a notice"),
    }
}

/// Shows that nothing else was published: what is sent to the channel now comes next.
pub async fn nothing_more(raw: &mut MultiplexedConnection, inbox: &mut Inbox) {
    redis::cmd("PUBLISH").arg(inbox.channel()).arg(b"V0123456789abcdef\0\x03end").exec_async(raw).await.unwrap();
    assert_eq!(notice(inbox).await, Notice::Voided { key: key("end") });
}
