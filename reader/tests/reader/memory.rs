//! The whole cache on ring shards in memory, as tests of applications use it.
#![cfg(feature = "memory")]

use std::convert::Infallible;
use std::time::Duration;

use ringtide::{Cache, CacheKey, CacheStatus, Codec, Error, LocalTier, MemoryServer, Space, SpaceSettings};

use super::support::{Counters, LONG, Origin, until};

async fn read(items: &Space<String>, origin: &Origin) -> Result<Option<String>, Error> {
    let origin = origin.clone();
    let load = move || {
        let origin = origin.clone();
        async move { Ok::<_, Infallible>(Some(format!("load {}", origin.load().await))) }
    };
    tokio::time::timeout(LONG, items.get_or_load(1, load)).await.expect("nobody hangs")
}

async fn items_on(server: &MemoryServer, settings: SpaceSettings) -> (Cache, Space<String>) {
    let cache = Cache::builder().memory_shard(server).space(settings).build().await.unwrap();
    let items = cache.space("item").unwrap();
    (cache, items)
}

fn item() -> SpaceSettings {
    SpaceSettings::new("item", "item:{pk}").local(LocalTier::Off)
}

fn loaded(number: usize) -> Option<String> {
    Some(format!("load {number}"))
}

#[tokio::test]
async fn one_line_gives_a_cache_without_a_server() {
    let cache = Cache::builder().space(item()).in_memory().build().await.unwrap();
    let (items, origin) = (cache.space::<String>("item").unwrap(), Origin::open());
    assert_eq!(read(&items, &origin).await.unwrap(), loaded(1));
    cache.settled().await;
    assert_eq!(read(&items, &origin).await.unwrap(), loaded(1));
    assert_eq!(items.invalidate(1).await.unwrap().applied.dropped, 1);
    assert_eq!(read(&items, &origin).await.unwrap(), loaded(2));
    cache.close().await;
}

#[tokio::test]
async fn caches_on_one_server_share_a_load_and_its_waiter_is_woken_by_the_fill() {
    let (server, origin) = (MemoryServer::new("a"), Origin::held());
    let ((_one, here), (_other, there)) = (items_on(&server, item()).await, items_on(&server, item()).await);
    let (holder, waiter) = (here.clone(), there.clone());
    let (load, wait) = (origin.clone(), origin.clone());
    let holder = tokio::spawn(async move { read(&holder, &load).await });
    origin.begun().await;
    let waiter = tokio::spawn(async move { read(&waiter, &wait).await });
    let registered = || server.value("lock:{item:1}").is_some_and(|lock| lock.len() > 48);
    until("the waiter's registration", async || registered()).await;
    origin.allow(1);
    assert_eq!(holder.await.unwrap().unwrap(), loaded(1));
    assert_eq!(waiter.await.unwrap().unwrap(), loaded(1));
    assert_eq!(origin.loads(), 1);
}

#[tokio::test]
async fn a_load_that_an_invalidation_overtook_is_not_stored() {
    let (server, origin) = (MemoryServer::new("a"), Origin::held());
    let (cache, items) = items_on(&server, item()).await;
    let (reader, load) = (items.clone(), origin.clone());
    let overtaken = tokio::spawn(async move { read(&reader, &load).await });
    origin.begun().await;
    assert_eq!(items.invalidate(1).await.unwrap().applied.voided, 1);
    origin.allow(1);
    assert_eq!(overtaken.await.unwrap().unwrap(), loaded(1), "it began before");
    cache.settled().await;
    assert_eq!(server.keys(), [""; 0]);
    origin.allow(1);
    assert_eq!(read(&items, &origin).await.unwrap(), loaded(2));
}

#[tokio::test]
async fn an_outage_ends_as_it_began() {
    let (server, origin) = (MemoryServer::new("a"), Origin::open());
    let (cache, items) = items_on(&server, item()).await;
    assert_eq!(read(&items, &origin).await.unwrap(), loaded(1));
    cache.settled().await;
    server.down(true);
    assert_eq!(read(&items, &origin).await.unwrap(), loaded(2));
    assert_eq!(read(&items, &origin).await.unwrap(), loaded(3));
    server.down(false);
    until("the cache's own look", async || read(&items, &origin).await.unwrap() == loaded(1)).await;
}

#[tokio::test]
async fn entries_are_evicted_and_expire_at_a_tests_word() {
    let (server, origin) = (MemoryServer::new("a"), Origin::open());
    let (cache, items) = items_on(&server, item().ttl(Duration::from_secs(60))).await;
    for number in 1..=3 {
        for _ in 0..2 {
            assert_eq!(read(&items, &origin).await.unwrap(), loaded(number));
            cache.settled().await;
        }
        match number {
            1 => assert!(server.evict("item:1")),
            _ => server.advance(Duration::from_secs(61)),
        }
    }
}

#[tokio::test]
async fn what_somebody_else_wrote_is_a_miss() {
    let (server, origin) = (MemoryServer::new("a"), Origin::open());
    let counters = Counters::default();
    let cache = counters.build(Cache::builder().memory_shard(&server).space(item().codec(Codec::Raw))).await;
    let items = cache.space("item").unwrap();
    server.put("item:1", "foreign", None);
    assert_eq!(read(&items, &origin).await.unwrap(), loaded(1));
    cache.settled().await;
    assert!(server.value("item:1").unwrap().ends_with(b"load 1"));
    assert_eq!(counters.sum("ringtide_reader_misses_total", "foreign"), 1);
}

#[tokio::test]
async fn keys_are_spread_over_several_servers() {
    let servers = ["a", "b", "c"].map(MemoryServer::new);
    let builder = servers.iter().fold(Cache::builder(), |builder, server| builder.memory_shard(server));
    let cache = builder.space(item()).build().await.unwrap();
    let (items, origin) = (cache.space::<u64>("item").unwrap(), Origin::open());
    for number in 0..60_u64 {
        let load = move || async move { Ok::<_, Infallible>(Some(number)) };
        assert_eq!(items.get_or_load(number, load).await.unwrap(), Some(number));
    }
    cache.settled().await;
    let kept = servers.each_ref().map(|server| server.keys().len());
    assert!(kept.iter().sum::<usize>() == 60 && kept.iter().all(|kept| *kept > 5), "{kept:?}");
    assert_eq!(origin.loads(), 0);
    let key = CacheKey::new("item:7").unwrap();
    assert!(servers.iter().any(|server| server.remaining(key.as_str()).is_some()));
}

#[tokio::test]
async fn a_tracked_value_is_forgotten_when_another_process_invalidates_it() {
    let (server, origin) = (MemoryServer::new("a"), Origin::open());
    let tracked = || item().local(LocalTier::Tracked(Duration::from_secs(600)));
    let counters = Counters::default();
    let cache = counters.build(Cache::builder().memory_shard(&server).space(tracked())).await;
    let items = cache.space("item").unwrap();
    let (_other, theirs) = items_on(&server, item()).await;
    until("a read from this process's memory", async || {
        assert_eq!(read(&items, &origin).await.unwrap(), loaded(1));
        cache.settled().await;
        counters.sum("ringtide_reader_local_hits_total", "") > 0
    })
    .await;
    let _ = theirs.invalidate(1).await.unwrap();
    assert_eq!(read(&items, &origin).await.unwrap(), loaded(2));
}

#[tokio::test]
async fn what_is_loaded_while_a_cache_is_closed_is_stored() {
    let (server, origin) = (MemoryServer::new("a"), Origin::held());
    let (cache, items) = items_on(&server, item()).await;
    let load = origin.clone();
    let reader = tokio::spawn(async move { read(&items, &load).await });
    origin.begun().await;
    let closing = tokio::spawn(cache.close());
    tokio::time::sleep(Duration::from_millis(20)).await;
    origin.allow(1);
    assert_eq!(reader.await.unwrap().unwrap(), loaded(1));
    closing.await.unwrap();
    assert!(server.value("item:1").is_some());
}

#[tokio::test]
async fn what_takes_too_long_does_not_keep_a_cache_from_being_closed() {
    let (server, origin) = (MemoryServer::new("a"), Origin::held());
    let (cache, items) = items_on(&server, item()).await;
    let load = origin.clone();
    let reader = tokio::spawn(async move { read(&items, &load).await });
    origin.begun().await;
    tokio::time::timeout(LONG, cache.close()).await.expect("it is closed");
    assert!(matches!(reader.await.unwrap(), Err(Error::Closed { .. })));
    assert!(server.value("lock:{item:1}").is_none(), "the lease is given back");
}

#[tokio::test]
async fn time_that_passes_makes_entries_stale() {
    let (server, origin) = (MemoryServer::new("a"), Origin::open());
    let minute = Duration::from_secs(60);
    let space = item().ttl(minute).ttl_jitter(0.0).stale_while_revalidate(5 * minute);
    let (cache, items) = items_on(&server, space).await;
    assert_eq!(read(&items, &origin).await.unwrap(), loaded(1));
    cache.settled().await;
    server.advance(minute / 2);
    let fresh = items.peek(1).await.unwrap().unwrap();
    assert!(fresh.status == CacheStatus::Hit && fresh.fresh_for.unwrap() <= minute / 2, "{fresh:?}");
    server.advance(minute);
    assert_eq!(items.peek(1).await.unwrap().unwrap().status, CacheStatus::Stale);
    assert_eq!(read(&items, &origin).await.unwrap(), loaded(1), "served while it is loaded again");
    cache.settled().await;
    assert_eq!(read(&items, &origin).await.unwrap(), loaded(2));
    server.advance(7 * minute);
    assert_eq!(items.peek(1).await.unwrap(), None);
}

#[tokio::test]
async fn in_an_outage_an_invalidation_takes_no_other_keys_copy() {
    let (server, origin) = (MemoryServer::new("a"), Origin::held());
    let (_cache, items) = items_on(&server, item().local(LocalTier::Fallback(LONG))).await;
    server.down(true);
    let (here, load) = (items.clone(), origin.clone());
    let reader = tokio::spawn(async move { read(&here, &load).await });
    origin.begun().await;
    assert_eq!(items.invalidate(2).await.unwrap().queued, 1);
    origin.allow(1);
    assert_eq!(reader.await.unwrap().unwrap(), loaded(1));
    assert_eq!(read(&items, &origin).await.unwrap(), loaded(1), "by the copy");
}

#[tokio::test]
async fn after_an_invalidation_no_read_shares_the_error_of_a_load_from_before() {
    let server = MemoryServer::new("a");
    let (_cache, items) = items_on(&server, item()).await;
    let fails = || async { Err::<Option<String>, _>(std::io::Error::other("the item is locked")) };
    items.get_or_load(1, fails).await.unwrap_err();
    let origin = Origin::open();
    read(&items, &origin).await.unwrap_err();
    assert_eq!(origin.loads(), 0, "the error is shared for a moment");
    assert!(items.invalidate(1).await.unwrap().is_done());
    assert_eq!(read(&items, &origin).await.unwrap(), loaded(1));
}

#[tokio::test]
async fn nor_that_of_one_which_fails_after_it() {
    let server = MemoryServer::new("a");
    let (_cache, items) = items_on(&server, item()).await;
    let (held, here) = (Origin::held(), items.clone());
    let load = held.clone();
    let fails = move || {
        let load = load.clone();
        async move {
            load.load().await;
            Err::<Option<String>, _>(std::io::Error::other("the item is locked"))
        }
    };
    let before = tokio::spawn(async move { here.get_or_load(1, fails).await });
    held.begun().await;
    assert!(items.invalidate(1).await.unwrap().is_done());
    held.allow(10);
    before.await.unwrap().unwrap_err();
    assert_eq!(read(&items, &Origin::open()).await.unwrap(), loaded(1));
}
