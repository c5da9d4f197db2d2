//! One ring shard of three that stands still: how long the other two take for a page, beside how long they take when
//! nothing is wrong. `RINGTIDE_OUTAGE_SECONDS` chooses how long it stands still.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use ringtide_core::pipeline::{Pipeline, Services, Ticket};
use ringtide_core::ring::Ring;
use ringtide_servers::{ValkeyServer, number};
use ringtide_tests::products;
use ringtide_tests::raw::raw;
use ringtide_tests::records::page;
use ringtide_tests::spread::Spread;

const PAGE: usize = 50;
const PAGES_EVERY: Duration = Duration::from_millis(10);
/// The one that stands still.
const STOPPED: usize = 1;
const OTHERS: [usize; 2] = [0, 2];
const GOAL: f64 = 1.2;

struct Stage {
    servers: Vec<ValkeyServer>,
    raws: Vec<MultiplexedConnection>,
    pipeline: Pipeline,
    ring: Ring,
    next: usize,
    tickets: Vec<Ticket>,
}

impl Stage {
    async fn set() -> Self {
        let servers: Vec<_> = (0..3).map(|_| ValkeyServer::start().unwrap()).collect();
        let config = products::config(&servers);
        let connected = Pipeline::connect(&config, Services::default()).unwrap();
        let mut raws = Vec::new();
        for (server, shard) in servers.iter().zip(&connected.shards) {
            shard.ready(Duration::from_secs(10)).await.unwrap();
            raws.push(raw(server).await.unwrap());
        }
        let (ring, tickets) = (Ring::new(config.ring).unwrap(), Vec::new());
        Self { servers, raws, pipeline: connected.pipeline, ring, next: 0, tickets }
    }

    /// Caches the rows of a page on the other ring shards, submits it, and tells how long it takes until they are gone.
    async fn lag(&mut self) -> Duration {
        let rows = self.next..self.next + PAGE;
        self.next += PAGE;
        let mut fills = [redis::pipe(), redis::pipe(), redis::pipe()];
        for key in rows.clone().map(|row| format!("product:{row}")) {
            fills[self.ring.locate(key.as_bytes()).index()].set(key, "x").ignore();
        }
        for other in OTHERS {
            fills[other].exec_async(&mut self.raws[other]).await.unwrap();
        }
        let began = Instant::now();
        self.tickets.push(self.pipeline.submit(page(rows), 0).await);
        for other in OTHERS {
            while redis::cmd("DBSIZE").query_async::<u64>(&mut self.raws[other]).await.unwrap() > 0 {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
        began.elapsed()
    }

    /// The lags of pages that come at a steady pace.
    async fn lags(&mut self, time: Duration) -> Vec<Duration> {
        let mut pages = tokio::time::interval(PAGES_EVERY);
        let (mut lags, end) = (Vec::new(), Instant::now() + time);
        while Instant::now() < end {
            pages.tick().await;
            lags.push(self.lag().await);
        }
        lags
    }
}

fn main() {
    // `cargo test --benches` runs benchmarks too; only `cargo bench` says so.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let seconds = number("RINGTIDE_OUTAGE_SECONDS").unwrap_or(60);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(contest(Duration::from_secs(seconds)));
}

async fn contest(outage: Duration) {
    let mut stage = Stage::set().await;
    stage.lags(outage / 20).await;
    // Half of it before and half of it after, so that what the machine does meanwhile meets both.
    let mut calm = stage.lags(outage / 2).await;
    stage.servers[STOPPED].freeze().unwrap();
    let disturbed = stage.lags(outage).await;
    assert_eq!(stage.pipeline.unhealthy().len(), 1, "the one that stands still is known to be down");
    stage.servers[STOPPED].thaw().unwrap();
    for ticket in std::mem::take(&mut stage.tickets) {
        ticket.await.unwrap();
    }
    calm.extend(stage.lags(outage / 2).await);
    let [calm, disturbed] = [calm, disturbed].map(Spread::of);

    println!("\na page of {PAGE} records on two ring shards of three, while the third stands still for {outage:?}");
    for (name, Spread { count, p50, p99, max }) in [("nothing is wrong", calm), ("the third stands still", disturbed)] {
        println!("  {name:<24} {count:>6} pages   p50 {p50:>8.1?}  p99 {p99:>8.1?}  max {max:>8.1?}");
    }
    let ratio = disturbed.p99.as_secs_f64() / calm.p99.as_secs_f64();
    println!("  p99 {ratio:.2} times as long, goal {GOAL}: {}", if ratio <= GOAL { "met" } else { "missed" });
}
