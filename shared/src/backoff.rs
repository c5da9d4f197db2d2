//! How long to pause after failures in a row. Pure: randomness is handed in.

use std::time::Duration;

/// Pauses that double from a first one up to a ceiling, until they begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    ceiling: Duration,
    taken: u32,
}

/// The pause after `taken` others in a row: they double from the first one up to the ceiling.
#[must_use]
pub fn pause(first: Duration, ceiling: Duration, taken: u32) -> Duration {
    1_u32.checked_shl(taken).map_or(ceiling, |times| first.saturating_mul(times).min(ceiling))
}

/// Cuts a pause to between a half and all of it. `random` is uniform in 0 to 1.
#[must_use]
pub fn from_half(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
}

impl Backoff {
    /// Begins with `first`, or with the ceiling where that is shorter.
    #[must_use]
    pub fn new(first: Duration, ceiling: Duration) -> Self {
        Self { first, ceiling, taken: 0 }
    }

    /// The pause that comes next, which stays the next one.
    #[must_use]
    pub fn upcoming(&self) -> Duration {
        pause(self.first, self.ceiling, self.taken)
    }

    /// Takes the next pause; the one after it is twice as long.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.upcoming();
        self.taken = self.taken.saturating_add(1);
        pause
    }

    /// Takes the next pause, cut to between a half and all of it. `random` is uniform in 0 to 1.
    pub fn next_from_half(&mut self, random: f64) -> Duration {
        from_half(self.next_pause(), random)
    }

    /// Takes the next pause, cut to between nothing and all of it, so that those who failed together do not come back
    /// together. `random` is uniform in 0 to 1.
    pub fn next_from_zero(&mut self, random: f64) -> Duration {
        self.next_pause().mul_f64(random.clamp(0.0, 1.0))
    }

    /// Begins anew: what failed has succeeded.
    pub const fn reset(&mut self) {
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_double_up_to_the_ceiling_and_begin_anew() {
        let mut backoff = Backoff::new(100 * MS, 500 * MS);
        assert_eq!(backoff.upcoming(), 100 * MS);
        assert_eq!([(); 5].map(|()| backoff.next_pause()), [100 * MS, 200 * MS, 400 * MS, 500 * MS, 500 * MS]);
        assert_eq!(backoff.upcoming(), 500 * MS);
        backoff.reset();
        assert_eq!(backoff, Backoff::new(100 * MS, 500 * MS));
        assert_eq!([(); 2].map(|()| backoff.next_pause()), [100 * MS, 200 * MS]);
    }

    #[test]
    fn randomness_shortens_a_pause_and_not_the_one_after_it() {
        let mut backoff = Backoff::new(100 * MS, 400 * MS);
        assert_eq!(backoff.next_from_half(0.0), 50 * MS);
        assert_eq!(backoff.next_from_zero(0.0), Duration::ZERO);
        assert_eq!(backoff.next_from_half(0.5), 300 * MS);
        assert_eq!(backoff.next_from_zero(0.25), 100 * MS);
        for above in [1.0, 7.0] {
            assert_eq!((backoff.next_from_half(above), backoff.next_from_zero(above)), (400 * MS, 400 * MS));
        }
        assert_eq!((backoff.next_from_half(-1.0), backoff.next_from_zero(-1.0)), (200 * MS, Duration::ZERO));
    }

    #[test]
    fn a_ceiling_below_the_first_pause_is_kept_and_none_overflows() {
        let mut short = Backoff::new(50 * MS, 20 * MS);
        assert_eq!([(); 2].map(|()| short.next_pause()), [20 * MS; 2]);
        short.reset();
        assert_eq!(short.upcoming(), 20 * MS);
        let mut long = Backoff::new(Duration::MAX / 3, Duration::MAX);
        assert_eq!([(); 4].map(|()| long.next_pause())[2..], [Duration::MAX; 2]);
        assert_eq!(
            [31, 32, u32::MAX].map(|taken| pause(MS, Duration::MAX, taken)),
            [MS * (1 << 31), Duration::MAX, Duration::MAX]
        );
    }
}
