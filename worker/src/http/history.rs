//! The lag of the last half hour, in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::gauge;
use ringtide_core::clock::unix_ms;
use ringtide_core::metrics as names;
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use super::Pages;

/// How often gauges are brought up to date.
const TICK: Duration = Duration::from_secs(1);
/// Every so many ticks a sample is kept.
const TICKS: u64 = 5;
/// How many samples are kept: half an hour.
const SAMPLES: usize = 360;

/// Samples, oldest first; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    samples: Arc<Mutex<VecDeque<Sample>>>,
}

/// How things stood at one moment.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    /// When, in unix ms.
    at_ms: u64,
    /// How far the stream shard that is furthest behind was behind, of those that were read here.
    age_s: Option<f64>,
    /// The longest lag that the last probes measured.
    probe_s: Option<f64>,
    /// Commands that waited for ring shards.
    pending: usize,
}

impl History {
    pub(super) fn samples(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn push(&self, sample: Sample) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
    }
}

pub(super) async fn watch(pages: &Pages) -> ! {
    gauge!(names::WORKER_INFO, names::VERSION => pages.about.version).set(1.0);
    let (live, ready) = (gauge!(names::WORKER_LIVE), gauge!(names::WORKER_READY));
    let one_if = |ok: bool| if ok { 1.0 } else { 0.0 };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tick: u64 = 0;
    loop {
        ticks.tick().await;
        if let Some(metrics) = &pages.metrics {
            metrics.upkeep();
        }
        live.set(one_if(pages.health.live().ok));
        ready.set(one_if(pages.health.ready().ok));
        if tick.is_multiple_of(TICKS) {
            pages.history.push(sample(pages));
        }
        tick = tick.wrapping_add(1);
    }
}

fn sample(pages: &Pages) -> Sample {
    let snapshot = pages.health.snapshot();
    let longest = |of: &mut dyn Iterator<Item = f64>| of.reduce(f64::max);
    Sample {
        at_ms: unix_ms(),
        age_s: longest(&mut snapshot.stream_shards.iter().filter_map(|shard| shard.age_s)),
        probe_s: longest(&mut snapshot.probes.iter().filter_map(|probe| probe.lag_s)),
        pending: pages.deliver.ring_shards().iter().map(|shard| shard.pending).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets_what_is_too_old() {
        let history = History::default();
        for n in 0..SAMPLES as u64 + 7 {
            history.push(Sample { at_ms: n, age_s: None, probe_s: None, pending: 0 });
        }
        let samples = history.samples();
        assert_eq!((samples.len(), samples[0].at_ms), (SAMPLES, 7));
    }
}
