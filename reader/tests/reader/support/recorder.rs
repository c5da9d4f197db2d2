//! A metrics recorder whose counters can be read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use ringtide::{Cache, CacheBuilder};

#[derive(Clone, Default)]
pub(crate) struct Counters {
    by_key: Arc<Mutex<HashMap<Key, Arc<AtomicU64>>>>,
}

impl Counters {
    /// Builds a cache whose counters these are.
    pub(crate) async fn build(&self, builder: CacheBuilder) -> Cache {
        let mut building = std::pin::pin!(builder.build());
        let build =
            std::future::poll_fn(|context| metrics::with_local_recorder(self, || building.as_mut().poll(context)));
        build.await.unwrap()
    }

    /// The sum of the counters of a name that carry a label's value, or of all of that name for an empty value.
    pub(crate) fn sum(&self, name: &str, value: &str) -> u64 {
        let by_key = self.by_key.lock().unwrap();
        let carries = |key: &Key| value.is_empty() || key.labels().any(|label| label.value() == value);
        let wanted = by_key.iter().filter(|(key, _)| key.name() == name && carries(key));
        wanted.map(|(_, count)| count.load(Ordering::SeqCst)).sum()
    }
}

impl Recorder for Counters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.by_key.lock().unwrap().entry(key.clone()).or_default().clone())
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
