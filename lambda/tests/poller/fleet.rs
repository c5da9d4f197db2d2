//! The sandboxes of one function: started when one is missing, at most so many at once.

use std::sync::Arc;

use super::sandbox::Sandbox;
use super::signals::Signals;

/// The function's concurrency limit.
pub(crate) const MOST: usize = 4;

/// The sandboxes that wait, and the count of those that work.
pub(crate) struct Fleet {
    idle: Vec<Sandbox>,
    working: usize,
    environment: Vec<(String, String)>,
    signals: Arc<Signals>,
    pub(crate) started: u64,
}

impl Fleet {
    pub(crate) fn new(environment: Vec<(String, String)>) -> Self {
        Self { idle: Vec::new(), working: 0, environment, signals: Arc::new(Signals::start()), started: 0 }
    }

    /// A sandbox to work with; `None` where the limit is reached.
    pub(crate) async fn take(&mut self) -> Option<Sandbox> {
        if self.working >= MOST {
            return None;
        }
        let sandbox = match self.idle.pop() {
            Some(sandbox) => sandbox,
            None => {
                self.started += 1;
                Sandbox::start(&self.environment, self.signals.clone()).await
            }
        };
        self.working += 1;
        Some(sandbox)
    }

    /// Takes a sandbox back; one that has died is forgotten.
    pub(crate) fn give_back(&mut self, sandbox: Option<Sandbox>) {
        self.working -= 1;
        self.idle.extend(sandbox.filter(Sandbox::lives));
    }

    /// Kills the sandbox that has waited longest, or asks it to end.
    pub(crate) async fn reap(&mut self, kindly: bool) {
        if self.idle.is_empty() {
            return;
        }
        let mut sandbox = self.idle.remove(0);
        if kindly {
            sandbox.terminate().await;
        } else {
            sandbox.kill().await;
        }
    }

    /// The logs of the sandboxes that wait.
    pub(crate) fn logs(&self) -> String {
        let of = |sandbox: &Sandbox| {
            let lines = sandbox.output.lock().unwrap();
            let told: Vec<&str> =
                lines.iter().map(String::as_str).filter(|line| !line.starts_with("{\"_aws\"")).collect();
            format!("sandbox {}:\n{}\n", sandbox.pid, told[told.len().saturating_sub(20)..].join("\n"))
        };
        self.idle.iter().map(of).collect()
    }
}
