//! A `ministack` process: a LocalStack-compatible endpoint.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::process::{ServerError, end, free_port};

const PROGRAM: &str = "ministack";

/// A ministack process on a loopback port of its own; it ends with this handle.
///
/// It differs from AWS in ways that matter to a consumer: one stream shard, closed only when the stream is disabled or
/// the table deleted.
#[derive(Debug)]
pub struct Ministack {
    child: Child,
    port: u16,
    _home: tempfile::TempDir,
}

impl Ministack {
    /// Starts an empty one and waits until it answers.
    ///
    /// The program is the one that `make setup` installs below `target/`, or the one on the `PATH`.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn start() -> Result<Self, ServerError> {
        let home = tempfile::tempdir()?;
        let port = free_port()?;
        let spawned = Command::new(program())
            .env("BIND_HOST", "127.0.0.1")
            .env("GATEWAY_PORT", port.to_string())
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut child = spawned.map_err(|source| ServerError::Missing { program: PROGRAM, source })?;
        let begun = Instant::now();
        while !answers(port) {
            let ended = child.try_wait()?;
            if ended.is_some() || begun.elapsed() > Duration::from_secs(60) {
                end(&mut child);
                let reason = ended.map_or_else(|| "no answer in a minute".to_owned(), |status| status.to_string());
                return Err(ServerError::NotReady { program: PROGRAM, reason });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Self { child, port, _home: home })
    }

    /// Its endpoint.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Ministack {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn program() -> PathBuf {
    let installed = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/ministack/bin/ministack"));
    if installed.exists() { installed } else { PathBuf::from(PROGRAM) }
}

fn answers(port: u16) -> bool {
    let asked = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        stream.read(&mut [0; 12])
    });
    asked.is_ok_and(|read| read > 0)
}
