//! Many seeds, and what they found.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringtide_servers::number;

use super::flaw::Flaw;
use super::run::{Outcome, run};

/// The first seed unless another one is asked for.
const SEED: u64 = 1;
/// Seeds, unless another number is asked for: what a build for tests does in less than two minutes on two cores.
const SEEDS: u64 = 10_000;
/// Seeds within which a planted defect has to be found.
const PLANTED: u64 = 600;

#[derive(Default)]
struct Report {
    seeds: u64,
    seen: BTreeMap<&'static str, u64>,
    longest: Duration,
    failure: Option<Outcome>,
}

/// Runs seeds on as many threads as there are cores, until one fails.
fn campaign(flaw: Flaw, first: u64, count: u64) -> Report {
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let report = Mutex::new(Report::default());
    let began = Instant::now();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count || failed.load(Ordering::Relaxed) {
                return;
            }
            let outcome = run(first + seed, flaw, false);
            let mut report = report.lock().unwrap();
            report.seeds += 1;
            for (what, times) in &outcome.seen {
                *report.seen.entry(what).or_default() += times;
            }
            report.longest = report.longest.max(outcome.settled);
            if report.seeds.is_multiple_of(10_000) {
                let rate = report.seeds as f64 / began.elapsed().as_secs_f64();
                println!("{} of {count} seeds, {rate:.0} a second", report.seeds);
            }
            if outcome.violation.is_some() {
                failed.store(true, Ordering::Relaxed);
                if report.failure.as_ref().is_none_or(|failure| failure.seed > outcome.seed) {
                    report.failure = Some(outcome);
                }
            }
        }
    };
    std::thread::scope(|threads| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            threads.spawn(work);
        }
    });
    report.into_inner().unwrap()
}

/// Everything that a schedule may show, so that none is left out unnoticed.
const SHOWN: [&str; 30] = [
    "write",
    "split",
    "hide",
    "trim",
    "expire iterators",
    "new stream",
    "crash",
    "stop",
    "hang",
    "cut",
    "outage",
    "ring shard down",
    "ring shard slow",
    "steal",
    "disturb",
    "delivered",
    "flush",
    "taken over",
    "checkpoint",
    "checkpoint refused",
    "released",
    "lease deleted",
    "listing failed",
    "trimmed",
    "abandon",
    "read refused",
    "expired",
    "read by a former holder",
    "empty page",
    "page",
];

#[test]
fn no_schedule_loses_an_invalidation() {
    let seed = number("RINGTIDE_SIMULATION_SEED").unwrap_or(SEED);
    let count = number("RINGTIDE_SIMULATION_SEEDS").unwrap_or(SEEDS);
    if count == 1 {
        let outcome = run(seed, Flaw::None, true);
        println!("{}", outcome.log.join("\n"));
        assert_eq!(outcome.violation, None);
        return;
    }
    let report = campaign(Flaw::None, seed, count);
    println!("{} seeds from {seed} on; the slowest was well {:?} after its last fault", report.seeds, report.longest);
    println!("{:?}", report.seen);
    if let Some(failure) = report.failure {
        panic!("{}\nagain: make simulate SEEDS=1 SEED={}", failure.violation.unwrap_or_default(), failure.seed);
    }
    if count >= SEEDS {
        for what in SHOWN {
            assert!(report.seen.get(what).is_some_and(|times| *times > 0), "no schedule shows: {what}");
        }
    }
}

#[test]
fn a_seed_makes_one_schedule() {
    for seed in 1..=100 {
        let (first, second) = (run(seed, Flaw::None, true), run(seed, Flaw::None, true));
        let differ = first.log.iter().zip(&second.log).find(|(first, second)| first != second);
        assert_eq!(differ, None, "seed {seed}");
        assert_eq!((first.log.len(), first.fingerprint), (second.log.len(), second.fingerprint), "seed {seed}");
    }
}

#[test]
fn planted_defects_are_found() {
    for flaw in Flaw::PLANTED {
        let report = campaign(flaw, SEED, PLANTED);
        let Some(failure) = report.failure else { panic!("{flaw:?} is not found in {PLANTED} seeds") };
        println!("{flaw:?}: seed {}, {}", failure.seed, failure.violation.unwrap_or_default());
    }
}
