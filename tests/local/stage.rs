//! A table with a stream, a ring of Valkey servers, and a reader.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    StreamSpecification, StreamViewType,
};
use ringtide::dynamodb::ItemLoader;
use ringtide::{Cache, Space};
use ringtide_core::config::{Aws, Config};
use ringtide_servers::ValkeyServer;
use ringtide_worker::aws::Clients;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::emulator::Emulator;
use crate::programs::eventually;

/// Longer than an invalidation takes here, where the function is asked once a second.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const SHARDS: usize = 3;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Product {
    pub(crate) pk: String,
    pub(crate) rev: u64,
}

pub(crate) struct Stage {
    ring: Vec<ValkeyServer>,
    tables: Client,
    cache: Cache,
    changes: AtomicU64,
    pub(crate) stream: String,
}

/// What an audit saw.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    pub(crate) cached: usize,
    pub(crate) uncached: usize,
    pub(crate) stale: Vec<String>,
}

impl Stage {
    /// `spaces` are the key spaces of the reader.
    pub(crate) async fn new(emulator: &Emulator, spaces: &str) -> Self {
        let aws = Aws { region: None, endpoint_url: Some(emulator.url()) };
        let tables = Clients::connect(&aws).await.tables;
        let ring: Vec<_> = (0..SHARDS).map(|_| ValkeyServer::start().unwrap()).collect();
        let text = format!("{spaces}\n[ring]\nshards = {}\n", shards(&ring));
        let cache = Cache::from_config(Config::parse(&text, []).unwrap()).await.unwrap();
        let stream = create_table(&tables).await;
        Self { ring, tables, cache, changes: AtomicU64::new(0), stream }
    }

    /// The ring as the template's parameter and the environment take it.
    pub(crate) fn shards(&self) -> String {
        shards(&self.ring)
    }

    /// How many records its stream has.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    pub(crate) fn space(&self, name: &str) -> Space<Product> {
        self.cache.space(name).unwrap()
    }

    pub(crate) async fn put(&self, pk: &str, rev: u64) {
        let put = self.tables.put_item().table_name("products").item("pk", AttributeValue::S(pk.to_owned()));
        put.item("rev", AttributeValue::N(rev.to_string())).send().await.unwrap();
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) async fn delete(&self, pk: &str) {
        let delete = self.tables.delete_item().table_name("products").key("pk", AttributeValue::S(pk.to_owned()));
        delete.send().await.unwrap();
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads through the cache.
    pub(crate) async fn read(&self, space: &Space<Product>, pk: &str) -> Option<u64> {
        read(space, &self.tables, pk).await
    }

    /// Reads only what is cached: `Err` where nothing is.
    pub(crate) async fn cached(&self, space: &Space<Product>, pk: &str) -> Result<Option<u64>, ()> {
        let none = || async { Err::<Option<Product>, _>(std::io::Error::other("not cached")) };
        space.get_or_load(pk, none).await.map(|product| product.map(|product| product.rev)).map_err(drop)
    }

    /// Caches every item and sees that they stay cached.
    pub(crate) async fn fill(&self, space: &Space<Product>, items: &[String], rev: u64) {
        for pk in items {
            assert_eq!(self.read(space, pk).await, Some(rev));
        }
        for pk in items {
            assert_eq!(self.cached(space, pk).await, Ok(Some(rev)), "{pk} is cached, and nobody has changed it");
        }
    }

    /// Changes every item, then reads until none is served as it was.
    pub(crate) async fn change(&self, space: &Space<Product>, items: &[String], rev: u64) {
        for pk in items {
            self.put(pk, rev).await;
        }
        for pk in items {
            let newest = async || match self.read(space, pk).await {
                Some(read) if read == rev => Ok(()),
                read => Err(format!("{read:?}")),
            };
            eventually(&format!("{pk} is read as revision {rev}"), PATIENCE, newest).await;
        }
    }

    /// Waits until nothing of these items is cached, although none was changed.
    pub(crate) async fn flushed(&self, space: &Space<Product>, items: &[String]) {
        for pk in items {
            let gone = async || match self.cached(space, pk).await {
                Err(()) => Ok(()),
                Ok(rev) => Err(format!("{rev:?}")),
            };
            eventually(&format!("{pk} is flushed"), PATIENCE, gone).await;
        }
    }

    /// Readers that read all items over and over, and once more when they are told to stop; each returns how often it read.
    pub(crate) fn readers(
        &self,
        space: &Space<Product>,
        items: &[String],
        going: &Arc<AtomicBool>,
    ) -> Vec<JoinHandle<usize>> {
        let reader = |first: usize| {
            let (space, tables, items, going) = (space.clone(), self.tables.clone(), items.to_vec(), going.clone());
            tokio::spawn(async move {
                let (mut reads, mut until) = (first, usize::MAX);
                while reads < until {
                    // Once more through all items: what was dropped last is cached again, for the audit to look at.
                    if until == usize::MAX && !going.load(Ordering::Relaxed) {
                        until = reads + items.len();
                    }
                    read(&space, &tables, &items[reads % items.len()]).await;
                    reads += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                reads - first
            })
        };
        (0..3).map(|n| reader(n * 5)).collect()
    }

    /// Compares every cached entry with the table, by consistent reads.
    pub(crate) async fn audit(&self, space: &Space<Product>, items: &[String]) -> Audit {
        let mut audit = Audit::default();
        for pk in items {
            let Ok(cached) = self.cached(space, pk).await else {
                audit.uncached += 1;
                continue;
            };
            audit.cached += 1;
            let key = AttributeValue::S(pk.clone());
            let read = self.tables.get_item().table_name("products").key("pk", key).consistent_read(true).send().await;
            let held = read.unwrap().item.map(|item| item["rev"].as_n().unwrap().parse::<u64>().unwrap());
            if cached != held {
                audit.stale.push(format!("{pk}: cached {cached:?}, the table has {held:?}"));
            }
        }
        audit
    }
}

async fn read(space: &Space<Product>, tables: &Client, pk: &str) -> Option<u64> {
    let (loader, key) = (ItemLoader::new(tables.clone(), "products").partition_key("pk"), pk.to_owned());
    let load = move || loader.clone().load::<Product>(key.clone());
    let read = tokio::time::timeout(PATIENCE, space.get_or_load(pk, load)).await.expect("no read hangs");
    read.unwrap().map(|product| product.rev)
}

fn shards(ring: &[ValkeyServer]) -> String {
    let shard =
        |(n, server): (usize, &ValkeyServer)| format!("{{ name = \"s{n}\", address = \"{}\" }}", server.address());
    format!("[{}]", ring.iter().enumerate().map(shard).collect::<Vec<_>>().join(", "))
}

async fn create_table(tables: &Client) -> String {
    let key = AttributeDefinition::builder().attribute_name("pk").attribute_type(ScalarAttributeType::S);
    let view = StreamViewType::NewAndOldImages;
    let created = tables
        .create_table()
        .table_name("products")
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(key.build().unwrap())
        .key_schema(KeySchemaElement::builder().attribute_name("pk").key_type(KeyType::Hash).build().unwrap())
        .stream_specification(
            StreamSpecification::builder().stream_enabled(true).stream_view_type(view).build().unwrap(),
        )
        .send()
        .await
        .unwrap();
    created.table_description.and_then(|table| table.latest_stream_arn).expect("the table has a stream")
}
