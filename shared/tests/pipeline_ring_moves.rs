//! A ring shard that is reached at another address from some moment on, while a pipeline runs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use ringtide_core::config::Config;
use ringtide_core::pipeline::{Pipeline, RingChange, Services};
use ringtide_core::ring::{Membership, ShardSpec};

use crate::support::{Server, change};

const LONG: Duration = Duration::from_secs(30);
const UP: &str = "ringtide_ring_shard_up";
const PENDING: &str = "ringtide_delivery_pending";
const DIRTY: &str = "ringtide_delivery_dirty";
const BLIND: &str = "ringtide_delivery_blind";
const CAPACITY: u64 = 1_000;

/// What the gauges of each ring shard say.
#[derive(Clone, Default)]
struct Gauges(Arc<Mutex<HashMap<String, Arc<AtomicU64>>>>);

impl Gauges {
    fn of<const N: usize>(&self, names: [&str; N], ring_shard: &str) -> [f64; N] {
        let gauges = self.0.lock().unwrap();
        names.map(|name| f64::from_bits(gauges[&format!("{name} {ring_shard}")].load(Ordering::SeqCst)))
    }
}

impl Recorder for Gauges {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let ring_shard = key.labels().map(|label| label.value().to_owned()).next().unwrap_or_default();
        let name = format!("{} {ring_shard}", key.name());
        Gauge::from_arc(self.0.lock().unwrap().entry(name).or_default().clone())
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// A pipeline on one ring shard, whose memberships are forgotten after a short while or a long one.
async fn pipeline(server: &Server, ttl: &str) -> Pipeline {
    let text = format!(
        "valkey = {{ command_timeout = \"200ms\" }}\nworker = {{ log_capacity = {CAPACITY} }}\n\
         reader = {{ load_timeout = \"250ms\", lease_ttl = \"100ms\", watch = \"100ms\" }}\n\
         ring = {{ shards = [{{ name = \"a\", address = \"{}\" }}] }}\n\
         [spaces.product]\nkey = \"product:{{pk}}\"\nttl = \"{ttl}\"\nnegative_ttl = \"1s\"\n\
         [[routes]]\ntable = \"products\"\nspace = \"product\"\n",
        server.address()
    );
    let connected = Pipeline::connect(&Config::parse(&text, []).unwrap(), Services::default()).unwrap();
    connected.shards[0].ready(LONG).await.unwrap();
    connected.pipeline
}

/// Hands a membership of one ring shard in, and returns its epoch.
async fn change_ring(pipeline: &Pipeline, name: &str, server: &Server) -> u64 {
    let before = pipeline.ring();
    let shards = vec![ShardSpec { name: name.into(), address: server.address(), weight: 1 }];
    let membership = Membership { epoch: before.epoch + 1, shards, ..before };
    let epoch = membership.epoch;
    assert!(matches!(pipeline.change_ring(membership).await, Ok(RingChange::Changed { .. })));
    epoch
}

async fn changed(pipeline: &Pipeline, name: &str, server: &Server) {
    let epoch = change_ring(pipeline, name, server).await;
    tokio::time::timeout(LONG, pipeline.ring_taken(epoch)).await.expect("it is flushed");
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, waiting).await.is_ok(), "{what} did not come about");
}

#[tokio::test]
async fn gauges_tell_of_the_address_in_use() {
    let gauges = Gauges::default();
    let _here = metrics::set_default_local_recorder(&gauges);
    let (mut former, now) = (Server::start(), Server::start());
    let pipeline = pipeline(&former, "1h").await;
    changed(&pipeline, "a", &now).await;
    assert_eq!(gauges.of([UP, PENDING, DIRTY, BLIND], "a"), [1.0, 0.0, 0.0, 0.0]);
    former.kill();
    // More than the former's queue holds, which is to be flushed from then on.
    let waits = pipeline.submit((0..1).map(change).collect(), 0).await;
    until("the former is known to be down", || !pipeline.unhealthy().is_empty()).await;
    let more = pipeline.submit((0..2 * CAPACITY).map(change).collect(), 0).await;
    until("the former owes a flush", || pipeline.ring_shards().iter().any(|shard| shard.flushing.is_some())).await;
    until("all is delivered to the other", || pipeline.ring_shards().iter().any(|shard| shard.pending == 0)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(gauges.of([UP, PENDING, DIRTY, BLIND], "a"), [1.0, 0.0, 0.0, 0.0]);
    drop((waits, more));

    // The other way round, it is told of what is in use again.
    change_ring(&pipeline, "a", &former).await;
    assert_eq!(gauges.of([UP, DIRTY], "a"), [0.0, 1.0]);
}

#[tokio::test]
async fn gauges_of_a_name_that_stands_for_nothing_any_more_tell_nothing() {
    let gauges = Gauges::default();
    let _here = metrics::set_default_local_recorder(&gauges);
    let (mut left, now) = (Server::start(), Server::start());
    let pipeline = pipeline(&left, "1s").await;
    left.kill();
    let waits = pipeline.submit((0..1).map(change).collect(), 0).await;
    until("it is down", || gauges.of([UP, PENDING], "a") == [0.0, 1.0]).await;
    changed(&pipeline, "b", &now).await;
    assert_eq!(gauges.of([UP, PENDING], "a"), [0.0, 1.0], "it is told of changes");
    tokio::time::timeout(LONG, waits).await.expect("nothing is served from it any more").unwrap();
    assert!(gauges.of([UP], "a")[0].is_nan(), "nobody is to look after it");
    assert_eq!(gauges.of([PENDING, DIRTY], "a"), [0.0, 0.0]);
    assert_eq!(gauges.of([UP], "b"), [1.0]);
}
