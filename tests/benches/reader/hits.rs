//! The hit path against `GET` and serde_json.

use std::sync::Arc;

use bytes::Bytes;
use ringtide::{Cache, LocalTier, SpaceSettings};
use ringtide_core::entry::HEADER_LEN;
use ringtide_servers::ValkeyServer;
use ringtide_tests::raw::raw;
use ringtide_tests::rounds::{Contestant, Work, report, take_turns};
use tokio::task::JoinSet;

use super::contest::{Latencies, Product, ROUNDS, report_quantile};

const KEYS: usize = 1000;

fn begin<'a>(latencies: &Latencies) -> Work<'a> {
    let latencies = latencies.clone();
    Box::new(move || {
        latencies.begin();
        Box::pin(std::future::ready(()))
    })
}

pub(crate) async fn run() {
    let server = ValkeyServer::start().unwrap();
    let mut connection = raw(&server).await.unwrap();
    let keys: Arc<Vec<String>> = Arc::new((0..KEYS).map(|n| format!("product:{n}")).collect());
    for (n, key) in keys.iter().enumerate() {
        let _: () =
            redis::cmd("SET").arg(key).arg(Product::number(n).entry()).query_async(&mut connection).await.unwrap();
    }
    for (tier, title) in
        [(LocalTier::Off, "nothing kept in memory"), (ringtide::KeySpace::DEFAULT_LOCAL, "the default tier")]
    {
        let cache = Cache::builder()
            .shard("a", server.address())
            .space(SpaceSettings::new("product", "product:{pk}").local(tier))
            .build()
            .await
            .unwrap();
        let products = cache.space::<Product>("product").unwrap();
        // Short turns, and many: where the threads lie makes one turn of a single task half as long again as another.
        for (tasks, each, turns) in [(1_usize, 100_usize, 20_usize), (64, 50, 10), (512, 40, 4)] {
            let (theirs, ours) = (Latencies::new(turns), Latencies::new(turns));
            let raw_round = || {
                let (connection, keys, latencies) = (connection.clone(), keys.clone(), theirs.clone());
                async move {
                    let mut readers = JoinSet::new();
                    for task in 0..tasks {
                        let (connection, keys, latencies) = (connection.clone(), keys.clone(), latencies.clone());
                        readers.spawn(async move {
                            let read = |n: usize| {
                                let (mut connection, key) = (connection.clone(), &keys[(task * 31 + n) % KEYS]);
                                async move {
                                    let bytes: Bytes =
                                        redis::cmd("GET").arg(key).query_async(&mut connection).await.unwrap();
                                    let product: Product = serde_json::from_slice(&bytes[HEADER_LEN..]).unwrap();
                                    std::hint::black_box(product);
                                }
                            };
                            latencies.time(each, read).await;
                        });
                    }
                    readers.join_all().await;
                }
            };
            let our_round = || {
                let (products, latencies) = (products.clone(), ours.clone());
                async move {
                    let mut readers = JoinSet::new();
                    for task in 0..tasks {
                        let (products, latencies) = (products.clone(), latencies.clone());
                        readers.spawn(async move {
                            let read = |n: usize| {
                                let products = &products;
                                let load = || async {
                                    Err::<Option<Product>, _>(std::io::Error::other("a hit loads nothing"))
                                };
                                async move {
                                    let product = products.get_or_load((task * 31 + n) % KEYS, load).await.unwrap();
                                    std::hint::black_box(product);
                                }
                            };
                            latencies.time(each, read).await;
                        });
                    }
                    readers.join_all().await;
                }
            };
            let operations = (tasks * each) as u64;
            let mut contestants = [
                Contestant {
                    name: "redis-rs GET and serde_json".into(),
                    operations,
                    prepare: Some(begin(&theirs)),
                    run: Box::new(move || Box::pin(raw_round())),
                },
                Contestant {
                    name: "get_or_load, all hits".into(),
                    operations,
                    prepare: Some(begin(&ours)),
                    run: Box::new(move || Box::pin(our_round())),
                },
            ];
            let times = take_turns(ROUNDS, turns, &mut contestants).await;
            report(&format!("hit path, {title}, {tasks} tasks"), &times, Some(("get_or_load, all hits", 0.97)));
            report_quantile(&theirs, &ours, 0.99, 1.05);
        }
        cache.close().await;
    }
}
