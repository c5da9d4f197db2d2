//! One ring shard of three that is stopped: the others go on as if nothing were, and nothing is lost.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use ringtide_core::config::Config;
use ringtide_core::pipeline::{Pipeline, Services, Ticket};
use ringtide_core::ring::Ring;
use ringtide_servers::number;
use tokio::time::Instant;

use crate::support::{PRODUCTS, Server, change, set};

const LONG: Duration = Duration::from_secs(60);
const PAGE: u64 = 50;
/// The one that is stopped, and the others.
const STOPPED: usize = 1;
const OTHERS: [usize; 2] = [0, 2];

/// How long a ring shard stands still, `RINGTIDE_OUTAGE_SECONDS`.
fn outage() -> Duration {
    Duration::from_secs(number("RINGTIDE_OUTAGE_SECONDS").unwrap_or(3))
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
             ring = {{ shards = [{shards}] }}\n{PRODUCTS}"
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
                set(&mut self.raws[owner], &format!("product:{row}"), b"x").await;
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
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Caches a page's rows and submits it; tells how long it took until the others than the stopped one were done.
    async fn deliver(&mut self, rows: std::ops::Range<u64>, stopped: Option<usize>) -> (Ticket, Duration) {
        self.fill(rows.clone(), stopped).await;
        let began = Instant::now();
        let ticket = self.submit(rows).await;
        for server in OTHERS {
            self.emptied(server).await;
        }
        (ticket, began.elapsed())
    }

    async fn submit(&self, rows: std::ops::Range<u64>) -> Ticket {
        let submitted = self.pipeline.submit(rows.map(change).collect(), 0);
        tokio::time::timeout(LONG, submitted).await.expect("taking in waits for nobody who is down")
    }
}

fn p99(mut lags: Vec<Duration>) -> Duration {
    lags.sort_unstable();
    lags[lags.len() * 99 / 100]
}

/// What was taken in while one was stopped, and how long the others took for 99 of 100 pages.
struct Seen {
    pages: usize,
    calm: Duration,
    disturbed: Duration,
}

async fn undisturbed(log_capacity: usize) -> Seen {
    let mut stage = Stage::new(log_capacity).await;
    let (mut tickets, mut calm, mut disturbed) = (Vec::new(), Vec::new(), Vec::new());
    let (mut next, end) = (0, Instant::now() + outage());
    while Instant::now() < end || next < 100 * PAGE {
        let (ticket, lag) = stage.deliver(next..next + PAGE, None).await;
        ticket.await.unwrap();
        calm.push(lag);
        next += PAGE;
    }

    let first = next / PAGE;
    stage.servers[STOPPED].freeze();
    let end = Instant::now() + outage();
    while Instant::now() < end || next < (first + 100) * PAGE {
        // Every command for the others is carried out while the one is stopped; none of it waits for that one.
        let (ticket, lag) = stage.deliver(next..next + PAGE, Some(STOPPED)).await;
        tickets.push(ticket);
        disturbed.push(lag);
        next += PAGE;
    }
    assert_eq!(stage.pipeline.unhealthy(), ["b".into()]);
    assert!(stage.pipeline.held_up());
    let waiting = tickets.iter_mut().filter(|ticket| ticket.first_undelivered().is_some()).count();
    let with_b = tickets.len();
    assert_eq!(waiting, with_b, "every page has a row of the stopped one, and waits for that alone");
    for (page, ticket) in (first..).zip(&tickets) {
        let first = ticket.first_undelivered().map(|index| page * PAGE + index as u64).unwrap();
        assert_eq!(stage.owner(first), STOPPED, "row {first}");
    }

    stage.servers[STOPPED].thaw();
    for ticket in tickets {
        tokio::time::timeout(LONG, ticket).await.expect("nothing hangs").unwrap();
    }
    assert_eq!(stage.pipeline.pending(), 0);
    assert_eq!(stage.size(STOPPED).await, 0);
    assert!(stage.pipeline.unhealthy().is_empty());
    Seen { pages: with_b, calm: p99(calm), disturbed: p99(disturbed) }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_stopped_leaves_the_others_progress_as_it_is() {
    let Seen { pages, calm, disturbed } = undisturbed(200_000).await;
    println!("{pages} pages were taken in while a ring shard was stopped");
    println!("the others' p99: {calm:?} undisturbed, {disturbed:?} meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn also_where_more_waits_for_it_than_is_kept() {
    undisturbed(1_000).await;
}
