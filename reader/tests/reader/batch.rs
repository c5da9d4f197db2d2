//! Many keys at once: hits, misses, and what one call of the loader answers.

mod coalescing;
mod faults;
mod stage;

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use ringtide::{Error, Loaded, Mode, ReadOptions, SpaceSettings, Version};

use super::support::{LONG, Origin, invalidate, until};
use stage::{Stage, Table, name};

/// The most calls of a loader that one read may have made after a while: each but the last has waited for further keys
/// for 5 ms at least.
fn most_calls(after: Duration) -> usize {
    1 + after.as_millis() as usize / 5
}

#[tokio::test]
async fn hits_cost_one_mget_a_shard_and_come_in_the_order_asked_for() {
    let stage = Stage::new(3).await;
    let table = Table::new(Origin::open());
    stage.fill(0..100, &table).await;
    stage.forget_calls().await;
    let asked: Vec<u64> = (0..100).rev().chain([7, 7, 42]).collect();
    let batch = stage.products.get_many(asked.clone(), table.loader()).await;
    assert_eq!(batch.len(), 103);
    for ((key, value), asked) in batch.into_iter().zip(asked) {
        assert_eq!((key, value.unwrap()), (asked, table.item(asked)));
    }
    assert_eq!(table.calls().concat().len(), 100, "the first read's, and none since");
    for server in &stage.servers {
        assert_eq!((server.calls("mget").await, server.calls("get").await, server.calls("evalsha").await), (1, 0, 0));
    }
    assert_eq!(stage.counters.sum("ringtide_reader_hits_total", ""), 93);
    assert_eq!(stage.counters.sum("ringtide_reader_negatives_total", ""), 10);
}

#[tokio::test]
async fn only_what_is_missing_is_loaded_and_absences_are_cached() {
    let stage = Stage::new(3).await;
    let table = Table::new(Origin::open());
    stage.fill(0..10, &table).await;
    // The table has no item whose number ends with 9.
    let before = table.calls().len();
    let found = stage.products.get_many((0..40).map(|pk| pk * 3), table.loader()).await;
    let found: HashMap<u64, String> = found.into_found().collect();
    assert_eq!(found.len(), 36);
    assert!(found.iter().all(|(pk, value)| *value == name(*pk) && pk % 10 != 9));
    let mut loaded = table.calls().split_off(before).concat();
    loaded.sort_unstable();
    assert_eq!(loaded, (0..40).map(|pk| pk * 3).filter(|pk| *pk >= 10).collect::<Vec<_>>());
    until("the fills", async || stage.counters.sum("ringtide_reader_fills_total", "stored") == 10 + 36).await;
    let calls = table.calls().len();
    let again = stage.products.get_many([9, 39, 69], table.loader()).await.into_values().unwrap();
    assert_eq!((again, table.calls().len()), (vec![None; 3], calls));
    assert_eq!(stage.counters.sum("ringtide_reader_negatives_total", ""), 4);
}

#[tokio::test]
async fn misses_of_all_shards_are_one_call() {
    let stage = Stage::new(3).await;
    let mut next = 0;
    // A machine that is busy with other tests may hold up a server for longer than a call waits.
    until("a round of one call", async || {
        let (table, began) = (Table::new(Origin::open()), Instant::now());
        let values = stage.products.get_many((next..next + 90).map(|pk| pk * 10), table.loader()).await;
        assert_eq!(values.into_found().count(), 90);
        next += 90;
        assert_eq!(table.calls().concat().len(), 90);
        assert!(table.calls().len() <= most_calls(began.elapsed()), "{:?}", table.calls());
        table.calls().len() == 1
    })
    .await;
}

#[tokio::test]
async fn a_hundred_misses_of_a_shard_take_no_hundred_round_trips() {
    let stage = Stage::new(1).await;
    let table = Table::new(Origin::open());
    stage.products.get_many([10_000], table.loader()).await.into_values().unwrap();
    until("the fill", async || stage.counters.sum("ringtide_reader_fills_total", "stored") == 1).await;
    stage.forget_calls().await;
    let reads = stage.servers[0].socket_reads().await;
    stage.products.get_many((0..1000).filter(|pk| pk % 10 != 9).take(100), table.loader()).await.into_values().unwrap();
    until("the fills", async || stage.counters.sum("ringtide_reader_fills_total", "stored") == 101).await;
    let taken = stage.servers[0].socket_reads().await - reads;
    assert_eq!(stage.servers[0].calls("evalsha").await, 200, "100 leases and 100 fills");
    assert!(taken < 40, "the server read from its sockets {taken} times");
}

#[tokio::test]
async fn keys_that_repeat_are_looked_up_and_loaded_once() {
    let stage = Stage::new(1).await;
    let table = Table::new(Origin::open());
    stage.forget_calls().await;
    let values = stage.products.get_many([5, 1, 5, 5, 1], table.loader()).await.into_values().unwrap();
    assert_eq!(values, [5, 1, 5, 5, 1].map(|pk| Some(name(pk))));
    assert_eq!(table.calls().concat(), [5, 1]);
    assert_eq!(stage.servers[0].calls("evalsha").await, 4, "two leases and two fills");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_keys_are_answered_and_each_is_loaded_once() {
    let stage = Stage::new(3).await;
    let table = Table::new(Origin::open());
    for round in 0..2 {
        let batch = tokio::time::timeout(LONG, stage.products.get_many(0..10_000, table.loader())).await.unwrap();
        for (at, (key, value)) in (0..).zip(&batch) {
            assert_eq!((*key, value.as_ref().unwrap().clone()), (at, table.item(at)), "{round}");
        }
        until("the fills", async || stage.counters.sum("ringtide_reader_fills_total", "stored") == 10_000).await;
    }
    let mut loaded = table.calls().concat();
    loaded.sort_unstable();
    assert!(loaded.into_iter().eq(0..10_000));
}

#[tokio::test]
async fn a_key_that_cannot_be_rendered_fails_alone() {
    let stage = Stage::new(1).await;
    let load = |keys: Vec<String>| async move {
        Ok::<_, Infallible>(keys.into_iter().map(|key| (key.clone(), key)).collect::<HashMap<_, _>>())
    };
    let long = "x".repeat(9000);
    let batch = stage.products.get_many(["a".to_owned(), long, "b".to_owned()], load).await;
    assert_eq!(batch.errors().count(), 1);
    let answers: Vec<_> = batch.into_iter().map(|(_, answer)| answer).collect();
    assert!(
        matches!(&answers[..], [Ok(Some(a)), Err(Error::Key(_)), Ok(Some(b))] if a == "a" && b == "b"),
        "{answers:?}"
    );
}

#[tokio::test]
async fn an_invalidation_during_the_load_voids_its_own_key_alone() {
    let stage = Stage::new(1).await;
    let table = Table::new(Origin::held());
    let shard = stage.servers[0].shard().await;
    let reading = tokio::spawn({
        let (products, load) = (stage.products.clone(), table.loader());
        async move { products.get_many([1, 2, 3], load).await.into_values().unwrap() }
    });
    until("the load", async || table.calls().concat().len() == 3).await;
    invalidate(&shard, "product:2", Mode::Plain, Version::NONE).await;
    let late = tokio::spawn({
        let (products, load) = (stage.products.clone(), table.loader());
        async move { products.get_many([2], load).await.into_values().unwrap() }
    });
    until("the late read", async || stage.counters.sum("ringtide_reader_joined_total", "") == 1).await;
    table.origin.allow(100);
    assert_eq!(reading.await.unwrap(), [1, 2, 3].map(|pk| Some(name(pk))), "it began before the change");
    assert_eq!(late.await.unwrap(), [Some(name(2))]);
    let mut loaded = table.calls().concat();
    loaded.sort_unstable();
    assert_eq!(loaded, [1, 2, 2, 3], "the late read knows of the change, and loads for itself");
    until("the fills", async || stage.counters.sum("ringtide_reader_fills_total", "stored") == 3).await;
    assert_eq!(stage.counters.sum("ringtide_reader_fills_total", "void"), 1);
}

#[tokio::test]
async fn two_reads_of_overlapping_keys_load_every_key_once() {
    let stage = Stage::new(3).await;
    let table = Table::new(Origin::held());
    let read = |keys: std::ops::Range<u64>| {
        let (products, load) = (stage.products.clone(), table.loader());
        tokio::spawn(async move { products.get_many(keys, load).await.into_values().unwrap() })
    };
    let first = read(0..60);
    table.origin.begun().await;
    let second = read(30..90);
    until("the second read", async || stage.counters.sum("ringtide_reader_joined_total", "") == 30).await;
    table.origin.allow(100);
    assert_eq!(first.await.unwrap().len(), 60);
    let values = second.await.unwrap();
    assert_eq!(values, (30..90).map(|pk| table.item(pk)).collect::<Vec<_>>());
    let mut loaded = table.calls().concat();
    loaded.sort_unstable();
    assert_eq!(loaded, (0..90).collect::<Vec<_>>());
}

#[tokio::test]
async fn values_past_their_time_are_served_and_loaded_again_together_behind_the_read() {
    let settings = SpaceSettings::new("product", "product:{pk}")
        .ttl(Duration::from_millis(20))
        .ttl_jitter(0.0)
        .stale_while_revalidate(LONG);
    let stage = Stage::with(1, settings).await;
    let table = Table::new(Origin::open());
    stage.fill(0..60, &table).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    let (again, began) = (Table::new(Origin::held()), Instant::now());
    let values = stage.products.get_many(0..60, again.loader()).await;
    assert_eq!(values.into_found().count(), 54, "nobody waits for the load");
    until("the loads", async || again.calls().concat().len() == 54).await;
    assert!(again.calls().len() <= most_calls(began.elapsed()), "{:?}", again.calls());
    again.origin.allow(100);
    until("the fills", async || stage.counters.sum("ringtide_reader_fills_total", "stored") == 60 + 54).await;
}

#[tokio::test]
async fn a_read_of_fresh_values_looks_nothing_up_and_loads_all() {
    let stage = Stage::new(1).await;
    let table = Table::new(Origin::open());
    stage.fill(1..4, &table).await;
    stage.forget_calls().await;
    let fresh = stage.products.with(ReadOptions::new().fresh());
    fresh.get_many(1..4, table.loader()).await.into_values().unwrap();
    assert_eq!((table.calls().concat().len(), stage.servers[0].calls("mget").await), (6, 0));
}

#[tokio::test]
async fn a_loader_may_return_more_than_the_value_for_some_keys() {
    let stage = Stage::new(1).await;
    let load = |keys: Vec<u64>| async move {
        let short = |pk: u64| Loaded::new(Some(name(pk))).ttl(Duration::from_secs(5));
        Ok::<_, Infallible>(keys.into_iter().map(|pk| (pk, short(pk))).collect::<HashMap<_, _>>())
    };
    stage.products.get_many([1], load).await.into_values().unwrap();
    until("the fill", async || stage.servers[0].exists("product:1").await).await;
    let ttl: u64 =
        redis::cmd("PTTL").arg("product:1").query_async(&mut stage.servers[0].connection().await).await.unwrap();
    assert!((1_000..=5_000).contains(&ttl), "{ttl} ms");
}
