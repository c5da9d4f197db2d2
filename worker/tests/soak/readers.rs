//! What reads through the cache, and what is found by it: lags while it goes on, entries that are wrong in the end.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::AsyncCommands;
use ringtide::{Cache, Space};
use ringtide_core::entry::{Entry, State};
use ringtide_servers::ValkeyServer;
use tokio::task::JoinSet;

use crate::LONG;
use crate::endless::{Endless, ITEMS, LINES, item, pk};

const READERS: usize = 2;
const SAMPLERS: usize = 24;
/// Records between the one that is handed out next and that of an item that is sampled.
const AHEAD: std::ops::Range<u64> = 1_000..6_000;
/// Items around what is written are read.
const AROUND: u64 = 10_000;
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Reads that go on until they are ended.
pub(crate) struct Readers {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    _cache: Cache,
}

struct Shared {
    stream: Arc<Endless>,
    space: Space<u64>,
    going: AtomicBool,
    reads: AtomicU64,
    lags: Mutex<Vec<Duration>>,
}

impl Shared {
    async fn read(&self, line: usize, item: u64) -> u64 {
        let stream = Arc::clone(&self.stream);
        let load = move || {
            let revision = stream.revision(line, item);
            async move { Ok::<_, Infallible>(Some(revision)) }
        };
        let pk = pk(line, item);
        let read = tokio::time::timeout(LONG, self.space.get_or_load(pk.as_str(), load)).await;
        self.reads.fetch_add(1, Ordering::Relaxed);
        read.expect("no read hangs").expect("no read fails").expect("every item exists")
    }

    /// Reads items that were changed, or will be soon.
    async fn read_around(&self, mut random: fastrand::Rng) {
        while self.going.load(Ordering::Relaxed) {
            let line = random.usize(..LINES);
            let about = (self.stream.committed(line) + random.u64(..2 * AROUND)).saturating_sub(AROUND);
            let (before, item) = (self.stream.revision(line, about % ITEMS), about % ITEMS);
            let read = self.read(line, item).await;
            assert!(read <= self.stream.revision(line, item), "{before}: read {read}, which nobody wrote");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Caches items whose record comes soon, and measures from its commit until the entry is gone.
    async fn sample(&self, mut random: fastrand::Rng) {
        while self.going.load(Ordering::Relaxed) {
            let line = random.usize(..LINES);
            let record = self.stream.committed(line) + random.u64(AHEAD);
            self.read(line, record % ITEMS).await;
            while self.stream.committed(line) <= record {
                if !self.going.load(Ordering::Relaxed) {
                    return;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            let committed = Instant::now();
            while self.read(line, record % ITEMS).await <= record {
                assert!(
                    committed.elapsed() < LONG,
                    "item {} is stale: its invalidation was lost",
                    pk(line, record % ITEMS)
                );
                tokio::time::sleep(LOOK_EVERY).await;
            }
            self.lags.lock().unwrap().push(committed.elapsed());
        }
    }
}

impl Readers {
    pub(crate) fn start(cache: Cache, stream: &Arc<Endless>, random: &mut fastrand::Rng) -> Self {
        let space = cache.space::<u64>("item").unwrap();
        let (stream, going) = (Arc::clone(stream), AtomicBool::new(true));
        let shared = Arc::new(Shared { stream, space, going, reads: AtomicU64::new(0), lags: Mutex::default() });
        let mut tasks = JoinSet::new();
        for _ in 0..READERS {
            let (shared, random) = (Arc::clone(&shared), random.fork());
            tasks.spawn(async move { shared.read_around(random).await });
        }
        for _ in 0..SAMPLERS {
            let (shared, random) = (Arc::clone(&shared), random.fork());
            tasks.spawn(async move { shared.sample(random).await });
        }
        Self { shared, tasks, _cache: cache }
    }

    pub(crate) fn reads(&self) -> u64 {
        self.shared.reads.load(Ordering::Relaxed)
    }

    /// The lags since it was asked last. Fails where a reader has failed.
    pub(crate) fn lags(&mut self) -> Vec<Duration> {
        while let Some(ended) = self.tasks.try_join_next() {
            ended.unwrap();
        }
        std::mem::take(&mut *self.shared.lags.lock().unwrap())
    }

    /// Ends the reading.
    pub(crate) async fn end(mut self) {
        self.shared.going.store(false, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// Every cached entry and what is wrong with it.
pub(crate) struct Audit {
    pub(crate) entries: usize,
    pub(crate) stale: Vec<String>,
}

impl Audit {
    /// Compares all cached entries with what was committed.
    pub(crate) async fn run(servers: &[ValkeyServer], stream: &Endless) -> Self {
        let mut audit = Self { entries: 0, stale: Vec::new() };
        for server in servers {
            let client = redis::Client::open(format!("redis://{}", server.address())).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let keys: Vec<String> = connection.keys("item:*").await.unwrap();
            for key in keys {
                let Some(bytes) = connection.get::<_, Option<Vec<u8>>>(&key).await.unwrap() else { continue };
                let entry = Entry::parse(&Bytes::from(bytes)).unwrap();
                if entry.header.state != State::Value {
                    continue;
                }
                audit.entries += 1;
                let revision: u64 = serde_json::from_slice(&entry.payload).unwrap();
                let (line, item) = item(key.trim_start_matches("item:")).unwrap();
                if revision != stream.revision(line, item) {
                    audit.stale.push(format!("{key}: {revision}, not {}", stream.revision(line, item)));
                }
            }
        }
        audit
    }
}
