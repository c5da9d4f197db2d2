//! Whether all is well. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::board::Board;

/// An answer: whether all is well, and if not, why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether all is well.
    pub ok: bool,
    /// What is not; empty where all is well.
    pub reasons: Vec<String>,
    /// What somebody has to look at although this page says that all is well: a restart of this worker does not mend it.
    pub warnings: Vec<String>,
    /// The stream shards being read.
    pub stream_shards_open: usize,
}

pub(super) fn live(board: &Board, unhealthy_after: Duration, now: Instant) -> Verdict {
    let reasons = stalled(board, unhealthy_after, now);
    Verdict {
        ok: reasons.is_empty(),
        reasons,
        warnings: unheld(board).into_iter().chain(failing_probes(board, now)).collect(),
        stream_shards_open: board.open_shards(),
    }
}

pub(super) fn ready(board: &Board, unhealthy_after: Duration, now: Instant) -> Verdict {
    let mut reasons = Vec::new();
    for (table, _) in board.tables.iter().filter(|(_, state)| !state.discovered) {
        reasons.push(format!("the stream of {table} is not discovered"));
    }
    let unread = board.readings().filter(|(_, reading)| !reading.ended && reading.last_read.is_none());
    reasons.extend(unread.map(|((table, shard), _)| format!("stream shard {shard} of {table} was not read yet")));
    let stalled = stalled(board, unhealthy_after, now);
    reasons.extend(stalled.into_iter().chain(unheld(board)));
    let mut known = BTreeSet::new();
    reasons.retain(|reason| known.insert(reason.clone()));
    if board.stopping {
        reasons.push("the worker is stopping".to_owned());
    }
    let (ok, stream_shards_open) = (reasons.is_empty(), board.open_shards());
    // A ring shard that is down must not keep a worker from being taken for started: the others need it.
    Verdict { ok, reasons, warnings: failing_probes(board, now), stream_shards_open }
}

/// What this worker should get done and does not.
fn stalled(board: &Board, unhealthy_after: Duration, now: Instant) -> Vec<String> {
    let late = |since: Instant| now.duration_since(since) > unhealthy_after;
    let mut reasons = Vec::new();
    for ((table, shard), reading) in board.readings() {
        if let Some(since) = reading.unread_since().filter(|since| late(*since)) {
            let error = reading.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            let age = now.duration_since(since).as_secs();
            reasons.push(format!("stream shard {shard} of {table} was not read successfully for {age} s{error}"));
        }
    }
    for (table, state) in &board.tables {
        if !state.discovered && !state.flushing && late(state.since) {
            reasons.push(format!("the stream of {table} is not discovered"));
        }
        for (_, problem) in state.problems.values().filter(|(since, _)| late(*since)) {
            reasons.push(format!("{table}: {problem}"));
        }
        for (shard, _) in state.childless.iter().filter(|(_, since)| late(**since)) {
            reasons.push(format!("stream shard {shard} of {table} is closed and has no successor"));
        }
    }
    reasons
}

/// What nobody in the fleet reads.
fn unheld(board: &Board) -> Vec<String> {
    let mut warnings = Vec::new();
    for (table, state) in &board.tables {
        // One that was taken here since the leases were looked at is attended to.
        let unheld = state.fleet.unheld().filter(|(shard, _)| !board.is_read_here(&(table.clone(), (*shard).clone())));
        for (shard, seen) in unheld {
            let owner = match &seen.owner {
                Some(owner) => format!("the lease of {owner} does not move"),
                None => "its lease is free".to_owned(),
            };
            let since = seen.at.duration_since(seen.since).as_secs();
            warnings.push(format!("stream shard {shard} of {table} is read by nobody for {since} s: {owner}"));
        }
    }
    warnings
}

fn failing_probes(board: &Board, now: Instant) -> Vec<String> {
    let failing = board.probes.iter().filter_map(|(name, probed)| Some((name, probed.failing.as_ref()?)));
    failing
        .map(|(ring_shard, (since, reason))| {
            let since = now.duration_since(*since).as_secs();
            format!("probes of ring shard {ring_shard} fail since {since} s: {reason}")
        })
        .collect()
}
