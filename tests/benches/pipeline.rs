//! The pipeline from memory: records a CPU second, with a ring shard that costs nothing and with real ones.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ringtide_core::command::Command;
use ringtide_core::pipeline::{Limits, Pipeline, RingShard, Services, plan};
use ringtide_core::ring::{Ring, RingHistory, ShardName};
use ringtide_core::route::Router;
use ringtide_core::valkey::{Applied, ShardError};
use ringtide_servers::ValkeyServer;
use ringtide_tests::products;
use ringtide_tests::records::page;

/// What the worker has, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PAGES: usize = 300;
const RECORDS: usize = 1000;

struct Nothing;

impl RingShard for Nothing {
    fn apply<'a>(&'a self, _: &'a [Command], _: u64) -> BoxFuture<'a, Result<Applied, ShardError>> {
        async { Ok(Applied::default()) }.boxed()
    }

    fn flush<'a>(&'a self, _: &'a str, _: Duration) -> BoxFuture<'a, Result<u64, ShardError>> {
        async { Ok(0) }.boxed()
    }

    fn reachable(&self, _: Duration) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

/// User and system time of this process so far, in seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // Fields 14 and 15 of the line, in ticks of a hundredth of a second.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn pages() -> Vec<Vec<Result<ringtide_core::record::ChangeRecord, ringtide_core::record::UnreadableRecord>>> {
    (0..PAGES).map(|n| page(n * RECORDS..(n + 1) * RECORDS)).collect()
}

async fn through(pipeline: &Pipeline) -> f64 {
    let pages = pages();
    let before = cpu_seconds();
    let mut tickets = Vec::new();
    for page in pages {
        tickets.push(pipeline.submit(page, 0).await);
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    (PAGES * RECORDS) as f64 / (cpu_seconds() - before).max(0.01)
}

fn main() {
    // `cargo test --benches` runs benchmarks too; only `cargo bench` says so.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let servers: Vec<_> = (0..3).map(|_| ValkeyServer::start().unwrap()).collect();
        let config = products::config(&servers);
        println!(
            "\npipeline from memory, {} records of 5 attributes, goal 300,000 records a CPU second",
            PAGES * RECORDS
        );

        let ring = RingHistory::new(Ring::new(config.ring.clone()).unwrap(), 1000);
        let router = Router::new(config.routes.clone());
        let prepared = pages();
        let before = cpu_seconds();
        let commands: usize = prepared.iter().map(|page| plan(&router, &ring, 0, page).commands()).sum();
        assert_eq!(commands, PAGES * RECORDS);
        let planned = commands as f64 / (cpu_seconds() - before).max(0.01);
        println!("  route, coalesce and place only               {planned:>12.0}");

        let targets = config
            .ring
            .shards
            .iter()
            .map(|shard| -> (ShardName, Arc<dyn RingShard>) { (shard.name.clone(), Arc::new(Nothing)) });
        let pipeline = Pipeline::start(router, ring, targets, Limits::default(), None);
        println!("  delivered to ring shards that cost nothing   {:>12.0}", through(&pipeline).await);

        let connected = Pipeline::connect(&config, Services::default()).unwrap();
        for shard in &connected.shards {
            shard.ready(Duration::from_secs(10)).await.unwrap();
        }
        let ring = Ring::new(config.ring.clone()).unwrap();
        for (n, server) in servers.iter().enumerate() {
            let client = redis::Client::open(format!("redis://{}", server.address())).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let mut fill = redis::pipe();
            let cached = (0..PAGES * RECORDS).step_by(10).map(|item| format!("product:{item}"));
            for key in cached.filter(|key| ring.owner(key.as_bytes()).name.as_str() == format!("s{n}")) {
                fill.set(key, "x".repeat(300)).ignore();
            }
            fill.exec_async(&mut connection).await.unwrap();
        }
        let delivered = through(&connected.pipeline).await;
        let verdict = if delivered >= 300_000.0 { "met" } else { "missed" };
        println!("  delivered to three Valkey servers, 10% cached {delivered:>11.0}   goal: {verdict}");
    });
}
