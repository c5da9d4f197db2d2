//! The circuit breaker of a server: after failures in a row it is left alone, and then tried by one probe at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a row of failures lasts at least: one that is shorter tells of one moment.
const ROW_MS: u64 = 50;

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The ring shard is thought to answer.
    Pass,
    /// It is left alone.
    Refuse,
    /// It is left alone, and whoever asked is to probe it.
    Probe,
}

/// What became of the breaker by a call's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Opened,
    Closed,
}

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    failures: u64,
    pause_ms: u64,
}

/// The state, shared without a lock: closed and without failures is 0, so that a hit costs two relaxed loads.
pub(crate) struct Breaker {
    rules: Rules,
    word: AtomicU64,
}

/// Times are in ms since the ring shard was first known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Closed {
        failures: u64,
        since_ms: u64,
    },
    Open {
        until_ms: u64,
    },
    /// A probe is under way, which is given up at that time.
    Probing {
        until_ms: u64,
    },
}

const KIND_SHIFT: u32 = 62;
const FAILURES_SHIFT: u32 = 46;
const MS: u64 = (1 << FAILURES_SHIFT) - 1;
const FAILURES: u64 = (1 << (KIND_SHIFT - FAILURES_SHIFT)) - 1;

impl Rules {
    pub(crate) fn new(failures: u32, pause: Duration) -> Self {
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(MS).clamp(1, MS / 2);
        Self { failures: u64::from(failures).clamp(1, FAILURES), pause_ms }
    }
}

impl State {
    const HEALTHY: Self = State::Closed { failures: 0, since_ms: 0 };

    /// Asks for a call at `now_ms`.
    fn admit(self, rules: Rules, now_ms: u64) -> (Self, Admission) {
        match self {
            State::Closed { .. } => (self, Admission::Pass),
            State::Open { until_ms } | State::Probing { until_ms } if now_ms < until_ms => (self, Admission::Refuse),
            State::Open { .. } | State::Probing { .. } => {
                (State::Probing { until_ms: now_ms + rules.pause_ms }, Admission::Probe)
            }
        }
    }

    fn succeeded(self) -> (Self, Change) {
        match self {
            State::Closed { .. } => (Self::HEALTHY, Change::None),
            State::Open { .. } | State::Probing { .. } => (Self::HEALTHY, Change::Closed),
        }
    }

    fn failed(self, rules: Rules, calls: u64, began_ms: u64, now_ms: u64) -> (Self, Change) {
        let open = State::Open { until_ms: now_ms + rules.pause_ms };
        match self {
            State::Closed { failures, since_ms } => {
                let since_ms = if failures == 0 { began_ms } else { since_ms };
                let failures = failures.saturating_add(calls).min(FAILURES);
                if failures >= rules.failures && now_ms.saturating_sub(since_ms) >= ROW_MS {
                    (open, Change::Opened)
                } else {
                    (State::Closed { failures, since_ms }, Change::None)
                }
            }
            // A call from before it opened.
            State::Open { .. } => (self, Change::None),
            State::Probing { .. } => (open, Change::None),
        }
    }

    fn pack(self) -> u64 {
        match self {
            State::Closed { failures, since_ms } => failures << FAILURES_SHIFT | (since_ms & MS),
            State::Open { until_ms } => 1 << KIND_SHIFT | (until_ms & MS),
            State::Probing { until_ms } => 2 << KIND_SHIFT | (until_ms & MS),
        }
    }

    fn unpack(word: u64) -> Self {
        let ms = word & MS;
        match word >> KIND_SHIFT {
            0 => State::Closed { failures: word >> FAILURES_SHIFT, since_ms: ms },
            1 => State::Open { until_ms: ms },
            _ => State::Probing { until_ms: ms },
        }
    }
}

impl Breaker {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, word: AtomicU64::new(State::HEALTHY.pack()) }
    }

    /// Whether it is closed, and nothing has failed since the last answer.
    #[inline]
    pub(crate) fn is_healthy(&self) -> bool {
        self.word.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn state(&self) -> State {
        State::unpack(self.word.load(Ordering::Relaxed))
    }

    pub(crate) fn admit(&self, now_ms: u64) -> Admission {
        self.change(|state| state.admit(self.rules, now_ms))
    }

    pub(crate) fn succeeded(&self) -> Change {
        self.change(State::succeeded)
    }

    /// Notes that `calls` calls failed, the first of which was made at `began_ms`.
    pub(crate) fn failed(&self, calls: u64, began_ms: u64, now_ms: u64) -> Change {
        self.change(|state| state.failed(self.rules, calls, began_ms, now_ms))
    }

    fn change<T>(&self, step: impl Fn(State) -> (State, T)) -> T {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let (next, told) = step(State::unpack(word));
            match self.word.compare_exchange_weak(word, next.pack(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return told,
                Err(now) => word = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(Rules::new(3, Duration::from_secs(1)))
    }

    fn failed(breaker: &Breaker, now_ms: u64) -> Change {
        breaker.failed(1, now_ms, now_ms)
    }

    /// Opens it at 200 ms.
    fn open(breaker: &Breaker) {
        assert_eq!([0, 100, 200].map(|at| failed(breaker, at)), [Change::None, Change::None, Change::Opened]);
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_answer_between_them_does_not() {
        let breaker = breaker();
        assert!(breaker.is_healthy());
        assert_eq!([failed(&breaker, 0), failed(&breaker, 100)], [Change::None; 2]);
        assert_eq!((breaker.succeeded(), breaker.is_healthy()), (Change::None, true));
        assert_eq!([failed(&breaker, 200), failed(&breaker, 300)], [Change::None; 2]);
        assert_eq!(breaker.admit(300), Admission::Pass);
        assert_eq!(failed(&breaker, 400), Change::Opened);
        assert_eq!(failed(&breaker, 500), Change::None, "a call from before");
        assert_eq!([breaker.admit(400), breaker.admit(1399)], [Admission::Refuse; 2]);
    }

    #[test]
    fn a_moments_failures_do_not_open_it() {
        let breaker = breaker();
        assert!((0..1000).all(|_| failed(&breaker, 10) == Change::None));
        assert_eq!(failed(&breaker, 10 + ROW_MS), Change::Opened);
    }

    #[test]
    fn calls_that_were_left_count_from_when_they_began() {
        let breaker = breaker();
        assert_eq!(breaker.failed(2, 0, 500), Change::None);
        assert_eq!(breaker.failed(1, 400, 500), Change::Opened);
    }

    #[test]
    fn one_probe_at_a_time_decides() {
        let breaker = breaker();
        open(&breaker);
        assert_eq!(breaker.admit(1200), Admission::Probe);
        assert_eq!([breaker.admit(1200), breaker.admit(2199)], [Admission::Refuse; 2]);
        assert_eq!(failed(&breaker, 1700), Change::None);
        assert_eq!(breaker.admit(2699), Admission::Refuse, "the pause begins anew");
        assert_eq!(breaker.admit(2700), Admission::Probe);
        assert_eq!(breaker.succeeded(), Change::Closed);
        assert_eq!((breaker.admit(2701), breaker.is_healthy()), (Admission::Pass, true));
    }

    #[test]
    fn a_probe_that_never_ends_is_followed_by_another() {
        let breaker = breaker();
        open(&breaker);
        assert_eq!([breaker.admit(1200), breaker.admit(2200)], [Admission::Probe; 2]);
    }

    proptest! {
        #[test]
        fn states_are_what_was_packed(kind in 0..3, failures in 0..=FAILURES, ms in 0..=MS) {
            let state = match kind {
                0 => State::Closed { failures, since_ms: ms },
                1 => State::Open { until_ms: ms },
                _ => State::Probing { until_ms: ms },
            };
            prop_assert_eq!(State::unpack(state.pack()), state);
        }

        /// Whatever comes, it is never left alone for longer than the pause after the last failure or probe.
        #[test]
        fn it_always_comes_back(steps in proptest::collection::vec((0_u8..3, 0_u64..500), 0..200)) {
            let (breaker, mut now) = (breaker(), 0);
            for (step, ms) in steps {
                now += ms;
                match step {
                    0 => _ = breaker.admit(now),
                    1 => _ = failed(&breaker, now),
                    _ => _ = breaker.succeeded(),
                }
            }
            prop_assert_ne!(breaker.admit(now + 1000), Admission::Refuse);
        }
    }
}
