//! The built function against a scripted Runtime API that behaves like Lambda's stream poller.
//!
//! A seed makes a schedule: writes to a table, trouble with the ring, sandboxes that are frozen, killed and outlive
//! their time, batches that are split, sent again, sent twice and given up. Once the stream is drained, an entry that
//! is served and differs from the table is stale for good. `RINGTIDE_POLLER_SCHEDULES` says how many schedules,
//! `RINGTIDE_POLLER_SEED` the first one's seed; a failure prints its own. A seed decides everything but the machine's
//! timing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod audit;
mod campaign;
mod destination;
mod fault;
mod fleet;
mod invocation;
mod link;
mod mapping;
mod outcome;
mod plan;
mod readers;
mod ring;
mod runtime_api;
mod sandbox;
mod scenarios;
mod schedule;
mod signals;
mod table;
mod world;

use fault::Fault;
use ringtide_servers::number;

/// The first seed unless another one is asked for.
const SEED: u64 = 20_260_101;

/// Schedules within which a planted fault has to be found.
const PLANTED: u64 = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_schedule_leaves_a_stale_entry() {
    let seed = number("RINGTIDE_POLLER_SEED").unwrap_or(SEED);
    let count = number("RINGTIDE_POLLER_SCHEDULES").unwrap_or(24);
    let report = campaign::run(seed, count, Fault::None).await;
    let minutes = report.took.as_secs_f64() / 60.0;
    println!("{} schedules from seed {seed}, {:.0} a minute", report.schedules, report.schedules as f64 / minutes);
    println!("{}", report.counts);
    if let Some(failure) = report.failures.first() {
        panic!("{}", failure.story());
    }
    assert!(count < 24 || report.counts.missing().is_empty(), "never happened: {:?}", report.counts.missing());
}

/// Runs schedules until the planted fault is found.
async fn finds(fault: Fault) {
    let report = campaign::run(SEED, PLANTED, fault).await;
    let Some(failure) = report.failures.first() else {
        panic!("{fault:?} is not found in {} schedules: {}", report.schedules, report.counts)
    };
    println!("{fault:?}: {} in schedule {} after {:?}", failure.violations[0], failure.seed - SEED + 1, report.took);
    let by_the_audit = |violation: &String| violation.starts_with("stale") || violation.contains("not parked");
    assert!(failure.violations.iter().all(by_the_audit), "{:?}", failure.violations);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_planted_fault_is_found() {
    finds(Fault::AnswersIgnored).await;
    finds(Fault::CheckpointPastTheFailed).await;
    finds(Fault::GivenUpForgotten).await;
    finds(Fault::TimeOutIsSuccess).await;
    finds(Fault::CrashIsSuccess).await;
}
