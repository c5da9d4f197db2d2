//! What a cache tells of itself: to a recorder of the application's, to its hook, and in spans.

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
        self.0 += &format!(" {}={}", field.name(), if bounds.contains(&value) { "about an hour" } else { "else" });
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
        if span.name() == "ringtide.read" {
            self.0.lock().unwrap().push(span.extensions().get::<Fields>().unwrap().0.clone());
        }
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
    let closed = async || spans.0.lock().unwrap().len() == 2;
    until("both spans' end", closed).await;
    assert_eq!(
        *spans.0.lock().unwrap(),
        [
            " cache_space=\"item\" cache_key=item:a cache_status=\"miss\"",
            " cache_space=\"item\" cache_key=item:a cache_status=\"hit\" cache_ttl_remaining_ms=about an hour",
        ]
    );
}
