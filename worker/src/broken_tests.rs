//! A defect in a delivery task: the worker ends with an error instead of falling silent.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ringtide_core::command::Command;
use ringtide_core::config::Config;
use ringtide_core::pipeline::{Limits, Pipeline, RingShard};
use ringtide_core::ring::{Ring, RingHistory, ShardName};
use ringtide_core::route::Router;
use ringtide_core::valkey::{Applied, Servers, ShardError};

use crate::lease::{Checkpoint, LeaseStore, MemoryLeases, OwnerId};
use crate::scripted::ScriptedStream;
use crate::worker::{RunError, Stopped, Worker};

const CONFIG: &str = r#"
ring = { shards = [{ name = "a", address = "127.0.0.1:1" }] }
[worker]
application = "ringtide-test"
listen = ""
drain_timeout = "2s"
[spaces.product]
key = "product:{pk}"
[[routes]]
table = "products"
space = "product"
"#;

/// Panics when a batch is sent, or before, when it is asked who it is.
struct Defective {
    when_asked: bool,
}

impl RingShard for Defective {
    fn apply<'a>(&'a self, _: &'a [Command], _: u64) -> BoxFuture<'a, Result<Applied, ShardError>> {
        async { panic!("planted") }.boxed()
    }

    fn flush<'a>(&'a self, _: &'a str, _: Duration) -> BoxFuture<'a, Result<u64, ShardError>> {
        async { Ok(0) }.boxed()
    }

    fn reachable(&self, _: Duration) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }

    fn servers(&self) -> BoxFuture<'_, Result<Option<Servers>, ShardError>> {
        assert!(!self.when_asked, "planted");
        async { Ok(None) }.boxed()
    }
}

/// Starts a worker on a stream shard with these records, and waits for its end.
async fn ended(when_asked: bool, records: &[u64]) -> Result<Stopped, RunError> {
    let config = Config::parse(CONFIG, []).unwrap();
    let ring = RingHistory::new(Ring::new(config.ring.clone()).unwrap(), 1000);
    let shard: Arc<dyn RingShard> = Arc::new(Defective { when_asked });
    let shards = [(ShardName::new("a"), shard)];
    let pipeline = Pipeline::start(Router::new(config.routes.clone()), ring, shards, Limits::default(), None);
    let (source, leases) = (ScriptedStream::new(), Arc::new(MemoryLeases::new()));
    source.shard("s", None, records);
    let worker = Worker {
        source,
        leases: leases.clone(),
        deliver: Arc::new(pipeline),
        owner: OwnerId::named("me"),
        metrics: None,
        start_timeout: Duration::from_secs(20),
    };
    let worker = worker.start(&config).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(120), worker.join()).await.expect("it ends by itself");
    let stored = leases.list().await.unwrap();
    assert!(stored.iter().all(|lease| lease.checkpoint == Checkpoint::TrimHorizon), "nothing was delivered");
    ended
}

#[tokio::test(start_paused = true)]
async fn a_delivery_task_that_panics_ends_the_worker_with_an_error() {
    assert_eq!(ended(false, &[2, 4]).await, Err(RunError::PipelineGone));
}

#[tokio::test(start_paused = true)]
async fn also_where_nothing_waits_for_it() {
    assert_eq!(ended(true, &[]).await, Err(RunError::PipelineGone));
}
