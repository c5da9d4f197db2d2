//! The worker as a process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ringtide_core::metrics as names;
use ringtide_servers::free_port;
use serde_json::Value;
use tokio::process::Command;

use crate::emulator::Emulator;
use crate::programs::{Program, eventually, http};

/// Compiles the binary as it is now. By way of its own tests, so that every dependency is compiled as it is for tests.
pub(crate) async fn build() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--workspace", "--all-features", "--test", "process", "--no-run", "--message-format", "json"]);
    cargo.current_dir(crate::root()).env("CARGO_TARGET_DIR", crate::target());
    let built = Program::start("cargo test --no-run", cargo, &crate::scratch().join("cargo.log"));
    let built = built.finish(crate::COMPILING).await;
    let messages = built.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut binaries =
        messages.filter(|message| message["target"]["name"] == "ringtide" && message["executable"].is_string());
    let binary = binaries.find(|message| message["profile"]["test"] == false).expect("cargo tells where the binary is");
    PathBuf::from(binary["executable"].as_str().expect("a path"))
}

/// The pattern of the function's event source mapping, generated from the routes of a configuration.
pub(crate) async fn filter_pattern(binary: &Path, config: &Path) -> String {
    let mut command = Command::new(binary);
    command.args(["filters", "--table", "products", "--config"]).arg(config);
    let printed = Program::start("ringtide filters", command, &crate::scratch().join("filters.log"));
    let printed: Value = serde_json::from_str(&printed.finish(Duration::from_secs(20)).await).unwrap();
    printed["Filters"][0]["Pattern"].as_str().expect("the routes leave events out").to_owned()
}

pub(crate) struct Worker {
    program: Program,
    port: u16,
}

impl Worker {
    /// Starts it, and waits until it has read the stream.
    pub(crate) async fn start(binary: &Path, config: &str, emulator: &Emulator) -> Self {
        let port = free_port().unwrap();
        let worker = format!("[worker]\napplication = \"ringtide-local\"\nlisten = \"127.0.0.1:{port}\"\n");
        let file = crate::scratch().join("worker.toml");
        std::fs::write(&file, format!("{worker}{config}")).unwrap();
        let mut command = Command::new(binary);
        command.arg("run").arg("--config").arg(file).args(["--endpoint-url", &emulator.url()]);
        let program = Program::start("ringtide run", command, &crate::scratch().join("worker.log"));
        let ready = async || match http(port, "GET /readyz HTTP/1.1", "").await {
            (200, _) => Ok(()),
            (status, _) => Err(format!("{status}, {}", program.output())),
        };
        eventually("the worker is ready", Duration::from_secs(30), ready).await;
        Self { program, port }
    }

    /// A counter since the process was started, over all labels or those that have a value.
    pub(crate) async fn count(&self, counter: &str, label: &str) -> u64 {
        let (status, page) = http(self.port, "GET /metrics HTTP/1.1", "").await;
        assert_eq!(status, 200, "{page}");
        let lines = page.lines().filter(|line| line.starts_with(counter) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Waits until it has been given so many records, and has delivered what they lead to.
    pub(crate) async fn took_in(&self, records: u64) {
        let all = async || {
            let taken = self.count(names::PIPELINE_RECORDS, "").await;
            let pending = self.count(names::DELIVERY_PENDING, "").await;
            if taken >= records && pending == 0 {
                Ok(())
            } else {
                Err(format!("{taken} of {records}, {pending} pending"))
            }
        };
        eventually("the worker takes all changes in", Duration::from_secs(60), all).await;
    }

    /// Ends it as a deployment does.
    pub(crate) async fn stop(self) {
        self.program.terminate(Duration::from_secs(30)).await;
    }
}
