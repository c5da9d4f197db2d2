//! The graph of a stream's shards: what may be read now, what has to wait, which leases have served. Pure.
//!
//! A stream shard has at most one parent. Its records come after all of its parent's, so it starts once the parent was
//! read to its end. A listing is eventually consistent and shows only the last day: a parent that is neither listed
//! nor leased makes a root; one that is leased but not listed any more is still to be read, since that its records
//! are gone has to be found out and reported. Where the stream was read before, a parent that nobody knows came and went
//! while nobody looked: its child is an orphan, and what came before it is a gap.

mod strays;

use std::collections::{BTreeMap, BTreeSet};

use crate::lease::{Checkpoint, Lease};
use crate::stream::{Listing, ShardId};

pub(crate) use strays::{LOOK_AGAIN, PATIENCE, Strays, is_gone};

/// What follows from a listing and the leases of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// May be read now, each with its parent; those without a lease begin at TRIM_HORIZON.
    pub start: BTreeMap<ShardId, Option<ShardId>>,
    /// Those of `start` that nothing was read of and whose parent is gone unread.
    pub orphans: BTreeSet<ShardId>,
    /// Those that may start or wait and that nobody has begun to read.
    pub fresh: BTreeSet<ShardId>,
    /// Those of `start` that are new here and whose parent nobody knows: it is gone, or not shown yet.
    pub strays: BTreeSet<ShardId>,
    /// Have to wait, each for its parent.
    pub waiting: BTreeMap<ShardId, ShardId>,
    /// Read to their end, newest of their line, and without a listed child: a child may come up any moment.
    pub childless: BTreeSet<ShardId>,
    /// Leases that nothing needs any more.
    pub served: BTreeSet<ShardId>,
}

/// What a stream shard's first record that is kept may follow on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nothing that matters: it is among the oldest ones of a stream that was not read before.
    #[default]
    First,
    /// What was delivered: every record of its own counts.
    Continued,
    /// Records that are lost.
    Orphan,
}

/// How far a stream shard has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Untouched,
    Begun,
    Ended,
}

/// Plans from everything that is known; it throws nothing away because another part looks inconsistent.
#[must_use]
pub fn plan(listing: &Listing, leases: &BTreeMap<ShardId, Lease>) -> Plan {
    let graph = Graph::new(listing, leases);
    let mut plan = Plan::default();
    for (shard, parent) in &graph.parents {
        if graph.ended(shard) {
            let leased = leases.contains_key(shard);
            if leased && graph.listed.contains(shard) && !graph.children.contains_key(shard) {
                plan.childless.insert(shard.clone());
            }
            if leased && graph.served(shard, leases) {
                plan.served.insert(shard.clone());
            }
            continue;
        }
        if leases.get(shard).is_none_or(|lease| lease.counter == 0) {
            plan.fresh.insert(shard.clone());
        }
        match parent {
            Some(parent) if !graph.ended(parent) => {
                plan.waiting.insert(shard.clone(), parent.clone());
            }
            Some(_) => {
                plan.start.insert(shard.clone(), parent.clone());
            }
            None => {
                if graph.unknown.contains_key(shard) && !leases.contains_key(shard) {
                    plan.strays.insert(shard.clone());
                }
                let lost = graph.lost_parent(shard, leases);
                if lost.is_some() {
                    plan.orphans.insert(shard.clone());
                }
                // The lease remembers the parent, so that its loss is still known after a crash.
                plan.start.insert(shard.clone(), lost);
            }
        }
    }
    if !plan.strays.is_empty() {
        // What they tell an interruption by.
        plan.served.clear();
    }
    plan
}

impl Plan {
    /// Whether one that may start is among the oldest ones of a stream that was not read before.
    #[must_use]
    pub fn begins_a_stream(&self) -> bool {
        self.start.keys().any(|shard| self.origin(shard) == Origin::First)
    }

    /// Where one that may start comes from.
    #[must_use]
    pub fn origin(&self, shard: &ShardId) -> Origin {
        match self.start.get(shard) {
            Some(_) if self.orphans.contains(shard) => Origin::Orphan,
            Some(None) if self.fresh.contains(shard) => Origin::First,
            Some(_) => Origin::Continued,
            None => Origin::First,
        }
    }
}

/// The listed children of a stream shard.
#[must_use]
pub fn children(listing: &Listing, shard: &ShardId) -> BTreeSet<ShardId> {
    let of_shard = listing.shards.iter().filter(|child| child.parent.as_ref() == Some(shard) && child.id != *shard);
    of_shard.map(|child| child.id.clone()).collect()
}

struct Graph {
    /// Every listed or leased stream shard with its parent; a parent that is neither is left out.
    parents: BTreeMap<ShardId, Option<ShardId>>,
    children: BTreeMap<ShardId, BTreeSet<ShardId>>,
    /// Parents that are neither listed nor leased, by their children.
    unknown: BTreeMap<ShardId, ShardId>,
    listed: BTreeSet<ShardId>,
    progress: BTreeMap<ShardId, Progress>,
}

impl Graph {
    fn new(listing: &Listing, leases: &BTreeMap<ShardId, Lease>) -> Self {
        let listed: BTreeSet<ShardId> = listing.shards.iter().map(|shard| shard.id.clone()).collect();
        let mut parents: BTreeMap<ShardId, Option<ShardId>> =
            leases.iter().map(|(id, lease)| (id.clone(), lease.parents.first().cloned())).collect();
        parents.extend(listing.shards.iter().map(|shard| (shard.id.clone(), shard.parent.clone())));
        let known: BTreeSet<ShardId> = parents.keys().cloned().collect();
        let mut unknown = BTreeMap::new();
        for (shard, parent) in &mut parents {
            if let Some(lost) = parent.take_if(|parent| !known.contains(parent)) {
                unknown.insert(shard.clone(), lost);
            }
        }
        cut_cycles(&mut parents);
        let mut children: BTreeMap<ShardId, BTreeSet<ShardId>> = BTreeMap::new();
        for (shard, parent) in &parents {
            if let Some(parent) = parent {
                children.entry(parent.clone()).or_default().insert(shard.clone());
            }
        }
        let mut graph = Self { progress: progress(leases), parents, children, unknown, listed };
        graph.end_ancestors(leases);
        graph
    }

    fn ended(&self, shard: &ShardId) -> bool {
        self.progress.get(shard) == Some(&Progress::Ended)
    }

    /// A stream shard without a lease whose child was begun after it has been read: its lease was deleted when it had
    /// served. A child that was begun as a root does not tell: its parent may have been listed later.
    fn end_ancestors(&mut self, leases: &BTreeMap<ShardId, Lease>) {
        let begun: Vec<ShardId> =
            self.progress.iter().filter(|(_, p)| **p > Progress::Untouched).map(|(id, _)| id.clone()).collect();
        for shard in begun {
            let mut at = shard;
            while let Some(Some(parent)) = self.parents.get(&at) {
                let begun_as_root = leases.get(&at).is_some_and(|lease| !lease.parents.contains(parent));
                if begun_as_root || self.progress.contains_key(parent) {
                    break;
                }
                let parent = parent.clone();
                self.progress.insert(parent.clone(), Progress::Ended);
                at = parent;
            }
        }
    }

    /// The parent of a stream shard of which nothing was read, where it came and went while nobody looked.
    ///
    /// At a stream's very first start the oldest parents are not listed any more, and nobody misses them. What tells an
    /// interruption from that is a lease of a stream shard that is no longer listed, or one that names the parent.
    fn lost_parent(&self, shard: &ShardId, leases: &BTreeMap<ShardId, Lease>) -> Option<ShardId> {
        let parent = self.unknown.get(shard)?;
        let lost = match leases.get(shard) {
            Some(lease) => lease.checkpoint == Checkpoint::TrimHorizon && lease.parents.contains(parent),
            None => leases.keys().any(|leased| !self.listed.contains(leased)),
        };
        lost.then(|| parent.clone())
    }

    /// A lease has served when its records are gone, its children were begun, and its parent's lease is gone. The last
    /// of its line stays: it tells that the stream was read before.
    fn served(&self, shard: &ShardId, leases: &BTreeMap<ShardId, Lease>) -> bool {
        let begun = |child: &ShardId| self.progress.get(child).is_some_and(|p| *p > Progress::Untouched);
        let parent_gone = match self.parents.get(shard) {
            Some(Some(parent)) => !leases.contains_key(parent),
            Some(None) | None => true,
        };
        !self.listed.contains(shard) && parent_gone && self.children.get(shard).is_some_and(|c| c.iter().all(begun))
    }
}

fn progress(leases: &BTreeMap<ShardId, Lease>) -> BTreeMap<ShardId, Progress> {
    let of = |lease: &Lease| match lease.checkpoint {
        Checkpoint::TrimHorizon => Progress::Untouched,
        Checkpoint::Latest | Checkpoint::At(_) => Progress::Begun,
        Checkpoint::ShardEnd => Progress::Ended,
    };
    leases.iter().map(|(id, lease)| (id.clone(), of(lease))).collect()
}

/// A stream shard that would be its own ancestor could never start: it is made a root.
fn cut_cycles(parents: &mut BTreeMap<ShardId, Option<ShardId>>) {
    let mut clear: BTreeSet<ShardId> = BTreeSet::new();
    for shard in parents.keys().cloned().collect::<Vec<_>>() {
        let mut path = BTreeSet::new();
        let mut at = shard;
        while !clear.contains(&at) && path.insert(at.clone()) {
            match parents.get(&at) {
                Some(Some(parent)) if path.contains(parent) => {
                    parents.insert(at.clone(), None);
                }
                Some(Some(parent)) => at = parent.clone(),
                Some(None) | None => {}
            }
        }
        clear.extend(path);
    }
}

#[cfg(test)]
#[path = "lineage_tests.rs"]
mod tests;
