//! Percentiles of times.

use std::time::Duration;

/// How times are spread; all zero where there are none.
#[derive(Clone, Copy, Default)]
pub struct Spread {
    /// How many there are.
    pub count: usize,
    /// The median.
    pub p50: Duration,
    /// 99 of a hundred are not longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Spread {
    /// Sorts times, and tells how they are spread.
    #[must_use]
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
        Self { count: times.len(), p50: at(50), p99: at(99), max: times.last().copied().unwrap_or_default() }
    }
}
