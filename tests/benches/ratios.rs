//! Ratios in one run: the hit path against raw `GET`, and batches of invalidations against plain `UNLINK` and against one
//! script a key. Contestants take turns on one server.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, IntoConnectionInfo};
use ringtide::{Cache, SpaceSettings};
use ringtide_core::command::Command;
use ringtide_core::config::Config;
use ringtide_core::entry::{Codec, Entry, HEADER_LEN, Header};
use ringtide_core::key::CacheKey;
use ringtide_core::ring::Ring;
use ringtide_core::valkey::Shard;
use ringtide_servers::ValkeyServer;
use ringtide_tests::rounds::{Contestant, Work, report, take_turns};
use serde::{Deserialize, Serialize};

const ROUNDS: usize = 15;
const KEYS: usize = 1000;

#[derive(Clone, Serialize, Deserialize)]
struct Product {
    pk: String,
    name: String,
    description: String,
    price: u64,
}

fn main() {
    // `cargo test --benches` runs benchmarks too; only `cargo bench` says so.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let server = ValkeyServer::start().unwrap();
        hits(&server).await;
        invalidations(&server).await;
    });
}

/// A raw connection with the settings of the product's own.
async fn raw(server: &ValkeyServer) -> MultiplexedConnection {
    let info = format!("redis://{}/?protocol=resp3", server.address()).into_connection_info().unwrap();
    let client = redis::Client::open(info.set_tcp_settings(TcpSettings::default().set_nodelay(true))).unwrap();
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(Some(Duration::from_millis(500)))
        .set_pipeline_buffer_size(1024);
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

async fn hits(server: &ValkeyServer) {
    let mut connection = raw(server).await;
    let keys: Arc<Vec<CacheKey>> =
        Arc::new((0..KEYS).map(|n| CacheKey::new(format!("product:{n}")).unwrap()).collect());
    for (n, key) in keys.iter().enumerate() {
        let product = Product {
            pk: n.to_string(),
            name: format!("product number {n}"),
            description: "x".repeat(200),
            price: n as u64,
        };
        let payload = serde_json::to_vec(&product).unwrap().into();
        let entry = Entry { header: Header::value(Codec::Json), payload }.to_bytes();
        let _: () = redis::cmd("SET").arg(key.as_str()).arg(&entry[..]).query_async(&mut connection).await.unwrap();
    }
    let cache = Cache::builder()
        .shard("a", server.address())
        .space(SpaceSettings::new("product", "product:{pk}"))
        .build()
        .await
        .unwrap();
    let products = cache.space::<Product>("product").unwrap();
    products.get_or_load(0, || async { Ok::<_, std::io::Error>(None::<Product>) }).await.unwrap();

    for tasks in [1_usize, 64, 512] {
        let each = if tasks == 1 { 4000 } else { 40_000 / tasks };
        let operations = (tasks * each) as u64;
        let spread = move |work: Arc<dyn Fn(usize) -> tokio::task::JoinHandle<()> + Send + Sync>| async move {
            let handles: Vec<_> = (0..tasks).map(|task| work(task)).collect();
            for handle in handles {
                handle.await.unwrap();
            }
        };
        let raw_work: Arc<dyn Fn(usize) -> tokio::task::JoinHandle<()> + Send + Sync> = {
            let (connection, keys) = (connection.clone(), keys.clone());
            Arc::new(move |task| {
                let (mut connection, keys) = (connection.clone(), keys.clone());
                tokio::spawn(async move {
                    for n in 0..each {
                        let key = &keys[(task * 31 + n) % KEYS];
                        let bytes: Bytes =
                            redis::cmd("GET").arg(key.as_str()).query_async(&mut connection).await.unwrap();
                        let product: Product = serde_json::from_slice(&bytes[HEADER_LEN..]).unwrap();
                        std::hint::black_box(product);
                    }
                })
            })
        };
        let ours: Arc<dyn Fn(usize) -> tokio::task::JoinHandle<()> + Send + Sync> = {
            let products = products.clone();
            Arc::new(move |task| {
                let products = products.clone();
                tokio::spawn(async move {
                    for n in 0..each {
                        let load = || async { Err::<Option<Product>, _>(std::io::Error::other("a hit loads nothing")) };
                        let product = products.get_or_load((task * 31 + n) % KEYS, load).await.unwrap();
                        std::hint::black_box(product);
                    }
                })
            })
        };
        let mut contestants = [
            Contestant {
                name: "redis-rs GET and serde_json".into(),
                operations,
                prepare: None,
                run: Box::new(move || Box::pin(spread(raw_work.clone()))),
            },
            Contestant {
                name: "get_or_load, all hits".into(),
                operations,
                prepare: None,
                run: Box::new(move || Box::pin(spread(ours.clone()))),
            },
        ];
        let times = take_turns(ROUNDS, &mut contestants).await;
        report(&format!("hit path, {tasks} tasks"), &times, Some(("get_or_load, all hits", 0.97)));
    }
}

async fn invalidations(server: &ValkeyServer) {
    let config = Config::parse(
        &format!(
            "[[ring.shards]]\nname = \"a\"\naddress = \"{}\"\n[spaces.product]\nkey = \"product:{{pk}}\"\n",
            server.address()
        ),
        [],
    )
    .unwrap();
    let shard = Shard::connect(&Ring::new(config.ring.clone()).unwrap().shards()[0], &config.valkey).unwrap();
    shard.ready(Duration::from_secs(10)).await.unwrap();
    let space = config.spaces["product"].clone();
    let connection = raw(server).await;
    let value = "x".repeat(300);
    let single = redis::Script::new("return redis.call('UNLINK', KEYS[1], KEYS[2])");
    for (title, cached) in [("none of the keys cached", false), ("all keys cached", true)] {
        let commands: Arc<Vec<Command>> = Arc::new(
            (0..10_000)
                .map(|n| Command::drop_entry(CacheKey::new(format!("inv:{n}")).unwrap(), space.clone()))
                .collect(),
        );
        let fill = {
            let (connection, commands, value) = (connection.clone(), commands.clone(), value.clone());
            move || {
                let (mut connection, commands, value) = (connection.clone(), commands.clone(), value.clone());
                async move {
                    for chunk in commands.chunks(1000).filter(|_| cached) {
                        let mut pipe = redis::pipe();
                        for command in chunk {
                            pipe.set(command.key.as_str(), &value).ignore();
                        }
                        pipe.exec_async(&mut connection).await.unwrap();
                    }
                }
            }
        };
        let operations = commands.len() as u64;
        let plain = {
            let (connection, commands) = (connection.clone(), commands.clone());
            move || {
                let (mut connection, commands) = (connection.clone(), commands.clone());
                async move {
                    for chunk in commands.chunks(200) {
                        let mut unlink = redis::cmd("UNLINK");
                        for command in chunk {
                            unlink.arg(command.key.as_str()).arg(command.key.lock());
                        }
                        let _: u64 = unlink.query_async(&mut connection).await.unwrap();
                    }
                }
            }
        };
        let ours = {
            let (shard, commands) = (shard.clone(), commands.clone());
            move || {
                let (shard, commands) = (shard.clone(), commands.clone());
                async move {
                    for chunk in commands.chunks(200) {
                        shard.apply(chunk, 0).await.unwrap();
                    }
                }
            }
        };
        let scripts = {
            let (connection, commands, single) = (connection.clone(), commands.clone(), &single);
            move || {
                let (mut connection, commands) = (connection.clone(), commands.clone());
                async move {
                    for chunk in commands.chunks(200) {
                        let mut pipe = redis::pipe();
                        pipe.load_script(single).ignore();
                        for command in chunk {
                            let mut call = single.key(command.key.as_str());
                            pipe.invoke_script(call.key(command.key.lock())).ignore();
                        }
                        pipe.exec_async(&mut connection).await.unwrap();
                    }
                }
            }
        };
        let contestant = |name: &str, run| {
            let fill = fill.clone();
            let prepare: Option<Work<'_>> = Some(Box::new(move || Box::pin(fill())));
            Contestant { name: name.to_owned(), operations, prepare, run }
        };
        let mut contestants = [
            contestant("plain variadic UNLINK of entries and locks", Box::new(move || Box::pin(plain()))),
            contestant("apply, batches of 200", Box::new(move || Box::pin(ours()))),
            contestant("one script a key, pipelines of 200", Box::new(move || Box::pin(scripts()))),
        ];
        let times = take_turns(ROUNDS, &mut contestants).await;
        report(&format!("invalidation of 10,000 keys, {title}"), &times, None);
    }
}
