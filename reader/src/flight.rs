//! Flights: at most one a key in this process answers everybody who misses that key.
//!
//! What a flight finds out at some moment answers every read that began before that moment. A read that joined later
//! may know of a change that the answer does not hold, so it waits until the ring shard has confirmed that the answer
//! was still true after it joined, or else tries again.

use std::any::TypeId;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use ringtide_core::key::CacheKey;
use tokio::sync::oneshot;

use crate::error::Error;

const STRIPES: usize = 64;

/// How a flight ends for one who joined it.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The whole entry.
    Answer {
        entry: Bytes,
        /// The type that this process has just loaded it as.
        loaded: Option<TypeId>,
        /// Whether its load began after the reads that it answers.
        newer: bool,
    },
    /// Nothing that this read may be answered with.
    Retry,
    /// The load failed.
    Failed(Error),
}

/// What a flight has found out, and who waits for it.
#[derive(Default)]
struct Progress {
    /// What answers the reads that began before an instant.
    early: Option<(Instant, Outcome)>,
    /// What answers everybody else.
    settled: Option<Outcome>,
    /// Each read is answered once, by a channel of its own: with one for all of them, every reader of a herd would be
    /// woken by each step and would have to look whether the step was for it.
    waiting: Vec<Waiting>,
}

struct Waiting {
    since: Instant,
    answer: oneshot::Sender<Outcome>,
}

/// The flights of this process by key.
pub(crate) struct Flights {
    stripes: Box<[Mutex<HashMap<CacheKey, Listed>>]>,
    hasher: RandomState,
    next: AtomicU64,
}

struct Listed {
    id: u64,
    progress: Arc<Mutex<Progress>>,
    last_joined: Instant,
    parted: Arc<OnceLock<Instant>>,
}

/// A read's place in a flight.
pub(crate) enum Seat {
    Answered(Outcome),
    /// Its outcome is to come, unless the flight is dropped.
    Waiting(oneshot::Receiver<Outcome>),
}

/// The flight itself, to be driven by its task; ends for everybody when it is dropped.
pub(crate) struct Flight {
    flights: Arc<Flights>,
    key: CacheKey,
    id: u64,
    progress: Arc<Mutex<Progress>>,
    /// When the latest read in it began, where nobody may join it any more.
    parted: Arc<OnceLock<Instant>>,
}

impl Flights {
    pub(crate) fn new() -> Arc<Self> {
        let stripes = (0..STRIPES).map(|_| Mutex::default()).collect();
        Arc::new(Self { stripes, hasher: RandomState::new(), next: AtomicU64::new(0) })
    }

    /// Joins the key's flight for a read that began at `since`; the second is the flight, where it is a new one.
    pub(crate) fn join(self: &Arc<Self>, key: &CacheKey, since: Instant) -> (Seat, Option<Flight>) {
        let mut stripe = self.stripe(key);
        if let Some(listed) = stripe.get_mut(key) {
            listed.last_joined = listed.last_joined.max(since);
            return (lock(&listed.progress).join(since), None);
        }
        let flight = self.list(&mut stripe, key, since);
        let seat = lock(&flight.progress).join(since);
        (seat, Some(flight))
    }

    /// Begins a flight of the key that nobody waits for, unless there is one.
    pub(crate) fn begin(self: &Arc<Self>, key: &CacheKey, since: Instant) -> Option<Flight> {
        let mut stripe = self.stripe(key);
        (!stripe.contains_key(key)).then(|| self.list(&mut stripe, key, since))
    }

    fn list(self: &Arc<Self>, stripe: &mut HashMap<CacheKey, Listed>, key: &CacheKey, since: Instant) -> Flight {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (progress, parted) = (Arc::<Mutex<Progress>>::default(), Arc::<OnceLock<_>>::default());
        let listed = Listed { id, progress: Arc::clone(&progress), last_joined: since, parted: Arc::clone(&parted) };
        stripe.insert(key.clone(), listed);
        Flight { flights: Arc::clone(self), key: key.clone(), id, progress, parted }
    }

    /// Lets nobody join the key's flight any more: the ring shard cannot tell it of an invalidation.
    pub(crate) fn part(&self, key: &CacheKey) {
        if let Some(listed) = self.stripe(key).remove(key) {
            // A flight is taken off the list once.
            let _ = listed.parted.set(listed.last_joined);
        }
    }

    fn stripe(&self, key: &CacheKey) -> MutexGuard<'_, HashMap<CacheKey, Listed>> {
        let at = self.hasher.hash_one(key) as usize % STRIPES;
        lock(&self.stripes[at])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Progress {
    /// Takes in a read that began at `since`.
    fn join(&mut self, since: Instant) -> Seat {
        let early = self.early.as_ref().filter(|(began, _)| since <= *began).map(|(_, outcome)| outcome);
        if let Some(outcome) = early.or(self.settled.as_ref()) {
            return Seat::Answered(outcome.clone());
        }
        if self.waiting.len() == self.waiting.capacity() {
            // Reads whose callers left would add up during a long load.
            self.waiting.retain(|waiting| !waiting.answer.is_closed());
            // At least as many joins until the next look, so that it costs each of them little.
            self.waiting.reserve(self.waiting.len());
        }
        let (answer, answered) = oneshot::channel();
        self.waiting.push(Waiting { since, answer });
        Seat::Waiting(answered)
    }
}

impl Flight {
    /// Tells when the latest read in it began so far.
    pub(crate) fn latest(&self) -> Option<Instant> {
        match self.flights.stripe(&self.key).get(&self.key) {
            Some(listed) if listed.id == self.id => Some(listed.last_joined),
            Some(_) | None => self.parted.get().copied(),
        }
    }

    /// Takes the flight off the list, so that nobody joins it any more; tells when the latest read in it began.
    pub(crate) fn close(&self) -> Option<Instant> {
        let mut stripe = self.flights.stripe(&self.key);
        match stripe.get(&self.key) {
            Some(listed) if listed.id == self.id => stripe.remove(&self.key).map(|listed| listed.last_joined),
            Some(_) | None => self.parted.get().copied(),
        }
    }

    /// Answers the reads that began at `began` or before.
    pub(crate) fn early(&self, began: Instant, outcome: Outcome) {
        let answered = {
            let mut progress = lock(&self.progress);
            progress.early = Some((began, outcome.clone()));
            let (answered, later) =
                std::mem::take(&mut progress.waiting).into_iter().partition(|waiting| waiting.since <= began);
            progress.waiting = later;
            answered
        };
        answer(answered, &outcome);
    }

    /// Ends the flight for everybody who has no answer yet.
    pub(crate) fn settle(&self, outcome: Outcome) {
        self.close();
        let answered = {
            let mut progress = lock(&self.progress);
            progress.settled = Some(outcome.clone());
            std::mem::take(&mut progress.waiting)
        };
        answer(answered, &outcome);
    }
}

fn answer(waiting: Vec<Waiting>, outcome: &Outcome) {
    for waiting in waiting {
        // A caller may have left.
        let _ = waiting.answer.send(outcome.clone());
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    impl Seat {
        async fn outcome(self) -> Option<Outcome> {
            match self {
                Self::Answered(outcome) => Some(outcome),
                Self::Waiting(answered) => answered.await.ok(),
            }
        }
    }

    fn answer(text: &'static str) -> Outcome {
        Outcome::Answer { entry: Bytes::from_static(text.as_bytes()), loaded: None, newer: false }
    }

    fn text(outcome: Option<Outcome>) -> Option<Bytes> {
        match outcome {
            Some(Outcome::Answer { entry, .. }) => Some(entry),
            Some(Outcome::Retry | Outcome::Failed(_)) | None => None,
        }
    }

    #[tokio::test]
    async fn a_late_read_gets_the_verdict_and_an_early_one_the_load() {
        let flights = Flights::new();
        let key = CacheKey::new("k").unwrap();
        let start = Instant::now();
        let (early, flight) = flights.join(&key, start);
        let (late, none) = flights.join(&key, start + Duration::from_secs(2));
        assert!(none.is_none());
        let flight = flight.unwrap();
        assert_eq!(flight.close(), Some(start + Duration::from_secs(2)));
        flight.early(start + Duration::from_secs(1), answer("loaded"));
        assert_eq!(text(early.outcome().await).unwrap(), "loaded");
        flight.settle(Outcome::Retry);
        assert!(matches!(late.outcome().await, Some(Outcome::Retry)));
    }

    #[tokio::test]
    async fn a_flight_that_was_parted_from_knows_who_is_in_it_and_answers_nobody_else() {
        let flights = Flights::new();
        let key = CacheKey::new("k").unwrap();
        let start = Instant::now();
        let (within, flight) = flights.join(&key, start);
        flights.part(&key);
        let (after, other) = flights.join(&key, start + Duration::from_secs(1));
        let (flight, other) = (flight.unwrap(), other.unwrap());
        assert_eq!(flight.close(), Some(start));
        flight.settle(answer("old"));
        assert_eq!(text(within.outcome().await).unwrap(), "old");
        other.settle(answer("new"));
        assert_eq!(text(after.outcome().await).unwrap(), "new");
    }

    #[tokio::test]
    async fn callers_who_left_do_not_add_up_and_the_others_are_answered() {
        let flights = Flights::new();
        let key = CacheKey::new("k").unwrap();
        let (stays, flight) = flights.join(&key, Instant::now());
        for _ in 0..10_000 {
            drop(flights.join(&key, Instant::now()).0);
        }
        let flight = flight.unwrap();
        assert!(lock(&flight.progress).waiting.capacity() < 100);
        flight.settle(answer("loaded"));
        assert_eq!(text(stays.outcome().await).unwrap(), "loaded");
    }

    #[tokio::test]
    async fn a_flight_that_nobody_waits_for_is_begun_once_and_joined_like_any_other() {
        let flights = Flights::new();
        let key = CacheKey::new("k").unwrap();
        let start = Instant::now();
        let flight = flights.begin(&key, start).unwrap();
        assert!(flights.begin(&key, start + Duration::from_secs(1)).is_none());
        assert_eq!(flight.latest(), Some(start), "who only looked whether there is one is no reader");
        let (reader, none) = flights.join(&key, start + Duration::from_secs(2));
        assert!(none.is_none());
        assert_eq!(flight.latest(), Some(start + Duration::from_secs(2)));
        flight.settle(answer("loaded"));
        assert_eq!(text(reader.outcome().await).unwrap(), "loaded");
    }

    #[tokio::test]
    async fn a_closed_flight_is_not_joined_and_a_dropped_one_hangs_nobody() {
        let flights = Flights::new();
        let key = CacheKey::new("k").unwrap();
        let (first, flight) = flights.join(&key, Instant::now());
        let flight = flight.unwrap();
        flight.close();
        let (_, second) = flights.join(&key, Instant::now());
        drop(flight);
        assert!(second.is_some());
        assert!(first.outcome().await.is_none());
        assert!(flights.join(&key, Instant::now()).1.is_none(), "the second flight is still listed");
    }
}
