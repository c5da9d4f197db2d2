//! A herd: readers of one cold key in 4 processes, undisturbed and with the holder of the lease killed; and beside it the
//! bare wake-up of as many tasks in as many processes by one published message, each reading its value.
//!
//! Ten thousand readers take a machine's cores some ms to run at all, which the bare tasks show; a tenth of them shows what
//! the way from the load to the readers takes.

use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::StreamExt;
use ringtide::{Cache, LocalTier, Space, SpaceSettings};
use ringtide_servers::ValkeyServer;
use ringtide_tests::raw::raw;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::oneshot;

const PROCESSES: usize = 4;
const READERS: [usize; 2] = [1_000, 10_000];
const LOAD: Duration = Duration::from_millis(400);
const LEASE: Duration = Duration::from_millis(500);
const ROUNDS: usize = 11;
/// How long readers are left alone: a lease that ends with its holder, another's load, and more.
const UNDISTURBED: Duration = Duration::from_millis(1500);
const PART: &str = "RINGTIDE_BENCH_HERD";

/// What one process does.
#[derive(Serialize, Deserialize)]
pub(crate) struct Part {
    address: String,
    key: String,
    readers: usize,
    /// Readers of a channel of that name and of nothing else.
    bare: bool,
}

/// What a process saw; times are ns since the epoch.
#[derive(Default, Serialize, Deserialize)]
struct Seen {
    loads: u64,
    loaded_at: u64,
    answered_at: Vec<u64>,
}

impl Part {
    pub(crate) fn of_this_process() -> Option<Self> {
        serde_json::from_str(&std::env::var(PART).ok()?).ok()
    }

    /// Connects, says so, waits for a line, reads, tells what it saw.
    pub(crate) async fn play(self) {
        if self.bare {
            return self.play_bare().await;
        }
        let space = SpaceSettings::new("herd", "herd:{pk}").local(LocalTier::Off);
        let cache = Cache::builder().shard("a", self.address).space(space).lease_ttl(LEASE).build().await.unwrap();
        let herd = cache.space::<String>("herd").unwrap();
        let warm = || async { Ok::<_, io::Error>(Some("warm".to_owned())) };
        herd.get_or_load("warm", warm).await.unwrap();
        let (mut stdin, mut stdout) = (BufReader::new(tokio::io::stdin()).lines(), tokio::io::stdout());
        stdout.write_all(b"ready\n").await.unwrap();
        stdout.flush().await.unwrap();
        stdin.next_line().await.unwrap();
        let origin = Arc::new(Origin { herd, key: self.key, loads: AtomicU64::new(0), loaded_at: AtomicU64::new(0) });
        let read = |origin: Arc<Origin>| async move {
            let load = {
                let origin = origin.clone();
                move || origin.clone().load()
            };
            let value = origin.herd.get_or_load(&origin.key[..], load).await.unwrap().unwrap();
            std::hint::black_box(value);
        };
        let answered_at = Readers::start(self.readers, || read(origin.clone())).answered().await;
        let (loads, loaded_at) = (origin.loads.load(Ordering::SeqCst), origin.loaded_at.load(Ordering::SeqCst));
        println!("{}", serde_json::to_string(&Seen { loads, loaded_at, answered_at }).unwrap());
    }
}

/// What the readers of a process read, and what it took.
struct Origin {
    herd: Space<String>,
    key: String,
    loads: AtomicU64,
    loaded_at: AtomicU64,
}

impl Origin {
    async fn load(self: Arc<Self>) -> io::Result<Option<String>> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        // Whoever reads this learns who holds the lease.
        println!("loading");
        tokio::time::sleep(LOAD).await;
        self.loaded_at.store(now(), Ordering::SeqCst);
        Ok(Some("x".repeat(200)))
    }
}

/// Readers at work, each a task that notes when it was answered and then stays, as the task of a connection does.
///
/// So nothing else runs while they are answered: to end ten thousand tasks and to join them would be as much work as the
/// readers' own, and so would be what the first process has to tell while the others' readers still run.
struct Readers(Arc<[AtomicU64]>);

impl Readers {
    fn start<F: Future<Output = ()> + Send + 'static>(count: usize, mut read: impl FnMut() -> F) -> Self {
        let answered: Arc<[AtomicU64]> = std::iter::repeat_with(AtomicU64::default).take(count).collect();
        for at in 0..count {
            let (read, answered) = (read(), answered.clone());
            tokio::spawn(async move {
                read.await;
                answered[at].store(now(), Ordering::Relaxed);
                std::future::pending::<()>().await;
            });
        }
        Self(answered)
    }

    async fn answered(self) -> Vec<u64> {
        loop {
            tokio::time::sleep(UNDISTURBED).await;
            let answered: Vec<u64> = self.0.iter().map(|at| at.load(Ordering::Relaxed)).collect();
            if !answered.contains(&0) {
                return answered;
            }
        }
    }
}

impl Part {
    /// Waits for one message, and hands it to each reader.
    async fn play_bare(self) {
        let client = redis::Client::open(format!("redis://{}", self.address)).unwrap();
        let mut channel = client.get_async_pubsub().await.unwrap();
        channel.subscribe(&self.key).await.unwrap();
        let mut waiting = Vec::new();
        let readers = Readers::start(self.readers, || {
            let (answer, answered) = oneshot::channel::<Bytes>();
            waiting.push(answer);
            async move {
                let value: String = serde_json::from_slice(&answered.await.unwrap()).unwrap();
                std::hint::black_box(value);
            }
        });
        println!("ready");
        let message = channel.on_message().next().await.unwrap();
        let value = Bytes::from(message.get_payload_bytes().to_vec());
        let woken = tokio::spawn(async move {
            for answer in waiting {
                answer.send(value.clone()).unwrap();
            }
        });
        woken.await.unwrap();
        let seen = Seen { answered_at: readers.answered().await, ..Seen::default() };
        println!("{}", serde_json::to_string(&seen).unwrap());
    }
}

struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    async fn start(server: &ValkeyServer, key: &str, readers: usize, bare: bool) -> Self {
        let part = Part { address: server.address(), key: key.to_owned(), readers: readers / PROCESSES, bare };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(PART, serde_json::to_string(&part).unwrap());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut process = Self { child, lines };
        while process.line().await != "ready" {}
        process
    }

    async fn line(&mut self) -> String {
        self.lines.next_line().await.unwrap().unwrap_or_default()
    }

    async fn seen(&mut self) -> Seen {
        loop {
            let line = self.line().await;
            if line.is_empty() {
                return Seen::default();
            }
            if let Ok(seen) = serde_json::from_str(&line) {
                return seen;
            }
        }
    }
}

pub(crate) async fn run() {
    let server = ValkeyServer::start().unwrap();
    for readers in READERS {
        herd(&server, readers).await;
    }
}

async fn herd(server: &ValkeyServer, readers: usize) {
    println!("\nherd: {readers} readers of one cold key in {PROCESSES} processes, a load of {LOAD:?}");
    let (mut late, mut bare, mut most) = (Vec::new(), Vec::new(), 0);
    for round in 0..ROUNDS {
        bare.push(bare_wakeup(server, &format!("bare-{readers}-{round}"), readers).await);
        let mut processes = gather(server, &format!("cold-{readers}-{round}"), readers).await;
        let mut all = Seen::default();
        for process in &mut processes {
            let seen = process.seen().await;
            all.loads += seen.loads;
            all.loaded_at = all.loaded_at.max(seen.loaded_at);
            all.answered_at.extend(seen.answered_at);
        }
        most = most.max(all.loads);
        late.push(p99_after(&mut all.answered_at, all.loaded_at));
    }
    late.sort();
    bare.sort();
    println!("  loads: {most}   goal 1: {}", if most == 1 { "met" } else { "missed" });
    let (late, bare) = (late[ROUNDS / 2], bare[ROUNDS / 2]);
    tell("answered after the load had returned", late, Duration::from_millis(2));
    println!(
        "  as many bare tasks woken by one message: {bare:.1?}   a reader takes {:.2} times as long",
        late.as_secs_f64() / bare.as_secs_f64()
    );

    let (mut late, mut most) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        let mut processes = gather(server, &format!("killed-{readers}-{round}"), readers).await;
        let holder = holder(&mut processes).await;
        let mut dead = processes.remove(holder);
        let killed_at = now();
        dead.child.kill().await.unwrap();
        let mut all = Seen { loads: 1, ..Seen::default() };
        for process in &mut processes {
            let seen = process.seen().await;
            all.loads += seen.loads;
            all.answered_at.extend(seen.answered_at);
        }
        most = most.max(all.loads);
        late.push(p99_after(&mut all.answered_at, killed_at).saturating_sub(LOAD));
    }
    late.sort();
    println!(
        "  loads with the holder killed in the middle: {most}   at most 2: {}",
        if most <= 2 { "met" } else { "missed" }
    );
    tell("answered after the kill, besides the second load", late[ROUNDS / 2], LEASE + Duration::from_millis(50));
}

/// Wakes the readers of all processes by one message; tells how long after it was sent 99% had their value.
async fn bare_wakeup(server: &ValkeyServer, channel: &str, readers: usize) -> Duration {
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        processes.push(Process::start(server, channel, readers, true).await);
    }
    let mut connection = raw(server).await.unwrap();
    // As long as a herd waits for its load.
    tokio::time::sleep(LOAD).await;
    let value = serde_json::to_vec(&"x".repeat(200)).unwrap();
    let sent_at = now();
    let _: () = redis::cmd("PUBLISH").arg(channel).arg(value).query_async(&mut connection).await.unwrap();
    let mut answered_at = Vec::new();
    for process in &mut processes {
        answered_at.extend(process.seen().await.answered_at);
    }
    p99_after(&mut answered_at, sent_at)
}

/// Starts the processes and lets them read at the same moment.
async fn gather(server: &ValkeyServer, key: &str, readers: usize) -> Vec<Process> {
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        processes.push(Process::start(server, key, readers, false).await);
    }
    for process in &mut processes {
        process.child.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    }
    processes
}

/// Finds who loads.
async fn holder(processes: &mut [Process]) -> usize {
    let waiting = processes.iter_mut().enumerate().map(|(at, process)| {
        Box::pin(async move {
            while process.line().await != "loading" {}
            at
        })
    });
    futures_util::future::select_all(waiting).await.0
}

fn p99_after(answered_at: &mut [u64], from: u64) -> Duration {
    answered_at.sort_unstable();
    Duration::from_nanos(answered_at[answered_at.len() * 99 / 100].saturating_sub(from))
}

fn tell(what: &str, p99: Duration, ceiling: Duration) {
    let verdict = if p99 <= ceiling { "met" } else { "missed" };
    println!("  {what}, p99 in the median round: {p99:.1?}   at most {ceiling:?}: {verdict}");
}

fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}
