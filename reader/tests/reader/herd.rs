//! One load for everybody: in one process, and among several.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use ringtide::{Cache, Error};
use tokio::task::JoinHandle;

use super::support::{Counters, LONG, Origin, Server, builder, until};

fn read(cache: &Cache, key: &'static str, origin: &Origin) -> JoinHandle<Result<Option<usize>, Error>> {
    let (cache, origin) = (cache.clone(), origin.clone());
    tokio::spawn(async move {
        let load = move || {
            let origin = origin.clone();
            async move { Ok::<_, Infallible>(Some(origin.load().await)) }
        };
        tokio::time::timeout(LONG, cache.get_or_load(key, load)).await.expect("nobody hangs")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_readers_of_a_cold_key_load_it_once() {
    let server = Server::start().await;
    let (cache, origin) = (builder(&server).build().await.unwrap(), Origin::held());
    let readers: Vec<_> = (0..2000).map(|_| read(&cache, "cold", &origin)).collect();
    origin.begun().await;
    origin.allow(2000);
    for reader in readers {
        assert_eq!(reader.await.unwrap().unwrap(), Some(1));
    }
    assert_eq!(origin.loads(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_caches_load_once_and_the_waiters_are_woken_by_the_message() {
    let server = Server::start().await;
    let lease = Duration::from_secs(15);
    let counters = Counters::default();
    let mut caches = Vec::new();
    for _ in 0..2 {
        caches.push(counters.build(builder(&server).lease_ttl(lease)).await);
    }
    let origin = Origin::held();
    server.forget_calls().await;
    let began = Instant::now();
    let readers: Vec<_> = (0..1000).map(|at| read(&caches[at % 2], "cold", &origin)).collect();
    origin.begun().await;
    until("the other cache's wait", async || server.calls("append").await == 1).await;
    until("everybody's look-up", async || {
        counters.sum("ringtide_reader_joined_total", "") + 2 == 1000
            || counters.sum("ringtide_reader_misses_total", "") >= 1000
    })
    .await;
    // One look at the lock after the last reader has joined, within as much time again; then, while the load takes its
    // time, nobody asks.
    tokio::time::sleep(began.elapsed() + Duration::from_millis(100)).await;
    let (gets, scripts) = (server.calls("get").await, server.calls("evalsha").await);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!((server.calls("get").await, server.calls("evalsha").await), (gets, scripts), "waiters poll");
    let filled = Instant::now();
    origin.allow(1000);
    for reader in readers {
        assert_eq!(reader.await.unwrap().unwrap(), Some(1));
    }
    assert!(filled.elapsed() < lease / 5, "{:?} after the fill", filled.elapsed());
    assert_eq!(origin.loads(), 1);
    let gets = server.calls("get").await;
    assert!(gets < 1020, "{gets} GETs for 1000 readers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_extended_while_the_load_runs() {
    let server = Server::start().await;
    let lease = Duration::from_millis(600);
    let (here, there) = (
        builder(&server).lease_ttl(lease).build().await.unwrap(),
        builder(&server).lease_ttl(lease).build().await.unwrap(),
    );
    let origin = Origin::held();
    let holder = read(&here, "slow", &origin);
    origin.begun().await;
    let waiter = read(&there, "slow", &origin);
    tokio::time::sleep(lease * 3).await;
    origin.allow(2);
    assert_eq!(holder.await.unwrap().unwrap(), Some(1));
    assert_eq!(waiter.await.unwrap().unwrap(), Some(1));
    assert_eq!(origin.loads(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_go_on_when_the_holder_dies() {
    let server = Server::start().await;
    let lease = Duration::from_millis(700);
    let origin = Origin::held();
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let doomed = builder(&server).lease_ttl(lease);
    process.spawn({
        let origin = origin.clone();
        async move {
            let doomed = doomed.build().await.unwrap();
            read(&doomed, "key", &origin).await
        }
    });
    origin.begun().await;
    let cache = builder(&server).lease_ttl(lease).build().await.unwrap();
    let waiters: Vec<_> = (0..100).map(|_| read(&cache, "key", &origin)).collect();
    until("the wait", async || server.calls("append").await == 1).await;
    let died = Instant::now();
    process.shutdown_background();
    origin.begun().await;
    origin.allow(1);
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap().unwrap(), Some(2));
    }
    assert!(died.elapsed() < lease + Duration::from_millis(400), "{:?}", died.elapsed());
    assert_eq!(origin.loads(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_cache_gives_its_leases_back_at_once() {
    let server = Server::start().await;
    let lease = Duration::from_secs(15);
    let origin = Origin::held();
    let closing = builder(&server).lease_ttl(lease).build().await.unwrap();
    let cut_short = read(&closing, "key", &origin);
    origin.begun().await;
    let cache = builder(&server).lease_ttl(lease).build().await.unwrap();
    let waiter = read(&cache, "key", &origin);
    until("the wait", async || server.calls("append").await == 1).await;
    let closed = Instant::now();
    closing.close().await;
    assert!(matches!(cut_short.await.unwrap(), Err(Error::Closed { .. })));
    origin.begun().await;
    origin.allow(1);
    assert_eq!(waiter.await.unwrap().unwrap(), Some(2));
    assert!(closed.elapsed() < lease / 5, "{:?}", closed.elapsed());
}
