//! A schedule: processes that read and write, an invalidator, and the weather.

use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use ringtide::{Cache, CacheKey, LocalTier, MemoryServer, Mode, SpaceSettings, Version, config};
use ringtide_core::command::{Action, Command};
use ringtide_core::entry::{HEADER_LEN, Header, State};
use ringtide_core::key::{KeySpace, Template};
use ringtide_core::ring::{Membership, Placement, Ring, ShardSpec};
use ringtide_core::valkey::Shard;

use super::process::{LONG, Process};
use super::truth::{KEYS, Truth, a_while};

const PROCESSES: usize = 2;
const READERS: usize = 3;
const READS: usize = 12;
const WRITES: usize = 12;
const TEMPLATE: &str = "item:{pk}";

/// What a schedule is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) versioned: bool,
    /// Whether the caches ask their own memory first.
    pub(crate) tracked: bool,
    /// Whether calls are lost and ring shards go down.
    pub(crate) stormy: bool,
    /// Whether reads go past the crate, by the usual three lines: get, load, set.
    pub(crate) naive: bool,
}

impl Setting {
    /// The crate in mode plain, while nothing fails.
    pub(crate) const CALM: Self = Self { versioned: false, tracked: false, stormy: false, naive: false };
}

/// What came of reads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) answered: u64,
    /// Peeks that found nothing.
    pub(crate) unanswered: u64,
    /// Ended at their deadlines, or peeked at a ring shard that was down.
    pub(crate) failed: u64,
    pub(crate) loads: u64,
}

impl AddAssign for Done {
    fn add_assign(&mut self, other: Self) {
        self.answered += other.answered;
        self.unanswered += other.unanswered;
        self.failed += other.failed;
        self.loads += other.loads;
    }
}

/// Runs one schedule; what was wrong, where anything was.
pub(crate) fn schedule(seed: u64, setting: Setting) -> Result<Done, String> {
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(World::begin(setting).run())
}

struct World {
    setting: Setting,
    servers: Vec<MemoryServer>,
    shards: Vec<Shard>,
    ring: Ring,
    truth: Truth,
}

impl World {
    fn begin(setting: Setting) -> Self {
        let servers: Vec<_> = ["a", "b"].into_iter().map(MemoryServer::new).collect();
        let spec = |server: &MemoryServer| ShardSpec {
            name: server.name().clone(),
            address: format!("memory:{}", server.name()),
            weight: 1,
        };
        let shards = servers.iter().map(spec).collect();
        let ring =
            Ring::new(Membership { epoch: 1, changed_at_ms: 0, placement: Placement::default(), shards }).unwrap();
        Self { setting, shards: servers.iter().map(Shard::in_memory).collect(), servers, ring, truth: Truth::default() }
    }

    fn mode(&self) -> Mode {
        match self.setting.versioned {
            true => Mode::Versioned { attribute: "v".to_owned(), tombstone: None },
            false => Mode::Plain,
        }
    }

    async fn process(&self, writes: bool) -> Process {
        let local = if self.setting.tracked { LocalTier::Tracked(LONG) } else { LocalTier::Off };
        let item = SpaceSettings::new("item", TEMPLATE).mode(self.mode()).local(local);
        let reader = config::Reader {
            lease_ttl: Duration::from_millis(200),
            // Its pauses are real time, and a schedule takes none.
            breaker_failures: 100_000,
            // A read whose every attempt is in vain loads without a lease, which calm weather does not count.
            max_attempts: if self.setting.stormy { 4 } else { 100 },
            ..config::Reader::default()
        };
        let builder = self.servers.iter().fold(Cache::builder(), |builder, server| builder.memory_shard(server));
        let cache = builder.reader(reader).space(item).build().await.unwrap();
        let items = cache.space("item").unwrap();
        let servers = (0..KEYS).map(|key| self.server_of(key).clone()).collect();
        Process { cache, items, truth: self.truth.clone(), setting: self.setting, writes, servers }
    }

    async fn run(self) -> Result<Done, String> {
        let mut processes = Vec::new();
        for at in 0..PROCESSES {
            processes.push(self.process(at == 0).await);
        }
        let lost = if self.setting.stormy { 0.03 } else { 0.0 };
        for server in &self.servers {
            server.delay(Duration::from_millis(20));
            server.lose(lost);
        }
        let readers = processes.iter().flat_map(|process| std::iter::repeat_n(process, READERS));
        let mut tasks: Vec<_> = readers.map(|process| tokio::spawn(process.clone().read_on(READS))).collect();
        tasks.push(tokio::spawn(processes[0].clone().write_on(WRITES / 2)));
        let weather = self.weather();
        let (ends, delivered, ()) = tokio::join!(try_join_all(tasks), self.write_on(), weather);
        delivered?;
        let (mut sum, mut complaints) = (Done::default(), Vec::new());
        for end in ends.map_err(|error| format!("a task died: {error}"))? {
            end.map_or_else(|complaint| complaints.push(complaint), |done| sum += done);
        }
        for server in &self.servers {
            server.lose(0.0);
        }
        for process in &processes {
            let settled = tokio::time::timeout(LONG, process.cache.settled()).await;
            settled.map_err(|_| "what is owed is never delivered".to_owned())?;
        }
        // Whatever was lost arrives by then.
        tokio::time::sleep(Duration::from_secs(3)).await;
        complaints.extend(self.audit().err());
        for key in 0..KEYS {
            let of = self.truth.of(key);
            sum.loads += of.loads;
            // Keys that nobody had taken away are loaded once.
            if !self.setting.stormy && of.loads > 1 + of.taken {
                complaints.push(format!("key {key} was loaded {} times, and taken away {} times", of.loads, of.taken));
            }
        }
        for process in processes {
            let closed = tokio::time::timeout(LONG, process.cache.close()).await;
            closed.map_err(|_| "a cache is never closed".to_owned())?;
        }
        if complaints.is_empty() { Ok(sum) } else { Err(complaints.join("; ")) }
    }

    /// Writes keys, and delivers each change until it is acknowledged.
    async fn write_on(&self) -> Result<(), String> {
        let mut delivering = Vec::new();
        for _ in 0..WRITES {
            a_while(8).await;
            let key = fastrand::u64(..KEYS);
            let value = self.truth.write(key);
            self.truth.change(key, |key| key.taken += 1);
            let (shard, truth, command) = (self.owner(key).clone(), self.truth.clone(), self.command(key, value));
            delivering.push(tokio::spawn(async move {
                a_while(5).await;
                let applied = loop {
                    match shard.apply(std::slice::from_ref(&command), 0).await {
                        Ok(applied) => break applied,
                        Err(_) => a_while(10).await,
                    }
                };
                truth.change(key, |key| {
                    key.took(&applied);
                    key.delivered = key.delivered.max(value);
                });
            }));
        }
        tokio::time::timeout(LONG, try_join_all(delivering)).await.map_err(|_| "a delivery hangs".to_owned())?.unwrap();
        Ok(())
    }

    /// Lets entries be evicted, and where it is stormy leases, whole ring shards and connections go.
    async fn weather(&self) {
        for _ in 0..6 {
            a_while(20).await;
            let (server, key) = (fastrand::choice(&self.servers).unwrap(), fastrand::u64(..KEYS));
            let name = cache_key(key);
            match fastrand::u8(..if self.setting.stormy { 5 } else { 1 }) {
                0 => {
                    self.truth.change(key, |key| key.taken += 1);
                    self.server_of(key).evict(name.as_str());
                }
                1 => {
                    self.server_of(key).evict(&name.lock());
                }
                2 => server.clear(),
                _ => {
                    server.down(true);
                    a_while(40).await;
                    server.down(false);
                }
            }
        }
    }

    fn at(&self, key: u64) -> usize {
        self.ring.locate(cache_key(key).as_bytes()).index()
    }

    fn owner(&self, key: u64) -> &Shard {
        &self.shards[self.at(key)]
    }

    fn server_of(&self, key: u64) -> &MemoryServer {
        &self.servers[self.at(key)]
    }

    fn command(&self, key: u64, value: u64) -> Command {
        let space = KeySpace { mode: self.mode(), ..KeySpace::new("item", Template::parse(TEMPLATE).unwrap()) };
        let drop_entry = Command::drop_entry(cache_key(key), Arc::new(space));
        match self.setting.versioned {
            true => {
                Command { action: Action::Invalidate { version: Version::from_number(value.into()) }, ..drop_entry }
            }
            false => drop_entry,
        }
    }

    /// Finds entries that are older than the truth, once everything has been delivered, and leases that nobody gave back.
    fn audit(&self) -> Result<(), String> {
        for key in 0..KEYS {
            let name = cache_key(key);
            if let Some(entry) = self.server_of(key).value(name.as_str()) {
                let header = Header::parse(&entry).map_err(|error| error.to_string())?;
                if header.state == State::Value {
                    let value: u64 = serde_json::from_slice(&entry[HEADER_LEN..]).map_err(|error| error.to_string())?;
                    let now = self.truth.of(key).now;
                    if value != now {
                        return Err(format!("the entry of key {key} is {value} for good, and {now} is true"));
                    }
                }
            }
            if self.server_of(key).value(&name.lock()).is_some() {
                return Err(format!("the lease of key {key} is held by nobody"));
            }
        }
        Ok(())
    }
}

pub(crate) fn cache_key(key: u64) -> CacheKey {
    CacheKey::new(&*format!("item:{key}")).unwrap()
}
