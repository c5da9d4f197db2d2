//! Fills and invalidations that were not answered are sent again.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use ringtide::{Cache, ReadOptions, config};
use ringtide_servers::{Direction, Flow, Proxy};
use tokio::task::JoinHandle;

use super::support::{Counters, LONG, Origin, Server, until};

const COMMAND: Duration = Duration::from_millis(150);

/// A server, and a cache that reaches it by a proxy.
struct Reached {
    server: Server,
    proxy: Proxy,
    cache: Cache,
    counters: Counters,
    origin: Origin,
}

async fn reached(settings: config::Reader) -> Reached {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await.unwrap();
    let counters = Counters::default();
    let builder = Cache::builder().shard("a", proxy.address()).command_timeout(COMMAND).reader(settings);
    let cache = counters.build(builder).await;
    Reached { server, proxy, cache, counters, origin: Origin::held() }
}

impl Reached {
    fn read(&self, key: &'static str) -> JoinHandle<Option<usize>> {
        let (cache, origin) = (self.cache.clone(), self.origin.clone());
        tokio::spawn(async move {
            let load = move || {
                let origin = origin.clone();
                async move { Ok::<_, Infallible>(Some(origin.load().await)) }
            };
            tokio::time::timeout(LONG, cache.get_or_load(key, load)).await.expect("nobody hangs").unwrap()
        })
    }

    /// Stores an entry.
    async fn store(&self, key: &'static str) {
        self.origin.allow(1);
        assert!(self.read(key).await.unwrap().is_some());
        until("the fill", async || self.server.exists(key).await).await;
    }

    fn count(&self, name: &str, kind: &str) -> u64 {
        self.counters.sum(&format!("ringtide_reader_{name}_total"), kind)
    }
}

fn settings() -> config::Reader {
    let lease_ttl = Duration::from_secs(10);
    config::Reader { breaker_pause: Duration::from_millis(100), lease_ttl, ..config::Reader::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_that_never_arrived_is_stored_when_the_shard_can_be_reached_again() {
    let reached = reached(settings()).await;
    let reader = reached.read("key");
    reached.origin.begun().await;
    reached.proxy.set(Direction::ToServer, Flow::BlackHole);
    let began = Instant::now();
    reached.origin.allow(1);
    assert_eq!(reader.await.unwrap(), Some(1));
    assert!(began.elapsed() < COMMAND, "the caller waited for the fill");
    until("the fill's failure", async || reached.count("fills", "failed") == 1).await;
    assert!(!reached.server.exists("key").await);
    reached.proxy.heal();
    until("the fill", async || reached.server.exists("key").await).await;
    until("its count", async || reached.count("retries_sent", "fill") == 1).await;
    assert_eq!(reached.read("key").await.unwrap(), Some(1));
    assert_eq!(reached.origin.loads(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_whose_lease_was_taken_away_meanwhile_is_not_stored() {
    let reached = reached(settings()).await;
    let reader = reached.read("key");
    reached.origin.begun().await;
    reached.proxy.set(Direction::ToServer, Flow::BlackHole);
    reached.origin.allow(1);
    assert_eq!(reader.await.unwrap(), Some(1));
    until("the fill's failure", async || reached.count("fills", "failed") == 1).await;
    let invalidator = reached.server.shard().await;
    super::support::invalidate(&invalidator, "key", ringtide::Mode::Plain, ringtide::Version::NONE).await;
    reached.proxy.heal();
    until("its answer", async || reached.count("fills", "void") == 1).await;
    assert!(!reached.server.exists("key").await, "an old value was stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_is_given_up_when_its_leases_time_is_over() {
    let reached = reached(config::Reader { lease_ttl: Duration::from_millis(600), ..settings() }).await;
    let reader = reached.read("key");
    reached.origin.begun().await;
    reached.proxy.set(Direction::ToServer, Flow::BlackHole);
    reached.origin.allow(1);
    assert_eq!(reader.await.unwrap(), Some(1));
    until("giving up", async || reached.count("retries_dropped", "expired") == 1).await;
    reached.proxy.heal();
    until("a new load", async || {
        reached.origin.allow(1);
        reached.read("key").await.unwrap();
        reached.server.exists("key").await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalidations_are_delivered_once_the_shard_can_be_reached() {
    let reached = reached(settings()).await;
    for key in ["a", "b", "c"] {
        reached.store(key).await;
    }
    reached.proxy.refuse(true);
    reached.proxy.cut();
    for _ in 0..3 {
        let told = reached.cache.invalidate_many(["a", "b"]).await.unwrap();
        assert!(!told.is_done());
    }
    for key in ["a", "b", "c"] {
        assert!(reached.server.exists(key).await);
    }
    reached.proxy.heal();
    until("their delivery", async || !reached.server.exists("a").await && !reached.server.exists("b").await).await;
    assert!(reached.server.exists("c").await);
    until("their count", async || reached.count("retries_sent", "invalidation") >= 2).await;
    assert_eq!(reached.count("retries_sent", "invalidation"), 2, "those of one key are not merged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_is_closed_tries_once_more_and_does_not_wait_for_long() {
    let reached = reached(settings()).await;
    reached.store("key").await;
    reached.proxy.refuse(true);
    reached.proxy.cut();
    assert!(!reached.cache.invalidate("key").await.unwrap().is_done());
    // Long enough for the pauses between the attempts to have grown.
    tokio::time::sleep(Duration::from_millis(700)).await;
    reached.proxy.heal();
    reached.cache.close().await;
    assert!(!reached.server.exists("key").await, "the invalidation was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_is_bounded_while_the_shard_is_away_and_what_is_lost_is_counted() {
    let reached = reached(settings()).await;
    reached.store("key").await;
    reached.proxy.refuse(true);
    reached.proxy.cut();
    assert!(!reached.cache.invalidate("key").await.unwrap().is_done());
    let Reached { cache, counters, .. } = reached;
    let began = Instant::now();
    cache.close().await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    until("the count", async || counters.sum("ringtide_reader_retries_dropped_total", "invalidation") == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_overflows_drops_the_oldest_and_counts_them() {
    let reached = reached(config::Reader { retry_queue: 2, ..settings() }).await;
    for key in ["a", "b", "c"] {
        reached.store(key).await;
    }
    reached.proxy.refuse(true);
    reached.proxy.cut();
    for key in ["a", "b", "c"] {
        assert!(!reached.cache.invalidate(key).await.unwrap().is_done());
    }
    assert_eq!(reached.count("retries_dropped", "overflow"), 1);
    reached.proxy.heal();
    until("their delivery", async || !reached.server.exists("b").await && !reached.server.exists("c").await).await;
    assert!(reached.server.exists("a").await);
}

#[test]
fn what_a_runtime_has_left_behind_is_sent_by_another() {
    const KEYS: [&str; 3] = ["queued", "late", "begun"];
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let main = runtime();
    let reached = main.block_on(reached(settings()));
    main.block_on(async {
        for key in KEYS {
            reached.store(key).await;
        }
    });
    reached.server.freeze();
    let other = runtime();
    other.block_on(async {
        assert_eq!(reached.cache.invalidate("queued").await.unwrap().queued, 1);
        // This one is still on its way.
        let hurried = reached.cache.raw::<usize>().with(ReadOptions::new().timeout(COMMAND / 10));
        assert_eq!(hurried.invalidate("late").await.unwrap().queued, 1);
    });
    drop(other);
    // And this one has not begun.
    let idle = tokio::runtime::Builder::new_current_thread().build().unwrap();
    idle.block_on(async {
        assert!(futures_util::poll!(std::pin::pin!(reached.cache.invalidate("begun"))).is_pending());
    });
    drop(idle);
    reached.server.thaw();
    reached.origin.allow(1000);
    main.block_on(until("their delivery", async || {
        for key in KEYS {
            reached.read(key).await.unwrap();
        }
        reached.count("retries_sent", "invalidation") == KEYS.len() as u64
    }));
    main.block_on(reached.cache.close());
}
