//! A hit beside redis-rs's own `GET` with the same settings, in alternating rounds of one run: reads a second, ratio.
//!
//! Both decode the value into the same type. The first argument, where it is a number, is the seconds a round takes.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic)]

use std::convert::Infallible;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, IntoConnectionInfo, ProtocolVersion};
use ringtide::{Cache, CacheKey};
use serde::{Deserialize, Serialize};

const KEY: &str = "product:42";
const ROUNDS: usize = 7;

#[derive(Clone, Serialize, Deserialize)]
struct Product {
    pk: String,
    name: String,
    description: String,
    price: u64,
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn main() {
    let seconds = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(0.6);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(run(Duration::from_secs_f64(seconds)));
}

async fn run(round: Duration) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let arguments = ["--port", &port, "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"];
    let child = Command::new("valkey-server").args(arguments).stdout(Stdio::null()).spawn().unwrap();
    let _server = Server(child);
    let cache = Cache::builder().shard("a", format!("127.0.0.1:{port}")).build().await.unwrap();
    let product = Arc::new(Product { pk: "42".into(), name: "tea".into(), description: "x".repeat(240), price: 7 });
    let key = CacheKey::new(KEY).unwrap();
    let load = move || {
        let product = product.clone();
        async move { Ok::<_, Infallible>(Some(Product::clone(&product))) }
    };
    let raw = connection(&port).await;
    while redis::cmd("EXISTS").arg(KEY).query_async::<u8>(&mut raw.clone()).await.unwrap() == 0 {
        cache.get_or_load(&key, load.clone()).await.unwrap();
    }
    for tasks in [1, 64, 512] {
        let mut ratios = Vec::new();
        let (mut raw_best, mut hit_best) = (0.0_f64, 0.0_f64);
        for at in 0..ROUNDS * 2 {
            let read_raw = {
                let raw = raw.clone();
                move || read_raw(raw.clone())
            };
            let read_hit = {
                let (cache, key, load) = (cache.clone(), key.clone(), load.clone());
                move || {
                    let (cache, key, load) = (cache.clone(), key.clone(), load.clone());
                    async move {
                        cache.get_or_load(&key, load).await.unwrap().unwrap();
                    }
                }
            };
            let raw_rate = || rate(tasks, round, read_raw);
            let hit_rate = || rate(tasks, round, read_hit);
            let (raw_rate, hit_rate) = match at % 2 {
                0 => (raw_rate().await, hit_rate().await),
                _ => {
                    let hit_rate = hit_rate().await;
                    (raw_rate().await, hit_rate)
                }
            };
            ratios.push(hit_rate / raw_rate);
            (raw_best, hit_best) = (raw_best.max(raw_rate), hit_best.max(hit_rate));
        }
        ratios.sort_by(f64::total_cmp);
        let median = ratios[ratios.len() / 2];
        println!("{tasks:>4} tasks: GET {raw_best:>8.0}/s  hit {hit_best:>8.0}/s  median ratio {median:.3}");
    }
}

async fn connection(port: &str) -> MultiplexedConnection {
    let info = format!("redis://127.0.0.1:{port}/").into_connection_info().unwrap();
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let info = info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(Some(Duration::from_millis(500)))
        .set_pipeline_buffer_size(1024);
    let client = redis::Client::open(info).unwrap();
    loop {
        match client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(connection) => return connection,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn read_raw(mut connection: MultiplexedConnection) {
    let bytes: Vec<u8> = redis::cmd("GET").arg(KEY).query_async(&mut connection).await.unwrap();
    let product: Product = serde_json::from_slice(&bytes[80..]).unwrap();
    std::hint::black_box(product);
}

/// Reads a second with so many tasks, each with one read at a time.
async fn rate<F: Future<Output = ()> + Send + 'static>(
    tasks: usize,
    round: Duration,
    read: impl Fn() -> F + Clone + Send + 'static,
) -> f64 {
    let done = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|_| {
            let (done, read) = (done.clone(), read.clone());
            tokio::spawn(async move {
                let mut reads = 0;
                while began.elapsed() < round {
                    read().await;
                    reads += 1;
                }
                done.fetch_add(reads, Ordering::Relaxed);
            })
        })
        .collect();
    for task in running {
        task.await.unwrap();
    }
    done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}
