//! The tier in memory against the bare cache it is built on.

use std::sync::Arc;

use quick_cache::sync::Cache as Bare;
use ringtide::{Cache, LocalTier, SpaceSettings};
use ringtide_servers::ValkeyServer;
use ringtide_tests::rounds::{Contestant, report, take_turns};

use super::contest::{Product, ROUNDS};

const KEYS: usize = 1000;
const READS: usize = 400_000;

pub(crate) async fn run() {
    let server = ValkeyServer::start().unwrap();
    let day = std::time::Duration::from_secs(86_400);
    let cache = Cache::builder()
        .shard("a", server.address())
        .space(SpaceSettings::new("product", "product:{pk}").local(LocalTier::Tracked(day)))
        .build()
        .await
        .unwrap();
    let products = cache.space::<Product>("product").unwrap();
    let bare: Bare<String, Arc<Product>> = Bare::new(10 * KEYS);
    let mut keys = Vec::new();
    for n in 0..KEYS {
        let key = products.key(n).unwrap();
        let load = move || async move { Ok::<_, std::io::Error>(Some(Product::number(n))) };
        products.get_or_load_shared(&key, load).await.unwrap();
        bare.insert(key.to_string(), Arc::new(Product::number(n)));
        keys.push(key);
    }
    cache.settled().await;
    let read = |n: usize| {
        let load = || async { Err::<Option<Product>, _>(std::io::Error::other("a hit loads nothing")) };
        products.get_or_load_shared(&keys[n % KEYS], load)
    };
    // The second read keeps what the first one stored; the server has told of the fill by then.
    for n in 0..KEYS * 3 {
        read(n).await.unwrap();
    }
    let mut contestants = [
        Contestant {
            name: "quick_cache, get".into(),
            operations: READS as u64,
            prepare: None,
            run: Box::new(|| {
                Box::pin(async {
                    for n in 0..READS {
                        std::hint::black_box(bare.get(keys[n % KEYS].as_str()).unwrap());
                    }
                })
            }),
        },
        Contestant {
            name: "get_or_load_shared, tracked, all hits".into(),
            operations: READS as u64,
            prepare: None,
            run: Box::new(|| {
                Box::pin(async {
                    for n in 0..READS {
                        std::hint::black_box(read(n).await.unwrap());
                    }
                })
            }),
        },
    ];
    let times = take_turns(ROUNDS, 1, &mut contestants).await;
    report("hits in this process's memory, one thread", &times, Some(("get_or_load_shared, tracked, all hits", 0.5)));
    println!("  150 ns: {}", if times[1].median() <= 150.0 { "met" } else { "missed" });
}
