//! What waits for one ring shard.
//!
//! One shard that is down, or that is being flushed, holds up nothing but its own queue. Past its capacity the queue is
//! given up for a flush of all key spaces, which stands for every command that was dropped: a checkpoint waits for the
//! one or the other. While a shard that is up is flushed for that reason, what is more than a busy shard may have to take
//! waits outside.
//!
//! # Fail-over
//! What a server acknowledged, another one in its place may have lost. So the ring shard is asked which servers it is,
//! before anything else is sent over a new connection and at intervals, and what may be lost is delivered again, as far
//! as that is known from what was acknowledged lately; else the key spaces are flushed. `courier` does so.

mod courier;
mod gauges;
mod recent;
mod recovery;
mod state;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use metrics::counter;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::limits::{Limits, Replicas};
use super::shard::RingShard;
use super::status::{LastFlush, RingShardStatus};
use super::ticket::Part;
use crate::clock::unix_ms;
use crate::metrics as names;
use crate::ring::ShardName;
use crate::valkey::{Applied, ShardError};
use courier::Courier;
use gauges::Gauges;
pub(super) use state::Item;
use state::{Flush, Stage, State};

/// The reason of a flush that stands for commands that were too many.
const OVERFLOW: &str = "overflow";

/// The queue of one ring shard.
pub(super) struct Queue {
    name: ShardName,
    /// The prefixes of all key spaces: what a flush that stands for dropped commands removes.
    prefixes: Arc<BTreeSet<String>>,
    limits: Limits,
    /// What it delivers to; its task holds it.
    shard: OnceLock<Weak<dyn RingShard>>,
    healthy: AtomicBool,
    gauges: Gauges,
    state: Mutex<State>,
    /// There is something to deliver.
    filled: Notify,
    /// Something was delivered or given up, or the shard was found to take nothing for now.
    moved: Notify,
}

impl Queue {
    pub(super) fn new(name: ShardName, prefixes: Arc<BTreeSet<String>>, limits: Limits) -> Self {
        let state = State::new(&limits, Instant::now());
        Self {
            gauges: Gauges::new(name.clone()),
            name,
            prefixes,
            limits,
            shard: OnceLock::new(),
            healthy: AtomicBool::new(true),
            state: Mutex::new(state),
            filled: Notify::new(),
            moved: Notify::new(),
        }
    }

    /// Queues a batch; where too much waits for a shard that takes none, a flush takes the place of all that waits.
    pub(super) fn push(&self, item: Item) {
        let mut state = self.lock();
        if let Some(item) = state.admit(item) {
            // What is due counts as waiting also where nothing is taken, so that it is bounded, too; a flush that stands for
            // it begins when it is due.
            state.wake(Instant::now());
            state.enqueue(item);
            self.bound(&mut state);
            self.note_pending(&state);
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Queues a batch for a later time.
    pub(super) fn push_at(&self, item: Item, at: Instant) {
        let mut state = self.lock();
        if let Some(item) = state.admit(item) {
            state.delay(item, at);
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Queues a flush of key spaces, ahead of every batch.
    pub(super) fn push_flush(&self, prefixes: BTreeSet<String>, part: Part, reason: &'static str) {
        let mut state = self.lock();
        match state.stage {
            Stage::Open => state.add_flush(Flush { prefixes, parts: vec![part], reason, removed: None }),
            Stage::Retired => part.done(),
            Stage::Broken => {}
        }
        drop(state);
        self.filled.notify_one();
        self.moved.notify_waiters();
    }

    /// Waits while a shard that takes batches, or is flushed because too many waited, has more than `mark` commands to take.
    pub(super) async fn room(&self, mark: usize) {
        loop {
            let moved = self.moved.notified();
            if self.held_up() || self.pending() <= mark {
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

    pub(super) fn name(&self) -> &ShardName {
        &self.name
    }

    /// How it fares.
    pub(super) fn status(&self) -> RingShardStatus {
        let pending = self.pending();
        let state = self.lock();
        let waiting = state.flush.as_ref().map(|flush| flush.reason);
        RingShardStatus {
            name: self.name.to_string(),
            up: self.healthy(),
            pending,
            flushing: state.flushing.or(waiting),
            last_flush: state.last_flush.clone(),
        }
    }

    /// Whether the last attempt was acknowledged, or nothing is left that was not and the shard answers.
    pub(super) fn healthy(&self) -> bool {
        self.healthy.load(Ordering::Acquire)
    }

    /// Whether no batch is taken for now, however long that lasts, and what comes meanwhile is bounded by a flush: the shard is
    /// down, or a flush goes before them.
    ///
    /// A shard that is up and is flushed for what was too much is waited for instead, as a busy one is: what came meanwhile
    /// would be too much again, so that one flush would follow another without end and no batch ever go out.
    pub(super) fn held_up(&self) -> bool {
        self.may_overflow(&self.lock())
    }

    /// Whether no batch is taken for now, for whichever reason.
    pub(super) fn stands_still(&self) -> bool {
        !self.healthy() || self.lock().is_flushed()
    }

    fn may_overflow(&self, state: &State) -> bool {
        !self.healthy() || (state.is_flushed() && state.flushing != Some(OVERFLOW))
    }

    /// Whether something is to be made good that a fail-over may have lost. No record stands for it that a successor would read
    /// again.
    pub(super) fn owes_recovery(&self) -> bool {
        let state = self.lock();
        state.recovering || state.redelivered > 0
    }

    /// Waits until nothing is pending, and nothing owed that a fail-over may have lost, be it due only later.
    pub(super) async fn drained(&self) {
        loop {
            let moved = self.moved.notified();
            if self.pending() == 0 && !self.owes_recovery() {
                return;
            }
            moved.await;
        }
    }

    /// Tells what it is to deliver to, which is told once.
    pub(super) fn stands_for(&self, shard: &Arc<dyn RingShard>) {
        self.shard.get_or_init(|| Arc::downgrade(shard));
    }

    /// Takes the gauges of its ring shard's name, or leaves them to another queue of the name, which leads to another address; a
    /// new queue has to be given them.
    pub(super) fn show(&self, shown: bool) {
        self.gauges.show(shown);
        if let Some(shard) = self.shard.get().and_then(Weak::upgrade) {
            shard.show(shown);
        }
    }

    /// Delivers what is queued until the queue is retired and nothing is under way any more.
    pub(super) async fn deliver(&self, shard: Arc<dyn RingShard>) {
        Courier::new(self, &*shard).run().await;
    }

    /// Ends the queue of a ring shard from which nothing is served any more: what waits for it counts as delivered.
    pub(super) fn retire(&self) {
        self.lock().stage = Stage::Retired;
        // At once: by the time its task has ended, the name may stand for another one.
        self.gauges.leave();
        if let Some(shard) = self.shard.get().and_then(Weak::upgrade) {
            shard.leave();
        }
        self.filled.notify_one();
    }

    /// Ends the queue because its task has broken off: what waits for it is never delivered, and so are all that come.
    pub(super) fn break_off(&self) {
        let dropped = self.lock().end(Stage::Broken);
        self.healthy.store(false, Ordering::Release);
        // Their tickets resolve to errors.
        drop(dropped);
        self.moved.notify_waiters();
    }

    /// Gives up what waits for a shard that takes no batches, where it is too much, for a flush. What nobody waits for does not
    /// count.
    fn bound(&self, state: &mut State) {
        let too_much = |state: &State| state.commands > self.limits.capacity && self.may_overflow(state);
        if !too_much(state) {
            return;
        }
        if state.drop_all_given_up() {
            self.moved.notify_waiters();
        }
        if !too_much(state) {
            return;
        }
        let waiting = std::mem::take(&mut state.waiting);
        state.commands -= waiting.iter().map(|item| item.commands.len()).sum::<usize>();
        tracing::warn!(
            ring_shard = %self.name,
            batches = waiting.len(),
            "too many commands wait for a ring shard that is down or being flushed, it will be flushed instead"
        );
        self.flush_all(state, OVERFLOW);
        let redelivered = waiting.iter().filter(|item| item.part.is_none()).count();
        state.redelivered -= redelivered;
        state.recovering |= redelivered > 0;
        let parts = waiting.into_iter().filter_map(|item| item.part);
        if let Some(flush) = &mut state.flush {
            flush.parts.extend(parts);
        }
    }

    fn flush_all(&self, state: &mut State, reason: &'static str) {
        self.gauges.dirty(true);
        state.add_flush(Flush { prefixes: (*self.prefixes).clone(), parts: Vec::new(), reason, removed: None });
    }

    fn is_retired(&self) -> bool {
        self.lock().stage != Stage::Open
    }

    /// Lets go of everything that waits, as delivered.
    fn release(&self) {
        let (items, flush) = self.lock().end(Stage::Retired);
        if !items.is_empty() || flush.is_some() {
            let batches = items.len();
            tracing::info!(ring_shard = %self.name, batches, "a ring shard from which nothing is served any more is let go of");
        }
        items.into_iter().for_each(Item::done);
        flush.into_iter().flat_map(|flush| flush.parts).for_each(Part::done);
        self.moved.notify_waiters();
    }

    /// Notes that a batch was acknowledged.
    fn acknowledged(&self, item: Item, applied: &Applied) {
        self.set_healthy(true);
        self.count(applied);
        {
            let mut state = self.lock();
            state.commands -= item.commands.len();
            state.under_way -= 1;
            state.redelivered -= usize::from(item.part.is_none());
            state.recent.note(&item.commands, Instant::now());
            self.note_pending(&state);
        }
        item.done();
        self.moved.notify_waiters();
    }

    /// Puts a batch back to its place, to be sent again.
    fn put_back(&self, item: Item, error: &ShardError) {
        self.failed(error);
        {
            let mut state = self.lock();
            state.under_way -= 1;
            let before = item.commands.len();
            let item = item.after(error);
            state.commands = state.commands - before + item.commands.len();
            let place = state.waiting.iter().position(|waiting| waiting.number > item.number);
            let place = place.unwrap_or(state.waiting.len());
            state.waiting.insert(place, item);
        }
        self.moved.notify_waiters();
    }

    fn flushed(&self, flush: Flush, removed: u64) {
        tracing::warn!(ring_shard = %self.name, reason = flush.reason, names = removed, "flushed key spaces of a ring shard");
        let name = || self.name.to_string();
        counter!(names::FLUSHES, names::RING_SHARD => name(), names::REASON => flush.reason).increment(1);
        counter!(names::FLUSHED_KEYS, names::RING_SHARD => name()).increment(removed);
        self.set_healthy(true);
        {
            let mut state = self.lock();
            state.under_way -= 1;
            // What it stands for is not noted one by one.
            state.recent.begin_again(Instant::now());
            state.flushing = None;
            state.last_flush = Some(LastFlush { at_ms: unix_ms(), reason: flush.reason, names: removed });
            if state.flush.is_none() {
                state.recovering = false;
                self.gauges.dirty(false);
            }
        }
        flush.parts.into_iter().for_each(Part::done);
        self.moved.notify_waiters();
    }

    /// Puts a flush back that was carried out over a connection that was made meanwhile: it counts behind a look that finds
    /// nothing lost.
    fn flushed_by_somebody(&self, flush: Flush, removed: u64) {
        let mut state = self.lock();
        state.under_way -= 1;
        state.flushing = None;
        let newer = state.flush.take();
        state.flush = Some(Flush { removed: Some(removed), ..flush });
        newer.into_iter().for_each(|newer| state.add_flush(newer));
    }

    fn not_flushed(&self, flush: Flush, error: &ShardError) {
        self.failed(error);
        {
            let mut state = self.lock();
            state.under_way -= 1;
            state.flushing = None;
            state.add_flush(flush);
        }
        self.moved.notify_waiters();
    }

    fn failed(&self, error: &ShardError) {
        counter!(names::DELIVERY_RETRIES, names::RING_SHARD => self.name.to_string()).increment(1);
        if self.healthy() || !error.is_retryable() {
            tracing::warn!(ring_shard = %self.name, %error, "a ring shard does not take commands, they wait");
        }
        self.set_healthy(false);
        self.moved.notify_waiters();
    }

    /// Notes that the servers have answered when they were asked who they are, whatever they said.
    ///
    /// Batches that failed may have been given up since, and nothing be sent that would be acknowledged. Whether the shard
    /// takes commands is not known then, and nothing says that it does not: the next batch tells.
    fn answered(&self) {
        let mut state = self.lock();
        if !self.waits(&mut state) && !self.healthy.swap(true, Ordering::AcqRel) {
            tracing::info!(ring_shard = %self.name, "a ring shard answers again, and nothing waits for it");
        }
    }

    fn take_flush(&self) -> Option<Flush> {
        let mut state = self.lock();
        let flush = state.flush.take()?;
        state.under_way += 1;
        state.flushing = Some(flush.reason);
        Some(flush)
    }

    /// Whether anything is to be done before the next batch.
    fn is_held(&self) -> bool {
        let state = self.lock();
        state.flush.is_some() || state.stage != Stage::Open
    }

    fn has_waiting(&self) -> bool {
        self.waits(&mut self.lock())
    }

    /// Whether anybody waits for the shard, be it for a flush or for what is due by now.
    fn waits(&self, state: &mut State) -> bool {
        state.wake(Instant::now());
        self.drop_given_up(state);
        self.note_pending(state);
        !state.waiting.is_empty() || state.flush.is_some()
    }

    /// Drops batches at the head that nobody waits for.
    fn drop_given_up(&self, state: &mut State) {
        if state.drop_given_up() {
            self.note_pending(state);
            self.moved.notify_waiters();
        }
    }

    /// When the next batch is due that waits for its time.
    fn next_due(&self) -> Option<Instant> {
        self.lock().delayed.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the next batch; a refresh only when nothing else is under way. Batches that nobody waits for are dropped.
    fn take(&self, idle: bool) -> Option<Item> {
        let mut state = self.lock();
        state.wake(Instant::now());
        self.drop_given_up(&mut state);
        if state.waiting.front()?.is_refresh() && !idle {
            return None;
        }
        state.under_way += 1;
        state.waiting.pop_front()
    }

    fn set_healthy(&self, healthy: bool) {
        if self.healthy.swap(healthy, Ordering::AcqRel) != healthy && healthy {
            tracing::info!(ring_shard = %self.name, "a ring shard takes commands again");
        }
    }

    fn replicas(&self) -> Option<Replicas> {
        self.limits.replicas
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
        self.gauges.pending(state.commands);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
