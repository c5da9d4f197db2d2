//! The ring shards of a configuration, for commands that look at entries or write them themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ringtide_core::aws;
use ringtide_core::config::{Config, Violation};
use ringtide_core::key::CacheKey;
use ringtide_core::pipeline::connect_ring;
use ringtide_core::ring::{Ring, ShardName};
use ringtide_core::valkey::{Shard, ShardError};

/// Every ring shard, and who owns which key.
#[derive(Debug)]
pub(crate) struct RingShards {
    ring: Arc<Ring>,
    shards: BTreeMap<ShardName, Shard>,
}

impl RingShards {
    /// Begins to connect in the background; must be called in a Tokio runtime.
    ///
    /// # Errors
    /// Everything about the ring's addresses and settings that no retry can mend.
    pub(crate) fn connect(config: &Config) -> Result<Self, Vec<Violation>> {
        let (history, shards) = connect_ring(config, aws::credentials(config))?;
        let ring = Arc::clone(history.current());
        // Those of earlier memberships come last, and nobody reads from them any more.
        let shards = shards.into_iter().take(ring.shards().len());
        Ok(Self { ring, shards: shards.map(|shard| (shard.name().clone(), shard)).collect() })
    }

    /// Waits for every ring shard; returns those that cannot be reached.
    pub(crate) async fn ready(&self, within: Duration) -> Vec<ShardError> {
        let waits = self.shards.values().map(|shard| shard.ready(within));
        futures_util::future::join_all(waits).await.into_iter().filter_map(Result::err).collect()
    }

    /// Every ring shard by its name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ShardName, &Shard)> {
        self.shards.iter()
    }

    /// One ring shard.
    pub(crate) fn get(&self, name: &ShardName) -> Option<&Shard> {
        self.shards.get(name)
    }

    /// The ring shard that owns a key.
    pub(crate) fn owner(&self, key: &CacheKey) -> Option<&Shard> {
        self.shards.get(&self.ring.owner(key.as_bytes()).name)
    }

    /// The name of the ring shard that owns a key.
    pub(crate) fn owner_name(&self, key: &str) -> &ShardName {
        &self.ring.owner(key.as_bytes()).name
    }
}
