//! A herd: many readers of one cold key at one moment, in several processes.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ringtide::Cache;
use ringtide_core::config::Config;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::task::JoinSet;

use super::DemoError;
use super::catalog::{Catalog, Product};
use super::stage::program;

/// The loader's own pause: an origin that is busy.
const LOAD_PAUSE: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(20);

/// What one process of the herd saw, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Herd {
    /// Calls of the loader.
    pub(super) loads: usize,
    /// Reads that were answered.
    pub(super) answered: usize,
    /// Reads that ended with an error, or with no item.
    pub(super) failed: usize,
    /// The versions they were given.
    pub(super) versions: BTreeSet<u64>,
    /// The longest read.
    pub(super) slowest_ms: u64,
}

struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

/// Lets `readers` in `processes` processes read one key at the same moment.
pub(super) async fn stampede(
    config: &Path,
    endpoint: &str,
    pk: &str,
    processes: usize,
    readers: usize,
) -> Result<Herd, DemoError> {
    let stampede = async {
        let mut herd = Vec::new();
        for _ in 0..processes {
            herd.push(Process::start(config, endpoint, pk, readers / processes.max(1))?);
        }
        for process in &mut herd {
            process.line().await?;
        }
        // All are connected and wait for this line.
        for process in &mut herd {
            process.stdin.write_all(b"go\n").await?;
            process.stdin.flush().await?;
        }
        let mut all = Herd::default();
        for process in &mut herd {
            all.add(serde_json::from_str(&process.line().await?).map_err(std::io::Error::from)?);
            process.child.wait().await?;
        }
        Ok(all)
    };
    let late = |_| DemoError::Herd("it did not end in time".to_owned());
    tokio::time::timeout(PATIENCE, stampede).await.map_err(late)?
}

impl Process {
    fn start(config: &Path, endpoint: &str, pk: &str, readers: usize) -> Result<Self, DemoError> {
        let mut command = program("demo-herd", config, endpoint)?;
        command.args(["--pk", pk, "--readers", &readers.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok(Self { child, stdin, lines: BufReader::new(stdout).lines() }),
            (_, _) => Err(DemoError::Herd("a process has no pipes".to_owned())),
        }
    }

    async fn line(&mut self) -> Result<String, DemoError> {
        let line = self.lines.next_line().await?;
        line.ok_or_else(|| DemoError::Herd("one of its processes ended early".to_owned()))
    }
}

impl Herd {
    fn add(&mut self, other: Herd) {
        self.loads += other.loads;
        self.answered += other.answered;
        self.failed += other.failed;
        self.versions.extend(other.versions);
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
    }
}

/// What a process of the herd does: connects, says so, waits for a line, reads, tells what it saw.
pub(crate) async fn join(config: &Path, endpoint: &str, pk: &str, readers: usize) -> Result<(), DemoError> {
    let mut config = Config::load(config, [])?;
    // The herd keeps a small machine's processors to itself for seconds, in which nothing extends a lease.
    config.reader.lease_ttl = Duration::from_secs(10);
    let cache = Cache::from_config(config).await?;
    let products = cache.space::<Product>("product")?;
    let catalog = Catalog::connect(endpoint);
    let (mut stdin, mut stdout) = (BufReader::new(tokio::io::stdin()).lines(), tokio::io::stdout());
    stdout.write_all(b"ready\n").await?;
    stdout.flush().await?;
    if stdin.next_line().await?.is_none() {
        return Ok(());
    }
    let (loads, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let mut reads = JoinSet::new();
    for _ in 0..readers {
        let (products, catalog, loads, pk) = (products.clone(), catalog.clone(), Arc::clone(&loads), pk.to_owned());
        reads.spawn(async move {
            let item = pk.clone();
            let load = move || {
                loads.fetch_add(1, Ordering::SeqCst);
                let (catalog, item) = (catalog.clone(), item.clone());
                async move { catalog.slow_product(&item, LOAD_PAUSE).await }
            };
            products.get_or_load(&pk, load).await
        });
    }
    let mut herd = Herd::default();
    while let Some(read) = reads.join_next().await {
        match read {
            Ok(Ok(Some(product))) => {
                herd.answered += 1;
                herd.versions.insert(product.version);
            }
            Ok(Ok(None) | Err(_)) | Err(_) => herd.failed += 1,
        }
    }
    herd.loads = loads.load(Ordering::SeqCst);
    herd.slowest_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut line = serde_json::to_vec(&herd).map_err(std::io::Error::from)?;
    line.push(b'\n');
    stdout.write_all(&line).await?;
    stdout.flush().await?;
    cache.close().await;
    Ok(())
}
