//! A `ringtide run` process.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use crate::LONG;

/// A process that ends with the test.
pub(crate) struct Process {
    child: Child,
    pub(crate) owner: String,
}

impl Process {
    /// Starts a worker; what it says goes to a file of its own.
    pub(crate) fn start(config: &Path, owner: &str, log: &Path) -> Self {
        Self::start_in(config, owner, log, &[])
    }

    /// Starts a worker with something in its environment.
    pub(crate) fn start_in(config: &Path, owner: &str, log: &Path, environment: &[(&str, &str)]) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ringtide"))
            .args(["run", "--config", config.to_str().unwrap(), "--owner", owner])
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, owner: owner.to_owned() }
    }

    pub(crate) fn signal(&self, name: &str) {
        assert!(Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Whether it has not ended.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its resident memory; none where the system does not tell.
    pub(crate) fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim_end_matches("kB").trim().parse::<f64>().unwrap_or_default() / 1024.0
    }

    pub(crate) async fn ended(mut self) -> ExitStatus {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} does not end", self.owner);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
