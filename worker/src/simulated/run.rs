//! One seed: trouble, peace, and the end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::flaw::Flaw;
use super::fleet::Fleet;
use super::leases::now;
use super::line::Line;
use super::plan::{Event, Plan};
use super::world::World;
use crate::lease::{Checkpoint, LeaseStore, OwnerId};
use crate::lineage::PATIENCE;

/// Once the last fault is over, everything is delivered, leased and healthy within this time.
const SETTLES_WITHIN: Duration = Duration::from_secs(90);

/// What came of a seed.
pub(super) struct Outcome {
    pub(super) seed: u64,
    pub(super) violation: Option<String>,
    pub(super) seen: BTreeMap<&'static str, u64>,
    /// The same for every run of a seed.
    pub(super) fingerprint: u64,
    /// How long it took until all was well.
    pub(super) settled: Duration,
    pub(super) log: Vec<String>,
}

struct Run {
    world: Arc<Mutex<World>>,
    fleet: Fleet,
    /// What was put off: workers to start, streams to switch on.
    later: Vec<(Instant, Later)>,
}

#[derive(Clone, Copy)]
enum Later {
    Start(usize),
    Crash(usize),
    EnableStream(Duration),
    /// Trims everything, and starts everybody.
    EndOutage,
    /// A disturbance is over, which nobody has cut short.
    Calm,
}

/// Runs a seed from beginning to end on a runtime of its own.
pub(super) fn run(seed: u64, flaw: Flaw, with_log: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    fastrand::seed(seed);
    runtime.block_on(simulate(seed, flaw, with_log))
}

async fn simulate(seed: u64, flaw: Flaw, with_log: bool) -> Outcome {
    let plan = Plan::of(seed);
    let mut world = World::new(plan.rules, plan.ring, plan.flaky, seed);
    world.ledger.log = with_log.then(Vec::new);
    world.cloud.enable_stream(plan.roots, Duration::ZERO);
    let world = Arc::new(Mutex::new(world));
    let fleet = Fleet::new(Arc::clone(&world), &plan.lease_timeouts, seed, flaw);
    let mut run = Run { world, fleet, later: Vec::new() };
    for worker in 0..plan.workers {
        run.fleet.start(worker);
    }
    run.until_all_is_read().await;
    let began = Instant::now();
    for (at, event) in &plan.events {
        run.until(began + *at).await;
        if run.violation().is_some() {
            break;
        }
        run.happen(*event);
    }
    while let Some(at) = run.later.iter().map(|(at, _)| *at).min() {
        run.until(at).await;
    }
    run.world.lock().unwrap().heal();
    run.fleet.heal();
    let peace = Instant::now();
    let settled = run.settle().await;
    let violation = match run.violation() {
        Some(violation) => Some(violation),
        None => run.end(settled).await,
    };
    let mut world = run.world.lock().unwrap();
    Outcome {
        seed,
        violation,
        seen: std::mem::take(&mut world.ledger.seen),
        fingerprint: world.ledger.fingerprint(),
        settled: peace.elapsed(),
        log: world.ledger.log.take().unwrap_or_default(),
    }
}

impl Run {
    fn violation(&self) -> Option<String> {
        let mut world = self.world.lock().unwrap();
        let misuse = world.cloud.misuse.take();
        if let Some(misuse) = misuse {
            world.ledger.breaks(misuse);
        }
        world.ledger.violation.clone()
    }

    /// Waits for the first read of everything: what was lost before a stream's very first start nobody misses.
    async fn until_all_is_read(&self) {
        let read = || {
            let world = self.world.lock().unwrap();
            world.cloud.streams[0].shards.values().all(|shard| shard.first_read.is_some())
        };
        while !read() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Lets time pass, with what was put off until then.
    async fn until(&mut self, at: Instant) {
        while let Some(next) = self.later.iter().map(|(at, _)| *at).min().filter(|next| *next <= at) {
            tokio::time::sleep_until(next).await;
            let index = self.later.iter().position(|(at, _)| *at == next).unwrap();
            match self.later.remove(index).1 {
                Later::Start(worker) => self.fleet.start(worker),
                Later::Crash(worker) => self.fleet.crash(worker, false),
                Later::EnableStream(enabling) => self.world.lock().unwrap().cloud.enable_stream(1, enabling),
                Later::Calm => {}
                Later::EndOutage => {
                    self.world.lock().unwrap().cloud.trim(Instant::now(), true);
                    (0..self.fleet.size()).for_each(|worker| self.fleet.start(worker));
                }
            }
        }
        tokio::time::sleep_until(at).await;
    }

    fn after(&mut self, time: Duration, later: Later) {
        self.later.push((Instant::now() + time, later));
    }

    fn happen(&mut self, event: Event) {
        let now = Instant::now();
        let mut guard = self.world.lock().unwrap();
        let world = &mut *guard;
        world.ledger.note(name(&event), || format!("{event:?}"));
        let open = world.cloud.open_shards();
        let ring = world.ring.len();
        match event {
            Event::Write { shard, count } => match open.get(shard % open.len().max(1)) {
                Some(shard) => (0..count).for_each(|_| world.cloud.write(shard)),
                None => world.ledger.lost_a_write(),
            },
            Event::Split { shard, children, visible, filter_lag } => {
                if let Some(shard) = open.get(shard % open.len().max(1)) {
                    world.cloud.split(shard, children, visible, filter_lag);
                }
            }
            Event::Hide { shard, time } => {
                // Whether one that is not listed for so long still has all of its records cannot be told.
                if world.cloud.hide(shard, now + time) >= PATIENCE {
                    world.ledger.gap_possible();
                }
            }
            Event::Trim { age, forget } => {
                world.ledger.gap_possible();
                if let Some(before) = now.checked_sub(age) {
                    world.cloud.trim(before, forget);
                }
            }
            Event::ExpireIterators => world.cloud.expire_iterators(),
            Event::NewStream { off, enabling } => {
                if world.cloud.open_shards().is_empty() {
                    return;
                }
                world.cloud.disable_stream();
                world.ledger.lost_a_write();
                drop(guard);
                self.after(off, Later::EnableStream(enabling));
            }
            Event::Outage { down, writes } => {
                world.ledger.gap_possible();
                for _ in 0..writes {
                    let open = world.cloud.open_shards();
                    let Some(shard) = open.first() else { break };
                    world.cloud.write(shard);
                    if writes.is_multiple_of(2) {
                        world.cloud.split(shard, 1, Duration::ZERO, Duration::ZERO);
                    }
                }
                drop(guard);
                (0..self.fleet.size()).for_each(|worker| self.fleet.crash(worker, false));
                self.after(down, Later::EndOutage);
            }
            Event::RingShardDown { shard, time } => world.ring[shard % ring].down_until = now + time,
            Event::RingShardSlow { shard, delay } => world.ring[shard % ring].delay = delay,
            Event::Steal { lease } => {
                let leases = now_list(&self.fleet);
                if let Some(lease) = leases.get(lease % leases.len().max(1)) {
                    let _held = now_take(&self.fleet, lease);
                    world.taken(0, &lease.key);
                }
            }
            Event::Disturb { service, time } => {
                world.disturb(service, time);
                drop(guard);
                self.after(time, Later::Calm);
            }
            Event::Crash { worker, down, renamed } => {
                drop(guard);
                let worker = worker % self.fleet.size();
                self.fleet.crash(worker, renamed);
                self.after(down, Later::Start(worker));
            }
            Event::Abandon { worker, down } => {
                drop(guard);
                let worker = worker % self.fleet.size();
                if let Some(line) = self.fleet.line(worker) {
                    line.abandon();
                    self.after(down / 2, Later::Crash(worker));
                    self.after(down, Later::Start(worker));
                }
            }
            Event::Stop { worker, down } => {
                drop(guard);
                let worker = worker % self.fleet.size();
                self.fleet.stop(worker);
                self.after(down, Later::Start(worker));
            }
            Event::Hang { worker, time } => {
                drop(guard);
                if let Some(line) = self.fleet.line(worker % self.fleet.size()) {
                    line.hang(time);
                }
            }
            Event::Cut { worker, time } => {
                drop(guard);
                if let Some(line) = self.fleet.line(worker % self.fleet.size()) {
                    line.cut(time);
                }
            }
        }
    }

    /// Waits until all is well, and returns what is not. A worker whose calls still hang is a fault that is not over.
    async fn settle(&mut self) -> Option<String> {
        let lines = (0..self.fleet.size()).filter_map(|worker| self.fleet.line(worker));
        if let Some(until) = lines.map(Line::asleep_until).max() {
            tokio::time::sleep_until(until).await;
        }
        let deadline = Instant::now() + SETTLES_WITHIN;
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            if self.violation().is_some() {
                return None;
            }
            let leases = now_list(&self.fleet);
            let owners = self.fleet.owners();
            let unsettled = self.world.lock().unwrap().unsettled(&leases, &owners);
            let unsettled = unsettled.or_else(|| self.fleet.complaints().into_iter().next());
            if unsettled.is_none() || Instant::now() >= deadline {
                return unsettled;
            }
        }
    }

    async fn end(&mut self, unsettled: Option<String>) -> Option<String> {
        if let Some(unsettled) = unsettled {
            return Some(format!("{} s after the last fault: {unsettled}", SETTLES_WITHIN.as_secs()));
        }
        if let Err(error) = self.fleet.end().await {
            return Some(error);
        }
        // Whose name stands on a lease that has ended does not matter to anybody.
        let open = |lease: &crate::lease::Lease| lease.owner.is_some() && lease.checkpoint != Checkpoint::ShardEnd;
        let held = now_list(&self.fleet).into_iter().find(open);
        let held = held.map(|lease| {
            let (owner, leaving) = (lease.owner.as_ref(), lease.leaving.as_ref().map(OwnerId::as_str));
            let owner = owner.map(OwnerId::as_str);
            format!(
                "{} is still held after everybody has stopped: owner {owner:?}, leaving {leaving:?}, counter {}",
                lease.key, lease.counter
            )
        });
        held.or_else(|| self.violation())
    }
}

fn now_list(fleet: &Fleet) -> Vec<crate::lease::Lease> {
    now(fleet.leases.list()).unwrap()
}

fn now_take(fleet: &Fleet, lease: &crate::lease::Lease) -> Option<crate::lease::HeldLease> {
    now(fleet.leases.take(lease, &OwnerId::named("thief"))).ok()
}

fn name(event: &Event) -> &'static str {
    match event {
        Event::Write { .. } => "write",
        Event::Split { .. } => "split",
        Event::Hide { .. } => "hide",
        Event::Trim { .. } => "trim",
        Event::ExpireIterators => "expire iterators",
        Event::NewStream { .. } => "new stream",
        Event::Crash { .. } => "crash",
        Event::Abandon { .. } => "abandon",
        Event::Stop { .. } => "stop",
        Event::Hang { .. } => "hang",
        Event::Cut { .. } => "cut",
        Event::Outage { .. } => "outage",
        Event::RingShardDown { .. } => "ring shard down",
        Event::RingShardSlow { .. } => "ring shard slow",
        Event::Steal { .. } => "steal",
        Event::Disturb { .. } => "disturb",
    }
}
