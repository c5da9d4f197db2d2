//! Programs that are run beside the test: each ends with its handle, and everything that it started with it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command as Plain, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// A process that leads a group of its own, so that what it starts can be ended with it.
pub(crate) struct Program {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Program {
    /// Starts a program whose output goes to `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let output = File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output).process_group(0);
        let child = command.spawn();
        let child = child.unwrap_or_else(|error| panic!("{name} cannot be started: {error}; `make setup` installs it"));
        Self { child, name: name.to_owned(), log: log.to_owned() }
    }

    /// Waits for its end and returns its output; an unhappy one fails the test with it.
    pub(crate) async fn finish(mut self, patience: Duration) -> String {
        match tokio::time::timeout(patience, self.child.wait()).await {
            Ok(status) if status.as_ref().unwrap().success() => self.output(),
            Ok(status) => panic!("{} failed ({}):\n{}", self.name, status.unwrap(), self.output()),
            Err(_) => panic!("{} takes longer than {patience:?}:\n{}", self.name, self.output()),
        }
    }

    /// What it has written so far.
    pub(crate) fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub(crate) async fn terminate(mut self, patience: Duration) {
        let id = self.child.id().expect("it runs").to_string();
        assert!(Plain::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
        match tokio::time::timeout(patience, self.child.wait()).await {
            Ok(status) => assert!(status.unwrap().success(), "{} did not end well:\n{}", self.name, self.output()),
            Err(_) => panic!("{} does not end:\n{}", self.name, self.output()),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // No id: it has ended and was collected, and its number may be somebody else's by now.
        if let Some(id) = self.child.id() {
            let group = format!("-{id}");
            let _gone_already = Plain::new("kill").args(["-s", "KILL", "--", &group]).stderr(Stdio::null()).status();
        }
    }
}

/// Sends a request and returns the answer's status and body; no answer is status 0.
pub(crate) async fn http(port: u16, head: &str, body: &str) -> (u16, String) {
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let length = body.len();
        let request =
            format!("{head}\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = match tokio::time::timeout(Duration::from_secs(20), asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) | Err(_) => return (0, String::new()),
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}

/// Asks again and again until something holds.
pub(crate) async fn eventually<T>(
    what: &str,
    patience: Duration,
    mut ask: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let begun = Instant::now();
    loop {
        match ask().await {
            Ok(seen) => return seen,
            Err(last) => assert!(begun.elapsed() < patience, "never came true: {what}; last seen: {last}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Says what happens, also where the harness keeps back what tests print: this takes minutes.
pub(crate) fn say(begun: Instant, what: &str) {
    let _nobody_listens = writeln!(std::io::stderr(), "local {:>5.1} s  {what}", begun.elapsed().as_secs_f64());
}
