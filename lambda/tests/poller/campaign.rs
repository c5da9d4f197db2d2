//! Many schedules in several worlds at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::fault::Fault;
use super::outcome::{Counts, Outcome};
use super::plan::Plan;
use super::schedule;
use super::world::{ROUTES, World};

/// Worlds at once: most of a schedule is waiting.
const WORLDS: u64 = 4;

/// What the schedules found.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) schedules: u64,
    pub(crate) counts: Counts,
    /// The failures, by rising seed.
    pub(crate) failures: Vec<Outcome>,
    pub(crate) took: Duration,
}

/// Runs the schedules of `count` seeds from `first` on; none begins after one has failed.
pub(crate) async fn run(first: u64, count: u64, fault: Fault) -> Report {
    let begun = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..WORLDS.min(count) {
        let next = next.clone();
        tasks.spawn(async move {
            let mut report = Report::default();
            let mut world = World::start(ROUTES).await;
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return report;
                }
                if index % 200 == 199 {
                    println!("{} schedules after {:.0} s", index + 1, begun.elapsed().as_secs_f64());
                }
                let plan = Plan::new(first.wrapping_add(index)).aimed_at(fault);
                let outcome = schedule::run(&mut world, &plan, fault).await;
                report.schedules += 1;
                report.counts += outcome.counts;
                if !outcome.violations.is_empty() {
                    next.store(count, Ordering::Relaxed);
                    report.failures.push(outcome);
                }
            }
        });
    }
    let mut report = Report::default();
    for of_world in tasks.join_all().await {
        report.schedules += of_world.schedules;
        report.counts += of_world.counts;
        report.failures.extend(of_world.failures);
    }
    report.failures.sort_by_key(|failure| failure.seed);
    report.took = begun.elapsed();
    report
}
