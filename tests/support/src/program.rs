//! A program of ours that runs as a child, and waiting for what it does.

use std::io;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use super::process::{end, signal};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// A child process that ends with this handle.
#[derive(Debug)]
pub struct Program(Child);

impl Program {
    /// Takes a child over.
    #[must_use]
    pub fn of(child: Child) -> Self {
        Self(child)
    }

    /// Sends a signal by its name, `TERM`.
    ///
    /// # Errors
    /// Where the signal cannot be sent.
    pub fn signal(&self, name: &str) -> io::Result<()> {
        signal(self.0.id(), name)
    }

    /// Waits for its end; `None` where it goes on for longer.
    ///
    /// # Errors
    /// Where the process cannot be looked at.
    pub async fn ended(&mut self, within: Duration) -> io::Result<Option<ExitStatus>> {
        let mut status = None;
        eventually(within, async || {
            status = self.0.try_wait().transpose();
            status.is_some()
        })
        .await;
        status.transpose()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// Looks again and again until something holds; whether it did in time.
pub async fn eventually(within: Duration, mut holds: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    while !holds().await {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}
