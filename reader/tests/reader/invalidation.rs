//! Changes while a load is under way: no stale entry, and no starved reader.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ringtide::{CacheKey, Consistency, Loaded, Mode, SpaceSettings, Version};
use ringtide_core::entry::{Codec, Entry, Header};
use ringtide_core::valkey::{Fill, LeaseRequest, Token};
use tokio::sync::Mutex;

use super::support::{Counters, LONG, Origin, Server, builder, invalidate, until};

type Row = std::pin::Pin<Box<dyn Future<Output = Result<Option<u64>, Infallible>> + Send>>;

/// Loads the row as it is when the load begins, and returns it when the origin lets it.
fn loader(row: &Arc<AtomicU64>, origin: &Origin) -> impl Fn() -> Row + Send + Sync + use<> {
    let (row, origin) = (row.clone(), origin.clone());
    move || {
        let (row, origin) = (row.clone(), origin.clone());
        Box::pin(async move {
            let read = row.load(Ordering::SeqCst);
            origin.load().await;
            Ok(Some(read))
        })
    }
}

#[tokio::test]
async fn an_invalidation_voids_the_fill_of_a_load_begun_before_it() {
    let server = Server::start().await;
    let shard = server.shard().await;
    let (counters, origin, row) = (Counters::default(), Origin::held(), Arc::new(AtomicU64::new(1)));
    let cache = counters.build(builder(&server)).await;
    let leader = tokio::spawn({
        let (cache, load) = (cache.clone(), loader(&row, &origin));
        async move { cache.get_or_load("key", load).await }
    });
    origin.begun().await;
    row.store(2, Ordering::SeqCst);
    invalidate(&shard, "key", Mode::Plain, Version::NONE).await;
    origin.allow(1);
    assert_eq!(leader.await.unwrap().unwrap(), Some(1), "it began before the change");
    until("the fill's verdict", async || counters.sum("ringtide_reader_fills_total", "void") == 1).await;
    assert!(!server.exists("key").await);
    assert_eq!(origin.loads(), 1);
}

#[tokio::test]
async fn a_reader_that_comes_after_the_change_gets_the_new_value() {
    let server = Server::start().await;
    let shard = server.shard().await;
    let (counters, origin, row) = (Counters::default(), Origin::held(), Arc::new(AtomicU64::new(1)));
    let (here, there) = (counters.build(builder(&server)).await, builder(&server).build().await.unwrap());
    let read = |cache: &ringtide::Cache| {
        let (cache, load) = (cache.clone(), loader(&row, &origin));
        tokio::spawn(async move { tokio::time::timeout(LONG, cache.get_or_load("key", load)).await.unwrap().unwrap() })
    };
    let leader = read(&here);
    origin.begun().await;
    let elsewhere = read(&there);
    until("the wait", async || server.calls("append").await == 1).await;
    row.store(2, Ordering::SeqCst);
    invalidate(&shard, "key", Mode::Plain, Version::NONE).await;
    let follower = read(&here);
    until("the follower", async || counters.sum("ringtide_reader_joined_total", "") == 1).await;
    origin.allow(100);
    assert_eq!(leader.await.unwrap(), Some(1), "it began before the change");
    assert_eq!(follower.await.unwrap(), Some(2));
    assert_eq!(elsewhere.await.unwrap(), Some(2));
    assert!(origin.loads() <= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_changes_all_the_time_starves_no_reader_and_is_never_read_stale() {
    let server = Server::start().await;
    let shard = server.shard().await;
    let (row, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let delivered = Arc::new(AtomicU64::new(0));
    let writer = tokio::spawn({
        let (row, stop, delivered) = (row.clone(), stop.clone(), delivered.clone());
        async move {
            while !stop.load(Ordering::SeqCst) {
                let now = row.fetch_add(1, Ordering::SeqCst) + 1;
                invalidate(&shard, "key", Mode::Plain, Version::NONE).await;
                delivered.store(now, Ordering::SeqCst);
            }
        }
    });
    let mut caches = Vec::new();
    for _ in 0..2 {
        caches.push(builder(&server).build().await.unwrap());
    }
    let loads = Arc::new(AtomicU64::new(0));
    let readers: Vec<_> = (0..64)
        .map(|at| {
            let (cache, row, delivered, loads) =
                (caches[at % 2].clone(), row.clone(), delivered.clone(), loads.clone());
            tokio::spawn(async move {
                for _ in 0..20 {
                    let at_least = delivered.load(Ordering::SeqCst);
                    let (row, loads) = (row.clone(), loads.clone());
                    let load = move || {
                        let (row, loads) = (row.clone(), loads.clone());
                        async move {
                            loads.fetch_add(1, Ordering::SeqCst);
                            let read = row.load(Ordering::SeqCst);
                            tokio::time::sleep(Duration::from_millis(2)).await;
                            Ok::<_, Infallible>(Some(read))
                        }
                    };
                    let read = tokio::time::timeout(LONG, cache.get_or_load("key", load)).await.expect("starved");
                    let read = read.unwrap().unwrap();
                    assert!(read >= at_least, "{read} was read after {at_least} was delivered");
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    writer.await.unwrap();
    let loads = loads.load(Ordering::SeqCst);
    assert!(loads < 64 * 20, "{loads} loads for 1280 reads: reads share them even so");
}

#[tokio::test]
async fn a_load_below_the_floor_is_repeated_strongly_under_the_same_lease() {
    let server = Server::start().await;
    let shard = server.shard().await;
    let mode = Mode::Versioned { attribute: "v".into(), tombstone: Some(Duration::from_secs(30)) };
    let settings = SpaceSettings::new("item", "item:{pk}").mode(mode.clone());
    let counters = Counters::default();
    let cache = counters.build(builder(&server).space(settings)).await;
    let items = cache.space::<u64>("item").unwrap();
    invalidate(&shard, "item:1", mode, Version::from_number(5)).await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let load = {
        let asked = asked.clone();
        move |consistency| {
            let asked = asked.clone();
            async move {
                asked.lock().await.push(consistency);
                let version = if consistency == Consistency::Strong { 5 } else { 3 };
                Ok::<_, Infallible>(Loaded::new(Some(version)).version_number(version.into()))
            }
        }
    };
    items.get_or_load_with(1, load).await.unwrap();
    until("the fill", async || counters.sum("ringtide_reader_fills_total", "stored") == 1).await;
    assert_eq!(*asked.lock().await, [Consistency::AsUsual, Consistency::Strong]);
    let cached = items.get_or_load(1, || async { Err::<Option<u64>, _>("loaded although cached") }).await;
    assert_eq!(cached.unwrap(), Some(5));
}

#[tokio::test]
async fn a_late_notice_of_an_earlier_lease_answers_nobody() {
    let server = Server::start().await;
    let (shard, cache) = (server.shard().await, builder(&server).build().await.unwrap());
    until("the inbox", async || server.subscribers().await == 1).await;
    let key = CacheKey::new("key").unwrap();
    let (earlier, holder) = (Token::random(), Token::random());
    let request = LeaseRequest { token: holder, ttl: LONG, inbox: None, refresh_before_ms: 0 };
    shard.lease(&key, &request).await.unwrap();
    server.forget_calls().await;
    let reader = tokio::spawn(async move {
        let load = || async { Err::<Option<u64>, _>("another holds the lease") };
        tokio::time::timeout(LONG, cache.get_or_load("key", load)).await.unwrap().unwrap()
    });
    until("the reader's wait", async || server.calls("append").await == 1).await;

    let entry =
        |payload: &'static str| Entry { header: Header::value(Codec::Json), payload: payload.into() }.to_bytes();
    let late = [b"F", &earlier.as_bytes()[..], b"\0\x03key", &entry("1")].concat();
    server.tell_all(&late).await;
    // The reader looks again, and waits again.
    until("the reader's next look", async || server.calls("evalsha").await >= 2).await;
    let fill = Fill {
        token: holder,
        version: Version::NONE,
        proven: Version::NONE,
        ttl: LONG,
        entry: entry("2"),
        inline_max: 1024,
    };
    shard.fill(&key, &fill).await.unwrap();
    assert_eq!(reader.await.unwrap(), Some(2));
}
