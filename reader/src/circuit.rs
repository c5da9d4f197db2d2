//! Leaving servers alone that fail: a circuit breaker for a ring shard, and in a cluster one for each master, so that a
//! dead one costs nobody but those who read its keys.

mod masters;

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use metrics::{Counter, Gauge, counter, gauge};
use ringtide_core::config::Reader;
use ringtide_core::key::CacheKey;
use ringtide_core::metrics as names;
use ringtide_core::valkey::{Shard, ShardError};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::breaker::{Admission, Breaker, Change, Rules, State};
use masters::Masters;

/// The circuits of a ring shard.
pub(crate) enum Circuits {
    One(Arc<Circuit>),
    Masters(Masters),
}

/// One server behind a breaker: what calls tell of it, and who finds out whether it answers again.
pub(crate) struct Circuit {
    common: Arc<Common>,
    /// Which master of a cluster it is.
    master: Option<Arc<str>>,
    breaker: Breaker,
    failing: AtomicBool,
    /// Calls whose callers left, since that was found out last.
    left: AtomicU64,
    /// What the gauge counts it as.
    shown: AtomicUsize,
    /// Who finds out whether it answers; aborted with this circuit.
    check: Mutex<Option<AbortOnDropHandle<()>>>,
    /// What calls end with while it is left alone.
    left_alone: ShardError,
}

/// What the circuits of a ring shard share.
struct Common {
    shard: Shard,
    failures: u32,
    rules: Rules,
    known_since: Instant,
    opened: Counter,
    gauge: Gauge,
    /// How many circuits are closed, probing and open; the gauge shows the worst.
    states: Mutex<[usize; 3]>,
    /// Whether the gauge is theirs to set; changed under the lock of `states`.
    shown: AtomicBool,
}

impl Circuits {
    pub(crate) fn new(shard: &Shard, settings: &Reader) -> Self {
        let name = shard.name().to_string();
        let common = Arc::new(Common {
            shard: shard.clone(),
            failures: settings.breaker_failures,
            rules: Rules::new(settings.breaker_failures, settings.breaker_pause),
            known_since: Instant::now(),
            opened: counter!(names::READER_BREAKER_OPENED, names::RING_SHARD => name.clone()),
            gauge: gauge!(names::READER_BREAKER, names::RING_SHARD => name),
            states: Mutex::default(),
            shown: AtomicBool::new(true),
        });
        if shard.is_cluster() { Self::Masters(Masters::new(common)) } else { Self::One(Circuit::new(common, None)) }
    }

    /// The circuit of a key's server; `None` where a cluster has nobody who serves the key, and calls fail at once.
    #[inline]
    pub(crate) fn of(&self, key: &CacheKey) -> Option<Cow<'_, Arc<Circuit>>> {
        match self {
            Self::One(circuit) => Some(Cow::Borrowed(circuit)),
            Self::Masters(masters) => masters.of(key).map(Cow::Owned),
        }
    }

    /// The circuit that all keys have in common, if they do.
    pub(crate) fn of_all<'k>(&self, keys: impl IntoIterator<Item = &'k CacheKey>) -> Option<Cow<'_, Arc<Circuit>>> {
        let mut keys = keys.into_iter();
        let first = self.of(keys.next()?)?;
        let common = match self {
            Self::One(_) => true,
            Self::Masters(masters) => keys.all(|key| masters.of(key).is_some_and(|other| Arc::ptr_eq(&other, &first))),
        };
        common.then_some(first)
    }

    /// Takes the gauge of the ring shard's name, or leaves it to another handle.
    pub(crate) fn show(&self, shown: bool) {
        let common = match self {
            Self::One(circuit) => &circuit.common,
            Self::Masters(masters) => masters.common(),
        };
        common.show(|_| common.shown.store(shown, Ordering::Relaxed));
    }

    /// Whether it, or in a cluster any master, is left alone or being tried again.
    pub(crate) fn any_open(&self) -> bool {
        let common = match self {
            Self::One(circuit) => &circuit.common,
            Self::Masters(masters) => masters.common(),
        };
        let [_, probing, open] = *common.states.lock().unwrap_or_else(PoisonError::into_inner);
        probing + open > 0
    }

    /// Notes that the ring shard could not be connected. Which master of a cluster that is about is told by calls.
    pub(crate) fn unready(&self, error: &ShardError) {
        match self {
            Self::One(circuit) => circuit.failed(error),
            Self::Masters(_) => {
                tracing::warn!(ring_shard = %error.shard(), %error, "cluster is not ready, reads of its missing masters go to the loader");
            }
        }
    }
}

impl Circuit {
    fn new(common: Arc<Common>, master: Option<Arc<str>>) -> Arc<Self> {
        let who = master.as_deref().map_or("it".to_owned(), |master| format!("its master {master}"));
        let reason = format!("{who} failed {} times or more in a row and is left alone for a while", common.failures);
        common.states.lock().unwrap_or_else(PoisonError::into_inner)[0] += 1;
        Arc::new(Self {
            left_alone: ShardError::Unavailable { shard: common.shard.name().clone(), reason: reason.into() },
            breaker: Breaker::new(common.rules),
            failing: AtomicBool::new(false),
            left: AtomicU64::new(0),
            shown: AtomicUsize::new(0),
            check: Mutex::new(None),
            common,
            master,
        })
    }

    /// Asks for a call about a key.
    #[inline]
    pub(crate) fn pass(self: &Arc<Self>, key: &CacheKey) -> Result<(), ShardError> {
        if self.breaker.is_healthy() { Ok(()) } else { self.admit(key) }
    }

    #[cold]
    fn admit(self: &Arc<Self>, key: &CacheKey) -> Result<(), ShardError> {
        match self.breaker.admit(self.common.now_ms()) {
            Admission::Pass => return Ok(()),
            Admission::Refuse => {}
            // Nobody waits for the probe: whoever asked goes on without the server.
            Admission::Probe => {
                let (ring_shard, master) = (self.common.shard.name(), self.master.as_deref());
                tracing::debug!(%ring_shard, master, "probing a ring shard that was left alone");
                self.show();
                self.check(key);
            }
        }
        Err(self.left_alone.clone())
    }

    /// Notes how a call ended.
    #[inline]
    pub(crate) fn note<T>(&self, answer: &Result<T, ShardError>) {
        match answer {
            Ok(_) if self.breaker.is_healthy() && !self.failing.load(Ordering::Relaxed) => {}
            // A server that rejects something answers.
            Ok(_) => self.answered(),
            Err(ShardError::Rejected { .. }) if !self.breaker.is_healthy() => self.answered(),
            Err(ShardError::Rejected { .. }) => {}
            Err(error @ (ShardError::Unavailable { .. } | ShardError::TimedOut { .. })) => self.failed(error),
        }
    }

    /// Notes that a caller left before its call was answered.
    pub(crate) fn left(self: &Arc<Self>, key: &CacheKey) {
        self.left.fetch_add(1, Ordering::Relaxed);
        self.check(key);
    }

    /// Notes a failed call, and logs the first of a row.
    #[cold]
    fn failed(&self, error: &ShardError) {
        self.failed_since(error, self.common.now_ms(), 1);
    }

    fn failed_since(&self, error: &ShardError, began_ms: u64, calls: u64) {
        let (ring_shard, master) = (self.common.shard.name(), self.master.as_deref());
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(%ring_shard, master, %error, "ring shard fails, its reads go to the loader");
        }
        match self.breaker.failed(calls, began_ms, self.common.now_ms()) {
            Change::Opened => {
                self.common.opened.increment(1);
                tracing::warn!(%ring_shard, master, %error, "ring shard is left alone for a while");
            }
            Change::None | Change::Closed => {}
        }
        self.show();
    }

    /// Notes an answered call.
    #[cold]
    fn answered(&self) {
        let (ring_shard, master) = (self.common.shard.name(), self.master.as_deref());
        match self.breaker.succeeded() {
            Change::Closed => tracing::info!(%ring_shard, master, "ring shard is used again"),
            Change::None | Change::Opened => {}
        }
        if self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!(%ring_shard, master, "ring shard answers again");
        }
        self.show();
    }

    fn show(&self) {
        self.common.show(|states| {
            let state = match self.breaker.state() {
                State::Closed { .. } => 0,
                State::Probing { .. } => 1,
                State::Open { .. } => 2,
            };
            states[self.shown.swap(state, Ordering::Relaxed)] -= 1;
            states[state] += 1;
        });
    }

    /// Finds out in the background whether the server answers, unless somebody is at it.
    fn check(self: &Arc<Self>, key: &CacheKey) {
        let Ok(runtime) = Handle::try_current() else { return };
        let mut check = self.check.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has broken off, or ended with its runtime, is finished as well.
        if check.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (weak, shard, key) = (Arc::downgrade(self), self.common.shard.clone(), key.clone());
        let began_ms = self.common.now_ms();
        let task = runtime.spawn(async move {
            let answer = shard.get(&key).await;
            let Some(this) = weak.upgrade() else { return };
            // Those who left meanwhile were not answered either.
            let left = this.left.swap(0, Ordering::Relaxed);
            match &answer {
                Err(error @ ShardError::TimedOut { .. }) => this.failed_since(error, began_ms, 1 + left),
                Ok(_) | Err(ShardError::Unavailable { .. } | ShardError::Rejected { .. }) => this.note(&answer),
            }
        });
        *check = Some(AbortOnDropHandle::new(task));
    }
}

impl Drop for Circuit {
    fn drop(&mut self) {
        self.common.show(|states| states[self.shown.load(Ordering::Relaxed)] -= 1);
    }
}

impl Common {
    fn show(&self, change: impl FnOnce(&mut [usize; 3])) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut states);
        let worst = states.iter().rposition(|circuits| *circuits > 0);
        if self.shown.load(Ordering::Relaxed) {
            self.gauge.set(worst.unwrap_or_default() as f64);
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.known_since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ringtide_core::config::Valkey;
    use ringtide_core::ring::{ShardName, ShardSpec};

    use super::*;

    #[tokio::test]
    async fn a_check_that_ended_with_its_runtime_keeps_nobody_from_the_next() {
        let spec = ShardSpec { name: ShardName::new("a"), address: "127.0.0.1:1".to_owned(), weight: 1 };
        let shard = Shard::connect(&spec, &Valkey::default()).unwrap();
        let (circuits, key) = (Circuits::new(&shard, &Reader::default()), CacheKey::new("k").unwrap());
        let circuit = circuits.of(&key).unwrap().into_owned();
        // A runtime that nobody drives, and that ends.
        let other = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let within = other.enter();
        circuit.check(&key);
        drop(within);
        assert!(circuit.check.lock().unwrap().as_ref().is_some_and(|task| !task.is_finished()));
        other.shutdown_background();
        circuit.check(&key);
        let failing = async {
            while !circuit.failing.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), failing).await.expect("the next check finds it out");
    }
}
