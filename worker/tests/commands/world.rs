//! What a command finds: a ring, tables, a configuration.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, StreamViewType};
use ringtide_core::config::Aws;
use ringtide_servers::{Emulator, ValkeyServer, create_table};
use ringtide_worker::aws::Clients;
use serde_json::Value;
use tokio::process::{Child, Command};

/// Longer than anything here takes; reaching it is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Key spaces and routes of a table with two kinds of keys.
pub(crate) const ROUTES: &str = r#"
[spaces.product]
key = "product:{pk}"
[spaces.category]
key = "category:{category}:top"
[[routes]]
table = "products"
space = "product"
[[routes]]
table = "products"
space = "category"
"#;

/// What a command came to.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// The one JSON document that was printed.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }

    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        self
    }
}

pub(crate) struct World {
    pub(crate) dynamodb: Emulator,
    pub(crate) clients: Clients,
    pub(crate) servers: Vec<ValkeyServer>,
    pub(crate) folder: tempfile::TempDir,
}

impl World {
    /// A ring of some servers, with a configuration of `ROUTES` and `more`, whose sections come first.
    pub(crate) async fn new(servers: usize, more: &str) -> Self {
        let dynamodb = Emulator::start().await.unwrap();
        let aws = Aws { region: None, endpoint_url: Some(dynamodb.url().to_owned()) };
        let clients = Clients::connect(&aws).await;
        let servers = (0..servers).map(|_| ValkeyServer::start().unwrap()).collect();
        let world = Self { dynamodb, clients, servers, folder: tempfile::tempdir().unwrap() };
        world.configure(more, ROUTES);
        world
    }

    pub(crate) fn configure(&self, more: &str, routes: &str) {
        let shard = |(index, server): (usize, &ValkeyServer)| {
            format!("[[ring.shards]]\nname = \"{}\"\naddress = \"{}\"\n", name(index), server.address())
        };
        let shards: String = self.servers.iter().enumerate().map(shard).collect();
        std::fs::write(self.config(), format!("{more}\n{shards}{routes}")).unwrap();
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("ringtide.toml")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, endpoint: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringtide"));
        let config = self.config();
        command.args(arguments).args(["--config", config.to_str().unwrap(), "--endpoint-url", endpoint]);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_at(self.dynamodb.url(), arguments).await
    }

    /// Runs a command to its end, against another endpoint.
    pub(crate) async fn run_at(&self, endpoint: &str, arguments: &[&str]) -> Ran {
        let output = tokio::time::timeout(PATIENCE, self.command(endpoint, arguments).output());
        let output = output.await.expect("the command does not end").unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Starts a worker, which reads streams through `endpoint`.
    pub(crate) fn worker(&self, endpoint: &str) -> Child {
        self.command(endpoint, &["run"]).stderr(Stdio::null()).spawn().unwrap()
    }

    pub(crate) async fn create_table(&self, name: &str, key: &str, view: Option<StreamViewType>) {
        create_table(&self.clients.tables, name, key, view).await.unwrap();
    }

    pub(crate) async fn put(&self, pk: &str, category: &str) {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let put = self.clients.tables.put_item().table_name("products").item("pk", text(pk));
        put.item("category", text(category)).send().await.unwrap();
    }

    /// Caches bytes under a key, on the ring shard where `locate` says that it lives; returns its place among them.
    pub(crate) async fn cache(&self, key: &str, value: &[u8]) -> usize {
        let located = self.run(&["locate", key, "--json"]).await.expect(0).json();
        let shard = located[0]["ring_shard"].as_str().unwrap().to_owned();
        let at = (0..self.servers.len()).find(|at| name(*at) == shard).unwrap();
        let set = [b"SET", key.as_bytes(), value, b"PX", b"600000"];
        assert_eq!(self.servers[at].ask(&set).unwrap(), "OK");
        at
    }

    /// Whether any of the ring shards has the key.
    pub(crate) fn cached(&self, key: &str) -> bool {
        (0..self.servers.len()).any(|at| self.cached_on(at, key))
    }

    /// Whether the ring shard at a place has the key.
    pub(crate) fn cached_on(&self, at: usize, key: &str) -> bool {
        self.servers[at].ask(&["EXISTS", key]).unwrap() == "1"
    }
}

/// The name of the ring shard at a place.
pub(crate) fn name(at: usize) -> String {
    ["a", "b", "c"][at].to_owned()
}

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, holds: impl AsyncFnMut() -> bool) {
    assert!(ringtide_servers::eventually(PATIENCE, holds).await, "never came true: {what}");
}
