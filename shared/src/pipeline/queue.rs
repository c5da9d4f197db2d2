//! What waits for one ring shard, and the task that delivers it.
//!
//! One shard that is down holds up nothing but its own queue. Past its capacity the queue is given up for a flush of
//! all key spaces, which stands for every command that was dropped: a checkpoint waits for the one or the other.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use metrics::{counter, gauge};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::ticket::Part;
use crate::command::{Action, Command};
use crate::metrics as names;
use crate::ring::ShardName;
use crate::valkey::{Applied, Shard, ShardError};

/// Batches under way at once: more would hold up the shard's readers.
const DEPTH: usize = 4;
/// The pause between two batches of names that a flush removes.
const FLUSH_PAUSE: Duration = Duration::from_millis(2);

/// A ring shard as the pipeline sees it.
///
/// Commands may be carried out more than once, and after an error any part of them may have been.
pub trait RingShard: Send + Sync + 'static {
    /// Carries out a batch; resolves when the shard has acknowledged all of it.
    ///
    /// Refreshes are not stored past `deadline_ms` of the server's clock (unix ms; 0 for no deadline).
    fn apply<'a>(&'a self, commands: &'a [Command], deadline_ms: u64) -> BoxFuture<'a, Result<Applied, ShardError>>;

    /// Removes every entry and lock whose key begins with `prefix`, and returns how many names were removed.
    fn flush<'a>(&'a self, prefix: &'a str, pause: Duration) -> BoxFuture<'a, Result<u64, ShardError>>;

    /// Resolves as soon as the shard can be reached, or after `within`.
    fn reachable(&self, within: Duration) -> BoxFuture<'_, ()>;
}

impl RingShard for Shard {
    fn apply<'a>(&'a self, commands: &'a [Command], deadline_ms: u64) -> BoxFuture<'a, Result<Applied, ShardError>> {
        Box::pin(Shard::apply(self, commands, deadline_ms))
    }

    fn flush<'a>(&'a self, prefix: &'a str, pause: Duration) -> BoxFuture<'a, Result<u64, ShardError>> {
        Box::pin(Shard::flush(self, prefix, pause))
    }

    fn reachable(&self, within: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let until = Instant::now() + within;
            // An early error is a refusal that only somebody's change can end: tried again at the usual pace.
            if self.ready(within).await.is_err() {
                tokio::time::sleep_until(until).await;
            }
        })
    }
}

/// The queue of one ring shard.
pub(super) struct Queue {
    name: ShardName,
    /// The prefixes of all key spaces: what a flush that stands for dropped commands removes.
    prefixes: Arc<BTreeSet<String>>,
    capacity: usize,
    healthy: AtomicBool,
    state: Mutex<State>,
    /// There is something to deliver.
    filled: Notify,
    /// Something was delivered, or the shard was found to be down.
    moved: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Item>,
    /// Commands that wait or are under way.
    commands: usize,
    flush: Option<Flush>,
    /// Items and flushes that are under way.
    under_way: usize,
}

/// A batch that waits.
pub(super) struct Item {
    pub(super) commands: Arc<[Command]>,
    pub(super) part: Part,
    /// Refreshes are not stored past it, by the ring shard's clock (unix ms; 0 for no deadline).
    pub(super) deadline_ms: u64,
}

/// Key spaces to be flushed before anything else is delivered.
struct Flush {
    prefixes: BTreeSet<String>,
    parts: Vec<Part>,
    reason: &'static str,
}

impl Queue {
    pub(super) fn new(name: ShardName, prefixes: Arc<BTreeSet<String>>, capacity: usize) -> Self {
        Self {
            name,
            prefixes,
            capacity,
            healthy: AtomicBool::new(true),
            state: Mutex::default(),
            filled: Notify::new(),
            moved: Notify::new(),
        }
    }

    /// Queues a batch; where too much waits for a shard that is down, a flush takes the place of all that waits.
    pub(super) fn push(&self, item: Item) {
        let mut state = self.lock();
        state.commands += item.commands.len();
        state.waiting.push_back(item);
        if state.commands > self.capacity && !self.healthy.load(Ordering::Acquire) {
            let waiting = std::mem::take(&mut state.waiting);
            state.commands -= waiting.iter().map(|item| item.commands.len()).sum::<usize>();
            tracing::warn!(
                ring_shard = %self.name,
                batches = waiting.len(),
                "too many commands wait for a ring shard that is down, it will be flushed instead"
            );
            gauge!(names::DELIVERY_DIRTY, names::RING_SHARD => self.name.to_string()).set(1.0);
            let parts = waiting.into_iter().map(|item| item.part).collect();
            state.add_flush(Flush { prefixes: (*self.prefixes).clone(), parts, reason: "overflow" });
        }
        self.note_pending(&state);
        drop(state);
        self.filled.notify_one();
    }

    /// Queues a flush of key spaces, ahead of every batch.
    pub(super) fn push_flush(&self, prefixes: BTreeSet<String>, part: Part, reason: &'static str) {
        self.lock().add_flush(Flush { prefixes, parts: vec![part], reason });
        self.filled.notify_one();
    }

    /// Waits while a shard that is up has more than `mark` commands to take.
    pub(super) async fn room(&self, mark: usize) {
        loop {
            let moved = self.moved.notified();
            if !self.healthy.load(Ordering::Acquire) || self.pending() <= mark {
                return;
            }
            moved.await;
        }
    }

    /// The number of commands that wait or are under way, a flush counting as one.
    pub(super) fn pending(&self) -> usize {
        let state = self.lock();
        state.commands + usize::from(state.flush.is_some()) + usize::from(state.commands == 0 && state.under_way > 0)
    }

    /// Whether the last attempt was acknowledged.
    pub(super) fn healthy(&self) -> bool {
        self.healthy.load(Ordering::Acquire)
    }

    /// Waits until nothing is pending.
    pub(super) async fn drained(&self) {
        loop {
            let moved = self.moved.notified();
            if self.pending() == 0 {
                return;
            }
            moved.await;
        }
    }

    /// Delivers what is queued until `stop`.
    pub(super) async fn deliver(&self, shard: Arc<dyn RingShard>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.deliver_for_ever(&*shard) => {}
        }
    }

    async fn deliver_for_ever(&self, shard: &dyn RingShard) {
        let mut under_way = FuturesUnordered::new();
        let mut backoff = Backoff::default();
        let mut alone = false;
        loop {
            if under_way.is_empty() {
                alone = false;
                backoff.pause(shard).await;
                if let Some(flush) = self.take_flush() {
                    self.flush(shard, flush, &mut backoff).await;
                    continue;
                }
            }
            // A shard that is down is tried with one batch at a time. Refreshes go alone, so that they keep their
            // order even where the entry that would tell their versions apart is evicted in between.
            let depth = if self.healthy() { DEPTH } else { 1 };
            while !alone && under_way.len() < depth && !self.flush_waits() {
                let Some(item) = self.take(under_way.is_empty()) else { break };
                alone = item.is_refresh();
                under_way.push(async move {
                    let result = shard.apply(&item.commands, item.deadline_ms).await;
                    (item, result)
                });
            }
            if under_way.is_empty() {
                self.filled.notified().await;
                continue;
            }
            tokio::select! {
                Some((item, result)) = under_way.next() => self.settle(item, result, &mut backoff),
                () = self.filled.notified(), if !alone && under_way.len() < depth => {}
            }
        }
    }

    fn settle(&self, item: Item, result: Result<Applied, ShardError>, backoff: &mut Backoff) {
        match result {
            Ok(applied) => {
                backoff.reset();
                self.set_healthy(true);
                self.count(&applied);
                {
                    let mut state = self.lock();
                    state.commands -= item.commands.len();
                    state.under_way -= 1;
                    self.note_pending(&state);
                }
                item.part.done();
            }
            Err(error) => {
                self.failed(&error, backoff);
                let mut state = self.lock();
                state.under_way -= 1;
                let before = item.commands.len();
                let item = item.after(&error);
                state.commands = state.commands - before + item.commands.len();
                state.waiting.push_front(item);
            }
        }
        self.moved.notify_waiters();
    }

    async fn flush(&self, shard: &dyn RingShard, flush: Flush, backoff: &mut Backoff) {
        tracing::warn!(ring_shard = %self.name, reason = flush.reason, prefixes = ?flush.prefixes, "flushing key spaces of a ring shard");
        let mut removed = 0;
        for prefix in &flush.prefixes {
            match shard.flush(prefix, FLUSH_PAUSE).await {
                Ok(names) => removed += names,
                Err(error) => {
                    self.failed(&error, backoff);
                    let mut state = self.lock();
                    state.under_way -= 1;
                    state.add_flush(flush);
                    drop(state);
                    self.moved.notify_waiters();
                    return;
                }
            }
        }
        tracing::warn!(ring_shard = %self.name, reason = flush.reason, names = removed, "flushed key spaces of a ring shard");
        counter!(names::FLUSHES, names::RING_SHARD => self.name.to_string(), names::REASON => flush.reason)
            .increment(1);
        counter!(names::FLUSHED_KEYS, names::RING_SHARD => self.name.to_string()).increment(removed);
        backoff.reset();
        self.set_healthy(true);
        {
            let mut state = self.lock();
            state.under_way -= 1;
            if state.flush.is_none() {
                gauge!(names::DELIVERY_DIRTY, names::RING_SHARD => self.name.to_string()).set(0.0);
            }
        }
        flush.parts.into_iter().for_each(Part::done);
        self.moved.notify_waiters();
    }

    fn failed(&self, error: &ShardError, backoff: &mut Backoff) {
        counter!(names::DELIVERY_RETRIES, names::RING_SHARD => self.name.to_string()).increment(1);
        if self.healthy() || !error.is_retryable() {
            tracing::warn!(ring_shard = %self.name, %error, "a ring shard does not take commands, they wait");
        }
        self.set_healthy(false);
        backoff.grow(matches!(error, ShardError::Unavailable { .. }));
    }

    fn take_flush(&self) -> Option<Flush> {
        let mut state = self.lock();
        let flush = state.flush.take()?;
        state.under_way += 1;
        Some(flush)
    }

    fn flush_waits(&self) -> bool {
        self.lock().flush.is_some()
    }

    /// Takes the next batch; a refresh only when nothing else is under way. Batches that nobody waits for are dropped.
    fn take(&self, idle: bool) -> Option<Item> {
        let mut state = self.lock();
        loop {
            let next = state.waiting.front()?;
            if next.part.given_up() {
                if let Some(item) = state.waiting.pop_front() {
                    state.commands -= item.commands.len();
                }
                continue;
            }
            if next.is_refresh() && !idle {
                return None;
            }
            state.under_way += 1;
            return state.waiting.pop_front();
        }
    }

    fn set_healthy(&self, healthy: bool) {
        if self.healthy.swap(healthy, Ordering::AcqRel) != healthy && healthy {
            tracing::info!(ring_shard = %self.name, "a ring shard takes commands again");
        }
    }

    fn count(&self, applied: &Applied) {
        let outcomes = [
            ("absent", applied.absent),
            ("dropped", applied.dropped),
            ("marked", applied.marked),
            ("older", applied.older),
            ("refreshed", applied.refreshed),
            ("late", applied.late),
            ("voided", applied.voided),
        ];
        for (outcome, count) in outcomes.into_iter().filter(|(_, count)| *count > 0) {
            counter!(names::APPLIED, names::RING_SHARD => self.name.to_string(), names::OUTCOME => outcome)
                .increment(count);
        }
    }

    fn note_pending(&self, state: &State) {
        gauge!(names::DELIVERY_PENDING, names::RING_SHARD => self.name.to_string()).set(state.commands as f64);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add_flush(&mut self, more: Flush) {
        match &mut self.flush {
            Some(flush) => {
                flush.prefixes.extend(more.prefixes);
                flush.parts.extend(more.parts);
            }
            None => self.flush = Some(more),
        }
    }
}

impl Item {
    fn is_refresh(&self) -> bool {
        self.commands.iter().any(|command| matches!(command.action, Action::Refresh { .. }))
    }

    /// What to send after an error: a refresh that the server refuses (it is out of memory, say) becomes a drop, which
    /// is always right; anything else is sent again.
    fn after(self, error: &ShardError) -> Self {
        if !matches!(error, ShardError::Rejected { .. }) || !self.is_refresh() {
            return self;
        }
        let drops = self.commands.iter().map(|c| Command::drop_entry(c.key.clone(), c.space.clone()));
        Self { commands: drops.collect(), ..self }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
