//! A page of records → batches of commands for each ring shard. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;

use crate::command::{Action, Command};
use crate::key::CacheKey;
use crate::park::ParkedRecord;
use crate::record::{ChangeRecord, UnreadableRecord};
use crate::ring::{RingHistory, ShardName};
use crate::route::{Routed, Router};
use crate::valkey::BATCH;

/// What a page asks of the ring.
#[derive(Debug, Default)]
pub struct Plan {
    /// Commands by ring shard, at most [`BATCH`] each; no key stands in two batches of one shard.
    pub batches: Vec<Batch>,
    /// Records that could not be turned into all of their commands.
    pub parked: Vec<Parked>,
    /// What there is to count.
    pub counts: Counts,
}

/// Commands for one ring shard.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The ring shard.
    pub shard: ShardName,
    /// The commands, one a key.
    pub commands: Arc<[Command]>,
    /// The first record of the page that some command comes from.
    pub first_record: usize,
    /// The batch is to be carried out once more this long after the first time.
    pub settle: Option<Duration>,
}

/// A record that could not be turned into all of its commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Its index in the page.
    pub index: usize,
    /// What is to be kept of it.
    pub record: ParkedRecord,
}

/// What there is to count of a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records by table.
    pub records: HashMap<String, u64>,
    /// Records that no route wanted, by table.
    pub unrouted: HashMap<String, u64>,
    /// Records routed by their keys alone, by table.
    pub keys_only: HashMap<String, u64>,
    /// Keys that could not be rendered, by key space.
    pub unrenderable: HashMap<Arc<str>, u64>,
    /// Records without the image that would tell their keys, by key space.
    pub imageless: HashMap<Arc<str>, u64>,
    /// Records without a usable version, by key space.
    pub version_missing: HashMap<Arc<str>, u64>,
    /// Deletions by DynamoDB's time to live, by table.
    pub ttl_deletions: HashMap<String, u64>,
    /// Commands that another one for the same key stands for.
    pub coalesced: u64,
}

/// Turns a page into batches, in the order in which its keys first occur.
///
/// Commands for one key of the page become one. Each goes to every ring shard that may hold its key at `now_ms`.
#[must_use]
pub fn plan(router: &Router, ring: &RingHistory, now_ms: u64, page: &[Result<ChangeRecord, UnreadableRecord>]) -> Plan {
    plan_as(router, ring, now_ms, page, |command| command)
}

/// As [`plan`], for a page that newer ones of its stream shard may have overtaken: nothing would correct the images that it
/// brings, so that it only invalidates.
#[must_use]
pub fn plan_overtaken(
    router: &Router,
    ring: &RingHistory,
    now_ms: u64,
    page: &[Result<ChangeRecord, UnreadableRecord>],
) -> Plan {
    plan_as(router, ring, now_ms, page, Command::without_image)
}

fn plan_as(
    router: &Router,
    ring: &RingHistory,
    now_ms: u64,
    page: &[Result<ChangeRecord, UnreadableRecord>],
    form: impl Fn(Command) -> Command,
) -> Plan {
    let mut plan = Plan::default();
    let mut commands = Vec::with_capacity(page.len());
    for alike in page.chunk_by(|a, b| table_of(a) == table_of(b)) {
        if let Some(table) = alike.first().and_then(table_of) {
            count(&mut plan.counts.records, table, alike.len() as u64);
        }
    }
    for (index, record) in page.iter().enumerate() {
        match record {
            Ok(record) => {
                let routed = router.route(record, &mut |command| commands.push((form(command), index)));
                plan.note(record, routed, index, now_ms);
            }
            Err(unreadable) => {
                plan.parked.push(Parked { index, record: ParkedRecord::of_unreadable(unreadable, now_ms) });
            }
        }
    }
    let (commands, merged) = coalesce(commands);
    plan.counts.coalesced = merged;
    plan.batches = place(ring, now_ms, commands);
    plan
}

impl Plan {
    /// The number of commands.
    #[must_use]
    pub fn commands(&self) -> usize {
        self.batches.iter().map(|batch| batch.commands.len()).sum()
    }

    fn note(&mut self, record: &ChangeRecord, routed: Routed, index: usize, now_ms: u64) {
        let counts = &mut self.counts;
        let table = &record.stream.table;
        if record.ttl_deletion {
            count(&mut counts.ttl_deletions, table, 1);
        }
        if !routed.known_table {
            count(&mut counts.unrouted, table, 1);
        }
        for space in routed.unrenderable {
            *counts.unrenderable.entry(space).or_default() += 1;
        }
        for space in routed.version_missing {
            *counts.version_missing.entry(space).or_default() += 1;
        }
        for space in routed.imageless {
            *counts.imageless.entry(space).or_default() += 1;
        }
        let Some(error) = routed.keys_only else { return };
        count(&mut counts.keys_only, table, 1);
        if !routed.unreachable.is_empty() {
            let reason = format!("{error}, and its keys do not lead to the keys of {}", routed.unreachable.join(", "));
            self.parked.push(Parked { index, record: ParkedRecord::of_record(record, reason, now_ms) });
        }
    }
}

fn table_of(record: &Result<ChangeRecord, UnreadableRecord>) -> Option<&str> {
    record.as_ref().ok().map(|record| record.stream.table.as_str())
}

fn count(counts: &mut HashMap<String, u64>, table: &str, more: u64) {
    match counts.get_mut(table) {
        Some(count) => *count += more,
        None => {
            counts.insert(table.to_owned(), more);
        }
    }
}

/// Makes one command of those of a page for the same key, in the order in which the keys first occur; tells how many
/// others those stand for.
fn coalesce(commands: Vec<(Command, usize)>) -> (Vec<(Command, usize)>, u64) {
    let mut places: HashMap<&CacheKey, usize, RandomState> =
        HashMap::with_capacity_and_hasher(commands.len(), RandomState::default());
    // For each command the first one for its key.
    let first: Vec<usize> =
        commands.iter().enumerate().map(|(at, (c, _))| *places.entry(&c.key).or_insert(at)).collect();
    let keys = places.len();
    let merged = commands.len() - keys;
    if merged == 0 {
        return (commands, 0);
    }
    // Where each command has gone to; those for a key that occurs for the first time are not there yet.
    let mut places: Vec<usize> = Vec::with_capacity(commands.len());
    let mut one_a_key: Vec<(Command, usize)> = Vec::with_capacity(keys);
    for ((command, record), first) in commands.into_iter().zip(first) {
        match places.get(first).copied() {
            Some(place) => {
                if let Some((earlier, _)) = one_a_key.get_mut(place) {
                    *earlier = earlier.clone().merge(command);
                }
                places.push(place);
            }
            None => {
                places.push(one_a_key.len());
                one_a_key.push((command, record));
            }
        }
    }
    (one_a_key, merged as u64)
}

/// Commands that travel in one batch: those that settle are carried out twice, and refreshes keep their order.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Lot {
    shard: ShardName,
    settle: Option<Duration>,
    refresh: bool,
}

fn place(ring: &RingHistory, now_ms: u64, commands: Vec<(Command, usize)>) -> Vec<Batch> {
    let mut lots: Vec<(Lot, Vec<Command>, usize)> = Vec::new();
    let mut batches = Vec::new();
    for (command, record) in commands {
        let owners = ring.owners(command.key.as_bytes(), now_ms);
        // An image on an earlier owner would live on past the time for which that one is remembered, and be served
        // when the key comes back to it.
        let elsewhere = owners.others().iter().map(|shard| (*shard, command.clone().without_image()));
        let elsewhere: Vec<_> = elsewhere.collect();
        for (shard, command) in std::iter::once((owners.current(), command)).chain(elsewhere) {
            let settle = command.repeated_after();
            let refresh = matches!(command.action, Action::Refresh { .. });
            let same = |lot: &Lot| lot.shard == *shard && lot.settle == settle && lot.refresh == refresh;
            let index = match lots.iter().position(|(lot, _, _)| same(lot)) {
                Some(index) => index,
                None => {
                    let lot = Lot { shard: shard.clone(), settle, refresh };
                    lots.push((lot, Vec::with_capacity(BATCH), record));
                    lots.len() - 1
                }
            };
            let Some((lot, pending, first)) = lots.get_mut(index) else { continue };
            if pending.is_empty() {
                *first = record;
            }
            pending.push(command);
            if pending.len() == BATCH {
                batches.push(batch(lot, std::mem::replace(pending, Vec::with_capacity(BATCH)), *first));
            }
        }
    }
    let rest = lots.into_iter().filter(|(_, pending, _)| !pending.is_empty());
    batches.extend(rest.map(|(lot, pending, first)| batch(&lot, pending, first)));
    batches
}

fn batch(lot: &Lot, commands: Vec<Command>, first_record: usize) -> Batch {
    Batch { shard: lot.shard.clone(), commands: commands.into(), first_record, settle: lot.settle }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
