//! Ring shards that are killed or stopped.

use aws_sdk_dynamodb::types::StreamViewType;
use ringtide::Space;
use ringtide_core::ring::Ring;
use ringtide_worker::RunningWorker;

use crate::world::{Endpoint, Product, SPACES, World, stop};

/// Items that are cached in their first revision, by the ring shard of their key, and a worker at work.
struct Stage {
    world: World,
    worker: RunningWorker,
    products: Space<Product>,
    items: Vec<Vec<String>>,
}

impl Stage {
    async fn set(shards: usize, items: usize) -> Self {
        let world = World::new(Endpoint::embedded().await, shards, SPACES).await;
        world.create_table("products", Some(StreamViewType::NewAndOldImages)).await;
        let worker = world.worker().await;
        let products = world.cache().await.space::<Product>("product").unwrap();
        let ring = Ring::new(world.config().ring).unwrap();
        let mut by_shard = vec![Vec::new(); shards];
        for n in 0..items {
            let owner = ring.locate(format!("product:{n}").as_bytes());
            by_shard[owner.index()].push(n.to_string());
        }
        let stage = Self { world, worker, products, items: by_shard };
        stage.write_all(1).await;
        stage.read_all(1).await;
        stage
    }

    async fn write_all(&self, rev: u64) {
        for item in self.items.iter().flatten() {
            self.world.put(item, rev, "tea").await;
        }
    }

    async fn read_all(&self, rev: u64) {
        for item in self.items.iter().flatten() {
            self.read(item, rev).await;
        }
    }

    async fn read(&self, item: &str, rev: u64) {
        self.world.read_until(&self.products, item, Some(rev)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shard_fails_no_read_holds_up_no_other_and_is_delivered_to_when_it_is_back() {
    let mut stage = Stage::set(3, 30).await;
    stage.world.shards[0].kill();
    // On the shards that are up the changes arrive, and on the one that is down reads go to the table.
    stage.write_all(2).await;
    stage.read_all(2).await;
    stage.world.shards[0].restart().unwrap();
    stage.write_all(3).await;
    stage.read_all(3).await;
    stop(stage.worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_shard_fails_no_read_and_gets_its_invalidations_when_it_goes_on() {
    let stage = Stage::set(2, 20).await;
    stage.world.shards[0].freeze().unwrap();
    stage.write_all(2).await;
    for item in stage.items[1].iter().chain(stage.items[0].first()) {
        stage.read(item, 2).await;
    }
    // It still holds the old entries, which its own commands drop now.
    stage.world.shards[0].thaw().unwrap();
    stage.read_all(2).await;
    stop(stage.worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_while_a_shard_is_down_loses_none_of_its_invalidations() {
    let mut stage = Stage::set(2, 20).await;
    stage.world.shards[0].freeze().unwrap();
    stage.write_all(2).await;
    for item in &stage.items[1] {
        stage.read(item, 2).await;
    }
    // Dropped, it ends as a crash would: no drain, no last checkpoint.
    drop(stage.worker);
    stage.world.shards[0].thaw().unwrap();
    stage.worker = stage.world.worker().await;
    stage.read_all(2).await;
    stop(stage.worker).await;
}
