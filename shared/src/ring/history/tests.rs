//! Memberships that follow one another.

use super::*;
use crate::ring::Placement;

const WINDOW: u64 = 1_000;

fn membership(epoch: u64, names: &[&str]) -> Membership {
    let shard = |name: &&str| ShardSpec { name: (*name).into(), address: format!("{name}:6379"), weight: 1 };
    let shards = names.iter().map(shard).collect();
    Membership { epoch, changed_at_ms: 0, placement: Placement::Ringtide, shards }
}

fn start(names: &[&str]) -> RingHistory {
    RingHistory::new(Ring::new(membership(1, names)).unwrap(), WINDOW)
}

fn changed(history: &RingHistory, epoch: u64, names: &[&str], now_ms: u64) -> Change {
    history.change(membership(epoch, names), now_ms).unwrap().unwrap()
}

fn names(list: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<String> {
    list.into_iter().map(|name| name.as_ref().to_owned()).collect()
}

/// A key that moves to `b` when `b` joins `a`.
fn moving_key() -> Vec<u8> {
    let ring = Ring::new(membership(1, &["a", "b"])).unwrap();
    let keys = (0..).map(|i| format!("key:{i}").into_bytes());
    keys.into_iter().find(|key| ring.owner(key).name.as_str() == "b").unwrap()
}

#[test]
fn owners_cover_the_window_and_no_more() {
    let key = moving_key();
    let two = changed(&start(&["a"]), 2, &["a", "b"], 100).history;
    let three = changed(&two, 3, &["a"], 600).history;
    // history, now, owners
    let table: [(&RingHistory, u64, &[&str]); 8] = [
        (&start(&["a"]), 0, &["a"]),
        (&two, 0, &["b", "a"]),
        (&two, 100, &["b", "a"]),
        (&two, 1_099, &["b", "a"]),
        (&two, 1_100, &["b"]),
        (&three, 600, &["a", "b"]),
        (&three, 1_599, &["a", "b"]),
        (&three, 1_600, &["a"]),
    ];
    for (row, (history, now, expected)) in table.into_iter().enumerate() {
        assert_eq!(names(history.owners(&key, now).iter()), expected, "row {row}");
    }
}

#[test]
fn agreeing_memberships_give_one_owner_and_no_list() {
    let history = changed(&start(&["a"]), 2, &["a", "b"], 0).history;
    let ring = history.current();
    let stays = (0..).map(|i| format!("key:{i}")).find(|key| ring.owner(key.as_bytes()).name.as_str() == "a");
    let owners = history.owners(stays.unwrap().as_bytes(), 1);
    assert_eq!(names(owners.iter()), ["a"]);
    assert_eq!(owners.others.capacity(), 0);
}

#[test]
fn shards_that_have_left_are_still_addressed() {
    let history = changed(&start(&["a", "b"]), 2, &["c", "a"], 0).history;
    assert_eq!(history.shard(&"b".into()).map(|shard| shard.address.as_str()), Some("b:6379"));
    assert_eq!(names(history.shards(999).iter().map(|shard| &shard.name)), ["a", "c", "b"]);
    assert_eq!(names(history.shards(1_000).iter().map(|shard| &shard.name)), ["a", "c"]);
}

#[test]
fn a_shard_that_has_moved_is_listed_at_each_of_its_addresses() {
    let at = |epoch, address: &str| {
        let mut moved = membership(epoch, &["a", "b"]);
        moved.shards[0].address = address.to_owned();
        moved
    };
    let mut history = start(&["a", "b"]);
    for (epoch, address) in [(2, "h:2"), (3, "a:6379"), (4, "h:4")] {
        history = history.change(at(epoch, address), 0).unwrap().unwrap().history;
    }
    let addresses =
        |now_ms| -> Vec<&str> { history.shards(now_ms).iter().map(|shard| shard.address.as_str()).collect() };
    assert_eq!(addresses(999), ["h:4", "b:6379", "a:6379", "h:2"]);
    assert_eq!(addresses(1_000), ["h:4", "b:6379"]);
}

#[test]
fn a_change_needs_a_higher_epoch() {
    let history = changed(&start(&["a"]), 5, &["a", "b"], 0).history;
    let refused = |new| history.change(new, 1).map(|_| ()).unwrap_err();
    assert_eq!(refused(membership(4, &["a"])), ChangeError::Older { current: 5, offered: 4 });
    assert_eq!(refused(membership(5, &["a"])), ChangeError::Ambiguous { epoch: 5 });
    let invalid = ChangeError::Invalid { epoch: 6, violations: vec![RingError::NoShard] };
    assert_eq!(refused(membership(6, &[])), invalid);
    assert!(history.change(membership(5, &["b", "a"]), 1).unwrap().is_none(), "order in the file does not matter");
    assert!(history.change(membership(6, &["a"]), 1).unwrap().is_some());
}

#[test]
fn shards_that_the_last_membership_lacked_must_be_flushed() {
    let a = start(&["a"]);
    let ab = changed(&a, 2, &["b", "a"], 0);
    assert_eq!(names(ab.rejoining), ["b"]);
    let ac = changed(&ab.history, 3, &["a", "c"], 1);
    assert_eq!(names(ac.rejoining), ["c"]);
    let back = changed(&ac.history, 4, &["d", "b", "a"], 2);
    assert_eq!(names(back.rejoining), ["b", "d"], "b was away in between");
    assert_eq!(names(changed(&back.history, 5, &["a"], 3).rejoining), [""; 0]);
}

#[test]
fn a_new_address_is_no_rejoining() {
    let history = start(&["a", "b"]);
    let mut new = membership(2, &["a", "b", "c"]);
    new.shards[1].address = "elsewhere:1".to_owned();
    assert_eq!(names(history.rejoining(&new)), ["c"]);
    assert_eq!(names(history.readdressed(&new)), ["b"]);
}

#[test]
fn memberships_outside_the_window_are_forgotten() {
    let mut history = start(&["a"]);
    for (epoch, now) in [(2, 0), (3, 400), (4, 999), (5, 1_400)] {
        history = changed(&history, epoch, &["a"], now).history;
    }
    let epochs: Vec<u64> = history.memberships().map(|membership| membership.epoch).collect();
    assert_eq!(epochs, [3, 4, 5]);
}

#[test]
fn a_change_dated_ahead_extends_the_window() {
    let new = Membership { changed_at_ms: 500, ..membership(2, &["a", "b"]) };
    let history = start(&["a"]).change(new, 0).unwrap().unwrap().history;
    assert_eq!(names(history.owners(&moving_key(), 1_499).iter()), ["b", "a"]);
    assert_eq!(names(history.owners(&moving_key(), 1_500).iter()), ["b"]);
}

#[test]
fn a_history_is_restored_from_its_memberships() {
    let at = |changed_at_ms, membership| Membership { changed_at_ms, ..membership };
    let all = [at(0, membership(1, &["z"])), at(100, membership(2, &["a"])), at(600, membership(4, &["a", "b"]))];
    let restored = RingHistory::restore(all.clone(), WINDOW, 1_100).unwrap();
    let epochs: Vec<u64> = restored.memberships().map(|membership| membership.epoch).collect();
    assert_eq!(epochs, [2, 4], "the first was replaced 1,000 ms ago");
    assert_eq!(names(restored.owners(&moving_key(), 1_599).iter()), ["b", "a"]);
    assert_eq!(names(restored.owners(&moving_key(), 1_600).iter()), ["b"]);

    let [one, two, _] = all;
    let unordered = RingHistory::restore([two, one], WINDOW, 0).unwrap_err();
    assert_eq!(unordered, ChangeError::Unordered { before: 2, after: 1 });
    assert!(matches!(RingHistory::restore([], WINDOW, 0), Err(ChangeError::Invalid { .. })));
}
