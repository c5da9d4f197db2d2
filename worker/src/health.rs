//! Health judged by progress: what was read when, and what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::gauge;
use ringtide_core::metrics as names;
use serde::Serialize;
use tokio::time::Instant;

use crate::stream::{ShardId, StreamError};

/// What every part of the worker reports to, and what `/healthz` and `/readyz` are answered from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Health {
    board: Arc<Mutex<Board>>,
    unhealthy_after: Duration,
}

/// An answer: whether all is well, and if not, why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether all is well.
    pub ok: bool,
    /// What is not; empty where all is well.
    pub reasons: Vec<String>,
    /// The stream shards being read.
    pub stream_shards_open: usize,
}

#[derive(Debug, Default)]
struct Board {
    shards: BTreeMap<(Arc<str>, ShardId), Reading>,
    tables: BTreeMap<Arc<str>, TableState>,
    stopping: bool,
}

#[derive(Debug)]
struct TableState {
    since: Instant,
    discovered: bool,
    /// What is wrong with the table as a whole, and since when.
    problems: BTreeMap<Part, (Instant, String)>,
    /// Closed stream shards whose child is not listed although the stream is on, each since when.
    childless: BTreeMap<ShardId, Instant>,
}

impl Default for TableState {
    fn default() -> Self {
        Self { since: Instant::now(), discovered: false, problems: BTreeMap::new(), childless: BTreeMap::new() }
    }
}

/// A part of a table's supply that can fail as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The table and its stream.
    Table,
    /// The leases of its stream shards.
    Leases,
}

#[derive(Debug)]
struct Reading {
    since: Instant,
    last_read: Option<Instant>,
    error: Option<String>,
    ended: bool,
}

/// One stream shard's line on the board; dropping it wipes the line.
#[derive(Debug)]
pub struct ShardHealth {
    health: Health,
    key: (Arc<str>, ShardId),
}

impl Health {
    /// A stream shard that was not read successfully for `unhealthy_after` makes the worker unhealthy.
    #[must_use]
    pub fn new(unhealthy_after: Duration, tables: impl IntoIterator<Item = Arc<str>>) -> Self {
        let tables = tables.into_iter().map(|table| (table, TableState::default())).collect();
        Self { board: Arc::new(Mutex::new(Board { tables, ..Board::default() })), unhealthy_after }
    }

    /// Opens a stream shard's line.
    #[must_use]
    pub fn shard(&self, table: &Arc<str>, shard: &ShardId) -> ShardHealth {
        let key = (Arc::clone(table), shard.clone());
        let reading = Reading { since: Instant::now(), last_read: None, error: None, ended: false };
        self.board().shards.insert(key.clone(), reading);
        self.count_open(table);
        ShardHealth { health: self.clone(), key }
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

    /// Reports or clears a problem of a table as a whole; it counts once it has lasted.
    pub fn table_problem(&self, table: &Arc<str>, part: Part, problem: Option<String>) {
        let mut board = self.board();
        let problems = &mut board.tables.entry(Arc::clone(table)).or_default().problems;
        match problem {
            Some(text) => problems.entry(part).or_insert_with(|| (Instant::now(), String::new())).1 = text,
            None => drop(problems.remove(&part)),
        }
    }

    /// The worker stops: it is not ready any more.
    pub fn stopping(&self) {
        self.board().stopping = true;
    }

    /// Whether every open stream shard was read successfully of late, and every closed one has its successor.
    #[must_use]
    pub fn live(&self) -> Verdict {
        let now = Instant::now();
        let late = |since: Instant| now.duration_since(since) > self.unhealthy_after;
        let board = self.board();
        let mut reasons = Vec::new();
        for ((table, shard), reading) in board.shards.iter().filter(|(_, reading)| !reading.ended) {
            let since = reading.last_read.unwrap_or(reading.since);
            if late(since) {
                let error = reading.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
                let age = now.duration_since(since).as_secs();
                reasons.push(format!("stream shard {shard} of {table} was not read successfully for {age} s{error}"));
            }
        }
        for (table, state) in &board.tables {
            if !state.discovered && late(state.since) {
                reasons.push(format!("the stream of {table} is not discovered"));
            }
            for (_, problem) in state.problems.values().filter(|(since, _)| late(*since)) {
                reasons.push(format!("{table}: {problem}"));
            }
            for (shard, _) in state.childless.iter().filter(|(_, since)| late(**since)) {
                reasons.push(format!("stream shard {shard} of {table} is closed and has no successor"));
            }
        }
        Self::verdict(&board, reasons)
    }

    /// Whether all streams are discovered and every open stream shard was read once.
    #[must_use]
    pub fn ready(&self) -> Verdict {
        let board = self.board();
        let mut reasons: Vec<String> = board
            .tables
            .iter()
            .filter(|(_, state)| !state.discovered)
            .map(|(table, _)| format!("the stream of {table} is not discovered"))
            .collect();
        let unread = board.shards.iter().filter(|(_, reading)| !reading.ended && reading.last_read.is_none());
        reasons.extend(unread.map(|((table, shard), _)| format!("stream shard {shard} of {table} was not read yet")));
        if board.stopping {
            reasons.push("the worker is stopping".to_owned());
        }
        Self::verdict(&board, reasons)
    }

    fn verdict(board: &Board, reasons: Vec<String>) -> Verdict {
        let open = board.shards.values().filter(|reading| !reading.ended).count();
        Verdict { ok: reasons.is_empty(), reasons, stream_shards_open: open }
    }

    fn count_open(&self, table: &Arc<str>) {
        let open = self.board().shards.iter().filter(|((of, _), r)| of == table && !r.ended).count();
        gauge!(names::STREAM_SHARDS_OPEN, names::TABLE => table.to_string()).set(open as f64);
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ShardHealth {
    /// A read succeeded; `age` is that of its newest record.
    pub fn read(&self, age: Duration) {
        if let Some(reading) = self.health.board().shards.get_mut(&self.key) {
            reading.last_read = Some(Instant::now());
            reading.error = None;
        }
        let (table, shard) = (self.key.0.to_string(), self.key.1.to_string());
        gauge!(names::STREAM_AGE, names::TABLE => table, names::STREAM_SHARD => shard).set(age.as_secs_f64());
    }

    /// A call failed.
    pub fn failed(&self, error: &StreamError) {
        if let Some(reading) = self.health.board().shards.get_mut(&self.key) {
            reading.error = Some(error.to_string());
        }
    }

    /// The stream shard was read to its end.
    pub fn ended(&self) {
        if let Some(reading) = self.health.board().shards.get_mut(&self.key) {
            reading.ended = true;
        }
        self.health.count_open(&self.key.0);
    }
}

impl Drop for ShardHealth {
    fn drop(&mut self) {
        // Whoever reads the stream shard next tells its age.
        let (table, shard) = (self.key.0.to_string(), self.key.1.to_string());
        gauge!(names::STREAM_AGE, names::TABLE => table, names::STREAM_SHARD => shard).set(0.0);
        self.health.board().shards.remove(&self.key);
        self.health.count_open(&self.key.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn health() -> (Health, Arc<str>) {
        let table: Arc<str> = Arc::from("products");
        (Health::new(10 * SECOND, [Arc::clone(&table)]), table)
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_that_is_not_read_makes_the_worker_unhealthy() {
        let (health, table) = health();
        health.discovered(&table, &BTreeSet::new());
        let shard = health.shard(&table, &"s1".into());
        shard.read(Duration::ZERO);
        tokio::time::advance(11 * SECOND).await;
        shard.failed(&StreamError::Unreachable("connection refused".into()));
        let verdict = health.live();
        assert!(!verdict.ok && verdict.reasons[0].contains("s1") && verdict.reasons[0].contains("refused"));
        shard.read(Duration::ZERO);
        assert!(health.live().ok);
        tokio::time::advance(11 * SECOND).await;
        shard.ended();
        assert!(health.live().ok, "an ended one is not read any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_shard_without_successor_makes_the_worker_unhealthy() {
        let (health, table) = health();
        health.discovered(&table, &BTreeSet::from(["s1".into()]));
        assert!(health.live().ok);
        tokio::time::advance(11 * SECOND).await;
        assert!(!health.live().ok);
        health.discovered(&table, &BTreeSet::new());
        assert!(health.live().ok);
    }

    #[tokio::test(start_paused = true)]
    async fn a_problem_that_lasts_makes_the_worker_unhealthy() {
        let (health, table) = health();
        health.discovered(&table, &BTreeSet::new());
        health.table_problem(&table, Part::Leases, Some("denied".into()));
        tokio::time::advance(6 * SECOND).await;
        health.table_problem(&table, Part::Leases, Some("denied".into()));
        assert!(health.live().ok);
        tokio::time::advance(6 * SECOND).await;
        assert!(health.live().reasons[0].contains("denied"));
        health.table_problem(&table, Part::Leases, None);
        assert!(health.live().ok);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_never_discovered_makes_the_worker_unhealthy() {
        let (health, _) = health();
        tokio::time::advance(11 * SECOND).await;
        assert!(!health.live().ok);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_ready_once_everything_was_read() {
        let (health, table) = health();
        assert!(health.ready().reasons[0].contains("products"));
        let shard = health.shard(&table, &"s1".into());
        health.discovered(&table, &BTreeSet::new());
        assert!(health.ready().reasons[0].contains("s1"));
        shard.read(Duration::ZERO);
        assert!(health.ready().ok);
        health.stopping();
        assert!(!health.ready().ok);
    }
}
