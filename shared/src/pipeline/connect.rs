//! A pipeline on the ring shards of a configuration.

use std::sync::Arc;

use super::delivery::{Limits, Pipeline};
use super::queue::RingShard;
use crate::config::{Config, ParkTarget, Violation};
use crate::park::{DirectoryPark, ParkStore};
use crate::ring::{Ring, RingHistory, ShardName};
use crate::route::Router;
use crate::valkey::{Credentials, Shard};

/// What a pipeline needs of services outside the ring; with the feature `aws`, `aws::services` makes them from a
/// configuration.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// Who logs in to the ring shards; `None` for what stands in the configuration itself.
    pub credentials: Option<Arc<dyn Credentials>>,
    /// Where records are kept that cannot be used; `None` for a directory that the configuration names, else nowhere.
    pub park: Option<Arc<dyn ParkStore>>,
}

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
    /// Every address and TLS setting that cannot be used, and every service that the configuration asks for and
    /// `services` lacks. A ring shard that is down is no error: its commands wait.
    pub fn connect(config: &Config, services: Services) -> Result<Connected, Vec<Violation>> {
        let ring = Ring::new(config.ring.clone())
            .map_err(|errors| errors.into_iter().map(Violation::from).collect::<Vec<_>>())?;
        let mut violations = Vec::new();
        let park = services.park.or_else(|| directory(config.park.as_ref()?));
        if park.is_none() && config.park.is_some() {
            let (problem, remedy) = match config.park {
                Some(ParkTarget::Table(_)) => (
                    "this program cannot park records in a DynamoDB table; the worker can, and the function cannot",
                    "write an SQS queue's URL, \"s3://bucket/prefix\" or \"file:///directory\"",
                ),
                Some(ParkTarget::Sqs { .. } | ParkTarget::S3 { .. } | ParkTarget::Directory(_)) | None => (
                    "this program has no access to AWS, where records are to be parked",
                    "give a store for parked records, or write \"file:///directory\"",
                ),
            };
            violations.push(Violation::new("park.to", problem, remedy));
        }
        let mut shards = Vec::new();
        for spec in ring.shards() {
            let shard = match &services.credentials {
                Some(credentials) => Shard::connect_as(spec, &config.valkey, Arc::clone(credentials)),
                None => Shard::connect(spec, &config.valkey),
            };
            match shard {
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
        let history = RingHistory::new(ring, config.ring_window_ms());
        let pipeline = Pipeline::start(Router::new(config.routes.clone()), history, targets, limits, park);
        Ok(Connected { pipeline, shards })
    }
}

fn directory(target: &ParkTarget) -> Option<Arc<dyn ParkStore>> {
    match target {
        ParkTarget::Directory(path) => Some(Arc::new(DirectoryPark::new(path.clone()))),
        ParkTarget::Sqs { .. } | ParkTarget::S3 { .. } | ParkTarget::Table(_) => None,
    }
}
