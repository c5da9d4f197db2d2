//! Three worker processes on three real ring shards, under load: killed, stopped, cut off from Valkey and from DynamoDB,
//! alone and all at once, for less than the lease time-out and for longer.
//!
//! Whatever happens, every change reaches every cache entry in the end: the audit finds nothing stale and nothing lost, and
//! the leases come to equal shares. `RINGTIDE_FLEET_SEED` repeats a run, `RINGTIDE_FLEET_SECONDS` makes it longer: from
//! 300 on, some outages last for minutes. `RINGTIDE_FLEET_ENDPOINT=ministack` runs it on ministack.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod fault;
mod load;
#[allow(dead_code, reason = "shared with the soak")]
mod process;
mod world;

use std::time::{Duration, Instant};

use fault::{Fault, Outages};
use load::Load;
use ringtide_servers::number;
use world::World;

/// Longer than anything here takes; reaching it is a failure.
const LONG: Duration = Duration::from_secs(60);
const WORKERS: usize = 3;
/// Runs of this length have room for outages that last for minutes.
const LONG_RUN: Duration = Duration::from_secs(300);

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

/// What the environment asks for; nothing where it is empty, as `make` leaves it.
fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
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
    let load = Load::start(&world, time, &mut random).await;
    for worker in 1..WORKERS {
        world.start(worker);
        joins.0.push(world.until_balanced().await);
    }

    let asked = number("RINGTIDE_FLEET_OUTAGE").map(Duration::from_secs);
    let outages = Outages { minutes: time >= LONG_RUN, asked };
    let faults = text("RINGTIDE_FLEET_FAULTS").map_or_else(|| Fault::ALL.to_vec(), |names| Fault::named(&names));
    let began = Instant::now();
    let mut coming = Vec::new();
    let mut struck = 0;
    while struck < faults.len() || began.elapsed() < time {
        if coming.is_empty() {
            coming.extend_from_slice(&faults);
            random.shuffle(&mut coming);
        }
        let fault = coming.pop().unwrap();
        let (at, victim) = (began.elapsed(), random.usize(0..WORKERS));
        let went = fault.strike(&mut world, victim, outages, &mut random).await;
        let settled = world.until_balanced().await;
        println!(
            "{:>7} ms: {fault:?} (of worker {victim} if of one) for {} ms{}, equal shares after {} ms",
            at.as_millis(),
            went.down.as_millis(),
            show(went.took),
            settled.as_millis()
        );
        match fault {
            Fault::Terminated => hand_overs.0.extend(went.took),
            Fault::Killed | Fault::Stopped | Fault::CutFromDynamoDb => fail_overs.0.extend(went.took),
            Fault::CutFromValkey | Fault::DynamoDbAway | Fault::ValkeyAway | Fault::RingShardStopped => {}
        }
        joins.0.push(settled);
        struck += 1;
    }

    let load::Audited { writes, reads, oldest } = load.audit().await;
    assert!(writes > 100 && reads > 100, "the load was no load: {writes} writes, {reads} reads");
    world.end().await;
    println!("meanwhile an entry was read that was {} ms behind its table", oldest.as_millis());
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
