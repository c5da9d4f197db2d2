//! The ring's memberships: who follows which of them, and what a change brings with it.

use std::sync::Arc;

use fastrand::Rng;
use ringtide_core::key::CacheKey;
use ringtide_core::ring::{self, Placement, Ring, RingHistory, ShardName, ShardSpec};

use super::flaw::Flaw;
use super::outcome::Step;
use super::reader::{LateCall, Reader};
use super::schedule::Schedule;
use super::world::World;

/// How long an entry lives, in steps.
pub(crate) const TTL_STEPS: u64 = 14;

/// How long a lease lives, however often it is extended.
pub(crate) const LEASE_STEPS: u64 = 14;

/// How long a flight goes on asking for the lease on the server that owned the key when it began.
pub(crate) const FLIGHT_STEPS: u64 = 6;

/// How long it takes at most until every process has learnt of a change.
const LEARN_STEPS: u64 = 6;

/// The invalidator's history, and what the reader processes go by.
pub(crate) struct Membership {
    /// The invalidator's.
    history: RingHistory,
    /// That of a worker which lost its stream lease.
    zombie: RingHistory,
    views: Vec<View>,
    /// Servers that cannot be reached: nobody reads there, and what was to be told them is given up.
    cut: [bool; 2],
    /// A membership that readers know of and the invalidator does not.
    ahead: Option<ring::Membership>,
    epoch: u64,
    current_only: bool,
    readers_first: bool,
    unflushed: bool,
}

/// The membership of one reader process.
struct View {
    ring: Arc<Ring>,
    /// When it was replaced.
    outdated: Option<u64>,
}

const NAMES: [&str; 2] = ["a", "b"];

fn membership(epoch: u64, shards: &[usize]) -> ring::Membership {
    let shard =
        |index: &usize| ShardSpec { name: ShardName::new(NAMES[*index]), address: format!("fuzz:{index}"), weight: 1 };
    let shards = shards.iter().map(shard).collect();
    // The placement that makes no table: every schedule has rings of its own.
    ring::Membership { epoch, changed_at_ms: 0, placement: Placement::GoRedis, shards }
}

fn index_of(name: &ShardName) -> usize {
    NAMES.iter().position(|known| *known == name.as_str()).expect("a shard")
}

fn shards_of(ring: &Ring) -> Vec<usize> {
    ring.shards().iter().map(|shard| index_of(&shard.name)).collect()
}

/// The sets of servers that a membership may have.
const SETS: [&[usize]; 3] = [&[0], &[1], &[0, 1]];

impl Membership {
    pub(crate) fn new(flaw: Flaw, rng: &mut Rng) -> Self {
        let ring = Ring::new(membership(1, SETS[rng.usize(..SETS.len())])).expect("a ring");
        // A flight begins just before its process learns of the change, takes a lease just before it gives up, fills
        // just before that ends, and what it stored lives from then on.
        let window = match flaw {
            Flaw::WindowWithoutLeases => LEARN_STEPS + TTL_STEPS.max(LEASE_STEPS),
            _ => LEARN_STEPS + FLIGHT_STEPS + LEASE_STEPS + TTL_STEPS,
        };
        let history = RingHistory::new(ring, window);
        let view = || View { ring: history.current().clone(), outdated: None };
        Self {
            views: vec![view(), view()],
            zombie: history.clone(),
            history,
            cut: [false; 2],
            ahead: None,
            epoch: 1,
            current_only: flaw == Flaw::CurrentOwnerOnly,
            readers_first: flaw == Flaw::ReadersFirst,
            unflushed: flaw == Flaw::RejoinedUnflushed,
        }
    }

    /// The owner of a key under the newest membership.
    pub(crate) fn owner(&self, key: &CacheKey) -> usize {
        index_of(&self.history.current().owner(key.as_bytes()).name)
    }

    pub(crate) fn is_cut(&self, server: usize) -> bool {
        self.cut.get(server).is_some_and(|cut| *cut)
    }

    /// The servers that an invalidator tells of a change of this key, the current owner first.
    pub(crate) fn addressees(&self, key: &CacheKey, now: u64, zombie: bool) -> Vec<usize> {
        let history = if zombie { &self.zombie } else { &self.history };
        let owners = history.owners(key.as_bytes(), now);
        if self.current_only { vec![index_of(owners.current())] } else { owners.iter().map(index_of).collect() }
    }
}

impl Schedule<'_> {
    /// The server that a process asks for this key.
    pub(crate) fn server_of(&self, process: usize, key: usize) -> usize {
        if self.world != World::Ring {
            return 0;
        }
        index_of(&self.membership.views[process].ring.owner(self.keys[key].key.as_bytes()).name)
    }

    pub(crate) async fn step_membership(&mut self) {
        let process = self.rng.usize(..self.processes.len());
        match self.rng.u8(..3) {
            0 if self.membership.ahead.is_some() => self.invalidator_learns().await,
            0 => self.change_membership().await,
            _ => self.learn(process),
        }
    }

    /// The invalidator takes up another membership, flushes what comes into the ring, and tells the readers then.
    pub(crate) async fn change_membership(&mut self) {
        self.invalidator_learns().await;
        self.membership.epoch += 1;
        let current = shards_of(self.membership.history.current());
        let others: Vec<&[usize]> = SETS.into_iter().filter(|set| *set != current).collect();
        let next = membership(self.membership.epoch, others[self.rng.usize(..others.len())]);
        self.membership.ahead = Some(next.clone());
        if self.membership.readers_first {
            let ring = Arc::new(Ring::new(next).expect("a ring"));
            let process = self.rng.usize(..self.processes.len());
            self.membership.views[process] = View { ring, outdated: None };
            return self.note(Step::RingLearnt { process });
        }
        self.invalidator_learns().await;
    }

    async fn invalidator_learns(&mut self) {
        let Some(next) = self.membership.ahead.take() else { return };
        let before = shards_of(self.membership.history.current());
        let change = self.membership.history.change(next, self.now).expect("a later epoch").expect("a change");
        if self.rng.bool() {
            self.membership.zombie = self.membership.history.clone();
        }
        self.membership.history = change.history;
        let now = self.now;
        for view in &mut self.membership.views {
            let current = view.ring.membership().epoch == self.membership.epoch;
            view.outdated = if current { None } else { view.outdated.or(Some(now)) };
        }
        let flushed: Vec<usize> = change.rejoining.iter().map(index_of).collect();
        for server in &flushed {
            self.membership.cut[*server] = false;
            if !self.membership.unflushed {
                self.empty(*server).await;
            }
        }
        let shards = shards_of(self.membership.history.current());
        let owners = (0..self.keys.len()).map(|key| self.membership.owner(&self.keys[key].key)).collect();
        let gone: Vec<usize> = before.into_iter().filter(|server| !shards.contains(server)).collect();
        let cut = !gone.is_empty() && self.rng.bool();
        self.note(Step::RingChanged { shards, owners, flushed, cut });
        if cut {
            self.cut_off(&gone);
        }
    }

    /// Servers that have left the ring cannot be reached any more, by anybody.
    fn cut_off(&mut self, servers: &[usize]) {
        for server in servers {
            self.membership.cut[*server] = true;
        }
        (0..self.processes.len()).for_each(|process| self.learn(process));
        for reader in &mut self.readers {
            let ask = match reader {
                Reader::Idle => continue,
                Reader::Missed(ask) | Reader::Waiting(ask, _) => &*ask,
                Reader::Granted(held) | Reader::Loaded(held, _) => &held.ask,
            };
            if servers.contains(&ask.server) {
                *reader = Reader::Idle;
            }
        }
        self.late.retain(|call| match call {
            LateCall::Fill(_, server, _) | LateCall::Lease(_, server, _) => !servers.contains(server),
        });
    }

    /// A process learns of the newest membership.
    fn learn(&mut self, process: usize) {
        let ring = self.membership.history.current().clone();
        let newest = ring.membership().epoch;
        let view = &mut self.membership.views[process];
        if view.ring.membership().epoch < newest {
            *view = View { ring, outdated: None };
            self.note(Step::RingLearnt { process });
        }
    }

    pub(crate) fn learn_in_time(&mut self) {
        for process in 0..self.processes.len() {
            let outdated = self.membership.views[process].outdated;
            if outdated.is_some_and(|since| since + LEARN_STEPS <= self.now) {
                self.learn(process);
            }
        }
    }

    pub(crate) async fn learn_all(&mut self) {
        self.invalidator_learns().await;
        (0..self.processes.len()).for_each(|process| self.learn(process));
    }
}
