//! Whether an entry may be served, and whether it is to be loaded again. Pure.

use ringtide_core::entry::{Header, State};

use crate::options::Tolerance;

/// What an entry is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// To be served.
    Fresh,
    /// To be served, and loaded again in the background before its time is over.
    Early,
    /// Past its time: to be served, and loaded again in the background.
    Revalidate,
    /// To be served only where its load fails.
    OnError,
    /// Not to be served.
    Gone,
}

impl Tolerance {
    /// Judges an entry at `now_ms`, unix ms by this process's clock; `random` is uniform in 0 to 1.
    ///
    /// Early refreshes follow XFetch: a value is loaded again when its time left is not more than `-β · load cost ·
    /// ln(random)`, so that of many readers a few are early, and those sooner whose loads take long.
    pub(crate) fn judge(&self, header: &Header, now_ms: u64, random: f64) -> Freshness {
        match header.state {
            State::Tombstone => return Freshness::Gone,
            // How long ago it was marked is not noted: the server forgets it when its time is over.
            State::Stale if self.error_ms > 0 => return Freshness::OnError,
            State::Stale => return Freshness::Gone,
            State::Value | State::Negative => {}
        }
        if header.soft_expiry_ms == 0 || !self.by_clock {
            return Freshness::Fresh;
        }
        let Some(left_ms) = header.soft_expiry_ms.checked_sub(now_ms).filter(|left| *left > 0) else {
            let over_ms = now_ms - header.soft_expiry_ms;
            return if header.state == State::Negative {
                Freshness::Gone
            } else if over_ms < self.revalidate_ms {
                Freshness::Revalidate
            } else if over_ms < self.error_ms {
                Freshness::OnError
            } else {
                Freshness::Gone
            };
        };
        let cost_ms = f64::from(header.load_cost_us) / 1000.0;
        let reach_ms = -self.early_refresh * cost_ms * random.max(f64::MIN_POSITIVE).ln();
        if self.early_refresh > 0.0 && reach_ms >= left_ms as f64 { Freshness::Early } else { Freshness::Fresh }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ringtide_core::entry::Codec;

    use super::*;

    const NONE: Tolerance = Tolerance { revalidate_ms: 0, error_ms: 0, early_refresh: 0.0, by_clock: false };
    const BOTH: Tolerance = Tolerance { revalidate_ms: 10, error_ms: 100, early_refresh: 0.0, by_clock: true };

    fn value(soft_expiry_ms: u64) -> Header {
        Header { soft_expiry_ms, load_cost_us: 1_000_000, ..Header::value(Codec::Json) }
    }

    #[test]
    fn a_value_passes_through_every_stage() {
        let at = |now| BOTH.judge(&value(1000), now, 0.5);
        assert_eq!([at(0), at(999)], [Freshness::Fresh; 2]);
        assert_eq!([at(1000), at(1009)], [Freshness::Revalidate; 2]);
        assert_eq!([at(1010), at(1099)], [Freshness::OnError; 2]);
        assert_eq!(at(1100), Freshness::Gone);
    }

    #[test]
    fn without_windows_the_servers_clock_alone_counts() {
        assert_eq!(NONE.judge(&value(1000), 5000, 0.5), Freshness::Fresh);
        assert_eq!(BOTH.judge(&value(0), 5000, 0.5), Freshness::Fresh);
    }

    #[test]
    fn what_was_invalidated_or_does_not_exist_is_never_revalidated_behind_its_reader() {
        let stale = Header { state: State::Stale, ..value(1000) };
        assert_eq!(BOTH.judge(&stale, 0, 0.5), Freshness::OnError);
        assert_eq!(Tolerance { error_ms: 0, ..BOTH }.judge(&stale, 0, 0.5), Freshness::Gone);
        let negative = Header { state: State::Negative, ..value(1000) };
        assert_eq!(BOTH.judge(&negative, 999, 0.5), Freshness::Fresh);
        assert_eq!(BOTH.judge(&negative, 1000, 0.5), Freshness::Gone);
        assert_eq!(BOTH.judge(&Header { state: State::Tombstone, ..value(0) }, 0, 0.5), Freshness::Gone);
    }

    #[test]
    fn of_many_readers_a_share_of_one_in_e_is_early_by_the_time_of_a_load() {
        let eager = Tolerance { early_refresh: 1.0, by_clock: true, ..NONE };
        let early = (0..1000).filter(|n| eager.judge(&value(1000), 0, f64::from(*n) / 1000.0) == Freshness::Early);
        // P(-ln(u) >= 1) = 1/e.
        assert_eq!(early.count(), 368);
        assert_eq!(eager.judge(&value(1000), 0, 0.0), Freshness::Early);
        let cheap = Header { load_cost_us: 0, ..value(1000) };
        assert_eq!(eager.judge(&cheap, 999, 0.000_001), Freshness::Fresh);
    }

    proptest! {
        #[test]
        fn no_time_brings_a_value_back(soft in 1_u64..10_000, now in 0_u64..20_000, later in 0_u64..20_000, r in 0.0..1.0) {
            let rank = |f| match f { Freshness::Fresh | Freshness::Early => 0, Freshness::Revalidate => 1, Freshness::OnError => 2, Freshness::Gone => 3 };
            let (first, second) = (BOTH.judge(&value(soft), now, r), BOTH.judge(&value(soft), now + later, r));
            prop_assert!(rank(first) <= rank(second));
        }
    }
}
