//! A campaign: faults at random, one after the other, while everybody reads and writes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fastrand::Rng;
use ringtide::{ReadOptions, Space};
use ringtide_servers::{Direction, Flow, number};

use super::process::Reader;
use super::readers::{DEADLINE, Tally, loads, read, read_on};
use super::stalls;
use super::truth::{KEYS, Truth};
use super::world::{LONG, Style, World, items};

const SHARDS: usize = 3;
const PROCESSES: usize = 2;

/// Keys that the application invalidates, and nobody else does.
const OWN: u64 = 6;

/// How much longer a process may serve what it keeps in its memory: a server that gives no sign of life is noticed within a
/// second.
const TRACKING_LAG: Duration = Duration::from_secs(2);

/// Held by the campaign that runs.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Cut,
    Delay,
    Hold,
    BlackHole,
    HalfClose,
    Refuse,
    KillShard,
    StopShard,
    KillReader,
    StopReader,
}

impl Fault {
    pub(crate) const ALL: [Self; 10] = [
        Self::Cut,
        Self::Delay,
        Self::Hold,
        Self::BlackHole,
        Self::HalfClose,
        Self::Refuse,
        Self::KillShard,
        Self::StopShard,
        Self::KillReader,
        Self::StopReader,
    ];
}

/// Runs a campaign of some faults and audits what is left.
pub(crate) async fn campaign(seed: u64, style: Style, faults: &[Fault]) {
    let seed = number("RINGTIDE_FAULT_SEED").unwrap_or(seed);
    let time = Duration::from_secs(number("RINGTIDE_FAULT_SECONDS").unwrap_or(4));
    // Side by side they would only measure each other.
    let _alone = ALONE.lock().await;
    stalls::watch();
    let mut world = World::of(style, SHARDS).await;
    let mut processes: Vec<_> = (0..PROCESSES).map(|_| Reader::start(&world)).collect();
    let (cache, tracking, tally) = (world.cache().await, world.tracking().await, Arc::new(Tally::default()));
    // What this process itself has invalidated its own reads know, delivered or not.
    let own = Truth::new();
    let readers: Vec<_> = [(&cache, 1), (&cache, 1), (&cache, 4), (&cache, KEYS), (&tracking, 1), (&tracking, 4)]
        .into_iter()
        .map(|(of, many)| {
            let (truth, own, tracks) = (world.truth.clone(), own.clone(), std::ptr::eq(of, &tracking));
            let known = move |key| match tracks {
                true => truth.delivered(key, TRACKING_LAG),
                false => truth.delivered(key, Duration::ZERO).max(own.delivered(key, Duration::ZERO)),
            };
            tokio::spawn(read_on(items(of), many, tally.clone(), loads(&world.truth), known))
        })
        .collect();
    let (invalidator, delivering) = world.invalidator();
    let (writing, stop) = (tally.clone(), tally.clone());
    let writer = tokio::spawn(async move {
        while !writing.stop.load(Ordering::Relaxed) {
            invalidator.write(fastrand::u64(OWN..KEYS));
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..8))).await;
        }
    });
    let application = tokio::spawn(invalidate_on(items(&cache), tally.clone(), world.truth.clone(), own));

    let mut random = Rng::with_seed(seed);
    let (began, mut met) = (Instant::now(), Vec::new());
    while began.elapsed() < time {
        let fault = faults[random.usize(..faults.len())];
        met.push(fault);
        meet(&mut world, &mut processes, fault, &mut random).await;
        tokio::time::sleep(Duration::from_millis(random.u64(20..250))).await;
    }

    stop.stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    let (done, queued) = application.await.unwrap();
    for delivered in delivering {
        delivered.await.unwrap();
    }
    for reader in readers {
        if let Err(complaint) = reader.await.unwrap() {
            panic!("seed {seed}, {met:?}: {complaint}");
        }
    }
    for process in processes {
        let told = tokio::task::block_in_place(|| process.end());
        assert!(told.starts_with("fine"), "seed {seed}, {met:?}: {told}");
    }
    let (answered, late) = (tally.answered.load(Ordering::Relaxed), tally.late.load(Ordering::Relaxed));
    println!(
        "{style:?}, seed {seed}, {met:?}: {answered} reads answered, {late} ended at their deadlines; {done} own invalidations, \
         {queued} more sent again"
    );
    assert!(answered > late * 4, "seed {seed}, {met:?}: {answered} reads answered, {late} late");
    assert!(done > 0, "seed {seed}, {met:?}: no invalidation of its own was answered");
    tokio::time::timeout(LONG, cache.settled()).await.expect("what is owed is delivered");
    world.audit().await;
    // Whatever fills are still sent again are not stale either.
    for key in 0..KEYS {
        assert_eq!(read(&items(&cache), &world.truth, key).await.unwrap(), Some(world.truth.now(key)));
    }
    cache.close().await;
    tracking.close().await;
    assert!(world.audit().await > 0, "nothing is cached");
}

/// Changes keys and invalidates them by the cache alone, in time or not; how many were delivered, and how many queued.
async fn invalidate_on(space: Space<u64>, tally: Arc<Tally>, truth: Truth, own: Truth) -> (u64, u64) {
    let hurried = space.with(ReadOptions::new().timeout(DEADLINE));
    let (mut done, mut queued) = (0, 0);
    while !tally.stop.load(Ordering::Relaxed) {
        let key = fastrand::u64(..OWN);
        let value = truth.write(key);
        let space = if fastrand::bool() { &space } else { &hurried };
        let invalidate = async {
            match fastrand::bool() {
                true => space.invalidate(key).await,
                // Where versions are not compared it does the same.
                false => space.invalidate_version(key, value.into()).await,
            }
        };
        let invalidated = tokio::time::timeout(LONG, invalidate).await.expect("nobody hangs").unwrap();
        own.deliver(key, value);
        if invalidated.is_done() {
            truth.deliver(key, value);
            done += 1;
        } else {
            queued += 1;
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..8))).await;
    }
    (done, queued)
}

/// Lets one fault happen for a while, and heals it.
async fn meet(world: &mut World, processes: &mut [Reader], fault: Fault, random: &mut Rng) {
    let (shard, process) = (random.usize(..SHARDS), random.usize(..PROCESSES));
    let direction = if random.bool() { Direction::ToServer } else { Direction::ToClient };
    let proxy = &world.proxies[shard];
    let lasts = Duration::from_millis(random.u64(50..700));
    let flow = match fault {
        Fault::Delay => Some(Flow::Delayed(Duration::from_millis(random.u64(1..300)))),
        Fault::Hold => Some(Flow::Held),
        Fault::BlackHole => Some(Flow::BlackHole),
        Fault::Cut => {
            proxy.cut();
            return;
        }
        Fault::HalfClose => {
            proxy.half_close(direction);
            return;
        }
        Fault::Refuse => {
            proxy.refuse(true);
            proxy.cut();
            None
        }
        Fault::KillShard => {
            tokio::task::block_in_place(|| world.servers[shard].kill());
            None
        }
        Fault::StopShard => {
            world.servers[shard].freeze().unwrap();
            None
        }
        Fault::KillReader => {
            tokio::task::block_in_place(|| processes[process].kill());
            None
        }
        Fault::StopReader => {
            processes[process].pause();
            None
        }
    };
    if let Some(flow) = flow {
        proxy.set(direction, flow);
    }
    tokio::time::sleep(lasts).await;
    match fault {
        Fault::Cut | Fault::HalfClose => {}
        Fault::Delay | Fault::Hold | Fault::BlackHole | Fault::Refuse => world.proxies[shard].heal(),
        Fault::KillShard => tokio::task::block_in_place(|| world.servers[shard].restart()).unwrap(),
        Fault::StopShard => world.servers[shard].thaw().unwrap(),
        Fault::KillReader => {
            processes[process] = tokio::task::block_in_place(|| Reader::start(world));
        }
        Fault::StopReader => processes[process].resume(),
    }
}
