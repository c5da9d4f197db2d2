//! Side-by-side timing: contestants take turns, so that whatever else the machine does meets all of them.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

/// Work that can be done again and again.
pub type Work<'a> = Box<dyn FnMut() -> Pin<Box<dyn Future<Output = ()> + 'a>> + 'a>;

/// One way of doing a piece of work; each call does `operations` of them.
pub struct Contestant<'a> {
    /// What it is.
    pub name: String,
    /// How much one call does.
    pub operations: u64,
    /// What each round needs beforehand, outside its time.
    pub prepare: Option<Work<'a>>,
    /// Does it once.
    pub run: Work<'a>,
}

/// What a contestant took.
pub struct Timed {
    /// What it is.
    pub name: String,
    /// Time per operation of each round, shortest first.
    pub per_operation: Vec<Duration>,
}

impl Timed {
    /// The median round.
    #[must_use]
    pub fn median(&self) -> Duration {
        self.per_operation.get(self.per_operation.len() / 2).copied().unwrap_or_default()
    }
}

/// Lets the contestants take turns for `rounds` rounds, after one that does not count.
pub async fn take_turns(rounds: usize, contestants: &mut [Contestant<'_>]) -> Vec<Timed> {
    let mut times: Vec<Timed> =
        contestants.iter().map(|c| Timed { name: c.name.clone(), per_operation: Vec::new() }).collect();
    for round in 0..=rounds {
        // The order turns with the round, so that none always follows the same one.
        let count = contestants.len();
        for turn in 0..count {
            let index = (turn + round) % count;
            let (Some(contestant), Some(timed)) = (contestants.get_mut(index), times.get_mut(index)) else { continue };
            if let Some(prepare) = &mut contestant.prepare {
                prepare().await;
            }
            let begun = Instant::now();
            (contestant.run)().await;
            if round > 0 {
                let operations = u32::try_from(contestant.operations).unwrap_or(u32::MAX).max(1);
                timed.per_operation.push(begun.elapsed() / operations);
            }
        }
    }
    for timed in &mut times {
        timed.per_operation.sort();
    }
    times
}

/// Prints each contestant's speed as a ratio to the first one's, with the goal where there is one for it.
pub fn report(title: &str, times: &[Timed], goal: Option<(&str, f64)>) {
    println!("\n{title}");
    let Some(base) = times.first().map(Timed::median) else { return };
    for timed in times {
        let ratio = base.as_secs_f64() / timed.median().as_secs_f64().max(f64::MIN_POSITIVE);
        let goal = match goal {
            Some((name, goal)) if name == timed.name => {
                format!("   goal {goal}: {}", if ratio >= goal { "met" } else { "missed" })
            }
            Some(_) | None => String::new(),
        };
        let spread: Vec<String> = [0, timed.per_operation.len().saturating_sub(1)]
            .iter()
            .filter_map(|at| timed.per_operation.get(*at))
            .map(|time| format!("{time:.0?}"))
            .collect();
        println!("  {:<44} {ratio:>6.3}   median {:>9.0?} ({}){goal}", timed.name, timed.median(), spread.join(" to "));
    }
}
