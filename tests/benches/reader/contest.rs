//! What the contestants share: values, a raw connection like the product's own, and times of single operations.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ringtide_core::entry::{Codec, Entry, Header};
use serde::{Deserialize, Serialize};

pub(crate) const ROUNDS: usize = 15;

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Product {
    pub(crate) pk: String,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) price: u64,
}

impl Product {
    /// A value of about 300 bytes.
    pub(crate) fn number(n: usize) -> Self {
        let (pk, name) = (n.to_string(), format!("product number {n}"));
        Self { pk, name, description: "x".repeat(200), price: n as u64 }
    }

    pub(crate) fn entry(&self) -> Vec<u8> {
        let payload = serde_json::to_vec(self).unwrap().into();
        Entry { header: Header::value(Codec::Json), payload }.to_bytes().to_vec()
    }
}

/// Times of single operations.
#[derive(Clone)]
pub(crate) struct Latencies(Arc<Mutex<Histogram<u64>>>);

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Histogram::new(3).unwrap())))
    }

    /// Does an operation `times` times, and notes what each took.
    pub(crate) async fn time<F: Future<Output = ()>>(&self, times: usize, operation: impl Fn(usize) -> F) {
        let mut own = Histogram::<u64>::new(3).unwrap();
        for n in 0..times {
            let began = Instant::now();
            operation(n).await;
            own.record(u64::try_from(began.elapsed().as_nanos()).unwrap()).unwrap();
        }
        self.0.lock().unwrap().add(own).unwrap();
    }

    pub(crate) fn at(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.0.lock().unwrap().value_at_quantile(quantile))
    }
}

/// Prints one quantile beside that of the first, with a ceiling for the ratio.
pub(crate) fn report_quantile(raw: &Latencies, ours: &Latencies, quantile: f64, ceiling: f64) {
    let (theirs, ours) = (raw.at(quantile), ours.at(quantile));
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64().max(f64::MIN_POSITIVE);
    let verdict = if ratio <= ceiling { "met" } else { "missed" };
    println!(
        "  p{:<43} {ratio:>6.3}   {ours:.0?} against {theirs:.0?}   at most {ceiling}: {verdict}",
        quantile * 100.0
    );
}
