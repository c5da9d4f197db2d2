//! What a stream shard costs, with ten of them and with thousands: work per record, memory while it is idle, and a roll-over
//! of all of them at once.
//!
//! Each is measured once with a worker and once with the calls alone that it made, which is the simulated cloud's share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringtide_core::record::{ChangeRecord, UnreadableRecord};
use tokio::time::Instant;

use super::cloud::{FilterRule, Rules};
use super::flaw::Flaw;
use super::fleet::Fleet;
use super::leases::Leases;
use super::line::Line;
use super::ring::{self, Ring};
use super::source::Source;
use super::world::World;
use crate::deliver::Deliver;
use crate::lease::{Checkpoint, HeldLease, Lease, LeaseStore, MemoryLeases, OwnerId};
use crate::stream::{Position, ShardIterator, StreamSource};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
/// Records that are measured, at least.
const RECORDS: usize = 5_000;
/// Writes to each stream shard, at least: one a second.
const WRITES: usize = 5;
const LEASE_TIME: Duration = Duration::from_secs(8);

/// The work and the memory of a stream shard or a record, and how much of it the simulated cloud's calls make up.
#[derive(Clone, Copy)]
struct Cost {
    all: f64,
    cloud: f64,
}

impl Cost {
    fn own(self) -> f64 {
        self.all - self.cloud
    }
}

struct Costs {
    /// In µs, with the polls that fall to it.
    record: Cost,
    /// In KB.
    memory: Cost,
    /// In µs, from the moment at which all stream shards are split until their children are read.
    roll_over: f64,
    /// The same in simulated time.
    rolled_over: Duration,
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

/// One worker reads so many stream shards, each of which takes in one record a second, and then all of them roll over.
async fn measure(shards: usize) -> (Costs, Alone) {
    let world = world(shards);
    let before = resident();
    let mut fleet = Fleet::new(Arc::clone(&world), &[LEASE_TIME], 1, Flaw::None);
    fleet.start(0);
    until_all_are_read(&world).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let kilobytes = (resident() - before) / 1024.0 / shards as f64;
    let idle = seen(&world);
    let open = world.lock().unwrap().cloud.open_shards();
    let writes = WRITES.max(RECORDS / shards);
    let began = worked();
    for _ in 0..writes {
        for shard in &open {
            world.lock().unwrap().cloud.write(shard);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let record = (worked() - began) / (shards * writes) as f64;
    let busy = seen(&world);
    let times = |what| (busy[what] - idle.get(what).copied().unwrap_or_default()) as f64 / (shards * writes) as f64;
    assert!(times("delivered") >= 0.9, "{} deliveries of a record", times("delivered"));
    let (began, split) = (worked(), Instant::now());
    for shard in &open {
        world.lock().unwrap().cloud.split(shard, 1, Duration::ZERO, Duration::ZERO);
    }
    until_all_are_read(&world).await;
    let (roll_over, rolled_over) = ((worked() - began) / shards as f64, split.elapsed());
    assert_eq!(world.lock().unwrap().ledger.violation, None);
    let mut alone = Alone::new(shards).await;
    let cloud_kilobytes = alone.idle(idle["empty page"] / shards as u64).await;
    let cloud_record = alone.busy(writes, times("empty page").round() as u64).await;
    let (record, memory) = (Cost { all: record, cloud: cloud_record }, Cost { all: kilobytes, cloud: cloud_kilobytes });
    (Costs { record, memory, roll_over, rolled_over }, alone)
}

/// A client that does nothing but calls, one after the other.
struct Alone {
    world: Arc<Mutex<World>>,
    table: Arc<MemoryLeases>,
    source: Source,
    leases: Leases,
    ring: Arc<Ring>,
    iterators: Vec<ShardIterator>,
    before: f64,
}

impl Alone {
    async fn new(shards: usize) -> Self {
        let world = world(shards);
        let line = Line::new(Arc::clone(&world), 1, 1, Flaw::None, LEASE_TIME);
        let table: Arc<MemoryLeases> = Arc::default();
        let (source, leases) = (Source(line.clone()), Leases::new(line.clone(), Arc::clone(&table)));
        let before = resident();
        Self { world, table, source, leases, ring: ring::of(&line), iterators: Vec::new(), before }
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
        self.poll(polls).await;
        (resident() - self.before) / 1024.0 / open.len() as f64
    }

    /// Writes, reads, delivers and checkpoints, with so many more reads for each record; tells the time of a record in µs.
    async fn busy(&mut self, writes: usize, polls: u64) -> f64 {
        let mut held: Vec<HeldLease> = Vec::new();
        for lease in self.table.list().await.unwrap() {
            held.push(self.leases.take(&lease, &OwnerId::named("alone")).await.unwrap());
        }
        let began = worked();
        for _ in 0..writes {
            for (shard, held) in held.iter_mut().enumerate() {
                let id = self.iterators[shard].shard.clone();
                self.world.lock().unwrap().cloud.write(&id);
                let page = self.read(shard).await;
                let last = page.last().unwrap().as_ref().unwrap().sequence;
                self.ring.submit(page, 0).await.await.unwrap();
                self.leases.checkpoint(held, &Checkpoint::At(last), &BTreeSet::new()).await.unwrap();
            }
            self.poll(polls).await;
        }
        assert_eq!(self.world.lock().unwrap().ledger.violation, None);
        (worked() - began) / (writes * held.len()) as f64
    }

    async fn poll(&mut self, times: u64) {
        for _ in 0..times {
            for shard in 0..self.iterators.len() {
                self.read(shard).await;
            }
        }
    }

    async fn read(&mut self, shard: usize) -> Vec<Result<ChangeRecord, UnreadableRecord>> {
        let page = self.source.read(&self.iterators[shard]).await.unwrap();
        self.iterators[shard] = page.next.unwrap();
        page.records
    }
}

#[test]
#[ignore = "a measurement: make simulate-scale"]
fn what_a_stream_shard_costs_does_not_grow_with_their_number() {
    // Kept to the end, so that none is given the memory of another.
    let mut kept = Vec::new();
    let mut all = Vec::new();
    println!("stream shards   µs a record (cloud)   KB idle (cloud)   µs a roll-over   all rolled over after");
    for shards in SIZES {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (costs, alone) = runtime.block_on(measure(shards));
        let Costs { record, memory, roll_over, rolled_over } = &costs;
        println!(
            "{shards:>13} {:>13.1} ({:>5.1}) {:>9.1} ({:>5.1}) {roll_over:>16.1} {:>20.1} s",
            record.all,
            record.cloud,
            memory.all,
            memory.cloud,
            rolled_over.as_secs_f64()
        );
        kept.push((runtime, alone));
        all.push(costs);
    }
    let (few, many) = (&all[1], &all[3]);
    let record = many.record.own() / few.record.own();
    let roll_over = many.roll_over / few.roll_over;
    println!(
        "10,000 stream shards against 100: {record:.2} times the work of a record, {roll_over:.2} times that of a roll-over"
    );
    assert!(record <= 1.5, "the work of a record grows with the number of stream shards");
    assert!(roll_over <= 1.5, "the work of a roll-over grows with the number of stream shards");
    assert!(many.memory.own() <= 20.0, "{:.1} KB for each idle stream shard", many.memory.own());
}
