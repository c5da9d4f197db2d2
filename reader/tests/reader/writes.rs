//! Invalidating after a write, and waiting for what goes on in the background.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringtide::{Applied, Cache, CacheBuilder, Loaded, LocalTier, Mode, ReadOptions, Space, SpaceSettings, config};

use super::support::{Counters, LONG, Origin, Server, builder, cache, until};

async fn read(cache: &Cache, key: &str, row: &Arc<AtomicU64>, origin: &Origin) -> u64 {
    let (row, origin) = (row.clone(), origin.clone());
    let load = move || {
        let (row, origin) = (row.clone(), origin.clone());
        async move {
            let read = row.load(Ordering::SeqCst);
            origin.load().await;
            Ok::<_, Infallible>(Some(read))
        }
    };
    tokio::time::timeout(LONG, cache.get_or_load(key, load)).await.expect("nobody hangs").unwrap().unwrap()
}

fn with_space(server: &Server, mode: Mode) -> CacheBuilder {
    builder(server).space(SpaceSettings::new("item", "item:{pk}").mode(mode))
}

/// Reads item 1, whose loads return `number`.
async fn load(cache: &Cache, number: u64) -> Option<u64> {
    let items = cache.space::<u64>("item").unwrap();
    let load = move || async move { Ok::<_, Infallible>(Loaded::new(Some(number)).version_number(number.into())) };
    items.get_or_load(1, load).await.unwrap()
}

/// As [`load`], and waits for the fill.
async fn fill(cache: &Cache, number: u64) -> Option<u64> {
    let read = load(cache, number).await;
    cache.settled().await;
    read
}

#[tokio::test]
async fn an_invalidation_says_what_it_did_and_a_second_one_finds_nothing() {
    let server = Server::start().await;
    let counters = Counters::default();
    let (cache, row, origin) = (counters.build(builder(&server)).await, Arc::new(AtomicU64::new(1)), Origin::open());
    assert_eq!(read(&cache, "key", &row, &origin).await, 1);
    cache.settled().await;
    row.store(2, Ordering::SeqCst);
    let first = cache.invalidate("key").await.unwrap();
    assert_eq!(first.applied, Applied { dropped: 1, ..Applied::default() });
    assert!(first.is_done());
    assert_eq!(read(&cache, "key", &row, &origin).await, 2);
    let _ = cache.invalidate("key").await.unwrap();
    let again = cache.invalidate("key").await.unwrap();
    assert_eq!(again.applied.absent, 1);
    assert!(cache.invalidate("").await.is_err());
    assert_eq!(counters.sum("ringtide_reader_invalidations_total", "absent"), 1);
}

#[tokio::test]
async fn many_keys_travel_in_batches_to_the_shards_that_own_them() {
    let (a, b) = (Server::start().await, Server::start().await);
    let settings = SpaceSettings::new("item", "item:{pk}");
    let cache = builder(&a).shard("b", b.address()).space(settings).build().await.unwrap();
    let items = cache.space::<u64>("item").unwrap();
    for pk in 0..1000_u64 {
        items.get_or_load(pk, move || async move { Ok::<_, Infallible>(Some(pk)) }).await.unwrap();
    }
    cache.settled().await;
    a.forget_calls().await;
    b.forget_calls().await;
    // Every key twice, which counts once.
    let invalidated = items.invalidate_many((0..1000_u64).chain(0..1000)).await.unwrap();
    assert_eq!(invalidated.applied, Applied { dropped: 1000, ..Applied::default() });
    // The script is brought along by a second call where a server does not know it yet.
    let calls = (a.calls("evalsha").await + b.calls("evalsha").await, a.calls("eval").await + b.calls("eval").await);
    assert!(calls.0 <= 7 && calls.1 <= 7, "{calls:?} calls for about 500 keys on each");
    assert!(!a.exists("item:1").await && !b.exists("item:1").await);
}

#[tokio::test]
async fn a_read_that_begins_afterwards_is_not_answered_by_a_load_begun_before() {
    let server = Server::start().await;
    let (cache, row, origin) = (cache(&server).await, Arc::new(AtomicU64::new(1)), Origin::held());
    let early = tokio::spawn({
        let (cache, row, origin) = (cache.clone(), row.clone(), origin.clone());
        async move { read(&cache, "key", &row, &origin).await }
    });
    origin.begun().await;
    row.store(2, Ordering::SeqCst);
    let invalidated = cache.invalidate("key").await.unwrap();
    assert_eq!((invalidated.applied.absent, invalidated.applied.voided), (1, 1));
    let mut late = std::pin::pin!(read(&cache, "key", &row, &origin));
    // It has joined the flight before the load of that may return.
    assert!(futures_util::poll!(&mut late).is_pending());
    tokio::task::yield_now().await;
    origin.allow(100);
    assert_eq!(late.await, 2);
    assert_eq!(early.await.unwrap(), 1, "it began before the change");
}

#[tokio::test]
async fn neither_is_it_while_the_shard_is_down_and_the_invalidation_waits() {
    let mut server = Server::start().await;
    let (cache, row, origin) = (cache(&server).await, Arc::new(AtomicU64::new(1)), Origin::held());
    let early = tokio::spawn({
        let (cache, row, origin) = (cache.clone(), row.clone(), origin.clone());
        async move { read(&cache, "key", &row, &origin).await }
    });
    origin.begun().await;
    server.kill();
    row.store(2, Ordering::SeqCst);
    let invalidated = cache.invalidate("key").await.unwrap();
    assert_eq!((invalidated.queued, invalidated.is_done()), (1, false));
    let late = tokio::spawn({
        let (cache, row, origin) = (cache.clone(), row.clone(), origin.clone());
        async move { read(&cache, "key", &row, &origin).await }
    });
    tokio::task::yield_now().await;
    origin.allow(100);
    assert_eq!(late.await.unwrap(), 2);
    assert_eq!(early.await.unwrap(), 1);
    server.restart().await;
    tokio::time::timeout(LONG, cache.settled()).await.expect("the invalidation is delivered");
}

#[tokio::test]
async fn what_a_shard_did_not_answer_is_sent_again() {
    let server = Server::start().await;
    let row = Arc::new(AtomicU64::new(1));
    let cache = builder(&server).command_timeout(Duration::from_millis(100)).build().await.unwrap();
    read(&cache, "key", &row, &Origin::open()).await;
    cache.settled().await;
    server.freeze();
    let invalidated = cache.invalidate("key").await.unwrap();
    assert_eq!(invalidated.queued, 1);
    server.thaw();
    tokio::time::timeout(LONG, cache.settled()).await.expect("the invalidation is delivered");
    assert!(!server.exists("key").await);
}

#[tokio::test]
async fn a_key_whose_invalidation_waits_is_not_read_from_the_shard_that_still_holds_it() {
    let server = Server::start().await;
    let settings = SpaceSettings::new("item", "item:{pk}").local(LocalTier::Off);
    let cache = builder(&server).space(settings).build().await.unwrap();
    let items = cache.space::<u64>("item").unwrap();
    assert_eq!(fill(&cache, 1).await, Some(1));
    let scripts = async |allowed: &str| {
        let rights = [format!("{allowed}eval"), format!("{allowed}evalsha")];
        let set = redis::cmd("ACL").arg("SETUSER").arg("default").arg(&rights).clone();
        set.exec_async(&mut server.connection().await).await.unwrap();
    };
    scripts("-").await;
    assert_eq!(items.invalidate(1).await.unwrap().queued, 1);
    assert!(server.exists("item:1").await, "the server would answer a plain look-up with the old value");
    assert_eq!(load(&cache, 2).await, Some(2));
    let load_many = |keys: Vec<u64>| async move {
        Ok::<_, Infallible>(keys.into_iter().map(|key| (key, 3)).collect::<HashMap<_, u64>>())
    };
    assert_eq!(items.get_many([1], load_many).await.into_values().unwrap(), [Some(3)]);
    scripts("+").await;
    tokio::time::timeout(LONG, cache.settled()).await.expect("the invalidation is delivered");
    assert!(!server.exists("item:1").await);
    assert_eq!(fill(&cache, 4).await, Some(4));
    assert_eq!(fill(&cache, 5).await, Some(4), "cached again");
}

#[tokio::test]
async fn in_settle_mode_what_lagging_loads_have_stored_meanwhile_is_dropped_too() {
    let server = Server::start().await;
    let after = Duration::from_millis(400);
    let cache = with_space(&server, Mode::Settle { after }).build().await.unwrap();
    let began = Instant::now();
    let _ = cache.space::<u64>("item").unwrap().invalidate(1).await.unwrap();
    let items = cache.space::<u64>("item").unwrap();
    items.get_or_load(1, || async { Ok::<_, Infallible>(Some(7)) }).await.unwrap();
    until("the lagging fill", async || server.exists("item:1").await).await;
    assert!(began.elapsed() < after, "the test is too slow to show anything");
    cache.settled().await;
    assert!(began.elapsed() >= after);
    assert!(!server.exists("item:1").await);
}

#[tokio::test]
async fn a_cache_that_is_closed_repeats_its_invalidations_at_once() {
    let server = Server::start().await;
    let cache = with_space(&server, Mode::Settle { after: LONG * 100 }).build().await.unwrap();
    let items = cache.space::<u64>("item").unwrap();
    let _ = items.invalidate(1).await.unwrap();
    items.get_or_load(1, || async { Ok::<_, Infallible>(Some(7)) }).await.unwrap();
    until("the fill", async || server.exists("item:1").await).await;
    tokio::time::timeout(LONG, cache.close()).await.unwrap();
    assert!(!server.exists("item:1").await);
}

/// A cache of 4,000 entries, whose invalidation takes many calls.
async fn with_many(server: &Server) -> (Cache, Space<u64>) {
    let cache = with_space(server, Mode::Plain).build().await.unwrap();
    let items = cache.space::<u64>("item").unwrap();
    let load = |keys: Vec<u64>| async move {
        Ok::<_, Infallible>(keys.into_iter().map(|key| (key, 1)).collect::<HashMap<_, _>>())
    };
    assert_eq!(items.get_many(0..MANY, load).await.into_found().count() as u64, MANY);
    cache.settled().await;
    (cache, items)
}

const MANY: u64 = 4000;

async fn entries(server: &Server) -> usize {
    let keys: Vec<String> = redis::cmd("KEYS").arg("item:*").query_async(&mut server.connection().await).await.unwrap();
    keys.len()
}

#[tokio::test]
async fn an_invalidation_whose_caller_left_goes_on() {
    let server = Server::start().await;
    let (cache, items) = with_many(&server).await;
    assert_eq!(entries(&server).await as u64, MANY);
    server.freeze();
    let left = tokio::time::timeout(Duration::from_millis(50), items.invalidate_many(0..MANY)).await;
    assert!(left.is_err(), "the caller had an answer");
    server.thaw();
    tokio::time::timeout(LONG, cache.settled()).await.unwrap();
    assert_eq!(entries(&server).await, 0);
}

#[tokio::test]
async fn an_invalidation_ends_with_its_callers_time_and_is_owed_from_then_on() {
    let server = Server::start().await;
    let (cache, items) = with_many(&server).await;
    server.freeze();
    let hurried = items.with(ReadOptions::new().timeout(Duration::from_millis(50)));
    let began = Instant::now();
    let invalidated = hurried.invalidate_many(0..MANY).await.unwrap();
    assert!(began.elapsed() < LONG / 2, "{:?}", began.elapsed());
    assert_eq!((invalidated.queued, invalidated.is_done()), (MANY, false));
    for key in [0, MANY - 1] {
        let read = items.get_or_load(key, || async { Ok::<_, Infallible>(Some(2)) });
        let read = tokio::time::timeout(LONG / 2, read).await.expect("it is loaded past the ring shard");
        assert_eq!(read.unwrap(), Some(2), "the ring shard holds the old value");
    }
    server.thaw();
    tokio::time::timeout(LONG, cache.settled()).await.unwrap();
    assert_eq!(entries(&server).await, 0);
}

#[tokio::test]
async fn an_invalidation_that_is_late_takes_no_place_in_the_queue_and_owes_what_is_not_answered_only() {
    let (a, b) = (Server::start().await, Server::start().await);
    let (counters, reader) = (Counters::default(), config::Reader { retry_queue: 1, ..config::Reader::default() });
    let builder = with_space(&a, Mode::Plain).shard("b", b.address()).reader(reader);
    let cache = counters.build(builder).await;
    let items = cache.space::<u64>("item").unwrap();
    let load = |keys: Vec<u64>| async move {
        Ok::<_, Infallible>(keys.into_iter().map(|key| (key, 1)).collect::<HashMap<_, _>>())
    };
    assert_eq!(items.get_many(0..100, load).await.into_found().count(), 100);
    cache.settled().await;
    b.freeze();
    let hurried = items.with(ReadOptions::new().timeout(Duration::from_millis(500)));
    let told = hurried.invalidate_many(0..100).await.unwrap();
    assert_eq!((told.applied.dropped + told.queued, told.gone), (100, 0), "{told:?}");
    assert!(told.applied.dropped > 0 && told.queued > 1, "each of the two owns some: {told:?}");
    let dropped = || counters.sum("ringtide_reader_retries_dropped_total", "overflow");
    assert_eq!(dropped(), 0, "what is on its way is not lost");
    let read_all = async || {
        for key in 0..100_u64 {
            let read = items.get_or_load(key, || async { Ok::<_, Infallible>(Some(2)) });
            let read = tokio::time::timeout(LONG / 2, read).await.expect("what is owed is loaded past its ring shard");
            assert_eq!(read.unwrap(), Some(2), "key {key}");
        }
    };
    read_all().await;
    until("the fills", async || entries(&a).await as u64 == told.applied.dropped).await;
    b.thaw();
    tokio::time::timeout(LONG, cache.settled()).await.unwrap();
    assert_eq!((entries(&b).await, dropped()), (0, 0));
    read_all().await;
    until("the fills of what is not owed any more", async || entries(&b).await as u64 == told.queued).await;
}

#[tokio::test]
async fn an_entry_that_is_as_new_as_the_write_stays() {
    let server = Server::start().await;
    let mode = Mode::Versioned { attribute: "v".into(), tombstone: None };
    let cache = with_space(&server, mode).build().await.unwrap();
    let items = cache.space::<u64>("item").unwrap();
    assert_eq!(fill(&cache, 5).await, Some(5));
    for (number, older, dropped) in [(4, 1, 0), (5, 1, 0), (6, 0, 1)] {
        let applied = items.invalidate_version(1, number).await.unwrap().applied;
        assert_eq!((applied.older, applied.dropped), (older, dropped), "version {number}");
    }
    assert_eq!(fill(&cache, 6).await, Some(6));
}

#[tokio::test]
async fn without_a_version_a_drop_is_repeated_when_a_tombstones_time_is_over() {
    let server = Server::start().await;
    let mode = Mode::Versioned { attribute: "v".into(), tombstone: Some(Duration::from_millis(300)) };
    let cache = with_space(&server, mode).build().await.unwrap();
    let items = cache.space::<u64>("item").unwrap();
    let _ = items.invalidate(1).await.unwrap();
    items.get_or_load(1, || async { Ok::<_, Infallible>(Some(7)) }).await.unwrap();
    until("the lagging fill", async || server.exists("item:1").await).await;
    cache.settled().await;
    assert!(!server.exists("item:1").await);
    // With a version the tombstone itself keeps lagging loads out, for its time.
    let _ = items.invalidate_version(1, 9).await.unwrap();
    let began = Instant::now();
    cache.settled().await;
    assert!(began.elapsed() < Duration::from_millis(300), "nothing is to be repeated");
}

#[tokio::test]
async fn settled_waits_for_the_fill_of_a_load_that_nobody_waits_for_any_more() {
    let server = Server::start().await;
    let (cache, row, origin) = (cache(&server).await, Arc::new(AtomicU64::new(1)), Origin::held());
    let given_up = tokio::time::timeout(Duration::from_millis(20), read(&cache, "key", &row, &origin)).await;
    assert!(given_up.is_err());
    origin.begun().await;
    let mut settled = std::pin::pin!(cache.settled());
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut settled).await.is_err(), "the load is under way");
    origin.allow(1);
    settled.await;
    assert!(server.exists("key").await);
    assert!(!server.exists("lock:{key}").await);
    // And again, and with nothing under way.
    cache.settled().await;
}
