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
use super::outcome::{Count, Outcome, Violation};
use super::schedule::{self, Plan};
use super::world::World;

/// Schedules that are under way at once.
const CONCURRENT: u64 = 48;

/// What schedules found, by cell.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) schedules: u64,
    rows: BTreeMap<(World, Cell), Tally>,
    /// The failure with the lowest seed.
    pub(crate) failure: Option<Box<Outcome>>,
    took: Duration,
}

#[derive(Default)]
struct Tally {
    counts: [u64; Count::NAMES.len()],
    violations: BTreeMap<Violation, u64>,
    example: Option<u64>,
    failed: Option<u64>,
}

/// Starts the servers that a plan needs.
async fn start(plan: Plan) -> (Vec<ValkeyServer>, Arc<[Cache]>) {
    let count = if plan.worlds.contains(&World::Ring) { 2 } else { 1 };
    let servers: Vec<ValkeyServer> = (0..count).map(|_| ValkeyServer::start().expect("a server")).collect();
    let mut caches = Vec::new();
    for server in &servers {
        caches.push(Cache::connect(server, plan.flaw).await);
    }
    (servers, caches.into())
}

/// Runs the schedules of `count` seeds from `first` on; with `until_failure` none begins after one has failed.
pub(crate) async fn run(plan: Plan, first: u64, count: u64, until_failure: bool) -> Report {
    let (_servers, caches) = start(plan).await;
    let began = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..CONCURRENT.min(count) {
        let (caches, next) = (caches.clone(), next.clone());
        tasks.spawn(async move {
            let mut report = Report::default();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return report;
                }
                let seed = first.wrapping_add(index);
                if !plan.wants(seed) {
                    continue;
                }
                report.add(schedule::run(&caches, plan, seed).await);
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
    let (_servers, caches) = start(plan).await;
    schedule::run(&caches, plan, seed).await
}

impl Report {
    fn add(&mut self, outcome: Outcome) {
        let mut tally = Tally {
            counts: outcome.counts,
            violations: BTreeMap::new(),
            example: (!outcome.violations.is_empty()).then_some(outcome.seed),
            failed: outcome.is_a_failure().then_some(outcome.seed),
        };
        for violation in &outcome.violations {
            *tally.violations.entry(*violation).or_default() += 1;
        }
        self.schedules += 1;
        self.rows.entry((outcome.world, outcome.cell)).or_default().add(tally);
        if outcome.is_a_failure() {
            self.keep(Box::new(outcome));
        }
    }

    fn merge(&mut self, other: Report) {
        self.schedules += other.schedules;
        for (row, found) in other.rows {
            self.rows.entry(row).or_default().add(found);
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
        self.rows.values().filter_map(|tally| tally.violations.get(&violation)).sum()
    }

    /// What was counted of one thing, in the cells and surroundings that are asked for.
    pub(crate) fn counted(&self, count: Count, wanted: impl Fn(World, Cell) -> bool) -> u64 {
        let rows = self.rows.iter().filter(|((world, cell), _)| wanted(*world, *cell));
        rows.map(|(_, tally)| tally.counts[count as usize]).sum()
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
        self.failed = self.failed.into_iter().chain(other.failed).min();
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:43}", "cell")?;
        for name in Count::NAMES {
            write!(f, " {name:>9}")?;
        }
        write!(f, "  too old:")?;
        for violation in Violation::ALL {
            write!(f, " {:>6}", violation.name())?;
        }
        writeln!(f, "    first seed  first failure")?;
        for ((world, cell), tally) in &self.rows {
            write!(f, "{:43}", format!("{}{}", cell.name(), world.name()))?;
            for count in tally.counts {
                write!(f, " {count:>9}")?;
            }
            write!(f, "          ")?;
            for violation in Violation::ALL {
                let count = tally.violations.get(&violation).copied().unwrap_or_default();
                write!(f, " {count:>6}")?;
            }
            let seed = |seed: Option<u64>| seed.map(|seed| seed.to_string()).unwrap_or_default();
            writeln!(f, "  {:>12}  {}", seed(tally.example), seed(tally.failed))?;
        }
        let seconds = self.took.as_secs_f64();
        write!(f, "{} schedules in {seconds:.1} s, {:.0}/s", self.schedules, self.schedules as f64 / seconds)
    }
}
