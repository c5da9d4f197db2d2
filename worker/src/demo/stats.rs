//! What the readers and writers saw, in numbers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::DemoError;
use super::lag::{Spread, lock};
use super::ledger::Verdict;

/// Examples that are kept of what went wrong.
const EXAMPLES: usize = 5;

/// Counts of the whole run.
pub(super) struct Stats {
    reads: AtomicU64,
    failed: AtomicU64,
    writes: AtomicU64,
    writes_failed: AtomicU64,
    judged: AtomicU64,
    older: AtomicU64,
    /// Reads that showed something which was not the newest any more.
    behind: AtomicU64,
    /// Whether the worker is dead, so that nothing can be fresh.
    outage: AtomicBool,
    calm: Mutex<Histogram<u64>>,
    during_outage: Mutex<Histogram<u64>>,
    latency: Mutex<Histogram<u64>>,
    examples: Mutex<Vec<String>>,
}

/// A moment of the counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    pub(super) reads: u64,
    pub(super) failed: u64,
    pub(super) writes: u64,
    pub(super) writes_failed: u64,
    pub(super) judged: u64,
    pub(super) older: u64,
    pub(super) behind: u64,
}

impl Stats {
    pub(super) fn new() -> Result<Self, DemoError> {
        // Microseconds, to 1%.
        let histogram = || Histogram::new(2).map(Mutex::new).map_err(|error| DemoError::Numbers(error.to_string()));
        Ok(Self {
            reads: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            writes_failed: AtomicU64::new(0),
            judged: AtomicU64::new(0),
            older: AtomicU64::new(0),
            behind: AtomicU64::new(0),
            outage: AtomicBool::new(false),
            calm: histogram()?,
            during_outage: histogram()?,
            latency: histogram()?,
            examples: Mutex::default(),
        })
    }

    pub(super) fn counted(&self) -> Counted {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counted {
            reads: of(&self.reads),
            failed: of(&self.failed),
            writes: of(&self.writes),
            writes_failed: of(&self.writes_failed),
            judged: of(&self.judged),
            older: of(&self.older),
            behind: of(&self.behind),
        }
    }

    /// Says that the worker is dead, or is not any more.
    pub(super) fn outage(&self, on: bool) {
        self.outage.store(on, Ordering::SeqCst);
    }

    pub(super) fn written(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn write_failed(&self, error: &DemoError) {
        self.writes_failed.fetch_add(1, Ordering::Relaxed);
        self.example(|| format!("a write failed: {error}"));
    }

    pub(super) fn read(&self, took: Duration, failed: Option<ringtide::Error>) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        record(&self.latency, took);
        if let Some(error) = failed {
            self.failed.fetch_add(1, Ordering::Relaxed);
            self.example(|| format!("a read failed: {error}"));
        }
    }

    pub(super) fn judged(&self, key: &str, verdict: Verdict) {
        self.judged.fetch_add(1, Ordering::Relaxed);
        let behind = match verdict {
            Verdict::Kept { behind } => behind,
            Verdict::Older { behind } => {
                self.older.fetch_add(1, Ordering::Relaxed);
                self.example(|| format!("{key}: {behind:.1?} behind, although that was delivered"));
                behind
            }
            Verdict::Unknown => {
                self.older.fetch_add(1, Ordering::Relaxed);
                self.example(|| format!("{key}: a value that was never written"));
                return;
            }
        };
        if !behind.is_zero() {
            self.behind.fetch_add(1, Ordering::Relaxed);
            let outage = self.outage.load(Ordering::SeqCst);
            record(if outage { &self.during_outage } else { &self.calm }, behind);
        }
    }

    /// How far behind the reads were that were behind at all: with a worker, and without one.
    pub(super) fn staleness(&self) -> (Spread, Spread) {
        (spread(&self.calm), spread(&self.during_outage))
    }

    pub(super) fn latency(&self) -> Spread {
        spread(&self.latency)
    }

    pub(super) fn examples(&self) -> Vec<String> {
        lock(&self.examples).clone()
    }

    fn example(&self, text: impl FnOnce() -> String) {
        let mut examples = lock(&self.examples);
        if examples.len() < EXAMPLES {
            examples.push(text());
        }
    }
}

fn record(histogram: &Mutex<Histogram<u64>>, duration: Duration) {
    // It grows as needed, up to what no clock shows.
    let _grown = lock(histogram).record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
}

fn spread(histogram: &Mutex<Histogram<u64>>) -> Spread {
    let histogram = lock(histogram);
    let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile).min(histogram.max()));
    Spread {
        count: usize::try_from(histogram.len()).unwrap_or(usize::MAX),
        p50: at(0.5),
        p99: at(0.99),
        max: Duration::from_micros(histogram.max()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_were_behind_is_kept_apart_for_the_outage() {
        let stats = Stats::new().unwrap();
        let behind = |ms| Verdict::Kept { behind: Duration::from_millis(ms) };
        stats.judged("k", behind(0));
        stats.judged("k", behind(100));
        stats.outage(true);
        stats.judged("k", behind(9000));
        let (calm, outage) = stats.staleness();
        assert_eq!((calm.count, outage.count), (1, 1));
        assert!((99..=102).contains(&calm.max.as_millis()) && (8900..=9100).contains(&outage.p50.as_millis()));
        assert_eq!((stats.counted().judged, stats.counted().behind, stats.counted().older), (3, 2, 0));
        stats.judged("k", Verdict::Unknown);
        assert_eq!(stats.counted().older, 1);
        assert!(stats.examples()[0].contains("never written"));
    }
}
