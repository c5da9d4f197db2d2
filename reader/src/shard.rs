//! A ring shard as a reader has it: its connections behind circuit breakers, its inbox, and its share of loads.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringtide_core::command::Command;
use ringtide_core::config::Reader;
use ringtide_core::key::CacheKey;
use ringtide_core::ring::{ShardName, ShardSpec};
use ringtide_core::valkey::{Applied, Fill, FillReply, LeaseReply, LeaseRequest, Release, Shard, ShardError, Token};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use crate::budget::Budget;
use crate::circuit::{Circuit, Circuits};
use crate::inbox::Waiters;
use crate::loader::Cap;
use crate::local::Part;
use crate::space::SpaceState;

/// Which server a ring shard stands for: at another address it is another one, however it is named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) name: ShardName,
    pub(crate) address: String,
}

/// A ring shard as this process sees it; see [`crate::Cache::shards`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingShard {
    /// Its name, by which keys are placed.
    pub name: ShardName,
    /// Where it is reached.
    pub address: String,
    /// How it stands.
    pub state: ShardState,
}

/// How a ring shard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ShardState {
    /// Its keys are read from it.
    InUse,
    /// It has failed in a row, or in a cluster one of its masters has: their keys are loaded past it until it is found to answer
    /// again.
    LeftAlone,
    /// It has joined the ring and is not flushed yet: its keys are loaded past it until it is.
    Joining,
}

pub(crate) struct ReadShard {
    pub(crate) place: Place,
    /// Past the breaker: for what has pauses of its own.
    pub(crate) shard: Shard,
    /// Its part of the in-process tier, where its servers tell of changes.
    pub(crate) part: Option<Arc<Part>>,
    /// The channel of this process's inbox.
    pub(crate) channel: String,
    pub(crate) waiters: Arc<Waiters>,
    /// How many loads may run at once on its behalf, for each key space by its place.
    loads: Box<[Loads]>,
    /// Repeated loads on behalf of its keys.
    pub(crate) budget: Budget,
    circuits: Circuits,
    /// Nothing is read from it yet: it may hold what is out of date until it has been flushed.
    held_back: AtomicBool,
    /// The task of its inbox, aborted with its ring shard.
    inbox: OnceLock<AbortOnDropHandle<Option<()>>>,
}

/// A key space's loads that may run at once on behalf of a ring shard: what hangs holds up its own key space's at most.
struct Loads {
    leased: Semaphore,
    unleased: Semaphore,
}

impl Loads {
    fn new(settings: &Reader) -> Self {
        let at_once = |loads: usize| Semaphore::new(loads.min(Semaphore::MAX_PERMITS));
        Self { leased: at_once(settings.max_loads), unleased: at_once(settings.max_fallback_loads) }
    }
}

impl ReadShard {
    pub(crate) fn new(
        spec: &ShardSpec,
        shard: Shard,
        part: Option<Arc<Part>>,
        channel: String,
        settings: &Reader,
        spaces: usize,
    ) -> Self {
        Self {
            place: Place { name: spec.name.clone(), address: spec.address.clone() },
            channel,
            waiters: Arc::default(),
            loads: (0..spaces).map(|_| Loads::new(settings)).collect(),
            budget: Budget::new(settings.retry_budget, Instant::now()),
            circuits: Circuits::new(&shard, settings),
            held_back: AtomicBool::new(false),
            inbox: OnceLock::new(),
            shard,
            part,
        }
    }

    /// How many loads of a key space may run at once on its behalf.
    pub(crate) fn cap(&self, cap: Cap, space: &SpaceState) -> &Semaphore {
        let loads = &self.loads[space.place];
        match cap {
            Cap::Leased => &loads.leased,
            Cap::Unleased => &loads.unleased,
        }
    }

    /// [`Shard::get`], unless the ring shard is left alone.
    #[inline]
    pub(crate) async fn get(&self, key: &CacheKey) -> Result<Option<Bytes>, ShardError> {
        self.usable()?;
        self.call(key, pin!(self.shard.get(key))).await
    }

    /// [`Shard::get_many`], unless the ring shard is left alone.
    pub(crate) async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<Bytes>>, ShardError> {
        let Some(first) = keys.first() else { return Ok(Vec::new()) };
        self.usable()?;
        self.call(first, pin!(self.shard.get_many(keys))).await
    }

    /// [`Shard::lease`], unless the ring shard is left alone.
    pub(crate) async fn lease(&self, key: &CacheKey, request: &LeaseRequest<'_>) -> Result<LeaseReply, ShardError> {
        self.usable()?;
        self.call(key, pin!(self.shard.lease(key, request))).await
    }

    /// [`Shard::extend`], unless the ring shard is left alone.
    pub(crate) async fn extend(&self, key: &CacheKey, token: &Token, ttl: Duration) -> Result<bool, ShardError> {
        self.call(key, pin!(self.shard.extend(key, token, ttl))).await
    }

    /// [`Shard::holder`], unless the ring shard is left alone.
    pub(crate) async fn holder(&self, key: &CacheKey) -> Result<Option<Token>, ShardError> {
        self.call(key, pin!(self.shard.holder(key))).await
    }

    /// [`Shard::fill`], unless the ring shard is left alone.
    pub(crate) async fn fill(&self, key: &CacheKey, fill: &Fill) -> Result<FillReply, ShardError> {
        self.call(key, pin!(self.shard.fill(key, fill))).await
    }

    /// [`Shard::release`], unless the ring shard is left alone.
    pub(crate) async fn release(&self, key: &CacheKey, token: &Token, notice: Release<'_>) -> Result<bool, ShardError> {
        self.call(key, pin!(self.shard.release(key, token, notice))).await
    }

    /// [`Shard::apply`], unless the ring shard is left alone.
    pub(crate) async fn apply(&self, commands: &[Command]) -> Result<Applied, ShardError> {
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

    /// How it stands, as this process sees it.
    pub(crate) fn state(&self) -> ShardState {
        if self.usable().is_err() {
            ShardState::Joining
        } else if self.circuits.any_open() {
            ShardState::LeftAlone
        } else {
            ShardState::InUse
        }
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

    /// Makes a call about keys even while their server is left alone, and notes how it ended; not where they have
    /// several servers, of which the end says nothing.
    pub(crate) async fn insist<'k, T>(
        &self,
        keys: impl IntoIterator<Item = &'k CacheKey>,
        call: impl Future<Output = Result<T, ShardError>>,
    ) -> Result<T, ShardError> {
        let circuit = self.circuits.of_all(keys);
        let answer = call.await;
        if let Some(circuit) = circuit {
            circuit.note(&answer);
        }
        answer
    }

    /// Takes the gauges of its name, or leaves them to another handle of that name.
    pub(crate) fn show(&self, shown: bool) {
        self.shard.show(shown);
        self.circuits.show(shown);
    }

    /// Notes that it could not be connected.
    pub(crate) fn unready(&self, error: &ShardError) {
        self.circuits.unready(error);
    }

    /// Parts what is about keys by the servers that answer for these: all together, except in a cluster.
    pub(crate) fn by_server<T>(&self, items: Vec<T>, key: impl Fn(&T) -> &CacheKey) -> Vec<Vec<T>> {
        if !self.shard.is_cluster() {
            return vec![items];
        }
        let mut parts: BTreeMap<Option<Arc<str>>, Vec<T>> = BTreeMap::new();
        for item in items {
            parts.entry(self.server_of(key(&item))).or_default().push(item);
        }
        parts.into_values().collect()
    }

    /// The master that answers for a key; `None` where a cluster has none, and outside clusters.
    pub(crate) fn server_of(&self, key: &CacheKey) -> Option<Arc<str>> {
        let master = self.shard.master_of(key)?;
        master.all.get(master.at).cloned()
    }

    /// Makes a call unless the ring shard is left alone, and notes how it ended; pinned by its caller, because a future
    /// that is handed on by value takes its room twice, and there is one for each read that waits.
    #[inline]
    async fn call<T>(
        &self,
        key: &CacheKey,
        call: Pin<&mut impl Future<Output = Result<T, ShardError>>>,
    ) -> Result<T, ShardError> {
        let circuit = self.circuits.of(key);
        if let Some(circuit) = &circuit {
            circuit.pass(key)?;
        }
        let mut unanswered = Unanswered { circuit: circuit.as_deref(), key, answered: false };
        let answer = call.await;
        unanswered.answered = true;
        if let Some(circuit) = unanswered.circuit {
            circuit.note(&answer);
        }
        answer
    }
}

/// A call whose caller may leave before it is answered. Callers whose deadlines are shorter than the command time-out
/// would never see a ring shard fail, so what they leave is found out for them.
struct Unanswered<'a> {
    circuit: Option<&'a Arc<Circuit>>,
    key: &'a CacheKey,
    answered: bool,
}

impl Drop for Unanswered<'_> {
    #[inline]
    fn drop(&mut self) {
        if let (Some(circuit), false) = (self.circuit, self.answered) {
            circuit.left(self.key);
        }
    }
}
