//! The tracked tier on a cluster: every master tells, and a slot that moves takes its copies along.

use redis::aio::MultiplexedConnection;
use ringtide::{Cache, LocalTier, SpaceSettings};
use ringtide_servers::ValkeyCluster;

use super::super::support::{Counters, until};
use super::{FLUSHES, HITS, MINUTE, entry, key, run};

const ITEMS: u64 = 60;

/// One connection to each master.
async fn writers(cluster: &ValkeyCluster) -> Vec<MultiplexedConnection> {
    let mut writers = Vec::new();
    for at in 0..cluster.masters() {
        let client = redis::Client::open(format!("redis://{}/", cluster.address_of(at))).unwrap();
        writers.push(client.get_multiplexed_async_connection().await.unwrap());
    }
    writers
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
