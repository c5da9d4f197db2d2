//! Health judged by progress: what was read and delivered when, what is missing, and what the fleet's leases show.
//!
//! Every part of the worker reports to one board. Verdicts, gauges and the status page are made from it.

mod board;
mod fleet;
mod snapshot;
mod verdict;

#[cfg(test)]
mod reports_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{counter, gauge};
use ringtide_core::clock::unix_ms;
use ringtide_core::metrics as names;
use tokio::time::Instant;

use crate::lease::Checkpoint;
use crate::stream::{ShardId, StreamError};

pub(crate) use board::Line;
use board::{Board, Probed, Reading};
pub(crate) use fleet::LeasesSeen;
pub use snapshot::{GapNote, ProbeNote, ShardState, Snapshot, StreamShardNote};
pub use verdict::Verdict;

/// How many gaps are remembered.
const GAPS: usize = 100;

/// What every part of the worker reports to, and what all pages are answered from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Health {
    board: Arc<Mutex<Board>>,
    unhealthy_after: Duration,
}

/// A part of a table's supply that can fail as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The table and its stream.
    Table,
    /// The leases of its stream shards.
    Leases,
}

/// How old a stream shard is that is read here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardAge {
    /// Its table.
    pub table: Arc<str>,
    /// Its id.
    pub stream_shard: ShardId,
    /// How far the reading is behind: the newest record's age when it was read, and the time since.
    pub age: Duration,
    /// How long the watermark has stood still while pages are under way.
    pub undelivered: Duration,
}

/// One stream shard's line on the board; dropping it wipes the line.
#[derive(Debug)]
pub struct ShardHealth {
    health: Health,
    key: (Arc<str>, ShardId),
    line: Line,
}

impl Health {
    /// A stream shard that was not read successfully for `unhealthy_after` makes the worker unhealthy.
    #[must_use]
    pub fn new(unhealthy_after: Duration, tables: impl IntoIterator<Item = Arc<str>>) -> Self {
        let board = Board::new(tables);
        board.tables.keys().for_each(|table| begin_counters(table));
        Self { board: Arc::new(Mutex::new(board)), unhealthy_after }
    }

    /// Opens a stream shard's line.
    #[must_use]
    pub fn shard(&self, table: &Arc<str>, shard: &ShardId) -> ShardHealth {
        let key = (Arc::clone(table), shard.clone());
        let line = Line::new();
        self.board().open(key.clone(), line.clone());
        ShardHealth { health: self.clone(), key, line }
    }

    /// Takes in what a listing showed: the closed stream shards that wait for a child.
    pub fn discovered(&self, table: &Arc<str>, childless: &BTreeSet<ShardId>) {
        let now = Instant::now();
        let mut board = self.board();
        let state = board.tables.entry(Arc::clone(table)).or_default();
        state.discovered = true;
        state.childless.retain(|shard, _| childless.contains(shard));
        for shard in childless {
            state.childless.entry(shard.clone()).or_insert(now);
        }
    }

    /// A table's stream is not followed until a flush is acknowledged, or is from now on: no restart would shorten that.
    pub fn flushing(&self, table: &Arc<str>, flushing: bool) {
        let mut board = self.board();
        let state = board.tables.entry(Arc::clone(table)).or_default();
        (state.flushing, state.since) = (flushing, Instant::now());
    }

    /// Takes in the leases of a stream as they were just read, and what may be started by them.
    pub(crate) fn leases(&self, table: &Arc<str>, seen: &LeasesSeen<'_>) {
        let mut board = self.board();
        let read_here = board.read_here(table);
        let fleet = &mut board.tables.entry(Arc::clone(table)).or_default().fleet;
        fleet.see(seen, &read_here, Instant::now());
        let counts = fleet.counts();
        drop(board);
        for (state, count) in counts {
            gauge!(names::STREAM_LEASES, names::TABLE => table.to_string(), names::STATE => state.name())
                .set(count as f64);
        }
    }

    /// Reports or clears a problem of a table as a whole; it counts once it has lasted.
    pub fn table_problem(&self, table: &Arc<str>, part: Part, problem: Option<String>) {
        let mut board = self.board();
        let problems = &mut board.tables.entry(Arc::clone(table)).or_default().problems;
        match problem {
            Some(text) => problems.entry(part).or_insert_with(|| (Instant::now(), String::new())).1 = text,
            None => drop(problems.remove(&part)),
        }
    }

    /// Notes a gap in a table's stream, for people to look at; the last hundred are remembered.
    pub fn gap(&self, table: &str, stream_shard: Option<&ShardId>, reason: &str) {
        let note = GapNote {
            at_ms: unix_ms(),
            table: table.to_owned(),
            stream_shard: stream_shard.map(ToString::to_string),
            reason: reason.to_owned(),
        };
        let mut board = self.board();
        board.gaps_total += 1;
        if board.gaps.len() == GAPS {
            board.gaps.pop_front();
        }
        board.gaps.push_back(note);
    }

    /// Whether a stream shard of the table is read here, and was read at least once.
    #[must_use]
    pub fn reads(&self, table: &str) -> bool {
        self.board()
            .readings()
            .any(|((of, _), reading)| &**of == table && !reading.ended && reading.last_read.is_some())
    }

    /// Notes what a probe of a ring shard found: the lag, or why none could be measured.
    pub fn probed(&self, ring_shard: &str, found: Result<Duration, String>) {
        let now = Instant::now();
        let mut board = self.board();
        let probed = board.probes.entry(ring_shard.to_owned()).or_insert_with(|| Probed::new(now));
        probed.at = now;
        match found {
            Ok(lag) => (probed.lag, probed.failing) = (Some(lag), None),
            Err(reason) => {
                let since = probed.failing.as_ref().map_or(now, |(since, _)| *since);
                probed.failing = Some((since, reason));
            }
        }
    }

    /// Forgets what was probed, except of these ring shards: another worker probes now, or the ring has changed.
    pub fn keep_probes(&self, ring_shards: &BTreeSet<String>) {
        self.board().probes.retain(|name, _| ring_shards.contains(name));
    }

    /// The worker stops: it is not ready any more.
    pub fn stopping(&self) {
        self.board().stopping = true;
    }

    /// Whether every open stream shard was read successfully of late, and every closed one has its successor.
    ///
    /// Only what a restart of this worker may mend counts.
    #[must_use]
    pub fn live(&self) -> Verdict {
        verdict::live(&self.board(), self.unhealthy_after, Instant::now())
    }

    /// Whether the worker is live, all streams are discovered, every open stream shard was read once, and nothing of
    /// the fleet's work lies about: each stream shard has an owner whose lease moves.
    #[must_use]
    pub fn ready(&self) -> Verdict {
        verdict::ready(&self.board(), self.unhealthy_after, Instant::now())
    }

    /// Everything that the board shows, for pages.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        snapshot::of(&self.board(), Instant::now())
    }

    /// How old the stream shards are that are read here and have not ended, by table and id.
    #[must_use]
    pub fn ages(&self) -> Vec<ShardAge> {
        let (board, now) = (self.board(), Instant::now());
        let open = board.readings().filter(|(_, reading)| !reading.ended);
        let age = |((table, shard), reading): (&(Arc<str>, ShardId), MutexGuard<'_, Reading>)| ShardAge {
            table: Arc::clone(table),
            stream_shard: shard.clone(),
            age: reading.age(now),
            undelivered: reading.undelivered(now),
        };
        open.map(age).collect()
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the counters that alerts look at begin with 0: a series that begins with 1 has no increase.
fn begin_counters(table: &str) {
    counter!(names::PIPELINE_PARKED, names::TABLE => table.to_owned()).increment(0);
    for reason in ["trimmed", "not_found", "new_stream"] {
        counter!(names::GAPS, names::TABLE => table.to_owned(), names::REASON => reason).increment(0);
    }
}

impl ShardHealth {
    /// The line itself, for who writes it with every read.
    pub(crate) fn line(&self) -> Line {
        self.line.clone()
    }

    /// A read succeeded; `age` is that of its newest record, zero for a page without records.
    pub fn read(&self, age: Duration) {
        self.line.read(age);
    }

    /// Pages were handed over or delivered: how many are under way, and up to where everything before is delivered.
    pub fn delivering(&self, under_way: usize, reached: Option<Checkpoint>) {
        self.line.reading().delivering(under_way, reached, Instant::now());
    }

    /// Records of the stream shard are lost.
    pub fn gap(&self, error: &StreamError) {
        self.health.gap(&self.key.0, Some(&self.key.1), error.reason());
    }

    /// A call failed.
    pub fn failed(&self, error: &StreamError) {
        self.line.failed(error);
    }

    /// It is not read on until something is over that a restart would have to wait for, too, or is from now on.
    pub fn waits(&self, waits: bool) {
        self.line.waits(waits);
    }

    /// The last page was read: there is nothing left to read, and maybe something to deliver.
    pub fn read_out(&self) {
        self.line.reading().read_out = true;
    }

    /// The stream shard was read to its end, and all of it was delivered.
    pub fn ended(&self) {
        self.health.board().end(&self.key);
    }
}

impl Drop for ShardHealth {
    fn drop(&mut self) {
        self.health.board().close(&self.key);
    }
}
