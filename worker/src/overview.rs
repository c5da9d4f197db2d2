//! What a fleet looks like from outside: its streams, stream shards and leases. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use crate::lease::{Checkpoint, Lease};
use crate::lineage;
use crate::stream::{Listing, ShardId, StreamStatus};

/// What a stream shard is at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// It may be read, and an owner has its lease.
    Held,
    /// It may be read, and nobody has its lease.
    Unheld,
    /// It has to wait until its parent was read to its end.
    Waiting,
    /// It was read to its end.
    Ended,
    /// An operator has paused it.
    Paused,
}

impl Stage {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Stage::Held => "held",
            Stage::Unheld => "unheld",
            Stage::Waiting => "waiting",
            Stage::Ended => "ended",
            Stage::Paused => "paused",
        }
    }
}

/// One stream shard.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ShardLine {
    /// Its id.
    pub(crate) shard: String,
    /// The one that it continues.
    pub(crate) parent: Option<String>,
    /// Whether the stream lists it; its records are gone where not.
    pub(crate) listed: bool,
    /// Whether others continue it: then it takes in nothing more.
    pub(crate) continued: bool,
    /// What it is at.
    pub(crate) stage: Stage,
    /// Whether it has a lease.
    pub(crate) leased: bool,
    /// Who has its lease, or gets it.
    pub(crate) owner: Option<String>,
    /// Who still reads it, and was asked to hand it over to the owner.
    pub(crate) leaving: Option<String>,
    /// How far it was delivered.
    pub(crate) checkpoint: Option<String>,
    /// For how many seconds the lease was seen unchanged; 0 where it changed while it was watched. `None` without a watch, or
    /// without an owner.
    pub(crate) unchanged_s: Option<f64>,
}

/// One table's stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct StreamLine {
    /// The table.
    pub(crate) table: String,
    /// The stream.
    pub(crate) stream: String,
    /// Whether it takes in records.
    pub(crate) status: &'static str,
    /// Whether it is paused.
    pub(crate) paused: bool,
    /// Its stream shards.
    pub(crate) shards: Vec<ShardLine>,
}

/// One owner and its share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct OwnerLine {
    /// Its name.
    pub(crate) owner: String,
    /// Leases of stream shards that are not ended.
    pub(crate) leases: usize,
    /// The part of all such leases that have an owner, in percent.
    pub(crate) percent: f64,
    /// Whether one of its leases changed while they were watched; `None` without a watch.
    pub(crate) alive: Option<bool>,
}

/// What was seen of the leases' counters.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    first: BTreeMap<String, (u64, Duration)>,
    last: Duration,
}

impl Watched {
    /// Takes in a reading, made so long after the first one.
    pub(crate) fn saw<'l>(&mut self, leases: impl IntoIterator<Item = &'l Lease>, after: Duration) {
        self.last = after;
        for lease in leases {
            let seen = self.first.entry(lease.key.to_string()).or_insert((lease.counter, after));
            if seen.0 != lease.counter {
                *seen = (lease.counter, after);
            }
        }
    }

    /// For how long a lease has been seen unchanged; zero where it changed since the first reading.
    fn unchanged(&self, lease: &Lease) -> Option<Duration> {
        let (_, since) = self.first.get(&lease.key.to_string()).filter(|_| !self.last.is_zero())?;
        Some(if since.is_zero() { self.last } else { Duration::ZERO })
    }

    /// Whether every one of these leases that has an owner has changed.
    pub(crate) fn all_moved<'l>(&self, leases: impl IntoIterator<Item = &'l Lease>) -> bool {
        let mut owned = leases.into_iter().filter(|lease| lease.owner.is_some() && !rests(lease));
        owned.all(|lease| self.unchanged(lease).is_some_and(|unchanged| unchanged.is_zero()))
    }
}

/// Whether nobody has to renew a lease.
fn rests(lease: &Lease) -> bool {
    (lease.is_paused() && lease.leaving.is_none()) || lease.checkpoint == Checkpoint::ShardEnd
}

/// Puts a stream's listing and leases together.
#[must_use]
pub(crate) fn stream(
    table: &str,
    stream: &str,
    listing: &Listing,
    leases: &BTreeMap<ShardId, Lease>,
    watched: &Watched,
) -> StreamLine {
    let plan = lineage::plan(listing, leases);
    let paused = leases.values().any(Lease::is_paused);
    let mut parents: BTreeMap<&ShardId, Option<&ShardId>> =
        leases.iter().map(|(id, lease)| (id, lease.parents.first())).collect();
    parents.extend(listing.shards.iter().map(|shard| (&shard.id, shard.parent.as_ref())));
    let listed: BTreeSet<&ShardId> = listing.shards.iter().map(|shard| &shard.id).collect();
    let shards = parents.iter().map(|(shard, parent)| {
        let lease = leases.get(*shard);
        let stage = if plan.waiting.contains_key(*shard) {
            Stage::Waiting
        } else if !plan.start.contains_key(*shard) {
            Stage::Ended
        } else if paused {
            Stage::Paused
        } else if lease.is_some_and(|lease| lease.owner.is_some()) {
            Stage::Held
        } else {
            Stage::Unheld
        };
        let owned = lease.filter(|lease| lease.owner.is_some() && !rests(lease));
        ShardLine {
            shard: shard.to_string(),
            parent: parent.map(ToString::to_string),
            listed: listed.contains(*shard),
            continued: !lineage::children(listing, shard).is_empty(),
            stage,
            leased: lease.is_some(),
            owner: lease.and_then(|lease| lease.owner.as_ref()).map(ToString::to_string),
            leaving: lease.and_then(|lease| lease.leaving.as_ref()).map(ToString::to_string),
            checkpoint: lease.map(|lease| lease.checkpoint.to_string()),
            unchanged_s: owned.and_then(|lease| watched.unchanged(lease)).map(|unchanged| unchanged.as_secs_f64()),
        }
    });
    let status = match listing.status {
        StreamStatus::Enabling => "enabling",
        StreamStatus::Enabled => "enabled",
        StreamStatus::Disabling => "disabling",
        StreamStatus::Disabled => "disabled",
    };
    StreamLine { table: table.to_owned(), stream: stream.to_owned(), status, paused, shards: shards.collect() }
}

/// Tells what each owner has.
#[must_use]
pub(crate) fn owners(leases: &[Lease], watched: &Watched) -> Vec<OwnerLine> {
    let mut by_owner: BTreeMap<String, Vec<&Lease>> = BTreeMap::new();
    for lease in leases.iter().filter(|lease| !rests(lease)) {
        if let Some(owner) = lease.holder() {
            by_owner.entry(owner.to_string()).or_default().push(lease);
        }
    }
    let all: usize = by_owner.values().map(Vec::len).sum();
    let line = |(owner, leases): (String, Vec<&Lease>)| {
        let unchanged: Vec<Duration> = leases.iter().filter_map(|lease| watched.unchanged(lease)).collect();
        let percent = 100.0 * leases.len() as f64 / all.max(1) as f64;
        let alive = (!unchanged.is_empty()).then(|| unchanged.iter().any(Duration::is_zero));
        OwnerLine { owner, leases: leases.len(), percent, alive }
    };
    by_owner.into_iter().map(line).collect()
}

/// What is wrong with a stream, for people.
#[must_use]
pub(crate) fn problems(line: &StreamLine) -> Vec<String> {
    let mut problems = Vec::new();
    if line.status != "enabled" && line.status != "enabling" {
        problems.push(format!("{}: its stream is {}", line.table, line.status));
    }
    for shard in &line.shards {
        let name = format!("{}: stream shard {}", line.table, shard.shard);
        match (&shard.stage, shard.unchanged_s) {
            (Stage::Unheld, _) if shard.leased => problems.push(format!("{name} is free: no worker reads it")),
            (Stage::Unheld, _) => problems.push(format!("{name} has no lease: no worker reads it")),
            (Stage::Held, Some(unchanged)) if unchanged > 0.0 => problems
                .push(format!("{name}: its lease did not change within {unchanged:.1} s; its owner may be dead")),
            (Stage::Held | Stage::Waiting | Stage::Ended | Stage::Paused, _) => {}
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{LeaseKey, OwnerId, PAUSED_OWNER};
    use crate::stream::StreamShard;

    fn lease(shard: &str, owner: Option<&str>, counter: u64, checkpoint: Checkpoint) -> Lease {
        let key = LeaseKey::parse(&format!("1:r$1$t$l:1:{shard}")).unwrap();
        Lease { owner: owner.map(OwnerId::named), counter, checkpoint, ..Lease::new(key) }
    }

    fn by_shard(leases: &[Lease]) -> BTreeMap<ShardId, Lease> {
        leases.iter().map(|lease| (lease.key.shard.clone(), lease.clone())).collect()
    }

    fn listing() -> Listing {
        let shard = |(id, parent): (&str, Option<&str>)| StreamShard {
            id: id.into(),
            parent: parent.map(ShardId::from),
            starting: None,
        };
        let shards = [("a", None), ("b", Some("a")), ("c", Some("b")), ("d", None)].map(shard);
        Listing { shards: shards.to_vec(), ..Listing::default() }
    }

    fn stages(leases: &[Lease]) -> String {
        let line = stream("t", "arn", &listing(), &by_shard(leases), &Watched::default());
        line.shards.iter().map(|line| format!("{}={}", line.shard, line.stage.name())).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_stream_shard_is_told_by_what_it_waits_for() {
        let ended = lease("a", None, 4, Checkpoint::ShardEnd);
        let held = lease("b", Some("w"), 1, Checkpoint::TrimHorizon);
        assert_eq!(stages(&[ended.clone(), held.clone()]), "a=ended b=held c=waiting d=unheld");
        let paused = lease("d", Some(PAUSED_OWNER), 1, Checkpoint::TrimHorizon);
        assert_eq!(stages(&[ended, held, paused]), "a=ended b=paused c=waiting d=paused");
    }

    #[test]
    fn an_owner_whose_leases_stand_still_is_reported() {
        let (first, still) =
            (lease("a", Some("w"), 1, Checkpoint::Latest), lease("d", Some("x"), 1, Checkpoint::Latest));
        let moved = Lease { counter: 2, ..first.clone() };
        let mut watched = Watched::default();
        watched.saw([&first, &still], Duration::ZERO);
        watched.saw([&moved, &still], Duration::from_secs(4));
        let leases = [moved, still];
        assert!(!watched.all_moved(&leases));
        let alive: Vec<_> = owners(&leases, &watched).into_iter().map(|line| (line.owner, line.alive)).collect();
        assert_eq!(alive, [("w".to_owned(), Some(true)), ("x".to_owned(), Some(false))]);
        let problems = problems(&stream("t", "arn", &listing(), &by_shard(&leases), &watched));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("shard d") && problems[0].contains("4.0 s"), "{problems:?}");
    }

    #[test]
    fn shards_without_a_reader_are_reported() {
        let line = stream("t", "arn", &listing(), &by_shard(&[]), &Watched::default());
        assert_eq!(problems(&line).len(), 2, "the roots; the others wait for them");
    }
}
