//! Ring shards that are down, and come back.

use std::convert::Infallible;

use ringtide::{Cache, config};

use super::support::{Counters, LONG, Origin, Server, builder, most_loads_at_once, until};

async fn read(cache: &Cache, key: &str, origin: &Origin) -> Option<usize> {
    let origin = origin.clone();
    let load = move || {
        let origin = origin.clone();
        async move { Ok::<_, Infallible>(Some(origin.load().await)) }
    };
    tokio::time::timeout(LONG, cache.get_or_load(key, load)).await.expect("nobody hangs").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_to_the_loader_while_the_shard_is_down_and_are_cached_again_afterwards() {
    let mut server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::open());
    let cache = counters.build(builder(&server)).await;
    assert_eq!(read(&cache, "key", &origin).await, Some(1));
    until("the fill", async || server.exists("key").await).await;
    assert_eq!(read(&cache, "key", &origin).await, Some(1));
    server.kill();
    // Keys that were never read, of which this process has no copy to fall back to.
    for load in 2..10 {
        assert_eq!(read(&cache, &format!("key:{load}"), &origin).await, Some(load));
    }
    assert!(counters.sum("ringtide_reader_fallbacks_total", "") >= 8);
    server.restart().await;
    until("a cached read", async || {
        let before = origin.loads();
        read(&cache, "key", &origin).await;
        origin.loads() == before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_dies_during_a_load_fails_no_caller() {
    let mut server = Server::start().await;
    let (cache, origin) = (builder(&server).build().await.unwrap(), Origin::held());
    let waiting = builder(&server).build().await.unwrap();
    let readers: Vec<_> = (0..50)
        .map(|at| {
            let (cache, origin) = ([&cache, &waiting][at % 2].clone(), origin.clone());
            tokio::spawn(async move { read(&cache, "key", &origin).await })
        })
        .collect();
    origin.begun().await;
    until("the wait", async || server.calls("append").await == 1).await;
    server.kill();
    origin.allow(1000);
    for reader in readers {
        assert!(reader.await.unwrap().is_some());
    }
    assert!(origin.loads() <= 6, "{} loads", origin.loads());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_on_behalf_of_a_shard_that_is_down_are_capped() {
    let mut server = Server::start().await;
    let reader = config::Reader { max_fallback_loads: 4, ..config::Reader::default() };
    let cache = builder(&server).reader(reader).build().await.unwrap();
    server.kill();
    assert_eq!(most_loads_at_once(&cache).await, 4);
}

#[tokio::test]
async fn a_cache_is_built_and_reads_while_its_shard_has_never_been_up() {
    let mut server = Server::start().await;
    server.kill();
    let cache = builder(&server).build().await.unwrap();
    assert_eq!(read(&cache, "key", &Origin::open()).await, Some(1));
}
