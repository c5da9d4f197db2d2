//! `get_many` over three ring shards against one `MGET` a shard.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use ringtide::{Cache, SpaceSettings};
use ringtide_core::entry::HEADER_LEN;
use ringtide_core::ring::Ring;
use ringtide_servers::ValkeyServer;
use ringtide_tests::products;
use ringtide_tests::raw::raw;
use ringtide_tests::rounds::{Contestant, report, take_turns};
use tokio::task::JoinSet;

use super::contest::{Product, ROUNDS};

const KEYS: usize = 3000;
const BATCH: usize = 100;
/// Reads of a turn: some tens of ms, so that what a turn begins with does not count for much.
const TURN: usize = 320;
const TURNS: usize = 6;

pub(crate) async fn run() {
    let servers: Vec<_> = (0..3).map(|_| ValkeyServer::start().unwrap()).collect();
    let config = products::config(&servers);
    let ring = Arc::new(Ring::new(config.ring.clone()).unwrap());
    let mut connections = Vec::new();
    for server in &servers {
        connections.push(raw(server).await.unwrap());
    }
    let owner = |key: &str| ring.locate(key.as_bytes()).index();
    for n in 0..KEYS {
        let key = format!("product:{n}");
        let connection = &mut connections[owner(&key)];
        let _: () = redis::cmd("SET").arg(&key).arg(Product::number(n).entry()).query_async(connection).await.unwrap();
    }
    // What each batch asks of each shard is known to the raw client beforehand.
    let batches: Arc<Vec<Vec<Vec<String>>>> = Arc::new(
        (0..KEYS / BATCH)
            .map(|batch| {
                let mut shards = vec![Vec::new(); 3];
                for n in batch * BATCH..(batch + 1) * BATCH {
                    let key = format!("product:{n}");
                    shards[owner(&key)].push(key);
                }
                shards
            })
            .collect(),
    );
    let cache =
        Cache::builder().config(config).space(SpaceSettings::new("product", "product:{pk}")).build().await.unwrap();
    let products = cache.space::<Product>("product").unwrap();
    for tasks in [1_usize, 16] {
        let each = TURN / tasks;
        let theirs = || {
            let (connections, batches) = (connections.clone(), batches.clone());
            async move {
                let mut readers = JoinSet::new();
                for task in 0..tasks {
                    let (connections, batches) = (connections.clone(), batches.clone());
                    readers.spawn(async move {
                        for n in 0..each {
                            let shards = &batches[(task * 7 + n) % batches.len()];
                            let asked = shards.iter().zip(&connections).map(|(keys, connection)| async move {
                                let mut command = redis::cmd("MGET");
                                command.arg(keys);
                                let values: Vec<Bytes> = command.query_async(&mut connection.clone()).await.unwrap();
                                let read =
                                    |bytes: &Bytes| serde_json::from_slice::<Product>(&bytes[HEADER_LEN..]).unwrap();
                                values.iter().map(read).collect::<Vec<_>>()
                            });
                            std::hint::black_box(join_all(asked).await);
                        }
                    });
                }
                readers.join_all().await;
            }
        };
        let ours = || {
            let products = products.clone();
            async move {
                let mut readers = JoinSet::new();
                for task in 0..tasks {
                    let products = products.clone();
                    readers.spawn(async move {
                        for n in 0..each {
                            let first = (task * 7 + n) % (KEYS / BATCH) * BATCH;
                            let load = |_: Vec<usize>| async {
                                Err::<HashMap<usize, Option<Product>>, _>(std::io::Error::other("a hit loads nothing"))
                            };
                            let values = products.get_many(first..first + BATCH, load).await;
                            assert_eq!(std::hint::black_box(values).into_values().unwrap().len(), BATCH);
                        }
                    });
                }
                readers.join_all().await;
            }
        };
        let operations = (tasks * each * BATCH) as u64;
        let mut contestants = [
            Contestant {
                name: "redis-rs, one MGET a shard, and serde_json".into(),
                operations,
                prepare: None,
                run: Box::new(move || Box::pin(theirs())),
            },
            Contestant {
                name: "get_many, all hits".into(),
                operations,
                prepare: None,
                run: Box::new(move || Box::pin(ours())),
            },
        ];
        let times = take_turns(ROUNDS, TURNS, &mut contestants).await;
        let title = format!("{BATCH} keys at once over 3 ring shards, {tasks} tasks (a key)");
        report(&title, &times, Some(("get_many, all hits", 0.9)));
    }
}
