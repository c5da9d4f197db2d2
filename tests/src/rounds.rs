//! Side-by-side timing: contestants take turns, so that whatever else the machine does meets all of them.

use std::fmt;
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
    /// ns per operation, in the order of the rounds.
    pub per_operation: Vec<f64>,
}

impl Timed {
    /// The median round, in ns per operation.
    #[must_use]
    pub fn median(&self) -> f64 {
        Spread::of(self.per_operation.clone()).median
    }
}

/// Where the middle of some values is, and their middle half.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// A quarter is below.
    pub low: f64,
    /// A half is below.
    pub median: f64,
    /// A quarter is above.
    pub high: f64,
}

impl Spread {
    /// Sorts the values; NaN where there are none.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |part: usize| values.get(values.len() * part / 4).copied().unwrap_or(f64::NAN);
        Self { low: at(1), median: at(2), high: at(3) }
    }

    /// The ratios of values that were taken beside each other, `a` to `b`.
    ///
    /// What slows the machine down for a while slows both of a pair; between the medians of either it would be a difference.
    #[must_use]
    pub fn of_ratios(a: &[f64], b: &[f64]) -> Self {
        Self::of(a.iter().zip(b).map(|(a, b)| a / b).collect())
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6.3} ({:.3} to {:.3})", self.median, self.low, self.high)
    }
}

/// Lets the contestants take turns for `rounds` rounds of `turns` turns each, after one round that does not count.
///
/// Where work is as fast as the threads happen to lie that it runs on, a round takes many short turns, and its time is
/// their sum.
pub async fn take_turns(rounds: usize, turns: usize, contestants: &mut [Contestant<'_>]) -> Vec<Timed> {
    let count = contestants.len();
    let mut times: Vec<Timed> =
        contestants.iter().map(|c| Timed { name: c.name.clone(), per_operation: Vec::new() }).collect();
    for round in 0..=rounds {
        let mut took = vec![Duration::ZERO; count];
        for turn in 0..turns * count {
            // The order turns with every turn of all of them, so that none always follows the same one.
            let index = (turn + turn / count + round * turns) % count;
            let (Some(contestant), Some(took)) = (contestants.get_mut(index), took.get_mut(index)) else { continue };
            if let Some(prepare) = &mut contestant.prepare {
                prepare().await;
            }
            let begun = Instant::now();
            (contestant.run)().await;
            *took += begun.elapsed();
        }
        if round > 0 {
            for ((timed, contestant), took) in times.iter_mut().zip(&*contestants).zip(took) {
                let operations = contestant.operations * turns as u64;
                timed.per_operation.push(took.as_secs_f64() * 1e9 / operations.max(1) as f64);
            }
        }
    }
    times
}

/// Prints each contestant's speed as a ratio to the first one's, round by round: the median and the middle half; with
/// the goal where there is one for it.
pub fn report(title: &str, times: &[Timed], goal: Option<(&str, f64)>) {
    println!("\n{title}");
    let Some(base) = times.first() else { return };
    for timed in times {
        let ratio = Spread::of_ratios(&base.per_operation, &timed.per_operation);
        let goal = match goal {
            Some((name, goal)) if name == timed.name => {
                format!("   goal {goal}: {}", if ratio.median >= goal { "met" } else { "missed" })
            }
            Some(_) | None => String::new(),
        };
        let took = Duration::from_nanos(timed.median() as u64);
        println!("  {:<44} {ratio}   median {took:>8.1?}{goal}", timed.name);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn each_has_its_turns_and_none_always_follows_the_same() {
        let order = RefCell::new(Vec::new());
        let mut contestants = [0, 1, 2].map(|index| Contestant {
            name: index.to_string(),
            operations: 1,
            prepare: None,
            run: Box::new({
                let order = &order;
                move || Box::pin(async move { order.borrow_mut().push(index) })
            }),
        });
        let times = take_turns(2, 4, &mut contestants).await;
        assert!(times.iter().all(|timed| timed.per_operation.len() == 2));
        let order = order.borrow();
        assert_eq!(order.len(), 3 * 3 * 4);
        for all in order.chunks(3) {
            assert_eq!(all.iter().sum::<usize>(), 3, "{order:?}");
        }
        let mut firsts = order.chunks(3).map(|all| all[0]).collect::<Vec<_>>();
        firsts.sort_unstable();
        assert_eq!(firsts, [[0; 4], [1; 4], [2; 4]].concat());
    }

    #[test]
    fn the_machine_s_slow_rounds_are_in_no_ratio_of_pairs() {
        let (theirs, ours) = ([10.0, 10.0, 20.0, 20.0, 10.0], [20.0, 20.0, 40.0, 40.0, 20.0]);
        assert_eq!(Spread::of_ratios(&theirs, &ours), Spread { low: 0.5, median: 0.5, high: 0.5 });
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0, 5.0, 4.0]), Spread { low: 2.0, median: 3.0, high: 4.0 });
        assert!(Spread::of(Vec::new()).median.is_nan());
    }
}
