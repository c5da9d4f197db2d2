//! A Valkey server, and what tests ask of it.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use ringtide::{CacheKey, Mode, Version, config};
use ringtide_core::command::{Action, Command as Invalidation};
use ringtide_core::key::{KeySpace, Template};
use ringtide_core::ring::{ShardName, ShardSpec};
use ringtide_core::valkey::Shard;
use ringtide_servers::ValkeyServer;

use super::LONG;

pub(crate) struct Server(ValkeyServer);

impl Server {
    pub(crate) async fn start() -> Self {
        Self(ValkeyServer::start().unwrap())
    }

    /// Starts it, empty, after [`Server::kill`].
    pub(crate) async fn restart(&mut self) {
        self.0.restart().unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill();
    }

    /// Stops the process: it keeps its connections and answers nothing.
    pub(crate) fn freeze(&self) {
        self.0.freeze().unwrap();
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.0.thaw().unwrap();
    }

    pub(crate) fn address(&self) -> String {
        self.0.address()
    }

    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(format!("redis://{}/", self.address())).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
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

    /// How often it has read from its clients' sockets: pipelined commands are read together.
    pub(crate) async fn socket_reads(&self) -> u64 {
        let info: String = redis::cmd("INFO").arg("stats").query_async(&mut self.connection().await).await.unwrap();
        let reads = info.lines().find_map(|line| line.strip_prefix("total_reads_processed:"));
        reads.unwrap().trim().parse().unwrap()
    }

    /// How many leases are held.
    pub(crate) async fn locks(&self) -> usize {
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("lock:*").query_async(&mut self.connection().await).await.unwrap();
        keys.len()
    }

    /// How many inboxes are subscribed.
    pub(crate) async fn subscribers(&self) -> usize {
        self.inboxes().await.len()
    }

    /// Publishes a message to every inbox.
    pub(crate) async fn tell_all(&self, message: &[u8]) {
        for inbox in self.inboxes().await {
            let publish = redis::cmd("PUBLISH").arg(inbox).arg(message).clone();
            publish.exec_async(&mut self.connection().await).await.unwrap();
        }
    }

    async fn inboxes(&self) -> Vec<String> {
        redis::cmd("PUBSUB").arg("CHANNELS").query_async(&mut self.connection().await).await.unwrap()
    }

    /// Counts the commands from here on.
    pub(crate) async fn forget_calls(&self) {
        let mut connection = self.connection().await;
        redis::cmd("CONFIG").arg("RESETSTAT").query_async::<()>(&mut connection).await.unwrap();
    }

    /// An invalidator's handle.
    pub(crate) async fn shard(&self) -> Shard {
        let spec = ShardSpec { name: ShardName::new("a"), address: self.address(), weight: 1 };
        let options = config::Valkey { command_timeout: Duration::from_secs(5), ..config::Valkey::default() };
        let shard = Shard::connect(&spec, &options).unwrap();
        shard.ready(LONG).await.unwrap();
        shard
    }
}

/// Invalidates a key as an invalidator does.
pub(crate) async fn invalidate(shard: &Shard, key: &str, mode: Mode, version: Version) {
    let space = KeySpace { mode, ..KeySpace::new("test", Template::whole()) };
    let action = Action::Invalidate { version };
    let command = Invalidation { key: CacheKey::new(key).unwrap(), space: Arc::new(space), action };
    shard.apply(&[command], 0).await.unwrap();
}
