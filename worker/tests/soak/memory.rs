//! Whether memory grows: judged by medians, because allocators breathe.

use std::fmt;

/// What memory may grow by from the first quarter of the time to the last, in MiB.
const GROWTH: f64 = 16.0;

/// How memory went, in MiB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Verdict {
    first: f64,
    last: f64,
}

impl Verdict {
    /// Judges readings that were taken at equal distances; `None` where they are too few, or where there was nothing to read.
    pub(crate) fn of(memory: &[f64]) -> Option<Self> {
        let quarter = memory.len() / 4;
        let measured = quarter > 0 && memory.iter().all(|mib| *mib > 0.0);
        measured.then(|| Self { first: median(&memory[..quarter]), last: median(&memory[memory.len() - quarter..]) })
    }

    /// Whether it grows by more than what comes and goes.
    pub(crate) fn grows(self) -> bool {
        self.last >= self.first + GROWTH
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        write!(
            f,
            "memory: {first:.1} MiB in the first quarter, {last:.1} MiB in the last; {GROWTH} MiB of growth are allowed"
        )
    }
}

fn median(of: &[f64]) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many readings as a run takes, each by its number.
    fn series(mib: impl FnMut(u32) -> f64) -> Vec<f64> {
        (0..40).map(mib).collect()
    }

    fn grows(memory: &[f64]) -> bool {
        Verdict::of(memory).unwrap().grows()
    }

    #[test]
    fn a_leak_is_convicted_under_noise_and_in_steps() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut noise = || 8.0 * random.f64() - 4.0;
            let slow = series(|n| 60.0 + 0.9 * f64::from(n) + noise());
            assert!(grows(&slow), "seed {seed}: {slow:?}");
        }
        let steps = series(|n| 60.0 + 10.0 * f64::from(n / 10));
        assert!(grows(&steps), "a table that doubles: {steps:?}");
        let late = series(|n| if n < 30 { 60.0 } else { 60.0 + 5.0 * f64::from(n - 30) });
        assert!(grows(&late), "what begins in the last quarter: {late:?}");
    }

    #[test]
    fn what_breathes_warms_up_or_peaks_is_acquitted() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let noisy = series(|_| 60.0 + 24.0 * random.f64());
            assert!(!grows(&noisy), "seed {seed}: {noisy:?}");
        }
        assert!(!grows(&series(|n| 20.0 + 10.0 * f64::from(n.min(4)))), "what fills up in the first tenth");
        assert!(
            !grows(&series(|n| if n % 10 == 9 { 200.0 } else { 60.0 })),
            "single peaks, the last reading among them"
        );
        assert!(!grows(&series(|n| 60.0 + 3.0 * f64::from(n % 10))), "saw teeth");
        assert!(!grows(&series(|n| 90.0 - 0.5 * f64::from(n))), "what is given back");
    }

    #[test]
    fn without_readings_there_is_no_verdict() {
        assert_eq!(Verdict::of(&[]), None);
        assert_eq!(Verdict::of(&[60.0; 3]), None);
        assert_eq!(Verdict::of(&series(|n| if n == 7 { 0.0 } else { 60.0 })), None, "the worker was gone, say");
    }
}
