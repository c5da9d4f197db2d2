use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::lease::{Checkpoint, HeldLease, Lease, LeaseError, MemoryLeases};
use crate::scripted::{ARN, Recorder, ScriptedStream};
use crate::stream::StreamError;

const CONFIG: &str = r#"
[worker]
application = "ringtide-test"
drain_timeout = "2s"
lease_timeout = "9s"

[[ring.shards]]
name = "a"
address = "127.0.0.1:1"

[spaces.product]
key = "product:{pk}"

[[routes]]
table = "products"
space = "product"
"#;

struct Bench {
    source: Arc<ScriptedStream>,
    recorder: Arc<Recorder>,
    leases: Arc<MemoryLeases>,
}

impl Bench {
    fn new() -> Self {
        Self { source: ScriptedStream::new(), recorder: Recorder::new(), leases: Arc::new(MemoryLeases::new()) }
    }

    async fn start(&self, owner: &str) -> Result<RunningWorker, StartError> {
        self.start_with(owner, CONFIG).await
    }

    async fn start_with(&self, owner: &str, config: &str) -> Result<RunningWorker, StartError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config).unwrap();
        let mut config = Config::load(file.path(), std::iter::empty()).unwrap();
        config.worker.listen = None;
        let worker = Worker {
            source: self.source.clone(),
            leases: self.leases.clone(),
            deliver: self.recorder.clone(),
            owner: OwnerId::named(owner),
            metrics: None,
            start_timeout: Duration::from_secs(20),
        };
        worker.start(&config).await
    }

    /// How many leases each owner holds or is to get.
    async fn shares(&self) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for lease in self.leases.list().await.unwrap() {
            *shares.entry(lease.owner.map_or_else(String::new, |owner| owner.to_string())).or_default() += 1;
        }
        shares
    }

    async fn checkpoints(&self) -> Vec<(String, Checkpoint)> {
        let leases = self.leases.list().await.unwrap();
        leases.into_iter().map(|lease| (lease.key.shard.to_string(), lease.checkpoint)).collect()
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn children_are_read_after_their_parents_and_trees_at_once() {
    let bench = Bench::new();
    bench.source.shard("a", None, &[1, 2, 3]);
    bench.source.shard("b", Some("a"), &[4, 5]);
    bench.source.shard("c", Some("a"), &[6]);
    bench.source.shard("z", None, &[9]);
    bench.source.close("a");
    let worker = bench.start("me").await.unwrap();
    seconds(5).await;
    let pages = bench.recorder.pages();
    let place = |shard: &str| pages.iter().position(|(of, _)| of == shard).unwrap();
    assert!(pages.iter().rposition(|(of, _)| of == "a").unwrap() < place("b").min(place("c")), "{pages:?}");
    let mut records = bench.recorder.records();
    records.sort_unstable();
    assert_eq!(records, [1, 2, 3, 4, 5, 6, 9]);
    assert!(worker.health().ready().ok && worker.health().live().ok);
    worker.shutdown();
    assert_eq!(worker.join().await, Ok(Stopped { undelivered: 0 }));
    assert!(bench.leases.list().await.unwrap().iter().all(|lease| lease.owner.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_is_succeeded_when_its_leases_expire() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1, 2]);
    let first = bench.start("first").await.unwrap();
    seconds(3).await;
    drop(first);
    bench.source.append("s", &[3]);
    let _second = bench.start("second").await.unwrap();
    seconds(8).await;
    assert_eq!(bench.recorder.records(), [1, 2], "the lease has not expired");
    seconds(3).await;
    assert_eq!(bench.recorder.records(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_restarts_under_its_name_goes_on_at_once() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1, 2]);
    let first = bench.start("me").await.unwrap();
    seconds(3).await;
    drop(first);
    bench.source.append("s", &[3]);
    let _second = bench.start("me").await.unwrap();
    seconds(1).await;
    assert_eq!(bench.recorder.records(), [1, 2, 3]);
}

fn shares<const N: usize>(shares: [(&str, usize); N]) -> BTreeMap<String, usize> {
    shares.into_iter().map(|(owner, count)| (owner.to_owned(), count)).collect()
}

#[tokio::test(start_paused = true)]
async fn workers_that_join_and_leave_come_to_equal_shares_and_rest() {
    let bench = Bench::new();
    for shard in 0..7 {
        bench.source.shard(&format!("s{shard}"), None, &[shard * 10 + 1, shard * 10 + 2]);
    }
    let first = bench.start("first").await.unwrap();
    seconds(3).await;
    assert_eq!(bench.shares().await, shares([("first", 7)]));
    let second = bench.start("second").await.unwrap();
    let third = bench.start("third").await.unwrap();
    seconds(30).await;
    let balanced = bench.shares().await;
    assert!(balanced.len() == 3 && balanced.values().all(|count| (2..=3).contains(count)), "{balanced:?}");
    let switches = |leases: Vec<Lease>| leases.iter().map(|lease| lease.switches).sum::<u64>();
    let moved = switches(bench.leases.list().await.unwrap());
    seconds(300).await;
    assert_eq!(bench.shares().await, balanced);
    assert_eq!(switches(bench.leases.list().await.unwrap()), moved, "nothing moves any more");
    assert!(bench.leases.list().await.unwrap().iter().all(|lease| lease.leaving.is_none()));
    let read = bench.recorder.records();
    assert_eq!(read.iter().collect::<BTreeSet<_>>().len(), 14, "{read:?}");
    assert_eq!(read.len(), 14, "what was handed over is not read again: {read:?}");
    // An orderly end hands over within a second.
    third.shutdown();
    third.join().await.unwrap();
    for shard in 0..7 {
        bench.source.append(&format!("s{shard}"), &[shard * 10 + 3]);
    }
    seconds(1).await;
    assert_eq!(bench.recorder.records().len(), 21);
    let left = bench.shares().await;
    assert!(left.len() == 2 && left.values().all(|count| (3..=4).contains(count)), "{left:?}");
    // A crash is made up for within the time of a lease.
    drop(second);
    for shard in 0..7 {
        bench.source.append(&format!("s{shard}"), &[shard * 10 + 4]);
    }
    seconds(10).await;
    // What it had not checkpointed is read again.
    assert_eq!(bench.recorder.records().into_iter().collect::<BTreeSet<_>>().len(), 28);
    assert_eq!(bench.shares().await, shares([("first", 7)]));
    assert_eq!(bench.recorder.flushed(), [""; 0]);
    first.shutdown();
    first.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_ring_shard_is_down_reads_on_until_its_lease_is_taken() {
    let bench = Bench::new();
    for shard in ["a", "b"] {
        bench.source.shard(shard, None, &[]);
    }
    let _first = bench.start("first").await.unwrap();
    seconds(3).await;
    bench.recorder.shard_down(true);
    let lease = bench.leases.list().await.unwrap().remove(0);
    assert!(bench.leases.ask(&lease, &OwnerId::named("second")).await.unwrap());
    seconds(8).await;
    bench.source.append("a", &[1]);
    seconds(1).await;
    assert_eq!(bench.recorder.records(), [1]);
    let asked = bench.leases.list().await.unwrap().remove(0);
    assert_eq!(asked.holder(), Some(&OwnerId::named("first")));
    // By force: it stops at once.
    let mut taken = bench.leases.take(&asked, &OwnerId::named("second")).await.unwrap();
    seconds(4).await;
    bench.source.append("a", &[2]);
    bench.source.append("b", &[3]);
    bench.leases.renew(&mut taken).await.unwrap();
    seconds(1).await;
    assert_eq!(bench.recorder.records(), [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_second_worker_of_the_same_name_takes_over_and_is_reported() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1]);
    let first = bench.start("me").await.unwrap();
    seconds(3).await;
    let second = bench.start("me").await.unwrap();
    seconds(90).await;
    bench.source.append("s", &[2]);
    seconds(1).await;
    assert_eq!(bench.recorder.records(), [1, 2], "one of them reads");
    let verdict = first.health().live();
    assert!(!verdict.ok && verdict.reasons[0].contains("--owner"), "{verdict:?}");
    assert!(second.health().live().ok);
}

#[tokio::test(start_paused = true)]
async fn a_paused_table_is_not_read_until_it_is_resumed() {
    let bench = Bench::new();
    for shard in ["a", "b"] {
        bench.source.shard(shard, None, &[]);
    }
    let _worker = bench.start("me").await.unwrap();
    seconds(3).await;
    let mut paused = Vec::new();
    for lease in bench.leases.list().await.unwrap() {
        paused.push(bench.leases.take(&lease, &OwnerId::paused()).await.unwrap());
    }
    seconds(5).await;
    bench.source.append("a", &[1]);
    bench.source.shard("new", None, &[2]);
    seconds(120).await;
    assert_eq!(bench.recorder.records(), [0; 0]);
    for held in paused {
        bench.leases.release(held).await.unwrap();
    }
    seconds(35).await;
    let mut read = bench.recorder.records();
    read.sort_unstable();
    assert_eq!(read, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_is_asked_for_is_granted_in_order() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[]);
    let worker = bench.start("me").await.unwrap();
    seconds(3).await;
    let lease = bench.leases.list().await.unwrap().remove(0);
    bench.source.append("s", &[1]);
    seconds(1).await;
    assert!(bench.leases.ask(&lease, &OwnerId::paused()).await.unwrap());
    seconds(5).await;
    let paused = bench.leases.list().await.unwrap().remove(0);
    assert_eq!((paused.owner.as_ref(), paused.leaving.as_ref()), (Some(&OwnerId::paused()), None));
    assert_eq!(paused.checkpoint, Checkpoint::At("1".parse().unwrap()), "what was read is stored");
    bench.source.append("s", &[2]);
    seconds(300).await;
    assert_eq!(bench.recorder.records(), [1]);
    worker.shutdown();
    worker.join().await.unwrap();
    assert!(bench.leases.list().await.unwrap().remove(0).is_paused(), "a pause outlives the workers");
}

#[tokio::test(start_paused = true)]
async fn a_description_that_is_older_than_what_is_known_is_not_followed() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1]);
    let newer = ARN.replace("2026-01", "2026-03");
    bench.source.replace_stream(&newer);
    let first = bench.start("first").await.unwrap();
    seconds(3).await;
    bench.source.replace_stream(ARN);
    seconds(120).await;
    let second = bench.start("second").await.unwrap();
    seconds(120).await;
    let streams: BTreeSet<_> = bench.leases.list().await.unwrap().into_iter().map(|lease| lease.key.stream).collect();
    assert_eq!(streams.len(), 1, "{streams:?}");
    assert_eq!(bench.recorder.flushed(), [""; 0]);
    for worker in [first, second] {
        worker.shutdown();
        worker.join().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_ends_the_worker_with_an_error() {
    struct Faulty(Arc<ScriptedStream>, &'static str);
    #[async_trait::async_trait]
    impl StreamSource for Faulty {
        async fn describe_table(&self, table: &str) -> Result<crate::stream::TableDescription, StreamError> {
            self.0.describe_table(table).await
        }
        async fn list_shards(
            &self,
            stream: &ringtide_core::record::Stream,
        ) -> Result<crate::stream::Listing, StreamError> {
            assert_ne!(self.1, "list");
            self.0.list_shards(stream).await
        }
        async fn iterator(
            &self,
            stream: &Arc<ringtide_core::record::Stream>,
            shard: &crate::stream::ShardId,
            position: crate::stream::Position,
        ) -> Result<crate::stream::ShardIterator, StreamError> {
            self.0.iterator(stream, shard, position).await
        }
        async fn read(&self, iterator: &crate::stream::ShardIterator) -> Result<crate::stream::Page, StreamError> {
            assert_ne!(self.1, "read");
            self.0.read(iterator).await
        }
    }
    /// Leases whose renewal panics.
    struct Panicking(Arc<MemoryLeases>);
    #[async_trait::async_trait]
    impl LeaseStore for Panicking {
        async fn prepare(&self) -> Result<(), LeaseError> {
            self.0.prepare().await
        }
        async fn list(&self) -> Result<Vec<Lease>, LeaseError> {
            self.0.list().await
        }
        async fn create(&self, lease: &Lease) -> Result<bool, LeaseError> {
            self.0.create(lease).await
        }
        async fn ask(&self, lease: &Lease, owner: &OwnerId) -> Result<bool, LeaseError> {
            self.0.ask(lease, owner).await
        }
        async fn take(&self, lease: &Lease, owner: &OwnerId) -> Result<HeldLease, LeaseError> {
            self.0.take(lease, owner).await
        }
        async fn renew(&self, _: &mut HeldLease) -> Result<(), LeaseError> {
            panic!("as planned")
        }
        async fn checkpoint(
            &self,
            held: &mut HeldLease,
            checkpoint: &Checkpoint,
            children: &BTreeSet<crate::stream::ShardId>,
        ) -> Result<(), LeaseError> {
            self.0.checkpoint(held, checkpoint, children).await
        }
        async fn release(&self, held: HeldLease) -> Result<(), LeaseError> {
            self.0.release(held).await
        }
        async fn delete(&self, lease: &Lease) -> Result<(), LeaseError> {
            self.0.delete(lease).await
        }
    }
    for place in ["list", "read", "renew"] {
        let bench = Bench::new();
        bench.source.shard("s", None, &[1]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), CONFIG).unwrap();
        let mut config = Config::load(file.path(), std::iter::empty()).unwrap();
        config.worker.listen = None;
        let worker = Worker {
            source: Arc::new(Faulty(bench.source.clone(), place)),
            leases: if place == "renew" { Arc::new(Panicking(bench.leases.clone())) } else { bench.leases.clone() },
            deliver: bench.recorder.clone(),
            owner: OwnerId::named("me"),
            metrics: None,
            start_timeout: Duration::from_secs(20),
        };
        let worker = worker.start(&config).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(60), worker.join()).await;
        assert_eq!(ended, Ok(Err(RunError::BrokenOff)), "{place}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_stream_is_a_gap_that_flushes_and_is_followed() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1, 2]);
    let worker = bench.start("me").await.unwrap();
    seconds(3).await;
    bench.source.replace_stream(&ARN.replace("2026-01", "2026-03"));
    seconds(120).await;
    assert_eq!(bench.recorder.flushed(), ["products"]);
    assert_eq!(bench.recorder.records(), [1, 2, 1, 2], "the new stream is read from its oldest record");
    assert_eq!(bench.checkpoints().await.len(), 2);
    bench.source.close("s");
    seconds(120).await;
    let left = bench.checkpoints().await;
    assert_eq!(left, [("s".to_owned(), Checkpoint::ShardEnd)], "the old stream's leases have served");
    worker.shutdown();
    worker.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_replaced_while_nobody_looked_is_a_gap() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1, 2]);
    let first = bench.start("me").await.unwrap();
    seconds(3).await;
    first.shutdown();
    first.join().await.unwrap();
    bench.source.replace_stream(&ARN.replace("2026-01", "2026-03"));
    let _second = bench.start("me").await.unwrap();
    seconds(3).await;
    assert_eq!(bench.recorder.flushed(), ["products"]);
}

#[tokio::test(start_paused = true)]
async fn everything_wrong_with_the_tables_is_told_at_once() {
    let bench = Bench::new();
    let config = CONFIG.to_owned()
        + r#"
[[routes]]
table = "orders"
space = "product"

[[routes]]
table = "carts"
space = "product"
"#;
    let error = bench.start_with("me", &config).await.unwrap_err();
    let text = error.to_string();
    assert!(error.is_configuration() && text.contains("orders") && text.contains("carts"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_does_not_answer_is_named_after_the_time_out() {
    struct Silent;
    #[async_trait::async_trait]
    impl StreamSource for Silent {
        async fn describe_table(&self, _: &str) -> Result<crate::stream::TableDescription, StreamError> {
            Err(StreamError::Unreachable("connection refused".into()))
        }
        async fn shards_page(
            &self,
            _: &ringtide_core::record::Stream,
            _: &crate::stream::ShardQuery,
        ) -> Result<crate::stream::ShardsPage, StreamError> {
            Err(StreamError::Unreachable(String::new()))
        }
        async fn iterator(
            &self,
            _: &Arc<ringtide_core::record::Stream>,
            _: &crate::stream::ShardId,
            _: crate::stream::Position,
        ) -> Result<crate::stream::ShardIterator, StreamError> {
            Err(StreamError::Unreachable(String::new()))
        }
        async fn read(&self, _: &crate::stream::ShardIterator) -> Result<crate::stream::Page, StreamError> {
            Err(StreamError::Unreachable(String::new()))
        }
    }
    let router = Router::new(Vec::new());
    let found = supervisor::find_streams(&Silent, &router, Duration::from_secs(5), "http://127.0.0.1:1").await;
    assert!(found.unwrap().is_empty(), "without tables nothing is asked");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), CONFIG).unwrap();
    let routes = Config::load(file.path(), std::iter::empty()).unwrap().routes;
    let timeout = Duration::from_secs(5);
    let error =
        supervisor::find_streams(&Silent, &Router::new(routes), timeout, "http://127.0.0.1:1").await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("http://127.0.0.1:1") && text.contains("refused") && text.contains("--endpoint-url"),
        "{text}"
    );
    assert!(!error.is_configuration());
}
