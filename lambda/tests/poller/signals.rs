//! Signals to processes, sent by one shell that lives as long as the test: freezing and thawing start no process.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

/// The shell that sends the signals.
pub(crate) struct Signals {
    shell: Mutex<Shell>,
}

struct Shell {
    orders: ChildStdin,
    done: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Signals {
    pub(crate) fn start() -> Self {
        let mut command = Command::new("sh");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let orders = process.stdin.take().unwrap();
        let done = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { shell: Mutex::new(Shell { orders, done, _process: process }) }
    }

    /// Sends a signal by its name, and returns when it is sent; a process that has ended is left alone.
    pub(crate) async fn send(&self, signal: &str, pid: u32) {
        let mut shell = self.shell.lock().await;
        shell.orders.write_all(format!("kill -s {signal} {pid}; echo done\n").as_bytes()).await.unwrap();
        shell.done.next_line().await.unwrap();
    }
}
