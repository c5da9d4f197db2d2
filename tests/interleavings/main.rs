//! The protocol under random interleavings, on a real Valkey server.
//!
//! A seed makes a schedule: readers, slow loads, fills, lock expiry, evictions, empty restarts, replayed and late change
//! records, one call at a time. After everything has been delivered, an entry that is served and older than the
//! database is stale for good. `RINGTIDE_FUZZ_SCHEDULES` says how many schedules, `RINGTIDE_FUZZ_SEED` the first one's
//! seed; a failure prints its own seed, and that seed with one schedule runs exactly that schedule again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod cache;
mod campaign;
mod cell;
mod content;
mod database;
mod feed;
mod outcome;
mod reader;
mod schedule;

use cache::Flaw;
use cell::Cell;
use outcome::Violation;
use schedule::Plan;

/// The first seed unless another one is asked for.
const SEED: u64 = 20_260_101;

/// Schedules within which a planted defect has to be found.
const PLANTED: u64 = 4_000;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_interleaving_leaves_a_stale_entry() {
    let (seed, count) = (number("RINGTIDE_FUZZ_SEED", SEED), number("RINGTIDE_FUZZ_SCHEDULES", 20_000));
    let plan = Plan { cells: &Cell::ALL, flaw: Flaw::None };
    println!("seed {seed}, {count} schedules");
    if count == 1 {
        let outcome = campaign::one(plan, seed).await;
        println!("{}", outcome.log());
        assert!(!outcome.is_a_failure(), "{:?}", outcome.violations);
        return;
    }
    let report = campaign::run(plan, seed, count, false).await;
    println!("{report}");
    if let Some(failure) = report.failure {
        let seed = failure.seed;
        panic!("{}\nagain: RINGTIDE_FUZZ_SEED={seed} RINGTIDE_FUZZ_SCHEDULES=1", failure.log());
    }
    for cell in Cell::ALL.into_iter().filter(|_| count >= 1_000) {
        let [schedules, _, hits, stored, void, below] = report.counts(cell);
        assert!(schedules > count / 20 && hits > 0 && stored > 0 && void > 0, "{} is left out", cell.name());
        assert!(below > 0 || !cell.is_versioned(), "no fill is refused for its version: {}", cell.name());
    }
}

/// Runs schedules until the planted defect is found.
async fn finds(flaw: Flaw, cells: &'static [Cell]) {
    let report = campaign::run(Plan { cells, flaw }, SEED, PLANTED, true).await;
    let Some(failure) = &report.failure else { panic!("{flaw:?} is not found\n{report}") };
    println!("{flaw:?}: {:?} in schedule {}", failure.violations, failure.seed - SEED + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_textbook_cache_is_found_guilty() {
    let cells = &[Cell::PlainOne, Cell::PlainMany, Cell::VersionedStrong, Cell::Settle];
    let report = campaign::run(Plan { cells, flaw: Flaw::Textbook }, SEED, 1_000, false).await;
    println!("SETNX, SET and DEL:\n{report}");
    assert!(report.found(Violation::StaleAtTheEnd) > 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_planted_defect_is_found() {
    let strong: &[Cell] = &[Cell::PlainOne, Cell::PlainMany];
    let eventual: &[Cell] = &[Cell::VersionedEventual];
    let refresh: &[Cell] = &[Cell::RefreshPosition, Cell::RefreshVersioned];
    finds(Flaw::FillWithoutToken, strong).await;
    finds(Flaw::DropWithoutVoiding, strong).await;
    finds(Flaw::LeaseFloorForgotten, &[Cell::VersionedStrong]).await;
    finds(Flaw::RefreshWithoutComparing, refresh).await;
    finds(Flaw::RefreshWithoutDeadline, refresh).await;
    finds(Flaw::SettleOnce, &[Cell::Settle]).await;
    finds(Flaw::NoTombstones, eventual).await;
    finds(Flaw::VersionsAcrossItems, &[Cell::VersionedStrong]).await;
    finds(Flaw::ProofClaimed, eventual).await;
    finds(Flaw::TokenSentTwice, strong).await;
}
