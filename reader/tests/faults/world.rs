//! Ring shards behind proxies, an invalidator that reaches them directly, and the audit of what they hold.

use std::sync::Arc;
use std::time::Duration;

use ringtide::{Cache, CacheBuilder, CacheKey, LocalTier, Mode, Space, SpaceSettings, Version, config};
use ringtide_core::command::{Action, Command, Image};
use ringtide_core::entry::{HEADER_LEN, Header, State};
use ringtide_core::key::{KeySpace, Template};
use ringtide_core::ring::{Membership, Placement, Ring, ShardName, ShardSpec};
use ringtide_core::valkey::Shard;
use ringtide_servers::{Proxy, ValkeyServer};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::truth::{KEYS, Truth};

pub(crate) const LEASE: Duration = Duration::from_millis(800);
pub(crate) const COMMAND: Duration = Duration::from_millis(500);

/// Longer than anything in a test may take.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// What the key space is like that is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    /// In mode versioned: a value is its own version.
    Versioned,
    /// Entries are over soon, and served while they are loaded again; some are loaded before.
    ShortLived,
}

impl Style {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Versioned => "versioned",
            Self::ShortLived => "short-lived",
        }
    }

    pub(crate) fn named(name: &str) -> Self {
        [Self::Plain, Self::Versioned, Self::ShortLived].into_iter().find(|style| style.name() == name).unwrap()
    }

    fn settings(self) -> SpaceSettings {
        let item = SpaceSettings::new("item", TEMPLATE);
        match self {
            Self::Plain => item,
            Self::Versioned => item.mode(self.mode()),
            Self::ShortLived => {
                item.ttl(Duration::from_millis(150)).ttl_jitter(0.5).stale_while_revalidate(LONG).early_refresh(1.0)
            }
        }
    }

    fn mode(self) -> Mode {
        match self {
            Self::Versioned => Mode::Versioned { attribute: "v".to_owned(), tombstone: None },
            Self::Plain | Self::ShortLived => Mode::Plain,
        }
    }

    /// What an invalidator sends of a change.
    fn command(self, key: u64, value: u64) -> Command {
        let space = KeySpace { mode: self.mode(), ..KeySpace::new("item", Template::parse(TEMPLATE).unwrap()) };
        let drop_entry = Command::drop_entry(cache_key(key), Arc::new(space));
        let version = Version::from_number(value.into());
        match self {
            Self::Plain | Self::ShortLived => drop_entry,
            Self::Versioned if value.is_multiple_of(2) => {
                Command { action: Action::Invalidate { version }, ..drop_entry }
            }
            Self::Versioned => {
                let image = Image::Json(serde_json::to_vec(&value).unwrap().into());
                Command { action: Action::Refresh { version, image, populate: false }, ..drop_entry }
            }
        }
    }
}

const TEMPLATE: &str = "item:{pk}";

pub(crate) struct World {
    pub(crate) style: Style,
    pub(crate) truth: Truth,
    pub(crate) servers: Vec<ValkeyServer>,
    /// By which readers reach them.
    pub(crate) proxies: Vec<Proxy>,
    /// Where other processes load from.
    pub(crate) origin: String,
    ring: Ring,
    shards: Vec<Shard>,
    _serving: AbortOnDropHandle<()>,
}

impl World {
    pub(crate) async fn begin(shards: usize) -> Self {
        Self::of(Style::Plain, shards).await
    }

    pub(crate) async fn of(style: Style, shards: usize) -> Self {
        let truth = Truth::new();
        let (origin, serving) = truth.serve().await;
        let servers: Vec<_> = (0..shards).map(|_| ValkeyServer::start().unwrap()).collect();
        let mut proxies = Vec::new();
        for server in &servers {
            proxies.push(Proxy::start(server.address()).await.unwrap());
        }
        let spec = |(at, server): (usize, &ValkeyServer)| ShardSpec {
            name: ShardName::new(&format!("shard-{at}")),
            address: server.address(),
            weight: 1,
        };
        let specs: Vec<_> = servers.iter().enumerate().map(spec).collect();
        let options = config::Valkey { command_timeout: Duration::from_millis(500), ..config::Valkey::default() };
        let shards: Vec<_> = specs.iter().map(|spec| Shard::connect(spec, &options).unwrap()).collect();
        for shard in &shards {
            shard.ready(LONG).await.unwrap();
        }
        let ring = Membership { epoch: 1, changed_at_ms: 0, placement: Placement::default(), shards: specs };
        Self { style, truth, servers, proxies, origin, ring: Ring::new(ring).unwrap(), shards, _serving: serving }
    }

    /// Where readers find the ring shards.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.proxies.iter().map(Proxy::address).collect()
    }

    pub(crate) async fn cache(&self) -> Cache {
        builder(&self.addresses(), self.style).build().await.unwrap()
    }

    /// A cache that asks its own memory first, which the ring shards keep true.
    pub(crate) async fn tracking(&self) -> Cache {
        let item = self.style.settings().local(LocalTier::Tracked(LONG));
        builder_of(&self.addresses(), item).build().await.unwrap()
    }

    fn owner(&self, key: &CacheKey) -> &Shard {
        &self.shards[self.ring.locate(key.as_bytes()).index()]
    }

    /// Delivers changes, each until it is acknowledged; a task for each ring shard.
    pub(crate) fn invalidator(&self) -> (Invalidator, Vec<tokio::task::JoinHandle<()>>) {
        let begin = |shard: &Shard| {
            let (sender, mut changes) = mpsc::unbounded_channel::<(u64, u64)>();
            let (shard, truth, style) = (shard.clone(), self.truth.clone(), self.style);
            let delivering = tokio::spawn(async move {
                while let Some((key, value)) = changes.recv().await {
                    let command = style.command(key, value);
                    while shard.apply(std::slice::from_ref(&command), 0).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    truth.deliver(key, value);
                }
            });
            (sender, delivering)
        };
        let (senders, tasks) = self.shards.iter().map(begin).unzip();
        (Invalidator { truth: self.truth.clone(), ring: self.ring.clone(), senders }, tasks)
    }

    /// Writes a key and delivers the change.
    pub(crate) async fn change(&self, key: u64) -> u64 {
        let value = self.truth.write(key);
        let command = self.style.command(key, value);
        self.owner(&command.key).apply(std::slice::from_ref(&command), 0).await.unwrap();
        value
    }

    /// What the ring holds of a key.
    pub(crate) async fn stored(&self, key: u64) -> Option<u64> {
        let key = cache_key(key);
        let entry = loop {
            // A server that was restarted a moment ago is being connected.
            match self.owner(&key).get(&key).await {
                Ok(entry) => break entry?,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let header = Header::parse(&entry).expect("an entry");
        (header.state == State::Value).then(|| serde_json::from_slice(&entry[HEADER_LEN..]).unwrap())
    }

    /// Finds entries that are older than the truth, once everything has been delivered.
    pub(crate) async fn audit(&self) -> usize {
        let mut stored = 0;
        for key in 0..KEYS {
            if let Some(value) = self.stored(key).await {
                assert_eq!(value, self.truth.now(key), "the entry of key {key} is stale for good");
                stored += 1;
            }
        }
        stored
    }
}

/// Writes keys and hands the changes on.
pub(crate) struct Invalidator {
    truth: Truth,
    ring: Ring,
    senders: Vec<mpsc::UnboundedSender<(u64, u64)>>,
}

impl Invalidator {
    pub(crate) fn write(&self, key: u64) {
        let value = self.truth.write(key);
        let owner = self.ring.locate(cache_key(key).as_bytes()).index();
        self.senders[owner].send((key, value)).unwrap();
    }
}

/// A reader's settings, for short outages: time-outs far below those of production.
pub(crate) fn builder(addresses: &[String], style: Style) -> CacheBuilder {
    // What is kept in memory for outages may be older.
    builder_of(addresses, style.settings().local(LocalTier::Off))
}

fn builder_of(addresses: &[String], item: SpaceSettings) -> CacheBuilder {
    let reader = config::Reader {
        lease_ttl: LEASE,
        load_timeout: Duration::from_secs(5),
        breaker_failures: 3,
        breaker_pause: Duration::from_millis(200),
        ..config::Reader::default()
    };
    let mut builder = Cache::builder().reader(reader).command_timeout(COMMAND);
    for (at, address) in addresses.iter().enumerate() {
        builder = builder.shard(format!("shard-{at}"), address);
    }
    builder.space(item)
}

pub(crate) fn items(cache: &Cache) -> Space<u64> {
    cache.space("item").unwrap()
}

fn cache_key(key: u64) -> CacheKey {
    CacheKey::new(&*format!("item:{key}")).unwrap()
}
