//! Taking invalidations to every ring shard that may hold their keys.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use ringtide_core::clock::unix_ms;
use ringtide_core::command::{Action, Command};
use ringtide_core::key::CacheKey;
use ringtide_core::valkey::{Applied, ShardError};
use ringtide_core::version::Version;
use tracing::Instrument;

use super::Invalidated;
use super::progress::{Lot, Part, Progress};
use crate::cache::Inner;
use crate::options::ReadOptions;
use crate::shard::ReadShard;
use crate::space::SpaceState;
use crate::topology::Topology;

/// Batches for one ring shard that are under way at once.
const IN_FLIGHT: usize = 4;

/// An invalidation that goes on whatever its caller does.
struct Delivery {
    inner: Arc<Inner>,
    space: Arc<SpaceState>,
    commands: Arc<[Command]>,
    progress: Arc<Progress>,
    /// Where it begins, and what it tells there.
    first: (Arc<Topology>, Vec<Vec<Part>>),
}

impl Inner {
    /// Invalidates keys of one key space, and sees to it that this is repeated where loads may lag.
    ///
    /// Goes on where its caller leaves. Where it takes longer than the caller's time-out, what is not answered yet is owed
    /// until it is.
    pub(crate) async fn invalidate(
        self: &Arc<Self>,
        space: &Arc<SpaceState>,
        options: &ReadOptions,
        keys: Vec<CacheKey>,
        version: Version,
    ) -> Invalidated {
        let commands = commands(space, keys, version);
        let Some(first) = commands.first() else { return Invalidated::default() };
        // All of one key space and one kind, and so all are repeated or none.
        if let Some(after) = first.repeated_after() {
            self.repeat(Arc::clone(space), Arc::clone(&commands), after);
        }
        let delivery = Delivery::new(self, space, &commands);
        let progress = Arc::clone(&delivery.progress);
        let delivering = self.work.spawn(delivery.run().in_current_span());
        let answer = match options.timeout_or(&self.settings) {
            None => delivering.await.ok(),
            Some(after) => tokio::time::timeout(after, delivering).await.ok().and_then(Result::ok),
        };
        answer.unwrap_or_else(|| self.put_off(space, &commands, &progress))
    }

    /// Sees to it that no read of this process is answered by what an invalidation is still on its way to.
    fn put_off(&self, space: &SpaceState, commands: &[Command], progress: &Progress) -> Invalidated {
        let (told, left, ended) = progress.put_off();
        // What a flight finds out now may be stored, and yet be from before.
        left.iter().flat_map(Part::keys).for_each(|key| self.flights.part(key));
        commands.iter().for_each(|command| self.forget(&command.key));
        // Where nobody is left to answer, it looks whether the ring has changed.
        let late = if ended || !left.is_empty() { count(&left) } else { commands.len() as u64 };
        tracing::warn!(space = %space.settings.name, keys = late, "invalidations take longer than their caller waits, they go on");
        Invalidated { queued: told.queued + late, ..told }
    }

    fn send_again(&self, part: &Part) {
        for command in part.commands.iter() {
            self.retries.invalidation(&part.shard, command.clone());
            // What a flight finds out now may be stored, and yet be from before.
            self.flights.part(&command.key);
        }
        // It may have left for good while it was told.
        if !self.topology.load().knows(&part.shard.place) {
            self.forget_strangers();
        }
    }

    /// Drops what waits for servers that have left the ring for good.
    pub(crate) fn forget_strangers(&self) {
        // Looked up anew for each: what waits for one that has just joined was added after that was known.
        self.retries.keep(|place| self.topology.load().knows(place));
    }

    /// Why a key may not be read from its ring shard, where that has yet to answer this process's own invalidation of it.
    #[inline]
    pub(crate) fn owed(&self, shard: &ReadShard, key: &CacheKey) -> Option<ShardError> {
        self.retries.owes(shard, key).then(|| ShardError::Unavailable {
            shard: shard.shard.name().clone(),
            reason: "it has not answered an invalidation of the key".into(),
        })
    }

    /// Repeats commands `after` a while; at once where the cache ends before.
    fn repeat(self: &Arc<Self>, space: Arc<SpaceState>, commands: Arc<[Command]>, after: Duration) {
        let inner = Arc::clone(self);
        self.work.spawn(async move {
            if inner.ended.run_until_cancelled(tokio::time::sleep(after)).await.is_none() {
                tracing::warn!(
                    space = %space.settings.name, keys = commands.len(), ?after,
                    "the cache ends before loads that lag behind a change are over, their keys are invalidated early"
                );
            }
            let repeated = Delivery::new(&inner, &space, &commands).run().await;
            tracing::debug!(space = %space.settings.name, ?repeated, "invalidations repeated");
        });
    }
}

impl Delivery {
    /// Prepares it: from here on it is known what is not answered, though its task may end before it begins.
    fn new(inner: &Arc<Inner>, space: &Arc<SpaceState>, commands: &Arc<[Command]>) -> Self {
        let (topology, progress) = (inner.topology.load_full(), Arc::new(Progress::new(Arc::clone(&inner.retries))));
        let parts = progress.begin(lots(commands, &topology, None));
        let (inner, space) = (Arc::clone(inner), Arc::clone(space));
        Self { inner, space, commands: Arc::clone(commands), progress, first: (topology, parts) }
    }

    async fn run(mut self) -> Invalidated {
        let (mut topology, mut lots) = (Arc::clone(&self.first.0), std::mem::take(&mut self.first.1));
        loop {
            join_all(lots.iter().map(|lot| self.deliver(&topology, lot))).await;
            // The ring may have begun to change in the meantime.
            let told = std::mem::replace(&mut topology, self.inner.topology.load_full());
            if Arc::ptr_eq(&told, &topology) {
                break;
            }
            lots = self.progress.begin(self::lots(&self.commands, &topology, Some(&told)));
        }
        // Whatever was read until now may be from before.
        self.commands.iter().for_each(|command| self.inner.forget(&command.key));
        let sum = self.progress.end();
        self.space.counters.invalidated(&sum);
        sum
    }

    async fn deliver(&self, topology: &Topology, lot: &[Part]) {
        // After a batch that failed the others would only wait for their time-outs.
        let failing = AtomicBool::new(false);
        let mut calls = Vec::with_capacity(lot.len());
        for part in lot {
            calls.push(deliver_part(part, &failing));
        }
        let mut batches = pin!(stream::iter(calls).buffer_unordered(IN_FLIGHT));
        let (mut left, mut first_error) = (Vec::new(), None);
        while let Some((part, answer)) = batches.next().await {
            match answer {
                Some(Ok(applied)) => self.progress.settle([part], Invalidated { applied, ..Invalidated::default() }),
                Some(Err(error)) => {
                    left.push(part);
                    first_error.get_or_insert((error, &part.shard));
                }
                None => left.push(part),
            }
        }
        let Some((error, shard)) = first_error else { return };
        let keys = count(left.iter().copied());
        if matches!(error, ShardError::Unavailable { .. }) && topology.has_left(shard) {
            tracing::debug!(ring_shard = %shard.shard.name(), keys, %error, "a ring shard that has left is not told");
            // A load under one of its leases may be stored there, and yet be from before.
            left.iter().flat_map(|part| part.keys()).for_each(|key| self.inner.flights.part(key));
            return self.progress.settle(left, Invalidated { gone: keys, ..Invalidated::default() });
        }
        tracing::warn!(ring_shard = %shard.shard.name(), keys, %error, "invalidations are not answered, they are sent again");
        self.send_again(&left);
    }

    fn send_again(&self, parts: &[&Part]) {
        parts.iter().for_each(|part| self.inner.send_again(part));
        let queued = count(parts.iter().copied());
        self.progress.settle(parts.iter().copied(), Invalidated { queued, ..Invalidated::default() });
    }
}

impl Drop for Delivery {
    /// Leaves to others what is not answered where its task ends early, as with its runtime.
    fn drop(&mut self) {
        self.send_again(&self.progress.left().iter().collect::<Vec<_>>());
    }
}

async fn deliver_part<'a>(part: &'a Part, failing: &AtomicBool) -> (&'a Part, Option<Result<Applied, ShardError>>) {
    if failing.load(Ordering::Relaxed) {
        return (part, None);
    }
    let answer = part.shard.apply(&part.commands).await;
    failing.fetch_or(answer.is_err(), Ordering::Relaxed);
    (part, Some(answer))
}

fn count<'p>(parts: impl IntoIterator<Item = &'p Part>) -> u64 {
    parts.into_iter().map(|part| part.commands.len() as u64).sum()
}

fn commands(space: &SpaceState, mut keys: Vec<CacheKey>, version: Version) -> Arc<[Command]> {
    keys.sort_unstable();
    keys.dedup();
    let action = Action::Invalidate { version };
    keys.into_iter().map(|key| Command { key, space: Arc::clone(&space.settings), action: action.clone() }).collect()
}

/// Sorts commands by the servers that may hold their keys, without those that were `told` already.
fn lots(commands: &[Command], topology: &Topology, told: Option<&Topology>) -> Vec<Lot> {
    let now_ms = unix_ms();
    let mut lots: Vec<Lot> = Vec::new();
    for command in commands {
        let known = told.map(|told| told.owners(&command.key, now_ms)).unwrap_or_default();
        for shard in topology.owners(&command.key, now_ms) {
            if known.iter().any(|known| Arc::ptr_eq(known, shard)) {
                continue;
            }
            match lots.iter_mut().find(|(of, _)| Arc::ptr_eq(of, shard)) {
                Some((_, lot)) => lot.push(command.clone()),
                None => lots.push((Arc::clone(shard), vec![command.clone()])),
            }
        }
    }
    // One that fails keeps nobody else's keys waiting.
    let by_server = |(shard, lot): Lot| {
        let parts = shard.by_server(lot, |command| &command.key);
        parts.into_iter().map(move |part| (Arc::clone(&shard), part))
    };
    lots.into_iter().flat_map(by_server).collect()
}
