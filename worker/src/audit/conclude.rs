//! The end of an audit: what seems stale is looked at again, and what is wrong is invalidated.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ringtide_core::command::Command;
use ringtide_core::key::CacheKey;
use ringtide_core::ring::ShardName;
use ringtide_core::valkey::{BATCH, Shard, ShardError};
use tokio::time::Instant;

use super::judge::Verdict;
use super::wanted::Repair;
use super::{Audit, AuditError, Found, Suspect, Told, Wrong, next_page};

/// Looks at an entry that changes before each of them.
const LOOKS: usize = 3;

impl Audit<'_> {
    /// Looks again at what seems stale, after the lag: what is still the same is stale.
    pub(super) async fn look_again(&mut self, mut suspects: Vec<Suspect>, told: Told<'_>) -> Result<(), AuditError> {
        for look in 0..LOOKS {
            if suspects.is_empty() {
                return Ok(());
            }
            let began = Instant::now();
            while began.elapsed() < self.wanted.lag {
                told("waiting for the stream", began.elapsed().as_secs(), Some(self.wanted.lag.as_secs()));
                tokio::time::sleep((self.wanted.lag / 10).min(Duration::from_millis(500))).await;
            }
            let mut before: BTreeMap<(ShardName, CacheKey), (Bytes, Verdict)> = BTreeMap::new();
            let mut open: Vec<Found> = Vec::with_capacity(suspects.len());
            for Suspect { found, bytes, verdict } in suspects {
                before.insert((found.shard.clone(), found.key.clone()), (bytes, verdict));
                open.push(found);
            }
            let mut changed = Vec::new();
            let mut rest = open.into_iter().peekable();
            while rest.peek().is_some() {
                for suspect in self.look(next_page(&mut rest), false).await? {
                    let place = (suspect.found.shard.clone(), suspect.found.key.clone());
                    match before.get(&place) {
                        Some((bytes, verdict)) if *bytes == suspect.bytes => {
                            let verdict = verdict.clone();
                            self.convict(suspect.found, &verdict);
                        }
                        _ if look + 1 == LOOKS => self.report.space(&suspect.found.space.name).changing += 1,
                        _ => changed.push(suspect),
                    }
                }
            }
            suspects = changed;
        }
        Ok(())
    }

    fn convict(&mut self, found: Found, verdict: &Verdict) {
        self.report.space(&found.space.name).count(verdict);
        if let Verdict::Stale { what, .. } = verdict {
            self.report.example(found.key.as_str(), found.shard.as_str(), what);
        }
        self.wrong.push(Wrong { shard: found.shard, command: Command::drop_entry(found.key, found.space) });
    }

    /// Invalidates what is wrong, where that is wanted; once more where loads lag, as a change does.
    pub(super) async fn repair(&mut self, told: Told<'_>) {
        let mut by_shard: BTreeMap<ShardName, Vec<Command>> = BTreeMap::new();
        for Wrong { shard, command } in std::mem::take(&mut self.wrong) {
            by_shard.entry(shard).or_default().push(command);
        }
        let all: usize = by_shard.values().map(Vec::len).sum();
        match self.wanted.repair {
            Repair::No => return,
            Repair::DryRun => {
                self.report.would_repair = all as u64;
                return;
            }
            Repair::Yes => {}
        }
        let again = by_shard.values().flatten().filter_map(Command::repeated_after).max();
        for time in std::iter::once(None).chain(again.map(Some)) {
            tokio::time::sleep(time.unwrap_or_default()).await;
            for (name, commands) in &by_shard {
                let Some(shard) = self.shards.get(name) else { continue };
                for chunk in commands.chunks(BATCH) {
                    match apply(shard, chunk).await {
                        Ok(()) if time.is_none() => self.report.repaired += chunk.len() as u64,
                        Ok(()) => {}
                        Err(error) => self.unreachable(&error),
                    }
                    told("entries repaired", self.report.repaired, Some(all as u64));
                }
            }
        }
    }
}

async fn apply(shard: &Shard, commands: &[Command]) -> Result<(), ShardError> {
    shard.apply(commands, 0).await.map(drop)
}
