//! Placements that must never change: vectors made by other implementations.

use serde::Deserialize;
use xxhash_rust::xxh64::xxh64;

use super::*;

#[derive(Deserialize)]
struct Vectors {
    keys_hex: Vec<String>,
    /// Slot of each key, where the placement has slots to compare.
    #[serde(default)]
    slots: Vec<u32>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    shards: Vec<Shard>,
    /// For each key its owner, as an index into `shards` in the order given.
    owners: Vec<usize>,
    /// XXH64 of all slots' owners in turn, each as its index by name, two bytes little-endian.
    #[serde(default)]
    table_xxh64: Option<String>,
}

#[derive(Deserialize)]
struct Shard {
    name: String,
    address: String,
    #[serde(default = "one")]
    weight: u32,
}

fn one() -> u32 {
    1
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn check(placement: Placement, text: &str, least_cases: usize) {
    let vectors: Vectors = serde_json::from_str(text).unwrap();
    assert!(vectors.keys_hex.len() >= 200 && vectors.cases.len() >= least_cases);
    let keys: Vec<Vec<u8>> = vectors.keys_hex.iter().map(|hex| bytes(hex)).collect();
    for case in &vectors.cases {
        let spec = |s: &Shard| ShardSpec { name: s.name.as_str().into(), address: s.address.clone(), weight: s.weight };
        let shards = case.shards.iter().map(spec).collect();
        let ring = Ring::new(Membership { epoch: 1, changed_at_ms: 0, placement, shards }).unwrap();
        assert_eq!(case.owners.len(), keys.len());
        for (key, owner) in keys.iter().zip(&case.owners) {
            let shown = String::from_utf8_lossy(key);
            let count = case.shards.len();
            assert_eq!(ring.owner(key).name.as_str(), case.shards[*owner].name, "{shown:?} on {count} shards");
        }
        for (key, slot) in keys.iter().zip(&vectors.slots) {
            assert_eq!(ring.slot(key), *slot);
        }
        if let Some(expected) = &case.table_xxh64 {
            let table: Vec<u8> = ring.table.slots().iter().flat_map(|index| index.0.to_le_bytes()).collect();
            assert_eq!(format!("{:016x}", xxh64(&table, 0)), *expected);
        }
    }
}

#[test]
fn skipper_places_keys_the_same() {
    check(Placement::Skipper, include_str!("../../../tests/golden/ring/skipper.json"), 6);
}

#[test]
fn go_redis_places_keys_the_same() {
    check(Placement::GoRedis, include_str!("../../../tests/golden/ring/go-redis.json"), 4);
}

#[test]
fn the_default_placement_is_as_documented() {
    check(Placement::Ringtide, include_str!("../../../tests/golden/ring/ringtide.json"), 7);
}
