//! What a stream shard costs, with ten of them and with thousands: work per record, memory while it is idle, and a roll-over
//! of all of them at once.
//!
//! Thousands of stream shards do not fit into a cache, whoever reads them. So the work of a record is compared with that of as many
//! stream shards that a hundred workers read, and the simulated cloud's part is left out of it.
//!
//! A page costs much the same however many records it has. Where each has one, as where little is written, the work of a
//! record is that of a page; in pages of many, as under load, it is what the worker does for the record itself.
//!
//! Memory is measured once with a worker and once with the calls alone that it made, which is the simulated cloud's share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::cloud::{FilterRule, Rules};
use super::flaw::Flaw;
use super::fleet::Fleet;
use super::leases::Leases;
use super::line::Line;
use super::source::Source;
use super::world::World;
use crate::lease::{Lease, LeaseStore, OwnerId};
use crate::stream::{Position, ShardIterator, StreamSource};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
/// Records of a page under load: a stream shard takes in a thousand a second, and is read twenty times.
const MANY: usize = 50;
/// Pages that are measured, at least.
const PAGES: usize = 5_000;
/// Pages of each stream shard, at least: one a second.
const WRITES: usize = 5;
const LEASE_TIME: Duration = Duration::from_secs(8);

/// What a stream shard or a record costs.
struct Costs {
    /// A record that is alone in its page.
    record: Work,
    /// One in a page of many.
    among_many: Work,
    /// Memory in KB, the simulated cloud's included, after so many polls.
    kilobytes: f64,
    polls: u64,
    /// In µs, from the moment at which all stream shards are split until their children are read.
    roll_over: f64,
    /// The same in simulated time.
    rolled_over: Duration,
}

/// Work of a record, in µs.
struct Work {
    /// With the polls that fall to it.
    all: f64,
    /// The worker's part of that, without what the simulated cloud did in the calls.
    own: f64,
}

fn world(shards: usize) -> Arc<Mutex<World>> {
    let rules = Rules {
        listing_page: 100,
        read_page: 1000,
        iterator_life: Duration::from_secs(900),
        filter: FilterRule::Supported,
        long_numbers: true,
        empty_pages: 0,
        duplicates: 0,
    };
    let mut world = World::new(rules, 3, 0, 1);
    world.cloud.enable_stream(shards, Duration::ZERO);
    Arc::new(Mutex::new(world))
}

fn new_runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u32>().ok()).unwrap_or_default();
    f64::from(pages) * 4096.0
}

/// What this thread has worked so far, in µs: other work of the machine does not count.
fn worked() -> f64 {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    schedstat.split_whitespace().next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap() / 1e3
}

/// How often something has happened.
fn seen(world: &Mutex<World>) -> BTreeMap<&'static str, u64> {
    world.lock().unwrap().ledger.seen.clone()
}

async fn until_all_are_read(world: &Mutex<World>) {
    let all = || world.lock().unwrap().cloud.streams[0].shards.values().all(|shard| shard.first_read.is_some());
    while !all() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Lets each stream shard take in one page of so many records a second.
async fn work(worlds: &[Arc<Mutex<World>>], page: usize) -> Work {
    let before: Vec<_> = worlds.iter().map(|world| seen(world)).collect();
    let open: Vec<_> = worlds.iter().map(|world| world.lock().unwrap().cloud.open_shards()).collect();
    let all = open.iter().map(Vec::len).sum::<usize>();
    let writes = WRITES.max(PAGES / all);
    let spent = || worlds.iter().map(|world| world.lock().unwrap().spent.as_secs_f64() * 1e6).sum::<f64>();
    let (began, elsewhere) = (worked(), spent());
    for _ in 0..writes {
        for (world, open) in worlds.iter().zip(&open) {
            for shard in open {
                World::with(world, |world| (0..page).for_each(|_| world.cloud.write(shard)));
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let (all_of_it, clouds) = (worked() - began, spent() - elsewhere);
    for ((world, before), open) in worlds.iter().zip(&before).zip(&open) {
        let delivered = seen(world)["delivered"] - before.get("delivered").copied().unwrap_or_default();
        let times = delivered as f64 / (open.len() * writes) as f64;
        assert!(times >= 0.9, "{times} deliveries of a page");
    }
    let records = (all * writes * page) as f64;
    Work { all: all_of_it / records, own: (all_of_it - clouds) / records }
}

/// Workers read so many stream shards each, which are idle, take in records, and then all roll over.
///
/// They know nothing of each other: every one has a cloud of its own, and all share the thread, its timers and its cache.
async fn measure(workers: usize, shards: usize) -> Costs {
    let worlds: Vec<_> = (0..workers).map(|_| world(shards)).collect();
    let before = resident();
    let mut fleets: Vec<_> =
        worlds.iter().map(|world| Fleet::new(Arc::clone(world), &[LEASE_TIME], 1, Flaw::None)).collect();
    fleets.iter_mut().for_each(|fleet| fleet.start(0));
    for world in &worlds {
        until_all_are_read(world).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let all = workers * shards;
    let kilobytes = (resident() - before) / 1024.0 / all as f64;
    let polls = seen(&worlds[0])["empty page"] / shards as u64;
    let record = work(&worlds, 1).await;
    let (began, split) = (worked(), Instant::now());
    for world in &worlds {
        let open = world.lock().unwrap().cloud.open_shards();
        for shard in &open {
            world.lock().unwrap().cloud.split(shard, 1, Duration::ZERO, Duration::ZERO);
        }
    }
    for world in &worlds {
        until_all_are_read(world).await;
    }
    let (roll_over, rolled_over) = ((worked() - began) / all as f64, split.elapsed());
    let among_many = work(&worlds, MANY).await;
    for world in &worlds {
        assert_eq!(world.lock().unwrap().ledger.violation, None);
    }
    Costs { record, among_many, kilobytes, polls, roll_over, rolled_over }
}

/// A client that does nothing but calls, one after the other.
struct Alone {
    world: Arc<Mutex<World>>,
    source: Source,
    leases: Leases,
    iterators: Vec<ShardIterator>,
    before: f64,
}

impl Alone {
    fn new(shards: usize) -> Self {
        let world = world(shards);
        let line = Line::new(Arc::clone(&world), 1, 1, Flaw::None, LEASE_TIME);
        let (source, leases) = (Source(line.clone()), Leases::new(line, Arc::default()));
        let before = resident();
        Self { world, source, leases, iterators: Vec::new(), before }
    }

    /// Takes and opens every stream shard and reads it so often; tells the memory of each, in KB.
    async fn idle(&mut self, polls: u64) -> f64 {
        let (name, stream, open) = {
            let world = self.world.lock().unwrap();
            let state = &world.cloud.streams[0];
            (state.name.clone(), Arc::clone(&state.stream), world.cloud.open_shards())
        };
        for shard in &open {
            let lease = Lease::new(name.lease(shard));
            self.leases.create(&lease).await.unwrap();
            self.leases.take(&lease, &OwnerId::named("alone")).await.unwrap();
            self.iterators.push(self.source.iterator(&stream, shard, Position::TrimHorizon).await.unwrap());
        }
        for _ in 0..polls {
            for iterator in &mut self.iterators {
                *iterator = self.source.read(iterator).await.unwrap().next.unwrap();
            }
        }
        (resident() - self.before) / 1024.0 / open.len() as f64
    }
}

#[test]
#[ignore = "a measurement: make simulate-scale"]
fn what_a_stream_shard_costs() {
    // Kept to the end, so that none is given the memory of another.
    let mut kept = Vec::new();
    let mut all = Vec::new();
    println!(
        "stream shards   µs a record   (worker)   (of {MANY} a page)   KB idle (cloud)   µs a roll-over   all rolled over after"
    );
    for shards in SIZES {
        let runtime = new_runtime();
        let costs = runtime.block_on(measure(1, shards));
        let apart = new_runtime();
        let mut alone = apart.block_on(async { Alone::new(shards) });
        let cloud = apart.block_on(alone.idle(costs.polls));
        let Costs { record, among_many, kilobytes, roll_over, rolled_over, .. } = &costs;
        println!(
            "{shards:>13} {:>13.1} ({:>6.1})   ({:>13.2})   {kilobytes:>9.1} ({cloud:>5.1}) {roll_over:>16.1} {:>20.1} s",
            record.all,
            record.own,
            among_many.own,
            rolled_over.as_secs_f64()
        );
        kept.push((runtime, alone));
        all.push((costs, cloud));
    }
    // As many stream shards in the same memory, a hundred a worker: what they take more than a hundred alone is the cache's.
    let apart = new_runtime();
    let side_by_side = apart.block_on(measure(100, 100));
    println!(
        "{:>13} {:>13.1} ({:>6.1})   ({:>13.2})   {:>34.1}",
        "100 × 100",
        side_by_side.record.all,
        side_by_side.record.own,
        side_by_side.among_many.own,
        side_by_side.roll_over
    );
    let ((fewest, _), (few, _), (many, cloud)) = (&all[0], &all[1], &all[3]);
    println!("10,000 stream shards in one worker");
    for (what, times, goal) in [
        (
            "the worker's part of a record, against 100 workers with 100 each",
            many.record.own / side_by_side.record.own,
            1.25,
        ),
        (
            "the worker's part of a record among many, against 10 stream shards",
            many.among_many.own / fewest.among_many.own,
            1.5,
        ),
        (
            "work of a record that is alone in its page, against 100 stream shards",
            many.record.all / few.record.all,
            1.5,
        ),
        ("work of a roll-over, against 100 stream shards", many.roll_over / few.roll_over, 1.5),
    ] {
        let verdict = if times <= goal { "met" } else { "missed" };
        println!("  {what:<72} {times:.2} times   goal {goal}: {verdict}");
    }
    let own = many.kilobytes - cloud;
    assert!(own <= 20.0, "{own:.1} KB for each idle stream shard");
}
