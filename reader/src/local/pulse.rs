//! Whether a ring shard's connections still tell of changes, and since when without a gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::kept::Moment;

/// How long copies serve after the last moment of which it is known that every change before it has been told.
const SILENCE: Duration = Duration::from_secs(1);

/// Of one ring shard.
#[derive(Default)]
pub(crate) struct Pulse {
    /// Raised whenever all copies are to be dropped.
    epoch: AtomicU64,
    /// Every change that was made before this moment has been told.
    in_step: AtomicU64,
}

/// A ring shard's pulse as a read has found it.
#[derive(Clone)]
pub(crate) struct Beat {
    pulse: Arc<Pulse>,
    epoch: u64,
}

impl Pulse {
    pub(super) fn beat(self: &Arc<Self>) -> Beat {
        Beat { pulse: self.clone(), epoch: self.epoch.load(Ordering::Acquire) }
    }

    pub(super) fn flush(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn in_step(&self, as_of: Moment) {
        self.in_step.fetch_max(as_of, Ordering::Relaxed);
    }
}

impl Beat {
    /// Whether nothing was flushed since.
    #[inline]
    pub(super) fn is_current(&self) -> bool {
        self.pulse.epoch.load(Ordering::Acquire) == self.epoch
    }

    /// Whether a copy that was read then may be served at `now`.
    #[inline]
    pub(super) fn is_good(&self, now: Moment) -> bool {
        const SILENCE_NS: u64 = SILENCE.as_nanos() as u64;
        self.is_current() && now.saturating_sub(self.pulse.in_step.load(Ordering::Relaxed)) < SILENCE_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_good_for_a_second_after_the_last_sign_of_life_and_never_after_a_flush() {
        let pulse = Arc::new(Pulse::default());
        let second = 1_000_000_000;
        pulse.in_step(5 * second);
        let beat = pulse.beat();
        assert!(beat.is_good(5 * second) && beat.is_good(6 * second - 1));
        assert!(!beat.is_good(6 * second));
        pulse.in_step(4 * second);
        assert!(beat.is_good(6 * second - 1), "an answer that comes late takes nothing back");
        pulse.flush();
        assert!(!beat.is_good(5 * second) && pulse.beat().is_good(5 * second));
    }
}
