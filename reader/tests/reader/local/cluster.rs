//! The tracked tier on a cluster: every master tells, and a slot that moves takes its copies along.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use ringtide::{Cache, LocalTier, SpaceSettings};
use ringtide_servers::ValkeyCluster;

use super::super::support::{Counters, LONG, until};
use super::{FLUSHES, HITS, MINUTE, entry, key, run};

const ITEMS: u64 = 60;

/// Longer than it takes to notice who was promoted, and shorter than the map of slots is looked at by itself.
const NOTICED: Duration = Duration::from_secs(6);

/// One connection to each master.
async fn writers(cluster: &ValkeyCluster) -> Vec<MultiplexedConnection> {
    let mut writers = Vec::new();
    for at in 0..cluster.masters() {
        writers.push(writer(cluster, at).await);
    }
    writers
}

async fn writer(cluster: &ValkeyCluster, at: usize) -> MultiplexedConnection {
    let client = redis::Client::open(format!("redis://{}/", cluster.address_of(at))).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn put(writer: &mut MultiplexedConnection, item: u64, value: u64) {
    let set = redis::cmd("SET").arg(key(item)).arg(&entry(value, MINUTE)[..]).clone();
    set.exec_async(writer).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_master_tells_of_its_changes_and_a_moved_slot_is_read_anew() {
    let cluster = ValkeyCluster::start(3).unwrap();
    let counters = Counters::default();
    let builder = Cache::builder().cluster(true).shard("a", cluster.address());
    let settings = SpaceSettings::new("item", "item:{pk}").local(LocalTier::Tracked(MINUTE));
    let cache = counters.build(builder.space(settings)).await;
    let space = cache.space::<u64>("item").unwrap();
    let read = async |item: u64| {
        space.get_or_load(item, || async { Ok::<_, std::io::Error>(None) }).await.unwrap().expect("a cached value")
    };
    let mut writers = writers(&cluster).await;
    let owner: Vec<usize> = (0..ITEMS).map(|item| cluster.first_owner(cluster.slot(&key(item)).unwrap())).collect();
    for value in 1..5 {
        for item in 0..ITEMS {
            put(&mut writers[owner[item as usize]], item, value).await;
        }
        for item in 0..ITEMS {
            until("the new value", async || read(item).await == value).await;
        }
        let hits = counters.sum(HITS, "");
        for item in 0..ITEMS {
            assert_eq!(read(item).await, value);
        }
        assert!(counters.sum(HITS, "") >= hits + ITEMS / 2, "most are kept");
    }

    let item = 7;
    let (slot, from) = (cluster.slot(&key(item)).unwrap(), owner[item as usize]);
    let to = (from + 1) % 3;
    assert_eq!(read(item).await, 4);
    cluster.begin_move(slot, from, to).unwrap();
    cluster.move_name(&key(item), from, to).unwrap();
    cluster.end_move(slot, to).unwrap();
    put(&mut writers[to], item, 9).await;
    until("the value of its new master", async || read(item).await == 9).await;
    put(&mut writers[to], item, 10).await;
    until("its change", async || read(item).await == 10).await;

    let (other, before) = ((0..ITEMS).find(|item| owner[*item as usize] == from && *item != 7).unwrap(), 4);
    assert_eq!(read(other).await, before);
    let flushes = counters.sum(FLUSHES, "disconnected");
    run(&mut writers[from], &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    put(&mut writers[from], other, 11).await;
    until("the flush", async || counters.sum(FLUSHES, "disconnected") > flushes).await;
    let after = space.get_or_load(other, || async { Ok::<_, std::io::Error>(Some(11)) }).await.unwrap();
    assert_eq!(after, Some(11));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_cut_off_and_still_answers_keeps_no_copy_alive_once_another_is_promoted() {
    let arguments = ["--cluster-node-timeout", "60000", "--cluster-require-full-coverage", "no"];
    let cluster = ValkeyCluster::start_with(3, 1, &arguments).unwrap();
    let builder = Cache::builder().cluster(true).command_timeout(LONG).shard("a", cluster.address());
    let settings = SpaceSettings::new("item", "item:{pk}").local(LocalTier::Tracked(MINUTE));
    let counters = Counters::default();
    let cache = counters.build(builder.space(settings)).await;
    let space = cache.space::<u64>("item").unwrap();
    let read = async |item: u64| {
        space.get_or_load(item, || async { Ok::<_, std::io::Error>(None) }).await.unwrap().expect("a cached value")
    };
    let mut writers = writers(&cluster).await;
    let item = (0..ITEMS).find(|item| cluster.first_owner(cluster.slot(&key(*item)).unwrap()) == 0).unwrap();
    put(&mut writers[0], item, 1).await;
    let hits = counters.sum(HITS, "");
    until("a copy", async || read(item).await == 1 && counters.sum(HITS, "") > hits).await;

    // The first master takes no word from the others any more, and answers as before.
    for other in 1..4 {
        cluster.ask(0, &["CLUSTER", "FORGET", &cluster.id(other).unwrap()]).unwrap();
    }
    cluster.ask(3, &["CLUSTER", "FAILOVER", "TAKEOVER"]).unwrap();
    cluster.wait(3, &["ROLE"], "master").unwrap();
    put(&mut writer(&cluster, 3).await, item, 2).await;
    let changed = Instant::now();
    assert_eq!(cluster.ask(0, &["PING"]).unwrap(), "PONG");
    cluster.ask(0, &["GET", &key(item)]).expect("it thinks that it is in charge");
    until("the promoted one's value", async || read(item).await == 2).await;
    assert!(changed.elapsed() < NOTICED, "{:?}", changed.elapsed());
    let hits = counters.sum(HITS, "");
    until("a copy of it", async || read(item).await == 2 && counters.sum(HITS, "") > hits).await;
    put(&mut writer(&cluster, 3).await, item, 3).await;
    until("its change", async || read(item).await == 3).await;
}
