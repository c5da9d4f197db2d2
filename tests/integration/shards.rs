//! Ring shards that are killed or stopped.

use aws_sdk_dynamodb::types::StreamViewType;
use ringtide_core::ring::Ring;

use crate::world::{Endpoint, Product, SPACES, World, stop};

/// Keys of items that live on each ring shard.
fn items_by_shard(world: &World, count: usize) -> Vec<Vec<String>> {
    let ring = Ring::new(world.config().ring).unwrap();
    let mut items = vec![Vec::new(); world.shards.len()];
    for n in 0..count {
        let owner = ring.locate(format!("product:{n}").as_bytes());
        items[owner.index()].push(n.to_string());
    }
    items
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shard_fails_no_read_holds_up_no_other_and_is_delivered_to_when_it_is_back() {
    let mut world = World::new(Endpoint::embedded().await, 3, SPACES).await;
    world.create_table("products", Some(StreamViewType::NewAndOldImages)).await;
    let worker = world.worker().await;
    let cache = world.cache().await;
    let products = cache.space::<Product>("product").unwrap();
    let items = items_by_shard(&world, 30);
    for item in items.iter().flatten() {
        world.put(item, 1, "tea").await;
        world.read_until(&products, item, Some(1)).await;
    }
    world.shards[0].kill();
    for item in items.iter().flatten() {
        world.put(item, 2, "tea").await;
    }
    // On the shards that are up the changes arrive, and on the one that is down reads go to the table.
    for item in items.iter().flatten() {
        world.read_until(&products, item, Some(2)).await;
    }
    world.shards[0].restart().unwrap();
    for item in items.iter().flatten() {
        world.put(item, 3, "tea").await;
        world.read_until(&products, item, Some(3)).await;
    }
    stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_shard_fails_no_read_and_gets_its_invalidations_when_it_goes_on() {
    let world = World::new(Endpoint::embedded().await, 2, SPACES).await;
    world.create_table("products", Some(StreamViewType::NewAndOldImages)).await;
    let worker = world.worker().await;
    let cache = world.cache().await;
    let products = cache.space::<Product>("product").unwrap();
    let items = items_by_shard(&world, 20);
    for item in items.iter().flatten() {
        world.put(item, 1, "tea").await;
        world.read_until(&products, item, Some(1)).await;
    }
    world.shards[0].freeze().unwrap();
    for item in items.iter().flatten() {
        world.put(item, 2, "tea").await;
    }
    for item in items[1].iter().chain(items[0].first()) {
        world.read_until(&products, item, Some(2)).await;
    }
    // It still holds the old entries, which its own commands drop now.
    world.shards[0].thaw().unwrap();
    for item in &items[0] {
        world.read_until(&products, item, Some(2)).await;
    }
    stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_while_a_shard_is_down_loses_none_of_its_invalidations() {
    let world = World::new(Endpoint::embedded().await, 2, SPACES).await;
    world.create_table("products", Some(StreamViewType::NewAndOldImages)).await;
    let worker = world.worker().await;
    let cache = world.cache().await;
    let products = cache.space::<Product>("product").unwrap();
    let items = items_by_shard(&world, 20);
    for item in items.iter().flatten() {
        world.put(item, 1, "tea").await;
        world.read_until(&products, item, Some(1)).await;
    }
    world.shards[0].freeze().unwrap();
    for item in items.iter().flatten() {
        world.put(item, 2, "tea").await;
    }
    for item in &items[1] {
        world.read_until(&products, item, Some(2)).await;
    }
    // Dropped, it ends as a crash would: no drain, no last checkpoint.
    drop(worker);
    world.shards[0].thaw().unwrap();
    let worker = world.worker().await;
    for item in items.iter().flatten() {
        world.read_until(&products, item, Some(2)).await;
    }
    stop(worker).await;
}
