//! The ring shards of a configuration, for commands that look at entries or write them themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use ringtide_core::aws;
use ringtide_core::config::{Config, Violation};
use ringtide_core::key::CacheKey;
use ringtide_core::ring::{Ring, ShardName};
use ringtide_core::valkey::{Shard, ShardError};

/// Every ring shard, and who owns which key.
#[derive(Debug)]
pub(crate) struct RingShards {
    ring: Ring,
    shards: BTreeMap<ShardName, Shard>,
}

impl RingShards {
    /// Begins to connect in the background; must be called in a Tokio runtime.
    ///
    /// # Errors
    /// Everything about the ring's addresses and settings that no retry can mend.
    pub(crate) fn connect(config: &Config) -> Result<Self, Vec<Violation>> {
        let ring = Ring::new(config.ring.clone())
            .map_err(|errors| errors.into_iter().map(Violation::from).collect::<Vec<_>>())?;
        let credentials = aws::credentials(config);
        let mut violations = Vec::new();
        let mut shards = BTreeMap::new();
        for spec in ring.shards() {
            let shard = match &credentials {
                Some(credentials) => Shard::connect_as(spec, &config.valkey, credentials.clone()),
                None => Shard::connect(spec, &config.valkey),
            };
            match shard {
                Ok(shard) => {
                    shards.insert(spec.name.clone(), shard);
                }
                Err(error) => violations.push(Violation::new(
                    format!("ring.shards, {}", spec.name),
                    error.to_string(),
                    "mend the shard's address or the [valkey] settings",
                )),
            }
        }
        if violations.is_empty() { Ok(Self { ring, shards }) } else { Err(violations) }
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
