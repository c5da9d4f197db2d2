//! Both edges on one machine: the function, built and deployed by `sam` from the template as it is, and the worker
//! beside it, on ministack, three Valkey servers, and the real reader. `make local`; it needs what `make setup` installs.
//!
//! # What this does not show
//! ministack differs from Lambda in what decides about loss. `lambda/tests/poller` covers that: the built program against
//! a driver that behaves like Lambda's poller, with its faults, and an audit after each schedule.
//!
//! | the template asks for | ministack |
//! | --- | --- |
//! | `ReportBatchItemFailures` of the stream | ignores it: an answer with failures counts as success, their records are lost. Honours it for SQS |
//! | `BisectBatchOnFunctionError`, `MaximumRetryAttempts` | ignores both: a failed batch is tried again once a second, whole |
//! | `MaximumRecordAgeInSeconds` | honours it, at a failed batch only |
//! | `MaximumBatchingWindowInSeconds`, `ParallelizationFactor` | ignores both: one batch at a time, on one stream shard that never ends |
//! | an on-failure destination | SQS, for records that are too old; never S3 |
//! | `FilterCriteria` | honours them |
//! | duplicates, sandboxes that are frozen, thawed and ended | has none: a process that goes on running |
//! | extensions of the Runtime API | has none: the end of a sandbox is not announced |
//! | metrics in the log (EMF), alarms | keeps the lines, makes no metrics of them, and no alarm ever rings |
//! | roles and policies | stores them and allows everything |
//! | `VpcConfig`, security groups, endpoints, reserved concurrency, tracing | stores them, without effect |
//! | ElastiCache: nodes, users, passwords | an API without servers, hence `Cache: existing` here |
//! | `Cache: serverless` | refuses the type |
//!
//! What the template asks of AWS beyond that is looked at by `infra/checks`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod emulator;
mod programs;
mod stack;
mod stage;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringtide_core::metrics as names;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::emulator::Emulator;
use crate::programs::{eventually, say};
use crate::stack::Stack;
use crate::stage::Stage;
use crate::worker::Worker;

/// More than a compilation takes where nothing is compiled yet and others want the processors too.
pub(crate) const COMPILING: Duration = Duration::from_secs(1500);
/// More than all of it takes.
const LONGEST: Duration = Duration::from_secs(1800);

/// Bytes of the function's package: a cold start loads all of it.
const LARGEST_PACKAGE: usize = 5_000_000;

const ITEMS: usize = 40;
const TRAFFIC: Duration = Duration::from_secs(8);

/// The key space that every configuration has.
const PRODUCTS: &str = "[spaces.product]\nkey = \"product:{pk}\"\n";
const PRODUCT_ROUTE: &str = "[[routes]]\ntable = \"products\"\nspace = \"product\"\non = [\"MODIFY\", \"REMOVE\"]\n";
/// The key space that only the configuration in a parameter of Systems Manager has.
const STOCKS: &str = "[spaces.stock]\nkey = \"stock:{pk}\"\n";
const STOCK_ROUTE: &str = "[[routes]]\ntable = \"products\"\nspace = \"stock\"\non = [\"MODIFY\", \"REMOVE\"]\n";

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Cargo's target directory, shared with the tests so that what is compiled stays compiled.
pub(crate) fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is in the target directory")
}

/// What this test writes, logs among it; kept until the next run.
pub(crate) fn scratch() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("local")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_and_the_worker_keep_a_ring_true_alone_and_side_by_side() {
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    tokio::select! {
        ended = tokio::time::timeout(LONGEST, run()) => ended.expect("it takes no longer"),
        // By panicking, so that every process is ended.
        _ = tokio::signal::ctrl_c() => panic!("interrupted"),
        _ = terminate.recv() => panic!("terminated"),
    }
}

async fn run() {
    let begun = Instant::now();
    let _there_is_none = std::fs::remove_dir_all(scratch());
    std::fs::create_dir_all(scratch()).unwrap();

    say(begun, "compiling the worker");
    let binary = worker::build().await;
    say(begun, "sam build: compiling the function, which takes minutes the first time");
    let packed = stack::build().await;
    say(begun, &format!("built: the package has {:.2} MB", packed as f64 / 1e6));
    assert!(packed <= LARGEST_PACKAGE, "the package has {packed} bytes: see the profile in Cargo.toml");

    let emulator = Emulator::start().await;
    let stage = Stage::new(&emulator, &format!("{PRODUCTS}{STOCKS}")).await;
    let items: Vec<String> = (0..ITEMS).map(|n| format!("item-{n}")).collect();
    for pk in &items {
        stage.put(pk, 1).await;
    }
    let text = format!("{PRODUCTS}{PRODUCT_ROUTE}");
    let filter = filter_pattern(&binary, &stage, &text).await;
    let shards = stage.shards();
    let common = [("StreamArn", stage.stream.as_str()), ("RingShards", &shards), ("FilterPattern", &filter)];

    say(begun, "sam deploy: the configuration as text");
    let stack = Stack::deploy(&emulator, &[&common[..], &[("Configuration", &text)]].concat()).await;
    let edges = Edges { emulator: &emulator, stack: &stack };
    say(begun, "the function alone");
    let product = stage.space("product");
    stage.fill(&product, &items, 1).await;
    stage.change(&product, &items, 2).await;
    edges.function_took_in(ITEMS as u64).await;
    say(begun, &format!("the function dropped {} entries of {ITEMS} changes", edges.dropped_by_function().await));
    assert!(edges.dropped_by_function().await >= ITEMS as u64);

    say(begun, "sam deploy: the configuration as a parameter of Systems Manager, with one key space more");
    let text = format!("{PRODUCTS}{STOCKS}{PRODUCT_ROUTE}{STOCK_ROUTE}");
    let parameter = json!({ "Name": "/ringtide/config", "Type": "String", "Value": text });
    emulator.call("AmazonSSM.PutParameter", &parameter).await;
    let named = [("Configuration", ""), ("ConfigParameter", "/ringtide/config"), ("ConfigRevision", "2")];
    let stack = Stack::deploy(&emulator, &[&common[..], &named].concat()).await;
    let edges = Edges { emulator: &emulator, stack: &stack };
    let stock = stage.space("stock");
    stage.fill(&stock, &items, 2).await;
    stage.change(&stock, &items, 3).await;
    edges.function_took_in(2 * ITEMS as u64).await;

    say(begun, "a batch that Lambda gave up");
    stage.change(&product, &items, 4).await;
    edges.function_took_in(3 * ITEMS as u64).await;
    stage.fill(&product, &items, 4).await;
    stage.fill(&stock, &items, 4).await;
    emulator.send(stack.output("GivenUpQueueUrl"), &given_up(&stage.stream)).await;
    stage.flushed(&product, &items).await;
    stage.flushed(&stock, &items).await;
    edges.function_gave(names::GAPS, 1).await;
    edges.function_gave(names::LAMBDA_GIVEN_UP, 1).await;

    say(begun, "the worker alone");
    emulator.switch(&stage.stream, false).await;
    let worker = Worker::start(&binary, &with_ring(&text, &shards), &emulator).await;
    // A new worker begins with the oldest record that there is.
    worker.took_in(stage.changes()).await;
    let before = edges.taken_in_by_function().await;
    stage.fill(&product, &items, 4).await;
    stage.fill(&stock, &items, 4).await;
    stage.change(&product, &items, 5).await;
    stage.change(&stock, &items, 6).await;
    assert_eq!(edges.taken_in_by_function().await, before, "the function is not asked any more");
    say(begun, &format!("the worker dropped {} entries of {} changes", dropped_by(&worker).await, 2 * ITEMS));
    assert!(dropped_by(&worker).await >= 2 * ITEMS as u64);

    say(begun, &format!("both side by side, under traffic for {TRAFFIC:?}"));
    emulator.switch(&stage.stream, true).await;
    // What the function has missed meanwhile was for the worker to do.
    edges.function_took_in(before + 2 * ITEMS as u64).await;
    let alone = (edges.dropped_by_function().await, dropped_by(&worker).await);
    let going = Arc::new(AtomicBool::new(true));
    let readers = stage.readers(&product, &items, &going);
    let writes = traffic(&stage, &items).await;
    edges.function_took_in(before + 2 * ITEMS as u64 + writes).await;
    worker.took_in(stage.changes()).await;
    going.store(false, Ordering::Relaxed);
    let mut reads = 0;
    for reader in readers {
        reads += reader.await.unwrap();
    }
    let audit = stage.audit(&product, &items).await;
    let dropped = (edges.dropped_by_function().await - alone.0, dropped_by(&worker).await - alone.1);
    say(
        begun,
        &format!(
            "{writes} changes, {reads} reads; dropped by the function {}, by the worker {}; audit: {} cached, {} not, {} stale",
            dropped.0,
            dropped.1,
            audit.cached,
            audit.uncached,
            audit.stale.len()
        ),
    );
    assert!(audit.stale.is_empty(), "{:?}", audit.stale);
    assert!(audit.cached * 4 >= ITEMS * 3, "the audit had little to look at: {audit:?}");
    assert!(dropped.0 + dropped.1 > 0 && reads > ITEMS, "the traffic was none");
    worker.stop().await;
    say(begun, "all was well");
}

/// The deployed function.
struct Edges<'a> {
    emulator: &'a Emulator,
    stack: &'a Stack,
}

impl Edges<'_> {
    async fn taken_in_by_function(&self) -> u64 {
        self.stack.count(self.emulator, names::PIPELINE_RECORDS, "").await
    }

    async fn dropped_by_function(&self) -> u64 {
        self.stack.count(self.emulator, names::APPLIED, "dropped").await
    }

    /// Waits until the function has told of something, which it does when the invocation ends.
    async fn function_gave(&self, counter: &str, expected: u64) {
        let told = async || match self.stack.count(self.emulator, counter, "").await {
            count if count == expected => Ok(()),
            count => Err(format!("{count}")),
        };
        eventually(&format!("{expected} {counter}"), Duration::from_secs(30), told).await;
    }

    /// Waits until the function has been given exactly this many records: what the filter leaves out never arrives.
    async fn function_took_in(&self, records: u64) {
        let all = async || match self.taken_in_by_function().await {
            count if count < records => Err(format!("{count} of {records}")),
            count => Ok(count),
        };
        let count = eventually("the function takes all changes in", Duration::from_secs(60), all).await;
        assert_eq!(count, records, "records that nobody wants are filtered, and none comes twice");
    }
}

async fn dropped_by(worker: &Worker) -> u64 {
    worker.count(names::APPLIED, "outcome=\"dropped\"").await
}

/// Changes items at random, and deletes some for good; returns the number of changes.
async fn traffic(stage: &Stage, items: &[String]) -> u64 {
    let (begun, mut writes) = (Instant::now(), 0);
    let (deleted, kept) = items.split_at(items.len() / 5);
    let mut deleted = deleted.iter();
    while begun.elapsed() < TRAFFIC {
        writes += 1;
        match (writes % 10 == 0).then(|| deleted.next()).flatten() {
            Some(pk) => stage.delete(pk).await,
            None => stage.put(&kept[fastrand::usize(..kept.len())], 100 + writes).await,
        }
    }
    writes
}

async fn filter_pattern(binary: &Path, stage: &Stage, text: &str) -> String {
    let file = scratch().join("ringtide.toml");
    std::fs::write(&file, with_ring(text, &stage.shards())).unwrap();
    worker::filter_pattern(binary, &file).await
}

fn with_ring(text: &str, shards: &str) -> String {
    format!("{text}[ring]\nshards = {shards}\n")
}

/// A batch's position, as Lambda leaves it where it gives a batch up.
fn given_up(stream: &str) -> serde_json::Value {
    json!({
        "requestContext": {
            "requestId": "c9b8fa9f-5a7f-xmpl-af9c-0c604cde93a5",
            "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:ringtide",
            "condition": "RetryAttemptsExhausted",
            "approximateInvokeCount": 1001
        },
        "responseContext": { "statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled" },
        "version": "1.0",
        "timestamp": "2026-01-02T03:04:05.678Z",
        "DDBStreamBatchInfo": {
            "shardId": "shardId-00000001573689847184-864758bb",
            "startSequenceNumber": "800000000003126276362",
            "endSequenceNumber": "800000000003126276362",
            "approximateArrivalOfFirstRecord": "2026-01-02T03:04:04Z",
            "approximateArrivalOfLastRecord": "2026-01-02T03:04:04Z",
            "batchSize": 1,
            "streamArn": stream
        }
    })
}
