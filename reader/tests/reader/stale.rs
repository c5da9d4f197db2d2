//! Serving stale on purpose: past the time to live, where loads fail or take long, and never what has changed unless told.

use std::io;
use std::time::Duration;

use ringtide::{Cache, Error, Loaded, Mode, ReadOptions, Space, SpaceSettings, Version};
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
async fn a_fresh_read_loads_what_is_cached_and_replaces_it() {
    let stage = Stage::with(|item| item.ttl(WINDOW)).await;
    stage.origin.allow(1);
    assert_eq!(stage.read(ReadOptions::new().fresh()).await.unwrap().unwrap(), Some(2));
    until("the fill", async || stage.read(ReadOptions::new()).await.unwrap().unwrap() == Some(2)).await;
    assert_eq!(stage.origin.loads(), 2);
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
    for (key, seconds) in [("chosen", 100), ("own", 500), ("usual", 1000), ("absent", 20), ("cut", 1000)] {
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
