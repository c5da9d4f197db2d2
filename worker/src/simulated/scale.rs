//! What a stream shard costs, with ten of them and with thousands: work per record, memory while it is idle, and a roll-over
//! of all of them at once.
//!
//! What counts is the worker's part: what the simulated cloud does in the calls is left out. Thousands of stream shards do
//! not fit into a cache, whoever reads them; how much of what they cost more is the cache's is told by as many stream shards
//! that a hundred workers read, and by tasks that do nothing but read one each.
//!
//! A page costs much the same however many records it has. Where each has one, as where little is written, the work of a
//! record is that of a page; in pages of many, as under load, it is what the worker does for the record itself.
//!
//! Memory is measured once with a worker and once with the calls alone that it made, which is the simulated cloud's share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringtide_core::config::Worker;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cloud::{FilterRule, Rules};
use super::flaw::Flaw;
use super::fleet::{self, Fleet};
use super::leases::Leases;
use super::line::Line;
use super::source::Source;
use super::world::World;
use crate::lease::{Lease, LeaseStore, OwnerId};
use crate::pace::{Pace, ReadOutcome};
use crate::stream::{Position, ShardIterator, StreamSource};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
/// Records of a page under load: a stream shard takes in a thousand a second, and is read twenty times.
const MANY: usize = 50;
/// Pages that are measured, at least.
const PAGES: usize = 20_000;
/// Pages of each stream shard, at least: one a second.
const WRITES: usize = 5;
const LEASE_TIME: Duration = Duration::from_secs(8);

/// The program's own, which decides where in memory a stream shard lies.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a stream shard or a record costs.
struct Costs {
    /// A record that is alone in its page.
    record: Work,
    /// One in a page of many.
    among_many: Work,
    /// Memory in KB, the simulated cloud's included, after so many polls.
    kilobytes: f64,
    polls: u64,
    /// From the moment at which all stream shards are split until their children are read.
    roll_over: Work,
    /// The same in simulated time, for all of them together.
    rolled_over: Duration,
}

/// Work of a record or a roll-over, with the polls that fall to it, in µs.
struct Work {
    all: f64,
    /// The worker's part, without what the simulated cloud did in the calls.
    own: f64,
}

/// Counts work from its start.
struct Meter<'a> {
    worlds: &'a [Arc<Mutex<World>>],
    began: f64,
    elsewhere: f64,
}

impl<'a> Meter<'a> {
    fn start(worlds: &'a [Arc<Mutex<World>>]) -> Self {
        Self { worlds, began: worked(), elsewhere: spent(worlds) }
    }

    /// What each of `times` things took.
    fn each(self, times: usize) -> Work {
        let (all, clouds) = (worked() - self.began, spent(self.worlds) - self.elsewhere);
        Work { all: all / times as f64, own: (all - clouds) / times as f64 }
    }
}

/// What the simulated clouds have worked so far, in µs.
fn spent(worlds: &[Arc<Mutex<World>>]) -> f64 {
    worlds.iter().map(|world| world.lock().unwrap().spent.as_secs_f64() * 1e6).sum()
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
    // The kernel counts when a thread goes, and else only with its ticks, some ms apart.
    std::thread::yield_now();
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    schedstat.split_whitespace().next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap() / 1e3
}

/// How often something has happened.
fn seen(world: &Mutex<World>) -> BTreeMap<&'static str, u64> {
    world.lock().unwrap().ledger.seen.clone()
}

async fn until_all_are_read(world: &Mutex<World>) {
    let all = |world: &mut World| world.cloud.streams[0].shards.values().all(|shard| shard.first_read.is_some());
    while !World::with(world, all) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Lets each stream shard take in one page of so many records a second; tells how many pages each world took in besides.
async fn take_in(worlds: &[Arc<Mutex<World>>], page: usize) -> (Work, usize) {
    let open: Vec<_> = worlds.iter().map(|world| world.lock().unwrap().cloud.open_shards()).collect();
    let all = open.iter().map(Vec::len).sum::<usize>();
    let writes = WRITES.max(PAGES / all);
    let meter = Meter::start(worlds);
    for _ in 0..writes {
        for (world, open) in worlds.iter().zip(&open) {
            for shard in open {
                World::with(world, |world| (0..page).for_each(|_| world.cloud.write(shard)));
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    (meter.each(all * writes * page), all * writes / worlds.len())
}

/// Lets each stream shard take in records, which are delivered.
async fn work(worlds: &[Arc<Mutex<World>>], page: usize) -> Work {
    let before: Vec<_> = worlds.iter().map(|world| seen(world)).collect();
    let (work, pages) = take_in(worlds, page).await;
    for (world, before) in worlds.iter().zip(&before) {
        let delivered = seen(world)["delivered"] - before.get("delivered").copied().unwrap_or_default();
        let times = delivered as f64 / pages as f64;
        assert!(times >= 0.9, "{times} deliveries of a page");
    }
    work
}

/// Lets all stream shards roll over at once.
async fn roll_over(worlds: &[Arc<Mutex<World>>]) -> (Work, Duration) {
    let (meter, began) = (Meter::start(worlds), Instant::now());
    let mut all = 0;
    for world in worlds {
        World::with(world, |world| {
            for shard in world.cloud.open_shards() {
                world.cloud.split(&shard, 1, Duration::ZERO, Duration::ZERO);
                all += 1;
            }
        });
    }
    for world in worlds {
        until_all_are_read(world).await;
    }
    (meter.each(all), began.elapsed())
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
    let kilobytes = (resident() - before) / 1024.0 / (workers * shards) as f64;
    let polls = seen(&worlds[0])["empty page"] / shards as u64;
    let record = work(&worlds, 1).await;
    let among_many = work(&worlds, MANY).await;
    let (roll_over, rolled_over) = roll_over(&worlds).await;
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

    /// Takes and opens every stream shard.
    async fn open(&mut self) {
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
    }

    /// Reads every stream shard so often; tells the memory of each, in KB.
    async fn idle(&mut self, polls: u64) -> f64 {
        self.open().await;
        for _ in 0..polls {
            for iterator in &mut self.iterators {
                *iterator = self.source.read(iterator).await.unwrap().next.unwrap();
            }
        }
        (resident() - self.before) / 1024.0 / self.iterators.len() as f64
    }

    /// Reads each stream shard in a task of its own, at a worker's pace; tells what a record takes that is alone in its page.
    async fn read_side_by_side(mut self) -> Work {
        self.open().await;
        let Worker { idle_poll, max_reads_per_second, .. } = fleet::config().worker;
        let source = Arc::new(self.source);
        let mut tasks = JoinSet::new();
        for mut iterator in self.iterators {
            let source = Arc::clone(&source);
            let mut pace = Pace::new(idle_poll, max_reads_per_second, Instant::now());
            tasks.spawn(async move {
                loop {
                    tokio::time::sleep_until(pace.due()).await;
                    let began = Instant::now();
                    let read = source.read(&iterator).await;
                    pace.after(began, Instant::now(), ReadOutcome::of(&read), 1.0);
                    iterator = read.unwrap().next.unwrap();
                }
            });
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        take_in(&[self.world], 1).await.0
    }
}

fn both(work: &Work) -> String {
    format!("{:.1} ({:.1})", work.all, work.own)
}

#[test]
#[ignore = "a measurement: make simulate-scale"]
fn what_a_stream_shard_costs() {
    // Kept to the end, so that none is given the memory of another.
    let mut kept = Vec::new();
    let mut all = Vec::new();
    println!(
        "{:>13} {:>21} {:>18} {:>17} {:>24} {:>22}",
        "stream shards",
        "µs a record (own)",
        "of many a page",
        "KB idle (cloud)",
        "µs a roll-over (own)",
        "all are rolled over in"
    );
    for shards in SIZES {
        let runtime = new_runtime();
        let costs = runtime.block_on(measure(1, shards));
        let apart = new_runtime();
        let mut alone = apart.block_on(async { Alone::new(shards) });
        let cloud = apart.block_on(alone.idle(costs.polls));
        let Costs { record, among_many, kilobytes, roll_over, rolled_over, .. } = &costs;
        let (record, rolled) = (both(record), both(roll_over));
        println!(
            "{shards:>13} {record:>21} {:>18.2} {:>17} {rolled:>24} {:>20.1} s",
            among_many.own,
            format!("{kilobytes:.1} ({cloud:.1})"),
            rolled_over.as_secs_f64()
        );
        kept.push((runtime, alone));
        all.push((costs, cloud));
    }
    // As many stream shards in the same memory, a hundred a worker: what they take more than a hundred alone is the cache's.
    let apart = new_runtime();
    let side_by_side = apart.block_on(measure(100, 100));
    let (record, rolled) = (both(&side_by_side.record), both(&side_by_side.roll_over));
    println!("{:>13} {record:>21} {:>18.2} {:>17} {rolled:>24}", "100 × 100", side_by_side.among_many.own, "");
    let bare = SIZES.map(|shards| new_runtime().block_on(async { Alone::new(shards).read_side_by_side().await }));
    for (shards, work) in SIZES.iter().zip(&bare) {
        println!("{shards:>13} {:>21}   in bare tasks that only read", both(work));
    }
    let ((fewest, _), (few, _), (many, cloud)) = (&all[0], &all[1], &all[3]);
    println!("10,000 stream shards in one worker, the worker's part");
    for (what, times, goal) in [
        ("of a record, against 100 workers with 100 each", many.record.own / side_by_side.record.own, 1.25),
        ("of a record, against 10 stream shards", many.record.own / fewest.record.own, 1.5),
        ("and the cloud's, of a record, against 10 stream shards", many.record.all / fewest.record.all, 1.5),
        ("of one among many in a page, against 10 stream shards", many.among_many.own / fewest.among_many.own, 1.5),
        ("of a roll-over, against 100 workers with 100 each", many.roll_over.own / side_by_side.roll_over.own, 1.25),
        ("and the cloud's, of a record, against 100 stream shards", many.record.all / few.record.all, 1.5),
        ("and the cloud's, of a roll-over, against 100", many.roll_over.all / few.roll_over.all, 1.5),
    ] {
        let verdict = if times <= goal { "met" } else { "missed" };
        println!("  {what:<56} {times:.2} times   goal {goal}: {verdict}");
    }
    for (against, fewer) in SIZES.iter().zip(&bare).take(2) {
        let (own, all) = (bare[3].own / fewer.own, bare[3].all / fewer.all);
        println!("  10,000 bare tasks, against {against:<30} {own:>14.2} times   with the cloud's {all:.2}");
    }
    let own = many.kilobytes - cloud;
    assert!(own <= 20.0, "{own:.1} KB for each idle stream shard");
}
