//! A Valkey cluster: several `valkey-server` processes in cluster mode.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::process::{ServerError, end, free_port, launch, signal};
use super::valkey::PROGRAM;
use super::wire;

/// How long servers may take to agree.
const PATIENCE: Duration = Duration::from_secs(30);

/// Slots of a cluster.
const SLOTS: usize = 16_384;

/// A Valkey cluster on loopback ports; all of its servers end with this handle.
///
/// The first servers are the masters, with equal shares of the slots in their order; replicas follow.
#[derive(Debug)]
pub struct ValkeyCluster {
    nodes: Vec<Node>,
    masters: usize,
    arguments: Vec<String>,
    home: tempfile::TempDir,
}

#[derive(Debug)]
struct Node {
    child: Child,
    port: u16,
    /// The port that certificates are shown on, where the cluster is encrypted.
    tls_port: Option<u16>,
    bus: u16,
}

impl ValkeyCluster {
    /// Starts a cluster of empty masters and waits until all slots are served.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn start(masters: usize) -> Result<Self, ServerError> {
        Self::start_with(masters, 0, &[])
    }

    /// Starts a cluster with `replicas` for the first master and more arguments for every server; those that mention
    /// `--tls-cluster` make it an encrypted one.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn start_with(masters: usize, replicas: usize, arguments: &[&str]) -> Result<Self, ServerError> {
        let home = tempfile::tempdir()?;
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut cluster = Self { nodes: Vec::new(), masters, arguments, home };
        let mut attempts = 0;
        while cluster.nodes.len() < masters + replicas {
            let encrypted = cluster.arguments.iter().any(|argument| argument == "--tls-cluster");
            let tls_port = if encrypted { Some(free_port()?) } else { None };
            match cluster.run(free_port()?, tls_port, free_port()?) {
                Ok(node) => cluster.nodes.push(node),
                // Somebody else may have taken a port in between.
                Err(ServerError::NotReady { .. }) if attempts < 20 => attempts += 1,
                Err(error) => return Err(error),
            }
        }
        for at in 0..masters {
            cluster.ask(at, &["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()])?;
            let (first, after) = (at * SLOTS / masters, (at + 1) * SLOTS / masters);
            cluster.ask(at, &["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &(after - 1).to_string()])?;
        }
        for node in cluster.nodes.iter().skip(1) {
            // Buses are met by the port that commands of that kind come to.
            let port = node.tls_port.unwrap_or(node.port).to_string();
            cluster.ask(0, &["CLUSTER", "MEET", "127.0.0.1", &port, &node.bus.to_string()])?;
        }
        let all = format!("cluster_known_nodes:{}", masters + replicas);
        let id = cluster.id(0)?;
        for at in 0..masters + replicas {
            cluster.wait(at, &["CLUSTER", "INFO"], &all)?;
            if at >= masters {
                cluster.wait(at, &["CLUSTER", "NODES"], &id)?;
                cluster.ask(at, &["CLUSTER", "REPLICATE", &id])?;
                cluster.wait(at, &["INFO", "replication"], "master_link_status:up")?;
            }
        }
        cluster.wait_until_served()?;
        Ok(cluster)
    }

    /// Waits until every server that runs says that all slots are served.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn wait_until_served(&mut self) -> Result<(), ServerError> {
        for at in 0..self.nodes.len() {
            if self.nodes[at].child.try_wait()?.is_none() {
                self.wait(at, &["CLUSTER", "INFO"], "cluster_state:ok")?;
            }
        }
        Ok(())
    }

    /// The address that a client is given, of the first server.
    #[must_use]
    pub fn address(&self) -> String {
        self.address_of(0)
    }

    /// The address of a server.
    #[must_use]
    pub fn address_of(&self, at: usize) -> String {
        let node = &self.nodes[at];
        format!("127.0.0.1:{}", node.tls_port.unwrap_or(node.port))
    }

    /// The port of a server that is not encrypted.
    #[must_use]
    pub fn port(&self, at: usize) -> u16 {
        self.nodes[at].port
    }

    /// How many masters there are.
    #[must_use]
    pub fn masters(&self) -> usize {
        self.masters
    }

    /// The slot of a name.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn slot(&self, name: &str) -> Result<usize, ServerError> {
        let answer = self.ask(0, &["CLUSTER", "KEYSLOT", name])?;
        answer.parse().map_err(|_| not_ready(answer))
    }

    /// Which master a slot was given to at the start.
    #[must_use]
    pub fn first_owner(&self, slot: usize) -> usize {
        (0..self.masters).find(|at| slot < (at + 1) * SLOTS / self.masters).unwrap_or_default()
    }

    /// A server's id in the cluster.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn id(&self, at: usize) -> Result<String, ServerError> {
        self.ask(at, &["CLUSTER", "MYID"])
    }

    /// Begins to move a slot: names that are not at its master any more are asked for at the other.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn begin_move(&self, slot: usize, from: usize, to: usize) -> Result<(), ServerError> {
        let slot = slot.to_string();
        self.ask(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.id(from)?])?;
        self.ask(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.id(to)?])?;
        Ok(())
    }

    /// Moves one name of a slot that is moving.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn move_name(&self, name: &str, from: usize, to: usize) -> Result<(), ServerError> {
        let port = self.nodes[to].tls_port.unwrap_or(self.nodes[to].port).to_string();
        self.ask(from, &["MIGRATE", "127.0.0.1", &port, name, "0", "5000"]).map(drop)
    }

    /// Ends moving a slot, on every server; the names in it have to be moved by then.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn end_move(&self, slot: usize, to: usize) -> Result<(), ServerError> {
        let (slot, id) = (slot.to_string(), self.id(to)?);
        self.ask(to, &["CLUSTER", "SETSLOT", &slot, "NODE", &id])?;
        for at in (0..self.masters).filter(|at| *at != to) {
            self.ask(at, &["CLUSTER", "SETSLOT", &slot, "NODE", &id])?;
        }
        Ok(())
    }

    /// Sends a command to one server, and returns its answer as text, a line for each part.
    ///
    /// # Errors
    /// [`ServerError::NotReady`] with the error that it answers.
    pub fn ask(&self, at: usize, command: &[&str]) -> Result<String, ServerError> {
        wire::ask(self.nodes[at].port, command)
    }

    /// Asks a server the same until its answer contains something.
    ///
    /// # Errors
    /// [`ServerError::NotReady`] with its last answer.
    pub fn wait(&self, at: usize, command: &[&str], wanted: &str) -> Result<(), ServerError> {
        let begun = Instant::now();
        loop {
            let answer = self.ask(at, command);
            match answer {
                Ok(answer) if answer.contains(wanted) => return Ok(()),
                Ok(answer) if begun.elapsed() > PATIENCE => return Err(not_ready(answer)),
                Err(error) if begun.elapsed() > PATIENCE => return Err(error),
                Ok(_) | Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Kills a server; its data are gone, and its place in the cluster is kept.
    pub fn kill(&mut self, at: usize) {
        end(&mut self.nodes[at].child);
    }

    /// Starts a server again, empty, in its old place, after killing the one that runs.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn restart(&mut self, at: usize) -> Result<(), ServerError> {
        self.kill(at);
        let node = &self.nodes[at];
        self.nodes[at] = self.run(node.port, node.tls_port, node.bus)?;
        Ok(())
    }

    /// Stops a process (SIGSTOP): it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// Where the signal cannot be sent.
    pub fn freeze(&self, at: usize) -> std::io::Result<()> {
        signal(self.nodes[at].child.id(), "STOP")
    }

    /// Lets a stopped process go on (SIGCONT).
    ///
    /// # Errors
    /// Where the signal cannot be sent.
    pub fn thaw(&self, at: usize) -> std::io::Result<()> {
        signal(self.nodes[at].child.id(), "CONT")
    }

    fn run(&self, port: u16, tls_port: Option<u16>, bus: u16) -> Result<Node, ServerError> {
        let mut command = Command::new(PROGRAM);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.args([
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &bus.to_string(),
            "--cluster-node-timeout",
            "1000",
        ]);
        command.args(["--cluster-config-file", &format!("nodes-{port}.conf"), "--repl-diskless-load", "swapdb"]);
        command.arg("--dir").arg(self.home.path());
        if let Some(port) = tls_port {
            command.args(["--tls-port", &port.to_string()]);
        }
        let child = launch(PROGRAM, command.args(&self.arguments), "Ready to accept connections")?;
        Ok(Node { child, port, tls_port, bus })
    }
}

impl Drop for ValkeyCluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            end(&mut node.child);
        }
    }
}

fn not_ready(reason: String) -> ServerError {
    ServerError::NotReady { program: PROGRAM, reason }
}
