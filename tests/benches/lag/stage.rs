//! Tables in the emulator, Valkey servers that tell what is gone, and a worker for each contestant.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, StreamViewType};
use futures_util::StreamExt;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use ringtide_core::config::Config;
use ringtide_core::ring::Ring;
use ringtide_servers::{Emulator, ValkeyServer, create_table};
use ringtide_tests::products;
use ringtide_worker::aws::Clients;
use ringtide_worker::{RunningWorker, Worker};
use tokio::runtime::Handle;

use crate::Contestant;
use crate::samples::Samples;

/// The emulator's tables have one stream shard each.
pub(crate) const SHARDS: usize = 4;
const RING_SHARDS: usize = 3;

pub(crate) struct Stage {
    tables: Client,
    ring: Ring,
    connections: Vec<MultiplexedConnection>,
    spaces: Vec<&'static str>,
    samples: Arc<Samples>,
    next: AtomicU64,
    _workers: Vec<RunningWorker>,
    _servers: Vec<ValkeyServer>,
    _emulator: Emulator,
}

impl Stage {
    pub(crate) async fn set(
        contestants: &[Contestant],
        samples: &Arc<Samples>,
        emulating: &Handle,
        working: &Handle,
    ) -> Self {
        let emulator = emulating.spawn(Emulator::start()).await.unwrap().unwrap();
        let servers: Vec<_> =
            (0..RING_SHARDS).map(|_| ValkeyServer::start_with(&["--notify-keyspace-events", "Eg"]).unwrap()).collect();
        let configs: Vec<Config> =
            contestants.iter().map(|contestant| config(contestant, emulator.url(), &servers)).collect();
        let tables = Clients::connect(&configs[0].aws).await.tables;
        for n in 0..SHARDS {
            create_table(&tables, &table(n), "pk", Some(StreamViewType::KeysOnly)).await.unwrap();
        }
        let mut connections = Vec::new();
        for server in &servers {
            listen(server, samples.clone()).await;
            connections.push(connect(server).await);
        }
        let mut workers = Vec::new();
        for config in configs.clone() {
            let starting = async move { Worker::connect(&config).await.unwrap().start(&config).await.unwrap() };
            workers.push(working.spawn(starting).await.unwrap());
        }
        Self {
            tables,
            ring: Ring::new(configs[0].ring.clone()).unwrap(),
            connections,
            spaces: contestants.iter().map(|contestant| contestant.space).collect(),
            samples: samples.clone(),
            next: AtomicU64::new(0),
            _workers: workers,
            _servers: servers,
            _emulator: emulator,
        }
    }

    /// Caches an item that was never written, for each contestant, and writes it. Returns how long the write took.
    pub(crate) async fn sample(&self, shard: usize) -> Duration {
        self.write(shard).await.0
    }

    async fn write(&self, shard: usize) -> (Duration, Vec<String>) {
        let pk = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let keys: Vec<String> = self.spaces.iter().map(|space| format!("{space}:{pk}")).collect();
        for key in &keys {
            let mut connection = self.connections[self.ring.locate(key.as_bytes()).index()].clone();
            redis::cmd("SET").arg(key).arg("x").exec_async(&mut connection).await.unwrap();
        }
        let began = Instant::now();
        keys.iter().for_each(|key| self.samples.written(key.clone()));
        let put = self.tables.put_item().table_name(table(shard)).item("pk", AttributeValue::S(pk));
        put.send().await.unwrap();
        (began.elapsed(), keys)
    }

    /// Writes until each worker has delivered something of each stream shard.
    pub(crate) async fn until_all_deliver(&self) {
        for shard in 0..SHARDS {
            let mut delivered = vec![false; self.spaces.len()];
            while delivered.contains(&false) {
                let (_, keys) = self.write(shard).await;
                tokio::time::sleep(Duration::from_millis(1500)).await;
                for (delivered, key) in delivered.iter_mut().zip(&keys) {
                    *delivered |= self.samples.is_gone(key);
                }
            }
        }
    }
}

fn table(n: usize) -> String {
    format!("table{n}")
}

/// Every contestant is an application of its own, with leases of its own.
fn config(contestant: &Contestant, endpoint: &str, servers: &[ValkeyServer]) -> Config {
    let Contestant { space, settings, .. } = contestant;
    let mut text = format!(
        "[aws]\nendpoint_url = \"{endpoint}\"\n[worker]\napplication = \"lag-{space}\"\nlisten = \"\"\n{settings}\
         [spaces.{space}]\nkey = \"{space}:{{pk}}\"\n"
    );
    text += &products::shards(servers);
    for n in 0..SHARDS {
        text += &format!("[[routes]]\ntable = \"{}\"\nspace = \"{space}\"\n", table(n));
    }
    Config::parse(&text, []).unwrap()
}

/// What caches entries waits for as long as it takes.
async fn connect(server: &ValkeyServer) -> MultiplexedConnection {
    let client = redis::Client::open(format!("redis://{}", server.address())).unwrap();
    let patient = AsyncConnectionConfig::new().set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
}

/// Notes every key that is deleted on a server.
async fn listen(server: &ValkeyServer, samples: Arc<Samples>) {
    let client = redis::Client::open(format!("redis://{}", server.address())).unwrap();
    let mut subscription = client.get_async_pubsub().await.unwrap();
    subscription.subscribe("__keyevent@0__:del").await.unwrap();
    tokio::spawn(async move {
        let mut events = subscription.into_on_message();
        while let Some(event) = events.next().await {
            samples.gone(str::from_utf8(event.get_payload_bytes()).unwrap(), Instant::now());
        }
    });
}
