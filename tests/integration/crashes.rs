//! Workers and ring shards that die at random moments, under load: nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::types::StreamViewType;
use ringtide_servers::number;
use ringtide_worker::lease::OwnerId;
use ringtide_worker::{RunningWorker, Worker};

use crate::world::{Endpoint, Product, SPACES, World, stop};

const ITEMS: usize = 24;
const CRASHES: usize = 12;

/// A worker that goes on at once where the one that died left off, because it has the same name.
async fn successor(world: &World) -> RunningWorker {
    let config = world.config();
    let mut worker = Worker::connect(&config).await.unwrap();
    worker.owner = OwnerId::named("the-only-one");
    worker.start(&config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_at_random_moments_lose_no_invalidation() {
    let seed = number("RINGTIDE_CRASH_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("RINGTIDE_CRASH_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::new(Endpoint::embedded().await, 3, SPACES).await;
    world.create_table("products", Some(StreamViewType::NewAndOldImages)).await;
    let cache = world.cache().await;
    let products = cache.space::<Product>("product").unwrap();
    let mut worker = successor(&world).await;

    let going = Arc::new(AtomicBool::new(true));
    let readers: Vec<_> = (0..3)
        .map(|reader| {
            let (going, products, loader) = (going.clone(), products.clone(), world.loader());
            tokio::spawn(async move {
                let mut reads = 0_usize;
                while going.load(Ordering::Relaxed) {
                    let item = ((reads * 7 + reader) % ITEMS).to_string();
                    let (loader, key) = (loader.clone(), item.clone());
                    let load = move || loader.clone().load::<Product>(key.clone());
                    products.get_or_load(item.as_str(), load).await.expect("no crash fails a read");
                    reads += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                reads
            })
        })
        .collect();

    // The last revision of each item: none is written again at the end, which would hide what was lost before.
    let mut newest = vec![None; ITEMS];
    let mut rev = 0;
    let mut write = async |world: &World, item: usize| {
        rev += 1;
        newest[item] = Some(rev);
        world.put(&item.to_string(), rev, "tea").await;
    };
    for crash in 0..CRASHES {
        for _ in 0..random.usize(5..60) {
            write(&world, random.usize(0..ITEMS)).await;
        }
        let shard = random.usize(0..world.shards.len());
        match crash % 3 {
            // Dropped, a worker ends as a crash would: no drain, no last checkpoint.
            0 => {
                drop(worker);
                write(&world, random.usize(0..ITEMS)).await;
                worker = successor(&world).await;
            }
            // It dies with records that it has read and not delivered, and with time for a checkpoint in between.
            1 => {
                world.shards[shard].freeze().unwrap();
                // More pages than batches can be under way: what was sent is carried out when the shard goes on.
                for _ in 0..40 {
                    write(&world, random.usize(0..ITEMS)).await;
                    tokio::time::sleep(Duration::from_millis(8)).await;
                }
                tokio::time::sleep(Duration::from_millis(random.u64(50..250))).await;
                drop(worker);
                world.shards[shard].thaw().unwrap();
                worker = successor(&world).await;
            }
            _ => {
                world.shards[shard].kill();
                tokio::time::sleep(Duration::from_millis(random.u64(0..100))).await;
                world.shards[shard].restart().unwrap();
            }
        }
    }
    for (item, rev) in newest.iter().enumerate() {
        world.read_until(&products, &item.to_string(), *rev).await;
    }
    going.store(false, Ordering::Relaxed);
    let mut reads = 0;
    for reader in readers {
        reads += reader.await.unwrap();
    }
    assert!(reads > 100, "the load was no load: {reads} reads");
    // With everything delivered, what is cached is what the table holds.
    stop(worker).await;
    for (item, rev) in newest.iter().enumerate() {
        assert_eq!(world.read(&products, &item.to_string()).await.map(|product| product.rev), *rev);
    }
}
