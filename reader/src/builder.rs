//! Building a cache: settings by hand or from a file, every violation at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use ringtide_core::clock::unix_ms;
use ringtide_core::config::{self, Config, ConfigError, Secret, Violation};
use ringtide_core::key::KeySpace;
use ringtide_core::ring::{Membership, Placement, Ring, ShardName, ShardSpec};
use ringtide_core::valkey::{ConnectError, Credentials, Shard, Token};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::{Cache, Inner};
use crate::flight::Flights;
use crate::inbox;
use crate::shard::ReadShard;
use crate::space::{SpaceSettings, SpaceState};
use crate::topology::Topology;

/// Collects a cache's settings; [`CacheBuilder::build`] checks them.
#[derive(Clone, Debug)]
#[must_use]
pub struct CacheBuilder {
    valkey: config::Valkey,
    credentials: Option<Arc<dyn Credentials>>,
    ring: Membership,
    configured: BTreeMap<String, Arc<KeySpace>>,
    spaces: Vec<SpaceSettings>,
    raw: SpaceSettings,
    reader: config::Reader,
}

impl Default for CacheBuilder {
    fn default() -> Self {
        Self {
            valkey: config::Valkey::default(),
            credentials: None,
            ring: Membership { epoch: 1, changed_at_ms: 0, placement: Placement::default(), shards: Vec::new() },
            configured: BTreeMap::new(),
            spaces: Vec::new(),
            raw: SpaceSettings::raw(),
            reader: config::Reader::default(),
        }
    }
}

impl CacheBuilder {
    /// Takes ring, connections, key spaces and reader settings from a configuration; what is added afterwards is
    /// added to them.
    ///
    /// Credentials that the configuration leaves to AWS (a secret, authentication by IAM) need the feature `aws`, or
    /// [`CacheBuilder::credentials_from`].
    pub fn config(mut self, config: Config) -> Self {
        #[cfg(feature = "aws")]
        if self.credentials.is_none() {
            self.credentials = ringtide_core::aws::credentials(&config);
        }
        self.valkey = config.valkey;
        self.ring = config.ring;
        self.configured = config.spaces;
        self.reader = config.reader;
        self
    }

    /// Adds a ring shard by its name, which places its keys, and its address, which may change.
    pub fn shard(self, name: impl Into<String>, address: impl Into<String>) -> Self {
        self.weighted_shard(name, address, 1)
    }

    /// Adds a ring shard that takes `weight` times the keys of one with weight 1.
    pub fn weighted_shard(mut self, name: impl Into<String>, address: impl Into<String>, weight: u32) -> Self {
        self.ring.shards.push(ShardSpec { name: ShardName::from(name.into()), address: address.into(), weight });
        self
    }

    /// Chooses how keys are placed; it has to be what the invalidators use.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.ring.placement = placement;
        self
    }

    /// Gives the ACL user and its password for all ring shards.
    pub fn credentials(mut self, username: impl Into<String>, password: impl Into<String>) -> Self {
        self.valkey.username = Some(username.into());
        self.valkey.password = Some(Secret::new(password.into()));
        self
    }

    /// Asks for the login of every connection, and again before its time is over: for passwords that are rotated and
    /// tokens that expire. It goes before every other setting of user and password.
    pub fn credentials_from(mut self, credentials: Arc<dyn Credentials>) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Chooses whether the one ring shard is a cluster, whose configuration endpoint its address is; needs the feature
    /// `cluster`.
    pub fn cluster(mut self, cluster: bool) -> Self {
        self.valkey.cluster = cluster;
        self
    }

    /// Chooses everything about how ring shards are reached.
    pub fn valkey(mut self, valkey: config::Valkey) -> Self {
        self.valkey = valkey;
        self
    }

    /// Chooses how long a command of Valkey may take before its ring shard counts as down for it.
    pub fn command_timeout(mut self, timeout: Duration) -> Self {
        self.valkey.command_timeout = timeout;
        self
    }

    /// Adds a key space; one of the same name in the configuration is replaced.
    pub fn space(mut self, settings: SpaceSettings) -> Self {
        self.spaces.push(settings);
        self
    }

    /// Chooses how long entries of keys given as they are live: values, and "the item does not exist".
    pub fn raw_ttl(mut self, ttl: Duration, negative_ttl: Duration) -> Self {
        self.raw = self.raw.ttl(ttl).negative_ttl(negative_ttl);
        self
    }

    /// Chooses how long a lease lives without being extended: how long a dead process can hold up others.
    pub fn lease_ttl(mut self, ttl: Duration) -> Self {
        self.reader.lease_ttl = ttl;
        self
    }

    /// Chooses how long a load may take.
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        self.reader.load_timeout = timeout;
        self
    }

    /// Chooses the reader's other settings.
    pub fn reader(mut self, reader: config::Reader) -> Self {
        self.reader = reader;
        self
    }

    /// Checks the settings, builds the cache and waits until its ring shards are connected, or have failed to be for
    /// the connect time-out; must be called in a Tokio runtime.
    ///
    /// A ring shard that is down is connected in the background as soon as it is up. Metrics go to the recorder that is installed by then.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every violation. A ring shard that is down is none: its reads go to the loader.
    pub async fn build(self) -> Result<Cache, ConfigError> {
        let mut found = Vec::new();
        let spaces = self.spaces(&mut found);
        let raw = self.raw.validate(&mut found);
        found.extend(self.reader.violations());
        let ring = Ring::new(self.ring.clone()).map_err(|errors| found.extend(errors.into_iter().map(Violation::from)));
        found.extend(self.valkey.violation_of(&self.ring));
        let channel = channel();
        let mut shards = Vec::new();
        for spec in ring.iter().flat_map(Ring::shards) {
            match self.connect(spec) {
                Ok(shard) => {
                    shards.push(Arc::new(ReadShard::new(shard, channel.clone(), &self.reader)));
                }
                Err(error) => found.push(Violation::split("valkey", &error.to_string())),
            }
        }
        let (Ok(ring), Some(raw), true) = (ring, raw, found.is_empty()) else {
            return Err(ConfigError::Invalid { path: None, violations: found });
        };
        let (tasks, ended) = (TaskTracker::new(), CancellationToken::new());
        for shard in &shards {
            let deliver = inbox::deliver(shard.shard.inbox(&channel), Arc::clone(&shard.waiters));
            tasks.spawn(ended.clone().run_until_cancelled_owned(deliver));
        }
        let cache = Cache::new(Inner {
            topology: ArcSwap::from_pointee(Topology { ring, shards: shards.clone().into() }),
            settings: self.reader,
            spaces,
            raw: SpaceState::new(raw),
            flights: Flights::new(),
            tasks,
            ended,
        });
        // A process that reads before it is connected would send its first reads to the origin.
        let connecting = shards.iter().map(|shard| async {
            if let Err(error) = shard.shard.ready(self.valkey.connect_timeout).await {
                shard.failed(&error);
            }
        });
        join_all(connecting).await;
        Ok(cache)
    }

    fn connect(&self, spec: &ShardSpec) -> Result<Shard, ConnectError> {
        match &self.credentials {
            Some(credentials) => Shard::connect_as(spec, &self.valkey, Arc::clone(credentials)),
            None => Shard::connect(spec, &self.valkey),
        }
    }

    fn spaces(&self, found: &mut Vec<Violation>) -> BTreeMap<String, Arc<SpaceState>> {
        let mut spaces = self.configured.clone();
        for (at, settings) in self.spaces.iter().enumerate() {
            if self.spaces.iter().take(at).any(|other| other.name() == settings.name()) {
                let place = format!("spaces.{}", settings.name());
                found.push(Violation::new(place, "the key space is added twice", "give each a name of its own"));
            }
            if let Some(space) = settings.validate(found) {
                spaces.insert(settings.name().to_owned(), space);
            }
        }
        spaces.into_iter().map(|(name, space)| (name, SpaceState::new(space))).collect()
    }
}

/// The name of this cache's inbox, which no other cache has.
fn channel() -> String {
    let millis = unix_ms();
    let token = u128::from_be_bytes(*Token::random().as_bytes());
    format!("ringtide:inbox:{millis:x}:{token:032x}")
}
