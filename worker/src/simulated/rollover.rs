//! How long a stream shard's child is visible before it is read.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::cloud::{FilterRule, Rules};
use super::flaw::Flaw;
use super::fleet::Fleet;
use super::world::World;

const MS: Duration = Duration::from_millis(1);

/// A child may be visible for so long, and its parent be read to its end, before its first read.
const BLIND: Duration = Duration::from_millis(300);

/// Rolls a stream shard over, and tells how long its child is unread although it could be read.
async fn blind_time(seed: u64, filter: FilterRule, visible: Duration, others: usize) -> Duration {
    let rules = Rules {
        listing_page: 100,
        read_page: 1000,
        iterator_life: Duration::from_secs(900),
        filter,
        long_numbers: true,
        empty_pages: 0,
        duplicates: 0,
    };
    let mut world = World::new(rules, 1, 0, seed);
    world.cloud.enable_stream(1 + others, Duration::ZERO);
    let world = Arc::new(Mutex::new(world));
    let mut fleet = Fleet::new(Arc::clone(&world), &[Duration::from_secs(6)], seed, Flaw::None);
    fleet.start(0);
    tokio::time::sleep(Duration::from_secs(3) + MS * u32::try_from(seed % 997).unwrap()).await;
    let parents = world.lock().unwrap().cloud.open_shards();
    for parent in &parents {
        let mut world = world.lock().unwrap();
        world.cloud.write(parent);
        world.cloud.split(parent, 1, visible, Duration::from_secs(2));
    }
    tokio::time::sleep(visible + Duration::from_secs(10)).await;
    let world = world.lock().unwrap();
    assert_eq!(world.ledger.violation, None);
    let shards = &world.cloud.streams[0].shards;
    let blind = |parent| {
        let child = shards.values().find(|shard| shard.parent.as_ref() == Some(parent)).unwrap();
        let could_be: Instant = child.visible_at.max(shards[parent].read_to_its_end.expect("the parent is read"));
        child.first_read.expect("the child is read").saturating_duration_since(could_be)
    };
    parents.iter().map(blind).max().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_child_is_read_soon_after_it_can_be() {
    for filter in [FilterRule::Supported, FilterRule::Refused, FilterRule::Ignored] {
        let mut worst = Duration::ZERO;
        for seed in 0..20 {
            for visible in [0, 350, 2_000, 9_000] {
                worst = worst.max(blind_time(seed, filter, visible * MS, 0).await);
            }
        }
        println!("{filter:?}: blind for at most {worst:?}");
        assert!(worst <= BLIND, "{filter:?}: {worst:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_lags_behind_listings_delays_a_child_by_a_look_or_two() {
    let mut worst = Duration::ZERO;
    for seed in 0..20 {
        worst = worst.max(blind_time(seed, FilterRule::Lagging, 500 * MS, 0).await);
    }
    println!("blind for at most {worst:?}");
    assert!(worst <= BLIND + 300 * MS, "{worst:?}");
}

#[tokio::test(start_paused = true)]
async fn stream_shards_that_roll_over_together_are_looked_up_together() {
    let mut worst = Duration::ZERO;
    for seed in 0..5 {
        worst = worst.max(blind_time(seed, FilterRule::Supported, 1_000 * MS, 29).await);
    }
    println!("30 at once: blind for at most {worst:?}");
    assert!(worst <= BLIND, "{worst:?}");
}
