//! Records that nobody can read, and a place for them that is down: real stores behind a scripted stream.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ringtide_core::aws;
use ringtide_core::command::Command;
use ringtide_core::config::Config;
use ringtide_core::park::{ParkStore, ParkedRecord};
use ringtide_core::pipeline::{Limits, Pipeline, RingShard};
use ringtide_core::ring::{Ring, RingHistory, ShardName};
use ringtide_core::route::Router;
use ringtide_core::valkey::{Applied, ShardError};
use ringtide_servers::{Ministack, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::lease::{Checkpoint, LeaseStore, MemoryLeases, OwnerId};
use crate::scripted::ScriptedStream;
use crate::worker::{RunningWorker, Stopped, Worker};

/// Longer than anything here takes; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(120);

const CONFIG: &str = r#"
ring = { shards = [{ name = "a", address = "127.0.0.1:1" }] }
[worker]
application = "ringtide-test"
listen = ""
drain_timeout = "2s"
lease_timeout = "9s"
idle_poll = "50ms"
max_reads_per_second = 100
checkpoint_interval = "50ms"
pages_in_flight = 3
[spaces.product]
key = "product:{pk}"
[[routes]]
table = "products"
space = "product"
"#;

/// A ring shard that takes everything down.
#[derive(Default)]
struct Taken(Mutex<Vec<u64>>);

impl RingShard for Taken {
    fn apply<'a>(&'a self, commands: &'a [Command], _: u64) -> BoxFuture<'a, Result<Applied, ShardError>> {
        let number = |command: &Command| command.key.as_str().trim_start_matches("product:").parse::<u64>().unwrap();
        self.0.lock().unwrap().extend(commands.iter().map(number));
        async { Ok(Applied::default()) }.boxed()
    }

    fn flush<'a>(&'a self, _: &'a str, _: Duration) -> BoxFuture<'a, Result<u64, ShardError>> {
        async { Ok(0) }.boxed()
    }

    fn reachable(&self, _: Duration) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

struct Bench {
    source: Arc<ScriptedStream>,
    leases: Arc<MemoryLeases>,
    taken: Arc<Taken>,
    config: Config,
}

impl Bench {
    fn new(more: &str) -> Self {
        let config = Config::parse(&format!("{more}\n{CONFIG}"), []).unwrap();
        let (leases, taken) = (Arc::new(MemoryLeases::new()), Arc::new(Taken::default()));
        Self { source: ScriptedStream::new(), leases, taken, config }
    }

    fn store(&self) -> Arc<dyn ParkStore> {
        aws::services(&self.config).park.unwrap()
    }

    async fn start(&self) -> (RunningWorker, Pipeline) {
        let ring = RingHistory::new(Ring::new(self.config.ring.clone()).unwrap(), 1000);
        let shard: Arc<dyn RingShard> = self.taken.clone();
        let router = Router::new(self.config.routes.clone());
        let shards = [(ShardName::new("a"), shard)];
        let pipeline = Pipeline::start(router, ring, shards, Limits::default(), Some(self.store()));
        let worker = Worker {
            source: self.source.clone(),
            leases: self.leases.clone(),
            deliver: Arc::new(pipeline.clone()),
            owner: OwnerId::named("me"),
            metrics: None,
            start_timeout: Duration::from_secs(20),
        };
        (worker.start(&self.config).await.unwrap(), pipeline)
    }

    fn taken(&self) -> Vec<u64> {
        let mut taken = self.taken.0.lock().unwrap().clone();
        taken.sort_unstable();
        taken.dedup();
        taken
    }

    async fn checkpoint(&self) -> Option<Checkpoint> {
        self.leases.list().await.unwrap().first().map(|lease| lease.checkpoint)
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let waiting = async {
            while !holds(self).await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never came true: {what}");
    }
}

fn at(sequence: u64) -> Option<Checkpoint> {
    Some(Checkpoint::At(sequence.to_string().parse().unwrap()))
}

fn files(folder: &Path) -> Vec<ParkedRecord> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap());
        }
    }
    found
}

#[tokio::test(start_paused = true)]
async fn no_checkpoint_passes_a_record_that_cannot_be_parked_and_others_are_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("parked");
    // A file stands where the folder should be: nothing can be written there, whoever tries.
    std::fs::write(&place, "in the way").unwrap();
    let bench = Bench::new(&format!("park = {{ to = \"file://{}\" }}", place.display()));
    let (odd, even): (Vec<u64>, Vec<u64>) = (1..=40).partition(|n| n % 2 == 1);
    bench.source.shard("s", None, &[2, 4]);
    bench.source.append("s", &(5..=40).collect::<Vec<_>>());
    // From here on every page has a record that nobody can read, many more pages than may be under way.
    bench.source.poison("s", &odd);
    let (worker, pipeline) = bench.start().await;
    let delivered: Vec<u64> = even.clone();
    bench.until("all others are delivered", async |bench| bench.taken() == delivered).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.checkpoint().await, at(4));
    assert!(pipeline.parking_fails() && pipeline.held_up());
    assert!(worker.health().live().ok, "reading goes on");

    // A restart changes nothing: the records are read and held up again.
    worker.shutdown();
    assert!(worker.join().await.unwrap().undelivered > 0);
    assert_eq!(bench.checkpoint().await, at(4));
    let (worker, _pipeline) = bench.start().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.checkpoint().await, at(4));

    std::fs::remove_file(&place).unwrap();
    bench.until("everything is delivered", async |bench| bench.checkpoint().await == at(40)).await;
    let mut parked: Vec<u64> = files(&place).iter().map(|r| r.sequence.unwrap().to_string().parse().unwrap()).collect();
    parked.sort_unstable();
    assert_eq!(parked, odd.into_iter().filter(|n| *n >= 5).collect::<Vec<_>>());
    assert!(files(&place).iter().all(|record| record.content.is_some()));
    worker.shutdown();
    assert_eq!(worker.join().await, Ok(Stopped { undelivered: 0 }));
}

/// Takes connections on a port and hands them on, until it is aborted.
async fn forward(port: u16, to: String) -> tokio::task::JoinHandle<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    tokio::spawn(async move {
        let mut ways = tokio::task::JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let to = to.clone();
            ways.spawn(async move {
                let Ok(mut server) = TcpStream::connect(to).await else { return };
                let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    })
}

/// One call of SQS past the product.
async fn sqs(address: &str, operation: &str, body: &str) -> serde_json::Value {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/x-amz-json-1.0\r\n\
         x-amz-target: AmazonSQS.{operation}\r\ncontent-length: {}\r\n\
         authorization: AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (begin, end) = (answer.find('{').unwrap(), answer.rfind('}').unwrap());
    serde_json::from_str(&answer[begin..=end]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_comes_goes_and_comes_again_gets_every_record() {
    let port = free_port().unwrap();
    let url = format!("http://127.0.0.1:{port}/000000000000/parked");
    let aws = format!("aws = {{ region = \"us-east-1\", endpoint_url = \"http://127.0.0.1:{port}\" }}");
    let bench = Bench::new(&format!("{aws}\npark = {{ to = \"{url}\" }}"));
    bench.source.shard("s", None, &[1, 2, 3, 4]);
    bench.source.poison("s", &[3, 5, 7]);
    let (worker, pipeline) = bench.start().await;
    bench.until("the store is found to be down", async |_| pipeline.parking_fails()).await;
    bench.until("the others are delivered", async |bench| bench.taken() == [1, 2, 4]).await;
    assert_eq!(bench.checkpoint().await, at(2));

    let server = tokio::task::spawn_blocking(|| Ministack::start().unwrap()).await.unwrap();
    let behind = server.url().trim_start_matches("http://").to_owned();
    let way = forward(port, behind.clone()).await;
    // The service is there before the queue is: a refusal is tried again as well.
    sqs(&behind, "CreateQueue", r#"{"QueueName":"parked"}"#).await;
    bench.until("the first record is parked", async |bench| bench.checkpoint().await == at(4)).await;

    way.abort();
    let _ended = way.await;
    bench.source.append("s", &[5, 6]);
    bench.until("the others are delivered", async |bench| bench.taken() == [1, 2, 4, 6]).await;
    bench.until("the store is found to be down", async |_| pipeline.parking_fails()).await;
    assert_eq!(bench.checkpoint().await, at(4));
    // Dropped, it ends as a crash would.
    drop(worker);
    drop(pipeline);
    let (worker, _pipeline) = bench.start().await;
    bench.source.append("s", &[7, 8]);
    let _way = forward(port, behind.clone()).await;
    bench.until("everything is delivered", async |bench| bench.checkpoint().await == at(8)).await;

    let mut parked = std::collections::BTreeSet::new();
    while parked.len() < 3 {
        let request = format!(r#"{{"QueueUrl":"{url}","MaxNumberOfMessages":10,"WaitTimeSeconds":5}}"#);
        let got = sqs(&behind, "ReceiveMessage", &request).await;
        let messages = got["Messages"].as_array().cloned().unwrap_or_default();
        assert!(!messages.is_empty(), "only {parked:?} are in the queue");
        for message in messages {
            let record: ParkedRecord = serde_json::from_str(message["Body"].as_str().unwrap()).unwrap();
            assert!(record.content.is_some());
            parked.insert(record.sequence.unwrap().to_string());
        }
    }
    assert_eq!(parked.into_iter().collect::<Vec<_>>(), ["3", "5", "7"]);
    worker.shutdown();
    assert_eq!(worker.join().await, Ok(Stopped { undelivered: 0 }));
}
