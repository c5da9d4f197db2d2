//! Ring shards that are left alone after failures in a row.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use ringtide::{Cache, CacheBuilder, Error, LocalTier, ShardState, SpaceSettings, config};
use ringtide_servers::Proxy;

use super::support::{Counters, LONG, Origin, Server, builder, until};

const COMMAND: Duration = Duration::from_millis(400);

fn settings() -> config::Reader {
    config::Reader { breaker_failures: 2, breaker_pause: Duration::from_millis(300), ..config::Reader::default() }
}

/// What is kept in memory for outages would answer in the ring shard's place.
fn ring_alone(server: &Server) -> CacheBuilder {
    let space = SpaceSettings::new("item", "item:{pk}").local(LocalTier::Off);
    builder(server).command_timeout(COMMAND).space(space)
}

async fn read(cache: &Cache, key: String, origin: &Origin) -> Result<Option<usize>, Error> {
    let origin = origin.clone();
    let load = move || {
        let origin = origin.clone();
        async move { Ok::<_, Infallible>(Some(origin.load().await)) }
    };
    let space = cache.space("item").unwrap();
    tokio::time::timeout(LONG, space.get_or_load(key, load)).await.expect("nobody hangs")
}

async fn cached_again(cache: &Cache, origin: &Origin) {
    until("a cached read", async || {
        let before = origin.loads();
        read(cache, "again".to_owned(), origin).await.is_ok() && origin.loads() == before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_frozen_shard_once_it_has_failed_in_a_row_and_it_is_used_again_when_it_answers() {
    let server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::open());
    let cache = counters.build(ring_alone(&server).reader(settings())).await;
    server.freeze();
    for at in 0..2 {
        let began = Instant::now();
        assert!(read(&cache, format!("before:{at}"), &origin).await.unwrap().is_some());
        assert!(began.elapsed() >= COMMAND, "the ring shard was not asked");
    }
    // Several pauses, and so several probes, none of which a read waits for.
    let (open, mut reads) = (Instant::now(), 0);
    while open.elapsed() < Duration::from_millis(1300) {
        let began = Instant::now();
        assert!(read(&cache, format!("open:{reads}"), &origin).await.unwrap().is_some());
        assert!(began.elapsed() < COMMAND * 3 / 4, "read {reads} took {:?}", began.elapsed());
        reads += 1;
    }
    assert!(reads > 20, "{reads} reads");
    assert_eq!(counters.sum("ringtide_reader_breaker_opened_total", "a"), 1);
    let [shard] = &cache.shards()[..] else { panic!("there is one") };
    let told = (shard.name.to_string(), shard.address.clone(), shard.state);
    assert_eq!(told, ("a".to_owned(), server.address(), ShardState::LeftAlone));
    server.thaw();
    cached_again(&cache, &origin).await;
    until("its return", async || cache.shards()[0].state == ShardState::InUse).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_leave_before_the_command_time_out_are_served_without_the_shard_too() {
    let server = Server::start().await;
    let (timeout, origin) = (Duration::from_millis(40), Origin::open());
    let settings = config::Reader { timeout: Some(timeout), ..settings() };
    let cache = ring_alone(&server).reader(settings).build().await.unwrap();
    server.freeze();
    let (began, mut reads) = (Instant::now(), 0);
    while read(&cache, format!("key:{reads}"), &origin).await.is_err() {
        reads += 1;
        assert!(began.elapsed() < COMMAND * 5, "{reads} reads failed");
    }
    assert!(reads >= 3, "{reads} reads failed");
    server.thaw();
    cached_again(&cache, &origin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_refuses_connections_is_left_alone_and_used_again() {
    let mut server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::open());
    let cache = counters.build(ring_alone(&server).reader(settings())).await;
    server.kill();
    until("the breaker's opening", async || {
        assert!(read(&cache, "key".to_owned(), &origin).await.unwrap().is_some());
        counters.sum("ringtide_reader_breaker_opened_total", "a") == 1
    })
    .await;
    server.restart().await;
    cached_again(&cache, &origin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_answers_with_errors_is_not_left_alone() {
    let server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::open());
    let cache = counters.build(ring_alone(&server).reader(settings())).await;
    let acl = async |rule: &str| {
        let acl = redis::cmd("ACL").arg("SETUSER").arg("default").arg(rule).clone();
        acl.exec_async(&mut server.connection().await).await.unwrap();
    };
    acl("-get").await;
    acl("-evalsha").await;
    for at in 0..20 {
        assert_eq!(read(&cache, format!("key:{at}"), &origin).await.unwrap(), Some(at + 1));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(counters.sum("ringtide_reader_breaker_opened_total", "a"), 0);
    acl("+get").await;
    acl("+evalsha").await;
    let before = origin.loads();
    assert_eq!(read(&cache, "key".to_owned(), &origin).await.unwrap(), Some(before + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_worked_are_back_at_once_however_often_they_are_cut() {
    let server = Server::start().await;
    let (proxy, origin) = (Proxy::start(server.address()).await.unwrap(), Origin::open());
    let settings = config::Reader { breaker_failures: 10_000, ..config::Reader::default() };
    let space = SpaceSettings::new("item", "item:{pk}").local(LocalTier::Off);
    let cache = Cache::builder().shard("a", proxy.address()).reader(settings).space(space).build().await.unwrap();
    let item = async || {
        let origin = origin.clone();
        let load = move || {
            let origin = origin.clone();
            async move { Ok::<_, Infallible>(Some(origin.load().await)) }
        };
        cache.space::<usize>("item").unwrap().get_or_load(1, load).await.unwrap()
    };
    until("the first fill", async || item().await == Some(1) && server.exists("item:1").await).await;
    let mut away = Duration::ZERO;
    for _ in 0..12 {
        proxy.cut();
        let cut = Instant::now();
        // What is stored answers again; loads on behalf of a ring shard that is away return others.
        until("the connection", async || item().await == Some(1)).await;
        until("a second answer", async || item().await == Some(1)).await;
        away += cut.elapsed();
    }
    assert!(away < Duration::from_secs(2), "{away:?}");
}
