//! A worker as a process, three ring shards, and a table whose records can be spoiled.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::{AttributeValue, StreamViewType};
use ringtide_core::config::Aws;
use ringtide_servers::{Emulator, Program, ValkeyServer, create_table, free_port};
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

impl World {
    pub(crate) async fn new() -> Self {
        let dynamodb = Emulator::start().await.unwrap();
        let (endpoint, spoiling) = poison::spoil(dynamodb.url()).await;
        let aws = Aws { region: None, endpoint_url: Some(dynamodb.url().to_owned()) };
        let clients = Clients::connect(&aws).await;
        let servers = (0..3).map(|_| ValkeyServer::start().unwrap()).collect();
        let (pages, folder) = (free_port().unwrap(), tempfile::tempdir().unwrap());
        let world = Self { endpoint, clients, servers, pages, folder, _spoiling: spoiling, _dynamodb: dynamodb };
        create_table(&world.clients.tables, "products", "pk", Some(StreamViewType::NewAndOldImages)).await.unwrap();
        world
    }

    pub(crate) fn page(&self) -> String {
        format!("http://127.0.0.1:{}/", self.pages)
    }

    pub(crate) fn start(&self) -> Program {
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
        Program::of(child)
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
}
