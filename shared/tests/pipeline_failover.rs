//! Ring shards that come back with less than they acknowledged, on real servers: nothing old may stay.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use ringtide_core::config::Config;
use ringtide_core::pipeline::{Pipeline, Services, Ticket};
use ringtide_servers::{Direction, Flow, Proxy};
use tokio::time::Instant;

use crate::support::{PRODUCTS, Server, change, get, set, value};

const LONG: Duration = Duration::from_secs(30);
const ROWS: u64 = 40;

/// A pipeline on one ring shard, which is asked often which server it is.
async fn pipeline(address: &str, delivery: &str) -> Pipeline {
    let text = format!(
        "valkey = {{ command_timeout = \"2s\" }}\ndelivery = {{ check_interval = \"50ms\", {delivery} }}\n\
         ring = {{ shards = [{{ name = \"a\", address = \"{address}\" }}] }}\n{PRODUCTS}"
    );
    let connected = Pipeline::connect(&Config::parse(&text, []).unwrap(), Services::default()).unwrap();
    connected.shards[0].ready(LONG).await.unwrap();
    // A first batch, behind which the server is known.
    deliver(&connected.pipeline, 999..1000).await;
    connected.pipeline
}

async fn submit(pipeline: &Pipeline, rows: std::ops::Range<u64>) -> Ticket {
    pipeline.submit(rows.map(change).collect(), 0).await
}

async fn deliver(pipeline: &Pipeline, rows: std::ops::Range<u64>) {
    let ticket = submit(pipeline, rows).await;
    tokio::time::timeout(LONG, ticket).await.expect("nothing hangs").unwrap();
}

/// Two servers that keep what they copy from each other in a folder of their own.
fn pair() -> (Server, Server, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    let start = |name: &str| {
        let folder = home.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        Server::start_with(&["--dir", folder.to_str().unwrap()])
    };
    (start("one"), start("other"), home)
}

async fn fill(raw: &mut MultiplexedConnection) {
    for row in 0..ROWS {
        set(raw, &format!("product:{row}"), &value("\"old\"")).await;
    }
    set(raw, "somebody:else", b"kept").await;
}

/// The rows that are cached.
async fn cached(raw: &mut MultiplexedConnection) -> Vec<u64> {
    let mut cached = Vec::new();
    for row in 0..ROWS {
        if get(raw, &format!("product:{row}")).await.is_some() {
            cached.push(row);
        }
    }
    cached
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, waiting).await.is_ok(), "{what} did not come about");
}

async fn command(raw: &mut MultiplexedConnection, text: &str) {
    let mut words = text.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    command.arg(words.collect::<Vec<_>>());
    command.exec_async(raw).await.unwrap();
}

async fn info(raw: &mut MultiplexedConnection) -> String {
    redis::cmd("INFO").arg("replication").query_async(raw).await.unwrap()
}

/// Makes `replica` follow the server behind an address, and waits until it does.
async fn follow(replica: &mut MultiplexedConnection, address: &str) {
    command(replica, &format!("REPLICAOF {}", address.replace(':', " "))).await;
    until("the replica's link", async || info(replica).await.contains("master_link_status:up")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_promoted_replica_lacks_is_delivered_again() {
    let (mut primary, replica, _home) = pair();
    let (mut raw, mut copy) = (primary.raw().await, replica.raw().await);
    let replication = Proxy::start(primary.address()).await.unwrap();
    let clients = Proxy::start(primary.address()).await.unwrap();
    fill(&mut raw).await;
    follow(&mut copy, &replication.address()).await;
    until("the copy", async || cached(&mut copy).await.len() as u64 == ROWS).await;
    let pipeline = pipeline(&clients.address(), "redeliver_window = \"60s\"").await;
    // So long that the pipeline has seen how far the replica followed.
    deliver(&pipeline, 0..10).await;
    until("replication", async || cached(&mut copy).await.len() as u64 == ROWS - 10).await;
    tokio::time::sleep(Duration::from_millis(300)).await;

    replication.set(Direction::ToClient, Flow::BlackHole);
    deliver(&pipeline, 10..20).await;
    assert_eq!(cached(&mut raw).await, (20..ROWS).collect::<Vec<_>>());
    assert_eq!(cached(&mut copy).await, (10..ROWS).collect::<Vec<_>>(), "it has lost ten invalidations");
    command(&mut copy, "REPLICAOF NO ONE").await;
    clients.redirect(replica.address());
    primary.kill();
    clients.cut();
    until("the redelivery", async || cached(&mut copy).await == (20..ROWS).collect::<Vec<_>>()).await;
    // Nothing else was taken away.
    deliver(&pipeline, 20..21).await;
    assert_eq!(cached(&mut copy).await, (21..ROWS).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_remembered_is_flushed() {
    let (mut primary, replica, _home) = pair();
    let (mut raw, mut copy) = (primary.raw().await, replica.raw().await);
    let replication = Proxy::start(primary.address()).await.unwrap();
    let clients = Proxy::start(primary.address()).await.unwrap();
    fill(&mut raw).await;
    follow(&mut copy, &replication.address()).await;
    // More is acknowledged than is remembered.
    let pipeline = pipeline(&clients.address(), "redeliver_keys = 4").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    replication.set(Direction::ToClient, Flow::BlackHole);
    for row in 0..20 {
        deliver(&pipeline, row..row + 1).await;
    }
    command(&mut copy, "REPLICAOF NO ONE").await;
    clients.redirect(replica.address());
    primary.kill();
    clients.cut();
    until("the flush", async || cached(&mut copy).await.is_empty()).await;
    assert!(get(&mut copy, "somebody:else").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_old_data_without_losing_a_connection_is_noticed() {
    let (server, other, _home) = pair();
    let (mut raw, mut old) = (server.raw().await, other.raw().await);
    fill(&mut raw).await;
    fill(&mut old).await;
    let pipeline = pipeline(&server.address(), "").await;
    deliver(&pipeline, 0..20).await;
    assert_eq!(cached(&mut raw).await.len(), 20);
    // The same process under the same connections, with another one's data.
    follow(&mut raw, &other.address()).await;
    assert_eq!(cached(&mut raw).await.len() as u64, ROWS);
    command(&mut raw, "REPLICAOF NO ONE").await;
    until("the flush", async || cached(&mut raw).await.is_empty()).await;
    assert!(get(&mut raw, "somebody:else").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_old_data_is_flushed_and_one_without_costs_nothing() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().to_str().unwrap().to_owned();
    let mut server = Server::start_with(&["--dir", &folder]);
    let mut raw = server.raw().await;
    let pipeline = pipeline(&server.address(), "").await;
    fill(&mut raw).await;
    command(&mut raw, "SAVE").await;
    deliver(&pipeline, 0..20).await;
    assert_eq!(cached(&mut raw).await.len(), 20);
    server.restart();
    let mut raw = server.raw().await;
    // Nothing is acknowledged by a server that is not known.
    let delivered = pipeline.deliver(&[change(0)], Instant::now() + LONG).await;
    assert_eq!(delivered.first_undelivered, None);
    assert_eq!(cached(&mut raw).await, Vec::<u64>::new());
    assert!(get(&mut raw, "somebody:else").await.is_some());

    std::fs::remove_file(home.path().join("dump.rdb")).unwrap();
    server.restart();
    let mut raw = server.raw().await;
    deliver(&pipeline, 0..1).await;
    // Known by now, so that what is stored stays.
    fill(&mut raw).await;
    deliver(&pipeline, 0..1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(cached(&mut raw).await, (1..ROWS).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_replica_is_no_fail_over() {
    let (server, replica, _home) = pair();
    let (mut raw, mut copy) = (server.raw().await, replica.raw().await);
    let pipeline = pipeline(&server.address(), "").await;
    fill(&mut raw).await;
    follow(&mut copy, &server.address()).await;
    deliver(&pipeline, 0..1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(cached(&mut raw).await, (1..ROWS).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_replicas_to_wait_for_a_promotion_loses_nothing_that_was_delivered() {
    let (primary, replica, _home) = pair();
    let (mut raw, mut copy) = (primary.raw().await, replica.raw().await);
    fill(&mut raw).await;
    let pipeline = {
        follow(&mut copy, &primary.address()).await;
        pipeline(&primary.address(), "wait_replicas = 1, wait_timeout = \"100ms\"").await
    };
    deliver(&pipeline, 0..10).await;
    // At once, without waiting for anything.
    assert_eq!(cached(&mut copy).await, (10..ROWS).collect::<Vec<_>>());

    replica.freeze();
    let mut ticket = submit(&pipeline, 10..20).await;
    let waited = tokio::time::timeout(Duration::from_secs(2), &mut ticket).await;
    assert!(waited.is_err(), "delivered to nobody but the primary");
    assert_eq!(cached(&mut raw).await, (20..ROWS).collect::<Vec<_>>(), "which has it");
    until("the report", async || pipeline.unhealthy() == ["a".into()]).await;
    assert_eq!(ticket.first_undelivered(), Some(0));
    replica.thaw();
    tokio::time::timeout(LONG, ticket).await.expect("it goes on").unwrap();
    assert_eq!(cached(&mut copy).await, (20..ROWS).collect::<Vec<_>>());
    assert!(pipeline.unhealthy().is_empty());
    assert_eq!(pipeline.shutdown(Instant::now() + LONG).await, 0);
}
