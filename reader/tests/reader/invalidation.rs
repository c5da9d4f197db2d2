//! Changes while a load is under way: no stale entry, and no starved reader.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ringtide::{Cache, CacheKey, Consistency, Loaded, Mode, SpaceSettings, Version};
use ringtide_core::entry::{Codec, Entry, Header};
use ringtide_core::valkey::{Fill, LeaseRequest, Shard, Token};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

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
    let loaded = items.get_or_load_with(1, load).await.unwrap();
    assert_eq!(loaded, Some(5), "what is known to lag is nobody's answer");
    until("the fill", async || counters.sum("ringtide_reader_fills_total", "stored") == 1).await;
    assert_eq!(*asked.lock().await, [Consistency::AsUsual, Consistency::Strong]);
    let cached = items.get_or_load(1, || async { Err::<Option<u64>, _>("loaded although cached") }).await;
    assert_eq!(cached.unwrap(), Some(5));
}

#[tokio::test]
async fn where_versions_are_compared_what_turns_out_void_is_nobodys_answer() {
    what_turns_out_void_is_nobodys_answer(|loaded| loaded).await;
}

#[tokio::test]
async fn neither_is_it_where_it_is_not_to_be_stored() {
    what_turns_out_void_is_nobodys_answer(Loaded::uncached).await;
}

async fn what_turns_out_void_is_nobodys_answer(form: fn(Loaded<u64>) -> Loaded<u64>) {
    let server = Server::start().await;
    let shard = server.shard().await;
    let mode = Mode::Versioned { attribute: "v".into(), tombstone: None };
    let settings = SpaceSettings::new("item", "item:{pk}").mode(mode.clone());
    let cache = builder(&server).space(settings).build().await.unwrap();
    let (items, origin) = (cache.space::<u64>("item").unwrap(), Origin::held());
    let load = {
        let origin = origin.clone();
        move || {
            let origin = origin.clone();
            async move {
                let version = origin.load().await as u64;
                Ok::<_, Infallible>(form(Loaded::new(Some(version)).version_number(version.into())))
            }
        }
    };
    let read = tokio::spawn(async move { tokio::time::timeout(LONG, items.get_or_load(1, load)).await });
    origin.begun().await;
    // As a deletion, whose record has no version: whoever takes the lease now may store what is older than this load's value.
    invalidate(&shard, "item:1", mode, Version::NONE).await;
    origin.allow(1);
    origin.begun().await;
    origin.allow(1);
    assert_eq!(read.await.unwrap().expect("nobody hangs").unwrap(), Some(2));
}

#[tokio::test]
async fn however_often_a_load_lags_it_is_nobodys_answer_while_another_may_be_made() {
    let server = Server::start().await;
    let shard = server.shard().await;
    let mode = Mode::Versioned { attribute: "v".into(), tombstone: Some(Duration::from_secs(30)) };
    let settings = SpaceSettings::new("item", "item:{pk}").mode(mode.clone());
    let cache = builder(&server).space(settings).build().await.unwrap();
    let items = cache.space::<u64>("item").unwrap();
    invalidate(&shard, "item:1", mode, Version::from_number(5)).await;
    let loads = Arc::new(AtomicU64::new(0));
    let counted = loads.clone();
    // Nobody tells it that its load is to be strong.
    let load = move || {
        let version = if counted.fetch_add(1, Ordering::SeqCst) < 2 { 3 } else { 5 };
        async move { Ok::<_, Infallible>(Loaded::new(Some(version)).version_number(version.into())) }
    };
    assert_eq!(items.get_or_load(1, load).await.unwrap(), Some(5));
    assert_eq!(loads.load(Ordering::SeqCst), 3);
}

/// A lease that somebody else holds, and a read that waits for it.
async fn waiting(server: &Server, shard: &Shard, cache: &Cache, holder: Token) -> JoinHandle<Option<u64>> {
    take_lease(shard, holder).await;
    server.forget_calls().await;
    let reader = reading(cache);
    until("the reader's wait", async || server.calls("append").await == 1).await;
    reader
}

async fn take_lease(shard: &Shard, token: Token) {
    let request = LeaseRequest { token, ttl: LONG, inbox: None, refresh_before_ms: 0 };
    shard.lease(&CacheKey::new("key").unwrap(), &request).await.unwrap();
}

fn reading(cache: &Cache) -> JoinHandle<Option<u64>> {
    let cache = cache.clone();
    tokio::spawn(async move {
        let load = || async { Err::<Option<u64>, _>("another holds the lease") };
        tokio::time::timeout(LONG, cache.get_or_load("key", load)).await.unwrap().unwrap()
    })
}

fn json(payload: &'static str) -> Bytes {
    Entry { header: Header::value(Codec::Json), payload: payload.into() }.to_bytes()
}

fn filled(holder: Token, payload: &'static str) -> Vec<u8> {
    [b"F", &holder.as_bytes()[..], b"\0\x03key", &json(payload)].concat()
}

fn fill_of(token: Token, payload: &'static str) -> Fill {
    let (version, proven) = (Version::NONE, Version::NONE);
    Fill { token, version, proven, ttl: LONG, entry: json(payload), inline_max: 1024 }
}

#[tokio::test]
async fn who_joins_while_the_lease_is_held_is_answered_by_its_notice() {
    let server = Server::start().await;
    let counters = Counters::default();
    let (shard, cache) = (server.shard().await, counters.build(builder(&server)).await);
    until("the inbox", async || server.subscribers().await == 1).await;
    let holder = Token::random();
    let first = waiting(&server, &shard, &cache, holder).await;
    let second = reading(&cache);
    until("the second reader", async || counters.sum("ringtide_reader_joined_total", "") == 1).await;
    // Three of the first reader and its lease, one of the second reader, and one of the lock after that had joined.
    until("a look at the lock", async || server.calls("get").await == 5).await;
    shard.fill(&CacheKey::new("key").unwrap(), &fill_of(holder, "2")).await.unwrap();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (Some(2), Some(2)));
    assert_eq!(server.calls("get").await, 7, "two of the fill: nobody had to look again");
}

#[tokio::test]
async fn who_joins_after_the_lease_was_filled_is_not_answered_by_its_notice() {
    let server = Server::start().await;
    let counters = Counters::default();
    let (shard, cache) = (server.shard().await, counters.build(builder(&server)).await);
    until("the inbox", async || server.subscribers().await == 1).await;
    let (key, holder, next) = (CacheKey::new("key").unwrap(), Token::random(), Token::random());
    let first = waiting(&server, &shard, &cache, holder).await;
    // Filled, though its notice is still on its way; then invalidated, and leased anew.
    let unlink = redis::cmd("UNLINK").arg(key.lock()).clone();
    unlink.exec_async(&mut server.connection().await).await.unwrap();
    take_lease(&shard, next).await;
    let second = reading(&cache);
    until("the second reader", async || counters.sum("ringtide_reader_joined_total", "") == 1).await;
    until("a look at the lock", async || server.calls("get").await >= 6).await;

    server.tell_all(&filled(holder, "1")).await;
    assert_eq!(first.await.unwrap(), Some(1), "it began before the lease was filled");
    shard.fill(&key, &fill_of(next, "2")).await.unwrap();
    assert_eq!(second.await.unwrap(), Some(2), "it began after a change that the notice does not know");
}

#[tokio::test]
async fn a_late_notice_of_an_earlier_lease_answers_nobody() {
    let server = Server::start().await;
    let (shard, cache) = (server.shard().await, builder(&server).build().await.unwrap());
    until("the inbox", async || server.subscribers().await == 1).await;
    let (earlier, holder) = (Token::random(), Token::random());
    let reader = waiting(&server, &shard, &cache, holder).await;
    server.tell_all(&filled(earlier, "1")).await;
    // The reader looks again, and waits again.
    until("the reader's next look", async || server.calls("evalsha").await >= 2).await;
    shard.fill(&CacheKey::new("key").unwrap(), &fill_of(holder, "2")).await.unwrap();
    assert_eq!(reader.await.unwrap(), Some(2));
}
