//! One ring shard of three that is stopped: the others go on as if nothing were, and nothing is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use ringtide_core::config::Config;
use ringtide_core::pipeline::{Pipeline, Services, Ticket};
use ringtide_core::record::{ChangeRecord, RawRecord, UnreadableRecord, record_from_json};
use ringtide_core::ring::Ring;
use support::Server;
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(60);
const PAGE: u64 = 50;

fn record(row: u64) -> Result<ChangeRecord, UnreadableRecord> {
    let image = format!(r#"{{"pk":{{"N":"{row}"}}}}"#);
    let text = format!(
        r#"{{"eventName":"MODIFY","eventSourceARN":"arn:aws:dynamodb:eu-west-1:123456789012:table/products/stream/2026-01-02T03:04:05.678",
        "dynamodb":{{"Keys":{image},"OldImage":{image},"NewImage":{image},"SequenceNumber":"{}"}}}}"#,
        1000 + row
    );
    record_from_json(RawRecord::parse(text).unwrap().as_raw())
}

/// How long a ring shard stands still, `RINGTIDE_OUTAGE_SECONDS`.
fn outage() -> Duration {
    let seconds = std::env::var("RINGTIDE_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(3))
}

struct Stage {
    servers: Vec<Server>,
    raws: Vec<MultiplexedConnection>,
    pipeline: Pipeline,
    ring: Ring,
}

impl Stage {
    async fn new(log_capacity: usize) -> Self {
        let servers: Vec<_> = (0..3).map(|_| Server::start()).collect();
        let shards: String = servers
            .iter()
            .zip(["a", "b", "c"])
            .map(|(server, name)| format!("{{ name = \"{name}\", address = \"{}\" }}, ", server.address()))
            .collect();
        let text = format!(
            "valkey = {{ command_timeout = \"300ms\" }}\nworker = {{ log_capacity = {log_capacity} }}\n\
             ring = {{ shards = [{shards}] }}\n\
             [spaces.product]\nkey = \"product:{{pk}}\"\n[[routes]]\ntable = \"products\"\nspace = \"product\"\n"
        );
        let config = Config::parse(&text, []).unwrap();
        let connected = Pipeline::connect(&config, Services::default()).unwrap();
        let mut raws = Vec::new();
        for (server, shard) in servers.iter().zip(&connected.shards) {
            shard.ready(LONG).await.unwrap();
            raws.push(server.raw().await);
        }
        Self { servers, raws, pipeline: connected.pipeline, ring: Ring::new(config.ring).unwrap() }
    }

    fn owner(&self, row: u64) -> usize {
        self.ring.locate(format!("product:{row}").as_bytes()).index()
    }

    /// Caches a page's rows where they belong, except on the server that is stopped.
    async fn fill(&mut self, rows: std::ops::Range<u64>, stopped: Option<usize>) {
        for row in rows {
            let owner = self.owner(row);
            if Some(owner) != stopped {
                support::set(&mut self.raws[owner], &format!("product:{row}"), b"x").await;
            }
        }
    }

    async fn size(&mut self, server: usize) -> u64 {
        redis::cmd("DBSIZE").query_async(&mut self.raws[server]).await.unwrap()
    }

    /// Waits until nothing is cached on a server.
    async fn emptied(&mut self, server: usize) {
        let end = Instant::now() + LONG;
        while self.size(server).await > 0 {
            assert!(Instant::now() < end, "{} entries are left on {server}", self.size(server).await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn submit(&self, rows: std::ops::Range<u64>) -> Ticket {
        let submitted = self.pipeline.submit(rows.map(record).collect(), 0);
        tokio::time::timeout(LONG, submitted).await.expect("taking in waits for nobody who is down")
    }
}

async fn undisturbed(log_capacity: usize) -> usize {
    let mut stage = Stage::new(log_capacity).await;
    let mut tickets = Vec::new();
    stage.fill(0..PAGE, None).await;
    let warm = stage.submit(0..PAGE).await;
    warm.await.unwrap();

    stage.servers[1].freeze();
    let end = Instant::now() + outage();
    let mut next = PAGE;
    while Instant::now() < end || next < 40 * PAGE {
        stage.fill(next..next + PAGE, Some(1)).await;
        tickets.push(stage.submit(next..next + PAGE).await);
        next += PAGE;
    }
    // Every command for the others is carried out while the one is stopped; none of it waits for that one.
    for server in [0, 2] {
        stage.emptied(server).await;
    }
    assert_eq!(stage.pipeline.unhealthy(), ["b".into()]);
    assert!(stage.pipeline.held_up());
    let waiting = tickets.iter_mut().filter(|ticket| ticket.first_undelivered().is_some()).count();
    let with_b = tickets.len();
    assert_eq!(waiting, with_b, "every page has a row of the stopped one, and waits for that alone");
    for (page, ticket) in (1_u64..).zip(&tickets) {
        let first = ticket.first_undelivered().map(|index| page * PAGE + index as u64).unwrap();
        assert_eq!(stage.owner(first), 1, "row {first}");
    }

    stage.servers[1].thaw();
    for ticket in tickets {
        tokio::time::timeout(LONG, ticket).await.expect("nothing hangs").unwrap();
    }
    assert_eq!(stage.pipeline.pending(), 0);
    assert_eq!(stage.size(1).await, 0);
    assert!(stage.pipeline.unhealthy().is_empty());
    with_b
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_stopped_leaves_the_others_progress_as_it_is() {
    let pages = undisturbed(200_000).await;
    println!("{pages} pages were taken in while a ring shard was stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn also_where_more_waits_for_it_than_is_kept() {
    undisturbed(1_000).await;
}
