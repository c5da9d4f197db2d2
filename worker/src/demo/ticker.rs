//! Gathers the numbers once a second.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusHandle;
use ringtide_core::metrics as names;

use super::pages::{fetch, size, sum};
use super::screen::{Frame, Screen};
use super::world::World;

const WINDOW: Duration = Duration::from_secs(10);

/// Where the numbers come from.
pub(super) struct Ticker<'a> {
    pub(super) world: &'a World,
    pub(super) readers: PrometheusHandle,
    pub(super) worker: SocketAddr,
    /// Names and addresses of the ring shards.
    pub(super) shards: Vec<(String, String)>,
}

/// Counters of which a frame shows the difference.
#[derive(Clone, Copy, Default)]
struct Totals {
    reads: u64,
    writes: u64,
    hits: u64,
    misses: u64,
    loads: u64,
    applied: u64,
}

impl Ticker<'_> {
    /// Shows the numbers for as long as it is polled.
    pub(super) async fn run(&self, screen: &Screen) {
        let (mut before, mut since, mut in_all) = (self.totals(0), Instant::now(), 0);
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        seconds.tick().await;
        loop {
            seconds.tick().await;
            let page = fetch(self.worker, "/metrics").await.filter(|page| page.ok);
            let applied = page.as_ref().map(|page| sum(&page.body, names::APPLIED, ""));
            let mut entries = Vec::new();
            for (name, address) in &self.shards {
                entries.push((name.clone(), size(address).await));
            }
            let totals = self.totals(applied.unwrap_or_default());
            let now = Instant::now();
            let took = now.duration_since(since).as_secs_f64();
            let rate = |new: u64, old: u64| (new.saturating_sub(old) as f64 / took).round() as u64;
            // A worker that was started again counts from 0.
            let applied_before = if totals.applied < before.applied { 0 } else { before.applied };
            in_all += totals.applied - applied_before;
            screen.show(&Frame {
                reads: rate(totals.reads, before.reads),
                hits: totals.hits.saturating_sub(before.hits),
                misses: totals.misses.saturating_sub(before.misses),
                loads: rate(totals.loads, before.loads),
                writes: rate(totals.writes, before.writes),
                invalidations: rate(totals.applied, applied_before),
                invalidations_in_all: in_all,
                lag: self.world.lag.spread(|_, committed, _| now.duration_since(committed) <= WINDOW),
                entries,
                worker: applied.is_some(),
            });
            (before, since) = (totals, now);
        }
    }

    fn totals(&self, applied: u64) -> Totals {
        let exposition = self.readers.render();
        let of = |name| sum(&exposition, name, "");
        let counted = self.world.stats.counted();
        Totals {
            reads: counted.reads,
            writes: counted.writes,
            hits: of(names::READER_HITS) + of(names::READER_NEGATIVES),
            misses: of(names::READER_MISSES),
            loads: of(names::READER_LOADS),
            applied,
        }
    }
}
