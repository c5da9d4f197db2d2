//! Loaders that fail, panic or hang, and callers that leave.

use std::io;
use std::time::{Duration, Instant};

use ringtide::{Cache, CacheKey, Error};
use ringtide_core::valkey::{LeaseReply, LeaseRequest, Release, Token};
use tokio::task::JoinHandle;

use super::support::{Counters, LONG, Origin, Server, builder, cache, until};

/// Reads with a loader that ends as `end` says once the origin lets it.
fn read(
    cache: &Cache,
    origin: &Origin,
    end: impl Fn(usize) -> Result<Option<usize>, io::Error> + Clone + Send + Sync + 'static,
) -> JoinHandle<Result<Option<usize>, Error>> {
    let (cache, origin) = (cache.clone(), origin.clone());
    tokio::spawn(async move {
        let load = move || {
            let (origin, end) = (origin.clone(), end.clone());
            async move { end(origin.load().await) }
        };
        tokio::time::timeout(LONG, cache.get_or_load("key", load)).await.expect("nobody hangs")
    })
}

fn fails(_: usize) -> Result<Option<usize>, io::Error> {
    Err(io::Error::other("the table is gone"))
}

async fn herd(
    end: impl Fn(usize) -> Result<Option<usize>, io::Error> + Clone + Send + Sync + 'static,
) -> (Vec<Error>, Origin, Server) {
    let server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::held());
    let cache = counters.build(builder(&server)).await;
    let readers: Vec<_> = (0..100).map(|_| read(&cache, &origin, end.clone())).collect();
    until("everybody's joining", async || counters.sum("ringtide_reader_joined_total", "") == 99).await;
    origin.allow(100);
    let mut errors = Vec::new();
    for reader in readers {
        errors.push(reader.await.unwrap().unwrap_err());
    }
    until("the lease's release", async || !server.exists("lock:{key}").await).await;
    (errors, origin, server)
}

#[tokio::test]
async fn a_loaders_error_is_shared_by_all_who_waited() {
    let (errors, origin, server) = herd(fails).await;
    assert_eq!(origin.loads(), 1);
    for error in errors {
        assert!(matches!(&error, Error::LoadFailed { source, .. } if source.to_string() == "the table is gone"));
        assert_eq!(error.to_string(), "loading key failed: the table is gone");
    }
    assert!(!server.exists("key").await);
}

#[tokio::test]
async fn a_loaders_panic_is_shared_by_all_who_waited() {
    let (errors, origin, _server) = herd(|load| panic!("load {load} broke")).await;
    assert_eq!(origin.loads(), 1);
    for error in errors {
        assert!(matches!(&error, Error::LoadPanicked { message, .. } if message == "load 1 broke"), "{error}");
    }
}

#[tokio::test]
async fn a_failure_elsewhere_costs_one_load_here_and_no_more() {
    let server = Server::start().await;
    let (here, there, origin) = (cache(&server).await, cache(&server).await, Origin::held());
    let holder = read(&here, &origin, fails);
    origin.begun().await;
    let waiters: Vec<_> = (0..50).map(|_| read(&there, &origin, fails)).collect();
    until("the wait", async || server.calls("append").await == 1).await;
    origin.allow(100);
    assert!(matches!(holder.await.unwrap(), Err(Error::LoadFailed { .. })));
    for waiter in waiters {
        let error = waiter.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::LoadFailed { .. }), "{error}");
    }
    assert_eq!(origin.loads(), 2);
}

#[tokio::test]
async fn a_failure_elsewhere_after_a_long_wait_is_told_with_its_reason() {
    let server = Server::start().await;
    let (elsewhere, origin) = (server.shard().await, Origin::open());
    let load_timeout = Duration::from_millis(400);
    let cache = builder(&server).load_timeout(load_timeout).build().await.unwrap();
    let (key, token, ttl) = (CacheKey::new("key").unwrap(), Token::random(), Duration::from_secs(15));
    let request = LeaseRequest { token, ttl, inbox: None, refresh_before_ms: 0 };
    assert!(matches!(elsewhere.lease(&key, &request).await.unwrap(), LeaseReply::Granted { .. }));
    until("the inbox", async || server.subscribers().await == 1).await;
    let waiter = read(&cache, &origin, |load| Ok(Some(load)));
    until("the wait", async || server.calls("append").await >= 1).await;
    tokio::time::sleep(load_timeout / 2).await;
    assert!(elsewhere.release(&key, &token, Release::Failed("the table is gone")).await.unwrap());
    match waiter.await.unwrap() {
        Err(Error::LoadFailedElsewhere { reason, .. }) => assert_eq!(reason, "the table is gone"),
        other => panic!("{other:?}"),
    }
    assert_eq!(origin.loads(), 0);
}

#[tokio::test]
async fn a_load_that_hangs_is_given_up_and_nobody_else_hangs_with_it() {
    let server = Server::start().await;
    let load_timeout = Duration::from_millis(300);
    let cache = builder(&server).load_timeout(load_timeout).build().await.unwrap();
    let origin = Origin::held();
    let began = Instant::now();
    let readers: Vec<_> = (0..100).map(|_| read(&cache, &origin, |load| Ok(Some(load)))).collect();
    for reader in readers {
        let error = reader.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::LoadTimedOut { after, .. } if after == load_timeout), "{error}");
    }
    assert!(began.elapsed() < load_timeout * 4, "{:?}", began.elapsed());
    until("the lease's release", async || !server.exists("lock:{key}").await).await;
    origin.allow(100);
    // The error is shared for a short while.
    until("another load", async || {
        let again = read(&cache, &origin, |load| Ok(Some(load))).await.unwrap();
        again.is_ok_and(|again| again == Some(origin.loads()))
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_cancel_the_load() {
    let server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::held());
    let cache = counters.build(builder(&server)).await;
    let leaving = read(&cache, &origin, |load| Ok(Some(load)));
    origin.begun().await;
    let staying = read(&cache, &origin, |load| Ok(Some(load)));
    until("the second reader", async || counters.sum("ringtide_reader_joined_total", "") == 1).await;
    leaving.abort();
    assert!(leaving.await.unwrap_err().is_cancelled());
    origin.allow(1);
    assert_eq!(staying.await.unwrap().unwrap(), Some(1));
    until("the fill", async || server.exists("key").await).await;
    assert_eq!(origin.loads(), 1);
}
