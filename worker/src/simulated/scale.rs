//! What a stream shard costs: work per record and memory, with a hundred of them and with thousands.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::cloud::{FilterRule, Rules};
use super::flaw::Flaw;
use super::fleet::Fleet;
use super::world::World;

/// Writes to each stream shard that are measured.
const WRITES: u32 = 10;

struct Cost {
    per_record: Duration,
    /// Resident memory for each stream shard that is read and has nothing to deliver, the simulated cloud's included.
    bytes_per_shard: usize,
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or_default() * 4096
}

/// One worker reads so many stream shards, each of which takes in one record a second.
async fn measure(shards: usize) -> Cost {
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
    let world = Arc::new(Mutex::new(world));
    let before = resident();
    let mut fleet = Fleet::new(Arc::clone(&world), &[Duration::from_secs(8)], 1, Flaw::None);
    fleet.start(0);
    let all_read = || world.lock().unwrap().cloud.streams[0].shards.values().all(|shard| shard.first_read.is_some());
    while !all_read() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let bytes_per_shard = resident().saturating_sub(before) / shards;
    let open = world.lock().unwrap().cloud.open_shards();
    let began = Instant::now();
    for _ in 0..WRITES {
        for shard in &open {
            world.lock().unwrap().cloud.write(shard);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let per_record = began.elapsed() / u32::try_from(open.len()).unwrap() / WRITES;
    let delivered = world.lock().unwrap().ledger.seen.get("delivered").copied().unwrap_or_default();
    assert!(delivered as usize >= shards * 5, "{delivered} deliveries");
    Cost { per_record, bytes_per_shard }
}

#[test]
#[ignore = "a measurement: make simulate-scale"]
fn the_cost_of_a_record_does_not_grow_with_the_number_of_stream_shards() {
    let mut costs = Vec::new();
    for shards in [100, 1_000, 10_000] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let cost = runtime.block_on(measure(shards));
        let kilobytes = cost.bytes_per_shard as f64 / 1024.0;
        println!("{shards:>6} stream shards: {:?} a record, {kilobytes:.1} KB each", cost.per_record);
        costs.push(cost);
    }
    let (few, many) = (costs[0].per_record.as_secs_f64(), costs[2].per_record.as_secs_f64());
    println!("10,000 stream shards against 100: {:.2} times the work of a record", many / few);
    assert!(many / few < 3.0, "the cost of a record grows with the number of stream shards");
    assert!(costs[2].bytes_per_shard <= 20 * 1024, "{} bytes for each stream shard", costs[2].bytes_per_shard);
}
