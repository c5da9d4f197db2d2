//! What a lookup costs, beside the plain hash of the same keys in the same run.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringtide_core::ring::{Membership, Placement, Ring, ShardSpec, hashed_part};
use xxhash_rust::xxh64::xxh64;

/// Enough keys that neither branches nor the table's lines are learned by heart; a power of two.
const KEYS: usize = 4096;

fn ring(placement: Placement, count: usize) -> Option<Ring> {
    let shard = |i| ShardSpec { name: format!("shard-{i}").into(), address: format!("10.0.0.{i}:6379"), weight: 1 };
    let shards = (0..count).map(shard).collect();
    Ring::new(Membership { epoch: 1, changed_at_ms: 0, placement, shards }).ok()
}

/// Runs `lookup` on key after key.
fn rotate<T>(criterion: &mut Criterion, id: BenchmarkId, keys: &[String], mut lookup: impl FnMut(&[u8]) -> T) {
    let mut group = criterion.benchmark_group("ring");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let mut at = 0;
    group.bench_function(id, |bencher| {
        bencher.iter(|| {
            at = (at + 1) & (KEYS - 1);
            lookup(black_box(keys[at].as_bytes()))
        });
    });
    group.finish();
}

fn lookups(criterion: &mut Criterion) {
    // 16 bytes each.
    let plain: Vec<String> = (0..KEYS).map(|i| format!("product:{:08}", i * 7919)).collect();
    let tagged: Vec<String> = plain.iter().map(|key| format!("lock:{{{key}}}")).collect();

    rotate(criterion, BenchmarkId::from_parameter("xxh64 only"), &plain, |key| xxh64(key, 0));
    rotate(criterion, BenchmarkId::from_parameter("hashed part only"), &plain, |key| hashed_part(key).len());
    for placement in [Placement::Ringtide, Placement::Skipper, Placement::GoRedis] {
        for count in [3, 100, 1000] {
            let Some(ring) = ring(placement, count) else {
                continue;
            };
            rotate(criterion, BenchmarkId::new(placement.as_str(), count), &plain, |key| ring.locate(key));
        }
    }
    if let Some(ring) = ring(Placement::Ringtide, 100) {
        rotate(criterion, BenchmarkId::new("ringtide, tagged", 100), &tagged, |key| ring.locate(key));
    }
    construction(criterion);
}

fn construction(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring new");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for count in [3, 100, 1000] {
        let id = BenchmarkId::new("ringtide", count);
        group.bench_with_input(id, &count, |bencher, &count| bencher.iter(|| ring(Placement::Ringtide, count)));
    }
    group.finish();
}

criterion_group!(benches, lookups);
criterion_main!(benches);
