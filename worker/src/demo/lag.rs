//! How long invalidations take, measured from outside, and what has been delivered for sure.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringtide_core::entry::{Entry, State};
use ringtide_core::key::{CacheKey, LocalTier};
use ringtide_core::valkey::Shard;
use ringtide_core::version::Version;

use super::world::World;

/// Batches of one ring shard overtake each other by no more than this.
const OVERTAKING: Duration = Duration::from_millis(500);
/// How long a read may take, and how long readers leave a ring shard alone that is back.
const LEFT_ALONE: Duration = Duration::from_secs(2);
/// The pause between two looks at a probe, which bounds what is measured from below.
const LOOK_EVERY: Duration = Duration::from_millis(4);
const PROBE_EVERY: Duration = Duration::from_millis(100);
const MARKS: usize = 128;

/// What a probe told: all that was committed until `committed` was delivered when `seen` came.
#[derive(Clone, Copy, Debug)]
struct Mark {
    seen: Instant,
    committed: Instant,
}

/// The probes' results, per ring shard.
#[derive(Debug)]
pub(super) struct Lag {
    shards: Vec<Probed>,
}

#[derive(Debug, Default)]
struct Probed {
    marks: Mutex<VecDeque<Mark>>,
    samples: Mutex<Vec<(Instant, Duration)>>,
    /// Counts restarts: a probe that spans one says nothing.
    restarts: AtomicU64,
    /// When the ring shard was killed, and when it came back.
    outages: Mutex<Vec<(Instant, Option<Instant>)>>,
}

/// Percentiles of durations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spread {
    pub(super) count: usize,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) max: Duration,
}

impl Lag {
    pub(super) fn new(shards: usize) -> Self {
        Self { shards: (0..shards).map(|_| Probed::default()).collect() }
    }

    /// Until which time everything committed was surely delivered to a ring shard, for a read that begins at `began`.
    ///
    /// Of a ring shard that is down a reader serves the copies in its memory, which were true when they were read.
    pub(super) fn delivered(&self, shard: usize, began: Instant) -> Option<Instant> {
        let probed = self.shards.get(shard)?;
        let copied = if probed.is_away(began) { began.checked_sub(LocalTier::DEFAULT_TTL)? } else { began };
        let marks = lock(&probed.marks);
        let mark = marks.iter().rev().find(|mark| mark.seen + OVERTAKING <= copied)?;
        Some(mark.committed)
    }

    /// Notes that a ring shard is about to be killed.
    pub(super) fn killed(&self, shard: usize) {
        if let Some(probed) = self.shards.get(shard) {
            probed.restarts.fetch_add(1, Ordering::SeqCst);
            lock(&probed.outages).push((Instant::now(), None));
        }
    }

    /// Notes that a ring shard is about to come back.
    pub(super) fn returned(&self, shard: usize) {
        if let Some(probed) = self.shards.get(shard) {
            probed.restarts.fetch_add(1, Ordering::SeqCst);
            if let Some((_, back)) = lock(&probed.outages).last_mut() {
                *back = Some(Instant::now());
            }
        }
    }

    /// The newest commit on each ring shard that is known to be delivered, the oldest of them.
    pub(super) fn reached(&self) -> Option<Instant> {
        self.shards.iter().map(|probed| lock(&probed.marks).back().map(|mark| mark.committed)).min().flatten()
    }

    /// The same for one ring shard.
    pub(super) fn reached_on(&self, shard: usize) -> Option<Instant> {
        lock(&self.shards.get(shard)?.marks).back().map(|mark| mark.committed)
    }

    /// The lag of the probes that `keep` chooses by ring shard, commit and lag.
    pub(super) fn spread(&self, keep: impl Fn(usize, Instant, Duration) -> bool) -> Spread {
        spread((0..self.shards.len()).flat_map(|shard| self.samples(shard, &keep)).collect())
    }

    /// The number of such probes on one ring shard, where it is lowest.
    pub(super) fn fewest(&self, keep: impl Fn(usize, Instant, Duration) -> bool, of: impl Fn(usize) -> bool) -> usize {
        let shards = (0..self.shards.len()).filter(|shard| of(*shard));
        shards.map(|shard| self.samples(shard, &keep).len()).min().unwrap_or_default()
    }

    fn samples(&self, shard: usize, keep: impl Fn(usize, Instant, Duration) -> bool) -> Vec<Duration> {
        let Some(probed) = self.shards.get(shard) else { return Vec::new() };
        let samples = lock(&probed.samples);
        samples.iter().filter(|(at, lag)| keep(shard, *at, *lag)).map(|(_, lag)| *lag).collect()
    }
}

impl Probed {
    /// Whether a read that begins at `began` may find the ring shard down, or its reader still leave it alone.
    fn is_away(&self, began: Instant) -> bool {
        let away = |(killed, back): &(Instant, Option<Instant>)| {
            began + LEFT_ALONE >= *killed && back.is_none_or(|back| began <= back + LEFT_ALONE)
        };
        lock(&self.outages).iter().any(away)
    }
}

/// Probes one ring shard for ever: caches an item, writes it, waits until the entry is gone.
///
/// The probe's key space is versioned, so that a record that is delivered again does not look like the newest one.
pub(super) async fn probe(world: &World, index: usize, shard: &Shard) {
    let Some((pk, key)) = world.probe_key(index) else { return };
    let Some(probed) = world.lag.shards.get(index) else { return };
    loop {
        let restarts = probed.restarts.load(Ordering::SeqCst);
        if let Some((mark, lag)) = round(world, &pk, &key, shard).await
            && probed.restarts.load(Ordering::SeqCst) == restarts
        {
            lock(&probed.samples).push((mark.committed, lag));
            let mut marks = lock(&probed.marks);
            marks.push_back(mark);
            if marks.len() > MARKS {
                marks.pop_front();
            }
        }
        tokio::time::sleep(PROBE_EVERY).await;
    }
}

/// One round; nothing where anything failed in between.
async fn round(world: &World, pk: &str, key: &CacheKey, shard: &Shard) -> Option<(Mark, Duration)> {
    let loaded = world.read_price(pk).await.ok()??;
    cached(shard, key, Version::from_number(loaded.version.into())).await?;
    let committed = Instant::now();
    world.catalog.put(pk, "probe", world.clock.next()).await.ok()?;
    let acknowledged = Instant::now();
    let old = Version::from_number(loaded.version.into());
    loop {
        if version_of(shard, key).await.ok()? != Some(old) {
            let seen = Instant::now();
            return Some((Mark { seen, committed }, seen.duration_since(acknowledged)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits for the fill, which is not awaited by who loads.
async fn cached(shard: &Shard, key: &CacheKey, version: Version) -> Option<()> {
    for _ in 0..50 {
        if version_of(shard, key).await.ok()? == Some(version) {
            return Some(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    None
}

/// The version of a cached value.
async fn version_of(shard: &Shard, key: &CacheKey) -> Result<Option<Version>, ringtide_core::valkey::ShardError> {
    let entry = shard.get(key).await?.and_then(|bytes| Entry::parse(&bytes).ok());
    Ok(entry.filter(|entry| entry.header.state == State::Value).map(|entry| entry.header.version))
}

/// The percentiles of some durations.
pub(super) fn spread(mut durations: Vec<Duration>) -> Spread {
    durations.sort_unstable();
    let at = |part: usize| durations.get(durations.len() * part / 100).copied().unwrap_or_default();
    let max = durations.last().copied().unwrap_or_default();
    Spread { count: durations.len(), p50: at(50), p99: at(99), max }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_in_memory_answer_while_a_ring_shard_is_down_and_no_longer() {
        let lag = Lag::new(2);
        let start = Instant::now();
        let (old, new) = (start + Duration::from_secs(1), start + Duration::from_secs(9));
        for probed in &lag.shards {
            let mark = |committed| Mark { seen: committed + Duration::from_millis(50), committed };
            lock(&probed.marks).extend([mark(old), mark(new)]);
        }
        let read = new + Duration::from_millis(700);
        assert_eq!((lag.delivered(0, read), lag.delivered(1, read)), (Some(new), Some(new)));
        lock(&lag.shards[0].outages).push((new, None));
        assert_eq!((lag.delivered(0, read), lag.delivered(1, read)), (Some(old), Some(new)));
        assert_eq!(lag.delivered(0, read + LocalTier::DEFAULT_TTL), Some(new), "they are that old at most");
        lock(&lag.shards[0].outages)[0].1 = Some(read - LEFT_ALONE - Duration::from_millis(1));
        assert_eq!(lag.delivered(0, read), Some(new), "it has been back for long");
    }
}
