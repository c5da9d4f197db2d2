//! One configuration for worker, Lambda and reader: a TOML file and the environment → [`Config`], every violation at
//! once.

mod error;
mod load;
mod raw;
mod secret;
mod validate;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use error::{ConfigError, Violation};
pub use load::environment;
pub use secret::Secret;
pub use validate::parse_duration;

use crate::clock::unix_ms;
use crate::key::KeySpace;
use crate::ring::{Membership, Ring, RingHistory};
use crate::route::Route;

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// How AWS is reached.
    pub aws: Aws,
    /// How ring shards are reached.
    pub valkey: Valkey,
    /// The ring's membership.
    pub ring: Membership,
    /// Memberships before it that a process which starts now still has to tell of changes, oldest first.
    pub earlier_rings: Vec<Membership>,
    /// The file that all of this was read from; `None` for a text from elsewhere.
    pub file: Option<PathBuf>,
    /// Key spaces by name.
    pub spaces: BTreeMap<String, Arc<KeySpace>>,
    /// Routes, in the file's order.
    pub routes: Vec<Route>,
    /// Where unreadable records are kept; `None` for nowhere but the log.
    pub park: Option<ParkTarget>,
    /// How ring shards are delivered to.
    pub delivery: Delivery,
    /// The worker's settings.
    pub worker: Worker,
    /// How the worker measures its lag; `None` for not at all.
    pub probe: Option<Probe>,
    /// The reader's settings.
    pub reader: Reader,
}

/// How AWS is reached; what is absent is left to the SDK's own chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aws {
    /// The region.
    pub region: Option<String>,
    /// The endpoint of DynamoDB and its streams, for LocalStack-compatible servers.
    pub endpoint_url: Option<String>,
}

/// How every ring shard is reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Valkey {
    /// The ACL user; `None` for the default one.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// The name or ARN of the Secrets Manager secret that holds the password.
    pub password_secret: Option<String>,
    /// ElastiCache's authentication by IAM, instead of a password.
    pub iam: Option<Iam>,
    /// Whether the one ring shard is a cluster, reached by its configuration endpoint.
    pub cluster: bool,
    /// Whether connections are encrypted.
    pub tls: bool,
    /// Certificates in PEM that sign the servers' ones; `None` for the well-known roots.
    pub ca_file: Option<PathBuf>,
    /// Connections per ring shard, 1 to 16.
    pub connections: usize,
    /// How long one command may take.
    pub command_timeout: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

/// What ElastiCache's authentication by IAM has to name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iam {
    /// The id of the replication group, or the name of the serverless cache.
    pub cache: String,
    /// Whether the cache is a serverless one.
    pub serverless: bool,
}

/// Where records are kept that cannot be turned into all of their commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParkTarget {
    /// An SQS queue.
    Sqs {
        /// The queue's URL.
        queue_url: String,
    },
    /// Objects of an S3 bucket.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// What the objects' keys begin with; empty, or ends in `/`.
        prefix: String,
    },
    /// Items of a DynamoDB table with this name.
    Table(String),
    /// Files of a directory.
    Directory(PathBuf),
}

/// How ring shards are delivered to.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// How far back commands that a ring shard acknowledged are delivered again after a fail-over.
    pub redeliver_window: Duration,
    /// The most commands that are remembered for that, a ring shard; where they do not reach back far enough, the ring
    /// shard is flushed instead. With 0 it always is.
    pub redeliver_keys: usize,
    /// How often a ring shard is asked which server it is.
    pub check_interval: Duration,
    /// The replicas that have to hold a batch before it counts as delivered.
    pub wait_replicas: u32,
    /// How long they may take.
    pub wait_timeout: Duration,
    /// How often the file that the ring's membership comes from is looked at.
    pub watch: Duration,
}

/// The worker's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// The application's name, which is also that of its lease table.
    pub application: String,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; `None` for nowhere.
    pub listen: Option<std::net::SocketAddr>,
    /// The OpenTelemetry collector that metrics are sent to; `None` for that of the environment, if any.
    pub otlp_endpoint: Option<String>,
    /// The longest pause between two reads of a stream shard without new records.
    pub idle_poll: Duration,
    /// The most reads of a stream shard in a second.
    pub max_reads_per_second: u32,
    /// How often the shards of a stream are listed.
    pub discovery_interval: Duration,
    /// How often a checkpoint is written while there is progress.
    pub checkpoint_interval: Duration,
    /// A stream lease that was not renewed for this long has expired.
    pub lease_timeout: Duration,
    /// How long a shutdown may take to deliver what was read.
    pub drain_timeout: Duration,
    /// A stream shard that was not read successfully for this long makes the worker unhealthy.
    pub unhealthy_after: Duration,
    /// The most commands that wait for one ring shard before it is marked dirty and flushed instead.
    pub log_capacity: usize,
    /// The most pages of one stream shard that are under way at once.
    pub pages_in_flight: usize,
}

/// How the worker measures its lag: by writes to a table of its own, whose entries it then watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The table, which no route names; the worker creates it where it is missing.
    pub table: String,
    /// How often each ring shard is probed.
    pub interval: Duration,
    /// An entry that is not invalidated for this long after its item's write is a failure.
    pub timeout: Duration,
}

/// The reader's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Reader {
    /// How long a lease lives without being extended.
    pub lease_ttl: Duration,
    /// How long a load may take where its key space says nothing else: a lease is not extended past this, and the load is given up.
    pub load_timeout: Duration,
    /// How often a reader tries for a filled entry before it takes the value uncached.
    pub max_attempts: u32,
    /// The most concurrent loads on behalf of one ring shard that is down.
    pub max_fallback_loads: usize,
    /// The longest value, in bytes, that travels in the message which wakes a waiter.
    pub inline_max: usize,
    /// The most concurrent loads under leases of one ring shard, such as one that came back empty.
    pub max_loads: usize,
    /// How long a read may take altogether, where its caller sets no deadline; `None` for as long as loads and attempts take.
    pub timeout: Option<Duration>,
    /// How long a read waits for a load where a stale value may be served instead; `None` for as long as it takes.
    pub soft_timeout: Option<Duration>,
    /// The most bytes that are kept in this process's memory.
    pub local_capacity: u64,
    /// Calls that fail in a row before a ring shard is left alone for a while.
    pub breaker_failures: u32,
    /// How long a ring shard is left alone before one read tries it again.
    pub breaker_pause: Duration,
    /// Loads on behalf of second attempts, as a part of all loads: what is above it is not tried again.
    pub retry_budget: f64,
    /// Fills and invalidations of this process that failed and wait to be sent again.
    pub retry_queue: usize,
    /// How often the file or name that the ring's membership comes from is looked at.
    pub watch: Duration,
}

impl Default for Valkey {
    fn default() -> Self {
        Self {
            username: None,
            password: None,
            password_secret: None,
            iam: None,
            cluster: false,
            tls: false,
            ca_file: None,
            connections: 1,
            command_timeout: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(2),
        }
    }
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            redeliver_window: Duration::from_secs(120),
            redeliver_keys: 100_000,
            check_interval: Duration::from_secs(5),
            wait_replicas: 0,
            wait_timeout: Duration::from_millis(200),
            watch: Duration::from_secs(2),
        }
    }
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            application: "ringtide".to_owned(),
            listen: Some(([127, 0, 0, 1], 9464).into()),
            otlp_endpoint: None,
            idle_poll: Duration::from_millis(500),
            max_reads_per_second: 20,
            discovery_interval: Duration::from_secs(30),
            checkpoint_interval: Duration::from_secs(1),
            lease_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(20),
            unhealthy_after: Duration::from_secs(60),
            log_capacity: 200_000,
            pages_in_flight: 32,
        }
    }
}

impl Default for Probe {
    fn default() -> Self {
        Self { table: "ringtide-probe".to_owned(), interval: Duration::from_secs(10), timeout: Duration::from_secs(10) }
    }
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(2),
            load_timeout: Duration::from_secs(30),
            max_attempts: 4,
            max_fallback_loads: 64,
            inline_max: 8 * 1024,
            max_loads: 512,
            timeout: None,
            soft_timeout: None,
            local_capacity: 64 * 1024 * 1024,
            breaker_failures: 5,
            breaker_pause: Duration::from_secs(1),
            retry_budget: 0.2,
            retry_queue: 10_000,
            watch: Duration::from_secs(2),
        }
    }
}

impl Valkey {
    /// Finds every setting that no connection can be made with.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let time = "nothing can be answered in no time";
        let rules = [
            (!(1..=16).contains(&self.connections), "valkey.connections", "it is out of range", "use 1 to 16"),
            (self.command_timeout.is_zero(), "valkey.command_timeout", time, "use 100ms or more"),
            (self.connect_timeout.is_zero(), "valkey.connect_timeout", time, "use 1s or more"),
        ];
        violated(rules)
    }

    /// Finds whether they name a user and nothing that proves it, which servers would take for their default user.
    #[must_use]
    pub fn violation_of_user(&self) -> Option<Violation> {
        let proven = self.password.is_some() || self.password_secret.is_some() || self.iam.is_some();
        (self.username.is_some() && !proven).then(|| {
            Violation::new(
                "valkey.username",
                "a user without a password",
                "set RINGTIDE_VALKEY_PASSWORD, valkey.password_file, valkey.password_secret or valkey.iam_cache",
            )
        })
    }

    /// Finds whether a ring is more than these settings reach: a cluster places keys itself, and so stands as the one shard of a
    /// ring.
    #[must_use]
    pub fn violation_of(&self, ring: &Membership) -> Option<Violation> {
        (self.cluster && ring.shards.len() > 1).then(|| {
            Violation::new(
                "valkey.cluster",
                format!("a cluster is one ring shard, and the ring has {}", ring.shards.len()),
                "name the cluster's configuration endpoint as the only ring shard, or set valkey.cluster = false",
            )
        })
    }
}

impl Reader {
    /// For how many milliseconds after a change of the ring's membership an old owner may hold an entry of these key
    /// spaces: the time until every process has learned of the change, and then, for a flight that began just before,
    /// its patience, its wait for a permit, its load, its second, strong one and its lease, and the entry's life.
    #[must_use]
    pub fn ring_window_ms<'a>(&self, spaces: impl Iterator<Item = &'a KeySpace>) -> u64 {
        let (mut longest, mut load) = (Duration::ZERO, self.load_timeout);
        for space in spaces {
            longest = longest.max(space.longest_life());
            load = load.max(self.load_timeout_of(space));
        }
        let loads = load.saturating_mul(4);
        let rest = self.lease_ttl.saturating_mul(2).saturating_add(self.watch.saturating_mul(2));
        u64::try_from(longest.saturating_add(loads).saturating_add(rest).as_millis()).unwrap_or(u64::MAX)
    }

    /// How long a load of a key space may take.
    #[must_use]
    pub fn load_timeout_of(&self, space: &KeySpace) -> Duration {
        space.load_timeout.unwrap_or(self.load_timeout)
    }

    /// Finds every setting that no reader can work with.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let short = "a lease shorter than 100ms expires while it is being extended";
        let rules = [
            (self.lease_ttl < Duration::from_millis(100), "reader.lease_ttl", short, "use 1s or more"),
            (self.load_timeout.is_zero(), "reader.load_timeout", "no load can end in no time", "use 1s or more"),
            (
                self.timeout == Some(Duration::ZERO),
                "reader.timeout",
                "no read can end in no time",
                "leave it out for none",
            ),
            (
                self.soft_timeout == Some(Duration::ZERO),
                "reader.soft_timeout",
                "no load can end in no time",
                "use 1ms or more",
            ),
            (
                self.breaker_pause.is_zero(),
                "reader.breaker_pause",
                "a breaker has to stay open for a while",
                "use 1s or more",
            ),
            (!(0.0..=1.0).contains(&self.retry_budget), "reader.retry_budget", "it is out of range", "use 0 to 1"),
            (self.watch.is_zero(), "reader.watch", "nothing can be looked at all the time", "use 1s or more"),
        ];
        let whole = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let numbers = [
            ("reader.max_attempts", i64::from(self.max_attempts), ATTEMPTS),
            ("reader.max_fallback_loads", whole(self.max_fallback_loads), LOADS),
            ("reader.inline_max", whole(self.inline_max), INLINE),
            ("reader.max_loads", whole(self.max_loads), LOADS),
            ("reader.local_capacity", i64::try_from(self.local_capacity).unwrap_or(i64::MAX), CAPACITY),
            ("reader.breaker_failures", i64::from(self.breaker_failures), FAILURES),
            ("reader.retry_queue", whole(self.retry_queue), QUEUE),
        ];
        let outside = numbers.into_iter().filter(|(_, number, range)| !range.contains(number));
        let outside = outside.map(|(place, number, range)| Violation::outside(place, number, &range));
        outside.chain(violated(rules)).collect()
    }
}

/// The bounds of whole numbers under `[reader]`, in a file and by hand.
const ATTEMPTS: RangeInclusive<i64> = 1..=100;
const LOADS: RangeInclusive<i64> = 1..=100_000;
const INLINE: RangeInclusive<i64> = 0..=1_048_576;
const CAPACITY: RangeInclusive<i64> = 0..=1_099_511_627_776;
const FAILURES: RangeInclusive<i64> = 1..=100_000;
const QUEUE: RangeInclusive<i64> = 0..=1_000_000;

/// The violations of rules: whether each is broken, its place, the problem and the remedy.
fn violated<'a>(rules: impl IntoIterator<Item = (bool, &'a str, &'a str, &'a str)>) -> Vec<Violation> {
    let broken = rules.into_iter().filter(|(broken, ..)| *broken);
    broken.map(|(_, place, problem, remedy)| Violation::new(place, problem, remedy)).collect()
}

/// Where keys live by a membership, and where `earlier` ones, oldest first, may have left them for `window_ms`.
///
/// # Errors
/// Everything that keeps them from being a ring.
pub fn ring_history(ring: &Membership, earlier: &[Membership], window_ms: u64) -> Result<RingHistory, Vec<Violation>> {
    if earlier.is_empty() {
        let ring = Ring::new(ring.clone());
        let ring = ring.map_err(|errors| errors.into_iter().map(Violation::from).collect::<Vec<_>>())?;
        return Ok(RingHistory::new(ring, window_ms));
    }
    let memberships = earlier.iter().chain([ring]).cloned();
    RingHistory::restore(memberships, window_ms, unix_ms())
        .map_err(|error| vec![Violation::new("ring.earlier", error.to_string(), "list them oldest first")])
}

impl Config {
    /// For how many milliseconds after a change of the ring's membership an old owner may hold an entry.
    #[must_use]
    pub fn ring_window_ms(&self) -> u64 {
        self.reader.ring_window_ms(self.spaces.values().map(|space| &**space))
    }
}

#[cfg(test)]
mod tests;
