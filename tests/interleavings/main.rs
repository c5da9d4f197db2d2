//! The protocol under random interleavings, on real Valkey servers.
//!
//! A seed makes a schedule: readers and waiters, slow loads, fills, lock expiry, evictions, empty restarts, replayed and
//! late change records, values served past their time, values kept in readers' memory, promoted replicas, changes of the
//! ring; one call at a time. Whatever is served is compared with what had been delivered. After everything has been
//! delivered, an entry that is served and older than the database is stale for good. `RINGTIDE_FUZZ_SCHEDULES` says how
//! many schedules, `RINGTIDE_FUZZ_SEED` the first one's seed; a failure prints its own seed, and that seed with one
//! schedule runs exactly that schedule again; `RINGTIDE_FUZZ_ONLY` runs the rows whose names have a part. `docs/fuzzing.md` tells more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod cache;
mod campaign;
mod cell;
mod content;
mod database;
mod delivery;
mod failover;
mod faults;
mod feed;
mod flaw;
mod local;
mod membership;
mod outcome;
mod process;
mod reader;
mod schedule;
mod wire;
mod world;

use cell::Cell;
use flaw::Flaw;
use outcome::{Count, Violation};
use ringtide_servers::number;
use schedule::Plan;
use world::World;

/// The first seed unless another one is asked for.
const SEED: u64 = 20_260_101;

/// Schedules, unless another number is asked for.
const SCHEDULES: u64 = 12_000;

/// Schedules within which a planted defect has to be found.
const PLANTED: u64 = 4_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_interleaving_leaves_a_stale_entry() {
    let seed = number("RINGTIDE_FUZZ_SEED").unwrap_or(SEED);
    let count = number("RINGTIDE_FUZZ_SCHEDULES").unwrap_or(SCHEDULES);
    let only = std::env::var("RINGTIDE_FUZZ_ONLY").ok().map(|only| &*only.leak());
    let plan = Plan { cells: &Cell::ALL, worlds: World::ALL, flaw: Flaw::None, only };
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
    if count < SCHEDULES || only.is_some() {
        return;
    }
    let every = [Count::Hits, Count::Stored, Count::Negative, Count::Void, Count::Woken, Count::Behind, Count::Stale];
    for cell in Cell::ALL {
        let counted = |count| report.counted(count, |_, of| of == cell);
        assert!(counted(Count::Schedules) > count / 20, "{} is left out", cell.name());
        for what in every {
            assert!(counted(what) > 0, "{}: no {}", cell.name(), Count::NAMES[what as usize]);
        }
        assert!(counted(Count::Below) > 0 || !cell.is_versioned(), "{}: no fill is refused", cell.name());
        for world in World::ALL.iter().filter(|world| world.has(cell)) {
            let counted = |count| report.counted(count, |there, of| (there, of) == (*world, cell));
            let (name, around) = (cell.name(), world.name());
            assert!(counted(Count::Schedules) > count / 100, "{name}{around} is left out");
            assert!(counted(Count::Local) > 0 || *world != World::Tracked, "{name}{around}: nothing local");
            let has_events = matches!(world, World::FailOver | World::Ring);
            assert!(counted(Count::Events) > 0 || !has_events, "{name}{around}: no event");
        }
    }
}

/// Runs schedules until the planted defect is found.
async fn finds(flaw: Flaw, worlds: &'static [World], cells: &'static [Cell]) {
    let report = campaign::run(Plan { cells, worlds, flaw, only: None }, SEED, PLANTED, true).await;
    let Some(failure) = &report.failure else { panic!("{flaw:?} is not found\n{report}") };
    println!("{flaw:?}: {:?} in schedule {}", failure.violations, failure.seed - SEED + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_textbook_cache_is_found_guilty() {
    let cells = &[Cell::PlainOne, Cell::PlainMany, Cell::VersionedStrong, Cell::Settle];
    let plan = Plan { cells, worlds: &[World::Steady], flaw: Flaw::Textbook, only: None };
    let report = campaign::run(plan, SEED, 1_000, false).await;
    println!("SETNX, SET and DEL:\n{report}");
    assert!(report.found(Violation::StaleAtTheEnd) > 10);
}

const STRONG: &[Cell] = &[Cell::PlainOne, Cell::PlainMany];
const VERSIONED: &[Cell] = &[Cell::VersionedStrong];
const EVENTUAL: &[Cell] = &[Cell::VersionedEventual];
const REFRESH: &[Cell] = &[Cell::RefreshPosition, Cell::RefreshVersioned];
const ANY: &[Cell] = &[Cell::PlainOne, Cell::PlainMany, Cell::Settle, Cell::VersionedStrong];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn planted_defects_of_leases_and_versions_are_found() {
    let steady = &[World::Steady];
    finds(Flaw::FillWithoutToken, steady, STRONG).await;
    finds(Flaw::DropWithoutVoiding, steady, STRONG).await;
    finds(Flaw::LeaseFloorForgotten, steady, VERSIONED).await;
    finds(Flaw::RefreshWithoutComparing, steady, REFRESH).await;
    finds(Flaw::RefreshWithoutDeadline, steady, REFRESH).await;
    finds(Flaw::SettleOnce, steady, &[Cell::Settle]).await;
    finds(Flaw::NoTombstones, steady, EVENTUAL).await;
    finds(Flaw::VersionsAcrossItems, steady, VERSIONED).await;
    finds(Flaw::ProofClaimed, steady, EVENTUAL).await;
    finds(Flaw::TokenSentTwice, steady, STRONG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn planted_defects_of_waiters_are_found() {
    finds(Flaw::AnotherLeasesNotice, &[World::Steady], STRONG).await;
    finds(Flaw::HolderNotCompared, &[World::Steady], STRONG).await;
    finds(Flaw::HolderNotAsked, &[World::Steady], STRONG).await;
    finds(Flaw::FillTellsUnstored, &[World::Steady], VERSIONED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn planted_defects_of_negative_entries_are_found() {
    finds(Flaw::AbsenceSurvives, &[World::Steady], ANY).await;
    finds(Flaw::AbsenceSkipsFloor, &[World::Steady], EVENTUAL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn planted_defects_of_stale_serving_and_early_refresh_are_found() {
    finds(Flaw::MarkedServed, &[World::Steady], ANY).await;
    finds(Flaw::MarkLosesFloor, &[World::Steady], EVENTUAL).await;
    finds(Flaw::MarkExtends, &[World::Steady], ANY).await;
    finds(Flaw::BehindWithoutLease, &[World::Steady], STRONG).await;
    finds(Flaw::EarlyWithoutLease, &[World::Steady], STRONG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn planted_defects_of_the_tracked_tier_are_found() {
    finds(Flaw::NoPendingMarker, &[World::Tracked], ANY).await;
    finds(Flaw::FirstKeyOfPushOnly, &[World::Tracked], ANY).await;
    finds(Flaw::NullPushIgnored, &[World::Tracked], ANY).await;
    finds(Flaw::LossIgnored, &[World::Tracked], ANY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn planted_defects_of_fail_over_are_found() {
    finds(Flaw::PromotionUnnoticed, &[World::FailOver], ANY).await;
    finds(Flaw::FlushSparesLocks, &[World::FailOver], STRONG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn planted_defects_of_ring_changes_are_found() {
    finds(Flaw::CurrentOwnerOnly, &[World::Ring], ANY).await;
    finds(Flaw::RejoinedUnflushed, &[World::Ring], ANY).await;
    finds(Flaw::ReadersFirst, &[World::Ring], ANY).await;
    finds(Flaw::WindowWithoutLeases, &[World::Ring], ANY).await;
}
