//! Three worker processes on three real ring shards, under load: killed, stopped, cut off from Valkey and from DynamoDB.
//!
//! Whatever happens, every change reaches every cache entry in the end: the audit finds nothing stale and nothing lost, and
//! the leases come to equal shares. `RINGTIDE_FLEET_SEED` repeats a run, `RINGTIDE_FLEET_SECONDS` makes it longer,
//! `RINGTIDE_FLEET_ENDPOINT=ministack` runs it on ministack.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod fault;
mod load;
mod process;
mod world;

use std::time::{Duration, Instant};

use fault::Fault;
use load::Load;
use world::World;

/// Longer than anything here takes; reaching it is a failure.
const LONG: Duration = Duration::from_secs(60);
const WORKERS: usize = 3;

/// Times of one kind that were measured.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn show(&self, what: &str) {
        if let (Some(least), Some(most)) = (self.0.iter().min(), self.0.iter().max()) {
            println!("{what}: {} times, {} to {} ms", self.0.len(), least.as_millis(), most.as_millis());
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_three_workers_nothing_is_stale_and_nothing_lost() {
    let seed = number("RINGTIDE_FLEET_SEED").unwrap_or_else(|| fastrand::u64(..));
    let time = Duration::from_secs(number("RINGTIDE_FLEET_SECONDS").unwrap_or(25));
    println!("RINGTIDE_FLEET_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::new(WORKERS, &mut random).await;
    world.create_tables().await;

    let (mut joins, mut hand_overs, mut fail_overs) = (Times::default(), Times::default(), Times::default());
    world.start(0);
    world.until_balanced().await;
    let load = Load::start(&world, &mut random).await;
    for worker in 1..WORKERS {
        world.start(worker);
        joins.0.push(world.until_balanced().await);
    }

    let began = Instant::now();
    let mut round = 0;
    while round < Fault::ALL.len() || began.elapsed() < time {
        let mut faults = Fault::ALL;
        random.shuffle(&mut faults);
        for fault in faults {
            let victim = random.usize(0..WORKERS);
            let took = fault.strike(&mut world, victim, &mut random).await;
            println!("{:>5} ms: {fault:?} of worker {victim}{}", began.elapsed().as_millis(), show(took));
            match fault {
                Fault::Terminated => hand_overs.0.extend(took),
                Fault::Killed | Fault::Stopped | Fault::CutFromDynamoDb => fail_overs.0.extend(took),
                Fault::CutFromValkey => {}
            }
            joins.0.push(world.until_balanced().await);
            round += 1;
        }
    }

    let (writes, reads) = load.audit().await;
    assert!(writes > 100 && reads > 100, "the load was no load: {writes} writes, {reads} reads");
    world.end().await;
    println!(
        "{writes} writes and {reads} reads, 0 stale, 0 lost; lease time-out {} ms",
        world::LEASE_TIMEOUT.as_millis()
    );
    joins.show("until the shares were equal again");
    hand_overs.show("hand-over of all leases of a worker that was told to stop");
    fail_overs.show("fail-over of all leases of a worker that was gone");
}

fn show(took: Option<Duration>) -> String {
    took.map(|took| format!(", its leases were taken over after {} ms", took.as_millis())).unwrap_or_default()
}
