//! Limits on loads: how many at once, how soon after a failure, and how many on behalf of second attempts.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use ringtide::{Cache, Error, LocalTier, SpaceSettings, config};
use tokio::task::JoinHandle;

use super::support::{Counters, LONG, Origin, Server, builder, most_loads_at_once, until};

fn read(cache: &Cache, key: String, origin: &Origin, fails: bool) -> JoinHandle<Result<Option<usize>, Error>> {
    let (cache, origin) = (cache.clone(), origin.clone());
    tokio::spawn(async move {
        let load = move || {
            let origin = origin.clone();
            async move {
                let load = origin.load().await;
                if fails { Err(io::Error::other("the table is gone")) } else { Ok(Some(load)) }
            }
        };
        tokio::time::timeout(LONG, cache.get_or_load(key, load)).await.expect("nobody hangs")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_of_a_shard_that_came_back_empty_are_capped_and_all_are_stored() {
    let server = Server::start().await;
    let reader = config::Reader { max_loads: 4, ..config::Reader::default() };
    let cache = builder(&server).reader(reader).build().await.unwrap();
    assert_eq!(most_loads_at_once(&cache).await, 4);
    until("all fills", async || server.exists("key:39").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_may_not_load_yet_holds_no_lease_and_takes_what_another_stored() {
    let server = Server::start().await;
    let (counters, slow, fast) = (Counters::default(), Origin::held(), Origin::open());
    let reader = config::Reader { max_loads: 1, ..config::Reader::default() };
    let busy = counters.build(builder(&server).reader(reader)).await;
    let free = builder(&server).build().await.unwrap();
    let first = read(&busy, "slow".to_owned(), &slow, false);
    slow.begun().await;
    let put_off = read(&busy, "key".to_owned(), &slow, false);
    until("the wait for leave", async || counters.sum("ringtide_reader_loads_put_off_total", "") == 1).await;
    assert!(!server.exists("lock:{key}").await, "a lease is held while its load is put off");
    assert_eq!(read(&free, "key".to_owned(), &fast, false).await.unwrap().unwrap(), Some(1));
    until("the fill", async || server.exists("key").await).await;
    slow.allow(1);
    assert_eq!(first.await.unwrap().unwrap(), Some(1));
    assert_eq!(put_off.await.unwrap().unwrap(), Some(1));
    assert_eq!((slow.loads(), fast.loads()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_waits_for_another_gives_its_leave_back() {
    let server = Server::start().await;
    let (slow, fast) = (Origin::held(), Origin::open());
    let reader = config::Reader { max_loads: 1, ..config::Reader::default() };
    let one = builder(&server).reader(reader).build().await.unwrap();
    let holder = builder(&server).build().await.unwrap();
    let first = read(&holder, "key".to_owned(), &slow, false);
    slow.begun().await;
    let waiter = read(&one, "key".to_owned(), &fast, false);
    until("the wait", async || server.calls("append").await == 1).await;
    assert_eq!(read(&one, "other".to_owned(), &fast, false).await.unwrap().unwrap(), Some(1));
    slow.allow(1);
    assert_eq!(first.await.unwrap().unwrap(), Some(1));
    assert_eq!((waiter.await.unwrap().unwrap(), slow.loads(), fast.loads()), (Some(1), 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loader_that_hangs_holds_up_no_other_key_space() {
    let server = Server::start().await;
    let reader = config::Reader { max_loads: 1, max_fallback_loads: 1, ..config::Reader::default() };
    let space = |name: &str| SpaceSettings::new(name, format!("{name}:{{pk}}")).local(LocalTier::Off);
    let cache = builder(&server).reader(reader).space(space("slow")).space(space("fast")).build().await.unwrap();
    let (slow, fast) = (cache.space::<usize>("slow").unwrap(), cache.space::<usize>("fast").unwrap());
    let (hangs, origin) = (Origin::held(), Origin::open());
    let load = |origin: &Origin| {
        let origin = origin.clone();
        move || {
            let origin = origin.clone();
            async move { Ok::<_, io::Error>(Some(origin.load().await)) }
        }
    };
    let (reader, hanging) = (slow.clone(), load(&hangs));
    let held_up = tokio::spawn(async move { reader.get_or_load(1, hanging).await });
    hangs.begun().await;
    let read = |pk: u64| tokio::time::timeout(LONG, fast.get_or_load(pk, load(&origin)));
    assert_eq!(read(1).await.expect("it is held up").unwrap(), Some(1));
    let many = |keys: Vec<u64>| async move {
        Ok::<_, io::Error>(keys.into_iter().map(|pk| (pk, 7)).collect::<HashMap<_, _>>())
    };
    let batch = tokio::time::timeout(LONG, fast.get_many([2, 3], many)).await.expect("it is held up");
    assert_eq!(batch.into_values().unwrap(), [Some(7), Some(7)]);
    hangs.allow(1);
    assert_eq!(held_up.await.unwrap().unwrap(), Some(1));
}

#[tokio::test]
async fn a_key_space_chooses_how_long_its_loads_may_take() {
    let server = Server::start().await;
    let hurried = Duration::from_millis(100);
    let space = SpaceSettings::new("item", "item:{pk}").load_timeout(hurried);
    let cache = builder(&server).load_timeout(LONG * 10).space(space).build().await.unwrap();
    let (items, origin) = (cache.space::<usize>("item").unwrap(), Origin::held());
    let load = |origin: Origin| {
        move || {
            let origin = origin.clone();
            async move { Ok::<_, io::Error>(Some(origin.load().await)) }
        }
    };
    let read = tokio::time::timeout(LONG, items.get_or_load(1, load(origin.clone()))).await.expect("nobody hangs");
    assert!(matches!(read, Err(Error::LoadTimedOut { after, .. }) if after == hurried), "{read:?}");
    let many = |_: Vec<u64>| std::future::pending::<io::Result<HashMap<u64, usize>>>();
    let batch = tokio::time::timeout(LONG, items.get_many([2], many)).await.expect("nobody hangs").into_values();
    assert!(matches!(batch, Err(Error::LoadTimedOut { after, .. }) if after == hurried), "{batch:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_is_put_off_for_too_long_fails_with_the_limits_name() {
    let server = Server::start().await;
    let load_timeout = Duration::from_millis(300);
    let reader = config::Reader { max_loads: 1, load_timeout, ..config::Reader::default() };
    let (cache, origin) = (builder(&server).reader(reader).build().await.unwrap(), Origin::held());
    // Each of these is given up after the load time-out, one after the other.
    let began = Instant::now();
    let readers: Vec<_> = (0..4).map(|at| read(&cache, format!("key:{at}"), &origin, false)).collect();
    let mut overloaded = 0;
    for reader in readers {
        match reader.await.unwrap().unwrap_err() {
            Error::LoadTimedOut { .. } => {}
            Error::Overloaded { limit, .. } => {
                assert_eq!(limit, "max_loads");
                overloaded += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert!(overloaded >= 2, "{overloaded}");
    assert!(began.elapsed() < load_timeout * 4, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_shared_for_a_short_while_and_then_one_read_tries_again() {
    let server = Server::start().await;
    let (cache, origin) = (builder(&server).build().await.unwrap(), Origin::open());
    let (mut at, mut reads) = (0, 0);
    // On a busy machine the failure's time may be over after the first reads: then another key tells.
    let (key, began, first) = loop {
        let (key, began, first) = (format!("key:{at}"), Instant::now(), origin.loads() + 1);
        while reads <= 3 {
            let error = read(&cache, key.clone(), &origin, true).await.unwrap().unwrap_err();
            assert!(matches!(error, Error::LoadFailed { .. }), "{error}");
            // It is shared for 100 ms from when it came, which was after the beginning.
            if began.elapsed() >= Duration::from_millis(100) {
                break;
            }
            assert_eq!(origin.loads(), first);
            reads += 1;
        }
        if reads > 3 {
            break (key, began, first);
        }
        (at, reads) = (at + 1, 0);
        assert!(at < 200, "no failure was shared by more than three reads");
    };
    let before = origin.loads();
    let other = read(&cache, "other".to_owned(), &origin, false).await.unwrap().unwrap();
    assert_eq!(other, Some(before + 1), "another key's load was put off");
    // 100 ms, then 200 ms, then 400 ms.
    while began.elapsed() < Duration::from_millis(650) {
        let herd: Vec<_> = (0..20).map(|_| read(&cache, key.clone(), &origin, true)).collect();
        for reader in herd {
            assert!(reader.await.unwrap().is_err());
        }
    }
    assert!((3..=4).contains(&(origin.loads() - first)), "{} loads", origin.loads() - first);
    until("the next load", async || read(&cache, key.clone(), &origin, false).await.unwrap().is_ok()).await;
    until("the fill", async || server.exists(&key).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_may_be_served_stale_is_while_its_loads_fail() {
    let server = Server::start().await;
    let origin = Origin::open();
    let settings = SpaceSettings::new("item", "item:{pk}").stale_if_error(Duration::from_secs(60));
    let cache = builder(&server).space(settings).build().await.unwrap();
    let space = cache.space::<usize>("item").unwrap();
    let load = |fails: bool| {
        let (space, origin) = (space.clone(), origin.clone());
        async move {
            let load = move || {
                let origin = origin.clone();
                async move {
                    let load = origin.load().await;
                    if fails { Err(io::Error::other("the table is gone")) } else { Ok(Some(load)) }
                }
            };
            space.get_or_load(1, load).await
        }
    };
    assert_eq!(load(false).await.unwrap(), Some(1));
    until("the fill", async || server.exists("item:1").await).await;
    assert!(space.invalidate(1).await.is_ok());
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(80) {
        assert_eq!(load(true).await.unwrap(), Some(1));
    }
    assert_eq!(origin.loads(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_budget_another_process_s_failure_is_taken_as_it_is() {
    let server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::held());
    let reader = config::Reader { retry_budget: 0.0, ..config::Reader::default() };
    let holder = builder(&server).build().await.unwrap();
    let poor = counters.build(builder(&server).reader(reader)).await;
    let first = read(&holder, "key".to_owned(), &origin, true);
    origin.begun().await;
    let waiters: Vec<_> = (0..10).map(|_| read(&poor, "key".to_owned(), &origin, true)).collect();
    until("the wait", async || server.calls("append").await == 1).await;
    origin.allow(100);
    assert!(first.await.unwrap().is_err());
    for waiter in waiters {
        let error = waiter.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::LoadFailedElsewhere { .. }), "{error}");
    }
    assert_eq!(origin.loads(), 1);
    assert_eq!(counters.sum("ringtide_reader_repeated_loads_total", "denied"), 1);
}
