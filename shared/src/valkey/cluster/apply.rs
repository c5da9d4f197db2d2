//! Batches in a cluster: one script call for each slot.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use redis::{Cmd, Value};

use super::{Cluster, slot_of};
use crate::command::Command;
use crate::valkey::apply::{Applied, BATCH, Sorted};
use crate::valkey::batch::{Call, attempt_deadline, tombstone_ms};
use crate::valkey::reply::Fields;
use crate::valkey::script::{self, Script};
use crate::valkey::{Shard, ShardError};
use crate::version::Version;

impl Shard {
    pub(in crate::valkey) async fn apply_spread(
        &self,
        cluster: &Cluster,
        sorted: &Sorted<'_>,
        deadline_ms: u64,
    ) -> Result<Applied, ShardError> {
        let mut apart = Vec::new();
        let plain = by_slot(sorted.plain.iter().map(|command| (*command, *command)), |command| {
            apart.push((command, Version::NONE));
        });
        let compared: Vec<_> = sorted
            .compared
            .iter()
            .map(|(common, alike)| {
                let alike = alike.iter().map(|(command, version)| (*command, (*command, *version)));
                (common, by_slot(alike, |(command, version)| apart.push((command, version))))
            })
            .collect();
        let refreshed = by_slot(
            sorted.refreshed.iter().map(|(command, refresh)| (*command, (*command, refresh))),
            |(command, refresh)| {
                apart.push((command, refresh.version));
            },
        );

        let mut calls: Vec<(u16, Call<'_>)> = Vec::new();
        for (slot, commands) in &plain {
            calls.extend(commands.chunks(BATCH).map(|chunk| (*slot, Call::Set(chunk))));
        }
        for (common, slots) in &compared {
            let (keep_ms, tombstone_ms) = **common;
            for (slot, commands) in slots {
                for chunk in commands.chunks(BATCH) {
                    calls.push((*slot, Call::Loop { commands: chunk, keep_ms, tombstone_ms }));
                }
            }
        }
        let deadline_ms = attempt_deadline(deadline_ms, cluster.command_timeout());
        for (slot, commands) in &refreshed {
            for (command, refresh) in commands {
                calls.push((*slot, Call::Refresh { command, refresh, deadline_ms }));
            }
        }

        let scripts = [&script::INVALIDATE_SET, &script::INVALIDATE_LOOP, &script::REFRESH];
        let answers = scripts.map(|script| self.call_all(cluster, script, &calls));
        let mut applied = Applied::default();
        let mut failed = None;
        for answer in join_all(answers).await {
            match answer {
                Ok((done, moving)) => {
                    applied += done;
                    apart.extend(moving);
                }
                Err(error) => failed = Some(error),
            }
        }
        if !apart.is_empty() {
            applied += self.drop_apart(cluster, &apart).await?;
        }
        failed.map_or(Ok(applied), Err)
    }

    /// Makes those of `calls` that call `script`; returns what became of them, and the commands of slots that are moving.
    async fn call_all<'a>(
        &self,
        cluster: &Cluster,
        script: &'static Script,
        calls: &[(u16, Call<'a>)],
    ) -> Result<(Applied, Vec<(&'a Command, Version)>), ShardError> {
        let calls: Vec<_> = calls.iter().filter(|(_, call)| std::ptr::eq(call.script(), script)).collect();
        let written = calls.iter().map(|(slot, call)| (*slot, script.call(|command| call.write(command)))).collect();
        let mut applied = Applied::default();
        let mut moving = Vec::new();
        let mut failed = None;
        for ((_, call), answer) in calls.into_iter().zip(cluster.send_all(written, Some(script)).await) {
            match answer {
                Ok(Value::ServerError(error)) if error.code() == "TRYAGAIN" => moving.extend(call.commands()),
                Ok(Value::ServerError(error)) => failed = Some(self.rejected(&error)),
                Ok(answer) => match call.read(answer) {
                    Some(done) => applied += done,
                    None => failed = Some(self.unexpected(script)),
                },
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok((applied, moving)), Err)
    }

    /// Drops entries whose locks cannot be named in the same call: while their slot moves, one may be here and the other
    /// there, and a key with a lone brace has its lock in another slot.
    ///
    /// The lease goes first: a fill from before that is dropped with the entry, and one from after it began after the
    /// change.
    async fn drop_apart(&self, cluster: &Cluster, commands: &[(&Command, Version)]) -> Result<Applied, ShardError> {
        let mut applied = Applied::default();
        let locks = commands.iter().map(|(command, _)| {
            let lock = command.key.lock();
            let call = script::VOID.call(|call| {
                call.arg(1).arg(&lock).arg(command.key.as_bytes());
            });
            (slot_of(lock.as_bytes()), call)
        });
        for answer in self.answers(cluster, &script::VOID, locks.collect()).await? {
            match answer {
                Value::Int(voided) => applied.voided += u64::try_from(voided).unwrap_or_default(),
                _ => return Err(self.unexpected(&script::VOID)),
            }
        }
        let entries = commands.iter().map(|(command, version)| {
            let call = script::DROP.call(|call| {
                call.arg(1).arg(command.key.as_bytes());
                call.arg(version.as_bytes()).arg(tombstone_ms(&command.space));
            });
            (slot_of(command.key.as_bytes()), call)
        });
        for answer in self.answers(cluster, &script::DROP, entries.collect()).await? {
            match Fields::of(Value::Array(vec![answer])).and_then(|mut fields| fields.tag()) {
                Some(b'O') => applied.older += 1,
                Some(b'D') => applied.dropped += 1,
                Some(b'A') => applied.absent += 1,
                _ => return Err(self.unexpected(&script::DROP)),
            }
        }
        Ok(applied)
    }

    async fn answers(
        &self,
        cluster: &Cluster,
        script: &'static Script,
        calls: Vec<(u16, Cmd)>,
    ) -> Result<Vec<Value>, ShardError> {
        let read = |answer| match answer {
            Ok(Value::ServerError(error)) => Err(self.rejected(&error)),
            answer => answer,
        };
        cluster.send_all(calls, Some(script)).await.into_iter().map(read).collect()
    }
}

/// Groups what one script call may name; those whose lock is in another slot are handed to `apart`.
fn by_slot<'a, T>(items: impl Iterator<Item = (&'a Command, T)>, mut apart: impl FnMut(T)) -> BTreeMap<u16, Vec<T>> {
    let mut slots: BTreeMap<u16, Vec<T>> = BTreeMap::new();
    for (command, item) in items {
        let key = command.key.as_bytes();
        let slot = slot_of(key);
        let braces = key.iter().any(|byte| matches!(byte, b'{' | b'}'));
        if braces && slot_of(command.key.lock().as_bytes()) != slot {
            apart(item);
        } else {
            slots.entry(slot).or_default().push(item);
        }
    }
    slots
}
