//! What must hold of the default placement for any membership.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn ring(shards: &[(String, u32)]) -> Ring {
    Ring::new(membership(shards)).unwrap()
}

fn membership(shards: &[(String, u32)]) -> Membership {
    let shards = shards.iter().enumerate();
    let shards = shards.map(|(i, (name, weight))| ShardSpec {
        name: name.as_str().into(),
        address: format!("host-{i}:6379"),
        weight: *weight,
    });
    let shards = shards.collect();
    Membership { epoch: 1, changed_at_ms: 0, placement: Placement::Ringtide, shards }
}

/// Owner of every slot, by name.
fn slots(ring: &Ring) -> Vec<&str> {
    ring.table.slots().iter().map(|index| ring.shard(*index).unwrap().name.as_str()).collect()
}

fn members(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<(String, u32)>> {
    let weight = prop_oneof![3 => Just(1_u32), 1 => 1..=1000_u32];
    prop::collection::btree_map("[a-z]{1,8}", weight, count).prop_map(|map| map.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_new_shard_takes_slots_and_no_other_slot_moves(mut shards in members(1..12), weight in 1..=1000_u32) {
        let before = ring(&shards);
        shards.push(("NEW".to_owned(), weight));
        let after = ring(&shards);
        for (old, new) in slots(&before).into_iter().zip(slots(&after)) {
            prop_assert!(new == old || new == "NEW");
        }
    }

    #[test]
    fn a_leaving_shard_gives_its_slots_and_no_other_slot_moves(mut shards in members(2..12), pick: prop::sample::Index) {
        let before = ring(&shards);
        let (gone, _) = shards.remove(pick.index(shards.len()));
        let after = ring(&shards);
        for (old, new) in slots(&before).into_iter().zip(slots(&after)) {
            prop_assert!(new == old || old == gone);
        }
    }

    #[test]
    fn a_new_weight_moves_slots_only_to_or_from_its_shard(
        mut shards in members(2..12), pick: prop::sample::Index, weight in 1..=1000_u32,
    ) {
        let before = ring(&shards);
        let at = pick.index(shards.len());
        let old_weight = std::mem::replace(&mut shards[at].1, weight);
        let after = ring(&shards);
        for (old, new) in slots(&before).into_iter().zip(slots(&after)) {
            let shard = if weight > old_weight { new } else { old };
            prop_assert!(new == old || shard == shards[at].0);
        }
    }

    #[test]
    fn addresses_and_the_order_in_a_file_move_nothing(mut shards in members(2..12)) {
        let before = ring(&shards);
        shards.reverse();
        let after = ring(&shards);
        prop_assert_ne!(&before.shards()[0].address, &after.shards()[0].address);
        prop_assert_eq!(slots(&before), slots(&after));
    }

    #[test]
    fn a_key_and_its_lock_share_slot_and_shard(key in "[^{}]{0,20}", tag in "[^{}]{1,20}", tail in "[^{}]{0,20}") {
        let ring = ring(&[("a".to_owned(), 1), ("b".to_owned(), 1), ("c".to_owned(), 1)]);
        if !key.is_empty() {
            let lock = format!("lock:{{{key}}}");
            prop_assert_eq!(ring.slot(key.as_bytes()), ring.slot(lock.as_bytes()));
            prop_assert_eq!(ring.locate(key.as_bytes()), ring.locate(lock.as_bytes()));
        }
        let tagged = format!("{key}{{{tag}}}{tail}");
        prop_assert_eq!(ring.slot(tagged.as_bytes()), ring.slot(format!("lock:{tagged}").as_bytes()));
        prop_assert_eq!(ring.slot(tagged.as_bytes()), ring.slot(tag.as_bytes()));
    }

    #[test]
    fn every_placement_finds_a_shard_of_its_ring(key: Vec<u8>, count in 1..150_usize) {
        let shards: Vec<_> = (0..count).map(|i| (format!("s{i}"), 1)).collect();
        let membership = membership(&shards);
        for placement in [Placement::Skipper, Placement::GoRedis] {
            let ring = Ring::new(Membership { placement, ..membership.clone() }).unwrap();
            prop_assert!(ring.locate(&key).index() < count);
        }
    }
}

#[test]
fn shares_follow_the_weights() {
    let equal: Vec<u32> = vec![1; 50];
    for weights in [vec![1, 1, 1], vec![1, 2, 3, 4], vec![1000, 500, 100, 400], equal] {
        let shards: Vec<_> = weights.iter().enumerate().map(|(i, w)| (format!("shard-{i:02}"), *w)).collect();
        let ring = ring(&shards);
        let total: u32 = weights.iter().sum();
        for (name, weight) in &shards {
            let share = f64::from(*weight) / f64::from(total);
            let expected = f64::from(SLOTS) * share;
            let owned = slots(&ring).into_iter().filter(|owner| owner == name).count() as f64;
            // Four standard deviations of a binomial draw.
            let tolerance = 4.0 * (expected * (1.0 - share)).sqrt();
            assert!((owned - expected).abs() < tolerance, "{name}: {owned} slots, {expected} expected");
        }
    }
}

#[test]
fn a_new_shard_takes_its_share_from_all() {
    let mut shards: Vec<_> = (0..9).map(|i| (format!("shard-{i}"), 1)).collect();
    let before = ring(&shards);
    shards.push(("shard-9".to_owned(), 1));
    let after = ring(&shards);
    let moved = slots(&before).into_iter().zip(slots(&after)).filter(|(old, new)| old != new);
    let losers: Vec<&str> = moved.map(|(old, _)| old).collect();
    assert!((1_400..1_900).contains(&losers.len()), "{} of {SLOTS} slots moved", losers.len());
    assert_eq!(losers.into_iter().collect::<HashSet<_>>().len(), 9);
}

#[test]
fn indices_and_names_lead_to_the_same_shards() {
    let ring = ring(&[("b".to_owned(), 1), ("a".to_owned(), 1), ("c".to_owned(), 1)]);
    let found: Vec<_> = ring.iter().map(|(index, shard)| (index.index(), shard.name.as_str())).collect();
    assert_eq!(found, [(0, "a"), (1, "b"), (2, "c")]);
    for (index, shard) in ring.iter() {
        assert_eq!(ring.find(&shard.name), Some(index));
        assert_eq!(ring.shard(index), Some(shard));
    }
    assert_eq!(ring.find(&"d".into()), None);
}
