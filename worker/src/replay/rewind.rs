//! Which checkpoints are set back for a replay. Pure.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::lease::{Checkpoint, Lease};
use crate::stream::{Listing, ShardId};

/// One checkpoint to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    /// The stream shard.
    pub(crate) shard: ShardId,
    /// Its parent, as far as it is listed.
    pub(crate) parent: Option<ShardId>,
    /// Where it stood; `None` where it has no lease.
    pub(crate) was: Option<Checkpoint>,
    /// Where it is to stand.
    pub(crate) to: Checkpoint,
}

/// Plans the writes that make every stream shard begin again at its target, or where it stands if that is before.
///
/// What continues a stream shard that is set back is set back to its beginning: the parent's records come first again, and an
/// old image that a refresh stores meanwhile is followed by the newer one. A stream shard whose lease is gone because it
/// had served gets one again; one that was never begun starts at the beginning anyway.
#[must_use]
pub(crate) fn rewind(
    listing: &Listing,
    leases: &BTreeMap<ShardId, Lease>,
    targets: &BTreeMap<ShardId, Checkpoint>,
) -> Vec<Write> {
    let graph = Graph::new(listing, leases);
    let mut back: BTreeMap<ShardId, Checkpoint> = BTreeMap::new();
    for (shard, target) in targets {
        if graph.stands_after(shard, *target) {
            back.insert(shard.clone(), *target);
        }
    }
    for shard in back.keys().cloned().collect::<Vec<_>>() {
        for descendant in graph.descendants(&shard) {
            if graph.stands_after(&descendant, Checkpoint::TrimHorizon) {
                back.insert(descendant, Checkpoint::TrimHorizon);
            }
        }
    }
    let mut writes: Vec<Write> = back.iter().map(|(shard, to)| graph.write(shard, *to)).collect();
    // An untouched stream shard does not show that its parent was read: without a lease the parent would be read, too.
    for (shard, to) in &back {
        let parent = graph.parents.get(shard).and_then(Option::as_ref);
        let Some(parent) = parent.filter(|parent| !back.contains_key(*parent)) else { continue };
        let noted = writes.iter().any(|write| write.shard == *parent);
        if *to == Checkpoint::TrimHorizon && !noted && !leases.contains_key(parent) && graph.listed.contains(parent) {
            writes.push(graph.write(parent, Checkpoint::ShardEnd));
        }
    }
    writes
}

/// Orders checkpoints of one stream shard by how much they leave to be read.
fn order(a: Checkpoint, b: Checkpoint) -> Ordering {
    let rank = |checkpoint| match checkpoint {
        Checkpoint::TrimHorizon => 0,
        Checkpoint::At(_) => 1,
        // Nothing before what comes next was delivered, nor will be.
        Checkpoint::Latest => 2,
        Checkpoint::ShardEnd => 3,
    };
    match (a, b) {
        (Checkpoint::At(a), Checkpoint::At(b)) => a.cmp(&b),
        (a, b) => rank(a).cmp(&rank(b)),
    }
}

struct Graph<'a> {
    leases: &'a BTreeMap<ShardId, Lease>,
    listed: BTreeSet<ShardId>,
    parents: BTreeMap<ShardId, Option<ShardId>>,
    children: BTreeMap<ShardId, BTreeSet<ShardId>>,
}

impl<'a> Graph<'a> {
    fn new(listing: &Listing, leases: &'a BTreeMap<ShardId, Lease>) -> Self {
        let mut parents: BTreeMap<ShardId, Option<ShardId>> =
            leases.iter().map(|(id, lease)| (id.clone(), lease.parents.first().cloned())).collect();
        parents.extend(listing.shards.iter().map(|shard| (shard.id.clone(), shard.parent.clone())));
        let mut children: BTreeMap<ShardId, BTreeSet<ShardId>> = BTreeMap::new();
        for (shard, parent) in &parents {
            if let Some(parent) = parent {
                children.entry(parent.clone()).or_default().insert(shard.clone());
            }
        }
        let listed = listing.shards.iter().map(|shard| shard.id.clone()).collect();
        Self { leases, listed, parents, children }
    }

    /// Everything that continues a stream shard, in any generation.
    fn descendants(&self, shard: &ShardId) -> BTreeSet<ShardId> {
        let mut found = BTreeSet::new();
        let mut open = vec![shard.clone()];
        while let Some(next) = open.pop() {
            for child in self.children.get(&next).into_iter().flatten() {
                if child != shard && found.insert(child.clone()) {
                    open.push(child.clone());
                }
            }
        }
        found
    }

    /// Whether less would be read than from a position on.
    fn stands_after(&self, shard: &ShardId, position: Checkpoint) -> bool {
        match self.leases.get(shard) {
            Some(lease) => order(lease.checkpoint, position) == Ordering::Greater,
            // Read and forgotten, where something after it was begun; else it was never begun.
            None => self.listed.contains(shard) && self.descendants(shard).iter().any(|after| self.begun(after)),
        }
    }

    fn begun(&self, shard: &ShardId) -> bool {
        self.leases.get(shard).is_some_and(|lease| lease.checkpoint != Checkpoint::TrimHorizon)
    }

    fn write(&self, shard: &ShardId, to: Checkpoint) -> Write {
        let parent = self.parents.get(shard).cloned().flatten();
        Write { shard: shard.clone(), parent, was: self.leases.get(shard).map(|lease| lease.checkpoint), to }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::LeaseKey;
    use crate::lineage;
    use crate::stream::StreamShard;

    fn listing(text: &str) -> Listing {
        let shards = text.split_whitespace().map(|word| match word.split_once('<') {
            Some((id, parent)) => StreamShard { id: id.into(), parent: Some(parent.into()), starting: None },
            None => StreamShard { id: word.into(), parent: None, starting: None },
        });
        Listing { shards: shards.collect(), ..Listing::default() }
    }

    fn checkpoint(text: &str) -> Checkpoint {
        match text {
            "0" => Checkpoint::TrimHorizon,
            "latest" => Checkpoint::Latest,
            "end" => Checkpoint::ShardEnd,
            digits => Checkpoint::At(digits.parse().unwrap()),
        }
    }

    fn pairs(text: &str) -> BTreeMap<ShardId, Checkpoint> {
        let pair = |word: &str| {
            let (id, at) = word.split_once('=').unwrap();
            (ShardId::from(id), checkpoint(at))
        };
        text.split_whitespace().map(pair).collect()
    }

    fn leases(text: &str) -> BTreeMap<ShardId, Lease> {
        let lease = |(id, checkpoint): (ShardId, Checkpoint)| {
            let key = LeaseKey::parse(&format!("1:r$1$t$l:1:{id}")).unwrap();
            (id, Lease { checkpoint, ..Lease::new(key) })
        };
        pairs(text).into_iter().map(lease).collect()
    }

    /// Rewinds, and tells the writes and what may start afterwards.
    fn check(listed: &str, leased: &str, targets: &str) -> (String, String) {
        let (listing, mut leases) = (listing(listed), leases(leased));
        for lease in leases.values_mut() {
            let shard = listing.shards.iter().find(|shard| shard.id == lease.key.shard);
            lease.parents = shard.and_then(|shard| shard.parent.clone()).into_iter().collect();
        }
        let writes = rewind(&listing, &leases, &pairs(targets));
        for write in &writes {
            let key = LeaseKey::parse(&format!("1:r$1$t$l:1:{}", write.shard)).unwrap();
            let parents = write.parent.iter().cloned().collect();
            let lease = leases.entry(write.shard.clone()).or_insert_with(|| Lease { parents, ..Lease::new(key) });
            lease.checkpoint = write.to;
        }
        let words: Vec<String> = writes.iter().map(|write| format!("{}={}", write.shard, write.to)).collect();
        let start: Vec<String> = lineage::plan(&listing, &leases).start.keys().map(ToString::to_string).collect();
        (words.join(" "), start.join(" "))
    }

    #[test]
    fn a_checkpoint_is_only_ever_set_back() {
        assert_eq!(check("a", "a=9", "a=5"), ("a=5".into(), "a".into()));
        assert_eq!(check("a", "a=5", "a=9"), (String::new(), "a".into()));
        assert_eq!(check("a", "a=10", "a=9"), ("a=9".into(), "a".into()), "as numbers");
        assert_eq!(check("a", "a=latest", "a=9"), ("a=9".into(), "a".into()));
        assert_eq!(check("a", "", "a=9"), (String::new(), "a".into()), "it begins at the oldest record anyway");
    }

    #[test]
    fn what_continues_a_rewound_shard_begins_again_after_it() {
        let (writes, start) = check("a b<a c<b", "a=end b=end c=70", "a=5");
        assert_eq!(writes, "a=5 b=TRIM_HORIZON c=TRIM_HORIZON");
        assert_eq!(start, "a", "parents first");
        let (writes, start) = check("a b<a c<a", "a=end b=7 c=0", "a=5");
        assert_eq!((writes.as_str(), start.as_str()), ("a=5 b=TRIM_HORIZON", "a"));
    }

    #[test]
    fn a_shard_that_has_served_and_lost_its_lease_gets_one_again() {
        let (writes, start) = check("a b<a", "b=7", "a=5");
        assert_eq!((writes.as_str(), start.as_str()), ("a=5 b=TRIM_HORIZON", "a"));
    }

    #[test]
    fn ancestors_without_a_lease_are_not_read_again() {
        let (writes, start) = check("a b<a c<b", "c=7", "c=0");
        assert_eq!((writes.as_str(), start.as_str()), ("c=TRIM_HORIZON b=SHARD_END", "c"));
    }

    #[test]
    fn a_line_that_is_not_touched_goes_on() {
        let (writes, start) = check("a b", "a=5 b=7", "a=0");
        assert_eq!((writes.as_str(), start.as_str()), ("a=TRIM_HORIZON", "a b"));
    }

    #[test]
    fn a_shard_that_would_be_its_own_ancestor_ends_the_search() {
        let (writes, _) = check("a<b b<a", "a=5 b=7", "a=0");
        assert_eq!(writes, "a=TRIM_HORIZON b=TRIM_HORIZON");
    }
}
