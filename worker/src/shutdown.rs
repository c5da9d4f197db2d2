//! Signals: SIGTERM and SIGINT ask for an orderly end, the second of them ends at once; SIGHUP asks for another look at the
//! configuration.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a process that was interrupted twice exits with.
const INTERRUPTED: i32 = 130;

/// Listens for SIGTERM, SIGINT and SIGHUP; dropping it stops listening.
#[derive(Debug)]
pub struct Signals {
    asked: CancellationToken,
    hung_up: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Signals {
    /// Begins to listen; must be called in a Tokio runtime.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn listen() -> std::io::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut hang_up = signal(SignalKind::hangup())?;
        let (asked, hung_up) = (CancellationToken::new(), Arc::new(Notify::new()));
        let (token, look) = (asked.clone(), Arc::clone(&hung_up));
        let task = tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                    _ = hang_up.recv() => {
                        look.notify_one();
                        continue;
                    }
                };
                if token.is_cancelled() {
                    tracing::warn!(signal = name, "ending at once");
                    std::process::exit(INTERRUPTED);
                }
                tracing::info!(signal = name, "stopping: reading ends, what was read is being delivered");
                token.cancel();
            }
        });
        Ok(Self { asked, hung_up, task })
    }

    /// Resolves after the first SIGTERM or SIGINT.
    pub async fn asked(&self) {
        self.asked.cancelled().await;
    }

    /// Resolves after a SIGHUP that nobody was told of yet; for one who waits.
    pub async fn hung_up(&self) {
        self.hung_up.notified().await;
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.task.abort();
    }
}
