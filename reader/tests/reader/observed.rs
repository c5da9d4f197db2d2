//! What a cache tells of itself: to a recorder of the application's, to its hook, and in spans.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringtide::{CacheStatus, LoadEnd, LocalTier, Observer, ReadEnd, ReadOptions, Space, SpaceSettings};
use tracing::field::{Field, Visit};
use tracing::span;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

use super::support::{Counters, Server, builder, until};

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

    assert_eq!(counters.sum("ringtide_reader_hits_total", "item"), 2);
    assert_eq!(counters.sum("ringtide_reader_local_hits_total", "item"), 1);
    assert_eq!(counters.sum("ringtide_reader_loads_total", "failed"), 1);
    assert!(counters.sum("ringtide_ring_shard_connects_total", "a") >= 1, "ring shards count elsewhere");
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
