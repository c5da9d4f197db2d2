//! What the contestants share: values, a raw connection like the product's own, and times of single operations.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ringtide_core::entry::{Codec, Entry, Header};
use ringtide_tests::rounds::Spread;
use serde::{Deserialize, Serialize};

pub(crate) const ROUNDS: usize = 31;

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

/// Times of single operations, by round.
#[derive(Clone)]
pub(crate) struct Latencies {
    turns: usize,
    rounds: Arc<Mutex<Rounds>>,
}

#[derive(Default)]
struct Rounds {
    turns: usize,
    times: Vec<Histogram<u64>>,
    /// Of the tasks of the latest turn, in ns.
    noted: Vec<Vec<u64>>,
}

impl Latencies {
    /// Takes how many turns a round has.
    pub(crate) fn new(turns: usize) -> Self {
        Self { turns, rounds: Arc::default() }
    }

    /// Prepares a turn, outside its time: what the one before has noted is counted here.
    pub(crate) fn begin(&self) {
        let mut rounds = self.counted();
        if rounds.turns.is_multiple_of(self.turns) {
            rounds.times.push(Histogram::new(3).unwrap());
        }
        rounds.turns += 1;
    }

    /// Does an operation `times` times, and notes what each took but for the first and the last, beside which other tasks
    /// begin and end.
    pub(crate) async fn time<F: Future<Output = ()>>(&self, times: usize, operation: impl Fn(usize) -> F) {
        let mut own = Vec::with_capacity(times);
        for n in 0..times {
            let began = Instant::now();
            operation(n).await;
            if n > 0 && n + 1 < times {
                own.push(u64::try_from(began.elapsed().as_nanos()).unwrap());
            }
        }
        self.rounds.lock().unwrap().noted.push(own);
    }

    /// The rounds, with all that was noted so far.
    fn counted(&self) -> MutexGuard<'_, Rounds> {
        let mut rounds = self.rounds.lock().unwrap();
        let noted = std::mem::take(&mut rounds.noted);
        if let Some(times) = rounds.times.last_mut() {
            noted.into_iter().flatten().for_each(|ns| times.record(ns).unwrap());
        }
        rounds
    }

    /// A quantile of each round after the first, which does not count, in ns.
    fn of_rounds(&self, quantile: f64) -> Vec<f64> {
        self.counted().times.iter().skip(1).map(|round| round.value_at_quantile(quantile) as f64).collect()
    }

    /// A quantile of all those rounds together, in ns.
    fn of_all(&self, quantile: f64) -> f64 {
        let mut all = Histogram::<u64>::new(3).unwrap();
        for round in self.counted().times.iter().skip(1) {
            all.add(round).unwrap();
        }
        all.value_at_quantile(quantile) as f64
    }
}

/// Prints one quantile beside that of the raw client, round by round and over all of them, with a ceiling for the first.
pub(crate) fn report_quantile(raw: &Latencies, ours: &Latencies, quantile: f64, ceiling: f64) {
    let ratio = Spread::of_ratios(&ours.of_rounds(quantile), &raw.of_rounds(quantile));
    let verdict = if ratio.median <= ceiling { "met" } else { "missed" };
    let (all_ours, all_raw) = (ours.of_all(quantile), raw.of_all(quantile));
    let shown = |ns: f64| Duration::from_nanos(ns as u64);
    println!(
        "  p{:<43} {ratio}   at most {ceiling}: {verdict}; of all rounds {:.3}, {:.1?} against {:.1?}",
        quantile * 100.0,
        all_ours / all_raw,
        shown(all_ours),
        shown(all_raw),
    );
}
