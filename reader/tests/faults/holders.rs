//! Processes that hold a key's lease and die, or stop for a while.

use std::time::{Duration, Instant};

use super::process::Reader;
use super::readers::read;
use super::truth::HELD;
use super::world::{LEASE, World, items};

/// A process that holds the lease of [`HELD`], in the middle of its load.
async fn holder(world: &World) -> Reader {
    let holder = tokio::task::block_in_place(|| Reader::start_one(world));
    world.truth.begun().await;
    holder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_holder_that_is_killed_costs_one_more_load_and_no_more_than_its_lease() {
    let world = World::begin(1).await;
    let cache = world.cache().await;
    let mut doomed = holder(&world).await;
    let waiters: Vec<_> = (0..100)
        .map(|_| {
            let (space, truth) = (items(&cache), world.truth.clone());
            tokio::spawn(async move { read(&space, &truth, HELD).await })
        })
        .collect();
    // The lease is extended for as long as its holder lives.
    tokio::time::sleep(LEASE * 2).await;
    assert_eq!(world.truth.loads(), 1);
    tokio::task::block_in_place(|| doomed.kill());
    let died = Instant::now();
    world.truth.begun().await;
    assert!(died.elapsed() < LEASE + Duration::from_millis(200), "{:?}", died.elapsed());
    world.truth.allow(2);
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap().unwrap(), Some(1));
    }
    assert_eq!(world.truth.loads(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_holder_that_stops_for_a_while_stores_nothing_old_when_it_goes_on() {
    let world = World::begin(1).await;
    let cache = world.cache().await;
    let stopped = holder(&world).await;
    stopped.pause();
    // Its load ends, and it does not hear of it.
    world.truth.allow(1);
    let value = world.change(HELD).await;
    world.truth.allow(1);
    assert_eq!(read(&items(&cache), &world.truth, HELD).await.unwrap(), Some(value));
    let next = world.change(HELD).await;
    stopped.resume();
    let told = tokio::task::block_in_place(|| stopped.end());
    assert_eq!(told, "Ok(Some(1))", "its own caller began before the change");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_ne!(world.stored(HELD).await, Some(1), "an old value was stored");
    world.truth.allow(1);
    assert_eq!(read(&items(&cache), &world.truth, HELD).await.unwrap(), Some(next));
}
