//! Callers' deadlines hold wherever a read waits, and loads hurt nobody but themselves.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use ringtide::{Cache, CacheStatus, Error, LocalTier, ReadOptions, Space, SpaceSettings, config};
use tokio::task::JoinHandle;

use super::support::{Counters, LONG, Origin, Server, builder, until};

const DEADLINE: Duration = Duration::from_millis(100);
/// For scheduling on a busy machine.
const SLACK: Duration = Duration::from_millis(200);

async fn space(server: &Server, counters: &Counters, reader: config::Reader) -> Space<usize> {
    let settings = SpaceSettings::new("item", "item:{pk}");
    let cache: Cache = counters.build(builder(server).reader(reader).space(settings)).await;
    cache.space("item").unwrap()
}

fn impatient(space: &Space<usize>) -> Space<usize> {
    space.with(ReadOptions::new().timeout(DEADLINE))
}

fn read(space: &Space<usize>, pk: u64, origin: &Origin) -> JoinHandle<(Result<Option<usize>, Error>, Duration)> {
    let (space, origin) = (space.clone(), origin.clone());
    tokio::spawn(async move {
        let load = move || {
            let origin = origin.clone();
            async move { Ok::<_, Infallible>(Some(origin.load().await)) }
        };
        let began = Instant::now();
        let result = tokio::time::timeout(LONG, space.get_or_load(pk, load)).await.expect("nobody hangs");
        (result, began.elapsed())
    })
}

async fn is_late(reader: JoinHandle<(Result<Option<usize>, Error>, Duration)>) {
    let (result, took) = reader.await.unwrap();
    match result {
        Err(Error::DeadlineExceeded { after, .. }) => assert_eq!(after, DEADLINE),
        other => panic!("{other:?}"),
    }
    assert!((DEADLINE..DEADLINE + SLACK).contains(&took), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_holds_while_a_frozen_shard_is_asked() {
    let server = Server::start().await;
    let (space, origin) = (space(&server, &Counters::default(), config::Reader::default()).await, Origin::open());
    server.freeze();
    let readers: Vec<_> = (0..300).map(|pk| read(&impatient(&space), pk, &origin)).collect();
    for reader in readers {
        is_late(reader).await;
    }
    server.thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_holds_while_the_load_runs_which_goes_on_and_is_stored() {
    let server = Server::start().await;
    let (space, origin) = (space(&server, &Counters::default(), config::Reader::default()).await, Origin::held());
    let readers: Vec<_> = (0..50).map(|_| read(&impatient(&space), 1, &origin)).collect();
    for reader in readers {
        is_late(reader).await;
    }
    origin.allow(1);
    until("the fill", async || server.exists("item:1").await).await;
    assert_eq!(origin.loads(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_holds_while_a_load_is_put_off() {
    let server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::held());
    let space = space(&server, &counters, config::Reader { max_loads: 1, ..config::Reader::default() }).await;
    let first = read(&space, 1, &origin);
    origin.begun().await;
    is_late(read(&impatient(&space), 2, &origin)).await;
    assert_eq!(counters.sum("ringtide_reader_loads_put_off_total", ""), 1);
    origin.allow(2);
    assert_eq!(first.await.unwrap().0.unwrap(), Some(1));
    // The flight that its caller left went on.
    until("the fill", async || server.exists("item:2").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_holds_while_another_process_loads() {
    let server = Server::start().await;
    let origin = Origin::held();
    let here = space(&server, &Counters::default(), config::Reader::default()).await;
    let there = space(&server, &Counters::default(), config::Reader::default()).await;
    let holder = read(&there, 1, &origin);
    origin.begun().await;
    let readers: Vec<_> = (0..50).map(|_| read(&impatient(&here), 1, &origin)).collect();
    for reader in readers {
        is_late(reader).await;
    }
    let patient = read(&here, 1, &origin);
    origin.allow(1);
    assert_eq!(holder.await.unwrap().0.unwrap(), Some(1));
    assert_eq!(patient.await.unwrap().0.unwrap(), Some(1));
    assert_eq!(origin.loads(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_holds_while_loads_without_leases_queue() {
    let mut server = Server::start().await;
    let origin = Origin::held();
    let reader = config::Reader { max_fallback_loads: 2, ..config::Reader::default() };
    let space = space(&server, &Counters::default(), reader).await;
    server.kill();
    let readers: Vec<_> = (0..20).map(|pk| read(&impatient(&space), pk, &origin)).collect();
    for reader in readers {
        is_late(reader).await;
    }
    assert_eq!(origin.loads(), 2);
    origin.allow(20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loaders_that_hang_or_panic_hurt_no_other_key() {
    let server = Server::start().await;
    let load_timeout = Duration::from_millis(1500);
    let reader = config::Reader { load_timeout, ..config::Reader::default() };
    let (space, hanging, origin) = (space(&server, &Counters::default(), reader).await, Origin::held(), Origin::open());
    let hangs: Vec<_> = (0..20).map(|pk| read(&space, pk, &hanging)).collect();
    let panic = tokio::spawn({
        let space = space.clone();
        async move {
            let load = || async { panic!("this load broke") as Result<Option<usize>, Infallible> };
            space.get_or_load(20, load).await
        }
    });
    hanging.begun().await;
    for pk in 40..80 {
        let (result, took) = read(&space, pk, &origin).await.unwrap();
        assert!(result.unwrap().is_some());
        assert!(took < load_timeout / 2, "{took:?}");
    }
    let error = panic.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::LoadPanicked { .. }), "{error}");
    for hang in hangs {
        let (result, took) = hang.await.unwrap();
        assert!(matches!(result, Err(Error::LoadTimedOut { .. })));
        assert!(took < load_timeout + SLACK, "{took:?}");
    }
    for pk in 0..=20 {
        until("the lease's release", async || !server.exists(&format!("lock:{{item:{pk}}}")).await).await;
    }
}

/// One that has stored an item and found it again, so that it is kept in memory.
async fn remembering(server: &Server, counters: &Counters, settings: SpaceSettings) -> Space<usize> {
    let cache = counters.build(builder(server).space(settings.ttl(LONG * 10).ttl_jitter(0.0))).await;
    let space = cache.space("item").unwrap();
    assert_eq!(read(&space, 1, &Origin::open()).await.unwrap().0.unwrap(), Some(1));
    cache.settled().await;
    assert_eq!(read(&space, 1, &Origin::held()).await.unwrap().0.unwrap(), Some(1));
    space
}

/// Reads an item that is kept in memory, and one that is not, while the ring shard does not answer.
async fn read_both(space: &Space<usize>) -> Vec<Result<Option<usize>, Error>> {
    let none = |_: Vec<u64>| async move { Ok::<_, Infallible>(HashMap::<u64, usize>::new()) };
    let batch = tokio::time::timeout(LONG, impatient(space).get_many([1, 2], none)).await.expect("nobody hangs");
    batch.into_iter().map(|(_, answer)| answer).collect()
}

#[tokio::test]
async fn at_the_deadline_of_a_look_up_what_is_kept_in_memory_for_failures_is_served() {
    let server = Server::start().await;
    let counters = Counters::default();
    let item = || SpaceSettings::new("item", "item:{pk}");
    let space = remembering(&server, &counters, item().local(LocalTier::Fallback(LONG))).await;
    server.freeze();
    assert_eq!(read(&impatient(&space), 1, &Origin::open()).await.unwrap().0.unwrap(), Some(1));
    let peeked = impatient(&space).peek(1).await.unwrap().unwrap();
    assert_eq!((peeked.value, peeked.status), (Some(1), CacheStatus::LocalHit));
    let both = read_both(&space).await;
    assert!(matches!(both[..], [Ok(Some(1)), Err(Error::DeadlineExceeded { .. })]), "{both:?}");
    assert!(matches!(impatient(&space).peek(2).await, Err(Error::DeadlineExceeded { .. })));
    is_late(read(&impatient(&space), 2, &Origin::open())).await;
    assert_eq!(counters.sum("ringtide_reader_local_fallback_hits_total", ""), 3);
    assert_eq!(counters.sum("ringtide_reader_deadlines_exceeded_total", ""), 3);
    server.thaw();
}

#[tokio::test]
async fn at_the_deadline_of_a_look_up_what_may_be_served_stale_is() {
    const SHORT: Duration = Duration::from_millis(10);
    for tier in [LocalTier::Fallback(SHORT), LocalTier::Bounded(SHORT), LocalTier::Tracked(SHORT), LocalTier::Off] {
        let server = Server::start().await;
        let (counters, settings) = (Counters::default(), SpaceSettings::new("item", "item:{pk}").local(tier));
        let space = remembering(&server, &counters, settings.stale_if_error(LONG)).await;
        server.freeze();
        tokio::time::sleep(SHORT * 2).await;
        if tier == LocalTier::Off {
            is_late(read(&impatient(&space), 1, &Origin::open())).await;
            continue;
        }
        assert_eq!(read(&impatient(&space), 1, &Origin::open()).await.unwrap().0.unwrap(), Some(1), "{tier:?}");
        let both = read_both(&space).await;
        assert!(matches!(both[..], [Ok(Some(1)), Err(Error::DeadlineExceeded { .. })]), "{tier:?}: {both:?}");
        assert_eq!(counters.sum("ringtide_reader_stale_total", "deadline"), 2, "{tier:?}");
        assert!(impatient(&space).peek(1).await.is_err(), "{tier:?}: no load has failed");
        server.thaw();
    }
}

#[tokio::test]
async fn at_the_deadline_of_a_load_nothing_is_served_that_its_look_up_did_not_find() {
    let server = Server::start().await;
    let settings = SpaceSettings::new("item", "item:{pk}").local(LocalTier::Fallback(LONG)).stale_if_error(LONG);
    let space = remembering(&server, &Counters::default(), settings).await;
    redis::cmd("UNLINK").arg("item:1").exec_async(&mut server.connection().await).await.unwrap();
    let origin = Origin::held();
    is_late(read(&impatient(&space), 1, &origin)).await;
    let hangs = |_: Vec<u64>| std::future::pending::<Result<HashMap<u64, usize>, Infallible>>();
    let batch = tokio::time::timeout(LONG, impatient(&space).get_many([1], hangs)).await.expect("nobody hangs");
    let answer = batch.into_values();
    assert!(matches!(answer, Err(Error::DeadlineExceeded { .. })), "{answer:?}");
    origin.allow(1);
}
