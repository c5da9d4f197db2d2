//! Which master of a cluster answers for a key.

use std::sync::Arc;

use super::{Reach, Shard};
use crate::key::CacheKey;

/// A master of a cluster, by its place among all of them.
#[derive(Clone, Debug)]
pub struct Master {
    /// The addresses of all masters; the same allocation for as long as the masters are the same.
    pub all: Arc<[Arc<str>]>,
    /// Which of them it is.
    pub at: usize,
}

impl Shard {
    /// Tells whether several masters stand behind the ring shard, which may fail one by one.
    #[inline]
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        match &*self.reach {
            Reach::One(_) => false,
            #[cfg(feature = "cluster")]
            Reach::Cluster(_) => true,
            #[cfg(feature = "memory")]
            Reach::Memory(_) => false,
        }
    }

    /// Finds the master that answers for a key at this moment; `None` outside clusters, and where nobody serves the
    /// key's slot.
    #[cfg_attr(not(feature = "cluster"), allow(unused_variables))]
    #[must_use]
    pub fn master_of(&self, key: &CacheKey) -> Option<Master> {
        match &*self.reach {
            Reach::One(_) => None,
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => cluster.master_of(super::cluster::slot_of(key.as_bytes())),
            #[cfg(feature = "memory")]
            Reach::Memory(_) => None,
        }
    }
}
