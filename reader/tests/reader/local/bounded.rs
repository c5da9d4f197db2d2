//! The bounded tier: as old as it may be, and not older; and how much is kept.

use std::time::{Duration, Instant};

use ringtide::{LocalTier, ReadOptions, config};

use super::super::support::{Server, builder, until};
use super::{MINUTE, Tier, key, patient, run};

#[tokio::test]
async fn a_bounded_value_is_at_most_as_old_as_its_bound() {
    const BOUND: Duration = Duration::from_millis(300);
    let server = Server::start().await;
    let mut tier = Tier::new(&server, LocalTier::Bounded(BOUND)).await;
    let mut longest = Duration::ZERO;
    for value in (0..20).step_by(2) {
        tier.put(1, value).await;
        until("the value", async || tier.read(1).await == value).await;
        // It was read after the last one had passed its bound, at some time before this.
        let read = Instant::now();
        tier.put(1, value + 1).await;
        until("the next value", async || {
            let asked = read.elapsed();
            let old = tier.read(1).await == value;
            if old {
                assert!(asked <= BOUND, "served {asked:?} later");
                longest = longest.max(asked);
            }
            !old
        })
        .await;
    }
    assert!(longest >= BOUND / 2, "served {longest:?} later at most");
    assert!(tier.hits() > 0);
}

#[tokio::test]
async fn a_bounded_value_does_not_outlive_its_entry() {
    let server = Server::start().await;
    let mut tier = Tier::new(&server, LocalTier::Bounded(MINUTE)).await;
    let fresh = Duration::from_millis(500);
    tier.put_for(1, 1, fresh).await;
    // The entry's time began a little earlier.
    let put = Instant::now();
    assert_eq!(tier.read(1).await, 1);
    tier.put(1, 2).await;
    until("the next value", async || {
        let asked = put.elapsed();
        let old = tier.read(1).await == 1;
        assert!(!old || asked <= fresh, "served {asked:?} later");
        !old
    })
    .await;
    assert!(put.elapsed() >= fresh / 2, "kept for {:?} only", put.elapsed());
}

#[tokio::test]
async fn after_a_read_of_what_is_fresh_the_older_copy_does_not_come_back() {
    let server = Server::start().await;
    for tier in [LocalTier::Bounded(MINUTE), LocalTier::Tracked(MINUTE)] {
        let mut tier = Tier::new(&server, tier).await;
        tier.put(1, 1).await;
        assert_eq!(tier.read(1).await, 1);
        assert_eq!(tier.read_locally(1).await, 1);
        let fresh = tier.space.with(ReadOptions::new().fresh());
        assert_eq!(fresh.get_or_load(1, || async { Ok::<_, std::io::Error>(Some(2)) }).await.unwrap(), Some(2));
        tier.cache.settled().await;
        assert_eq!(tier.read(1).await, 2);
        let load = |keys: Vec<u64>| async move {
            Ok::<_, std::io::Error>(keys.into_iter().map(|key| (key, 3)).collect::<std::collections::HashMap<_, _>>())
        };
        assert_eq!(fresh.get_many([1], load).await.into_values().unwrap(), [Some(3)]);
        tier.cache.settled().await;
        assert_eq!(tier.read(1).await, 3);
    }
}

#[tokio::test]
async fn an_own_invalidation_drops_the_copy_and_refuses_that_of_a_read_under_way() {
    let server = Server::start().await;
    let mut tier = Tier::new(&server, LocalTier::Bounded(MINUTE)).await;
    for round in (0..200).step_by(2) {
        tier.put(1, round).await;
        let _ = tier.space.invalidate(2).await.unwrap();
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let space = tier.space.clone();
                tokio::spawn(async move { space.get_or_load(1, || async { Ok::<_, std::io::Error>(None) }).await })
            })
            .collect();
        tokio::task::yield_now().await;
        let done = tier.space.invalidate(1).await.unwrap();
        assert!(done.is_done());
        assert_eq!(tier.read_or(1, Some(round + 1)).await, Some(round + 1));
        for reader in readers {
            reader.await.unwrap().unwrap();
        }
        assert_eq!(tier.read_or(1, Some(round + 1)).await, Some(round + 1));
        tier.cache.settled().await;
        let _ = tier.space.invalidate(1).await.unwrap();
    }
}

#[tokio::test]
async fn no_more_is_kept_than_the_capacity_holds() {
    const CAPACITY: u64 = 256 * 1024;
    let server = Server::start().await;
    let reader = config::Reader { local_capacity: CAPACITY, ..config::Reader::default() };
    let tier = LocalTier::Bounded(MINUTE);
    let mut tier = Tier::built(&server, tier, patient(builder(&server)).reader(reader)).await;
    const ITEMS: u64 = 2000;
    for item in 0..ITEMS {
        tier.put(item, item).await;
        assert_eq!(tier.read(item).await, item);
    }
    let before = tier.hits();
    for item in (0..ITEMS).rev() {
        assert_eq!(tier.read(item).await, item);
    }
    // An entry here takes 84 bytes, its name 7 and its copy some 300.
    let kept = tier.hits() - before;
    assert!(kept > CAPACITY / 1024 && kept < CAPACITY / 128, "{kept} copies");
}

#[tokio::test]
async fn nothing_is_kept_without_a_tier_or_a_capacity() {
    let server = Server::start().await;
    let none = config::Reader { local_capacity: 0, ..config::Reader::default() };
    for (tier, reader) in [
        (LocalTier::Off, config::Reader::default()),
        (LocalTier::Fallback(MINUTE), config::Reader::default()),
        (LocalTier::Bounded(MINUTE), none.clone()),
        (LocalTier::Tracked(MINUTE), none),
    ] {
        let mut tier = Tier::built(&server, tier, patient(builder(&server)).reader(reader)).await;
        for value in 0..20 {
            tier.put(1, value).await;
            assert_eq!(tier.read(1).await, value);
        }
        assert_eq!(tier.hits(), 0);
        run(&mut tier.writer, &["UNLINK", &key(1)]).await;
    }
}
