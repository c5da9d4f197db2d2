//! A pipeline on the ring shards of a configuration.

use std::sync::Arc;

use super::delivery::{Limits, Pipeline};
use super::queue::RingShard;
use crate::config::{Config, Violation};
use crate::ring::{Ring, RingHistory, ShardName};
use crate::route::Router;
use crate::valkey::Shard;

/// A running pipeline, and the ring shards it delivers to.
pub struct Connected {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// A handle for each ring shard, in the order of their names.
    pub shards: Vec<Shard>,
}

impl Pipeline {
    /// Connects to every ring shard in the background and starts a pipeline on them; must be called in a Tokio runtime.
    ///
    /// # Errors
    /// Every address and TLS setting that cannot be used. A ring shard that is down is no error: its commands wait.
    pub fn connect(config: &Config) -> Result<Connected, Vec<Violation>> {
        let ring = Ring::new(config.ring.clone())
            .map_err(|errors| errors.into_iter().map(Violation::from).collect::<Vec<_>>())?;
        let mut violations = Vec::new();
        let mut shards = Vec::new();
        for spec in ring.shards() {
            match Shard::connect(spec, &config.valkey) {
                Ok(shard) => shards.push(shard),
                Err(error) => violations.push(Violation::new(
                    format!("ring.shards, {}", spec.name),
                    error.to_string(),
                    "mend the shard's address or the [valkey] settings",
                )),
            }
        }
        if !violations.is_empty() {
            return Err(violations);
        }
        let limits = Limits { capacity: config.worker.log_capacity, ..Limits::default() };
        let targets = shards
            .iter()
            .map(|shard| -> (ShardName, Arc<dyn RingShard>) { (shard.name().clone(), Arc::new(shard.clone())) });
        let history = RingHistory::new(ring, config.longest_ttl_ms());
        let pipeline = Pipeline::start(Router::new(config.routes.clone()), history, targets, limits);
        Ok(Connected { pipeline, shards })
    }
}
