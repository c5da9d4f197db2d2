//! A ring shard as a reader has it: its connections behind a circuit breaker, its inbox, and its share of loads.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use metrics::{Counter, Gauge, counter, gauge};
use ringtide_core::command::Command;
use ringtide_core::config::Reader;
use ringtide_core::key::CacheKey;
use ringtide_core::metrics as names;
use ringtide_core::valkey::{Applied, Fill, FillReply, LeaseReply, LeaseRequest, Release, Shard, ShardError, Token};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use crate::breaker::{Admission, Breaker, Change, Rules, State};
use crate::budget::Budget;
use crate::inbox::Waiters;
use crate::local::Part;

pub(crate) struct ReadShard {
    /// Past the breaker: for what has pauses of its own.
    pub(crate) shard: Shard,
    /// Its part of the in-process tier, where its servers tell of changes.
    pub(crate) part: Option<Arc<Part>>,
    /// The channel of this process's inbox.
    pub(crate) channel: String,
    pub(crate) waiters: Arc<Waiters>,
    /// Loads under leases that may run at once.
    pub(crate) leased: Semaphore,
    /// Loads without a lease that may run at once.
    pub(crate) unleased: Semaphore,
    /// Repeated loads on behalf of its keys.
    pub(crate) budget: Budget,
    breaker: Breaker,
    /// Nothing is read from it yet: it may hold what is out of date until it has been flushed.
    held_back: AtomicBool,
    /// The task of its inbox, aborted with its ring shard.
    inbox: OnceLock<AbortOnDropHandle<Option<()>>>,
    /// What calls end with while it is left alone.
    left_alone: ShardError,
    known_since: Instant,
    failing: AtomicBool,
    /// Somebody finds out whether it answers.
    checked: AtomicBool,
    /// Calls whose callers left, since that was found out last.
    left: AtomicU64,
    breaker_state: Gauge,
    breaker_opened: Counter,
    /// Aborted with this ring shard.
    check: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl ReadShard {
    pub(crate) fn new(shard: Shard, part: Option<Arc<Part>>, channel: String, settings: &Reader) -> Self {
        let (name, now) = (shard.name().clone(), Instant::now());
        let reason =
            format!("it failed {} times or more in a row and is left alone for a while", settings.breaker_failures);
        let breaker_state = gauge!(names::READER_BREAKER, names::RING_SHARD => name.to_string());
        breaker_state.set(0.0);
        Self {
            channel,
            waiters: Arc::default(),
            leased: Semaphore::new(settings.max_loads),
            unleased: Semaphore::new(settings.max_fallback_loads),
            budget: Budget::new(settings.retry_budget, now),
            breaker: Breaker::new(Rules::new(settings.breaker_failures, settings.breaker_pause)),
            breaker_opened: counter!(names::READER_BREAKER_OPENED, names::RING_SHARD => name.to_string()),
            left_alone: ShardError::Unavailable { shard: name, reason: reason.into() },
            known_since: now,
            held_back: AtomicBool::new(false),
            inbox: OnceLock::new(),
            failing: AtomicBool::new(false),
            checked: AtomicBool::new(false),
            left: AtomicU64::new(0),
            breaker_state,
            shard,
            part,
            check: Mutex::new(None),
        }
    }

    /// [`Shard::get`], unless the ring shard is left alone.
    #[inline]
    pub(crate) async fn get(self: &Arc<Self>, key: &CacheKey) -> Result<Option<Bytes>, ShardError> {
        self.usable()?;
        self.call(key, pin!(self.shard.get(key))).await
    }

    /// [`Shard::get_many`], unless the ring shard is left alone.
    pub(crate) async fn get_many(self: &Arc<Self>, keys: &[CacheKey]) -> Result<Vec<Option<Bytes>>, ShardError> {
        let Some(first) = keys.first() else { return Ok(Vec::new()) };
        self.usable()?;
        self.call(first, pin!(self.shard.get_many(keys))).await
    }

    /// [`Shard::lease`], unless the ring shard is left alone.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        key: &CacheKey,
        request: &LeaseRequest<'_>,
    ) -> Result<LeaseReply, ShardError> {
        self.usable()?;
        self.call(key, pin!(self.shard.lease(key, request))).await
    }

    /// [`Shard::extend`], unless the ring shard is left alone.
    pub(crate) async fn extend(
        self: &Arc<Self>,
        key: &CacheKey,
        token: &Token,
        ttl: Duration,
    ) -> Result<bool, ShardError> {
        self.call(key, pin!(self.shard.extend(key, token, ttl))).await
    }

    /// [`Shard::fill`], unless the ring shard is left alone.
    pub(crate) async fn fill(self: &Arc<Self>, key: &CacheKey, fill: &Fill) -> Result<FillReply, ShardError> {
        self.call(key, pin!(self.shard.fill(key, fill))).await
    }

    /// [`Shard::release`], unless the ring shard is left alone.
    pub(crate) async fn release(
        self: &Arc<Self>,
        key: &CacheKey,
        token: &Token,
        notice: Release<'_>,
    ) -> Result<bool, ShardError> {
        self.call(key, pin!(self.shard.release(key, token, notice))).await
    }

    /// [`Shard::apply`], unless the ring shard is left alone.
    pub(crate) async fn apply(self: &Arc<Self>, commands: &[Command]) -> Result<Applied, ShardError> {
        let Some(first) = commands.first() else { return Ok(Applied::default()) };
        self.call(&first.key, pin!(self.shard.apply(commands, 0))).await
    }

    /// Ends a task with the ring shard.
    pub(crate) fn end_with(&self, inbox: AbortOnDropHandle<Option<()>>) {
        // There is one inbox.
        let _ = self.inbox.set(inbox);
    }

    /// Reads nothing from it until [`ReadShard::admit_reads`].
    pub(crate) fn hold_back(&self) {
        self.held_back.store(true, Ordering::Release);
    }

    /// Reads from it from now on.
    pub(crate) fn admit_reads(&self) {
        self.held_back.store(false, Ordering::Release);
    }

    /// Whether it may be read from.
    #[inline]
    pub(crate) fn usable(&self) -> Result<(), ShardError> {
        if self.held_back.load(Ordering::Acquire) { Err(self.joining()) } else { Ok(()) }
    }

    #[cold]
    fn joining(&self) -> ShardError {
        let reason = "it has joined the ring and is not flushed yet".into();
        ShardError::Unavailable { shard: self.shard.name().clone(), reason }
    }

    /// Makes a call even while the ring shard is left alone, and notes how it ended.
    pub(crate) async fn insist<T>(&self, call: impl Future<Output = Result<T, ShardError>>) -> Result<T, ShardError> {
        let answer = call.await;
        self.note(&answer);
        answer
    }

    /// Makes a call unless the ring shard is left alone, and notes how it ended; pinned by its caller, because a future
    /// that is handed on by value takes its room twice, and there is one for each read that waits.
    #[inline]
    async fn call<T>(
        self: &Arc<Self>,
        key: &CacheKey,
        call: Pin<&mut impl Future<Output = Result<T, ShardError>>>,
    ) -> Result<T, ShardError> {
        if !self.breaker.is_healthy() {
            self.admit(key)?;
        }
        let mut unanswered = Unanswered { shard: self, key, answered: false };
        let answer = call.await;
        unanswered.answered = true;
        self.note(&answer);
        answer
    }

    #[inline]
    fn note<T>(&self, answer: &Result<T, ShardError>) {
        match answer {
            Ok(_) if self.breaker.is_healthy() && !self.failing.load(Ordering::Relaxed) => {}
            // A server that rejects something answers.
            Ok(_) => self.answered(),
            Err(ShardError::Rejected { .. }) if !self.breaker.is_healthy() => self.answered(),
            Err(ShardError::Rejected { .. }) => {}
            Err(error @ (ShardError::Unavailable { .. } | ShardError::TimedOut { .. })) => self.failed(error),
        }
    }

    #[cold]
    fn admit(self: &Arc<Self>, key: &CacheKey) -> Result<(), ShardError> {
        match self.breaker.admit(self.now_ms()) {
            Admission::Pass => return Ok(()),
            Admission::Refuse => {}
            // Nobody waits for the probe: whoever asked goes on without the ring shard.
            Admission::Probe => {
                tracing::debug!(ring_shard = %self.shard.name(), "probing a ring shard that was left alone");
                self.show();
                self.check(key);
            }
        }
        Err(self.left_alone.clone())
    }

    /// Notes a failed call, and logs the first of a row.
    #[cold]
    pub(crate) fn failed(&self, error: &ShardError) {
        self.failed_since(error, self.now_ms(), 1);
    }

    fn failed_since(&self, error: &ShardError, began_ms: u64, calls: u64) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(ring_shard = %self.shard.name(), %error, "ring shard fails, its reads go to the loader");
        }
        match self.breaker.failed(calls, began_ms, self.now_ms()) {
            Change::Opened => {
                self.breaker_opened.increment(1);
                tracing::warn!(ring_shard = %self.shard.name(), %error, "ring shard is left alone for a while");
            }
            Change::None | Change::Closed => {}
        }
        self.show();
    }

    /// Notes an answered call.
    #[cold]
    fn answered(&self) {
        match self.breaker.succeeded() {
            Change::Closed => tracing::info!(ring_shard = %self.shard.name(), "ring shard is used again"),
            Change::None | Change::Opened => {}
        }
        if self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!(ring_shard = %self.shard.name(), "ring shard answers again");
        }
        self.show();
    }

    fn show(&self) {
        self.breaker_state.set(match self.breaker.state() {
            State::Closed { .. } => 0.0,
            State::Probing { .. } => 1.0,
            State::Open { .. } => 2.0,
        });
    }

    /// Finds out in the background whether the ring shard answers, unless somebody is at it.
    fn check(self: &Arc<Self>, key: &CacheKey) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.checked.swap(true, Ordering::Relaxed) {
            return;
        }
        let (weak, shard, key) = (Arc::downgrade(self), self.shard.clone(), key.clone());
        let began_ms = self.now_ms();
        let task = runtime.spawn(async move {
            let answer = shard.get(&key).await;
            let Some(this) = weak.upgrade() else { return };
            // Those who left meanwhile were not answered either.
            let left = this.left.swap(0, Ordering::Relaxed);
            match &answer {
                Err(error @ ShardError::TimedOut { .. }) => this.failed_since(error, began_ms, 1 + left),
                Ok(_) | Err(ShardError::Unavailable { .. } | ShardError::Rejected { .. }) => this.note(&answer),
            }
            this.checked.store(false, Ordering::Relaxed);
        });
        *self.check.lock().unwrap_or_else(PoisonError::into_inner) = Some(AbortOnDropHandle::new(task));
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.known_since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A call whose caller may leave before it is answered. Callers whose deadlines are shorter than the command time-out
/// would never see a ring shard fail, so what they leave is found out for them.
struct Unanswered<'a> {
    shard: &'a Arc<ReadShard>,
    key: &'a CacheKey,
    answered: bool,
}

impl Drop for Unanswered<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.answered {
            self.shard.left.fetch_add(1, Ordering::Relaxed);
            self.shard.check(self.key);
        }
    }
}
