//! Three Valkey servers, the links of the sandboxes to them, and connections of the audit's own.

use std::time::Duration;

use ringtide_core::config;
use ringtide_core::entry::Entry;
use ringtide_core::key::CacheKey;
use ringtide_core::ring::{ShardName, ShardSpec};
use ringtide_core::valkey::Shard;
use ringtide_servers::ValkeyServer;

use super::link::{Link, Mood};

pub(crate) const SHARDS: usize = 3;

/// Long enough for the busiest machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The ring of one world.
pub(crate) struct Ring {
    pub(crate) links: Vec<Link>,
    servers: Vec<ValkeyServer>,
    conditions: [Condition; SHARDS],
    own: Vec<Shard>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Condition {
    #[default]
    Running,
    Frozen,
    Dead,
}

/// What happens to a shard, or to the sandboxes' way to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Trouble {
    /// The server is gone, with all entries.
    Kill,
    /// The server answers nobody for a while.
    Freeze,
    /// The sandboxes cannot reach the server; readers can.
    Cut,
    /// What the sandboxes send arrives late.
    Stall,
    /// The server's side closes the sandboxes' connections.
    Disconnect,
    /// All is well again.
    Mend,
}

impl Ring {
    pub(crate) async fn start() -> Self {
        let servers: Vec<ValkeyServer> = (0..SHARDS).map(|_| ValkeyServer::start().unwrap()).collect();
        let mut links = Vec::new();
        let mut own = Vec::new();
        let options = config::Valkey { command_timeout: PATIENCE, connect_timeout: PATIENCE, ..Default::default() };
        for (n, server) in servers.iter().enumerate() {
            links.push(Link::to(server.address()).await);
            let spec = ShardSpec { name: ShardName::from(name(n)), address: server.address(), weight: 1 };
            own.push(Shard::connect(&spec, &options).unwrap());
        }
        Self { links, servers, conditions: Default::default(), own }
    }

    /// The configuration of the ring, by the readers' way to it or by the sandboxes'.
    pub(crate) fn text(&self, linked: bool) -> String {
        let shard = |n: usize| {
            let address = if linked { self.links[n].address.clone() } else { self.servers[n].address() };
            format!("[[ring.shards]]\nname = \"{}\"\naddress = \"{address}\"\n", name(n))
        };
        (0..SHARDS).map(shard).collect()
    }

    pub(crate) fn trouble(&mut self, shard: usize, trouble: Trouble) {
        let (server, link) = (&mut self.servers[shard], &self.links[shard]);
        let condition = &mut self.conditions[shard];
        match trouble {
            Trouble::Kill if *condition == Condition::Running => {
                server.kill();
                *condition = Condition::Dead;
            }
            Trouble::Freeze if *condition == Condition::Running => {
                server.freeze().unwrap();
                *condition = Condition::Frozen;
            }
            Trouble::Kill | Trouble::Freeze => {}
            Trouble::Cut => link.set(Mood::Cut),
            Trouble::Stall => link.set(Mood::Stalled),
            Trouble::Disconnect => link.close_connections(),
            Trouble::Mend => {
                match *condition {
                    Condition::Running => {}
                    Condition::Frozen => server.thaw().unwrap(),
                    Condition::Dead => tokio::task::block_in_place(|| server.restart()).unwrap(),
                }
                *condition = Condition::Running;
                link.set(Mood::Up);
            }
        }
    }

    pub(crate) fn mend_all(&mut self) {
        (0..SHARDS).for_each(|shard| self.trouble(shard, Trouble::Mend));
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.conditions == [Condition::Running; SHARDS] && self.links.iter().all(|link| link.mood() == Mood::Up)
    }

    /// Every entry whose key begins with `prefix`.
    pub(crate) async fn entries(&self, prefix: &str) -> Vec<(String, Entry)> {
        let mut entries = Vec::new();
        for shard in &self.own {
            shard.ready(PATIENCE).await.unwrap();
            let names = shard.keys(prefix).await.unwrap();
            let keys: Vec<CacheKey> = names.into_iter().map(|name| CacheKey::new(name).unwrap()).collect();
            for page in keys.chunks(100) {
                let held = shard.get_many(page).await.unwrap();
                let held = page.iter().zip(held).filter_map(|(key, held)| Some((key.to_string(), held?)));
                let held = held.map(|(key, held)| (key, Entry::parse(&held).unwrap()));
                entries.extend(held);
            }
        }
        entries
    }

    /// The shard that holds something under this name.
    pub(crate) async fn shard_of(&self, name: &str) -> Option<usize> {
        let key = CacheKey::new(name).unwrap();
        for (shard, own) in self.own.iter().enumerate() {
            if own.get(&key).await.unwrap().is_some() {
                return Some(shard);
            }
        }
        None
    }

    /// Removes every entry and lock.
    pub(crate) async fn flush(&self) {
        for shard in &self.own {
            shard.ready(PATIENCE).await.unwrap();
            shard.flush("", Duration::ZERO).await.unwrap();
        }
    }
}

fn name(shard: usize) -> String {
    format!("shard-{shard}")
}
