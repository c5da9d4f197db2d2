//! What a cache tells of itself: to a recorder of the application's, to its hook, and in spans.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringtide::{Cache, CacheStatus, LoadEnd, LocalTier, Observer, ReadEnd, ReadOptions, Space, SpaceSettings, config};
use tracing::field::{Field, Visit};
use tracing::span;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

use super::support::{Counters, Origin, Server, builder, until};

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Notes {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for Notes {
    fn read(&self, read: &ReadEnd<'_>) {
        let result = read.result.map_or("error", CacheStatus::name);
        let fresh = read.fresh_for.is_some_and(|left| left > Duration::from_secs(1000));
        self.0
            .lock()
            .unwrap()
            .push(format!("{} {} {result} exists={} fresh={fresh}", read.space, read.key, read.exists));
    }

    fn load(&self, load: &LoadEnd<'_>) {
        self.0.lock().unwrap().push(format!("load {} {} failed={}", load.space, load.key, load.error.is_some()));
    }
}

async fn read(items: &Space<u64>, key: &str, value: Result<Option<u64>, &'static str>) {
    let load = move || async move { value.map_err(io::Error::other) };
    let _ = items.get_or_load(key, load).await;
}

#[tokio::test]
async fn a_hook_hears_of_every_read_and_load_and_a_recorder_of_its_own_counts_them() {
    let server = Server::start().await;
    let (counters, notes) = (Counters::default(), Arc::new(Notes::default()));
    let item = SpaceSettings::new("item", "item:{pk}").local(LocalTier::Bounded(Duration::from_secs(60)));
    let build = builder(&server).space(item).metrics(Arc::new(counters.clone())).observer(notes.clone());
    let cache = build.build().await.unwrap();
    let items = cache.space::<u64>("item").unwrap();

    read(&items, "a", Ok(Some(1))).await;
    assert_eq!(notes.take(), ["load item item:a failed=false", "item item:a miss exists=true fresh=false"]);
    until("the fill", async || server.exists("item:a").await).await;
    read(&items, "a", Err("not asked")).await;
    assert_eq!(notes.take(), ["item item:a hit exists=true fresh=true"]);
    read(&items, "a", Err("not asked")).await;
    assert_eq!(notes.take(), ["item item:a local_hit exists=true fresh=true"]);
    read(&items, "b", Ok(None)).await;
    assert_eq!(notes.take(), ["load item item:b failed=false", "item item:b miss exists=false fresh=false"]);
    read(&items, "c", Err("the table is gone")).await;
    assert_eq!(notes.take(), ["load item item:c failed=true", "item item:c error exists=false fresh=false"]);

    let load = |keys: Vec<String>| async move {
        let found = keys.into_iter().filter(|key| key == "d").map(|key| (key, 4)).collect::<HashMap<_, _>>();
        Ok::<_, io::Error>(found)
    };
    let long = "x".repeat(9000);
    let keys = ["a", "d", "e", &long].map(str::to_owned);
    assert_eq!(items.get_many(keys, load).await.into_found().count(), 2);
    let mut told = notes.take();
    told.sort();
    let each = [
        "item item:a local_hit exists=true fresh=true",
        "item item:d miss exists=true fresh=false",
        "item item:e miss exists=false fresh=false",
        "load item item:d failed=false",
        "load item item:e failed=false",
    ];
    assert_eq!(told, each, "each key of a read of many; what has no key is no read");
    let shared = items.get_or_load_shared("a", || async { Err::<Option<u64>, _>(io::Error::other("not asked")) });
    assert_eq!(shared.await.unwrap().as_deref(), Some(&1));
    assert_eq!(notes.take(), ["item item:a local_hit exists=true fresh=true"]);

    assert_eq!(counters.sum("ringtide_reader_hits_total", "item"), 4);
    assert_eq!(counters.sum("ringtide_reader_local_hits_total", "item"), 3);
    assert_eq!(counters.sum("ringtide_reader_loads_total", "failed"), 1);
    assert!(counters.sum("ringtide_ring_shard_connects_total", "a") >= 1, "ring shards count elsewhere");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gauges_and_histograms_tell_what_their_names_say() {
    let mut server = Server::start().await;
    let (told, holders, slow, origin) = (Counters::default(), Counters::default(), Origin::held(), Origin::held());
    let reader = config::Reader { max_loads: 1, breaker_failures: 2, ..config::Reader::default() };
    let item = || SpaceSettings::new("item", "item:{pk}").local(LocalTier::Fallback(Duration::from_secs(60)));
    let cache = told.build(builder(&server).reader(reader).space(item())).await;
    let holder = holders.build(builder(&server).space(item())).await;
    let get = |cache: &Cache, key: &'static str, origin: &Origin| {
        let (items, origin) = (cache.space::<u64>("item").unwrap(), origin.clone());
        tokio::spawn(async move {
            let load = move || {
                let origin = origin.clone();
                async move { Ok::<_, io::Error>(Some(origin.load().await as u64)) }
            };
            items.get_or_load(key, load).await.unwrap()
        })
    };
    const LOAD: Duration = Duration::from_millis(300);
    // A load that holds up another read's lease call, which then waits for another process for a short while.
    let began = Instant::now();
    let first = get(&cache, "a", &slow);
    slow.begun().await;
    let of_holder = get(&holder, "b", &origin);
    origin.begun().await;
    let waiter = get(&cache, "b", &slow);
    until("the wait for leave", async || told.sum("ringtide_reader_loads_put_off_total", "") == 1).await;
    tokio::time::sleep(LOAD).await;
    slow.allow(1);
    first.await.unwrap();
    let first_took = began.elapsed();
    let asked = Instant::now();
    until("the wait for the holder", async || told.sum("ringtide_reader_leases_total", "wait") == 1).await;
    origin.allow(1);
    assert_eq!((of_holder.await.unwrap(), waiter.await.unwrap()), (Some(1), Some(1)));
    let waited = asked.elapsed();
    let only = |name: &str| match told.samples(name)[..] {
        [seconds] => Duration::from_secs_f64(seconds),
        ref several => panic!("{name}: {several:?}"),
    };
    let load = only("ringtide_reader_load_seconds");
    assert!(load >= LOAD && load <= first_took, "{load:?}");
    // The lease was asked for a moment before the first read's end was seen here.
    let wake = only("ringtide_reader_wake_seconds");
    assert!(
        wake <= waited + LOAD / 2,
        "{wake:?} of {waited:?}: what came before the lease call is not a wait for its holder"
    );
    assert_eq!(told.gauge("ringtide_reader_ring_epoch", ""), 1.0);

    let pending = || told.gauge("ringtide_reader_retries_pending", "invalidation");
    assert_eq!((told.gauge("ringtide_reader_breaker_state", "a"), pending()), (0.0, 0.0));
    until("the gauge of what is kept", async || {
        get(&cache, "a", &slow).await.unwrap();
        told.gauge("ringtide_reader_local_bytes", "") > 0.0
    })
    .await;
    server.kill();
    let items = cache.space::<u64>("item").unwrap();
    assert!(!items.invalidate("c").await.unwrap().is_done());
    assert_eq!(pending(), 1.0);
    slow.allow(100);
    until("the open breaker", async || {
        get(&cache, "d", &slow).await.unwrap();
        told.gauge("ringtide_reader_breaker_state", "a") == 2.0
    })
    .await;
    server.restart().await;
    until("that all is well", async || {
        get(&cache, "e", &slow).await.unwrap();
        told.gauge("ringtide_reader_breaker_state", "a") == 0.0 && pending() == 0.0
    })
    .await;
}

/// The fields of closed spans, by their names.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<String>>>);

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != "cache_ttl_remaining_ms" {
            self.0 += &format!(" {}={value:?}", field.name());
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let bounds = 3_000_000..=3_600_000;
        match field.name() {
            "cache_ttl_remaining_ms" if bounds.contains(&value) => self.0 += " cache_ttl_remaining_ms=about an hour",
            name => self.0 += &format!(" {name}={value}"),
        }
    }
}

impl<S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let mut fields = Fields(String::new());
        attributes.record(&mut fields);
        context.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        if let Some(fields) = context.span(id).unwrap().extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_close(&self, id: span::Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        if span.name().starts_with("ringtide.read") {
            self.0.lock().unwrap().push(span.extensions().get::<Fields>().unwrap().0.clone());
        }
    }
}

impl Spans {
    /// The fields of so many closed spans, once they have closed.
    async fn closed(&self, spans: usize) -> Vec<String> {
        until("the spans' end", async || self.0.lock().unwrap().len() == spans).await;
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_read_is_a_span_that_says_what_answered_it() {
    let server = Server::start().await;
    let item = SpaceSettings::new("item", "item:{pk}").local(LocalTier::Off).ttl_jitter(0.0);
    let cache = builder(&server).space(item).build().await.unwrap();
    let items = cache.space::<u64>("item").unwrap();
    let spans = Spans::default();
    let _listening = tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
    read(&items, "a", Ok(Some(1))).await;
    cache.settled().await;
    read(&items.with(ReadOptions::new()), "a", Err("not asked")).await;
    assert_eq!(
        spans.closed(2).await,
        [
            " cache_space=\"item\" cache_key=item:a cache_status=\"miss\"",
            " cache_space=\"item\" cache_key=item:a cache_status=\"hit\" cache_ttl_remaining_ms=about an hour",
        ]
    );
}

#[tokio::test]
async fn what_is_loaded_behind_a_read_is_part_of_it_where_memory_has_answered_too() {
    let server = Server::start().await;
    let counters = Counters::default();
    // So eager that more than every second read loads again.
    let item = SpaceSettings::new("item", "item:{pk}").local(LocalTier::Bounded(Duration::from_secs(60)));
    let item = item.early_refresh(100.0).ttl(Duration::from_secs(1));
    let cache = builder(&server).space(item).metrics(Arc::new(counters.clone())).build().await.unwrap();
    let items = cache.space::<u64>("item").unwrap();
    let _listening = tracing::subscriber::set_default(tracing_subscriber::registry().with(Spans::default()));
    let within = Arc::new(Mutex::new(Vec::new()));
    let noted = within.clone();
    let load = move || {
        noted.lock().unwrap().push(tracing::Span::current().metadata().map(tracing::Metadata::name));
        async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok::<_, io::Error>(Some(1))
        }
    };
    let local_hits = || counters.sum("ringtide_reader_local_hits_total", "item");
    until("loads behind reads that memory answered", async || {
        items.get_or_load("a", load.clone()).await.unwrap();
        cache.settled().await;
        local_hits() >= 8 && within.lock().unwrap().len() >= 12
    })
    .await;
    let within = within.lock().unwrap();
    assert!(within.iter().all(|name| *name == Some("ringtide.read")), "{within:?}");
}

#[tokio::test]
async fn a_read_of_many_is_one_span_that_counts_what_answered_it() {
    let server = Server::start().await;
    let item = SpaceSettings::new("item", "item:{pk}").local(LocalTier::Off);
    let cache = builder(&server).space(item).build().await.unwrap();
    let items = cache.space::<u64>("item").unwrap();
    let spans = Spans::default();
    let _listening = tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
    let within = Arc::new(Mutex::new(Vec::new()));
    let noted = within.clone();
    let load = move |keys: Vec<String>| {
        let current = tracing::Span::current().metadata().map(tracing::Metadata::name);
        noted.lock().unwrap().push((current, keys.len()));
        let found = keys.into_iter().filter(|key| key != "none").map(|key| (key, 1)).collect::<HashMap<_, _>>();
        async move { Ok::<_, io::Error>(found) }
    };
    let keys = |keys: [&str; 4]| keys.map(str::to_owned);
    assert_eq!(items.get_many(keys(["a", "b", "a", "none"]), load.clone()).await.into_found().count(), 3);
    assert_eq!(*within.lock().unwrap(), [(Some("ringtide.read_many"), 3)], "the load is part of the read");
    until("the fills", async || server.exists("item:b").await && server.exists("item:none").await).await;
    let long = "x".repeat(9000);
    assert_eq!(items.get_many(keys(["b", "none", "c", &long]), load).await.into_found().count(), 2);
    assert_eq!(
        spans.closed(2).await,
        [
            " cache_space=\"item\" cache_keys=4 cache_status=miss=4",
            " cache_space=\"item\" cache_keys=4 cache_status=hit=2 miss=1 error=1",
        ]
    );
}
