use super::*;
use crate::lease::{Checkpoint, Lease, MemoryLeases, StreamName};
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
    bench.recorder.hold_flushes();
    let second = bench.start("me").await.unwrap();
    seconds(300).await;
    assert_eq!(bench.recorder.flushed(), ["products"]);
    assert!(second.health().live().ok, "a restart would begin the flush again: {:?}", second.health().live());
    assert!(!second.health().ready().ok);
    bench.recorder.deliver_flushes();
    seconds(3).await;
    assert!(second.health().ready().ok, "{:?}", second.health().ready());
}

#[tokio::test(start_paused = true)]
async fn what_a_new_stream_lost_before_it_was_begun_is_a_gap_too() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1, 2]);
    bench.source.begins("s", 1);
    bench.source.close("s");
    let first = bench.start("first").await.unwrap();
    seconds(60).await;
    first.shutdown();
    first.join().await.unwrap();
    let arn = ARN.replace("2026-01", "2026-03");
    bench.source.replace_stream(&arn);
    // Somebody was about to read it, and never came to it.
    let name = StreamName::of(&ringtide_core::record::stream_of_arn(&arn).unwrap()).unwrap();
    let claimed = Lease { owner: Some(OwnerId::named("gone")), ..Lease::new(name.lease(&"s".into())) };
    assert!(bench.leases.create(&claimed).await.unwrap());
    let _second = bench.start("second").await.unwrap();
    seconds(5).await;
    assert_eq!(bench.checkpoints().await.len(), 2, "what was read before is still known");
    bench.source.trim("s", 2);
    seconds(10).await;
    assert_eq!(bench.recorder.flushed(), ["products"], "record 1 was trimmed before anybody had read it");
    seconds(60).await;
    assert_eq!(bench.checkpoints().await, [("s".to_owned(), Checkpoint::ShardEnd)]);
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

#[path = "worker_fleet_tests.rs"]
mod fleet;
