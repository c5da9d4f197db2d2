use super::*;
use crate::lease::LeaseKey;
use crate::stream::{StreamShard, StreamStatus};

/// Reads `a b<a c<b`: ids, each with its parent.
fn listing(text: &str) -> Listing {
    let shards = text.split_whitespace().map(|word| match word.split_once('<') {
        Some((id, parent)) => StreamShard { id: id.into(), parent: Some(parent.into()), starting: None },
        None => StreamShard { id: word.into(), parent: None, starting: None },
    });
    Listing { shards: shards.collect(), status: StreamStatus::Enabled }
}

/// Reads `a=end b<a=5 c=0`: ids, parents and checkpoints, where 0 stands for TRIM_HORIZON.
fn leases(text: &str) -> BTreeMap<ShardId, Lease> {
    let lease = |word: &str| {
        let (name, checkpoint) = word.split_once('=').unwrap();
        let (id, parent) = name.split_once('<').map_or((name, None), |(id, parent)| (id, Some(parent)));
        let checkpoint = match checkpoint {
            "0" => Checkpoint::TrimHorizon,
            "end" => Checkpoint::ShardEnd,
            digits => Checkpoint::At(digits.parse().unwrap()),
        };
        let key = LeaseKey::parse(&format!("1:r$1$t$l:1:{id}")).unwrap();
        let lease = Lease { checkpoint, parents: parent.map(ShardId::from).into_iter().collect(), ..Lease::new(key) };
        (ShardId::from(id), lease)
    };
    text.split_whitespace().map(lease).collect()
}

fn ids<'a>(ids: impl IntoIterator<Item = &'a ShardId>) -> String {
    ids.into_iter().map(ShardId::as_str).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn check(listed: &str, leased: &str, start: &str, waiting: &str) -> Plan {
    let plan = plan(&listing(listed), &leases(leased));
    assert_eq!(ids(plan.start.keys()), start, "start, of {listed:?} with {leased:?}");
    assert_eq!(ids(plan.waiting.keys()), waiting, "waiting, of {listed:?} with {leased:?}");
    plan
}

#[test]
fn roots_start_and_children_wait_for_their_parents() {
    check("", "", "", "");
    check("a b c", "", "a b c", "");
    check("a b<a c<b", "", "a", "b c");
    check("a b<a c<a", "a=5", "a", "b c");
    check("a b<a c<a", "a=end", "b c", "");
    check("a b<a c<b d", "a=end b<a=7 d=0", "b d", "c");
}

#[test]
fn a_parent_that_is_no_longer_listed_makes_a_root() {
    check("b<a c<b", "", "b", "c");
    check("b<a c<b", "b<a=end", "c", "");
}

#[test]
fn an_open_parent_with_children_still_comes_first() {
    check("a b<a", "a=5", "a", "b");
}

#[test]
fn a_leased_shard_that_is_no_longer_listed_is_still_read() {
    check("b<a", "a=5", "a", "b");
    check("", "a=5", "a", "");
}

#[test]
fn a_parent_whose_lease_was_deleted_after_it_had_served_is_not_read_again() {
    check("a b<a c<b", "c<b=7", "c", "");
    check("a b<a", "b<a=0", "a", "b");
}

#[test]
fn a_shard_that_would_be_its_own_ancestor_becomes_a_root() {
    check("a<a", "", "a", "");
    let plan = check("a<b b<a c<b", "", "b", "a c");
    assert_eq!(plan.waiting.len(), 2);
}

#[test]
fn one_inconsistent_part_does_not_hold_the_others() {
    check("a<a b c<x d<b", "", "a b c", "d");
}

#[test]
fn an_ended_leaf_is_watched_for_its_child() {
    let of = |listed, leased| ids(&plan(&listing(listed), &leases(leased)).childless);
    assert_eq!(of("a b<a", "a=end b<a=end"), "b");
    assert_eq!(of("a b<a", "a=end b<a=4"), "");
    assert_eq!(of("", "a=end"), "", "its records and its children are no longer listed");
}

#[test]
fn a_lease_has_served_when_its_children_were_begun_and_it_is_not_listed() {
    let of = |listed, leased| ids(&plan(&listing(listed), &leases(leased)).served);
    assert_eq!(of("b<a", "a=end b<a=4"), "a");
    assert_eq!(of("b<a", "a=end b<a=0"), "", "the child was not begun");
    assert_eq!(of("a b<a", "a=end b<a=4"), "", "it is listed, and would look untouched");
    assert_eq!(of("c<b", "a=end b<a=end c<b=4"), "a", "the oldest first");
    assert_eq!(of("", "a=5"), "");
}

#[track_caller]
fn orphans(listed: &str, leased: &str) -> String {
    let plan = plan(&listing(listed), &leases(leased));
    assert!(plan.orphans.iter().all(|orphan| plan.origin(orphan) == Origin::Orphan && plan.start[orphan].is_some()));
    ids(&plan.orphans)
}

#[test]
fn a_parent_that_came_and_went_unread_makes_an_orphan() {
    assert_eq!(orphans("c<b", "a=end"), "c", "a was read, b never");
    assert_eq!(orphans("d<c e<d", "a=7"), "d");
    assert_eq!(orphans("c<b", "c<b=0"), "c", "it was noticed before a crash");
    assert_eq!(orphans("c<b", "c<b=5"), "", "its gap was seen to");
}

#[test]
fn the_oldest_of_a_first_start_are_no_orphans() {
    assert_eq!(orphans("b<a d<c", ""), "");
    assert_eq!(orphans("b<a d<c", "b=0"), "", "another worker is creating the leases");
    assert_eq!(orphans("b<a c<b", "b=end"), "");
    let plan = check("b<a c<b", "b=end", "c", "");
    assert_eq!(plan.origin(&"c".into()), Origin::Continued);
    assert_eq!(check("b<a", "", "b", "").origin(&"b".into()), Origin::First);
}

#[test]
fn the_last_lease_of_a_line_stays() {
    let plan = check("", "a=end", "", "");
    assert!(plan.served.is_empty(), "it tells an interruption from a first start");
}

#[test]
fn a_parent_that_is_listed_after_its_child_was_begun_is_still_read() {
    check("b<a", "b=5", "b", "");
    check("a b<a", "b=5", "a", "b");
}

#[test]
fn a_root_that_was_begun_before_goes_on() {
    let mut leases = leases("b=0");
    leases.get_mut(&ShardId::from("b")).unwrap().counter = 1;
    let plan = plan(&listing("b<a"), &leases);
    assert_eq!(plan.origin(&"b".into()), Origin::Continued);
}

#[test]
fn nothing_is_deleted_while_a_parent_is_unknown() {
    let of = |listed, leased| ids(&plan(&listing(listed), &leases(leased)).served);
    assert_eq!(of("b<a", "a=end b<a=4"), "a");
    assert_eq!(of("b<a d<c", "a=end b<a=4"), "", "the lease of a tells that d is no first root");
}
