//! The graph of a stream's shards: what may be read now, what has to wait, which leases have served. Pure.
//!
//! A stream shard has at most one parent. Its records come after all of its parent's, so it starts once the parent was
//! read to its end. A listing is eventually consistent and shows only the last day: a parent that is neither listed
//! nor leased makes a root; one that is leased but not listed any more is still to be read, since that its records
//! are gone has to be found out and reported.

use std::collections::{BTreeMap, BTreeSet};

use crate::lease::{Checkpoint, Lease};
use crate::stream::{Listing, ShardId};

/// What follows from a listing and the leases of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// May be read now, each with its parent; those without a lease begin at TRIM_HORIZON.
    pub start: BTreeMap<ShardId, Option<ShardId>>,
    /// Have to wait, each for its parent.
    pub waiting: BTreeMap<ShardId, ShardId>,
    /// Read to their end, newest of their line, and without a listed child: a child may come up any moment.
    pub childless: BTreeSet<ShardId>,
    /// Leases that nothing needs any more.
    pub served: BTreeSet<ShardId>,
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
        match parent {
            Some(parent) if !graph.ended(parent) => {
                plan.waiting.insert(shard.clone(), parent.clone());
            }
            Some(_) | None => {
                plan.start.insert(shard.clone(), parent.clone());
            }
        }
    }
    plan
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
        for parent in parents.values_mut() {
            *parent = parent.take().filter(|parent| known.contains(parent));
        }
        cut_cycles(&mut parents);
        let mut children: BTreeMap<ShardId, BTreeSet<ShardId>> = BTreeMap::new();
        for (shard, parent) in &parents {
            if let Some(parent) = parent {
                children.entry(parent.clone()).or_default().insert(shard.clone());
            }
        }
        let mut graph = Self { progress: progress(leases), parents, children, listed };
        graph.end_ancestors();
        graph
    }

    fn ended(&self, shard: &ShardId) -> bool {
        self.progress.get(shard) == Some(&Progress::Ended)
    }

    /// A stream shard without a lease whose child was begun has been read: its lease was deleted when it had served.
    fn end_ancestors(&mut self) {
        let begun: Vec<ShardId> =
            self.progress.iter().filter(|(_, p)| **p > Progress::Untouched).map(|(id, _)| id.clone()).collect();
        for shard in begun {
            let mut at = shard;
            while let Some(Some(parent)) = self.parents.get(&at) {
                if self.progress.contains_key(parent) {
                    break;
                }
                let parent = parent.clone();
                self.progress.insert(parent.clone(), Progress::Ended);
                at = parent;
            }
        }
    }

    /// A lease has served when its records are gone, its children were begun, and its parent's lease is gone.
    fn served(&self, shard: &ShardId, leases: &BTreeMap<ShardId, Lease>) -> bool {
        let begun = |child: &ShardId| self.progress.get(child).is_some_and(|p| *p > Progress::Untouched);
        let parent_gone = match self.parents.get(shard) {
            Some(Some(parent)) => !leases.contains_key(parent),
            Some(None) | None => true,
        };
        !self.listed.contains(shard) && parent_gone && self.children.get(shard).is_none_or(|c| c.iter().all(begun))
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
