//! The ring as it is now, and the ring shards that stand behind its names.

use std::sync::Arc;

use ringtide_core::key::CacheKey;
use ringtide_core::ring::Ring;

use crate::shard::ReadShard;

/// A ring and its shards; replaced as a whole when the membership changes.
pub(crate) struct Topology {
    pub(crate) ring: Ring,
    /// In the ring's order.
    pub(crate) shards: Box<[Arc<ReadShard>]>,
}

impl Topology {
    /// The ring shard that owns a key.
    #[inline]
    pub(crate) fn owner(&self, key: &CacheKey) -> &Arc<ReadShard> {
        &self.shards[self.ring.locate(key.as_bytes()).index()]
    }
}
