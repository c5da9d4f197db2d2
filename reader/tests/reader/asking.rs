//! The ways to ask: rendered keys, keys given as they are, reads that tell where their answer came from, and reads that never load.
#![cfg(feature = "memory")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringtide::{
    BatchLoader, Cache, CacheKey, CacheStatus, Consistency, Error, Loaded, LocalTier, MemoryServer, ReadOptions, Space,
    SpaceSettings, config,
};

use super::support::{Counters, LONG, until};

const WINDOW: Duration = Duration::from_secs(60);

fn item() -> SpaceSettings {
    SpaceSettings::new("item", "item:{pk}").local(LocalTier::Off)
}

struct Stage {
    server: MemoryServer,
    counters: Counters,
    items: Space<String>,
    cache: Cache,
}

impl Stage {
    async fn with(settings: SpaceSettings) -> Self {
        let (server, counters) = (MemoryServer::new("a"), Counters::default());
        let cache = counters.build(Cache::builder().memory_shard(&server).space(settings)).await;
        Self { server, counters, items: cache.space("item").unwrap(), cache }
    }

    async fn store(&self, key: &str, value: &str) {
        let value = value.to_owned();
        let load = move || {
            let value = value.clone();
            async move { Ok::<_, Infallible>(Some(value)) }
        };
        self.items.get_or_load(key, load).await.unwrap();
        self.cache.settled().await;
    }
}

async fn fails(_: Consistency) -> Result<Option<String>, io::Error> {
    Err(io::Error::other("the table is gone"))
}

async fn refuses() -> Result<Option<String>, io::Error> {
    Err(io::Error::other("it was to be cached"))
}

#[tokio::test]
async fn a_key_that_was_rendered_once_is_a_key_everywhere() {
    let stage = Stage::with(item()).await;
    stage.store("a", "tea").await;
    let key = stage.items.key("a").unwrap();
    let tea = Some("tea".to_owned());
    assert_eq!(stage.items.get_or_load(&key, refuses).await.unwrap(), tea);
    assert_eq!(stage.items.get_or_load(key.clone(), refuses).await.unwrap(), tea);
    let load = |keys: Vec<CacheKey>| async move {
        Ok::<_, Infallible>(keys.into_iter().map(|key| (key, "new".to_owned())).collect::<HashMap<_, _>>())
    };
    let both = [key.clone(), stage.items.key("b").unwrap()];
    assert_eq!(stage.items.get_many(both, load).await.into_values().unwrap(), [tea, Some("new".to_owned())]);
    assert_eq!(stage.items.invalidate(&key).await.unwrap().applied.dropped, 1);
    stage.cache.settled().await;
    assert_eq!(stage.items.invalidate_many([key, stage.items.key("b").unwrap()]).await.unwrap().applied.dropped, 1);
}

#[tokio::test]
async fn keys_that_are_given_as_they_are_have_what_key_spaces_have() {
    let stage = Stage::with(item()).await;
    let pages = stage.cache.raw::<String>();
    assert_eq!(pages.key("page:home").unwrap().as_str(), "page:home");
    let home = |text: &'static str| move || async move { Ok::<_, Infallible>(Some(text.to_owned())) };
    assert_eq!(stage.cache.get_or_load("page:home", home("old")).await.unwrap(), Some("old".to_owned()));
    stage.cache.settled().await;
    assert_eq!(pages.get_or_load("page:home", refuses).await.unwrap(), Some("old".to_owned()));
    let fresh = pages.with(ReadOptions::new().fresh());
    assert_eq!(fresh.get_or_load("page:home", home("new")).await.unwrap(), Some("new".to_owned()));
    stage.cache.settled().await;
    assert_eq!(pages.peek("page:home").await.unwrap().unwrap().value, Some("new".to_owned()));
    assert_eq!(stage.cache.invalidate("page:home").await.unwrap().applied.dropped, 1);
}

#[tokio::test]
async fn a_peek_tells_what_is_cached_and_never_loads() {
    let stage = Stage::with(item().ttl_jitter(0.0)).await;
    assert_eq!(stage.items.peek("a").await.unwrap(), None);
    assert!(stage.server.keys().is_empty(), "it took a lease");
    stage.store("a", "tea").await;
    let tea = stage.items.peek("a").await.unwrap().unwrap();
    assert_eq!((tea.value.as_deref(), tea.status), (Some("tea"), CacheStatus::Hit));
    assert!(tea.fresh_for.is_some_and(|left| left <= Duration::from_secs(3600) && left > WINDOW), "{tea:?}");
    stage.items.get_or_load("none", || async { Ok::<Option<String>, Infallible>(None) }).await.unwrap();
    stage.cache.settled().await;
    let none = stage.items.peek("none").await.unwrap().unwrap();
    assert_eq!((none.value, none.status), (None, CacheStatus::Hit));
    assert_eq!(stage.items.with(ReadOptions::new().fresh()).peek("a").await.unwrap(), None);
    let counted = |name, value| stage.counters.sum(name, value);
    assert_eq!(counted("ringtide_reader_misses_total", "absent"), 3, "two were loads");
    assert_eq!((counted("ringtide_reader_hits_total", ""), counted("ringtide_reader_negatives_total", "")), (1, 1));
    assert!(stage.items.invalidate("a").await.unwrap().is_done());
    assert_eq!(stage.items.peek("a").await.unwrap(), None);
    stage.server.down(true);
    let error = stage.items.peek("a").await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { key, .. } if key.as_str() == "item:a"), "{error}");
}

#[tokio::test]
async fn a_peek_serves_what_a_read_would_without_waiting() {
    let ttl = Duration::from_millis(50);
    let stage = Stage::with(item().ttl(ttl).ttl_jitter(0.0).stale_while_revalidate(WINDOW)).await;
    stage.store("a", "tea").await;
    tokio::time::sleep(ttl * 2).await;
    let stale = stage.items.peek("a").await.unwrap().unwrap();
    assert_eq!((stale.value.as_deref(), stale.status), (Some("tea"), CacheStatus::Stale));
    assert_eq!(stale.fresh_for, Some(Duration::ZERO));
    let kept = Stage::with(item().stale_if_error(WINDOW)).await;
    kept.store("a", "tea").await;
    assert!(kept.items.invalidate("a").await.unwrap().is_done());
    assert!(kept.server.value("item:a").is_some(), "it is kept for errors");
    assert_eq!(kept.items.peek("a").await.unwrap(), None, "and no load has failed");
}

#[tokio::test]
async fn a_peek_leaves_the_copy_in_memory_to_the_read_that_loads_again() {
    let stage = Stage::with(item().local(LocalTier::Bounded(WINDOW))).await;
    stage.store("a", "tea").await;
    assert_eq!(stage.items.peek("a").await.unwrap().unwrap().status, CacheStatus::Hit);
    stage.server.clear();
    // Whatever the load took, a read would load it again.
    let eager = stage.items.with(ReadOptions::new().early_refresh(1e12));
    for _ in 0..20 {
        let tea = eager.peek("a").await.unwrap().expect("the copy is gone");
        assert_eq!((tea.value.as_deref(), tea.status), (Some("tea"), CacheStatus::LocalHit));
    }
    let load = || async { Ok::<_, Infallible>(Some("new tea".to_owned())) };
    until("a read that loads again", async || {
        let read = eager.get_or_load("a", load).await.unwrap();
        stage.cache.settled().await;
        read.as_deref() == Some("new tea")
    })
    .await;
}

#[tokio::test]
async fn a_read_tells_where_its_answer_came_from() {
    let stage = Stage::with(item().stale_if_error(WINDOW).local(LocalTier::Bounded(WINDOW))).await;
    let loads = || async { Ok::<_, Infallible>(Some("tea".to_owned())) };
    let status = async |options: ReadOptions| {
        let read = stage.items.with(options).read("a", loads).await.unwrap();
        assert_eq!(read.value.as_deref(), Some("tea"));
        (read.status, read.fresh_for.is_some())
    };
    assert_eq!(status(ReadOptions::new()).await, (CacheStatus::Miss, false));
    stage.cache.settled().await;
    assert_eq!(status(ReadOptions::new()).await, (CacheStatus::Hit, true));
    assert_eq!(status(ReadOptions::new()).await, (CacheStatus::LocalHit, true));
    assert_eq!(status(ReadOptions::new().skip_memory()).await, (CacheStatus::Hit, true));
    assert!(stage.items.invalidate("a").await.unwrap().is_done());
    let stale = stage.items.read_with("a", fails).await.unwrap();
    assert_eq!((stale.value.as_deref(), stale.status), (Some("tea"), CacheStatus::Stale));
}

#[tokio::test]
async fn memory_that_is_skipped_answers_others_as_before() {
    let stage = Stage::with(item().local(LocalTier::Bounded(WINDOW))).await;
    stage.store("a", "old").await;
    assert_eq!(stage.items.peek("a").await.unwrap().unwrap().value.as_deref(), Some("old"));
    // Somebody else's process invalidates, which nobody tells of here.
    stage.server.clear();
    assert_eq!(stage.items.peek("a").await.unwrap().unwrap().status, CacheStatus::LocalHit);
    let careful = stage.items.with(stage.items.options().skip_memory());
    assert_eq!(careful.peek("a").await.unwrap(), None);
}

#[tokio::test]
async fn what_is_not_to_be_cached_answers_and_is_not_stored() {
    let stage = Stage::with(item()).await;
    let loads = Arc::new(AtomicUsize::new(0));
    let part = || {
        let loads = loads.clone();
        stage.items.get_or_load("a", move || {
            let load = loads.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok::<_, Infallible>(Loaded::new(Some(format!("part {load}"))).uncached())
            }
        })
    };
    let (one, other) = tokio::join!(part(), part());
    assert_eq!((one.unwrap(), other.unwrap()), (Some("part 1".to_owned()), Some("part 1".to_owned())));
    stage.cache.settled().await;
    assert!(stage.server.keys().is_empty(), "{:?}", stage.server.keys());
    assert_eq!(part().await.unwrap(), Some("part 2".to_owned()));
}

#[tokio::test]
async fn a_loader_of_one_key_is_bound_to_its_key_space() {
    let stage = Stage::with(item().local(LocalTier::Bounded(WINDOW))).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let names = stage.items.with_loader(BatchLoader::each(move |pk: u64| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            match pk {
                7 => Err(io::Error::other("the table is gone")),
                _ => Ok((pk % 10 != 9).then(|| format!("tea {pk}"))),
            }
        }
    }));
    assert_eq!(names.get(1).await.unwrap(), Some("tea 1".to_owned()));
    assert_eq!(names.read(9).await.unwrap().value, None);
    assert_eq!(names.get(7).await.unwrap_err().loader_error::<io::Error>().unwrap().to_string(), "the table is gone");
    stage.cache.settled().await;
    let (one, again) = (names.get_shared(1).await.unwrap().unwrap(), names.get_shared(1).await.unwrap().unwrap());
    assert_eq!((one.as_str(), calls.load(Ordering::SeqCst)), ("tea 1", 3));
    assert!(Arc::ptr_eq(&again, &names.get_shared(1).await.unwrap().unwrap()), "it is decoded once");
    let many = tokio::time::timeout(LONG, names.get_many(1..=6)).await.expect("nobody hangs");
    assert_eq!(many.into_found().count(), 6);
    // However many keys a call may have.
    let together = stage.items.with_loader(
        BatchLoader::each(|pk: u64| async move { Ok::<_, io::Error>(Some(format!("tea {pk}"))) }).max_batch(10),
    );
    let found: Vec<_> = together.get_many(21..=30).await.into_found().collect();
    assert_eq!(found, (21..=30).map(|pk| (pk, format!("tea {pk}"))).collect::<Vec<_>>());
}

#[tokio::test]
async fn keys_of_a_loader_of_one_key_take_their_leases_one_after_the_other_as_single_reads_do() {
    let server = MemoryServer::new("a");
    let reader = config::Reader { max_loads: 1, load_timeout: Duration::from_secs(2), ..config::Reader::default() };
    let cache = Cache::builder().memory_shard(&server).reader(reader).space(item()).build().await.unwrap();
    let (leases, held) = (Arc::new(AtomicUsize::new(0)), server.clone());
    let noted = leases.clone();
    let names = cache.space::<String>("item").unwrap().with_loader(BatchLoader::each(move |pk: u64| {
        let (noted, held) = (noted.clone(), held.clone());
        async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let leases = held.keys().iter().filter(|name| name.starts_with("lock:")).count();
            noted.fetch_max(leases, Ordering::SeqCst);
            Ok::<_, io::Error>(Some(format!("tea {pk}")))
        }
    }));
    // Longer than half a load's time-out, after which a part of a call that several keys share is given up.
    let found = tokio::time::timeout(LONG, names.get_many(1..=14)).await.expect("nobody hangs").into_values();
    assert_eq!(found.unwrap(), (1..=14).map(|pk| Some(format!("tea {pk}"))).collect::<Vec<_>>());
    assert_eq!(leases.load(Ordering::SeqCst), 1, "a lease is held while its load is put off");
}

#[test]
fn keys_of_a_call_whose_runtime_has_ended_go_into_the_next() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (lasting, ending) = (runtime(), runtime());
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = calls.clone();
    let load = move |keys: Vec<u64>| {
        noted.lock().unwrap().push(keys.clone());
        async move { Ok::<_, Infallible>(keys.into_iter().map(|pk| (pk, format!("tea {pk}"))).collect::<HashMap<_, _>>()) }
    };
    let stage = lasting.block_on(Stage::with(item()));
    let names = stage.items.with_loader(BatchLoader::new(load).window(Duration::from_millis(500)));
    let get = |pk: u64| {
        let names = names.clone();
        async move { tokio::time::timeout(LONG / 4, names.get(pk)).await.expect("nobody hangs").unwrap() }
    };
    let tea = |pk: u64| Some(format!("tea {pk}"));

    // It opens a call, and ends before its window is over.
    ending.spawn(get(1));
    let opened = || stage.server.value("lock:{item:1}").is_some();
    ending.block_on(async {
        until("the lease", async || opened()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    });
    let waits = lasting.spawn(get(2));
    lasting.block_on(until("the other's lease", async || stage.server.value("lock:{item:2}").is_some()));
    drop(ending);
    assert_eq!(lasting.block_on(get(3)), tea(3));
    assert_eq!(lasting.block_on(waits).unwrap(), tea(2), "it was in the call already");
    assert_eq!(*calls.lock().unwrap(), [[2, 3]], "who has ended waits for nothing");
}

#[tokio::test]
async fn a_window_as_long_as_a_load_may_take_fails_no_load() {
    let builder = Cache::builder().in_memory().load_timeout(Duration::from_millis(500)).space(item());
    let items = builder.build().await.unwrap().space::<String>("item").unwrap();
    let load = |keys: Vec<u64>| async move {
        Ok::<_, Infallible>(keys.into_iter().map(|pk| (pk, format!("tea {pk}"))).collect::<HashMap<_, _>>())
    };
    let names = items.with_loader(BatchLoader::new(load).window(Duration::MAX));
    assert_eq!(names.get(1).await.unwrap(), Some("tea 1".to_owned()));
}

#[tokio::test]
async fn a_loaders_own_error_is_found_by_its_type() {
    let stage = Stage::with(item()).await;
    let error = stage.items.get_or_load("a", || fails(Consistency::AsUsual)).await.unwrap_err();
    assert_eq!(error.loader_error::<io::Error>().unwrap().to_string(), "the table is gone");
    assert!(error.loader_error::<std::fmt::Error>().is_none());
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.downcast_ref::<io::Error>().is_some(), "by a walk along the sources too");
    assert_eq!(error.key().unwrap().as_str(), "item:a");

    #[derive(Debug, thiserror::Error)]
    #[error("the page is not made")]
    struct NotMade(#[source] io::Error);
    let fails = || async { Err::<Option<String>, _>(NotMade(io::Error::other("the table is gone"))) };
    let error = stage.items.get_or_load("b", fails).await.unwrap_err();
    assert_eq!(error.loader_error::<NotMade>().unwrap().to_string(), "the page is not made");
    assert_eq!(error.loader_error::<io::Error>().unwrap().to_string(), "the table is gone");
}
