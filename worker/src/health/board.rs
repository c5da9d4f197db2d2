//! What is known, as it was reported.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::gauge;
use ringtide_core::metrics as names;
use tokio::time::Instant;

use super::fleet::Fleet;
use super::{GapNote, Part};
use crate::lease::Checkpoint;
use crate::stream::{ShardId, StreamError};

#[derive(Debug, Default)]
pub(super) struct Board {
    /// Each line is written without the board, as often as its stream shard is read.
    shards: BTreeMap<(Arc<str>, ShardId), Line>,
    pub(super) tables: BTreeMap<Arc<str>, TableState>,
    /// Oldest first.
    pub(super) gaps: VecDeque<GapNote>,
    pub(super) gaps_total: u64,
    /// By ring shard.
    pub(super) probes: BTreeMap<String, Probed>,
    pub(super) stopping: bool,
}

#[derive(Debug)]
pub(super) struct TableState {
    pub(super) since: Instant,
    pub(super) discovered: bool,
    /// Its stream is followed once a flush is acknowledged.
    pub(super) flushing: bool,
    /// Lines of the table's stream shards that have not ended.
    open: usize,
    /// What is wrong with the table as a whole, and since when.
    pub(super) problems: BTreeMap<Part, (Instant, String)>,
    /// Closed stream shards whose child is not listed although the stream is on, each since when.
    pub(super) childless: BTreeMap<ShardId, Instant>,
    pub(super) fleet: Fleet,
}

/// A line of the board. Who has the board may take a line besides, and never the other way round.
#[derive(Clone, Debug)]
pub(crate) struct Line(Arc<Mutex<Reading>>);

/// A stream shard that is read here.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) since: Instant,
    /// When it was last read successfully, and how old its newest record was then.
    pub(super) last_read: Option<(Instant, Duration)>,
    pub(super) error: Option<String>,
    /// It is read on once something is over that a restart would have to wait for, too: a flush, say.
    pub(super) waits: bool,
    /// When it was begun to be read, or was read on after that.
    pub(super) resumed: Instant,
    /// There is nothing left to read.
    pub(super) read_out: bool,
    /// All of it was delivered, too.
    pub(super) ended: bool,
    pub(super) under_way: usize,
    pub(super) reached: Option<Checkpoint>,
    /// Since when the watermark has stood still while pages are under way.
    pub(super) held_since: Option<Instant>,
}

/// A ring shard that is probed.
#[derive(Debug)]
pub(super) struct Probed {
    pub(super) at: Instant,
    pub(super) lag: Option<Duration>,
    pub(super) failing: Option<(Instant, String)>,
}

impl Board {
    pub(super) fn new(tables: impl IntoIterator<Item = Arc<str>>) -> Self {
        let tables = tables.into_iter().map(|table| (table, TableState::default())).collect();
        Self { tables, ..Self::default() }
    }

    /// Opens a line.
    pub(super) fn open(&mut self, key: (Arc<str>, ShardId), line: Line) {
        let table = Arc::clone(&key.0);
        let before = self.shards.insert(key, line);
        if before.is_none_or(|before| before.reading().ended) {
            self.count_open(table, |open| open + 1);
        }
    }

    /// Notes that a stream shard was read to its end.
    pub(super) fn end(&mut self, key: &(Arc<str>, ShardId)) {
        let line = self.shards.get(key);
        let ends = line.is_some_and(|line| !std::mem::replace(&mut line.reading().ended, true));
        if ends {
            self.count_open(Arc::clone(&key.0), |open| open.saturating_sub(1));
        }
    }

    /// Wipes a line.
    pub(super) fn close(&mut self, key: &(Arc<str>, ShardId)) {
        if self.shards.remove(key).is_some_and(|line| !line.reading().ended) {
            self.count_open(Arc::clone(&key.0), |open| open.saturating_sub(1));
        }
    }

    /// The stream shards that are read here, each with its table.
    pub(super) fn readings(&self) -> impl Iterator<Item = (&(Arc<str>, ShardId), MutexGuard<'_, Reading>)> {
        self.shards.iter().map(|(key, line)| (key, line.reading()))
    }

    pub(super) fn reading(&self, key: &(Arc<str>, ShardId)) -> Option<MutexGuard<'_, Reading>> {
        self.shards.get(key).map(Line::reading)
    }

    pub(super) fn is_read_here(&self, key: &(Arc<str>, ShardId)) -> bool {
        self.shards.contains_key(key)
    }

    pub(super) fn read_here(&self, table: &str) -> BTreeSet<ShardId> {
        let here = self.shards.keys().filter(|(of, _)| &**of == table);
        here.map(|(_, shard)| shard.clone()).collect()
    }

    pub(super) fn open_shards(&self) -> usize {
        self.readings().filter(|(_, reading)| !reading.ended).count()
    }

    /// Counts instead of going through all lines: thousands may come or go at once.
    fn count_open(&mut self, table: Arc<str>, change: impl FnOnce(usize) -> usize) {
        let name = table.to_string();
        let state = self.tables.entry(table).or_default();
        state.open = change(state.open);
        gauge!(names::STREAM_SHARDS_OPEN, names::TABLE => name).set(state.open as f64);
    }
}

impl Default for TableState {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            discovered: false,
            flushing: false,
            open: 0,
            problems: BTreeMap::new(),
            childless: BTreeMap::new(),
            fleet: Fleet::default(),
        }
    }
}

impl Line {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Reading::new())))
    }

    /// A read succeeded; `age` is that of its newest record, zero for a page without records.
    pub(crate) fn read(&self, age: Duration) {
        let now = Instant::now();
        let mut reading = self.reading();
        reading.last_read = Some((now, age));
        reading.error = None;
    }

    /// It is not read on until something is over that a restart would have to wait for, too, or is from now on.
    pub(crate) fn waits(&self, waits: bool) {
        let mut reading = self.reading();
        (reading.waits, reading.resumed) = (waits, Instant::now());
    }

    /// A call failed.
    pub(crate) fn failed(&self, error: &StreamError) {
        self.reading().error = Some(error.to_string());
    }

    pub(super) fn reading(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            since: now,
            last_read: None,
            error: None,
            waits: false,
            resumed: now,
            read_out: false,
            ended: false,
            under_way: 0,
            reached: None,
            held_since: None,
        }
    }

    pub(super) fn delivering(&mut self, under_way: usize, reached: Option<Checkpoint>, now: Instant) {
        let moved = reached.is_some() && reached != self.reached;
        self.held_since = match self.held_since {
            _ if under_way == 0 => None,
            Some(since) if !moved => Some(since),
            Some(_) | None => Some(now),
        };
        self.under_way = under_way;
        self.reached = reached.or(self.reached);
    }

    /// Since when it should have been read and was not; `None` while it waits for what it would have to wait for after a
    /// restart, too.
    pub(super) fn unread_since(&self) -> Option<Instant> {
        let waits = self.waits || self.read_out || self.ended;
        (!waits).then(|| self.last_read.map_or(self.since, |(at, _)| at).max(self.resumed))
    }

    /// How far the reading is behind now: the newest record's age when it was read, and the time since. A stream shard that was
    /// never read is as old as its line.
    pub(super) fn age(&self, now: Instant) -> Duration {
        let (at, age) = self.last_read.unwrap_or((self.since, Duration::ZERO));
        age + now.duration_since(at)
    }

    /// For how long the oldest page under way has waited for its delivery, at most.
    pub(super) fn undelivered(&self, now: Instant) -> Duration {
        self.held_since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }
}

impl Probed {
    pub(super) fn new(at: Instant) -> Self {
        Self { at, lag: None, failing: None }
    }
}
