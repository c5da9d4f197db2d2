//! Serving stale on purpose: past the time to live, where loads fail or take long, and never what has changed unless told.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use ringtide::{Cache, Error, Loaded, LocalTier, Mode, ReadOptions, Space, SpaceSettings, Version, config};
use tokio::task::JoinHandle;

use super::support::{Counters, LONG, Origin, Server, builder, invalidate, until};

const WINDOW: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(40);

struct Stage {
    server: Server,
    counters: Counters,
    origin: Origin,
    items: Space<usize>,
    _cache: Cache,
}

impl Stage {
    /// A cache with a key space of a short time to live, and one value in it: 1.
    async fn with(settings: impl FnOnce(SpaceSettings) -> SpaceSettings) -> Self {
        let server = Server::start().await;
        let (counters, origin) = (Counters::default(), Origin::held());
        let item = settings(SpaceSettings::new("item", "item:{pk}").ttl(SHORT).ttl_jitter(0.0));
        let cache = counters.build(builder(&server).space(item)).await;
        let stage = Self { items: cache.space("item").unwrap(), server, counters, origin, _cache: cache };
        stage.origin.allow(1);
        assert_eq!(stage.read(ReadOptions::new()).await.unwrap().unwrap(), Some(1));
        stage.origin.begun().await;
        until("the fill", async || stage.server.exists("item:a").await).await;
        stage
    }

    /// Reads with a loader that returns the number of its load, when it is allowed to.
    fn read(&self, options: ReadOptions) -> JoinHandle<Result<Option<usize>, Error>> {
        self.read_or(options, Ok)
    }

    fn read_or(
        &self,
        options: ReadOptions,
        end: impl Fn(usize) -> Result<usize, io::Error> + Clone + Send + Sync + 'static,
    ) -> JoinHandle<Result<Option<usize>, Error>> {
        let (items, origin) = (self.items.with(options), self.origin.clone());
        tokio::spawn(async move {
            let load = move || {
                let (origin, end) = (origin.clone(), end.clone());
                async move { end(origin.load().await).map(Some) }
            };
            tokio::time::timeout(LONG, items.get_or_load("a", load)).await.expect("nobody hangs")
        })
    }

    fn stale(&self, reason: &str) -> u64 {
        self.counters.sum("ringtide_reader_stale_total", reason)
    }

    async fn invalidate(&self) {
        let command = ringtide_core::command::Command::drop_entry(
            self.items.key("a").unwrap(),
            std::sync::Arc::new(self.items.settings().clone()),
        );
        self.server.shard().await.apply(&[command], 0).await.unwrap();
    }
}

fn fails(_: usize) -> Result<usize, io::Error> {
    Err(io::Error::other("the table is gone"))
}

#[tokio::test]
async fn past_its_time_a_value_is_served_at_once_and_loaded_once_behind() {
    let stage = Stage::with(|item| item.stale_while_revalidate(WINDOW)).await;
    tokio::time::sleep(SHORT * 2).await;
    for _ in 0..100 {
        assert_eq!(stage.read(ReadOptions::new()).await.unwrap().unwrap(), Some(1), "a reader waited for the load");
    }
    stage.origin.begun().await;
    assert_eq!(stage.stale("revalidate"), 100);
    stage.origin.allow(1);
    until("the new value", async || stage.read(ReadOptions::new()).await.unwrap().unwrap() == Some(2)).await;
    assert_eq!(stage.origin.loads(), 2);
}

#[tokio::test]
async fn after_the_window_a_read_waits_for_its_load() {
    let stage = Stage::with(|item| item.stale_while_revalidate(SHORT).stale_if_error(WINDOW)).await;
    tokio::time::sleep(SHORT * 3).await;
    stage.origin.allow(1);
    assert_eq!(stage.read(ReadOptions::new()).await.unwrap().unwrap(), Some(2));
    assert_eq!(stage.stale(""), 0);
}

#[tokio::test]
async fn what_has_changed_is_not_served_while_it_is_loaded() {
    let stage = Stage::with(|item| item.ttl(WINDOW).stale_while_revalidate(WINDOW).stale_if_error(WINDOW)).await;
    stage.invalidate().await;
    assert!(stage.server.exists("item:a").await, "it is not kept");
    stage.origin.allow(1);
    assert_eq!(stage.read(ReadOptions::new()).await.unwrap().unwrap(), Some(2));
}

#[tokio::test]
async fn where_loads_fail_the_last_value_is_served_for_as_long_as_it_may() {
    let stage = Stage::with(|item| item.stale_if_error(WINDOW)).await;
    tokio::time::sleep(SHORT * 2).await;
    stage.origin.allow(1000);
    assert_eq!(stage.read_or(ReadOptions::new(), fails).await.unwrap().unwrap(), Some(1));
    assert_eq!(stage.stale("error"), 1);
    let strict = ReadOptions::new().stale_if_error(Duration::ZERO);
    let error = stage.read_or(strict, fails).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::LoadFailed { .. }), "{error}");
    stage.invalidate().await;
    assert_eq!(stage.read_or(ReadOptions::new(), fails).await.unwrap().unwrap(), Some(1), "invalidated, and kept");
}

#[tokio::test]
async fn what_was_invalidated_is_kept_for_the_window_and_no_longer_however_often_it_is_invalidated() {
    let stage = Stage::with(|item| item.ttl(WINDOW).stale_if_error(Duration::from_millis(300))).await;
    stage.invalidate().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(stage.server.exists("item:a").await);
    stage.invalidate().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!stage.server.exists("item:a").await);
    stage.origin.allow(1000);
    assert!(stage.read_or(ReadOptions::new(), fails).await.unwrap().is_err());
}

#[tokio::test]
async fn a_load_that_takes_long_goes_on_behind_a_stale_value() {
    let stage = Stage::with(|item| item.stale_if_error(WINDOW)).await;
    tokio::time::sleep(SHORT * 2).await;
    let patient = ReadOptions::new().soft_timeout(Duration::from_millis(50));
    assert_eq!(stage.read(patient).await.unwrap().unwrap(), Some(1));
    assert_eq!(stage.stale("soft_timeout"), 1);
    stage.origin.allow(1);
    until("the load's fill", async || stage.read(patient).await.unwrap().unwrap() == Some(2)).await;
    assert_eq!(stage.origin.loads(), 2);
}

#[tokio::test]
async fn a_deadline_ends_the_read_and_not_the_load() {
    let stage = Stage::with(|item| item).await;
    stage.invalidate().await;
    let hurried = ReadOptions::new().timeout(Duration::from_millis(60));
    let began = tokio::time::Instant::now();
    let error = stage.read(hurried).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error}");
    assert!(began.elapsed() >= Duration::from_millis(60));
    assert_eq!(stage.counters.sum("ringtide_reader_deadlines_exceeded_total", ""), 1);
    stage.origin.begun().await;
    stage.origin.allow(1);
    until("the load's fill", async || stage.server.exists("item:a").await).await;
    assert_eq!(stage.origin.loads(), 2);
}

#[tokio::test]
async fn at_its_deadline_a_read_takes_a_stale_value_where_it_may() {
    let stage = Stage::with(|item| item.stale_if_error(WINDOW)).await;
    tokio::time::sleep(SHORT * 2).await;
    let hurried = ReadOptions::new().timeout(Duration::from_millis(60));
    assert_eq!(stage.read(hurried).await.unwrap().unwrap(), Some(1));
    assert_eq!(stage.stale("deadline"), 1);
}

#[tokio::test]
async fn an_expensive_value_is_loaded_again_before_its_time_is_over() {
    let server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::held());
    let item = SpaceSettings::new("item", "item:{pk}").ttl(WINDOW).ttl_jitter(0.0);
    let cache = counters.build(builder(&server).space(item)).await;
    // A load of 50 ms, and a β by which that is as long as two minutes.
    let items = cache.space::<usize>("item").unwrap().with(ReadOptions::new().early_refresh(2_400.0));
    let read = || {
        let origin = origin.clone();
        items.get_or_load("a", move || {
            let origin = origin.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok::<_, io::Error>(Some(origin.load().await))
            }
        })
    };
    origin.allow(1);
    assert_eq!(read().await.unwrap(), Some(1));
    until("the fill", async || server.exists("item:a").await).await;
    until("an early refresh", async || {
        assert_eq!(read().await.unwrap(), Some(1));
        counters.sum("ringtide_reader_early_refreshes_total", "") > 0
    })
    .await;
    origin.allow(1);
    until("the new value", async || read().await.unwrap() == Some(2)).await;
    assert_eq!(counters.sum("ringtide_reader_stale_total", ""), 0);
}

#[tokio::test]
async fn however_many_reads_are_early_a_value_that_is_loaded_again_counts_once() {
    let stage = Stage::with(|item| item.ttl(WINDOW)).await;
    // Every read is early.
    let eager = ReadOptions::new().early_refresh(1e12);
    for _ in 0..50 {
        assert_eq!(stage.read(eager).await.unwrap().unwrap(), Some(1));
    }
    stage.origin.begun().await;
    assert_eq!(stage.counters.sum("ringtide_reader_early_refreshes_total", ""), 1);
    assert_eq!(stage.origin.loads(), 2);
}

#[tokio::test]
async fn a_fresh_read_loads_what_is_cached_and_replaces_it() {
    let stage = Stage::with(|item| item.ttl(WINDOW)).await;
    stage.origin.allow(1);
    assert_eq!(stage.read(ReadOptions::new().fresh()).await.unwrap().unwrap(), Some(2));
    until("the fill", async || stage.read(ReadOptions::new()).await.unwrap().unwrap() == Some(2)).await;
    assert_eq!(stage.origin.loads(), 2);
}

#[tokio::test]
async fn a_fresh_read_is_not_answered_by_a_load_that_began_before_it() {
    let stage = Stage::with(|item| item.ttl(WINDOW)).await;
    stage.invalidate().await;
    let earlier = stage.read(ReadOptions::new());
    stage.origin.begun().await;
    let fresh = stage.read(ReadOptions::new().fresh());
    until("both in one flight", async || stage.counters.sum("ringtide_reader_joined_total", "") == 1).await;
    stage.origin.allow(1);
    assert_eq!(earlier.await.unwrap().unwrap(), Some(2));
    stage.origin.begun().await;
    stage.origin.allow(1);
    assert_eq!(fresh.await.unwrap().unwrap(), Some(3));
}

#[tokio::test]
async fn a_fresh_read_takes_a_strong_load_where_the_loader_can_choose() {
    let server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::held());
    let item = SpaceSettings::new("item", "item:{pk}").mode(Mode::Settle { after: WINDOW });
    let reader = config::Reader { max_loads: 1, ..config::Reader::default() };
    let cache = counters.build(builder(&server).reader(reader).space(item)).await;
    let items = cache.space::<String>("item").unwrap();
    let read = |key: &'static str, options: ReadOptions| {
        let (items, origin) = (items.with(options), origin.clone());
        tokio::spawn(async move {
            let load = move |consistency| {
                let origin = origin.clone();
                async move { Ok::<_, io::Error>(Some(format!("{consistency:?} {}", origin.load().await))) }
            };
            tokio::time::timeout(LONG, items.get_or_load_with(key, load)).await.expect("nobody hangs").unwrap().unwrap()
        })
    };
    let other = read("b", ReadOptions::new().fresh());
    origin.begun().await;
    // Its load begins after the fresh read, and yet may lag.
    let usual = read("a", ReadOptions::new());
    until("the wait for leave", async || counters.sum("ringtide_reader_loads_put_off_total", "") == 1).await;
    let fresh = read("a", ReadOptions::new().fresh());
    until("both in one flight", async || counters.sum("ringtide_reader_joined_total", "") == 1).await;
    origin.allow(1);
    assert_eq!(other.await.unwrap(), "Strong 1");
    origin.begun().await;
    origin.allow(1);
    assert_eq!(usual.await.unwrap(), "AsUsual 2");
    origin.begun().await;
    origin.allow(1);
    assert_eq!(fresh.await.unwrap(), "Strong 3");
}

#[tokio::test]
async fn a_time_out_beyond_all_clocks_is_none() {
    let server = Server::start().await;
    let reader = config::Reader { load_timeout: Duration::MAX, ..config::Reader::default() };
    let item = SpaceSettings::new("item", "item:{pk}").ttl(SHORT).ttl_jitter(0.0).stale_if_error(WINDOW);
    let cache = builder(&server).reader(reader).space(item).build().await.unwrap();
    let patient = ReadOptions::new().timeout(Duration::MAX).soft_timeout(Duration::MAX);
    let items = cache.space::<usize>("item").unwrap().with(patient);
    for round in 0..2 {
        assert_eq!(
            items.get_or_load("a", move || async move { Ok::<_, io::Error>(Some(round)) }).await.unwrap(),
            Some(round)
        );
        cache.settled().await;
        tokio::time::sleep(SHORT * 2).await;
    }
    let load = |keys: Vec<String>| async move {
        Ok::<_, io::Error>(keys.into_iter().map(|key| (key, 7)).collect::<HashMap<_, _>>())
    };
    let many = items.get_many(["a".to_owned(), "b".to_owned()], load).await;
    assert_eq!(many.into_values().unwrap(), [Some(7), Some(7)]);
    assert!(items.invalidate("a").await.unwrap().is_done());
}

#[tokio::test]
async fn a_stale_value_that_was_found_once_is_served_when_the_last_attempt_fails() {
    let server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::held());
    let reader = config::Reader { max_attempts: 1, ..config::Reader::default() };
    let item = SpaceSettings::new("item", "item:{pk}").ttl(SHORT).ttl_jitter(0.0).stale_if_error(WINDOW);
    let cache = counters.build(builder(&server).reader(reader).space(item)).await;
    let items = cache.space("item").unwrap();
    let stage = Stage { items, server, counters, origin, _cache: cache };
    stage.origin.allow(1);
    assert_eq!(stage.read(ReadOptions::new()).await.unwrap().unwrap(), Some(1));
    stage.origin.begun().await;
    until("the fill", async || stage.server.exists("item:a").await).await;
    tokio::time::sleep(SHORT * 2).await;
    let first = stage.read(ReadOptions::new());
    stage.origin.begun().await;
    let late = stage.read_or(ReadOptions::new(), fails);
    until("both in one flight", async || stage.counters.sum("ringtide_reader_joined_total", "") == 1).await;
    // The fill is refused, so that who came late has to try again, and may not.
    stage.invalidate().await;
    stage.origin.allow(1);
    assert_eq!(first.await.unwrap().unwrap(), Some(2));
    stage.origin.begun().await;
    stage.origin.allow(1);
    assert_eq!(late.await.unwrap().unwrap(), Some(1));
    assert_eq!((stage.stale("error"), stage.counters.sum("ringtide_reader_uncached_total", "")), (1, 1));
    assert_eq!(stage.counters.sum("ringtide_reader_misses_total", ""), 3, "a read misses once, however often it tries");
}

#[tokio::test]
async fn where_the_ring_shard_fails_too_the_value_in_memory_is_served_for_the_window() {
    const KEPT: Duration = Duration::from_millis(1500);
    for tier in [LocalTier::Fallback(SHORT), LocalTier::Bounded(SHORT), LocalTier::Tracked(SHORT), LocalTier::Off] {
        let mut stage = Stage::with(|item| item.ttl(WINDOW).local(tier).stale_if_error(KEPT)).await;
        // Kept in memory by a read that finds it.
        let read = Instant::now();
        assert_eq!(stage.read(ReadOptions::new()).await.unwrap().unwrap(), Some(1));
        let found = Instant::now();
        stage.server.kill();
        stage.origin.allow(1_000_000);
        tokio::time::sleep(SHORT * 2).await;
        let strict = ReadOptions::new().stale_if_error(Duration::ZERO);
        let error = stage.read_or(strict, fails).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::LoadFailed { .. }), "{error}");
        if tier == LocalTier::Off {
            assert!(stage.read_or(ReadOptions::new(), fails).await.unwrap().is_err(), "nothing is kept");
            continue;
        }
        let mut served = 0;
        until("the window's end", async || {
            let asked = read.elapsed();
            let answer = stage.read_or(ReadOptions::new(), fails).await.unwrap();
            if let Ok(value) = &answer {
                assert!(asked < KEPT + (found - read), "{tier:?}: served {asked:?} later");
                assert_eq!(*value, Some(1));
                served += 1;
            }
            answer.is_err()
        })
        .await;
        assert!(read.elapsed() >= KEPT && served > 0, "{tier:?}: served {served} times");
        assert_eq!(stage.stale("error"), served);
    }
}

#[tokio::test]
async fn times_to_live_are_the_loaders_then_the_reads_then_the_spaces() {
    let server = Server::start().await;
    let item = SpaceSettings::new("item", "item:{pk}").ttl(Duration::from_secs(1000)).ttl_jitter(0.0);
    let cache = builder(&server).space(item.negative_ttl(Duration::from_secs(20))).build().await.unwrap();
    let items = cache.space::<usize>("item").unwrap();
    let own = items.with(ReadOptions::new().ttl(Duration::from_secs(500)));
    let chosen = || async { Ok::<_, io::Error>(Loaded::new(Some(1_usize)).ttl(Duration::from_secs(100))) };
    items.get_or_load("chosen", chosen).await.unwrap();
    own.get_or_load("own", || async { Ok::<_, io::Error>(Some(1)) }).await.unwrap();
    items.get_or_load("usual", || async { Ok::<_, io::Error>(Some(1)) }).await.unwrap();
    items.get_or_load("absent", || async { Ok::<_, io::Error>(None::<usize>) }).await.unwrap();
    let forever = || async { Ok::<_, io::Error>(Loaded::new(Some(1_usize)).ttl(Duration::MAX)) };
    items.get_or_load("cut", forever).await.unwrap();
    let absent = || async { Ok::<_, io::Error>(None::<usize>) };
    own.get_or_load("own absent", absent).await.unwrap();
    let brief = items.with(ReadOptions::new().ttl(Duration::from_secs(10)));
    brief.get_or_load("brief absent", absent).await.unwrap();
    let long = items.with(ReadOptions::new().negative_ttl(Duration::from_secs(200)));
    long.get_or_load("long absent", absent).await.unwrap();
    long.get_or_load("of long", || async { Ok::<_, io::Error>(Some(1)) }).await.unwrap();
    let early = items.with(ReadOptions::new().ttl(Duration::from_secs(600)).ttl_jitter(1.0));
    let times = 200;
    for key in 0..times {
        early.get_or_load(format!("early {key}"), || async { Ok::<_, io::Error>(Some(1)) }).await.unwrap();
    }
    cache.settled().await;
    let mut lives = Vec::new();
    for key in 0..times {
        let pttl =
            redis::cmd("PTTL").arg(format!("item:early {key}")).query_async(&mut server.connection().await).await;
        lives.push(pttl.unwrap());
    }
    // Uniform over ten minutes; an entry may be over by now.
    lives.sort_unstable();
    let (early, late): (i64, i64) = (lives[times / 4], lives[times * 3 / 4]);
    assert!((50_000..270_000).contains(&early) && (330_000..550_000).contains(&late), "{early} ms, {late} ms");
    let absences = [("absent", 20), ("own absent", 20), ("brief absent", 10), ("long absent", 200), ("of long", 1000)];
    let values = [("chosen", 100), ("own", 500), ("usual", 1000), ("cut", 1000)];
    for (key, seconds) in values.into_iter().chain(absences) {
        let name = format!("item:{key}");
        until("the fill", async || server.exists(&name).await).await;
        let mut connection = server.connection().await;
        let left: u64 = redis::cmd("PTTL").arg(&name).query_async(&mut connection).await.unwrap();
        assert!((seconds * 1000 - 5000..=seconds * 1000).contains(&left), "{key}: {left} ms");
    }
}

#[tokio::test]
async fn a_versioned_value_that_changed_is_kept_with_its_floor() {
    let versioned = Mode::Versioned { attribute: "v".to_owned(), tombstone: None };
    let stage = Stage::with(|item| item.ttl(WINDOW).stale_if_error(WINDOW).mode(versioned.clone())).await;
    stage.origin.allow(1);
    // An invalidator that keeps nothing drops it; one that knows the window keeps it.
    invalidate(&stage.server.shard().await, "item:a", versioned, Version::from_number(9)).await;
    assert_eq!(stage.read(ReadOptions::new()).await.unwrap().unwrap(), Some(2));
}
