//! When a stream shard is read next. Pure: time and randomness are handed in.

use std::time::Duration;

use ringtide_core::backoff;
use tokio::time::Instant;

use crate::stream::{Page, StreamError};

/// The first pause after a page without records.
const FIRST_IDLE_PAUSE: Duration = Duration::from_millis(50);
/// The first pause after a failure.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(5);

/// What the last read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    /// Records.
    Records,
    /// None, as is usual.
    Empty,
    /// The service refused it: too many calls.
    Throttled,
    /// The call failed and is made again.
    Failed,
}

impl ReadOutcome {
    /// Tells what a read came to.
    pub(crate) const fn of(read: &Result<Page, StreamError>) -> Self {
        match read {
            Ok(page) if page.records.is_empty() => Self::Empty,
            Ok(_) => Self::Records,
            Err(StreamError::Throttled(_)) => Self::Throttled,
            Err(_) => Self::Failed,
        }
    }

    /// The name in labels.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Empty => "empty",
            Self::Throttled => "throttled",
            Self::Failed => "failed",
        }
    }
}

/// The fewest reads of a stream shard in a second, however much is throttled.
const FEWEST_READS: f64 = 0.2;
/// So many calls that succeed bring a rate from nothing to its ceiling.
const STEPS: f64 = 20.0;

/// How many calls a second a service bears: halved when it throttles, and raised step by step while it does not.
#[derive(Clone, Debug)]
pub(crate) struct AdaptingRate {
    per_second: f64,
    floor: f64,
    ceiling: f64,
}

impl AdaptingRate {
    /// Begins at the ceiling. Both are in calls a second.
    #[must_use]
    pub(crate) const fn new(floor: f64, ceiling: f64) -> Self {
        Self { per_second: ceiling, floor, ceiling }
    }

    /// A call was taken.
    pub(crate) const fn succeeded(&mut self) {
        self.per_second = (self.per_second + self.ceiling / STEPS).min(self.ceiling);
    }

    /// A call was refused for being one too many.
    pub(crate) const fn throttled(&mut self) {
        self.per_second = (self.per_second / 2.0).max(self.floor);
    }

    /// How far two calls have to be apart.
    #[must_use]
    pub(crate) fn apart(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.per_second)
    }
}

/// The pace of one stream shard.
///
/// No pause after a page with records; after empty pages pauses that double up to the idle pace; after failures pauses
/// that double up to 5 s, with jitter. Whatever the page was, two reads begin at least `1 / max_reads_per_second` apart:
/// the ceiling is for the bill as much as for the service's limit, and a burst is smoothed to it. Where the service
/// throttles, the rate falls below the ceiling and rises again read by read.
///
/// It is small: of thousands of stream shards each touches its own with every read.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    rate: AdaptingRate,
    idle_poll: Duration,
    due: Instant,
    /// Reads in a row without records, and failures in a row.
    empty: u8,
    failed: u8,
}

impl Pace {
    /// Starts without any pause at `now`. A ceiling of 0 counts as 1.
    #[must_use]
    pub(crate) fn new(idle_poll: Duration, max_reads_per_second: u32, now: Instant) -> Self {
        let rate = AdaptingRate::new(FEWEST_READS, f64::from(max_reads_per_second.max(1)));
        Self { rate, idle_poll, due: now, empty: 0, failed: 0 }
    }

    /// The earliest time of the next read.
    pub(crate) const fn due(&self) -> Instant {
        self.due
    }

    /// Takes in a read from `began` to `ended`; `jitter` is from 0 to 1.
    pub(crate) fn after(&mut self, began: Instant, ended: Instant, outcome: ReadOutcome, jitter: f64) {
        let pause = match outcome {
            ReadOutcome::Records => {
                self.rate.succeeded();
                (self.empty, self.failed) = (0, 0);
                Duration::ZERO
            }
            ReadOutcome::Empty => {
                self.rate.succeeded();
                let pause = backoff::pause(FIRST_IDLE_PAUSE, self.idle_poll, self.empty.into());
                (self.empty, self.failed) = (self.empty.saturating_add(1), 0);
                pause
            }
            ReadOutcome::Throttled => {
                self.rate.throttled();
                self.rate.apart().mul_f64(1.0 + 0.5 * jitter.clamp(0.0, 1.0))
            }
            ReadOutcome::Failed => {
                let pause = backoff::pause(FIRST_RETRY_PAUSE, LONGEST_RETRY_PAUSE, self.failed.into());
                self.failed = self.failed.saturating_add(1);
                backoff::from_half(pause, jitter)
            }
        };
        self.due = (ended + pause).max(began + self.rate.apart());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The pauses in ms after reads that took 10 ms each.
    fn pauses(max_reads: u32, outcomes: &[ReadOutcome]) -> Vec<u128> {
        let began = Instant::now();
        let mut pace = Pace::new(500 * MS, max_reads, began);
        let ended = began + 10 * MS;
        let mut pause = |outcome| {
            pace.after(began, ended, outcome, 1.0);
            pace.due().duration_since(ended).as_millis()
        };
        outcomes.iter().map(|outcome| pause(*outcome)).collect()
    }

    #[test]
    fn records_are_followed_at_once_and_silence_by_growing_pauses() {
        use ReadOutcome::{Empty, Records};
        assert_eq!(pauses(1000, &[Records, Records]), [0, 0]);
        assert_eq!(pauses(1000, &[Empty; 6]), [50, 100, 200, 400, 500, 500]);
        assert_eq!(pauses(1000, &[Empty, Empty, Records, Empty]), [50, 100, 0, 50]);
    }

    #[test]
    fn the_ceiling_holds_for_full_pages_too() {
        assert_eq!(pauses(10, &[ReadOutcome::Records, ReadOutcome::Empty]), [90, 90]);
    }

    #[test]
    fn failures_are_retried_ever_more_slowly() {
        use ReadOutcome::{Empty, Failed};
        assert_eq!(pauses(1000, &[Failed; 8]), [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pauses(1000, &[Failed, Failed, Empty, Failed]), [100, 200, 50, 100]);
    }

    #[test]
    fn throttling_halves_the_rate_and_success_raises_it_step_by_step() {
        use ReadOutcome::{Records, Throttled};
        assert_eq!(pauses(10, &[Records, Throttled, Throttled, Throttled]), [90, 300, 600, 1200]);
        assert_eq!(pauses(10, &[Throttled, Throttled, Records, Records]), [300, 600, 323, 275]);
        let slowest = *pauses(10, &[Throttled; 20]).last().unwrap();
        assert_eq!(slowest, 7500, "a fifth of a read a second, and half of that again for jitter");
        let mut back = vec![Throttled; 20];
        back.extend([Records; 20]);
        assert_eq!(*pauses(10, &back).last().unwrap(), 90);
    }

    #[test]
    fn an_idle_pace_below_the_first_pause_is_kept() {
        let now = Instant::now();
        let mut pace = Pace::new(20 * MS, 1000, now);
        assert_eq!(pace.due(), now);
        for _ in 0..2 {
            pace.after(now, now, ReadOutcome::Empty, 0.0);
            assert_eq!(pace.due(), now + 20 * MS);
        }
    }
}
