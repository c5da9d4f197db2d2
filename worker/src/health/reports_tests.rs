//! What running workers report: consumers, followers and supervisors have to tell the board.

use std::time::Duration;

use ringtide_core::config::Config;

use super::*;
use crate::lease::{MemoryLeases, OwnerId};
use crate::scripted::{ARN, Recorder, ScriptedStream};
use crate::worker::{RunningWorker, Worker};

const CONFIG: &str = r#"
ring = { shards = [{ name = "a", address = "127.0.0.1:1" }] }
[worker]
application = "ringtide-test"
listen = ""
lease_timeout = "9s"
[spaces.product]
key = "product:{pk}"
[[routes]]
table = "products"
space = "product"
"#;

struct Fleet {
    source: Arc<ScriptedStream>,
    leases: Arc<MemoryLeases>,
    recorder: Arc<Recorder>,
}

impl Fleet {
    fn new() -> Self {
        Self { source: ScriptedStream::new(), leases: Arc::new(MemoryLeases::new()), recorder: Recorder::new() }
    }

    async fn start(&self, owner: &str) -> RunningWorker {
        let worker = Worker {
            source: self.source.clone(),
            leases: self.leases.clone(),
            deliver: self.recorder.clone(),
            owner: OwnerId::named(owner),
            metrics: None,
            start_timeout: Duration::from_secs(20),
        };
        worker.start(&Config::parse(CONFIG, []).unwrap()).await.unwrap()
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn only_shard(worker: &RunningWorker) -> StreamShardNote {
    let shards = worker.health().snapshot().stream_shards;
    assert_eq!(shards.len(), 1, "{shards:?}");
    shards[0].clone()
}

#[tokio::test(start_paused = true)]
async fn every_worker_shows_who_reads_what_and_takes_over_what_nobody_reads() {
    let fleet = Fleet::new();
    fleet.source.shard("s", None, &[1, 2]);
    let first = fleet.start("first").await;
    seconds(5).await;
    let second = fleet.start("second").await;
    seconds(5).await;
    let here = only_shard(&first);
    assert_eq!((here.state, here.checkpoint.as_deref()), (ShardState::Here, Some("2")), "{here:?}");
    let there = only_shard(&second);
    assert_eq!((there.state, there.owner.as_deref()), (ShardState::Elsewhere, Some("first")), "{there:?}");
    assert!(second.health().ready().ok, "{:?}", second.health().ready());

    // As a crash would.
    drop(first);
    seconds(30).await;
    assert_eq!(only_shard(&second).state, ShardState::Here);
    assert!(second.health().ready().ok, "{:?}", second.health().ready());
}

#[tokio::test(start_paused = true)]
async fn pages_that_are_not_delivered_and_gaps_are_shown() {
    let fleet = Fleet::new();
    fleet.source.shard("s", None, &[1]);
    fleet.recorder.hold();
    let worker = fleet.start("me").await;
    seconds(20).await;
    let held = only_shard(&worker);
    assert!(held.undelivered_pages == 1 && held.undelivered_s > 10.0 && held.age_s.unwrap() < 5.0, "{held:?}");
    fleet.recorder.deliver(0);
    seconds(5).await;
    let free = only_shard(&worker);
    assert_eq!(
        (free.undelivered_pages, free.undelivered_s, free.checkpoint.as_deref()),
        (0, 0.0, Some("1")),
        "{free:?}"
    );

    fleet.source.replace_stream(&ARN.replace("2026-01", "2026-03"));
    seconds(120).await;
    let gaps = worker.health().snapshot().gaps;
    assert_eq!(gaps.iter().map(|gap| &*gap.reason).collect::<Vec<_>>(), ["new_stream"]);
    assert_eq!((&*gaps[0].table, &gaps[0].stream_shard), ("products", &None));
}
