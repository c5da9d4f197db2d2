//! A child process that is a server.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// A server that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The program is not there.
    #[error("{program} cannot be started: {source}; `make setup` installs it")]
    Missing {
        /// The program.
        program: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The program ended, or never said that it is ready.
    #[error("{program} does not come up: {reason}")]
    NotReady {
        /// The program.
        program: &'static str,
        /// Its last words.
        reason: String,
    },
    /// Something on this machine failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Finds a loopback port that nothing listens on at the moment.
///
/// # Errors
/// Where no port can be bound.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Starts a program and reads its standard output up to the line that says it is ready.
pub(crate) fn launch(program: &'static str, command: &mut Command, ready: &str) -> Result<Child, ServerError> {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = spawned.map_err(|source| ServerError::Missing { program, source })?;
    let Some(stdout) = child.stdout.take() else {
        return Err(ServerError::NotReady { program, reason: "it has no standard output".to_owned() });
    };
    let mut lines = BufReader::new(stdout).lines();
    let mut last = String::new();
    for line in lines.by_ref().map_while(Result::ok) {
        if line.contains(ready) {
            // A server whose log nobody reads would come to a halt.
            std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
            return Ok(child);
        }
        last = line;
    }
    end(&mut child);
    Err(ServerError::NotReady { program, reason: last })
}

/// Kills a child and collects it; one that has ended is left alone.
pub(crate) fn end(child: &mut Child) {
    let _ended_already = child.kill();
    let _collected = child.wait();
}

/// Sends a signal by its name to a process.
pub(crate) fn signal(pid: u32, name: &str) -> std::io::Result<()> {
    let mut kill = Command::new("kill").args(["-s", name, &pid.to_string()]).stderr(Stdio::piped()).spawn()?;
    let mut words = String::new();
    if let Some(mut stderr) = kill.stderr.take() {
        stderr.read_to_string(&mut words)?;
    }
    if kill.wait()?.success() { Ok(()) } else { Err(std::io::Error::other(words)) }
}
