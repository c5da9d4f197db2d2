//! What a process keeps in its own memory: never older than its tier allows, and gone when it has to be.

mod bounded;
#[cfg(feature = "cluster")]
mod cluster;
mod fallback;
mod hammer;
mod race;
mod shared;
mod silence;
mod tracked;

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use ringtide::{Cache, CacheBuilder, Codec, LocalTier, Space, SpaceSettings};
use ringtide_core::entry::{Entry, Header};

use super::support::{Counters, LONG, Server, builder};

/// Long enough never to be over in a test.
const MINUTE: Duration = Duration::from_secs(60);

const HITS: &str = "ringtide_reader_local_hits_total";
const FALLBACK_HITS: &str = "ringtide_reader_local_fallback_hits_total";
const FALLBACK_SETS: &str = "ringtide_reader_local_fallback_sets_total";
const REFUSED: &str = "ringtide_reader_local_refused_total";
const FLUSHES: &str = "ringtide_reader_local_flushes_total";
const PUSHES: &str = "ringtide_reader_local_pushes_total";

/// A cache with one key space of a tier, and somebody else's connection to its server.
struct Tier {
    space: Space<u64>,
    cache: Cache,
    counters: Counters,
    writer: MultiplexedConnection,
}

impl Tier {
    async fn new(server: &Server, tier: LocalTier) -> Self {
        Self::built(server, tier, patient(builder(server))).await
    }

    async fn built(server: &Server, tier: LocalTier, builder: CacheBuilder) -> Self {
        let counters = Counters::default();
        let cache = counters.build(builder.space(SpaceSettings::new("item", "item:{pk}").local(tier))).await;
        Self { space: cache.space("item").unwrap(), cache, counters, writer: server.connection().await }
    }

    /// Stores an entry as another process does, fresh for a minute.
    async fn put(&mut self, item: u64, value: u64) {
        self.put_for(item, value, MINUTE).await;
    }

    async fn put_for(&mut self, item: u64, value: u64, fresh: Duration) {
        let set = redis::cmd("SET").arg(key(item)).arg(&entry(value, fresh)[..]).clone();
        set.exec_async(&mut self.writer).await.unwrap();
    }

    /// Reads an entry that is cached somewhere.
    async fn read(&self, item: u64) -> u64 {
        self.read_or(item, None).await.expect("a cached value")
    }

    /// Reads an entry, or what the origin has.
    async fn read_or(&self, item: u64, origin: Option<u64>) -> Option<u64> {
        let read = self.space.get_or_load(item, move || async move { Ok::<_, Infallible>(origin) });
        tokio::time::timeout(LONG, read).await.expect("nobody hangs").unwrap()
    }

    fn hits(&self) -> u64 {
        self.counters.sum(HITS, "")
    }

    /// Reads a key until it is answered from memory, as it is once a ring shard is in step; its value.
    async fn read_locally(&self, item: u64) -> u64 {
        let (deadline, hits) = (tokio::time::Instant::now() + LONG, self.hits());
        loop {
            let value = self.read(item).await;
            if self.hits() > hits {
                return value;
            }
            assert!(tokio::time::Instant::now() < deadline, "never answered from memory");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// A builder whose commands are not given up while the test machine is busy.
fn patient(builder: CacheBuilder) -> CacheBuilder {
    builder.command_timeout(Duration::from_secs(10))
}

fn key(item: u64) -> String {
    format!("item:{item}")
}

/// The bytes of an entry in JSON that is fresh for a while.
fn entry(value: u64, fresh: Duration) -> Bytes {
    let soft = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + fresh;
    let header = Header { soft_expiry_ms: soft.as_millis() as u64, ..Header::value(Codec::Json) };
    Entry { header, payload: value.to_string().into() }.to_bytes()
}

/// Runs a command of somebody else.
async fn run(writer: &mut MultiplexedConnection, command: &[&str]) {
    let mut cmd = redis::cmd(command[0]);
    command[1..].iter().for_each(|argument| {
        cmd.arg(argument);
    });
    cmd.exec_async(writer).await.unwrap();
}
