//! What stands behind the names of a ring: its members, and those that have left and may still hold entries.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Ring, RingHistory, ShardName, ShardSpec};

/// A ring's members, in its order, and those of the rings before it; replaced as a whole when the membership changes.
///
/// `M` is whatever stands for a ring shard: a reader's handle, an invalidator's queue.
#[derive(Clone, Debug)]
pub struct Roster<M> {
    history: RingHistory,
    members: Box<[M]>,
    former: Vec<Former<M>>,
}

/// A ring shard that has left, or was reached at another address; still told of invalidations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Former<M> {
    /// Its name.
    pub name: ShardName,
    /// Where it is reached.
    pub address: String,
    /// What stands for it.
    pub member: M,
    /// When no entry that it holds can be served any more, in unix ms.
    pub until_ms: u64,
}

impl<M: Clone> Roster<M> {
    /// The members of the history's current ring, in its order, and those that earlier memberships leave behind.
    #[must_use]
    pub fn new(history: RingHistory, members: Box<[M]>, former: Vec<Former<M>>) -> Self {
        Self { history, members, former }
    }

    /// What a process begins with at `now_ms` (unix ms); `all` stand for the history's shards then
    /// ([`RingHistory::shards`]), in their order.
    #[must_use]
    pub fn beginning(history: RingHistory, mut all: Vec<M>, now_ms: u64) -> Self {
        let former = all.split_off(history.current().shards().len().min(all.len()));
        let until_ms = now_ms.saturating_add(history.kept_ms(now_ms));
        let left = history.shards(now_ms).into_iter().skip(all.len());
        let former = left
            .zip(former)
            .map(|(spec, member)| Former { name: spec.name.clone(), address: spec.address.clone(), member, until_ms })
            .collect();
        Self { history, members: all.into(), former }
    }

    /// The memberships.
    #[must_use]
    pub fn history(&self) -> &RingHistory {
        &self.history
    }

    /// The ring that keys are placed by.
    #[must_use]
    pub fn ring(&self) -> &Arc<Ring> {
        self.history.current()
    }

    /// The ring's members, in its order.
    #[must_use]
    pub fn members(&self) -> &[M] {
        &self.members
    }

    /// The member that owns a key.
    #[inline]
    #[must_use]
    pub fn owner(&self, key: &[u8]) -> &M {
        // In range, for there is a member for each shard of the ring.
        &self.members[self.ring().locate(key).index()]
    }

    /// The member of a name.
    #[must_use]
    pub fn member(&self, name: &ShardName) -> Option<&M> {
        self.ring().find(name).and_then(|index| self.members.get(index.index()))
    }

    /// The member that a specification describes, where it can go on as it is: same name, same address.
    #[must_use]
    pub fn unmoved(&self, spec: &ShardSpec) -> Option<&M> {
        let index = self.ring().find(&spec.name)?;
        let unmoved = self.ring().shard(index).is_some_and(|known| known.address == spec.address);
        if unmoved { self.members.get(index.index()) } else { None }
    }

    /// Those that have left, whether their time is over or not.
    #[must_use]
    pub fn former(&self) -> &[Former<M>] {
        &self.former
    }

    /// The one of those that have left that a specification describes: same name, same address.
    #[must_use]
    pub fn returning(&self, spec: &ShardSpec) -> Option<&M> {
        let same = |former: &&Former<M>| former.name == spec.name && former.address == spec.address;
        self.former.iter().find(same).map(|former| &former.member)
    }

    /// The roster after this one; `members` are those of the history's current ring, in its order. Ring shards that leave
    /// are kept for as long as what they hold may be served.
    #[must_use]
    pub fn succeeded_by(&self, history: RingHistory, members: Box<[M]>, now_ms: u64) -> Self {
        let until_ms = now_ms.saturating_add(history.kept_ms(now_ms));
        let leaving = self.ring().shards().iter().zip(&self.members).map(|(spec, member)| Former {
            name: spec.name.clone(),
            address: spec.address.clone(),
            member: member.clone(),
            until_ms,
        });
        let ring = Arc::clone(history.current());
        let is_member = |former: &Former<M>| {
            let spec = ring.find(&former.name).and_then(|index| ring.shard(index));
            spec.is_some_and(|spec| spec.address == former.address)
        };
        let all = leaving.chain(self.former.iter().cloned());
        let former = all.filter(|former| now_ms < former.until_ms && !is_member(former)).collect();
        Self { history, members, former }
    }

    /// This roster without those from which nothing is served any more at `now_ms`, and these; `None` where there are
    /// none.
    #[must_use]
    pub fn pruned(&self, now_ms: u64) -> Option<(Self, Vec<Former<M>>)> {
        let (kept, gone): (Vec<_>, Vec<_>) = self.former.iter().cloned().partition(|former| now_ms < former.until_ms);
        (!gone.is_empty()).then(|| (Self { former: kept, ..self.clone() }, gone))
    }

    /// Parts all that stand for something in those that their names stand for now, or stood for last, and others of these names.
    #[must_use]
    pub fn parted(&self) -> (Vec<&M>, Vec<&M>) {
        let members = self.ring().shards().iter().map(|spec| &spec.name).zip(&self.members);
        let former = self.former.iter().map(|former| (&former.name, &former.member));
        let mut known = BTreeSet::new();
        let (users, others): (Vec<_>, Vec<_>) = members.chain(former).partition(|(name, _)| known.insert(*name));
        let all = |parted: Vec<(_, _)>| parted.into_iter().map(|(_, member)| member).collect();
        (all(users), all(others))
    }

    /// Whether a name stands for anything at an address.
    #[must_use]
    pub fn knows(&self, name: &ShardName, address: &str) -> bool {
        let members = self.ring().shards().iter().map(|spec| (&spec.name, &spec.address));
        let former = self.former.iter().map(|former| (&former.name, &former.address));
        members.chain(former).any(|(known, at)| known == name && at == address)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Membership;
    use super::*;

    const WINDOW: u64 = 1_000;

    fn membership(epoch: u64, shards: &[(&str, &str)]) -> Membership {
        let shard = |(name, address): &(&str, &str)| ShardSpec {
            name: (*name).into(),
            address: (*address).to_owned(),
            weight: 1,
        };
        let shards = shards.iter().map(shard).collect();
        Membership { epoch, changed_at_ms: 0, placement: Default::default(), shards }
    }

    fn roster(shards: &[(&str, &str)]) -> Roster<String> {
        let ring = Ring::new(membership(1, shards)).unwrap();
        let members = ring.shards().iter().map(|spec| spec.address.clone()).collect();
        Roster::new(RingHistory::new(ring, WINDOW), members, Vec::new())
    }

    fn changed(roster: &Roster<String>, epoch: u64, shards: &[(&str, &str)], now_ms: u64) -> Roster<String> {
        let history = roster.history().change(membership(epoch, shards), now_ms).unwrap().unwrap().history;
        let members = history.current().shards().iter().map(|spec| spec.address.clone()).collect();
        roster.succeeded_by(history, members, now_ms)
    }

    fn former(roster: &Roster<String>) -> Vec<(&str, u64)> {
        roster.former().iter().map(|former| (former.member.as_str(), former.until_ms)).collect()
    }

    #[test]
    fn who_leaves_or_moves_is_kept_for_the_window_and_who_returns_is_a_member() {
        let one = roster(&[("a", "h:1"), ("b", "h:2")]);
        let two = changed(&one, 2, &[("a", "h:9")], 100);
        assert_eq!(former(&two), [("h:1", 1_100), ("h:2", 1_100)]);
        let (users, others) = two.parted();
        assert_eq!((users[0].as_str(), users[1].as_str(), others[0].as_str()), ("h:9", "h:2", "h:1"));
        let spec = |name: &str, address: &str| membership(1, &[(name, address)]).shards.remove(0);
        assert_eq!(two.unmoved(&spec("a", "h:9")).unwrap(), "h:9");
        assert_eq!(two.unmoved(&spec("a", "h:1")), None);
        assert_eq!(two.returning(&spec("b", "h:2")).unwrap(), "h:2");
        let three = changed(&two, 3, &[("a", "h:9"), ("b", "h:2")], 500);
        assert_eq!(former(&three), [("h:1", 1_100)]);
        let (pruned, gone) = three.pruned(1_100).unwrap();
        assert_eq!((former(&pruned).len(), gone[0].member.as_str()), (0, "h:1"));
        assert!(three.pruned(1_099).is_none());
        assert!(!pruned.knows(&"z".into(), "h:2") && pruned.knows(&"b".into(), "h:2"));
        assert!(
            three.knows(&"a".into(), "h:1") && !pruned.knows(&"a".into(), "h:1") && pruned.knows(&"a".into(), "h:9")
        );
    }

    #[test]
    fn who_begins_within_the_window_keeps_what_has_moved_at_its_former_address() {
        let memberships = [membership(1, &[("a", "h:1"), ("b", "h:2")]), membership(2, &[("a", "h:9"), ("b", "h:2")])];
        let history = RingHistory::restore(memberships, WINDOW, 100).unwrap();
        let all = history.shards(100).into_iter().map(|spec| spec.address.clone()).collect();
        let begun = Roster::beginning(history, all, 100);
        assert_eq!(begun.members(), ["h:9", "h:2"]);
        assert_eq!(
            begun.former().iter().map(|former| (&*former.address, &*former.member)).collect::<Vec<_>>(),
            [("h:1", "h:1")]
        );
    }

    #[test]
    fn a_membership_that_comes_into_force_later_keeps_its_forerunner_longer() {
        let one = roster(&[("a", "h:1")]);
        let later = Membership { changed_at_ms: 5_000, ..membership(2, &[("b", "h:2")]) };
        let history = one.history().change(later, 100).unwrap().unwrap().history;
        assert_eq!(former(&one.succeeded_by(history, ["h:2".to_owned()].into(), 100)), [("h:1", 6_000)]);
    }
}
