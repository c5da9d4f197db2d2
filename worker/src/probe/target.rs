//! A key on each ring shard.

use std::sync::Arc;

use ringtide_core::config::Valkey;
use ringtide_core::key::{CacheKey, KeyPart, KeySpace};
use ringtide_core::ring::{Ring, ShardSpec};
use ringtide_core::valkey::{Credentials, Shard};

/// How many suffixes are tried; of a thousand equal ring shards, each has some of so many keys.
const SUFFIXES: u32 = 200_000;

/// A ring shard, and a key that is placed on it.
pub(super) struct Target {
    pub(super) shard: Shard,
    pub(super) space: Arc<KeySpace>,
    /// The item's primary key.
    pub(super) item: String,
    pub(super) key: CacheKey,
}

impl Target {
    /// Finds a key for each ring shard and connects to it, on connections that nothing else uses.
    pub(super) fn all(
        ring: &Ring,
        space: &Arc<KeySpace>,
        valkey: &Valkey,
        credentials: Option<&Arc<dyn Credentials>>,
    ) -> Vec<(String, Result<Self, String>)> {
        let target = |spec: &ShardSpec| {
            let (item, key) = key_on(ring, space, spec).ok_or("no key was found that is placed on it")?;
            let shard = match credentials {
                Some(credentials) => Shard::connect_as(spec, valkey, Arc::clone(credentials)),
                None => Shard::connect(spec, valkey),
            };
            Ok(Self { shard: shard.map_err(|error| error.to_string())?, space: Arc::clone(space), item, key })
        };
        ring.shards().iter().map(|spec| (spec.name.to_string(), target(spec))).collect()
    }
}

/// Searches for a suffix whose key the ring places on the shard: the same one in every process.
pub(super) fn key_on(ring: &Ring, space: &KeySpace, shard: &ShardSpec) -> Option<(String, CacheKey)> {
    (0..SUFFIXES).find_map(|suffix| {
        let item = format!("{}.{suffix}", shard.name);
        let key = space.template.render(&[KeyPart::from(&item)]).ok()?;
        (ring.owner(key.as_bytes()).name == shard.name).then_some((item, key))
    })
}
