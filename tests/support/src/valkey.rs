//! A `valkey-server` process without persistence.

use std::process::{Child, Command};

use super::process::{ServerError, end, free_port, launch, signal};
use super::wire;

pub(crate) const PROGRAM: &str = "valkey-server";

/// A Valkey server on a loopback port of its own; it ends with this handle.
#[derive(Debug)]
pub struct ValkeyServer {
    child: Child,
    port: u16,
    arguments: Vec<String>,
}

impl ValkeyServer {
    /// Starts an empty server and waits until it takes connections.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn start() -> Result<Self, ServerError> {
        Self::start_with(&[])
    }

    /// Starts an empty server with more arguments, such as `["--requirepass", "secret"]`.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn start_with(arguments: &[&str]) -> Result<Self, ServerError> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut attempts = 0;
        loop {
            let port = free_port()?;
            match run(port, &arguments) {
                Ok(child) => return Ok(Self { child, port, arguments }),
                // Somebody else may have taken the port in between.
                Err(ServerError::NotReady { .. }) if attempts < 20 => attempts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sends it a command and returns what it answers; parts of an answer stand in lines.
    ///
    /// # Errors
    /// [`ServerError::NotReady`] with the error that it answers.
    pub fn ask(&self, command: &[impl AsRef<[u8]>]) -> Result<String, ServerError> {
        wire::ask(self.port, command)
    }

    /// Kills the server; its data are gone.
    pub fn kill(&mut self) {
        end(&mut self.child);
    }

    /// Starts an empty server on the same port, after killing the one that runs.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn restart(&mut self) -> Result<(), ServerError> {
        self.kill();
        self.child = run(self.port, &self.arguments)?;
        Ok(())
    }

    /// Stops the process (SIGSTOP): it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// Where the signal cannot be sent.
    pub fn freeze(&self) -> std::io::Result<()> {
        signal(self.child.id(), "STOP")
    }

    /// Lets a stopped process go on (SIGCONT).
    ///
    /// # Errors
    /// Where the signal cannot be sent.
    pub fn thaw(&self) -> std::io::Result<()> {
        signal(self.child.id(), "CONT")
    }
}

impl Drop for ValkeyServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run(port: u16, arguments: &[String]) -> Result<Child, ServerError> {
    let mut command = Command::new(PROGRAM);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    launch(PROGRAM, command.args(arguments), "Ready to accept connections")
}
