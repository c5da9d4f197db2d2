//! From a commit to the entry that is gone, while tables are busy: the worker with its default settings, beside the same
//! worker at the paces of its peers.
//!
//! All of them follow the same stream shards at once, into key spaces of their own on the same Valkey servers, and every
//! write is a sample for each of them. A lag begins before the write is sent and ends when the server tells that the entry
//! is gone, so that it is an upper bound. `RINGTIDE_LAG_SECONDS` chooses the length.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

mod samples;
mod stage;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringtide_servers::number;
use ringtide_tests::spread::Spread;
use samples::Samples;
use stage::{SHARDS, Stage};
use tokio::runtime::Handle;

/// One pace of reading, and the key space that is its own.
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) space: &'static str,
    /// What its `[worker]` says besides the defaults.
    pub(crate) settings: &'static str,
}

const CONTESTANTS: [Contestant; 3] = [
    Contestant { name: "the worker, default settings", space: "ours", settings: "" },
    // The streams adapter's `idleTimeBetweenReadsInMillis` is 1,000, and twice that after a page without records, which
    // is left out here.
    Contestant {
        name: "at the Kinesis Client Library's pace: every 1 s",
        space: "kcl",
        settings: "max_reads_per_second = 1\nidle_poll = \"1s\"\n",
    },
    Contestant {
        name: "at Lambda's poller's pace: 4 reads a second",
        space: "lambda",
        settings: "max_reads_per_second = 4\nidle_poll = \"250ms\"\n",
    },
];

const WRITES_PER_SECOND: u32 = 300;
/// Writes before the first sample.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long every entry has after the last write.
const PATIENCE: Duration = Duration::from_secs(10);
const GOAL_P50: Duration = Duration::from_millis(50);
const GOAL_P99: Duration = Duration::from_millis(150);

fn main() {
    // `cargo test --benches` runs benchmarks too; only `cargo bench` says so.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let seconds = number("RINGTIDE_LAG_SECONDS").unwrap_or(20);
    let [measuring, emulating, working] =
        [(); 3].map(|()| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());
    measuring.block_on(contest(Duration::from_secs(seconds), emulating.handle(), working.handle()));
}

/// The emulator, which computes while it answers, and the workers have threads of their own, as other processes would.
async fn contest(time: Duration, emulating: &Handle, working: &Handle) {
    let samples = Arc::new(Samples::default());
    let stage = Arc::new(Stage::set(&CONTESTANTS, &samples, emulating, working).await);
    // Whoever starts has no place to go on from: what it follows begins where it first looks.
    stage.until_all_deliver().await;
    // Stream shards that were idle are read at an idle pace until somebody notices.
    write_to_all(&stage, WARM_UP).await;
    samples.forget();
    let writes = write_to_all(&stage, time).await;
    let patience = Instant::now() + PATIENCE;
    while samples.missing() > 0 && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(samples.missing(), 0, "entries that are not gone {PATIENCE:?} after the last write");
    report(&samples, writes, time);
}

/// Writes to all tables; tells how long each write took.
async fn write_to_all(stage: &Arc<Stage>, time: Duration) -> Vec<Duration> {
    let end = Instant::now() + time;
    let pause = Duration::from_secs(SHARDS as u64) / WRITES_PER_SECOND;
    let writers: Vec<_> = (0..SHARDS).map(|shard| tokio::spawn(write(stage.clone(), shard, pause, end))).collect();
    let mut writes = Vec::new();
    for writer in writers {
        writes.extend(writer.await.unwrap());
    }
    writes
}

/// Writes items of one table one after the other, at random distances, so that no pace falls in step with them.
async fn write(stage: Arc<Stage>, shard: usize, pause: Duration, end: Instant) -> Vec<Duration> {
    let mut writes = Vec::new();
    let mut next = Instant::now();
    while next < end {
        tokio::time::sleep_until(next.into()).await;
        writes.push(stage.sample(shard).await);
        next += pause.mul_f64(2.0 * fastrand::f64());
    }
    writes
}

fn report(samples: &Samples, writes: Vec<Duration>, time: Duration) {
    let rate = writes.len() as f64 / time.as_secs_f64();
    let own = Spread::of(writes);
    println!(
        "\ncommit to invalidated, {SHARDS} stream shards, {rate:.0} writes a second (each took {:.1?}, p99 {:.1?})",
        own.p50, own.p99
    );
    let spreads: Vec<Spread> = CONTESTANTS.iter().map(|contestant| samples.of(contestant.space)).collect();
    let ours = spreads[0];
    for (contestant, spread) in CONTESTANTS.iter().zip(&spreads) {
        let ratio = |theirs: Duration, ours: Duration| theirs.as_secs_f64() / ours.as_secs_f64();
        println!(
            "  {:<48} p50 {:>7.1?}  p99 {:>7.1?}  max {:>7.1?}   {:>5.1} and {:>4.1} times ours",
            contestant.name,
            spread.p50,
            spread.p99,
            spread.max,
            ratio(spread.p50, ours.p50),
            ratio(spread.p99, ours.p99),
        );
    }
    let verdict = if ours.p50 <= GOAL_P50 && ours.p99 <= GOAL_P99 { "met" } else { "missed" };
    println!("  {} entries each, all gone; goal p50 {GOAL_P50:?}, p99 {GOAL_P99:?}: {verdict}", ours.count);
}
