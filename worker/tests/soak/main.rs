//! A worker process at full rate for as long as one likes: its memory stays flat, and no invalidation is lost.
//!
//! It reads a stream without end, whose stream shards are closed and continued all the time, and delivers to three real
//! ring shards. `RINGTIDE_SOAK_SECONDS` makes it longer, `RINGTIDE_SOAK_SEED` repeats what is read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod endless;
mod memory;
#[allow(dead_code, reason = "shared with the fleet's test")]
#[path = "../fleet/process.rs"]
mod process;
mod readers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::StreamViewType;
use ringtide::Cache;
use ringtide_core::config::{Aws, Config};
use ringtide_servers::{Emulator, ValkeyServer, number};
use ringtide_worker::aws::Clients;

use endless::{Endless, Endpoint};
use memory::Verdict;
use process::Process;
use readers::{Audit, Readers};

/// Longer than anything here takes; reaching it is a failure.
const LONG: Duration = Duration::from_secs(60);
const RING_SHARDS: usize = 3;
const TABLE: &str = "items";
/// Keys that are remembered for each ring shard: few, so that what may fill up is full after seconds.
const REMEMBERED: usize = 10_000;
/// The fewest records a second that are a load at all.
const FEWEST: f64 = 500.0;

/// The worker, and all that it talks to.
struct World {
    stream: Arc<Endless>,
    servers: Vec<ValkeyServer>,
    config: Config,
    folder: PathBuf,
    worker: Process,
    _endpoint: Endpoint,
    _emulator: Emulator,
}

impl World {
    async fn new(random: &mut fastrand::Rng) -> Self {
        let (emulator, stream) = (Emulator::start().await.unwrap(), Arc::new(Endless::default()));
        let endpoint = stream.serve().await;
        create_table(emulator.url()).await;
        let servers: Vec<ValkeyServer> = (0..RING_SHARDS).map(|_| ValkeyServer::start().unwrap()).collect();
        let folder = std::env::temp_dir().join(format!("ringtide-soak-{:016x}", random.u64(..)));
        std::fs::create_dir_all(&folder).unwrap();
        let (path, text) = (folder.join("ringtide.toml"), text(&servers));
        std::fs::write(&path, &text).unwrap();
        // Tables and leases are the emulator's, the stream is not.
        let environment = [
            ("AWS_ENDPOINT_URL_DYNAMODB", emulator.url()),
            ("AWS_ENDPOINT_URL_DYNAMODB_STREAMS", endpoint.url.as_str()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "local"),
            ("AWS_SECRET_ACCESS_KEY", "local"),
        ];
        let worker = Process::start_in(&path, "soak", &folder.join("worker.log"), &environment);
        let config = Config::parse(&text, []).unwrap();
        Self { stream, servers, config, folder, worker, _endpoint: endpoint, _emulator: emulator }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("worker.log")).unwrap()
    }

    /// Ends the worker in order and looks for what it should not have said.
    async fn end(self) {
        let log = self.log();
        let wrong = log.lines().find(|line| line.contains("ERROR"));
        assert_eq!(wrong, None, "what the worker said");
        self.worker.signal("TERM");
        assert_eq!(self.worker.ended().await.code(), Some(0));
        // What went wrong can be read up in it, so only a good end takes it away.
        let _left_behind = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_full_rate_memory_stays_flat_and_nothing_is_lost() {
    let seed = number("RINGTIDE_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    let time = Duration::from_secs(number("RINGTIDE_SOAK_SECONDS").unwrap_or(12));
    println!("RINGTIDE_SOAK_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::new(&mut random).await;
    println!("what the worker says: {}", world.folder.display());
    let began = Instant::now();
    while world.stream.records() == 0 {
        assert!(world.worker.runs() && began.elapsed() < LONG, "the worker reads nothing: {}", world.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut readers =
        Readers::start(Cache::from_config(world.config.clone()).await.unwrap(), &world.stream, &mut random);

    let memory = soak(&mut world, &mut readers, time).await;

    let (records, roll_overs, reads) = (world.stream.records(), world.stream.roll_overs(), readers.reads());
    readers.end().await;
    world.stream.dry_up();
    let audit = settled(&world).await;
    world.end().await;
    let rate = records as f64 / began.elapsed().as_secs_f64();
    println!(
        "{records} records ({rate:.0} a second), {roll_overs} roll-overs, {reads} reads; {} entries audited: 0 stale, 0 lost",
        audit.entries
    );
    assert!(rate > FEWEST && roll_overs > 0, "no full rate: {rate} a second, {roll_overs} roll-overs");
    assert!(reads > 1_000 && audit.entries > 100, "nothing was cached: {reads} reads, {} entries", audit.entries);
    let verdict = Verdict::of(&memory).unwrap_or_else(|| panic!("memory was not measured: {memory:?}"));
    println!("{verdict}");
    assert!(!verdict.grows(), "memory grows: {memory:?}");
}

/// Lets time pass, shows how it goes, and returns the worker's resident memory in MiB, once a part of the time.
async fn soak(world: &mut World, readers: &mut Readers, time: Duration) -> Vec<f64> {
    let (parts, began) = (40, Instant::now());
    let shown_every = if time > Duration::from_secs(60) { 1 } else { 5 };
    let (mut memory, mut lags, mut before, mut sampled) = (Vec::new(), Vec::new(), world.stream.records(), 0);
    let mut since = began;
    for part in 1..=parts {
        tokio::time::sleep_until((began + time * part / parts).into()).await;
        assert!(world.worker.runs(), "the worker has ended by itself: {}", world.log());
        memory.push(world.worker.resident_mib());
        lags.extend(readers.lags());
        if part % shown_every == 0 {
            let records = world.stream.records();
            lags.sort_unstable();
            let at = |part: usize| lags.get(lags.len() * part / 100).map_or(0, Duration::as_millis);
            println!(
                "{:>6} s: {:>7.0} records a second, lag p50 {} ms, p99 {} ms, {:.1} MiB",
                began.elapsed().as_secs(),
                (records - before) as f64 / since.elapsed().as_secs_f64(),
                at(50),
                at(99),
                memory.last().unwrap(),
            );
            sampled += lags.len();
            (before, since) = (records, Instant::now());
            lags.clear();
        }
    }
    println!("{sampled} entries were watched until they were gone");
    assert!(sampled > 20, "too few entries were watched: {sampled}");
    memory
}

/// Waits until no entry is older than what was committed.
async fn settled(world: &World) -> Audit {
    let began = Instant::now();
    loop {
        let audit = Audit::run(&world.servers, &world.stream).await;
        if audit.stale.is_empty() {
            return audit;
        }
        let left = audit.stale.len();
        assert!(began.elapsed() < LONG, "{left} of {} entries stay stale: {:?}", audit.entries, audit.stale.first());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn create_table(endpoint: &str) {
    let tables = Clients::connect(&Aws { region: None, endpoint_url: Some(endpoint.to_owned()) }).await.tables;
    ringtide_servers::create_table(&tables, TABLE, "pk", Some(StreamViewType::KeysOnly)).await.unwrap();
}

fn text(servers: &[ValkeyServer]) -> String {
    let mut text = format!(
        "[worker]\napplication = \"ringtide-soak-test\"\nlisten = \"\"\nmax_reads_per_second = 1000\n\
         [delivery]\nredeliver_keys = {REMEMBERED}\n\
         [spaces.item]\nkey = \"item:{{pk}}\"\nlocal = \"off\"\n[[routes]]\ntable = \"{TABLE}\"\nspace = \"item\"\n"
    );
    for (n, server) in servers.iter().enumerate() {
        text += &format!("[[ring.shards]]\nname = \"s{n}\"\naddress = \"{}\"\n", server.address());
    }
    text
}
