//! Invalidators: a worker that reads the stream under its stream lease, and one that lost the lease and does not know.

use std::fmt;

use super::cell::{Cell, Flaw};
use super::database::{Commit, WRITES};

/// A set of records; record `n` tells of commit `n`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Records(u8);

/// The stream, and what is known of its records beyond any one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Stream {
    /// The last record that is no longer kept.
    pub(crate) trimmed: Commit,
    /// Records whose command was acknowledged by the ring shard, or for which it was flushed; where commands are
    /// carried out twice, both times.
    pub(crate) delivered: Records,
    /// Everything up to this record is said to be delivered: what a successor goes on after.
    pub(crate) checkpoint: Commit,
}

/// A worker with one stream shard: `worker/src/consumer.rs` and `shared/src/pipeline/queue.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Invalidator {
    /// The record that is read next.
    pub(crate) next: Commit,
    /// Records that are read and whose command is not acknowledged.
    pub(crate) under_way: Records,
    /// Records whose command is to be carried out once more.
    pub(crate) again: Records,
    pub(crate) flush: Option<Flush>,
}

/// A flush that is under way: `shared/src/valkey/flush.rs`, one step for the locks and one for the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Flush {
    /// What it stands for.
    pub(crate) records: Records,
    /// Its first half is done.
    pub(crate) half: bool,
}

impl Records {
    pub(crate) fn has(self, record: Commit) -> bool {
        self.0 >> record & 1 == 1
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn count(self) -> u32 {
        self.0.count_ones()
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Commit> {
        (1..=WRITES).filter(move |record| self.has(*record))
    }

    pub(crate) fn first(self) -> Option<Commit> {
        self.iter().next()
    }

    /// The highest record; 0 where there is none.
    pub(crate) fn last(self) -> Commit {
        if self.is_empty() { 0 } else { 7 - self.0.leading_zeros() as Commit }
    }

    pub(crate) fn add(&mut self, record: Commit) {
        self.0 |= 1 << record;
    }

    pub(crate) fn add_all(&mut self, other: Records) {
        self.0 |= other.0;
    }

    /// Takes a record out, and tells whether it was there.
    pub(crate) fn take(&mut self, record: Commit) -> bool {
        let had = self.has(record);
        self.0 &= !(1 << record);
        had
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Invalidator {
    /// A worker that has taken the stream lease over.
    pub(crate) fn after(checkpoint: Commit) -> Self {
        Self { next: checkpoint + 1, under_way: Records::default(), again: Records::default(), flush: None }
    }

    /// What is left of a worker that has lost the stream lease without knowing: the commands that it has sent or is
    /// about to send. One that goes on reading for a while is as one more worker that is deposed in turn.
    pub(crate) fn deposed(self) -> Self {
        Self { next: WRITES + 1, flush: None, ..self }
    }

    /// Nobody: what the worker before the first one has left.
    pub(crate) fn nobody() -> Self {
        Self::after(WRITES)
    }

    /// Everything that is not delivered of what was read.
    pub(crate) fn outstanding(&self) -> Records {
        let mut records = self.under_way;
        records.add_all(self.again);
        records.add_all(self.flush.map(|flush| flush.records).unwrap_or_default());
        records
    }

    /// The last record up to which everything is delivered: `shared/src/watermark.rs`.
    pub(crate) fn watermark(&self, cell: &Cell) -> Commit {
        let mut outstanding = self.outstanding();
        match cell.flaw {
            Flaw::CheckpointBeforeDelivery => return self.next - 1,
            Flaw::GapNotAwaited => {
                outstanding = self.under_way;
                outstanding.add_all(self.again);
            }
            _ => {}
        }
        outstanding.first().unwrap_or(self.next) - 1
    }

    /// Whether the next record can be read; one that is trimmed is found to be missing instead.
    pub(crate) fn can_read(&self, cell: &Cell, latest: Commit) -> bool {
        let depth = if cell.is_refresh() { 1 } else { cell.depth };
        self.next <= latest && self.under_way.count() < depth
    }

    /// Reads the next record, or finds a gap: `Consumer::read`, `flush_after_gap`.
    pub(crate) fn read(&mut self, cell: &Cell, trimmed: Commit) {
        if self.next > trimmed {
            self.under_way.add(self.next);
            self.next += 1;
            return;
        }
        let mut lost = Records::default();
        (self.next..=trimmed).for_each(|record| lost.add(record));
        self.next = trimmed + 1;
        if cell.flaw != Flaw::GapIgnored {
            self.flush_for(lost);
        }
    }

    /// Gives up what waits for the ring shard for a flush that stands for it: `Queue::push`.
    pub(crate) fn overflow(&mut self) {
        let waiting = std::mem::take(&mut self.under_way);
        self.flush_for(waiting);
    }

    fn flush_for(&mut self, records: Records) {
        let flush = self.flush.get_or_insert(Flush { records, half: false });
        flush.records.add_all(records);
        flush.half = false;
    }

    /// Whether commands can be sent: none is while a flush is being carried out.
    pub(crate) fn can_deliver(&self) -> bool {
        self.flush.is_none_or(|flush| !flush.half)
    }
}
