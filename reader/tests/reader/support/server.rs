//! A `valkey-server` process on a free loopback port, killed at the end.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use ringtide::{CacheKey, Mode, Version, config};
use ringtide_core::command::{Action, Command as Invalidation};
use ringtide_core::key::{KeySpace, Template};
use ringtide_core::ring::{ShardName, ShardSpec};
use ringtide_core::valkey::Shard;

use super::{LONG, until};

pub(crate) struct Server {
    port: u16,
    process: Option<Child>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { port, process: None };
        server.restart().await;
        server
    }

    /// Starts it, empty, after [`Server::kill`].
    pub(crate) async fn restart(&mut self) {
        let port = self.port.to_string();
        let arguments = ["--port", &port, "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"];
        let mut command = Command::new("valkey-server");
        command.args(arguments).stdout(Stdio::null()).stdin(Stdio::null());
        self.process = Some(command.spawn().expect("valkey-server has to be installed"));
        until("the server's start", async || self.try_connect().await.is_ok()).await;
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn try_connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        redis::Client::open(format!("redis://{}/", self.address()))?.get_multiplexed_async_connection().await
    }

    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        self.try_connect().await.unwrap()
    }

    pub(crate) async fn exists(&self, key: &str) -> bool {
        redis::cmd("EXISTS").arg(key).query_async(&mut self.connection().await).await.unwrap()
    }

    /// How often a command was carried out since the server's start or [`Server::forget_calls`].
    pub(crate) async fn calls(&self, command: &str) -> u64 {
        let info: String =
            redis::cmd("INFO").arg("commandstats").query_async(&mut self.connection().await).await.unwrap();
        let prefix = format!("cmdstat_{command}:calls=");
        let line = info.lines().find_map(|line| line.strip_prefix(&prefix));
        line.and_then(|rest| rest.split(',').next()).map_or(0, |calls| calls.parse().unwrap())
    }

    /// How many inboxes are subscribed.
    pub(crate) async fn subscribers(&self) -> usize {
        let mut connection = self.connection().await;
        let channels: Vec<String> = redis::cmd("PUBSUB").arg("CHANNELS").query_async(&mut connection).await.unwrap();
        channels.len()
    }

    /// Counts the commands from here on.
    pub(crate) async fn forget_calls(&self) {
        let mut connection = self.connection().await;
        redis::cmd("CONFIG").arg("RESETSTAT").query_async::<()>(&mut connection).await.unwrap();
    }

    /// An invalidator's handle.
    pub(crate) async fn shard(&self) -> Shard {
        let spec = ShardSpec { name: ShardName::new("a"), address: self.address(), weight: 1 };
        let options = config::Valkey {
            username: None,
            password: None,
            tls: false,
            ca_file: None,
            connections: 1,
            command_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
        };
        let shard = Shard::connect(&spec, &options).unwrap();
        shard.ready(LONG).await.unwrap();
        shard
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Invalidates a key as an invalidator does.
pub(crate) async fn invalidate(shard: &Shard, key: &str, mode: Mode, version: Version) {
    let space = KeySpace {
        name: "test".into(),
        template: Template::parse("{key}").unwrap(),
        mode,
        ttl: Duration::from_secs(60),
        ttl_jitter: 0.0,
        negative_ttl: Duration::from_secs(60),
        keep_stale: false,
    };
    let action = Action::Invalidate { version };
    let command = Invalidation { key: CacheKey::new(key).unwrap(), space: Arc::new(space), action };
    shard.apply(&[command], 0).await.unwrap();
}
