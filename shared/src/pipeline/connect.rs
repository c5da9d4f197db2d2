//! A pipeline on the ring shards of a configuration.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::delivery::Pipeline;
use super::limits::Limits;
use super::shard::RingShard;
use crate::clock::unix_ms;
use crate::config::{self, Config, ParkTarget, Violation};
use crate::park::{DirectoryPark, ParkStore};
use crate::ring::{Membership, RingHistory, ShardName, ShardSpec};
use crate::route::Router;
use crate::valkey::{ConnectError, Credentials, Shard};
use crate::watch::{RingChangeError, Source};

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
    /// A handle for each ring shard that the ring begins with, in the order of their names; those of earlier memberships are
    /// not among them.
    pub shards: Vec<Shard>,
}

/// How the ring shards of a configuration are reached, those that join later included.
pub(super) struct Connector {
    valkey: config::Valkey,
    credentials: Option<Arc<dyn Credentials>>,
}

impl Connector {
    /// Whether a membership can be reached at all.
    pub(super) fn fits(&self, membership: &Membership) -> Result<(), RingChangeError> {
        self.valkey.violation_of(membership).map_or(Ok(()), |violation| Err(RingChangeError::Cluster(violation)))
    }

    /// Begins to connect to a ring shard.
    pub(super) fn open(&self, spec: &ShardSpec) -> Result<Arc<dyn RingShard>, ConnectError> {
        Ok(Arc::new(self.connect(spec)?))
    }

    /// Begins to connect to every ring shard of a configuration.
    fn open_all(&self, config: &Config) -> Result<(RingHistory, Vec<Shard>), Vec<Violation>> {
        let history = ring_of(config)?;
        let (mut opened, mut violations, mut shown) = (Vec::new(), Vec::new(), BTreeSet::new());
        for spec in history.shards(unix_ms()) {
            match self.connect(spec) {
                Ok(shard) => {
                    // At its former addresses it is not what its name stands for.
                    shard.show(shown.insert(&spec.name));
                    opened.push(shard);
                }
                Err(error) => violations.push(Violation::new(
                    format!("ring.shards, {}", spec.name),
                    error.to_string(),
                    "mend the shard's address or the [valkey] settings",
                )),
            }
        }
        if violations.is_empty() { Ok((history, opened)) } else { Err(violations) }
    }

    fn connect(&self, spec: &ShardSpec) -> Result<Shard, ConnectError> {
        match &self.credentials {
            Some(credentials) => Shard::connect_as(spec, &self.valkey, Arc::clone(credentials)),
            None => Shard::connect(spec, &self.valkey),
        }
    }
}

impl Pipeline {
    /// Connects to every ring shard in the background and starts a pipeline on them; must be called in a Tokio runtime.
    ///
    /// Earlier memberships that the configuration lists are told of changes too, for as long as they may hold an entry. Where
    /// it was read from a file, the ring follows that file's `[ring]`; everything else of it counts at the start only.
    ///
    /// # Errors
    /// Every address and TLS setting that cannot be used, and every service that the configuration asks for and
    /// `services` lacks. A ring shard that is down is no error: its commands wait.
    pub fn connect(config: &Config, services: Services) -> Result<Connected, Vec<Violation>> {
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
        let connector = Connector { valkey: config.valkey.clone(), credentials: services.credentials };
        let (history, mut opened) = match connector.open_all(config) {
            Ok(opened) if violations.is_empty() => opened,
            Ok(_) => return Err(violations),
            Err(more) => return Err(violations.into_iter().chain(more).collect()),
        };
        let targets = opened
            .iter()
            .map(|shard| -> (ShardName, Arc<dyn RingShard>) { (shard.name().clone(), Arc::new(shard.clone())) });
        let targets: Vec<_> = targets.collect();
        // The ring's own come first.
        opened.truncate(history.current().shards().len());
        let router = Router::new(config.routes.clone());
        let pipeline = Pipeline::start_with(router, history, targets, Limits::of(config), park, Some(connector));
        if let Some(file) = &config.file {
            pipeline.follow(Source::File(file.clone()), config.delivery.watch);
        }
        Ok(Connected { pipeline, shards: opened })
    }
}

/// Where keys live by a configuration, and where earlier memberships that it lists may have left them.
///
/// # Errors
/// Everything that keeps them from being a ring.
pub fn ring_of(config: &Config) -> Result<RingHistory, Vec<Violation>> {
    config::ring_history(&config.ring, &config.earlier_rings, config.ring_window_ms())
}

/// Begins to connect to every ring shard of a configuration, for those who need no pipeline: the ring's own in the order of
/// their names, then those of earlier memberships that may still hold an entry. Must be called in a Tokio runtime.
///
/// # Errors
/// Everything about addresses and settings that no retry can mend.
pub fn connect_ring(
    config: &Config,
    credentials: Option<Arc<dyn Credentials>>,
) -> Result<(RingHistory, Vec<Shard>), Vec<Violation>> {
    Connector { valkey: config.valkey.clone(), credentials }.open_all(config)
}

fn directory(target: &ParkTarget) -> Option<Arc<dyn ParkStore>> {
    match target {
        ParkTarget::Directory(path) => Some(Arc::new(DirectoryPark::new(path.clone()))),
        ParkTarget::Sqs { .. } | ParkTarget::S3 { .. } | ParkTarget::Table(_) => None,
    }
}
