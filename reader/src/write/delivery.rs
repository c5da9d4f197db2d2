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
use ringtide_core::valkey::{Applied, BATCH, ShardError};
use ringtide_core::version::Version;
use tracing::Instrument;

use super::Invalidated;
use crate::cache::Inner;
use crate::options::ReadOptions;
use crate::shard::ReadShard;
use crate::space::SpaceState;
use crate::topology::Topology;

/// Batches for one ring shard that are under way at once.
const IN_FLIGHT: usize = 4;

/// Commands for one ring shard, and in a cluster for one master.
type Lot = (Arc<ReadShard>, Vec<Command>);

impl Inner {
    /// Invalidates keys of one key space, and sees to it that this is repeated where loads may lag.
    ///
    /// Goes on where its caller leaves. Where it takes longer than the caller's time-out, what is not answered yet counts as
    /// to be sent again.
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
        let (inner, of_task, sent) = (Arc::clone(self), Arc::clone(space), Arc::clone(&commands));
        let delivering = self.work.spawn(async move { inner.deliver(&of_task, &sent).await }.in_current_span());
        let answer = match options.timeout_or(&self.settings) {
            None => delivering.await.ok(),
            Some(after) => tokio::time::timeout(after, delivering).await.ok().and_then(Result::ok),
        };
        answer.unwrap_or_else(|| self.put_off(space, &commands))
    }

    /// Sees to it that no read of this process is answered by what an invalidation of these commands is still on its way to.
    fn put_off(&self, space: &SpaceState, commands: &[Command]) -> Invalidated {
        let mut queued = 0;
        for (shard, commands) in lots(commands, &self.topology.load(), None) {
            queued += commands.len() as u64;
            self.send_again(&shard, commands);
        }
        tracing::warn!(space = %space.settings.name, keys = commands.len(), "invalidations take longer than their caller waits, they are sent again");
        commands.iter().for_each(|command| self.forget(&command.key));
        Invalidated { queued, ..Invalidated::default() }
    }

    fn send_again(&self, shard: &Arc<ReadShard>, commands: Vec<Command>) {
        for command in commands {
            let key = command.key.clone();
            self.retries.invalidation(shard, command);
            // What a flight finds out now may be stored, and yet be from before.
            self.flights.part(&key);
        }
        // It may have left for good while it was told.
        let topology = self.topology.load();
        if !topology.knows(&shard.place) {
            self.retries.keep(|place| topology.knows(place));
        }
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
            let repeated = inner.deliver(&space, &commands).await;
            tracing::debug!(space = %space.settings.name, ?repeated, "invalidations repeated");
        });
    }

    async fn deliver(self: &Arc<Self>, space: &SpaceState, commands: &[Command]) -> Invalidated {
        let mut sum = Invalidated::default();
        let mut told: Option<Arc<Topology>> = None;
        loop {
            let topology = self.topology.load_full();
            if told.as_ref().is_some_and(|told| Arc::ptr_eq(told, &topology)) {
                break;
            }
            let lots = lots(commands, &topology, told.as_deref());
            for answer in join_all(lots.iter().map(|lot| self.deliver_to(&topology, lot))).await {
                sum += answer;
            }
            // The ring may have begun to change in the meantime.
            told = Some(topology);
        }
        // Whatever was read until now may be from before.
        commands.iter().for_each(|command| self.forget(&command.key));
        space.counters.invalidated(&sum);
        sum
    }

    async fn deliver_to(self: &Arc<Self>, topology: &Topology, (shard, commands): &Lot) -> Invalidated {
        // After a batch that failed the others would only wait for their time-outs.
        let failing = AtomicBool::new(false);
        let mut calls = Vec::with_capacity(commands.len().div_ceil(BATCH));
        for batch in commands.chunks(BATCH) {
            calls.push(deliver_batch(shard, batch, &failing));
        }
        let mut sum = Invalidated::default();
        let mut batches = pin!(stream::iter(calls).buffer_unordered(IN_FLIGHT));
        let (mut left, mut first_error) = (Vec::new(), None);
        while let Some((batch, answer)) = batches.next().await {
            match answer {
                Some(Ok(applied)) => sum.applied += applied,
                Some(Err(error)) => {
                    left.extend_from_slice(batch);
                    first_error.get_or_insert(error);
                }
                None => left.extend_from_slice(batch),
            }
        }
        let Some(error) = first_error else { return sum };
        let count = left.len() as u64;
        if matches!(error, ShardError::Unavailable { .. }) && topology.has_left(shard) {
            tracing::debug!(ring_shard = %shard.shard.name(), keys = count, %error, "a ring shard that has left is not told");
            return Invalidated { gone: count, ..sum };
        }
        tracing::warn!(ring_shard = %shard.shard.name(), keys = count, %error, "invalidations are not answered, they are sent again");
        self.send_again(shard, left);
        Invalidated { queued: count, ..sum }
    }
}

async fn deliver_batch<'a>(
    shard: &Arc<ReadShard>,
    batch: &'a [Command],
    failing: &AtomicBool,
) -> (&'a [Command], Option<Result<Applied, ShardError>>) {
    if failing.load(Ordering::Relaxed) {
        return (batch, None);
    }
    let answer = shard.apply(batch).await;
    failing.fetch_or(answer.is_err(), Ordering::Relaxed);
    (batch, Some(answer))
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
