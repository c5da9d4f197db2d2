//! Signals: the first asks for an orderly end, the second ends at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a process that was interrupted twice exits with.
const INTERRUPTED: i32 = 130;

/// Listens for SIGTERM and SIGINT; dropping it stops listening.
#[derive(Debug)]
pub struct Signals {
    asked: CancellationToken,
    task: JoinHandle<()>,
}

impl Signals {
    /// Begins to listen; must be called in a Tokio runtime.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn listen() -> std::io::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let asked = CancellationToken::new();
        let token = asked.clone();
        let task = tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if token.is_cancelled() {
                    tracing::warn!(signal = name, "ending at once");
                    std::process::exit(INTERRUPTED);
                }
                tracing::info!(signal = name, "stopping: reading ends, what was read is being delivered");
                token.cancel();
            }
        });
        Ok(Self { asked, task })
    }

    /// Resolves after the first signal.
    pub async fn asked(&self) {
        self.asked.cancelled().await;
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.task.abort();
    }
}
