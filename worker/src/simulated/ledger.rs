//! What must hold at every step: a book of deliveries, flushes and leases, and the first rule that was broken.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use ringtide_core::record::{SequenceNumber, Stream};
use tokio::time::Instant;

use super::cloud::{Record, Shard};
use super::line::Line;
use super::readers::Reading;
use super::world::World;
use crate::lease::{Checkpoint, LeaseKey};
use crate::stream::ShardId;

pub(super) struct Ledger {
    began: Instant,
    /// The first rule that was broken.
    pub(super) violation: Option<String>,
    /// Everything that was written before was made stale on the whole ring.
    flushed_to: Option<Instant>,
    /// When something was lost for which there is no record.
    lost: Vec<Instant>,
    /// Whether anything has happened that a flush is right after.
    gap_possible: bool,
    holders: BTreeMap<LeaseKey, Holder>,
    takes: u64,
    events: DefaultHasher,
    pub(super) seen: BTreeMap<&'static str, u64>,
    pub(super) log: Option<Vec<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Holder {
    worker: u32,
    take: u64,
    reached: Option<SequenceNumber>,
}

/// Names one taking of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Take(u64);

impl Ledger {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            violation: None,
            flushed_to: None,
            lost: Vec::new(),
            gap_possible: false,
            holders: BTreeMap::new(),
            takes: 0,
            events: DefaultHasher::new(),
            seen: BTreeMap::new(),
            log: None,
        }
    }

    /// Notes an event: it counts for what a campaign has seen and for the schedule's fingerprint.
    pub(super) fn note(&mut self, what: &'static str, detail: impl FnOnce() -> String) {
        *self.seen.entry(what).or_default() += 1;
        (what, self.began.elapsed()).hash(&mut self.events);
        if let Some(log) = &mut self.log {
            log.push(format!("{:>9.3} {what} {}", self.began.elapsed().as_secs_f64(), detail()));
        }
    }

    pub(super) fn breaks(&mut self, rule: String) {
        self.note("violation", || rule.clone());
        self.violation.get_or_insert_with(|| format!("at {:.3} s: {rule}", self.began.elapsed().as_secs_f64()));
    }

    pub(super) fn fingerprint(&self) -> u64 {
        self.events.finish()
    }

    pub(super) fn gap_possible(&mut self) {
        self.gap_possible = true;
    }

    /// A write was made that is in no stream.
    pub(super) fn lost_a_write(&mut self) {
        self.gap_possible = true;
        self.lost.push(Instant::now());
    }

    fn flushed(&self, written: Instant) -> bool {
        self.flushed_to.is_some_and(|to| written <= to)
    }

    fn covers(&self, record: &Record) -> bool {
        record.delivered || self.flushed(record.written)
    }
}

impl World {
    /// A worker hands a page over: everything of the parent must have been delivered.
    pub(super) fn handed_over(&mut self, stream: &str, id: &ShardId) {
        let Some(state) = self.cloud.streams.iter().find(|state| state.stream.arn == stream) else { return };
        let parent = state.shards.get(id).and_then(|shard| shard.parent.as_ref());
        let Some((parent, shard)) = parent.and_then(|parent| Some((parent, state.shards.get(parent)?))) else { return };
        if let Some(record) = shard.records.iter().find(|record| !self.ledger.covers(record)) {
            let rule = format!("{id} is delivered before record {} of its parent {parent}", record.serial);
            self.ledger.breaks(rule);
        }
    }

    pub(super) fn delivered(&mut self, stream: &str, id: &ShardId, sequences: &[SequenceNumber]) {
        let state = self.cloud.streams.iter_mut().find(|state| state.stream.arn == stream);
        let Some(shard) = state.and_then(|state| state.shards.get_mut(id)) else { return };
        for sequence in sequences {
            if let Ok(index) = shard.records.binary_search_by_key(sequence, |record| record.sequence) {
                shard.records[index].delivered = true;
            }
        }
        self.ledger.note("delivered", || format!("{} of {id}", sequences.len()));
    }

    /// The whole ring has carried out a flush that was ordered at `ordered`.
    pub(super) fn flushed(&mut self, ordered: Instant) {
        let to = self.ledger.flushed_to.map_or(ordered, |to| to.max(ordered));
        self.ledger.flushed_to = Some(to);
        let at = self.since(ordered);
        self.ledger.note("flush", || format!("ordered at {at:.3}"));
    }

    pub(super) fn flush_ordered(&mut self) {
        if !self.ledger.gap_possible {
            self.ledger.breaks("a flush although nothing was lost".to_owned());
        }
    }

    /// A worker reads a stream shard: it holds its lease, or has lost it not long ago.
    pub(super) fn read_by(&mut self, line: &Line, stream: &Stream, id: &ShardId) {
        let (worker, now) = (line.worker, Instant::now());
        let state = self.cloud.streams.iter().find(|state| state.stream.arn == stream.arn);
        let Some(shard) = state.and_then(|state| state.shards.get(id)) else { return };
        match shard.readers.read(worker, line.hung_until(), line.lease_time, now) {
            Reading::Holder => {}
            Reading::Former => self.ledger.note("read by a former holder", || format!("{id} by {worker}")),
            Reading::Stranger(lost) => {
                let lost =
                    lost.map_or("which it does not have".to_owned(), |lost| format!("which it lost {lost:?} ago"));
                self.ledger.breaks(format!("worker {worker} reads {id} without its lease, {lost}"));
            }
        }
    }

    pub(super) fn taken(&mut self, worker: u32, key: &LeaseKey) -> Take {
        if let Some(shard) = self.shard_of(key) {
            shard.readers.taken(worker, Instant::now());
        }
        self.ledger.takes += 1;
        let take = self.ledger.takes;
        let holder = Holder { worker, take, reached: None };
        if self.ledger.holders.insert(key.clone(), holder).is_some_and(|before| before.worker != worker) {
            self.ledger.note("taken over", || format!("{} by {worker}", key.shard));
        } else {
            self.ledger.note("taken", || format!("{} by {worker}", key.shard));
        }
        Take(take)
    }

    pub(super) fn released(&mut self, key: &LeaseKey, take: Take) {
        if self.ledger.holders.get(key).is_some_and(|holder| holder.take == take.0) {
            self.ledger.holders.remove(key);
            if let Some(shard) = self.shard_of(key) {
                shard.readers.released();
            }
        }
    }

    /// Whether another one has taken the lease since.
    pub(super) fn has_lost(&self, key: &LeaseKey, take: Take) -> bool {
        self.ledger.holders.get(key).is_some_and(|holder| holder.take != take.0)
    }

    fn shard_of(&mut self, key: &LeaseKey) -> Option<&mut Shard> {
        self.cloud.streams.iter_mut().find(|state| state.name == key.stream)?.shards.get_mut(&key.shard)
    }

    /// A checkpoint was stored: by the only holder, forwards, and past nothing that is not delivered.
    pub(super) fn checkpointed(&mut self, worker: u32, take: Option<Take>, key: &LeaseKey, to: &Checkpoint) {
        self.ledger.note("checkpoint", || format!("{} to {to} by {worker}", key.shard));
        let holder = self.ledger.holders.get_mut(key);
        match holder.filter(|holder| Some(Take(holder.take)) == take) {
            Some(holder) => {
                let reached = match to {
                    Checkpoint::At(sequence) => Some(*sequence),
                    Checkpoint::TrimHorizon | Checkpoint::Latest | Checkpoint::ShardEnd => None,
                };
                let back = reached.is_some() && holder.reached > reached;
                holder.reached = reached.or(holder.reached);
                if back {
                    self.ledger.breaks(format!("the checkpoint of {} goes back to {to}", key.shard));
                }
            }
            None => self.ledger.breaks(format!("worker {worker} checkpoints {} without its lease", key.shard)),
        }
        let state = self.cloud.streams.iter_mut().find(|state| state.name == key.stream);
        let Some(shard) = state.and_then(|state| state.shards.get_mut(&key.shard)) else { return };
        let passed = match to {
            Checkpoint::TrimHorizon | Checkpoint::Latest => 0,
            Checkpoint::At(to) => shard.records.partition_point(|record| record.sequence <= *to),
            Checkpoint::ShardEnd => shard.records.len(),
        };
        let open = *to == Checkpoint::ShardEnd && shard.closed.is_none();
        let unverified = shard.records.get(shard.verified..passed).unwrap_or_default();
        let missed = unverified.iter().find(|record| !self.ledger.covers(record)).map(|record| record.serial);
        shard.verified = shard.verified.max(passed);
        if open {
            self.ledger.breaks(format!("the end of {} is stored while it is open", key.shard));
        }
        if let Some(record) = missed {
            self.ledger.breaks(format!("the checkpoint {to} of {} passes record {record}, not delivered", key.shard));
        }
    }

    /// What is not as it should be long after the last fault; `None` when all is.
    pub(super) fn unsettled(&self, leases: &[crate::lease::Lease], owners: &BTreeSet<String>) -> Option<String> {
        if let Some(lost) = self.ledger.lost.iter().find(|lost| !self.ledger.flushed(**lost)) {
            return Some(format!("a write at {:.3} s, between two streams, was not flushed", self.since(*lost)));
        }
        let newest = self.cloud.streams.len() - 1;
        for (number, state) in self.cloud.streams.iter().enumerate() {
            for (id, shard) in &state.shards {
                if let Some(record) = shard.records.iter().find(|record| !self.ledger.covers(record)) {
                    let written = self.since(record.written);
                    return Some(format!(
                        "record {} of {id}, written at {written:.3} s, is not delivered",
                        record.serial
                    ));
                }
                let named = |lease: &&crate::lease::Lease| lease.key.shard == *id && lease.key.stream == state.name;
                let lease = leases.iter().find(named);
                let problem = match lease {
                    None if shard.forgotten || number < newest => None,
                    // Left out of a listing for a while, it had served.
                    None if state.shards.values().any(|child| child.parent.as_ref() == Some(id)) => None,
                    None => Some("has no lease".to_owned()),
                    Some(lease) => lease_problem(shard, lease, owners),
                };
                if let Some(problem) = problem {
                    return Some(format!("{id} of stream {number} {problem}"));
                }
            }
        }
        None
    }

    fn since(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.ledger.began).max(Duration::ZERO).as_secs_f64()
    }
}

fn lease_problem(shard: &Shard, lease: &crate::lease::Lease, owners: &BTreeSet<String>) -> Option<String> {
    // While it is handed over nobody may be reading: who had it may have died.
    let handed_over = lease.leaving.is_none();
    let owned = handed_over && lease.owner.as_ref().is_some_and(|owner| owners.contains(owner.as_str()));
    let kept = shard.records.get(shard.trimmed..).unwrap_or_default();
    match (lease.checkpoint, shard.closed) {
        (Checkpoint::ShardEnd, Some(_)) => None,
        (at, Some(_)) => Some(format!("is closed and its lease stands at {at}")),
        (Checkpoint::ShardEnd, None) => Some("is open and its lease has ended".to_owned()),
        (_, None) if !owned => Some(format!("is open and held by {:?}", lease.owner)),
        (Checkpoint::At(at), None) => {
            let behind = kept.last().is_some_and(|last| last.sequence > at);
            behind.then(|| format!("has a lease that stands at {at}"))
        }
        (at, None) => (!kept.is_empty()).then(|| format!("has records and a lease at {at}")),
    }
}
