//! A table with a stream, a ring, a worker and a reader.

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, StreamViewType};
use ringtide::dynamodb::ItemLoader;
use ringtide::{Cache, Space};
use ringtide_core::config::{Aws, Config};
use ringtide_servers::{Emulator, Ministack, ValkeyServer, create_table};
use ringtide_worker::aws::Clients;
use ringtide_worker::{RunningWorker, Worker};
use serde::{Deserialize, Serialize};

/// Longer than anything here takes; reaching it is a failure.
pub(crate) const LONG: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Product {
    pub(crate) pk: String,
    pub(crate) rev: u64,
    #[serde(default)]
    pub(crate) category: String,
    #[serde(default)]
    pub(crate) text: String,
}

/// Where DynamoDB is.
pub(crate) enum Endpoint {
    Embedded(Emulator),
    Ministack(Ministack),
}

impl Endpoint {
    pub(crate) async fn embedded() -> Self {
        Self::Embedded(Emulator::start().await.unwrap())
    }

    pub(crate) async fn ministack() -> Self {
        Self::Ministack(tokio::task::spawn_blocking(|| Ministack::start().unwrap()).await.unwrap())
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Embedded(emulator) => emulator.url().to_owned(),
            Self::Ministack(ministack) => ministack.url(),
        }
    }
}

pub(crate) struct World {
    pub(crate) endpoint: Endpoint,
    pub(crate) shards: Vec<ValkeyServer>,
    pub(crate) tables: Client,
    /// The configuration's text, without `[worker]`.
    spaces: String,
}

/// Key spaces and routes of most tests: an item's own key, and one that many items feed.
pub(crate) const SPACES: &str = r#"
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

impl World {
    pub(crate) async fn new(endpoint: Endpoint, shards: usize, spaces: &str) -> Self {
        let aws = Aws { region: None, endpoint_url: Some(endpoint.url()) };
        let tables = Clients::connect(&aws).await.tables;
        let shards = (0..shards).map(|_| ValkeyServer::start().unwrap()).collect();
        Self { endpoint, shards, tables, spaces: spaces.to_owned() }
    }

    pub(crate) fn text(&self) -> String {
        let shard = |(n, server): (usize, &ValkeyServer)| {
            format!("[[ring.shards]]\nname = \"s{n}\"\naddress = \"{}\"\n", server.address())
        };
        let shards: String = self.shards.iter().enumerate().map(shard).collect();
        let worker = "[worker]\napplication = \"ringtide-integration\"\nlisten = \"\"\nidle_poll = \"50ms\"\n\
            max_reads_per_second = 100\ncheckpoint_interval = \"50ms\"\nlease_timeout = \"2s\"\n";
        format!("aws = {{ endpoint_url = \"{}\" }}\n{worker}{shards}{}", self.endpoint.url(), self.spaces)
    }

    pub(crate) fn config(&self) -> Config {
        Config::parse(&self.text(), []).unwrap()
    }

    pub(crate) async fn create_table(&self, name: &str, view: Option<StreamViewType>) {
        create_table(&self.tables, name, "pk", view).await.unwrap();
    }

    pub(crate) async fn put(&self, pk: &str, rev: u64, category: &str) {
        self.put_with(pk, rev, category, "").await;
    }

    pub(crate) async fn put_with(&self, pk: &str, rev: u64, category: &str, text: &str) {
        let put = self.tables.put_item().table_name("products");
        put.item("pk", AttributeValue::S(pk.to_owned()))
            .item("rev", AttributeValue::N(rev.to_string()))
            .item("category", AttributeValue::S(category.to_owned()))
            .item("text", AttributeValue::S(text.to_owned()))
            .send()
            .await
            .unwrap();
    }

    pub(crate) async fn delete(&self, pk: &str) {
        let delete = self.tables.delete_item().table_name("products");
        delete.key("pk", AttributeValue::S(pk.to_owned())).send().await.unwrap();
    }

    pub(crate) async fn worker(&self) -> RunningWorker {
        let config = self.config();
        Worker::connect(&config).await.unwrap().start(&config).await.unwrap()
    }

    pub(crate) async fn cache(&self) -> Cache {
        Cache::from_config(self.config()).await.unwrap()
    }

    pub(crate) fn loader(&self) -> ItemLoader {
        ItemLoader::new(self.tables.clone(), "products").partition_key("pk").version_attribute("rev")
    }

    /// Reads a product through the cache.
    pub(crate) async fn read(&self, products: &Space<Product>, pk: &str) -> Option<Product> {
        let (loader, key) = (self.loader(), pk.to_owned());
        let load = move || loader.clone().load::<Product>(key.clone());
        tokio::time::timeout(LONG, products.get_or_load(pk, load)).await.expect("no read hangs").unwrap()
    }

    /// Reads until what is read is as new as `rev`; a read never comes back from new to old.
    pub(crate) async fn read_until(&self, products: &Space<Product>, pk: &str, rev: Option<u64>) {
        let begun = Instant::now();
        loop {
            let read = self.read(products, pk).await.map(|product| product.rev);
            if read == rev {
                return;
            }
            assert!(begun.elapsed() < LONG, "{pk} is still read as {read:?} and not as {rev:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Stops a worker as SIGTERM does.
pub(crate) async fn stop(worker: RunningWorker) {
    worker.shutdown();
    assert_eq!(worker.join().await.unwrap().undelivered, 0);
}
