//! A ring, a key space of products on it, and a table that notes what it is asked for.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use ringtide::{Cache, Space, SpaceSettings};

use crate::support::{Counters, LONG, Origin, Server, until};

pub(super) struct Stage {
    pub(super) servers: Vec<Server>,
    pub(super) counters: Counters,
    pub(super) products: Space<String>,
    pub(super) cache: Cache,
}

impl Stage {
    pub(super) async fn new(shards: usize) -> Self {
        Self::with(shards, SpaceSettings::new("product", "product:{pk}")).await
    }

    pub(super) async fn with(shards: usize, settings: SpaceSettings) -> Self {
        Self::built(shards, settings, |builder| builder).await
    }

    pub(super) async fn built(
        shards: usize,
        settings: SpaceSettings,
        more: impl FnOnce(ringtide::CacheBuilder) -> ringtide::CacheBuilder,
    ) -> Self {
        let mut servers = Vec::new();
        // On a machine that is busy otherwise, a command that timed out would be a load past the ring shard.
        let mut builder = Cache::builder().command_timeout(LONG).lease_ttl(LONG).space(settings);
        for at in 0..shards {
            let server = Server::start().await;
            builder = builder.shard(format!("shard-{at}"), server.address());
            servers.push(server);
        }
        let counters = Counters::default();
        let cache = counters.build(more(builder)).await;
        Self { servers, counters, products: cache.space("product").unwrap(), cache }
    }

    /// Loads items and waits until they are cached.
    pub(super) async fn fill(&self, keys: std::ops::Range<u64>, table: &Table) {
        let count = keys.end - keys.start;
        let before = self.counters.sum("ringtide_reader_fills_total", "stored");
        self.products.get_many(keys, table.loader()).await.into_values().unwrap();
        let stored = async || self.counters.sum("ringtide_reader_fills_total", "stored") == before + count;
        until("the fills", stored).await;
    }

    pub(super) async fn forget_calls(&self) {
        for server in &self.servers {
            server.forget_calls().await;
        }
    }

    /// Which server has an item's key.
    pub(super) async fn owner(&self, pk: u64) -> usize {
        for (at, server) in self.servers.iter().enumerate() {
            if server.exists(&format!("product:{pk}")).await {
                return at;
            }
        }
        panic!("nobody has product:{pk}")
    }
}

/// Items whose number does not end with 9.
#[derive(Clone)]
pub(super) struct Table {
    pub(super) origin: Origin,
    calls: Arc<Mutex<Vec<Vec<u64>>>>,
}

pub(super) type Loading = Pin<Box<dyn Future<Output = Result<HashMap<u64, String>, Infallible>> + Send>>;

impl Table {
    pub(super) fn new(origin: Origin) -> Self {
        Self { origin, calls: Arc::default() }
    }

    pub(super) fn loader(&self) -> impl Fn(Vec<u64>) -> Loading + Send + Sync + use<> {
        let table = self.clone();
        move |keys| {
            let table = table.clone();
            Box::pin(async move {
                table.calls.lock().unwrap().push(keys.clone());
                table.origin.load().await;
                Ok(keys.into_iter().filter(|pk| pk % 10 != 9).map(|pk| (pk, name(pk))).collect())
            })
        }
    }

    pub(super) fn item(&self, pk: u64) -> Option<String> {
        (pk % 10 != 9).then(|| name(pk))
    }

    /// The keys of each call so far.
    pub(super) fn calls(&self) -> Vec<Vec<u64>> {
        self.calls.lock().unwrap().clone()
    }
}

pub(super) fn name(pk: u64) -> String {
    format!("tea number {pk}")
}
