//! One schedule: a seed chooses what happens, one step at a time, on keys of its own.

use std::sync::Arc;

use fastrand::Rng;
use ringtide_core::key::{CacheKey, KeySpace};
use ringtide_core::valkey::{FillReply, Token};

use super::cache::Cache;
use super::cell::Cell;
use super::content::Content;
use super::database::Item;
use super::failover::Replica;
use super::feed::Feed;
use super::flaw::Flaw;
use super::membership::Membership;
use super::outcome::{Count, Outcome, Step, Violation};
use super::process::Process;
use super::reader::{LateCall, Reader};
use super::world::World;

/// The most that a load lags, in steps.
pub(crate) const LAG: u64 = 20;

/// What to draw schedules from, and what is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) cells: &'static [Cell],
    pub(crate) worlds: &'static [World],
    pub(crate) flaw: Flaw,
    /// A part of the names of the rows to run; the others' seeds are passed over.
    pub(crate) only: Option<&'static str>,
}

impl Plan {
    /// What the schedule of a seed is about; the source of what is drawn next comes first.
    pub(crate) fn draw(&self, seed: u64) -> (Rng, Cell, World) {
        // Neighbouring seeds are to have nothing in common.
        let mut rng = Rng::with_seed(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32));
        let cell = self.cells[rng.usize(..self.cells.len())];
        let world = self.worlds[rng.usize(..self.worlds.len())];
        (rng, cell, if world.has(cell) { world } else { World::Steady })
    }

    /// Whether the schedule of a seed is one of those that are asked for.
    pub(crate) fn wants(&self, seed: u64) -> bool {
        let (_, cell, world) = self.draw(seed);
        self.only.is_none_or(|only| format!("{}{}", cell.name(), world.name()).contains(only))
    }
}

/// The state of a schedule that is under way.
pub(crate) struct Schedule<'a> {
    pub(crate) servers: &'a [Cache],
    pub(crate) cell: Cell,
    pub(crate) world: World,
    pub(crate) flaw: Flaw,
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    pub(crate) items: Vec<Item>,
    pub(crate) keys: Vec<Key>,
    pub(crate) readers: Vec<Reader>,
    pub(crate) processes: Vec<Process>,
    pub(crate) late: Vec<LateCall>,
    pub(crate) feeds: Vec<Feed>,
    pub(crate) space: Arc<KeySpace>,
    pub(crate) membership: Membership,
    pub(crate) replica: Replica,
    pub(crate) outcome: Outcome,
}

/// A cached key of the schedule.
pub(crate) struct Key {
    pub(crate) key: CacheKey,
    /// The items that feed it.
    pub(crate) items: Vec<usize>,
    /// What is known of it on each server.
    pub(crate) places: Vec<Place>,
    /// For each item, the lowest commit that all hits so far leave possible.
    pub(crate) seen: Vec<usize>,
}

/// What is known of a key on one server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// When it was last written to.
    pub(crate) touched: u64,
    /// The lease that cannot have ended yet.
    pub(crate) live: Option<Token>,
    /// Whether waiters may be noted down in its lock.
    pub(crate) registered: bool,
    /// When its entry was stored, and when its lease was taken, at the earliest.
    pub(crate) stored: Option<u64>,
    pub(crate) locked: Option<u64>,
    /// The most milliseconds for which its marked value may still be kept.
    pub(crate) kept: Option<i64>,
}

impl Place {
    /// Nothing is there any more.
    pub(crate) fn clear(&mut self) {
        let touched = self.touched;
        *self = Place { touched, ..Place::default() };
    }
}

/// What has to be served at some moment: for each item the last commit whose record was delivered, and the last up to
/// which a replay has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) delivered: Vec<usize>,
    pub(crate) replayed: Vec<usize>,
}

impl Bounds {
    /// Asks for no more than `other` does.
    pub(crate) fn relax(&mut self, other: &Bounds) {
        let lower = |mine: &mut Vec<usize>, other: &[usize]| {
            mine.iter_mut().zip(other).for_each(|(mine, other)| *mine = (*mine).min(*other));
        };
        lower(&mut self.delivered, &other.delivered);
        lower(&mut self.replayed, &other.replayed);
    }
}

/// Runs the schedule of a seed to its end.
pub(crate) async fn run(servers: &[Cache], plan: Plan, seed: u64) -> Outcome {
    let mut schedule = Schedule::new(servers, plan, seed);
    for _ in 0..schedule.rng.u32(25..60) {
        schedule.step().await;
    }
    schedule.deliver_all().await;
    schedule.finish_fills().await;
    schedule.judge().await
}

impl<'a> Schedule<'a> {
    fn new(servers: &'a [Cache], plan: Plan, seed: u64) -> Self {
        let (mut rng, cell, world) = plan.draw(seed);
        let space = cell.space(plan.flaw != Flaw::NoTombstones, &mut rng);
        let feeds = cell.feeds(plan.flaw == Flaw::VersionsAcrossItems, &mut rng);
        let items: Vec<Item> = feeds.iter().flatten().map(|_| Item::new(&mut rng)).collect();
        // Two schedules of one seed may run at the same time.
        let nonce = u128::from_be_bytes(*Token::random().as_bytes());
        let name = |index| match world {
            // What is hashed for the ring is to come of the seed alone.
            World::Ring => format!("fuzz:{{{seed:x}:{index}}}:{nonce:x}"),
            World::Steady | World::Tracked | World::FailOver => format!("fuzz:{seed:x}:{nonce:x}:{index}"),
        };
        let keys: Vec<Key> = feeds
            .into_iter()
            .enumerate()
            .map(|(index, items)| Key {
                key: CacheKey::new(name(index)).expect("a key"),
                places: vec![Place::default(); servers.len()],
                seen: vec![0; items.len()],
                items,
            })
            .collect();
        let (unreadable, populate) = (rng.u64(..) & rng.u64(..) & rng.u64(..), rng.bool());
        let processes = (0..2).map(|_| Process::new(keys.len(), plan.flaw)).collect();
        Self {
            servers,
            cell,
            world,
            flaw: plan.flaw,
            now: LAG,
            keys,
            readers: (0..rng.usize(2..=5)).map(|_| Reader::Idle).collect(),
            processes,
            late: Vec::new(),
            feeds: items.iter().map(|_| Feed::new(unreadable, populate)).collect(),
            items,
            space,
            membership: Membership::new(plan.flaw, &mut rng),
            replica: Replica::default(),
            outcome: Outcome::new(seed, cell, world),
            rng,
        }
    }

    pub(crate) fn note(&mut self, step: Step) {
        match &step {
            Step::Filled { reply, .. } | Step::LateFill { reply, .. } => match reply {
                FillReply::Stored => self.outcome.count(Count::Stored),
                FillReply::Void => self.outcome.count(Count::Void),
                FillReply::Below { .. } => self.outcome.count(Count::Below),
                FillReply::Older => {}
            },
            Step::Served { .. } => self.outcome.count(Count::Hits),
            Step::ServedLocally { .. } => self.outcome.count(Count::Local),
            Step::ServedStale { .. } => self.outcome.count(Count::Stale),
            Step::ServedByNotice { .. } => self.outcome.count(Count::Woken),
            Step::Promoted | Step::RingChanged { .. } => self.outcome.count(Count::Events),
            _ => {}
        }
        self.outcome.log.push((self.now, step));
    }

    pub(crate) fn violated(&mut self, violation: Violation) {
        self.outcome.violations.push(violation);
        self.note(Step::Violation(violation));
    }

    /// One step of somebody who can take one.
    async fn step(&mut self) {
        self.now += 1;
        self.let_time_pass().await;
        if self.world != World::Steady && self.rng.u8(..7) == 0 {
            return self.step_world().await;
        }
        let loses = self.cell.loses_keys();
        match self.rng.u32(..100) {
            // A local tier lives on being asked often.
            50.. if self.world == World::Tracked && self.rng.bool() => self.read().await,
            ..50 => self.read().await,
            50..62 => self.commit(),
            62..80 => self.deliver().await,
            80..85 => self.deliver_again().await,
            85..88 => self.deliver_as_zombie().await,
            88..90 => self.replay(),
            90..93 => self.expire_lock().await,
            93..94 => self.age().await,
            94..96 => self.expire_entry().await,
            96..98 => self.late_call().await,
            98 if loses => self.evict().await,
            99 if loses && self.rng.u8(..2) == 0 => self.restart().await,
            _ => self.evict_or_read(loses).await,
        }
    }

    /// Something that happens in these surroundings only.
    async fn step_world(&mut self) {
        match self.world {
            World::Steady => {}
            World::Tracked => match self.rng.u8(..10) {
                0 if self.cell.loses_keys() => self.empty_server().await,
                0 | 1 => {
                    let process = self.rng.usize(..self.processes.len());
                    self.lose_connection(process);
                }
                _ => {
                    let process = self.rng.usize(..self.processes.len());
                    self.step_process(process);
                }
            },
            World::FailOver => self.step_replica().await,
            World::Ring => self.step_membership().await,
        }
    }

    async fn evict_or_read(&mut self, loses: bool) {
        if loses { self.evict().await } else { self.read().await }
    }

    pub(crate) async fn read(&mut self) {
        let reader = self.rng.usize(..self.readers.len());
        if self.rng.u8(..3) == 0 || self.world == World::Tracked {
            self.step_process(Self::process_of(reader));
        }
        self.step_reader(reader).await;
    }

    fn commit(&mut self) {
        let item = self.rng.usize(..self.items.len());
        let Some(written) = self.items.get_mut(item) else { return };
        written.commit(self.now, &mut self.rng);
        let commit = written.latest();
        let present = written.is_present(commit);
        self.note(Step::Commit { item, commit, present });
    }

    /// What has to be served now.
    pub(crate) fn bounds(&self) -> Bounds {
        let settles = self.cell == Cell::Settle;
        let delivered = |feed: &Feed| if settles { feed.settled } else { feed.delivered };
        let replayed = |feed: &Feed| if settles { feed.settled } else { feed.delivered.min(feed.next - 1) };
        Bounds {
            delivered: self.feeds.iter().map(delivered).collect(),
            replayed: self.feeds.iter().map(replayed).collect(),
        }
    }

    /// Which violation it is to serve this content where `bounds` were to be met, if any; `violation` outside of replays.
    fn compare(&self, key: usize, content: &Content, bounds: &Bounds, violation: Violation) -> Option<Violation> {
        let items = &self.keys[key].items;
        let fed: Vec<&Item> = items.iter().map(|item| &self.items[*item]).collect();
        let of = |bounds: &[usize]| items.iter().map(|item| bounds[*item]).collect::<Vec<_>>();
        let meets = |bounds: &[usize]| content.is_as_new_as(&fed, &of(bounds));
        match (meets(&bounds.delivered), meets(&bounds.replayed)) {
            (true, _) => None,
            (false, true) => Some(Violation::StaleDuringReplay),
            (false, false) => Some(violation),
        }
    }

    /// Checks a hit, which is to be as new as what has been delivered.
    pub(crate) fn hit(&mut self, reader: usize, key: usize, content: Content) {
        let violation = self.compare(key, &content, &self.bounds(), Violation::StaleHit);
        let fed: Vec<&Item> = self.keys[key].items.iter().map(|item| &self.items[*item]).collect();
        let went_back = !content.is_as_new_as(&fed, &self.keys[key].seen);
        if let Content::Commits(commits) = &content {
            self.keys[key].seen.clone_from(commits);
        }
        self.note(Step::Served { reader, key, content });
        if let Some(violation) = violation {
            self.violated(violation);
        }
        if went_back {
            self.violated(Violation::WentBack);
        }
    }

    /// Checks the answer of a process's own memory.
    pub(crate) fn local_hit(&mut self, reader: usize, key: usize, content: Content, bounds: &Bounds) {
        let violation = self.compare(key, &content, bounds, Violation::StaleLocally);
        self.note(Step::ServedLocally { reader, key, content });
        if let Some(violation) = violation {
            self.violated(violation);
        }
    }

    /// Checks what a waiter is handed, which is to be as new as what had been delivered when it began.
    pub(crate) fn handed(&mut self, reader: usize, key: usize, content: Content, began: &Bounds, sent: &Bounds) {
        // Where a replay had come to when the notice was sent counts, however long that is on its way.
        let mut bounds = began.clone();
        bounds.relax(sent);
        bounds.delivered.clone_from(&began.delivered);
        let violation = self.compare(key, &content, &bounds, Violation::StaleNotice);
        self.note(Step::ServedByNotice { reader, key, content });
        if let Some(violation) = violation {
            self.violated(violation);
        }
    }

    /// Counts the entries that are stale for good, and leaves nothing behind.
    async fn judge(mut self) -> Outcome {
        if self.world == World::Ring {
            self.judge_memberships().await;
        } else {
            self.judge_server(0).await;
        }
        if self.world == World::Tracked {
            self.hear(0).await;
            self.judge_local();
        }
        self.leave_nothing().await;
        // What has been pushed for these keys is not to pile up.
        for server in self.servers {
            for key in &self.keys {
                server.wire.take(&key.key);
            }
        }
        self.outcome.counts[Count::Schedules as usize] = 1;
        self.outcome.counts[Count::Steps as usize] = self.outcome.log.len() as u64;
        self.outcome
    }

    /// Checks the entries that a server would serve.
    async fn judge_server(&mut self, server: usize) {
        let names: Vec<CacheKey> = self.keys.iter().map(|key| key.key.clone()).collect();
        let entries = self.servers[server].get_many(&names).await;
        for (key, entry) in entries.into_iter().enumerate() {
            if self.world == World::Ring && self.membership.owner(&self.keys[key].key) != server {
                continue;
            }
            let content = entry.as_ref().and_then(Content::served);
            let fed: Vec<&Item> = self.keys[key].items.iter().map(|item| &self.items[*item]).collect();
            let latest: Vec<usize> = fed.iter().map(|item| item.latest()).collect();
            let stale = content.as_ref().is_some_and(|content| !content.is_as_new_as(&fed, &latest));
            self.note(Step::AtTheEnd { key, content });
            if stale {
                self.violated(Violation::StaleAtTheEnd);
            }
            if entry.is_some_and(|entry| Content::is_marked(&entry)) {
                self.check_kept(server, key).await;
            }
        }
    }

    /// Goes through the memberships that may come next: none may bring an old value back.
    async fn judge_memberships(&mut self) {
        for turn in 0..3 {
            if turn > 0 {
                self.change_membership().await;
            }
            self.learn_all().await;
            for server in 0..self.servers.len() {
                if self.keys.iter().any(|key| self.membership.owner(&key.key) == server) {
                    self.judge_server(server).await;
                }
            }
        }
    }

    /// The process that a reader belongs to.
    pub(crate) fn process_of(reader: usize) -> usize {
        reader % 2
    }
}
