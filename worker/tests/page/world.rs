//! A worker as a process, three ring shards, and a table whose records can be spoiled.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    StreamSpecification, StreamViewType,
};
use ringtide_core::config::Aws;
use ringtide_servers::{Emulator, ValkeyServer, free_port};
use ringtide_worker::aws::Clients;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::poison;

/// A name that a page must not take for markup.
pub(crate) const OWNER: &str = "<b>eyes</b><img src=x onerror=window.obeyed=1>";

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    endpoint: String,
    clients: Clients,
    servers: Vec<ValkeyServer>,
    pages: u16,
    folder: tempfile::TempDir,
    _spoiling: JoinHandle<()>,
    _dynamodb: Emulator,
}

/// A process that ends with the test.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        let dynamodb = Emulator::start().await.unwrap();
        let (endpoint, spoiling) = poison::spoil(dynamodb.url()).await;
        let aws = Aws { region: None, endpoint_url: Some(dynamodb.url().to_owned()) };
        let clients = Clients::connect(&aws).await;
        let servers = (0..3).map(|_| ValkeyServer::start().unwrap()).collect();
        let (pages, folder) = (free_port().unwrap(), tempfile::tempdir().unwrap());
        let world = Self { endpoint, clients, servers, pages, folder, _spoiling: spoiling, _dynamodb: dynamodb };
        world.create_table().await;
        world
    }

    pub(crate) fn page(&self) -> String {
        format!("http://127.0.0.1:{}/", self.pages)
    }

    pub(crate) fn start(&self) -> Process {
        let folder = self.folder.path();
        let shard = |(name, server): (&str, &ValkeyServer)| {
            format!("[[ring.shards]]\nname = \"{name}\"\naddress = \"{}\"\n", server.address())
        };
        let shards: String = ["one", "two", "dead"].into_iter().zip(&self.servers).map(shard).collect();
        let text = format!(
            r#"
            [worker]
            application = "ringtide-page-test"
            listen = "127.0.0.1:{}"
            idle_poll = "50ms"
            max_reads_per_second = 20
            checkpoint_interval = "100ms"
            [park]
            to = "file://{}/parked"
            [probe]
            table = "ringtide-probe"
            interval = "500ms"
            timeout = "10s"
            [spaces.product]
            key = "product:{{pk}}"
            [spaces.category]
            key = "category:{{category}}"
            [[routes]]
            table = "products"
            space = "product"
            [[routes]]
            table = "products"
            space = "category"
            {shards}
            "#,
            self.pages,
            folder.display(),
        );
        std::fs::write(folder.join("ringtide.toml"), text).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ringtide"))
            .args(["run", "--config", folder.join("ringtide.toml").to_str().unwrap()])
            .args(["--endpoint-url", &self.endpoint, "--owner", OWNER])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Process(child)
    }

    /// Kills a ring shard, and writes until commands wait for it and a record is parked.
    pub(crate) async fn spoil_and_kill(&mut self) {
        self.until("the worker is ready and probes", |status| {
            status["ready"]["ok"] == true && status["probes"][0]["lag_s"].is_f64()
        })
        .await;
        self.servers[2].kill();
        for pk in 0..40 {
            self.put(&pk.to_string(), "tea").await;
        }
        self.put("41", "poison").await;
        self.until("the ring shard is down and a record is parked", |status| {
            let shards = status["ring_shards"].as_array().unwrap();
            let down = shards.iter().any(|shard| shard["up"] == false && shard["pending"].as_u64() > Some(0));
            down && status["parking"]["parked"] == 1
        })
        .await;
    }

    /// Brings the dead ring shard back, empty.
    pub(crate) fn revive(&mut self) {
        self.servers[2].restart().unwrap();
    }

    async fn put(&self, pk: &str, category: &str) {
        let put = self.clients.tables.put_item().table_name("products").item("pk", AttributeValue::S(pk.to_owned()));
        put.item("category", AttributeValue::S(category.to_owned())).send().await.unwrap();
    }

    async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        let begun = Instant::now();
        loop {
            let status = self.status();
            if status.as_ref().is_some_and(&holds) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "never came true: {what}: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn status(&self) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.pages)).ok()?;
        stream.write_all(b"GET /status.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    async fn create_table(&self) {
        let key = AttributeDefinition::builder().attribute_name("pk").attribute_type(ScalarAttributeType::S);
        let stream = StreamSpecification::builder()
            .stream_enabled(true)
            .stream_view_type(StreamViewType::NewAndOldImages)
            .build();
        self.clients
            .tables
            .create_table()
            .table_name("products")
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(key.build().unwrap())
            .key_schema(KeySchemaElement::builder().attribute_name("pk").key_type(KeyType::Hash).build().unwrap())
            .stream_specification(stream.unwrap())
            .send()
            .await
            .unwrap();
    }
}
