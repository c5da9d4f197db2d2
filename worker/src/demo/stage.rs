//! The servers of the demo, the configuration and the worker as a process; all end with this handle.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ringtide_core::config::Config;
use ringtide_servers::{Emulator, ValkeyServer, free_port};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::DemoError;
use super::pages::fetch;

/// What runs.
pub(super) struct Stage {
    // Dropped in this order: the worker first, the directory last.
    worker: Option<Child>,
    shards: Vec<ValkeyServer>,
    emulator: Emulator,
    dir: TempDir,
    listen: SocketAddr,
}

/// Which fault is planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Planted {
    Nothing,
    /// The worker is not told the route that feeds the categories.
    RouteLeftOut,
}

impl Stage {
    /// Starts everything but the worker.
    pub(super) async fn set(shards: usize, planted: Planted) -> Result<Self, DemoError> {
        let dir = tempfile::Builder::new().prefix("ringtide-demo-").tempdir()?;
        let emulator = Emulator::start().await?;
        let started = tokio::task::spawn_blocking(move || (0..shards).map(|_| ValkeyServer::start()).collect());
        let shards: Result<Vec<_>, _> = started.await.map_err(std::io::Error::other)?;
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let stage = Self { worker: None, shards: shards?, emulator, dir, listen };
        std::fs::write(stage.config_path(), stage.toml(Planted::Nothing))?;
        std::fs::write(stage.worker_config_path(), stage.toml(planted))?;
        Ok(stage)
    }

    /// The configuration, as a reader loads it.
    pub(super) fn config(&self) -> Result<Config, DemoError> {
        Ok(Config::load(&self.config_path(), [])?)
    }

    pub(super) fn config_path(&self) -> PathBuf {
        self.dir.path().join("ringtide.toml")
    }

    pub(super) fn endpoint(&self) -> &str {
        self.emulator.url()
    }

    /// The directory of configuration and log, which ends with the demo.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the worker's pages are.
    pub(super) fn listen(&self) -> SocketAddr {
        self.listen
    }

    pub(super) fn shard_name(index: usize) -> String {
        format!("ring-{}", index + 1)
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        self.shards.iter().map(ValkeyServer::address).collect()
    }

    /// Kills a ring shard with everything in it.
    pub(super) fn kill_shard(&mut self, index: usize) {
        if let Some(shard) = self.shards.get_mut(index) {
            tokio::task::block_in_place(|| shard.kill());
        }
    }

    /// Starts a ring shard again, empty.
    pub(super) fn restart_shard(&mut self, index: usize) -> Result<(), DemoError> {
        match self.shards.get_mut(index) {
            Some(shard) => Ok(tokio::task::block_in_place(|| shard.restart())?),
            None => Ok(()),
        }
    }

    /// Starts the worker and waits until it is ready.
    pub(super) async fn start_worker(&mut self) -> Result<(), DemoError> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = program("run", &self.worker_config_path(), self.endpoint())?;
        command.args(["--owner", "demo"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.worker = Some(command.spawn()?);
        let ready = async {
            while !fetch(self.listen, "/readyz").await.is_some_and(|page| page.ok) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let ready = tokio::time::timeout(Duration::from_secs(15), ready).await;
        self.check_worker()?;
        ready.map_err(|_| DemoError::Worker { reason: "it is not ready after 15 s".to_owned(), log: self.last_words() })
    }

    /// Kills the worker with SIGKILL, in the middle of whatever it does.
    pub(super) async fn kill_worker(&mut self) -> Result<(), DemoError> {
        if let Some(mut worker) = self.worker.take() {
            worker.kill().await?;
        }
        Ok(())
    }

    /// Fails where the worker has ended by itself.
    pub(super) fn check_worker(&mut self) -> Result<(), DemoError> {
        let Some(worker) = &mut self.worker else { return Ok(()) };
        match worker.try_wait()? {
            None => Ok(()),
            Some(status) => Err(DemoError::Worker { reason: status.to_string(), log: self.last_words() }),
        }
    }

    /// Ends everything and waits for that.
    pub(super) async fn clear(mut self) -> Result<(), DemoError> {
        self.kill_worker().await
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("worker.log")
    }

    fn worker_config_path(&self) -> PathBuf {
        self.dir.path().join("worker.toml")
    }

    fn toml(&self, planted: Planted) -> String {
        let mut toml = format!(
            "[aws]\nregion = \"us-east-1\"\nendpoint_url = \"{}\"\n\n\
             [worker]\napplication = \"ringtide-demo\"\nlisten = \"{}\"\nidle_poll = \"100ms\"\nlease_timeout = \"3s\"\n\n",
            self.emulator.url(),
            self.listen
        );
        for (index, address) in self.addresses().iter().enumerate() {
            let name = Self::shard_name(index);
            // Writing to a String never fails.
            let _ = write!(toml, "[[ring.shards]]\nname = \"{name}\"\naddress = \"{address}\"\n\n");
        }
        toml.push_str(SPACES);
        if planted == Planted::Nothing {
            toml.push_str(CATEGORY_ROUTE);
        }
        toml
    }
}

const SPACES: &str = r#"[spaces.product]
key = "product:{pk}"

[spaces.price]
key = "price:{pk}"
mode = "versioned"
version_attribute = "version"

[spaces.category]
key = "category:{category}:top"

[[routes]]
table = "products"
space = "product"

[[routes]]
table = "products"
space = "price"
"#;

const CATEGORY_ROUTE: &str = r#"
[[routes]]
table = "products"
space = "category"
"#;

/// This program under another sub-command, without what the environment says; it is killed when its handle is dropped.
pub(super) fn program(sub_command: &str, config: &Path, endpoint: &str) -> Result<Command, DemoError> {
    let mut command = Command::new(std::env::current_exe()?);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("RINGTIDE_") || name.starts_with("AWS_") {
            command.env_remove(&*name);
        }
    }
    command.arg(sub_command).arg("--config").arg(config).args(["--endpoint-url", endpoint]);
    command.env("AWS_ACCESS_KEY_ID", "demo").env("AWS_SECRET_ACCESS_KEY", "demo");
    command.kill_on_drop(true);
    Ok(command)
}
