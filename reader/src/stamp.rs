//! Version stamps: numbers that only rise, for the version attribute of items.

#[cfg(feature = "dynamodb")]
mod dynamodb;
mod field;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ringtide_core::clock::unix_ms;
use ringtide_core::valkey::Token;

#[cfg(feature = "dynamodb")]
pub use dynamodb::{NewerOnly, NotAStamp};
pub use field::Stamp;

/// Bits of the part that tells clocks apart.
const NODE_BITS: u32 = 56;

/// Bits of the counter that tells stamps of one millisecond apart.
const COUNTER_BITS: u32 = 16;

/// The latest time that is taken for one, in unix ms: in the year 6429. What lies above leaves the counter room for ever.
const LATEST_MS: u64 = (1 << 47) - 1;

/// Makes version numbers that only rise: a hybrid logical clock (Kulkarni, Demirbas, Madappa, Avva and Leone, 2014);
/// cheap to clone, and its clones are one clock.
///
/// A stamp is `unix ms (47 bits) · counter (16 bits) · clock (56 random bits)` as one whole number of at most 36
/// digits, so that DynamoDB's numbers, of 38 digits, hold it, and it fits the version attribute of a key space in versioned
/// mode. Stamps of one clock rise strictly, also where the system's clock stands still or goes back; no two clocks ever
/// give the same one. A stamp is higher than every one that was [observed](VersionClock::observe) before it, whoever
/// made it.
///
/// # Writing an item
/// Read it, observe its version, stamp the new item, and write it on the condition that the table holds nothing as new
/// (feature `dynamodb`: `VersionClock::stamp_item`). Where the condition fails, another writer was faster, or its system's
/// clock is ahead: observe what the table holds, decide again on what it holds, and stamp again. Without the condition a
/// slower writer puts a lower version over a higher one, and caches keep the higher, rightly.
///
/// A deletion needs no stamp: it counts as just above the version that it deleted. An item that is created again takes a
/// new stamp; observe the deleted version where it is known, since the system's clocks of two writers differ.
///
/// ```
/// use ringtide::VersionClock;
///
/// let clock = VersionClock::new();
/// let first = clock.now();
/// clock.observe(first + 1_000_000);
/// assert!(clock.now() > first + 1_000_000);
/// ```
#[derive(Clone, Debug)]
pub struct VersionClock {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// Time and counter of the highest number that was given out or observed.
    last: AtomicU64,
    node: u64,
}

impl VersionClock {
    /// Starts a clock; one a process is enough.
    #[must_use]
    pub fn new() -> Self {
        Self::with_node(u128::from_be_bytes(*Token::random().as_bytes()))
    }

    fn with_node(random: u128) -> Self {
        // Both halves of the token count: one tells processes apart, the other clocks of one process.
        let mixed = (random >> 64) as u64 ^ (random as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { state: Arc::new(State { last: AtomicU64::new(0), node: mixed >> (u64::BITS - NODE_BITS) }) }
    }

    /// Gives the next stamp, higher than every one before it.
    #[must_use]
    pub fn now(&self) -> u128 {
        self.at(unix_ms())
    }

    /// Takes a number into account that was read from an item: the next stamp is higher.
    ///
    /// Any number below 2¹¹⁹ is, a counter's as well as a stamp's. A higher one tells a time after the year 6429, is
    /// no stamp, and cannot be risen above: it counts as the highest that can.
    pub fn observe(&self, number: u128) {
        let seen = u64::try_from(number >> NODE_BITS).unwrap_or(u64::MAX);
        self.state.last.fetch_max(seen.min(latest()), Ordering::AcqRel);
    }

    fn at(&self, now_ms: u64) -> u128 {
        let wall = now_ms.min(LATEST_MS) << COUNTER_BITS;
        // A counter that is full moves the time forward.
        let next = |last: u64| wall.max(last.saturating_add(1));
        let mut last = self.state.last.load(Ordering::Acquire);
        loop {
            match self.state.last.compare_exchange_weak(last, next(last), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return u128::from(next(last)) << NODE_BITS | u128::from(self.state.node),
                Err(found) => last = found,
            }
        }
    }
}

impl Default for VersionClock {
    fn default() -> Self {
        Self::new()
    }
}

/// Time and counter of the highest number that is taken for one.
const fn latest() -> u64 {
    LATEST_MS << COUNTER_BITS | ((1 << COUNTER_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ringtide_core::version::Version;

    use super::*;

    const DYNAMODB_MAX: u128 = 10_u128.pow(38) - 1;

    #[derive(Clone, Debug)]
    enum Step {
        Stamp(u64),
        Observe(u128),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let time = prop_oneof![any::<u64>(), 0..5_u64, 1_700_000_000_000..1_700_000_000_005_u64];
        let number = prop_oneof![0..=DYNAMODB_MAX, 0..1000_u128, (0..1_u128 << 119)];
        let step = prop_oneof![4 => time.prop_map(Step::Stamp), 1 => number.prop_map(Step::Observe)];
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        #[test]
        fn stamps_rise_above_all_before_them_under_any_clock_and_fit_dynamodb(steps in steps(), node in any::<u128>()) {
            let clock = VersionClock::with_node(node);
            let mut highest = None;
            for step in steps {
                match step {
                    Step::Stamp(now_ms) => {
                        let stamp = clock.at(now_ms);
                        prop_assert!(Some(stamp) > highest, "{stamp} after {highest:?}");
                        prop_assert!(stamp <= DYNAMODB_MAX && stamp.to_string().len() <= 37);
                        highest = Some(stamp);
                    }
                    Step::Observe(number) => {
                        clock.observe(number);
                        if number < 1 << 119 {
                            highest = highest.max(Some(number));
                        }
                    }
                }
            }
        }

        #[test]
        fn two_clocks_never_give_the_same_stamp(times in prop::collection::vec(0..3_u64, 1..40)) {
            let clocks = [VersionClock::new(), VersionClock::new()];
            let mut given = std::collections::HashSet::new();
            for now_ms in times {
                for clock in &clocks {
                    prop_assert!(given.insert(clock.at(now_ms)));
                }
            }
        }

        #[test]
        fn versions_are_in_the_order_of_their_numbers(a in 0..=DYNAMODB_MAX, b in 0..=DYNAMODB_MAX) {
            prop_assert_eq!(Version::from_number(a).cmp(&Version::from_number(b)), a.cmp(&b));
            prop_assert!(a >= b || Version::from_number(a).just_above() < Version::from_number(b));
        }
    }

    #[test]
    fn a_full_counter_moves_the_time_forward() {
        let clock = VersionClock::with_node(0);
        let first = clock.at(7);
        for _ in 0..1 << COUNTER_BITS {
            let _ = clock.at(7);
        }
        assert_eq!(clock.at(0) >> (NODE_BITS + COUNTER_BITS), 8);
        assert_eq!(first >> (NODE_BITS + COUNTER_BITS), 7);
    }

    #[test]
    fn a_clock_that_was_told_of_the_last_time_still_rises() {
        let clock = VersionClock::new();
        clock.observe(u128::MAX);
        let stamp = clock.now();
        assert!(stamp > u128::from(latest()) << NODE_BITS && clock.now() > stamp);
    }

    #[test]
    fn threads_share_a_clock() {
        let clock = VersionClock::new();
        let stamps = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1000).map(|_| clock.clone().at(1)).collect::<Vec<_>>())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(stamps.iter().all(|of_one| of_one.is_sorted_by(|a, b| a < b)));
        let all: std::collections::HashSet<_> = stamps.into_iter().flatten().collect();
        assert_eq!(all.len(), 4000);
    }
}
