//! The budget of repeated loads: so many as a part of first loads, so that failures never become a storm of retries.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Repeated loads a second that are always allowed, so that a quiet cache may try again too.
const RESERVE_PER_SECOND: u64 = 10;

/// The most repeated loads that can be saved up.
const MOST: u64 = 100;

/// One repeated load, in the bucket's unit.
const WHOLE: u64 = 1000;

/// A token bucket: each first load puts a part of one in, each repeated load takes one out.
///
/// Without any part nothing is ever repeated, not even from the reserve.
pub(crate) struct Budget {
    bucket: Option<Mutex<Bucket>>,
}

struct Bucket {
    /// What a first load puts in, in thousandths of a repeated load.
    part: u64,
    /// In thousandths.
    saved: u64,
    last: Instant,
}

impl Budget {
    /// Begins with a full bucket; `part` is from 0 to 1.
    pub(crate) fn new(part: f64, now: Instant) -> Self {
        let part = (part.clamp(0.0, 1.0) * WHOLE as f64).round() as u64;
        Self { bucket: (part > 0).then(|| Mutex::new(Bucket { part, saved: MOST * WHOLE, last: now })) }
    }

    /// Notes a first load.
    pub(crate) fn deposit(&self) {
        self.with(Bucket::deposit);
    }

    /// Asks for a repeated load.
    #[must_use]
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        self.with(|bucket| bucket.withdraw(now)).unwrap_or(false)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Bucket) -> T) -> Option<T> {
        let bucket = self.bucket.as_ref()?;
        Some(act(&mut bucket.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Bucket {
    fn deposit(&mut self) {
        self.saved = (self.saved + self.part).min(MOST * WHOLE);
    }

    fn withdraw(&mut self, now: Instant) -> bool {
        let reserve = now.saturating_duration_since(self.last).min(Duration::from_secs(MOST));
        let gained = u64::try_from(reserve.as_millis()).unwrap_or(u64::MAX) * RESERVE_PER_SECOND * WHOLE / 1000;
        if gained > 0 {
            self.saved = (self.saved + gained).min(MOST * WHOLE);
            self.last = now;
        }
        let allowed = self.saved >= WHOLE;
        if allowed {
            self.saved -= WHOLE;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allowed(budget: &Budget, asked: usize, now: Instant) -> usize {
        (0..asked).filter(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn repeated_loads_are_a_part_of_first_loads() {
        let now = Instant::now();
        let budget = Budget::new(0.2, now);
        assert_eq!(allowed(&budget, 1000, now), 100, "what was saved up");
        (0..50).for_each(|_| budget.deposit());
        assert_eq!(allowed(&budget, 1000, now), 10);
        (0..10_000).for_each(|_| budget.deposit());
        assert_eq!(allowed(&budget, 1000, now), 100, "no more is saved than that");
    }

    #[test]
    fn a_few_a_second_are_always_allowed_but_not_without_any_budget() {
        let now = Instant::now();
        let budget = Budget::new(0.01, now);
        assert_eq!(allowed(&budget, 200, now), 100);
        assert_eq!(allowed(&budget, 200, now + Duration::from_secs(1)), 10);
        assert_eq!(allowed(&budget, 200, now + Duration::from_secs(3600)), 100);
        assert_eq!(allowed(&Budget::new(0.0, now), 200, now + Duration::from_secs(3600)), 0);
    }

    proptest! {
        #[test]
        fn never_more_than_was_saved_put_in_and_reserved(
            steps in proptest::collection::vec((any::<bool>(), 0_u64..200), 1..500),
        ) {
            let start = Instant::now();
            let (budget, mut now) = (Budget::new(0.2, start), start);
            let (mut first, mut repeated) = (0.0, 0.0);
            for (load, ms) in steps {
                now += Duration::from_millis(ms);
                if load {
                    budget.deposit();
                    first += 1.0;
                } else if budget.withdraw(now) {
                    repeated += 1.0;
                }
                let bound = 100.0 + 0.2 * first + 10.0 * (now - start).as_secs_f64();
                prop_assert!(repeated <= bound + 1e-6);
            }
        }
    }
}
