//! `/status.json`: all that this worker knows of itself, the fleet and the ring.

use std::collections::BTreeMap;

use ringtide_core::clock::unix_ms;
use ringtide_core::pipeline::{ParkingStatus, RingShardStatus};
use serde::Serialize;

use super::history::Sample;
use super::{About, Pages};
use crate::health::{ShardState, Snapshot, StreamShardNote, Verdict};

/// The most stream shards that are listed; those that need attention come first.
const LISTED: usize = 500;

#[derive(Serialize)]
pub(super) struct Status {
    #[serde(flatten)]
    about: About,
    now_ms: u64,
    uptime_s: u64,
    live: Verdict,
    ready: Verdict,
    #[serde(flatten)]
    snapshot: Snapshot,
    /// Stream shards that are not listed because there are too many.
    stream_shards_omitted: usize,
    /// How many stream shards each owner's leases stand for, by owner.
    leases: Vec<OwnerNote>,
    ring_shards: Vec<RingShardStatus>,
    parking: ParkingStatus,
    /// Oldest first.
    lag: Vec<Sample>,
}

/// What an owner holds.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct OwnerNote {
    owner: String,
    /// Whether it is this worker.
    here: bool,
    stream_shards: usize,
}

pub(super) fn of(pages: &Pages) -> Status {
    let mut snapshot = pages.health.snapshot();
    for shard in snapshot.stream_shards.iter_mut().filter(|shard| shard.state == ShardState::Here) {
        // The lease was taken since the leases were looked at.
        shard.owner = Some(pages.about.owner.clone());
    }
    let leases = owners(&snapshot.stream_shards, &pages.about.owner);
    let stream_shards_omitted = snapshot.stream_shards.len().saturating_sub(LISTED);
    snapshot.stream_shards.truncate(LISTED);
    Status {
        about: About::clone(&pages.about),
        now_ms: unix_ms(),
        uptime_s: pages.about.since.elapsed().as_secs(),
        live: pages.health.live(),
        ready: pages.health.ready(),
        snapshot,
        stream_shards_omitted,
        leases,
        ring_shards: pages.deliver.ring_shards(),
        parking: pages.deliver.parking(),
        lag: pages.history.samples(),
    }
}

fn owners(stream_shards: &[StreamShardNote], me: &str) -> Vec<OwnerNote> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for shard in stream_shards.iter().filter(|shard| shard.state != ShardState::Ended) {
        if let Some(owner) = shard.owner.as_deref() {
            *counts.entry(owner).or_default() += 1;
        }
    }
    let note =
        |(owner, stream_shards): (&str, usize)| OwnerNote { owner: owner.to_owned(), here: owner == me, stream_shards };
    counts.into_iter().map(note).collect()
}
