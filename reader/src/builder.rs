//! Building a cache: settings by hand or from a file, every violation at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use metrics::Recorder;
use ringtide_core::clock::unix_ms;
use ringtide_core::config::{self, Config, ConfigError, Secret, Violation};
use ringtide_core::key::{KeySpace, LocalTier};
use ringtide_core::ring::{Membership, Placement, ShardName, ShardSpec};
#[cfg(feature = "memory")]
use ringtide_core::valkey::MemoryServer;
use ringtide_core::valkey::{Credentials, Token};
use ringtide_core::watch::{self, Resolver, Source, Watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::{Cache, Inner};
use crate::codec;
use crate::flight::Flights;
use crate::load::Failures;
use crate::local::Local;
use crate::observe::{Meter, Observer, Watcher};
use crate::retry::Retries;
use crate::shard::ReadShard;
use crate::space::{RAW, SpaceSettings, SpaceState};
use crate::topology::{self, Changes, Connector, Topology};

/// Collects a cache's settings; [`CacheBuilder::build`] checks them.
#[derive(Clone, Debug)]
#[must_use]
pub struct CacheBuilder {
    valkey: config::Valkey,
    credentials: Option<Arc<dyn Credentials>>,
    ring: Membership,
    /// The memberships before it that may have left entries, oldest first.
    earlier: Vec<Membership>,
    #[cfg(feature = "memory")]
    memory: Vec<MemoryServer>,
    watched: Option<Source>,
    configured: BTreeMap<String, Arc<KeySpace>>,
    spaces: Vec<SpaceSettings>,
    raw: SpaceSettings,
    reader: config::Reader,
    watcher: Watcher,
    meter: Meter,
}

impl Default for CacheBuilder {
    fn default() -> Self {
        Self {
            valkey: config::Valkey::default(),
            credentials: None,
            ring: Membership { epoch: 1, changed_at_ms: 0, placement: Placement::default(), shards: Vec::new() },
            earlier: Vec::new(),
            #[cfg(feature = "memory")]
            memory: Vec::new(),
            watched: None,
            configured: BTreeMap::new(),
            spaces: Vec::new(),
            raw: SpaceSettings::raw(),
            reader: config::Reader::default(),
            watcher: Watcher::default(),
            meter: Meter::default(),
        }
    }
}

impl CacheBuilder {
    /// Takes ring, connections, key spaces and reader settings from a configuration; what is added afterwards is
    /// added to them, and what was set before is replaced. The file that it was read from, if any, is not followed; see
    /// [`CacheBuilder::config_file`].
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
        self.earlier = config.earlier_rings;
        self.configured = config.spaces;
        self.reader = config.reader;
        self
    }

    /// Adds a ring shard by its name, which places its keys, and its address, which may change.
    pub fn shard(self, name: impl Into<String>, address: impl Into<String>) -> Self {
        self.weighted_shard(name, address, 1)
    }

    /// Takes all of it from the file that the worker uses too, with the environment's overrides, and follows the file's ring:
    /// [`CacheBuilder::config`] and [`CacheBuilder::watch_file`] in one.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be read, or every violation in it at once.
    pub fn config_file(self, path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        Ok(self.config(Config::load(path, config::environment())?).watch_file(path))
    }

    /// Adds a ring shard that takes `weight` times the keys of one with weight 1.
    pub fn weighted_shard(mut self, name: impl Into<String>, address: impl Into<String>, weight: u32) -> Self {
        self.ring.shards.push(ShardSpec { name: ShardName::from(name.into()), address: address.into(), weight });
        self
    }

    /// Takes all addresses that `name:port` resolves to as the ring shards, each named by its address, and asks the DNS
    /// again every [`watch`](config::Reader::watch): other addresses are the ring's next membership.
    ///
    /// An answer that fails or is empty changes nothing. It has to be what the invalidators use, and they have to know of
    /// an address first; encrypted connections need certificates for the addresses. The last call of this and
    /// [`CacheBuilder::watch_file`] counts.
    pub fn ring_from_dns(mut self, name: impl Into<String>) -> Self {
        self.watched = Some(Source::Dns(name.into()));
        self
    }

    /// Reads a configuration file again every [`watch`](config::Reader::watch) and takes its `[ring]` where that has a
    /// higher epoch; everything else of it counts at the start only.
    ///
    /// A file that cannot be used, or that has another ring of the same epoch, changes nothing and is logged and counted.
    pub fn watch_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.watched = Some(Source::File(path.into()));
        self
    }

    /// Puts the ring into this process's memory, in place of all ring shards named so far: for tests of applications,
    /// which then run the whole cache without a server. Key spaces and all other settings count as they do elsewhere.
    ///
    /// For outages, evictions and time that passes, make the servers and give them to [`CacheBuilder::memory_shard`].
    #[cfg(feature = "memory")]
    pub fn in_memory(mut self) -> Self {
        self.ring.shards.clear();
        self.earlier.clear();
        self.memory.clear();
        self.watched = None;
        let command_timeout = self.valkey.command_timeout;
        self.valkey = config::Valkey { command_timeout, ..config::Valkey::default() };
        self.credentials = None;
        self.memory_shard(&MemoryServer::new("memory"))
    }

    /// Adds a ring shard in this process's memory; the same server may be given to several caches, as if these were
    /// processes.
    #[cfg(feature = "memory")]
    pub fn memory_shard(mut self, server: &MemoryServer) -> Self {
        let name = server.name().clone();
        let address = format!("memory:{name}");
        self.ring.shards.push(ShardSpec { name, address, weight: 1 });
        self.memory.push(server.clone());
        self
    }

    /// Chooses how keys are placed; it has to be what the invalidators use.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.ring.placement = placement;
        self
    }

    /// Gives the ACL user and its password for all ring shards, in place of every other way to authenticate that
    /// was chosen before.
    pub fn credentials(mut self, username: impl Into<String>, password: impl Into<String>) -> Self {
        self.valkey.username = Some(username.into());
        self.valkey.password = Some(Secret::new(password.into()));
        (self.valkey.password_secret, self.valkey.iam) = (None, None);
        self.credentials = None;
        self
    }

    /// Asks for the login of every connection, and again before its time is over: for passwords that are rotated and
    /// tokens that expire. It goes before every setting of user and password that was made before.
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

    /// Chooses everything about how ring shards are reached, in place of what was chosen before.
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

    /// Chooses how long a load may take, where its key space does not.
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        self.reader.load_timeout = timeout;
        self
    }

    /// Chooses all of the reader's settings, in place of what was chosen before.
    pub fn reader(mut self, reader: config::Reader) -> Self {
        self.reader = reader;
        self
    }

    /// Gives a recorder of the application's own for this cache's metrics, in place of the one that is installed for the
    /// process.
    pub fn metrics(mut self, recorder: Arc<dyn Recorder + Send + Sync>) -> Self {
        self.meter = Meter(Some(recorder));
        self
    }

    /// Adds a hook that is told of every read and load that ends.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.watcher = Watcher(Some(observer));
        self
    }

    /// Checks the settings, builds the cache and waits until its ring shards are connected, or have failed to be for
    /// the connect time-out; must be called in a Tokio runtime.
    ///
    /// A ring shard that is down is connected in the background as soon as it is up. Metrics go to the
    /// recorder that is installed by then, or to that of [`CacheBuilder::metrics`].
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every violation. A ring shard that is down is none: its reads go to the loader.
    pub async fn build(mut self) -> Result<Cache, ConfigError> {
        let mut found = Vec::new();
        self.resolve(&mut found).await;
        let meter = self.meter.clone();
        let (cache, shards) = meter.within(|| self.assemble(found))?;
        // A process that reads before it is connected would send its first reads to the origin.
        join_all(shards.iter().map(|shard| cache.inner.changes.connector.ready(shard))).await;
        Ok(cache)
    }

    /// Makes everything that a cache is made of; every metric is looked up here, or when a ring shard joins.
    fn assemble(self, mut found: Vec<Violation>) -> Result<(Cache, Vec<Arc<ReadShard>>), ConfigError> {
        let spaces = self.spaces(&mut found);
        let raw = self.raw.validate(&mut found);
        found.extend(self.reader.violations());
        let kept = || spaces.values().map(|space| &*space.settings).chain(raw.as_deref());
        let (window_ms, now_ms) = (self.reader.ring_window_ms(kept()), unix_ms());
        let history = config::ring_history(&self.ring, &self.earlier, window_ms).map_err(|errors| found.extend(errors));
        found.extend(self.valkey.violations());
        if self.credentials.is_none() {
            found.extend(self.valkey.violation_of_user());
        }
        found.extend(self.mixed());
        found.extend(self.valkey.violation_of(&self.ring));
        let (tasks, work, ended) = (TaskTracker::new(), TaskTracker::new(), CancellationToken::new());
        // So that waiting for it ends whenever nothing is under way.
        work.close();
        let local = Arc::new(Local::new(&self.reader, kept()));
        let connector = Connector {
            local: local.clone(),
            valkey: self.valkey.clone(),
            credentials: self.credentials.clone(),
            channel: channel(),
            settings: self.reader.clone(),
            spaces: spaces.len() + 1,
            meter: self.meter.clone(),
            #[cfg(feature = "memory")]
            memory: self.memory.clone(),
            tasks: tasks.clone(),
            ended: ended.clone(),
        };
        let mut shards = Vec::new();
        for spec in history.iter().flat_map(|history| history.shards(now_ms)) {
            match connector.open(spec) {
                Ok(shard) => shards.push(shard),
                Err(error) => found.push(Violation::split("valkey", &error.to_string())),
            }
        }
        let (Ok(history), Some(raw), true) = (history, raw, found.is_empty()) else {
            return Err(ConfigError::Invalid { path: None, violations: found });
        };
        self.warn(&spaces);
        let kept_ms = history.kept_ms(now_ms);
        let topology = Topology::beginning(history, shards.clone(), now_ms);
        let changes = Changes::new(connector);
        changes.at(&topology);
        let cache = Cache::new(Inner {
            topology: ArcSwap::from_pointee(topology),
            changes,
            settings: self.reader.clone(),
            watcher: self.watcher.clone(),
            raw: SpaceState::new(raw, spaces.len()),
            spaces,
            flights: Flights::new(),
            last_flights: Flights::new(),
            local,
            retries: Retries::new(self.reader.retry_queue, work.clone(), ended.clone()),
            failures: Failures::new(),
            tasks,
            work,
            ended,
        });
        cache.inner.attend(cache.inner.local.ticking());
        if shards.len() > cache.inner.topology.load().shards().len() {
            cache.inner.prune_after(kept_ms);
        }
        if let Some(source) = self.watched {
            cache.inner.attend(topology::watch(cache.inner.clone(), Watch::new(source)));
        }
        Ok((cache, shards))
    }

    /// Asks the DNS for the ring shards, where they come from it.
    async fn resolve(&mut self, found: &mut Vec<Violation>) {
        let Some(Source::Dns(name)) = &self.watched else { return };
        if !self.ring.shards.is_empty() {
            found.push(Violation::new(
                "ring.shards",
                format!("ring shards are named, and {name} is to be resolved to them"),
                "name them, or the host that resolves to them",
            ));
            return;
        }
        match Resolver::system().addresses_of(name).await {
            Ok(addresses) => self.ring.shards = watch::shards_of(&addresses),
            Err(error) => found.push(Violation::new(
                "ring.shards",
                format!("{name} is not resolved: {error}"),
                "write host:port of a name that the DNS knows",
            )),
        }
    }

    /// Tells of settings that change nothing, as far as key spaces go.
    fn warn(&self, spaces: &BTreeMap<String, Arc<SpaceState>>) {
        let any = |has: fn(&KeySpace) -> bool| spaces.values().any(|space| has(&space.settings));
        if self.reader.soft_timeout.is_some() && !any(KeySpace::serves_stale) {
            tracing::warn!(
                "`reader.soft_timeout` changes nothing, because no key space keeps values; set `stale_if_error`"
            );
        }
        if spaces.contains_key(RAW) {
            tracing::warn!(
                space = RAW,
                "keys that are given as they are go by this name in metrics, spans and hooks, too; rename the key space"
            );
        }
        let in_memory = |space: &KeySpace| matches!(space.local, LocalTier::Bounded(_) | LocalTier::Tracked(_));
        if self.reader.local_capacity == 0 && any(in_memory) {
            tracing::warn!(
                "key spaces are to answer from memory, and `reader.local_capacity` is 0: all reads go to the ring"
            );
        }
    }

    /// Finds whether ring shards in memory stand beside servers, so that a test never writes to these.
    fn mixed(&self) -> Option<Violation> {
        #[cfg(feature = "memory")]
        if let Some(memory) = self.memory.first() {
            let in_memory = |spec: &ShardSpec| self.memory.iter().any(|server| server.name() == &spec.name);
            let server = self.ring.shards.iter().find(|spec| !in_memory(spec));
            return server.map(|server| {
                let problem = format!("{} is a server, and {} is in memory", server.name, memory.name());
                Violation::new("ring.shards", problem, "call in_memory() after config() and shard()")
            });
        }
        None
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
        found.extend(spaces.values().flat_map(|space| codec::violations(space)));
        spaces.into_iter().enumerate().map(|(place, (name, space))| (name, SpaceState::new(space, place))).collect()
    }
}

/// The name of this cache's inbox, which no other cache has.
fn channel() -> String {
    let millis = unix_ms();
    let token = u128::from_be_bytes(*Token::random().as_bytes());
    format!("ringtide:inbox:{millis:x}:{token:032x}")
}
