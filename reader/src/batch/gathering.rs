//! Gatherings: keys that come to be loaded at about the same time, and go to the loader together.

mod call;
mod failure;

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument;

pub(crate) use failure::Failure;

use super::loader::BatchLoader;
use crate::cache::Inner;
use crate::loader::{Cap, Consistency, Loaded, Loader, Place};
use crate::shard::ReadShard;
use crate::space::SpaceState;
use call::Part;

/// How long a call waits for keys that are expected while none of them comes or is given up.
const QUIET: Duration = Duration::from_millis(5);

/// How long a call waits for keys that are expected, at most.
const LONGEST: Duration = Duration::from_millis(25);

/// Where keys meet on their way to one loader.
pub(crate) struct Gathering<K, T> {
    loader: BatchLoader<K, T>,
    state: Mutex<State<K, T>>,
}

struct State<K, T> {
    /// The keys, and look-ups for keys, of reads of many that may still come, by read.
    expected: BTreeMap<u64, usize>,
    next_read: u64,
    next_call: u64,
    /// The call that takes keys now.
    open: Option<Open<K, T>>,
}

/// A call that still takes keys.
struct Open<K, T> {
    id: u64,
    parts: Vec<Part<K, T>>,
    changed: Instant,
    /// Reads that are waited for are those that began before this one; none is known before the window closes.
    waits_for: Option<u64>,
    ready: oneshot::Sender<Vec<Part<K, T>>>,
}

/// A read of many keys, or one of its look-ups or keys, that a gathering waits for until this is dropped.
pub(super) struct Expected<K, T> {
    gathering: Arc<Gathering<K, T>>,
    read: u64,
    given_up: AtomicBool,
}

/// A key on its way to be loaded.
struct OnItsWay<K, T> {
    gathering: Arc<Gathering<K, T>>,
    inner: Arc<Inner>,
    space: Arc<SpaceState>,
    key: K,
    expected: Option<Expected<K, T>>,
    /// What its next load counts against.
    under: Mutex<Option<(Arc<ReadShard>, Cap)>>,
}

impl<K, T> Gathering<K, T> {
    pub(super) fn new(loader: BatchLoader<K, T>) -> Arc<Self> {
        let state = State { expected: BTreeMap::new(), next_read: 0, next_call: 0, open: None };
        Arc::new(Self { loader, state: Mutex::new(state) })
    }

    /// Announces a read of many keys.
    pub(super) fn expect(self: &Arc<Self>) -> Expected<K, T> {
        let mut state = self.state();
        let read = state.next_read;
        state.next_read += 1;
        state.expected.insert(read, 1);
        drop(state);
        Expected { gathering: self.clone(), read, given_up: AtomicBool::new(false) }
    }

    fn state(&self) -> MutexGuard<'_, State<K, T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, T> Expected<K, T> {
    /// Announces one more key or look-up of the same read.
    pub(super) fn another(&self) -> Self {
        *self.gathering.state().expected.entry(self.read).or_default() += 1;
        Self { gathering: self.gathering.clone(), read: self.read, given_up: AtomicBool::new(false) }
    }

    /// Tells that it is to be waited for after all.
    fn come(&self) {
        if self.given_up.swap(false, Ordering::Relaxed) {
            *self.gathering.state().expected.entry(self.read).or_default() += 1;
        }
    }

    /// Tells that it is not to be waited for.
    pub(super) fn give_up(&self) {
        if !self.given_up.swap(true, Ordering::Relaxed) {
            let mut state = self.gathering.state();
            state.forget(self.read);
            state.close_if_complete(&self.gathering.loader);
        }
    }
}

impl<K, T> Drop for Expected<K, T> {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl<K, T> State<K, T> {
    fn forget(&mut self, read: u64) {
        if let Some(left) = self.expected.get_mut(&read) {
            *left -= 1;
            if *left == 0 {
                self.expected.remove(&read);
            }
        }
        if let Some(open) = &mut self.open {
            open.changed = Instant::now();
        }
    }

    /// Lets the call begin where it is full, or its window is over and nobody else is expected.
    fn close_if_complete(&mut self, loader: &BatchLoader<K, T>) {
        let complete = |open: &mut Open<K, T>| {
            let full = open.parts.len() >= loader.max_batch;
            let earliest = self.expected.first_key_value().map(|(read, _)| *read);
            full || open.waits_for.is_some_and(|before| earliest.is_none_or(|read| read >= before))
        };
        if let Some(open) = self.open.take_if(complete) {
            // Its task is there as long as the cache and its runtime are; after that the keys are told that there is none.
            let _ = open.ready.send(open.parts);
        }
    }
}

impl<K, T> Gathering<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Serialize + Send + 'static,
{
    /// Makes a loader for one key; `expected` holds up the call that this key is to be part of.
    pub(super) fn loader(
        self: &Arc<Self>,
        inner: &Arc<Inner>,
        space: &Arc<SpaceState>,
        key: K,
        expected: Option<Expected<K, T>>,
    ) -> Loader {
        let (gathering, inner, space) = (self.clone(), inner.clone(), space.clone());
        let way = Arc::new(OnItsWay { gathering, inner, space, key, expected, under: Mutex::default() });
        let place: Arc<dyn Place> = way.clone();
        let load = move |consistency| way.clone().load(consistency);
        let loader = Loader::new::<T, Loaded<T>, Failure, _, _>(self.loader.told, load);
        // What is never shared is counted as any load is, before its lease is taken.
        if self.loader.max_batch == 1 { loader } else { loader.with_place(place) }
    }

    /// Adds a key to the call that takes keys now, and opens one where there is none.
    fn add(self: &Arc<Self>, inner: &Arc<Inner>, space: &Arc<SpaceState>, part: Part<K, T>) {
        let mut state = self.state();
        let now = Instant::now();
        // Keys of a call that nobody is left to make, because the runtime of whoever opened it has ended, go into the next.
        let ended = state.open.take_if(|open| open.ready.is_closed());
        match &mut state.open {
            Some(open) => {
                open.parts.push(part);
                open.changed = now;
            }
            None => {
                let id = state.next_call;
                state.next_call += 1;
                let waits_for = self.loader.window.is_zero().then_some(state.next_read);
                let (ready, begin) = oneshot::channel();
                let mut parts = ended.map_or_else(Vec::new, |ended| ended.parts);
                parts.push(part);
                state.open = Some(Open { id, parts, changed: now, waits_for, ready });
                // Within the read that opened it, whoever else it answers.
                inner.spawn(self.clone().gather(inner.clone(), space.clone(), id, begin).in_current_span());
            }
        }
        state.close_if_complete(&self.loader);
    }

    /// Waits until a call is complete, or has waited long enough, and makes it.
    async fn gather(
        self: Arc<Self>,
        inner: Arc<Inner>,
        space: Arc<SpaceState>,
        id: u64,
        begin: oneshot::Receiver<Vec<Part<K, T>>>,
    ) {
        let parts = tokio::select! {
            biased;
            parts = begin => parts.unwrap_or_default(),
            parts = self.waited_enough(id, inner.settings.load_timeout_of(&space.settings) / 2) => parts,
        };
        call::load(&self.loader, &inner, &space, parts).await;
    }

    async fn waited_enough(&self, id: u64, most: Duration) -> Vec<Part<K, T>> {
        let opened = Instant::now();
        let mut until = opened + self.loader.window.min(most);
        loop {
            tokio::time::sleep_until(until).await;
            let taken = self.state().overdue(id, opened, Instant::now());
            match taken {
                Overdue::Taken(parts) => return parts,
                Overdue::At(later) => until = later,
                // It was complete just now, and its keys are on their way here.
                Overdue::Gone => std::future::pending().await,
            }
        }
    }
}

enum Overdue<K, T> {
    Taken(Vec<Part<K, T>>),
    At(Instant),
    Gone,
}

impl<K, T> State<K, T> {
    /// Takes the keys of a call whose window is over, unless others are still worth waiting for.
    fn overdue(&mut self, id: u64, opened: Instant, now: Instant) -> Overdue<K, T> {
        let next_read = self.next_read;
        let Some(open) = self.open.as_mut().filter(|open| open.id == id) else { return Overdue::Gone };
        let before = *open.waits_for.get_or_insert(next_read);
        let until = (open.changed + QUIET).min(opened + LONGEST);
        let expected = self.expected.first_key_value().is_some_and(|(read, _)| *read < before);
        if expected && now < until {
            return Overdue::At(until);
        }
        self.open.take().map_or(Overdue::Gone, |open| Overdue::Taken(open.parts))
    }
}

impl<K, T> OnItsWay<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Serialize + Send + 'static,
{
    async fn load(self: Arc<Self>, consistency: Consistency) -> Result<Loaded<T>, Failure> {
        let under = self.under.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (answer, answered) = oneshot::channel();
        let part = Part { key: self.key.clone(), consistency, under, answer };
        self.gathering.add(&self.inner, &self.space, part);
        // Only now, or the call would have begun without this key.
        self.stand_by();
        answered.await.unwrap_or(Err(Failure::Closed))
    }
}

impl<K: Send + Sync, T: Send> Place for OnItsWay<K, T> {
    fn stand_by(&self) {
        if let Some(expected) = &self.expected {
            expected.give_up();
        }
    }

    fn come(&self) {
        if let Some(expected) = &self.expected {
            expected.come();
        }
    }

    fn under(&self, shard: &Arc<ReadShard>, cap: Cap) {
        *self.under.lock().unwrap_or_else(PoisonError::into_inner) = Some((shard.clone(), cap));
    }
}
