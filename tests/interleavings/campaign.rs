//! Many schedules at once on one server, and what they found.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringtide_servers::ValkeyServer;
use tokio::task::JoinSet;

use super::cache::Cache;
use super::cell::Cell;
use super::outcome::{Outcome, Violation};
use super::schedule::{self, Plan};

/// Schedules that are under way at once.
const CONCURRENT: u64 = 48;

/// What schedules found, by cell.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) schedules: u64,
    cells: BTreeMap<Cell, Tally>,
    /// The failure with the lowest seed.
    pub(crate) failure: Option<Box<Outcome>>,
    took: Duration,
}

#[derive(Default)]
struct Tally {
    /// Schedules, steps, hits, and fills that were stored, void and below a floor.
    counts: [u64; COUNTS.len()],
    violations: BTreeMap<Violation, u64>,
    example: Option<u64>,
}

const COUNTS: [&str; 6] = ["schedules", "steps", "hits", "stored", "void", "below"];

/// Runs the schedules of `count` seeds from `first` on; with `until_failure` none begins after one has failed.
pub(crate) async fn run(plan: Plan, first: u64, count: u64, until_failure: bool) -> Report {
    let server = ValkeyServer::start().expect("a server");
    let cache = Cache::connect(&server, plan.flaw).await;
    let began = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..CONCURRENT.min(count) {
        let (cache, next) = (cache.clone(), next.clone());
        tasks.spawn(async move {
            let mut report = Report::default();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return report;
                }
                report.add(schedule::run(&cache, plan, first.wrapping_add(index)).await);
                if until_failure && report.failure.is_some() {
                    next.store(count, Ordering::Relaxed);
                }
            }
        });
    }
    let mut report = Report::default();
    let mut progress = tokio::time::interval(Duration::from_secs(5));
    progress.tick().await;
    loop {
        tokio::select! {
            task = tasks.join_next() => match task {
                Some(task) => report.merge(task.expect("a schedule that comes to its end")),
                None => break,
            },
            _ = progress.tick() => println!(
                "flaw {:?}: {} of {count} schedules after {:.0} s",
                plan.flaw,
                next.load(Ordering::Relaxed).min(count),
                began.elapsed().as_secs_f64(),
            ),
        }
    }
    report.took = began.elapsed();
    report
}

/// Runs one schedule.
pub(crate) async fn one(plan: Plan, seed: u64) -> Outcome {
    let server = ValkeyServer::start().expect("a server");
    schedule::run(&Cache::connect(&server, plan.flaw).await, plan, seed).await
}

impl Report {
    fn add(&mut self, outcome: Outcome) {
        let Outcome { hits, stored, void, below, .. } = outcome;
        let mut tally = Tally {
            counts: [1, outcome.log.len() as u64, hits, stored, void, below],
            violations: BTreeMap::new(),
            example: (!outcome.violations.is_empty()).then_some(outcome.seed),
        };
        for violation in &outcome.violations {
            *tally.violations.entry(*violation).or_default() += 1;
        }
        self.schedules += 1;
        self.cells.entry(outcome.cell).or_default().add(tally);
        if outcome.is_a_failure() {
            self.keep(Box::new(outcome));
        }
    }

    fn merge(&mut self, other: Report) {
        self.schedules += other.schedules;
        for (cell, found) in other.cells {
            self.cells.entry(cell).or_default().add(found);
        }
        if let Some(failure) = other.failure {
            self.keep(failure);
        }
    }

    fn keep(&mut self, failure: Box<Outcome>) {
        if self.failure.as_ref().is_none_or(|kept| failure.seed < kept.seed) {
            self.failure = Some(failure);
        }
    }

    /// How often something was found, in all cells.
    pub(crate) fn found(&self, violation: Violation) -> u64 {
        self.cells.values().filter_map(|tally| tally.violations.get(&violation)).sum()
    }

    /// What was counted in a cell: schedules, steps, hits, and fills that were stored, void and below a floor.
    pub(crate) fn counts(&self, cell: Cell) -> [u64; 6] {
        self.cells.get(&cell).map(|tally| tally.counts).unwrap_or_default()
    }
}

impl Tally {
    fn add(&mut self, other: Tally) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        for (violation, count) in other.violations {
            *self.violations.entry(violation).or_default() += count;
        }
        self.example = self.example.into_iter().chain(other.example).min();
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:34}", "cell")?;
        for name in COUNTS {
            write!(f, " {name:>9}")?;
        }
        for violation in Violation::ALL {
            write!(f, " {:>12}", violation.name())?;
        }
        writeln!(f, "  first seed with any")?;
        for (cell, tally) in &self.cells {
            write!(f, "{:34}", cell.name())?;
            for count in tally.counts {
                write!(f, " {count:>9}")?;
            }
            for violation in Violation::ALL {
                let count = tally.violations.get(&violation).copied().unwrap_or_default();
                write!(f, " {count:>12}")?;
            }
            writeln!(f, "  {}", tally.example.map(|seed| seed.to_string()).unwrap_or_default())?;
        }
        let seconds = self.took.as_secs_f64();
        write!(f, "{} schedules in {seconds:.1} s, {:.0}/s", self.schedules, self.schedules as f64 / seconds)
    }
}
