//! Carrying out batches of commands.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use redis::Cmd;

use super::batch::{Call, Refresh, attempt_deadline, comparable, keep_ms, tombstone_ms};
use super::link::Links;
use super::{Reach, Shard, ShardError, script};
use crate::command::{Action, Command};
use crate::version::Version;

/// The most keys of one script call: a longer one holds up the shard's readers.
pub const BATCH: usize = 200;

/// What became of the commands of a batch: each is counted once, voided leases besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Nothing was cached.
    pub absent: u64,
    /// The entry was dropped, or replaced by a tombstone.
    pub dropped: u64,
    /// The entry was marked stale and kept.
    pub marked: u64,
    /// The entry was new enough.
    pub older: u64,
    /// The new image was stored.
    pub refreshed: u64,
    /// The refresh came after its deadline and was carried out as an invalidation.
    pub late: u64,
    /// Leases that were taken away.
    pub voided: u64,
}

impl AddAssign for Applied {
    fn add_assign(&mut self, other: Self) {
        self.absent += other.absent;
        self.dropped += other.dropped;
        self.marked += other.marked;
        self.older += other.older;
        self.refreshed += other.refreshed;
        self.late += other.late;
        self.voided += other.voided;
    }
}

/// Commands that share one script.
#[derive(Default)]
pub(super) struct Sorted<'a> {
    /// Dropped in sets.
    pub(super) plain: Vec<&'a Command>,
    /// Compared or marked one by one, by what one call of the script has in common: for how many milliseconds values
    /// are kept as stale, and the tombstone's. There are hardly ever more than one or two.
    pub(super) compared: BTreeMap<(u64, u32), Vec<(&'a Command, Version)>>,
    /// Replaced by new images.
    pub(super) refreshed: Vec<(&'a Command, Refresh<'a>)>,
}

impl<'a> Sorted<'a> {
    pub(super) fn of(commands: &'a [Command]) -> Self {
        let mut sorted = Self::default();
        for command in commands {
            match &command.action {
                Action::Invalidate { version } => {
                    let version = comparable(command, *version);
                    if version.is_none() && !command.space.keeps_stale() {
                        sorted.plain.push(command);
                    } else {
                        let common = (keep_ms(&command.space), tombstone_ms(&command.space));
                        sorted.compared.entry(common).or_default().push((command, version));
                    }
                }
                Action::Refresh { version, image, populate } => {
                    sorted.refreshed.push((command, Refresh { version: *version, image, populate: *populate }));
                }
            }
        }
        sorted
    }
}

impl Shard {
    /// Carries out commands, at most [`BATCH`] keys a script; the commands of one batch have no order among them.
    ///
    /// Refreshes are not stored past `deadline_ms` of the server's clock (unix ms; 0 for none but the command time-out, after
    /// which this call has failed; where the clocks differ by more, refreshes drop their entries instead). In a cluster each
    /// slot's commands are a script call of their own, in one pipeline per master; while a slot moves, its entries are
    /// dropped without being compared, marked or refreshed.
    ///
    /// # Errors
    /// [`ShardError`]: any part may have been carried out, and the whole batch is to be tried again.
    pub async fn apply(&self, commands: &[Command], deadline_ms: u64) -> Result<Applied, ShardError> {
        let sorted = Sorted::of(commands);
        match &*self.reach {
            Reach::One(links) => self.apply_to(links, &sorted, deadline_ms).await,
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => self.apply_spread(cluster, &sorted, deadline_ms).boxed().await,
            #[cfg(feature = "memory")]
            Reach::Memory(server) => server.apply(commands, deadline_ms).boxed().await,
        }
    }

    async fn apply_to(&self, links: &Links, sorted: &Sorted<'_>, deadline_ms: u64) -> Result<Applied, ShardError> {
        // Collected one by one: as closures over chunks the calls would not be general enough to be boxed as `Send`.
        let mut calls: Vec<BoxFuture<'_, Result<Applied, ShardError>>> = Vec::new();
        for chunk in sorted.plain.chunks(BATCH) {
            calls.push(self.call(links, Call::Set(chunk)).boxed());
        }
        for (&(keep_ms, tombstone_ms), alike) in &sorted.compared {
            for chunk in alike.chunks(BATCH) {
                calls.push(self.call(links, Call::Loop { commands: chunk, keep_ms, tombstone_ms }).boxed());
            }
        }
        for chunk in sorted.refreshed.chunks(BATCH) {
            calls.push(self.refresh(links, chunk, deadline_ms).boxed());
        }
        let answers: Vec<_> = stream::iter(calls).buffer_unordered(IN_FLIGHT).collect().await;
        let mut applied = Applied::default();
        for answer in answers {
            applied += answer?;
        }
        Ok(applied)
    }

    async fn call(&self, links: &Links, call: Call<'_>) -> Result<Applied, ShardError> {
        let script = call.script();
        let answer = links.run(script, |command| call.write(command)).await?;
        call.read(answer).ok_or_else(|| self.unexpected(script))
    }

    async fn refresh(
        &self,
        links: &Links,
        commands: &[(&Command, Refresh<'_>)],
        deadline_ms: u64,
    ) -> Result<Applied, ShardError> {
        let deadline_ms = attempt_deadline(deadline_ms, links.dialer().command_timeout);
        let calls: Vec<_> =
            commands.iter().map(|(command, refresh)| Call::Refresh { command, refresh, deadline_ms }).collect();
        let written: Vec<Cmd> = calls.iter().map(|call| script::REFRESH.call(|command| call.write(command))).collect();
        let mut applied = Applied::default();
        for (call, answer) in calls.iter().zip(links.run_all(&script::REFRESH, written).await?) {
            applied += call.read(answer).ok_or_else(|| self.unexpected(&script::REFRESH))?;
        }
        Ok(applied)
    }
}

/// Script calls of one batch that are under way at once, on one server.
pub(super) const IN_FLIGHT: usize = 4;
