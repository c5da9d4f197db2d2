//! Ring shards that are down, loaders that fail, and callers that leave.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringtide::{CacheStatus, Error, Observer, ReadEnd, ReadOptions, SpaceSettings};

use super::stage::{Stage, Table, name};
use crate::support::{LONG, Origin, until};

fn settings() -> SpaceSettings {
    SpaceSettings::new("product", "product:{pk}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_down_sends_its_own_keys_to_the_loader() {
    let mut stage = Stage::new(3).await;
    let table = Table::new(Origin::open());
    stage.fill(0..60, &table).await;
    let mut lost = Vec::new();
    for pk in 0..60 {
        if stage.owner(pk).await == 0 {
            lost.push(pk);
        }
    }
    stage.servers[0].kill();
    let before = table.calls().len();
    let values = stage.products.get_many(0..60, table.loader()).await.into_values().unwrap();
    assert_eq!(values, (0..60).map(|pk| table.item(pk)).collect::<Vec<_>>());
    let mut loaded = table.calls().split_off(before).concat();
    loaded.sort_unstable();
    assert_eq!(loaded, lost);
    assert_eq!(stage.counters.sum("ringtide_reader_fallbacks_total", ""), lost.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_on_behalf_of_a_shard_that_is_down_are_counted_by_the_call() {
    let mut stage = Stage::built(1, settings(), |builder| {
        let reader = ringtide::config::Reader { max_fallback_loads: 1, ..ringtide::config::Reader::default() };
        builder.reader(reader)
    })
    .await;
    stage.servers[0].kill();
    let table = Table::new(Origin::held());
    let read = |keys: std::ops::Range<u64>| {
        let (products, load) = (stage.products.clone(), table.loader());
        tokio::spawn(async move { products.get_many(keys, load).await.into_values().unwrap() })
    };
    let first = read(0..50);
    table.origin.begun().await;
    let second = read(50..100);
    until("the second read", async || stage.counters.sum("ringtide_reader_fallbacks_total", "") == 100).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(table.origin.loads(), 1, "one at a time");
    table.origin.allow(100);
    assert_eq!((first.await.unwrap().len(), second.await.unwrap().len()), (50, 50));
    assert!(table.calls().len() < 10, "{:?}", table.calls());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_put_off_for_too_long_fails_with_the_limits_name_and_is_not_made() {
    let stage = Stage::built(1, settings(), |builder| {
        let load_timeout = Duration::from_secs(2);
        builder.reader(ringtide::config::Reader { max_loads: 1, load_timeout, ..ringtide::config::Reader::default() })
    })
    .await;
    let table = Table::new(Origin::held());
    let read = |key: u64| {
        let (products, load) = (stage.products.clone(), table.loader());
        tokio::spawn(async move { products.get_many([key], load).await.into_values() })
    };
    let first = read(1);
    table.origin.begun().await;
    let error = tokio::time::timeout(LONG, read(2)).await.expect("nobody hangs").unwrap().unwrap_err();
    assert!(matches!(error, Error::Overloaded { limit: "max_loads", .. }), "{error}");
    table.origin.allow(100);
    assert!(first.await.unwrap().is_ok(), "who was at it is answered");
    assert_eq!(table.calls().concat(), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_may_not_be_loaded_yet_hold_no_lease_and_are_loaded_together_later() {
    let stage = Stage::built(1, settings(), |builder| {
        builder.reader(ringtide::config::Reader { max_loads: 1, ..ringtide::config::Reader::default() })
    })
    .await;
    let table = Table::new(Origin::held());
    let read = |keys: std::ops::Range<u64>| {
        let (products, load) = (stage.products.clone(), table.loader());
        tokio::spawn(async move { products.get_many(keys, load).await.into_values().unwrap().len() })
    };
    let first = read(0..1);
    table.origin.begun().await;
    let put_off = read(1..51);
    until("the wait for leave", async || stage.counters.sum("ringtide_reader_loads_put_off_total", "") == 50).await;
    assert_eq!(stage.servers[0].locks().await, 1, "leases are held while their load is put off");
    table.origin.allow(100);
    assert_eq!((first.await.unwrap(), put_off.await.unwrap()), (1, 50));
    let calls = table.calls().len();
    assert!(calls <= 12, "{calls} calls for 50 keys that waited together");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_hangs_makes_its_own_keys_late_and_no_others() {
    let stage = Stage::built(3, settings(), |builder| builder.command_timeout(LONG)).await;
    let table = Table::new(Origin::open());
    stage.fill(0..60, &table).await;
    let mut frozen = Vec::new();
    for pk in 0..60 {
        if stage.owner(pk).await == 1 {
            frozen.push(pk);
        }
    }
    stage.servers[1].freeze();
    let timeout = Duration::from_millis(500);
    let hurried = stage.products.with(ReadOptions::new().timeout(timeout));
    let began = Instant::now();
    // 60 to 89 are missing: those of the other shards are loaded meanwhile.
    let batch = hurried.get_many(0..90, table.loader()).await;
    let took = began.elapsed();
    stage.servers[1].thaw();
    assert!(took < timeout * 4, "{took:?}");
    let mut loaded = 0;
    for (pk, answer) in batch {
        match answer {
            Ok(value) => {
                assert_eq!(value, table.item(pk));
                assert!(!frozen.contains(&pk));
                loaded += u32::from(pk >= 60);
            }
            Err(Error::DeadlineExceeded { key, after }) => {
                assert_eq!((key.as_str(), after), (format!("product:{pk}").as_str(), timeout));
                assert!(frozen.contains(&pk) || pk >= 60, "{pk}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(loaded > 0, "misses of the other shards are not held up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_keys_have_a_stale_value_all_are_answered_at_the_deadline_or_the_soft_time_out() {
    let kept = settings().stale_if_error(LONG);
    let stage = Stage::with(2, kept).await;
    let (stored, held) = (Table::new(Origin::open()), Table::new(Origin::held()));
    // More than are loaded at once.
    let keys = || (0..3000).filter(|pk| pk % 10 != 9);
    stage.fill(0..3000, &stored).await;
    let _ = stage.products.invalidate_many(keys()).await.unwrap();
    let limits = [
        (ReadOptions::new().timeout(Duration::from_secs(2)), Duration::from_secs(4)),
        (ReadOptions::new().soft_timeout(Duration::from_millis(700)), Duration::from_millis(1400)),
    ];
    for (options, most) in limits {
        let began = Instant::now();
        let values = stage.products.with(options).get_many(keys(), held.loader()).await.into_values();
        let took = began.elapsed();
        assert_eq!(values.unwrap(), keys().map(|pk| stored.item(pk)).collect::<Vec<_>>());
        assert!(took < most, "{took:?}");
    }
}

/// Hears of the keys that were answered by stale values.
#[derive(Default)]
struct Stale(AtomicU64);

impl Observer for Stale {
    fn read(&self, read: &ReadEnd<'_>) {
        self.0.fetch_add(u64::from(read.result.ok() == Some(CacheStatus::Stale)), Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_value_answers_at_the_soft_time_out_though_others_are_still_waited_for_before_it() {
    let heard = Arc::new(Stale::default());
    let kept = settings().ttl(Duration::from_millis(40)).ttl_jitter(0.0).stale_if_error(LONG);
    let stage = Stage::built(1, kept, |builder| builder.observer(heard.clone())).await;
    let (stored, held) = (Table::new(Origin::open()), Table::new(Origin::held()));
    stage.fill(5000..5500, &stored).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    let patient = stage.products.with(ReadOptions::new().soft_timeout(Duration::from_millis(50)));
    // As many as are loaded at once, of which nothing is known, and then those whose times are over.
    let keys = || (0..1000).chain(5000..5500);
    let reading = tokio::spawn({
        let load = held.loader();
        async move { patient.get_many(keys(), load).await.into_values().unwrap() }
    });
    held.origin.begun().await;
    // The table has no item whose number ends with 9.
    until("the stale answers", async || heard.0.load(Ordering::SeqCst) == 450).await;
    assert!(!reading.is_finished());
    assert_eq!(stage.counters.sum("ringtide_reader_stale_total", "soft_timeout"), 450);
    held.origin.allow(1000);
    assert_eq!(reading.await.unwrap(), keys().map(|pk| stored.item(pk)).collect::<Vec<_>>());
    assert_eq!(heard.0.load(Ordering::SeqCst), 450);
}

#[tokio::test]
async fn a_loader_that_fails_fails_the_keys_of_its_call() {
    let stage = Stage::new(2).await;
    let table = Table::new(Origin::open());
    stage.fill(0..10, &table).await;
    let load = |_: Vec<u64>| async { Err::<HashMap<u64, String>, _>(io::Error::other("the table is gone")) };
    for (pk, answer) in stage.products.get_many(0..20, load).await {
        match answer {
            Ok(value) => assert_eq!((pk < 10, value), (true, table.item(pk))),
            Err(Error::LoadFailed { key, source }) => {
                assert_eq!((pk >= 10, key.as_str()), (true, format!("product:{pk}").as_str()));
                assert_eq!(source.downcast_ref::<io::Error>().unwrap().to_string(), "the table is gone");
            }
            Err(error) => panic!("{error}"),
        }
    }
    for server in &stage.servers {
        until("the leases' release", async || server.locks().await == 0).await;
    }
}

#[tokio::test]
async fn a_loader_may_fail_some_of_its_keys() {
    let stage = Stage::new(1).await;
    let load = |keys: Vec<u64>| async move {
        let part = |pk: u64| if pk == 2 { Err(io::Error::other("throttled")) } else { Ok(Some(name(pk))) };
        Ok::<_, io::Error>(keys.into_iter().map(|pk| (pk, part(pk))).collect::<HashMap<_, _>>())
    };
    let answers: Vec<_> =
        stage.products.get_many([1, 2, 3], load).await.into_iter().map(|(_, answer)| answer).collect();
    assert!(matches!(&answers[1], Err(Error::LoadFailed { source, .. }) if source.to_string() == "throttled"));
    assert!(answers[0].is_ok() && answers[2].is_ok());
    until("the fills", async || stage.counters.sum("ringtide_reader_fills_total", "stored") == 2).await;
}

#[tokio::test]
async fn a_loader_that_panics_or_hangs_hurts_its_own_keys() {
    let stage = Stage::built(1, settings(), |builder| builder.load_timeout(Duration::from_millis(300))).await;
    let panics = |keys: Vec<u64>| async move {
        if keys.is_empty() {
            Ok::<HashMap<u64, String>, io::Error>(HashMap::new())
        } else {
            panic!("{} keys broke", keys.len())
        }
    };
    for (pk, answer) in stage.products.get_many(0..3, panics).await {
        match answer {
            Err(Error::LoadPanicked { key, message }) => {
                assert_eq!(key.as_str(), format!("product:{pk}"));
                assert!(message.ends_with(" keys broke"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    let held = Table::new(Origin::held());
    let hanging = tokio::spawn({
        let (products, load) = (stage.products.clone(), held.loader());
        async move { products.get_many(10..13, load).await }
    });
    held.origin.begun().await;
    let open = Table::new(Origin::open());
    assert_eq!(stage.products.get_many([20], open.loader()).await.into_values().unwrap(), [Some(name(20))]);
    for (_, answer) in tokio::time::timeout(LONG, hanging).await.unwrap().unwrap() {
        assert!(matches!(answer, Err(Error::LoadTimedOut { .. })), "{answer:?}");
    }
    until("the leases' release", async || stage.servers[0].locks().await == 0).await;
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_cancel_the_call() {
    let stage = Stage::new(2).await;
    let table = Table::new(Origin::held());
    let leaving = tokio::spawn({
        let (products, load) = (stage.products.clone(), table.loader());
        async move { products.get_many(0..20, load).await.len() }
    });
    table.origin.begun().await;
    let staying = tokio::spawn({
        let (products, load) = (stage.products.clone(), table.loader());
        async move { products.get_many(5..10, load).await.into_values().unwrap() }
    });
    until("the second read", async || stage.counters.sum("ringtide_reader_joined_total", "") == 5).await;
    leaving.abort();
    assert!(leaving.await.unwrap_err().is_cancelled());
    table.origin.allow(100);
    assert_eq!(staying.await.unwrap()[0], Some(name(5)));
    until("the fills", async || stage.counters.sum("ringtide_reader_fills_total", "stored") == 20).await;
    assert_eq!(table.calls().concat().len(), 20);
}

#[tokio::test]
async fn a_closed_cache_ends_its_calls() {
    let stage = Stage::new(1).await;
    let table = Table::new(Origin::held());
    let reading = tokio::spawn({
        let (products, load) = (stage.products.clone(), table.loader());
        async move { products.get_many(0..3, load).await }
    });
    table.origin.begun().await;
    stage.cache.close().await;
    for (_, answer) in tokio::time::timeout(LONG, reading).await.unwrap().unwrap() {
        assert!(matches!(answer, Err(Error::Closed { .. })), "{answer:?}");
    }
}
