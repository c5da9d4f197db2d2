//! Single reads that share calls of a batch loader.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use ringtide::{BatchLoader, Consistency, Loaded, Mode, SpaceSettings, Version};

use super::stage::{Stage, Table, name};
use crate::support::{LONG, Origin, invalidate, until};

#[tokio::test]
async fn single_reads_within_the_window_share_calls_of_at_most_so_many_keys() {
    let stage = Stage::new(3).await;
    let table = Table::new(Origin::open());
    let loader = BatchLoader::new(table.loader()).max_batch(20).window(LONG);
    let products = stage.products.with_loader(loader);
    let values = join_all((0..40).map(|pk| products.get(pk))).await;
    for (pk, value) in (0..).zip(values) {
        assert_eq!(value.unwrap(), table.item(pk));
    }
    // Full calls do not wait for the window's end.
    assert_eq!(table.calls().iter().map(Vec::len).collect::<Vec<_>>(), [20, 20]);
    let products = stage.products.with_loader(BatchLoader::new(table.loader()));
    assert_eq!(products.get(41).await.unwrap(), Some(name(41)), "and a call that is not full waits no longer");
    assert_eq!(stage.counters.sum("ringtide_reader_batch_loads_total", ""), 3);
}

#[tokio::test]
async fn a_read_of_many_joins_the_call_of_single_reads() {
    let stage = Stage::new(1).await;
    let table = Table::new(Origin::open());
    let products = stage.products.with_loader(BatchLoader::new(table.loader()).window(Duration::from_secs(1)));
    let clone = products.clone();
    let (one, many, other) = tokio::join!(products.get(1), products.get_many([2, 3, 1]), clone.get(4));
    assert_eq!((one.unwrap(), other.unwrap()), (Some(name(1)), Some(name(4))));
    assert_eq!(many.into_values().unwrap(), [2, 3, 1].map(|pk| Some(name(pk))));
    let mut calls = table.calls();
    calls.iter_mut().for_each(|keys| keys.sort_unstable());
    assert_eq!(calls, [[1, 2, 3, 4]]);
}

#[tokio::test]
async fn hits_call_nobody_and_wait_for_no_window() {
    let stage = Stage::new(1).await;
    let table = Table::new(Origin::open());
    stage.fill(0..5, &table).await;
    let products = stage.products.with_loader(BatchLoader::new(table.loader()).window(Duration::from_secs(3600)));
    assert_eq!(products.get(1).await.unwrap(), Some(name(1)));
    assert_eq!(products.get_many(0..5).await.into_values().unwrap().len(), 5);
    assert_eq!(table.calls().concat().len(), 5);
}

#[tokio::test]
async fn a_load_below_the_floor_is_repeated_strongly_for_its_key_alone() {
    let mode = Mode::Versioned { attribute: "v".to_owned(), tombstone: Some(Duration::from_secs(10)) };
    let stage = Stage::with(1, SpaceSettings::new("product", "product:{pk}").mode(mode.clone())).await;
    let shard = stage.servers[0].shard().await;
    // A change that is known before the read, and that a lagging load does not see.
    invalidate(&shard, "product:2", mode, Version::from_number(5)).await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    let loader = BatchLoader::with_consistency(move |keys: Vec<u64>, consistency| {
        noted.lock().unwrap().push((keys.clone(), consistency));
        async move {
            let version = if consistency == Consistency::Strong { 5 } else { 3 };
            let loaded = |pk| (pk, Loaded::new(Some(format!("version {version}"))).version_number(version));
            Ok::<_, Infallible>(keys.into_iter().map(loaded).collect::<HashMap<_, _>>())
        }
    });
    let products = stage.products.with_loader(loader);
    let versions = ["version 3", "version 5", "version 3"].map(|value| Some(value.to_owned()));
    assert_eq!(
        products.get_many([1, 2, 3]).await.into_values().unwrap(),
        versions,
        "what is known to lag is nobody's answer"
    );
    until("the fills", async || stage.counters.sum("ringtide_reader_fills_total", "stored") == 3).await;
    let keys = |of| {
        let asked = asked.lock().unwrap();
        asked.iter().filter(|(_, consistency)| *consistency == of).flat_map(|(keys, _)| keys.clone()).collect()
    };
    let (usual, strong): (Vec<u64>, Vec<u64>) = (keys(Consistency::AsUsual), keys(Consistency::Strong));
    assert_eq!((usual, strong), (vec![1, 2, 3], vec![2]));
    let cached = products.get_many([1, 2, 3]).await.into_values().unwrap();
    assert_eq!(cached, versions);
}
