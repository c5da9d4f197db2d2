//! A metrics recorder that can be read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use ringtide::{Cache, CacheBuilder};

#[derive(Clone, Default)]
pub(crate) struct Counters {
    by_key: Arc<Mutex<HashMap<Key, Arc<AtomicU64>>>>,
    gauges: Arc<Mutex<HashMap<Key, Arc<AtomicU64>>>>,
    histograms: Arc<Mutex<HashMap<Key, Arc<Samples>>>>,
}

#[derive(Default)]
struct Samples(Mutex<Vec<f64>>);

impl HistogramFn for Samples {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
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

impl Counters {
    /// The gauge of a name that carries a label's value, or of that name alone for an empty value.
    pub(crate) fn gauge(&self, name: &str, value: &str) -> f64 {
        let gauges = self.gauges.lock().unwrap();
        let mut of_name = gauges.iter().filter(|(key, _)| {
            key.name() == name && (value.is_empty() || key.labels().any(|label| label.value() == value))
        });
        let (_, bits) = of_name.next().unwrap_or_else(|| panic!("no gauge {name} of {value:?}"));
        assert!(of_name.next().is_none(), "several gauges {name} of {value:?}");
        f64::from_bits(bits.load(Ordering::SeqCst))
    }

    /// What was recorded in all histograms of a name.
    pub(crate) fn samples(&self, name: &str) -> Vec<f64> {
        let histograms = self.histograms.lock().unwrap();
        let of_name = histograms.iter().filter(|(key, _)| key.name() == name);
        of_name.flat_map(|(_, samples)| samples.0.lock().unwrap().clone()).collect()
    }
}

impl Recorder for Counters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.by_key.lock().unwrap().entry(key.clone()).or_default().clone())
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.gauges.lock().unwrap().entry(key.clone()).or_default().clone())
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.histograms.lock().unwrap().entry(key.clone()).or_default().clone())
    }
}
