//! The board as values, for pages.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::board::{Board, Reading};
use super::fleet::Seen;
use crate::stream::ShardId;

/// Who reads a stream shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardState {
    /// Nobody, for longer than its lease may take to find an owner.
    Unheld,
    /// An operator has paused it.
    Paused,
    /// This worker.
    Here,
    /// Another worker.
    Elsewhere,
    /// Nobody yet.
    Free,
    /// Nobody, because its parent comes first.
    Waiting,
    /// Nobody any more: it was delivered to its end.
    Ended,
}

/// Everything that the board shows.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// The tables, each with its problems.
    pub tables: Vec<TableNote>,
    /// The stream shards, those that need attention first.
    pub stream_shards: Vec<StreamShardNote>,
    /// Gaps that this process found, newest first; the last hundred.
    pub gaps: Vec<GapNote>,
    /// How many gaps this process found.
    pub gaps_total: u64,
    /// What probes found, by ring shard; empty where this worker does not probe.
    pub probes: Vec<ProbeNote>,
}

/// A table.
#[derive(Clone, Debug, Serialize)]
pub struct TableNote {
    /// Its name.
    pub table: String,
    /// Whether its stream is known.
    pub discovered: bool,
    /// What is wrong with it as a whole.
    pub problems: Vec<String>,
    /// Closed stream shards that have no successor yet.
    pub without_successor: Vec<String>,
}

/// A stream shard.
#[derive(Clone, Debug, Serialize)]
pub struct StreamShardNote {
    /// Its table.
    pub table: String,
    /// Its id.
    pub stream_shard: String,
    /// Who reads it.
    pub state: ShardState,
    /// The name under which its lease is held.
    pub owner: Option<String>,
    /// How far it was delivered: here as it is known here, else as its lease says.
    pub checkpoint: Option<String>,
    /// The stream shard that it continues.
    pub parent: Option<String>,
    /// How far the reading is behind, in seconds; only where it is read here.
    pub age_s: Option<f64>,
    /// Seconds since the last successful read; only where it is read here.
    pub read_s_ago: Option<f64>,
    /// Pages under way to the ring.
    pub undelivered_pages: usize,
    /// For how many seconds the watermark has stood still while pages were under way.
    pub undelivered_s: f64,
    /// Why the last read failed.
    pub error: Option<String>,
}

/// A gap: records that are lost to this consumer, and that were made up for by a flush.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GapNote {
    /// When it was found, in unix ms.
    pub at_ms: u64,
    /// The table.
    pub table: String,
    /// The stream shard; absent where a whole stream was replaced.
    pub stream_shard: Option<String>,
    /// Why records are lost.
    pub reason: String,
}

/// What probes of a ring shard found.
#[derive(Clone, Debug, Serialize)]
pub struct ProbeNote {
    /// The ring shard.
    pub ring_shard: String,
    /// From a write to the invalidation of its entry, in seconds, when it was last measured.
    pub lag_s: Option<f64>,
    /// Seconds since the last probe.
    pub s_ago: f64,
    /// Why the last probe measured nothing.
    pub failing: Option<String>,
}

impl ShardState {
    pub(super) const ALL: [Self; 7] =
        [Self::Unheld, Self::Paused, Self::Here, Self::Elsewhere, Self::Free, Self::Waiting, Self::Ended];

    /// The name in metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Unheld => "unheld",
            Self::Paused => "paused",
            Self::Here => "here",
            Self::Elsewhere => "elsewhere",
            Self::Free => "free",
            Self::Waiting => "waiting",
            Self::Ended => "ended",
        }
    }
}

pub(super) fn of(board: &Board, now: Instant) -> Snapshot {
    let tables = board.tables.iter().map(|(table, state)| TableNote {
        table: table.to_string(),
        discovered: state.discovered,
        problems: state.problems.values().map(|(_, problem)| problem.clone()).collect(),
        without_successor: state.childless.keys().map(ToString::to_string).collect(),
    });
    let probes = board.probes.iter().map(|(name, probed)| ProbeNote {
        ring_shard: name.clone(),
        lag_s: probed.lag.map(|lag| lag.as_secs_f64()),
        s_ago: seconds(now, probed.at),
        failing: probed.failing.as_ref().map(|(_, reason)| reason.clone()),
    });
    Snapshot {
        tables: tables.collect(),
        stream_shards: stream_shards(board, now),
        gaps: board.gaps.iter().rev().cloned().collect(),
        gaps_total: board.gaps_total,
        probes: probes.collect(),
    }
}

fn stream_shards(board: &Board, now: Instant) -> Vec<StreamShardNote> {
    let leased = board.tables.iter().flat_map(|(table, state)| {
        state.fleet.shards.iter().map(move |(shard, seen)| {
            let reading = board.reading(&(Arc::clone(table), shard.clone()));
            note(table, shard, Some(seen), reading.as_deref(), now)
        })
    });
    let mut notes: Vec<StreamShardNote> = leased.collect();
    let listed: BTreeSet<(&str, &ShardId)> = board
        .tables
        .iter()
        .flat_map(|(table, state)| state.fleet.shards.keys().map(move |shard| (&**table, shard)))
        .collect();
    let unlisted = board.readings().filter(|((table, shard), _)| !listed.contains(&(&**table, shard)));
    notes.extend(unlisted.map(|((table, shard), reading)| note(table, shard, None, Some(&*reading), now)));
    let oldest_first = |a: &StreamShardNote, b: &StreamShardNote| b.age_s.partial_cmp(&a.age_s);
    notes.sort_by(|a, b| a.state.cmp(&b.state).then_with(|| oldest_first(a, b).unwrap_or(std::cmp::Ordering::Equal)));
    notes
}

fn note(table: &str, shard: &ShardId, seen: Option<&Seen>, reading: Option<&Reading>, now: Instant) -> StreamShardNote {
    let open = reading.filter(|reading| !reading.ended);
    let state = match (reading, seen) {
        (Some(reading), _) if reading.ended => ShardState::Ended,
        (Some(_), _) => ShardState::Here,
        // It was read here when its lease was looked at.
        (None, Some(seen)) if seen.state == ShardState::Here => ShardState::Free,
        (None, Some(seen)) => seen.state,
        (None, None) => ShardState::Free,
    };
    let reached = reading.and_then(|reading| reading.reached).or_else(|| seen.and_then(|seen| seen.checkpoint));
    StreamShardNote {
        table: table.to_owned(),
        stream_shard: shard.to_string(),
        state,
        owner: seen.and_then(|seen| seen.owner.as_ref().map(ToString::to_string)),
        checkpoint: reached.map(|reached| reached.to_string()),
        parent: seen.and_then(|seen| seen.parent.as_ref().map(ToString::to_string)),
        age_s: open.map(|reading| reading.age(now).as_secs_f64()),
        read_s_ago: open.and_then(|reading| reading.last_read).map(|(at, _)| seconds(now, at)),
        undelivered_pages: reading.map_or(0, |reading| reading.under_way),
        undelivered_s: reading.map_or(Duration::ZERO, |reading| reading.undelivered(now)).as_secs_f64(),
        error: open.and_then(|reading| reading.error.clone()),
    }
}

fn seconds(now: Instant, since: Instant) -> f64 {
    now.duration_since(since).as_secs_f64()
}
